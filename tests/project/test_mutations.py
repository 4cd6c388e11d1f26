"""The table of known bugs is complete, up to date and true: each bug in it turns its test red."""

import os
import subprocess
import sys

import mutations
import pytest

from rlhf_helpers.engine.files import ROOT

PARTS = 2


@pytest.mark.parametrize("bug", mutations.BUGS, ids=lambda b: b.what)
def test_a_bug_can_be_put_in(bug):
    text = (ROOT / "rlhf_helpers" / bug.file).read_text(encoding="utf-8")
    assert text.count(bug.old) == 1 and bug.old != bug.new
    compile(text.replace(bug.old, bug.new), bug.file, "exec")
    assert mutations.home(bug.test)


def test_every_pitfall_of_the_list_has_a_row_or_a_reason():
    assert {b.n for b in mutations.BUGS if b.n} | set(mutations.ELSEWHERE) == set(range(1, 41))


def test_the_committed_table_is_that_of_these_bugs():
    expected = mutations.table(dict.fromkeys(mutations.BUGS, "caught"))
    assert mutations.TABLE.read_text(encoding="utf-8") == expected, "run `python tests/project/mutations.py --write`"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("part", range(1, PARTS + 1))
def test_every_known_bug_is_caught(part):
    """In parts, so that each core has some."""
    command = [sys.executable, mutations.__file__, "--part", f"{part}/{PARTS}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    n = len(mutations.BUGS[part - 1 :: PARTS])
    assert n > 40 and f"{n} of {n} bugs caught" in done.stdout
