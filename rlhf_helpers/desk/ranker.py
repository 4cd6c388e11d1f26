"""The card for ranking: up to four answers, pressed from the best to the worst; the log keeps the implied pairs."""

import random
import time
from pathlib import Path
from typing import Any

from ..engine.files import WorkbookError, shown
from ..lesson import feedback
from . import card
from .card import DOUBLE_CLICK, answer_html

LETTERS = "ABCD"


def check_items(items):
    """Raise WorkbookError unless `items` are distinct, with two to four texts as answers each."""
    items, ids = list(items), set()
    for n, item in enumerate(items, 1):
        texts = item.get("responses") if isinstance(item, dict) else None
        texts = list(texts) if isinstance(texts, list | tuple) else []
        fine = 2 <= len(texts) <= len(LETTERS)
        if not fine or not all(isinstance(t, str) for t in (item.get("rank_id"), item.get("prompt"), *texts)):
            raise WorkbookError(
                f"Item {n} can't be ranked: it needs a rank_id, a prompt and responses, a list of two to four texts."
            )
        if item["rank_id"] in ids:
            raise WorkbookError(f"Item {n} has the rank_id of an earlier item, {shown(item['rank_id'])}.")
        ids.add(item["rank_id"])
    if not items:
        raise WorkbookError("There is nothing to rank. Give at least one prompt with two to four answers.")
    return items


