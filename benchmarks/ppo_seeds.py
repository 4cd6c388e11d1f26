"""PPO with the shipped settings over several seeds: `python benchmarks/ppo_seeds.py`.

Each run starts from data/models/finetuned and is judged by data/models/reward; the gold judge only measures.
Writes ppo_seeds.json (all numbers) and ppo_seeds.png (the curves) to results/; `make stamp` takes its tables to
docs/results.md.

With `--taste terse`, or another of `annotators.TASTES`, a simulated annotator of that taste labels the pairs in
data/feedback.jsonl anew, a reward model is trained on them (once, with seed 0), and that taste takes the place of the
gold judge, in the columns called gold and win rate too; the files then end in the name of the taste.
"""

import argparse
import statistics
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from rlhf_helpers.desk import plots, recipe
from rlhf_helpers.engine.files import ROOT, versions, write_json
from rlhf_helpers.make import build
from rlhf_helpers.make.stamp import built
from rlhf_helpers.world import annotators, measures

RESULTS = Path(__file__).resolve().parent / "results"
NAMES = ("gold_before", "gold_after", "right_before", "right_after", "win_rate")
CURVES = (("reward", "proxy reward (SD of the start)"), ("gold", "gold score"), ("kl", "KL (nats per answer)"))


def one_seed(seed, taste, judge=None):
    """Train with one seed: a dict with KL, seconds, the history and, for each split, `NAMES` ("test_win_rate")."""
    function = annotators.TASTES[taste]

    def mean(prompts, responses):
        return statistics.mean(map(function, prompts, responses))

    def watch(row, batch):
        row["gold"] = mean(batch["prompts"], batch["responses"])

    began = time.time()
    _, _, history, theirs, ours = build.align(ROOT / "data", seed, watch, judge)
    seconds = time.time() - began

    def compared(split):
        asked = measures.measured_prompts(split)
        before, after = measures.quality(asked, theirs[split]), measures.quality(asked, ours[split])
        return {
            "gold_before": mean(asked, theirs[split]),
            "gold_after": mean(asked, ours[split]),
            "right_before": before["right"],
            "right_after": after["right"],
            "win_rate": measures.win_rate(asked, ours[split], theirs[split], function),
        }

    return {"seed": seed, **measures.on_each(compared), "kl": history[-1]["kl"], "seconds": seconds, "history": history}


def table(rows):
    """The results as a Markdown table, with the mean over the seeds; KL is that of the last batch of training."""
    lines = [
        "| seed | questions | gold before | gold after | right before | right after | win rate | KL (nats) |",
        "|---" * 8 + "|",
    ]
    for split in measures.MEASURED:
        some = [{n: r[f"{split}_{n}"] for n in NAMES} | {"seed": r["seed"], "kl": r["kl"]} for r in rows]
        some.append({n: statistics.mean(r[n] for r in some) for n in (*NAMES, "kl")} | {"seed": "mean"})
        for r in some:
            lines.append(f"| {r['seed']} | {split} | " + " | ".join(f"{r[n]:.3f}" for n in (*NAMES, "kl")) + " |")
    return "\n".join(lines) + "\n"


def markdown(result):
    """What docs/results.md shows of ppo_seeds.json."""
    return table(result["runs"])


def draw(rows, taste, path):
    """Proxy reward, gold score and KL over the updates: the mean of the seeds and the band of all."""
    plots.use_style()
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2))
    for ax, (key, label), colour in zip(axes, CURVES, (plots.ORANGE, plots.BLUE, plots.PURPLE)):
        values = torch.tensor([[h[key] for h in r["history"]] for r in rows])
        steps = range(1, values.shape[1] + 1)
        ax.fill_between(steps, values.min(0).values, values.max(0).values, color=colour, alpha=0.25, lw=0)
        ax.plot(steps, values.mean(0), color=colour)
        ax.set(xlabel="update", ylabel=label)
    figure.suptitle(f"PPO, taste {taste}, {len(rows)} seeds: mean and range", x=0.01, ha="left")
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description="PPO over several seeds.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--taste", choices=annotators.TASTES, default="helpful")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows, judge, found, path = [], None, {}, RESULTS / "ppo_seeds"
    if options.taste != "helpful":
        judge, _, found = build.train_judge(ROOT / "data", 0, options.taste)
        print("the judge:", found, flush=True)
        path = RESULTS / f"ppo_seeds_{options.taste}"
    for seed in range(options.seeds):
        rows.append(one_seed(seed, options.taste, judge))
        print(table(rows[-1:]).splitlines()[2], flush=True)
    result = {"versions": versions(), "data": built("finetuned", "reward"), "settings": vars(recipe.PPO)}
    result |= {"judge": found, "runs": rows}
    write_json(path.with_suffix(".json"), result)
    draw(rows, options.taste, path.with_suffix(".png"))
    print(table(rows))


if __name__ == "__main__":
    main()
