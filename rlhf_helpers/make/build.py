"""Rebuild everything in `data/` from a seed: `python -m rlhf_helpers.make.build`.

World -> corpus, prompts, demonstrations -> tokenizer -> base -> fine-tuned -> start of the reward model
(a quiz) -> pairs -> simulated feedback -> reward model -> policy.  Each model folder gets a card (README.md)
and a metrics.json with what it scores, on *reworded* questions of its training and on *test* questions, which no
training asks in any words; a test checks the shipped files against them.  Settings are chosen on dev questions.
"""

import argparse
import hashlib
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from .. import world
from ..desk import recipe
from ..desk.recipe import PRETRAINING, card
from ..engine.files import ROOT, parse, read_jsonl, versions, write_json, write_jsonl, write_text
from ..engine.models import (
    load_model,
    load_reward_model,
    new_model,
    new_tokenizer,
    prompts_ids,
    responses_ids,
    save_model,
)
from ..engine.packing import hidden_at, pack_groups
from ..lesson import lm, ppo, reward
from ..lesson.decoding import generate
from ..lesson.feedback import read_events, replay, to_preferences
from ..lesson.pairs import make_pairs, simulated_feedback
from ..world.annotators import labellers, noise_ceiling
from ..world.measures import MEASURED, measured_prompts, on_each, quality, win_rate

# ---------------------------------------------------------------- measuring


def reward_quality(model, tokenizer, pairs, events, annotator):
    """Accuracy of a reward model against labels of new pairs, their noise ceiling, and the order by the very taste."""
    rows, _ = to_preferences(events)
    triples = [(p["prompt"], p["response_a"], p["response_b"]) for p in pairs]
    chosen = [t for t, e in zip(triples, events) if e["choice"] != "tie"]
    gaps = torch.tensor([annotator.score(p, a) - annotator.score(p, b) for p, a, b in triples])
    prompts = [t[0] for t in triples]
    s = reward.score(model, tokenizer, prompts * 2, [t[1] for t in triples] + [t[2] for t in triples])
    margins, clear = s[: len(pairs)] - s[len(pairs) :], gaps.abs() >= 1
    return {
        "accuracy": reward.evaluate(model, tokenizer, rows)["accuracy"],
        "noise_ceiling": noise_ceiling(annotator, chosen),
        "gold_order_clear_pairs": ((margins > 0) == (gaps > 0))[clear].float().mean().item(),
        "score_mean": s.mean().item(),
        "score_std": s.std().item(),
    }


# ---------------------------------------------------------------- the stages


def ship(model, tokenizer, folder, *, title, what, metrics, seed):
    save_model(model, tokenizer, folder, card(title, what, metrics, seed), half=True)
    write_json(folder / "metrics.json", {"seed": seed, "versions": versions(), **metrics})
    print(f"  {folder.name}: " + ", ".join(f"{k} {v:.3f}" for k, v in metrics.items()), flush=True)


def build_world(out, seed):
    """Corpus, prompts and demonstrations."""
    write_text(out / "corpus.txt", "\n\n".join(world.corpus(recipe.CORPUS_DOCUMENTS, seed)) + "\n")
    write_jsonl(out / "demonstrations.jsonl", world.demonstrations(recipe.DEMONSTRATIONS, seed))
    names = ("prompt", "family", "entity", "other", "split")
    write_jsonl(out / "prompts.jsonl", [{name: getattr(q, name) for name in names} for q in world.questions()])


def prose(out):
    """The articles and lists of the pre-training text in the data folder `out`: no questions and no talk."""
    documents = (out / "corpus.txt").read_text(encoding="utf-8").strip().split("\n\n")
    return [d for d in documents if "?" not in d and "\n" not in d]


