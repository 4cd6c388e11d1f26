"""The labelling widget in JupyterLab in a real browser: mouse, keys, restart, resume, hostile text.

Screenshots go to the folder named by WORKBOOK_SCREENSHOTS, or to pytest's temporary folder.
"""

import json
import os
import random
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from rlhf_helpers import feedback as fb
from rlhf_helpers import files, world
from rlhf_helpers.files import ROOT

LAB = Path(sys.executable).parent / "jupyter-lab"
pytestmark = pytest.mark.browser
playwright_api = pytest.importorskip("playwright.sync_api")
if not LAB.exists():
    pytest.skip("needs jupyterlab", allow_module_level=True)

HOSTILE = ('<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> costs $5 and $6\n'
           "שלום <b>bold?</b>")
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False,
                                        "doNotDisturbMode": True},
    "notebook-extension/tracker": {"windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False},
}
RUN_ALL = """async path => {
  const app = window.jupyterapp; await app.restored;
  const panel = await app.commands.execute('docmanager:open', {path, factory: 'Notebook'});
  await panel.context.ready; await panel.sessionContext.ready; await panel.revealed;
  app.shell.activateById(panel.id);
  await panel.sessionContext.session.kernel.info;
  await app.commands.execute('notebook:run-all-cells');
  const cells = panel.content.widgets.filter(w => w.model.type === 'code');
  return {count: panel.content.widgets.length,
          errors: cells.flatMap(c => c.model.outputs.toJSON().filter(o => o.output_type === 'error'))};
}"""
RESTART = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.sessionContext.session.kernel.restart(); await panel.sessionContext.session.kernel.info;
}"""
CELLS = "() => window.jupyterapp.shell.currentWidget.content.widgets.length"


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory):
    folder = os.environ.get("WORKBOOK_SCREENSHOTS")
    return Path(folder) if folder else tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """An isolated JupyterLab on the loopback: (url, token, root folder)."""
    state, root = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("root")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token, url = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    for name, values in SETTINGS.items():
        path = state / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    env = {k: v for k, v in os.environ.items() if not k.startswith("JUPYTER")}
    folders = {f"JUPYTER_{k}_DIR": str(state / k.lower()) for k in ("CONFIG", "DATA", "RUNTIME")}
    env.update(folders,
               PATH=f"{LAB.parent}:{env['PATH']}", PYTHONPATH=str(ROOT), IPYTHONDIR=str(state / "ipython"),
               PYDEVD_DISABLE_FILE_VALIDATION="1")
    command = [str(LAB), "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
               f"--ServerApp.root_dir={root}",
               "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
               "--LabApp.extension_manager=readonly", f"--LabApp.user_settings_dir={state / 'settings'}",
               f"--LabApp.workspaces_dir={state / 'workspaces'}"]
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
        stop = urllib.request.Request(f"{url}/api/shutdown", method="POST",
                                      headers={"Authorization": f"token {token}"})
        try:
            urllib.request.urlopen(stop, timeout=5)
            server.wait(20)
        except Exception:
            server.kill()
            server.wait(10)


@pytest.fixture(scope="module")
def browser(chromium):
    with playwright_api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=[
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-background-networking", "--disable-component-update", "--no-first-run"])
        yield b
        b.close()


@pytest.fixture
def page(lab, browser):
    url, token, _ = lab
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(120_000)  # a busy machine is slow, not broken
    playwright_api.expect.set_options(timeout=60_000)
    page.on("dialog", lambda d: d.dismiss())
    page.goto(f"{url}/lab?reset&token={token}", wait_until="domcontentloaded")
    page.wait_for_function("() => window.jupyterapp !== undefined")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    yield page
    page.close()


def notebook(root, name, *cells):
    sources = [{"id": f"c{i}", "cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [],
                "source": c} for i, c in enumerate(cells)]
    nb = {"nbformat": 4, "nbformat_minor": 5, "cells": sources, "metadata": {
        "kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}}
    (root / name).write_text(json.dumps(nb))


def small_notebook(root, name, log, options=""):
    pairs = [{"pair_id": f"p{i}", "prompt": f"Question {i}: which one?", "response_a": f"First answer {i}.",
              "response_b": f"Second answer {i}. " + "It goes on for a while. " * (i % 3)} for i in range(14)]
    pairs[1] |= {"prompt": HOSTILE, "response_a": HOSTILE + " 1",
                 "response_b": HOSTILE + " 2\n" + "long " * 300}
    (root / f"{name}.json").write_text(json.dumps(pairs))
    notebook(root, f"{name}.ipynb", f"""\
