"""Proximal policy optimisation for a language model (Schulman et al. 2017; Ziegler et al. 2019).

One update is: roll out answers from the policy, score them with the reward model, subtract the
per-token KL penalty to the frozen reference, estimate advantages, and take a few epochs of clipped
gradient steps.  All per-token tensors have the shape (rows, answer tokens); `mask` is 1 on real
answer tokens, the end-of-text token included.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from ..engine import curves, lora
from ..engine.arithmetic import arithmetic_of, autocast, memory_guard, take_step
from ..engine.checkpoints import digest, digest_of, load_checkpoint, save_checkpoint
from ..engine.files import WorkbookError
from ..engine.memory import recompute_if_needed
from ..engine.models import context_length, encode_prompts, position_ids, prompts_ids, vocabulary
from ..engine.packing import can_pack, logits_at, pack_padded
from ..engine.sampler import is_fast
from . import decoding, edited
from .decoding import decode_responses, end_tokens, rollout, which_ended


@dataclass
class Settings:
    """The dials of PPO; the names are the field's."""

    updates: int = 40
    batch_size: int = 96  # answers per update
    epochs: int = 2  # passes over them
    minibatches: int = 4
    lr: float = 3e-4
    beta: float = 0.05  # weight of the KL penalty, in reward per nat
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    value_coef: float = 0.1
    max_new_tokens: int = field(default_factory=lambda: decoding.LONGEST)
    no_end_penalty: float = 1.0  # taken off the score of an answer that did not end


# ---------------------------------------------------------------- the pieces


def token_logprobs(logits, tokens):
    """Log-probability of each token; logits (rows, T, vocabulary), tokens (rows, T) -> (rows, T)."""
    assert logits.shape[:2] == tokens.shape, (logits.shape, tokens.shape)
    logprobs = logits.float().log_softmax(-1)
    return logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


@torch.no_grad()
def token_entropy(logits):
    """Entropy of the next token, in nats; logits (..., vocabulary) -> (...).  For logging; without a gradient."""
    logprobs = logits.float().log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def kl_k3(logprobs, ref_logprobs):
    """An estimate of KL(pi || pi_ref) from tokens drawn from pi, per token, in nats (Schulman 2020).

    (rho - 1) - log rho with rho = pi_ref / pi: unbiased, and never negative.  For logging; as a penalty it
    has heavy tails, and rewards use k1.
    """
    log_rho = ref_logprobs - logprobs
    return torch.expm1(log_rho) - log_rho


def masked_mean(x, mask):
    """Mean of x over the places where mask is 1."""
    return (x * mask).sum() / mask.sum()


