"""PPO on a GPU: this loop against TRL's PPOTrainer, side by side.

    python -m venv .venv-trl
    .venv-trl/bin/pip install torch==2.13.0 transformers==5.15.0 trl==1.12.0 datasets==5.2.0 accelerate==1.15.0
    PYTHONPATH=. .venv-trl/bin/python benchmarks/gpu.py

Two models: the embedded one, and one of the shape of Qwen2.5-0.5B with random weights, which never ends an answer by
itself.  Same prompts, batch, epochs and minibatches on both sides, as in ppo_trl.py; each run has a process of its
own, and the sides alternate.  Writes gpu.json (all numbers, with date, card and versions) and gpu.md (the table)
beside this file.
"""

import argparse
import datetime
import importlib.metadata
import json
import statistics
import subprocess
import sys
from pathlib import Path

import ppo_trl
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, Qwen2Config

from rlhf_helpers import models, ppo
from rlhf_helpers.files import ROOT, versions, write_json, write_text

HERE = Path(__file__).resolve().parent
QWEN = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
SMALL = QWEN | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 2000,
}  # to try the script itself, with --device cpu
SHAPES = {"embedded": None, "Qwen2.5-0.5B, random weights": QWEN, "small": SMALL}
PEAK = {
    "H100": (989e12, 3350e9),
    "H200": (989e12, 4800e9),
    "A100": (312e12, 1555e9),
    "L4": (121e12, 300e9),
    "T4": (65e12, 320e9),
}  # FLOP/s in 16 bits and bytes/s of memory, from the makers' data sheets


def parts(name, device):
    """(model, tokenizer, reward model, mean and deviation of its scores) of a shape, on the device."""
    shape = SHAPES[name]
    if shape is None:
        return ppo_trl.start(ROOT / "data/models", device)
    _, tokenizer = models.load_model(ROOT / "data/models/finetuned")
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2Config(**shape, **ends, num_labels=1)
    model = AutoModelForCausalLM.from_config(config).to(device).eval()
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    judge = AutoModelForSequenceClassification.from_config(config).to(device).eval()
    return model, tokenizer, judge, 0.0, 1.0


def ideal_seconds(parameters, tokens, steps, settings, card):
    """Seconds that a card needs at least, after its data sheet: None for a card that is not in PEAK.

    steps: of all rollouts, each of which reads the weights once, in 16 bits.  tokens: generated.  Policy, reference
    and reward model read each token once (2 operations a weight), and each epoch of training takes 6.
    """
    peak = next((v for k, v in PEAK.items() if k in card), None)
    if peak is None:
        return None
    flops, bandwidth = peak
    return steps * 2 * parameters / bandwidth + tokens * parameters * (2 * 4 + 6 * settings.epochs) / flops


def one_run(side, name, device, settings):
    """A dict with what one run measured."""
    device = torch.device(device)
    made = parts(name, device)
    parameters = made[0].num_parameters()
    _, _, clock, curve = {"ours": ppo_trl.ours, "trl": ppo_trl.trl}[side](settings, 0, made)
    warm = curve[1] if len(curve) > 3 else [0, 0.0, 0.0]  # the first two updates also compile and allocate
    tokens, seconds = curve[-1][0] - warm[0], curve[-1][1] - warm[1]
    updates = len(curve) - (2 if len(curve) > 3 else 0)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    ideal = ideal_seconds(parameters, tokens, updates * settings.max_new_tokens, settings, card)
    return {
        "side": side,
        "model": name,
        "device": card,
        "parameters": parameters,
        "tokens": tokens,
        "seconds": seconds,
        "share_of_peak": ideal and ideal / seconds,
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
    }


def table(runs, repeats):
    """The results as Markdown: medians over the runs, and the median ratio of the pairs."""
    lines = [
        "| model | tokens per second, this loop | PPOTrainer | ratio | peak memory (GiB) | share of the peak |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(r["model"] for r in runs):
        a, b = ([r for r in runs if r["model"] == name and r["side"] == side] for side in ("ours", "trl"))
        rate = [[r["tokens"] / r["seconds"] for r in rs] for rs in (a, b)]
        ratio = statistics.median(x / y for x, y in zip(*rate, strict=True))

        def both(key, form):
            found = [[r[key] for r in rs if r[key] is not None] for rs in (a, b)]
            return " and ".join(form.format(statistics.median(v)) if v else "unknown" for v in found)

        speeds = " | ".join(f"{statistics.median(v):,.0f}" for v in rate)
        lines.append(
            f"| {name} | {speeds} | {ratio:.2f} | {both('peak_gib', '{:.1f}')} | {both('share_of_peak', '{:.1%}')} |"
        )
    return "\n".join(lines) + (
        f"\n\n{repeats} runs of each side, alternating; the first two updates of a run don't count.\n"
    )


def main():
    parser = argparse.ArgumentParser(description="PPO on a GPU against TRL's PPOTrainer.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES)[:2])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--out", type=Path, default=HERE, help="the folder to write to")
    parser.add_argument("--side", choices=("ours", "trl"), help="one run of one side, its numbers on the last line")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("This benchmark needs a GPU, and PyTorch sees none. On a CPU, run benchmarks/ppo_trl.py.")
    settings = ppo.Settings(beta=0.05, updates=options.updates, batch_size=options.batch_size)
    if options.side:
        print(json.dumps(one_run(options.side, options.models[0], options.device, settings)))
        return
    runs, sides = [], ("ours", "trl")
    for name, _, side in [(n, i, s) for n in options.models for i in range(options.repeats) for s in sides]:
        command = [
            sys.executable,
            __file__,
            "--side",
            side,
            "--models",
            name,
            "--device",
            options.device,
            "--updates",
            str(options.updates),
            "--batch-size",
            str(options.batch_size),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        print(side, name, f"{runs[-1]['tokens'] / runs[-1]['seconds']:,.0f} tokens/s", flush=True)
    made = versions() | {"trl": importlib.metadata.version("trl")}
    today, text = datetime.date.today().isoformat(), table(runs, options.repeats)
    write_json(options.out / "gpu.json", {"date": today, "versions": made, "settings": vars(settings), "runs": runs})
    head = f"PPO on {runs[0]['device']}, {today}, " + ", ".join(f"{k} {v}" for k, v in made.items())
    head += f". {settings.updates} updates of {settings.batch_size} answers."
    write_text(options.out / "gpu.md", f"{head}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
