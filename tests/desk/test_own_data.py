"""A reader's own prompts, pairs and preferences: from the parameters to what a chapter asks, measures and finds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_general import language_model
from test_hostile import TEXTS, VALUES, as_line, attempt, often, one_short_sentence

from rlhf_helpers import world
from rlhf_helpers.desk import labeller, prompts, tasks, workspace, yours
from rlhf_helpers.engine import files, memory, models
from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.lesson import feedback, loop
from rlhf_helpers.lesson.pairs import simulated_feedback
from rlhf_helpers.make import series
from rlhf_helpers.world import annotators

ASKED = [f"What is {n} and {n}?" for n in range(10)]


def jsonl(path, rows):
    path.write_bytes(b"".join(as_line(r) + b"\n" for r in rows))
    return path


def own_rows(n=12):
    return [{"prompt": f"Why is {i} odd?", "chosen": f"Because {i}.", "rejected": "I have no idea."} for i in range(n)]


def world_rows(n=12):
    return [{"prompt": p, "chosen": "A.", "rejected": "B."} for p in world.prompts("train")[:n]]


# ---------------------------------------------------------------- prompts

PROMPT_FILES = {
    "x.txt": lambda: "\n\n".join(ASKED).encode("utf-8-sig"),
    "notes.md": lambda: "\r\n".join(ASKED).encode(),
    "x.jsonl": lambda: b"\n".join(as_line({"prompt": p}) for p in ASKED),
    "strings.json": lambda: as_line(ASKED),
    "held.json": lambda: as_line({"prompts": ASKED}),
    "held_and_named.json": lambda: as_line({"name": "mine", "questions": ASKED}),
    "messages.jsonl": lambda: b"\n".join(as_line({"messages": [{"role": "user", "content": p}]}) for p in ASKED),
    "answered.jsonl": lambda: b"\n".join(
        as_line({"conversations": [{"from": "human", "value": p}, {"from": "gpt", "value": "So."}]}) for p in ASKED
    ),
    "lists.json": lambda: as_line([[{"role": "user", "content": p}] for p in ASKED]),
    "turns.jsonl": lambda: b"\n".join(as_line({"role": "user", "content": p}) for p in ASKED),
    "other.jsonl": lambda: b"\n".join(as_line({"id": i, "instruction": p, "output": "x"}) for i, p in enumerate(ASKED)),
    "x.csv": lambda: ("question\n" + "\n".join(ASKED)).encode(),
    "no_header.csv": lambda: "\n".join(ASKED).encode(),
    "named.csv": lambda: ("frage\n" + "\n".join(ASKED)).encode(),
    "x.tsv": lambda: ("id\tprompt\n" + "\n".join(f"{i}\t{p}" for i, p in enumerate(ASKED))).encode(),
}


@pytest.mark.parametrize("name", PROMPT_FILES)
def test_prompts_come_in_many_forms_and_ten_are_enough(tmp_path, name):
    (tmp_path / name).write_bytes(PROMPT_FILES[name]())
    rows, said = prompts.read(tmp_path / name)
    assert [r["prompt"] for r in rows] == ASKED and {r["family"] for r in rows} == {"own"}
    splits = tasks.general_splits(rows)
    assert [len(splits[s]) for s in ("train", "dev", "test")] == [6, 2, 2] and "10 prompts" in said and "drawn" in said
    assert not {*splits["train"]} & {*splits["dev"], *splits["test"]}


def test_lists_of_texts_by_split_keep_it(tmp_path):
    (tmp_path / "x.json").write_bytes(as_line({"train": ASKED[:-3], "test": ASKED[-3:]}))
    rows, _ = prompts.read(tmp_path / "x.json")
    assert [r["split"] for r in rows] == ["train"] * 7 + ["test"] * 3 and [r["prompt"] for r in rows] == ASKED


def test_a_file_of_no_known_kind_is_told_what_prompts_may_come_in(tmp_path):
    (tmp_path / "asked").write_text("\n".join(ASKED))
    with pytest.raises(WorkbookError, match="save it as one of .txt, "):
        prompts.read(tmp_path / "asked")


def test_the_page_says_how_many_prompts_are_enough():
    page = (ROOT / "docs" / "your_data.md").read_text(encoding="utf-8")
    assert prompts.ENOUGH == 10 and "Ten are enough." in page and "if there are ten or more" in page


@pytest.mark.parametrize("n", [10, 11, 14, 40, 121])
def test_drawn_splits_leave_most_to_train_on_and_measure_on_others(n):
    rows, word = prompts.with_splits([{"prompt": str(i), "family": "own", "split": ""} for i in range(n)])
    splits = tasks.general_splits(rows)
    train, dev, test = (set(splits[s]) for s in ("train", "dev", "test"))
    assert len(train) + len(dev) + len(test) == n and not train & dev and not train & test and not dev & test
    assert min(len(dev), len(test)) >= 2 and len(train) >= n / 2 and word == ", drawn"


@pytest.mark.parametrize(
    "splits, train",
    [
        (["train"] * 7 + ["heldout"] * 3, 7),  # three held out
        (["train"] * 7 + ["test"] * 3, 7),
        (["Training"] * 7 + ["validation"] * 3, 7),
        ([""] * 7 + ["test"] * 3, 7),  # the others are to train on
        (["train"] * 10, 6),  # none held out: some are drawn
        (["test"] * 10, 6),  # none to train on
        (["heldout"] * 10, 6),
    ],
)
def test_the_splits_of_a_file_are_followed_where_both_sides_are_there(tmp_path, splits, train):
    path = jsonl(tmp_path / "x.jsonl", [{"prompt": p, "split": s} for p, s in zip(ASKED, splits)])
    found = tasks.general_splits(prompts.read(path)[0])
    assert len(found["train"]) == train and found["dev"] and found["test"]
    assert not {*found["train"]} & {*found["dev"], *found["test"]}


def test_what_of_a_file_is_no_prompt_is_counted(tmp_path):
    rows = [{"prompt": p, "category": "sums"} for p in ASKED]
    rows += [
        rows[0],
        {"prompt": " "},
        {"a": 1, "b": 2},
        {"prompt": "x", "split": "later"},
        7,
        {"prompt": None, "x": []},
    ]
    found, said = prompts.read(jsonl(tmp_path / "x.jsonl", rows))
    assert len(found) == 11 and found[0]["family"] == "sums"  # 7 is a text, too
    for words in ("duplicates 1", "empty 1", "no prompt 2", "an unknown split 1 (first: line 14: 'later')"):
        assert words in said


@pytest.mark.parametrize("rows", [[], ASKED[:9], ["x"] * 20, [{"a": 1, "b": 2}] * 20])
def test_too_few_prompts_are_refused_with_the_whole_format(tmp_path, rows):
    path = jsonl(tmp_path / "x.jsonl", rows or [None])
    with pytest.raises(WorkbookError) as error:
        prompts.read(path)
    one_short_sentence(error.value, "PROMPTS", "10 are needed", '"family": "explain"', '"dev", "test" or "heldout"')


@often
@given(
    st.lists(st.one_of(VALUES, TEXTS, st.builds(lambda p, s: {"prompt": p, "split": s}, VALUES, VALUES)), max_size=8)
)
def test_any_file_of_prompts_is_read_or_refused(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("prompts") / "x.jsonl"
    jsonl(path, [*rows, *ASKED])
    found = attempt(lambda: prompts.read(path), "x.jsonl")
    if found:
        assert all(r["prompt"].strip() and isinstance(r["family"], str) and r["split"] for r in found[0])
        assert len({r["prompt"] for r in found[0]}) == len(found[0]) >= 10


def test_a_general_prompts_file_may_hold_prompts_only(tmp_path):
    jsonl(tmp_path / "general_prompts.jsonl", [{"prompt": p} for p in ASKED])
    task = tasks.general(tmp_path)
    assert {*task.prompts("train"), *task.prompts("dev"), *task.prompts("test")} == set(ASKED)
    (tmp_path / "general_prompts.jsonl").write_text('{"question": "Why?"}\n')
    with pytest.raises(WorkbookError, match="general_prompts.*DATA_DIR.*10 are needed"):
        tasks.general(tmp_path)


# ---------------------------------------------------------------- the workspace and its task


def test_own_preferences_on_the_embedded_model_make_a_task_of_their_prompts(tmp_path, capsys):
    path = jsonl(tmp_path / "mine.jsonl", own_rows())
    ws = workspace.setup(RUNS_DIR=str(tmp_path / "runs"), PREFERENCES=str(path))
    assert ws.general and not ws.own_model and len(ws.preferences.rows) == 12
    assert ws.runs.parent == (tmp_path / "runs").resolve() and ws.runs.name.startswith("preferences-mine-")
    task = tasks.choose(ws)
    said = capsys.readouterr().out
    assert "12 rows gave 12 comparisons" in said and "those of PREFERENCES" in said and "`brief`" in said
    asked = {r["prompt"] for r in own_rows()}
    assert {*task.prompts("train"), *task.prompts("dev"), *task.prompts("test")} == asked
    assert task.ppo == tasks.embedded().ppo and task.score(ASKED[0], "One.") == annotators.brief("", "One.")
    assert task.judged(own_rows()) == own_rows()


def test_preferences_on_the_worlds_own_questions_keep_its_gold_judge(tmp_path):
    path = jsonl(tmp_path / "mine.jsonl", world_rows())
    ws = workspace.setup(RUNS_DIR=str(tmp_path / "runs"), PREFERENCES=str(path), ANNOTATOR="warm")
    assert not ws.general and tasks.choose(ws).score is world.gold_score
    jsonl(path, world_rows() + own_rows(1))  # one prompt that it does not know, and it is asked about none
    ws = workspace.setup(RUNS_DIR=str(tmp_path / "runs"), PREFERENCES=str(path))
    assert ws.general and tasks.choose(ws).score is annotators.brief
    with pytest.raises(WorkbookError, match='ANNOTATOR is .warm.* PREFERENCES of your own choose "you" or "brief"'):
        workspace.setup(RUNS_DIR=str(tmp_path / "runs"), PREFERENCES=str(path), ANNOTATOR="warm")


def test_with_few_prompts_in_the_preferences_the_general_ones_are_asked(tmp_path, capsys):
    path = jsonl(tmp_path / "mine.jsonl", own_rows(3))
    task = tasks.choose(workspace.setup(RUNS_DIR=str(tmp_path), PREFERENCES=str(path)))
    assert len(task.families) == 120 and "PREFERENCES has only 3" in capsys.readouterr().out


def test_own_prompts_come_before_those_of_the_preferences(tmp_path, capsys):
    path, asked = jsonl(tmp_path / "mine.jsonl", own_rows()), tmp_path / "asked.txt"
    asked.write_text("\n".join(ASKED))
    ws = workspace.setup(RUNS_DIR=str(tmp_path / "runs"), PREFERENCES=str(path), PROMPTS=str(asked))
    assert set(tasks.choose(ws).families) == set(ASKED) and "those of PROMPTS" in capsys.readouterr().out
    assert ws.runs.parent.name.startswith("prompts-asked-") and ws.runs.name.startswith("preferences-mine-")


def made(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_nothing_made_of_other_data_is_taken_and_what_does_not_depend_on_it_is(tmp_path):
    runs, path, asked = tmp_path / "runs", jsonl(tmp_path / "mine.jsonl", own_rows()), tmp_path / "asked.txt"
    asked.write_text("\n".join(ASKED))
    made(runs.resolve(), "pairs.jsonl", "feedback.jsonl", "models/reward", "models/finetuned")
    preferred = workspace.setup(RUNS_DIR=str(runs), PREFERENCES=str(path))
    for name in ("feedback.jsonl", "models/reward", "models/policy"):
        with pytest.raises(WorkbookError, match="made with your own data"):
            workspace.find(preferred, name)
    for name in ("pairs.jsonl", "models/finetuned"):
        assert workspace.find(preferred, name) == runs.resolve() / name
    assert workspace.find(preferred, "models/base") == ROOT / "data" / "models" / "base"
    both = workspace.setup(RUNS_DIR=str(runs), PREFERENCES=str(path), PROMPTS=str(asked))
    with pytest.raises(WorkbookError, match="made with your own data"):
        workspace.find(both, "pairs.jsonl")  # those are answers to other prompts
    made(both.runs.parent, "pairs.jsonl", "models/reward")
    assert workspace.find(both, "pairs.jsonl") == both.runs.parent / "pairs.jsonl"
    assert workspace.find(both, "models/finetuned") == runs.resolve() / "models/finetuned"
    with pytest.raises(WorkbookError, match="made with your own data"):
        workspace.find(both, "models/reward")
    made(both.runs, "models/reward")
    assert workspace.find(both, "models/reward") == both.runs / "models/reward"


def test_two_files_of_one_name_have_folders_of_their_own(tmp_path):
    places = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = jsonl(tmp_path / name / "train.jsonl", own_rows())
        places.append(workspace.setup(RUNS_DIR=str(tmp_path / "runs"), PREFERENCES=str(path)).runs)
    assert places[0] != places[1]


def test_own_preferences_of_a_model_of_ones_own_lie_in_its_folder(tmp_path):
    folder, path = language_model(tmp_path / "own", "llama"), jsonl(tmp_path / "mine.jsonl", own_rows())
    ws = workspace.setup(MODEL=str(folder), RUNS_DIR=str(tmp_path / "runs"), PREFERENCES=str(path))
    alone = workspace.setup(MODEL=str(folder), RUNS_DIR=str(tmp_path / "runs"))
    assert ws.runs.parent == alone.runs and ws.general and ws.own_model
    assert tasks.choose(ws).ppo == tasks.PPO
    with pytest.raises(WorkbookError, match="made with the model"):
        workspace.find(ws, "pairs.jsonl")
    made(alone.runs, "pairs.jsonl")
    assert workspace.find(ws, "pairs.jsonl") == alone.runs / "pairs.jsonl"


@pytest.mark.parametrize("name", ["PREFERENCES", "PROMPTS"])
@pytest.mark.parametrize("value", [7, None, "no such file.jsonl", "a\0b", "~\0", "x" * 5000, "~nobody/x"])
def test_a_parameter_that_names_no_file_is_named_itself_and_nothing_is_made(tmp_path, name, value):
    with pytest.raises(WorkbookError) as error:
        workspace.setup(RUNS_DIR=str(tmp_path / "runs"), **{name: value})
    one_short_sentence(error.value, name)
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------- own pairs, and who is asked about them

PAIRS = [
    {"pair_id": f"p{i}", "prompt": r["prompt"], "response_a": r["chosen"], "response_b": r["rejected"]}
    for i, r in enumerate(own_rows())
]
KNOWN = [p | {"pair_id": f"w{i}", "prompt": q} for i, (p, q) in enumerate(zip(PAIRS, world.prompts("train")))]


@pytest.mark.parametrize("taste", annotators.TASTES)
def test_no_simulated_annotator_is_asked_about_a_prompt_that_it_does_not_know(tmp_path, taste, capsys):
    who = annotators.Annotator(taste)
    log = tmp_path / "log.jsonl"
    if taste == "brief":
        assert len(simulated_feedback(PAIRS, who)) == labeller.Labeller(PAIRS, log, repeat_share=0).label_with(who)
    else:
        for ask in (simulated_feedback, lambda pairs, who: labeller.Labeller(pairs, log).label_with(who)):
            with pytest.raises(WorkbookError) as error:
                ask([*KNOWN, *PAIRS], who)
            one_short_sentence(error.value, f"simulated:{taste}", "12 of", PAIRS[0]["prompt"])
        assert not log.exists()  # not one label is written before it is said
    stand_in = tasks.annotator_for([*KNOWN, *PAIRS], taste)
    assert stand_in.name == "simulated:brief" and ("stands in" in capsys.readouterr().out) == (taste != "brief")
    events = simulated_feedback([*KNOWN, *PAIRS], stand_in)
    assert feedback.labels_of(events, "you", stand_in.taste) == events
    assert tasks.annotator_for(KNOWN, taste).name == f"simulated:{taste}" and not capsys.readouterr().out


@pytest.mark.parametrize("who", [annotators.Annotator("warm"), loop.inverted(annotators.Annotator("warm"))])
def test_a_round_of_the_loop_asks_first_whether_its_judge_knows_the_prompts(who):
    """Before anything is sampled or learned: there is no model here."""
    for asked, judged in ((ASKED, world.prompts("dev")), (world.prompts("train"), ASKED)):
        with pytest.raises(WorkbookError, match="warm.* knows only the embedded world, and 10 of 10 prompts"):
            loop.one_round(None, None, asked, judged, who)


def test_a_taste_of_the_readers_own_is_asked_about_any_prompt():
    who = annotators.Annotator(lambda prompt, answer: float(len(answer)))
    assert len(simulated_feedback(PAIRS, who)) == len(PAIRS)
    assert annotators.knows(annotators.terse, KNOWN[0]["prompt"]) and not annotators.knows(annotators.terse, "Why?")


def test_the_embedded_task_judges_its_own_prompts_only():
    task = tasks.embedded()
    assert task.judged([*KNOWN, *PAIRS]) == KNOWN
    assert (
        task.question(PAIRS[0]["prompt"]) == PAIRS[0]["prompt"]
        and task.question(KNOWN[0]["prompt"]) != KNOWN[0]["prompt"]
    )


def test_own_pairs_in_a_file_are_there_to_be_labelled(tmp_path, capsys):
    path = jsonl(tmp_path / "pairs.jsonl", [{k: v for k, v in p.items() if k != "pair_id"} for p in PAIRS])
    ws = workspace.setup(RUNS_DIR=str(tmp_path / "runs"), PREFERENCES=str(path))
    assert "12 pairs still to be judged" in capsys.readouterr().out
    queue = labeller.Labeller(ws.preferences.pairs, ws.runs / "feedback.jsonl", repeat_share=0)
    task = tasks.choose(ws)
    assert queue.label_with(tasks.annotator_for(ws.preferences.pairs, task.stand_in)) == 12
    assert set(task.families) == {p["prompt"] for p in PAIRS}


# ---------------------------------------------------------------- what the chapters learn from


def own_workspace(tmp_path, rows, **parameters):
    return workspace.setup(
        RUNS_DIR=str(tmp_path / "runs"), PREFERENCES=str(jsonl(tmp_path / "mine.jsonl", rows)), **parameters
    )


def test_the_chapters_learn_from_the_file_and_from_what_was_labelled_besides(tmp_path):
    ws = own_workspace(tmp_path, own_rows())
    task = tasks.choose(ws)
    given, who = yours.labels(ws, task)
    rows = feedback.to_preferences(given)[0]
    asked = task.prompts("train")
    assert who == "you" and [r["prompt"] for r in rows] == [r["prompt"] for r in own_rows() if r["prompt"] in asked]
    assert all(r["chosen"].startswith("Because") for r in [*rows, *yours.held_out(ws, task)])
    measured = {r["prompt"] for r in yours.held_out(ws, task)}
    assert measured == {*task.prompts("dev"), *task.prompts("test")} and len(rows) + len(measured) == 12
    for label in given:  # as chapter 03 may keep them
        feedback.append_event(ws.runs / "feedback.jsonl", label)
    feedback.append_event(ws.runs / "feedback.jsonl", feedback.label_event(PAIRS[0], "a", "b", "you"))
    again, who = yours.labels(ws, task)
    assert again[:-1] == given and again[-1]["choice"] == "b" and who == "you"


def test_where_all_is_held_out_a_sentence_says_so(tmp_path):
    rows = [r | {"prompt": p} for r, p in zip(own_rows(), world.prompts("test"))]
    ws = own_workspace(tmp_path, rows)
    with pytest.raises(WorkbookError, match="All 12 comparisons in PREFERENCES are of prompts that are kept"):
        yours.labels(ws, tasks.choose(ws))


def test_simulated_labels_in_a_file_are_called_so(tmp_path):
    events = simulated_feedback(PAIRS, annotators.Annotator("brief", noise=0))
    given, who = yours.labels(ws := own_workspace(tmp_path, events), tasks.choose(ws))
    assert (
        who == "simulated:brief" and all(yours.is_simulated(x) for x in given) and len(given) == 8
    )  # of 12 prompts four are kept


def test_what_is_too_long_or_too_much_is_left_out_aloud_before_anything_is_computed(tmp_path, capsys, monkeypatch):
    rows = own_rows(30)
    rows[0]["chosen"] = "word " * 300
    ws = own_workspace(tmp_path, rows)
    monkeypatch.setattr(yours, "MOST", 15)
    given, _ = yours.labels(ws, tasks.choose(ws))
    said = capsys.readouterr().out
    assert len(given) == 15 and "1 of 30 comparisons left out: longer than the 128 tokens" in said
    assert "8 of 29 comparisons are of held-out prompts" in said and "15 of 21 comparisons are learned from" in said
    assert given == yours.labels(ws, tasks.choose(ws))[0], "the same ones twice"


def test_a_prompt_that_leaves_no_room_for_an_answer_is_left_out(tmp_path, capsys):
    long = [{"prompt": "word " * 100 + str(i)} for i in range(3)]
    asked = jsonl(tmp_path / "asked.jsonl", [{"prompt": p} for p in ASKED] + long)
    task = tasks.choose(workspace.setup(RUNS_DIR=str(tmp_path / "runs"), PROMPTS=str(asked)))
    assert (
        set(task.families) == set(ASKED) and "3 of 13 prompts are longer than the 80 tokens" in capsys.readouterr().out
    )
    jsonl(asked, [{"prompt": p} for p in ASKED[:9]] + long)
    with pytest.raises(WorkbookError, match="3 of 12 prompts are longer.*10 others are needed"):
        tasks.choose(workspace.setup(RUNS_DIR=str(tmp_path / "runs"), PROMPTS=str(asked)))


@pytest.mark.parametrize("stage", ["answers", "reward model", "PPO"])
def test_memory_is_counted_for_rows_as_long_as_the_readers_own(tmp_path, monkeypatch, stage):
    folder = language_model(tmp_path / "own", "llama", context=4096)
    counted, check = [], memory.check
    monkeypatch.setattr(memory, "check", lambda *a: counted.append(check(*a) or sum(a[-2:])))

    def tokens_of(words, answer_words):
        asked = [f"Why is {'so ' * words}{i}?" for i in range(12)]
        rows = [{"prompt": p, "chosen": "so " * answer_words, "rejected": "No."} for p in asked]
        path = jsonl(tmp_path / f"{words}-{answer_words}.jsonl", rows)
        ws = workspace.setup(MODEL=str(folder), RUNS_DIR=str(tmp_path / "runs"), PREFERENCES=str(path))
        tasks.check_memory(ws, tasks.choose(ws), str(folder), stage, rows=4)
        ids = models.prompts_ids(models.load_model(folder)[1], asked)
        return counted[-1] - max(map(len, ids))

    answers = tokens_of(8, 2), tokens_of(200, 2), tokens_of(8, 200)
    assert answers[:2] == (tasks.PPO.max_new_tokens,) * 2, "the longest prompt is counted, whatever its length"
    assert (answers[2] > 150) == (stage == "reward model"), "a reward model reads answers that others wrote"


def test_a_prompt_of_three_thousand_words_is_too_long_for_any_model(tmp_path):
    folder = language_model(tmp_path / "own", "llama", context=32_768)
    rows = [*own_rows(), own_rows(1)[0] | {"prompt": "word " * 3000}]
    ws = own_workspace(tmp_path, rows, MODEL=str(folder))
    assert workspace.reader(ws)[1] == workspace.LONGEST and len(yours.labels(ws, tasks.choose(ws))[0]) == 8


def test_pairs_of_the_file_that_nobody_has_judged_are_those_to_label(tmp_path, capsys):
    ws = own_workspace(tmp_path, [{k: v for k, v in p.items() if k != "pair_id"} for p in PAIRS])
    assert [p["prompt"] for p in yours.pairs(ws)] == [p["prompt"] for p in PAIRS]
    labels, who = yours.labels(ws, tasks.choose(ws))
    assert who == "simulated:brief" and len(labels) == len(PAIRS)
    judged = own_workspace(tmp_path, own_rows())
    assert [p["prompt"] for p in yours.pairs(judged)] == [r["prompt"] for r in own_rows()]
    assert labeller.check_pairs(yours.pairs(judged))
    asked = jsonl(tmp_path / "asked.json", [{"prompt": p} for p in ASKED])
    both = own_workspace(tmp_path, own_rows(), PROMPTS=str(asked))
    assert yours.pairs(both) == yours.pairs(judged)  # until chapter 02 has made some to those prompts
    jsonl(both.runs.parent / "pairs.jsonl", PAIRS[:2])
    assert yours.pairs(both) == PAIRS[:2]
    shipped = workspace.setup(RUNS_DIR=str(tmp_path / "runs"))
    assert yours.pairs(shipped) == files.read_jsonl(ROOT / "data" / "pairs.jsonl")


def test_own_pairs_with_the_embedded_model_have_a_stand_in_that_knows_their_prompts(tmp_path, capsys):
    """A pairs.jsonl of the reader's own in DATA_DIR or RUNS_DIR, and no other parameter set."""
    jsonl(tmp_path / "pairs.jsonl", PAIRS)
    ws = workspace.setup(RUNS_DIR=str(tmp_path))
    labels, who = yours.labels(ws, tasks.choose(ws))
    assert who == "simulated:brief" and "stands in" in capsys.readouterr().out


