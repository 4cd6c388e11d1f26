"""Preferences and a reward model, examined: how right, how sure, how biased, and whether texts are read rightly.

The model is any sequence classifier of one label, or of two, whose score is then the good one less the bad one.  It is
read as it is, with its own tokenizer; nothing here trains it.
"""

import math
import random
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...engine import judges, models
from ...engine.files import WorkbookError, shown
from ...lesson import feedback
from ...lesson.feedback import wilson
from .. import preferences, tables
from ..formats import Said, plain_names
from .report import Finding, Report, short

MOST = 1000  # comparisons that the model scores
FEWER = 300  # of these for what is asked several times over
SURE = 0.01  # chance of a difference by luck, below which it counts


# ---------------------------------------------------------------- the model


@dataclass
class Judge:
    """A reward model of any kind: `read(ids, mask)` gives the scores (rows,) of token ids padded on the right."""

    model: torch.nn.Module
    tokenizer: Any
    causal: bool  # whether it reads from left to right, and its score from the last token
    new: list  # names of weights that the folder did not hold
    limit: int  # tokens that it reads
    factors: list  # of its labels in the score: [1.0], or good less bad

    @torch.no_grad()
    def read(self, ids, mask):
        """Scores (rows,), read at the last real token of a causal model, wherever plain transformers would look."""
        if not self.causal:
            return self.one_number(self.model(input_ids=ids, attention_mask=mask).logits)
        hidden = self.model.base_model(ids, attention_mask=mask).last_hidden_state
        last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(-1)
        hidden = hidden[torch.arange(len(ids), device=ids.device), last]
        return self.one_number(self.model.score(hidden.to(self.model.score.weight.dtype)))

    def score(self, rows, batch_size=64):
        """Scores of lists of token ids: an array (rows,).  Rows of like length go together."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        out, device = np.zeros(len(rows)), next(self.model.parameters()).device
        for i in range(0, len(rows), batch_size):
            some = order[i : i + batch_size]
            ids, mask = models.pad([rows[j] for j in some], self.pad_id, device=device)
            out[some] = self.read(ids, mask).float().cpu().numpy()
        return out

    def one_number(self, logits):
        """Scores (rows,) of logits (rows, labels)."""
        return logits @ logits.new_tensor(self.factors)

    @property
    def pad_id(self):
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else self.tokenizer.eos_token_id or 0


def load(source, device="cpu"):
    """The `Judge` in a folder or on the hub.  Raises WorkbookError, in one sentence, for what is none."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                source, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
    except Exception as e:  # whatever a damaged or foreign folder makes the libraries say
        reason = str(e).strip().splitlines()[0][:200] if str(e).strip() else type(e).__name__
        raise WorkbookError(
            f"The reward model {shown(str(source), 200)} cannot be loaded; it must be a folder, or an id on the "
            f"Hugging Face hub, that AutoModelForSequenceClassification reads. ({reason})"
        ) from None
    factors = judges.signs(model.config, source)
    causal = hasattr(model, "score") and hasattr(model, "base_model") and not model.config.is_encoder_decoder
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048
    limit -= 2 if "roberta" in model.config.model_type else 0  # its positions begin at 2
    return Judge(model.to(device).eval(), tokenizer, causal, sorted(loading["missing_keys"]), limit, factors)


# ---------------------------------------------------------------- how a text is read


def as_taught(judge, prompts, answers):
    """Token ids of prompts with answers: the chat template where there is one, end token included.

    A model that reads in both directions gets them as a pair of texts, as its pre-training did.
    """
    tokenizer = judge.tokenizer
    if not judge.causal and not tokenizer.chat_template:
        return tokenizer(prompts, answers, truncation=True, max_length=judge.limit)["input_ids"]
    if tokenizer.eos_token_id is None:
        return plainly(judge, prompts, answers)
    asked, said = models.prompts_ids(tokenizer, prompts), models.responses_ids(tokenizer, answers)
    return [(p + a)[-judge.limit :] for p, a in zip(asked, said, strict=True)]


