"""The reader's own labels, the main path of chapters 04 to 06; a simulated annotator's while there are too few."""

import random

from ..engine import files
from ..engine.files import WorkbookError
from ..lesson import feedback
from ..lesson.feedback import is_simulated
from ..lesson.pairs import simulated_feedback
from ..lesson.reward import that_fit
from . import preferences, tasks, workspace
from .card import FILE

STAND_IN_LABELS = 64  # of a simulated annotator, where nobody labelled
MOST = 2000  # comparisons of the reader's own file that a chapter learns from


def labels(ws, task):
    """Label events to learn one taste from, and whose they are: (list, "you" or the name of a simulated annotator).

    Those of PREFERENCES, if that names a file with comparisons, and what was labelled besides.  Otherwise those that
    people gave in `runs`/feedback.jsonl, once there are `feedback.ENOUGH` that were not skipped: all people, or the
    one whom ANNOTATOR names.
    With fewer, or with a simulated ANNOTATOR, a program of that taste labels the first pairs of pairs.jsonl.
    """
    log = ws.runs / "feedback.jsonl"
    given = feedback.replay(feedback.read_events(log)[0]) if log.exists() else []
    people = by_people(ws, given)
    if ws.person:
        print(f"Of the labels in {log.name}, only those of {ws.person} count: {len(people)}.")
    if ws.preferences is not None and ws.preferences.rows:
        own = of_a_file(ws, task)
        own += [x for x in people if not x["event_id"].startswith(preferences.OWN)]  # those are in the file
        programs = {x["annotator"] for x in own if is_simulated(x)}
        return own, "you" if len(programs) != 1 or any(not is_simulated(x) for x in own) else programs.pop()
    if ws.annotator == "you" and len(people) >= feedback.ENOUGH:
        return people, "you"
    taste = task.stand_in if ws.annotator == "you" else ws.annotator
    some = pairs(ws, quiet=True)[:STAND_IN_LABELS]
    annotator = tasks.annotator_for(some, taste, ws.seed, noise=0.1)
    return simulated_feedback(some, annotator, ws.seed), annotator.name


def whose(ws):
    """Whose labels `labels` gives where there are enough, for the labelling card: its `whose`.

    "you" for those of all people, a name, a simulated annotator's, or `card.FILE`.
    """
    if ws.preferences is not None and ws.preferences.rows:
        return FILE
    return ws.person or ("you" if ws.annotator == "you" else f"simulated:{ws.annotator}")


def by_people(ws, labels):
    """Those of these labels that people gave, skipped pairs left out: all people, or the one whom ANNOTATOR names."""
    return [
        x
        for x in labels
        if not is_simulated(x) and x["choice"] != "skip" and x["annotator"] == (ws.person or x["annotator"])
    ]


def logged(ws, task):
    """The labels of feedback.jsonl, in `runs` or else as it ships, of whom ANNOTATOR names (`feedback.labels_of`).

    Where there is no such file, or nobody of that name or taste in it, those that `labels` gives.
    """
    try:
        path = workspace.find(ws, "feedback.jsonl")
    except WorkbookError:
        return labels(ws, task)[0]
    found = feedback.replay(feedback.read_events(path)[0])
    return feedback.labels_of(found, ws.annotator, task.stand_in, ws.person) or labels(ws, task)[0]


def pairs(ws, quiet=False):
    """The pairs to label: those of PREFERENCES that nobody has judged, if there are any, else those of pairs.jsonl.

    Where that holds none to these prompts, the judged pairs of PREFERENCES are asked about again, blind.
    """
    own = ws.preferences
    if own is not None and own.pairs:
        return own.pairs
    if own is not None and (ws.prompts is None or not made(ws, "pairs.jsonl")):
        return [{f: x[f] for f in feedback.PAIR_FIELDS} for x in preferences.labels(own.rows[:MOST])]
    return files.read_jsonl(workspace.find(ws, "pairs.jsonl", quiet), feedback.PAIR_FIELDS)


def made(ws, name):
    """Whether the reader made a file for these prompts."""
    return any((folder / name).exists() for folder in workspace.homes(ws, name))


def of_a_file(ws, task):
    """The comparisons of PREFERENCES to learn from, as label events: those that fit into the model, at most `MOST`.

    Says what is left out.  Raises WorkbookError where all of them are held out.
    """
    reader = workspace.reader(ws)
    fit = preferences.fitting(ws.preferences.rows, *reader)
    rows, held = preferences.kept_back(fit, task)
    if not rows:
        raise WorkbookError(
            f"All {len(fit)} comparisons in PREFERENCES are of prompts that are kept for measuring, so there is "
            "nothing to learn from. Add comparisons of other prompts, or take the column split out of the file."
        )
    if held:
        print(f"{len(held):,} of {len(fit):,} comparisons are of held-out prompts and kept for measuring.")
    if len(rows) > MOST:
        print(
            f"{MOST:,} of {len(rows):,} comparisons are learned from, drawn at random: more would take too long here."
        )
        rows = random.Random(ws.seed).sample(rows, MOST)
    ties = preferences.kept_back(that_fit(reader[0], ws.preferences.ties, reader[1])[0], task)[0]
    return preferences.labels(rows, ties[: MOST // 4])


def held_out(ws, task):
    """Preference rows of PREFERENCES that `labels` never gives, to measure on: those of held-out prompts, or none."""
    if ws.preferences is None:
        return []
    fit, _ = that_fit(workspace.reader(ws)[0], ws.preferences.rows, workspace.reader(ws)[1])
    return preferences.kept_back(fit, task)[1][:MOST]
