"""The checkers of chapter 04."""

import math

import torch.nn.functional as F

from .checking import check_cases, tensor


def check_margin_loss(answer):
    """04.1: −log σ(R₊ − R₋ − m)."""

    def right(chosen, rejected, margin):
        return -F.logsigmoid(chosen - rejected - margin).mean()

    mistakes = {
        "the sign of the margin is wrong: it should ask for more, not forgive.": lambda c, r, m: right(c, r, -m),
        "this is the loss of each pair; take the mean.": lambda c, r, m: -F.logsigmoid(c - r - m),
        "the margin changes nothing yet.": lambda c, r, m: right(c, r, 0 * m),
        "the margin stands outside of σ, where it adds a constant and moves no weight.": (
            lambda c, r, m: (m - F.logsigmoid(c - r)).mean(),
            lambda c, r, m: (-F.logsigmoid(c - r) - m).mean(),
        ),
        "the margin multiplies the gap; with a margin of 0 it should be the ordinary loss.": (
            lambda c, r, m: right(m * (c - r), 0 * r, 0 * m)
        ),
        "chosen and rejected are swapped.": lambda c, r, m: right(r, c, m),
        "the minus before the logarithm is missing.": lambda c, r, m: -right(c, r, m),
    }
    scores = tensor(2.0, 0.5, -1.0), tensor(1.0, 1.0, -4.0)
    cases = [(*scores, tensor(1.0, 0.5, 2.0)), (*scores, tensor(0.0, 0.0, 0.0))]
    praise = "The chosen answer has to win by m before the loss falls below ln 2."
    return check_cases(1, answer, right, cases, mistakes, praise)


def check_gap_for(answer):
    """04.2: the gap of least loss, if a share of labels is right."""

    def right(share):
        return math.log(share / (1 - share))

    mistakes = {
        "that is the probability itself; the gap is what σ turns into it.": lambda s: s,
        "that is σ of the share; you want the number whose σ *is* the share.": lambda s: 1 / (1 + math.exp(-s)),
        "the sign is wrong: if most labels say that it is better, the gap is positive.": lambda s: -right(s),
        "that is the logarithm of the probability; divide by that of the other outcome first.": math.log,
        "that is the loss of the right labels alone; the flipped ones push back.": lambda s: -math.log(s),
        "those are the odds; the gap is their logarithm.": lambda s: s / (1 - s),
    }
    praise = "Without a flipped label the gap would grow without end: noise pins the scale."
    return check_cases(2, answer, right, [(0.9,), (0.6,), (0.99,)], mistakes, praise)
