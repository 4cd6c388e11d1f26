"""How far can one push against a judge of few labels?  `python benchmarks/over_optimisation.py`.

Judges of several label counts learn from data/feedback.jsonl, start from data/models/finetuned and are trained as
chapter 05 trains its weak one; the shipped judge, of all labels and with lessons in facts, stands beside them.
Against each: best-of-n from one pool of answers for every n, and PPO with the settings of chapter 05, section 8.  One
of the judges also meets penalties, the best policy that its scores and a penalty allow, and ensembles of five such
judges.  The weight of their disagreement is chosen on dev questions; all else is measured on test questions, others
for each seed.  Writes over_optimisation.json after every run, so that an interrupted benchmark goes on.
"""

import argparse
import copy
import dataclasses
import math
import statistics
import time
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from rlhf_helpers import world
from rlhf_helpers.desk import recipe
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, versions, write_json
from rlhf_helpers.engine.models import encode_prompts
from rlhf_helpers.lesson import feedback, ppo, reward
from rlhf_helpers.lesson.alternatives import best_of_n_kl, best_of_n_weights
from rlhf_helpers.lesson.decoding import decode_responses, end_tokens, generate, rollout
from rlhf_helpers.lesson.loop import sample_answers
from rlhf_helpers.make.stamp import begun, side, with_interval

RESULTS = Path(__file__).resolve().parent / "results"
LABELS, SHIPPED = (32, 128, 512, 2048), "shipped"  # the shipped judge has learned from all labels that ship
SWEPT = 512  # labels of the judge that meets penalties, the optimum and ensembles
TRAINING = {"epochs": 4, "batch_size": 16}  # of these judges, as of the weak judge of chapter 05
NS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
TOP, BOUNDED = max(NS), (2, 4, 8, 16, 32)
POOL, QUESTIONS = 192, 64  # answers to each question, questions
PPO = dataclasses.replace(recipe.PPO, updates=24, batch_size=48)  # those of chapter 05, section 8
SEEN = (2, 4, 7, 10, 14, 19, 24)  # the updates after which the policy answers the test questions
PENALTIES = (0.01, 0.03, 0.1, 0.3)
BETAS = (3.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)  # of the optimum's curve
ENOUGH = 8  # answers that the optimum's weight must be spread over, or the pool is too small to estimate it
MEMBERS, LAMBDAS = 5, (0.1, 0.3, 1.0, 3.0)
ENSEMBLES = ("worst", "mean less variance", "mean")
MARGIN = {"R²": 0.9, "gold": 0.1, "KL": 0.02}


# ---------------------------------------------------------------- the judges


@lru_cache(maxsize=1)
def scene():
    """What all runs share: the fine-tuned model, the prompts to train on, its answers to them, and the labels."""
    start, tokenizer = models.load_model(ROOT / "data/models/finetuned")
    asked = world.prompts("train")
    labels = feedback.replay(feedback.read_events(ROOT / "data/feedback.jsonl")[0])
    rows = feedback.to_preferences(labels)[0]
    usual = generate(start, tokenizer, asked[::4], seed=0)
    return SimpleNamespace(start=start, tokenizer=tokenizer, asked=asked, usual=usual, rows=rows)


@lru_cache(maxsize=16)
def judge(labels, seed, member):
    """A reward model of so many labels; members of an ensemble have the same labels, in orders of their own."""
    if labels == SHIPPED:
        return models.load_reward_model(ROOT / "data/models/reward")[0]
    s = scene()
    order = torch.randperm(len(s.rows), generator=torch.Generator().manual_seed(seed)).tolist()
    torch.manual_seed(seed + 100 * member)
    model, tokenizer = models.load_reward_model(ROOT / "data/models/finetuned")
    some = [s.rows[i] for i in order[:labels]]
    reward.train_reward_model(model, tokenizer, some, seed=seed + 100 * member, **TRAINING)
    return model


def normal(model):
    """`score(prompts, answers)` of a reward model: mean 0 and deviation 1 on answers of the fine-tuned model."""
    s = scene()
    return ppo.normalized_reward(lambda p, r: reward.score(model, s.tokenizer, p, r), s.asked[::4], s.usual)


