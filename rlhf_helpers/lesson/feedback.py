"""Human feedback on disk: an append-only log of events, and what is made of it.

Every click becomes one JSON object on one line, flushed and synced before the next pair shows.
Nothing in the file is ever changed: taking a label back appends an event that names it.  The
state is what `replay` makes of the events; preferences and summaries are made of the state.
"""

import itertools
import json
import math
import os
import time
import uuid
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

from ..engine.files import WorkbookError, parse, shown, storable, write_jsonl

try:
    import fcntl
except ImportError:  # Windows: one write per event has to do
    fcntl = None  # type: ignore[assignment]

SCHEMA = 2  # 1 had labels and their undoing only, which are still written as such
CHOICES = ("a", "b", "tie", "both_bad", "skip")
PAIR_FIELDS = ("pair_id", "prompt", "response_a", "response_b")
TEXTS = {"label": PAIR_FIELDS, "undo": ("undoes",), "rating": ("prompt", "response")}  # of each kind of event
KINDS = ("label", "undo")  # of events that are read unless ratings are asked for
NEWER = "a newer version of the workbook wrote it"
TAIL = 256  # bytes of a log by which it is known again
ENOUGH = 24  # labels of one's own from which the chapters learn from them alone


# ---------------------------------------------------------------- events


def label_event(pair, left, choice, annotator, *, strength=None, note="", is_repeat=False, seconds=None, reasons=()):
    """One judgement.  `left` and `choice` name the pair's own a and b, wherever they were shown.

    strength: 1 slightly, 2 clearly, 3 much better, or None; seconds: time taken, None if nobody timed it;
    reasons: words picked from a list, left out of the event where there are none.
    """
    return {
        "schema": 1,
        "event": "label",
        "event_id": uuid.uuid4().hex,
        **{f: pair[f] for f in PAIR_FIELDS},
        "left": left,
        "choice": choice,
        "strength": strength,
        "note": note,
        **({"reasons": list(reasons)} if reasons else {}),
        "annotator": annotator,
        "is_repeat": is_repeat,
        "seconds": seconds,
        "ts": round(time.time(), 3),
    }


def undo_event(label):
    """The event that takes `label` back."""
    return {
        "schema": 1,
        "event": "undo",
        "event_id": uuid.uuid4().hex,
        "undoes": label["event_id"],
        "pair_id": label["pair_id"],
        "annotator": label["annotator"],
        "ts": round(time.time(), 3),
    }


def edit_event(pair, side, text, annotator, *, seconds=None):
    """The label that an edit makes: `text` is better than the answer that it was made of, the pair's own a or b.

    Its pair has the edited answer as a.  With "made": "edit" it is a demonstration, too (see `to_demonstrations`).
    """
    old = pair["response_" + side]
    if not text.strip() or text.strip() == old.strip():
        raise WorkbookError("Nothing was changed, so there is nothing to learn from. Edit the answer, then save.")
    made = {"pair_id": f"{pair['pair_id']} edited", "prompt": pair["prompt"], "response_a": text, "response_b": old}
    return {**label_event(made, "b", "a", annotator, seconds=seconds), "made": "edit"}


def ranking_events(name, prompt, responses, ranks, annotator, *, seconds=None):
    """The labels that a ranking implies, one for each two answers: k (k - 1) / 2 of them (Ouyang et al. 2022).

    ranks: a number for each response, 1 for the best; equal ranks are a tie.  name: what the pair_ids begin with.
    """
    if len(ranks) != len(responses) or len(responses) < 2:
        raise WorkbookError(f"{len(responses)} answers were given {len(ranks)} ranks; each of at least two needs one.")
    out = []
    for i, j in itertools.combinations(range(len(responses)), 2):
        pair = dict(zip(PAIR_FIELDS, (f"{name} {i}-{j}", prompt, responses[i], responses[j])))
        choice = "tie" if ranks[i] == ranks[j] else "a" if ranks[i] < ranks[j] else "b"
        out.append({**label_event(pair, "a", choice, annotator, seconds=seconds), "made": "ranking", "group": name})
    return out


