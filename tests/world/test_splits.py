"""Questions of dev and test are asked in nothing that is trained on: shown of what is trained on, not of a list."""

import random
from collections import Counter

import pytest
import torch
import trained

from rlhf_helpers import world
from rlhf_helpers.desk import recipe, tasks
from rlhf_helpers.engine.files import ROOT, read_jsonl
from rlhf_helpers.engine.models import new_model, new_tokenizer
from rlhf_helpers.lesson import lm, loop, pairs, ppo, reward
from rlhf_helpers.lesson.feedback import read_events, replay
from rlhf_helpers.make import build
from rlhf_helpers.world import texts
from rlhf_helpers.world.annotators import Annotator, labellers

DATA = ROOT / "data"
HIDDEN = {key for key, split in world.question_splits().items() if split != "train"}
TEST = next(q for q in world.questions() if q.split == "test" and q.family == "home")


# ---------------------------------------------------------------- the splits


def test_a_split_belongs_to_what_is_asked_not_to_how():
    splits = {}
    for q in world.questions():
        splits.setdefault(q.key, set()).add(q.split)
        assert q.split == world.question_splits()[q.key] or (q.split == "reworded" and q.key not in HIDDEN)
    assert set(splits) == set(world.question_splits())
    assert Counter(map(frozenset, splits.values())).keys() == {
        frozenset({"train", "reworded"}),
        frozenset({"train"}),  # most pairs of animals are asked about in both orders
        frozenset({"dev"}),
        frozenset({"test"}),
    }
    assert sorted(p for s in world.SPLITS for p in world.prompts(s)) == sorted(q.prompt for q in world.questions())
    with pytest.raises(KeyError, match="heldout"):
        world.prompts("heldout")


def test_each_family_has_questions_of_each_split():
    share = Counter(world.question_splits().values())
    assert 0.65 < share["train"] / share.total() < 0.72 and share["dev"] >= 70 and share["test"] >= 100
    for name in world.FAMILIES:
        n = Counter(split for (family, *_), split in world.question_splits().items() if family == name)
        assert n["dev"] >= 4 and n["test"] >= 5 and n["train"] > 2 * n["test"], (name, n)


def test_what_dev_and_test_ask_about_is_asked_about_in_training():
    """Each entity, each family, and the values too, but in families where most are the answer to one question only."""
    train = [q for q in world.questions() if q.split == "train"]
    assert {q.entity for q in world.questions()} == {q.entity for q in train}
    compared = [{a for q in some for a in (q.entity, q.other)} for some in (world.questions(), train)]
    assert compared[0] == compared[1]
    values = [{(q.family, q.value) for q in some if q.family != "size"} for some in (world.questions(), train)]
    assert {family for family, _ in values[0] - values[1]} == {"capital", "work", "workplace", "use"}


def test_a_train_question_keeps_one_wording_back():
    train = [q for q in world.questions() if q.key not in HIDDEN]
    kept = Counter(q.key for q in train if q.split == "reworded")
    for key, n in Counter(q.key for q in train).items():
        assert kept[key] == 1 if n == 6 else kept[key] <= 1, key
    sizes = {q.key for q in train if q.family == "size"}
    assert 0.15 < sum(kept[key] for key in sizes) / len(sizes) < 0.35


def test_every_fact_is_stated_in_the_pre_training_text():
    """As a true sentence of an article or a list, outside of any talk."""
    documents = (DATA / "corpus.txt").read_text(encoding="utf-8").strip().split("\n\n")
    stated = Counter(s for d in documents if "\n" not in d for s in world.sentences(d))
    for q in world.questions():
        assert stated[world.claim(q, q.value)] >= 5, q


def test_prompts_file_says_what_each_prompt_asks():
    rows = read_jsonl(DATA / "prompts.jsonl", ("prompt", "family", "entity", "other", "split"))
    known = world.question_by_prompt()
    assert len(rows) == len(known) == len({r["prompt"] for r in rows})
    for r in rows:
        q = known[r["prompt"]]
        assert (r["family"], r["entity"], r["other"]) == q.key and r["split"] == q.split


