"""The reading site: `make site`, or `python -m rlhf_helpers.make.site`, writes it to build/site.

Each executed notebook and each page of docs/ becomes one HTML file that needs nothing from a network: nbconvert with
a template of our own, site.html.j2, and site.css in it.  Mathematics becomes MathML.  Nothing is executed.  `make run`
writes the same pages, of what it executed, to runs/series.
"""

import argparse
import base64
import json
import mimetypes
import posixpath
import re
import struct
from pathlib import Path
from urllib.parse import unquote

from ..desk import colab
from ..engine import files
from ..engine.files import ROOT

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
GITHUB = f"https://github.com/{colab.REPOSITORY}"
MORE = {
    "docs/glossary.md": "Glossary",
    "docs/results.md": "Results",
    "docs/your_data.md": "Your data",
    "docs/diagnosis.md": "The doctor",
    "docs/real_llm.md": "A real LLM",
    "docs/hosting.md": "Colab, Kaggle and classes",
    "docs/teaching.md": "Teaching",
    "docs/setup.md": "Setting up",
}  # in the menu; the other pages of docs/ are reached by links
STAND_IN = '<div class="rlhf-fallback"><em>Here stands something to try: it appears when this cell has run.</em></div>'
DRAWS_WIDGET = re.compile(
    r"^ *(?!plt\.|fig)\S.*\.show\(\)$|^ *(display\()?W\.\w*Box\(|^ *display\(\w+\)$|interact\(", re.M
)


def pages():
    """The pages that are not notebooks: path from ROOT on, and the name of the page."""
    docs = {p.relative_to(ROOT).as_posix(): p.stem for p in sorted((ROOT / "docs").glob("*.md"))}
    return {"README.md": "index", "notebooks/deeper/README.md": "deeper", **docs}


def origin(name):
    """Where a chapter lies, from ROOT on: "notebooks/05_ppo.ipynb" or "notebooks/deeper/bug_museum.ipynb"."""
    inside = f"notebooks/deeper/{name}.ipynb"
    return inside if (ROOT / inside).exists() else f"notebooks/{name}.ipynb"


def slug(heading):
    """What GitHub calls a heading in links; applied to a link, the same."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def resolve(link, source):
    """The address in the site of a link that stands in the file `source` (a path from ROOT on).

    All pages lie in one folder.  What has no page there leads to GitHub.
    """
    if re.match(r"[a-z]+:|//", link):
        return link
    path, mark, anchor = link.partition("#")
    goal = posixpath.normpath(posixpath.join(posixpath.dirname(source), unquote(path))) if path else ""
    anchor = mark + slug(unquote(anchor))
    if goal.endswith(".ipynb"):
        return f"{Path(goal).stem}.html{anchor}"
    if not goal or goal in pages():
        return (f"{pages()[goal]}.html" if goal else "") + anchor
    return f"{GITHUB}/blob/main/{goal}" if (ROOT / goal).exists() else link


def markdown(source):
    """Markdown as HTML, with mathematics as MathML."""
    from latex2mathml.converter import convert
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    def mathml(tex, display="inline"):
        made = convert(tex.strip(), display=display).replace("<mi>&#x0007E;</mi>", "<mo>∼</mo>")
        return re.sub(r"<mi>(log|ln|exp)</mi>", r'<mo lspace=".17em" rspace=".17em">\1</mo>', made)

    class Renderer(IPythonRenderer):
        def inline_math(self, body):
            return mathml(body)

        def block_math(self, body):
            return f'<div class="math scroll">{mathml(body, "block")}</div>'

    return MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True)).render(source)


def title(cell):
    """What a folded cell is called: the `# @title` of its source."""
    return (re.findall(r"\A# @title (.+)", cell.source) or ["Code"])[0]


def widget(cell):
    """What a cell shows that needs a kernel: "card", "chat", "part", or "" for nothing.

    A committed notebook has a line of text in place of a view (see `stand_in`); where an older one has nothing at all,
    the source tells.
    """
    shown = [output.get("data", {}) for output in cell.get("outputs", [])]
    stood = any(WIDGET_VIEW in data or "rlhf-fallback" in data.get("text/html", "") for data in shown)
    if not stood and (any("text/html" in d or "image/png" in d for d in shown) or not DRAWS_WIDGET.search(cell.source)):
        return ""
    return "chat" if "Chat(" in cell.source else "card" if re.search(r"Labeller\(|\.show\(\)", cell.source) else "part"


def stand_in(outputs):
    """Outputs for a committed notebook: a line of text, unless one is there, in place of each view of a widget."""
    import nbformat

    line = nbformat.v4.new_output("display_data", {"text/html": STAND_IN})
    told = any("rlhf-fallback" in o.get("data", {}).get("text/html", "") for o in outputs)
    swapped = [line if WIDGET_VIEW in o.get("data", {}) else o for o in outputs]
    return [o for o in swapped if not told or o is not line]


def png_size(data):
    """(width, height) of a PNG in base64, in pixels."""
    return struct.unpack(">II", base64.b64decode(data[:44])[16:24])


def caption(alt):
    """The titles in an alternative text as `plots.describe` makes it: the first words about each pair of axes."""
    first = [part.split(";")[0].strip(" .") for part in re.split(r"\. (?=[A-Z])", alt)]
    return " · ".join(s for s in first if not re.match(r"[xy]: |bars|a line", s))


def exporter():
    """nbconvert's exporter with our template and filters."""
    from nbconvert import HTMLExporter

    own = {f.__name__: f for f in (title, widget, png_size, caption)}
    template = Path(__file__).with_name("site.html.j2").read_text(encoding="utf-8")
    return HTMLExporter(raw_template=template, filters={"markdown2html": markdown, **own})


