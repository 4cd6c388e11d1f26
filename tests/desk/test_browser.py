"""The widgets in JupyterLab in a real browser: mouse, keys, reload, restart, resume, hostile text, looks.

Screenshots go to the folder named by WORKBOOK_SCREENSHOTS, or to pytest's temporary folder.
"""

import contextlib
import json
import os
import random
import re
import secrets
import signal
import socket
import statistics
import string
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from rlhf_helpers import world
from rlhf_helpers.engine import files
from rlhf_helpers.engine.files import ROOT
from rlhf_helpers.lesson import feedback as fb
from rlhf_helpers.lesson import loop

LAB = Path(sys.executable).parent / "jupyter-lab"
pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore:record_property is incompatible")]
playwright_api = pytest.importorskip("playwright.sync_api")
if not LAB.exists():
    pytest.skip("needs jupyterlab", allow_module_level=True)

HOSTILE = (
    '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> costs $5 and $6 \U0001f600\n'
    "שלום <b>bold?</b>"
)
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "notebook-extension/tracker": {"windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False},
}
RUN = """async ([path, above]) => {
  const app = window.jupyterapp; await app.restored;
  const panel = await app.commands.execute('docmanager:open', {path, factory: 'Notebook'});
  await panel.context.ready; await panel.sessionContext.ready; await panel.revealed;
  app.shell.activateById(panel.id);
  await panel.sessionContext.session.kernel.info;
  const cells = panel.content.widgets.filter(w => w.model.type === 'code');
  if (above) panel.content.activeCellIndex = panel.content.widgets.findIndex(w => w.model.id === above);
  await app.commands.execute(above ? 'notebook:run-all-above' : 'notebook:run-all-cells');
  return {count: panel.content.widgets.length,
          errors: cells.flatMap(c => c.model.outputs.toJSON().filter(o => o.output_type === 'error'))};
}"""
RESTART = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.sessionContext.session.kernel.restart(); await panel.sessionContext.session.kernel.info;
}"""
RUN_ONE = """async id => {
  const content = window.jupyterapp.shell.currentWidget.content;
  content.activeCellIndex = content.widgets.findIndex(cell => cell.model.id === id);
  await window.jupyterapp.commands.execute('notebook:run-cell');
}"""
NOTEBOOK = """() => {
  const content = window.jupyterapp.shell.currentWidget.content;
  return [content.mode, content.activeCellIndex, ...content.widgets.map(
    c => [c.model.id, c.model.type, c.model.executionCount, c.model.sharedModel.source])];
}"""
WATCH = """() => { window.ran = [];
  window.jupyterapp.commands.commandExecuted.connect((_, x) => window.ran.push(x.id)); }"""
STICKS_OUT = """box => [...box.querySelectorAll('*')].filter(e => e.checkVisibility() &&
  e.getBoundingClientRect().right > box.getBoundingClientRect().right + 1).map(e => e.outerHTML.slice(0, 90))"""
CONTRAST = """box => {
  const parse = c => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number)
    .map((v, i) => c.startsWith('color(srgb') && i < 3 ? v * 255 : v);
  const light = c => c.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0.99) return c; }
    return [255, 255, 255]; };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const texts = [...box.querySelectorAll('*')].filter(e => e.checkVisibility() && [...e.childNodes].some(
    n => n.nodeType === 3 && n.data.trim()) && !e.closest('style'));
  return texts.map(e => [e.innerText.slice(0, 30), ratio(light(parse(getComputedStyle(e).color)), light(behind(e)))]);
}"""
LATE = """delay => {                       // every message to the server is late, in its order, as from far away
  const send = WebSocket.prototype.send;
  WebSocket.prototype.send = function (...data) { setTimeout(() => send.apply(this, data), delay); };
}"""


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory):
    folder = os.environ.get("WORKBOOK_SCREENSHOTS")
    return Path(folder) if folder else tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="module")
def lab(tmp_path_factory, warm_folder):
    """An isolated JupyterLab on the loopback, whose kernels start at once: (url, token, root folder)."""
    state, root = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("root")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token, url = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    for name, values in SETTINGS.items():
        path = state / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    page_config = state / "config" / "labconfig" / "page_config.json"
    page_config.parent.mkdir(parents=True)
    page_config.write_text('{"buildCheck": false, "buildAvailable": false}')  # else each page starts Node to see
    env = {k: v for k, v in os.environ.items() if not k.startswith("JUPYTER")}
    folders = {f"JUPYTER_{k}_DIR": str(state / k.lower()) for k in ("CONFIG", "DATA", "RUNTIME")}
    env.update(
        folders,
        JUPYTER_PATH=str(warm_folder),
        PATH=f"{LAB.parent}:{env['PATH']}",
        PYTHONPATH=str(ROOT),
        IPYTHONDIR=str(state / "ipython"),
        PYDEVD_DISABLE_FILE_VALIDATION="1",
    )
    command = [
        str(LAB),
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        f"--LabApp.user_settings_dir={state / 'settings'}",
        f"--LabApp.workspaces_dir={state / 'workspaces'}",
    ]
    with open(state / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=root, start_new_session=True)
    try:
        for _ in range(600):
            assert server.poll() is None, (state / "lab.log").read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{url}/api/status?token={token}", timeout=2)
                break
            except OSError:
                time.sleep(0.1)
        yield url, token, root
    finally:
        stop = urllib.request.Request(f"{url}/api/shutdown", method="POST", headers={"Authorization": f"token {token}"})
        try:
            urllib.request.urlopen(stop, timeout=5)
            server.wait(20)
        except Exception:
            server.kill()
            server.wait(10)


@pytest.fixture(scope="module")
def browser(chromium):
    with playwright_api.sync_playwright() as p:
        b = p.chromium.launch(
            executable_path=chromium,
            args=[
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
            ],
        )
        yield b
        b.close()


def open_lab(lab, browser, path="lab?reset", **options):
    """A new page with JupyterLab in it."""
    url, token, _ = lab
    page = browser.new_page(**options)
    page.set_default_timeout(120_000)  # a busy machine is slow, not broken
    playwright_api.expect.set_options(timeout=60_000)
    page.on("dialog", lambda d: d.dismiss())
    page.goto(f"{url}/{path}{'&' if '?' in path else '?'}token={token}", wait_until="domcontentloaded")
    page.wait_for_function("() => window.jupyterapp !== undefined")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    return page


@pytest.fixture
def page(lab, browser):
    page = open_lab(lab, browser, viewport={"width": 1400, "height": 1000})
    yield page
    page.close()


def notebook(root, name, *cells):
    sources = [
        {"id": f"c{i}", "cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": c}
        for i, c in enumerate(cells)
    ]
    nb = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "cells": sources,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}},
    }
    (root / name).write_text(json.dumps(nb))


def small_notebook(root, name, log, options="", more=("pass",)):
    pairs = [
        {
            "pair_id": f"p{i}",
            "prompt": f"Question {i}: which one?",
            "response_a": f"First answer {i}.",
            "response_b": f"Second answer {i}. " + "It goes on for a while. " * (i % 3),
        }
        for i in range(14)
    ]
    pairs[1] |= {"prompt": HOSTILE, "response_a": HOSTILE + " 1", "response_b": HOSTILE + " 2\n" + "long " * 300}
    (root / f"{name}.json").write_text(json.dumps(pairs))
    notebook(
        root,
        f"{name}.ipynb",
        f"""\
