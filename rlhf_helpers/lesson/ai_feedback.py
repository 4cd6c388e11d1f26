"""A language model as the judge of two answers: by how likely it finds each of them, or by asking it (AI feedback).

Labels of either kind are used as those of people are (Bai et al. 2022, "Constitutional AI"; Lee et al. 2024, "RLAIF").
"""

from functools import partial

import torch

from ..engine import models
from ..engine.arithmetic import autocast
from ..engine.files import WorkbookError
from . import feedback
from .alternatives import mean_logprobs, whole_logprobs


def question(prompt, first, second, constitution=""):
    """The text that asks which of two answers is better; a constitution goes before it."""
    lines = [constitution, f"Question: {prompt}", f"Answer A: {first}", f"Answer B: {second}"]
    return "\n".join(filter(None, [*lines, "Which answer is better, A or B?"]))


# ---------------------------------------------------------------- how likely is it?


@torch.no_grad()
def likelihood(model, tokenizer, prompts, answers, read=whole_logprobs, rows=64):
    """Log-probability of each answer to its prompt, nats: (answers,) on the CPU; read: of the whole, or per token."""
    pairs = [{"prompt": p, "response": a} for p, a in zip(prompts, answers, strict=True)]
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i]["response"]))  # like lengths together: less padding
    out = torch.zeros(len(pairs))
    for i in range(0, len(order), rows):
        some = order[i : i + rows]
        out[some] = read(model, tokenizer, [pairs[j] for j in some]).float().cpu()
    return out


def corrected(model, tokenizer, prompts, answers, others):
    """How much likelier, in nats, the prompt makes its answer than the `others` (a few prompts) do: (answers,).

    The chance of the answer to another prompt is the mean over the others, so words that fit everywhere cancel:
    pointwise mutual information (Holtzman et al. 2021).
    """
    here = likelihood(model, tokenizer, prompts, answers)
    elsewhere = [likelihood(model, tokenizer, [o] * len(answers), answers) for o in others]
    return here - (torch.stack(elsewhere).logsumexp(0) - torch.tensor(float(len(others))).log())


# ---------------------------------------------------------------- ask it


@torch.no_grad()
def first_over_second(model, tokenizer, prompts, firsts, seconds, constitution="", rows=32):
    """Log-odds, (pairs,), with which the model says that answer A, shown first, is better than B: logit A - logit B.

    Raises WorkbookError where its tokenizer begins both letters alike, or a question is too long (see `that_fit`).
    """
    device, found = next(model.parameters()).device, []
    a, b = (ids[0] for ids in models.responses_ids(tokenizer, ["A", "B"]))
    if a == b:
        raise WorkbookError("The tokenizer of this MODEL begins A and B with the same token, so it can't be asked so.")
    asked = [question(*given, constitution) for given in zip(prompts, firsts, seconds, strict=True)]
    for i in range(0, len(asked), rows):
        ids, mask = models.encode_prompts(tokenizer, asked[i : i + rows], device)
        models.check_room(model, ids.shape[1], 1)
        with autocast(model):
            out = model(ids, attention_mask=mask, position_ids=models.position_ids(mask), logits_to_keep=1)
        logits = out.logits[:, -1].float()
        found.append((logits[:, a] - logits[:, b]).cpu())
    return torch.cat(found)


def both_orders(model, tokenizer, pairs, constitution=""):
    """(log-odds for response_a, (pairs,), the mean of both orders; the log-odds for the first answer, (orders, pairs)).

    In the first order response_a is shown first, in the second response_b.
    """
    prompts, a, b = ([pair[k] for pair in pairs] for k in ("prompt", "response_a", "response_b"))
    there = first_over_second(model, tokenizer, prompts, a, b, constitution)
    back = first_over_second(model, tokenizer, prompts, b, a, constitution)
    return (there - back) / 2, torch.stack([there, back])


def that_fit(model, tokenizer, pairs, constitution=""):
    """The pairs about which the model can be asked: with both answers they fit into what it reads at once.

    Raises WorkbookError where none does.
    """
    limit = models.context_length(model)
    texts = [question(p["prompt"], p["response_a"], p["response_b"], constitution) for p in pairs]
    fit = [p for p, ids in zip(pairs, models.prompts_ids(tokenizer, texts)) if len(ids) < limit]
    if not fit:
        raise WorkbookError(
            f"No question with its two answers fits into the {limit} tokens that this model reads at once, so it can't "
            "be asked which is better. Choose a MODEL that reads more."
        )
    return fit


# ---------------------------------------------------------------- verdicts


def judges(model, tokenizer, others):
    """The judges by likelihood: {name: score(prompts, answers) -> (answers,)}; others: see `corrected`."""
    return {
        "log-probability": partial(likelihood, model, tokenizer),
        "per token": partial(likelihood, model, tokenizer, read=mean_logprobs),
        "corrected": partial(corrected, model, tokenizer, others=others),
    }


def gap(score, pairs, constitution=""):
    """How much a score prefers response_a to response_b, (pairs,); a constitution goes before each prompt."""
    prompts = ["\n".join(filter(None, [constitution, p["prompt"]])) for p in pairs]
    a, b = (score(prompts, [p[side] for p in pairs]) for side in ("response_a", "response_b"))
    return a - b


def chosen(gaps):
    """ "a", "b" or "tie" for each gap."""
    return ["a" if g > 0 else "b" if g < 0 else "tie" for g in gaps.tolist()]


def agreement_with(gaps, choices):
    """How far a judge's gaps (pairs,) and somebody's choices agree: {"pairs", "share", "low", "high", "kappa"}.

    Pairs of which the choices say neither "a" nor "b" are left out; a gap of 0 is half a hit.  low, high: Wilson.
    """
    both = [(mine, theirs) for mine, theirs in zip(chosen(gaps), choices, strict=True) if theirs in ("a", "b")]
    hits = sum(0.5 if mine == "tie" else mine == theirs for mine, theirs in both)
    low, high = feedback.wilson(hits, len(both))
    kappa = feedback.cohen_kappa(*map(list, zip(*both))) if both else float("nan")
    return {"pairs": len(both), "share": hits / max(len(both), 1), "low": low, "high": high, "kappa": kappa}


def words_more(pairs):
    """How many words more response_a has than response_b: (pairs,)."""
    return torch.tensor([float(len(p["response_a"].split()) - len(p["response_b"].split())) for p in pairs])


def preferences(pairs, gaps):
    """Preference rows {"prompt", "chosen", "rejected"} of pairs and a judge's gaps (pairs,); where one is 0, none."""
    rows = []
    for pair, choice in zip(pairs, chosen(gaps), strict=True):
        if choice != "tie":
            other = "b" if choice == "a" else "a"
            row = {"chosen": pair[f"response_{choice}"], "rejected": pair[f"response_{other}"]}
            rows.append({"prompt": pair["prompt"], **row})
    return rows
