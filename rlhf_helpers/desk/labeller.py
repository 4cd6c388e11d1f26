"""The pair-labelling widget: two answers side by side, one click, on disk before the next pair shows.

`Labeller` holds the queue and the log; `choose`, `undo` and `label_with` drive it without a front end.
`show` puts plain ipywidgets (7.7 and 8 alike) on top: they call the very same methods.
"""

import html
import json
import random
import time
from pathlib import Path
from statistics import median

from ..engine.files import shown, storable
from ..lesson import feedback
from ..lesson.feedback import PAIR_FIELDS, WorkbookError
from ..lesson.pairs import check_known

DOUBLE_CLICK = 0.25  # seconds; whatever comes sooner after a new pair was meant for the one before
RANDOM_SHARE = 0.2  # of the pairs keep a random place when a function orders the rest
REPEAT_AFTER = 5  # pairs at least between a pair and its repeat
WORDS = {"a": "A is better", "b": "B is better", "tie": "Tie", "both_bad": "Both bad", "skip": "Skip"}
STRENGTHS = (("not said", 0), ("slightly", 1), ("clearly", 2), ("much", 3))


def left_side(pair_id, seed):
    """Which response of a pair stands on the left, "a" or "b": random, but always the same for a seed."""
    return random.Random(f"{seed} {pair_id}").choice("ab")


def other(side):
    return "b" if side == "a" else "a"


