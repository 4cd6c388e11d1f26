"""PPO: every piece against numpy in float64, and the known mistakes of RLHF code, each with its test."""

import copy

import numpy as np
import pytest
import torch

from rlhf_helpers import models, ppo
from rlhf_helpers.decoding import end_tokens, rollout
from rlhf_helpers.files import WorkbookError

PROMPTS = ["What is it?", "Who?", "Where does the cat sleep at night?", "Why are you so late?", "How many?",
           "Is it red or is it blue?"]
JUNK = 1e3


@pytest.fixture(scope="module")
def tokenizer():
    return models.new_tokenizer(PROMPTS * 3 + ["The cat sleeps here. It is red."] * 3, vocab_size=280)


def tiny(tokenizer, seed=0, end=0.1):
    """A random model of width 32 that ends an answer with a chance of about `end` per token."""
    model = models.new_model(tokenizer, seed, layers=2, width=32, heads=2, context=64)
    with torch.no_grad():  # the last layer is tied to the embeddings, so its bias goes through the norm's
        row = model.transformer.wte.weight[tokenizer.eos_token_id]
        wanted = np.log(end / (1 - end) * len(tokenizer)) if end else -30.0
        model.transformer.ln_f.bias += wanted * row / row.square().sum()
    return model


def letters(prompts, responses):
    """A reward that anybody can raise: the number of letters e and t."""
    return torch.tensor([float(sum(r.lower().count(c) for c in "et")) for r in responses])


def settings(**changes):
    return ppo.Settings(**{"updates": 2, "batch_size": 24, "epochs": 2, "minibatches": 3, "lr": 1e-3,
                           "max_new_tokens": 10, **changes})


def collected(tokenizer, seed=0, end=0.1, rows=24, reward=letters, **changes):
    """(policy, reference, batch) of one roll-out with a value head that says something."""
    policy = ppo.PolicyWithValue(tiny(tokenizer, seed, end))
    torch.nn.init.normal_(policy.value_head.weight, std=0.3)
    reference = copy.deepcopy(policy)
    reference.model = tiny(tokenizer, seed + 1, end)
    batch = ppo.collect(policy, reference, tokenizer, reward, (PROMPTS * 9)[:rows], settings(**changes),
                        torch.Generator().manual_seed(seed))
    return policy, reference, batch


def ragged(rows=6, width=9, seed=0):
    """Random float64 tensors of ragged answers: mask, rewards, values, log-probs old and new."""
    rng = np.random.default_rng(seed)
    lengths = [width, 1, *rng.integers(1, width + 1, rows - 2)]
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(float)
    tensors = [torch.tensor(rng.normal(size=(rows, width)) * mask) for _ in range(4)]
    return torch.tensor(mask), *tensors


def with_junk(x, mask, junk=JUNK):
    return torch.where(mask.bool(), x, torch.full_like(x, junk))


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------- pieces against numpy

def test_token_logprobs_against_numpy():
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(size=(3, 5, 11)) * 4, rng.integers(0, 11, (3, 5))
    expected = np.take_along_axis(logits, tokens[..., None], -1)[..., 0] - np.log(np.exp(logits).sum(-1))
    got = ppo.token_logprobs(torch.tensor(logits), torch.tensor(tokens))
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)
    shifted = ppo.token_logprobs(torch.tensor(logits) + 80, torch.tensor(tokens))  # no overflow
    np.testing.assert_allclose(shifted.numpy(), expected, atol=1e-4)


def test_token_logprobs_works_in_float32_whatever_comes_in():
    logits, tokens = torch.randn(2, 3, 50).bfloat16(), torch.randint(50, (2, 3))
    got = ppo.token_logprobs(logits, tokens)
    assert got.dtype == torch.float32
    assert torch.equal(got, ppo.token_logprobs(logits.float(), tokens))


@pytest.mark.parametrize("tokens", [4, 6])
def test_gather_does_not_cut_off_in_silence(tokens):
    with pytest.raises(AssertionError):
        ppo.token_logprobs(torch.randn(2, 5, 7), torch.zeros(2, tokens, dtype=torch.long))


