"""Files, parameters and model folders: what is written stays whole, and what is wrong is said in one sentence."""

import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch

from rlhf_helpers.desk import workspace
from rlhf_helpers.engine import files, models
from rlhf_helpers.engine.files import WorkbookError


def one_sentence_or_two(error):
    """The text of a WorkbookError, which must be short, in plain words, and without a stack of frames."""
    text = str(error.value)
    assert text[0].isupper() or text[0] in "/'", text
    assert text.rstrip(")").endswith((".", "?")) and "\n" not in text and "Traceback" not in text, text
    assert error.value._render_traceback_() == [f"WorkbookError: {text}"]
    return text


# ---------------------------------------------------------------- writing


def test_text_is_written_whole(tmp_path):
    path = tmp_path / "deep" / "er" / "note.txt"
    files.write_text(path, "grüß dich 你好\n")
    assert path.read_bytes() == "grüß dich 你好\n".encode()
    files.write_text(path, "again\n")
    assert path.read_text() == "again\n"
    assert os.listdir(path.parent) == ["note.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_an_error_while_writing_leaves_the_old_file(tmp_path, monkeypatch, broken):
    path = tmp_path / "note.txt"
    files.write_text(path, "old\n")

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(WorkbookError, match="note.txt was not written .No space.*What was there is still there"):
        files.write_text(path, "new\n")
    assert path.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["note.txt"]


def test_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path):
    path = tmp_path / "note.txt"
    files.write_text(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "\ud800")
    with pytest.raises(TypeError):
        files.write_json(path, {"no": {1, 2}})
    assert path.read_text() == "old\n" and os.listdir(tmp_path) == ["note.txt"]


