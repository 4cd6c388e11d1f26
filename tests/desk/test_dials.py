"""The live controls of chapter 02: what they show, what they do with text and with errors."""

import pytest
import torch

from rlhf_helpers.desk import dials
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT
from rlhf_helpers.lesson import decoding

PROMPT = "What does a monkey eat?"


@pytest.fixture(scope="module")
def tuned():
    return models.load_model(ROOT / "data" / "models" / "finetuned", torch.device("cpu"))


def test_what_a_model_or_a_reader_says_is_shown_and_never_run(tuned):
    hostile = "<img src=x onerror=alert(1)>"
    assert "<img" not in dials.page_html(*tuned, hostile) and "&lt;img" in dials.page_html(*tuned, hostile)
    assert "<img" not in dials.row_html(hostile, 0.5, 0.5, False)


def test_at_temperature_0_and_with_top_k_1_every_seed_gives_greedys_answer(tuned):
    (greedy,) = decoding.generate(*tuned, [PROMPT], temperature=0)
    for how in ({"temperature": 0}, {"top_k": 1}):
        pages = {dials.page_html(*tuned, PROMPT, seed=seed, **how) for seed in (1, 2)}
        assert len(pages) == 1 and f">{greedy}</div>" in pages.pop()
    assert dials.page_html(*tuned, PROMPT, seed=1) != dials.page_html(*tuned, PROMPT, seed=2)


def test_what_cannot_be_drawn_is_crossed_out_and_counted(tuned):
    page = dials.page_html(*tuned, PROMPT, top_k=3, rows=10)
    assert page.count("<s>") == 7 + 1 and "3 tokens can be drawn" in page  # the legend has one, too
    assert "1 token can be drawn" in dials.page_html(*tuned, PROMPT, top_k=1)
    assert dials.page_html(*tuned, PROMPT).count("<s>") == 1


def test_the_arrow_is_at_the_first_token_of_the_answer_even_if_it_is_a_rare_one(tuned):
    model, tokenizer = tuned
    ids = models.prompt_ids(tokenizer, PROMPT)
    firsts = {s: dials.answer_ids(model, tokenizer, ids, 2.0, 0, 1.0, s)[0] for s in range(8)}
    usual = dials.distributions(model, ids, 2.0, 0, 1.0)[0].topk(5).indices.tolist()
    assert any(first not in usual for first in firsts.values())
    for seed, first in firsts.items():
        drawn = dials.page_html(model, tokenizer, PROMPT, temperature=2.0, seed=seed, rows=5).split("<b>→</b>")
        name = dials.escape(tokenizer.decode([first])).replace(" ", "␣").replace("\n", "⏎")
        assert len(drawn) == 3 and f">{name}</td>" in drawn[1][:200]


def test_an_edited_adjust_reaches_the_controls(tuned, monkeypatch):
    before = dials.page_html(*tuned, PROMPT, temperature=0.5)
    monkeypatch.setattr(decoding, "adjust", lambda logits, *dials: logits.float())
    assert dials.page_html(*tuned, PROMPT, temperature=0.5) != before


def test_a_move_redraws_and_an_error_is_shown_kept_and_raised(tuned, monkeypatch):
    live = dials.controls(*tuned, [PROMPT, "Where does a fox live?"])
    for control, value in ((live.dials["seed"], 3), (live.dials["top_k"], 2), (live.prompt, "Where does a fox live?")):
        before = live.page.value
        control.value = value
        assert live.page.value != before and not live.errors
    monkeypatch.setattr(dials, "page_html", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        live.dials["seed"].value = 4
    assert "ZeroDivisionError" in live.page.value and len(live.errors) == 1


def test_a_small_model_is_drawn_with_one_thread_and_the_others_come_back(tuned):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with dials.few_threads(tuned[0]):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