def build_base(out, seed):
    """Tokenizer and pre-training."""
    documents = (out / "corpus.txt").read_text(encoding="utf-8").strip().split("\n\n")
    demos = read_jsonl(out / "demonstrations.jsonl")
    tokenizer = new_tokenizer(documents[:4000] + [d["response"] for d in demos])
    model = new_model(tokenizer, seed)
    rows = lm.blocks(tokenizer, documents, PRETRAINING["length"])
    batches = lm.pretraining_batches(rows, PRETRAINING["batch_size"], seed)
    lm.fit(model, batches, PRETRAINING["steps"], PRETRAINING["lr"])
    fresh = lm.blocks(tokenizer, world.corpus(200, seed + 7), PRETRAINING["length"])
    with torch.no_grad():
        loss = lm.plain_loss(model, fresh, torch.ones_like(fresh), torch.ones_like(fresh)).item()
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    ship(
        model,
        tokenizer,
        out / "models/base",
        title="Base model",
        what="Pre-trained on `data/corpus.txt` by next-token prediction. It continues text; it was never asked to "
        "answer.",
        metrics={"loss_on_new_text": loss, "parameters_millions": millions},
        seed=seed,
    )


def build_finetuned(out, seed):
    """Fine-tuning on the demonstrations."""
    model, tokenizer = load_model(out / "models/base")
    demos = read_jsonl(out / "demonstrations.jsonl")
    text = lm.blocks(tokenizer, prose(out), PRETRAINING["length"])
    for n, phase in enumerate((recipe.FINE_TUNING, recipe.COOL_DOWN)):
        batches = lm.demonstration_batches(tokenizer, demos, phase["batch_size"], seed + n)
        read_again = lm.pretraining_batches(text, recipe.READ_AGAIN["batch_size"], seed + n)
        batches = lm.mixed_batches(batches, read_again, recipe.READ_AGAIN["every"])
        lm.fit(model, batches, phase["steps"], phase["lr"], loss_of=lm.padded_batch_loss(model))

    def answered(split):
        asked = world.prompts(split)
        sampled = quality(asked, generate(model, tokenizer, asked, seed=seed))
        greedy = quality(asked, generate(model, tokenizer, asked, temperature=0, seed=seed))
        return {**sampled, "right_greedy": greedy["right"], "in_format_greedy": greedy["in_format"]}

    ship(
        model,
        tokenizer,
        out / "models/finetuned",
        title="Fine-tuned model",
        what="The base model, fine-tuned on `data/demonstrations.jsonl`, whose writers were of mixed quality.",
        metrics=on_each(answered),
        seed=seed,
    )


def remark_batches(tokenizer, rows, batch_size, seed):
    """Batches for `remarks_loss`, of like length: (packed rows, places of the last tokens, remarks as 0 or 1)."""
    asked, said = (
        prompts_ids(tokenizer, [r["prompt"] for r in rows]),
        responses_ids(tokenizer, [r["response"] for r in rows]),
    )
    ids = [a + b for a, b in zip(asked, said)]
    remarks = torch.tensor([[float(r["remarks"][name]) for name in world.REMARKS] for r in rows])
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    for batch in reward.like_lengths(order, lambda i: len(ids[i]), batch_size, torch.Generator().manual_seed(seed)):
        packed, ends = pack_groups([[ids[i]] for i in batch])
        yield packed, ends[:, 0], remarks[batch]


def remarks_loss(model, packed, ends, remarks):
    """Mean cross-entropy, in nats, of each remark by itself, told by a layer `model.remarks` from the last token."""
    return F.binary_cross_entropy_with_logits(model.remarks(hidden_at(model, packed, ends)), remarks)