class Ranker:
    """Ask for the order of the answers of each item, {"rank_id", "prompt", "responses"}, and log the implied pairs.

    Making it again with the same items and path goes on where the log ends.  `rank` and `undo` work without a front
    end; `show` puts plain ipywidgets on top.
    """

    def __init__(self, items, path, *, annotator="you", seed=0):
        self.items, self.path, self.annotator, self.seed = check_items(items), Path(path), annotator, seed
        self.widget: Any = None
        self.errors, self.pressed, self.said, self.shown_at = [], [], 0, time.monotonic()
        self.told = ("", False)
        self.reload()

    def reload(self):
        """Take the state from the log: the labels of each ranking of this annotator, by rank_id, in their order."""
        events = feedback.read_events(self.path)[0] if self.path.exists() else []
        self.groups, self.last = {}, None
        for x in feedback.replay(events):
            if x.get("made") == "ranking" and x["annotator"] == self.annotator:
                self.last = x.get("group")
                self.groups.setdefault(self.last, []).append(x)

    def ranked(self, item):
        """Are all the pairs that a ranking of this item implies in the log?"""
        texts = item["responses"]
        known = {feedback.pair_key(x) for x in self.groups.get(item["rank_id"], ())}
        asked = feedback.ranking_events(item["rank_id"], item["prompt"], texts, [1] * len(texts), self.annotator)
        return all(feedback.pair_key(x) in known for x in asked)

    @property
    def current(self):
        """The item to rank now, or None when all is done."""
        return next((item for item in self.items if not self.ranked(item)), None)

    @property
    def order(self):
        """In which places the answers of the current item are shown: their numbers, shuffled for the seed."""
        n = len(self.current["responses"])
        return random.Random(f"{self.seed} {self.current['rank_id']}").sample(range(n), n)

    def rank(self, ranks, seconds=None):
        """Log a rank for each response of the current item, 1 for the best, equal ones a tie; returns the labels."""
        item = self.current
        if item is None:
            raise WorkbookError("All is ranked; there is nothing left.")
        made = feedback.ranking_events(
            item["rank_id"], item["prompt"], item["responses"], ranks, self.annotator, seconds=seconds
        )
        self.reload()
        for earlier in self.groups.get(item["rank_id"], ()):  # a crash or a full disk left a part of it
            feedback.append_event(self.path, feedback.undo_event(earlier))
        for event in made:
            feedback.append_event(self.path, event)
        self.reload()
        return made

    def undo(self):
        """Take the latest ranking back; returns its rank_id, or None."""
        self.reload()
        last = self.last  # by the order of the lines: a clock may jump back
        for event in self.groups.get(last, ()):
            feedback.append_event(self.path, feedback.undo_event(event))
        self.reload()
        return last

    # ------------------------------------------------------------ the widget

    def show(self):
        from IPython.display import HTML, display

        if self.widget is None:
            self._build()
        self._refresh()
        display(HTML(card.FALLBACK))
        display(self.widget)

    def _build(self):
        import ipywidgets as W

        self.prompt, self.status = W.HTML(), W.HTML()
        self.answers = [W.HTML() for _ in LETTERS]
        for answer in self.answers:
            answer.add_class("rlhf-card")
        self.buttons = [W.Button(layout=W.Layout(width="auto")) for _ in LETTERS]
        self.back = W.Button(description="Undo", layout=W.Layout(width="auto"))
        self.back.add_class("rlhf-undo")
        for place, button in enumerate(self.buttons):
            button.on_click(lambda _, place=place: self._click(place))
            button.add_class("rlhf-rank")
        self.back.on_click(lambda _: self._click(None))
        self.sides = [
            W.VBox(pair, layout=W.Layout(grid_gap="8px", overflow="visible", justify_content="space-between"))
            for pair in zip(self.answers, self.buttons)
        ]
        for side in self.sides:
            side.add_class("rlhf-ranked")
        columns = "repeat(auto-fit, minmax(min(100%, 20em), 1fr))"
        grid = W.GridBox(
            self.sides, layout=W.Layout(grid_template_columns=columns, grid_gap="14px", overflow="visible")
        )
        self.widget = W.VBox(
            [self.prompt, grid, W.HBox([self.back]), self.status, card.card_script(hotkeys=False), card.patience()],
            layout=W.Layout(max_width="60em", grid_gap="10px", overflow="visible"),
        )
        self.widget.add_class("rlhf-labeller")

    def _click(self, place):
        """The next best is the answer in this place; None takes the last press back."""
        if time.monotonic() - self.shown_at < DOUBLE_CLICK:
            return self._say(*self.told)
        try:
            self._refresh(self._press(place))
        except Exception as e:  # a front end hides what a callback raises
            self.errors.append(e)
            self._say(str(e) if isinstance(e, WorkbookError) else f"Not saved, {type(e).__name__}: {e}", wrong=True)

    def _press(self, place):
        if place is None:
            if self.pressed:
                self.pressed.pop()
                return "Took the last press back."
            return "Took the last ranking back." if self.undo() else "There is nothing to take back."
        if self.current is None or place in self.pressed:
            return ""
        self.pressed.append(place)
        order, waited = self.order, round(time.monotonic() - self.shown_at, 2)
        if len(self.pressed) < len(order) - 1:
            return ""
        places = [*self.pressed, *(i for i in range(len(order)) if i not in self.pressed)]
        ranks = [places.index(order.index(i)) + 1 for i in range(len(order))]
        try:
            made = self.rank(ranks, waited)
        except Exception:
            self.pressed.pop()  # the others stand, as the buttons show
            raise
        self.pressed = []
        return f"Saved: a ranking, which is {len(made)} pairs."

    def _refresh(self, message=""):
        item, done = self.current, sum(self.ranked(x) for x in self.items)
        self.prompt.value = (
            card.prompt_html(item["prompt"], question="Press the answers in order, from the best to the worst.")
            if item
            else "<b>All is ranked. Thank you. Run the next cells.</b>"
        )
        texts = [item["responses"][i] for i in self.order] if item else []
        for place, side in enumerate(self.sides):
            side.layout.display = None if place < len(texts) else "none"
            if place < len(texts):
                rank = self.pressed.index(place) + 1 if place in self.pressed else 0
                self.answers[place].value = answer_html(LETTERS[place], texts[place])
                name = f"{LETTERS[place]} is number {rank}"
                self.buttons[place].description = name if rank else f"{LETTERS[place]} is the best that is left"
                (self.buttons[place].add_class if rank else self.buttons[place].remove_class)("mod-active")
        self._say(f"{message} {done} of {len(self.items)} ranked.".strip())
        self.shown_at = time.monotonic()

    def _say(self, message, wrong=False):
        self.said, self.told = self.said + 1, (message, wrong)
        self.status.value = card.status_html(message, self.said, wrong=wrong)
