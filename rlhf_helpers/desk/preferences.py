"""A reader's own preferences, in whatever format they come: read, counted, and made rows to learn from.

`formats` says what a row means; here what repeats or contradicts another row, or teaches nothing, is left out, and
counted under its reason.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..engine.files import WorkbookError, shown
from ..lesson import feedback, reward
from . import tables
from .formats import CHOICES, NAMES_NEITHER, PEOPLE, RECOGNISERS, Said, Scored, Unusable, pairs_of, plain_names
from .tables import SPLITS, Row, Unread

OWN = "own-"  # begins the ids of what comes from a file
EXAMPLE = '{"prompt": "What does a cow eat?", "chosen": "Grass.", "rejected": "A cow is an animal."}'


@dataclass
class Preferences:
    """What a file of preferences gave; `taken` + `open` + the sum of `left_out` is the number of comparisons in it."""

    path: Path
    formats: Counter = field(default_factory=Counter)  # name -> rows of the file
    read: int = 0  # rows of the file
    rows: list = field(default_factory=list)  # {"prompt", "chosen", "rejected", "margin", "annotator", "split"}
    ties: list = field(default_factory=list)  # the same, of answers that were found equally good
    pairs: list = field(default_factory=list)  # pairs that nobody has judged, for chapter 03
    left_out: Counter = field(default_factory=Counter)  # reason -> comparisons, or rows where there was no comparison
    where: dict = field(default_factory=dict)  # reason -> the first place it was met
    notes: list = field(default_factory=list)

    def prompts(self):
        """All prompts that can be learned from or labelled, each once, in the order of the file."""
        return list(dict.fromkeys(r["prompt"] for r in [*self.rows, *self.pairs]))


# ---------------------------------------------------------------- from rows to preferences


def understood(value):
    """(format, what a row says, who said it); raises Unusable with the reason where it says nothing that can be used.

    What different people say of one pair is no contradiction, so it matters who says it: "" if the row doesn't tell.
    """
    if isinstance(value, Unread):
        raise Unusable(*value.why.split(": ", 1))
    if not isinstance(value, dict):
        raise Unusable("no JSON object", shown(value, 40))
    row = plain_names(value)
    who = next((str(row[k])[:80] for k in PEOPLE if isinstance(row.get(k), str | int) and str(row[k])), "")
    for recognise in RECOGNISERS:
        if found := recognise(row):
            return *found, who
    raise Unusable("not understood", f"its fields are {', '.join(shown(f, 30) for f in list(value)[:8])}")


def outcomes(rows):
    """([(row, who, a `Said`, or a reason and a detail)], formats): at least one outcome for each row of a file."""
    out, scored, formats = [], {}, Counter()
    undone = {r.value.get("undoes") for r in rows if isinstance(r.value, dict) and r.value.get("event") == "undo"}
    for row in rows:
        try:
            if undone and isinstance(row.value, dict) and {row.value.get("event_id"), row.value.get("undoes")} & undone:
                raise Unusable("taken back")
            kind, said, who = understood(row.value)
        except Unusable as e:
            out.append((row, "", (e.why, e.detail)))
            continue
        except RecursionError:
            out.append((row, "", ("nested too deeply", "")))
            continue
        formats[kind] += 1
        for x in said:
            if isinstance(x, Scored):
                scored.setdefault((x.prompt, kind), []).append((row, who, x))
            else:
                out.append((row, who, x))
    for group in scored.values():
        out += paired(group)
    return out, formats


def paired(group):
    """Outcomes of answers to one prompt that came in rows of their own: each is paired with those worth less."""
    out, used = [], set()
    for one, other in pairs_of([(entry, entry[2].worth) for entry in group]):
        if one[1] == other[1] or one[0][2].answer == other[0][2].answer:
            continue
        (row, who, good), (below, _, bad) = (one[0], other[0]) if one[1] > other[1] else (other[0], one[0])
        both = Row(f"{row.place} and {below.place}", row.split or below.split, row.value)
        out.append((both, who, Said(good.prompt, good.answer, bad.answer)))
        used |= {id(one[0]), id(other[0])}
    alone = "no answer to the same prompt with another label or score", ""
    return out + [(row, who, alone) for row, who, _ in (e for e in group if id(e) not in used)]


def problem_with(said):
    """Why a comparison teaches nothing, or ""."""
    if not said.prompt:
        return "no prompt"
    if not said.better or not said.worse:
        return "empty answers"
    if said.better == said.worse:
        return "equal answers"
    return "ties" if said.tie else ""


def sifted(found):
    """Outcomes with a reason for each comparison that teaches nothing, repeats another or contradicts it.

    Yields (row, who, a `Said` or None, reason or "", detail).
    """
    seen, sides = set(), {}
    for _, who, said in found:
        if isinstance(said, Said) and not said.tie and not said.open:
            sides.setdefault((who, said.prompt, frozenset((said.better, said.worse))), set()).add(said.better)
    for row, who, said in found:
        if not isinstance(said, Said):
            yield row, who, None, *said
            continue
        pair = frozenset((said.better, said.worse))
        key, why = (who, said.prompt, pair, said.tie, said.open), problem_with(said)
        if why in ("", "ties") and key in seen:
            why = "duplicates"
        elif not why and not said.open and len(sides[who, said.prompt, pair]) > 1:
            why = "contradictions"
        if why in ("", "ties"):
            seen.add(key)
        yield row, who, said, why, ""


def read(path, parameter="PREFERENCES"):
    """The `Preferences` in a file or folder.

    Raises WorkbookError, in one sentence, where there are none: with the fields found and a row that works.
    """
    rows, notes = tables.read(path, parameter)
    if is_log(rows) and tables.home(path).is_file():
        return from_log(tables.home(path))
    data = Preferences(Path(path), read=len(rows), notes=notes)
    found, data.formats = outcomes(rows)
    check_numbers(found, parameter)
    for row, who, said, why, detail in sifted(found):
        take(data, row, who, said, why, detail)
    if data.pairs and not data.rows:
        data.notes.append(f"No field says which answer is better (such as {', '.join(CHOICES[:3])}), and none scores.")
    if not data.rows and not data.pairs:
        raise WorkbookError(nothing_in(data, rows, parameter))
    return data


def check_numbers(found, parameter):
    """Raise WorkbookError where a choice is a number that no answer has: then nobody knows what the others mean."""
    details = [said[1].strip("'") for _, _, said in found if isinstance(said, tuple) and said[0] == NAMES_NEITHER]
    odd = [d for d in details if d in ("0", "1", "2", "0.0", "1.0", "2.0")]
    if odd:
        raise WorkbookError(
            f"{len(odd):,} choices in the file that {parameter} names are {odd[0]}, and no answer is called so: what "
            'these numbers mean cannot be told. Write "a" and "b" for answers in response_a and response_b.'
        )


def take(data, row, who, said, why, detail=""):
    """Put one outcome into `data`."""
    if why:
        data.left_out[why] += 1
        data.where.setdefault(why, ": ".join(filter(None, (row.place, detail))))
    if said is None or why not in ("", "ties"):
        return
    named = plain_names(row.value)
    split = SPLITS.get(str(named.get("split", "")).strip().lower(), row.split)
    if said.open:
        texts = {"prompt": said.prompt, "response_a": said.better, "response_b": said.worse}
        data.pairs.append({"pair_id": f"pair-{len(data.pairs):05d}", **texts})
        return
    made = {"prompt": said.prompt, "chosen": said.better, "rejected": said.worse, "margin": said.margin}
    (data.ties if why else data.rows).append(made | {"annotator": who, "split": split})


def nothing_in(data, rows, parameter):
    """One sentence on a file without a preference: what was found in it, and a row that works."""
    why = ", ".join(f"{reason}: {n:,}" for reason, n in data.left_out.most_common(3))
    fields = next((list(r.value) for r in rows if isinstance(r.value, dict)), None)
    held = f"its fields are {', '.join(shown(f, 30) for f in fields[:12])}" if fields else "it holds no fields"
    return (
        f"No preference could be taken from {shown(str(data.path), 200)}, which {parameter} names ({why or 'no rows'}; "
        f"{held}). A row that works is {EXAMPLE}"
    ).rstrip(".") + "."


# ---------------------------------------------------------------- this workbook's own log


def is_log(rows):
    """Whether the rows are events of this workbook's log."""
    first = rows[0].value if rows else None
    return isinstance(first, dict) and first.get("event") in ("label", "undo") and "event_id" in first


