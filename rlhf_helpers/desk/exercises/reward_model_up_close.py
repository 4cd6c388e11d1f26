"""The checkers of The reward model up close."""

import math

import torch

from .checking import check_cases


def check_loss_of_gap(answer):
    """1: −log σ(d) that never overflows."""

    def right(d):
        return max(-d, 0) + math.log1p(math.exp(-abs(d)))

    mistakes = {
        "right for gaps of ordinary size, but e^1000 is too large a number: keep the exponent from being positive.": (
            lambda d: -math.log(1 / (1 + math.exp(-d))),
            lambda d: -torch.sigmoid(torch.tensor(d)).log(),
        ),
        "the sign is wrong: a loss is positive.": (lambda d: -right(d), lambda d: math.log(1 / (1 + math.exp(-d)))),
        "it is small when the *rejected* answer scores more: the gap enters with the other sign.": (
            lambda d: right(-d),
            lambda d: math.log(1 + math.exp(d)),
        ),
        "that is σ(d), the probability; the loss is minus its logarithm.": (
            lambda d: math.exp(-right(d)),
            lambda d: 1 / (1 + math.exp(-d)),
        ),
        "that is 1 − σ(d), the probability of being wrong; the loss is −log σ(d).": (
            lambda d: math.exp(-right(-d)),
            lambda d: 1 - 1 / (1 + math.exp(-d)),
        ),
        "that is the gap without the curve: at a gap of 0 the loss is ln 2, not 0.": lambda d: max(-d, 0),
    }
    cases = [(0.0,), (2.0,), (-2.0,), (30.0,), (-1000.0,), (1000.0,)]
    praise = "However wrong the order, the loss is finite and its slope never steeper than −1."
    return check_cases(1, answer, right, cases, mistakes, praise)


def check_ceiling_from(answer):
    """2: the noise ceiling that follows from how often two annotators agree."""

    def right(agreement):
        return (1 + math.sqrt(2 * agreement - 1)) / 2

    mistakes = {
        "that is how often two annotators agree. A judge who never slips agrees with one of them more often.": (
            lambda a: a
        ),
        "that is the smaller root of the equation: how often the judge would be wrong.": lambda a: 1 - right(a),
        "that solves p² = a: two annotators agree, too, when both slip.": math.sqrt,
        "that is the agreement that follows from a chance; the way back is asked for.": (lambda a: a**2 + (1 - a) ** 2),
        "the root of 2a − 1 is 2p − 1, not p: add 1 and halve it.": lambda a: math.sqrt(2 * a - 1),
    }
    praise = "For an agreement of ½ it is ½: such labels are coins, and nobody can foresee them."
    return check_cases(2, answer, right, [(0.82,), (0.5,), (1.0,), (0.74,)], mistakes, praise)
