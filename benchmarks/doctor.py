"""How often is the doctor right about a training log? `python benchmarks/doctor.py`, about 10 minutes on one thread.

Healthy runs of PPO and RLOO, which differ in seed, learning rate, KL weight, steps, batch and taste, and runs with a
bug each: the twelve of the bug museum, put in as the chapter does, four further ones of docs/known_bugs.md, and four
mishaps that users report.  A run is 8 updates of the shipped model on dev prompts.  A finding on a healthy run is a
false alarm; on a run with a bug it is a hit, and a hit by name where the bug is among the causes that it lists.  Each
log is looked at twice: as this workbook writes it, and cut to the columns that verl writes, under verl's names.

The thresholds of the rules were chosen on `--dev`, which has other seeds; its runs are not in the table.  The logs go
to results/doctor_logs.json.gz, what the rules say of them to results/doctor.json.  Logs that are there are kept and
only asked anew: delete the file to run everything again.
"""

import argparse
import copy
import dataclasses
import gzip
import json
import math
import random
import tempfile
import time
from functools import cache
from pathlib import Path
from unittest import mock

import nbformat
import torch

from rlhf_helpers import world
from rlhf_helpers.desk import tasks
from rlhf_helpers.desk.doctor import logs, rules
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, WorkbookError, replacing_file, versions, write_json
from rlhf_helpers.lesson import alternatives, decoding, feedback, ppo, reward
from rlhf_helpers.make.stamp import built
from rlhf_helpers.world import annotators

RESULTS = Path(__file__).resolve().parent / "results"
HEALTHY, SEEDS = range(1000, 1100), range(100, 105)
DEV_HEALTHY, DEV_SEEDS = range(24), range(2)
LEFT_TO_VERL = {  # our column -> what verl calls it; the others are not in its logs
    "update": "step",
    "reward": "critic/score/mean",
    "kl": "actor/reward_kl_penalty",
    "entropy": "actor/entropy",
    "length": "response_length/mean",
    "no_end": "response_length/clip_ratio",
    "approx_kl": "actor/ppo_kl",
    "clip_fraction": "actor/pg_clipfrac",
    "value_loss": "critic/vf_loss",
    "advantage_mean": "critic/advantages/mean",
}

# ---------------------------------------------------------------- what is run


def load():
    """The shipped model, its tokenizer, the dev prompts, and the rewards by name, made when they are asked for."""
    folder = ROOT / "data" / "models"
    finetuned, tokenizer = models.load_model(folder / "finetuned")
    judge, _ = models.load_reward_model(folder / "reward")
    prompts = world.prompts("dev")
    samples = decoding.generate(finetuned, tokenizer, prompts, seed=0)

    @cache
    def reward_of(name):
        """The shipped judge, or the number of a taste, normalised on the fine-tuned model's answers."""

        def raw(asked, said):
            if name == "judge":
                return reward.score(judge, tokenizer, asked, said)
            return torch.tensor([float(TASTES[name](p, r)) for p, r in zip(asked, said)])

        return ppo.normalized_reward(raw, prompts, samples)

    return finetuned, tokenizer, prompts, reward_of


def long(prompt, answer):
    """The more words, the better: what a length-loving judge likes."""
    return len(answer.split())


TASTES = {**annotators.TASTES, "long": long}
SMALL = {"updates": 8, "batch_size": 20, "minibatches": 2}


def healthy_settings(seed):
    """(algorithm, taste, settings) of a healthy run, drawn by its seed."""
    dice = random.Random(f"healthy {seed}")

    def between(low, high):
        return math.exp(dice.uniform(math.log(low), math.log(high)))

    drawn = {
        "lr": between(1e-4, 6e-4),
        "beta": between(0.02, 0.2),
        "epochs": dice.choice((1, 2, 2, 3)),
        "minibatches": dice.choice((1, 2, 4)),
        "batch_size": dice.choice((16, 20, 24)),
        "lam": dice.choice((0.9, 0.95, 1.0)),
    }
    taste = dice.choice(("judge", "judge", *annotators.TASTES))
    algorithm = dice.choice(("PPO", "PPO", "PPO", "RLOO"))
    return algorithm, taste, dataclasses.replace(tasks.embedded().ppo, updates=8, **drawn)


