"""The reward model: from a choice between two answers to one number for any answer.

It is the language model with the last layer changed: prompt and answer go in, one float comes out
of the last real token.  It learns from comparisons only (Bradley and Terry 1952; Christiano et al.
2017; Stiennon et al. 2020).
"""

import random
from pathlib import Path

import torch
import torch.nn.functional as F

from ..engine import curves
from ..engine.arithmetic import autocast, memory_guard, take_step
from ..engine.checkpoints import digest, digest_of, load_checkpoint, save_checkpoint
from ..engine.files import WorkbookError
from ..engine.memory import recompute_if_needed
from ..engine.models import context_length, pad, position_ids, prompt_ids, prompts_ids, response_ids, responses_ids
from ..engine.packing import can_pack, hidden_at, pack_groups, shared
from . import edited
from .lm import schedule

SAVE_EVERY = 20  # steps of training between two checkpoints


def preference_loss(chosen, rejected):
    """-log sigmoid(R+ - R-), mean over pairs, in nats.  chosen, rejected: (pairs,) scores."""
    return -F.logsigmoid(chosen - rejected).mean()


def last_token_scores(model, ids, mask):
    """Scores (rows,) of a reward model, read off the last real token, wherever the padding is."""
    with autocast(model):
        out = model.base_model(ids, attention_mask=mask, position_ids=position_ids(mask))
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(-1)
    hidden = out.last_hidden_state[torch.arange(len(ids), device=ids.device), last]
    return model.score(hidden.to(model.score.weight.dtype)).squeeze(-1).float()


def padded_scores(model, groups, pad_id):
    """Scores (groups, size) of groups of token lists, such as [chosen, rejected]: the plain form, with padding."""
    ids, mask = pad([row for group in groups for row in group], pad_id, device=next(model.parameters()).device)
    return last_token_scores(model, ids, mask).view(len(groups), -1)


def scores_at(model, packed, places):
    """Scores, of the shape of `places`, at those places of packed rows."""
    hidden = hidden_at(model, packed, places)
    return model.score(hidden.to(model.score.weight.dtype)).squeeze(-1).float()


def packed_scores(model, groups, pad_id=None):
    """The same numbers without computing the padding, and what a group begins with only once (see `packing`)."""
    return scores_at(model, *pack_groups(groups, next(model.parameters()).device))


def quick_scores(model):
    """`packed_scores`, or `padded_scores` where the model can't be packed, or where chapter 04's forms were edited."""
    if edited(__name__, "padded_scores", "last_token_scores") or not can_pack(model):
        return padded_scores
    return packed_scores


def comparable(pair):
    """At how many places two token lists can be compared: the tokens that both end with, and the one before those."""
    most = min(map(len, pair)) - shared(pair)
    return next((k + 1 for k in range(most) if pair[0][-1 - k] != pair[1][-1 - k]), most)


def ending_scores(model, pairs, pad_id=None):
    """Scores (places, 2) of pairs of token lists, at every place where the two can be compared (see `comparable`).

    For pairs that differ in one spot only, such as those of a quiz: the model then learns to see the difference
    where it is, and to carry what it saw to the end, rather than both at once.
    """
    packed, ends = pack_groups(pairs, next(model.parameters()).device)
    places = torch.cat(
        [end - torch.arange(comparable(pair), device=end.device)[:, None] for pair, end in zip(pairs, ends)]
    )
    return scores_at(model, packed, places)


def pair_ids(tokenizer, prompt, response, limit):
    """Token ids of prompt and answer, end-of-text included.  Raises WorkbookError over `limit` tokens."""
    ids = prompt_ids(tokenizer, prompt) + response_ids(tokenizer, response)
    if len(ids) > limit:
        raise WorkbookError(
            f"Prompt and answer have {len(ids)} tokens together, but the model reads only {limit}: "
            f"{prompt[:40]!r}. Shorten the answer or leave the pair out."
        )
    return ids


def readable_ids(tokenizer, prompts, responses, limit):
    """`pair_ids` of many, but of an answer over the limit only the beginning, and the end-of-text token, is read.

    A policy may write odd text that takes more tokens to read than it took to write; that must not stop
    PPO.  Raises WorkbookError when a prompt leaves no room for an answer at all.
    """
    rows = []
    for i, (asked, said) in enumerate(
        zip(prompts_ids(tokenizer, prompts), responses_ids(tokenizer, responses), strict=True)
    ):
        room = limit - len(asked)
        if room < 2:
            pair_ids(tokenizer, prompts[i], responses[i], limit)  # says what is wrong
        rows.append(asked + (said if len(said) <= room else said[: room - 1] + said[-1:]))
    return rows


