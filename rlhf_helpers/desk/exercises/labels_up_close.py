"""The checkers of Labels up close."""

from ...lesson.feedback import wilson
from .checking import check_cases, fewest


def check_labels_for_bias(answer):
    """1: the fewest labels, in fives, that show a lean of 60%."""

    def enough(n):
        return wilson(round(0.6 * n), n)[0] > 0.5

    def too_few(n):
        return "the interval still contains 50%."

    return fewest(1, answer, 5, enough, too_few, "A lean that anyone would call strong stays hidden in 40 labels.")


def check_best_on_pool(answer):
    """2: the best accuracy of one judge on the labels of two people."""

    def agreement(first, second):
        return sum(a == b for a, b in zip(first, second)) / len(first)

    def right(first, second):
        return (1 + agreement(first, second)) / 2

    mistakes = {
        "that is how often the two agree. Where they don't, the judge still agrees with one of them.": agreement,
        "where the two disagree, no judge can be right about both labels.": lambda a, b: 1.0,
        "that is how often they disagree.": lambda a, b: 1 - agreement(a, b),
        "that is what the judge gets wrong; what it gets right is wanted.": lambda a, b: 1 - right(a, b),
        "a coin is right on half of the labels, but on pairs where the two agree a judge can do better.": (
            lambda a, b: 0.5
        ),
        "that is a number of pairs; divide by how many there are.": (
            lambda a, b: sum(x == y for x, y in zip(a, b)),
            lambda a, b: right(a, b) * len(a),
        ),
        "there are two labels for each pair, so divide by twice the number of pairs.": lambda a, b: 2 * right(a, b),
    }
    cases = [(list("aabbab"), list("abbbab")), (list("abab"), list("baba")), (list("ab"), list("ab"))]
    cases.append((list("aabba"), list("bbbba")))
    praise = "Always siding with the first of the two would do as well: a pool has no taste of its own."
    return check_cases(2, answer, right, cases, mistakes, praise)
