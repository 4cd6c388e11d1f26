"""A language model as judge, and what is learned from it: `python benchmarks/ai_feedback.py --sweep`, then without.

Of pairs of answers by data/models/finetuned the same model is the judge, by how likely it finds each answer, or
asked. Its choices are held against those of the simulated crowd and the order by gold; then a reward model learns
from either set of labels, and best-of-n and PPO follow it. DPO and KTO learn from the crowd's labels alone, KTO from
the same answers as thumbs, and from one answer of each pair. The sweep chooses the judge, the learning rate of the
reward model for each set of labels, PPO's penalty against it, and the settings of DPO and KTO on dev questions, with
seed 0. All is then measured on test questions, several seeds. Writes ai_feedback.json after every run, so that an
interrupted benchmark goes on, and its table is of the seeds that are complete.

`--model FOLDER` asks another language model about the pairs of one seed, such as the one of real.py (see `elsewhere`).
"""

import argparse
import copy
import dataclasses
import itertools
import statistics
import time
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import torch
from verifiable import above

from rlhf_helpers import world
from rlhf_helpers.desk import recipe
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, WorkbookError, versions, write_json
from rlhf_helpers.lesson import ai_feedback, alternatives, feedback, ppo, reward
from rlhf_helpers.lesson.decoding import generate
from rlhf_helpers.lesson.loop import Limits, sample_answers
from rlhf_helpers.lesson.pairs import make_pairs, simulated_feedback
from rlhf_helpers.make.stamp import begun, with_interval
from rlhf_helpers.world import measures
from rlhf_helpers.world.annotators import labellers

RESULTS = Path(__file__).resolve().parent / "results"
PAIRS = {"train": 800, "dev": 300, "test": 300}
OTHERS = 4  # prompts from which `corrected` takes what an answer is worth anywhere
CONSTITUTION = "A good answer is true, kind and brief."
TASTES = ("helpful", "terse", "warm")
TEACHERS = ("crowd", "AI")  # whose labels a reward model learns from
BEST_OF, UPDATES, EPOCHS = 16, 20, 2
RATES = (3e-4, 1e-3)  # of the reward model
PENALTIES = (0.03, 0.1, 0.3, 1.0)  # of PPO; the first is that of chapter 05
GRID = [(b, 3e-4) for b in (0.1, 0.3, 1.0, 3.0)]  # beta and learning rate of DPO and KTO
GRID += [(b, lr) for b in (0.3, 1.0) for lr in (1e-4, 1e-3)]
OFFLINE = ("DPO", "KTO", "KTO, one answer of each pair")
LIMIT = Limits().kl
MARGIN = 0.1  # points of gold that would be worth a word


# ---------------------------------------------------------------- what all runs of a seed share


@lru_cache(maxsize=1)
def scene(seed):
    """Model, prompts to compare with, and judges by likelihood of one seed."""
    start, tokenizer = models.load_model(ROOT / "data/models/finetuned")
    asked = world.prompts("train")
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(seed)).tolist()
    judges = ai_feedback.judges(start, tokenizer, [asked[i] for i in order[:OTHERS]])
    return SimpleNamespace(start=start, tokenizer=tokenizer, judges=judges)


@lru_cache(maxsize=2)
def pairs(seed, split):
    """Pairs of answers of the fine-tuned model to the prompts of a split."""
    s = scene(seed)
    offset = {"train": 0, "dev": 50, "test": 70}[split]  # other draws for each split
    return make_pairs(s.start, s.tokenizer, world.prompts(split), PAIRS[split], seed + offset, world.families())


def choices(some, seed, taste="helpful"):
    """What the simulated crowd chooses of pairs: "a" or "b" for each."""
    return [x["choice"] for x in simulated_feedback(some, labellers(taste, seed), seed)]


def order(some, score=world.gold_score):
    """The gap of a score between the answers of pairs: (pairs,)."""
    return torch.tensor([score(p["prompt"], p["response_a"]) - score(p["prompt"], p["response_b"]) for p in some])


# ---------------------------------------------------------------- the judges


def verdict(gaps, some, seed):
    """How a judge's gaps (pairs,) agree with the crowd, each taste and gold, and how often the longer answer wins."""
    crowd = ai_feedback.agreement_with(gaps, choices(some, seed))
    row = {"agree": crowd["share"], "kappa": crowd["kappa"]}
    row |= {f"agree_{t}": ai_feedback.agreement_with(gaps, choices(some, seed + 1, t))["share"] for t in TASTES}
    by = {"gold": order(some), "longer": ai_feedback.words_more(some)}
    return row | {k: ai_feedback.agreement_with(gaps, ai_feedback.chosen(g))["share"] for k, g in by.items()}