@memory_guard("scoring answers", "batch_size")
@torch.no_grad()
def score(model, tokenizer, prompts, responses, batch_size=256):
    """The reward model's numbers for answers given as text: a float tensor (answers,) on the CPU.

    Of an answer that is too long for the model, what fits is judged; see `readable_ids`.
    """
    scores, limit = quick_scores(model), context_length(model)
    rows = readable_ids(tokenizer, prompts, responses, limit)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    out = torch.zeros(len(rows))
    for i in range(0, len(rows), batch_size):  # like lengths together: less padding
        some = order[i : i + batch_size]
        out[some] = scores(model, [[rows[j]] for j in some], tokenizer.pad_token_id)[:, 0].cpu()
    return out


# ---------------------------------------------------------------- data


def split_by_prompt(rows, share, seed=0, question=str):
    """(train, held-out): no prompt is on both sides; about `share` of the prompts, in (0, 1), are held out.

    Of two prompts or more one at least is held out, and one is not.  question(prompt): what must not be on both sides,
    where several prompts ask the same.
    """
    asked = [question(r["prompt"]) for r in rows]
    names = sorted(set(asked))
    random.Random(seed).shuffle(names)
    n = min(max(1, round(share * len(names))), len(names) - 1)
    held_out = set(names[:n])
    return [r for r, q in zip(rows, asked) if q not in held_out], [r for r, q in zip(rows, asked) if q in held_out]


def check_preferences(rows):
    """Raise WorkbookError for the first row that lacks a prompt or one of its two answers."""
    for n, row in enumerate(rows, 1):
        for name in ("prompt", "chosen", "rejected"):
            if not isinstance(row.get(name), str):
                raise WorkbookError(
                    f"Preference {n} of {len(rows)} has no text as {name!r} (it is {row.get(name)!r}): "
                    "a preference needs a prompt and two answers. Mend or delete that row."
                )


def usable_pairs(tokenizer, rows, limit):
    """(rows of token ids (chosen, rejected), number dropped because both sides are the same tokens)."""
    pairs = [
        (pair_ids(tokenizer, r["prompt"], r["chosen"], limit), pair_ids(tokenizer, r["prompt"], r["rejected"], limit))
        for r in rows
    ]
    kept = [p for p in pairs if p[0] != p[1]]
    return kept, len(pairs) - len(kept)


def that_fit(tokenizer, rows, limit):
    """(the preference rows whose prompt and both answers fit into `limit` tokens, how many do not).

    Counted before anything is computed; what is left can't fail in `pair_ids`.
    """
    asked = prompts_ids(tokenizer, [r["prompt"] for r in rows])
    said = [responses_ids(tokenizer, [r[side] for r in rows]) for side in ("chosen", "rejected")]
    kept = [r for r, p, a, b in zip(rows, asked, *said) if len(p) + max(len(a), len(b)) <= limit]
    return kept, len(rows) - len(kept)


def pairs_to_learn(tokenizer, rows, limit):
    """`usable_pairs` of rows that were checked.  Raises WorkbookError when nothing can be learned from them."""
    check_preferences(rows)
    pairs, dropped = usable_pairs(tokenizer, rows, limit)
    if not pairs:
        raise WorkbookError(
            "There is no pair to learn from: all were ties, skipped or identical. Label more in chapter 03."
        )
    return pairs, dropped


