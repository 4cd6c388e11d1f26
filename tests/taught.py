"""What tests take from the chapters: the source of their cells, what the cells define, and what they last showed."""

import ast
import html
import re
from functools import cache
from importlib import import_module

import nbformat

from rlhf_helpers.make import series

PATHS = series.chapters(deeper=True)  # the core chapters, then the deeper ones
CORE = series.chapters()


def path_of(chapter):
    """The notebook of a chapter: "05", or "bug_museum"."""
    return series.chapters([chapter])[0]


@cache
def cells(chapter):
    """{id: source} of the cells of a chapter: "05", or "bug_museum"."""
    return {c.id: c.source for c in nbformat.read(path_of(chapter), 4).cells}


def undriven(source):
    """A cell without `@drives(...)`, so that running it here changes nothing for other tests."""
    return re.sub(r"(?m)^@drives\(\w+\)\n", "", source)


def made_by(chapter, *ids, **given):
    """The names that these cells of a chapter make, run one after the other with `given` and the chapter's figures."""
    scope = dict(given)
    if path_of(chapter) in CORE:
        scope["figures"] = import_module(f"rlhf_helpers.desk.figures.chapter_{chapter}")
    for name in ids:
        exec(compile(undriven(cells(chapter)[name]), f"{chapter}:{name}", "exec"), scope)
    return scope


def taught(chapter, name, module):
    """The function that a cell of a chapter defines, with the names of `module` around it."""
    for source in cells(chapter).values():
        if f"def {name}(" in source:
            (node,) = (n for n in ast.parse(undriven(source)).body if getattr(n, "name", "") == name)
            made = {}
            exec(compile(ast.Module([node], []), f"{chapter}:{name}", "exec"), vars(module), made)
            return made[name]
    raise KeyError(name)


def says(chapter, cell, *phrases):
    """Asserts that a cell has these words, so that whoever changes them looks for the test of what they claim."""
    text = " ".join(cells(chapter)[cell].split())
    for phrase in phrases:
        assert phrase in text, f"{chapter}:{cell} no longer says {phrase!r}; has its claim a test?"


# ---------------------------------------------------------------- what the committed outputs show


@cache
def outputs(chapter):
    """{id: outputs} of the code cells of a chapter, as committed."""
    return {c.id: c.outputs for c in nbformat.read(path_of(chapter), 4).cells if c.cell_type == "code"}


def printed(chapter, cell):
    """What a cell printed, and said in Markdown: one text."""
    texts = (o.get("text", "") or o.get("data", {}).get("text/markdown", "") for o in outputs(chapter)[cell])
    return "\n".join(filter(None, texts))


def table(chapter, cell):
    """The rows of the last table that a cell showed, as lists of texts, its head among them."""
    *_, page = (o.data["text/html"] for o in outputs(chapter)[cell] if "text/html" in o.get("data", {}))
    rows = (re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr.*?>(.*?)</tr>", page, re.S))
    return [[html.unescape(re.sub("<.*?>", "", c)).strip() for c in row] for row in rows]


def column(chapter, cell, name):
    """{first cell of a row: the number in the column of this name} of the last table that a cell showed."""
    head, *rows = table(chapter, cell)
    return {row[0]: float(row[head.index(name)].replace(",", "")) for row in rows if len(row) == len(head) and row[0]}


def panels(chapter, cell):
    """The panels of the last figure of a cell, in words: its alternative text, by which `plots` says what is drawn."""
    *_, words = (o.metadata["image/png"]["alt"] for o in outputs(chapter)[cell] if "image/png" in o.get("data", {}))
    return re.split(r"(?<=\w|\))\. (?=[A-Z])", words)


def ends(panel, line):
    """(first, last) height of a line in a panel of `panels`."""
    (found,) = re.findall(rf"(?:^|; ){re.escape(line)} from (\S+) to (\S+?)(?:;|$)", panel)
    return tuple(map(float, found))


def heights(panel, name=""):
    """{label: height} of the bars of this name, or of those without one or the dots, in a panel of `panels`."""
    begin = rf"bars, {re.escape(name)}: " if name else r"bars: |dots, in the mean: "
    drawn = re.split(begin, panel, maxsplit=1)[1].split("; bars")[0].removesuffix(" and more")
    return {label.strip("'").strip(): float(value) for label, value in re.findall(r"(.+?) (-?[\d.e-]+)(?:, |$)", drawn)}
