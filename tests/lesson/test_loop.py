"""The closed loop and the chat, on a tiny model that says one of a few things to everybody."""

import copy
import gc
import json
import math
import random
import statistics

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from taught import taught

from rlhf_helpers import world
from rlhf_helpers.desk.chat import Chat, turn_html
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, WorkbookError, parse
from rlhf_helpers.lesson import feedback, lm, loop, ppo, probe, reward
from rlhf_helpers.world.annotators import Annotator

SAYINGS = ("Yes.", "No, no, no, not now.", "Hello! Yes.", "Perhaps another day, who can say.")
PROMPTS = [
    f"May I {a} the {b}?"
    for a in ("see", "open", "take", "eat", "sell", "hide", "paint", "move", "keep", "bend")
    for b in ("box", "door", "cake", "book", "lamp", "coat", "cup", "hat", "rope", "ball", "shoe", "key")
]
TRAIN, HELD_OUT = PROMPTS[::2], PROMPTS[1::2]
SETTINGS = loop.RoundSettings(
    labels=128, ppo=ppo.Settings(updates=20, beta=0.2, batch_size=48, minibatches=2, lr=1e-3, max_new_tokens=16)
)


def short(prompt, answer):
    return -float(len(answer.split()))


def greets(prompt, answer):
    return float(answer.startswith("Hello"))


def annotator(taste=short, seed=0):
    return Annotator(taste, noise=0.1, temperature=0.1, seed=seed)


@pytest.fixture(scope="module")
def tiny():
    """(model, tokenizer): a GPT-2 that gives each prompt one of SAYINGS, about as often."""
    torch.manual_seed(0)
    rng = random.Random(0)
    tokenizer = models.new_tokenizer(PROMPTS + list(SAYINGS) * 5, vocab_size=330)
    model = models.new_model(tokenizer, layers=1, width=48, heads=2, context=128)
    rows = [{"prompt": p, "response": rng.choice(SAYINGS)} for p in TRAIN * 8]
    lm.fit(model, lm.demonstration_batches(tokenizer, rows, 48), 120, 5e-3)
    return model, tokenizer


@pytest.fixture
def no_gold(monkeypatch):
    """Any look at the gold judge is an error."""

    def caught(*arguments):
        raise AssertionError("the gold judge was asked")

    for name in ("gold_score", "gold_axes"):
        monkeypatch.setattr(world, name, caught)
        monkeypatch.setattr(f"rlhf_helpers.world.annotators.{name}", caught)


improve = taught("06", "improve", loop)

# ---------------------------------------------------------------- the loop


@pytest.mark.slow
@pytest.mark.parametrize("taste", [short, greets])
def test_one_round_follows_a_taste_and_never_sees_gold(tiny, no_gold, taste):
    """To try a taste of your own, write it as a function and add it to the list."""
    model, tokenizer = tiny
    before = copy.deepcopy(model.state_dict())
    candidate, report = loop.one_round(model, tokenizer, TRAIN, HELD_OUT, annotator(taste), SETTINGS)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "the current model changed"
    assert any(not torch.equal(v, before[k]) for k, v in candidate.state_dict().items())
    assert report["labels"] == SETTINGS.labels and report["labelled_by"] == [f"simulated:{taste.__name__}"]
    assert report["reward_end"] - report["reward_start"] > report["reward_error"] > 0
    assert report["blind"]["win_rate"] > 0.6 and report["kl"] > 0
    promoted, reason = loop.gate(report, loop.Limits(distinct=0))
    assert promoted and "wins" in reason, reason
    json.dumps(report)


@pytest.mark.slow
def test_the_gate_refuses_poisoned_feedback(tiny, no_gold):
    model, tokenizer = tiny
    honest = annotator()
    _, report = loop.one_round(model, tokenizer, TRAIN, HELD_OUT, honest, SETTINGS, labels_by=loop.inverted(honest))
    assert report["labelled_by"] == ["simulated:short, inverted"] and report["judged_by"] == "simulated:short"
    rise = report["reward_end"] - report["reward_start"]
    assert rise > report["reward_error"] > 0, "by its own reward the poisoned round went well"
    assert report["blind"]["verdict"] == "worse"
    promoted, reason = loop.gate(report, loop.Limits(distinct=0))
    assert not promoted and "must lie above 50%" in reason


