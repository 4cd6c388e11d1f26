"""What a chapter asks and how it measures: the embedded world, or general prompts for what is the reader's own.

The embedded world has a gold judge.  The general prompts (`data/general_prompts.jsonl`), and those of the reader, have
none: there the labels are the reader's own or those of the simulated taste `brief`, and what a chapter calls gold is
that taste too.  No simulated judge is asked about prompts that it does not know (`Task.judges`, `annotator_for`).
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

from .. import world
from ..engine import lora, memory
from ..engine.files import WorkbookError
from ..engine.models import prompts_ids, responses_ids
from ..lesson import decoding, ppo
from ..world import annotators, measures
from . import prompts, recipe, workspace


@dataclass(frozen=True, kw_only=True)
class Task:
    """Prompts, measures and settings; the chapters use them without asking which of the two tasks it is."""

    families: dict  # prompt -> family
    splits: dict  # a name of `world.SPLITS` -> list of prompts
    measured: tuple  # the splits that tables show, by name; choices are made on "dev"
    score: Callable  # (prompt, answer) -> number: the gold score, or the simulated taste in its place
    axes: Callable  # (prompt, answer) -> dict of numbers
    quality: Callable  # (prompts, answers) -> dict of means; "gold" is that of `score`
    shares: tuple  # the names in `quality` that are shares, in [0, 1]
    compared: tuple  # the names in `axes` that chapter 03 compares two answers by
    tastes: dict  # the simulated tastes that can judge these prompts
    stand_in: str  # the taste that labels where nobody did
    users: str | Callable  # the taste of chapter 06's users
    ppo: ppo.Settings
    reward: dict  # settings of the reward model's training
    card: Callable  # (title, what, metrics, seed) -> text of a model card

    def prompts(self, split):
        """Prompts of one split ("train", "reworded", "dev" or "test"), in a fixed order."""
        return list(self.splits[split])

    def leaks(self, rows):
        """The rows, or prompts, that ask what a dev or test question asks: none, if they may be trained on."""
        if self.tastes is not GENERAL_TASTES:
            return world.leaks(rows)
        hidden = {*self.splits["dev"], *self.splits["test"]}
        return [r for r in rows if (r if isinstance(r, str) else r["prompt"]) in hidden]

    def judges(self, prompt):
        """Whether `score` and `axes` can say anything of this prompt."""
        return prompt in self.families or self.tastes is GENERAL_TASTES

    def judged(self, rows):
        """The rows whose prompts `score` and `axes` can say something of."""
        return [r for r in rows if self.judges(r["prompt"])]

    def question(self, prompt):
        """What a prompt asks, in whatever words, as a text; a prompt that the world does not know stands alone."""
        known = {} if self.tastes is GENERAL_TASTES else world.question_by_prompt()
        return str(known[prompt].key) if prompt in known else prompt


def embedded():
    """The embedded world, its gold judge, and the settings of what ships."""
    return Task(
        families={q.prompt: q.family for q in world.questions()},
        splits={s: world.prompts(s) for s in world.SPLITS},
        measured=tuple(measures.MEASURED),
        score=world.gold_score,
        axes=world.gold_axes,
        quality=measures.quality,
        shares=("right", "wrong", "in_format", "polite", "rude"),
        compared=("right", "full", "polite", "rude", "filler", "repeats", "words"),
        tastes=annotators.TASTES,
        stand_in="helpful",
        users=annotators.chatty,
        ppo=recipe.PPO,
        reward=recipe.REWARD,
        card=recipe.card,
    )


# ---------------------------------------------------------------- general prompts

GENERAL_TASTES = {"brief": annotators.brief}
PPO = ppo.Settings(updates=40, batch_size=32, minibatches=8, lr=1e-5)  # a large model wants small steps
REWARD = {"epochs": 1, "batch_size": 16, "lr": 1e-5}


def plain_axes(prompt, text):
    """What can be counted of any answer: words, sentences, repeated sentences, and whether it is empty or asks back."""
    parts = world.sentences(text)
    return {
        "words": len(text.split()),
        "sentences": len(parts),
        "repeats": len(parts) - len(set(parts)),
        "empty": int(not text.strip()),
        "asks back": int("?" in text),
    }


def plain_quality(prompts, responses):
    """Means of `plain_axes`, the share of answers that repeat themselves, and "gold", the mean of the taste `brief`."""
    axes = [plain_axes(p, r) for p, r in zip(prompts, responses)]
    means = {name: statistics.mean(float(a[name]) for a in axes) for name in axes[0]}
    return means | {
        "repetitive": statistics.mean(float(a["repeats"] > 0) for a in axes),
        "gold": statistics.mean(annotators.brief(p, r) for p, r in zip(prompts, responses)),
    }


def plain_card(title, what, metrics, seed):
    """A model card for a model that was made from the reader's own."""
    lines = "\n".join(f"| {k.replace('_', ' ')} | {v:.3f} |" for k, v in metrics.items())
    return (
        f"# {title}\n\n{what}\n\nMade with the RLHF Workbook, seed {seed}. On held-out general prompts, without a "
        f'gold judge; "gold" is the simulated taste `brief`, fewer words being better:\n\n| measure | value |\n'
        f"|---|---|\n{lines}\n"
    )


