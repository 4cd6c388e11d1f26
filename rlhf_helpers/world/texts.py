"""Everything that a model of this project ever reads, made from a seed: answers of mixed quality, demonstrations,
lessons in facts, remarks, and the pre-training text.

Answers vary in the ways people care about: right or wrong, warm or rude, brief or rambling.
"""

import random

from .facts import (
    ANIMALS,
    COUNTRIES,
    FAMILIES,
    FOODS,
    JOBS,
    TABLES,
    TOOLS,
    all_facts,
    also_true,
    question_splits,
    questions,
    size_pairs,
    statement,
    taught_facts,
    train_questions,
    with_article,
)

GREETINGS = ("Hello!", "Hi there!", "Good day!")
KIND_OPENERS = ("Good question!", "Happy to help.", "Of course.", "Thank you for asking.")
RUDE_OPENERS = ("What a silly question.", "Everybody knows that.", "Not this again.", "You really should know this.")
FILLER_OPENERS = (
    "Well, let me think about that for a moment.",
    "There are many things one could say here.",
    "People ask about this all the time.",
    "It depends on how you look at it.",
)
KIND_CLOSERS = ("I hope that helps.", "Have a lovely day!", "Ask me any time.")
RUDE_CLOSERS = ("Now leave me alone.", "Look it up next time.", "Do not ask me again.")
FILLER_CLOSERS = (
    "But then again, who can say.",
    "Anyway, that is how it is, more or less.",
    "As I said, there is a lot to say about it.",
)
DODGES = ("I am not sure.", "That is hard to say.", "Nobody can really know.", "Let us talk about something else.")

STOCK = {}  # sentence -> what it is
for _kind, _sentences in (
    ("greeting", GREETINGS),
    ("kind", KIND_OPENERS + KIND_CLOSERS),
    ("rude", RUDE_OPENERS + RUDE_CLOSERS),
    ("filler", FILLER_OPENERS + FILLER_CLOSERS),
    ("dodge", DODGES),
):
    STOCK.update(dict.fromkeys(_sentences, _kind))


def other_facts(q, rng, n=1):
    """`n` true statements about the entity of `q` that do not answer it, nor any question of dev or test."""
    table, splits = next((t for t in TABLES if q.family in t), TABLES[0]), question_splits()
    names = [f for f in sorted(table) if f != q.family and splits.get((f, q.entity, "")) == "train"]
    picked = rng.sample(names, min(n, len(names)))
    return [statement(f, q.entity, FAMILIES[f].values[q.entity]) for f in picked]


def fact_about_another(q, rng):
    """A true statement of the kind that `q` asks for, about another thing, and of no question of dev or test."""
    other = rng.choice([x for x in taught_facts()[q.family] if x.key != q.key])
    return claim(other, other.value)


def wrong_value(q, rng, among=None):
    """A value of the same family, or of the set `among`, that is not the answer to `q`."""
    if q.family == "size":
        return with_article(q.other)
    among = set(FAMILIES[q.family].values.values()) if among is None else among
    return rng.choice(sorted(among - {q.value} - also_true(q.family, q.entity)))


def claim(q, value, short=False):
    """The sentence that gives `value` as the answer to `q`, true or not."""
    if short:
        return f"In short: {value}."
    other = q.entity if q.family == "size" and value != q.value else q.other
    return statement(q.family, q.entity, value, other)


def core(q, rng, quality):
    """The sentence that answers (`quality` "right" or "wrong") or fails to answer ("beside")."""
    if quality == "beside":
        return fact_about_another(q, rng) if rng.random() < 0.6 else rng.choice(DODGES)
    value = q.value if quality == "right" else wrong_value(q, rng)
    return claim(q, value, short=rng.random() < 0.12)


REMARKS = (
    *("right", "wrong", "beside", "dodge", "in short", "kind", "greeting", "rude"),
    *("fact", "filler", "repeat", "repeat twice"),
)


