"""README and docs/ show what was measured, and the stamp says what is wrong with a template."""

import ast
import inspect
import math
from types import ModuleType

import numpy as np
import pytest

from rlhf_helpers.engine.files import ROOT, WorkbookError, parse, write_json
from rlhf_helpers.make import stamp

RUNS = {
    "split": "dev",
    "runs": [
        {"seed": 0, "taste": "warm", "side": "ours", "score": 0.7, "test_right": 0.5, "reworded_right": 0.6, "cpu": 2},
        {"seed": 1, "taste": "warm", "side": "ours", "score": 0.8, "test_right": 0.6, "reworded_right": 0.8, "cpu": 2},
        {"seed": 0, "taste": "terse", "side": "trl", "score": 0.9, "test_right": 0.7, "reworded_right": 0.7, "cpu": 6},
        {"seed": 1, "taste": "terse", "side": "trl", "score": 1.0, "test_right": 0.6, "reworded_right": 0.9, "cpu": 8},
    ],
}
SOURCES = {"toy": stamp.Result("toy", RUNS)}


def test_pages_show_what_was_measured(capsys):
    """When this fails, run `make stamp`: it writes the places named here anew."""
    assert stamp.main(["--check"]) == 0, "".join(capsys.readouterr())


def test_intervals_are_those_of_student():
    values = [0.7, 0.8, 0.9]
    half = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)
    assert stamp.interval(values) == pytest.approx((0.8, 0.8 - half, 0.8 + half), abs=1e-3)
    assert stamp.interval([0.7]) == (0.7, -math.inf, math.inf)


@pytest.mark.parametrize(
    "values, spec, word",
    [
        ([0.6, 0.61, 0.62], "wins", "wins"),
        ([0.4, 0.41, 0.42], "wins", "loses"),
        ([0.4, 0.5, 0.65], "wins", "inconclusive"),
        ([0.6], "wins", "inconclusive"),
        ([0.1, 0.11, 0.12], "differs", "higher"),
        ([-0.1, -0.11, -0.12], "differs", "lower"),
        ([-0.1, 0.1, 0.12], "differs", "inconclusive"),
        ([-0.001, 0.0, 0.001], "worse 0.01", "no worse"),
        ([-0.03, -0.031, -0.032], "worse 0.01", "worse"),
        ([-0.1, 0.0, 0.1], "worse 0.01", "inconclusive"),
    ],
)
def test_outcomes_are_computed(values, spec, word):
    assert format(stamp.Figure({"": values}), spec) == word


@pytest.mark.parametrize(
    "template, text",
    [
        ("{toy[split]} {toy.n}", "dev 2"),
        ("{toy.score:.2f}", "0.85 (0.64 to 1.06)"),
        ("{toy.right:.1f}", "reworded 0.8 (0.5 to 1.0), test 0.6 (0.5 to 0.7)"),
        ("{toy.where}", "reworded questions and test questions"),
        ("{toy.by[taste].score:lowest .2f}", "0.75 (0.11 to 1.39) for warm"),
        ("{toy.by[taste].right:highest .1f}", "0.8 (-0.5 to 2.1) for terse reworded"),
        ("{toy.ahead.score:+.1f}", "-0.2 (-0.2 to -0.2)"),
        ("{toy.times[score/cpu]:.2f}", "2.77 (-2.74 to 8.27)"),
        ("{toy.caveat}", ""),
    ],
)
def test_a_template_is_filled(template, text):
    assert stamp.fill(template, SOURCES) == text


def test_paragraphs_are_wrapped_and_tables_are_not():
    row = "| " + "cell " * 40 + "|"
    lines = stamp.fill(f"\n{'word ' * 40}\n\n{row}\n\n{{toy.caveat}}\n", SOURCES).splitlines()
    assert [len(line) for line in lines] == [0, 119, 79, 0, len(row)]