import json
from rlhf_helpers.desk.labeller import Labeller
labeller = Labeller(json.load(open("{name}.json")), "{log}"{options})
labeller.show()""",
        *more,
    )
    return pairs


def panel(page):
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")


def run_all(page, name, above=None):
    """Run all cells of a notebook, or those above one that is named by its id; returns the last card in it."""
    result = page.evaluate(RUN, [name, above])
    assert not result["errors"], result["errors"]
    box = panel(page).locator(".rlhf-labeller").last
    playwright_api.expect(box).to_be_visible()
    return box


def button(box, name):
    return box.get_by_role("button", name=name, exact=True)


def wait_labels(path, n, timeout=60):
    end = time.time() + timeout
    while time.time() < end:
        if path.exists():
            labels = fb.replay(fb.read_events(path)[0])
            if len(labels) == n:
                return labels
        time.sleep(0.01)
    raise AssertionError(f"{path} does not hold {n} labels")


def wait_shown(box, n):
    """Wait until the browser shows that n are labelled, and then for the minimum time of the next pair."""
    playwright_api.expect(box).to_contain_text(re.compile(rf"(^|\D){n} of \d+ labelled"))
    box.page.wait_for_timeout(500)


def theme(page, name):
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name)
    page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=name)
    page.wait_for_timeout(500)


def prompt_of(box):
    return box.get_by_role("region", name="Prompt").inner_text()


def shown(box, side):
    return box.get_by_role("region", name=f"Response {side}").inner_text()


def on_screen(box):
    """What the reader sees of the current pair: (prompt, left answer, right answer)."""
    return prompt_of(box), shown(box, "A"), shown(box, "B")


def agrees(label, seen, pressed):
    """Does a label of the file say what was on the screen and which button was pressed?"""
    prompt, a, b = seen
    left, right = label["left"], "b" if label["left"] == "a" else "a"
    own = {"A is better": left, "B is better": right, "Tie": "tie", "Both bad": "both_bad", "Skip": "skip"}[pressed]
    return (label["prompt"], label["response_" + left], label["response_" + right], label["choice"]) == (
        prompt,
        a,
        b,
        own,
    )


def reload(page, lab, name):
    """Reload the page as a reader does, with the kernel running on; returns the widget."""
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.goto(f"{lab[0]}/lab/tree/{name}?token={lab[1]}", wait_until="domcontentloaded")
    page.wait_for_function("() => window.jupyterapp !== undefined")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    box = panel(page).locator(".rlhf-labeller").last
    playwright_api.expect(button(box, "Undo")).to_be_visible()
    return box


def test_mouse_keyboard_restart_and_resume(lab, page, screenshots, record_property):
    root, expect = lab[2], playwright_api.expect
    log = root / "log.jsonl"
    pairs = small_notebook(root, "small", "log.jsonl", ", ask_strength=True, ask_note=True")
    box, presses = run_all(page, "small.ipynb"), []

    def press(name, how):
        wait_shown(box, len(presses))
        presses.append((on_screen(box), name))
        how(button(box, name))
        return wait_labels(log, len(presses))

    press("A is better", lambda b: b.click())
    expect(box.get_by_role("region", name="Prompt")).to_contain_text("costs $5 and $6")
    wait_shown(box, 1)  # prompt and answers come in messages of their own

    # hostile text is on the screen as typed, and nothing of it ran
    for side in "AB":
        assert shown(box, side).startswith('<img src=x onerror="window.hacked=1"><script>')
        assert "<b>bold?</b>" in shown(box, side)
    assert page.evaluate("window.hacked") is None
    assert box.locator("img, script, mjx-container").count() == 0
    for name in ("JupyterLab Light", "JupyterLab Dark"):
        theme(page, name)
        box.screenshot(path=screenshots / f"hostile-{name.split()[1].lower()}.png")
    theme(page, "JupyterLab Light")

    press("B is better", lambda b: b.dblclick())  # a double click is one label

    # keyboard: the focus stays on the button
    for key in ("Enter", "Space"):
        press("Tie", lambda b: b.press(key))
        wait_shown(box, len(presses))
        assert button(box, "Tie").evaluate("b => b === document.activeElement")
    for name in ("JupyterLab Light", "JupyterLab Dark"):
        theme(page, name)
        box.screenshot(path=screenshots / f"labeller-{name.split()[1].lower()}.png")
    theme(page, "JupyterLab Light")

    # strength and note are stored; undo takes one back
    button(box, "clearly").click()
    button(box, "kind").click()
    expect(button(box, "kind")).to_have_attribute("aria-pressed", "true")
    box.get_by_label("Note").fill("kinder")
    label = press("A is better", lambda b: b.click())[-1]
    assert (label["strength"], label["note"], label["reasons"]) == (2, "kinder", ["kind"])
    wait_shown(box, 5)
    button(box, "Undo").click()
    wait_labels(log, 4)
    wait_shown(box, 4)
    expect(box.get_by_role("status")).to_contain_text("back")
    assert on_screen(box) == presses.pop()[0]
    expect(button(box, "clearly")).to_have_attribute("aria-pressed", "true")
    expect(box.get_by_label("Note")).to_have_value("kinder")
    label = press("B is better", lambda b: b.click())[-1]
    assert (label["strength"], label["note"], label["reasons"]) == (2, "kinder", ["kind"])

    box = reload(page, lab, "small.ipynb")  # the page is reloaded: the same kernel goes on
    press("Both bad", lambda b: b.click())
    labels = press("Skip", lambda b: b.press("Enter"))
    wait_shown(box, 7)
    before = on_screen(box)

    # the kernel is restarted and the cell run again
    page.evaluate(RESTART)
    box = run_all(page, "small.ipynb")
    wait_shown(box, 7)
    assert on_screen(box) == before
    assert wait_labels(log, 7) == labels
    assert [x["pair_id"] for x in labels] == [p["pair_id"] for p in pairs[:7]]
    assert all(agrees(x, *p) for x, p in zip(labels, presses, strict=True))

    # click to next pair on the screen
    times = []
    for i in range(7):
        wait_shown(box, 7 + i)
        old = prompt_of(box)
        times.append(
            page.evaluate(
                """([b, old]) => new Promise(done => {
            const box = b.closest('.rlhf-labeller'), start = performance.now();
            const look = () => box.querySelector('[aria-label=Prompt]')?.innerText !== old
                ? requestAnimationFrame(() => done(performance.now() - start)) : setTimeout(look, 1);
            b.click(); look(); })""",
                [button(box, "A is better").element_handle(), old],
            )
        )
    wait_labels(log, 14)
    record_property("click to next pair, median ms", round(statistics.median(times)))
    assert statistics.median(times) < 500


def test_the_answers_stack_on_a_narrow_screen(lab, page, screenshots):
    small_notebook(lab[2], "narrow", "narrow.jsonl", ", hotkeys=True, ask_strength=True, ask_note=True")
    box = run_all(page, "narrow.ipynb")
    wait_shown(box, 0)
    button(box, "Tie").click()
    wait_shown(box, 1)
    for width in (1366, 360):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
        page.wait_for_timeout(700)
        a, b = (box.get_by_role("region", name=f"Response {s}").bounding_box() for s in "AB")
        outer = box.bounding_box()
        assert (a["y"] == b["y"]) == (width == 1366)
        assert max(a["width"], b["width"]) <= outer["width"] + 1
        assert box.evaluate(STICKS_OUT) == []
        for one in box.get_by_role("button").all():
            place = one.bounding_box()
            assert place["x"] >= outer["x"] and place["x"] + place["width"] <= width
            assert place["height"] >= 44 and place["width"] >= 44  # WCAG 2.2, target size (enhanced)
            assert one.evaluate("b => b.scrollWidth <= b.clientWidth"), "a word is cut"
        box.scroll_into_view_if_needed()
        page.screenshot(path=screenshots / f"width-{width}.png")
        button(box, "Skip").scroll_into_view_if_needed()
        page.screenshot(path=screenshots / f"width-{width}-buttons.png")


def test_contrast_and_names_for_screen_readers(lab, page, screenshots):
    small_notebook(lab[2], "looks", "looks.jsonl", ", hotkeys=True, ask_strength=True, ask_note=True")
    box = run_all(page, "looks.ipynb")
    wait_shown(box, 0)
    button(box, "Tie").click()
    wait_shown(box, 1)
    for name in ("JupyterLab Light", "JupyterLab Dark"):
        theme(page, name)
        found = box.evaluate(CONTRAST)
        assert len(found) > 12 and min(ratio for _, ratio in found) >= 4.5, found
        tie = button(box, "Tie")
        tie.focus()
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "() => { const s = getComputedStyle(document.activeElement); "
            "return [document.activeElement.innerText, s.outlineStyle, s.outlineWidth]; }"
        )
        assert focused == ["Both bad", "solid", "3px"], focused
        box.screenshot(path=screenshots / f"focus-{name.split()[1].lower()}.png")
    theme(page, "JupyterLab Light")
    tree = box.aria_snapshot()
    for line in (
        'region "Prompt"',
        'region "Response A"',
        'region "Response B"',
        'button "clearly"',
        'button "kind"',
        'button "Mark what differs" [pressed]',
        'textbox "Note"',
        'button "A is better"',
        'button "B is better"',
        'button "Tie"',
        'button "Both bad"',
        'button "Skip"',
        'button "Undo"',
        'progressbar "Labelled"',
        "status",
    ):
        assert f"- {line}" in tree, f"{line} is not in\n{tree}"


def test_an_accessibility_checker_finds_no_fault_in_the_card(lab, page):
    """axe-core's rules, all of them, in both themes and at the end, too."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    small_notebook(lab[2], "axe", "axe.jsonl", ", ask_strength=True, ask_note=True, ask_edit=True, repeat_share=0.0")
    box = run_all(page, "axe.ipynb")
    for n in range(15):
        wait_shown(box, n)
        for name in ("JupyterLab Dark", "JupyterLab Light") if n in (0, 7, 14) else ():
            theme(page, name)
            result = axe.run(page, context=".jp-NotebookPanel:not(.lm-mod-hidden) .rlhf-labeller").response
            assert {"color-contrast", "button-name"} <= {rule["id"] for rule in result["passes"]}
            found = result["violations"]
            assert not found, [(x["id"], x["help"], [node["html"][:200] for node in x["nodes"]]) for x in found]
        if n < 14:
            page.keyboard.press("a") if n else button(box, "A is better").click()


