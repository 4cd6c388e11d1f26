"""The reward model: its loss, where its number is read, its data and its training, on any architecture."""

import math
import os
import pickle
import time

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    Qwen2Config,
)

from rlhf_helpers.engine import files, models
from rlhf_helpers.engine.files import WorkbookError
from rlhf_helpers.lesson import feedback, reward

QUESTIONS = [f"What is the colour of number {i}?" for i in range(40)]
GOOD, BAD = ("It is red.", "It is blue, I think.", "Green."), ("Go away.", "Look it up.", "No.")


def rows(n=100):
    """Preferences in which a friendly answer always beats a rude one."""
    return [{"prompt": QUESTIONS[i % 40], "chosen": GOOD[i % 3], "rejected": BAD[i // 3 % 3]} for i in range(n)]


def tokenizer_with(padding="separate"):
    """A byte-level tokenizer whose pad token is "separate", equal to "eos", or "missing"."""
    tokenizer = models.new_tokenizer([*QUESTIONS, *GOOD, *BAD], vocab_size=300)
    if padding != "separate":
        tokenizer.pad_token = tokenizer.eos_token if padding == "eos" else None
    return tokenizer


def config(name, tokenizer, **more):
    """A configuration of 2 layers of width 32."""
    common = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    } | more
    usual = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 96}
    return {
        "gpt2": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=96, **common),
        "llama": lambda: LlamaConfig(**usual, intermediate_size=64, num_key_value_heads=1, **common),
        "qwen2": lambda: Qwen2Config(**usual, intermediate_size=64, num_key_value_heads=1, **common),
        "gpt_neox": lambda: GPTNeoXConfig(**usual, intermediate_size=64, **common),
        "opt": lambda: OPTConfig(**usual, ffn_dim=64, word_embed_proj_dim=32, **common),
    }[name]()


def language_model(folder, name="gpt2", padding="separate", seed=0, more_dropout=None):
    """Write a tiny language model with random weights as a model folder."""
    torch.manual_seed(seed)
    tokenizer = tokenizer_with(padding)
    made = config(name, tokenizer)
    for field in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout", "dropout"):
        if more_dropout is not None and hasattr(made, field):
            setattr(made, field, more_dropout)
    AutoModelForCausalLM.from_config(made).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return language_model(tmp_path_factory.mktemp("tiny"))


ARCHITECTURES = ("gpt2", "llama", "qwen2", "gpt_neox", "opt")
any_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


# ---------------------------------------------------------------- the loss


def test_loss_is_minus_log_sigmoid():
    generator = np.random.default_rng(0)
    chosen, rejected = generator.normal(0, 4, (2, 200))
    expected = np.mean(np.log1p(np.exp(-(chosen - rejected))))
    found = reward.preference_loss(torch.tensor(chosen), torch.tensor(rejected))
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(expected, rel=1e-12)
    in_float32 = reward.preference_loss(torch.tensor(chosen).float(), torch.tensor(rejected).float())
    assert in_float32.item() == pytest.approx(expected, rel=1e-5)


def test_loss_at_equal_scores_is_ln_2_and_only_differences_count():
    scores = torch.tensor([-3.0, 0.0, 12.0], dtype=torch.float64)
    assert reward.preference_loss(scores, scores).item() == pytest.approx(math.log(2), abs=1e-12)
    other = scores.flip(0)
    moved = reward.preference_loss(scores + 100, other + 100)
    assert moved.item() == pytest.approx(reward.preference_loss(scores, other).item(), abs=1e-12)


