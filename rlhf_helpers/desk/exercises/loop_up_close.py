"""The checkers of the loop up close."""

from ...lesson.loop import gate, verdict
from .checking import check_cases


def check_memory_factor(answer):
    """1: bytes of 16-bit training over bytes of inference, for a policy and some frozen models of its size."""

    def right(frozen):
        return (16 + 2 * frozen) / 2

    mistakes = {
        "a frozen model has neither gradients nor an optimiser: 2 bytes for a weight, not 16.": (
            lambda frozen: 16 * (1 + frozen) / 2
        ),
        "at inference the frozen models are gone, so they are no part of what you divide by.": (
            lambda frozen: (16 + 2 * frozen) / (2 + 2 * frozen)
        ),
        "that is the bytes of training: divide them by those of inference.": lambda frozen: 16 + 2 * frozen,
        "the frozen models are missing.": lambda frozen: 16 / 2,
    }
    praise = "Most of it belongs to the gradients and the optimiser, and that is where LoRA saves."
    return check_cases(1, answer, right, [(2,), (0,), (1,), (5,)], mistakes, praise)


def check_by_chance(answer):
    """2: the share of pairs on which two independent judges name the same winner."""

    def right(a, b):
        return a * b + (1 - a) * (1 - b)

    mistakes = {
        "they agree, too, where both name the *other* model.": lambda a, b: a * b,
        "that is how often they disagree.": lambda a, b: a * (1 - b) + b * (1 - a),
        "that is the best they can do, if they decide as alike as their shares allow.": lambda a, b: 1 - abs(a - b),
        "the mean of the two shares says nothing about the same pair.": lambda a, b: (a + b) / 2,
    }
    praise = "Cohen's kappa (chapter 03) takes this part off."
    return check_cases(2, answer, right, [(0.5, 0.5), (0.9, 0.9), (0.9, 0.6), (1, 0), (0.3, 0.2)], mistakes, praise)


REPORT = {"words": 9.0, "words_before": 10.0, "kl": 5.0, "ended": 1.0, "empty": 0.0, "distinct": 0.9}


def check_gate(answer):
    """3: a gate that also refuses answers less than half as long as before."""

    def right(report):
        promoted, reason = gate(report)
        if report["words"] < 0.5 * report["words_before"]:
            return False, "its answers are less than half as long"
        return promoted, reason

    def view(decision):
        """Whether it promotes, if it gives a reason too."""
        complete = isinstance(decision, tuple) and len(decision) == 2 and isinstance(decision[1], str)
        return bool(decision[0]) if complete else "no reason"

    good = REPORT | {"blind": verdict(70, 10, 20)}
    changes: list[dict] = [{}, {"words": 4.0}, {"words": 5.5}, {"kl": 90.0}, {"words": 30.0, "words_before": 100.0}]
    changes += [{"words": 4.0, "words_before": 4.5}, {"words": 21.0}, {"blind": verdict(52, 0, 48)}, {"words": 60.0}]
    mistakes = {
        "it lets through 4 words where there were 10 before.": gate,
        "it checks the length only: keep what `gate` decides, or a candidate far from the anchor gets in.": (
            lambda r: (r["words"] >= 0.5 * r["words_before"], "length")
        ),
        "4 words may be few or many: compare with `words_before`, not with a fixed number.": (
            lambda r: (gate(r)[0] and r["words"] >= 5, "length")
        ),
        "the comparison is upside down: it refuses answers that became *longer*.": (
            lambda r: (gate(r)[0] and r["words_before"] >= 0.5 * r["words"], "length")
        ),
        "it refuses whatever became shorter at all, and half as long is still allowed.": (
            lambda r: (gate(r)[0] and r["words"] >= r["words_before"], "length")
        ),
        "return the reason as well, as `gate` does: (promoted, reason).": lambda r: right(r)[0],
        "it lets nothing through.": lambda r: (False, "no"),
    }
    praise = "For a reader who likes short answers this gate is wrong: every limit is an opinion, so write down whose."
    return check_cases(3, answer, right, [(good | c,) for c in changes], mistakes, praise, view)
