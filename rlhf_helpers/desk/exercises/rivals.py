"""The checkers of The rivals of PPO."""

import math

from .checking import check_cases, tensor


def check_most_answers(answer):
    """The rivals.1: the largest n of best-of-n whose bound on the KL is within a budget."""

    def bound(n):
        return math.log(n) - (n - 1) / n

    def right(budget):
        n = 1
        while bound(n + 1) <= budget:
            n += 1
        return n

    def solved(formula):
        return lambda budget: next(n for n in range(1, 10_000) if formula(n + 1) > budget)

    mistakes = {
        "that is log n alone; (n − 1)/n comes off.": (solved(math.log), lambda b: math.floor(math.exp(b))),
        "that n is the first *beyond* the budget; the one before it still fits.": lambda b: right(b) + 1,
        "one less than fits: the bound may be equal to the budget or just below it.": lambda b: right(b) - 1,
        "(n − 1)/n is *subtracted* from log n.": solved(lambda n: math.log(n) + (n - 1) / n),
        "that is the bound in bits; the logarithm is the natural one.": solved(lambda n: math.log2(n) - (n - 1) / n),
    }
    praise = "A nat of distance pays for little: n grows about as fast as e to the KL."
    return check_cases(1, answer, right, [(0.65,), (2.0,), (0.2,)], mistakes, praise)


def check_leave_one_out(answer):
    """The rivals.2: each answer against the mean of the others to the same prompt."""

    def right(scores):
        return scores - (scores.sum(-1, keepdim=True) - scores) / (scores.shape[-1] - 1)

    mistakes = {
        "each answer is still in its own baseline: leave it out.": lambda s: s - s.mean(-1, keepdim=True),
        "you compare with answers to *other* prompts. Answers to one prompt are a row.": (
            lambda s: s - s.mean(0, keepdim=True),
            lambda s: s - s.mean(),
            lambda s: s - (s.sum(0, keepdim=True) - s) / (len(s) - 1),
        ),
        "you take off the sum of the others, and their mean is wanted.": (lambda s: s - (s.sum(-1, keepdim=True) - s)),
        "you divide by the number of all answers, but the others are one fewer.": (
            lambda s: s - (s.sum(-1, keepdim=True) - s) / s.shape[-1]
        ),
        "this is the baseline; what is wanted is the score minus it.": lambda s: s - right(s),
        "the sign is wrong: better than the others is an advantage.": lambda s: -right(s),
        "you also divide by the deviation. That is GRPO, where an easy prompt counts as much as a hard one.": (
            lambda s: (s - s.mean(-1, keepdim=True)) / s.std(-1, keepdim=True),
            lambda s: (s - s.mean(-1, keepdim=True)) / (s.std(-1, keepdim=True) + 1e-8),
            lambda s: right(s) / s.std(-1, keepdim=True),
        ),
    }
    cases = [(tensor([1.0, 2.0, 6.0], [0.0, 4.0, 1.0]),), (tensor([1.0, 3.0], [4.0, 10.0], [2.0, -5.0]),)]
    return check_cases(2, answer, right, cases, mistakes, "The other answers do the work of the value head.")
