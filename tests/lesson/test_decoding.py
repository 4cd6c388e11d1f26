"""Decoding against references that share no code with it: generate, numpy, full forwards."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from rlhf_helpers import world
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.lesson import decoding, pairs
from rlhf_helpers.lesson.decoding import adjust, draw, end_tokens, greedy, rollout, sample

PAD, EOS, VOCABULARY = 0, 1, 7
SIGNIFICANCE = 1e-3  # every seed is fixed, so a test that passes once passes always


@pytest.fixture(scope="module")
def model():
    """A GPT-2 with seven tokens and weights so wide that its distributions are far from uniform."""
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=48,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return GPT2LMHeadModel(config).eval()


PROMPTS = [[2, 5], [3], [4, 4, 6, 2, 3], [6, 2, 5, 3], [5, 6, 4, 2, 2, 3, 4], [2]]


def padded(rows):
    return models.pad(rows, PAD, "left")


def reference(model, prompt, **options):
    """Continuations of one prompt by `model.generate`: rows of ids, cut after EOS."""
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return [until_end(row) for row in out[:, len(prompt) :].tolist()]


def until_end(row, ends=(EOS,)):
    stop = next((i for i, t in enumerate(row) if t in ends), len(row) - 1)
    return row[: stop + 1]


def answers(out, mask, start):
    return [row[m.bool()].tolist() for row, m in zip(out[:, start:], mask[:, start:])]


# ---------------------------------------------------------------- chi-squared


def tail(statistic, freedom):
    """P(chi-squared with `freedom` degrees >= statistic)."""
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return torch.special.gammaincc(half[0], half[1]).item()


def fit_p(counts, p):
    """p-value of observed counts against known probabilities; cells expecting under 5 are pooled."""
    counts, expected = np.asarray(counts, float), np.asarray(p, float) * np.sum(counts)
    rare = expected < 5
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 1e-9:
        assert counts[-1] == 0, "something of probability 0 was drawn"
        counts, expected = counts[:-1], expected[:-1]
    return tail(float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1)


def same_p(a, b):
    """p-value that two tables of counts ({outcome: count}) come from one distribution."""
    names = sorted(set(a) | set(b))
    x, y = (np.array([table.get(n, 0) for n in names], float) for table in (a, b))
    rare = x + y < 10
    if rare.any():
        x, y = np.append(x[~rare], x[rare].sum()), np.append(y[~rare], y[rare].sum())
    if x[-1] + y[-1] == 0:
        x, y = x[:-1], y[:-1]
    k = (y.sum() / x.sum()) ** 0.5
    return tail(float(((k * x - y / k) ** 2 / (x + y)).sum()), len(x) - 1)


def tally(rows):
    table = {}
    for row in rows:
        table[tuple(row)] = table.get(tuple(row), 0) + 1
    return table


def test_chi_squared_values():
    assert tail(3.841, 1) == pytest.approx(0.05, abs=1e-4)
    assert tail(18.307, 10) == pytest.approx(0.05, abs=1e-4)


@torch.no_grad()
def exact(model, prompt, length, temperature=1.0, top_k=0, top_p=1.0):
    """{continuation: probability} of all continuations of at most `length` tokens, by brute force."""
    table, open_ends = {}, {(): 1.0}
    for step in range(length):
        grown = {}
        for row, share in open_ends.items():
            logits = model(torch.tensor([prompt + list(row)])).logits[0, -1].double().numpy()
            for token, q in enumerate(plain_adjust(logits, temperature, top_k, top_p)):
                done = token == EOS or step == length - 1
                (table if done else grown)[row + (token,)] = share * q
        open_ends = grown
    return table


def against(rows, table):
    counts = tally(rows)
    assert set(counts) <= set(table)
    return fit_p([counts.get(k, 0) for k in table], list(table.values()))


# ---------------------------------------------------------------- adjust


def plain_adjust(logits, temperature=1.0, top_k=0, top_p=1.0):
    """The definition, one loop at a time, on a numpy vector; returns probabilities."""

    def softmax(x):
        e = np.exp(x - x.max())
        return e / e.sum()

    x = np.asarray(logits, float) / temperature
    order = sorted(range(len(x)), key=lambda i: -x[i])
    keep = set(order[:top_k] if top_k else order)
    if top_p < 1:
        p = softmax(np.array([x[i] if i in keep else -np.inf for i in range(len(x))]))
        kept, total = set(), 0.0
        for i in order:
            if i in keep and total < top_p:
                kept.add(i)
                total += p[i]
        keep = kept
    return softmax(np.array([x[i] if i in keep else -np.inf for i in range(len(x))]))


SETTINGS = [
    (1.0, 0, 1.0),
    (0.5, 0, 1.0),
    (2.0, 0, 1.0),
    (1.0, 1, 1.0),
    (1.0, 3, 1.0),
    (1.0, 0, 0.9),
    (1.0, 0, 0.3),
    (1.3, 4, 0.8),
    (0.7, 5, 0.95),
    (1.0, 99, 0.5),
    (1.0, 0, 1e-6),
]


@pytest.mark.parametrize("temperature, top_k, top_p", SETTINGS)
def test_adjust_is_the_definition(temperature, top_k, top_p):
    logits = torch.randn(40, 12, generator=torch.Generator().manual_seed(0)) * 2
    ours = adjust(logits, temperature, top_k, top_p).softmax(-1).numpy()
    plain = np.stack([plain_adjust(row, temperature, top_k, top_p) for row in logits.numpy()])
    np.testing.assert_allclose(ours, plain, atol=1e-5)
    assert ((ours > 0) == (plain > 0)).all()


@pytest.mark.parametrize("temperature, top_k, top_p", SETTINGS)
def test_adjust_is_that_of_transformers(temperature, top_k, top_p):
    theirs = logits = torch.randn(40, 12, generator=torch.Generator().manual_seed(1)) * 2
    theirs = TemperatureLogitsWarper(temperature)(None, theirs)
    theirs = TopKLogitsWarper(top_k)(None, theirs) if top_k else theirs
    theirs = TopPLogitsWarper(top_p)(None, theirs) if top_p < 1 else theirs
    torch.testing.assert_close(adjust(logits, temperature, top_k, top_p).softmax(-1), theirs.softmax(-1))


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, 9, elements=st.integers(-64, 64).map(lambda n: n / 8), unique=True),
    st.floats(0.1, 3),
    st.integers(0, 12),
    st.floats(0.05, 1),
)
def test_adjust_keeps_the_best_and_the_order(row, temperature, top_k, top_p):
    p = adjust(torch.from_numpy(row), temperature, top_k, top_p).softmax(-1).numpy()
    assert p.sum() == pytest.approx(1, abs=1e-5)
    assert p[row.argmax()] == p.max() > 0
    assert not top_k or (p > 0).sum() <= top_k
    ordered = p[np.argsort(-row)]
    assert (np.diff(ordered) <= 1e-6).all()


def test_adjust_keeps_the_shape_and_works_on_half_precision():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2))
    whole = adjust(logits, 0.8, 3, 0.9)
    assert whole.shape == logits.shape
    torch.testing.assert_close(whole[1, 2], adjust(logits[1, 2], 0.8, 3, 0.9))
    assert adjust(logits.bfloat16(), 0.8, 3, 0.9).dtype == torch.float32


def test_adjust_leaves_its_input_alone():
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    before = logits.clone()
    adjust(logits, 0.5, 2, 0.5)
    assert torch.equal(logits, before)


# ---------------------------------------------------------------- draw


def test_draw_follows_softmax():
    rows = torch.tensor(
        [
            [2.0, 0.0, -1.0, 1.0, -30.0, 0.5],
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [-torch.inf, 3.0, -torch.inf, 2.0, 1.0, -torch.inf],
        ]
    )
    n, generator = 20_000, torch.Generator().manual_seed(0)
    tokens = draw(rows.repeat(n, 1), generator)
    assert tokens.shape == (3 * n, 1) and tokens.dtype == torch.int64
    for i, logits in enumerate(rows):
        counts = torch.bincount(tokens[i::3, 0], minlength=6).numpy()
        p = logits.double().softmax(-1).numpy()
        assert (counts[p == 0] == 0).all(), "a token of probability 0 was drawn"
        assert fit_p(counts, p) > SIGNIFICANCE
        wrong = (logits / 1.2).double().softmax(-1).numpy()
        assert i == 1 or fit_p(counts, wrong) < SIGNIFICANCE, "the test could not see a wrong temperature"


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-24])
def test_draw_at_the_ends_of_the_interval(u, monkeypatch):
    """The least and the greatest number that torch.rand gives never reach a token of probability 0."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, u))
    logits = torch.randn(500, 50, generator=torch.Generator().manual_seed(0))
    logits[:, [0, -1]] = -torch.inf
    token = draw(logits, None)
    assert torch.isfinite(logits.gather(1, token)).all()


