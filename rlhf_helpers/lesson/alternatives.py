"""What one could do instead of PPO, each in its plainest form: best-of-n, RLOO, GRPO, DPO and KTO.

They see the same reward as PPO and can be compared with it at equal numbers of generated tokens.
"""

import copy
import dataclasses
import math

import torch
import torch.nn.functional as F

from ..engine.arithmetic import autocast, memory_guard, take_step
from ..engine.files import WorkbookError
from ..engine.memory import recompute_if_needed
from ..engine.models import encode_prompts, position_ids, responses_ids
from . import lm, ppo, replaced
from .decoding import decode_responses, end_tokens, generate, rollout, which_ended
from .ppo import Settings, check_run

# ---------------------------------------------------------------- best of n


def best_of_n(model, tokenizer, reward, prompts, n, *, max_new_tokens=48, seed=0):
    """For each prompt the answer, of n sampled ones, that the reward likes best: a list of text."""
    answers = generate(model, tokenizer, list(prompts) * n, max_new_tokens=max_new_tokens, seed=seed)
    best = reward(list(prompts) * n, answers).view(n, len(prompts)).argmax(0).tolist()
    return [answers[k * len(prompts) + i] for i, k in enumerate(best)]


def best_of_n_kl(n):
    """The most that best-of-n can be from its model, KL in nats per answer (Beirami et al. 2025).

    It is reached where no answer is ever sampled twice; models that repeat themselves stay below.
    """
    return math.log(n) - (n - 1) / n


def best_of_n_weights(pool, n):
    """The chance that each of `pool` samples, the worst first, is the best of n drawn from them: a list.

    Any n of the pool are as good as n fresh ones, so a mean weighed by these chances is that of best-of-n, without
    bias: one pool serves every n.
    """
    return [math.comb(k, n - 1) / math.comb(pool, n) for k in range(pool)]


def best_of_n_curve(scores, values, ns):
    """Mean `values` of the best of n by `scores`, for each n and prompt: (ns, prompts), without bias.

    scores, values: (answers, prompts), float tensors; each n at most the number of answers.
    """
    weights = torch.tensor([best_of_n_weights(len(scores), n) for n in ns]).to(values)
    return weights @ values.gather(0, scores.argsort(0))


def pass_at_k(n, right, k):
    """Chance that k answers hold a right one, estimated without bias from n answers of which so many are right
    (Chen et al. 2021)."""
    return 1 - math.comb(n - right, k) / math.comb(n, k)


# ---------------------------------------------------------------- answers compared within their group


def leave_one_out(scores):
    """Each score less the mean of the others; scores (prompts, answers to the same prompt)."""
    others = (scores.sum(-1, keepdim=True) - scores) / (scores.shape[-1] - 1)
    return scores - others


def centred(scores):
    """Each score less the mean of its group, itself included: Dr. GRPO (Liu et al. 2025); shapes as above."""
    return scores - scores.mean(-1, keepdim=True)


def standardised(scores):
    """The same in standard deviations of the group: GRPO (Shao et al. 2024); shapes as above."""
    return centred(scores) / (scores.std(-1, keepdim=True) + 1e-4)


def mean_of_answers(x, mask):
    """The mean over answers of each answer's mean over its tokens: GRPO's; x, mask (rows, T)."""
    return ((x * mask).sum(-1) / mask.sum(-1)).mean()


def sum_over(length):
    """A mean over answers of each answer's sum over its tokens, over one `length` for all, as in Dr. GRPO."""
    return lambda x, mask: (x * mask).sum(-1).mean() / length


def averaged(mean):
    """`ppo.policy_loss` with another `mean(x, mask)` over its tokens."""
    plain = ppo.policy_loss

    def policy_loss(logprobs, old_logprobs, advantages, mask, clip=0.2):
        _, ratio, active = plain(logprobs, old_logprobs, advantages, mask, clip)
        clipped = ratio.clamp(1 - clip, 1 + clip)
        worth = torch.minimum(advantages * ratio, advantages * clipped)
        return -mean(worth, mask), ratio, active

    return policy_loss


