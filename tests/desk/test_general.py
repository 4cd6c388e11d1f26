"""A MODEL of the reader's own: any decoder-only architecture, with its own tokenizer, through chapters 02 to 06."""

import json
import math
import re
import time
import weakref
from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES, KINDS, PROMPTS, language_model, through, tokenizer_for
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from rlhf_helpers.desk import chat, pace, tasks, workspace
from rlhf_helpers.engine import checkpoints, files, memory, models
from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.lesson import decoding, lm, ppo, reward
from rlhf_helpers.make import series
from rlhf_helpers.world import annotators

every_kind = pytest.mark.parametrize("name", KINDS)


# ---------------------------------------------------------------- loading and prompting


@every_kind
def test_a_prompt_has_one_bos_at_most_and_its_template(tmp_path, name):
    pad, bos, template = KINDS[name]
    model, tokenizer = models.load_model(language_model(tmp_path, name))
    ids = models.prompt_ids(tokenizer, PROMPTS[0])
    if bos:
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    text = tokenizer.decode(ids)
    assert ("[assistant]" in text) == bool(template) and ("Question:" in text) == (not template)
    assert tokenizer.pad_token_id is not None and model.config.pad_token_id == tokenizer.pad_token_id
    assert len(decoding.end_tokens(model, tokenizer)) == 2


@every_kind
def test_an_answer_ends_at_either_end_token_and_with_greedy_too(tmp_path, name):
    model, tokenizer = models.load_model(language_model(tmp_path, name))
    ends = decoding.end_tokens(model, tokenizer)
    head = model.get_output_embeddings()
    for end in ends:  # a bias that makes one end certain
        hook = head.register_forward_hook(lambda m, i, out: out.index_fill(-1, torch.tensor([end]), 1e4))
        ids = models.prompt_ids(tokenizer, PROMPTS[0])
        assert decoding.greedy(model, ids, 5, ends) == [*ids, end]
        assert decoding.generate(model, tokenizer, PROMPTS[:2], max_new_tokens=5) == ["", ""]
        hook.remove()


def test_encoders_are_refused_in_a_sentence(tmp_path):
    tokenizer = tokenizer_for("qwen3")
    small = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**small)).save_pretrained(tmp_path / "bert")
    T5ForConditionalGeneration(
        T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path / "t5")
    for name, words in (("bert", "both directions"), ("t5", "encoder-decoder")):
        tokenizer.save_pretrained(tmp_path / name)
        with pytest.raises(WorkbookError, match=words) as error:
            models.load_model(tmp_path / name)
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("source", ["no/such-model", "./no/such/folder", "/no/such/folder"])
def test_an_unknown_model_is_named(source):
    for load in (models.load_model, memory.shape_of):
        with pytest.raises(WorkbookError, match="cannot be loaded") as error:
            load(source)
        assert source in str(error.value) and len(str(error.value).splitlines()) == 1


def test_prompts_that_are_too_long_are_refused_before_training(tmp_path):
    model, tokenizer = models.load_model(language_model(tmp_path, "llama", context=64))
    with pytest.raises(WorkbookError, match="reads only 64"):
        ppo.train(model, tokenizer, lambda p, r: torch.zeros(len(p)), [PROMPTS[0] * 4], ppo.Settings(updates=1))


@pytest.mark.parametrize("name", ["gpt2", "lfm2", "mamba"])
def test_the_chat_says_what_greedy_decoding_says_whatever_remembers(tmp_path, name):
    model, tokenizer = models.load_model(language_model(tmp_path, name))
    ids, none = models.prompt_ids(tokenizer, PROMPTS[0]), {"max_new_tokens": 6, "temperature": 0}
    answer = tokenizer.decode(decoding.greedy(model, ids, 6, decoding.end_tokens(model, tokenizer))[len(ids) :]).strip()
    for way in (model.reads_on, (None, None)):
        model.reads_on = way
        assert list(chat.stream(model, tokenizer, ids, **none))[-1] == answer


# ---------------------------------------------------------------- memory