def learn_remarks(model, tokenizer, rows, seed, lr, batch_size):
    """Teach a reward model to see what is in an answer, by guessing the remarks of `world.remarked` rows on it.

    They say nothing of what is better.  The layer that guesses is thrown away.  Returns the losses.
    """
    model.remarks = torch.nn.Linear(model.config.hidden_size, len(world.REMARKS))
    batches = remark_batches(tokenizer, rows, batch_size, seed)
    losses = lm.fit(model, batches, -(-len(rows) // batch_size), lr, loss_of=remarks_loss)
    del model.remarks
    return losses


def build_reward_start(out, seed):
    """The reward model before any feedback: the fine-tuned model after lessons in facts, and remarks.

    A quiz on what can be known of a question is preference model pre-training (Askell et al. 2021).
    """
    torch.manual_seed(seed)
    model, tokenizer = load_reward_model(out / "models/finetuned")
    for dressed, (n, proofread) in enumerate(recipe.LESSONS):
        rows = world.lessons(n, seed + dressed, bool(dressed), proofread)
        reward.train_reward_model(model, tokenizer, rows, seed=seed, **recipe.LESSONS_TRAINING)
    learn_remarks(
        model,
        tokenizer,
        world.remarked(recipe.REMARKED[0], seed + 3, recipe.REMARKED[1]),
        seed,
        **recipe.REMARKS_TRAINING,
    )
    rows = world.lessons(recipe.REFRESHER, seed + 4)
    reward.train_reward_model(model, tokenizer, rows, seed=seed, **recipe.LESSONS_TRAINING | {"lr": 3e-4})
    with torch.no_grad():
        model.score.weight.mul_(0.2)  # the same order of answers, held with little confidence: the labels decide

    def quizzed(split):
        rows = world.quiz(1000, seed + 7, split=split)
        return {"quiz_accuracy": reward.evaluate(model, tokenizer, rows)["accuracy"]}

    ship(
        model,
        tokenizer,
        out / "models/reward_start",
        title="Reward model before any feedback",
        what="The fine-tuned model with its last layer changed to one number. It has learned *facts from the tables*, "
        "by a quiz on train questions (`world.quiz`) and by sentences of the pre-training text, true against altered "
        "(`world.proofreading`); and to guess remarks about answers (`world.remarked`). So it prefers a right answer "
        "to a wrong one, and sees tone and length with hardly any preference: *taste comes from the labels*.",
        metrics=on_each(quizzed),
        seed=seed,
    )


def build_feedback(out, seed):
    """Pairs of sampled answers and simulated labels for them; the first pairs ship without labels too."""
    model, tokenizer = load_model(out / "models/finetuned")
    pairs = make_pairs(model, tokenizer, world.prompts("train"), recipe.LABELLED, seed, world.families())
    write_jsonl(out / "pairs.jsonl", pairs[: recipe.PAIRS])
    write_jsonl(out / "feedback.jsonl", simulated_feedback(pairs, labellers("helpful", seed), seed))


def train_judge(out, seed, taste="helpful", splits=MEASURED):
    """A reward model trained from the start of it and the labels in the data folder `out`; by another taste, new ones.

    Returns (model, tokenizer, `reward_quality` on 1,000 new pairs of prompts of each split of `splits`).
    """
    writer, tokenizer = load_model(out / "models/finetuned")
    model, _ = load_reward_model(out / "models/reward_start")
    labels = replay(read_events(out / "feedback.jsonl")[0])
    if taste != "helpful":
        labels = recipe.relabelled(labels, taste, seed)
    rows = to_preferences(labels)[0]
    reward.train_reward_model(
        model, tokenizer, rows + world.lessons(recipe.REHEARSAL, seed + 2), seed=seed, **recipe.REWARD
    )

    def judged(split):
        pairs = make_pairs(writer, tokenizer, world.prompts(split), 1000, seed + 7, world.families())
        annotator = labellers(taste, seed + 7, ties=taste != "helpful")  # as the labels above
        return reward_quality(model, tokenizer, pairs, simulated_feedback(pairs, annotator, seed + 7), annotator)

    return model, tokenizer, on_each(judged, splits)


def build_reward(out, seed):
    """The reward model."""
    model, tokenizer, metrics = train_judge(out, seed)
    ship(
        model,
        tokenizer,
        out / "models/reward",
        title="Reward model",
        what="`data/models/reward_start`, trained on "
        "`data/feedback.jsonl`, which is simulated, with some rows of `world.lessons` among the labels.",
        metrics=metrics,
        seed=seed,
    )


def sampled_answers(model, tokenizer, splits, seed):
    """One answer to each of `measured_prompts` of each split: a dict from split to list."""
    return {split: generate(model, tokenizer, measured_prompts(split), seed=seed) for split in splits}


def align(out, seed, on_update=None, reward_model=None, splits=MEASURED):
    """PPO from the fine-tuned model against the reward model, both in the data folder `out`, or against another one.

    Returns (model, tokenizer, history, before, after); the last two are `sampled_answers`.
    """
    model, tokenizer = load_model(out / "models/finetuned")
    reward_model = reward_model or load_reward_model(out / "models/reward")[0]
    asked, before = world.prompts("train"), sampled_answers(model, tokenizer, splits, seed + 1)
    judge = ppo.normalized_reward(
        lambda p, r: reward.score(reward_model, tokenizer, p, r), asked, generate(model, tokenizer, asked, seed=seed)
    )
    history, _ = ppo.train(
        model, tokenizer, judge, asked, recipe.PPO, seed, on_update=on_update, frozen=(reward_model,)
    )
    return model, tokenizer, history, before, sampled_answers(model, tokenizer, splits, seed)


def build_policy(out, seed):
    """The aligned policy."""
    model, tokenizer, history, before, after = align(out, seed)

    def compared(split):
        asked = measured_prompts(split)
        return {**quality(asked, after[split]), "gold_win_rate": win_rate(asked, after[split], before[split])}

    ship(
        model,
        tokenizer,
        out / "models/policy",
        title="Aligned policy",
        what="The fine-tuned model after recipe.PPO against `data/models/reward`.",
        metrics={**on_each(compared), "kl_nats": history[-1]["kl"]},
        seed=seed,
    )
    write_json(out / "models/policy/history.json", history)


STAGES = {
    "world": build_world,
    "base": build_base,
    "finetuned": build_finetuned,
    "reward_start": build_reward_start,
    "feedback": build_feedback,
    "reward": build_reward,
    "policy": build_policy,
}

# ---------------------------------------------------------------- the record

# about the range over seeds; other shares, and losses: 0.05
LEEWAY = {"gold": 0.5, "kl_nats": 1.5, "words": 2.0, "test_accuracy": 0.08}
TEXTS = ("corpus.txt", "demonstrations.jsonl", "prompts.jsonl", "pairs.jsonl", "feedback.jsonl")


def record(out):
    """What the data folder `out` holds: seed, versions and scores of each model, and the SHA-256 of each file made."""
    paths = [*(out / name for name in TEXTS), *sorted((out / "models").glob("*/*"))]
    return {
        "models": {p.parent.name: parse(p.read_bytes()) for p in paths if p.name == "metrics.json"},
        "files": {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths},
    }


def unlike(now, recorded):
    """(files that are not bit for bit as recorded, scores that are off by more than LEEWAY), two lists of names.

    The bits depend on the versions and on the kind of processor: a sum rounded otherwise is enough to change every
    file made after it.  The scores should not.
    """
    ours, theirs = now["models"], recorded["models"]
    files = [name for name, digest in recorded["files"].items() if now["files"].get(name) != digest]
    scores = [(m, k) for m in theirs for k, v in theirs[m].items() if isinstance(v, float) and "score" not in k]

    def off(m, k):
        leeway = next((v for name, v in LEEWAY.items() if k.endswith(name)), 0.05)
        return abs(ours[m].get(k, math.inf) - theirs[m][k]) > leeway

    return files, [f"{m}: {k}" for m, k in scores if off(m, k)]


def build(out, seed=0, start="world"):
    """Make the data folder at `out`, from stage `start` on; about fifteen minutes on two cores for all.

    Writes `record` to checksums.json and says what is unlike the record of the data that ships.
    """
    shipped = parse((ROOT / "data" / "checksums.json").read_bytes())
    began = time.time()
    for stage in list(STAGES)[list(STAGES).index(start) :]:
        print(f"[{time.time() - began:4.0f} s] {stage}", flush=True)
        STAGES[stage](out, seed)
    write_json(out / "checksums.json", record(out))
    files, scores = unlike(record(out), shipped)
    print(f"[{time.time() - began:4.0f} s] done; scores unlike the record: {', '.join(scores) or 'none'}")
    same = len(shipped["files"]) - len(files)
    print(f"{same} of {len(shipped['files'])} files are bit for bit as recorded", *files, sep="\n  ", flush=True)


def main():
    parser = argparse.ArgumentParser(description="Rebuild data/ from a seed.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=str(ROOT / "data"))
    parser.add_argument(
        "--start",
        choices=list(STAGES),
        default="world",
        help="go on from this stage; the ones before it are taken from the folder",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    build(Path(arguments.out), arguments.seed, arguments.start)


if __name__ == "__main__":
    main()
