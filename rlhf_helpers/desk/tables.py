"""A reader's own file or folder, as rows: JSON, JSON Lines, CSV, TSV, Parquet and Arrow, also under gzip.

What cannot be read as a row is kept as an `Unread` in its place, so that it can be counted.
"""

import gzip
import io
import json
import os
import re
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..engine.files import WorkbookError, parse, shown

SPLITS = {  # how files call their splits -> how the chapters do
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "validation", "valid", "val"), "dev"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
    **dict.fromkeys(("heldout", "held_out", "reworded"), "heldout"),
}
# a list under one of these is the rows
HOLDERS = ("data", "rows", "examples", "items", "records", "instances", "prompts", "questions")
NO_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
KINDS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")


@dataclass(frozen=True)
class Unread:
    """What stands where a row should."""

    why: str


@dataclass(frozen=True)
class Row:
    """One row of a file: where it stands, the split that its file is named after ("" if none), and what it holds."""

    place: str
    split: str
    value: object  # a dict, or an `Unread`


def kind_of(path):
    """What a path ends in, gzip aside, in small letters: ".csv" for DATA.CSV.gz."""
    path = Path(path)
    return (Path(path.stem) if path.suffix.lower() == ".gz" else path).suffix.lower()


def name_of(field):
    """The name of a field in one form: "Response A", "responseA" and "response-a" are all response_a."""
    return one_form(str(field))


@lru_cache(maxsize=1000)
def one_form(name):
    """`name_of` of a text; the rows of a file mostly have the same names."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip().rstrip("?!:"))
    return re.sub(r"[\s.-]+", "_", words).lower()


# ---------------------------------------------------------------- one file


def content(path):
    """The bytes of a file, unpacked if it is a .gz; raises WorkbookError where the system refuses."""
    try:
        data = Path(path).read_bytes()
        return gzip.decompress(data) if Path(path).suffix.lower() == ".gz" else data
    except (OSError, EOFError, zlib.error, ValueError) as e:
        why = getattr(e, "strerror", None) or e
        raise WorkbookError(f"{path} cannot be read ({why}). Check the path and that the file is whole.") from None


def utf8(data, path):
    """Text files as UTF-8 without a byte order mark; UTF-16, as some spreadsheets write it, is told by its mark."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16").encode("utf-8", "surrogatepass")
        except UnicodeError as e:
            raise WorkbookError(f"{path} is not text in UTF-16, as it begins ({e}). Save it as UTF-8.") from None
    return data.removeprefix(b"\xef\xbb\xbf")


def text_of(data, path):
    """The text of a file; raises WorkbookError naming the line that is not UTF-8."""
    data = utf8(data, path)
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise WorkbookError(
            f"{path}, line {line}: this is not text in UTF-8 (byte 0x{data[e.start]:02x}). Save the file as UTF-8."
        ) from None


def parsed(line):
    """The value of some JSON, or an `Unread`."""
    try:
        return parse(line)
    except ValueError as e:  # a UnicodeDecodeError is one too
        return Unread(f"no valid JSON: {str(e)[:80]}")


def json_rows(data, path):
    """[(place, split, value)] of JSON Lines or of one JSON value, whatever the file is called."""
    data = utf8(data, path)
    lines = [(n, x) for n, x in enumerate(data.split(b"\n"), 1) if x.strip()]
    first = parsed(lines[0][1]) if lines else None
    if isinstance(first, dict) and len(lines) > 1:
        return [(f"line {n}", "", parsed(x)) for n, x in lines]
    whole = parsed(data)
    if not isinstance(whole, Unread):
        return unpacked(whole)
    if isinstance(first, Unread) and (values := stream(data)):
        return [(f"object {n}", "", value) for n, value in enumerate(values, 1)]
    if data.lstrip()[:1] == b"[" and isinstance(first, Unread):
        raise WorkbookError(f"{path}: this list is {whole.why}. Mend the file, or get it again.")
    return [(f"line {n}", "", parsed(x)) for n, x in lines]


def stream(data):
    """The JSON objects that stand one after another, each on several lines; None if there is anything else."""
    values, at, decoder = [], 0, json.JSONDecoder()
    try:
        text = data.decode().rstrip()
        while at < len(text):
            at += re.match(r"\s*", text[at : at + 1000]).end()  # type: ignore[union-attr]
            value, at = decoder.raw_decode(text, at)
            values.append(value)
    except (ValueError, RecursionError):
        return None
    return values


def unpacked(whole):
    """Rows of one JSON value: a list, lists by split, a list under a name such as "data", or columns."""
    held = whole
    if isinstance(whole, dict) and whole:
        values = list(whole.values())
        if all(is_rows(v) or is_texts(v) for v in values) and set(map(name_of, whole)) <= {*SPLITS, *HOLDERS}:
            return [
                (f"{key} {n}", SPLITS.get(name_of(key), ""), unwrapped(v))
                for key, rows in whole.items()
                for n, v in enumerate(rows, 1)
            ]
        named = [v for k, v in whole.items() if name_of(k) in HOLDERS and is_rows(v)]
        texts = [v for k, v in whole.items() if is_texts(v) and (len(whole) == 1 or name_of(k) in HOLDERS)]
        held = next(filter(None, (*named, columns(whole), *texts)), [whole])
    rows = held if isinstance(held, list) else [held]
    return [(f"row {n}", "", unwrapped(v)) for n, v in enumerate(rows, 1)]


def is_rows(value):
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def is_texts(value):
    return isinstance(value, list) and len(value) > 1 and all(isinstance(v, str) for v in value)


