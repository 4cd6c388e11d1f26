"""The exercises: their form, and what the checkers say to the stub, the solution, usual mistakes and broken answers."""

import ast
import contextlib
import importlib
import io
import itertools
import math
import pkgutil
import re
import sys
from functools import cache
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from taught import PATHS

from rlhf_helpers.desk import exercises as folder
from rlhf_helpers.lesson.loop import gate
from rlhf_helpers.make.assignment import HEADING, SOLUTION, definitions, exercises_of, parse, support

MODULES = [importlib.import_module(f"{folder.__name__}.{name}") for _, name, _ in pkgutil.iter_modules(folder.__path__)]
CHECKERS = {name: f for m in MODULES for name, f in vars(m).items() if re.match("check_(?!cases)", name)}


@cache
def cells(path):
    return nbformat.read(path, 4).cells


EXERCISES = [SimpleNamespace(path=path, **vars(e)) for path in PATHS for e in exercises_of(cells(path))]
every_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: f"{e.path.stem[:2]}.{e.number}")


def checker_of(exercise):
    return re.search(r"print\(exercises\.(check_\w+)\(", exercise.code[1].source)[1]


# ---------------------------------------------------------------- form


def test_every_chapter_has_two_to_four_exercises():
    assert {e.path for e in EXERCISES} == set(PATHS)
    for path in {e.path for e in EXERCISES}:
        numbers = [e.number for e in EXERCISES if e.path == path]
        assert numbers == list(range(1, len(numbers) + 1)) and 2 <= len(numbers) <= 4, (path.name, numbers)


@every_exercise
def test_form(exercise):
    assert HEADING.match(exercise.text), "name, difficulty and minutes"
    assert 2 <= int(HEADING.match(exercise.text)[3]) <= 30
    assert exercise.text.count("<details>") == len(SOLUTION.findall(exercise.text)) == 1
    assert "exercise" in exercise.code[0].metadata.get("tags", []), "the stub has the tag `exercise`"
    assert checker_of(exercise)


def test_each_checker_of_the_package_belongs_to_one_exercise():
    used = [checker_of(e) for e in EXERCISES if f"exercises.{checker_of(e)}" in e.code[1].source]
    assert sorted(set(CHECKERS) & set(used)) == sorted(CHECKERS)
    assert len(used) == len(set(used))


# ---------------------------------------------------------------- stub and solution


def unconditional(statements):
    """All but what follows a right answer, which may train a model."""
    return [s for s in statements if not isinstance(s, ast.If)]


def run(path, statements):
    """What the statements print, given the imports and functions of the notebook that they need."""
    scope = {}
    code = ast.unparse(ast.Module(unconditional(statements), []))
    exec(compile("\n".join(support(code, definitions(cells(path)))), path.name, "exec"), scope)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(statements, []), path.name, "exec"), scope)
    return printed.getvalue().strip()


@every_exercise
def test_the_stub_is_not_done_and_breaks_nothing(exercise):
    stub, check = (parse(c.source) for c in exercise.code[:2])
    assert run(exercise.path, stub + check).startswith(f"Exercise {exercise.number}: not done yet.")


@every_exercise
def test_the_solution_passes_its_checker(exercise):
    stub, check = (parse(c.source) for c in exercise.code[:2])
    solution = parse(SOLUTION.search(exercise.text)[1])
    assert run(exercise.path, stub + solution + unconditional(check)).startswith(f"Exercise {exercise.number}: right")


# ---------------------------------------------------------------- mistakes


def plain_advantages(rewards):
    mean = sum(rewards) / len(rewards)
    return [(r - mean) / (sum((x - mean) ** 2 for x in rewards) / len(rewards)) ** 0.5 for r in rewards]


def padded_perplexity(losses, mask):
    return math.exp((losses * mask).sum() / losses.numel())


def click_on_the_left_is_a(pair, left, clicked):
    order = ("a", "b") if clicked == "left" else ("b", "a")
    return tuple(pair[f"response_{x}"] for x in order)


