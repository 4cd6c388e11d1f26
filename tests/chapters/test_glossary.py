"""The glossary: its links lead to sections that exist and use the term, and the reading list has what is cited."""

import re
from functools import cache
from urllib.parse import unquote

import nbformat
import pytest
from taught import PATHS

from rlhf_helpers.engine.files import ROOT

PAGE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
LINK = re.compile(r"\[([\w -]+): ([^\]]+)\]\(\.\./notebooks/(?:deeper/)?(\w+\.ipynb)#(\S+)\)(?=[ ,|])")
ROW = re.compile(r"^\| \*\*(.+?)\*\* \| .*\| (\S.*?) \| (\[.*) \|$", re.M)
IDEAS = ("pre-training", "fine-tuning", "limit", "choosing is easier than writing", "greedy", "sampling", "pairs")
IDEAS += ("annotated data set", "reward model", "loss", "PPO", "inference", "continuous improvement")


@cache
def cells(path):
    return nbformat.read(path, 4).cells


def sections(path):
    """{anchor: text of the section with its subsections}, as Jupyter and GitHub make anchors from headings."""
    parts = []
    for cell in cells(path):
        split = r"^(?=#{1,6} )" if cell.cell_type == "markdown" else "$^"
        for part in re.split(split, cell.source, flags=re.M):
            heading = re.match(r"(#{1,6}) (.*)", part) if cell.cell_type == "markdown" else None
            if heading:
                anchor = re.sub("[*`]", "", heading[2]).replace(" ", "-")
                parts.append([len(heading[1]), anchor, part])
            elif parts:
                parts[-1][2] += "\n" + part
    found = {}
    for k, (level, anchor, text) in enumerate(parts):
        for deeper, _, more in parts[k + 1 :]:
            if deeper <= level:
                break
            text += "\n" + more
        found[anchor] = text
    return found


SECTIONS = {path.name: sections(path) for path in PATHS}
TERMS = ROW.findall(PAGE)


def test_every_link_leads_to_a_heading():
    links = LINK.findall(PAGE)
    assert len(links) == PAGE.count("../notebooks/"), "a link of another form"
    for chapter, text, name, anchor in links:
        assert unquote(anchor) in SECTIONS[name], f"{name} has no heading for #{anchor}"
        assert name.startswith(chapter.replace("-", "").replace(" ", "_")) and text.replace(" ", "-") == unquote(anchor)


def test_sections_end_where_the_next_one_begins():
    found = SECTIONS["05_ppo.ipynb"]
    assert "def gae(" in found["5-·-Who-deserves-the-praise?-Value-head-and-GAE"]
    assert "def token_logprobs(" in found["How-probable-was-each-answer?"]
    assert "def token_logprobs(" in found["1-·-From-a-score-to-a-step"]
    assert "def gae(" not in found["4-·-Ratio-and-clip:-several-steps-on-one-batch"]
    assert "def token_logprobs(" not in found["Sample-and-score"]


@pytest.mark.parametrize("term, sentence, link", TERMS, ids=[t[0] for t in TERMS])
def test_a_term_is_used_where_its_link_leads(term, sentence, link):
    ((_, _, name, anchor),) = LINK.findall(link + " ")
    assert term.lower() in " ".join(SECTIONS[name][unquote(anchor)].lower().split())
    assert re.fullmatch(r"[^.]*(?:\.[^. ][^.]*|al\. [^.]*)*\.", sentence), "one sentence"


def test_the_terms_are_those_of_the_table_and_in_order():
    table = PAGE.split("## Terms")[1].split("## ")[0]
    assert len(TERMS) == sum(line.startswith("| **") for line in table.splitlines()) >= 60
    plain = [(not t[0].isascii(), re.sub(r"[^\w ]", "", t).lower()) for t, _, _ in TERMS]
    assert plain == sorted(plain) and len(plain) == len(set(plain))


def test_the_map_has_every_idea():
    table = PAGE.split("## Where each idea is shown")[1].split("## ")[0]
    ideas = [line.split("|")[1].lower() for line in table.splitlines() if "../notebooks/" in line]
    for idea in IDEAS:
        assert any(idea.lower() in row for row in ideas), idea


def test_what_the_chapters_cite_is_in_the_reading_list():
    listed = set(re.findall(r"^\| ([A-Z][^|]*? \d{4}) \|", PAGE, re.M))
    cited = r"([A-Z][\w-]+(?: et al\.| and [A-Z]\w+)?),? \(?((?:19|20)\d\d)\b"
    for path in PATHS:
        for cell in cells(path):
            if cell.cell_type == "markdown":
                for who, year in re.findall(cited, " ".join(cell.source.split())):
                    assert f"{who} {year}" in listed, f"{path.name} cites {who} {year}"


def test_readme_and_every_chapter_lead_to_the_glossary():
    assert "(docs/glossary.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    for path in PATHS:
        assert any("../docs/glossary.md)" in c.source for c in cells(path)), path.name
