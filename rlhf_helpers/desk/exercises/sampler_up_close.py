"""The checkers of "The sampler up close"."""

import torch

from .checking import check_cases, tensor


def check_min_p(answer):
    """1: min-p sampling."""

    def right(logits, share):
        p = logits.softmax(-1)
        return logits.masked_fill(p < share * p.max(-1, keepdim=True).values, -torch.inf)

    z, flat = tensor(0.5, 0.3, 0.15, 0.05).log(), tensor(0.3, 0.29, 0.23, 0.18).log()
    mistakes = {
        "nothing is cut. Of 0.5, 0.3, 0.15, 0.05 and a share of ¼ the last one has to go.": lambda z, s: z,
        "you compare with `share` itself. Times the largest p, the bar falls when the model is in doubt.": (
            lambda z, s: z.masked_fill(z.softmax(-1) < s, -torch.inf)
        ),
        "you compare logits. Adding 5 to all of them must change nothing: use the softmax.": (
            lambda z, s: z.masked_fill(z < s * z.max(-1, keepdim=True).values, -torch.inf),
            lambda z, s: z.masked_fill(z < s, -torch.inf),
        ),
        "a logit of 0 is no ban, since e to the 0 is 1: use −inf.": (
            lambda z, s: right(z, s).masked_fill(right(z, s).isinf(), 0.0)
        ),
        "these are probabilities, and logits are wanted, as from `adjust`.": lambda z, s: right(z, s).softmax(-1),
        "each row has a largest p of its own: take the maximum along the last axis, with keepdim=True.": (
            lambda z, s: z.masked_fill(z.softmax(-1) < s * z.softmax(-1).max(), -torch.inf)
        ),
        "it keeps what should go and cuts what should stay.": (
            lambda z, s: z.masked_fill(right(z, s).isfinite(), -torch.inf)
        ),
    }
    cases = [(z, 0.25), (z + 5, 0.25), (flat, 0.5), (torch.stack([z, flat]), 0.5)]
    return check_cases(1, answer, right, cases, mistakes, "The bar moves with the model's own doubt.")


def check_most_probable(answer):
    """2: the most probable answer of two tokens."""

    def right(first, then):
        return max(p * max(row) for p, row in zip(first, then))

    def by_greedy(first, then):
        i = first.index(max(first))
        return first[i] * max(then[i])

    mistakes = {
        "that is greedy's answer: its first token is the likeliest, and another may have the better continuation.": (
            by_greedy
        ),
        "these two tokens do not stand on one path: a continuation belongs to its own first token.": (
            lambda f, t: max(f) * max(map(max, t))
        ),
        "probabilities along a path are multiplied, not added.": (
            lambda f, t: max(p + max(row) for p, row in zip(f, t)),
            lambda f, t: sum(p * max(row) for p, row in zip(f, t)),
        ),
        "that is the likeliest second token alone; its path begins with a first one.": lambda f, t: max(map(max, t)),
        "that is the likeliest first token alone; the answer has two.": lambda f, t: max(f),
        "which answer it is was not asked, only how probable it is.": (
            lambda f, t: max(range(len(f)), key=lambda i: f[i] * max(t[i])),
            lambda f, t: max((p * q, i, j) for i, p in enumerate(f) for j, q in enumerate(t[i]))[1:],
        ),
    }
    cases = [
        ([0.6, 0.4], [[0.5, 0.5], [0.9, 0.1]]),
        ([0.5, 0.3, 0.2], [[0.4, 0.3, 0.3], [0.7, 0.3], [0.95, 0.05]]),
        ([0.7, 0.3], [[0.8, 0.2], [0.9, 0.1]]),
    ]
    return check_cases(2, answer, right, cases, mistakes, "Greedy decoding would have to be lucky to find it.")
