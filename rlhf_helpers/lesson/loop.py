"""The closed loop without a widget: answers -> labels -> reward model -> PPO -> gate -> answers.

The reward model of a round is a `probe`: one linear layer, which a few dozen labels can teach any taste.
`one_round` makes a candidate from the labels of any annotator, `gate` decides from its report, and
`improve` goes round and keeps the history.  An annotator is anything with a `name` and
`choose(prompt, left, right)` -> "left", "right" or "tie".  Nothing here knows the gold judge.
"""

import copy
import random
import statistics
import time
from dataclasses import dataclass, field
from statistics import NormalDist
from types import SimpleNamespace

import torch

from ..engine import curves
from ..engine.arithmetic import arithmetic_of
from ..engine.files import WorkbookError
from ..engine.models import encode_prompts
from . import decoding, feedback, ppo
from .decoding import decode_responses, end_tokens, generate, rollout, which_ended
from .feedback import tie_rows
from .pairs import check_known, simulated_feedback
from .probe import Probe

PPOSettings = ppo.Settings


@dataclass
class RoundSettings:
    """The dials of one round."""

    labels: int = 64  # comparisons asked for
    answers: int = 4  # sampled for each of them; two are shown
    ppo: PPOSettings = field(default_factory=lambda: PPOSettings(updates=50, beta=0.2, batch_size=64, minibatches=2))


@dataclass
class Limits:
    """What a candidate must keep to be promoted; all are measured on held-out prompts."""

    win_low: float = 0.5  # the interval of the win rate must lie above it
    kl: float = 10.0  # nats per answer away from the anchor: honest rounds stay below 6, hacked ones go beyond 25
    ended: float = 0.95  # share of answers that end by themselves, at least
    empty: float = 0.02  # share of empty answers, at most
    longer: float = 2.5  # mean number of words, as a multiple of the current model's, at most
    distinct: float = 0.1  # different answers per answer, at least


# ---------------------------------------------------------------- blind comparison


def verdict(wins, ties, losses):
    """A blind test in numbers and a word: counts, win rate (a tie counts half), its 95% Wilson interval,
    and "better", "worse" or "inconclusive" (the interval holds one half)."""
    n, points = wins + ties + losses, wins + ties / 2
    if n == 0:
        raise WorkbookError("There is no comparison to count. Compare at least one pair of answers.")
    low, high = feedback.wilson(points, n)
    words = "better" if low > 0.5 else "worse" if high < 0.5 else "inconclusive"
    counts = {"n": n, "wins": wins, "ties": ties, "losses": losses}
    rate = {"win_rate": points / n, "low": low, "high": high}
    return {**counts, **rate, "verdict": words}


def power(n, p, z=1.96):
    """The chance that the verdict on n comparisons is "better", if p is the true win rate and nothing is a tie.

    Wilson's interval lies above one half where the share of wins is above 1/2 + z/2 / sqrt(n); the number of wins
    is taken to be normal.  With p = 0.5 it is the chance that a model no better is called better.
    """
    bar = 0.5 + z * 0.5 / n**0.5
    return 1 - NormalDist(p, (p * (1 - p) / n) ** 0.5).cdf(bar)


def blind_test(prompts, ours, theirs, annotator, seed=0):
    """`annotator` compares two models' answers without knowing whose is whose: the `verdict` on ours.

    A coin decides per prompt which answer is on the left.  Two identical answers are a tie; nobody is asked.
    """
    coin = random.Random(f"{seed} sides")
    counts = {"win": 0, "tie": 0, "loss": 0}
    for prompt, our, their in zip(prompts, ours, theirs, strict=True):
        left = coin.random() < 0.5
        if our == their:
            counts["tie"] += 1
            continue
        shown = (our, their) if left else (their, our)
        choice = annotator.choose(prompt, *shown)
        won = (choice == "left") == left
        counts["tie" if choice == "tie" else "win" if won else "loss"] += 1
    return verdict(counts["win"], counts["tie"], counts["loss"])


