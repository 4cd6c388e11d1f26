"""The event log, what is made of it, and what happens to damaged files."""

import json
import math
import random

import pytest
from taught import cells, taught

from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.lesson import feedback as fb

PAIR = {"pair_id": "p1", "prompt": "What does a cow eat?", "response_a": "Grass.", "response_b": "Fish."}


def label(choice="a", left="a", annotator="you", pair_id="p1", **more):
    return fb.label_event({**PAIR, "pair_id": pair_id}, left, choice, annotator, **more)


def write(path, *events):
    for e in events:
        fb.append_event(path, e)
    return path


def test_what_is_appended_is_read_back(tmp_path):
    events = [label(note='ß \u2028 \U0001f600 \x00 \ud800 "\\\n', strength=2), label("tie", "b", seconds=1.5)]
    path = write(tmp_path / "new" / "log.jsonl", *events)
    assert fb.read_events(path) == (events, [])
    assert path.read_bytes().count(b"\n") == 2


def test_append_gives_the_offsets(tmp_path):
    path = tmp_path / "log.jsonl"
    assert fb.append_event(path, label())[0] == 0
    size = path.stat().st_size
    assert fb.append_event(path, label()) == (size, path.stat().st_size)


@pytest.mark.parametrize(
    "bad, word",
    [
        ({"choice": "A"}, "choice"),
        ({"left": "left"}, "left"),
        ({"strength": 4}, "strength"),
        ({"prompt": None}, "prompt"),
        ({"schema": 3}, "schema"),
        ({"event": "delete"}, "event"),
        ({"is_repeat": None}, "is_repeat"),
        ({"seconds": "long"}, "seconds"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": math.nan}, "seconds"),
    ],
)
def test_a_wrong_event_is_refused_and_nothing_is_written(tmp_path, bad, word):
    path = tmp_path / "log.jsonl"
    with pytest.raises(WorkbookError, match=word):
        fb.append_event(path, {**label(), **bad})
    assert not path.exists()


@pytest.mark.parametrize("field", ["schema", "event", "event_id", "prompt", "left", "choice", "strength", "annotator"])
def test_a_label_without_one_of_its_fields_is_refused(tmp_path, field):
    event = label()
    del event[field]
    with pytest.raises(WorkbookError, match=f"{field}.* is missing"):
        fb.append_event(tmp_path / "log.jsonl", event)


def test_every_event_is_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(fb.os, "fsync", synced.append)
    write(tmp_path / "log.jsonl", label(), label())
    assert len(synced) == 2


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = write(tmp_path / "log.jsonl", label())
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fb.os, "fsync", full)
    with pytest.raises(WorkbookError, match="No space left"):
        fb.append_event(path, label())
    assert path.read_bytes() == before


def test_an_interrupt_while_a_label_is_saved_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    """What was not confirmed is not there, so the same pair can be chosen again and stands once."""
    path = write(tmp_path / "log.jsonl", label())
    before = path.read_bytes()

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fb.os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        fb.append_event(path, label())
    assert path.read_bytes() == before


def test_a_torn_line_that_cannot_be_put_aside_is_kept_and_said(tmp_path, monkeypatch):
    path = write(tmp_path / "log.jsonl", label())
    path.write_bytes(path.read_bytes() + b'{"schema"')
    before = path.read_bytes()
    (tmp_path / "log.jsonl.torn").mkdir()  # in the way
    with pytest.raises(WorkbookError, match="was not saved"):
        fb.append_event(path, label())
    assert path.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 2, 40, -1])
def test_a_torn_last_line_is_dropped_with_a_warning_and_mended(tmp_path, cut):
    path = write(tmp_path / "log.jsonl", label(), label("b", note="é" * 30))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    torn = whole[first:-1]
    path.write_bytes(whole[:first] + (torn[:cut] if cut > 0 else torn[: torn.index("é".encode()) + 1]))
    events, warnings = fb.read_events(path)
    assert len(events) == 1 and len(warnings) == 1 and "line 2" in warnings[0]
    write(path, label("tie"))
    events, warnings = fb.read_events(path)
    assert [e["choice"] for e in events] == ["a", "tie"] and not warnings
    assert (tmp_path / "log.jsonl.torn").exists()


