"""The figures of chapter 04."""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from .. import plots

LN2 = math.log(2)  # the loss, in nats, of two equal scores


def two_networks(embedding, blocks, inside, vocabulary, score):
    """A language model and a reward model side by side, as boxes with shapes and numbers of weights.

    embedding, vocabulary, score: shapes (rows, width) of the table of tokens and of the two last layers.  blocks: how
    many transformer blocks both have.  inside: the number of weights in them, and in what belongs to them.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4.2))
    many = f"at every position: {vocabulary[0]:,} numbers"
    one = "at the last token: one number"
    shared = [
        (f"token embedding\n{tuple(embedding)}", math.prod(embedding)),
        (f"{blocks} transformer blocks\nand what belongs to them", inside),
    ]
    head = (f"vocabulary layer\n{tuple(vocabulary)}", math.prod(vocabulary))
    stack(left, "Language model", [*shared, head], many, plots.BLUE)
    head = (f"score layer\n{tuple(score)}", math.prod(score))
    stack(right, "Reward model", [*shared, head], one, plots.PURPLE)
    plt.show()


def stack(ax, title, boxes, output, colour):
    """A network as boxes from bottom to top, the last in `colour`; boxes: pairs of words and a number of weights."""
    arrow, top = {"arrowstyle": "->", "color": plots.INK}, len(boxes) - 1
    ax.text(0.5, -0.37, "question + answer, as tokens", ha="center")
    for y, (words, n) in enumerate(boxes):
        fill, ink = (colour, "white") if y == top else ("#D9E6EF", plots.INK)
        ax.add_patch(plt.Rectangle((0, y), 1, 0.7, fc=fill, ec=plots.INK))
        ax.text(0.5, y + 0.35, f"{words}: {n:,}", ha="center", va="center", color=ink)
        ax.annotate("", (0.5, y), (0.5, y - 0.2), arrowprops=arrow)
    ax.annotate("", (0.5, top + 1), (0.5, top + 0.7), arrowprops=arrow)
    ax.text(0.5, top + 1.05, output, ha="center")
    ax.set(xlim=(-0.05, 1.05), ylim=(-0.4, top + 1.3), title=title)
    ax.axis("off")


def shaded_loss(ax, far):
    """The curve of −log σ for gaps from -far to far, with the wrong side in red and the right one in green."""
    x = torch.linspace(-far, far, 241)
    ax.axvspan(-far, 0, color=plots.RED, alpha=0.07)
    ax.axvspan(0, far, color=plots.GREEN, alpha=0.07)
    ax.plot(x, -F.logsigmoid(x), color=plots.INK, label="−log σ(R₊ − R₋)")
    ax.set_xlabel("R₊ − R₋, score of chosen minus rejected")
    ax.set(ylabel="loss (nats)", xlim=(-far, far), ylim=(0, 0.2 + far))


def loss_of_one_choice(gaps, losses):
    """The curve of the loss with the line that it nears on the left, and a dot for each row of the table.

    gaps, losses: R₊ − R₋ and the loss in nats, tensors (rows,).
    """
    figure, ax = plt.subplots(figsize=(7.5, 3.8))
    shaded_loss(ax, 6.0)
    ax.plot([-6, 0], [6, 0], "--", color=plots.GREY, label="−(R₊ − R₋)")
    ax.plot(gaps, losses, "o", color=plots.INK)
    ax.axhline(LN2, color=plots.GREY, lw=1, ls=":")
    ax.annotate(f"ln 2 = {LN2:.2f}\nequal scores", (0, LN2), (0.7, 2.6), arrowprops={"arrowstyle": "->"})
    ax.text(-5.8, 0.85, "order wrong:\nnearly proportional\nto the gap", color=plots.RED)
    ax.text(2.6, 1.0, "order right:\nloss in (0, 0.69)", color="#007A5A")
    ax.set_title("The loss of one choice")
    ax.legend(loc="upper right")
    plt.show()


def choices_on_the_curve(gaps, losses, who):
    """The curve of the loss with a dot for each choice by `who`; the cross is where all of them were before learning.

    gaps, losses: R₊ − R₋ and the loss in nats, tensors (choices,).
    """
    far = max(2.0, gaps.abs().max().item() * 1.1)
    figure, ax = plt.subplots(figsize=(7.5, 3.2))
    shaded_loss(ax, far)
    ax.plot(gaps, losses, "o", color=plots.SKY, mec="white")
    ax.plot(0, LN2, "X", ms=11, color=plots.GREY)
    ax.set_ylim(0, max(1.0, 1.3 * losses.max().item()))
    ax.set_title(f"{len(gaps)} choices by {who}: all began at the cross")
    plt.show()


def effects_of_changes(effects):
    """Bars side by side: by how much each change of a right answer moves the score of each judge.

    effects: {"words alone", "after practice" or "the crowd's": a Series, change -> SDs of that judge's usual scores},
    of the same changes in the same order.
    """
    colours = {"words alone": plots.SKY, "after practice": plots.PURPLE, "the crowd's": plots.INK}
    changes = next(iter(effects.values())).index
    figure, ax = plt.subplots(figsize=(8, 2.1 + 0.6 * len(effects)))
    y, height = np.arange(len(changes))[::-1] + 0.4, 0.8 / len(effects)
    for i, (judge, moved) in enumerate(effects.items()):
        ax.barh(y - height * (i + 0.5), moved, height, color=colours[judge], label=judge)
    ax.set_yticks(y - 0.4, changes)
    ax.axvline(0, color=plots.INK, lw=1)
    ax.set_xlabel("change of the score (in standard deviations of its usual scores)")
    ax.set_title("What one change to a right answer does to its score")
    ax.legend(ncol=3, loc="lower right", bbox_to_anchor=(1, 1.08))
    ax.grid(axis="y", visible=False)
    plt.show()


def live_held_out(ceiling):
    """Show two empty panels; returns a function `draw(log)` that redraws loss and accuracy on held-out labels in them.

    ceiling: the best accuracy that anyone can expect, in [0, 1].  log: dicts with "step", "held out loss" (nats) and
    "held out accuracy" (in [0, 1]).
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.2))
    redraw = plots.live_figure(figure)

    def draw(log):
        left, right = axes
        for ax, name in zip(axes, ("loss", "accuracy")):
            ax.clear()
            steps, values = [r["step"] for r in log], [r[f"held out {name}"] for r in log]
            ax.plot(steps, values, "o-", ms=4, color=plots.INK)
            ax.set(xlabel="step", title=f"{name.capitalize()} on held-out labels")
        left.axhline(LN2, color=plots.GREY, ls=":", label="ln 2")
        left.set(ylabel="loss (nats)", ylim=(0, 0.8))
        right.axhline(ceiling, color=plots.GREY, ls="--", label="noise ceiling")
        right.axhline(0.5, color=plots.GREY, ls=":", label="a coin")
        right.set(ylabel="accuracy", ylim=(0.4, 1))
        for ax in axes:
            ax.legend(loc="best")
        redraw()

    return draw