def plainly(judge, prompts, answers, between=" "):
    """Prompt and answer as one text without a template, end token included, as TRL trains on plain preferences."""
    texts = [f"{p}{between}{a}" for p, a in zip(prompts, answers, strict=True)]
    end = [judge.tokenizer.eos_token_id] if judge.causal and judge.tokenizer.eos_token_id is not None else []
    return [(ids + end)[-judge.limit :] for ids in judge.tokenizer(texts)["input_ids"]]


def apart(judge, prompts, answers):
    """As `plainly`, with an empty line between the two."""
    return plainly(judge, prompts, answers, "\n\n")


def endless(judge, prompts, answers):
    """As taught, without the last token."""
    return [ids[:-1] for ids in as_taught(judge, prompts, answers)]


def twice_begun(judge, prompts, answers):
    """As taught, with one more token at the start that begins a text."""
    first = judge.tokenizer.bos_token_id
    rows = as_taught(judge, prompts, answers)
    return [[first, *ids][: judge.limit] for ids in rows] if first is not None else rows


READINGS = {
    "no template": plainly,
    "no template but an empty line": apart,
    "no end token": endless,
    "one more start token": twice_begun,
}


# ---------------------------------------------------------------- arithmetic


def share(right, groups=None):
    """(share, low, high) of an array of 0, 1 and one half, with a 95% interval.

    groups: what belongs together, such as comparisons of one prompt; where some do, the interval is that of the groups.
    """
    n, mean = len(right), float(np.mean(right)) if len(right) else math.nan
    if groups is None or len(set(groups)) in (0, 1, n):
        return mean, *wilson(float(np.sum(right)), n)
    sums = Counter()
    for g, r in zip(groups, right):
        sums[g] += r - mean
    half = 1.96 * math.sqrt(sum(s * s for s in sums.values())) / n
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def said(triple, digits=1):
    """A share and its interval as a text."""
    mean, low, high = triple
    return f"{mean:.{digits}%} ({low:.{digits}%} to {high:.{digits}%})"


def order(gap):
    """1 where a gap is above 0, 0 below, one half at 0."""
    return (gap > 0) + 0.5 * (gap == 0)


def by_luck(wins, losses):
    """The chance of a split at least as uneven between two equal sides (the sign test), two-sided."""
    n, k = wins + losses, max(wins, losses)
    if not n:
        return 1.0
    tail = sum(
        math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2))
        for i in range(k, n + 1)
    )
    return min(1.0, 2 * tail)


def nats(gap, scale=1.0):
    """Mean of -log sigmoid of the gaps times `scale`."""
    return float(np.mean(np.logaddexp(0, -scale * gap)))


def best_scale(gap):
    """The factor by which gaps are most likely: 1 is calibrated, below 1 the model is too sure.

    Between 0 and 20; the loss is convex in it.
    """
    low, high = 0.0, 20.0
    for _ in range(60):
        third = (high - low) / 3
        low, high = (low + third, high) if nats(gap, low + third) > nats(gap, high - third) else (low, high - third)
    return (low + high) / 2


def calibration(gap, bins=5):
    """[(pairs, how sure on average, share right with its interval)] of the bins that hold any, from a half to 1."""
    sure, right, out = 1 / (1 + np.exp(-np.abs(gap))), order(gap), []
    edges = np.linspace(0.5, 1, bins + 1)
    for low, high in zip(edges, edges[1:]):
        some = (sure >= low) & ((sure < high) | (high == 1))
        if some.any():
            out.append((int(some.sum()), float(sure[some].mean()), share(right[some])))
    return out


# ---------------------------------------------------------------- the data


def votes(found):
    """{(prompt, pair of answers): {who: the better answer}} of all that was said, a person's first word counting.

    Of names there may be none: then nobody can tell a second label from a copied row.
    """
    out = {}
    for _, who, x in found:
        if isinstance(x, Said) and not x.tie and not x.open and who:
            out.setdefault((x.prompt, frozenset((x.better, x.worse))), {}).setdefault(who, x.better)
    return out


