"""What ships in data/ is what the build makes, and scores what its cards say."""

import hashlib
import json
import math
import random
import re
import shutil
import statistics
from functools import cache

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2ForSequenceClassification,
)

from rlhf_helpers import world
from rlhf_helpers.desk import recipe
from rlhf_helpers.engine.files import ROOT, read_jsonl
from rlhf_helpers.engine.models import load_model, load_reward_model, new_model, new_tokenizer
from rlhf_helpers.engine.packing import hidden_at
from rlhf_helpers.lesson import reward
from rlhf_helpers.lesson.decoding import generate
from rlhf_helpers.lesson.feedback import read_events, replay, to_preferences
from rlhf_helpers.lesson.pairs import make_pairs, simulated_feedback
from rlhf_helpers.make import build
from rlhf_helpers.world import annotators, measures

DATA = ROOT / "data"
STAGES = ("base", "finetuned", "reward_start", "reward", "policy")
GREEDY = {"temperature": 0}


def metrics(stage):
    return json.loads((DATA / "models" / stage / "metrics.json").read_text(encoding="utf-8"))


@cache
def answers(stage, split, **how):
    """What the model of a stage answers to the prompts of a split, drawn or greedily; no test asks it twice."""
    return generate(*load_model(DATA / "models" / stage), world.prompts(split), **how)


def finetuned_quality(split):
    """`measures.quality` of the fine-tuned model's sampled answers, and of its greedy ones."""
    return (measures.quality(world.prompts(split), answers("finetuned", split, **how)) for how in ({}, GREEDY))


