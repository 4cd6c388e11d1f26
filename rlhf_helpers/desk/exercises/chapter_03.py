"""The checkers of chapter 03."""

from .checking import check_cases, plain


def check_chosen(answer):
    """03.1: from a click on a side to (chosen, rejected)."""
    pair = {"prompt": "Where does a fox live?", "response_a": "In the forest.", "response_b": "In the sea."}

    def right(pair, left, clicked):
        side = left if clicked == "left" else "ba"["ab".index(left)]
        return pair[f"response_{side}"], pair[f"response_{'ba'['ab'.index(side)]}"]

    mistakes = {
        "chosen and rejected are swapped. Nothing would stop with an error, and the model would learn the opposite.": (
            lambda p, left, c: right(p, left, c)[::-1]
        ),
        "you take it that response_a stands on the left. The coin decided that, so ask `left`.": (
            lambda p, left, c: right(p, "a", c)
        ),
        "you go by `left` alone; what counts is which of the two was clicked.": (
            lambda p, left, c: right(p, left, "left"),
            lambda p, left, c: right(p, left, "right"),
        ),
        "the answer is the same whatever was clicked and wherever it stood.": (
            lambda p, left, c: (p["response_a"], p["response_b"]),
            lambda p, left, c: (p["response_b"], p["response_a"]),
        ),
        "the texts of the two answers are wanted, not their letters.": (
            lambda p, left, c: tuple("ab" if (left == "a") == (c == "left") else "ba")
        ),
        "the rejected answer is missing: return (chosen, rejected).": lambda p, left, c: right(p, left, c)[0],
    }
    cases = [(pair, left, clicked) for left in "ba" for clicked in ("left", "right")]
    return check_cases(1, answer, right, cases, mistakes, "Side and choice are two facts, and the log keeps both.")


def check_ranking(answer):
    """03.2: all pairs that a ranking implies, in any order."""

    def right(ranking):
        return [(a, b) for i, a in enumerate(ranking) for b in ranking[i + 1 :]]

    mistakes = {
        "chosen and rejected are swapped: the list begins with the best.": (
            lambda ranking: [(b, a) for a, b in right(ranking)]
        ),
        "these are the neighbours only. The first is also better than the third.": (
            lambda ranking: list(zip(ranking, ranking[1:]))
        ),
        "each pair is there twice, once each way round; only one way is what the ranking says.": (
            lambda ranking: [(a, b) for a in ranking for b in ranking if a != b]
        ),
        "these are the pairs of the best answer only. The second is better than the third, too.": (
            lambda ranking: [(ranking[0], b) for b in ranking[1:]]
        ),
        "no answer is better than itself.": lambda ranking: (
            [(a, b) for i, a in enumerate(ranking) for b in ranking[i:]]
        ),
    }

    def in_any_order(pairs):
        return sorted(plain(list(pairs)), key=repr) if isinstance(pairs, (list, tuple, set)) else plain(pairs)

    cases = [(list("xyz"),), (["one", "two"],), (list("dbca"),), (["alone"],)]
    return check_cases(2, answer, right, cases, mistakes, "K answers give K(K − 1)/2 pairs.", in_any_order)
