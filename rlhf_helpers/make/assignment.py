"""The exercises of the chapters as assignments for nbgrader: `make assignment`.

Nothing is written twice: text, stub, solution and checker are those of the chapter.  A course folder gets
`source/NAME/NAME_exercises.ipynb` with the solutions, for the lecturer, and `release/` without them, for the students;
`nbgrader autograde` runs the same checkers on what they hand in (docs/teaching.md).
"""

import argparse
import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from ..desk import colab
from ..engine import files
from ..engine.files import ROOT, WorkbookError
from . import series

HEADING = re.compile(r"### Exercise (\d+): \S.*\n\n\*(easy|medium|hard) · (\d+) minutes\*\n\n\S")
SOLUTION = re.compile(r"<details><summary>Solution</summary>\n\n```python\n(.*?)```\n.*?</details>", re.S)
POINTS = {"easy": 1, "medium": 2, "hard": 3}

CONFIG = """\
# What nbgrader has to know of this course; written by `make assignment`.
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "rlhf"
c.ClearSolutions.code_stub = {"python": ""}  # the stub stands above the solution
c.ExecutePreprocessor.timeout = 120  # seconds a cell; the first one imports PyTorch
# files that were handed in, as nbgrader zip_collect finds them: ada-02_decoding_exercises.ipynb is ada's
c.FileNameCollectorPlugin.named_regexp = r"(?:.*/)?(?P<student_id>[^/]+?)-(?P<file_id>\\w+_exercises)"
"""

INTRODUCTION = """\
# Exercises: {title}

From the chapter [{title}](https://github.com/{repository}/blob/main/notebooks/{path}), which you read and run first.
Write your answer into the cell below each task and run the cell after it: it says what is wrong and how many points
you have. Change no other cell, and leave names as they are. Before you hand in, save, and see that the notebook still
runs from top to bottom in a new kernel."""

HOSTED = "# In Colab and on Kaggle this fetches the workbook; elsewhere it does nothing.\n"

QUIET = """\
import warnings

warnings.simplefilter("ignore")  # nbgrader takes a warning for an error"""

CHECK = """\
verdict = {call}
print(verdict)
{points} * verdict.right  # points, of {points}"""


# ---------------------------------------------------------------- what a chapter has


def parse(source):
    """The statements of a code cell, magics included."""
    from IPython.core.inputtransformer2 import TransformerManager

    return ast.parse(TransformerManager().transform_cell(source)).body


def exercises_of(cells):
    """The exercises among the cells of a notebook: number, text from its heading to the next, and its code cells."""
    found = []
    for cell in cells:
        if cell.cell_type == "code":
            if found:
                found[-1].code.append(cell)
            continue
        for part in re.split(r"^(?=### Exercise |## )", cell.source, flags=re.M):
            if part.startswith("### Exercise "):
                number = int(re.findall(r"\d+", part)[0])
                found.append(SimpleNamespace(number=number, text=part, code=[]))
            elif found:
                found[-1].text += "\n" + part
    return found


def solution_of(exercise):
    return SOLUTION.findall(exercise.text)[0]


