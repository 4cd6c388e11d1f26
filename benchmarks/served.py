"""Many people who label by link: `python benchmarks/served.py` writes served.json to results/.

`make label` as it is, and people who speak to it as their browsers do, each over a connection of their own on this
machine.  A click is timed from the moment in which it is sent until its label's fsync has returned, by one clock.
First all open their pages at once; then they label for five minutes, each at a pace of their own; then all click as
fast as they are answered.
"""

import argparse
import html
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import websocket
from load import RESULTS, memory, percentile

from rlhf_helpers.engine import files
from rlhf_helpers.engine.files import ROOT
from rlhf_helpers.lesson import feedback

SERVE = """
import json, os, sys, time
from rlhf_helpers.desk import served
from rlhf_helpers.lesson import feedback
durable, write = {}, feedback._write
def timed(f, data):
    began, start = time.monotonic(), write(f, data)
    durable[json.loads(data)["event_id"]] = began, time.monotonic()
    return start
feedback._write = timed
code = served.main(sys.argv[2:])
open(sys.argv[1], "w").write(json.dumps(durable))
sys.exit(code)
"""
BUTTONS = ("a", "b", "tie")


class Visitor:
    """Somebody at a page of `make label`, without a browser: it says what card.js says, and reads what that reads."""

    def __init__(self, link, cut_off=False):
        self.cut_off = cut_off  # whether it is the same page again, as its script says after a lost connection
        self.link, self.outbox, self.sent, self.n = link, [], {}, 0  # sent: {event id: when}
        self.open()

    def open(self):
        """Open the page, or open it again: what was not confirmed is delivered."""
        address = self.link.replace("http", "ws", 1) + "websocket/"
        self.socket = websocket.create_connection(address, timeout=60)
        self.wire, self.known, self.status = None, {}, ""  # known: what stands in data-… of the card
        self.refused = ""  # what is said where there is no card
        page = {"output_card_hidden": False, "url_search": "", "url_hash_initial": "#again" * self.cut_off}
        self.say("init", {f".clientdata_{key}": value for key, value in page.items()})
        while not (self.item is not None and self.wire or self.refused):
            self.hear()
        if self.outbox:
            self.deliver()
        while self.outbox:
            self.hear()

    def say(self, method, data):
        self.socket.send(json.dumps({"method": method, "data": data}))

    def hear(self):
        """Take one message of the server."""
        text = self.socket.recv()
        if "shinywidgets_comm_" not in text:  # most are empty: other people clicked
            return
        for kind, inner in json.loads(text)["custom"].items():
            content = json.loads(inner)["content"]
            state = content["data"].get("state", {})
            if "rlhf-wire" in state.get("_dom_classes", ()):
                self.wire = content["comm_id"]
            value = state.get("value")
            if isinstance(value, str) and "<template" not in value:  # those are pairs that are kept for later
                self.known |= re.findall('data-(item|acks|reply)="([^"]*)"', value)
                words = html.unescape(re.sub("<[^>]*>", "", value))
                self.status = words if "data-acks" in value else self.status
                self.refused = words if "data-again" in value else self.refused
        done = self.known.get("acks", "").split()
        self.outbox = [x for x in self.outbox if x["id"] not in done]

    def wait(self, seconds):
        """Let the page be for so long; it goes on hearing, as a browser does."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.socket.settimeout(left)
            with suppress(websocket.WebSocketTimeoutException):
                self.hear()
        self.socket.settimeout(60)

    @property
    def item(self):
        """The item that is asked; "" at the end, None while there is no card."""
        return self.known.get("item")

    def deliver(self):
        self.n += 1
        state = {"value": json.dumps({"n": self.n, "looking": "", "choices": self.outbox})}
        data = {"method": "update", "state": state, "buffer_paths": []}
        message = {"content": {"comm_id": self.wire, "data": data}, "metadata": {}, "buffers": []}
        self.say("update", {"shinywidgets_comm_send": json.dumps(message)})

    def click(self, name):
        """Choose for the pair that is asked, and wait for the answer of the server; gives its words.

        Where the server can't take it now, it is delivered again, as card.js does, until it can.
        """
        one = {"id": uuid.uuid4().hex, "item": self.item, "name": name, "seconds": 1.5, "note": "", "strength": 0}
        self.outbox.append(one | {"reasons": []})
        self.sent[one["id"]] = time.monotonic()
        self.deliver()
        while self.outbox:
            reply = self.known.get("reply")
            self.hear()
            if self.outbox and self.known.get("reply") != reply:
                time.sleep(0.1)
                self.deliver()
        return self.status


@contextmanager
def server(folder, people, pairs):
    """`make label` for these people: (its process, their links, a function that stops it and gives {id: durable})."""
    out = Path(folder) / "durable.json"
    command = [sys.executable, "-c", SERVE, str(out), *people, "--port", "0"]
    command += ["--pairs", str(pairs), "--runs-dir", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    links = []
    for line in running.stdout:
        links += re.findall("http://[^ ]+", line)
        if len(links) == len(people) + 1:
            break

    def stop():
        running.send_signal(signal.SIGINT)
        running.wait(60)
        return json.loads(out.read_text(encoding="utf-8"))

    try:
        yield psutil.Process(running.pid), links[:-1], stop
    finally:
        running.kill()
        running.wait()


def label(visitor, until, pace, rng):
    """Label until then, a click every `pace` seconds on average, or as fast as answered where that is 0."""
    while visitor.item and time.monotonic() < until:
        visitor.wait(rng.uniform(0.5, 1.5) * pace)
        visitor.click(rng.choice(BUTTONS))


def all_at_once(work):
    """Run these functions, each in a thread of its own."""
    threads = [threading.Thread(target=one) for one in work]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def measure(people, seconds, pace, fast):
    """What served.json holds, without the machine."""
    names = [f"person{i:02d}" for i in range(people)]
    load, began = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder, server(folder, names, 150) as (process, links, stop):
        started, visitors = time.monotonic() - began, [None] * people

        def come(i):
            at = time.monotonic()
            visitors[i] = Visitor(links[i])
            opened.append(time.monotonic() - at)
            while len(opened) < people:
                visitors[i].wait(0.2)

        opened, own = [], memory(process)[0]
        all_at_once([lambda i=i: come(i) for i in range(people)])
        phases = []
        for what, length, every in ((f"a click every {pace:g} s", seconds, pace), ("as fast as it goes", fast, 0)):
            before, at, used = [set(v.sent) for v in visitors], time.monotonic(), process.cpu_times()
            watched = threading.Event()

            def watch():
                while not watched.wait(10):
                    load.append(os.getloadavg()[0])

            threading.Thread(target=watch, daemon=True).start()
            all_at_once([lambda i=i: label(visitors[i], at + length, every, random.Random(i)) for i in range(people)])
            watched.set()
            cpu = sum(process.cpu_times()[:2]) - sum(used[:2])
            ids = [i for v, known in zip(visitors, before) for i in set(v.sent) - known]
            phases.append({"what": what, "seconds": time.monotonic() - at, "ids": ids, "at": at, "cpu": cpu})
        then = memory(process)[0]
        durable = stop()
        events, warnings = feedback.read_events(Path(folder) / "feedback.jsonl")
    sent = {i: t for v in visitors for i, t in v.sent.items()}
    labels = {x["event_id"] for x in feedback.replay(events)}
    asked = [(x["annotator"], x["is_repeat"], *feedback.pair_key(x)) for x in feedback.replay(events)]
    lost = len(set(sent) ^ labels) + len(asked) - len(set(asked)) + len(warnings) + len(set(sent) - set(durable))
    for phase in phases:
        took = {i: durable[i][1] - sent[i] for i in phase["ids"]}
        disk = [durable[i][1] - durable[i][0] for i in phase.pop("ids")]
        at, slots = phase.pop("at"), {}
        for i, t in took.items():
            slots.setdefault(int((sent[i] - at) // 30), []).append(t)
        phase |= {
            "clicks": len(took),
            "median_ms": 1000 * percentile(list(took.values()), 0.5),
            "p99_ms": 1000 * percentile(list(took.values()), 0.99),
            "most_ms": 1000 * max(took.values()),
            "disk_p99_ms": 1000 * percentile(disk, 0.99),
            "p99_ms_by_30_s": [1000 * percentile(x, 0.99) for _, x in sorted(slots.items())],
            "cpu_ms_per_click": 1000 * phase.pop("cpu") / len(took),
        }
    return {
        "people": people,
        "phases": phases,
        "lost": lost,
        "seconds_to_start": started,
        "seconds_to_open": max(opened),
        "mib": {"before": own / 2**20, "after": then / 2**20},
        "load_average": {"least": min(load, default=0), "most": max(load, default=0)},
    }


def markdown(result):
    """What docs/results.md shows of served.json."""
    rows = "\n".join(
        f"| {p['what']} | {p['seconds']:.0f} | {p['clicks']:,} | {p['clicks'] / p['seconds']:.0f} | "
        f"{p['median_ms']:.0f} | {p['p99_ms']:.0f} | {p['most_ms']:.0f} | {p['disk_p99_ms']:.0f} | "
        f"{p['cpu_ms_per_click']:.0f} |"
        for p in result["phases"]
    )
    slots = result["phases"][0]["p99_ms_by_30_s"]
    load, mib = result["load_average"], result["mib"]
    made = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    return f"""{result["people"]} people at `make label` on {result["cores"]} cores ({result["machine"]}), at load
