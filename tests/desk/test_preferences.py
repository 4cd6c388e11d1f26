"""A reader's own preferences: every format is recognised, every row accounted for, and no row is guessed."""

import builtins
import gzip
import json
import math
import random
import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_hostile import VALUES, as_line, attempt, one_short_sentence

from rlhf_helpers.desk import formats, preferences, tables, tasks
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.lesson import feedback, reward

Q, GOOD, BAD = "What does a cow eat?", "Grass.", "Stones."
HH = "\n\nHuman: {}\n\nAssistant: {}"
USER = HH.replace("Human", "User")
CONTEXT = ["What does a dog eat?", "Meat."]


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


def share(name, text):
    return {"from": name, "value": text}


def part(text):
    return [{"type": "text", "text": text}]


def argilla(values, **fields):
    response = {"user_id": "u1", "status": "submitted", "values": {k: {"value": v} for k, v in values.items()}}
    return {"fields": {"prompt": Q, **fields}, "responses": [response], "metadata": {}, "external_id": "7"}


def studio(value, **fields):
    return {
        "id": 1,
        "data": {"prompt": Q, **fields},
        "annotations": [{"id": 3, "completed_by": 1, "was_cancelled": False, "result": [{"id": "x", "value": value}]}],
    }


BOTH = {"response_1": GOOD, "response_2": BAD}
LEFT, PRODIGY = {"selected": "left"}, {"_input_hash": 1, "_task_hash": 2, "_annotator_id": "db-me"}
OPTIONS = [{"id": 1, "text": BAD}, {"id": 2, "text": GOOD}]
# format -> kind of row -> the rows of a file that says: to Q, GOOD is better than BAD
FORMATS = {
    "TRL, explicit prompt": {
        "as documented": [{"prompt": Q, "chosen": GOOD, "rejected": BAD}],
        "names in capitals": [{"Prompt": Q, "Chosen ": GOOD, "REJECTED": BAD}],
        "a question and a system prompt that is empty": [
            {"system": "", "question": Q, "chosen": GOOD, "rejected": BAD}
        ],
        "an instruction without input": [{"instruction": Q, "input": "", "chosen": GOOD, "rejected": BAD}],
        "answers that repeat the prompt": [{"prompt": Q, "chosen": f"{Q} {GOOD}", "rejected": f"{Q} {BAD}"}],
        "turns of another kind before": [
            {"conversations": [share("human", Q)], "chosen": GOOD, "rejected": BAD, "id": None}
        ],
    },
    "TRL, conversational": {
        "explicit prompt": [{"prompt": [user(Q)], "chosen": [said(GOOD)], "rejected": [said(BAD)]}],
        "implicit prompt": [{"chosen": [user(Q), said(GOOD)], "rejected": [user(Q), said(BAD)]}],
        "explicit and in the answers": [
            {"prompt": [user(Q)], "chosen": [user(Q), said(GOOD)], "rejected": [user(Q), said(BAD)]}
        ],
        "content in parts": [
            {"chosen": [user(part(Q)), said(part(GOOD))], "rejected": [user(part(Q)), said(part(BAD))]}
        ],
        "from and value": [
            {"conversations": [share("human", Q)], "chosen": share("gpt", GOOD), "rejected": share("gpt", BAD)}
        ],
        "one side as a text": [{"prompt": [user(Q)], "chosen": [said(GOOD)], "rejected": BAD}],
    },
    "TRL, unpaired": {
        "true and false": [
            {"prompt": Q, "completion": GOOD, "label": True},
            {"prompt": Q, "completion": BAD, "label": False},
        ],
        "messages, 1 and 0": [
            {"prompt": [user(Q)], "completion": [said(BAD)], "label": 0},
            {"prompt": [user(Q)], "completion": [said(GOOD)], "label": 1},
        ],
        "thumbs": [{"prompt": Q, "response": GOOD, "thumb": "👍"}, {"prompt": Q, "response": BAD, "thumb": "👎"}],
    },
    "HH-RLHF dialogues": {
        "as published": [{"chosen": HH.format(Q, GOOD), "rejected": HH.format(Q, BAD)}],
        "without the first blank line": [{"chosen": HH.format(Q, GOOD)[2:], "rejected": HH.format(Q, BAD)[2:]}],
        "the prompt apart": [{"prompt": HH.format(Q, ""), "chosen": f" {GOOD}", "rejected": f" {BAD}"}],
        "User for Human": [{"chosen": USER.format(Q, GOOD), "rejected": USER.format(Q, BAD)}],
    },
    "UltraFeedback, messages with scores": {
        "binarized": [
            {
                "prompt": Q,
                "messages": [user(Q), said(GOOD)],
                "chosen": [user(Q), said(GOOD)],
                "rejected": [user(Q), said(BAD)],
                "score_chosen": 8.0,
                "score_rejected": 2.0,
            }
        ],
        "cleaned": [
            {
                "chosen": [user(Q), said(GOOD)],
                "rejected": [user(Q), said(BAD)],
                "chosen-rating": 4,
                "rejected-rating": 1,
            }
        ],
    },
    "a list of answers with scores (as UltraFeedback)": {
        "overall scores": [
            {
                "instruction": Q,
                "completions": [{"response": BAD, "overall_score": 2}, {"response": GOOD, "overall_score": 8.5}],
            }
        ],
        "ratings of aspects": [
            {
                "instruction": Q,
                "completions": [
                    {"response": BAD, "annotations": {"helpfulness": {"Rating": "2"}, "honesty": {"Rating": "3"}}},
                    {"response": GOOD, "annotations": {"helpfulness": {"Rating": "4"}, "honesty": {"Rating": "5"}}},
                ],
            }
        ],
        "lists of messages beside scores": [
            {"prompt": Q, "completions": [[said(BAD)], [said(GOOD)]], "scores": [1, 2]}
        ],
        "ranks": [{"prompt": HH.format(Q, ""), "answers": [{"answer": GOOD, "rank": 1}, {"answer": BAD, "rank": 2}]}],
        "votes": [{"question": Q, "answers": [{"text": BAD, "pm_score": 1}, {"text": GOOD, "pm_score": 5}]}],
        "the index of the best": [{"info": {"post": Q}, "summaries": [{"text": BAD}, {"text": GOOD}], "choice": 1}],
    },
    "two answers with scores": {
        "webgpt": [
            {
                "question": {"dataset": "eli5", "full_text": Q},
                "quotes_0": {"title": []},
                "answer_0": BAD,
                "score_0": -1.0,
                "quotes_1": {"title": []},
                "answer_1": GOOD,
                "score_1": 1.0,
            }
        ],
        "ratings as text": [{"prompt": Q, "response_a": GOOD, "response_b": BAD, "rating_a": "5", "rating_b": "2"}],
        "ranks": [{"prompt": Q, "response_a": GOOD, "response_b": BAD, "rank_a": 1, "rank_b": 2}],
    },
    "two answers with a choice": {
        "this workbook's fields": [{"prompt": Q, "response_a": BAD, "response_b": GOOD, "left": "a", "choice": "b"}],
        "an id": [{"prompt": Q, "response_0": BAD, "response_1": GOOD, "better_response_id": 1}],
        "numbers from one": [{"instruction": Q, "output_1": BAD, "output_2": GOOD, "preference": 2}],
        "an arena": [
            {
                "model_a": "x",
                "model_b": "y",
                "winner": "model_b",
                "conversation_a": [user(Q), said(BAD)],
                "conversation_b": [user(Q), said(GOOD)],
            }
        ],
        "an arena as a table": [
            {
                "prompt": json.dumps([Q]),
                "response_a": json.dumps([GOOD]),
                "response_b": json.dumps([BAD]),
                "winner_model_a": 1,
                "winner_model_b": 0,
                "winner_tie": 0,
            }
        ],
        "SHP, where 1 is A": [{"history": Q, "human_ref_A": GOOD, "human_ref_B": BAD, "labels": 1}],
        "a strength with a sign": [
            {"context": [user(Q)], "response1": GOOD, "response2": BAD, "overall_preference": -2}
        ],
        "the text of the better one": [{"prompt": Q, "answer_1": GOOD, "answer_2": BAD, "preferred": GOOD}],
        "in words": [{"question": Q, "answerA": BAD, "answerB": GOOD, "verdict": "Answer B is better"}],
        "chosen by name": [
            {"prompt": Q, "response_a": BAD, "response_b": GOOD, "chosen": "response_b", "rejected": "response_a"}
        ],
    },
    "Argilla": {
        "a label": [argilla({"better": "response_1", "why": "It is true."}, **BOTH)],
        "a ranking": [
            argilla({"best": [{"value": "response-2", "rank": 2}, {"value": "response-1", "rank": 1}]}, **BOTH)
        ],
        "version 2": [{"fields": {"prompt": Q, **BOTH}, "responses": {"q": [{"value": "response_1", "user_id": "u"}]}}],
        "version 2, ranked": [
            {"fields": {"prompt": Q, **BOTH}, "responses": {"q": [{"value": ["response_1", "response_2"]}]}}
        ],
        "flat": [
            {"prompt": Q, **BOTH, "q.responses": ["response_1"], "q.responses.users": ["u"], "status": "completed"}
        ],
        "on a hub": [
            {
                "prompt": Q,
                **BOTH,
                "q": [{"user_id": "u", "value": {"rank": [1, 2], "value": ["response_1", "response_2"]}}],
            }
        ],
        "answers called after models": [argilla({"q": "llama"}, llama=GOOD, gpt=BAD)],
    },
    "Label Studio": {
        "pairwise": [studio(LEFT, answer1=GOOD, answer2=BAD)],
        "other names": [studio({"selected": "right"}, text1=BAD, text2=GOOD)],
        "choices": [studio({"choices": ["Response B"]}, response_a=BAD, response_b=GOOD)],
        "ranker": [studio({"ranker": {"r": ["2", "1"]}}, items=[{"id": "1", "body": BAD}, {"id": "2", "body": GOOD}])],
        "JSON_MIN": [{"prompt": Q, "answer1": GOOD, "answer2": BAD, "pw": LEFT, "annotation_id": 3, "lead_time": 2.5}],
        "CSV": [
            {
                "prompt": Q,
                "answer1": GOOD,
                "answer2": BAD,
                "pw": json.dumps(LEFT),
                "annotation_id": "3",
                "annotator": "1",
            }
        ],
    },
    "Prodigy": {
        "choice": [{"text": Q, "options": OPTIONS, "accept": [2], "answer": "accept", **PRODIGY}],
        "compare": [{"input": {"text": Q}, "accept": {"text": GOOD}, "reject": {"text": BAD}, "answer": "accept"}],
        "compare, turned round": [
            {"input": {"text": Q}, "accept": {"text": BAD}, "reject": {"text": GOOD}, "answer": "reject", **PRODIGY}
        ],
    },
    "one answer in a row, with a score": {
        "scores": [{"prompt": Q, "response": GOOD, "score": 4}, {"prompt": Q, "response": BAD, "score": "1"}]
    },
    "prompt, preferred and dispreferred": {"names": [{"prompt": Q, "preferred": GOOD, "dispreferred": BAD}]},
    "preferred_output and non_preferred_output, conversational": {
        "input": [
            {"input": {"messages": [user(Q)]}, "preferred_output": [said(GOOD)], "non_preferred_output": [said(BAD)]}
        ]
    },
    "this workbook's export": {"margin": [{"prompt": Q, "chosen": GOOD, "rejected": BAD, "margin": 0.0}]},
}
EVERY = [(name, kind) for name, kinds in FORMATS.items() for kind in kinds]


