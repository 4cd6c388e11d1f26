"""What the chapters say about an outcome, held against what they show: the committed outputs, or the JSON file that a
figure draws.  A sentence that a cell computes where it stands needs no test here.

Whoever executes a chapter anew and finds one of these red rewrites the sentence, not the test.
"""

import json
import math
import re
import statistics
from collections import Counter

import pytest
import test_museum
from taught import column, ends, heights, panels, printed, says, table

from rlhf_helpers import world
from rlhf_helpers.engine.files import ROOT, read_jsonl
from rlhf_helpers.lesson.loop import Limits
from rlhf_helpers.make import stamp


def result(name):
    return stamp.read(ROOT / "benchmarks" / "results" / f"{name}.json")


def mean(rows, key):
    return statistics.mean(r[key] for r in rows)


def numbers(text):
    return [float(x) for x in re.findall(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?", text)]


# ---------------------------------------------------------------- the core chapters


def test_00_what_the_ten_tastes_show():
    says("00", "tastes-read", "A taste that few answers show leaves most pairs undecided")
    says("00", "tastes-read", "one that most answers already satisfy leaves little to gain")
    says("00", "tastes-read", "with twelve comparisons it also keeps out some models that are better")
    runs = result("sitting")["runs"]
    by = {taste: [r for r in runs if r["taste"] == taste] for taste in dict.fromkeys(r["taste"] for r in runs)}
    assert min(mean(by[t], "ties_48") for t in ("greets", "kind_end", "names_once")) > 24  # of 48
    assert min(by, key=lambda t: mean(by[t], "ceiling_48")) == "names_once"
    assert any(mean(some, "win_24") > 0.75 and mean(some, "shipped_24") < 0.5 for some in by.values())


def test_01_what_is_learned_first_and_last():
    says("01", "shift", "Random weights lie near it")
    drawn = heights(panels("01", "pretrain-compare")[0])
    vocabulary = int(re.search(r"vocabulary: ([\d,]+)", printed("01", "tokenizer"))[1].replace(",", ""))
    assert drawn["random weights"] == pytest.approx(math.log(vocabulary), abs=0.1)
    says("01", "distribution-read", "mostly to places to live in, and knows which goes with an owl")
    by_base = heights(panels("01", "distribution-both")[1])
    assert by_base["forest"] == max(by_base.values()) > 0.5
    places = ("forest", "desert", "mountains", "beach", "jungle", "Antarctic", "savanna")
    assert sum(by_base[p] for p in places) > 0.9
    says("01", "finetune-read", "On answers it begins high", "It can't go to zero")
    answers = ends(panels("01", "finetune")[0], "answers")
    assert answers[0] > 2 * answers[1] > 0.6


def test_01_where_the_loss_is_high_and_why_the_majority_is_right():
    says("01", "loss-define", "Where a text could continue in many ways the loss is high")
    each = heights(panels("01", "every-position")[0])
    assert min(each["owl"], each["lives"]) > 1 > each["forest"] > max(each["in"], each["the"], each["."])
    says("01", "greedy-read", "Wrong answers scatter over many wrong values, while the right ones all agree")
    told = {}  # question -> how often which value is given as its answer
    for d in read_jsonl(ROOT / "data" / "demonstrations.jsonl", ("prompt", "response")):
        q = world.question_by_prompt()[d["prompt"]]
        if q.family != "size":
            for value in {v for v in world.FAMILIES[q.family].values.values() if world.claim(q, v) in d["response"]}:
                told.setdefault(q, Counter())[value] += 1
    first = [(q.value == counts.most_common(1)[0][0]) for q, counts in told.items() if counts.total() >= 4]
    assert len(first) > 300 and statistics.mean(first) > 0.9


def test_01_greedy_and_the_copy_of_the_crowd():
    says("01", "greedy-read", "Greedy is right far more often", "no demonstration asked are mostly answered")
    right = {(split, how): float(share) for split, how, share, *_ in table("01", "greedy-sampled")[1:]}
    assert min(right[s, "greedy"] - right[s, "sampled"] for s in ("reworded", "test")) > 0.3
    assert right["test", "greedy"] > 0.8
    says("01", "crowd-read", "Longer training brings the model, *sampled*, to the writers and not beyond")
    (panel,) = panels("01", "crowd-draw")
    writers, yours, shipped = (heights(panel, n) for n in ("the writers", "yours, sampled", "shipped, sampled"))
    assert max(abs(shipped[k] - writers[k]) for k in writers) < 0.05 < writers["right"] - yours["right"]
    assert shipped["right"] <= writers["right"]


def test_03_the_slip_in_the_last_row_and_the_annotator_of_the_very_taste():
    says("03", "data-head", "here the last row, whose second sentence is false (unless the labels are yours)")
    rows = table("03", "data-show")[1:]
    assert ["(a slip)" in row[-1] for row in rows] == [False] * 5 + [True]
    facts = {world.statement(q.family, q.entity, q.value, q.other) for q in world.questions()}
    (chosen,) = (text for text in rows[-1] if text.startswith("✓ "))
    assert [s in facts for s in re.split(r"(?<=\.) ", chosen.removeprefix("✓ "))] == [True, False]
    says("03", "agree-read", "seldom reaches 100%")
    agreed = heights(panels("03", "agree-plot")[0])
    assert max(agreed, key=agreed.get) == "helpful" and agreed["helpful"] < 1


def test_04_what_practice_is_worth():
    says("04", "loop-text", "begins near ln 2 = 0.69", "The difference is what practice is worth")
    after, without = numbers(printed("04", "one-step"))
    assert abs(without - 0.69) < 0.1 and after < without - 0.1
    says("04", "curve-read", "The height of the upper line at 0 is what facts alone decide")
    (panel,) = panels("04", "learn-plot")
    after, without = ends(panel, "after practice"), ends(panel, "without practice")
    assert abs(without[0] - 0.5) < 0.05 and after[0] > 0.6 and after[1] > after[0] + 0.05 and without[1] < after[1]


def test_05_with_and_without_penalty_and_clip():
    says("05", "gae-head", "without the clip, the same batch pushes its tokens farther")
    (panel,) = panels("05", "steps")
    assert ends(panel, "no clip")[1] > 1.2 * ends(panel, "clip")[1] > 0


def test_05_reward_hacking_and_the_limit_of_the_gate():
    """Weak or full judge, with or without a penalty: broken text is counted, and the gate refuses the hacked policy."""
    says("05", "hack-head", "the reward rises, and what it stood for doesn't", "everything else being equal")
    says("05", "exercise-head", "The last column is a limit of the gate in chapter 06")
    proxy, gold, broken, kl = (column("05", "push-picture", k) for k in ("proxy reward", "gold", "broken", "KL"))
    hacked = "weak judge, no penalty"
    assert set(kl) == {"fine-tuned", *(f"{j} judge, {p}" for j in ("full", "weak") for p in ("penalty", "no penalty"))}
    assert proxy[hacked] == max(proxy.values()) and gold[hacked] < gold["fine-tuned"] - 0.5 and broken[hacked] > 0.5
    assert min(proxy, key=proxy.get) == "fine-tuned" and gold["full judge, penalty"] == max(gold.values())
    assert kl[hacked] > Limits().kl > kl["full judge, penalty"]
    head, *rows = table("05", "push-picture")
    assert head[-1] == f"KL at most {Limits().kl:g}"
    assert {row[0]: row[-1] for row in rows} == {n: "yes" if x <= Limits().kl else "no" for n, x in kl.items()}


def test_06_what_a_round_by_64_labels_takes():
    says("06", "ex-needed-solution", "one round of 64 noisy labels by it trains", "for about a minute")
    assert 30 < mean(result("tastes")["runs"], "seconds") < 90


# ---------------------------------------------------------------- deeper


def test_what_ai_feedback_says_of_length_and_of_the_judge_without_a_reward_model():
    says("ai_feedback", "yours-head", "In a sum over tokens every word costs; in a mean it doesn't")
    says("ai_feedback", "ex-settled-solution", "this rule leaves hardly any verdict")
    says("ai_feedback", "kto-head", "The judge *without* a reward model", "what it knows of facts is still there")
    longer = column("ai_feedback", "verdicts", "longer")
    assert longer["log-probability"] < longer["another of the crowd"] < longer["per token"]
    assert numbers(printed("ai_feedback", "swap"))[1] < 10  # % of the pairs in which the same answer wins twice
    best = heights(panels("ai_feedback", "follow-picture")[0])
    assert best["best of 16: AI, no reward model"] > best["best of 16: AI"] + 0.5
    gold = {}
    for r in result("ai_feedback")["runs"]:
        gold.setdefault(r["method"], []).append(r.get("test_best_of_n", 0))
    assert min(gold["AI, no reward model"]) > max(gold["AI"])


def test_what_the_dpo_chapter_says_of_its_claims():
    says("dpo", "frontier-head", "So it learned to judge")
    agrees, *_ = numbers(printed("dpo", "implicit"))
    assert agrees > 60
    says("dpo", "ipo-head", "claims 1, 2 and 4 hold")
    verdicts = [row[-1] for row in stamp.script("deeper").claims(result("deeper")) if row[0].startswith("dpo")]
    assert verdicts == ["holds"] * 3


def test_what_k1_in_the_loss_did_over_five_seeds():
    says("kl_and_mismatch", "mismatch-head", "strayed farther than no penalty in two and less far in three")
    says("kl_and_mismatch", "mismatch-head", "while k2 held the policy back in all")
    runs = [r for r in result("deeper")["runs"] if r["kind"] == "kl"]
    assert sorted(r["kl_k1"] > r["kl_none"] for r in runs) == [False] * 3 + [True] * 2
    assert all(r["kl_k2"] < r["kl_none"] / 2 for r in runs)
    says("kl_and_mismatch", "mismatch-head", "In 32 bits they agree to seven digits")
    gap = numbers(printed("kl_and_mismatch", "bits").replace("fp32", ""))[0]
    assert gap < 1e-6


def test_what_over_optimisation_says_in_the_end():
    says("over_optimisation", "summary", "gold turns while the judge's score keeps rising")
    says("over_optimisation", "summary", "Choosing among samples is enough for that")
    few = [r for r in result("over_optimisation")["runs"] if (r["method"], r["judge"]) == ("best-of-n", 32)]
    proxy, gold = ([statistics.mean(x) for x in zip(*(r[k] for r in few))] for k in ("proxy", "gold"))
    top = gold.index(max(gold))
    assert 0 < top < len(gold) - 1 and proxy == sorted(proxy) and gold[-1] < gold[top] - 0.3


def test_what_ppo_up_close_says_of_lambda():
    says("ppo_up_close", "whiten-text", "the last token gets far more", "all tokens get about the same")
    shares = [numbers(line.split("gets")[1])[0] for line in printed("ppo_up_close", "gae").splitlines()[1:]]
    tokens = numbers(re.search(r"of (\d+) tokens", printed("ppo_up_close", "gae"))[0])[0]
    assert shares[0] > 2 * shares[2] and shares[2] == pytest.approx(100 / tokens, abs=3)


def test_what_more_demonstrations_do():
    says("pretraining_up_close", "number-read", "From its first point to its last each line rises")
    says(
        "pretraining_up_close",
        "number-read",
        "comes up to the dashed one and not beyond it",
        "Greedy decoding passes them",
    )
    drawn = panels("pretraining_up_close", "number-draw")
    for panel in drawn:
        for line in ("greedy", "sampled"):
            first, last = ends(panel, line)
            assert last > first + 0.05, (panel, line)
    writers = heights(panels("01", "crowd-draw")[0], "the writers")["right"]
    assert writers - 0.1 < ends(drawn[0], "sampled")[1] <= writers < ends(drawn[0], "greedy")[1]


def test_what_the_reward_model_up_close_says_of_padding_and_of_two_tastes():
    up = "reward_model_up_close"
    says(up, "padding-read", "The first three agree to rounding", "agrees only for the longest answer")
    rows = [list(map(float, row[1:])) for row in table(up, "padding-table")[1:]]
    longest = max(row[0] for row in rows)
    for tokens, alone, right, left, last in rows:
        assert alone == right == left and (abs(last - alone) < 1e-3) == (tokens == longest)
    says(up, "mix-read", "There is no weight at which both get what they wanted")
    (panel,) = panels(up, "mix-plot")
    crowd, person = ends(panel, "the crowd's taste, helpful"), ends(panel, "the person's, warm")
    assert crowd[1] < crowd[0] and person[1] > person[0]


def test_what_ppo_made_likelier_was_there_before():
    """The summary of the rivals, and section 5 of verifiable rewards."""
    says("rivals", "exercise-rloo-solution", "PPO makes likelier what the model could already say")
    one, many = printed("rivals", "pass-at-k-picture").splitlines()
    assert one.startswith("pass@1 rose") and many.startswith("pass@16 stayed")
    says("verifiable_rewards", "seeds-head", "The right answer was there all along, and training made it the usual one")
    runs = result("verifiable")["runs"]
    before, after = ([r for r in runs if r["method"] == name] for name in ("fine-tuned", "GRPO"))
    assert mean(before, "test_pass") > 0.95 and mean(before, "test_right") < 0.5 < mean(after, "test_right")


def test_what_rlhf_does_to_sureness_and_to_plain_text():
    says("what_rlhf_does", "critic-head", "best guess is almost always right, and it isn't sure of it")
    says("what_rlhf_does", "critic-head", "RLHF can *mend* a calibration")
    runs = result("effects")["runs"]
    before, after = ([r for r in runs if r["arm"] == arm] for arm in ("fine-tuned", "PPO"))
    assert mean(before, "test_sure_right") > 0.95 and mean(before, "test_sure") < 0.9
    assert mean(after, "test_ece") < mean(before, "test_ece") / 2
    says("what_rlhf_does", "seeds-head", "the policy that ships has gone farthest")
    plain = [
        numbers(line.split("perplexity")[1])[0] for line in printed("what_rlhf_does", "ptx-verdict").splitlines()[:4]
    ]
    assert plain[1] == max(plain)
    says("what_rlhf_does", "adapt-head", "at times less than nothing")
    assert ends(panels("what_rlhf_does", "critic-picture")[0], "value head")[1] < 0


def test_how_many_tokens_top_p_keeps():
    """And that no fixed k is right everywhere, as chapter 02 says."""
    says("sampler_up_close", "sweep-why", "many at a fork, one where the next token follows by itself")
    says("02", "s7", "A fixed *k* is too many where the model is sure and too few where it isn't")
    kept = re.findall(r" (\d+)(?:,|$| and more)", panels("sampler_up_close", "nucleus-picture")[0].split("bars: ")[1])
    assert min(map(int, kept)) == 1 and max(map(int, kept)) > 5


def test_the_health_cards_say_of_what_is_trained_on_that_it_asks_no_dev_or_test_question():
    says("05", "after-head", "the last counts dev and test questions")
    *_, (what, worst) = table("05", "train-words")
    assert (what, float(worst)) == ("dev and test questions asked", 0)
    assert "ok   no row learned from asks a dev or test question" in printed("reward_model_up_close", "health")


def test_what_the_doctor_finds_and_does_not():
    says("doctor", "sick-say", "*Early value*", "leaves no mark in any curve", "(`value_shift`)")
    found = {row[0]: row[1] for row in table("doctor", "sick-table")[1:]}
    assert found["early value"] == "values stand at other tokens than their own"
    assert not [name for name, words in found.items() if words == "Nothing found."]
    says("doctor", "sick-blind-say", "Nothing is left to find, and the report says what it could not see")
    verdict, *unseen = printed("doctor", "sick-blind").splitlines()
    assert verdict == "Nothing found." and "value of a token too early" in unseen[0] and "end token" in unseen[1]
    says("doctor", "healthy-read", "*Nothing found.*")


# ---------------------------------------------------------------- the bug museum

LINE = re.compile(r"^ +(loop|bench|curve) +update +(\d+) +(.+)$", re.M)


def exhibit(n):
    """{"loop", "bench", "curve": {what was red or odd: at which update}}, as exhibit n shows it."""
    seen = {"loop": {}, "bench": {}, "curve": {}}
    for by, update, what in LINE.findall(printed("bug_museum", f"x{n}-flip")):
        seen[by][what] = int(update)
    return seen


def test_the_museum_says_of_each_exhibit_what_it_shows():
    said = {n: " ".join(test_museum.CELLS[f"x{n}-read"].source.split()) for n in range(1, 11)}
    odd = {n: exhibit(n)["curve"] for n in range(1, 11)}
    for n in range(1, 11):
        by, check = test_museum.named(f"x{n}")
        assert check in exhibit(n)[by], n
    assert "several alarms at once" in said[2] and len(exhibit(2)["loop"]) >= 3
    assert "Most curves look healthy" in said[3] and len(odd[3]) <= 2
    assert "the one curve that looks odd is the length of the answers" in said[4] and set(odd[4]) == {"answer length"}
    assert "The value loss gives it away at once" in said[5] and min(odd[5], key=odd[5].get) == "value loss"
    assert "the curves hardly show it" in said[6] and not odd[6]
    assert "For some updates all is well" in said[7] and min(odd[7].values()) > 2 and "answer length" in odd[7]
    assert "Reward and gold score look as in a healthy run" in said[8]
    assert not {"proxy reward", "gold score"} & set(odd[8]) and "KL to the reference" in odd[8]
    assert "It stays at ½" in said[9] and set(odd[9]) == {"value loss"} and odd[9]["value loss"] == 12
    assert "leaves no mark that stands out from luck" in said[10] and not odd[10]


def test_equalities_are_red_sooner_than_curves():
    says("bug_museum", "plan-read", "are red at the first update or the second, and most curves take longer")
    loop = [u for n in range(1, 11) for u in exhibit(n)["loop"].values()]
    curves = [u for n in range(1, 11) for u in exhibit(n)["curve"].values()]
    assert max(loop) <= 2 and statistics.median(curves) > 2


# ---------------------------------------------------------------- pages


def test_what_reproductions_says_of_the_limits_of_its_figures():
    page = " ".join((ROOT / "docs" / "reproductions.md").read_text(encoding="utf-8").split())
    for phrase in (
        "PPO went farther from the start than the groups did",
        "already passes nearly every question within sixteen tries",
    ):
        assert phrase in page
    found = result("verifiable")
    (ppo,) = (name for name in found["chosen"] if name.startswith("PPO"))
    for name, rate in found["chosen"].items():
        tried = [r["lr"] for r in found["sweep"] if r["method"] == name]
        assert min(tried) < rate < max(tried), "what was chosen has neighbours on both sides"
    kl = {name: mean([r for r in found["runs"] if r["method"] == name], "test_kl") for name in found["chosen"]}
    assert max(kl, key=kl.get) == ppo
    assert mean([r for r in found["runs"] if r["method"] == "fine-tuned"], "test_pass") > 0.95


def test_what_results_says_of_the_value_head():
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    assert (
        "[guesses much better than the value head](" in page and "which explains next to nothing of the returns" in page
    )
    assert "whether the policy is better for it is inconclusive" in page
    rows = {row[1]: row[-1] for row in stamp.script("effects").claims(result("effects"))}
    (guess,) = (verdict for claim, verdict in rows.items() if "guesses better than a value head" in claim)
    assert (guess, rows["and the policy is better for it"]) == ("holds", "inconclusive")


def test_facts_from_the_tables_taste_from_the_labels_is_said_where_it_belongs():
    pages = {c: json.dumps(json.loads(p.read_text(encoding="utf-8"))["cells"]) for c, p in _core().items()}
    pages["README"] = (ROOT / "README.md").read_text(encoding="utf-8")
    pages["data sheet"] = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for name in ("00", "01", "03", "04", "README", "data sheet"):
        said = re.sub(r"[*_\s]+", " ", pages[name]).lower()
        assert re.search(r"facts from the tables.{0,80}?taste from the labels", said), name
    card = (ROOT / "data" / "models" / "reward_start" / "README.md").read_text(encoding="utf-8")
    assert "*facts from the tables*" in card and "*taste comes from the labels*" in card


def _core():
    return {p.name[:2]: p for p in sorted((ROOT / "notebooks").glob("0*.ipynb"))}
