"""The versions that Google Colab ships: what the file says of them, and whether `make test-colab` runs them."""

import os
import re
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from rlhf_helpers.files import ROOT

TEXT = (ROOT / "constraints" / "colab.txt").read_text(encoding="utf-8")
PINS = dict(line.split("==") for line in TEXT.splitlines() if line and not line.startswith("#"))


def test_the_file_says_where_and_when_its_versions_were_read():
    head = TEXT[:TEXT.index("\n", TEXT.index("commit"))]
    assert "https://github.com/googlecolab/backend-info" in head
    assert re.search(r"commit [0-9a-f]{7} of 20\d\d-\d\d-\d\d", head)


def test_the_package_accepts_what_colab_has():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for r in map(Requirement, project["dependencies"]):
        assert r.specifier.contains(PINS[r.name]), f"{r} would replace {r.name} {PINS[r.name]} on Colab"


@pytest.mark.skipif(not os.environ.get("WORKBOOK_COLAB"), reason="only in `make test-colab`")
def test_these_are_the_versions():
    found = {}
    for name in PINS:
        try:
            found[name] = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            pass
    assert {"ipywidgets", "ipython", "numpy", "pandas", "matplotlib", "transformers", "torch"} <= set(found)
    assert found == {name: PINS[name] for name in found}
