"""The checkers of PPO up close."""

import torch

from .checking import check_cases, tensor


def check_k3(answer):
    """PPO up close.1: the estimate k3 of KL(π || π_ref), exact for tiny differences too."""

    def right(logprobs, ref_logprobs):
        log_rho = ref_logprobs - logprobs
        return torch.expm1(log_rho) - log_rho

    cases = [
        (tensor(-1.0, -2.0, -0.5), tensor(-1.5, -1.0, -2.5)),
        (torch.zeros(1), torch.full((1,), 1e-4)),
        (tensor(-3.0, -0.25), tensor(-0.5, -0.25)),
    ]
    mistakes = {
        "ρ is π_ref/π, and here it is π/π_ref.": lambda p, q: right(q, p),
        "some of your estimates are negative, which k3 never is: is log ρ taken off?": (
            lambda p, q: torch.expm1(q - p),
            lambda p, q: torch.exp(q - p) - 1,
            lambda p, q: torch.expm1(q - p) + (q - p),
        ),
        "right, but not for tiny differences, where 1 + x − 1 keeps no digits: use torch.expm1.": (
            lambda p, q: (torch.exp(q - p) - 1) - (q - p),
            lambda p, q: torch.exp(q - p) - 1 - q + p,
            lambda p, q: torch.exp(q - p) - (q - p) - 1,
        ),
        "that is k1, and k1 can be negative.": lambda p, q: p - q,
        "that is k2, half the square: never negative, but right only near 0.": lambda p, q: 0.5 * (p - q) ** 2,
        "one estimate per token is wanted, not their mean.": lambda p, q: right(p, q).mean(),
    }
    return check_cases(1, answer, right, cases, mistakes)


def check_explained_variance(answer):
    """PPO up close.2: how much of the variance of its targets the value head explains."""

    def right(values, returns, mask):
        real = mask.bool()
        return 1 - (returns - values)[real].var() / returns[real].var()

    values = tensor([0.0, 1.0, 2.5, 9.0], [1.0, 0.5, -7.0, 3.0])
    returns = tensor([1.0, 1.5, 4.0, 0.0], [2.0, -1.0, 5.0, 5.0])
    mask = tensor([1, 1, 1, 0], [1, 1, 0, 0])
    mistakes = {
        "did you count the padding? Only places where the mask is 1 belong in the variances.": (
            lambda v, r, m: 1 - (r - v).var() / r.var(),
            lambda v, r, m: 1 - ((r - v) * m).var() / (r * m).var(),
        ),
        "that is the mean square of the error. Its variance leaves out an error that is always the same.": (
            lambda v, r, m: 1 - ((r - v)[m.bool()] ** 2).mean() / r[m.bool()].var(),
            lambda v, r, m: 1 - ((r - v)[m.bool()] ** 2).mean() / r[m.bool()].var(unbiased=False),
        ),
        "that is the share that is *not* explained: take it from 1.": lambda v, r, m: 1 - right(v, r, m),
        "you divide by the variance of the values; what is to be explained are the returns.": (
            lambda v, r, m: 1 - (r - v)[m.bool()].var() / v[m.bool()].var()
        ),
        "that is with standard deviations; a variance is their square.": (
            lambda v, r, m: 1 - (r - v)[m.bool()].std() / r[m.bool()].std()
        ),
    }
    cases = [(values, returns, mask), (returns, values, mask)]
    return check_cases(2, answer, right, cases, mistakes, "Little is explained at first, and more as it learns.")