@every_kind
def test_recomputed_activations_give_the_same_gradient(tmp_path, monkeypatch, name):
    """And rollouts, which need the key-value cache, the same answers; also in a copy of the model."""
    folder = language_model(tmp_path, name, layers=3)
    plain, tokenizer = models.load_model(folder)
    monkeypatch.setattr(memory, "LARGE", 0)
    free = [10**12, 1000]
    monkeypatch.setattr(memory, "free_memory", lambda device: free[-1])
    spared = models.load_model(folder)[0]
    memory.recompute_if_needed(spared, 4, 20, 8)
    assert spared.is_gradient_checkpointing and not plain.is_gradient_checkpointing
    answers = [decoding.generate(m, tokenizer, PROMPTS[:3], max_new_tokens=8) for m in (plain, spared)]
    assert answers[0] == answers[1]
    ids, mask, loss_mask = lm.demonstration_batch(
        tokenizer, [{"prompt": p, "response": "A short answer."} for p in PROMPTS[:3]]
    )
    for loss_of in (lm.plain_loss, lm.packed_loss):
        loss_of(plain, ids, mask, loss_mask).backward()
        loss_of(spared, ids, mask, loss_mask).backward()
        for one, other in zip(plain.parameters(), spared.parameters()):
            assert (one.grad is None) == (other.grad is None)
            assert one.grad is None or torch.allclose(one.grad, other.grad, atol=1e-5)
    torch.manual_seed(0)
    judge = models.load_reward_model(folder)[0]
    rows = [{"prompt": p, "chosen": "Yes.", "rejected": "No, never."} for p in PROMPTS[:8]]
    history = reward.train_reward_model(judge, tokenizer, rows, batch_size=4)
    assert all(math.isfinite(h["loss"]) for h in history) and judge.is_gradient_checkpointing
    free.reverse()  # with room for them, they are kept
    reward.train_reward_model(judge, tokenizer, rows, batch_size=4)
    assert not judge.is_gradient_checkpointing


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_the_shape_is_read_from_the_configuration(tmp_path, name):
    shape = memory.shape_of(language_model(tmp_path, name))
    model, _ = models.load_model(tmp_path)
    assert (shape.parameters, shape.layers, shape.width) == (model.num_parameters(), 2, 32)
    assert shape.inner == (128 if name == "gpt2" else 64) and shape.vocabulary == model.config.vocab_size


class Peak(TorchDispatchMode):
    """The most bytes of new tensors that were alive at once inside the block, forward and backward."""

    def __enter__(self):
        self.alive, self.now, self.most = set(), 0, 0
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in self.alive | self.known:
                storage = t.untyped_storage()
                self.alive.add(storage.data_ptr())
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.gone, storage.data_ptr(), storage.nbytes())
        return out

    def gone(self, pointer, size):
        self.alive.discard(pointer)
        self.now -= size


