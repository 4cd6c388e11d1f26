"""The checkers of DPO, derived and watched."""

import math

from .checking import check_cases


def check_best_policy(answer):
    """DPO.1: the optimum of reward and KL penalty."""

    def reweighed(weight):
        def policy(reference, rewards, beta):
            weights = [p * weight(r - max(rewards), beta) for p, r in zip(reference, rewards)]
            return [w / sum(weights) for w in weights]

        return policy

    right = reweighed(lambda r, beta: math.exp(r / beta))

    def without_reference(reference, rewards, beta):
        return right([1.0] * len(rewards), rewards, beta)

    def not_normalised(reference, rewards, beta):
        return [p * math.exp(r / beta) for p, r in zip(reference, rewards)]

    mistakes = {
        "the reference is missing: an answer that it never says stays improbable.": without_reference,
        "the probabilities do not add up to 1: divide by their sum.": not_normalised,
        "the reward is divided by β: a small penalty allows a sharp policy.": (
            reweighed(lambda r, beta: math.exp(r * beta)),
            reweighed(lambda r, beta: math.exp(r)),
        ),
        "upside down: a high reward makes an answer likelier.": (
            lambda reference, rewards, beta: right(reference, [-r for r in rewards], beta)
        ),
        "right for small rewards, but large ones overflow: subtract the largest first.": (
            lambda reference, rewards, beta: [
                x / sum(not_normalised(reference, rewards, beta)) for x in not_normalised(reference, rewards, beta)
            ]
        ),
    }
    cases = [([0.5, 0.5], [0.0, 0.0], 1.0), ([0.7, 0.2, 0.1], [0.0, 1.0, 2.0], 0.5), ([0.9, 0.1], [1000.0, 1001.0], 1)]
    return check_cases(1, answer, right, cases, mistakes, "This is the top that PPO climbs towards.")


def check_pull(answer):
    """DPO.2: how strongly one pair pulls."""

    def right(gap, beta):
        return beta / (1 + math.exp(beta * gap))

    mistakes = {
        "a settled pair (a large gap) should pull less, and here it pulls more.": (
            lambda gap, beta: beta / (1 + math.exp(-beta * gap))
        ),
        "the factor β in front is missing: it comes from the derivative of β times the gap.": (
            lambda gap, beta: 1 / (1 + math.exp(beta * gap))
        ),
        "the gap is multiplied by β inside the σ, too.": lambda gap, beta: beta / (1 + math.exp(gap)),
        "that is the derivative with its sign; its size is asked for.": lambda gap, beta: -right(gap, beta),
        "that is the loss of the pair, and not how it changes.": lambda gap, beta: math.log1p(math.exp(-beta * gap)),
    }
    praise = "Pairs in the wrong order pull the most."
    return check_cases(2, answer, right, [(0.0, 0.1), (3.0, 0.5), (-4.0, 0.3)], mistakes, praise)
