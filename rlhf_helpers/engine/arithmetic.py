"""How a model computes: the one place where 16 or 32 bits are chosen, and what may then differ by rounding.

A model under 100 million parameters computes in fp32 on any device: 16 bits gain it nothing.  A larger one computes its
layers in 16 bits where the card has them, and its output head and everything after it in fp32, since a bf16 number
near a logit of 12 is 0.06 from its neighbour (TRL issue 4303; ScaleRL, Khatri et al. 2025).  Of fp16 and bf16 it takes
the one that is nearer to fp32 on this very model, which is mostly fp16 (Qi et al. 2025); fp16 needs its loss scaled.
"""

import math
import os
import weakref
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .files import WorkbookError

LARGE = 100_000_000  # parameters; a smaller model computes in fp32


@dataclass(frozen=True)
class Arithmetic:
    """The numbers that the layers compute in, and how far two ways to the same log-probability may lie apart.

    same: the most that one number may differ when the same network computes it in another batch (nats, or reward).
    mismatch: mean |log-probability when drawn - log-probability in training| over tokens, nats, at most.
    k3: the same as a divergence (Schulman 2020), nats per token, at most.
    """

    name: str
    dtype: torch.dtype
    same: float
    mismatch: float
    k3: float

    @property
    def exact(self):
        """Whether sampler and training compute the same numbers, but for the last digits of fp32."""
        return self.dtype == torch.float32


# several times what benchmarks/results/precision.json says of usual models, less than what real bugs do (docs/log.md)
FP32 = Arithmetic("fp32", torch.float32, 1e-3, 1e-4, 1e-6)
FP16 = Arithmetic("fp16", torch.float16, 0.02, 5e-3, 5e-5)
BF16 = Arithmetic("bf16", torch.bfloat16, 0.1, 0.015, 5e-4)
BY_NAME = {a.name: a for a in (FP32, FP16, BF16)}


def forced():
    """The Arithmetic that the environment variable WORKBOOK_ARITHMETIC asks for, or None where it is not set."""
    name = os.environ.get("WORKBOOK_ARITHMETIC", "")
    if name and name not in BY_NAME:
        raise WorkbookError(f"WORKBOOK_ARITHMETIC is {name!r}; choose one of {', '.join(BY_NAME)}, or leave it out.")
    return BY_NAME.get(name)


def possible(device, parameters):
    """What a model of so many parameters may compute in on a device: a tuple of Arithmetic, never empty."""
    if forced():
        return (forced(),)
    if device.type != "cuda" or parameters < LARGE:
        return (FP32,)
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    fp16 = torch.cuda.get_device_capability(device) >= (7, 0)  # older cards have fp16, but no faster than fp32
    halves = tuple(a for a, there in ((FP16, fp16), (BF16, bf16)) if there)
    return halves or (FP32,)


@torch.no_grad()
def rounding(model, arithmetic):
    """Mean |difference| of log-probabilities to fp32's, nats, on 4 rows of 32 random tokens; inf where it overflows."""
    table = model.get_input_embeddings().weight
    dice = torch.Generator().manual_seed(0)
    ids = torch.randint(len(table), (4, 32), generator=dice).to(table.device)
    logprobs = []
    for a in (FP32, arithmetic):
        with _computing(model, a):
            logprobs.append(model(ids).logits.float().log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]))
    gap = (logprobs[0] - logprobs[1]).abs().mean().item()
    return gap if math.isfinite(gap) else math.inf


_chosen = weakref.WeakKeyDictionary()  # model -> (where and how large it was, Arithmetic)


def arithmetic_of(model):
    """The Arithmetic of a model, on the device where it is; chosen at its first use and remembered.

    That of a module around a language model, its `model`, such as a policy with a value head, is that model's.
    """
    if not hasattr(model, "get_output_embeddings"):
        model = getattr(model, "model", model)
    first = next(model.parameters())
    key = first.device, forced()
    if _chosen.get(model, (None,))[0] != key:
        options = possible(first.device, sum(p.numel() for p in model.parameters()))
        head = len(options) > 1 and getattr(model, "get_output_embeddings", lambda: None)()
        best = min(options, key=lambda a: rounding(model, a)) if head else options[-1]
        if first.device.type == "cuda" and not best.exact:
            torch.backends.cuda.matmul.allow_tf32 = True  # inputs of the head rounded to 11 bits, its sums in fp32
        _chosen[model] = key, best
    return _chosen[model][1]


# ---------------------------------------------------------------- forward


def autocast(model):
    """A context in which `model` computes in its own arithmetic, its output head in fp32."""
    return _computing(model, arithmetic_of(model))


def _computing(model, arithmetic):
    if not arithmetic.exact:
        keep_head_in_fp32(model)
    return torch.autocast(next(model.parameters()).device.type, arithmetic.dtype, enabled=not arithmetic.exact)


def keep_head_in_fp32(model):
    head = model.get_output_embeddings()
    if head is not None and not getattr(head, "kept_in_fp32", False):
        head.register_forward_pre_hook(_leave_autocast)
        head.register_forward_hook(_enter_autocast, always_call=True)
        head.kept_in_fp32 = True


def _leave_autocast(head, inputs):
    head.was_on = torch.is_autocast_enabled(inputs[0].device.type)
    torch.set_autocast_enabled(inputs[0].device.type, False)
    return (inputs[0].to(head.weight.dtype), *inputs[1:])


def _enter_autocast(head, inputs, logits):
    torch.set_autocast_enabled(inputs[0].device.type, head.was_on)


# ---------------------------------------------------------------- one step of training

_scalers = weakref.WeakKeyDictionary()  # optimiser -> the scale of its loss, for fp16


def loss_scaler(optimizer, model):
    """What scales the loss of a model that computes in fp16, and does nothing elsewhere; one for each optimiser."""
    if optimizer not in _scalers:
        on = arithmetic_of(model).dtype == torch.float16
        device = next(model.parameters()).device.type
        _scalers[optimizer] = torch.amp.GradScaler(device, init_scale=2.0**12, growth_interval=200, enabled=on)
    return _scalers[optimizer]


def take_step(loss, model, optimizer, what="The loss", clip=1.0):
    """One step of training: zero, backward, clip the gradient's norm to `clip`, move the weights, drop the gradient.

    In fp16 the loss is scaled up before `backward` and the gradient down after it, so that small gradients are not
    lost; a scale that was too large costs this step and is halved (Micikevicius et al. 2018).  Returns the norm.
    Raises WorkbookError, and leaves the weights alone, when loss or gradient is not finite.
    """
    scaler = loss_scaler(optimizer, model)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    too_large = scaler.is_enabled() and torch.isfinite(loss) and scaler.get_scale() > 1
    if not (torch.isfinite(loss + norm) or too_large):
        raise WorkbookError(
            f"{what} is {loss.item():.3g} and its gradient {norm.item():.3g}, which is not a number to go on with. "
            f"Lower the learning rate (now {optimizer.param_groups[0]['lr']:.2g}) and run again."
        )
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()  # else every trained model, and every copy of it, carries as much again as its weights
    return norm


@contextmanager
def memory_guard(what, lower):
    """Meanwhile a device that runs out of memory says so in one sentence: what was being done, and what to lower.

    Also a decorator of a function.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise WorkbookError(f"The device ran out of memory in {what}. Lower {lower}, or use a smaller MODEL.") from None