@pytest.mark.parametrize("stage", STAGES)
def test_standard_model_folder(stage):
    folder = DATA / "models" / stage
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 8e6
    assert not [f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pkl")]
    kind = AutoModelForSequenceClassification if stage.startswith("reward") else AutoModelForCausalLM
    model, tokenizer = kind.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert 1e6 <= sum(p.numel() for p in model.parameters()) <= 5e6
    for text in ("Where does a camel live?", "¿Qué? \u4f60\u597d \U0001f42a\n\t"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("stage", STAGES)
def test_card_agrees_with_metrics(stage):
    text = (DATA / "models" / stage / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| ([a-z ]+) \| (-?[\d.]+) \|", text)
    stated = {name.replace(" ", "_"): float(value) for name, value in rows}
    known = {k: round(v, 3) for k, v in metrics(stage).items() if isinstance(v, float)}
    assert stated == pytest.approx(known, abs=1e-9)


def test_all_of_data_is_small():
    assert sum(f.stat().st_size for f in DATA.rglob("*") if f.is_file()) < 25e6


@pytest.mark.slow
@pytest.mark.parametrize("split", measures.MEASURED)
def test_finetuned_model_scores_what_its_card_says(split):
    (sampled, greedy), card = finetuned_quality(split), metrics("finetuned")
    for name in ("right", "wrong", "in_format", "polite", "rude"):
        assert sampled[name] == pytest.approx(card[f"{split}_{name}"], abs=0.03), name
    assert greedy["right"] == pytest.approx(card[f"{split}_right_greedy"], abs=0.03)


def test_finetuned_model_answers_what_it_was_never_asked():
    """Chapter 01: pre-training read the fact.  With no regard to it, fine-tuning left a quarter right on dev."""
    assert metrics("finetuned")["test_right_greedy"] >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("split", measures.MEASURED)
def test_finetuned_model_is_worth_labelling(split):
    """Of mixed quality, and more often right when greedy."""
    sampled, greedy = finetuned_quality(split)
    assert sampled["broken"] < 0.08 and greedy["in_format"] >= 0.99
    assert 0.4 <= sampled["right"] <= 0.8 and 0.1 <= sampled["rude"] <= 0.4
    assert greedy["right"] >= sampled["right"] + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("split", measures.MEASURED)
def test_finetuned_model_keeps_to_the_format_on_99_percent_of_new_prompts(split):
    """In one sample a single slip is 0.3%, so six are drawn."""
    many = [r for seed in range(2, 8) for r in answers("finetuned", split, seed=seed)]
    assert sum(map(measures.in_format, many)) / len(many) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("split", measures.MEASURED)
def test_reward_model_scores_what_its_card_says(split):
    model, tokenizer = load_reward_model(DATA / "models/reward")
    finetuned, _ = load_model(DATA / "models/finetuned")
    pairs = make_pairs(finetuned, tokenizer, world.prompts(split), 1000, 7, world.families())
    annotator = annotators.labellers("helpful", 7)
    events = simulated_feedback(pairs, annotator, 7)
    now, card = build.reward_quality(model, tokenizer, pairs, events, annotator), metrics("reward")
    for name in ("accuracy", "noise_ceiling", "gold_order_clear_pairs"):
        assert now[name] == pytest.approx(card[f"{split}_{name}"], abs=0.02), name
    assert now["accuracy"] >= now["noise_ceiling"] - 0.035  # 0.03 is the aim; docs/results.md has the five seeds
    assert now["gold_order_clear_pairs"] >= {"reworded": 0.95, "test": 0.93}[split]


def test_two_labellers_agree_on_about_three_pairs_of_four():
    """As InstructGPT's did, on 73 and 77% (Ouyang et al. 2022, section 3.4)."""
    pairs = read_jsonl(DATA / "pairs.jsonl")
    choices = [simulated_feedback(pairs, annotators.labellers("helpful", seed)) for seed in (1, 2)]
    same = [a["choice"] == b["choice"] for a, b in zip(*choices)]
    assert 0.7 < sum(same) / len(same) < 0.78


def test_labelled_anew_by_another_taste_no_coin_is_tossed():
    """What the taste finds equal is a tie; the shipped labels themselves have none."""
    labels = read_jsonl(DATA / "feedback.jsonl")[:500]

    def pauses(prompt, answer):
        return float("," in answer)

    gaps = [pauses("", x["response_a"]) - pauses("", x["response_b"]) for x in labels]
    anew = recipe.relabelled(labels, pauses)
    ties = [gap == 0 for gap in gaps]
    assert [x["choice"] == "tie" for x in anew] == ties and 0 < sum(ties) < 500
    assert {x["annotator"] for x in anew} == {"simulated:pauses"} and {x["choice"] for x in labels} == {"a", "b"}


@pytest.mark.slow
@pytest.mark.parametrize("split", measures.MEASURED)
def test_reward_model_can_tell_facts_before_any_feedback(split):
    model, tokenizer = load_reward_model(DATA / "models/reward_start")
    accuracy = reward.evaluate(model, tokenizer, world.quiz(1000, 7, split=split))["accuracy"]
    assert accuracy == pytest.approx(metrics("reward_start")[f"{split}_quiz_accuracy"], abs=0.01) and accuracy >= 0.95


def test_reward_model_sees_what_is_in_an_answer_before_any_feedback():
    """A linear layer, taught each remark from 1,000 answers, knows it in answers to test questions."""
    model, tokenizer = load_reward_model(DATA / "models/reward_start")

    @torch.no_grad()
    def read(rows):
        batches = list(build.remark_batches(tokenizer, rows, 100, 0))
        states = [hidden_at(model, packed, ends) for packed, ends, _ in batches]
        return torch.cat(states), torch.cat([remarks for *_, remarks in batches]).bool()

    rng, others = random.Random(11), []
    for q in world.questions():
        if q.split == "test":
            response, remarks = world.written(q, rng)
            others.append({"prompt": q.prompt, "response": response, "remarks": remarks})
    (states, told), (new, truth) = read(world.remarked(1000, 11)), read(others)
    ones = torch.ones(len(states) + len(new), 1)
    layer = torch.linalg.lstsq(torch.cat([states, ones[: len(states)]], 1), 2.0 * told - 1).solution
    guessed = torch.cat([new, ones[: len(new)]], 1) @ layer > 0
    for name, guess, true in zip(world.REMARKS, guessed.T, truth.T):
        assert guess[true].float().mean() > 0.7 and guess[~true].float().mean() < 0.1, name


def test_reward_model_has_hardly_a_preference_but_for_facts_before_any_feedback():
    """Chapter 04 and the card say so: tone, filler and repetition move its score by far less than a fact does."""
    model, tokenizer = load_reward_model(DATA / "models/reward_start")
    rng, some = random.Random(3), [q for q in world.questions() if q.split == "test"][::4]
    right = [world.claim(q, q.value) for q in some]
    changed = {
        "false": [world.claim(q, world.wrong_value(q, rng)) for q in some],
        "kind": [f"Happy to help. {r}" for r in right],
        "rude": [f"Not this again. {r}" for r in right],
        "filler": [f"It depends on how you look at it. {r}" for r in right],
        "repeat": [f"{r} {r}" for r in right],
    }
    asked = [q.prompt for q in some]
    before = reward.score(model, tokenizer, asked, right).mean()
    moved = {k: (reward.score(model, tokenizer, asked, v).mean() - before).item() for k, v in changed.items()}
    false = moved.pop("false")
    assert false < -0.5 and max(map(abs, moved.values())) < -0.25 * false, (false, moved)


def test_remarks_are_learned_and_leave_no_layer_behind():
    tokenizer = new_tokenizer(world.corpus(100))
    language = new_model(tokenizer, layers=1, width=32, heads=2)
    model = GPT2ForSequenceClassification(language.config)
    names = set(model.state_dict())
    rows = world.remarked(3200)
    losses = build.learn_remarks(model, tokenizer, rows, 0, lr=1e-2, batch_size=16)
    assert len(losses) == 200 and set(model.state_dict()) == names
    shares = torch.tensor([[float(r["remarks"][name]) for name in world.REMARKS] for r in rows]).mean(0)
    by_frequency = torch.nn.functional.binary_cross_entropy(shares, shares).item()  # knowing nothing of an answer
    assert losses[0] == pytest.approx(math.log(2), abs=0.1) and statistics.mean(losses[-30:]) < 0.9 * by_frequency


@pytest.mark.slow
@pytest.mark.parametrize("split", measures.MEASURED)
def test_policy_scores_what_its_card_says(split):
    prompts, after = world.prompts(split), answers("policy", split)
    before, card = (
        {k.removeprefix(f"{split}_"): v for k, v in metrics(stage).items()} for stage in ("finetuned", "policy")
    )
    win = measures.win_rate(prompts, after, answers("finetuned", split, seed=1))
    assert win == pytest.approx(card["gold_win_rate"], abs=0.04)  # the card's is of several answers each
    assert card["gold_win_rate"] >= {"reworded": 0.9, "test": 0.85}[split]
    assert before["right"] + 0.2 < card["right"]
    assert card["rude"] < 0.02 and card["polite"] > 0.8
    assert measures.quality(prompts, after)["right"] == pytest.approx(card["right"], abs=0.03)


def test_text_files_are_those_of_the_generator():
    assert read_jsonl(DATA / "demonstrations.jsonl") == world.demonstrations(recipe.DEMONSTRATIONS, 0)
    documents = (DATA / "corpus.txt").read_text(encoding="utf-8").strip().split("\n\n")
    assert documents[:200] == world.corpus(200, 0) and len(documents) == recipe.CORPUS_DOCUMENTS
    assert {r["prompt"] for r in read_jsonl(DATA / "prompts.jsonl")} == {q.prompt for q in world.questions()}


def test_shipped_feedback_is_simulated_and_usable():
    labels = replay(read_events(DATA / "feedback.jsonl")[0])
    pairs = read_jsonl(DATA / "pairs.jsonl", ("pair_id", "prompt", "response_a", "response_b"))
    assert {x["annotator"] for x in labels} == {"simulated:helpful"}
    assert len(labels) == recipe.LABELLED and len(pairs) == recipe.PAIRS
    assert [(x["prompt"], x["response_a"], x["response_b"]) for x in labels[: len(pairs)]] == [
        (p["prompt"], p["response_a"], p["response_b"]) for p in pairs
    ]
    assert not [p for p in pairs if p["response_a"] == p["response_b"]]
    assert len(to_preferences(labels)[0]) > 0.95 * len(labels)


def test_build_is_deterministic(tmp_path, monkeypatch):
    """Two small builds from one seed give the same weights, bit for bit."""
    monkeypatch.setattr(recipe, "CORPUS_DOCUMENTS", 60)
    monkeypatch.setattr(recipe, "DEMONSTRATIONS", 40)
    monkeypatch.setattr(build, "PRETRAINING", {"steps": 2, "lr": 1e-3, "batch_size": 4, "length": 32})
    monkeypatch.setattr(recipe, "FINE_TUNING", {"steps": 2, "lr": 1e-3, "batch_size": 4})
    monkeypatch.setattr(recipe, "COOL_DOWN", {"steps": 1, "lr": 1e-4, "batch_size": 4})
    monkeypatch.setattr(build, "generate", lambda model, tokenizer, prompts, **options: ["Yes."] * len(prompts))
    for folder in ("one", "two"):
        for stage in ("world", "base", "finetuned"):
            build.STAGES[stage](tmp_path / folder, 3)
    one, two = (load_model(tmp_path / f / "models/finetuned")[0].state_dict() for f in ("one", "two"))
    assert all(torch.equal(one[k], two[k]) for k in one)


BY_HAND = {"README.md", "general_prompts.jsonl", "checksums.json"}


def recorded():
    return json.loads((DATA / "checksums.json").read_text(encoding="utf-8"))


def test_what_ships_has_the_recorded_checksums():
    assert build.record(DATA) == recorded()
    there = {p.relative_to(DATA).as_posix() for p in DATA.rglob("*") if p.is_file()}
    assert there == set(recorded()["files"]) | BY_HAND
    for name in STAGES:
        made = recorded()["models"][name]
        assert (
            made == metrics(name) and made["seed"] == 0 and set(made["versions"]) == {"python", "torch", "transformers"}
        )


def test_the_texts_are_made_again_to_their_checksums(tmp_path):
    """They depend on no version but Python's; what the models make is too slow to make here."""
    build.build_world(tmp_path, 0)
    for path in tmp_path.iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == recorded()["files"][path.name], path.name
    assert len(list(tmp_path.iterdir())) == 3


def test_a_rebuild_is_compared_by_bits_and_by_scores():
    now = recorded()
    assert build.unlike(now, recorded()) == ([], [])
    now["files"]["models/base/model.safetensors"] = "0"
    del now["files"]["pairs.jsonl"]
    changed = ["pairs.jsonl", "models/base/model.safetensors"]
    assert build.unlike(now, recorded()) == (changed, [])
    policy = recorded()["models"]["policy"]
    rate, kl, words = policy["test_gold_win_rate"], policy["kl_nats"], policy["test_words"]
    now["models"]["policy"] |= {"test_gold_win_rate": rate - 0.04, "kl_nats": kl + 1.4, "test_words": words + 1.9}
    assert build.unlike(now, recorded()) == (changed, [])
    now["models"]["policy"] |= {"test_gold_win_rate": rate - 0.06, "kl_nats": kl + 1.6, "test_words": words + 2.1}
    assert build.unlike(now, recorded())[1] == ["policy: test_words", "policy: test_gold_win_rate", "policy: kl_nats"]
    del now["models"]["policy"]["test_right"]
    assert "policy: test_right" in build.unlike(now, recorded())[1]


def test_a_build_ends_with_the_record(tmp_path, monkeypatch, capsys):
    shutil.copytree(DATA, tmp_path / "data")
    (tmp_path / "data" / "checksums.json").unlink()
    other = {"world": lambda out, seed: (out / "corpus.txt").write_text("other")}
    monkeypatch.setattr(build, "STAGES", other)
    build.build(tmp_path / "data")
    assert build.record(tmp_path / "data") == json.loads((tmp_path / "data" / "checksums.json").read_text())
    said, n = capsys.readouterr().out, len(recorded()["files"])
    assert "scores unlike the record: none" in said
    assert f"{n - 1} of {n} files are bit for bit as recorded\n  corpus.txt\n" in said
