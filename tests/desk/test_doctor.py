"""The doctor: logs of all kinds are read, a rule rings for its case and not for a healthy log, models are examined."""

import gzip
import json
import math
import sys

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from rlhf_helpers import world
from rlhf_helpers.desk.doctor import command, logs, report, rules, scores
from rlhf_helpers.desk.tables import Row
from rlhf_helpers.engine import files, models
from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.lesson import feedback
from rlhf_helpers.make import stamp
from rlhf_helpers.world import annotators

REWARD = ROOT / "data" / "models" / "reward"

# ---------------------------------------------------------------- a healthy log, in the words of each program


N = 20  # rows


def wave(first, last, n=N, noise=0.02, seed=0):
    """A curve from one value to another, with noise in proportion."""
    dice = np.random.default_rng(seed)
    return np.linspace(first, last, n) + noise * (abs(first) + abs(last)) * dice.standard_normal(n)


def healthy(n=N):
    kl = np.abs(wave(0, 3, n))
    kl[0] = 1e-7
    return {
        "reward": wave(0, 1, n),
        "reward_std": wave(1, 0.6, n),
        "kl": kl,
        "entropy": wave(0.6, 0.4, n),
        "length": wave(15, 12, n),
        "no_end": np.zeros(n),
        "non_score_reward": -0.1 * kl,
        "surprise": wave(0.6, 0.4, n, seed=1),
        "advantage_mean": np.full(n, 1e-8),
        "advantage_std": np.ones(n),
        "approx_kl": wave(0.05, 0.01, n),
        "clip_fraction": wave(0.1, 0.04, n),
        "value_loss": wave(0.3, 0.15, n),
        "ratio_off": wave(1.0, 0.4, n),
        "first_ratio_off": np.full(n, 1e-6),
        "first_clip_fraction": np.zeros(n),
        "first_mismatch": np.full(n, 1e-7),
        "loss_mask_off": np.zeros(n),
        "value_shift": np.zeros(n),
    }


def rows_of(columns, clock="update"):
    n = min(map(len, columns.values()))
    return [{clock: k + 1, **{name: float(y[k]) for name, y in columns.items()}} for k in range(n)]


NAMES = {
    "TRL": (
        "reward",
        "kl",
        "entropy",
        "completions/mean_length",
        "completions/clipped_ratio",
        "clip_ratio/region_mean",
    ),
    "verl": (
        *("critic/score/mean", "actor/reward_kl_penalty", "actor/entropy", "response_length/mean"),
        *("response_length/clip_ratio", "actor/pg_clipfrac"),
    ),
    "OpenRLHF": ("reward", "kl", "entropy_loss", "response_length", "truncated", "ppo_clip_ratio"),
}
OURS = ("reward", "kl", "entropy", "length", "no_end", "clip_fraction")


def in_words_of(program):
    columns = healthy()
    columns["kl"] = columns["kl"] / columns["length"]
    more = {"OpenRLHF": {"policy_loss": wave(-0.01, -0.01), "actor_lr": np.full(N, 1e-6)}}.get(program, {})
    return rows_of(dict(zip(NAMES[program], (columns[n] for n in OURS))) | more, "step")


def trainer_state(folder):
    path = folder / "out" / "checkpoint-20" / "trainer_state.json"
    path.parent.mkdir(parents=True)
    (folder / "out" / "checkpoint-3").mkdir()
    (path.parent.parent / "checkpoint-3" / "trainer_state.json").write_text('{"log_history": [{"step": 1, "kl": 9.0}]}')
    last = {"step": N, "train_runtime": 3.0, "train_loss": 0.1}
    path.write_text(json.dumps({"best_metric": None, "log_history": [*in_words_of("TRL"), last]}))
    return folder / "out"


def console_of_trl(folder):
    lines = [str({k: v for k, v in r.items() if k != "step"} | {"epoch": 0.1}) for r in in_words_of("TRL")]
    (folder / "console.txt").write_text("Loading weights: 100%\n" + "\n 8%|8| 1/12\n".join(lines))
    return folder / "console.txt"