def test_draw_gives_rows_their_own_numbers():
    tokens = draw(torch.zeros(200, 50), torch.Generator().manual_seed(0))
    assert len(set(tokens[:, 0].tolist())) > 40


# ---------------------------------------------------------------- greedy


@pytest.mark.parametrize("prompt", PROMPTS, ids=str)
def test_greedy_is_generate(model, prompt):
    theirs = reference(model, prompt, max_new_tokens=20, do_sample=False)[0]
    assert greedy(model, prompt, 20, {EOS}) == prompt + theirs


@pytest.fixture(scope="module")
def embedded():
    return models.load_model(ROOT / "data" / "models" / "finetuned", torch.device("cpu"))


def test_greedy_is_generate_on_the_embedded_model(embedded):
    talker, tokenizer = embedded
    end = tokenizer.eos_token_id
    for prompt in world.prompts("test")[::70][:8]:
        ids = models.prompt_ids(tokenizer, prompt)
        theirs = talker.generate(torch.tensor([ids]), max_new_tokens=30, do_sample=False, eos_token_id=end)
        assert greedy(talker, ids, 30, {end}) == theirs[0].tolist()


def test_sample_has_the_distribution_of_the_embedded_model(embedded):
    """The first token of 600 answers against p itself."""
    talker, tokenizer = embedded
    ids, generator = models.prompt_ids(tokenizer, "What does a monkey eat?"), torch.Generator().manual_seed(0)
    with torch.no_grad():
        p = talker(torch.tensor([ids])).logits[0, -1].double().softmax(-1).numpy()
    drawn = [sample(talker, ids, 1, {tokenizer.eos_token_id}, generator)[-1] for _ in range(600)]
    counts = np.bincount(drawn, minlength=len(p))
    assert fit_p(counts, p) > SIGNIFICANCE
    sharper = p**1.3 / (p**1.3).sum()
    assert fit_p(counts, sharper) < SIGNIFICANCE  # the test can see