def whiten(x, mask):
    """x with mean 0 and variance 1 over the mask, and 0 elsewhere."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask


def token_rewards(scores, logprobs, ref_logprobs, mask, beta):
    """Per-token reward: -beta * KL estimate everywhere, plus the score on the last real token.

    The estimate is k1 = log pi - log pi_ref of the sampled token, unbiased for KL(pi || pi_ref).
    """
    rewards = -beta * (logprobs - ref_logprobs) * mask
    last = mask.sum(-1).long() - 1
    rewards[torch.arange(len(scores)), last] += scores
    return rewards


def gae(rewards, values, mask, gamma=1.0, lam=0.95):
    """Generalised advantage estimation (Schulman et al. 2016): (advantages, returns), both (rows, T).

    Backwards over the answer; after the last real token there is nothing left to come.
    """
    values = values * mask
    advantage = torch.zeros(len(rewards), device=rewards.device)
    advantages = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        after = values[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
        delta = rewards[:, t] + gamma * after - values[:, t]
        advantage = (delta + gamma * lam * advantage) * mask[:, t]
        advantages[:, t] = advantage
    return advantages, (advantages + values) * mask


def policy_loss(logprobs, old_logprobs, advantages, mask, clip=0.2):
    """The clipped surrogate loss: (loss, ratio, share of tokens where the clip was active)."""
    ratio = torch.exp((logprobs - old_logprobs) * mask)
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    active = masked_mean((clipped > plain).float(), mask)
    return masked_mean(torch.maximum(plain, clipped), mask), ratio, active


def value_loss(values, old_values, returns, mask, clip=0.2):
    """Half the squared error to the returns; moves beyond `clip` from the rollout's values don't pay."""
    near = old_values + (values - old_values).clamp(-clip, clip)
    error = torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    return 0.5 * masked_mean(error, mask)


def importance(old, drawn, most=2.0):
    """How much more often the training network would draw each token than the sampler did, at most `most`; (rows, T).

    Tokens drawn by a slightly other network, such as one in 16 bits, are weighed by it (truncated importance sampling,
    Ionides 2008; Yao et al. 2025).  Where both computed the same numbers it is 1.
    """
    return torch.exp(old - drawn).clamp(max=most)


class PolicyWithValue(torch.nn.Module):
    """A language model and a value head on what its output layer reads (zero at the start)."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        width = model.get_output_embeddings().weight.shape[1]
        self.value_head = torch.nn.Linear(width, 1)
        torch.nn.init.zeros_(self.value_head.weight)
        torch.nn.init.zeros_(self.value_head.bias)
        self.value_head.to(next(model.parameters()).device)

    def forward(self, ids, mask, start):
        """Logits (rows, T, vocabulary) and values (rows, T) for the answer that begins at column `start`.

        The logits at one column speak about the token in the next, and so do the values: both are
        read one column earlier than the token they belong to.
        """
        keep = ids.shape[1] - start
        with autocast(self.model):
            out = self.model(
                ids[:, :-1],
                attention_mask=mask[:, :-1],
                position_ids=position_ids(mask)[:, :-1],
                output_hidden_states=True,
                logits_to_keep=keep,
            )
        hidden = out.hidden_states[-1][:, -keep:].float()
        return out.logits, self.value_head(hidden).squeeze(-1)

    def read(self, ids, mask, start):
        """Log-probabilities and values of the answer's tokens, (rows, T) each, 0 after its end."""
        logits, values = self(ids, mask, start)
        real = mask[:, start:]
        return token_logprobs(logits, ids[:, start:]) * real, values * real

    def respond(self, prompt, mask, *how):
        """Sample answers; prompt, mask: (rows, prompt), `how`: see `rollout`.

        Returns (ids, mask) of the whole sequences, and of each answer token, (rows, T) and 0 after the end: the
        log-probability with which the sampler drew it, the *old* one that this network gives it before any update
        (in fp32 the same number), the value, and the entropy of the next token's distribution.
        """
        ids, full_mask, drawn = rollout(self.model, prompt, mask, *how)
        start = prompt.shape[1]
        logits, values = self(ids, full_mask, start)
        real, old = full_mask[:, start:], drawn
        if not arithmetic_of(self.model).exact:
            old = token_logprobs(logits, ids[:, start:]) * real
        entropy = token_entropy(logits) * real
        return ids, full_mask, drawn, old, values * real, entropy


class PackedPolicy(PolicyWithValue):
    """The same numbers from `read` and `respond`, with nothing computed for the padding, or twice (see `packing`)."""

    def look(self, ids, mask, start):
        """Logits (tokens, vocabulary), values (tokens,) and ids (tokens,) of all answer tokens, and where they go."""
        real = mask.bool() & (mask.cumsum(-1) < mask.sum(-1, keepdim=True))  # the last token asks for nothing
        packed, answer = pack_padded(ids, real.long()), mask[:, start:].bool()
        asks = torch.nn.functional.pad(answer, (start - 1, 1))  # one column before the tokens asked for
        logits, hidden = logits_at(self.model, packed, packed.place[asks[real]])
        return logits, self.value_head(hidden.float()).squeeze(-1), ids[:, start:][answer], answer

    def read(self, ids, mask, start):
        logits, values, tokens, answer = self.look(ids, mask, start)
        logprobs = token_logprobs(logits[None], tokens[None])[0]
        return tuple(x.new_zeros(answer.shape).masked_scatter(answer, x) for x in (logprobs, values))

    def respond(self, prompt, mask, *how):
        if is_fast(self.model):
            return self.respond_and_read(prompt, mask, *how)
        hidden, spread = [], []  # as they pass by: of the rows whose answer goes on, token after token
        hooks = [
            self.model.get_output_embeddings().register_forward_pre_hook(
                lambda _, given: hidden.append(given[0][:, -1])
            ),
            self.model.register_forward_hook(lambda _, __, out: spread.append(token_entropy(out.logits[:, -1]))),
        ]
        try:
            ids, full_mask, drawn = rollout(self.model, prompt, mask, *how)
        finally:
            for hook in hooks:
                hook.remove()
        real = full_mask[:, prompt.shape[1] :].bool().T
        values, entropy = self.value_head(torch.cat(hidden).float()).squeeze(-1), torch.cat(spread)
        values, entropy = (x.new_zeros(real.shape).masked_scatter(real, x).T for x in (values, entropy))
        return ids, full_mask, drawn, drawn, values, entropy

    def respond_and_read(self, prompt, mask, *how):
        """`respond` where the sampler is another network than the one that is trained, or does not show its states."""
        ids, full_mask, drawn = rollout(self.model, prompt, mask, *how)
        logits, values, tokens, answer = self.look(ids, full_mask, prompt.shape[1])
        seen = token_logprobs(logits[None], tokens[None])[0], values, token_entropy(logits)
        return ids, full_mask, drawn, *(x.new_zeros(answer.shape).masked_scatter(answer, x) for x in seen)