def inverted(annotator):
    """An annotator that always says the opposite: what a saboteur, or a swapped column, does to labels."""
    return SimpleNamespace(
        name=f"{annotator.name}, inverted",
        choose=lambda prompt, left, right: annotator.choose(prompt, right, left),
        judges=getattr(annotator, "judges", lambda prompt: True),
    )


# ---------------------------------------------------------------- measuring without a judge


@torch.no_grad()
def sample_answers(model, anchor, tokenizer, prompts, max_new_tokens=None, seed=0):
    """One sampled answer per prompt, of at most `decoding.LONGEST` tokens, and what can be measured of it:
    (answers, kl, ended).

    kl: mean over answers of log pi - log pi_anchor, summed over their tokens, in nats, an unbiased
    estimate of KL(pi || pi_anchor) per answer; ended: the share of answers that ended by themselves.
    """
    device, eos = next(model.parameters()).device, end_tokens(model, tokenizer)
    ids, mask = encode_prompts(tokenizer, prompts, device)
    start, generator = ids.shape[1], torch.Generator(device).manual_seed(seed)
    ids, mask, logprobs = rollout(model, ids, mask, max_new_tokens or decoding.LONGEST, eos, generator)
    tokens, answered = ids[:, start:], mask[:, start:]
    there = logprobs_in_parts(anchor, ids, mask, start)
    here = logprobs if arithmetic_of(model).exact else logprobs_in_parts(model, ids, mask, start)
    gap = (here - there) * answered
    ended = which_ended(tokens, answered, eos)
    kl = gap.sum(-1).mean().item()
    return decode_responses(tokenizer, ids, mask, start), kl, ended.float().mean().item()


def logprobs_in_parts(model, ids, mask, start, rows=32):
    """Log-probabilities of the answers' tokens, (rows, T); logits are there for a few `rows` at a time."""
    policy, parts = ppo.PolicyWithValue(model), zip(ids.split(rows), mask.split(rows))
    return torch.cat([policy.read(*part, start)[0] for part in parts])


def words(answers):
    return statistics.mean(len(a.split()) for a in answers)


# ---------------------------------------------------------------- one round


def candidates(model, tokenizer, prompts, n, answers=4, seed=0):
    """`n` lists of different answers, as [(prompt, texts)]: up to `answers` sampled for each, at least two.

    Fewer where the model says the same thing again and again.
    """
    rng, groups = random.Random(f"{seed} prompts"), []
    for turn in range(10):
        asked = []
        while len(asked) < n - len(groups):
            asked += rng.sample(list(prompts), min(len(prompts), n - len(groups) - len(asked)))
        said = generate(model, tokenizer, [p for p in asked for _ in range(answers)], seed=seed + 1000 * turn)
        for i, prompt in enumerate(asked):
            texts = list(dict.fromkeys(said[i * answers : (i + 1) * answers]))
            groups += [(prompt, texts)] if len(texts) > 1 else []
        if len(groups) >= n:
            break
    return groups[:n]


def in_common(a, b):
    """The share of words that two texts have in common (Jaccard index), in [0, 1]."""
    a, b = set(a.lower().split()), set(b.lower().split())
    return len(a & b) / max(len(a | b), 1)


def most_different(prompt, texts, rng):
    """The two answers with the fewest words in common: before anything is known, they say the most."""
    return min(((a, b) for i, a in enumerate(texts) for b in texts[:i]), key=lambda pair: in_common(*pair))


def best_and_another(judge):
    """A way to choose a pair: the answer that `judge` likes best, against another one.

    PPO will go where the judge points, so that is where the judge must be checked.
    """

    def choose(prompt, texts, rng):
        scores = judge([prompt] * len(texts), texts)
        best = texts[int(scores.argmax())]
        return best, rng.choice([t for t in texts if t != best])

    return choose


