"""What tests take from the chapters: the source of their cells, and what the cells define."""

import ast
import re
from functools import cache

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
    """The names that these cells of a chapter make, run one after the other with `given`."""
    scope = dict(given)
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