OTHERS = (
    """\
from rlhf_helpers.desk import dials
from rlhf_helpers.desk.chat import Chat
from rlhf_helpers.desk.ranker import Ranker
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT
items = [{"rank_id": "r", "prompt": "Which?", "responses": ["one", "two", "three"]}]
ranker = Ranker(items, "others.jsonl")
ranker.show()""",
    """\
model, tokenizer = models.load_model(ROOT / "data" / "models" / "finetuned")
chat = Chat(model, tokenizer, "others.jsonl", every=1, max_new_tokens=12)
chat.show()""",
    """\
live = dials.controls(model, tokenizer, ["What does a cow eat?", "Where does a fox live?"])""",
)


def test_ranking_chat_and_dials_by_keys_alone_and_under_an_accessibility_checker(lab, page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    notebook(lab[2], "others.ipynb", *OTHERS)
    rank, expect = run_all(page, "others.ipynb"), playwright_api.expect
    talk, where = (
        panel(page).locator(".rlhf-chat"),
        "() => document.activeElement.closest('.rlhf-labeller, .rlhf-chat')",
    )
    held = f"() => ({where})() !== null"

    def check():
        for name in ("JupyterLab Dark", "JupyterLab Light"):
            theme(page, name)
            for part in (".rlhf-labeller", ".rlhf-chat", ".widget-vbox:has(> .widget-slider)"):
                found = axe.run(page, context=f".jp-NotebookPanel:not(.lm-mod-hidden) {part}").response["violations"]
                assert not found, [(x["id"], [node["html"][:200] for node in x["nodes"]]) for x in found]

    for n, name in enumerate(("B is the best that is left", "C is the best that is left")):
        button(rank, name).focus()
        page.wait_for_timeout(400)
        page.keyboard.press("Enter")
        expect(rank).to_contain_text("B is number 1" if n == 0 else "All is ranked")
        page.wait_for_timeout(500)
        assert page.evaluate(held), "the focus is lost"
        check()
    talk.get_by_role("textbox").first.fill("What does a cow eat?")
    page.keyboard.press("Enter")
    expect(talk.get_by_role("status")).to_have_text("Which answer is better?")
    check()
    button(talk, "B is better").focus()
    page.wait_for_timeout(400)
    page.keyboard.press("Enter")
    expect(talk.get_by_role("status")).to_contain_text("Saved")
    page.wait_for_timeout(500)
    assert page.evaluate(held), "the focus is lost"
    before = page.evaluate(NOTEBOOK)
    page.keyboard.type("ddx Who?")  # in the box for the next question, not in the notebook
    assert page.evaluate(NOTEBOOK) == before
    expect(talk.get_by_role("textbox").first).to_have_value("ddx Who?")


@pytest.mark.parametrize("hotkeys", [False, True])
def test_no_key_reaches_the_notebook(lab, page, hotkeys):
    """JupyterLab's command mode would insert, cut or run cells; it must not hear one of these keys."""
    name = f"safe{hotkeys}"
    small_notebook(lab[2], name, f"{name}.jsonl", f", hotkeys={hotkeys}, ask_note=True, min_seconds=99")
    box = run_all(page, f"{name}.ipynb")
    wait_shown(box, 0)
    places = [button(box, "Skip"), box.get_by_role("region", name="Response A"), box.get_by_label("Note")]
    for place in (*places, box.get_by_role("region", name="Prompt"), box.get_by_role("progressbar")):
        place.click()
        page.wait_for_timeout(300)
        assert page.evaluate("() => document.activeElement.closest('.rlhf-labeller') !== null")
        page.evaluate(WATCH)
        before = page.evaluate(NOTEBOOK)
        for key in [
            *string.ascii_letters,
            *string.digits,
            *"-=[]/';",
            "Escape",
            "Delete",
            "Backspace",
            "ArrowUp",
            "ArrowDown",
            "Shift+ArrowDown",
            "Shift+Enter",
            "Alt+Enter",
            "Control+Shift+Minus",
            "Shift+M",
            "Control+b",
            "Control+Shift+c",
            "d",
            "d",
            "0",
            "0",
            "i",
            "i",
        ]:
            page.keyboard.press(key)
        page.wait_for_timeout(300)
        assert page.evaluate(NOTEBOOK) == before
        assert page.evaluate("window.ran") == []
    assert not (lab[2] / f"{name}.jsonl").exists()


def test_single_keys_label(lab, page, screenshots, record_property):
    log = lab[2] / "keys.jsonl"
    small_notebook(lab[2], "keys", "keys.jsonl", ", hotkeys=True, min_seconds=0.25")
    box, presses = run_all(page, "keys.ipynb"), []
    box.get_by_role("region", name="Prompt").click()
    for n, (key, name) in enumerate(zip("abtxs", ("A is better", "B is better", "Tie", "Both bad", "Skip"))):
        wait_shown(box, n)
        presses.append((on_screen(box), name))
        page.keyboard.press(key)
        wait_labels(log, n + 1)
    assert all(agrees(x, *p) for x, p in zip(wait_labels(log, 5), presses, strict=True))
    box.screenshot(path=screenshots / "keys.png")
    wait_shown(box, 5)
    page.keyboard.press("u")
    wait_labels(log, 4)
    wait_shown(box, 4)
    button(box, "Tie").focus()
    for n, key in enumerate(("a", "Enter"), 5):  # held down: a key that repeats is one label
        wait_shown(box, n - 1)
        for _ in range(8):
            page.keyboard.down(key)
            page.wait_for_timeout(150)
        page.keyboard.up(key)
        wait_shown(box, n)
        assert len(fb.replay(fb.read_events(log)[0])) == n

    wait_shown(box, 6)
    seen = on_screen(box)  # on a keyboard with other letters the place of the key counts
    box.dispatch_event("keydown", {"key": "ф", "code": "KeyA", "bubbles": True, "cancelable": True})
    assert agrees(wait_labels(log, 7)[-1], seen, "A is better")

    start = time.time()
    for n in range(8, 15):
        playwright_api.expect(box).to_contain_text(f"{n - 1} of ")
        page.wait_for_timeout(260)
        page.keyboard.press("a")
        wait_labels(log, n)
    record_property("scripted keyboard, labels a minute", round(7 * 60 / (time.time() - start)))


def test_from_far_away_a_second_press_is_not_a_label(lab, page):
    """With 0.6 s on the way, the second press comes long after the minimum time, but on the old pair."""
    log = lab[2] / "far.jsonl"
    small_notebook(lab[2], "far", "far.jsonl")
    box = run_all(page, "far.ipynb")
    wait_shown(box, 0)
    page.evaluate(LATE, 600)
    button(box, "A is better").click()
    page.wait_for_timeout(450)
    button(box, "A is better").click()
    page.keyboard.press("b")
    wait_shown(box, 1)
    page.wait_for_timeout(1500)
    assert len(wait_labels(log, 1)) == 1
    page.keyboard.press("b")
    wait_labels(log, 2)


def test_the_answers_are_cards_to_click_and_the_keys_go_on_working(lab, page):
    log = lab[2] / "cards.jsonl"
    small_notebook(lab[2], "cards", "cards.jsonl")
    box, presses = run_all(page, "cards.ipynb"), []
    for n, (side, name) in enumerate([("A", "A is better"), ("B", "B is better"), ("a", "A is better")]):
        wait_shown(box, n)
        presses.append((on_screen(box), name))
        if side.isupper():
            box.get_by_role("region", name=f"Response {side}").click()
        else:
            page.keyboard.press(side)  # what had the focus was replaced meanwhile
        labels = wait_labels(log, n + 1)
        assert page.evaluate("() => document.activeElement.closest('.rlhf-labeller') !== null")
    assert all(agrees(x, *p) for x, p in zip(labels, presses, strict=True))
    wait_shown(box, 3)
    place = box.get_by_role("region", name="Response A").bounding_box()
    page.mouse.move(place["x"] + 3, place["y"] + 12)
    page.mouse.down()
    page.mouse.move(place["x"] + 80, place["y"] + 12, steps=4)
    page.mouse.up()  # whoever marks a word to copy it has not chosen
    page.wait_for_timeout(600)
    assert page.evaluate("String(getSelection())").strip() and len(wait_labels(log, 3)) == 3


def test_it_is_labelled_by_touch(lab, browser, screenshots):
    page = open_lab(lab, browser, viewport={"width": 360, "height": 740}, has_touch=True)
    log = lab[2] / "touch.jsonl"
    small_notebook(lab[2], "touch", "touch.jsonl", ", ask_note=True")
    box = run_all(page, "touch.ipynb")
    page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    wait_shown(box, 0)
    box.get_by_role("region", name="Response B").tap()
    wait_labels(log, 1)
    for n, name in enumerate(("A is better", "Both bad", "Tie"), 1):
        wait_shown(box, n)
        button(box, "short").tap()
        button(box, name).tap()
        assert wait_labels(log, n + 1)[-1]["reasons"] == ["short"]
    wait_shown(box, 4)
    button(box, "Undo").tap()
    wait_labels(log, 3)
    page.screenshot(path=screenshots / "touch.png")
    page.close()


def be_busy(page, root, code=""):
    """Run code, and let the kernel be busy, as with a cell that runs, until what is returned is called."""
    done = root / "done"
    done.unlink(missing_ok=True)
    page.evaluate(
        """code => { const {kernel} = window.jupyterapp.shell.currentWidget.sessionContext.session;
        kernel.requestExecute({code}); }""",
        f"{code}\nimport os, time\nwhile not os.path.exists({str(done)!r}): time.sleep(0.01)",
    )
    page.wait_for_timeout(300)
    return done.touch


def shells(page, how):
    """Whether what widgets say waits for running cells ("disabled"), or goes to a thread beside them."""
    kernel = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
    page.evaluate(f"how => {{ {kernel}.commsOverSubshells = how; }}", how)


@contextlib.contextmanager
def busy_meanwhile(page, root):
    """Let the kernel be busy for as long as this goes on."""
    free = be_busy(page, root)
    yield
    free()


def test_a_busy_kernel_is_told_and_one_can_label_on(lab, page, screenshots):
    log, expect = lab[2] / "busy.jsonl", playwright_api.expect
    small_notebook(lab[2], "busy", "busy.jsonl", ", ask_note=True")
    box, presses = run_all(page, "busy.ipynb"), []
    wait_shown(box, 0)
    free = be_busy(page, lab[2])
    for n, name in enumerate(("Tie", "A is better", "B is better"), 1):
        presses.append((on_screen(box), name))
        if n == 2:
            box.get_by_label("Note").fill("written while it was busy")
            button(box, "kind").click()
        for _ in range(2 if n == 1 else 1):  # the second press is on the same pair
            button(box, name).click()
            page.wait_for_timeout(300)
        expect(box.get_by_role("status")).to_contain_text("Cells are still running")
        expect(box.get_by_role("status")).to_contain_text(f"{n} choice")
        expect(box.get_by_role("region", name="Prompt")).not_to_have_text(presses[-1][0][0])
        page.wait_for_timeout(700)
    page.keyboard.press("u")  # takes back the third
    expect(box.get_by_role("region", name="Prompt")).to_have_text(presses[-1][0][0])
    page.wait_for_timeout(700)
    presses[-1] = on_screen(box), "Skip"
    page.keyboard.press("s")
    page.wait_for_timeout(900)
    box.screenshot(path=screenshots / "busy.png")
    assert not log.exists(), "the kernel was not busy all the time"
    on_the_way = prompt_of(box)
    free()
    wait_shown(box, 3)  # all is answered: before, the third that was taken back may be in the log
    labels = wait_labels(log, 3)
    assert all(agrees(x, *p) for x, p in zip(labels, presses, strict=True))
    assert all(0.3 < x["seconds"] < 3 for x in labels), "the time is the reader's, not the kernel's"
    assert [x["note"] for x in labels] == ["", "written while it was busy", ""]
    assert [x.get("reasons") for x in labels] == [None, ["kind"], None]
    assert prompt_of(box) == on_the_way
    expect(box.get_by_role("status")).to_contain_text("Saved")
    button(box, "Tie").click()
    wait_labels(log, 4)


def test_whatever_is_typed_and_however_fast_it_is_one_label_that_a_reload_does_not_keep_from_being_undone(lab, page):
    log, expect = lab[2] / "typed.jsonl", playwright_api.expect
    options = ", ask_strength=True, ask_note=True, ask_edit=True, repeat_share=0.0"
    small_notebook(lab[2], "typed", "typed.jsonl", options)
    box = run_all(page, "typed.ipynb")
    wait_shown(box, 0)
    note = "\u05e9\u05dc\u05d5\u05dd \u202eright to left\u202c <b>\n" + "why? " * 1995
    note = note[:9_999] + "."
    button(box, "clearly").click()
    button(box, "kind").click()
    box.get_by_label("Note").fill(note)
    seen = on_screen(box)
    box.get_by_role("region", name="Response B").dblclick()
    (label,) = wait_labels(log, 1)
    assert agrees(label, seen, "B is better")
    assert (label["note"], label["strength"], label["reasons"]) == (note, 2, ["kind"]) and len(note) == 10_000
    wait_shown(box, 1)
    box = reload(page, lab, "typed.ipynb")
    wait_shown(box, 1)
    button(box, "Undo").click()
    wait_labels(log, 0)
    expect(box.get_by_label("Note")).to_have_value(note)
    expect(button(box, "clearly")).to_have_attribute("aria-pressed", "true")
    expect(button(box, "kind")).to_have_attribute("aria-pressed", "true")
    assert on_screen(box) == seen
    page.wait_for_timeout(500)
    box.get_by_role("region", name="Prompt").click()
    for n, keys in enumerate(("ab", "ba", "uu"), 1):  # two at once: the second was for the same pair
        for key in keys:
            page.keyboard.press(key)
        page.wait_for_timeout(1000)
        assert len(wait_labels(log, n if keys != "uu" else 1)) == (n if keys != "uu" else 1)
    assert fb.read_events(log)[0][0]["note"] == note
    wait_shown(box, 1)
    button(box, "A").click()
    text = "\u0645\u0631\u062d\u0628\u0627 \u202e" + "long " * 800
    box.get_by_label("Edited").fill(text)
    button(box, "Save the edit").dblclick()
    labels = wait_labels(log, 3)
    assert [x["completion"] for x in fb.to_demonstrations(labels)[0]] == [text]
    page.wait_for_timeout(1000)
    assert len(wait_labels(log, 3)) == 3 and box.evaluate(STICKS_OUT) == []


@pytest.fixture
def small_disk(lab):
    """A disk of 64 KiB, a folder "disk" in the root; gives a function that mounts it anew, with other options."""
    folder = lab[2] / "disk"
    folder.mkdir()

    def mount(how):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(folder)], capture_output=True).returncode

    if mount("size=64k"):
        pytest.skip("a small disk can't be mounted here")
    yield lambda how: mount(f"remount,{how}")
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_and_a_log_made_read_only_are_told_and_labelling_goes_on_afterwards(
    lab, page, screenshots, small_disk
):
    log, expect = lab[2] / "disk" / "log.jsonl", playwright_api.expect
    small_notebook(lab[2], "disk", "disk/log.jsonl", ", ask_note=True, repeat_share=0.0")
    box = run_all(page, "disk.ipynb")
    wait_shown(box, 0)
    button(box, "A is better").click()
    wait_shown(box, 1)

    def fill():
        with open(log.with_name("ballast"), "wb", buffering=0) as f, contextlib.suppress(OSError):
            while True:
                f.write(b"x" * 4096)
        text = log.read_bytes()  # and not a byte is left in its last block
        log.write_bytes(text + b" " * (-len(text) % 4096 - 1) + b"\n")

    for n, (put_in, mend, words) in enumerate(
        (
            (fill, lambda: log.with_name("ballast").unlink(), "The label was not saved to disk/log.jsonl"),
            (lambda: small_disk("ro"), lambda: small_disk("rw"), "The label was not saved: disk/log.jsonl cannot be"),
        ),
        1,
    ):
        put_in()
        before, seen = log.read_bytes(), on_screen(box)
        box.get_by_label("Note").fill("of this one")
        button(box, "B is better").click()
        expect(box.get_by_role("alert")).to_contain_text(words)
        box.screenshot(path=screenshots / f"not-saved-{n}.png")
        page.wait_for_timeout(3500)  # it is not tried again behind the reader's back
        assert log.read_bytes() == before and on_screen(box) == seen
        expect(box.get_by_label("Note")).to_have_value("of this one")
        mend()
        button(box, "B is better").click()
        labels = wait_labels(log, n + 1)
        assert agrees(labels[-1], seen, "B is better") and labels[-1]["note"] == "of this one"
        wait_shown(box, n + 1)
        expect(box.get_by_role("status")).to_have_text("Saved: B is better.")


