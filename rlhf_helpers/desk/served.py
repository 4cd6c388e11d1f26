"""Several people label by link: `make label ARGS="ann ben cem"` serves the card of chapter 03 to each of them.

One process serves everybody (Shiny for Python and shinywidgets, the extra `label`): a page is a session in it with a
card of its own, and all cards write into one log, runs/feedback.jsonl, from which the chapters learn.  Each person and
the board have a path of their own, 32 random hexadecimal digits; whoever does not know one gets a sentence.
"""

import argparse
import contextlib
import html
import itertools
import math
import re
import secrets
import socket
import sys
import time
import unicodedata

from ..engine import files
from ..engine.files import WorkbookError, shown
from ..lesson import feedback
from ..world.annotators import TASTES
from . import workspace, yours
from .card import escape, without_cell
from .labeller import Labeller

REPEAT_SHARE = 0.1
LONGEST = 60  # characters of a name
JOINERS = "[\u200c\u200d]"  # cannot be seen, and stand in names in Persian and in emoji
HELLO = (
    "Press the answer that you like better: there is no right choice, only yours. Each is saved at once, so you can "
    "stop, and go on later at the same link."
)
UNKNOWN = "Nothing is to be labelled under this address. Check that the link was copied whole, or ask for a new one."
ELSEWHERE = (
    "This link was opened in another page, so this one asks nothing more. Every choice you made here is kept. "
    "If it was you, go on there; if not, each of you needs a name and a link of their own: tell whoever gave you yours."
)
TOOK_OVER = (
    "This link was open in another page, which asks nothing more now. If that page was not yours, stop and tell "
    "whoever gave you the link: two people must not share one."
)
NO_LINK = (
    "The server is back, but this link does not hold any more. Your choices are kept in this page: leave it open, and "
    "tell whoever gave you the link."
)
AWAY = (
    "The server has stopped or cannot be reached. You can go on: your choices are kept in this page and saved as soon "
    "as it is back. Leave the page open."
)
CSS = """
html:root { color-scheme: light dark; --paper: light-dark(#fff, #16181b); --ink: light-dark(#1b1b1b, #e3e6ea);
  --jp-layout-color1: var(--paper); --jp-content-font-color1: var(--ink);
  --jp-border-color1: light-dark(#8f8f8f, #6b727b); --jp-brand-color1: light-dark(#1565c0, #7cc0ff); }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60em; margin: 0 auto; padding: 12px; }
h1 { font-size: 1.1rem; margin: 4px 0 12px; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 24px 0 8px; }
.say { border-left: 4px solid #c62828; padding: 6px 10px; margin: 0 0 12px; overflow-wrap: anywhere; }
.say, .say * { font-size: 1rem; line-height: 1.5; }
.shiny-ipywidget-output { overflow: visible !important; }
#shiny-disconnected-overlay { display: none; }
table { border-collapse: collapse; margin: 0 0 20px; }
th, td { text-align: left; padding: 6px 20px 6px 0; border-bottom: 1px solid var(--jp-border-color1); }
th { font-weight: 600; vertical-align: bottom; }
td { overflow-wrap: anywhere; }
progress { display: block; width: 8em; height: 6px; margin-top: 4px; accent-color: var(--jp-brand-color1); }
@media (max-width: 46em) {  /* a row becomes a block of lines, each with its name before it */
  table, tbody, tr, td { display: block; }
  tr:first-child { display: none; }
  tr { border-bottom: 1px solid var(--jp-border-color1); padding: 6px 0; }
  td { border: 0; padding: 1px 0; }
  td:first-child { font-weight: 600; }
  td:not(:first-child):not(:empty)::before { content: attr(data-name) ": "; }
}
"""
SCRIPT = """
const connected = () => window.Shiny?.shinyapp?.isConnected?.();
let was = false, waits = 0, bare = 0;
const watch = setInterval(() => {
  if (document.querySelector('[data-shut]')) return clearInterval(watch);  // it must not take over again
  was ||= connected();
  if (was) jQuery(document).off('shiny:disconnected');    // then shinywidgets would take the card away
  waits = connected() ? 0 : waits + 1;
  bare = document.querySelector('.rlhf-labeller, [data-again]') ? 0 : bare + 1;
  // lost; or it never came: the page's own files did not arrive, or nothing answered, or those of the card are missing
  const never = waits > 60 || bare > 240 || (document.readyState === 'complete' && !window.Shiny);
  if (waits && was || never) comeBack();
}, 250);
function comeBack() {
  clearInterval(watch);
  const away = document.getElementById('away');
  away.hidden = false;
  setInterval(() => fetch(location.href, {cache: 'no-store'}).then(r => {
    if (r.status === 404) away.textContent = away.dataset.gone;
    if (!r.ok) return;
    if (was) history.replaceState(history.state, '', '#again');
    window.comesBack = true;
    location.reload();
  }, () => 0), 2000);
}
setInterval(() => document.querySelector('[data-again]') && location.reload(), 5000);
"""
ANEW = """
setInterval(() => fetch(location.href, {cache: 'no-store'}).then(r => r.text()).then(text => {
  const main = new DOMParser().parseFromString(text, 'text/html').querySelector('main');
  document.querySelector('main').replaceWith(main);
}).catch(() => {
  document.querySelector('h1').textContent = 'The server has stopped or cannot be reached. This is what it last said.';
}), SECONDS * 1000);
"""


