"""What looks wrong in a training log: rules, each from a few columns to a `Finding` or None.

A rule is a function.  Its parameters are the columns that it reads, by their names in `logs.NAMES`, as arrays over the
steps at which all of them were logged, without what is not finite; one with a default may be missing.  `log` is the
`Log` itself.  The thresholds were chosen on runs of this workbook with other seeds than those that
`benchmarks/doctor.py` measures on; docs/diagnosis.md has its table.
"""

import inspect
import math

import numpy as np

from .logs import ENOUGH
from .report import Finding, Report, short

MUSEUM = "deeper/bug_museum"


# ---------------------------------------------------------------- curves


def ends(y):
    """The means of the first and of the last third of a curve."""
    n = max(1, len(y) // 3)
    return float(np.mean(y[:n])), float(np.mean(y[-n:]))


def rise(y):
    """How far the last third lies above the first, in standard errors; the noise is judged from step to step."""
    if len(y) < ENOUGH:
        return 0.0
    n, (first, last) = max(1, len(y) // 3), ends(y)
    noise = np.std(np.diff(y)) / math.sqrt(2)
    return float((last - first) / max(noise * math.sqrt(2 / n), 1e-12 + 1e-9 * abs(first)))


def alike(x, y):
    """The correlation of two curves; 0 where one does not move."""
    return float(np.corrcoef(x, y)[0, 1]) if len(x) >= ENOUGH and np.std(x) > 0 and np.std(y) > 0 else 0.0


def span(y):
    """Where a curve begins and ends, as a text: the means of its thirds."""
    first, last = ends(y)
    return f"from {first:.3g} to {last:.3g}"


def per_token(kl, length, log):
    """KL in nats per token; where the length is not logged, that of an answer is taken for one of 20 tokens."""
    return kl / (np.maximum(length, 1) if length is not None else 20) if log.kl_per_answer else kl


# ---------------------------------------------------------------- what must hold before the first step


def not_finite(log):
    bad = {log.called[n]: int(np.sum(~np.isfinite(v))) for n, (_, v) in log.columns.items()}
    bad = {n: k for n, k in bad.items() if k}
    if bad:
        return Finding(
            "numbers that are not finite",
            ", ".join(f"{n} in {k} of {log.rows} rows" for n, k in bad.items()),
            (
                "a loss or a gradient overflowed (16 bits without loss scaling, a ratio of exp(100)) and the step was "
                "taken or skipped in silence",
                "a mean over an empty batch or an empty mask",
            ),
            "stop at the first loss or gradient that is not finite, and look at that batch",
        )


def ratio_not_one(first_ratio_off, log):
    worst = float(np.median(first_ratio_off))
    if worst > 0.05:
        return Finding(
            "the ratio is not 1 before the first step",
            f"in the first minibatch of an update it is off by {worst:.2g} (median of {len(first_ratio_off)} updates), "
            "where nothing has been learned yet",
            FORWARD,
            "read the rollout's log-probabilities once more before any step: if two readings differ, dropout is on; if "
            "padded and unpadded rows differ, it is the positions; else compare the sampler's settings",
        )


FORWARD = (
    "tokens drawn from another distribution than is trained: temperature, top-k, top-p, a minimal length",
    "dropout left on in the policy",
    "positions that count the padding",
    "a sampler with old or rounded weights",
)


def ratio_far_from_one(ratio, log):
    if log.begins and abs(ratio[0] - 1) > 0.05:
        return Finding(
            "the mean ratio is far from 1 in the first update",
            f"{ratio[0]:.3g}",
            FORWARD,
            "read the rollout's log-probabilities once more before any step, and compare: the ratio must be 1",
        )


def clipped_at_once(first_clip_fraction):
    share = float(np.median(first_clip_fraction))
    if share > 0.001:
        return Finding(
            "tokens are clipped before the first step",
            f"{share:.1%} of the tokens of the first minibatch, in the median update",
            FORWARD,
            "as for a ratio that is not 1: nothing can have moved yet",
        )


def sampler_apart(sampler_gap, log):
    typical, name = float(np.median(sampler_gap)), log.called["sampler_gap"]
    if typical > 0.02:
        return Finding(
            "sampler and training disagree on the probabilities of the same tokens",
            f"{name} is {typical:.2g} in the median row",
            (*FORWARD[:3], "an inference engine of another precision or with weights of an earlier update"),
            "let the training network read the sampled tokens without any step in between, and compare token by token",
        )


def kl_at_start(kl, log, length=None):
    if not log.begins:
        return None
    first = float(per_token(kl, length, log)[0])
    if abs(first) > 0.01:
        return Finding(
            "the KL is not 0 before the first step",
            f"{kl[0]:.3g} in the first row",
            (*FORWARD[:3], "the reference is another model: other weights, precision or template"),
            "let policy and reference read the same tokens before the first step: each log-probability must agree",
        )


def tokens_untrained(loss_mask_off):
    worst = int(np.max(loss_mask_off))
    if worst:
        return Finding(
            "the loss misses tokens of an answer, or takes in others",
            f"{worst} of them in an answer that ended, by the gradient of one update",
            (
                "the end token is not trained: the mask is shorter by one, or made of what is not padding, and the pad "
                "token is the end token",
                "padding or the prompt is trained on: a loss without its mask",
            ),
            f"print the mask of the loss beside the tokens of one answer; count the gradients ({MUSEUM}, `trained`)",
        )


def values_apart(value_shift):
    shift = int(value_shift[np.abs(value_shift).argmax()])
    if not shift:
        return None
    before = "the value of the token before: values are shifted once more, as was done for the logits"
    after = "the value is read after its token was drawn, so that it knows what it is to judge"
    unsteady = "readings that differ by themselves: dropout left on in the policy, attention to what comes later"
    return Finding(
        "values stand at other tokens than their own",
        f"when a token is changed, the first value to move stands {abs(shift)} "
        f"place{'s' * (abs(shift) != 1)} too {'late' if shift > 0 else 'early'}",
        (before,) if shift > 0 else (after, unsteady) if shift == -1 else (unsteady, after),
        f"change a token and see what moves ({MUSEUM}, `flipped`): the value of the next one must be the first",
    )


# ---------------------------------------------------------------- the distance to the reference


def kl_negative(kl, log, length=None):
    later = per_token(kl, length, log)[1:]
    if len(later) < ENOUGH:
        return None
    error = np.std(later) / math.sqrt(len(later))
    if later.mean() < min(-0.002, -3 * error):
        return Finding(
            "the KL to the reference is negative",
            f"{kl[1:].mean():.3g} on average over {len(later)} rows; luck explains {2 * error:.2g} nats per token",
            (
                "tokens not drawn from the policy as it is: top-k, top-p, temperature, a minimal length, a banned end "
                "token",
                "reference and policy changed places, in the formula or in the call",
                "dropout in one of the two",
            ),
            "sample with temperature 1, no top-k or top-p, no minimal length: the estimate is then positive on average",
        )


def kl_never_moves(kl, log, length=None, approx_kl=None, grad_norm=None):
    later = np.abs(per_token(kl, length, log))[2:]
    if len(later) < 3:
        return None
    steps = approx_kl is not None and float(np.mean(np.abs(approx_kl)))
    still = (
        later.max() < 0.01 * steps if steps else later.max() < 1e-9 and grad_norm is not None and grad_norm.min() > 0
    )
    if still:
        return Finding(
            "the KL to the reference stays 0 while the policy moves",
            f"at most {np.abs(kl[2:]).max():.2g} from the third row on"
            + (f", though one update alone moves a token by {steps:.2g} nats" if steps else ""),
            (
                "the reference is the policy itself, or a copy that learns along",
                "its weight is 0 and the trainer then logs 0",
            ),
            "compare the weights of reference and policy after ten steps: some must differ",
        )


def kl_runs_away(kl, log, length=None):
    """Steps of one size give a KL that grows evenly at most: means of thirds of 1 to 3 to 5."""
    tokens = per_token(kl, length, log)
    first, last = ends(tokens)
    middle = float(np.mean(tokens[len(tokens) // 3 : -max(1, len(tokens) // 3)])) if len(tokens) > 2 else last
    faster = len(tokens) >= 6 and last > 2.5 * middle and last > 0.4
    if (last > AWAY and rise(tokens) > 3) or faster:
        return Finding(
            "the KL runs away" + " faster and faster" * faster,
            f"{first:.3g}, then {middle:.3g}, then {last:.3g} nats per token, means of thirds of the log",
            (
                "the penalty has the wrong sign, so that drifting is paid for",
                "no KL penalty reaches the reward or the loss, or its weight is tiny",
                "a learning rate that is too high",
            ),
            "print the penalty of one batch beside its KL: it must be -beta times it; then halve the learning rate",
        )


AWAY = 2.0  # nats per token


def kl_paid_for(kl, reward, log, length=None):
    if len(kl) >= ENOUGH and rise(kl) > 3 and rise(reward) < -2 and alike(kl, reward) < -0.6:
        return Finding(
            "the KL rises while the reward falls",
            f"KL {span(kl)}, reward {span(reward)}, correlation {alike(kl, reward):.2f}",
            (
                "the penalty has the wrong sign: the policy is paid for drifting",
                "the sign of the loss is wrong: bad answers are made likelier",
            ),
            "print the penalty of one batch beside its KL, and the change of an answer's log-probability in one step "
            "beside its advantage: the second two must have the same sign",
        )


def penalty_of(kl, log, non_score_reward=None, paid=None, reward=None):
    """The KL penalty is logged by itself, or as what an answer is paid in all (verl) beside its score."""
    if non_score_reward is None and (paid is None or reward is None) or log.called["kl"].endswith("kl_loss"):
        return None  # a KL in the loss is not paid
    penalty = paid - reward if non_score_reward is None else non_score_reward
    far = kl > 0.1 * np.max(kl, initial=0)
    if np.max(kl, initial=0) < MOVED or far.sum() < 2:
        return None
    share = penalty[far] / kl[far]
    evidence = f"{np.mean(penalty[far]):+.3g} where the KL is {np.mean(kl[far]):.3g}, on average over {far.sum()} rows"
    if np.mean(share > 0) > 0.9:
        return Finding(
            "distance is paid for",
            "beside its score an answer gets " + evidence,
            ("the penalty has the wrong sign", "reference and policy changed places in the penalty"),
            "print the penalty of one batch beside its KL: it must be -beta times it",
        )
    if np.max(np.abs(share)) < 1e-6:
        return Finding(
            "distance costs nothing",
            "beside its score an answer gets " + evidence,
            ("no KL penalty reaches the reward: a setting that no line uses", "beta is 0, and that is meant"),
            "print the penalty of one batch beside its KL: it must be -beta times it",
            ask=True,
        )


MOVED = 0.01  # nats; what is below may be rounding


# ---------------------------------------------------------------- the clip and the size of the steps


def never_clips(clip_fraction, log, ratio_off=None, approx_kl=None):
    if len(clip_fraction) < 2 or clip_fraction.max() > 0:
        return None
    far = ratio_off is not None and np.sum(ratio_off > 0.5) >= 2
    far = far or (approx_kl is not None and np.sum(approx_kl > 0.005) >= 2)
    if far:
        how = (
            f"ratios are off by up to {ratio_off.max():.2g}"
            if ratio_off is not None
            else f"the approximate KL of an update reaches {approx_kl.max():.2g}"
        )
        return Finding(
            "nothing is ever clipped although ratios leave the band",
            f"{how}, and the clip fraction is 0 in all {len(clip_fraction)} rows",
            ("the clip is never applied: a setting that no line uses, or the plain loss instead of the larger one",),
            "feed the loss a ratio of 1.5 with a positive advantage: its gradient must be 0",
        )


def ratio_never_moves(clip_fraction, approx_kl, log, ratio_off=None):
    still = np.abs(approx_kl).max() < 1e-9 and clip_fraction.max() == 0
    if still and len(approx_kl) >= 2:
        return Finding(
            "old and new log-probabilities never differ",
            f"approximate KL and clip fraction are 0 in all {len(approx_kl)} rows",
            (
                "do you take several steps on a batch? Then the old log-probabilities are computed anew in each step",
                "with one step per batch this is as it should be",
            ),
            "in the second minibatch the ratio must differ from 1",
            ask=True,
        )


def clips_much(clip_fraction):
    share = float(np.mean(clip_fraction[: max(1, len(clip_fraction) // 2)]))
    if share > 0.25:
        return Finding(
            "a large share of tokens is clipped",
            f"{share:.0%} on average over the first half",
            (
                "a learning rate that is too high, or too many steps on each batch",
                "old log-probabilities that are not those of the sampler",
            ),
            "look at the first minibatch of an update: 0 there means that steps are too large, more means that sampler "
            "and training disagree",
        )


def large_steps(approx_kl):
    size = float(np.mean(approx_kl))
    if size > 0.3:
        return Finding(
            "an update moves the policy very far",
            f"approximate KL between before and after {size:.2g} nats per token on average",
            ("a learning rate that is too high, or too many steps on each batch", *FORWARD[:2]),
            "halve the learning rate and the number of passes over a batch",
        )


# ---------------------------------------------------------------- what is learned


def reward_falls(reward):
    if len(reward) >= ENOUGH and rise(reward) < -3:
        return Finding(
            "the reward falls",
            f"{span(reward)}, {-rise(reward):.1f} standard errors",
            (
                "the sign of the loss or of the advantage is wrong",
                "the KL penalty has the wrong sign, or outweighs the reward",
                "a learning rate that is too high",
            ),
            "after one step, the log-probability of the best answer of the batch must have risen",
        )


def reward_stays(reward, log, length=None, kl=None):
    """Long flat rewards; short ones are no news."""
    if len(reward) >= FLAT_ROWS and abs(rise(reward)) < 1.5 and (kl is None or rise(kl) > 3):
        return Finding(
            "the reward does not rise, though the policy moves",
            f"{span(reward)} over {len(reward)} rows ({rise(reward):+.1f} standard errors)"
            + (f", KL {span(kl)}" if kl is not None else ""),
            (
                "the score does not reach the tokens: it stands after the end, or is masked away",
                "advantages that are noise: a wrong baseline, rewards of other answers, shuffled rows",
                "the reward model gives all answers nearly the same score",
            ),
            "add up the per-token rewards of one answer: without KL the sum must be its score, on its last token",
        )


FLAT_ROWS = 16


def longer_and_better(reward, length):
    if len(reward) >= ENOUGH and rise(reward) > 3 and rise(length) > 3 and alike(reward, length) > 0.6:
        first, last = ends(length)
        if last > 1.3 * first:
            return Finding(
                "the reward rises with the length of the answers",
                f"length {span(length)} tokens, reward {span(reward)}, correlation {alike(reward, length):.2f}",
                (
                    "the reward model likes long answers, and the policy has found out",
                    "the task needs longer answers, as reasoning does",
                ),
                "compare the scores of old and new answers of like length; examine the reward model: "
                "python -m rlhf_helpers.doctor --preferences FILE --model FOLDER",
            )


def entropy_gone(entropy):
    first, last = ends(entropy)
    if len(entropy) >= ENOUGH and first > 0 and last < 0.3 * first:
        return Finding(
            "the entropy is gone",
            f"{span(entropy)} nats per token",
            (
                "a penalty that is too weak, or a learning rate that is too high: the policy has settled on one answer",
                "samples of a low temperature that are trained on as if they were of temperature 1",
            ),
            "sample one prompt 16 times and count the different answers",
        )


def drawn_by_another(surprise, entropy):
    """What is drawn from a distribution is, on average, as surprising as its entropy says."""
    gap = surprise - entropy
    error = np.std(gap, ddof=1) / math.sqrt(len(gap)) if len(gap) >= ENOUGH else math.inf
    if abs(gap.mean()) > SURPRISED and abs(gap.mean()) > 5 * error:
        return Finding(
            f"drawn tokens surprise {'less' if gap.mean() < 0 else 'more'} than the entropy says",
            f"-log p of the drawn tokens less the entropy is {gap.mean():+.2g} nats on average, where luck explains "
            f"{2 * error:.1g}",
            FORWARD,
            "sample with temperature 1, no top-k or top-p, no minimal length: the two then agree but for luck",
        )


SURPRISED = 0.03  # nats


def same_answers(no_spread=None, reward_std=None):
    if no_spread is not None and len(no_spread) >= 2 and ends(no_spread)[1] > 0.8:
        return Finding(
            "nearly all answers to a prompt get the same reward",
            f"in {ends(no_spread)[1]:.0%} of the prompts at the end, {ends(no_spread)[0]:.0%} at the start",
            (
                "the same answer to every prompt: entropy or temperature too low, or a collapse",
                "the task is too hard or too easy, so that all are wrong or all right",
                "answers cut off before they can earn anything",
            ),
            "print the answers to one prompt; no difference means no advantage and no gradient",
        )
    if reward_std is not None and len(reward_std) >= ENOUGH and ends(reward_std)[1] < 0.1 * ends(reward_std)[0]:
        return Finding(
            "all answers get the same reward in the end",
            f"standard deviation of the reward {span(reward_std)}",
            ("the same answer to every prompt", "a reward that is cut off at its largest value"),
            "print ten answers to different prompts",
        )


def never_ends(no_end, log):
    first, last = ends(no_end)
    if last > 0.5 or last > 0.2 + 2 * first:
        return Finding(
            "many answers do not end",
            f"{first:.0%} at the start, {last:.0%} at the end are cut off",
            (
                "the end token is not trained: it is masked, being the pad token, or stands outside the mask",
                "generation stops at another token than the template ends a turn with",
                "too few new tokens for this task",
                "long answers are paid for",
            ),
            "look at the ids of an answer that ended: its last one must be the end token, inside the mask",
        )


def lengths_all_equal(shortest, longest):
    if len(longest) >= 2 and np.all(shortest == longest):
        return Finding(
            "all answers have the same length",
            f"shortest and longest are {longest[-1]:.0f} tokens in the last row",
            ("none of them ends: a wrong or a masked end token", "the same answer to every prompt"),
            "print three answers with their ids",
        )


# ---------------------------------------------------------------- the value head


def advantages_off(advantage_mean, value_loss, advantage_std=None):
    """Only where there is a value head: advantages over groups of answers are not centred token by token."""
    centre = float(np.median(np.abs(advantage_mean)))
    width = 0.0 if advantage_std is None else float(np.median(np.abs(advantage_std - 1)))
    if max(centre, width) > 0.05:
        return Finding(
            "the advantages of the answers' tokens are not whitened",
            f"their mean is off by {centre:.2g}, their standard deviation by {width:.2g} (medians of "
            f"{len(advantage_mean)} updates)",
            (
                "they are whitened over the padding too",
                "they are not whitened at all, or before something else is added",
            ),
            "fill the padding with junk: no advantage may change",
        )


def value_rises(value_loss):
    first, last = ends(value_loss)
    if len(value_loss) >= ENOUGH and rise(value_loss) > 4 and last > 4 * first:
        return Finding(
            "the value loss rises",
            span(value_loss),
            (
                "returns that grow without end: long answers, or a KL that runs away",
                "values and returns that belong to different tokens",
                "the value head learns too fast, or shares a learning rate that is too high",
            ),
            "returns must be raw advantages plus values; look at their mean and spread over the run",
        )


def value_stands_at_half(value_loss):
    spread = float(np.std(value_loss) / np.mean(value_loss)) if np.mean(value_loss) else 1.0
    if len(value_loss) >= ENOUGH and 0.4 < np.mean(value_loss) < 0.6 and spread < 0.08 and abs(rise(value_loss)) < 4:
        return Finding(
            "the value loss stands still at one half",
            f"{np.mean(value_loss):.3f} on average, with a spread of {spread:.1%}",
            ("returns made of whitened advantages: the target is always what was said, plus something of variance 1",),
            "returns must be raw advantages plus values; whiten afterwards",
        )


def value_too_easy(value_loss, reward_std):
    share = float(value_loss[0] / max(reward_std[0] ** 2, 1e-12))
    if share < EASY:
        return Finding(
            "the value loss is too good from the start",
            f"{value_loss[0]:.2g}, where the rewards of answers have a variance of {reward_std[0] ** 2:.2g}",
            (
                "the score never reaches the tokens: it stands after the end and is masked away",
                "the target is a token's own reward, which is nearly always 0, instead of what is still to come",
            ),
            "print the returns of one answer: without KL and discount each must be its score",
        )


EASY = 0.08


def gradient_gone(grad_norm):
    if len(grad_norm) >= 2 and np.mean(grad_norm < 1e-12) > 0.5:
        return Finding(
            "there is no gradient",
            f"its norm is 0 in {np.mean(grad_norm < 1e-12):.0%} of the rows",
            (
                "all answers to a prompt get the same reward, so that no answer has an advantage",
                "the weights are frozen, or the loss is cut off from them",
            ),
            "look at the spread of the rewards within a prompt",
        )


def gradient_explodes(grad_norm):
    if len(grad_norm) >= 8 and np.max(grad_norm[len(grad_norm) // 2 :]) > 100 * np.median(grad_norm):
        return Finding(
            "the gradient explodes",
            f"its norm reaches {np.max(grad_norm):.2g}, where {np.median(grad_norm):.2g} is usual",
            ("k3 as a loss, whose gradient grows like the ratio", "a learning rate that is too high"),
            "clip the norm at 1 and look at the batch in which it happened",
        )


def no_learning_rate(lr):
    if len(lr) >= 2 and np.max(np.abs(lr)) == 0:
        return Finding(
            "the learning rate is 0 throughout",
            f"in all {len(lr)} rows",
            ("a schedule that was told too few steps", "a learning rate rounded to an integer"),
            "print the optimiser's learning rate in the second step",
        )


# ---------------------------------------------------------------- training a reward model


def begins_apart(loss, log, accuracy=None, margin=None):
    if (accuracy is None and margin is None) or not log.begins:
        return None
    if loss[0] > 1.2:
        return Finding(
            "the first loss is far above ln 2",
            f"{loss[0]:.3g}, where a model that knows nothing has 0.693",
            ("a score head that is drawn too large", "chosen and rejected are swapped"),
            "draw a new head from N(0, 1/(d + 1)) (Stiennon et al. 2020)",
        )
    if loss[0] < 0.3:
        return Finding(
            "the first loss is far below ln 2",
            f"{loss[0]:.3g}, where a model that knows nothing has 0.693",
            (
                "the answer stands in the input, such as a label in the prompt",
                "a model that has seen these pairs before",
            ),
            "train a model of shuffled answers: it must stay at ln 2",
            ask=True,
        )


def learns_nothing(loss, accuracy):
    last = ends(loss)[1]
    if len(loss) >= 8 and abs(last - math.log(2)) < 0.02 and ends(accuracy)[1] < 0.56:
        return Finding(
            "the loss stays at ln 2",
            f"{span(loss)}, accuracy {span(accuracy)}",
            (
                "pairs that are identical once they are cut to the model's length",
                "the score is read from a padding token",
                "a learning rate that is too low, or labels that are noise",
            ),
            "count the pairs whose token ids are equal; score one answer with and without padding",
        )


def order_reversed(accuracy):
    first, last = ends(accuracy)
    if len(accuracy) >= ENOUGH and last < 0.4:
        return Finding(
            "the accuracy is below one half",
            span(accuracy),
            ("chosen and rejected are swapped on one side", "the sign of the loss is wrong"),
            "score ten pairs by hand: the chosen answer must get the higher number",
        )


def overfits(accuracy, eval_accuracy):
    gap = ends(accuracy)[1] - ends(eval_accuracy)[1]
    return gap > 0.12 and overfitted(f"accuracy {ends(accuracy)[1]:.2f} against {ends(eval_accuracy)[1]:.2f}") or None


def eval_loss_rises(eval_loss, log):
    if len(eval_loss) >= 3 and eval_loss[-1] > 1.1 * eval_loss.min() and eval_loss.argmin() < len(eval_loss) - 1:
        return overfitted(f"evaluation loss {eval_loss.min():.3g} at best and {eval_loss[-1]:.3g} at the end")


def overfitted(evidence):
    return Finding(
        "the reward model learns its pairs by heart",
        evidence,
        ("more than one pass over too few pairs", "a learning rate that is too high"),
        "one epoch; keep the checkpoint with the least evaluation loss",
    )


def margins_grow(margin):
    if len(margin) >= ENOUGH and ends(margin)[1] > 8:
        return Finding(
            "the margins grow without end",
            f"{span(margin)}: a chance of {1 / (1 + math.exp(-ends(margin)[1])):.4f} to be right",
            ("pairs learned by heart", "labels without noise, whose scale nothing holds"),
            "look at the calibration on held-out pairs",
        )


RULES = (
    *(not_finite, ratio_not_one, ratio_far_from_one, clipped_at_once, sampler_apart, kl_at_start),
    *(tokens_untrained, values_apart),
    *(kl_negative, kl_never_moves, kl_runs_away, kl_paid_for, penalty_of),
    *(never_clips, ratio_never_moves, clips_much, large_steps),
    *(reward_falls, reward_stays, longer_and_better, entropy_gone, drawn_by_another),
    *(same_answers, never_ends, lengths_all_equal, advantages_off),
    *(value_rises, value_stands_at_half, value_too_easy, gradient_gone, gradient_explodes, no_learning_rate),
    *(begins_apart, learns_nothing, order_reversed, overfits, eval_loss_rises, margins_grow),
)
HIDDEN = {  # what a log of a policy without one of these columns does not show
    "value_shift": "A baseline that reads the value of a token too early or too late leaves no mark in a curve: change "
    f"a token and see what moves ({MUSEUM}, `flipped`).",
    "loss_mask_off": "An end token that is not trained leaves next to no mark in a curve: count the gradients of one "
    f"answer ({MUSEUM}, `trained`).",
}
WORTH = (
    "Whether the reward is worth following: examine the reward model (--preferences FILE --model FOLDER), and read "
    "twenty answers."
)


# ---------------------------------------------------------------- asking them


def ask(rule, log):
    """What one rule finds in a log, or None; also where a column that it needs is missing or has no finite value."""
    parameters = inspect.signature(rule).parameters
    names = [n for n in parameters if n != "log"]
    needed = [n for n in names if parameters[n].default is inspect.Parameter.empty]
    if not all(n in log.columns for n in needed):
        return None
    arrays = {}
    for there in ([n for n in names if n in log.columns], needed):  # without the others where they share no step
        arrays = dict(zip(there, log.together(*there))) if there else {}
        if all(map(len, arrays.values())):
            break
    if not all(map(len, arrays.values())):
        return None
    missing = {n: None for n in names if n not in arrays}
    return rule(**arrays, **missing, **({"log": log} if "log" in parameters else {}))


def examine(log):
    """The `Report` on a `Log`."""
    known = ", ".join(f"{called}" for called in log.called.values())
    report = Report(
        f"Training log {short(log.path)}: written by {log.program}, {log.rows} row{'s' * (log.rows != 1)}.",
        [f"Read: {known}."],
    )
    if log.others:
        report.about.append(f"Not read: {len(log.others)} further columns, such as {', '.join(log.others[:4])}.")
    report.findings = [f for rule in RULES if (f := ask(rule, log))]
    report.facts = {log.called[n]: span(v[np.isfinite(v)]) for n, (_, v) in log.columns.items() if np.isfinite(v).any()}
    if log.rows < ENOUGH:
        report.unseen.append(f"With {log.rows} row{'s' * (log.rows != 1)} no curve can be said to rise or to fall.")
    if not log.begins:
        report.unseen.append(
            "The log does not show the first update alone: whether ratio and KL begin right is unknown."
        )
    missing = [
        n for n in ("kl", "entropy", "length", "clip_fraction") if n not in log.columns and "reward" in log.columns
    ]
    if missing:
        report.unseen.append(f"Not in the log: {', '.join(missing)}.")
    if "accuracy" not in log.columns:
        report.unseen += [said for name, said in HIDDEN.items() if name not in log.columns]
    report.unseen.append(WORTH)
    return report
