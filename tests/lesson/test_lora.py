"""LoRA: the base stays as it is and is held once, the reference is the base alone, and folders are PEFT's."""

import copy
import dataclasses
import json
import shutil

import pytest
import torch
from test_general import KINDS, language_model
from test_general import PROMPTS as ASKED
from test_ppo import PROMPTS, EarlyValue, letters, settings, small_tokenizer, tiny, without_the_end
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf_helpers.desk import tasks, workspace
from rlhf_helpers.engine import checkpoints, lora, memory, models, packing
from rlhf_helpers.engine.files import WorkbookError
from rlhf_helpers.lesson import decoding, loop, ppo, reward
from rlhf_helpers.make import series

peft = pytest.importorskip("peft")  # an extra; `make test` installs it
ROWS = [{"prompt": p, "chosen": "The cat.", "rejected": "It is red, and it is here."} for p in PROMPTS] * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 of width 32 as a folder."""
    path, tokenizer = tmp_path_factory.mktemp("base"), small_tokenizer()
    models.save_model(tiny(tokenizer), tokenizer, path, "A model.")
    return path


def with_adapter(folder, load=models.load_model, rank=4):
    """A model with an adapter that has moved away from nothing."""
    model, tokenizer = load(folder, lora=rank)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.3)
    return model, tokenizer


def logits(model, tokenizer):
    ids, mask = models.encode_prompts(tokenizer, PROMPTS)
    with torch.no_grad():
        return model(ids, attention_mask=mask, position_ids=models.position_ids(mask)).logits[mask.bool()]


def held(model):
    return {name: p for name, p in model.named_parameters() if isinstance(p, lora.Held)}


# ---------------------------------------------------------------- what is trained, and what is held


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma"])
def test_a_fresh_adapter_changes_nothing_and_only_it_gets_a_gradient(tmp_path, name):
    plain, tokenizer = models.load_model(language_model(tmp_path, name))
    model, _ = models.load_model(tmp_path, lora=4)
    ids, mask = models.encode_prompts(tokenizer, ASKED[:4])
    there = {"attention_mask": mask, "position_ids": models.position_ids(mask)}
    with torch.no_grad():
        assert torch.equal(model(ids, **there).logits, plain(ids, **there).logits)
    policy = ppo.PolicyWithValue(model)
    policy(ids, mask, ids.shape[1] - 2)[0].square().mean().backward()
    policy.value_head(torch.ones(32)).sum().backward()
    trained = {n for n, p in policy.named_parameters() if p.grad is not None and p.grad.abs().sum()}
    assert {n for n, p in policy.named_parameters() if p.grad is not None} == {
        n for n, p in policy.named_parameters() if p.requires_grad
    }
    assert trained and all("lora_B" in n or "value_head" in n for n in trained)  # B is 0, so A has none yet
    layers = [n for n, m in plain.named_modules() if type(m).__name__ in ("Linear", "Conv1D") and n != "lm_head"]
    assert sum("lora_A" in n for n, _ in model.named_parameters()) == len(layers) > 0


def test_every_copy_holds_the_same_weights_and_has_an_adapter_of_its_own(folder):
    model, _ = models.load_model(folder, lora=4)
    other, again = copy.deepcopy(model), models.load_model(folder, lora=4)[0]
    judge, _ = models.load_reward_model(folder, lora=4)
    mine = held(model)
    assert len(mine) == 28 and model.lm_head.weight is model.transformer.wte.weight
    for one in (other, again):
        assert all(p is mine[n] for n, p in held(one).items())
        own = [n for n, p in one.named_parameters() if p.requires_grad]
        assert own and not any(dict(one.named_parameters())[n] is dict(model.named_parameters())[n] for n in own)
    assert sum(p is mine.get(n) for n, p in held(judge).items()) == 28, "the reward model has another head only"


def test_other_weights_under_the_same_name_are_not_taken_for_the_same(folder, tmp_path):
    tokenizer = small_tokenizer()
    models.save_model(tiny(tokenizer, seed=3), tokenizer, tmp_path / "other", "Another model.")
    one, two = (models.load_model(f, lora=4)[0] for f in (folder, tmp_path / "other"))
    assert one.transformer.wte.weight is not two.transformer.wte.weight


# ---------------------------------------------------------------- PPO


@pytest.mark.parametrize("packed", [True, False])
def test_ppo_moves_the_adapter_alone_and_the_reference_is_the_base(folder, packed, monkeypatch):
    made, plain = [], ppo.PolicyWithValue.requires_grad_
    monkeypatch.setattr(
        ppo.PolicyWithValue, "requires_grad_", lambda self, on=True: made.append(self) or plain(self, on)
    )
    base, tokenizer = models.load_model(folder)
    model, _ = models.load_model(folder, lora=4)
    judge, _ = models.load_reward_model(folder, lora=4)
    assert packing.can_pack(model)
    before = {n: p.clone() for n, p in held(model).items()}
    history, card = ppo.train(
        model, tokenizer, letters, PROMPTS, settings(updates=8, lr=3e-2), frozen=(judge,), packed=packed
    )
    assert all(torch.equal(p, before[n]) for n, p in held(model).items())
    assert torch.equal(logits(made[0].model, tokenizer), logits(base, tokenizer)), "the adapter is off"
    assert all(p is held(model)[n] for n, p in held(made[0].model).items()), "no second copy"
    assert not torch.equal(logits(model, tokenizer), logits(base, tokenizer))
    assert card["KL is 0 before the first update"] < 1e-3 and card["ratio is 1 in the first minibatch"] < 1e-3
    assert card["reference and reward model did not move"] == 0
    assert max(abs(row["kl"]) for row in history) > 0.05, "against the base"
    assert history[-1]["reward"] > history[0]["reward"]
    assert history[0]["loss_mask_off"] == history[0]["value_shift"] == 0


def test_what_no_curve_shows_is_seen_with_an_adapter_too(folder, monkeypatch):
    model, tokenizer = models.load_model(folder, lora=4)
    monkeypatch.setattr(ppo, "PackedPolicy", EarlyValue)
    monkeypatch.setattr(ppo, "update", without_the_end(ppo.update))
    (row,), _ = ppo.train(model, tokenizer, letters, PROMPTS, settings(updates=1))
    assert (row["loss_mask_off"], row["value_shift"]) == (1, 1)


def test_a_second_run_is_measured_from_the_adapter_that_it_began_with(folder):
    model, tokenizer = with_adapter(folder)
    start = lora.copy_to_compare(model)
    assert torch.equal(logits(start, tokenizer), logits(model, tokenizer))
    _, card = ppo.train(model, tokenizer, letters, PROMPTS, settings(updates=1))
    assert card["KL is 0 before the first update"] < 1e-3
    assert not torch.equal(logits(start, tokenizer), logits(model, tokenizer))


def test_a_base_that_moves_is_noticed(folder):
    model, tokenizer = models.load_model(folder, lora=4)

    def careless(prompts, responses):
        model.transformer.wte.weight.data *= 1.01
        return letters(prompts, responses)

    with pytest.raises(WorkbookError, match="Health check failed"):
        ppo.train(model, tokenizer, careless, PROMPTS, settings(updates=1))


def test_a_checkpoint_holds_the_adapter_and_goes_on_bit_for_bit(folder, tmp_path):
    results, seen = [], []
    for stop in (None, 2):
        path = tmp_path / f"{stop}.pt"
        for again in (False, True):
            model, tokenizer = models.load_model(folder, lora=4)

            def on_update(row, batch):
                seen.append(path.stat().st_size if path.exists() else 0)
                if row["update"] == stop and not again:
                    raise KeyboardInterrupt

            run = settings(updates=4)
            history, _ = ppo.train(
                model, tokenizer, letters, PROMPTS, run, seed=5, on_update=on_update, checkpoint=path
            )
            if len(history) == 4:
                break
        results.append(lora.learned(model))
    assert all(torch.equal(p, results[1][n]) for n, p in results[0].items())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 12 * trained < max(seen) < 12 * trained + 4 * model.num_parameters()


def test_the_loop_and_its_copies_work_on_an_adapter(folder):
    model, tokenizer = with_adapter(folder)
    candidate = copy.deepcopy(model)
    ppo.train(candidate, tokenizer, letters, PROMPTS, settings(updates=1, lr=1e-2))
    _, kl, _ = loop.sample_answers(candidate, model, tokenizer, PROMPTS * 8, max_new_tokens=8)
    _, none, _ = loop.sample_answers(model, model, tokenizer, PROMPTS * 8, max_new_tokens=8)
    assert kl > 1e-3 > abs(none)


def test_edits_of_the_chapter_are_what_runs(folder, monkeypatch):
    class Loud(ppo.PolicyWithValue):
        reads = 0

        def read(self, *args):
            type(self).reads += 1
            return super().read(*args)

    monkeypatch.setattr(ppo, "PolicyWithValue", Loud)
    model, tokenizer = models.load_model(folder, lora=4)
    ppo.train(model, tokenizer, letters, PROMPTS, settings(updates=1))
    assert Loud.reads > 0


def test_in_16_bits_all_samplers_share_one_rounded_base(folder, monkeypatch):
    monkeypatch.setenv("WORKBOOK_ARITHMETIC", "bf16")
    model, tokenizer = with_adapter(folder)
    other, before = copy.deepcopy(model), {n: p.clone() for n, p in held(model).items()}
    for m in (model, other):
        decoding.generate(m, tokenizer, PROMPTS, max_new_tokens=6)
    one, two = (dict(m._sampler.twin.named_parameters()) for m in (model, other))
    body = [n for n, p in one.items() if isinstance(p, lora.Held) and p.dtype == torch.bfloat16]
    assert len(body) >= 27 and all(one[n] is two[n] for n in body)
    assert all(torch.equal(p, before[n]) for n, p in held(model).items()), "the base is still in 32 bits"
    _, card = ppo.train(model, tokenizer, letters, PROMPTS, settings(updates=2))
    assert card["reference and reward model did not move"] == 0


def test_recomputed_activations_give_the_adapter_the_same_gradient(tmp_path):
    folder = language_model(tmp_path, "llama", layers=3)
    plain, tokenizer = with_adapter(folder)
    spared, _ = with_adapter(folder)
    models.recompute_activations(spared)
    ids, mask = models.encode_prompts(tokenizer, ASKED[:4])
    for m in (plain, spared):
        ppo.PolicyWithValue(m)(ids, mask, ids.shape[1] - 4)[0].square().mean().backward()
    for (name, p), q in zip(plain.named_parameters(), spared.parameters()):
        assert (p.grad is None) == (q.grad is None) and (p.grad is None or torch.allclose(p.grad, q.grad, atol=1e-5)), (
            name
        )


# ---------------------------------------------------------------- the reward model


def test_the_head_of_the_reward_model_rides_on_the_adapter(folder, tmp_path):
    torch.manual_seed(0)
    model, tokenizer = models.load_reward_model(folder, lora=4)
    before = {n: p.clone() for n, p in held(model).items()}
    losses = [h["loss"] for h in reward.train_reward_model(model, tokenizer, ROWS, epochs=10, batch_size=8, lr=3e-3)]
    assert sum(losses[-6:]) < 0.5 * sum(losses[:6]) and reward.evaluate(model, tokenizer, ROWS)["accuracy"] == 1
    assert all(torch.equal(p, before[n]) for n, p in held(model).items())
    models.save_model(model, tokenizer, tmp_path / "judge", "A reward model.")
    asked = [r["prompt"] for r in ROWS], [r["chosen"] for r in ROWS]
    scores = reward.score(model, tokenizer, *asked)
    for rank, close in ((4, 0), (0, 1e-4)):  # with its adapter, and merged
        again, _ = models.load_reward_model(tmp_path / "judge", lora=rank)
        assert (reward.score(again, tokenizer, *asked) - scores).abs().max() <= close
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "judge").eval()
    ids = torch.tensor([reward.pair_ids(tokenizer, ROWS[0]["prompt"], ROWS[0]["chosen"], 64)])
    with torch.no_grad():
        assert theirs(ids).logits.item() == pytest.approx(scores[0].item(), abs=1e-4)


def test_the_reward_model_goes_on_after_a_stop(folder, tmp_path):
    results = []
    for stop in (None, 21):
        for again in (False, True):
            torch.manual_seed(0)
            model, tokenizer = models.load_reward_model(folder, lora=4)

            def on_step(step, steps, row):
                if step == stop and not again:
                    raise KeyboardInterrupt

            how = {"epochs": 8, "batch_size": 8, "lr": 1e-3, "on_step": on_step, "checkpoint": tmp_path / "judge.pt"}
            try:
                reward.train_reward_model(model, tokenizer, ROWS, **how)
                break
            except KeyboardInterrupt:
                pass
        results.append(lora.learned(model))
    assert all(torch.equal(p, results[1][n]) for n, p in results[0].items())


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_an_adapter_is_saved_as_pefts_folder_and_loaded_again(tmp_path, name):
    folder = language_model(tmp_path / "base", name)
    model, tokenizer = with_adapter(folder)
    models.save_model(model, tokenizer, tmp_path / "adapter", "An adapter.", {"seed": 0})
    there = {p.name for p in (tmp_path / "adapter").iterdir()}
    assert {lora.ADAPTER, lora.CONFIG, "tokenizer.json", "README.md", "made_with.json"} <= there
    assert not {"config.json", "model.safetensors"} & there
    expected = logits(model, tokenizer)
    again, _ = models.load_model(tmp_path / "adapter", lora=4)
    merged, _ = models.load_model(tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter").eval()
    assert torch.equal(logits(again, tokenizer), expected) and lora.is_on(again)
    assert torch.allclose(logits(merged, tokenizer), expected, atol=1e-4) and not lora.is_on(merged)
    assert torch.allclose(logits(theirs, tokenizer), expected, atol=1e-5)
    assert [n for n, p in merged.named_parameters() if not p.requires_grad or "lora" in n] == []
    models.save_model(merged, tokenizer, tmp_path / "merged", "All in one.")
    assert torch.allclose(logits(models.load_model(tmp_path / "merged")[0], tokenizer), expected, atol=1e-4)
    shape, whole = memory.shape_of(tmp_path / "adapter"), memory.shape_of(folder)
    assert shape == whole
    judge, _ = models.load_reward_model(tmp_path / "adapter", lora=4)  # of an adapter that has no head
    assert all(torch.equal(p, dict(model.named_parameters())[n]) for n, p in judge.named_parameters() if "lora" in n)


def test_an_adapter_as_model_or_stage_is_found_and_read(folder, tmp_path):
    model, tokenizer = with_adapter(folder)
    models.save_model(model, tokenizer, tmp_path / "adapter", "An adapter.")
    ws = workspace.setup(MODEL=str(tmp_path / "adapter"), RUNS_DIR=str(tmp_path / "runs"), LORA=4)
    assert ws.lora == 4 and ws.general and workspace.reader(ws)[1] == 64
    shutil.copytree(tmp_path / "adapter", ws.runs / "models" / "policy")
    policy, _ = models.load_model(workspace.find(ws, "models/policy"), lora=ws.lora)
    assert torch.equal(logits(policy, tokenizer), logits(model, tokenizer))


def test_a_tokenizer_and_a_base_beside_the_adapter_are_its_own(folder, tmp_path):
    model, tokenizer = with_adapter(folder)
    models.save_model(model, tokenizer, tmp_path / "adapter", "An adapter.")
    shutil.copytree(folder, tmp_path / "base")
    change(tmp_path / "adapter", base_model_name_or_path="../base")
    assert lora.base_of(tmp_path / "adapter")[0] == str(tmp_path / "base")
    for file in (tmp_path / "adapter").glob("*token*"):
        file.unlink()
    _, its = models.load_model(tmp_path / "adapter", lora=4)
    assert its.get_vocab() == tokenizer.get_vocab()


def change(folder, **values):
    path = folder / lora.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


@pytest.mark.parametrize(
    "values, words",
    [
        ({"base_model_name_or_path": "/no/such/folder"}, "'/no/such/folder', and that folder is not there"),
        ({"base_model_name_or_path": "../gone"}, "'../gone', and that folder is not there"),
        ({"base_model_name_or_path": "no/such-model"}, "'no/such-model', to which the adapter .* belongs"),
        ({"base_model_name_or_path": None}, "adapter_config.json names no model"),
        ({"peft_type": "IA3"}, "kind 'IA3', and only LORA is known"),
        ({"r": 8}, "does not fit the model"),
        ({"target_modules": ["q_proj"]}, "does not fit the model"),
    ],
)
def test_an_adapter_that_cant_be_used_says_so_in_a_sentence(folder, tmp_path, values, words):
    model, tokenizer = with_adapter(folder)
    models.save_model(model, tokenizer, tmp_path / "adapter", "An adapter.")
    change(tmp_path / "adapter", **values)
    for load in (models.load_model, models.load_reward_model):
        with pytest.raises(WorkbookError, match=words) as error:
            load(tmp_path / "adapter", lora=4)
        assert len(str(error.value).splitlines()) == 1


def test_without_peft_a_sentence_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(WorkbookError, match="pip install peft"):
        models.load_model(folder, lora=4)
    with pytest.raises(WorkbookError, match="pip install peft"):
        workspace.setup(RUNS_DIR=str(tmp_path / "runs"), LORA=4)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("value, words", [(-1, "must be 0 or more"), (0.5, "a whole number"), (True, "a whole number")])
def test_a_rank_that_cant_be_meant_is_refused(tmp_path, value, words):
    with pytest.raises(WorkbookError, match=f"LORA .*{words}"):
        workspace.setup(RUNS_DIR=str(tmp_path / "runs"), LORA=value)


# ---------------------------------------------------------------- settings and memory


def test_lora_takes_larger_steps_and_nothing_else_changes(tmp_path, capsys):
    ws = workspace.setup(RUNS_DIR=str(tmp_path / "runs"))
    plain = tasks.choose(ws)
    ws.lora = 8
    task = tasks.choose(ws)
    assert "adapters of this rank" in capsys.readouterr().out
    assert task.ppo == dataclasses.replace(plain.ppo, lr=10 * plain.ppo.lr)
    assert task.reward == plain.reward | {"lr": 10 * plain.reward["lr"]}


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_the_size_of_an_adapter_is_estimated(tmp_path, name):
    model, _ = models.load_model(language_model(tmp_path, name, layers=3), lora=4)
    true = sum(p.numel() for p in model.parameters() if p.requires_grad)
    said = memory.adapter_parameters(memory.shape_of(tmp_path), 4)
    assert said == true if name != "gpt2" else true < said < 1.6 * true  # one matrix for queries, keys and values


# layers, width, inner width, heads, key-value heads and vocabulary of Qwen2.5, which has tied embeddings at both sizes
HALF_B = memory.Shape(494_000_000, 24, 896, 4864, 14, 2, 151_936)
ONE_AND_A_HALF_B = memory.Shape(1_544_000_000, 28, 1536, 8960, 12, 2, 151_936)


@pytest.mark.parametrize("shape, card", [(HALF_B, 14.5), (ONE_AND_A_HALF_B, 22.0)], ids=["0.5 B, T4", "1.5 B, L4"])
def test_by_the_estimate_05_b_fits_a_t4_and_15_b_an_l4(shape, card):
    """Both compute in 16 bits; of their 16 and 24 GB so many GiB are free.  By the formula: no card was at hand."""
    for stage, rows, asked in (("PPO", 16, 32), ("PPO", 64, 64), ("reward model", 32, None)):
        need = {
            rank: min(
                sum(memory.estimate(shape, stage, rows, 48, asked, 16, again, rank).values()) / memory.GIB
                for again in (False, True)
            )
            for rank in (0, 16)
        }
        assert need[16] < card, (stage, rows)
        assert need[0] > (card if stage == "PPO" else need[16]), (stage, rows)


def test_the_estimate_counts_the_base_once_and_the_adapters_as_often_as_the_weights_else():
    full, thin = (memory.estimate(HALF_B, "PPO", 4, 48, 32, 16, rank=rank) for rank in (0, 16))
    assert thin["model"] == full["policy"] and thin["sampler"] == full["sampler"]
    copies = sum(memory.COPIES["PPO"].values())
    assert thin["adapters"] == copies * 4 * memory.adapter_parameters(HALF_B, 16) < 0.25 * thin["model"]


def test_a_model_that_fits_with_lora_only_is_told_so(folder, monkeypatch):
    need = {r: sum(memory.estimate(memory.shape_of(folder), "PPO", 4, 8, rank=r).values()) for r in (0, 2)}
    monkeypatch.setattr(memory, "free_memory", lambda device: (need[0] + need[2]) / 2)
    memory.check(folder, torch.device("cpu"), "PPO", 4, rank=2, answer=8)
    with pytest.raises(WorkbookError, match="set LORA = 16"):
        memory.check(folder, torch.device("cpu"), "PPO", 4, answer=8)


def test_checkpoints_of_models_without_an_adapter_hold_all_their_weights(folder):
    model, _ = models.load_model(folder)
    assert lora.learned(model).keys() == model.state_dict().keys()
    assert checkpoints.digest(model) == checkpoints.digest(copy.deepcopy(model)) and "gpt2" in KINDS


# ---------------------------------------------------------------- through the chapters


@pytest.mark.matrix
def test_chapters_04_to_06_train_adapters(tmp_path):
    folder = language_model(tmp_path / "model", "llama")
    given = {"FAST": True, "MODEL": str(folder), "RUNS_DIR": str(tmp_path / "runs"), "LORA": 4}
    for path in series.chapters(["02", "03", "04", "05", "06"]):
        nb = series.execute(path, tmp_path / "executed", series.taken_by(path, given))
        assert series.widget_errors(nb) == []
    (runs,) = (tmp_path / "runs").iterdir()
    for stage, load in (("policy-fast", models.load_model), ("reward-fast", models.load_reward_model)):
        saved = runs / "models" / stage
        assert (saved / lora.ADAPTER).is_file() and not (saved / "config.json").exists()
        model, _ = load(saved, lora=4)
        moved = [p.abs().max() > 0 for n, p in model.named_parameters() if "lora_B" in n]
        assert moved and all(moved), stage
    report = json.loads((runs / "report.json").read_text(encoding="utf-8"))
    for r in [*report["rounds"], report["poisoned"]]:
        assert r["health"]["reference and reward model did not move"] == 0