def jsonl(path, rows):
    path.write_bytes(b"".join(as_line(r) + b"\n" for r in rows))
    return path


def taken(path):
    return [(r["prompt"], r["chosen"], r["rejected"]) for r in preferences.read(path).rows]


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize("name, kind", EVERY)
def test_a_format_is_recognised_and_said(tmp_path, name, kind):
    data = preferences.read(jsonl(tmp_path / "x.jsonl", FORMATS[name][kind]))
    assert [(r["prompt"], r["chosen"], r["rejected"]) for r in data.rows] == [(Q, GOOD, BAD)]
    assert data.formats == {name: len(FORMATS[name][kind])} and not data.left_out
    report = preferences.report(data)
    assert name in report and "gave 1 comparison." in report and "Left out: nothing." in report
    assert repr(Q) in report and f"+ {GOOD!r}" in report and f"- {BAD!r}" in report


@pytest.mark.parametrize("name, kind", EVERY)
def test_the_same_rows_are_read_from_a_table(tmp_path, name, kind):
    """Cells hold JSON where a row holds lists, as exports have it."""
    pd = pytest.importorskip("pandas")
    cells = [
        {k: json.dumps(v, ensure_ascii=False) if isinstance(v, dict | list) else v for k, v in r.items()}
        for r in FORMATS[name][kind]
    ]
    for sep, suffix in ((",", ".csv"), (";", ".csv"), ("\t", ".tsv")):
        path = tmp_path / f"x{suffix}"
        path.write_text(pd.DataFrame(cells).to_csv(index=False, sep=sep), encoding="utf-8-sig")
        if name == "Argilla" or (name == "Label Studio" and "annotations" in cells[0]):
            continue  # these come as JSON only, but for the flat ones
        assert taken(path) == [(Q, GOOD, BAD)], path