# ---------------------------------------------------------------- one update


@torch.no_grad()
def collect(policy, reference, tokenizer, reward, prompts, settings, dice):
    """Roll out one answer per prompt, score it, and estimate advantages: a dict of tensors and texts.

    `reward(prompts, responses)` gives the scores (rows,); `dice`, a generator, draws the tokens.  Nothing here has a
    gradient.
    """
    device = policy.value_head.weight.device
    eos = end_tokens(policy.model, tokenizer)
    prompt, prompt_mask = encode_prompts(tokenizer, prompts, device)
    start = prompt.shape[1]
    ids, full_mask, drawn, logprobs, values, entropy = policy.respond(
        prompt, prompt_mask, settings.max_new_tokens, eos, dice
    )
    tokens, mask = ids[:, start:], full_mask[:, start:].float()
    responses = decode_responses(tokenizer, ids, full_mask, start)
    ended = which_ended(tokens, mask, eos)
    scores = reward(prompts, responses).to(device)
    ref_logprobs, _ = reference.read(ids, full_mask, start)
    final = scores - settings.no_end_penalty * (~ended)
    rewards = token_rewards(final, logprobs, ref_logprobs, mask, settings.beta)
    raw, returns = gae(rewards, values, mask, settings.gamma, settings.lam)
    return {
        "ids": ids,
        "full_mask": full_mask,
        "start": start,
        "mask": mask,
        "drawn": drawn,
        "logprobs": logprobs,
        "ref_logprobs": ref_logprobs,
        "values": values,
        "rewards": rewards,
        "raw_advantages": raw,
        "returns": returns,
        "advantages": whiten(raw, mask) * importance(logprobs, drawn),
        "scores": scores,
        "final": final,
        "ended": ended,
        "prompts": prompts,
        "responses": responses,
        "entropy": masked_mean(entropy, mask).item(),
    }


def minibatches(batch, settings, generator):
    """The rows of a batch in random parts, epoch after epoch: a dict of tensors for each part."""
    for _ in range(settings.epochs):
        order = torch.randperm(len(batch["ids"]), generator=generator)
        for some in order.to(batch["ids"].device).chunk(settings.minibatches):
            yield {k: v[some] for k, v in batch.items() if torch.is_tensor(v)}


def distances(part, logprobs, ratio):
    """How far new log-probabilities (rows, T) are from the old and from the drawn ones: a dict of numbers."""
    mask = part["mask"]
    old, drawn = part["logprobs"] * mask, part["drawn"] * mask
    return {
        "ratio_off": ((ratio - 1).abs() * mask).max(),
        "approx_kl": masked_mean(kl_k3(old, logprobs), mask),
        "mismatch": masked_mean((logprobs - drawn).abs(), mask),
        "mismatch_k3": masked_mean(kl_k3(drawn, logprobs), mask),
    }


def as_floats(stats):
    """Dicts of tensors of one number each as dicts of floats; the device is asked once for all."""
    rows = torch.stack([torch.stack([x.detach() for x in s.values()]) for s in stats]).tolist()
    return [dict(zip(s, row)) for s, row in zip(stats, rows)]