def grouped(model, tokenizer, reward, prompts, settings=None, seed=0, *, answers=8, compare=None, mean=None, **how):
    """Train `model` in place by the loop of PPO without a value head; returns (history, health card).

    Each prompt gets several `answers`; what one earned, its score less beta times its KL estimate, is compared
    with the others' to the same prompt, and all its tokens get that advantage.  compare: scores (prompts, answers)
    -> advantages.  mean: how the loss is averaged over tokens.  By default they are `leave_one_out` and `sum_over(1)`:
    RLOO (Ahmadian et al. 2024).  Dr. GRPO (Liu et al. 2025) is `centred` and `sum_over(max_new_tokens)`.  The other
    arguments are those of `ppo.train`.
    """
    settings = dataclasses.replace(settings or Settings(), value_coef=0.0)
    check_groups(settings.batch_size, answers)
    plain = ppo.collect

    def collect(policy, reference, tokenizer, reward, asked, *rest):
        asked = [p for p in asked[::answers] for _ in range(answers)]
        batch = plain(policy, reference, tokenizer, reward, asked, *rest)
        earned = batch["rewards"].sum(-1).view(-1, answers)
        weight = batch["mask"] * ppo.importance(batch["logprobs"], batch["drawn"])
        batch["advantages"] = (compare or leave_one_out)(earned).view(-1, 1) * weight
        return batch

    with replaced(ppo, collect=collect, policy_loss=averaged(mean or sum_over(1))):
        return ppo.train(model, tokenizer, reward, prompts, settings, seed, **how)


def grpo(*given, **how):
    """`grouped` as in group relative policy optimisation (Shao et al. 2024)."""
    return grouped(*given, compare=standardised, mean=mean_of_answers, **how)


def check_groups(batch_size, answers):
    """Raises WorkbookError where a batch can't be shared out in groups of so many answers to the same prompt."""
    if answers < 2 or batch_size % answers:
        raise WorkbookError(
            f"Answers are compared with others to the same prompt: {batch_size} answers can't be shared "
            f"out as {answers} to each."
        )


# ---------------------------------------------------------------- RLOO, one step at a time


def answer_logprobs(model, ids, mask, start):
    """Log-probability of each token from column `start` on, (rows, T), with a gradient."""
    with autocast(model):
        logits = model(
            ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=position_ids(mask)[:, :-1],
            logits_to_keep=ids.shape[1] - start,
        ).logits
    return ppo.token_logprobs(logits, ids[:, start:])


