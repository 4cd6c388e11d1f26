"""Many readers of one Jupyter server: `python benchmarks/load.py` writes load.json to results/.

Each reader has a kernel that runs the set-up of chapter 03 and shows its labelling widget, and a connection of their
own to the server, over TCP on this machine.  A click is the message that a browser sends for it, through the server to
the kernel, and ends when the server has sent back that the kernel is idle again.  A label is durable when its fsync
has returned.  First every reader clicks every few seconds, each into a folder of their own, then all as fast as they
are answered, and last a few of them into one file.
"""

import argparse
import json
import os
import platform
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests
import websocket
from jupyter_client.session import Session

from rlhf_helpers.engine import files
from rlhf_helpers.engine.files import ROOT
from rlhf_helpers.lesson import feedback

RESULTS = Path(__file__).resolve().parent / "results"
CHAPTER = "03_human_feedback"
SHOW = """
import os, time
pairs = yours.pairs(ws, quiet=True)
labeller.DOUBLE_CLICK, durable, plain_fsync = 0, [], getattr(os.fsync, "plain", os.fsync)
def fsync(handle):
    plain_fsync(handle)
    durable.append(time.monotonic())
fsync.plain, os.fsync = plain_fsync, fsync
mine = labeller.Labeller(pairs, {log!r}, annotator={name!r}, seed=ws.seed, min_seconds=0)
mine.show()
print(json.dumps([mine.buttons[name].model_id for name in ("a", "b", "tie")]))
"""
Reader = namedtuple("Reader", "name socket session")
Phase = namedtuple("Phase", "what readers clicks seconds latencies lost lines")


def setup_cells(runs):
    """The parameters and the set-up of the chapter, as a reader runs them."""
    cells = json.loads((ROOT / "notebooks" / f"{CHAPTER}.ipynb").read_text(encoding="utf-8"))["cells"]
    tagged = {t: "".join(c["source"]) for c in cells for t in c["metadata"].get("tags", ())}
    return f"{tagged['parameters']}\nRUNS_DIR = {str(runs)!r}\n{tagged['setup']}"


@contextmanager
def server(root):
    """A Jupyter server on the loopback with a token: (its process, address, headers of a request)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    headers, url = {"Authorization": f"token {secrets.token_hex(16)}"}, f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "jupyter_server", "--no-browser", "--ServerApp.ip=127.0.0.1", "--allow-root"]
    command += [f"--ServerApp.port={port}", f"--ServerApp.root_dir={root}", "--log-level=50"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JUPYTER_TOKEN": headers["Authorization"].split()[1]}
    running = subprocess.Popen(command, env=environment)
    try:
        for _ in range(300):
            time.sleep(0.2)
            try:
                requests.get(f"{url}/api/status", headers=headers, timeout=5).raise_for_status()
                break
            except requests.ConnectionError:
                assert running.poll() is None, "the server has stopped"
        yield psutil.Process(running.pid), url, headers
    finally:
        for process in psutil.Process(running.pid).children(recursive=True):
            process.kill()
        running.kill()
        running.wait()


def start(name, runs, url, headers):
    """A reader's kernel, started by the server and ready to show the widget."""
    reply = requests.post(f"{url}/api/kernels", headers=headers, json={"name": "python3"}, timeout=300)
    reply.raise_for_status()
    address = f"{url.replace('http', 'ws', 1)}/api/kernels/{reply.json()['id']}/channels"
    reader = Reader(name, websocket.create_connection(address, header=headers, timeout=300), Session())
    run_code(reader, setup_cells(runs))
    return reader


def send(reader, kind, content):
    """Send a message to the reader's kernel; yields what comes back for it until the kernel is idle."""
    message = reader.session.msg(kind, content)
    reader.socket.send(json.dumps(message | {"channel": "shell", "buffers": []}, default=str))
    while True:
        text = reader.socket.recv()
        reply = json.loads(text) if isinstance(text, str) else {}  # bytes: a message with a picture in it
        if reply.get("parent_header", {}).get("msg_id") == message["header"]["msg_id"]:
            yield reply
            if reply["msg_type"] == "status" and reply["content"]["execution_state"] == "idle":
                return


def run_code(reader, code):
    """Run code in a reader's kernel; returns the last line that it printed."""
    printed = []
    for reply in send(reader, "execute_request", {"code": code, "silent": False, "store_history": False}):
        assert reply["msg_type"] != "error", "\n".join(reply["content"]["traceback"])
        if reply["msg_type"] == "stream":
            printed.append(reply["content"]["text"])
    return ("".join(printed).strip().splitlines() or [""])[-1]


def click(reader, button):
    """Send what a browser sends for a click and wait for the kernel; returns when it was sent (monotonic seconds)."""
    sent = time.monotonic()
    for _ in send(reader, "comm_msg", {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}}):
        pass
    return sent


def keep_clicking(reader, buttons, began, end, every, sent):
    """Click until `end`, every so many seconds (0: as fast as answered); fills `sent`."""
    due = began
    while time.monotonic() < end and len(sent) < 1000:
        due += every
        time.sleep(max(0, due - time.monotonic()))
        sent.append(click(reader, buttons[len(sent) % len(buttons)]))


