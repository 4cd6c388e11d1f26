"""What the card says that it has learned: the fit, its doubt, its foresight, its words."""

import json
import random
import sys
import time

import numpy as np
import pytest

from rlhf_helpers.desk import card, judge
from rlhf_helpers.desk import labeller as lab
from rlhf_helpers.desk.labeller import Labeller
from rlhf_helpers.engine.files import ROOT, read_jsonl
from rlhf_helpers.lesson import feedback as fb
from rlhf_helpers.world import annotators, gold
from rlhf_helpers.world.annotators import Annotator

PAIRS = read_jsonl(ROOT / "data" / "pairs.jsonl")[:200]


def labelled(tmp_path, taste, n, **more):
    """A card on which a simulated annotator of this taste chose n times, under the name "you"."""
    x = Labeller(PAIRS, tmp_path / "log.jsonl", repeat_share=0.0, **more)
    who = Annotator(taste, noise=0.0, seed=1)
    for _ in range(n):
        item = x.current
        texts = x._texts(item)
        x.choose({"left": "a", "right": "b"}.get(who.choose(item["pair"]["prompt"], *texts), "tie"))
    return x


def test_the_fit_is_the_maximum_of_the_posterior():
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(30, 3)), rng.integers(0, 2, 30).astype(float)
    mean, covariance = judge.believe(x, t)
    p = 1 / (1 + np.exp(-x @ mean))
    assert np.allclose(x.T @ (t - p), mean / judge.PRIOR_VARIANCE, atol=1e-5)
    hessian = x.T @ ((p * (1 - p))[:, None] * x) + np.eye(3) / judge.PRIOR_VARIANCE
    assert np.allclose(covariance @ hessian, np.eye(3), atol=1e-6)


def test_before_any_label_it_has_no_opinion_and_every_chance_is_even():
    belief = judge.believe(np.zeros((0, 2)), [])
    assert np.allclose(judge.chances(belief, np.ones((4, 2))), 0.5)
    assert judge.foreseen(np.zeros((0, 2)), np.zeros(0)) == (0, 0)


def test_a_difference_that_no_pair_has_is_left_out_and_one_has_size_one():
    names, x = judge.gaps(PAIRS, gold.gold_axes)
    assert "asks back" not in names and {"words", "right", "rude"} <= set(names)
    there = np.sqrt((x**2).sum(0) / (x != 0).sum(0))
    assert np.allclose(there, 1)


def test_a_function_that_does_not_know_a_prompt_is_not_asked_again():
    axes = judge.axes_of("Who are you?", "Nobody! Nobody!", gold.gold_axes)
    assert axes == {"words": 2, "repeats": 1, "exclaims": 1, "asks back": 0}


@pytest.mark.parametrize(
    "taste, likes", [("brief", "shorter answers"), ("helpful", "right answers"), ("warm", "no rudeness")]
)
def test_it_says_what_a_simulated_taste_likes(tmp_path, taste, likes):
    x = labelled(tmp_path, taste, 48, axes=gold.gold_axes)
    said = {words: chance for _, words, chance, _ in x.opinion.opinions()}
    assert said[likes] >= card.SURE
    assert f"<b>{likes}</b>: very likely" in x._learnt()


def test_someone_who_tosses_a_coin_is_seldom_said_to_like_anything(tmp_path):
    """Twelve axes, of which chance may settle one in twenty; over ten people."""
    names, x = judge.gaps(PAIRS, gold.gold_axes)
    sure = 0
    for seed in range(10):
        rng = random.Random(seed)
        chosen = rng.sample(range(len(x)), 32)
        belief = judge.believe(x[chosen], [float(rng.random() < 0.5) for _ in chosen])
        sure += sum(chance >= card.SURE for _, _, chance, _ in judge.opinions(belief, names, 32))
    assert sure <= 0.2 * 10 * len(names)


def test_without_knowledge_of_the_world_it_speaks_of_what_can_be_counted_only(tmp_path):
    x = labelled(tmp_path, "helpful", 24)
    assert "right" not in x._learnt() and "length" in {about for about, *_ in x.opinion.opinions()}


def test_foresight_uses_only_what_came_before():
    """The last ten choices are turned round: whatever was learned before them is wrong about all of them."""
    x = np.ones((30, 1)) * np.where(np.arange(30) % 2, 1, -1)[:, None]
    t = (x[:, 0] > 0).astype(float)
    assert judge.foreseen(x, t) == (10, 10)
    turned = np.concatenate([t[:20], 1 - t[20:]])
    assert judge.foreseen(x, turned)[0] <= 1