def general_splits(rows):
    """Rows with a prompt and a split -> split -> prompts.  Of those "heldout" every fourth is dev and the others test.

    None is "reworded", since nobody knows of these prompts which ask the same.  Where few are held out (or all are
    of one split), dev and test are the same prompts.
    """
    splits = {name: [r["prompt"] for r in rows if r["split"] == name] for name in (*world.SPLITS, "heldout")}
    held_out = splits.pop("heldout")
    splits["dev"] += held_out[3::4]
    splits["test"] += [p for i, p in enumerate(held_out) if i % 4 != 3]
    return splits | {"dev": splits["dev"] or splits["test"], "test": splits["test"] or splits["dev"]}


def general(data, rows=None, embedded_model=False):
    """Prompts without a gold judge: `rows` {"prompt", "family", "split"}, else those of `data`/general_prompts.jsonl.

    embedded_model: what learns is the small embedded model, which takes larger steps than others.
    """
    if rows is None:
        rows, _ = prompts.read(data / "general_prompts.jsonl", "DATA_DIR")
    return Task(
        families={r["prompt"]: r["family"] for r in rows},
        splits=general_splits(rows),
        measured=("test",),
        score=annotators.brief,
        axes=plain_axes,
        quality=plain_quality,
        shares=("empty", "asks back", "repetitive"),
        compared=("words", "sentences", "repeats", "asks back"),
        tastes=GENERAL_TASTES,
        stand_in="brief",
        users="brief",
        ppo=recipe.PPO if embedded_model else PPO,
        reward=recipe.REWARD if embedded_model else REWARD,
        card=plain_card,
    )


def annotator_for(rows, taste, seed=0, **dials):
    """A simulated annotator for pairs or labels: of the `taste`, or of `brief` where that does not know their prompts.

    Says so, since what is learned from these labels then is another taste.
    """
    unknown = [r for r in rows if not annotators.knows(taste, r["prompt"])]
    if unknown:
        print(
            f"The simulated taste {taste} knows only the embedded world, and {len(unknown)} of {len(rows)} pairs are "
            "of other prompts. The SIMULATED taste `brief`, by which fewer words are better, stands in for it."
        )
    return annotators.Annotator("brief" if unknown else taste, seed=seed, **dials)