def console_of_verl(folder):
    lines = [
        "(TaskRunner pid=7) step:{} - {}".format(r["step"], " - ".join(f"{k}:np.float64({v})" for k, v in r.items()))
        for r in in_words_of("verl")
    ]
    (folder / "verl.log").write_text("INFO start\n" + "\n".join(lines))
    return folder / "verl.log"


def file_of_verl(folder):
    rows = [{"step": r["step"], "elapsed_seconds": 3.5, "data": r} for r in in_words_of("verl")]
    files.write_jsonl(folder / "metrics.jsonl", rows)
    return folder


def csv_of_wandb(folder):
    import pandas as pd

    rows = [{f"run 1 - train/{k}": v for k, v in r.items() if k != "step"} for r in in_words_of("OpenRLHF")]
    rows = [r | {f"{k}__MIN": -1 for k in r} | {"Step": n} for n, r in enumerate(rows, 1)]
    pd.DataFrame(rows).to_csv(folder / "wandb.csv", index=False)
    return folder / "wandb.csv"


def run_json(folder):
    files.write_json(folder / "run.json", {"seconds": 3.0, "processes": 2, "history": in_words_of("TRL")})
    return folder


@pytest.mark.parametrize(
    "write, program",
    [
        (trainer_state, "TRL"),
        (console_of_trl, "TRL"),
        (console_of_verl, "verl"),
        (file_of_verl, "verl"),
        (csv_of_wandb, "OpenRLHF"),
        (run_json, "TRL"),
    ],
)
def test_a_log_of_each_program_is_read_and_a_healthy_one_has_nothing(write, program, tmp_path):
    log = logs.read(write(tmp_path))
    assert log.program == program and not log.kl_per_answer
    assert set(OURS) <= set(log.columns)
    assert [len(log.columns[n][1]) for n in OURS] == [N] * 6
    wanted = healthy()
    assert log.columns["entropy"][1] == pytest.approx(wanted["entropy"])
    assert log.columns["kl"][1] == pytest.approx(wanted["kl"] / wanted["length"])
    assert rules.examine(log).findings == []


