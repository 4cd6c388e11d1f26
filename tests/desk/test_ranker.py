"""The card for ranking, without a browser."""

import pytest

from rlhf_helpers.desk import ranker
from rlhf_helpers.desk.ranker import Ranker
from rlhf_helpers.engine.files import WorkbookError
from rlhf_helpers.lesson import feedback as fb

HOSTILE = '<img src=x onerror="window.hacked=1">'


def items(n=3, k=3):
    return [
        {"rank_id": f"r{i}", "prompt": f"Question {i}?", "responses": [f"answer {i} {j}" for j in range(k)]}
        for i in range(n)
    ]


@pytest.fixture
def shown(tmp_path, monkeypatch):
    clock = type("Clock", (), {"now": 100.0, "monotonic": lambda self: self.now})()
    monkeypatch.setattr(ranker, "time", clock)
    monkeypatch.setattr("IPython.display.display", lambda *_: None)

    def show(some=None):
        x = Ranker(some or items(), tmp_path / "log.jsonl")
        x.show()
        x.clock = clock
        return x

    return show


def press(x, *places):
    for place in places:
        x.clock.now += 2
        (x.back if place is None else x.buttons[place]).click()


def test_pressed_from_best_to_worst_the_last_one_follows_by_itself(shown):
    x = shown(items(2, 4))
    texts = [x.current["responses"][i] for i in x.order]
    press(x, 2, 0, 3)
    labels = fb.replay(fb.read_events(x.path)[0])
    rank = {texts[place]: n for n, place in enumerate([2, 0, 3, 1])}
    rows, left_out = fb.to_preferences(labels)
    assert len(rows) == 6 and not left_out and all(rank[r["chosen"]] < rank[r["rejected"]] for r in rows)
    assert "Saved: a ranking, which is 6 pairs. 1 of 2 ranked." in x.status.value and not x.errors
    assert x.current["rank_id"] == "r1"


def test_undo_takes_back_a_press_and_then_a_whole_ranking(shown):
    x = shown()
    press(x, 1, None)
    assert x.pressed == [] and not x.path.exists()
    press(x, 1, 0, None)
    assert fb.replay(fb.read_events(x.path)[0]) == [] and x.current["rank_id"] == "r0"
    press(x, None)
    assert "nothing to take back" in x.status.value


def test_a_double_press_and_a_second_press_on_the_same_answer_count_once(shown):
    x = shown()
    press(x, 1)
    x.buttons[0].click()  # at once
    press(x, 1)
    assert x.pressed == [1] and x.buttons[1].description == "B is number 1"


def test_it_goes_on_where_the_log_ends_and_half_a_ranking_is_asked_again(shown):
    x = shown()
    press(x, 1, 0)
    whole = fb.ranking_events("r1", *(items()[1][k] for k in ("prompt", "responses")), [3, 2, 1], "you")
    fb.append_event(x.path, whole[0])  # a crash after the first of its three pairs
    y = shown()
    assert y.current["rank_id"] == "r1"
    y.rank([1, 2, 3])
    rows = fb.to_preferences(fb.replay(fb.read_events(x.path)[0]))[0]
    assert len(rows) == 6 and rows[3]["chosen"] == "answer 1 0", "what the crash left does not count"


def test_undo_takes_the_last_ranking_back_whatever_the_clock_says(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(fb.time, "time", lambda: now[0])
    x = Ranker(items(2), tmp_path / "log.jsonl")
    x.rank([1, 2, 3])
    now[0] = 10.0
    x.rank([1, 2, 3])
    assert x.undo() == "r1" and x.current["rank_id"] == "r1" and x.undo() == "r0" and x.undo() is None


def test_equal_ranks_are_ties(tmp_path):
    x = Ranker(items(1), tmp_path / "log.jsonl")
    assert [e["choice"] for e in x.rank([1, 1, 2])] == ["tie", "a", "a"] and x.current is None
    with pytest.raises(WorkbookError, match="nothing left"):
        x.rank([1, 2, 3])


def test_hostile_text_is_escaped(shown):
    x = shown([{"rank_id": "r", "prompt": HOSTILE, "responses": [HOSTILE, "b", "c"]}])
    page = "".join(w.value for w in (x.prompt, *x.answers, x.status))
    assert "<img" not in page and "&lt;img" in page


def test_a_full_disk_is_told_and_the_ranking_is_asked_again(shown, monkeypatch):
    x = shown()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fb.os, "fsync", full)
    press(x, 0, 1)
    assert 'role="alert"' in x.status.value and "No space left" in x.status.value and x.current["rank_id"] == "r0"
    assert x.pressed == [0] and x.buttons[0].description == "A is number 1"  # as it is on the screen
    monkeypatch.undo()
    press(x, 1)
    assert len(fb.replay(fb.read_events(x.path)[0])) == 3 and x.current["rank_id"] == "r1"


@pytest.mark.parametrize("written", [1, 2])
def test_a_disk_that_fills_up_within_a_ranking_leaves_no_pair_twice(shown, monkeypatch, written):
    x, append, tries = shown(), fb.append_event, []

    def some(*given):
        tries.append(given)
        if len(tries) == written + 1:
            raise WorkbookError("The label was not saved (the disk is full).")
        return append(*given)

    monkeypatch.setattr(fb, "append_event", some)
    press(x, 2, 1)
    assert 'role="alert"' in x.status.value and len(fb.replay(fb.read_events(x.path)[0])) == written
    texts = [x.current["responses"][i] for i in x.order]
    press(x, 0)  # on another one, this time
    labels = fb.replay(fb.read_events(x.path)[0])
    assert len({fb.pair_key(y) for y in labels}) == len(labels) == 3 and "1 of 3 ranked" in x.status.value
    rank = [texts[place] for place in (2, 0, 1)]
    assert all(rank.index(r["chosen"]) < rank.index(r["rejected"]) for r in fb.to_preferences(labels)[0])


def test_the_same_ranking_in_two_notebooks_counts_once_the_later_one(shown):
    x, y = shown(), shown()
    press(x, 0, 1)
    y.rank([3, 2, 1])
    labels = fb.replay(fb.read_events(x.path)[0])
    assert len(labels) == 3 and all(z["choice"] == "b" for z in labels)
    press(x, None)
    assert fb.replay(fb.read_events(x.path)[0]) == []


@pytest.mark.parametrize(
    "some, words",
    [
        ([], "nothing to rank"),
        ([{"rank_id": "x", "prompt": "?"}], "can't be ranked"),
        ([{"rank_id": "x", "prompt": "?", "responses": ["a"]}], "two to four"),
        ([{"rank_id": "x", "prompt": "?", "responses": list("abcde")}], "two to four"),
        (items(1) + items(1), "earlier item"),
    ],
)
def test_bad_items_are_explained(tmp_path, some, words):
    with pytest.raises(WorkbookError, match=words):
        Ranker(some, tmp_path / "log.jsonl")
