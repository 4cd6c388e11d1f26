"""Labelling by link: what the board counts, who may come, and the pages themselves in a real browser."""

import importlib.util
import json
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

from rlhf_helpers.desk import served, workspace, yours
from rlhf_helpers.desk.labeller import Labeller
from rlhf_helpers.engine import files
from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.lesson import feedback as fb

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


def some_pairs(n):
    texts = [(f"Question {i}: which one?", f"First answer {i}.", f"Another answer {i}, longer.") for i in range(n)]
    texts[1 % n] = (HOSTILE, HOSTILE + " 1", HOSTILE + " 2")
    return [dict(zip(fb.PAIR_FIELDS, (f"p{i}", *some))) for i, some in enumerate(texts)]


def labelled(log, name, choices, pairs):
    for pair, choice in zip(pairs, choices):
        fb.append_event(log, fb.label_event(pair, "a", choice, name, seconds=2.0))


# ---------------------------------------------------------------- who may come


@pytest.mark.parametrize(
    "names, said",
    [
        (["ann", "ben", " Ann "], "The name 'Ann' is given twice"),
        (["ann", ""], "'' is no name"),
        (["a\nb"], "is no name"),
        (["x" * 61], "is no name"),
        (["a\u202eb"], "is no name"),
        (["\u200d"], "is no name"),
        (["Zo\u00eb", "Zoe\u0308"], "is given twice"),
        (["ann", "a\u200cnn"], "is given twice"),
        (["ann", "\uff21nn"], "is given twice"),
        (["you"], "'you' stands for something else in ANNOTATOR"),
        (["warm"], "stands for something else"),
        (["simulated:terse"], "stands for something else"),
    ],
)
def test_names_that_cannot_be_are_told(names, said):
    with pytest.raises(WorkbookError, match=re.escape(said)):
        served.check_people(names)


def test_names_of_all_kinds_can_be_and_are_shown_as_text(tmp_path):
    names = [
        "José María",
        "مريم",
        "نیم\u200cفاصله",
        "李雷",
        "👩\u200d💻",
        "O'Brien",
        "a/b",
        "<b>x</b>",
        "..",
        "%s",
        "x" * 60,
    ]
    assert served.check_people([f"  {name} " for name in names]) == names
    tokens = served.links(tmp_path / "links.json", names)
    assert served.links(tmp_path / "links.json", names) == tokens and len(set(tokens.values())) == 12
    pairs, log = some_pairs(2), tmp_path / "log.jsonl"
    for name in names:
        labelled(log, name, "ab", pairs)
    page = served.board(names, pairs, log)
    assert page.count("2 of 2, finished") == 11 and "<b>x" not in page and "&lt;b&gt;x&lt;/b&gt; and .." in page
    assert page.count("100% (") == 11 * 10 / 2


def test_links_are_random_private_and_survive_a_restart(tmp_path):
    path = tmp_path / "links.json"
    first = served.links(path, ["ann", "ben"])
    assert served.links(path, ["ann", "cem"])["ann"] == first["ann"]
    assert served.links(path, ["ben"])["ben"] == first["ben"] and first[""] == served.links(path, [])[""]
    tokens = list(files.parse(path.read_bytes()).values())
    assert len(set(tokens)) == 4 and all(re.fullmatch("[0-9a-f]{32}", t) for t in tokens)
    assert path.stat().st_mode & 0o077 == 0
    for spoiled in ("{", "[]", '{"ann": 5}', '{"ann": "../board"}', "\xff"):
        path.write_text(spoiled, encoding="latin-1")
        with pytest.raises(WorkbookError, match="Delete it, and everybody gets a new one"):
            served.links(path, ["ann"])


def test_links_of_somebody_else_are_told_or_read(tmp_path, monkeypatch):
    path = tmp_path / "links.json"
    first = served.links(path, ["ann"])

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "chmod", denied)  # it is theirs, and we may read it
    assert served.links(path, ["ann"]) == first
    monkeypatch.setattr(type(path), "read_bytes", denied)
    with pytest.raises(WorkbookError, match="can't be read .Permission denied.*another --runs-dir"):
        served.links(path, ["ann"])


