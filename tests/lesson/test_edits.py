"""A reader who edits a cell changes the full run of its chapter, and nobody who leaves it alone changes anything."""

import ast
import copy
import linecache
from functools import cache

import nbformat
import pytest
import torch
from taught import PATHS, cells, path_of

from rlhf_helpers import lesson, world
from rlhf_helpers.desk import labeller
from rlhf_helpers.desk.labeller import Labeller
from rlhf_helpers.engine import arithmetic, checkpoints, models
from rlhf_helpers.engine.files import ROOT, WorkbookError, read_jsonl
from rlhf_helpers.lesson import alternatives, decoding, drives, feedback, lm, loop, ppo, probe, reward
from rlhf_helpers.lesson.pairs import make_pairs
from rlhf_helpers.world.annotators import Annotator

DATA = ROOT / "data"
MODULES = {"arithmetic": arithmetic, "models": models, "alternatives": alternatives, "decoding": decoding}
MODULES |= {"labeller": labeller, "feedback": feedback, "lm": lm, "loop": loop, "ppo": ppo, "probe": probe}
MODULES |= {"reward": reward}


@pytest.fixture
def kernel(monkeypatch):
    """`run(chapter, cell, (old, new), ...)`: run the cell as a notebook's kernel would, with its text edited.

    What it drives is put back after the test.
    """
    ran = []
    monkeypatch.setattr(lesson, "SHIPPED", {})
    before = {m: dict(vars(m)) for m in MODULES.values()}

    def run(chapter, cell, *edits):
        source = cells(chapter)[cell]
        for old, new in edits:
            assert source.count(old) == 1, (cell, old)
            source = source.replace(old, new)
        name = f"<cell {len(ran)} of {chapter}>"
        ran.append(name)
        linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
        scope = {"__name__": "__main__", "torch": torch, "F": torch.nn.functional, "drives": drives, "copy": copy}
        for module in MODULES.values():  # as if the setup cell had imported whatever the cells need
            scope |= {k: v for k, v in vars(module).items() if not k.startswith("__")}
        scope |= MODULES
        definitions = source.split("\n\n\n")  # of a cell that goes on with its example, the definition
        exec(compile("\n\n\n".join(d for d in definitions if "@drives" in d), name, "exec"), scope)

    yield run
    for module, names in before.items():
        for k, v in names.items():
            if vars(module)[k] is not v:
                setattr(module, k, v)


def words(prompts, responses):
    """A reward that needs no model: many words."""
    return torch.tensor([float(len(r.split())) for r in responses])


@pytest.fixture(scope="module")
def embedded():
    """Model, tokenizer, and the weights after three updates of chapter 05's run as it ships."""
    model, tokenizer = models.load_model(DATA / "models/finetuned")
    return model, tokenizer, train_policy(model, tokenizer)


SETTINGS = ppo.Settings(updates=3, batch_size=24, minibatches=2, max_new_tokens=24, beta=0.3, lr=1e-3)


def train_policy(model, tokenizer):
    policy = copy.deepcopy(model)
    rows = ppo.train(policy, tokenizer, words, world.prompts("train")[:96], SETTINGS)[0]
    return checkpoints.digest(policy), [round(r["kl"], 6) for r in rows]


SHARED_05 = ["token-logprobs", "token-rewards", "policy-loss", "gae", "value-loss", "collect", "update-whole", "loop"]
SHARED_UP_CLOSE = ["policy-with-value", "token-entropy", "first-checks", "update"]


def of_ppo(cell):
    """The chapter that shows this cell: 05, or PPO up close."""
    return "ppo_up_close" if cell in SHARED_UP_CLOSE else "05"


@pytest.mark.parametrize("chapter, known", [("05", SHARED_05), ("ppo_up_close", SHARED_UP_CLOSE)])
def test_every_shared_cell_of_ppo_is_tried_here(chapter, known):
    path = path_of(chapter)
    shared = [c.id for c in nbformat.read(path, 4).cells if "shared" in c.metadata.get("tags", [])]
    assert shared == known


