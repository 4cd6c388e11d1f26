"""The figures of chapter 02."""

import matplotlib.pyplot as plt

from .. import plots

PALE = "#C9D8E2"  # p itself
CENTRED = {"ha": "center", "va": "center", "fontsize": 9}


def likeliest_tokens(names, p, prompt):
    """A bar for each of the likeliest first tokens: their names and probabilities, the likeliest first."""
    fig, ax = plt.subplots(figsize=(8, 2.8))
    bars = ax.bar(names, p, color=plots.BLUE)
    ax.bar_label(bars, fmt="%.3f", padding=2, fontsize=9)
    ax.margins(y=0.15)
    ax.set(ylabel="probability", xlabel="first token of the answer")
    ax.set_title(f"p after “{prompt}”: the ten likeliest tokens")
    plt.show()


def die(names, p, u):
    """The interval from 0 to 1 as a die: a stretch for each of the likeliest tokens, and marks where the u fell.

    names: texts.  p: their probabilities, a tensor of the same length.  u: random numbers in [0, 1).
    """
    fig, ax = plt.subplots(figsize=(8, 1.9))
    left, shades = 0.0, ["#8DB9D6", PALE]
    for rank, (name, width) in enumerate(zip(names, p)):
        ax.barh(0, width, left=left, color=shades[rank % 2], edgecolor="white")
        if width > 0.04:
            turn = 0 if width > 0.1 else 90
            ax.text(left + width / 2, 0, name, rotation=turn, **CENTRED)
        left += width.item()
    ax.barh(0, 1 - left, left=left, color="#DDDDDD")
    ax.plot(u, [0.52] * len(u), "v", color=plots.INK, ms=8)
    ax.set(yticks=[], xlim=(0, 1), xlabel="running sum of p")
    ax.set_title("The die: one stretch per token, and where eight u landed")
    ax.grid(False)
    plt.show()


def shares_beside_p(names, p, greedy, sampled, spread, turns):
    """How often each token was taken, as dots before bars of p: greedy on the left, sampling on the right.

    names: of the tokens.  p: their probabilities.  greedy, sampled: their shares of so many turns.
    spread: how far chance alone takes a share of `sampled` from p, on either side, 19 times in 20.
    """
    fig, (a, b) = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    for ax, shares, bars in ((a, greedy, 0), (b, sampled, spread)):
        ax.bar(names, p, color=PALE, label="p")
        label = f"share of {turns} turns"
        ax.errorbar(names, shares, bars, fmt="ko", capsize=3, label=label)
        ax.tick_params(axis="x", rotation=60)
        ax.set_xlabel("next token")
        ax.legend()
    a.set(title="Rule 1, greedy: one token, every time", ylabel="share")
    b.set_title("Rule 2, sampling: the shares follow p")
    plt.show()


def steps_of_two_answers(greedy, sampled, width):
    """Greedy's answer above a sampled one, a row per step: the `width` likeliest tokens, and a frame on the one taken.

    greedy, sampled: for each step ([(name, p), ...], the place of the taken token among them), the likeliest first;
    a taken token that is none of the `width` likeliest stands after them.
    """
    lengths = [len(greedy), len(sampled)]
    size = (8, 2 + 0.3 * sum(lengths))
    fig, axes = plt.subplots(2, 1, figsize=size, height_ratios=lengths)
    draw_steps(axes[0], greedy, width, "Greedy: always column 1")
    draw_steps(axes[1], sampled, width, "Sampling: drawn by p")
    axes[1].set_xlabel("rank of the token by its probability p")
    plt.show()


def draw_steps(ax, steps, width, title):
    """One of the two panels of `steps_of_two_answers`."""
    for t, (tokens, taken) in enumerate(steps):
        for rank, (name, p) in enumerate(tokens[:width]):
            shade = plt.cm.Blues(0.5 * p)
            ax.add_patch(plt.Rectangle((rank, t), 1, 1, ec="white", fc=shade))
            ax.text(rank + 0.5, t + 0.5, f"{name}  {p:.2f}", **CENTRED)
        if taken == width:
            name, p = tokens[taken]
            ax.text(width + 0.5, t + 0.5, f"{name}  {p:.3f}", **CENTRED)
        corner = (taken + 0.03, t + 0.06)
        ax.add_patch(plt.Rectangle(corner, 0.94, 0.88, lw=2.2, fill=False, ec=plots.INK))
    ax.set(xlim=(0, width + 1), ylim=(len(steps), 0), title=title)
    ax.set_ylabel("step (tokens)")
    columns, rows = [*range(1, width + 1), "less probable"], range(len(steps))
    ax.set_xticks([r + 0.5 for r in range(width + 1)], columns)
    ax.set_yticks([t + 0.5 for t in rows], [t + 1 for t in rows])
    ax.grid(False)


def commonest_answers(counts, greedy_text):
    """A bar for each of the twelve commonest answers, greedy's in blue; counts: a Counter of all that were sampled."""
    top = counts.most_common(12)[::-1]
    marks = [plots.BLUE if a == greedy_text else plots.GREY for a, _ in top]
    fig, ax = plt.subplots(figsize=(8, 4))
    ax.barh([short(a) for a, _ in top], [n for _, n in top], color=marks)
    ax.tick_params(axis="y", labelsize=9)
    ax.set_xlabel(f"times in {counts.total()} samples")
    ax.set_title(f"The commonest of {len(counts)} answers to one prompt")
    plt.show()


def short(text, width=48):
    """Text for a label: cut to `width` characters."""
    text = text if len(text) <= width else text[: width - 1] + "…"
    return text.replace("$", r"\$")


def turned_dials(names, p, after):
    """What each setting of the dials makes of p, a panel for each: pale bars of p, blue ones of what it became.

    names: of the first tokens, from the bottom up.  p: their probabilities.  after: {setting: their probabilities}.
    """
    fig, axes = plt.subplots(1, 5, figsize=(10, 3.6), sharey=True)
    for ax, (setting, q) in zip(axes, after.items()):
        ax.barh(names, p, color=PALE)
        ax.barh(range(len(names)), q, color=plots.BLUE, height=0.4)
        ax.set(title=setting, xticks=(0, 0.5, 1), xlim=(0, 1.03))
    fig.supxlabel("probability of the first token", fontsize=11)
    axes[0].set_ylabel("first token")
    plt.show()


def families_and_gaps(per_family, gaps):
    """How many pairs each family of questions has, {family: pairs}; and how far apart the answers are.

    gaps: gold score of answer a minus that of b (points), for each pair.
    """
    fig, (a, b) = plt.subplots(1, 2, figsize=(11, 3.6))
    a.bar(list(per_family), list(per_family.values()), color=plots.GREY)
    a.tick_params(axis="x", rotation=60)
    a.set(xlabel="family of questions", ylabel="pairs")
    a.set_title("Every family has its share")
    b.hist(gaps, bins=24, color=plots.BLUE)
    b.set(xlabel="gold score of a minus that of b (points)", ylabel="pairs")
    b.set_title("How far apart the two answers are")
    plt.show()
