"""The script that measures everything on a GPU: what of it needs none."""

import argparse
import inspect
import json
import sys
import time

import pytest
import torch

from rlhf_helpers.engine.files import ROOT

VERSIONS = {"python": "3.12.3", "torch": "2.11.0"}


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    return gpu


@pytest.fixture
def options(tmp_path):
    """The options of a run on a CPU that began just now."""
    return argparse.Namespace(
        parts=["phases", "trl"],
        minutes=8.0,
        repeats=1,
        device="cpu",
        cpu=True,
        small=True,
        runs=tmp_path / "runs",
        began=time.perf_counter(),
    )


def result(**parts):
    """A result with one job for each part, of the given rows, all well."""
    jobs = [
        {"part": p, "job": "x", "seconds": 1.0, "error": "", "rows": rows, "notes": []} for p, rows in parts.items()
    ]
    return {"date": "2026-12-01", "device": "a card", "versions": VERSIONS, "small": False, "wheels": [], "jobs": jobs}


def cells(text, first):
    """The cells of the table row that begins with a cell."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [c.strip() for c in line.split("|")[2:-1]]


# ---------------------------------------------------------------- the tables


def test_the_table_of_precision(gpu):
    numbers = {"ratio": 0.011, "equality": 2e-4, "mismatch": 1.7e-3, "most": 0.02, "k3": 1e-5, "same": 0.02}
    used = {"same": 0.2, "mismatch": 0.17, "k3": 1.05}
    row = {"model": "embedded", "arithmetic": "bf16", "loop": "static cache", **numbers, "used": used}
    text = gpu.tables(result(precision=[row, {"model": "Llama", "arithmetic": "fp16", "error": "ValueError: no"}]))
    assert cells(text, "embedded model")[2:] == "1.1e-02 2.0e-04 1.7e-03 2.0e-02 1.0e-05 20.0% 17.0% 105.0%".split()
    assert cells(text, "small Llama")[:2] == ["fp16", "ValueError: no"]
    assert text.startswith("Measured on a card, 2026-12-01; python 3.12.3, torch 2.11.0.")


def test_the_table_of_phases(gpu):
    seconds = dict.fromkeys(gpu.PHASES, 0.5)
    row = {"model": "0.5B", "rows": 96, "arithmetic": "fp16"}
    whole = row | {"phases": seconds, "seconds": 4.0, "tokens": 4608, "share_of_peak": 0.2, "peak_gib": 19.51}
    text = gpu.tables(result(phases=[whole, row | {"way": "CUDA graph", "milliseconds": 4.44}]))
    assert cells(text, "tokens generated per second") == ["1,152"] and cells(text, "backward") == ["0.500"]
    assert cells(text, "ms per token step of a rollout, CUDA graph") == ["4.4"]
    assert cells(text, "ms per token step of a rollout, plain loop") == ["–"], "not measured"


def test_the_table_against_trl_pairs_by_repeat(gpu):
    def run(side, repeat, seconds):
        return {
            "model": "embedded",
            "side": side,
            "repeat": repeat,
            "tokens": 100,
            "seconds": seconds,
            "share_of_peak": None,
            "peak_gib": 2.0,
        }

    rows = [run("ours", 0, 1.0), run("ours", 1, 2.0), run("trl", 1, 10.0)]  # the first of TRL's did not end
    assert cells(gpu.tables(result(trl=rows)), "embedded model") == ["75", "10", "5.00", "2.0 and 2.0", "– and –", "1"]
    assert cells(gpu.tables(result(trl=rows[:1])), "embedded model")[:3] == ["100", "–", "–"]


def test_the_page_that_ships_is_made_of_its_numbers(gpu):
    folder = ROOT / "benchmarks" / "results"
    for name in ("precision", "gpu"):
        if (folder / f"{name}.json").exists():
            made = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            assert (folder / f"{name}.md").read_text(encoding="utf-8") == gpu.tables(made)


# ---------------------------------------------------------------- jobs


def scripts(monkeypatch, gpu, *programs):
    """Let the script's jobs be these Python programs, in which ROWS is the file for the rows."""
    monkeypatch.setattr(gpu, "jobs", lambda part, options: [(p,) for p in programs])

    def command(part, words, options, rows):
        return [sys.executable, "-c", words[0].replace("ROWS", repr(str(rows)))]

    monkeypatch.setattr(gpu, "command", command)


def run(gpu, options):
    """The results of a run, and how often they were saved."""
    made, saved = result(), []
    gpu.run_all(options, made, lambda: saved.append(json.dumps(made)))
    return made, saved


def test_a_job_that_fails_is_named_and_the_others_go_on(gpu, monkeypatch, options):
    good = """open(ROWS, "w").write('{"chapter": "05_ppo", "seconds": 12.0}\\n')"""
    fails = good + "; raise ValueError('the card is on fire')"
    scripts(monkeypatch, gpu, fails, "import os; os.abort()", good)
    options.parts = ["chapters"]
    made, saved = run(gpu, options)
    assert len(saved) == 3 and json.loads(saved[0])["jobs"], "written after each"
    first, second, third = made["jobs"]
    assert first["error"] == "ValueError: the card is on fire" and len(first["rows"]) == 1, "what it had is kept"
    assert second["error"].startswith("it ended with code -") and third["error"] == "" and third["rows"]
    assert "Not measured to its end: chapters" in gpu.tables(made) and "the card is on fire" in gpu.tables(made)