def update(policy, optimizer, batch, settings, generator):
    """A few epochs of clipped gradient steps on one batch; returns a dict of statistics."""
    stats, start = [], batch["start"]
    for part in minibatches(batch, settings, generator):
        mask = part["mask"]
        logprobs, values = policy.read(part["ids"], part["full_mask"], start)
        surrogate, ratio, active = policy_loss(logprobs, part["logprobs"], part["advantages"], mask, settings.clip)
        error = value_loss(values, part["values"], part["returns"], mask, settings.value_clip)
        loss = surrogate + settings.value_coef * error
        take_step(loss, policy, optimizer, "The PPO loss")
        stats.append(
            {"clip_fraction": active, "policy_loss": surrogate, "value_loss": error, **distances(part, logprobs, ratio)}
        )
    stats = as_floats(stats)
    mean = {k: sum(s[k] for s in stats) / len(stats) for k in stats[0]}
    return mean | {"first_" + k: x for k, x in stats[0].items()}


# ---------------------------------------------------------------- health


@torch.no_grad()
def moved_by_padding(policy, batch, settings, junk=1e3):
    """The most that anything moves when the padding of the shortest answers is filled with junk.

    Anything: log-probabilities, values, rewards, advantages, returns and both losses.
    """
    short = batch["mask"].sum(-1).argsort()[:4]
    ids, full_mask, start = batch["ids"][short], batch["full_mask"][short], batch["start"]
    mask, old, ref, final = (batch[k][short] for k in ("mask", "logprobs", "ref_logprobs", "final"))
    results = []
    for fill in (0.0, junk):

        def padded(x):
            return x.masked_fill(mask == 0, fill)

        some = torch.where(full_mask.bool() | (fill == 0), ids, (ids + 1) % vocabulary(policy.model))
        logprobs, values = policy.read(some, full_mask, start)
        rewards = token_rewards(final, padded(old), padded(ref), mask, settings.beta)
        advantages, returns = gae(padded(rewards), padded(values), mask, settings.gamma, settings.lam)
        white = whiten(padded(advantages), mask)
        surrogate, _, _ = policy_loss(padded(logprobs), padded(old), padded(white), mask, settings.clip)
        error = value_loss(padded(values), padded(batch["values"][short]), padded(returns), mask, settings.value_clip)
        results.append(
            torch.cat(
                [x.float().flatten() for x in (logprobs, values, rewards, advantages, returns, white, surrogate, error)]
            )
        )
    return (results[0] - results[1]).abs().max().item()


def health(policy, tokenizer, batch, stats, step, settings):
    """The checks of one update: name -> (passed, measured value).

    What rounding may do is that of the policy's arithmetic.  *Equality*: before the first step old and new
    log-probabilities are of one network.  *Mismatch*: sampler and training are two computations of it.
    """
    bounds = arithmetic_of(policy.model)
    mask, rows = batch["mask"], torch.arange(len(batch["mask"]))
    last = mask.sum(-1).long() - 1
    penalty = -settings.beta * (batch["logprobs"] - batch["ref_logprobs"]) * mask
    extra = batch["rewards"] - penalty
    at_last = (extra[rows, last] - batch["final"]).abs().max().item()
    extra[rows, last] = 0
    elsewhere = extra.abs().max().item()
    gap = ((batch["returns"] - batch["raw_advantages"] - batch["values"]) * mask).abs().max().item()
    eos = torch.tensor(sorted(end_tokens(policy.model, tokenizer)), device=mask.device)
    ended = torch.isin(batch["ids"][:, batch["start"] :][rows, last], eos)
    owed = batch["scores"] - settings.no_end_penalty * (~ended)
    unpaid = (owed - batch["final"]).abs().max().item() + (ended != batch["ended"]).sum().item()
    moved = moved_by_padding(policy, batch, settings)
    checks = {
        "ratio is 1 in the first minibatch": (stats["first_ratio_off"] < bounds.same, stats["first_ratio_off"]),
        "tokens are drawn from the policy that is trained": (
            stats["first_mismatch"] < bounds.mismatch and stats["first_mismatch_k3"] < bounds.k3,
            stats["first_mismatch"],
        ),
        "nothing is clipped in the first minibatch": (stats["first_clip_fraction"] == 0, stats["first_clip_fraction"]),
        "score sits on the last real token only": (max(at_last, elsewhere) < 1e-4, max(at_last, elsewhere)),
        "returns are raw advantages plus values": (gap < 1e-4, gap),
        "answers without an end are counted and penalised": (unpaid < 1e-4, unpaid),
        "nothing moves when the padding is filled with junk": (moved < bounds.same, moved),
    }
    if step == 0:
        kl = ((batch["logprobs"] - batch["ref_logprobs"]) * mask).abs().max().item()
        checks["KL is 0 before the first update"] = (kl < bounds.same, kl)
    return checks