def run(lab, algorithm, taste, settings, seed, switches=None):
    """The history of one run; where the trainer itself stops it, as far as it came."""
    finetuned, tokenizer, prompts, reward_of = lab
    history, policy = [], copy.deepcopy(finetuned)

    def on_update(row, batch=None):
        spread = {"reward_std": batch["scores"].std().item()} if batch else {}
        history.append({k: v for k, v in row.items() if "mismatch" not in k or k == "first_mismatch"} | spread)

    torch.manual_seed(seed)
    try:
        if algorithm == "RLOO":
            few = dataclasses.replace(settings, lr=settings.lr / 2)
            alternatives.rloo(policy, tokenizer, reward_of(taste), prompts, few, seed, on_update)
        else:
            with mock.patch.multiple(ppo, health=lambda *a: {}, **(switches or {})):
                ppo.train(policy, tokenizer, reward_of(taste), prompts, settings, seed, on_update=on_update)
    except WorkbookError as e:
        print(f"  stopped: {e}")
    return [{k: float(f"{v:.5g}") for k, v in row.items()} for row in history]


# ---------------------------------------------------------------- bugs


def museum():
    """{exhibit: what it replaces in `ppo`} of the chapter's cells, and the two bugs of its first exercise."""
    cells = nbformat.read(ROOT / "notebooks" / "deeper" / "bug_museum.ipynb", as_version=4).cells
    names, exhibits = {}, {}
    with tempfile.TemporaryDirectory() as runs:
        for tags in (("parameters",), ("setup", "museum"), ("bug",)):
            for cell in cells:
                if set(tags) & set(cell.metadata.get("tags", [])):
                    exec(cell.source, names)
            names |= {"RUNS_DIR": runs, "FAST": True, "DEVICE": "cpu"}
    names["exhibit"] = lambda name, source, **switches: exhibits.update({name: switches})
    for cell in cells:
        if "exhibit" in cell.metadata.get("tags", []):
            exec(cell.source, names)
    exhibits["own reward only"] = {"gae": names["own_reward_only"]}
    exhibits["no clip"] = {"policy_loss": names["no_clip"]}
    return exhibits


def no_penalty(scores, logprobs, ref_logprobs, mask, beta, right=ppo.token_rewards):
    """Known bug 19: no KL penalty at all."""
    return right(scores, logprobs, ref_logprobs, mask, 0.0)


def loss_upside_down(logprobs, old, advantages, mask, clip=0.2, right=ppo.policy_loss):
    """Known bug 26: the sign of the loss."""
    return right(logprobs, old, -advantages, mask, clip)


class LateValue(ppo.PolicyWithValue):
    """Known bug 5: the value is read after the token was drawn."""

    def forward(self, ids, mask, start):
        keep = ids.shape[1] - start
        out = self.model(
            ids,
            attention_mask=mask,
            position_ids=models.position_ids(mask),
            output_hidden_states=True,
            logits_to_keep=keep + 1,
        )
        return out.logits[:, :-1], self.value_head(out.hidden_states[-1][:, -keep:].float()).squeeze(-1)


def loss_of_new_ratios(logprobs, old, *rest, right=ppo.policy_loss):
    """Known bug 30: the old log-probabilities are computed anew in each step."""
    return right(logprobs, logprobs.detach(), *rest)


def distances_of_new_ratios(part, logprobs, ratio, right=ppo.distances):
    return right(part | {"logprobs": logprobs.detach()}, logprobs, ratio)


def full_logprobs(model, ids, mask, *how, right=decoding.rollout, **options):
    """A sampler that reports the log-probabilities from before it cut and heated them."""
    out, full_mask, drawn = right(model, ids, mask, *how, **options)
    keep = drawn.shape[1]
    logits = model(
        out[:, :-1],
        attention_mask=full_mask[:, :-1],
        position_ids=models.position_ids(full_mask)[:, :-1],
        logits_to_keep=keep,
    ).logits
    return out, full_mask, ppo.token_logprobs(logits, out[:, -keep:]) * full_mask[:, -keep:]


def narrow(*inputs):
    return full_logprobs(*inputs, top_p=0.8)


