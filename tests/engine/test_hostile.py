"""Hostile input: whatever is in a file, a model folder or a text, nothing of it runs, strays or loses a label.

Whatever is wrong is said in one short sentence.  What is downloaded, sent or opened to others is looked at too.
"""

import ast
import json
import os
import pickle
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_helpers.desk import chat, colab, labeller, plots, scale, workspace
from rlhf_helpers.engine import checkpoints, files, models
from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.lesson import feedback
from rlhf_helpers.make import series

often = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
seldom = settings(often, max_examples=40)

SCRIPTS = (
    "<script>hacked=1</script>",
    '<img src=x onerror="hacked=1">',
    "</div></td></table><svg onload=hacked=1>",
    '" onmouseover="hacked=1',
    "' autofocus onfocus='hacked=1",
    "<!-- ",
    "]]>",
    "&lt;b&gt; &amp;#60;",
    "$5 and $6, \\(x\\), \\[x\\], $$\\href{javascript:hacked=1}{x}$$",
    "[x](javascript:hacked=1) **b** `c` # d",
    "\x1b[31mred\x1b[0m \x1b]8;;http://example.org\x07link",
    "a\x00b\x85\x7f",
    "\u202egnp.exe\u202c \u2066x\u2069 \u200f",
    "\ud800 \udfff",
    "line\r\nbreak\u2028\u2029",
    "🙂" * 3 + "שלום",
)
TEXTS = st.one_of(
    st.sampled_from(SCRIPTS), st.text(), st.text(st.sampled_from("<>&\"'/\\$`\0\x1b\u202e\u2067\ud800\r\n =onx"))
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PAIR = {"pair_id": "p1", "prompt": "What does a cow eat?", "response_a": "Grass.", "response_b": "Fish."}


def one_short_sentence(error, *parts):
    text = str(error)
    assert all(str(part) in text for part in parts), text
    assert text[-1] in ".)?" and "\n" not in text and "Traceback" not in text and len(text) < 900, text
    text.encode("utf-8")
    return text


def attempt(do, *parts):
    """What `do()` gives, or None where it refuses in one short sentence."""
    try:
        return do()
    except WorkbookError as e:
        one_short_sentence(e, *parts)


# ---------------------------------------------------------------- files


def as_line(value):
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


def spoiled_event(field, value):
    return as_line({**feedback.label_event(PAIR, "a", "b", "you"), field: value})


GOOD = as_line(feedback.label_event(PAIR, "a", "b", "you"))
LINES = st.one_of(
    st.binary(max_size=60),
    st.builds(as_line, VALUES),
    st.builds(spoiled_event, st.sampled_from(sorted(json.loads(GOOD))), VALUES),
    st.builds(lambda n: GOOD[:n], st.integers(0, len(GOOD))),
    st.builds(lambda n, b: GOOD[:n] + b + GOOD[n:], st.integers(0, len(GOOD)), st.binary(min_size=1, max_size=2)),
    st.sampled_from(
        [GOOD, b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b"\xef\xbb\xbf" + GOOD, GOOD + b"\r", b"\x00" * 9]
    ),
)
FILES = st.builds(bytes.join, st.sampled_from([b"\n", b"\r\n", b"\n\n"]), st.lists(LINES, max_size=6))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@often
@given(FILES)
def test_any_file_of_rows_is_read_or_refused(folder, content):
    path = folder / "rows.jsonl"
    path.write_bytes(content)
    rows = attempt(lambda: files.read_jsonl(path), path)
    assert rows is None or all(isinstance(r, dict) for r in rows)
    for row in attempt(lambda: files.read_jsonl(path, ("prompt", "pair_id")), path) or ():
        assert isinstance(row["prompt"], str) and isinstance(row["pair_id"], str)
    if rows is not None:
        files.write_jsonl(path, rows)
        assert repr(files.read_jsonl(path)) == repr(rows)  # repr, since nan is not itself


@often
@given(FILES)
def test_any_log_is_read_or_refused_and_what_is_read_can_be_used(folder, content):
    path = folder / "feedback.jsonl"
    path.write_bytes(content)
    read = attempt(lambda: feedback.read_events(path), path, ", line ")
    x = attempt(lambda: labeller.Labeller([PAIR], path), path)
    assert path.read_bytes() == content and (read is None) == (x is None)
    if read is None:
        return
    labels = feedback.replay(read[0])
    feedback.summary(labels), feedback.labels_of(labels), feedback.tie_rows(labels)
    rows = feedback.write_preferences(folder / "preferences.jsonl", labels)
    assert files.read_jsonl(folder / "preferences.jsonl", ("prompt", "chosen", "rejected")) == rows
    x._build()
    x._refresh("".join(x.warnings))


@often
@given(FILES)
def test_a_label_joins_any_log_that_can_be_read_and_changes_no_line_of_it(folder, content):
    path = folder / "joined.jsonl"
    path.write_bytes(content)
    before = attempt(lambda: feedback.read_events(path), path)
    event = feedback.label_event(PAIR, "b", "tie", "you")
    feedback.append_event(path, event)
    whole = content[: content.rfind(b"\n") + 1]
    assert path.read_bytes().startswith(whole)
    if before is not None:
        assert feedback.read_events(path) == ([*before[0], event], [])
    kept = path.read_bytes() + Path(f"{path}.torn").read_bytes() if Path(f"{path}.torn").exists() else b""
    assert content[len(whole) :] in path.read_bytes() + kept
    Path(f"{path}.torn").unlink(missing_ok=True)


@often
@given(VALUES, VALUES)
def test_any_pairs_are_asked_or_refused(folder, one, other):
    (folder / "asked.jsonl").unlink(missing_ok=True)
    for pairs in ([one], [{**PAIR, "pair_id": one}, {**PAIR, "response_a": other}]):
        x = attempt(lambda: labeller.Labeller(pairs, folder / "asked.jsonl"))
        while x and not x.done:
            x.choose("a")
            assert x.labels == labeller.Labeller(pairs, x.path).labels


@seldom
@given(st.sampled_from(sorted(json.loads(GOOD))), VALUES)
def test_any_event_is_written_and_read_back_or_refused(folder, field, value):
    path = folder / "one.jsonl"
    path.unlink(missing_ok=True)
    event = {**feedback.label_event(PAIR, "a", "b", "you"), field: value}
    try:
        feedback.append_event(path, event)
    except ValueError:  # not a number, in a field that nobody reads
        assert not path.exists() or not path.read_bytes()
    except WorkbookError as e:
        one_short_sentence(e)
        assert not path.exists()
    else:
        assert feedback.read_events(path) == ([event], [])


def test_a_megabyte_in_one_line_is_read_and_a_bad_one_is_named_briefly(tmp_path):
    path, long = tmp_path / "log.jsonl", "<b>" * 350_000
    feedback.append_event(path, feedback.label_event({**PAIR, "response_a": long}, "a", "a", "you", note=long))
    assert feedback.read_events(path)[0][0]["response_a"] == long
    path.write_bytes(path.read_bytes() + spoiled_event("choice", long) + b"\n")
    with pytest.raises(WorkbookError) as error:
        feedback.read_events(path)
    one_short_sentence(error.value, f"{path}, line 2: choice is '<b><b>", "…")


def test_a_line_of_a_newer_version_says_to_update(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(GOOD + b"\n" + spoiled_event("schema", 3) + b"\n")
    with pytest.raises(WorkbookError) as error:
        feedback.read_events(path)
    text = one_short_sentence(error.value, "line 2", "newer version of the workbook", "Update the workbook")
    assert "delete" not in text


@often
@given(st.one_of(st.binary(max_size=60), st.builds(as_line, VALUES), st.just(b"[" * 100_000)))
def test_metrics_and_tokenizers_of_any_content_stop_nothing(folder, content):
    for path in (folder / "metrics" / "04_x.json", folder / "own" / "tokenizer.json"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    assert isinstance(series.key_result(folder, "04_x", 0), str)
    assert workspace.is_general(str(folder / "own"), ROOT / "data") is True


@pytest.fixture(scope="module")
def checkpoint(folder):
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoints.save_checkpoint(folder / "run.pt", {"seed": 1}, model, optimizer, [{"step": 1}], queue=["a"])
    return model, optimizer, (folder / "run.pt").read_bytes()


@seldom
@given(st.data())
def test_a_checkpoint_with_any_change_is_the_same_or_refused(folder, checkpoint, data):
    model, optimizer, good = checkpoint
    place = data.draw(st.integers(0, len(good) - 1))
    change = data.draw(st.sampled_from(["cut", "flip", "insert"]))
    flipped = good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :]
    path = folder / "changed.pt"
    path.write_bytes({"cut": good[:place], "flip": flipped, "insert": good[:place] + b"x" + good[place:]}[change])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = attempt(lambda: checkpoints.load_checkpoint(path, {"seed": 1}, model, optimizer), path)
    assert found in (None, ([{"step": 1}], {"queue": ["a"]}))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


# ---------------------------------------------------------------- parameters and model folders


@often
@given(
    st.one_of(
        TEXTS,
        st.sampled_from([".", "..", "/", "../../etc/passwd", "~no-such-user/x", "~\0", "a\0b", "x" * 5000, "C:\\x"]),
    )
)
def test_any_parameter_is_used_or_refused_and_nothing_lies_outside_of_runs(folder, text):
    runs = folder / "runs"
    where = workspace.made_in(runs, text, ROOT / "data")
    assert where == (runs if not text else runs / where.name) and where.name not in ("", ".", "..")
    attempt(lambda: workspace.setup(MODEL=text, RUNS_DIR=str(runs), DEVICE="cpu"), "DIR")
    for name in ("DATA_DIR", "ANNOTATOR", "DEVICE"):
        attempt(lambda: workspace.setup(**{"RUNS_DIR": str(runs), name: text}), name)


@pytest.mark.parametrize("text", ["a\0b", "x" * 5000, "~no-such-user/x", "/proc/nothing/x"])
def test_a_folder_that_cannot_be_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    for load in (models.load_model, models.load_reward_model):
        with pytest.raises(WorkbookError) as error:
            load(text)
        one_short_sentence(error.value, "cannot be loaded")
    attempt(lambda: workspace.setup(RUNS_DIR=text), "RUNS_DIR")


class Foreign:
    """A pickle that runs code when it is opened."""

    def __reduce__(self):
        return os.system, ("touch opened",)


CUSTOM = {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M", "AutoModelForSequenceClassification": "mine.M"}


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pickled(f, name="pytorch_model.bin", keep=False):
    (f / name).write_bytes(pickle.dumps(Foreign()))
    if not keep:
        (f / "model.safetensors").unlink()


def custom_code(f, **changes):
    change_json(f / "config.json", auto_map=CUSTOM, **changes)
    tokenizer = {"auto_map": {"AutoTokenizer": ["mine.T", "mine.T"]}, "tokenizer_class": "Mine"}
    change_json(f / "tokenizer_config.json", **tokenizer)
    (f / "mine.py").write_text("open('opened', 'w')\nraise SystemExit(3)\n")


def harmless_pickle(f):
    torch.save(models.load_model(f)[0].state_dict(), f / "pytorch_model.bin")
    (f / "model.safetensors").unlink()


SPOILED = {
    "weights in a pickle that does no harm": harmless_pickle,
    "pickled weights": pickled,
    "pickled weights of another name": lambda f: pickled(f, "model.bin"),
    "a pickle that calls itself safetensors": lambda f: pickled(f, "model.safetensors", keep=True),
    "custom code": lambda f: custom_code(f, model_type="mine"),
    "an unknown architecture": lambda f: change_json(f / "config.json", model_type="nonsense"),
    "cut weights": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
    "empty weights": lambda f: (f / "model.safetensors").write_bytes(b""),
    "weights of another size": lambda f: change_json(f / "config.json", n_embd=64),
    "a size that no machine has": lambda f: change_json(f / "config.json", n_embd=2**40),
    "a size below zero": lambda f: change_json(f / "config.json", n_embd=-2),
    "a size in words": lambda f: change_json(f / "config.json", n_layer="two"),
    "a kind that is a list": lambda f: change_json(f / "config.json", model_type=["gpt2"]),
    "a configuration that is a list": lambda f: (f / "config.json").write_text("[]"),
    "a configuration nested too deeply": lambda f: (f / "config.json").write_text("[" * 100_000),
    "a configuration that is no text": lambda f: (f / "config.json").write_bytes(b"\xff\x00"),
    "an empty tokenizer": lambda f: (f / "tokenizer.json").write_text("{}"),
    "a tokenizer that is a list": lambda f: (f / "tokenizer.json").write_text("[1]"),
    "tokenizer settings that are a list": lambda f: (f / "tokenizer_config.json").write_text("[1]"),
    "a chat template that looks around": lambda f: (f / "chat_template.jinja").write_text("{{ ''.__class__.mro() }}"),
    "a chat template that is none": lambda f: (f / "chat_template.jinja").write_text("{% for %}"),
}


@pytest.fixture(scope="module")
def own_model(folder):
    tokenizer = models.new_tokenizer(["a few words"], vocab_size=270)
    models.save_model(models.new_model(tokenizer, layers=1, width=16, heads=2), tokenizer, folder / "model", "# card")
    return folder / "model"


@pytest.mark.parametrize("what", SPOILED)
def test_a_foreign_or_damaged_model_folder_is_refused_and_never_run(tmp_path, monkeypatch, own_model, what):
    monkeypatch.chdir(tmp_path)
    path = shutil.copytree(own_model, tmp_path / "model")
    SPOILED[what](path)
    for load in (models.load_model, models.load_reward_model):
        with pytest.raises(WorkbookError) as error:
            load(path)
        one_short_sentence(error.value, path, "cannot be loaded")
    assert not (tmp_path / "opened").exists()


def test_code_beside_a_model_that_transformers_knows_is_left_alone(tmp_path, monkeypatch, own_model):
    """As hub models have it that were written before their architecture was taken up."""
    monkeypatch.chdir(tmp_path)
    path = shutil.copytree(own_model, tmp_path / "model")
    custom_code(path)
    pickled(path, keep=True)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(models.load_model(path)[0](ids).logits, models.load_model(own_model)[0](ids).logits)
    assert not (tmp_path / "opened").exists() and "mine" not in sys.modules


def test_text_without_tokens_is_read_as_a_question_mark(own_model):
    _, tokenizer = models.load_model(own_model)
    assert models.prompt_ids(tokenizer, "a \ud800") == models.prompt_ids(tokenizer, "a ?")
    assert models.response_ids(tokenizer, "\udfff") == models.response_ids(tokenizer, "?")


# ---------------------------------------------------------------- widgets


class Skeleton(HTMLParser):
    """The tags and attributes of a page, and its text apart from them."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, attrs))

    def handle_endtag(self, tag):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        self.tags.append(("comment", data))

    handle_decl = handle_pi = unknown_decl = handle_comment


def visible(text):
    """How a text is shown: as typed, but for what can't be seen or sent."""
    text = text.encode("utf-8", "backslashreplace").decode().replace("\r\n", "\n")
    return "".join(labeller.CONTROLS.get(ord(c), c) for c in text)


def built(make):
    widget = make()
    widget._build()
    return widget


def status(widget, text):
    (widget._refresh if isinstance(widget, chat.Chat) else widget._say)(text)
    return widget.status.value


def whole_labeller(folder, text):
    pair = {
        "pair_id": text.encode("utf-8", "replace").decode(),
        "prompt": text,
        "response_a": text,
        "response_b": text + "!",
    }
    x = built(lambda: labeller.Labeller([pair], folder / "none.jsonl"))
    x._refresh(text)
    x.store.value = x._stored()
    pages = (x.prompt, *x.answers, x.progress, x.status, x.learnt, x.store, x.widget.children[-1])
    page = "".join(w.value for w in pages)  # which words differ depends on the text, and so does a pair's short name
    return re.sub(r'(data-(item|log|store)=")[0-9a-f]{16}"', r'\1"', re.sub("</?mark>", "", page))


def silent_chat(folder):
    return chat.Chat(torch.nn.Linear(1, 1), None, folder / "none.jsonl")


PAGES = {
    "prompt": lambda folder, text: labeller.prompt_html(text),
    "answer": lambda folder, text: labeller.answer_html("A", text),
    "turn": lambda folder, text: chat.turn_html(text, [text]),
    "turn with two answers": lambda folder, text: chat.turn_html(text, [text, text]),
    "table": lambda folder, text: plots.text_table(["x", text], [["=" + text, 1], [None, "=" + text]]).data,
    "status of the labeller": lambda folder, text: status(
        built(lambda: labeller.Labeller([PAIR], folder / "none.jsonl")), text
    ),
    "status of the chat": lambda folder, text: status(built(lambda: silent_chat(folder)), text),
    "labeller": whole_labeller,
}


@pytest.mark.parametrize("name", PAGES)
@seldom
@given(text=TEXTS)
def test_no_text_becomes_a_tag_and_all_of_it_is_shown(folder, name, text):
    page, plain = PAGES[name](folder, text), PAGES[name](folder, "plain")
    assert Skeleton(page).tags == Skeleton(plain).tags
    assert Skeleton(page).text.count(visible(text)) >= Skeleton(plain).text.count("plain") > 0
    page.encode("utf-8")
    assert not [c for c in page if ord(c) < 32 and c not in "\n\t" or 127 <= ord(c) < 160]


@pytest.mark.parametrize("name", PAGES)
def test_a_megabyte_of_text_is_shown_in_a_moment(folder, name):
    began = time.process_time()
    page = PAGES[name](folder, "<script>\u202e\0$" * 90_000)
    assert page.count("&lt;script&gt;") >= 90_000 and time.process_time() - began < 5


def test_bidi_overrides_are_shown_as_what_they_are_and_each_text_has_a_direction_of_its_own():
    """Letters are not turned around, and a text of another direction settles it within its own block."""
    for page in (labeller.prompt_html("\u202e"), labeller.answer_html("A", "\u202e"), chat.turn_html("\u202e", ["x"])):
        assert "\u202e" not in page
        holder = page[: page.index(r"\u202e")].rpartition("<div ")[2]
        assert 'dir="auto"' in holder and "unicode-bidi:plaintext" in holder


def test_tables_are_left_alone_by_mathjax():
    assert 'class="tex2jax_ignore"' in plots.text_table(["x"], [["$5 and $6"]]).data


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("text", SCRIPTS)
def test_tokens_of_any_kind_are_drawn_as_text(folder, text):
    token = text.encode("utf-8", "replace").decode()  # a tokenizer gives no lone surrogates
    plots.draw_tokens([token, "$x$", "\\frac"], ["red", "green", "blue"]).savefig(folder / "tokens.png")


# ---------------------------------------------------------------- exports


def test_what_is_packed_lies_in_runs_and_links_to_other_places_are_left_out(tmp_path):
    runs, secret = tmp_path / "runs", tmp_path / "secret"
    runs.mkdir(), secret.mkdir()
    (secret / "key").write_text("private")
    (runs / "feedback.jsonl").write_text("{}\n")
    (runs / "a link").symlink_to(secret / "key")
    (runs / "a folder").symlink_to(secret, target_is_directory=True)
    (runs / "its own").symlink_to(runs / "feedback.jsonl")
    with zipfile.ZipFile(colab.pack_runs(runs)) as z:
        assert sorted(z.namelist()) == ["runs/feedback.jsonl", "runs/its own"]


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "models/../../x"])
def test_a_judge_outside_of_the_export_is_refused(tmp_path, name):
    files.write_json(tmp_path / "settings.json", {"policy": {"judge": name}})
    with pytest.raises(WorkbookError) as error:
        scale.check_judge(tmp_path)
    one_short_sentence(error.value, "lies outside of", name)
    files.write_json(tmp_path / "settings.json", {"policy": {"judge": "models/reward"}})
    scale.check_judge(tmp_path)


def sources():
    """The text of every module of the package and of every code cell of the notebooks: (name, text)."""
    for path in sorted((ROOT / "rlhf_helpers").rglob("*.py")):
        yield path.name, path.read_text(encoding="utf-8")
    for path in series.chapters(deeper=True):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                yield path.name, "".join(cell["source"])


def imported(text):
    """The top-level modules that a source imports, wherever it does."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("%", "!"))]
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module != "urllib.parse":  # it asks nobody
            yield node.module.split(".")[0]


def test_no_spreadsheet_is_exported_so_that_no_formula_can_be():
    """Who adds one has to neutralise cells that begin with = + - @ or a tab, and to change this test."""
    for name, text in sources():
        assert not re.search(r"\.to_(csv|excel|clipboard)\b", text) and "csv" not in set(imported(text)), name


# ---------------------------------------------------------------- network

NETWORK = {"socket", "http", "urllib", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "wandb", "mlflow", "gradio"}
OFFLINE = """
import sys
asked = []
ASKS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind")
def watch(event, arguments):
    if event in ASKS:
        asked.append((event, arguments))
        raise PermissionError(event)
sys.addaudithook(watch)
import importlib, pathlib
root = pathlib.Path(sys.argv[1])
for path in sorted((root / "rlhf_helpers").rglob("*.py")):
    importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts))