def test_masked_mean_and_whiten_against_numpy():
    mask, x, *_ = ragged()
    inside = x[mask.bool()].numpy()
    assert ppo.masked_mean(x, mask).item() == pytest.approx(inside.mean(), abs=1e-12)
    white = ppo.whiten(x, mask)
    expected = (inside - inside.mean()) / np.sqrt(inside.var() + 1e-8)
    np.testing.assert_allclose(white[mask.bool()], expected, atol=1e-12)
    assert (white[mask == 0] == 0).all()
    assert ppo.masked_mean(white, mask).item() == pytest.approx(0, abs=1e-12)
    assert ppo.masked_mean(white**2, mask).item() == pytest.approx(1, abs=1e-6)


def test_whitening_equal_advantages_gives_zero_not_nan():
    assert torch.equal(ppo.whiten(torch.full((2, 3), 5.0), torch.ones(2, 3)), torch.zeros(2, 3))


def test_token_rewards_against_numpy():
    mask, logprobs, ref, *_ = ragged()
    scores = torch.arange(6, dtype=torch.float64) - 2.5
    expected = np.zeros(mask.shape)
    for i in range(len(mask)):
        n = int(mask[i].sum())
        for t in range(n):
            expected[i, t] = -0.3 * (logprobs[i, t] - ref[i, t]) + (scores[i] if t == n - 1 else 0)
    rewards = ppo.token_rewards(scores, logprobs, ref, mask, 0.3)
    np.testing.assert_allclose(rewards.numpy(), expected, atol=1e-12)


def test_without_kl_the_score_stands_on_the_last_real_token_alone():
    mask, logprobs, ref, *_ = ragged()
    scores = torch.arange(6, dtype=torch.float64) + 1
    rewards = ppo.token_rewards(scores, logprobs, ref, mask, beta=0.0)
    assert torch.equal(rewards.sum(-1), scores)
    assert torch.equal((rewards != 0).sum(-1), torch.ones(6, dtype=torch.long))
    last = mask.sum(-1).long() - 1
    assert torch.equal(rewards[torch.arange(6), last], scores)


def test_the_kl_penalty_is_the_exact_kl_in_expectation():
    """Over every token of a vocabulary, weighted by the policy, beta times KL(pi || pi_ref) is taken off."""
    torch.manual_seed(0)
    pi, ref = torch.randn(2, 50, dtype=torch.float64).mul(1.2).log_softmax(-1)
    exact = (pi.exp() * (pi - ref)).sum()
    rewards = ppo.token_rewards(torch.zeros(50), pi[:, None], ref[:, None], torch.ones(50, 1), beta=2.0)
    assert exact > 0.5
    assert -(pi.exp() * rewards[:, 0]).sum().item() == pytest.approx(2.0 * exact.item(), rel=1e-6)


# ---------------------------------------------------------------- advantages