def test_an_implicit_prompt_is_what_both_begin_with_up_to_a_word(tmp_path):
    rows = [{"chosen": "The sky is blue.", "rejected": "The sky is black."}, {"chosen": "Yes.", "rejected": "No."}]
    data = preferences.read(jsonl(tmp_path / "x.jsonl", rows))
    assert taken(tmp_path / "x.jsonl") == [("The sky is", "blue.", "black.")]
    assert data.left_out == {"no prompt, and no beginning that both answers share": 1}


def test_answers_that_begin_like_a_short_prompt_stay_whole(tmp_path):
    rows = [row("Hello", "Hello there", "Hello you"), row("Hi there", "Hi there!", "Hi there?")]
    assert taken(jsonl(tmp_path / "x.jsonl", rows)) == [tuple(r.values()) for r in rows]


def test_several_turns_stand_in_the_prompt_as_text(tmp_path):
    before = [user(CONTEXT[0]), said(CONTEXT[1]), user(Q)]
    spoken = "".join(f"\n\n{'Human' if m['role'] == 'user' else 'Assistant'}: {m['content']}" for m in before)
    rows = [
        {"chosen": [*before, said(GOOD)], "rejected": [*before, said(BAD)]},
        {"chosen": f"{spoken}\n\nAssistant: {GOOD}", "rejected": f"{spoken}\n\nAssistant: {BAD}", "annotator": "x"},
        {"prompt": before, "chosen": GOOD, "rejected": BAD, "annotator": "y"},
    ]
    text = f"User: {CONTEXT[0]}\n\nAssistant: {CONTEXT[1]}\n\nUser: {Q}"
    assert taken(jsonl(tmp_path / "x.jsonl", rows)) == [(text, GOOD, BAD)] * 3
    system = {"role": "system", "content": "Be brief."}
    rows = [{"chosen": [system, user(Q), said(GOOD)], "rejected": [system, user(Q), said(BAD)]}]
    rows += [{"system": "Be brief.", "question": Q, "chosen": GOOD, "rejected": BAD, "annotator": "x"}]
    assert taken(jsonl(tmp_path / "x.jsonl", rows)) == [(f"Be brief.\n\n{Q}", GOOD, BAD)] * 2


def test_several_answers_give_all_their_pairs_and_equal_scores_none(tmp_path):
    items = [{"text": t, "score": s} for t, s in (("a", 1), ("b", 3), ("c", 2), ("d", 3))]
    data = preferences.read(jsonl(tmp_path / "x.jsonl", [{"prompt": Q, "answers": items}]))
    assert {(r["chosen"], r["rejected"]) for r in data.rows} == set(map(tuple, ("ba", "ca", "da", "bc", "dc")))
    assert data.left_out == {"ties": 1} and len(data.ties) == 1 and data.read == 1


@pytest.mark.parametrize("n, good", [(2, 1), (9, 4), (40, 1), (40, 20)])
def test_each_unpaired_answer_with_a_counterpart_is_used_and_the_pairs_stay_few(tmp_path, n, good):
    rows = [{"prompt": Q, "completion": f"answer {i}", "label": i < good} for i in range(n)]
    random.Random(0).shuffle(rows)
    data = preferences.read(jsonl(tmp_path / "x.jsonl", rows))
    used = {r[side] for r in data.rows for side in ("chosen", "rejected")}
    assert used == {r["completion"] for r in rows} and len(data.rows) <= formats.MOST
    assert all(int(r["chosen"].split()[1]) < good <= int(r["rejected"].split()[1]) for r in data.rows)


def test_answers_without_a_counterpart_are_counted(tmp_path):
    rows = [*FORMATS["TRL, unpaired"]["true and false"], {"prompt": "Why?", "completion": "So.", "label": True}]
    data = preferences.read(jsonl(tmp_path / "x.jsonl", rows))
    assert (
        len(data.rows) == 1
        and sum(data.left_out.values()) == 1
        and "no answer to the same prompt" in str(data.left_out)
    )


@pytest.mark.parametrize(
    "choice, why",
    [
        ("tie", "ties"),
        ("Both", "ties"),
        ("tie (bothbad)", "ties"),
        ("neither", "both bad"),
        ("", "no choice"),
        (None, "no choice"),
        ("not a", "a choice that names neither answer"),
        ("response_a is worse", "a choice that names neither answer"),
        ("c", "a choice that names neither answer"),
        ("ab", "a choice that names neither answer"),
        ("a over b", "a choice that names neither answer"),
        ("a bit better", "a choice that names neither answer"),
        ("over B", "a choice that names neither answer"),
        ("better than B", "a choice that names neither answer"),
        ("never A", "a choice that names neither answer"),
        ("A is hardly better", "a choice that names neither answer"),
        ("A is less preferred", "a choice that names neither answer"),
        ("A beats B", "a choice that names neither answer"),
        ("A, B", "a choice that names neither answer"),
        ("A>C", "a choice that names neither answer"),
        ("A>A", "a choice that names neither answer"),
        ("A=B", "ties"),
        ("[[B ≈ A]]", "ties"),
        ({}, "no choice"),
    ],
)
def test_a_choice_that_is_none_or_cannot_be_told_is_left_out(tmp_path, choice, why):
    rows = [FORMATS["TRL, explicit prompt"]["as documented"][0] | {"prompt": "Another?"}]
    rows += [{"prompt": Q, "response_a": GOOD, "response_b": BAD, "choice": choice}]
    assert preferences.read(jsonl(tmp_path / "x.jsonl", rows)).left_out == {why: 1}


