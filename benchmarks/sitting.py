"""Chapter 00 on ten tastes that chose nothing in it: `python benchmarks/sitting.py --seeds 0 1 2 3 4`.

The functions and the dials are the chapter's own: its cells are executed here.  A simulated annotator of each taste,
who gets a tenth of the choices wrong, labels 24 pairs; a reward model and policy gradient follow, then the blind test
of 12 comparisons and the gate; then a second round, in which the reward model learns from all 48.  Measured on all
test prompts, one sampled answer each: how often the candidate of a round beats the *start* by the taste itself, ties
split, and the same for the model that is in use after the gate.  Runs are added to results/sitting.json one by one.

The dials were chosen on the tastes of `TUNING` and dev prompts (--split dev; that saves nothing).
"""

import argparse
import copy
import random
import statistics
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import torch
from tastes import few_e, greets, kind_end, names_once, short

from rlhf_helpers import world
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, versions, write_json
from rlhf_helpers.lesson import loop
from rlhf_helpers.lesson.pairs import simulated_feedback
from rlhf_helpers.make.stamp import begun
from rlhf_helpers.world import annotators, measures

RESULTS = Path(__file__).resolve().parent / "results" / "sitting.json"
CELLS = "answer", "pairs", "read", "learn", "sides", "logprob", "policy-gradient", "ship"


def chatty(prompt, answer):
    """The more different sentences, the better."""
    return float(len(set(world.sentences(answer))))


def right(prompt, answer):
    """Nothing but the truth: 1 right, -1 wrong, 0 neither."""
    return float(world.gold_axes(prompt, answer)["right"])


def full_words(prompt, answer):
    """The longer the words are on average, the better."""
    return len(answer.replace(" ", "")) / max(len(answer.split()), 1)


def filler(prompt, answer):
    """Says something that says nothing, or not."""
    return float(world.gold_axes(prompt, answer)["filler"] > 0)


def exclaims(prompt, answer):
    """Has an exclamation mark, or not."""
    return float("!" in answer)


def polite(prompt, answer):
    """Polite 1, rude -1, neither 0."""
    axes = world.gold_axes(prompt, answer)
    return float(axes["polite"] - axes["rude"])


def right_and_polite(prompt, answer):
    """`right` and `polite` together."""
    return right(prompt, answer) + polite(prompt, answer)


WORDS = {f.__name__: f for f in (short, greets, kind_end, few_e, names_once, chatty, annotators.warm)}
FACTS = {"right": right, "helpful": annotators.TASTES["helpful"], "terse": annotators.terse}
TUNING = {f.__name__: f for f in (full_words, filler, exclaims, polite, right_and_polite)}


def chapter(seed, model, tokenizer):
    """What the definition cells of chapter 00 make, and its dials, for one seed."""
    (path,) = (ROOT / "notebooks").glob("00_*.ipynb")
    cells = {c.id: c.source for c in nbformat.read(path, 4).cells}
    ws = SimpleNamespace(seed=seed, device=torch.device("cpu"), fast=False, general=False, own_model=False)
    reader, _ = models.load_reward_model(ROOT / "data/models/reward_start")
    given = {"start": model, "reader": reader, "tokenizer": tokenizer, "train": world.prompts("train")}
    scope = {"ws": ws, "at_most": lambda what, n: n, **given}
    for name in ("setup", *CELLS, "train"):
        source = cells[name].partition("ws =")[0].partition("policy =")[0]  # only the imports, and only the dials
        exec(compile(source, f"00:{name}", "exec"), scope)
    return SimpleNamespace(**scope)