def test_cells_left_alone_give_the_same_bits(kernel, embedded):
    model, tokenizer, shipped = embedded
    for cell in (*SHARED_05, *SHARED_UP_CLOSE):
        kernel(of_ppo(cell), cell)
    assert train_policy(model, tokenizer) == shipped


EDITS_05 = {
    "gae that never looks ahead": ("gae", ("gamma * lam * advantage", "0.0 * advantage")),
    "loss without the clip": ("policy-loss", ("torch.maximum(plain, clipped)", "plain")),
    "whitening left out": (
        "value-loss",
        ("return (x - mean) * torch.rsqrt(variance + 1e-8) * mask", "return x * mask"),
    ),
    "twice the value loss": ("value-loss", ("return 0.5 *", "return 1.0 *")),
    "other minibatches": ("update", ("generator=generator", "generator=None")),
    "a loss of another sign": ("update-whole", ("loss = surrogate + ", "loss = -surrogate + ")),
    "a learning rate that stays": ("loop", ("settings.lr * (1 - step / settings.updates)", "settings.lr")),
    "no penalty for an answer without end": ("collect", ("scores - settings.no_end_penalty * (~ended)", "scores * 1")),
    "a value head on double states": (
        "policy-with-value",
        (".float()\n        return out", ".float() * 2\n        return out"),
    ),
    "scores without a penalty": ("token-rewards", ("-beta * (logprobs - ref_logprobs) * mask", "0 * logprobs")),
    "means over all places": ("policy-loss", ("(x * mask).sum() / mask.sum()", "(x * mask).mean()")),
}
NAMED = {  # what a health check stops, and what it says
    "no penalty for an answer without end": "answers without an end are counted and penalised",
    "scores without a penalty": "score sits on the last real token only",
}


@pytest.mark.parametrize("what", EDITS_05)
def test_an_edit_in_chapter_05_reaches_the_full_run(kernel, embedded, what):
    model, tokenizer, shipped = embedded
    cell, edit = EDITS_05[what]
    kernel(of_ppo(cell), cell, edit)
    if what in NAMED:
        with pytest.raises(WorkbookError, match=NAMED[what]):
            train_policy(model, tokenizer)
    else:
        weights, kl = train_policy(model, tokenizer)
        assert weights != shipped[0] and kl[1:] != shipped[1][1:]


def test_an_edit_can_be_taken_back(kernel, embedded):
    model, tokenizer, shipped = embedded
    kernel("05", *EDITS_05["gae that never looks ahead"])
    kernel("05", "gae")
    assert ppo.gae.__module__ == ppo.__name__ and train_policy(model, tokenizer) == shipped


def test_the_sign_of_the_penalty_turns_the_curve_or_a_check_names_it(kernel, embedded):
    model, tokenizer, _ = embedded
    kernel("05", "token-rewards", ("-beta * (logprobs", "beta * (logprobs"))
    with pytest.raises(WorkbookError, match="update 2: score sits on the last real token only"):
        train_policy(model, tokenizer)


def test_a_gae_that_runs_into_the_padding_is_named_by_a_check(kernel, embedded):
    model, tokenizer, _ = embedded
    kernel("05", "gae", ("* mask[:, t]", ""), ("    values = values * mask\n", ""))
    with pytest.raises(WorkbookError, match="nothing moves when the padding is filled with junk"):
        train_policy(model, tokenizer)


# ---------------------------------------------------------------- the other chapters


def test_an_edited_sampler_of_chapter_02_writes_the_pairs(kernel, embedded):
    model, tokenizer, _ = embedded
    asked = world.prompts("train")[:4]
    shipped = make_pairs(model, tokenizer, asked, 4, 0)
    for cell in ("greedy", "sample", "adjust"):
        kernel("02", cell)
    assert make_pairs(model, tokenizer, asked, 4, 0) == shipped
    kernel("02", "sample", ("torch.multinomial(p, 1, generator=generator)", "p.argmax()"))
    assert make_pairs(model, tokenizer, asked, 4, 0) == [], "greedy answers never differ, so there are no pairs"
    greedy = decoding.generate(model, tokenizer, asked, temperature=0)
    assert decoding.generate(model, tokenizer, asked, seed=5) == greedy
    kernel("02", "greedy", ("logits.argmax()", "logits.argmin()"))
    assert decoding.generate(model, tokenizer, asked[:2], temperature=0, max_new_tokens=4) != greedy[:2]