@pytest.mark.parametrize("names", ["ab", "01", "12"])
def test_what_a_number_means_is_never_guessed(tmp_path, names):
    """0 and 1 for the answers 1 and 2, or a and b; 2 may be a tie where the answers are 0 and 1."""
    numbers = {"ab": (0, 1), "01": (0, 1, 2), "12": ("1", "0")}[names]
    rows = [
        {"prompt": f"{n}?", f"response_{names[0]}": GOOD, f"response_{names[1]}": BAD, "choice": n} for n in numbers
    ]
    with pytest.raises(WorkbookError) as error:
        preferences.read(jsonl(tmp_path / "x.jsonl", rows))
    one_short_sentence(error.value, "PREFERENCES", "what these numbers mean cannot be told")


@pytest.mark.parametrize(
    "choice",
    ["a", "A", "response_a", "Response A", "[[A]]", "A is better", "Response A is slightly better", "model_a", GOOD]
    + ["left", "first", "A is much better than B", {"value": "response_a"}, ["a"]]
    + ["I strongly prefer A", "Chatbot A", "The response A is better", "A is clearly better than B"]
    + ["A>B", "B < A", "[[A>>B]]", "response_a > response_b", "Response B << Response A"],
)
def test_an_answer_can_be_named_in_many_words(tmp_path, choice):
    path = jsonl(tmp_path / "x.jsonl", [{"prompt": Q, "response_a": GOOD, "response_b": BAD, "choice": choice}])
    assert taken(path) == [(Q, GOOD, BAD)]


@pytest.mark.parametrize(
    "row",
    [
        argilla({}, **BOTH),
        {"fields": {"prompt": Q, **BOTH}, "responses": {}, "suggestions": {"q": {"value": "response_1"}}},
        {
            "fields": {"prompt": Q, **BOTH},
            "responses": [{"status": "discarded", "values": {"q": {"value": "response_1"}}}],
        },
        studio(LEFT, answer1=GOOD, answer2=BAD) | {"annotations": [{"was_cancelled": True, "result": []}]},
        {"text": Q, "options": OPTIONS, "accept": [], "answer": "accept", **PRODIGY},
        {"text": Q, "options": OPTIONS, "accept": [1], "answer": "ignore", **PRODIGY},
        {"text": Q, "options": OPTIONS, "accept": [1, 2], "answer": "accept", **PRODIGY},
        {"prompt": Q, "chosen": [user(Q), said(GOOD)], "rejected": [user("Why?"), said(BAD)]},
        {"chosen": [user(Q)], "rejected": [user("Why?")]},
        {"prompt": Q, "chosen": GOOD, "rejected": BAD, "score_chosen": 1, "score_rejected": 2},
        {"prompt": Q, "completions": [{"text": GOOD, "score": 1}, {"text": BAD}]},
        {"prompt": Q, "completion": GOOD, "label": "perhaps"},
    ],
)
def test_a_row_that_says_nothing_sure_is_left_out_and_counted(tmp_path, row):
    rows = [*FORMATS["TRL, explicit prompt"]["as documented"], row]
    data = preferences.read(jsonl(tmp_path / "x.jsonl", rows))
    assert len(data.rows) + len(data.pairs) + sum(data.left_out.values()) == 2
    assert len(data.rows) == 1


@pytest.mark.parametrize("choice", ["the second one is better", "first one", "one over two", "right one"])
def test_words_that_name_both_answers_name_neither(tmp_path, choice):
    rows = [FORMATS["TRL, explicit prompt"]["as documented"][0] | {"prompt": "Another?"}]
    rows += [{"prompt": Q, "response_one": GOOD, "response_two": BAD, "choice": choice}]
    data = preferences.read(jsonl(tmp_path / "x.jsonl", rows))
    told = {"first one": GOOD}.get(choice)  # here both words say the same
    assert [r["chosen"] for r in data.rows[1:]] == ([told] if told else [])
    assert sum(data.left_out.values()) == (told is None)


@pytest.mark.parametrize(
    "row",
    [
        {"Prompt": Q, "Response A": GOOD, "Response B": BAD, "Which is better?": "A"},
        {"prompt": Q, "response_a": BAD, "response_b": GOOD, "your_choice": "Response B"},
        {"prompt": Q, "answer_1": BAD, "answer_2": GOOD, "which answer do you prefer?": "2"},
        {"prompt": Q, "win": GOOD, "lose": BAD},
        {"x": Q, "y_w": GOOD, "y_l": BAD},
        {"prompt": Q, "responses": [BAD, GOOD], "chosen": 1},
        {"prompt": Q, "responses": [BAD, GOOD], "winner": GOOD},
        {"prompt": Q, "responses": [BAD, GOOD], "ranking": [2, 1]},
        {"prompt": Q, "responses": [BAD, GOOD], "ranking": [1, 0]},
        {"prompt": Q, "responses": [GOOD, BAD], "chosen": GOOD, "rejected": BAD},
    ],
)
def test_a_choice_has_many_names(tmp_path, row):
    assert taken(jsonl(tmp_path / "x.jsonl", [row])) == [(Q, GOOD, BAD)]


@pytest.mark.parametrize(
    "name, value",
    [
        ("ranking", [2, 0, 1]),
        ("ranking", [0.3, 0.9, 0.1]),
        ("ranking", ["C", "A", "B"]),
        ("chosen", 3),
        ("winner", "C"),
        ("best", ""),
    ],
)
def test_which_answer_of_a_list_is_best_is_never_guessed(tmp_path, name, value):
    rows = [FORMATS["TRL, explicit prompt"]["as documented"][0] | {"prompt": "Another?"}]
    rows += [{"prompt": Q, "responses": [GOOD, BAD, "Other."], name: value}]
    data = preferences.read(jsonl(tmp_path / "x.jsonl", rows))
    assert len(data.rows) == 1 and sum(data.left_out.values()) == 1 and data.pairs == []


