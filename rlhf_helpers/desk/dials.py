"""The live controls of chapter 02: temperature, top-k and top-p on the real distribution, and an answer drawn from it.

Plain ipywidgets (7.7 and 8 alike).  The bars are HTML and no figure, so that a redraw takes milliseconds and follows
the page's theme; whatever a model says goes through `escape`.
"""

import traceback
from contextlib import contextmanager
from types import SimpleNamespace

import torch

from ..engine import models
from ..lesson import decoding
from .labeller import BOX, TEXT, escape, key_guard
from .plots import BLUE, SKY

LONGEST = 28  # tokens of the answer
SMALL = 10_000_000  # parameters: below, one thread is quicker than several, and far quicker on a busy machine
SWATCH = '<span style="display:inline-block;width:1.3em;height:0.55em;background:{}"></span>'
LEGEND = (
    f"{SWATCH.format(SKY)} p, the model's own probability · {SWATCH.format(BLUE)} after the dials (the number) · "
    "<s>crossed out</s>: can't be drawn · <b>→</b> drawn first by this seed"
)


@contextmanager
def few_threads(model):
    """Meanwhile a small model computes on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if model.num_parameters() < SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def distributions(model, ids, temperature, top_k, top_p):
    """The next token's probabilities before and after the dials: two tensors (vocabulary,)."""
    logits = model(torch.tensor([ids], device=model.device)).logits[0, -1].float().cpu()
    after = decoding.adjust(logits, temperature or 1e-4, top_k, top_p)  # as good as 0, where greedy takes the top
    return logits.softmax(-1), after.softmax(-1)


def answer_ids(model, tokenizer, ids, temperature, top_k, top_p, seed):
    """The tokens of one sampled answer, the end token among them if it came within `LONGEST` tokens."""
    rows, dice = torch.tensor([ids], device=model.device), torch.Generator(model.device).manual_seed(seed)
    inputs = model, rows, torch.ones_like(rows), LONGEST, decoding.end_tokens(model, tokenizer), dice
    return decoding.rollout(*inputs, temperature, top_k, top_p)[0][0, len(ids) :].tolist()


def row_html(name, before, after, drawn):
    """A token as a table row: its name (text), and its probability before and after as bars and as a number."""
    name = escape(name).replace(" ", "␣").replace("\n", "⏎")
    bars = "".join(
        f'<div style="background:{colour};height:{height}px;width:{100 * share:.1f}%"></div>'
        for colour, height, share in ((SKY, 5, before), (BLUE, 8, after))
    )
    cells = ("<b>→</b>" if drawn else "", name if after else f"<s>{name}</s>", f"{after:.3f}")
    style = "text-align:left;padding:1px 8px;background:none;color:inherit"
    shown = "".join(f'<td style="{style}">{cell}</td>' for cell in cells)
    return f'<tr style="background:none">{shown}<td style="{style};width:60%">{bars}</td></tr>'


def page_html(model, tokenizer, prompt, temperature=1.0, top_k=0, top_p=1.0, seed=0, rows=10):
    """The page below the controls: prompt, sampled answer, the most probable first tokens, legend."""
    ids, end = models.prompt_ids(tokenizer, prompt), decoding.end_tokens(model, tokenizer)
    before, after = distributions(model, ids, temperature, top_k, top_p)
    answer = answer_ids(model, tokenizer, ids, temperature, top_k, top_p, seed)
    best = before.topk(min(rows, len(before))).indices.tolist()
    best = best if answer[0] in best else [*best[:-1], answer[0]]
    names = ["[end]" if i in end else tokenizer.decode([i]) for i in best]
    table = "".join(row_html(n, before[i].item(), after[i].item(), i == answer[0]) for n, i in zip(names, best))
    said = tokenizer.decode(answer, skip_special_tokens=True).strip() + ("" if answer[-1] in end else " …")
    can = int((after > 0).sum())
    return (
        f'<div style="{BOX};max-width:44em"><b dir="auto">{escape(prompt)}</b>'
        f'<div dir="auto" style="{TEXT};min-height:4.5em">{escape(said)}</div>'
        f'<table style="width:100%;border-collapse:collapse;color:inherit"><tbody>{table}</tbody></table>'
        f'<div style="{TEXT}">{can:,} token{"s" * (can != 1)} can be drawn.\n{LEGEND}</div></div>'
    )


def controls(model, tokenizer, prompts, seed=0):
    """Display the controls for these prompts; returns `prompt`, `dials` (name -> slider), `page` and `errors`.

    Jupyter hides what goes wrong in a callback, so an error is shown on the page, kept in `errors`, and raised.
    """
    import ipywidgets as W
    from IPython.display import display

    layout = {"width": "auto", "max_width": "44em"}  # a step of every slider is some pixels wide
    prompt = W.Dropdown(options=list(prompts), description="prompt", layout=layout)
    dials = {
        "temperature": W.FloatSlider(value=1.0, min=0, max=2, step=0.05, layout=layout),
        "top_k": W.IntSlider(value=0, min=0, max=20, layout=layout),
        "top_p": W.FloatSlider(value=1.0, min=0.05, max=1, step=0.05, layout=layout),
        "seed": W.IntSlider(value=seed, min=0, max=max(99, seed), layout=layout),
    }
    page, errors = W.HTML(), []

    def redraw(change=None):
        try:
            with few_threads(model):
                page.value = page_html(
                    model, tokenizer, prompt.value, **{name: dial.value for name, dial in dials.items()}
                )
        except Exception:
            errors.append(traceback.format_exc())
            page.value = f'<pre style="{BOX}">{escape(errors[-1])}</pre>'
            raise

    for name, dial in dials.items():
        dial.description = name.replace("_", "-") + (" (0: off)" if name == "top_k" else "")
    for control in (prompt, *dials.values()):
        control.style.description_width = "7.5em"
        control.observe(redraw, names="value")
    redraw()
    box = W.VBox([prompt, *dials.values(), page, key_guard()], layout={"max_width": "46em"})
    box.add_class("rlhf-live")
    display(box)
    return SimpleNamespace(prompt=prompt, dials=dials, page=page, errors=errors)
