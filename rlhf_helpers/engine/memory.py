"""What a chapter will need of memory, by parts, before anything is loaded.

A formula, not a measurement.  The weights are kept in 32 bits for training, and so is everything beside them; where a
model computes in 16 bits, so is what is kept for the backward pass, and the sampler is a copy in 16 bits.  The
activations of a large model are computed again in the backward pass only where they don't fit.  With LoRA the weights
are there once, and what is there several times is the adapter.
"""

import os
from dataclasses import dataclass

import torch
from transformers import AutoConfig

from .arithmetic import LARGE, arithmetic_of, forced, possible
from .files import WorkbookError, shown
from .judges import language_class
from .lora import base_of
from .models import found_at, recompute_activations

GIB = 2**30
PROMPT = 64  # tokens of a formatted prompt, where nothing is known of the prompts
# what of the weights' size each stage holds at its peak; "kept beside" are further copies in the chapter
COPIES = {
    "answers": {"model": 1},
    "reward model": {"reward model": 1, "gradients": 1, "optimiser": 2, "kept beside": 3},
    "PPO": {
        "policy": 1,
        "gradients": 1,
        "optimiser": 2,
        "last good policy": 1,
        "reference": 1,
        "reward model": 1,
        "kept beside": 4,
    },
}
SIZES = {
    "0.1 B": (124e6, 12, 768),
    "0.5 B": (494e6, 24, 896),
    "1.5 B": (1.54e9, 28, 1536),
    "3 B": (3.1e9, 36, 2048),
    "7 B": (7.6e9, 28, 3584),
}  # parameters, layers, width; of the usual proportions


@dataclass(frozen=True)
class Shape:
    """What the formulas need to know of a model."""

    parameters: int
    layers: int
    width: int
    inner: int  # width of the feed-forward part
    heads: int
    kv_heads: int
    vocabulary: int


def shape_of(source):
    """The Shape of a model folder or hub id, from its configuration alone.  Raises WorkbookError without one."""
    place = found_at(base_of(source)[0])
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        language, config = language_class(config)
        with torch.device("meta"):
            parameters = language(config).num_parameters()
        return shape_from(config, parameters)
    except Exception as e:  # whatever a damaged folder makes the libraries say
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:300]
        raise WorkbookError(
            f"The model {shown(str(source), 300)} cannot be loaded. It must be the folder of a decoder-only "
            f"language model, or the id of one on the Hugging Face hub. ({reason})"
        ) from None


def shape_from(config, parameters):
    """The Shape of a model with this configuration, or with that of its language part."""
    config = config.get_text_config()
    heads, width = getattr(config, "num_attention_heads", None) or 1, config.hidden_size
    inner = next(
        (v for v in (getattr(config, n, None) for n in ("intermediate_size", "ffn_dim", "n_inner")) if v), 4 * width
    )
    return Shape(
        parameters,
        config.num_hidden_layers,
        width,
        inner,
        heads,
        getattr(config, "num_key_value_heads", None) or heads,
        config.vocab_size,
    )


def activations(shape, rows, tokens, answer, bits=32, again=False):
    """Bytes kept for the backward pass of `rows` rows of `tokens`, of which the last `answer` have logits.

    Per layer and token about 16 widths and 3 feed-forward widths, and the attention weights twice; where they are
    computed again (gradient checkpointing), one layer of that, and each layer's input.  Logits are counted four times:
    as they come, in float32, as log-softmax, and their gradient.
    """
    n, size = rows * tokens, bits // 8
    layer = size * (n * (16 * shape.width + 3 * shape.inner) + 2 * rows * shape.heads * tokens**2)
    logits = 16 * rows * answer * shape.vocabulary
    if again:  # the two are not there at the same time
        return 4 * n * shape.width * shape.layers + max(layer, logits)
    return layer * shape.layers + logits


def adapter_parameters(shape, rank):
    """How many parameters LoRA of this rank has on every linear layer of a model.

    Four matrices of attention and three of the feed-forward part, each with `rank` numbers per input and output.
    """
    shared = shape.width * shape.kv_heads // shape.heads  # what keys and values of all heads take
    attention = 2 * (2 * shape.width) + 2 * (shape.width + shared)
    return rank * shape.layers * (attention + 3 * (shape.width + shape.inner))


