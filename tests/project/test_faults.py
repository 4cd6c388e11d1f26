"""The faults of faults.py, each put in a few times, and the page that says how they went."""

import importlib.util
import json
import os
import re
from pathlib import Path

import pytest

from rlhf_helpers.engine.files import ROOT

faults = pytest.importorskip("faults", exc_type=ImportError)  # what it needs of Unix, Windows does not have

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
SLOW = ("make run", "by link", "during PPO", "reward model is trained", "100,000")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if any(s in n for s in SLOW) else n for n in faults.FAULTS]
)
def test_nothing_is_lost(name):
    if "by link" in name and importlib.util.find_spec("shinywidgets") is None:
        pytest.skip("needs the extra label")
    tried = faults.FAULTS[name][2]
    found = faults.inject(name, tried)
    assert (found.tried, found.lost) == (tried, 0) and found.message


def test_the_page_is_complete_and_nothing_was_lost():
    page = faults.TABLE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+) \| (\d+) \| .+ \|$", page, re.M)
    assert [(n, int(k.replace(",", "")), lost) for n, k, lost in rows] == [
        (name, many, "0") for name, (_, many, _) in faults.FAULTS.items()
    ]
    assert "python tests/project/faults.py --write" in page.splitlines()[2]
    assert faults.FAULTS["killed while labelling"][1] >= 200


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads memory as Linux tells it")
def test_kernels_that_label_at_once_lose_nothing(monkeypatch):
    """The benchmark of many readers of one Jupyter server, with two of them and a second of each kind."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import load

    phases, memory, server = load.measure(2, 2, 1, every=0.25)
    assert [p.lost for p in phases] == [0] * 4 and all(p.clicks >= 6 for p in phases)
    assert all(0 < b < 60 for p in phases for b in p.latencies) and all(pss <= rss for pss, rss in memory)
    page = load.markdown(load.summary(phases, memory, server, 1))
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert [row.count("|") for row in rows] == [8] * 6


def test_many_readers_at_once_lost_nothing():
    phases = json.loads((ROOT / "benchmarks/results/load.json").read_text(encoding="utf-8"))["phases"]
    assert [(p["readers"], p["lost"]) for p in phases] == [(30, 0), (30, 0), (8, 0), (8, 0)]
