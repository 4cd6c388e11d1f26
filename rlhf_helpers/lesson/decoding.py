"""How a distribution becomes text: greedy decoding and sampling.

`greedy` and `sample` are the lesson of chapter 02, one sequence at a time and from the logits
up.  `rollout` is the same for a batch, with a key-value cache; `generate` wraps it for text.
"""

import torch

from ..engine.arithmetic import autocast, memory_guard
from ..engine.models import check_room, encode_prompts, prompts_ids, turn_end
from ..engine.sampler import is_fast, static_rollout
from ..engine.trials import keep_rows, position_ids, read_on
from . import edited

LONGEST = 48  # tokens of an answer, if no other number is given; `workspace.setup` asks a slow model for fewer


@torch.no_grad()
def greedy(model, ids, max_new_tokens, eos):
    """Continue `ids` (list of int) with the most probable token, each time; `eos`: the set of ids that end."""
    ids = list(ids)
    for _ in range(max_new_tokens):
        logits = model(torch.tensor([ids], device=model.device)).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] in eos:
            break
    return ids


@torch.no_grad()
def sample(model, ids, max_new_tokens, eos, generator):
    """Continue `ids` (list of int) with tokens drawn by their probability; `eos`: the set of ids that end."""
    ids = list(ids)
    for _ in range(max_new_tokens):
        logits = model(torch.tensor([ids], device=model.device)).logits[0, -1]
        p = logits.softmax(-1)
        ids.append(int(torch.multinomial(p, 1, generator=generator)))
        if ids[-1] in eos:
            break
    return ids


def adjust(logits, temperature=1.0, top_k=0, top_p=1.0):
    """Reshape a distribution before drawing from it; (..., vocabulary) -> the same shape.

    Temperature divides the logits; top-k keeps the k most probable tokens (0: all); top-p keeps the
    smallest set of most probable tokens that holds at least the share p (Holtzman et al. 2020).
    """
    logits = logits.float() / temperature
    if top_k:
        kth = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(descending=True)
        p = ordered.softmax(-1)
        outside = p.cumsum(-1) - p >= top_p
        logits = logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    return logits


def inverse_cdf(logits, u):
    """The token of each row at which the cumulative probability passes u; u: (rows, 1), in [0, 1)."""
    cdf = logits.float().softmax(-1).cumsum(-1)
    return torch.searchsorted(cdf, u * cdf[:, -1:], right=True).clamp(max=cdf.shape[-1] - 1)


def draws(rows, temperature, generator, device):
    """A number in [0, 1) for each row, whoever is left, (rows, 1); temperature 0 needs none, and takes none."""
    if temperature == 0:
        return torch.zeros(rows, 1, device=device)
    return torch.rand(rows, 1, generator=generator, device=device)


def next_tokens(logits, u, temperature=1.0, top_k=0, top_p=1.0):
    """The next token of each row and its log-probability in the distribution it is drawn from, (rows, 1) each.

    logits: (rows, vocabulary).  u: (rows, 1), in [0, 1), see `inverse_cdf`.  At temperature 0 the most probable one is
    sure, so its log-probability is 0.
    """
    if temperature == 0:
        token = logits.argmax(-1, keepdim=True)
        return token, torch.zeros_like(token, dtype=torch.float32)
    logits = adjust(logits, temperature, top_k, top_p)
    token = inverse_cdf(logits, u)
    return token, logits.log_softmax(-1).gather(1, token)


def draw(logits, generator):
    """One token per row by inverse CDF: the same distribution as multinomial, faster on a CPU."""
    return inverse_cdf(logits, torch.rand(len(logits), 1, generator=generator, device=logits.device))