def gae_by_loop(rewards, values, mask, gamma, lam):
    """The definition, sum over l of (gamma lam)^l delta, one row and one token at a time."""
    advantages = np.zeros(rewards.shape)
    for i in range(len(rewards)):
        n = int(mask[i].sum())
        after = [*values[i, 1:n], 0]
        deltas = [rewards[i, t] + gamma * after[t] - values[i, t] for t in range(n)]
        for t in range(n):
            advantages[i, t] = sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n))
    return advantages


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (1.0, 0.0), (0.99, 0.95)])
def test_gae_against_a_loop(gamma, lam):
    mask, rewards, values, *_ = ragged()
    advantages, returns = ppo.gae(rewards, values, mask, gamma, lam)
    expected = gae_by_loop(rewards.numpy(), values.numpy(), mask.numpy(), gamma, lam)
    np.testing.assert_allclose(advantages.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(returns.numpy(), expected + values.numpy(), atol=1e-12)


def test_gae_with_lambda_1_is_the_monte_carlo_return_minus_the_value():
    mask, rewards, values, *_ = ragged()
    to_come = rewards.flip(-1).cumsum(-1).flip(-1)
    advantages, returns = ppo.gae(rewards, values, mask, 1.0, 1.0)
    assert torch.allclose(advantages, (to_come - values) * mask, atol=1e-12)
    assert torch.allclose(returns, to_come * mask, atol=1e-12)


def test_gae_with_lambda_0_is_the_one_step_error():
    mask, rewards, values, *_ = ragged()
    after = torch.cat([values[:, 1:], torch.zeros(6, 1)], 1)
    advantages, _ = ppo.gae(rewards, values, mask, 1.0, 0.0)
    assert torch.allclose(advantages, (rewards + after - values) * mask, atol=1e-12)


def test_gae_by_hand():
    rewards, values = torch.tensor([[0.0, 1.0, 9.0]]), torch.tensor([[0.5, 0.25, 9.0]])
    advantages, returns = ppo.gae(rewards, values, torch.tensor([[1.0, 1.0, 0.0]]), gamma=1.0, lam=0.5)
    # delta: 0 + 0.25 - 0.5 = -0.25 and 1 - 0.25 = 0.75; then -0.25 + 0.5 * 0.75 = 0.125
    assert advantages.tolist() == [[0.125, 0.75, 0.0]]
    assert returns.tolist() == [[0.625, 1.0, 0.0]]


def test_returns_are_made_of_raw_advantages(tokenizer):
    _, _, batch = collected(tokenizer)
    whole = (batch["raw_advantages"] + batch["values"]) * batch["mask"]
    assert torch.allclose(batch["returns"], whole, atol=1e-6)
    white = (batch["advantages"] + batch["values"]) * batch["mask"]
    assert not torch.allclose(batch["returns"], white, atol=0.1)
    last = batch["mask"].sum(-1).long() - 1
    rows = torch.arange(len(last))
    assert torch.allclose(batch["returns"][rows, last], batch["rewards"][rows, last], atol=1e-5)


def test_long_answers_are_not_discounted():
    assert ppo.Settings().gamma == 1.0


# ---------------------------------------------------------------- losses

def test_policy_loss_against_numpy():
    mask, new, old, advantages, _ = ragged()
    loss, ratio, active = ppo.policy_loss(new, old, advantages, mask, clip=0.2)
    inside = mask.numpy().astype(bool)
    r = np.exp(new.numpy() - old.numpy())[inside]
    a = advantages.numpy()[inside]
    plain, clipped = r * a, np.clip(r, 0.8, 1.2) * a
    assert loss.item() == pytest.approx(-np.minimum(plain, clipped).mean(), abs=1e-12)
    np.testing.assert_allclose(ratio.numpy()[inside], r, rtol=1e-12)
    assert active.item() == pytest.approx((clipped < plain).mean(), abs=1e-7)
    assert 0.1 < active.item() < np.mean(np.abs(r - 1) > 0.2), "outside the range is not yet clipped"


@pytest.mark.parametrize("advantage, ratio, is_clipped", [
    (2.0, 1.5, True),  # better than expected and already much likelier: enough
    (2.0, 0.5, False),  # better, but less likely than before: pull it back
    (-2.0, 1.5, False),  # worse, but likelier than before: push it back
    (-2.0, 0.5, True),  # worse and already much less likely: enough
])
def test_policy_loss_in_the_four_cases(advantage, ratio, is_clipped):
    new = torch.tensor([[np.log(ratio)]], requires_grad=True)
    old, mask = torch.zeros(1, 1), torch.ones(1, 1)
    loss, _, active = ppo.policy_loss(new, old, torch.tensor([[advantage]]), mask, 0.2)
    loss.backward()
    kept = min(max(ratio, 0.8), 1.2) if is_clipped else ratio
    assert loss.item() == pytest.approx(-advantage * kept, rel=1e-6)
    assert active.item() == float(is_clipped)
    if is_clipped:
        assert new.grad.item() == 0.0
    else:
        assert new.grad.item() == pytest.approx(-advantage * ratio, rel=1e-6)


def test_at_ratio_1_the_gradient_is_the_policy_gradient():
    """-A * grad log pi, averaged over the tokens: the line that is 'roughly backpropagation'."""
    mask, old, advantages, *_ = ragged()
    new = old.clone().requires_grad_()
    ppo.policy_loss(new, old, advantages, mask)[0].backward()
    assert torch.allclose(new.grad, -advantages * mask / mask.sum(), atol=1e-12)


def test_value_loss_against_numpy():
    mask, values, old, returns, _ = ragged()
    v, o, g = (x.numpy()[mask.numpy().astype(bool)] for x in (values, old, returns))
    near = o + np.clip(v - o, -0.2, 0.2)
    expected = 0.5 * np.maximum((v - g) ** 2, (near - g) ** 2).mean()
    assert ppo.value_loss(values, old, returns, mask, 0.2).item() == pytest.approx(expected, abs=1e-12)


def test_a_value_that_moved_far_enough_towards_the_return_gets_no_gradient():
    values = torch.tensor([[0.5, -0.5]], requires_grad=True)  # from 0, towards and away from the return 1
    ppo.value_loss(values, torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2), 0.2).backward()
    assert values.grad[0, 0] == 0 and values.grad[0, 1] < 0


