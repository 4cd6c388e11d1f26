"""A language model as judge: likelihoods against a plain forward, both orders, agreement, and what it labels."""

import ast
import json
import math
import re
import statistics

import pytest
import torch
from test_ppo import PROMPTS, small_tokenizer, tiny

from rlhf_helpers import world
from rlhf_helpers.desk import recipe
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.lesson import ai_feedback, feedback
from rlhf_helpers.make import stamp

ANSWERS = ["Yes.", "It is red and round.", "No.", "A dog lives there, I think."]


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


def plain(model, tokenizer, prompt, answer):
    """Log-probability of an answer, one forward of its own, and its number of tokens."""
    asked, said = models.prompt_ids(tokenizer, prompt), models.response_ids(tokenizer, answer)
    with torch.no_grad():
        logits = model(torch.tensor([asked + said])).logits[0].double().log_softmax(-1)
    return sum(logits[len(asked) + t - 1, token].item() for t, token in enumerate(said)), len(said)


def pairs():
    return [
        {"prompt": p, "response_a": ANSWERS[i % 4], "response_b": ANSWERS[(i + 1) % 4]} for i, p in enumerate(PROMPTS)
    ]


def test_likelihoods_are_those_of_a_plain_forward_in_the_order_of_the_answers(tokenizer):
    model, others = tiny(tokenizer), PROMPTS[1:3]
    prompts = [PROMPTS[0]] * 4
    found = {n: score(prompts, ANSWERS) for n, score in ai_feedback.judges(model, tokenizer, others).items()}
    for i, answer in enumerate(ANSWERS):
        whole, tokens = plain(model, tokenizer, PROMPTS[0], answer)
        assert found["log-probability"][i].item() == pytest.approx(whole, abs=1e-4)
        assert found["per token"][i].item() == pytest.approx(whole / tokens, abs=1e-4)
        elsewhere = [math.exp(plain(model, tokenizer, o, answer)[0]) for o in others]
        assert found["corrected"][i].item() == pytest.approx(whole - math.log(sum(elsewhere) / 2), abs=1e-3)


def test_a_judge_by_likelihood_prefers_the_answer_with_the_higher_score_and_reads_a_constitution(tokenizer):
    model = tiny(tokenizer)
    score = ai_feedback.judges(model, tokenizer, PROMPTS[:1])["log-probability"]
    gaps = ai_feedback.gap(score, pairs())
    for pair, gap in zip(pairs(), gaps.tolist(), strict=True):
        a, b = (plain(model, tokenizer, pair["prompt"], pair[f"response_{side}"])[0] for side in "ab")
        assert gap == pytest.approx(a - b, abs=1e-4)
    told = ai_feedback.gap(score, pairs(), "Be kind.")
    first = pairs()[0]
    a, b = (plain(model, tokenizer, "Be kind.\n" + first["prompt"], first[f"response_{side}"])[0] for side in "ab")
    assert told[0].item() == pytest.approx(a - b, abs=1e-4)


class Says:
    """A judge that is asked, with verdicts of our own: it reads the question, and likes a place and a word."""

    def __init__(self, tokenizer, place, word):
        self.tokenizer, self.place, self.word = tokenizer, place, word

    def __call__(self, prompts, firsts, seconds):
        likes = [self.place + self.word * (("red" in a) - ("red" in b)) for a, b in zip(firsts, seconds)]
        return torch.tensor(likes)


@pytest.mark.parametrize("place", [0.0, 9.0])
def test_the_mean_of_both_orders_has_no_preference_for_a_place(tokenizer, place, monkeypatch):
    judge = Says(tokenizer, place, 2.0)
    monkeypatch.setattr(ai_feedback, "first_over_second", lambda model, tokenizer, *given: judge(*given[:3]))
    gaps, orders = ai_feedback.both_orders(None, tokenizer, pairs())
    liked = [2.0 * (("red" in p["response_a"]) - ("red" in p["response_b"])) for p in pairs()]
    assert gaps.tolist() == pytest.approx(liked)
    assert orders.shape == (2, len(PROMPTS)) and orders.mean().item() == pytest.approx(place)


@pytest.fixture
def roomy(tokenizer):
    """A random model that reads enough to be asked."""
    return models.new_model(tokenizer, 0, layers=2, width=32, heads=2, context=256)


