"""The checkers of KL estimators, and a sampler that isn't the trainer."""

import torch

from .checking import check_cases, tensor


def check_kl_loss(answer):
    """KL and mismatch.1: a loss with the value of k1 and the gradient of the KL."""

    def right(logprobs, ref_logprobs):
        k1 = (logprobs - ref_logprobs).detach()
        return k1 * (logprobs - logprobs.detach()) + k1

    def value_and_slope(f):
        """The same function, which gives [values, derivatives with respect to the first argument]."""

        def both(logprobs, ref_logprobs):
            logprobs = logprobs.clone().requires_grad_()
            loss = f(logprobs, ref_logprobs)
            if loss is None or isinstance(loss, list):  # not done, or wrapped already
                return loss
            if not loss.requires_grad:
                return [loss.tolist(), [0.0] * len(logprobs)]
            return [loss.tolist(), torch.autograd.grad(loss.sum(), logprobs)[0].tolist()]

        return both

    mistakes = {
        "right on average as a gradient, but its value is k2 and not k1.": lambda p, q: 0.5 * (p - q) ** 2,
        "that is plain k1: its value is right, and its gradient is 1 whatever the distance, zero on average.": (
            lambda p, q: p - q
        ),
        "nothing has a gradient: detach the weight, and leave log π in.": lambda p, q: (p - q).detach(),
        "its gradient is right, and its value is not k1: subtract log π detached.": (
            lambda p, q: (p - q).detach() * p,
            lambda p, q: (p - q).detach() * (p - p.detach()),
        ),
        "that is k3, whose gradient is that of the other direction.": lambda p, q: torch.expm1(q - p) - (q - p),
        "upside down: policy minus reference.": lambda p, q: right(p, 2 * p.detach() - q),
        "where nothing is detached, the product rule adds a term: the weight must be a plain number.": (
            lambda p, q: (p - q) * (p - p.detach()) + (p - q)
        ),
    }
    cases = [(tensor(-1.0, -2.0, -0.5), tensor(-3.0, -1.0, -0.75)), (tensor(-4.0, -0.1), tensor(-0.2, -2.5))]
    wrapped = {k: tuple(map(value_and_slope, v if isinstance(v, tuple) else (v,))) for k, v in mistakes.items()}
    praise = "Logged as ever, and it pulls the right way."
    given = value_and_slope(answer) if callable(answer) else answer
    return check_cases(1, given, value_and_slope(right), cases, wrapped, praise)


def check_answer_weight(answer):
    """KL and mismatch.2: the importance weight of a whole answer."""

    def right(old, drawn, mask, most=2.0):
        return torch.exp(((old - drawn) * mask).sum(-1)).clamp(max=most)

    mistakes = {
        "did you sum over padding? What stands there means nothing: multiply by the mask first.": (
            lambda old, drawn, mask, most=2.0: torch.exp((old - drawn).sum(-1)).clamp(max=most)
        ),
        "the cut at `most` is missing.": lambda old, drawn, mask, most=2.0: torch.exp(((old - drawn) * mask).sum(-1)),
        "upside down: how much likelier *training* finds it.": (
            lambda old, drawn, mask, most=2.0: right(drawn, old, mask, most)
        ),
        "that is one weight for each token; the product over the answer is asked for.": (
            lambda old, drawn, mask, most=2.0: torch.exp((old - drawn) * mask).clamp(max=most)
        ),
        "that is the mean over the tokens; a product of weights is a *sum* of logarithms.": (
            lambda old, drawn, mask, most=2.0: torch.exp(((old - drawn) * mask).sum(-1) / mask.sum(-1)).clamp(max=most)
        ),
        "cut the whole weight and not each token's.": (
            lambda old, drawn, mask, most=2.0: torch.exp((old - drawn) * mask).clamp(max=most).prod(-1)
        ),
    }
    old, drawn = tensor([-1.0, -1.0, 5.0], [-0.5, -2.0, -1.0]), tensor([-1.5, -1.2, 1.0], [-2.5, -1.0, -1.5])
    mask = tensor([1, 1, 0], [1, 1, 1])
    cases = [(old, drawn, mask), (drawn, old, mask, 1.5)]
    return check_cases(2, answer, right, cases, mistakes, "Small gaps add up over a long answer.")
