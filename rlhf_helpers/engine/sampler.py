"""The rollout for a GPU: the same draws as `decoding.rollout`, without asking the device anything at each token.

The plain loop asks after every token which answers have ended, and drops their rows, so that a CPU computes no token
too many.  On a GPU the question costs more than the tokens.  Here nothing changes its shape: keys and values have a
place of their own from the start, rows that ended are computed on and their tokens thrown away, and only every
sixteenth token asks whether anybody is left.  So the step can be recorded once as a CUDA graph and replayed.  Where a
model computes in 16 bits, the sampler is a copy of it in 16 bits, made anew for each rollout.
"""

import copy
import weakref
from dataclasses import dataclass, field

import torch
from transformers.cache_utils import Cache, DynamicLayer

from . import lora
from .arithmetic import arithmetic_of, autocast, keep_head_in_fp32
from .packing import window_of
from .trials import position_ids, vocabulary

ASK_EVERY = 16  # tokens between two looks at which answers have ended
ROUND_UP = 64  # lengths are rounded up to a multiple of it, so that a graph serves more than one batch


def is_fast(model):
    """Whether rollouts of this model go this way: on a CUDA device, and wherever it computes in 16 bits."""
    return next(model.parameters()).device.type == "cuda" or not arithmetic_of(model).exact


@dataclass
class Columns:
    """Which columns of `length` are written next; all layers of a cache look at the same one."""

    length: int
    now: torch.Tensor = field(default_factory=lambda: torch.zeros(0))


class Slots(DynamicLayer):
    """Keys and values of one layer in memory of a fixed size, written at the columns that the sampler names."""

    def __init__(self, columns):
        super().__init__()
        self.columns = columns
        self.keys: torch.Tensor | None = None

    def update(self, key_states, value_states, *args, **kwargs):
        if self.keys is None:
            self.keys, self.values = (
                x.new_zeros(*x.shape[:2], self.columns.length, x.shape[-1]) for x in (key_states, value_states)
            )
            self.is_initialized = True
        self.keys.index_copy_(2, self.columns.now, key_states)
        self.values.index_copy_(2, self.columns.now, value_states)
        return self.keys, self.values

    def get_seq_length(self):
        return 0  # positions and mask are given in every call, so nobody has to count


def twin(model, dtype):
    """A copy of a model with its layers in `dtype` and the model's own output head, and [(its weight, the model's)].

    In float32 there is nothing to copy: (None, []).
    """
    if dtype == torch.float32:
        return None, []
    keep_head_in_fp32(model)
    other = copy.deepcopy(model)
    head, own = other.get_output_embeddings(), model.get_output_embeddings()
    head.weight = own.weight  # also where it was tied to the embedding, which gets a copy
    kept = {id(p) for p in head.parameters()}
    lora.rounded(other, dtype, head)  # in place of those that the model holds, one for all its copies
    theirs = dict(model.named_parameters(remove_duplicate=False))
    pairs = []
    for name, p in other.named_parameters():
        if id(p) not in kept and not isinstance(p, lora.Held):
            p.data = p.data.to(dtype)
            p.requires_grad_(False)
            pairs.append((p, theirs[name]))
    return other, pairs


