"""The checkers of Verifiable rewards and GRPO."""

from .checking import check_cases


def check_teaches(answer):
    """Verifiable rewards.1: the chance that a group of answers is mixed."""

    def right(p, k):
        return 1 - p**k - (1 - p) ** k

    mistakes = {
        "that is the chance that they are all alike; take it from 1.": lambda p, k: p**k + (1 - p) ** k,
        "you left out groups that are all wrong: they teach nothing, either.": lambda p, k: 1 - p**k,
        "you left out groups that are all right: they teach nothing, either.": lambda p, k: 1 - (1 - p) ** k,
        "that is right for two answers only; k of them are all right with chance p**k.": lambda p, k: 2 * p * (1 - p),
        "that is the chance of exactly one right answer; two or three may be right, too.": (
            lambda p, k: k * p * (1 - p) ** (k - 1)
        ),
        "all k answers must be right at once: that is p**k, and not k times p.": lambda p, k: 1 - k * p - k * (1 - p),
    }
    praise = "Questions that are hardly ever right, or hardly ever wrong, cost answers and teach little."
    return check_cases(1, answer, right, [(0.5, 2), (0.25, 4), (0.9, 8)], mistakes, praise)


def check_loudness(answer):
    """Verifiable rewards.2: what one token counts for where every answer counts the same."""

    def right(lengths):
        return [1 / (len(lengths) * n) for n in lengths]

    mistakes = {
        "the mean over answers is missing: each answer has its share of the loss, and not all of it.": (
            lambda lengths: [1 / n for n in lengths]
        ),
        "that is the mean over all tokens of the batch, as in chapter 05, where long answers count for more.": (
            lambda lengths: [1 / sum(lengths)] * len(lengths)
        ),
        "that is what a whole answer counts for; its tokens share it.": lambda lengths: (
            [1 / len(lengths)] * len(lengths)
        ),
        "that is Dr. GRPO's constant for all; here the answer's own length divides.": (
            lambda lengths: [1 / (len(lengths) * max(lengths))] * len(lengths)
        ),
        "upside down: the longer the answer, the less its single token counts.": (
            lambda lengths: [n / len(lengths) for n in lengths],
            lambda lengths: [n / sum(lengths) for n in lengths],
        ),
    }
    praise = "A wrong answer of twice the length is blamed half as much per token."
    return check_cases(2, answer, right, [([1, 4],), ([2, 2, 8],), ([3, 5, 10, 30],)], mistakes, praise)
