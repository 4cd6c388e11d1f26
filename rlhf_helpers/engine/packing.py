"""Packed rows: several sequences in one row, so that padding costs nothing.

A batch of answers of different lengths is up to half padding, and the padding is computed like the rest.  Here
sequences are laid one after the other into as few rows as they need.  Each token keeps the position it has in its
own sequence, and the attention mask lets it look at its own sequence only, so the numbers are those of the padded
batch, but for rounding (Krell et al. 2021).  Two answers to one prompt can share it: the prompt is computed once and
both look back at it.  Any Hugging Face model works that takes `position_ids` and a mask of four dimensions.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .arithmetic import arithmetic_of, autocast
from .trials import position_ids, vocabulary


@dataclass
class Packed:
    """What a model is called with, and where each token went."""

    ids: torch.Tensor  # (rows, width)
    position_ids: torch.Tensor  # (rows, width)
    attention_mask: torch.Tensor  # (rows, 1, width, width), 0 where a token may look, else the least float
    place: torch.Tensor  # (tokens,), index of each given token in the flattened (rows * width)


def first_fit(lengths, width):
    """Place for sequences in rows of `width`, the longest first (first-fit decreasing): (starts, rows).

    A start is row * width + column.
    """
    starts, free = [0] * len(lengths), []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((r for r, left in enumerate(free) if left >= lengths[i]), len(free))
        if row == len(free):
            free.append(width)
        starts[i] = (row + 1) * width - free[row]
        free[row] -= lengths[i]
    return starts, len(free)


def layout(lengths):
    """The width of row that costs least, with the places in it: (width, starts, rows).

    Wide rows leave less empty, but every token in them attends to more: on the embedded model, computing a token
    costs about as much as attending to 512.
    """
    longest = max(lengths)
    tried = [(width, *first_fit(lengths, width)) for width in range(longest, 2 * longest + 1, longest // 8 or 1)]
    return min(tried, key=lambda t: t[2] * t[0] * (512 + t[0]))


def attention(group, branch):
    """The mask of packed rows, from the group and branch of each token, both (rows, width).

    A token looks at itself and what came before it in its group, but not into another branch; branch 0 is common.
    """
    width = group.shape[1]
    sees = torch.ones(width, width, dtype=torch.bool, device=group.device).tril()
    sees = sees & (group[:, :, None] == group[:, None, :])
    sees &= (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    return torch.where(sees, 0.0, torch.finfo(torch.float32).min)[:, None]


def pack(tokens, positions, lengths, branch=None):
    """Pack groups of tokens that follow one another in `tokens`; all are (tokens,) but `lengths`, a list.

    lengths: tokens of each group.  positions: of a token in its sequence.  branch: see `attention`; none is all 0.
    """
    device = tokens.device
    width, starts, rows = layout(lengths)
    sizes = torch.tensor(lengths, device=device)
    shift = torch.tensor(starts, device=device) - (sizes.cumsum(0) - sizes)
    place = torch.arange(len(tokens), device=device) + shift.repeat_interleave(sizes)

    def spread(values, fill):
        out = torch.full((rows * width,), fill, dtype=torch.long, device=device)
        return out.index_copy(0, place, values).view(rows, width)

    group = spread(torch.arange(len(lengths), device=device).repeat_interleave(sizes), -1)
    branch = torch.zeros_like(group) if branch is None else spread(branch, 0)
    return Packed(spread(tokens, 0), spread(positions, 0), attention(group, branch), place)


def pack_padded(ids, mask):
    """Pack the real tokens of a padded batch; ids, mask: (rows, columns), padding on either side.

    `place` follows the order of `ids[mask.bool()]`.
    """
    real = mask.bool()
    return pack(ids[real], position_ids(mask)[real], mask.sum(-1).tolist())


def shared(group):
    """How many tokens all lists of a group begin with; each keeps its last to itself, where its number is read."""
    most = min(map(len, group)) - 1
    return next((i for i in range(most) if len({row[i] for row in group}) > 1), most)


def pack_groups(groups, device="cpu"):
    """Pack groups of token lists; what those of a group begin with is computed once.  Returns (packed, ends).

    groups: of one size, such as [row] or [chosen, rejected].  ends: (groups, size), index of the last token of each
    list in the flattened (rows * width).
    """
    tokens, positions, branch, lengths, ends = [], [], [], [], []
    for group in groups:
        before, common = len(tokens), shared(group)
        tokens += group[0][:common]
        positions += range(common)
        branch += [0] * common
        for k, row in enumerate(group, 1):
            tokens += row[common:]
            positions += range(common, len(row))
            branch += [k] * (len(row) - common)
            ends.append(len(tokens) - 1)
        lengths.append(len(tokens) - before)
    tokens, positions, branch, ends = (torch.tensor(x, device=device) for x in (tokens, positions, branch, ends))
    packed = pack(tokens, positions, lengths, branch)
    return packed, packed.place[ends].view(len(groups), -1)


def call_packed(model, packed, places, **options):
    """Call a Hugging Face model, or its body, on packed rows; only at `places` is its output to be used.

    places: indices in the flattened (rows * width).  The last block computes its feed-forward part there only.
    """
    last = None if model.is_gradient_checkpointing else last_feed_forward(model)  # hooks are gone when it recomputes
    with computed_at(last, places):
        return model(
            packed.ids,
            attention_mask=masks_for(model.config.get_text_config(), packed, model.dtype),
            position_ids=packed.position_ids,
            use_cache=False,
            **options,
        )


def masks_for(config, packed, dtype):
    """The mask of packed rows as a model takes it, with its sliding window, if it has one that is narrower than a row.

    Where layers differ, a dict from the kind of layer to its mask.
    """
    mask, window = packed.attention_mask, window_of(config)
    if window >= mask.shape[-1]:
        return mask.to(dtype)
    places = packed.position_ids
    far = places[:, :, None] - places[:, None, :] >= window
    near = mask.masked_fill(far[:, None], torch.finfo(torch.float32).min)
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    masks = {"sliding_attention": near.to(dtype), "full_attention": mask.to(dtype)}
    return {kind: masks.get(kind, masks["full_attention"]) for kind in kinds} if len(kinds) > 1 else masks[kinds.pop()]


def window_of(config):
    """How many tokens back the layers look that look back least."""
    sizes = (
        getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "attention_window_size")
    )
    return min((n for n in sizes if isinstance(n, int) and n > 0), default=2**40)


def last_feed_forward(model):
    """The feed-forward part of a model's last block, if it has the usual name; else None."""
    lists = [m for m in model.base_model.modules() if isinstance(m, torch.nn.ModuleList) and len(m)]
    return getattr(max(lists, key=len)[-1], "mlp", None) if lists else None


