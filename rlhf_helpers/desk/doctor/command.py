"""The command line of the doctor."""

import argparse
import sys

from ...engine.files import WorkbookError, write_text
from . import logs, report, rules

EPILOG = """examples:
  python -m rlhf_helpers.doctor out/                                   a folder with trainer_state.json or event files
  python -m rlhf_helpers.doctor metrics.jsonl                          verl's file, or any CSV or JSON Lines of metrics
  python -m rlhf_helpers.doctor --preferences pairs.jsonl              preferences alone
  python -m rlhf_helpers.doctor --preferences pairs.jsonl --model rm/  and a reward model

exit status: 0 nothing found (questions don't count), 1 something found, 2 the input could not be read"""


def parsed(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_helpers.doctor",
        description="What is wrong with a training log, or with preferences and a reward model?",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "log", nargs="*", help="training logs: files or folders of TRL, verl, OpenRLHF, TensorBoard, CSV"
    )
    parser.add_argument("--preferences", metavar="FILE", help="preferences in any format of docs/your_data.md")
    parser.add_argument("--model", metavar="FOLDER", default="", help="a reward model: any sequence classifier")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=1000, help="score at most this many comparisons")
    parser.add_argument("--markdown", metavar="FILE", help="write the reports as Markdown, too")
    args = parser.parse_args(arguments)
    if not args.log and not args.preferences:
        parser.error("name a training log, or --preferences")
    if args.model and not args.preferences:
        parser.error("--model takes --preferences: a reward model is examined on comparisons")
    return args


def main(arguments=None):
    """Print the reports; returns the exit status."""
    args = parsed(arguments)
    try:
        reports = [rules.examine(logs.read(path)) for path in args.log]
        if args.preferences:
            from . import scores  # with torch, which a log does not need

            reports.append(scores.examine(args.preferences, args.model, args.device, args.rows))
        print("\n\n".join(map(report.as_text, reports)))
        if args.markdown:
            write_text(args.markdown, "\n\n".join(map(report.as_markdown, reports)) + "\n")
    except WorkbookError as e:
        print(e, file=sys.stderr)
        return 2
    return int(any(r.alarms for r in reports))
