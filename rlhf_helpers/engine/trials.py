"""What is tried of a model when it is loaded, on a few tokens: what it can't do is then said, or avoided, at once.

Nothing here knows the name of an architecture.  Whether a model is causal, heeds the padding, and remembers what it
has read, is seen from its numbers.
"""

from inspect import signature

import torch

ALIKE = 1e-3  # of the spread of the numbers compared: far above rounding in fp32, far below any real difference
SELECT = ("past_key_values", "batch_select_indices")  # what most models remember by, and how a row of it is dropped
WAYS = (SELECT, ("past_key_values", "reorder_cache"), ("cache_params", "reorder_cache"))


def vocabulary(model):
    """How many tokens have an embedding: no token id may be as large."""
    return len(model.get_input_embeddings().weight)


def position_ids(mask):
    """Position of each token among the real ones, (rows, columns); padding gets 0."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def some_ids(model, rows, columns):
    """Token ids (rows, columns), all different where there are enough."""
    device = model.get_input_embeddings().weight.device
    return torch.arange(1, rows * columns + 1, device=device).view(rows, columns) % vocabulary(model)


def alike(one, other):
    """Whether two tensors are the same but for rounding."""
    one, other = one.float(), other.float()
    return bool((one - other).abs().max() <= ALIKE * (other.max() - other.min()))


@torch.no_grad()
def is_causal(model, read):
    """Whether a token changes nothing of what is said before it, tried on four tokens.

    read(ids): numbers for each token, (rows, columns, any).
    """
    ids = some_ids(model, 1, 4).expand(2, -1).clone()
    ids[1, 3] = 5 % vocabulary(model)
    first, second = read(ids).float()
    changes = (first - second).abs().amax(-1)
    return bool((changes[:3] <= 1e-4 * changes[3]).all())


@torch.no_grad()
def heeds_padding(model):
    """Whether a language model says the same of a prompt alone as of one that is padded in a batch."""
    ids = some_ids(model, 2, 6)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    out = model(ids, attention_mask=mask, position_ids=position_ids(mask), logits_to_keep=3)
    return alike(out.logits[1, -3:], model(ids[1:, 3:]).logits[0])


# ---------------------------------------------------------------- what it has read


def read_on(model, ids, mask=None, positions=None, cache=None):
    """(logits after the last column (rows, vocabulary), the cache of what was read, or None where there is none).

    ids, positions: what is to be read next; mask: of all that was read, and of that; one row needs neither.  Without a
    cache all of it must be read again each time.
    """
    name, _ = reads_on(model)
    remember = {name: cache, "use_cache": True} if name else {"use_cache": False}
    if (
        name == "cache_params" and mask is not None
    ):  # a state in the place of keys and values: the mask is of what is read now
        mask = mask[:, -ids.shape[1] :]
    out = model(ids, attention_mask=mask, position_ids=positions, logits_to_keep=1, **remember)
    return out.logits[:, -1], getattr(out, name, None) if name else None


def keep_rows(model, cache, rows):
    """Drop from a cache all rows but these; rows: (kept,), indices."""
    if cache is not None:
        getattr(cache, reads_on(model)[1])(rows)


def reads_on(model):
    """(the name of a model's cache, the method that drops its rows), or (None, None): see `choose_cache`."""
    return getattr(model, "reads_on", SELECT)


@torch.no_grad()
def choose_cache(model):
    """Try how a model reads on when one of three answers has ended, and note it in `model.reads_on`."""
    for way in (*WAYS, (None, None)):
        model.reads_on = way
        if way[0] is None or (way[0] in signature(model.forward).parameters and _reads_on_well(model)):
            return


def _reads_on_well(model):
    ids = some_ids(model, 3, 5)
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    positions, kept = position_ids(mask), torch.tensor([1, 2], device=ids.device)
    try:
        _, cache = read_on(model, ids[:, :3], mask[:, :3], positions[:, :3])
        _, cache = read_on(model, ids[:, 3:4], mask[:, :4], positions[:, 3:4], cache)
        keep_rows(model, cache, kept)
        said, _ = read_on(model, ids[kept, 4:], mask[kept], positions[kept, 4:], cache)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a model or a cache says of what it does not know
        return False
    plain = model(ids[kept], attention_mask=mask[kept], position_ids=positions[kept]).logits[:, -1]
    return alike(said, plain)
