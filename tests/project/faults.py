"""Faults, put in one by one: nothing that was confirmed is lost, and what is said about it is clear.

    python tests/project/faults.py            # each a few times; prints the table
    python tests/project/faults.py --write    # as often as docs/faults.md says, and writes that file
    python tests/project/faults.py --write --only Ctrl-C "by link"    # the rows with these words; the others stay

Labels go the way of a reader's click: the button of the widget, the log, the status line.  A label counts as confirmed
when the status line has said so to another process.  A killed process takes nothing with it that the system already
has: a loss of power is not tried here; that each label is synced to the disk is tested in test_feedback.py.
"""

import argparse
import contextlib
import html
import io
import itertools
import json
import os
import platform
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import nbformat
import psutil
import torch
from websocket import WebSocketException

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # as a script this is tried on the package beside it

from served import Visitor  # noqa: E402, of benchmarks/

from rlhf_helpers.desk import labeller, served, workspace  # noqa: E402
from rlhf_helpers.engine import checkpoints, files, models  # noqa: E402
from rlhf_helpers.engine.files import WorkbookError  # noqa: E402
from rlhf_helpers.lesson import feedback  # noqa: E402

TABLE = ROOT / "docs" / "faults.md"
NOBODY = 65534
BUTTONS = ("a", "b", "tie", "both_bad", "skip", "undo")
Found = namedtuple("Found", "tried lost message")


# ---------------------------------------------------------------- another process


def start(work):
    """Run `work(tell)` in a forked process; returns its id and the pipe in which to read what it told (JSON lines)."""
    read, write = os.pipe()
    process = os.fork()
    if process:
        os.close(write)
        return process, os.fdopen(read)
    code = 1
    try:
        torch.set_num_threads(1)
        work(lambda value: os.write(write, json.dumps(value, default=float).encode() + b"\n"))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finish(process, pipe):
    """What a process told and its exit status, when it has ended."""
    with pipe:
        told = [json.loads(line) for line in pipe if line.endswith("\n")]
    return told, os.waitpid(process, 0)[1]


