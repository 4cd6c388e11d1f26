"""LoRA (Hu et al. 2022): two thin matrices are learned beside each weight matrix, and the weights stay as they are.

PEFT, an optional package, puts them in and writes them down.  Here, weights that stay as they are are held once,
however many copies of a model there are and whatever their heads: the policy, its reference and the reward model are
then one network with different adapters.
"""

import copy
import json
import os
import warnings
import weakref
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from .files import WorkbookError, shown

ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."  # of the names in PEFT's files
ALPHA = 32  # an update counts ALPHA / rank times, so that the best learning rate is that of every rank
LR = 10  # the learning rate of full training times this (Schulman et al. 2025, "LoRA Without Regret")


def need_peft():
    """The package PEFT.  Raises WorkbookError where it is not installed."""
    try:
        import peft
    except ImportError:
        raise WorkbookError(
            "LoRA needs the package peft, which is not installed. Run: python -m pip install peft. "
            "Or set LORA = 0 to train all weights."
        ) from None
    return peft


# ---------------------------------------------------------------- weights that stay as they are


class Held(torch.nn.Parameter):
    """A weight that is not trained: a copy of its model holds this very one."""

    def __deepcopy__(self, memo):
        return self

    def rounded(self, dtype):
        """The same weight in another dtype, made once for all who ask while one of them lives."""
        made = getattr(self, "_rounded", None)
        other = made() if made else None
        if other is None or other.dtype != dtype:
            other = Held(self.data.to(dtype), requires_grad=False)
            self._rounded = weakref.ref(other)
        return other


_held = weakref.WeakValueDictionary()  # (name, shape, dtype, device) -> Held


def hold(model):
    """Hold all weights that are not trained; those that another model holds already, bit for bit, are held once."""
    mine = {}  # id of a weight -> Held, so that tied weights stay tied
    for where, module in model.named_modules():
        for name, p in module._parameters.items():
            if p is None or p.requires_grad or isinstance(p, Held):
                continue
            if id(p) not in mine:
                key = f"{where}.{name}".replace(".base_layer.", "."), p.shape, p.dtype, p.device
                other = _held.get(key)
                if other is None or not torch.equal(other, p):
                    other = _held[key] = Held(p.data, requires_grad=False)
                mine[id(p)] = p, other  # p too, or another weight might get its id
            module._parameters[name] = mine[id(p)][1]


def rounded(model, dtype, but=None):
    """Put the weights that a model holds into another dtype, for this model only; `but`: a module to leave alone."""
    for module in model.modules():
        for name, p in module._parameters.items():
            if isinstance(p, Held) and module is not but:
                module._parameters[name] = p.rounded(dtype)


def learned(module):
    """The state of a module without the weights that it holds: what training may change, name -> tensor."""
    held = {name for name, p in module.named_parameters(remove_duplicate=False) if isinstance(p, Held)}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in held}


def restore(module, state):
    """Put a module where `learned` found it."""
    module.load_state_dict(module.state_dict() | state)


# ---------------------------------------------------------------- adapters


def base_of(source):
    """(the model that the adapter folder `source` belongs to, that folder), or (`source`, None) if it is none.

    Raises WorkbookError where the adapter is not LoRA's, or names no model.
    """
    folder = Path(os.path.expanduser(str(source)))
    try:
        adapted = (folder / CONFIG).is_file() and not (folder / "config.json").is_file()
    except (OSError, ValueError):  # what can be no name of a file
        adapted = False
    if not adapted:
        return source, None
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind, base = config["peft_type"], config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        kind, base = None, None
    named = isinstance(base, str) and base != ""
    if kind != "LORA" or not named:
        fault = f"says that it is of the kind {shown(kind)}, and only LORA is known here" if named else "names no model"
        raise WorkbookError(
            f"The model {shown(str(folder), 300)} cannot be loaded: it is an adapter, and its {CONFIG} {fault}. "
            "Merge it into its model, or choose another."
        )
    near = folder / base  # a folder may be named as seen from here, or from where Python runs
    base = str(near.resolve()) if near.is_dir() and not Path(base).is_dir() else base
    if _is_path(base) and not Path(base).is_dir():
        raise WorkbookError(
            f"The adapter {folder} belongs to the model {shown(base, 300)}, and that folder is not there. Put the "
            f"model back, or write where it is into {CONFIG}, as base_model_name_or_path."
        )
    return base, folder