# ---------------------------------------------------------------- who may come


def check_people(names):
    """Raise WorkbookError for the first name that can't be one; returns them without outer spaces."""
    names = [unicodedata.normalize("NFC", name.strip()) for name in names]
    known = set()
    for name in names:
        seen = re.sub(JOINERS, "", name)
        key = unicodedata.normalize("NFKC", seen).casefold()  # names that look alike would be mixed up
        if not seen or len(name) > LONGEST or not seen.isprintable():
            raise WorkbookError(f"{shown(name)} is no name: one of 1 to {LONGEST} printable characters is needed.")
        if key in known:
            raise WorkbookError(
                f"The name {shown(name)} is given twice. Two people with one name would be one annotator in the log: "
                "add a letter of the surname."
            )
        if name in ("you", *TASTES) or feedback.is_simulated({"annotator": name}):
            raise WorkbookError(
                f"The name {shown(name)} stands for something else in ANNOTATOR, where the chapters are told whose "
                "labels to take. Choose another."
            )
        known.add(key)
    return names


def links(path, names):
    """{name: token} of these people, and the board's under ""; kept in `path`, so that links survive a restart.

    The file can be read by its owner only; without it, new links are drawn.
    """
    try:
        kept = files.parse(path.read_bytes()) if path.exists() else {}
    except ValueError:
        kept = None
    except OSError as e:
        raise WorkbookError(
            f"{path} can't be read ({e.strerror}). It holds the links of whoever started `make label` here: ask them "
            "for the right to read it, or choose another --runs-dir."
        ) from None
    if not isinstance(kept, dict) or not all(re.fullmatch("[0-9a-f]{32}", str(token)) for token in kept.values()):
        raise WorkbookError(f"{path} holds no links as they were written. Delete it, and everybody gets a new one.")
    tokens = {name: kept.get(name) or secrets.token_hex(16) for name in ["", *names]}
    if tokens.items() - kept.items():
        files.write_json(path, kept | tokens)
    with contextlib.suppress(OSError):  # another's file, which we may read
        path.chmod(0o600)
    return tokens


