"""The first cells of a notebook: Colab and Kaggle, the links, the map; and how to keep what was made there.

Owner and name of the repository stand here and nowhere else: `python -m rlhf_helpers.desk.colab` stamps them, with the
tag of this version, into every notebook and the README.  After a change of REPOSITORY or of the version, run it.
"""

import json
import re
import sys
from pathlib import Path

from .. import __version__
from ..engine import files

REPOSITORY = "rlhf-workbook/rlhf-workbook"  # owner/name on GitHub
TAG = f"v{__version__}"  # a release, never a moving branch

CELL = """\
# In Colab and Kaggle this fetches the workbook and changes nothing that is
# installed there; elsewhere it does nothing. What you make there is lost when
# the runtime ends: in Colab the last cell offers it, or set RUNS_DIR
# below to a folder on a mounted drive, as in "/content/drive/MyDrive/rlhf".
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

REPO = "{url}"
TAG = "{tag}"
HOSTED = (
    "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ
)
MISSING = importlib.util.find_spec("rlhf_helpers") is None
if MISSING and not HOSTED:
    raise RuntimeError(
        "The kernel of this notebook is a Python without the workbook "
        f"({{sys.executable}}). Choose another: in VS Code 'Select Kernel' at "
        "the top right, in JupyterLab the kernel's name there; it is the "
        "Python in the folder .venv of the workbook. No such folder yet? "
        "`make setup` makes it."
    )
if MISSING:
    root = Path(f"rlhf-workbook-{{TAG}}").resolve()
    get = ["git", "clone", "-q", "--depth", "1", "-b", TAG, REPO, str(root)]
    if not root.exists() and subprocess.run(get).returncode:
        raise RuntimeError(
            f"{{REPO}} at {{TAG}} could not be fetched. Check the "
            "connection (on Kaggle: Settings, then Internet on) and run "
            "this cell again."
        )
    sys.path.insert(0, str(root))"""

STATIONS = {
    "01_pretraining_and_finetuning": "Learn to talk",
    "02_decoding": "Say it twice",
    "03_human_feedback": "Choose",
    "04_reward_model": "Score",
    "05_ppo": "Learn from it",
    "06_inference_and_continuous_feedback": "Judge, again",
}  # the map at the top of each core chapter
FOLDED = {"colab": "Colab and Kaggle", "parameters": "Parameters", "setup": "Imports and workspace"}  # tag: title

BADGE = re.compile(r"((?:\(|: )https://colab\.research\.google\.com/github/)[\w.-]+/[\w.-]+(/blob/main/)[^)\s]+")


# ---------------------------------------------------------------- stamping


def stamp_text(text, file=None):
    """`text` with this repository in its links to Colab and the site, and in clone commands.

    file: the path that links to Colab get.
    """

    def badge(found):
        path = found[0].partition(found[2])[2]
        return f"{found[1]}{REPOSITORY}{found[2]}{file or path}"

    text = BADGE.sub(badge, text)
    text = re.sub(
        r"https://[\w-]+\.github\.io/[\w.-]+/", "https://{}.github.io/{}/".format(*REPOSITORY.split("/")), text
    )
    return re.sub(r"(git clone https://github\.com/)[\w.-]+/[\w.-]+", rf"\g<1>{REPOSITORY}", text)


def map_of(stem):
    """The map of the series as a table in HTML, which every front end shows, with the chapter `stem` marked."""
    boxes = []
    for name, words in STATIONS.items():
        number, here = name[:2], name == stem
        style = ' style="border:2px solid #D55E00"' if here else ""
        label = f"<b>{number} · you are here</b>" if here else f'<a href="{name}.ipynb">{number}</a>'
        boxes.append(f'<td align="center"{style}>{label}<br>{words}</td>')
    return "<table><tr>\n" + "\n<td>→</td>\n".join(boxes) + "\n</tr></table>"


def fold(cell, title):
    """Fold a code cell (a dict, changed in place) in JupyterLab, VS Code and Colab; `title` is its first line."""
    lines = [line for line in "".join(cell["source"]).splitlines() if not line.startswith("# @title")]
    cell["source"] = "\n".join([f"# @title {title}", *lines]).splitlines(keepends=True)
    cell["metadata"] |= {"cellView": "form", "jupyter": {"source_hidden": True}}


