"""The labelling card: two answers side by side, one press, on disk before the next pair shows.

`Labeller` holds the queue and the log; `choose`, `undo` and `label_with` drive it without a front end.
`show` puts plain ipywidgets (7.7 and 8 alike) on top: they call the very same methods.  How the card looks and what
it does in the browser stands in `card`, what it has learned from the choices in `judge`.
"""

import contextlib
import json
import random
import re
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ..engine.files import shown, storable
from ..lesson import feedback
from ..lesson.feedback import PAIR_FIELDS, WorkbookError
from ..lesson.pairs import check_known
from . import card, judge
from .card import (  # chapters and the chat take these from here
    BOX,
    CONTROLS,
    DOUBLE_CLICK,
    STRENGTHS,
    TEXT,
    WORDS,
    answer_html,
    escape,
    key_guard,
    prompt_html,
)

__all__ = ["BOX", "CONTROLS", "TEXT", "answer_html", "escape", "key_guard", "prompt_html", "Labeller", "PAIR_FIELDS"]

RANDOM_SHARE = 0.2  # of the pairs keep a random place when a function or the card's doubt orders the rest
REPEAT_AFTER = 5  # pairs at least between a pair and its repeat
LEAST_SURE = "least sure"


def left_side(pair_id, seed):
    """Which response of a pair stands on the left, "a" or "b": random, but always the same for a seed."""
    return random.Random(f"{seed} {pair_id}").choice("ab")


def other(side):
    return "b" if side == "a" else "a"


def ordered(pairs, order, seed):
    """The pairs in the order in which they are asked.

    order: "given"; "random"; "least sure", which begins as "random" and is then chosen pair by pair; a list of
    indices; or a function of a pair, such as the size of a reward model's margin, whose smallest values come first
    while `RANDOM_SHARE` of the places are random.
    """
    rng = random.Random(f"{seed} order")
    if callable(order):
        queue = sorted(pairs, key=order)
        drawn = rng.sample(range(len(queue)), round(RANDOM_SHARE * len(queue)))
        rest = iter([pair for i, pair in enumerate(queue) if i not in drawn])
        every = round(1 / RANDOM_SHARE)
        places = set(range(every - 1, len(queue), every)[: len(drawn)])
        chance = iter([queue[i] for i in drawn])
        return [next(chance) if i in places else next(rest, None) or next(chance) for i in range(len(queue))]
    if isinstance(order, str) and order in ("random", LEAST_SURE):
        return rng.sample(pairs, len(pairs))
    if isinstance(order, str) and order == "given":
        return list(pairs)
    if not isinstance(order, str) and all(isinstance(i, int) and 0 <= i < len(pairs) for i in order):
        return [pairs[i] for i in dict.fromkeys(order)]
    raise WorkbookError(
        f"The order {order!r} is not 'given', 'random', 'least sure', a list of indices below {len(pairs)} "
        "or a function of a pair."
    )


def with_repeats(pairs, share, seed):
    """The queue [(pair, is_repeat)]: a share of the pairs comes again, at least REPEAT_AFTER pairs later."""
    rng, n = random.Random(f"{seed} repeats"), len(pairs)
    early = range(max(0, n - REPEAT_AFTER))
    places = [(float(i), pair, False) for i, pair in enumerate(pairs)]
    for i in rng.sample(early, min(round(share * n), len(early))):
        places.append((i + rng.randint(REPEAT_AFTER, 3 * REPEAT_AFTER) + 0.5, pairs[i], True))
    return [(pair, again) for _, pair, again in sorted(places, key=lambda p: p[0])]


def check_pairs(pairs):
    """Raise WorkbookError unless `pairs` is a list of distinct pairs with all their texts."""
    pairs, ids = list(pairs), set()
    if not pairs:
        raise WorkbookError("There are no pairs to label. Chapter 02 makes some: run it, or check the path.")
    for n, pair in enumerate(pairs, 1):
        wrong = [f for f in PAIR_FIELDS if not isinstance(pair, dict) or not isinstance(pair.get(f), str)]
        if wrong:
            raise WorkbookError(
                f"Pair {n} has no text in its field {wrong[0]!r}. A pair needs {', '.join(PAIR_FIELDS)}."
            )
        if storable(pair["pair_id"]) != pair["pair_id"]:
            raise WorkbookError(f"Pair {n} has half a character in its pair_id, {shown(pair['pair_id'])}.")
        if pair["pair_id"] in ids:
            raise WorkbookError(f"Pair {n} has the pair_id of an earlier pair, {shown(pair['pair_id'])}.")
        ids.add(pair["pair_id"])
    return pairs