def test_ties_and_pairs_without_a_difference_are_not_counted_as_foreseen():
    x = np.concatenate([np.ones((8, 1)), np.zeros((2, 1)), np.ones((2, 1))])
    t = np.array([1.0] * 10 + [0.5, 1.0])
    right, asked = judge.foreseen(x, t)
    assert asked == 12 - judge.FEWEST - 3 and right == asked


def test_more_labels_are_promised_by_the_square_root_law_and_never_too_many():
    names = ["words", "repeats"]
    belief = np.array([1.0, 0.0]), np.diag([1.0, 1.0])
    (_, words, chance, more), (_, _, even, none) = judge.opinions(belief, names, 20)
    assert (words, round(chance, 3), even, none) == ("longer answers", 0.841, 0.5, None)
    assert more == round(20 * (1.6449**2 - 1) + 0.5)


def test_both_bad_skips_and_repeats_teach_nothing(tmp_path):
    x = labelled(tmp_path, "brief", 10)
    before = len(x.opinion.t)
    for choice in ("both_bad", "skip"):
        x.choose(choice)
    label = {**x.labels[0], "is_repeat": True, "choice": "tie", "event_id": "x"}
    fb.append_event(x.path, label)
    x.reload()
    assert len(x.opinion.t) == before and len(x.labels) == 13


def test_undo_is_unlearned(tmp_path):
    x = labelled(tmp_path, "brief", 10)
    before = x._learnt()
    x.choose("a")
    assert x._learnt() != before
    x.undo()
    assert x._learnt() == before


def test_the_next_pair_is_the_one_that_would_teach_the_most_and_a_share_is_left_to_chance(tmp_path):
    x = labelled(tmp_path, "brief", judge.FEWEST, order="least sure")
    by_doubt = 0
    for _ in range(40):
        waiting = [pair for pair, _ in x.queue if (*fb.pair_key(pair), False) not in x.judged]
        doubts = dict(zip((p["pair_id"] for p in waiting), x.opinion.doubts(waiting)))
        by_doubt += doubts[x.current["pair"]["pair_id"]] >= max(doubts.values()) - 1e-12
        assert x.current == Labeller(PAIRS, x.path, repeat_share=0.0, order="least sure").current
        x.choose("a")
    assert 26 <= by_doubt <= 38
    assert lab.RANDOM_SHARE == 0.2


def test_repeats_come_in_the_order_of_doubt_too_and_not_too_soon(tmp_path):
    x = Labeller(PAIRS[:40], tmp_path / "log.jsonl", repeat_share=0.25, order="least sure")
    while not x.done:
        x.choose("a")
    assert sum(e["is_repeat"] for e in x.labels) == 10 and len(x.labels) == 50
    for i, label in enumerate(x.labels):
        if label["is_repeat"]:
            first = next(j for j, other in enumerate(x.labels) if other["pair_id"] == label["pair_id"])
            assert i - first > lab.REPEAT_AFTER or i >= 44, "too soon, though others were waiting"


def test_the_card_says_when_the_chapters_begin_to_use_the_labels(tmp_path):
    x = labelled(tmp_path, "brief", fb.ENOUGH - 1)
    assert f"From {fb.ENOUGH} labels on, what follows learns from yours: 1 to go." in x._learnt()
    x.choose("a")
    assert f"You have given {fb.ENOUGH} labels, so what follows learns from yours." in x._learnt()