def asked(model, tokenizer, some, constitution=""):
    """(gaps (pairs,) of a model that is asked, a row of how it treats the answer that is shown first)."""
    gaps, orders = ai_feedback.both_orders(model, tokenizer, some, constitution)
    first = orders > 0
    row = {"first": first.float().mean().item(), "same": (first[0] != first[1]).float().mean().item()}
    return gaps, row


def all_judges(seed, split):
    """{name of a judge: its row} on the pairs of a split."""
    s, some = scene(seed), pairs(seed, split)
    rows = {name: verdict(ai_feedback.gap(score, some), some, seed) for name, score in s.judges.items()}
    likely = ai_feedback.gap(s.judges["log-probability"], some, CONSTITUTION)
    rows["log-probability, constitution"] = verdict(likely, some, seed)
    fit = ai_feedback.that_fit(s.start, s.tokenizer, some, CONSTITUTION)  # all but a few
    for name, constitution in {"asked": "", "asked, constitution": CONSTITUTION}.items():
        gaps, row = asked(s.start, s.tokenizer, fit, constitution)
        rows[name] = verdict(gaps, fit, seed) | row
    rows["shorter answer"] = verdict(-ai_feedback.words_more(some), some, seed)
    another = torch.tensor([1.0 if c == "a" else -1.0 for c in choices(some, seed + 2)])
    return rows | {"another of the crowd": verdict(another, some, seed)}


# ---------------------------------------------------------------- what is learned from labels


@lru_cache(maxsize=4)
def labels(seed, teacher, judge):
    """Preference rows of the train pairs by the crowd, or by the judge of that name."""
    some = pairs(seed, "train")
    if teacher == "AI":
        return ai_feedback.preferences(some, ai_feedback.gap(scene(seed).judges[judge], some))
    return feedback.to_preferences(simulated_feedback(some, labellers("helpful", seed), seed))[0]


def learned(seed, rows, lr):
    """A reward model that begins as the fine-tuned model and knows nothing but these labels."""
    torch.manual_seed(seed)  # its head is new
    judge, tokenizer = models.load_reward_model(ROOT / "data/models/finetuned")
    reward.train_reward_model(judge, tokenizer, rows, epochs=EPOCHS, lr=lr, seed=seed)
    return judge


def order_found(score, some):
    """The share of pairs that a score puts in the order of gold."""
    return ai_feedback.agreement_with(ai_feedback.gap(score, some), ai_feedback.chosen(order(some)))["share"]


def measured(policy, seed, split):
    """Gold, right, polite, words and KL of two answers to every second prompt of a split."""
    s, prompts = scene(seed), world.prompts(split)[::2] * 2
    said, kl, _ = sample_answers(policy, s.start, s.tokenizer, prompts, seed=seed + 9)
    found = measures.quality(prompts, said)
    return {k: found[k] for k in ("gold", "right", "polite", "words")} | {"kl": kl}


@lru_cache(maxsize=1)
def pool(seed, split):
    """(prompts, answers) of which best-of-n takes one each: `BEST_OF` answers to every fifth prompt."""
    s, prompts = scene(seed), world.prompts(split)[::5] * BEST_OF
    return prompts, generate(s.start, s.tokenizer, prompts, seed=seed + 5)


def best_of_n(score, seed, split):
    """Mean gold of the answers that a score likes best of `BEST_OF`."""
    prompts, said = pool(seed, split)
    best = score(prompts, said).view(BEST_OF, -1).argmax(0).tolist()
    n = len(best)
    return statistics.mean(world.gold_score(prompts[i], said[k * n + i]) for i, k in enumerate(best))


def followed(score, frozen, seed, beta):
    """A policy that PPO trains on a score, with a penalty of beta."""
    s, prompts = scene(seed), world.prompts("train")
    base = generate(s.start, s.tokenizer, prompts[::6], seed=seed)
    policy, now = copy.deepcopy(s.start), dataclasses.replace(recipe.PPO, updates=UPDATES, beta=beta)
    scaled = ppo.normalized_reward(score, prompts[::6], base)
    ppo.train(policy, s.tokenizer, scaled, prompts, now, seed, frozen=frozen)
    return policy


@lru_cache(maxsize=1)
def taught(seed, teacher, judge, lr):
    """The reward model of the labels of "crowd", or of the judge of that name, if the teacher is "AI"."""
    return learned(seed, labels(seed, teacher, judge), lr)


