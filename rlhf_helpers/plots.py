"""One look for every figure: Okabe and Ito's colour-blind-safe colours on a light card, so that a
figure reads the same on a light page and on a dark one."""

import matplotlib.pyplot as plt
from IPython.display import HTML, display

from .labeller import escape

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY, INK = "#CC79A7", "#56B4E9", "#8A8A8A", "#222222"


def use_style():
    """Set matplotlib's defaults for the workbook.  Call it once, in the set-up cell."""
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


def live_figure(figure):
    """Show `figure` once and return a function that redraws it in place, for curves that grow."""
    handle = display(figure, display_id=True)
    plt.close(figure)  # or the cell would show it a second time at its end
    return lambda: handle.update(figure)


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


def text_table(columns, rows):
    """An HTML table of texts; whatever they contain is shown as typed, never run."""
    style = "text-align:left;vertical-align:top;white-space:pre-wrap;padding:4px 10px"
    shown = [[escape(str(cell)) for cell in row] for row in [columns, *rows]]
    head, *body = [
        "<tr>" + "".join(f'<{tag} style="{style}">{cell}</{tag}>' for cell in row) + "</tr>"
        for tag, row in zip(["th"] + ["td"] * len(rows), shown)
    ]
    return HTML(f'<table class="tex2jax_ignore"><thead>{head}</thead><tbody>{"".join(body)}</tbody></table>')
