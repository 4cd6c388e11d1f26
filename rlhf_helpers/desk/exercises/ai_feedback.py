"""The checkers of AI feedback."""

import math

from .checking import check_cases


def check_settled(answer):
    """AI feedback.1: a verdict that counts only if it survives a swap."""

    def right(a_first, b_first):
        there, back = a_first > 0.5, b_first < 0.5
        return "tie" if there != back else "a" if there else "b"

    def by_mean(a_first, b_first):
        return "a" if a_first + 1 - b_first > 1 else "b" if a_first + 1 - b_first < 1 else "tie"

    mistakes = {
        "the second number is the chance of whatever is first, and there that is b: turn it round.": (
            lambda a_first, b_first: "tie" if (a_first > 0.5) != (b_first > 0.5) else "a" if a_first > 0.5 else "b"
        ),
        "that is the mean of both orders; here a verdict that changes with the order is a tie.": by_mean,
        "that is the verdict of the first order alone.": lambda a_first, b_first: "a" if a_first > 0.5 else "b",
        "upside down: it names the answer that both orders find worse.": (
            lambda a_first, b_first: {"a": "b", "b": "a"}.get(right(a_first, b_first), "tie")
        ),
        "where the two orders contradict each other, it should say tie.": (
            lambda a_first, b_first: "a" if right(a_first, b_first) == "a" else "b"
        ),
    }
    cases = [(0.9, 0.8), (0.9, 0.3), (0.2, 0.6), (0.4, 0.1), (0.6, 0.55)]
    return check_cases(1, answer, right, cases, mistakes, "What is left are verdicts about the answers.")


def check_thumb_pull(answer):
    """AI feedback.2: how strongly one thumb pulls in KTO."""

    def sigma(x):
        return 1 / (1 + math.exp(-x))

    def right(gap, usual, beta):
        z = beta * (gap - usual)
        return beta * sigma(z) * (1 - sigma(z))

    mistakes = {
        "that is DPO's pull, which grows with the error up to β: the derivative of σ is σ(1 − σ).": (
            lambda gap, usual, beta: beta * sigma(-beta * (gap - usual))
        ),
        "the factor β in front is missing: it comes from the derivative of β times the gap.": (
            lambda gap, usual, beta: right(gap, usual, beta) / beta
        ),
        "the usual gap is missing: an answer is compared with what any answer gets.": (
            lambda gap, usual, beta: right(gap, 0.0, beta)
        ),
        "that is the derivative with its sign; its size is asked for.": lambda *given: -right(*given),
        "that is the loss of the answer, and not how it changes.": (
            lambda gap, usual, beta: 1 - sigma(beta * (gap - usual))
        ),
        "the gap is multiplied by β inside the σ, too.": (
            lambda gap, usual, beta: beta * sigma(gap - usual) * (1 - sigma(gap - usual))
        ),
    }
    praise = "A thumb pulls most near the reference point; one that is hopelessly wrong is let go."
    return check_cases(2, answer, right, [(0.0, 0.0, 0.4), (5.0, 1.0, 0.5), (-6.0, 0.5, 0.3)], mistakes, praise)
