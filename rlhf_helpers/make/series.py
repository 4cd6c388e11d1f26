"""Execute the whole series in order: `make run`, or `python -m rlhf_helpers.make.series`.

Each notebook runs through papermill in a kernel of its own.  Its executed copy and an HTML page
go to `runs/series/`, what the chapters make to `runs/`, and a short table closes the run.  An
interrupted run leaves the copies of earlier runs as they were.
"""

import argparse
import base64
import io
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

from ..desk import colab, workspace
from ..engine import files
from ..engine.files import ROOT, WorkbookError
from . import site

# ---------------------------------------------------------------- one notebook


def use_this_python():
    """Make the kernel named `python3` this interpreter, whatever else the user has installed."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"


def widget_errors(nb):
    """Errors that an executed notebook hides in its widgets, as a list of (name, message).

    An exception inside `with Output():`, an `@out.capture()` callback or `interactive()` ends up in
    the state of the widget, and no executor reports it.
    """
    saved = nb.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    return [
        (output["ename"], output["evalue"])
        for model in saved.get("state", {}).values()
        if model["model_name"] == "OutputModel"
        for output in model["state"].get("outputs", [])
        if output["output_type"] == "error"
    ]


def _engine(on_cell):
    """A papermill engine that calls `on_cell(cell)` after each cell and lets Ctrl-C through."""
    from papermill.engines import NBClientEngine

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **options):
            start, complete = nb_man.cell_start, nb_man.cell_complete

            def cell_start(cell, *args, **kwargs):
                # nbclient takes these signals for itself, and reports a dead kernel instead of an interrupt
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.default_int_handler)
                start(cell, *args, **kwargs)

            def cell_complete(cell, *args, **kwargs):
                complete(cell, *args, **kwargs)
                on_cell(cell)

            nb_man.cell_start, nb_man.cell_complete = cell_start, cell_complete
            return super().execute_managed_notebook(nb_man, kernel_name, **options)

    return Engine


def _publish(executed, folder, name):
    """Put an executed notebook and its HTML page into `folder`, each all at once."""
    import nbformat

    files.write_text(folder / f"{name}.ipynb", nbformat.writes(executed))
    files.write_text(folder / f"{name}.html", site.page(executed, name)[0])


def execute(path, folder, parameters=None, on_cell=lambda cell: None):
    """Execute the notebook `path` with its own folder as the working directory.

    `folder` gets NAME.ipynb and NAME.html, also when a cell fails.  `on_cell(cell)` is called after
    each cell.  Returns the executed notebook; raises WorkbookError with one sentence that names the
    notebook and the cell.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.engines import papermill_engines

    path, folder = Path(path), Path(folder)
    workspace.make(folder)
    use_this_python()
    papermill_engines.register("workbook", _engine(on_cell))
    with tempfile.TemporaryDirectory(prefix=f"{path.stem}.") as temporary:
        draft = Path(temporary) / path.name
        try:
            nb = papermill.execute_notebook(
                *(re.sub("[{}]", r"\g<0>\g<0>", str(p)) for p in (path, draft)),  # it fills parameters into paths
                parameters,
                engine_name="workbook",
                kernel_name="python3",
                cwd=path.parent,
                progress_bar=False,
                request_save_on_cell_execute=False,
                extra_arguments=["--log-level=50"],
            )  # the kernel's own log is no concern of a reader
        except papermill.PapermillExecutionError as e:
            _publish(nbformat.read(draft, 4), folder, path.stem)
            line = next((s for s in e.source.splitlines() if s.strip()), "").strip()
            raise WorkbookError(
                f"{path.stem} stopped in cell [{e.exec_count}], which begins `{line}`: {e.ename}: {e.evalue} "
                f"(its executed copy is {folder / path.stem}.html)"
            ) from None
        except DeadKernelError:
            raise WorkbookError(
                f"{path.stem} stopped because its kernel died, most often for want of memory; close other "
                "programs, or use --fast."
            ) from None
    _publish(nb, folder, path.stem)
    hidden = widget_errors(nb)
    if hidden:
        raise WorkbookError(
            f"{path.stem} reached its end, but a widget in it hides an error: "
            f"{': '.join(hidden[0])} (its executed copy is {folder / path.stem}.html)"
        )
    return nb


