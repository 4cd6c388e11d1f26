"""The estimates of over-optimisation: of the chapter, of benchmarks/over_optimisation.py and of chapter 05."""

import itertools
import json
import math
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from taught import taught

from rlhf_helpers.lesson import alternatives
from rlhf_helpers.lesson.alternatives import best_of_n_kl, best_of_n_weights
from rlhf_helpers.make import stamp

over = stamp.script("over_optimisation")


@pytest.fixture
def marks():
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_weights_are_those_of_all_sets_of_n(marks):
    gold = marks.flip(0)
    for n in (1, 2, 5, 8):
        weights = best_of_n_weights(8, n)
        assert sum(weights) == pytest.approx(1)
        sets = [list(some) for some in itertools.combinations(range(8), n)]
        means = [statistics.mean(gold[s, q][marks[s, q].argmax()].item() for s in sets) for q in range(3)]
        assert over.best_of(marks, gold, n) == pytest.approx(statistics.mean(means))


def test_the_chapter_and_the_benchmark_estimate_the_same(marks):
    gold = marks.flip(0)
    given = {"torch": torch, "math": math, "np": np, "POOL": 8, "NS": (1, 3), "gold": gold}
    cell = SimpleNamespace(**given, alternatives=alternatives)
    curve, fit = (taught("over_optimisation", name, cell) for name in ("curve", "fit_form"))
    theirs = [over.best_of(marks, gold, n) for n in (1, 3)]
    assert curve(marks.float(), gold.float()).mean(1) == pytest.approx(theirs)
    wins = taught("over_optimisation", "wins", cell)
    assert wins(marks.float(), 2).mean().item() == pytest.approx(over.wins(marks, marks, 2))
    theirs = over.optimum(marks, gold, 0.5)
    assert taught("over_optimisation", "optimum", cell)(marks, 0.5) == pytest.approx(theirs)
    d = np.array([0.5, 1.0, 1.5, 2.0])
    assert fit(d, d * (2 - 0.5 * d), lambda x: x) == pytest.approx((2, 0.5, 1))
    ours = over.fit(d, d * (2 - 0.5 * np.log(d)), np.log)
    assert [ours[k] for k in ("α", "β", "R²")] == pytest.approx([2, 0.5, 1])


def exact(p, scores, beta):
    """(KL, mean score) of the best policy, by its definition."""
    best = p * np.exp(scores / beta)
    best /= best.sum()
    return (best * np.log(best / p)).sum(), (best * scores).sum()


def test_the_optimum_and_the_kl_of_best_of_n_are_estimated_right_where_both_are_known():
    """On models that say eight things, or a thousand."""
    dice = torch.Generator().manual_seed(0)
    for things, beta in ((8, 0.5), (1000, 0.7)):
        p = torch.rand(things, generator=dice, dtype=torch.float64) + 0.05
        p, scores = p / p.sum(), torch.randn(things, generator=dice, dtype=torch.float64)
        drawn = torch.multinomial(p, 400 * 64, replacement=True, generator=dice).view(400, 64)
        found = over.optimum(scores[drawn], scores[drawn], beta)
        kl, mean = exact(p.numpy(), scores.numpy(), beta)
        assert found["kl"] == pytest.approx(kl, abs=0.05) and found["proxy"] == pytest.approx(mean, abs=0.03)
        assert found["gold"] == pytest.approx(found["proxy"])
        order = scores.argsort()
        below = p[order].cumsum(0)
        for n in (2, 8, 32):
            best = below**n - (below - p[order]) ** n
            kl = (best * (best / p[order]).log()).sum().item()
            assert over.kl_of_best(scores[drawn], p[drawn].log(), n) == pytest.approx(kl, abs=0.04), (things, n)
            assert kl <= best_of_n_kl(n) + 1e-9
            assert over.wins(scores[drawn], scores[drawn], n) <= n / (n + 1) + 0.01