# ---------------------------------------------------------------- padding

@pytest.mark.parametrize("junk", [JUNK, -JUNK])
def test_junk_in_the_pads_changes_no_piece(junk):
    mask, rewards, values, old, new = ragged()
    scores = rewards.sum(-1)

    def everything(fill):
        r, v, o, n = (with_junk(x, mask, k * fill) for k, x in enumerate((rewards, values, old, new), 1))
        n.requires_grad_()
        advantages, returns = ppo.gae(r, v, mask)
        loss, ratio, active = ppo.policy_loss(n, o, with_junk(advantages, mask, fill), mask)
        loss.backward()
        return [ppo.masked_mean(r, mask), ppo.whiten(r, mask), ppo.token_rewards(scores, n, o, mask, 0.1),
                advantages, returns, loss, active, ratio * mask, n.grad,
                ppo.value_loss(v, o, with_junk(returns, mask, fill), mask)]

    for clean, dirty in zip(everything(0.0), everything(junk), strict=True):
        assert torch.equal(clean, dirty)


def test_junk_in_the_pads_changes_no_update_and_no_metric(tokenizer):
    policy, _, batch = collected(tokenizer)
    mask = batch["mask"]
    assert 0.2 < mask.mean() < 0.9, "this test needs answers of different lengths"
    dirty = dict(batch)
    names = ("logprobs", "ref_logprobs", "values", "returns", "advantages", "raw_advantages")
    for k, name in enumerate(names, 1):
        dirty[name] = with_junk(batch[name], mask, (-1) ** k * k * JUNK)
    noise = torch.randint(len(tokenizer), batch["ids"].shape, generator=torch.Generator().manual_seed(1))
    dirty["ids"] = torch.where(batch["full_mask"].bool(), batch["ids"], noise)
    results = []
    for b in (batch, dirty):
        twin = copy.deepcopy(policy)
        stats = ppo.update(twin, torch.optim.SGD(twin.parameters(), lr=0.1), b, settings(),
                           torch.Generator().manual_seed(0))
        results.append((stats, torch.cat([p.flatten() for p in weights(twin)])))
    (clean, after), (junk, junk_after) = results
    assert clean == pytest.approx(junk, abs=1e-6)
    assert torch.allclose(after, junk_after, atol=1e-6)
    assert not torch.allclose(after, torch.cat([p.flatten() for p in weights(policy)]), atol=1e-4)


@pytest.mark.parametrize("pads", [0, 1, 7])
def test_left_pads_change_neither_logits_nor_values(tokenizer, pads):
    policy, _, _ = collected(tokenizer)
    asked = models.prompt_ids(tokenizer, PROMPTS[2])
    ids = torch.tensor([asked + models.response_ids(tokenizer, "It is red.")])
    start = len(asked)
    plain = policy(ids, torch.ones_like(ids), start)
    left = torch.full((8, pads), tokenizer.pad_token_id)
    padded = torch.cat([left, ids.expand(8, -1)], 1)
    mask = torch.cat([torch.zeros(8, pads), torch.ones(8, ids.shape[1])], 1).long()
    logits, values = policy(padded, mask, start + pads)
    assert torch.allclose(logits, plain[0].expand_as(logits), atol=1e-5)
    assert torch.allclose(values, plain[1].expand_as(values), atol=1e-5)
    assert values.shape == (8, ids.shape[1] - start)


def test_metrics_of_a_batch_are_the_same_whatever_it_is_padded_to(tokenizer):
    """Rows of one batch, once among longer prompts and once alone: same log-probs, values and rewards."""
    policy, reference, batch = collected(tokenizer)
    shortest = min(range(24), key=lambda i: len(batch["prompts"][i]))
    real = batch["full_mask"][shortest].bool()
    ids = batch["ids"][shortest][real][None]
    start = int(batch["full_mask"][shortest, :batch["start"]].sum())
    logits, values = policy(ids, torch.ones_like(ids), start)
    n = ids.shape[1] - start
    alone = ppo.token_logprobs(logits, ids[:, start:])[0]
    assert torch.allclose(alone, batch["logprobs"][shortest, :n], atol=1e-5)
    assert torch.allclose(values[0], batch["values"][shortest, :n], atol=1e-5)


