"""PPO: this loop against TRL's PPOTrainer, side by side.

    python -m venv .venv-trl
    .venv-trl/bin/pip install torch==2.13.0 transformers==5.15.0 trl==1.12.0 datasets==5.2.0 accelerate==1.15.0
    PYTHONPATH=. .venv-trl/bin/python benchmarks/ppo_trl.py

TRL 1.12.0 is the last release with PPOTrainer.  Both sides start from data/models/finetuned, are judged by
data/models/reward (shifted and scaled alike), and have the same prompts, batch, epochs, minibatches, learning rate
and its schedule, KL coefficient and sampling temperature.  Each run has a process of its own; the sides alternate.
Writes ppo_trl.json (all numbers) to results/; `make stamp` takes its tables to docs/results.md.  The gold judge
only measures, and the clock stands still while it does.
"""

import argparse
import copy
import gc
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
from types import SimpleNamespace

import torch

from rlhf_helpers import world
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, versions, write_json
from rlhf_helpers.lesson import decoding, ppo, reward
from rlhf_helpers.make.stamp import built
from rlhf_helpers.world import measures

RESULTS = Path(__file__).resolve().parent / "results"
PHASES = (
    "rollout",
    "scoring and reference",
    "forward of the update",
    "backward of the update",
    "garbage collection",
    "rest",
)
SETTINGS = ppo.Settings()
SPLIT = "test"  # of the prompts that the gold score after a run is measured on
DIFFERENCES = """What is not the same:

- TRL trains two networks, the policy and a value model (started from the reward model); here the value head is one
  layer on the policy. That is the design of each.
- Here the gradient is clipped to the norm 1.0; PPOTrainer clips none.
- PPOTrainer puts the score one place after the last token, where its value function still speaks, and pads every
  answer to the longest of the batch.
- PPOTrainer calls `gc.collect` twice in every update, as it is released. The tables also give that time, and the
  ratio without it.
"""


# ---------------------------------------------------------------- the clock


class Clock:
    """Wall and CPU seconds of phases, with a pause while something is only measured."""

    def __init__(self):
        self.phases, self.inside, self.paused = dict.fromkeys(PHASES, 0.0), None, [0.0, 0.0]
        self.began = self.now()

    @staticmethod
    def now():
        return time.perf_counter(), time.process_time()

    def seconds(self):
        """(wall, CPU) since the start, without the pauses."""
        return tuple(a - b - p for a, b, p in zip(self.now(), self.began, self.paused))

    def timed(self, function, phase):
        """`function`, its CPU time counted for `phase`, a name or a function that gives one; not twice if nested."""

        def call(*arguments, **options):
            if self.inside:
                return function(*arguments, **options)
            self.inside, began = phase if isinstance(phase, str) else phase(), time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.phases[self.inside] += time.process_time() - began
                self.inside = None

        return call

    def pause(self, function, *arguments):
        """Call a function that doesn't count."""
        began = self.now()
        result = function(*arguments)
        self.paused = [p + b - a for p, a, b in zip(self.paused, began, self.now())]
        return result


def forward_phase():
    return "forward of the update" if torch.is_grad_enabled() else "scoring and reference"


def gold(prompts, responses):
    return statistics.mean(map(world.gold_score, prompts, responses))


def start(data, device="cpu"):
    """(model, tokenizer, reward model, mean and deviation of its scores at the start)."""
    model, tokenizer = models.load_model(data / "finetuned", device)
    judge, _ = models.load_reward_model(data / "reward", device)
    return model, tokenizer, judge, *scale(model, tokenizer, judge)


def scale(model, tokenizer, judge):
    """Mean and deviation of a reward model's scores of some answers."""
    some = world.prompts("train")[::7]
    scores = reward.score(judge, tokenizer, some, decoding.generate(model, tokenizer, some, seed=0))
    return scores.mean().item(), scores.std().item()


# ---------------------------------------------------------------- the two sides