# ---------------------------------------------------------------- what no curve shows


class OneAnswer(torch.nn.Module):
    """A stand-in for the policy whose only weights are the log-probabilities and values of one answer, (1, T) each."""

    def __init__(self, one):
        super().__init__()
        self.logprobs = torch.nn.Parameter(one["logprobs"].clone())
        self.values = torch.nn.Parameter(one["values"].clone())

    def read(self, ids, mask, start):
        return self.logprobs, self.values


def loss_mask_off(batch, settings):
    """How many tokens of one answer the loop's `update` misses, or trains in error: 0 if all is well.

    The answer is the shortest that ended after a token or more, so that its end and the padding behind it count, too;
    each of its tokens gets an advantage of 1.  None where an edited `update` can't be asked about one answer alone, or
    asks a policy for more than `read`.
    """
    lengths = batch["mask"].sum(-1)
    i = int(torch.where(batch["ended"] & (lengths > 1), lengths, torch.inf).argmin())
    one = {k: v[i : i + 1] if torch.is_tensor(v) else v for k, v in batch.items()}
    one["advantages"] = one["mask"].clone()
    probe, gradients = OneAnswer(one), []
    probe.logprobs.register_hook(lambda gradient: gradients.append(gradient.abs()))
    optimizer = torch.optim.SGD(probe.parameters(), lr=0.0)
    try:
        update(probe, optimizer, one, replace(settings, epochs=1, minibatches=1), torch.Generator().manual_seed(0))
    except Exception:  # this only measures: it stops no run
        return None
    trained = sum(gradients, torch.zeros_like(one["mask"])) != 0
    return (trained != one["mask"].bool()).sum().item()


@torch.no_grad()
def value_shift(policy, batch):
    """How many tokens after its place the first value stands that moves when a token is changed: 0 if all is well.

    The value of token k is the guess before it is drawn, so that of token k + 1 is the first to know it.  1: each token
    has the value of the token before; -1: that of the token after, which knows what it is to judge.  Measured on the
    four longest answers, with a value head that says something; it is then put back bit for bit.
    """
    lengths = batch["mask"].sum(-1)
    rows = lengths.argsort(descending=True)[:4]
    k = int(lengths[rows].min() - 1) // 2  # in the middle of the shortest of them
    ids, full_mask, start = batch["ids"][rows], batch["full_mask"][rows], batch["start"]
    other = ids.clone()
    other[:, start + k] = (ids[:, start + k] + 1) % vocabulary(policy.model)
    head = policy.value_head.weight
    kept = head.clone()
    head.copy_(torch.linspace(-1, 1, head.numel()).view_as(head))
    try:
        before, after = (policy.read(some, full_mask, start)[1] for some in (ids, other))
    finally:
        head.copy_(kept)
    moved = (after - before).abs().amax(0)
    still = moved.cummax(0).values <= 0.02 * moved.max()  # what rounding moves is far below
    return still.sum().item() - (k + 1)


def alignment(policy, batch, settings):
    """What no curve shows of a loop, measured on one batch: `loss_mask_off` and `value_shift`, by these names.

    No random number of the run is drawn for it.
    """
    device = batch["ids"].device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        found = {"loss_mask_off": loss_mask_off(batch, settings), "value_shift": value_shift(policy, batch)}
    return {name: float(x) for name, x in found.items() if x is not None}


def fingerprint(*models):
    """One number per weight tensor of the models, the sum of its bits as whole numbers, which changes when a weight
    does: (tensors,), on their device."""
    tensors = [p.detach() for m in models for p in m.parameters()]
    kinds = [{1: torch.int8, 2: torch.int16}.get(t.element_size(), torch.int32) for t in tensors]
    sums = [t.view(kind).sum(dtype=torch.int32) for t, kind in zip(tensors, kinds)]
    return torch.stack(sums) if sums else torch.zeros(0)


def remember(policy, good):
    """Write the weights of the policy into `good`, its state of before, without new memory."""
    for name, tensor in lora.learned(policy).items():
        good[name].copy_(tensor)


# ---------------------------------------------------------------- the loop


def normalized_reward(reward, prompts, responses):
    """`reward` shifted and scaled to mean 0 and variance 1 on these answers (the reference's), so that
    beta means the same for every reward model (Ziegler et al. 2019)."""
    scores = reward(prompts, responses)
    mean, std = scores.mean(), scores.std().clamp_min(1e-6)
    return lambda p, r: (reward(p, r) - mean) / std


