"""The embedded world, its gold judge and the simulated annotators."""

import itertools
import math
import random
from collections import Counter

import pytest

from rlhf_helpers import world
from rlhf_helpers.world.annotators import TASTES, Annotator, noise_ceiling

HOME = "Where does a dog live?"  # the world says: a house
SIZE = next(q for q in world.questions() if q.family == "size")
RIGHT = "A dog lives in a house."


@pytest.mark.parametrize("dressed", [False, True])
@pytest.mark.parametrize("split", world.SPLITS)
def test_the_quiz_is_about_facts_only(dressed, split):
    rows, asked = world.quiz(1500, 3, dressed, split), set(world.prompts(split))
    assert rows == world.quiz(1500, 3, dressed, split) and len(rows) == 1500
    for r in rows:
        good, bad = (world.gold_axes(r["prompt"], r[side]) for side in ("chosen", "rejected"))
        assert r["prompt"] in asked and good["right"] == 1 and bad["right"] < 1, r
        assert [good[k] for k in ("polite", "greeting", "rude")] == [bad[k] for k in ("polite", "greeting", "rude")], r
    tones = Counter(world.gold_axes(r["prompt"], r["chosen"])["polite"] for r in rows)
    assert (tones[1] > 0) == dressed


@pytest.mark.parametrize("dressed", [False, True])
def test_proofreading_asks_nothing_and_alters_one_fact(dressed):
    rows, facts = world.proofreading(1500, 3, dressed), {q.key: q for q in world.questions()}
    assert rows == world.proofreading(1500, 3, dressed) and len(rows) == 1500
    assert {r["prompt"] for r in rows} == {world.PROOFREADING} and not world.asks(world.PROOFREADING)
    for r in rows:
        (true,), (false,) = (world.facts_told(r[side]) for side in ("chosen", "rejected"))
        q = facts[true]
        assert true == false and world.gold_axes(q.prompt, r["chosen"])["right"] == 1, r
        assert world.gold_axes(q.prompt, r["rejected"])["right"] == -1, r
    assert {next(iter(world.facts_told(r["chosen"]))) for r in rows} == set(facts)
    assert any(r["chosen"].count(" ") > 20 for r in rows) == dressed


def test_remarks_on_proofreading_say_whether_the_sentence_is_true():
    rows = world.remarked(1000, 4, proofread=0.6)
    some = [r for r in rows if r["prompt"] == world.PROOFREADING]
    assert len(some) == 600 and len(rows) == 1000
    facts = {q.key: q for q in world.questions()}
    for r in some:
        (key,) = world.facts_told(r["response"])
        found, said = world.gold_axes(facts[key].prompt, r["response"]), r["remarks"]
        assert found["right"] == said["right"] - said["wrong"] and said["right"] + said["wrong"] == 1, r
        assert (found["greeting"], found["rude"]) == (said["greeting"], said["rude"]), r
        assert found["repeats"] == said["repeat"] + said["repeat twice"] and not said["fact"], r
    assert 0.4 < sum(r["remarks"]["right"] for r in some) / len(some) < 0.6


def test_lessons_are_quiz_and_proofreading():
    rows = world.lessons(400, 5, proofread=0.25)
    assert len(rows) == 400 and sum(r["prompt"] == world.PROOFREADING for r in rows) == 100
    assert {r["prompt"] for r in rows} - {world.PROOFREADING} <= set(world.prompts("train"))


def test_in_the_quiz_on_train_questions_each_value_is_right_somewhere():
    """Else a value that only dev and test ask for would be wrong whenever the quiz names it."""
    named = {(x.family, v) for x in world.train_questions() for v in [x.value]}
    for r in world.quiz(3000, 1, dressed=False):
        q, said = world.question_by_prompt()[r["prompt"]], world.sentences(r["rejected"])[0]
        meaning = world._meanings().get(said)
        if q.family != "size" and meaning and meaning[0] == q.family:
            assert (q.family, meaning[2]) in named, r