def ask(groups, choose, annotator, seed, known=0):
    """Label events of `annotator` for a pair from each group, chosen by `choose(prompt, texts, rng)`.

    known: how many pairs were asked before, so that every pair has an id of its own.
    """
    rng, pairs = random.Random(f"{seed} pairs {known}"), []
    for n, (prompt, texts) in enumerate(groups, known):
        a, b = rng.sample(choose(prompt, texts, rng), 2)
        pairs.append({"pair_id": f"p{n:05d}", "prompt": prompt, "response_a": a, "response_b": b})
    return simulated_feedback(pairs, annotator, seed + known)


def two_halves(groups, probe, annotator, seed, earlier=()):
    """Labels in two halves: pairs that differ most, then pairs that check what was learned from the first half."""
    half = (len(groups) + 1) // 2
    labels = ask(groups[:half], most_different, annotator, seed)
    rows = [*earlier, *feedback.to_preferences(labels)[0], *tie_rows(labels)]
    if rows and groups[half:]:
        probe.learn(rows)
        labels += ask(groups[half:], best_and_another(probe), annotator, seed, half)
    return labels


def teach(model, tokenizer, prompts, annotator, settings, seed=0, *, labels=None, earlier=(), reward_model=None):
    """The reward model of a round, a `probe.Probe` on `model`, and what it learned from, as a part of the report.

    `labels`: label events; without them `annotator` is asked about answers of `model` to `prompts`.
    """
    groups = max(settings.labels, 16 * settings.answers)  # by 256 answers the probe finds its scale, by 64 roughly
    groups = candidates(model, tokenizer, prompts, groups, settings.answers, seed)
    pool = [(prompt, text) for prompt, texts in groups for text in texts]
    if not pool:
        raise WorkbookError("The model gives each prompt one and the same answer, so there is nothing to compare.")
    probe = Probe(model, tokenizer, [p for p, _ in pool], [text for _, text in pool], reward_model)
    if labels is None:
        labels = two_halves(groups[: settings.labels], probe, annotator, seed, earlier)
    (rows, left_out), ties = feedback.to_preferences(labels), tie_rows(labels)
    rows = rows + ties
    if all(r.get("tie") for r in [*earlier, *rows]):
        raise WorkbookError(
            "There is no pair to learn from: all were ties or skipped. Compare pairs of which you like "
            "one answer better."
        )
    learning = probe.learn([*earlier, *rows])
    return probe, {
        "labels": len(labels),
        "labelled_by": sorted({x["annotator"] for x in labels}),
        "left_out": {k: n for k, n in left_out.items() if k != "tie"},
        "rows": rows,
        "ties": len(ties),
        "learned_from": len(rows) + len(earlier),
        "reward_accuracy": learning["accuracy"],
    }


def held_out_report(candidate, model, anchor, tokenizer, prompts, *, annotator, scores, max_new_tokens, seed):
    """What a candidate is like on prompts that it did not learn from, beside `model`: the other part of the report.

    scores(prompts, answers) -> (answers,): the round's own reward.  Its mean over the answers of `model`
    ("reward_start") and of the candidate ("reward_end") goes into the report with the half-width of the 95%
    interval of their difference, in which answers to the same prompt are compared ("reward_error").
    """
    ours, kl, ended = sample_answers(candidate, anchor, tokenizer, prompts, max_new_tokens, seed)
    how = {"max_new_tokens": max_new_tokens, "batch_size": len(prompts)}
    theirs = generate(model, tokenizer, prompts, seed=seed + 1, **how)
    start, end = scores(prompts, theirs), scores(prompts, ours)
    error = 1.96 * (end - start).std(unbiased=False).item() / len(prompts) ** 0.5
    return {
        "reward_start": start.mean().item(),
        "reward_end": end.mean().item(),
        "reward_error": error,
        "judged_by": annotator.name,
        "blind": blind_test(prompts, ours, theirs, annotator, seed),
        "kl": kl,
        "ended": ended,
        "empty": statistics.mean(not a for a in ours),
        "distinct": len(set(ours)) / len(ours),
        "words": words(ours),
        "words_before": words(theirs),
    }