def test_the_verdict_is_the_logit_of_the_first_letter_less_that_of_the_second(tokenizer, roomy):
    p = pairs()[0]
    found = ai_feedback.first_over_second(
        roomy, tokenizer, [p["prompt"]] * 2, [p["response_a"], "So."], [p["response_b"], "It is a very long one."]
    )
    text = ai_feedback.question(p["prompt"], p["response_a"], p["response_b"])
    with torch.no_grad():
        logits = roomy(torch.tensor([models.prompt_ids(tokenizer, text)])).logits[0, -1]
    a, b = (models.response_ids(tokenizer, letter)[0] for letter in "AB")
    assert found[0].item() == pytest.approx((logits[a] - logits[b]).item(), abs=1e-4)


def test_the_question_names_both_answers_in_their_places_under_the_constitution():
    text = ai_feedback.question("Why?", "Since.", "So.", "Be brief.")
    assert text.splitlines()[:4] == ["Be brief.", "Question: Why?", "Answer A: Since.", "Answer B: So."]
    assert ai_feedback.question("Why?", "Since.", "So.").startswith("Question: Why?")


def test_letters_that_begin_alike_are_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(ai_feedback.models, "responses_ids", lambda tokenizer, said: [[7, 1], [7, 2]])
    with pytest.raises(WorkbookError, match="begins A and B with the same token"):
        ai_feedback.first_over_second(tiny(tokenizer), tokenizer, ["p"], ["a"], ["b"])


def test_pairs_that_are_too_long_to_be_asked_about_are_left_out_or_refused(tokenizer, roomy):
    long = {"prompt": PROMPTS[0], "response_a": "word " * 256, "response_b": "No."}
    assert ai_feedback.that_fit(roomy, tokenizer, [*pairs(), long]) == pairs()
    with pytest.raises(WorkbookError, match="it reads only 256"):
        ai_feedback.both_orders(roomy, tokenizer, [long])


def test_agreement_counts_hits_halves_and_leaves_out_what_is_no_choice():
    found = ai_feedback.agreement_with(torch.tensor([1.0, -2.0, 3.0, 0.0, 5.0]), ["a", "b", "b", "a", "tie"])
    assert found["pairs"] == 4 and found["share"] == 2.5 / 4 and found["low"] < found["share"] < found["high"]
    perfect = ai_feedback.agreement_with(torch.tensor([1.0, -1.0]), ["a", "b"])
    assert perfect["share"] == perfect["kappa"] == 1
    nothing = ai_feedback.agreement_with(torch.tensor([1.0]), ["skip"])
    assert nothing["pairs"] == 0 and math.isnan(nothing["kappa"])


def test_labels_of_a_judge_are_preference_rows_and_a_gap_of_0_is_none():
    some = pairs()[:3]
    rows = ai_feedback.preferences(some, torch.tensor([0.5, 0.0, -0.5]))
    assert rows == [
        {"prompt": PROMPTS[0], "chosen": ANSWERS[0], "rejected": ANSWERS[1]},
        {"prompt": PROMPTS[2], "chosen": ANSWERS[3], "rejected": ANSWERS[2]},
    ]
    assert ai_feedback.words_more(some).tolist() == [-4.0, 4.0, -5.0]


# ---------------------------------------------------------------- benchmarks/ai_feedback.py and deeper.py

WOBBLE = (-0.001, 0.0, 0.001)


def seeds(kind, method, **means):
    return [
        {"kind": kind, "method": method, "seed": s, "minutes": 0.5, **{f"test_{k}": x + w for k, x in means.items()}}
        for s, w in enumerate(WOBBLE)
    ]


def result(first=1.0, longer=0.7, told=0.6, taught=1.0, kto=1.0):
    """What benchmarks/ai_feedback.py would write of three seeds."""
    usual = {"agree": 0.6, "kappa": 0.2, "gold": 0.6, "longer": longer}
    rows = [*seeds("judge", "log-probability", **usual), *seeds("judge", "per token", **usual)]
    rows += seeds("judge", "another of the crowd", **usual | {"longer": 0.5})
    for name in ("asked", "log-probability"):
        rows += seeds("judge", f"{name}, constitution", **usual | {"agree": told})
    rows += seeds("judge", "asked", **usual, first=first, same=0.0)
    learned = {"gold": 1.0, "right": 0.5, "polite": 0.3, "words": 9.0, "kl": 1.0}
    rows += seeds("teacher", "crowd", **learned) + seeds("teacher", "AI", **learned | {"gold": taught})
    rows += seeds("teacher", "fine-tuned", **learned) + seeds("teacher", "AI, no reward model", best_of_n=1.0)
    rows += seeds("offline", "DPO", **learned)
    for name in ("KTO", "KTO, one answer of each pair"):
        rows += seeds("offline", name, **learned | {"gold": kto})
    of = {"beta": 0.3, "lr": 1e-4}
    chosen = {"judge": "log-probability", "beta crowd": 0.1, "beta AI": 0.3, "DPO": of, "KTO": of}
    return {"runs": rows, "chosen": chosen}