def test_our_own_full_runs_are_read_and_have_nothing():
    """The shipped policy's and the five seeds of docs/results.md, 120 updates of 96 answers; see docs/diagnosis.md."""
    kept = logs.read(ROOT / "data" / "models" / "policy" / "history.json")
    seeds = files.parse((ROOT / "benchmarks" / "results" / "ppo_seeds.json").read_bytes())["runs"]
    for log in (kept, *(logs.log_of(r["history"], "a seed") for r in seeds)):
        assert log.program == "this workbook" and log.kl_per_answer and log.begins and log.rows == 120
        assert rules.examine(log).findings == []


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.json", "", "is empty"),
        ("a.json", "[1, 2]", "rows of numbers are wanted"),
        ("a.json", '{"log_history": []}', "before anything was logged"),
        ("a.jsonl", '{"name": "x"}\n{"name": "y"}', "holds no numbers"),
        ("a.csv", "price,area\n1,2\n3,4\n", r"none is a reward.*Rename them"),
        ("a.txt", "Dear diary,\nnothing happened.", "neither JSON"),
        ("a.csv", "step\n1\n2\n", "no training log of RLHF"),
        ("events.out.tfevents.1.x", "junk", "pip install tensorboard"),
    ],
)
def test_bad_input_is_one_sentence(name, content, words, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_accumulator", None)
    (tmp_path / name).write_text(content)
    with pytest.raises(WorkbookError, match=words) as told:
        logs.read(tmp_path / name)
    assert "\n" not in str(told.value)


def test_nothing_there_is_one_sentence(tmp_path):
    with pytest.raises(WorkbookError, match="There is no file"):
        logs.read(tmp_path / "nowhere")
    with pytest.raises(WorkbookError, match="holds no training log"):
        logs.read(tmp_path)


def test_one_row_is_checked_for_what_one_row_can_show(tmp_path):
    sick = rows_of(healthy())[0] | {"first_ratio_off": 3.0}
    files.write_jsonl(tmp_path / "one.jsonl", [sick])
    told = rules.examine(logs.read(tmp_path / "one.jsonl"))
    assert [f.name for f in told.findings] == ["the ratio is not 1 before the first step"]
    assert any("With 1 row no curve" in x for x in told.unseen)


# ---------------------------------------------------------------- rules

RM = {"loss": wave(0.69, 0.4), "accuracy": wave(0.55, 0.8), "margin": wave(0.1, 1.5)}
CASES = {  # rule: (columns, {column: values in their place})
    "not_finite": {"value_loss": np.full(N, math.nan)},
    "ratio_not_one": {"first_ratio_off": np.full(N, 2.0)},
    "ratio_far_from_one": {"ratio": np.full(N, 1.4)},
    "clipped_at_once": {"first_clip_fraction": np.full(N, 0.1)},
    "sampler_apart": {"first_mismatch": np.full(N, 0.2)},
    "kl_at_start": {"kl": wave(3, 4)},
    "tokens_untrained": {"loss_mask_off": np.ones(N)},
    "values_apart": {"value_shift": np.ones(N)},
    "kl_negative": {"kl": np.r_[0, -wave(1, 3)[1:]]},
    "kl_never_moves": {"kl": np.full(N, 1e-7)},
    "kl_runs_away": {"kl": np.r_[1e-7, wave(1, 80)[1:]]},
    "kl_paid_for": {"reward": wave(1, -2), "kl": np.r_[1e-7, wave(1, 30)[1:]]},
    "penalty_of": {"non_score_reward": wave(0, 0.3)},
    "never_clips": {"clip_fraction": np.zeros(N)},
    "ratio_never_moves": {"clip_fraction": np.zeros(N), "approx_kl": np.zeros(N), "ratio_off": np.zeros(N)},
    "clips_much": {"clip_fraction": np.full(N, 0.6)},
    "large_steps": {"approx_kl": np.full(N, 2.0)},
    "reward_falls": {"reward": wave(1, -2)},
    "reward_stays": {"reward": wave(1, 1, seed=3)},
    "longer_and_better": {"length": wave(12, 40)},
    "entropy_gone": {"entropy": 0.6 * 0.6 ** np.arange(N)},
    "drawn_by_another": {"surprise": wave(0.4, 0.2)},
    "same_answers": {"frac_reward_zero_std": wave(0.1, 1)},
    "never_ends": {"no_end": wave(0, 0.9)},
    "lengths_all_equal": {"completions/min_length": np.full(N, 48), "completions/max_length": np.full(N, 48)},
    "advantages_off": {"advantage_mean": np.full(N, -0.3)},
    "value_rises": {"value_loss": wave(0.2, 5)},
    "value_stands_at_half": {"value_loss": wave(0.5, 0.5, noise=0.01)},
    "value_too_easy": {"value_loss": wave(0.01, 0.02)},
    "gradient_gone": {"grad_norm": np.zeros(N)},
    "gradient_explodes": {"grad_norm": np.r_[np.ones(N - 1), 1e4]},
    "no_learning_rate": {"lr": np.zeros(N)},
    "begins_apart": RM | {"loss": wave(4, 0.5)},
    "learns_nothing": RM | {"loss": wave(0.693, 0.693, noise=0), "accuracy": wave(0.5, 0.5)},
    "order_reversed": RM | {"accuracy": wave(0.5, 0.2)},
    "overfits": RM | {"accuracy": wave(0.6, 1), "eval_accuracy": wave(0.6, 0.65)},
    "eval_loss_rises": RM | {"eval_loss": wave(0.5, 0.9)},
    "margins_grow": RM | {"margin": wave(1, 20)},
}


def found(columns):
    """The names of the rules that ring for a log."""
    log = logs.log_of(rows_of(columns), "a log")
    return {rule.__name__ for rule in rules.RULES if rules.ask(rule, log)}


def test_each_rule_has_a_case_and_no_other_healthy_log_rings():
    assert set(CASES) == {rule.__name__ for rule in rules.RULES}
    assert found(healthy()) == found(RM) == set()


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_rings_for_its_case(rule):
    columns = CASES[rule] if "accuracy" in CASES[rule] else healthy() | CASES[rule]
    assert rule in found(columns)


def test_a_rule_is_silent_where_its_columns_are_missing_or_share_no_step():
    few = [{"update": 1, "kl": 0.0}, {"update": 2, "reward": 1.0}]
    assert {r.__name__ for r in rules.RULES if rules.ask(r, logs.log_of(few, "a log"))} == set()


def test_rises_are_counted_in_errors_of_the_noise():
    dice = np.random.default_rng(0)
    flat = [rules.rise(dice.standard_normal(12)) for _ in range(2000)]
    assert np.mean(np.abs(flat) > 3) < 0.02 and abs(np.mean(flat)) < 0.1
    assert rules.rise(wave(0, 1)) > 5 and rules.rise(-wave(0, 1)) < -5 and rules.rise(np.ones(12)) == 0


def test_kl_is_compared_per_token_whatever_its_unit():
    """The same run in nats per answer and per token gives the same findings."""
    columns = healthy() | {"kl": np.r_[1e-7, wave(1, 80)[1:]]}
    verl = {"actor/reward_kl_penalty": columns["kl"] / columns["length"], "critic/score/mean": columns["reward"]}
    assert "kl_runs_away" in found(columns) and "kl_runs_away" in found(verl)


def test_a_penalty_is_judged_by_its_sign_in_every_program(tmp_path):
    """As a column of its own (here, TRL), or in what an answer is paid beside its score (verl)."""
    kl = healthy()["kl"]
    score = healthy()["reward"]

    def told(beta, **more):
        ours = healthy() | {"non_score_reward": -beta * kl} | more
        trl = {"objective/kl": kl, "objective/scores": score, "objective/non_score_reward": -beta * kl}
        verl = {
            "actor/reward_kl_penalty": kl / 12,
            "critic/score/mean": score,
            "critic/rewards/mean": score - beta * kl,
        }
        for columns in (ours, trl, verl):
            yield rules.ask(rules.penalty_of, logs.log_of(rows_of(columns), "a log"))

    assert [f and f.ask for f in told(0.1)] == [None] * 3
    assert all("wrong sign" in f.causes[0] and not f.ask for f in told(-0.1))
    assert all("no KL penalty" in f.causes[0] and f.ask for f in told(0.0))
    in_the_loss = {"actor/kl_loss": kl / 12, "critic/score/mean": score, "critic/rewards/mean": score}
    assert rules.ask(rules.penalty_of, logs.log_of(rows_of(in_the_loss), "a log")) is None


def once(**at_first):
    """The findings in a healthy log that has further columns in its first row only, and what it could not show."""
    rows = [{k: v for k, v in r.items() if k not in ("loss_mask_off", "value_shift")} for r in rows_of(healthy())]
    rows[0] |= at_first
    told = rules.examine(logs.log_of(rows, "a log"))
    return told.findings, told.unseen


@pytest.mark.parametrize(
    "said, cause",
    [
        ({"loss_mask_off": 1.0}, "the end token is not trained"),
        ({"value_shift": 1.0}, "the value of the token before"),
        ({"value_shift": -1.0}, "the value is read after its token was drawn"),
        ({"value_shift": -4.0}, "dropout left on"),
    ],
)
def test_what_no_curve_shows_is_named_from_the_first_row(said, cause):
    (finding,), _ = once(**said)
    assert cause in finding.causes[0] and not finding.ask and "museum" in finding.check


def test_what_a_log_could_not_show_goes_by_its_columns():
    hidden = [sum("leaves" in x for x in once(**d)[1]) for d in ({}, {"value_shift": 0}, {"loss_mask_off": 0})]
    found_, unseen = once(value_shift=0, loss_mask_off=0)
    assert hidden == [2, 1, 1] and not found_ and not any("leaves" in x for x in unseen)
    about_judges = rules.examine(logs.log_of(rows_of(RM), "a log")).unseen
    assert not any("leaves" in x for x in about_judges)


def test_the_table_is_what_the_rules_say_of_the_logs():
    """benchmarks/results/doctor.json holds what the rules of today say of the logs that were measured."""
    kept = json.loads(gzip.decompress((ROOT / "benchmarks" / "results" / "doctor_logs.json.gz").read_bytes()))
    table = files.parse((ROOT / "benchmarks" / "results" / "doctor.json").read_bytes())
    script = stamp.script("doctor")
    assert script.judged(kept["runs"]) == table["runs"]
    for view in ("own", "verl"):
        alarms, n = script.false_alarms(table["runs"], view)
        assert n >= 100 and alarms <= max(1, 0.05 * n)
    bugs = {}
    for r in table["runs"]:
        if r["bug"]:
            bugs.setdefault(r["bug"], []).append((bool(r["own"]["named"]), bool(r["verl"]["named"])))
    assert all(len(named) == 5 for named in bugs.values())
    own, verl = ({bug: sum(n[k] for n in named) for bug, named in bugs.items()} for k in (0, 1))
    assert len(bugs) == 20 and min(own.values()) >= 4
    assert [(own[b], verl[b]) for b in ("untrained end", "early value", "late value")] == [(5, 0)] * 3


# ---------------------------------------------------------------- preferences and a reward model


def crowd(n, people=("Ann", "Bo"), taste="helpful"):
    """Label events on pairs of data/pairs.jsonl, each pair by every one of the people."""
    from rlhf_helpers.lesson.pairs import simulated_feedback

    pairs, events = files.read_jsonl(ROOT / "data" / "pairs.jsonl")[:n], []
    for k, who in enumerate(people):
        for e in simulated_feedback(pairs, annotators.labellers(taste, seed=k), k):
            events.append(e | {"annotator": f"simulated:{who}", "event_id": f"{who}-{e['pair_id']}"})
    return events


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same labels as this workbook's log and as a file of TRL, and that with chosen and rejected swapped."""
    folder = tmp_path_factory.mktemp("doctor")
    events = crowd(80)
    files.write_jsonl(folder / "log.jsonl", events)
    rows, _ = feedback.to_preferences([e for e in events if e["annotator"].endswith("Ann")])
    trl = [{k: r[k] for k in ("prompt", "chosen", "rejected")} for r in rows]
    files.write_jsonl(folder / "trl.jsonl", trl)
    files.write_jsonl(folder / "swapped.jsonl", [r | {"chosen": r["rejected"], "rejected": r["chosen"]} for r in trl])
    return folder


def names(told):
    return [f.name for f in told.findings]


@pytest.mark.slow
def test_the_shipped_reward_model_on_the_shipped_pairs(folder):
    told = scores.examine(folder / "log.jsonl", str(REWARD))
    assert [f.name for f in told.alarms] == []
    facts = told.facts
    accuracy = float(facts["accuracy"].split("%")[0])
    ceiling = float(facts["so the noise ceiling is"].split("%")[0])
    assert 70 < accuracy < 95 and abs(accuracy - ceiling) < 12
    assert {"calibration", "margin", "moved by padding", "the first is chosen", "labellers agree"} <= set(facts)
    assert [k for k in facts if k.startswith("an answer beats")] and "accuracy on simulated:Ann" in facts


@pytest.mark.slow
def test_a_file_of_trl_with_its_sides_swapped_is_upside_down(folder):
    assert "the order is upside down" not in names(scores.examine(folder / "trl.jsonl", str(REWARD)))
    told = scores.examine(folder / "swapped.jsonl", str(REWARD))
    assert "the order is upside down" in names(told)
    assert any("noise ceiling" in x for x in told.unseen), "nobody's name is in the file"


def small_classifier(kind, folder, labels=1, **changes):
    """A random classifier with a tokenizer of its own."""
    tokenizer = models.new_tokenizer(world.prompts("dev"), 400)
    tokenizer.chat_template = None
    if kind == "roberta":
        tokenizer.cls_token, tokenizer.sep_token = "<|user|>", "<|assistant|>"
        config = RobertaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=140,
            pad_token_id=tokenizer.pad_token_id,
            num_labels=labels,
        )
        model = RobertaForSequenceClassification(config)
    else:
        config = GPT2Config(
            vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=140, num_labels=labels, **changes
        )
        model = GPT2ForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind, labels", [("roberta", 1), ("roberta", 2), ("gpt2", 2)])
