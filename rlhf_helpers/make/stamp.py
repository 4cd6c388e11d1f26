"""`make stamp`: figures in README and docs/ are written from what was measured, and nobody types them.

A stamped place is a comment with a template in it, what the template gives, and a mark where it ends:

    <!-- stamp {ppo_seeds.win_rate:.3f} -->0.910 (0.900 to 0.920)<!-- /stamp -->

A field names a file in benchmarks/results/ and what it holds (`Result`), then how to say it (`Figure`).  A template
may be several lines long, with text around its fields.  `python -m rlhf_helpers.make.stamp --check` changes nothing,
names the places that would change, and exits with 1 if there are any.
"""

import argparse
import hashlib
import importlib
import math
import re
import statistics
import sys
import textwrap
from functools import cache

from ..desk import tasks
from ..engine import files, memory
from ..engine.files import ROOT, WorkbookError

MARK = re.compile(r"(<!-- stamp(\s.*?)-->)(.*?)(<!-- /stamp -->)", re.S)
SPLIT_NAMES = {"reworded": "reworded questions", "dev": "dev questions", "test": "test questions"}
PARAGRAPH = textwrap.TextWrapper(120, break_long_words=False, break_on_hyphens=False)
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # Student's t for 1, 2, ... degrees of freedom


# ---------------------------------------------------------------- one figure


def interval(values):
    """(mean, low, high): the 95% interval of the mean over seeds, by Student's t; endless for one value."""
    mean, free = statistics.mean(values), len(values) - 1
    if not free:
        return mean, -math.inf, math.inf
    half = (T95[free - 1] if free <= len(T95) else 2.0) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def side(values, bound, above, below):
    """`above` or `below` where the 95% interval lies on one side of `bound`, else "inconclusive"."""
    _, low, high = interval(values)
    return above if low > bound else below if high < bound else "inconclusive"


def with_interval(values, digits):
    """The mean and, in brackets, its interval."""
    mean, low, high = (format(x, digits) for x in interval(values))
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"


SAY = {
    "wins": lambda values, _: side(values, 0.5, "wins", "loses"),
    "differs": lambda values, _: side(values, 0, "higher", "lower"),
    "worse": lambda values, margin: side(values, -float(margin), "no worse", "worse"),
}


class Figure:
    """The values of all seeds, in one group or in several, such as splits and tastes: {name: list of numbers}.

    `{figure:.3f}` says mean and 95% interval, and before them the name of the group where there are several;
    `{figure:lowest .3f}` and `highest` say those of one group.  Verdicts: `wins` (of a share: wins, loses or
    inconclusive), `differs` (of a difference: higher, lower or inconclusive) and `worse 0.01` (no worse, worse or
    inconclusive, where more than 0.01 would be worse).
    """

    def __init__(self, groups):
        self.groups = groups

    def __format__(self, spec):
        how, _, digits = spec.partition(" ")
        if how in ("lowest", "highest"):
            choose = min if how == "lowest" else max
            name = choose(self.groups, key=lambda g: statistics.mean(self.groups[g]))
            return f"{with_interval(self.groups[name], digits)} for {name}"
        say, digits = (SAY[how], digits) if how in SAY else (with_interval, spec)
        said = {name: say(values, digits) for name, values in self.groups.items()}
        return ", ".join(f"{name} {text}".strip() if len(said) > 1 else text for name, text in said.items())


def column(runs, key):
    """The values of one key, or of the quotient of two, as in "tokens/cpu"."""
    over, _, under = key.partition("/")
    return [r[over] / r[under] if under else r[over] for r in runs]


# ---------------------------------------------------------------- what was measured


def built(*names):
    """Which build of data/ is measured: {name: the first digits of its SHA-256}.

    A name is that of a model, for its weights, or of a file in data/.  A script keeps this as "data" in its result.
    """
    paths = {n: ROOT / "data" / (n if "." in n else f"models/{n}/model.safetensors") for n in names}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for name, path in paths.items()}


def begun(path, *names):
    """What a result that grows run by run holds so far: only "data" if it belongs to another build."""
    content = files.parse(path.read_bytes()) if path.exists() else {}
    data = built(*names)
    return (content if content.get("data") == data else {}) | {"data": data}


class Lookup:
    """A function that templates can call with a name: `{lookup.name}` or `{lookup[name]}`."""

    def __init__(self, function):
        self.function = function

    def __getitem__(self, key):
        return self.function(key)

    __getattr__ = __getitem__


