"""The reward model with the shipped recipe over several seeds: `python benchmarks/reward_seeds.py`.

Each run starts from data/models/reward_start, learns from data/feedback.jsonl in an order of its own, and is measured
on 1,000 new pairs of prompts of each split in `measures.MEASURED`.  Writes reward_seeds.json (all numbers) beside this
file; `make stamp` takes its table to docs/results.md.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from rlhf_helpers import world
from rlhf_helpers.desk import recipe
from rlhf_helpers.engine.files import ROOT, versions, write_json
from rlhf_helpers.lesson import reward
from rlhf_helpers.make import build
from rlhf_helpers.make.stamp import built
from rlhf_helpers.world import measures

RESULTS = Path(__file__).resolve().parent / "results"
COLUMNS = {
    "accuracy": "accuracy on new labels",
    "noise_ceiling": "noise ceiling",
    "below": "points below it",
    "gold_order_clear_pairs": "gold order of clear pairs",
    "quiz": "quiz",
}


def one_seed(seed):
    """Train with one seed: a dict with what `COLUMNS` names, for each split ("test_accuracy"), and the seconds."""
    began = time.time()
    model, tokenizer, found = build.train_judge(ROOT / "data", seed)

    def more(split):
        quiz = reward.evaluate(model, tokenizer, world.quiz(1000, seed + 7, split=split))["accuracy"]
        return {"below": 100 * (found[f"{split}_noise_ceiling"] - found[f"{split}_accuracy"]), "quiz": quiz}

    return {"seed": seed, **found, **measures.on_each(more), "seconds": time.time() - began}


def table(rows):
    """The results as a Markdown table, with the mean over the seeds."""
    lines = ["| seed | questions | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for split in measures.MEASURED:
        some = [{k: r[f"{split}_{k}"] for k in COLUMNS} | {"seed": r["seed"]} for r in rows]
        some.append({k: statistics.mean(r[k] for r in some) for k in COLUMNS} | {"seed": "mean"})
        for r in some:
            cells = [f"{r[k]:.1f}" if k == "below" else f"{r[k]:.3f}" for k in COLUMNS]
            lines.append(f"| {r['seed']} | {split} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def markdown(result):
    """What docs/results.md shows of reward_seeds.json."""
    return table(result["runs"])


def main():
    parser = argparse.ArgumentParser(description="The reward model over several seeds.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for seed in range(options.seeds):
        rows.append(one_seed(seed))
        print(table(rows[-1:]).splitlines()[2], flush=True)
    result = {"versions": versions(), "data": built("finetuned", "reward_start", "feedback.jsonl")}
    result |= {"settings": recipe.REWARD, "runs": rows}
    write_json(RESULTS / "reward_seeds.json", result)
    print(table(rows))


if __name__ == "__main__":
    main()