def rating_event(prompt, response, good, annotator, *, seconds=None):
    """A thumb up (`good`) or down for a single answer."""
    return {
        "schema": 2,
        "event": "rating",
        "event_id": uuid.uuid4().hex,
        "prompt": prompt,
        "response": response,
        "good": bool(good),
        "annotator": annotator,
        "seconds": seconds,
        "ts": round(time.time(), 3),
    }


def problem_with(event):
    """What is wrong with an event, in words; "" if nothing."""
    if not isinstance(event, dict):
        return "a JSON object {...} was expected"
    schema = event.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        return f"{NEWER} (schema {shown(schema)}; this one knows {SCHEMA})"
    allowed: dict[str, tuple] = {"schema": (1, SCHEMA), "event": tuple(TEXTS)}
    if event.get("event") == "label":
        allowed |= {"choice": CHOICES, "left": ("a", "b"), "strength": (None, 1, 2, 3), "is_repeat": (True, False)}
        allowed |= {"made": ("edit", "ranking")} if "made" in event else {}
    if event.get("event") == "rating":
        allowed |= {"good": (True, False)}
    for field, values in allowed.items():
        if field not in event or event[field] not in values:
            found = shown(event[field]) if field in event else "missing"
            return f"{field} is {found}, not one of {', '.join(map(repr, values))}"
    seconds = event.get("seconds")
    if seconds is not None and not (isinstance(seconds, int | float) and 0 <= seconds < math.inf):
        return f"seconds is {shown(seconds)}, not a time of 0 or more"
    reasons = event.get("reasons", [])
    if not isinstance(reasons, list) or not all(isinstance(x, str) for x in reasons):
        return f"reasons is {shown(reasons)}, not a list of words"
    for field in ("event_id", "annotator", *TEXTS[event["event"]]):
        if not isinstance(event.get(field), str):
            return f"the field {field!r} is missing or not text"
    return ""


@contextmanager
def _locked(path, mode):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        f = open(path, mode, buffering=0)
    except OSError as e:
        not_saved = "" if mode == "rb" else "The label was not saved: "
        raise WorkbookError(
            f"{not_saved}{path} cannot be opened ({e.strerror}). Choose a file that you may read and write."
        ) from None
    with f:  # closing gives the lock back
        if fcntl:
            with suppress(OSError):  # some network drives know no locks
                fcntl.flock(f, fcntl.LOCK_SH if mode == "rb" else fcntl.LOCK_EX)
        yield f


def _mend_tail(f, path):
    """Make sure that the file ends with a newline; an incomplete last line moves to `<name>.torn`."""
    size = f.seek(0, os.SEEK_END)
    f.seek(max(size - 1, 0))
    if f.read(1) in (b"", b"\n"):
        return
    f.seek(0)
    tail = f.read().rpartition(b"\n")[2]
    try:
        parse(tail)
        f.write(b"\n")  # complete, only its newline was missing
    except ValueError:
        with open(f"{path}.torn", "ab") as torn:
            torn.write(tail + b"\n")
        f.truncate(size - len(tail))


def append_event(path, event):
    """Append one event and return when it is on disk: the offsets in bytes at which it (starts, ends).

    Takes a lock, so two writers never mix their lines.  Raises WorkbookError, with the file as it was,
    when the event is not valid or cannot be written.
    """
    path, wrong = Path(path), problem_with(event)
    if wrong:
        raise WorkbookError(f"This event was not saved: {wrong}.")
    data = (storable(json.dumps(event, ensure_ascii=False, allow_nan=False)) + "\n").encode()
    with _locked(path, "ab+") as f:
        try:
            _mend_tail(f, path)
            start = _write(f, data)
        except OSError as e:
            raise WorkbookError(
                f"The label was not saved to {path} ({e.strerror}). Make room and choose again."
            ) from None
    return start, start + len(data)


def _write(f, data):
    """Append `data` to the file and sync it, or leave the file as it was; returns the offset at which it starts."""
    start = f.seek(0, os.SEEK_END)
    try:
        if f.write(data) != len(data):
            raise OSError(28, "the disk is full")
        os.fsync(f.fileno())
    except BaseException:  # an interrupt, too: what was not confirmed is not there
        f.truncate(start)
        raise
    return start


