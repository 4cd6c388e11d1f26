"""Training logs, from whatever program, in one vocabulary.

Read are trainer_state.json of transformers and TRL, event files of TensorBoard, the metrics of verl and OpenRLHF, the
histories of this workbook, CSV and JSON Lines, and what a trainer printed on the console.
"""

import ast
import json
import math
import re
from dataclasses import dataclass, field

import numpy as np

from ...engine.files import WorkbookError, shown
from .. import tables

# What a column is called here -> what it is called elsewhere, the most telling name first.  A leading "train/" is cut
# off before.  TRL's PPOTrainer (to 1.14) wrote "objective/", "policy/" and "val/", its predecessor (to 0.11) "env/"
# and "ppo/"; GRPOTrainer and RLOOTrainer write "completions/" and "clip_ratio/"; verl "actor/" and "critic/".
NAMES = {
    "reward": ("reward", "objective/scores", "critic/score/mean", "ppo/mean_scores", "env/reward_mean"),
    "reward_std": ("reward_std", "env/reward_std", "ppo/std_scores"),
    "non_score_reward": ("non_score_reward", "objective/non_score_reward", "ppo/mean_non_score_reward"),
    "paid": ("critic/rewards/mean",),
    "kl": ("kl", "objective/kl", "actor/reward_kl_penalty", "critic/kl", "actor/kl_loss", "kl_loss"),
    "approx_kl": ("approx_kl", "policy/approxkl_avg", "ppo/policy/approxkl", "actor/ppo_kl", "ppo_kl"),
    "clip_fraction": (
        *("clip_fraction", "policy/clipfrac_avg", "ppo/policy/clipfrac", "actor/pg_clipfrac", "ppo_clip_ratio"),
        *("clip_ratio/region_mean", "clip_ratio"),
    ),
    "ratio": ("ratio", "val/ratio"),
    "ratio_off": ("ratio_off",),
    "first_ratio_off": ("first_ratio_off",),
    "first_clip_fraction": ("first_clip_fraction",),
    "loss_mask_off": ("loss_mask_off",),
    "value_shift": ("value_shift",),
    "sampler_gap": (
        *("first_mismatch", "sampling/sampling_logp_difference/mean", "training/rollout_probs_diff_mean"),
        *("rollout_corr/k3_kl", "vllm_kl"),
    ),
    "entropy": (
        "entropy",
        "policy/entropy_avg",
        "ppo/policy/entropy",
        "actor/entropy",
        "actor/entropy_loss",
        "entropy_loss",
    ),
    "surprise": ("surprise",),
    "advantage_mean": ("advantage_mean", "critic/advantages/mean"),
    "advantage_std": ("advantage_std",),
    "length": (
        *("length", "completions/mean_length", "completion_length", "response_length/mean", "response_length"),
        *("tokens/responses_len_mean", "val/mean_response_length"),
    ),
    "shortest": ("completions/min_length", "response_length/min"),
    "longest": ("completions/max_length", "response_length/max"),
    "no_end": ("no_end", "completions/clipped_ratio", "response_length/clip_ratio", "truncated"),
    "no_spread": ("frac_reward_zero_std",),
    "value_loss": ("value_loss", "loss/value_avg", "ppo/loss/value", "critic/vf_loss", "critic_loss"),
    "explained": ("explained_variance", "critic/vf_explained_var", "ppo/val/var_explained"),
    "policy_loss": ("policy_loss", "loss/policy_avg", "ppo/loss/policy", "actor/pg_loss"),
    "grad_norm": ("grad_norm", "actor/grad_norm"),
    "lr": ("learning_rate", "lr", "actor/lr", "actor_lr", "ppo/learning_rate"),
    "loss": ("loss", "loss_mean"),
    "accuracy": ("accuracy", "rewards/accuracies", "acc", "acc_mean"),
    "margin": ("margin", "rewards/margins"),
    "mean_score": ("mean_reward", "chosen_reward"),
    "eval_loss": ("eval_loss", "eval/loss"),
    "eval_accuracy": ("eval_accuracy", "eval/accuracy", "eval_rewards/accuracies", "eval/rewards/accuracies"),
}
STEPS = ("step", "update", "global_step", "training/global_step", "steps", "episode", "_step", "epoch")
ENOUGH = 4  # rows from which on a curve can be said to rise or to fall


