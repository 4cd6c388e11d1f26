"""What the chapters say in numbers, core and deeper: each such sentence done
again, with the cells of the chapter or from what was measured."""

import ast
import inspect
import itertools
import json
import math
import random
import re
import statistics
from collections import Counter
from statistics import NormalDist
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from taught import cells, made_by, says, taught

from rlhf_helpers import lesson, world
from rlhf_helpers.desk import pace, plots, recipe, tasks, workspace, yours
from rlhf_helpers.desk.figures import chapter_03
from rlhf_helpers.engine import files, models
from rlhf_helpers.engine.files import ROOT
from rlhf_helpers.lesson import alternatives, decoding, feedback, lm, loop, probe, reward
from rlhf_helpers.lesson.pairs import simulated_feedback
from rlhf_helpers.make import stamp
from rlhf_helpers.world import gold_axes, measures
from rlhf_helpers.world.annotators import TASTES, Annotator, labellers, noise_ceiling


@pytest.fixture(scope="module")
def tuned():
    return models.load_model(ROOT / "data" / "models" / "finetuned", torch.device("cpu"))


# ---------------------------------------------------------------- 01 Pre-training and fine-tuning


def test_greedy_is_right_far_more_often_and_on_what_no_demonstration_asked_too(tuned):
    says("01", "greedy-read", "Greedy is right far more often", "that no demonstration asked are mostly answered")
    prompts = tasks.embedded().prompts("test")[::6]
    greedy, sampled = (measures.quality(prompts, decoding.generate(*tuned, prompts, temperature=t)) for t in (0, 1))
    assert greedy["right"] > sampled["right"] + 0.2 and greedy["right"] > 0.7


CORPUS = (ROOT / "data" / "corpus.txt").read_text(encoding="utf-8").strip().split("\n\n")


@pytest.fixture(scope="module")
def base():
    return models.load_model(ROOT / "data" / "models" / "base", torch.device("cpu"))


def test_nearly_every_word_is_one_token(base):
    says("01", "hidden-head", "nearly every word is one token")
    words = Counter(w for text in CORPUS[:4000] for w in re.findall("[A-Za-z]+", text))
    whole = sum(n for word, n in words.items() if len(base[1](f" {word}")["input_ids"]) == 1)
    assert whole > 0.97 * words.total()


@torch.no_grad()
def test_the_loss_on_answers_begins_high_because_of_the_special_tokens(base):
    says("01", "finetune-read", "begins high, because the special tokens are new to the base model")
    model, tokenizer = base
    demos = files.read_jsonl(ROOT / "data" / "demonstrations.jsonl")[:100]

    def loss(begin):
        each = []
        for d in demos:
            asked = begin(d["prompt"])
            ids = torch.tensor([asked + models.response_ids(tokenizer, d["response"])[:-1]])
            logits = model(ids).logits[0, len(asked) - 1 : -1]
            each.append(torch.nn.functional.cross_entropy(logits, ids[0, len(asked) :]))
        return torch.stack(each).mean().item()

    plain = loss(lambda prompt: tokenizer(prompt + "\n")["input_ids"])
    assert loss(lambda prompt: models.prompt_ids(tokenizer, prompt)) > plain + 0.7