def agreement(found):
    """(agreeing, all) pairs of labels that different people gave the same two answers."""
    agree = every = 0
    for given in votes(found).values():
        for n in Counter(given.values()).values():
            agree += n * (n - 1) // 2
        every += len(given) * (len(given) - 1) // 2
    return agree, every


def ceiling(agreed):
    """The best accuracy on labels on which two people agree in this share, if every pair is as clear as the others."""
    return (1 + math.sqrt(max(0.0, 2 * agreed - 1))) / 2


def first_is_better(row, better, worse):
    """Whether the answer that stands first in a row of the file is the better one; None where it can't be told."""
    if not isinstance(row.value, dict):
        return None
    fields = plain_names(row.value)
    if "chosen" in fields or "rejected" in fields:
        return None
    left = fields.get("left")
    if isinstance(left, str) and isinstance(fields.get(f"response_{left}"), str):
        return fields[f"response_{left}"].strip() == better
    for value in fields.values():
        if isinstance(value, str) and value.strip() in (better, worse):
            return value.strip() == better
    return None


def from_file(path):
    """(preferences, what was said of it in each row, first answers better) of a file or folder."""
    rows, _ = tables.read(path, "--preferences")
    data = preferences.read(path, "--preferences")
    found = from_log(path) if preferences.is_log(rows) else preferences.outcomes(rows)[0]
    sides = [first_is_better(row, x.better, x.worse) for row, _, x in found if isinstance(x, Said) and not x.tie]
    return data, found, [s for s in sides if s is not None]


def from_log(path):
    """What this workbook's labels say; a repeat by the same person counts as another's label: it shows the noise."""
    out, seen = [], Counter()
    for label in feedback.replay(feedback.read_events(tables.home(path))[0]):
        if label["choice"] in ("a", "b"):
            better, worse = ("a", "b") if label["choice"] == "a" else ("b", "a")
            key = (label["annotator"], *feedback.pair_key(label))
            seen[key] += 1
            x = Said(label["prompt"], label[f"response_{better}"].strip(), label[f"response_{worse}"].strip())
            out.append((tables.Row("", "", label), f"{label['annotator']} {seen[key]}", x))
    return out


# ---------------------------------------------------------------- what looks wrong in the data


TOO_MANY = {  # reason of `preferences`: (share that is too much, causes, check)
    "contradictions": (
        0.02,
        ("labels by several people without their names", "rows whose sides were swapped"),
        "keep the annotator's name beside each label, and look at that row",
    ),
    "duplicates": (
        0.05,
        ("files that were joined twice",),
        "drop them before the split, or they stand on both sides of it",
    ),
    "equal answers": (
        0.05,
        ("a sampler that repeats itself, or texts that were cut",),
        "drop them: their loss is ln 2, whatever is learned",
    ),
}


def data_findings(data, found, sides, report):
    """Findings about the preferences alone; what was measured goes to the facts of the `report`."""
    left, facts = data.left_out, report.facts
    facts["comparisons"] = f"{len(data.rows):,} of {data.read:,} rows"
    if left:
        facts["left out"] = ", ".join(f"{why} {n:,}" for why, n in left.most_common())
    n = len(data.rows) + sum(left.values())
    for why, (bound, causes, check) in TOO_MANY.items():
        if left[why] > bound * n:
            seen = f"{left[why]:,} of {n:,} comparisons, the first at {data.where.get(why, '?')}"
            yield Finding(f"many {why}", seen, causes, check)
    yield from split_findings(data.rows)
    yield from side_findings(sides, report)
    longer = np.array([len(r["chosen"]) - len(r["rejected"]) for r in data.rows])
    if longer.any():
        facts["chosen is the longer"] = said(share(order(longer[longer != 0])))
    agree, every = agreement(found)
    if every < 20:
        report.unseen.append(
            "The noise ceiling: too few pairs were labelled by two people whose names the file gives. Have 100 pairs "
            "labelled twice."
        )
        return
    agreed = agree / every, *wilson(agree, every)
    facts["labellers agree"] = said(agreed)
    facts["so the noise ceiling is"] = said(tuple(map(ceiling, agreed)))