def from_teacher(seed, teacher, chosen, split):
    """The row of a reward model of the labels of "crowd" or "AI", of best-of-n and of PPO by it."""
    s = scene(seed)
    judge = taught(seed, teacher, chosen["judge"], chosen[f"lr {teacher}"])

    def score(prompts, answers):
        return reward.score(judge, s.tokenizer, prompts, answers)

    row = {"accuracy": order_found(score, pairs(seed, split)), "best_of_n": best_of_n(score, seed, split)}
    return row | measured(followed(score, (judge,), seed, chosen[f"beta {teacher}"]), seed, split)


def offline(seed, method, settings, split):
    """The row of a policy of DPO or KTO, on the crowd's labels."""
    s, rows = scene(seed), labels(seed, "crowd", "")
    policy, how = copy.deepcopy(s.start), {"epochs": EPOCHS, "seed": seed, **settings}
    if method == "DPO":
        alternatives.dpo(policy, s.tokenizer, rows, **how)
    else:
        thumbs = alternatives.thumbs(rows)
        if method != "KTO":  # every other pair gives its chosen answer, the others their rejected ones
            thumbs = [thumbs[2 * i + i % 2] for i in range(len(rows))]
        alternatives.kto(policy, s.tokenizer, thumbs, **how)
    return measured(policy, seed, split)


def run(kind, method, seed, chosen, split):
    """The rows of one run."""
    began = time.process_time()
    if kind == "judge":
        found = all_judges(seed, split)
    elif kind == "teacher" and method == "fine-tuned":
        found = {method: measured(scene(seed).start, seed, split)}
    elif kind == "teacher" and method == "AI, no reward model":
        found = {method: {"best_of_n": best_of_n(scene(seed).judges[chosen["judge"]], seed, split)}}
    elif kind == "teacher":
        found = {method: from_teacher(seed, method, chosen, split)}
    else:
        found = {method: offline(seed, method, chosen[method], split)}
    minutes = round((time.process_time() - began) / 60, 3) / len(found)
    for name, row in found.items():
        columns = {f"{split}_{k}": v for k, v in row.items()}
        yield {"kind": kind, "method": name, "seed": seed, **columns, "minutes": minutes}


# ---------------------------------------------------------------- choosing, on dev questions with seed 0


def sweep(done, keep):
    """What the sweep finds, a row for each setting tried; `keep(row)` after each.  done: the rows of an earlier try."""

    def tried(kind, method, settings, measure):
        if not [r for r in done if (r["kind"], r["method"], r["settings"]) == (kind, method, settings)]:
            keep({"kind": kind, "method": method, "settings": settings, **measure()})

    for name, row in {} if done else all_judges(0, "dev").items():
        tried("judge", name, {}, lambda row=row: row)
    judge = choose(done)["judge"]
    for teacher, lr in itertools.product(TEACHERS, RATES):

        def accuracy(teacher=teacher, lr=lr):
            model = learned(0, labels(0, teacher, judge), lr)
            score = lambda p, r: reward.score(model, scene(0).tokenizer, p, r)  # noqa: E731
            some = pairs(0, "dev")
            return {"agree": ai_feedback.agreement_with(ai_feedback.gap(score, some), choices(some, 0))["share"]}

        tried("reward", teacher, {"lr": lr}, accuracy)
    rates = choose(done)
    for teacher, beta in itertools.product(TEACHERS, PENALTIES):
        settings = {"beta": beta}
        given = rates | {f"beta {teacher}": beta}
        tried("penalty", teacher, settings, lambda t=teacher, g=given: from_teacher(0, t, g, "dev"))
    for method, (beta, lr) in itertools.product(OFFLINE[:2], GRID):
        settings = {"beta": beta, "lr": lr}
        tried("offline", method, settings, lambda m=method, s=settings: offline(0, m, s, "dev"))


def choose(rows):
    """The settings to measure: by the crowd's choices for judges and reward models, by gold within `LIMIT` else."""

    def best(kind, method, key, names=()):
        some = [r for r in rows if r["kind"] == kind and (r["method"] == method or r["method"] in names)]
        return max((r for r in some if r.get("kl", 0) <= LIMIT), key=lambda r: r[key], default=None)

    judges = ("log-probability", "per token", "corrected", "asked")
    found = {"judge": best("judge", "", "agree", judges)["method"]}
    for teacher in TEACHERS:
        row = best("reward", teacher, "agree")
        found |= {f"lr {teacher}": row["settings"]["lr"]} if row else {}
        row = best("penalty", teacher, "gold")
        found |= {f"beta {teacher}": row["settings"]["beta"]} if row else {}
    for method in OFFLINE[:2]:
        row = best("offline", method, "gold")
        found |= {method: row["settings"]} if row else {}
    return found | ({OFFLINE[2]: found["KTO"]} if "KTO" in found else {})


