"""What the chapters teach, the same functions word for word.  They know the engine, and no world and no notebook.

The reader's code drives the machine: a function of a cell that is marked `@drives(ppo)` takes the place of the one in
`ppo`, and whatever runs in this kernel uses it, edits and all.
"""

import ast
import copy
import inspect
import linecache
import sys
from contextlib import contextmanager

from ..engine.files import WorkbookError

SHIPPED = {}  # (module, name) -> the function or class as the package has it


def drives(module):
    """For a function or class in a cell: it takes the place of the one of this name in `module`, until a restart.

    As long as it says what the package's says, that one stays in its place, and so do its shortcuts (see `edited`).
    Raises WorkbookError where `module` has none of this name.
    """

    def take(new):
        name = new.__name__
        if not hasattr(module, name):
            raise WorkbookError(f"{module.__name__} has no {name} that could be replaced; give it its old name back.")
        old = SHIPPED.setdefault((module, name), getattr(module, name))
        setattr(module, name, old if meaning(new) == meaning(old) else new)
        return new

    return take


def edited(module, *names):
    """Whether one of these functions or classes of a module (its name) is not the package's own any more.

    A shortcut that computes the same numbers as they, but quicker, asks this and steps back.
    """
    return any(getattr(sys.modules[module], name).__module__ != module for name in names)


@contextmanager
def replaced(module, **functions):
    """Meanwhile these functions take the place of those of the same names in `module`; then the former ones are back.

    So one loop serves methods that differ from it in a function or two.
    """
    former = {name: getattr(module, name) for name in functions}
    vars(module).update(functions)
    try:
        yield
    finally:
        vars(module).update(former)


def meaning(thing):
    """The syntax tree, as text, of a function or class; docstrings, comments and `@drives(...)` do not count."""
    function = inspect.unwrap(thing)
    if isinstance(thing, type):
        function = next(f for f in vars(thing).values() if inspect.isfunction(f))
    source = "".join(linecache.getlines(function.__code__.co_filename, function.__globals__))
    return definitions(ast.parse(source)).get(thing.__name__)


def definitions(tree):
    """Name -> `meaning` of the functions and classes at the top of a syntax tree."""
    return {n.name: _without_words(n) for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}


def driven(tree):
    """Name -> the module, as it is written, in `@drives(module)` of the functions and classes at the top of a tree."""
    nodes = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return {n.name: ast.unparse(d)[len("drives(") : -1] for n in nodes for d in n.decorator_list if _is_drives(d)}


def _is_drives(decorator):
    return ast.unparse(decorator).startswith("drives(")


def _without_words(definition):
    definition = copy.deepcopy(definition)
    for node in ast.walk(definition):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            node.decorator_list = [d for d in node.decorator_list if not _is_drives(d)]
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(definition)
