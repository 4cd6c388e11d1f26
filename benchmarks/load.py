"""Many readers on one machine: `python benchmarks/load.py` writes load.md beside this file.

Each reader has a kernel that runs the set-up of chapter 03 and shows its labelling widget.  A click is the message that
a browser sends for it, straight to the kernel (no server between), and ends when the kernel is idle again.  A label is
durable when its fsync has returned.  First every reader clicks every few seconds, each into a folder of their own, then
all as fast as they are answered, and last a few of them into one file.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty

from jupyter_client import KernelManager

from rlhf_helpers import feedback, files, series
from rlhf_helpers.files import ROOT

HERE = Path(__file__).resolve().parent
CHAPTER = "03_human_feedback"
SHOW = """
import os, time
pairs = files.read_jsonl(files.find(ws, "pairs.jsonl", quiet=True), labeller.PAIR_FIELDS)
labeller.DOUBLE_CLICK, durable, plain_fsync = 0, [], getattr(os.fsync, "plain", os.fsync)
def fsync(handle):
    plain_fsync(handle)
    durable.append(time.monotonic())
fsync.plain, os.fsync = plain_fsync, fsync
mine = labeller.Labeller(pairs, {log!r}, annotator={name!r}, seed=ws.seed, min_seconds=0)
mine.show()
print(json.dumps([mine.buttons[name].model_id for name in ("a", "b", "tie")]))
"""
Reader = namedtuple("Reader", "name manager client")
Phase = namedtuple("Phase", "what readers clicks seconds latencies lost lines")


def setup_cells(runs):
    """The parameters and the set-up of the chapter, as a reader runs them."""
    cells = json.loads((ROOT / "notebooks" / f"{CHAPTER}.ipynb").read_text(encoding="utf-8"))["cells"]
    tagged = {t: "".join(c["source"]) for c in cells for t in c["metadata"].get("tags", ())}
    return f"{tagged['parameters']}\nRUNS_DIR = {str(runs)!r}\n{tagged['setup']}"


def start(name, runs):
    """A reader's kernel, ready to show the widget."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=os.environ | {"PYTHONPATH": str(ROOT)}, extra_arguments=["--log-level=50"])
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(300)
    reader = Reader(name, manager, client)
    run(reader, setup_cells(runs))
    return reader


def run(reader, code):
    """Run code in a reader's kernel; returns the last line that it printed."""
    printed = []

    def hook(message):
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = reader.client.execute_interactive(code, output_hook=hook, timeout=300)["content"]
    assert reply["status"] == "ok", "".join(reply.get("traceback", ()))
    return ("".join(printed).strip().splitlines() or [""])[-1]


def click(client, button):
    """Send what a browser sends for a click and wait for the kernel; returns when it was sent (monotonic seconds)."""
    message = client.session.msg(
        "comm_msg", {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}}
    )
    sent = time.monotonic()
    client.shell_channel.send(message)
    while True:
        try:
            reply = client.get_iopub_msg(timeout=60)
        except Empty:
            raise RuntimeError("the kernel does not answer") from None
        mine = reply["parent_header"].get("msg_id") == message["header"]["msg_id"]
        if mine and reply["msg_type"] == "status" and reply["content"]["execution_state"] == "idle":
            return sent


def keep_clicking(reader, buttons, began, end, every, sent):
    """Click until `end`, every so many seconds (0: as fast as answered); fills `sent`."""
    due = began
    while time.monotonic() < end and len(sent) < 1000:
        due += every
        time.sleep(max(0, due - time.monotonic()))
        sent.append(click(reader.client, buttons[len(sent) % len(buttons)]))


def phase(what, readers, logs, seconds, every=0):
    """Let all readers click at once for so many seconds; `logs`: the file of each."""
    buttons = [json.loads(run(r, SHOW.format(log=str(log), name=r.name))) for r, log in zip(readers, logs)]
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
    durable = [json.loads(run(r, "print(json.dumps(durable))")) for r in readers]
    lost, lines = 0, 0
    for r, log, s, d in zip(readers, logs, sent, durable):
        events, warnings = feedback.read_events(log)
        labels = {e["event_id"] for e in feedback.replay(events) if e["annotator"] == r.name}
        lost, lines = lost + abs(len(s) - len(labels)) + abs(len(s) - len(d)) + len(warnings), len(events)
    latencies = [b - a for s, d in zip(sent, durable) for a, b in zip(s, d)]
    return Phase(what, len(readers), sum(map(len, sent)), took, latencies, lost, lines)