def test_a_port_that_is_taken_and_the_address_for_others():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        with pytest.raises(WorkbookError, match=f"127.0.0.1:{port} is not to be had .*another --port"):
            served.listen("127.0.0.1", port)
    assert served.address("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert "0.0.0.0" not in served.address("0.0.0.0", 80)


def test_thirty_people_for_five_minutes_lost_nothing():
    result = json.loads((ROOT / "benchmarks/results/served.json").read_text(encoding="utf-8"))
    paced, fast = result["phases"]
    assert result["people"] == 30 and result["lost"] == 0 and paced["seconds"] >= 300 and paced["clicks"] > 2500


# ---------------------------------------------------------------- the board


def cells(page):
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in page.split("<tr>")[1:]]


def test_the_board_shows_agreement_of_those_who_have_finished_only(tmp_path):
    pairs, log = some_pairs(4), tmp_path / "log.jsonl"
    page = served.board(["ann", "<b>"], pairs, log)
    assert "ann" in page and "0 of 4" in page and "&lt;b&gt;" in page and "<b>" not in page
    labelled(log, "ann", ["a", "a", "b", "tie"], pairs)
    labelled(log, "ben", ["a", "b", "b"], pairs)
    page = served.board(["ann", "ben"], pairs, log, there=["ben"])
    assert "4 of 4, finished" in page and "3 of 4" in page and "κ" not in page and "from two on" in page
    assert [row[3] for row in cells(page) if row] == ["", "open"]
    assert '<progress max="4" value="3" aria-label="labelled by ben">' in page
    labelled(log, "ben", ["skip"], pairs[3:])
    labelled(log, "eve", ["b"] * 4, pairs)  # not one of these people
    page = served.board(["ann", "ben"], pairs, log)
    low, high = fb.kappa_interval(list("aab"), list("abb"))
    assert ["ann and ben", "67% (21 to 94%)", f"0.40 (−{-low:.2f} to {high:.2f})", "3"] in cells(page)
    assert "eve" not in page
    log.write_text("what?\n")
    with pytest.raises(WorkbookError, match="line 1"):
        served.board(["ann"], pairs, log)


@pytest.mark.parametrize(
    "seconds, words",
    [(-4e8, "just now"), (5, "just now"), (61, "1 minute ago"), (3500, "58 minutes ago"), (3600, "1 hour ago")]
    + [(9000, "2 hours ago"), (86_400, "1 day ago"), (4e8, "4630 days ago")],
)
def test_when_the_last_choice_was_made_is_told_in_words(seconds, words):
    assert served._since(seconds) == words


def test_the_interval_of_kappa_covers():
    """The true value lies in 95% intervals about as often, at 20 pairs as at 100, and at full agreement."""
    rng = random.Random(0)
    for n, agree in ((20, 0.7), (40, 0.9), (100, 0.73)):
        kappa, covered, times = (agree - 0.5) / 0.5, 0, 400
        for _ in range(times):
            a = rng.choices("ab", k=n)
            b = [x if rng.random() < agree else "ba"["ab".index(x)] for x in a]
            low, high = fb.kappa_interval(a, b)
            covered += low <= kappa <= high
            assert low <= fb.cohen_kappa(a, b) <= high
        assert 0.92 <= covered / times <= 0.985, (n, agree, covered)
    low, high = fb.kappa_interval(list("abab"), list("abab"))
    assert low < 0.7 and high == pytest.approx(1)
    assert all(math.isnan(x) for x in fb.kappa_interval(["a"], ["a"]))


# ---------------------------------------------------------------- the card on such a page


def send(card, name, event_id):
    """What the browser sends for a press."""
    item = re.search('data-item="([^"]*)"', card.prompt.value)[1]
    one = {"id": event_id, "item": item, "name": name, "seconds": 2.0, "note": "", "strength": 0, "reasons": []}
    card.wire.value = json.dumps({"n": event_id, "looking": "", "choices": [one]})


def test_a_card_says_that_labels_are_gone_and_one_that_is_shut_still_takes_what_was_on_the_way(tmp_path):
    log = tmp_path / "log.jsonl"
    card = Labeller(some_pairs(6), log, annotator="ann", served=True, repeat_share=0)
    card.ready()
    for i in range(3):
        send(card, "a", f"{i:032x}")
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[1:]))  # somebody took her first label out
    send(card, "a", f"{3:032x}")
    assert "Saved: A is better. Somebody changed the file of labels. It no longer has 1 choice of" in card.status.value
    assert len(card.labels) == 3
    send(card, "b", f"{4:032x}")
    assert "Somebody" not in card.status.value and "Saved" in card.status.value
    on_the_way = card.prompt.value
    card.shut_down(served.ELSEWHERE)
    assert "asks nothing more" in card.prompt.value and card.learnt.value == ""
    assert all(card.buttons[name].layout.display == "none" for name in ("continue", "more", "tie", "undo"))
    card.prompt.value = on_the_way
    send(card, "tie", f"{5:032x}")
    assert f"{5:032x}" in {x["event_id"] for x in fb.read_events(log)[0]}
    assert "continue" not in card.words["busy"] and "Cells" not in card.words["busy"]