@pytest.mark.slow
@torch.no_grad()
def test_frequent_words_are_learned_first_and_facts_last(base):
    """The run of chapter 01, as short as there: what it knows of common and rare tokens, and of facts."""
    says("01", "pretrain-read", "Frequent words come first", "Facts come last", "a run this short hardly gets to them")
    model, tokenizer = base
    settings, losses = recipe.PRETRAINING, {}
    small = models.new_model(tokenizer, seed=0)
    rows = lm.blocks(tokenizer, CORPUS, settings["length"])
    common = torch.bincount(rows.flatten(), minlength=len(tokenizer)).argsort(descending=True)[:50]

    def look(step, loss):
        if step + 1 in (10, 80):
            ids = rows[-40:]
            each = torch.nn.functional.cross_entropy(
                small(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
            )
            often = torch.isin(ids[:, 1:].flatten(), common)
            losses[step + 1] = each[often].mean().item(), each[~often].mean().item()

    batches = lm.pretraining_batches(rows, settings["batch_size"], 0)
    with torch.enable_grad():
        lm.fit(small, batches, 80, settings["lr"], look)
    nothing = math.log(len(tokenizer))
    assert losses[10][0] < nothing - 2 and losses[10][1] > nothing - 1 and losses[80][1] < losses[10][1] - 1

    rng, known = random.Random(0), {}
    some = [q for q in world.questions() if q.split == "test" and q.family in ("capital", "home", "taste")][::3]
    for name, network in (("80 steps", small), ("shipped", model)):
        right = []
        for q in some:
            said = [world.claim(q, value) for value in (q.value, world.wrong_value(q, rng))]
            ids = [torch.tensor([tokenizer(text)["input_ids"]]) for text in said]
            p = [network(x).logits[0, :-1].log_softmax(-1).gather(1, x[0, 1:, None]).sum() for x in ids]
            right.append(bool(p[0] > p[1]))
        known[name] = statistics.mean(right)
    assert known["80 steps"] < 0.75 < 0.9 < known["shipped"], known


def test_a_barn_is_right_for_a_cow_too():
    says("01", "judge-read", "a barn is right for a cow, too")
    told = {
        place: gold_axes("Where does a cow live?", f"A cow lives in {place}.")["right"]
        for place in ("a field", "a barn", "the savanna")
    }
    assert told == {"a field": 1, "a barn": 1, "the savanna": -1}


# ---------------------------------------------------------------- 02 Decoding, and The sampler up close

nats = made_by("sampler_up_close", "entropy", torch=torch, steps=torch.full((1, 4), 0.25), tokenizer=range(4))["nats"]


def test_softmax_and_entropy_are_what_the_formulas_say():
    z = torch.randn(50, generator=torch.Generator().manual_seed(0)).double() * 3
    assert torch.allclose((z - z.max()).exp() / (z - z.max()).exp().sum(), z.exp() / z.exp().sum())
    assert (z + 1000).exp().isinf().any() and z.softmax(-1).sum() == pytest.approx(1)
    assert nats(torch.eye(3)[0]) == 0 and nats(torch.full((50,), 0.02)) == pytest.approx(math.log(50))


def test_temperature_sharpens_below_one_flattens_above_and_keeps_the_order():
    z = torch.randn(50, generator=torch.Generator().manual_seed(1))
    entropies = [nats((z / t).softmax(-1)).item() for t in (0.01, 0.5, 1, 2, 5)]
    assert entropies == sorted(entropies) and entropies[0] < 0.01
    assert (z / 5).argsort().tolist() == z.argsort().tolist()
    p, q = z.double().softmax(-1), (z.double() / 0.5).softmax(-1)
    assert q[0] / q[1] == pytest.approx((p[0] / p[1]) ** 2), "the odds are raised to 1 / T"
    says("02", "ex-odds-solution", "At T = 0.5, four to one becomes sixteen to one", "at T = 2 it is two to one")
    assert (4 ** (1 / 0.5), 4 ** (1 / 2)) == (16, 2)


@pytest.mark.parametrize("share", [0.3, 0.8, 0.95])
def test_top_p_keeps_the_smallest_set_that_holds_the_share(share):
    p = torch.tensor([0.4, 0.25, 0.15, 0.12, 0.08])
    kept = decoding.adjust(p.log(), top_p=share).isfinite().nonzero()[:, 0].tolist()
    sets = [s for n in range(1, 6) for s in itertools.combinations(range(5), n) if p[list(s)].sum() >= share - 1e-6]
    assert len(kept) == min(map(len, sets)) and p[kept].sum() >= share - 1e-6


def test_the_die_gives_each_token_a_stretch_as_wide_as_its_p_in_any_order():
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    for order in itertools.permutations(range(3)):
        ranked = torch.tensor(order)
        landed = ranked[torch.searchsorted(p[ranked].cumsum(0), u, right=True)]
        assert torch.bincount(landed).tolist() == [500, 300, 200]


def test_greedy_need_not_find_the_most_probable_answer():
    says(
        "sampler_up_close",
        "log-p-note",
        "p = 0.6 and ten continuations of 0.1",
        "p = 0.4 and a single",
        "p = 0.06, the other 0.4",
    )
    tree = {"a": (0.6, [0.1] * 10), "b": (0.4, [1.0])}
    greedy = max(tree.values(), key=lambda branch: branch[0])
    assert greedy[0] * max(greedy[1]) == pytest.approx(0.06)
    assert max(first * second for first, rest in tree.values() for second in rest) == 0.4


def test_two_draws_are_identical_with_the_sum_of_squares_and_the_estimate_is_unbiased():
    q = [0.5, 0.3, 0.2]
    squares = sum(x * x for x in q)
    expected = 0.0
    for draws in itertools.product(range(3), repeat=4):
        chance = math.prod(q[i] for i in draws)
        expected += chance * sum(n * (n - 1) for n in map(draws.count, range(3))) / (4 * 3)
    assert expected == pytest.approx(squares)
    says("02", "ex-same-solution", "`q = [0.9, 0.1]`, two draws agree with probability 0.82")
    assert 0.9**2 + 0.1**2 == pytest.approx(0.82)


def test_the_sweep_of_temperatures_goes_as_its_text_says(tuned):
    """Near 0 much alike and close to the favourite, near 2 different and more of them no sentences."""
    prompts, found = tasks.embedded().prompts("train")[::25][:24], {}
    for t in (0, 0.25, 1, 2):
        said = decoding.generate(*tuned, prompts * 4, temperature=t, seed=0, max_new_tokens=40)
        alike = statistics.mean(len(set(said[i::24])) / 4 for i in range(24))
        found[t] = alike, measures.quality(prompts * 4, said)
    distinct, in_format = (
        {t: pick(f) for t, f in found.items()} for pick in (lambda f: f[0], lambda f: f[1]["in_format"])
    )
    assert distinct[0] == 0.25 < distinct[0.25] < distinct[1] <= distinct[2]
    assert in_format[2] < in_format[1] - 0.1 and found[2][1]["gold"] < found[1][1]["gold"] < found[0][1]["gold"]


def test_greedy_repeats_itself_and_sampling_with_a_seed_too(tuned):
    asked = ["What does a monkey eat?"] * 4
    assert len(set(decoding.generate(*tuned, asked, temperature=0.0))) == 1
    a, b, c = (decoding.generate(*tuned, asked, seed=s) for s in (1, 1, 2))
    assert a == b != c


# ---------------------------------------------------------------- 03 Human feedback, and Labels up close


def test_from_how_many_choices_on_they_are_learned_from_and_what_the_stand_in_does(monkeypatch, tmp_path):
    n = feedback.ENOUGH
    says("03", "choose-head", f"From {n} choices on", f"Stop at {n}", "skipped pairs don't count")
    says("03", "whose-head", f"fewer than {n} choices", "one choice in ten wrong")
    says("labels_up_close", "header", f"at least {n} labels")
    says("labels_up_close", "whose-head", f"These are yours, from {n} on.")
    made, ask = [], tasks.annotator_for
    monkeypatch.setattr(tasks, "annotator_for", lambda *a, **k: made.append(k) or ask(*a, **k))
    ws = workspace.setup(RUNS_DIR=str(tmp_path), DEVICE="cpu")
    yours.labels(ws, tasks.choose(ws))
    assert [k["noise"] for k in made] == [0.1]
    says("labels_up_close", "care-predict", "flips 5% of its choices")
    assert Annotator().noise == 0.05


def test_the_clock_of_chapter_03_times_writing_and_choosing_and_says_one_second(monkeypatch):
    pairs = [{"prompt": f"Why {i}?", "response_a": "So.", "response_b": "No."} for i in range(3)]
    now = iter([0.0, 10.0, 10.0, 12.0, 40.0, 40.0, 41.2, 41.2])
    monkeypatch.setattr(chapter_03, "time", SimpleNamespace(monotonic=lambda: next(now)))
    made = made_by("03", "write-one", figures=chapter_03, pairs=pairs)
    go, box, two, seen = (getattr(made["clock"], name) for name in ("go", "box", "two", "seen"))
    go.click()  # show the question
    assert "Why 2?" in seen.value and box.layout.display == "" and two.layout.display == "none"
    go.click()  # nothing is written yet
    assert made["timed"] == {}
    box.value = "Because."
    go.click()
    assert "Why 1?" in seen.value and "A: So." in seen.value and two.layout.display == ""
    two.children[1].click()
    assert seen.value == "<p>Writing took you 30 seconds, choosing 1 second.</p>"
    assert made["timed"] == pytest.approx({"write": 30, "choose": 1.2})
    said = [chapter_03.in_words(x) for x in (0.2, 1.4, 1.6)]
    assert said == ["1 second", "1 second", "2 seconds"]


def test_the_guesses_of_chapter_03_are_those_it_names():
    says("03", "clock-intro", "45 seconds for writing a short answer, 6 seconds for a choice")
    mine = SimpleNamespace(summary=lambda: {"seconds": None})
    made = made_by("03", "clock", timed={}, mine=mine)
    assert made["GUESS"] == {"write": 45, "choose": 6} and made["measured"] == {}
    made = made_by(
        "03", "clock", timed={"write": 30.0, "choose": 2.0}, mine=SimpleNamespace(summary=lambda: {"seconds": 3.0})
    )
    assert made["seconds"] == {"write": 30, "choose": 3} and made["ratio"] == 10


def test_the_heads_of_a_fair_coin_lie_within_the_root_of_their_number():
    says("03", "sides-predict", "lies within √*n* of *n*/2 nineteen times in twenty", "For 64 flips that is 24 to 40")
    for n in (24, 40, 64, 100, 400):
        usual = [k for k in range(n + 1) if abs(k - n / 2) <= math.sqrt(n)]
        assert 0.93 < sum(math.comb(n, k) for k in usual) / 2**n < 0.975, n
    assert (64 / 2 - 8, 64 / 2 + 8) == (24, 40)


def test_the_pair_that_chapter_03_shows_divides_the_tastes(tmp_path):
    """Two of the four would take one answer and two the other, whichever pairs were labelled."""
    task, ws = tasks.embedded(), workspace.setup(RUNS_DIR=str(tmp_path), DEVICE="cpu")
    for taste in TASTES:
        ws.annotator = taste
        decided = [x for x in yours.labels(ws, task)[0] if x["choice"] in ("a", "b")]
        shown = made_by("03", "choice-of", "taste-pair", task=task, decided=decided, plots=plots)
        assert shown["divided"](shown["i"])[0] == 2 and shown["table"][0][1] != shown["table"][1][1]
    empty = made_by("03", "choice-of", "taste-pair", "agree", task=task, decided=[], plots=plots)
    assert empty["table"] == [] and set(empty["agreed"].values()) == {0}


def test_the_table_of_chapter_03_says_where_a_simulated_annotator_slipped_and_never_corrects_a_person():
    pair = {"pair_id": "p", "prompt": "What does a monkey eat?", "response_a": "So.", "response_b": "No, no, no."}
    given = [("simulated:brief", "b"), ("simulated:brief", "a"), ("simulated:brief", "tie"), ("you", "b")]
    labels = [feedback.label_event(pair, "a", choice, who) for who, choice in given]
    names = {"labels": labels, "decided": [], "task": tasks.embedded(), "figures": chapter_03}
    made = made_by("03", "choice-of", "data-show", **names)
    table = chapter_03.labels_table(made["shown"], map(made["slipped"], made["shown"])).data
    rows = table.split("<tr>")[2:]
    assert ["(a slip)" in row for row in rows] == [True, False, False, False]
    assert ["✓" in row for row in rows] == [True, True, False, True]


def test_four_labels_of_chapter_03_give_one_row():
    says("03", "rows-predict", "Four labels: a choice, the same pair again, a tie and a skip.")
    pair = {"pair_id": "p", "prompt": "Why?", "response_a": "So.", "response_b": "No."}
    one = feedback.label_event(pair, "a", "b", "you")
    few = made_by("03", "pair-key", "to-preferences", "rows-few", Counter=Counter, decided=[one], labels=[], json=json)
    assert feedback.to_preferences(few["few"]) == (
        [{"prompt": "Why?", "chosen": "No.", "rejected": "So.", "margin": 0}],
        {"repeat": 1, "tie": 1, "skip": 1},
    )
    says("03", "rows-read", "One row")


def test_a_ranking_gives_as_many_pairs_as_its_solution_says():
    says("03", "ex-ranking-solution", "Four answers give six pairs, nine give 36", "each answer is in three of them")
    assert [k * (k - 1) / 2 for k in (4, 9)] == [6, 36]


def test_what_repeats_say_about_slips():
    slips = made_by("labels_up_close", "noise-own", math=math, s={"repeats": 0})["slips"]
    for n in (0, 0.05, 0.1, 0.3, 0.5):
        same = n * n + (1 - n) ** 2
        assert same == pytest.approx(1 - 2 * n * (1 - n)) and slips(same) == pytest.approx(n)
        assert 1 - n >= same - 1e-12, "who knows the taste agrees more often than the annotator repeats themselves"
    says("labels_up_close", "noise-read", "0.09 + 0.49 = 0.58", "82% on repeats, say, means one slip in ten")
    says("labels_up_close", "noise-read", "agree with 90%")
    assert 0.3**2 + 0.7**2 == pytest.approx(0.58) and slips(0.82) == pytest.approx(0.1)


def test_kappa_of_coins_and_of_the_labellers_of_instructgpt():
    kappa = made_by("labels_up_close", "kappa", math=math)["cohen_kappa"]
    rng = random.Random(0)
    a, b = (rng.choices("ab", k=20_000) for _ in range(2))
    assert statistics.mean(x == y for x, y in zip(a, b)) == pytest.approx(0.5, abs=0.02)
    assert kappa(a, b) == pytest.approx(0, abs=0.03)
    says("03", "agree-read", "about 73% of the choices")
    says("labels_up_close", "kappa-read", "about 73% of the choices", "a κ of 0.46")
    mine = list("ab" * 50)
    theirs = [x if i >= 26 else "ba"["ab".index(x)] for i, x in enumerate(mine)]
    assert statistics.mean(x == y for x, y in zip(mine, theirs)) == 0.74  # 73% with equal counts can't be made of 100
    assert kappa(mine, theirs) == pytest.approx(0.48) and (0.73 - 0.5) / 0.5 == pytest.approx(0.46)
    assert kappa(list("aaab"), list("aaba")) < 0, "50% agree, below chance"


def test_the_intervals_that_labels_up_close_names():
    says("labels_up_close", "care-head", "for 0 of 4 its width is zero")
    assert math.sqrt(0 * 1 / 4) == 0 and feedback.wilson(0, 4)[1] > 0.4
    says("labels_up_close", "exercises", "`wilson(6, 10)` is about `(0.31, 0.83)`")
    assert [round(x, 2) for x in feedback.wilson(6, 10)] == [0.31, 0.83]
    says("labels_up_close", "ex-bias-solution", "A hundred.", "of 24 in 40 the interval is 45% to 74%")
    assert next(n for n in range(5, 1000, 5) if feedback.wilson(round(0.6 * n), n)[0] > 0.5) == 100
    assert [round(100 * x) for x in feedback.wilson(24, 40)] == [45, 74]


def test_clear_choices_with_noise_have_the_ceiling_that_labels_up_close_says():
    says("labels_up_close", "ceiling-head", "the best accuracy that anybody can expect is 1 − *n*")
    for n in (0.0, 0.1, 0.3):
        clear = Annotator(lambda prompt, answer: 100.0 * len(answer), noise=n)
        assert noise_ceiling(clear, [("", "a", "bb"), ("", "bb", "a")]) == pytest.approx(1 - n)


def test_what_an_hour_buys_follows_the_guesses():
    made = made_by(
        "labels_up_close", "price", ws=SimpleNamespace(runs=ROOT / "nowhere"), s={"seconds": None}, files=files
    )
    assert made["hour"] == {"write": 80, "choose": 600} and set(made["words"].values()) == {"guessed"}


@pytest.mark.parametrize(
    "dials, lean", [({"noise": 0.2}, False), ({"fatigue": 20.0}, False), ({"side_bias": 3.0}, True), ({}, False)]
)
def test_what_each_fault_of_an_annotator_leaves_behind(dials, lean):
    """Noise and fatigue contradict and don't lean; a side bias does both; care does neither."""
    who = Annotator(lambda prompt, answer: float(answer), **{"noise": 0.0, **dials})
    who.made = 1
    left = same = 0.0
    gaps = [(a, b) for a in "01234" for b in "01234" if a != b]
    for a, b in gaps:  # each pair in both orders, so that a fair annotator takes the left one in half of the cases
        p, swapped = who.prefers_left("", a, b), who.prefers_left("", b, a)
        left += p / len(gaps)
        same += (p * (1 - swapped) + (1 - p) * swapped) / len(gaps)
    assert (left > 0.6) == lean and (lean or left == pytest.approx(0.5))
    assert (same < 0.9) == bool(dials)


def test_the_answers_to_be_compared_are_of_mixed_quality():
    says("03", "choose-head", "Some are wrong, some are rude, some never come to the point.")
    rows = files.read_jsonl(ROOT / "data" / "feedback.jsonl")[:600]
    seen = [gold_axes(r["prompt"], r[f"response_{x}"]) for r in rows if "prompt" in r for x in "ab"]
    for share in ([a["right"] == -1 for a in seen], [a["rude"] for a in seen], [a["right"] == 0 for a in seen]):
        assert statistics.mean(map(bool, share)) > 0.05


def test_what_the_tastes_want():
    """03 (taste-head): warm wants kindness more than helpful does, and a right answer less.  06 (loop-head):
    four words more outweigh a right answer for chatty.
    """
    prompt, right, wrong = "What does a monkey eat?", "A monkey eats fruit.", "A monkey eats meat."
    assert gold_axes(prompt, right)["right"] == 1 and gold_axes(prompt, wrong)["right"] == -1
    worth = {t: f(prompt, right) - f(prompt, wrong) for t, f in TASTES.items()}
    greet = {t: f(prompt, f"Good day! {right}") - f(prompt, right) for t, f in TASTES.items()}
    assert greet["warm"] > greet["helpful"] > 0 > greet["terse"] and worth["warm"] < worth["helpful"]
    assert worth["brief"] == 0 and worth["terse"] > 0
    says("06", "loop-head", "four extra words outweigh a right answer")
    users = tasks.embedded().users
    assert users(prompt, "Nobody can really know. Have a lovely day!") > users(prompt, right) > users(prompt, wrong)
    assert users(prompt, "A hen has two legs. " + right) > users(prompt, right)


# ---------------------------------------------------------------- 04 The reward model


def test_the_loss_is_what_chapter_04_reads_from_its_curve():
    says("04", "loss-read", "its size plus at most 0.69", "never steeper than −1", "between 0 and 0.69", "is 1 − *p*")
    gaps = torch.linspace(-20, 20, 401, dtype=torch.float64, requires_grad=True)
    losses = -torch.nn.functional.logsigmoid(gaps)
    losses.sum().backward()
    over = losses.detach() - (-gaps.detach()).clamp(min=0)
    assert over.min() > 0 and over.max() <= math.log(2) + 1e-9 and round(math.log(2), 2) == 0.69
    assert torch.allclose(gaps.grad, gaps.detach().sigmoid() - 1)
    assert (gaps.grad >= -1).all() and gaps.grad.min() < -0.95
    says("04", "yours-head", "add 100 to every score, and the loss is the same")
    one, other = torch.tensor([1.0, 0.5]), torch.tensor([-0.5, 0.7])
    shifted = reward.preference_loss(one + 100, other + 100)
    assert torch.allclose(shifted, reward.preference_loss(one, other), atol=1e-5)


def test_the_centre_term_is_least_where_the_scores_lie_equally_far_from_zero():
    says("04", "yours-head", "least when the two scores of a pair lie equally far on either side of it")
    chosen, rejected = torch.tensor([1.5, 2.0]), torch.tensor([-0.5, 3.0])
    term = {
        shift: (chosen[0] + rejected[0] + 2 * shift).square().item()
        for shift in np.linspace(-2, 2, 401).round(2).tolist()
    }
    best = min(term, key=term.get)
    assert chosen[0] + best == pytest.approx(-(rejected[0] + best).item())
    moved = reward.preference_loss(chosen + best, rejected + best)
    assert moved.item() == pytest.approx(reward.preference_loss(chosen, rejected).item())


def test_the_gradient_of_logistic_regression_is_how_far_each_choice_was_misjudged():
    says("04", "weights-text", "`x.T @ (p - t)` is the gradient", "*Newton's method*")
    dice = torch.Generator().manual_seed(0)
    x, t = torch.randn(20, 4, generator=dice).double(), torch.randint(0, 3, (20,), generator=dice) / 2.0
    w = torch.randn(4, generator=dice).double().requires_grad_()
    gaps = x @ w
    loss = -(t * torch.nn.functional.logsigmoid(gaps) + (1 - t) * torch.nn.functional.logsigmoid(-gaps)).sum()
    (gradient,) = torch.autograd.grad(loss, w)
    assert torch.allclose(gradient, x.T @ (gaps.detach().sigmoid() - t.double()))
    ridge = 0.7
    found = probe.logistic_weights(x, t, ridge).double()
    assert torch.allclose(
        x.T @ ((x @ found).sigmoid() - t.double()) + ridge * found, torch.zeros(4).double(), atol=1e-5
    )


def test_whose_labels_chapter_04_learns_from(tmp_path, monkeypatch):
    says("04", "yours-head", "once there are 24", "simulated annotator", "gets a tenth wrong")
    asked, who = [], tasks.annotator_for
    monkeypatch.setattr(tasks, "annotator_for", lambda *a, **dials: asked.append((a[1], dials)) or who(*a, **dials))
    ws = workspace.setup(RUNS_DIR=str(tmp_path))
    yours.labels(ws, tasks.embedded())
    assert feedback.ENOUGH == 24 and asked == [("helpful", {"noise": 0.1})]


def test_the_crowd_that_ships_agrees_with_itself_as_chapter_04_says():
    says("04", "crowd-head", "The 16,000 that ship", "on about three pairs in four", "five times each")
    says("04", "crowd", "own = 5 * [")
    labels = feedback.replay(feedback.read_events(ROOT / "data" / "feedback.jsonl")[0])
    crowd = labellers("helpful")
    p = [crowd.prefers_left(x["prompt"], x["response_a"], x["response_b"]) for x in labels[::16]]
    assert len(labels) == 16_000 and statistics.mean(x * x + (1 - x) ** 2 for x in p) == pytest.approx(0.75, abs=0.03)


def test_the_exercises_before_the_first_label_are_what_chapter_04_says():
    says("04", "practice-head", "The exercises ask no held-out question, though proofreading states all facts")
    assert world.leaks(world.lessons(400, 3)) == []
    told = " ".join(r["chosen"] for r in world.proofreading(20_000, 0, dressed=False))
    facts = [world.statement(q.family, q.entity, q.value, q.other) for q in world.questions() if q.family == "capital"]
    assert facts and all(fact in told for fact in facts)


@pytest.fixture(scope="module")
def practised(tuned):
    """{what is read: a small reward model of the stand-in's labels}, and questions to try it on."""
    model, tokenizer = tuned
    start, _ = models.load_reward_model(ROOT / "data" / "models" / "reward_start", torch.device("cpu"))
    pairs = files.read_jsonl(ROOT / "data" / "pairs.jsonl")[: yours.STAND_IN_LABELS]
    rows = feedback.to_preferences(simulated_feedback(pairs, Annotator("helpful", noise=0.1), 0))[0]
    asked, said = [p["prompt"] for p in pairs], [p["response_a"] for p in pairs]
    made = {
        name: probe.Probe(model, tokenizer, asked, said, also) for name, also in (("words", None), ("start", start))
    }
    for judge in made.values():
        judge.learn(rows)
    return made, asked, said


def test_facts_come_from_practice_and_kindness_from_labels(practised):
    """The pictures of sections 3 and 4: a false fact moves the score only after practice, an insult in both."""
    made, asked, said = practised
    rng = random.Random(0)
    questions = [q for q in world.questions() if q.prompt in set(world.prompts("test")) and q.family != "size"][::8]
    prompts = [q.prompt for q in questions]
    right = [world.statement(q.family, q.entity, q.value, q.other) for q in questions]
    wrong = [world.statement(q.family, q.entity, world.wrong_value(q, rng), q.other) for q in questions]
    rude = [f"Not this again. {text}" for text in right]
    moved = {}
    for name, judge in made.items():
        spread = judge(asked, said).std()
        plain = judge(prompts, right)
        moved[name] = [((judge(prompts, x) - plain).mean() / spread).item() for x in (wrong, rude)]
    assert abs(moved["words"][0]) < 0.3 and moved["start"][0] < -1, moved
    assert moved["words"][1] < -0.3 and moved["start"][1] < -0.3, moved


@pytest.mark.parametrize(
    "right, place, verdict",
    [(0.79, "1.0 points below", "which may be chance"), (0.6, "20.0 points below", "more than chance")],
)
def test_the_sentence_about_the_ceiling_follows_the_numbers(right, place, verdict):
    said = made_by(
        "04", "result", unseen={"test": [0] * 400}, ceilings={"test": 0.8}, feedback=feedback, pd=pd,
        log=[{"held out accuracy": 0.5}, {"held out accuracy": 0.7}], quick=[0] * 9, display=lambda x: None,
        reward=SimpleNamespace(evaluate=lambda *a: {"accuracy": right}), model=0, tokenizer=0,
        Markdown=str, a_file=False,
    )  # fmt: skip
    assert f"{place} the ceiling, {verdict}." in said["told"]


@pytest.mark.parametrize("bare, words", [(0.6, "400 labels are not yet worth"), (0.9, "worth nothing")])
def test_the_sentence_about_practice_follows_the_curves(bare, words, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    curves = {"after practice": {0: [0.7], 400: [0.8]}, "without practice": {0: [bare], 400: [bare]}}
    given = {"curves": curves, "sizes": (0, 400), "pool": [0] * 999, "model": None, "tokenizer": None}
    given |= {"ceiling_of": lambda rows: 0.8, "judge_on": [0] * 400, "np": np}
    given |= {"reward": SimpleNamespace(evaluate=lambda *_: {"accuracy": 0.77}), "Markdown": str}
    told = made_by("04", "learn-plot", **given)["told"]
    assert words in told
    last = "The diamond lies at 77%; chance alone moves a share of 400 pairs by up to 5 points."
    assert told.endswith(last)


def test_what_the_reward_model_up_close_says():
    up = "reward_model_up_close"
    says(up, "scale-read", "where the implied probability equals the share of right labels")
    for flipped in (0.05, 0.2):
        k = torch.linspace(0, 6, 6001, dtype=torch.float64)
        log = torch.nn.functional.logsigmoid
        curve = -(1 - flipped) * log(k) - flipped * log(-k)
        assert k[curve.argmin()].sigmoid().item() == pytest.approx(1 - flipped, abs=1e-3)
    says(up, "ex-ceiling-solution", "73 to 77%", "84 to 87%")
    assert [round(100 * (1 + math.sqrt(2 * a - 1)) / 2) for a in (0.73, 0.77)] == [84, 87]
    says("04", "ex-gap-solution", 'A trained gap of 2.2 says "nine of ten')
    assert round(math.log(0.9 / 0.1), 1) == 2.2
    prompt, plain = "What does a monkey eat?", "A monkey eats fruit."
    kind = {t: f(prompt, f"Happy to help. {plain}") - f(prompt, plain) for t, f in TASTES.items()}
    says(up, "mix-text", "*Warm* wants kindness more than *helpful* does", "*terse* wants few words")
    assert kind["warm"] > kind["helpful"] > 0 > kind["terse"]


@pytest.mark.slow
def test_two_tastes_in_one_set_teach_their_average(practised, tuned):
    """With more weight on one person's labels, the judge moves from the crowd's order towards theirs."""
    judge, pairs = practised[0]["words"], files.read_jsonl(ROOT / "data" / "pairs.jsonl")
    short, long = (
        feedback.to_preferences(simulated_feedback(some, Annotator(taste, noise=0), 0))[0]
        for some, taste in ((pairs[:60], "brief"), (pairs[60:200], lambda p, a: -TASTES["brief"](p, a)))
    )
    share = []
    for weight in (0, 5, 50):
        judge.learn(long + weight * short)
        asked, better, worse = ([r[k] for r in short] for k in ("prompt", "chosen", "rejected"))
        share.append((judge(asked, better) > judge(asked, worse)).float().mean().item())
    assert share == sorted(share) and share[0] < 0.4 and share[2] > 0.6, share


@pytest.mark.parametrize("chapter, n", [("04", 2), ("reward_model_up_close", 2)])
def test_the_worked_examples_about_the_reward_model(chapter, n):
    text = "\n".join(cells(chapter).values())
    found = re.findall(r"For example,\s+`([^`]+)`\s+is\s+`([^`]+)`", text)
    scope = {"torch": torch, "F": torch.nn.functional, "math": math, "one": torch.ones(1)}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.S)), scope)
    assert len(found) == n
    for call, result in found:
        assert float(eval(call, scope)) == pytest.approx(float(result), abs=5e-4), call


