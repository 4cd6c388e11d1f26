"""The figures of chapter 06."""

import matplotlib.pyplot as plt

from .. import plots


def one_rate_by_size(tests):
    """The intervals of tests of different size that have one and the same win rate.

    tests: {name: what `verdict` says}.
    """
    figure, ax = plt.subplots(figsize=(7, 1.9))
    plots.intervals(ax, tests)
    ax.set(xlabel="win rate", title="One win rate, three sizes of test")
    plt.show()


def blind_tests(tests):
    """The trained model's win rates over the fine-tuned one, with their intervals.

    tests: {name: what `verdict` says}.
    """
    figure, ax = plt.subplots(figsize=(7, 1.7))
    plots.intervals(ax, tests, plots.ORANGE)
    ax.set_xlabel("win rate of the trained over the fine-tuned model")
    ax.set_title("Blind, on unseen questions: win rates and 95% intervals")
    plt.show()


def rounds_and_gate(seen, at_start, share, tests):
    """What the rounds did: the users' liking, a share of the answers, and the intervals that the gate sees.

    seen: {"in use": means, "candidate": means} of each round, round 0 without a candidate, where the means are
    {"liking": points, share: from 0 to 1}; at_start: the means of the fine-tuned model; share: the name of that share,
    such as "right"; tests: {name: what `verdict` says}, of the rounds that were judged.
    """
    figure, (ax, ax2, ax3) = plt.subplots(1, 3, figsize=(10, 3.4))
    measured_by_round(ax, seen, at_start, "liking")
    ax.set(title="Users' liking", ylabel="points")
    ax.legend(loc="center right")
    measured_by_round(ax2, seen, at_start, share)
    ax2.set(title=f"{share.capitalize()} answers", ylim=(0, 1), ylabel="share")
    plots.intervals(ax3, tests)
    ax3.set(title="What the gate sees", xlabel="win rate over the model in use")
    plt.show()


def measured_by_round(ax, seen, at_start, key):
    """One of the means after each round: a line for the model in use, squares for candidates, and a ruler at_start."""
    x = range(len(seen))
    ax.axhline(at_start[key], color=plots.BLUE, ls="--", lw=1.5)
    y = [means["in use"][key] for means in seen]
    ax.plot(x, y, "o-", color=plots.ORANGE, label="in use")
    y = [means["candidate"][key] for means in seen[1:]]
    ax.plot(x[1:], y, "s", ms=9, mfc="none", mec=plots.INK, label="candidate")
    ax.set(xlabel="round", xticks=list(x))


def poisoned_round(history, poison):
    """Left, how far each round's own reward rose, the poisoned one's in red; right, its blind test.

    history, poison: the report of each honest round, and of the poisoned one; their rewards are in standard deviations.
    """
    names = [f"round {row['round']}" for row in history] + ["poisoned"]
    figure, (ax, ax2) = plt.subplots(1, 2, figsize=(9, 3.2))
    for place, row in enumerate([*history, poison]):
        own_reward(ax, place, row, plots.RED if row is poison else plots.ORANGE)
    ax.set_xticks(range(len(names)), names)
    ax.set(title="What its own reward model says", ylabel="reward (standard deviations)")
    ax.margins(x=0.15)
    plots.intervals(ax2, {"poisoned": poison["blind"]}, plots.RED)
    ax2.set(title="What the gate sees", xlabel="win rate over the model in use")
    plt.show()


def own_reward(ax, place, row, colour):
    """An arrow from the model in use to a round's candidate, with the error of the difference at its tip."""
    start, end = row["reward_start"], row["reward_end"]
    ax.annotate("", (place, end), (place, start), arrowprops={"arrowstyle": "->", "color": colour, "lw": 2})
    ax.errorbar(place, end, row["reward_error"], color=colour, capsize=4)
    ax.plot(place, start, "o", ms=7, mfc="white", color=colour)
