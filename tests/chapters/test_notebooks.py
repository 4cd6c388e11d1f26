"""Every chapter, read as a file and executed alone: form, errors in plain and hidden places, artefacts."""

import ast
import json
import math
import re
import statistics
from functools import cache
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
import test_museum
import trained
from IPython.core.inputtransformer2 import TransformerManager
from taught import CORE, PATHS

from rlhf_helpers import lesson, world
from rlhf_helpers.desk import plots, scale
from rlhf_helpers.engine import files, models
from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.make import series

NAMES = [
    "00_rlhf_in_one_sitting",
    "01_pretraining_and_finetuning",
    "02_decoding",
    "03_human_feedback",
    "04_reward_model",
    "05_ppo",
    "06_inference_and_continuous_feedback",
]
PARAMETERS = {
    "MODEL": "",
    "ANNOTATOR": "you",
    "SEED": 0,
    "DEVICE": "auto",
    "FAST": False,
    "DATA_DIR": "",
    "RUNS_DIR": "",
}
BADGE = re.compile(
    r"\[Open in Colab\]\(https://colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/main/(\S+\.ipynb)\)"
)
FOREIGN_PATH = re.compile(r"(?<![\w.:/~])/(?:home|root|tmp|work|Users|private|mnt|usr)/\w|\b[A-Z]:\\\\?\w")

every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)


def test_the_chapters_are_all_there():
    assert [p.stem for p in CORE] == NAMES and len(PATHS) > len(CORE)


# ---------------------------------------------------------------- reading


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [c for c in read(path).cells if c.cell_type == "code"]


def prose(path):
    return [c.source for c in read(path).cells if c.cell_type == "markdown"]


def tags(cell):
    return cell.metadata.get("tags", [])


def parse(cell):
    """The syntax tree of a code cell, with IPython's magics turned into calls."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


# ---------------------------------------------------------------- form


@every_notebook
def test_format(path):
    nb = read(path)
    nbformat.validate(nb)
    assert (nb.nbformat, nb.nbformat_minor) == (4, 5)
    ids = [c.id for c in nb.cells]
    assert len(ids) == len(set(ids))
    assert nb.metadata.kernelspec.name == "python3"
    assert "widgets" not in nb.metadata and "papermill" not in nb.metadata
    assert not [c.id for c in nb.cells if "injected-parameters" in tags(c)]
    assert not [c.id for c in code_cells(path) for o in c.outputs if o.output_type == "error"]


@every_notebook
def test_the_outputs_are_those_of_one_run_from_top_to_bottom(path):
    """What was written after it, such as a new exercise, has no number yet: `--refresh` executes the chapter."""
    cells = code_cells(path)
    assert [c.id for n, c in enumerate(cells, 1) if c.execution_count != n] == []


@every_notebook
def test_outputs_name_the_folders_that_a_reader_has(path):
    said = "".join("".join(o.get("text", "")) for c in code_cells(path) for o in c.outputs)
    assert set(re.findall(r"^(?:Using|Saved) ([\w.-]+)/", said, re.M)) <= {"data", "runs"}


@every_notebook
def test_parameters(path):
    cells = [c for c in code_cells(path) if "parameters" in tags(c)]
    assert len(cells) == 1
    values = {}
    for statement in parse(cells[0]).body:
        assert isinstance(statement, ast.Assign) and len(statement.targets) == 1, ast.unparse(statement)
        values[statement.targets[0].id] = ast.literal_eval(statement.value)
    assert {name: values.get(name) for name in PARAMETERS} == PARAMETERS
    assert all(name.isupper() for name in values)


@every_notebook
def test_header(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert re.search(r"^# \S", first.source, re.M)
    badges = BADGE.findall(first.source)
    assert [file for _, file in badges] == [path.relative_to(ROOT).as_posix()]
    header = " ".join(prose(path)[:3])
    for word in ("learn", "minutes?", "CPU", "GPU"):
        assert re.search(rf"\b{word}", header, re.I), f"the header does not say {word!r}"
    if path not in CORE:
        assert "(README.md)" in header and re.search(r"Opens further: \[.*\]\(\.\./\d\d_", header)
        return
    names = [p.name for p in CORE]
    here = names.index(path.name)
    for neighbour in names[max(here - 1, 0) : here] + names[here + 1 : here + 2]:
        assert f"({neighbour}" in header, f"the header does not link to {neighbour}"


def test_badges_name_one_repository_and_the_lists_every_chapter():
    link = r"^\[\w+\]: https://colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/main/(\S+)$"
    lists = (ROOT / "README.md", ROOT / "notebooks" / "deeper" / "README.md")
    readme = [b for page in lists for b in re.findall(link, page.read_text(encoding="utf-8"), re.M)]
    assert [file for _, file in readme] == [p.relative_to(ROOT).as_posix() for p in PATHS]
    badges = readme + [b for p in PATHS for text in prose(p) for b in BADGE.findall(text)]
    assert len({repository for repository, _ in badges}) == 1


@every_notebook
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", "\n".join(prose(path))):
        if not link.startswith(("http:", "https:", "attachment:", "data:")):
            assert (path.parent / link).exists(), link


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.stem)
def test_the_map_on_top_links_every_other_chapter_and_marks_this_one(path):
    drawn = re.search(r"<!-- map -->(.*)<!-- /map -->", read(path).cells[0].source, re.S)[1]
    assert set(re.findall(r'href="(\S+)"', drawn)) == {p.name for p in CORE[1:] if p != path}
    assert re.findall(r"<b>(\d\d) · you are here</b>", drawn) == [path.name[:2]] * (path != CORE[0])


@every_notebook
def test_every_figure_has_an_alternative_text(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                alt = output.metadata.get("image/png", {}).get("alt", "")
                assert len(alt) > 15 and alt != "A figure without words.", f"{cell.id}: {alt!r}"


@every_notebook
def test_github_still_shows_the_notebook(path):
    """It stops at some size."""
    assert path.stat().st_size <= 500_000


@every_notebook
def test_text_is_not_in_pieces(path):
    """Two pieces of one cell's text, one after the other, would be set apart on a page."""
    for cell in code_cells(path):
        kinds = [o.get("name") for o in cell.outputs]  # of a stream: stdout or stderr
        assert not any(a == b is not None for a, b in zip(kinds, kinds[1:])), cell.id