def test_an_error_while_filling_a_folder_leaves_the_old_folder(tmp_path):
    path = tmp_path / "model"
    with files.replacing_folder(path) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), files.replacing_folder(path) as folder:
        (folder / "b").write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in path.iterdir()] == ["a"]
    with files.replacing_folder(path) as folder:
        (folder / "c").write_text("new")
    assert [p.name for p in path.iterdir()] == ["c"]
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("call", [1, 2])
def test_a_folder_that_cannot_be_renamed_leaves_the_old_one(tmp_path, monkeypatch, call):
    path, calls, rename = tmp_path / "model", [], os.replace
    with files.replacing_folder(path) as folder:
        (folder / "a").write_text("old")

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise OSError(5, "Input/output error")
        rename(*arguments)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(WorkbookError, match="model was not written .Input/output error"):
        with files.replacing_folder(path) as folder:
            (folder / "b").write_text("new")
    assert [p.name for p in path.iterdir()] == ["a"] and os.listdir(tmp_path) == ["model"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_folder_is_there_after_a_kill_between_any_two_steps(ws, call):
    """A process dies just before its first rename, its second, or the removal of the old folder."""
    path = ws.runs / "models" / "policy"
    with files.replacing_folder(path) as folder:
        (folder / "old").touch()
    if os.fork() == 0:
        steps = []

        def dying(step):
            def do(*arguments, **options):
                steps.append(step)
                if len(steps) == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(*arguments, **options)

            return do

        os.replace, files.shutil.rmtree = dying(os.replace), dying(files.shutil.rmtree)
        files.put_back = lambda path: None  # it runs before, and would count as a step
        with files.replacing_folder(path) as folder:
            (folder / "new").touch()
        os._exit(0)
    assert os.wait()[1] == signal.SIGKILL
    (content,) = workspace.find(ws, "models/policy", quiet=True).iterdir()
    assert content.name == ("new" if call == 3 else "old")
    with files.replacing_folder(path) as folder:  # and saving goes on
        (folder / "newer").touch()
    assert os.listdir(path) == ["newer"] and not (path.parent / ".policy.old").exists()


def test_rows_come_back_as_they_were(tmp_path):
    rows = [{"prompt": "où?\u2028", "n": 1}, {"prompt": "line\nbreak", "n": None}, {"prompt": "half a \ud800"}]
    files.write_jsonl(tmp_path / "rows.jsonl", rows)
    assert files.read_jsonl(tmp_path / "rows.jsonl") == rows


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    "content, line, words",
    [
        (b'{"prompt": "a"}\n\n{"prompt": \n', 3, "not valid JSON"),
        (b'{"prompt": "a"}\n["prompt"]\n', 2, "JSON object"),
        (b'{"prompt": "a"}\n{"promt": "b"}\n', 2, "'prompt' is missing"),
        (b'{"prompt": "\xff"}\n', 1, "not valid JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, line, words):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(WorkbookError) as error:
        files.read_jsonl(path, fields=("prompt",) if b"[" not in content else ())
    text = one_sentence_or_two(error)
    assert f"{path}, line {line}:" in text and words in text and "Mend or delete" in text


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WorkbookError) as error:
        files.read_jsonl(tmp_path / "none.jsonl")
    assert str(tmp_path / "none.jsonl") in one_sentence_or_two(error)


def test_windows_lines_and_a_byte_order_mark_are_read(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n{"n": 2}\r\n')
    assert files.read_jsonl(tmp_path / "rows.jsonl") == [{"n": 1}, {"n": 2}]


# ---------------------------------------------------------------- parameters


def test_setup_returns_the_workspace(tmp_path):
    runs = tmp_path / "new" / "runs"
    ws = workspace.setup(MODEL="gpt2", ANNOTATOR="brief", SEED=7, DEVICE="cpu", FAST=True, RUNS_DIR=str(runs))
    first = torch.rand(1)
    assert (ws.model, ws.annotator, ws.seed, ws.fast) == ("gpt2", "brief", 7, True)
    assert ws.runs == runs.resolve() / "gpt2" and ws.runs.is_dir() and ws.data == files.ROOT / "data"
    assert ws.device == torch.device("cpu")
    workspace.setup(SEED=7, RUNS_DIR=str(runs))
    assert torch.equal(torch.rand(1), first)


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("MODEL", None, "text in quotes"),
        ("MODEL", 3, "text in quotes"),
        ("ANNOTATOR", "bob", "you, helpful, terse, warm"),
        ("ANNOTATOR", ["you"], "text in quotes"),
        ("SEED", "0", "whole number"),
        ("SEED", 1.5, "whole number"),
        ("SEED", True, "whole number"),
        ("SEED", -1, "0 or more"),
        ("DEVICE", "tpu", '"cuda"'),
        ("DEVICE", 0, "text in quotes"),
        ("FAST", 1, "True or False"),
        ("FAST", "yes", "True or False"),
        ("DATA_DIR", "no/such/folder", "does not exist"),
        ("RUNS_DIR", None, "text in quotes"),
    ],
)
def test_a_bad_parameter_is_named(tmp_path, name, value, words):
    with pytest.raises(WorkbookError) as error:
        workspace.setup(**{"RUNS_DIR": str(tmp_path), name: value})
    text = one_sentence_or_two(error)
    assert name in text and words in text


@pytest.mark.parametrize("device, module", [("cuda", torch.cuda), ("mps", torch.backends.mps)])
def test_a_missing_device_is_named(tmp_path, monkeypatch, device, module):
    monkeypatch.setattr(module, "is_available", lambda: False)
    with pytest.raises(WorkbookError) as error:
        workspace.setup(DEVICE=device, RUNS_DIR=str(tmp_path))
    assert device in one_sentence_or_two(error)


def test_a_runs_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkbookError) as error:
        workspace.setup(RUNS_DIR=str(tmp_path / "file" / "runs"))
    assert "RUNS_DIR" in one_sentence_or_two(error)


# ---------------------------------------------------------------- artefacts


@pytest.fixture
def ws(tmp_path):
    for name in ("runs", "data"):
        (tmp_path / name).mkdir()
    return SimpleNamespace(
        runs=tmp_path / "runs",
        data=tmp_path / "data",
        seed=5,
        fast=True,
        own_model=False,
        prompts=None,
        preferences=None,
    )


