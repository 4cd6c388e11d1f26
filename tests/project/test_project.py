"""The project's own files agree with each other, and the series runner does what it says."""

import ast
import html
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from importlib import metadata

import matplotlib.pyplot as plt
import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from taught import PATHS

import rlhf_helpers
from rlhf_helpers.desk import plots
from rlhf_helpers.engine import files
from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.make import series, stamp

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def requirements():
    """Everything but the extras `scale` and `grading`, which have constraints of their own."""
    extras = (EXTRAS[e] for e in EXTRAS if e not in ("scale", "grading"))
    return [Requirement(r) for r in PROJECT["dependencies"] + sum(extras, [])]


def pins(name="constraints.txt"):
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith(("#", "-c ")))


# ---------------------------------------------------------------- packaging


def test_environment_yml_agrees_with_pyproject():
    env = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert env["name"] == PROJECT["name"]
    assert env["channels"] == ["conda-forge", "nodefaults"]
    python, pip, project = env["dependencies"]
    assert python.split("=")[1] in SpecifierSet(PROJECT["requires-python"])
    assert pip == "pip"
    installed = re.fullmatch(r'-e "?\.\[([\w,]+)\]"?', project["pip"][0])
    assert installed and len(project["pip"]) == 1, project
    assert "notebooks" in installed[1].split(",")
    assert set(installed[1].split(",")) <= set(EXTRAS)


