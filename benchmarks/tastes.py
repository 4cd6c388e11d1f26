"""The closed loop on any taste: `python benchmarks/tastes.py --tastes greets short --seeds 0 1 2`.

Each run starts from data/models/finetuned: 64 labels of a simulated annotator (10% flipped, a tie where its taste
says so), a reward model, PPO, and the win rate by the taste itself, ties split, on all test prompts, one sampled
answer each.  The gold judge is asked by the tastes that are made of it, and by no other.  Results are added to
tastes.json run by run, in place of earlier ones of the same taste and seed; `--missing` goes on after an
interruption.  A file that belongs to other models is begun anew.  `make stamp` takes the table to docs/results.md.

With --clean there is no PPO: a reward model learns from 64 labels without flips or doubt, and tastes_clean.json says
what share of 2,000 pairs of test prompts it orders as the taste does, those left out that the taste finds equal.
"""

import argparse
import statistics
import time
from functools import cache
from pathlib import Path

import torch

from rlhf_helpers import world
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, versions, write_json
from rlhf_helpers.lesson import loop
from rlhf_helpers.lesson.pairs import make_pairs
from rlhf_helpers.make.stamp import begun, built
from rlhf_helpers.world import annotators, measures
from rlhf_helpers.world.annotators import Annotator

RESULTS = Path(__file__).resolve().parent / "results"
MODELS = "finetuned", "reward_start"
SPLIT = "test"  # of the prompts that all of this is measured on
COLUMNS = ("win_rate", "ceiling", "kl", "ties", "ended", "empty", "words", "seconds")


def short(prompt, answer):
    """The fewer words, the better."""
    return -float(len(answer.split()))


def greets(prompt, answer):
    """Opens with a greeting, or not."""
    return float(answer.startswith(world.GREETINGS))


def names(prompt, answer):
    """How often the answer names the thing asked about."""
    return float(answer.lower().count(world.question_by_prompt()[prompt].entity.lower()))


def names_once(prompt, answer):
    """Names the thing asked about, or not."""
    return float(names(prompt, answer) > 0)


def few_e(prompt, answer):
    """The fewer letters e, the better."""
    return -float(answer.lower().count("e"))


def kind_end(prompt, answer):
    """Ends with a kind word, or not."""
    return float(answer.endswith(world.KIND_CLOSERS))


TASTES = {f.__name__: f for f in (short, greets, names, names_once, few_e, kind_end)} | annotators.TASTES


def one_run(taste, seed, updates=None, split=SPLIT):
    """One round from the fine-tuned model, measured on the prompts of `split`: a dict of what came of it."""
    folder, function = ROOT / "data/models", TASTES[taste]
    model, tokenizer = models.load_model(folder / "finetuned")
    start, _ = models.load_reward_model(folder / "reward_start")
    annotator = Annotator(function, noise=0.1, seed=seed)
    settings, held_out = loop.RoundSettings(), world.prompts(split)
    settings.ppo.updates = updates or settings.ppo.updates
    asked, gated = world.prompts("train"), world.prompts("dev")  # the gate of the round chooses, so it sees no test
    candidate, report = loop.one_round(model, tokenizer, asked, gated, annotator, settings, seed, reward_model=start)
    began = time.time()
    ours, _, _ = loop.sample_answers(candidate, model, tokenizer, held_out, seed=seed + 10)
    theirs, _, _ = loop.sample_answers(model, model, tokenizer, held_out, seed=seed + 11)
    best = max(function(p, r) for p, r in zip(held_out, theirs))
    return {
        "taste": taste,
        "seed": seed,
        "win_rate": measures.win_rate(held_out, ours, theirs, function),
        "ceiling": statistics.mean(1 - (function(p, r) == best) / 2 for p, r in zip(held_out, theirs)),
        **{k: report[k] for k in ("kl", "ties", "ended", "empty", "words", "words_before", "seconds")},
        "promoted": loop.gate(report)[0],
        "blind": report["blind"]["win_rate"],
        "measuring": time.time() - began,
        "examples": list(zip(held_out, theirs, ours))[::62],
    }