def ours(settings, seed, parts):
    """Run this repository's loop from what `start` gives: (policy, tokenizer, clock, curve)."""
    model, tokenizer, judge, mean, std = parts
    curve, tokens = [], 0

    def watch(row, batch):
        nonlocal tokens
        seconds = clock.seconds()
        tokens += int(batch["mask"].sum())
        curve.append([tokens, *seconds, clock.pause(gold, batch["prompts"], batch["responses"]), row["kl"]])

    clock = Clock()
    ppo.rollout = clock.timed(ppo.rollout, "rollout")
    ppo.PackedPolicy.read = clock.timed(ppo.PackedPolicy.read, forward_phase)
    torch.Tensor.backward = clock.timed(torch.Tensor.backward, "backward of the update")
    score = clock.timed(lambda p, r: (reward.score(judge, tokenizer, p, r) - mean) / std, "scoring and reference")
    clock.began = clock.now()
    ppo.train(model, tokenizer, score, world.prompts("train"), settings, seed, on_update=watch, frozen=(judge,))
    return model, tokenizer, clock, curve


def trl(settings, seed, parts):
    """Run TRL's PPOTrainer from what `start` gives: (policy, tokenizer, clock, curve)."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    model, tokenizer, judge, mean, std = parts
    reference, device = copy.deepcopy(model), model.device
    head = torch.nn.Linear(judge.score.in_features, 1, device=device)  # the same shift and scale, in the last layer
    with torch.no_grad():
        head.weight.copy_(judge.score.weight / std)
        head.bias.fill_(-mean / std)
    judge.score = head
    value = copy.deepcopy(judge)
    judge.requires_grad_(False)
    tokenizer.padding_side = "left"
    dataset = Dataset.from_list([{"input_ids": models.prompt_ids(tokenizer, p)} for p in world.prompts("train")])
    config = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        seed=seed,
        use_cpu=device.type == "cpu",
        gradient_checkpointing=False,
        bf16=device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False),
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        num_sample_generations=0,
        logging_steps=10**6,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=1,
        total_episodes=settings.updates * settings.batch_size,
        num_ppo_epochs=settings.epochs,
        num_mini_batches=settings.minibatches,
        local_rollout_forward_batch_size=settings.batch_size,
        response_length=settings.max_new_tokens,
        stop_token="eos",
        temperature=1.0,
        missing_eos_penalty=settings.no_end_penalty,
        learning_rate=settings.lr,
        lr_scheduler_type="linear",
        warmup_steps=0,
        adam_beta1=0.9,
        adam_beta2=0.95,
        adam_epsilon=1e-5,
        weight_decay=0.0,
        kl_coef=settings.beta,
        kl_estimator="k1",
        gamma=settings.gamma,
        lam=settings.lam,
        cliprange=settings.clip,
        cliprange_value=settings.value_clip,
        vf_coef=settings.value_coef,
    )
    clock, curve, tokens, last = Clock(), [], 0, []

    def generate(policy, queries, *rest):
        out = generation(policy, queries, *rest)
        last[:] = queries, out[0][:, queries.shape[1] :]
        return out

    def texts():
        """(prompts, answers, tokens) of the last batch."""
        queries, answers = last
        ends = (answers == tokenizer.eos_token_id).int()
        real = ends.cumsum(-1) - ends == 0
        said = [tokenizer.decode(a[m], skip_special_tokens=True).strip() for a, m in zip(answers, real)]
        return tokenizer.batch_decode(queries, skip_special_tokens=True), said, int(real.sum())

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **more):
            nonlocal tokens
            seconds = clock.seconds()
            prompts, said, n = clock.pause(texts)
            tokens += n
            curve.append([tokens, *seconds, clock.pause(gold, prompts, said), 0.0])

        def on_log(self, args, state, control, logs, **more):
            kls.append(logs["objective/kl"])

    kls = []
    generation = ppo_trainer.batch_generation
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=model,
        ref_model=reference,
        reward_model=judge,
        value_model=value,
        train_dataset=dataset,
        eval_dataset=dataset,
        callbacks=[Watch()],
    )
    ppo_trainer.batch_generation = clock.timed(generate, "rollout")
    ppo_trainer.get_reward = clock.timed(ppo_trainer.get_reward, "scoring and reference")
    ppo_trainer.forward = clock.timed(ppo_trainer.forward, forward_phase)
    torch.Tensor.backward = clock.timed(torch.Tensor.backward, "backward of the update")
    ppo_trainer.gc = SimpleNamespace(collect=clock.timed(gc.collect, "garbage collection"))
    clock.began = clock.now()
    trainer.train()
    for row, kl in zip(curve, kls):
        row[-1] = kl
    return model, tokenizer, clock, curve


def one_run(side, settings, seed):
    """A dict with what one run measured."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model, tokenizer, clock, curve = {"ours": ours, "trl": trl}[side](settings, seed, start(ROOT / "data/models"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes on Linux -> GiB
    tokens, wall, cpu = curve[-1][:3]
    clock.phases["rest"] = cpu - sum(clock.phases.values())
    held_out = measures.measured_prompts(SPLIT)
    answers = decoding.generate(model.eval(), tokenizer, held_out, seed=seed)
    return {
        "side": side,
        "seed": seed,
        "tokens": tokens,
        "wall": wall,
        "cpu": cpu,
        "peak_gib": peak,
        "phases_cpu": clock.phases,
        "held_out_gold": gold(held_out, answers),
        "curve": [dict(zip(("tokens", "wall", "cpu", "gold", "kl"), row)) for row in curve],
    }