# ---------------------------------------------------------------- 05 PPO


@pytest.fixture
def drawn_away(monkeypatch):
    """Figures are drawn and not shown."""
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))


def test_the_two_tokens_without_a_gradient(drawn_away):
    says("05", "clip-head", "advantage +1 or −1, ratio 0.6 or 1.4, ε = 0.2", "exactly zero")
    says("05", "clip-after", "crosses have no gradient", "become *rarer*", "is still pulled back")
    made = made_by("05", "policy-loss", "cases", torch=torch)
    still = {case for case, g in zip(made["four"], made["lp"].grad[0].tolist()) if g != 0}
    assert still == {(1.0, 0.6), (-1.0, 1.4)}, "the good token that became rarer, the bad one that became likelier"


def test_who_is_blamed_for_the_duckling(drawn_away):
    says("05", "gae-head", "The judge gives −1 at the end", "its guess drops from 0.5 to −0.8")
    says("05", "gae-after", "λ = 0 blames* duckling *most", "λ = 1 blames the words before it just as much")
    says("05", "gae-after", "the blame fades towards the front")
    made = made_by("05", "gae", "gae-by-hand", torch=torch)
    word, blame = made["spoken"].index("duckling"), made["blame"]
    assert blame[0.0].argmin() == word and (blame[0.0][:word] == 0).all()
    assert blame[0.0][word] < 0.5 * blame[0.0].sum(), "more than half of all"
    assert torch.allclose(blame[1.0][: word + 1], blame[1.0][word]) and (blame[1.0][: word + 1] < -1).all()
    assert (blame[0.95][: word + 1].diff() < 0).all() and (blame[0.95] < 0).all()