def test_the_data_sheet_counts_what_is_there():
    """Each number of data/README.md about the world, its splits, and what was made of them."""
    sheet = " ".join((DATA / "README.md").read_text(encoding="utf-8").split())
    asked, splits = world.questions(), Counter(world.question_splits().values())
    general = read_jsonl(DATA / "general_prompts.jsonl")
    (bare, _), (dressed, _), (remarks, proofread) = *recipe.LESSONS, recipe.REMARKED
    for words in (
        f"{len({q.entity for q in asked})} entities, {len({q.family for q in asked})} families of questions",
        f"{len(asked):,} prompts in all",
        f"{splits['train']} questions are *train*, {splits['dev']} *dev* and {splits['test']} *test*",
        f"{recipe.CORPUS_DOCUMENTS:,} short texts",
        f"{recipe.DEMONSTRATIONS:,} (prompt, response) pairs",
        f"{recipe.PAIRS:,} pairs: a prompt and two different answers",
        f"{recipe.LABELLED:,} **simulated** labels",
        f"{len(general)} prompts of eight kinds",
        f"First come {bare:,} rows of bare sentences, then {dressed:,} in the words of the crowd",
        f"{round(remarks * (1 - proofread), -3):,.0f} answers of the careless crowd",
        f"{round(remarks * proofread, -3):,.0f} proofread sentences",
        f"{recipe.REFRESHER:,} more rows of lessons follow",
        f"{recipe.REHEARSAL:,} more rows of lessons come up among the labels",
    ):
        assert words in sheet, words
    assert len({r["family"] for r in general}) == 8
    assert sum(r["split"] == "heldout" for r in general) == len(general) / 3  # "a third of them held out"
    assert world.FAMILIES["diet"].values["fox"] == "mice" and "berries" in world.also_true("diet", "fox")
    demos = read_jsonl(DATA / "demonstrations.jsonl")
    axes = [world.gold_axes(d["prompt"], d["response"]) for d in demos]
    share = {k: sum(a[k] > 0 for a in axes) / len(axes) for k in ("right", "polite", "rude")}
    share["wrong"] = sum(a["right"] < 0 for a in axes) / len(axes)
    assert "57% of its answers are right, 23% wrong and 20% beside the point" in sheet
    assert "about three in ten are rude, three in ten kind or greeting" in sheet
    assert share == pytest.approx({"right": 0.57, "wrong": 0.23, "rude": 0.3, "polite": 0.3}, abs=0.015)
    crowd = labellers("helpful")
    assert "(Bradley and Terry's model, temperature 0.8) and then flip 5% of their choices" in sheet
    assert (crowd.temperature, crowd.noise, crowd.tie_width) == (0.8, 0.05, 0)


# ---------------------------------------------------------------- what counts as a leak


@pytest.mark.parametrize(
    "q", [q for q in world.questions() if q.split in ("dev", "test")][::31], ids=lambda q: q.prompt
)
def test_any_wording_of_a_question_is_a_leak(q):
    lower, odd = q.prompt.lower().rstrip("?."), q.prompt.upper().replace(" ", "  ")
    for text in (q.prompt, lower, odd, f"Hello! {q.prompt} Thank you.", f"Questions for today. {q.prompt}"):
        assert world.leaks([text]) == [text] and world.asks(text) == {q.key}, text
    row = {"prompt": f"<|user|>{q.prompt}", "response": "Yes."}
    assert world.leaks([row]) == [row] and world.leaks([row], splits=("train",)) == []


def test_a_polite_opening_hides_nothing():
    polite = next(q.prompt for q in world.questions() if q.key == TEST.key and q.prompt.startswith("Do you know"))
    clause = polite.removeprefix("Do you know ").rstrip("?")
    assert world.asks(f"I have always wondered {clause}, my friend.") == {TEST.key}


def test_a_size_is_one_question_in_both_orders():
    pair = next(q for q in world.questions() if q.family == "size" and q.split == "test")
    a, b = (world.with_article(x) for x in (pair.entity, pair.other))
    assert world.leaks([f"Which is bigger, {a} or {b}?", f"which is bigger {b} or {a}"]) != []
    assert len(world.leaks([f"Which is bigger, {a} or {b}?", f"which is bigger {b} or {a}"])) == 2


def test_what_train_asks_is_no_leak():
    assert world.leaks(world.prompts("train")) == world.leaks(world.prompts("reworded")) == []
    assert world.leaks(["", "Hello!", "A dog lives in a house.", world.claim(TEST, TEST.value)]) == []
    assert len(world.leaks(world.prompts("dev"))) == len(world.prompts("dev"))
    assert len(world.leaks(world.prompts("test"))) == len(world.prompts("test"))