@memory_guard("RLOO", "batch_size or max_new_tokens")
def rloo(model, tokenizer, reward, prompts, settings=None, seed=0, on_update=None, answers=4):
    """REINFORCE leave-one-out (Ahmadian et al. 2024): train `model` in place; returns the history.

    An answer is one action: its score, less beta times its KL estimate, is compared with the mean of the
    other answers to the same prompt, and the log-probability of the whole answer is pushed by the
    difference.  No value head, no ratio, no clip: one step on each rollout of `settings.batch_size` answers,
    `answers` to each prompt.  The arguments are those of `ppo.train`.
    """
    settings = settings or Settings()
    longest = check_run(model, tokenizer, prompts, settings)
    recompute_if_needed(model, settings.batch_size, longest, settings.max_new_tokens)
    check_groups(settings.batch_size, answers)
    device, eos, history = next(model.parameters()).device, end_tokens(model, tokenizer), []
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0)
    sampler, shuffler = torch.Generator(device).manual_seed(seed), torch.Generator().manual_seed(seed)
    for step in range(settings.updates):
        order = torch.randint(len(prompts), (settings.batch_size // answers,), generator=shuffler).tolist()
        asked = [prompts[i] for i in order for _ in range(answers)]
        prompt, prompt_mask = encode_prompts(tokenizer, asked, device)
        start = prompt.shape[1]
        ids, mask, _ = rollout(model, prompt, prompt_mask, settings.max_new_tokens, eos, sampler)
        said, real = decode_responses(tokenizer, ids, mask, start), mask[:, start:].float()
        ended = which_ended(ids[:, start:], real, eos)
        scores = reward(asked, said).to(device)
        with torch.no_grad():
            there = answer_logprobs(reference, ids, mask, start)
        logprobs = answer_logprobs(model, ids, mask, start)
        kl = ((logprobs.detach() - there) * real).sum(-1)
        returns = scores - settings.no_end_penalty * (~ended) - settings.beta * kl
        advantages = leave_one_out(returns.view(-1, answers)).flatten()
        loss = -(advantages * (logprobs * real).sum(-1)).mean()
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * (1 - step / settings.updates)
        take_step(loss, model, optimizer, "The loss of RLOO")
        history.append(
            {
                "update": step + 1,
                "reward": scores.mean().item(),
                "kl": kl.mean().item(),
                "tokens": int(real.sum()),
                "no_end": (~ended).float().mean().item(),
            }
        )
        if on_update:
            on_update(history[-1])
    return history


# ---------------------------------------------------------------- DPO


def judged_pairs(model, tokenizer, reward, prompts, *, max_new_tokens=48, seed=0):
    """Two sampled answers for each prompt, the better one by the reward: preference rows, equal answers left out."""
    answers = generate(model, tokenizer, list(prompts) * 2, max_new_tokens=max_new_tokens, seed=seed)
    scores = reward(list(prompts) * 2, answers).view(2, len(prompts))
    rows = []
    for i, prompt in enumerate(prompts):
        pair = answers[i], answers[len(prompts) + i]
        if scores[0, i] != scores[1, i]:
            best = int(scores[1, i] > scores[0, i])
            rows.append({"prompt": prompt, "chosen": pair[best], "rejected": pair[1 - best]})
    return rows


def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.1):
    """-log sigmoid(beta (gap of the chosen - gap of the rejected)), mean over pairs, in nats (Rafailov et al. 2023).

    The arguments are log-probabilities of whole answers (pairs,); a gap is that of the policy less the reference's.
    """
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected))).mean()


def whole_logprobs(model, tokenizer, rows):
    """Log-probability of the whole answer of each row {"prompt", "response"}, its end included: (rows,)."""
    ids, mask, answer = lm.demonstration_batch(tokenizer, rows, next(model.parameters()).device)
    return (answer_logprobs(model, ids, mask, 1) * answer[:, 1:]).sum(-1)


def mean_logprobs(model, tokenizer, rows):
    """The same per token of the answer: (rows,)."""
    lengths = [len(ids) for ids in responses_ids(tokenizer, [r["response"] for r in rows])]
    whole = whole_logprobs(model, tokenizer, rows)
    return whole / torch.tensor(lengths, device=whole.device)


def shuffled(n, batch_size, epochs, seed):
    """Batches of indices below n, each index once an epoch; they depend on the seed only."""
    generator = torch.Generator().manual_seed(seed)
    return [b.tolist() for _ in range(epochs) for b in torch.randperm(n, generator=generator).split(batch_size)]