def test_find_prefers_what_the_reader_made_and_says_so(ws, capsys):
    (ws.data / "models/policy").mkdir(parents=True)
    assert workspace.find(ws, "models/policy") == ws.data / "models/policy"
    assert capsys.readouterr().out == "Using data/models/policy, which ships with the workbook.\n"
    (ws.runs / "models/policy").mkdir(parents=True)
    assert workspace.find(ws, "models/policy") == ws.runs / "models/policy"
    assert capsys.readouterr().out == "Using runs/models/policy, which you made.\n"
    workspace.find(ws, "models/policy", quiet=True)
    assert capsys.readouterr().out == ""


def test_a_missing_artefact_is_named(ws):
    with pytest.raises(WorkbookError) as error:
        workspace.find(ws, "feedback.jsonl")
    text = one_sentence_or_two(error)
    assert "feedback.jsonl" in text and str(ws.runs) in text and "Run the chapter" in text


def test_metrics_carry_seed_and_versions(ws):
    workspace.save_metrics(ws, "04_reward_model", {"accuracy": 0.8, "key_result": "80%"})
    metrics = json.loads((ws.runs / "metrics/04_reward_model.json").read_text())
    assert metrics["seed"] == 5 and metrics["fast"] is True and metrics["accuracy"] == 0.8
    assert set(metrics["versions"]) == {"python", "torch", "transformers"}


# ---------------------------------------------------------------- models


def test_models_that_cannot_be_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    empty, no_weights = tmp_path / "empty", tmp_path / "no_weights"
    empty.mkdir()
    tokenizer = models.new_tokenizer(["a few words"], vocab_size=270)
    model = models.new_model(tokenizer, layers=1, width=16, heads=2)
    models.save_model(model, tokenizer, no_weights, "x")
    (no_weights / "model.safetensors").unlink()
    for source, words in (
        (tmp_path / "nowhere", "cannot be loaded"),
        (empty, "no config.json"),
        ("nobody/no-such-model", "cannot be loaded"),
        (no_weights, "cannot be loaded"),
    ):
        for load in (models.load_model, models.load_reward_model):
            with pytest.raises(WorkbookError) as error:
                load(source)
            text = one_sentence_or_two(error)
            assert str(source) in text and words in text


def test_a_model_comes_back_as_it_was(tmp_path):
    tokenizer = models.new_tokenizer(["a few words"], vocab_size=270)
    model = models.new_model(tokenizer, layers=1, width=16, heads=2)
    models.save_model(model, tokenizer, tmp_path / "model", "# A card\n")
    again, tokenizer_again = models.load_model(tmp_path / "model")
    ids, mask = models.encode_prompts(tokenizer_again, ["a few", "words, שלום 🙂"])
    assert torch.equal(model(ids, attention_mask=mask).logits, again(ids, attention_mask=mask).logits)
    assert not again.training and (tmp_path / "model/README.md").read_text() == "# A card\n"
    assert not list((tmp_path / "model").glob("*.bin")) and (tmp_path / "model/model.safetensors").is_file()


def test_a_model_of_a_notebook_carries_seed_and_versions(tmp_path):
    tokenizer = models.new_tokenizer(["a few words"], vocab_size=270)
    model = models.new_model(tokenizer, layers=1, width=16, heads=2)
    models.save_model(model, tokenizer, tmp_path / "built", "# A card\n")
    assert not (tmp_path / "built" / "made_with.json").exists()  # the build has its own record
    ws = workspace.setup(SEED=7, RUNS_DIR=str(tmp_path))
    models.save_model(model, tokenizer, tmp_path / "model", "# A card\n", ws.made_with)
    made = json.loads((tmp_path / "model" / "made_with.json").read_text())
    assert made == {"seed": 7, "versions": files.versions()}