def in_memory():
    """{address: bytes} of all that tensors hold, those of a gradient or of a model included."""
    found = (o for o in gc.get_objects() if issubclass(type(o), torch.Tensor))
    return {x.data_ptr(): x.nbytes() for x in (t.untyped_storage() for t in found)}


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["fp32", "bf16"])
def test_round_after_round_keeps_nothing_but_the_weights_of_the_model(tiny, no_gold, monkeypatch, bits):
    """Python's search for circles is off, so what keeps itself alive is seen, too."""
    monkeypatch.setenv("WORKBOOK_ARITHMETIC", bits)
    model, tokenizer = copy.deepcopy(tiny[0]), tiny[1]
    small = loop.RoundSettings(labels=24, ppo=ppo.Settings(updates=2, batch_size=16, minibatches=2, max_new_tokens=16))
    latest, earlier, held, resident = model, [], [], []
    gc.collect()
    gc.disable()
    try:
        for n in range(6):
            data = latest, tokenizer, TRAIN, HELD_OUT[:32], annotator(), small, n
            latest, report = loop.one_round(*data, anchor=model, earlier=earlier)
            earlier = [*earlier, *report.pop("rows")]
            assert all(p.grad is None for p in latest.parameters()), "a trained model carries its last gradient"
            held.append(in_memory())
            resident.append(psutil.Process().memory_info().rss)
            del data
    finally:
        gc.enable()
    assert [len(x) for x in held[3:]] == [len(held[2])] * 3
    assert [sum(x.values()) for x in held[3:]] == [sum(held[2].values())] * 3
    if bits == "fp32":  # in 16 bits a CPU's library keeps a compiled kernel for each of the last 1024 shapes
        assert resident[-1] - resident[2] < 64 * 2**20


def test_what_is_read_of_many_answers_is_read_of_a_few_at_a_time(tiny):
    """Logits and hidden states of all at once are the largest blocks of a round, and leave the heap in pieces."""
    model, tokenizer = copy.deepcopy(tiny[0]), tiny[1]
    rows = []
    model.base_model.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    loop.sample_answers(tiny[0], model, tokenizer, TRAIN + HELD_OUT, 16)
    assert sum(rows) == 120 and max(rows) <= 32
    rows.clear()
    probe.features(model, tokenizer, TRAIN + HELD_OUT, ["Yes."] * 120)
    assert sum(rows) == 120 and max(rows) <= 64


@pytest.mark.slow
def test_history_is_kept_and_a_refused_round_changes_nothing(tiny, no_gold):
    model, tokenizer = tiny
    honest, seen = annotator(), []
    last, history = improve(
        model,
        tokenizer,
        TRAIN,
        HELD_OUT,
        honest,
        rounds=2,
        settings=SETTINGS,
        labels_by=loop.inverted(honest),
        on_round=lambda *a: seen.append(a),
    )
    assert last is model
    assert [(r["round"], r["promoted"]) for r in history] == [(1, False), (2, False)]
    assert all(r["reason"] and r["blind"]["n"] == len(HELD_OUT) for r in history)
    assert [row for row, _, _ in seen] == history and all(current is model for _, _, current in seen)
    json.dumps(history)
    nothing = loop.Limits(win_low=-1, distinct=0, kl=math.inf, ended=0, empty=1, longer=math.inf)
    last, history = improve(model, tokenizer, TRAIN, HELD_OUT, honest, rounds=2, settings=SETTINGS, limits=nothing)
    assert last is not model and [r["promoted"] for r in history] == [True, True]
    assert history[1]["learned_from"] > history[0]["learned_from"], "labels of promoted rounds add up"


def test_the_same_seed_gives_the_same_round(tiny):
    model, tokenizer = tiny
    few = loop.RoundSettings(labels=16, ppo=ppo.Settings(updates=2, batch_size=16, max_new_tokens=16))
    reports = [loop.one_round(model, tokenizer, TRAIN, HELD_OUT, annotator(), few, seed=s)[1] for s in (1, 1, 2)]
    for r in reports:
        r.pop("seconds")
    assert reports[0] == reports[1] != reports[2]