def test_a_complete_last_line_without_newline_is_kept(tmp_path):
    path = write(tmp_path / "log.jsonl", label(), label("b"))
    path.write_bytes(path.read_bytes()[:-1])
    assert len(fb.read_events(path)[0]) == 2 and not fb.read_events(path)[1]
    write(path, label("tie"))
    assert [e["choice"] for e in fb.read_events(path)[0]] == ["a", "b", "tie"]


def test_bom_crlf_and_empty_lines_are_read(tmp_path):
    path = write(tmp_path / "log.jsonl", label(), label("b"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert [e["choice"] for e in fb.read_events(path)[0]] == ["a", "b"]


@pytest.mark.parametrize("bad", [b"{nonsense", b"\xff\xfe", b"[1]", b"{}", b'"text"', b"null "])
def test_a_malformed_line_elsewhere_names_file_and_line(tmp_path, bad):
    path = write(tmp_path / "log.jsonl", label())
    good = path.read_bytes()
    path.write_bytes(good + bad + b"\n" + good)
    with pytest.raises(WorkbookError, match=r"log\.jsonl, line 2: .*run the cell again"):
        fb.read_events(path)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(WorkbookError, match="Run chapter 03"):
        fb.read_events(tmp_path / "none.jsonl")


def test_a_folder_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkbookError, match="cannot be opened"):
        fb.append_event(tmp_path / "file" / "log.jsonl", label())


def _writer(path, name, n):
    rng = random.Random(name)
    for i in range(n):
        fb.append_event(path, label(annotator=name, pair_id=f"{name}{i}", note="x" * rng.randrange(9000)))


@pytest.mark.slow
def test_two_writers_in_two_processes_lose_and_mix_nothing(tmp_path, processes):
    path = tmp_path / "log.jsonl"
    writers = [processes.Process(target=_writer, args=(path, name, 60)) for name in ("ann", "bob")]
    for w in writers:
        w.start()
    for w in writers:
        w.join(60)
    events, warnings = fb.read_events(path)
    assert not warnings
    for name in ("ann", "bob"):
        assert [e["pair_id"] for e in events if e["annotator"] == name] == [f"{name}{i}" for i in range(60)]


def test_works_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(fb, "fcntl", None)
    assert len(fb.read_events(write(tmp_path / "log.jsonl", label(), label()))[0]) == 2


def test_replay_takes_out_what_an_undo_names():
    x, y, z = label("a"), label("b"), label("tie")
    assert fb.replay([x, y, fb.undo_event(y), z, fb.undo_event(x)]) == [z]
    assert fb.replay([x, fb.undo_event(x)] * 2) == []  # a log appended to itself
    assert fb.replay([x, y] * 2) == [x, y]
    assert fb.replay([fb.undo_event(x)]) == []


def test_preferences_count_what_they_leave_out():
    labels = [
        label("a", strength=3),
        label("a", is_repeat=True),
        label("b", annotator="ann"),
        *(label(c, pair_id=c) for c in ("tie", "both_bad", "skip")),
    ]
    rows, left_out = fb.to_preferences(labels)
    assert rows == [
        {"prompt": PAIR["prompt"], "chosen": "Grass.", "rejected": "Fish.", "margin": 1.0},
        {"prompt": PAIR["prompt"], "chosen": "Fish.", "rejected": "Grass.", "margin": 0.0},
    ]
    assert left_out == {"repeat": 1, "tie": 1, "both_bad": 1, "skip": 1}
    assert len(rows) + sum(left_out.values()) == len(labels)


def test_a_pair_with_new_texts_is_a_new_pair():
    other = {**label("b"), "response_b": "Hay."}
    assert len(fb.to_preferences([label(), other])[0]) == 2


def test_written_preferences_load_and_say_what_was_left_out(tmp_path, capsys):
    fb.write_preferences(tmp_path / "p.jsonl", [label(), label("tie", pair_id="p2")])
    rows = [json.loads(x) for x in (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [set(r) for r in rows] == [{"prompt", "chosen", "rejected", "margin"}]
    assert "2 labels gave 1 preferences" in capsys.readouterr().out


def test_written_preferences_load_in_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = fb.write_preferences(tmp_path / "p.jsonl", [label(note="ß $5 <b>"), label("b", pair_id="p2", strength=2)])
    loaded = datasets.load_dataset(
        "json", data_files=str(tmp_path / "p.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert list(loaded) == rows and loaded.features["margin"].dtype == "float64"


def test_written_preferences_train_in_trl(tmp_path):
    """TRL's own check of the format, its tokenizing, its collator with `margin`, and one step of its trainer."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl.data_utils import is_conversational, maybe_extract_prompt

    fb.write_preferences(tmp_path / "p.jsonl", [label(strength=3), label("b", pair_id="p2")])
    rows = datasets.load_dataset(
        "json", data_files=str(tmp_path / "p.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert not is_conversational(rows[0]) and maybe_extract_prompt(rows[0])["prompt"] == PAIR["prompt"]
    reward = ROOT / "data" / "models" / "reward"
    trainer = trl.RewardTrainer(
        AutoModelForSequenceClassification.from_pretrained(reward),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(reward),
        args=trl.RewardConfig(
            output_dir=str(tmp_path / "out"),
            max_steps=1,
            per_device_train_batch_size=2,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert sorted(batch["margin"].tolist()) == [0.0, 1.0]
    assert math.isfinite(trainer.train().training_loss)


def test_labels_of_prefers_people_and_fills_up_only_when_there_are_few():
    sim = [label(annotator="simulated:helpful", pair_id=f"p{i}") for i in range(40)]
    warm = [label(annotator="simulated:warm", pair_id="p0")]
    few, many = ([label(pair_id=f"p{i}") for i in range(n)] for n in (3, fb.ENOUGH))
    assert fb.labels_of(sim + warm + many) == many
    assert fb.labels_of(sim + warm + few) == few + sim[3:]
    assert fb.labels_of(sim + warm) == sim
    assert fb.labels_of(sim + warm + many, "warm") == warm


def test_summary_counts_repeats_and_sides():
    labels = [
        label("a", "a", seconds=2),
        label("a", "b", is_repeat=True, seconds=4),
        label("b", "a", pair_id="p2", seconds=9),
        label("a", "b", pair_id="p2", is_repeat=True),
        label("tie", pair_id="p3"),
    ]
    s = fb.summary(labels)
    assert [s[k] for k in ("n", "repeats", "consistent", "decided", "left", "seconds")] == [5, 2, 1, 4, 1, 4]
    assert s["choices"] == {"a": 3, "b": 1, "tie": 1, "both_bad": 0, "skip": 0}
    assert fb.summary([])["seconds"] is None


def test_kappa_by_hand_and_against_scikit_learn():
    cohen_kappa = taught("labels_up_close", "cohen_kappa", fb)
    a, b = list("aabbt"), list("aabtt")
    assert cohen_kappa(a, b) == pytest.approx((0.8 - 0.32) / 0.68)
    assert cohen_kappa(a, a) == 1
    assert math.isnan(cohen_kappa(["a"], ["a"]))
    for x, y in ((a, a[:2]), ([], [])):
        with pytest.raises(ValueError):
            cohen_kappa(x, y)
    metrics = pytest.importorskip("sklearn.metrics")
    rng = random.Random(0)
    for _ in range(20):
        a, b = rng.choices("abt", k=30), rng.choices("abt", k=30)
        assert cohen_kappa(a, b) == pytest.approx(metrics.cohen_kappa_score(a, b))
        low, high = fb.kappa_interval(a, b)
        assert low < metrics.cohen_kappa_score(a, b) < high


def test_a_log_is_followed_while_others_write_break_mend_and_cut_it(tmp_path):
    """Each line is parsed once, and whatever happens to the file, what is read is what `read_events` reads."""
    path, rng, parsed = tmp_path / "log.jsonl", random.Random(0), []
    follower = fb.Follower(path, "you")
    assert follower.read() == ([], [])

    def same():
        events, warnings = fb.read_events(path)
        assert follower.read() == ([e for e in events if e["annotator"] == "you"], warnings)
        assert follower.size == path.stat().st_size

    steps = {
        "others write": lambda: write(path, label(annotator="ann"), label("tie")),
        "undo": lambda: write(path, fb.undo_event(fb.read_events(path)[0][-1])),
        "torn": lambda: path.open("ab").write(b'{"schema": 1, "ev'),
        "whole but for its newline": lambda: path.open("ab").write(json.dumps(label()).encode()),
        "first line taken out": lambda: path.write_bytes(path.read_bytes().partition(b"\n")[2]),
        "last line taken out": lambda: path.write_bytes(b"".join(path.read_bytes().splitlines(True)[:-1])),
        "exchanged for a longer one": lambda: path.write_bytes(b"".join(path.read_bytes().splitlines(True)[::-1]) * 2),
        "gone": path.unlink,
    }
    for step in [*steps, *rng.choices(list(steps), k=60)]:
        write(path, label(annotator=rng.choice(("you", "ann"))))  # of a torn tail, makes a file of its own
        steps[step]()
        write(path, label("skip"), label()) if step == "gone" else None
        same()
    path.write_bytes(path.read_bytes() + b"{broken\n" + json.dumps(label()).encode() + b"\n")
    n = path.read_bytes().count(b"\n")
    for _ in range(2):
        with pytest.raises(WorkbookError, match=f"line {n - 1}: "):
            follower.read()
    path.write_bytes(path.read_bytes().replace(b"{broken\n", b""))
    same()
    plain, fb.parse = fb.parse, lambda line: parsed.append(line) or plain(line)
    try:
        write(path, label(), label())
        follower.read()
    finally:
        fb.parse = plain
    assert len(parsed) == 2


def test_wilson_solves_its_equation():
    for k, n in ((0, 10), (12, 40), (7, 9), (5, 5)):
        for end in fb.wilson(k, n):  # where the score test is just at its limit
            assert abs(k / n - end) == pytest.approx(1.96 * math.sqrt(end * (1 - end) / n), abs=1e-9)
    assert fb.wilson(0, 0) == (0, 1)
    ends = [(fb.wilson(0, n)[0], fb.wilson(n, n)[1]) for n in range(1, 300)]  # by rounding the first was below 0
    assert all(0 <= low < 1e-9 and 1 - 1e-9 < high <= 1 for low, high in ends)


def test_the_strengths_that_labels_up_close_names_are_its_margins():
    text = cells("labels_up_close")["strength-head"]
    assert "slightly, clearly, much become ⅓, ⅔, 1" in text
    margins = [fb.to_preferences([label(strength=k)])[0][0]["margin"] for k in (1, 2, 3)]
    assert margins == [1 / 3, 2 / 3, 1]


def test_a_tie_is_a_row_where_it_is_asked_for():
    tie = label() | {"choice": "tie"}
    assert fb.to_preferences([tie]) == ([], {"tie": 1})
    rows = fb.tie_rows([tie, label(), tie])
    assert [(r["tie"], r["chosen"], r["rejected"]) for r in rows] == [(True, tie["response_a"], tie["response_b"])]
    assert fb.tie_rows([label(), tie]) == []  # the first label of a pair counts


# ---------------------------------------------------------------- better than choosing


def test_an_edit_is_a_pair_and_a_demonstration(tmp_path):
    edit = fb.edit_event(PAIR, "b", "A cow eats grass.", "you", seconds=9.0)
    path = write(tmp_path / "log.jsonl", label("b"), edit)
    labels = fb.replay(fb.read_events(path)[0])
    assert fb.to_preferences(labels)[0][1] == {
        "prompt": PAIR["prompt"],
        "chosen": "A cow eats grass.",
        "rejected": "Fish.",
        "margin": 0.0,
    }
    rows, left_out = fb.to_demonstrations(labels)
    assert rows == [{"prompt": PAIR["prompt"], "completion": "A cow eats grass."}] and left_out == {"not edited": 1}
    assert fb.replay([*labels, fb.undo_event(edit)]) == labels[:1]
    assert fb.summary(labels)["decided"] == 1, "nobody chose a side for it"


@pytest.mark.parametrize("text", ["", "  ", "Grass.", " Grass. "])
def test_an_edit_that_changes_nothing_is_refused(text):
    with pytest.raises(WorkbookError, match="Nothing was changed"):
        fb.edit_event(PAIR, "a", text, "you")


@pytest.mark.parametrize("ranks, pairs", [([1, 2, 3], 3), ([2, 1, 1, 3], 6), ([1, 1], 1)])
def test_a_ranking_makes_the_pairs_it_implies(tmp_path, ranks, pairs):
    answers = [f"answer {i}" for i in range(len(ranks))]
    events = fb.ranking_events("q1", "Which?", answers, ranks, "you")
    labels = fb.replay(fb.read_events(write(tmp_path / "log.jsonl", *events))[0])
    assert len(labels) == pairs
    rows, left_out = fb.to_preferences(labels)
    order = {f"answer {i}": rank for i, rank in enumerate(ranks)}
    assert all(order[r["chosen"]] < order[r["rejected"]] for r in rows)
    assert left_out.get("tie", 0) == pairs - len(rows) == sum(x["choice"] == "tie" for x in labels)
    assert len({fb.pair_key(x) for x in labels}) == pairs


def test_a_ranking_without_a_rank_for_each_answer_is_refused():
    with pytest.raises(WorkbookError, match="each of at least two needs one"):
        fb.ranking_events("q1", "Which?", ["x", "y", "z"], [1, 2], "you")


def test_ratings_and_both_bad_become_single_answers(tmp_path, capsys):
    ratings = [fb.rating_event("Q?", "yes", good, who) for good, who in ((True, "you"), (False, "you"), (True, "bob"))]
    path = write(tmp_path / "log.jsonl", label("both_bad"), label("a", pair_id="p2"), label("skip", pair_id="p3"))
    write(path, *ratings, label("both_bad"))
    labels = fb.replay(fb.read_events(path)[0])
    assert len(labels) == 4, "who reads labels does not meet a rating"
    events = fb.read_events(path, kinds=tuple(fb.TEXTS))[0]
    assert [e["good"] for e in fb.ratings_of(events)] == [False, True], "the last word of each counts"
    rows = fb.write_unpaired(tmp_path / "unpaired.jsonl", labels, fb.ratings_of(events))
    assert [(r["completion"], r["label"]) for r in rows] == [
        ("yes", False),
        ("yes", True),
        ("Grass.", False),
        ("Fish.", False),
    ]
    assert (
        "4 labels and 2 ratings gave 4 single answers in unpaired.jsonl, 1 good and 3 bad. "
        "Left out: 1 comparisons (those are preferences), 1 skipped, 1 repeats." in capsys.readouterr().out
    )


def test_an_undone_rating_is_gone(tmp_path):
    rating = fb.rating_event("Q?", "yes", True, "you")
    undo = {**fb.undo_event({**rating, "pair_id": ""})}
    path = write(tmp_path / "log.jsonl", rating, undo)
    assert fb.ratings_of(fb.read_events(path, kinds=tuple(fb.TEXTS))[0]) == []


def test_written_demonstrations_say_what_was_left_out(tmp_path, capsys):
    edit = fb.edit_event(PAIR, "a", "A cow eats grass.", "you")
    fb.write_demonstrations(tmp_path / "demos.jsonl", [label(), edit])
    assert "2 labels gave 1 demonstrations in demos.jsonl. Left out: 1 that are not edits." in capsys.readouterr().out


@pytest.mark.parametrize(
    "bad, word",
    [({"good": 2}, "good"), ({"response": None}, "response"), ({"made": "up"}, "made"), ({"schema": 3}, "newer")],
)
def test_a_wrong_rating_or_edit_is_refused(tmp_path, bad, word):
    event = fb.edit_event(PAIR, "a", "x", "you") if "made" in bad else fb.rating_event("Q?", "yes", True, "you")
    with pytest.raises(WorkbookError, match=word):
        fb.append_event(tmp_path / "log.jsonl", {**event, **bad})


def test_written_rows_load_in_datasets_as_trl_wants_them(tmp_path):
    datasets = pytest.importorskip("datasets")
    fb.write_unpaired(tmp_path / "u.jsonl", [label("both_bad")], [fb.rating_event("Q?", "yes", True, "you")])
    fb.write_demonstrations(tmp_path / "d.jsonl", [fb.edit_event(PAIR, "a", "A cow eats grass.", "you")])
    for name, columns in (("u", {"prompt", "completion", "label"}), ("d", {"prompt", "completion"})):
        rows = datasets.load_dataset("json", data_files=str(tmp_path / f"{name}.jsonl"), split="train")
        assert set(rows.column_names) == columns
