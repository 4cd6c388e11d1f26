"""Pairs of sampled answers to compare, and their labels by an annotator who is a program."""

from itertools import chain

import torch

from ..engine.files import WorkbookError, shown
from .decoding import answer_batches
from .feedback import label_event


def make_pairs(model, tokenizer, prompts, n, seed, families=None):
    """`n` pairs of different sampled answers, as even over the families (prompt -> family) as the prompts are.

    Rows {"pair_id", "prompt", "response_a", "response_b"}; no (prompt, pair of answers) occurs twice.  Each
    new answer to a prompt is compared with the one before it, so `n` pairs cost little more than `n` answers.
    """
    groups, generator = {}, torch.Generator().manual_seed(seed)
    for i in torch.randperm(len(prompts), generator=generator).tolist():
        groups.setdefault((families or {}).get(prompts[i], ""), []).append(prompts[i])
    longest = max(len(g) for g in groups.values())
    order = [g[i % len(g)] for i in range(longest) for g in groups.values()]
    asked = (order * (n // len(order) + 1))[:n]
    rows, seen, last = [], set(), {}
    for turn in range(20):
        batches = answer_batches(model, tokenizer, asked, seed=seed + 1000 * turn)
        for prompt, new in zip(asked, chain.from_iterable(batches)):
            old = last.get(prompt, new)
            last[prompt], key = new, (prompt, *sorted((old, new)))
            if old != new and key not in seen:
                seen.add(key)
                rows.append({"pair_id": f"p{len(rows):05d}", "prompt": prompt, "response_a": old, "response_b": new})
            if len(rows) == n:
                return rows
    return rows


def check_known(annotator, prompts):
    """Raise WorkbookError where an annotator says that it cannot judge a prompt, before it has judged any."""
    judges = getattr(annotator, "judges", lambda prompt: True)
    unknown = [p for p in prompts if not judges(p)]
    if unknown:
        raise WorkbookError(
            f"{annotator.name} knows only the embedded world, and {len(unknown)} of {len(prompts)} prompts are not of "
            f'it, such as {shown(unknown[0])}. Label them yourself, or take ANNOTATOR = "brief".'
        )


def simulated_feedback(pairs, annotator, seed=0):
    """Label events for pairs, made by a simulated annotator; which answer is on the left is drawn per pair."""
    check_known(annotator, [pair["prompt"] for pair in pairs])
    sides = torch.rand(len(pairs), generator=torch.Generator().manual_seed(seed)) < 0.5
    events = []
    for pair, a_left in zip(pairs, sides.tolist()):
        left, right = ("a", "b") if a_left else ("b", "a")
        choice = annotator.choose(pair["prompt"], pair[f"response_{left}"], pair[f"response_{right}"])
        choice = {"left": left, "right": right, "tie": "tie"}[choice]
        event = label_event(pair, left, choice, annotator.name)  # ids and times must not change between builds
        events.append(event | {"event_id": f"{annotator.name}-{pair['pair_id']}", "ts": 0.0})
    return events
