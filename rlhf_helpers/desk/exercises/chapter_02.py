"""The checkers of chapter 02."""

import math

from .checking import check_cases


def check_odds(answer):
    """02.1: what temperature does to the odds between two tokens."""

    def right(odds, temperature):
        return odds ** (1 / temperature)

    mistakes = {
        "you divide the odds. T divides logits, and a difference of logits is the *logarithm* of the odds.": (
            lambda o, t: o / t
        ),
        "the other way round: a low temperature makes the likelier token likelier still.": (
            lambda o, t: o**t,
            lambda o, t: o * t,
        ),
        "temperature changes the odds, only their order stays.": lambda o, t: o,
        "that is the logarithm of the odds, a difference of logits. Go back with exp.": lambda o, t: math.log(o) / t,
        "the odds are taken for a difference of logits here: take their logarithm first.": (
            lambda o, t: math.exp(o / t)
        ),
    }
    return check_cases(1, answer, right, [(4.0, 0.5), (4.0, 2.0), (1.5, 0.25)], mistakes)


def check_all_the_same(answer):
    """02.2: how likely n draws are all equal."""

    def right(q, n):
        return sum(x**n for x in q)

    mistakes = {
        "that is for the commonest answer only; the draws can agree on any of them. Add them up.": (
            lambda q, n: max(q) ** n
        ),
        "right for two draws only: n of them agree on an answer with its probability to the power n.": (
            lambda q, n: sum(x**2 for x in q)
        ),
        "that is the probability that they are *not* all the same.": lambda q, n: 1 - right(q, n),
        "that is the mean over the answers; the events exclude each other, so add.": lambda q, n: right(q, n) / len(q),
        "that is for answers that are all equally likely.": lambda q, n: len(q) ** (1 - n),
        "that is the probability of one given answer in every draw, by the first one of q.": lambda q, n: q[0] ** n,
    }
    cases = [([0.3, 0.5, 0.2], 2), ([0.9, 0.1], 3), ([0.25, 0.75], 4)]
    return check_cases(2, answer, right, cases, mistakes, "The surer the model, the rarer is a pair to compare.")
