"""Pre-training and fine-tuning: the same loss, on all tokens or on the answer's only."""

import torch
import torch.nn.functional as F

from ..engine.arithmetic import autocast, memory_guard, take_step
from ..engine.models import pad, position_ids, prompt_ids, response_ids
from ..engine.packing import can_pack, logits_at, pack_padded
from . import edited


def next_token_loss(logits, ids, mask):
    """Mean cross-entropy of the next token, in nats.

    logits: (rows, T, vocabulary); ids: (rows, T); mask: (rows, T), 1 on tokens to be predicted.
    The logits at t predict the token at t + 1, so they are compared one place apart.
    """
    logits, targets, mask = logits[:, :-1], ids[:, 1:], mask[:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return (losses * mask.flatten()).sum() / mask.sum()


def blocks(tokenizer, texts, length):
    """Texts, joined by the end-of-text token and cut into rows of `length` tokens: (rows, length)."""
    encoded, end = tokenizer(list(texts))["input_ids"], tokenizer.eos_token_id
    stream = [t for ids in encoded for t in [*ids, end]]
    rows = len(stream) // length
    return torch.tensor(stream[: rows * length]).view(rows, length)


def demonstration_batch(tokenizer, rows, device="cpu"):
    """Demonstrations -> (ids, attention mask, loss mask); the loss mask is 1 on the answer and its end."""
    asked = [prompt_ids(tokenizer, r["prompt"]) for r in rows]
    said = [response_ids(tokenizer, r["response"]) for r in rows]
    both = [a + s for a, s in zip(asked, said)]
    ids, mask = pad(both, tokenizer.pad_token_id, device=device)
    columns = torch.arange(ids.shape[1], device=device)
    starts = torch.tensor([[len(a)] for a in asked], device=device)
    return ids, mask, mask * (columns >= starts)


def schedule(step, steps, warmup=0.05):
    """Share of the peak learning rate: linear warm-up, then a cosine to a tenth."""
    ramp = max(1, int(warmup * steps))
    if step < ramp:
        return (step + 1) / ramp
    x = torch.tensor((step - ramp) / max(1, steps - ramp))
    return float(0.1 + 0.9 * 0.5 * (1 + torch.cos(torch.pi * x)))


def plain_loss(model, ids, mask, loss_mask):
    """`next_token_loss` of a model on one batch; ids, mask and loss_mask: (rows, T)."""
    places = position_ids(mask)
    with autocast(model):
        logits = model(ids, attention_mask=mask, position_ids=places).logits
    return next_token_loss(logits, ids, loss_mask)


def packed_loss(model, ids, mask, loss_mask):
    """The same number without computing the padding, and the vocabulary only where a token is to be predicted."""
    wanted = loss_mask[:, 1:].bool()
    packed, before = pack_padded(ids, mask), F.pad(wanted, (0, 1))  # the token before says what comes
    logits, _ = logits_at(model, packed, packed.place[before[mask.bool()]])
    return F.cross_entropy(logits.float(), ids[:, 1:][wanted])


def padded_batch_loss(model):
    """The quicker loss for batches with padding: `packed_loss`, or `plain_loss` for a model that can't be packed.

    It is `plain_loss`, too, where that or its `next_token_loss` was edited in a cell.
    """
    if edited(__name__, "plain_loss", "next_token_loss") or not can_pack(model):
        return plain_loss
    return packed_loss


@memory_guard("training the language model", "the batch size")
def fit(model, batches, steps, lr, on_step=None, loss_of=plain_loss):
    """Train on `steps` batches of (ids, attention mask, loss mask) with AdamW; returns the losses.

    `on_step(step, loss)` is called after each update.  loss_of: `plain_loss` or, for padded batches, the quicker
    `padded_batch_loss(model)`.  Raises WorkbookError when the loss or its gradient is
    no longer finite.
    """
    options = {"betas": (0.9, 0.98), "weight_decay": 0.01, "fused": True}
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, **options)
    losses = []
    model.train()
    for step, (ids, mask, loss_mask) in zip(range(steps), batches):
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(step, steps)
        loss = loss_of(model, ids, mask, loss_mask)
        take_step(loss, model, optimizer)
        losses.append(loss.item())
        if on_step:
            on_step(step, losses[-1])
    model.eval()
    return losses


def pretraining_batches(rows, batch_size, seed=0, device="cpu"):
    """Endless batches of (ids, mask, mask) from the (n, length) tensor of `blocks`, shuffled each epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(rows), generator=generator)
        for i in range(0, len(rows) - batch_size + 1, batch_size):
            ids = rows[order[i : i + batch_size]].to(device)
            yield ids, torch.ones_like(ids), torch.ones_like(ids)


def mixed_batches(batches, others, every):
    """The batches of one iterator, but in each `every`th place one of the other: so that what was learned from the
    others is not forgotten over the first ("rehearsal"; Ouyang et al. 2022 mix pre-training text into PPO for it)."""
    for n, batch in enumerate(batches, 1):
        yield next(others) if n % every == 0 else batch


def demonstration_batches(tokenizer, rows, batch_size, seed=0, device="cpu"):
    """Endless batches of demonstrations, shuffled each epoch."""
    generator = torch.Generator().manual_seed(seed)
    batch_size = min(batch_size, len(rows))
    while True:
        order = torch.randperm(len(rows), generator=generator).tolist()
        for i in range(0, len(rows) - batch_size + 1, batch_size):
            yield demonstration_batch(tokenizer, [rows[j] for j in order[i : i + batch_size]], device)