# ---------------------------------------------------------------- the tables


def smooth(curve, k=3):
    """The curve with the gold score of each batch replaced by the mean over it and the k - 1 before."""
    return [
        row | {"gold": statistics.mean(r["gold"] for r in curve[max(0, i + 1 - k) : i + 1])}
        for i, row in enumerate(curve)
        if i + 1 >= min(k, len(curve))
    ]


def gold_at(run, tokens):
    """Gold score (mean of three batches) when `tokens` had been generated."""
    return next((r["gold"] for r in smooth(run["curve"]) if r["tokens"] >= tokens), smooth(run["curve"])[-1]["gold"])


def reaches(run, level):
    """CPU seconds until the gold score (mean of three batches) is at `level`; None if it never is."""
    return next((r["cpu"] for r in smooth(run["curve"]) if r["gold"] >= level), None)


def working(run):
    """CPU seconds of a run without garbage collection."""
    return run["cpu"] - run["phases_cpu"]["garbage collection"]


def summary(runs):
    """What the tables say: rates, ratios of the pairs, gold, time to gold, phases."""
    sides = {s: [r for r in runs if r["side"] == s] for s in ("ours", "trl")}
    median = {
        s: {
            "tokens_per_second": statistics.median(r["tokens"] / r["wall"] for r in rs),
            "tokens_per_cpu_second": statistics.median(r["tokens"] / r["cpu"] for r in rs),
            "peak_gib": statistics.median(r["peak_gib"] for r in rs),
            "held_out_gold": statistics.mean(r["held_out_gold"] for r in rs),
            "phases_cpu": {p: statistics.median(r["phases_cpu"][p] / len(r["curve"]) for r in rs) for p in PHASES},
        }
        for s, rs in sides.items()
    }
    pairs = list(zip(sides["ours"], sides["trl"], strict=True))
    common = min(r["tokens"] for r in runs)
    level = min(max(r["gold"] for r in smooth(run["curve"])) for run in runs)
    return {
        "median": median,
        "common_tokens": common,
        "level": level,
        "ratio": statistics.median(a["tokens"] / a["wall"] / (b["tokens"] / b["wall"]) for a, b in pairs),
        "cpu_ratio": statistics.median(a["tokens"] / a["cpu"] / (b["tokens"] / b["cpu"]) for a, b in pairs),
        "cpu_ratio_without_gc": statistics.median(
            a["tokens"] / working(a) / (b["tokens"] / working(b)) for a, b in pairs
        ),
        "gold_at_common": {s: statistics.mean(gold_at(r, common) for r in rs) for s, rs in sides.items()},
        "cpu_to_level": {s: statistics.median(reaches(r, level) for r in rs) for s, rs in sides.items()},
    }


