"""Best-of-n, RLOO, DPO and KTO: their formulas against numpy, and that each does what it is for."""

import copy
import importlib.util
import itertools
import math

import numpy as np
import pytest
import torch
from test_ppo import PROMPTS, letters, same, settings, small_tokenizer, tiny, weights

from rlhf_helpers import world
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.lesson import alternatives, ppo
from rlhf_helpers.lesson.decoding import generate, rollout


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


def mean_letters(model, tokenizer, n=40):
    said = generate(model, tokenizer, PROMPTS * n, max_new_tokens=10, seed=9)
    return letters(PROMPTS * n, said).mean().item()


# ---------------------------------------------------------------- best of n


def test_best_of_n_is_the_best_of_the_very_answers_that_are_sampled(tokenizer):
    model = tiny(tokenizer)
    answers = generate(model, tokenizer, PROMPTS * 5, max_new_tokens=10, seed=3)
    best = alternatives.best_of_n(model, tokenizer, letters, PROMPTS, 5, max_new_tokens=10, seed=3)
    for i, said in enumerate(best):
        mine = answers[i :: len(PROMPTS)]
        assert said in mine
        assert letters([""], [said]) == letters([""] * 5, mine).max()
    assert best != answers[: len(PROMPTS)]


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_the_kl_of_best_of_n_is_that_of_the_distribution_of_maxima(n):
    """KL(maximum of n || one draw) of a uniform number: the density of the maximum is n x^(n-1)."""
    x = (np.arange(2_000_000) + 0.5) / 2_000_000
    density = n * x ** (n - 1)
    exact = (density * np.log(density)).mean() if n > 1 else 0.0
    assert alternatives.best_of_n_kl(n) == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("n", [2, 5, 16])
def test_the_kl_of_best_of_n_is_never_above_its_bound(n):
    """Exactly, for models that say a few things: worst answer first, the best of n is i with F(i)^n - F(i-1)^n."""
    rng = np.random.default_rng(n)
    for answers in (2, 5, 40):
        p = rng.dirichlet(np.ones(answers))
        upto = p.cumsum()
        best = upto**n - (upto - p) ** n
        kl = (best * np.log(np.maximum(best, 1e-300) / p)).sum()
        assert 0 <= kl < alternatives.best_of_n_kl(n)
    many = 1 / 100_000  # hardly any answer is ever sampled twice
    upto = np.arange(1, 100_001) * many
    best = upto**n - (upto - many) ** n
    kl = (best * np.log(np.maximum(best, 1e-300) / many)).sum()
    assert kl == pytest.approx(alternatives.best_of_n_kl(n), abs=1e-3)


def test_pass_at_k_is_the_share_of_all_choices_of_k_answers():
    for n in range(1, 7):
        for right in range(n + 1):
            answers = [True] * right + [False] * (n - right)
            for k in range(1, n + 1):
                drawn = [any(some) for some in itertools.combinations(answers, k)]
                assert alternatives.pass_at_k(n, right, k) == pytest.approx(np.mean(drawn))


# ---------------------------------------------------------------- RLOO