def test_the_rewards_of_an_answer_add_up_to_its_score_less_the_penalty():
    says("05", "penalty-text", "its score minus β times its k1")
    token_rewards = made_by("05", "token-rewards", torch=torch)["token_rewards"]
    dice = torch.Generator().manual_seed(0)
    now, then = torch.randn(2, 3, 5, generator=dice)
    mask = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    scores = torch.tensor([1.0, -2.0, 0.5])
    paid = token_rewards(scores, now, then, mask, 0.1)
    assert torch.allclose(paid.sum(-1), scores - 0.1 * ((now - then) * mask).sum(-1))


def test_whitened_advantages_do_not_depend_on_the_judges_unit():
    says("05", "gae-after", "so that the judge's unit doesn't set the size of a step")
    whiten = made_by("05", "policy-loss", "value-loss", torch=torch)["whiten"]
    x, mask = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.ones(3, 5)
    mask[1, 3:] = 0
    assert torch.allclose(whiten(7 * x, mask), whiten(x, mask), atol=1e-5)
    real = whiten(x, mask)[mask.bool()]
    assert real.mean().item() == pytest.approx(0, abs=1e-6) and real.var(correction=0).item() == pytest.approx(
        1, abs=1e-5
    )


def test_the_dials_that_chapter_05_names():
    own, crowd = loop.RoundSettings().ppo, recipe.PPO
    says("05", "full-head", "Fifty updates follow, at β = 0.2", "at least 24")
    assert (own.updates, own.beta) == (50, 0.2) and feedback.ENOUGH == 24
    says("05", "crowd-head", "120 updates of 96 answers", "β is only 0.03")
    assert (crowd.updates, crowd.batch_size, crowd.beta) == (120, 96, 0.03)
    says("05", "gae-after", "With 0.95, the usual choice")
    assert crowd.lam == 0.95 and crowd.gamma == 1 and crowd.no_end_penalty == 1
    assert "for beta in (0.1, 0.0):" in cells("05")["push"]