def test_gradient_is_the_probability_of_being_wrong():
    chosen = torch.tensor([-5.0, 0.0, 5.0, -300.0, 300.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    reward.preference_loss(chosen, rejected).backward()
    expected = -torch.sigmoid(-chosen.detach()) / 5
    assert torch.allclose(chosen.grad, expected, atol=1e-12)
    assert torch.allclose(rejected.grad, -expected, atol=1e-12)


# ---------------------------------------------------------------- where the number is read


@pytest.mark.parametrize("padding", ["separate", "eos", "missing"])
@any_architecture
def test_scores_do_not_depend_on_padding(tmp_path, name, padding):
    model, tokenizer = models.load_reward_model(language_model(tmp_path, name, padding))
    assert tokenizer.pad_token_id is not None
    some = [reward.pair_ids(tokenizer, q, a, 96) for q, a in zip(QUESTIONS, GOOD + BAD)]
    assert len({len(r) for r in some}) > 2
    longer = some + [some[0] + some[1][-20:]]  # makes room for more padding
    with torch.no_grad():
        alone = torch.cat([reward.last_token_scores(model, *models.pad([r], 0)) for r in some])
        for side in ("left", "right"):
            for batch in (some, longer, some * 2):
                ids, mask = models.pad(batch, tokenizer.pad_token_id, side)
                got = reward.last_token_scores(model, ids, mask)[: len(some)]
                assert torch.allclose(got, alone, atol=1e-5), (side, len(batch))
            for extra in (1, 7):
                ids, mask = models.pad(some, tokenizer.pad_token_id, side)
                where = (extra, 0) if side == "left" else (0, extra)
                ids = torch.nn.functional.pad(ids, where, value=tokenizer.pad_token_id)
                got = reward.last_token_scores(model, ids, torch.nn.functional.pad(mask, where))
                assert torch.allclose(got, alone, atol=1e-5), (side, extra)
    assert alone.std() > 1e-4  # the scores do differ from each other


@any_architecture
def test_no_architecture_keeps_any_dropout(tmp_path, name):
    """Also where it is not in a Dropout module, as in OPT: two forwards in training mode are bit-equal."""
    folder = language_model(tmp_path, name, more_dropout=0.3)
    for load in (models.load_model, models.load_reward_model):
        model, tokenizer = load(folder)
        model.train()
        ids = torch.tensor([reward.pair_ids(tokenizer, QUESTIONS[0], GOOD[0], 96)] * 8)
        one, two = (
            model(ids, attention_mask=torch.ones_like(ids)).logits
            if load is models.load_model
            else reward.last_token_scores(model, ids, torch.ones_like(ids))
            for _ in range(2)
        )
        assert torch.equal(one, two)


@pytest.mark.parametrize("side", ["left", "right"])
@any_architecture
def test_plain_transformers_gives_the_same_scores_for_a_batch(tmp_path, name, side):
    model, tokenizer = models.load_reward_model(language_model(tmp_path / "lm", name))
    models.save_model(model, tokenizer, tmp_path / "rm", "# A reward model")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    some = [reward.pair_ids(tokenizer, q, a, 96) for q, a in zip(QUESTIONS, GOOD + BAD)]
    tokenizer.padding_side = side
    batch = tokenizer.pad({"input_ids": some}, return_tensors="pt")
    with torch.no_grad():
        theirs = plain(**batch, position_ids=models.position_ids(batch["attention_mask"])).logits[:, 0]
    ours = reward.score(model, tokenizer, QUESTIONS[:6], list(GOOD + BAD))
    assert (batch["attention_mask"] == 0).any()
    assert torch.allclose(theirs, ours, atol=1e-5) and ours.std() > 1e-4


@pytest.mark.parametrize("padding", ["separate", "eos", "missing"])
@any_architecture
def test_plain_transformers_gives_the_same_scores(tmp_path, name, padding):
    """Where padding and end are the same token, a batch is refused rather than read at the wrong place."""
    model, tokenizer = models.load_reward_model(language_model(tmp_path / "lm", name, padding))
    asked, answers = QUESTIONS[:6], list(GOOD + BAD)
    ours = reward.score(model, tokenizer, asked, answers, batch_size=4)
    models.save_model(model, tokenizer, tmp_path / "rm", "# A reward model")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    again = AutoTokenizer.from_pretrained(tmp_path / "rm")
    assert plain.config.num_labels == 1 and (tmp_path / "rm" / "model.safetensors").is_file()
    for question, answer, expected in zip(asked, answers, ours):
        ids = torch.tensor([reward.pair_ids(again, question, answer, 96)])
        with torch.no_grad():
            assert plain(ids).logits.item() == pytest.approx(expected.item(), abs=1e-5)
    if padding != "separate":
        with pytest.raises(ValueError, match="no padding token"):
            plain(ids.expand(2, -1))
    loaded, _ = models.load_reward_model(tmp_path / "rm")  # and the trained head is kept
    assert torch.allclose(reward.score(loaded, again, asked, answers), ours, atol=1e-5)


def test_a_reward_model_is_the_language_model_but_for_its_last_layer(tiny):
    language, _ = models.load_model(tiny)
    model, _ = models.load_reward_model(tiny)
    mine, theirs = model.base_model.state_dict(), language.base_model.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert model.score.weight.shape == (1, 32) and model.score.bias is None
    assert all(m.p == 0 for m in model.modules() if isinstance(m, torch.nn.Dropout))


def test_a_new_head_is_drawn_with_the_right_spread(tiny):
    heads = torch.cat([models.load_reward_model(tiny)[0].score.weight for _ in range(20)])
    assert heads.std().item() == pytest.approx(33**-0.5, rel=0.15)


# ---------------------------------------------------------------- data


def test_identical_pairs_are_dropped_and_counted():
    tokenizer = tokenizer_with()
    same = {"prompt": QUESTIONS[0], "chosen": GOOD[0], "rejected": GOOD[0]}
    kept, dropped = reward.usable_pairs(tokenizer, [*rows(5), same, same], 96)
    assert (len(kept), dropped) == (5, 2)
    assert kept == [
        tuple(reward.pair_ids(tokenizer, r["prompt"], r[side], 96) for side in ("chosen", "rejected")) for r in rows(5)
    ]


def test_an_answer_ends_with_exactly_one_end_token():
    tokenizer = tokenizer_with()
    ids = reward.pair_ids(tokenizer, QUESTIONS[0], GOOD[0], 96)
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("template", [None, "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"])
def test_there_is_exactly_one_bos(template):
    """With a tokenizer that puts a BOS before every text by itself, as Llama's does, with and without a template."""
    tokenizer = models.new_tokenizer([*QUESTIONS, *GOOD, *BAD], vocab_size=300)
    tokenizer.add_special_tokens({"bos_token": "<|bos|>"})
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", bos)]
    )
    tokenizer.chat_template = template
    assert tokenizer("Hello")["input_ids"].count(bos) == 1
    for ids in (models.prompt_ids(tokenizer, QUESTIONS[0]), reward.pair_ids(tokenizer, QUESTIONS[0], GOOD[0], 96)):
        assert ids[0] == bos and ids.count(bos) == 1


@pytest.mark.parametrize("seed", range(5))
def test_no_prompt_is_on_both_sides_of_the_split(seed):
    train, held_out = reward.split_by_prompt(rows(200), 0.2, seed)
    assert not {r["prompt"] for r in train} & {r["prompt"] for r in held_out}
    assert len(train) + len(held_out) == 200
    assert len({r["prompt"] for r in held_out}) == 8
    assert (train, held_out) == reward.split_by_prompt(rows(200), 0.2, seed)
    assert held_out != reward.split_by_prompt(rows(200), 0.2, seed + 1)[1]


def test_the_split_does_not_depend_on_the_order_of_rows():
    forward, backward = (reward.split_by_prompt(some, 0.2, 3)[1] for some in (rows(), rows()[::-1]))
    assert {r["prompt"] for r in forward} == {r["prompt"] for r in backward}


# ---------------------------------------------------------------- training


def trained(folder, some=None, **options):
    torch.manual_seed(0)
    model, tokenizer = models.load_reward_model(folder)
    history = reward.train_reward_model(
        model, tokenizer, some or rows(), **{"epochs": 3, "batch_size": 20, "lr": 3e-3} | options
    )
    return model, tokenizer, history


@pytest.mark.parametrize(
    "name, padding",
    [*((n, "separate") for n in ARCHITECTURES), ("gpt2", "eos"), ("llama", "missing"), ("gpt_neox", "eos")],
)
def test_training_raises_accuracy(tmp_path, name, padding):
    folder = language_model(tmp_path, name, padding)
    torch.manual_seed(0)
    untrained, tokenizer = models.load_reward_model(folder)
    before = reward.evaluate(untrained, tokenizer, rows())
    model, tokenizer, history = trained(folder)
    after = reward.evaluate(model, tokenizer, rows())
    assert [h["step"] for h in history] == list(range(1, 16))
    assert before["loss"] == pytest.approx(math.log(2), abs=0.3)
    assert after["accuracy"] >= max(0.95, before["accuracy"])
    assert after["loss"] < 0.3 and after["margin"] > before["margin"]


def test_training_twice_gives_the_same_weights(tiny):
    (a, _, first), (b, _, second) = trained(tiny), trained(tiny)
    assert first == second
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))