def ended(process):
    """Whether a process has ended; it can still be waited for."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill_after(seconds, process, pipe):
    """Kill a process (SIGKILL) so many seconds from now; returns what it told and whether it was still running."""
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)  # until it is waited for, its number is nobody else's
    told, status = finish(process, pipe)
    return told, status == signal.SIGKILL


def ended_well(work):
    """What a forked process told that must end by itself."""
    told, status = finish(*start(work))
    assert status == 0, status
    return told


# ---------------------------------------------------------------- a reader at the widget


def some_pairs(n=300):
    return [
        {"pair_id": f"p{i}", "prompt": f"Question {i}?", "response_a": f"Yes {i}. ß🙂", "response_b": f"No {i}."}
        for i in range(n)
    ]


@contextlib.contextmanager
def no_time_needed():
    """Let clicks count however fast they come, and show nothing."""
    with mock.patch.object(labeller, "DOUBLE_CLICK", 0), mock.patch("IPython.display.display", lambda *_: None):
        yield


def reader(path, name="you", n=300):
    """A labeller with its widget built, for somebody who needs no time to read."""
    x = labeller.Labeller(some_pairs(n), path, annotator=name, min_seconds=0)
    x.show()
    return x


def press(x, name):
    """Press a button: ("label" or "undo", its event id) if the widget then says that it was done, else its words."""
    last = x.labels[-1]["event_id"] if x.labels else ""
    x.buttons[name].click()
    said = x.status.value.partition(">")[2].partition("<")[0]
    if said.startswith("Saved"):
        return "label", x.labels[-1]["event_id"]
    return ("undo", last) if said.startswith("Took") else ("", said)


def keep_pressing(path, seed, tell, name="you", n=300, presses=10**9):
    """Press buttons at random and tell what was confirmed."""
    x, rng = reader(path, name, n), random.Random(seed)
    while not x.done and presses:
        tell(press(x, rng.choice(BUTTONS)))
        presses -= 1


def lost(path, told):
    """How many confirmed events the log lacks, plus how many labels stand twice for one question of one annotator."""
    events = feedback.read_events(path)[0] if path.exists() else []
    labels = {e["event_id"] for e in events if e["event"] == "label"}
    undone = {e["undoes"] for e in events if e["event"] == "undo"}
    asked = [(x["annotator"], x["is_repeat"], *feedback.pair_key(x)) for x in feedback.replay(events)]
    missing = [i for what, i in told if what and i not in {"label": labels, "undo": undone}[what]]
    return len(missing) + len(asked) - len(set(asked))


def refusal(do):
    """What is said when `do()` fails, as it must."""
    try:
        do()
    except WorkbookError as e:
        return str(e)
    raise AssertionError("it did not fail")


# ---------------------------------------------------------------- killed


def killed_while_labelling(folder, times, rng):
    """At a random moment between the opening of the log and some forty clicks later; a log takes ten kills."""
    wrong, clicks = 0, 0
    for log in range(-(-times // 10)):
        path, told = folder / f"log{log}.jsonl", []
        for _ in range(min(10, times - 10 * log)):
            child = start(lambda tell, seed=rng.random(): keep_pressing(path, seed, tell))
            told += kill_after(rng.uniform(0, 0.1), *child)[0]
            wrong += lost(path, told)
            wrong += reader(path).current is None and len(told) < 300  # opening it again goes on
        clicks += sum(bool(what) for what, _ in told)
    return Found(times, wrong, f"none; the widget goes on at the next pair ({clicks:,} confirmed clicks)")


def killed_while_writing(folder, times, rng):
    """In the middle of writing a label, after a random number of its bytes."""
    wrong, message, path, told = 0, "", folder / "log.jsonl", []

    def die(f, data):
        f.write(data[: rng.randrange(len(data))])
        os.kill(os.getpid(), signal.SIGKILL)

    def work(tell, seed):
        keep_pressing(path, seed, tell, n=2000, presses=3)
        rng.seed(seed)
        feedback._write = die
        keep_pressing(path, seed, tell, n=2000)

    for _ in range(times):
        told += finish(*start(lambda tell, seed=rng.random(): work(tell, seed)))[0]
        message = next(iter(feedback.read_events(path)[1]), message)
        wrong += lost(path, told)
    wrong += len(told) < 3 * times  # each of them came to its fourth click
    return Found(times, wrong, message)


def killed_while_training(folder, times, rng, module):
    """At any moment of a training, then at one after its first checkpoint; then the same call goes on to the end."""

    def train(tell, path=None):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            weights, *rest = module.long_run(path)
        tell([checkpoints.digest(torch.nn.ParameterList(weights)), rest, said.getvalue().strip()])

    began = time.perf_counter()
    (whole,) = ended_well(train)
    took, wrong, resumed, message = time.perf_counter() - began, 0, 0, ""
    for n in range(times):
        path = folder / f"run{n}.pt"
        for wait in (False, True):
            child = start(lambda tell: train(tell, path))
            while wait and not path.exists() and not ended(child[0]):
                time.sleep(0.001)
            kill_after(rng.uniform(0, took / 2 if wait else took), *child)
        (again,) = ended_well(lambda tell: train(tell, path))
        wrong += again[:2] != whole[:2]
        resumed, message = resumed + bool(again[2]), again[2] or message
    return Found(times, wrong, f"{message} ({resumed} of the {times} had a checkpoint to go on from)")


def killed_in_reward_training(folder, times, rng):
    import test_reward

    return killed_while_training(folder, times, rng, test_reward)


def killed_in_ppo(folder, times, rng):
    import test_ppo

    return killed_while_training(folder, times, rng, test_ppo)


def small_model(seed=0):
    tokenizer = models.new_tokenizer(["a few words"], vocab_size=270)
    return models.new_model(tokenizer, seed, layers=1, width=16, heads=2), tokenizer


def killed_while_saving(folder, times, rng):
    """At a random moment while a model folder is replaced, again and again: it holds the old model or the new one."""
    models.save_model(*small_model(), folder / "runs" / "models" / "policy", "# 0")
    ws = SimpleNamespace(runs=folder / "runs", data=folder / "none", own_model=False, prompts=None, preferences=None)
    known = {checkpoints.digest(small_model(seed)[0]) for seed in range(2)}
    made, wrong = [small_model(seed) for seed in range(2)], 0

    def work(tell):
        while True:
            for model, tokenizer in made:
                models.save_model(model, tokenizer, ws.runs / "models" / "policy", "# again")

    for _ in range(times):
        kill_after(rng.uniform(0, 0.08), *start(work))
        found, _ = models.load_model(workspace.find(ws, "models/policy", quiet=True))
        wrong += checkpoints.digest(found) not in known
    return Found(times, wrong, "none; a hidden folder may be left beside the model")


# ---------------------------------------------------------------- no room, no right


def tmpfs_works():
    with tempfile.TemporaryDirectory() as folder:
        done = (
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True) if not os.getuid() else None
        )
        return bool(done and done.returncode == 0 and subprocess.run(["umount", folder]).returncode == 0)


@contextlib.contextmanager
def small_disk(folder, kib, tmpfs):
    """A disk of `kib` KiB at `folder`: a tmpfs, or else a limit on the size of files for who calls what this gives."""
    folder.mkdir(exist_ok=True)
    if tmpfs:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder], check=True)
    try:
        yield lambda: None if tmpfs else resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kib, 1024 * kib))
    finally:
        if tmpfs:
            subprocess.run(["umount", folder], check=True)


def way(tmpfs):
    return "a small tmpfs" if tmpfs else "a limit on the size of files"


def full_disk_while_labelling(folder, times, rng, tmpfs=False):
    """Clicks until there is no room; after room was made the same click is saved."""
    wrong, message = 0, ""
    for n in range(times):
        with small_disk(folder / f"disk{n}", rng.randrange(16, 40), tmpfs) as limit:
            path, filler = folder / f"disk{n}" / "log.jsonl", folder / f"disk{n}" / "filler"

            def fill(tell):
                limit()
                x = reader(path)
                while not x.errors:
                    tell(press(x, "a"))

            filler.write_bytes(b"x" * 4096)
            told = ended_well(fill)
            message = told.pop()[1]
            wrong += lost(path, told) + bool(feedback.read_events(path)[1]) + ("not saved" not in message) + (not told)
            filler.unlink()
            told += ended_well(lambda tell: tell(press(reader(path), "b")))  # without the limit, or with more room
            wrong += lost(path, told) + (told[-1][0] != "label")
    return Found(times, wrong, f"{message} (made with {way(tmpfs)})")


def full_disk_while_saving(folder, times, rng, tmpfs=False):
    """A model and a checkpoint that there is no room for: the old ones stay."""
    (model, tokenizer), wrong = small_model(), 0
    optimizer = torch.optim.AdamW(model.parameters())

    def save(tell):
        limit()
        tell(refusal(lambda: models.save_model(*small_model(1), place / "model", "# new")))
        tell(
            refusal(
                lambda: checkpoints.save_checkpoint(place / "run.pt", {}, model, optimizer, [], x=torch.zeros(99999))
            )
        )

    for n in range(times):
        place = folder / f"disk{n}"
        with small_disk(place, rng.randrange(*((80, 110) if tmpfs else (1, 38))), tmpfs) as limit:
            models.save_model(model, tokenizer, place / "model", "# old")
            files.write_text(place / "run.pt", "the old one")
            message, other = ended_well(save)
            wrong += checkpoints.digest(models.load_model(place / "model")[0]) != checkpoints.digest(model)
            wrong += (place / "run.pt").read_text() != "the old one" or "run.pt was not written" not in other
            wrong += sorted(p.name for p in place.iterdir()) != ["model", "run.pt"]
    return Found(times, wrong, f"{message} (made with {way(tmpfs)})")


def read_only_folder(folder, times, rng):
    """A reader without the right to write, in a folder with a log and a model; root becomes nobody for it."""
    place, wrong, said = folder / "models", 0, []
    path, told = place / "log.jsonl", []
    models.save_model(*small_model(), place / "policy", "# old")
    keep_pressing(path, 1, told.append, presses=5)
    before = path.read_bytes()
    for p in (path, place, *folder.parents[:-1], folder):
        p.chmod(0o555 if p in (path, place) else p.stat().st_mode | 0o55)

    def work(tell):
        if not os.getuid():
            os.setuid(NOBODY)
        x = reader(path)
        tell([len(x.labels), press(x, "a")[1], len(x.errors)])
        tell(refusal(lambda: models.save_model(*small_model(1), place / "policy", "# new")))
        tell(refusal(lambda: files.write_json(place / "metrics.json", {})))
        tell(refusal(lambda: workspace.setup(RUNS_DIR=str(place / "runs"))))

    for _ in range(times):
        (shown, message, errors), *said = ended_well(work)
        wrong += shown != len(reader(path).labels) or errors != 1 or "cannot be opened" not in message
        wrong += not all("Permission denied" in text for text in [message, *said]) or path.read_bytes() != before
    place.chmod(0o755)
    return Found(times, wrong, message)


# ---------------------------------------------------------------- damaged and foreign files


def some_log(path, n=4):
    """A log of n labels, and the bytes of its lines."""
    path.unlink(missing_ok=True)
    x = reader(path)
    for i in range(n):
        press(x, BUTTONS[i % 5])
    return path.read_bytes().splitlines(keepends=True)


def torn_last_line(folder, times, rng):
    """A last line that ends after a random number of its bytes: the others are read, and labelling goes on."""
    wrong, path = 0, folder / "log.jsonl"
    for _ in range(times):
        *whole, last = some_log(path)
        path.write_bytes(b"".join(whole) + last[: rng.randrange(1, len(last) - 1)])
        events, warnings = feedback.read_events(path)
        message = warnings[0]
        wrong += len(events) != len(whole) or press(reader(path), "a")[0] != "label"
        wrong += path.read_bytes().splitlines(keepends=True)[:-1] != whole or len(feedback.read_events(path)[0]) != 4
        wrong += Path(f"{path}.torn").read_bytes().splitlines()[-1] not in last
    return Found(times, wrong, message)


def refused(folder, times, rng, spoil):
    """A line in the middle that cannot be read: it is named, the file stays as it is, and no click is written."""
    wrong, path = 0, folder / "log.jsonl"
    for _ in range(times):
        lines = some_log(path)
        n = rng.randrange(len(lines) - 1)
        lines[n] = spoil(lines[n], rng)
        path.write_bytes(b"".join(lines))
        message = refusal(lambda: reader(path))
        wrong += f"line {n + 1}:" not in message or path.read_bytes() != b"".join(lines)
    return Found(times, wrong, message)


def another_version(folder, times, rng):
    return refused(folder, times, rng, lambda line, rng: line.replace(b'"schema": 1', b'"schema": 3'))


def spoiled_utf8(line, rng):
    at = rng.randrange(len(line) - 1)
    return line[:at] + bytes([rng.randrange(0xF8, 0x100)]) + line[at:]


def invalid_utf8(folder, times, rng):
    return refused(folder, times, rng, spoiled_utf8)


def windows_editor(folder, times, rng):
    """Line ends of Windows and a byte order mark: the same labels, and labelling goes on."""
    wrong, path = 0, folder / "log.jsonl"
    for n in range(times):
        whole = b"".join(some_log(path))
        before = feedback.read_events(path)[0]
        mark, end = [(b"\xef\xbb\xbf", b"\r\n"), (b"", b"\r\n"), (b"\xef\xbb\xbf", b"\n")][n % 3]
        path.write_bytes(mark + whole.replace(b"\n", end))
        wrong += press(reader(path), "a")[0] != "label" or feedback.read_events(path)[0][:-1] != before
    return Found(times, wrong, "none; it is read as any other")


def many_lines(folder, times, rng, lines=100_000):
    """A log of 100,000 lines of others: it opens, and a click is as quick as ever."""
    path, wrong, slowest = folder / "log.jsonl", 0, 0.0
    line = json.dumps(feedback.label_event({**some_pairs(1)[0], "pair_id": "other"}, "a", "a", "somebody"))
    path.write_text((line + "\n") * lines, encoding="utf-8")
    for _ in range(times):
        began = time.perf_counter()
        x = reader(path)
        opened = time.perf_counter() - began
        for _ in range(20):
            began = time.perf_counter()
            wrong += press(x, "a")[0] != "label"
            slowest = max(slowest, time.perf_counter() - began)
    wrong += len(feedback.read_events(path)[0]) != lines + 20 * times
    return Found(times, wrong, f"none; it opens in {opened:.1f} s, and no click takes over {1000 * slowest:.0f} ms")


def two_writers(folder, times, rng):
    """Two processes click into one file at once, in every second try under the same name."""
    wrong, message = 0, "none; under one name both labels of a pair are kept, and the first one counts"
    for n in range(times):
        path, names = folder / f"log{n}.jsonl", ("ann", "bob" if n % 2 else "ann")
        children = [start(lambda tell, name=name: keep_pressing(path, name, tell, name, presses=60)) for name in names]
        told = [finish(*child)[0] for child in children]
        events, warnings = feedback.read_events(path)
        known = {e.get("undoes", e["event_id"]) for e in events}
        wrong += len([i for what, i in sum(told, []) if what and i not in known]) + len(warnings)
        wrong += sum(len(t) != 60 for t in told)
    return Found(times, wrong, message)


def log_renamed(folder, times, rng):
    """Somebody renames the log between two clicks: what was in it is asked again, into a new one."""
    path, told, wrong, said = folder / "log.jsonl", [], 0, ""
    x = reader(path)
    for n in range(times):
        told += [press(x, rng.choice(("a", "b", "tie", "skip"))) for _ in range(rng.randrange(1, 10))]
        path.rename(folder / f"log{n}.jsonl")
        told.append(press(x, rng.choice(("a", "undo"))))
        wrong += "Somebody changed the file of labels" not in x.status.value
        said = html.unescape(re.sub("<[^>]*>", "", x.status.value))
    return Found(times, wrong + lost_in_all(folder, told), said)


def lost_in_all(folder, told):
    """As `lost`, where the log was renamed: of the labels that none of its parts has."""
    paths = [*folder.glob("log*.jsonl")]
    events = [e for path in paths for e in feedback.read_events(path)[0]]
    known = {e.get("undoes", e["event_id"]) for e in events}
    return sum(bool(what) and i not in known for what, i in told) + sum(lost(path, []) for path in paths)


def clock_jumps_back(folder, times, rng):
    """The clock of the machine jumps back by up to ten years between clicks, once to before 1970."""
    wrong, path, clock = 0, folder / "log.jsonl", feedback.time
    try:
        for _ in range(times):
            path.unlink(missing_ok=True)
            now, told = [clock.time()], []

            def back():
                now[0] -= rng.uniform(0, 3e8)
                return now[0]

            feedback.time = SimpleNamespace(time=back)
            keep_pressing(path, rng.random(), told.append, presses=40)
            wrong += lost(path, told) + any(e.get("seconds", 0) < 0 for e in feedback.read_events(path)[0])
            standing = [i for what, i in told if what == "label" and ("undo", i) not in told]
            wrong += [x["event_id"] for x in reader(path).labels] != standing
    finally:
        feedback.time = clock
    return Found(
        times, wrong, "none; the order of the lines counts, and the seconds are those of a clock that only runs on"
    )


# ---------------------------------------------------------------- make label


@contextlib.contextmanager
def label_server(folder, before=lambda: None, port=0):
    """`make label` in another process: (its id, links, port).  It is killed in the end, if it still runs.

    before: called in that process first.  The first three links are for people who click, the last for one who comes.
    """
    with served.listen("127.0.0.1", port) as s:
        port = s.getsockname()[1]
    names = ["ann", "bob", "cem", "dan"]
    tokens = served.links(folder / "links.json", names)

    def work(tell):
        before()
        sys.stdout = open(os.devnull, "w")
        with contextlib.suppress(KeyboardInterrupt):
            served.serve(names, some_pairs(), folder / "log.jsonl", 0, "127.0.0.1", port)

    process, pipe = start(work)
    until(lambda: listens(port) or ended(process))
    try:
        yield process, [f"http://127.0.0.1:{port}/{tokens[name]}/" for name in names], port
    finally:
        kill_after(0, process, pipe)


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def until(true):
    """Wait until `true()`, for a minute at the most."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def keep_clicking(visitor, rng, told):
    """Click until the server is gone or says that a choice was not saved."""
    with contextlib.suppress(OSError, WebSocketException):
        while visitor.item:
            words = visitor.click(rng.choice(("a", "b", "tie", "skip")))
            told.append(("label", list(visitor.sent)[-1]) if "Saved" in words else ("", words))
            visitor.heard.add(words)
            if "was not saved to" in words:  # there is no room
                return
            time.sleep(rng.uniform(0, 0.1))