@pytest.mark.parametrize(
    "text, words",
    [
        ("<!-- stamp {toy.nothing:.2f} -->1<!-- /stamp -->", "line 2: toy has nothing that is called 'nothing'"),
        ("<!-- stamp {toy[nothing][deep]} -->1<!-- /stamp -->", "line 2: toy has nothing that is called 'nothing'"),
        ("<!-- stamp {toy.score:.2q} -->1<!-- /stamp -->", "line 2: a field cannot be read: "),
        ("<!-- stamp {toy.score -->1<!-- /stamp -->", "line 2: a field cannot be read: "),
        ("<!-- stamp {toy.n} -->1", "a stamp has no end, or an end no stamp"),
        ("<!-- stamp {nowhere.n} -->1<!-- /stamp -->", "line 2: benchmarks/results/nowhere.json does not exist"),
    ],
)
def test_what_cannot_be_filled_is_said_in_a_sentence(text, words):
    sources = stamp.Sources(SOURCES)
    with pytest.raises(WorkbookError) as e:
        stamp.filled_in("\n" + text, sources)
    assert str(e.value).startswith(words)


def test_a_result_must_say_what_it_was_measured_on():
    with pytest.raises(WorkbookError, match='bare does not say on which prompts .* "split"'):
        stamp.fill("{bare.where}", {"bare": stamp.Result("bare", {"runs": [{"seed": 0}]})})


def test_check_names_the_place_and_writes_nothing(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\nSo much: <!-- stamp {toy.n} -->3<!-- /stamp --> seeds.\n")
    monkeypatch.setattr(stamp, "pages", lambda: [page])
    monkeypatch.setattr(stamp, "ROOT", tmp_path)
    monkeypatch.setattr(stamp, "Sources", lambda: SOURCES)
    before = page.read_text()
    assert stamp.main(["--check"]) == 1 and page.read_text() == before
    assert capsys.readouterr().out == "page.md, line 3: is not {toy.n}\n"
    assert stamp.main([]) == 0 and page.read_text() == before.replace("3<", "2<")
    assert stamp.main(["--check"]) == 0


# ---------------------------------------------------------------- which build of data/

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
MADE_BY = {"precision": "gpu"}  # the others are named after their scripts


def test_a_result_says_when_it_belongs_to_an_earlier_build(tmp_path, monkeypatch):
    monkeypatch.setattr(stamp, "ROOT", tmp_path)
    weights, labels = tmp_path / "data/models/judge/model.safetensors", tmp_path / "data/labels.jsonl"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"1"), labels.write_bytes(b"2")
    names, path = ("judge", "labels.jsonl"), tmp_path / "result.json"
    assert stamp.begun(path, *names) == {"data": stamp.built(*names)}
    write_json(path, made := {"data": stamp.built(*names), "caveat": "So few.", "runs": [{"seed": 0}]})
    assert stamp.begun(path, *names) == made and stamp.Result("result", made).caveat == "So few."
    labels.write_bytes(b"3")
    assert stamp.begun(path, *names) == {"data": stamp.built(*names)} != {"data": made["data"]}
    assert stamp.Result("result", made).caveat == "So few. Measured with an earlier build of `data/`."


def test_every_result_says_which_models_it_is_of():
    """But where the script loads none of those that ship."""
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        module = stamp.script(MADE_BY.get(path.stem, path.stem))
        source, data = inspect.getsource(module), parse(path.read_bytes()).get("data", {})
        loads = "data/models" in source or "finetuned" in source or "PREFERENCES" in source or ".jsonl" in source
        assert bool(data) == ("built(" in source or "begun(" in source), path.name
        assert data or not loads or module.__name__ in ("labelling", "load", "served", "real"), path.name
        assert set(data) <= {"finetuned", "reward_start", "reward", "policy", "pairs.jsonl", "feedback.jsonl"}, (
            path.name
        )


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_a_benchmark_asks_the_package_for_what_it_has(path):
    """Names of modules, such as `build.train_judge`: nobody runs these scripts every day."""
    module, tree = stamp.script(path.stem), ast.parse(path.read_text(encoding="utf-8"))
    own = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    own |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id not in own:
            asked = getattr(module, node.value.id, None)
            if isinstance(asked, ModuleType):
                assert hasattr(asked, node.attr), f"{path.name}, line {node.lineno}: {ast.unparse(node)}"