def test_scores_of_other_names_and_answers_of_other_names(tmp_path):
    rows = [{"prompt": Q, "response": a, "helpfulness": n, "verbosity": 2} for a, n in ((GOOD, 4), (BAD, 0))]
    assert taken(jsonl(tmp_path / "x.jsonl", rows)) == [(Q, GOOD, BAD)]
    rows = [{"user_prompt": Q, "model_response": a, "score": n} for a, n in ((GOOD, 90), (BAD, 9))]
    assert taken(jsonl(tmp_path / "y.jsonl", rows)) == [(Q, GOOD, BAD)]


MODULES = ("formats", "preferences", "tables")
PAGE = (ROOT / "docs" / "your_data.md").read_text(encoding="utf-8")


def objects(text):
    """The JSON objects that stand one after another in a text."""
    while text.strip():
        value, end = json.JSONDecoder().raw_decode(text := text.strip())
        yield value
        text = text[end:]


def shown_formats():
    """The formats that the page shows: name -> its example rows."""
    sections = re.findall(r"^### (.+?)\n.*?```json\n(.*?)```", PAGE, re.M | re.S)
    return {name: list(objects(text)) for name, text in sections}


@pytest.mark.parametrize("name", shown_formats())
def test_the_page_shows_rows_that_are_read_as_it_says(tmp_path, name):
    rows = shown_formats()[name]
    data = preferences.read(jsonl(tmp_path / "x.jsonl", rows))
    assert data.formats == {name: 2} and len(rows) == 2 and not data.left_out
    assert all(r["chosen"] not in ("Stones.", "In a pond.", "What?", "No.") for r in data.rows)


def test_the_page_shows_every_format_and_every_reason():
    own_names = {name for name in FORMATS if not re.match(r"prompt, |preferred_output|this workbook's export", name)}
    assert own_names <= set(shown_formats())
    source = "".join((ROOT / "rlhf_helpers" / "desk" / f"{m}.py").read_text(encoding="utf-8") for m in MODULES)
    cells = set(re.findall(r"^\| (.+?) \|", PAGE, re.M)) - {"reason", "---"}
    reasons = {r for cell in cells for r in re.split(r", (?!and )", cell)}
    for reason in reasons:
        assert f'"{reason}' in source, reason
    for reason in re.findall(r'(?:Unusable\(|why = |alone = )"([a-z][^"]+)"', source):
        assert reason in reasons, reason


# ---------------------------------------------------------------- what is left out


def row(prompt=Q, chosen=GOOD, rejected=BAD, **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def test_what_teaches_nothing_is_left_out_and_counted_by_its_reason(tmp_path):
    rows = [
        row("1"),
        row("1"),
        row("2"),
        row("2", BAD, GOOD),
        row("3", GOOD, GOOD),
        row("4", ""),
        row(" "),
        row("5", " a "),
    ]
    data = preferences.read(jsonl(tmp_path / "x.jsonl", rows))
    assert [(r["prompt"], r["chosen"]) for r in data.rows] == [("1", GOOD), ("5", "a")]
    assert data.left_out == {
        "duplicates": 1,
        "contradictions": 2,
        "equal answers": 1,
        "empty answers": 1,
        "no prompt": 1,
    }
    report = preferences.report(data)
    for why, n in data.left_out.items():
        assert f"{why} {n} (first: line " in report
    assert "duplicates 1 (first: line 2)" in report


def test_what_different_people_say_of_one_pair_is_no_contradiction(tmp_path):
    rows = [row(annotator="ann"), row(annotator="ben"), row(Q, BAD, GOOD, annotator="eve"), row(annotator="ann")]
    data = preferences.read(jsonl(tmp_path / "x.jsonl", rows))
    assert [r["annotator"] for r in data.rows] == ["ann", "ben", "eve"] and data.left_out == {"duplicates": 1}


def test_a_file_of_several_formats_is_read_row_by_row(tmp_path):
    rows = [r for kinds in FORMATS.values() for rows in kinds.values() for r in rows]
    data = preferences.read(jsonl(tmp_path / "x.jsonl", rows))
    assert set(data.formats) == set(FORMATS) and sum(data.formats.values()) == data.read == len(rows)
    assert f"Argilla ({data.formats['Argilla']})" in preferences.report(data)


def test_an_unknown_format_gets_its_fields_and_a_row_that_works(tmp_path):
    with pytest.raises(WorkbookError) as error:
        preferences.read(jsonl(tmp_path / "x.jsonl", [{"frage": Q, "gut": GOOD, "schlecht": BAD}] * 3))
    text = one_short_sentence(error.value, "PREFERENCES", "'frage', 'gut', 'schlecht'", "not understood: 3")
    works = json.loads(re.search(r"\{.*\}", text)[0])
    assert len(preferences.read(jsonl(tmp_path / "y.jsonl", [works])).rows) == 1


def test_pairs_that_nobody_has_judged_are_kept_for_labelling(tmp_path):
    data = preferences.read(jsonl(tmp_path / "x.jsonl", [{"prompt": Q, "response_a": GOOD, "response_b": BAD}]))
    assert not data.rows and data.prompts() == [Q]
    assert data.pairs == [{"pair_id": "pair-00000", "prompt": Q, "response_a": GOOD, "response_b": BAD}]
    assert "1 pair still to be judged" in preferences.report(data) and "No field says" in preferences.report(data)


# ---------------------------------------------------------------- this workbook's own files


def event(choice="a", n=0, **more):
    pair = {"pair_id": f"p{n}", "prompt": Q, "response_a": GOOD, "response_b": BAD}
    return feedback.label_event(pair, "a", choice, "you", **more)


def test_the_own_log_is_replayed(tmp_path):
    gone = event("b", 1)
    events = [
        event(strength=3),
        gone,
        event("tie", 2),
        event("both_bad", 3),
        event("skip", 4),
        feedback.undo_event(gone),
    ]
    events += [event("b", 0, is_repeat=True)]
    path = jsonl(tmp_path / "feedback.jsonl", events)
    data = preferences.read(path)
    assert [(r["chosen"], r["margin"], r["annotator"]) for r in data.rows] == [(GOOD, 1.0, "you")]
    assert data.left_out == {"ties": 1, "both bad": 1, "skipped": 1, "repeats": 1, "taken back": 2}
    assert "this workbook's log" in preferences.report(data) and len(data.ties) == 1
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "feedback.jsonl")  # there it is rows like others, and what was undone is out
    inside = preferences.read(tmp_path / "folder")
    assert inside.left_out["taken back"] == 2 and (Q, BAD, GOOD) not in taken(tmp_path / "folder")


