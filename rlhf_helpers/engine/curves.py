"""The rows of a training as curves in TensorBoard, on this machine only: nothing is sent anywhere.

`report_to` has the name that it has in TRL and Transformers, and so has the variable that moves the folder,
TENSORBOARD_LOGGING_DIR.  Look at the curves with `tensorboard --logdir runs/tensorboard`.
"""

import importlib.util
import math
import os
import time
from pathlib import Path

from .files import ROOT, WorkbookError, shown

OFF = (None, "", "none")


def check(report_to):
    """Raise WorkbookError where `report_to` can't be meant; called before anything is computed."""
    if report_to not in (*OFF, "tensorboard"):
        raise WorkbookError(f'report_to is {shown(report_to)}; choose "tensorboard", or None for no curves.')
    if report_to not in OFF and importlib.util.find_spec("tensorboard") is None:
        raise WorkbookError(
            'report_to is "tensorboard", which is not installed here; run: python -m pip install tensorboard'
        )


def begin(report_to, name):
    """A writer for the curves of one training, or None where `report_to` is off.

    They lie in runs/tensorboard, in a folder of `name` and the time.  Raises WorkbookError where it can't be made.
    """
    check(report_to)
    if report_to in OFF:
        return None
    from torch.utils.tensorboard import SummaryWriter

    home = Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or ROOT / "runs" / "tensorboard")
    stem, n = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}", 1
    while (folder := home / (stem if n == 1 else f"{stem}-{n}")).exists():
        n += 1
    try:
        folder.mkdir(parents=True)
        return SummaryWriter(str(folder))
    except OSError as e:
        raise WorkbookError(
            f"{folder} cannot be written to ({e.strerror or e}). Name another folder in the environment variable "
            "TENSORBOARD_LOGGING_DIR, or leave report_to out."
        ) from None


def add(writer, row):
    """Write a row of a history, {"update" or "step": which one, name: number}, so that it can be seen at once."""
    if writer is None:
        return
    step = row.get("update", row.get("step"))
    for key, value in row.items():
        if key not in ("update", "step") and math.isfinite(value):
            writer.add_scalar(key, value, step)
    writer.flush()


def end(writer):
    if writer is not None:
        writer.close()