def split_findings(rows):
    """Prompts that stand in more than one split of the file."""
    splits = Counter(prompt for prompt, split in {(r["prompt"], r["split"]) for r in rows} if split)
    both = sorted(p for p, n in splits.items() if n > 1)
    if both:
        yield Finding(
            "prompts on both sides of the split",
            f"{len(both):,}, such as {shown(both[0], 60)}",
            ("a split by row",),
            "split by prompt; what is measured on these prompts is too good",
        )


def side_findings(sides, report):
    """Whether the answer that stands first is chosen more often than the other."""
    if len(sides) < 30:
        report.unseen.append("Position bias: the file does not say which answer stood first.")
        return
    first = share(np.array(sides, float))
    report.facts["the first is chosen"] = said(first)
    if first[1] > 0.5 or first[2] < 0.5:
        yield Finding(
            "the side on which an answer stands decides",
            f"the first one is chosen in {said(first)}",
            ("people prefer a side", "a file that is sorted: then this is no bias"),
            "show the sides in random order, and store which was where",
        )


# ---------------------------------------------------------------- what looks wrong in the model


def model_findings(judge, rows, found, report, seed=0):
    """Findings about the model on preference rows; what was measured goes to the facts of the `report`."""
    prompts = [r["prompt"] for r in rows]
    ids = [as_taught(judge, prompts, [r[side] for r in rows]) for side in ("chosen", "rejected")]
    scores = np.stack([judge.score(x) for x in ids])
    gap, facts = scores[0] - scores[1], report.facts
    if not np.isfinite(scores).all():
        raise WorkbookError(
            "The reward model gives scores that are not finite; it can't be examined. Look at its weights."
        )
    if judge.new:
        yield Finding(
            "weights that the folder does not hold",
            f"{len(judge.new)}, such as {judge.new[0]}",
            ("a language model, or a head of another name: these weights are random",),
            "save the model with its head, by save_pretrained of the class that trained it",
        )
    yield from accuracy_findings(gap, rows, found, facts)
    yield from scale_findings(gap, scores, facts)
    yield from length_findings(gap, rows, facts)
    yield from cut_findings(judge, ids, facts)
    few = rows[:FEWER]
    yield from reading_findings(judge, few, order(gap[:FEWER]), facts)
    yield from padding_findings(judge, ids[0][:8], scores[0].std(), facts)
    yield from minimal_findings(judge, few, scores[0][:FEWER], facts, seed)


def accuracy_findings(gap, rows, found, facts):
    right = order(gap)
    accuracy = share(right, [r["prompt"] for r in rows])
    facts["accuracy"] = said(accuracy)
    agree, every = agreement(found)
    if every >= 20:
        best = ceiling(agree / every)
        top = ceiling(wilson(agree, every)[1])
        facts["accuracy over the ceiling"] = f"{accuracy[0] - best:+.1%}"
        if accuracy[1] > top:
            yield Finding(
                "more right than noisy labels allow",
                f"{said(accuracy)}, ceiling {best:.1%} (up to {top:.1%})",
                ("the model has seen these very labels", "pairs differ in how clear they are"),
                "measure on prompts that it has never seen",
                ask=True,
            )
    for who, n in Counter(r["annotator"] for r in rows).most_common(4):
        mine = np.array([r["annotator"] == who for r in rows])
        if who and 30 <= n < len(rows):
            facts[f"accuracy on {who}"] = said(share(right[mine]))
    if accuracy[2] < 0.5:
        yield Finding(
            "the order is upside down",
            f"accuracy {said(accuracy)}",
            ("chosen and rejected were swapped in training or in this file", "a score of which low is good"),
            "score ten answers by hand",
        )
    elif accuracy[1] < 0.5:
        yield Finding(
            "no better than a coin",
            f"accuracy {said(accuracy)} on {len(rows):,} comparisons",
            (
                "a head that was never trained",
                "another template, tokenizer or taste than in training",
                "too few comparisons to tell",
            ),
            "measure on the pairs it was trained on: if it is a coin there too, it is not read as it was trained",
        )
    if len(rows) >= 50 and np.all(right == 1):
        yield Finding(
            "right on every comparison",
            f"all {len(rows):,}",
            ("the model was trained on this file",),
            "measure on prompts that it has never seen",
            ask=True,
        )


