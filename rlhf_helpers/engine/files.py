"""Where things lie, how they are written, and what is said when something is wrong with them.

Every file is written to a temporary name in the same folder and then renamed, so that nothing
is ever half-written.
"""

import json
import os
import platform
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class WorkbookError(Exception):
    """Something the reader can put right; the message says what is wrong and what to do."""

    def _render_traceback_(self):  # Jupyter shows this instead of a stack of frames
        return [f"WorkbookError: {self}"]


# ---------------------------------------------------------------- writing and reading


@contextmanager
def _explained(path):
    """Say in one sentence what the system has against writing `path`."""
    try:
        yield
    except OSError as e:
        raise WorkbookError(
            f"{path} was not written ({e.strerror or e}). What was there is still there. Make room, or choose a "
            "folder that you may write to, and run the cell again."
        ) from None


@contextmanager
def replacing_file(path):
    """Give a file to write bytes to; it takes the place of `path`, all at once, only if the block succeeds.

    Raises WorkbookError, with the old file in its place, where the system refuses: a full disk, a read-only folder.
    """
    with _explained(path), _replacing_file(Path(path)) as f:
        yield f


@contextmanager
def _replacing_file(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_text(path, text):
    """Write `text` (UTF-8) to `path` all at once: a reader sees the old file or the new one."""
    with replacing_file(path) as f:
        f.write(text.encode("utf-8"))


def write_json(path, value):
    """Write `value` as indented JSON, all at once."""
    write_text(path, storable(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")


def write_jsonl(path, rows):
    """Write one JSON object per line, all at once."""
    write_text(path, "".join(storable(json.dumps(r, ensure_ascii=False)) + "\n" for r in rows))


def storable(text):
    """JSON in which lone surrogates, which UTF-8 cannot hold, are JSON's own escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def parse(line):
    """The value of a line of JSON (bytes, in UTF-8, with or without a byte order mark); ValueError if it is none."""
    try:
        return json.loads(line.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def shown(value, most=80):
    """`value` as it is shown in a message: its repr, cut to `most` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def read_jsonl(path, fields=()):
    """The objects of a JSON-lines file, as a list of dicts.

    Raises WorkbookError naming the file and the line when the file is missing, a line is not a
    JSON object, or one of `fields` is absent or not text.
    """
    path = Path(path)
    if not path.is_file():
        raise WorkbookError(f"There is no file {path}. Run the chapter that makes it, or check the path.")
    rows = []
    for n, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = parse(line)
        except ValueError as e:
            raise WorkbookError(
                f"{path}, line {n}: this is not valid JSON ({e}). Mend or delete that line and run the cell again."
            ) from None
        what = "" if isinstance(row, dict) else "a JSON object {...} was expected"
        for field in fields if not what else ():
            what = what or ("" if isinstance(row.get(field), str) else f"the field {field!r} is missing or not text")
        if what:
            raise WorkbookError(f"{path}, line {n}: {what}. Mend or delete that line and run the cell again.")
        rows.append(row)
    return rows


@contextmanager
def replacing_folder(path):
    """Give an empty folder to fill; it takes the place of `path` only if the block succeeds.

    Raises WorkbookError, with the old folder in its place, where the system refuses: a full disk, a read-only folder.
    """
    with _explained(path), _replacing_folder(Path(path)) as folder:
        yield folder


@contextmanager
def _replacing_folder(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    put_back(path)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield fresh
        os.chmod(fresh, 0o755)
        if path.exists():
            os.replace(path, _aside(path))
        os.replace(fresh, path)
        shutil.rmtree(_aside(path), ignore_errors=True)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        put_back(path)
        raise


def _aside(path):
    """Where the old folder waits while the new one takes its place: no system can exchange two folders at once."""
    return path.with_name(f".{path.name}.old")


def put_back(path):
    """End what a crash in the middle of `replacing_folder` left: `path` holds its old content again, or its new one."""
    if path.exists():
        shutil.rmtree(_aside(path), ignore_errors=True)
    elif _aside(path).exists():
        os.replace(_aside(path), path)


# ---------------------------------------------------------------- a notebook's workspace


def versions():
    """Versions of what a result depends on."""
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }
