"""The checkers of Over-optimisation."""

import math

from .checking import check_cases


def check_turning_kl(answer):
    """Over-optimisation.1: the KL at which d (alpha - beta ln d) is highest."""

    def right(alpha, beta):
        return math.exp(alpha / beta - 1) ** 2

    mistakes = {
        "that is the distance d; the KL is its square.": lambda alpha, beta: math.exp(alpha / beta - 1),
        "that is where the parabola d (α − βd) turns; here the logarithm of d stands in its place.": (
            lambda alpha, beta: (alpha / (2 * beta)) ** 2,
            lambda alpha, beta: alpha / (2 * beta),
        ),
        "there all gain is gone: α − β ln d is 0. It turns before.": (
            lambda alpha, beta: math.exp(alpha / beta) ** 2,
            lambda alpha, beta: math.exp(alpha / beta),
        ),
        "that is ln d at the peak: take the exponential, then the square.": (
            lambda alpha, beta: alpha / beta - 1,
            lambda alpha, beta: (alpha / beta - 1) ** 2,
        ),
    }
    praise = "A judge with β/α twice as large turns a good deal sooner."
    return check_cases(1, answer, right, [(1.0, 1.0), (2.0, 1.5), (1.0, 0.4)], mistakes, praise)


def check_mean_of_best(answer):
    """Over-optimisation.2: the unbiased mean for best-of-n from one pool."""

    def ranked(scores, values):
        return [v for _, v in sorted(zip(scores, values))]

    def right(scores, values, n):
        total = sum(math.comb(k, n - 1) * v for k, v in enumerate(ranked(scores, values)))
        return total / math.comb(len(scores), n)

    def with_replacement(scores, values, n):
        pool = len(scores)
        return sum(v * (((k + 1) / pool) ** n - (k / pool) ** n) for k, v in enumerate(ranked(scores, values)))

    mistakes = {
        "that is the best of the first n only: the rest of the pool is wasted.": (
            lambda scores, values, n: ranked(scores[:n], values[:n])[-1]
        ),
        "that is the mean of the n best answers of the pool; best-of-n does not see the whole pool.": (
            lambda scores, values, n: sum(ranked(scores, values)[-n:]) / n
        ),
        "that is the best of the whole pool.": lambda scores, values, n: ranked(scores, values)[-1],
        "the values decide who is best here; the judge must, by its scores.": (
            lambda scores, values, n: right(values, values, n)
        ),
        "that draws with replacement: one answer may then be taken twice, which is biased.": with_replacement,
        "the weights stand in the order of the pool: rank it by the scores first.": (
            lambda scores, values, n: right(list(range(len(scores))), values, n)
        ),
        "upside down: it is the worst of n.": (lambda scores, values, n: right([-s for s in scores], values, n)),
    }
    cases = [
        ([3.0, 1.0, 2.0], [5.0, 0.0, 2.0], 2),
        ([0.1, 0.9, 0.4, 0.7], [1.0, -2.0, 3.0, 0.5], 3),
        ([0.5, -1.0, 2.0, 1.5, 0.0], [0.0, 1.0, 4.0, 2.0, -3.0], 2),
    ]
    return check_cases(2, answer, right, cases, mistakes, "One pool serves every n.")