@torch.no_grad()
def rollout(model, ids, mask, max_new_tokens, eos, generator=None, temperature=1.0, top_k=0, top_p=1.0):
    """Continue a left-padded batch; temperature 0 is greedy.

    ids, mask: (rows, prompt).  eos: ids that end an answer.  Returns (ids, mask, logprobs): the whole
    sequences (rows, prompt + answer) with mask 1 up to and including the first end token, and the
    log-probability of each answer token in the distribution it was drawn from (rows, answer), 0 after the end.
    On a GPU the same is computed another way (see `sampler`).  Raises WorkbookError where the prompts are too long.
    """
    check_room(model, ids.shape[1], max_new_tokens)
    how, roll = (temperature, top_k, top_p), lambda: draws(len(ids), temperature, generator, ids.device)
    fast = is_fast(model) and static_rollout(model, ids, mask, max_new_tokens, eos, generator, roll, next_tokens, how)
    if fast:
        return fast
    eos = torch.tensor(sorted({eos} if isinstance(eos, int) else set(eos)), device=ids.device)
    rows, cache, logprobs = len(ids), None, []
    alive = torch.arange(rows, device=ids.device)  # the rows whose answer goes on: only they are computed
    inputs, positions, seen = ids, position_ids(mask), mask
    for _ in range(max_new_tokens):
        with autocast(model):
            logits, cache = read_on(model, inputs, seen, positions, cache)
        token, drawn = next_tokens(logits.float(), roll()[alive], *how)
        new = torch.full((rows, 1), model.config.pad_token_id, device=ids.device).index_copy(0, alive, token)
        real = torch.zeros_like(new).index_fill(0, alive, 1)
        logprobs.append(torch.zeros_like(new, dtype=drawn.dtype).index_copy(0, alive, drawn))
        ids, mask = torch.cat([ids, new], 1), torch.cat([mask, real], 1)
        go_on = ~torch.isin(token[:, 0], eos)
        alive = alive[go_on]
        if not len(alive):
            break
        if not go_on.all():
            keep_rows(model, cache, go_on.nonzero()[:, 0])
        inputs, positions, seen = token[go_on], positions[go_on, -1:] + 1, mask[alive]
        if cache is None:  # a model that remembers nothing reads it all again
            inputs, positions = ids[alive], position_ids(seen)
    return ids, mask, torch.cat(logprobs, 1)


def end_tokens(model, tokenizer):
    """Ids that end an answer: the tokenizer's, that of its chat template, and those of the generation config."""
    extra = getattr(model.generation_config, "eos_token_id", None)
    extra = [] if extra is None else [extra] if isinstance(extra, int) else list(extra)
    return {tokenizer.eos_token_id, turn_end(tokenizer), *extra}


def which_ended(tokens, mask, eos):
    """Which answers came to an end of their own: (rows,) bool; tokens, mask: (rows, T), eos: ids that end one."""
    ends = torch.isin(tokens, torch.tensor(sorted(eos), device=tokens.device))
    return (ends & mask.bool()).any(-1)


def decode_responses(tokenizer, ids, mask, start):
    """Text of the answers of `rollout`, which begin at column `start`."""
    rows, end = [row[m.bool()].tolist() for row, m in zip(ids[:, start:], mask[:, start:])], turn_end(tokenizer)
    rows = [row[:-1] if row[-1:] == [end] else row for row in rows]  # not every tokenizer calls it special
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]


def one_by_one(model, tokenizer, prompts, temperature, max_new_tokens, generator):
    """One answer for each prompt, each by `greedy` or `sample`: slow, and the plain form of what `rollout` does."""
    end, answers = end_tokens(model, tokenizer), []
    for ids in prompts_ids(tokenizer, prompts):
        chance = () if temperature == 0 else (generator,)
        said = (sample if chance else greedy)(model, ids, max_new_tokens, end, *chance)
        answers.append(tokenizer.decode(said[len(ids) :], skip_special_tokens=True).strip())
    return answers


def answer_batches(
    model, tokenizer, prompts, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=None, seed=0, batch_size=128
):
    """The answers of `generate`, a list for each batch: whoever has enough stops, and no more are sampled."""
    device, max_new_tokens = next(model.parameters()).device, max_new_tokens or LONGEST
    generator = torch.Generator(device).manual_seed(seed)
    encode_prompts(tokenizer, prompts[:1])  # an empty list gets its sentence
    plain = (temperature, top_k, top_p) in ((0, 0, 1), (1, 0, 1))
    if plain and edited(__name__, "sample" if temperature else "greedy"):
        yield one_by_one(model, tokenizer, prompts, temperature, max_new_tokens, generator)
        return
    for i in range(0, len(prompts), batch_size):
        with memory_guard("sampling answers", "batch_size or max_new_tokens"):
            ids, mask = encode_prompts(tokenizer, prompts[i : i + batch_size], device)
            out, out_mask, _ = rollout(
                model, ids, mask, max_new_tokens, end_tokens(model, tokenizer), generator, temperature, top_k, top_p
            )
            answers = decode_responses(tokenizer, out, out_mask, ids.shape[1])
        yield answers


def generate(
    model, tokenizer, prompts, *, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=None, seed=0, batch_size=128
):
    """One answer (text) for each prompt, of at most LONGEST tokens; temperature 0 is greedy.  Same seed, same answers.

    Where `greedy` or `sample` was edited in chapter 02, it is what answers, at temperature 0 or 1.
    """
    how = temperature, top_k, top_p, max_new_tokens, seed, batch_size
    return [answer for some in answer_batches(model, tokenizer, prompts, *how) for answer in some]