@every_notebook
def test_cells_are_short(path):
    for cell in code_cells(path):
        assert lines(cell) <= 40, cell.id
        assert not [s for s in cell.source.splitlines() if len(s) > 79], cell.id


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.stem)
def test_a_cell_with_a_card_that_is_run_alone_says_what_to_do(path):
    """As after a restart of the kernel: else it ends in a NameError."""
    shows = re.compile(r"^\s*(?:\w+\.show\(\)|live = dials\.controls\()", re.M)
    cards = [c for c in code_cells(path) if shows.search(c.source.replace("plt.show()", ""))]
    assert len(cards) == {"00": 2, "02": 1, "03": 2, "06": 4}.get(path.stem[:2], 0), [c.id for c in cards]
    for cell in cards:
        with pytest.raises(WorkbookError, match="The cells above this one have not run since the kernel was started"):
            exec(cell.source, {})


def lines(cell):
    """How many lines of a code cell hold anything."""
    return sum(bool(s.strip()) for s in cell.source.splitlines())


def in_view(path):
    """The code cells that are not folded away."""
    return [c for c in code_cells(path) if not c.metadata.get("jupyter", {}).get("source_hidden")]


def test_half_of_the_cells_have_at_most_eight_lines():
    assert statistics.median(lines(cell) for path in PATHS for cell in in_view(path)) <= 8
    assert {path.name: len(read(path).cells) for path in PATHS if len(read(path).cells) > 120} == {}


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.stem)
def test_a_newcomer_can_finish_a_core_chapter(path):
    """Cells, words, code in view, and the minutes of reading that the header states, at 200 words or 20 lines each."""
    words = sum(len(text.split()) for text in prose(path))
    code = sum(lines(cell) for cell in in_view(path))
    minutes = words / 200 + code / 20
    stated = re.search(r"[Rr]eading\D*(\d+) minutes", " ".join(prose(path)[:3]))
    assert len(read(path).cells) <= 65 and words <= 2200 and code <= 250 and minutes <= 45, (words, code, minutes)
    assert stated and abs(int(stated[1]) - minutes) <= 3, minutes


