"""The claims of two deeper chapters over several seeds: `python benchmarks/deeper.py`.

What dpo.ipynb and kl_and_mismatch.ipynb find in one run is measured again with other seeds, by the functions that their
cells define and with their settings; what the chapters only sum up exactly, or what methods.py measures, is left out.
Writes deeper.json after every run, so that an interrupted benchmark goes on.
"""

import argparse
import ast
import copy
import dataclasses
import math
import os
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from verifiable import above, both

from rlhf_helpers.desk import tasks
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, parse, versions, write_json
from rlhf_helpers.lesson import alternatives, decoding, loop, ppo, replaced, reward
from rlhf_helpers.make.stamp import begun, with_interval

RESULTS = Path(__file__).resolve().parent / "results"
PAIRS, ROUNDS, BETA = 900, 3, 0.2  # as in the chapters, and so are the settings below
DPO = {"lr": 1e-4, "beta": 0.3, "batch_size": 32, "epochs": 3}
UPDATES, SHORT = 20, 8


def chapter(name, scope):
    """The scope with all functions that the cells of a deeper chapter define, without `@drives(...)`."""
    cells = parse((ROOT / "notebooks/deeper" / f"{name}.ipynb").read_bytes())["cells"]
    for cell in cells:
        if cell["cell_type"] != "code" or "exercise" in cell["metadata"].get("tags", []):
            continue
        for node in ast.parse("".join(cell["source"])).body:
            if isinstance(node, ast.FunctionDef):
                node.decorator_list = [d for d in node.decorator_list if not ast.unparse(d).startswith("drives(")]
                exec(compile(ast.Module([node], []), name, "exec"), scope)
    return SimpleNamespace(**scope)


def scene(seed):
    """What both chapters load, under the names that they give it."""
    torch.manual_seed(seed)
    finetuned, tokenizer = models.load_model(ROOT / "data/models/finetuned")
    judge, judge_tokenizer = models.load_reward_model(ROOT / "data/models/reward")
    task = tasks.embedded()
    test = task.prompts("test")
    return {
        **{"copy": copy, "dataclasses": dataclasses, "math": math, "np": np, "os": os, "torch": torch, "F": F},
        **{"decoding": decoding, "loop": loop, "models": models, "ppo": ppo, "reward": reward, "replaced": replaced},
        **{"contextmanager": contextmanager, "masked_mean": ppo.masked_mean, "alternatives": alternatives},
        **{"judged_pairs": alternatives.judged_pairs, "whole_logprobs": alternatives.whole_logprobs},
        **{"finetuned": finetuned, "tokenizer": tokenizer, "judge": judge, "judge_tokenizer": judge_tokenizer},
        **{"task": task, "train_prompts": task.prompts("train"), "test": test, "longest": task.ppo.max_new_tokens},
        "ws": SimpleNamespace(seed=seed, device=torch.device("cpu"), fast=False, own_model=False),
    }


# ---------------------------------------------------------------- dpo.ipynb


def dpo(seed):
    """The figures behind its claims 1, 2 and 4."""
    found = scene(seed)
    test = found["test"]
    c = chapter("dpo", found | {"TRIED": test[:: max(1, len(test) // 140)]})
    order = torch.randperm(PAIRS, generator=torch.Generator().manual_seed(seed)).tolist()
    asked = [c.train_prompts[i % len(c.train_prompts)] for i in order]
    rows, unseen = c.two_each(c.finetuned, asked, seed), c.two_each(c.finetuned, test[:200], seed + 1)
    fixed, fresh = copy.deepcopy(c.finetuned), copy.deepcopy(c.finetuned)
    alternatives.dpo(fixed, c.tokenizer, rows, seed=seed, **DPO)
    for k in range(ROUNDS):
        part = c.two_each(fresh, asked[k::ROUNDS], seed + 10 + k)
        alternatives.dpo(fresh, c.tokenizer, part, reference=c.finetuned, seed=seed, **DPO)
    moved = {
        (where, side): c.likelier(fixed, some, side)
        for where, some in (("train", rows), ("test", unseen))
        for side in ("chosen", "rejected")
    }
    agrees = moved["test", "chosen"] > moved["test", "rejected"]
    gold = {
        name: float(c.gold_of(m).mean()) for name, m in (("start", c.finetuned), ("fixed", fixed), ("fresh", fresh))
    }
    row = {f"{where}_{side}": x.mean().item() for (where, side), x in moved.items()}
    return row | {"agrees": agrees.float().mean().item()} | {f"gold_{k}": v for k, v in gold.items()}


# ---------------------------------------------------------------- kl_and_mismatch.ipynb


def kl(seed):
    """The figures behind its claims 2 and 3; claim 1 is exact."""
    found, runs = scene(seed), {}
    c = chapter("kl_and_mismatch", found | {"runs": runs, "BETA": BETA})
    some = c.train_prompts[::6]
    usual = decoding.generate(c.finetuned, c.tokenizer, some, seed=seed)
    settings = dataclasses.replace(c.task.ppo, updates=UPDATES)
    c = chapter(
        "kl_and_mismatch",
        vars(c)
        | {"score": ppo.normalized_reward(c.raw_score, some, usual), "settings": settings}
        | {"dials": dataclasses.replace(settings, updates=SHORT), "TRIED": c.test[:: max(1, len(c.test) // 200)]},
    )
    c.run("none")
    c.run("k1", k=c.k1)
    c.run("k2", k=c.k2)
    row = {f"kl_{name}": c.distance(r["policy"]).mean().item() for name, r in runs.items()}
    ways = {"fp32": ("fp32", {}), "weights": ("bf16", {}), "no_weights": ("bf16", {"importance": c.ones})}
    for name, (arithmetic, functions) in ways.items():
        row[f"gold_{name}"] = float(c.gold_after(arithmetic, seed, **functions)[0])
    return row


# ---------------------------------------------------------------- what is shown

KINDS = {"dpo": dpo, "kl": kl}


def column(result, kind, key):
    """One number a seed."""
    return [r[key] for r in result["runs"] if r["kind"] == kind]


def less(result, kind, a, b):
    """One column less another, one number a seed."""
    return [x - y for x, y in zip(column(result, kind, a), column(result, kind, b), strict=True)]


def claims(result):
    """(chapter, paper, claim, figure in words, verdict) of each claim for which there are runs."""
    if column(result, "dpo", "seed"):
        chosen, agrees = column(result, "dpo", "train_chosen"), column(result, "dpo", "agrees")
        ahead = less(result, "dpo", "gold_fresh", "gold_fixed")
        yield (
            *("dpo", "Pal et al. 2024", "under DPO the chosen answers, too, become less likely"),
            f"log π − log π_ref of the chosen ones {with_interval(chosen, '+.2f')} nats",
            above([-x for x in chosen], 0),
        )
        yield (
            *("dpo", "Rafailov et al. 2023", "the policy's implicit reward agrees with the judge of its pairs"),
            f"on {with_interval(agrees, '.2f')} of pairs of test questions",
            above(agrees, 0.5),
        )
        yield (
            *("dpo", "Guo et al. 2024", "with as many pairs and steps, fresh pairs lead further than one fixed set"),
            f"gold, fresh less fixed {with_interval(ahead, '+.2f')}",
            above(ahead, 0),
        )
    if column(result, "kl", "seed"):
        saved = {k: less(result, "kl", "kl_none", f"kl_{k}") for k in ("k1", "k2")}
        hurt = less(result, "kl", "gold_fp32", "gold_no_weights")
        mended = less(result, "kl", "gold_weights", "gold_no_weights")
        yield (
            *("kl_and_mismatch", "Tang and Munos 2025"),
            "k1 in the loss holds the policy back by less than three tenths of what k2 does",
            f"nats saved, k1 {with_interval(saved['k1'], '+.2f')}, k2 {with_interval(saved['k2'], '+.2f')}",
            above([0.3 * b - a for a, b in zip(saved["k1"], saved["k2"])], 0),
        )
        yield (
            *("kl_and_mismatch", "Yao et al. 2025", "sampling in 16 bits hurts the training, and weights mend it"),
            f"gold, less bf16 without weights: fp32 {with_interval(hurt, '+.2f')}, weights "
            f"{with_interval(mended, '+.2f')}",
            both(above(hurt, 0), above(mended, 0)),
        )


def reproduced(result):
    """Rows of docs/reproductions.md."""
    minutes = {kind: sum(column(result, kind, "minutes")) for kind in KINDS}
    for name, *claim in claims(result):
        yield f"| {' | '.join(claim)} | `benchmarks/deeper.py` | {minutes[name.split('_')[0]]:.0f} |"


def main():
    parser = argparse.ArgumentParser(description="The claims of two deeper chapters over several seeds.")
    parser.add_argument("--only", choices=tuple(KINDS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder to write to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = options.out / "deeper.json"
    result = {"runs": []} | begun(path, "finetuned", "reward")
    result |= {"split": "test", "versions": versions(), "pairs": PAIRS, "updates": UPDATES}
    for kind in [options.only] if options.only else KINDS:
        for seed in range(options.seeds):
            if seed not in column(result, kind, "seed"):
                began = time.process_time()
                row = {"kind": kind, "seed": seed, **KINDS[kind](seed)}
                result["runs"].append(row | {"minutes": round((time.process_time() - began) / 60, 2)})
                write_json(path, result)
                print(result["runs"][-1], flush=True)
    print(*reproduced(result), sep="\n")


if __name__ == "__main__":
    main()