def test_the_own_export_and_the_shipped_log_are_read(tmp_path):
    labels = feedback.replay(feedback.read_events(ROOT / "data" / "feedback.jsonl")[0])[:200]
    rows = feedback.write_preferences(tmp_path / "preferences.jsonl", labels)
    data = preferences.read(tmp_path / "preferences.jsonl")
    assert data.formats == {"this workbook's export": len(rows)}
    log = preferences.read(jsonl(tmp_path / "feedback.jsonl", labels))
    assert "SIMULATED" in preferences.report(log) and len(log.rows) + sum(log.left_out.values()) == 200
    assert {(r["prompt"], r["chosen"]) for r in data.rows} <= {(r["prompt"], r["chosen"]) for r in log.rows}


def test_a_log_without_a_choice_is_refused(tmp_path):
    with pytest.raises(WorkbookError, match="holds no choice between two answers .1 ties"):
        preferences.read(jsonl(tmp_path / "x.jsonl", [event("tie")]))


# ---------------------------------------------------------------- files and folders

ROWS = [row("1"), row("2"), row("3")]
CONTAINERS = {
    "x.jsonl": lambda: b"".join(as_line(r) + b"\n" for r in ROWS),
    "crlf.jsonl": lambda: b"\xef\xbb\xbf" + b"\r\n\r\n".join(map(as_line, ROWS)),
    "utf16.jsonl": lambda: "\n".join(map(json.dumps, ROWS)).encode("utf-16"),
    "list.json": lambda: json.dumps(ROWS, indent=2).encode(),
    "lines.json": lambda: b"\n".join(map(as_line, ROWS)),
    "pretty.jsonl": lambda: "\n".join(json.dumps(r, indent=1) for r in ROWS).encode(),
    "held.json": lambda: as_line({"version": 1, "data": ROWS}),
    "viewer.json": lambda: as_line({"features": [], "rows": [{"row_idx": i, "row": r} for i, r in enumerate(ROWS)]}),
    "splits.json": lambda: as_line({"train": ROWS[:2], "test": ROWS[2:]}),
    "columns.json": lambda: as_line({k: {str(i): r[k] for i, r in enumerate(ROWS)} for k in ROWS[0]}),
    "arrays.json": lambda: as_line({k: [r[k] for r in ROWS] for k in ROWS[0]}),
    "x.jsonl.gz": lambda: gzip.compress(b"\n".join(map(as_line, ROWS))),
    "no_ending": lambda: b"\n".join(map(as_line, ROWS)),
    "x.csv": lambda: b'prompt,chosen,rejected\n"1",Grass.,Stones.\n2,Grass.,Stones.\n"3",Grass.,"Stones."\n',
    "excel.csv": lambda: "prompt;chosen;rejected\r\n1;Grass.;Stones.\r\n2;Grass.;Stones.\r\n3;Grass.;Stones.".encode(
        "utf-16"
    ),
    "x.tsv": lambda: (
        b"\xef\xbb\xbfprompt\tchosen\trejected\n1\tGrass.\tStones.\n2\tGrass.\tStones.\n3\tGrass.\tStones.\n"
    ),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_rows_are_found_in_whatever_holds_them(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(CONTAINERS[name]())
    assert taken(path) == [(r["prompt"], GOOD, BAD) for r in ROWS]


def test_words_that_look_like_nothing_stay_words_in_a_table(tmp_path):
    (tmp_path / "x.csv").write_text('prompt,chosen,rejected\nnan,None,NA\n"a\nb","say ""x""",1.0\n', encoding="utf-8")
    assert taken(tmp_path / "x.csv") == [("nan", "None", "NA"), ("a\nb", 'say "x"', "1.0")]


def test_messages_in_a_cell_are_read_as_python_writes_them_and_never_taken_for_a_text(tmp_path):
    sides = [[user(Q), said(a)] for a in (GOOD, BAD)]
    array = [f"[{a}\n {b}]" for a, b in sides]  # as an array of objects is printed
    for cells in (sides, array):
        (tmp_path / "x.csv").write_text('chosen,rejected\n"{}","{}"\n'.format(*cells))
        assert taken(tmp_path / "x.csv") == [(Q, GOOD, BAD)]
    (tmp_path / "x.csv").write_text('chosen,rejected\n"{} …","{}"\n'.format(*(str(s)[:-1] for s in sides)))
    with pytest.raises(WorkbookError, match="messages that cannot be read: 1"):
        preferences.read(tmp_path / "x.csv")


def test_an_answer_that_is_json_stays_a_text(tmp_path):
    answers = '{"name": "f"}', "[1, 2]"
    assert taken(jsonl(tmp_path / "x.jsonl", [row(Q, *answers)])) == [(Q, *answers)]
    (tmp_path / "x.csv").write_text('prompt,chosen,rejected\nQ,"{""name"": ""f""}","[1, 2]"\n')
    assert taken(tmp_path / "x.csv") == [("Q", *answers)]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_parquet_and_arrow_are_read(tmp_path, suffix):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path, table = tmp_path / f"x{suffix}", pa.Table.from_pylist(FORMATS["TRL, conversational"]["implicit prompt"])
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as f:
            f.write_table(table)
    assert taken(path) == [(Q, GOOD, BAD)]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(WorkbookError, match="cannot be read") as error:
        preferences.read(path)
    one_short_sentence(error.value, path)


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "PAR1"])
def test_without_pyarrow_a_sentence_says_what_to_install(tmp_path, monkeypatch, name):
    real = builtins.__import__

    def without(module, *rest):
        if module.startswith("pyarrow"):
            raise ImportError(module)
        return real(module, *rest)

    (tmp_path / name).write_bytes(b"PAR1" * 9)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(WorkbookError, match="pip install pyarrow, or save it as JSON Lines"):
        preferences.read(tmp_path / name)


