"""What answers are like by the gold judge, and who wins by a taste."""

import re
import statistics

from .facts import prompts
from .gold import gold_axes, gold_score

MEASURED = {"reworded": 4, "test": 2}  # split -> answers to each prompt for a win rate


def on_each(measure, splits=MEASURED):
    """The dicts `measure(split)` of all splits as one, with the split before each name: "test_right", ..."""
    return {f"{split}_{name}": value for split in splits for name, value in measure(split).items()}


def in_format(response):
    """Whether an answer is made of whole sentences only."""
    return bool(re.fullmatch(r"([A-Z][^.!?]*[.!?] ?)+", response))


def quality(prompts, responses):
    """What share of the answers is right, wrong, in the format (whole sentences), broken (holds a sentence
    that makes no sense in this world), polite, rude; mean words and gold score."""
    axes = [gold_axes(p, r) for p, r in zip(prompts, responses)]

    def share(test):
        return statistics.mean(float(test(a)) for a in axes)

    return {
        "right": share(lambda a: a["right"] == 1),
        "wrong": share(lambda a: a["right"] == -1),
        "in_format": statistics.mean(float(in_format(r)) for r in responses),
        "broken": share(lambda a: a["broken"] > 0),
        "polite": share(lambda a: a["polite"]),
        "rude": share(lambda a: a["rude"]),
        "words": statistics.mean(a["words"] for a in axes),
        "gold": statistics.mean(gold_score(p, r) for p, r in zip(prompts, responses)),
    }


def win_rate(prompts, ours, theirs, taste=gold_score):
    """Share of prompts on which `ours` beats `theirs` by `taste`; a tie counts half."""
    gaps = [taste(p, a) - taste(p, b) for p, a, b in zip(prompts, ours, theirs)]
    return statistics.mean(1.0 if g > 1e-9 else 0.5 if g > -1e-9 else 0.0 for g in gaps)


def measured_prompts(split):
    """The prompts of a split, several times each: a win rate on one answer to each is off by 1.5 points or more."""
    return prompts(split) * MEASURED.get(split, 2)