def stamp(nb, name, url=None):
    """Stamp a notebook (a dict, changed in place): its link to Colab, the map, the folded first cells, a GPU runtime.

    name: that of its file, from notebooks/ on, such as "deeper/bug_museum.ipynb".
    url: what the cell clones instead of the repository on GitHub; for tests.
    """
    head, source = nb["cells"][0], CELL.format(url=url or f"https://github.com/{REPOSITORY}", tag=TAG)
    head["source"] = stamp_text("".join(head["source"]), f"notebooks/{name}").splitlines(keepends=True)
    if nb["cells"][1]["id"] != "colab":
        nb["cells"].insert(
            1,
            {
                "cell_type": "code",
                "execution_count": None,
                "id": "colab",
                "metadata": {"tags": ["colab"]},
                "outputs": [],
                "source": [],
            },
        )
    nb["cells"][1]["source"] = source.splitlines(keepends=True)
    drawn = f"<!-- map -->\n{map_of(Path(name).stem)}\n<!-- /map -->"
    text = re.sub(r"<!-- map -->.*?<!-- /map -->", drawn, "".join(head["source"]), flags=re.S)
    head["source"] = text.splitlines(keepends=True)
    for cell in nb["cells"]:
        for tag in set(cell["metadata"].get("tags", [])) & set(FOLDED):
            fold(cell, FOLDED[tag])
    nb["metadata"] |= {"accelerator": "GPU", "colab": {"gpuType": "T4", "provenance": []}}
    return nb


def stamped(path):
    """The text of a notebook or of the README as the stamp leaves it."""
    text = Path(path).read_text(encoding="utf-8")
    if Path(path).suffix != ".ipynb":
        return stamp_text(text)
    nb = stamp(json.loads(text), Path(path).relative_to(files.ROOT / "notebooks").as_posix())
    return json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def chapters(folder=files.ROOT / "notebooks"):
    """The notebooks of the core chapters in order, and those of notebooks/deeper after them."""
    return [*sorted(folder.glob("[0-9][0-9]_*.ipynb")), *sorted((folder / "deeper").glob("*.ipynb"))]


def stampable(root=files.ROOT):
    """The files that carry the stamp."""
    notebooks = root / "notebooks"
    return [*chapters(notebooks), notebooks / "deeper" / "README.md", root / "README.md"]


# ---------------------------------------------------------------- keeping what was made


def download_button(runs):
    """In Colab, show a button that downloads the folder `runs` as a zip; elsewhere do nothing.

    Checkpoints are left out.  Nothing is packed before the button is pressed.
    """
    if "google.colab" not in sys.modules:
        return
    import ipywidgets as W
    from google.colab import files as browser
    from IPython.display import display

    button, said = W.Button(description="Download what I made", layout={"width": "auto"}), W.HTML()

    def pack(_):
        try:
            browser.download(pack_runs(runs))
            said.value = "The download is in your browser. Unpack it into the workbook's folder to go on there."
        except Exception as e:  # an exception in a click would be seen nowhere
            said.value = f"The download failed ({type(e).__name__}). The files are in the panel on the left."

    button.on_click(pack)
    display(W.VBox([button, said]))


def pack_runs(runs):
    """Zip the folder `runs` without its checkpoints; returns the path of the zip, which lies beside it.

    Links to anything outside of the folder are left out.
    """
    import zipfile

    runs = Path(runs)
    with files.replacing_file(runs.with_suffix(".zip")) as f, zipfile.ZipFile(f, "w", zipfile.ZIP_DEFLATED) as z:
        for path in sorted(p for p in runs.rglob("*") if p.is_file()):
            inside = path.resolve().is_relative_to(runs.resolve())
            if inside and "checkpoints" not in path.relative_to(runs).parts:
                z.write(path, Path(runs.name) / path.relative_to(runs))
    return str(runs.with_suffix(".zip"))


def main():
    """Stamp every notebook and the README, and say which of them changed."""
    for path in stampable():
        text = stamped(path)
        if text != path.read_text(encoding="utf-8"):
            files.write_text(path, text)
            print("stamped", path.relative_to(files.ROOT))


if __name__ == "__main__":
    main()
