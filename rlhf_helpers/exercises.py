"""Checkers of the exercises: each tries an answer on small cases and says in one sentence what is wrong with it.

A checker states the cases, the right answer, and the usual wrong answers, each under the sentence that names its
mistake; `compare` runs them all.  Nothing that an answer does, such as raising an error, gets out of a checker.
"""

import copy
import inspect
import math
import numbers

import torch
import torch.nn.functional as F

from . import world
from .feedback import wilson
from .loop import gate, power, verdict


class Verdict(str):
    """What a checker says; `.right` is True if the answer passed."""

    right = False


def tell(number, text, right=False):
    """The sentence about exercise `number`."""
    said = Verdict(f"Exercise {number}: {text}")
    said.right = right
    return said


def not_done(number):
    return tell(number, "not done yet. (So far the answer is None.)")


# ---------------------------------------------------------------- trying and comparing


def plain(value):
    """Tensors, arrays and tuples as lists, and their members too."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def outcome(f, case, view=plain):
    """What f gives for a case, seen through `view`; or the error that it raises.  None stays None."""
    try:
        got = f(*copy.deepcopy(case))
        return None if got is None else view(got)
    except Exception as error:
        return error


def same(a, b):
    """True if two outcomes agree: numbers up to rounding, errors by their type."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, numbers.Real) and isinstance(b, numbers.Real):
        return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-10) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, Exception):
        return type(a) is type(b)
    return type(a) is type(b) and a == b


