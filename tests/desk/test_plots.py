"""Curves that grow while a training runs."""

import matplotlib.pyplot as plt
import pytest

from rlhf_helpers.desk import plots

PANELS = {"score": ("Score", "points", plots.ORANGE), "kl": ("Distance", "nats", plots.PURPLE)}


@pytest.fixture
def shown(monkeypatch):
    """The figures that were shown, each with how often it was drawn again."""
    found = {}

    def live_figure(figure):
        found[figure] = 0
        plt.close(figure)
        return lambda: found.update({figure: found[figure] + 1})

    monkeypatch.setattr(plots, "live_figure", live_figure)
    return found


def test_curves_grow_to_the_last_update_and_are_drawn_about_thirty_times(shown):
    draw, seen = plots.live_curves(PANELS, 120)
    for update in range(1, 121):
        draw(update, score=update / 2, kl=1.0, more=0.0)
    ((figure, times),) = shown.items()
    lines = [ax.get_lines()[0] for ax in figure.axes]
    assert [line.get_xdata()[-1] for line in lines] == [120, 120] and lines[0].get_ydata()[-1] == 60
    assert 25 <= times <= 35 and seen["more"] == [0.0] * 120 and seen["update"] == list(range(1, 121))


def test_a_run_that_goes_on_keeps_its_curves_and_an_earlier_run_stays_behind(shown):
    draw, seen = plots.live_curves(PANELS, 4)
    for update in (1, 2):
        draw(update, score=1.0, kl=0.0)
    draw, again = plots.live_curves(PANELS, 4, seen, against={"update": [1, 2, 3], "score": [5.0] * 3, "kl": [6.0] * 3})
    for update in (3, 4):
        draw(update, score=2.0, kl=0.0)
    earlier, now = list(shown)[-1].axes[0].get_lines()
    assert again is seen and list(now.get_ydata()) == [1.0, 1.0, 2.0, 2.0]
    assert list(earlier.get_ydata()) == [5.0] * 3 and earlier.get_linestyle() == ":"


def test_losses_have_room_for_all_steps_from_the_start(shown):
    grow = plots.live_losses("Pre-training", 80, ruler=(7.0, "knowing nothing"))
    ((figure, _),) = shown.items()
    (ax,) = figure.axes
    limits = [ax.get_xlim()]
    for step in range(80):
        grow(step, 7.0 - step / 20, last=step == 79)
        limits.append(ax.get_xlim())
    assert set(limits) == {(0, 81)}
    assert list(ax.get_lines()[0].get_xdata()) == list(range(1, 81))


def test_a_table_names_an_answer_of_no_words_and_leaves_empty_headings():
    page = plots.text_table(["", "after"], [["Why?", ""], ["How?", "(empty)"]]).data
    assert page.count("<i>(empty)</i>") == 1 and ">(empty)</td>" in page and "></th>" in page


def test_bars_carry_their_numbers_names_and_unit(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    plots.labelled_bars(["a", "a"], [1000.4, 3.0], "What it buys", "how many", [plots.GREY, plots.PURPLE], "{:,.0f}")
    (ax,) = plt.gcf().axes
    assert [t.get_text() for t in ax.texts] == ["1,000", "3"] and "What it buys" in plots.describe(plt.gcf())
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "a"] and ax.get_ylabel() == "how many"
    plt.close()


@pytest.mark.parametrize("names, said", [(["fine-tuned", "PPO"], "dots, in the mean: fine-tuned 2, PPO 5"), (None, "")])
def test_rows_of_dots_are_told_by_their_names(names, said):
    """Those of a chapter's seeds: a dot for each, a bar at their mean; without names they are no rows."""
    figure, ax = plt.subplots()
    for y, x in enumerate(([1, 2, 3], [4, 5, 6])):
        ax.plot(x, [y] * 3, "o")
        ax.plot(sum(x) / 3, y, "|")
    ax.set_xlabel("gold")
    if names:
        ax.set_yticks(range(2), names)
    told = plots.describe(figure)
    plt.close(figure)
    assert said in told and ("a line" in told) == (not names)


def test_bars_one_behind_the_other_are_told_by_their_length():
    figure, ax = plt.subplots()
    ax.barh(["ours", "theirs"], [1.0, 2.0], label="at equal length")
    ax.barh(["ours", "theirs"], [0.25, 0.5], left=[1.0, 2.0], label="by length")
    told = plots.describe(figure)
    plt.close(figure)
    assert "at equal length: ours 1, theirs 2" in told and "by length: ours 0.25, theirs 0.5" in told


def test_words_in_boxes_are_told_as_words_and_tokens_as_their_text():
    figure, ax = plt.subplots()
    ax.axis("off")
    for y, words in enumerate(("question and answer", "one number")):
        ax.text(0, y, words)
    assert plots.describe(figure) == "question and answer; one number"
    plt.close(figure)
    assert plots.describe(plots.draw_tokens(["An", " owl"], [plots.BLUE] * 2)) == "An owl"