def test_entropy_counts_real_tokens_only(tokenizer):
    policy, _, batch = collected(tokenizer)
    logits, _ = policy(batch["ids"], batch["full_mask"], batch["start"])
    p = logits.double().softmax(-1)
    entropy = -(p * p.log()).sum(-1)[batch["mask"].bool()].mean()
    assert batch["entropy"] == pytest.approx(entropy.item(), abs=1e-5)


# ---------------------------------------------------------------- the tokens a log-prob belongs to

def test_flipping_a_token_moves_its_log_prob_and_later_ones_only(tokenizer):
    policy, _, batch = collected(tokenizer, end=0)
    start, k = batch["start"], 4
    flipped = batch["ids"].clone()
    flipped[:, start + k] = (flipped[:, start + k] + 7) % 250 + 4
    before, after = [], []
    for ids, out in ((batch["ids"], before), (flipped, after)):
        logits, values = policy(ids, batch["full_mask"], start)
        out += [ppo.token_logprobs(logits, ids[:, start:]), values]
    for a, b, moves_at in zip(before, after, (k, k + 1)):  # the value is taken before the token is drawn
        gap = (a - b).abs().amax(0)
        assert (gap[:moves_at] < 1e-6).all() and (gap[moves_at:] > 1e-6).all()


def test_recorded_and_recomputed_log_probs_agree(tokenizer):
    _, _, batch = collected(tokenizer)
    assert torch.allclose(batch["sampled_logprobs"] * batch["mask"], batch["logprobs"], atol=1e-5)


def test_a_roll_out_at_another_temperature_fails_the_health_check(tokenizer, monkeypatch):
    monkeypatch.setattr(ppo, "rollout", lambda *a: hot(*a))

    def hot(model, ids, mask, n, eos, generator):
        ids, mask, logprobs = rollout(model, ids, mask, n, eos, generator, temperature=2.0)
        return ids, mask, logprobs - 0.1  # what a sampler that divides its logits would have recorded

    model = tiny(tokenizer)
    with pytest.raises(WorkbookError, match="sampling and training give the same log-probabilities"):
        ppo.train(model, tokenizer, letters, PROMPTS, settings())


# ---------------------------------------------------------------- the end of an answer

def test_the_end_token_is_inside_the_mask_and_what_follows_is_not(tokenizer):
    _, _, batch = collected(tokenizer)
    eos = tokenizer.eos_token_id
    tokens = batch["ids"][:, batch["start"]:]
    ended = 0
    for row, mask, flag in zip(tokens, batch["mask"], batch["ended"]):
        n = int(mask.sum())
        assert (mask[:n] == 1).all() and (mask[n:] == 0).all()
        assert (row[:n - 1] != eos).all()
        assert bool(row[n - 1] == eos) == bool(flag)
        assert flag or n == 10
        ended += int(flag)
    assert 0 < ended < 24


def test_a_pad_token_that_is_the_end_token_hides_no_end(tokenizer):
    twin = copy.deepcopy(tokenizer)
    twin.pad_token = twin.eos_token
    policy = ppo.PolicyWithValue(tiny(twin))
    policy.model.config.pad_token_id = twin.eos_token_id
    generator = torch.Generator().manual_seed(0)
    batch = ppo.collect(policy, policy, twin, letters, PROMPTS * 4, settings(), generator)
    tokens = batch["ids"][:, batch["start"]:]
    last = batch["mask"].sum(-1).long() - 1
    at_last = tokens.gather(1, last[:, None])[:, 0]
    assert torch.equal(at_last == twin.eos_token_id, batch["ended"])
    assert batch["ended"].any() and (batch["mask"] == 0).any()


def test_the_end_token_gets_a_gradient(tokenizer):
    policy, _, batch = collected(tokenizer)
    row = int(batch["ended"].float().argmax())
    last = int(batch["mask"][row].sum()) - 1
    logits, _ = policy(batch["ids"], batch["full_mask"], batch["start"])
    logits.retain_grad()
    logprobs = ppo.token_logprobs(logits, batch["ids"][:, batch["start"]:])
    ppo.policy_loss(logprobs, batch["logprobs"], batch["advantages"], batch["mask"])[0].backward()
    assert logits.grad[row, last, tokenizer.eos_token_id].abs() > 1e-6
    assert (logits.grad[row, last + 1:] == 0).all()