def markdown(result):
    """What docs/results.md shows of ppo_trl.json."""
    s, settings = result["summary"], result["settings"]
    a, b = s["median"]["ours"], s["median"]["trl"]
    rows = [
        ("generated tokens per second", "tokens_per_second", "{:.0f}", s["ratio"]),
        ("generated tokens per CPU second", "tokens_per_cpu_second", "{:.0f}", s["cpu_ratio"]),
        ("gold score after the run", "held_out_gold", "{:.2f}", None),
        ("peak memory (GiB)", "peak_gib", "{:.2f}", None),
    ]
    lines = ["| | this loop | PPOTrainer | ratio |", "|---|---|---|---|"]
    for name, key, form, ratio in rows:
        lines.append(f"| {name} | {form.format(a[key])} | {form.format(b[key])} | {f'{ratio:.2f}' if ratio else ''} |")
    lines.insert(4, f"| the same, garbage collection not counted | | | {s['cpu_ratio_without_gc']:.2f} |")
    g, t = s["gold_at_common"], s["cpu_to_level"]
    lines.append(f"| gold score after {s['common_tokens']:,} generated tokens | {g['ours']:.2f} | {g['trl']:.2f} | |")
    lines.append(
        f"| CPU seconds to a gold score of {s['level']:.2f} | {t['ours']:.0f} | {t['trl']:.0f} | "
        f"{t['trl'] / t['ours']:.2f} |"
    )
    lines += ["", "CPU seconds per update:", "", "| | this loop | PPOTrainer |", "|---|---|---|"]
    lines += [f"| {p} | {a['phases_cpu'][p]:.2f} | {b['phases_cpu'][p]:.2f} |" for p in PHASES]
    made = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    return (
        f"PPO on one CPU thread, {made}. {settings['updates']} updates of {settings['batch_size']} answers of at "
        f"most {settings['max_new_tokens']} tokens, {settings['epochs']} epochs of {settings['minibatches']} "
        f"minibatches; {result['repeats']} runs of each side, alternating. Ratios are medians over the pairs of "
        "runs; where the machine is shared, the CPU seconds are the surer measure.\n\n"
        + "\n".join(lines)
        + "\n\nGold scores along a run are means of three batches.\n\n"
        + DIFFERENCES
    )


def main():
    parser = argparse.ArgumentParser(description="PPO against TRL's PPOTrainer.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--side", choices=("ours", "trl"), help="one run of one side, its numbers on the last line")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    settings = ppo.Settings(**vars(SETTINGS) | {"updates": arguments.updates})
    if arguments.side:
        print(json.dumps(one_run(arguments.side, settings, arguments.seed)))
        return
    runs = []
    for seed in range(arguments.repeats):
        for side in ("ours", "trl"):
            command = [
                sys.executable,
                __file__,
                "--side",
                side,
                "--seed",
                str(seed),
                "--updates",
                str(arguments.updates),
            ]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            )
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(
                side,
                seed,
                f"{runs[-1]['tokens'] / runs[-1]['wall']:.0f} tokens/s,",
                f"{runs[-1]['tokens'] / runs[-1]['cpu']:.0f} per CPU second",
                flush=True,
            )
    made = versions() | {"trl": importlib.metadata.version("trl")}
    result = {
        "versions": made,
        "data": built("finetuned", "reward"),
        "threads": 1,
        "settings": vars(settings),
        "split": SPLIT,
        "repeats": arguments.repeats,
        "summary": summary(runs),
        "runs": runs,
    }
    write_json(RESULTS / "ppo_trl.json", result)
    print(markdown(result))


if __name__ == "__main__":
    main()