def from_log(path):
    """The `Preferences` in a log of labels, after all that was taken back in it."""
    events, warnings = feedback.read_events(path)
    labels = feedback.replay(events)
    rows, left_out = feedback.to_preferences(labels)
    words = {"tie": "ties", "both_bad": "both bad", "skip": "skipped", "repeat": "repeats"}
    data = Preferences(path, Counter({"this workbook's log": len(events)}), len(events), notes=warnings)
    data.left_out.update({words[k]: n for k, n in left_out.items()})
    data.left_out["taken back"] += len(events) - len(labels)
    data.left_out = +data.left_out
    chosen = [x for x, earlier in feedback.with_earlier(labels) if x["choice"] in ("a", "b") and not earlier]
    seen = set()
    for row, label in zip(rows, chosen, strict=True):
        said = Said(row["prompt"].strip(), row["chosen"].strip(), row["rejected"].strip(), row["margin"])
        why = problem_with(said) or ("duplicates" if (label["annotator"], said) in seen else "")
        seen.add((label["annotator"], said))
        take(data, Row("", "", {}), label["annotator"], said, why)
    ties = feedback.tie_rows(labels)
    data.ties = [{k: v for k, v in r.items() if k != "tie"} | {"annotator": "", "split": ""} for r in ties]
    if not data.rows:
        raise WorkbookError(
            f"The log {shown(str(path), 200)} holds no choice between two answers "
            f"({', '.join(f'{n} {why}' for why, n in data.left_out.items()) or 'no labels'}). Label more in chapter 03."
        )
    simulated = sum(map(feedback.is_simulated, data.rows))
    data.notes += [f"{simulated} of them are SIMULATED labels."] if simulated else []
    return data


