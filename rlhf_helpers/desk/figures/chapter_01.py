"""The figures of chapter 01."""

import math

import matplotlib.pyplot as plt
import torch

from .. import plots


def next_tokens(beginning, panels):
    """Show the most probable next tokens after `beginning`, a panel for each model, one token of them in green.

    panels: model -> (its tokens, as texts; their probabilities (n,); the place of the green one).
    """
    size = (4.6 * len(panels) + 0.6, 3.3)
    _, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for ax, (name, (tokens, probabilities, marked)) in zip(axes[0], panels.items()):
        colours = [plots.GREEN if i == marked else plots.BLUE for i in range(len(tokens))]
        bars = ax.barh([repr(token) for token in tokens], probabilities, color=colours)
        ax.bar_label(bars, fmt="%.4f", padding=3, fontsize=9)
        ax.invert_yaxis()
        ax.set(xlabel="probability of the next token", xticks=[0, 0.5, 1])
        ax.set_xlim(0, 1.2)
        ax.set_title(f"{name}\n“{beginning} …”", parse_math=False)
    plt.show()


def loss_of_the_hidden_token(probabilities, vocabulary):
    """Show the loss (nats) by the probability of the true token, with a dot for each of two models.

    probabilities: model -> what it gives the true token; vocabulary: number of tokens, for the dashed line.
    """
    x = torch.linspace(0.0003, 1, 400)
    _, ax = plt.subplots()
    ax.plot(x, -x.log(), color=plots.GREY)
    for (name, p), colour in zip(probabilities.items(), (plots.GREY, plots.BLUE)):
        text = f"{name}: p = {p:.4f}, loss {-math.log(p):.2f} nats"
        ax.plot(p, -math.log(p), "o", color=colour, ms=9, label=text)
    know_nothing = math.log(vocabulary)
    text = f"knowing nothing: ln {vocabulary:,} = {know_nothing:.2f} nats"
    ax.axhline(know_nothing, color=plots.GREY, ls="--", label=text)
    ax.set_xlabel("probability of the true token")
    ax.set_ylabel("loss −ln p (nats)")
    ax.set_title("The same hidden token, two models")
    ax.legend()
    plt.show()


def tokens_that_count(rows, real, counted):
    """Rows of a batch in tokens, as a figure: green ones count in the loss, blue are only read, grey is padding.

    rows: their tokens, as texts; real, counted: the attention mask and the loss mask, (rows, T) each.
    """
    tokens, colours = [], []
    for row, real_row, counted_row in zip(rows, real.tolist(), counted.tolist()):
        tokens += [*row, ""]
        colours += [plots.GREEN if c else plots.BLUE if r else "#BBBBBB" for c, r in zip(counted_row, real_row)]
        colours.append("#FCFCFA")
    return plots.draw_tokens(tokens, colours, width=84)


def the_crowd_and_its_copies(shares, axes):
    """Show what share of the answers is right, wrong and so on: those of the writers and of three models.

    shares: name -> {axis: share}, first the writers, last (hollow) a greedy model; axes: the names of the four axes.
    """
    _, ax = plt.subplots(figsize=(8, 3.8))
    for i, (name, colour) in enumerate(zip(shares, (plots.GREY, plots.SKY, plots.BLUE, "white"))):
        x = [j + 0.21 * (i - 1.5) for j in range(4)]
        edge = plots.SKY if colour == "white" else colour
        look = {"color": colour, "edgecolor": edge, "lw": 1.5, "label": name}
        bars = ax.bar(x, [shares[name][a] for a in axes], 0.19, **look)
        ax.bar_label(bars, fmt="%.2f", fontsize=9)
    ax.set_xticks(range(4), axes)
    ax.set(ylabel="share of answers", ylim=(0, 1.15))
    ax.set_title("What the writers did, the model does")
    ax.legend(ncols=4, loc="upper center", fontsize=9)
    plt.show()


def how_far_apart(shares, far, chance, n):
    """The figure of the crowd in sentences.

    shares: as there; far: the largest distance of the shipped model from the writers; chance: what chance can do to a
    share of n answers.
    """
    writers, sampled, _, greedy = shares.values()
    return (
        f"The writers were rude in {writers['rude']:.0%} of their answers, and your model, sampled, in "
        f"{sampled['rude']:.0%}. The shipped model is never more than {100 * far:.0f} points from the writers; chance "
        f"alone can move a share of {n} answers by about {100 * chance:.0f}. Greedy, yours is right in "
        f"{greedy['right']:.0%} and polite in {greedy['polite']:.0%}."
    )