def test_labels_of_a_person_can_be_used(tiny):
    model, tokenizer = tiny
    pair = {"pair_id": "1", "prompt": TRAIN[0], "response_a": "Yes.", "response_b": "No, no, no, not now."}
    labels = [feedback.label_event({**pair, "pair_id": str(i)}, "a", "a", "you") for i in range(8)]
    few = loop.RoundSettings(ppo=ppo.Settings(updates=1, batch_size=8, max_new_tokens=16))
    _, report = loop.one_round(model, tokenizer, TRAIN, HELD_OUT, annotator(), few, labels=labels)
    assert report["labelled_by"] == ["you"] and len(report["rows"]) == 8


def test_what_a_round_cannot_use_is_said(tiny):
    model, tokenizer = tiny
    for prompts, judge, words in (
        ([], HELD_OUT, "needs prompts"),
        (TRAIN, [], "needs prompts"),
        (TRAIN, TRAIN, "not be fair"),
    ):
        with pytest.raises(WorkbookError, match=words):
            loop.one_round(model, tokenizer, prompts, judge, annotator(), SETTINGS)
    ties = Annotator(lambda p, a: 0.0, tie_width=1.0)
    with pytest.raises(WorkbookError, match="no pair to learn from"):
        loop.one_round(model, tokenizer, TRAIN, HELD_OUT, ties, SETTINGS)


# ---------------------------------------------------------------- the reward model of few labels


def test_the_probe_finds_the_direction_and_ties_hold_the_rest_still():
    torch.manual_seed(0)
    x = torch.randn(300, 5)
    w = probe.logistic_weights(x, (x[:, 0] > 0).float())
    assert w[0] > 1 and w[0] > 4 * w[1:].abs().max()
    p = torch.sigmoid(x.double() @ w.double())  # the gradient of the penalised loss is zero there
    assert (x.double().T @ (p - (x[:, 0] > 0).double()) + probe.RIDGE * w).abs().max() < 1e-3
    one = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    with_ties = probe.logistic_weights(one, torch.tensor([1.0, 1.0, 0.5, 0.5]))
    without = probe.logistic_weights(one[:2], torch.tensor([1.0, 1.0]))
    assert abs(without[0] - without[1]) < 1e-6 and with_ties[0] > with_ties[1] + 0.1


def test_features_do_not_depend_on_the_batch(tiny):
    model, tokenizer = tiny
    said = [SAYINGS[i % 4] for i in range(8)]
    together = probe.features(model, tokenizer, TRAIN[:8], said)
    alone = torch.cat([probe.features(model, tokenizer, [p], [s]) for p, s in zip(TRAIN, said)])
    assert together.shape == (8, 4 * model.config.hidden_size)
    assert torch.allclose(together, alone, atol=1e-4)


def test_a_reward_model_lends_the_probe_what_its_score_is_read_from(tiny, tmp_path):
    model, tokenizer = tiny
    models.save_model(model, tokenizer, tmp_path / "tiny", "A small model.\n")
    judge, _ = models.load_reward_model(tmp_path / "tiny")
    prompts, said = TRAIN[:40], [SAYINGS[i % 4] for i in range(40)]
    states = probe.last_states(judge, tokenizer, prompts, said)
    assert torch.allclose(
        (states @ judge.score.weight.T)[:, 0], reward.score(judge, tokenizer, prompts, said), atol=1e-4
    )
    taught = probe.Probe(model, tokenizer, prompts, said, judge)
    own = 4 * model.config.hidden_size
    variance = taught.read(prompts, said).var(0)  # of a score with standard normal weights, for each model
    assert variance[:own].sum().item() == pytest.approx(probe.PRIOR_VARIANCE / 2, rel=0.01)
    assert variance[own:].sum().item() == pytest.approx(probe.PRIOR_VARIANCE / 2, rel=0.01)


def test_what_lies_beyond_the_answers_seen_earns_nothing(tiny):
    model, tokenizer = tiny
    judge = probe.Probe(model, tokenizer, TRAIN[:40], [SAYINGS[i % 4] for i in range(40)])
    judge.learn([{"prompt": p, "chosen": SAYINGS[0], "rejected": SAYINGS[1]} for p in TRAIN[:8]])
    odd = judge.read(TRAIN[:2], ["Yes." * 20, "?!" * 20])
    assert (odd <= judge.high * judge.scale).all() and (odd >= judge.low * judge.scale).all()
    assert judge(TRAIN[:1], [SAYINGS[0]]) > judge(TRAIN[:1], [SAYINGS[1]])


