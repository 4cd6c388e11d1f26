"""The checkers of What RLHF does to a model."""

import math

from .checking import check_cases


def check_win_alike(answer):
    """What RLHF does.1: the win rate among pairs of about equal length."""

    def right(wins, ours, theirs, most=1):
        near = [w for w, a, b in zip(wins, ours, theirs) if abs(a - b) <= most]
        return sum(near) / len(near) if near else 0.5

    def among(keep, over=len, empty=0.5):
        """The mean over the wins that `keep` keeps, divided by `over` of them."""

        def rate(wins, ours, theirs, most=1):
            near = [w for w, a, b in zip(wins, ours, theirs) if keep(a, b, most)]
            return sum(near) / over(near) if near else empty

        return rate

    mistakes = {
        "that is the win rate of all pairs; leave out those whose lengths differ by more than `most`.": (
            lambda wins, ours, theirs, most=1: sum(wins) / len(wins)
        ),
        "a pair in which *theirs* is much longer must go, too: take the distance, without its sign.": (
            among(lambda a, b, most: a - b <= most),
            among(lambda a, b, most: b - a <= most),
        ),
        "pairs that differ by exactly `most` words count.": among(lambda a, b, most: abs(a - b) < most),
        "you kept the pairs that should go: those of *different* length.": among(lambda a, b, most: abs(a - b) > most),
        "divide by the number of pairs that count, not by that of all.": (
            lambda wins, ours, theirs, most=1: (
                sum(w for w, a, b in zip(wins, ours, theirs) if abs(a - b) <= most) / len(wins)
            )
        ),
        "where no pair counts, nothing speaks for either side, and one half is asked for.": among(
            lambda a, b, most: abs(a - b) <= most, empty=0.0
        ),
        "only equal lengths pass; a difference of up to `most` may be there.": among(lambda a, b, most: a == b),
    }
    cases = [
        ([1, 0, 1], [9, 5, 20], [8, 5, 7], 1),
        ([1, 1, 0, 0.5, 1, 0], [4, 9, 3, 8, 6, 5], [6, 4, 9, 6, 6, 4], 2),
        ([1, 1], [20, 3], [5, 9], 1),
    ]
    return check_cases(1, answer, right, cases, mistakes, "Whatever is left of the lead is not length.")


def check_updates_needed(answer):
    """What RLHF does.2: the updates that the adaptive penalty needs to change by a factor."""

    def right(factor, rate):
        step = 1 + 0.2 * rate if factor > 1 else 1 - 0.2 * rate
        return math.ceil(math.log(factor) / math.log(step))

    mistakes = {
        "downwards a step is `1 - 0.2 * rate`, which is more, as a factor, than upwards.": (
            lambda factor, rate: math.ceil(abs(math.log(factor)) / math.log(1 + 0.2 * rate))
        ),
        "upwards a step is `1 + 0.2 * rate`, which is less, as a factor, than downwards.": (
            lambda factor, rate: math.ceil(abs(math.log(factor)) / -math.log(1 - 0.2 * rate))
        ),
        "steps multiply and do not add up: take logarithms.": (
            lambda factor, rate: math.ceil(abs(factor - 1) / (0.2 * rate))
        ),
        "round up: with one update fewer it is not there yet.": (
            lambda factor, rate: math.floor(math.log(factor) / math.log(1 + math.copysign(0.2 * rate, factor - 1))),
            lambda factor, rate: round(math.log(factor) / math.log(1 + math.copysign(0.2 * rate, factor - 1))),
        ),
        "an update is a whole thing: round up.": (
            lambda factor, rate: math.log(factor) / math.log(1 + math.copysign(0.2 * rate, factor - 1))
        ),
        "the rate is missing: it scales every step.": lambda factor, rate: right(factor, 1.0),
    }
    cases = [(0.5, 1.0), (10.0, 1.0), (0.1, 0.5), (2.0, 0.1)]
    praise = "It comes down faster than it goes up."
    return check_cases(2, answer, right, cases, mistakes, praise)