def call_of(exercise):
    """The call of the checker, as `exercises.check_odds(odds_at)`."""
    for node in ast.walk(ast.parse(exercise.code[1].source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("exercises.check_"):
            return ast.unparse(node)
    raise WorkbookError(f"Exercise {exercise.number} has no call of a checker in the cell below its stub.")


def definitions(cells):
    """{name: the statement, as source, of the notebook that imports or defines it}; stubs of exercises are none."""
    made = {}
    for cell in cells:
        if cell.cell_type != "code" or "exercise" in cell.metadata.get("tags", ()):
            continue
        lines = cell.source.splitlines()
        for node in parse(cell.source):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [a.asname or a.name.split(".")[0] for a in node.names]
            elif isinstance(node, ast.FunctionDef):
                names = [node.name]
            else:
                continue
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
            made |= dict.fromkeys(names, "\n".join(lines[first - 1 : node.end_lineno]))
    return made


def support(code, made):
    """Those of the statements `made` by a notebook that `code` needs, each after what it needs itself."""
    made, found = dict(made), []

    def add(source):
        names = {n.id for n in ast.walk(ast.Module(parse(source), [])) if isinstance(n, ast.Name)}
        for name in sorted(names & set(made)):
            statement = made.pop(name, None)
            if statement is not None:
                add(statement)
                if statement not in found:
                    found.append(statement)

    add(code)
    return found


# ---------------------------------------------------------------- an assignment


def graded(grade_id, points=None, solution=False):
    """The metadata by which nbgrader knows a cell: with points it is graded, else answered, else only locked."""
    grade = points is not None
    about = {"grade": grade, "grade_id": grade_id, "locked": not solution, "solution": solution, "task": False}
    return {"nbgrader": about | {"schema_version": 3} | ({"points": points} if grade else {})}


def assignment(path):
    """The notebook for lecturers of the exercises of a chapter: text, stub with solution, check, each with its id."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    chapter = nbformat.read(path, 4).cells
    exercises = exercises_of(chapter)
    title = re.findall(r"^# (.+)$", chapter[0].source, re.M)[0]
    where = path.relative_to(ROOT / "notebooks").as_posix()
    stem = path.stem
    code = "\n".join("\n".join((e.code[0].source, solution_of(e), call_of(e))) for e in exercises)
    fetch = colab.CELL.format(url=f"https://github.com/{colab.REPOSITORY}", tag=colab.TAG).partition("import ")
    setup = "\n\n".join([*support(code, definitions(chapter)), QUIET])
    words = INTRODUCTION.format(title=title, repository=colab.REPOSITORY, path=where)
    cells = [
        new_markdown_cell(words, id="introduction", metadata=graded(f"{stem}-introduction")),
        new_code_cell(HOSTED + "".join(fetch[1:]), id="colab", metadata=graded(f"{stem}-colab")),
        new_code_cell(setup, id="setup", metadata=graded(f"{stem}-setup")),
    ]
    for e in exercises:
        cells += cells_of(e, f"{stem}-{e.number}")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    return new_notebook(cells=cells, metadata=kernel)


def cells_of(exercise, name):
    """The three cells of an exercise: its task, its stub with the solution below, and the check that gives points."""
    from nbformat.v4 import new_code_cell, new_markdown_cell

    level = HEADING.findall(exercise.text)[0][1]
    points = POINTS[level]
    worth = f"{points} point{'s' * (points > 1)}"
    task = exercise.text.split("<details>")[0].strip().replace(f"*{level} · ", f"*{worth} · {level} · ", 1)
    answer = f"{exercise.code[0].source}\n\n### BEGIN SOLUTION\n{solution_of(exercise)}### END SOLUTION"
    check = CHECK.format(call=call_of(exercise), points=points)
    return [
        new_markdown_cell(task, id=f"task-{exercise.number}", metadata=graded(f"{name}-task")),
        new_code_cell(answer, id=f"answer-{exercise.number}", metadata=graded(f"{name}-answer", solution=True)),
        new_code_cell(check, id=f"check-{exercise.number}", metadata=graded(f"{name}-check", points)),
    ]


# ---------------------------------------------------------------- a course


def write_course(paths, folder):
    """Write the source of an assignment for each chapter, and nbgrader's settings; returns their names.

    Nothing else in the folder is touched, so that it may hold what was handed in, and the grades.
    """
    import nbformat

    files.write_text(folder / "nbgrader_config.py", CONFIG)
    for path in paths:
        target = folder / "source" / path.stem / f"{path.stem}_exercises.ipynb"
        files.write_text(target, nbformat.writes(assignment(path)) + "\n")
    return [path.stem for path in paths]


def release(name, folder):
    """Let nbgrader make the students' copy of an assignment; raises WorkbookError with its own words."""
    command = [sys.executable, "-m", "nbgrader", "generate_assignment", name, "--force", "--create", "--course-dir=."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise WorkbookError(f"nbgrader could not make the release of {name}: {done.stderr.strip()[-600:]}")


def main(arguments=None):
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_helpers.make.assignment",
        description="Make the exercises of the chapters into assignments, to be handed out and graded with nbgrader.",
    )
    parser.add_argument("--only", nargs="+", metavar="NN", default=(), help="these chapters, such as 02 05 rivals")
    parser.add_argument("--deeper", action="store_true", help="the chapters of notebooks/deeper, too")
    parser.add_argument("--to", type=Path, default=ROOT / "runs" / "course", help="the course folder (runs/course)")
    options = parser.parse_args(arguments)
    folder = options.to.expanduser().resolve()
    try:
        if importlib.util.find_spec("nbgrader") is None:
            raise WorkbookError("nbgrader is not installed here; run `make assignment`, which installs it.")
        for name in write_course(series.chapters(options.only, deeper=options.deeper), folder):
            release(name, folder)
            print(f"{folder}/release/{name}/{name}_exercises.ipynb")
    except WorkbookError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
