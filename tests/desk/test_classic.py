"""The widgets under Colab's ipywidgets 7.7 in a real front end, the classic Notebook; only in `make test-colab`.

JupyterLab 4 can't show widgets of that version.  Colab's own front end can't be had; it is built on the same one.
"""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from rlhf_helpers.engine.files import ROOT, read_jsonl, write_text

if not os.environ.get("WORKBOOK_COLAB"):
    pytest.skip("only in `make test-colab`", allow_module_level=True)

from playwright import sync_api

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> costs $5 and $6'
CELLS = [
    f"""\
from rlhf_helpers.desk.labeller import Labeller
pairs = [
    {{"pair_id": f"p{{i}}", "prompt": f"Question {{i}}?", "response_a": f"First {{i}}.", "response_b": {HOSTILE!r}}}
    for i in range(6)
]
labeller = Labeller(pairs, "log.jsonl", ask_strength=True, ask_note=True)
labeller.show()""",
    """\
from rlhf_helpers.desk.ranker import Ranker
ranker = Ranker([{"rank_id": "r", "prompt": "Which?", "responses": ["One.", "Two.", "Three."]}], "rank.jsonl")
ranker.show()""",
    """\
from rlhf_helpers.desk.chat import Chat
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT
model, tokenizer = models.load_model(ROOT / "data" / "models" / "finetuned")
chat = Chat(model, tokenizer, "chat.jsonl", every=2, max_new_tokens=12)
chat.show()""",
    """\
from rlhf_helpers.desk import dials
live = dials.controls(model, tokenizer, ["What does a cow eat?", "Where does a fox live?"])""",
]
READY = """() => { const kernel = window.Jupyter?.notebook?.kernel;
  return kernel?.is_connected() && kernel.widget_manager && kernel.info_reply?.status === 'ok'; }"""
ERRORS = """() => Jupyter.notebook.get_cells().flatMap(c => c.output_area.outputs)
  .filter(o => o.output_type === 'error').map(o => o.evalue)"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A classic Notebook server on the loopback, with a notebook of all widgets: (its address, its folder)."""
    root, state = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("state")
    cells = [
        {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
        for source in CELLS
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    write_text(root / "all.ipynb", json.dumps({"nbformat": 4, "nbformat_minor": 4, "cells": cells, "metadata": kernel}))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token = secrets.token_hex(16)
    env = {k: v for k, v in os.environ.items() if not k.startswith("JUPYTER")}
    env |= {f"JUPYTER_{k}_DIR": str(state / k.lower()) for k in ("CONFIG", "DATA", "RUNTIME")}
    env |= {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(state / "ipython")}
    how = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--port-retries=0"]
    how += [f"--NotebookApp.token={token}", f"--notebook-dir={root}"]
    with open(state / "log", "w") as log:
        running = subprocess.Popen([sys.executable, "-m", "notebook", *how], env=env, stdout=log, stderr=log, cwd=root)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            assert running.poll() is None, (state / "log").read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{url}/api/status?token={token}", timeout=2)
                break
            except OSError:
                time.sleep(0.2)
        yield f"{url}/notebooks/all.ipynb?token={token}", root
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()


@pytest.fixture(scope="module")
def page(server, chromium):
    """The notebook, all of it run, in a browser."""
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 1366, "height": 1000})
        page.set_default_timeout(45_000)
        sync_api.expect.set_options(timeout=60_000)
        page.goto(server[0], wait_until="domcontentloaded")
        page.wait_for_function(READY)
        page.evaluate("() => Jupyter.notebook.execute_all_cells()")
        page.get_by_text("tokens can be drawn").first.wait_for()
        assert page.evaluate(ERRORS) == []
        yield page
        folder = os.environ.get("WORKBOOK_SCREENSHOTS")
        for n, box in enumerate(page.locator(".output_subarea .widget-vbox.rlhf-labeller, .rlhf-chat").all()):
            if folder:
                box.screenshot(path=f"{folder}/classic-{n}.png")
        browser.close()


def button(box, name):
    return box.locator("button").filter(has_text=re.compile(rf"^\s*{re.escape(name)}\s*$"))


def wait_rows(path, n, timeout=30):
    end = time.time() + timeout
    while time.time() < end:
        rows = read_jsonl(path) if path.exists() else []
        if len(rows) >= n:
            return rows
        time.sleep(0.05)
    raise AssertionError(f"{path.name} has fewer than {n} lines")


def test_the_card_is_labelled_by_mouse_and_by_keys_and_hostile_text_is_text(page, server):
    box, log = page.locator(".rlhf-labeller").nth(0), server[1] / "log.jsonl"
    sync_api.expect(box).to_contain_text("costs $5 and $6")
    assert page.evaluate("window.hacked") is None and box.locator("img, script").count() == 0
    page.wait_for_timeout(700)
    button(box, "A is better").click()
    first = wait_rows(log, 1)[0]
    assert first["choice"] == first["left"] and first["seconds"] >= 0.25
    page.wait_for_timeout(700)
    box.get_by_role("region", name="Response B").click()  # the answers are buttons, too
    second = wait_rows(log, 2)[1]
    assert second["choice"] == ("b" if second["left"] == "a" else "a")
    before = page.evaluate("() => Jupyter.notebook.get_cells().length")
    for n, (key, choice) in enumerate((("t", "tie"), ("x", "both_bad")), 3):
        page.wait_for_timeout(700)
        page.keyboard.press(key)
        assert wait_rows(log, n)[-1]["choice"] == choice
    assert page.evaluate("() => Jupyter.notebook.get_cells().length") == before, "a key reached the notebook"
    page.wait_for_timeout(700)
    button(box, "Undo").click()
    assert wait_rows(log, 5)[-1]["event"] == "undo"
    sync_api.expect(box).to_contain_text(re.compile(r"(^|\D)3 of \d+ labelled"))


def test_three_answers_are_ranked(page, server):
    box = page.locator(".rlhf-labeller").nth(1)
    page.wait_for_timeout(400)
    button(box, "B is the best that is left").click()
    page.wait_for_timeout(700)
    button(box, "A is the best that is left").click()
    assert len(wait_rows(server[1] / "rank.jsonl", 3)) == 3
    sync_api.expect(box).to_contain_text("All is ranked")


def test_the_chat_answers_and_takes_a_choice(page, server):
    talk, log = page.locator(".rlhf-chat"), server[1] / "chat.jsonl"
    for n, question in enumerate(("What does a cow eat?", "Where does a fox live?"), 1):
        talk.get_by_placeholder("Your question").fill(question)
        talk.get_by_placeholder("Your question").press("Enter") if n == 1 else button(talk, "Send").click()
        sync_api.expect(talk).to_contain_text(question)
        said = "Which answer is better?" if n == 2 else ""  # until then it speaks, and takes no further press
        sync_api.expect(talk.get_by_role("status")).to_have_text(said)
        page.wait_for_timeout(700)
    button(talk, "A is better").click()
    assert wait_rows(log, 1)[0]["choice"] == "a"


def test_the_dials_redraw(page):
    box = page.locator(".widget-vbox").filter(has_text="tokens can be drawn").last
    before = box.inner_text()
    assert box.locator(".ui-slider").count() == 4
    handle = box.locator(".ui-slider-handle").first
    handle.focus()
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(1500)
    assert box.inner_text() != before and page.evaluate(ERRORS) == []