def refresh(path, executed):
    """Give the notebook `path` the outputs of `executed`; its source and metadata stay as they are.

    A cell that papermill put in for the parameters is not counted.

    Views of widgets become a line of text, since without a kernel they show nothing but an error.  Text
    that came in pieces is joined, or a page would set each piece apart.  Figures get a palette of their own colours.
    """
    import nbformat
    from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor

    nb, done = nbformat.read(path, 4), {c.id: c for c in executed.cells}
    put_in = [c.execution_count for c in executed.cells if "injected-parameters" in c.metadata.get("tags", [])]
    for cell in nb.cells:
        if cell.cell_type == "code":
            count = done[cell.id].execution_count
            cell.execution_count = count and count - sum(n < count for n in put_in if n)
            cell.outputs = [smaller(output) for output in site.stand_in(done[cell.id].outputs)]
            cell.metadata.pop("papermill", None)
            cell.metadata.pop("execution", None)
    nb, _ = CoalesceStreamsPreprocessor().preprocess(nb, {})
    files.write_text(path, nbformat.writes(nb) + "\n")


def smaller(output):
    """An output (changed in place) whose figure, if it is one, has at most 24 colours: a quarter of the bytes.

    Lines, areas and letters have few; the others are edges, which look the same.
    """
    from PIL import Image

    picture = output.get("data", {}).get("image/png")
    if picture:
        before, after = base64.b64decode(picture), io.BytesIO()
        image = Image.open(io.BytesIO(before)).convert("RGB")
        few = image.quantize(24, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
        few.save(after, "PNG", optimize=True)
        output["data"]["image/png"] = base64.b64encode(min(before, after.getvalue(), key=len)).decode()
    return output


# ---------------------------------------------------------------- the series


def chapters(only=(), folder=ROOT / "notebooks", deeper=False):
    """The core chapters in order and, with `deeper`, those of notebooks/deeper after them.

    Or those in `only`, by the number of a core chapter ("04") or the name of a deeper one ("bug_museum").
    """
    folder = Path(folder)
    every = {p.name[:2] if p.parent == folder else p.stem: p for p in colab.chapters(folder)}
    core = [name for name, p in every.items() if p.parent == folder]
    wanted = [str(n).zfill(2) for n in only] or list(every if deeper else core)
    unknown = [n for n in wanted if n not in every]
    if not core:
        raise WorkbookError(f"There are no chapters in {folder}; get a fresh copy of the workbook.")
    if unknown:
        raise WorkbookError(f"There is no chapter {', '.join(unknown)} in {folder}; choose from {', '.join(every)}.")
    return [path for name, path in every.items() if name in wanted]


def taken_by(path, parameters):
    """Those of `parameters` that a chapter takes: not each asks for PROMPTS, PREFERENCES and LORA."""
    import nbformat

    cells = [c.source for c in nbformat.read(path, 4).cells if "parameters" in c.metadata.get("tags", ())]
    named = set(re.findall(r"^(\w+) *=", "\n".join(cells), re.M))
    return {k: v for k, v in parameters.items() if k in named or k not in ("PROMPTS", "PREFERENCES", "LORA")}


def made_with(runs, MODEL="", PROMPTS="", PREFERENCES="", **others):
    """Where a chapter with these parameters leaves what it makes."""
    return workspace.made_in(Path(runs), MODEL, ROOT / "data", PROMPTS, PREFERENCES)


def key_result(runs, name, since):
    """What a chapter said of itself in metrics/<name>.json, if written after `since` (Unix seconds)."""
    path = Path(runs) / "metrics" / f"{name}.json"
    try:
        if path.stat().st_mtime < since - 2:  # some file systems count in steps of 2 s
            return ""
        return str(files.parse(path.read_bytes())["key_result"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def peak_memory():
    """The most bytes that one kernel of this run held at once, or None where the system can't say."""
    try:
        import resource
    except ImportError:
        return None
    size = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size


def closing_table(rows):
    """The closing table; `rows` are (notebook, seconds, key result)."""
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{'notebook':<{width}}  seconds  key result"]
    lines += [f"{name:<{width}}  {seconds:7.1f}  {result}" for name, seconds, result in rows]
    return "\n".join(line.rstrip() for line in lines)


def run_chapters(paths, runs, parameters=None, outputs=False):
    """Execute `paths` in order with a progress bar over notebooks and cells, then print the table.

    Copies go to `runs`/series, where all that were ever executed make a reading site; with `outputs`, the notebooks
    themselves get the outputs too.
    Raises WorkbookError at the first notebook that fails, after the
    table of those that did not.
    """
    import nbformat
    from tqdm import tqdm

    cells = sum(len(nbformat.read(p, 4).cells) + bool(parameters) for p in paths)
    rows = []
    with tqdm(
        total=cells,
        unit="cell",
        disable=None,
        bar_format="{desc} {bar} {percentage:3.0f}% {n_fmt}/{total_fmt} cells, {elapsed}",
    ) as bar:
        try:
            for n, path in enumerate(paths, 1):
                bar.set_description_str(f"{n}/{len(paths)} {path.stem}")
                began, clock = time.time(), time.perf_counter()
                given = taken_by(path, parameters or {})
                nb = execute(path, Path(runs) / "series", given, on_cell=lambda cell: bar.update())
                if outputs:
                    refresh(path, nb)
                said = key_result(made_with(runs, **given), path.stem, began)
                rows.append((path.stem, time.perf_counter() - clock, said))
                bar.write(f"[{n}/{len(paths)}] {path.stem}: {rows[-1][1]:.1f} s")
        finally:
            bar.close()
            if rows:
                print("\n" + closing_table(rows))
    memory, made_pages = peak_memory(), Path(runs) / "series"
    site.build(sorted(made_pages.glob("*.ipynb")), made_pages)
    print(
        f"\n{sum(seconds for _, seconds, _ in rows):.0f} seconds in all"
        + (f", at most {memory / 2**30:.1f} GiB of memory in one chapter" if memory else "")
        + f". To read the executed chapters, open {made_pages / paths[0].stem}.html"
    )


def absolute(path):
    """A path as kernels need it, which run in another folder; None if there is none."""
    return str(Path(path).expanduser().resolve()) if path else None


def main(arguments=None):
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_helpers.make.series",
        description=("Execute the notebooks in order; the executed copies go to runs/series/."),
    )
    parser.add_argument("--fast", action="store_true", help="a short run with smaller numbers")
    parser.add_argument("--only", nargs="+", metavar="NN", default=(), help="these chapters, such as 04 05 bug_museum")
    parser.add_argument("--deeper", action="store_true", help="the chapters of notebooks/deeper, too")
    parser.add_argument("--seed", type=int, help="the SEED of every chapter (0)")
    parser.add_argument(
        "--annotator",
        help='who labels: "you" (your labels, if there are any), somebody who labelled by link, or a simulated taste',
    )
    parser.add_argument("--model", help="the MODEL of every chapter: a folder or Hugging Face id (the embedded model)")
    parser.add_argument("--lora", type=int, metavar="RANK", help="train LoRA adapters of this rank (0: all weights)")
    parser.add_argument(
        "--preferences", metavar="FILE", help="your own preferences: a file or folder (docs/your_data.md)"
    )
    parser.add_argument("--prompts", metavar="FILE", help="your own prompts: a file or folder (docs/your_data.md)")
    parser.add_argument("--runs-dir", type=Path, help="where everything is written (runs/)")
    parser.add_argument("--refresh", action="store_true", help="put the outputs into notebooks/ too (for authors)")
    options = parser.parse_args(arguments)
    runs = (options.runs_dir or ROOT / "runs").expanduser().resolve()
    if options.refresh and runs.name != "runs":  # outputs name this folder, and a reader's has this name
        runs = runs / "runs"
    model = str(Path(options.model).resolve()) if options.model and Path(options.model).exists() else options.model
    parameters = {
        "MODEL": model,
        "FAST": options.fast or None,
        "SEED": options.seed,
        "ANNOTATOR": options.annotator,
        "LORA": options.lora,
        "PREFERENCES": absolute(options.preferences),
        "PROMPTS": absolute(options.prompts),
        "RUNS_DIR": str(runs) if options.runs_dir else None,
    }
    parameters = {name: value for name, value in parameters.items() if value is not None}
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        workspace.read_prompts(parameters.get("PROMPTS"))  # what is wrong with a file is said before anything is run
        workspace.read_preferences(parameters.get("PREFERENCES"))
        inner = [parameters.get(name, "") for name in ("PROMPTS", "PREFERENCES")]
        workspace.check_annotator(
            options.annotator or "you", workspace.made_in(runs, model or "", ROOT / "data", *inner)
        )
        run_chapters(chapters(options.only, deeper=options.deeper), runs, parameters, options.refresh)
    except WorkbookError as e:
        print(f"\n{e}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as e:
        print(f'The module {e.name} is missing; run: python -m pip install -e ".[notebooks]"', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The chapters that had ended are kept; --only runs single ones.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