def at_once(visitors, told, rng, meanwhile):
    """Let all click while something happens; ends when none of them can go on."""
    threads = [threading.Thread(target=keep_clicking, args=(v, rng, told)) for v in visitors]
    for v, t in zip(visitors, threads):
        v.heard = set()
        t.start()
    meanwhile()
    for t in threads:
        t.join(60)
        assert not t.is_alive()


def while_three_click(folder, times, rng, put_in, before=lambda: None):
    """Call `put_in(visitors, links, on)` so many times while three people click: (visitors, what was told, how wrong).

    `on()` waits until a few more choices are told: whatever was put in, labelling must go on.
    """
    visitors, told = [], []
    with label_server(folder, before) as (process, links, _):
        visitors += [Visitor(link) for link in links[:3]]

        def on():
            at = len(told)
            until(lambda: len(told) > at + 3)

        def meanwhile():
            try:
                for _ in range(times):
                    on()
                    put_in(visitors, links, on)
            finally:
                os.kill(process, signal.SIGKILL)

        at_once(visitors, told, rng, meanwhile)
    return visitors, told, lost(folder / "log.jsonl", told)


def sentence(visitors, words):
    """One that a visitor heard with these words in it, or ""."""
    return next((said for v in visitors for said in v.heard if words in said), "")