def unwrapped(value):
    """A row out of {"row_idx": 0, "row": {...}}, as the viewer of a hub gives it."""
    inner = (
        value.get("row") if isinstance(value, dict) and set(value) <= {"row_idx", "row", "truncated_cells"} else None
    )
    return inner if isinstance(inner, dict) else value


def columns(table):
    """Rows of {"column": {"0": …}} or {"column": […]}, as pandas writes them; None if it is no such table."""
    values = list(table.values())
    if len(values) > 1 and all(isinstance(v, dict) and v and set(v) == set(values[0]) for v in values):
        if all(str(k).isdigit() for k in values[0]):
            return [{name: column[k] for name, column in table.items()} for k in values[0]]
    if len(values) > 1 and all(isinstance(v, list) and len(v) == len(values[0]) > 1 for v in values):
        if all(isinstance(x, str) for v in values for x in v):
            return [dict(zip(table, row)) for row in zip(*values)]
    return None


def csv_rows(data, path):
    """Rows of a CSV or TSV file, all cells as text; the separator is the one that its header has most of."""
    import pandas as pd

    text = text_of(data, path)
    header = text.lstrip("\r\n").split("\n", 1)[0]
    sep = "\t" if kind_of(path) == ".tsv" else max(",;\t", key=header.count)
    try:
        # to be quiet about what `na` looks like: an answer may be the word "None"
        table = pd.read_csv(io.StringIO(text), sep=sep, dtype=str, keep_default_na=False, na_filter=False)
    except (ValueError, OverflowError, StopIteration) as e:  # pandas' own errors are ValueErrors
        why = re.sub(r"\s+", " ", str(e)).strip().removeprefix("Error tokenizing data. C error: ").rstrip(".")
        raise WorkbookError(f"{path} cannot be read as a table ({why[:160]}). Mend that line of the file.") from None
    if not isinstance(table.index, pd.RangeIndex):
        raise WorkbookError(f"{path}: its rows have more cells than its header has names. Mend the header.")
    names = [str(c) for c in table.columns]
    cells = zip(*(table[c].tolist() for c in table.columns)) if len(table) else ()
    return [(f"row {n}", "", dict(zip(names, row))) for n, row in enumerate(cells, 1)]


def arrow_rows(data, path):
    """Rows of a Parquet file, or of an Arrow file as `datasets` saves it."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise WorkbookError(
            f"Reading {path} takes the package pyarrow: run python -m pip install pyarrow, or save it as JSON Lines."
        ) from None
    try:
        if kind_of(path) == ".parquet":
            table = pq.read_table(io.BytesIO(data))
        else:
            opened = pa.ipc.open_file if data.startswith(b"ARROW1") else pa.ipc.open_stream
            table = opened(io.BytesIO(data)).read_all()
        rows = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as e:
        raise WorkbookError(f"{path} cannot be read ({str(e).splitlines()[0][:160]}). Get the file again.") from None
    return [(f"row {n}", "", row) for n, row in enumerate(rows, 1)]


def rows_of_file(path, others=()):
    """[(place, split, value)] of one file, by how it is named, or, where that says nothing, by how it begins.

    others: what else could have been read, which the message about a file of no known kind names too.
    """
    data, kind = content(path), kind_of(path)
    if not data.strip(b"\xef\xbb\xbf\xff\xfe \r\n\t\0"):
        raise WorkbookError(f"{path} is empty.")
    if kind in (".parquet", ".arrow") or data.startswith(b"PAR1"):
        return arrow_rows(data, path if kind in KINDS else f"{path}.parquet")
    if kind in (".csv", ".tsv"):
        return csv_rows(data, path)
    if kind in KINDS or utf8(data, path).lstrip()[:1] in (b"{", b"["):
        return json_rows(data, path)
    kinds = ", ".join((*others, *KINDS))
    raise WorkbookError(
        f"{path} is of no kind that can be read here; save it as one of {kinds} (or one of these as .gz)."
    )


# ---------------------------------------------------------------- a file or a folder


def split_in(path):
    """The split that a path inside a folder is named after: "train" for data/train-00000-of-00002.parquet."""
    words = re.split(r"[^a-z]+", str(path).lower())
    return next((SPLITS[w] for w in words if w in SPLITS), "")


def files_in(folder):
    """The files in a folder that can hold rows, in order, and the names of those that cannot."""
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    found = [p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    usable = [p for p in found if kind_of(p) in KINDS and p.name not in NO_ROWS]
    return usable, sorted({p.name for p in found if p not in usable and p.name not in NO_ROWS})


def home(path):
    """`path` as a Path, with ~ for the home folder; as it stands where it has characters that no path can have."""
    try:
        return Path(os.path.expanduser(path))
    except ValueError:
        return Path(path)


def read(path, parameter, others=()):
    """(rows, notes): every `Row` of a file or folder, and what else is to be said.  others: see `rows_of_file`.

    Raises WorkbookError, naming the `parameter`, where there is nothing to read.
    """
    path = home(path)
    if not os.path.exists(path):
        raise WorkbookError(
            f"The parameter {parameter} names {shown(str(path), 300)}, which does not exist (seen from {Path.cwd()})."
        )
    if path.is_file():
        return [Row(*row) for row in rows_of_file(path, others)], []
    usable, unread = files_in(path)
    if not usable:
        raise WorkbookError(
            f"The folder {shown(str(path), 300)} holds no file that can be read here, of which the names end in "
            f"{', '.join(KINDS)} (or .gz)."
        )
    rows = []
    for file in usable:
        name = file.relative_to(path)
        rows += [Row(f"{name}, {place}", split or split_in(name), value) for place, split, value in rows_of_file(file)]
    return rows, [f"Other files in the folder were not read: {', '.join(unread[:5])}."] if unread else []
