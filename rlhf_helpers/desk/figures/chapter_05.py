"""The figures of chapter 05."""

import matplotlib.pyplot as plt
import torch

from .. import plots


def scores_and_mean(prompts, answers, scores, advantages):
    """The score of each answer as a bar, green where its advantage is positive and red elsewhere, and their mean.

    prompts, answers: lists of text; scores, advantages: (answers,), in standard deviations.
    """
    figure, ax = plt.subplots(figsize=(8, 4.6))
    places = range(len(answers))
    shades = [plots.GREEN if up else plots.RED for up in (advantages > 0).tolist()]
    ax.barh(places, scores.tolist(), color=shades)
    ax.axvline(scores.mean().item(), color=plots.INK, ls="--", label="their mean")
    texts = [text if len(text) < 62 else text[:60] + "…" for text in answers]
    texts = [f"{prompt}\n{text}" for prompt, text in zip(prompts, texts)]
    ax.set_yticks(places, [text.replace("$", "\\$") for text in texts], fontsize=9)
    ax.invert_yaxis()
    ax.set_xlabel("score (standard deviations)")
    ax.set_title("Eight answers, their scores, and the mean")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="lower right")
    plt.show()


def push_and_change(advantages, changes):
    """A dot for each answer: its advantage, and how far one step moved its log-probability.

    advantages: a list of numbers, in standard deviations; changes: as many, in nats.
    """
    shades = [plots.GREEN if x > 0 else plots.RED for x in advantages]
    figure, ax = plt.subplots(figsize=(5.6, 3.2))
    ax.scatter(advantages, changes, s=60, color=shades)
    ax.axhline(0, color=plots.INK, lw=1)
    ax.axvline(0, color=plots.INK, lw=1)
    ax.set_xlabel("advantage (standard deviations)")
    ax.set_ylabel("change of log π(answer), in nats")
    ax.set_title("One step: how hard each was pushed, and where it went")
    plt.show()


def answer_by_token(prompt, words, logprobs, ref_logprobs, rewards):
    """An answer token by token: above what policy and reference think of each, below its reward as a bar.

    words: the tokens as text; logprobs, ref_logprobs: (tokens,), in nats; rewards: (tokens,), in standard deviations.
    """
    figure, (top, low) = plt.subplots(2, 1, figsize=(8, 4.8), sharex=True)
    top.plot(logprobs.cpu(), "o-", color=plots.ORANGE, label="policy")
    top.plot(ref_logprobs.cpu(), "o-", color=plots.BLUE, label="reference")
    top.set_ylabel("log-probability\n(nats)")
    top.set_title(f"{prompt} What each model thinks of the answer")
    top.legend(loc="upper left", bbox_to_anchor=(1, 1))
    places = range(len(words))
    low.bar(places, rewards.tolist(), color=plots.GREY)
    low.axhline(0, color=plots.INK, lw=1)
    low.set_ylabel("reward\n(std dev)")
    low.set_title("With β = 0.1: a penalty on each token, the score on the last")
    shown = [word.replace("$", "\\$") for word in words]
    low.set_xticks(places, shown, rotation=60, ha="right", fontsize=9)
    plt.show()


def what_tokens_earn(tokens, gradients):
    """What a token earns by its ratio, without the clip and with it (ε = 0.2): a good token left, a bad one right.

    tokens: the (advantage, ratio) of each token to mark, with an advantage of 1 or -1; gradients: (tokens,), those of
    the loss with respect to the tokens' log-probabilities.
    """
    ratio = torch.linspace(0.3, 1.8, 200)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    for ax, advantage in zip(axes, (1.0, -1.0)):
        kept = torch.minimum(advantage * ratio, advantage * ratio.clamp(0.8, 1.2))
        ax.plot(ratio, advantage * ratio, "--", color=plots.GREY, label="A × ratio")
        ax.plot(ratio, kept, color=plots.ORANGE, label="with the clip")
        ax.axvspan(0.8, 1.2, color="#E8EEF2", zorder=0)
        for (own_advantage, x), gradient in zip(tokens, gradients):
            if own_advantage == advantage:
                mark_token(ax, advantage, x, gradient)
        ax.set(xlabel="ratio", ylabel="what the token earns")
        ax.set_title("A good token" if advantage > 0 else "A bad token")
    axes[1].legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    plt.show()