@dataclass
class Log:
    """A training log.  `columns`: name of `NAMES` -> (steps, values), in order; a value is NaN if it was logged so."""

    path: str
    program: str
    rows: int
    columns: dict
    called: dict = field(default_factory=dict)  # name of `NAMES` -> what the log calls it
    others: list = field(default_factory=list)  # columns of numbers that are not in `NAMES`
    begins: bool = False  # whether the first row is that of the first update alone, so that it shows how things began

    @property
    def kl_per_answer(self):
        """Whether the KL is added up over the tokens of an answer, as here and in TRL's PPO; else it is their mean."""
        return self.called.get("kl") == "objective/kl" or self.program == OURS

    def together(self, *names):
        """The finite values of some columns at the steps that all of them have: a list of arrays."""
        maps = [{s: v for s, v in zip(*self.columns[n]) if math.isfinite(v)} for n in names]
        steps = [s for s in maps[0] if all(s in m for m in maps)]
        return [np.array([m[s] for s in steps]) for m in maps]


OURS, TRL, VERL, OPENRLHF, TABLE = "this workbook", "TRL", "verl", "OpenRLHF", "a table of metrics"


# ---------------------------------------------------------------- files


def find(path):
    """The log in a folder: trainer_state.json, also of the last checkpoint, event files, or a file of metrics."""
    states = sorted(path.rglob("trainer_state.json"), key=lambda p: (len(p.parts) == len(path.parts) + 1, last_step(p)))
    if states:
        return states[-1]
    if any(path.rglob("*tfevents*")):
        return path
    named = [p for p in sorted(path.iterdir()) if p.is_file() and re.search(r"metric|history|log|run\.json", p.name)]
    usable = [p for p in named if tables.kind_of(p) in (*tables.KINDS, ".log", ".txt")]
    if usable:
        return usable[0]
    raise WorkbookError(
        f"The folder {shown(str(path), 300)} holds no training log: no trainer_state.json, no event files of "
        "TensorBoard, and no file whose name has metrics, history or log in it. Name the file itself."
    )


def last_step(path):
    """The number in checkpoint-500, or 0."""
    found = re.search(r"checkpoint-(\d+)", str(path))
    return int(found[1]) if found else 0


def read(path):
    """The `Log` in a file or folder.  Raises WorkbookError, in one sentence, where there is none."""
    path = tables.home(path)
    if not path.exists():
        raise WorkbookError(f"There is no file or folder {shown(str(path), 300)}. Check the path.")
    source = find(path) if path.is_dir() else path
    rows = from_events(source) if source.is_dir() or "tfevents" in source.name else from_file(source)
    return log_of(rows, str(source))


def from_file(path):
    """The rows of a file: dicts of what was logged, one for each time that something was."""
    kind = tables.kind_of(path)
    if kind in (".csv", ".tsv", ".parquet", ".arrow"):
        return [value for _, _, value in tables.rows_of_file(path)]
    data = tables.content(path)
    if not data.strip(b"\xef\xbb\xbf\xff\xfe \r\n\t\0"):
        raise WorkbookError(f"{path} is empty.")
    try:
        whole = json.loads(tables.utf8(data, path))
    except (ValueError, RecursionError):
        whole = None
    if whole is not None:
        return history_in(whole, path)
    rows = [r for line in tables.text_of(data, path).splitlines() if (r := row_of(line))]
    if not rows:
        raise WorkbookError(
            f"{path} holds no training log that can be read here: neither JSON, JSON Lines or CSV, nor lines such as "
            "{'loss': 0.69, 'step': 1} or step:1 - actor/entropy:0.9."
        )
    return rows


def history_in(whole, path):
    """The rows in a JSON value: a list of dicts, alone or under a name, or columns under their names."""
    if isinstance(whole, dict):
        for name in ("log_history", "history", "metrics", *tables.HOLDERS):
            inner = whole.get(name)
            if tables.is_rows(inner) or isinstance(inner, dict) and is_columns(inner):
                return history_in(inner, path)
            if name == "log_history" and inner == []:
                raise WorkbookError(f"{path} was saved before anything was logged: its log_history is empty.")
        if is_columns(whole):
            length = min(map(len, whole.values()))
            return [{k: v[i] for k, v in whole.items()} for i in range(length)]
        return [whole]
    if tables.is_rows(whole):
        return whole
    raise WorkbookError(f"{path} holds no training log: rows of numbers are wanted, such as a list of JSON objects.")


def is_columns(value):
    """Whether a dict is a table by columns: lists of numbers."""
    lists = [v for v in value.values() if isinstance(v, list)]
    return len(lists) == len(value) > 0 and all(v and all(number(x) is not None for x in v) for v in lists)


