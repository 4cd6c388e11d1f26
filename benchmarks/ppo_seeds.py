"""PPO with the shipped settings over several seeds: `python benchmarks/ppo_seeds.py`.

Each run starts from data/models/finetuned and is judged by data/models/reward; the gold judge only measures.
Writes ppo_seeds.json (all numbers), ppo_seeds.md (the table) and ppo_seeds.png (the curves) beside this file.
"""

import argparse
import statistics
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from rlhf_helpers import build, plots, world
from rlhf_helpers.files import ROOT, versions, write_json, write_text

HERE = Path(__file__).resolve().parent
CURVES = (("reward", "proxy reward (SD of the start)"), ("gold", "gold score"), ("kl", "KL (nats per answer)"))


def one_seed(seed):
    """Train with one seed: a dict with gold before and after, win rate, KL, seconds and the history."""
    def watch(row, batch):
        pairs = zip(batch["prompts"], batch["responses"], strict=True)
        row["gold"] = statistics.mean(world.gold_score(p, r) for p, r in pairs)

    began = time.time()
    _, _, history, theirs, ours = build.align(ROOT / "data", seed, watch)
    seconds, held_out = time.time() - began, world.prompts("heldout")
    before, after = build.quality(held_out, theirs), build.quality(held_out, ours)
    return {"seed": seed, "gold_before": before["gold"], "gold_after": after["gold"], "right_before": before["right"],
            "right_after": after["right"], "win_rate": build.win_rate(held_out, ours, theirs),
            "kl": history[-1]["kl"], "seconds": seconds, "history": history}


def table(rows):
    """The results as a Markdown table, with the mean over the seeds."""
    names = ("gold_before", "gold_after", "right_before", "right_after", "win_rate", "kl")
    lines = ["| seed | gold before | gold after | right before | right after | win rate | KL (nats) |",
             "|---|---|---|---|---|---|---|"]
    lines += [f"| {r['seed']} | " + " | ".join(f"{r[n]:.3f}" for n in names) + " |" for r in rows]
    means = [statistics.mean(r[n] for r in rows) for n in names]
    return "\n".join([*lines, "| mean | " + " | ".join(f"{m:.3f}" for m in means) + " |"]) + "\n"


def draw(rows):
    """Proxy reward, gold score and KL over the updates: the mean of the seeds and the band of all."""
    plots.use_style()
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2))
    for ax, (key, label), colour in zip(axes, CURVES, (plots.ORANGE, plots.BLUE, plots.PURPLE)):
        values = torch.tensor([[h[key] for h in r["history"]] for r in rows])
        steps = range(1, values.shape[1] + 1)
        ax.fill_between(steps, values.min(0).values, values.max(0).values, color=colour, alpha=0.25, lw=0)
        ax.plot(steps, values.mean(0), color=colour)
        ax.set(xlabel="update", ylabel=label)
    figure.suptitle(f"PPO, {len(rows)} seeds: mean and range", x=0.01, ha="left")
    figure.savefig(HERE / "ppo_seeds.png")


def main():
    parser = argparse.ArgumentParser(description="PPO over several seeds.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for seed in range(options.seeds):
        rows.append(one_seed(seed))
        print(table(rows[-1:]).splitlines()[2], flush=True)
    write_json(HERE / "ppo_seeds.json", {"versions": versions(), "settings": vars(build.PPO), "runs": rows})
    write_text(HERE / "ppo_seeds.md", table(rows))
    draw(rows)
    print(table(rows))


if __name__ == "__main__":
    main()