def test_greedy_stops_at_the_end_token_and_at_the_limit(model):
    whole = greedy(model, [2, 5], 12, eos=())
    assert len(whole) == 14
    token = whole[5]
    stopped = greedy(model, [2, 5], 12, eos={token})
    first = whole.index(token, 2)
    assert stopped == whole[: first + 1]


def test_greedy_and_sample_leave_the_prompt_alone(model):
    prompt = [2, 5]
    greedy(model, prompt, 3, {EOS})
    sample(model, prompt, 3, {EOS}, torch.Generator().manual_seed(0))
    assert prompt == [2, 5]


# ---------------------------------------------------------------- sample


@pytest.fixture(scope="module")
def samples(model):
    generator = torch.Generator().manual_seed(0)
    return [sample(model, [3, 6], 2, {EOS}, generator)[2:] for _ in range(2000)]


def test_sample_has_the_exact_distribution(model, samples):
    assert against(samples, exact(model, [3, 6], 2)) > SIGNIFICANCE
    assert against(samples, exact(model, [3, 6], 2, temperature=1.3)) < SIGNIFICANCE  # the test can see


def test_sample_has_the_distribution_of_generate(model, samples):
    options = {"max_new_tokens": 2, "do_sample": True, "top_k": 0, "num_return_sequences": 5000}
    torch.manual_seed(0)
    assert same_p(tally(samples), tally(reference(model, [3, 6], **options))) > SIGNIFICANCE
    torch.manual_seed(0)
    hotter = reference(model, [3, 6], temperature=1.3, **options)
    assert same_p(tally(samples), tally(hotter)) < SIGNIFICANCE


def test_sample_repeats_with_its_seed(model):
    def one(seed):
        return sample(model, [2], 20, (), torch.Generator().manual_seed(seed))

    assert one(5) == one(5)
    assert len({tuple(one(seed)) for seed in range(8)}) > 4


