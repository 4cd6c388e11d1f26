"""Exports, configurations and costs of "Scaling up"; with TRL (marker `scale`), the runs themselves."""

import ast
import json
import linecache
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from taught import cells, made_by, path_of, taught

from rlhf_helpers import lesson, world
from rlhf_helpers.desk import scale
from rlhf_helpers.engine import files, models
from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.lesson import reward
from rlhf_helpers.make import series

TAUGHT = SimpleNamespace(
    **made_by(
        "scaling_up",
        *("count-parameters", "memory-formulas", "update-flops", "cost-defs", "fsdp", "launch-config"),
        math=math,
        WorkbookError=WorkbookError,
    )
)
SHAPES = {
    "7B": dict(layers=32, width=4096, inner=11008, heads=32, kv_heads=32, vocab=32000),
    "70B": dict(layers=80, width=8192, inner=28672, heads=64, kv_heads=8, vocab=32000),
}


def preference_row(tokenizer, row):
    prompt = taught("scaling_up", "prompt_row", models)
    return taught("scaling_up", "preference_row", SimpleNamespace(prompt_row=prompt))(tokenizer, row)


NODES = {"machines": 2, "address": "10.0.0.1", "sharded": True}
CONFIGS = {
    "here": TAUGHT.launch_config(2, cpu=True),
    "one": TAUGHT.launch_config(1),
    "eight": TAUGHT.launch_config(8, sharded=True),
    "first": TAUGHT.launch_config(16, rank=0, **NODES),
    "second": TAUGHT.launch_config(16, rank=1, **NODES),
}


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_model(ROOT / "data/models/finetuned")[1]


# ---------------------------------------------------------------- the reader's edits


