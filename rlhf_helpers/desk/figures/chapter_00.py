"""The figures of chapter 00."""

import matplotlib.pyplot as plt
import torch

from .. import plots


def loss_of_one_choice(differences, losses):
    """Show the loss (nats) over the difference of the two scores, (n,) each; returns both as a table."""
    _, ax = plt.subplots(figsize=(6, 2.6))
    ax.plot(differences, losses, "o-", color=plots.INK)
    ax.set(xlabel="R₊ − R₋", ylabel="loss (nats)", title="The loss of one choice")
    plt.show()
    return plots.text_table(["R₊ − R₋", *(f"{d:+.0f}" for d in differences)], [["loss", *(f"{x:.3f}" for x in losses)]])


def words_liked_and_disliked(effects, who):
    """Show bars for the words that lower the score most (red) and raise it most (green), eight each at most.

    effects: word -> mean score of the answers with it, above others to the same question; who: made the choices.
    Returns the three words at each end in a sentence.
    """
    ranked = sorted(effects, key=effects.get)
    shown = ranked[:8] + ranked[-8:] if len(ranked) > 16 else ranked
    bars = [effects[w] for w in shown]
    _, ax = plt.subplots(figsize=(7, 4.2))
    ax.barh(shown, bars, color=[plots.RED if b < 0 else plots.GREEN for b in bars])
    ax.axvline(0, color=plots.INK, lw=1)
    ax.set(xlabel="mean score above other answers to the same question")
    ax.set_title("What the reward model likes (green) and dislikes")
    ax.grid(axis="y", visible=False)
    plt.show()
    liked, disliked = (", ".join(f"*{w}*" for w in some) for some in (ranked[:-4:-1], ranked[:3]))
    return f"In words: it likes answers with {liked}, and dislikes answers with {disliked}. Is that what {who} meant?"


def verdict(result, judge):
    """Show the new model's win rate, a dot, with its 95% interval, a line; returns the counts in a sentence.

    result: what `loop.verdict` says, or {} while there is none; judge: "you", or the name of a simulated annotator.
    """
    _, ax = plt.subplots(figsize=(7, 1.5))
    told = "No verdict yet."
    if result:
        ax.plot([result["low"], result["high"]], [0, 0], color=plots.ORANGE)
        ax.plot(result["win_rate"], 0, "o", ms=10, color=plots.ORANGE)
        told = (
            "Wins {wins}, ties {ties}, losses {losses}: a win rate of "
            "{win_rate:.0%}, with an interval from {low:.0%} to {high:.0%}."
        ).format(**result)
    ax.axvline(0.5, color=plots.GREY, ls="--")
    ax.set(xlim=(0, 1), yticks=[], xlabel="win rate of the new model")
    by = "Your verdict" if judge == "you" else f"The verdict of {judge}"
    ax.set_title(f"{by}, with its 95% interval")
    plt.show()
    return told


def win_rates_of_tastes(rates, facts, counted):
    """Show each taste's win rate after 24 choices (hollow) and after 48 (full); returns the means in sentences.

    rates: taste -> the two win rates; facts: the tastes that facts decide, which stand at the bottom, in ink;
    counted: taste -> number of runs.
    """
    names = sorted(rates, key=lambda name: (name not in facts, rates[name]))
    _, ax = plt.subplots(figsize=(7, 3.8))
    for y, name in enumerate(names):
        colour = plots.INK if name in facts else plots.ORANGE
        ax.plot(rates[name], [y, y], color=colour, lw=1)
        ax.plot(rates[name][0], y, "o", mfc="white", ms=8, color=colour)
        ax.plot(rates[name][1], y, "o", ms=8, color=colour)
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.axvline(0.5, color=plots.GREY, ls="--")
    ax.set(xlim=(0, 1), xlabel="win rate over the model that ships, by the taste")
    ax.set_title("24 choices (hollow) and 48 (full); in the last three facts decide")
    plt.show()
    by_words, by_facts = ([name for name in names if (name in facts) == side] for side in (False, True))
    told = mean_win_rates(rates, {"words show the taste": by_words, "facts decide": by_facts})
    return runs_behind_a_point(counted) + told


def runs_behind_a_point(counted):
    """How many runs of a taste there are, in a sentence; counted: taste -> number of runs."""
    runs = sorted(counted.values()) or [0]
    n = f"{runs[0]} to {runs[-1]}".removeprefix(f"{runs[-1]} to ")
    return "Each point is one run." if n == "1" else f"Each point is the mean of {n} runs."


def mean_win_rates(rates, kinds):
    """The mean win rates of each kind of taste, and its worst taste, a sentence each; kinds: name -> tastes."""
    told = ""
    for kind, group in kinds.items():
        if group:
            low, high = torch.tensor([rates[x] for x in group]).mean(0)
            last = min(group, key=lambda name: rates[name][1])
            told += f" Where {kind}, the mean win rate is **{low:.0%}** after 24 "
            told += f"choices and **{high:.0%}** after 48; the lowest is then *"
            told += f"{last.replace('_', ' ')}*, at {rates[last][1]:.0%}."
    return told