def test_sample_stops_after_the_end_token(model):
    for seed in range(20):
        row = sample(model, [2, 5], 15, {EOS}, torch.Generator().manual_seed(seed))[2:]
        assert EOS not in row[:-1] and (row[-1] == EOS or len(row) == 15)


# ---------------------------------------------------------------- rollout


@pytest.mark.parametrize("rows", [1, 3, len(PROMPTS)])
def test_rollout_at_temperature_0_is_greedy(model, rows):
    ids, mask = padded(PROMPTS[:rows])
    out, out_mask, _ = rollout(model, ids, mask, 20, EOS, temperature=0)
    ours = answers(out, out_mask, ids.shape[1])
    assert ours == [greedy(model, p, 20, {EOS})[len(p) :] for p in PROMPTS[:rows]]
    theirs = model.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=False)
    assert ours == [until_end(r) for r in theirs[:, ids.shape[1] :].tolist()]


@pytest.mark.parametrize("temperature, top_k, top_p", [(1.0, 0, 1.0), (0.7, 4, 0.9)])
def test_rollout_has_the_distribution_of_generate(model, temperature, top_k, top_p):
    """Two prompts of different lengths in one batch, so that half of the rows are padded."""
    short, long, n = [3, 6], [2, 4, 4, 5, 6], 4000
    ids, mask = padded([short, long] * n)
    generator = torch.Generator().manual_seed(0)
    out, out_mask, _ = rollout(model, ids, mask, 2, EOS, generator, temperature, top_k, top_p)
    ours = answers(out, out_mask, ids.shape[1])
    for i, prompt in enumerate((short, long)):
        assert against(ours[i::2], exact(model, prompt, 2, temperature, top_k, top_p)) > SIGNIFICANCE
        torch.manual_seed(0)
        theirs = reference(
            model,
            prompt,
            max_new_tokens=2,
            do_sample=True,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            num_return_sequences=n,
        )
        assert same_p(tally(ours[i::2]), tally(theirs)) > SIGNIFICANCE


@pytest.fixture(scope="module")
def rolled(model):
    ids, mask = padded(PROMPTS * 20)
    return ids, mask, rollout(model, ids, mask, 16, EOS, torch.Generator().manual_seed(1))


def test_rollout_keeps_the_prompts(rolled):
    ids, mask, (out, out_mask, _) = rolled
    assert torch.equal(out[:, : ids.shape[1]], ids) and torch.equal(out_mask[:, : ids.shape[1]], mask)


def test_the_first_end_token_is_inside_the_mask_and_nothing_after(rolled):
    ids, _, (out, out_mask, logprobs) = rolled
    ended = 0
    for row, m, lp in zip(out[:, ids.shape[1] :].tolist(), out_mask[:, ids.shape[1] :].tolist(), logprobs):
        length = sum(m)
        assert m == [1] * length + [0] * (len(m) - length) and length >= 1
        assert EOS not in row[: length - 1]
        assert row[length - 1] == EOS or length == len(row)
        assert row[length:] == [PAD] * (len(row) - length)
        assert (lp[length:] == 0).all() and (lp[:length] < 0).all()
        ended += length < len(row)
    assert ended > 20, "too few rows ended early for this test to mean anything"


@torch.no_grad()
def test_recorded_logprobs_are_those_of_a_full_forward(model, rolled):
    ids, _, (out, out_mask, logprobs) = rolled
    start = ids.shape[1]
    logits = model(out, attention_mask=out_mask, position_ids=models.position_ids(out_mask)).logits
    again = logits[:, start - 1 : -1].log_softmax(-1).gather(2, out[:, start:, None])[..., 0]
    real = out_mask[:, start:].bool()
    torch.testing.assert_close(logprobs[real], again[real], atol=2e-5, rtol=1e-4)
    alone = PROMPTS[0] + answers(out, out_mask, start)[0]  # the same row without padding
    p = model(torch.tensor([alone])).logits[0].log_softmax(-1)
    for t, token in enumerate(alone[len(PROMPTS[0]) :], len(PROMPTS[0])):
        assert logprobs[0, t - len(PROMPTS[0])].item() == pytest.approx(p[t - 1, token].item(), abs=2e-5)


