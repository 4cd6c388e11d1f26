"""One look for every figure: Okabe and Ito's colour-blind-safe colours on a light card, so that a
figure reads the same on a light page and on a dark one."""

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from IPython.display import HTML, display
from matplotlib.container import BarContainer
from matplotlib.ticker import FixedFormatter, FuncFormatter

from .labeller import escape

# One colour for one thing, in the whole series.  Blue: the language model before feedback (sky: a reader's own, shorter
# trained).  Orange: the policy, and what its judge says of it.  Green and red: good and bad; green is also the gold
# judge, red also what fools or spoils.  Purple: choices, and the reward model made of yours.  Ink: a distance (KL), and
# what is neither the reader's nor the policy's.  Grey: rulers, people's texts, and whatever only stands beside.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY, INK = "#CC79A7", "#56B4E9", "#8A8A8A", "#222222"


def use_style():
    """Set matplotlib's defaults for the workbook, and give every figure an alternative text (see `describe`)."""
    shell = get_ipython()
    if shell:
        texts = shell.display_formatter.mimebundle_formatter
        texts.for_type(plt.Figure, lambda figure, **_: ({}, {"image/png": {"alt": describe(figure)}}))
    plt.rcParams.update(
        {
            "figure.figsize": (7.0, 3.6),
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "figure.facecolor": "#FCFCFA",
            "axes.facecolor": "#FCFCFA",
            "savefig.facecolor": "#FCFCFA",
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": "#666666",
            "xtick.color": INK,
            "ytick.color": INK,
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#E3E3DF",
            "grid.linewidth": 0.8,
            "axes.axisbelow": True,
            "lines.linewidth": 2.0,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY]),
        }
    )


def number(value):
    """A number as one would say it: three digits, and all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value + 0.0:.3g}"


def listed(names, values, most=8):
    """Names and values in words, of at most so many: "a 1, b 0.5 and more"."""
    shown = [f"{name} {number(value)}".strip() for name, value in list(zip(names, values))[:most]]
    return ", ".join(shown) + (" and more" if len(values) > most else "")


def describe_axes(ax):
    """One sentence on what is drawn in `ax`."""
    said = [" ".join(ax.get_title(loc).split()) for loc in ("left", "center", "right")]
    said += [f"{name}: {label()}" for name, label in (("x", ax.get_xlabel), ("y", ax.get_ylabel)) if label()]
    places, names = ax.get_yticks(), ax.yaxis.get_major_formatter()
    by_hand = isinstance(names, (FixedFormatter, FuncFormatter))  # words stand at the ticks, not numbers
    rows = dict(zip(places.tolist(), names.format_ticks(places))) if by_hand else {}
    dots = {}
    for line in ax.get_lines():
        try:
            y, name = np.asarray(line.get_ydata(), float), str(line.get_label())
        except (TypeError, ValueError):  # words or dates
            continue
        y = y[np.isfinite(y)]
        if line.get_linestyle() == "None" and len(set(y)) == 1 and rows.get(y[0]):  # a row of dots, with its name
            dots.setdefault(rows[y[0]], float(np.mean(line.get_xdata())))
        elif len(y) > 2:  # two points are a ruler, such as ax.axhline
            said.append(f"{'a line' if name.startswith('_') else name} from {number(y[0])} to {number(y[-1])}")
    if dots:
        said.append("dots, in the mean: " + listed(dots, dots.values(), 12))
    for bars in (c for c in ax.containers if isinstance(c, BarContainer) and len(c)):
        upright = bars.orientation == "vertical"
        axis, name = (ax.xaxis if upright else ax.yaxis), str(bars.get_label())
        ticks = [t.get_text() for t in axis.get_ticklabels()]
        sizes = [bar.get_height() if upright else bar.get_width() for bar in bars]
        ticks = ticks if len(ticks) == len(sizes) else [""] * len(sizes)
        said.append(("bars: " if name.startswith("_") else f"bars, {name}: ") + listed(ticks, sizes))
    if ax.images:
        said.append("a heat map")
    if ax.collections and not ax.get_lines():
        said.append("points")
    if not ax.axison:  # words in boxes, not a plot
        words = [t.get_text() for t in ax.texts]
        apart = "; " if any(" " in word for word in words) else ""  # of `draw_tokens` each is a token, its space a dot
        said.append(apart.join(words).replace("·", " ").replace("↵", " "))
    return "; ".join(" ".join(part.split()) for part in said if part.strip())


def describe(figure):
    """What a figure shows, in words, for those who can't see it: title, units, where each line begins and ends."""
    said = [figure.get_suptitle()]
    said += [describe_axes(ax) for ax in figure.axes if ax.get_label() != "<colorbar>"]
    return ". ".join(part for part in said if part)[:1500] or "A figure without words."


def labelled_bars(names, values, title, unit, colours=BLUE, form="{:.2f}"):
    """Show bars from left to right, each with its number on it; `colours` is one, or one for each."""
    figure, ax = plt.subplots(figsize=(7, 2.8))
    drawn = ax.bar(range(len(values)), values, color=colours)
    ax.bar_label(drawn, fmt=form, padding=2)
    ax.set_xticks(range(len(values)), names)
    ax.set(title=title, ylabel=unit, yticks=[])
    ax.margins(y=0.15)
    plt.show()


def live_figure(figure):
    """Show `figure` once and return a function that redraws it in place, for curves that grow."""
    handle = display(figure, display_id=True)
    plt.close(figure)  # or the cell would show it a second time at its end
    return lambda: handle.update(figure)