# ---------------------------------------------------------------- make run


def notebook(path, parameters, body):
    cells = [("parameters", parameters), ("body", body)]
    cells = [
        {"cell_type": "code", "id": i, "metadata": {"tags": [i]}, "source": s, "outputs": [], "execution_count": None}
        for i, s in cells
    ]
    files.write_json(
        path, {"cells": cells, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}
    )


@pytest.mark.slow
def test_make_run_hands_the_files_to_the_chapters_that_ask_for_them(tmp_path, warm_kernels, monkeypatch, capsys):
    """The key result is found in the folder of the chapter's own data; a path may hold braces."""
    place = tmp_path / "a {clone}"
    place.mkdir()
    jsonl(tmp_path / "mine.jsonl", own_rows())
    (tmp_path / "asked.txt").write_text("\n".join(ASKED))
    body = "from rlhf_helpers.desk import workspace\nws = workspace.setup(RUNS_DIR=RUNS_DIR, {})\n"
    body += "workspace.save_metrics(ws, '{}', {{'key_result': f'{{ws.prompts is None}} {{ws.preferences is None}}'}})"
    notebook(place / "01_x.ipynb", 'RUNS_DIR = ""', body.format("", "01_x"))
    notebook(place / "02_y.ipynb", 'RUNS_DIR = ""\nPROMPTS = ""', body.format("PROMPTS=PROMPTS", "02_y"))
    names = "PROMPTS=PROMPTS, PREFERENCES=PREFERENCES"
    notebook(place / "03_z.ipynb", 'RUNS_DIR = ""\nPROMPTS = ""\nPREFERENCES = ""', body.format(names, "03_z"))
    monkeypatch.setattr(series, "chapters", lambda only, deeper: sorted(place.glob("0*.ipynb")))
    monkeypatch.chdir(tmp_path)
    arguments = ["--runs-dir", "{runs}", "--preferences", "mine.jsonl", "--prompts", "asked.txt"]
    assert series.main(arguments) == 0
    table = capsys.readouterr().out.split("key result")[1]
    assert [line.split()[-2:] for line in table.strip().splitlines()[:3]] == [
        ["True", "True"],
        ["False", "True"],
        ["False", "False"],
    ]
    assert len(list((tmp_path / "{runs}").rglob("metrics"))) == 3