def scale_findings(gap, scores, facts):
    facts["margin"] = f"mean {gap.mean():.2f}, median {np.median(gap):.2f}, below 0.1 in {np.mean(abs(gap) < 0.1):.0%}"
    facts["scores"] = f"mean {scores.mean():.2f}, standard deviation {scores.std():.2f}"
    facts["loss"] = f"{nats(gap):.3f} nats (a coin has 0.693)"
    bins = calibration(gap)
    off = sum(n * abs(sure - s[0]) for n, sure, s in bins) / len(gap)
    scale = best_scale(gap)
    facts["calibration"] = f"off by {off:.1%} on average; best with scores times {scale:.2g}"
    apart = [(n, sure, s) for n, sure, s in bins if n >= 20 and not s[1] <= sure <= s[2]]
    if apart and off > 0.1:
        n, sure, s = max(apart, key=lambda x: abs(x[1] - x[2][0]) * x[0])
        yield Finding(
            "the model is much too sure" if scale < 1 else "the model is much too modest",
            f"where it is {sure:.0%} sure it is right in {said(s)} of {n} comparisons",
            ("several epochs over few pairs", "other answers than it was trained on")
            if scale < 1
            else ("training that ended early", "a learning rate that was too low"),
            f"multiply the scores by {scale:.2g}, which changes no order; PPO's beta counts in their units",
        )
    if scores.std() < 1e-4 * max(1.0, abs(scores.mean())):
        yield Finding(
            "all answers get the same score",
            f"standard deviation {scores.std():.2g}",
            ("the score is read from a token that all texts share, such as padding or the end of the prompt",),
            "score two very different answers to one prompt",
        )


def length_findings(gap, rows, facts):
    longer = np.array([len(r["chosen"]) - len(r["rejected"]) for r in rows])
    right = order(gap)
    up, down = longer > 0, longer < 0
    rule = np.mean(order(longer))
    facts["right where the longer is chosen, where the shorter"] = (
        f"{right[up].mean():.1%}, {right[down].mean():.1%}" if up.any() and down.any() else "-"
    )
    picks = order(gap * np.sign(longer))[longer != 0]
    likes = share(picks)
    facts["the model picks the longer"] = said(likes)
    truth = np.mean(order(longer[longer != 0]))
    best = max(rule, 1 - rule)
    facts["accuracy of length alone"] = f"{best:.1%}"
    if min(up.sum(), down.sum()) >= 20:
        a, b = share(right[up]), share(right[down])
        if a[1] - b[2] > 0.05 or b[1] - a[2] > 0.05:
            which = ("longer", a, b) if a[0] > b[0] else ("shorter", b, a)
            yield Finding(
                f"the model leans to the {which[0]} answer",
                f"right in {said(which[1])} where people chose it and in {said(which[2])} where they chose the other; "
                f"it picks the longer in {likes[0]:.0%}, people in {truth:.0%}",
                ("length in the training pairs went along with being chosen",),
                "compare at like length; add pairs in which the better answer is the "
                + ("shorter" if which[0] == "longer" else "longer"),
            )
    wins = int(np.sum((right == 1) & (order(longer * (1 if rule >= 0.5 else -1)) < 1)))
    losses = int(np.sum((right == 0) & (order(longer * (1 if rule >= 0.5 else -1)) == 1)))
    if best > 0.6 and wins <= losses:
        yield Finding(
            "counting characters does as well",
            f"length alone is right in {best:.1%}, the model in {right.mean():.1%}",
            ("the model has learned length and little else", "the preferences are mostly about length"),
            "measure on pairs of like length",
        )


