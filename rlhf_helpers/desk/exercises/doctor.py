"""The checkers of the doctor's chapter."""

from .checking import check_cases


def check_entropy_gone(answer):
    """1: a rule on the entropy of a log."""

    def right(entropy, share):
        n = max(1, len(entropy) // 3)
        return sum(entropy[-n:]) / n < share * sum(entropy[:n]) / n

    cases = [
        ([2.0, 1.0, 0.1], 0.2),
        ([2.0, 2.0, 1.0, 1.0, 0.1, 0.9], 0.2),
        ([0.3, 0.3, 0.2, 0.2, 0.15, 0.15], 0.2),
        ([1.0, 3.0, 1.0, 1.0, 0.2, 0.4], 0.2),
        ([0.5, 0.1], 0.3),
        ([0.1, 0.4, 1.0], 0.2),
        ([9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5], 0.2),
    ]
    mistakes = {
        "it looks at the first and the last row only, and one row is one batch: take means of thirds.": (
            lambda entropy, share: entropy[-1] < share * entropy[0]
        ),
        "it asks whether the entropy fell by `share`; it must have fallen *to* less than `share` of its start.": (
            lambda y, share: sum(y[-(n := max(1, len(y) // 3)) :]) < (1 - share) * sum(y[:n])
        ),
        "it compares with a fixed number; what is little depends on where the curve began.": (
            lambda y, share: sum(y[-(n := max(1, len(y) // 3)) :]) / n < share
        ),
        "it takes halves, not thirds.": (lambda y, share: sum(y[-(n := max(1, len(y) // 2)) :]) < share * sum(y[:n]),),
        "start and end are swapped: it rings when the entropy grows.": (
            lambda y, share: sum(y[: (n := max(1, len(y) // 3))]) < share * sum(y[-n:])
        ),
        "it never rings.": lambda y, share: False,
    }
    return check_cases(1, answer, right, cases, mistakes, "The doctor's own rule is written just so.")


def check_any_rings(answer):
    """2: false alarms of many rules together."""

    def right(rate, rules):
        return 1 - (1 - rate) ** rules

    cases = [(0.5, 2), (0.01, 30), (0.0, 10), (0.2, 1), (1.0, 3)]
    mistakes = {
        "rates don't add up: with 300 rules at 1% it would be more than always.": lambda rate, rules: rate * rules,
        "this is how often *all* of them ring.": lambda rate, rules: rate**rules,
        "this is how often *none* of them rings.": lambda rate, rules: (1 - rate) ** rules,
        "it does not look at how many rules there are.": lambda rate, rules: rate,
    }
    return check_cases(2, answer, right, cases, mistakes, "So a rule must be far more careful than 1 in 100.")
