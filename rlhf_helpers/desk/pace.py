"""Counts follow speed: a chapter does with a large model what it can do in ten minutes, and says what it leaves out.

The embedded model, and what the chapters make of it, always do all of it; nothing is measured for them.
"""

import time

import torch

from ..engine.models import encode_prompts
from ..lesson import decoding, lm
from ..lesson.decoding import rollout

MINUTES, FAST_MINUTES = 8, 1  # for what is counted here, of the ten, or two, that a chapter may take
ASKED, SAID = "Why is the sky blue, and why is it red in the evening?", "Because air scatters short waves more. "
# chapter -> its part -> (how many in full with a model of one's own, at least, and for each of them: answers that are
# sampled, answers that are learned from, of which three that are only read count as one); in a FAST run half the least
PLANS = {
    "00_rlhf_in_one_sitting": {
        "questions asked four times": (64, 8, 4, 0),
        "questions answered four times": (64, 12, 4, 2),
        "updates": (24, 3, 16, 28),
        "the rest": (1, 1, 200, 60),
    },
    "02_decoding": {
        "samples of one prompt": (512, 48, 1, 0),
        "prompts asked twice": (40, 10, 4, 0),
        "tries": (24, 4, 0, 7),
        "pairs": (512, 48, 2, 0),
        "the rest": (1, 1, 30, 100),
    },
    "04_reward_model": {
        "answers to each question": (4, 2, 64, 21),
        "parts held out in turn": (5, 2, 0, 50),
        "questions": (120, 6, 0, 13),
        "usual answers": (200, 32, 1, 1),
        "pairs to measure on": (600, 24, 2, 5),
        "rows to learn from": (440, 32, 0, 5),
        "numbers of labels": (5, 2, 0, 60),
        "steps with few labels": (24, 4, 0, 64),
        "the rest": (1, 1, 0, 130),
    },
    "05_ppo": {
        "answers in a batch": (16, 16, 0, 0),
        "plain updates": (10, 2, 16, 27),
        "updates with and without a penalty": (30, 2, 32, 64),
        "steps on one batch": (16, 2, 1, 32),
        "answers to each question": (4, 2, 64, 21),
        "updates by few labels": (50, 2, 16, 43),
        "updates": (40, 3, 32, 96),
        "epochs of the weak judge": (4, 1, 0, 120),
        "updates by each of two judges": (24, 1, 32, 96),
        "answers in each of these": (48, 8, 0, 0),
        "the rest": (1, 1, 250, 60),
    },
    "06_inference_and_continuous_feedback": {
        "labels of a round": (128, 24, 16, 6),
        "answers to each question": (4, 2, 0, 0),
        "updates of a round": (12, 2, 64, 192),
        "answers in an update": (64, 16, 0, 0),
        "rounds": (3, 2, 0, 0),
        "questions for the gate": (40, 16, 16, 5),
        "the rest": (1, 1, 600, 150),
    },
}


def limits(ws, chapter, model, tokenizer):
    """A function (part of the chapter, n) -> how many of n are done here; it says so where they are fewer.

    With a MODEL of the reader's own the pace of this machine is measured, and all parts of PLANS[chapter] are scaled by
    one share, though not below the least, so that they take so many minutes.
    """
    plan, share = shortest(PLANS[chapter]) if ws.fast else PLANS[chapter], 1.0
    if ws.own_model:
        pace = speed(model, tokenizer)
        share = share_for(plan, pace, 60 * (FAST_MINUTES if ws.fast else MINUTES))
        print(report(plan, pace, share))

    def at_most(part, n):
        full, least, *_ = plan[part]
        fewer = min(n, max(least, int(share * max(n, full))))
        if fewer < n:
            print(f"Fewer {part}, since the model is slow here: {fewer} instead of {n}.")
        return fewer

    return at_most


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
