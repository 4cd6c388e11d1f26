"""PPO, RLOO and GRPO at equal cost: `python benchmarks/verifiable.py --sweep`, then without `--sweep`.

All start from data/models/finetuned and sample the same number of answers, trained on in the same passes and
minibatches.  The reward is the verifier (1 where the embedded world says that an answer is right, else 0), or, with
`--reward judge`, data/models/reward, scaled as in chapter 05.  The sweep chooses each variant's learning rate on dev
questions, with the verifier; with the judge all run at the rate that methods.py chose for PPO on dev questions, which
is also the one that the sweep chose for groups.  All are then measured on test questions, several seeds.  Writes
verifiable.json or verifiable_judge.json after every run, so that an interrupted benchmark goes on.
"""

import argparse
import copy
import dataclasses
import itertools
import statistics
import time
from pathlib import Path

import torch

from rlhf_helpers import world
from rlhf_helpers.desk import recipe
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, WorkbookError, versions, write_json
from rlhf_helpers.lesson import alternatives, ppo, reward
from rlhf_helpers.lesson.decoding import generate
from rlhf_helpers.lesson.loop import sample_answers
from rlhf_helpers.make.stamp import begun, interval, with_interval
from rlhf_helpers.world import measures

RESULTS = Path(__file__).resolve().parent / "results"
UPDATES, ANSWERS, K = 20, 8, 16  # updates of 96 answers; answers in a group; answers to each question when measured
RATES = (1e-4, 2e-4, 4e-4, 8e-4)  # learning rates that are tried
JUDGE_RATE = 2e-4
NO_CLIP = 1e9
GROUPS = {"RLOO": alternatives.grouped, "GRPO": alternatives.grpo}
PPO = {"PPO, λ 0.95": (0.95, 0.2), "PPO, λ 1": (1.0, 0.2), "PPO, λ 0.95, no clip": (0.95, NO_CLIP)}
VARIANTS = {"verifier": ["PPO, λ 0.95", *GROUPS], "judge": [*PPO, *GROUPS]}
MARGIN = {"right": 0.02, "pass": 0.02, "gold": 0.1}  # what would be worth a word: shares, and points of gold


# ---------------------------------------------------------------- one run


def verify(prompts, answers):
    """1 for each right answer, 0 for the others: (answers,)."""
    return torch.tensor([float(world.gold_axes(p, a)["right"] == 1) for p, a in zip(prompts, answers)])


def trained(kind, variant, rate, seed, updates):
    """(policy, history) of one run; kind: the reward, "verifier" or "judge"."""
    start, tokenizer = models.load_model(ROOT / "data/models/finetuned")
    asked, frozen, score = world.prompts("train"), (), verify
    if kind == "judge":
        judge, _ = models.load_reward_model(ROOT / "data/models/reward")
        base, frozen = generate(start, tokenizer, asked, seed=seed), (judge,)
        score = ppo.normalized_reward(lambda p, r: reward.score(judge, tokenizer, p, r), asked, base)
    lam, clip = PPO.get(variant, (1.0, 0.2))
    now = dataclasses.replace(recipe.PPO, updates=updates, lr=rate, lam=lam, clip=clip)
    policy, how = copy.deepcopy(start), {"frozen": frozen}
    if variant in GROUPS:
        history, _ = GROUPS[variant](policy, tokenizer, score, asked, now, seed, answers=ANSWERS, **how)
    else:
        history, _ = ppo.train(policy, tokenizer, score, asked, now, seed, **how)
    return policy, history


def words(answers):
    """Mean number of words; None of no answers."""
    return statistics.mean(len(a.split()) for a in answers) if answers else None