assert not asked, ("import", asked)
from rlhf_helpers.desk import chat
from rlhf_helpers.engine import models
from rlhf_helpers.lesson import decoding, reward
model, tokenizer = models.load_model(root / "data/models/finetuned")
answers = decoding.generate(model, tokenizer, ["What does a cow eat?"])
judge, tokenizer = models.load_reward_model(root / "data/models/reward")
reward.score(judge, tokenizer, ["What does a cow eat?"], answers)
talk = chat.Chat(model, tokenizer, pathlib.Path(sys.argv[2]) / "log.jsonl", every=1)
talk.ask("What does a cow eat?"), talk.prefer("a")
print("asked", asked)
"""


@pytest.mark.slow
def test_nothing_is_fetched_or_sent_at_import_or_in_use(tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    env |= {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    command = [sys.executable, "-c", OFFLINE, str(ROOT), str(tmp_path)]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "asked []", done.stdout + done.stderr


def test_neither_package_nor_notebooks_can_speak_to_the_network():
    """No telemetry: no module for it is imported.  Models that are not here come through transformers alone.

    `make label` listens, on this machine unless told otherwise, and so needs a socket.
    """
    for name, text in sources():
        assert NETWORK & set(imported(text)) <= ({"socket"} if name == "served.py" else set()), name
    assert '"report_to": "none"' in (ROOT / "rlhf_helpers" / "desk" / "scale.py").read_text(encoding="utf-8")


# ---------------------------------------------------------------- Jupyter


def jupyter_commands():
    """Every command of the project that starts a Jupyter server: (file, command)."""
    named = ("Makefile", "README.md", "environment.yml", "docs", "notebooks", ".ci", ".github", "tests/conftest.py")
    paths = [p for n in named for p in ([ROOT / n] if (ROOT / n).is_file() else sorted((ROOT / n).rglob("*.*")))]
    for path in filter(Path.is_file, paths):
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(r"(-m jupyterlab|jupyter[ -](lab|notebook|server))\s+[-\w./]", line):
                yield path.name, line


def test_jupyter_stays_on_this_machine_with_its_token():
    commands = list(jupyter_commands())
    assert [name for name, _ in commands] == ["Makefile", "setup.md", "setup.md"]
    for _, line in commands:
        assert "--ServerApp.ip=127.0.0.1" in line
        assert not re.search(r"token|password|allow_origin|disable_check_xsrf|allow_remote|NotebookApp", line), line


def status_of(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status
    except urllib.error.HTTPError as e:
        return e.code


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_server_of_make_lab_is_closed_to_others(tmp_path):
    pytest.importorskip("jupyterlab")
    plan = subprocess.run(["make", "-n", "-W", "nothing", "lab"], cwd=ROOT, capture_output=True, text=True, check=True)
    line = next(x for x in plan.stdout.splitlines() if "-m jupyterlab" in x)
    words = [w for w in shlex.split(line.replace("$PATH", "")) if not w.startswith(("PATH=", "--ServerApp.root_dir="))]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mine = ["--no-browser", f"--ServerApp.port={port}", f"--ServerApp.root_dir={tmp_path}"]
    command = [sys.executable, *words[1:-1], *mine]
    env = {k: v for k, v in os.environ.items() if not k.startswith("JUPYTER")}
    env |= {f"JUPYTER_{k}_DIR": str(tmp_path / k) for k in ("CONFIG", "DATA", "RUNTIME")} | {"HOME": str(tmp_path)}
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=log, stderr=log)
    try:
        found, end = [], time.time() + 60
        while not found and time.time() < end and server.poll() is None:
            time.sleep(0.2)
            found = list(tmp_path.glob("RUNTIME/jpserver-*.json"))
        assert found, (tmp_path / "log").read_text()
        told = json.loads(found[0].read_text())
        assert told["hostname"] == "127.0.0.1" and len(told["token"]) >= 32
        url = f"http://127.0.0.1:{told['port']}/api/contents"
        assert status_of(url) == 403 and status_of(f"{url}?token={told['token']}") == 200
        listening = Path("/proc/net/tcp")
        if listening.exists():
            at = [x.split()[1] for x in listening.read_text().splitlines()[1:] if x.split()[3] == "0A"]
            assert {a for a in at if int(a.split(":")[1], 16) == told["port"]} == {f"0100007F:{told['port']:04X}"}
    finally:
        server.terminate()
        server.wait(30)