def test_at_the_end_there_is_nothing_to_continue_with_and_agreement_is_told(tmp_path):
    pairs, log = some_pairs(3), tmp_path / "log.jsonl"
    labelled(log, "ben", "aab", pairs)
    card = Labeller(pairs, log, annotator="ann", served=True, repeat_share=0)
    card.ready()
    for i in range(3):
        assert "ben" not in card.learnt.value
        send(card, "tie", f"{i:032x}")
    assert "All pairs are labelled" in card.prompt.value and "You chose as ben did in 0 of 3" in card.learnt.value
    assert card.buttons["continue"].layout.display == "none" and "the chapters learn" not in card.learnt.value


# ---------------------------------------------------------------- whose labels the chapters learn from


def test_annotator_may_name_somebody_who_labelled(tmp_path, capsys):
    pairs = some_pairs(30)
    labelled(tmp_path / "feedback.jsonl", "ann", "a" * 30, pairs)
    labelled(tmp_path / "feedback.jsonl", "ben", "b" * 25, pairs)
    labelled(tmp_path / "feedback.jsonl", "simulated:warm", "b" * 3, pairs)
    task = SimpleNamespace(stand_in="helpful")
    for name, n in (("you", 55), ("ann", 30), ("ben", 25)):
        ws = workspace.setup(ANNOTATOR=name, RUNS_DIR=str(tmp_path))
        got, who = yours.labels(ws, task)
        assert (ws.annotator, who, len(got)) == ("you", "you", n)
        assert {x["annotator"] for x in got} == ({"ann", "ben"} if name == "you" else {name})
    assert "only those of ben count: 25" in capsys.readouterr().out
    with pytest.raises(WorkbookError, match=r"ANNOTATOR is 'eve'; choose one of you, .*feedback.jsonl: ann, ben"):
        workspace.setup(ANNOTATOR="eve", RUNS_DIR=str(tmp_path))
    with pytest.raises(WorkbookError, match="choose one of you, helpful, terse, warm, brief"):
        workspace.setup(ANNOTATOR="ann", RUNS_DIR=str(tmp_path / "empty"))


# ---------------------------------------------------------------- in a browser