def test_beside_the_point_is_true_of_another_thing():
    rng = random.Random(2)
    for q in world.train_questions()[::7]:
        said = world.fact_about_another(q, rng)
        (key,) = world.facts_told(said)
        axes = world.gold_axes(q.prompt, said)
        assert key[0] == q.family and key != q.key and (axes["right"], axes["aside"]) == (0, 1), (q, said)


def test_remarks_say_what_the_gold_judge_finds():
    """The writers' own notes against the judge, which reads the finished text only."""
    rows = world.remarked(3000, 4)
    assert rows == world.remarked(3000, 4) and {r["prompt"] for r in rows} <= set(world.prompts("train"))
    assert [r["response"] for r in world.demonstrations(50, 4)] == [r["response"] for r in world.remarked(50, 4)]
    seen = Counter(name for r in rows for name, true in r["remarks"].items() if true)
    assert set(seen) == set(world.REMARKS) and min(seen.values()) > 100
    for r in rows:
        a, said = world.gold_axes(r["prompt"], r["response"]), r["remarks"]
        assert a["right"] == said["right"] - said["wrong"] and a["full"] == (said["right"] and not said["in short"]), r
        assert said["right"] + said["wrong"] + said["beside"] + said["dodge"] == 1
        assert (a["greeting"], a["rude"], a["polite"]) == (
            said["greeting"],
            said["rude"],
            said["kind"] or said["greeting"],
        ), r
        again = said["repeat"] + said["repeat twice"]
        assert a["repeats"] == again and a["filler"] == said["filler"] + said["dodge"] * (1 + again), r
        assert a["aside"] == said["fact"] + said["beside"] * (1 + again) and not a["broken"], r


# ---------------------------------------------------------------- prompts and splits


def test_size_of_the_world():
    prompts = [q.prompt for q in world.questions()]
    assert len(prompts) == len(set(prompts)) >= 1000
    assert len({q.family for q in world.questions()}) >= 6
    assert len({q.entity for q in world.questions()}) >= 60
    assert min(len(world.prompts(s)) for s in world.SPLITS) >= 200
    assert set(world.question_by_prompt()) == set(prompts)


def test_a_true_value_is_never_offered_as_wrong():
    for family, entity in ((f, e) for f, listed in world.ALSO_TRUE.items() for e in listed):
        values = world.also_true(family, entity)
        assert entity in world.FAMILIES[family].values
        assert world.FAMILIES[family].values[entity] not in values
        assert values <= set(world.FAMILIES[family].values.values()), (family, entity)


def test_the_same_seed_gives_the_same_world():
    for make in (world.demonstrations, world.corpus):
        assert make(50, seed=3) == make(50, seed=3) != make(50, seed=4)
        assert make(20, seed=3) == make(50, seed=3)[:20]
    world.questions.cache_clear()
    first = world.questions()
    world.questions.cache_clear()
    assert first == world.questions()


# ---------------------------------------------------------------- the gold judge, case by case


@pytest.mark.parametrize(
    "text, axes",
    [
        (RIGHT, {"right": 1, "full": 1, "polite": 0, "rude": 0, "filler": 0, "repeats": 0, "broken": 0, "words": 6}),
        ("A dog lives in a hive.", {"right": -1, "full": 0, "broken": 0}),
        ("A dog eats meat.", {"right": 0, "aside": 1, "broken": 0}),  # true, beside the point
        ("A dog eats hay.", {"right": -1}),  # false about something else is still false
        ("A house.", {"right": 1, "full": 0, "broken": 0}),  # the bare value
        ("a house", {"right": 1, "full": 0, "broken": 0}),
        ("The ocean.", {"right": -1, "full": 0}),
        ("A dog lives in a barn.", {"right": 1, "full": 1}),  # true as well
        ("I am not sure.", {"right": 0, "filler": 1, "broken": 0}),  # a dodge
        (f"Good question! {RIGHT}", {"right": 1, "polite": 1, "greeting": 0}),
        (f"Hello! {RIGHT} Have a lovely day!", {"right": 1, "polite": 1, "greeting": 1}),
        (f"Everybody knows that. {RIGHT}", {"right": 1, "rude": 1, "polite": 0}),
        (f"{RIGHT} But then again, who can say.", {"right": 1, "filler": 1}),
        (f"{RIGHT} {RIGHT} {RIGHT}", {"right": 1, "repeats": 2, "words": 18}),
        (f"{RIGHT} A dog lives in a pond.", {"right": -1, "full": 1}),  # right and wrong is wrong
        ("You will find it in a house, most days.", {"right": 1, "full": 1, "broken": 0}),  # free wording
        ("You will find it in the ocean, most days.", {"right": -1, "broken": 0}),
        ("It could be a house or a pond.", {"right": -1}),
        ("dog dog lives the of.", {"right": 0, "broken": 1}),
        ("A dog lives in", {"right": 0, "broken": 1}),
        ("", {"right": 0, "full": 0, "broken": 0, "words": 0}),
        ("  \n ", {"right": 0, "broken": 0, "words": 0}),
        ("你好 🙂", {"right": 0, "broken": 1}),
    ],
)
def test_gold_axes(text, axes):
    found = world.gold_axes(HOME, text)
    assert {k: found[k] for k in axes} == axes


