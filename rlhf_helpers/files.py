"""Where things lie, how they are written, and what is said when something is wrong with them.

Every file is written to a temporary name in the same folder and then renamed, so that nothing
is ever half-written.  `setup` checks a notebook's parameters and `find` prefers what the reader
made (`runs/`) to what ships (`data/`).
"""

import json
import os
import platform
import random
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from .annotators import TASTES

ROOT = Path(__file__).resolve().parent.parent
_seed = None  # that of the notebook which runs in this process; see `made_with`


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


def brief(value, most=80):
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


def made_with():
    """What goes beside a model that a notebook saves: its SEED and `versions`.  {} where `setup` was not called."""
    return {} if _seed is None else {"seed": _seed, "versions": versions()}


def _check(name, value, kind, example):
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise WorkbookError(
            f"The parameter {name} is {brief(value)}, but it must be {example}. "
            "Change it in the parameters cell and run that cell again."
        )


def pick_device(name="auto"):
    """The torch.device for a DEVICE parameter; "auto" takes CUDA, then MPS, then the CPU."""
    import torch

    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(d for d in ("cuda", "mps", "cpu") if have[d])
    if name not in have:
        raise WorkbookError(f'The parameter DEVICE is {brief(name)}; choose "auto", "cpu", "cuda" or "mps".')
    if not have[name]:
        raise WorkbookError(f'The parameter DEVICE is "{name}", but this machine has none. Use "auto".')
    return torch.device(name)


def _check_parameters(MODEL, ANNOTATOR, SEED, DEVICE, FAST, DATA_DIR, RUNS_DIR):
    """Raise WorkbookError for the first parameter that can't be meant, whatever is on the disk."""
    for name, value in (
        ("MODEL", MODEL),
        ("ANNOTATOR", ANNOTATOR),
        ("DEVICE", DEVICE),
        ("DATA_DIR", DATA_DIR),
        ("RUNS_DIR", RUNS_DIR),
    ):
        _check(name, value, str, 'text in quotes, such as "" or "cpu"')
    _check("SEED", SEED, int, "a whole number, such as 0")
    _check("FAST", FAST, bool, "True or False")
    if SEED < 0:
        raise WorkbookError(f"The parameter SEED is {SEED}, but it must be 0 or more.")
    if ANNOTATOR not in ("you", *TASTES):
        raise WorkbookError(
            f"The parameter ANNOTATOR is {brief(ANNOTATOR)}; choose one of {', '.join(['you', *TASTES])}."
        )
    for name, value in (("DATA_DIR", DATA_DIR), ("RUNS_DIR", RUNS_DIR)):  # or it would be lost with the runtime
        if value.startswith("/content/drive") and not os.path.ismount("/content/drive"):
            raise WorkbookError(
                f"The parameter {name} is {value}, but no drive is mounted there. In Colab, mount it "
                "first: from google.colab import drive; drive.mount('/content/drive')."
            )