def test_leave_one_out_against_numpy():
    scores = np.random.default_rng(0).normal(size=(7, 4))
    expected = np.array([[row[j] - np.delete(row, j).mean() for j in range(4)] for row in scores])
    np.testing.assert_allclose(alternatives.leave_one_out(torch.tensor(scores)).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("k", [2, 3, 16])
def test_an_answer_in_its_own_baseline_only_scales_all_advantages(k):
    scores = torch.tensor(np.random.default_rng(k).normal(size=(7, k)))
    with_itself = scores - scores.mean(-1, keepdim=True)
    torch.testing.assert_close(with_itself, alternatives.leave_one_out(scores) * (k - 1) / k)


def test_answer_logprobs_are_those_of_a_plain_forward(tokenizer):
    model = tiny(tokenizer)
    asked, said = models.prompt_ids(tokenizer, PROMPTS[0]), models.response_ids(tokenizer, "It is red.")
    with torch.no_grad():
        plain = model(torch.tensor([asked + said])).logits[0].double().log_softmax(-1).numpy()
        ids, mask = models.pad([asked + said, asked + said[:2]], 0)
        got = alternatives.answer_logprobs(model, ids, mask, len(asked))[0]
    expected = [plain[len(asked) + t - 1, token] for t, token in enumerate(said)]
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


def test_the_first_step_of_rloo_is_reinforce_with_the_others_as_baseline(tokenizer, monkeypatch):
    """Its gradient, worked out again from the tokens that it sampled."""
    model, rolled, asked, grads = tiny(tokenizer), [], [], []
    start, clip = copy.deepcopy(model), torch.nn.utils.clip_grad_norm_

    def reward(prompts, responses):
        asked.append((prompts, responses))
        return letters(prompts, responses)

    def watched_clip(parameters, most):
        grads.extend(p.grad.clone() for p in model.parameters())
        return clip(model.parameters(), most)

    monkeypatch.setattr(alternatives, "rollout", lambda *a: rolled.append(rollout(*a)) or rolled[-1])
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", watched_clip)
    alternatives.rloo(model, tokenizer, reward, PROMPTS, settings(updates=1, batch_size=12, beta=0.5), answers=3)

    (ids, mask, _), (prompts, responses) = rolled[0], asked[0]
    assert all(len(set(prompts[k : k + 3])) == 1 for k in range(0, 12, 3))
    begin = max(len(models.prompt_ids(tokenizer, p)) for p in prompts)
    real = mask[:, begin:].numpy().astype(bool)
    ended = ((ids[:, begin:] == tokenizer.eos_token_id).numpy() & real).any(-1)
    scores = (letters(prompts, responses).numpy() - ~ended).reshape(4, 3)
    advantages = np.array([[row[j] - np.delete(row, j).mean() for j in range(3)] for row in scores])
    logits = start(ids, attention_mask=mask, position_ids=models.position_ids(mask)).logits[:, begin - 1 : -1]
    logprobs = logits.log_softmax(-1).gather(-1, ids[:, begin:, None])[..., 0]
    whole = (logprobs * torch.tensor(real)).sum(-1)
    (-(torch.tensor(advantages.flatten()).float() * whole).mean()).backward()
    for p, grad in zip(start.parameters(), grads, strict=True):
        assert torch.allclose(p.grad, grad, atol=1e-5)
    assert max(g.abs().max() for g in grads) > 1e-3


def test_rloo_raises_its_reward_and_a_strong_penalty_holds_it_back(tokenizer):
    model, held = tiny(tokenizer), tiny(tokenizer)
    before = mean_letters(model, tokenizer)
    hard = {"updates": 20, "batch_size": 32, "lr": 1e-2}
    history = alternatives.rloo(model, tokenizer, letters, PROMPTS, settings(**hard, beta=0.01))
    assert mean_letters(model, tokenizer) > before + 1.0, [round(h["reward"], 2) for h in history]
    assert history[0]["kl"] == pytest.approx(0, abs=1e-4)
    back = alternatives.rloo(held, tokenizer, letters, PROMPTS, settings(**hard, beta=5.0))
    assert back[-1]["kl"] < 0.5 * history[-1]["kl"]


def test_rloo_repeats_with_its_seed_and_counts_its_tokens(tokenizer):
    runs = []
    for seed in (3, 3, 4):
        model = tiny(tokenizer)
        runs.append((alternatives.rloo(model, tokenizer, letters, PROMPTS, settings(), seed), weights(model)))
    assert runs[0][0] == runs[1][0] and same(runs[0][1], runs[1][1]) and not same(runs[0][1], runs[2][1])
    assert all(24 <= row["tokens"] <= 240 for row in runs[0][0])


@pytest.mark.parametrize("answers", [1, 5])
def test_rloo_needs_answers_to_compare(tokenizer, answers):
    with pytest.raises(WorkbookError, match=f"can't be shared out as {answers} to each"):
        alternatives.rloo(tiny(tokenizer), tokenizer, letters, PROMPTS, settings(), answers=answers)


# ---------------------------------------------------------------- groups in the loop of PPO


def ragged(seed, rows=6, longest=9):
    """Log-probabilities before and after, scores, and a mask of answers of several lengths, end included."""
    dice = torch.Generator().manual_seed(seed)
    old = torch.randn(rows, longest, generator=dice, dtype=torch.float64) - 2
    new = old + 0.3 * torch.randn(rows, longest, generator=dice, dtype=torch.float64)
    lengths = torch.randint(1, longest + 1, (rows,), generator=dice)
    mask = (torch.arange(longest) < lengths[:, None]).double()
    return new.requires_grad_(), old, torch.randn(rows, generator=dice, dtype=torch.float64), mask


def test_the_losses_of_grpo_and_dr_grpo_against_numpy():
    new, old, scores, mask = ragged(0)
    s, m = scores.view(2, 3).numpy(), mask.numpy()
    ratio = np.exp((new - old).detach().numpy())
    centred = s - s.mean(1, keepdims=True)
    cases = {
        alternatives.mean_of_answers: (alternatives.standardised, centred / (s.std(1, ddof=1, keepdims=True) + 1e-4)),
        alternatives.sum_over(9): (alternatives.centred, centred),
    }
    for (mean, (compare, by_hand)), divide in zip(cases.items(), (m.sum(1), np.full(6, 9.0)), strict=True):
        advantages = compare(scores.view(2, 3)).view(-1, 1)
        np.testing.assert_allclose(advantages.view(2, 3).numpy(), by_hand, rtol=1e-12)
        a = by_hand.reshape(6, 1)
        worth = np.minimum(a * ratio, a * ratio.clip(0.8, 1.2)) * m
        loss, _, _ = alternatives.averaged(mean)(new, old, advantages * mask, mask)
        assert loss.item() == pytest.approx(-(worth.sum(1) / divide).mean(), rel=1e-12)


def test_rloo_and_dr_grpo_are_proportional():
    new, old, scores, mask = ragged(1)
    grads = []
    for compare, mean in ((alternatives.leave_one_out, 1), (alternatives.centred, 9)):
        advantages = compare(scores.view(2, 3)).view(-1, 1) * mask
        loss, _, _ = alternatives.averaged(alternatives.sum_over(mean))(new, old, advantages, mask)
        grads.append(torch.autograd.grad(loss, new)[0])
    torch.testing.assert_close(grads[0], grads[1] * 9 * 3 / 2)


def first_gradient(model, tokenizer, monkeypatch, run):
    """(what `run` sampled, the gradient of its first step before the clip)."""
    rolled, grads, clip = [], [], torch.nn.utils.clip_grad_norm_
    with monkeypatch.context() as patch:
        for module in (alternatives, ppo):
            patch.setattr(module, "rollout", lambda *a: rolled.append(rollout(*a)) or rolled[-1])
        patch.setattr(
            torch.nn.utils,
            "clip_grad_norm_",
            lambda *a: grads.extend(p.grad.clone() for p in model.parameters()) or clip(*a),
        )
        run(model)
    return rolled[0][0], grads


def test_a_group_takes_the_step_of_plain_rloo_and_leaves_the_value_head_alone(tokenizer, monkeypatch):
    """One prompt, so that both ask the same, with the same dice: the same answers and the same gradient."""
    now = settings(updates=1, batch_size=12, beta=0.5, epochs=1, minibatches=1)
    how = tokenizer, letters, PROMPTS[:1], now
    said, plain = first_gradient(
        tiny(tokenizer), tokenizer, monkeypatch, lambda m: alternatives.rloo(m, *how, answers=3)
    )
    again, ours = first_gradient(
        tiny(tokenizer), tokenizer, monkeypatch, lambda m: alternatives.grouped(m, *how, answers=3)
    )
    assert torch.equal(said, again)
    for a, b in zip(plain, ours, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert max(g.abs().max() for g in ours) > 1e-3


def test_grpo_runs_in_the_loop_with_its_health_card_and_puts_everything_back(tokenizer):
    model, seen, before = tiny(tokenizer), [], (ppo.collect, ppo.policy_loss)
    now = settings(updates=12, batch_size=32, lr=1e-2, beta=0.01)
    start = mean_letters(model, tokenizer)
    history, card = alternatives.grpo(
        model, tokenizer, letters, PROMPTS, now, answers=4, on_update=lambda row, batch: seen.append(batch)
    )
    assert mean_letters(model, tokenizer) > start + 0.5, [round(h["reward"], 2) for h in history]
    assert len(history) == 12 and len(card) == 9 and (ppo.collect, ppo.policy_loss) == before
    assert history[0]["loss_mask_off"] == history[0]["value_shift"] == 0
    for batch in (seen[0], seen[-1]):
        assert all(len(set(batch["prompts"][k : k + 4])) == 1 for k in range(0, 32, 4))
        first = batch["advantages"][:, 0].view(8, 4)
        assert torch.allclose(first.sum(-1), torch.zeros(8), atol=1e-4) and first.abs().max() > 0.1
        assert (batch["values"] == 0).all(), "the value head learned something"
    with pytest.raises(WorkbookError, match="can't be shared out as 5 to each"):
        alternatives.grouped(model, tokenizer, letters, PROMPTS, now, answers=5)


# ---------------------------------------------------------------- DPO


def test_dpo_loss_and_gradient_against_numpy():
    rng = np.random.default_rng(0)
    c, r, rc, rr = rng.normal(size=(4, 50)) * 5
    gap = 0.3 * ((c - rc) - (r - rr))
    chosen, rejected = (torch.tensor(x, requires_grad=True) for x in (c, r))
    loss = alternatives.dpo_loss(chosen, rejected, torch.tensor(rc), torch.tensor(rr), 0.3)
    assert loss.item() == pytest.approx(np.log1p(np.exp(-gap)).mean(), rel=1e-12)
    loss.backward()
    wrong = 1 / (1 + np.exp(gap))
    np.testing.assert_allclose(chosen.grad.numpy(), -0.3 * wrong / 50, atol=1e-12)
    np.testing.assert_allclose(rejected.grad.numpy(), 0.3 * wrong / 50, atol=1e-12)


def test_dpo_starts_at_ln_2_and_raises_what_the_judge_likes(tokenizer):
    model = tiny(tokenizer)
    before = mean_letters(model, tokenizer)
    rows = alternatives.judged_pairs(model, tokenizer, letters, PROMPTS * 40, max_new_tokens=10)
    losses = alternatives.dpo(model, tokenizer, rows, epochs=3, lr=3e-3, beta=0.1)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert np.mean(losses[-3:]) < 0.55
    assert mean_letters(model, tokenizer) > before + 0.5


def test_judged_pairs_have_the_better_answer_as_the_chosen_one(tokenizer):
    rows = alternatives.judged_pairs(tiny(tokenizer), tokenizer, letters, PROMPTS * 5, max_new_tokens=10)
    gaps = letters([""] * len(rows), [r["chosen"] for r in rows]) - letters(
        [""] * len(rows), [r["rejected"] for r in rows]
    )
    assert (gaps > 0).all() and 5 < len(rows) < 30


def test_dpo_repeats_with_its_seed_and_needs_pairs(tokenizer):
    rows = alternatives.judged_pairs(tiny(tokenizer), tokenizer, letters, PROMPTS * 5, max_new_tokens=10)
    runs = []
    for seed in (0, 0, 1):
        model = tiny(tokenizer)
        runs.append((alternatives.dpo(model, tokenizer, rows, batch_size=5, seed=seed), weights(model)))
    assert runs[0][0] == runs[1][0] and same(runs[0][1], runs[1][1]) and not same(runs[0][1], runs[2][1])
    with pytest.raises(WorkbookError, match="no pair for DPO"):
        alternatives.dpo(tiny(tokenizer), tokenizer, [])


def test_a_mean_log_probability_is_the_whole_over_the_tokens_of_the_answer(tokenizer):
    model, rows = tiny(tokenizer), [{"prompt": PROMPTS[0], "response": r} for r in ("Yes.", "It is red and round.")]
    lengths = torch.tensor([len(models.response_ids(tokenizer, r["response"])) for r in rows])
    whole, mean = (f(model, tokenizer, rows) for f in (alternatives.whole_logprobs, alternatives.mean_logprobs))
    torch.testing.assert_close(mean * lengths, whole)
    assert lengths[0] < lengths[1]


def test_dpo_reads_answers_in_the_way_that_it_is_given(tokenizer):
    """SimPO: per token, and without the reference."""
    model, seen = tiny(tokenizer), []
    rows = alternatives.judged_pairs(model, tokenizer, letters, PROMPTS * 5, max_new_tokens=10)

    def loss(chosen, rejected, ref_chosen, ref_rejected, beta):
        seen.append((chosen.detach(), ref_chosen))
        return alternatives.dpo_loss(chosen, rejected, 0 * ref_chosen, 0 * ref_rejected, beta)

    alternatives.dpo(model, tokenizer, rows, loss=loss, logprobs=alternatives.mean_logprobs, batch_size=len(rows))
    some = [{"prompt": r["prompt"], "response": r["chosen"]} for r in rows]
    expected = alternatives.mean_logprobs(tiny(tokenizer), tokenizer, some)
    for found in seen[0]:
        torch.testing.assert_close(found.sort()[0], expected.detach().sort()[0])


# ---------------------------------------------------------------- KTO


def logistic(x):
    return 1 / (1 + np.exp(-x))


def kto_by_hand(gap, good, usual, beta):
    """The loss of Ethayarajh et al. (2024), equation 8, with weights of 1, an answer at a time."""
    value = [logistic(beta * (g - usual)) if up else logistic(beta * (usual - g)) for g, up in zip(gap, good)]
    return np.mean([1 - v for v in value])


WRONG_KTO = {  # what goes wrong in this loss
    "thumbs swapped": lambda gap, good, usual, beta: kto_by_hand(gap, ~good, usual, beta),
    "no reference point": lambda gap, good, usual, beta: kto_by_hand(gap, good, 0.0, beta),
    "the point on the wrong side": lambda gap, good, usual, beta: kto_by_hand(gap, good, -usual, beta),
    "beta on the gap only": lambda gap, good, usual, beta: kto_by_hand(beta * gap, good, usual, 1.0),
    "DPO's log": lambda gap, good, usual, beta: np.mean(
        -np.log(logistic(beta * np.where(good, 1, -1) * (gap - usual)))
    ),
}


def test_kto_loss_and_gradient_against_numpy_and_not_as_a_wrong_variant_has_it():
    rng = np.random.default_rng(0)
    gap, good, usual, beta = rng.normal(size=50) * 5, rng.random(50) < 0.4, 0.7, 0.3
    here = torch.tensor(gap, requires_grad=True)
    loss = alternatives.kto_loss(here, torch.tensor(good), usual, beta)
    assert loss.item() == pytest.approx(kto_by_hand(gap, good, usual, beta), rel=1e-12)
    for name, wrong in WRONG_KTO.items():
        assert abs(wrong(gap, good, usual, beta) - loss.item()) > 1e-3, name
    loss.backward()
    s = logistic(beta * np.where(good, gap - usual, usual - gap))
    np.testing.assert_allclose(here.grad.numpy(), -np.where(good, 1, -1) * beta * s * (1 - s) / 50, atol=1e-12)


def test_the_usual_gap_is_that_of_other_peoples_answers_has_no_gradient_and_is_never_negative(tokenizer):
    model, reference = tiny(tokenizer), tiny(tokenizer)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    rows = [{"prompt": p, "response": r} for p, r in zip(PROMPTS, ("Yes.", "It is red.", "No no.", "A dog."))]
    moved = [{"prompt": rows[i]["prompt"], "response": rows[i - 1]["response"]} for i in range(4)]
    with torch.no_grad():
        now, then = (alternatives.whole_logprobs(m, tokenizer, moved) for m in (model, reference))
    mean = (now - then).mean().item()
    there, back = (alternatives.usual_gap(*both, tokenizer, rows) for both in ((model, reference), (reference, model)))
    assert sorted((there.item(), back.item())) == pytest.approx([0.0, abs(mean)], abs=1e-5)
    assert abs(mean) > 1e-3 and not there.requires_grad


def test_thumbs_are_both_sides_of_each_pair():
    rows = [{"prompt": "p", "chosen": "good", "rejected": "bad"}]
    assert alternatives.thumbs(rows) == [
        {"prompt": "p", "completion": "good", "label": True},
        {"prompt": "p", "completion": "bad", "label": False},
    ]


def test_kto_starts_at_one_half_and_raises_what_gets_thumbs_up(tokenizer):
    model, watched = tiny(tokenizer), []
    before = mean_letters(model, tokenizer)
    rows = alternatives.judged_pairs(model, tokenizer, letters, PROMPTS * 40, max_new_tokens=10)
    unpaired = alternatives.thumbs(rows)
    how = {"epochs": 3, "batch_size": 32, "lr": 3e-3, "beta": 0.3}
    losses = alternatives.kto(model, tokenizer, unpaired, on_step=watched.append, **how)
    assert losses[0] == pytest.approx(0.5, abs=1e-6) and np.mean(losses[-3:]) < 0.45
    assert mean_letters(model, tokenizer) > before + 0.5
    assert watched[-1]["good"] > watched[-1]["bad"] and all(row["usual"] >= 0 for row in watched)
    turned = [r | {"label": not r["label"]} for r in unpaired]
    other = tiny(tokenizer)
    alternatives.kto(other, tokenizer, turned, **how)
    assert mean_letters(other, tokenizer) < before / 2


def test_kto_repeats_with_its_seed_and_needs_thumbs(tokenizer):
    rows = alternatives.judged_pairs(tiny(tokenizer), tokenizer, letters, PROMPTS * 5, max_new_tokens=10)
    runs = []
    for seed in (0, 0, 1):
        model = tiny(tokenizer)
        runs.append(
            (alternatives.kto(model, tokenizer, alternatives.thumbs(rows), batch_size=9, seed=seed), weights(model))
        )
    assert runs[0][0] == runs[1][0] and same(runs[0][1], runs[1][1]) and not same(runs[0][1], runs[2][1])
    with pytest.raises(WorkbookError, match="no thumb, up or down, for KTO"):
        alternatives.kto(tiny(tokenizer), tokenizer, [])


# ---------------------------------------------------------------- the comparison in benchmarks/


@pytest.fixture(scope="module")
def methods():
    spec = importlib.util.spec_from_file_location("methods", ROOT / "benchmarks" / "methods.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_one_run_of_each_method_says_what_it_cost(methods, monkeypatch):
    some = {split: world.prompts(split)[:12] for split in ("train", "dev")}
    for module in (methods.world, methods.measures):
        monkeypatch.setattr(module, "prompts", lambda split: some[split])
    rows = {m: methods.one(m, methods.tried(m)[-1], 0, ("dev",), updates=1) for m in methods.GRIDS}
    for method, row in rows.items():
        assert row["method"] == method and 0 <= row["dev_right"] <= 1 and 0 <= row["dev_win_rate"] <= 1
        assert 2 < row["dev_in_use"] / row["settings"].get("n", 1) < 48
    assert (rows["best-of-n"]["sampled"], rows["best-of-n"]["trained"]) == (0, 0)
    assert rows["best-of-n"]["dev_kl"] == alternatives.best_of_n_kl(rows["best-of-n"]["settings"]["n"])
    assert rows["best-of-n"]["dev_gold"] > methods.one("fine-tuned", {}, 0, ("dev",))["dev_gold"]
    assert rows["RLOO"]["trained"] == rows["RLOO"]["sampled"] and rows["PPO"]["trained"] == 2 * rows["PPO"]["sampled"]
    pairs = rows["DPO"]["trained"] / rows["DPO"]["settings"]["epochs"]
    assert 0.5 * rows["DPO"]["sampled"] < pairs <= rows["DPO"]["sampled"], "pairs that score the same are left out"


def measured(method, settings, seed, gold, kl, split="test"):
    scores = {f"{split}_gold": gold, f"{split}_kl": kl, f"{split}_right": 0.5, f"{split}_win_rate": 0.5}
    costs = {"sampled": 1000, "trained": 2000, "test_in_use": 10.0, "cpu": 1.0}
    return {"method": method, "settings": settings, "seed": seed, **scores, **costs, "reworded_gold": gold}


def test_settings_are_chosen_by_gold_on_dev_among_those_that_stay_near(methods):
    found = {
        (0.1, 1e-4, 1): (2.0, 12.0),
        (0.1, 3e-4, 1): (1.9, 3.0),
        (0.3, 1e-4, 2): (1.0, 2.0),
        (1.0, 1e-4, 1): (0.9, 1.0),
    }
    sweep = [
        measured("DPO", dict(zip(methods.GRIDS["DPO"], key)), 0, gold, kl, "dev") for key, (gold, kl) in found.items()
    ]
    for method in ("best-of-n", "RLOO", "PPO"):
        sweep += [measured(method, s, 0, -i, 1.0, "dev") for i, s in enumerate(methods.tried(method))]
    chosen = methods.choose(sweep)
    assert chosen["DPO"]["points"] == [dict(zip(methods.GRIDS["DPO"], k)) for k in list(found)[::2] + [(1.0, 1e-4, 1)]]
    assert chosen["DPO"]["best"] == {"beta": 0.3, "lr": 1e-4, "epochs": 2}, "the first is beyond the limit"
    assert chosen["PPO"]["best"] == methods.tried("PPO")[0]
    assert [p["n"] for p in chosen["best-of-n"]["points"]] == list(methods.POINTS["best-of-n"])


def test_differences_are_paired_by_seed_at_the_best_settings_and_at_equal_distance(methods):
    chosen = {m: {"points": [{"beta": 1}, {"beta": 2}], "best": {"beta": 2}} for m in ("DPO", "PPO")}
    runs = []
    for seed in range(3):
        runs += [measured("fine-tuned", {}, seed, 0.0, 0.0)]
        runs += [
            measured("DPO", {"beta": 1}, seed, 1.0 + seed, 1.0),
            measured("DPO", {"beta": 2}, seed, 2.0 + seed, 4.0),
        ]
        runs += [
            measured("PPO", {"beta": 1}, seed, 2.0 + seed, 4.0),
            measured("PPO", {"beta": 2}, seed, 2.1 + seed, 9.0),
        ]
    result = {"chosen": chosen, "runs": runs}
    best, *near = methods.gaps(result, "PPO", "DPO")
    assert best == pytest.approx([0.1] * 3) and methods.told(best).endswith("higher")
    for kl, found in zip(methods.AT, near, strict=True):
        ours, theirs = (methods.gold_at(result, m, kl) for m in ("PPO", "DPO"))
        assert ours == pytest.approx([(2 + s) * kl**0.5 / 2 for s in range(3)])
        assert theirs == pytest.approx([1 + s + (kl**0.5 - 1) for s in range(3)])
        assert found == pytest.approx([a - b for a, b in zip(ours, theirs)])
        assert methods.told(found).endswith("inconclusive")
    assert methods.gold_at(result, "DPO", 5) is None and methods.told(None) == "not reached"


# ---------------------------------------------------------------- benchmarks/verifiable.py


@pytest.fixture(scope="module")
def verifiable():
    spec = importlib.util.spec_from_file_location("verifiable", ROOT / "benchmarks" / "verifiable.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["verifier", "judge"])
def test_every_variant_is_trained_at_the_same_cost_and_measured(verifiable, kind, monkeypatch):
    some = {split: world.prompts(split)[:96] for split in ("train", "dev")}
    monkeypatch.setattr(verifiable.world, "prompts", lambda split: some[split])
    monkeypatch.setattr(verifiable, "K", 2)
    names = ["fine-tuned", "PPO, λ 0.95, no clip", "GRPO"] if kind == "judge" else ["RLOO"]
    for name in names:
        row = verifiable.one(kind, name, 2e-4, 0, "dev", updates=1)
        assert 0 < row["dev_right"] < 1 and row["dev_right"] <= row["dev_pass"] <= 1 and row["dev_kl"] < 1
        assert row["dev_wrong_words"] > 1 and (name == "fine-tuned" or row["clipped"] < 0.5)


def test_the_verdicts_on_what_papers_claim_follow_the_seeds(verifiable):
    wobble = [-0.01, 0.0, 0.01]

    def result(kind, **means):
        rows = [
            {"method": m, "lr": 1e-4, "seed": s, "minutes": 0.5, "clipped": 0.1} | {k: x + w for k, x in of.items()}
            for m, of in means.items()
            for s, w in enumerate(wobble)
        ]
        return {"reward": kind, "chosen": {}, "runs": rows}

    def verdicts(found):
        return [claim[-1] for claim in verifiable.claims(found)]

    def row(right, passed, words):
        return {"test_right": right, "test_pass": passed, "test_wrong_words": words, "test_kl": 1.0, "test_gold": 0.0}

    names = ("fine-tuned", "PPO, λ 0.95", "RLOO", "GRPO")
    like_the_papers = dict(zip(names, (row(0.4, 0.9, 9), row(0.7, 0.9, 9), row(0.7, 0.9, 9), row(0.7, 0.9, 12))))
    assert verdicts(result("verifier", **like_the_papers)) == ["holds"] * 3
    unlike = dict(zip(names, (row(0.4, 0.6, 9), row(0.7, 0.9, 9), row(0.7, 0.9, 9), row(0.6, 0.9, 7))))
    assert verdicts(result("verifier", **unlike)) == ["fails"] * 3
    no_room = {m: x | {"test_pass": 0.99} for m, x in like_the_papers.items()}
    assert verdicts(result("verifier", **no_room)) == ["holds", "holds", "inconclusive"]
    gold = {"PPO, λ 0.95": 1.0, "PPO, λ 1": 1.5, "PPO, λ 0.95, no clip": 1.02, "RLOO": 0.5}
    judged = result("judge", **{m: row(0.5, 0.9, 9) | {"test_gold": g} for m, g in (gold | {"GRPO": 1}).items()})
    assert verdicts(judged) == ["fails", "holds", "holds"]
    rows = list(verifiable.reproduced(judged))
    assert len(rows) == 3 and all(r.count("|") == 7 for r in rows) and "--reward judge" in rows[0]
    assert verifiable.above([0.1, -0.1, 0.3], 0) == "inconclusive" == verifiable.within([0.1, -0.1, 0.3], 0.1)
