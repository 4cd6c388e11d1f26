"""16 and 32 bits: who computes in what, that rounding stays within its bounds, and that real bugs do not.

A CPU has bf16 and fp16 too, so all of it is tested without a GPU; `WORKBOOK_ARITHMETIC` asks for them.
"""

import copy
import gc
import types
import weakref

import pytest
import torch
from test_general import language_model
from test_packing import causal
from test_ppo import PROMPTS, letters, settings, tiny, weights
from test_ppo import tokenizer as ppo_tokenizer
from test_reward import any_architecture
from transformers import AutoModelForCausalLM, GPTNeoConfig

from rlhf_helpers.engine import arithmetic, memory, models, packing, sampler
from rlhf_helpers.engine.arithmetic import BF16, FP16, FP32
from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.lesson import decoding, lm, ppo, reward
from rlhf_helpers.make import series

tokenizer = ppo_tokenizer  # the fixture
both = pytest.mark.parametrize("name", ["bf16", "fp16"])
RAGGED = torch.tensor([[0, 0, 5, 6, 7], [9, 8, 7, 6, 5], [0, 3, 4, 4, 2], [0, 0, 0, 1, 2]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 1, 1]])


@pytest.fixture
def asked(monkeypatch):
    """A function that asks for an arithmetic by name."""
    return lambda name: monkeypatch.setenv("WORKBOOK_ARITHMETIC", name)


def shipped(name="finetuned"):
    return models.load_model(ROOT / "data" / "models" / name)


# ---------------------------------------------------------------- the choice


