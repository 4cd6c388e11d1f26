"""Whose labels the chapters learn from: the reader's own once there are enough, else a simulated annotator's."""

import pytest

from rlhf_helpers.desk import labeller, tasks, workspace, yours
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