def test_a_folder_that_cannot_be_made_is_named_before_a_kernel_starts(tmp_path, monkeypatch):
    """As in a clone that is read-only."""
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "series", tmp_path / "file" / "runs" / "series"):
        with pytest.raises(WorkbookError, match="RUNS_DIR") as error:
            series.execute(tmp_path / "01_x.ipynb", place)
        assert str(place) in str(error.value)


def test_make_run_says_what_is_wrong_with_a_file_before_it_runs_anything(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(series, "run_chapters", lambda *a: pytest.fail("it ran"))
    (tmp_path / "x.jsonl").write_text(json.dumps({"foo": 1, "bar": 2}))
    for option in ("--preferences", "--prompts"):
        assert series.main([option, str(tmp_path / "x.jsonl")]) == 1
        assert "'foo'" in capsys.readouterr().err


def test_the_logs_of_a_class_in_one_folder_are_learned_from_without_what_was_taken_back(tmp_path):
    """What docs/teaching.md says: a folder of logs, or the log of one student."""
    pairs = files.read_jsonl(ROOT / "data" / "pairs.jsonl", feedback.PAIR_FIELDS)[:30]
    for student in ("ada", "bob"):
        widget = labeller.Labeller(pairs, tmp_path / f"{student}.jsonl", annotator=student, repeat_share=0)
        for _ in range(28):
            widget.choose("a")
        widget.undo()
    for name, labels in (("", 54), ("bob.jsonl", 27)):
        ws = workspace.setup(RUNS_DIR=str(tmp_path / "runs"), DEVICE="cpu", PREFERENCES=str(tmp_path / name))
        given, who = yours.labels(ws, tasks.choose(ws))
        assert (len(given), who) == (labels, "you")