def test_any_classifier_with_any_tokenizer(kind, labels, folder, tmp_path):
    torch.manual_seed(0)
    told = scores.examine(folder / "trl.jsonl", small_classifier(kind, tmp_path, labels), most=100)
    assert "accuracy" in told.facts and "longest text" in told.facts
    assert 25 < float(told.facts["accuracy"].split("%")[0]) < 75, "nobody has trained it"
    assert ("both directions" in told.about[-1]) == (kind == "roberta")
    assert ("plain transformers refuses a batch of this model" in names(told)) == (kind == "gpt2")


@pytest.mark.slow
def test_a_pad_token_that_is_the_end_moves_the_score(folder, tmp_path):
    model, tokenizer = models.load_reward_model(REWARD)
    tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.eos_token_id
    models.save_model(model, tokenizer, tmp_path / "wrong", "")
    told = scores.examine(folder / "trl.jsonl", str(tmp_path / "wrong"), most=60)
    (moved,) = [f for f in told.findings if f.name == "a score changes with the texts beside it"]
    assert "end token" in moved.causes[0]


@pytest.mark.slow
@pytest.mark.parametrize("names, sign", [(("good", "bad"), -1), (("bad", "good"), 1), (("chosen", "rejected"), -1)])
def test_of_two_labels_the_good_one_is_known_by_its_name(names, sign, tmp_path):
    torch.manual_seed(0)
    plain = scores.load(small_classifier("gpt2", tmp_path, 2))
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    named, rows = scores.load(str(tmp_path)), [[5, 6, 7], [8, 9]]
    assert named.score(rows) == pytest.approx(sign * plain.score(rows)) and abs(plain.score(rows)).max() > 1e-6