def test_the_verdicts_on_ai_feedback_follow_the_seeds_and_a_seed_in_the_making_does_not_count():
    bench = stamp.script("ai_feedback")

    def verdicts(**means):
        return [claim[-1] for claim in bench.claims(result(**means))]

    assert verdicts(told=0.7) == ["holds"] * 8
    assert verdicts(first=0.3, longer=0.3, told=0.5, taught=0.5, kto=0.5) == ["fails"] * 8
    assert verdicts(told=0.6)[3:5] == ["inconclusive"] * 2
    half = result()
    half["runs"].append({"kind": "judge", "method": "asked", "seed": 3, "minutes": 1.0, "test_first": 0.0})
    assert list(bench.claims(half)) == list(bench.claims(result()))
    rows = list(bench.reproduced(half))
    assert len(rows) == 8 and all(r.count("|") == 7 for r in rows)
    assert "| KTO |" in bench.markdown(half) and "| asked |" in bench.markdown(half)


def test_settings_are_chosen_by_the_crowd_or_by_gold_among_those_that_stay_near():
    bench = stamp.script("ai_feedback")
    rows = [{"kind": "judge", "method": m, "settings": {}, "agree": a} for m, a in (("asked", 0.5), ("per token", 0.6))]
    rows += [{"kind": "judge", "method": "another of the crowd", "settings": {}, "agree": 0.9}]
    for lr, agree in ((1e-4, 0.6), (1e-3, 0.7)):
        rows += [{"kind": "reward", "method": t, "settings": {"lr": lr}, "agree": agree} for t in bench.TEACHERS]
    for beta, gold, kl in ((0.1, 2.0, 12.0), (0.3, 1.0, 3.0), (1.0, 0.5, 1.0)):
        settings = {"beta": beta, "lr": 1e-4}
        of = {"kind": "offline", "settings": settings, "gold": gold, "kl": kl}
        rows += [of | {"method": m} for m in ("DPO", "KTO")]
        rows += [of | {"kind": "penalty", "method": t, "settings": {"beta": beta}} for t in bench.TEACHERS]
    chosen = bench.choose(rows)
    assert chosen["judge"] == "per token" and chosen["lr AI"] == chosen["lr crowd"] == 1e-3
    assert chosen["DPO"] == chosen["KTO"] == chosen[bench.OFFLINE[2]] == {"beta": 0.3, "lr": 1e-4}
    assert chosen["beta AI"] == chosen["beta crowd"] == 0.3