def address(host, port):
    """What others write before a token: the address of this machine in its network where it listens to all."""
    if host in ("0.0.0.0", "::"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            try:
                s.connect(("10.255.255.255", 1))  # sends nothing; it asks which of our addresses leads outside
                host = s.getsockname()[0]
            except OSError:
                host = socket.gethostname()
    return f"http://{host}:{port}"


# ---------------------------------------------------------------- the board


def board(names, pairs, log, there=()):
    """The board as HTML: how far each is, and how far those who have finished agree with each other.

    there: names of those whose page is open.  Raises WorkbookError where the log can't be read.
    """
    labels = feedback.replay(feedback.read_events(log)[0]) if log.exists() else []
    asked = {feedback.pair_key(pair) for pair in pairs}
    mine = {n: [x for x in labels if x["annotator"] == n and feedback.pair_key(x) in asked] for n in names}
    finished = [n for n in names if len({feedback.pair_key(x) for x in mine[n]}) == len(asked)]
    rows = [_progress(n, mine[n], len(asked), n in there) for n in names]
    head = ("name", "labelled", "last choice", "page", "seconds a pair", "the same when asked again")
    page = _table(head, rows)
    agreed = [_agreement(a, b, mine) for a, b in itertools.combinations(finished, 2)]
    if agreed:
        page += "<h2>Agreement</h2>" + _table(("who", "chose alike", "κ", "pairs"), agreed)
        page += (
            "<p>κ is agreement beyond chance: 0 is what chance gives, 1 full agreement. In parentheses, 95% "
            "intervals.</p>"
        )
    else:
        page += "<p>How far people agree is shown for those who have finished, from two on.</p>"
    return page


def _progress(name, labels, n, there):
    found = feedback.summary(labels)
    done = len({feedback.pair_key(x) for x in labels})
    return (
        escape(name),
        f"{done} of {n}{', finished' * (done == n)}"
        f'<progress max="{n}" value="{done}" aria-label="labelled by {escape(name)}"></progress>',
        _since(time.time() - labels[-1]["ts"]) if labels else "",
        "open" if there else "",
        f"{found['seconds']:.1f}" if found["seconds"] else "",
        f"{found['consistent']} of {found['repeats']}" if found["repeats"] else "",
    )


def _since(seconds):
    """How long ago that is, in words; a clock that was put back may make it less than nothing."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{round(seconds / length)} {unit}{'s' * (round(seconds / length) > 1)} ago"
    return "just now"


def _agreement(a, b, mine):
    """How far two people agree on the pairs that neither skipped, each pair's first label counting."""
    first, who = feedback.first_choices(mine[a] + mine[b]), escape(f"{a} and {b}")
    both = [key for key in first.get(a, {}) if key in first.get(b, {})]
    if not both:
        return who, "", "", "0"
    x, y = ([first[name][key] for key in both] for name in (a, b))
    same, n = sum(i == j for i, j in zip(x, y)), len(both)
    low, high = (max(0.0, x) for x in feedback.wilson(same, n))  # rounding may leave a little below
    kappa, ends = feedback.cohen_kappa(x, y), feedback.kappa_interval(x, y)
    told = "can't be told" if math.isnan(kappa) else f"{kappa:.2f} ({ends[0]:.2f} to {ends[1]:.2f})"
    return who, f"{100 * same / n:.0f}% ({100 * low:.0f} to {100 * high:.0f}%)", told.replace("-", "−"), str(n)


def _table(head, rows):
    """A table of cells of HTML; on a narrow screen each cell names its column."""
    names = "".join(f'<th scope="col">{name}</th>' for name in head)
    cells = ("".join(f'<td data-name="{name}">{x}</td>' for name, x in zip(head, row)) for row in rows)
    return f"<table><tr>{names}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def whole_page(title, body, seconds=0):
    """A page without a kernel; what is in it comes anew every so many seconds, if any."""
    again = f"<script>{ANEW.replace('SECONDS', str(seconds))}</script>" if seconds else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>{again}'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{CSS}</style></head>'
        f"<body><main><h1>{html.escape(title)}</h1>{body}</main></body></html>"
    )


# ---------------------------------------------------------------- the server


def with_known_styles(widget):
    """The same widget, which the page can show without an error in its console.

    shinywidgets brings the scripts of ipywidgets 7.  There a description has one class of style; of those that version
    8 has in its place, each would be an error, and what it says would be lost.
    """
    style = getattr(widget, "style", None)
    if style is not None and style._model_name not in ("ButtonStyleModel", "ToggleButtonsStyleModel"):
        style._model_name = "DescriptionStyleModel"
    for inner in getattr(widget, "children", ()):
        with_known_styles(inner)
    return widget


def person_app(name, pairs, log, seed, pages):
    """The app of one person: a page with their card.  pages: {name: (session, card)} of all that are open."""
    import ipywidgets as W
    from htmltools import HTML, tags
    from shiny import App
    from shiny.session import session_context
    from shinywidgets import output_widget, render_widget

    style = [tags.meta(name="viewport", content="width=device-width, initial-scale=1"), tags.style(HTML(CSS))]
    page = tags.main(
        tags.h1(f"You label as {name}"),
        tags.p(HELLO),
        tags.div(AWAY, id="away", class_="say", role="alert", hidden=True, data_gone=NO_LINK),
        output_widget("card", fillable=False, fill=False),
    )
    head = tags.head(tags.title(f"Labelling as {name}"), *style, tags.script(HTML(SCRIPT)))
    ui = tags.html(head, tags.body(page), lang="en")

    def begin(session):
        """A new card for this session; whatever page the person had open before asks nothing more."""
        card = Labeller(
            pairs, log, annotator=name, seed=f"{seed} {name}", order="random", repeat_share=REPEAT_SHARE, served=True
        )
        earlier = pages.get(name)
        if earlier:
            with session_context(earlier[0]):
                earlier[1].shut_down(ELSEWHERE)
        pages[name] = session, card
        again = session.input[".clientdata_url_hash_initial"]() == "#again"  # the same page, after it was cut off
        widget = card.ready(TOOK_OVER if earlier and not again else "")
        for inner in (card.note, card.strength, *card.reasons.values()):  # not shown here, but sent
            with_known_styles(inner)
        return with_known_styles(widget)

    def server(input, output, session):
        @render_widget
        def card():
            try:
                return begin(session)
            except WorkbookError as e:
                words = f"Please tell whoever gave you this link: {without_cell(e)} This page tries again by itself."
                return with_known_styles(W.HTML(f'<div class="say" role="alert" data-again>{escape(words)}</div>'))

        @session.on_ended
        def _():
            if pages.get(name, (None,))[0] is session:
                del pages[name]

    return App(ui, server)


