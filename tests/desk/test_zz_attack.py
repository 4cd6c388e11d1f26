"""Scratch."""
import json, re, time, os
import pytest
from test_browser import *  # noqa
from test_browser import lab, browser, page, screenshots  # noqa
import rlhf_helpers.lesson.feedback as fb

OUT = Path(os.environ["WORKBOOK_SCREENSHOTS"])
ACTIVE = "() => { const e = document.activeElement; return [e.tagName, e.className.slice(0,80), (e.innerText||'').slice(0,30), !!e.closest('.rlhf-labeller')]; }"

def test_a2_focus_at_the_end(lab, page):
    small_notebook(lab[2], "aend", "aend.jsonl", ", repeat_share=0.0")
    box = run_all(page, "aend.ipynb")
    for n in range(14):
        wait_shown(box, n)
        button(box, "Tie").click()
    wait_shown(box, 14)
    page.wait_for_timeout(500)
    print("END", page.evaluate(ACTIVE))
    page.keyboard.press("u")
    wait_shown(box, 13)
    print("AFTER UNDO", page.evaluate(ACTIVE))
    assert page.evaluate(ACTIVE)[3]

def test_a1_keyboard_only(lab, page):
    small_notebook(lab[2], "akey", "akey.jsonl", ", ask_strength=True, ask_note=True, ask_edit=True")
    box = run_all(page, "akey.ipynb")
    page.evaluate("() => { const c = window.jupyterapp.shell.currentWidget.content; c.activeCellIndex = 0; c.mode='command'; c.activate(); c.activeCell.node.focus(); }")
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(ACTIVE))
        if seen[-1][3]:
            break
    print("TABS", len(seen), seen[-1], seen[:6])
    order = []
    for _ in range(30):
        order.append(page.evaluate("() => document.activeElement.innerText.slice(0,20) || document.activeElement.tagName + (document.activeElement.getAttribute('aria-label')||'')"))
        page.keyboard.press("Tab")
        if not page.evaluate(ACTIVE)[3]:
            break
    print("ORDER", order)
    assert seen[-1][3]

def test_a4_busy_undo_and_two_tabs(lab, page, browser):
    log = lab[2] / "atwo.jsonl"
    small_notebook(lab[2], "atwo", "atwo.jsonl", ", repeat_share=0.0", more=BUSY)
    box = run_all(page, "atwo.ipynb")
    for n in range(3):
        wait_shown(box, n)
        button(box, "Tie").click()
    wait_shown(box, 3)
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_timeout(1000)
    other = page.context.new_page()
    other.goto(f"{lab[0]}/lab/workspaces/two/tree/atwo.ipynb?token={lab[1]}", wait_until="domcontentloaded")
    other.wait_for_function("() => window.jupyterapp !== undefined")
    other.wait_for_selector("#jupyterlab-splash", state="detached")
    box2 = panel(other).locator(".rlhf-labeller").last
    wait_shown(box2, 3)
    button(box2, "A is better").click()
    wait_labels(log, 4)
    wait_shown(box, 4); wait_shown(box2, 4)
    print("SAME", on_screen(box) == on_screen(box2))
    be_busy(page)
    page.keyboard.press("u") if False else button(box, "Undo").click()
    page.wait_for_timeout(1200)
    print("BUSY UNDO says:", box.get_by_role("status").inner_text())
    button(box, "B is better").click()
    page.wait_for_timeout(1200)
    print("then:", box.get_by_role("status").inner_text())
    button(box2, "Skip").click()
    other.wait_for_timeout(1200)
    print("tab 2:", box2.get_by_role("status").inner_text())
    time.sleep(8)
    labels = fb.replay(fb.read_events(log)[0])
    print("LABELS", [(x["pair_id"], x["choice"]) for x in labels])
    page.wait_for_timeout(2000)
    print("1:", box.get_by_role("status").inner_text(), on_screen(box)[0][:30], "2:", box2.get_by_role("status").inner_text(), on_screen(box2)[0][:30])
    ids = [x["event_id"] for x in labels]
    assert len(ids) == len(set(ids))

def test_a7_hostile(lab, page):
    zalgo = "Z" + "".join(chr(0x300 + i % 80) for i in range(200)) + "algo"
    texts = [
        ("\u202eesrever\u202c <b>x</b>", "</template></style><script>window.hacked=1</script>", zalgo * 3),
        ("Long prompt line.\n" * 300, "", "   \n  "),
        ("W" * 4000, "word " * 3000, "x" * 20000),
        ("<!-- ", "--> ]]> &lt;b&gt; \\x00 \x00\x1b", "$$\\frac{a}{b}$$ \\(x\\) `code` **b** [l](javascript:alert(1))"),
        ("\u0000\u200b\u2028\ufeff", "\U000e0041\U0001f468\u200d\U0001f469\u200d\U0001f467", "مرحبا hello مرحبا (1) [2]"),
    ]
    pairs = [{"pair_id": f"h{i}", "prompt": p, "response_a": a, "response_b": b} for i, (p, a, b) in enumerate(texts)]
    (lab[2] / "ahost.json").write_text(json.dumps(pairs))
    notebook(lab[2], "ahost.ipynb", 'import json\nfrom rlhf_helpers.desk.labeller import Labeller\nx = Labeller(json.load(open("ahost.json")), "ahost.jsonl", repeat_share=0.0)\nx.show()', "x.errors")
    box = run_all(page, "ahost.ipynb")
    for n in range(5):
        wait_shown(box, n)
        for width in (1366, 360):
            page.set_viewport_size({"width": width, "height": 900})
            page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
            page.wait_for_timeout(500)
            print("STICKS", n, width, box.evaluate(STICKS_OUT))
            box.screenshot(path=OUT / f"attack-hostile-{n}-{width}.png")
        button(box, "A is better").click()
    wait_shown(box, 5)
    assert page.evaluate("window.hacked") is None

def test_a10_forced_colours_and_zoom(lab, page):
    small_notebook(lab[2], "aforced", "aforced.jsonl", ", ask_strength=True, ask_note=True")
    box = run_all(page, "aforced.ipynb")
    wait_shown(box, 0)
    button(box, "clearly").click()
    page.emulate_media(forced_colors="active")
    page.wait_for_timeout(500)
    box.screenshot(path=OUT / "attack-forced.png")
    page.emulate_media(forced_colors="none")
    page.set_viewport_size({"width": 683, "height": 450})
    page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    page.wait_for_timeout(500)
    box.scroll_into_view_if_needed()
    page.screenshot(path=OUT / "attack-zoom200.png")
