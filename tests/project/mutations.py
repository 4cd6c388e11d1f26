"""The known bugs of RLHF code, each put into the package once, to see that its test goes red.

    python tests/project/mutations.py           # puts each bug into a copy, runs its test, prints the table
    python tests/project/mutations.py --write   # and writes docs/known_bugs.md

A bug is a piece of the package's text and what stands there instead.  Everything happens in a temporary copy.
"""

import argparse
import gc
import importlib
import os
import re
import shutil
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "known_bugs.md"
Bug = namedtuple("Bug", "n what file old new test")

PPO, REWARD, DECODING = "lesson/ppo.py", "lesson/reward.py", "lesson/decoding.py"
MODELS, ARITHMETIC, SAMPLER = "engine/models.py", "engine/arithmetic.py", "engine/sampler.py"
CHECKPOINTS, LESSON = "engine/checkpoints.py", "lesson/__init__.py"
HEALTHY = "test_the_first_update_starts_at_ratio_1_and_kl_0"
JUNK = "test_junk_in_the_pads_changes_no_piece"

# fmt: off
BUGS = [Bug(*b) for b in [
    # ------------------------------------------------------------ sampling and log-probabilities
    (1, "rollout at temperature 0.7", PPO, "settings.max_new_tokens, eos, dice",
     "settings.max_new_tokens, eos, dice, 0.7",
     "test_tokens_are_drawn_with_the_probabilities_that_are_trained_on"),
    (1, "rollout from the top 20 tokens only", PPO, "settings.max_new_tokens, eos, dice",
     "settings.max_new_tokens, eos, dice, 1.0, 20",
     "test_tokens_are_drawn_with_the_probabilities_that_are_trained_on"),
    (1, "rollout from the most probable nine tenths", PPO, "settings.max_new_tokens, eos, dice",
     "settings.max_new_tokens, eos, dice, 1.0, 0, 0.9",
     "test_tokens_are_drawn_with_the_probabilities_that_are_trained_on"),
    (2, "ratio against the reference instead of the rollout", PPO, 'logprobs, part["logprobs"], part',
     'logprobs, part["ref_logprobs"], part', HEALTHY),
    (3, "reference sees the padding, policy does not", PPO,
     "reference.read(ids, full_mask, start)", "reference.read(ids, torch.ones_like(full_mask), start)", HEALTHY),
    (4, "dropout left on in a new model", MODELS, "resid_pdrop=0.0", "resid_pdrop=0.1",
     "test_the_model_sees_no_dropout"),
    (4, "dropout left on in a loaded model", MODELS, "                setattr(part, name, 0.0)",
     "                pass", "test_no_architecture_keeps_any_dropout"),
    (5, "log-probabilities of the token before", PPO, "\n                ids[:, :-1],\n                "
     "attention_mask=mask[:, :-1],\n                position_ids=position_ids(mask)[:, :-1],\n",
     "ids, attention_mask=mask, position_ids=position_ids(mask),\n",
     "test_flipping_a_token_moves_its_log_prob_and_later_ones_only"),
    (5, "value read after the token was drawn", PPO, "return out.logits, self.value_head(hidden).squeeze(-1)",
     "return out.logits, self.value_head(hidden.roll(-1, 1)).squeeze(-1)",
     "test_flipping_a_token_moves_its_log_prob_and_later_ones_only"),
    (6, "gather on lengths that do not match", PPO,
     "    assert logits.shape[:2] == tokens.shape, (logits.shape, tokens.shape)\n", "",
     "test_gather_does_not_cut_off_in_silence"),
    (7, "policy without position ids", PPO, "position_ids=position_ids(mask)[:, :-1],", "",
     "test_left_pads_change_neither_logits_nor_values"),
    (7, "reward model without position ids", REWARD, ", position_ids=position_ids(mask))", ")",
     "test_scores_do_not_depend_on_padding"),
    (8, "log-softmax in half precision", PPO, "logits.float().log_softmax(-1)\n    return logprobs.gather",
     "logits.log_softmax(-1)\n    return logprobs.gather",
     "test_token_logprobs_works_in_float32_whatever_comes_in"),
    (9, "a second BOS before a chat template", MODELS, "ids if ids[: len(first)] == first else first + ids",
     "first + ids", "test_there_is_exactly_one_bos"),
    (9, "a BOS between prompt and answer", MODELS, "tokenizer(said, add_special_tokens=False)",
     "tokenizer(said)", "test_there_is_exactly_one_bos"),
    (9, "another template for the reward model", REWARD,
     "zip(prompts_ids(tokenizer, prompts), responses_ids(tokenizer, responses),",
     "zip(tokenizer(prompts)['input_ids'], responses_ids(tokenizer, responses),",
     "test_policy_and_reward_model_read_the_same_tokens"),
    # ------------------------------------------------------------ the end, masks, where the score goes
    (10, "mask made of tokens that are not the pad token", PPO,
     "tokens, mask = ids[:, start:], full_mask[:, start:].float()",
     "tokens = ids[:, start:]; mask = (tokens != tokenizer.pad_token_id).float()",
     "test_a_pad_token_that_is_the_end_token_hides_no_end"),
    (11, "the end token outside the mask", PPO, "tokens, mask = ids[:, start:], full_mask[:, start:].float()",
     "tokens = ids[:, start:]; mask = full_mask[:, start:].float()\n"
     "    mask[:, 1:] *= ~torch.isin(tokens[:, 1:], torch.tensor(sorted(eos)))",
     "test_the_end_token_is_inside_the_mask_and_what_follows_is_not"),
    (11, "the end token not trained on", PPO, '        mask = part["mask"]\n',
     '        mask = part["mask"]\n        mask = mask * mask.roll(-1, 1)\n',
     "test_the_step_follows_surrogate_and_value_loss_and_nothing_else"),
    (12, "score one token after the end", PPO, "    last = mask.sum(-1).long() - 1\n    rewards[",
     "    last = mask.sum(-1).long().clamp(max=mask.shape[1] - 1)\n    rewards[",
     "test_without_kl_the_score_stands_on_the_last_real_token_alone"),
    (12, "score in the last column", PPO, "    last = mask.sum(-1).long() - 1\n    rewards[",
     "    last = -1\n    rewards[", "test_without_kl_the_score_stands_on_the_last_real_token_alone"),
    (13, "no penalty for an answer without an end", PPO, "final = scores - settings.no_end_penalty * (~ended)",
     "final = scores * 1.0", "test_an_answer_without_an_end_is_counted_and_penalised"),
    (13, "an end is forced on long answers", PPO, "    tokens, mask = ids[:, start:]",
     "    ids[:, -1] = tokenizer.eos_token_id\n    tokens, mask = ids[:, start:]",
     "test_no_end_is_forced_on_an_answer"),
    (13, "only one of several end tokens counts", DECODING,
     "return {tokenizer.eos_token_id, turn_end(tokenizer), *extra}",
     "return {tokenizer.eos_token_id}", "test_an_answer_may_end_with_any_of_the_end_tokens"),
    (14, "mean over the padding too", PPO, "return (x * mask).sum() / mask.sum()", "return x.mean()", JUNK),
    (14, "whitening with the variance over the padding", PPO, "variance = masked_mean((x - mean) ** 2, mask)",
     "variance = ((x - mean) ** 2).mean()", JUNK),
    (14, "entropy over the padding too", PPO, "masked_mean(entropy, mask).item()", "entropy.mean().item()",
     "test_entropy_counts_real_tokens_only"),
    (14, "approximate KL of the padding too", PPO, '"approx_kl": masked_mean(kl_k3(old, logprobs), mask)',
     '"approx_kl": masked_mean(kl_k3(part["logprobs"], logprobs), torch.ones_like(mask))',
     "test_junk_in_the_pads_changes_no_update_and_no_metric"),
    (15, "KL of the padding in the rewards", PPO, "rewards = -beta * (logprobs - ref_logprobs) * mask",
     "rewards = -beta * (logprobs - ref_logprobs)", JUNK),
    (15, "advantages run on into the padding", PPO, "advantage = (delta + gamma * lam * advantage) * mask[:, t]",
     "advantage = delta + gamma * lam * advantage", JUNK),
    (16, "mean of the means of the answers", PPO,
     "return masked_mean(torch.maximum(plain, clipped), mask), ratio, active",
     "return ((torch.maximum(plain, clipped) * mask).sum(-1) / mask.sum(-1)).mean(), ratio, active",
     "test_the_step_follows_surrogate_and_value_loss_and_nothing_else"),
    # ------------------------------------------------------------ reward, KL, advantages
    (17, "KL penalty upside down: it pays for drifting", PPO, "rewards = -beta * (logprobs - ref_logprobs) * mask",
     "rewards = -beta * (ref_logprobs - logprobs) * mask", "test_the_kl_penalty_is_the_exact_kl_in_expectation"),
    (17, "k3 upside down", PPO, "log_rho = ref_logprobs - logprobs", "log_rho = logprobs - ref_logprobs",
     "test_k3_is_the_exact_kl_in_expectation_and_never_negative"),
    (18, "k3 with exp instead of expm1", PPO, "return torch.expm1(log_rho) - log_rho",
     "return (torch.exp(log_rho) - 1) - log_rho", "test_k3_keeps_tiny_differences_in_float32"),
    (18, "k3 as the penalty", PPO, "rewards = -beta * (logprobs - ref_logprobs) * mask",
     "rewards = -beta * kl_k3(logprobs, ref_logprobs) * mask", "test_token_rewards_against_numpy"),
    (19, "KL counted twice, in reward and loss", PPO, "loss = surrogate + settings.value_coef * error",
     'loss = surrogate + settings.value_coef * error + settings.beta * masked_mean(logprobs - '
     'part["ref_logprobs"], mask)', "test_the_step_follows_surrogate_and_value_loss_and_nothing_else"),
    (19, "no KL penalty at all", PPO, "rewards = -beta * (logprobs - ref_logprobs) * mask",
     "rewards = torch.zeros_like(logprobs)", "test_token_rewards_against_numpy"),
    (20, "returns made of whitened advantages", PPO,
     "raw, returns = gae(rewards, values, mask, settings.gamma, settings.lam)\n",
     "raw, returns = gae(rewards, values, mask, settings.gamma, settings.lam)\n"
     "    returns = (whiten(raw, mask) + values) * mask\n",
     "test_returns_are_made_of_raw_advantages"),
    (21, "whitening that keeps the mean", PPO, "return (x - mean) * torch.rsqrt(variance + 1e-8) * mask",
     "return ((x - mean) * torch.rsqrt(variance + 1e-8) + mean) * mask", "test_masked_mean_and_whiten_against_numpy"),
    (21, "advantages not whitened", PPO, '"advantages": whiten(raw, mask)', '"advantages": raw * mask',
     "test_advantages_are_whitened_over_the_batch"),
    (22, "reward instead of return in the advantage", PPO, "delta = rewards[:, t] + gamma * after - values[:, t]",
     "delta = rewards[:, t] - values[:, t]", "test_gae_with_lambda_1_is_the_monte_carlo_return_minus_the_value"),
    (22, "lambda left out", PPO, "(delta + gamma * lam * advantage)", "(delta + gamma * advantage)",
     "test_gae_with_lambda_0_is_the_one_step_error"),
    (22, "value of the token itself as what comes after", PPO, "after = values[:, t + 1] if", "after = values[:, t] if",
     "test_gae_by_hand"),
    (23, "reward not shifted to mean 0", PPO, "(reward(p, r) - mean) / std", "reward(p, r) / std",
     "test_normalized_reward_has_mean_0_and_variance_1_on_the_reference_answers"),
    (24, "gamma 0.99 as the default", PPO, "gamma: float = 1.0", "gamma: float = 0.99",
     "test_long_answers_are_not_discounted"),
    # ------------------------------------------------------------ the core of PPO
    (26, "the optimistic branch of the clip", PPO, "masked_mean(torch.maximum(plain, clipped), mask)",
     "masked_mean(torch.minimum(plain, clipped), mask)", "test_policy_loss_in_the_four_cases"),
    (26, "clip on both sides", PPO, "masked_mean(torch.maximum(plain, clipped), mask)", "masked_mean(clipped, mask)",
     "test_policy_loss_in_the_four_cases"),
    (26, "no clip", PPO, "masked_mean(torch.maximum(plain, clipped), mask)", "masked_mean(plain, mask)",
     "test_policy_loss_in_the_four_cases"),
    (26, "sign of the loss", PPO, "plain = -advantages * ratio", "plain = advantages * ratio",
     "test_policy_loss_against_numpy"),
    (27, "clip fraction counts all ratios outside the range", PPO,
     "active = masked_mean((clipped > plain).float(), mask)",
     "active = masked_mean(((ratio - 1).abs() > clip).float(), mask)", "test_policy_loss_against_numpy"),
    (28, "value clip around the returns", PPO, "near = old_values + (values - old_values).clamp(-clip, clip)",
     "near = returns + (values - returns).clamp(-clip, clip)", "test_value_loss_against_numpy"),
    (28, "the smaller of the squares", PPO, "error = torch.maximum((values - returns) ** 2",
     "error = torch.minimum((values - returns) ** 2", "test_value_loss_against_numpy"),
    (28, "the half forgotten", PPO, "return 0.5 * masked_mean(error, mask)", "return masked_mean(error, mask)",
     "test_value_loss_against_numpy"),
    (29, "a random value head", PPO, "        torch.nn.init.zeros_(self.value_head.weight)\n", "", HEALTHY),
    (29, "Adam's epsilon of 1e-8", PPO, "eps=1e-5", "eps=1e-8",
     "test_the_optimiser_holds_policy_and_value_head_and_its_rate_falls_to_zero"),
    (29, "a learning rate that does not fall", PPO, "settings.lr * (1 - step / settings.updates)", "settings.lr",
     "test_the_optimiser_holds_policy_and_value_head_and_its_rate_falls_to_zero"),
    (30, "old log-probabilities recomputed in each step", PPO, 'logprobs, part["logprobs"], part',
     'logprobs, logprobs.detach(), part',
     "test_the_ratio_is_against_the_roll_out_and_moves_within_an_update"),
    (30, "gradient through the old log-probabilities", PPO, 'logprobs, part["logprobs"], part',
     "logprobs, logprobs, part", "test_the_step_follows_surrogate_and_value_loss_and_nothing_else"),
    (30, "the reference is the policy itself", PPO,
     "policy, reference = kind(model), kind(lora.copy_to_compare(model)).eval().requires_grad_(False)",
     "policy, reference = kind(model), kind(model)", "test_the_reference_is_a_model_of_its_own"),
    (30, "nobody looks whether the reward model moves", PPO, "fingerprint(reference, *frozen)).sum()", "before).sum()",
     "test_a_reward_model_that_moves_is_noticed"),
    (30, "the value head is not trained", PPO, "policy.parameters(), lr=settings.lr",
     "model.parameters(), lr=settings.lr",
     "test_the_optimiser_holds_policy_and_value_head_and_its_rate_falls_to_zero"),
    (31, "logits divided in place", DECODING, "logits = logits.float() / temperature",
     "logits = logits.float(); logits /= temperature", "test_adjust_leaves_its_input_alone"),
    (32, "a loss that is not a number is skipped", ARITHMETIC,
     "    if not (torch.isfinite(loss + norm) or too_large):\n",
     "    if not (torch.isfinite(loss + norm) or too_large):\n        return norm\n",
     "test_not_a_number_stops_the_run_and_keeps_the_last_good_policy"),
    (32, "only the loss is looked at, not its gradient", ARITHMETIC, "torch.isfinite(loss + norm)",
     "torch.isfinite(loss)",
     "test_a_gradient_that_is_not_a_number_never_reaches_the_weights"),
    # ------------------------------------------------------------ the reward model
    (33, "score read at the number of tokens, so from the right place with right padding only", REWARD,
     "last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(-1)", "last = mask.sum(-1) - 1",
     "test_scores_do_not_depend_on_padding"),
    (33, "score read from the last column", REWARD,
     "last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(-1)",
     "last = torch.full((len(mask),), mask.shape[1] - 1, device=mask.device)", "test_scores_do_not_depend_on_padding"),
    (33, "a pad token that hides the real end from plain transformers", MODELS,
     "        _set_padding(model, None)  #", "        pass  #", "test_plain_transformers_gives_the_same_scores"),
    (34, "pairs of identical tokens are learned from", REWARD, "kept = [p for p in pairs if p[0] != p[1]]",
     "kept = pairs", "test_identical_pairs_are_dropped_and_counted"),
    (35, "split by row: prompts on both sides", REWARD, 'asked = [question(r["prompt"]) for r in rows]\n'
     "    names = sorted(set(asked))\n", "asked = list(range(len(rows)))\n    names = asked[:]\n",
     "test_no_prompt_is_on_both_sides_of_the_split"),
    (35, "the same answer always on the left", "desk/labeller.py",
     'return random.Random(f"{seed} {pair_id}").choice("ab")',
     'return "a"', "test_sides_are_mixed_the_same_for_a_seed_and_stored"),
    (37, "a score head that is too loud", MODELS, "std=(model.score.in_features + 1) ** -0.5", "std=1.0",
     "test_a_new_head_is_drawn_with_the_right_spread"),
    (37, "a tie counted as right", REWARD, "((margin > 0).float() + 0.5 * (margin == 0).float()).mean().item()",
     "(margin >= 0).float().mean().item()", "test_a_tie_counts_half"),
    (37, "sign of the preference loss", REWARD, "return -F.logsigmoid(chosen - rejected).mean()",
     "return -F.logsigmoid(rejected - chosen).mean()", "test_loss_is_minus_log_sigmoid"),
    # ------------------------------------------------------------ reporting
    (39, "KL logged per token under the name of one per answer", PPO,
     '"kl": ((batch["logprobs"] - batch["ref_logprobs"]) * mask).sum(-1).mean().item()',
     '"kl": masked_mean(batch["logprobs"] - batch["ref_logprobs"], mask).item()',
     "test_the_reference_is_a_model_of_its_own"),
    # ------------------------------------------------------------ going on after a stop (no number in the list)
    ("", "resumed without the state of Adam", CHECKPOINTS, '    optimizer.load_state_dict(saved["optimizer"])\n', "",
     "test_an_interrupted_run_goes_on_bit_for_bit"),
    ("", "resumed without the state of the sampler", PPO, '        sampler.set_state(more["sampler"])\n', "",
     "test_an_interrupted_run_goes_on_bit_for_bit"),
    ("", "resumed without the prompts still to be asked", PPO, 'more.get("queue", [])', "[]",
     "test_an_interrupted_run_goes_on_bit_for_bit"),
    ("", "resumed without torch's random numbers (dropout)", CHECKPOINTS,
     '    torch.set_rng_state(saved["random"])\n', "",
     "test_an_interrupted_training_goes_on_bit_for_bit"),
    ("", "a checkpoint of other settings is taken", CHECKPOINTS, "    if other:\n", "    if False:\n",
     "test_a_checkpoint_of_another_run_is_refused"),
    ("", "check sums not looked at", CHECKPOINTS, "if parts.testzip():", "if False:",
     "test_a_damaged_or_foreign_checkpoint_is_named_and_never_run"),
    ("", "checkpoint may run code", CHECKPOINTS, "weights_only=True", "weights_only=False",
     "test_a_damaged_or_foreign_checkpoint_is_named_and_never_run"),
    # ------------------------------------------------------------ arithmetic and the sampler of a GPU
    ("", "the output head in 16 bits", ARITHMETIC, "    torch.set_autocast_enabled(inputs[0].device.type, False)\n", "",
     "test_a_head_in_16_bits_rounds_its_logits_and_ours_does_not"),
    ("", "old log-probabilities are those drawn in 16 bits", PPO,
     "seen = token_logprobs(logits[None], tokens[None])[0], values", "seen = drawn[answer], values",
     "test_health_checks_pass_in_16_bits"),
    ("", "importance weights without a limit", PPO, "return torch.exp(old - drawn).clamp(max=most)",
     "return torch.exp(old - drawn)", "test_importance_is_old_over_drawn_and_cut_off"),
    ("", "importance weights upside down", PPO, "return torch.exp(old - drawn)", "return torch.exp(drawn - old)",
     "test_advantages_are_weighed_by_it_and_ratio_and_kl_use_old"),
    ("", "nobody looks whether sampler and training agree", PPO,
     'stats["first_mismatch"] < bounds.mismatch and stats["first_mismatch_k3"] < bounds.k3,', "True,",
     "test_the_bounds_of_16_bits_still_catch_real_bugs"),
    ("", "the sampler keeps the weights of its first rollout", SAMPLER, "            mine.copy_(theirs)\n",
     "            pass\n", "test_the_sampler_in_16_bits_sees_new_weights_too_and_keeps_the_head"),
    ("", "rows that ended go on", SAMPLER, "self.alive.logical_and_(", "self.alive.logical_or_(",
     "test_the_static_sampler_draws_what_the_plain_loop_draws"),
    ("", "the sampler counts the padding as text", SAMPLER, "places, self.columns.now = position_ids(mask), ",
     "places, self.columns.now = position_ids(torch.ones_like(mask)), ",
     "test_the_static_sampler_draws_what_the_plain_loop_draws"),
    ("", "the generator is left further on", SAMPLER, "            generator.set_state(state)\n", "",
     "test_the_static_sampler_draws_what_the_plain_loop_draws"),
    ("", "fp16 without loss scaling", ARITHMETIC, "enabled=on)\n", "enabled=False)\n",
     "test_a_scale_that_is_too_large_costs_a_step_and_is_halved"),
    # ------------------------------------------------------------ the reader's edits
    ("", "an edited cell changes nothing", LESSON,
     "        setattr(module, name, old if meaning(new) == meaning(old) else new)\n", "",
     "test_an_edit_in_chapter_05_reaches_the_full_run"),
    ("", "a shortcut goes on where its plain form was edited", LESSON,
     "return any(getattr(sys.modules[module], name).__module__ != module for name in names)", "return False",
     "test_a_shortcut_steps_back_only_where_what_it_stands_for_was_edited"),
    ("", "an edit cannot be taken back", LESSON, "old = SHIPPED.setdefault((module, name), getattr(module, name))",
     "old = getattr(module, name)", "test_an_edit_can_be_taken_back"),
]]
# fmt: on