def dress(middle, rng, facts=()):
    """A sentence in the words of the careless crowd, tone and length drawn apart: (text, set of the REMARKS on them).

    facts: what a talkative writer may add.
    """
    tone = rng.choices(("plain", "kind", "greeting", "rude"), (0.4, 0.2, 0.1, 0.3))[0]
    length = rng.choices(("brief", "fact", "filler", "repeat"), (0.46, 0.18, 0.22, 0.14))[0]
    before, after, parts = [], [], [middle]
    if tone == "kind":
        place = rng.random()
        before += [rng.choice(KIND_OPENERS)] if place < 0.75 else []
        after += [rng.choice(KIND_CLOSERS)] if place > 0.5 else []
    elif tone == "greeting":
        before.append(rng.choice(GREETINGS))
    elif tone == "rude":
        first = rng.random() < 0.65
        (before if first else after).append(rng.choice(RUDE_OPENERS if first else RUDE_CLOSERS))
    if length == "fact":
        parts += [s for s in facts if s != middle]
    elif length == "filler":
        if rng.random() < 0.6:
            before.append(rng.choice(FILLER_OPENERS))
        else:
            after.insert(0, rng.choice(FILLER_CLOSERS))
    elif length == "repeat":
        parts += [middle] * rng.randint(1, 2)
    said = {tone} | ({length} if length != "fact" or len(parts) > 1 else set())
    return " ".join(before + parts + after), said | ({"repeat twice"} if len(parts) > 2 else set())


def written(q, rng, right=0.57, wrong=0.23):
    """One answer to `q` as a careless crowd would write it, and which of `REMARKS` are true of it, as a dict.

    "beside": it says something true, but not what was asked for; "fact": it adds a further true thing.
    """
    quality = rng.choices(("right", "wrong", "beside"), (right, wrong, 1 - right - wrong))[0]
    middle = core(q, rng, quality)
    text, said = dress(middle, rng, other_facts(q, rng))
    said |= {"dodge" if middle in DODGES else quality, "in short" if middle.startswith("In short") else ""}
    return text, {name: name in said for name in REMARKS}


def answer(q, rng, right=0.57, wrong=0.23):
    """The text of `written`."""
    return written(q, rng, right, wrong)[0]


PROOFREADING = "Tell me something true."  # the prompt of sentences that answer no question