def test_the_pairs_that_are_asked(tiny):
    model, tokenizer = tiny
    rng = random.Random(0)
    assert set(loop.most_different("?", ["a b c", "a b d", "x y"], rng)) == {"x y", "a b c"}
    choose = loop.best_and_another(lambda prompts, texts: torch.tensor([float(len(t)) for t in texts]))
    assert all(choose("?", ["a", "bb", "ccc"], rng)[0] == "ccc" for _ in range(5))
    groups = loop.candidates(model, tokenizer, TRAIN, 100)
    assert len(groups) == 100 and all(len(set(t)) == len(t) > 1 for _, t in groups)
    labels = loop.ask(groups[:10], loop.most_different, annotator(), 0)
    assert len({x["pair_id"] for x in labels}) == 10 and {x["event"] for x in labels} == {"label"}


# ---------------------------------------------------------------- the gate, by hand

GOOD = {
    "blind": loop.verdict(70, 10, 20),
    "kl": 5.0,
    "ended": 1.0,
    "empty": 0.0,
    "distinct": 0.9,
    "words": 9.0,
    "words_before": 10.0,
}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"blind": loop.verdict(52, 0, 48)}, "must lie above"),
        ({"blind": loop.verdict(20, 10, 70)}, "must lie above"),
        ({"kl": 99.0}, "nats"),
        ({"kl": math.nan}, "nats"),
        ({"ended": 0.5}, "come to an end"),
        ({"empty": 0.3}, "empty"),
        ({"words": 60.0}, "6.0 times as long"),
        ({"distinct": 0.01}, "same thing"),
    ],
)
def test_each_limit_of_the_gate(change, words):
    assert loop.gate(GOOD) == (True, "it wins 75% of 100 blind comparisons (95% interval 65.7% to 82.5%)")
    promoted, reason = loop.gate({**GOOD, **change})
    assert not promoted and words in reason


# ---------------------------------------------------------------- the blind test


def test_the_limit_of_the_drift_lies_far_above_what_honest_rounds_and_runs_reach():
    """Of every taste and seed in the published tables; half as far again as the furthest of them still passes."""
    tables = [ROOT / f"benchmarks/results/{name}.json" for name in ("tastes", "ppo_seeds")]
    reached = [r["kl"] for path in tables for r in parse(path.read_bytes())["runs"]]
    assert len(reached) >= 55 and max(reached) < 6 and 1.5 * max(reached) <= loop.Limits().kl, max(reached)


@pytest.mark.slow
def test_the_gate_refuses_a_policy_that_has_hacked_a_weak_judge():
    """Chapter 05's: 60 labels from the fine-tuned model on, no penalty, 24 updates; other limits let it pass."""
    policy, tokenizer = models.load_model(ROOT / "data/models/finetuned")
    anchor, train = copy.deepcopy(policy), world.prompts("train")
    torch.manual_seed(0)
    weak, _ = models.load_reward_model(ROOT / "data/models/finetuned")
    labels = feedback.read_events(ROOT / "data/feedback.jsonl")[0][:60]
    rows = feedback.to_preferences(feedback.replay(labels))[0]
    reward.train_reward_model(weak, tokenizer, rows, epochs=4, batch_size=16)
    some = train[::12]
    said, _, _ = loop.sample_answers(anchor, anchor, tokenizer, some)
    scores = ppo.normalized_reward(lambda p, r: reward.score(weak, tokenizer, p, r), some, said)
    dials = ppo.Settings(updates=24, batch_size=32, lr=4e-4, beta=0.0)
    ppo.train(policy, tokenizer, scores, train, dials, frozen=(weak,))
    said, kl, _ = loop.sample_answers(policy, anchor, tokenizer, some)
    assert kl > 2 * loop.Limits().kl
    assert statistics.mean(world.gold_axes(p, r)["broken"] > 0 for p, r in zip(some, said)) > 0.5
    promoted, reason = loop.gate({**GOOD, "kl": kl})
    assert not promoted and "nats from the anchor" in reason