def like_lengths(order, length, batch_size, generator):
    """Cut `order` (shuffled indices) into batches of like length, so that little of a batch is padding.

    Every 16 batches are sorted by `length(index)` among themselves, and the batches come in random order, so
    which examples meet still varies from epoch to epoch.  One batch may be smaller.
    """
    window, batches = 16 * batch_size, []
    for i in range(0, len(order), window):
        some = sorted(order[i : i + window], key=length)
        batches += [some[j : j + batch_size] for j in range(0, len(some), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


# ---------------------------------------------------------------- training


@torch.no_grad()
def evaluate(model, tokenizer, rows):
    """Loss (nats), accuracy (a tie counts half) and mean margin of a reward model on preference rows.

    Raises WorkbookError where there are none, or where they can't be read.
    """
    check_preferences(rows)
    if not rows:
        raise WorkbookError("There is no pair to measure on: all were ties or skipped. Label more in chapter 03.")
    n = len(rows)
    s = score(
        model, tokenizer, [r["prompt"] for r in rows] * 2, [r["chosen"] for r in rows] + [r["rejected"] for r in rows]
    )
    margin = s[:n] - s[n:]
    return {
        "loss": preference_loss(s[:n], s[n:]).item(),
        "margin": margin.mean().item(),
        "accuracy": ((margin > 0).float() + 0.5 * (margin == 0).float()).mean().item(),
    }


def training_batches(pairs, epochs, batch_size, seed):
    """The batches of all epochs, lists of indices into `pairs`; they depend on the seed only."""
    generator, batches = torch.Generator().manual_seed(seed), []
    for _ in range(epochs):
        order = torch.randperm(len(pairs), generator=generator).tolist()
        batches += like_lengths(order, lambda i: sum(map(len, pairs[i])), batch_size, generator)
    return batches


def training_steps(model, optimizer, pairs, batches, lr, pad_id, center=0.01, scores=padded_scores, done=0):
    """The loop of the reward model's training: after each step, a dict of its loss (nats), accuracy and mean margin.

    pairs: token ids (chosen, rejected).  batches: lists of indices into them, of which `done` were learned before.
    `center` times (R+ + R-)^2 is added to the loss (Eisenstein et al. 2023): only differences of scores matter to the
    loss itself, and this pins their middle so that good > 0 > bad.  `scores(model, pairs, pad_id)` says how pairs are
    scored.  Raises WorkbookError, and leaves the weights alone, when the loss or its gradient is not finite.
    """
    for step in range(done, len(batches)):
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(step, len(batches))
        some = [pairs[i] for i in batches[step]]
        chosen, rejected = scores(model, some, pad_id).unbind(1)
        loss = preference_loss(chosen, rejected)
        pinned = loss + center * (chosen + rejected).square().mean()
        take_step(pinned, model, optimizer, "The loss of the reward model")
        yield {
            "loss": loss.item(),
            "accuracy": (chosen > rejected).float().mean().item(),
            "margin": (chosen - rejected).mean().item(),
        }


def begin(model, pairs, checkpoint, epochs, batch_size, lr, center, seed):
    """(optimiser, what the checkpoint has to be of, history): fresh, or where the checkpoint left them and the model.

    The training is described by its settings, the tokens of all pairs and the weights it starts from.  Raises
    WorkbookError when the checkpoint is not of this training.
    """
    longest = max(len(row) for pair in pairs for row in pair)
    recompute_if_needed(model, 2 * batch_size, longest, 0)
    weights = model.parameters()
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    run = checkpoint and {
        "training": "reward model",
        "epochs": epochs,
        "batch size": batch_size,
        "learning rate": lr,
        "centre": center,
        "seed": seed,
        "set of pairs": digest_of(pairs),
        "model to start from": digest(model),
    }
    history, _ = load_checkpoint(checkpoint, run, model, optimizer)
    return optimizer, run, history


@memory_guard("training the reward model", "batch_size")
def train_reward_model(
    model,
    tokenizer,
    rows,
    *,
    epochs=1,
    batch_size=32,
    lr=3e-4,
    center=0.01,
    seed=0,
    on_step=None,
    report_to=None,
    checkpoint=None,
    scores=None,
):
    """Train on preference rows {"prompt", "chosen", "rejected"}; returns the history, a list of dicts.

    It is `training_steps` with what a long training needs.  `on_step(step, steps, row)` is called after each update;
    `report_to="tensorboard"` draws the rows as curves, on this machine (see `engine.curves`).
    `checkpoint`: a file that is written every 20 steps; after an interrupt or a crash the same call goes on from it,
    with the very same result on a CPU, and a finished training removes it.  `scores`: `padded_scores`, or another way
    to score pairs; by default `quick_scores`.  Raises WorkbookError when nothing can be learned from `rows`, when the
    loss is no longer finite, or when the checkpoint is not of this training.
    """
    curves.check(report_to)
    pairs, dropped = pairs_to_learn(tokenizer, rows, context_length(model))
    scores, pad_id = scores or quick_scores(model), tokenizer.pad_token_id
    batches = training_batches(pairs, epochs, batch_size, seed)
    optimizer, run, history = begin(model, pairs, checkpoint, epochs, batch_size, lr, center, seed)
    writer = curves.begin(report_to, "reward_model")
    model.train()
    steps = training_steps(model, optimizer, pairs, batches, lr, pad_id, center, scores, len(history))
    try:
        for row in steps:
            history.append({"step": len(history) + 1, "dropped": dropped, **row})
            curves.add(writer, history[-1])
            if on_step:
                on_step(len(history), len(batches), history[-1])
            if checkpoint and len(history) % SAVE_EVERY == 0:
                save_checkpoint(checkpoint, run, model, optimizer, history)
    finally:
        curves.end(writer)
        model.eval()
    if checkpoint:
        Path(checkpoint).unlink(missing_ok=True)
    return history