FAILS = """\
from rlhf_helpers.lesson import feedback
right, tries = feedback.append_event, []

def fails(*given):
    tries.append(given)
    if len(tries) == {nth}:
        raise feedback.WorkbookError("The label was not saved to the log.")
    return right(*given)

feedback.append_event = fails
"""


def test_of_three_that_waited_the_one_that_was_not_saved_is_asked_again_with_its_note(lab, page, screenshots):
    log, expect, seen = lab[2] / "second.jsonl", playwright_api.expect, []
    small_notebook(lab[2], "second", "second.jsonl", ", ask_note=True, repeat_share=0.0")
    box = run_all(page, "second.ipynb")
    wait_shown(box, 0)
    free = be_busy(page, lab[2], FAILS.format(nth=2))
    notes = ["of the first", "of the second", "of the third"]
    for n, note in enumerate(notes, 1):
        page.wait_for_timeout(500)
        seen.append(on_screen(box))
        box.get_by_label("Note").fill(note)
        button(box, "A is better").click()
        expect(box.get_by_role("status")).to_contain_text(f"{n} choice")
    free()
    expect(box.get_by_role("alert")).to_contain_text("The label was not saved to the log")
    expect(box.get_by_role("alert")).to_contain_text("Kept in this page, to be saved after it: 1 choice.")
    expect(box.get_by_label("Note")).to_have_value(notes[1])
    box.screenshot(path=screenshots / "not-saved-of-three.png")
    assert [x["note"] for x in wait_labels(log, 1)] == notes[:1]
    page.wait_for_timeout(3500)  # longer than until it would send again
    assert on_screen(box) == seen[1] and len(wait_labels(log, 1)) == 1
    button(box, "B is better").click()
    labels = wait_labels(log, 3)
    assert all(agrees(x, *y) for x, y in zip(labels, zip(seen, ("A is better", "B is better", "A is better"))))
    assert [x["note"] for x in labels] == notes
    wait_shown(box, 3)
    expect(box.get_by_label("Note")).to_have_value("")
    expect(box.get_by_role("status")).to_have_text("Saved 2 choices that had waited.")


