"""A notebook's workspace: its parameters, checked, and where its files lie.

`find` prefers what the reader made (`runs/`) to what ships (`data/`).
"""

import os
import random
import re
import zlib
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoConfig, AutoTokenizer

from ..engine import lora, models
from ..engine.files import ROOT, WorkbookError, parse, put_back, shown, versions, write_json
from ..lesson import decoding, feedback
from ..world.annotators import TASTES
from ..world.facts import question_by_prompt
from . import preferences, prompts, tables
from .card import AGAIN


def _check(name, value, kind, example):
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise WorkbookError(
            f"The parameter {name} is {shown(value)}, but it must be {example}. "
            "Change it in the parameters cell and run that cell again."
        )


def pick_device(name="auto"):
    """The torch.device for a DEVICE parameter; "auto" takes CUDA, then MPS, then the CPU."""
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(d for d in ("cuda", "mps", "cpu") if have[d])
    if name not in have:
        raise WorkbookError(f'The parameter DEVICE is {shown(name)}; choose "auto", "cpu", "cuda" or "mps".')
    if not have[name]:
        raise WorkbookError(f'The parameter DEVICE is "{name}", but this machine has none. Use "auto".')
    return torch.device(name)


def _check_parameters(MODEL, ANNOTATOR, SEED, DEVICE, FAST, DATA_DIR, RUNS_DIR, PREFERENCES="", PROMPTS="", LORA=0):
    """Raise WorkbookError for the first parameter that can't be meant, whatever is on the disk."""
    for name, value in (
        ("MODEL", MODEL),
        ("ANNOTATOR", ANNOTATOR),
        ("DEVICE", DEVICE),
        ("DATA_DIR", DATA_DIR),
        ("RUNS_DIR", RUNS_DIR),
        ("PREFERENCES", PREFERENCES),
        ("PROMPTS", PROMPTS),
    ):
        _check(name, value, str, 'text in quotes, such as "" or "cpu"')
    _check("SEED", SEED, int, "a whole number, such as 0")
    _check("LORA", LORA, int, "a whole number: 0, or LoRA's rank, such as 16")
    _check("FAST", FAST, bool, "True or False")
    for name, number in (("SEED", SEED), ("LORA", LORA)):
        if number < 0:
            raise WorkbookError(f"The parameter {name} is {number}, but it must be 0 or more.")
    if LORA:
        lora.need_peft()
    for name, value in (("DATA_DIR", DATA_DIR), ("RUNS_DIR", RUNS_DIR)):  # or it would be lost with the runtime
        if value.startswith("/content/drive") and not os.path.ismount("/content/drive"):
            raise WorkbookError(
                f"The parameter {name} is {value}, but no drive is mounted there. In Colab, mount it "
                "first: from google.colab import drive; drive.mount('/content/drive')."
            )


def people(runs):
    """Who labelled in runs/feedback.jsonl, simulated annotators left out: names, in the order of their first label."""
    log = runs / "feedback.jsonl"
    labels = feedback.replay(feedback.read_events(log)[0]) if log.exists() else []
    return list(dict.fromkeys(x["annotator"] for x in labels if not feedback.is_simulated(x)))


def check_annotator(name, runs):
    """Raise WorkbookError unless an ANNOTATOR is "you", a taste, or somebody who labelled in `runs`."""
    if name in ("you", *TASTES) or name in people(runs):
        return
    known = [x for x in people(runs) if x != "you"]
    others = f", or one of those who labelled in {runs.name}/feedback.jsonl: {', '.join(known)}" if known else ""
    raise WorkbookError(
        f"The parameter ANNOTATOR is {shown(name)}; choose one of {', '.join(['you', *TASTES])}{others}."
    )


