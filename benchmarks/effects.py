"""What RLHF does to a model, over seeds: `python benchmarks/effects.py`.

Each seed makes one PPO run by each of `ARMS` from data/models/finetuned, all with the settings of `SETTINGS`.  Those
of `OURS` are judged by data/models/reward; those of `ANNOTATORS` each by what a simulated annotator likes, as though
there were labels without end.  Measured are the diversity
of answers to one question and across questions, what of the gain in reward comes with length, right answers, what the
annotators like, calibration, perplexity on the pre-training text, the KL, and what the critic explains.  `--dev`
measures one seed on dev questions, for choosing settings, and writes nothing; else all is measured on test questions,
and effects.json is written after every run, so that an interrupted benchmark goes on: seed after seed, so that what
is there is a table.
"""

import argparse
import copy
import dataclasses
import math
import random
import statistics
import time
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from verifiable import above, within
from verifiable import both as both_hold

from rlhf_helpers import world
from rlhf_helpers.desk import recipe
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, versions, write_json
from rlhf_helpers.engine.models import position_ids
from rlhf_helpers.lesson import alternatives, lm, ppo, replaced, reward
from rlhf_helpers.lesson.decoding import generate
from rlhf_helpers.lesson.loop import sample_answers
from rlhf_helpers.make.stamp import begun, with_interval
from rlhf_helpers.world import measures
from rlhf_helpers.world.annotators import Annotator

RESULTS = Path(__file__).resolve().parent / "results"
SETTINGS = dataclasses.replace(recipe.PPO, updates=16)  # the build takes 120
TRIES, QUESTIONS = 16, 60  # answers to each question where diversity is measured, and how many questions
HIGH, TARGET, RATE = 0.3, 2.0, 1.0  # a penalty ten times as high as ours; nats; how fast the controller corrects
MIX = 0.1  # weight of the pre-training loss in PPO-ptx
SEEDS = 5
OURS = ("PPO", "critic", "no critic", "high penalty", "adaptive penalty", "PPO-ptx")


def pleasant(prompt, answer):
    """A taste that likes greetings and kind words, minds rudeness, and does not ask what is true."""
    a = world.gold_axes(prompt, answer)
    kind = 1.2 * a["polite"] + 0.8 * a["greeting"]
    return kind - 2.5 * a["rude"] - 0.5 * a["broken"]


ANNOTATORS = {
    "careful": {"taste": "helpful"},
    "flattered": {"taste": pleasant},
    "wordy": {"taste": "helpful", "length_bias": 0.5},
}
ARMS = ("fine-tuned", *OURS, *ANNOTATORS)


# ---------------------------------------------------------------- what is measured; the chapter shows these


def grams(texts, n):
    """All runs of n words in some texts, repeats included: a list."""
    words = [t.split() for t in texts]
    return [tuple(w[i : i + n]) for w in words for i in range(len(w) - n + 1)]


def ead(texts, known, n=2):
    """Distinct n-grams over how many as many draws from `known` would show."""
    drawn = grams(texts, n)
    expected = known * (1 - (1 - 1 / known) ** len(drawn))
    return len(set(drawn)) / expected if drawn else 0.0


def diversity(said, known):
    """EAD of the answers to one question and across questions; said: a list of texts for each try."""
    per_input = [ead(answers, known) for answers in zip(*said)]
    across = [ead(answers, known) for answers in said]
    distinct = [len(set(answers)) / len(said) for answers in zip(*said)]
    return {
        "per_input": statistics.mean(per_input),
        "across": statistics.mean(across),
        "distinct": statistics.mean(distinct),
    }