def brief(value):
    """A value in one line, with four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "[" + ", ".join(map(brief, value)) + "]" if isinstance(value, list) else " ".join(repr(value).split())
    return text if len(text) <= 120 else text[:119] + "…"


def kind(value):
    """What sort of thing an outcome is, in words."""
    if isinstance(value, list):
        nested = value and isinstance(value[0], list)
        return f"{len(value)} rows of {kind(value[0])}" if nested else f"{len(value)} values"
    return "a number" if isinstance(value, numbers.Real) else f"a value of type {type(value).__name__}"


def broken(error):
    """An error as the end of a sentence."""
    what = " ".join(str(error).split())
    return f"it stops with {type(error).__name__}{': ' + what[:120] if what else ''}."


def difference(right, case, got, want):
    """The generic sentence: a case on which the outcome is not the wanted one."""
    names = inspect.signature(right).parameters
    where = ", ".join(f"{name} = {brief(plain(x))}" for name, x in zip(names, case))
    if isinstance(got, Exception):
        return f"for {where} {broken(got)}"
    if kind(got) != kind(want):
        return f"for {where} it gives {kind(got)}, and {kind(want)} should come out."
    return f"not right yet: for {where} it gives {brief(got)}, and {brief(want)} is right."


def compare(number, answer, right, cases, mistakes, praise="", view=plain):
    """The `Verdict` on a function: the same as `right` on all cases, the same as a listed mistake, or neither.

    mistakes: {sentence: a function that makes this mistake, or a tuple of such}
    """
    if answer is None:
        return not_done(number)
    if not callable(answer):
        return tell(number, f"a function is asked for, and this is {brief(answer)}.")
    got = [outcome(answer, case, view) for case in cases]
    if got[0] is None:
        return not_done(number)
    want = [outcome(right, case, view) for case in cases]
    if same(got, want):
        return tell(number, f"right. {praise}".strip(), True)
    for sentence, wrong in mistakes.items():
        for f in wrong if isinstance(wrong, tuple) else (wrong,):
            if same(got, [outcome(f, case, view) for case in cases]):
                return tell(number, sentence)
    k = next(k for k in range(len(cases)) if not same(got[k], want[k]))
    return tell(number, difference(right, cases[k], got[k], want[k]))


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


# ---------------------------------------------------------------- 00 Start here


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
    return compare(2, answer, right, cases, mistakes, praise)


# ---------------------------------------------------------------- 01 Pre-training and fine-tuning


def check_perplexity(answer):
    """01.1: exp of the mean loss over the real tokens."""

    def right(losses, mask):
        return ((losses * mask).sum() / mask.sum()).exp()

    cases = [
        (tensor([1.0, 2.0, 3.0], [4.0, 9.0, 9.0]), tensor([1, 1, 1], [1, 0, 0])),
        (tensor([0.5, 2.5, 7.0], [1.0, 0.25, 0.75]), tensor([1, 1, 0], [1, 1, 1])),
    ]
    mistakes = {
        "did you average over padding? Only places where the mask is 1 count.": lambda x, m: x.mean().exp(),
        "the padding counts as tokens with loss 0: divide by the number of real tokens, mask.sum().": (
            lambda x, m: (x * m).mean().exp()
        ),
        "each row weighs the same in your mean, however short it is; average over all real tokens at once.": (
            lambda x, m: ((x * m).sum(1) / m.sum(1)).mean().exp()
        ),
        "you average after the exponential, where one hard token outweighs all others: first the mean, then exp.": (
            lambda x, m: (x.exp() * m).sum() / m.sum()
        ),
        "that is exp(−loss), the typical probability of a token. Mind the sign.": lambda x, m: 1 / right(x, m),
        "that is 2 to the loss; our losses are in nats, not in bits.": lambda x, m: 2 ** right(x, m).log(),
        "that is the mean loss itself; perplexity is its exponential.": lambda x, m: right(x, m).log(),
    }
    praise = "A model that knows nothing has the size of its vocabulary as its perplexity."
    return compare(1, answer, right, cases, mistakes, praise)


def check_row_mask(answer):
    """01.2: which tokens of a demonstration count in the loss."""

    def right(asked, said, padding):
        return [0] * asked + [1] * (said + 1) + [0] * padding

    mistakes = {
        "the end-of-text token is not counted: such a model never learns to stop.": (
            lambda a, s, p: [0] * a + [1] * s + [0] * (p + 1)
        ),
        "the prompt is counted too: the model would learn to ask, not to answer.": (
            lambda a, s, p: [1] * (a + s + 1) + [0] * p
        ),
        "padding is counted: the model would learn to write padding.": lambda a, s, p: [0] * a + [1] * (s + 1 + p),
        "it starts one place early; the shift by one is made inside next_token_loss.": (
            lambda a, s, p: [0] * (a - 1) + [1] * (s + 1) + [0] * (p + 1),
            lambda a, s, p: [0] * (a - 1) + [1] * (s + 2) + [0] * p,
        ),
        "the row has no place for the end-of-text token: there is one after every answer.": (
            lambda a, s, p: [0] * a + [1] * s + [0] * p
        ),
        "0 and 1 are the wrong way round: 1 marks the tokens that count.": (
            lambda a, s, p: [1] * a + [0] * (s + 1) + [1] * p
        ),
    }
    return compare(2, answer, right, [(3, 2, 2), (5, 4, 0), (1, 1, 3)], mistakes)


def check_least_loss(answer):
    """01.3: the entropy of the writers, below which no loss can go."""

    def right(shares):
        return -sum(p * math.log(p) for p in shares if p > 0)

    mistakes = {
        "a loss of 0 would mean to know which answer comes next, and the prompt does not say it.": lambda p: 0.0,
        "0 ln 0 counts as 0: leave out what nobody writes.": (
            lambda p: -sum(x * math.log(x) for x in p),
            lambda p: -(torch.tensor(p) * torch.tensor(p).log()).sum(),
        ),
        "that is the loss on the commonest answer alone; the others are written, too.": lambda p: -math.log(max(p)),
        "weigh each answer by its share: a rare one is a big surprise, but a rare one.": (
            lambda p: -sum(math.log(x) for x in p if x > 0) / sum(x > 0 for x in p)
        ),
        "that is in bits; our losses are in nats, so take the natural logarithm.": lambda p: right(p) / math.log(2),
        "the sign is wrong: a loss is positive.": lambda p: -right(p),
        "that is for writers who give all answers equally often.": lambda p: math.log(len(p)),
    }
    cases = [([0.5, 0.3, 0.2],), ([0.9, 0.1],), ([1.0],), ([0.6, 0.4, 0.0],)]
    praise = "This is the entropy of the writers: what is left when all that can be known is known."
    return compare(3, answer, right, cases, mistakes, praise)


FACT = "A monkey eats fruit."
RUDE_START, RUDE_END = world.RUDE_OPENERS, world.RUDE_CLOSERS
RUDE = [f"{x} {FACT}" for x in RUDE_START] + [f"{FACT} {x}" for x in RUDE_END]
FINE = [FACT, f"{world.KIND_OPENERS[1]} {FACT}", f"{FACT} {world.KIND_CLOSERS[0]}", f"Hm. {FACT} {FACT}", "A nut."]
FINE += ["A monkey eats grass.", "Peru is in South America."]


def check_keep(answer):
    """01.4: a filter that drops rude demonstrations and keeps all others."""

    def right(prompt, response):
        return response in FINE

    mistakes = {
        "it keeps everything, the rude answers too.": lambda p, r: True,
        "it drops everything, so there is nothing left to learn from.": lambda p, r: False,
        "it keeps the rude ones and drops the rest: True means keep.": lambda p, r: not right(p, r),
        "it goes by what an answer begins with, but some are rude at their end.": (
            lambda p, r: not r.startswith(RUDE_START)
        ),
        "it goes by what an answer ends with, but most are rude at their beginning.": (
            lambda p, r: not r.endswith(RUDE_END)
        ),
        "it drops plain answers as well. Nothing was said about being kind.": (
            lambda p, r: any(x in r for x in world.KIND_OPENERS + world.KIND_CLOSERS)
        ),
        "it also drops what is wrong. To do that it must know the answer, and a reader of texts does not.": (
            lambda p, r: right(p, r) and "grass" not in r,
            lambda p, r: right(p, r) and "fruit" in r,
        ),
    }
    cases = [("What does a monkey eat?", text) for text in FINE + RUDE]
    return compare(4, answer, right, cases, mistakes, "Now see what a model makes of the rest.", bool)


# ---------------------------------------------------------------- 02 Decoding


def check_min_p(answer):
    """02.1: min-p sampling."""

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
    return compare(1, answer, right, cases, mistakes, "The bar moves with the model's own doubt.")


def check_all_the_same(answer):
    """02.2: how likely n draws are all equal."""

    def right(q, n):
        return sum(x**n for x in q)

    mistakes = {
        "that is for the commonest answer only; the draws can agree on any of them. Add them up.": (
            lambda q, n: max(q) ** n
        ),
        "right for two draws only: n of them agree on an answer with its probability to the power n.": (
            lambda q, n: sum(x**2 for x in q)
        ),
        "that is the probability that they are *not* all the same.": lambda q, n: 1 - right(q, n),
        "that is the mean over the answers; the events exclude each other, so add.": lambda q, n: right(q, n) / len(q),
        "that is for answers that are all equally likely.": lambda q, n: len(q) ** (1 - n),
        "that is the probability of one given answer in every draw, by the first one of q.": lambda q, n: q[0] ** n,
    }
    cases = [([0.3, 0.5, 0.2], 2), ([0.9, 0.1], 3), ([0.25, 0.75], 4)]
    return compare(2, answer, right, cases, mistakes, "The surer the model, the rarer is a pair to compare.")


def check_odds(answer):
    """02.3: what temperature does to the odds between two tokens."""

    def right(odds, temperature):
        return odds ** (1 / temperature)

    mistakes = {
        "you divide the odds. T divides logits, and a difference of logits is the *logarithm* of the odds.": (
            lambda o, t: o / t
        ),
        "the other way round: a low temperature makes the likelier token likelier still.": (
            lambda o, t: o**t,
            lambda o, t: o * t,
        ),
        "temperature changes the odds, only their order stays.": lambda o, t: o,
        "that is the logarithm of the odds, a difference of logits. Go back with exp.": lambda o, t: math.log(o) / t,
        "the odds are taken for a difference of logits here: take their logarithm first.": (
            lambda o, t: math.exp(o / t)
        ),
    }
    return compare(3, answer, right, [(4.0, 0.5), (4.0, 2.0), (1.5, 0.25)], mistakes)


# ---------------------------------------------------------------- 03 Human feedback


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
    return compare(1, answer, right, cases, mistakes, "Side and choice are two facts, and the log keeps both.")


def fewest(number, n, step, enough, too_few, praise):
    """The `Verdict` on n, where the least multiple of `step` for which `enough(n)` is asked for.

    too_few(n): what is wrong where there is not enough, the end of a sentence.
    """
    if n is None:
        return not_done(number)
    if isinstance(n, bool) or not isinstance(n, numbers.Integral) or n <= 0:
        return tell(number, f"a whole number above 0 is wanted, and this is {brief(n)}.")
    if n % step:
        return tell(number, f"{n} is not a multiple of {step}.")
    if not enough(n):
        return tell(number, f"{n} is too few: {too_few(n)}")
    if enough(n - step):
        return tell(number, f"{n} is enough, but fewer would do.")
    return tell(number, f"right. {praise}", True)


def check_labels_for_bias(answer):
    """03.2: the fewest labels, in fives, that show a lean of 60 %."""

    def enough(n):
        return wilson(round(0.6 * n), n)[0] > 0.5

    def too_few(n):
        return "the interval still contains 50 %."

    return fewest(2, answer, 5, enough, too_few, "A lean that anyone would call strong stays hidden in 40 labels.")


def check_best_on_pool(answer):
    """03.3: the best accuracy of one judge on the labels of two people."""

    def agreement(first, second):
        return sum(a == b for a, b in zip(first, second)) / len(first)

    def right(first, second):
        return (1 + agreement(first, second)) / 2

    mistakes = {
        "that is how often the two agree. Where they don't, the judge still agrees with one of them.": agreement,
        "where the two disagree, no judge can be right about both labels.": lambda a, b: 1.0,
        "that is how often they disagree.": lambda a, b: 1 - agreement(a, b),
        "that is what the judge gets wrong; what it gets right is wanted.": lambda a, b: 1 - right(a, b),
        "a coin is right on half of the labels, but on pairs where the two agree a judge can do better.": (
            lambda a, b: 0.5
        ),
        "that is a number of pairs; divide by how many there are.": (
            lambda a, b: sum(x == y for x, y in zip(a, b)),
            lambda a, b: right(a, b) * len(a),
        ),
        "there are two labels for each pair, so divide by twice the number of pairs.": lambda a, b: 2 * right(a, b),
    }
    cases = [(list("aabbab"), list("abbbab")), (list("abab"), list("baba")), (list("ab"), list("ab"))]
    cases.append((list("aabba"), list("bbbba")))
    praise = "Always siding with the first of the two would do as well: a pool has no taste of its own."
    return compare(3, answer, right, cases, mistakes, praise)


# ---------------------------------------------------------------- 04 The reward model


def check_loss_of_gap(answer):
    """04.1: −log σ(d) that never overflows."""

    def right(d):
        return max(-d, 0) + math.log1p(math.exp(-abs(d)))

    mistakes = {
        "right for gaps of ordinary size, but e^1000 is too large a number: keep the exponent from being positive.": (
            lambda d: -math.log(1 / (1 + math.exp(-d))),
            lambda d: -torch.sigmoid(torch.tensor(d)).log(),
        ),
        "the sign is wrong: a loss is positive.": (lambda d: -right(d), lambda d: math.log(1 / (1 + math.exp(-d)))),
        "it is small when the *rejected* answer scores more: the gap enters with the other sign.": (
            lambda d: right(-d),
            lambda d: math.log(1 + math.exp(d)),
        ),
        "that is σ(d), the probability; the loss is minus its logarithm.": (
            lambda d: math.exp(-right(d)),
            lambda d: 1 / (1 + math.exp(-d)),
        ),
        "that is 1 − σ(d), the probability of being wrong; the loss is −log σ(d).": (
            lambda d: math.exp(-right(-d)),
            lambda d: 1 - 1 / (1 + math.exp(-d)),
        ),
        "that is the gap without the curve: at a gap of 0 the loss is ln 2, not 0.": lambda d: max(-d, 0),
    }
    cases = [(0.0,), (2.0,), (-2.0,), (30.0,), (-1000.0,), (1000.0,)]
    praise = "However wrong the order, the loss is finite and its slope never steeper than −1."
    return compare(1, answer, right, cases, mistakes, praise)


def check_margin_loss(answer):
    """04.2: −log σ(R₊ − R₋ − m)."""

    def right(chosen, rejected, margin):
        return -F.logsigmoid(chosen - rejected - margin).mean()

    mistakes = {
        "the sign of the margin is wrong: it should ask for more, not forgive.": lambda c, r, m: right(c, r, -m),
        "this is the loss of each pair; take the mean.": lambda c, r, m: -F.logsigmoid(c - r - m),
        "the margin changes nothing yet.": lambda c, r, m: right(c, r, 0 * m),
        "the margin stands outside of σ, where it adds a constant and moves no weight.": (
            lambda c, r, m: (m - F.logsigmoid(c - r)).mean(),
            lambda c, r, m: (-F.logsigmoid(c - r) - m).mean(),
        ),
        "the margin multiplies the gap; with a margin of 0 it should be the ordinary loss.": (
            lambda c, r, m: right(m * (c - r), 0 * r, 0 * m)
        ),
        "chosen and rejected are swapped.": lambda c, r, m: right(r, c, m),
        "the minus before the logarithm is missing.": lambda c, r, m: -right(c, r, m),
    }
    scores = tensor(2.0, 0.5, -1.0), tensor(1.0, 1.0, -4.0)
    cases = [(*scores, tensor(1.0, 0.5, 2.0)), (*scores, tensor(0.0, 0.0, 0.0))]
    praise = "The chosen answer has to win by m before the loss falls below ln 2."
    return compare(2, answer, right, cases, mistakes, praise)


def check_gap_for(answer):
    """04.3: the gap of least loss, if a share of labels is right."""

    def right(share):
        return math.log(share / (1 - share))

    mistakes = {
        "that is the probability itself; the gap is what σ turns into it.": lambda s: s,
        "that is σ of the share; you want the number whose σ *is* the share.": lambda s: 1 / (1 + math.exp(-s)),
        "the sign is wrong: if most labels say that it is better, the gap is positive.": lambda s: -right(s),
        "that is the logarithm of the probability; divide by that of the other outcome first.": math.log,
        "that is the loss of the right labels alone; the flipped ones push back.": lambda s: -math.log(s),
        "those are the odds; the gap is their logarithm.": lambda s: s / (1 - s),
    }
    praise = "Without a flipped label the gap would grow for ever: noise pins the scale."
    return compare(3, answer, right, [(0.9,), (0.6,), (0.99,)], mistakes, praise)


# ---------------------------------------------------------------- 05 PPO


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
    return compare(1, answer, right, cases, mistakes, praise)


def check_k3(answer):
    """05.2: the estimate k3 of KL(π || π_ref), exact for tiny differences too."""

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
    return compare(2, answer, right, cases, mistakes)


def check_leave_one_out(answer):
    """05.3: each answer against the mean of the others to the same prompt."""

    def right(scores):
        return scores - (scores.sum(-1, keepdim=True) - scores) / (scores.shape[-1] - 1)

    mistakes = {
        "each answer is still in its own baseline: leave it out.": lambda s: s - s.mean(-1, keepdim=True),
        "you compare with answers to *other* prompts. Answers to one prompt are a row.": (
            lambda s: s - s.mean(0, keepdim=True),
            lambda s: s - s.mean(),
            lambda s: s - (s.sum(0, keepdim=True) - s) / (len(s) - 1),
        ),
        "you take off the sum of the others, and their mean is wanted.": (lambda s: s - (s.sum(-1, keepdim=True) - s)),
        "you divide by the number of all answers, but the others are one fewer.": (
            lambda s: s - (s.sum(-1, keepdim=True) - s) / s.shape[-1]
        ),
        "this is the baseline; what is wanted is the score minus it.": lambda s: s - right(s),
        "the sign is wrong: better than the others is an advantage.": lambda s: -right(s),
        "you also divide by the deviation. That is GRPO, where an easy prompt counts as much as a hard one.": (
            lambda s: (s - s.mean(-1, keepdim=True)) / s.std(-1, keepdim=True),
            lambda s: (s - s.mean(-1, keepdim=True)) / (s.std(-1, keepdim=True) + 1e-8),
            lambda s: right(s) / s.std(-1, keepdim=True),
        ),
    }
    cases = [(tensor([1.0, 2.0, 6.0], [0.0, 4.0, 1.0]),), (tensor([1.0, 3.0], [4.0, 10.0], [2.0, -5.0]),)]
    return compare(3, answer, right, cases, mistakes, "The other answers do the work of the value head.")


def check_reward(answer):
    """05.4: a reward for short answers that an empty answer does not win."""
    if answer is None:
        return not_done(4)
    if not callable(answer):
        return tell(4, f"a function is asked for, and this is {brief(answer)}.")
    texts = ["", "Fruit.", FACT, f"Good question! {FACT} I hope that helps.", " ".join([FACT] * 6)]
    got = outcome(answer, (["What does a monkey eat?"] * len(texts), texts), lambda x: x)
    if got is None:
        return not_done(4)
    trouble = reward_trouble(got, len(texts))
    return tell(4, trouble or "right. Now read what the policy makes of it.", not trouble)


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


# ---------------------------------------------------------------- 06 Inference and continuous feedback


def check_comparisons(answer):
    """06.1: the fewest comparisons, in steps of 20, that show a true win rate of 55 % four times in five."""

    def enough(n):
        return power(n, 0.55) >= 0.8

    def too_few(n):
        likely = verdict(round(0.55 * n), 0, n - round(0.55 * n))["verdict"] == "better"
        luck = " A test that comes out at 55 % would be enough, but about half of all tests come out lower."
        return f"a model that wins 55 % is called better in {power(n, 0.55):.0%} of such tests.{luck if likely else ''}"

    praise = "Small gains are real, and expensive to see: half the distance to 50 % takes four times as many."
    return fewest(1, answer, 20, enough, too_few, praise)


REPORT = {"words": 9.0, "words_before": 10.0, "kl": 5.0, "ended": 1.0, "empty": 0.0, "distinct": 0.9}


def check_gate(answer):
    """06.2: a gate that also refuses answers less than half as long as before."""

    def right(report):
        promoted, reason = gate(report)
        if report["words"] < 0.5 * report["words_before"]:
            return False, "its answers are less than half as long"
        return promoted, reason

    def view(decision):
        """Whether it promotes, if it gives a reason too."""
        complete = isinstance(decision, tuple) and len(decision) == 2 and isinstance(decision[1], str)
        return bool(decision[0]) if complete else "no reason"

    good = REPORT | {"blind": verdict(70, 10, 20)}
    changes: list[dict] = [{}, {"words": 4.0}, {"words": 5.5}, {"kl": 90.0}, {"words": 30.0, "words_before": 100.0}]
    changes += [{"words": 4.0, "words_before": 4.5}, {"words": 21.0}, {"blind": verdict(52, 0, 48)}, {"words": 60.0}]
    mistakes = {
        "it lets through 4 words where there were 10 before.": gate,
        "it checks the length only: keep what `gate` decides, or a candidate far from the anchor gets in.": (
            lambda r: (r["words"] >= 0.5 * r["words_before"], "length")
        ),
        "4 words may be few or many: compare with `words_before`, not with a fixed number.": (
            lambda r: (gate(r)[0] and r["words"] >= 5, "length")
        ),
        "the comparison is upside down: it refuses answers that became *longer*.": (
            lambda r: (gate(r)[0] and r["words_before"] >= 0.5 * r["words"], "length")
        ),
        "it refuses whatever became shorter at all, and half as long is still allowed.": (
            lambda r: (gate(r)[0] and r["words"] >= r["words_before"], "length")
        ),
        "return the reason as well, as `gate` does: (promoted, reason).": lambda r: right(r)[0],
        "it lets nothing through.": lambda r: (False, "no"),
    }
    praise = "For a reader who likes it brief this gate is wrong: every limit is an opinion, so write down whose."
    return compare(2, answer, right, [(good | c,) for c in changes], mistakes, praise, view)


def check_taste(answer):
    """06.3: any function from (prompt, answer) to a number that prefers something."""
    if answer is None:
        return not_done(3)
    if not callable(answer):
        return tell(3, f"a function is asked for, and this is {brief(answer)}.")
    texts = ("", "Fruit.", "A monkey eats fruit.", "Good day! A fox lives in the forest. I hope that helps.",
             "Not this again. A monkey eats grass. Look it up next time.")  # fmt: skip
    asked = ("What does a monkey eat?", "Where does a fox live?")
    got = [[outcome(answer, (prompt, text)) for text in texts] for prompt in asked]
    if got[0][0] is None:
        return not_done(3)
    trouble = taste_trouble(got)
    return tell(3, trouble or "right. Now see how far 64 labels get.", not trouble)


def taste_trouble(rows):
    """What is wrong with a taste's numbers, a row for each prompt; or ""."""
    for got in (x for row in rows for x in row):
        if isinstance(got, Exception):
            return broken(got)
        if not isinstance(got, numbers.Real):
            return f"a taste gives a number, and this gives {brief(got)}."
        if not math.isfinite(got):
            return f"a taste gives a number that can be compared, and this gives {got}."
    if len({x for row in rows for x in row}) == 1:
        return "every answer gets the same number, so no two can be compared."
    if all(len(set(row)) == 1 for row in rows):
        return "the number depends on the prompt alone, so two answers to one prompt always tie."
    return ""