# ---------------------------------------------------------------- saying and using it


def report(data, examples=3):
    """What a file was taken for, how much was taken, what was left out and why, and the first few: a text."""
    kinds = "; ".join(f"{name} ({n})" if len(data.formats) > 1 else name for name, n in data.formats.most_common())
    lines = [
        f"{data.path.name}: read as {kinds}. {plural(data.read, 'row')} gave {plural(len(data.rows), 'comparison')}."
    ]
    if data.pairs:
        lines.append(f"{plural(len(data.pairs), 'pair')} still to be judged: chapter 03 asks you.")
    reasons = [
        f"{why} {n:,}" + (f" (first: {data.where[why]})" if data.where.get(why) else "")
        for why, n in data.left_out.most_common()
    ]
    lines.append(f"Left out: {'; '.join(reasons) or 'nothing'}.")
    for r in data.rows[:examples]:
        lines.append(f"  {shown(r['prompt'], 70)}\n    + {shown(r['chosen'], 90)}\n    - {shown(r['rejected'], 90)}")
    for p in data.pairs[: 0 if data.rows else examples]:
        lines.append(
            f"  {shown(p['prompt'], 70)}\n    ? {shown(p['response_a'], 90)}\n    ? {shown(p['response_b'], 90)}"
        )
    return "\n".join([*lines, *data.notes])


def plural(n, word):
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def labels(rows, ties=()):
    """Preferences, and ties, as label events, as if chapter 03 had collected them: a list.

    Which answer is called a, and which stood on the left, is drawn for each pair: the file does not say.
    """
    out, every = [], [*((r, False) for r in rows), *((r, True) for r in ties)]
    for n, (row, tie) in enumerate(every):
        a_better, left = random.Random(f"{n} {row['prompt']}").choices(("a", "b"), k=2)
        a, b = (row["chosen"], row["rejected"]) if a_better == "a" else (row["rejected"], row["chosen"])
        pair = {"pair_id": f"{OWN}{n:05d}", "prompt": row["prompt"], "response_a": a, "response_b": b}
        strength = round(3 * row["margin"]) if 0 < row["margin"] <= 1 else None
        choice = "tie" if tie else a_better
        who = row["annotator"] or "own file"
        event = feedback.label_event(pair, left, choice, who, strength=strength or None)
        out.append(event | {"event_id": pair["pair_id"], "ts": 0.0})
    return out


def kept_back(rows, task):
    """(others, rows of what is kept for measuring): prompts of the task's dev and test, and what the file calls so."""
    kept = {task.question(p) for s in ("dev", "test") for p in task.prompts(s)}
    kept |= {task.question(r["prompt"]) for r in rows if r.get("split") in ("dev", "test", "heldout")}
    back = [task.question(r["prompt"]) in kept for r in rows]
    return [r for r, b in zip(rows, back) if not b], [r for r, b in zip(rows, back) if b]


def split(rows, task, share=0.15, seed=0):
    """(train, held-out) of preference rows: no prompt, and no question of the task, is on both sides.

    Held out is what `kept_back` gives; where that is nothing, or all, about `share` of the prompts.  With two prompts
    or more neither side is empty.
    """
    train, held_out = kept_back(rows, task)
    return (train, held_out) if train and held_out else reward.split_by_prompt(rows, share, seed, task.question)


def fitting(rows, tokenizer, limit):
    """The rows of which prompt and both answers fit into `limit` tokens; says how many do not.

    Raises WorkbookError where none does.
    """
    fit, too_long = reward.that_fit(tokenizer, rows, limit)
    if too_long:
        print(
            f"{too_long} of {plural(len(rows), 'comparison')} left out: longer than the {limit} tokens that are read."
        )
    if rows and not fit:
        raise WorkbookError(
            f"All {len(rows)} comparisons are longer than the {limit} tokens that are read; choose another MODEL."
        )
    return fit