def test_verdict_words():
    assert loop.verdict(9, 0, 1)["verdict"] == "better"
    assert loop.verdict(1, 0, 9)["verdict"] == "worse"
    assert loop.verdict(6, 0, 4)["verdict"] == "inconclusive"
    assert loop.verdict(0, 50, 0) == {
        "n": 50,
        "wins": 0,
        "ties": 50,
        "losses": 0,
        "win_rate": 0.5,
        **dict(zip(("low", "high"), feedback.wilson(25, 50))),
        "verdict": "inconclusive",
    }
    with pytest.raises(WorkbookError, match="no comparison"):
        loop.verdict(0, 0, 0)


def share_called_better(n, p, z=1.96, tests=4000):
    """How many of `tests` tests of n comparisons each, decided by a coin of share p, Wilson's interval calls better."""
    wins = torch.distributions.Binomial(n, torch.tensor(p)).sample((tests,)).int().tolist()
    called = {k: feedback.wilson(k, n, z)[0] > 0.5 for k in set(wins)}
    return sum(called[k] for k in wins) / tests


@pytest.mark.parametrize(
    "n, p", [(24, 0.7), (100, 0.6), (160, 0.5), (160, 0.55), (200, 0.55), (400, 0.55), (800, 0.55)]
)
def test_the_power_is_the_share_of_simulated_tests_that_find_it(n, p):
    torch.manual_seed(n)
    # 4,000 tests: 2.6 standard errors at most; and one comparison more or less, since wins are whole numbers
    step = loop.power(n, p) - loop.power(n, p - 0.5 / n)
    assert share_called_better(n, p) == pytest.approx(loop.power(n, p), abs=2.6 * 0.5 / 4000**0.5 + step)


def test_the_power_of_the_numbers_that_chapter_06_names():
    assert [round(loop.power(n, 0.55), 2) for n in (160, 400)] == [0.24, 0.52]
    assert loop.power(780, 0.55) < 0.8 <= loop.power(800, 0.55)
    assert all(abs(loop.power(n, 0.5) - 0.025) < 1e-4 for n in (24, 160, 800)), "whatever n is"
    torch.manual_seed(0)
    one = share_called_better(160, 0.5, tests=20_000)
    ten = torch.rand(4000, 10) < one  # a gate that is asked ten times about candidates that are no better
    assert ten.any(1).float().mean().item() == pytest.approx(1 - (1 - loop.power(160, 0.5)) ** 10, abs=0.04)


def test_ties_make_the_interval_wider_than_it_need_be():
    """A tie counts half, which varies less than a win or a loss, so fewer no-better models are called better."""
    torch.manual_seed(0)
    votes = torch.multinomial(torch.tensor([0.35, 0.3, 0.35]), 2000 * 160, replacement=True).view(2000, 160)
    counts = [(votes == k).sum(1).tolist() for k in range(3)]
    better = sum(loop.verdict(*c)["verdict"] == "better" for c in zip(*counts))
    assert better / 2000 < 0.02


def test_blind_test_is_fair():
    """Sides are shuffled, so somebody who always takes the left one finds no winner."""

    class Left:
        name = "left"
        asked = []

        def choose(self, prompt, left, right):
            self.asked.append(left)
            return "left"

    n = 400
    result = loop.blind_test([f"{i}?" for i in range(n)], ["ours"] * n, ["theirs"] * n, Left(), seed=1)
    assert result["verdict"] == "inconclusive" and 0.4 < result["win_rate"] < 0.6
    assert Left.asked.count("ours") == result["wins"] == n - result["losses"]
    sharp = Annotator(short, noise=0, temperature=0.01)
    a, b = ["Yes."] * 30, ["Yes, of course."] * 30
    assert loop.blind_test(list(range(30)), a, b, sharp)["wins"] == 30
    assert loop.blind_test(list(range(30)), b, a, sharp)["losses"] == 30
    assert loop.blind_test(list(range(30)), a, a, sharp)["ties"] == 30
    with pytest.raises(ValueError):
        loop.blind_test(["one?"], a, b, sharp)