def test_a_folder_is_read_with_the_splits_of_its_files(tmp_path):
    (tmp_path / "data").mkdir()
    jsonl(tmp_path / "data" / "train-00000-of-00001.jsonl", ROWS[:2])
    jsonl(tmp_path / "data" / "test-00000-of-00001.jsonl", ROWS[2:])
    (tmp_path / "README.md").write_text("# A card")
    (tmp_path / ".git").mkdir()
    jsonl(tmp_path / ".git" / "x.jsonl", ROWS)
    (tmp_path / "dataset_infos.json").write_text("{}")
    data = preferences.read(tmp_path)
    assert {r["prompt"]: r["split"] for r in data.rows} == {"1": "train", "2": "train", "3": "test"}
    assert data.read == 3 and "README.md" in preferences.report(data)


BROKEN = {
    "nothing.jsonl": (b" \n\n", "is empty"),
    "bom.csv": (b"\xef\xbb\xbf", "is empty"),
    "latin.csv": (b"prompt,chosen,rejected\nQ,a,b\ncaf\xe9,a,b\n", "line 3: this is not text in UTF-8 (byte 0xe9)"),
    "ragged.csv": (
        b"prompt,chosen,rejected\nQ,a,b\nQ,a,b,c,d\n",
        "cannot be read as a table (Expected 3 fields in line 3",
    ),
    "open.csv": (b'prompt,chosen,rejected\n"Q,a,b\n', "cannot be read as a table"),
    "more.csv": (b"prompt,chosen\nQ,a,b\nR,a,b\n", "more cells than its header"),
    "header.csv": (b"prompt,chosen,rejected\n", "No preference could be taken"),
    "no_header.csv": (b"Why?,Yes.,No.\nHow?,So.,Thus.\n", "its fields are 'Why?', 'Yes.', 'No.'"),
    "cut.json": (b'[\n{"prompt": "Q", "chosen": "a", "rejected"', "no valid JSON"),
    "x.xlsx": (b"PK\x03\x04", "of no kind that can be read here"),
    "cut.jsonl.gz": (gzip.compress(b"{}" * 999)[:-9], "cannot be read"),
    "none.gz": (b"{}", "cannot be read"),
    "notes.txt": (b"just words", "of no kind"),
    "text.json": (b'"a text"', "no JSON object"),
    "null.json": (b"null", "no JSON object"),
    "deep.json": (b"[" * 100_000, "nested too deeply"),
    "utf16.csv": (b"\xff\xfea", "UTF-16"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_read_is_refused_in_a_sentence(tmp_path, name):
    content, words = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WorkbookError) as error:
        preferences.read(tmp_path / name)
    one_short_sentence(error.value, name, words)


@pytest.mark.parametrize("name", ["missing.jsonl", "empty", "a\nb"])
def test_a_place_without_rows_is_refused_in_a_sentence(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(WorkbookError) as error:
        preferences.read(tmp_path / name)
    one_short_sentence(error.value)


# ---------------------------------------------------------------- hostile files

often = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
ALL_ROWS = [r for kinds in FORMATS.values() for rows in kinds.values() for r in rows]
NAMES = sorted({*formats.PROMPTS, *formats.CHOICES, *formats.LISTS, *(k for r in ALL_ROWS for k in r)})
SPOILED = st.builds(
    lambda row, field, value: {**row, field: value}, st.sampled_from(ALL_ROWS), st.sampled_from(NAMES), VALUES
)
SWAPPED = st.builds(
    lambda row, names: dict(zip(names, row.values())), st.sampled_from(ALL_ROWS), st.permutations(NAMES)
)
WILD = st.one_of(VALUES, SPOILED, SWAPPED, st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4))
HUGE = as_line(row(Q, "a" * 300_000, "[" * 50_000))
LINES = st.one_of(
    st.binary(max_size=60),
    st.builds(as_line, WILD),
    st.sampled_from(
        [HUGE, b"[" * 100_000, b"9" * 10_000, b"\x00" * 9, as_line(row(Q, "a\0b", "\ud800")), b"NaN", b"\xef\xbb\xbf{}"]
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("own")


def check_account(data):
    """Nothing is dropped in silence, and what is taken can be learned from."""
    left_out = sum(data.left_out.values())
    assert data.read <= 2 * (len(data.rows) + left_out) + len(data.pairs)  # a pair may be of two rows, none of no row
    for r in [*data.rows, *data.ties]:
        assert r["prompt"].strip() and r["chosen"] and r["rejected"] and r["chosen"] != r["rejected"]
        assert math.isfinite(r["margin"]) and r["margin"] >= 0
    reward.check_preferences(data.rows)
    assert not any(feedback.problem_with(e) for e in preferences.labels(data.rows, data.ties))
    preferences.report(data).encode("utf-8")


@often
@given(st.lists(LINES, max_size=6))
@example([HUGE])
@example([as_line({"prompt": Q, "completions": [None, [None]], "scores": [1, None]})])
def test_any_lines_are_read_or_refused(folder, lines):
    path = folder / "x.jsonl"
    path.write_bytes(b"\n".join(lines))
    if (data := attempt(lambda: preferences.read(path))) is not None:
        check_account(data)


def test_labels_are_not_compared_with_scores_nor_an_answer_with_itself(tmp_path):
    rows = [{"prompt": Q, "completion": GOOD, "label": True}, {"prompt": Q, "completion": BAD, "score": 4}]
    rows += [{"prompt": Q, "completion": GOOD, "label": False}]
    with pytest.raises(WorkbookError, match="no answer to the same prompt with another label or score: 3"):
        preferences.read(jsonl(tmp_path / "x.jsonl", rows))


SINGLE = st.builds(
    lambda prompt, answer, more: {"prompt": prompt, "completion": answer, **more},
    st.sampled_from([Q, "Why?"]),
    st.sampled_from([GOOD, BAD, "So."]),
    st.sampled_from([{"label": True}, {"label": False}, {"score": 1}, {"score": 2.5}, {"score": None}]),
)


@often
@given(st.lists(st.one_of(WILD, SINGLE), min_size=1, max_size=6))
def test_every_row_comes_out_with_something(values):
    rows = [tables.Row(f"row {n}", "", v) for n, v in enumerate(values)]
    found, kinds = preferences.outcomes(rows)
    assert {place for r, _, _ in found for place in r.place.split(" and ")} == {r.place for r in rows}
    assert sum(kinds.values()) <= len(rows)
    for _, _, said, why, _ in preferences.sifted(found):
        assert why or isinstance(said, formats.Said)


@often
@given(
    st.binary(max_size=80), st.sampled_from([b"prompt,chosen,rejected\n", b"\xef\xbb\xbfprompt;choice\n", b"", b"\0\n"])
)
def test_any_table_is_read_or_refused(folder, content, header):
    path = folder / "x.csv"
    path.write_bytes(header + content)
    if (data := attempt(lambda: preferences.read(path), path.name)) is not None:
        check_account(data)


@often
@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_a_text_is_taken_as_it_is_but_for_the_space_around_it(folder, prompt, one, other):
    path = jsonl(folder / "x.jsonl", [row(), row(prompt, one, other)])
    data = preferences.read(path)
    texts = [t.strip() for t in (prompt, one, other)]
    spoken = any(formats.turns(t) for t in texts)
    starts = texts[1].startswith(texts[0]) and texts[2].startswith(texts[0])
    if not spoken and not starts and all(texts) and texts[1] != texts[2] and texts != [Q, GOOD, BAD]:
        assert [data.rows[-1][k] for k in ("prompt", "chosen", "rejected")] == texts


# ---------------------------------------------------------------- on to the reward model


def test_preferences_become_labels_of_the_same_order(tmp_path):
    rows = [row(f"prompt {n}", margin=2 / 3) for n in range(60)] + [
        row("tied", GOOD, BAD, score_chosen=1, score_rejected=1)
    ]
    data = preferences.read(jsonl(tmp_path / "x.jsonl", rows))
    events = preferences.labels(data.rows, data.ties)
    back, left_out = feedback.to_preferences(events)
    assert back == [{k: r[k] for k in ("prompt", "chosen", "rejected", "margin")} for r in data.rows]
    assert left_out == {"tie": 1} and len(feedback.tie_rows(events)) == 1
    assert events == preferences.labels(data.rows, data.ties)
    s = feedback.summary(events)
    assert 15 < s["choices"]["a"] < 45 and 15 < s["left"] < 45  # no side is favoured
    assert {e["annotator"] for e in events} == {"own file"}
    assert feedback.labels_of(events) == events  # they count as labels by people


def general(n=20):
    rows = [{"prompt": f"prompt {i}", "family": "own", "split": "train" if i < n - 6 else "heldout"} for i in range(n)]
    return tasks.general(ROOT / "data", rows)


def test_no_prompt_of_a_file_is_on_both_sides_of_the_split():
    rows = [row(f"prompt {i % 20}", f"answer {i}", split="") for i in range(100)]
    train, held_out = preferences.split(rows, general())
    asked = {r["prompt"] for r in train}, {r["prompt"] for r in held_out}
    assert not asked[0] & asked[1] and len(train) + len(held_out) == 100
    assert asked[1] == {f"prompt {i}" for i in range(14, 20)}  # those that the task keeps back
    assert preferences.split(rows, general()) == (train, held_out)


def test_the_split_of_the_file_is_kept_and_a_prompt_in_both_is_held_out():
    rows = [row(f"p{i}", split="train") for i in range(5)] + [row("p4", "x", split="test"), row("p9", split="dev")]
    train, held_out = preferences.split(rows, general())
    assert {r["prompt"] for r in train} == {"p0", "p1", "p2", "p3"} and len(held_out) == 3


@pytest.mark.parametrize("n, sides", [(0, (0, 0)), (1, (1, 0)), (2, (1, 1)), (3, (2, 1)), (15, (13, 2))])
def test_few_prompts_are_split_too_and_neither_side_is_empty_from_two_on(n, sides):
    train, held_out = preferences.split([row(f"p{i}") for i in range(n)], general())
    assert (len(train), len(held_out)) == sides


def test_where_only_held_out_prompts_are_judged_some_are_learned_from():
    train, held_out = preferences.split([row(f"p{i}", split="test") for i in range(10)], general())
    assert train and held_out and not {r["prompt"] for r in train} & {r["prompt"] for r in held_out}


def test_two_wordings_of_one_question_of_the_world_stay_on_one_side():
    task = tasks.embedded()
    rows = [row(p) for p in task.prompts("train")[:300]]
    train, held_out = preferences.split(rows, task, seed=3)
    questions = [{task.question(r["prompt"]) for r in side} for side in (train, held_out)]
    assert not questions[0] & questions[1] and len(questions[1]) < len({r["prompt"] for r in held_out})


def test_rows_that_are_too_long_are_left_out_before_anything_is_computed(capsys):
    tokenizer = models.new_tokenizer([Q, GOOD, BAD], vocab_size=300)
    rows = [row(), row(chosen="word " * 200), row(prompt="word " * 3000), row(rejected="word " * 200)]
    assert preferences.fitting(rows, tokenizer, 64) == rows[:1]
    assert "3 of 4 comparisons left out: longer than the 64 tokens" in capsys.readouterr().out
    assert reward.pairs_to_learn(tokenizer, rows[:1], 64)[1] == 0
    limit = len(reward.pair_ids(tokenizer, Q, BAD, 64))
    assert preferences.fitting(rows[:1], tokenizer, limit) == rows[:1]  # the last token counts, and no more
    with pytest.raises(WorkbookError, match="All 1 comparisons are longer"):
        preferences.fitting(rows[:1], tokenizer, limit - 1)


@pytest.mark.parametrize("n", [1, 2, 16])
def test_a_reward_model_learns_from_a_file(tmp_path, n):
    """From the file to the loss, with as few rows as there may be."""
    path = jsonl(tmp_path / "x.jsonl", [row(f"prompt {i}") for i in range(n)])
    tokenizer = models.new_tokenizer([Q, GOOD, BAD, "prompt"], vocab_size=300)
    models.save_model(models.new_model(tokenizer, layers=1, width=16, heads=2), tokenizer, tmp_path / "model", "# card")
    model, tokenizer = models.load_reward_model(tmp_path / "model")
    train, held_out = preferences.split(preferences.fitting(preferences.read(path).rows, tokenizer, 128), general())
    history = reward.train_reward_model(model, tokenizer, train, epochs=30, batch_size=8, lr=3e-3)
    assert history[-1]["loss"] < history[0]["loss"]
    assert not held_out or reward.evaluate(model, tokenizer, held_out)["accuracy"] == 1