def read_events(path, kinds=KINDS):
    """The events of a log and a list of warnings: (events, warnings).  kinds: of `TEXTS`; ratings only if asked for.

    A torn last line, left by a crash in the middle of a write, is dropped with a warning.  Any other
    line that is not an event raises WorkbookError with file and line number, and so does a missing file.
    """
    path = Path(path)
    if not path.is_file():
        raise WorkbookError(f"There is no file {path}. Run chapter 03 to label pairs, or check the path.")
    with _locked(path, "rb") as f:
        lines = f.read().split(b"\n")
    return _events_of(lines, path, kinds)


def _events_of(lines, path, kinds, before=0):
    """The events in `lines` (bytes) of a log, of which there are so many `before` them, and warnings."""
    events, warnings = [], []
    for n, line in enumerate(lines, before + 1):
        if not line.strip():
            continue
        try:
            event = parse(line)
            wrong = problem_with(event)
        except ValueError as e:
            wrong = f"this is not valid JSON in UTF-8 ({e})"
            if n == before + len(lines):  # what follows the last newline
                warnings.append(
                    f"{path}, line {n}: the last line is incomplete, as crashes leave it, and "
                    "was left out. All labels before it are there."
                )
                continue
        if wrong:
            do = "Update the workbook" if wrong.startswith(NEWER) else "Mend or delete the line"
            raise WorkbookError(f"{path}, line {n}: {wrong}. {do} and run the cell again.")
        events += [event] if event["event"] in kinds else []
    return events, warnings


class Follower:
    """Reads the events of one annotator from a log, again and again while others write to it, each line once.

    A log that was mended, exchanged or cut meanwhile no longer has the same bytes before the place up to which it was
    read; then all of it is read anew.
    """

    def __init__(self, path, annotator):
        self.path, self.annotator = Path(path), annotator
        self._forget()

    def _forget(self):
        self.size = 0  # bytes of the file when it was read
        self._events, self._lines, self._upto, self._tail = [], 0, 0, b""

    def read(self):
        """Events and warnings, as `read_events` gives them; none where there is no file yet."""
        if not self.path.is_file():
            self._forget()
            return [], []
        with _locked(self.path, "rb") as f:
            f.seek(self._upto - len(self._tail))
            if f.read(len(self._tail)) != self._tail:
                self._forget()
                f.seek(0)
            new = f.read()
        whole, rest = new[: new.rfind(b"\n") + 1], new[new.rfind(b"\n") + 1 :]
        lines = whole.count(b"\n")
        events, _ = _events_of(whole.split(b"\n"), self.path, KINDS, self._lines)
        last, warnings = _events_of([rest], self.path, KINDS, self._lines + lines)  # read again until it is whole
        self._events = self._events + [e for e in events if e["annotator"] == self.annotator]
        self._lines, self._upto, self._tail = self._lines + lines, self._upto + len(whole), (self._tail + whole)[-TAIL:]
        self.size = self._upto + len(rest)
        return self._events + [e for e in last if e["annotator"] == self.annotator], warnings


# ---------------------------------------------------------------- the state, and what is made of it


def replay(events):
    """The labels that stand after all events: an undo takes out the label that it names."""
    labels = {}
    for event in events:
        if event["event"] == "label":
            labels[event["event_id"]] = event
        else:
            labels.pop(event["undoes"], None)
    return list(labels.values())


def is_simulated(label):
    """Whether a program gave this label, or this preference row."""
    return label["annotator"].startswith("simulated:")


def labels_of(labels, annotator="you", stand_in="helpful", person=""):
    """The labels to learn from.

    For a simulated annotator: its own.  For "you": everything that people labelled, or where one is named as `person`
    only that one's; if that is fewer than `ENOUGH`, the simulated `stand_in` fills up with the other pairs.
    """
    if annotator != "you":
        return [x for x in labels if x["annotator"] == f"simulated:{annotator}"]
    people = [x for x in labels if not is_simulated(x) and x["annotator"] == (person or x["annotator"])]
    known = {pair_key(x) for x in people}
    rest = [x for x in labels if x["annotator"] == f"simulated:{stand_in}" and pair_key(x) not in known]
    return people if len(people) >= ENOUGH else people + rest