def measured(policy, seed, split, kind):
    """What K answers (2 for the judge) to each question are like: right, pass@K, gold, words of right and wrong."""
    start, tokenizer = models.load_model(ROOT / "data/models/finetuned")
    k, asked = (K, world.prompts(split)[::3]) if kind == "verifier" else (2, world.prompts(split))
    said = generate(policy or start, tokenizer, asked * k, seed=seed)
    right = verify(asked * k, said).view(k, -1)
    sides = {side: [a for a, r in zip(said, right.flatten().tolist()) if r == side] for side in (0, 1)}
    passed = statistics.mean(alternatives.pass_at_k(k, int(c), k) for c in right.sum(0).tolist())
    found = {"right": right.mean().item(), "pass": passed, "gold": measures.quality(asked * k, said)["gold"]}
    found |= {"wrong_words": words(sides[0]), "right_words": words(sides[1])}
    _, kl, _ = sample_answers(policy or start, start, tokenizer, asked, seed=seed)
    return found | {"kl": kl}


def one(kind, variant, rate, seed, split, updates=UPDATES):
    """The row of one run; variant "fine-tuned" trains nothing."""
    began, policy, history = time.process_time(), None, []
    if variant != "fine-tuned":
        policy, history = trained(kind, variant, rate, seed, updates)
    seconds = time.process_time() - began
    row = {"method": variant, "lr": rate, "seed": seed, "cpu": round(seconds, 1)}
    if history:
        row["clipped"] = statistics.mean(r["clip_fraction"] for r in history)
    row |= {f"{split}_{k}": v for k, v in measured(policy, seed, split, kind).items()}
    return row | {"minutes": round((time.process_time() - began) / 60, 2)}


def choose(sweep):
    """{variant: the learning rate with the highest share of right answers on dev}."""
    return {
        v: max((r for r in sweep if r["method"] == v), key=lambda r: r["dev_right"])["lr"] for v in VARIANTS["verifier"]
    }


# ---------------------------------------------------------------- what is shown


def column(result, variant, key):
    """One number a seed."""
    return [r[key] for r in result["runs"] if r["method"] == variant]


def gap(result, a, b, key):
    """Variant a less variant b, one number a seed."""
    return [x - y for x, y in zip(column(result, a, key), column(result, b, key), strict=True)]


def above(values, bound):
    """Whether a claim that the values lie above a bound holds, by their 95% interval."""
    _, low, high = interval(values)
    return "holds" if low > bound else "fails" if high < bound else "inconclusive"


def both(*verdicts):
    """The verdict on several claims at once: it holds if each does and fails if one does."""
    return "fails" if "fails" in verdicts else "holds" if set(verdicts) == {"holds"} else "inconclusive"


def within(values, margin):
    """Whether a claim that there is no difference worth a word holds: the interval lies within the margin."""
    return both(above(values, -margin), above([-v for v in values], -margin))


def claims(result):
    """(paper, claim, figure in words, verdict) of each claim that the file can speak to."""
    if result["reward"] == "verifier":
        start = "fine-tuned"
        group = gap(result, "GRPO", "PPO, λ 0.95", "test_right")
        longer = gap(result, "GRPO", "RLOO", "test_wrong_words")
        one, many = (gap(result, "GRPO", start, f"test_{k}") for k in ("right", "pass"))
        room = 1 - statistics.mean(column(result, start, "test_pass"))
        sharpens = both(above(one, 0), above([-x for x in many], -MARGIN["pass"]))
        yield (
            "Shao et al. 2024",
            f"with a verifier, GRPO needs no value head: right answers no more than {MARGIN['right']:g} below PPO's",
            f"GRPO less PPO {with_interval(group, '+.3f')}",
            above(group, -MARGIN["right"]),
        )
        yield (
            "Liu et al. 2025",
            "dividing by each answer's length makes wrong answers longer than the unbiased mean does",
            f"words of wrong answers, GRPO less RLOO {with_interval(longer, '+.2f')}",
            above(longer, 0),
        )
        yield (
            "Yue et al. 2025",
            f"training sharpens: pass@1 rises, pass@{K} by no more than {MARGIN['pass']:g}",
            f"pass@1 {with_interval(one, '+.3f')}, pass@{K} {with_interval(many, '+.3f')}, of {room:.3f} to gain",
            "inconclusive" if sharpens == "holds" and room < MARGIN["pass"] else sharpens,  # there was no room to rise
        )
        return
    base = "PPO, λ 0.95"
    against, lam = (gap(result, a, base, "test_gold") for a in ("RLOO", "PPO, λ 1"))
    free = gap(result, f"{base}, no clip", base, "test_gold")
    clipped = statistics.mean(column(result, base, "clipped"))
    yield (
        "Ahmadian et al. 2024",
        f"RLOO is no worse than PPO at equal cost, by {MARGIN['gold']:g} points of gold",
        f"RLOO less PPO {with_interval(against, '+.2f')}",
        above(against, -MARGIN["gold"]),
    )
    yield ("Ahmadian et al. 2024", "λ = 1 is better than λ = 0.95", f"gold {with_interval(lam, '+.2f')}", above(lam, 0))
    yield (
        "Ahmadian et al. 2024",
        f"the clip hardly matters: within {MARGIN['gold']:g} points without it",
        f"no clip less clip {with_interval(free, '+.2f')}; {clipped:.1%} of tokens are clipped",
        within(free, MARGIN["gold"]),
    )