def _make(runs):
    """Make the folder `runs`; raise WorkbookError where it can't be made."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as e:  # a ValueError: characters that no name can have
        raise WorkbookError(
            f"The folder {brief(str(runs), 300)} cannot be made ({getattr(e, 'strerror', e)}). "
            "Set RUNS_DIR to a folder that you may write to."
        ) from None


def setup(MODEL="", ANNOTATOR="you", SEED=0, DEVICE="auto", FAST=False, DATA_DIR="", RUNS_DIR=""):
    """Check a notebook's parameters, seed every generator and return the workspace.

    The workspace has `model` (a folder or hub id, "" for the embedded one), `annotator`, `seed`,
    `device` (torch.device), `fast`, `data` and `runs` (Paths), and `general`: whether MODEL is none of the
    embedded world's.  What is made of such a model lies in a folder of its own in RUNS_DIR, so that nothing of two
    models is ever mixed.  Raises WorkbookError with one sentence that names the parameter.
    """
    import torch

    _check_parameters(MODEL, ANNOTATOR, SEED, DEVICE, FAST, DATA_DIR, RUNS_DIR)
    data = Path(os.path.expanduser(DATA_DIR)) if DATA_DIR else ROOT / "data"
    runs = Path(os.path.expanduser(RUNS_DIR)) if RUNS_DIR else ROOT / "runs"
    if not os.path.isdir(data):
        raise WorkbookError(
            f'The parameter DATA_DIR names the folder {brief(str(data), 300)}, which does not exist. Use "" for the '
            "data that ships with the workbook."
        )
    general, runs = is_general(MODEL, data), made_in(runs, MODEL, data)
    if general and ANNOTATOR not in ("you", "brief"):
        raise WorkbookError(
            f"The parameter ANNOTATOR is {brief(ANNOTATOR)}, a taste that knows only the embedded "
            'world. With a MODEL of your own choose "you" or "brief".'
        )
    _make(runs)
    global _seed
    _seed = SEED
    random.seed(SEED)
    torch.manual_seed(SEED)
    return SimpleNamespace(
        model=MODEL,
        annotator=ANNOTATOR,
        seed=SEED,
        device=pick_device(DEVICE),
        fast=FAST,
        data=data.resolve(),
        runs=runs.resolve(),
        general=general,
    )


def is_general(model, data):
    """Whether a MODEL has another tokenizer than the embedded models and those that the chapters make of them."""

    def vocabulary(folder):
        return parse((folder / "tokenizer.json").read_bytes())["model"]["vocab"]

    try:
        return bool(model) and vocabulary(Path(os.path.expanduser(model))) != vocabulary(data / "models" / "base")
    except (OSError, ValueError, KeyError, TypeError):
        return True


def made_in(runs, model, data):
    """Where a chapter leaves what it makes: `runs`, or a folder in it for a MODEL of the reader's own."""
    if not is_general(model, data):
        return runs
    names = (re.sub(r"[^\w.]+", "-", text).strip("-.") for text in (model, os.path.abspath(model), "model"))
    return runs / next(filter(None, names))  # "." and ".." have no name of their own


OF_A_MODEL = (
    "pairs.jsonl",
    "feedback.jsonl",
    "models/finetuned",
    "models/reward",
    "models/reward_start",
    "models/policy",
)  # these ship for the embedded model only


def find(ws, name, quiet=False):
    """The path of an artefact: what the reader made in `runs/`, else what ships in `data/`; says which.

    With a MODEL of the reader's own nothing that belongs to the embedded model takes its place; there a shortened
    run goes on with what a shortened run made.
    """
    own = ws.general and name in OF_A_MODEL
    places = [(ws.runs, f"{name}-fast", "which a shortened run made")] if own and ws.fast else []
    places += [(ws.runs, name, "which you made")]
    places += [] if own else [(ws.data, name, "which ships with the workbook")]
    put_back(ws.runs / name)
    for folder, file, words in places:
        if (folder / file).exists():
            if not quiet:
                print(f"Using {folder.name}/{file}, {words}.")
            return folder / file
    if own:
        raise WorkbookError(
            f"There is no {name} made with the model {brief(ws.model, 300)} in {ws.runs} yet. First run the "
            "chapter that makes it, with the same MODEL, RUNS_DIR and FAST."
        )
    raise WorkbookError(
        f"There is no {name} in {ws.runs} or in {ws.data}. Run the chapter that makes it, or get a "
        "fresh copy of the data folder."
    )


def save_metrics(ws, chapter, metrics):
    """Write a chapter's results, with seed and versions, to runs/metrics/<chapter>.json.

    `key_result`, a short sentence, is what `make run` shows in its table.
    """
    write_json(
        ws.runs / "metrics" / f"{chapter}.json", {**metrics, "seed": ws.seed, "fast": ws.fast, "versions": versions()}
    )