def must_go_on(model, ids, mask, max_new_tokens, eos, generator):
    """A minimal length: no answer may end before its twentieth token, and the sampler does not say so."""
    head, start, end = model.get_output_embeddings(), ids.shape[1], torch.tensor(sorted(eos))
    tokens = [0]

    def banned(module, inputs, logits):
        tokens[0] += 1
        return logits.index_fill(-1, end, -1e9) if tokens[0] <= 20 and logits.shape[1] == 1 else logits

    handle = head.register_forward_hook(banned)
    try:
        out, full_mask, drawn = decoding.rollout(model, ids, mask, max_new_tokens, eos, generator)
    finally:
        handle.remove()
    keep = out.shape[1] - start
    logits = model(
        out[:, :-1],
        attention_mask=full_mask[:, :-1],
        position_ids=models.position_ids(full_mask)[:, :-1],
        logits_to_keep=keep,
    ).logits
    return out, full_mask, ppo.token_logprobs(logits, out[:, -keep:]) * full_mask[:, -keep:]


KNOWN = {
    "no penalty": {"token_rewards": no_penalty},
    "loss upside down": {"policy_loss": loss_upside_down},
    "late value": {"PackedPolicy": LateValue},
    "new old log-probabilities": {"policy_loss": loss_of_new_ratios, "distances": distances_of_new_ratios},
}
REPORTED = {  # name: (switches, settings, taste)
    "top-p, reported as if without": ({"rollout": narrow}, {}, "judge"),
    "minimal length": ({"rollout": must_go_on}, {}, "judge"),
    "learning rate 20 times too high": ({}, {"lr": 1.2e-2}, "judge"),
    "a judge that loves length": ({}, {"beta": 0.0}, "long"),
}
NAMED = {  # the words of a cause that names the bug
    "cold sampling": "temperature",
    "dropout": "dropout left on",
    "no positions": "positions that count the padding",
    "untrained end": "end token is not trained",
    "score after the end": "stands after the end",
    "padding in the mean": "whitened over the padding",
    "KL upside down": "penalty has the wrong sign",
    "own reference": "the reference is the policy itself",
    "white returns": "whitened advantages",
    "early value": "value of the token before",
    "own reward only": "own reward",
    "no clip": "clip is never applied",
    "no penalty": "no KL penalty",
    "loss upside down": "sign of the loss",
    "late value": "value is read after",
    "new old log-probabilities": "computed anew in each step",
    "top-p, reported as if without": "top-p",
    "minimal length": "minimal length",
    "learning rate 20 times too high": "learning rate that is too high",
    "a judge that loves length": "likes long answers",
}


def bug_runs(lab, seeds, done):
    """{"bug", "seed", "log"} of every bug and seed that is not in `done`, one after the other."""
    museum_like = dataclasses.replace(tasks.embedded().ppo, lr=6e-4, beta=0.15, **SMALL)
    every = {name: (switches, {}, "judge") for name, switches in {**museum(), **KNOWN}.items()} | REPORTED
    for name, (switches, changed, taste) in every.items():
        for seed in (s for s in seeds if (name, s) not in done):
            settings = dataclasses.replace(museum_like, **changed)
            yield {"bug": name, "seed": seed, "log": run(lab, "PPO", taste, settings, seed, switches)}


def healthy_runs(lab, seeds, done):
    """{"bug": "", "seed", …, "log"} of healthy runs, one after the other."""
    for seed in (s for s in seeds if ("", s) not in done):
        algorithm, taste, settings = healthy_settings(seed)
        log = run(lab, algorithm, taste, settings, seed)
        kept = {k: getattr(settings, k) for k in ("lr", "beta", "epochs", "minibatches", "batch_size", "lam")}
        yield {"bug": "", "seed": seed, "algorithm": algorithm, "taste": taste, **kept, "log": log}


def make_logs(healthy, seeds, place):
    """All runs go to `place`, a few at a time; those that an interrupted call left there are kept."""
    data = built("finetuned", "reward")
    made = read(place) if place.exists() else {}
    if made.get("data") != data:
        made = {"split": "dev", "versions": versions(), "data": data, "cpu_seconds": 0, "runs": []}
    done = {(r["bug"], r["seed"]) for r in made["runs"]}
    if len(done) >= len(healthy) + len(seeds) * len(NAMED):
        return
    torch.set_num_threads(1)
    lab = load()
    before, began = made["cpu_seconds"], time.process_time()
    for some in (healthy_runs(lab, healthy, done), bug_runs(lab, seeds, done)):
        for run_ in some:
            made["runs"].append(run_)
            made["cpu_seconds"] = round(before + time.process_time() - began)
            print(f"{made['cpu_seconds']:6.0f} s  {run_['bug'] or 'healthy'}, seed {run_['seed']}", flush=True)
            if len(made["runs"]) % 5 == 0:
                write(place, made)
    write(place, made)