def rewrite(path, change):
    """Write what `change` makes of a file's bytes, as somebody who has it to themselves for a moment."""
    with feedback._locked(path, "rb+") as f:
        text = f.read()
        f.seek(0)
        f.write(change(text))
        f.truncate()


def rewrite_line(path, n, change):
    """Change one line of a file; returns what it was."""
    lines = []

    def of_all(text):
        lines[:] = text.splitlines(keepends=True)
        return b"".join([*lines[:n], change(lines[n]), *lines[n + 1 :]])

    rewrite(path, of_all)
    return lines[n]


def server_killed(folder, times, rng, how=signal.SIGKILL, before=lambda rng: None):
    """The server ends while three people click, and is started again: what their pages kept arrives, once."""
    visitors, told, port, wrong = [], [], 0, 0
    for last in [False] * times + [True]:
        first = (lambda: None) if last else lambda seed=rng.random(): before(random.Random(seed))
        with label_server(folder, first, port) as (process, links, port):
            for v in visitors:
                try:
                    v.open()  # delivers what it kept
                except (OSError, WebSocketException):  # the server has ended over it
                    v.known = {}  # as in the card, no pair is asked whose choice is on its way
            visitors = visitors or [Visitor(link) for link in links[:3]]
            kept = {x["id"] for v in visitors for x in v.outbox}
            sent = [("label", i) for v in visitors for i in v.sent if i not in kept]
            wrong += lost(folder / "log.jsonl", told + sent) + (last and len(kept))
            if not last:
                stop = (lambda: (time.sleep(rng.uniform(0, 0.5)), os.kill(process, how))) if how else lambda: None
                at_once(visitors, told, rng, stop)
                until(lambda: ended(process))
    return Found(times, wrong, f"{served.AWAY} ({len(told):,} confirmed clicks)")