def test_an_edited_adjust_changes_what_is_sampled(kernel, embedded):
    model, tokenizer, _ = embedded
    asked = world.prompts("train")[:8]
    hot = decoding.generate(model, tokenizer, asked, temperature=1.5)
    kernel("02", "adjust", ("/ temperature", "/ 1.0"))
    assert (
        decoding.generate(model, tokenizer, asked, temperature=1.5) == decoding.generate(model, tokenizer, asked) != hot
    )


@cache
def preferences():
    return feedback.to_preferences(feedback.replay(feedback.read_events(DATA / "feedback.jsonl")[0][:100]))[0][:48]


def train_judge():
    model, tokenizer = models.load_reward_model(DATA / "models/reward_start")
    history = reward.train_reward_model(model, tokenizer, preferences(), lr=1e-3)
    return checkpoints.digest(model), history[-1]["loss"]


@pytest.fixture(scope="module")
def judge():
    """What the training of chapter 04 makes as it ships."""
    return train_judge()


SHARED_04 = {
    "04": ("pair-ids", "last-token-scores", "preference-loss", "features", "logistic-weights", "training-steps"),
    "reward_model_up_close": ("usable-pairs", "padded-scores"),
}


@pytest.mark.parametrize("chapter", SHARED_04)
def test_every_shared_cell_about_the_reward_model_is_tried_here(chapter):
    shared = [c.id for c in nbformat.read(path_of(chapter), 4).cells if "shared" in c.metadata.get("tags", [])]
    assert tuple(shared) == SHARED_04[chapter]


def run_all(kernel, chapters):
    for chapter, shared in chapters.items():
        for cell in shared:
            kernel(chapter, cell)


UP_CLOSE = "reward_model_up_close"
EDITS_04 = {
    "a loss with another margin": ("04", "preference-loss", ("chosen - rejected", "chosen - rejected - 1")),
    "scores of the first token": (
        "04",
        "last-token-scores",
        (
            "out.last_hidden_state[\n        torch.arange(len(ids), device=ids.device), last\n    ]",
            "out.last_hidden_state[:, 0]",
        ),
    ),
    "no centre term": ("04", "training-steps", ("loss + center *", "loss + 0 *")),
    "another prompt format": (
        "04",
        "pair-ids",
        ("= prompt_ids(tokenizer, prompt)", '= prompt_ids(tokenizer, "Please: " + prompt)'),
    ),
    "rejected answers first": (UP_CLOSE, "padded-scores", (".view(len(groups), -1)", ".view(len(groups), -1).flip(1)")),
    "half of the pairs": (UP_CLOSE, "usable-pairs", ("for r in rows\n", "for r in rows[::2]\n")),
    "batches in another order": (UP_CLOSE, "padded-scores", ("manual_seed(seed)", "manual_seed(seed + 1)")),
}


def test_cells_of_chapter_04_left_alone_give_the_same_bits(judge, kernel):
    run_all(kernel, SHARED_04)
    assert train_judge() == judge


@pytest.mark.parametrize("what", EDITS_04)
def test_an_edit_in_chapter_04_reaches_the_full_run(judge, kernel, what):
    run_all(kernel, SHARED_04)
    kernel(*EDITS_04[what])
    assert train_judge()[0] != judge[0]


def teach_small(embedded):
    """The weights of the small reward model of chapters 04 to 06, from a few labels."""
    model, tokenizer, _ = embedded
    rows = preferences()[:24]
    small = probe.Probe(model, tokenizer, [r["prompt"] for r in rows], [r["chosen"] for r in rows])
    small.learn([*rows, rows[0] | {"tie": True}])
    return small.weights.tolist()


EDITS_SMALL = {
    "a heavier ridge": ("logistic-weights", ("ridge * torch.eye", "9 * ridge * torch.eye")),
    "choices turned round": ("logistic-weights", ("x.T @ (p - t)", "x.T @ (p - 1 + t)")),
    "a single step": ("logistic-weights", ("steps=50", "steps=1")),
    "no embeddings": ("features", ("(states[0], states[-1])", "(states[-1], states[-1])")),
    "no sums": ("features", ("sums / said.sum(1), sums", "sums / said.sum(1), 0 * sums")),
}


