"""Best-of-n, DPO, RLOO and PPO, each at its best: `python benchmarks/methods.py --sweep`, then without `--sweep`.

All start from data/models/finetuned, see the same reward (data/models/reward, scaled as in chapter 05) and may sample
equally many answers to train on; the gold judge only measures.  The sweep tries the settings of `GRIDS` on dev
questions and chooses by `RULE`: some settings of each method as the points of its frontier, and one of them to compare.
All points are then measured on reworded and test questions, several seeds.  Writes methods.json after every run, so
that an interrupted benchmark goes on, and methods.png to results/; `make stamp` takes its tables to
docs/results.md.
"""

import argparse
import copy
import dataclasses
import itertools
import statistics
import time
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import torch

from rlhf_helpers import world
from rlhf_helpers.desk import plots, recipe
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, WorkbookError, versions, write_json
from rlhf_helpers.engine.models import response_ids
from rlhf_helpers.lesson import alternatives, ppo, reward
from rlhf_helpers.lesson.decoding import generate
from rlhf_helpers.lesson.loop import Limits, sample_answers
from rlhf_helpers.make.stamp import begun, interval, side, with_interval
from rlhf_helpers.world import measures

RESULTS = Path(__file__).resolve().parent / "results"
UPDATES = 40  # of PPO, a third of what the build takes: sweep and seeds take an hour and a half of one thread
LIMIT = Limits().kl  # nats: what strays farther the gate of chapter 06 refuses
AT = (1.5, 2.0)  # nats, at which the frontiers are compared
GRIDS = {  # the first dial of each is the one along its frontier
    "best-of-n": {"n": (2, 4, 8, 16, 32)},
    "DPO": {"beta": (0.1, 0.3, 1.0), "lr": (1e-4, 3e-4), "epochs": (1, 3)},
    "RLOO": {"beta": (0.03, 0.1, 0.3), "lr": (2.5e-4, 5e-4, 1e-3, 2e-3)},
    "PPO": {"beta": (0.03, 0.1, 0.3), "lr": (1e-4, 2e-4, 4e-4, 8e-4)},
}
BEYOND = {  # tried since the best lay at the edge of the grid
    "DPO": [(3.0, 3e-4, 3), (3.0, 3e-4, 6), (1.0, 3e-4, 6)],
    "RLOO": [(0.01, 1e-3)],
}
POINTS = {"best-of-n": (2, 8, 32)}  # where not all values of the first dial are measured on all seeds
SWEEP_SEEDS = 2
RULE = (
    "For each n or beta the settings with the highest gold score on dev questions are kept (one seed), and of these "
    f"those with the highest mean of {SWEEP_SEEDS} seeds within {LIMIT:g} nats are compared with the other methods."
)


# ---------------------------------------------------------------- one run


@lru_cache(maxsize=1)
def scene(seed):
    """What all runs of one seed share: models, the reward `score(prompts, answers)`, the prompts to train on."""
    start, tokenizer = models.load_model(ROOT / "data/models/finetuned")
    judge, _ = models.load_reward_model(ROOT / "data/models/reward")
    asked = world.prompts("train")
    base = generate(start, tokenizer, asked, seed=seed)
    score = ppo.normalized_reward(lambda p, r: reward.score(judge, tokenizer, p, r), asked, base)
    return SimpleNamespace(start=start, tokenizer=tokenizer, judge=judge, asked=asked, score=score)


def count(seed, answers):
    """Tokens of a list of answers, the end of each included."""
    return sum(len(response_ids(scene(seed).tokenizer, a)) for a in answers)


@lru_cache(maxsize=1)
def pairs(seed, updates):
    """(preference rows for DPO, tokens sampled for them, CPU seconds), as many answers as in so many updates of PPO."""
    s, sampled, began = scene(seed), [], time.process_time()

    def scored(prompts, answers):  # the reward sees every answer that is sampled
        sampled.extend(answers)
        return s.score(prompts, answers)

    n = updates * recipe.PPO.batch_size // 2
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    rows = alternatives.judged_pairs(
        s.start, s.tokenizer, scored, [s.asked[i % len(s.asked)] for i in order], seed=seed
    )
    return rows, count(seed, sampled), time.process_time() - began