def server_stopped(folder, times, rng):
    """As with Ctrl-C in the terminal."""
    return server_killed(folder, times, rng, signal.SIGINT)


def server_killed_while_writing(folder, times, rng):
    """In the middle of writing a label, after a random number of its bytes."""

    def before(rng):
        write, left = feedback._write, [rng.randrange(1, 12)]

        def die(f, data):
            left[0] -= 1
            if left[0]:
                return write(f, data)
            f.write(data[: rng.randrange(len(data))])
            os.kill(os.getpid(), signal.SIGKILL)

        feedback._write = die

    found = server_killed(folder, times, rng, None, before)
    return found._replace(message=f"{found.message} A line that was not whole lies in log.jsonl.torn.")


def killed_while_drawing_links(folder, times, rng):
    """At a random moment while links are drawn for more and more people: nobody's link ever changes."""
    path, wrong = folder / "links.json", 0
    first = served.links(path, ["ann"])

    def work(tell):
        for n in range(10**9):
            served.links(path, ["ann", f"person {rng.random()} {n}"])

    for _ in range(times):
        kill_after(rng.uniform(0, 0.08), *start(work))
        wrong += not first.items() <= served.links(path, ["ann"]).items() or path.stat().st_mode & 0o077 > 0
        path.write_text(json.dumps(first))
    return Found(times, wrong, "none; a link that was printed holds")


def disk_full_by_link(folder, times, rng, tmpfs=False):
    """Three people click until there is no room: each is told, and after room was made the next click is saved."""
    wrong, message = 0, ""
    for n in range(times):
        place, told = folder / f"disk{n}", []
        with small_disk(place, rng.randrange(32, 60), tmpfs) as limit:
            with label_server(place, limit) as (_, links, port):
                visitors = [Visitor(link) for link in links[:3]]
                at_once(visitors, told, rng, lambda: None)
                said = [words for what, words in told if not what]
                wrong += len(said) != 3 or not all("was not saved" in words for words in said)
                message = said[0]
            wrong += lost(place / "log.jsonl", told) + bool(feedback.read_events(place / "log.jsonl")[1])
    return Found(times, wrong, f"{message} (made with {way(tmpfs)})")


def read_only_by_link(folder, times, rng):
    """The right to write is taken from the server and given back; then it is to be started without it."""
    path = folder / "log.jsonl"
    for p in (*folder.parents[:-1], folder):
        p.chmod(p.stat().st_mode | 0o55)
    folder.chmod(0o777)

    def nobody():
        import shinywidgets  # noqa: F401, while what is imported may be read
        import uvicorn  # noqa: F401

        files.parse(b"0")
        if not os.getuid():
            os.chown(folder / "links.json", NOBODY, NOBODY)
            os.setuid(NOBODY)

    def take_and_give_back(visitors, links, on):
        path.chmod(0o444)
        until(lambda: all("Permission denied" in v.status for v in visitors))
        path.chmod(0o644)
        until(lambda: all("Permission denied" not in v.status for v in visitors))

    visitors, told, wrong = while_three_click(folder, times, rng, take_and_give_back, nobody)
    wrong += sum("Permission denied" not in words for what, words in told if not what)
    folder.chmod(0o555)

    def begin(tell):
        (folder / "links.json").write_text("{}")  # so that one is drawn
        nobody()
        tell(refusal(lambda: served.serve(["ann"], some_pairs(), path, 0, "127.0.0.1", 0)))

    wrong += "links.json was not written (Permission denied)" not in ended_well(begin)[0]
    folder.chmod(0o755)
    return Found(times, wrong, sentence(visitors, "Permission denied"))


