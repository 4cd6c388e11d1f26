"""The figures of chapter 03, its clock, and its table of labels."""

import time

import ipywidgets as W
import matplotlib.pyplot as plt
from IPython.display import HTML

from .. import plots
from ..labeller import escape, key_guard

# ---------------------------------------------------------------- a clock for writing and choosing


class Clock:
    """A question to answer in one's own words, then two answers to another to choose between, both by the clock.

    `widget` is what to show; `timed` gets the seconds, {"write": ..., "choose": ...}.
    question: a text.  pair: {"prompt", "response_a", "response_b"}, all texts.
    """

    def __init__(self, question, pair):
        self.question, self.pair, self.timed = question, pair, {}
        self.box = W.Textarea(placeholder="Your answer", rows=3, layout={"width": "auto"})
        self.go, self.seen = W.Button(), W.HTML()
        self.two = W.HBox([W.Button(description=f"{x} is better") for x in "AB"])
        for button in (self.go, *self.two.children):
            button.on_click(self.step)
        self.turn(0, "The clock starts when you press the button.")
        self.widget = W.VBox([self.seen, self.box, self.go, self.two, key_guard()])

    def turn(self, state, *texts):
        """Show these texts and what belongs to a state: 0 before, 1 writing, 2 choosing, 3 after."""
        self.seen.value = "".join(f"<p>{escape(text)}</p>" for text in texts)
        self.state, self.since = state, time.monotonic()
        for widget, states in ((self.box, (1,)), (self.go, (0, 1)), (self.two, (2,))):
            widget.layout.display = "" if state in states else "none"
        self.go.description = "Done" if state else "Show the question"

    def step(self, _):
        """What a press of any of the buttons does."""
        took = time.monotonic() - self.since
        if self.state == 0:
            self.turn(1, self.question)
        elif self.state == 2:
            self.timed["choose"] = took
            words = [in_words(self.timed[k]) for k in ("write", "choose")]
            self.turn(3, "Writing took you {}, choosing {}.".format(*words))
        elif not self.box.value.strip():
            self.box.placeholder = "Write an answer first."
        else:
            self.timed["write"] = took
            a, b = (f"{x.upper()}: {self.pair['response_' + x]}" for x in "ab")
            self.turn(2, self.pair["prompt"], a, b)


def in_words(seconds):
    """A number of seconds as one would say it, at least "1 second"."""
    n = max(1, round(seconds))
    return f"{n} second{'' if n == 1 else 's'}"


def choices_in_one_answer(seconds, ratio, measured):
    """One written answer as a grey bar, and above it the choices that fit into its time, a purple block each.

    seconds: {"write": ..., "choose": ...}, of one each.  ratio: of the two.  measured: those of them that are no guess.
    """
    guess = ["" if k in measured else "\n(a guess)" for k in ("write", "choose")]
    n = min(60, max(1, int(ratio)))
    fig, ax = plt.subplots(figsize=(7, 1.9))
    blocks = [(0, 0, seconds["write"], plots.GREY)]
    for i in range(n):
        begun = i * seconds["choose"]
        blocks.append((begun, 1, seconds["choose"] * 0.93, plots.PURPLE))
    for x, y, width, colour in blocks:
        ax.add_patch(plt.Rectangle((x, y - 0.35), width, 0.7, color=colour, lw=0))
    longest = max(seconds["write"], n * seconds["choose"])
    ax.set(xlabel="seconds", xlim=(0, longest), ylim=(-0.6, 1.6))
    ax.set_yticks([0, 1], [f"one answer{guess[0]}", f"choices{guess[1]}"])
    plural = "" if n == 1 else "s"
    ax.set_title(f"In the time of one written answer: {n} whole choice{plural}")
    ax.grid(axis="y", visible=False)
    plt.show()


# ---------------------------------------------------------------- what the labels show


def left_minus_right(ahead, band, by):
    """By how many choices the left side is ahead, after 0, 1, 2, ... of them, in the band in which a fair coin stays.

    band: how far from 0, on either side, for each number in `ahead`.  by: whose choices they are.
    """
    fig, ax = plt.subplots(figsize=(7, 2.6))
    label = "a fair coin, 19 times in 20"
    lower = [-x for x in band]
    ax.fill_between(range(len(band)), lower, band, color=plots.GREY, alpha=0.25, lw=0, label=label)
    ax.plot(ahead, color=plots.PURPLE, label="these choices")
    ax.axhline(0, color=plots.GREY, lw=1)
    ax.set(xlabel="choices so far", ylabel="left minus right")
    ax.set_title(f"Does one side win? ({by})")
    ax.legend(loc="upper left")
    plt.show()


def agreement(agreed, pairs, by):
    """On what share of so many pairs each taste would choose the same, {taste: share}; by: whose choices they are."""
    fig, ax = plt.subplots(figsize=(7, 0.9 + 0.4 * len(agreed)))
    names = sorted(agreed, key=agreed.get)
    bars = ax.barh(names, [agreed[t] for t in names], color=plots.PURPLE)
    ax.bar_label(bars, fmt="{:.0%}", padding=3)
    ax.axvline(0.5, color=plots.GREY, ls="--")
    ax.set(xlim=(0, 1.08), xlabel=f"share of {pairs} pairs, same choice")
    ax.set_title(f"Which taste would choose the same? ({by})")
    ax.grid(axis="y", visible=False)
    plt.show()


def labels_table(labels, slips):
    """Labels as an HTML table: what was chosen in green, with a tick, what was rejected in red.

    labels: as the log has them.  slips: for each, whether a simulated annotator went against its own taste.
    """
    heads = ("question", "answer a", "answer b", "on the left", "chosen", "by")
    table = "".join(td(f"<b>{name}</b>") for name in heads)
    for x, slip in zip(labels, slips):
        row = td(escape(x["prompt"])) + answer(x, "a") + answer(x, "b")
        row += td(x["left"]) + td(x["choice"].replace("_", " "))
        row += td(escape(x["annotator"]) + (" (a slip)" if slip else ""))
        table += f"</tr><tr>{row}"
    return HTML(f'<table class="tex2jax_ignore"><tr>{table}</tr></table>')


def answer(label, side):
    """One of the two answers of a label as a cell of `labels_table`."""
    text = escape(label[f"response_{side}"])
    if label["choice"] not in ("a", "b"):
        return td(text)
    if label["choice"] == side:
        return td("✓ " + text, "rgba(0,158,115,.25)")
    return td(text, "rgba(213,94,0,.18)")


def td(text, tint="none"):
    """A cell of a table, HTML, on a background of this colour."""
    style = "text-align:left;vertical-align:top;padding:4px 10px"
    return f'<td style="{style};background:{tint}">{text}</td>'
