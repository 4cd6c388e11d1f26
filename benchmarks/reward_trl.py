"""Training a reward model: this repository against TRL's RewardTrainer, side by side.

    python -m venv .venv-trl
    .venv-trl/bin/pip install torch==2.13.0 transformers==5.15.0 trl==1.12.0 datasets==5.2.0 accelerate==1.15.0
    PYTHONPATH=. .venv-trl/bin/python benchmarks/reward_trl.py

Both sides follow the recipe of data/models/reward, quiz rows apart: they start from data/models/reward_start and see
the same pairs of data/feedback.jsonl, with the same batch size, epochs, optimiser, learning rate and its schedule,
gradient clipping and centre term.  Each run has a process of its own; the sides alternate.  Writes reward_trl.json
(all numbers) to results/; `make stamp` takes its table to docs/results.md.
"""

import argparse
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from rlhf_helpers.desk import recipe, tasks
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, versions, write_json
from rlhf_helpers.lesson import lm, reward
from rlhf_helpers.lesson.feedback import read_events, replay, to_preferences
from rlhf_helpers.make.stamp import built, interval
from rlhf_helpers.world import annotators

RESULTS = Path(__file__).resolve().parent / "results"
HELD_OUT = 3000  # pairs
TRAINING = recipe.REWARD | {"center": 0.01}
SIDES = {"ours": "this repository", "trl": "RewardTrainer"}
DIFFERENCES = """What is not the same:

- This repository makes batches of pairs of like length (in windows of 16 batches); RewardTrainer shuffles, and
  cannot group by length.
- RewardTrainer is given token ids, made by the function used here, and the time of that is added to its own.
- RewardTrainer runs without checkpoints, logging or evaluation; the accuracy is measured afterwards, by one function.
"""


def data(pairs):
    """(train, held-out) preference rows; no question is in both, in any words."""
    rows, _ = to_preferences(replay(read_events(ROOT / "data/feedback.jsonl")[0]))
    train, held_out = reward.split_by_prompt(rows, 0.2, question=tasks.embedded().question)
    return train[:pairs], held_out[:HELD_OUT]


def expected_accuracy(model, tokenizer, rows):
    """The share of labels that the model would agree with on average if these pairs were labelled again and again."""
    people, prompts = annotators.labellers("helpful"), [r["prompt"] for r in rows]
    scores = reward.score(model, tokenizer, prompts * 2, [r[k] for k in ("chosen", "rejected") for r in rows])
    chances = [people.prefers_left(r["prompt"], r["chosen"], r["rejected"]) for r in rows]
    agrees = (scores[: len(rows)] > scores[len(rows) :]).tolist()
    return statistics.mean(p if yes else 1 - p for p, yes in zip(chances, agrees))


def ours(model, tokenizer, rows, seed):
    """Train with this repository."""
    began = time.perf_counter(), time.process_time()
    reward.train_reward_model(model, tokenizer, rows, seed=seed, **TRAINING)
    return time.perf_counter() - began[0], time.process_time() - began[1]