def one_round(c, taste, labels, model, number, prompts):
    """(candidate, what came of it); the candidate is judged blind against `model`, as in the chapter."""
    began = time.process_time()
    head, _ = c.learn(*c.sides(labels))
    policy = copy.deepcopy(model)
    c.policy_gradient(policy, c.scorer(head), c.UPDATES, c.BETA, c.LR, c.ws.seed + number)
    seconds = time.process_time() - began
    fresh = random.Random(c.ws.seed + number).sample(prompts, 128)
    after, before = (c.answer(m, fresh, c.ws.seed + k) for m, k in ((policy, 12), (model, 11)))
    pairs = [x for x in list(zip(fresh, after, before))[6:] if x[1] != x[2]][:12]
    judge = annotators.Annotator(taste, noise=0.1, seed=c.ws.seed + 50)
    blind = loop.blind_test(*zip(*pairs), judge, c.ws.seed)
    ours, kl, ended = loop.sample_answers(policy, c.start, c.tokenizer, prompts, seed=c.ws.seed + 10)
    shipped, why = c.ship_it(blind, kl, ended)
    theirs, _, _ = loop.sample_answers(c.start, c.start, c.tokenizer, prompts, seed=c.ws.seed + 11)
    best = max(taste(p, a) for p, a in zip(prompts, theirs))
    return policy, {
        "win": measures.win_rate(prompts, ours, theirs, taste),
        "ceiling": statistics.mean(1 - (taste(p, a) == best) / 2 for p, a in zip(prompts, theirs)),
        **{"kl": kl, "ended": ended, "words": loop.words(ours), "seconds": seconds, "shipped": shipped, "why": why},
        "ties": sum(x["choice"] == "tie" for x in labels),
    }


def one_run(name, taste, seed, split):
    """Both rounds of one taste and seed."""
    model, tokenizer = models.load_model(ROOT / "data/models/finetuned")
    c, labels, in_use, win_in_use = chapter(seed, model, tokenizer), [], model, 0.5
    row, annotator = {"taste": name, "seed": seed}, annotators.Annotator(taste, noise=0.1, seed=seed)
    for number in (1, 2):
        pairs = c.pairs_from([model, in_use], 24, seed + 1000 * number, f"round {number}, pair")
        labels += simulated_feedback(pairs, annotator, seed + number)
        policy, numbers = one_round(c, taste, labels, in_use, number, world.prompts(split))
        if numbers["shipped"]:
            in_use, win_in_use = policy, numbers["win"]
        row |= {f"{k}_{24 * number}": v for k, v in {**numbers, "in_use": win_in_use}.items()}
    return row


def markdown(result):
    """What docs/results.md shows: one row for each taste, and the means of the two kinds."""
    columns = [f"{k}_{n}" for n in (24, 48) for k in ("win", "in_use", "shipped")] + ["ceiling_48", "kl_48", "ties_48"]
    heads = [c.replace("_", " ").replace(" 24", ", 24").replace(" 48", ", 48") for c in columns]
    lines = [f"| taste | seeds | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]

    def line(name, some):
        means = (statistics.mean(float(r[k]) for r in some) for k in columns)
        lines.append(f"| {name} | {len({r['seed'] for r in some})} | {' | '.join(f'{m:.2f}' for m in means)} |")

    for kind, tastes in (("words can show", WORDS), ("facts decide", FACTS)):
        runs = [r for r in result["runs"] if r["taste"] in tastes]
        for taste in dict.fromkeys(r["taste"] for r in runs):
            line(taste, [r for r in runs if r["taste"] == taste])
        if runs:
            line(f"**mean, where {kind}**", runs)
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tastes", nargs="+", choices=WORDS | FACTS | TUNING, default=list(WORDS | FACTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = begun(RESULTS, "finetuned", "reward_start")
    runs = kept.get("runs", []) if options.split == "test" else []
    for seed in options.seeds:
        for name in options.tastes:
            if any((r["taste"], r["seed"]) == (name, seed) for r in runs):
                continue
            runs.append(one_run(name, (WORDS | FACTS | TUNING)[name], seed, options.split))
            print(runs[-1], flush=True)
            if options.split == "test":
                made = {"versions": versions(), "data": kept["data"], "split": "test", "noise": 0.1}
                write_json(RESULTS, made | {"runs": runs})
    print(markdown({"runs": runs}))


if __name__ == "__main__":
    main()
