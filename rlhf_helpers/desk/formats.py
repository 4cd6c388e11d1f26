"""The formats that preferences come in: one recogniser for each, from a row of a file to what it says.

A recogniser gives (the name of its format, what the row says), or None where the row is not of its format: comparisons,
answers with scores, or a pair that nobody has judged yet.  Which answer is better is never guessed: where a row leaves
it open, `Unusable` says why.
"""

import ast
import json
import math
import random
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from ..engine.files import shown
from . import tables
from .tables import name_of

PROMPTS = (
    "prompt question instruction query input context history post text title conversation conversations messages user "
    "user_prompt request task info problem x"
).split()
BETTER_WORSE = (
    ("chosen", "rejected"),
    ("preferred", "dispreferred"),
    ("preferred", "rejected"),
    ("better", "worse"),
    ("accepted", "rejected"),
    ("winner", "loser"),
    ("winning", "losing"),
    ("win", "lose"),
    ("y_w", "y_l"),
    ("preferred", "non_preferred"),
    ("preferred", "unpreferred"),
    ("good", "bad"),
    ("positive", "negative"),
    ("best", "worst"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("chosen_answer", "rejected_answer"),
    ("preferred_response", "rejected_response"),
    ("preferred_response", "dispreferred_response"),
    ("preferred_output", "non_preferred_output"),
    ("better_response", "worse_response"),
    ("better_answer", "worse_answer"),
)
ANSWERS = (
    *"response answer output completion summary text candidate option reply generation human_ref conversation".split(),
    *("message", "model", "assistant", "result", "story", "continuation", ""),  # "": the suffix alone
)
SUFFIXES = (("a", "b"), ("0", "1"), ("1", "2"), ("left", "right"), ("one", "two"), ("first", "second"), ("x", "y"))
CHOICES = (
    "choice winner preference preferred better better_response_id overall_preference selected chosen label labels pick "
    "vote best human_preference preferred_response better_response comparison verdict judgement judgment decision "
    "result ranking annotation human_choice"
).split()
CHOICE = re.compile(  # how other names of a choice end, such as which_is_better and preferred_answer
    r"(?:^|_)(?:choice|choose|chosen|prefer|preferred|preference|better|best|winner|vote)"
    r"(?:_(?:answer|response|completion|output|option|summary|candidate|one|index|id))?$"
)
TIES = "tie ties tied equal same both draw both_good tie_bothbad tie_both_bad".split()
NEITHER = "neither both_bad bothbad none none_of_them".split()
UNSAID = ("", *"skip skipped ignore unsure null nan n_a na".split())
LISTS = "completions responses answers candidates outputs generations summaries replies".split()
SCORES = "score rating overall_score reward pm_score fine_grained_score quality votes upvotes helpfulness".split()
LABELS = "label desirable is_good good liked thumbs_up thumb feedback kto_tag is_chosen if_chosen".split()
TRUE = "true 1 yes good up thumbs_up 👍 +1 like desirable positive accept chosen".split()
FALSE = "false 0 no bad down thumbs_down 👎 -1 dislike undesirable negative reject rejected".split()
PEOPLE = (
    "annotator annotator_id _annotator_id worker worker_id labeler labeller user_id completed_by rater judge "
    "participant _session_id"
).split()
ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "customer", "question"), "User"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "ai", "answer"), "Assistant"),
    "system": "System",
}
TEXT_KEYS = "full_text text content value response answer completion output body post".split()
MOST = 64  # pairs made of the answers to one prompt, at most


class Unusable(Exception):
    """Why a row cannot be used: the reason, which is counted, and what is particular to this row."""

    def __init__(self, why, detail=""):
        super().__init__(why)
        self.why, self.detail = why, detail


@dataclass(frozen=True)
class Said:
    """One comparison: `better` was liked more than `worse`; with `tie`, as much; with `open`, nobody has said yet."""

    prompt: str
    better: str
    worse: str
    margin: float = 0.0
    tie: bool = False
    open: bool = False


@dataclass(frozen=True)
class Scored:
    """One answer in a row of its own, with what it was found to be worth: (1 good, 0 bad) or a score."""

    prompt: str
    answer: str
    worth: float


# ---------------------------------------------------------------- texts and conversations