def read(place):
    return json.loads(gzip.decompress(place.read_bytes()))


def write(place, made):
    """Write runs as JSON under gzip, all at once."""
    with replacing_file(place) as f:
        f.write(gzip.compress(json.dumps(made).encode(), mtime=0))


# ---------------------------------------------------------------- what the rules say


def as_verl(rows):
    """The same log with verl's columns only, KL per token, and the penalty in what an answer is paid in all."""
    cut = [{LEFT_TO_VERL[k]: v for k, v in row.items() if k in LEFT_TO_VERL} for row in rows]
    for new, row in zip(cut, rows):
        if "length" in row:
            new["actor/reward_kl_penalty"] = row["kl"] / row["length"]
        else:
            new.pop("actor/reward_kl_penalty")
        if "non_score_reward" in row:
            new["critic/rewards/mean"] = row["reward"] + row["non_score_reward"]
    return cut


def asked(made, view):
    """The findings of one run's log, as (name, causes, ask), seen in one of the two ways."""
    rows = made["log"] if view == "own" else as_verl(made["log"])
    return rules.examine(logs.log_of(rows, f"{made['bug'] or 'healthy'} {made['seed']}")).findings


def judged(runs):
    """For each run and view: the names of its findings, and for a bug whether it was found and named."""
    out = []
    for made in runs:
        row = {k: v for k, v in made.items() if k != "log"} | {"updates": len(made["log"])}
        for view in ("own", "verl"):
            found = asked(made, view)
            row[view] = {
                "alarms": [f.name for f in found if not f.ask],
                "questions": [f.name for f in found if f.ask],
                "named": [f.name for f in found if any(NAMED.get(made["bug"], "\0") in c for c in f.causes)],
            }
        out.append(row)
    return out


def false_alarms(runs, view, kind="alarms"):
    """(healthy runs with an alarm, healthy runs)."""
    healthy = [r for r in runs if not r["bug"]]
    return sum(bool(r[view][kind]) for r in healthy), len(healthy)


def markdown(data):
    """Two tables: false alarms on healthy runs, hits on those with a bug."""
    lines = ["| healthy runs | as this workbook logs | with verl's columns |", "|---|---|---|"]
    for kind, word in (("alarms", "with a false alarm"), ("questions", "with a question")):
        cells = []
        for view in ("own", "verl"):
            k, n = false_alarms(data["runs"], view, kind)
            low, high = feedback.wilson(k, n)
            cells.append(f"{k} of {n} ({max(low, 0):.1%} to {high:.1%})")
        lines.append(f"| {word} | {' | '.join(cells)} |")
    lines += ["", "| bug | found | named | by | found, verl's columns | named |", "|---|---|---|---|---|---|"]
    for bug in dict.fromkeys(r["bug"] for r in data["runs"] if r["bug"]):
        some = [r for r in data["runs"] if r["bug"] == bug]
        cells = []
        for view in ("own", "verl"):
            found = sum(bool(r[view]["alarms"] + r[view]["questions"]) for r in some)
            named = sum(bool(r[view]["named"]) for r in some)
            cells.append((f"{found} of {len(some)}", f"{named} of {len(some)}"))
        by = [f for r in some for f in (r["own"]["named"] or r["own"]["alarms"])[:1]]
        most = max(by, key=by.count) if by else "-"
        lines.append(f"| {bug} | {cells[0][0]} | {cells[0][1]} | {most} | {cells[1][0]} | {cells[1][1]} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dev", action="store_true", help="the runs on which the thresholds were chosen, in build/")
    args = parser.parse_args()
    place = ROOT / "build" / "doctor_dev.json.gz" if args.dev else RESULTS / "doctor_logs.json.gz"
    make_logs(*((DEV_HEALTHY, DEV_SEEDS) if args.dev else (HEALTHY, SEEDS)), place)
    made = read(place)
    data = made | {"runs": judged(made["runs"])}
    print(markdown(data))
    if not args.dev:
        write_json(RESULTS / "doctor.json", data)


if __name__ == "__main__":
    main()