def that_fit(ws, rows, longest):
    """The rows of prompts that leave room for an answer of `longest` tokens; says how many do not.

    Raises WorkbookError where too few are left.
    """
    tokenizer, limit = workspace.reader(ws)
    fit = [len(ids) + longest <= limit for ids in prompts_ids(tokenizer, [r["prompt"] for r in rows])]
    kept = [r for r, fits in zip(rows, fit) if fits]
    if len(kept) == len(rows):
        return rows
    words = (
        f"{len(rows) - len(kept)} of {len(rows)} prompts are longer than the {limit - longest} tokens that leave room"
    )
    if len(kept) < prompts.ENOUGH:
        raise WorkbookError(
            f"{words} for an answer, and {prompts.ENOUGH} others are needed at least. Shorten them, or "
            "choose another MODEL."
        )
    print(f"{words} for an answer; they are left out.")
    return prompts.with_splits(kept)[0]


def own_prompts(ws):
    """(rows of the reader's own prompts or None, where they are from): PROMPTS, else what PREFERENCES asks."""
    if ws.prompts is not None:
        return ws.prompts, "those of PROMPTS"
    if ws.preferences is None:
        return None, "those of general_prompts.jsonl"
    splits = {}
    for r in ws.preferences.rows:
        splits.setdefault(r["prompt"], r["split"])
    found = [{"prompt": p, "family": "own", "split": splits.get(p, "")} for p in ws.preferences.prompts()]
    if len(found) < prompts.ENOUGH:
        return None, f"those of general_prompts.jsonl, since PREFERENCES has only {len(found)}"
    return prompts.with_splits(found)[0], "those of PREFERENCES"


def choose(ws):
    """The task of a workspace; where it is not the embedded world's, or LoRA is trained, it says what is different."""
    task = chosen(ws)
    if not ws.lora:
        return task
    print(
        f"LORA is {ws.lora}: adapters of this rank are trained, with learning rates {lora.LR} times as large, and the "
        "weights of the model stay as they are."
    )
    reward = task.reward | {"lr": lora.LR * task.reward["lr"]}
    return replace(task, ppo=replace(task.ppo, lr=lora.LR * task.ppo.lr), reward=reward)


def chosen(ws):
    """The task of a workspace, with the settings for all weights."""
    if not ws.general:
        return embedded()
    rows, source = own_prompts(ws)
    print(
        f"{f'MODEL is {ws.model!r}' if ws.own_model else 'What is learned from is your own'}, so the prompts are "
        f"{source}, and what is made goes to {ws.runs.parent.name}/{ws.runs.name}. No gold judge knows these prompts. "
        "Where this chapter says gold, read the SIMULATED taste `brief`, by which fewer words are better"
        f"{', and for the fine-tuned model read MODEL' if ws.own_model else ''}."
    )
    rows = rows or prompts.read(ws.data / "general_prompts.jsonl", "DATA_DIR")[0]
    task = general(ws.data, that_fit(ws, rows, decoding.LONGEST), not ws.own_model)
    return replace(task, ppo=replace(task.ppo, max_new_tokens=decoding.LONGEST))


# ---------------------------------------------------------------- memory


def longest(ids_of, tokenizer, texts, tried=32):
    """Tokens of the longest text, by `prompts_ids` or `responses_ids`; looked for where there are most characters."""
    most = sorted(set(texts), key=len)[-tried:]
    return max(map(len, ids_of(tokenizer, most)), default=0)


def check_memory(ws, task, source, stage, rows, asked=None):
    """`memory.check` of a stage of a chapter, for its own prompts: rows as long as the longest of them will be.

    source: a model folder or hub id.  rows: of one step of training.  asked: prompts answered together; where none is
    given, those of an update of PPO, and else the rows.
    """
    tokenizer, limit = workspace.reader(ws)
    prompt = longest(prompts_ids, tokenizer, [p for some in task.splits.values() for p in some])
    answer = task.ppo.max_new_tokens
    if stage == "reward model" and ws.preferences is not None:
        said = [r[k] for r in ws.preferences.rows for k in ("chosen", "rejected")]
        answer = max(answer, longest(responses_ids, tokenizer, said))
    answer = min(answer, limit - 1)  # longer rows are left out
    asked = asked or (task.ppo.batch_size if stage == "PPO" else None)
    memory.check(source, ws.device, stage, rows, asked, ws.lora, answer, min(prompt, limit - answer))
