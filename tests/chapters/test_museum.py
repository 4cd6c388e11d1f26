"""The bug museum: its exhibits, and what they say of the package.

The bugs stand in the notebook and nowhere else: its tagged cells are executed here.  That each exhibit is noticed by
the check that the chapter names is seen where the chapter is executed, in test_notebooks.py.
"""

import ast
import inspect
import re

import nbformat
import numpy as np
import pytest
from taught import path_of, says

from rlhf_helpers.desk.exercises import bug_museum as exercises
from rlhf_helpers.lesson import decoding, ppo

CELLS = {c.id: c for c in nbformat.read(path_of("bug_museum"), as_version=4).cells}
EXHIBITS = [i.removesuffix("-flip") for i in CELLS if re.fullmatch(r"x\d+-flip", i)]
NAMED = re.compile(r"\*\*Caught by\*\* the (loop|bench): \*(.+?)\*\.")


def tagged(*wanted):
    return [c.source for c in CELLS.values() if set(wanted) & set(c.metadata.get("tags", []))]


def named(exhibit):
    """("loop" or "bench", the name of the check): who catches this bug, by the words of the chapter."""
    (found,) = NAMED.findall(CELLS[f"{exhibit}-read"].source)
    return found


@pytest.fixture(scope="module")
def museum(tmp_path_factory):
    """The names that the chapter's cells define, with two updates per run; nothing has been flipped yet."""
    names = {}
    for source in tagged("parameters"):
        exec(source, names)
    names |= {"RUNS_DIR": str(tmp_path_factory.mktemp("runs")), "FAST": True, "DEVICE": "cpu"}
    for source in tagged("setup", "museum"):
        exec(source, names)
    names["settings"].updates = 2
    return names


def test_there_are_ten_exhibits_and_each_has_its_four_cells():
    assert EXHIBITS == [f"x{n}" for n in range(1, 11)]
    assert all(f"{e}-{part}" in CELLS for e in EXHIBITS for part in ("story", "bug", "flip", "read"))


def squeezed(text):
    return re.sub(r"\s", "", text)


def right_lines(source):
    """The comments of a bug that say what stands in the package; one may go on in the next line."""
    return re.findall(r"# right: (.*(?:\n +#  .*)*)", source)


@pytest.mark.parametrize("cell", [c for c in CELLS if "bug" in CELLS[c].metadata.get("tags", [])])
def test_the_right_lines_are_those_of_the_package(cell):
    package = squeezed(inspect.getsource(ppo) + inspect.getsource(decoding))
    source = CELLS[cell].source
    assert "# wrong" in source or "# right: position_ids" in source
    for line in right_lines(source):
        assert squeezed(line.replace("#", "")) in package, line


def test_all_bugs_but_one_show_a_right_line():
    without = [c for c in CELLS if "bug" in CELLS[c].metadata.get("tags", []) and not right_lines(CELLS[c].source)]
    assert without == ["x2-bug"]  # dropout is a state of the model, not a line of the loop


def test_every_exhibit_names_its_source():
    for e in EXHIBITS:
        assert re.search(r"\]\(https://github\.com/[\w./-]+\)", CELLS[f"{e}-story"].source), e
        call = ast.parse(CELLS[f"{e}-flip"].source).body[0].value
        name, source = (ast.literal_eval(a) for a in call.args)
        assert source.split()[-1] in CELLS[f"{e}-story"].source, source


def test_every_figure_has_a_text_for_those_who_cannot_see_it():
    figures = [
        (c.id, o.metadata.get("image/png", {}).get("alt"))
        for c in CELLS.values()
        if c.cell_type == "code"
        for o in c.outputs
        if "image/png" in o.get("data", {})
    ]
    assert len(figures) >= 13
    assert [i for i, alt in figures if not alt or len(alt) < 40] == []


# ---------------------------------------------------------------- what is said of the curves


@pytest.mark.slow
def test_a_healthy_run_goes_as_the_chapter_says(museum, monkeypatch):
    says("bug_museum", "healthy-read", "The reward rises, and so does the gold score", "answers get shorter")
    says("bug_museum", "healthy-read", "the distance to the reference grows", "less and less is clipped")
    monkeypatch.setattr(museum["settings"], "updates", 12)
    monkeypatch.setattr(museum["settings"], "batch_size", 40)
    history = museum["short_run"]({}, alarm=True)["history"]
    first, last = ({k: np.mean([r[k] for r in rows]) for k in rows[-1]} for rows in (history[:4], history[-4:]))
    assert all(last[k] > first[k] for k in ("reward", "gold", "kl"))
    assert all(last[k] < first[k] for k in ("length", "clip_fraction"))


def test_colder_samples_are_better_before_anything_is_learned(museum):
    says(
        "bug_museum",
        "x1-read",
        "*better* from the first update on",
        "colder samples are more often the model's favourites",
    )
    asked = museum["prompts"][::6]
    warm, cold = (
        decoding.generate(museum["finetuned"], museum["tokenizer"], asked, seed=3, temperature=t) for t in (1, 0.7)
    )
    assert museum["score"](asked, cold).mean() > museum["score"](asked, warm).mean() + 0.1
    assert museum["gold"](asked, cold) > museum["gold"](asked, warm) + 0.2


# ---------------------------------------------------------------- the exercises


def test_the_checker_knows_which_run_is_which(museum):
    names = museum | {"short_run": lambda wrong: {"history": sorted(wrong)}, "healthy": [0, {"history": []}]}
    names |= {"show": lambda *_: None, "six_curves": lambda runs: None, "own_reward_only": 0, "no_clip": 0}
    exec(CELLS["mystery"].source, names)
    assert names["mystery"] == {"A": "healthy", "B": "no clip", "C": "own reward only"}
    assert exercises.check_eleventh("C").right and "without a clip" in exercises.check_eleventh("B")


@pytest.mark.slow
def test_the_eleventh_bug_slips_past_the_loop_and_no_clip_past_its_clip_fraction(museum):
    exec(CELLS["mystery-bugs"].source, museum)
    for wrong in ({"gae": museum["own_reward_only"]}, {"policy_loss": museum["no_clip"]}):
        assert museum["short_run"](wrong, alarm=True)["sentence"] == ""
    assert [r["clip_fraction"] for r in museum["short_run"]({"policy_loss": museum["no_clip"]})["history"]] == [0, 0]