def one_round(
    model,
    tokenizer,
    prompts,
    judge_prompts,
    annotator,
    settings=None,
    seed=0,
    *,
    labels_by=None,
    labels=None,
    earlier=(),
    reward_model=None,
    anchor=None,
    on_update=None,
    report_to=None,
):
    """One turn of the loop: (candidate, report).  `model` itself is not changed.

    The model answers `prompts`, `labels_by` (default: `annotator`) compares, a `probe.Probe` learns from
    these labels, ties included, and from the `earlier` preference rows, PPO makes the candidate, and
    `annotator` judges it blind against `model` on `judge_prompts`.  `reward_model`: one whose last
    states the probe reads too.  `labels`: label events to use instead, such as a person's.  `anchor`: the model
    from which the drift is measured (default: `model`).  `on_update` and `report_to` are those of `ppo.train`.
    The report can be written as JSON; report["rows"] are the new preference rows.
    """
    settings, began = settings or RoundSettings(), time.time()
    if not prompts or not judge_prompts:
        raise WorkbookError("A round needs prompts to learn from and other prompts to be judged on.")
    if set(prompts) & set(judge_prompts):
        raise WorkbookError("Some prompts are used both to learn from and to judge, which would not be fair.")
    curves.check(report_to)
    check_known(annotator, judge_prompts)  # before anything is learned
    check_known(labels_by or annotator, prompts if labels is None else ())
    anchor, longest = anchor or model, settings.ppo.max_new_tokens
    probe, learned = teach(
        model,
        tokenizer,
        prompts,
        labels_by or annotator,
        settings,
        seed,
        labels=labels,
        earlier=earlier,
        reward_model=reward_model,
    )
    some = random.Random(seed).sample(list(prompts), min(128, 2 * settings.labels, len(prompts)))
    start = generate(model, tokenizer, some, max_new_tokens=longest, seed=seed)
    scores = ppo.normalized_reward(probe, some, start)
    candidate = copy.deepcopy(model)
    _, health = ppo.train(
        candidate,
        tokenizer,
        scores,
        list(prompts),
        settings.ppo,
        seed,
        on_update=on_update,
        report_to=report_to,
        frozen=(model,) if reward_model is None else (model, reward_model),
    )
    measured = held_out_report(
        candidate,
        model,
        anchor,
        tokenizer,
        judge_prompts,
        annotator=annotator,
        scores=scores,
        max_new_tokens=longest,
        seed=seed,
    )
    return candidate, {**learned, "health": health, **measured, "seconds": time.time() - began}


def gate(report, limits=None):
    """Promote or roll back: (True or False, the reason in words)."""
    limits, blind = limits or Limits(), report["blind"]
    won = (
        f"it wins {blind['win_rate']:.0%} of {blind['n']} blind comparisons "
        f"(95% interval {blind['low']:.1%} to {blind['high']:.1%})"
    )
    kl, ended, empty = report["kl"], report["ended"], report["empty"]
    longer = report["words"] / max(report["words_before"], 1e-9)
    broken = []
    if blind["low"] <= limits.win_low:
        broken.append(f"{won}, which must lie above {limits.win_low:.0%}")
    if not kl <= limits.kl:
        far = f"it is {kl:.1f} nats from the anchor"
        broken.append(f"{far}, more than {limits.kl:g}")
    if ended < limits.ended:
        broken.append(f"only {ended:.0%} of its answers come to an end")
    if empty > limits.empty:
        broken.append(f"{empty:.0%} of its answers are empty")
    if longer > limits.longer:
        broken.append(f"its answers are {longer:.1f} times as long")
    if report["distinct"] < limits.distinct:
        broken.append("it says the same thing to everyone")
    return not broken, "; ".join(broken) if broken else won