def test_an_answer_without_an_end_is_counted_and_penalised(tokenizer):
    _, _, batch = collected(tokenizer, no_end_penalty=2.5)
    assert torch.equal(batch["scores"] - batch["final"], 2.5 * (~batch["ended"]).float())
    model = tiny(tokenizer, end=0)
    history, _ = ppo.train(model, tokenizer, letters, PROMPTS, settings(updates=1, lr=0.0))
    assert history[0]["no_end"] == 1.0 and history[0]["length"] == 10


def test_no_end_is_forced_on_an_answer(tokenizer):
    _, _, batch = collected(tokenizer, end=0)
    tokens = batch["ids"][:, batch["start"]:]
    assert not (tokens == tokenizer.eos_token_id).any() and batch["mask"].all() and not batch["ended"].any()


# ---------------------------------------------------------------- whole runs

def test_the_first_update_starts_at_ratio_1_and_kl_0(tokenizer):
    model = tiny(tokenizer)
    seen = []
    history, card = ppo.train(model, tokenizer, letters, PROMPTS, settings(),
                              on_update=lambda row, batch: seen.append(batch))
    assert history[0]["kl"] == 0.0 and torch.equal(seen[0]["logprobs"], seen[0]["ref_logprobs"])
    gap = (seen[1]["logprobs"] - seen[1]["ref_logprobs"]) * seen[1]["mask"]
    assert history[1]["kl"] == pytest.approx(gap.sum(-1).mean().item()) and history[1]["kl"] != 0
    assert [h["first_clip_fraction"] for h in history] == [0.0, 0.0]
    assert max(h["first_ratio_off"] for h in history) < 1e-5
    assert (seen[0]["values"] == 0).all(), "the value head starts at zero"
    assert card["KL is 0 before the first update"] == 0.0
    assert card["sampling and training give the same log-probabilities"] < 1e-4
    assert card["reference and reward model did not move"] == 0.0
    assert len(card) == 9


def test_a_learning_rate_of_0_changes_nothing(tokenizer):
    model = tiny(tokenizer)
    before = weights(model)
    history, _ = ppo.train(model, tokenizer, letters, PROMPTS, settings(lr=0.0))
    assert same(before, weights(model))
    for row in history:
        assert row["kl"] == 0 and row["clip_fraction"] == 0 and row["approx_kl"] == pytest.approx(0, abs=1e-9)