PAIR = re.compile(r"([\w@/.\-]+):\s*(?:np\.\w+\()?([-+]?(?:\d[\d.]*(?:e[-+]?\d+)?|nan|inf))", re.I)


def row_of(line):
    """What one line of a log says: JSON, the repr of a dict, or verl's "step:1 - name:value - ..."; else None."""
    start, end = line.find("{"), line.rfind("}")
    if 0 <= start < end:
        text = line[start : end + 1]
        for reader in (json.loads, ast.literal_eval):
            try:
                found = reader(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                continue
            return found if isinstance(found, dict) else None
    verl = re.search(r"\bstep:\d+ - .*", line)
    return dict(PAIR.findall(verl[0])) if verl else None


def from_events(path):
    """The rows of TensorBoard's event files, in a folder and below it."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise WorkbookError(
            "Reading TensorBoard's event files takes the package tensorboard: run python -m pip install tensorboard, "
            "or save the curves as CSV."
        ) from None
    folders = sorted({p.parent for p in path.rglob("*tfevents*")}) if path.is_dir() else [path]
    rows = {}
    for folder in folders:
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                rows.setdefault(event.step, {"step": event.step})[tag] = event.value
    return [rows[step] for step in sorted(rows)]


# ---------------------------------------------------------------- one vocabulary


def number(value):
    """A float of what may be one in a log, "" and None and texts being none; True and False neither."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def flat(row):
    """A row without its wrapping: verl's file has {"step": 1, "data": {…}}."""
    inner = row.get("data")
    return {**{k: v for k, v in row.items() if k != "data"}, **inner} if isinstance(inner, dict) else row


def plain(name):
    """A name of a column without what a tracker puts before and after it: "run-1 - train/kl" is kl."""
    name = str(name).strip().lower()
    if name.endswith(("__min", "__max")):
        return ""
    return re.sub(r"^train/(?!$)", "", name.rsplit(" - ", 1)[-1].strip())


def program_of(names):
    """Which program writes columns of these names, as far as they tell."""
    said = " ".join(sorted(names))
    if {"first_ratio_off", "update"} & names and {"reward", "clip_fraction"} & names or {"dropped", "margin"} <= names:
        return OURS
    if re.search(r"(^| )(actor|critic)/", said):
        return VERL
    if {"policy_loss", "critic_loss", "response_length", "actor_lr"} & names:
        return OPENRLHF
    trl = r"(^| )(completions/|objective/|ppo/|env/reward|clip_ratio|num_tokens|completion_length|mean_reward|rewards/)"
    return TRL if re.search(trl, said) else TABLE


def log_of(rows, path):
    """The `Log` of rows as they were logged; WorkbookError where nothing in them is known."""
    rows = [{plain(k): v for k, v in flat(r).items() if plain(k)} for r in rows if isinstance(r, dict)]
    rows = [r for r in rows if any(number(v) is not None for v in r.values())]
    names = {k for r in rows for k, v in r.items() if number(v) is not None}
    if not rows:
        raise WorkbookError(f"{path} holds no numbers, so it is no training log.")
    clock = next((s for s in STEPS if sum(number(r.get(s)) is not None for r in rows) >= 0.9 * len(rows)), None)
    steps = [number(r.get(clock)) if clock else None for r in rows]
    counts = clock in ("step", "update", "global_step", "training/global_step")  # others count something else
    if not counts:
        steps = list(range(1, len(rows) + 1))
    columns, called = {}, {}
    for name, aliases in NAMES.items():
        alias = next((a for a in aliases if a in names), None)
        if alias:
            columns[name], called[name] = column(rows, steps, alias), alias
    if not set(columns) - {"lr", "grad_norm"}:
        raise WorkbookError(
            f"{path} is no training log of RLHF that the doctor knows: of its columns "
            f"({', '.join(shown(n, 30) for n in sorted(names)[:8])}) none is a reward, a KL, an entropy, a length or a "
            "loss. Rename them as in docs/diagnosis.md."
        )
    rest = sorted(names - set(called.values()) - set(STEPS))
    begins = counts and min(steps[0] for steps, _ in columns.values()) <= 1
    return Log(path, program_of(names), len(rows), columns, called, rest, bool(begins))


def column(rows, steps, name):
    """(steps, values) of one column; of two values at one step the last counts, as after a restart."""
    found = {}
    for n, (row, step) in enumerate(zip(rows, steps), 1):
        value = number(row.get(name))
        if value is not None:
            found[n if step is None or math.isnan(step) else step] = value
    ordered = sorted(found.items())
    return np.array([s for s, _ in ordered]), np.array([v for _, v in ordered])