@every_notebook
def test_every_folded_cell_says_what_it_is_and_folds_in_jupyterlab_and_colab(path):
    """In JupyterLab by `source_hidden`, in Colab as a form, whose title is the first line.

    VS Code reads no such mark; once its reader collapses a cell, it shows the first line, so that is the title there.
    """
    for cell in code_cells(path):
        hidden = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        assert (cell.metadata.get("cellView") == "form") == hidden == cell.source.startswith("# @title "), cell.id


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.stem)
def test_code_that_only_draws_is_in_the_package(path):
    """VS Code shows a folded cell open; so a cell computes, and one call draws.  No function draws for nobody."""
    sources = "\n".join(c.source for c in code_cells(path))
    assert not re.search(r"\bplt\b|matplotlib|ipywidgets|\bax\w*\.\w+\(|\bfig(ure)?, ", sources)
    name = f"chapter_{path.stem[:2]}"
    figures = import_module(f"rlhf_helpers.desk.figures.{name}")
    source = Path(figures.__file__).read_text(encoding="utf-8")
    assert f"from rlhf_helpers.desk.figures import {name} as figures\n" in sources
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert f"figures.{node.name}(" in sources or source.count(f"{node.name}(") > 1, node.name


ASKED_OF_THE_READER = {"write-head", "verdict-examples-text"}  # whose answer is what the reader does


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.stem)
def test_the_answer_to_a_prediction_is_folded_until_it_is_opened(path):
    nb = read(path).cells
    asked = [n for n, c in enumerate(nb) if c.cell_type == "markdown" and "> **Predict, then run.**" in c.source]
    for n, after in zip(asked, [*asked[1:], len(nb)]):
        folded = [c.id for c in nb[n:after] if c.metadata.get("jupyter", {}).get("outputs_hidden")]
        assert folded or "<details>" in nb[n].source or nb[n].id in ASKED_OF_THE_READER, nb[n].id
    assert asked, "a chapter asks its reader to predict something"


def shown_while_folded(output):
    """What JupyterLab 4 shows of a folded output: the first line that says anything, of HTML and Markdown as typed."""
    kinds = ("text/html", "image/svg+xml", "application/pdf", "text/markdown", "text/plain")
    data = output.get("data") or {"text/plain": output.get("text", "")}
    text = next((data[kind] for kind in kinds if kind in data), "")
    return next((line for line in text.split("\n") if line), "Output")


@every_notebook
def test_a_folded_answer_gives_nothing_away_and_fits_on_a_line(path):
    for cell in code_cells(path):
        if cell.metadata.get("jupyter", {}).get("outputs_hidden"):
            line = shown_while_folded(cell.outputs[0])
            assert len(line) <= 72 and (line.startswith("<Figure") or not re.search(r"\d", line)), f"{cell.id}: {line}"


def test_what_a_folded_answer_shows():
    table = plots.text_table(["which?"], [["2"]]).data
    assert shown_while_folded({"data": {"text/html": table, "text/plain": "<IPython.core.display.HTML object>"}}) == (
        "<!-- a table -->"
    )
    assert shown_while_folded({"name": "stdout", "text": "\n2 of 3"}) == "2 of 3"
    assert (
        shown_while_folded({"data": {"text/plain": "<Figure size 6x2 with 1 Axes>", "image/png": ""}})[:7] == "<Figure"
    )


@every_notebook
def test_no_path_of_one_machine(path):
    for cell in read(path).cells:
        for text in (cell.source, json.dumps(cell.get("outputs", []))):
            found = FOREIGN_PATH.search(re.sub(r'"image/\w+": "[^"]*"', "", text))
            assert not found, f"{cell.id}: {text[max(found.start() - 30, 0) : found.end() + 30]}"


# ---------------------------------------------------------------- the lesson and the package agree


@cache
def package_definitions():
    """{name: {module: tree}} of every function and class at the top of a module of engine, lesson and desk."""
    found = {}
    for storey in ("engine", "lesson", "desk"):
        for module in sorted((ROOT / "rlhf_helpers" / storey).glob("[a-z]*.py")):
            for name, tree in lesson.definitions(ast.parse(module.read_text(encoding="utf-8"))).items():
                found.setdefault(name, {})[module.stem] = tree
    return found