averages of {load["least"]:.1f} to {load["most"]:.1f}; {made}. All times are in milliseconds.

| clicks of each | seconds | in all | per second | click to durable, median | p99 | most | the disk's p99 | CPU |
|---|---|---|---|---|---|---|---|---|
{rows}

Lost: {result["lost"]}, counting clicks without a label, labels without a click, pairs with two labels of one person,
and warnings of the log. The disk's part is what a click waits for fsync; the CPU is the server's, per click. Over half
a minute at a time, the p99 of the first row is {min(slots):.0f} to {max(slots):.0f}. All pages, opened at once, are
there after {result["seconds_to_open"]:.1f} s. The server takes {mib["after"]:.0f} MiB in the end,
{mib["after"] - mib["before"]:.0f} of them for its {result["people"]} pages. People and server are on one machine, so a
network's delay comes on top.
"""


def main():
    parser = argparse.ArgumentParser(description="Many people who label by link.")
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--pace", type=float, default=3, help="seconds between two clicks of a person, on average")
    parser.add_argument("--fast", type=float, default=15, help="seconds of clicking as fast as it goes, afterwards")
    options = parser.parse_args()
    result = {"versions": files.versions(), "machine": platform.machine(), "cores": os.cpu_count()}
    result |= measure(options.people, options.seconds, options.pace, options.fast)
    files.write_json(RESULTS / "served.json", result)
    print(markdown(result))


if __name__ == "__main__":
    main()
