"""The reader's own labels, the main path of chapters 04 to 06; a simulated annotator's while there are too few."""

from ..engine import files
from ..lesson import feedback
from ..lesson.pairs import simulated_feedback
from ..world.annotators import Annotator
from . import workspace

STAND_IN_LABELS = 64  # of a simulated annotator, where nobody labelled


def labels(ws, task):
    """Label events to learn one taste from, and whose they are: (list, "you" or the name of a simulated annotator).

    Those that people gave in `runs`/feedback.jsonl, once there are `feedback.ENOUGH` that were not skipped.
    With fewer, or with a simulated ANNOTATOR, a program of that taste labels the first pairs of pairs.jsonl.
    """
    log = ws.runs / "feedback.jsonl"
    given = feedback.replay(feedback.read_events(log)[0]) if log.exists() else []
    people = [x for x in feedback.labels_of(given) if x["choice"] != "skip" and not is_simulated(x)]
    if ws.annotator == "you" and len(people) >= feedback.ENOUGH:
        return people, "you"
    taste = task.stand_in if ws.annotator == "you" else ws.annotator
    pairs = files.read_jsonl(workspace.find(ws, "pairs.jsonl", quiet=True), feedback.PAIR_FIELDS)
    annotator = Annotator(taste, noise=0.1, seed=ws.seed)
    return simulated_feedback(pairs[:STAND_IN_LABELS], annotator, ws.seed), annotator.name


def is_simulated(label):
    """Whether a program gave this label."""
    return label["annotator"].startswith("simulated:")