def text(value):
    """A text out of what it may be wrapped in: a list of one, {"text": …}, parts of a message; else None."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        found = (text(value[k]) for k in TEXT_KEYS if value.get(k) is not None)
        return next((t for t in found if t is not None), None)
    if isinstance(value, list) and value and all(isinstance(v, dict) and "text" in v for v in value):
        parts = [text(v) for v in value]  # of one message, as {"type": "text", "text": …}
        return None if None in parts else "\n".join(p for p in parts if p)
    return text(value[0]) if isinstance(value, list) and len(value) == 1 else None


def literal(value):
    """The list or dict that a cell of a table spells out, in JSON or in Python, also without commas, as arrays are."""
    if not (isinstance(value, str) and value.lstrip()[:1] in ("[", "{") and len(value) < 1_000_000):
        return value
    readers = (json.loads, ast.literal_eval, lambda v: ast.literal_eval(re.sub(r"\}\s+\{", "}, {", v)))
    for read in readers if MESSAGES.match(value) else readers[:2]:
        try:
            with warnings.catch_warnings(action="ignore"):
                found = read(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return found if isinstance(found, list | dict) else value
    return value


MESSAGES = re.compile(r"""\s*\[\s*\{\s*['"](role|content|from|value)['"]\s*:""")
TURN = re.compile(r"(?:\A\s*|\n\n)(?:#+ ?)?(Human|User|Assistant|System) ?:[ \n]?")


def dialogue(said):
    """[(role, text)] of a text such as "\\n\\nHuman: a\\n\\nAssistant: b" (Bai et al. 2022), or None."""
    parts = TURN.split(said) if TURN.match(said.lstrip()) else ()
    if len(parts) < 5 or parts[0].strip():
        return None
    return [(ROLES[role.lower()], words.strip()) for role, words in zip(parts[1::2], parts[2::2])]


def turns(value):
    """[(role, text)] of a conversation: messages with role and content, or from and value, or a dialogue; else None."""
    if isinstance(value, str) and (spoken := dialogue(value)):
        return spoken
    value = literal(value)
    if isinstance(value, str) and MESSAGES.match(value):
        raise Unusable("messages that cannot be read")
    if isinstance(value, dict):
        value = next((value[k] for k in ("messages", "conversations", "conversation") if k in value), [value])
    if not (isinstance(value, list) and value and all(isinstance(m, dict) for m in value)):
        return None
    out = []
    for m in value:
        role = m.get("role", m.get("from"))
        words = text(m.get("content", m.get("value")))
        if not isinstance(role, str) or words is None:
            return None
        out.append((ROLES.get(role.lower(), role.capitalize()), words))
    return out


def as_prompt(asked):
    """The turns before an answer as one text; where it is the user's single one, its words only."""
    asked = asked[:-1] if asked and asked[-1] == ("Assistant", "") else asked
    if [role for role, _ in asked] == ["User"]:
        return asked[0][1]
    if [role for role, _ in asked] == ["System", "User"]:
        return f"{asked[0][1]}\n\n{asked[1][1]}".strip()
    return "\n\n".join(f"{role}: {words}" for role, words in asked)


def asked_before(prompt, common):
    """The prompt of two conversations that begin with the turns `common`, with a prompt of its own or without."""
    given = turns(prompt) or ([("User", words)] if (words := text(prompt)) else [])
    given = given[:-1] if given and given[-1] == ("Assistant", "") else given
    if common and (given[: len(common)] == common or common[: len(given)] == given or given[-1] in common):
        return as_prompt(common)
    return as_prompt(given + common)


def told_apart(prompt, one, other):
    """(prompt, one answer, other answer) as texts; `prompt` may be None where the answers hold it.

    Raises Unusable where they are no two answers to one prompt.
    """
    listed = [literal(x) for x in (prompt, one, other)]
    if all(isinstance(x, list) and len(x) == 1 and isinstance(x[0], str) for x in listed):  # one turn, as a list
        prompt, one, other = (x[0] for x in listed)
    a, b = turns(one), turns(other)
    if a is None and b is None:
        return plain_apart(text(prompt), turns(prompt), text(one), text(other))
    a, b = a or [("Assistant", text(one))], b or [("Assistant", text(other))]
    if a[-1][1] is None or b[-1][1] is None:
        raise Unusable("no text as an answer")
    n = 0
    while n < min(len(a), len(b)) - 1 and a[n] == b[n]:
        n += 1
    if len(a) != n + 1 or len(b) != n + 1:
        raise Unusable("conversations that part before the last answer")
    if "User" in (a[-1][0], b[-1][0]):
        raise Unusable("conversations that end with the user")
    return asked_before(prompt, a[:n]), a[-1][1], b[-1][1]


def plain_apart(prompt, spoken, one, other):
    """`told_apart` of plain texts.  Without a prompt it is what both begin with, up to the last space (as in TRL)."""
    if one is None or other is None:
        raise Unusable("no text as an answer")
    if spoken:
        return as_prompt(spoken), one, other
    if prompt:
        if one.startswith(prompt) and other.startswith(prompt) and len(prompt.split()) > 2:  # not the greeting "Hello"
            one, other = one[len(prompt) :].strip(), other[len(prompt) :].strip()
        return prompt, one, other
    if prompt is not None or one == other:
        return prompt or "", one, other
    same = next((i for i, (x, y) in enumerate(zip(one, other)) if x != y), min(len(one), len(other)))
    cut = max(one.rfind(space, 0, same) for space in " \n\t") + 1
    if not one[:cut].strip():
        raise Unusable("no prompt, and no beginning that both answers share")
    return one[:cut].strip(), one[cut:].strip(), other[cut:].strip()


# ---------------------------------------------------------------- numbers and choices


def number(value):
    """A finite number, also of text or of {"Rating": "4"}; else None."""
    if isinstance(value, dict):
        value = next((v for k, v in value.items() if name_of(k) in (*SCORES, "value")), None)
    if isinstance(value, bool):
        return None
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def worth(row, suffix=""):
    """How good an answer was found, from a score, or a rank, where less is better: a number, or None.

    suffix: of the answer's own fields, such as "_a"; those of both forms, score_a and a_score, are looked for.
    """
    for names, sign in ((SCORES, 1.0), (("rank", "ranking", "position"), -1.0)):
        for name in names:
            for key in (f"{name}_{suffix}", f"{name}{suffix}", f"{suffix}_{name}") if suffix else (name,):
                if key in row and (found := number(row[key])) is not None:
                    return sign * found
    parts = row.get("annotations")
    rated = [number(v) for v in parts.values()] if isinstance(parts, dict) else []
    return sum(rated) / len(rated) if rated and None not in rated else None


def truth(value):
    """True or False of a label such as 1, "good" or "👎"; else None."""
    if isinstance(value, bool):
        return value
    said = re.sub(r"\.0$", "", str(value).strip().lower())
    return True if said in TRUE else False if said in FALSE else None


def named_side(said, suffixes):
    """0 or 1 where words such as "answer_b_is_better" name one of two answers and not the other; else None.

    Only words of `NAMING` may stand before the name: others, such as "over" and "not", turn around what is said.
    """
    pairs = [suffixes, ("left", "right"), ("first", "second"), *([("a", "b")] if suffixes[0].isdigit() else [])]
    for pair in pairs:
        glued = "_?" if pair[0].isdigit() else "_"  # response1
        for i, name in enumerate(pair):
            found = re.fullmatch(rf"(?:([a-z_]*[a-z]){glued})?{name}{BETTER}", said)
            before = set(found[1].split("_")) if found and found[1] else set()
            if found and before <= NAMING and not before & {p[1 - i] for p in pairs}:
                return i
    return None


def side_of(value, suffixes, row, keys):
    """Which of two answers a choice names: 0 or 1, "tie" or "neither".  Raises Unusable where it can't be told.

    suffixes: those of the two fields, such as ("a", "b").  A plain number names an answer only where they are numbers.
    """
    value = value if isinstance(value, str) and COMPARED.fullmatch(value) else literal(value)
    if isinstance(value, str) and (signs := COMPARED.fullmatch(value)):
        return by_sign(signs, suffixes, row, keys)
    if isinstance(value, dict):  # {"selected": "left"}, {"choices": ["A"]}, {"value": "response_a"}
        value = next(iter(value.values()), None)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    said = "" if value is None else re.sub(r"\.0$", "", str(value).strip())
    said = re.sub(r"[\W_]+", "_", name_of(said)).strip("_")
    if said in UNSAID:
        raise Unusable("no choice")
    if said in TIES or said in NEITHER:
        return "tie" if said in TIES else "neither"
    if (side := named_side(said, suffixes)) is not None:
        return side
    words = text(value)
    same = [i for i, key in enumerate(keys) if words and text(row.get(key)) == words]
    if len(same) != 1:
        raise Unusable(NAMES_NEITHER, shown(value, 40))
    return same[0] % 2


def by_sign(signs, suffixes, row, keys):
    """`side_of` a choice such as "A>B", "[[B>>A]]" or "response_a = response_b"."""
    one, sign, other = signs.groups()
    sides = [side_of(x, suffixes, row, keys) for x in (one, other)]
    if sorted(map(str, sides)) != ["0", "1"]:
        raise Unusable(NAMES_NEITHER, shown(signs[0], 40))
    return "tie" if sign[0] in "=~≈" else sides[sign[0] in "<≺"]


COMPARED = re.compile(r"[\s\[(]*([\w ]+?)\s*(>+|<+|=+|[~≈≻≺])\s*([\w ]+?)[\s\])]*")
NAMES_NEITHER = "a choice that names neither answer"
NAMING = {
    *ANSWERS,
    *"the i prefer preferred choose chose chosen pick choice better best winner is strongly".split(),
} - {""}
NAMING |= {*"chatbot bot llm option version side left right first second human ref preference".split()}
BETTER = (
    r"(?:_(?:is_)?(?:(?:the|much|far|slightly|somewhat|clearly|significantly|strongly|definitely|overall)_)?"
    r"(?:better|best|wins|won|chosen|preferred)(?:_than_.*)?)?"
)


def choices_in(row, besides=()):
    """The names of the fields of a row that say which answer is better: those of `CHOICES`, then what is like them."""
    usual = [n for n in CHOICES if n in row and n not in besides]
    return usual + [n for n in row if CHOICE.search(n) and n not in usual and n not in besides]


def chosen_side(row, base, suffixes, keys):
    """0, 1, "tie", "neither", or None where the row holds no choice at all."""
    if base == "human_ref" and truth(row.get("labels")) is not None:  # SHP (Ethayarajh et al. 2022): 1 is A
        return 0 if truth(row["labels"]) else 1
    strength = number(row.get("overall_preference", row.get("preference_strength")))  # HelpSteer: below 0 the first one
    if strength is not None:
        return "tie" if strength == 0 else int(strength > 0)
    flags = [truth(row.get(f"winner_{name}")) for name in (*(f"model_{s}" for s in suffixes), "tie")]
    if None not in flags:
        if sum(flags) != 1:  # type: ignore[arg-type]
            raise Unusable("no choice")
        return (0, 1, "tie")[flags.index(True)]
    if said := choices_in(row, keys):
        given = next((row[name] for name in said if row[name] not in (None, "")), None)
        return side_of(given, suffixes, row, (*keys, *(f"model_{s}" for s in suffixes)))
    scores = [worth(row, s) for s in suffixes]
    if None not in scores:
        return "tie" if scores[0] == scores[1] else int(scores[1] > scores[0])  # type: ignore[operator]
    if any(name.startswith(("score_", "rating_", "rank_")) for name in row):
        raise Unusable("no score")
    return None


def pairs_of(answers):
    """All pairs of [(answer, worth)], at most `MOST`: then each answer is drawn once, against one of another worth."""
    if len(answers) * (len(answers) - 1) // 2 <= MOST:
        return list(combinations(answers, 2))
    rng, out = random.Random(len(answers)), []
    for one in answers:
        others = [x for x in answers if x[1] != one[1]]
        out += [(one, rng.choice(others))] if others else []
    return out


# ---------------------------------------------------------------- recognisers: a row -> what it says, or None


def prompt_in(row, besides=()):
    """The prompt's value in a row, or None; a system prompt, an instruction or a context goes before a plain one."""
    name = next((n for n in PROMPTS if row.get(n) is not None and n not in besides), None)
    found = row.get(name)
    if text(spelled := literal(found)) is not None and isinstance(spelled, dict):  # {"full_text": …} in a cell
        found = spelled
    before = {"question": "context", "instruction": "context"}.get(name or "", "")
    if name == "instruction" and text(row.get("input")):
        name, found, before = "input", row["input"], "instruction"
    parts = [row.get(n) for n in ("system", "system_prompt", before) if n and n not in besides]
    parts = [p.strip() for p in (*parts, found) if isinstance(p, str) and p.strip()]
    return "\n\n".join(parts) if isinstance(found, str) and turns(found) is None else found


def better_worse(row):
    """chosen and rejected, under these names or others: TRL's formats, HH-RLHF's dialogues, and what is like them."""
    names = next((n for n in BETTER_WORSE if n[0] in row and n[1] in row), None)
    if names is None or names_a_side(row[names[0]], row):
        return None
    prompt, (one, other) = prompt_in(row, names), (row[n] for n in names)
    scores = [worth({k.replace(n, "x"): v for k, v in row.items() if n in k and k != n}, "x") for n in names]
    others = other if isinstance(other, list) and len(other) > 1 and all(isinstance(x, str) for x in other) else [other]
    margin, out = number(row.get("margin")) or 0.0, []
    for x in others:
        asked, better, worse = told_apart(prompt, one, x)
        if None not in scores and scores[0] < scores[1]:  # type: ignore[operator]
            raise Unusable("scores that contradict the choice")
        tie = None not in scores and scores[0] == scores[1]
        out.append(Said(asked, better, worse, max(margin, 0.0), tie=tie))
    spoken = isinstance(row[names[0]], str) and dialogue(row[names[0]])
    if spoken or (isinstance(prompt, str) and dialogue(prompt)):
        return "HH-RLHF dialogues", out
    if turns(one):
        if None not in scores:
            return "UltraFeedback, messages with scores", out
        return f"{'TRL' if names[0] == 'chosen' else ' and '.join(names)}, conversational", out
    if names != ("chosen", "rejected"):
        return f"prompt, {names[0]} and {names[1]}", out
    if prompt is None:
        return "TRL, implicit prompt", out
    return "this workbook's export" if "margin" in row else "TRL, explicit prompt", out


def answer_fields(row):
    """(base, suffixes, keys) of two fields with answers, such as response_a and response_b; None if there are none."""
    return answers_among(frozenset(row))


@lru_cache(maxsize=1000)
def answers_among(names):
    """`answer_fields` of the names of a row's fields: the rows of a file mostly have the same."""
    for base in ANSWERS:
        for pair in SUFFIXES if base else [s for s in SUFFIXES if s[0].isalpha()]:
            for form in ("{b}_{s}", "{b}{s}", "{s}_{b}") if base else ("{s}",):
                keys = tuple(form.format(b=base, s=s) for s in pair)
                if names.issuperset(keys):
                    return base, pair, keys
    return None


def names_a_side(value, row):
    """Whether a value such as "response_a" only names one of two answers that stand in other fields."""
    found = answer_fields(row)
    try:
        return found is not None and side_of(value, found[1], row, found[2]) in (0, 1)
    except Unusable:
        return False


def two_answers(row):
    """Two answers in fields of their own, with a choice or scores (webgpt, PKU, SHP, arenas), or with neither yet."""
    found = answer_fields(row)
    if found is None:
        return None
    if row.get("is_repeat") is True:  # as this workbook's log calls a pair that was judged before
        raise Unusable("repeats")
    base, suffixes, keys = found
    asked, one, other = told_apart(prompt_in(row, keys), *(row[k] for k in keys))
    side = chosen_side(row, base, suffixes, keys)
    if side is None:
        return "pairs that nobody has judged", [Said(asked, one, other, open=True)]
    scored = not choices_in(row, keys) and worth(row, suffixes[0]) is not None
    kind = "two answers with scores" if scored else "two answers with a choice"
    if side == "neither":
        raise Unusable("both bad")
    better, worse = (other, one) if side == 1 else (one, other)
    return kind, [Said(asked, better, worse, tie=side == "tie")]


def listed(row):
    """Several answers in one list, with scores, ranks or the index of the best: UltraFeedback, Nectar, and the like."""
    name = next((n for n in LISTS if isinstance(literal(row.get(n)), list) and len(literal(row[n])) > 1), None)
    if name is None:
        return None
    items = literal(row[name])
    beside = ("scores", 1), ("ratings", 1), ("rewards", 1), ("overall_scores", 1), ("ranks", -1), ("rankings", -1)
    named = next(((literal(row[k]), sign) for k, sign in beside if isinstance(literal(row.get(k)), list)), None)
    if named and len(named[0]) == len(items):
        worths = [None if (w := number(v)) is None else named[1] * w for v in named[0]]
    elif isinstance(order := literal(row.get("ranking")), list):
        worths = by_order(order, len(items))
    else:
        worths = [worth({name_of(k): v for k, v in x.items()}) if isinstance(x, dict) else None for x in items]
        if set(worths) == {None} and any(n[0] in row and n[1] in row for n in BETTER_WORSE):
            return None
        best = next(iter(choices_in(row)), None)
        if best and (None in worths or best in ("choice", "best")):
            worths = by_best(literal(row[best]), items)
    out, prompt = [], prompt_in(row)
    if None in worths and (len(items) > 2 or any(w is not None for w in worths)):
        raise Unusable("no score")
    for (one, w1), (other, w2) in pairs_of(list(zip(items, worths))):
        one, other = (x.get("messages", x) if isinstance(x, dict) else x for x in (one, other))
        asked, better, worse = told_apart(prompt, *((other, one) if w1 is not None and w2 > w1 else (one, other)))
        out.append(Said(asked, better, worse, tie=w1 is not None and w1 == w2, open=w1 is None))
    return "a list of answers with scores (as UltraFeedback)", out


def by_best(best, items):
    """Worths of the answers in a list, of which one is named by its index, counted from 0, or by its text."""
    if best in (None, ""):
        raise Unusable("no choice")
    words, place = text(best), number(best)
    named = [i for i, x in enumerate(items) if i == place or (words and place is None and text(x) == words)]
    if len(named) != 1:
        raise Unusable("a choice that names no answer", f"{shown(best, 40)} of {len(items)}")
    return [float(i == named[0]) for i in range(len(items))]


def by_order(order, n):
    """Worths of n answers by a list of numbers: the rank of each, or their indices, the best first.

    Raises Unusable where these two say different things.
    """
    ranks = [number(x) for x in order]
    low = min((r for r in ranks if r is not None), default=None)
    if len(ranks) != n or low not in (0, 1) or not all(r is not None and r.is_integer() for r in ranks):
        raise Unusable("a choice that names no answer", shown(order, 40))
    places = {r - low: i + low for i, r in enumerate(ranks)}  # type: ignore[operator]
    if set(places) == set(range(n)) and [places[i] for i in range(n)] != ranks:
        raise Unusable("a ranking that can be read in two ways", shown(order, 40))
    return [-r for r in ranks]  # type: ignore[operator]


def one_answer(row):
    """One answer with a label, good or bad (TRL, unpaired), or with a score."""
    prompt, keys = prompt_in(row, ("text", "title")), ("completion", "response", "answer", "output", "generation")
    ending = [k for k in row if k.rsplit("_", 1)[-1] in keys]  # such as model_response
    name = next((k for k in (*keys, "text", "reply", *ending) if row.get(k) is not None), None)
    if prompt is None or name is None:
        return None
    label = next((k for k in LABELS if k in row), None)
    good, score = truth(row[label]) if label else None, worth(row)
    if label is None and score is None:
        return None
    if good is None and score is None:
        raise Unusable("a label that is neither true nor false")
    asked, answer, _ = told_apart(prompt, row[name], row[name])
    if good is not None:
        return "TRL, unpaired", [Scored(asked, answer, float(good))]
    return "one answer in a row, with a score", [Scored(asked, answer, score)]  # type: ignore[arg-type]


# ---------------------------------------------------------------- labelling tools: to plain rows, and so on as above


def each(rows):
    """What several plain rows say; raises Unusable with the first reason where none of them says anything."""
    out, why = [], "no answer of a person"
    for row in rows:
        try:
            found = two_answers(row) or listed(row) or better_worse(row) or one_answer(row)
            out += found[1] if found else []
        except Unusable as e:
            why = e.why
    if not out:
        raise Unusable(why)
    return out


def argilla(row):
    """Argilla: records with fields and responses, flat or not, of version 1 or 2."""
    fields, answers = row.get("fields"), row.get("responses")
    if isinstance(fields, dict) and "responses" in row:
        given = argilla_responses(answers)
    else:
        fields, given = row, argilla_columns(row)
        if given is None:
            return None
    fields = {name_of(k): v for k, v in fields.items()}
    if not given:
        raise Unusable("no answer of a person")
    return "Argilla", each(argilla_row(fields, values) | {"annotator": who} for who, values in given)


def argilla_responses(answers):
    """[(who, {question: value})] of the submitted responses of a record."""
    given = {}
    if isinstance(answers, list):  # version 1: a list of people
        for n, one in enumerate(answers):
            if isinstance(one, dict) and one.get("status", "submitted") == "submitted":
                values = one.get("values")
                values = values if isinstance(values, dict) else {}
                given[str(one.get("user_id", n))] = {
                    q: v.get("value") if isinstance(v, dict) else v for q, v in values.items()
                }
    for question, people in answers.items() if isinstance(answers, dict) else ():  # version 2: a dict of questions
        for n, one in enumerate(people if isinstance(people, list) else []):
            if isinstance(one, dict) and one.get("status", "submitted") == "submitted":
                given.setdefault(str(one.get("user_id", n)), {})[question] = one.get("value")
    return list(given.items())


def argilla_columns(row):
    """The same of a flat record: columns preference_responses and …_users (version 2), or a list of people (1)."""
    flat = {k.removesuffix("_responses"): literal(v) for k, v in row.items() if k.endswith("_responses")}
    given, found = {}, False
    for question, values in flat.items():
        found = found or f"{question}_responses_status" in row or f"{question}_responses_users" in row
        people, status = (literal(row.get(f"{question}_responses_{k}")) for k in ("users", "status"))
        for n, value in enumerate(values if isinstance(values, list) else []):
            submitted = not isinstance(status, list) or n >= len(status) or status[n] in ("submitted", None)
            who = str(people[n]) if isinstance(people, list) and n < len(people) else str(n)
            if submitted:
                given.setdefault(who, {})[question] = value
    for question, people in ((k, literal(v)) for k, v in row.items()):
        if isinstance(people, list) and people and all(isinstance(p, dict) for p in people):
            if all("user_id" in p and "value" in p for p in people):
                found = True
                for p in people:
                    if p.get("status", "submitted") == "submitted":
                        given.setdefault(str(p["user_id"]), {})[question] = p["value"]
    return list(given.items()) if found else None


def argilla_row(fields, values):
    """A plain row of the fields and of what one person answered; a ranking becomes a list of answers with ranks."""
    row = {k: v for k, v in fields.items() if not (isinstance(literal(v), list | dict) and k not in PROMPTS)}
    for question, value in values.items():
        ranked = value
        if isinstance(value, dict) and isinstance(value.get("value"), list):  # columns of names and ranks
            names, ranks = value["value"], value.get("rank") or range(len(value["value"]))
            ranked = [{"value": v, "rank": r} for v, r in zip(names, ranks)]
        elif isinstance(value, list) and len(value) > 1 and all(isinstance(v, str) for v in value):  # in order
            ranked = [{"value": v, "rank": n} for n, v in enumerate(value)]
        if isinstance(ranked, list) and ranked and all(isinstance(v, dict) and "rank" in v for v in ranked):
            answers = [{"text": fields.get(name_of(v.get("value"))), "rank": v["rank"]} for v in ranked]
            return {"prompt": prompt_in(fields), "answers": answers}
        if isinstance(value, str) and name_of(value) in fields and answer_fields(fields) is None:
            named = name_of(value)  # answers under names of their own, such as those of models
            known = ("id", "_server_id", "status", "external_id", "split")
            others = [v for k, v in row.items() if isinstance(v, str) and k not in (*PROMPTS, *known, named)]
            return {"prompt": prompt_in(fields), "chosen": fields[named], "rejected": others}
        if number(value) is not None:
            row[name_of(question)] = value
        elif isinstance(value, str) and (row.get("choice") is None or name_of(question) in CHOICES):
            row["choice"] = value
    return row


def label_studio(row):
    """Label Studio: tasks with annotations (JSON), or one row for each annotation (JSON_MIN, CSV)."""
    data, notes = row.get("data"), row.get("annotations", row.get("completions"))
    if isinstance(data, dict) and isinstance(notes, list):
        data = {name_of(k): v for k, v in data.items()}
        done = [n for n in notes if isinstance(n, dict) and not n.get("was_cancelled")]
        if notes and not done:
            raise Unusable("skipped")
        plain = [label_studio_row(data, n) for n in done] or [data]
        return "Label Studio", each(plain)
    if "annotation_id" in row or "lead_time" in row:
        own = ("annotation_id", "annotator", "lead_time", "created_at", "updated_at", "id", "project")
        task = {k: v for k, v in row.items() if k not in own}
        said = {k: v for k, v in task.items() if v in ("left", "right") or selected(literal(v))}
        choice = {"choice": next(iter(said.values()))} if said else {}
        return "Label Studio", each([{k: v for k, v in task.items() if k not in said} | choice])
    return None


def selected(value):
    """Whether a value says which of two was selected, as Label Studio writes it."""
    return isinstance(value, dict) and bool(set(value) & {"selected", "choices"})


def label_studio_row(data, annotation):
    """A plain row of a task and one annotation: what was selected, chosen, ranked or rated."""
    row, results = dict(data), annotation.get("result")
    for r in results if isinstance(results, list) else ():
        value = r.get("value") if isinstance(r, dict) else None
        if not isinstance(value, dict):
            continue
        if "selected" in value:
            row["choice"] = value["selected"]
        elif "choices" in value:
            row.setdefault("choice", value["choices"])
        elif "rating" in value and (end := re.search(r"(\d|[ab]|left|right)$", name_of(r.get("to_name")))):
            row[f"score_{end[1]}"] = value["rating"]
        elif isinstance(value.get("ranker"), dict | list):
            ranked = value["ranker"]
            order = next(iter(ranked.values()), []) if isinstance(ranked, dict) else ranked
            items = next((v for v in data.values() if tables.is_rows(v) and "id" in v[0]), [])
            by = {str(x.get("id")): x.get("body", x.get("text", x.get("title"))) for x in items}
            places = enumerate(order if isinstance(order, list) else [])
            return {"prompt": prompt_in(data), "answers": [{"text": by.get(str(i)), "rank": n} for n, i in places]}
    return row


def prodigy(row):
    """Prodigy: choice (options, of which some are accepted) and compare (accept and reject)."""
    own = {"_input_hash", "_task_hash", "_view_id", "_session_id"} & set(row)
    options, accept = literal(row.get("options")), literal(row.get("accept"))
    compared = accept is not None and row.get("reject") is not None
    if not compared and not (isinstance(options, list) and ("accept" in row or own)):
        return None
    if row.get("answer") == "ignore":
        raise Unusable("skipped")
    prompt = prompt_in(row)
    if compared:
        sides = (
            row[name] if isinstance(literal(row[name]), str) else literal(row[name]) for name in ("accept", "reject")
        )
        asked, one, other = told_apart(prompt, *sides)
        if row.get("answer", "accept") not in ("accept", "reject"):
            raise Unusable("no choice")
        return "Prodigy", [Said(asked, *((one, other) if row.get("answer", "accept") == "accept" else (other, one)))]
    if row.get("answer", "accept") != "accept":
        raise Unusable("rejected as a whole")
    options = [x for x in options or [] if isinstance(x, dict)]
    taken = [str(x) for x in accept] if isinstance(accept, list) else []
    good = [x for x in options if str(x.get("id")) in taken]
    bad = [x for x in options if str(x.get("id")) not in taken]
    if not good or not bad:
        raise Unusable("no choice")
    return "Prodigy", [Said(*told_apart(prompt, g, b)) for g in good for b in bad]


RECOGNISERS = (argilla, label_studio, prodigy, listed, better_worse, two_answers, one_answer)


def plain_names(row):
    """A row with its names in one form; of two that become the same, the first that holds something."""
    out = {}
    for key, value in row.items():
        if out.get(name_of(key)) is None:
            out[name_of(key)] = value
    return out