def ordered(pairs, order, seed):
    """The pairs in the order in which they are asked.

    order: "given"; "random"; a list of indices; or a function of a pair, such as the size of a reward
    model's margin, whose smallest values come first while `RANDOM_SHARE` of the places are random.
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
    if isinstance(order, str) and order == "random":
        return rng.sample(pairs, len(pairs))
    if isinstance(order, str) and order == "given":
        return list(pairs)
    if not isinstance(order, str) and all(isinstance(i, int) and 0 <= i < len(pairs) for i in order):
        return [pairs[i] for i in dict.fromkeys(order)]
    raise WorkbookError(
        f"The order {order!r} is not 'given', 'random', a list of indices below {len(pairs)} or a function of a pair."
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
    A click sooner than min_seconds after a pair appears does not count.
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
        hotkeys=False,
    ):
        if not isinstance(annotator, str) or not annotator.strip():
            raise WorkbookError('The annotator needs a name, such as "you".')
        self.path, self.annotator, self.seed = Path(path), annotator, seed
        self.queue = with_repeats(ordered(check_pairs(pairs), order, seed), repeat_share, seed)
        self.min_seconds, self.hotkeys = min_seconds, hotkeys
        self.ask_strength, self.ask_note = ask_strength, ask_note
        self.errors, self.warnings, self.widget, self.pace = [], [], None, []
        self.shown_at, self.said, self.replies = time.monotonic(), ("", False), 0
        self.reload()

    # ------------------------------------------------------------ state: what the log says

    def reload(self):
        """Take the state from the log: the labels of this annotator for the pairs of this queue."""
        events, self.size = [], 0
        if self.path.exists():
            self.size = self.path.stat().st_size
            events, self.warnings = feedback.read_events(self.path)
        asked = {feedback.pair_key(pair) for pair, _ in self.queue}
        mine = [x for x in feedback.replay(events) if x["annotator"] == self.annotator]
        self._set([x for x in mine if feedback.pair_key(x) in asked])

    def _set(self, labels):
        self.labels, self.judged = labels, {(*feedback.pair_key(x), bool(x.get("is_repeat"))): x for x in labels}

    def _open(self, pair, again):
        """Is this item of the queue still to be judged?  The repeat of a skipped pair is not."""
        first = self.judged.get((*feedback.pair_key(pair), False))
        again = again and first is not None and first["choice"] != "skip"
        return first is None or (again and (*feedback.pair_key(pair), True) not in self.judged)

    @property
    def current(self):
        """The item to judge now: {"pair", "left": "a" or "b", "is_repeat"}; None when all is done."""
        for pair, again in self.queue:
            if self._open(pair, again):
                first = self.judged.get((*feedback.pair_key(pair), False)) if again else None
                left = other(first["left"]) if first else left_side(pair["pair_id"], self.seed)
                return {"pair": pair, "left": left, "is_repeat": first is not None}
        return None

    @property
    def done(self):
        return self.current is None

    def choose(self, choice, strength=None, note="", seconds=None):
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
        )
        self._append(label)
        return label

    def undo(self):
        """Take the latest label back and ask about its pair again; returns that label, or None."""
        if not self.labels:
            return None
        label = self.labels[-1]
        self._append(feedback.undo_event(label))
        undone = (feedback.pair_key(label), label["is_repeat"])  # to the front, should the order have changed since
        self.queue.sort(key=lambda item: (feedback.pair_key(item[0]), item[1]) != undone)
        return label

    def _append(self, event):
        start, end = feedback.append_event(self.path, event)
        if start != self.size:  # somebody else wrote too
            return self.reload()
        self.size = end
        gone = event.get("undoes")
        self._set([x for x in self.labels if x["event_id"] != gone] + ([] if gone else [event]))

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

    # ------------------------------------------------------------ the widget

    def show(self):
        """Display the widget.  Run the cell again after a restart: it goes on at the right pair."""
        from IPython.display import display

        if self.widget is None:
            self._build()
        self._refresh("".join(f"{w} " for w in self.warnings))
        display(self.widget)

    def _build(self):
        import ipywidgets as W

        self.prompt, self.progress, self.status = W.HTML(), W.HTML(), W.HTML()
        self.answers = W.HTML(), W.HTML()
        self.buttons = {
            c: W.Button(description=w, layout=W.Layout(width="auto", min_width="6.5em"))
            for c, w in {**WORDS, "undo": "Undo"}.items()
        }
        for name, button in self.buttons.items():
            button.on_click(lambda _, name=name: self._click(name))
            button.add_class(f"rlhf-press-{name}")
        self.strength = W.Dropdown(
            options=STRENGTHS, value=0, description="How much better", layout=W.Layout(width="auto", max_width="20em")
        )
        self.note = W.Textarea(placeholder="Why? (optional)", description="Note", rows=2, layout=W.Layout(width="auto"))
        self.strength.style.description_width = self.note.style.description_width = "9em"
        extra = [w for w, on in ((self.strength, self.ask_strength), (self.note, self.ask_note)) if on]
        row = W.HBox(list(self.buttons.values()), layout=W.Layout(flex_flow="row wrap", margin="6px 0 2px 0"))
        grid = W.GridBox(
            self.answers,
            layout=W.Layout(grid_template_columns="repeat(auto-fit, minmax(min(100%, 15em), 1fr))", grid_gap="12px"),
        )
        self.widget = W.VBox(
            [self.prompt, grid, *extra, row, self.progress, self.status, key_guard(self.hotkeys)],
            layout=W.Layout(max_width="60em"),
        )
        self.widget.add_class("rlhf-labeller")

    def _click(self, name):
        """What a button or a key does: guard, choose, show the next pair; errors are shown and kept."""
        try:
            waited = time.monotonic() - self.shown_at
            if waited < DOUBLE_CLICK:
                self._say(*self.said)
            elif name == "undo":
                label = self.undo()
                self._refresh("Took the last label back." if label else "There is nothing to take back.")
            elif self.done:
                self._refresh("Nothing is left to label here.")
            elif waited < self.min_seconds:
                self._say(f"Not counted: that took under {self.min_seconds:g} s. Read both, then choose.")
            else:
                self.choose(name, self.strength.value or None, self.note.value.strip(), round(waited, 2))
                self.pace.append(waited)
                self._refresh(f"Saved: {WORDS[name]}.")
        except Exception as e:  # a front end hides what a callback raises
            self.errors.append(e)
            words = str(e) if isinstance(e, WorkbookError) else f"Not saved, {type(e).__name__}: {e}"
            self._say(words, wrong=True)

    def _refresh(self, message=""):
        """Show the current pair.  Values change in place, so the focus stays where it is."""
        item = self.current
        if item:
            texts = item["pair"]["response_a"], item["pair"]["response_b"]
            texts = texts if item["left"] == "a" else texts[::-1]
            self.prompt.value = prompt_html(item["pair"]["prompt"])
            for widget, name, text in zip(self.answers, "AB", texts):
                widget.value = answer_html(name, text)
        else:
            self.prompt.value = "<b>All pairs are labelled. Thank you. Run the next cells.</b>"
            self.answers[0].value = self.answers[1].value = ""
        self.strength.value, self.note.value = 0, ""
        done, total = self._counts()
        self.progress.value = progress_html(done, total, self.pace)
        self._say(message)
        self.shown_at = time.monotonic()

    def _counts(self):
        left = sum(self._open(pair, again) for pair, again in self.queue)
        return len(self.labels), len(self.labels) + left

    def _say(self, message, wrong=False):
        self.said, self.replies = (message, wrong), self.replies + 1
        role = "alert" if wrong else "status"
        mark = "border-left:4px solid #c62828;padding-left:8px" if wrong else ""
        self.status.value = (
            f'<div role="{role}" aria-live="polite" data-reply="{self.replies}" '
            f'style="min-height:1.5em;{mark}">{escape(message)}</div>'
        )


# ---------------------------------------------------------------- HTML

BOX = (
    "border:1px solid var(--jp-border-color1,#bdbdbd);background:var(--jp-layout-color1,#fff);"
    "color:var(--jp-content-font-color1,#111);border-radius:4px;padding:8px"
)
TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:plaintext;line-height:1.5"
CONTROLS = (
    {i: chr(0x2400 + i) for i in range(32) if chr(i) not in "\n\t"}
    | {127: "\u2421"}
    | {i: f"\\x{i:02x}" for i in range(128, 160)}
)


def escape(text):
    """Text as HTML that shows it as typed; control characters and lone surrogates become visible."""
    return html.escape(storable(text).replace("\r\n", "\n").translate(CONTROLS))


def prompt_html(prompt):
    return (
        f'<div>Which answer matches the prompt better?</div><div role="region" dir="auto" '
        f'aria-label="Prompt" style="{TEXT};font-size:1.15em;font-weight:600">{escape(prompt)}</div>'
    )


def answer_html(name, text):
    return (
        f'<b>{name}</b><div tabindex="0" role="region" dir="auto" aria-label="Response {name}" '
        f'style="{TEXT};{BOX};min-height:6em;max-height:16em;overflow:auto">{escape(text)}</div>'
    )


def progress_html(n, total, pace):
    """Progress in words and as a bar; pace is a list of seconds per choice."""
    words = f"{n} of {total} labelled"
    if len(pace) >= 3:
        seconds = median(pace)
        left = round((total - n) * seconds / 60)
        left = f"about {left} minute{'s' * (left > 1)}" if left else "less than a minute"
        words += f" · {60 / seconds:.0f} a minute"
        words += f" · {left} left" if n < total else ""
    bar = "height:6px;border-radius:3px;background:var(--jp-"
    return (
        f'<div>{words}</div><div role="progressbar" aria-label="Labelled" aria-valuemin="0" '
        f'aria-valuemax="{total}" aria-valuenow="{n}" style="{bar}border-color2,#ddd)">'
        f'<div style="{bar}brand-color1,#1976d2);width:{100 * n / total:.1f}%"></div></div>'
    )


# ---------------------------------------------------------------- keys and clicks, in the browser

FOCUS = (
    ".rlhf-labeller button:focus-visible,.rlhf-labeller [tabindex]:focus-visible"
    "{outline:3px solid var(--jp-brand-color1,#1976d2)!important;outline-offset:-3px}"
)
KEYS = {"a": "a", "b": "b", "t": "tie", "x": "both_bad", "s": "skip", "u": "undo"}
KEYS_HINT = (
    '<div class="rlhf-keys"><span>Single keys do not work in this front end. Tab, Enter and the space '
    "bar do.</span><span hidden>Click in here, then one key labels: "
    + ", ".join(f"<b>{key}</b> {({**WORDS, 'undo': 'Undo'})[name]}" for key, name in KEYS.items())
    + ".</span></div>"
)
# Ours from the first to the last character; no text of a model or of a reader is ever put into it.
GUARD_JS = """
const box = this.closest('.widget-vbox'), keys = KEYS;
if (!box) return;
const hint = box.querySelector('.rlhf-keys');
if (hint) [hint.firstChild.hidden, hint.lastChild.hidden] = [true, false];
if (!box.hasAttribute('data-lm-suppress-shortcuts')) {
  box.setAttribute('data-lm-suppress-shortcuts', 'true');  // for JupyterLab, which listens first
  box.tabIndex = -1;                                       // a click beside the buttons keeps the focus here
  let reply, since;
  box.addEventListener('click', e => {                     // one click at a time is on its way to the kernel
    if (!e.target.closest('button')) return;
    if (reply && reply.isConnected && Date.now() - since < 5000) return e.stopPropagation();
    reply = box.querySelector('[data-reply]');
    since = Date.now();
    const waiting = reply;
    setTimeout(() => { if (waiting && waiting.isConnected) waiting.textContent = 'SLOW'; }, 5000);
  }, true);
  box.addEventListener('keydown', e => {
    e.stopPropagation();                                   // for front ends that listen last
    if (e.repeat && e.target.closest('button')) e.preventDefault();  // a held Enter presses once
    if (!hint || e.repeat || e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.target.closest('input, textarea, select')) return;
    const button = box.querySelector('.rlhf-press-' + keys[e.key.toLowerCase()]);
    if (button) { e.preventDefault(); button.click(); }
  });
}
"""
SLOW = (
    "The kernel has not answered for five seconds. It is busy, or it was stopped: then run the cell again. "
    "What was saved stays saved."
)


def key_guard(hotkeys=False):
    """A widget that keeps all keys pressed in its VBox from the notebook's own shortcuts.

    It also holds back a click while another is on its way, and with `hotkeys` single keys press buttons.
    Plain HTML; where a front end does not run the handler, everything else works on.
    """
    import ipywidgets as W

    script = GUARD_JS.replace("KEYS", json.dumps(KEYS)).replace("SLOW", SLOW)
    return W.HTML((KEYS_HINT if hotkeys else "") + f'<style onload="{html.escape(script)}">{FOCUS}</style>')