@lru_cache(maxsize=4)
def pool(seed, split):
    """(answers to beat, answers, their scores) of the fine-tuned model: one to each of the measured prompts, and for
    each prompt as many as best-of-n may need, [answer][prompt] and (answers, prompts)."""
    s, n, prompts = scene(seed), max(GRIDS["best-of-n"]["n"]), world.prompts(split)
    theirs = generate(s.start, s.tokenizer, measures.measured_prompts(split), seed=seed + 1)
    said = generate(s.start, s.tokenizer, prompts * n, seed=seed)
    scores = s.score(prompts * n, said).view(n, len(prompts))
    return theirs, [said[i : i + len(prompts)] for i in range(0, len(said), len(prompts))], scores


def answered(policy, settings, seed, split):
    """(answers, KL, tokens sampled for each answer) of a policy, to all of the measured prompts, or of best-of-n, where
    it is None, to each prompt once; the KL of best-of-n is the bound."""
    s, prompts = scene(seed), world.prompts(split)
    if policy is None:
        n, (_, said, scores) = settings["n"], pool(seed, split)
        best = [said[k][i] for i, k in enumerate(scores[:n].argmax(0).tolist())]
        return best, alternatives.best_of_n_kl(n), count(seed, sum(said[:n], [])) / len(best)
    turns = range(len(measures.measured_prompts(split)) // len(prompts))
    said, kl, _ = zip(*(sample_answers(policy, s.start, s.tokenizer, prompts, seed=seed + 1000 * k) for k in turns))
    answers = sum(said, [])
    return answers, statistics.mean(kl), count(seed, answers) / len(answers)


def trained(method, settings, seed, updates):
    """(policy or None, tokens sampled, tokens trained on, CPU seconds); a token counts once for each pass over it."""
    s, sampled, passed, extra, began = scene(seed), 0, 0, 0.0, time.process_time()
    policy = None if method == "best-of-n" else copy.deepcopy(s.start)
    if method == "DPO":
        rows, sampled, extra = pairs(seed, updates)
        began = time.process_time()
        alternatives.dpo(policy, s.tokenizer, rows, seed=seed, **settings)
        passed = settings["epochs"] * count(seed, [r[side] for r in rows for side in ("chosen", "rejected")])
    elif method in ("RLOO", "PPO"):
        now = dataclasses.replace(recipe.PPO, updates=updates, **settings)
        how = policy, s.tokenizer, s.score, s.asked, now, seed
        if method == "RLOO":
            sampled = passed = sum(r["tokens"] for r in alternatives.rloo(*how))
        else:
            sampled = round(sum(r["length"] for r in ppo.train(*how, frozen=(s.judge,))[0]) * now.batch_size)
            passed = now.epochs * sampled
    return policy, sampled, passed, extra + time.process_time() - began


def one(method, settings, seed, splits, updates=UPDATES):
    """The row of one run: gold, right, win rate over the fine-tuned model and KL on each split ("test_gold"), costs."""
    policy, sampled, passed, seconds = trained(method, settings, seed, updates)

    def measure(split):
        ours, kl, in_use = answered(policy, settings, seed, split)
        asked, theirs = measures.measured_prompts(split)[: len(ours)], pool(seed, split)[0][: len(ours)]
        found = {k: v for k, v in measures.quality(asked, ours).items() if k in ("gold", "right")}
        return found | {"win_rate": measures.win_rate(asked, ours, theirs), "kl": kl, "in_use": in_use}

    costs = {"sampled": sampled, "trained": passed, "cpu": round(seconds, 1)}
    return {"method": method, "settings": settings, "seed": seed, **measures.on_each(measure, splits), **costs}


# ---------------------------------------------------------------- choosing


def tried(method):
    """All settings of a method that the sweep tries, as dicts."""
    grid = [*itertools.product(*GRIDS[method].values()), *BEYOND.get(method, [])]
    return [dict(zip(GRIDS[method], values)) for values in grid]


def ranked(sweep, method):
    """{value of the first dial: the rows of seed 0 with it, the highest gold score on dev first}."""
    dial = next(iter(GRIDS[method]))
    rows = sorted((r for r in sweep if r["method"] == method and not r["seed"]), key=lambda r: -r["dev_gold"])
    return {v: [r for r in rows if r["settings"][dial] == v] for v in sorted({r["settings"][dial] for r in rows})}


def choose(sweep):
    """By `RULE`: {method: {"points": settings along the frontier, "best": the one to compare}}."""
    chosen = {}
    for method, grid in GRIDS.items():
        of = ranked(sweep, method)
        tops = [of[v][0]["settings"] for v in POINTS.get(method, next(iter(grid.values())))]
        gold, kl = ([mean({"sweep": sweep}, method, p, f"dev_{k}", "sweep") for p in tops] for k in ("gold", "kl"))
        best = max((g, i) for i, g in enumerate(gold) if kl[i] <= LIMIT)[1]
        chosen[method] = {"points": tops, "best": tops[best]}
    return chosen


# ---------------------------------------------------------------- what is shown


def points(result):
    """(method, settings) of all that is measured on several seeds."""
    return [("fine-tuned", {})] + [(m, p) for m, c in result["chosen"].items() for p in c["points"]]


def column(result, method, settings, key, part="runs"):
    """One number a seed."""
    return [r[key] for r in result[part] if r["method"] == method and r["settings"] == settings]


def mean(result, *which):
    return statistics.mean(column(result, *which))


def gold_at(result, method, kl):
    """Gold on test at so many nats, one number a seed, on lines over √KL through the start and the points of the
    frontier; None where those of a seed don't reach as far."""
    curve = [("fine-tuned", {})] + [(method, p) for p in result["chosen"][method]["points"]]
    at, gold = (zip(*(column(result, *p, key) for p in curve)) for key in ("test_kl", "test_gold"))
    lines = [sorted((max(x, 0) ** 0.5, y) for x, y in zip(*seed)) for seed in zip(at, gold)]
    reach = all(line[-1][0] >= kl**0.5 for line in lines)
    return [float(np.interp(kl**0.5, *zip(*line))) for line in lines] if reach else None


def gaps(result, a, b):
    """Method a less method b in gold on test, one number a seed: at the settings to compare, then at each distance of
    `AT` (None where one of them does not reach it)."""
    both = [[column(result, m, result["chosen"][m]["best"], "test_gold") for m in (a, b)]]
    both += [[gold_at(result, m, kl) for m in (a, b)] for kl in AT]
    return [[x - y for x, y in zip(*pair)] if all(pair) else None for pair in both]


def told(values):
    """A difference in words: mean, interval and verdict."""
    return f"{with_interval(values, '+.2f')}, {side(values, 0, 'higher', 'lower')}" if values else "not reached"


def table(head, *rows):
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def named(result, method, settings):
    """The first two cells of a row: the settings to compare are bold."""
    mark = "**" * (settings == result["chosen"].get(method, {}).get("best"))
    return method, mark + (", ".join(f"{k} {v:g}" for k, v in settings.items()) or "–") + mark


def dev_rows(result):
    """What the sweep found: for each value of the first dial the best settings, and the gold scores of the others."""
    yield "method", "settings", "gold", "right", "KL (nats)", "gold of the others", f"gold, {SWEEP_SEEDS} seeds"
    for method in result["chosen"]:
        for top, *rest in ranked(result["sweep"], method).values():
            cells = [f"{top[k]:.2f}" for k in ("dev_gold", "dev_right", "dev_kl")]
            others = ", ".join(f"{r['dev_gold']:.2f}" for r in rest)
            seeds = column(result, method, top["settings"], "dev_gold", "sweep")
            again = f"{statistics.mean(seeds):.2f}" if len(seeds) > 1 else "–"
            yield *named(result, method, top["settings"]), *cells, others or "–", again


def seed_rows(result):
    """What several seeds gave, with intervals."""
    yield "method", "settings", "gold, test", "gold, reworded", "win rate, test", "right, test", "KL, test (nats)"
    for method, settings in points(result):
        keys = ("test_gold", "reworded_gold", "test_win_rate", "test_right")
        cells = [with_interval(column(result, method, settings, key), ".2f") for key in keys]
        kl = statistics.mean(column(result, method, settings, "test_kl"))
        yield *named(result, method, settings), *cells, "at most " * (method == "best-of-n") + f"{max(kl, 0):.2f}"


def cost_rows(result):
    yield "method", "settings", "tokens sampled", "tokens trained on", "tokens per answer in use", "CPU seconds"
    for method, settings in points(result):
        keys = ("sampled", "trained", "test_in_use", "cpu")
        yield *named(result, method, settings), *(f"{mean(result, method, settings, k):,.0f}" for k in keys)


def gap_rows(result):
    yield "gold on test", "at their best", *(f"at {kl:g} nats" for kl in AT)
    for b, a in itertools.combinations(result["chosen"], 2):
        yield f"{a} less {b}", *map(told, gaps(result, a, b))


def markdown(result):
    """What docs/results.md shows of methods.json."""
    counts = ", ".join(f"{len(tried(m))} settings of {m}" for m in GRIDS)
    seeds = len(column(result, "fine-tuned", {}, "seed"))
    return (
        f"Each method may sample {result['answers']:,} answers to train on, as many as {result['updates']} updates of "
        f"PPO. {result['rule']} Tried: {counts}.\n\n{table(*dev_rows(result))}\n\n"
        f"Then {seeds} seeds on questions that chose nothing; the settings to compare are bold.\n\n"
        f"{table(*seed_rows(result))}\n\n"
        "The cost, in means: a token is trained on once for each pass over it. Best-of-n trains nothing and pays in "
        f"use, with every answer.\n\n{table(*cost_rows(result))}\n\n"
        "The differences are paired by seed: at the settings to compare, and at equal distances (straight lines over "
        f"√KL between start and points; best-of-n at its bound).\n\n{table(*gap_rows(result))}\n"
    )


def reproduced(result):
    """Rows of docs/reproductions.md: what was claimed of DPO and RLOO against PPO, each at its best settings."""
    minutes = sum(r["cpu"] for r in result["runs"]) / 60
    papers = {"DPO": "Rafailov et al. 2023", "RLOO": "Ahmadian et al. 2024"}
    for method, paper in papers.items():
        for kl, gap in zip(AT, gaps(result, method, "PPO")[1:]):
            words = {"higher": "holds", "lower": "fails"}
            verdict = words.get(side(gap, 0, "higher", "lower"), "inconclusive") if gap else "not reached"
            claim = f"{method}'s frontier is at or above PPO's, at {kl:g} nats"
            figure = f"gold, {method} less PPO {with_interval(gap, '+.2f')}" if gap else "–"
            yield f"| {paper} | {claim} | {figure} | {verdict} | `benchmarks/methods.py` | {minutes:.0f} |"


def draw(result, path):
    """Gold score on test questions against √KL, a line for each method, with 95% intervals over the seeds."""
    plots.use_style()
    figure, ax = plt.subplots(figsize=(7, 4.2))
    ax.plot(0, mean(result, "fine-tuned", {}, "test_gold"), "*", color=plots.GREY, ms=12, label="fine-tuned")
    for method, look in zip(result["chosen"], ("s-", "^-", "D-", "o-")):
        some = [(method, p) for p in result["chosen"][method]["points"]]
        spots = sorted((mean(result, *p, "test_kl") ** 0.5, *interval(column(result, *p, "test_gold"))) for p in some)
        x, y, low, high = np.array(spots).T
        ax.errorbar(x, y, [y - low, high - y], fmt=look, capsize=3, ms=6, label=method)
    ax.set(xlabel="√KL to the fine-tuned model (KL in nats; best-of-n at its bound)", ylabel="gold score (points)")
    ax.set_title("Gold against distance: test questions, 95% intervals")
    ax.legend(loc="upper left", fontsize=10)
    figure.savefig(path)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description="Best-of-n, DPO, RLOO and PPO, each at its best.")
    parser.add_argument("--sweep", action="store_true", help="choose the settings, on dev questions")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder to write to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = options.out / "methods.json"
    result = {"sweep": [], "chosen": {}, "runs": []} | begun(path, "finetuned", "reward")
    result |= {"versions": versions(), "threads": options.threads, "settings": vars(recipe.PPO), "rule": RULE}
    result |= {"updates": UPDATES, "answers": UPDATES * recipe.PPO.batch_size}
    if not options.sweep and not result["chosen"]:
        raise WorkbookError("There are no settings yet: run benchmarks/methods.py --sweep first.")

    def measure(part, plan, splits):
        for seed, (method, settings) in plan:
            if seed not in column(result, method, settings, "seed", part):
                result[part].append(one(method, settings, seed, splits))
                write_json(path, result)
                print(result[part][-1], flush=True)

    if options.sweep:
        measure("sweep", [(0, (m, t)) for m in GRIDS for t in tried(m)], ("dev",))
        result["chosen"] = choose(result["sweep"])
        measure("sweep", itertools.product(range(SWEEP_SEEDS), points(result)[1:]), ("dev",))
        result["chosen"] = choose(result["sweep"])
        write_json(path, result)
        print(table(*dev_rows(result)))
    else:
        measure("runs", itertools.product(range(options.seeds), points(result)), tuple(measures.MEASURED))
        draw(result, options.out / "methods.png")
        print(markdown(result))


if __name__ == "__main__":
    main()
