"""Small random models of many families through chapters 02 to 06: `python benchmarks/architectures.py`.

Writes results/architectures.json, from which `make stamp` makes the table of docs/architectures.md.  The families are
those of tests/families.py; `--only` measures some of them anew and keeps the others.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import matplotlib

from rlhf_helpers.engine import files, models, packing
from rlhf_helpers.engine.files import ROOT, WorkbookError

sys.path.insert(0, str(ROOT / "tests"))
import families  # noqa: E402

RESULT = Path(__file__).resolve().parent / "results" / "architectures.json"
CHAPTERS = ("02", "03", "04", "05", "06")
WORDS = {"batch_select_indices": "keys and values", "reorder_cache": "a state", None: "all again"}


def kind_of(folder):
    """What was tried of a model when it was loaded: how it reads on, packed rows, its score head; or why not."""
    try:
        model, _ = models.load_model(folder)
        judge, _ = models.load_reward_model(folder)
    except WorkbookError as e:
        return {"refused": str(e).replace(str(folder), "…")}
    return {
        "class": type(model).__name__,
        "remembers": WORDS[model.reads_on[1]],
        "packed": packing.can_pack(model),
        "own_head": bool(getattr(judge, "own", False)),
    }


def measured(name):
    with tempfile.TemporaryDirectory() as work:
        folder, began = families.language_model(Path(work) / name, name), time.perf_counter()
        row = {"family": name, **kind_of(folder)}
        if "refused" not in row:
            said = families.through(folder, Path(work) / "runs")
            row["chapters"] = {c: text.replace(work, "…")[:400] for c, text in said.items()}
        return row | {"seconds": round(time.perf_counter() - began, 1)}


def markdown(result):
    """The table of docs/architectures.md."""
    lines = ["| family | class | " + " | ".join(CHAPTERS) + " | reads on by | packed rows | score head |"]
    lines += ["|---" * (len(CHAPTERS) + 5) + "|"]
    for row in sorted(result["runs"], key=lambda r: ("refused" in r, r["family"])):
        if "refused" in row:
            lines.append(f"| {row['family']} | refused at load |" + " – |" * (len(CHAPTERS) + 3))
            continue
        marks = ["–" if c not in row["chapters"] else "no" if row["chapters"][c] else "✓" for c in CHAPTERS]
        head = "our own" if row["own_head"] else "that of transformers"
        packed = "yes" if row["packed"] else "no"
        lines.append(
            f"| {row['family']} | {row['class']} | {' | '.join(marks)} | {row['remembers']} | {packed} | {head} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description="Which architectures pass which chapters.")
    parser.add_argument("--only", nargs="+", choices=families.FAMILIES, default=list(families.FAMILIES))
    only = parser.parse_args().only
    matplotlib.use("agg")
    for name in only:
        row = measured(name)
        print(json.dumps(row, ensure_ascii=False), flush=True)
        runs = json.loads(RESULT.read_text(encoding="utf-8"))["runs"] if RESULT.exists() else []
        kept = {r["family"]: r for r in [*runs, row] if r["family"] in families.FAMILIES}
        files.write_json(RESULT, {"split": "none", "versions": files.versions(), "runs": list(kept.values())})


if __name__ == "__main__":
    main()
