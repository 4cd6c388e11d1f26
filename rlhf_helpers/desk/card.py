"""How the labelling card looks and what it does in the browser: HTML, and card.css and card.js beside this file.

All text of models and readers goes through `escape`; none of it ever gets into a style or a script.
"""

import difflib
import hashlib
import html
import json
import math
import re
from collections import Counter
from pathlib import Path
from statistics import median

from ..engine.files import storable
from ..lesson import feedback

CSS, JS = (Path(__file__).with_name(f"card.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
WORDS = {"a": "A is better", "b": "B is better", "tie": "Tie", "both_bad": "Both bad", "skip": "Skip"}
MORE = {"undo": "Undo", "continue": "Continue", "more": "Label on"}
STRENGTHS = (("not said", 0), ("slightly", 1), ("clearly", 2), ("much", 3))
REASONS = ("correct", "complete", "short", "kind", "clear")
KEYS = {
    "a": "a",
    "b": "b",
    "t": "tie",
    "x": "both_bad",
    "s": "skip",
    "u": "undo",
    "d": "marks",
    "c": "continue",
    "m": "more",
}
DOUBLE_CLICK = 0.25  # seconds; whatever comes sooner after a new pair was meant for the one before
SURE, LIKELY = 0.95, 0.8  # from these probabilities on an opinion is very likely, or likely
BUSY, LATE = 0.7, 20  # seconds without an answer of the kernel until the card says that it waits, and that it worries
MOST_WORDS = 3000  # of two answers; above it their differences are not looked for
STORED = 300_000  # characters of pairs that the page holds for the time when the kernel is busy
AGAIN = (
    "Choose Run > Run All Above Selected Cell (in Colab: Runtime > Run before), then run this cell. What was saved is "
    "still there."
)
GONE = "Somebody changed the file of labels. It no longer has {n} of yours, so you are asked again."
SAY = {
    "wrong": "",
    "hasty": "Not counted: that took under {s} s. Read both, then choose.",
    "busy": "Cells are still running. {n} kept in this page, to be saved as soon as they are done. You can go on.",
    "none": "Cells are still running. {n} kept in this page, to be saved as soon as they are done. "
    "Until then there is no further pair to show.",
    "below": "The cells below run now. If they don't, click the next cell and choose Run > Run "
    "Selected Cell and All Below (in Colab: Runtime > Run cell and below).",
    "late": "The kernel has not answered for 20 seconds. If cells are still running, wait. If not, it was stopped: run "
    "this cell again in this page. {n} not saved yet, kept in this page and delivered then.",
    "cut": f"The kernel was stopped or restarted, so nothing can be labelled here now. {AGAIN}",
    "dead": "This could not be delivered: the kernel was stopped or restarted. {n} kept in this page, and delivered "
    f"when this card is back. {AGAIN}",
    "opens": "Cells are still running. The answer opens here to be edited when they are done.",
    "held": "Kept in this page, to be saved after it: {n}.",
    "other": "In another page with this card: ",
}
LABELLED, NOT_ASKED = (f"Not saved: that pair {why}." for why in ("was already labelled", "is not asked here any more"))
MANY = {LABELLED: "Not saved: {n} choices about pairs that were already labelled."} | {
    NOT_ASKED: "Not saved: {n} choices about pairs that are not asked here any more."
}
FILE = "the file that PREFERENCES names"
KEPT = "What you chose meanwhile is kept in this page, and saved then."
SERVED = SAY | {  # on a page of its own, where several people label by link
    "wrong": "Please tell whoever gave you this link: ",
    "busy": "The server has not answered yet. {n} kept in this page, to be saved as soon as it does. You can go on.",
    "none": "The server has not answered yet. {n} kept in this page, to be saved as soon as it does. Until then there "
    "is no further pair to show.",
    "late": "The server has not answered for 20 seconds. {n} not saved yet, kept in this page and saved when it is "
    "back. You can go on.",
}

BOX = (
    "border:1px solid var(--jp-border-color1,#bdbdbd);background:var(--jp-layout-color1,#fff);"
    "color:var(--jp-content-font-color1,#111);border-radius:4px;padding:8px"
)
TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:plaintext;line-height:1.5"
CONTROLS = (
    {i: chr(0x2400 + i) for i in range(32) if chr(i) not in "\n\t"}
    | {127: "\u2421"}
    | {i: f"\\x{i:02x}" for i in range(128, 160)}
    | {i: f"\\u{i:04x}" for i in (0x202D, 0x202E)}  # they turn the letters after them around: "evil" would read "live"
)


def escape(text):
    """Text as HTML that shows it as typed; what can't be seen but changes what is read, becomes visible."""
    return html.escape(storable(text).replace("\r\n", "\n").translate(CONTROLS))


def marked(text, others):
    """`text` as HTML in which the words that `others`, a text too, does not have in this place are marked."""
    mine, theirs = (re.split(r"(\s+)", t) for t in (text, others))
    if len(mine) + len(theirs) > 2 * MOST_WORDS:
        return escape(text)
    a, b = ([w.casefold().strip(".,;:!?\"'()") or w for w in words[::2]] for words in (mine, theirs))
    out, upto = [], 0
    for what, i, j, _, _ in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if what not in ("replace", "delete") or not "".join(mine[2 * i : 2 * j - 1]):
            continue
        out += [escape("".join(mine[upto : 2 * i])), f"<mark>{escape(''.join(mine[2 * i : 2 * j - 1]))}</mark>"]
        upto = 2 * j - 1
    return "".join(out) + escape("".join(mine[upto:]))


def without_cell(error):
    """What an error says, on a page in which there is no cell to run again."""
    return str(error).replace(" and run the cell again", "")


QUESTION = "Which answer do you like better?"


def prompt_html(prompt, item="", log="", min_seconds=0.0, serial=0, question=QUESTION):
    """The question with what the browser must know: which item this is, of which log.  `serial` makes it new."""
    known = f'data-item="{item}" data-log="{log}" data-min="{min_seconds:g}" data-serial="{serial}"'
    return (
        f'<div class="rlhf-quiet" {known}>{question}</div><div class="rlhf-asked" role="region" dir="auto" '
        f'aria-label="Prompt" style="{TEXT};font-size:1.2em;font-weight:600">{escape(prompt)}</div>'
    )


def answer_html(name, text, others=None):
    """An answer as a card; `others` is the answer beside it, if what differs is to be marked."""
    shown = escape(text) if others is None else marked(text, others)
    return (
        f'<div class="rlhf-answer"><b class="rlhf-letter">{name}</b>'
        f'<div class="rlhf-paper" tabindex="0" role="region" '
        f'dir="auto" aria-label="Response {name}" style="unicode-bidi:plaintext">{shown}</div></div>'
    )


def store_html(items):
    """Pairs that the browser can show while the kernel is busy: (item, prompt, left, right), up to `STORED` in size."""
    out, size = [], 0
    for item, prompt, left, right, rest in items:
        page = prompt_html(prompt, item, **rest) + answer_html("A", left, right) + answer_html("B", right, left)
        size += len(page)
        if size > STORED:
            break
        parts = (prompt_html(prompt, item, **rest), answer_html("A", left, right), answer_html("B", right, left))
        out.append(f'<template data-store="{item}">' + "".join(f"<div>{part}</div>" for part in parts) + "</template>")
    return "".join(out)


def end_html(all_done, shut="", log="", min_seconds=0.0, serial=0):
    """In the place of the prompt when nothing is left to judge, the reader has gone on, or why the card is `shut`."""
    known = f'data-item="" data-log="{log}" data-min="{min_seconds:g}" data-serial="{serial}"'
    known += " data-shut" * bool(shut)
    words = "All pairs are labelled. Thank you." if all_done else "Your labels so far. Thank you."
    return f'<b style="font-size:1.2em" {known}>{escape(shut) or words}</b>'


def share(k, n):
    """So many of so many, with the 95% interval of the share, in words."""
    low, high = feedback.wilson(k, n)
    low = max(0.0, low)  # rounding may leave a little below
    return f"{k:g} of {n} ({100 * low:.0f} to {100 * high:.0f}%)"


def summary_html(summary, agreement, blind=None):
    """How the labelling went, in words.

    summary: of `feedback.summary`; agreement: [(name, pairs judged alike, pairs judged by both)]; blind: sentences of
    a blind test and its rows (prompt, who was A, who was B, what was chosen).
    """
    s = summary
    names = {"tie": "tie" + "s" * (s["choices"]["tie"] != 1), "both_bad": "both bad", "skip": "skipped"}
    others = ", ".join(f"{s['choices'][c]} {words}" for c, words in names.items() if s["choices"][c])
    lines = list(blind[0]) if blind else []
    lines.append(f"You gave {s['n']} labels: a side in {s['decided']}{', ' + others if others else ''}.")
    if s["seconds"]:
        lines.append(f"Your pace: {s['seconds']:.1f} seconds a pair, {60 / s['seconds']:.0f} a minute.")
    if s["repeats"]:
        lines.append(f"Asked a second time, you chose the same in {share(s['consistent'], s['repeats'])}.")
    if s["decided"]:
        lines.append(f"You took the left answer in {share(s['left'], s['decided'])}; a coin would take half.")
    lines += [f"You chose as {escape(name)} did in {share(k, n)}." for name, k, n in agreement]
    page = "".join(f"<p>{line}</p>" for line in lines)
    if blind:
        columns = ("A was", "B was", "You chose")  # told again in each row where the page is narrow
        head = f"<tr><th>Prompt</th>{''.join(f'<th>{name}</th>' for name in columns)}</tr>"
        rows = "".join(
            f"<tr><td>{escape(prompt)}</td>"
            + "".join(f'<td data-name="{name}">{escape(x)}</td>' for name, x in zip(columns, told))
            + "</tr>"
            for prompt, *told in blind[1]
        )
        page += f"<details><summary>Who was who, pair by pair</summary><table>{head}{rows}</table></details>"
    return f'<div class="rlhf-panel">{page}</div>'


def blind_words(a, b, found):
    """What came out of a blind test of a against b, in sentences; found: a `loop.verdict`."""
    a, b, rate = escape(a), escape(b), found["win_rate"]
    ties = f", with {found['ties']} tie{'s' * (found['ties'] != 1)}" if found["ties"] else ""
    interval = f"{100 * found['low']:.0f} to {100 * found['high']:.0f}%"
    lines = [
        f"You preferred <b>{a}</b> in {found['wins']} of {found['n']} and <b>{b}</b> in {found['losses']}{ties}: a win "
        f"rate of {100 * rate:.0f}% for {a} (95% interval {interval})."
    ]
    gap = abs(rate - 0.5)
    if found["verdict"] != "inconclusive":
        lines.append(f"So by your taste {a} is {found['verdict']}; chance alone seldom gives this.")
    elif gap < 0.02:
        lines.append("That is as good as even: only thousands of judgements could tell them apart.")
    else:
        needed = math.ceil((1.96 / 2 / gap) ** 2)
        lines.append(f"That can still be chance. If the rate stays, about {needed} judgements would make it sure.")
    return lines


def many_words(said):
    """What became of several choices that had waited, in one sentence for each kind; said: a sentence for each."""
    n = sum(words.startswith("Saved") for words in said)
    saved = [f"Saved {n} choice{'s' * (n > 1)} that had waited."] if n else []
    rest = Counter(words for words in said if words and not words.startswith("Saved"))
    return " ".join([*saved, *(MANY.get(x, x).replace("{n}", str(k)) if k > 1 else x for x, k in rest.items())])


def simulated_html(name, given, enough, whose=""):
    """A note over results that do not come from the reader's own labels, which leads back to the card.

    whose: the one whom ANNOTATOR names in the reader's place, if any.
    """
    cards = "(this.closest('.jp-Notebook') || document).querySelectorAll('.rlhf-labeller')"
    above = "if (card.compareDocumentPosition(this) &amp; 4) last = card;"  # the last one before this note
    go = f"let last; for (const card of {cards}) {above} last.scrollIntoView({{block: 'center'}})"
    note = f'<div style="{BOX};border-left:6px solid #D55E00" class="rlhf-simulated"><b>SIMULATED labels.</b> What '
    note += f"follows was made with the labels of {escape(name)}, a program: it takes {enough} of "
    if whose:
        return f"{note}{escape(whose)}, whom ANNOTATOR names, and there are fewer.</div>"
    return (
        f'{note}yours, and you have given {given}. <button style="min-height:44px" onclick="{go}">Go to the card'
        "</button> Label there and press <i>Continue</i>: then all that follows runs again, with yours.</div>"
    )


def follows_words(given, enough, others=0, whose="you", theirs=0):
    """Whose labels what follows learns from, in a sentence.

    given: labels of this person so far; enough: how many it takes; others: labels that count with them, of other
    people; whose: the one whom ANNOTATOR names instead, who has given `theirs`.
    """
    if whose == FILE:
        return f"What follows learns from {FILE}, and from what people label besides."
    if whose != "you":
        so_far = "" if whose.startswith("simulated:") else f", who has given {theirs} of the {enough} that it takes"
        so_far = "" if theirs >= enough else so_far
        return f"As ANNOTATOR says, what follows learns from the labels of {escape(whose)}{so_far}; not from yours."
    n = given + others
    yours = f"You have given {given} label{'s' * (given != 1)}"
    if others and n >= enough:
        return f"{yours}, other people {others}: what follows learns from all of them."
    if others:
        return f"{yours}, other people {others}: from {enough} on, what follows learns from them."
    if n < enough:
        return f"From {enough} labels on, what follows learns from yours: {enough - n} to go."
    return f"{yours}, so what follows learns from yours."


def learnt_html(opinions, n, foreseen, follows, fewest):
    """What the card has learned, in words.

    opinions, foreseen: as the functions of that name in `judge` give them; n: choices that it learned from; follows:
    a sentence of `follows_words`, "" where nothing follows; fewest: choices before anything is said.
    """
    right, asked = foreseen
    said = [
        f"<b>{escape(likes)}</b>: {'very likely' if chance >= SURE else 'likely'} ({min(99, int(100 * chance))}%)"
        for _, likes, chance, _ in opinions
        if chance >= LIKELY
    ]
    unclear = [about for about, _, chance, _ in opinions if chance < LIKELY]
    unsettled = [(more, about) for about, _, chance, more in opinions if chance < SURE and more]
    if n < fewest:
        lines = [f"What you seem to like is said here after {fewest} choices; so far there are {n}."]
    else:
        lines = ["You seem to like " + "; ".join(said) + "." if said else "What you like can't be told yet."]
    if unclear and said:
        lines.append(f"Can't tell yet: {escape(', '.join(unclear[:4]))}{' and more' * (len(unclear) > 4)}.")
    if unsettled:
        more, about = min(unsettled)
        lines.append(f"About {more} more label{'s' * (more > 1)} should settle: {escape(about)}.")
    if asked == 1:
        how = {0.0: "was not", 1.0: "was"}.get(right, "could not be")
        lines.append(f"Your last choice {how} foreseen before you made it.")
    elif asked:
        lines.append(
            f"Of your last {asked} choices, {right:g} {'was' if right == 1 else 'were'} foreseen before you chose."
        )
    lines += [follows] if follows else []
    return '<div class="rlhf-panel rlhf-quiet" aria-live="off">' + "".join(f"<p>{x}</p>" for x in lines) + "</div>"


def progress_html(n, total, pace, repeats=0, judged=()):
    """Progress in words and as a bar.

    pace: a list of seconds per choice; repeats: how many of `total` come again; judged: the items among those of
    `store_html` that need no judgement any more.
    """
    words = f"{n} of {total} labelled"
    if repeats:
        again = "1 of them a second time" if repeats == 1 else f"{repeats} of them a second time"
        words += f" ({total - repeats} pairs, {again}, sides swapped, to see how steady you are)"
    seconds = median(pace) if len(pace) >= 3 else 0
    if seconds:
        left = round((total - n) * seconds / 60)
        left = f"about {left} minute{'s' * (left > 1)}" if left else "less than a minute"
        words += f" · {60 / seconds:.0f} a minute"
        words += f" · {left} left" if n < total else ""
    return (
        f'<div class="rlhf-quiet" data-judged="{" ".join(judged)}">{words}</div>'
        f'<div role="progressbar" aria-label="Labelled" aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{n}" '
        f'class="rlhf-bar"><div style="width:{100 * n / max(1, total):.1f}%"></div></div>'
    )


def status_html(message, serial, acks=(), wrong=False, page=""):
    """One sentence about what just happened; `acks` are the ids of choices that the browser may forget.

    page: the one, of several that show this card, which is answered; "" for all of them.
    """
    role = "alert" if wrong else "status"
    mark = "border-left:4px solid #c62828;padding-left:8px" if wrong else ""
    return (
        f'<div role="{role}" aria-live="polite" data-reply="{serial}" data-acks="{" ".join(acks)}" data-page="{page}" '
        f'style="min-height:1.5em;overflow-wrap:anywhere;{mark}">{escape(message)}</div>'
    )


def token(*parts):
    """A short name for texts, fit for an attribute and the same in every kernel."""
    return hashlib.sha1(storable(json.dumps(parts)).encode()).hexdigest()[:16]


FALLBACK = (
    '<div class="rlhf-fallback" style="font-style:italic">Here stands a card to label with. If you cannot see it, its '
    f"kernel is not running, or the page was reloaded before it was saved. {AGAIN}</div>"
)
HIDE = ".jp-OutputArea:has(.rlhf-labeller) .rlhf-fallback,.output:has(.rlhf-labeller) .rlhf-fallback{display:none}"
HINT = (
    '<div class="rlhf-keys rlhf-quiet"><span>Single keys label as soon as the focus is in this card: click beside '
    "the answers, or press Tab.</span><span>Keys are on: each button shows its own. Tab and Enter work, too.</span>"
    "</div>"
)
FOCUS = """
.rlhf-chat button:focus-visible, .rlhf-chat [tabindex]:focus-visible {
  outline: 3px solid var(--jp-brand-color1, #1976d2) !important; outline-offset: -3px;
}
.rlhf-chat button.jupyter-button, .rlhf-chat input[type=text] {
  min-height: 44px; height: auto; border: 1px solid var(--jp-border-color1, #8f8f8f); border-radius: 8px;
}
.rlhf-chat button.jupyter-button {
  padding: 4px 14px; box-shadow: none; font-size: 14px;
  background: var(--jp-layout-color1, #fff); color: var(--jp-content-font-color1, #1b1b1b);
}
.rlhf-chat .widget-text { height: auto; }
.rlhf-live .noUi-handle, .rlhf-chat .noUi-handle { border: 2px solid var(--jp-brand-color1, #1976d2); }
[data-jp-theme-light=false] .rlhf-live select {  /* ipywidgets' arrow is black in every theme */
  background-image: url("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
%3Cpath d='M4 6l4 4 4-4' fill='none' stroke='white' stroke-width='2'/%3E%3C/svg%3E") !important;
}
"""
FOCUS_JS = """
// ------------------------------------------------------------ the focus stays in the box
let focused = null;                                      // it may be replaced or hidden: keys go on working
box.addEventListener('focusin', e => { focused = e.target; });
document.addEventListener('focusin', e => { if (!box.contains(e.target)) focused = null; });
const stay = () => {
  for (const handle of box.querySelectorAll('[role=slider]:not([aria-label])')) {  // ipywidgets' have no name
    const name = handle.closest('.widget-slider')?.querySelector('.widget-label')?.textContent;
    if (name) handle.setAttribute('aria-label', name);
  }
  const at = document.activeElement || document.body, there = focused?.isConnected && focused.checkVisibility();
  if (!focused || there || (at !== document.body && at !== focused)) return;
  const label = focused.getAttribute('aria-label'), next = label && box.querySelector('[aria-label="' + label + '"]');
  const field = [...box.querySelectorAll('input')].find(one => one.checkVisibility());  // where one goes on typing
  (next || field || box).focus({preventScroll: true});
};
new MutationObserver(stay).observe(
  box, {childList: true, subtree: true, attributes: true, attributeFilter: ['class', 'style']});
stay();
"""
GUARD_JS = """
const box = this.closest('.widget-vbox');
if (!box || box.hasAttribute('data-lm-suppress-shortcuts')) return;
box.setAttribute('data-lm-suppress-shortcuts', 'true');  // for JupyterLab, which listens first
box.tabIndex = -1;                                       // a click beside the buttons keeps the focus here
box.addEventListener('keydown', e => {
  e.stopPropagation();                                   // for front ends that listen last
  if (e.repeat && e.target.closest('button')) e.preventDefault();  // a held Enter presses once
});
"""


PATIENCE = {
    "busy": "Not answered yet; perhaps cells are still running. This press waits until they are done; others until "
    "then do not count.",
    "late": "The kernel has not answered for 20 seconds. If cells are still running, wait: this press counts when they "
    f"are done. If not, it was stopped. {AGAIN}",
    "cut": f"The kernel was stopped or restarted, so this does nothing now. {AGAIN}",
}
PATIENCE_JS = """
const box = this.closest('.widget-vbox'), C = CONFIG;
if (!box || box.dataset.patient) return;
box.dataset.patient = 'yes';
let waits = 0;                                           // when the press came that was not answered yet
const answered = new MutationObserver(() => { waits = 0; });
answered.observe(box, {childList: true, subtree: true});
const say = words => {
  const line = [...box.querySelectorAll('[role=status], [role=alert]')].pop();
  if (line) line.textContent = words;
  answered.takeRecords();
};
const press = e => {
  if (!e.target.closest(e.type === 'click' ? 'button' : e.key === 'Enter' ? 'input' : ':not(*)')) return;
  const cut = box.closest('.jupyter-widgets-disconnected') || box.querySelector('.jupyter-widgets-disconnected');
  if (cut) say(C.say.cut);
  if (cut || waits) { e.stopImmediatePropagation(); return e.preventDefault(); }
  const now = waits = performance.now();
  for (const kind of ['busy', 'late']) setTimeout(() => { if (waits === now) say(C.say[kind]); }, C[kind] * 1000);
};
for (const kind of ['click', 'keydown']) box.addEventListener(kind, press, true);
"""


def _on_load(script, css):
    return f'<style onload="{html.escape(script)}">{css}</style>'


def key_guard():
    """A widget that keeps all keys pressed in its VBox from the notebook's own shortcuts; plain HTML."""
    import ipywidgets as W

    return W.HTML(_on_load(GUARD_JS + FOCUS_JS, FOCUS))


def patience():
    """A widget that lets one press in its VBox wait for a busy kernel, and says so in the VBox's status line.

    Every press must be answered by some change in the VBox.
    """
    import ipywidgets as W

    config = {"say": PATIENCE, "busy": BUSY, "late": LATE}
    return W.HTML(_on_load(PATIENCE_JS.replace("CONFIG", json.dumps(config)), ""))


def card_script(hotkeys=True, words=SAY, whole=False):
    """The widget that brings the card to life.  Where a front end does not run it, buttons, Tab and Enter still work.

    It keeps keys from the notebook, makes the answers clickable, lets single keys press buttons where `hotkeys`, and
    holds what was chosen until the kernel confirms it.  whole: whether the page is nothing but this card, so that keys
    are its own wherever the focus is.
    """
    import ipywidgets as W

    config = {"keys": KEYS if hotkeys else {}, "say": words, "double": DOUBLE_CLICK, "busy": BUSY, "late": LATE}
    config["whole"] = whole
    caps = "".join(
        f'.rlhf-live .rlhf-press-{name}::after{{content:"{key.upper()}";content:"{key.upper()}" / "";margin-left:10px;'
        "padding:0 6px;border:1px solid currentColor;border-radius:5px;font-size:12px;font-weight:400}"
        for key, name in KEYS.items()
        if hotkeys
    )
    return W.HTML(
        (HINT if hotkeys else "") + _on_load(JS.replace("CONFIG", json.dumps(config)) + FOCUS_JS, CSS + HIDE + caps)
    )
