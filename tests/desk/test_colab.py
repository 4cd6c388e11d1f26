"""Google Colab: its versions, the stamp in the notebooks, and every notebook opened alone as it is there."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from taught import CORE, PATHS
from test_notebooks import CHECKS

from rlhf_helpers.desk import colab, workspace
from rlhf_helpers.engine import files
from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.make import series

TEXT = (ROOT / "constraints" / "colab.txt").read_text(encoding="utf-8")
PINS = dict(line.split("==") for line in TEXT.splitlines() if line and not line.startswith("#"))


def test_the_file_says_where_and_when_its_versions_were_read():
    head = TEXT[: TEXT.index("\n", TEXT.index("commit"))]
    assert "https://github.com/googlecolab/backend-info" in head
    assert re.search(r"commit [0-9a-f]{7} of 20\d\d-\d\d-\d\d", head)


def test_the_package_accepts_what_colab_has():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for r in map(Requirement, project["dependencies"]):
        assert r.specifier.contains(PINS[r.name]), f"{r} would replace {r.name} {PINS[r.name]} on Colab"


@pytest.mark.skipif(not os.environ.get("WORKBOOK_COLAB"), reason="only in `make test-colab`")
def test_these_are_the_versions():
    found = {}
    for name in PINS:
        try:
            found[name] = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            pass
    assert {"ipywidgets", "ipython", "numpy", "pandas", "matplotlib", "transformers", "torch"} <= set(found)
    assert found == {name: PINS[name] for name in found}


# ---------------------------------------------------------------- the stamp


def test_every_file_is_stamped():
    """Stamping changes nothing; run `python -m rlhf_helpers.desk.colab` when this fails."""
    for path in colab.stampable():
        assert colab.stamped(path) == path.read_text(encoding="utf-8"), path.name


def test_the_stamp_changes_owner_name_and_tag_everywhere(monkeypatch):
    def repositories(text):
        return set(re.findall(r"github(?:\.com)?/([\w.-]+/[\w.-]+)", text)) - {"googlecolab/backend-info"}

    ours = colab.REPOSITORY
    monkeypatch.setattr(colab, "REPOSITORY", "some-one/else")
    for path in colab.stampable():
        others = repositories(path.read_text(encoding="utf-8")) - {ours} if path.stem == "bug_museum" else set()
        found = repositories(colab.stamped(path))
        assert found - others == {"some-one/else"}, (path.name, found)  # the museum links to where bugs were found


def test_a_badge_gets_the_path_of_its_own_file():
    nb = json.loads(colab.stampable()[0].read_text(encoding="utf-8"))
    name = "00_rlhf_in_one_sitting.ipynb"
    nb["cells"][0]["source"] = "".join(nb["cells"][0]["source"]).replace(f"{name})", "99_other.ipynb)")
    head = "".join(colab.stamp(nb, name)["cells"][0]["source"])
    assert f"/blob/main/notebooks/{name})" in head and "99_other" not in head


def test_notebooks_ask_for_a_gpu():
    for path in PATHS:
        metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
        assert metadata["accelerator"] == "GPU" and metadata["colab"]["gpuType"] == "T4"


def test_every_chapter_ends_with_the_offer_to_download_what_was_made():
    for path in PATHS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        last = [c for c in cells if c["cell_type"] == "code"][-1]
        assert "".join(last["source"]).endswith("colab.download_button(ws.runs)  # in Colab only"), path.name


def test_the_cell_does_nothing_elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    before = list(sys.path)
    exec(colab.CELL.format(url="file:///nowhere", tag="v0"), {})
    assert sys.path == before and not list(tmp_path.iterdir())
    assert colab.download_button(tmp_path) is None


def test_a_kernel_without_the_workbook_is_told_which_to_choose(monkeypatch):
    """As VS Code has it that took another Python."""
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="(?s)Select Kernel.*\\.venv.*make setup") as error:
        exec(colab.CELL.format(url="file:///nowhere", tag="v0"), {})
    assert sys.executable in str(error.value)


def test_what_was_made_is_packed_without_checkpoints(tmp_path):
    runs = tmp_path / "runs"
    files.write_text(runs / "feedback.jsonl", "{}\n")
    files.write_text(runs / "checkpoints" / "policy.pt", "large")
    with zipfile.ZipFile(colab.pack_runs(runs)) as z:
        assert z.namelist() == ["runs/feedback.jsonl"] and z.testzip() is None


def test_a_drive_that_is_not_mounted_is_not_written_to():
    with pytest.raises(WorkbookError, match="RUNS_DIR .*/content/drive.* mount"):
        workspace.setup(RUNS_DIR="/content/drive/MyDrive/rlhf")


# ---------------------------------------------------------------- opened alone, as in Colab and on Kaggle

STARTUP = """
import pathlib, sys
sys.path[:] = [p for p in sys.path if not (pathlib.Path(p or ".") / "rlhf_helpers").exists()]
sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
"""


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    """The URL of a local repository that holds this working tree, tagged as a release."""
    repository = tmp_path_factory.mktemp("release")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout, so there is nothing to clone")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, repository / name)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A", "-f"], [*who, "commit", "-qm", "release"], ["tag", colab.TAG]):
        subprocess.run(["git", *command], cwd=repository, check=True, capture_output=True)
    return repository.as_uri()


def simulate(host, folder, monkeypatch):
    """Kernels have not got the package, wherever it is installed, and know by what they have where they are."""
    startup, package = STARTUP, folder / "site" / "google" / "colab"
    if host == "colab":
        files.write_text(package / "__init__.py", "")
        files.write_text(package / "files.py", "def download(path): pass\n")
        startup += "import google.colab  # a Colab kernel has it loaded\n"
    else:
        monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    files.write_text(folder / "ipython" / "profile_default" / "startup" / "00.py", startup)
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "path, host", [*((path, "colab") for path in PATHS), (PATHS[0], "kaggle")], ids=lambda x: getattr(x, "stem", x)
)
def test_opened_alone(path, host, tmp_path, release, monkeypatch):
    """One notebook in a folder of its own, and a clone URL: all that a reader in Colab, or on Kaggle, has.

    Chapter 03 stands for the others where the versions are not Colab's (`make test-colab` runs them all).
    """
    if path.stem[:2] != "03" and not os.environ.get("WORKBOOK_COLAB"):
        pytest.skip("only in `make test-colab`")
    simulate(host, tmp_path, monkeypatch)
    nb = colab.stamp(json.loads(path.read_text(encoding="utf-8")), path.name, release)
    alone = tmp_path / "content" / path.name
    files.write_text(alone, json.dumps(nb))
    done = series.execute(alone, tmp_path / "executed", {"FAST": True})
    assert series.widget_errors(done) == []
    clone = alone.parent / f"rlhf-workbook-{colab.TAG}"
    metrics = json.loads((clone / "runs" / "metrics" / f"{path.stem}.json").read_text(encoding="utf-8"))
    assert metrics["key_result"] and metrics["fast"] is True
    CHECKS.get(path.stem[:2] if path in CORE else path.stem, lambda runs, metrics: None)(clone / "runs", metrics)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True)
    assert changed.stdout == "", "something outside runs/ was written"
    assert ("Download what I made" in json.dumps(done.metadata["widgets"])) == (host == "colab")


@pytest.mark.slow
def test_on_kaggle_the_cell_fetches_the_release_once_and_says_what_to_do_without_a_network(tmp_path, release):
    """The stamped cell of a chapter in a Python that has nothing installed and knows that it is Kaggle's."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}

    def run(url, then="import rlhf_helpers as w; print(w.__file__, w.__version__)"):
        nb = colab.stamp(json.loads(PATHS[0].read_text(encoding="utf-8")), PATHS[0].name, url)
        code = "".join(nb["cells"][1]["source"]) + "\n" + then
        return subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)

    failed = run("file:///nowhere")
    assert failed.returncode and "could not be fetched" in failed.stderr and "on Kaggle: Settings" in failed.stderr
    for url in (release, "file:///nowhere"):  # the second time, nothing is fetched
        done = run(url)
        clone = tmp_path / f"rlhf-workbook-{colab.TAG}"
        assert done.stdout.split() == [str(clone / "rlhf_helpers" / "__init__.py"), colab.TAG[1:]], done.stderr