def estimate(shape, stage, rows, answer, asked=None, bits=32, again=False, rank=0, prompt=PROMPT):
    """{part: bytes} of a stage of COPIES.  rows: of one step of training; asked: prompts answered together.

    answer, prompt: tokens of the longest.  again: whether activations are computed again in the backward pass.
    rank: of LoRA, or 0.
    """
    weights, tokens = 4 * shape.parameters, prompt + answer
    parts = {name: n * weights for name, n in COPIES[stage].items()}
    if rank:
        copies = sum(COPIES[stage].values())
        parts = {"model": weights, "adapters": 4 * copies * adapter_parameters(shape, rank)}
    if bits == 16 and stage != "reward model":
        parts["sampler"] = weights // 2
    cache = 2 * shape.layers * shape.width * shape.kv_heads // shape.heads * tokens * bits // 8
    rolling = (asked or rows) * (cache + 8 * shape.vocabulary)  # key-value cache, and the logits of one token
    scoring = 16 * (asked or rows) * answer * shape.vocabulary if stage == "PPO" else 0
    training = (
        0 if stage == "answers" else activations(shape, rows, tokens, answer if stage == "PPO" else 0, bits, again)
    )
    loading = weights if rank else 0  # a second model is there as a whole until its weights are found to be the same
    return parts | {"activations": max(rolling, scoring, training, loading)}


def free_memory(device):
    """Bytes that can still be used on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _page_cache()
    except (OSError, ValueError, AttributeError):  # Windows
        import psutil  # comes with the notebook's kernel

        return psutil.virtual_memory().available


def _page_cache():
    """Bytes of files that the system holds in memory and gives up when asked; 0 where it does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            return 1024 * next(int(line.split()[1]) for line in f if line.startswith("Cached:"))
    except (OSError, StopIteration):
        return 0


def _words(size):
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def check(source, device, stage, rows, asked=None, rank=0, answer=48, prompt=PROMPT):
    """Print what a stage needs, by parts, and what is free; raise WorkbookError when it will not fit.

    rank: of LoRA, or 0 where all weights are trained.  answer, prompt: tokens of the longest.
    """
    shape, free = shape_of(source), free_memory(device)
    computes = possible(device, shape.parameters)
    bits = 32 if computes[0].exact else 16
    parts = estimate(shape, stage, rows, answer, asked, bits, rank=rank, prompt=prompt)
    if sum(parts.values()) > free and shape.parameters > LARGE:
        parts = estimate(shape, stage, rows, answer, asked, bits, again=True, rank=rank, prompt=prompt)
    need = sum(parts.values())
    print(
        f"Memory for {stage}, estimated for {shape.parameters / 1e6:.1f} million parameters and rows of "
        f"{prompt + answer} tokens: "
        + ", ".join(f"{name} {_words(size)}" for name, size in parts.items())
        + f"; {_words(need)} in all, computed in {' or '.join(a.name for a in computes)}."
    )
    if device.type == "cuda" and shape.parameters > LARGE and bits == 32 and not forced():
        print("This card has no fast 16-bit arithmetic, so a model of this size takes more time and memory on it.")
    if need > free:
        raise WorkbookError(
            f"{stage} with this model needs about {_words(need)}, and {device} has {_words(free)} "
            f"free. Choose a smaller MODEL, {'' if rank else 'set LORA = 16, '}close other programs, or use a machine "
            "with more memory."
        )


def recompute_if_needed(model, rows, tokens, answer):
    """Have a large model compute its activations again in the backward pass, if keeping them would not fit; else not.

    rows, tokens: of one step of training; answer: how many of the tokens have logits.  Gradients and the optimiser's
    two numbers are counted too, since the first step makes them.
    """
    parameters = model.num_parameters()
    if parameters <= LARGE or not model.supports_gradient_checkpointing:
        return
    bits = 32 if arithmetic_of(model).exact else 16
    kept = activations(shape_from(model.config, parameters), rows, tokens, answer, bits)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if kept + 12 * trained > free_memory(model.device):
        recompute_activations(model)
    elif model.is_gradient_checkpointing:
        model.gradient_checkpointing_disable()


def sizes_table(settings, rank=16):
    """The table in docs/real_llm.md: model size -> memory of PPO in GiB, all weights trained and with LoRA."""
    lines = [
        f"| parameters | GiB, in fp32 | GiB, in 16 bits | LoRA (rank {rank}) in fp32 | LoRA in 16 bits |",
        "|---|---|---|---|---|",
    ]
    for name, (parameters, layers, width) in SIZES.items():
        shape = Shape(int(parameters), layers, width, 4 * width, width // 64, width // 64, 150_000)
        rows = settings.batch_size // settings.minibatches
        asked = rows, settings.max_new_tokens, settings.batch_size
        need = [
            sum(estimate(shape, "PPO", *asked, bits, rank=r).values()) / GIB for r in (0, rank) for bits in (32, 16)
        ]
        lines.append(f"| {name} | {' | '.join(f'{x:.0f}' for x in need)} |")
    return "\n".join(lines)