def click_swapped(pair, left, clicked):
    wins = left if clicked == "right" else "ab".replace(left, "")
    return pair["response_" + wins], pair["response_" + "ab".replace(wins, "")]


def kl_over_padding(p, q, m):
    return (p - q).sum(1).mean()


def grpo(scores):
    return (scores - scores.mean(1, keepdim=True)) / scores.std(1, keepdim=True)


def rewards(of_one):
    return lambda prompts, responses: torch.tensor([float(of_one(r)) for r in responses])


def thirds(y):
    n = max(1, len(y) // 3)
    return np.mean(y[:n]), np.mean(y[-n:])


def alike(wins, kept):
    some = [w for w, keep in zip(wins, kept) if keep]
    return sum(some) / len(some) if some else 0.5


SIGNS = ("silly", "Everybody", "Not this", "really", "Now", "Look", "Do not")


def relative_length(report):
    return gate(report)[0] and report["words"] / report["words_before"] >= 0.5, "length"


# checker: [(a part of the sentence, a wrong answer that a reader might give)]
def best_of_all(scores, values, n, sign=1):
    """The mean over all sets of n of the value of the best, or the worst, by score."""
    sets = list(itertools.combinations(range(len(scores)), n))
    return sum(values[max(some, key=lambda i: sign * scores[i])] for some in sets) / len(sets)


def drawn_again(scores, values, n):
    """The same where an answer may be drawn twice."""
    sets = list(itertools.product(range(len(scores)), repeat=n))
    return sum(values[max(some, key=lambda i: scores[i])] for some in sets) / len(sets)


WRONG = {
    "check_advantages": [
        ("every reward counts as praise", lambda rewards: list(rewards)),
        ("every reward counts as praise", lambda rewards: list(np.array(rewards) / (np.std(rewards) or 1))),
        ("turned round", lambda rewards: list((np.mean(rewards) - rewards) / (np.std(rewards) or 1))),
        ("in points", lambda rewards: [r - np.mean(rewards) for r in rewards]),
        ("square root", lambda rewards: list((rewards - np.mean(rewards)) / (np.var(rewards) or 1))),
        ("n - 1", lambda rewards: list((rewards - np.mean(rewards)) / (np.std(rewards, ddof=1) or 1))),
        ("return zeros", plain_advantages),
    ],
    "check_wins": [
        ("9 is too few: its interval reaches from 47% to 91%", 9),
        ("fewer would do", 11),
    ],
    "check_perplexity": [
        ("average over padding", lambda losses, mask: torch.exp(losses.mean())),
        ("mask.sum()", padded_perplexity),
        ("each row weighs the same", lambda x, m: torch.exp(((x * m).sum(-1) / m.sum(-1)).mean())),
        ("after the exponential", lambda x, m: x[m.bool()].exp().mean()),
        ("typical probability", lambda x, m: math.exp(-x[m.bool()].mean())),
        ("not in bits", lambda x, m: 2 ** x[m.bool()].mean()),
    ],
    "check_row_mask": [
        ("never learns to stop", lambda a, s, p: [0] * a + [1] * s + [0] + [0] * p),
        ("learn to ask", lambda a, s, p: [1] * a + [1] * s + [1] + [0] * p),
        ("write padding", lambda a, s, p: [0] * a + [1] * (s + p + 1)),
        ("no place for the end", lambda a, s, p: torch.tensor([0] * a + [1] * s + [0] * p)),
    ],
    "check_least_loss": [
        ("which answer comes next", lambda shares: 0),
        ("leave out what is never written", lambda shares: sum(-p * math.log(p) for p in shares)),
        ("commonest answer alone", lambda shares: -math.log(max(shares))),
        ("in bits", lambda shares: sum(-p * math.log2(p) for p in shares if p)),
    ],
    "check_keep": [
        ("keeps everything", lambda prompt, response: True),
        ("begins with", lambda p, r: not r.startswith(("What a silly", "Everybody", "Not this", "You really"))),
        ("True means keep", lambda p, r: any(w in r for w in SIGNS)),
        ("Nothing was said about being kind", lambda p, r: "Happy to" in r or "I hope" in r),
    ],
    "check_min_p": [
        ("with `share` itself", lambda z, s: torch.where(z.softmax(-1) < s, -math.inf, z)),
        ("a logit of 0 is no ban", lambda z, s: z * (z.softmax(-1) >= s * z.softmax(-1).amax(-1, keepdim=True))),
        ("nothing is cut", lambda z, s: z.clone()),
        ("largest p of its own", lambda z, s: torch.where(z.softmax(-1) < s * z.softmax(-1).max(), -math.inf, z)),
    ],
    "check_all_the_same": [
        ("commonest answer only", lambda q, n: max(q) ** n),
        ("two draws only", lambda q, n: sum(x * x for x in q)),
        ("*not* all the same", lambda q, n: 1 - sum(x**n for x in q)),
    ],
    "check_most_probable": [
        ("greedy's answer", lambda first, then: max(first) * max(then[first.index(max(first))])),
        ("on one path", lambda first, then: max(first) * max(max(row) for row in then)),
        ("not added", lambda first, then: max(p + max(row) for p, row in zip(first, then))),
        ("second token alone", lambda first, then: max(q for row in then for q in row)),
    ],
    "check_odds": [
        ("divide the odds", lambda odds, t: odds / t),
        ("other way round", lambda odds, t: math.exp(math.log(odds) * t)),
        ("only their order stays", lambda odds, t: odds),
    ],
    "check_chosen": [
        ("ask `left`", click_on_the_left_is_a),
        ("swapped", click_swapped),
        ("`left` alone", lambda pair, left, c: (pair[f"response_{left}"], pair["response_" + "ab".replace(left, "")])),
    ],
    "check_ranking": [
        ("neighbours only", lambda ranking: list(zip(ranking, ranking[1:]))),
        ("swapped", lambda ranking: [(b, a) for i, a in enumerate(ranking) for b in ranking[i + 1 :]]),
        ("once each way round", lambda ranking: {(a, b) for a in ranking for b in ranking if a != b}),
    ],
    "check_labels_for_bias": [
        ("too few", 40),
        ("fewer would do", 200),
        ("not a multiple of 5", 97),
        ("a whole number", 0.6),
    ],
    "check_best_on_pool": [
        ("how often the two agree", lambda a, b: np.mean([x == y for x, y in zip(a, b)])),
        ("no judge can be right about both", lambda a, b: 1),
        ("a coin", lambda a, b: 0.5),
        ("twice the number of pairs", lambda a, b: sum(1 + (x == y) for x, y in zip(a, b)) / len(a)),
    ],
    "check_loss_of_gap": [
        ("e^1000 is too large", lambda d: -math.log(1 / (1 + math.exp(-d)))),
        ("*rejected* answer", lambda d: float(F.softplus(torch.tensor(d, dtype=torch.float64)))),
        ("a loss is positive", lambda d: float(F.logsigmoid(torch.tensor(d, dtype=torch.float64)))),
        ("the gap without the curve", lambda d: -d if d < 0 else 0.0),
    ],
    "check_margin_loss": [
        ("ask for more", lambda c, r, m: -F.logsigmoid(c - r + m).mean()),
        ("take the mean", lambda c, r, m: F.softplus(r + m - c)),
        ("moves no weight", lambda c, r, m: m.mean() - F.logsigmoid(c - r).mean()),
        ("multiplies the gap", lambda c, r, m: -F.logsigmoid(m * (c - r)).mean()),
    ],
    "check_gap_for": [
        ("the probability itself", lambda share: share),
        ("σ of the share", lambda share: float(torch.sigmoid(torch.tensor(share)))),
        ("the sign is wrong", lambda share: math.log(1 / share - 1)),
        ("the loss of the right labels alone", lambda share: -math.log(share)),
    ],
    "check_ceiling_from": [
        ("how often two annotators agree", lambda a: a),
        ("the smaller root", lambda a: (1 - math.sqrt(2 * a - 1)) / 2),
        ("when both slip", lambda a: a**0.5),
        ("the way back", lambda a: 1 - 2 * a * (1 - a)),
        ("add 1 and halve", lambda a: (2 * a - 1) ** 0.5),
    ],
    "check_kl_of_answers": [
        ("sum over padding", kl_over_padding),
        ("average over padding", lambda p, q, m: torch.mean((p - q) * m)),
        ("per *token*", lambda p, q, m: (p - q)[m.bool()].mean()),
        ("pay the policy to run away", lambda p, q, m: ((q - p) * m).sum() / len(m)),
    ],
    "check_k3": [
        ("here it is π/π_ref", lambda p, q: torch.expm1(p - q) - p + q),
        ("torch.expm1", lambda p, q: ((q - p).exp() - 1) - (q - p)),
        ("k1 can be negative", lambda p, q: p - q),
        ("is log ρ taken off", lambda p, q: (q - p).exp() - 1),
    ],
    "check_explained_variance": [
        ("count the padding", lambda v, r, m: 1 - (r - v).var() / r.var()),
        ("leaves out an error", lambda v, r, m: 1 - ((r - v)[m == 1] ** 2).mean() / r[m == 1].var()),
        ("*not* explained", lambda v, r, m: (r - v)[m == 1].var() / r[m == 1].var()),
    ],
    "check_most_answers": [
        ("log n alone", lambda budget: int(math.e**budget)),
        ("*beyond* the budget", lambda b: next(n for n in range(1, 99) if math.log(n) - (n - 1) / n > b)),
    ],
    "check_leave_one_out": [
        ("its own baseline", lambda s: s - s.mean(dim=1, keepdim=True)),
        ("*other* prompts", lambda s: s - s.mean(dim=0)),
        ("GRPO", grpo),
        ("the others are one fewer", lambda s: s - (s.sum(1, keepdim=True) - s) / s.size(1)),
    ],
    "check_turning_kl": [
        ("the KL is its square", lambda alpha, beta: math.e ** (alpha / beta) / math.e),
        ("where the parabola", lambda alpha, beta: (alpha / beta / 2) ** 2),
        ("all gain is gone", lambda alpha, beta: math.exp(2 * alpha / beta)),
        ("take the exponential", lambda alpha, beta: alpha / beta - 1),
    ],
    "check_mean_of_best": [
        ("with replacement", drawn_again),
        ("the worst of n", lambda s, v, n: best_of_all(s, v, n, -1)),
        ("the values decide", lambda s, v, n: best_of_all(v, v, n)),
        ("does not see the whole pool", lambda s, v, n: np.array(v)[np.argsort(s)[-n:]].mean()),
    ],
    "check_teaches": [
        ("all alike", lambda p, k: (1 - p) ** k + p**k),
        ("all wrong", lambda p, k: 1 - p**k),
        ("two answers only", lambda p, k: 2 * p - 2 * p * p),
    ],
    "check_loudness": [
        ("mean over answers is missing", lambda lengths: [1.0 / n for n in lengths]),
        ("long answers count for more", lambda lengths: [1 / sum(lengths) for _ in lengths]),
        ("the less its single token counts", lambda lengths: [n / sum(lengths) for n in lengths]),
    ],
    "check_settled": [
        ("turn it round", lambda a, b: "tie" if (a > 0.5) is not (b > 0.5) else "ab"[a <= 0.5]),
        ("changes with the order is a tie", lambda a, b: "a" if a > b else "b"),
        ("of the first order alone", lambda a, b: "b" if a <= 0.5 else "a"),
    ],
    "check_thumb_pull": [
        ("DPO's pull", lambda gap, usual, beta: beta / (1 + math.exp(beta * (gap - usual)))),
        ("the usual gap is missing", lambda gap, usual, beta: beta / (2 + 2 * math.cosh(beta * gap))),
        ("factor β in front", lambda gap, usual, beta: 1 / (2 + 2 * math.cosh(beta * (gap - usual)))),
    ],
    "check_best_policy": [
        ("the reference is missing", lambda p, r, b: torch.tensor(r).double().div(b).softmax(-1).tolist()),
        ("do not add up to 1", lambda p, r, b: [a * math.exp(x / b) for a, x in zip(p, r)]),
    ],
    "check_pull": [
        ("should pull less", lambda gap, beta: beta * (1 / (1 + math.exp(-beta * gap)))),
        ("factor β in front", lambda gap, beta: 1 - 1 / (1 + math.exp(-beta * gap))),
        ("the loss of the pair", lambda gap, beta: -math.log(1 / (1 + math.exp(-beta * gap)))),
    ],
    "check_win_alike": [
        ("win rate of all pairs", lambda wins, a, b, most=1: sum(wins) / len(wins)),
        ("without its sign", lambda wins, a, b, most=1: alike(wins, [x - y <= most for x, y in zip(a, b)])),
        ("differ by exactly", lambda wins, a, b, most=1: alike(wins, [abs(x - y) < most for x, y in zip(a, b)])),
    ],
    "check_updates_needed": [
        ("downwards a step is", lambda factor, rate: math.ceil(abs(math.log(factor, 1 + 0.2 * rate)))),
        ("multiply and do not add up", lambda factor, rate: math.ceil(abs(1 - factor) / rate / 0.2)),
        ("round up", lambda factor, rate: int(math.log(factor, 1 + (0.2 if factor > 1 else -0.2) * rate))),
    ],
    "check_kl_loss": [
        ("zero on average", lambda p, q: p - q),
        ("its value is k2", lambda p, q: (p - q) ** 2 / 2),
        ("nothing has a gradient", lambda p, q: p.detach() - q),
    ],
    "check_answer_weight": [
        ("the cut at `most` is missing", lambda old, drawn, m, most=2.0: ((old - drawn) * m).sum(-1).exp()),
        ("did you sum over padding", lambda old, drawn, m, most=2.0: (old - drawn).sum(-1).exp().clamp(max=most)),
        ("upside down", lambda old, drawn, m, most=2.0: ((drawn - old) * m).sum(-1).exp().clamp(max=most)),
    ],
    "check_reward": [
        ("the empty answer gets the most", rewards(lambda r: -len(r.split()))),
        ("a longer answer", rewards(lambda r: len(r.split()))),
        ("nothing to learn", rewards(lambda r: 1)),
        ("a torch tensor is wanted", lambda prompts, responses: [-float(len(r)) for r in responses]),
        ("one number each", lambda prompts, responses: torch.tensor(-1.0)),
        ("should be floats", lambda prompts, responses: torch.tensor([-len(r) for r in responses])),
        ("not finite", rewards(lambda r: 1 / len(r) if r else -math.inf)),
    ],
    "check_comparisons": [
        ("called better in 29% of such tests", 200),
        ("about half of all tests come out lower", 400),
        ("fewer would do", 1000),
        ("not a multiple of 20", 384),
        ("whole number", "many"),
    ],
    "check_memory_factor": [
        ("neither gradients", lambda frozen: 8 * (1 + frozen)),
        ("at inference the frozen", lambda frozen: (8 + frozen) / (1 + frozen)),
        ("divide them", lambda frozen: 16 + 2 * frozen),
    ],
    "check_by_chance": [
        ("both name the *other*", lambda a, b: b * a),
        ("how often they disagree", lambda a, b: a + b - 2 * a * b),
        ("as alike as their shares allow", lambda a, b: 1 - abs(b - a)),
        ("the mean", lambda a, b: (a + b) / 2),
    ],
    "check_gate": [
        ("4 words where there were 10", lambda report: gate(report)),
        ("keep what `gate` decides", lambda r: (r["words"] * 2 >= r["words_before"], "length")),
        ("not with a fixed number", lambda r: (gate(r)[0] and not r["words"] < 5, "short")),
        ("return the reason", lambda r: relative_length(r)[0]),
    ],
    "check_taste": [
        ("the same number", lambda prompt, answer: 1),
        ("the prompt alone", lambda prompt, answer: len(prompt)),
        ("a taste gives a number, and", lambda prompt, answer: answer.lower()),
        ("can be compared", lambda prompt, answer: math.nan),
        ("ZeroDivisionError", lambda prompt, answer: 1 / len(answer)),
    ],
    "check_share_out": [
        ("several processes", lambda b, p, m: next((b // s, s) for s in range(1, b + 1) if b % s == 0 and b // s <= m)),
        ("fewer steps would do", lambda b, p, m: (1, b // p)),
        ("than fit", lambda b, p, m: (b // p, 1)),
        ("lost in the division", lambda b, p, m: (b // p // math.ceil(b / p / m), math.ceil(b / p / m))),
    ],
    "check_lora_bytes": [
        ("copy as the reference", lambda p, j, share=0.01: 2 * p + 16 * p * share + 2 * (p + j)),
        ("the reward model is missing", lambda p, j, share=0.01: p * (2 + 16 * share)),
        ("all weights still learn", lambda p, j, share=0.01: 16 * p + 2 * j),
        ("use the argument", lambda p, j, share=0.01: 2 * (p + j) + 0.16 * p),
    ],
    "check_combine": [
        ("only for equal parts", lambda g, n: torch.stack(g).mean(0)),
        ("number of processes", lambda g, n: torch.stack(g).sum(0)),
        ("not divided", lambda g, n: sum(a * b for a, b in zip(n, g))),
        ("upside down", lambda g, n: sum(x / k for x, k in zip(g, n)) / sum(1 / k for k in n)),
    ],
    "check_eleventh": [
        ("another seed", "A"),
        ("without a clip", "B"),
        ("one letter", "D"),
        ("one letter", ["C"]),
    ],
    "check_entropy_gone": [
        ("first and the last row only", lambda y, share: y[-1] < y[0] * share),
        ("fell by `share`", lambda y, share: thirds(y)[1] < (1 - share) * thirds(y)[0]),
        ("with a fixed number", lambda y, share: thirds(y)[1] < share),
        ("swapped", lambda y, share: thirds(y)[0] < share * thirds(y)[1]),
        ("never rings", lambda y, share: False),
    ],
    "check_any_rings": [
        ("don't add up", lambda rate, rules: rules * rate),
        ("*all* of them ring", lambda rate, rules: math.prod([rate] * rules)),
        ("*none* of them rings", lambda rate, rules: (1 - rate) ** rules),
    ],
    "check_clip_alarm": [
        ("nothing has moved", lambda row, clip: not row["clip_fraction"]),
        ("the clip is at work", lambda row, clip: row["ratio_off"] >= clip),
        ("never rings", lambda row, clip: row["clip_fraction"] > clip),
        ("always rings", lambda row, clip: row["clip_fraction"] < 1),
        ("look at `clip`", lambda row, clip: row["ratio_off"] > 0.25 and row["clip_fraction"] == 0),
    ],
}  # fmt: skip
GIVEN = [(name, part, answer) for name, listed in WRONG.items() for part, answer in listed]


def test_two_wrong_answers_or_more_are_tried_for_each_checker():
    assert set(WRONG) == set(CHECKERS)
    for name, listed in WRONG.items():
        assert len({part for part, _ in listed}) >= 2, name


@pytest.mark.parametrize("name, part, answer", GIVEN, ids=[f"{name}: {part}" for name, part, _ in GIVEN])
def test_a_usual_mistake_is_named(name, part, answer):
    said = CHECKERS[name](answer)
    assert part in said and "not right yet" not in said and not said.right


def listed_mistakes(checker, monkeypatch):
    """[(sentence, wrong function)] as the checker hands them to `check_cases`, and its right function."""
    handed = []
    with monkeypatch.context() as patch:
        patch.setattr(
            sys.modules[checker.__module__],
            "check_cases",
            lambda number, answer, right, cases, mistakes, *more: handed.append((right, mistakes)),
            raising=False,  # a module may have no such checker
        )
        checker(None)
    if not handed:
        return None, []
    right, mistakes = handed[0]
    return right, [(s, f) for s, fs in mistakes.items() for f in (fs if isinstance(fs, tuple) else (fs,))]


@pytest.mark.parametrize("name", CHECKERS)
def test_every_mistake_that_a_checker_lists_gets_its_own_sentence(name, monkeypatch):
    right, listed = listed_mistakes(CHECKERS[name], monkeypatch)
    for sentence, wrong in listed:
        said = CHECKERS[name](wrong)
        assert said.endswith(": " + sentence) and not said.right
    assert right is None or CHECKERS[name](right).right


# ---------------------------------------------------------------- whatever an answer does


def raises(*case):
    raise RuntimeError("a\nlong " + "story " * 100)


BROKEN = [raises, lambda: 0, lambda *case: "text", lambda *case: object(), lambda *case: torch.zeros(7, 7)]
BROKEN += [lambda *case: [], lambda *case: math.nan, lambda *case: {}]
BROKEN += [3.5, "text", object(), [[]], torch.zeros(3), math]
OF_A_FUNCTION = sorted(set(CHECKERS) - {"check_wins", "check_labels_for_bias", "check_comparisons", "check_eleventh"})


@pytest.mark.parametrize("name", CHECKERS)
def test_a_broken_answer_gets_one_sentence(name):
    for answer in BROKEN:
        said = CHECKERS[name](answer)
        assert re.match(r"Exercise \d: \S", said) and "\n" not in said and len(said) < 700 and not said.right, said
    assert ": not done yet." in CHECKERS[name](None)


@pytest.mark.parametrize("name", OF_A_FUNCTION)
def test_an_error_is_told_with_its_name(name):
    assert "RuntimeError: a long story" in CHECKERS[name](raises)
    assert "a function is asked for" in CHECKERS[name]("text")
    assert ": not done yet." in CHECKERS[name](lambda *case: None)


def test_an_unknown_mistake_is_shown_with_its_case():
    said = CHECKERS["check_odds"](lambda odds, temperature: odds + temperature)
    assert said == "Exercise 1: not right yet: for odds = 4, temperature = 0.5 it gives 4.5, and 16 is right."
    said = CHECKERS["check_row_mask"](lambda asked, said, padding: [0] * asked)
    assert "it gives 3 values, and 8 values should come out" in said


def test_an_answer_cannot_spoil_the_cases_of_the_checker():
    def spoil(gradients, pairs):
        mean = sum(g * n for g, n in zip(gradients, pairs)) / sum(pairs)
        for g in gradients:
            g.zero_()
        pairs.clear()
        return mean

    assert CHECKERS["check_combine"](spoil).right


def test_right_answers_of_other_kinds_pass():
    """In single precision, as arrays, or written in another way."""
    assert CHECKERS["check_row_mask"](lambda a, s, p: torch.tensor([0] * a + [1] * (s + 1) + [0] * p)).right
    assert CHECKERS["check_advantages"](lambda r: (np.array(r) - np.mean(r)) / (np.std(r) + 1e-12)).right
    assert CHECKERS["check_perplexity"](lambda x, m: math.exp(float(x.float()[m.bool()].mean()))).right
    assert CHECKERS["check_loss_of_gap"](lambda d: F.softplus(torch.tensor(-d, dtype=torch.float64))).right
    assert CHECKERS["check_leave_one_out"](
        lambda s: (s - s.mean(1, keepdim=True)) * s.shape[1] / (s.shape[1] - 1)
    ).right
    assert CHECKERS["check_reward"](rewards(lambda r: 1 / len(r) if r else 0)).right
    assert CHECKERS["check_taste"](lambda prompt, answer: "fruit" in answer).right
    assert CHECKERS["check_keep"](
        lambda p, r: not re.search("silly|Everybody|Not this|really|Now|Look|Do not", r)
    ).right