def test_kl_of_a_model_to_itself_is_zero(tiny):
    model, tokenizer = tiny
    answers, kl, ended = loop.sample_answers(model, model, tokenizer, HELD_OUT, 16)
    assert abs(kl) < 1e-3 and len(answers) == len(HELD_OUT) and 0 <= ended <= 1


# ---------------------------------------------------------------- the chat


@pytest.fixture
def chat(tiny, tmp_path):
    return Chat(*tiny, tmp_path / "feedback.jsonl", every=2, max_new_tokens=16)


def test_every_second_turn_is_a_comparison_and_is_logged(chat):
    assert len(chat.ask(TRAIN[0])) == 1
    with pytest.raises(WorkbookError, match="nothing to compare"):
        chat.prefer("a")
    a, b = chat.ask(TRAIN[1])
    assert a != b
    with pytest.raises(WorkbookError, match="is not"):
        chat.prefer("left")
    chat.prefer("b")
    events, warnings = feedback.read_events(chat.path)
    assert not warnings and len(events) == 1
    event = events[0]
    assert (event["annotator"], event["choice"], event["prompt"]) == ("you", "b", TRAIN[1])
    assert (event["response_a"], event["response_b"]) == (a, b) and event["seconds"] is None
    assert feedback.to_preferences(events)[0][0]["chosen"] == b
    kept = [json.loads(line)["prompt"] for line in chat.prompts_path.read_text().splitlines()]
    assert kept == TRAIN[:2]
    chat.forget()
    assert not chat.prompts_path.exists() and chat.path.exists() and chat.turns == []


def test_another_answer_can_be_had_and_is_compared_with_the_first(chat):
    with pytest.raises(WorkbookError, match="First ask"):
        chat.again()
    (first,) = chat.ask(TRAIN[0])
    streamed = []
    a, b = chat.again(lambda answers: streamed.append(list(answers)))
    assert a == first != b and streamed[-1] == [a, b] and len(chat.turns) == 1
    with pytest.raises(WorkbookError, match="Choose between"):
        chat.again()
    assert chat.prefer("b")["response_b"] == b and chat.turns == [(TRAIN[0], [b])]
    assert chat.given() == 1


def test_a_model_that_says_the_same_thing_again_leaves_nothing_to_compare(chat):
    chat.temperature = 0.0
    (first,) = chat.ask(TRAIN[0])
    assert chat.again() == [first] and chat.pending is None and chat.given() == 0


@pytest.mark.parametrize(
    "text",
    [
        "Hello",
        "你好，世界",
        "مرحبا",
        "🙂🙃",
        "a\x00b",
        "\ud800",
        "<|endoftext|>",
        "<|user|>",
        "<script>x</script>",
        "line\nbreak",
        "$5 and $6",
        "x" * 30,
    ],
)
def test_any_script_gets_an_answer(chat, text):
    assert isinstance(chat.ask(text)[0], str)
    json.loads(chat.prompts_path.read_text().splitlines()[0])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    text=st.one_of(
        st.text(max_size=80),
        st.text(st.sampled_from("\0\u202e\u200d\ufeff🙂مש你\ud800\r\t <|>"), max_size=40),
        st.builds(str.__mul__, st.text(min_size=1, max_size=3), st.sampled_from([1000, 100_000])),
    )
)
def test_whatever_is_typed_gets_an_answer_or_a_sentence(chat, text):
    try:
        answers = chat.ask(text)
        assert 1 <= len(answers) <= 2 and all(isinstance(a, str) for a in answers)
        turn_html(text, answers)
    except WorkbookError as e:
        assert str(e) and "\n" not in str(e)