def test_a_job_that_takes_too_long_is_stopped_and_its_rows_are_kept(gpu, monkeypatch, options):
    slow = """import time; f = open(ROWS, "w"); f.write('{"a": 1}\\n{"half'); f.flush(); time.sleep(60)"""
    scripts(monkeypatch, gpu, slow)
    rows, _, why = gpu.run_job("trl", (slow,), options, 1.0)
    assert rows == [{"a": 1}] and why == "it was stopped after 1 s"


def test_a_job_for_which_no_time_is_left_is_skipped_with_a_word(gpu, monkeypatch, options):
    scripts(monkeypatch, gpu, "pass")
    monkeypatch.setattr(gpu, "RESERVE", 0)
    options.began -= 60 * 8 - 30  # of the half minute that is left the first part may take less than half
    made, _ = run(gpu, options)
    errors = [j["error"] for j in made["jobs"]]
    assert errors == ["it was skipped, since its time was used up", ""] and "skipped" in gpu.tables(made)


def test_a_job_leaves_some_time_for_those_after_it(gpu, monkeypatch, options):
    limits = []
    monkeypatch.setattr(gpu, "run_job", lambda part, words, options, seconds: limits.append(seconds) or ([], [], ""))
    monkeypatch.setattr(gpu, "RESERVE", 0)
    options.parts, options.minutes = ["chapters"], 2
    run(gpu, options)
    assert limits == pytest.approx([120 - 5 * 15, 120 - 4 * 15, 120 - 3 * 15, 120 - 2 * 15, 120 - 15, 120], abs=1)
    limits.clear()
    options.minutes = 0.5
    run(gpu, options)
    assert limits == pytest.approx([15] * 5 + [30], abs=1), "but never less than is worth a try"


def test_the_command_line_of_each_job_can_be_read(gpu, options):
    for small in (True, False):
        options.small = small
        for part in gpu.PARTS:
            for words in gpu.jobs(part, options):
                read = gpu.arguments(gpu.command(part, words, options, options.runs)[2:])
                assert read.job == [part, *words] and read.small == small and read.runs == options.runs
                inspect.signature(gpu.RUN[part]).bind(*words, read)


def test_a_job_says_what_went_wrong_in_its_last_line(gpu, options, tmp_path, capsys):
    options.job, options.rows = ["chapters", "99"], tmp_path / "rows"
    assert gpu.child(options) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("There is no chapter 99 in ")


def test_a_cpu_does_not_write_over_the_results_of_a_gpu(gpu, tmp_path):
    with pytest.raises(SystemExit, match="write over the results of a GPU"):
        gpu.arguments(["--device", "cpu", "--small"])
    with pytest.raises(SystemExit, match="only the precision can be measured"):
        gpu.arguments(["--device", "cpu", "--out", str(tmp_path)])
    assert gpu.arguments(["--device", "cpu", "--parts", "precision"]).alone
    assert not gpu.arguments(["--device", "cpu", "--small", "--out", str(tmp_path)]).alone
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="PyTorch sees none"):
            gpu.arguments([])


def test_a_wheel_that_is_missing_is_named(gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "WHEELS", {"trl": ("no-such-package-of-ours",), "chapters": ("pytest",)})
    (wrong,) = gpu.install(tmp_path, tmp_path, ["trl", "chapters"])
    assert wrong.startswith("no-such-package-of-ours could not be installed from the wheels: ERROR:")


# ---------------------------------------------------------------- what is measured


def test_what_is_timed_is_there_and_every_phase_is_in_the_table(gpu):
    for owner, name, phase in gpu.TIMED:
        assert callable(getattr(owner, name))
        assert callable(phase) or phase in gpu.PHASES
    assert {"forward", "reference"} <= set(gpu.PHASES)


def test_the_stopwatch_counts_each_second_once(gpu):
    watch = gpu.Stopwatch(torch.device("cpu"))
    inner = watch.timed(lambda: time.sleep(0.02), "forward")
    backward = watch.timed(lambda: time.sleep(0.03), "backward")
    outer = watch.timed(lambda: (inner(), backward()), "optimiser step")
    began = time.perf_counter()
    outer()
    watch.mark("rest")
    assert sum(watch.seconds.values()) == pytest.approx(time.perf_counter() - began, abs=0.01)
    assert watch.seconds["optimiser step"] >= 0.02 and watch.seconds["backward"] >= 0.03
    assert "forward" not in watch.seconds, "counted where it was called from"


def test_precision_is_measured_by_the_health_checks_own_numbers(gpu, monkeypatch):
    monkeypatch.setenv("WORKBOOK_ARITHMETIC", "")
    found = {k: gpu.measure_precision("embedded", k, torch.device("cpu"), 8, 1) for k in ("fp32", "bf16")}
    assert found["fp32"]["loop"] == "plain loop" and found["bf16"]["loop"] == "static cache"
    assert found["fp32"]["mismatch"] < 1e-5 < found["bf16"]["mismatch"]
    assert max(found["bf16"]["used"].values()) < 1