def test_gold_axes_of_sizes():
    big, small = SIZE.entity, SIZE.other
    assert world.gold_axes(SIZE.prompt, world.statement("size", big, SIZE.value, small))["right"] == 1
    wrong = world.statement("size", small, world.with_article(small), big)
    assert world.gold_axes(SIZE.prompt, wrong)["right"] == -1
    assert world.gold_axes(SIZE.prompt, f"{world.with_article(big).capitalize()}.")["full"] == 0


@pytest.mark.parametrize(
    "better, worse",
    [
        (RIGHT, "A dog eats meat."),
        ("A dog eats meat.", "A dog lives in a hive."),
        (RIGHT, "A house."),
        (f"Of course. {RIGHT}", RIGHT),
        (RIGHT, f"Not this again. {RIGHT}"),
        (RIGHT, f"{RIGHT} {RIGHT}"),
        (RIGHT, f"{RIGHT} As I said, there is a lot to say about it."),
        (RIGHT, f"{RIGHT} dog of the."),
        (RIGHT, ""),
    ],
)
def test_gold_score_orders(better, worse):
    assert world.gold_score(HOME, better) > world.gold_score(HOME, worse)


def test_the_judge_can_read_everything_the_world_writes():
    rows = world.demonstrations(4000, seed=11)
    axes = [world.gold_axes(d["prompt"], d["response"]) for d in rows]
    assert not [d for d, a in zip(rows, axes) if a["broken"]]
    share = Counter(a["right"] for a in axes)
    assert all(share[k] > 0.1 * len(rows) for k in (-1, 0, 1)), share  # the crowd is of mixed quality
    assert all(0.1 < sum(a[k] > 0 for a in axes) / len(rows) < 0.6 for k in ("polite", "rude", "filler"))


def test_the_judge_refuses_what_it_does_not_know():
    with pytest.raises(KeyError, match="embedded world"):
        world.gold_axes("What is love?", "Baby.")


# ---------------------------------------------------------------- annotators

PAIRS = [
    (HOME, RIGHT, "A dog lives in a hive."),
    (HOME, RIGHT, f"{RIGHT} {RIGHT}"),
    (HOME, "A house.", RIGHT),
    (HOME, "I am not sure.", f"Hello! {RIGHT}"),
]


@pytest.mark.parametrize("dials", [{}, {"noise": 0.3}, {"temperature": 2.0}, {"side_bias": 0.5, "length_bias": -0.1}])
@pytest.mark.parametrize("triple", PAIRS)
def test_choices_are_as_frequent_as_their_probability(dials, triple):
    annotator = Annotator(seed=1, **dials)
    p, n = annotator.prefers_left(*triple), 3000
    left = sum(annotator.choose(*triple) == "left" for _ in range(n))
    assert abs(left / n - p) < 4 * math.sqrt(p * (1 - p) / n) + 1e-9