# ---------------------------------------------------------------- what is shown

PLAN = [("judge", "all"), *(("teacher", m) for m in ("fine-tuned", "AI, no reward model", *TEACHERS))]
PLAN += [("offline", m) for m in OFFLINE]


def complete(result):
    """The rows of the seeds of which nothing is missing."""
    last = PLAN[-1]
    seeds = {r["seed"] for r in result["runs"] if (r["kind"], r["method"]) == last}
    return [r for r in result["runs"] if r["seed"] in seeds]


def column(result, kind, method, key):
    """One number a seed."""
    return [r[f"test_{key}"] for r in complete(result) if (r["kind"], r["method"]) == (kind, method)]


def difference(result, kind, a, b, key):
    """Method a less method b, one number a seed."""
    return [x - y for x, y in zip(*(column(result, kind, m, key) for m in (a, b)), strict=True)]


def claims(result):
    """(paper, claim, figure in words, verdict) of each claim that the file can speak to."""
    first = [x - 0.5 for x in column(result, "judge", "asked", "first")]
    same = column(result, "judge", "asked", "same")
    yield (
        "Zheng et al. 2023",
        "a model that is asked which answer is better favours the one that it sees first",
        f"the first one is chosen in {with_interval([x + 0.5 for x in first], '.2f')} of the cases, the same answer in "
        f"both orders in {with_interval(same, '.2f')}",
        above(first, 0),
    )
    for judge in ("log-probability", "per token"):
        more = difference(result, "judge", judge, "another of the crowd", "longer")
        yield (
            "Zheng et al. 2023",
            f"a model favours longer answers than people do, here by {judge}",
            f"share of pairs in which the longer one is chosen, judge less crowd {with_interval(more, '+.2f')}",
            above(more, 0),
        )
    for judge in ("asked", "log-probability"):
        more = difference(result, "judge", f"{judge}, constitution", judge, "agree")
        yield (
            "Bai et al. 2022b",
            f"a constitution in the prompt brings the judge closer to people, here {judge}",
            f"agreement, with less without {with_interval(more, '+.3f')}",
            above(more, 0),
        )
    less = difference(result, "teacher", "AI", "crowd", "gold")
    yield (
        "Lee et al. 2024",
        f"labels of a model make as good a policy as those of people, within {MARGIN:g} points of gold",
        f"gold by PPO, AI less crowd {with_interval(less, '+.2f')}",
        above(less, -MARGIN),
    )
    for method in OFFLINE[1:]:
        less = difference(result, "offline", method, "DPO", "gold")
        yield (
            "Ethayarajh et al. 2024",
            f"{method}: no worse than DPO on the pairs, within {MARGIN:g} points of gold",
            f"gold, KTO less DPO {with_interval(less, '+.2f')}",
            above(less, -MARGIN),
        )


def reproduced(result):
    """Rows of docs/reproductions.md."""
    minutes = sum(r["minutes"] for r in complete(result))
    for claim in claims(result):
        yield f"| {' | '.join(claim)} | `benchmarks/ai_feedback.py` | {minutes:.0f} |"


def table(head, *rows):
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def cells(result, kind, method, **keys):
    """The cells of a row: a mean and its interval for each column that it has."""
    found = {k: column(result, kind, method, k) if _has(result, kind, method, k) else [] for k in keys}
    return [method, *(with_interval(v, keys[k]) if v else "–" for k, v in found.items())]


def _has(result, kind, method, key):
    return any(f"test_{key}" in r for r in complete(result) if (r["kind"], r["method"]) == (kind, method))


def methods_of(result, kind):
    return list(dict.fromkeys(r["method"] for r in complete(result) if r["kind"] == kind))


def judges_table(result):
    keys = ("agree", "kappa", "gold", "longer", "first", "same")
    yield "judge", "agrees with the crowd", "κ", "order of gold", "longer one", "first one", "same in both orders"
    yield from (cells(result, "judge", m, **dict.fromkeys(keys, ".2f")) for m in methods_of(result, "judge"))


def learned_table(result):
    keys = ("accuracy", "best_of_n", "gold", "right", "polite", "words", "kl")
    head = (
        "gold order, reward model",
        f"gold, best of {BEST_OF}",
        "gold, policy",
        "right",
        "polite",
        "words",
        "KL (nats)",
    )
    yield "labels, or method", *head
    for kind, names in (("teacher", methods_of(result, "teacher")), ("offline", OFFLINE)):
        yield from (cells(result, kind, m, **dict.fromkeys(keys, ".2f")) for m in names)