@pytest.mark.parametrize("spared", [False, True])
def test_activations_are_estimated_within_a_factor_of_two(tmp_path, spared):
    """Against the peak of one step on a model of usual proportions, in the plain form of PPO's loss."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=4000,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
        )
    )
    model.config.save_pretrained(tmp_path)
    if spared:
        models.recompute_activations(model)
    rows, answer = 6, 48
    ids = torch.randint(0, 4000, (rows, memory.PROMPT + answer))
    policy = ppo.PolicyWithValue(model)
    gradients = sum(p.numel() * 4 for p in policy.parameters())
    peak = Peak()
    peak.known = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    with peak:
        logits, values = policy(ids, torch.ones_like(ids), memory.PROMPT)
        (ppo.token_logprobs(logits, ids[:, memory.PROMPT :]).sum() + values.sum()).backward()
    seen = peak.most - gradients
    said = memory.activations(memory.shape_of(tmp_path), rows, memory.PROMPT + answer, answer, again=spared)
    assert seen / 2 < said < seen * 2, (seen, said)


def test_copies_are_counted_as_ppo_holds_them(tmp_path):
    model, _ = models.load_model(language_model(tmp_path, "llama"))
    policy = ppo.PolicyWithValue(model)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.0)
    for p in policy.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    state = sum(t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values())
    parts = memory.estimate(memory.shape_of(tmp_path), "PPO", rows=4, answer=48)
    assert state == pytest.approx(parts["optimiser"], rel=0.02)
    assert parts["policy"] == parts["gradients"] == parts["reference"] == 4 * model.num_parameters()


def test_what_does_not_fit_is_refused_before_it_is_loaded(tmp_path, monkeypatch, capsys):
    folder = language_model(tmp_path, "llama")
    memory.check(folder, torch.device("cpu"), "PPO", rows=4)
    assert "optimiser" in capsys.readouterr().out
    (folder / "model.safetensors").unlink()  # the estimate reads the configuration only
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(WorkbookError, match="PPO with this model needs about .* free. Choose a smaller MODEL"):
        memory.check(folder, torch.device("cpu"), "PPO", rows=4)


# ---------------------------------------------------------------- the general task


def test_general_prompts_are_of_several_kinds_and_split():
    task = tasks.general(ROOT / "data")
    train, dev, test = (task.prompts(split) for split in ("train", "dev", "test"))
    assert len({*train, *dev, *test}) == len(train) + len(dev) + len(test) == 120 and (len(dev), len(test)) == (10, 30)
    assert set(task.families.values()) == {task.families[p] for p in train} == {task.families[p] for p in test}
    assert task.prompts("reworded") == [] and task.measured == ("test",)
    assert len(set(task.families.values())) >= 6


@pytest.mark.parametrize(
    "held_out, dev, test",
    [
        (["heldout"] * 5, ["3"], ["0", "1", "2", "4"]),
        (["heldout"], ["0"], ["0"]),  # one prompt serves for both
        (["dev", "test", "heldout"], ["0"], ["1", "2"]),
        (["test", "test"], ["0", "1"], ["0", "1"]),
        ([], [], []),
    ],
)
def test_held_out_prompts_of_other_files_are_dev_and_test(held_out, dev, test):
    rows = [{"prompt": str(n), "split": split} for n, split in enumerate(held_out)]
    splits = tasks.general_splits([*rows, {"prompt": "t", "split": "train"}])
    assert splits == {"train": ["t"], "reworded": [], "dev": dev, "test": test}


def test_the_stand_in_is_called_simulated_and_likes_few_words():
    taste = annotators.Annotator("brief", noise=0, temperature=0.01)
    assert taste.name == "simulated:brief"
    assert taste.choose(PROMPTS[0], "Yes.", "Yes, and here is much more of it.") == "left"
    assert taste.choose(PROMPTS[0], "", "Ten words are a better answer than none at all.") == "right"


def test_both_tasks_can_do_the_same():
    for task in (tasks.embedded(), tasks.general(ROOT / "data")):
        prompt = task.prompts("test")[0]
        quality = task.quality([prompt], ["An answer. An answer."])
        assert {"gold", "words", *task.shares} <= set(quality) and all(0 <= quality[s] <= 1 for s in task.shares)
        assert set(task.compared) <= set(task.axes(prompt, "An answer."))
        assert task.stand_in in task.tastes and task.judges(prompt)
        assert math.isfinite(annotators.Annotator(task.users).score(prompt, "An answer."))
        assert "gold" in task.card("Title", "What.", quality, 0)


def test_nothing_of_the_embedded_model_takes_the_place_of_ones_own(tmp_path):
    folder = language_model(tmp_path / "own", "llama")
    ws = workspace.setup(MODEL=str(folder), FAST=True, RUNS_DIR=str(tmp_path / "runs"))
    assert ws.general and ws.runs.parent == (tmp_path / "runs").resolve()
    for name in ("pairs.jsonl", "models/reward"):
        with pytest.raises(WorkbookError, match="First run the chapter"):
            workspace.find(ws, name)
    (ws.runs / "models" / "reward-fast").mkdir(parents=True)
    assert workspace.find(ws, "models/reward", quiet=True) == ws.runs / "models" / "reward-fast"
    with pytest.raises(WorkbookError, match='ANNOTATOR .* choose "you" or "brief"'):
        workspace.setup(MODEL=str(folder), ANNOTATOR="warm", RUNS_DIR=str(tmp_path / "runs"))
    embedded = workspace.setup(MODEL=str(ROOT / "data/models/policy"), RUNS_DIR=str(tmp_path / "runs"))
    assert not embedded.general and embedded.runs == (tmp_path / "runs").resolve()


# ---------------------------------------------------------------- counts follow speed


def own(general=True, fast=False):
    return SimpleNamespace(own_model=general, fast=fast)


def code_of(path):
    nb = json.loads(path.read_text(encoding="utf-8"))
    return "\n".join("".join(c["source"]) for c in nb["cells"] if c["cell_type"] == "code")


@pytest.mark.parametrize("chapter", pace.PLANS)
def test_a_plan_names_what_its_chapter_asks(chapter):
    (path,) = (ROOT / "notebooks").rglob(f"{chapter}.ipynb")
    text, plan = code_of(path), pace.PLANS[chapter]
    assert {*re.findall(r'at_most\(\s*"([^"]+)"', text), "the rest"} == set(plan)
    assert len(re.findall(rf'pace\.limits\(\s*ws, "{chapter}"', text)) == 1
    assert all(1 <= least <= full for full, least, *_ in plan.values())


def test_every_deeper_chapter_that_takes_a_model_has_a_plan():
    """No count hangs on whether the model is the reader's own, but for how many rows are held at a time."""
    deeper = {p.stem: code_of(p) for p in (ROOT / "notebooks" / "deeper").glob("*.ipynb")}
    assert {stem for stem, text in deeper.items() if "ws.model" in text} == {*deeper} & {*pace.PLANS}
    for stem, text in deeper.items():
        assert not re.search(r"LITTLE|\d if ws.own_model else 0\b", text), stem