def test_several_end_tokens(model):
    ids, mask = padded(PROMPTS * 20)
    ends = {EOS, 4}
    out, out_mask, _ = rollout(model, ids, mask, 16, ends, torch.Generator().manual_seed(1))
    rows = answers(out, out_mask, ids.shape[1])
    assert {row[-1] for row in rows if len(row) < 16} == ends
    assert not [row for row in rows if ends & set(row[:-1])]
    ours, ours_mask, _ = rollout(model, ids, mask, 16, ends, temperature=0)
    theirs = model.generate(ids, attention_mask=mask, max_new_tokens=16, do_sample=False, eos_token_id=sorted(ends))[
        :, ids.shape[1] :
    ].tolist()
    assert answers(ours, ours_mask, ids.shape[1]) == [until_end(r, ends) for r in theirs]


def test_rollout_repeats_with_its_seed(model):
    ids, mask = padded(PROMPTS)

    def once(seed):
        return rollout(model, ids, mask, 10, EOS, torch.Generator().manual_seed(seed))[0].tolist()

    assert once(0) == once(0) != once(1)


def test_rollout_computes_unfinished_rows_only(model, monkeypatch):
    ids, mask = padded(PROMPTS * 20)
    computed, plain = [], model.forward
    monkeypatch.setattr(model, "forward", lambda ids, **more: computed.append(len(ids)) or plain(ids, **more))
    _, out_mask, _ = rollout(model, ids, mask, 16, {EOS, 4}, torch.Generator().manual_seed(1))
    assert computed == out_mask[:, ids.shape[1] :].sum(0).tolist()
    assert computed[-1] < computed[0] == len(ids)


def test_rollout_leaves_the_global_generator_alone(model):
    ids, mask = padded(PROMPTS)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    rollout(model, ids, mask, 4, EOS, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- text in, text out


@pytest.fixture(scope="module")
def talker():
    tokenizer = models.new_tokenizer(world.prompts("train")[:300], vocab_size=400)
    return models.new_model(tokenizer, seed=0, layers=1, width=16, heads=2), tokenizer


def test_end_tokens_are_those_of_tokenizer_and_generation_config(talker):
    model, tokenizer = talker
    kept = model.generation_config.eos_token_id
    try:
        for extra, want in ((None, set()), (5, {5}), ([5, 9], {5, 9})):
            model.generation_config.eos_token_id = extra
            assert end_tokens(model, tokenizer) == {tokenizer.eos_token_id} | want
    finally:
        model.generation_config.eos_token_id = kept


def test_generate_repeats_with_its_seed(talker):
    prompts = world.prompts("train")[:6]

    def once(**options):
        return decoding.generate(*talker, prompts, max_new_tokens=8, **options)

    assert once(seed=1) == once(seed=1) != once(seed=2)
    assert once(temperature=0, seed=1) == once(temperature=0, seed=2)
    assert once(top_k=1) == once(temperature=0)


def test_generate_greedily_does_not_depend_on_the_batch(talker):
    prompts = world.prompts("train")[:7]
    whole = decoding.generate(*talker, prompts, temperature=0, max_new_tokens=8)
    assert decoding.generate(*talker, prompts, temperature=0, max_new_tokens=8, batch_size=2) == whole
    model, tokenizer = talker
    asked = models.prompt_ids(tokenizer, prompts[3])
    alone = greedy(model, asked, 8, {tokenizer.eos_token_id})[len(asked) :]
    assert tokenizer.decode(alone, skip_special_tokens=True).strip() == whole[3]


def test_generate_says_what_is_wrong_with_no_prompt(talker):
    with pytest.raises(WorkbookError, match="empty"):
        decoding.generate(*talker, [])


def test_pairs_sample_no_more_answers_than_they_need(monkeypatch):
    """The first turn asks as often as there are pairs to make, the next one only for those that are missing."""
    pulled = []

    def batches(model, tokenizer, prompts, seed):
        for i in range(0, len(prompts), 4):
            pulled.append(seed)
            yield [f"answer {seed} {k}" for k in range(i, min(i + 4, len(prompts)))]

    monkeypatch.setattr(pairs, "answer_batches", batches)
    made = pairs.make_pairs(None, None, [f"prompt {i}" for i in range(6)], 24, seed=0)
    assert len(made) == 24 and len({p["pair_id"] for p in made}) == 24
    assert pulled == [0] * 6 + [1000] * 2, "of each of six prompts the first answer has no other before it"
