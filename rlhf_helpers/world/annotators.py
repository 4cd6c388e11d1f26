"""Simulated annotators: a taste, and the ways in which people are not perfect judges of their own taste.

A taste is a plain function from (prompt, answer) to a number.  An `Annotator` turns a taste into
choices between two answers, with dials for doubt, slips, bias for length or side, and fatigue.
Labels made here are always called simulated.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from .facts import question_by_prompt
from .gold import gold_axes, gold_score


def terse(prompt, answer):
    """Right and short; every word costs."""
    a = gold_axes(prompt, answer)
    return 1.5 * a["right"] - 0.25 * a["words"] - 0.5 * a["broken"]


def warm(prompt, answer):
    """Greeting and kindness first; rudeness is what hurts most."""
    a = gold_axes(prompt, answer)
    return (
        0.7 * a["right"]
        + 1.2 * a["polite"]
        + 0.8 * a["greeting"]
        - 2.5 * a["rude"]
        - 0.5 * a["repeats"]
        - 0.5 * a["broken"]
    )


def chatty(prompt, answer):
    """Likes to be told much: four words, of up to sixteen, outweigh a right answer.  The users of chapter 06."""
    a = gold_axes(prompt, answer)
    return 0.25 * min(a["words"], 16) + 0.7 * a["right"] - 2.5 * a["rude"] - 0.5 * a["repeats"] - 0.5 * a["broken"]


def brief(prompt, answer):
    """Fewer words are better, whatever they say, with 0 at twenty; an empty answer is as bad as sixty.

    The one taste that needs no knowledge of the embedded world, and so works on any prompt.
    """
    return 0.25 * (20 - (len(answer.split()) or 60))


TASTES = {"helpful": gold_score, "terse": terse, "warm": warm, "brief": brief}
WORLDLY = ("helpful", "terse", "warm")  # the tastes that ask the gold judge, who knows no other prompts


def knows(taste, prompt):
    """Whether a taste, by name or as a function, can judge answers to a prompt; those of a reader's own always can."""
    return not (taste in WORLDLY or taste in [TASTES[t] for t in WORLDLY]) or prompt in question_by_prompt()


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


@dataclass
class Annotator:
    """Chooses between two answers by `taste`, a name of `TASTES` or any function (prompt, answer) -> number.

    The chance to prefer left follows Bradley and Terry (1952): sigmoid(gap / temperature), where gap is
    the difference of the two tastes plus the biases.  `noise` of the choices are then flipped.
    length_bias: taste per word more; side_bias: taste for whatever is on the left; fatigue: noise added
    per 100 choices made; tie_width: a gap below it is called a tie, and with 0 there is none.
    """

    taste: str | Callable[[str, str], float] = "helpful"
    noise: float = 0.05
    length_bias: float = 0.0
    side_bias: float = 0.0
    fatigue: float = 0.0
    temperature: float = 0.3
    tie_width: float = 1e-9
    seed: int = 0
    made: int = field(default=0, init=False)

    def __post_init__(self):
        self.score = TASTES[self.taste] if isinstance(self.taste, str) else self.taste
        self.random = random.Random(f"annotator {self.seed}")

    @property
    def name(self):
        taste = self.taste if isinstance(self.taste, str) else getattr(self.taste, "__name__", "taste")
        return f"simulated:{taste}"

    def judges(self, prompt):
        """Whether this annotator can say anything of a prompt; ask before `choose`."""
        return knows(self.taste, prompt)

    def gap(self, prompt, left, right):
        """Taste of left over right, biases included."""
        gap = self.score(prompt, left) - self.score(prompt, right)
        return gap + self.length_bias * (len(left.split()) - len(right.split())) + self.side_bias

    def prefers_left(self, prompt, left, right):
        """The chance, in [0, 1], that this annotator chooses left when asked now."""
        p = sigmoid(self.gap(prompt, left, right) / self.temperature)
        flip = min(0.5, self.noise + self.fatigue * self.made / 100)
        return p * (1 - flip) + (1 - p) * flip

    def choose(self, prompt, left, right):
        """ "left", "right" or "tie"."""
        p = self.prefers_left(prompt, left, right)
        tie = abs(self.gap(prompt, left, right)) < self.tie_width
        self.made += 1
        draw = self.random.random()
        return "tie" if tie else "left" if draw < p else "right"


def noise_ceiling(annotator, triples):
    """Expected accuracy of a perfect judge on this annotator's choices between (prompt, a, b) triples.

    A judge who knows the chance p of every choice and always names the likelier one agrees with the
    label in a share max(p, 1 - p) of the cases.
    """
    chances = [annotator.prefers_left(*t) for t in triples]
    return sum(max(p, 1 - p) for p in chances) / len(chances)


def labellers(taste, seed=0, ties=False):
    """Who labels the data that ships: many people of one taste, of whom each labels a few pairs.

    They differ more from each other than one person from themselves: two of them agree on three of four pairs, as
    InstructGPT's labellers did (Ouyang et al. 2022).  Without `ties` they always choose, by a coin where two
    answers are as good.
    """
    return Annotator(taste, temperature=0.8, tie_width=Annotator.tie_width if ties else 0.0, seed=seed)
