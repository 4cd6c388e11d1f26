"""A reader's own prompts: text, JSON Lines, CSV or messages, with or without a family and a split."""

import os
import random
from collections import Counter
from pathlib import Path

from ..engine.files import WorkbookError, shown
from . import tables
from .formats import PROMPTS, Unusable, as_prompt, plain_names, prompt_in, text, turns
from .tables import SPLITS, Row, Unread, name_of

ENOUGH = 10  # with fewer prompts there is nothing to learn from, or nothing to measure on
FAMILIES = ("family", "category", "topic", "kind", "type", "domain", "subject")
LINES = (".txt", ".text", ".md")  # what files are called that hold a prompt on each line
FORMAT = '{"prompt": "Why is the sky blue?", "family": "explain", "split": "train"}'


def lines_of(path):
    """Rows of a text file: each line that is not empty is a prompt."""
    said = tables.text_of(tables.content(path), path).splitlines()
    return [Row(f"line {n}", "", {"prompt": line}) for n, line in enumerate(said, 1) if line.strip()]


def header_too(rows):
    """Rows of a table of one column without a header, whose first prompt was taken for the header."""
    first = rows[0].value if rows else None
    name = next(iter(first), "") if isinstance(first, dict) and len(first) == 1 else ""
    if not isinstance(name, str) or name_of(name) in PROMPTS or not (" " in name.strip() or name.endswith("?")):
        return rows
    return [Row("row 0", "", {"prompt": name})] + [
        Row(r.place, r.split, {"prompt": r.value[name]}) for r in rows if isinstance(r.value, dict) and name in r.value
    ]


def asked(value):
    """(prompt, family, split or "") of one row; raises Unusable where it holds no prompt."""
    if isinstance(value, Unread):
        raise Unusable(*value.why.split(": ", 1))
    named = isinstance(value, dict) and not {"role", "from"} & set(value)  # else a message, a list of them, or a text
    row = plain_names(value) if named else {"prompt": value}
    found = prompt_in(row)
    if found is None and len(row) == 1:
        found = next(iter(row.values()))
    spoken = turns(found)
    while spoken and spoken[-1][0] == "Assistant":  # what is asked ends with the user
        spoken = spoken[:-1]
    prompt = as_prompt(spoken) if spoken else text(found)
    if prompt is None:
        raise Unusable("no prompt", f"its fields are {', '.join(shown(f, 30) for f in list(row)[:8])}")
    family = next((str(row[f]).strip() for f in FAMILIES if isinstance(row.get(f), str | int)), "")
    split = str(row.get("split") or "").strip().lower()
    if split and split not in SPLITS:
        raise Unusable("an unknown split", shown(split, 30))
    if not prompt:
        raise Unusable("empty")
    return prompt, family or "own", SPLITS.get(split, "")


def rows_of(path, parameter):
    """(rows {"prompt", "family", "split"}, a Counter of what was left out, where each reason was met first, notes)."""
    file = tables.home(path)
    if os.path.isfile(file) and tables.kind_of(file) in LINES:
        found, notes = lines_of(file), []
    else:
        found, notes = tables.read(path, parameter, LINES)
    rows, left_out, where, seen = [], Counter(), {}, set()
    for row in header_too(found) if tables.kind_of(file) in (".csv", ".tsv") else found:
        try:
            prompt, family, split = asked(row.value)
            if prompt in seen:
                raise Unusable("duplicates")
        except Unusable as e:
            left_out[e.why] += 1
            where.setdefault(e.why, ": ".join(filter(None, (row.place, e.detail))))
            continue
        except RecursionError:
            left_out["nested too deeply"] += 1
            continue
        seen.add(prompt)
        rows.append({"prompt": prompt, "family": family, "split": split or row.split})
    return rows, left_out, where, notes


def read(path, parameter="PROMPTS", enough=ENOUGH):
    """(rows {"prompt", "family", "split"}, a report) of a file or folder of prompts, each of which has a split.

    Raises WorkbookError, in one sentence with the whole format, where there are fewer than `enough`.
    """
    rows, left_out, where, notes = rows_of(path, parameter)
    reasons = "; ".join(
        f"{why} {n:,}" + (f" (first: {where[why]})" if why in where else "") for why, n in left_out.most_common()
    )
    if len(rows) < enough:
        raise WorkbookError(
            f"{shown(str(path), 200)}, which {parameter} names, holds {len(rows)} prompts that can be used, and "
            f"{enough} are needed at least (left out: {reasons or 'nothing'}). A row is a line of text, or {FORMAT}, "
            'of which only the prompt is needed; split is "train", "dev", "test" or "heldout".'
        )
    rows, drawn = with_splits(rows)
    counts = Counter(r["split"] for r in rows)
    said = f"{Path(path).name}: {len(rows)} prompts ({', '.join(f'{n} {s}' for s, n in counts.items())}{drawn})."
    return rows, "\n".join([said + (f" Left out: {reasons}." if reasons else ""), *notes])


def with_splits(rows, seed=0):
    """(the rows, each with a split, and a word on it if it was drawn).

    Where the file names prompts to train on and others to measure on, it is followed; rows without a split are then
    trained on.  Otherwise a fifth is test and a tenth dev, two of each at least.
    """
    named = {r["split"] for r in rows}
    if named & {"train", ""} and named & {"dev", "test", "heldout"}:
        return [r | {"split": r["split"] or "train"} for r in rows], ""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    n = len(rows)
    test, dev = (min(max(2, n // k), max((n - 1) // 2, 0)) for k in (5, 10))
    drawn = {**dict.fromkeys(order[:test], "test"), **dict.fromkeys(order[test : test + dev], "dev")}
    return [r | {"split": drawn.get(i, "train")} for i, r in enumerate(rows)], ", drawn"
