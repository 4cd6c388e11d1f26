"""Chapter 00 with a reader in it: their choices, their blind test, and a second round."""

import contextlib
import io

import matplotlib.pyplot as plt
import nbformat
import pytest

from rlhf_helpers.desk import plots
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT
from rlhf_helpers.lesson.feedback import read_events
from rlhf_helpers.make import stamp

(PATH,) = (ROOT / "notebooks").glob("00_*.ipynb")
CODE = {c.id: c.source for c in nbformat.read(PATH, 4).cells if c.cell_type == "code"}
CODE["train"] = CODE["train"].replace("6 if ws.fast", "3 if ws.fast")  # updates
ORDER = list(CODE)[: list(CODE).index("verdict") + 1]


def run(scope, first, last, sources=CODE):
    """What the cells from `first` to `last` print."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for name in ORDER[ORDER.index(first) : ORDER.index(last) + 1]:
            exec(compile(sources[name], name, "exec"), scope)
    plt.close("all")
    return said.getvalue()


def choose_shorter(labeller):
    """A reader who likes short answers."""
    while not labeller.done:
        pair, left = labeller.current["pair"], labeller.current["left"]
        shorter = min("ab", key=lambda side: len(pair[f"response_{side}"].split()))
        labeller.choose("a" if shorter == left else "b")


def without_a_page(monkeypatch):
    """A scope for the cells, in which nothing is drawn."""
    monkeypatch.setattr(plt, "show", lambda: None)
    monkeypatch.setattr(plots, "live_figure", lambda figure: lambda: None)
    return {}


@pytest.mark.slow
def test_a_reader_chooses_judges_and_goes_round_again(tmp_path, monkeypatch):
    scope = without_a_page(monkeypatch)
    begin = f'{CODE["parameters"]}\nFAST, DEVICE, RUNS_DIR = True, "cpu", {str(tmp_path)!r}'
    run(scope, "parameters", "widget", CODE | {"parameters": begin})
    choose_shorter(scope["mine"])
    said = run(scope, "labels", "verdict")
    assert "24 choices by you" in said and "Keep the old model: you have not judged all pairs yet" in said
    choose_shorter(scope["blind"])
    assert "not judged" not in run(scope, "verdict", "verdict")
    assert scope["judge"] == "you" and scope["result"]["n"] == 12
    second = CODE | {"round": CODE["round"].replace("ROUND = 1", "ROUND = 2")}
    first = scope["queue"]
    run(scope, "round", "widget", second)
    assert scope["queue"][:24] == first and len(scope["queue"]) == 48 and len(scope["mine"].labels) == 24
    assert not {p["prompt"] for p in scope["queue"]} & set(scope["test"])
    choose_shorter(scope["mine"])
    assert "48 choices by you" in run(scope, "labels", "verdict", second)
    assert set(scope["in_use"]) == {0, 1, 2}
    for log in ("sitting", "sitting_blind"):
        assert {e["annotator"] for e in read_events(tmp_path / f"{log}.jsonl")[0]} == {"you"}


@pytest.mark.slow
def test_an_edited_cell_changes_the_result(tmp_path, monkeypatch):
    """The penalty is what keeps the policy near the start, and the sign of the advantage is what it learns by."""
    scope = without_a_page(monkeypatch)
    begin = f'{CODE["parameters"]}\nFAST, DEVICE, RUNS_DIR = True, "cpu", {str(tmp_path)!r}'
    run(scope, "parameters", "policy-gradient", CODE | {"parameters": begin})
    gains = []
    for loss in ("-(advantage * now).mean()", "(advantage * now).mean()"):
        source = CODE["policy-gradient"].replace("-(advantage * now).mean()", loss)
        run(scope, "policy-gradient", "policy-gradient", CODE | {"policy-gradient": source})
        run(scope, "train", "train")
        gains.append(scope["seen"]["score"][-1] - scope["seen"]["score"][0])
    assert gains[0] > gains[1]


def test_the_benchmark_finds_what_it_needs_in_the_chapter():
    """benchmarks/sitting.py runs the cells without the chapter around them."""
    script = stamp.script("sitting")
    model, tokenizer = models.load_model(ROOT / "data/models/finetuned")
    c = script.chapter(0, model, tokenizer)
    assert all(map(callable, (c.learn, c.sides, c.scorer, c.policy_gradient, c.answer, c.ship_it)))
    assert c.UPDATES == 24 and 0 < c.LR < 1e-2 and c.BETA > 0