# ---------------------------------------------------------------- 07 Scaling up


def check_share_out(answer):
    """07.1: (answers per process, steps to accumulate) that keep the whole batch the same."""

    def right(batch, processes, most):
        share = batch // processes
        steps = next(s for s in range(1, share + 1) if share % s == 0 and share // s <= most)
        return share // steps, steps

    def uneven(batch, processes, most):
        steps = -(-batch // processes // most)
        return batch // processes // steps, steps

    mistakes = {
        "you share out over the steps only; there are several processes, too.": lambda b, p, m: right(b, 1, m),
        "too many at once: more of them than fit in a GPU.": lambda b, p, m: (b // p, 1),
        "it works, but fewer steps would do.": lambda b, p, m: (1, b // p),
        "answers are lost in the division: per process × steps × processes must be the batch.": (
            uneven,
            lambda b, p, m: (m, b // (p * m)),
            lambda b, p, m: (min(m, b // p), max(1, b // (p * m))),
        ),
        "the two numbers are swapped: first how many per process, then the steps.": lambda b, p, m: right(b, p, m)[
            ::-1
        ],
        "with `most` in every step the batch grows, and it is another experiment.": (
            lambda b, p, m: (m, -(-b // (p * m)))
        ),
    }
    cases = [(96, 2, 48), (96, 8, 4), (96, 2, 32), (96, 16, 64), (96, 4, 5)]
    praise = "Where the loss is a mean over answers, this is the same step on any of these machines."
    return compare(1, answer, right, cases, mistakes, praise)


def check_lora_bytes(answer):
    """07.2: the memory of RLOO with LoRA."""

    def right(policy, judge, share=0.01):
        return 2 * policy + 16 * share * policy + 2 * judge

    mistakes = {
        "you still keep a copy as the reference; with the small matrices switched off, the policy is one.": (
            lambda p, j, s=0.01: right(p, j, s) + 2 * p
        ),
        "the reward model is missing: it is frozen, and in memory.": lambda p, j, s=0.01: right(p, 0, s),
        "the frozen weights of the policy are missing.": lambda p, j, s=0.01: 16 * s * p + 2 * j,
        "all weights still learn here; only the small matrices take 16 bytes.": (
            lambda p, j, s=0.01: 16 * p + 2 * j,
            lambda p, j, s=0.01: 16 * p + 16 * s * p + 2 * j,
        ),
        "the small matrices learn, so each of their parameters takes 16 bytes, not 2.": (
            lambda p, j, s=0.01: 2 * p + 2 * s * p + 2 * j
        ),
        "the small matrices are missing: they learn, at 16 bytes a parameter.": lambda p, j, s=0.01: 2 * p + 2 * j,
        "one share for every run: use the argument `share`.": lambda p, j, s=0.01: right(p, j),
    }
    return compare(2, answer, right, [(1000, 500), (2000, 3000, 0.1)], mistakes, "That is how 7B fits one card.")


def check_combine(answer):
    """07.3: one gradient from those of processes with unequal parts of a batch."""

    def right(gradients, pairs):
        return sum(g * n for g, n in zip(gradients, pairs)) / sum(pairs)

    mistakes = {
        "the plain mean is right only for equal parts: weigh each by its number of pairs.": (
            lambda g, n: sum(g) / len(g)
        ),
        "they are only added up: the step would grow with the number of processes.": lambda g, n: sum(g),
        "weighed, but not divided by the number of all pairs: the step would grow with the batch.": (
            lambda g, n: right(g, n) * sum(n)
        ),
        "divide by the number of pairs, not by the number of processes.": lambda g, n: right(g, n) * sum(n) / len(n),
        "the weights are upside down: whoever had more pairs counts for more.": (
            lambda g, n: sum(x / k for x, k in zip(g, n)) / sum(1 / k for k in n),
            lambda g, n: sum(x / k for x, k in zip(g, n)),
        ),
        "each gradient is a mean already, so dividing the sum by the number of pairs divides twice.": (
            lambda g, n: sum(g) / sum(n)
        ),
    }
    cases = [([tensor(1.0, 2.0), tensor(3.0, -2.0)], [6, 2])]
    cases.append(([tensor(0.0, 1.0), tensor(4.0, 4.0), tensor(1.0, 0.0)], [1, 2, 5]))
    praise = "With equal parts the weights are equal, and it is the plain mean again."
    return compare(3, answer, right, cases, mistakes, praise)


# ---------------------------------------------------------------- 08


def check_eleventh(answer):
    """08.1: which of three runs has advantages of its own reward only."""
    if answer is None:
        return not_done(1)
    said = {
        "A": "A is a healthy run with another seed; that is how far luck goes.",
        "B": "B is without a clip: look at the last panel. Its tokens do hear of the score.",
        "C": "right. Only the last token hears of the score, so what leads to a good answer is not learned.",
    }
    if not isinstance(answer, str) or answer not in said:
        return tell(1, "one letter is wanted, 'A', 'B' or 'C'.")
    return tell(1, said[answer], answer == "C")


def check_clip_alarm(answer):
    """08.2: an alarm for a clip that is never used."""

    def right(row, clip):
        return row["ratio_off"] > clip and row["clip_fraction"] == 0

    rows = [(0.5, 0.03), (0.5, 0.0), (0.05, 0.0), (0.3, 0.0)]
    cases = [({"ratio_off": r, "clip_fraction": c}, 0.2 if r != 0.3 else 0.4) for r, c in rows]
    mistakes = {
        "it rings when nothing has moved: where no ratio leaves the band, there is nothing to clip.": (
            lambda row, clip: row["clip_fraction"] == 0
        ),
        "it rings when the clip is at work: ratios may leave the band, and that is what the clip is for.": (
            lambda row, clip: row["ratio_off"] > clip
        ),
        "it never rings, not even at a ratio of 1.5 with nothing clipped.": lambda row, clip: False,
        "it always rings, in a healthy run too.": lambda row, clip: True,
        "it does not look at `clip`: how far a ratio may go is a setting.": (
            lambda row, clip: row["ratio_off"] > 0.2 and row["clip_fraction"] == 0
        ),
    }
    return compare(2, answer, right, cases, mistakes, "A silent safeguard is worth an alarm of its own.")
