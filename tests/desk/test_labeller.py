"""The queue, the log and the widget, without a browser."""

import contextlib
import html
import json
import re
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_helpers.desk import card
from rlhf_helpers.desk import labeller as lab
from rlhf_helpers.desk.labeller import Labeller
from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.lesson import feedback as fb
from rlhf_helpers.lesson import loop
from rlhf_helpers.world.annotators import Annotator

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script></div>&amp; $5 and $6 *b* \x00\x1b[31m'


def make_pairs(n=12):
    return [
        {"pair_id": f"p{i}", "prompt": f"Question {i}?", "response_a": f"good {i}", "response_b": f"bad {i}"}
        for i in range(n)
    ]


class Likes:
    """A simulated annotator who always takes the response that starts with a word."""

    def __init__(self, word="good", name="simulated:likes"):
        self.word, self.name = word, name

    def choose(self, prompt, left, right):
        if left.startswith(self.word) == right.startswith(self.word):
            return "tie"
        return "left" if left.startswith(self.word) else "right"


def finish(labeller, choice="a"):
    while not labeller.done:
        labeller.choose(choice)


# ---------------------------------------------------------------- queue


def test_sides_are_mixed_the_same_for_a_seed_and_stored(tmp_path):
    pairs = make_pairs(200)
    sides = [lab.left_side(p["pair_id"], 0) for p in pairs]
    assert sides == [lab.left_side(p["pair_id"], 0) for p in pairs]
    assert 70 < sides.count("a") < 130
    assert sides != [lab.left_side(p["pair_id"], 1) for p in pairs]
    x = Labeller(pairs, tmp_path / "log.jsonl")
    left = x.current["left"]
    assert x.choose("a")["choice"] == left == fb.read_events(x.path)[0][0]["left"]


def test_b_names_the_response_on_the_right(tmp_path):
    x = Labeller(make_pairs(), tmp_path / "log.jsonl")
    left = x.current["left"]
    assert x.choose("b")["choice"] == lab.other(left)


def test_repeats_come_later_with_sides_flipped(tmp_path):
    x = Labeller(make_pairs(40), tmp_path / "log.jsonl", repeat_share=0.25)
    finish(x)
    assert len(x.labels) == 50 and sum(e["is_repeat"] for e in x.labels) == 10
    for i, e in enumerate(x.labels):
        if e["is_repeat"]:
            j = next(j for j, f in enumerate(x.labels) if f["pair_id"] == e["pair_id"])
            assert i - j >= lab.REPEAT_AFTER and e["left"] != x.labels[j]["left"]
    assert x.summary()["consistent"] == 0  # who always says "left" contradicts themselves
    assert x.summary()["left"] == 50


def test_the_repeat_of_a_skipped_pair_does_not_come(tmp_path):
    x = Labeller(make_pairs(40), tmp_path / "log.jsonl", repeat_share=0.25)
    finish(x, "skip")
    assert len(x.labels) == 40 and x._counts() == (40, 40)


def test_orders(tmp_path):
    pairs = make_pairs(50)
    ids = lambda order, seed=0: [int(p["pair_id"][1:]) for p in lab.ordered(pairs, order, seed)]  # noqa: E731
    assert ids("given") == list(range(50))
    assert sorted(ids("random")) == list(range(50)) and ids("random") != ids("random", 1)
    assert ids([4, 2, 4]) == [4, 2]
    by_margin = ids(lambda p: -int(p["pair_id"][1:]))
    assert sorted(by_margin) == list(range(50))
    kept = [x for i, x in enumerate(by_margin) if i % 5 != 4]
    assert kept == sorted(kept, reverse=True)
    for bad in ("upside down", [50], [-1], ["p1"]):
        with pytest.raises(WorkbookError, match="order"):
            ids(bad)


@pytest.mark.parametrize(
    "pairs, word",
    [([], "no pairs"), ([{"pair_id": "x"}], "prompt"), ([3], "pair_id"), (make_pairs(2) + make_pairs(1), "earlier")],
)
def test_bad_pairs_are_explained(tmp_path, pairs, word):
    with pytest.raises(WorkbookError, match=word):
        Labeller(pairs, tmp_path / "log.jsonl")


def test_bad_choices_are_explained(tmp_path):
    x = Labeller(make_pairs(1), tmp_path / "log.jsonl")
    with pytest.raises(WorkbookError, match="left"):
        x.choose("left")
    assert not x.path.exists()
    x.choose("tie")
    with pytest.raises(WorkbookError, match="All pairs"):
        x.choose("tie")
    with pytest.raises(WorkbookError, match="name"):
        Labeller(make_pairs(1), tmp_path / "log.jsonl", annotator="")


# ---------------------------------------------------------------- log, undo, resume


def test_resume_goes_on_at_the_right_pair_and_undo_reaches_back(tmp_path):
    path = tmp_path / "log.jsonl"
    x = Labeller(make_pairs(), path)
    for c in ("a", "b", "tie"):
        x.choose(c)
    y = Labeller(make_pairs(), path)
    assert y.current == x.current and y.labels == x.labels
    assert y.undo()["choice"] == "tie" and y.current["pair"]["pair_id"] == "p2"
    assert Labeller(make_pairs(), path).current == y.current
    y.undo(), y.undo()
    assert y.undo() is None and y.current["pair"]["pair_id"] == "p0"
    assert len(path.read_text().splitlines()) == 6  # history stays


def test_undo_after_the_order_changed_shows_the_undone_pair(tmp_path):
    Labeller(make_pairs(), tmp_path / "log.jsonl", order=[7]).choose("a")
    y = Labeller(make_pairs(), tmp_path / "log.jsonl")
    y.undo()
    assert y.current["pair"]["pair_id"] == "p7"


def test_two_annotators_and_two_notebooks_on_one_file(tmp_path):
    path = tmp_path / "log.jsonl"
    ann, ann2, bob = (Labeller(make_pairs(), path, annotator=n) for n in ("ann", "ann", "bob"))
    ann.choose("a")
    bob.choose("b")
    ann2.choose("b")  # did not know; the log keeps both, and from here on it does
    assert ann2.current["pair"]["pair_id"] == "p1"
    ann2.choose("a")
    ann.choose("tie")  # was still showing p1
    assert ann.current["pair"]["pair_id"] == ann2.current["pair"]["pair_id"] == "p2"
    assert bob.current["pair"]["pair_id"] == "p1"
    assert [e["annotator"] for e in fb.read_events(path)[0]] == ["ann", "bob", "ann", "ann", "ann"]


def test_pairs_with_the_same_id_but_new_texts_are_asked_again(tmp_path):
    finish(Labeller(make_pairs(3), tmp_path / "log.jsonl"))
    new = [{**p, "response_a": "another"} for p in make_pairs(3)]
    assert Labeller(new, tmp_path / "log.jsonl").current["pair"]["pair_id"] == "p0"


def test_simulated_labels_go_the_same_way_and_keep_their_name(tmp_path):
    x = Labeller(make_pairs(30), tmp_path / "log.jsonl")
    x.choose("tie")
    assert x.label_with(Likes(), 5) == 5
    assert x.label_with(Likes()) == 28  # resumed; 30 pairs and 3 repeats
    assert x.annotator == "you" and len(x.labels) == 1
    events = fb.read_events(x.path)[0]
    made = [e for e in events if e["annotator"] == "simulated:likes"]
    assert len(made) == 33 and {e["choice"] for e in made} == {"a"} and made[0]["seconds"] is None
    assert {e["left"] for e in made} == {"a", "b"}


def test_a_real_simulated_annotator(tmp_path):
    pair = {
        "pair_id": "p",
        "prompt": "What does a cow eat?",
        "response_a": "A cow eats grass.",
        "response_b": "You really should know this. Fish.",
    }
    x = Labeller([pair], tmp_path / "log.jsonl")
    x.label_with(Annotator("helpful", noise=0, temperature=0.01))
    (event,) = fb.read_events(x.path)[0]
    assert (event["annotator"], event["choice"]) == ("simulated:helpful", "a")


def test_an_error_in_the_annotator_gives_the_name_back(tmp_path):
    x = Labeller(make_pairs(), tmp_path / "log.jsonl")
    with pytest.raises(AttributeError):
        x.label_with(type("Broken", (), {"name": "simulated:broken"}))
    assert x.annotator == "you"


def _label_all(path, name):
    Labeller(make_pairs(40), path, annotator=name).label_with(Likes(name=name))


@pytest.mark.slow
def test_two_processes_label_into_one_file(tmp_path, processes):
    names = ("simulated:one", "simulated:two")
    workers = [processes.Process(target=_label_all, args=(tmp_path / "log.jsonl", n)) for n in names]
    for w in workers:
        w.start()
    for w in workers:
        w.join(90)
    for name in names:
        x = Labeller(make_pairs(40), tmp_path / "log.jsonl", annotator=name)
        assert x.done and len(x.labels) == 44


ACTIONS = st.lists(
    st.one_of(st.sampled_from(["a", "b", "tie", "both_bad", "skip", "undo", "resume"]), st.integers(1, 400)),
    max_size=40,
)  # a number: a crash after so many bytes


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_any_history_replays_to_the_same_state(actions):
    with tempfile.TemporaryDirectory() as folder:
        path, expected = Path(folder) / "log.jsonl", []
        make = lambda: Labeller(make_pairs(15), path, repeat_share=0.2)  # noqa: E731
        x = make()
        for action in actions:
            if action == "resume":
                x = make()
            elif isinstance(action, int):
                line = json.dumps(fb.label_event(make_pairs(1)[0], "a", "a", "you", note="x" * 500)).encode()
                with open(path, "ab") as f:
                    f.write(line[:action])
                x = make()
                assert x.warnings
            elif action == "undo":
                gone = x.undo()
                assert (gone or {}).get("event_id") == (expected.pop() if expected else None)
            elif not x.done:
                expected.append(x.choose(action)["event_id"])
            assert [e["event_id"] for e in x.labels] == expected
        fresh = make()
        assert [e["event_id"] for e in fresh.labels] == expected
        assert fresh.current == x.current


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ann", "ann again", "bob"]),
        st.sampled_from(["a", "b", "tie", "skip", "undo", "resume", "torn"]),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_notebooks_and_annotators_on_one_file_lose_nothing(steps):
    """Two annotators, one of them in two notebooks that do not know of each other, with crashes between."""
    with tempfile.TemporaryDirectory() as folder:
        path, standing, whole = Path(folder) / "log.jsonl", {}, b""
        open_ones = {}
        for who, action in steps:
            if who not in open_ones or action == "resume":
                open_ones[who] = Labeller(make_pairs(6), path, annotator=who.split()[0], repeat_share=0.3)
            x = open_ones[who]
            if action == "torn":
                with open(path, "ab") as f:
                    f.write(b'{"schema": 1, "ev')  # a crash of another program; the next write puts it aside
            elif action == "undo":
                gone = x.undo()
                standing.pop((gone or {}).get("event_id"), None)
            elif action != "resume" and not x.done:
                on_screen = x.current["pair"]
                label = x.choose(action)
                standing[label["event_id"]] = label
                assert label["pair_id"] == on_screen["pair_id"]
            events = b"".join(line + b"\n" for line in path.read_bytes().split(b"\n")[:-1]) if path.exists() else b""
            assert events.startswith(whole), "a line that was there has changed"
            whole = events
        for name in ("ann", "bob"):
            fresh = Labeller(make_pairs(6), path, annotator=name, repeat_share=0.3)
            assert fresh.labels == [x for x in standing.values() if x["annotator"] == name]


def _label_and_tell(path, pipe):
    x = Labeller(make_pairs(5000), path, repeat_share=0)
    while True:
        pipe.send(x.choose("a")["event_id"])


@pytest.mark.slow
def test_a_killed_process_leaves_every_label_that_it_confirmed(tmp_path, processes):
    for after in (3, 17):
        ours, theirs = processes.Pipe(duplex=False)
        worker = processes.Process(target=_label_and_tell, args=(tmp_path / "log.jsonl", theirs))
        worker.start()
        told = [ours.recv() for _ in range(after)]
        worker.kill()
        worker.join(30)
        theirs.close()
        with contextlib.suppress(EOFError, OSError):
            while True:
                told.append(ours.recv())
        x = Labeller(make_pairs(5000), tmp_path / "log.jsonl", repeat_share=0)
        assert set(told) <= {e["event_id"] for e in x.labels}
        assert [e["pair_id"] for e in x.labels] == [f"p{i}" for i in range(len(x.labels))]  # none twice, no gap


# ---------------------------------------------------------------- what the browser sends


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """A labeller on the screen, with a clock that the test moves."""
    clock = type("Clock", (), {"now": 100.0, "monotonic": lambda self: self.now})()
    monkeypatch.setattr(lab, "time", clock)
    monkeypatch.setattr("IPython.display.display", lambda *_: None)

    def show(pairs=None, **more):
        x = Labeller(pairs or make_pairs(), tmp_path / "log.jsonl", **more)
        x.show()
        x.clock = clock
        return x

    return show


def send(x, *entries, looking="", **more):
    """As the card's script does: all choices that were not confirmed yet, in one message."""
    x.clock.sent = getattr(x.clock, "sent", 0) + 1
    x.wire.value = json.dumps({"n": x.clock.sent, "looking": looking, "choices": with_all(entries), **more})


def with_all(entries):
    return [{"note": "", "strength": 0, "reasons": [], "seconds": 2.0, **e} for e in entries]


def entry(x, pair, name, number, **more):
    """The choice that a page made of the pair with this number."""
    place = next(i for i, (p, again) in enumerate(x.queue) if p["pair_id"] == f"p{pair}" and not again)
    return {"id": f"{number:032x}", "item": x.names[place], "name": name, **more}


def test_choices_made_while_the_kernel_was_busy_are_saved_with_the_times_of_the_browser(shown):
    x = shown()
    made = [entry(x, i, "a", i, seconds=1.5 + i, note=f"note {i}", strength=i) for i in range(3)]
    send(x, *made)
    assert [(e["pair_id"], e["seconds"], e["note"]) for e in x.labels] == [
        (f"p{i}", 1.5 + i, f"note {i}") for i in range(3)
    ]
    assert [e["strength"] for e in x.labels] == [None, 1, 2] and [e["event_id"] for e in x.labels] == [
        e["id"] for e in made
    ]
    assert "Saved 3 choices" in x.status.value and all(e["id"] in x.status.value for e in made)
    assert x.current["pair"]["pair_id"] == "p3" and not x.errors


def test_a_choice_that_comes_twice_is_one_label_even_after_a_restart(shown):
    x = shown()
    first, second = entry(x, 0, "a", 1), entry(x, 1, "b", 2)
    send(x, first)
    send(x, first, second)
    assert len(x.labels) == 2
    y = shown()  # a new kernel; the page had not heard that the second was saved
    send(y, second, entry(y, 2, "tie", 3))
    assert len(y.labels) == 3 and second["id"] in y.status.value and not y.errors


def test_messages_that_come_in_two_threads_at_once_are_one_label_each(shown):
    """A front end may send what widgets say beside the cells, and the same again after them."""
    x = shown(make_pairs(60), repeat_share=0.0)
    made = [entry(x, i, "a", i) for i in range(60)]

    def deliver():
        for n in range(0, 60, 4):
            x._deliver({"new": json.dumps({"n": n, "looking": "", "choices": with_all(made[max(0, n - 8) : n + 4])})})

    threads = [threading.Thread(target=deliver) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert [e["event_id"] for e in fb.read_events(x.path)[0]] == [e["id"] for e in made] and not x.errors
    assert x.done and len(x.labels) == 60


def test_undo_in_the_outbox_takes_back_the_choice_before_it(shown):
    x = shown()
    send(x, entry(x, 0, "a", 1), {"id": "2" * 32, "item": "", "name": "undo"}, entry(x, 0, "b", 3))
    assert [e["event_id"] for e in x.labels] == [f"{3:032x}"]
    assert len(fb.read_events(x.path)[0]) == 3


def test_an_undo_on_the_way_takes_back_its_own_choice_and_no_other(shown):
    """Two pages of one person: what the other one saved between a choice and its undoing stays."""
    x = shown()
    mine, theirs = entry(x, 0, "a", 1), entry(x, 1, "b", 2)
    back = {"id": "3" * 32, "item": "", "name": "undo", "of": mine["id"]}
    send(x, mine, page="a" * 32)
    send(x, theirs, page="b" * 32)
    send(x, mine, back, page="a" * 32)
    assert [e["event_id"] for e in x.labels] == [theirs["id"]] and "Took the last label back" in x.status.value
    send(x, entry(x, 1, "tie", 4), {"id": "5" * 32, "item": "", "name": "undo", "of": f"{4:032x}"})  # it was refused
    assert [e["event_id"] for e in x.labels] == [theirs["id"]] and "nothing to take back" in x.status.value
    assert x.errors == []


def test_what_became_of_several_choices_is_told_for_each_kind(shown):
    x = shown()
    send(x, entry(x, 0, "a", 1))
    some = [entry(x, i, "b", 10 + i) for i in range(4)]
    send(x, *some, {**entry(x, 4, "a", 20), "item": "gone"}, entry(x, 5, "a", 21, seconds=0.1))
    said = html.unescape(x.status.value)
    assert "Saved 3 choices that had waited. Not saved: that pair was already labelled." in said
    assert "not asked here any more. Not counted: that took under 0.4 s" in said and len(x.labels) == 4
    send(x, *[entry(x, i, "tie", 30 + i) for i in range(3)])
    assert "Not saved: 3 choices about pairs that were already labelled." in x.status.value and len(x.labels) == 4
    send(x, entry(x, 6, "a", 40), {"id": "6" * 32, "item": "", "name": "undo", "of": f"{40:032x}"})
    assert "Saved 1 choice that had waited. Took the last label back." in x.status.value and len(x.labels) == 4


def test_an_answer_names_the_page_that_it_is_for(shown):
    x = shown()
    send(x, entry(x, 0, "a", 1), page="a" * 32)
    assert f'data-page="{"a" * 32}"' in x.status.value
    send(x, entry(x, 1, "a", 2), page='"><script>')
    assert 'data-page=""' in x.status.value and "script" not in x.status.value
    press(x, "a")
    assert 'data-page=""' in x.status.value and len(x.labels) == 3


def test_what_was_judged_elsewhere_or_is_not_asked_any_more_is_not_saved_and_told(shown):
    x = shown()
    Labeller(make_pairs(), x.path).choose("tie")  # another tab of the same person
    send(x, entry(x, 0, "a", 1))
    assert len(x.labels) == 1 and "already labelled" in x.status.value and f"{1:032x}" in x.status.value
    send(x, {**entry(x, 1, "a", 2), "item": "gone"})
    assert len(x.labels) == 1 and "not asked here any more" in x.status.value and not x.errors


def test_a_full_disk_refuses_the_choices_of_the_outbox_in_a_sentence_and_keeps_their_pairs(shown, monkeypatch):
    x = shown()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fb.os, "fsync", full)
    send(x, entry(x, 0, "a", 1, note="why", strength=2, reasons=["kind"]))
    assert 'role="alert"' in x.status.value and "No space left" in x.status.value
    assert (x.note.value, x.strength.value, x.reasons["kind"].value) == ("why", 2, True)
    assert f"{1:032x}" in x.status.value and x.current["pair"]["pair_id"] == "p0"
    monkeypatch.undo()
    send(x, entry(x, 0, "a", 2))
    assert len(x.labels) == 1


def full(_):
    raise OSError(28, "No space left on device")


def test_what_was_sent_before_the_page_heard_that_a_choice_was_refused_waits_for_the_reader(shown, monkeypatch):
    """Else one after the other would be refused, and only the last one told."""
    x = shown()
    some = [entry(x, i, "a", i, note=f"note {i}") for i in range(4)]
    send(x, some[0], heard=str(x.replies))
    before = str(x.replies)
    monkeypatch.setattr(fb.os, "fsync", full)
    send(x, *some[1:3], heard=before)
    refusal = x.status.value
    send(x, *some[1:], heard=before)
    assert x.status.value == refusal and "No space left" in refusal and some[2]["id"] not in refusal
    assert "Saved" not in refusal and (x.note.value, x.current["pair"]["pair_id"]) == ("note 1", "p1")
    assert "Question 1?" in x.prompt.value and all(a.value for a in x.answers)
    monkeypatch.undo()
    send(x, entry(x, 1, "b", 9, note="note 1"), *some[2:], heard=str(x.replies))
    assert [e["note"] for e in x.labels] == ["note 0", "note 1", "note 2", "note 3"] and x.note.value == ""
    assert "Saved 3 choices" in x.status.value


def test_of_two_in_one_message_the_second_is_not_said_to_be_saved(shown, monkeypatch):
    x, write, tries = shown(), fb._write, []

    def second(*given):
        tries.append(given)
        return write(*given) if len(tries) != 2 else full(0)

    monkeypatch.setattr(fb, "_write", second)
    send(x, entry(x, 0, "a", 1), entry(x, 1, "a", 2))
    assert len(x.labels) == 1 and "Saved" not in x.status.value and "Question 1?" in x.prompt.value
    assert "1 of 13 labelled" in x.progress.value


def test_a_hasty_choice_of_the_browser_does_not_count(shown):
    x = shown()
    send(x, entry(x, 0, "a", 1, seconds=0.2))
    assert not x.labels and "Not counted" in x.status.value


def test_the_pair_that_the_page_shows_stays_on_the_screen(shown):
    x = shown()
    send(x, entry(x, 0, "a", 1), looking=entry(x, 7, "a", 0)["item"])
    assert x.current["pair"]["pair_id"] == "p7"


@pytest.mark.parametrize("junk", ["", "[", "3", '{"choices": [{}]}', '{"choices": [{"id": "\\"><b>", "name": "a"}]}'])
def test_junk_on_the_wire_is_an_error_that_is_shown_and_saves_nothing(shown, junk):
    x = shown()
    x.wire.value = "x"  # so that even "" is a change
    x.wire.value = junk
    assert x.errors and not x.labels and 'role="alert"' in x.status.value


def test_the_page_holds_the_open_pairs_for_a_busy_kernel_up_to_a_limit(shown, monkeypatch):
    x = shown()
    press(x, "a")
    x.show()
    assert x.store.value.count("<template") == 11 and x.names[0] not in x.store.value
    press(x, "b")
    assert f'data-judged="{x.names[1]}"' in x.progress.value  # of those in the page
    press(x, "undo")
    assert 'data-judged=""' in x.progress.value
    monkeypatch.setattr(card, "STORED", 5000)
    x.show()
    assert 0 < x.store.value.count("<template") < 11 and len(x.store.value) < 6000


# ---------------------------------------------------------------- widget


def is_shown(widget):
    return widget.layout.display != "none"


def press(x, name, after=2.0):
    x.clock.now += after
    x.buttons[name].click()


def test_clicks_label_undo_and_show_progress(shown):
    x = shown()
    for name in ("a", "b", "tie", "both_bad", "skip", "undo"):
        press(x, name)
    assert [e["seconds"] for e in x.labels] == [2.0] * 4 and not x.errors
    assert "4 of 13 labelled (12 pairs, 1 of them a second time, sides swapped" in x.progress.value
    assert " · 30 a minute · less than a minute left" in x.progress.value
    assert 'aria-valuenow="4"' in x.progress.value and "width:30.8%" in x.progress.value
    assert 'role="status"' in x.status.value and "back" in x.status.value
    words = [b.description for b in x.buttons.values()]
    assert words == ["A is better", "B is better", "Tie", "Both bad", "Skip", "Undo", "Continue", "Label on"]


def test_a_is_the_response_on_the_screen(shown):
    x = shown()
    for _ in range(8):
        seen = "good" if "good" in x.answers[0].value else "bad"
        press(x, "a")
        label = x.labels[-1]
        assert label["response_" + label["choice"]].startswith(seen)


def test_double_clicks_and_hasty_clicks_do_not_count(shown):
    x = shown()
    press(x, "a")
    press(x, "a", 0.2)
    assert len(x.labels) == 1 and "Saved" in x.status.value
    press(x, "a", 0.15)  # 0.35 s after the pair appeared
    assert len(x.labels) == 1 and "Not counted" in x.status.value
    press(x, "a", 0.1)
    assert len(x.labels) == 2
    press(x, "undo", 0.1)  # the second half of a double click
    assert len(x.labels) == 2


def test_widgets_are_not_rebuilt_or_disabled(shown):
    x = shown()
    before = list(x.widget.children), [b.disabled for b in x.buttons.values()]
    for name in ("a", "undo", "tie"):
        press(x, name)
    assert before == (list(x.widget.children), [False] * 8)


def test_strength_and_note_are_stored_and_cleared(shown):
    x = shown(ask_strength=True, ask_note=True)
    x.strength.value, x.note.value = 3, " polite \n"
    press(x, "a")
    assert (x.labels[0]["strength"], x.labels[0]["note"]) == (3, "polite")
    assert (x.strength.value, x.note.value) == (0, "")


def test_undo_gives_note_strength_and_reasons_back(shown):
    x = shown(ask_strength=True, ask_note=True)
    x.strength.value, x.note.value, x.reasons["kind"].value = 2, "polite", True
    press(x, "b")
    assert x.labels[0]["reasons"] == ["kind"] and not x.reasons["kind"].value
    press(x, "undo")
    assert (x.strength.value, x.note.value, x.reasons["kind"].value) == (2, "polite", True)
    press(x, "a")
    assert (x.labels[0]["strength"], x.labels[0]["note"], x.labels[0]["reasons"]) == (2, "polite", ["kind"])


@pytest.mark.parametrize(
    "text, others, expected",
    [
        ("A cow eats grass.", "A cow eats fish.", "A cow eats <mark>grass.</mark>"),
        ("A cow eats grass", "a Cow, eats grass!", "A cow eats grass"),
        ("one two\nthree", "one", "one <mark>two\nthree</mark>"),
        ("<b> $5", "<b>", "&lt;b&gt; <mark>$5</mark>"),
        ("", "x", ""),
        ("  two  spaces", "", "  <mark>two  spaces</mark>"),
    ],
)
def test_words_that_differ_are_marked_and_the_text_stays_as_it_was(text, others, expected):
    assert card.marked(text, others) == expected
    assert html.unescape(re.sub("</?mark>", "", expected)) == text


@given(st.text(), st.text())
def test_marking_changes_no_text(text, others):
    assert re.sub("</?mark>", "", card.marked(text, others)) == card.escape(text)


def test_the_marks_can_be_turned_off(shown):
    x = shown()
    assert "<mark>" in x.answers[0].value and "rlhf-unmarked" not in x.widget._dom_classes
    x.marks.value = False
    assert "rlhf-unmarked" in x.widget._dom_classes


def test_errors_are_shown_kept_and_the_pair_stays(shown, monkeypatch):
    x = shown()
    pair = x.current

    def full(_):
        raise OSError(28, "No space left on <device>")

    monkeypatch.setattr(fb.os, "fsync", full)
    press(x, "a")
    assert x.current == pair and len(x.errors) == 1 and isinstance(x.errors[0], WorkbookError)
    assert 'role="alert"' in x.status.value and "No space left on &lt;device&gt;" in x.status.value
    monkeypatch.undo()


def test_what_goes_wrong_after_a_label_was_saved_does_not_say_that_it_was_not(shown, monkeypatch):
    x = shown()

    def broken(*_):
        raise ValueError("<oops>")

    monkeypatch.setattr(card, "progress_html", broken)
    press(x, "a")
    assert len(x.labels) == 1 and "Saved, but something else went wrong: ValueError: &lt;oops&gt;" in x.status.value


def test_presses_that_take_no_time_at_all_are_no_reason_to_stop(shown):
    x = shown(min_seconds=0.0)
    send(x, *[entry(x, i, "a", i, seconds=0.0) for i in range(4)])
    assert len(x.labels) == 4 and not x.errors and "a minute" not in x.progress.value


@pytest.mark.parametrize("axes", [lambda p, a: {"n": "many"}, lambda p, a: 1 / 0, lambda p, a: None])
def test_axes_that_cannot_be_used_are_told_before_anybody_labels(tmp_path, axes):
    with pytest.raises(WorkbookError, match="The function axes can't be used"):
        Labeller(make_pairs(), tmp_path / "log.jsonl", axes=axes)


def test_undo_of_a_label_that_this_queue_does_not_ask_for_again_works(tmp_path):
    x = Labeller(make_pairs(40), tmp_path / "log.jsonl", repeat_share=0.25)
    finish(x)
    shorter = Labeller(make_pairs(40), tmp_path / "log.jsonl", repeat_share=0.0)
    n = len(shorter.labels)
    assert shorter.undo() and len(shorter.labels) == n - 1


def test_after_the_last_pair_it_says_so(shown):
    x = shown(make_pairs(1))
    press(x, "a")
    assert "All pairs are labelled" in x.prompt.value and "1 of 1" in x.progress.value
    press(x, "b")
    assert len(x.labels) == 1 and not x.errors
    press(x, "undo")
    assert "Question 0?" in x.prompt.value


# ---------------------------------------------------------------- editing the better answer


def test_an_edit_is_saved_as_a_demonstration_and_two_pairs_and_undone_in_one(shown):
    x = shown(ask_edit=True)
    assert not is_shown(x.text) and not is_shown(x.save)
    seen = x._texts(x.current)
    x.better.value = "b"
    assert is_shown(x.text) and x.text.value == seen[1]
    x.text.value = "A better one."
    x.clock.now += 9
    x.save.click()
    assert "a demonstration and two pairs" in x.status.value and not is_shown(x.text) and not x.errors
    labels = fb.replay(fb.read_events(x.path)[0])
    rows = fb.to_preferences(labels)[0]
    assert [(r["chosen"], r["rejected"]) for r in rows] == [("A better one.", seen[1]), (seen[1], seen[0])]
    assert fb.to_demonstrations(labels)[0] == [{"prompt": "Question 0?", "completion": "A better one."}]
    assert len(x.labels) == 1 and x.current["pair"]["pair_id"] == "p1" and "1 of 13" in x.progress.value
    y = shown(ask_edit=True)  # after a restart
    assert y.labels == x.labels and y.edits == x.edits
    press(y, "undo")
    assert fb.replay(fb.read_events(x.path)[0]) == [] and y.current["pair"]["pair_id"] == "p0" and not y.edits


def test_an_edit_that_changes_nothing_is_told_and_saves_nothing(shown):
    x = shown(ask_edit=True)
    x.better.value = "a"
    x.save.click()
    assert 'role="alert"' in x.status.value and "Nothing was changed" in x.status.value
    assert not x.path.exists() and is_shown(x.text)


def test_an_edit_on_the_way_from_the_browser_is_saved_once_with_its_note_and_time(shown):
    x = shown(ask_edit=True, ask_note=True)
    one = entry(x, 0, "edit", 1, side="b", text="A better one.", note="said so", seconds=7.5)
    send(x, one)
    send(x, one, {**entry(x, 1, "edit", 2), "side": "a", "text": "Another."}, entry(x, 2, "tie", 3))
    assert "Saved 2 choices" in x.status.value and not x.errors and len(x.labels) == 3
    assert (x.labels[0]["note"], x.labels[0]["seconds"], x.edits[0]["seconds"]) == ("said so", 7.5, 7.5)
    assert [e["response_a"] for e in x.edits] == ["A better one.", "Another."]
    send(x, entry(x, 3, "edit", 4, side="", text="Which?"))
    assert "First say which answer" in x.status.value and len(x.labels) == 3


def test_an_edit_that_could_not_be_saved_is_in_its_field_again(shown, monkeypatch):
    x = shown(ask_edit=True)
    x.better.value, x.text.value = "b", "A better one."
    monkeypatch.setattr(fb.os, "fsync", full)
    send(x, entry(x, 0, "edit", 1, side="b", text="A better one."))
    x.text.value = x.better.value = ""  # on its way meanwhile: while the kernel was busy the page went on
    assert 'role="alert"' in x.status.value and not x.labels and not is_shown(x.text)
    x.better.value = "b"  # the page puts it back
    assert is_shown(x.text) and x.text.value == "A better one." and x.current["pair"]["pair_id"] == "p0"
    monkeypatch.undo()
    send(x, entry(x, 0, "edit", 2, side="b", text=x.text.value))
    assert [e["response_a"] for e in x.edits] == ["A better one."] and x.better.value == "" and not x.errors[1:]
    x.better.value = "b"
    assert x.text.value == x._texts(x.current)[1]  # of the next pair


def test_what_was_written_stays_while_one_looks_at_the_other_answer_and_comes_back_with_undo(shown):
    x = shown(ask_edit=True)
    seen = x._texts(x.current)
    x.better.value, x.text.value = "b", "Half done."
    x.better.value = "a"
    assert x.text.value == seen[0]
    x.better.value = "b"
    assert x.text.value == "Half done."
    x.clock.now += 9
    x.save.click()
    x.better.value = "b"
    assert x.text.value == x._texts(x.current)[1]
    press(x, "undo")
    assert (x.better.value, x.text.value) == ("b", "Half done.") and is_shown(x.text) and not x.edits
    press(x, "tie")
    assert x.better.value == "" and not is_shown(x.text)
    press(x, "undo")
    assert x.better.value == "" and x.current["pair"]["pair_id"] == "p0" and not x.errors


def test_undo_of_a_repeat_keeps_what_was_edited_the_first_time(shown):
    x = shown(make_pairs(8), ask_edit=True, repeat_share=0.2)
    while not x.current["is_repeat"]:
        x.edit("b", f"Edited {x.current['pair']['pair_id']}.")
    again, edits = x.current["pair"]["pair_id"], list(x.edits)
    x.choose("tie")
    x.undo()
    assert x.edits == edits and x.current["pair"]["pair_id"] == again
    x.edit("a", "Edited again.")
    assert len(x.edits) == len(edits) + 1
    x.undo()
    assert x.edits == edits and x.current["is_repeat"]
    y = shown(make_pairs(8), ask_edit=True, repeat_share=0.2)
    assert y.edits == edits and y.labels == x.labels


def test_half_an_edit_that_a_crash_left_does_not_count_twice(shown):
    x = shown(ask_edit=True)
    pair = x.current["pair"]
    fb.append_event(x.path, fb.edit_event(pair, "a", "Half.", "you"))  # then it was killed
    y = shown(ask_edit=True)
    send(y, entry(y, 0, "edit", 1, side="a", text="Whole."))
    labels = fb.replay(fb.read_events(y.path)[0])
    assert [r["completion"] for r in fb.to_demonstrations(labels)[0]] == ["Whole."] and len(labels) == 2
    press(y, "undo")
    assert fb.replay(fb.read_events(y.path)[0]) == []


def test_what_was_changed_in_the_log_is_told_even_where_saving_reads_it_anew(shown):
    x = shown()
    send(x, entry(x, 0, "a", 1), entry(x, 1, "b", 2))
    lines = x.path.read_bytes().splitlines(keepends=True)
    x.path.write_bytes(lines[1] + b'{"schema": 1, "ev')  # one taken out, and another program crashed
    send(x, entry(x, 2, "tie", 3))
    assert "Saved: Tie." in x.status.value and "Somebody changed the file" in x.status.value
    assert "the last line is incomplete" in x.status.value and len(x.labels) == 2
    assert Path(f"{x.path}.torn").read_bytes() == b'{"schema": 1, "ev\n'


def test_who_chooses_without_saving_the_edit_finds_the_editor_closed(shown):
    x = shown(ask_edit=True)
    x.better.value = "a"
    press(x, "tie")
    assert x.better.value == "" and not is_shown(x.text) and len(x.labels) == 1


# ---------------------------------------------------------------- the end


def test_continue_shows_when_there_is_enough_and_ends_with_a_summary_from_which_one_can_label_on(shown):
    x = shown(make_pairs(40))
    for _ in range(fb.ENOUGH - 1):
        press(x, "a")
    assert not is_shown(x.buttons["continue"]) and is_shown(x.grid)
    press(x, "a")
    assert is_shown(x.buttons["continue"]) and not is_shown(x.buttons["more"])
    press(x, "continue")
    assert not is_shown(x.grid) and not is_shown(x.buttons["tie"]) and is_shown(x.buttons["undo"])
    assert f"{fb.ENOUGH} labels: a side in {fb.ENOUGH}" in x.learnt.value
    assert "Your pace: 2.0 seconds a pair, 30 a minute" in x.learnt.value
    assert "Run Selected Cell and All Below" in x.status.value and len(x.labels) == fb.ENOUGH
    press(x, "more")
    assert is_shown(x.grid) and "labels:" not in x.learnt.value
    press(x, "continue")
    press(x, "undo")
    assert is_shown(x.grid) and len(x.labels) == fb.ENOUGH - 1


def test_the_summary_says_how_steady_one_was_and_who_chose_alike(shown):
    x = shown(make_pairs(20), repeat_share=0.2)
    x.label_with(Likes())  # the same log, under a name of its own
    while not x.done:
        item = x.current
        left_is_good = (item["pair"]["response_a"] if item["left"] == "a" else item["pair"]["response_b"])[0] == "g"
        press(x, "a" if left_is_good else "b")
    said = x.learnt.value
    assert "you chose the same in 4 of 4" in said
    assert "You chose as simulated:likes did in 20 of 20 (84 to 100%)" in said
    assert x.agreement() == [("simulated:likes", 20, 20)]


def test_agreement_leaves_out_what_one_of_the_two_skipped(shown):
    x = shown(make_pairs(4), repeat_share=0.0)
    other_one = Labeller(make_pairs(4), x.path, annotator="bob", repeat_share=0.0)
    for mine, theirs in (("tie", "tie"), ("skip", "tie"), ("both_bad", "skip"), ("tie", "both_bad")):
        press(x, mine)
        other_one.choose(theirs)
    assert x.agreement() == [("bob", 1, 2)] and Labeller(make_pairs(4), x.path, annotator="new").agreement() == []


@pytest.mark.parametrize(
    "wins, losses, words",
    [
        (20, 4, "is better; chance alone seldom"),
        (4, 20, "is worse"),
        (15, 9, "about 62 judgements would make it sure"),
        (12, 12, "only thousands"),
    ],
)
def test_a_blind_test_tells_at_the_end_who_was_who_and_what_it_would_take_to_be_sure(shown, wins, losses, words):
    x = shown(make_pairs(wins + losses), repeat_share=0.0, who=("the <new> model", "the old one"))
    for n in range(wins + losses):
        assert "new" not in x.learnt.value and "You seem" not in x.learnt.value
        assert not is_shown(x.buttons["continue"])
        press(x, "a" if (x.current["left"] == "a") == (n < wins) else "b")
    said = x.learnt.value
    assert f"You preferred <b>the &lt;new&gt; model</b> in {wins} of {wins + losses}" in said and words in said
    assert said.count("<tr>") == 1 + wins + losses and is_shown(x.buttons["continue"])
    rows = x.blind_result()[1]
    for label, (prompt, was_a, was_b, chosen) in zip(x.labels, rows, strict=True):
        assert {was_a, was_b} == {"the <new> model", "the old one"} and prompt == label["prompt"]
        assert chosen == ("the <new> model" if label["choice"] == "a" else "the old one")
        assert (was_a == "the <new> model") == (label["left"] == "a")


def test_what_it_takes_to_be_sure_is_what_wilsons_interval_needs():
    found = loop.verdict(15, 0, 9)
    (needed,) = (int(x) for x in re.findall(r"about (\d+) judgements", card.blind_words("a", "b", found)[1]))
    lows = [fb.wilson(0.625 * n, n)[0] for n in (needed - 2, needed + 2)]
    assert lows[0] < 0.5 < lows[1]


def test_nothing_judged_in_a_blind_test_is_no_result(shown):
    x = shown(make_pairs(1), repeat_share=0.0, who=("new", "old"))
    press(x, "skip")
    assert "Nothing was judged" in x.learnt.value and not x.errors


def test_results_of_simulated_labels_are_marked_and_lead_back_to_the_card(tmp_path):
    page = card.simulated_html("simulated:<b>", 3, 16)
    assert "SIMULATED" in page and "simulated:&lt;b&gt;" in page
    assert "it takes 16 of yours, and you have given 3" in page
    assert "Continue" in page and "scrollIntoView" in page


def test_a_torn_log_is_told_in_the_widget(shown, tmp_path):
    (tmp_path / "log.jsonl").write_text('{"torn')
    assert "incomplete" in shown().status.value


def test_hostile_text_is_escaped_everywhere(shown):
    pair = {"pair_id": HOSTILE, "prompt": HOSTILE, "response_a": HOSTILE, "response_b": HOSTILE + "!"}
    x = shown([pair])
    for widget in (x.prompt, *x.answers):
        text = widget.value
        assert "<img" not in text and "<script" not in text and "&lt;script&gt;" in text
        assert "\x00" not in text and "\u2400\u241b[31m" in text and "$5 and $6 *b*" in text


def test_what_cannot_be_seen_or_sent_is_shown_in_place():
    shown = lab.escape("a\x00\x85\ud800\t<\r\n😀")
    assert shown == "a\u2400\\x85\\ud800\t&lt;\n😀"
    assert lab.escape("\u202eevil \u202dx \u200f") == "\\u202eevil \\u202dx \u200f"
    shown.encode("utf-8")  # a lone surrogate would keep the whole widget from being sent


def test_long_right_to_left_and_multiline_text_is_kept():
    text = "שלום\nline two\r\n" + "x" * 5000 + " 😀"
    value = lab.answer_html("A", text)
    assert 'dir="auto"' in value and "שלום\nline two\n" in value and "x" * 5000 + " 😀" in value


def test_every_press_gets_an_answer_so_that_the_browser_lets_the_next_one_through(shown):
    x = shown()
    for name, after in (("a", 2), ("a", 0.1), ("a", 0.2), ("undo", 2), ("undo", 2)):
        before = x.status.value
        press(x, name, after)
        assert x.status.value != before and f'data-reply="{x.replies}"' in x.status.value
    assert not x.errors


def test_no_text_of_a_model_or_reader_gets_into_the_script(shown):
    pair = {"pair_id": HOSTILE, "prompt": HOSTILE, "response_a": HOSTILE, "response_b": HOSTILE + "!"}
    hostile, plain = shown([pair], annotator="'\"<"), shown()
    assert hostile.widget.children[-1].value == plain.widget.children[-1].value == card.card_script().value


def test_each_button_shows_its_key_unless_hotkeys_are_off(shown):
    x = shown()
    assert set(card.KEYS.values()) == {*x.buttons, "marks"}
    for name, button in {**x.buttons, "marks": x.marks}.items():
        assert f"rlhf-press-{name}" in button._dom_classes
    on, off = (card.card_script(keys).value for keys in (True, False))
    assert on == x.widget.children[-1].value
    for key, name in card.KEYS.items():
        cap = f'.rlhf-press-{name}::after{{content:"{key.upper()}"'
        assert cap in on and cap not in off


def test_the_table_of_features_is_what_the_tests_gave():
    """Every row has tests, every test exists, and all have passed."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import labelling
    finally:
        sys.path.pop(0)
    data = json.loads((ROOT / "benchmarks" / "results" / "labelling.json").read_text(encoding="utf-8"))
    assert set(data["results"].values()) == {"passed"}
    for _, others, tests in labelling.FEATURES:
        assert len(others) == len(labelling.TOOLS) and tests
        for module, name in (t.split("::") for t in tests):
            (path,) = (ROOT / "tests").rglob(f"test_{module}.py")
            code = path.read_text(encoding="utf-8")
            assert f"def {name.partition('[')[0]}(" in code, name