class Result:
    """A file of benchmarks/results/.  A name is what stands under it at the top of the file, else a column of its runs.

    A column is a `Figure`; one that is there once for each split, as in "test_win_rate", has a group for each.
    """

    def __init__(self, name, content):
        self.name, self.content = name, content
        self.runs = content.get("runs") or content.get("seeds") or []

    def __getitem__(self, key):
        return self.content[key] if key in self.content else Figure(self._groups(self.runs, key))

    __getattr__ = __getitem__

    def _groups(self, runs, key):
        named = {s: f"{s}_{key}" for s in SPLIT_NAMES if runs and f"{s}_{key}" in runs[0]} or {"": key}
        try:
            return {split: column(runs, k) for split, k in named.items()}
        except KeyError:
            raise WorkbookError(f"{self.name} has nothing that is called {key!r}") from None

    @property
    def n(self):
        """How many seeds."""
        return len({r.get("seed", i) for i, r in enumerate(self.runs)})

    @property
    def where(self):
        """What was measured on, in words."""
        splits = [s for s in SPLIT_NAMES if any(k.startswith(f"{s}_") for k in self.runs[0])]
        if not splits and "split" not in self.content:
            raise WorkbookError(f'{self.name} does not say on which prompts it was measured: it needs a "split"')
        return " and ".join(SPLIT_NAMES[s] for s in splits or [self.content["split"]])

    @property
    def by(self):
        """`by[taste].win_rate` is a column with a group for each taste."""
        return Lookup(lambda name: Lookup(lambda key: self._grouped(name, key)))

    def _grouped(self, name, key):
        groups = {}
        for value in dict.fromkeys(column(self.runs, name)):
            some = [r for r in self.runs if r[name] == value]
            groups |= {f"{value} {split}".strip(): v for split, v in self._groups(some, key).items()}
        return Figure(groups)

    def _pairs(self, key):
        """[(ours, theirs)] of the runs of one seed, in benchmarks against TRL."""
        ours, theirs = ([r for r in self.runs if r["side"] == side] for side in ("ours", "trl"))
        return list(zip(column(ours, key), column(theirs, key), strict=True))

    @property
    def ahead(self):
        """`ahead[key]`: ours minus TRL's, paired by seed."""
        return Lookup(lambda key: Figure({"": [a - b for a, b in self._pairs(key)]}))

    @property
    def times(self):
        """`times[tokens/cpu]`: ours over TRL's, paired by seed."""
        return Lookup(lambda key: Figure({"": [a / b for a, b in self._pairs(key)]}))

    @property
    def caveat(self):
        """What speaks against the figures, in words; a file that was measured anew has none."""
        data = self.content.get("data", {})
        earlier = "Measured with an earlier build of `data/`." if data != built(*data) else ""
        return " ".join(filter(None, (self.content.get("caveat", ""), earlier)))

    @property
    def table(self):
        """What the script that made the file says of it in Markdown, and its caveat."""
        return f"{script(self.name).markdown(self.content).strip()}\n\n{self.caveat}"

    @property
    def reproduced(self):
        """The rows of docs/reproductions.md that the script makes of the file."""
        return "\n".join(script(self.name).reproduced(self.content))


def script(name):
    """The module in benchmarks/ that made a result: "ppo_seeds_terse" is of ppo_seeds.py."""
    stem = max((p.stem for p in (ROOT / "benchmarks").glob("*.py") if name.startswith(p.stem)), key=len)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module(stem)
    finally:
        sys.path.pop(0)


class Sources(dict):
    """Everything that a template may name, read when it is asked for.

    The files of benchmarks/results/ without .json, `scores` of the models that ship (`scores.policy.right`), and
    `memory`, what chapter 05 needs by the formula (`memory[table]`, `memory[copies]`, and its settings, `memory[ppo]`).
    """

    def __missing__(self, name):
        if name == "scores":
            models = read(ROOT / "data" / "checksums.json")["models"]
            self[name] = Lookup(lambda model: Result(f"data/checksums.json, {model}", {"runs": [models[model]]}))
        elif name == "memory":
            copies = sum(memory.COPIES["PPO"].values())
            self[name] = {"table": memory.sizes_table(tasks.PPO), "copies": copies, "ppo": tasks.PPO}
        else:
            self[name] = Result(name, read(ROOT / "benchmarks" / "results" / f"{name}.json"))
        return self[name]


@cache
def read(path):
    """The content of a JSON file; WorkbookError where it is missing."""
    if not path.exists():
        raise WorkbookError(f"{path.relative_to(ROOT)} does not exist")
    return files.parse(path.read_bytes())


# ---------------------------------------------------------------- pages


def pages():
    """The pages that may have stamped places."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def fill(template, sources):
    """What a template gives; its paragraphs are wrapped anew.  Raises WorkbookError, which names what is missing."""
    try:
        text = template.strip().format_map(sources).strip()
    except KeyError as e:
        raise WorkbookError(f"there is nothing that is called {e}") from None
    except (AttributeError, IndexError, TypeError, ValueError) as e:
        raise WorkbookError(f"a field cannot be read: {e}") from None
    if "\n" not in template:
        return text
    blocks = [b.strip("\n") for b in re.split(r"\n{2,}", text)]
    return "\n" + "\n\n".join(b if re.match(r"[|#!]|- ", b) else PARAGRAPH.fill(b) for b in blocks) + "\n"


def stamps(text, sources):
    """(line, template, what stands there, what should) of every stamped place; WorkbookError names the line."""
    if not text.count("<!-- stamp") == text.count("<!-- /stamp -->") == len(MARK.findall(text)):
        raise WorkbookError("a stamp has no end, or an end no stamp")
    for found in MARK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        try:
            yield line, " ".join(found[2].split()), found[3], fill(found[2], sources)
        except WorkbookError as e:
            raise WorkbookError(f"line {line}: {e}") from None


def filled_in(text, sources):
    """The text of a page with every place filled."""
    filled = iter([new for _, _, _, new in stamps(text, sources)])
    return MARK.sub(lambda found: found[1] + next(filled) + found[4], text)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Write the figures of README and docs/ from what was measured.")
    parser.add_argument("--check", action="store_true", help="only name the places that would change")
    check, sources, differ = parser.parse_args(arguments).check, Sources(), 0
    for path in pages():
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
        try:
            stale = [p for p in stamps(text, sources) if p[2] != p[3]]
            if stale and not check:
                files.write_text(path, filled_in(text, sources))
        except WorkbookError as e:
            print(f"{name}: {e}.", file=sys.stderr)
            return 1
        for line, template, _, _ in stale:
            print(f"{name}, line {line}: {'is not' if check else 'stamped'} {textwrap.shorten(template, 80)}")
        differ += len(stale)
    return int(check and differ > 0)


if __name__ == "__main__":
    sys.exit(main())