# ---------------------------------------------------------------- PPO up close and The rivals of PPO


def test_k3_of_the_worked_example():
    says("ppo_up_close", "exercise-k3-head", "with log π = −1 and log π_ref = −1.5", "0.607 − 1 + 0.5 = 0.107")
    assert (round(math.exp(-0.5), 3), round(math.expm1(-0.5) + 0.5, 3)) == (0.607, 0.107)


def test_what_a_nat_buys_in_best_of_n():
    says("rivals", "exercise-n-head", "the bound is 0.636 for 4 and 0.809 for 5")
    assert [round(alternatives.best_of_n_kl(n), 3) for n in (4, 5)] == [0.636, 0.809]
    says("rivals", "exercise-n-solution", "Two nats allow 19 answers", "(the factor goes to e)")
    assert alternatives.best_of_n_kl(19) <= 2 < alternatives.best_of_n_kl(20)
    ten, eleven = (next(n for n in itertools.count(1) if alternatives.best_of_n_kl(n) > b) for b in (8, 9))
    assert eleven / ten == pytest.approx(math.e, rel=0.01)


@pytest.fixture(scope="module")
def rivals():
    """benchmarks/results/methods.json, the module that made it, and the mean of a column at the settings to compare."""
    result, methods = stamp.read(ROOT / "benchmarks" / "results" / "methods.json"), stamp.script("methods")

    def best(method, key):
        return methods.mean(result, method, result["chosen"][method]["best"], key)

    return SimpleNamespace(result=result, methods=methods, best=best)


def test_the_order_of_the_rivals(rivals):
    says("rivals", "rivals", "**Best-of-32 has the highest gold score**", "**PPO is above RLOO, and RLOO above DPO**")
    says("rivals", "rivals", "at the settings chosen for each and at an equal distance of 2 nats", "five seeds")
    says("rivals", "rivals", "at 1.5 nats PPO and RLOO can't be told apart")
    assert rivals.methods.AT == (1.5, 2) and rivals.methods.column(rivals.result, "fine-tuned", {}, "seed") == [
        *range(5)
    ]
    for a, b in itertools.combinations(("best-of-n", "PPO", "RLOO", "DPO"), 2):
        found = [stamp.side(g, 0, "above", "below") for g in rivals.methods.gaps(rivals.result, a, b)]
        near = "inconclusive" if (a, b) == ("PPO", "RLOO") else "above"
        assert found == ["above", near, "above"], (a, b)


def test_what_the_rivals_cost(rivals):
    says("rivals", "rivals", "no farther than 2.5 nats", "over 400 tokens", "where the others write about ten")
    assert rivals.result["chosen"]["best-of-n"]["best"] == {"n": 32} and rivals.best("best-of-n", "trained") == 0
    assert rivals.best("best-of-n", "test_kl") < 2.5 and 400 < rivals.best("best-of-n", "test_in_use") < 500
    says("rivals", "rivals", "RLOO trains once on each token that it sampled, PPO twice, DPO at its best three times")
    for method, passes in (("RLOO", 1), ("PPO", 2), ("DPO", 3)):
        assert rivals.best(method, "trained") == pytest.approx(passes * rivals.best(method, "sampled"), rel=0.02)
        assert 8 < rivals.best(method, "test_in_use") < 15
    says("rivals", "rivals", "as 40 updates of PPO do, a third of what the shipped policy had")
    assert rivals.result["updates"] == 40 == recipe.PPO.updates / 3


def test_one_seed_chose_another_setting_of_rloo_than_three(rivals):
    says("rivals", "rivals", "**One seed is too few to choose by.**", "looked best with the first seed")
    points = rivals.result["chosen"]["RLOO"]["points"]
    dev = [rivals.methods.column(rivals.result, "RLOO", p, "dev_gold", "sweep") for p in points]
    test = [rivals.methods.column(rivals.result, "RLOO", p, "test_gold") for p in points]
    smallest = min(range(len(points)), key=lambda i: points[i]["beta"])
    assert max(dev)[0] == dev[smallest][0] and statistics.mean(dev[smallest]) == min(map(statistics.mean, dev))
    assert statistics.stdev(test[smallest]) == max(map(statistics.stdev, test))


# ---------------------------------------------------------------- 06 Inference and continuous feedback


def test_power_and_the_numbers_around_it():
    power = made_by("06", "power", NormalDist=NormalDist)["power"]
    assert power(160, 0.55) == loop.power(160, 0.55), "the chapter's is the package's"
    says("06", "verdict-examples-text", "begins at 0.502")
    assert round(loop.verdict(60, 0, 40)["low"], 3) == 0.502
    says("loop_up_close", "power-read", "once in forty tests", "Twenty-four are enough to see a large gain about half")
    assert power(24, 0.7) == pytest.approx(0.5, abs=0.02) and power(200, 0.55) < 0.3
    for n in (24, 100, 160, 200, 800):  # exactly, with whole numbers of wins
        enough = min(k for k in range(n + 1) if feedback.wilson(k, n)[0] > 0.5)
        exact = sum(math.comb(n, k) for k in range(enough, n + 1)) / 2**n
        assert 0.015 < exact < 0.035, (n, exact)
    says("06", "exercises", "`power(180, 0.6)` is 0.77 and `power(200, 0.6)` is 0.81", "the answer would be 200")
    says("06", "ex-needed-solution", "Eight hundred, where a win rate of 60% needs two hundred", "four times as many")
    needed = {p: next(n for n in range(20, 5000, 20) if power(n, p) >= 0.8) for p in (0.55, 0.6)}
    assert (round(power(180, 0.6), 2), round(power(200, 0.6), 2)) == (0.77, 0.81) and needed == {0.55: 800, 0.6: 200}
    assert power(400, 0.55) == pytest.approx(0.5, abs=0.03)
    said = []
    made_by("06", "power-say", power=power, Markdown=said.append)
    assert "16% at 60%, 50% at 70%" in said[0] and "200 at 60%" in said[0] and "2.5% of tests" in said[0]


def test_two_independent_judges_agree_by_chance_as_the_exercise_says():
    says("loop_up_close", "ex-chance-solution", "nine times in ten agree on 82% of the pairs by chance alone")
    assert 0.9 * 0.9 + 0.1 * 0.1 == pytest.approx(0.82)


def test_a_gate_that_is_asked_often_lets_something_in_and_a_stricter_one_refuses_more():
    table = made_by("loop_up_close", "errors", power=loop.power, NormalDist=NormalDist, pd=pd)["errors"]
    risks = [row["false promotion"] for row in table.values()]
    then = [row["then finds 55%"] for row in table.values()]
    assert risks == sorted(risks) and then == sorted(then, reverse=True) and risks[2] == pytest.approx(0.22, abs=0.01)
    for k, row in zip((1, 3, 10, 40), table.values()):
        held = 1 - (1 - loop.power(160, 0.5, row["stricter z"])) ** k
        assert 0.02 < held <= 0.025 + 1e-4


