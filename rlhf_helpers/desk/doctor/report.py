"""What the doctor says, and how it is shown: as text, as Markdown, as an HTML table."""

import textwrap
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from ...engine.files import ROOT

NOTHING = "Nothing found."


@dataclass(frozen=True)
class Finding:
    """Something that looks wrong.  With `ask` it is wrong only if the question at the start of `causes` has a yes."""

    name: str
    evidence: str  # what was seen, with its numbers
    causes: tuple  # likely ones, the likeliest first
    check: str  # what to look at next
    ask: bool = False


@dataclass
class Report:
    """What was looked at, what was measured, what was found, and what could not be seen."""

    title: str
    about: list = field(default_factory=list)  # sentences on what was read
    facts: dict = field(default_factory=dict)  # what was measured -> its value, as text
    findings: list = field(default_factory=list)
    unseen: list = field(default_factory=list)  # sentences on what this could not show, and what does

    @property
    def alarms(self):
        """The findings that need no further answer to be wrong."""
        return [f for f in self.findings if not f.ask]

    def _repr_html_(self):
        return as_html(self)


def short(path):
    """A path as it is shown: from the workbook's folder on, if it lies in there."""
    whole = Path(path).absolute()
    inside = whole.exists() and whole.is_relative_to(ROOT)
    return whole.relative_to(ROOT).as_posix() if inside else str(path)


def verdict(report):
    """One line: how much was found."""
    alarms, asks = len(report.alarms), len(report.findings) - len(report.alarms)
    if not report.findings:
        return NOTHING
    said = [f"{alarms} finding{'s' * (alarms != 1)}"] if alarms else []
    said += [f"{asks} question{'s' * (asks != 1)}"] if asks else []
    return f"{' and '.join(said)}."


def parts(finding):
    """(what, text) of a finding, after its name."""
    yield "seen", finding.evidence
    yield "likely", "; or ".join(finding.causes)
    yield "check", finding.check


def as_text(report, width=100):
    """The whole report as plain text in lines of at most `width` columns."""
    lines = [report.title, *report.about]
    if report.facts:
        longest = max(map(len, report.facts))
        lines += ["", *(f"  {what:{longest}}  {value}" for what, value in report.facts.items())]
    lines += ["", verdict(report)]
    for n, finding in enumerate(report.findings, 1):
        lines += ["", f"{n}. {'QUESTION' if finding.ask else 'LOOK'}  {finding.name}"]
        lines += [f"   {what:7}{text}" for what, text in parts(finding)]
    if report.unseen:
        lines += ["", "What this could not show:", *(f"- {x}" for x in report.unseen)]
    return "\n".join(wrapped(line, width) for line in lines)


def wrapped(line, width):
    """A line broken at `width`; what follows is indented to where its text begins."""
    indent = 10 if line.startswith("   ") else 2 if line.startswith("- ") else 0
    if line.startswith("  ") and not line.startswith("   "):  # a fact stays in one line
        return line
    return textwrap.fill(line, width, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False)


def cell(text):
    """A text as it may stand in a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def as_markdown(report):
    """The report as Markdown: facts and findings as tables."""
    lines = [f"**{cell(report.title)}** {' '.join(map(cell, report.about))}", "", f"**{verdict(report)}**"]
    if report.findings:
        lines += ["", "| | seen | likely | check |", "|---|---|---|---|"]
    for f in report.findings:
        name = f"{'Question: ' if f.ask else ''}{f.name}"
        lines.append(f"| {' | '.join(map(cell, (name, *(text for _, text in parts(f)))))} |")
    if report.facts:
        lines += ["", "| measured | |", "|---|---|"]
        lines += [f"| {cell(what)} | {cell(value)} |" for what, value in report.facts.items()]
    lines += ["", "What this could not show:", "", *(f"- {cell(x)}" for x in report.unseen)] if report.unseen else []
    return "\n".join(lines)


def as_html(report):
    """The report as HTML; whatever it quotes is shown as typed, never run."""
    from ..plots import text_table

    shown = [f"<p>{escape(' '.join([report.title, *report.about]))}</p>", f"<p><b>{verdict(report)}</b></p>"]
    if report.findings:
        rows = [(("Question: " if f.ask else "") + f.name, *(text for _, text in parts(f))) for f in report.findings]
        shown.append(text_table(["finding", "seen", "likely", "check"], rows).data)
    if report.facts:
        shown.append(text_table(["measured", ""], list(report.facts.items())).data)
    if report.unseen:
        points = "".join(f"<li>{escape(x)}</li>" for x in report.unseen)
        shown.append(f"<p>What this could not show:</p><ul>{points}</ul>")
    return "".join(shown)
