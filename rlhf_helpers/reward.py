"""The reward model: from a choice between two answers to one number for any answer.

It is the language model with the last layer changed: prompt and answer go in, one float comes out
of the last real token.  It learns from comparisons only (Bradley and Terry 1952; Christiano et al.
2017; Stiennon et al. 2020).
"""

import random

import torch
import torch.nn.functional as F

from .files import WorkbookError
from .lm import schedule
from .models import autocast, pad, position_ids, prompt_ids, response_ids
from .packing import can_pack, hidden_at, pack_groups


def preference_loss(chosen, rejected):
    """-log sigmoid(R+ - R-), mean over pairs, in nats.  chosen, rejected: (pairs,) scores."""
    return -F.logsigmoid(chosen - rejected).mean()


def last_token_scores(model, ids, mask):
    """Scores (rows,) of a reward model, read off the last real token, wherever the padding is."""
    with autocast(ids.device):
        out = model.base_model(ids, attention_mask=mask, position_ids=position_ids(mask))
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(-1)
    hidden = out.last_hidden_state[torch.arange(len(ids), device=ids.device), last]
    return model.score(hidden.to(model.score.weight.dtype)).squeeze(-1).float()


def padded_scores(model, groups, pad_id):
    """Scores (groups, size) of groups of token lists, such as [chosen, rejected]: the plain form, with padding."""
    ids, mask = pad([row for group in groups for row in group], pad_id, device=next(model.parameters()).device)
    return last_token_scores(model, ids, mask).view(len(groups), -1)


def packed_scores(model, groups, pad_id=None):
    """The same numbers without computing the padding, and what a group begins with only once (see `packing`)."""
    packed, ends = pack_groups(groups, next(model.parameters()).device)
    hidden = hidden_at(model, packed, ends)
    return model.score(hidden.to(model.score.weight.dtype)).squeeze(-1).float()


def pair_ids(tokenizer, prompt, response, limit):
    """Token ids of prompt and answer, end-of-text included.  Raises WorkbookError over `limit` tokens."""
    ids = prompt_ids(tokenizer, prompt) + response_ids(tokenizer, response)
    if len(ids) > limit:
        raise WorkbookError(f"Prompt and answer have {len(ids)} tokens together, but the model reads only {limit}: "
                            f"{prompt[:40]!r}. Shorten the answer or leave the pair out.")
    return ids


def context_length(model):
    return getattr(model.config, "max_position_embeddings", None) or 2048


@torch.no_grad()
def score(model, tokenizer, prompts, responses, batch_size=256):
    """The reward model's numbers for answers given as text: a float tensor (answers,) on the CPU."""
    scores, limit = packed_scores if can_pack(model) else padded_scores, context_length(model)
    rows = [pair_ids(tokenizer, p, r, limit) for p, r in zip(prompts, responses, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    out = torch.zeros(len(rows))
    for i in range(0, len(rows), batch_size):  # like lengths together: less padding
        some = order[i:i + batch_size]
        out[some] = scores(model, [[rows[j]] for j in some], tokenizer.pad_token_id)[:, 0].cpu()
    return out


# ---------------------------------------------------------------- data

def split_by_prompt(rows, share, seed=0):
    """(train, held-out): no prompt is on both sides; about `share` of the prompts are held out."""
    names = sorted({r["prompt"] for r in rows})
    random.Random(seed).shuffle(names)
    held_out = set(names[:round(share * len(names))])
    return [r for r in rows if r["prompt"] not in held_out], [r for r in rows if r["prompt"] in held_out]


def usable_pairs(tokenizer, rows, limit):
    """(rows of token ids (chosen, rejected), number dropped because both sides are the same tokens)."""
    pairs = [(pair_ids(tokenizer, r["prompt"], r["chosen"], limit),
              pair_ids(tokenizer, r["prompt"], r["rejected"], limit)) for r in rows]
    kept = [p for p in pairs if p[0] != p[1]]
    return kept, len(pairs) - len(kept)


def like_lengths(order, length, batch_size, generator):
    """Cut `order` (shuffled indices) into batches of like length, so that little of a batch is padding.

    Every 16 batches are sorted by `length(index)` among themselves, and the batches come in random order, so
    which examples meet still varies from epoch to epoch.  One batch may be smaller.
    """
    window, batches = 16 * batch_size, []
    for i in range(0, len(order), window):
        some = sorted(order[i:i + window], key=length)
        batches += [some[j:j + batch_size] for j in range(0, len(some), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


# ---------------------------------------------------------------- training

def soften(model, share=0.2):
    """`model` with its score head shrunk to a `share`: the same order of answers, held with little confidence.

    Its loss on new labels then starts near ln 2, and they can overrule it.
    """
    with torch.no_grad():
        model.score.weight.mul_(share)
    return model


@torch.no_grad()
def evaluate(model, tokenizer, rows):
    """Loss (nats), accuracy (a tie counts half) and mean margin of a reward model on preference rows."""
    n = len(rows)
    s = score(model, tokenizer, [r["prompt"] for r in rows] * 2,
              [r["chosen"] for r in rows] + [r["rejected"] for r in rows])
    margin = s[:n] - s[n:]
    return {"loss": preference_loss(s[:n], s[n:]).item(), "margin": margin.mean().item(),
            "accuracy": ((margin > 0).float() + 0.5 * (margin == 0).float()).mean().item()}


def train_reward_model(model, tokenizer, rows, *, epochs=1, batch_size=32, lr=3e-4, center=0.01, seed=0,
                       on_step=None):
    """Train on preference rows {"prompt", "chosen", "rejected"}; returns the history, a list of dicts.

    `center` times (R+ + R-)^2 is added to the loss (Eisenstein et al. 2023): only differences of scores
    matter to the loss itself, and this pins their middle so that good > 0 > bad.  `on_step(step, steps,
    loss)` is called after each update.  Raises WorkbookError when nothing can be learned from `rows`,
    or when the loss is no longer finite.
    """
    pairs, dropped = usable_pairs(tokenizer, rows, context_length(model))
    if not pairs:
        raise WorkbookError("There is no pair to learn from: all were ties, skipped or identical. Label more in "
                            "chapter 03.")
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(seed)
    scores, history = packed_scores if can_pack(model) else padded_scores, []
    steps = epochs * -(-len(pairs) // batch_size)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(pairs), generator=generator).tolist()
        for batch in like_lengths(order, lambda i: sum(map(len, pairs[i])), batch_size, generator):
            chosen, rejected = scores(model, [pairs[i] for i in batch], tokenizer.pad_token_id).unbind(1)
            loss = preference_loss(chosen, rejected)
            total = loss + center * (chosen + rejected).square().mean()
            if not torch.isfinite(total):
                raise WorkbookError(f"The loss is no longer a number at step {len(history)}. Lower the learning "
                                    f"rate (now {lr}) and train again.")
            for group in optimizer.param_groups:
                group["lr"] = lr * schedule(len(history), steps)
            optimizer.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            history.append({"step": len(history) + 1, "loss": loss.item(), "dropped": dropped,
                            "accuracy": (chosen > rejected).float().mean().item(),
                            "margin": (chosen - rejected).mean().item()})
            if on_step:
                on_step(len(history), steps, history[-1])
    model.eval()
    return history