def offline(model, batches, lr, loss_of, what):
    """Train `model` in place on batches that nothing is sampled for: after each step, a dict with its "loss".

    loss_of(batch) -> (loss, a dict of more to yield).  The learning rate falls to 0 along a straight line.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    for step, batch in enumerate(batches):
        error, more = loss_of(batch)
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / len(batches))
        take_step(error, model, optimizer, f"The loss of {what}")
        yield {"step": step + 1, "loss": error.item(), **more}


def losses_of(steps, on_step):
    """The losses of all `steps` (see `offline`), each of which `on_step` gets."""
    losses = []
    for row in steps:
        losses.append(row["loss"])
        if on_step:
            on_step(row)
    return losses


@memory_guard("DPO", "batch_size")
def dpo(
    model,
    tokenizer,
    rows,
    *,
    epochs=1,
    batch_size=32,
    lr=1e-4,
    beta=0.1,
    seed=0,
    loss=None,
    logprobs=None,
    reference=None,
    on_step=None,
):
    """Direct preference optimisation of `model` in place on preference rows; returns the losses.

    No reward model and no rollout: the policy's own log-probabilities, against those of a frozen `reference` (a copy
    of it, unless another is given), are the reward.  `loss` takes what `dpo_loss` takes, and `logprobs` what
    `whole_logprobs` takes.  `on_step(row)` gets the loss of each step, and the mean over its pairs by how many nats
    the "chosen" and the "rejected" answers have become likelier than by the reference.
    """
    if not rows:
        raise WorkbookError("There is no pair for DPO to learn from.")
    if reference is None:
        reference = copy.deepcopy(model).eval().requires_grad_(False)
    read = logprobs or whole_logprobs

    def loss_of(batch):
        some = [
            {"prompt": rows[i]["prompt"], "response": rows[i][side]} for side in ("chosen", "rejected") for i in batch
        ]
        with torch.no_grad():
            ref_chosen, ref_rejected = read(reference, tokenizer, some).chunk(2)
        chosen, rejected = read(model, tokenizer, some).chunk(2)
        gaps = {"chosen": (chosen - ref_chosen).mean().item(), "rejected": (rejected - ref_rejected).mean().item()}
        return (loss or dpo_loss)(chosen, rejected, ref_chosen, ref_rejected, beta), gaps

    return losses_of(offline(model, shuffled(len(rows), batch_size, epochs, seed), lr, loss_of, "DPO"), on_step)


# ---------------------------------------------------------------- KTO: thumbs in place of pairs


def thumbs(rows):
    """Unpaired rows {"prompt", "completion", "label"} of preference rows: up for the chosen answer, down for the other.

    So Ethayarajh et al. (2024) train on pairs; see `feedback.to_unpaired` for thumbs that somebody gave.
    """
    sides = {"chosen": True, "rejected": False}
    return [{"prompt": r["prompt"], "completion": r[side], "label": up} for r in rows for side, up in sides.items()]


def kto_loss(gap, good, usual, beta=0.1):
    """1 - sigmoid of beta times how far each answer lies on its good side of `usual`, mean over answers
    (Ethayarajh et al. 2024).

    gap: log pi - log pi_ref of whole answers (rows,), in nats; good: (rows,) bool, True for a thumb up; usual: the gap
    that any answer has, a number (see `usual_gap`).
    """
    side = torch.where(good, gap - usual, usual - gap)
    return (1 - torch.sigmoid(beta * side)).mean()


@torch.no_grad()
def usual_gap(model, reference, tokenizer, rows):
    """The mean of log pi - log pi_ref where each prompt gets the answer to another: KTO's reference point, 0 or more.

    rows {"prompt", "response"}.  Each prompt gets the answer of the row before it.
    """
    others = [{"prompt": r["prompt"], "response": o["response"]} for r, o in zip(rows, rows[-1:] + rows[:-1])]
    now, then = (whole_logprobs(m, tokenizer, others) for m in (model, reference))
    return (now - then).mean().clamp(min=0)


@memory_guard("KTO", "batch_size")
def kto(model, tokenizer, rows, *, epochs=1, batch_size=64, lr=1e-4, beta=0.1, seed=0, reference=None, on_step=None):
    """Kahneman-Tversky optimisation of `model` in place on unpaired rows (see `thumbs`); returns the losses.

    Each answer is judged alone, against a frozen `reference` (a copy of the model, unless another is given).
    `on_step(row)` gets the loss of each step and the mean gap of its "good" and "bad" answers (nan where it has none).
    """
    if not rows:
        raise WorkbookError("There is no thumb, up or down, for KTO to learn from.")
    if reference is None:
        reference = copy.deepcopy(model).eval().requires_grad_(False)

    def loss_of(batch):
        some = [{"prompt": rows[i]["prompt"], "response": rows[i]["completion"]} for i in batch]
        usual = usual_gap(model, reference, tokenizer, some)
        with torch.no_grad():
            there = whole_logprobs(reference, tokenizer, some)
        gap = whole_logprobs(model, tokenizer, some) - there
        good = torch.tensor([rows[i]["label"] for i in batch], device=gap.device)
        means = {"good": gap[good].mean().item(), "bad": gap[~good].mean().item(), "usual": usual.item()}
        return kto_loss(gap, good, usual, beta), means

    return losses_of(offline(model, shuffled(len(rows), batch_size, epochs, seed), lr, loss_of, "KTO"), on_step)