def check_run(model, tokenizer, prompts, settings):
    """Tokens of the longest prompt with its answer.  Raises WorkbookError, before anything is computed, for a run that
    could not succeed."""
    if not any(p.requires_grad for p in model.parameters()):
        raise WorkbookError(
            "Every weight of the policy is frozen, so PPO could change nothing. Load the model again, "
            "or thaw it with model.requires_grad_(True)."
        )
    if not prompts:
        raise WorkbookError("There is no prompt for PPO to train on; give at least one.")
    for name in ("batch_size", "epochs", "minibatches", "max_new_tokens"):
        if getattr(settings, name) < 1:
            raise WorkbookError(f"The setting {name} of PPO is {getattr(settings, name)}, but it must be at least 1.")
    length, longest = max(zip(map(len, prompts_ids(tokenizer, prompts)), prompts))
    needed, limit = length + settings.max_new_tokens, context_length(model)
    if needed > limit:
        raise WorkbookError(
            f"The prompt {longest[:40]!r} with an answer of {settings.max_new_tokens} tokens takes "
            f"{needed} tokens, but the policy reads only {limit}. Lower max_new_tokens or leave the "
            "prompt out."
        )
    return needed


def examine(checks, card, step):
    """Enter the checks of one update in the health `card`, each at its worst so far.

    Raises WorkbookError for the first that failed.
    """
    for name, (passed, value) in checks.items():
        card[name] = max(card.get(name, 0.0), value)
        if not passed:
            raise WorkbookError(
                f"Health check failed at update {step + 1}: {name} (off by {value:.2g}). "
                "The update is not to be trusted."
            )


def history_row(step, batch, stats):
    """The row of the history for one update: means over the answers of its batch, and the `stats` of its steps.

    non_score_reward is what an answer is paid beside its score, -beta times its KL if all is well; surprise is the
    mean of -log p over the drawn tokens, which the entropy foresees.
    """
    mask, advantages = batch["mask"], batch["advantages"]
    centre = masked_mean(advantages, mask)
    return {
        "update": step + 1,
        "reward": batch["scores"].mean().item(),
        "kl": ((batch["logprobs"] - batch["ref_logprobs"]) * mask).sum(-1).mean().item(),
        "entropy": batch["entropy"],
        "length": mask.sum(-1).mean().item(),
        "no_end": (~batch["ended"]).float().mean().item(),
        "non_score_reward": ((batch["rewards"] * mask).sum(-1) - batch["final"]).mean().item(),
        "surprise": -masked_mean(batch["drawn"], mask).item(),
        "advantage_mean": centre.item(),
        "advantage_std": masked_mean((advantages - centre) ** 2, mask).sqrt().item(),
        **stats,
    }


def resume(checkpoint, run, policy, optimizer, generators, reward):
    """(history, health card, queue of prompts) of the `checkpoint` of this `run`; empty where there is none.

    Policy, optimiser and the two generators of random numbers are set to where they were.  Raises WorkbookError
    when the checkpoint is of another run, or its `reward` was another one.
    """
    history, more = load_checkpoint(checkpoint, run, policy, optimizer)
    if more:
        sampler, shuffler = generators
        sampler.set_state(more["sampler"])
        shuffler.set_state(more["shuffler"])
        if not torch.allclose(reward(more["prompts"], more["responses"]).cpu(), more["scores"], atol=1e-3):
            raise WorkbookError(
                f"The checkpoint {checkpoint} belongs to a run with another reward. Delete it to start "
                "from the beginning."
            )
    return history, more.get("card", {}), more.get("queue", [])


def ppo_loop(policy, reference, tokenizer, reward, prompts, settings, optimizer, dice, queue=(), done=0):
    """PPO, update after update: yields the batch, the statistics of its steps, and the prompts that wait.

    reward(prompts, responses) -> scores (rows,).  dice: the generators that draw tokens and prompts.  prompts are
    drawn without replacement until all were used; `queue` are those that still wait, after `done` updates.  The
    learning rate falls to 0 along a straight line.
    """
    sampler, shuffler = dice
    for step in range(done, settings.updates):
        while len(queue) < settings.batch_size:
            order = torch.randperm(len(prompts), generator=shuffler)
            queue = [*queue, *(prompts[i] for i in order)]
        asked = queue[: settings.batch_size]
        queue = queue[settings.batch_size :]
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * (1 - step / settings.updates)
        batch = collect(policy, reference, tokenizer, reward, asked, settings, sampler)
        stats = update(policy, optimizer, batch, settings, shuffler)
        yield batch, stats, queue