@contextmanager
def computed_at(module, places):
    """Meanwhile a module that treats each token by itself, or None, computes those at `places` only; others get 0."""
    shape, hooks = torch.Size(), []

    def choose(module, inputs):
        return (inputs[0].flatten(0, 1)[places][None], *inputs[1:])

    def spread(module, inputs, out):
        some, *rest = out if isinstance(out, tuple) else (out,)  # with what a router said, which nobody asks for
        some = some.new_zeros(shape.numel() // some.shape[-1], some.shape[-1]).index_copy(0, places, some[0])
        return (some.view(shape), *rest) if isinstance(out, tuple) else some.view(shape)

    def remember(module, inputs):
        nonlocal shape
        shape = inputs[0].shape

    try:
        if module is not None:
            hooks = [
                module.register_forward_pre_hook(remember),
                module.register_forward_pre_hook(choose),
                module.register_forward_hook(spread),
            ]
        yield
    finally:
        for hook in hooks:
            hook.remove()


def hidden_at(model, packed, places):
    """The last hidden states of a model without its head, at `places` only: (places.shape, width of the model)."""
    with autocast(model):
        return call_packed(model.base_model, packed, places.flatten()).last_hidden_state.flatten(0, 1)[places]


def logits_at(model, packed, places):
    """(logits (places, vocabulary), last hidden states (places, width of the model)) at `places` only."""
    head, computing = model.get_output_embeddings(), autocast(model)  # which may try the model, so before the hook
    chosen = lambda module, inputs: (inputs[0].flatten(0, 1)[places],)  # noqa: E731
    hook = head.register_forward_pre_hook(chosen, prepend=True)
    try:
        with computing:
            out = call_packed(model, packed, places, output_hidden_states=True)
    finally:
        hook.remove()
    return out.logits, out.hidden_states[-1].flatten(0, 1)[places]


LONGEST = 1024  # tokens of one sequence that is ever packed; a window beyond that need not be looked at
ROUNDING = 1e-4  # of a hidden state in fp32; a state that leaks from one sequence to the next may change little more


def can_pack(model):
    """Whether a model gives the same hidden states packed as alone, tried on two pairs of sequences with a common
    beginning, one of them longer than its window.

    One that ignores such a mask or the positions, or carries a state from token to token, does not; nor does one that
    fails at it in any other way.
    """
    if not hasattr(model, "packs"):  # a copy of the model has it, too
        model.packs = _tried(model)
    return model.packs


@torch.no_grad()
def _tried(model):
    window, arithmetic = window_of(model.config.get_text_config()), arithmetic_of(model)
    long = [*range(1, 5 + (window if window < LONGEST else 0))]
    groups = [[long, [1, 9]], [[3, 4, 2, 9, 6, 5], [3, 4, 8, 1]]]
    groups = [[[i % vocabulary(model) for i in row] for row in group] for group in groups]
    device = model.get_input_embeddings().weight.device
    try:
        with autocast(model):
            rows = [torch.tensor([row], device=device) for group in groups for row in group]
            alone = torch.stack([model.base_model(row).last_hidden_state[0, -1] for row in rows]).float()
        packed, ends = pack_groups(groups, device)
        together = hidden_at(model, packed, ends.flatten()).float()
        gap = ((alone - together).norm(dim=-1) / alone.norm(dim=-1)).max().item()
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a model makes of a mask that it does not know
        return False
    return gap <= (ROUNDING if arithmetic.exact else arithmetic.same)
