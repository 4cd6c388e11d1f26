"""The checkers of "Pre-training up close"."""

from ... import world
from .checking import FACT, check_cases, tensor


def check_perplexity(answer):
    """1: exp of the mean loss over the real tokens."""

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


RUDE_START, RUDE_END = world.RUDE_OPENERS, world.RUDE_CLOSERS
RUDE = [f"{x} {FACT}" for x in RUDE_START] + [f"{FACT} {x}" for x in RUDE_END]
FINE = [FACT, f"{world.KIND_OPENERS[1]} {FACT}", f"{FACT} {world.KIND_CLOSERS[0]}", f"Hm. {FACT} {FACT}", "A nut."]
FINE += ["A monkey eats grass.", "Peru is in South America."]


def check_keep(answer):
    """2: a filter that drops rude demonstrations and keeps all others."""

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
    return check_cases(2, answer, right, cases, mistakes, "Now see what a model makes of the rest.", bool)
