"""Whose labels the chapters learn from: the reader's own once there are enough, else a simulated annotator's."""

import pytest

from rlhf_helpers.desk import card, labeller, tasks, workspace, yours
from rlhf_helpers.engine import files
from rlhf_helpers.lesson import feedback


@pytest.fixture
def ws(tmp_path):
    return workspace.setup(RUNS_DIR=str(tmp_path), DEVICE="cpu")


def label(ws, n, choice="a", annotator="you"):
    pairs = files.read_jsonl(ws.data / "pairs.jsonl", feedback.PAIR_FIELDS)
    widget = labeller.Labeller(pairs[:60], ws.runs / "feedback.jsonl", annotator=annotator, repeat_share=0)
    for _ in range(n):
        widget.choose(choice)
    return widget


def test_enough_labels_of_ones_own_are_learned_from_alone(ws):
    label(ws, feedback.ENOUGH - 1)
    assert yours.labels(ws, tasks.choose(ws))[1] == "simulated:helpful"
    label(ws, 1)
    given, who = yours.labels(ws, tasks.choose(ws))
    assert who == "you" and len(given) == feedback.ENOUGH and {x["annotator"] for x in given} == {"you"}


def test_skipped_pairs_and_simulated_labels_do_not_count_as_yours(ws):
    label(ws, feedback.ENOUGH, "skip")
    label(ws, feedback.ENOUGH, annotator="simulated:warm")
    given, who = yours.labels(ws, tasks.choose(ws))
    assert who == "simulated:helpful" and all(yours.is_simulated(x) for x in given)


def test_a_simulated_annotator_is_asked_even_where_you_labelled(ws):
    label(ws, feedback.ENOUGH)
    ws.annotator = "warm"
    given, who = yours.labels(ws, tasks.choose(ws))
    assert who == "simulated:warm" and len(given) == yours.STAND_IN_LABELS
    assert given == yours.labels(ws, tasks.choose(ws))[0], "the same labels twice"


# ---------------------------------------------------------------- one person of several


def named(tmp_path, name):
    return workspace.setup(ANNOTATOR=name, RUNS_DIR=str(tmp_path), DEVICE="cpu")


def test_a_weak_judge_learns_from_the_labels_of_whom_annotator_names_too(ws, tmp_path):
    label(ws, feedback.ENOUGH, "a", "ann")
    label(ws, feedback.ENOUGH + 6, "b", "ben")
    for name, who in (("you", {"ann", "ben"}), ("ann", {"ann"}), ("ben", {"ben"})):
        some = named(tmp_path, name)
        assert {x["annotator"] for x in yours.logged(some, tasks.choose(some))} == who
        assert len(yours.by_people(some, yours.logged(some, tasks.choose(some)))) == 24 * ("ann" in who) + 30 * (
            "ben" in who
        )


def test_with_few_labels_of_one_person_a_simulated_annotator_fills_up_and_nobody_else(ws, tmp_path):
    label(ws, feedback.ENOUGH, "a", "ann")
    label(ws, 3, "b", "ben")
    label(ws, 5, annotator="simulated:helpful")
    ben = named(tmp_path, "ben")
    assert [x["annotator"] for x in yours.logged(ben, tasks.choose(ben))] == ["ben"] * 3 + ["simulated:helpful"] * 2
    given, who = yours.labels(ben, tasks.choose(ben))
    assert who == "simulated:helpful" and len(yours.by_people(ben, given)) == 0


def test_whose_they_are_is_known_before_anybody_labels(ws, tmp_path):
    label(ws, 1, annotator="ann")
    for name, whose in (("you", "you"), ("ann", "ann"), ("warm", "simulated:warm")):
        assert yours.whose(named(tmp_path, name)) == whose
    rows = [{"prompt": "What does a cow eat?", "chosen": "Grass.", "rejected": "Meat."}] * 2
    files.write_jsonl(tmp_path / "own.jsonl", rows)
    some = workspace.setup(PREFERENCES=str(tmp_path / "own.jsonl"), RUNS_DIR=str(tmp_path), DEVICE="cpu")
    assert yours.whose(some) == card.FILE


def test_a_weak_judge_has_labels_even_where_the_log_holds_none_of_that_taste(ws, tmp_path):
    label(ws, 3)
    for name in ("warm", "terse"):
        some = named(tmp_path, name)
        assert {x["annotator"] for x in yours.logged(some, tasks.choose(some))} == {f"simulated:{name}"}


def test_nobodys_log_is_the_one_that_ships(ws):
    shipped = feedback.replay(feedback.read_events(ws.data / "feedback.jsonl")[0])
    assert yours.logged(ws, tasks.choose(ws)) == shipped


@pytest.mark.parametrize("path", sorted((files.ROOT / "notebooks").rglob("*.ipynb")), ids=lambda p: p.stem)
def test_no_chapter_takes_labels_of_the_log_without_asking_whose(path):
    """A chapter that picks labels from a log goes through `yours`, or says which `person` ANNOTATOR names."""
    source = "\n".join("".join(c["source"]) for c in files.parse(path.read_bytes())["cells"])
    for call in source.split("feedback.labels_of(")[1:]:
        assert "person=ws.person" in call.partition("\n")[0]
