"""The faults of faults.py, each put in a few times, and the page that says how they went."""

import os
import re

import pytest

faults = pytest.importorskip("faults", exc_type=ImportError)  # what it needs of Unix, Windows does not have

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]
SLOW = "`make run` stopped and run again"


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == SLOW else n for n in faults.FAULTS])
def test_nothing_is_lost(name):
    tried = faults.FAULTS[name][2]
    found = faults.inject(name, tried)
    assert (found.tried, found.lost) == (tried, 0) and found.message


def test_the_page_is_complete_and_nothing_was_lost():
    page = faults.TABLE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+) \| (\d+) \| .+ \|$", page, re.M)
    assert [(n, int(k.replace(",", "")), lost) for n, k, lost in rows] == [
        (name, many, "0") for name, (_, many, _) in faults.FAULTS.items()
    ]
    assert "python tests/faults.py --write" in page.splitlines()[2]
    assert faults.FAULTS["killed while labelling"][1] >= 200