def cut_findings(judge, ids, facts):
    same = sum(a == b for a, b in zip(*ids))
    long = sum(max(map(len, pair)) >= judge.limit for pair in zip(*ids))
    longest = max(len(x) for side in ids for x in side)
    facts["longest text"] = f"{longest} tokens of {judge.limit:,} that the model reads"
    if same:
        yield Finding(
            "comparisons whose two sides are the same tokens",
            f"{same} of {len(ids[0])}",
            ("the texts differ after the model's limit only, or in what the tokenizer drops",),
            "drop them: their loss is ln 2, whatever is learned",
        )
    if long > 0.02 * len(ids[0]):
        yield Finding(
            "texts longer than the model reads",
            f"{long} of {len(ids[0])} comparisons, limit {judge.limit:,}",
            ("the end is cut off, and with it the place where the score is read",),
            "leave them out, or cut the prompt from the left",
        )


def reading_findings(judge, rows, right, facts):
    """Other ways to write the same text: one that is better than the expected one is how the model was trained."""
    prompts, told = [r["prompt"] for r in rows], []
    for name, read in READINGS.items():
        a, b = (judge.score(read(judge, prompts, [r[s] for r in rows])) for s in ("chosen", "rejected"))
        other = order(a - b)
        told.append(f"{name} {other.mean():.1%}")
        wins, losses = int(np.sum(other > right)), int(np.sum(other < right))
        if wins > losses and by_luck(wins, losses) < SURE:
            yield Finding(
                f"the model is better with {name}",
                f"accuracy {other.mean():.1%} against {right.mean():.1%} on {len(rows)} comparisons (by luck: "
                f"{by_luck(wins, losses):.1g})",
                ("it was trained on texts of another form than its tokenizer writes",),
                "let trainer, this check and PPO write the same token ids: print those of one pair in each",
            )
    facts["accuracy with other forms"] = ", ".join(told)
    if judge.tokenizer.bos_token_id is not None:
        first = judge.tokenizer.bos_token_id
        double = sum(ids[:2] == [first, first] for ids in as_taught(judge, prompts, [r["chosen"] for r in rows]))
        if double and judge.tokenizer.bos_token_id != judge.tokenizer.eos_token_id:
            yield Finding(
                "texts that begin twice",
                f"{double} of {len(rows)} begin with two start tokens",
                ("the chat template writes one and the tokenizer another",),
                "call the tokenizer with add_special_tokens=False after a template",
            )


def padding_findings(judge, ids, spread, facts):
    """The same texts alone and in a batch, by the model itself as transformers runs it."""
    device = next(judge.model.parameters()).device
    alone = np.array([judge.score([x])[0] for x in ids])
    moved = {}
    for side in ("right", "left") if judge.causal else ("right",):
        batch, mask = models.pad(ids, judge.pad_id, side, device)
        try:
            with torch.no_grad():
                scores = (
                    judge.one_number(judge.model(input_ids=batch, attention_mask=mask).logits).float().cpu().numpy()
                )
        except ValueError as e:
            facts["in a padded batch"] = f"refused by transformers ({str(e).splitlines()[0][:60]})"
            yield Finding(
                "plain transformers refuses a batch of this model",
                str(e).splitlines()[0][:100],
                ("its configuration names no pad token",),
                "give it one that is not the end token, or score one text at a time",
                ask=True,
            )
            return
        moved[side] = float(abs(scores - alone).max())
    facts["moved by padding"] = ", ".join(f"on the {side} {m:.2g}" for side, m in moved.items())
    if moved.get("left", 0) > 0.02 * max(spread, 1e-6):
        facts["moved by padding"] += " (learned positions: pad on the right, or pass position_ids)"
    if moved["right"] > 0.02 * max(spread, 1e-6):
        why = ["the score is read from another token than the last real one"]
        if judge.tokenizer.pad_token_id == judge.tokenizer.eos_token_id:
            why.insert(0, "the pad token is the end token, so the real end is taken for padding")
        yield Finding(
            "a score changes with the texts beside it",
            f"by up to {moved['right']:.2g} with padding on the right, where scores spread by {spread:.2g}",
            tuple(why),
            "score one text alone and in a batch; give the tokenizer a pad token of its own",
        )