@pytest.mark.slow
def test_a_language_model_has_no_head_and_three_labels_are_refused(folder, tmp_path):
    told = scores.examine(folder / "trl.jsonl", str(ROOT / "data/models/finetuned"), most=60)
    assert "weights that the folder does not hold" in names(told)
    with pytest.raises(WorkbookError, match="3 labels"):
        scores.load(small_classifier("roberta", tmp_path, 3))
    with pytest.raises(WorkbookError, match="cannot be loaded"):
        scores.load(tmp_path / "nowhere")


def test_what_is_wrong_with_the_data_is_said_without_a_model(tmp_path):
    rows = [{"prompt": f"q{k}", "chosen": "yes " * (k % 7 + 1), "rejected": f"no {k}"} for k in range(80)]
    turned = [r | {"chosen": r["rejected"], "rejected": r["chosen"]} for r in rows[:10]]
    same = [{"prompt": f"s{k}", "chosen": "so", "rejected": "so"} for k in range(10)]
    files.write_jsonl(tmp_path / "a.jsonl", rows + turned + same + rows[20:40])
    told = scores.examine(tmp_path / "a.jsonl")
    assert set(names(told)) == {"many contradictions", "many duplicates", "many equal answers"}


@pytest.mark.parametrize("left, verdict", [(0.9, True), (0.5, False)])
def test_a_side_that_decides_is_seen(left, verdict, tmp_path):
    rows = [
        {
            "prompt": f"q{k}",
            "response_a": f"one {k}",
            "response_b": f"two {k}",
            "choice": "a" if k % 10 < 10 * left else "b",
        }
        for k in range(100)
    ]
    files.write_jsonl(tmp_path / "a.jsonl", rows)
    told = scores.examine(tmp_path / "a.jsonl")
    assert ("the side on which an answer stands decides" in names(told)) == verdict


