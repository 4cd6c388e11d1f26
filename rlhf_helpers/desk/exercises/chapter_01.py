"""The checkers of chapter 01."""

import math

import torch

from .checking import check_cases


def check_row_mask(answer):
    """01.1: which tokens of a demonstration count in the loss."""

    def right(asked, said, padding):
        return [0] * asked + [1] * (said + 1) + [0] * padding

    mistakes = {
        "the end-of-text token is not counted: such a model never learns to stop.": (
            lambda a, s, p: [0] * a + [1] * s + [0] * (p + 1)
        ),
        "the prompt is counted too: the model would learn to ask, not to answer.": (
            lambda a, s, p: [1] * (a + s + 1) + [0] * p
        ),
        "padding is counted: the model would learn to write padding.": lambda a, s, p: [0] * a + [1] * (s + 1 + p),
        "it starts one place early; the shift by one is made inside next_token_loss.": (
            lambda a, s, p: [0] * (a - 1) + [1] * (s + 1) + [0] * (p + 1),
            lambda a, s, p: [0] * (a - 1) + [1] * (s + 2) + [0] * p,
        ),
        "the row has no place for the end-of-text token: there is one after every answer.": (
            lambda a, s, p: [0] * a + [1] * s + [0] * p
        ),
        "0 and 1 are the wrong way round: 1 marks the tokens that count.": (
            lambda a, s, p: [1] * a + [0] * (s + 1) + [1] * p
        ),
    }
    return check_cases(1, answer, right, [(3, 2, 2), (5, 4, 0), (1, 1, 3)], mistakes)


def check_least_loss(answer):
    """01.2: the entropy of the writers, below which no loss can go."""

    def right(shares):
        return -sum(p * math.log(p) for p in shares if p > 0)

    mistakes = {
        "a loss of 0 would mean to know which answer comes next, and the prompt does not say it.": lambda p: 0.0,
        "0 ln 0 counts as 0: leave out what is never written.": (
            lambda p: -sum(x * math.log(x) for x in p),
            lambda p: -(torch.tensor(p) * torch.tensor(p).log()).sum(),
        ),
        "that is the loss on the commonest answer alone; the others are written, too.": lambda p: -math.log(max(p)),
        "weigh each answer by its share: a rare one is a big surprise, but a rare one.": (
            lambda p: -sum(math.log(x) for x in p if x > 0) / sum(x > 0 for x in p)
        ),
        "that is in bits; our losses are in nats, so take the natural logarithm.": lambda p: right(p) / math.log(2),
        "the sign is wrong: a loss is positive.": lambda p: -right(p),
        "that is for writers who give all answers equally often.": lambda p: math.log(len(p)),
    }
    cases = [([0.5, 0.3, 0.2],), ([0.9, 0.1],), ([1.0],), ([0.6, 0.4, 0.0],)]
    praise = "This is the entropy of the writers: what is left when all that can be known is known."
    return check_cases(2, answer, right, cases, mistakes, praise)
