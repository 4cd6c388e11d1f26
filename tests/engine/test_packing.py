"""Packed rows: each fast form against the plain one it stands for, on any architecture."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ppo import PROMPTS, collected, letters, tiny, weights
from test_ppo import settings as ppo_settings
from test_ppo import tokenizer as ppo_tokenizer
from test_reward import QUESTIONS, any_architecture, config, language_model, rows, tokenizer_with
from transformers import AutoModelForCausalLM, MambaConfig

from rlhf_helpers.engine import models, packing
from rlhf_helpers.engine.files import WorkbookError
from rlhf_helpers.lesson import lm, ppo, reward

tokenizer = ppo_tokenizer  # the fixture
RAGGED = [[5, 6, 7, 8, 9], [5, 6], [40], [7, 7, 7, 7, 7, 7, 7, 7], [9, 8, 7]]


def causal(name, seed=0):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(name, tokenizer_with())).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


# ---------------------------------------------------------------- the layout


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_every_token_has_a_place_of_its_own(lengths):
    width, starts, n = packing.layout(lengths)
    places = [p for start, length in zip(starts, lengths) for p in range(start, start + length)]
    assert len(set(places)) == sum(lengths) and max(places) < n * width
    for start, length in zip(starts, lengths):
        assert start // width == (start + length - 1) // width, "a sequence is in one row"


def test_the_layout_leaves_little_empty():
    lengths = torch.randint(10, 45, (96,), generator=torch.Generator().manual_seed(0)).tolist()
    width, _, n = packing.layout(lengths)
    assert sum(lengths) / (n * width) > 0.93 > 0.7 > sum(lengths) / (96 * max(lengths))
    assert packing.layout([7]) == (7, [0], 1)


def test_a_token_sees_its_own_group_and_branch_only():
    packed, ends = packing.pack_groups([[[1, 2, 3], [1, 2, 4, 5]], [[1, 9], [8, 9]]])
    sees = (packed.attention_mask[:, 0] == 0).flatten(0, 1)
    width = packed.ids.shape[1]

    def seen_by(place):
        row = place // width
        return packed.ids[row][sees[place]].tolist(), packed.position_ids[row][sees[place]].tolist()

    assert [seen_by(p) for p in ends.flatten().tolist()] == [
        ([1, 2, 3], [0, 1, 2]),
        ([1, 2, 4, 5], [0, 1, 2, 3]),
        ([1, 9], [0, 1]),
        ([8, 9], [0, 1]),
    ]


@pytest.mark.parametrize(
    "group, common",
    [
        ([[1, 2, 3], [1, 2, 4]], 2),
        ([[1, 2], [1, 2, 3]], 1),
        ([[1, 2, 3]], 2),
        ([[5], [5, 6]], 0),
        ([[1, 2], [3, 2]], 0),
    ],
)
def test_each_list_keeps_its_last_token(group, common):
    assert packing.shared(group) == common


# ---------------------------------------------------------------- any architecture


@pytest.mark.parametrize("side", ["left", "right"])
@any_architecture
def test_packed_logits_are_those_of_each_sequence_alone(name, side):
    model = causal(name)
    ids, mask = models.pad(RAGGED, 1, side)
    packed = packing.pack_padded(ids, mask)
    assert packed.ids.numel() < ids.numel()
    with torch.no_grad():
        logits, _ = packing.logits_at(model, packed, packed.place)
        alone = torch.cat([model(torch.tensor([r])).logits[0] for r in RAGGED])
    assert torch.allclose(logits, alone, atol=1e-5)
    assert packing.can_pack(model)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "gpt_neox"])
def test_the_last_feed_forward_part_is_computed_at_the_places_only(name):
    model, counted = causal(name), []
    ids, mask = models.pad(RAGGED, 1)
    packed = packing.pack_padded(ids, mask)
    part = packing.last_feed_forward(model)
    hook = part.register_forward_hook(lambda module, inputs, out: counted.append(out.shape[:-1].numel()))
    packing.hidden_at(model, packed, packed.place[torch.tensor([3, 0])])
    model(ids, attention_mask=mask)
    hook.remove()
    assert counted == [2, ids.numel()], "few places inside, all of them again outside"
    assert len([m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]) == 0


def test_the_head_is_as_before_after_it_was_applied_at_a_few_places():
    model = causal("gpt2")
    ids, mask = models.pad(RAGGED, 1)
    before = model(ids, attention_mask=mask).logits
    packing.logits_at(model, packing.pack_padded(ids, mask), torch.tensor([0]))
    assert torch.equal(model(ids, attention_mask=mask).logits, before)


def test_a_model_that_is_not_the_same_when_packed_is_noticed(monkeypatch):
    model = causal("gpt2")
    plain = model.base_model.forward
    monkeypatch.setattr(
        model.base_model, "forward", lambda ids, attention_mask=None, position_ids=None, **more: plain(ids, **more)
    )  # ignores mask and positions
    assert not packing.can_pack(model)
    torch.manual_seed(0)
    mamba = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2))
    assert not packing.can_pack(mamba)


# ---------------------------------------------------------------- PPO


def test_the_packed_policy_is_the_plain_one(tokenizer):
    policy, _, batch = collected(tokenizer)
    twin = ppo.PackedPolicy(policy.model)
    twin.load_state_dict(policy.state_dict())
    arguments = batch["ids"], batch["full_mask"], batch["start"]
    mask = batch["mask"].bool()
    with torch.no_grad():
        logits, values = policy(*arguments)
        plain, packed = policy.read(*arguments), twin.read(*arguments)
    assert torch.allclose(plain[0][mask], ppo.token_logprobs(logits, batch["ids"][:, batch["start"] :])[mask])
    assert torch.equal(plain[1][mask], values[mask])
    for a, b in zip(plain, packed, strict=True):
        assert torch.allclose(a, b, atol=1e-5) and not a[~mask].any() and not b[~mask].any()


@any_architecture
def test_the_packed_policy_rolls_out_as_the_plain_one_does(tmp_path, name):
    model, tokenizer = models.load_model(language_model(tmp_path, name))
    policy, twin = ppo.PolicyWithValue(model), ppo.PackedPolicy(model)
    torch.nn.init.normal_(policy.value_head.weight)
    twin.load_state_dict(policy.state_dict())
    prompt, prompt_mask = models.encode_prompts(tokenizer, QUESTIONS)
    ends = set(range(10, 40))  # so that the answers have several lengths
    plain, packed = (p.respond(prompt, prompt_mask, 10, ends, torch.Generator().manual_seed(3)) for p in (policy, twin))
    start, mask = prompt.shape[1], plain[1].bool()
    with torch.no_grad():
        logits, values = policy(plain[0], plain[1], start)
    assert len(set(mask[:, start:].sum(-1).tolist())) > 2
    assert torch.equal(plain[0], packed[0]) and torch.equal(plain[1], packed[1])
    assert torch.equal(plain[4], values * mask[:, start:]) and plain[2] is plain[3]
    entropy = torch.distributions.Categorical(logits=logits).entropy() * mask[:, start:]
    assert torch.allclose(plain[5], entropy, atol=1e-5)
    for a, b in zip(plain[2:], packed[2:], strict=True):
        assert a.any() and torch.allclose(a, b, atol=1e-5) and not b[~mask[:, start:]].any()
    assert not model._forward_hooks and not model.get_output_embeddings()._forward_pre_hooks


def test_the_packed_policy_has_the_gradient_of_the_plain_one(tokenizer):
    policy, _, batch = collected(tokenizer)
    twin = ppo.PackedPolicy(policy.model)
    twin.load_state_dict(policy.state_dict())
    found = []
    for p in (policy, twin):
        logprobs, values = p.read(batch["ids"], batch["full_mask"], batch["start"])
        mask = batch["mask"]
        loss = ppo.policy_loss(logprobs, batch["logprobs"] - 0.1, batch["advantages"], mask)[0]
        found.append(gradient(p, loss + ppo.value_loss(values, batch["values"] - 0.1, batch["returns"], mask)))
    assert found[0].abs().max() > 1e-2
    assert torch.allclose(*found, atol=1e-6)


def test_a_run_is_the_same_packed_and_plain(tokenizer, monkeypatch):
    runs = []
    for can in (True, False):
        monkeypatch.setattr(ppo, "can_pack", lambda model, can=can: can)
        model = tiny(tokenizer)
        history, _ = ppo.train(model, tokenizer, letters, PROMPTS, ppo_settings())
        runs.append((history, torch.cat([p.flatten() for p in weights(model)])))
    (packed, a), (plain, b) = runs
    assert packed[-1] == pytest.approx(plain[-1], abs=1e-4)
    assert torch.allclose(a, b, atol=1e-4) and not torch.allclose(a, weights_of_start(tokenizer), atol=1e-4)


def weights_of_start(tokenizer):
    return torch.cat([p.flatten() for p in weights(tiny(tokenizer))])


# ---------------------------------------------------------------- the reward model


@any_architecture
def test_packed_scores_and_gradient_are_the_padded_ones(tmp_path, name):
    model, tok = models.load_reward_model(language_model(tmp_path, name))
    pairs, _ = reward.usable_pairs(tok, rows(7), 96)
    pairs.append((pairs[0][0], pairs[0][0][:-3] + pairs[0][0][-1:]))  # the same words, then fewer
    assert min(map(packing.shared, pairs)) > 5
    scores, gradients = [], []
    for form in (reward.padded_scores, reward.packed_scores):
        scores.append(form(model, pairs, tok.pad_token_id))
        chosen, rejected = scores[-1].unbind(1)
        gradients.append(gradient(model, reward.preference_loss(chosen, rejected)))
    assert scores[0].shape == (8, 2) and scores[0].std() > 1e-3
    assert torch.allclose(*scores, atol=1e-5)
    assert gradients[0].abs().max() > 1e-3
    assert torch.allclose(*gradients, atol=1e-6)


def test_a_reward_model_that_cannot_be_packed_trains_all_the_same(tmp_path, monkeypatch):
    folder, trained = language_model(tmp_path), []
    for can in (True, False):
        monkeypatch.setattr(reward, "can_pack", lambda model, can=can: can)
        torch.manual_seed(0)
        model, tok = models.load_reward_model(folder)
        history = reward.train_reward_model(model, tok, rows(24), batch_size=8)
        trained.append((history[-1], reward.score(model, tok, QUESTIONS[:3], ["It is red.", "No.", "Go away."])))
    assert trained[0][0] == pytest.approx(trained[1][0], abs=1e-4)
    assert torch.allclose(trained[0][1], trained[1][1], atol=1e-4)


# ---------------------------------------------------------------- fine-tuning


@any_architecture
def test_the_packed_loss_is_the_plain_one(name):
    model, tok = causal(name), tokenizer_with()
    demos = [{"prompt": r["prompt"], "response": r["chosen"]} for r in rows(5)]
    batch = lm.demonstration_batch(tok, demos)
    losses = [form(model, *batch) for form in (lm.plain_loss, lm.packed_loss)]
    gradients = [gradient(model, loss) for loss in losses]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-5)
    assert gradients[0].abs().max() > 1e-2
    assert torch.allclose(*gradients, atol=1e-6)


def test_fine_tuning_goes_the_same_way_with_either_loss():
    tok, runs = tokenizer_with(), []
    demos = [{"prompt": r["prompt"], "response": r["chosen"]} for r in rows(20)]
    start = causal("gpt2")
    assert lm.padded_batch_loss(start) is lm.packed_loss
    for form in (lm.plain_loss, lm.packed_loss):
        model = copy.deepcopy(start)
        runs.append(lm.fit(model, lm.demonstration_batches(tok, demos, 8), 6, 3e-3, loss_of=form))
    assert runs[0] == pytest.approx(runs[1], abs=1e-4)
    assert runs[1][-1] < runs[1][0] - 0.3


def test_fine_tuning_stops_at_a_loss_that_is_not_a_number():
    tok, model = tokenizer_with(), causal("gpt2")
    demos = [{"prompt": r["prompt"], "response": r["chosen"]} for r in rows(8)]
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(WorkbookError, match="not a number to go on with. Lower the learning rate"):
        lm.fit(model, lm.demonstration_batches(tok, demos, 4), 3, 1e-3)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, model.parameters()))