@pytest.mark.slow
def test_environment_yml_is_solved_by_pip_as_written(tmp_path):
    """As conda hands it over: the lines under `pip` as a file of requirements, read beside environment.yml."""
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    (tmp_path / "requirements.txt").write_text("\n".join(lines) + "\n")
    offline = ("--no-index", "--no-build-isolation", "--disable-pip-version-check")  # what is installed here must do
    command = [sys.executable, "-m", "pip", "install", "-U", "--dry-run", *offline, "-r", tmp_path / "requirements.txt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Would install {PROJECT['name']}-{rlhf_helpers.__version__}" in done.stdout.splitlines()[-1]


OTHER_VERSIONS = os.environ.get("WORKBOOK_VERSIONS")  # `make test-lowest` and `make test-newest`


@pytest.mark.skipif(bool(OTHER_VERSIONS), reason="these are not the versions of constraints.txt")
def test_constraints_pin_what_is_needed_and_nothing_else():
    pinned = pins()
    for r in requirements():
        assert r.specifier.contains(pinned[canonicalize_name(r.name)]), r
    todo, needed = requirements(), set()
    while todo:
        r = todo.pop()
        if (r.name, *r.extras) in needed:
            continue
        needed |= {(r.name, *r.extras), canonicalize_name(r.name)}
        for more in map(Requirement, metadata.requires(r.name) or []):
            where = [{"extra": e, "python_version": "3.11"} for e in ("", *r.extras)]
            if more.marker is None or any(more.marker.evaluate(w) for w in where):
                todo.append(more)
    assert set(pinned) - needed == set()


def test_the_engine_is_an_extra_pinned_to_what_was_tested():
    (engine,) = map(Requirement, EXTRAS["scale"])
    pinned = pins("constraints/scale.txt")
    assert engine.name == "trl" and engine.specifier.contains(pinned["trl"])
    assert {s.operator for s in engine.specifier} == {">=", "<"}
    assert not engine.specifier.contains("1.15.0") and not engine.specifier.contains("2.0.0")
    assert "-c ../constraints.txt" in (ROOT / "constraints/scale.txt").read_text().splitlines()
    assert not set(pinned) & set(pins()), "pinned twice"
    assert not {"trl", "accelerate", "datasets"} & {r.name for r in requirements()}


def test_requirements_leave_what_colab_has_alone():
    colab = {
        "torch": "2.11.0",
        "transformers": "5.15.0",
        "tokenizers": "0.22.2",
        "safetensors": "0.8.0",
        "numpy": "2.0.2",
        "pandas": "2.2.3",
        "matplotlib": "3.10.0",
        "ipywidgets": "7.7.1",
        "tqdm": "4.67.3",
    }
    for r in map(Requirement, PROJECT["dependencies"]):
        assert r.specifier.contains(colab[r.name]), f"{r} would replace {r.name} {colab[r.name]} on Colab"


def test_the_package_is_installed_in_this_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", rlhf_helpers.__version__)
    try:
        assert metadata.version(PROJECT["name"]) == rlhf_helpers.__version__
    except metadata.PackageNotFoundError:
        pytest.skip("not installed")


def test_licence():
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text and "The RLHF Workbook authors" in text


@pytest.mark.parametrize("how", [("check", "--output-format=concise"), ("format", "--check")], ids=lambda how: how[0])
def test_ruff(how):
    command = [sys.executable, "-m", "ruff", *how, "--no-cache", ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_types(tmp_path):
    command = [sys.executable, "-m", "mypy", f"--cache-dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_installed_fits_together():
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    if "No module named pip" in done.stderr:
        pytest.skip("this environment was made without pip")
    assert done.returncode == 0, done.stdout + done.stderr


FREE = re.compile(r"Apache|BSD|CMU|ISC|MIT|MPL|Mozilla Public|PSF|Python Software Foundation|Unlicense|Zlib")


@pytest.mark.skipif(bool(OTHER_VERSIONS), reason="these are not the versions of constraints.txt")
def test_every_dependency_has_a_licence_that_lets_anyone_use_it():
    for name in pins():
        try:
            about = metadata.metadata(name)
        except metadata.PackageNotFoundError:  # for another system or another version of Python
            continue
        classifiers = [c for c in about.get_all("Classifier") or [] if c.startswith("License ::")]
        if name == "axe-playwright-python":  # its metadata names none; the file of its wheel does
            about = {"License": metadata.distribution(name).read_text("licenses/LICENSE").strip()}
        said = about.get("License-Expression") or " ".join(classifiers) or about.get("License", "")[:200]
        assert FREE.search(said) and not re.search(r"\bA?GPL", said), f"{name}: {said[:200]!r}"


# ---------------------------------------------------------------- commands


@needs_make
def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split()
    for command in (["make"], ["make", "help"]):
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for target in targets:
            assert re.search(rf"^  make {target} +\S", shown, re.M), f"{target} is not in:\n{shown}"


@needs_make
def test_make_sets_up_once(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def plan(target):
        return subprocess.run(["make", "-n", target], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "pip install" in plan("run")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".ready").touch()
    for target in ("setup", "run", "test", "lab", "label", "models"):
        assert "pip install" not in plan(target)
    later = (tmp_path / ".venv" / ".ready").stat().st_mtime + 10
    os.utime(tmp_path / "constraints.txt", (later, later))
    assert "pip install" in plan("run")


@needs_make
def test_make_reset_keeps_the_labels(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "feedback.jsonl").write_text("{}\n")
    subprocess.run(["make", "reset"], cwd=tmp_path, check=True, capture_output=True)
    assert [p.read_text() for p in tmp_path.glob("runs-*/feedback.jsonl")] == ["{}\n"]
    assert not (tmp_path / "runs").exists()


def test_ci_runs_the_readme_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert "set -euo pipefail" in text and text.rstrip().endswith("make test")
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert jobs["test"]["steps"][-1]["run"] == "make test"
    for tier in ("scale", "grading", "colab", "matrix"):
        assert jobs[tier]["steps"][-1]["run"] == f"make test-{tier}"
    assert all(f"`{command}`" in README for command in ("make lab", "make run", "make test"))


# ---------------------------------------------------------------- README and the other pages

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data/README.md", *sorted((ROOT / "docs").glob("*.md"))]
every_page = pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def anchors(text):
    """What the headings of a page are called in links to it."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@every_page
def test_links_of_a_page_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for link, anchor in re.findall(r"\](?:\(|: )([^)\s#]*)#?([^)\s]*)\)?", text):
        if not link.startswith(("http:", "https:")):
            goal = path.parent / link if link else path
            assert goal.exists(), link
            assert not anchor or goal.suffix != ".md" or anchor in anchors(goal.read_text(encoding="utf-8")), anchor


# what is not written: what is, in text, docstrings and comments
SPELLING = {
    r"(?<!/)fine ?tun(?!ed/)": "fine-tun",
    r"pre ?train": "pre-train",
    r"(?<!spelt )roll-out": "rollout",
    r"log ?prob(?!s\b)": "log-prob",
    r"mini-batch": "minibatch",
    r"check-point": "checkpoint",
    r"\bdatasets?\b": "data set",
    r"cross entropy": "cross-entropy",
    r"soft-max": "softmax",
    r"\blearnt\b": "learned",
    r"label(ed|er|ing)\b": "labelled, labeller, labelling",
    r"behavior|favor|judgment|\bcolors?\b": "the British form",
    r"(?-i:Huggingface|HuggingFace|hugging face)": "Hugging Face",
    r"(?-i:[Pp]ytorch(?!\.org))": "PyTorch",
    r"(?-i:Jupyterlab|Jupyter Lab\b)": "JupyterLab",
    r"Bradley-Terry": "Bradley–Terry",
    r"reward-model(?! run| train)": "reward model",
    r"simulated (label|rat)er": "simulated annotator",
}


def prose(path):
    """The words of a file: a page without its code, the text of a notebook, docstrings and comments of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join(c.source for c in nbformat.reads(text, 4).cells if c.cell_type == "markdown")
    elif path.suffix == ".py":
        nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        text = "\n".join([ast.get_docstring(n) or "" for n in nodes] + re.findall(r"  # (.*)", text))
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|<[^>]*>|\w+\.(py|md|json|ipynb)", " ", text, flags=re.S)
    return " ".join(text.split())


WRITTEN = PAGES + PATHS + sorted((ROOT / "rlhf_helpers").rglob("*.py"))


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: str(p.relative_to(ROOT)))
def test_terms_are_spelled_in_one_way(path):
    text = prose(path)
    for wrong, right in SPELLING.items():
        found = re.search(f"(?i){wrong}", text)
        assert not found, f"{text[max(0, found.start() - 30) : found.end() + 20]!r}: {found[0]!r} should be {right}"


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_percentage_has_no_space_before_its_sign(path):
    """As `f"{share:.0%}"` writes it, so that a sentence and the output beside it look the same; in code, too."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join(c.source for c in nbformat.reads(text, 4).cells)
    assert re.findall(r".{0,30}[\d}](?:[ \u00a0\u202f]|&nbsp;)%(?! [a-z]+\()", text) == []


def test_readme_lists_the_chapters_and_folders():
    for path in series.chapters():
        assert f"notebooks/{path.name}" in README, path.name
    for name in ("notebooks", "rlhf_helpers", "data", "runs", "docs", "benchmarks", "tests"):
        assert f"`{name}/`" in README, name
    for path in (ROOT / "docs").glob("*.md"):
        assert any(f"{path.name})" in p.read_text(encoding="utf-8") for p in PAGES if p != path), f"no link to {path}"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_lines_fit_a_screen(path):
    """Tables, and what has no place to break, such as the address of a link, may be longer."""
    for line in path.read_text(encoding="utf-8").splitlines():
        assert len(line) <= 120 or line.startswith("|") or len(line.split()) <= 2, line


# ---------------------------------------------------------------- the series runner

PARAMETERS = new_code_cell("FAST = False\nRUNS_DIR = ''")
PARAMETERS.metadata.tags = ["parameters"]
HIDDEN = "import ipywidgets as W\nout = W.Output()\nwith out:\n    raise ValueError('lost')\nout"
METRICS = """from pathlib import Path
folder = Path(RUNS_DIR) / "metrics"
folder.mkdir(parents=True)
_ = (folder / "00_good.json").write_text('{"key_result": "all is well"}')"""


def notebook(folder, name, *sources):
    nb = new_notebook(
        cells=[new_markdown_cell("# Next: [bad](01_bad.ipynb)"), PARAMETERS, *map(new_code_cell, sources)]
    )
    nb.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    nbformat.write(nb, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def test_series_runs_in_order_and_ends_with_a_table(tmp_path, capsys):
    where = "import os, sys\nprint(sys.executable, os.getcwd(), FAST)"
    paths = [
        notebook(tmp_path, "00_good", where, METRICS),
        notebook(tmp_path, "01_bad", "x = 1", "# the trouble\nraise KeyError('k')"),
        notebook(tmp_path, "02_never", "1"),
    ]
    runs = tmp_path / "runs"
    words = r"^01_bad stopped in cell \[4\], which begins `# the trouble`: KeyError: 'k' \("
    with pytest.raises(WorkbookError, match=words):
        series.run_chapters(paths, runs, {"FAST": True, "RUNS_DIR": str(runs)})
    shown = capsys.readouterr().out
    assert re.search(r"^00_good +\d+\.\d  all is well$", shown, re.M), shown
    made = sorted(p.name for p in (runs / "series").iterdir())
    assert made == ["00_good.html", "00_good.ipynb", "01_bad.html", "01_bad.ipynb"]
    printed = nbformat.read(runs / "series" / "00_good.ipynb", 4).cells[3].outputs[0].text
    assert printed.split() == [sys.executable, str(tmp_path), "True"]
    assert 'href="01_bad.html"' in (runs / "series" / "00_good.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_figures_get_an_alternative_text(tmp_path, warm_kernels):
    draw = """import matplotlib.pyplot as plt
from rlhf_helpers.desk import plots
plots.use_style()
figure, ax = plt.subplots()
ax.plot([1, 2, 3], [4, 5, 6.25], label='<held out>')
ax.set(title='Loss', xlabel='step', ylabel='loss (nats)')
plt.show()
plots.draw_tokens(['an', ' owl'], [plots.BLUE] * 2)"""
    said = ["Loss; x: step; y: loss (nats); <held out> from 4 to 6.25", "an owl"]
    nb = series.execute(notebook(tmp_path, "00_drawn", draw), tmp_path / "series")
    shown = [o.metadata["image/png"]["alt"] for o in nb.cells[2].outputs if "image/png" in o.get("data", {})]
    assert shown == said
    page = (tmp_path / "series/00_drawn.html").read_text(encoding="utf-8")
    assert re.findall(r'<img alt="([^"]*)"', page) == [html.escape(s) for s in said]


def test_any_figure_can_be_described():
    x, figures = [1.0, 2.0, 3.0], []
    for draw in (
        lambda ax: ax.errorbar(x, x, x, label="mean"),
        lambda ax: ax.hist(x),
        lambda ax: ax.hist([x, x], label=["one", "two"]),
        lambda ax: ax.scatter(x, x),
        lambda ax: ax.pie(x),
        lambda ax: ax.stem(x),
        lambda ax: ax.boxplot(x),
        lambda ax: ax.imshow([x, x]),
        lambda ax: ax.plot(["a", "b", "c"], ["low", "mid", "low"]),
        lambda ax: ax.plot(x, [None, 1.0, 2.0]),
        lambda ax: ax.barh(["a", "b"], [1, 2], label="n"),
        lambda ax: ax.bar([], []),
        lambda ax: ax.axis("off"),
    ):
        figure, ax = plt.subplots()
        draw(ax)
        ax.set_title("Drawn")
        figures.append(plots.describe(figure))
        plt.close(figure)
    assert all(said.startswith("Drawn") for said in figures), figures
    assert (
        "a line from 1 to 3" in figures[0] and "a heat map" in figures[7] and figures[10] == "Drawn; bars, n: a 1, b 2"
    )
    assert plots.describe(plt.figure()) == "A figure without words."


def test_series_finds_errors_hidden_in_widgets(tmp_path):
    path = notebook(tmp_path, "00_hidden", HIDDEN)
    with pytest.raises(WorkbookError, match="00_hidden.*widget.*ValueError: lost"):
        series.execute(path, tmp_path / "series")
    nb = nbformat.read(tmp_path / "series" / "00_hidden.ipynb", 4)
    assert series.widget_errors(nb) == [("ValueError", "lost")]


def test_an_interrupted_run_keeps_the_earlier_copies(tmp_path):
    path = notebook(tmp_path, "00_slow", "1")
    copy = tmp_path / "series" / "00_slow.ipynb"
    files.write_text(copy, "an earlier copy")

    def stop(cell):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        series.execute(path, tmp_path / "series", on_cell=stop)
    assert copy.read_text() == "an earlier copy"
    assert list(copy.parent.iterdir()) == [copy]


def test_chapters_can_be_chosen_by_number(tmp_path):
    for name in ("00_a", "01_b", "02_c"):
        (tmp_path / f"{name}.ipynb").touch()
    (tmp_path / "notes.ipynb").touch()
    assert [p.stem for p in series.chapters(folder=tmp_path)] == ["00_a", "01_b", "02_c"]
    assert [p.stem for p in series.chapters(["2", "00"], tmp_path)] == ["00_a", "02_c"]
    with pytest.raises(WorkbookError, match="no chapter 07 .* choose from 00, 01, 02"):
        series.chapters(["07"], tmp_path)


def test_the_command_line_says_what_is_wrong(capsys):
    assert series.main(["--only", "99"]) == 1
    assert "There is no chapter 99" in capsys.readouterr().err


def test_an_old_key_result_is_not_shown(tmp_path):
    files.write_text(tmp_path / "metrics" / "04_x.json", '{"key_result": "0.71"}')
    written = (tmp_path / "metrics" / "04_x.json").stat().st_mtime
    assert series.key_result(tmp_path, "04_x", written) == "0.71"
    assert series.key_result(tmp_path, "04_x", written + 60) == ""
    assert series.key_result(tmp_path, "05_y", written) == ""


# ---------------------------------------------------------------- what was measured

LEAST = {
    "ppo_seeds": {"win_rate": 0.85},
    "reward_seeds": {"below": -4, "gold_order_clear_pairs": 0.92},
    "tastes": {"win_rate": 0.7},
    "tastes_clean": {"orders": 0.8},
}  # of the mean over the seeds, for each split and taste; "below" counts points below the ceiling


@pytest.mark.parametrize("name", LEAST)
def test_what_was_measured_is_as_good_as_the_chapters_say_over_five_seeds(name):
    """A recipe that became worse is noticed here; the figures themselves are in docs/results.md."""
    result = stamp.Sources()[name]
    for key, least in LEAST[name].items():
        figure = result.by["taste"][key] if "taste" in result.runs[0] else result[key]
        for group, values in figure.groups.items():
            mean, asked = sum(values) / len(values), least
            if name == "tastes":  # where most answers satisfy a taste to begin with, not even the best wins often
                asked = min(least, statistics.mean(result.by["taste"].ceiling.groups[group]) - 0.1)
            assert len(values) >= 5 and (-mean if key == "below" else mean) >= asked, (key, group, mean)


def test_the_devcontainer_sets_up_what_the_readme_says():
    """Its commands are targets of the Makefile, the interpreter is the one they make, and what it opens exists."""
    made = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert made["postCreateCommand"] == "make setup" and re.search(r"^setup:", makefile, re.M)
    assert re.search(r"^VENV := \.venv$", makefile, re.M)
    custom = made["customizations"]
    assert custom["vscode"]["settings"]["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
    assert all((ROOT / name).is_file() for name in custom["codespaces"]["openFiles"])
    lowest = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    version = made["image"].rpartition(":")[2]
    assert lowest == ">=3.11" and tuple(map(int, version.split("."))) >= (3, 11)


def test_the_sessions_for_lecturers_take_ninety_minutes():
    page = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8").split("## A full course")[0]
    tables = re.findall(r"^\| \w+ session \| minutes \|\n\|---\|---\|\n((?:\|.*\n)+)", page, re.M)
    assert [sum(map(int, re.findall(r"\| (\d+) \|$", rows, re.M))) for rows in tables] == [90, 90]