def torn_by_link(folder, times, rng):
    """Another program crashes while it writes a line: the others are read, and its half line is put aside."""
    path, torn = folder / "log.jsonl", []

    def tear(visitors, links, on):
        with feedback._locked(path, "rb+") as f:
            line = f.readline()
            torn.append(line[: rng.randrange(1, len(line) - 1)])
            f.seek(0, os.SEEK_END)
            f.write(torn[-1])
        on()

    visitors, told, wrong = while_three_click(folder, times, rng, tear)
    wrong += Path(f"{path}.torn").read_bytes().splitlines() != torn or bool(feedback.read_events(path)[1])
    wrong += sum("already labelled" not in words for what, words in told if not what)
    return Found(times, wrong, sentence(visitors, "incomplete") or "none; the next click put it aside unread")


def another_version_by_link(folder, times, rng):
    """A line of another version gets into the log: those who label go on, who comes is told, until it is mended."""
    path, said, wrong = folder / "log.jsonl", [], []

    def change_and_mend(visitors, links, on):
        n = rng.randrange(4)
        was = rewrite_line(path, n, lambda line: line.replace(b'"schema": 1', b'"schema": 3'))
        on()
        said.append(Visitor(links[3]).refused)
        wrong.append(f"line {n + 1}: a newer version" not in said[-1])
        rewrite_line(path, n, lambda _: was)
        wrong.append(Visitor(links[3]).refused != "")

    visitors, told, missing = while_three_click(folder, times, rng, change_and_mend)
    return Found(times, missing + sum(wrong) + sum(not what for what, _ in told), said[-1])


def spoiled_and_mended(folder, times, rng, spoil, words):
    """Somebody spoils a line of the log while three people click, and mends it: clicks wait, and all are saved."""
    path, said = folder / "log.jsonl", []

    def spoil_and_mend(visitors, links, on):
        n = rng.randrange(4)
        was = rewrite_line(path, n, lambda line: spoil(line, rng))
        until(lambda: all(f"line {n + 1}: {words}" in v.status for v in visitors))
        said.append(visitors[0].status)
        rewrite_line(path, n, lambda _: was)
        until(lambda: not any(words in v.status for v in visitors))

    visitors, told, wrong = while_three_click(folder, times, rng, spoil_and_mend)
    return Found(times, wrong + sum("already labelled" not in words for what, words in told if not what), said[-1])


def mended_by_others(folder, times, rng):
    return spoiled_and_mended(folder, times, rng, lambda line, _: line[1:], "this is not valid JSON")


def invalid_utf8_by_link(folder, times, rng):
    return spoiled_and_mended(folder, times, rng, spoiled_utf8, "this is not valid JSON in UTF-8 ('utf-8' codec")


def log_renamed_by_link(folder, times, rng):
    """Somebody renames the log while three people click: what was in it is asked again, into a new one."""
    path, n = folder / "log.jsonl", itertools.count()

    def rename(visitors, links, on):
        path.rename(folder / f"log{next(n)}.jsonl")
        on()

    visitors, told, _ = while_three_click(folder, times, rng, rename)
    said = sentence(visitors, "Somebody changed the file of labels")
    wrong = lost_in_all(folder, told) + sum("already labelled" not in words for what, words in told if not what)
    return Found(times, wrong + (not said), said)


def windows_editor_by_link(folder, times, rng):
    """Saved with the line ends of Windows and a byte order mark while three people click: no label is asked again."""
    path, kinds = folder / "log.jsonl", itertools.cycle([(b"\xef\xbb\xbf", b"\r\n"), (b"", b"\r\n"), (b"", b"\n")])

    def save(visitors, links, on):
        mark, end = next(kinds)
        rewrite(
            path, lambda text: mark + text.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\n", end)
        )
        on()

    visitors, told, wrong = while_three_click(folder, times, rng, save)
    wrong += sum(not what for what, _ in told) + bool(sentence(visitors, "Somebody changed"))
    return Found(times, wrong, "none; it is read as any other")


def many_lines_by_link(folder, times, rng, lines=100_000):
    """A log of 100,000 lines of others: three people open their pages and click."""
    path, wrong, opened, slowest = folder / "log.jsonl", 0, 0.0, 0.0
    line = json.dumps(feedback.label_event({**some_pairs(1)[0], "pair_id": "other"}, "a", "a", "somebody"))
    path.write_text((line + "\n") * lines, encoding="utf-8")
    for _ in range(times):
        with label_server(folder) as (_, links, _):
            began = time.perf_counter()
            visitors = [Visitor(link) for link in links[:3]]
            opened = max(opened, time.perf_counter() - began)
            for v in visitors * 10:
                began = time.perf_counter()
                wrong += "Saved" not in v.click("a")
                slowest = max(slowest, time.perf_counter() - began)
    wrong += len(feedback.read_events(path)[0]) != lines + 30 * times
    words = f"none; three pages open in {opened:.1f} s, and no click takes over {1000 * slowest:.0f} ms"
    return Found(times, wrong, words)