def test_no_policy_is_above_the_optimum(marks):
    """Score less beta KL of any weights on the pool, against that of the estimate."""
    for beta in (0.1, 0.5, 2.0):
        best = over.optimum(marks, marks, beta)
        for seed in range(20):
            w = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(2).softmax(0)
            kl, mean = (w * (8 * w).log()).sum(0).mean().item(), (w * marks).sum(0).mean().item()
            assert mean - beta * kl <= best["proxy"] - beta * best["kl"] + 1e-9


def test_several_judges_together():
    scores = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert over.together(scores, "worst").tolist() == [1, 0]
    assert over.together(scores, "mean").tolist() == [2, 0]
    assert over.together(scores, "mean less variance", 0.5).tolist() == [1.5, 0]


# ---------------------------------------------------------------- tables and verdicts


def like_the_papers(seed, wrong=0.0):
    """The rows of one seed as the papers would have them; `wrong` turns some of it round."""
    wobble = 0.01 * (seed - 1)
    d = np.array([best_of_n_kl(n) for n in over.NS]) ** 0.5
    for method, name, beta in over.plan():
        kind = over.LABELS.index(name) if name in over.LABELS else 5
        slope = 0.7 - 0.1 * kind + wrong * 0.2 * kind + wobble
        row = {"method": method, "judge": name, "beta": beta, "seed": seed, "minutes": 1.0}
        if method == "best-of-n":
            row |= {"accuracy": 0.7, "n": list(over.NS), "proxy": (2 * d).tolist(), "gold": list(d * (1 - slope * d))}
            row["bounded"] = [
                {"n": n, "kl": best_of_n_kl(n) + wrong + wobble / 9, "win": n / (n + 1) + wrong + wobble / 9}
                for n in over.BOUNDED
            ]
            top = [
                {"beta": b, "kl": 1.0, "proxy": 3.0 - 2 * wrong * 4, "gold": 0.0, "spread": 9} for b in over.PENALTIES
            ]
            row |= {"best": top} if name == over.SWEPT else {}
        else:
            kl = np.array([0, 0.2, 0.5, 1, 2, 4, 6, 8.0]) * (1 if not beta else 0.3)
            d2 = np.sqrt(kl)
            gold = d2 * (1 - slope * np.log(np.maximum(d2, 1e-9))) if wrong == 0 else d2 * np.sin(9 * d2)
            lift = 0.3 * (beta > 0) * (1 - 2 * bool(wrong))
            row |= {"update": [0, *over.SEEN], "kl": kl.tolist(), "gold": gold.tolist()}
            row["proxy"] = (d2 + lift * (d2 > 0) + wobble).tolist()
        if name in over.ENSEMBLES[:2]:
            rise = d if method == "best-of-n" else np.sqrt(row["kl"])
            row["gold"] = (rise * (2 if not wrong else -1)).tolist()
        yield json.loads(json.dumps(row))


def result(wrong=0.0):
    return {"chosen": {"weight": 1.0}, "runs": [r for s in range(3) for r in like_the_papers(s, wrong)]}


def test_the_verdicts_follow_the_seeds():
    words = [claim[-1] for claim in over.claims(result())]
    assert words.count("holds") == len(words) - words.count("inconclusive") and words.count("holds") > 12, words
    turned = [claim[-1] for claim in over.claims(result(0.5))]
    assert "fails" in turned and turned.count("holds") < 4, turned


def test_an_interrupted_benchmark_shows_the_seeds_that_are_whole():
    whole = result()
    torn = {**whole, "runs": whole["runs"][:-1]}
    assert "2 seeds" in over.markdown(torn) and "3 seeds" in over.markdown(whole)
    assert len({r["seed"] for r in over.seeds(torn)["runs"]}) == 2
    rows = list(over.reproduced(torn))
    assert all(r.count("|") == 7 for r in rows) and rows[0].endswith(f"| {2 * len(list(over.plan()))} |")