def make(runs):
    """Make the folder `runs`; raise WorkbookError where it can't be made."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as e:  # a ValueError: characters that no name can have
        raise WorkbookError(
            f"The folder {shown(str(runs), 300)} cannot be made ({getattr(e, 'strerror', e)}). "
            "Set RUNS_DIR to a folder that you may write to."
        ) from None


def needs(known, name):
    """Raise WorkbookError unless `name` is in `known`, what a notebook has made: then the cells above must run first.

    For a cell with a card, which is run alone more often than others, as after a restart of the kernel.
    """
    if name not in known:
        raise WorkbookError(f"The cells above this one have not run since the kernel was started. {AGAIN}")


def setup(
    MODEL="",
    ANNOTATOR="you",
    SEED=0,
    DEVICE="auto",
    FAST=False,
    DATA_DIR="",
    RUNS_DIR="",
    PREFERENCES="",
    PROMPTS="",
    LORA=0,
):
    """Check a notebook's parameters, seed every generator and return the workspace.

    The workspace has `model` (a folder or hub id, "" for the embedded one), `annotator` ("you" or a taste), `person`
    (whose labels alone count, where ANNOTATOR names somebody who labelled by link; "" for everybody's), `seed`,
    `device` (torch.device), `fast`, `data` and `runs` (Paths), `made_with` (what goes beside a model that is saved: the
    seed and the versions), `preferences` (`preferences.Preferences`, or None), `prompts` (rows, or None), `lora` (the
    rank of what is trained; 0 is all weights), `own_model`:
    whether MODEL is none of the embedded world's, and `general`: whether that, or the prompts, are the reader's own.
    In a FAST run a model of the reader's own gives answers of at most 24 tokens, half as many as else.
    What is made of a reader's own model, prompts or preferences lies in a folder of its own in RUNS_DIR, so that
    nothing of two is ever mixed.  Raises WorkbookError with one sentence that names the parameter.
    """
    _check_parameters(MODEL, ANNOTATOR, SEED, DEVICE, FAST, DATA_DIR, RUNS_DIR, PREFERENCES, PROMPTS, LORA)
    data, runs = tables.home(DATA_DIR or ROOT / "data"), tables.home(RUNS_DIR or ROOT / "runs")
    if not os.path.isdir(data):
        raise WorkbookError(
            f'The parameter DATA_DIR names the folder {shown(str(data), 300)}, which does not exist. Use "" for the '
            "data that ships with the workbook."
        )
    own_model, runs = is_general(MODEL, data), made_in(runs, MODEL, data, PROMPTS, PREFERENCES)
    asked = read_prompts(PROMPTS)
    preferred = read_preferences(PREFERENCES)
    general = own_model or asked is not None or (preferred is not None and not of_the_world(preferred.prompts()))
    check_annotator(ANNOTATOR, runs)
    person = ANNOTATOR if ANNOTATOR not in ("you", *TASTES) else ""
    if general and not person and ANNOTATOR not in ("you", "brief"):
        raise WorkbookError(
            f"The parameter ANNOTATOR is {shown(ANNOTATOR)}, a taste that knows only the embedded "
            'world. With a MODEL, PROMPTS or PREFERENCES of your own choose "you" or "brief".'
        )
    make(runs)
    decoding.LONGEST = 24 if FAST and own_model else 48
    random.seed(SEED)
    torch.manual_seed(SEED)
    return SimpleNamespace(
        model=MODEL,
        annotator="you" if person else ANNOTATOR,
        person=person,
        seed=SEED,
        device=pick_device(DEVICE),
        fast=FAST,
        data=data.resolve(),
        runs=runs.resolve(),
        general=general,
        own_model=own_model,
        prompts=asked,
        preferences=preferred,
        lora=LORA,
        made_with={"seed": SEED, "versions": versions()},
    )


def is_general(model, data):
    """Whether a MODEL has another tokenizer than the embedded models and those that the chapters make of them."""

    def vocabulary(folder):
        return parse((folder / "tokenizer.json").read_bytes())["model"]["vocab"]

    try:
        return bool(model) and vocabulary(Path(os.path.expanduser(model))) != vocabulary(data / "models" / "base")
    except (OSError, ValueError, KeyError, TypeError):
        return True


def read_prompts(path):
    """The rows of PROMPTS, or None; says what was taken."""
    if not path:
        return None
    rows, said = prompts.read(path)
    print(said)
    return rows


def read_preferences(path):
    """What PREFERENCES holds, or None; says what was taken and what was left out."""
    if not path:
        return None
    found = preferences.read(path)
    print(preferences.report(found, examples=0))
    return found


def of_the_world(asked):
    """Whether the embedded world knows all of these prompts."""
    return set(asked) <= set(question_by_prompt())


def made_in(runs, model, data, prompts="", preferences=""):
    """Where a chapter leaves what it makes: `runs`, or a folder in it for a MODEL of the reader's own.

    In that are folders for PROMPTS and PREFERENCES, named after the file and, for others of that name, its place.
    """
    if is_general(model, data):
        names = (re.sub(r"[^\w.]+", "-", text).strip("-.") for text in (model, os.path.abspath(model), "model"))
        runs = runs / next(filter(None, names))  # "." and ".." have no name of their own
    for kind, path in (("prompts", prompts), ("preferences", preferences)):
        if path:
            place = os.path.abspath(tables.home(path))
            name = re.sub(r"[^\w.]+", "-", Path(place).stem).strip("-.")[:40]
            runs = runs / f"{kind}-{name}-{zlib.crc32(place.encode('utf-8', 'surrogatepass')):08x}"
    return runs


OF_A_MODEL = (
    "pairs.jsonl",
    "feedback.jsonl",
    "models/finetuned",
    "models/reward",
    "models/reward_start",
    "models/policy",
)  # these ship for the embedded model only


LONGEST = 1024  # tokens
OF_PREFERENCES = ("feedback.jsonl", "models/reward", "models/policy")  # what is made anew for each PREFERENCES
OF_PROMPTS = ("pairs.jsonl", *OF_PREFERENCES)


def homes(ws, name):
    """The folders in RUNS_DIR where a file may lie: what is made of other preferences or prompts is never taken."""
    inner = [ws.preferences is not None, ws.prompts is not None]  # one folder in another
    needed = [name in OF_PREFERENCES, name in OF_PROMPTS]
    places, here = [ws.runs], ws.runs
    for own, must in zip(inner, needed):
        if own and must:
            break
        if own:
            here = here.parent
            places.append(here)
    return places


def find(ws, name, quiet=False):
    """The path of an artefact: what the reader made in `runs/`, else what ships in `data/`; says which.

    With a MODEL of the reader's own nothing that belongs to the embedded model takes its place, nor with their prompts
    or preferences what was made of others; there a shortened run goes on with what a shortened run made.
    """
    own = (ws.own_model and name in OF_A_MODEL) or (ws.prompts is not None and name in OF_PROMPTS)
    own = own or (ws.preferences is not None and name in OF_PREFERENCES)
    places = []
    for folder in homes(ws, name):
        places += [(folder, f"{name}-fast", "which a shortened run made")] if own and ws.fast else []
        places += [(folder, name, "which you made")]
    places += [] if own else [(ws.data, name, "which ships with the workbook")]
    put_back(ws.runs / name)
    for folder, file, words in places:
        if (folder / file).exists():
            if not quiet:
                print(f"Using {folder.name}/{file}, {words}.")
            return folder / file
    if own:
        whose = f"the model {shown(ws.model, 300)}" if ws.own_model else "your own data"
        raise WorkbookError(
            f"There is no {name} made with {whose} in {ws.runs} yet. First run the chapter that makes it, with the "
            "same MODEL, PROMPTS, PREFERENCES, RUNS_DIR and FAST."
        )
    raise WorkbookError(
        f"There is no {name} in {ws.runs} or in {ws.data}. Run the chapter that makes it, or get a "
        "fresh copy of the data folder."
    )


def reader(ws):
    """(tokenizer, the most tokens of prompt and answer that are learned from) of the model of a workspace.

    Not more than `LONGEST`, whatever the model could read: the memory for longer rows is in no estimate.  Without the
    weights, so that what is too long is known before anything is computed.
    """
    source = os.path.expanduser(ws.model) if ws.model else find(ws, "models/finetuned", quiet=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(lora.speaks(source), trust_remote_code=False)
        config = AutoConfig.from_pretrained(lora.base_of(source)[0], trust_remote_code=False)
    except Exception:  # whatever a damaged or foreign folder makes the libraries say; this says it in a sentence
        model, tokenizer = models.load_model(ws.model)
        config = model.config
    return tokenizer, min(models.context_length(SimpleNamespace(config=config)), LONGEST)


def save_metrics(ws, chapter, metrics):
    """Write a chapter's results, with seed and versions, to runs/metrics/<chapter>.json.

    `key_result`, a short sentence, is what `make run` shows in its table.
    """
    write_json(
        ws.runs / "metrics" / f"{chapter}.json", {**metrics, "seed": ws.seed, "fast": ws.fast, "versions": versions()}
    )