def test_what_needs_the_kernel_says_so_while_it_is_busy_and_what_does_not_is_there_at_once(lab, page, screenshots):
    expect = playwright_api.expect
    small_notebook(lab[2], "opens", "opens.jsonl", ", ask_edit=True, ask_note=True, repeat_share=0.0")
    box = run_all(page, "opens.ipynb")
    wait_shown(box, 0)
    mark = box.locator("mark").first
    assert mark.evaluate("m => getComputedStyle(m).textDecorationLine") == "underline"
    with busy_meanwhile(page, lab[2]):
        box.get_by_label("Note").fill("of the first")
        button(box, "Tie").click()
        expect(box.get_by_role("status")).to_contain_text("1 choice kept in this page")
        page.wait_for_timeout(500)
        page.keyboard.press("d")
        assert mark.evaluate("m => getComputedStyle(m).textDecorationLine") == "none"
        page.keyboard.press("u")
        expect(box.get_by_label("Note")).to_have_value("of the first")
        seen = on_screen(box)
        button(box, "B").click()
        expect(box.get_by_role("status")).to_contain_text("The answer opens here to be edited when they are done")
        box.screenshot(path=screenshots / "opens.png")
    expect(box.get_by_label("Edited")).to_have_value(seen[2])
    expect(box.get_by_role("status")).not_to_contain_text("opens here")
    expect(box.get_by_label("Note")).to_have_value("of the first")
    assert on_screen(box) == seen
    box.get_by_label("Edited").fill("Mended.")
    button(box, "Save the edit").click()
    edited, label = wait_labels(lab[2] / "opens.jsonl", 2)
    assert agrees(label, seen, "B is better") and (label["note"], edited["response_a"]) == ("of the first", "Mended.")


def test_an_edit_that_waited_and_was_not_saved_is_in_its_field_again(lab, page, screenshots):
    log, expect = lab[2] / "failededit.jsonl", playwright_api.expect
    small_notebook(lab[2], "failededit", "failededit.jsonl", ", ask_edit=True, ask_note=True, repeat_share=0.0")
    box = run_all(page, "failededit.ipynb")
    wait_shown(box, 0)
    first = on_screen(box)
    button(box, "B").click()
    expect(box.get_by_label("Edited")).to_have_value(first[2])
    box.get_by_label("Edited").fill("Written while it was busy.")
    box.get_by_label("Note").fill("why")
    free = be_busy(page, lab[2], FAILS.format(nth=1))
    button(box, "Save the edit").click()
    expect(box.get_by_role("status")).to_contain_text("1 choice kept in this page")
    expect(box.get_by_label("Edited")).to_have_value("")
    page.wait_for_timeout(700)
    second = on_screen(box)
    button(box, "Tie").click()
    expect(box.get_by_role("status")).to_contain_text("2 choices kept in this page")
    free()
    expect(box.get_by_role("alert")).to_contain_text("The label was not saved to the log")
    expect(box.get_by_label("Edited")).to_have_value("Written while it was busy.")
    expect(button(box, "B")).to_have_attribute("aria-pressed", "true")
    expect(box.get_by_label("Note")).to_have_value("why")
    box.screenshot(path=screenshots / "not-saved-edit.png")
    page.wait_for_timeout(3500)
    assert on_screen(box) == first and not log.exists()
    button(box, "Save the edit").click()
    edited, *labels = wait_labels(log, 3)
    assert (edited["response_a"], edited["response_b"]) == ("Written while it was busy.", first[2])
    assert agrees(labels[0], first, "B is better") and agrees(labels[1], second, "Tie")
    assert labels[0]["note"] == "why"
    wait_shown(box, 2)
    expect(box.get_by_label("Edited")).to_be_hidden()
    button(box, "A").click()  # of the next pair: its own text
    expect(box.get_by_label("Edited")).to_have_value(shown(box, "A"))


def said(page):
    """The sentence of a card's status line."""
    return panel(page).locator(".rlhf-labeller [data-reply]").inner_text()


KEPT_IN_PAGES = "() => Object.keys(localStorage).filter(key => key.startsWith('rlhf '))"