def two_writers_by_link(folder, times, rng):
    """Somebody labels in a notebook into the same log, in every second try under the name of one of the three."""
    wrong = 0
    for n in range(times):
        place, told = folder / f"log{n}", []
        place.mkdir()
        with label_server(place) as (process, links, _):
            visitors, name = [Visitor(link) for link in links[:3]], "ann" if n % 2 else "you"

            def in_notebook(tell):
                slowly = lambda value: (tell(value), time.sleep(0.02))  # noqa: E731
                keep_pressing(place / "log.jsonl", name, slowly, name, presses=40)

            child, theirs = start(in_notebook), []  # before there are threads
            at_once(visitors, told, rng, lambda: (theirs.extend(finish(*child)[0]), os.kill(process, signal.SIGKILL)))
        events, warnings = feedback.read_events(place / "log.jsonl")
        known = {e.get("undoes", e["event_id"]) for e in events}
        wrong += sum(bool(what) and i not in known for what, i in [*told, *theirs]) + len(warnings)
        wrong += len(theirs) != 40 or sum("already labelled" not in i for what, i in told if not what)
    return Found(times, wrong, "none; under one name both labels of a pair are kept, and the first one counts")


def clock_jumps_back_by_link(folder, times, rng):
    """The server's clock jumps back by up to ten years at every click: the order of the lines counts."""

    def back():
        now = [time.time()]

        def jump():
            now[0] -= rng.uniform(0, 3e8)
            return now[0]

        feedback.time = SimpleNamespace(time=jump)

    boards, wrong = [], 0

    def look(visitors, links, on):
        token = json.loads((folder / "links.json").read_bytes())[""]
        address = links[0].split("/")
        boards.append(urllib.request.urlopen("/".join([*address[:3], token, ""])).read().decode())

    visitors, told, wrong = while_three_click(folder, times, rng, look, back)
    events = feedback.read_events(folder / "log.jsonl")[0]
    wrong += sum(not what for what, _ in told) + any(e["seconds"] != 1.5 for e in events)
    wrong += sum("days ago" not in page for page in boards)
    return Found(times, wrong, "none; the order of the lines counts, and the seconds are the browser's")


# ---------------------------------------------------------------- make run

CHAPTERS = {
    "00_label": """from rlhf_helpers.desk import labeller
from rlhf_helpers.world.annotators import Annotator
pair = {"prompt": "Which?", "response_a": "Yes.", "response_b": "No, no."}
pairs = [{"pair_id": f"p{i}", **pair} for i in range(100)]
annotator = Annotator("brief")
x = labeller.Labeller(pairs, f"{RUNS_DIR}/feedback.jsonl", annotator=annotator.name)
x.label_with(annotator)
print(len(x.labels))""",
    "01_use": """from rlhf_helpers.engine import files
from rlhf_helpers.lesson import feedback
labels = feedback.replay(feedback.read_events(f"{RUNS_DIR}/feedback.jsonl")[0])
rows = feedback.write_preferences(f"{RUNS_DIR}/preferences.jsonl", labels)
files.write_json(f"{RUNS_DIR}/metrics/01_use.json", {"key_result": f"{len(rows)} rows"})""",
}
RUN = """import pathlib, sys
from rlhf_helpers.make import series
series.chapters = lambda only, deeper=False: sorted(pathlib.Path(sys.argv[1]).glob("*.ipynb"))
sys.exit(series.main(["--runs-dir", sys.argv[2]]))"""