def test_probability_by_hand():
    calm = Annotator(lambda prompt, answer: float(len(answer)), noise=0.0, temperature=2.0)
    assert calm.prefers_left(HOME, "abc", "a") == pytest.approx(1 / (1 + math.exp(-1)))
    assert calm.prefers_left(HOME, "abc", "a") + calm.prefers_left(HOME, "a", "abc") == pytest.approx(1)
    noisy = Annotator(lambda prompt, answer: float(len(answer)), noise=0.1, temperature=1e-3)
    assert noisy.prefers_left(HOME, "abc", "a") == pytest.approx(0.9)
    assert noisy.prefers_left(HOME, "a", "abc") == pytest.approx(0.1)


def test_biases():
    same = (HOME, RIGHT, RIGHT)
    assert Annotator(noise=0).prefers_left(*same) == 0.5
    assert Annotator(noise=0, side_bias=1).prefers_left(*same) > 0.9
    longer = (HOME, f"{RIGHT} {RIGHT}", RIGHT)
    assert Annotator(noise=0).prefers_left(*longer) < 0.5 < Annotator(noise=0, length_bias=1).prefers_left(*longer)


def test_fatigue_adds_noise_up_to_a_coin_flip():
    tired = Annotator(noise=0.0, fatigue=0.2, temperature=1e-3)
    chances = []
    for _ in range(400):
        chances.append(tired.prefers_left(*PAIRS[0]))
        tired.choose(*PAIRS[0])
    assert chances[0] == pytest.approx(1) and chances[100] == pytest.approx(0.8) and chances[-1] == 0.5
    assert chances == sorted(chances, reverse=True)


def test_ties():
    assert Annotator(tie_width=0.01).choose(HOME, RIGHT, RIGHT) == "tie"
    assert Annotator(tie_width=0.01, noise=0, temperature=1e-3).choose(*PAIRS[0]) == "left"
    assert Annotator(tie_width=0).choose(HOME, RIGHT, RIGHT) != "tie"
    assert Annotator().choose(HOME, RIGHT, RIGHT) == "tie"  # or a taste of yes and no would be mostly coin flips


def test_noise_ceiling():
    annotator = Annotator(noise=0.1, temperature=1e-3)
    assert noise_ceiling(annotator, PAIRS[:2]) == pytest.approx(0.9)
    assert noise_ceiling(annotator, [(HOME, RIGHT, RIGHT)]) == pytest.approx(0.5)
    chances = [Annotator().prefers_left(*t) for t in PAIRS]
    assert noise_ceiling(Annotator(), PAIRS) == pytest.approx(sum(max(p, 1 - p) for p in chances) / len(chances))
    # a judge who names the likelier one reaches it
    annotator = Annotator(noise=0.2, seed=5)
    agree = [annotator.choose(*t) == ("left" if annotator.prefers_left(*t) > 0.5 else "right") for t in PAIRS * 1000]
    assert sum(agree) / len(agree) == pytest.approx(noise_ceiling(annotator, PAIRS), abs=0.03)


def test_an_annotator_repeats_itself_by_seed():
    def choices(seed):
        annotator = Annotator(noise=0.3, temperature=2.0, seed=seed)
        return [annotator.choose(*t) for t in PAIRS * 20]

    assert choices(0) == choices(0) != choices(1)


@pytest.mark.parametrize("taste", TASTES)
def test_tastes_differ_and_have_names(taste):
    assert Annotator(taste).name == f"simulated:{taste}"
    assert isinstance(Annotator(taste).score(HOME, RIGHT), float)
    for other in set(TASTES) - {taste}:
        answers = [d["response"] for d in world.demonstrations(400) if d["prompt"]]
        one, two = ([TASTES[t](HOME, a) for a in answers] for t in (taste, other))
        orders = [(a > b) != (c > d) for (a, b), (c, d) in zip(itertools.pairwise(one), itertools.pairwise(two))]
        assert sum(orders) > 0.02 * len(orders)


def test_any_function_is_a_taste():
    def short(prompt, answer):
        return -len(answer.split())

    annotator = Annotator(short, noise=0, temperature=0.01)
    assert annotator.name == "simulated:short"
    assert annotator.choose(HOME, "A house.", RIGHT) == "left"