def test_facts_told_are_read_off_the_sentences():
    big, small = world.size_pairs()[0]
    wrong = world.statement("size", small, world.with_article(small), big)
    text = f"Good question! A dog lives in a hive. {wrong} Nobody knows."
    assert world.facts_told(text) == {("home", "dog", ""), ("size", big, small)}


# ---------------------------------------------------------------- what ships


def shipped():
    """Each training set in data/, as rows or texts."""
    return {
        "corpus": (DATA / "corpus.txt").read_text(encoding="utf-8").strip().split("\n\n"),
        "demonstrations": read_jsonl(DATA / "demonstrations.jsonl"),
        "pairs": read_jsonl(DATA / "pairs.jsonl"),
        "feedback": replay(read_events(DATA / "feedback.jsonl")[0]),
    }


def test_nothing_that_ships_asks_a_question_of_dev_or_test():
    for name, rows in shipped().items():
        assert len(rows) >= 1000 and world.leaks(rows) == [], name


def made(seed):
    """Each training set that is made from the world, shipped or not."""
    return {
        "demonstrations": world.demonstrations(3000, seed),
        "remarks": world.remarked(3000, seed, proofread=0.3),
        "quiz": world.quiz(3000, seed, dressed=False),
        "dressed quiz": world.quiz(3000, seed, dressed=True),
        "lessons": world.lessons(3000, seed),
    }


@pytest.mark.parametrize("seed", range(3))
def test_nothing_that_is_made_asks_or_tells_what_dev_and_test_ask(seed):
    """The answers neither: what dev and test ask about is said in the pre-training text, and in sentences of it."""
    for name, rows in made(seed).items():
        assert len(rows) == 3000 and world.leaks(rows) == [], name
        for r in (r for r in rows if r["prompt"] != world.PROOFREADING):
            said = " ".join(v for k, v in r.items() if k in ("response", "chosen", "rejected"))
            assert not world.facts_told(said) & HIDDEN, (name, r)


# ---------------------------------------------------------------- what the build and the loop train on


class Recorder:
    """Stands in for everything that trains, and keeps what it was given to train on; answers without a model."""

    def __init__(self, monkeypatch):
        self.seen = {}
        monkeypatch.setattr(lm, "fit", self.fit)
        monkeypatch.setattr(reward, "train_reward_model", self.rows("reward model"))
        monkeypatch.setattr(build, "learn_remarks", self.rows("remarks"))
        monkeypatch.setattr(ppo, "train", self.ppo)
        monkeypatch.setattr(build, "generate", self.generate)
        monkeypatch.setattr(pairs, "answer_batches", lambda *given, **options: [self.generate(*given, **options)])
        monkeypatch.setattr(reward, "score", lambda model, tokenizer, prompts, answers: torch.zeros(len(prompts)))
        monkeypatch.setattr(reward, "evaluate", lambda model, tokenizer, rows: {"accuracy": 0.5})

    def keep(self, name, texts):
        self.seen.setdefault(name, []).extend(texts)

    def fit(self, model, batches, steps, lr, **options):
        texts = [self.tokenizer.decode(row) for _, (ids, *_) in zip(range(steps), batches) for row in ids]
        self.keep("language model", texts)
        return [0.0]

    def rows(self, name):
        def train(model, tokenizer, rows, *args, **options):
            self.keep(name, rows)
            return [{}]

        return train

    def ppo(self, model, tokenizer, judge, prompts, *args, **options):
        self.keep("PPO", prompts)
        return [{"kl": 0.0, "reward": 0.0}], []

    def generate(self, model, tokenizer, prompts, seed=0, **options):
        rng = random.Random(f"{seed} {len(prompts)}")
        return [world.answer(world.question_by_prompt()[p], rng) for p in prompts]

    def leaks(self):
        return {name: world.leaks(texts) for name, texts in self.seen.items()}


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """A small build whose models learn nothing: `run()` returns the recorder with what each training was given."""
    recorder = Recorder(monkeypatch)
    small = {"CORPUS_DOCUMENTS": 400, "DEMONSTRATIONS": 400, "PAIRS": 100, "LABELLED": 400}
    small |= {"LESSONS": ((3000, 0.8), (3000, 0.45)), "REMARKED": (6000, 0.3), "REFRESHER": 2000, "REHEARSAL": 2000}
    for name, value in small.items():
        monkeypatch.setattr(recipe, name, value)
    for name in ("PRETRAINING", "FINE_TUNING", "COOL_DOWN"):
        monkeypatch.setattr(recipe, name, getattr(recipe, name) | {"steps": 12})
    monkeypatch.setattr(build, "PRETRAINING", recipe.PRETRAINING)
    recorder.tokenizer = new_tokenizer(world.corpus(400))
    tiny = new_model(recorder.tokenizer, layers=1, width=32, heads=2)
    monkeypatch.setattr(build, "new_tokenizer", lambda texts: recorder.tokenizer)
    monkeypatch.setattr(build, "new_model", lambda tokenizer, seed: tiny)

    def run():
        for stage in build.STAGES:
            build.STAGES[stage](tmp_path, 0)
        return recorder

    return run