def scores_by_gold(groups):
    """Histograms, one over the other, of the crowd's scores of good, middling and bad answers, in this order.

    groups: {label: scores of the answers, an array (answers,)}; one group at least has an answer.
    """
    scores = np.concatenate(list(groups.values()))
    figure, ax = plt.subplots(figsize=(7.5, 3.2))
    bins = np.linspace(scores.min(), scores.max(), 36)
    for (name, some), colour in zip(groups.items(), (plots.GREEN, plots.GREY, plots.RED)):
        ax.hist(some, bins, color=colour, alpha=0.55, label=name)
    ax.axvline(0, color=plots.INK, lw=1)
    ax.set(xlabel="score of the crowd's reward model", ylabel="answers")
    ax.set_title("Answers to test questions, by how good they are in truth")
    ax.legend(ncol=3, loc="lower right", bbox_to_anchor=(1, 1.08))
    plt.show()


def learning_curves(curves, sizes, whole, ceiling):
    """Accuracy by number of labels, after practice and without: the mean over seeds, in a band from least to greatest.

    curves: {"after practice" or "without practice": {number of labels: [accuracy with each seed]}}.  sizes: all numbers
    of labels, from left to right; the last is that of `whole`, the accuracy of the network of section 5 (the diamond).
    ceiling: the best accuracy that anyone can expect.  All accuracies are in [0, 1].
    """
    places = {n: i for i, n in enumerate(dict.fromkeys(sizes))}
    colours = {"after practice": plots.PURPLE, "without practice": plots.SKY}
    figure, ax = plt.subplots(figsize=(7, 3.8))
    for name, curve in curves.items():
        x, y = [places[n] for n in curve], [np.mean(v) for v in curve.values()]
        spread = [min(v) for v in curve.values()], [max(v) for v in curve.values()]
        ax.fill_between(x, *spread, color=colours[name], alpha=0.2)
        ax.plot(x, y, "o-", color=colours[name], label=name)
    ax.plot(places[sizes[-1]], whole, "D", c=plots.INK, label="section 5")
    ax.axhline(ceiling, color=plots.GREY, ls="--", label="noise ceiling")
    ax.axhline(0.5, color=plots.GREY, ls=":", label="a coin")
    ax.set_xticks([*places.values()], [f"{n:,}" for n in places])
    ax.set(ylabel="accuracy on test pairs", ylim=(0.4, 1))
    ax.set_xlabel("number of labels (not to scale)")
    ax.set_title("The same labels, after practice and without it")
    ax.legend(ncol=3, loc="upper left")
    plt.show()


def two_judges(gold, crowd):
    """Bars side by side: what each change is worth to the gold judge and to the crowd's reward model.

    gold, crowd: Series, change -> mean change of the score, each on its judge's own scale.
    """
    figure, ax = plt.subplots(figsize=(8, 3.8))
    y = np.arange(len(gold))[::-1]
    ax.barh(y + 0.2, gold, 0.38, color=plots.GREEN, label="gold judge")
    ax.barh(y - 0.2, crowd, 0.38, color=plots.INK, label="the crowd's reward model")
    ax.set_yticks(y, gold.index)
    ax.axvline(0, color=plots.INK, lw=1)
    ax.set_xlabel("mean change of the score (each judge on its own scale)")
    ax.set_title("What each change is worth to two judges")
    ax.legend(loc="lower left")
    ax.grid(axis="y", visible=False)
    plt.show()
