"""Checkpoints: what a training needs to go on after a stop, a crash or a closed laptop, with the very same result."""

import hashlib
import json
import zipfile
from pathlib import Path

import torch

from . import lora
from .files import WorkbookError, replacing_file


def digest(*models):
    """SHA-256 of all weights as text: the same for the same weights, bit for bit."""
    sha = hashlib.sha256()
    for model in models:
        for p in model.parameters():
            sha.update(p.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


def digest_of(value):
    """SHA-256, as text, of anything that can be written as JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def save_checkpoint(path, run, model, optimizer, history, **more):
    """Write what is needed to go on with a training to `path`, all at once.

    run: {name: text or number}, what has to be the same for going on.  history: a list of dicts of numbers.
    more: tensors, numbers and texts.
    """
    state = {
        "run": run,
        "model": lora.learned(model),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "history": json.dumps(history, default=float),
        "more": more,
    }
    with replacing_file(path) as f:
        try:
            torch.save(state, f)
        except RuntimeError:  # torch does not hand on what the system said
            raise OSError("the disk may be full") from None


def load_checkpoint(path, run, model, optimizer):
    """Put `model`, `optimizer` and torch's random numbers where the checkpoint at `path` left them.

    Returns (history, more).  Without a file (or with path None) nothing changes and ([], {}) comes back.
    Only tensors, numbers and texts are read; code in a foreign file is never run.  Raises WorkbookError when
    the file is damaged or something else, and when it belongs to another run; then what differs is named.
    """
    if path is None or not Path(path).exists():
        return [], {}
    try:
        with zipfile.ZipFile(path) as parts:
            if parts.testzip():  # torch itself does not look at the check sums
                raise ValueError
        saved = torch.load(path, map_location="cpu", weights_only=True)
        other = [name for name in run if saved["run"].get(name) != run[name]]
        history, more = json.loads(saved["history"]), dict(saved["more"])
    except Exception:  # whatever a damaged or foreign file makes torch say
        raise WorkbookError(
            f"{path} is damaged or not a checkpoint of this workbook. Delete it to start from the beginning."
        ) from None
    if other:
        raise WorkbookError(
            f"The checkpoint {path} belongs to another run, with a different {' and '.join(other)}. "
            "Delete it to start from the beginning, or go back to what it was made with."
        )
    lora.restore(model, saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["random"])
    print(f"Going on after step {len(history)}, from the checkpoint {Path(path).name}.")
    return history, more