def pair_key(row):
    """What makes two pairs the same: their id and their three texts."""
    fields = ("pair_id", "prompt", "response_a", "response_b")
    return tuple(row[field] for field in fields)


def with_earlier(labels):
    """Each label with the first one of the same pair by the same annotator, or None where it is that: an iterator."""
    first = {}
    for label in labels:
        key = (label["annotator"], *pair_key(label))
        yield label, first.get(key)
        first.setdefault(key, label)


def to_preferences(labels):
    """Rows for training, and a count of the labels that give none: (rows, left_out).

    A row is {"prompt", "chosen", "rejected", "margin"}.  The first label of a pair by an annotator
    counts; margin is a third of the strength (0 if none was given), as in Llama 2 (Touvron et al. 2023).
    """
    rows, left_out = [], Counter()
    for label, earlier in with_earlier(labels):
        if earlier:
            left_out["repeat"] += 1
        elif label["choice"] in ("a", "b"):
            other = "b" if label["choice"] == "a" else "a"
            rows.append(
                {
                    "prompt": label["prompt"],
                    "chosen": label["response_" + label["choice"]],
                    "rejected": label["response_" + other],
                    "margin": (label["strength"] or 0) / 3,
                }
            )
        else:
            left_out[label["choice"]] += 1
    return rows, dict(left_out)


def tie_rows(labels):
    """A row {"prompt", "chosen", "rejected", "margin", "tie": True} for each tie; its two answers are in no order.

    As in `to_preferences`, the first label of a pair by an annotator counts.
    """
    return [
        {
            "prompt": label["prompt"],
            "chosen": label["response_a"],
            "rejected": label["response_b"],
            "margin": 0.0,
            "tie": True,
        }
        for label, earlier in with_earlier(labels)
        if label["choice"] == "tie" and not earlier
    ]


def write_preferences(path, labels):
    """Write `labels` in TRL's preference format, one JSON object per line; says what was left out."""
    rows, left_out = to_preferences(labels)
    write_jsonl(path, rows)
    words = {"tie": "ties", "both_bad": "both bad", "skip": "skipped", "repeat": "repeats"}
    counts = ", ".join(f"{w} {left_out.get(k, 0)}" for k, w in words.items())
    print(f"{len(labels)} labels gave {len(rows)} preferences in {Path(path).name}. Left out: {counts}.")
    return rows


def ratings_of(events):
    """The ratings that stand after all events (see `read_events`), the last of each answer by each annotator."""
    gone = {e["undoes"] for e in events if e["event"] == "undo"}
    ratings = [e for e in events if e["event"] == "rating" and e["event_id"] not in gone]
    return list({(e["annotator"], e["prompt"], e["response"]): e for e in ratings}.values())


def to_unpaired(labels, ratings=()):
    """Rows for unpaired training (KTO, Ethayarajh et al. 2024), and a count of what gives none: (rows, left_out).

    A row is {"prompt", "completion", "label"}, label True for good.  A rating is one row, a pair of which both were
    bad two; a choice between two answers says of neither that it is good, and stays with `to_preferences`.
    """
    rows = [{"prompt": r["prompt"], "completion": r["response"], "label": r["good"]} for r in ratings]
    left_out = Counter()
    for label, earlier in with_earlier(labels):
        if earlier:
            left_out["repeat"] += 1
        elif label["choice"] == "both_bad":
            texts = label["response_a"], label["response_b"]
            rows += [{"prompt": label["prompt"], "completion": text, "label": False} for text in texts]
        else:
            left_out["skip" if label["choice"] == "skip" else "compared"] += 1
    return rows, dict(left_out)