def together(scores, how, weight=1.0):
    """One score of the scores (judges, answers) of several: the worst, the mean, or the mean less the variance."""
    if how == "worst":
        return scores.min(0).values
    return scores.mean(0) - (weight * scores.var(0, unbiased=False) if how == "mean less variance" else 0)


def scorer(name, seed, weight):
    """(score, models that must not move) of a judge by its labels, or of an ensemble by its name."""
    if name not in ENSEMBLES:
        return normal(judge(name, seed, 0)), (judge(name, seed, 0),)
    members = tuple(judge(SWEPT, seed, k) for k in range(MEMBERS))
    each = [normal(m) for m in members]

    def score(prompts, answers):
        return together(torch.stack([one(prompts, answers) for one in each]), name, weight)

    return score, members


# ---------------------------------------------------------------- best of n, and the best policy there is


@lru_cache(maxsize=2)
def pool(seed, split):
    """Answers of the fine-tuned model to some questions: prompts, answers, and (POOL, questions) of the
    log-probabilities and gold scores."""
    s, every = scene(), world.prompts(split)
    asked = every[seed :: max(1, len(every) // QUESTIONS)][:QUESTIONS]
    prompts, answers, logs = asked * POOL, [], []
    dice, eos = torch.Generator().manual_seed(seed), end_tokens(s.start, s.tokenizer)
    for i in range(0, len(prompts), 256):
        ids, mask = encode_prompts(s.tokenizer, prompts[i : i + 256], s.start.device)
        out, real, drawn = rollout(s.start, ids, mask, PPO.max_new_tokens, eos, dice)
        answers += decode_responses(s.tokenizer, out, real, ids.shape[1])
        logs.append(drawn.sum(-1).double())
    gold = torch.tensor([world.gold_score(p, a) for p, a in zip(prompts, answers)], dtype=torch.float64)
    shape = POOL, len(asked)
    return SimpleNamespace(
        asked=asked, prompts=prompts, answers=answers, logs=torch.cat(logs).view(shape), gold=gold.view(shape)
    )


@lru_cache(maxsize=16)
def marks(labels, seed, member, split):
    """Scores (POOL, questions) of a pool by one judge; an answer that was given several times is read once."""
    found = pool(seed, split)
    once = list(dict.fromkeys(zip(found.prompts, found.answers)))
    scores = normal(judge(labels, seed, member))(*map(list, zip(*once)))
    values = dict(zip(once, scores.double().tolist()))
    return torch.tensor([values[pair] for pair in zip(found.prompts, found.answers)]).double().view(found.gold.shape)


def scored(name, seed, split, weight):
    """Scores (POOL, questions) of a pool by a judge or an ensemble."""
    if name not in ENSEMBLES:
        return marks(name, seed, 0, split)
    return together(torch.stack([marks(SWEPT, seed, k, split) for k in range(MEMBERS)]), name, weight)


def best_of(scores, values, n):
    """The mean `values` of the best of n by `scores`; both (pool, questions)."""
    weights = torch.tensor(best_of_n_weights(len(scores), n), dtype=torch.float64)[:, None]
    return (weights * values.gather(0, scores.argsort(0))).sum(0).mean().item()


def wins(scores, values, n):
    """How often the best of n, from half of the pool by `scores`, beats a single answer of the other half by `values`;
    a tie counts half.  Both (pool, questions)."""
    half = len(scores) // 2
    ours, theirs = values[:half, None], values[None, half:]
    beaten = ((ours > theirs).double() + 0.5 * (ours == theirs).double()).mean(1)
    return best_of(scores[:half], beaten, n)


def kl_of_best(scores, logs, n):
    """The KL of best-of-n from its model, in nats, estimated from a pool; scores, logs of the probabilities: (pool,
    questions).

    An answer y is the best of n with probability F(y)^n - F(y-)^n, where F counts the answers up to it.  What is below
    an answer of one half of the pool is told from the other half, in which b answers are below and a above it.  All but
    y itself are either, and psi(b + 1) - psi(a + b + 1) is the logarithm of the share below it, without bias but for a
    remainder that vanishes as a + b grows.
    """
    half = len(scores) // 2
    ours, theirs, chance = scores[:half, None], scores[None, half:], logs[:half].exp()
    below, above = (theirs < ours).sum(1), (theirs > ours).sum(1)
    share = (torch.digamma(below + 1.0) - torch.digamma(below + above + 1.0)).exp().double()
    under = (1 - chance) * share
    whole = ((under + chance) ** n - under**n) / chance
    ratio = torch.where(chance < 1e-7, n * under ** (n - 1), whole)
    return best_of(scores[:half], ratio.clamp(min=1e-300).log(), n)


def optimum(scores, values, beta):
    """The best policy for scores less beta times the KL, pi = rho exp(score / beta), estimated from samples of rho
    (Ziegler et al. 2019): KL in nats, mean score and mean of `values`, and over how many answers its weight is spread.

    scores, values: (pool, questions).
    """
    weights = (scores / beta).softmax(0)
    best = (weights * scores).sum(0)
    kl = best / beta - (scores / beta).logsumexp(0) + math.log(len(scores))
    spread = 1 / (weights**2).sum(0)
    return {
        "kl": kl.mean().item(),
        "proxy": best.mean().item(),
        "gold": (weights * values).sum(0).mean().item(),
        "spread": spread.mean().item(),
    }


def ordered(scores, gold):
    """How often a judge prefers the better of two answers to a question, where gold says which is clearly better."""
    half = len(scores) // 2
    s, g = scores[:half] - scores[half : 2 * half], gold[:half] - gold[half : 2 * half]
    return ((s > 0) == (g > 0))[g.abs() >= 1].double().mean().item()


# ---------------------------------------------------------------- one run


def best_of_n_run(name, seed, split, weight):
    """The curve of best-of-n against one judge."""
    found = pool(seed, split)
    scores = scored(name, seed, split, weight)
    row = {"accuracy": ordered(scores, found.gold), "n": NS}
    for key, values in (("proxy", scores), ("gold", found.gold)):
        row[key] = [best_of(scores, values, n) for n in NS]
    if name in (*LABELS, SHIPPED):
        row["bounded"] = [
            {"n": n, "kl": kl_of_best(scores, found.logs, n), "win": wins(scores, scores, n)} for n in BOUNDED
        ]
    if name == SWEPT:
        row["optimum"] = [{"beta": b} | optimum(scores, found.gold, b) for b in BETAS]
        row["best"] = [{"beta": b} | optimum(scores, found.gold, b) for b in PENALTIES[1:]]
    return row


def ppo_run(name, beta, seed, split, weight):
    """The curve of PPO against one judge: how far, and how good, after some of its updates."""
    s, found = scene(), pool(seed, split)
    score, frozen = scorer(name, seed, weight)
    policy, rows = copy.deepcopy(s.start), [{"update": 0, "kl": 0.0}]
    rows[0] |= {"proxy": scored(name, seed, split, weight).mean().item(), "gold": found.gold.mean().item()}

    def on_update(row, batch):
        if row["update"] in SEEN:
            asked = found.asked * 2
            said, kl, _ = sample_answers(policy, s.start, s.tokenizer, asked, seed=1000 * seed + row["update"])
            gold = statistics.mean(world.gold_score(*pair) for pair in zip(asked, said))
            proxy = score(asked, said).mean().item()
            rows.append({"update": row["update"], "kl": kl, "proxy": proxy, "gold": gold})

    settings = dataclasses.replace(PPO, beta=beta)
    ppo.train(policy, s.tokenizer, score, s.asked, settings, seed, on_update=on_update, frozen=frozen)
    return {"beta": beta} | {key: [r[key] for r in rows] for key in rows[0]}


def plan():
    """(method, judge, penalty) of all runs of a seed."""
    yield from (("best-of-n", name, None) for name in (*LABELS, SHIPPED, *ENSEMBLES))
    yield from (("PPO", name, 0.0) for name in (*LABELS, SHIPPED))
    yield from (("PPO", SWEPT, beta) for beta in PENALTIES)
    yield from (("PPO", name, 0.0) for name in ENSEMBLES)


def one(method, name, beta, seed, split, weight):
    """The row of one run."""
    began = time.process_time()
    how = (name, seed, split, weight)
    row = best_of_n_run(*how) if method == "best-of-n" else ppo_run(name, beta, *how[1:])
    minutes = round((time.process_time() - began) / 60, 2)
    return {"method": method, "judge": name, "beta": beta, "seed": seed} | row | {"minutes": minutes}


def choose(seed=0):
    """The weight of the variance: the one with the highest gold at the largest n, on dev questions, with one seed."""
    found = pool(seed, "dev")
    gold = {w: best_of(scored("mean less variance", seed, "dev", w), found.gold, TOP) for w in LAMBDAS}
    return {"dev_gold": {f"{w:g}": g for w, g in gold.items()}, "weight": max(gold, key=gold.get)}


# ---------------------------------------------------------------- what is shown


def of(result, method, name, beta=None):
    """The rows of one method against one judge, one a seed."""
    which = method, name, beta if method == "PPO" else None
    return [r for r in result["runs"] if (r["method"], r["judge"], r["beta"]) == which]


def seeds(result):
    """The result with only those seeds of which every run is there: an interrupted benchmark gives a table, too."""
    runs, whole = result["runs"], len(list(plan()))
    done = [s for s in {r["seed"] for r in runs} if sum(r["seed"] == s for r in runs) == whole]
    return result | {"runs": [r for r in runs if r["seed"] in done]}


def distances(row):
    """√KL of each point of a curve; of best-of-n by its bound."""
    far = map(best_of_n_kl, row["n"]) if row["method"] == "best-of-n" else row["kl"]
    return np.sqrt(np.maximum(list(far), 0))


def fit(d, gain, form):
    """alpha, beta and R² of gain = d (alpha - beta form(d)), by least squares."""
    x = np.stack([d, -d * form(d)], 1)
    (alpha, beta), *_ = np.linalg.lstsq(x, gain, rcond=None)
    left = gain - x @ (alpha, beta)
    return {"α": alpha, "β": beta, "R²": 1 - (left**2).sum() / ((gain - gain.mean()) ** 2).sum()}


FORMS = {"best-of-n": lambda d: d, "PPO": np.log}  # Gao et al. 2023


def fitted(row):
    """The `fit` of one curve of gold, by the form of its method."""
    d, gain = distances(row), np.array(row["gold"]) - row["gold"][0]
    far = d > 0.1
    return fit(d[far], gain[far], FORMS[row["method"]])


def peak(rows):
    """The place, along curves of several seeds, where their mean gold is highest."""
    return int(np.argmax(np.mean([r["gold"] for r in rows], 0)))


def change(rows, key, here, there=-1):
    """How much a curve rises from one place to another, one number a seed."""
    return [r[key][there] - r[key][here] for r in rows]


def at_equal_distance(result, beta, key):
    """What a penalty adds at the distance where its run ends, in proxy or gold, one number a seed; on straight lines
    over √KL through the run without a penalty."""
    gaps = []
    for ours, free in zip(of(result, "PPO", SWEPT, beta), of(result, "PPO", SWEPT, 0.0), strict=True):
        line = sorted(zip(distances(free), free[key]))
        gaps.append(ours[key][-1] - float(np.interp(distances(ours)[-1], *zip(*line))))
    return gaps


def best_policies(result, beta):
    """What `optimum` says for a penalty, one a seed."""
    return [next(b for b in row["best"] if b["beta"] == beta) for row in of(result, "best-of-n", SWEPT)]


def short_of_the_best(result, beta):
    """(what PPO reaches of score - beta KL, what the best policy has), a pair for each seed."""
    for ours, best in zip(of(result, "PPO", SWEPT, beta), best_policies(result, beta), strict=True):
        yield ours["proxy"][-1] - beta * ours["kl"][-1], best["proxy"] - beta * best["kl"]


def bounded(result, n, key):
    """KL or win rate of best-of-n, a mean over judges for each seed."""
    by_seed = {}
    for r in result["runs"]:
        by_seed.setdefault(r["seed"], []).extend(b[key] for b in r.get("bounded", ()) if b["n"] == n)
    return [statistics.mean(values) for values in by_seed.values()]


def slope(result, value):
    """By how much `value(row)` of best-of-n changes with each doubling of the labels, one number a seed."""
    curves = [[value(r) for r in of(result, "best-of-n", n)] for n in LABELS]
    return [float(np.polyfit(np.log2(LABELS), column, 1)[0]) for column in zip(*curves)]


def paired(result, method, a, b, value):
    """`value(row)` against judge a less that against judge b, one number a seed."""
    beta = 0.0 if method == "PPO" else None
    return [value(x) - value(y) for x, y in zip(of(result, method, a, beta), of(result, method, b, beta), strict=True)]


def above(values, bound=0.0):
    """Whether a claim that the values lie above a bound holds, by their 95% interval."""
    return side(values, bound, "holds", "fails")


def both(*verdicts):
    """The verdict on several claims at once: it holds if each does and fails if one does."""
    return "fails" if "fails" in verdicts else "holds" if set(verdicts) == {"holds"} else "inconclusive"


def less(values):
    return [-v for v in values]


def claims(result):
    """(paper, claim, figure in words, verdict) of each claim."""
    gao, words = "Gao et al. 2023", {"best-of-n": "d(α − βd)", "PPO": "d(α − β ln d)"}
    for method, form in words.items():
        found = {n: [fitted(r)["R²"] for r in of(result, method, n, 0.0)] for n in LABELS}
        worst = min(found, key=lambda n: statistics.mean(found[n]))
        yield (
            gao,
            f"{method}, {LABELS[0]} to {LABELS[-1]:,} labels: gold gains {form}, d = √KL (R² above {MARGIN['R²']})",
            f"lowest R² {with_interval(found[worst], '.3f')}, with {worst} labels",
            both(*(above(values, MARGIN["R²"]) for values in found.values())),
        )
    weaker = slope(result, lambda r: fitted(r)["β"] / fitted(r)["α"])
    yield (
        gao,
        "more labels, weaker over-optimisation: β/α of best-of-n falls",
        f"per doubling of the labels {with_interval(weaker, '+.3f')}",
        above(less(weaker)),
    )
    for method, words in (("best-of-n", f"from the peak to n = {TOP}"), ("PPO", "from the peak to the last update")):
        rows = of(result, method, SWEPT, 0.0)
        proxy, gold = (change(rows, key, peak(rows)) for key in ("proxy", "gold"))
        yield (
            gao,
            f"{method}, {SWEPT} labels: the judge's score rises on where gold falls",
            f"{words}: score {with_interval(proxy, '+.2f')}, gold {with_interval(gold, '+.2f')}",
            both(above(proxy), above(less(gold))),
        )
    for beta in PENALTIES[1:]:
        proxy, gold = (at_equal_distance(result, beta, key) for key in ("proxy", "gold"))
        yield (
            gao,
            f"a KL penalty of {beta:g} lifts the judge's score at equal distance, and gold by no more than "
            f"{MARGIN['gold']:g}",
            f"score {with_interval(proxy, '+.2f')}, gold {with_interval(gold, '+.2f')}",
            both(above(proxy), above(less(gold), -MARGIN["gold"])),
        )
    for beta in PENALTIES[1:]:
        gaps = [best - ours for ours, best in short_of_the_best(result, beta)]
        verdict = above(gaps)
        if verdict == "fails" and statistics.mean(b["spread"] for b in best_policies(result, beta)) < ENOUGH:
            verdict = "inconclusive"  # the estimate is too low
        yield (
            "Ziegler et al. 2019",
            f"no policy is above the optimum of score − {beta:g} KL",
            f"PPO is below it by {with_interval(gaps, '.2f')}",
            verdict,
        )
    n = BOUNDED[-1]
    kl, win = (bounded(result, n, key) for key in ("kl", "win"))
    yield (
        "Beirami et al. 2025",
        f"KL of best-of-{n} at most ln n − (n − 1)/n = {best_of_n_kl(n):.3f} (no more than {MARGIN['KL']:g} above)",
        with_interval(kl, ".3f"),
        above(less(kl), -best_of_n_kl(n) - MARGIN["KL"]),
    )
    yield (
        "Beirami et al. 2025",
        f"win rate of best-of-{n} at most n/(n + 1) = {n / (n + 1):.3f} (no more than {MARGIN['KL']:g} above)",
        with_interval(win, ".3f"),
        above(less(win), -n / (n + 1) - MARGIN["KL"]),
    )
    for name in ENSEMBLES[:2]:
        for method, words in (("best-of-n", f"n = {TOP}"), ("PPO", "the last update")):
            gain = paired(result, method, name, SWEPT, lambda r: r["gold"][-1])
            rows = of(result, method, name, 0.0)
            lost = change(rows, "gold", peak(rows))
            yield (
                "Coste et al. 2024",
                f"{method}: {told(name)} beats one judge, and loses no more than {MARGIN['gold']:g} after its peak",
                f"gold at {words} {with_interval(gain, '+.2f')}; after its peak {with_interval(lost, '+.2f')}",
                both(above(gain), above(lost, -MARGIN["gold"])),
            )


def told(name):
    """A judge in words."""
    if name == SHIPPED:
        return name
    return f"{name} of five" if name in ENSEMBLES else f"{name:,} labels"


def reproduced(result):
    """Rows of docs/reproductions.md."""
    result = seeds(result)
    minutes = sum(r["minutes"] for r in result["runs"])
    for claim in claims(result):
        yield f"| {' | '.join(claim)} | `benchmarks/over_optimisation.py` | {minutes:.0f} |"


def table(head, *rows):
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def curve_rows(result, method):
    """α, β and R² of each judge, and where gold is highest."""
    best = method == "best-of-n"
    yield "judge", *["pairs in order"] * best, "α", "β", "R²", "highest gold at", "gold there", "gold at the end"
    for name in (*LABELS, SHIPPED):
        rows = of(result, method, name, 0.0)
        fits = [fitted(r) for r in rows]
        top = peak(rows)
        order = [with_interval([r["accuracy"] for r in rows], ".2f")] if best else []
        cells = [with_interval([f[key] for f in fits], ".2f") for key in ("α", "β", "R²")]
        far = statistics.mean(r["kl"][top] for r in rows) if not best else 0
        where = f"n = {NS[top]}" if best else f"update {rows[0]['update'][top]}, {far:.1f} nats"
        gold = [with_interval([r["gold"][k] for r in rows], ".2f") for k in (top, -1)]
        yield told(name), *order, *cells, where, *gold


def penalty_rows(result):
    """PPO against one judge with each penalty: where it ends, what the penalty adds there, and what the best has."""
    yield "β", "KL at the end", "score", "gold", "score, against no penalty there", "gold, against no penalty there"
    for beta in (0.0, *PENALTIES):
        rows = of(result, "PPO", SWEPT, beta)
        ends = [with_interval([r[key][-1] for r in rows], ".2f") for key in ("kl", "proxy", "gold")]
        gaps = [with_interval(at_equal_distance(result, beta, key), "+.2f") for key in ("proxy", "gold")]
        yield f"{beta:g}", *ends, *(gaps if beta else ["–", "–"])


def optimum_rows(result):
    """The best policies that the same judge and a penalty allow, and how near PPO comes."""
    yield "β", "KL of the best", "score", "gold", "answers in its weight", "score − β KL", "PPO's score − β KL"
    for beta in PENALTIES[1:]:
        found = best_policies(result, beta)
        cells = [with_interval([b[key] for b in found], ".2f") for key in ("kl", "proxy", "gold")]
        pairs = list(zip(*short_of_the_best(result, beta)))
        wide = f"{statistics.mean(b['spread'] for b in found):.0f} of {POOL}"
        yield f"{beta:g}", *cells, wide, *(with_interval(values, ".2f") for values in pairs[::-1])


def bound_rows(result):
    yield "n", "KL (nats)", "its bound", "win rate by the judge", "its bound"
    for n in BOUNDED:
        kl, win = (with_interval(bounded(result, n, key), ".3f") for key in ("kl", "win"))
        yield str(n), kl, f"{best_of_n_kl(n):.3f}", win, f"{n / (n + 1):.3f}"


def ensemble_rows(result):
    yield "judge", "best-of-n, highest gold", f"gold at n = {TOP}", "PPO, highest gold", "gold at the last update", "KL"
    for name in (SWEPT, *ENSEMBLES):
        cells = []
        for method in ("best-of-n", "PPO"):
            rows = of(result, method, name, 0.0)
            cells += [with_interval([r["gold"][k] for r in rows], ".2f") for k in (peak(rows), -1)]
        yield told(name), *cells, with_interval([r["kl"][-1] for r in of(result, "PPO", name, 0.0)], ".1f")


def markdown(result):
    """What docs/reproductions.md shows of over_optimisation.json."""
    result = seeds(result)
    n = len(of(result, "best-of-n", SWEPT))
    return (
        f"{n} seeds; in each {QUESTIONS} test questions of its own, {POOL} answers of the fine-tuned model to each, "
        f"labels drawn anew, and {PPO.updates} updates of {PPO.batch_size} answers, so a short run of PPO. The judges "
        "begin as the fine-tuned model; only the shipped one had lessons in facts, so it differs by more than its "
        "labels. Means and 95% intervals over the seeds.\n\n"
        f"Best-of-n, n up to {TOP}:\n\n{table(*curve_rows(result, 'best-of-n'))}\n\n"
        f"PPO without a penalty:\n\n{table(*curve_rows(result, 'PPO'))}\n\n"
        f"PPO with penalties, against the judge of {SWEPT} labels. The last two columns compare with the run without a "
        "penalty at the same distance, which that one passes early and in larger steps:\n\n"
        f"{table(*penalty_rows(result))}\n\n"
        "The best policy for the same judge, estimated from the pool. Where few answers share its weight, the estimate "
        f"lies below the truth:\n\n{table(*optimum_rows(result))}\n\n"
        f"Best-of-n against its bounds, means over the judges:\n\n{table(*bound_rows(result))}\n\n"
        f"Five judges of the same {SWEPT} labels, each from another start of its last layer and in another order; λ = "
        f"{result['chosen']['weight']:g} of "
        f"{', '.join(f'{w:g}' for w in LAMBDAS)}, the one with the highest gold on dev questions (one seed):\n\n"
        f"{table(*ensemble_rows(result))}\n"
    )


def main():
    parser = argparse.ArgumentParser(description="Over-optimisation: best-of-n and PPO against judges of few labels.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder to write to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = options.out / "over_optimisation.json"
    result = {"chosen": {}, "runs": []} | begun(path, "finetuned", "reward", "feedback.jsonl")
    result |= {"split": "test", "versions": versions(), "pool": POOL, "questions": QUESTIONS, "training": TRAINING}
    result |= {"settings": dataclasses.asdict(PPO)}
    if not result["chosen"]:
        result["chosen"] = choose()
        write_json(path, result)
        print(result["chosen"], flush=True)
    for seed in range(options.seeds):
        for method, name, beta in plan():
            if seed in [r["seed"] for r in of(result, method, name, beta)]:
                continue
            result["runs"].append(one(method, name, beta, seed, "test", result["chosen"]["weight"]))
            write_json(path, result)
            row = result["runs"][-1]
            print(seed, method, name, beta, f"gold {row['gold'][-1]:.2f} of {max(row['gold']):.2f}", flush=True)
    print(markdown(result), *reproduced(result), sep="\n")


if __name__ == "__main__":
    main()
