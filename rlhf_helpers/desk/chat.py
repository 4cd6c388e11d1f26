"""A small chat with a model: plain ipywidgets (7.7 and 8 alike) on top of `ask` and `prefer`.

Every few turns, and whenever another answer is asked for, there are two answers and the question which is better; the
choice joins the feedback log.
What is typed stays on this machine: prompts go to chat_prompts.jsonl beside the log, and nowhere else.
"""

import json
import time
import uuid
import warnings
from pathlib import Path

import ipywidgets as W
import torch
from IPython.display import display

from ..engine.files import WorkbookError, storable
from ..engine.models import prompt_ids
from ..engine.trials import read_on
from ..lesson import decoding, feedback
from ..lesson.decoding import draw, end_tokens
from ..lesson.reward import context_length
from .card import patience
from .labeller import BOX, DOUBLE_CLICK, TEXT, escape, key_guard


@torch.no_grad()
def stream(model, tokenizer, ids, *, temperature=1.0, top_p=1.0, max_new_tokens=48, generator=None):
    """Continue `ids` (list of int), giving the text so far after each token; temperature 0 is greedy."""
    device, eos = next(model.parameters()).device, end_tokens(model, tokenizer)
    inputs, cache, said = torch.tensor([ids], device=device), None, []
    for _ in range(max_new_tokens):
        logits, cache = read_on(model, inputs, cache=cache)
        logits = logits.float()
        token = (
            logits.argmax(-1, keepdim=True)
            if temperature == 0
            else draw(decoding.adjust(logits, temperature, 0, top_p), generator)
        )
        if token.item() in eos:
            return
        inputs = token if cache is not None else torch.cat([inputs, token], 1)
        said.append(token.item())
        text = tokenizer.decode(said, skip_special_tokens=True)
        yield text.strip().rstrip("\ufffd")  # half a character waits for its rest