def command(result):
    return "`benchmarks/verifiable.py" + " --reward judge" * (result["reward"] == "judge") + "`"


def reproduced(result):
    """Rows of docs/reproductions.md."""
    minutes = sum(r["minutes"] for r in result["runs"])
    for claim in claims(result):
        yield f"| {' | '.join(claim)} | {command(result)} | {minutes:.0f} |"


def markdown(result):
    """The table of the seeds."""
    key = "pass" if result["reward"] == "verifier" else "gold"
    head = ["method", "learning rate", "right", f"pass@{K}" if key == "pass" else "gold", "words, wrong", "KL (nats)"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for variant in dict.fromkeys(r["method"] for r in result["runs"]):
        cells = [with_interval(column(result, variant, f"test_{k}"), ".3f") for k in ("right", key)]
        cells += [with_interval(column(result, variant, f"test_{k}"), ".2f") for k in ("wrong_words", "kl")]
        rate = result["chosen"].get(variant)
        lines.append("| " + " | ".join([variant, f"{rate:g}" if rate else "–", *cells]) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description="PPO, RLOO and GRPO at equal cost.")
    parser.add_argument("--reward", choices=tuple(VARIANTS), default="verifier")
    parser.add_argument(
        "--sweep", action="store_true", help="choose the learning rates, on dev questions, by the verifier"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder to write to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kind = options.reward
    path = options.out / ("verifiable.json" if kind == "verifier" else f"verifiable_{kind}.json")
    result = {"sweep": [], "chosen": {}, "runs": []} | begun(path, "finetuned", *["reward"] * (kind == "judge"))
    result |= {"reward": kind, "split": "test", "versions": versions(), "updates": UPDATES, "answers": ANSWERS}
    if kind == "judge":
        result["chosen"] = dict.fromkeys(VARIANTS[kind], JUDGE_RATE)
    elif not options.sweep and not result["chosen"]:
        raise WorkbookError("There are no learning rates yet: run benchmarks/verifiable.py --sweep first.")

    def measure(part, variant, rate, seed, split):
        if not [r for r in result[part] if (r["method"], r["lr"], r["seed"]) == (variant, rate, seed)]:
            result[part].append(one(kind, variant, rate, seed, split))
            write_json(path, result)
            print(result[part][-1], flush=True)

    if options.sweep:
        for variant, rate in itertools.product(VARIANTS["verifier"], RATES):
            measure("sweep", variant, rate, 0, "dev")
        result["chosen"] = choose(result["sweep"])
        write_json(path, result)
        return
    for seed in range(options.seeds):
        for variant in [*["fine-tuned"] * (kind == "verifier"), *VARIANTS[kind]]:
            measure("runs", variant, result["chosen"].get(variant), seed, "test")
    print(markdown(result), *reproduced(result), sep="\n")


if __name__ == "__main__":
    main()