def gain_by_length(before, after, width=4):
    """(gain at equal length, gain by another length); each side is (words, scores)."""
    (w, s), (v, r) = ((np.array(n) // width, np.array(x)) for n, x in (before, after))
    within = moved = 0.0
    for b in {*w, *v}:
        p, q = (w == b).mean(), (v == b).mean()
        m = s[w == b].mean() if p else r[v == b].mean()
        n = r[v == b].mean() if q else m
        within += (p + q) / 2 * (n - m)
        moved += (q - p) * (m + n) / 2
    return float(within), float(moved)


def choices(prompt):
    """Every answer that one could give to a question, as sentences, and which of them are right."""
    q = world.question_by_prompt()[prompt]
    values = sorted(set(world.FAMILIES[q.family].values.values())) or [q.value, world.with_article(q.other)]
    good = {q.value} | world.also_true(q.family, q.entity)
    return [world.claim(q, v) for v in values], [v in good for v in values]


def opening(answer):
    """What an answer says before it comes to the fact."""
    parts = world.sentences(answer)
    told = [bool(world.facts_told(s)) for s in parts]
    return " ".join(parts[: told.index(True)]) if any(told) else ""


@torch.no_grad()
def beliefs(model, tokenizer, prompts):
    """How sure a model is of its most likely fact, and whether it is right: two arrays, one place a prompt.

    Each possible sentence stands where the model's own greedy answer has its fact.
    """
    sure, right = [], []
    greedy = generate(model, tokenizer, prompts, temperature=0)
    for prompt, answer in zip(prompts, greedy):
        sentences, good = choices(prompt)
        rows = [{"prompt": prompt, "response": f"{opening(answer)} {s}".strip()} for s in sentences]
        ids, mask, said = lm.demonstration_batch(tokenizer, rows, next(model.parameters()).device)
        said = said * (ids != tokenizer.eos_token_id)  # whether it would stop there is another question
        logprobs = alternatives.answer_logprobs(model, ids, mask, 1)
        p = (logprobs * said[:, 1:]).sum(-1).softmax(-1)
        sure.append(p.max().item())
        right.append(float(good[p.argmax()]))
    return np.array(sure), np.array(right)


def calibration_error(sure, right, bins=10):
    """Mean distance between how sure and how often right, over equal bins."""
    place = np.minimum((sure * bins).astype(int), bins - 1)
    off = [abs((sure - right)[place == b].mean()) * (place == b).mean() for b in set(place)]
    return float(sum(off))


def explained(batch):
    """How much of the variance of what is still to come the values explain."""
    mask = batch["mask"].bool()
    to_come = batch["rewards"].flip(1).cumsum(1).flip(1)[mask]
    left = to_come - batch["values"][mask]
    return 1 - (left.var() / to_come.var()).item()


# ---------------------------------------------------------------- what is tried; the chapter shows these, too


def with_critic(judge, shift, scale):
    """PPO's policy with a critic of its own, which starts as a copy of the judge."""

    class WithCritic(ppo.PackedPolicy):
        def __init__(self, model):
            super().__init__(model)
            self.critic = copy.deepcopy(judge).requires_grad_()

        def guess(self, ids, mask, start):
            hidden = self.critic.base_model(
                ids[:, :-1], attention_mask=mask[:, :-1], position_ids=position_ids(mask)[:, :-1]
            ).last_hidden_state[:, start - 1 :]
            scores = self.critic.score(hidden).squeeze(-1).float()
            return (scores - shift) / scale * mask[:, start:]

        def read(self, ids, mask, start):
            logprobs, _ = super().read(ids, mask, start)
            return logprobs, self.guess(ids, mask, start)

        def respond(self, prompt, *given):
            ids, mask, drawn, old, _, spread = super().respond(prompt, *given)
            values = self.guess(ids, mask, prompt.shape[1])
            return ids, mask, drawn, old, values, spread

    return WithCritic


def adapt(settings, target, rate):
    """An `on_update` that moves the penalty until the KL is at the target."""

    def on_update(row, batch):
        error = min(max(row["kl"] / target - 1, -0.2), 0.2)
        settings.beta *= 1 + rate * error

    return on_update


def mixed_in(texts, weight):
    """`take_step` with the loss on a batch of plain text added to PPO's."""
    plain = ppo.take_step

    def take_step(loss, policy, *rest):
        loss = loss + weight * lm.plain_loss(policy.model, *next(texts))
        return plain(loss, policy, *rest)

    return take_step


# ---------------------------------------------------------------- one run


@lru_cache(maxsize=1)
def scene(seed, split):
    """What the runs of one seed share: models, prompts, answers of the start to measured prompts, plain text."""
    start, tokenizer = models.load_model(ROOT / "data/models/finetuned")
    judge, _ = models.load_reward_model(ROOT / "data/models/reward")
    asked, fresh = world.prompts("train"), world.corpus(200, seed=7)  # the base model was trained on other texts
    documents = (ROOT / "data/corpus.txt").read_text(encoding="utf-8").strip().split("\n\n")
    first = {}
    for q in world.questions():  # one wording of each question
        if q.split == split:
            first.setdefault(q.key, q.prompt)
    return SimpleNamespace(
        start=start,
        tokenizer=tokenizer,
        judge=judge,
        asked=asked,
        base=generate(start, tokenizer, asked, seed=seed),
        one_each=random.Random(0).sample(sorted(first.values()), QUESTIONS),
        measured=world.prompts(split),
        before=generate(start, tokenizer, world.prompts(split), seed=seed + 1),
        tries=several(start, tokenizer, random.Random(0).sample(sorted(first.values()), QUESTIONS), seed + 1),
        fresh=lm.blocks(tokenizer, fresh, recipe.PRETRAINING["length"]),
        corpus=lm.blocks(tokenizer, documents, recipe.PRETRAINING["length"]),
    )


def several(model, tokenizer, prompts, seed):
    """`TRIES` answers to each prompt: a list of texts for each try."""
    said = generate(model, tokenizer, prompts * TRIES, seed=seed)
    return [said[i : i + len(prompts)] for i in range(0, len(said), len(prompts))]


def liking(annotator):
    """What an annotator likes, (prompt, answer) -> number: taste and bias together."""
    return lambda prompt, answer: annotator.score(prompt, answer) + annotator.length_bias * len(answer.split())


def score_of(arm, s):
    """The reward of an arm, (prompts, answers) -> (answers,), with mean 0 and deviation 1 on the start's answers."""

    def by_annotator(prompts, answers):
        return torch.tensor([like(*pair) for pair in zip(prompts, answers)])

    def by_judge(prompts, answers):
        return reward.score(s.judge, s.tokenizer, prompts, answers)

    like = arm in ANNOTATORS and liking(Annotator(**ANNOTATORS[arm]))
    return ppo.normalized_reward(by_annotator if like else by_judge, s.asked, s.base)


def trained(arm, s, seed):
    """(policy, history) of one run; each row of the history holds what the values explained in its batch."""
    settings, policy, more, watch = dataclasses.replace(SETTINGS), copy.deepcopy(s.start), {}, []
    if arm == "critic":
        raw = reward.score(s.judge, s.tokenizer, s.asked, s.base)
        more["PackedPolicy"] = with_critic(s.judge, raw.mean().item(), raw.std().item())
    if arm == "no critic":
        settings.value_coef = 0.0
    if arm in ("high penalty", "adaptive penalty"):
        settings.beta = HIGH
    if arm == "adaptive penalty":
        watch.append(adapt(settings, TARGET, RATE))
    if arm == "PPO-ptx":
        more["take_step"] = mixed_in(lm.pretraining_batches(s.corpus, 4, seed), MIX)

    def on_update(row, batch):
        row |= {"explained": explained(batch), "beta": settings.beta}
        for look in watch:
            look(row, batch)

    with replaced(ppo, **more):
        how = {"on_update": on_update, "frozen": (s.judge,)}
        history, _ = ppo.train(policy, s.tokenizer, score_of(arm, s), s.asked, settings, seed, **how)
    return policy, history


@torch.no_grad()
def perplexity(model, blocks):
    """Perplexity of a model on rows of plain text, (rows, length)."""
    ones = torch.ones_like(blocks)
    return math.exp(lm.plain_loss(model, blocks, ones, ones).item())


def common(policy, s, seed):
    """(answers to the measured prompts, what is measured of every run)."""
    said, kl, _ = sample_answers(policy, s.start, s.tokenizer, s.measured, seed=seed)
    found = {k: v for k, v in measures.quality(s.measured, said).items() if k in ("gold", "right", "words", "polite")}
    found["kl"] = kl
    return said, found | {"perplexity": perplexity(policy, s.fresh)}


def lengths_and_likes(said, s, arm):
    """How much of the gain in reward lies at equal length, and who wins by the annotator's liking, also there."""
    score = score_of(arm, s)
    sides = [([len(a.split()) for a in answers], score(s.measured, answers).tolist()) for answers in (s.before, said)]
    within, moved = gain_by_length(*sides)
    like = liking(Annotator(**ANNOTATORS.get(arm, ANNOTATORS["careful"])))
    alike = [i for i, (a, b) in enumerate(zip(said, s.before)) if abs(len(a.split()) - len(b.split())) <= 1]
    some = [[x[i] for i in alike] for x in (s.measured, said, s.before)]
    return {
        "within": within,
        "moved": moved,
        "win_liking": measures.win_rate(s.measured, said, s.before, like),
        "win_alike": measures.win_rate(*some, like) if alike else None,
        "win_gold": measures.win_rate(s.measured, said, s.before),
        "liking": statistics.mean(map(like, s.measured, said)),
        "liking_before": statistics.mean(map(like, s.measured, s.before)),
    }


def diverse_and_sure(policy, s, seed):
    """Diversity and calibration of a policy."""
    said = several(policy, s.tokenizer, s.one_each, seed + 1)
    known = len(set(grams(sum(said + s.tries, []), 2)))
    sure, right = beliefs(policy, s.tokenizer, s.measured[::2])
    found = {"ece": calibration_error(sure, right), "sure": sure.mean(), "sure_right": right.mean()}
    before = {f"{k}_before": v for k, v in diversity(s.tries, known).items()}
    return diversity(said, known) | before | {k: float(v) for k, v in found.items()}


def one(arm, seed, split):
    """The row of one run."""
    s, began = scene(seed, split), time.process_time()
    policy, history = (s.start, []) if arm == "fine-tuned" else trained(arm, s, seed)
    said, found = common(policy, s, seed)
    if arm in ("fine-tuned", "PPO"):
        found |= diverse_and_sure(policy, s, seed)
    if arm in ("PPO", *ANNOTATORS):
        found |= lengths_and_likes(said, s, arm)
    row = {"arm": arm, "seed": seed, **{f"{split}_{k}": v for k, v in found.items()}}
    for key in ("explained", "beta", "kl"):
        row[f"curve_{key}"] = [round(r[key], 4) for r in history]
    return row | {"minutes": round((time.process_time() - began) / 60, 2)}


# ---------------------------------------------------------------- what is shown


def whole(result):
    """The runs of the seeds that have every arm."""
    arms = {}
    for r in result["runs"]:
        arms.setdefault(r["seed"], set()).add(r["arm"])
    return [r for r in result["runs"] if arms[r["seed"]] == set(ARMS)]


def column(result, arm, key):
    """One number a seed."""
    return [r[key] for r in whole(result) if r["arm"] == arm]


def gap(result, a, b, key):
    """Arm a less arm b, one number a seed."""
    return [x - y for x, y in zip(column(result, a, key), column(result, b, key), strict=True)]


def mean_explained(result, arm):
    """What the values explain, mean over the updates, one number a seed; the first update is the start's."""
    return [statistics.mean(curve[1:]) for curve in column(result, arm, "curve_explained")]


def by_length(result, arm):
    """The share of the gain in reward that comes with longer answers, below 0 with shorter ones, one number a seed."""
    longer = [math.copysign(1, x) for x in gap(result, arm, "fine-tuned", "test_words")]
    parts = zip(column(result, arm, "test_within"), column(result, arm, "test_moved"), longer)
    return [sign * moved / (within + moved) for within, moved, sign in parts]


def fallen(result, key):
    """By what share the diversity of PPO's answers is lower than the start's, one number a seed."""
    return [1 - now / then for now, then in zip(*(column(result, "PPO", f"test_{key}{w}") for w in ("", "_before")))]


def claims(result):
    """(paper, claim, figure in words, verdict)."""
    inputs, across = fallen(result, "per_input"), fallen(result, "across")
    more = [a - b for a, b in zip(inputs, across)]
    yield (
        "Kirk et al. 2024",
        "RLHF costs diversity, and more of it within a question than across questions",
        f"EAD falls by {with_interval(inputs, 'z.0%')} within, {with_interval(across, 'z.0%')} across",
        both_hold(above(inputs, 0), above(more, 0)),
    )
    for arm, whose in (("wordy", "annotators who like length"), ("PPO", "ours, who don't")):
        share = by_length(result, arm)
        yield (
            "Singhal et al. 2023",
            f"more than half of the gain in reward comes with longer answers, with {whose}",
            f"share {with_interval(share, '.0%')} (below 0: with shorter ones)",
            above(share, 0.5),
        )
    truth, before = (gap(result, *two, "test_right") for two in (("careful", "flattered"), ("flattered", "fine-tuned")))
    yield (
        "Sharma et al. 2024",
        "what pleases costs truth: fewer right answers for annotators who like to be flattered than for careful ones",
        f"right answers, careful less flattered {with_interval(truth, '+.3f')}, flattered less fine-tuned "
        f"{with_interval(before, '+.3f')}",
        above(truth, 0),
    )
    error, sure = (gap(result, "PPO", "fine-tuned", f"test_{k}") for k in ("ece", "sure"))
    yield (
        "OpenAI 2023",
        "RLHF makes a model worse calibrated",
        f"expected calibration error {with_interval(error, '+.3f')}, sureness {with_interval(sure, '+.3f')}",
        above(error, 0),
    )
    head, critic = (mean_explained(result, arm) for arm in ("PPO", "critic"))
    yield (
        "Stiennon et al. 2020",
        "a critic of its own that starts as the reward model guesses better than a value head on the policy",
        f"explained variance {with_interval(critic, '.2f')}, value head {with_interval(head, 'z.2f')}",
        above([a - b for a, b in zip(critic, head)], 0),
    )
    gold = gap(result, "critic", "PPO", "test_gold")
    yield (
        "Stiennon et al. 2020",
        "and the policy is better for it",
        f"gold, critic less value head {with_interval(gold, '+.2f')}",
        above(gold, 0),
    )
    off = {arm: [x - TARGET for x in column(result, arm, "test_kl")] for arm in ("adaptive penalty", "high penalty")}
    yield (
        "Ziegler et al. 2019",
        f"an adaptive penalty ends within a quarter of its target of {TARGET:g} nats, from {HIGH / SETTINGS.beta:.0f} "
        "times our β",
        f"KL {with_interval(column(result, 'adaptive penalty', 'test_kl'), '.2f')}, "
        f"fixed {with_interval(column(result, 'high penalty', 'test_kl'), '.2f')}",
        within(off["adaptive penalty"], TARGET / 4),
    )
    lost, kept = (gap(result, arm, "fine-tuned", "test_perplexity") for arm in ("PPO", "PPO-ptx"))
    price = gap(result, "PPO-ptx", "PPO", "test_gold")
    yield (
        "Ouyang et al. 2022",
        "PPO forgets some of the pre-training text",
        f"perplexity {with_interval(lost, '+.2f')}",
        above(lost, 0),
    )
    yield (
        "Ouyang et al. 2022",
        "mixing in its loss (PPO-ptx) keeps it, at no more than 0.1 points of gold",
        f"perplexity {with_interval(kept, '+.2f')}, gold less PPO's {with_interval(price, '+.2f')}",
        both_hold(above([-x for x in kept], 0), above(price, -0.1)),
    )


def reproduced(result):
    """Rows of docs/reproductions.md."""
    minutes = sum(r["minutes"] for r in whole(result))
    for claim in claims(result):
        yield f"| {' | '.join(claim)} | `benchmarks/effects.py` | {minutes:.0f} |"


def markdown(result):
    """The table of the arms."""
    keys = {"gold": "z.2f", "right": ".3f", "words": ".1f", "kl": "z.2f", "perplexity": ".2f"}
    head = ["run", "gold", "right", "words", "KL (nats)", "perplexity", "explained"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for arm in ARMS:
        cells = [with_interval(column(result, arm, f"test_{k}"), digits) for k, digits in keys.items()]
        said = "–" if arm in ("fine-tuned", "no critic") else with_interval(mean_explained(result, arm), "z.2f")
        lines.append("| " + " | ".join([arm, *cells, said]) + " |")
    seeds = len(column(result, "PPO", "seed"))
    more = "" if seeds >= SEEDS else f" Of {SEEDS} that are planned the others are still to be run."
    return f"{seeds} seeds.{more}\n\n" + "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description="What RLHF does to a model, over seeds.")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dev", nargs="*", metavar="ARM", help="one seed on dev questions, of these arms or of all")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder to write to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.dev is not None:
        for arm in options.dev or ARMS:
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in one(arm, 0, "dev").items()}, flush=True)
        return
    path = options.out / "effects.json"
    result = {"runs": []} | begun(path, "finetuned", "reward")
    dials = {"high": HIGH, "target": TARGET, "rate": RATE, "mix": MIX, "tries": TRIES}
    result |= {"split": "test", "versions": versions(), "settings": vars(SETTINGS), "dials": dials}
    for seed in range(options.seeds):
        for arm in ARMS:
            if not [r for r in result["runs"] if (r["arm"], r["seed"]) == (arm, seed)]:
                result["runs"].append(one(arm, seed, "test"))
                write_json(path, result)
                print({k: v for k, v in result["runs"][-1].items() if not k.startswith("curve")}, flush=True)
    print(markdown(result), *reproduced(result), sep="\n")


if __name__ == "__main__":
    main()