def elsewhere_table(result):
    keys = {"agree": ".2f", "gold": ".2f", "longer": ".2f", "first": ".2f", "same": ".2f"}
    yield "model, judge", "agrees with the crowd", "order of gold", "longer one", "first one", "same in both orders"
    for r in result.get("elsewhere", []):
        yield f"{r['model']}, {r['judge']}", *(format(r[k], s) if k in r else "–" for k, s in keys.items())


def markdown(result):
    """The tables of docs/reproductions.md."""
    chosen, seeds = result["chosen"], len(column(result, "judge", "asked", "agree"))
    text = f"{table(*judges_table(result))}\n\nThe judge chosen on dev questions is: {chosen['judge']}. {seeds} seeds; "
    text += "the last four columns are shares of pairs. What is learned from its labels and from the crowd's:\n\n"
    text += table(*learned_table(result))
    text += f"\n\nTried for PPO: a penalty of {', '.join(f'{b:g}' for b in PENALTIES)}; chosen: "
    text += f"{chosen['beta crowd']:g} with the crowd's labels, {chosen['beta AI']:g} with the AI's. "
    text += f"For DPO and KTO: {len(GRID)} pairs of β, from {min(GRID)[0]:g} to {max(GRID)[0]:g}, and learning rate; "
    text += f"chosen: β of {chosen['DPO']['beta']:g} and {chosen['KTO']['beta']:g}, learning rates of "
    text += f"{chosen['DPO']['lr']:g} and {chosen['KTO']['lr']:g}."
    if result.get("elsewhere"):
        n = result["elsewhere"][0]["pairs"]
        text += f"\n\nAnother language model on {n} of these pairs, one seed:\n\n{table(*elsewhere_table(result))}"
    return text


# ---------------------------------------------------------------- another language model


def elsewhere(folder, n, seed=0):
    """The rows of another language model that judges n test pairs of the embedded world, which it has never seen."""
    model, tokenizer = models.load_model(folder)
    some, others = pairs(seed, "test")[:n], world.prompts("train")[:: 1741 // OTHERS][:OTHERS]
    for name, score in ai_feedback.judges(model, tokenizer, others).items():
        gaps = ai_feedback.gap(score, some)
        yield {"model": Path(folder).name, "judge": name, "pairs": n, **verdict(gaps, some, seed)}
    for name, constitution in {"asked": "", "asked, constitution": CONSTITUTION}.items():
        gaps, row = asked(model, tokenizer, some, constitution)
        yield {"model": Path(folder).name, "judge": name, "pairs": n, **verdict(gaps, some, seed), **row}


def main():
    parser = argparse.ArgumentParser(description="A language model as judge, and what is learned from it.")
    parser.add_argument("--sweep", action="store_true", help="choose judge and settings, on dev questions")
    parser.add_argument("--model", type=Path, help="the folder of another language model, to be asked")
    parser.add_argument("--pairs", type=int, default=100, help="how many pairs that model is asked about")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder to write to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = options.out / "ai_feedback.json"
    result = {"sweep": [], "chosen": {}, "runs": []} | begun(path, "finetuned")
    result |= {"split": "test", "versions": versions(), "pairs": PAIRS, "constitution": CONSTITUTION}
    result |= {"best_of": BEST_OF, "updates": UPDATES, "epochs": EPOCHS}

    def keep(part, row):
        result.setdefault(part, []).append(row)
        write_json(path, result)
        print(row, flush=True)

    if options.sweep:
        sweep(result["sweep"], lambda row: keep("sweep", row))
        result["chosen"] = choose(result["sweep"])
        write_json(path, result)
        print(result["chosen"])
        return
    if options.model:
        result["elsewhere"] = []
        for row in elsewhere(options.model, options.pairs):
            keep("elsewhere", row)
        return
    if OFFLINE[-1] not in result["chosen"]:
        raise WorkbookError("There are no settings yet: run benchmarks/ai_feedback.py --sweep first.")
    for seed, (kind, method) in itertools.product(range(options.seeds), PLAN):
        mine = [r for r in result["runs"] if (r["kind"], r["seed"]) == (kind, seed)]
        if not [r for r in mine if method in ("all", r["method"])]:
            for row in run(kind, method, seed, result["chosen"], "test"):
                keep("runs", row)
    print(markdown(result), *reproduced(result), sep="\n")


if __name__ == "__main__":
    main()