def test_the_centre_term_puts_good_above_zero_and_bad_below(tiny):
    model, tokenizer, _ = trained(tiny, epochs=8, center=0.05)
    s = reward.score(model, tokenizer, QUESTIONS[:3] * 2, list(GOOD + BAD))
    assert s[:3].min() > 0 > s[3:].max()


def test_the_first_loss_is_ln_2_with_a_zero_head(tiny):
    model, tokenizer = models.load_reward_model(tiny)
    torch.nn.init.zeros_(model.score.weight)
    history = reward.train_reward_model(model, tokenizer, rows(20), batch_size=20)
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("n, size", [(1, 8), (8, 8), (100, 8), (333, 4)])
def test_batches_of_like_length_hold_every_example_once(n, size):
    lengths = torch.randint(1, 60, (n,), generator=torch.Generator().manual_seed(n)).tolist()
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1)).tolist()
    batches = reward.like_lengths(order, lengths.__getitem__, size, torch.Generator().manual_seed(2))
    assert sorted(i for b in batches for i in b) == list(range(n))
    assert len(batches) == -(-n // size) and max(map(len, batches)) <= size
    padded = sum(len(b) * max(lengths[i] for i in b) for b in batches)
    plain = sum(len(b) * max(lengths[i] for i in b) for b in (order[i : i + size] for i in range(0, n, size)))
    assert padded <= plain and (n < 100 or padded < 1.15 * sum(lengths))


def test_dropped_pairs_are_in_the_history(tiny):
    same = {"prompt": QUESTIONS[0], "chosen": BAD[0], "rejected": BAD[0]}
    _, _, history = trained(tiny, [*rows(10), same], epochs=1)
    assert history[0]["dropped"] == 1


def test_on_step_sees_every_step(tiny):
    seen = []
    _, _, history = trained(tiny, epochs=1, on_step=lambda step, steps, row: seen.append((step, steps, row)))
    assert seen == [(i + 1, 5, history[i]) for i in range(5)]


def test_a_tie_counts_half(tiny):
    model, tokenizer = models.load_reward_model(tiny)
    torch.nn.init.zeros_(model.score.weight)
    found = reward.evaluate(model, tokenizer, rows(6))
    assert (found["accuracy"], found["margin"]) == (0.5, 0)


# ---------------------------------------------------------------- what is said when something is wrong


def test_too_long_a_preference_is_named(tiny):
    model, tokenizer = models.load_reward_model(tiny)
    too_long = {"prompt": QUESTIONS[0], "chosen": "word " * 200, "rejected": "No."}
    with pytest.raises(WorkbookError, match=r"\d+ tokens together, but the model reads only 96.*What is the.*Shorten"):
        reward.train_reward_model(model, tokenizer, [*rows(5), too_long])


def test_of_too_long_an_answer_what_fits_is_judged(tiny):
    model, tokenizer = models.load_reward_model(tiny)
    ids, short = reward.readable_ids(tokenizer, QUESTIONS[:1] * 2, ["word " * 200, GOOD[0]], 96)
    asked = models.prompt_ids(tokenizer, QUESTIONS[0])
    whole = models.response_ids(tokenizer, "word " * 200)
    assert ids == asked + whole[: 95 - len(asked)] + [tokenizer.eos_token_id]
    fits = reward.pair_ids(tokenizer, QUESTIONS[0], GOOD[0], 96)
    assert short == fits and reward.readable_ids(tokenizer, QUESTIONS[:1], GOOD[:1], len(fits)) == [fits]
    found = reward.score(model, tokenizer, QUESTIONS[:2], ["word " * 200, GOOD[0]])
    assert found.isfinite().all()
    assert found[1].item() == pytest.approx(reward.score(model, tokenizer, QUESTIONS[1:2], GOOD[:1]).item(), abs=1e-5)


def test_too_long_a_prompt_is_named(tiny):
    model, tokenizer = models.load_reward_model(tiny)
    with pytest.raises(WorkbookError, match="tokens together, but the model reads only 96"):
        reward.score(model, tokenizer, ["word " * 200], ["No."])


@pytest.mark.parametrize("some", [[], [{"prompt": QUESTIONS[0], "chosen": "No.", "rejected": "No."}] * 3])
def test_nothing_to_learn_from(tiny, some):
    model, tokenizer = models.load_reward_model(tiny)
    with pytest.raises(WorkbookError, match="no pair to learn from"):
        reward.train_reward_model(model, tokenizer, some)
    with pytest.raises(WorkbookError, match="no pair to measure on"):
        reward.evaluate(model, tokenizer, [])


def test_an_empty_file_has_nothing_to_learn_from(tiny, tmp_path):
    (tmp_path / "preferences.jsonl").write_text("")
    model, tokenizer = models.load_reward_model(tiny)
    with pytest.raises(WorkbookError, match="no pair to learn from"):
        reward.train_reward_model(model, tokenizer, files.read_jsonl(tmp_path / "preferences.jsonl"))


def test_labels_that_are_all_ties_have_nothing_to_learn_from(tiny):
    label = {
        "annotator": "me",
        "pair_id": "1",
        "prompt": QUESTIONS[0],
        "response_a": GOOD[0],
        "response_b": BAD[0],
        "choice": "tie",
        "strength": None,
    }
    some, left_out = feedback.to_preferences([label | {"pair_id": b, "response_b": b} for b in BAD])
    assert (some, left_out) == ([], {"tie": 3})
    model, tokenizer = models.load_reward_model(tiny)
    with pytest.raises(WorkbookError, match="all were ties"):
        reward.train_reward_model(model, tokenizer, some)


@pytest.mark.parametrize("name", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize("value", [None, math.nan, 3])
def test_a_preference_without_one_of_its_texts_is_named(tiny, name, value):
    """One-sided data (no rejected answers, say) and the NaN of an empty cell in a table."""
    model, tokenizer = models.load_reward_model(tiny)
    before = [p.clone() for p in model.parameters()]
    some = [*rows(4), rows(5)[4] | {name: value}]
    for use in (reward.train_reward_model, reward.evaluate):
        with pytest.raises(WorkbookError, match=f"Preference 5 of 5 has no text as '{name}'"):
            use(model, tokenizer, some)
    del some[4][name]
    with pytest.raises(WorkbookError, match=f"no text as '{name}'"):
        reward.train_reward_model(model, tokenizer, some)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_a_number_stops_training(tiny, where):
    model, tokenizer = models.load_reward_model(tiny)
    if where == "loss":
        torch.nn.init.constant_(model.score.weight, math.nan)
    else:  # a finite loss with a broken gradient
        model.score.weight.register_hook(lambda grad: grad * math.inf)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(WorkbookError, match="not a number to go on with.*Lower the learning rate"):
        reward.train_reward_model(model, tokenizer, rows(20))
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(before, model.parameters()))
    assert not model.training


def test_prompts_and_answers_must_match_in_number(tiny):
    model, tokenizer = models.load_reward_model(tiny)
    with pytest.raises(ValueError, match="zip"):
        reward.score(model, tokenizer, QUESTIONS[:2], ["No."])


# ---------------------------------------------------------------- interrupted and resumed


def long_run(checkpoint=None, stop=None, **options):
    """30 steps on a tiny model with dropout, made here, the same each time: its weights after them.

    With `stop`, says "here" and then waits to be killed: "between" steps, after the checkpoint of step 20, or
    while "writing" the checkpoint of step 10.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = tokenizer_with()
    model = AutoModelForSequenceClassification.from_config(config("gpt2", tokenizer, num_labels=1)).eval()
    reward.SAVE_EVERY = 5

    def wait():
        print("here", flush=True)
        time.sleep(600)

    def on_step(step, steps, row):
        if stop == "between" and step == 23:
            wait()
        if stop == "writing" and step == 10:
            os.fsync = lambda handle: wait()
        if stop == "interrupt" and step == 17:
            raise KeyboardInterrupt

    options = {"epochs": 3, "batch_size": 10, "lr": 3e-3, "seed": 1} | options
    some = options.pop("rows", rows())
    history = reward.train_reward_model(model, tokenizer, some, on_step=on_step, checkpoint=checkpoint, **options)
    return [p.detach() for p in model.parameters()], history


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["between", "writing"])
def test_a_killed_training_goes_on_bit_for_bit(kill_in_the_middle, capsys, where):
    path = kill_in_the_middle("test_reward", where)
    whole, history = long_run()
    capsys.readouterr()
    weights, again = long_run(path)
    done = {"between": 20, "writing": 5}[where]
    assert f"Going on after step {done}" in capsys.readouterr().out
    assert same(weights, whole) and again == history and len(history) == 30
    assert not path.exists(), "a finished training leaves no checkpoint"


def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path):
    whole, history = long_run()
    with pytest.raises(KeyboardInterrupt):
        long_run(tmp_path / "run.pt", "interrupt")
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    weights, again = long_run(tmp_path / "run.pt")
    assert same(weights, whole) and again == history


def test_a_checkpoint_changes_no_result(tmp_path):
    assert same(long_run(tmp_path / "run.pt")[0], long_run()[0])


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"lr": 1e-3}, "learning rate"),
        ({"seed": 2}, "seed"),
        ({"epochs": 4}, "epochs"),
        ({"rows": rows()[::-1]}, "set of pairs"),
        ({"center": 0.0}, "centre"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, changes, name):
    with pytest.raises(KeyboardInterrupt):
        long_run(tmp_path / "run.pt", "interrupt")
    before = (tmp_path / "run.pt").read_bytes()
    with pytest.raises(WorkbookError, match=f"another run, with a different {name}\\. Delete it"):
        long_run(tmp_path / "run.pt", **changes)
    assert (tmp_path / "run.pt").read_bytes() == before


class Foreign:
    """A pickle that would run code when it is opened."""

    def __reduce__(self):
        return os.system, ("touch opened",)


def test_a_damaged_or_foreign_checkpoint_is_named_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        long_run(path, "interrupt")
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    contents = [good[: len(good) // 2], flipped, b"", b"hello", pickle.dumps(Foreign())]
    for other in ({"weights": torch.zeros(3)}, {"run": {}, "history": "[]", "more": {}, "model": Foreign()}):
        torch.save(other, path)
        contents.append(path.read_bytes())
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(WorkbookError, match="run.pt is damaged or not a checkpoint.*Delete it"):
            long_run(path)
    assert not (tmp_path / "opened").exists()
