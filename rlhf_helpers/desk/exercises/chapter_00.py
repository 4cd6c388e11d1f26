"""The checkers of chapter 00."""

from ...lesson.feedback import wilson
from .checking import check_cases, fewest


def check_advantages(answer):
    """00.1: rewards, less their mean, in standard deviations."""

    def right(rewards):
        mean = sum(rewards) / len(rewards)
        spread = (sum((r - mean) ** 2 for r in rewards) / len(rewards)) ** 0.5
        return [(r - mean) / spread if spread else 0.0 for r in rewards]

    def mean(rewards):
        return sum(rewards) / len(rewards)

    def spread(rewards):
        return (sum((r - mean(rewards)) ** 2 for r in rewards) / len(rewards)) ** 0.5

    cases = [([3.0, 1.0, 2.0, 6.0],), ([1.0, 2.0],), ([2.0, 2.0, 2.0],)]
    mistakes = {
        "every reward counts as praise here, since the mean was not taken off.": (
            lambda x: list(x),
            lambda x: [r / (spread(x) or 1) for r in x],
        ),
        "turned round: what lies above the mean has to come out positive.": lambda x: [-a for a in right(x)],
        "these are distances from the mean, but in points; divide them by the standard deviation.": (
            lambda x: [r - mean(x) for r in x]
        ),
        "divided by the variance; take its square root first.": lambda x: [
            (r - mean(x)) / (spread(x) or 1) ** 2 for r in x
        ],
        "that is the deviation with n - 1; the population's, with n, is asked for.": lambda x: [
            a * ((len(x) - 1) / len(x)) ** 0.5 for a in right(x)
        ],
        "if all rewards are equal, the deviation is 0, and nothing can be divided by it: return zeros.": lambda x: [
            (r - mean(x)) / spread(x) for r in x
        ],
    }
    return check_cases(1, answer, right, cases, mistakes, "Praise and blame now add up to zero.")


def check_wins(answer):
    """00.2: how many wins of 12 put the interval above one half."""

    def enough(k):
        return wilson(k, 12)[0] > 0.5

    def too_few(k):
        low, high = wilson(k, 12)
        return f"its interval reaches from {low:.0%} to {high:.0%}."

    return fewest(2, answer, 1, enough, too_few, "Even nine of twelve might be luck.")