def test_the_ceiling_and_the_intervals_are_what_the_formulas_say():
    assert scores.ceiling(0.82) == pytest.approx(0.9) and scores.ceiling(0.4) == 0.5
    assert scores.share(np.array([1.0, 0, 1, 1]))[1:] == pytest.approx(feedback.wilson(3, 4))
    tight = scores.share(np.array([1.0, 0] * 50))
    loose = scores.share(np.array([1.0] * 50 + [0.0] * 50), [k // 10 for k in range(100)])
    assert loose[2] - loose[1] > 2 * (tight[2] - tight[1]), "ten comparisons of one prompt are not ten"
    assert scores.by_luck(5, 5) == 1 and scores.by_luck(10, 0) == pytest.approx(2 / 1024)
    dice = np.random.default_rng(1)
    gap = dice.standard_normal(20_000) * 2
    gap = np.where(dice.random(20_000) < 1 / (1 + np.exp(-abs(gap))), abs(gap), -abs(gap))
    assert scores.best_scale(gap) == pytest.approx(1, abs=0.05)
    assert scores.best_scale(3 * gap) == pytest.approx(1 / 3, abs=0.02)


def test_agreement_counts_pairs_of_people_once():
    said = [(Row("", "", {}), who, scores.Said("q", *order)) for who, order in (("A", "xy"), ("B", "xy"), ("C", "yx"))]
    assert scores.agreement(said) == (1, 3)
    assert scores.agreement([*said, said[0]]) == (1, 3), "a person's first word counts"
    assert scores.agreement([(row, "", x) for row, _, x in said]) == (0, 0), "without names a copy looks like a person"


# ---------------------------------------------------------------- what is shown


def test_the_command_line(tmp_path, capsys):
    files.write_json(tmp_path / "well.json", rows_of(healthy()))
    files.write_json(tmp_path / "ill.json", rows_of(healthy() | CASES["kl_never_moves"]))
    assert command.main([str(tmp_path / "well.json")]) == 0
    assert report.NOTHING in capsys.readouterr().out
    assert command.main([str(tmp_path / "ill.json"), "--markdown", str(tmp_path / "r.md")]) == 1
    shown = capsys.readouterr().out
    assert "the reference is the policy itself" in shown and max(map(len, shown.splitlines())) <= 100
    assert "| the KL to the reference stays 0" in (tmp_path / "r.md").read_text()
    assert command.main([str(tmp_path / "nowhere.json")]) == 2
    assert capsys.readouterr().err.startswith("There is no file")


def test_a_hostile_text_is_shown_and_not_run():
    one = report.Report("<script>alert(1)</script>", findings=[report.Finding("<b>", "<i>", ("<u>",), "a | b")])
    assert "<script>" not in report.as_html(one) and "&lt;script&gt;" in report.as_html(one)
    assert "<i>" not in report.as_markdown(one) and "a \\| b" in report.as_markdown(one)


# ---------------------------------------------------------------- TRL's own logs


@pytest.mark.scale
def test_logs_of_trl_are_read_from_its_state_and_from_tensorboard(tmp_path):
    """RewardTrainer, GRPOTrainer and RLOOTrainer for a few steps: nothing is found, and both files say the same."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer, RLOOConfig, RLOOTrainer

    common = {"use_cpu": True, "bf16": False, "report_to": "tensorboard", "logging_steps": 1, "max_steps": 8}
    common |= {"per_device_train_batch_size": 16, "learning_rate": 3e-4, "save_strategy": "no", "disable_tqdm": True}
    pairs = [
        {
            k: [{"role": "user" if k == "prompt" else "assistant", "content": r[k]}]
            for k in ("prompt", "chosen", "rejected")
        }
        for r in world.quiz(160, seed=5)
    ]
    asked = [{"prompt": [{"role": "user", "content": p}]} for p in world.prompts("dev")[:64]]
    policy = {"model": str(ROOT / "data/models/finetuned"), "train_dataset": Dataset.from_list(asked)}
    sampled = {"num_generations": 4, "max_completion_length": 48, "beta": 0.05}
    trainers = {
        "reward": lambda out: RewardTrainer(
            model=str(ROOT / "data/models/reward_start"),
            train_dataset=Dataset.from_list(pairs),
            args=RewardConfig(output_dir=out, **common),
        ),
        "grpo": lambda out: GRPOTrainer(
            **policy, reward_funcs=str(REWARD), args=GRPOConfig(output_dir=out, **common, **sampled)
        ),
        "rloo": lambda out: RLOOTrainer(
            **policy, reward_funcs=str(REWARD), args=RLOOConfig(output_dir=out, **common, **sampled)
        ),
    }
    for name, make in trainers.items():
        trainer = make(str(tmp_path / name))
        trainer.train()
        trainer.save_state()
        log = logs.read(tmp_path / name)
        assert log.program == "TRL" and log.begins and log.path.endswith("trainer_state.json")
        assert {"accuracy", "margin"} <= set(log.columns) or {"reward", "kl", "entropy", "length"} <= set(log.columns)
        assert rules.examine(log).alarms == [], name
        (tmp_path / name / "trainer_state.json").unlink()
        events = logs.read(tmp_path / name)
        assert events.program == "TRL" and set(log.columns) <= set(events.columns)
        for column, (steps, values) in log.columns.items():
            assert np.array_equal(events.columns[column][0], steps), column
            assert events.columns[column][1] == pytest.approx(values, rel=1e-4, abs=1e-6), column