def test_the_chapter_has_the_settings_that_the_sweep_chose():
    result = stamp.read(ROOT / "benchmarks" / "results" / "ai_feedback.json")
    bench, path = stamp.script("ai_feedback"), ROOT / "notebooks" / "deeper" / "ai_feedback.ipynb"
    text = "\n".join("".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"])
    said = {n: ast.literal_eval(x) for n, x in re.findall(r"^(RATES|DPO|KTO) = (\{.*\})$", text, re.MULTILINE)}
    penalty = float(re.search(r'small \|= .* else \{"beta": ([0-9.]+)\}', text)[1])
    chosen = result["chosen"]
    assert chosen == bench.choose(result["sweep"])
    assert {"DPO": said["DPO"], "KTO": said["KTO"]} == {n: chosen[n] for n in ("DPO", "KTO")}
    assert said["RATES"] == {n: chosen["lr AI" if "AI" in n else "lr crowd"] for n in said["RATES"]}
    assert penalty == chosen["beta crowd"] == chosen["beta AI"] == 10 * recipe.PPO.beta, "ten times, as it says"


def test_what_the_chapter_says_of_following_the_labels_of_a_model():
    result, bench = stamp.read(ROOT / "benchmarks" / "results" / "ai_feedback.json"), stamp.script("ai_feedback")
    text = (ROOT / "notebooks" / "deeper" / "ai_feedback.ipynb").read_text(encoding="utf-8")
    for said in ("With either teacher more answers are right", "Kind words all but die out", "without a single word"):
        assert said in text

    def seeds_of(method, key):
        return bench.column(result, "teacher", method, key)

    for teacher in bench.TEACHERS:
        assert min(seeds_of(teacher, "right")) > max(seeds_of("fine-tuned", "right")) - 0.02
        assert statistics.mean(seeds_of(teacher, "right")) > statistics.mean(seeds_of("fine-tuned", "right")) + 0.04
    assert max(seeds_of("AI", "polite")) < 0.1 < min(seeds_of("fine-tuned", "polite"))
    assert max(seeds_of("AI", "words")) < min(seeds_of("fine-tuned", "words")) - 3
    usual = {"beta": recipe.PPO.beta}
    (row,) = (r for r in result["sweep"] if (r["kind"], r["method"], r["settings"]) == ("penalty", "AI", usual))
    assert row["words"] < 0.1


def test_what_the_chapter_says_of_a_real_model_as_judge():
    result = stamp.read(ROOT / "benchmarks" / "results" / "ai_feedback.json")
    path = ROOT / "notebooks" / "deeper" / "ai_feedback.ipynb"
    assert "names the first answer every time, too; by its likelihoods it agrees" in path.read_text(encoding="utf-8")
    rows = {r["judge"]: r for r in result["elsewhere"]}
    assert {r["model"] for r in rows.values()} == {"smollm2-135m-instruct"}
    assert rows["asked"]["first"] == rows["asked, constitution"]["first"] == 1
    ours = stamp.script("ai_feedback").column(result, "judge", "log-probability", "agree")
    n, share = rows["log-probability"]["pairs"], rows["log-probability"]["agree"]
    low, high = feedback.wilson(round(share * n), n)
    assert low < statistics.mean(ours) < high


@pytest.mark.slow
def test_one_seed_of_the_benchmark_is_measured_and_fills_its_tables(monkeypatch):
    bench = stamp.script("ai_feedback")
    some = {split: world.prompts(split)[:48] for split in world.SPLITS}
    monkeypatch.setattr(bench.world, "prompts", lambda split: some[split])
    for name, value in {"PAIRS": {"train": 40, "dev": 24, "test": 24}, "UPDATES": 1, "BEST_OF": 2, "EPOCHS": 1}.items():
        monkeypatch.setattr(bench, name, value)
    of = {"beta": 0.3, "lr": 1e-4}
    chosen = {"judge": "log-probability"} | dict.fromkeys(bench.OFFLINE, of)
    chosen |= {f"{dial} {t}": 1e-4 for dial in ("lr", "beta") for t in bench.TEACHERS}
    rows = [row for kind, method in bench.PLAN for row in bench.run(kind, method, 0, chosen, "test")]
    bench.scene.cache_clear()
    found = {"runs": rows, "chosen": chosen}
    assert bench.column(found, "judge", "asked", "first")[0] > 0.9, "the embedded model always says A"
    assert 0 < bench.column(found, "teacher", "AI", "accuracy")[0] < 1
    assert len(list(bench.claims(found))) == 8


def test_the_verdicts_on_the_deeper_chapters_follow_the_seeds():
    bench = stamp.script("deeper")

    def runs(sign):
        dpo = {"train_chosen": -0.5 * sign, "agrees": 0.5 + 0.2 * sign, "gold_fresh": 1 + sign, "gold_fixed": 1.0}
        kl = {"kl_none": 4.0, "kl_k1": 3.5 + sign, "kl_k2": 1.0, "gold_fp32": 1 + sign, "gold_weights": 1 + sign}
        rows = [{"kind": "dpo", **{k: x + w for k, x in dpo.items()}} for w in WOBBLE]
        rows += [{"kind": "kl", **{k: x + w * w for k, x in kl.items()}, "gold_no_weights": 1.0} for w in WOBBLE]
        return {"runs": [r | {"seed": s, "minutes": 1.0} for s, r in enumerate(rows)]}

    assert [claim[-1] for claim in bench.claims(runs(1))] == ["holds"] * 5
    assert [claim[-1] for claim in bench.claims(runs(-1))] == ["fails"] * 5
    assert all(row.count("|") == 7 for row in bench.reproduced(runs(1)))


def test_the_functions_of_a_chapter_are_those_that_its_cells_define():
    bench = stamp.script("deeper")
    kl = bench.chapter("kl_and_mismatch", bench.scene(0))
    assert kl.k1(torch.tensor(-1.0), torch.tensor(-3.0)) == 2 and not hasattr(kl, "kl_loss")
    assert callable(bench.chapter("dpo", bench.scene(0)).gold_of)


def test_a_model_that_can_read_no_question_is_told_so():
    model, tokenizer = models.load_model(ROOT / "data" / "models" / "finetuned")
    pair = {"prompt": "Why?", "response_a": "So. " * 200, "response_b": "No."}
    short = pair | {"response_a": "So."}
    assert ai_feedback.that_fit(model, tokenizer, [pair, short]) == [short]
    with pytest.raises(WorkbookError, match="128 tokens that this model reads"):
        ai_feedback.that_fit(model, tokenizer, [pair])
    with pytest.raises(WorkbookError, match="Choose a MODEL"):
        ai_feedback.that_fit(model, tokenizer, [short], "Be kind. " * 200)