def test_a_prompt_that_there_is_no_room_for_leaves_no_half_line(chat):
    resource = pytest.importorskip("resource")
    chat.ask(TRAIN[0])
    before = chat.prompts_path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 9, hard))  # as on a disk that is almost full
    try:
        with pytest.raises(WorkbookError, match="cannot be kept in .*chat_prompts.jsonl"):
            chat.ask(TRAIN[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert chat.prompts_path.read_bytes() == before


@pytest.mark.parametrize(
    "text, words", [("", "empty"), ("  \n", "empty"), ("what " * 200, "too long"), (None, "text"), (7, "text")]
)
def test_bad_input_gets_a_sentence(chat, text, words):
    with pytest.raises(WorkbookError, match=words) as error:
        chat.ask(text)
    assert "\n" not in str(error.value) and chat.turns == [] and not chat.prompts_path.exists()


def test_temperature_zero_is_greedy_and_seeds_repeat(tiny, tmp_path):
    def talk(**options):
        chat = Chat(*tiny, tmp_path / "f.jsonl", every=0, max_new_tokens=16, **options)
        return [chat.ask(p)[0] for p in TRAIN]

    assert talk(temperature=0.0, seed=0) == talk(temperature=0.0, seed=1)
    assert talk(seed=0) == talk(seed=0) != talk(seed=1)
    with pytest.raises(WorkbookError, match="temperature"):
        talk(temperature=-1.0)


def test_a_single_answer_is_rated_and_two_are_not(chat):
    with pytest.raises(WorkbookError, match="no single answer"):
        chat.rate(True)
    (answer,) = chat.ask(TRAIN[0])
    chat._build()
    chat._refresh()
    assert chat.rating.layout.display == ""
    click(chat, chat.thumbs[1])
    assert "Saved: a bad answer" in chat.status.value and not chat.errors
    chat.ask(TRAIN[1])  # a comparison
    chat._refresh()
    assert chat.rating.layout.display == "none"
    with pytest.raises(WorkbookError, match="no single answer"):
        chat.rate(True)
    events = feedback.read_events(chat.path, kinds=("rating", "undo"))[0]
    rows, _ = feedback.to_unpaired([], feedback.ratings_of(events))
    assert rows == [{"prompt": TRAIN[0], "completion": answer, "label": False}]
    assert feedback.read_events(chat.path)[0] == []


def test_streamed_text_grows_to_the_answer(chat):
    seen = []
    answer = chat.ask(TRAIN[0], lambda answers: seen.append(answers[-1]))
    assert seen[-1] == answer[0] and all(b.startswith(a) for a, b in zip(seen, seen[1:]))


def click(chat, button):
    chat.ready_at = 0.0  # as if a moment had passed
    button.click()


def test_the_widget_says_what_is_wrong_and_goes_on(chat, monkeypatch):
    chat._build()
    chat._refresh()
    click(chat, chat.send)
    assert "empty" in chat.status.value and 'role="alert"' in chat.status.value and len(chat.errors) == 1
    chat.box.value = TRAIN[0]
    click(chat, chat.send)
    assert chat.box.value == "" and chat.turns[0][1][0] in chat.talk.value.replace("&#x27;", "'")
    assert chat.choices.layout.display == "none"
    chat.box.value = TRAIN[1]
    click(chat, chat.send)
    assert chat.choices.layout.display == "" and "better" in chat.status.value
    click(chat, chat.buttons["a"])
    assert "Saved" in chat.status.value and chat.labels[0]["choice"] == "a"
    click(chat, chat.buttons["a"])
    assert "nothing to compare" in chat.status.value
    click(chat, chat.another)
    assert chat.choices.layout.display == "" and chat.talk.value.count("<b>You</b>") == 2
    click(chat, chat.buttons["tie"])
    assert f"2 labels; {feedback.ENOUGH} are enough" in chat.status.value

    def fail(*arguments, **options):
        raise RuntimeError("the model broke")

    monkeypatch.setattr("rlhf_helpers.desk.chat.stream", fail)
    chat.box.value = TRAIN[2]
    click(chat, chat.send)
    assert "the model broke" in chat.status.value and chat.box.value == TRAIN[2] and len(chat.errors) == 3


def test_clicks_that_piled_up_are_dropped(chat):
    chat._build()
    chat.box.value = TRAIN[0]
    click(chat, chat.send)
    chat.send.click()
    assert len(chat.turns) == 1 and chat.errors == []


def test_what_is_typed_or_said_is_never_html():
    nasty = '<img src=x onerror="alert(1)">'
    for page in (turn_html(nasty, [nasty]), turn_html(nasty, [nasty, nasty])):
        assert "<img" not in page and page.count("&lt;img") >= 2


def test_keys_typed_in_the_chat_stay_in_it(chat):
    chat.show()
    assert any("data-lm-suppress-shortcuts" in getattr(child, "value", "") for child in chat.widget.children)