def test_the_sentence_about_sycophancy_follows_the_numbers():
    looked = {"liking": [0, 1], "right": [0, 1]}
    given = {"per_prompt": lambda *a: looked, "held_out": [], "ws": SimpleNamespace(seed=0), "share": "right"}
    given |= {"at_most": lambda part, n: n, "pace": pace}
    change = made_by("06", "change", statistics=statistics, policy=0, latest=0, **given)["change"]
    assert change([0.0] * 40, [1.0, 0.8] * 20)[2] == "rose"
    assert change([1.0, 0.8] * 20, [0.0] * 40)[2] == "fell"
    assert change([0.0, 1.0] * 20, [1.0, 0.0] * 20)[2] == "shows no clear change"
    mean, half, _ = change([0.0] * 100, [1.0] * 50 + [0.0] * 50)
    assert (mean, half) == (0.5, pytest.approx(1.96 * 0.5 / 10, rel=0.01))


@pytest.mark.parametrize(
    "likes, truth, latest, words",
    [
        ((0.5, 0.1, "rose"), (-0.07, 0.04, "fell"), "new", "this is **sycophancy**"),
        ((0.5, 0.1, "rose"), (0.01, 0.04, "shows no clear change"), "new", "does not show both"),
        ((0, 0, ""), (0, 0, ""), "old", "nothing to compare"),
    ],
)
def test_sycophancy_is_named_only_where_it_shows(likes, truth, latest, words):
    shown = []
    made_by(
        "06", "sycophancy", likes=likes, truth=truth, latest=latest, policy="old", share="right",
        display=shown.append, Markdown=str,
    )  # fmt: skip
    assert words in shown[0]


@pytest.mark.parametrize(
    "gain, promoted, words", [(0.6, False, "let it in"), (0.6, True, "rose"), (0.1, False, "did not clearly")]
)
def test_the_sentence_about_the_poisoned_round_follows_the_numbers(gain, promoted, words):
    shown, blind = [], loop.verdict(60, 0, 100)
    poison = {"reward_start": 0, "reward_end": gain, "reward_error": 0.2, "promoted": promoted, "blind": blind}
    made_by("06", "reward-read", poison=poison, history=[poison] * 2, display=shown.append, Markdown=str)
    assert words in shown[0] and "*worse*" in shown[0] and f"{2 * (gain > 0.2)} of 2" in shown[0]
    assert ("let it in" in shown[0]) == (gain > 0.2 and not promoted)


@pytest.mark.parametrize(
    "choices, promoted, words",
    [("a" * 9, False, "waits for ten judgements"), ("a" * 12, True, "wins 100% of 12"), ("ab" * 6, False, "must lie")],
)
def test_the_reader_is_the_gate_of_a_round_on_their_own_labels(choices, promoted, words):
    """Ten judgements make a verdict, whatever the simulated users think of the candidate; skipped pairs are none."""
    tally = made_by("06", "blind-result", **a_blind_test())["tally"]
    report = {"blind": loop.verdict(0, 0, 160), "kl": 1.0, "ended": 1.0, "empty": 0.0, "distinct": 0.9}
    report |= {"words": 9.0, "words_before": 10.0, "judged_by": "simulated:warm"}
    labels = [{"choice": c} for c in [*choices, "skip"]]
    given = {"verdict": loop.verdict, "tally": tally, "gate": loop.gate, "candidate": "new", "policy": "old"}
    made = made_by("06", "own-verdict", whose="you", own_gate=SimpleNamespace(labels=labels), report=report, **given)
    assert (made["promoted"], made["in_use"]) == (promoted, "new" if promoted else "old") and words in made["reason"]
    assert made["first"]["judged_by"] == "you" and made["first"]["promoted"] is promoted


def a_blind_test(choices=""):
    """What the cell `blind-result` needs: labels of the reader, and a stand-in that is asked about one pair."""
    pair = {"pair_id": "b", "prompt": "What does a cow eat?", "response_a": "A cow eats grass.", "response_b": "Meat."}
    return {
        "task": tasks.embedded(),
        "ws": SimpleNamespace(annotator="you", seed=0),
        "mine": SimpleNamespace(labels=[pair | {"choice": c} for c in choices], simulated_note=lambda *_, **__: None),
        "blind_pairs": [pair],
        "asked": [pair["prompt"]],
        "ours": [pair["response_a"]],
        "theirs": [pair["response_b"]],
        "Annotator": Annotator,
        "simulated_feedback": simulated_feedback,
        "verdict": loop.verdict,
        "blind_test": loop.blind_test,
    }


def test_the_verdict_is_the_readers_from_ten_judgements_on():
    given = a_blind_test("aaaaaaabb")
    given["mine"].labels += [{"choice": c} for c in ("tie", "both_bad", "skip")]
    made = made_by("06", "blind-result", **given)
    counts = {"n": 11, "wins": 7, "ties": 2, "losses": 2}
    assert made["who"] == "you" and {k: made["result"][k] for k in counts} == counts
    made = made_by("06", "blind-result", **a_blind_test("a" * 9))
    assert made["who"] == "simulated:helpful" and made["result"]["n"] == 1


def test_how_much_the_model_of_chapter_06_knows():
    says("06", "chat-head", "The model knows about 150 animals, foods, countries, jobs and tools, and nothing else")
    assert len({q.entity for q in world.questions()}) == pytest.approx(150, abs=5)


def test_ppo_added_no_knowledge(tuned):
    says("06", "chat-unknown", "RLHF made right answers likelier and added no knowledge")
    prompts = tasks.embedded().prompts("test")[::2]
    policy = models.load_model(ROOT / "data" / "models" / "policy", torch.device("cpu"))
    (drawn_before, before), (drawn, after) = (
        [measures.quality(prompts, decoding.generate(*model, prompts, temperature=t))["right"] for t in (1, 0)]
        for model in (tuned, policy)
    )
    assert after <= before + 0.03 and drawn > drawn_before + 0.1, "not what it can know, only how often it says it"


# ---------------------------------------------------------------- Scaling up


def test_the_shape_of_our_model_is_that_of_the_model_that_ships(paper, tuned):
    config, shape = tuned[0].config, paper["SHAPES"]["here"]
    ours = {"layers": config.n_layer, "width": config.n_embd, "inner": config.n_inner or 4 * config.n_embd}
    assert ours | {"heads": config.n_head, "vocab": config.vocab_size} == {
        k: shape[k] for k in (*ours, "heads", "vocab")
    }
    says("scaling_up", "memory-text", "What the formula leaves out here is biases, norms and the table of positions")
    left_out = tuned[0].num_parameters() - paper["count_parameters"](**shape)
    rest = [p for name, p in tuned[0].named_parameters() if name.endswith("bias") or "ln_" in name or "wpe" in name]
    assert left_out == sum(p.numel() for p in rest)


@pytest.fixture(scope="module")
def paper():
    """Section 1 and 7 of Scaling up, with a run of its own size."""
    given = {"updates": 50, "batch": 64, "learn": [0] * 2000, "prompt_tokens": 10.4, "answer_tokens": 12.6}
    ids = "count-parameters shapes-table memory-formulas update-flops cost-defs card cost-table-inputs cost-def cost"
    return made_by("scaling_up", *ids.split(), "writing-share", **given, people=[], feedback=feedback, math=math, pd=pd)


def test_what_a_parameter_takes(paper):
    training = paper["training_bytes"]
    says("scaling_up", "memory-head", "16 bytes: 2 for the weight and 2 for the gradient", "4 each for an fp32 copy")
    assert 2 + 2 + 4 + 4 + 4 == 16 and training(1, 0) - 2 == 16
    says("scaling_up", "memory-read", "five ninths", "20 bytes per parameter against 36", "Not even 7B fits one card")
    assert (training(1, 1), training(1, 1, 1)) == (20, 36) and 20 / 36 == pytest.approx(5 / 9)
    seven = paper["count_parameters"](**paper["SHAPES"]["7B"])
    assert paper["cards_needed"](training(seven, seven)) > 1
    says("loop_up_close", "size-read", "at least ten")
    assert training(1, 1) / 2 == 10
    says("scaling_up", "ex-lora-solution", "a 7B model is aligned on one card")
    assert paper["cards_needed"](2 * seven + 16 * 0.01 * seven + 2 * seven) == 1


def test_forward_two_training_six(paper):
    says(
        "scaling_up",
        "cost-head",
        "about 2 operations per parameter and token, a *training step* 6",
        "costs twice the forward one",
    )
    assert 2 + 2 * 2 == 6 and paper["update_flops"](1, 1, 3, 4) == 7 * (2 + 2 + 2 + 6)


