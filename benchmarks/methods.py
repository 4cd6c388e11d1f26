"""Best-of-n, RLOO, DPO and PPO at equal numbers of sampled answers, over several seeds: `python benchmarks/methods.py`.

All start from data/models/finetuned and see the same reward (data/models/reward, scaled as in chapter 05); the gold
judge only measures.  Every method may sample as many answers as PPO does: RLOO in as many updates, DPO in pairs that
the reward compares, best-of-n shared out over the test prompts.  The table says how many tokens that were.
Writes methods.json (all numbers) to results/; `make stamp` takes its tables to docs/results.md.
"""

import argparse
import copy
import dataclasses
import statistics
import time
from pathlib import Path

import torch

from rlhf_helpers import world
from rlhf_helpers.desk import recipe
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, WorkbookError, versions, write_json
from rlhf_helpers.engine.models import response_ids
from rlhf_helpers.lesson import alternatives, ppo, reward
from rlhf_helpers.lesson.decoding import generate
from rlhf_helpers.make.stamp import interval
from rlhf_helpers.world import measures

RESULTS = Path(__file__).resolve().parent / "results"
METHODS = ("fine-tuned", "best-of-n", "DPO", "RLOO", "PPO")
RLOO = {"lr": 1e-3}  # one step per rollout, where PPO takes eight
DPO = {"lr": 3e-4, "beta": 0.1, "epochs": 2}
SPLIT = "test"  # of the prompts that all of this is measured on


def one_seed(seed, settings):
    """All methods with one seed: {method: {"answers" (to the test prompts), "tokens", "seconds", "gold"}}."""
    start, tokenizer = models.load_model(ROOT / "data/models/finetuned")
    judge, _ = models.load_reward_model(ROOT / "data/models/reward")
    asked, held_out = world.prompts("train"), world.prompts(SPLIT)
    score = ppo.normalized_reward(
        lambda p, r: reward.score(judge, tokenizer, p, r), asked, generate(start, tokenizer, asked, seed=seed)
    )
    sampled, results, tokens = settings.updates * settings.batch_size, {}, []

    def finish(name, began, spoken, answers):
        results[name] = {
            "answers": answers,
            "tokens": spoken,
            "seconds": time.time() - began,
            "gold": measures.quality(held_out, answers)["gold"],
        }
        print(f"seed {seed}  {name:10}  gold {results[name]['gold']:+.3f}  tokens {spoken}", flush=True)

    def counted(prompts, answers):  # the reward sees every answer that is sampled
        tokens.append(sum(len(response_ids(tokenizer, a)) for a in answers))
        return score(prompts, answers)

    began = time.time()
    finish("fine-tuned", began, 0, generate(start, tokenizer, held_out, seed=seed + 1))

    tokens.clear()
    began, n = time.time(), max(1, round(sampled / len(held_out)))
    best = alternatives.best_of_n(start, tokenizer, counted, held_out, n, seed=seed)
    finish("best-of-n", began, sum(tokens), best)
    results["best-of-n"]["n"] = n

    tokens.clear()
    began, policy = time.time(), copy.deepcopy(start)
    order = torch.randperm(sampled // 2, generator=torch.Generator().manual_seed(seed)).tolist()
    rows = alternatives.judged_pairs(start, tokenizer, counted, [asked[i % len(asked)] for i in order], seed=seed)
    alternatives.dpo(policy, tokenizer, rows, seed=seed, **DPO)
    finish("DPO", began, sum(tokens), generate(policy, tokenizer, held_out, seed=seed))

    began, policy = time.time(), copy.deepcopy(start)
    history = alternatives.rloo(policy, tokenizer, score, asked, dataclasses.replace(settings, **RLOO), seed)
    finish("RLOO", began, sum(r["tokens"] for r in history), generate(policy, tokenizer, held_out, seed=seed))

    began, policy = time.time(), copy.deepcopy(start)
    history, _ = ppo.train(policy, tokenizer, score, asked, settings, seed, frozen=(judge,))
    spoken = round(sum(r["length"] for r in history) * settings.batch_size)
    finish("PPO", began, spoken, generate(policy, tokenizer, held_out, seed=seed))
    return results


def tables(seeds):
    """Markdown: what each method reached, and how often the row's answer beats the column's."""
    prompts = world.prompts(SPLIT)
    lines = ["| method | gold score | 95 % interval | tokens sampled | seconds |", "|---|---|---|---|---|"]
    for name in METHODS:
        mean, low, high = interval([s[name]["gold"] for s in seeds])
        tokens, seconds = (statistics.mean(s[name][k] for s in seeds) for k in ("tokens", "seconds"))
        lines.append(f"| {name} | {mean:.3f} | {low:.3f} to {high:.3f} | {tokens:,.0f} | {seconds:.0f} |")
    lines += ["", "| row beats column | " + " | ".join(METHODS) + " |", "|---" * (len(METHODS) + 1) + "|"]
    for row in METHODS:
        cells = []
        for column in METHODS:
            rates = [measures.win_rate(prompts, s[row]["answers"], s[column]["answers"]) for s in seeds]
            mean, low, high = interval(rates)
            unsure = " inconclusive" if low <= 0.5 <= high else ""
            spread = f"{max(low, 0):.0%} to {min(high, 1):.0%}"
            cells.append("" if row == column else f"{mean:.0%} ({spread}){unsure}")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def markdown(result):
    """What docs/results.md shows of methods.json."""
    seeds, settings, prompts = result["seeds"], result["settings"], len(world.prompts(SPLIT))
    if len(seeds[0]["PPO"]["answers"]) != prompts:
        raise WorkbookError("methods.json was measured on other prompts: run benchmarks/methods.py again")
    return (
        f"{len(seeds)} seeds; {settings['updates'] * settings['batch_size']:,} sampled answers for each method, that "
        f"is {settings['updates']} updates of PPO; {prompts} prompts.\n\n" + tables(seeds)
    )


def main():
    parser = argparse.ArgumentParser(description="Best-of-n, RLOO, DPO and PPO at equal numbers of sampled answers.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=recipe.PPO.updates)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder to write to")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = dataclasses.replace(recipe.PPO, updates=options.updates)
    seeds = [one_seed(seed, settings) for seed in range(options.seeds)]
    made = {"versions": versions(), "split": SPLIT, "settings": vars(settings)}
    result = made | {"RLOO": RLOO, "DPO": DPO, "seeds": seeds}
    write_json(options.out / "methods.json", result)
    print(markdown(result))


if __name__ == "__main__":
    main()
