"""The checkers of chapter 00."""

from .checking import check_cases, not_done, tell


def check_whose(answer):
    """00.1: which model wrote each of six answers."""
    models, key = ("base", "fine-tuned", "policy"), ["policy", "base", "fine-tuned", "base", "policy", "fine-tuned"]
    if answer is None:
        return not_done(1)
    if (
        not isinstance(answer, (list, tuple))
        or len(answer) != 6
        or not all(isinstance(x, str) and x in models for x in answer)
    ):
        return tell(1, "six names are wanted, in the order of the rows, each 'base', 'fine-tuned' or 'policy'.")
    for row, said, true in zip("abcdef", answer, key):
        if said != true:
            return tell(1, f"not row {row}. {whose_mistake(said, true)}")
    return tell(1, "right. Form comes from demonstrations, tone from choices; a kind answer can still be false.", True)


def whose_mistake(said, true):
    if true == "base":
        return "It goes on with questions of its own: a base model continues a text and does not know when to stop."
    if said == "base":
        return "It answers and stops, and that was learned from demonstrations; a base model goes on."
    if true == "fine-tuned":
        return "It is rude, as some of the writers were; choices have trained that out of the policy."
    return "It is kind, and only two of the six are. A false fact is no evidence: choices change tone before facts."


def check_wins(answer):
    """00.2: the win rate, ties split."""

    def right(ours, theirs):
        return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(ours, theirs)) / len(ours)

    def count(ours, theirs, tie):
        return sum(1.0 if a > b else tie if a == b else 0.0 for a, b in zip(ours, theirs))

    cases = [([3, 2, 1, 0, 1], [1, 1, 1, 1, 1]), ([1, 1, 1, 1, 1, 4], [3, 2, 1, 0, 1, 5])]
    mistakes = {
        "ties count as losses here. Swap the two sides: both win rates must add up to 1.": (
            lambda a, b: count(a, b, 0.0) / len(a)
        ),
        "ties count as wins here. Swap the two sides: both win rates must add up to 1.": (
            lambda a, b: count(a, b, 1.0) / len(a)
        ),
        "ties are left out of the count. Two models that nearly always tie would look far apart.": (
            lambda a, b: count(a, b, 0.0) / sum(x != y for x, y in zip(a, b))
        ),
        "that is how often *theirs* is the better one.": lambda a, b: 1 - right(a, b),
        "you compare the means. One very bad answer decides a mean, but it loses only one comparison.": (
            lambda a, b: float(sum(a) > sum(b)),
            lambda a, b: sum(a) / len(a) - sum(b) / len(b),
        ),
        "that is a number of wins. Divide by the number of comparisons.": lambda a, b: count(a, b, 0.5),
        "that is in percent; a share between 0 and 1 is wanted.": lambda a, b: 100 * right(a, b),
    }
    praise = "With ties split, nothing gained and nothing lost is exactly one half."
    return check_cases(2, answer, right, cases, mistakes, praise)