class Labeller:
    """Ask which answer of each pair is better, and log every choice to `path` at once.

    Making it again with the same pairs and path goes on where the log ends; each `annotator` has a
    queue of their own.  order: see `ordered`.  repeat_share: of the pairs come back with sides flipped.
    A press sooner than min_seconds after a pair appears does not count.  ask_strength, ask_note: whether the card
    also asks how much better, and why.  ask_edit: whether the better answer can be edited, which makes a demonstration
    and two pairs.  hotkeys: whether single keys label while the focus is in the card.
    axes: a function (prompt, answer) -> dict of numbers that the card may learn your taste in, besides what can be
    counted of any text.  learn: whether the card says what it has learned.  who: in a blind test, who wrote the
    responses a and b of every pair, two names; they are told at the end.  served: whether the card stands on a page
    of `served`, where no cells follow that could run with the labels.  whose: whose labels of this log what follows
    learns from, as `yours.whose` gives it; "" where it learns from what is labelled in this card.
    """

    def __init__(
        self,
        pairs,
        path,
        *,
        annotator="you",
        seed=0,
        order="given",
        repeat_share=0.1,
        min_seconds=0.4,
        ask_strength=False,
        ask_note=False,
        hotkeys=True,
        axes=None,
        learn=True,
        who=None,
        ask_edit=False,
        served=False,
        whose="",
    ):
        if not isinstance(annotator, str) or not annotator.strip():
            raise WorkbookError('The annotator needs a name, such as "you".')
        self.path, self.annotator, self.seed, self.order = Path(path), annotator, seed, order
        self.pairs = ordered(check_pairs(pairs), order, seed)
        self.queue = with_repeats(self.pairs, repeat_share, seed)
        self.min_seconds, self.hotkeys = min_seconds, hotkeys
        self.ask_strength, self.ask_note, self.ask_edit = ask_strength, ask_note, ask_edit
        self.axes, self.learns, self._judge, self.who, self.ended = axes, learn and not who, None, who, False
        self.served, self.shut, self.words = served, "", card.SERVED if served else card.SAY
        self.whose, self.people, self.page, self.stored = whose, Counter(), "", []  # page: the one that is answered
        self.errors, self.warnings, self.pace, self.front, self.labels = [], [], [], [], []
        self.follower = feedback.Follower(path, annotator)
        self.widget: Any = None
        self.shown_at, self.on_screen, self.said, self.replies = time.monotonic(), None, ("", False), 0
        self.names = [card.token(*feedback.pair_key(pair), again) for pair, again in self.queue]
        self.log = card.token(str(self.path.absolute()), annotator, seed, *self.names)
        self.acks, self.refused = [], 0  # refused: the reply that said last that something was not saved
        self.drafts, self.drafted, self.again = {}, None, ("", "")  # edits not saved: {(item, side): text}
        self.given_back = ""  # the note
        self.lock = threading.RLock()  # JupyterLab 4.4 on sends what widgets say to a thread beside the cells
        self.reload()
        if axes:
            self.opinion  # now, so that a function that can't be used is told before anybody labels

    # ------------------------------------------------------------ state: what the log says

    def reload(self):
        """Take the state from the log: the labels of this annotator for the pairs of this queue."""
        if self.follower.annotator != self.annotator:
            self.follower, self.labels = feedback.Follower(self.path, self.annotator), []
        before = {x["event_id"] for x in self.labels}
        events, self.warnings = self.follower.read()
        self.size = self.follower.size
        asked = {feedback.pair_key(pair) for pair, _ in self.queue}
        mine = feedback.replay(events)
        self.ids = {x["event_id"]: place for place, x in enumerate(events)}
        gone = len(before - set(self.ids))
        if gone:
            self.warnings = [*self.warnings, card.GONE.replace("{n}", f"{gone} choice{'s' * (gone > 1)}")]
        ids = {f"{pair['pair_id']} edited" for pair, _ in self.queue}
        self.edits = [x for x in mine if x.get("made") == "edit" and x["pair_id"] in ids]
        here = {x["event_id"] for x in self.edits}
        self.elsewhere = [x for x in mine if feedback.pair_key(x) not in asked and x["event_id"] not in here]
        self._set([x for x in mine if feedback.pair_key(x) in asked])

    def _set(self, labels):
        self.labels, self.judged, self.picked = labels, {}, None
        self.place = {}  # of each label among all, to know when its pair may come again
        for i, x in enumerate(labels):
            key = (*feedback.pair_key(x), bool(x.get("is_repeat")))
            self.judged[key], self.place[key] = x, i

    def _open(self, pair, again):
        """Is this item of the queue still to be judged?  The repeat of a skipped pair is not."""
        first = self.judged.get((*feedback.pair_key(pair), False))
        again = again and first is not None and first["choice"] != "skip"
        return first is None or (again and (*feedback.pair_key(pair), True) not in self.judged)

    def _due(self, pair, again):
        """Has it been long enough since this pair was judged the first time?"""
        first = self.place.get((*feedback.pair_key(pair), False))
        return not again or first is None or len(self.labels) - first > REPEAT_AFTER

    def _waiting(self):
        """The places of the queue that are still to be judged, in order."""
        return (i for i, item in enumerate(self.queue) if self._open(*item))

    def _pick(self):
        """The place in the queue of the item to judge now, or None."""
        asked = next((i for i in self.front if self._open(*self.queue[i])), None)
        if asked is None and self.order == LEAST_SURE:
            asked = self._least_sure()
        if asked is None:
            asked = next((i for i in self._waiting() if self._due(*self.queue[i])), None)
        return next(self._waiting(), None) if asked is None else asked

    def _least_sure(self):
        """The place of a pair whose answer would teach the most, or by chance another; None when a repeat is due."""
        waiting = list(self._waiting())
        fresh = [i for i in waiting if not self.queue[i][1]]
        due = [i for i in waiting if self.queue[i][1] and self._due(*self.queue[i])]
        rng = random.Random(f"{self.seed} {len(self.labels)} next")
        if due or not fresh or len(self.opinion.t) < judge.FEWEST or rng.random() < RANDOM_SHARE:
            return (due or fresh or [None])[0]  # the queue is in random order
        return fresh[int(self.opinion.doubts([self.queue[i][0] for i in fresh]).argmax())]

    @property
    def opinion(self):
        """What was learned from the labels that stand: a `judge.Judge`, fitted anew when they change."""
        if self._judge is None:
            try:
                self._judge, self.learned = judge.Judge(self.pairs, self.axes), None
            except Exception as e:
                raise WorkbookError(
                    f"The function axes can't be used, {type(e).__name__}: {e}. It needs to give a dict of numbers for "
                    "each prompt and answer."
                ) from e
        if self.learned is not self.labels:
            self._judge.learn(self.labels)
            self.learned = self.labels
        return self._judge

    @property
    def current(self):
        """The item to judge now: {"pair", "left": "a" or "b", "is_repeat"}; None when all is done."""
        if self.picked is None:
            self.picked = (self._pick(),)
        place = self.picked[0]
        return None if place is None else self._item(place)

    def _item(self, place):
        pair, again = self.queue[place]
        first = self.judged.get((*feedback.pair_key(pair), False)) if again else None
        left = other(first["left"]) if first else left_side(pair["pair_id"], self.seed)
        return {"pair": pair, "left": left, "is_repeat": first is not None, "name": self.names[place]}

    @property
    def done(self):
        return self.current is None

    def choose(self, choice, strength=None, note="", seconds=None, reasons=(), event_id=None):
        """Log a choice about the current pair and go on; returns the label.

        choice: "a" or "b" for the response *shown* as A (left) or B (right), or "tie", "both_bad", "skip".
        The log holds the pair's own a or b, so it does not matter how sides were shuffled.
        """
        item = self.current
        if item is None:
            raise WorkbookError("All pairs are labelled; there is nothing left to choose.")
        if choice not in WORDS:
            raise WorkbookError(f"The choice {shown(choice)} is not one of {', '.join(WORDS)}.")
        own = {"a": item["left"], "b": other(item["left"])}.get(choice, choice)
        label = feedback.label_event(
            item["pair"],
            item["left"],
            own,
            self.annotator,
            strength=strength,
            note=note,
            is_repeat=item["is_repeat"],
            seconds=seconds,
            reasons=reasons,
        )
        label["event_id"] = event_id or label["event_id"]
        self._append(label)
        return label

    def edit(self, side, text, seconds=None, **more):
        """The answer *shown* as A or B ("a", "b") is the better one, and better still as `text`; returns both labels.

        The second of them is that of `feedback.edit_event`.  It is written first, so that it is there if the other is;
        one that a crash left alone is taken back.  more: as for `choose`.
        """
        item = self.current
        if item is None or side not in ("a", "b"):
            raise WorkbookError("First say which answer is the better one, A or B, then edit it and save.")
        own = item["left"] if side == "a" else other(item["left"])
        edited = feedback.edit_event(item["pair"], own, text, self.annotator, seconds=seconds)
        self._ask(self.names.index(item["name"]))  # this pair, whatever else is found in the log now
        if not item["is_repeat"]:
            self._undo_edits(item["pair"]["pair_id"])
        self._append(edited)
        return self.choose(side, seconds=seconds, **more), edited

    def _undo_edits(self, pair_id, label=None):
        """Take back what was edited of a pair, or of that what came with one label of it; returns it."""
        since, upto = -1, len(self.ids)
        if label:
            upto = self.ids[label["event_id"]]
            others = [self.ids[x["event_id"]] for x in self.labels if x["pair_id"] == pair_id]
            since = max((place for place in others if place < upto), default=-1)
        edits = [x for x in self.edits if x["pair_id"] == f"{pair_id} edited"]
        edits = [x for x in edits if since < self.ids[x["event_id"]] < upto]
        for edited in edits:
            self._append(feedback.undo_event(edited))
        return edits

    def undo(self, event_id=""):
        """Take the latest label back, or the one of that id, and ask about its pair again; returns it, or None.

        What was edited of that pair is taken back with it.
        """
        label = next((x for x in reversed(self.labels) if x["event_id"] == (event_id or x["event_id"])), None)
        if label is None:
            return None
        undone = card.token(*feedback.pair_key(label), label["is_repeat"])
        for edited in self._undo_edits(label["pair_id"], label):
            self.again = undone, "a" if label["choice"] == label["left"] else "b"
            self.drafts[self.again] = edited["response_a"]
        self._append(feedback.undo_event(label))
        if undone in self.names:
            self._ask(self.names.index(undone))  # now, should the order have changed since
        return label

    def _ask(self, place):
        """Ask about this place of the queue next."""
        self.front, self.picked = [place, *(i for i in self.front if i != place)], None

    def _append(self, event):
        start, end = feedback.append_event(self.path, event)
        self.ids[event["event_id"]] = len(self.ids)
        if start != self.size:  # somebody else wrote too
            return self.reload()
        self.size = end
        gone, new = event.get("undoes"), [event] if event["event"] == "label" else []
        self.edits = [x for x in self.edits if x["event_id"] != gone] + [x for x in new if "made" in x]
        self._set([x for x in self.labels if x["event_id"] != gone] + [x for x in new if "made" not in x])

    def label_with(self, annotator, n=None):
        """A simulated annotator judges `n` pairs (default: all) on the same path; returns how many it judged.

        `annotator` has a name, which the log keeps; choose(prompt, left, right): "left", "right", "tie".  Raises
        WorkbookError, before it is asked anything, where it knows nothing of a prompt (see `tasks.annotator_for`).
        """
        check_known(annotator, [pair["prompt"] for pair, again in self.queue if not again])
        mine, self.annotator, made = self.annotator, annotator.name, 0
        try:
            self.reload()
            while not self.done and (n is None or made < n):
                pair, left = self.current["pair"], self.current["left"]
                texts = pair["response_a"], pair["response_b"]
                side = annotator.choose(pair["prompt"], *(texts if left == "a" else texts[::-1]))
                self.choose({"left": "a", "right": "b"}.get(side, side))
                made += 1
        finally:
            self.annotator = mine
            self.reload()
        return made

    def summary(self):
        """`feedback.summary` of this annotator's labels."""
        return feedback.summary(self.labels)

    def agreement(self):
        """With whom of the same log one chose alike: [(name, pairs judged alike, pairs judged by both)].

        The first label of each pair by each counts, unless one of them skipped it.
        """
        labels = feedback.replay(feedback.read_events(self.path)[0]) if self.path.exists() else []
        first = feedback.first_choices(labels)
        mine = {key: x for key, x in first.pop(self.annotator, {}).items() if (*key, False) in self.judged}
        both = {name: [(x, mine[key]) for key, x in theirs.items() if key in mine] for name, theirs in first.items()}
        return [(name, sum(x == y for x, y in some), len(some)) for name, some in both.items() if some]

    def blind_result(self):
        """Of a blind test: sentences, and for each pair (prompt, who was A, who was B, who was chosen)."""
        from ..lesson import loop

        a, b = self.who
        first = [x for x, earlier in feedback.with_earlier(self.labels) if not earlier and x["choice"] != "skip"]
        rows, wins = [], Counter(x["choice"] for x in first)
        for x in first:
            sides = (a, b) if x["left"] == "a" else (b, a)
            rows.append((x["prompt"], *sides, {"a": a, "b": b}.get(x["choice"], WORDS[x["choice"]])))
        if not first:
            return ["Nothing was judged, so there is no result."], rows
        found = loop.verdict(wins["a"], len(first) - wins["a"] - wins["b"], wins["b"])
        return card.blind_words(a, b, found), rows

    def simulated_note(self, name, enough=feedback.ENOUGH):
        """Display a note that what follows comes from `name`, a simulated annotator, and how to change that.

        enough: from how many labels on the reader's own take its place.
        """
        from IPython.display import HTML, display

        whose = "" if self.whose in ("you", card.FILE) else self.whose
        display(HTML(card.simulated_html(name, self._given(), enough, whose)))

    # ------------------------------------------------------------ the widget

    def show(self):
        """Display the card.  Run the cell again after a restart: it goes on at the right pair."""
        from IPython.display import HTML, display

        widget = self.ready()
        display(HTML(card.FALLBACK))
        display(widget)

    def ready(self, message=""):
        """The card as a widget, at the right pair."""
        with self.lock:
            if self.widget is None:
                self._build()
            self.people = self._others() if self.whose else Counter()
            self.store.value = self._stored()
            self._refresh(" ".join([message, *self.warnings]).strip())
        return self.widget

    def shut_down(self, words):
        """Ask nothing more, and say why; what the browser has on the way is still taken."""
        self.shut = words
        self._refresh()

    def _build(self):
        import ipywidgets as W

        wide = {"width": "auto"}
        self.prompt, self.progress, self.status, self.learnt = (W.HTML() for _ in range(4))
        self.answers, self.store = (W.HTML(), W.HTML()), W.HTML(layout=W.Layout(display="none"))
        self.buttons = {c: W.Button(description=w, layout=wide) for c, w in {**WORDS, **card.MORE}.items()}
        for name, button in self.buttons.items():
            button.on_click(lambda _, name=name: self._click(name))
            for one in ("rlhf-press", f"rlhf-press-{name}", *(["rlhf-undo"] if name == "undo" else [])):
                button.add_class(one)
        self.marks = W.ToggleButton(value=True, description="Mark what differs", layout=wide)
        self.marks.add_class("rlhf-press-marks")
        self.marks.observe(lambda _: self._mark(), "value")
        self.strength = W.ToggleButtons(options=STRENGTHS, value=0, description="How much better?")
        self.strength.style.button_width = "auto"
        self.strength.add_class("rlhf-strength")
        self.reasons = {r: W.ToggleButton(description=r, layout=wide) for r in card.REASONS}
        self.note = W.Textarea(placeholder="Why? (optional)", description="Note", rows=2, layout=W.Layout(width="auto"))
        self.note.style.description_width = "auto"
        self.note.add_class("rlhf-note")
        self.wire = W.Text(layout=W.Layout(display="none"))  # what the browser has to say
        self.wire.observe(self._deliver, "value")
        for widget, name in ((self.prompt, "prompt"), (self.store, "store"), (self.wire, "wire")):
            widget.add_class(f"rlhf-{name}")
        for widget, side in zip(self.answers, "ab"):
            widget.add_class("rlhf-card")
            widget.add_class(f"rlhf-card-{side}")
        for reason in self.reasons.values():
            reason.add_class("rlhf-reason")

        def row(*widgets):
            return W.HBox(widgets, layout=W.Layout(flex_flow="row wrap", grid_gap="8px", overflow="visible"))

        sides = [
            W.VBox(
                [answer, self.buttons[side]],
                layout=W.Layout(grid_gap="8px", overflow="visible", justify_content="space-between"),
            )
            for answer, side in zip(self.answers, "ab")
        ]
        self.grid = W.GridBox(
            sides,
            layout=W.Layout(
                grid_template_columns="repeat(auto-fit, minmax(min(100%, 15em), 1fr))",
                grid_gap="14px",
                overflow="visible",
            ),
        )
        extra = [self.strength] if self.ask_strength else []
        extra += [row(*self.reasons.values()), self.note] if self.ask_note else []
        extra += [self._editor(W, row)] if self.ask_edit else []
        tie, both_bad, skip, undo, go_on, more = (
            self.buttons[c] for c in ("tie", "both_bad", "skip", "undo", "continue", "more")
        )
        presses = row(go_on, more, tie, both_bad, skip, self.marks, undo)
        self.judging = [self.grid, *extra, tie, both_bad, skip, self.marks]
        self.widget = W.VBox(
            [self.prompt, self.grid, *extra, presses, self.status, self.progress, self.learnt, self.wire, self.store]
            + [card.card_script(self.hotkeys, self.words, whole=self.served)],
            layout=W.Layout(max_width="60em", grid_gap="10px", overflow="visible"),
        )
        self.widget.add_class("rlhf-labeller")

    def _editor(self, W, row):
        """The better answer in a box to edit, which a press on A or B opens."""
        self.better = W.ToggleButtons(options=[("no", ""), ("A", "a"), ("B", "b")], description="Edit the better one?")
        self.better.style.button_width = "auto"
        self.better.add_class("rlhf-edit")
        self.text = W.Textarea(description="Edited", rows=4, layout=W.Layout(width="auto"))
        self.text.style.description_width = "auto"
        self.text.add_class("rlhf-edited")
        self.save = W.Button(description="Save the edit", layout=W.Layout(width="auto"))
        for one in ("rlhf-press", "rlhf-press-edit"):
            self.save.add_class(one)
        self.better.observe(lambda change: self._open_editor(change["new"]), "value")
        self.save.on_click(lambda _: self._save_edit())
        self._open_editor("")
        return W.VBox([self.better, self.text, row(self.save)], layout=W.Layout(grid_gap="8px", overflow="visible"))

    def _open_editor(self, side):
        """Show the answer on this side, or what was made of it before, in a field to edit; "" puts the field away."""
        for widget in (self.text, self.save):
            widget.layout.display = None if side else "none"
        if self.drafted and self.text.value.strip():
            self.drafts[self.drafted] = self.text.value
        self.drafted = (self.current["name"], side) if side and self.current else None
        if self.drafted:
            answer = self._texts(self.current)["ab".index(side)]
            self.text.value = self.drafts.get(self.drafted, answer)

    def _save_edit(self):
        """What the button does where the card's script does not run."""
        with self._explained():
            edit = {"side": self.better.value, "text": self.text.value} | self._typed()
            self._answer(self._press("edit", time.monotonic() - self.shown_at, **edit))

    def _mark(self):
        (self.widget.remove_class if self.marks.value else self.widget.add_class)("rlhf-unmarked")

    def _click(self, name):
        """What a button does where the card's script does not run: guard, choose, show the next pair."""
        waited = time.monotonic() - self.shown_at
        if waited < DOUBLE_CLICK:
            return self._say(*self.said)
        with self._explained():
            self._answer(self._press(name, waited, **self._typed()))

    def _answer(self, words, warned=()):
        """Show the current pair, and say what was done and what was found in the log meanwhile."""
        words = " ".join([words, *dict.fromkeys([*warned, *self.warnings])])
        self.warnings = []
        self._refresh(words)

    def _typed(self):
        """What else the widgets hold that goes with a choice."""
        reasons = [name for name, chip in self.reasons.items() if chip.value]
        return {"note": self.note.value, "strength": self.strength.value, "reasons": reasons}

    @contextlib.contextmanager
    def _explained(self):
        """Errors are shown and kept, since a front end hides them; whether the label was saved is told."""
        with self.lock:
            before = set(self.ids)
            try:
                yield before
            except Exception as e:
                e.__traceback__ = e.__context__ = None  # they hold all that was read; a page may try again for hours
                self.errors = [*self.errors[-19:], e]
                words = str(e) if isinstance(e, WorkbookError) else f"{type(e).__name__}: {e}"
                words = card.without_cell(words) if self.served else words
                saved = "Saved, but something else went wrong: " if self.ids.keys() - before else ""
                words = saved + (words if saved or isinstance(e, WorkbookError) else f"Not saved, {words}")
                self._say(self.words["wrong"] + words, wrong=True)
                self.refused = self.replies
            finally:
                self.page = ""

    def _press(self, name, seconds, note="", strength=0, reasons=(), event_id=None, side="", text="", of=""):
        """Do what was pressed, `seconds` after the pair appeared; says what was done.

        of: the id of the choice that an "undo" takes back, where that was still on its way.
        """
        if name == "undo":
            label = self.undo(of)
            if label:
                self._give_back(label)
            self.ended = False
            return "Took the last label back." if label else "There is nothing to take back."
        if name in ("continue", "more"):
            self.ended = name == "continue"
            return self.words["below"] if self.ended else ""
        if self.done:
            return "Nothing is left to label here."
        if seconds < self.min_seconds and name != "edit":  # which nobody does in haste
            return self.words["hasty"].replace("{s}", f"{self.min_seconds:g}")
        more = {"strength": strength or None, "note": note.strip(), "reasons": reasons}
        more |= {"seconds": round(seconds, 2), "event_id": event_id}
        item = self.current["name"]
        if name == "edit":
            self.edit(side, text, **more)
        else:
            self.choose(name, **more)
        self.drafts = {place: words for place, words in self.drafts.items() if place[0] != item}
        if self.drafted and self.drafted[0] == item:
            self.drafted = None
        self.pace.append(seconds)
        if self.note.value.strip() in (note.strip(), self.given_back):  # while it was busy another may have been begun
            self.note.value = ""
        self.strength.value = 0
        for chip in self.reasons.values():
            chip.value = False
        return "Saved: the edit, as a demonstration and two pairs." if name == "edit" else f"Saved: {WORDS[name]}."

    def _deliver(self, change):
        """Take what the browser sent: every choice that was not confirmed yet, with the time that it measured."""
        failed = []
        with self.lock:
            with self._explained() as before:
                self._take_all(json.loads(change["new"]), before, failed)
            for one in failed:
                with self._explained():
                    self._ask_again(one)

    def _take_all(self, sent, before, failed):
        """Take each choice of a message, up to one that `failed`; before: the ids of what was there before it."""
        self.page = sent.get("page", "") if re.fullmatch("[0-9a-f]{32}", str(sent.get("page"))) else ""
        if int(sent.get("heard") or self.refused) < self.refused:
            return  # it was sent before the page knew that a choice was not saved, and comes again
        if self.path.exists() and self.path.stat().st_size != self.size:
            try:
                self.reload()
            except WorkbookError as e:
                raise WorkbookError(f"{e} {card.KEPT}") from None
        said, warned = [], self.warnings  # saving may read the log anew, and then they are no longer there
        for one in sent["choices"]:
            if not re.fullmatch("[0-9a-f]{32}", one["id"]):
                raise ValueError("a choice has no proper id")
            if one["id"] not in self.acks:
                self.acks = [*self.acks[-99:], one["id"]]  # an answer, whatever it is
                before.update(self.ids)
                try:
                    said.append(self._take(one))
                except Exception:
                    failed += [one] if one["id"] not in self.ids else []
                    raise
        if sent.get("looking") in self.names and self._open(*self.queue[self.names.index(sent["looking"])]):
            self._ask(self.names.index(sent["looking"]))  # what is on the screen stays there
        if said:
            self._answer(said[0] if len(said) == 1 else card.many_words(said), warned)
        elif self.current != self.on_screen and not self.said[1]:
            self._refresh(self.said[0])

    def _ask_again(self, one):
        """Show the pair of a choice that was not saved, from which the page may have gone on, and what was typed."""
        for answer in self.answers:
            answer.value = ""  # else what was on the screen before would not be sent again
        if one["name"] == "edit":
            self.drafts[one["item"], one["side"]] = one["text"]
        self._draw()
        self._give_back(one)

    def _give_back(self, label):
        """Note, strength and reasons of a choice that is to be made again."""
        self.note.value, self.strength.value = label.get("note", ""), label.get("strength") or 0
        self.given_back = self.note.value.strip()
        for reason, chip in self.reasons.items():
            chip.value = reason in label.get("reasons", ())

    def _take(self, one):
        """One entry of the browser's outbox; says what was done."""
        if one["id"] in self.ids:
            return "Saved."  # it came twice
        if one["name"] in (*WORDS, "edit"):
            if one["item"] not in self.names:
                return card.NOT_ASKED
            place = self.names.index(one["item"])
            if not self._open(*self.queue[place]):
                return card.LABELLED
            self._ask(place)
        more = {k: one[k] for k in ("note", "strength", "reasons", "side", "text", "of") if k in one}
        return self._press(one["name"], float(one["seconds"]), **more, event_id=one["id"])

    def _refresh(self, message=""):
        """Show the current pair, and say something."""
        self._draw()
        self._say(message)

    def _draw(self):
        item = None if self.ended or self.shut else self.current
        known = {"log": self.log, "min_seconds": self.min_seconds, "serial": self.replies}
        for widget in self.judging:
            widget.layout.display = None if item else "none"
        enough = not self.served and (self.done or (self._given() >= feedback.ENOUGH and not self.who))
        self.buttons["continue"].layout.display = None if enough and not self.ended else "none"
        self.buttons["more"].layout.display = None if self.ended and not self.done else "none"
        self.buttons["undo"].layout.display = "none" if self.shut else None
        if item:
            texts = self._texts(item)
            self.prompt.value = prompt_html(item["pair"]["prompt"], item["name"], **known)
            for widget, name, text, others in zip(self.answers, "AB", texts, texts[::-1]):
                widget.value = answer_html(name, text, others)
        else:
            self.prompt.value = card.end_html(self.done, self.shut, **known)
            self.answers[0].value = self.answers[1].value = ""
        done, total = self._counts()
        judged = [self.names[i] for i in self.stored if not self._open(*self.queue[i])]
        self.progress.value = card.progress_html(done, total, self.pace, self._repeats(), judged)
        learnt = self._learnt() if self.learns else ""
        self.learnt.value = "" if self.shut else learnt + ("" if item else self._end())
        if item != self.on_screen:
            if self.ask_edit:
                undone, side = self.again
                self.better.value = ""
                self.better.value = side if item and item["name"] == undone else ""
                self.again = "", ""
            self.on_screen, self.shown_at = item, time.monotonic()

    def _texts(self, item):
        texts = item["pair"]["response_a"], item["pair"]["response_b"]
        return texts if item["left"] == "a" else texts[::-1]

    def _stored(self):
        """What the browser shows while the kernel is busy: the pairs that nobody has judged yet, in their order."""
        rest = {"log": self.log, "min_seconds": self.min_seconds}
        places = [i for i, (pair, again) in enumerate(self.queue) if not again and self._open(pair, again)]
        items = (self._item(i) for i in places)
        page = card.store_html((x["name"], x["pair"]["prompt"], *self._texts(x), rest) for x in items)
        self.stored = places[: page.count("<template")]
        return page

    def _end(self):
        return card.summary_html(self.summary(), self.agreement(), self.blind_result() if self.who else None)

    def _learnt(self):
        opinion = self.opinion
        return card.learnt_html(
            opinion.opinions(), len(opinion.t), opinion.foreseen(), "" if self.served else self._follows(), judge.FEWEST
        )

    def _follows(self):
        """Whose labels what follows learns from, in a sentence."""
        given = self._given()
        if not self.whose:
            return card.follows_words(given, given if self.done else min(feedback.ENOUGH, len(self.pairs)))
        others = sum(self.people.values()) if self.whose == "you" else 0
        return card.follows_words(given, feedback.ENOUGH, others, self.whose, self.people[self.whose])

    def _given(self):
        """How many labels this annotator gave, skipped pairs left out: in this log, or where `whose` is "" here."""
        labels = [*self.labels, *self.edits, *self.elsewhere] if self.whose else self.labels
        return sum(x["choice"] != "skip" for x in labels)

    def _others(self):
        """How many labels the log has of each of the other people, as `_given` counts them: a Counter by name."""
        labels = feedback.replay(feedback.read_events(self.path)[0]) if self.path.exists() else []
        some = [x for x in labels if x["choice"] != "skip" and not feedback.is_simulated(x)]
        return Counter(x["annotator"] for x in some if x["annotator"] != self.annotator)

    def _counts(self):
        left = sum(self._open(pair, again) for pair, again in self.queue)
        return len(self.labels), len(self.labels) + left

    def _repeats(self):
        """How many of all that is counted are repeats, done or still to come."""
        return sum(bool(x["is_repeat"]) for x in self.labels) + sum(
            again and self._open(pair, again) for pair, again in self.queue
        )

    def _say(self, message, wrong=False):
        self.said, self.replies = (message, wrong), self.replies + 1
        self.status.value = card.status_html(message, self.replies, self.acks, wrong, self.page)