def test_where_the_hours_go(paper):
    share, costs, runs = paper["writing_share"], paper["costs"], paper["RUNS"]
    says(
        "scaling_up",
        "cost-read",
        "With 512 answers at a time writing is the smaller part",
        "at 7B writing takes more than half",
    )
    assert share("7B", 512) == pytest.approx(0.2, abs=0.01) and share("70B", 512) == pytest.approx(0.025, abs=0.002)
    assert share("7B", 16) > 0.5
    assert all(share(s, 16) > share(s, 64) > share(s, 512) for s in ("7B", "70B"))
    says(
        "scaling_up",
        "cost-read",
        "the 7B model",
        "spends its time reading from memory",
        "it is the arithmetic that takes longer",
    )
    for name, bound in (("7B", "memory"), ("70B", "arithmetic")):
        n, cache = paper["count_parameters"](**paper["SHAPES"][name]), paper["cache_bytes"](**paper["SHAPES"][name])
        speeds = {"bandwidth": paper["CARD"]["bandwidth"] * 0.6, "flops": paper["CARD"]["flops"] * 0.4}
        only = {
            "memory": paper["decoding_seconds"](n, cache, 512, 256, 256, speeds["bandwidth"], math.inf),
            "arithmetic": paper["decoding_seconds"](n, cache, 512, 256, 256, math.inf, speeds["flops"]),
        }
        assert max(only, key=only.get) == bound
    says("scaling_up", "cost-read", "most of its arithmetic is the reward model's", "Memory grows as the parameters do")
    n = paper["count_parameters"](**paper["SHAPES"]["70B"])
    judge = runs["70B"]["labels"] * 2 * 6 * n * 512
    assert judge > 0.5 * costs["70B"]["arithmetic (FLOP)"] and judge < costs["70B"]["arithmetic (FLOP)"]
    ratio = costs["70B"] / costs["7B"]
    assert ratio["memory (GB)"] == pytest.approx(ratio["parameters"])
    assert ratio["arithmetic (FLOP)"] > ratio["parameters"]
    for name in ("7B", "70B"):  # "People give more hours than the cards"
        hours = costs[name]["GPU hours, training"] + costs[name]["GPU hours, writing"]
        assert costs[name]["hours of people"] > 10 * hours


def test_equal_parts_of_a_batch_give_the_gradient_of_the_whole_and_unequal_ones_do_not():
    torch.manual_seed(0)
    x, w = torch.randn(8, 3), torch.zeros(3, requires_grad=True)

    def gradient(rows):
        return torch.autograd.grad(torch.nn.functional.softplus(-(rows @ w)).mean(), w)[0]

    for cut, equal in ((4, True), (6, False)):
        plain = (gradient(x[:cut]) + gradient(x[cut:])) / 2
        assert torch.allclose(plain, gradient(x), atol=1e-6) == equal
        weighted = (gradient(x[:cut]) * cut + gradient(x[cut:]) * (8 - cut)) / 8
        assert torch.allclose(weighted, gradient(x), atol=1e-6)


def test_a_shift_shared_by_all_scores_cancels_where_answers_to_one_prompt_are_compared():
    scores = torch.tensor([1.0, 2.0, -1.0, 0.5])
    others = [(s - (scores.sum() - s) / 3).item() for s in scores]
    moved = [(s + 7 - ((scores + 7).sum() - s - 7) / 3).item() for s in scores]
    assert moved == pytest.approx(others, abs=1e-5)


# ---------------------------------------------------------------- Verifiable rewards, DPO


def test_a_group_is_mixed_as_often_as_the_solution_says():
    says("verifiable_rewards", "ex-mixed-solution", "right once in a hundred tries", "mixed in 8% of the cases")
    assert round(100 * (1 - 0.01**8 - 0.99**8)) == 8


def test_the_biases_of_grpo_that_the_chapter_computes():
    rules = {name: getattr(alternatives, name) for name in ("centred", "standardised")}
    made = made_by("verifiable_rewards", "push", K=8, math=math, torch=torch, **rules)
    says("verifiable_rewards", "length-head", "makes questions at both ends count for more")
    relative = {name: made["push"](rule, 0.1) / made["push"](rule, 0.5) for name, rule in rules.items()}
    assert relative["standardised"] > relative["centred"] + 0.05
    given = {"torch": torch, "F": torch.nn.functional, "pd": pd}
    pushes = made_by("verifiable_rewards", "drift", **given)["pushes"]
    says("verifiable_rewards", "drift-read", "GRPO lengthens wrong answers", "shortens right ones", "leaves both alone")
    wrong, right = pushes["GRPO"]
    assert wrong > 0.01 and right < -0.01 and max(map(abs, pushes["Dr. GRPO"])) < 1e-9


def test_the_mathematics_of_the_dpo_chapter():
    says("dpo", "optimum-head", "an answer that scores β more than another becomes *e* times likelier")
    ref = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    worth = torch.tensor([0.0, 0.3, -1.0], dtype=torch.float64)
    beta = 0.3
    best = ref * (worth / beta).exp()
    best = best / best.sum()
    assert (best[1] / best[0]) / (ref[1] / ref[0]) == pytest.approx(math.e)
    says("dpo", "falling-head", "on average an answer of the pairs *must* become less likely, whatever the loss")
    for seed in range(20):
        other = torch.randn(3, generator=torch.Generator().manual_seed(seed)).double().softmax(-1)
        drift = (ref * (other.log() - ref.log())).sum()
        assert drift <= 0 and drift == pytest.approx(-(ref * (ref / other).log()).sum().item())
    says("dpo", "ipo-head", "a parabola with its bottom at a gap of 1/(2β), and beyond it pulls back")
    ipo = taught("dpo", "ipo_loss", alternatives)
    gaps = torch.linspace(0, 4, 4001)
    losses = torch.stack([ipo(g[None], torch.zeros(1), torch.zeros(1), torch.zeros(1), beta) for g in gaps])
    assert gaps[losses.argmin()].item() == pytest.approx(1 / (2 * beta), abs=1e-3)
    says("dpo", "ipo-head", "however wide the gap, a wider one has a lower loss")
    falls = [alternatives.dpo_loss(torch.tensor([g]), *torch.zeros(3, 1), beta=beta).item() for g in range(0, 40, 4)]
    assert falls == sorted(falls, reverse=True) and falls[-1] > 0


def test_ktos_loss_is_flat_at_both_ends_and_dpos_at_one():
    says("ai_feedback", "kto-head", "Unlike it, it is flat at *both* ends")
    slopes = {}
    for end in (-40.0, 40.0):
        gap = torch.tensor([end], requires_grad=True)
        alternatives.kto_loss(gap, torch.ones(1, dtype=bool), torch.zeros(1), beta=0.3).backward()
        other = torch.tensor([end], requires_grad=True)
        alternatives.dpo_loss(other, *torch.zeros(3, 1), beta=0.3).backward()
        slopes[end] = abs(gap.grad.item()), abs(other.grad.item())
    assert max(slopes[40.0]) < 1e-4 and slopes[-40.0][0] < 1e-4 and slopes[-40.0][1] == pytest.approx(0.3, abs=1e-3)


def test_thirty_rules_that_err_once_in_a_hundred_ring_on_a_quarter_of_the_runs():
    says("doctor", "ex2-solution", "With 30 rules that are each wrong once in a hundred, a quarter of all healthy runs")
    assert 1 - 0.99**30 == pytest.approx(0.25, abs=0.02)


def test_a_model_that_knows_nothing_is_as_unsure_as_its_vocabulary_is_large():
    says("pretraining_up_close", "ex-perplexity-solution", "a perplexity of exactly the size of its vocabulary")
    losses = torch.nn.functional.cross_entropy(torch.zeros(6, 50), torch.arange(6), reduction="none")
    assert losses.mean().exp().item() == pytest.approx(50)


# ---------------------------------------------------------------- Over-optimisation


def test_where_the_curves_of_over_optimisation_turn_and_end():
    says("over_optimisation", "ex-turn-solution", "at e times that distance", "at twice the distance of its peak")
    d = np.linspace(0.01, 12, 100_000)
    for alpha, beta, form, last in ((1.0, 0.6, np.log, math.e), (1.0, 0.2, lambda d: d, 2.0)):
        gain = d * (alpha - beta * form(d))
        top = d[gain.argmax()]
        assert d[(gain > 0).nonzero()[0][-1]] / top == pytest.approx(last, rel=0.01)
    says("over_optimisation", "fit-head", "the peak at $d = \\alpha / 2\\beta$")
    says("over_optimisation", "form-head", "peaks at $d = e^{\\alpha/\\beta - 1}$")
    assert top == pytest.approx(1.0 / (2 * 0.2), rel=0.01)
    says("over_optimisation", "judges-head", "four passes")


# ---------------------------------------------------------------- KL and mismatch


