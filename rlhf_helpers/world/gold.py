"""The gold judge: since the world is known, it can say what is true of any answer.

It is for *measuring*: training sees it only through a noisy simulated annotator (`annotators.py`).
"""

import re
from functools import lru_cache

from .facts import ANIMALS, FAMILIES, also_true, question_by_prompt, statement, with_article
from .texts import STOCK


def sentences(text):
    """Split at . ! ? followed by white space or the end."""
    return [s for s in re.split(r"(?<=[.!?])\s+", text.strip()) if s]


@lru_cache(maxsize=None)
def _meanings():
    """Every sentence the world can state: sentence -> (family, entity, value)."""
    table = {}
    for name, f in FAMILIES.items():
        for entity in f.values:
            for value in set(f.values.values()):
                table[statement(name, entity, value)] = (name, entity, value)
    for a in ANIMALS:
        for b in ANIMALS:
            table[statement("size", a, with_article(a), b)] = ("size", a, b)
    return table


def _judge_sentence(q, s):
    """What one sentence is for question `q`: "right", "wrong", a stock kind, "aside" or "broken"."""
    if s in STOCK:
        return STOCK[s]
    good = {q.value} | also_true(q.family, q.entity)
    if s in _meanings():
        family, entity, value = _meanings()[s]
        if family != q.family or (family != "size" and entity != q.entity):
            true = family == "size" or value in {FAMILIES[family].values[entity]} | also_true(family, entity)
            return "aside" if true else "wrong"
        if family == "size":
            if {entity, value} != {q.entity, q.other}:
                return "aside"
            return "right" if entity == q.entity else "wrong"
        return "right" if value in good else "wrong"
    bare = re.sub(r"[.!?]+$", "", s.removeprefix("In short: ")).lower()
    values = (
        {with_article(q.entity), with_article(q.other)}
        if q.family == "size"
        else set(FAMILIES[q.family].values.values())
    )
    if bare in {v.lower() for v in values}:
        return "bare" if bare in {v.lower() for v in good} else "wrong"
    # free wording: a right value and no wrong one
    named = {v for v in values if re.search(rf"\b{re.escape(v.lower())}\b", bare)}
    named = {v for v in named if not any(v != w and v in w for w in named)}
    if named and named <= good:
        return "free"
    return "wrong" if named else "broken"


def gold_axes(prompt, text):
    """What is true of an answer, as a dict.

    right: 1 the question is answered correctly, -1 something false is said, 0 neither.
    full: 1 if the right answer is a complete sentence; polite, greeting, rude: 0 or 1;
    filler, repeats, broken: numbers of sentences; words: number of words.
    Raises KeyError for a prompt that is not of this world.
    """
    if prompt not in question_by_prompt():
        raise KeyError(f"The gold judge knows only prompts of the embedded world, not {prompt!r}.")
    q, parts = question_by_prompt()[prompt], sentences(text)
    kinds = [_judge_sentence(q, s) for s in parts]
    answered = any(k in ("right", "bare", "free") for k in kinds)
    return {
        "right": -1 if "wrong" in kinds else int(answered),
        "full": int("right" in kinds or "free" in kinds),
        "polite": int("kind" in kinds or "greeting" in kinds),
        "greeting": int("greeting" in kinds),
        "rude": int("rude" in kinds),
        "filler": kinds.count("filler") + kinds.count("dodge"),
        "aside": kinds.count("aside"),
        "repeats": len(parts) - len(set(parts)),
        "broken": kinds.count("broken"),
        "words": len(text.split()),
    }


def gold_score(prompt, text):
    """The gold judge's one number: what a reasonable person who wants help would say, about -4 to 3."""
    a = gold_axes(prompt, text)
    return (
        2.0 * a["right"]
        + 0.4 * a["full"]
        + 0.6 * a["polite"]
        - 1.5 * a["rude"]
        - 0.7 * a["filler"]
        - 0.8 * min(a["repeats"], 3)
        - 1.0 * min(a["broken"], 3)
        - 0.04 * max(0, a["words"] - 12)
    )


def facts_told(text):
    """The keys of the facts about which the sentences of a text say something, true or not."""
    told = {_meanings()[x] for x in sentences(text) if x in _meanings()}
    size = {(f, *sorted((e, v), key=lambda a: -ANIMALS[a][4])) for f, e, v in told if f == "size"}
    return size | {(f, e, "") for f, e, _ in told if f != "size"}