def run_series(folder, runs):
    """The very command of `make run`, on two small chapters."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(folder), str(runs)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def made(runs):
    """What a run leaves, without what depends on the time of day."""
    labels = feedback.replay(feedback.read_events(runs / "feedback.jsonl")[0])
    metrics = files.parse((runs / "metrics" / "01_use.json").read_bytes())
    pages = [nbformat.read(p, 4) for p in sorted((runs / "series").glob("*.ipynb"))]
    printed = [o.get("text") for page in pages for c in page.cells if c.cell_type == "code" for o in c.outputs]
    asked = [(*feedback.pair_key(x), x["is_repeat"]) for x in labels]
    return asked, metrics, (runs / "preferences.jsonl").read_text().count("\n"), len(pages), printed[-1:]


def interrupted_run(folder, times, rng):
    """Stopped at a random moment, in turn with Ctrl-C (SIGINT) and with SIGKILL, and run again."""
    for name, source in CHAPTERS.items():
        parameters = nbformat.v4.new_code_cell("RUNS_DIR = ''", metadata={"tags": ["parameters"]})
        nb = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(source)])
        nb.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
        nbformat.write(nb, folder / f"{name}.ipynb")
    began = time.perf_counter()
    first = run_series(folder, folder / "whole")
    said = first.communicate()[1]
    assert first.returncode == 0, said
    took, whole, wrong, message = time.perf_counter() - began, made(folder / "whole"), 0, ""
    for n in range(times):
        runs, stop = folder / f"runs{n}", (signal.SIGINT, signal.SIGKILL)[n % 2]
        while True:
            run = run_series(folder, runs)
            time.sleep(rng.uniform(0.3, 0.95) * took)
            kernels = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
            run.send_signal(stop)
            said = run.communicate()[1].strip()
            if run.returncode not in (0, -signal.SIGINT):
                break
            took *= 0.9 if run.returncode == 0 else 1.1  # at its end before it could be stopped, or still importing
            shutil.rmtree(runs, ignore_errors=True)
        message = said.splitlines()[-1] if run.returncode == 130 else message
        wrong += run.returncode not in (130, -signal.SIGKILL) or "Traceback" in said
        wrong += len(psutil.wait_procs(kernels, timeout=20)[1])  # none of them stays
        again = run_series(folder, runs)
        again.communicate()
        wrong += again.returncode != 0 or made(runs) != whole
    return Found(times, wrong, message)


# ---------------------------------------------------------------- the table

# what; how often for the table, and in a quick try
FAULTS = {
    "killed while labelling": (killed_while_labelling, 300, 20),
    "killed in the middle of writing a label": (killed_while_writing, 100, 5),
    "killed while a reward model is trained": (killed_in_reward_training, 40, 2),
    "killed during PPO": (killed_in_ppo, 40, 2),
    "killed while a model is saved": (killed_while_saving, 100, 5),
    "disk full while labelling": (full_disk_while_labelling, 20, 2),
    "disk full while a model and a checkpoint are saved": (full_disk_while_saving, 20, 2),
    "read-only folder": (read_only_folder, 5, 1),
    "torn last line": (torn_last_line, 200, 10),
    "a line of another version": (another_version, 50, 3),
    "invalid UTF-8": (invalid_utf8, 200, 10),
    "CRLF and a byte order mark": (windows_editor, 30, 3),
    "100,000 lines": (many_lines, 3, 1),
    "two writers at once": (two_writers, 20, 2),
    "the log renamed": (log_renamed, 50, 5),
    "a clock that jumps back": (clock_jumps_back, 30, 2),
    "`make label` killed while three people label by link": (server_killed, 20, 1),
    "`make label` stopped with Ctrl-C while three people label by link": (server_stopped, 10, 1),
    "`make label` killed in the middle of writing a label by link": (server_killed_while_writing, 10, 1),
    "`make label` killed while it draws links": (killed_while_drawing_links, 100, 5),
    "disk full while three people label by link": (disk_full_by_link, 10, 1),
    "read-only log while three people label by link": (read_only_by_link, 10, 1),
    "torn last line while three people label by link": (torn_by_link, 20, 2),
    "a line of another version while three people label by link": (another_version_by_link, 20, 2),
    "invalid UTF-8 while three people label by link": (invalid_utf8_by_link, 20, 2),
    "the log spoiled and mended while three people label by link": (mended_by_others, 10, 1),
    "CRLF and a byte order mark while three people label by link": (windows_editor_by_link, 30, 3),
    "100,000 lines while three people label by link": (many_lines_by_link, 3, 1),
    "the log renamed while three people label by link": (log_renamed_by_link, 20, 2),
    "two writers at once, one of them by link": (two_writers_by_link, 6, 2),
    "a clock that jumps back while three people label by link": (clock_jumps_back_by_link, 10, 1),
    "`make run` stopped and run again": (interrupted_run, 10, 1),
}


def inject(name, times, seed=0, **options):
    """Try one fault so many times in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="faults."))
    try:
        with contextlib.redirect_stdout(io.StringIO()), no_time_needed():
            found = FAULTS[name][0](folder, times, random.Random(seed), **options)
        return found._replace(message=found.message.replace(f"{folder}/", "").replace(str(folder), "runs"))
    finally:
        shutil.rmtree(folder)


def table(found):
    """docs/faults.md from what was found, {fault: Found}; the rows of all others stay as they are."""
    page = TABLE.read_text(encoding="utf-8") if len(found) < len(FAULTS) else ""
    known = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if line.startswith("| ")}
    known |= {name: f"| {name} | {f.tried:,} | {f.lost} | {f.message} |" for name, f in found.items()}
    rows = "\n".join(known[name] for name in FAULTS if name in known)
    made = f"{platform.system()}, Python {platform.python_version()}, PyTorch {torch.__version__.split('+')[0]}"
    return f"""# Faults

`python tests/project/faults.py --write` wrote this page ({made}). It puts in
each fault as often as stated, at random places from a fixed seed, and looks whether anything that was confirmed is
lost or stands twice, whether work goes on, and what is said. *Lost* counts everything that was not as it should be.
A few tries of each run with the tests (`tests/project/test_faults.py`).

A process that is killed takes nothing with it that it had handed to the system; a loss of power was not tried. Labels
are synced to the disk before they are confirmed. Checkpoints are synced too; of model folders only the names change
all at once.

The faults of the labelling card are tried with `make label`, too, where several people label by link. Five rows cannot
apply there: it trains no reward model and runs no PPO, it saves no model and no checkpoint (besides the log it writes
one file, that of its links), and `make run` does not start it.

| fault | times tried | lost | message |
|---|---|---|---|
{rows}
"""


def main():
    parser = argparse.ArgumentParser(description="Put in faults and see what is lost.")
    parser.add_argument("--write", action="store_true", help="try as often as docs/faults.md says, and write the rows")
    parser.add_argument("--only", nargs="+", default=(), help="words that name the faults to try")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tmpfs, found = tmpfs_works(), {}
    for name, (_, many, few) in FAULTS.items():
        if not options.only or any(word in name for word in options.only):
            began = time.perf_counter()
            more = {"tmpfs": tmpfs} if name.startswith("disk full") else {}
            found[name] = f = inject(name, many if options.write else few, **more)
            took = time.perf_counter() - began
            print(f"{name}: {f.tried} tried, {f.lost} lost, {took:.0f} s. {f.message}", flush=True)
    if options.write:
        files.write_text(TABLE, table(found))
    return any(f.lost for f in found.values())


if __name__ == "__main__":
    sys.exit(main())
