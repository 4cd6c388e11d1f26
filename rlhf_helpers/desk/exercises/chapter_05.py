"""The checkers of chapter 05."""

import torch

from .checking import FACT, broken, check_cases, in_one_line, not_done, outcome, tell, tensor


def check_kl_of_answers(answer):
    """05.1: the mean KL of an answer, in nats."""

    def right(logprobs, ref_logprobs, mask):
        return ((logprobs - ref_logprobs) * mask).sum(-1).mean()

    lp, ref = tensor([-1.0, -2.0, -0.5, 7.0], [-3.0, 7.0, 7.0, 7.0]), tensor([-1.5, -4.0, -0.75, 1.0], [-2.5, 1, 2, 3])
    mask = tensor([1, 1, 1, 0], [1, 0, 0, 0])
    mistakes = {
        "did you sum over padding? What stands there means nothing: multiply by the mask first.": (
            lambda p, q, m: (p - q).sum(-1).mean()
        ),
        "did you average over padding? The padded places count as tokens here.": (
            lambda p, q, m: (p - q).mean(),
            lambda p, q, m: ((p - q) * m).mean(),
        ),
        "that is per *token*. Add up the tokens of an answer, and average over answers.": (
            lambda p, q, m: ((p - q) * m).sum() / m.sum(),
            lambda p, q, m: (((p - q) * m).sum(-1) / m.sum(-1)).mean(),
        ),
        "it is upside down: policy minus reference. As a penalty, this would pay the policy to run away.": (
            lambda p, q, m: -right(p, q, m)
        ),
        "that is for all answers together; divide by their number.": lambda p, q, m: ((p - q) * m).sum(),
        "that is one number per answer; take the mean.": lambda p, q, m: ((p - q) * m).sum(-1),
        "the absolute value of k1 is no estimate of KL: where a token became less likely, it counts against.": (
            lambda p, q, m: ((p - q).abs() * m).sum(-1).mean()
        ),
    }
    cases = [(lp, ref, mask), (ref, lp, tensor([1, 1, 0, 0], [1, 1, 1, 0]))]
    praise = "Per answer is the unit in which the curves, and papers, count the distance."
    return check_cases(1, answer, right, cases, mistakes, praise)


def check_reward(answer):
    """05.2: a reward for short answers that an empty answer does not win."""
    if answer is None:
        return not_done(2)
    if not callable(answer):
        return tell(2, f"a function is asked for, and this is {in_one_line(answer)}.")
    texts = ["", "Fruit.", FACT, f"Good question! {FACT} I hope that helps.", " ".join([FACT] * 6)]
    got = outcome(answer, (["What does a monkey eat?"] * len(texts), texts), lambda x: x)
    if got is None:
        return not_done(2)
    trouble = reward_trouble(got, len(texts))
    return tell(2, trouble or "right. Fifty updates follow; then read what the policy makes of it.", not trouble)


def reward_trouble(got, n):
    """What is wrong with the rewards of n answers that grow longer, the first of them empty; or ""."""
    if isinstance(got, Exception):
        return broken(got)
    if not isinstance(got, torch.Tensor):
        return f"a torch tensor is wanted, and this is a {type(got).__name__}."
    if got.shape != (n,):
        return f"for {n} answers the shape should be ({n},), one number each, and it is {tuple(got.shape)}."
    if not got.is_floating_point():
        return "the numbers should be floats: divide by something, or use torch.tensor(..., dtype=torch.float32)."
    if not got.isfinite().all():
        return "some rewards are not finite, and such a number ends the training."
    if got.max() == got.min():
        return "every answer gets the same, so there is nothing to learn."
    if got[0] >= got[1:].max():
        return "the empty answer gets the most, so saying nothing will be what the policy learns."
    if got[1] <= got[2:].max():
        return "a longer answer gets as much as the one-word answer or more."
    return ""
