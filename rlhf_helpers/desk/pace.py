"""Counts follow speed: a chapter does with a large model what it can do in ten minutes, and says what it leaves out.

The embedded model, and what the chapters make of it, always do all of it; nothing is measured for them.
"""

import time
from dataclasses import replace

import torch

from ..engine.models import encode_prompts
from ..lesson import decoding, lm
from ..lesson.decoding import rollout
from .plans import PLANS

MINUTES, FAST_MINUTES = 8, 1  # for what is counted here, of the ten, or two, that a chapter may take
ASKED, SAID = "Why is the sky blue, and why is it red in the evening?", "Because air scatters short waves more. "


def limits(ws, chapter, model, tokenizer):
    """A function (part of the chapter, n) -> how many of n are done here; it says so where they are fewer.

    With a MODEL of the reader's own the pace of this machine is measured, and all parts of PLANS[chapter] are scaled by
    one share, though not below the least, so that they take so many minutes; where the least would take longer, and in
    a FAST run, it is halved.
    """
    plan, share = PLANS[chapter], 1.0
    if ws.own_model:
        pace, budget = speed(model, tokenizer), 60 * (FAST_MINUTES if ws.fast else MINUTES)
        if ws.fast or seconds(plan, pace, 0.0) > budget:
            plan = shortest(plan)
        share = share_for(plan, pace, budget)
        print(report(plan, pace, share))

    def at_most(part, n):
        full, least, *_ = plan[part]
        fewer = min(n, max(least, int(share * max(n, full))))
        if fewer < n:
            print(f"Fewer {part}, since the model is slow here: {fewer} instead of {n}.")
        return fewer

    return at_most


def spread(items, n):
    """`n` of the items, from all over the list: prompts of one kind stand together in it."""
    return list(items) if n >= len(items) else [items[i * len(items) // n] for i in range(n)]


def of_answers(settings, n, group=1):
    """The settings of a run of PPO with `n` answers, or a few less, where it would sample more: of updates and answers
    in an update alike there are fewer, though two updates.

    group: a batch holds this many answers, or a multiple.
    """
    share = n / (settings.updates * settings.batch_size)
    if share >= 1:
        return settings
    size = min(round(settings.batch_size * share**0.5), n // 2)
    size = max(size // group, 1) * group
    return replace(settings, batch_size=size, updates=max(n // size, 1))


def shortest(plan):
    """A plan with half its least counts, though not below two, which are enough to see that all of it works."""
    return {part: (full, min(least, max(2, least // 2)), *cost) for part, (full, least, *cost) in plan.items()}


def synchronized(device):
    """The clock, in seconds, once a device has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def speed(model, tokenizer, rows=16, few=4):
    """(seconds to sample an answer, seconds to learn from one), by a few tokens of each."""
    device, dice = model.device, torch.Generator(model.device).manual_seed(0)
    prompt, took = encode_prompts(tokenizer, [ASKED] * rows, device), []
    for tokens in (1, 1, 1 + few):  # the first is to warm up
        began = synchronized(device)
        rollout(model, *prompt, tokens, {-1}, dice)
        took.append(synchronized(device) - began)
    answer = (took[1] + max(took[2] - took[1], 0.0) / few * (decoding.LONGEST - 1)) / rows
    said = SAID * (decoding.LONGEST // 9)  # about as many tokens
    batch = lm.demonstration_batch(tokenizer, [{"prompt": ASKED, "response": said}] * 4, device)
    began = synchronized(device)
    lm.plain_loss(model, *batch).backward()
    learned = (synchronized(device) - began) / 4
    model.zero_grad()
    return answer, learned


def seconds(plan, pace, share):
    """What a share of a plan takes, its least counts kept."""
    counted = {part: max(least, int(share * full)) for part, (full, least, *_) in plan.items()}
    return sum(n * (plan[part][2] * pace[0] + plan[part][3] * pace[1]) for part, n in counted.items())


def share_for(plan, pace, budget):
    """The largest share of a plan, in [0, 1], that takes at most `budget` seconds, or 0 if nothing does."""
    low, high = 0.0, 1.0
    if seconds(plan, pace, high) <= budget:
        return high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if seconds(plan, pace, middle) <= budget else (low, middle)
    return low


def lasting(took):
    """A time in words: "40 seconds", "5 minutes", "3.2 hours"."""
    if took < 90:
        return f"{took:.0f} seconds"
    return f"{took / 60:.0f} minutes" if took < 5400 else f"{took / 3600:.1f} hours"


def report(plan, pace, share):
    """What the pace is, and how long the chapter takes by it, in a few sentences."""
    said = f"This model samples an answer in about {pace[0]:.2g} s here, and learns from one in {pace[1]:.2g} s. "
    whole, now = seconds(plan, pace, 1.0), seconds(plan, pace, share)
    if share == 1.0:
        return said + f"This chapter takes at most about {lasting(whole)}."
    return said + (
        f"All of this chapter would take about {lasting(whole)}, so it does less, in about {lasting(now)}, and says "
        "where. On a faster machine, or with a smaller MODEL, it does more."
    )