class Chat:
    """Talk to `model`; every `every`-th turn compares two answers (0: never) and logs the choice to `path`.

    `ask(text)`, `again()`, `prefer("a" or "b")` and `rate(good)` work without a front end and raise WorkbookError in
    one sentence; `show()` puts a widget on top, which shows that sentence and keeps every error in `errors`.
    """

    def __init__(
        self, model, tokenizer, path, *, every=3, temperature=1.0, top_p=1.0, max_new_tokens=48, seed=0, annotator="you"
    ):
        self.model, self.tokenizer, self.path = model, tokenizer, Path(path)
        self.every, self.max_new_tokens, self.annotator = every, max_new_tokens, annotator
        self.temperature, self.top_p = temperature, top_p
        self.generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
        self.turns, self.pending, self.labels, self.ratings = [], None, [], []  # a turn: (prompt, answers)
        self.errors, self.widget, self.ready_at = [], None, 0.0
        self.said, self.replies = ("", False), 0

    @property
    def prompts_path(self):
        """Where the prompts are kept: a file beside the feedback log."""
        return self.path.with_name("chat_prompts.jsonl")

    def check(self, text):
        """The token ids of a prompt; WorkbookError when it cannot be answered."""
        if not isinstance(text, str):
            raise WorkbookError("A question must be text. Type it in words.")
        ids, limit = prompt_ids(self.tokenizer, text), context_length(self.model) - self.max_new_tokens
        if len(ids) > limit:
            raise WorkbookError(
                f"That is too long: {len(ids)} tokens, and with room for an answer it "
                f"reads {limit}. Ask something shorter."
            )
        if not 0 <= self.temperature <= 10 or not 0 < self.top_p <= 1:
            raise WorkbookError("The temperature must be between 0 and 10, and top-p above 0 and at most 1.")
        return ids

    def ask(self, text, on_token=lambda answers: None):
        """The answer to `text` in a list, or two answers when this turn is a comparison (see `prefer`).

        `on_token(answers)` is called after each token with what has been said so far.
        """
        ids, self.pending = self.check(text), None
        answers = [self._say(ids, on_token)]
        if self.every and (len(self.turns) + 1) % self.every == 0:
            answers += self._another(ids, answers[0], on_token)
        self._keep(text)
        self.turns.append((text, answers))
        self._await_choice()
        return answers

    def again(self, on_token=lambda answers: None):
        """Another answer to the latest question, to be compared with the one given: both in a list.

        Only the one given, if the model says the same thing again and again.
        """
        if self.pending is not None or not self.turns:
            raise WorkbookError("Choose between the two answers first." if self.pending else "First ask a question.")
        text, answers = self.turns[-1]
        answers = [*answers, *self._another(self.check(text), answers[0], on_token)]
        self.turns[-1] = text, answers
        self._await_choice()
        return answers

    def _say(self, ids, on_token, before=()):
        """One sampled answer; `on_token` gets it as it grows, after the answers `before` it."""
        said = ""
        for said in stream(
            self.model,
            self.tokenizer,
            ids,
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=self.max_new_tokens,
            generator=self.generator,
        ):
            on_token([*before, said])
        return said

    def _another(self, ids, first, on_token):
        """An answer other than the `first`, in a list, which is empty if four tries find none."""
        said = (self._say(ids, on_token, [first]) for _ in range(4))
        other = next((text for text in said if text != first), None)
        return [] if other is None else [other]

    def _await_choice(self):
        """Let the latest turn, if it has two answers, wait for a choice."""
        text, answers = self.turns[-1]
        if len(answers) == 2:
            self.pending = dict(zip(feedback.PAIR_FIELDS, (f"chat-{uuid.uuid4().hex[:12]}", text, *answers)))

    def prefer(self, choice):
        """Log which of the latest two answers was better: "a" (the first), "b" or "tie"."""
        if self.pending is None:
            raise WorkbookError("There is nothing to compare now. Ask on; some turns give two answers.")
        if choice not in ("a", "b", "tie"):
            raise WorkbookError(f'The choice {choice!r} is not "a", "b" or "tie".')
        label = feedback.label_event(self.pending, "a", choice, self.annotator)
        feedback.append_event(self.path, label)
        self.pending = None
        self.labels.append(label)
        self.turns[-1] = label["prompt"], [label["response_b" if choice == "b" else "response_a"]]
        return label

    def rate(self, good):
        """Log a thumb up or down for the latest answer, a row for unpaired training; returns the event."""
        if not self.turns or len(self.turns[-1][1]) != 1:
            raise WorkbookError("There is no single answer to rate now. Ask something first, or say which is better.")
        prompt, (answer,) = self.turns[-1]
        event = feedback.rating_event(prompt, answer, good, self.annotator)
        feedback.append_event(self.path, event)
        self.ratings.append(event)
        return event

    def given(self):
        """How many labels of this annotator the log holds, those of other chapters and pairs included."""
        events = feedback.read_events(self.path)[0] if self.path.exists() else []
        mine = [x for x in feedback.replay(events) if x["annotator"] == self.annotator]
        return sum(x["choice"] != "skip" for x in mine)

    def _keep(self, text):
        line = json.dumps({"prompt": text, "ts": round(time.time(), 3)}, ensure_ascii=False) + "\n"
        data = storable(line).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.prompts_path, "ab", buffering=0) as f:
                start = f.tell()
                if f.write(data) != len(data):
                    f.truncate(start)  # no half line for the next one to be glued to
                    raise OSError(28, "the disk is full")
        except OSError as e:
            raise WorkbookError(f"The prompt cannot be kept in {self.prompts_path} ({e.strerror}).") from None

    def forget(self):
        """Delete the prompts kept on this machine, and the talk in memory.  Comparisons stay in the log."""
        self.prompts_path.unlink(missing_ok=True)
        self.turns, self.pending = [], None
        if self.widget is not None:
            self._refresh("Forgotten.")

    def show(self):
        if self.widget is None:
            self._build()
        self._refresh("Type a question and press Enter or Send.")
        display(self.widget)

    def _build(self):
        self.talk, self.status = W.HTML(), W.HTML()
        self.box = W.Text(placeholder="Your question", layout=W.Layout(width="auto", flex="1 1 12em"))
        with warnings.catch_warnings():  # deprecated in 8, but the only way for Enter that both versions have
            warnings.simplefilter("ignore")
            self.box.on_submit(lambda _: self._click(self._send))
        self.send, self.another = (
            W.Button(description=words, layout=W.Layout(width="auto", flex="none"))
            for words in ("Send", "Another answer")
        )
        self.send.on_click(lambda _: self._click(self._send))
        self.another.on_click(lambda _: self._click(self._again))
        self.dials = [
            W.FloatSlider(
                value=value, min=low, max=high, step=0.05, description=name, style={"description_width": "6.5em"}
            )
            for name, value, low, high in (("Temperature", self.temperature, 0, 2), ("Top-p", self.top_p, 0.05, 1))
        ]
        self.buttons = {
            c: W.Button(description=w, layout=W.Layout(width="auto"))
            for c, w in (("a", "A is better"), ("tie", "Tie"), ("b", "B is better"))
        }
        for choice, button in self.buttons.items():
            button.on_click(lambda _, choice=choice: self._click(self._prefer, choice))
        self.choices = W.HBox(list(self.buttons.values()), layout=W.Layout(flex_flow="row wrap"))
        self.thumbs = [W.Button(description=w, layout=W.Layout(width="auto")) for w in ("Good answer", "Bad answer")]
        for good, button in zip((True, False), self.thumbs):
            button.on_click(lambda _, good=good: self._click(self._rate, good))
        self.rating = W.HBox(self.thumbs, layout=W.Layout(flex_flow="row wrap"))
        self.widget = W.VBox(
            [
                self.talk,
                self.choices,
                self.rating,
                self.status,
                W.HBox([self.box, self.send, self.another], layout=W.Layout(flex_flow="row wrap")),
                W.HBox(self.dials, layout=W.Layout(flex_flow="row wrap")),
                key_guard(),
                patience(),
            ],
            layout=W.Layout(max_width="60em"),
        )
        self.widget.add_class("rlhf-chat")

    def _click(self, action, *arguments):
        """What a button does; clicks that piled up meanwhile are dropped, errors are shown and kept."""
        if time.monotonic() - self.ready_at < DOUBLE_CLICK:
            return self._refresh(*self.said)
        try:
            action(*arguments)
        except Exception as e:  # a front end hides what a callback raises
            self.errors.append(e)
            self._refresh(str(e) if isinstance(e, WorkbookError) else f"{type(e).__name__}: {e}", wrong=True)
        self.ready_at = time.monotonic()

    def _send(self):
        text = self.box.value
        self.temperature, self.top_p = (d.value for d in self.dials)
        answers = self.ask(text, lambda so_far: self._refresh("…", now=(text, so_far)))
        self.box.value = ""
        self._refresh("Which answer is better?" if len(answers) == 2 else "")

    def _rate(self, good):
        self.rate(good)
        self._refresh(f"Saved: a {'good' if good else 'bad'} answer. Thank you.")

    def _again(self):
        self.temperature, self.top_p = (d.value for d in self.dials)
        text = self.turns[-1][0] if self.turns else ""
        answers = self.again(lambda so_far: self._refresh("…", now=(text, so_far), before=-1))
        self._refresh("Which answer is better?" if len(answers) == 2 else "It said the same thing again.")

    def _prefer(self, choice):
        self.prefer(choice)
        n = self.given()
        self._refresh(f"Saved. You have given {n} label{'s' * (n > 1)}; {feedback.ENOUGH} are enough to train on.")

    def _refresh(self, message="", wrong=False, now=None, before=None):  # now: a turn that is still being said
        self.said, self.replies = (message, wrong), self.replies + 1
        turns = self.turns[:before][-8:] + ([now] if now else [])
        self.talk.value = (
            '<div role="log" aria-live="polite" aria-label="Conversation">'
            + "".join(turn_html(*t) for t in turns)
            + "</div>"
        )
        self.choices.layout.display = "" if self.pending and not now else "none"
        single = bool(self.turns) and len(self.turns[-1][1]) == 1 and not now
        self.rating.layout.display = "" if single else "none"
        mark = "border-left:4px solid #c62828;padding-left:8px" if wrong else ""
        role = "alert" if wrong else "status"
        self.status.value = f'<div role="{role}" data-reply="{self.replies}" style="{mark}">{escape(message)}</div>'


def turn_html(prompt, answers):
    """One turn as HTML in which everything typed or generated is text."""
    names = ["Model"] if len(answers) == 1 else ["A", "B"]
    box = f"{TEXT};{BOX};margin:2px 0;flex:1 1 15em"
    said = "".join(
        f'<div dir="auto" style="{box}"><b>{name}</b> {escape(text)}</div>' for name, text in zip(names, answers)
    )
    return (
        f'<div dir="auto" style="{TEXT};margin-top:8px"><b>You</b> {escape(prompt)}</div>'
        f'<div style="display:flex;flex-wrap:wrap;gap:8px">{said}</div>'
    )
