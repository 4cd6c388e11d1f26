"""What the labelling card has learned from you so far, in words and with the doubt that is left.

A logistic regression on a few countable differences between the two answers (words, repeats, and whatever else a
function can say of an answer), with a normal prior on its weights.  The Bradley–Terry model again, as small as it
gets; its posterior is taken to be normal around its maximum (Laplace; MacKay 1992).
"""

import math
from statistics import NormalDist

import numpy as np
import torch

from ..lesson import feedback, probe
from .card import SURE

PRIOR_VARIANCE = 1.0  # of a weight, the log odds that one such difference adds; see benchmarks/judge.py
FEWEST = 6  # choices before anything is said or the next pair is chosen by its doubt
NEVER = 200  # more labels than these are not promised to settle anything
# axis -> its name in words, and what somebody likes who likes more of it, or less of it
LIKES = {
    "words": ("length", "longer answers", "shorter answers"),
    "sentences": ("number of sentences", "more sentences", "fewer sentences"),
    "repeats": ("repetition", "repetition", "no repetition"),
    "exclaims": ("exclamation marks", "exclamation marks", "no exclamation marks"),
    "asks back": ("questions back", "a question back", "no question back"),
    "right": ("right and wrong", "right answers", "wrong answers"),
    "full": ("full sentences", "full sentences", "bare answers"),
    "polite": ("kindness", "kind words", "no kind words"),
    "greeting": ("greetings", "a greeting", "no greeting"),
    "rude": ("rudeness", "rudeness", "no rudeness"),
    "filler": ("filler", "filler", "no filler"),
    "aside": ("asides", "asides", "no asides"),
    "broken": ("broken sentences", "broken sentences", "no broken sentences"),
    "empty": ("empty answers", "empty answers", "no empty answers"),
}


def plain_axes(prompt, answer):
    """What can be counted of any answer."""
    parts = [s.strip().casefold() for s in answer.replace("!", ".").replace("?", ".").split(".") if s.strip()]
    return {
        "words": len(answer.split()),
        "repeats": len(parts) - len(set(parts)),
        "exclaims": int("!" in answer),
        "asks back": int("?" in answer),
    }


def axes_of(prompt, answer, more=None):
    """Axes of an answer: the plain ones and those of the function `more`, which may know nothing of this prompt."""
    axes = plain_axes(prompt, answer)
    try:
        return axes | (more(prompt, answer) if more else {})
    except KeyError:
        return axes


def gaps(pairs, more=None):
    """Differences between the two answers of each pair: (names of the axes, array (pairs, axes) of a minus b).

    Each axis is divided by the typical size of a difference where there is one; an axis on which no pair differs is
    left out.
    """
    both = [[axes_of(p["prompt"], p["response_" + side], more) for side in "ab"] for p in pairs]
    names = list(dict.fromkeys(name for a, _ in both for name in a))
    x = np.array([[float(a.get(n, 0)) - float(b.get(n, 0)) for n in names] for a, b in both]).reshape(-1, len(names))
    size = np.sqrt((x**2).sum(0) / np.maximum(1, (x != 0).sum(0)))
    used = [i for i in range(len(names)) if size[i] > 0]
    return [names[i] for i in used], x[:, used] / size[used]


def target(choice):
    """1 if a was chosen, 0 if b, one half for a tie, None if the choice says nothing about the order."""
    return {"a": 1.0, "b": 0.0, "tie": 0.5}.get(choice)


def believe(x, t):
    """The belief after choices `t` (pairs,) on differences `x` (pairs, axes): (mean, covariance) of the weights."""
    x, t = np.asarray(x, float), np.asarray(t, float)
    prior = np.eye(x.shape[1]) / PRIOR_VARIANCE
    if not len(t):
        return np.zeros(x.shape[1]), np.linalg.inv(prior)
    mean = probe.logistic_weights(torch.from_numpy(x), torch.from_numpy(t), 1 / PRIOR_VARIANCE).double().numpy()
    p = 1 / (1 + np.exp(-x @ mean))
    return mean, np.linalg.inv(prior + x.T @ ((p * (1 - p))[:, None] * x))


def chances(belief, x):
    """The chance that a is chosen, for each row of x, the doubt about the weights counted in (MacKay 1992)."""
    mean, covariance = belief
    spread = ((x @ covariance) * x).sum(1)
    return 1 / (1 + np.exp(-(x @ mean) / np.sqrt(1 + math.pi / 8 * spread)))


def doubt(belief, x):
    """How much a choice would teach: the spread of the belief where the choice is open; (pairs,)."""
    p = chances(belief, x)
    return p * (1 - p) * ((x @ belief[1]) * x).sum(1)


def foreseen(x, t, last=10, known=None):
    """How many of the `last` choices were foreseen by what was learned before each of them: (right, asked).

    Ties, and pairs in which nothing that it counts differs, are not asked; a toss-up counts one half.  known: a dict
    that keeps what was found; with the next choice only one of them is new.
    """
    known = {} if known is None else known
    right, asked = 0.0, 0
    for i in reversed(range(FEWEST, len(t))):
        if t[i] == 0.5 or not x[i].any() or asked == last:
            continue
        key = hash((x[: i + 1].tobytes(), t[: i + 1].tobytes()))
        if key not in known:
            p = chances(believe(x[:i], t[:i]), x[i : i + 1])[0]
            known[key] = 0.5 if abs(p - 0.5) < 1e-9 else float((p > 0.5) == (t[i] == 1))
        right += known[key]
        asked += 1
    return right, asked


def opinions(belief, names, n):
    """What somebody seems to like: [(axis in words, liking in words, probability, how many more labels or None)].

    Sorted by probability.  More labels: those that would settle it, an error shrinking with the root of their number.
    """
    out = []
    for name, mean, variance in zip(names, belief[0], np.diag(belief[1])):
        z = abs(mean) / math.sqrt(variance)
        chance = NormalDist().cdf(z)
        about, more, less = LIKES.get(name, (name, f"more of: {name}", f"less of: {name}"))
        needed = n * ((NormalDist().inv_cdf(SURE) / z) ** 2 - 1) if z > 0 else math.inf
        out.append((about, more if mean > 0 else less, chance, math.ceil(max(0, needed)) if needed < NEVER else None))
    return sorted(out, key=lambda o: -o[2])


class Judge:
    """A belief about one person, on a fixed list of pairs."""

    def __init__(self, pairs, more=None):
        self.names, self.x = gaps(pairs, more)
        self.known = {}  # of `foreseen`
        self.rows = {feedback.pair_key(pair): i for i, pair in enumerate(pairs)}
        self.learn([])

    def learn(self, labels):
        """Learn anew from these labels; the first of each pair counts, and only those that put two answers in order."""
        first = [x for x, earlier in feedback.with_earlier(labels) if not earlier and target(x["choice"]) is not None]
        self.t = np.array([target(x["choice"]) for x in first])
        self.seen = self.x[[self.rows[feedback.pair_key(x)] for x in first]]
        self.belief = believe(self.seen, self.t)

    def doubts(self, pairs):
        """How much each of these pairs would teach."""
        return doubt(self.belief, self.x[[self.rows[feedback.pair_key(pair)] for pair in pairs]])

    def opinions(self):
        return opinions(self.belief, self.names, len(self.t)) if len(self.t) >= FEWEST else []

    def foreseen(self):
        return foreseen(self.seen, self.t, known=self.known)