class Sampler:
    """Continues batches of one shape with one model.

    rows: answers.  length: columns of prompt and answer, at most.  steps: tokens of an answer, at most.  eos: ids that
    end one.  choose(logits, u): (rows, vocabulary), (rows, 1) -> next tokens and their log-probabilities, (rows, 1).
    The model keeps its sampler, so the sampler does not keep the model: nothing here goes round in a circle, and both
    are gone, with all their memory, as soon as nobody uses the model any more.
    """

    def __init__(self, model, rows, length, steps, eos, choose):
        self.arithmetic = arithmetic_of(model)
        self.own, (self.twin, self.pairs) = weakref.ref(model), twin(model, self.arithmetic.dtype)
        self.columns, self.choose, self.pad, self.graph = Columns(length), choose, model.config.pad_token_id or 0, None
        layers = model.config.get_text_config().num_hidden_layers
        self.cache = Cache(layers=[Slots(self.columns) for _ in range(layers)])

        def room(*shape, dtype=torch.long):
            return torch.zeros(*shape, dtype=dtype, device=model.device)

        self.eos = torch.tensor([sorted(eos)], device=model.device)
        self.u, self.alive = room(rows, 1, dtype=torch.float32), room(rows, 1, dtype=torch.bool)
        self.index, self.column, self.position = room(1), room(1), room(rows, 1)
        self.visible = room(rows, 1, 1, length, dtype=self.arithmetic.dtype)  # 0 where a token may look
        self.tokens, self.real = room(rows, steps), room(rows, steps)
        self.logprobs = room(rows, steps, dtype=torch.float32)
        self.logits = torch.zeros(0)  # as wide as the model makes them, from `begin` on

    @property
    def model(self):
        """What draws the tokens: the copy in 16 bits, or the model itself."""
        return self.twin or self.own()

    def __deepcopy__(self, memo):
        return None  # a copy of the model makes its own

    def look(self, tokens, mask, positions):
        """Logits (rows, vocabulary) after the last column of `tokens`; mask: (rows, 1, columns, length)."""
        out = self.model(
            tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()

    def begin(self, ids, mask):
        """Read the prompts (rows, columns), padded on the left."""
        for mine, theirs in self.pairs:
            mine.copy_(theirs)
        columns, least = ids.shape[1], torch.finfo(self.visible.dtype).min
        sees = mask[:, None, None, :].bool() & torch.ones(columns, columns, dtype=torch.bool, device=ids.device).tril()
        seen = self.visible.new_full((len(ids), 1, columns, self.columns.length), least)
        seen[..., :columns].masked_fill_(sees, 0.0)
        self.visible.copy_(seen[:, :, -1:])
        places, self.columns.now = position_ids(mask), torch.arange(columns, device=ids.device)
        logits = self.look(ids, seen, places)
        self.logits = self.logits.copy_(logits) if len(self.logits) else logits
        self.columns.now = self.column.fill_(columns)
        self.position.copy_(places[:, -1:])
        self.tokens.fill_(self.pad)
        for x in (self.index, self.real, self.logprobs):
            x.zero_()
        self.alive.fill_(True)

    def step(self):
        """Draw a token for each row, write it down, and read it; no shape, and nothing in Python, depends on it."""
        token, logprob = self.choose(self.logits, self.u)
        self.tokens.index_copy_(1, self.index, token.masked_fill(~self.alive, self.pad))
        self.logprobs.index_copy_(1, self.index, logprob.masked_fill(~self.alive, 0.0))
        self.real.index_copy_(1, self.index, self.alive.long())
        self.alive.logical_and_((token != self.eos).all(-1, keepdim=True))
        self.position.add_(1)
        self.visible.index_fill_(3, self.column, 0.0)
        self.logits.copy_(self.look(token, self.visible, self.position))
        self.index.add_(1)
        self.column.add_(1)

    def capture(self):
        """Record the step as a CUDA graph, after one to warm up; what it did must be begun anew."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.graph = graph

    def run(self, draw, generator):
        """Answers to the prompts that were begun: (tokens, real, logprobs), (rows, longest answer) each.

        `draw()` gives u, (rows, 1), from the generator, which is left where the plain loop would leave it.
        """
        steps, advance = self.tokens.shape[1], self.graph.replay if self.graph else self.step
        for start in range(0, steps, ASK_EVERY):
            state = generator and generator.get_state()
            for _ in range(start, min(start + ASK_EVERY, steps)):
                self.u.copy_(draw())
                advance()
            if not self.alive.any():
                break
        longest = int(self.real.any(0).sum())
        if generator:
            generator.set_state(state)
            for _ in range(longest - start):
                draw()
        return tuple(x[:, :longest].clone() for x in (self.tokens, self.real, self.logprobs))


# ---------------------------------------------------------------- one sampler for each model


@torch.no_grad()
def trial(model, columns=7):
    """Mean |difference|, nats, between the log-probabilities of a sampler and of plain passes, on two rows.

    columns: of prompt and answer, as many as will be used, since some layers look back a few tokens only.  Always the
    most probable token is taken.  Raises whatever a model raises that can't be sampled like this.
    """
    ids = torch.arange(1, 2 * columns - 7, device=model.device).view(2, -1) % vocabulary(model)
    mask = torch.ones_like(ids)
    mask[1, 0] = 0

    def choose(logits, u):
        token = logits.argmax(-1, keepdim=True)
        return token, logits.log_softmax(-1).gather(1, token)

    sampler = Sampler(model, 2, columns, 4, {-1}, choose)
    sampler.begin(ids, mask)
    answers, _, drawn = sampler.run(lambda: sampler.u, None)
    gaps = []
    for row, real, answer, logprobs in zip(ids, mask, answers, drawn):
        whole = torch.cat([row[real.bool()], answer])[None]
        with autocast(model):
            logits = model(whole).logits
        exact = logits.float().log_softmax(-1)[0, -5:-1].gather(-1, answer[:, None])[:, 0]
        gaps.append((exact - logprobs).abs().mean())
    return float(sum(gaps) / len(gaps))


def why_not(model, columns):
    """Why a model can't be sampled like this, in a few words, or ""; tried anew only for more columns than before."""
    window = window_of(model.config.get_text_config())
    if window < columns:
        return f"its layers look back {window} tokens only"
    if columns > getattr(model, "_tried_columns", 0) and not getattr(model, "_why_no_sampler", ""):
        model._tried_columns = columns
        try:
            gap, bound = trial(model, columns), 4 * arithmetic_of(model).mismatch  # of a few tokens, so a rough mean
            model._why_no_sampler = "" if gap <= bound else f"its log-probabilities are then off by {gap:.2g} nats"
        except torch.OutOfMemoryError:
            raise
        except Exception as e:  # whatever a model says of a cache or a mask that it does not know
            model._why_no_sampler = f"its cache can't have a fixed size ({type(e).__name__})"
    return model._why_no_sampler


def sampler_for(model, rows, length, steps, eos, choose, how):
    """The Sampler of a model for batches of this shape, with its graph on a GPU; kept for the next batch."""
    where = next(model.parameters()).data_ptr()
    key = where, arithmetic_of(model), rows, length, steps, frozenset(eos), how
    if getattr(model, "_sampler", None) is None or model._sampler.key != key:
        model._sampler = None  # free the memory first
        model._sampler = Sampler(model, rows, length, steps, eos, lambda logits, u: choose(logits, u, *how))
        model._sampler.key = key
    return model._sampler


def static_rollout(model, ids, mask, steps, eos, generator, draw, choose, how):
    """What `decoding.rollout` returns, or None, with one sentence for each model, where a model can't do it.

    draw(): u, (rows, 1).  choose(logits, u, *how): see `decoding.next_tokens`.
    """
    length = -(-(ids.shape[1] + steps) // ROUND_UP) * ROUND_UP
    said = hasattr(model, "_why_no_sampler")
    reason = why_not(model, max(7, ids.shape[1] + steps))
    if reason:
        if not said:
            print(f"Answers are sampled by the plain loop, which is slower on a GPU: {reason}.")
        return None
    eos = {eos} if isinstance(eos, int) else set(eos)
    sampler = sampler_for(model, len(ids), length, steps, eos, choose, how)
    sampler.begin(ids, mask)
    if ids.is_cuda and sampler.graph is None:
        try:
            sampler.capture()
        except RuntimeError as e:
            sampler.graph = False
            print(f"Answers are sampled without a CUDA graph, which is slower: {str(e).splitlines()[0][:200]}")
        sampler.begin(ids, mask)
    tokens, real, logprobs = sampler.run(draw, generator)
    return torch.cat([ids, tokens], 1), torch.cat([mask, real.to(mask.dtype)], 1), logprobs
