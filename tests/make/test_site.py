"""The reading site: links, figures, previews, search; and in a real browser its looks, light and dark, wide and narrow.

Screenshots go to the folder named by WORKBOOK_SCREENSHOTS, if it is set.
"""

import json
import os
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from rlhf_helpers.desk import card, colab
from rlhf_helpers.engine import files
from rlhf_helpers.engine.files import ROOT
from rlhf_helpers.make import site

pytest.importorskip("latex2mathml")
pytestmark = pytest.mark.slow  # the site is built once for each process
NOTEBOOKS = {p.stem: nbformat.read(p, 4) for p in colab.chapters()}
HOW = [(scheme, width) for scheme in ("light", "dark") for width in (360, 1366)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The whole site, built once."""
    made = tmp_path_factory.mktemp("site")
    site.main(["--out", str(made)])
    return made


@pytest.fixture(scope="session")
def pages(folder):
    """Each page, read."""
    return {p.name: BeautifulSoup(p.read_text(encoding="utf-8"), "html.parser") for p in sorted(folder.glob("*.html"))}


def outputs(name):
    return [o for c in NOTEBOOKS[name].cells for o in c.get("outputs", [])]


# ---------------------------------------------------------------- what the pages hold


def test_every_chapter_and_every_page_of_docs_is_there(pages):
    assert set(pages) == {f"{name}.html" for name in [*NOTEBOOKS, *site.pages().values()]}


def test_no_link_is_dead(pages, folder):
    ids = {name: {tag["id"] for tag in soup.find_all(id=True)} for name, soup in pages.items()}
    for name, soup in pages.items():
        for a in soup.find_all("a", href=True):
            if not re.match("https?:", a["href"]):
                path, _, anchor = unquote(a["href"]).partition("#")
                assert (folder / (path or name)).is_file(), (name, a["href"])
                assert not anchor or anchor in ids[path or name], (name, a["href"])


def test_a_link_to_this_repository_leads_to_a_file_of_it(pages):
    for name, soup in pages.items():
        for a in soup.find_all("a", href=re.compile(f"{site.GITHUB}/(blob|tree)/main/")):
            assert (ROOT / a["href"].split("/main/")[1]).exists(), (name, a["href"])


def test_nothing_is_fetched_from_a_network(pages, folder):
    for name, soup in pages.items():
        for tag in soup.find_all(["script", "link", "img", "iframe", "video", "audio", "source", "object", "embed"]):
            for address in (tag.get(key, "") for key in ("src", "href", "data", "srcset")):
                assert not re.match(r"(https?:)?//", address), (name, str(tag)[:200])
        for style in soup.find_all("style"):
            assert not re.search(r"@import|url\(", style.text), name
    assert "http" not in Path(site.__file__).with_name("site.html.j2").read_text(encoding="utf-8")


def test_every_figure_says_in_words_what_it_shows(pages):
    for name in NOTEBOOKS:
        figures = pages[f"{name}.html"].find_all("figure")
        assert len(figures) == sum("image/png" in o.get("data", {}) for o in outputs(name)), name
        for n, figure in enumerate(figures, 1):
            assert figure.img["alt"].strip() and figure.figcaption.summary.text.startswith(f"Figure {n}"), name
    assert all(img.get("alt") for soup in pages.values() for img in soup.find_all("img"))


@pytest.mark.parametrize(
    "alt, titles",
    [
        ("Loss; x: step; a line from 1 to 0.5. KL; x: step", "Loss · KL"),
        ("x: noise n; y: same choice", ""),
        ("The verdict of a, with its interval; x: win rate.", "The verdict of a, with its interval"),
    ],
)
def test_a_caption_is_the_titles_of_the_figure(alt, titles):
    assert site.caption(alt) == titles


def test_folded_cells_are_folded_and_open(pages):
    for name, nb in NOTEBOOKS.items():
        folded = [c for c in nb.cells if c.metadata.get("jupyter", {}).get("source_hidden")]
        hidden = [c for c in nb.cells if c.metadata.get("jupyter", {}).get("outputs_hidden") and c.get("outputs")]
        soup = pages[f"{name}.html"]
        assert [d.summary.text for d in soup.select("details.code")] == [site.title(c) for c in folded], name
        assert len(soup.select("details.out")) == len(hidden), name
        assert not soup.select("details[open]")


VIEW = new_output("display_data", {site.WIDGET_VIEW: {"model_id": "1"}, "text/plain": "VBox()"})
(STOOD,) = site.stand_in([VIEW])
TOLD = new_output("display_data", {"text/html": card.FALLBACK})
TABLE = new_output("display_data", {"text/html": "<table></table>"})


@pytest.mark.parametrize(
    "source, outputs, kind",
    [
        ("mine = labeller.Labeller(pairs)\nmine.show()", [], "card"),
        ("if whose == 'you':\n    Chat(model).show()", [], "chat"),
        ("display(live)", [], "part"),
        ("mine.show()", [STOOD], "card"),
        ("chat = Chat(policy)\nchat.show()", [new_output("stream", text="ready")], "chat"),
        ("W.VBox([box, go])", [], "part"),
        ("dials()", [VIEW], "part"),
        ("mine.show()", [TABLE], ""),
        ("ax.plot(x)\nplt.show()", [], ""),
        ("print(1)", [], ""),
    ],
)
def test_a_cell_whose_widget_needs_a_kernel_is_known(source, outputs, kind):
    assert site.widget(new_code_cell(source, outputs=outputs)) == kind


@pytest.mark.parametrize(
    "outputs", [[VIEW, TABLE], [STOOD, TABLE], [TOLD, TABLE]], ids=["make run", "committed", "card"]
)
def test_a_preview_takes_the_place_of_the_widget_and_of_nothing_else(outputs):
    nb = new_notebook(cells=[new_markdown_cell("# A"), new_code_cell("dials()", outputs=outputs)])
    soup = BeautifulSoup(site.page(nb, "00_a")[0], "html.parser")
    assert len(soup.select(".widget")) == 1 and len(soup.main.find_all("table")) == 1
    assert "VBox" not in soup.main.text and "Here stands" not in soup.main.text


def test_a_committed_notebook_says_once_that_a_widget_stood_there():
    assert site.stand_in([TABLE, VIEW]) == [TABLE, STOOD]
    assert site.stand_in([TOLD, VIEW, TABLE]) == [TOLD, TABLE]


def test_where_a_widget_stood_there_is_a_preview(pages):
    for name, nb in NOTEBOOKS.items():
        boxes = pages[f"{name}.html"].select(".widget")
        assert len(boxes) == sum(bool(site.widget(c)) for c in nb.cells if c.cell_type == "code")
        for box in boxes:
            assert len(box.text.split()) > 15 and box.find("a", href=re.compile("colab")), name
    pair = files.read_jsonl(ROOT / "data" / "pairs.jsonl")[0]
    assert pair["response_a"] in pages["00_rlhf_in_one_sitting.html"].select_one(".widget").text


def test_mathematics_is_mathml_and_no_tex_is_left(pages):
    assert "<mfrac>" in site.markdown(r"$$p = \frac{1}{2}$$") and "<math" in site.markdown(r"so $\beta$ is")
    for name, nb in NOTEBOOKS.items():
        text = "\n".join(
            re.sub(r"```.*?```|`[^`]*`", "", c.source, flags=re.S) for c in nb.cells if c.cell_type == "markdown"
        )
        soup = pages[f"{name}.html"]
        assert len(soup.find_all("math")) == len(re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", text, re.S)), name
        assert not soup.find("merror") and not re.search(r"\\\w", " ".join(m.text for m in soup.find_all("math")))


def test_previous_and_next_go_through_the_whole_series(pages):
    seen, name = [], next(iter(NOTEBOOKS))
    while name:
        seen.append(name)
        ahead = pages[f"{name}.html"].find("a", rel="next")
        behind = pages[f"{name}.html"].find("a", rel="prev")
        assert (Path(behind["href"]).stem if behind else None) == (seen[-2] if len(seen) > 1 else None)
        name = ahead and Path(ahead["href"]).stem
    assert seen == list(NOTEBOOKS)


def test_a_chapter_can_be_downloaded_opened_in_colab_and_looked_up(pages, folder):
    for name in NOTEBOOKS:
        links = [a["href"] for a in pages[f"{name}.html"].select(".tools a")]
        assert f"{name}.ipynb" in links and "glossary.html" in links
        assert any(link.endswith(f"/blob/main/{site.origin(name)}") and "colab" in link for link in links)
        assert (folder / f"{name}.ipynb").read_text("utf-8") == (ROOT / site.origin(name)).read_text("utf-8")


def entries(folder):
    return json.loads((folder / "search.js").read_text(encoding="utf-8").removeprefix("INDEX = ").rstrip(";\n"))


def printed_only():
    """(chapter, word) of a word that is in what a chapter printed, and in no text or code of the series."""
    written = " ".join(c.source for nb in NOTEBOOKS.values() for c in nb.cells).lower()
    written += " ".join((ROOT / path).read_text(encoding="utf-8") for path in site.pages()).lower()
    for name in NOTEBOOKS:
        for output in outputs(name):
            for word in re.findall(r"[a-z]{6,}", output.get("text", "").lower()):
                if word not in written:
                    return name, word
    raise AssertionError("no such word")


def test_the_search_finds_a_word_that_only_an_output_has(folder):
    name, word = printed_only()
    hits = [where for where, what, text in entries(folder) if word in text.lower()]
    assert any(where.startswith(f"{name}.html") for where in hits), (name, word, hits)


def test_the_search_knows_every_section(folder, pages):
    places = {where for where, _, _ in entries(folder)}
    for name, soup in pages.items():
        assert {f"{name}#{h['id']}" for h in soup.main.find_all(["h2", "h3"])} <= places


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(chromium):
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def look(page, name):
    if os.environ.get("WORKBOOK_SCREENSHOTS"):
        page.screenshot(path=Path(os.environ["WORKBOOK_SCREENSHOTS"]) / f"site-{name}.png", full_page=False)


@pytest.mark.browser
def test_no_page_scrolls_sideways(browser, folder, pages):
    page = browser.new_page()
    for name in pages:
        page.goto((folder / name).as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        for width in (360, 1366):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme, width", HOW)
def test_search_and_the_choice_of_light_or_dark_work(browser, folder, scheme, width):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto((folder / "02_decoding.html").as_uri())
    name, word = printed_only()
    page.fill("#search", word)
    link = page.locator(f"#found a[href^='{name}.html']").first
    link.wait_for()
    look(page, f"search-{scheme}-{width}")
    box = page.locator("#found").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    link.click()
    page.wait_for_url(f"**/{name}.html**")
    dark = "parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]) < 60"
    inverted = "getComputedStyle(document.querySelector('figure img')).filter.includes('invert')"
    for now in (scheme == "dark", scheme != "dark"):
        assert page.evaluate(dark) == page.evaluate(inverted) == now
        page.click("#theme")
    page.reload()
    assert page.evaluate(dark) == (scheme == "dark")
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme, width", HOW)
@pytest.mark.parametrize("name", ["index", "00_rlhf_in_one_sitting"])
def test_the_accessibility_checker_finds_nothing(browser, folder, name, scheme, width):
    axe = Path(pytest.importorskip("axe_playwright_python").__file__).with_name("axe.min.js")
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto((folder / f"{name}.html").as_uri())
    look(page, f"{name}-{scheme}-{width}")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.evaluate(axe.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    page.evaluate("document.querySelector('h1').style.color = 'var(--line)'")
    planted = page.evaluate("axe.run('h1', {runOnly: ['color-contrast']})")["violations"]
    assert [v["id"] for v in planted] == ["color-contrast"], "the checker sees nothing"
    assert not found, [(v["id"], n["html"][:200], n["failureSummary"]) for v in found for n in v["nodes"][:3]]
    page.close()