@pytest.mark.parametrize(
    "device, parameters, capability, bf16, expected",
    [
        ("cpu", 10**9, None, None, (FP32,)),
        ("mps", 10**9, None, None, (FP32,)),
        ("cuda", 10**6, (9, 0), True, (FP32,)),  # a small model gains nothing
        ("cuda", 10**9, (9, 0), True, (FP16, BF16)),
        ("cuda", 10**9, (7, 5), False, (FP16,)),  # a T4
        ("cuda", 10**9, (6, 1), False, (FP32,)),  # a card without 16 bits
    ],
)
def test_device_card_and_size_choose_the_arithmetic(monkeypatch, device, parameters, capability, bf16, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert arithmetic.possible(torch.device(device), parameters) == expected


def test_of_two_the_one_nearer_to_fp32_is_taken(monkeypatch):
    model = causal("gpt2")
    monkeypatch.setattr(arithmetic, "possible", lambda device, parameters: (FP16, BF16))
    assert arithmetic.rounding(model, FP16) < arithmetic.rounding(model, BF16)
    assert arithmetic.arithmetic_of(model) is FP16
    loud = causal("gpt2")
    with torch.no_grad():
        for block in loud.transformer.h:  # activations beyond what fp16 can hold, as in some models trained in bf16
            block.mlp.c_fc.weight.mul_(3e4)
            block.mlp.c_proj.weight.mul_(3e2)
    assert arithmetic.rounding(loud, FP16) == float("inf") and arithmetic.arithmetic_of(loud) is BF16


def test_an_unknown_arithmetic_is_named(asked):
    asked("int4")
    with pytest.raises(WorkbookError, match="WORKBOOK_ARITHMETIC is 'int4'; choose one of fp32, fp16, bf16"):
        arithmetic.arithmetic_of(causal("gpt2"))


# ---------------------------------------------------------------- the head in fp32


def test_a_head_in_16_bits_rounds_its_logits_and_ours_does_not(asked):
    """What went wrong on every card with bf16: logits near 12 are then 0.06 apart."""
    model, tokenizer = shipped()
    ids = models.encode_prompts(tokenizer, ["Where does a dog live?"])[0]
    plain = model(ids).logits
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(ids).logits
    asked("bf16")
    with arithmetic.autocast(model):
        ours = model(ids).logits
        assert torch.is_autocast_enabled("cpu")  # what comes after the head is not changed
    assert not torch.is_autocast_enabled("cpu")
    assert rounded.dtype == torch.bfloat16 and ours.dtype == torch.float32
    assert torch.equal(ours, ours) and (ours - ours.bfloat16().float()).abs().max() > 1e-3
    assert (ours - plain).abs().mean() < (rounded.float() - plain).abs().mean()


@both
def test_a_head_that_fails_leaves_the_arithmetic_as_it_was(asked, name):
    asked(name)
    model = causal("gpt2")
    with pytest.raises(RuntimeError):
        with arithmetic.autocast(model):
            model.lm_head(torch.zeros(2, 3))
    assert not torch.is_autocast_enabled("cpu")


# ---------------------------------------------------------------- the sampler, draw for draw


def rolled(model, way, seed=0, how=(1.0, 0, 1.0), steps=20, ends=frozenset(range(10, 40)), twice=False):
    """((ids, mask, log-probabilities), state of the generator) of the plain loop or of the static one."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: decoding.draws(len(RAGGED), how[0], generator, "cpu")  # noqa: E731
    for _ in range(1 + twice):
        if way == "plain":
            out = decoding.rollout(model, RAGGED, MASK, steps, set(ends), generator, *how)
        else:
            inputs = model, RAGGED, MASK, steps, set(ends), generator
            out = sampler.static_rollout(*inputs, draw, decoding.next_tokens, how)
    return out, generator.get_state()


@any_architecture
@pytest.mark.parametrize("how", [(1.0, 0, 1.0), (0.7, 5, 0.9), (0, 0, 1.0)])
def test_the_static_sampler_draws_what_the_plain_loop_draws(name, how):
    """Ends at different places, and beyond the first look at who is left; the generator is left alike, too."""
    for seed, ends in ((0, set(range(10, 40))), (1, {11}), (2, {10_000})):
        plain, state = rolled(causal(name), "plain", seed, how, ends=ends, twice=True)
        static, its_state = rolled(causal(name), "static", seed, how, ends=ends, twice=True)
        assert torch.equal(plain[0], static[0]) and torch.equal(plain[1], static[1])
        assert torch.allclose(plain[2], static[2], atol=1e-5)
        assert torch.equal(state, its_state)


def test_one_sampler_serves_batches_of_one_shape_and_sees_new_weights():
    model = causal("llama")
    rolled(model, "static")
    first = model._sampler
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    assert torch.equal(rolled(model, "static")[0][0], rolled(model, "plain")[0][0]) and model._sampler is first
    rolled(model, "static", how=(0.5, 0, 1.0))
    assert model._sampler is not first
    assert copy.deepcopy(model)._sampler is None, "a copy of a model makes its own"


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16"])
def test_model_and_sampler_are_gone_at_once_when_nobody_uses_them(asked, name):
    """Not when Python next looks for circles, which may be a hundred batches later."""
    asked(name)
    model = causal("gpt2")
    gc.disable()
    try:
        rolled(model, "static")
        theirs = weakref.ref(model._sampler), weakref.ref(model._sampler.cache.layers[0].keys)
        rolled(model, "static", how=(0.5, 0, 1.0))
        assert not any(gone() for gone in theirs), "the sampler of another shape stayed"
        everything = weakref.ref(model), weakref.ref(model._sampler), weakref.ref(model.lm_head.weight)
        del model
        assert not any(gone() for gone in everything)
    finally:
        gc.enable()


@both
def test_the_sampler_in_16_bits_sees_new_weights_too_and_keeps_the_head(asked, name):
    asked(name)
    model = causal("gpt2")  # its head is tied to the embedding
    rolled(model, "static")
    other = model._sampler.model
    assert other.lm_head.weight is model.lm_head.weight and model.lm_head.weight.dtype == torch.float32
    layers = other.transformer
    assert layers.wte.weight.dtype == layers.h[0].mlp.c_fc.weight.dtype == arithmetic.BY_NAME[name].dtype
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    rolled(model, "static")
    assert torch.equal(
        other.transformer.wte.weight, model.transformer.wte.weight.to(other.transformer.wte.weight.dtype)
    )
    assert all(p.grad is None for p in model.parameters()) and model.transformer.wte.weight.requires_grad


def test_a_model_that_the_sampler_cannot_do_goes_the_plain_way_and_says_so_once(monkeypatch, capsys):
    model = causal("gpt2")
    monkeypatch.setattr(decoding, "is_fast", lambda model: True)

    def broken(self, keys, values, *args, **kwargs):
        raise AttributeError("no attribute 'batch_select_indices'")

    monkeypatch.setattr(sampler.Slots, "update", broken)
    outs = [rolled(model, "plain") for _ in range(2)]
    said = capsys.readouterr().out
    assert said.count("plain loop, which is slower") == 1 and "cache can't have a fixed size (AttributeError)" in said
    monkeypatch.undo()
    assert torch.equal(outs[0][0][0], rolled(causal("gpt2"), "plain")[0][0])


def test_wrong_numbers_of_a_sampler_are_noticed_before_it_is_used(monkeypatch, capsys):
    model = causal("gpt2")  # a cache that forgets: each key is written over the one before
    right = sampler.Slots.update

    def forgetful(self, keys, values, *args, **kwargs):
        now, self.columns.now = self.columns.now, self.columns.now.clamp(max=3)
        out = right(self, keys, values)
        self.columns.now = now
        return out

    monkeypatch.setattr(sampler.Slots, "update", forgetful)
    assert "log-probabilities are then off by" in sampler.why_not(model, 64)


def test_a_window_shorter_than_the_answers_goes_the_plain_way():
    model = causal("llama")
    model.config.sliding_window = 32
    assert sampler.why_not(model, 64) == "its layers look back 32 tokens only" and not sampler.why_not(model, 32)


def test_a_window_by_any_other_name_is_noticed_by_its_numbers():
    """GPT-Neo calls it window_size; a trial as long as the answers sees that something is not looked at."""
    torch.manual_seed(0)
    kinds = {"attention_types": [[["global", "local"], 1]], "window_size": 8, "num_layers": 2, "num_heads": 2}
    model = AutoModelForCausalLM.from_config(GPTNeoConfig(vocab_size=280, hidden_size=32, **kinds)).eval()
    assert not sampler.why_not(model, 7) and "off by" in sampler.why_not(model, 64)


# ---------------------------------------------------------------- three log-probabilities, two checks


@pytest.mark.slow
@both
@pytest.mark.parametrize("model", ["shipped", "gpt2", "llama", "qwen2"])
def test_health_checks_pass_in_16_bits(asked, tokenizer, name, model):
    asked(name)
    if model == "shipped":
        model, its = shipped()
        prompts = ["Where does a dog live?", "What colour is a lime?", "What is the capital of France?"] * 4
    else:
        its, prompts, model = tokenizer, PROMPTS, tiny(tokenizer) if model == "gpt2" else causal(model)
        model.generation_config.eos_token_id, model.config.pad_token_id = its.eos_token_id, its.pad_token_id
    seen = []
    how = settings(updates=3, lr=1e-4)
    history, card = ppo.train(model, its, letters, prompts, how, on_update=lambda row, batch: seen.append(batch))
    bounds = arithmetic.BY_NAME[name]
    assert card["tokens are drawn from the policy that is trained"] < bounds.mismatch / 3, "with room to spare"
    assert card["ratio is 1 in the first minibatch"] < bounds.same / 3
    assert any(not torch.equal(b["drawn"], b["logprobs"]) for b in seen), "two computations of the same number"
    assert history[0]["kl"] == pytest.approx(0, abs=0.05)


def test_where_there_are_two_the_choice_is_made_when_nothing_listens_to_the_model(monkeypatch, tokenizer):
    """On every newer card, of a large model: the choice is a trial of it, and copies choose anew."""
    monkeypatch.setattr(arithmetic, "possible", lambda device, parameters: (FP16, BF16))
    model = tiny(tokenizer)
    history, card = ppo.train(model, tokenizer, letters, PROMPTS, settings(updates=2, lr=1e-4))
    assert len(history) == 2 and card["ratio is 1 in the first minibatch"] < FP16.same / 3
    for kind in (ppo.PolicyWithValue, ppo.PackedPolicy):
        policy = kind(copy.deepcopy(model))
        scaler = arithmetic.loss_scaler(torch.optim.Adam(policy.parameters()), policy)
        assert arithmetic.arithmetic_of(policy) is arithmetic.arithmetic_of(policy.model) is FP16
        assert scaler.is_enabled()
    packed, ends = packing.pack_groups([[[1, 2, 3, 4]], [[5, 6, 7]]])
    first, again = (packing.logits_at(m, packed, ends.flatten())[0] for m in [copy.deepcopy(model)] * 2)
    assert torch.equal(first, again)


def test_in_fp32_nothing_is_computed_twice(tokenizer):
    policy = ppo.PackedPolicy(tiny(tokenizer))
    prompt, mask = models.encode_prompts(tokenizer, PROMPTS)
    _, _, drawn, old, _, _ = policy.respond(prompt, mask, 8, {tokenizer.eos_token_id}, None)
    assert drawn is old
    assert torch.equal(ppo.importance(old, drawn), torch.ones_like(old))


def test_the_packed_policy_of_a_gpu_says_what_the_plain_one_says(asked, tokenizer):
    """Values and entropy of a sampler that shows no states come from one pass over the finished answers."""
    model = tiny(tokenizer)
    policy = ppo.PackedPolicy(model)
    torch.nn.init.normal_(policy.value_head.weight)
    prompt, mask = models.encode_prompts(tokenizer, PROMPTS)
    inputs = prompt, mask, 8, {tokenizer.eos_token_id}
    watched = policy.respond(*inputs, torch.Generator().manual_seed(0))
    with torch.no_grad():
        read = policy.respond_and_read(*inputs, torch.Generator().manual_seed(0))
    for a, b in zip(watched, read, strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-5)


def test_importance_is_old_over_drawn_and_cut_off():
    old, drawn = torch.tensor([[-1.0, -2.0, 0.0]]), torch.tensor([[-1.5, -1.0, -3.0]])
    expected = torch.tensor([[torch.e**0.5, torch.e**-1.0, 2.0]])
    assert torch.allclose(ppo.importance(old, drawn), expected)


def test_advantages_are_weighed_by_it_and_ratio_and_kl_use_old(asked, tokenizer, monkeypatch):
    asked("bf16")
    model = tiny(tokenizer)
    policy, reference = ppo.PackedPolicy(model), ppo.PackedPolicy(copy.deepcopy(model))
    off = 0.3
    monkeypatch.setattr(ppo, "rollout", lambda *a: (lambda i, m, p: (i, m, p - off * (p != 0)))(*decoding.rollout(*a)))
    batch = ppo.collect(
        policy, reference, tokenizer, letters, PROMPTS * 2, settings(), torch.Generator().manual_seed(0)
    )
    real = batch["mask"].bool()
    weight = (batch["logprobs"] - batch["drawn"]).exp().clamp(max=2)[real]
    assert weight.mean() == pytest.approx(torch.e**off, rel=0.02)
    assert torch.allclose(batch["advantages"][real], ppo.whiten(batch["raw_advantages"], batch["mask"])[real] * weight)
    assert ((batch["logprobs"] - batch["ref_logprobs"]) * batch["mask"]).abs().max() < 0.05, "old against reference"


def hotter(temperature):
    return lambda *a: decoding.rollout(*a, temperature)


def columns_for_positions(mask):
    """The padding counted: what `position_ids` is there to prevent."""
    return torch.arange(mask.shape[1]).expand(mask.shape)


MISMATCHES = {
    "a wrong temperature": lambda patch, model: patch.setattr(ppo, "rollout", hotter(0.95)),
    "top-k": lambda patch, model: patch.setattr(ppo, "rollout", lambda *a: decoding.rollout(*a, 1.0, 3)),
    "wrong positions": lambda patch, model: patch.setattr(sampler, "position_ids", columns_for_positions),
    "left-over dropout": lambda patch, model: patch.setattr(ppo.PackedPolicy, "look", forgetful(model)),
}


def forgetful(model):
    right = ppo.PackedPolicy.look

    def look(self, *inputs):
        for module in self.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1
        self.train()
        return right(self, *inputs)

    return look


@pytest.mark.slow
@both
@pytest.mark.parametrize("bug", MISMATCHES)
def test_the_bounds_of_16_bits_still_catch_real_bugs(asked, monkeypatch, tokenizer, name, bug):
    asked(name)
    model, its = shipped()
    prompts = ["Where does a dog live?", "What is the capital of France?", "Is it so? Which colour is a lime?"] * 8
    sampler.why_not(model, 64)  # tried while all is well
    MISMATCHES[bug](monkeypatch, model)
    with pytest.raises(WorkbookError, match="Health check failed at update 1: (tokens are drawn from|ratio is 1)"):
        ppo.train(model, its, letters, prompts, settings(updates=1))


# ---------------------------------------------------------------- one step


def test_a_step_in_fp32_is_the_plain_one():
    model, twin = causal("gpt2"), causal("gpt2")
    ids = torch.arange(1, 13).view(2, 6)
    whole = torch.ones_like(ids)
    for m, take in ((model, True), (twin, False)):
        optimizer = torch.optim.AdamW(m.parameters(), lr=1e-2)
        for _ in range(3):
            loss = lm.plain_loss(m, ids, whole, whole)
            if take:
                arithmetic.take_step(loss, m, optimizer)
            else:
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
                optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(twin)))


def test_a_scale_that_is_too_large_costs_a_step_and_is_halved(asked):
    asked("fp16")
    model = causal("gpt2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.arange(1, 13).view(2, 6)
    whole = torch.ones_like(ids)
    arithmetic.take_step(lm.plain_loss(model, ids, whole, whole), model, optimizer)
    scaler, before = arithmetic._scalers[optimizer], weights(model)
    hook = model.lm_head.weight.register_hook(lambda grad: grad * float("inf"))
    scale = scaler.get_scale()
    arithmetic.take_step(lm.plain_loss(model, ids, whole, whole), model, optimizer)
    assert scaler.get_scale() == scale / 2 and all(torch.equal(a, b) for a, b in zip(before, weights(model)))
    with pytest.raises(WorkbookError, match="not a number to go on with"):  # but not for ever
        for _ in range(20):
            arithmetic.take_step(lm.plain_loss(model, ids, whole, whole), model, optimizer)
    hook.remove()
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model)))


@pytest.mark.slow
@both
def test_training_learns_in_16_bits_as_in_fp32(asked, name):
    """The reward model's loss on the same pairs, by both arithmetics, from the same start."""
    rows = [{"prompt": p, "chosen": "Yes, it is.", "rejected": "No."} for p in PROMPTS] * 8
    last = {}
    for arithmetic_name in ("fp32", name):
        asked(arithmetic_name)
        torch.manual_seed(0)
        model, its = models.load_reward_model(ROOT / "data/models/finetuned")
        history = reward.train_reward_model(model, its, rows, batch_size=8, lr=1e-3)
        last[arithmetic_name] = [h["loss"] for h in history]
    assert last[name] == pytest.approx(last["fp32"], abs=0.05) and last[name][-1] < 0.5 * last[name][0]


@both
def test_packed_rows_are_told_from_wrong_ones_in_16_bits(asked, name):
    asked(name)
    model = causal("llama")
    assert packing._tried(model)
    with torch.no_grad():  # large activations are no reason against packing
        model.model.norm.weight.mul_(300)
    assert packing._tried(model)
    right = packing.attention
    packing.attention, wrong = lambda group, branch: right(torch.zeros_like(group), branch), None
    try:
        wrong = packing._tried(model)
    finally:
        packing.attention = right
    assert wrong is False


# ---------------------------------------------------------------- out of memory


def test_a_device_that_runs_out_of_memory_says_what_to_lower_and_keeps_the_policy(tokenizer):
    model, calls, kept = tiny(tokenizer), [], []

    def full(prompts, responses):
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return letters(prompts, responses)

    with pytest.raises(WorkbookError, match="ran out of memory in update 2 of PPO. Lower batch_size.*policy is kept"):
        ppo.train(model, tokenizer, full, PROMPTS, settings(), on_update=lambda row, batch: kept.append(weights(model)))
    assert len(kept) == 1 and all(torch.equal(a, b) for a, b in zip(kept[0], weights(model)))


def test_the_other_trainings_say_it_too(monkeypatch, tokenizer):
    def full(*a):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(reward, "preference_loss", full)
    model, its = models.load_reward_model(ROOT / "data/models/finetuned")
    rows = [{"prompt": p, "chosen": "Yes.", "rejected": "No."} for p in PROMPTS]
    with pytest.raises(WorkbookError, match="ran out of memory in training the reward model. Lower batch_size"):
        reward.train_reward_model(model, its, rows)
    batch = types.SimpleNamespace()
    with pytest.raises(WorkbookError, match="ran out of memory in training the language model"):
        lm.fit(tiny(tokenizer), [(batch, batch, batch)], 1, 1e-3, loss_of=full)


def test_a_card_that_is_too_small_or_without_16_bits_is_named_before_anything_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(memory, "shape_of", lambda source: memory.Shape(494_000_000, 24, 896, 4864, 14, 2, 151_936))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(memory, "free_memory", lambda device: 200 * memory.GIB)
    memory.check("any", torch.device("cuda"), "PPO", 4)
    said = capsys.readouterr().out
    assert "computed in fp32." in said and "This card has no fast 16-bit arithmetic" in said
    monkeypatch.setattr(memory, "free_memory", lambda device: 15 * memory.GIB)
    with pytest.raises(WorkbookError, match="PPO with this model needs about .* GiB, and cuda has 15.0 GiB free."):
        memory.check("any", torch.device("cuda"), "PPO", 4)


# ---------------------------------------------------------------- through the chapters

THROUGH = [("embedded", name, n) for name in ("bf16", "fp16") for n in ("04", "05", "06", "bug_museum")]
THROUGH += [(model, name, "02 03 04 05 06") for model in ("gpt2", "llama") for name in ("bf16", "fp16")]
IN_THE_SUITE = [("embedded", "bf16", "05")]  # the others: `make test-matrix`
one_of_them = pytest.mark.parametrize(
    "model, name, chapters", [p if p in IN_THE_SUITE else pytest.param(*p, marks=pytest.mark.matrix) for p in THROUGH]
)


@pytest.mark.slow
@one_of_them
def test_the_chapters_run_in_16_bits_and_pass_their_health_checks(tmp_path, warm_kernels, asked, model, name, chapters):
    asked(name)  # kernels inherit it
    given = {"FAST": True, "RUNS_DIR": str(tmp_path / "runs")}
    if model != "embedded":
        given["MODEL"] = str(language_model(tmp_path / "model", model))
    for path in series.chapters(chapters.split()):
        nb = series.execute(path, tmp_path / "executed", given)
        assert series.widget_errors(nb) == []
        said = "".join(o.get("text", "") for c in nb.cells if c.cell_type == "code" for o in c.outputs)
        assert "plain loop, which is slower" not in said