def _is_path(name):
    """Whether the name of a model can only be a folder's: one on the hub is "owner/name" or "name"."""
    return os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1


def whose(source):
    """Words for a sentence about the model of an adapter, or "" where `source` is none."""
    folder = base_of(source)[1]
    return f", to which the adapter {folder} belongs," if folder is not None else ""


def speaks(source):
    """The folder or hub id whose tokenizer goes with `source`: an adapter may bring its own, chat template and all."""
    base, folder = base_of(source)
    return folder if folder is not None and (folder / "tokenizer_config.json").is_file() else base


def fit(model, source, rank=0):
    """A model that was loaded from `base_of(source)`, with the adapter of `source` or a fresh one; changed in place.

    rank: of a fresh one, which changes nothing until it is trained; 0 is none, and an adapter is then merged into the
    weights, so that all of them can be trained.  A reward model's head is trained and saved with the adapter.  Raises
    WorkbookError without PEFT, and where the adapter doesn't belong to the model.
    """
    base, folder = base_of(source)
    if folder is None and not (rank and isinstance(model, PreTrainedModel)):
        return model  # such as a ready judge that is taken as a whole
    peft = need_peft()
    try:
        config = peft.PeftConfig.from_pretrained(folder) if folder is not None else fresh(peft, rank)
        config.modules_to_save = ["score"] if hasattr(model, "score") else None
        config.task_type = "SEQ_CLS" if config.modules_to_save else "CAUSAL_LM"
        config.inference_mode, config.lora_dropout = False, 0.0  # rollout and update must see the same network
        config.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else str(base)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it puts right by itself how a Conv1D lies
            torch.manual_seed(0)  # the same fresh adapter wherever it is made
            tuner = peft.LoraModel(model, config, "default")
        if folder is not None:
            fill(peft, model, folder)
    except torch.OutOfMemoryError:
        raise
    except Exception as e:  # whatever PEFT says of layers or weights that don't fit
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:300]
        what = f"The adapter {folder} does not fit" if folder is not None else "LoRA can't be put on"
        raise WorkbookError(
            f"{what} the model {shown(str(base), 300)}. Choose the model that it was made with, or LORA = 0. ({reason})"
        ) from None
    if not rank:
        return tuner.merge_and_unload().requires_grad_(True)
    model._hf_peft_config_loaded = True  # so that `save_pretrained` writes the adapter, not the model
    hold(model)
    return model.eval()


def fresh(peft, rank):
    """The configuration of a new adapter: on every linear layer but the output head (Dettmers et al. 2023)."""
    return peft.LoraConfig(r=rank, lora_alpha=ALPHA, target_modules="all-linear", lora_dropout=0.0)


def fill(peft, model, folder):
    """Load the weights of an adapter folder.  A head that the folder doesn't have stays as it is."""
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in load_file(folder / ADAPTER).items()}
    if hasattr(model, "score"):
        weights.setdefault("score.weight", model.score.weight.detach())
    else:
        weights.pop("score.weight", None)
    found = peft.set_peft_model_state_dict(model, weights)
    missing = [name for name in found.missing_keys if "lora_" in name]
    if found.unexpected_keys or missing:
        raise KeyError(f"{len(missing)} weights are missing, and {len(found.unexpected_keys)} are not the model's")


def is_on(model):
    """Whether a model has an adapter."""
    return getattr(model, "_hf_peft_config_loaded", False)


def copy_to_compare(model):
    """A copy of a model as it is now, to measure from.  It holds the same weights; an adapter that has learned nothing
    yet is off in it, so that it is the base model itself."""
    other = copy.deepcopy(model)
    if is_on(other) and not any(p.any() for name, p in other.named_parameters() if "lora_B" in name):
        other.disable_adapters()
    return other