def loose_ends(cell, package):
    """What is wrong with the tie between a code cell and the package, in sentences."""
    tree, said = parse(cell), []
    here, driven = lesson.definitions(tree), lesson.driven(tree)
    if ("shared" in tags(cell)) != bool(driven):
        said.append("the tag `shared` and `@drives(...)` go together")
    for name, module in driven.items():
        partner = package.get(name, {}).get(module)
        if partner is None:
            said.append(f"{module} has no {name}")
        elif partner != here[name]:
            said.append(f"{name} differs from that of {module}")
    if not {"variant", "bug", "museum"} & set(tags(cell)):
        said += [f"{name} is in the package, too: mark it" for name in here if name in package and name not in driven]
    return said


@every_notebook
def test_functions_in_view_are_those_of_the_package(path):
    package = package_definitions()
    assert {cell.id: loose_ends(cell, package) for cell in code_cells(path) if loose_ends(cell, package)} == {}


@pytest.mark.parametrize(
    "source, tag, fault",
    [
        ("@drives(ppo)\ndef whiten(x):\n    return x", "shared", "whiten differs from that of ppo"),
        ("@drives(ppo)\ndef whitened(x):\n    return x", "shared", "ppo has no whitened"),
        ("@drives(reward)\ndef whiten(x):\n    return x", "shared", "reward has no whiten"),
        ("def whiten(x):\n    return x", "", "whiten is in the package, too: mark it"),
        ("def mine(x):\n    return x", "shared", "the tag `shared` and `@drives(...)` go together"),
    ],
)
def test_a_loose_end_is_named(source, tag, fault):
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": [tag] if tag else []})
    assert loose_ends(cell, package_definitions()) == [fault]


def test_the_package_keeps_no_twin_that_only_tests_call():
    """A function that a chapter shows stands in the package, too, only if the package or another chapter calls it."""
    package = {p.stem: p.read_text(encoding="utf-8") for p in sorted((ROOT / "rlhf_helpers").rglob("*.py"))}
    code = {path: "\n".join(c.source for c in code_cells(path)) for path in PATHS}
    for path in PATHS:
        for cell in code_cells(path):
            for name, module in lesson.driven(parse(cell)).items():
                others = [text for stem, text in package.items() if stem != module]
                others += [text for other, text in code.items() if other != path]
                own = len(re.findall(rf"(?<!`)\b{name}\b(?!`)", package[module]))
                assert own > 1 or any(re.search(rf"\b{name}\b", text) for text in others), f"{module}.{name}"


def test_the_comparison_ignores_docstrings_only():
    one = ast.parse('@drives(m)\ndef f(x):\n    """Say."""\n    return x + 1')
    two = ast.parse("def f(x):  # a comment\n\n    return (x + 1)")
    three = ast.parse("def f(x):\n    return x + 2")
    assert lesson.definitions(one) == lesson.definitions(two) != lesson.definitions(three)


# ---------------------------------------------------------------- execution


def flat(value, prefix=""):
    """{"a.b": 1, ...} of a nested dict."""
    if not isinstance(value, dict):
        return {prefix.strip("."): value}
    return {k: v for key, inner in value.items() for k, v in flat(inner, f"{prefix}.{key}").items()}


def metric(metrics, *words):
    """The value of the one metric whose dotted name has all of `words`."""
    found = {k: v for k, v in flat(metrics).items() if all(w in k.lower() for w in words)}
    assert found, f"no metric named {' and '.join(words)} among {sorted(flat(metrics))}"
    return next(iter(found.values()))


def load(kind, folder):
    """The model in `folder`, by a transformers auto class; the weights must be safetensors."""
    assert (folder / "model.safetensors").is_file(), f"no model in {folder}"
    return kind.from_pretrained(folder)


def check_00(runs, metrics):
    """Without a person there, both the choices and the blind test are simulated, and the log says so."""
    for name, n in (("sitting", 24), ("sitting_blind", 12)):
        labels = [e for e in files.read_jsonl(runs / f"{name}.jsonl") if e["event"] == "label"]
        assert len(labels) == n and {e["annotator"] for e in labels} == {"simulated:brief"}
    first, last = metrics["loss"]
    assert abs(first - math.log(2)) < 1e-4 and last < 0.6
    assert metrics["environment"]["torch"] and metrics["shipped"] in (True, False)