def memory(reader):
    """(proportional, resident) bytes of a kernel: pages that kernels share count in part, and in full."""
    fields = Path(f"/proc/{reader.manager.provisioner.pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in fields}
    return sizes["Pss"], sizes["Rss"]


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(kernels, shared, seconds, every=2.0):
    """All phases: (phases, memory of each kernel)."""
    series.use_this_python()
    readers = []
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder) / f"reader{i}" for i in range(kernels)]
        try:
            with ThreadPoolExecutor(2) as pool:  # as many as there are cores here
                for reader in pool.map(lambda i: start(f"reader {i}", folders[i]), range(kernels)):
                    readers.append(reader)
            logs = [[f / f"{name}.jsonl" for f in folders] for name in ("paced", "fast")]
            one = [Path(folder) / "shared.jsonl"] * shared
            phases = [
                phase(f"a click every {every:g} s, own folders", readers, logs[0], seconds, every),
                phase("as fast as it goes, own folders", readers, logs[1], seconds),
                phase(f"a click every {every:g} s, one file", readers[:shared], one, seconds, every),
                phase(
                    "as fast as it goes, one file", readers[:shared], [one[0].with_name("s.jsonl")] * shared, seconds
                ),
            ]
            return phases, [memory(r) for r in readers]
        finally:
            for reader in readers:
                reader.client.stop_channels()
                reader.manager.shutdown_kernel(now=True)


def page(phases, used, started):
    """load.md."""
    rows = "\n".join(
        f"| {p.what} | {p.readers} | {p.clicks:,} | {p.clicks / p.seconds:.0f} | "
        f"{1000 * statistics.median(p.latencies):.0f} | {1000 * percentile(p.latencies, 0.99):.0f} | {p.lost} |"
        for p in phases
    )
    pss, rss = zip(*used)
    made = ", ".join(f"{k} {v}" for k, v in files.versions().items())
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    mib = {"mean": statistics.mean(pss) / 2**20, "most": max(pss) / 2**20, "resident": statistics.mean(rss) / 2**20}
    return f"""# Many readers at once

`python benchmarks/load.py` wrote this page: {len(used)} kernels, each with the set-up of chapter 03, on
{os.cpu_count()} cores ({platform.machine()}) and {gib:.0f} GiB, which other programs may have used too; {made}.

| clicks | kernels | clicks in all | clicks per second | click to durable, median ms | p99 ms | lost |
|---|---|---|---|---|---|---|
{rows}

Lost counts clicks without a label, labels without a click and warnings of the logs. A click is the message of a
browser, sent straight to the kernel; from there to the end of fsync is what is timed. A server and a network between
are not in it. In one file a label of somebody else makes a kernel read the whole file again; the last one had
{phases[-1].lines:,} lines at its end.

Memory: {mib["mean"]:.0f} MiB per kernel (proportional set size, mean; most {mib["most"]:.0f}),
{sum(pss) / 2**30:.1f} GiB for all {len(used)}; resident size, shared pages counted in full, {mib["resident"]:.0f} MiB.
Starting all of them and showing their widgets took {started:.0f} s.
"""


def main():
    parser = argparse.ArgumentParser(description="Many kernels that label at once.")
    parser.add_argument("--kernels", type=int, default=30)
    parser.add_argument("--shared", type=int, default=8, help="how many of them label into one file")
    parser.add_argument("--seconds", type=float, default=15, help="of each of the four phases")
    options = parser.parse_args()
    began = time.monotonic()
    phases, used = measure(options.kernels, options.shared, options.seconds)
    started = time.monotonic() - began - sum(p.seconds for p in phases)
    text = page(phases, used, started)
    print(text)
    files.write_text(HERE / "load.md", text)


if __name__ == "__main__":
    main()