@pytest.mark.parametrize(
    "labels, skipped, whose, words",
    [
        ([("you", 3)], 0, "you", f"From {fb.ENOUGH} labels on, what follows learns from yours: {fb.ENOUGH - 3} to go."),
        ([("you", 30)], 0, "you", "You have given 30 labels, so what follows learns from yours."),  # other pairs' too
        ([("you", 1), ("ann", 20)], 0, "you", "You have given 1 label, other people 20: from 24 on, what follows"),
        ([("you", 4), ("ann", 20)], 9, "you", "You have given 4 labels, other people 20: what follows learns from all"),
        ([("you", 30), ("simulated:warm", 50)], 0, "simulated:warm", "learns from the labels of simulated:warm; not"),
        ([("you", 30), ("<b>", 30)], 0, "<b>", "As ANNOTATOR says, what follows learns from the labels of &lt;b&gt;; "),
        ([("you", 30), ("ann", 3)], 0, "ann", "the labels of ann, who has given 3 of the 24 that it takes; not "),
        ([("you", 5)], 0, card.FILE, "learns from the file that PREFERENCES names, and from what people label"),
        ([("you", 30)], 0, "", "From 4 labels on, what follows learns from yours: 4 to go."),  # those of this card
    ],
)
def test_the_card_says_whose_labels_the_chapters_learn_from(tmp_path, labels, skipped, whose, words):
    for name, n in labels:
        for i in range(n + skipped):
            pair = dict(zip(fb.PAIR_FIELDS, (f"elsewhere {i}", "Why?", "So.", "No.")))
            fb.append_event(tmp_path / "log.jsonl", fb.label_event(pair, "a", "a" if i < n else "skip", name))
    x = Labeller(PAIRS[:4], tmp_path / "log.jsonl", whose=whose)
    x.ready()
    assert words in x.learnt.value and "chapters" not in x.learnt.value


def test_where_all_pairs_of_a_card_are_judged_what_follows_takes_them(tmp_path):
    x = Labeller(PAIRS[:4], tmp_path / "log.jsonl", repeat_share=0)
    x.ready()
    for choice in ("a", "b", "skip", "tie"):
        x.choose(choice)
    assert "You have given 3 labels, so what follows learns from yours." in x._learnt()


def test_too_few_choices_and_a_learner_turned_off_say_nothing_of_taste(tmp_path):
    assert "said here after 6 choices; so far there are 2" in labelled(tmp_path, "brief", 2)._learnt()
    x = Labeller(PAIRS, tmp_path / "log.jsonl", learn=False)
    x._build()
    x._refresh()
    assert x.learnt.value == ""


def test_a_click_is_learned_from_in_a_moment(tmp_path):
    x = labelled(tmp_path, "helpful", 60, axes=gold.gold_axes, order="least sure")
    times = []
    for _ in range(5):
        x.choose("a")
        began = time.process_time()
        x._learnt(), x.current
        times.append(time.process_time() - began)
    assert sorted(times)[2] < 0.15


def test_what_an_axis_is_called_is_escaped():
    page = card.learnt_html([("<b>", "<script>", 0.9, 3)], 9, (1, 2), "", 6)
    assert "<script>" not in page and "&lt;script&gt;" in page and "settle: &lt;b&gt;" in page


# ---------------------------------------------------------------- is its confidence right?


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import judge as bench
    finally:
        sys.path.pop(0)
    return bench


def test_the_stated_confidence_is_calibrated_over_ten_tastes(bench):
    """In random order; where the card itself chooses the pairs, "likely" may be a little too sure."""
    data = json.loads((ROOT / "benchmarks" / "results" / "judge.json").read_text(encoding="utf-8"))
    assert data["tastes"] == sorted(bench.TASTES) and len(data["tastes"]) == 10
    assert not set(data["tastes"]) & set(annotators.TASTES), "the prior was chosen on these"
    for order, within in (("random", 0.05), ("least sure", 0.07)):
        for what in ("opinions", "next choice"):
            stated = [row for row in data["orders"][order][what] if row["from"] >= card.LIKELY and row["n"] >= 50]
            assert stated and all(row["true"] > row["stated"] - within for row in stated), (order, what, stated)


def test_a_small_case_of_that_measurement(bench):
    tastes = {name: annotators.TASTES[name] for name in ("helpful", "warm", "terse")}
    found = bench.measure(tastes, range(4), "random")
    likely = [row for row in found["opinions"] if row["from"] >= card.LIKELY]
    assert sum(row["n"] for row in likely) > 50
    assert all(row["true"] > row["stated"] - 0.1 for row in likely), likely
    assert found["right about the next choice"][40] > 0.65


def test_confidence_that_is_too_high_is_seen(bench, monkeypatch):
    """With a posterior three times too narrow the same measurement shows it."""
    honest = judge.believe
    monkeypatch.setattr(judge, "believe", lambda x, t: (honest(x, t)[0], honest(x, t)[1] / 9))
    found = bench.measure({"right": bench.TASTES["right"], "few_e": bench.TASTES["few_e"]}, range(2), "random")
    assert any(row["true"] < row["stated"] - 0.1 for row in found["opinions"] if row["from"] >= card.LIKELY)