def check_01(runs, metrics):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for stage in ("base-small-fast", "finetuned-fast"):  # shortened models never take the place of full ones
        folder = runs / "models" / stage
        model = load(AutoModelForCausalLM, folder)
        assert len(AutoTokenizer.from_pretrained(folder)) <= model.get_input_embeddings().num_embeddings


def check_02(runs, metrics):
    pairs = files.read_jsonl(runs / "pairs.jsonl", ("pair_id", "prompt", "response_a", "response_b"))
    assert pairs
    assert all(p["response_a"] != p["response_b"] for p in pairs)
    assert len({p["pair_id"] for p in pairs}) == len(pairs)
    assert len({(p["prompt"], *sorted((p["response_a"], p["response_b"]))) for p in pairs}) == len(pairs)


def check_03(runs, metrics):
    """Without a person at the widget, a label in the log can only be simulated, and must say so."""
    events = files.read_jsonl(runs / "feedback.jsonl", ("event", "annotator"))
    assert [e for e in events if e["event"] == "label"]
    assert all(e["annotator"].startswith("simulated:") for e in events)


def check_04(runs, metrics):
    from transformers import AutoModelForSequenceClassification

    model = load(AutoModelForSequenceClassification, runs / "models" / "reward-fast")
    assert model.config.num_labels == 1
    assert metric(metrics, "held_out_accuracy") > 0.5  # a shortened run on few labels: better than a coin
    losses = metric(metrics, "loss")
    first = losses[0] if isinstance(losses, list) else losses
    assert abs(first - math.log(2)) < 0.35  # before training, chosen and rejected score about the same


def check_05(runs, metrics):
    from transformers import AutoModelForCausalLM

    load(AutoModelForCausalLM, runs / "models" / "policy-fast")
    rows = metrics["history"]
    names = set(rows if isinstance(rows, dict) else rows[0])
    for word in ("gold", "proxy", "kl"):
        assert any(word in name.lower() for name in names), f"no {word} in the history: {sorted(names)}"


def check_06(runs, metrics):
    """Without labels of a person, simulated users label the first round, and the report names them."""
    report = json.loads((runs / "report.json").read_text(encoding="utf-8"))
    assert metrics["round_1_labels_by"] == report["rounds"][0]["labelled_by"][0] == "simulated:chatty"
    assert report["blind_test"]["judge"] == "simulated:helpful" and metrics["poisoned_refused"]