def test_the_model_sees_no_dropout(tokenizer):
    policy, _, batch = collected(tokenizer)
    policy.train()
    assert not [m.p for m in policy.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
    one, two = (policy(batch["ids"], batch["full_mask"], batch["start"])[0] for _ in range(2))
    assert torch.equal(one, two)


def test_reference_and_reward_model_do_not_move(tokenizer, monkeypatch):
    made = []
    plain = ppo.PolicyWithValue.requires_grad_
    monkeypatch.setattr(ppo.PolicyWithValue, "requires_grad_",
                        lambda self, on=True: made.append(self) or plain(self, on))
    model, judge = tiny(tokenizer), tiny(tokenizer, seed=5)
    before, start = weights(judge), weights(model)
    ppo.train(model, tokenizer, letters, PROMPTS, settings(), frozen=(judge,))
    assert same(before, weights(judge))
    assert same(start, weights(made[0].model)) and not same(start, weights(model))
    assert not [p for p in made[0].parameters() if p.requires_grad]


def test_a_reward_model_that_moves_is_noticed(tokenizer):
    judge = tiny(tokenizer, seed=5)

    def moving(prompts, responses):
        judge.transformer.wpe.weight.data[0, 0] += 0.1
        return letters(prompts, responses)

    with pytest.raises(WorkbookError, match="reward model did not move"):
        ppo.train(tiny(tokenizer), tokenizer, moving, PROMPTS, settings(), frozen=(judge,))


def test_not_a_number_stops_the_run_and_keeps_the_last_good_policy(tokenizer):
    model, calls, kept = tiny(tokenizer), [], []

    def breaking(prompts, responses):
        calls.append(1)
        scores = letters(prompts, responses)
        if len(calls) == 3:
            scores[5] = float("nan")
        return scores

    with pytest.raises(WorkbookError, match="not a number.*last good policy is kept"):
        ppo.train(model, tokenizer, breaking, PROMPTS, settings(updates=5),
                  on_update=lambda row, batch: kept.append(weights(model)))
    assert len(kept) == 2
    assert same(weights(model), kept[-1])
    assert all(p.isfinite().all() for p in model.parameters())


def test_an_interrupt_keeps_what_was_learned(tokenizer, capsys):
    model, kept = tiny(tokenizer), []

    def stop(row, batch):
        kept.append(weights(model))
        if row["update"] == 2:
            raise KeyboardInterrupt

    history, card = ppo.train(model, tokenizer, letters, PROMPTS, settings(updates=5), on_update=stop)
    assert len(history) == 2 and same(weights(model), kept[-1])
    assert card["reference and reward model did not move"] == 0.0
    assert "Stopped after 2 of 5 updates" in capsys.readouterr().out


def test_an_interrupt_in_the_middle_of_an_update_goes_back_to_the_last_whole_one(tokenizer, monkeypatch):
    model, kept, plain = tiny(tokenizer), [], ppo.value_loss
    monkeypatch.setattr(ppo, "value_loss", lambda *a: stop(*a))

    def stop(*arguments):
        if len(kept) == 1 and not torch.equal(kept[0][0], weights(model)[0]):
            raise KeyboardInterrupt
        return plain(*arguments)

    history, _ = ppo.train(model, tokenizer, letters, PROMPTS, settings(updates=5),
                           on_update=lambda row, batch: kept.append(weights(model)))
    assert len(history) == 1 and same(weights(model), kept[0])


def test_the_same_seed_gives_the_same_run(tokenizer):
    runs = []
    for seed in (3, 3, 4):
        model, texts = tiny(tokenizer), []
        torch.manual_seed(len(runs))  # the global generator must not matter
        history, _ = ppo.train(model, tokenizer, letters, PROMPTS, settings(), seed=seed,
                               on_update=lambda row, batch: texts.extend(batch["responses"]))
        runs.append((history, texts, weights(model)))
    assert runs[0][0] == runs[1][0] and runs[0][1] == runs[1][1] and same(runs[0][2], runs[1][2])
    assert runs[0][1] != runs[2][1]


def test_every_prompt_is_asked_once_before_any_is_asked_again(tokenizer):
    asked = []
    ppo.train(tiny(tokenizer), tokenizer, letters, PROMPTS, settings(updates=3, batch_size=2, minibatches=1),
              on_update=lambda row, batch: asked.extend(batch["prompts"]))
    assert sorted(asked) == sorted(PROMPTS)


def test_a_reward_that_anybody_can_raise_rises(tokenizer):
    model = tiny(tokenizer)
    history, _ = ppo.train(model, tokenizer, letters, PROMPTS,
                           settings(updates=8, batch_size=32, minibatches=2, lr=1e-2, beta=0.01))
    first, last = history[0]["reward"], np.mean([h["reward"] for h in history[-2:]])
    assert last > first + 1.0, [round(h["reward"], 2) for h in history]
    assert history[-1]["kl"] > 0.1


def test_a_strong_kl_penalty_holds_the_policy_back(tokenizer):
    kls = []
    for beta in (0.0, 5.0):
        history, _ = ppo.train(tiny(tokenizer), tokenizer, letters, PROMPTS,
                               settings(updates=5, minibatches=2, lr=1e-2, beta=beta))
        kls.append(np.mean([h["kl"] for h in history[-2:]]))
    assert kls[1] < 0.5 * kls[0], kls


def test_normalized_reward_has_mean_0_and_variance_1_on_the_reference_answers():
    answers = ["e", "t e", "no", "tee", "teeth"]
    judge = ppo.normalized_reward(letters, PROMPTS[:5], answers)
    scores = judge(PROMPTS[:5], answers)
    assert scores.mean().item() == pytest.approx(0, abs=1e-6)
    assert scores.std().item() == pytest.approx(1, abs=1e-6)
    gap = (judge(["?"], ["tttt"]) - judge(["?"], ["t"])).item()
    assert gap == pytest.approx(3 / letters([""] * 5, answers).std().item(), abs=1e-5)


def test_end_tokens_are_those_of_tokenizer_and_generation_config(tokenizer):
    model = tiny(tokenizer)
    model.generation_config.eos_token_id = [7, 9]
    assert end_tokens(model, tokenizer) == {tokenizer.eos_token_id, 7, 9}