def heading(nb, otherwise=""):
    """The first heading of a notebook."""
    return (re.findall(r"^# (.+)", nb.cells[0].source if nb.cells else "", re.M) or [otherwise])[0]


def page(nb, name, chapters={}, source=None, export=None):
    """The HTML page of a notebook, and its entries for the search, as a list of [address, heading, text].

    nb: a notebook node; nothing in it is changed.  chapters: those in the menu, in order: {name: title}.
    source: where it lies, from ROOT on, for its links.
    """
    import nbformat

    nb, source, near = nbformat.from_dict(nb), source or origin(name), list(chapters.items())
    at = list(chapters).index(name) if name in chapters else None
    if source.endswith(".ipynb") and nb.cells:  # it stands above the text, as a button
        link = r"^\[.*\]\(https://colab\.research\.google\.com/\S+\)$"
        nb.cells[0].source = re.sub(link, "", nb.cells[0].source, flags=re.M)
    deeper = {n: words for n, words in near if "/deeper/" in origin(n)}
    site = {
        "name": name,
        "title": heading(nb, name),
        "menu": {"The chapters": {n: words for n, words in near if n not in deeper}, "Deeper": deeper},
        "more": [(pages()[path], words) for path, words in MORE.items()],
        "notebook": source.endswith(".ipynb"),
        "colab": f"https://colab.research.google.com/github/{colab.REPOSITORY}/blob/main/{source}",
        "github": f"{GITHUB}/blob/main/{source}",
        "before": near[at - 1] if at else None,
        "after": near[at + 1] if at is not None and at + 1 < len(near) else None,
        "css": Path(__file__).with_name("site.css").read_text(encoding="utf-8"),
        "pair": files.read_jsonl(ROOT / "data" / "pairs.jsonl")[0],  # for previews of widgets
    }
    html, _ = (export or exporter()).from_notebook_node(nb, {"metadata": {"name": name}, "site": site})
    return finish(html, source, f"{name}.html", site["title"])


def finish(html, source, address, page_title):
    """Give a page its links, anchors, table of contents, and boxes that scroll; returns it and its search entries."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    main, toc, seen, entries = soup.main, soup.find(id="toc"), set(), [[address, page_title, ""]]
    for a in main.select("a[href]:not(.own)"):
        a["href"] = resolve(a["href"], source)
    for img in main.find_all("img"):
        path = (ROOT / source).parent / img["src"][:200]
        if path.is_file():
            data = base64.b64encode(path.read_bytes()).decode()
            img["src"] = f"data:{mimetypes.guess_type(path.name)[0]};base64,{data}"
    for table in main.select("table:not(.map *)"):
        table.wrap(soup.new_tag("div", attrs={"class": "scroll"}))
        heads = [th.get_text(" ", strip=True) for th in (table.tr or table).find_all("th")]
        if heads and max(len(td.get_text()) for td in table.find_all(["th", "td"])) > 60:
            table["class"] = "stacks"  # on a phone, each row becomes a block
            for row in table.find_all("tr"):
                for head, td in zip(heads, row.find_all(["th", "td"])):
                    td["data-head"] = head
        for corner in table.find_all(lambda tag: tag.name == "th" and not tag.get_text(strip=True)):
            corner.name = "td"
    for box in main.select("pre, .scroll"):
        box["tabindex"] = "0"
    for h in main.find_all(["h1", "h2", "h3", "h4"]):
        words, name = " ".join(h.get_text().split()), slug(h.get_text())
        h["id"] = name if name not in seen else f"{name}-{len(seen)}"
        seen.add(name)
        if h.name in ("h2", "h3"):
            toc.append(soup.new_tag("a", attrs={"href": f"#{h['id']}", "class": h.name}))
            toc.contents[-1].string = words
    for tag in main.find_all(lambda tag: tag.name != "style"):
        if tag.name in ("h2", "h3"):
            entries.append([f"{address}#{tag['id']}", f"{page_title} › {' '.join(tag.get_text().split())}", ""])
        entries[-1][2] += " ".join(["", tag.get("alt", ""), *tag.find_all(string=True, recursive=False)])
    return str(soup), [[where, what, " ".join(text.split())] for where, what, text in entries]


def build(paths, folder):
    """Write the site of the executed notebooks `paths` into `folder`: pages, notebooks, what the search looks into."""
    import nbformat

    folder, index, export = Path(folder), [], exporter()
    notes = {path.stem: (nbformat.read(path, 4), origin(path.stem)) for path in paths}
    chapters = {name: heading(nb, name) for name, (nb, _) in notes.items()}
    for path, name in pages().items():
        cell = nbformat.v4.new_markdown_cell((ROOT / path).read_text(encoding="utf-8"))
        notes[name] = (nbformat.v4.new_notebook(cells=[cell]), path)
    for name, (nb, source) in notes.items():
        html, entries = page(nb, name, chapters, source, export)
        files.write_text(folder / f"{name}.html", html)
        index += entries
    for path in paths:
        if path.parent != folder:
            files.write_text(folder / path.name, path.read_text(encoding="utf-8"))
    files.write_text(folder / "search.js", f"INDEX = {json.dumps(index, ensure_ascii=False)};\n")
    return folder / "index.html"


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rlhf_helpers.make.site", description="Write the reading site.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="the folder (build/site)")
    out = parser.parse_args(arguments).out
    print("To read the series, open", build(colab.chapters(), out))


if __name__ == "__main__":
    main()