def check_scaling_up(runs, metrics):
    """The export is complete, and TRL's own run is there exactly where TRL is installed."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    folder, installed = runs / "scale", not scale.missing()
    load(AutoModelForCausalLM, folder / "models" / "finetuned")
    for name in ("reward_start", "reward"):
        assert load(AutoModelForSequenceClassification, folder / "models" / name).config.num_labels == 1
    rows = files.read_jsonl(folder / "preferences.jsonl")  # texts, or messages where there is a chat template
    assert all(r["prompt"] and r["chosen"] and r["rejected"] for r in rows)
    assert metrics["same_tokens"] == metrics["rows"] == len(rows)
    assert len(list(folder.glob("*.yaml"))) == 5
    assert (folder / "trl_policy").exists() == (folder / "trl_reward").exists() == installed
    assert ("TRL over ours" in metrics["blind"]) == ("TRL" in metrics["reward"]) == installed


def check_bug_museum(runs, metrics):
    """Each exhibit, flipped for two updates, is noticed by the check that the chapter names; healthy runs are quiet.

    The loop stops with its sentence, but for three exhibits: what the bench of the chapter is for.
    """
    assert metrics["healthy"] == [{}] * 3
    for exhibit, name in zip(test_museum.EXHIBITS, metrics["noticed"], strict=True):
        (group, check), by = test_museum.named(exhibit), metrics["noticed"][name]
        assert check in by[group], name
        assert bool(by["loop"]) == (exhibit not in {"x4", "x8", "x10"}), name
        assert bool(by["loop"]) == metrics["sentences"][name].startswith("Health check failed at update"), name
        assert metrics["updates"][name] == 2, f"{name}: the run without the alarm did not go through"


def check_loop_up_close(runs, metrics):
    """Training keeps much more than inference, and three judges have judged the same pairs."""
    assert metrics["memory_training_over_inference"] > 4
    judges = metrics["judges"]
    assert set(judges) == {"simulated:helpful", "reward model", "gold"} and len({v["n"] for v in judges.values()}) == 1


CHECKS = {
    "00": check_00,
    "01": check_01,
    "02": check_02,
    "03": check_03,
    "04": check_04,
    "05": check_05,
    "06": check_06,
    "loop_up_close": check_loop_up_close,
    "scaling_up": check_scaling_up,
    "bug_museum": check_bug_museum,
}


def snapshot(folder):
    return {p: p.stat().st_mtime_ns for p in Path(folder).rglob("*") if p.is_file()}


def stderr(nb):
    return "".join(
        o.text
        for c in nb.cells
        if c.cell_type == "code"
        for o in c.outputs
        if o.output_type == "stream" and o.name == "stderr"
    )


NO_NETWORK_LEARNS = {"02_decoding", "03_human_feedback"}
NO_NETWORK_LEARNS |= {"labels_up_close", "loop_up_close", "reward_model_up_close", "sampler_up_close"}
ASKED_FOR_LABELS = ("feedback.jsonl", "sitting.jsonl", "pairs.jsonl")


def learned_from(noted, runs):
    """(what the networks of a chapter were trained on, as texts; the rows that it had labelled in `runs`)."""
    _, tokenizer = models.load_model(ROOT / "data" / "models" / "finetuned")
    rows = [r for name in ASKED_FOR_LABELS if (runs / name).exists() for r in files.read_jsonl(runs / name)]
    texts = [text.partition("<|assistant|>")[0] for text in trained.texts(noted, tokenizer)]  # what it was asked
    return texts, [r for r in rows if "prompt" in r]


@pytest.mark.slow
@every_notebook
def test_runs_alone(path, tmp_path, warm_kernels, monkeypatch):
    """Executed with an empty RUNS_DIR, as from a fresh clone, with nobody there to label.

    Nothing that a network or an annotator learns from asks a question of dev or test, in any words.
    """
    shipped, runs, noted = snapshot(ROOT / "data"), tmp_path / "runs", tmp_path / "trained"
    monkeypatch.setenv("WORKBOOK_TRAINED_ON", str(noted))
    parameters = {"FAST": True, "RUNS_DIR": str(runs), "ANNOTATOR": "you"}
    nb = series.execute(path, tmp_path / "executed", parameters)
    assert series.widget_errors(nb) == []
    assert not re.search(r"Warning|No module named|ImportError", stderr(nb)), stderr(nb)
    shown = {kind for c in nb.cells if c.cell_type == "code" for o in c.outputs for kind in o.get("data", {})}
    assert shown & {"image/png", "image/svg+xml", "text/html"}, "neither a figure nor a table"
    metrics = json.loads((runs / "metrics" / f"{path.stem}.json").read_text(encoding="utf-8"))
    assert metrics["key_result"] and metrics["seed"] == 0 and metrics["fast"] is True
    CHECKS.get(path.stem[:2] if path in CORE else path.stem, lambda runs, metrics: None)(runs, metrics)
    assert not list(runs.rglob(".*")), "a temporary file was left behind"
    assert snapshot(ROOT / "data") == shipped, "a notebook wrote into data/"
    texts, labelled = learned_from(noted, runs)
    assert world.leaks(texts) == world.leaks(labelled) == []
    assert (len(texts) > 3) == (path.stem not in NO_NETWORK_LEARNS), len(texts)


@pytest.mark.slow
def test_a_leak_into_a_chapter_is_seen(tmp_path, warm_kernels, monkeypatch):
    """Chapter 00 with test questions among those that it learns from."""
    nb, noted, runs = read(CORE[0]), tmp_path / "trained", tmp_path / "runs"
    right = 'train, test = task.prompts("train"), task.prompts("test")'
    (cell,) = (c for c in nb.cells if right in c.source)
    cell.source = cell.source.replace(right, f"{right}\ntrain += test")
    nbformat.write(nb, tmp_path / CORE[0].name)
    monkeypatch.setenv("WORKBOOK_TRAINED_ON", str(noted))
    series.execute(tmp_path / CORE[0].name, tmp_path / "executed", {"FAST": True, "RUNS_DIR": str(runs)})
    assert all(map(world.leaks, learned_from(noted, runs)))