@pytest.mark.parametrize("what", EDITS_SMALL)
def test_an_edit_in_chapter_04_reaches_the_small_reward_model(embedded, kernel, what):
    run_all(kernel, SHARED_04)
    shipped = teach_small(embedded)
    assert probe.features.__module__ == probe.logistic_weights.__module__ == probe.__name__
    kernel("04", *EDITS_SMALL[what])
    assert teach_small(embedded) != shipped


def fine_tune():
    model, tokenizer = models.load_model(DATA / "models/base")
    rows = read_jsonl(DATA / "demonstrations.jsonl")[:64]
    batches = lm.demonstration_batches(tokenizer, rows, 16)
    return lm.fit(model, batches, 3, 1e-3, loss_of=lm.padded_batch_loss(model))[-1]


@pytest.fixture(scope="module")
def tuned():
    """What the fine-tuning of chapter 01 makes as it ships."""
    return fine_tune()


CLOSE = "pretraining_up_close"  # opens what chapter 01 leaves closed
SHARED_01 = [("01", cell) for cell in ("next-token-loss", "fit-loop", "demonstration-batch")]
SHARED_01 += [(CLOSE, cell) for cell in ("plain-loss", "take-step", "schedule", "blocks", "format-show")]
EDITS_01 = {
    "a loss on all tokens": ("01", "demonstration-batch", ("mask * (columns >= starts)", "mask")),
    "another prompt format": (CLOSE, "format-show", ('"content": prompt', '"content": "Q: " + prompt')),
    "a loss of the token itself": (
        "01",
        "next-token-loss",
        ("logits[:, :-1], ids[:, 1:]", "logits[:, :-1], ids[:, :-1]"),
    ),
    "a loss without positions": (CLOSE, "plain-loss", ("position_ids=places", "position_ids=places * 0")),
    "a gentler learning rate": (CLOSE, "schedule", ("return float(0.1 + 0.9 * 0.5", "return float(0.1 + 0.3 * 0.5")),
}


def test_cells_of_chapter_01_left_alone_give_the_same_bits(tuned, kernel):
    for chapter, cell in SHARED_01:
        kernel(chapter, cell)
    assert fine_tune() == tuned


@pytest.mark.parametrize("what", EDITS_01)
def test_an_edit_in_chapter_01_reaches_fine_tuning(tuned, kernel, what):
    for chapter, cell in SHARED_01:
        kernel(chapter, cell)
    chapter, cell, edit = EDITS_01[what]
    kernel(chapter, cell, edit)
    assert fine_tune() != tuned


def test_an_edited_coin_of_chapter_03_decides_the_sides_of_the_card(kernel, tmp_path):
    pairs = [{"pair_id": f"p{i}", "prompt": "Why?", "response_a": "So.", "response_b": "No."} for i in range(9)]

    def sides():
        card, seen = (
            labeller.Labeller(pairs, tmp_path / f"log{len(list(tmp_path.iterdir()))}.jsonl", repeat_share=0),
            [],
        )
        while not card.done:
            seen.append(card.current["left"])
            card.choose("tie")
        return seen

    shipped = sides()
    kernel("03", "left-side")
    assert sides() == shipped and set(shipped) == {"a", "b"}
    kernel("03", "left-side", ('.choice("ab")', '.choice("a")'))
    assert set(sides()) == {"a"}


def test_edited_rows_of_chapter_03_are_those_that_are_written(kernel, tmp_path):
    labels = feedback.replay(feedback.read_events(DATA / "feedback.jsonl")[0][:9])
    shipped = feedback.write_preferences(tmp_path / "rows.jsonl", labels)
    kernel("03", "to-preferences")
    assert feedback.write_preferences(tmp_path / "rows.jsonl", labels) == shipped
    kernel("03", "to-preferences", ('label["response_" + label["choice"]]', 'label["response_" + other]'))
    assert feedback.write_preferences(tmp_path / "rows.jsonl", labels)[0]["chosen"] == shipped[0]["rejected"]