@pytest.mark.slow
def test_an_edited_cell_of_the_chapter_reaches_the_processes(tmp_path, monkeypatch):
    """What differs from the package's goes to edits.py, and the process that reads it runs that."""
    scale.hand_over_edits(tmp_path)
    assert (tmp_path / "edits.py").read_text() == ""
    source = cells("scaling_up")["common-arguments"].replace('"seed": settings["seed"]', '"seed": 1 + settings["seed"]')
    linecache.cache["<edited>"] = len(source), None, source.splitlines(keepends=True), "<edited>"
    monkeypatch.setattr(scale, "common_arguments", scale.common_arguments)  # put back afterwards
    monkeypatch.setattr(lesson, "SHIPPED", {})
    scope = {"__name__": "__main__", "drives": lesson.drives, "scale": scale}
    exec(compile(source, "<edited>", "exec"), scope)
    scale.hand_over_edits(tmp_path)
    program = f"""
import json, sys
from pathlib import Path
from rlhf_helpers.desk import scale
seed = lambda folder: scale.common_arguments(folder, {{"batch_size": 8, "seed": 3, "lr": 1e-3}})["seed"]
scale.train_reward = lambda folder: print(seed(folder))
sys.argv = ["scale", "reward", {str(tmp_path)!r}]
scale.main()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["4"], done.stderr


# ---------------------------------------------------------------- the engine is optional


@pytest.mark.slow
def test_nothing_imports_the_engine_before_it_is_asked_for():
    """No import of TRL, Accelerate or datasets stands outside a function, and none happens by itself."""
    modules = sorted((ROOT / "rlhf_helpers").rglob("*.py"))
    for path in modules:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                assert not {n.split(".")[0] for n in names} & set(scale.ENGINE), f"{path.name}: {names}"
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in modules if p.stem != "__init__"]
    program = f"import importlib, sys\nfor n in {names}: importlib.import_module(n)\nassert 'trl' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_the_engine_one_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(scale.importlib.util, "find_spec", lambda name: None)
    assert scale.missing() == ["trl", "accelerate", "datasets"]
    with pytest.raises(WorkbookError, match=r"trl, accelerate, datasets .* constraints/scale.txt -e \"\.\[scale\]\""):
        scale.launch(tmp_path / "c.yaml", "reward", tmp_path)


def test_a_run_that_fails_is_one_sentence_with_its_reason_and_its_log(monkeypatch, tmp_path):
    (tmp_path / "c.yaml").write_text(scale.config_text(CONFIGS["here"]))
    monkeypatch.setattr(scale, "missing", lambda: [])
    monkeypatch.setattr(scale, "launch_command", lambda *a: [sys.executable, "-c", "raise ValueError('no batch')"])
    with pytest.raises(WorkbookError, match=r"ValueError: no batch\); .*reward\.log"):
        scale.launch(tmp_path / "c.yaml", "reward", tmp_path)


# ---------------------------------------------------------------- exports


def test_an_exported_row_is_the_same_tokens_as_here(tokenizer):
    for row in world.quiz(40, seed=3):
        out = preference_row(tokenizer, row)
        for side in ("chosen", "rejected"):
            ids = tokenizer.apply_chat_template(out["prompt"] + out[side], return_dict=True)["input_ids"]
            assert ids == reward.pair_ids(tokenizer, row["prompt"], row[side], 128)
        ids = tokenizer.apply_chat_template(out["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
        assert ids == models.prompt_ids(tokenizer, row["prompt"])


def test_without_a_chat_template_a_row_is_plain_text(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    out = preference_row(tokenizer, {"prompt": "Why?", "chosen": "So.", "rejected": "No."})
    assert out == {"prompt": "Question: Why?\nAnswer:", "chosen": " So.", "rejected": " No."}
    ids = tokenizer(out["prompt"] + out["chosen"] + tokenizer.eos_token)["input_ids"]
    assert ids == reward.pair_ids(tokenizer, "Why?", "So.", 128)


# ---------------------------------------------------------------- configurations


def test_a_configuration_reads_back_as_it_was():
    for config in CONFIGS.values():
        assert yaml.safe_load(scale.config_text(config)) == config


def test_what_the_configurations_say():
    assert CONFIGS["here"]["use_cpu"] and CONFIGS["here"]["mixed_precision"] == "no"
    assert CONFIGS["one"]["distributed_type"] == "NO" and "fsdp_config" not in CONFIGS["one"]
    assert CONFIGS["eight"]["distributed_type"] == "FSDP" and CONFIGS["eight"]["num_machines"] == 1
    first, second = CONFIGS["first"], CONFIGS["second"]
    assert {k for k in first if first[k] != second[k]} == {"machine_rank"}
    assert first["num_processes"] == 16 and first["main_process_ip"] == "10.0.0.1"


@pytest.mark.parametrize("processes, machines", [(0, 1), (3, 2), (2, 0)])
def test_processes_that_cannot_be_shared_out(processes, machines):
    with pytest.raises(WorkbookError, match="shared out evenly"):
        TAUGHT.launch_config(processes, machines)


def test_the_batch_is_that_of_all_processes_together(monkeypatch, tmp_path):
    settings = {"batch_size": 96, "seed": 0, "lr": 1e-3}
    for world_size in (1, 2, 8):
        monkeypatch.setenv("WORLD_SIZE", str(world_size))
        got = scale.common_arguments(tmp_path, settings)["per_device_train_batch_size"]
        assert got * world_size == 96
    monkeypatch.setenv("WORLD_SIZE", "7")
    with pytest.raises(WorkbookError, match="A batch of 96 can't be shared out over 7 processes"):
        scale.common_arguments(tmp_path, settings)


# ---------------------------------------------------------------- costs


def test_parameters_of_known_models():
    """Llama 2 has 6,738,415,616 and 68,976,648,192 parameters."""
    assert TAUGHT.count_parameters(**SHAPES["7B"]) == pytest.approx(6_738_415_616, rel=1e-3)
    assert TAUGHT.count_parameters(**SHAPES["70B"]) == pytest.approx(68_976_648_192, rel=1e-3)
    ours, _ = models.load_model(ROOT / "data/models/finetuned")
    c = ours.config
    shape = dict(
        layers=c.n_layer,
        width=c.n_embd,
        inner=4 * c.n_embd,
        heads=c.n_head,
        kv_heads=c.n_head,
        vocab=c.vocab_size,
        gated=False,
        tied=True,
    )
    assert TAUGHT.count_parameters(**shape) == pytest.approx(sum(p.numel() for p in ours.parameters()), rel=0.03)


def test_memory():
    assert TAUGHT.training_bytes(100, 10) == 16 * 100 + 2 * 100 + 2 * 10
    assert TAUGHT.training_bytes(100, 10, 50) - TAUGHT.training_bytes(100, 10) == 16 * 50
    assert TAUGHT.cache_bytes(**SHAPES["7B"]) == 2 * 32 * 4096 * 2
    assert TAUGHT.cache_bytes(**SHAPES["70B"]) == 2 * 80 * 8 * 128 * 2
    assert [TAUGHT.cards_needed(x, card=10, share=0.5) for x in (1, 5, 5.1, 20, 21)] == [1, 1, 2, 4, 8]


def test_time():
    assert TAUGHT.update_flops(10, 1, 3, 4) == 7 * (20 + 20 + 2 + 60)
    assert TAUGHT.update_flops(10, 1, 3, 4, epochs=2) == 7 * (20 + 20 + 2 + 120)
    few = {"batch": 3, "prompt": 4, "answer": 2, "bandwidth": 50}
    assert TAUGHT.decoding_seconds(100, 10, **few, flops=1e9) == 2 * (200 + 10 * 3 * 5) / 50
    assert TAUGHT.decoding_seconds(100, 10, **few, flops=20) == 2 * 100 * 3 * (4 + 2) / 20


# ---------------------------------------------------------------- with TRL


@pytest.mark.scale
def test_the_engine_is_the_one_that_was_pinned():
    from importlib import metadata

    lines = (ROOT / "constraints/scale.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert scale.missing() == []
    assert metadata.version("trl") == pinned["trl"]


@pytest.mark.scale
def test_accelerate_takes_the_configurations(tmp_path):
    from importlib import resources

    from accelerate.commands.config.config_args import load_config_from_file

    for name, config in CONFIGS.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(scale.config_text(config))
        loaded = load_config_from_file(str(path))
        assert loaded.num_processes == config["num_processes"] and loaded.num_machines == config["num_machines"]
        assert loaded.distributed_type.value == config["distributed_type"]
    theirs = yaml.safe_load((resources.files("trl") / "accelerate_configs" / "fsdp2.yaml").read_text())
    assert CONFIGS["eight"]["fsdp_config"] == theirs["fsdp_config"]


@pytest.mark.scale
def test_trl_sees_the_tokens_that_we_see(tokenizer, tmp_path):
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    rows = world.quiz(16, seed=5)
    trainer = RewardTrainer(
        model=str(ROOT / "data/models/reward_start"),
        train_dataset=Dataset.from_list([preference_row(tokenizer, r) for r in rows]),
        args=RewardConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none"),
    )
    seen = [(r["chosen_ids"], r["rejected_ids"]) for r in trainer.train_dataset]
    assert seen == reward.usable_pairs(tokenizer, rows, 128)[0]


@pytest.mark.scale
def test_scaling_up_with_trl_in_two_processes(tmp_path):
    """The whole chapter, unshortened: TRL's reward model is as good as ours, and its policy wins the blind test."""
    runs = tmp_path / "runs"
    nb = series.execute(path_of("scaling_up"), tmp_path / "executed", {"RUNS_DIR": str(runs)})
    assert series.widget_errors(nb) == []
    for name in ("trl_reward", "trl_policy"):
        run = json.loads((runs / "scale" / name / "run.json").read_text(encoding="utf-8"))
        assert (run["processes"], run["backend"]) == (2, "gloo")
        assert sorted(p.suffix for p in (runs / "scale" / name).iterdir() if p.suffix in (".bin", ".pt", ".pkl")) == []
    metrics = json.loads((runs / "metrics" / "scaling_up.json").read_text(encoding="utf-8"))
    tests, blind = metrics["reward"], metrics["blind"]
    assert metrics["same_tokens"] == metrics["rows"]
    assert tests["TRL"]["accuracy"] > tests["before"]["accuracy"]
    assert abs(tests["TRL"]["accuracy"] - tests["ours"]["accuracy"]) < 0.04
    assert abs(tests["TRL"]["clear pairs"] - tests["ours"]["clear pairs"]) < 0.05
    assert blind["TRL (RLOO) over fine-tuned"]["low"] > 0.5
    assert 0.35 < blind["TRL over ours"]["win_rate"] < 0.65
    shown = [o for c in nb.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream"]
    assert not [o.text for o in shown if "kipped" in o.text]
    rows = files.read_jsonl(runs / "scale" / "prompts.jsonl")
    assert rows and all(r["prompt"] for r in rows)  # a text, or messages where the tokenizer has a chat template
