"""The exercises as assignments: generated from the chapters, and, with nbgrader (marker `grading`), graded."""

import ast
import csv
import json
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from taught import PATHS, path_of

from rlhf_helpers.make import assignment
from rlhf_helpers.make.assignment import POINTS

REGION = re.compile(r"\n*### BEGIN SOLUTION\n(.*)### END SOLUTION", re.S)


def points_of(cells):
    """What the checks of a notebook say, each run in its place: {number of the exercise: points}."""
    scope, points = {}, {}
    for cell in cells:
        if cell.cell_type == "code" and cell.id != "colab":
            *before, last = ast.parse(cell.source).body
            if not cell.id.startswith("check"):
                before, last = [*before, last], None
            exec(compile(ast.Module(before, []), cell.id, "exec"), scope)
            if last:
                points[int(cell.id[6:])] = eval(compile(ast.Expression(last.value), cell.id, "eval"), scope)
    return points


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_an_assignment_is_the_exercises_of_its_chapter(path):
    """Unsolved it gives no point, solved all of them, by difficulty, and each cell is known to nbgrader once."""
    nb = assignment.assignment(path)
    nbformat.validate(nb)
    full = {c.id: c.metadata.nbgrader.points for c in nb.cells if c.metadata.nbgrader.grade}
    tasks = {c.id: c.source for c in nb.cells if c.id.startswith("task")}
    levels = [re.search(r"\*\d points? · (\w+) · \d+ minutes\*", task)[1] for task in tasks.values()]
    assert list(full.values()) == [POINTS[level] for level in levels] and not any(
        "<details>" in t for t in tasks.values()
    )
    ids = [c.metadata.nbgrader.grade_id for c in nb.cells]
    assert len(ids) == len(set(ids)) and all(
        c.metadata.nbgrader.locked != c.metadata.nbgrader.solution for c in nb.cells
    )
    assert sum(points_of(nb.cells).values()) == sum(full.values())
    solutions = 0
    for cell in nb.cells:
        cell.source, n = REGION.subn("", cell.source)
        solutions += n
    assert solutions == len(full) >= 2 and set(points_of(nb.cells).values()) == {0}


def test_without_nbgrader_one_sentence_is_said_and_nothing_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(assignment.importlib.util, "find_spec", lambda name: None)
    assert assignment.main(["--to", str(tmp_path / "course")]) == 1
    assert capsys.readouterr().err == "nbgrader is not installed here; run `make assignment`, which installs it.\n"
    assert not (tmp_path / "course").exists()
    monkeypatch.setattr(assignment.importlib.util, "find_spec", lambda name: True)
    assert assignment.main(["--to", str(tmp_path / "course"), "--only", "77"]) == 1
    assert "There is no chapter 77" in capsys.readouterr().err and not (tmp_path / "course").exists()


# ---------------------------------------------------------------- handed out, collected, graded

CHAPTERS = ["02_decoding", "06_inference_and_continuous_feedback"]
MISTAKE = {
    "02_decoding": "\n\ndef odds_at(odds, temperature):\n    return odds / temperature\n",
    "06_inference_and_continuous_feedback": "\nneeded = 400\n",
}  # instead of the first answer
SAYS = {
    "02_decoding": "you divide the odds",
    "06_inference_and_continuous_feedback": "half of all tests come out lower",
}


def nbgrader(course, *command):
    done = subprocess.run([sys.executable, "-m", "nbgrader", *command], cwd=course, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def hand_in(course, name, student, answers):
    """What a student uploads: the released notebook with `answers` below the stubs, {number: code}."""
    nb = nbformat.read(course / "release" / name / f"{name}_exercises.ipynb", 4)
    for cell in nb.cells:
        if cell.id.startswith("answer-"):
            cell.source += answers.get(int(cell.id[7:]), "")
        if student == "bob" and cell.id.startswith("check-"):
            cell.source = "3"  # a point for the asking: the check is put back before it is graded
    target = course / "downloaded" / name / "archive" / f"{student}-{name}_exercises.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, target)


@pytest.mark.grading
@pytest.mark.timeout(1200)
def test_solved_unsolved_and_half_solved_copies_get_the_points_they_deserve(tmp_path, capsys):
    """With nbgrader's own commands: what a lecturer types is what docs/teaching.md says."""
    course = tmp_path / "course"
    assert assignment.main(["--to", str(course), "--only", "02", "06"]) == 0
    assert capsys.readouterr().out.count("_exercises.ipynb") == 2
    most, expected = {}, {}
    for name in CHAPTERS:
        exercises = assignment.exercises_of(nbformat.read(path_of(name[:2]), 4).cells)
        solutions = {e.number: "\n\n" + assignment.solution_of(e) for e in exercises}
        text = json.loads((course / "release" / name / f"{name}_exercises.ipynb").read_text(encoding="utf-8"))
        released = "".join("".join(c["source"]) for c in text["cells"])
        assert "SOLUTION" not in released and not any(s.strip() in released for s in solutions.values())
        assert all(e.code[0].source in released for e in exercises), "the stubs are as in the chapter"
        points = {e.number: POINTS[assignment.HEADING.match(e.text)[2]] for e in exercises}
        most[name] = sum(points.values())
        hand_in(course, name, "ada", solutions)
        hand_in(course, name, "bob", {})
        hand_in(course, name, "cyd", solutions | {1: MISTAKE[name]})
        expected |= {("ada", name): most[name], ("bob", name): 0, ("cyd", name): most[name] - points[1]}
        nbgrader(course, "zip_collect", name)
        nbgrader(course, "autograde", name)
        nbgrader(course, "generate_feedback", name)
        page = (course / "feedback" / "cyd" / name / f"{name}_exercises.html").read_text(encoding="utf-8")
        assert SAYS[name] in page
    nbgrader(course, "export")
    with open(course / "grades.csv", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert {(r["student_id"], r["assignment"]): float(r["score"]) for r in rows} == expected
    assert {r["assignment"]: float(r["max_score"]) for r in rows} == most

    handed_in = course / "submitted" / "ada" / CHAPTERS[0] / f"{CHAPTERS[0]}_exercises.ipynb"
    before = handed_in.read_bytes()
    assert assignment.main(["--to", str(course), "--only", "02"]) == 0  # made anew, it keeps what was handed in
    assert handed_in.read_bytes() == before and (course / "gradebook.db").exists()


@pytest.mark.grading
def test_what_nbgrader_says_against_a_release_is_said(tmp_path):
    assignment.write_course([path_of("02")], tmp_path)
    shutil.rmtree(tmp_path / "source")
    with pytest.raises(assignment.WorkbookError, match="nbgrader could not make the release of 02_decoding"):
        assignment.release("02_decoding", tmp_path)