def train(
    model,
    tokenizer,
    reward,
    prompts,
    settings=None,
    seed=0,
    *,
    on_update=None,
    report_to=None,
    frozen=(),
    checkpoint=None,
    packed=True,
):
    """Train `model` in place by PPO: `ppo_loop`, with what a long run needs around it; returns (history, health card).

    reward(prompts, responses) -> scores (rows,).  `on_update(row, batch)` is called after each update with the row
    of the history; `report_to="tensorboard"` draws these rows as curves, on this machine (see `engine.curves`).  The
    first row also has what `alignment` measures.
    `frozen` are further models (the reward model) whose weights must not move.  An interrupt (the stop button) ends
    the run early and keeps what was learned.  `checkpoint`: a file that is written after each update; the same call,
    with `model` as it was at the start, goes on from it, with the very same result on a CPU, and a finished run
    removes it.  `packed`: compute nothing for the padding, where the model allows it and `PolicyWithValue` is as
    chapter 05 shows it.  Raises WorkbookError when the run cannot succeed, on a failed health check, on a loss that
    is not finite (the last good policy is kept, and so is its checkpoint), and when the checkpoint is not of this
    run.
    """
    settings = settings or Settings()
    curves.check(report_to)
    longest = check_run(model, tokenizer, prompts, settings)
    rows = -(-settings.batch_size // settings.minibatches)
    recompute_if_needed(model, rows, longest, settings.max_new_tokens)
    packed = packed and not edited(__name__, "PolicyWithValue") and can_pack(model)
    kind, device = PackedPolicy if packed else PolicyWithValue, next(model.parameters()).device
    policy, reference = kind(model), kind(lora.copy_to_compare(model)).eval().requires_grad_(False)
    before = fingerprint(reference, *frozen)
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=settings.lr, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0, fused=True
    )
    dice = sampler, shuffler = torch.Generator(device).manual_seed(seed), torch.Generator().manual_seed(seed)
    run = checkpoint and {
        "training": "PPO",
        **asdict(settings),
        "seed": seed,
        "list of prompts": digest_of(prompts),
        "model to start from": digest(model),
        "reward model": digest(*frozen),
    }
    history, card, queue = resume(checkpoint, run, policy, optimizer, dice, reward)
    good = {name: tensor.clone() for name, tensor in lora.learned(policy).items()}
    updates = ppo_loop(policy, reference, tokenizer, reward, prompts, settings, optimizer, dice, queue, len(history))
    writer = curves.begin(report_to, "ppo")
    try:
        for step in range(len(history), settings.updates):
            with memory_guard(f"update {step + 1} of PPO", "batch_size or max_new_tokens, or raise minibatches"):
                batch, stats, queue = next(updates)
                checks = health(policy, tokenizer, batch, stats, step, settings)
                at_first = {} if step else alignment(policy, batch, settings)
            moved = (before != fingerprint(reference, *frozen)).sum().item()
            checks["reference and reward model did not move"] = (moved == 0, float(moved))
            examine(checks, card, step)
            remember(policy, good)
            history.append(history_row(step, batch, stats) | at_first)
            curves.add(writer, history[-1])
            if on_update:
                on_update(history[-1], batch)
            if checkpoint:
                place = {"card": card, "queue": queue, "sampler": sampler.get_state(), "shuffler": shuffler.get_state()}
                place |= {k: batch[k] for k in ("prompts", "responses")} | {"scores": batch["scores"].cpu()}
                save_checkpoint(checkpoint, run, policy, optimizer, history, **place)
        if checkpoint:
            Path(checkpoint).unlink(missing_ok=True)
    except KeyboardInterrupt:
        if not history:  # nothing was learned that could be kept
            raise
        print(f"Stopped after {len(history)} of {settings.updates} updates; the policy learned so far is kept.")
    except WorkbookError as e:
        where = f" Its checkpoint is {checkpoint}." if checkpoint and Path(checkpoint).exists() else ""
        raise WorkbookError(f"{e} The last good policy is kept.{where}") from None
    finally:
        curves.end(writer)
        lora.restore(policy, good)
    return history, card