# ---------------------------------------------------------------- minimal pairs


def halved(answer, rng):
    """The first half of its words."""
    words = answer.split()
    return " ".join(words[: len(words) // 2])


def shuffled(answer, rng):
    words = answer.split()
    rng.shuffle(words)
    return " ".join(words)


def said_twice(answer, rng):
    return f"{answer} {answer}"


CHANGES = {"half of itself": halved, "itself with its words shuffled": shuffled, "itself said twice": said_twice}


def minimal_findings(judge, rows, scores, facts, seed):
    """Chosen answers against what was made worse of them: halved, shuffled, repeated, answering another question."""
    rng, prompts = random.Random(seed), [r["prompt"] for r in rows]
    worse = {name: [change(r["chosen"], rng) for r in rows] for name, change in CHANGES.items()}
    worse["the answer to another question"] = swapped(rows, rng)
    shares = {}
    for name, answers in worse.items():
        some = [i for i, (r, a) in enumerate(zip(rows, answers)) if a and a != r["chosen"]]
        if len(some) < 20:
            continue
        other = judge.score(as_taught(judge, [prompts[i] for i in some], [answers[i] for i in some]))
        shares[name] = share(order(scores[some] - other))
        facts[f"an answer beats {name}"] = said(shares[name])
    turned = [f"an answer beats {n} in only {said(s)}" for n, s in shares.items() if s[2] < 0.5]
    if turned:
        yield Finding(
            "the model prefers what was made worse of an answer",
            "; ".join(turned),
            ("none of the training pairs differed in that, so a policy is free to go there", "it likes length"),
            "add such pairs, made by program, to the training; read what the policy writes after a hundred updates",
        )
    blind = [f"an answer beats {n} in {said(s)}" for n, s in shares.items() if s[1] < 0.5 <= s[2]]
    if blind:
        yield Finding(
            "the model can't tell an answer from what was made worse of it",
            "; ".join(blind),
            (
                "does anything else keep the policy from it, such as a penalty for answers that don't end? If not, it "
                "is free to go there",
                "the model reads the end of the answer, or its length, and not the prompt",
            ),
            "add such pairs, made by program, to the training; read what the policy writes after a hundred updates",
            ask=True,
        )


def swapped(rows, rng):
    """For each row the chosen answer to a question that is not its own; "" where there is none."""
    others = [r["chosen"] for r in rows]
    rng.shuffle(others)
    return [
        next((o for o in others[i:] + others[:i] if rows[i]["prompt"] and o != rows[i]["chosen"]), "")
        for i in range(len(rows))
    ]


# ---------------------------------------------------------------- both together


def examine(path, source="", device="cpu", most=MOST, seed=0):
    """The `Report` on preferences, and on the reward model `source` where one is named.

    Raises WorkbookError, in one sentence, where either cannot be read.
    """
    data, found, sides = from_file(path)
    report = Report(f"Preferences {short(data.path)}: {', '.join(data.formats)}.")
    if not data.rows:
        raise WorkbookError(f"{data.path} holds pairs that nobody has judged yet; label them in chapter 03 first.")
    judge = load(source, device) if source else None
    report.findings = list(data_findings(data, found, sides, report))
    report.about += data.notes
    if judge:
        rows = [r for r in data.rows if r["split"] in ("test", "heldout", "dev")] or data.rows
        where = " of its held-out part" if len(rows) < len(data.rows) else ""
        rows = random.Random(seed).sample(rows, most) if len(rows) > most else rows
        if len(rows) < 10:
            raise WorkbookError(
                f"{data.path} gives {len(rows)} comparisons, too few to examine a reward model; 100 say something."
            )
        kind = "reads from left to right" if judge.causal else "reads in both directions"
        report.about.append(
            f"Reward model {short(source)}: {type(judge.model).__name__}, {kind}; {len(rows):,} comparisons{where}."
        )
        report.findings += model_findings(judge, rows, found, report, seed)
        report.unseen.append("Whether the model has seen these comparisons before: only you know.")
    return report