def test_prompts_are_taken_from_all_over_a_list():
    assert pace.spread("abcdefgh", 3) == ["a", "c", "f"] and pace.spread("abc", 3) == pace.spread("abc", 9) == [*"abc"]
    assert pace.spread("abc", 1) == ["a"] and pace.spread("", 0) == []


@pytest.mark.parametrize("n, group", [(640, 1), (639, 1), (300, 8), (64, 8), (16, 1), (16, 8), (8, 4), (8, 1), (4, 2)])
def test_a_run_of_fewer_answers_has_fewer_updates_and_fewer_answers_in_each(n, group):
    whole = ppo.Settings(updates=20, batch_size=32)
    some = pace.of_answers(whole, n, group)
    assert (some == whole) == (n == 640)
    assert 0.6 * n <= some.updates * some.batch_size <= n and some.updates >= 2
    assert some.batch_size % group == 0 and some.batch_size <= 32 and some.updates <= 21


@pytest.mark.parametrize("chapter", pace.PLANS)
def test_the_embedded_model_does_all_of_it_and_nothing_is_measured(chapter, monkeypatch, capsys):
    monkeypatch.setattr(pace, "speed", lambda *a: pytest.fail("it was measured"))
    at_most = pace.limits(own(False), chapter, None, None)
    assert all(at_most(part, n) == n for part in pace.PLANS[chapter] for n in (1, 3, 64, 16_000))
    with pytest.raises(KeyError):
        at_most("what no plan names", 3)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("fast, minutes", [(False, pace.MINUTES), (True, pace.FAST_MINUTES)])
@pytest.mark.parametrize("chapter", pace.PLANS)
def test_a_slow_model_does_less_and_says_what(chapter, fast, minutes, monkeypatch, capsys):
    """A chapter stays within its minutes where the least does, or half of it, and leaves nothing out that fits."""
    usual, shares = pace.PLANS[chapter], []
    whole = pace.seconds(usual, (1.0, 2.0), 1.0)
    for target in (50, 1800, 7200, 1e9):
        slow = target / whole, 2 * target / whole
        monkeypatch.setattr(pace, "speed", lambda *a: slow)
        halved = fast or pace.seconds(usual, slow, 0.0) > 60 * minutes
        plan = pace.shortest(usual) if halved else usual
        at_most = pace.limits(own(fast=fast), chapter, None, None)
        done = {part: at_most(part, full) for part, (full, *_) in plan.items()}
        took = sum(n * (plan[p][2] * target + plan[p][3] * 2 * target) / whole for p, n in done.items())
        assert all(least <= done[part] <= full for part, (full, least, *_) in plan.items())
        assert took <= 60 * minutes or all(done[part] == least for part, (_, least, *_) in plan.items())
        said = capsys.readouterr().out
        for part, (full, *_) in plan.items():
            told = f"Fewer {part}, since the model is slow here: {done[part]} instead of {full}."
            assert (told in said) == (done[part] < full), part
        shares.append(sum(done.values()))
        assert at_most(next(iter(plan)), 1) == 1  # a short run may ask for less than the least
    assert shares == sorted(shares, reverse=True) and shares[0] == sum(full for full, *_ in plan.values())
    assert took > 60 * minutes or len(set(shares)) > 1