def live_losses(title, steps, names=("loss",), ruler=None):
    """Show an empty plot of losses; returns a function `grow(step, loss, line=0, last=False)` that adds a point to it.

    steps: how many there will be.  names: of the lines; with one of them there is no legend for it.  ruler: (height,
    label) of a dashed line.
    """
    figure, ax = plt.subplots()
    ax.set(xlabel="training step", ylabel="loss (nats per token)", title=title, xlim=(0, steps + 1))
    lines = [ax.plot([], [], color=colour, label=name)[0] for name, colour in zip(names, (BLUE, GREY))]
    shown = lines if len(names) > 1 else []
    if ruler:
        shown = [*shown, ax.axhline(ruler[0], color=GREY, ls="--", label=ruler[1])]
    ax.legend(handles=shown) if shown else None
    redraw, points = live_figure(figure), [[] for _ in names]

    def grow(step, loss, line=0, last=False):
        points[line].append((step + 1, loss))
        if step % 5 == 0 or last:
            for drawn, seen in zip(lines, points):
                drawn.set_data([x for x, _ in seen], [y for _, y in seen])
            highest = max(1, ruler[0] if ruler else 0, *(y for seen in points for _, y in seen))
            ax.set_ylim(0, 1.1 * highest)
            redraw()

    return grow


def live_curves(panels, updates, seen=None, against=None):
    """Curves that grow while a training runs: (draw, seen).

    panels: {name: (title, unit, colour)}, one beside the other.  `draw(update, name=number, ...)` notes the numbers of
    an update in `seen`, {"update": [...], name: [...]}, and draws about thirty times in all.  Give the `seen` of a run
    that was stopped to go on with it, and as `against` that of an earlier run, which stays behind, dotted.
    """
    seen, width = {} if seen is None else seen, max(3.4, 8.8 / len(panels))
    figure, axes = plt.subplots(1, len(panels), figsize=(width * len(panels), 2.9), squeeze=False)
    lines = {}
    for ax, (name, (title, unit, colour)) in zip(axes[0], panels.items()):
        ax.set(title=title, xlabel="update", ylabel=unit, xlim=(0, updates + 0.5))
        if against:
            ax.plot(against["update"], against[name], ":", color=GREY)
        (lines[name],) = ax.plot([], [], color=colour)
    redraw = live_figure(figure)

    def draw(update, **numbers):
        for name, number in {"update": update, **numbers}.items():
            seen.setdefault(name, []).append(number)
        if update % max(1, updates // 30) and update < updates:
            return
        for name, line in lines.items():
            line.set_data(seen["update"], seen[name])
            line.axes.relim()
            line.axes.autoscale_view(scalex=False)
        redraw()

    return draw, seen


def draw_tokens(tokens, colours, width=76):
    """A figure of `tokens` (texts), each in a box of its colour, wrapped at `width` characters.

    Spaces are shown as "·" and line breaks as "↵"; an empty token only begins a new line.  The figure is
    closed: return it or display it.
    """
    column, line, places = 0, 0, []
    for token in tokens:
        shown = token.replace(" ", "·").replace("\n", "↵")
        if column and column + len(shown) > width:
            column, line = 0, line + 1
        places.append((column, line, shown))
        column += len(shown)
        if "\n" in token or not token:
            column, line = 0, line + 1
    lines = max(y for _, y, shown in places if shown) + 1
    figure = plt.figure(figsize=(width * 0.097, lines * 0.29 + 0.06), layout="none")
    ax = figure.add_axes([0, 0, 1, 1], xlim=(-0.5, width + 0.5), ylim=(lines + 0.1, -0.1))
    ax.axis("off")
    for (x, y, shown), colour in zip(places, colours):
        ax.add_patch(
            plt.Rectangle((x + 0.06, y + 0.08), max(0, len(shown) - 0.12), 0.84, color=colour, alpha=0.35, lw=0)
        )
        ax.text(
            x + len(shown) / 2,
            y + 0.5,
            shown,
            family="monospace",
            fontsize=11,
            ha="center",
            va="center",
            parse_math=False,
        )
    plt.close(figure)
    return figure


def intervals(ax, rows, colour=INK):
    """Win rates with their intervals, a line with a dot for each, from the top down; the dashed line is a coin flip.

    rows: name -> what `loop.verdict` says.
    """
    for y, r in enumerate(rows.values()):
        ax.plot([r["low"], r["high"]], [y, y], color=colour, lw=3)
        ax.plot(r["win_rate"], y, "o", color=colour, ms=9)
    ax.axvline(0.5, color=GREY, ls="--", lw=1.5)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)


def text_table(columns, rows):
    """An HTML table of texts, shown as typed, never run; a cell without a word says that it is empty.

    JupyterLab shows the first line of a folded output, so that must not be the table.
    """
    style = "text-align:left;vertical-align:top;white-space:pre-wrap;padding:4px 10px"
    shown = [[escape(str(cell)) for cell in row] for row in [columns, *rows]]
    shown[1:] = [[cell or "<i>(empty)</i>" for cell in row] for row in shown[1:]]
    head, *body = [
        "<tr>" + "".join(f'<{tag} style="{style}">{cell}</{tag}>' for cell in row) + "</tr>"
        for tag, row in zip(["th"] + ["td"] * len(rows), shown)
    ]
    table = f'<table class="tex2jax_ignore"><thead>{head}</thead><tbody>{"".join(body)}</tbody></table>'
    return HTML(f"<!-- a table -->\n{table}")
