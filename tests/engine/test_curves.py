"""The curves of a training in TensorBoard: read back as they were logged, off by default, nothing sent anywhere."""

import importlib.util
import socket

import pytest
import torch
from test_ppo import PROMPTS, letters, same, settings, small_tokenizer, tiny, weights

from rlhf_helpers.engine import curves, models
from rlhf_helpers.engine.files import WorkbookError
from rlhf_helpers.lesson import loop, ppo, reward

ROWS = [{"prompt": p, "chosen": "It is red.", "rejected": "The cat sleeps here."} for p in PROMPTS]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where curves go, with every way to the network an error."""

    def caught(self, *to):
        raise AssertionError(f"something was sent to {to}")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, caught)
    monkeypatch.setattr(socket, "getaddrinfo", caught)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "curves"))
    return tmp_path / "curves"


def read_back(folder):
    """{name of the curve: [(step, value)]} of the one training in `folder`, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = folder.iterdir()
    seen = EventAccumulator(str(run)).Reload()
    return {tag: [(e.step, e.value) for e in seen.Scalars(tag)] for tag in seen.Tags()["scalars"]}


def as_curves(history, step):
    names = set(history[0]) - {step}
    rows = {name: [row for row in history if name in row] for name in names}
    return {name: [(row[step], pytest.approx(row[name], rel=1e-6)) for row in some] for name, some in rows.items()}


def test_ppo_draws_the_rows_of_its_history_and_learns_the_same_without(folder):
    tokenizer = small_tokenizer()
    silent, drawn = tiny(tokenizer), tiny(tokenizer)
    plain, _ = ppo.train(silent, tokenizer, letters, PROMPTS, settings())
    assert not folder.exists()
    history, _ = ppo.train(drawn, tokenizer, letters, PROMPTS, settings(), report_to="tensorboard")
    assert history == plain and same(weights(silent), weights(drawn))
    found = read_back(folder)
    assert found == as_curves(history, "update") and {"reward", "kl", "entropy", "value_shift"} <= set(found)
    assert [p.name.split("-")[0] for p in folder.iterdir()] == ["ppo"]


def test_the_reward_model_draws_its_loss(folder):
    tokenizer = small_tokenizer()
    models.save_model(tiny(tokenizer), tokenizer, folder.parent / "model", "")
    model, _ = models.load_reward_model(folder.parent / "model")
    history = reward.train_reward_model(model, tokenizer, ROWS, epochs=2, batch_size=3, report_to="tensorboard")
    assert read_back(folder) == as_curves(history, "step") and len(history) == 4


def test_a_round_of_the_loop_hands_it_on(monkeypatch):
    class Enough(Exception):
        pass

    def train(*arguments, report_to=None, **more):
        raise Enough(report_to)

    tokenizer = small_tokenizer()
    taught = {"rows": [{"prompt": "Who?", "chosen": "a", "rejected": "b"}]}
    monkeypatch.setattr(loop, "teach", lambda *a, **k: (lambda p, r: torch.arange(len(r)).float(), taught))
    monkeypatch.setattr(loop.ppo, "train", train)
    someone = type("Someone", (), {"name": "someone", "choose": lambda self, *shown: "tie"})()
    short = loop.RoundSettings(ppo=settings())
    with pytest.raises(Enough, match="tensorboard"):
        loop.one_round(tiny(tokenizer), tokenizer, PROMPTS[:3], PROMPTS[3:], someone, short, report_to="tensorboard")


EVERY = [
    lambda **how: ppo.train(None, None, None, None, **how),
    lambda **how: reward.train_reward_model(None, None, None, **how),
    lambda **how: loop.one_round(None, None, ["Who?"], ["How?"], None, **how),
]


@pytest.mark.parametrize("train", EVERY, ids=("ppo", "reward model", "loop"))
def test_what_cannot_be_meant_is_said_before_anything_is_computed(train, folder, monkeypatch):
    with pytest.raises(WorkbookError, match='report_to is .wandb.; choose "tensorboard", or None'):
        train(report_to="wandb")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else found(name))
    with pytest.raises(WorkbookError, match="not installed here; run: python -m pip install tensorboard"):
        train(report_to="tensorboard")
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_and_two_trainings_in_one_second(folder, monkeypatch):
    folder.write_text("a file is in the way")
    with pytest.raises(WorkbookError, match="cannot be written to .* TENSORBOARD_LOGGING_DIR"):
        curves.begin("tensorboard", "ppo")
    folder.unlink()
    monkeypatch.setattr(curves.time, "strftime", lambda form: "now")
    for _ in range(2):
        curves.end(curves.begin("tensorboard", "ppo"))
    assert sorted(p.name for p in folder.iterdir()) == ["ppo-now", "ppo-now-2"]
    for off in curves.OFF:
        assert curves.begin(off, "ppo") is None