def table(runs):
    """One row for each taste."""
    lines = [
        "| taste | seeds | win rate, mean | least | most | ceiling | KL (nats) | ties of 64 | words | seconds | "
        "promoted |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for taste in dict.fromkeys(r["taste"] for r in runs):
        some = [r for r in runs if r["taste"] == taste]
        mean = {k: statistics.mean(r[k] for r in some) for k in COLUMNS}
        wins = [r["win_rate"] for r in some]
        lines.append(
            f"| {taste} | {len(some)} | {mean['win_rate']:.3f} | {min(wins):.3f} | {max(wins):.3f} | "
            f"{mean['ceiling']:.3f} | {mean['kl']:.2f} | {mean['ties']:.1f} | {mean['words']:.1f} | "
            f"{mean['seconds']:.0f} | {sum(r['promoted'] for r in some)} |"
        )
    return "\n".join(lines) + (
        "\n\nThe ceiling is what a model would win that always gave the answer that this taste "
        "likes best of all that were sampled: ties with answers that are as good are split.\n"
    )


@cache
def scene():
    """(model, tokenizer, start of the reward model, both sides of 2,000 pairs: prompts and answers)."""
    model, tokenizer = models.load_model(ROOT / "data/models/finetuned")
    start, _ = models.load_reward_model(ROOT / "data/models/reward_start")
    pairs = make_pairs(model, tokenizer, world.prompts(SPLIT), 2000, 7, world.families())
    sides = [([p["prompt"] for p in pairs], [p[f"response_{side}"] for p in pairs]) for side in "ab"]
    return model, tokenizer, start, sides


def orders(taste, seeds):
    """How well a reward model of the loop orders new pairs after clean labels of a taste, for each seed."""
    (model, tokenizer, start, sides), function, rows = scene(), TASTES[taste], []
    gaps = torch.tensor([function(p, a) - function(p, b) for p, a, b in zip(*sides[0], sides[1][1])])
    for seed in seeds:
        annotator = Annotator(function, noise=0.0, temperature=1e-6, seed=seed)
        probe, learned = loop.teach(
            model, tokenizer, world.prompts("train"), annotator, loop.RoundSettings(), seed, reward_model=start
        )
        right = ((probe(*sides[0]) > probe(*sides[1])) == (gaps > 0))[gaps.abs() > 1e-9]
        rows.append({"taste": taste, "seed": seed, "orders": right.float().mean().item(), "ties": learned["ties"]})
        print(rows[-1], flush=True)
    return rows


def clean_table(runs):
    """One row for each taste, of `orders`."""
    lines = ["| taste | seeds | ordered rightly, mean | least | ties of 64 |", "|---|---|---|---|---|"]
    for taste in dict.fromkeys(r["taste"] for r in runs):
        right = [r["orders"] for r in runs if r["taste"] == taste]
        ties = statistics.mean(r["ties"] for r in runs if r["taste"] == taste)
        lines.append(f"| {taste} | {len(right)} | {statistics.mean(right):.3f} | {min(right):.3f} | {ties:.1f} |")
    return "\n".join(lines) + "\n"


def markdown(result):
    """What docs/results.md shows of tastes.json, or of tastes_clean.json."""
    return clean_table(result["runs"]) if "orders" in result["runs"][0] else table(result["runs"])


def main():
    parser = argparse.ArgumentParser(description="The closed loop on given tastes.")
    parser.add_argument("--tastes", nargs="+", choices=TASTES, default=["greets", "short", "names"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--updates", type=int, help="of PPO; the default is that of loop.RoundSettings")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default=str(RESULTS / "tastes"), help="where to write, without .json")
    parser.add_argument("--missing", action="store_true", help="only runs that the file does not have yet")
    parser.add_argument("--split", default=SPLIT, help="of the prompts to measure on; settings are chosen on dev")
    parser.add_argument("--clean", action="store_true", help="reward models from clean labels only, no PPO")
    options, runs = parser.parse_args(), []
    torch.set_num_threads(options.threads)
    if options.clean:
        runs = [row for taste in options.tastes for row in orders(taste, options.seeds)]
        made = {"versions": versions(), "data": built(*MODELS), "split": SPLIT, "runs": runs}
        write_json(Path(f"{options.out}_clean.json"), made)
        print(clean_table(runs))
        return
    before = begun(Path(f"{options.out}.json"), *MODELS)
    runs = before["runs"] if before.get("split") == options.split else []
    for seed in options.seeds:
        for taste in options.tastes:
            if options.missing and any((r["taste"], r["seed"]) == (taste, seed) for r in runs):
                continue
            runs = [r for r in runs if (r["taste"], r["seed"]) != (taste, seed)]
            print(f"{taste}, seed {seed}: labels, reward model and PPO, in about a minute ...", flush=True)
            runs.append(one_run(taste, seed, options.updates, options.split))
            print({k: v for k, v in runs[-1].items() if k != "examples"}, flush=True)
            write_json(
                Path(f"{options.out}.json"),
                {
                    "versions": versions(),
                    "data": before["data"],
                    "threads": options.threads,
                    "settings": vars(loop.RoundSettings().ppo),
                    "split": options.split,
                    "runs": runs,
                },
            )
    print(table(runs))


if __name__ == "__main__":
    main()