def to_demonstrations(labels):
    """Rows for fine-tuning, {"prompt", "completion"}, from the answers that were edited: (rows, left_out)."""
    rows = [{"prompt": x["prompt"], "completion": x["response_a"]} for x in labels if x.get("made") == "edit"]
    return rows, {"not edited": len(labels) - len(rows)} if len(rows) < len(labels) else {}


def write_unpaired(path, labels, ratings=()):
    """Write what `to_unpaired` gives in TRL's unpaired preference format; says what was left out."""
    rows, left_out = to_unpaired(labels, ratings)
    write_jsonl(path, rows)
    good = sum(r["label"] for r in rows)
    words = {"compared": "comparisons (those are preferences)", "skip": "skipped", "repeat": "repeats"}
    counts = ", ".join(f"{left_out.get(k, 0)} {w}" for k, w in words.items())
    print(
        f"{len(labels)} labels and {len(ratings)} ratings gave {len(rows)} single answers in {Path(path).name}, "
        f"{good} good and {len(rows) - good} bad. Left out: {counts}."
    )
    return rows


def write_demonstrations(path, labels):
    """Write what `to_demonstrations` gives in TRL's prompt-completion format; says what was left out."""
    rows, left_out = to_demonstrations(labels)
    write_jsonl(path, rows)
    print(
        f"{len(labels)} labels gave {len(rows)} demonstrations in {Path(path).name}. "
        f"Left out: {left_out.get('not edited', 0)} that are not edits."
    )
    return rows


def wilson(k, n, z=1.96):
    """95% interval for a share seen as k of n (Wilson 1927); (0, 1) if nothing was seen."""
    if n == 0:
        return 0.0, 1.0
    middle = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)  # at 0 and n rounding would leave the range


def cohen_kappa(a, b):
    """Agreement of two lists of choices beyond chance (Cohen 1960): 0 is what chance gives, 1 full agreement.

    nan where both always chose the same one thing, so that chance alone would give full agreement.
    """
    if len(a) != len(b) or not a:
        raise ValueError("kappa needs two lists of the same length")
    n = len(a)
    observed = sum(x == y for x, y in zip(a, b)) / n
    chance = sum(a.count(c) * b.count(c) for c in set(a)) / n**2
    return (observed - chance) / (1 - chance) if chance < 1 else math.nan


def kappa_interval(a, b):
    """A 95% interval of `cohen_kappa`: (low, high), nan where that is nan.

    Wilson's interval of the share on which the two agree, put into the same formula.  What chance gives is taken as
    known; with full agreement the interval still has a width.  Its coverage is tested.
    """
    n, same = len(a), sum(x == y for x, y in zip(a, b))
    kappa = cohen_kappa(a, b)
    if math.isnan(kappa):
        return math.nan, math.nan
    chance = sum(a.count(c) * b.count(c) for c in set(a)) / n**2
    low, high = wilson(same, n)
    return (low - chance) / (1 - chance), (high - chance) / (1 - chance)


def first_choices(labels):
    """What each annotator chose first for each pair, skipped ones left out: {annotator: {pair key: choice}}."""
    first = {}
    for label, earlier in with_earlier(labels):
        if not earlier and label["choice"] != "skip":
            first.setdefault(label["annotator"], {})[pair_key(label)] = label["choice"]
    return first


def summary(labels):
    """How the labelling went, as a dict.

    n; choices: count of each; seconds: median, None if untimed; repeats and consistent: pairs judged again
    and judged the same; decided and left: choices for one side, and for the left one of the two as shown.
    """
    again = [earlier["choice"] == label["choice"] for label, earlier in with_earlier(labels) if earlier]
    timed = [x["seconds"] for x in labels if x.get("seconds") is not None]
    decided = [x for x in labels if x["choice"] in ("a", "b") and "made" not in x]  # an edit has no side
    return {
        "n": len(labels),
        "choices": {c: sum(x["choice"] == c for x in labels) for c in CHOICES},
        "seconds": median(timed) if timed else None,
        "repeats": len(again),
        "consistent": sum(again),
        "decided": len(decided),
        "left": sum(x["choice"] == x["left"] for x in decided),
    }