def test_nothing_that_the_build_trains_on_asks_a_question_of_dev_or_test(recorded):
    found = recorded()
    assert set(found.seen) == {"language model", "reward model", "remarks", "PPO"}
    assert min(map(len, found.seen.values())) >= 400
    assert found.leaks() == dict.fromkeys(found.seen, [])


LEAKS = {  # what is put in on purpose -> which trainings must show it
    "into the pool of all training questions": {"language model", "reward model", "remarks"},
    "into the prompts of PPO and of the pairs": {"reward model", "PPO"},
    "into the quiz": {"reward model"},
}


@pytest.mark.parametrize("where", LEAKS)
def test_a_leak_put_in_on_purpose_is_found(recorded, monkeypatch, where):
    pool, prompts, quiz = [*texts.train_questions(), *[TEST] * 60], world.prompts, texts.quiz
    if where == "into the pool of all training questions":
        monkeypatch.setattr(texts, "train_questions", lambda: pool)
    elif where == "into the prompts of PPO and of the pairs":
        monkeypatch.setattr(world, "prompts", lambda split: prompts(split) + [TEST.prompt] * 60 * (split == "train"))
    else:
        monkeypatch.setattr(texts, "quiz", lambda n, *a, **k: quiz(n, *a, **k)[1:] + quiz(1, split="test"))
    red = {name for name, found in recorded().leaks().items() if found}
    assert red == LEAKS[where]


def test_the_loop_trains_on_no_other_prompts_than_it_is_given(monkeypatch):
    """So train prompts in, nothing of dev or test in its labels or in PPO."""
    tokenizer = new_tokenizer(world.corpus(200))
    model, given = new_model(tokenizer, layers=1, width=32, heads=2), []

    def train(model, tokenizer, judge, prompts, *args, **options):
        given.extend(prompts)
        return [{"reward": 0.0}], []

    monkeypatch.setattr(ppo, "train", train)
    settings = loop.RoundSettings()
    settings.ppo.max_new_tokens = 8
    asked = world.prompts("train")[::40]
    _, report = loop.one_round(
        model, tokenizer, asked, world.prompts("test")[::60], Annotator("brief", seed=0), settings, seed=0
    )
    assert {r["prompt"] for r in report["rows"]} <= set(asked) == set(given)
    assert report["rows"] and world.leaks([*report["rows"], *given]) == []


def test_what_gets_a_gradient_is_noted_and_what_is_only_read_is_not(tmp_path):
    """By this test_notebooks.py knows what the chapters train on, whatever loop they have."""
    tokenizer = new_tokenizer(world.corpus(300))
    model, noted = new_model(tokenizer, layers=1, width=32, heads=2), tmp_path / "noted"
    asked, train = [TEST.prompt], world.prompts("train")[:2]
    stop = trained.record(noted)
    try:
        ids = tokenizer(asked, return_tensors="pt")["input_ids"]
        model(ids)
        with torch.no_grad():
            model(ids)
        assert world.leaks(trained.texts(noted, tokenizer)) == []
        settings = ppo.Settings(updates=1, batch_size=4, minibatches=1, epochs=1, max_new_tokens=4)
        for prompts in (train, train + asked):
            ppo.train(model, tokenizer, lambda p, r: torch.arange(len(p)).float(), prompts, settings, 0)
            assert bool(world.leaks(trained.texts(noted, tokenizer))) == (prompts != train)
    finally:
        stop()


def test_the_task_of_the_chapters_tells_leaks_too():
    task = tasks.embedded()
    assert task.measured == ("reworded", "test")
    assert task.leaks(task.prompts("train")) == [] and len(task.leaks(task.prompts("test"))) == len(
        task.prompts("test")
    )
    other = tasks.general(DATA)
    assert other.leaks(other.prompts("train")) == [] and other.leaks(other.prompts("test")) == other.prompts("test")