def phase(what, readers, logs, seconds, every=0):
    """Let all readers click at once for so many seconds; `logs`: the file of each."""
    buttons = [json.loads(run_code(r, SHOW.format(log=str(log), name=r.name))) for r, log in zip(readers, logs)]
    began, sent = time.monotonic() + 0.5, [[] for _ in readers]
    threads = [
        threading.Thread(target=keep_clicking, args=(r, b, began + every * i / len(readers), began + seconds, every, s))
        for i, (r, b, s) in enumerate(zip(readers, buttons, sent))
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    took = time.monotonic() - began
    durable = [json.loads(run_code(r, "print(json.dumps(durable))")) for r in readers]
    lost, lines = 0, 0
    for r, log, s, d in zip(readers, logs, sent, durable):
        events, warnings = feedback.read_events(log)
        labels = {e["event_id"] for e in feedback.replay(events) if e["annotator"] == r.name}
        lost, lines = lost + abs(len(s) - len(labels)) + abs(len(s) - len(d)) + len(warnings), len(events)
    latencies = [b - a for s, d in zip(sent, durable) for a, b in zip(s, d)]
    return Phase(what, len(readers), sum(map(len, sent)), took, latencies, lost, lines)


def memory(process):
    """(proportional, resident) bytes of a process: pages that processes share count in part, and in full."""
    used = process.memory_full_info()
    return used.pss, used.rss


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(kernels, shared, seconds, every=2.0):
    """All phases: (phases, memory of each kernel, memory of the server)."""
    with tempfile.TemporaryDirectory() as folder, server(folder) as (process, url, headers):
        folders = [Path(folder) / f"reader{i}" for i in range(kernels)]
        with ThreadPoolExecutor(2) as pool:  # as many as there are cores here
            readers = list(pool.map(lambda i: start(f"reader {i}", folders[i], url, headers), range(kernels)))
        logs = [[f / f"{name}.jsonl" for f in folders] for name in ("paced", "fast")]
        one = [[Path(folder) / f"{name}.jsonl"] * shared for name in ("paced", "fast")]
        phases = [
            phase(f"a click every {every:g} s, own folders", readers, logs[0], seconds, every),
            phase("as fast as it goes, own folders", readers, logs[1], seconds),
            phase(f"a click every {every:g} s, one file", readers[:shared], one[0], seconds, every),
            phase("as fast as it goes, one file", readers[:shared], one[1], seconds),
        ]
        return (
            phases,
            [memory(psutil.Process(int(run_code(r, "print(os.getpid())")))) for r in readers],
            memory(process),
        )


def summary(phases, used, serving, started):
    """What load.json holds: each phase, memory in MiB, seconds to start, and the machine."""
    pss, rss = zip(*used)
    return {
        "versions": files.versions(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "phases": [
            {
                "what": p.what,
                "readers": p.readers,
                "clicks": p.clicks,
                "per_second": p.clicks / p.seconds,
                "median_ms": 1000 * statistics.median(p.latencies),
                "p99_ms": 1000 * percentile(p.latencies, 0.99),
                "lost": p.lost,
                "lines": p.lines,
            }
            for p in phases
        ],
        "mib": {
            "mean": statistics.mean(pss) / 2**20,
            "most": max(pss) / 2**20,
            "all": sum(pss) / 2**20,
            "resident": statistics.mean(rss) / 2**20,
            "server": serving[0] / 2**20,
        },
        "seconds_to_start": started,
    }


def markdown(result):
    """What docs/results.md shows of load.json."""
    phases, mib = result["phases"], result["mib"]
    rows = "\n".join(
        f"| {p['what']} | {p['readers']} | {p['clicks']:,} | {p['per_second']:.0f} | {p['median_ms']:.0f} | "
        f"{p['p99_ms']:.0f} | {p['lost']} |"
        for p in phases
    )
    made = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    return f"""One Jupyter server with {phases[0]["readers"]} kernels, each with the set-up of chapter 03, on
{result["cores"]} cores ({result["machine"]}) and {result["gib"]:.0f} GiB, which other programs may have used too;
{made}.

| clicks | kernels | clicks in all | clicks per second | click to durable, median ms | p99 ms | lost |
|---|---|---|---|---|---|---|
{rows}

Lost counts clicks without a label, labels without a click and warnings of the logs. A click is the message of a
browser, sent through the server to the kernel; from there to the end of fsync is what is timed. Server and readers are
on one machine, so a network's delay comes on top. In one file a label of somebody else makes a kernel read the whole
file again; the last one had {phases[-1]["lines"]:,} lines at its end.

Memory: {mib["mean"]:.0f} MiB per kernel (proportional set size, mean; most {mib["most"]:.0f}),
{mib["all"] / 1024:.1f} GiB for all; resident size, shared pages counted in full, {mib["resident"]:.0f} MiB.
The server itself: {mib["server"]:.0f} MiB.
Starting all of them and showing their widgets took {result["seconds_to_start"]:.0f} s.
"""


def main():
    parser = argparse.ArgumentParser(description="Many kernels that label at once.")
    parser.add_argument("--kernels", type=int, default=30)
    parser.add_argument("--shared", type=int, default=8, help="how many of them label into one file")
    parser.add_argument("--seconds", type=float, default=15, help="of each of the four phases")
    options = parser.parse_args()
    began = time.monotonic()
    phases, used, serving = measure(options.kernels, options.shared, options.seconds)
    started = time.monotonic() - began - sum(p.seconds for p in phases)
    result = summary(phases, used, serving, started)
    files.write_json(RESULTS / "load.json", result)
    print(markdown(result))


if __name__ == "__main__":
    main()