@pytest.mark.parametrize("how", ["disabled", "perCommTarget"])
def test_two_pages_of_one_notebook_while_the_kernel_is_busy(lab, browser, screenshots, how):
    """Nothing is lost or counted twice, and what each page says is true of what was pressed in it."""
    name, expect, waits = f"two{how}", playwright_api.expect, how == "disabled"
    log = lab[2] / f"{name}.jsonl"
    small_notebook(lab[2], name, log.name, ", ask_note=True, repeat_share=0.0")
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    first = open_lab(lab, context)
    boxes = [run_all(first, f"{name}.ipynb")]
    first.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    second = open_lab(lab, context, f"lab/workspaces/{name}/tree/{name}.ipynb")
    boxes.append(panel(second).locator(".rlhf-labeller").last)
    pages, presses = [first, second], [[], []]

    def press(i, name):
        wait = first.wait_for_timeout
        wait(600)
        presses[i].append((on_screen(boxes[i]), name))
        button(boxes[i], name).click()
        wait(900)  # until it goes on with the next pair

    for page, box in zip(pages, boxes):
        wait_shown(box, 0)
        shells(page, how)
    button(boxes[0], "Tie").click()
    for box in boxes:
        wait_shown(box, 1)
    assert said(first) == "Saved: Tie." and said(second) == "In another page with this card: Saved: Tie."

    with busy_meanwhile(first, lab[2]):
        press(0, "A is better")
        press(1, "B is better")  # the same pair
        press(1, "Both bad")
        boxes[0].get_by_label("Note").fill("of the first page")
        press(0, "B is better")
        press(1, "A is better")
        for page, n in ((first, 2), (second, 3)) if waits else ():
            assert re.match(f"Cells are still running. {n} choices kept in this page", said(page))
            page.screenshot(path=screenshots / f"two-pages-busy-{n - 1}.png")
        assert len(fb.read_events(log)[0]) == 1 or not waits
    pairs = list(dict.fromkeys(p[0][0] for some in presses for p in some))
    labels = wait_labels(log, 1 + len(pairs))[1:]
    for page, box in zip(pages, boxes):
        wait_shown(box, 1 + len(pairs))
        page.wait_for_timeout(3500)  # longer than until it would send again
        assert page.evaluate(KEPT_IN_PAGES) == []
        expect(box.get_by_label("Note")).to_have_value("")  # it was for the choice before
    assert {x["note"] for x in labels if x["prompt"] == presses[0][1][0][0]} <= {"", "of the first page"}
    assert len(fb.read_events(log)[0]) == 1 + len(pairs) and {x["prompt"] for x in labels} == set(pairs)
    saved = [[p for p in some if any(agrees(x, *p) for x in labels)] for some in presses]
    assert len(saved[0]) + len(saved[1]) == len(pairs) == (3 if waits else 5)
    for i, page in enumerate(pages):
        page.screenshot(path=screenshots / f"two-pages-{i + 1}.png")
        own = said(page).partition(" In another page")[0]
        assert "Saved" in own and not re.search("Cells are still running|could not", said(page))
        assert ("already labelled" in own) == (len(saved[i]) < len(presses[i])), said(page)
    assert prompt_of(boxes[0]) == prompt_of(boxes[1])
    if not waits:
        return context.close()

    # an undo on the way is of the choice before it in the same page; a page that is closed leaves what it kept
    with busy_meanwhile(second, lab[2]):
        press(1, "Tie")
        press(0, "A is better")
        pair = presses[1][-1][0]
        assert presses[0][-1][0] == pair
        press(0, "Skip")
        button(boxes[0], "Undo").click()  # of the one that was skipped
        first.wait_for_timeout(500)
        expect(boxes[0].get_by_role("region", name="Prompt")).to_have_text(presses[0].pop()[0][0])
        press(0, "B is better")
        first.close()
    labels = wait_labels(log, 5)
    assert agrees(labels[-1], pair, "Tie")
    wait_shown(boxes[1], 5)
    boxes[1] = reload(second, lab, f"{name}.ipynb")
    labels = wait_labels(log, 6)
    assert agrees(labels[-1], *presses[0][-1]) and len({x["pair_id"] for x in labels}) == 6
    wait_shown(boxes[1], 6)
    second.wait_for_timeout(3500)
    assert len(wait_labels(log, 6)) == 6 and second.evaluate(KEPT_IN_PAGES) == []
    context.close()


def test_after_a_reload_a_busy_kernel_is_not_asked_again_what_was_judged(lab, page):
    """The pairs that wait in the page are those of the time when the cell ran."""
    log = lab[2] / "later.jsonl"
    small_notebook(lab[2], "later", "later.jsonl", ", repeat_share=0.0")
    box = run_all(page, "later.ipynb")
    for n in range(3):
        wait_shown(box, n)
        button(box, "Tie").click()
    wait_labels(log, 3)
    box = reload(page, lab, "later.ipynb")
    wait_shown(box, 3)
    shells(page, "disabled")
    with busy_meanwhile(page, lab[2]):
        for n in range(3):
            button(box, "A is better").click()
            playwright_api.expect(box.get_by_role("status")).to_contain_text(f"{n + 1} choice")
            page.wait_for_timeout(700)
    labels = wait_labels(log, 6)
    assert [x["pair_id"] for x in labels] == [f"p{i}" for i in range(6)]
    assert "Saved" in said(page) and "already" not in said(page)


def test_an_edit_saved_while_the_kernel_is_busy_waits_like_any_choice(lab, page, screenshots):
    log, expect = lab[2] / "busyedit.jsonl", playwright_api.expect
    small_notebook(lab[2], "busyedit", "busyedit.jsonl", ", ask_edit=True, repeat_share=0.0")
    box = run_all(page, "busyedit.ipynb")
    began = time.time()
    wait_shown(box, 0)
    first = on_screen(box)
    button(box, "B").click()
    expect(box.get_by_label("Edited")).to_have_value(first[2])
    box.get_by_label("Edited").fill("Written before it was busy.")
    free = be_busy(page, lab[2])
    button(box, "Save the edit").click()
    expect(box.get_by_role("status")).to_contain_text("1 choice kept in this page")
    expect(box.get_by_role("region", name="Prompt")).not_to_have_text(first[0])
    expect(box.get_by_label("Edited")).to_have_value("")  # it was for the pair before
    box.screenshot(path=screenshots / "busy-edit.png")
    second = on_screen(box)
    page.wait_for_timeout(700)
    button(box, "A is better").click()
    expect(box.get_by_role("status")).to_contain_text("2 choices kept in this page")
    spent = time.time() - began
    page.wait_for_timeout(2000)
    assert not log.exists(), "the kernel was not busy all the time"
    free()
    edited, *labels = wait_labels(log, 3)
    assert agrees(labels[0], first, "B is better") and agrees(labels[1], second, "A is better")
    assert (edited["response_a"], edited["response_b"]) == ("Written before it was busy.", first[2])
    assert all(x["seconds"] < spent + 1 for x in (edited, *labels)), "the time is the reader's, not the kernel's"
    wait_shown(box, 2)
    expect(box.get_by_label("Edited")).to_be_hidden()


def test_a_page_reloaded_while_the_kernel_was_busy_delivers_what_it_kept(lab, page):
    log = lab[2] / "kept.jsonl"
    small_notebook(lab[2], "kept", "kept.jsonl")
    box = run_all(page, "kept.ipynb")
    wait_shown(box, 0)
    free = be_busy(page, lab[2])
    for _ in range(2):
        button(box, "A is better").click()
        page.wait_for_timeout(1500)
    assert not log.exists()
    page.once("load", lambda _: free())
    box = reload(page, lab, "kept.ipynb")
    wait_labels(log, 2)
    wait_shown(box, 2)
    page.wait_for_timeout(4000)  # longer than until it would send again
    assert len(wait_labels(log, 2)) == 2


def test_a_restart_is_told_and_what_could_not_be_delivered_is_delivered_when_the_card_is_back(lab, page, screenshots):
    log, expect = lab[2] / "restart.jsonl", playwright_api.expect
    small_notebook(lab[2], "restart", "restart.jsonl")
    box = run_all(page, "restart.ipynb")
    wait_shown(box, 0)
    be_busy(page, lab[2])
    button(box, "B is better").click()
    expect(box.get_by_role("status")).to_contain_text("Cells are still running")
    page.evaluate(RESTART)
    expect(box.locator("[data-reply]")).to_contain_text("could not be delivered")
    expect(box.locator("[data-reply]")).to_contain_text("Run All Above Selected Cell")
    box.get_by_role("region", name="Response A").click()
    page.keyboard.press("t")
    box.screenshot(path=screenshots / "cut.png")
    assert not log.exists()
    box = run_all(page, "restart.ipynb")
    assert wait_labels(log, 1)[0]["choice"] in "ab"
    wait_shown(box, 1)


def test_a_card_without_its_kernel_says_what_to_do(lab, page):
    """Opened anew with no kernel, or reloaded before it was saved: there is a sentence where the card was."""
    small_notebook(lab[2], "gone", "gone.jsonl")
    run_all(page, "gone.ipynb")
    note = panel(page).locator(".rlhf-fallback")
    playwright_api.expect(note).to_be_hidden()
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.evaluate("async () => { await window.jupyterapp.serviceManager.sessions.shutdownAll(); }")
    page.goto(f"{lab[0]}/lab/tree/gone.ipynb?token={lab[1]}", wait_until="domcontentloaded")
    page.wait_for_function("() => window.jupyterapp !== undefined")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    playwright_api.expect(note).to_be_visible()
    playwright_api.expect(note).to_contain_text("Run All Above Selected Cell")


def test_continue_runs_the_cells_below_with_the_labels_and_a_blind_test_tells_who_was_who(lab, page, screenshots):
    log, expect = lab[2] / "end.jsonl", playwright_api.expect
    options = ", repeat_share=0.0, who=('the new model', 'the old one')"
    small_notebook(lab[2], "end", "end.jsonl", options, ["print('learned from', len(labeller.labels))", *20 * ["1"]])
    box = run_all(page, "end.ipynb")
    expect(panel(page).get_by_text("learned from 0")).to_be_visible()
    for n in range(14):
        wait_shown(box, n)
        page.keyboard.press("a") if n else box.get_by_role("region", name="Response A").click()
    labels = wait_labels(log, 14)
    expect(button(box, "Continue")).to_be_visible()
    expect(button(box, "A is better")).to_be_hidden()
    wins = sum(x["choice"] == "a" for x in labels)
    expect(box).to_contain_text(f"You preferred the new model in {wins} of 14 and the old one in {14 - wins}")
    box.get_by_text("Who was who").click()
    for width in (1366, 360):
        page.set_viewport_size({"width": width, "height": 1000})
        page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
        page.wait_for_timeout(700)
        assert box.evaluate(STICKS_OUT) == []
        box.screenshot(path=screenshots / f"end-{width}.png")
    page.keyboard.press("c")
    expect(panel(page).get_by_text("learned from 14")).to_be_visible()
    page.wait_for_function(f"() => ({NOTEBOOK})()[1] === 1")  # not at the last cell, where running them all leads
    expect(panel(page).get_by_text("learned from 14")).to_be_in_viewport()
    assert page.evaluate("() => document.activeElement.closest('.jp-NotebookPanel') !== null")