class Server:
    """`make label` for ann and ben, which can be killed and started again at the same port."""

    def __init__(self, runs, n):
        self.runs, self.log, self.port = runs, runs / "feedback.jsonl", 0
        files.write_jsonl(runs / "pairs.jsonl", some_pairs(n))
        self.start()

    def start(self, *names):
        """These people only, if any are named; the links of the others stay as they were."""
        command = [sys.executable, "-m", "rlhf_helpers.desk.served", *(names or ("ann", "ben"))]
        command += ["--runs-dir", str(self.runs), "--port", str(self.port)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        links = []
        while len(links) < 1 + len(names or "ab"):
            line = self.process.stdout.readline()
            assert line, f"it has stopped: {self.process.wait()}"
            links += re.findall("http://[^ \n]+", line)
        *people, self.board = links
        self.ann, self.ben = people if not names else (self.ann, self.ben)
        self.port = int(self.board.split(":")[2].split("/")[0])

    def stop(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        said = self.process.communicate(timeout=30)[0]
        return self.process.returncode, said

    def labels(self, n, name, timeout=20):
        """The labels of one person, once there are n of them."""
        end = time.time() + timeout
        while time.time() < end:
            events = fb.read_events(self.log)[0] if self.log.exists() else []
            mine = [x for x in fb.replay(events) if x["annotator"] == name]
            if len(mine) >= n:
                assert len(mine) == n
                return mine
            time.sleep(0.02)
        raise AssertionError(f"{name} does not have {n} labels")


@pytest.fixture
def server(tmp_path):
    if importlib.util.find_spec("shinywidgets") is None:  # not imported here: it would take over every widget
        pytest.skip("needs the extra label")
    s = Server(tmp_path, 8)
    yield s
    s.process.kill()
    s.process.wait()


def page_of(url):
    try:
        return urllib.request.urlopen(url, timeout=10).read().decode()
    except urllib.error.HTTPError as e:
        return f"{e.code} {e.read().decode()}"


@pytest.mark.slow
def test_a_page_that_was_cut_off_for_a_moment_is_no_second_person(server, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from served import Visitor

    first = Visitor(server.ann)
    again = Visitor(server.ann, cut_off=True)
    assert served.TOOK_OVER not in again.status
    while first.item:
        first.hear()  # the server had not noticed that it was gone; it asks nothing more
    assert "Saved" in again.click("a") and len(server.labels(1, "ann")) == 1
    assert served.TOOK_OVER in Visitor(server.ann).status
    assert Visitor(server.ben).status == ""


@pytest.mark.slow
@pytest.mark.browser
def test_a_page_whose_own_files_did_not_arrive_comes_again(server, chromium):
    """The server, or the network, went while the page was on its way: without Shiny's scripts or those of the card."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as p:
        chrome = p.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"])
        for missing in ("**/jquery*.js", "**/shiny.js", "**/libembed-amd.js", "**/output.js"):
            page, lost = chrome.new_page(), []

            def fail(route):
                lost.append(route.request.url)
                route.abort() if len(lost) == 1 else route.continue_()

            page.route(missing, fail)
            page.goto(server.ann)
            api.expect(page.locator(".rlhf-labeller")).to_contain_text("0 of 9 labelled", timeout=120_000)
            assert served.TOOK_OVER not in page.locator(".rlhf-labeller").inner_text()
            assert len(lost) > 1, f"no page asks for {missing}"
            page.close()
        chrome.close()


@pytest.mark.slow
@pytest.mark.browser
def test_two_people_label_by_link(server, chromium, tmp_path):
    """Clicks and keys at once, hostile text, a wrong token, a name twice, a log that is mended, a server that dies."""
    api = pytest.importorskip("playwright.sync_api")
    expect, pictures = api.expect, os.environ.get("WORKBOOK_SCREENSHOTS")
    expect.set_options(timeout=30_000)

    def card(page):
        return page.locator(".rlhf-labeller")

    def n_labelled(page, n):
        expect(card(page)).to_contain_text(re.compile(rf"(^|\D){n} of \d+ labelled"))
        page.wait_for_timeout(450)  # no choice counts sooner

    def picture(page, name):
        for width in (1366, 360) if pictures else ():
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, width)
            page.screenshot(path=f"{pictures}/served-{name}-{width}.png", full_page=True)

    with api.sync_playwright() as p:
        chrome = p.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"])
        console = []  # of all of them
        ann, ben, eve = (chrome.new_page(color_scheme=c) for c in ("light", "dark", "light"))
        for page in (ann, ben, eve):
            page.set_default_timeout(30_000)
            page.on("console", lambda m: console.append(m.text) if m.type in ("error", "warning") else None)
            page.on("pageerror", lambda e: console.append(str(e)))
        ann.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('denied'); }})")

        # nobody without a token
        wrong = server.ann[:-5] + "00000/"[-5:]
        assert page_of(wrong).startswith("404") and served.UNKNOWN in page_of(wrong)
        assert served.UNKNOWN in page_of(server.ann.rsplit("/", 2)[0])
        assert card(ann).count() == 0

        # two at once, one by keys and one by clicks
        ann.goto(server.ann)
        ben.goto(server.ben)
        for n in range(3):
            n_labelled(ann, n)
            ann.keyboard.press("a")  # from the start: nothing else is on the page
            n_labelled(ben, n)
            if n == 2:
                card(ben).get_by_role("region", name="Response A").click()
            else:
                card(ben).get_by_role("button", name=("B is better", "Tie")[n], exact=True).click()
        mine, theirs = server.labels(3, "ann"), server.labels(3, "ben")
        assert [x["choice"] for x in mine] == [x["left"] for x in mine] and theirs[1]["choice"] == "tie"
        assert ann.evaluate("window.hacked") is None and ben.evaluate("window.hacked") is None
        assert "agree" not in card(ann).inner_text() and "ben" not in card(ann).inner_text()
        axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
        for page in (ann, ben):
            assert [v["id"] for v in axe.run(page).response["violations"]] == []
        picture(ann, "light")
        picture(ben, "dark")
        board = page_of(server.board)
        assert board.count("3 of 8") == 2 and board.count(">open<") == 2 and "κ" not in board

        # a second page under one name: one goes on, the other says so
        eve.goto(server.ann)
        expect(card(ann)).to_contain_text("This link was opened in another page, so this one asks nothing more")
        expect(card(eve)).to_contain_text("two people must not share one")
        expect(card(ann).get_by_role("button", name="A is better", exact=True)).to_be_hidden()
        picture(ann, "elsewhere")
        picture(eve, "took-over")
        eve.close()
        ann.reload()

        n_labelled(ann, 3)
        assert console == []

        # a log in which somebody broke a line, and mended it
        whole = server.log.read_bytes()
        server.log.write_bytes(whole.replace(b'{"schema"', b'{schema"', 1))
        card(ann).get_by_role("button", name="Tie", exact=True).click()
        expect(card(ann)).to_contain_text("tell whoever gave you this link")
        expect(card(ann)).to_contain_text("line 1")
        expect(card(ann)).to_contain_text("Mend or delete the line. What you chose meanwhile is kept in this page")
        assert "line 1" in page_of(server.board)
        picture(ann, "broken")
        server.log.write_bytes(whole)
        server.labels(4, "ann")

        # a server that is killed: choices wait in the page, are told, and arrive once
        n_labelled(ann, 4)
        server.stop()
        expect(ann.get_by_role("alert").first).to_contain_text("The server has stopped or cannot be reached")
        for word in ("1 choice", "2 choices"):
            card(ann).get_by_role("button", name="B is better", exact=True).click()
            expect(card(ann)).to_contain_text(f"{word} kept in this page")
            ann.wait_for_timeout(500)
        picture(ann, "away")
        asked = []  # whoever leaves now would lose them
        ann.once("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
        ann.evaluate("setTimeout(() => location.reload(), 10)")
        ann.wait_for_timeout(1000)
        assert asked == ["beforeunload"]
        assert len(server.labels(4, "ann")) == 4
        links = server.ann, server.ben, server.board
        server.start("ben")  # without her: she is told, and nothing is lost
        expect(ann.get_by_role("alert").first).to_contain_text("this link does not hold any more")
        picture(ann, "no-link")
        n_labelled(ben, 3)  # his page has come back; one that was still on its way is the next test's
        server.stop()
        server.start()
        assert (server.ann, server.ben, server.board) == links
        server.labels(6, "ann")
        n_labelled(ann, 6)
        expect(ann.get_by_role("alert").first).to_be_hidden()
        assert served.TOOK_OVER not in card(ann).inner_text()
        assert ann.evaluate("document.activeElement.matches('.rlhf-labeller')"), "keys go on working"

        # to the end: then, and only then, who agrees with whom
        for page, name, n in ((ann, "ann", 6), (ben, "ben", 3)):
            total = int(re.search(r"of (\d+) labelled", card(page).inner_text())[1])
            for done in range(n, total):
                n_labelled(page, done)
                card(page).get_by_role("button", name="A is better", exact=True).click()
                server.labels(done + 1, name)
            expect(card(page)).to_contain_text("All pairs are labelled")
        expect(card(ben)).to_contain_text("You chose as ann did")
        picture(ben, "end")
        ben.goto(server.board)
        expect(ben.get_by_text("ann and ben")).to_be_visible()
        expect(ben.get_by_text("8 of 8, finished")).to_have_count(2)
        picture(ben, "board-dark")
        assert [v["id"] for v in axe.run(ben).response["violations"]] == []
        ann.goto(server.board)
        picture(ann, "board-light")
        ann.goto(wrong)
        picture(ann, "unknown")
        server.log.write_bytes(b"?" + server.log.read_bytes())
        ann.goto(server.ann)
        expect(ann.get_by_role("alert")).to_contain_text("This page tries again by itself")
        picture(ann, "refused")
        ann.goto(server.board)
        picture(ann, "board-refused")
        server.log.write_bytes(server.log.read_bytes()[1:])
        console.clear()  # until here there are those of pages and servers that were not there
        ann.goto(server.ann)
        n_labelled(ann, total)
        assert console == []
        began = time.time()  # Ctrl-C while pages are open
        code, said = server.stop(signal.SIGINT)
        assert code == 0 and "Stopped. Every choice that was confirmed is in the log" in said
        assert time.time() - began < 15
        expect(ann.get_by_role("alert").first).to_contain_text("The server has stopped")
        expect(ben.get_by_role("heading").first).to_contain_text("This is what it last said")  # the board, by itself
        expect(ben.get_by_text("8 of 8, finished")).to_have_count(2)
        chrome.close()
    rows = fb.to_preferences(fb.replay(fb.read_events(server.log)[0]))[0]
    assert json.dumps(rows) and len({x["prompt"] for x in rows}) > 3