def site(names, tokens, pairs, log, seed=0):
    """The whole site as an ASGI app: a path for each person and the board, a sentence for whoever knows none."""
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, Response
    from starlette.routing import Mount, Route

    pages = {}

    def show_board(request):
        try:
            body = board(names, pairs, log, there=list(pages))
        except WorkbookError as e:
            body = f'<p class="say" role="alert">{escape(without_cell(e))}</p>'
        return HTMLResponse(whole_page("Who has labelled how many pairs", body, seconds=10))

    def unknown(request, error):
        return HTMLResponse(whole_page("No such page", f'<p class="say" role="alert">{UNKNOWN}</p>'), 404)

    routes = [Mount(f"/{tokens[n]}", app=person_app(n, pairs, log, seed, pages)) for n in names]
    routes += [Route(f"/{tokens['']}/", show_board), Route("/favicon.ico", lambda _: Response(status_code=204))]
    return Starlette(routes=routes, exception_handlers={404: unknown})


def listen(host, port):
    """A socket that listens there; raises WorkbookError where that can't be."""
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        s.bind((host, port))
        s.listen()
    except (OSError, OverflowError) as e:
        s.close()
        raise WorkbookError(
            f"{host}:{port} is not to be had ({getattr(e, 'strerror', e)}). Perhaps `make label` runs already: stop "
            "that, or choose another --port. A link holds for its port only."
        ) from None
    return s


def serve(names, pairs, log, seed, host, port):
    """Serve until Ctrl-C, and print the links."""
    try:
        import shinywidgets  # noqa: F401
        import uvicorn
    except ModuleNotFoundError as e:
        raise WorkbookError(
            f'The module {e.name} is missing; run: python -m pip install -c constraints.txt -e ".[label]"'
        ) from None
    tokens = links(log.parent / "links.json", names)
    s = listen(host, port)
    known = feedback.first_choices(feedback.replay(feedback.read_events(log)[0])) if log.exists() else {}
    place = address(host, s.getsockname()[1])
    print(f"{len(pairs)} pairs for each, into {log}. One link for each person, theirs alone:\n")
    for name in names:
        so_far = f"  (goes on after {len(known[name])})" if name in known else ""
        print(f"  {name:12} {place}/{tokens[name]}/{so_far}")
    print(f"\n  {'the board':12} {place}/{tokens['']}/\n\nCtrl-C stops it; run it again, and the same links go on.")
    sys.stdout.flush()
    config = uvicorn.Config(
        site(names, tokens, pairs, log, seed),
        log_level="warning",
        ws_per_message_deflate=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,  # a laptop that sleeps with its page open does not keep it from ending
    )
    uvicorn.Server(config).run(sockets=[s])


def main(arguments=None):
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make label ARGS=...", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help="who labels")
    parser.add_argument("--pairs", type=int, default=40, metavar="N", help="how many pairs for each (40)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for the local network (this machine only)")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--seed", type=int, default=0, help="the SEED of the chapters (0)")
    for name in ("model", "prompts", "preferences", "runs-dir", "data-dir"):
        parser.add_argument(f"--{name}", default="", help=f"as {name.replace('-', '_').upper()} in the chapters")
    options = parser.parse_args(arguments)
    try:
        names = check_people(options.names)
        ws = workspace.setup(
            MODEL=options.model,
            SEED=options.seed,
            DATA_DIR=options.data_dir,
            RUNS_DIR=options.runs_dir,
            PREFERENCES=options.preferences,
            PROMPTS=options.prompts,
        )
        if options.pairs < 1:
            raise WorkbookError(f"--pairs is {options.pairs}, but at least one pair is needed.")
        serve(names, yours.pairs(ws)[: options.pairs], ws.runs / "feedback.jsonl", ws.seed, options.host, options.port)
    except WorkbookError as e:
        print(e, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    print("Stopped. Every choice that was confirmed is in the log. Open pages keep the others until it runs again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