import json
from rlhf_helpers.labeller import Labeller
labeller = Labeller(json.load(open("{name}.json")), "{log}"{options})
labeller.show()""")
    return pairs


def panel(page):
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")


def run_all(page, name):
    result = page.evaluate(RUN_ALL, name)
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
    playwright_api.expect(box).to_contain_text(f"{n} of ")
    box.page.wait_for_timeout(500)


def theme(page, name):
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name)
    page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=name)
    page.wait_for_timeout(500)


def prompt_of(box):
    return box.get_by_role("region", name="Prompt").inner_text()


def test_mouse_keyboard_restart_and_resume(lab, page, screenshots):
    root, expect = lab[2], playwright_api.expect
    log = root / "log.jsonl"
    pairs = small_notebook(root, "small", "log.jsonl", ", ask_strength=True, ask_note=True")
    box, chosen = run_all(page, "small.ipynb"), []

    def shown(side):
        return box.get_by_role("region", name=f"Response {side}").inner_text()

    button(box, "A is better").click()  # mouse, sooner or later than min_seconds after the pair appeared
    if not log.exists():
        page.wait_for_timeout(500)
        button(box, "A is better").click()
    wait_labels(log, 1)
    wait_shown(box, 1)
    chosen.append("a")
    expect(box.get_by_role("region", name="Prompt")).to_contain_text("costs $5 and $6")

    # hostile text is on the screen as typed, and nothing of it ran
    for side in "AB":
        assert shown(side).startswith('<img src=x onerror="window.hacked=1"><script>')
        assert "<b>bold?</b>" in shown(side)
    assert page.evaluate("window.hacked") is None
    assert box.locator("img, script, mjx-container").count() == 0
    for name in ("JupyterLab Light", "JupyterLab Dark"):
        theme(page, name)
        box.screenshot(path=screenshots / f"hostile-{name.split()[1].lower()}.png")
    theme(page, "JupyterLab Light")

    # a double click is one label
    button(box, "B is better").dblclick()
    chosen.append("b")
    wait_shown(box, 2)
    wait_labels(log, 2)

    # keyboard: the focus stays on the button
    tie = button(box, "Tie")
    tie.focus()
    for key in ("Enter", "Space"):
        page.keyboard.press(key)
        chosen.append("tie")
        wait_labels(log, len(chosen))
        wait_shown(box, len(chosen))
        assert tie.evaluate("b => b === document.activeElement")
    for name in ("JupyterLab Light", "JupyterLab Dark"):
        theme(page, name)
        box.screenshot(path=screenshots / f"labeller-{name.split()[1].lower()}.png")
    theme(page, "JupyterLab Light")

    # strength and note are stored; undo takes one back
    box.get_by_label("How much better").select_option("clearly")
    box.get_by_label("Note").fill("kinder")
    button(box, "A is better").click()
    chosen.append("a")
    assert [wait_labels(log, 5)[-1][f] for f in ("strength", "note")] == [2, "kinder"]
    wait_shown(box, 5)
    button(box, "Undo").click()
    wait_labels(log, 4)
    wait_shown(box, 4)
    expect(box.get_by_role("status")).to_contain_text("back")
    button(box, "A is better").click()
    labels = wait_labels(log, 5)
    wait_shown(box, 5)
    before = prompt_of(box)

    # the kernel is restarted and the cell run again
    page.evaluate(RESTART)
    box = run_all(page, "small.ipynb")
    assert prompt_of(box) == before
    expect(box).to_contain_text("5 of ")
    assert wait_labels(log, 5) == labels
    assert [x["pair_id"] for x in labels] == [p["pair_id"] for p in pairs[:5]]
    for label, choice in zip(labels, chosen):
        side = "b" if label["left"] == "a" else "a"
        assert label["choice"] == {"a": label["left"], "b": side}.get(choice, choice)

    # click to next pair on the screen
    times = []
    for i in range(6):
        wait_shown(box, 5 + i)
        old = prompt_of(box)
        times.append(page.evaluate("""([b, old]) => new Promise(done => {
            const box = b.closest('.rlhf-labeller'), start = performance.now();
            const look = () => box.querySelector('[aria-label=Prompt]')?.innerText !== old
                ? done(performance.now() - start) : setTimeout(look, 1);
            b.click(); look(); })""", [button(box, "A is better").element_handle(), old]))
    wait_labels(log, 11)
    median = statistics.median(times)
    print(f"click to next pair: median {median:.0f} ms, worst {max(times):.0f} ms")
    assert median < 500


def test_narrow_screens_stack_the_answers(lab, page, screenshots):
    small_notebook(lab[2], "narrow", "narrow.jsonl")
    box = run_all(page, "narrow.ipynb")
    for width in (1000, 400):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
        page.wait_for_timeout(700)
        a, b = (box.get_by_role("region", name=f"Response {s}").bounding_box() for s in "AB")
        outer = box.bounding_box()
        assert (a["y"] == b["y"]) == (width == 1000)
        assert max(a["width"], b["width"]) <= outer["width"] + 1
        page.screenshot(path=screenshots / f"width-{width}.png")


def test_single_keys_label_and_never_reach_the_notebook(lab, page, screenshots):
    pytest.importorskip("anywidget")
    log = lab[2] / "keys.jsonl"
    small_notebook(lab[2], "keys", "keys.jsonl", ", hotkeys=True, min_seconds=0.25")
    box = run_all(page, "keys.ipynb")
    cells = page.evaluate(CELLS)
    zone = box.get_by_role("group", name="Label with single keys")
    zone.click()
    for n, key in enumerate("abtxs"):
        wait_shown(box, n)
        page.keyboard.press(key)
        wait_labels(log, n + 1)
    box.screenshot(path=screenshots / "keys.png")
    assert [x["choice"] for x in wait_labels(log, 5)][2:] == ["tie", "both_bad", "skip"]
    wait_shown(box, 5)
    page.keyboard.press("u")
    wait_labels(log, 4)
    button(box, "Skip").focus()  # on a button the keys are safe too
    for n, key in enumerate("bax", 4):
        wait_shown(box, n)
        page.keyboard.press(key)
    wait_labels(log, 7)
    wait_shown(box, 7)
    for key in "dd0zcvmyr":  # shortcuts of the notebook
        page.keyboard.press(key)
    page.wait_for_timeout(300)
    assert page.evaluate(CELLS) == cells == 1 and len(wait_labels(log, 7)) == 7

    start = time.time()
    for n in range(8, 15):
        playwright_api.expect(box).to_contain_text(f"{n - 1} of ")
        page.wait_for_timeout(260)
        page.keyboard.press("a")
        wait_labels(log, n)
    print(f"scripted keyboard: {7 * 60 / (time.time() - start):.0f} labels a minute")


def test_page_reload_keeps_a_working_widget(lab, page):
    url, token, root = lab
    log = root / "reload.jsonl"
    small_notebook(root, "reload", "reload.jsonl")
    run_all(page, "reload.ipynb")
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.goto(f"{url}/lab/tree/reload.ipynb?token={token}", wait_until="domcontentloaded")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    box = panel(page).locator(".rlhf-labeller").last
    button(box, "Both bad").click()
    assert wait_labels(log, 1)[0]["choice"] == "both_bad"


@pytest.mark.slow
def test_chapter_03_is_labelled_by_hand(lab, page, screenshots):
    root = lab[2]
    source = ROOT / "notebooks" / "03_human_feedback.ipynb"
    rng, rows = random.Random(0), []
    for q in rng.sample(world.questions(), 60):
        rows.append({"pair_id": q.prompt, "prompt": q.prompt, "response_a": world.answer(q, rng),
                     "response_b": world.answer(q, rng)})
    files.write_jsonl(root / "data" / "pairs.jsonl", rows)
    shutil.copy(source, root / "chapter.ipynb")
    nb = json.loads((root / "chapter.ipynb").read_text(encoding="utf-8"))
    cell = next(c for c in nb["cells"] if "parameters" in c["metadata"].get("tags", []))
    cell["source"] = "".join(cell["source"]).replace('RUNS_DIR = ""', 'RUNS_DIR = "runs"').replace(
        "FAST = False", "FAST = True").replace('DATA_DIR = ""', 'DATA_DIR = "data"')
    (root / "chapter.ipynb").write_text(json.dumps(nb), encoding="utf-8")
    box = run_all(page, "chapter.ipynb")
    log = root / "runs" / "feedback.jsonl"
    simulated = fb.read_events(log)[0]
    assert simulated and all(e["annotator"].startswith("simulated:") for e in simulated)
    for n in range(5):
        wait_shown(box, n)
        button(box, "A is better").click()
        wait_labels(log, len(fb.replay(simulated)) + n + 1)
    events = fb.read_events(log)[0]
    assert events[:len(simulated)] == simulated
    assert [e["annotator"] for e in events[len(simulated):]] == ["you"] * 5
    run_all(page, "chapter.ipynb")  # nothing of the reader's is overwritten or asked again
    assert fb.read_events(log)[0][:len(events)] == events
    playwright_api.expect(panel(page).locator(".rlhf-labeller").last).to_contain_text("5 of ")
    box.screenshot(path=screenshots / "chapter.png")