def test_a_killed_kernel_loses_nothing(lab, page):
    log = lab[2] / "dead.jsonl"
    small_notebook(lab[2], "dead", "dead.jsonl", more=["import os; open('dead.pid', 'w').write(str(os.getpid()))"])
    box = run_all(page, "dead.ipynb")
    for n in range(2):
        wait_shown(box, n)
        button(box, "Tie").click()
        labels = wait_labels(log, n + 1)
    pid = int((lab[2] / "dead.pid").read_text())
    os.kill(pid, signal.SIGKILL)  # at once after the click
    page.get_by_role("dialog", name="Kernel Restarting").get_by_role("button", name="Ok").click()
    box = run_all(page, "dead.ipynb")
    assert int((lab[2] / "dead.pid").read_text()) != pid
    wait_shown(box, 2)
    button(box, "A is better").click()
    assert wait_labels(log, 3)[:2] == labels


@pytest.mark.slow
def test_chapter_03_is_labelled_by_hand(lab, page, screenshots):
    root = lab[2]
    rng, rows = random.Random(0), []
    for q in rng.sample(world.questions(), 60):
        rows.append(
            {
                "pair_id": q.prompt,
                "prompt": q.prompt,
                "response_a": world.answer(q, rng),
                "response_b": world.answer(q, rng),
            }
        )
    files.write_jsonl(root / "data" / "pairs.jsonl", rows)
    chapter(root, "03_human_feedback.ipynb", DATA_DIR="data")
    run_all(page, "03_human_feedback.ipynb")
    box = panel(page).locator(".rlhf-labeller").first  # below it is one to mend answers
    log = root / "runs" / "feedback.jsonl"
    simulated = fb.read_events(log)[0]
    assert simulated and all(e["annotator"].startswith("simulated:") for e in simulated)
    presses = []

    def press(name, how):
        wait_shown(box, len(presses))
        presses.append((on_screen(box), name))
        how(button(box, name))
        wait_labels(log, len(simulated) + len(presses))

    for name in ("A is better", "B is better", "Tie"):  # mouse
        press(name, lambda b: b.click())
    for key in ("Enter", "Space"):  # keyboard
        press("Both bad", lambda b: b.press(key))
    reload(page, lab, "03_human_feedback.ipynb")
    press("B is better", lambda b: b.click())
    page.evaluate(RESTART)
    page.evaluate(RUN_ONE, "widget")
    expect = playwright_api.expect
    expect(panel(page)).to_contain_text("WorkbookError: The cells above this one have not run since the kernel")
    run_all(page, "03_human_feedback.ipynb")  # resumes; nothing is overwritten or asked again
    press("A is better", lambda b: b.click())
    events = fb.read_events(log)[0]
    mine = [e for e in events if e["annotator"] == "you"]
    assert [e for e in events if e["annotator"] != "you"] == simulated
    assert len(events) == len(simulated) + len(presses)
    assert all(agrees(x, *p) for x, p in zip(mine, presses, strict=True))
    for name in ("JupyterLab Light", "JupyterLab Dark"):
        theme(page, name)
        box.screenshot(path=screenshots / f"chapter-{name.split()[1].lower()}.png")
        walk(page, screenshots / f"chapter-03-{name.split()[1].lower()}")
    theme(page, "JupyterLab Light")

    # what had run with simulated labels runs again with the reader's
    expect(panel(page).get_by_text("Simulated, not yours")).to_be_visible()
    expect(box).to_contain_text("what follows learns from yours: 17 to go")
    while len(presses) < fb.ENOUGH:
        press("B is better", lambda b: b.click())
    expect(box).to_contain_text("You have given 24 labels, so what follows learns from yours.")
    box.screenshot(path=screenshots / "chapter-03-enough.png")
    page.wait_for_timeout(500)  # no press counts sooner
    button(box, "Continue").click()
    expect(panel(page).get_by_text("These are yours")).to_be_visible()
    box.screenshot(path=screenshots / "chapter-03-end.png")


REDRAWN = """box => { const page = box.querySelector('table').closest('.widget-html');
  window.took = new Promise(done => { let start;
    document.addEventListener('keydown', () => start = performance.now(), {once: true, capture: true});
    new MutationObserver((_, o) => { o.disconnect(); requestAnimationFrame(
      () => done(performance.now() - start)); }).observe(page, {childList: true, subtree: true}); });
}"""


@pytest.mark.slow
def test_chapter_02_controls_redraw(lab, page, screenshots, record_property):
    """From a key on a slider, through the kernel, to the new page on the screen; wide enough, and in both themes."""
    chapter(lab[2], "02_decoding.ipynb")
    assert not page.evaluate(RUN, ["02_decoding.ipynb", None])["errors"]
    live = panel(page).locator(".rlhf-live").last
    live.scroll_into_view_if_needed()
    handles, times = live.get_by_role("slider"), []
    playwright_api.expect(handles).to_have_count(4)
    steps = (40, 20, 19, 99)  # of the sliders, each some pixels wide
    wide = "h => h.closest('.slider-container').getBoundingClientRect().width"
    tracks = [handles.nth(i).evaluate(wide) for i in range(4)]
    assert all(width >= 3 * n for width, n in zip(tracks, steps)), tracks
    for i in range(4):
        handles.nth(i).focus()
        keys = ["ArrowLeft", "ArrowRight"] if i in (0, 2) else ["ArrowRight", "ArrowLeft"]
        for key in keys * 5:
            page.wait_for_timeout(200)
            page.evaluate(REDRAWN, live.element_handle())
            page.keyboard.press(key)
            times.append(page.evaluate("window.took"))
    slow = statistics.quantiles(times, n=20)[-1]
    record_property("live controls, key to new picture, median ms", round(statistics.median(times)))
    record_property("live controls, 95% of redraws within ms", round(slow))
    load = os.getloadavg()[0] / os.cpu_count()  # a busy machine is slow, not broken
    record_property("load average per core while that was measured", round(load, 1))
    assert (slow if load < 1 else statistics.median(times)) < 150 * max(1, load)
    for name in ("JupyterLab Light", "JupyterLab Dark"):
        theme(page, name)
        found = live.evaluate(CONTRAST)
        assert len(found) > 12 and min(ratio for _, ratio in found) >= 4.5, found
        playwright_api.expect(live).to_contain_text("after the dials")
        live.screenshot(path=screenshots / f"live-{name.split()[1].lower()}.png")
        walk(page, screenshots / f"chapter-02-{name.split()[1].lower()}")
    theme(page, "JupyterLab Light")
    page.set_viewport_size({"width": 400, "height": 900})
    page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    page.wait_for_timeout(700)
    assert live.evaluate(STICKS_OUT) == []
    assert all(handles.nth(i).evaluate(wide) >= 80 for i in range(4))
    live.screenshot(path=screenshots / "live-narrow.png")


