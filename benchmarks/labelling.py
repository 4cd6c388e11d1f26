"""What the labelling widget can do and how fast it is, from the tests: `python benchmarks/labelling.py`.

Runs the tests that stand behind each row and writes labelling.json to results/; `make stamp` takes its tables to
docs/results.md.  A row is met when all its tests passed.  Tests that cannot run here (another environment, TRL) count
from the JUnit reports that are named as arguments, such as build/colab/report.xml, which `make test-colab` writes.
"""

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

from rlhf_helpers.engine.files import ROOT, WorkbookError, write_json

RESULTS = Path(__file__).resolve().parent / "results"
TOOLS = ("Argilla 2", "Label Studio", "potato 2", "LMSYS arena", "pigeon", "superintendent", "innotater")
# feature; what the other tools do (NOTE says how to read it); the tests behind our column
FEATURES = (
    ("two answers side by side", "◐●●●◐◐◐", ("browser::test_the_answers_stack_on_a_narrow_screen",)),
    (
        "sides shuffled, and stored",
        "○○○●○○○",
        (
            "labeller::test_sides_are_mixed_the_same_for_a_seed_and_stored",
            "labeller::test_a_is_the_response_on_the_screen",
        ),
    ),
    ("tie, both bad, skip", "◐◐◐●◐◐○", ("labeller::test_clicks_label_undo_and_show_progress",)),
    ("undo", "●●●○○●●", ("labeller::test_resume_goes_on_at_the_right_pair_and_undo_reaches_back",)),
    (
        "keyboard",
        "●●●○○◐◐",
        (
            "browser::test_mouse_keyboard_restart_and_resume",
            "browser::test_single_keys_label",
            "browser::test_no_key_reaches_the_notebook[False]",
            "browser::test_no_key_reaches_the_notebook[True]",
        ),
    ),
    ("progress / time left", "◐◐◐○◐◐◐", ("labeller::test_clicks_label_undo_and_show_progress",)),
    (
        "saved at each click, safe in a crash",
        "●●●●○◐○",
        (
            "feedback::test_every_event_is_synced",
            "labeller::test_a_killed_process_leaves_every_label_that_it_confirmed",
            "browser::test_a_killed_kernel_loses_nothing",
        ),
    ),
    (
        "goes on where it was left",
        "●●●–○●◐",
        ("labeller::test_any_history_replays_to_the_same_state", "browser::test_mouse_keyboard_restart_and_resume"),
    ),
    (
        "several annotators, and their agreement",
        "◐◐●◐○◐○",
        (
            "labeller::test_notebooks_and_annotators_on_one_file_lose_nothing",
            "labeller::test_two_processes_label_into_one_file",
            "feedback::test_kappa_by_hand_and_against_scikit_learn",
        ),
    ),
    ("notes", "●●●○○○◐", ("labeller::test_strength_and_note_are_stored_and_cleared",)),
    (
        "how much better",
        "●◐●○◐◐○",
        (
            "labeller::test_strength_and_note_are_stored_and_cleared",
            "feedback::test_preferences_count_what_they_leave_out",
        ),
    ),
    (
        "attention checks or repeats",
        "○◐●○○○○",
        (
            "labeller::test_repeats_come_later_with_sides_flipped",
            "labeller::test_double_clicks_and_hasty_clicks_do_not_count",
            "browser::test_from_far_away_a_second_press_is_not_a_label",
        ),
    ),
    ("queue by a model's doubt, a share at random", "◐◐●◐○●◐", ("labeller::test_orders",)),
    (
        "export that trains in TRL",
        "◐◐●◐○○○",
        ("feedback::test_written_preferences_load_in_datasets", "feedback::test_written_preferences_train_in_trl"),
    ),
    ("contrast, focus, names for screen readers", "????◐◐?", ("browser::test_contrast_and_names_for_screen_readers",)),
    (
        "runs with Colab's versions",
        "○○○○●◐◐",
        ("colab::test_these_are_the_versions", "notebooks::test_runs_alone[03_human_feedback]"),
    ),
    (
        "without a front end, by program",
        "◐◐◐○○◐◐",
        (
            "labeller::test_simulated_labels_go_the_same_way_and_keep_their_name",
            "notebooks::test_runs_alone[03_human_feedback]",
        ),
    ),
    (
        "no text of an answer runs as a script",
        "●?●●●◐◐",
        ("labeller::test_hostile_text_is_escaped_everywhere", "browser::test_mouse_keyboard_restart_and_resume"),
    ),
)
FIGURES = ("browser::test_chapter_02_controls_redraw",)  # run for what it measures


def run_tests(tests):
    """Run `tests`; the JUnit report of pytest, as text."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        names = [t.partition("::") for t in tests]
        paths = [f"{next((ROOT / 'tests').rglob(f'test_{n}.py'))}::{rest}" for n, _, rest in names]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-o", "junit_family=xunit1", f"--junitxml={report}", *paths],
            cwd=ROOT,
        )
        if done.returncode not in (0, 1):  # 1: a test failed, which the table shows
            raise WorkbookError("pytest could not run the tests; a name in FEATURES may be out of date.")
        return report.read_text(encoding="utf-8")


def read(report):
    """({test: "passed", "failed" or "skipped"}, {figure: number}) of a JUnit report."""
    results, figures = {}, {}
    for case in ET.fromstring(report).iter("testcase"):
        name = f"{case.get('classname').removeprefix('tests.test_')}::{case.get('name')}"
        bad = case.find("failure") is not None or case.find("error") is not None
        results[name] = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
        figures |= {p.get("name"): float(p.get("value")) for p in case.iter("property")}
    return results, figures


def merge(reports):
    """One result for each test: failed if it failed anywhere, else passed if it passed somewhere."""
    results, figures = {}, {}
    for more, numbers in map(read, reports):
        figures |= numbers
        for name, result in more.items():
            both = {result, results.get(name, result)}
            results[name] = next(r for r in ("failed", "passed", "skipped") if r in both)
    wanted = {t for _, _, tests in FEATURES for t in tests}
    return {t: results.get(t, "skipped") for t in sorted(wanted)}, figures


def markdown(data):
    """What docs/results.md shows of labelling.json: the figures and the features."""

    def ours(tests):
        results = [data["results"][t] for t in tests]
        return "**no**" if "failed" in results else "not run" if "skipped" in results else "●"

    lines = [
        "| figure | |",
        "|---|---|",
        *(f"| {k} | {v:g} |" for k, v in data["figures"].items()),
        "",
        f"| feature | {' | '.join(TOOLS)} | this workbook |",
        "|---" * (len(TOOLS) + 2) + "|",
    ]
    lines += [f"| {name} | {' | '.join(others)} | {ours(tests)} |" for name, others, tests in FEATURES]
    return "\n".join(lines) + "\n\n" + NOTE


NOTE = """● yes, ◐ partly or with work, ○ no, – does not apply, ? not established. The last column is ● when all the
tests behind the row passed (their names are in `labelling.py`, their results in `labelling.json`); the other columns
were read from the tools' source or documentation in 2026. The figures are of one run in headless Chromium.
"""


def main(reports):
    tests = sorted({t for _, _, tests in FEATURES for t in tests} | set(FIGURES))
    results, figures = merge([*(Path(r).read_text(encoding="utf-8") for r in reports), run_tests(tests)])
    data = {"results": results, "figures": figures}
    write_json(RESULTS / "labelling.json", data)
    print(markdown(data))


if __name__ == "__main__":
    main(sys.argv[1:])