def test_pace_is_that_of_the_model(tmp_path):
    """One that waits before it reads takes as much longer, and its weights and gradients are as before."""
    model, tokenizer = models.load_model(language_model(tmp_path, "llama"))
    before, wait = checkpoints.digest(model), 0.01
    hook = model.register_forward_pre_hook(lambda *a: time.sleep(wait))
    answer, learned = pace.speed(model, tokenizer)
    hook.remove()
    assert answer >= wait * decoding.LONGEST / 16 and learned >= wait / 4
    assert checkpoints.digest(model) == before and all(p.grad is None for p in model.parameters())


# ---------------------------------------------------------------- through the chapters

IN_THE_SUITE = ("llama", "gpt2")  # the others: `make test-matrix`
IN_KERNELS = "llama"  # the embedded model, a GPT-2, runs in kernels everywhere
REFUSED = ("rwkv", "bart_decoder")  # see tests/engine/test_models.py
THROUGH = [n if n in IN_THE_SUITE else pytest.param(n, marks=pytest.mark.matrix) for n in FAMILIES if n not in REFUSED]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array_wrap__")  # numpy's, of how matplotlib calls it
@pytest.mark.parametrize("name", THROUGH)
def test_chapters_02_to_06_run_on_any_model(tmp_path, warm_kernels, name):
    """In kernels, or in this process and with the least counts."""
    folder = language_model(tmp_path / "model", name)
    if name != IN_KERNELS:
        assert set(through(folder, tmp_path / "runs").values()) == {""}
    for path in series.chapters(["02", "03", "04", "05", "06"]) if name == IN_KERNELS else ():
        nb = series.execute(
            path, tmp_path / "executed", {"FAST": True, "MODEL": str(folder), "RUNS_DIR": str(tmp_path / "runs")}
        )
        assert series.widget_errors(nb) == []
        said = "".join(
            o.text for c in nb.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream"
        )
        assert "SIMULATED taste `brief`" in said, path.stem
    (runs,) = (tmp_path / "runs").iterdir()
    prompts = {r["prompt"] for r in files.read_jsonl(runs / "feedback.jsonl")}
    assert prompts and prompts <= set(PROMPTS)
    assert {r["annotator"] for r in files.read_jsonl(runs / "feedback.jsonl")} == {"simulated:brief"}
    assert json.loads((runs / "report.json").read_text(encoding="utf-8"))["rounds"]
    tuned, tokenizer = models.load_model(folder)
    policy, _ = models.load_model(runs / "models" / "policy-fast")
    assert checkpoints.digest(policy) != checkpoints.digest(tuned)
    assert all(
        math.isfinite(s)
        for s in reward.score(
            *models.load_reward_model(runs / "models" / "reward-fast"), PROMPTS[:4], ["One.", "Two.", "", "Three."]
        )
    )


@pytest.mark.slow
def test_deeper_chapters_go_through_with_a_slow_model_of_the_readers_own(tmp_path):
    taken = [name for name in pace.PLANS if not name[0].isdigit() and name != "scaling_up"]  # that one needs TRL
    said = through(language_model(tmp_path, "qwen3"), tmp_path / "runs", ["02", "03", "04", "05", *taken])
    assert said == dict.fromkeys(said, "") and len(said) == 4 + len(taken)