@pytest.mark.slow
def test_chapter_06_chat_comparison_and_blind_test(lab, page, screenshots):
    root, name = lab[2], "06_inference_and_continuous_feedback.ipynb"
    chapter(root, name, RUNS_DIR="runs06")
    expect, runs = playwright_api.expect, root / "runs06"
    below = None if os.environ.get("WORKBOOK_SCREENSHOTS") else "power-text"  # what follows needs nobody
    run_all(page, name, above=below)
    talk = panel(page).locator(".rlhf-chat").last
    talk.scroll_into_view_if_needed()
    for n, question in enumerate(("Where does a fox live?", "مرحبا 🙂", "What is the capital of Peru?"), 1):
        talk.get_by_role("textbox").first.fill(question)
        page.wait_for_timeout(400)
        button(talk, "Send").click()
        expect(talk.get_by_role("log").get_by_text(question)).to_be_visible()
        expect(talk.get_by_role("status")).to_have_text("Which answer is better?" if n == 3 else "")
    for look in ("JupyterLab Light", "JupyterLab Dark"):
        theme(page, look)
        talk.screenshot(path=screenshots / f"chat-{look.split()[1].lower()}.png")
    theme(page, "JupyterLab Light")
    for width in (360, 1400):
        page.set_viewport_size({"width": width, "height": 1000})
        page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
        page.wait_for_timeout(700)
        assert talk.evaluate(STICKS_OUT) == []
        for one in talk.get_by_role("button").all():
            assert one.bounding_box()["height"] >= 44 and one.evaluate("b => b.scrollWidth <= b.clientWidth")
        talk.screenshot(path=screenshots / f"chat-{width}.png")
    free = be_busy(page, root)
    button(talk, "B is better").click()
    expect(talk.get_by_role("status")).to_contain_text("This press waits until they are done")
    talk.screenshot(path=screenshots / "chat-busy.png")
    free()
    expect(talk.get_by_role("status")).to_contain_text("Saved")
    mine = [x for x in wait_labels(runs / "feedback.jsonl", 1) if x["annotator"] == "you"]
    assert [(x["prompt"], x["choice"]) for x in mine] == [("What is the capital of Peru?", "b")]
    blind = panel(page).locator(".rlhf-labeller").first
    blind.scroll_into_view_if_needed()
    for n in range(12):
        wait_shown(blind, n)
        button(blind, "A is better").click()
        wait_labels(runs / "blind_test.jsonl", n + 1)
    run_all(page, name, above=below)  # the verdict counts what was chosen
    said = panel(page).locator(".jp-OutputArea-output", has_text="Your verdict: win rate").first
    expect(said).to_be_visible()
    for look in ("JupyterLab Light", "JupyterLab Dark"):
        theme(page, look)
        walk(page, screenshots / f"chapter-06-{look.split()[1].lower()}")
    theme(page, "JupyterLab Light")


@pytest.mark.slow
def test_chapter_06_the_gate_is_judged_blind_and_decides(lab, page, screenshots):
    """By mouse and by keys, in both themes, on wide and narrow screens; then it tells who was who and goes on."""
    root, name, expect = lab[2], "06_inference_and_continuous_feedback.ipynb", playwright_api.expect
    runs, pairs = root / "gate06", files.read_jsonl(ROOT / "data" / "pairs.jsonl", fb.PAIR_FIELDS)
    for pair in pairs[: fb.ENOUGH]:  # so that the round is the reader's
        choice = "a" if len(pair["response_a"]) < len(pair["response_b"]) else "b"
        fb.append_event(runs / "feedback.jsonl", fb.label_event(pair, "a", choice, "you"))
    chapter(root, name, RUNS_DIR="gate06")
    gate, log = run_all(page, name, above="rounds-head"), runs / "gate.jsonl"
    waits = panel(page).get_by_text("the model in use stays: it waits for ten judgements of yours")
    expect(waits).to_be_visible()

    def pictures(what):
        for look in ("JupyterLab Dark", "JupyterLab Light"):
            theme(page, look)
            assert min(ratio for _, ratio in gate.evaluate(CONTRAST)) >= 4.5
            for width in (360, 1400):
                page.set_viewport_size({"width": width, "height": 1000})
                page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
                page.wait_for_timeout(700)
                assert gate.evaluate(STICKS_OUT) == []
                gate.screenshot(path=screenshots / f"gate-{what}-{look.split()[1].lower()}-{width}.png")

    pictures("start")
    total = int(re.search(r"of (\d+) labelled", gate.inner_text())[1])
    assert total >= 10
    presses = []
    for n in range(total):
        wait_shown(gate, n)
        assert not re.search("candidate|model in use", gate.inner_text())  # it is blind
        side = "AB"[n % 2]
        presses.append((on_screen(gate), f"{side} is better"))
        if n % 3 == 0:
            gate.get_by_role("region", name=f"Response {side}").click()
        elif n % 3 == 1:
            button(gate, f"{side} is better").click()
        else:
            page.keyboard.press(side.lower())
    labels = wait_labels(log, total)
    assert all(agrees(x, *p) for x, p in zip(labels, presses, strict=True))
    won = sum(x["choice"] == "a" for x in labels)
    found = loop.verdict(won, 0, total - won)
    words = f"You preferred the candidate in {won} of {total} and the model in use in {total - won}: a win rate of "
    words += f"{100 * found['win_rate']:.0f}% for the candidate (95% interval {100 * found['low']:.0f} to "
    expect(gate).to_contain_text(f"{words}{100 * found['high']:.0f}%).")
    told = "chance alone seldom gives this|would make it sure|only thousands of judgements"
    assert re.search(told, gate.inner_text())
    gate.get_by_text("Who was who").click()
    expect(gate.get_by_role("row")).to_have_count(1 + total)
    for row, (seen, _), label in zip(gate.get_by_role("row").all()[1:], presses, labels, strict=True):
        names = ("the candidate", "the model in use")
        sides = names if label["left"] == "a" else names[::-1]
        chosen = names["ab".index(label["choice"])]
        assert [x.inner_text() for x in row.get_by_role("cell").all()] == [seen[0], *sides, chosen]
    pictures("end")
    page.keyboard.press("c")
    expect(waits).to_be_hidden()
    line = f"it wins {found['win_rate']:.0%} of {total} blind comparisons (95% interval {found['low']:.1%} to "
    expect(panel(page).get_by_text(line).first).to_be_visible()
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.interrupt()")


def chapter(root, name, **parameters):
    """A copy of a chapter whose parameters cell is set, shortened and with its own runs folder."""
    nb = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))
    cell = next(c for c in nb["cells"] if "parameters" in c["metadata"].get("tags", []))
    values = {"FAST": True, "RUNS_DIR": "runs", **parameters}
    cell["source"] = "".join(cell["source"]) + "".join(f"\n{k} = {v!r}" for k, v in values.items())
    (root / name).write_text(json.dumps(nb), encoding="utf-8")


def walk(page, stem):
    """Pictures of every figure and table of the open notebook, for the eye."""
    if os.environ.get("WORKBOOK_SCREENSHOTS"):
        for i, output in enumerate(panel(page).locator(".jp-OutputArea-output").all()):
            if output.locator("img, table").count() and output.is_visible():
                output.screenshot(path=f"{stem}-{i:02d}.png")


def test_editing_and_ranking_in_the_browser(lab, page, screenshots):
    root, expect = lab[2], playwright_api.expect
    small_notebook(root, "edit", "edit.jsonl", ", ask_edit=True")
    box = run_all(page, "edit.ipynb")
    wait_shown(box, 0)
    better = shown(box, "B")
    button(box, "B").click()
    expect(box.get_by_label("Edited")).to_have_value(better)
    box.get_by_label("Edited").fill("Written by hand.")
    box.screenshot(path=screenshots / "edit.png")
    button(box, "Save the edit").click()
    wait_shown(box, 1)
    rows = fb.to_demonstrations(fb.replay(fb.read_events(root / "edit.jsonl")[0]))[0]
    assert [r["completion"] for r in rows] == ["Written by hand."]
    notebook(
        root,
        "rank.ipynb",
        """\
from rlhf_helpers.desk.ranker import Ranker
answers = ["Paris.", "The capital of France is Paris.", "Rome.", "<b>No</b> idea."]
ranker = Ranker([{"rank_id": "r", "prompt": "What is the capital of France?", "responses": answers}], "rank.jsonl")
ranker.show()""",
    )
    box = run_all(page, "rank.ipynb")
    texts = [shown(box, letter) for letter in "ABCD"]
    page.wait_for_timeout(500)
    free = be_busy(page, root)
    button(box, "C is the best that is left").click()
    expect(box.get_by_role("status")).to_contain_text("perhaps cells are still running. This press waits")
    box.screenshot(path=screenshots / "rank-busy.png")
    button(box, "D is the best that is left").click()  # said not to count
    free()
    expect(button(box, "C is number 1")).to_be_visible()
    expect(button(box, "D is the best that is left")).to_be_visible()
    expect(box.get_by_role("status")).to_have_text("0 of 1 ranked.")
    for width in (1366, 360):
        page.set_viewport_size({"width": width, "height": 1000})
        page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
        page.wait_for_timeout(700)
        assert box.evaluate(STICKS_OUT) == []
        box.screenshot(path=screenshots / f"rank-{width}.png")
    box.get_by_role("region", name="Response A").click()  # the card itself, too
    page.wait_for_timeout(500)
    button(box, "D is the best that is left").click()
    page.wait_for_timeout(500)
    order = [texts["ABCD".index(letter)] for letter in "CADB"]
    labels = wait_labels(root / "rank.jsonl", 6)
    for row in fb.to_preferences(labels)[0]:
        assert order.index(row["chosen"]) < order.index(row["rejected"])