ELSEWHERE = {
    16: "No micro-batches are accumulated: each minibatch is a step of its own; the row above is its relative.",
    25: "There is no adaptive KL controller; beta is fixed.",
    36: "A matter of the chapters: 04 splits by question first and asserts that no question is on both sides.",
    38: "A matter of documentation: the one reward is `token_rewards`, checked in numbers above.",
    40: "A matter of reporting: `docs/results.md` has every seed, and intervals.",
}


def home(test):
    """The file of tests that defines a test."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    found = [p.relative_to(ROOT).as_posix() for p in paths if f"def {test}(" in p.read_text()]
    if len(found) != 1:
        raise SystemExit(f"{test} is defined in {found}, not in one file of tests")
    return found[0]


def copy_with(bug, folder):
    """A copy of package and tests in `folder`, with the bug in it (none: as it is)."""
    for name in ("rlhf_helpers", "tests"):
        shutil.copytree(ROOT / name, folder / name)  # what is compiled, too: it is checked by date and length
    for name in ("data", "notebooks"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    if bug:
        path = folder / "rlhf_helpers" / bug.file
        text = path.read_text(encoding="utf-8")
        if text.count(bug.old) != 1:
            raise SystemExit(f"The text of the bug {bug.what!r} occurs {text.count(bug.old)} times in {bug.file}")
        path.write_text(text.replace(bug.old, bug.new), encoding="utf-8")


def load_the_libraries():
    """What package and tests import from elsewhere is loaded once, before the forks; each loads its own package."""
    import hypothesis.strategies  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pytest  # noqa: F401
    import transformers.models.gpt2.modeling_gpt2
    import transformers.models.llama.modeling_llama  # noqa: F401

    sys.path.insert(0, str(ROOT))
    for name in ("make.series", "desk.tasks", "desk.labeller", "lesson.loop"):
        importlib.import_module(f"rlhf_helpers.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "rlhf_helpers"]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()  # a fork need not look through all of this again


def outcome(bug, tests):
    """(exit code of pytest, its first error line, which case failed), up to the first failure.

    In a forked process that has torch already loaded; `tests` and cases as pytest names them, "file::test[case]".
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder).resolve()
        copy_with(bug, folder)
        child = os.fork()
        if child == 0:
            code = 99
            try:
                with open(folder / "out.txt", "w") as out:
                    os.dup2(out.fileno(), 1)
                    os.dup2(out.fileno(), 2)
                os.chdir(folder)
                os.environ |= {"PYTHONPATH": str(folder), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
                sys.path[:] = [str(folder)] + [
                    p
                    for p in sys.path
                    if not Path(p or ".").resolve().is_relative_to(ROOT / "tests") and Path(p or ".").resolve() != ROOT
                ]
                import pytest

                code = int(
                    pytest.main(
                        [
                            "-q",
                            "-x",
                            "-p",
                            "no:cacheprovider",
                            "-p",
                            "no:unraisableexception",
                            "-o",
                            "addopts=",
                            f"--rootdir={folder}",
                            *tests,
                        ]
                    )
                )
                import rlhf_helpers

                code = code if Path(rlhf_helpers.__file__).is_relative_to(folder) else 98
            finally:
                sys.stdout.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said = (folder / "out.txt").read_text(errors="replace")
        errors = re.findall(r"^E +(.*)", said, re.M)
        return code, errors[0] if errors else "", re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", said, re.M)


def table(results):
    """The Markdown of docs/known_bugs.md: a row for each bug, and what became of it."""
    rows = "\n".join(f"| {b.n} | {b.what} | `{b.file}` | `{b.test}` | {results[b]} |" for b in BUGS)
    rest = "\n".join(f"* **{n}.** {why}" for n, why in ELSEWHERE.items())
    return f"""# Known bugs of RLHF code, and the test that catches each

Each row is a bug of a kind that was found in published RLHF code (the numbers group them), put into this package
once by `python tests/project/mutations.py --write`, which wrote this table. *Caught* means that the named test passes
as the package is, and fails with the bug in it. Rows without a number are about stopping and going on, about 16 bits,
and about the sampler of a GPU.

| no. | bug | file | test | outcome |
|---|---|---|---|---|
{rows}

Not in the table:

{rest}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/known_bugs.md")
    parser.add_argument("--only", help="only the bugs whose description or test contains this")
    parser.add_argument("--part", default="1/1", help="every so-manieth bug only: 2/6 is the second of six parts")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    load_the_libraries()
    some = [b for b in BUGS if not options.only or options.only in f"{b.what} {b.test}"]
    part, parts = map(int, options.part.split("/"))
    some = some[part - 1 :: parts]
    results, failed = {}, set()
    for bug in some:
        code, error, cases = outcome(bug, [f"{home(bug.test)}::{bug.test}"])
        failed |= set(cases)
        results[bug] = "caught" if code == 1 and cases else "NOT CAUGHT" if code == 0 else f"broken ({code})"
        print(f"{bug.n!s:>3} {results[bug]:10} {bug.what}  [{error[:100]}]", flush=True)
    code, error, cases = outcome(None, sorted(failed)) if failed else (0, "", [])
    if code:
        raise SystemExit(f"Without any bug this fails, too: {' '.join(cases)}: {error}")
    missed = [b for b in some if results[b] != "caught"]
    print(f"{len(some) - len(missed)} of {len(some)} bugs caught")
    if options.write and not options.only and parts == 1:
        TABLE.write_text(table(results), encoding="utf-8")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