def trl(model, tokenizer, rows, seed):
    """Train with RewardTrainer, its settings tuned for a CPU."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    began = time.perf_counter(), time.process_time()
    pairs, _ = reward.usable_pairs(tokenizer, rows, reward.context_length(model))
    tokenised = time.perf_counter() - began[0], time.process_time() - began[1]
    dataset = Dataset.from_list([{"chosen_ids": c, "rejected_ids": r} for c, r in pairs])
    steps = TRAINING["epochs"] * -(-len(pairs) // TRAINING["batch_size"])
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=TRAINING["lr"], betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    config = RewardConfig(
        output_dir=tempfile.mkdtemp(),
        seed=seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=TRAINING["batch_size"],
        num_train_epochs=TRAINING["epochs"],
        center_rewards_coefficient=TRAINING["center"],
        max_grad_norm=1.0,
        max_length=reward.context_length(model),
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        eval_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = RewardTrainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        train_dataset=dataset,
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lm.schedule(step, steps))),
    )
    began = time.perf_counter(), time.process_time()
    trainer.train()
    seconds = (time.perf_counter() - began[0] + tokenised[0], time.process_time() - began[1] + tokenised[1])
    assert trainer.state.global_step == steps
    return seconds


def one_run(side, pairs, seed):
    """A dict with what one run measured."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(seed)
    model, tokenizer = models.load_reward_model(ROOT / "data/models/reward_start")
    train, held_out = data(pairs)
    wall, cpu = {"ours": ours, "trl": trl}[side](model, tokenizer, train, seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes on Linux -> GiB
    return {
        "side": side,
        "seed": seed,
        "pairs": len(train) * TRAINING["epochs"],
        "wall": wall,
        "cpu": cpu,
        "peak_gib": peak,
        **reward.evaluate(model.eval(), tokenizer, held_out),
        "expected_accuracy": expected_accuracy(model, tokenizer, held_out),
    }


def summary(runs):
    """Medians of each side, the medians over the seeds of the ratio to it, and how far ahead in accuracy."""
    sides = {s: [r for r in runs if r["side"] == s] for s in SIDES}
    rates = {s: {k: [r["pairs"] / r[k] for r in rs] for k in ("wall", "cpu")} for s, rs in sides.items()}

    def ratio(side, clock):
        return statistics.median(a / b for a, b in zip(rates["ours"][clock], rates[side][clock], strict=True))

    gaps = [a["expected_accuracy"] - b["expected_accuracy"] for a, b in zip(sides["ours"], sides["trl"], strict=True)]
    found = {
        s: {
            "pairs_per_second": statistics.median(rates[s]["wall"]),
            "pairs_per_cpu_second": statistics.median(rates[s]["cpu"]),
            "ratio": ratio(s, "wall"),
            "cpu_ratio": ratio(s, "cpu"),
            "accuracy": statistics.mean(r["accuracy"] for r in rs),
            "expected_accuracy": statistics.mean(r["expected_accuracy"] for r in rs),
            "peak_gib": statistics.median(r["peak_gib"] for r in rs),
        }
        for s, rs in sides.items()
    }
    found["ours"]["ahead"] = interval(gaps)  # paired by seed
    return found


def markdown(result):
    """What docs/results.md shows of reward_trl.json."""
    s = result["summary"]
    lines = ["| | " + " | ".join(SIDES.values()) + " |", "|---|" + "---|" * len(SIDES)]
    for name, key, form in (
        ("pairs per second", "pairs_per_second", "{:.0f}"),
        ("ours faster by, wall clock", "ratio", "{:.2f}"),
        ("pairs per CPU second", "pairs_per_cpu_second", "{:.0f}"),
        ("ours faster by, CPU time", "cpu_ratio", "{:.2f}"),
        ("held-out accuracy (mean)", "accuracy", "{:.4f}"),
        ("the same, the luck of the labels left out", "expected_accuracy", "{:.4f}"),
        ("peak memory (GiB)", "peak_gib", "{:.2f}"),
    ):
        lines.append(f"| {name} | " + " | ".join(form.format(s[side][key]) for side in SIDES) + " |")
    made = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    pairs = result["runs"][0]["pairs"] // TRAINING["epochs"]
    mean, low, high = s["ours"]["ahead"]
    return (
        f"Training a reward model on one CPU thread, {made}: {pairs:,} pairs, "
        f"{TRAINING['epochs']} epochs, batches of {TRAINING['batch_size']}; {result['repeats']} runs of each side, "
        "alternating. Rates are medians, ratios medians over the seeds; where the machine is shared, the CPU time "
        "is the surer measure.\n\n"
        + "\n".join(lines)
        + f"\n\nHeld out: {HELD_OUT:,} pairs of {result['held_out']}, which these labels leave out. "
        f"Without the luck of their labels, this repository is {100 * mean:+.2f} points of accuracy from RewardTrainer "
        f"(mean over the seeds; 95% interval {100 * low:+.2f} "
        f"to {100 * high:+.2f}).\n\n" + DIFFERENCES
    )


def main():
    parser = argparse.ArgumentParser(description="Reward-model training against TRL's RewardTrainer.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=12_800, help="at most so many")
    parser.add_argument("--side", choices=SIDES, help="one run of one side, its numbers on the last line")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(one_run(arguments.side, arguments.pairs, arguments.seed)))
        return
    runs = []
    for seed in range(arguments.repeats):
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, "--seed", str(seed), "--pairs", str(arguments.pairs)]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            )
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            r = runs[-1]
            print(
                side,
                seed,
                f"{r['pairs'] / r['wall']:.0f} pairs/s, {r['pairs'] / r['cpu']:.0f} per CPU second, "
                f"accuracy {r['accuracy']:.3f}",
                flush=True,
            )
    made = versions() | {"trl": importlib.metadata.version("trl")}
    result = {
        "versions": made,
        "data": built("reward_start", "feedback.jsonl"),
        "held_out": "other train questions, in whatever words",
        "threads": 1,
        "training": TRAINING,
        "repeats": arguments.repeats,
        "summary": summary(runs),
        "runs": runs,
    }
    write_json(RESULTS / "reward_trl.json", result)
    print(markdown(result))


if __name__ == "__main__":
    main()