def mark_token(ax, advantage, ratio, gradient):
    """Mark what a token earns with the clip: a cross where it has no gradient, else a dot."""
    height = min(advantage * ratio, advantage * min(max(ratio, 0.8), 1.2))
    style = "X" if gradient == 0 else "o"
    name = "no gradient" if gradient == 0 else "still pushes"
    ax.plot(ratio, height, style, color=plots.INK, ms=10, label=name)


def distance_by_step(moved):
    """How far the tokens have moved before each step on one batch, without the clip (dotted) and with it.

    moved: {"no clip": list, "clip": list}, the mean |log ratio| before each step, in nats.
    """
    figure, ax = plt.subplots(figsize=(6, 2.8))
    for name, style in (("no clip", ":"), ("clip", "-")):
        ax.plot(moved[name], style, color=plots.ORANGE, label=name)
    ax.set(xlabel="steps taken on the batch", ylabel="mean |log ρ| (nats)")
    ax.set_title("How far the tokens have moved since they were drawn")
    ax.legend()
    plt.show()


def blame_by_lambda(words, blame):
    """The advantage of each token of an answer as a bar, a panel for each λ.

    words: the tokens as text; blame: {λ: advantages}, three of them, each (tokens,), in standard deviations.
    """
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.9), sharey=True)
    places = range(len(words))
    for ax, (lam, advantages) in zip(axes, blame.items()):
        ax.bar(places, advantages.tolist(), color=plots.ORANGE)
        ax.axhline(0, color=plots.INK, lw=1)
        ax.set_xticks(places, words, rotation=60, ha="right", fontsize=9)
        ax.set_title(f"λ = {lam:g}")
    axes[0].set_ylabel("advantage (std dev)")
    figure.suptitle("Who is blamed for the duckling?", x=0.01, ha="left")
    plt.show()


def gain_of_best_of_n(ns, judge_gain, gold_gain):
    """What the best of n answers by a judge gains over any one answer, as the judge says and as the gold judge says.

    ns: a list of n; judge_gain: (ns,), in standard deviations; gold_gain: (ns,), in points.
    """
    figure, ax = plt.subplots(figsize=(6, 2.8))
    for gain, shade, label in (
        (judge_gain, plots.ORANGE, "what this judge says"),
        (gold_gain, plots.GREEN, "what the gold judge says"),
    ):
        ax.plot(ns, gain, ".-", color=shade, label=label)
    ax.set_xscale("log", base=2)
    ax.set(xlabel="n, answers to choose from", ylabel="gain (std dev; points)")
    ax.set(xticks=ns, xticklabels=ns, title="The best of n, by this judge")
    ax.legend()
    plt.show()


def shares_of_answers(names, qualities):
    """A row of dots for each kind of answer: its share before and after two trainings.

    names: of the shares; qualities: {label: {name: share}}, of the model before (its label "before"), after a few
    labels and after the crowd's judge, in this order.
    """
    figure, ax = plt.subplots(figsize=(7.5, 2.8))
    for (label, shares), fill in zip(qualities.items(), (plots.BLUE, "white", plots.ORANGE)):
        edge = plots.BLUE if label == "before" else plots.ORANGE
        look = {"s": 70, "c": fill, "edgecolors": edge, "label": label}
        ax.scatter([shares[name] for name in names], range(len(names)), zorder=2, **look)
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.set(xlabel="share of answers to test prompts", xlim=(-0.03, 1.03))
    ax.set_title("What changed")
    ax.invert_yaxis()
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.show()


def proxy_and_gold(runs):
    """Four runs, update by update: what its judge says of each, and what the gold judge says; no penalty is dotted.

    runs: {(judge, beta): {"curve": [{"proxy": standard deviations, "gold": points}, ...]}}; one judge is "full judge".
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for (name, beta), run in runs.items():
        colour = plots.ORANGE if name == "full judge" else plots.RED
        style, how = ("-", "penalty") if beta else (":", "no penalty")
        for ax, key in zip(axes, ("proxy", "gold")):
            y = [row[key] for row in run["curve"]]
            ax.plot(range(1, len(y) + 1), y, style, color=colour, label=f"{name}, {how}")
            ax.set_xlabel("update")
    axes[0].set_title("What its judge says: the proxy reward")
    axes[0].set_ylabel("mean score (std dev)")
    axes[1].set(title="What the gold judge says", ylabel="mean gold score (points)")
    entries = axes[1].get_legend_handles_labels()
    figure.legend(*entries, ncol=2, fontsize=9, loc="outside lower center")
    plt.show()
