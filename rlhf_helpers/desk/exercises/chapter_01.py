"""The checkers of chapter 01."""

import math

import torch

from ... import world
from .checking import FACT, check_cases, tensor


def check_perplexity(answer):
    """01.1: exp of the mean loss over the real tokens."""

    def right(losses, mask):
        return ((losses * mask).sum() / mask.sum()).exp()

    cases = [
        (tensor([1.0, 2.0, 3.0], [4.0, 9.0, 9.0]), tensor([1, 1, 1], [1, 0, 0])),
        (tensor([0.5, 2.5, 7.0], [1.0, 0.25, 0.75]), tensor([1, 1, 0], [1, 1, 1])),
    ]
    mistakes = {
        "did you average over padding? Only places where the mask is 1 count.": lambda x, m: x.mean().exp(),
        "the padding counts as tokens with loss 0: divide by the number of real tokens, mask.sum().": (
            lambda x, m: (x * m).mean().exp()
        ),
        "each row weighs the same in your mean, however short it is; average over all real tokens at once.": (
            lambda x, m: ((x * m).sum(1) / m.sum(1)).mean().exp()
        ),
        "you average after the exponential, where one hard token outweighs all others: first the mean, then exp.": (
            lambda x, m: (x.exp() * m).sum() / m.sum()
        ),
        "that is exp(−loss), the typical probability of a token. Mind the sign.": lambda x, m: 1 / right(x, m),
        "that is 2 to the loss; our losses are in nats, not in bits.": lambda x, m: 2 ** right(x, m).log(),
        "that is the mean loss itself; perplexity is its exponential.": lambda x, m: right(x, m).log(),
    }
    praise = "A model that knows nothing has the size of its vocabulary as its perplexity."
    return check_cases(1, answer, right, cases, mistakes, praise)


def check_row_mask(answer):
    """01.2: which tokens of a demonstration count in the loss."""

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
    return check_cases(2, answer, right, [(3, 2, 2), (5, 4, 0), (1, 1, 3)], mistakes)


def check_least_loss(answer):
    """01.3: the entropy of the writers, below which no loss can go."""

    def right(shares):
        return -sum(p * math.log(p) for p in shares if p > 0)

    mistakes = {
        "a loss of 0 would mean to know which answer comes next, and the prompt does not say it.": lambda p: 0.0,
        "0 ln 0 counts as 0: leave out what nobody writes.": (
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
    return check_cases(3, answer, right, cases, mistakes, praise)


RUDE_START, RUDE_END = world.RUDE_OPENERS, world.RUDE_CLOSERS
RUDE = [f"{x} {FACT}" for x in RUDE_START] + [f"{FACT} {x}" for x in RUDE_END]
FINE = [FACT, f"{world.KIND_OPENERS[1]} {FACT}", f"{FACT} {world.KIND_CLOSERS[0]}", f"Hm. {FACT} {FACT}", "A nut."]
FINE += ["A monkey eats grass.", "Peru is in South America."]


def check_keep(answer):
    """01.4: a filter that drops rude demonstrations and keeps all others."""

    def right(prompt, response):
        return response in FINE

    mistakes = {
        "it keeps everything, the rude answers too.": lambda p, r: True,
        "it drops everything, so there is nothing left to learn from.": lambda p, r: False,
        "it keeps the rude ones and drops the rest: True means keep.": lambda p, r: not right(p, r),
        "it goes by what an answer begins with, but some are rude at their end.": (
            lambda p, r: not r.startswith(RUDE_START)
        ),
        "it goes by what an answer ends with, but most are rude at their beginning.": (
            lambda p, r: not r.endswith(RUDE_END)
        ),
        "it drops plain answers as well. Nothing was said about being kind.": (
            lambda p, r: any(x in r for x in world.KIND_OPENERS + world.KIND_CLOSERS)
        ),
        "it also drops what is wrong. To do that it must know the answer, and a reader of texts does not.": (
            lambda p, r: right(p, r) and "grass" not in r,
            lambda p, r: right(p, r) and "fruit" in r,
        ),
    }
    cases = [("What does a monkey eat?", text) for text in FINE + RUDE]
    return check_cases(4, answer, right, cases, mistakes, "Now see what a model makes of the rest.", bool)