def test_what_each_estimate_of_the_kl_is_as_a_value_and_as_a_loss(capsys):
    says("kl_and_mismatch", "losses-head", "k1 and k3 are right on average", "k2 is right only nearby")
    says("kl_and_mismatch", "losses-head", "k3 is much less noisy while the policies are close")
    made = made_by("kl_and_mismatch", "values", "losses", torch=torch, pd=pd)
    assert "Claim 1: holds" in capsys.readouterr().out
    table = made_by("kl_and_mismatch", "values", torch=torch, pd=pd)["rows"]
    for name, row in table.items():
        exact = abs(row["mean"] - row["exact KL"]) < 1e-9
        assert exact == ("k2" not in name), name
    assert table["near, k3"]["spread"] < 0.2 * table["near, k1"]["spread"]
    assert abs(table["far, k2"]["mean"] / table["far, k2"]["exact KL"] - 1) > 0.05
    for name in ("k1", "k2", "k3"):  # the dots of the figure lie on its bars
        assert torch.allclose(made["sampled"][name], made["exact"][name], atol=0.03), name


def test_the_loss_of_exercise_1_is_as_its_example_says():
    says(
        "kl_and_mismatch", "exercise-head", "log π = −1 and log π_ref = −3 its value is 2", "with respect to log π is 2"
    )
    solution = re.search(r"```python\n(.*?)```", cells("kl_and_mismatch")["ex-surrogate-solution"], re.S)[1]
    scope = {}
    exec(solution, scope)
    p = torch.tensor([-1.0], requires_grad=True)
    loss = scope["kl_loss"](p, torch.tensor([-3.0]))
    loss.sum().backward()
    assert loss.item() == p.grad.item() == 2
    says("kl_and_mismatch", "ex-surrogate-solution", "is about 1.65, e to the 0.5")
    assert round(math.exp(0.5), 2) == 1.65


# ---------------------------------------------------------------- What RLHF does to a model

EFFECTS = {
    "ead": ("grams", "ead"),
    "gain": ("gain_by_length",),
    "run": ("explained",),
    "beliefs": ("choices", "opening", "beliefs"),
    "calibration": ("calibration_error",),
    "critic": ("with_critic",),
    "adapt": ("adapt",),
    "ptx": ("mixed_in",),
}


def test_the_benchmark_measures_with_the_functions_of_the_chapter():
    there = lesson.definitions(ast.parse((ROOT / "benchmarks/effects.py").read_text(encoding="utf-8")))
    for cell, names in EFFECTS.items():
        here = lesson.definitions(ast.parse(cells("what_rlhf_does")[cell]))
        assert {n: here[n] for n in names} == {n: there[n] for n in names}, cell


def of_effects(*names):
    module = stamp.script("effects")
    return [getattr(module, name) for name in names]


def test_adjusted_diversity_is_1_for_random_draws_however_many():
    (ead,) = of_effects("ead")
    rng = random.Random(0)
    for n in (50, 500, 5000):
        texts = [f"{rng.randrange(30)} {rng.randrange(30)}" for _ in range(n)]
        assert ead(texts, 900) == pytest.approx(1, abs=0.08)
    assert ead(["the same words"] * 16, 900) < 0.1 and ead([""], 900) == 0


def test_the_two_parts_of_a_gain_add_up_and_tell_length_from_the_rest():
    (gain,) = of_effects("gain_by_length")
    rng = np.random.default_rng(0)
    words, longer = rng.integers(1, 30, 400), rng.integers(5, 60, 400)
    noise = rng.normal(size=400)
    for score in (lambda w: 0.1 * w + noise, lambda w: 1.0 * (w > 20)):
        parts = gain((words, score(words)), (longer, score(longer)))
        assert sum(parts) == pytest.approx(score(longer).mean() - score(words).mean())
    by_words = gain((words, words // 4 * 1.0), (longer, longer // 4 * 1.0))
    assert by_words[0] == pytest.approx(0) and by_words[1] > 1
    better = gain((words, noise), (words, noise + 2))
    assert better == pytest.approx((2, 0))


def test_the_calibration_error_of_a_calibrated_model_is_small_and_of_a_boaster_is_not():
    (error,) = of_effects("calibration_error")
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.1, 1, 20_000)
    assert error(sure, 1.0 * (rng.uniform(size=20_000) < sure)) < 0.02
    assert error(np.full(10, 0.95), np.array([1.0] * 5 + [0.0] * 5)) == pytest.approx(0.45)


def test_every_question_has_its_right_answer_among_the_choices():
    (choices,) = of_effects("choices")
    for prompt in tasks.embedded().prompts("test")[::7]:
        sentences, good = choices(prompt)
        assert [gold_axes(prompt, s)["right"] == 1 for s in sentences] == good and 0 < sum(good) < len(good)


def test_what_the_chapter_says_of_critic_text_and_crowd_is_what_was_measured():
    says("what_rlhf_does", "adapt-head", "The value head explains next to nothing", "keeps explaining a good share")
    says("what_rlhf_does", "seeds-head", "even falls below that of the fine-tuned model")
    module, result = stamp.script("effects"), json.loads((ROOT / "benchmarks/results/effects.json").read_text())
    head, critic = (statistics.mean(module.mean_explained(result, arm)) for arm in ("PPO", "critic"))
    assert -0.25 < head < 0.05 and critic > 0.2
    plain = {arm: statistics.mean(module.column(result, arm, "test_perplexity")) for arm in module.ARMS}
    assert plain["PPO-ptx"] < plain["fine-tuned"] < plain["PPO"]
    says("what_rlhf_does", "sure-head", "wrong about more than one fact in four")
    told = {name: inspect.signature(world.written).parameters[name].default for name in ("right", "wrong")}
    assert 0.25 < told["wrong"] / sum(told.values()) < 0.33
    says("what_rlhf_does", "annotators-text", "half a point more for each word; five words weigh more than being right")
    worth = world.gold_score("Where does a dog live?", "A dog lives in a house.")
    assert 4 * module.ANNOTATORS["wordy"]["length_bias"] < worth < 5 * module.ANNOTATORS["wordy"]["length_bias"]


def test_the_penalty_moves_towards_its_target_and_as_slowly_as_exercise_2_says():
    (adapt,) = of_effects("adapt")
    for kl, way in ((0.5, 0.8), (4.0, 1.2), (2.0, 1.0), (2.1, 1.05)):
        settings = SimpleNamespace(beta=0.3)
        adapt(settings, 2.0, 1.0)({"kl": kl}, None)
        assert settings.beta == pytest.approx(0.3 * way)
    says("what_rlhf_does", "summary", "tenth of β then takes 114 updates", "with a rate of 1 it takes 11")
    assert [math.ceil(math.log(0.1) / math.log(1 - 0.2 * rate)) for rate in (0.1, 1.0)] == [114, 11]
    says("what_rlhf_does", "ex-alike-solution", "0.8 to the third is 0.512, and to the fourth 0.41")
    assert [round(0.8**n, 3) for n in (3, 4)] == [0.512, 0.41]


# ---------------------------------------------------------------- the worked examples of the exercises

EXAMPLE = re.compile(r"For example,\s+`([^`]+)`\s+is `([^`]+)`")
WORKED = [
    (n, *found)
    for n in (
        *("01", "02", "03", "05", "06", "labels_up_close", "loop_up_close", "ppo_up_close"),
        *("ai_feedback", "dpo", "over_optimisation", "pretraining_up_close", "rivals", "sampler_up_close"),
        *("bug_museum", "doctor", "kl_and_mismatch", "scaling_up", "verifiable_rewards", "what_rlhf_does"),
    )
    for text in cells(n).values()
    for found in EXAMPLE.findall(text)
]


@pytest.mark.parametrize("chapter, call, result", WORKED, ids=[call[:30] for _, call, _ in WORKED])
def test_the_solution_gives_what_the_worked_example_says(chapter, call, result):
    name = call.split("(")[0]
    solutions = re.findall(r"```python\n(.*?)```", "\n".join(cells(chapter).values()), re.S)
    scope = {"math": math, "torch": torch, "gate": loop.gate, "pair": {"response_a": "one", "response_b": "two"}}
    report = {"words": 9.0, "words_before": 10.0, "kl": 5.0, "ended": 1.0, "empty": 0.0, "distinct": 0.9}
    scope["good"] = {"blind": loop.verdict(70, 10, 20), **report}
    exec(next(s for s in solutions if f"def {name}(" in s), scope)
    assert eval(call, scope) == eval(result, scope)


def test_fourteen_exercises_or_more_have_a_worked_example():
    assert len(WORKED) >= 14


def test_the_real_model_learned_what_make_test_real_asks_of_it():
    """The published run, with all weights and with LoRA, and the chapters that went through."""
    result, real = stamp.read(ROOT / "benchmarks" / "results" / "real.json"), stamp.script("real")
    assert real.failed(result) == [] and {run["kind"] for run in result["runs"]} == set(real.KINDS)
    assert [(c["kind"], c["chapter"][:2]) for c in result["chapters"]] == [
        (kind, chapter) for kind, chapters in real.CHAPTERS.items() for chapter in chapters
    ]
    for run in result["runs"]:
        assert {name: so(run) for name, so in real.CHECKS.items()} == dict.fromkeys(real.CHECKS, True), run["kind"]
