"""The storeys of the package: who may know whom, and that CONTRIBUTING shows them as they are."""

import ast
import graphlib
import re

import pytest

from rlhf_helpers.engine.files import ROOT

PACKAGE = ROOT / "rlhf_helpers"
MAY_USE = {
    "world": set(),
    "engine": set(),
    "lesson": {"engine"},
    "desk": {"world", "engine", "lesson"},
    "make": {"world", "engine", "lesson", "desk"},
}
ENTRIES = {"doctor": ("desk", "doctor", "command")}  # `python -m rlhf_helpers.NAME`, and all that it imports


def dotted(path):
    """Name of a module in the package as a tuple: ("lesson", "ppo"), or ("lesson",) for the storey itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {dotted(p): p for p in sorted(PACKAGE.rglob("*.py"))}


def imported(source, module, is_package):
    """The modules of the package that a source imports, at the top or inside a function, as tuples."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
        level = getattr(node, "level", 0)
        for name in names:
            base = list(module[: len(module) + is_package - level]) if level else []
            parts = [*base, *filter(None, name.split("."))]
            if not level:
                if parts[0] != "rlhf_helpers":
                    continue
                parts = parts[1:]
            inner = [(*parts, a.name) for a in node.names] if isinstance(node, ast.ImportFrom) else []
            found |= {m for m in inner if m in MODULES} or {tuple(parts)}
    return found - {module}


GRAPH = {m: imported(p.read_text(encoding="utf-8"), m, p.stem == "__init__") for m, p in MODULES.items()}


@pytest.mark.parametrize("storey", MAY_USE)
def test_a_storey_uses_only_those_below_it(storey):
    for module, uses in GRAPH.items():
        if module[:1] == (storey,):
            strangers = {u for u in uses if u and u[0] not in MAY_USE[storey] | {storey}}
            assert not strangers, f"{'.'.join(module)} imports {strangers}"


def test_nothing_stands_outside_of_the_storeys_and_none_is_empty():
    assert {m[0] for m in MODULES if m} == {*MAY_USE, *ENTRIES}
    assert {m[0]: GRAPH[m] for m in MODULES if m and m[0] in ENTRIES} == {n: {uses} for n, uses in ENTRIES.items()}
    assert [m for m in MODULES if len(m) == 0] == [()]


def test_no_module_imports_another_in_a_circle():
    graphlib.TopologicalSorter({m: {u for u in uses if u in MODULES} for m, uses in GRAPH.items()}).prepare()


@pytest.mark.parametrize(
    "source, module, found",
    [
        ("from ..world import gold", ("lesson", "ppo"), {("world", "gold")}),
        ("from .. import world", ("lesson", "ppo"), {("world",)}),
        (
            "def f():\n    from rlhf_helpers.world.annotators import TASTES",
            ("engine", "files"),
            {("world", "annotators")},
        ),
        ("import rlhf_helpers.make.build", ("desk", "tasks"), {("make", "build")}),
        ("from . import reward\nfrom .reward import score\nimport torch", ("lesson", "probe"), {("lesson", "reward")}),
    ],
)
def test_a_hole_in_a_wall_is_seen(source, module, found):
    assert imported(source, module, False) == found


def test_the_notebooks_of_the_lesson_are_not_needed_by_the_package():
    for path in MODULES.values():
        assert not re.search(r"^\s*(from|import) (notebooks|tests|benchmarks)", path.read_text(encoding="utf-8"), re.M)


def test_contributing_shows_the_storeys_as_they_are():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    storey, drawn = "", set()
    for line in re.search(r"<!-- modules -->\n```\n(.*?)```", text, re.S)[1].splitlines():
        name = line.split()[0] if line.strip() else ""
        if line.startswith("  "):
            drawn.add(storey + name)
        elif name:
            storey = name
    there = {p.relative_to(PACKAGE).as_posix() for s in MAY_USE for p in (PACKAGE / s).glob("[!_]*.py")}
    assert drawn == there | {"desk/exercises/", "desk/figures/", "desk/doctor/"}