def test_an_edited_replay_of_labels_up_close_is_the_state_of_the_card(kernel, tmp_path):
    pairs = [{"pair_id": "p1", "prompt": "Why?", "response_a": "So.", "response_b": "No."}]
    card = labeller.Labeller(pairs, tmp_path / "log.jsonl", repeat_share=0)
    card.choose("a")
    card.undo()
    kernel("labels_up_close", "replay")
    assert labeller.Labeller(pairs, tmp_path / "log.jsonl", repeat_share=0).labels == []
    kernel("labels_up_close", "replay", ('labels.pop(event["undoes"], None)', "pass"))
    assert len(labeller.Labeller(pairs, tmp_path / "log.jsonl", repeat_share=0).labels) == 1


def test_an_edited_key_of_chapter_03_is_the_widgets(kernel, tmp_path):
    """With a key that is the question alone, another pair of answers to it counts as judged."""
    pair = {"pair_id": "p1", "prompt": "Why?", "response_a": "So.", "response_b": "No."}
    pairs, log = [pair, pair | {"pair_id": "p2", "response_a": "Perhaps."}], tmp_path / "log.jsonl"
    Labeller(pairs, log, repeat_share=0, min_seconds=0).choose("a")
    kernel("03", "pair-key")
    assert Labeller(pairs, log, repeat_share=0).current is not None
    kernel("03", "pair-key", ('("pair_id", "prompt", "response_a", "response_b")', '("prompt",)'))
    assert Labeller(pairs, log, repeat_share=0).current is None


def test_an_edited_blind_test_of_chapter_06_judges_the_rounds(kernel, embedded, monkeypatch):
    kernel("06", "blind-test", ('counts = {"win": 0, "tie": 0, "loss": 0}', 'counts = {"win": 7, "tie": 0, "loss": 0}'))
    model, tokenizer, _ = embedded
    annotator = Annotator("brief", seed=0)
    how = {"annotator": annotator, "scores": words, "max_new_tokens": 8, "seed": 0}
    report = loop.held_out_report(model, model, model, tokenizer, world.prompts("dev")[:8], **how)
    assert report["blind"]["n"] == 8 + 7


def test_nobody_takes_by_name_what_a_chapter_drives():
    """A name that was imported would go on meaning the package's own after an edit."""
    driven = {}
    for path in PATHS:
        for cell in nbformat.read(path, 4).cells:
            if "shared" in cell.metadata.get("tags", []):
                driven |= {(module, name): path.stem for name, module in lesson.driven(ast.parse(cell.source)).items()}
    taken = set()
    for path in [*ROOT.glob("rlhf_helpers/lesson/*.py"), *ROOT.glob("rlhf_helpers/desk/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level and node.module:
                module = node.module.split(".")[-1]
                taken |= {(module, a.name) for a in node.names if (module, a.name) in driven}
    once_only = {("arithmetic", "take_step"), ("lm", "schedule")}
    assert taken == once_only, "Pre-training up close shows the two, and the training loops call them"


# ---------------------------------------------------------------- the mechanism itself


def test_a_function_under_another_name_is_refused():
    def gae_of_mine():
        pass

    with pytest.raises(WorkbookError, match="ppo has no gae_of_mine .* old name back"):
        drives(ppo)(gae_of_mine)


def test_a_shortcut_steps_back_only_where_what_it_stands_for_was_edited(kernel, embedded):
    model, _, _ = embedded
    judge, _ = models.load_reward_model(DATA / "models/reward")
    assert reward.quick_scores(judge) is reward.packed_scores and lm.padded_batch_loss(model) is lm.packed_loss
    kernel("04", "preference-loss", ("chosen - rejected", "2 * (chosen - rejected)"))
    assert reward.quick_scores(judge) is reward.packed_scores
    kernel("04", "last-token-scores", (".float()", ".float() * 2"))
    assert reward.quick_scores(judge) is reward.padded_scores
    kernel("01", "next-token-loss", ("mask.sum()", "(mask.sum() + 1)"))
    assert lm.padded_batch_loss(model) is lm.plain_loss