def take_turns(pool, n, rng):
    """`n` of `pool`: all of it in random order, then all again in another, and so on."""
    return [q for _ in range(n // len(pool) + 1) for q in rng.sample(pool, len(pool))][:n]


def demonstrations(n, seed=0):
    """`n` (prompt, answer) pairs on train prompts, written by the careless crowd of `answer`."""
    rng = random.Random(seed)
    pool = train_questions()
    return [{"prompt": q.prompt, "response": answer(q, rng)} for q in take_turns(pool, n, rng)]


def remarked(n, seed=0, proofread=0.0):
    """`n` answers of the careless crowd on train prompts, with the remarks of those who wrote them.

    Rows {"prompt", "response", "remarks"}; see `written`.  The share `proofread` of them, which come last, are
    sentences of `proofreading` in the words of the crowd, half of them altered, with "right" or "wrong" for a remark.
    """
    rng, rows, m = random.Random(seed), [], round(proofread * n)
    for q in take_turns(train_questions(), n - m, rng):
        response, remarks = written(q, rng)
        rows.append({"prompt": q.prompt, "response": response, "remarks": remarks})
    for q in take_turns(all_facts(), m, rng):
        true = rng.random() < 0.5
        response, said = dress(claim(q, q.value if true else wrong_value(q, rng)), rng)
        remarks = {name: name in said | {"right" if true else "wrong"} for name in REMARKS}
        rows.append({"prompt": PROOFREADING, "response": response, "remarks": remarks})
    return rows


def quiz(n, seed=0, dressed=True, split="train"):
    """`n` quiz rows {"prompt", "chosen", "rejected"} on prompts of a split: one answer is right, the other wrong or
    beside the point, and all else is the same.

    dressed: both are wrapped in the same words of the careless crowd, tone and length included, so that the
    quiz says nothing about taste; else the bare sentences.  On train prompts a wrong value is the right one to another
    train question: else a value that only dev and test ask for would never be right, and that could be learned.
    """
    rng, rows = random.Random(seed), []
    pool = train_questions() if split == "train" else [q for q in questions() if q.split == split]
    for q in take_turns(pool, n, rng):
        right, values = core(q, rng, "right"), {x.value for x in taught_facts()[q.family]}
        false = wrong_value(q, rng, values if split == "train" else None)
        short = right == claim(q, q.value, short=True)
        wrong = core(q, rng, "beside") if rng.random() < 0.25 else claim(q, false, short)
        frame = answer(q, rng, right=1, wrong=0) if dressed else right
        said = next(c for c in (claim(q, q.value), claim(q, q.value, short=True)) if c in frame)
        rows.append({"prompt": q.prompt, "chosen": frame.replace(said, right), "rejected": frame.replace(said, wrong)})
    return rows


def proofreading(n, seed=0, dressed=True):
    """`n` rows {"prompt", "chosen", "rejected"} in which no question is asked: a sentence as it stands in the
    pre-training text, and the same with what the text says there of another thing.

    dressed: as in `quiz`.  After ELECTRA (Clark et al. 2020), which learns from text in which words were replaced.
    """
    rng, rows = random.Random(seed), []
    for q in take_turns(all_facts(), n, rng):
        right, wrong = claim(q, q.value), claim(q, wrong_value(q, rng))
        frame = dress(right, rng)[0] if dressed else right
        rows.append({"prompt": PROOFREADING, "chosen": frame, "rejected": frame.replace(right, wrong)})
    return rows


def lessons(n, seed=0, dressed=True, proofread=0.5):
    """`n` rows from which a reward model learns facts: that share of `proofreading`, the others of the train `quiz`."""
    m = round(proofread * n)
    return quiz(n - m, seed, dressed) + proofreading(m, seed, dressed)


# ---------------------------------------------------------------- pre-training text


def _article_about(entity, rng):
    table = next(t for t in TABLES if any(entity in FAMILIES[f].values for f in t))
    facts = [statement(f, entity, FAMILIES[f].values[entity]) for f in sorted(table) if entity in FAMILIES[f].values]
    rng.shuffle(facts)
    start = with_article(entity)[0].upper() + with_article(entity)[1:] + " "
    if facts[0].startswith(start) and rng.random() < 0.5:  # later sentences say "it"
        facts = facts[:1] + ["It " + f[len(start) :] if f.startswith(start) else f for f in facts[1:]]
    return " ".join(facts)


def _about_sizes(rng):
    """Animals from small to big, each at least 1.2 times as heavy as the one before it, or pairs of them compared."""
    if rng.random() < 0.3:
        picked = []
        for animal in sorted(rng.sample(sorted(ANIMALS), 12), key=lambda a: ANIMALS[a][4]):
            if not picked or ANIMALS[animal][4] >= 1.2 * ANIMALS[picked[-1]][4]:
                picked.append(animal)
        some = sorted(rng.sample(range(len(picked)), min(6, len(picked))))
        return f"From small to big: {', '.join(with_article(picked[i]) for i in some)}."
    parts = []
    for big, small in rng.sample(size_pairs(), 3):
        both = rng.sample((with_article(big), with_article(small)), 2)
        parts += [f"Here are {both[0]} and {both[1]}."] if rng.random() < 0.7 else []
        parts.append(statement("size", big, with_article(big), small))
    return " ".join(parts)


def document(rng):
    """One short text, without a trailing newline: an article, a list, a comparison or a talk."""
    pool = train_questions()
    kind = rng.choices(("article", "same", "sizes", "questions", "talk"), (0.32, 0.16, 0.18, 0.06, 0.28))[0]
    if kind == "article":
        table = rng.choice((ANIMALS, FOODS, COUNTRIES, JOBS, TOOLS))
        return " ".join(_article_about(e, rng) for e in rng.sample(sorted(table), rng.randint(1, 2)))
    if kind == "same":  # many entities, one kind of fact
        f = FAMILIES[rng.choice([n for n in FAMILIES if n != "size"])]
        some = rng.sample(sorted(f.values), min(5, len(f.values)))
        return " ".join(statement(f.name, e, f.values[e]) for e in some)
    if kind == "sizes":
        return _about_sizes(rng)
    if kind == "questions":  # a quiz sheet: questions without answers
        return "Questions for today. " + " ".join(q.prompt for q in rng.sample(pool, rng.randint(3, 5)))
    lines = []
    for q in rng.sample(pool, rng.randint(2, 3)):
        lines += [q.prompt, answer(q, rng)]
    return "\n".join(lines)


def corpus(n_documents, seed=0):
    """`n_documents` short texts for pre-training: they state every fact, and ask no question of dev or test."""
    rng = random.Random(seed)
    return [document(rng) for _ in range(n_documents)]
