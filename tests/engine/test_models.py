"""Models as other people bring them: every kind works, or is refused in a sentence when it is loaded.

Each kind is a rule of the engine, tried on one instance that was reported and on others of the kind.
"""

import json
import os
import re
import shutil

import pytest
import torch
from families import PROMPTS, WINDOW, language_model, tokenizer_for
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from rlhf_helpers.engine import memory, models, packing, trials
from rlhf_helpers.engine.files import ROOT, WorkbookError
from rlhf_helpers.lesson import decoding, ppo, reward

LOWEST = os.environ.get("WORKBOOK_VERSIONS") == "lowest"
not_lowest = pytest.mark.skipif(LOWEST, reason="transformers renames these weights in later versions")
SPOKEN = ["Yes.", "No, it is not, as far as I know.", "Perhaps it is."]
ANSWERS = [*SPOKEN, ""]
HYBRID = ("lfm2", "qwen3_next", "granitemoehybrid")  # `make test-matrix` has more
WINDOWED = ("mistral", "gemma2", "gemma3_text", "gemma3", "phi3", "olmo3", "cohere2", "gpt_oss")
HEADLESS = ("granite", "cohere", "olmoe", "mamba", "lfm2", "ctrl")


@pytest.fixture(scope="session")
def family(tmp_path_factory):
    """A function from the name of a family to the folder of a small model of it, made once."""
    made = {}

    def get(name):
        if name not in made:
            try:
                made[name] = language_model(tmp_path_factory.mktemp(name), name)
            except Exception:
                if not LOWEST:
                    raise
                pytest.skip("this version of transformers can't make such a model")
        return made[name]

    return get


def refused(load, source, *words):
    """The one sentence with which a model is refused; all `words` are in it."""
    with pytest.raises(WorkbookError) as error:
        load(source)
    text = str(error.value)
    assert "\n" not in text and len(text) < 900 and all(w in text for w in words), text
    return text


def changed_weights(folder, change):
    """Write a folder's weights anew, by a function from a dict of tensors to another."""
    path = folder / "model.safetensors"
    save_file({k: v.clone() for k, v in change(load_file(path)).items()}, path, {"format": "pt"})
    return folder


# ---------------------------------------------------------------- architectures


@pytest.mark.parametrize("name", ["gemma3", "mistral3", "smolvlm", pytest.param("qwen3_5", marks=not_lowest)])
def test_nested_configurations_are_read_where_the_language_part_is(family, name):
    folder = family(name)
    assert "text_config" in json.loads((folder / "config.json").read_text())
    model, tokenizer = models.load_model(folder)
    assert models.vocabulary(model) == len(tokenizer) and models.context_length(model) == 512
    assert memory.shape_of(folder).width == ppo.PolicyWithValue(model).value_head.in_features == 32
    judge, _ = models.load_reward_model(folder)
    assert torch.isfinite(reward.score(judge, tokenizer, PROMPTS[:4], ANSWERS)).all()


ROWS = [[5, 9], [17, 3, 8], [120, 44, 7, 2, 90], [60]]  # they end in different tokens, and so do their answers


def answers_alone(model, n=6):
    """Greedy answers to ROWS one by one, and a token at which one of them ends before others."""
    alone = [decoding.greedy(model, ids, n, {-1})[len(ids) :] for ids in ROWS]
    end = next(t for a in alone for t in a if any(t not in other for other in alone))
    return [a[: a.index(end) + 1] if end in a else a for a in alone], end


@pytest.mark.parametrize("name", [*HYBRID, "mamba", "gpt2"])
def test_a_batch_goes_on_when_one_answer_has_ended_whatever_remembers(family, name):
    model, tokenizer = models.load_model(family(name))
    alone, end = answers_alone(model)
    ids, mask = models.pad(ROWS, tokenizer.pad_token_id, "left")
    for way in (model.reads_on, (None, None)):  # and where nothing is remembered
        model.reads_on = way
        out, real, _ = decoding.rollout(model, ids, mask, 6, end, temperature=0)
        start = ids.shape[1]
        assert [row[m.bool()].tolist() for row, m in zip(out[:, start:], real[:, start:])] == alone


def test_the_cache_that_suits_a_model_is_found_when_it_is_loaded(family):
    ways = {name: models.load_model(family(name))[0].reads_on for name in ("gpt2", "lfm2", "mamba")}
    assert ways["gpt2"] == trials.SELECT and ways["lfm2"][1] == "reorder_cache"
    assert ways["mamba"][0] == "cache_params" or LOWEST


@pytest.mark.parametrize("name", HEADLESS)
def test_an_architecture_without_a_classifier_gets_a_score_head(family, tmp_path, name):
    """And what is saved can be read by transformers alone, by the lines on its card, and again by the workbook."""
    judge, tokenizer = models.load_reward_model(family(name))
    assert judge.score.weight.std() < 3 * (judge.score.in_features + 1) ** -0.5
    rows = [{"prompt": p, "chosen": "Yes.", "rejected": "No, never."} for p in PROMPTS[:4]]
    reward.train_reward_model(judge, tokenizer, rows, batch_size=4)
    before = reward.score(judge, tokenizer, PROMPTS[:4], ANSWERS)
    models.save_model(judge, tokenizer, tmp_path / "judge", "# A judge\n")
    again, tokenizer_again = models.load_reward_model(tmp_path / "judge")
    assert torch.allclose(reward.score(again, tokenizer_again, PROMPTS[:4], ANSWERS), before, atol=1e-5)
    assert before.std() > 1e-4
    card = (tmp_path / "judge" / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", card, re.S)[1].replace("print(", "found = (")
    space = {"folder": str(tmp_path / "judge")}
    exec(code, space)
    ids = torch.tensor([reward.pair_ids(tokenizer, PROMPTS[1], ANSWERS[1], 512)])
    read = space["body"](ids).last_hidden_state[0, -1] @ space["score"]
    assert read.item() == pytest.approx(before[1].item(), abs=1e-4) and torch.isfinite(space["found"])


def test_a_classifier_that_transformers_has_is_the_one_that_is_saved(family, tmp_path):
    judge, tokenizer = models.load_reward_model(family("llama"))
    models.save_model(judge, tokenizer, tmp_path / "judge", "# A judge\n")
    assert (tmp_path / "judge" / "README.md").read_text() == "# A judge\n"
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "judge")


@pytest.mark.parametrize("name", WINDOWED)
def test_a_sliding_window_belongs_to_the_packed_mask(family, name):
    model, tokenizer = models.load_model(family(name))
    assert packing.window_of(model.config.get_text_config()) == WINDOW
    assert packing.can_pack(model)
    judge, _ = models.load_reward_model(family(name))
    asked, said = PROMPTS[:3], ["A word and another. " * n for n in (1, 4, 9)]
    rows = reward.readable_ids(tokenizer, asked, said, 512)
    assert max(map(len, rows)) > 2 * WINDOW
    groups = [[row, rows[0][:-1] + row[-3:]] for row in rows]
    with torch.no_grad():
        padded = reward.padded_scores(judge, groups, tokenizer.pad_token_id)
        assert torch.allclose(reward.packed_scores(judge, groups), padded, atol=1e-4), name


def test_the_probe_of_packing_looks_beyond_the_window(family, monkeypatch):
    model, _ = models.load_model(family("mistral"))
    monkeypatch.setattr(packing, "masks_for", lambda config, packed, dtype: packed.attention_mask.to(dtype))
    assert not packing.can_pack(model)


def test_any_failure_of_packing_is_a_no(family, monkeypatch):
    model, _ = models.load_model(family("gpt_oss"))
    monkeypatch.setattr(packing, "hidden_at", lambda *a: [][1])
    assert not packing.can_pack(model)


@pytest.mark.parametrize("name", ["opt_350m", "opt", "gpt2"])
def test_the_value_head_is_as_wide_as_what_the_output_layer_reads(family, name):
    model, tokenizer = models.load_model(family(name))
    prompts = PROMPTS[:8]
    settings = ppo.Settings(updates=1, batch_size=4, minibatches=2, max_new_tokens=6, lr=1e-4)
    for packed in (True, False):
        history, card = ppo.train(
            model, tokenizer, lambda p, r: torch.tensor([float(len(x)) for x in r]), prompts, settings, packed=packed
        )
        assert len(history) == 1 and card


@pytest.mark.parametrize("name", ["bart", "t5", "marian", "pegasus"])
def test_encoder_decoders_are_refused(tmp_path, name):
    AutoConfig.for_model(name).save_pretrained(tmp_path)
    tokenizer_for("gpt2").save_pretrained(tmp_path)
    for load in (models.load_model, models.load_reward_model):
        refused(load, tmp_path, "encoder-decoder", "decoder-only")


def test_a_model_that_reads_the_padding_is_refused(family):
    """RWKV has no mask, and the decoder of BART alone counts positions from the first column."""
    refused(models.load_model, family("rwkv"), "in a batch", "than alone")
    refused(models.load_model, family("bart_decoder"), "in a batch", "than alone")


def test_a_reward_model_is_no_language_model(family, tmp_path):
    for name in ("gpt2", "llama", "granite"):
        judge, tokenizer = models.load_reward_model(family(name))
        models.save_model(judge, tokenizer, tmp_path / name, "# A judge\n")
        refused(models.load_model, tmp_path / name, "ForSequenceClassification", "can write no answers")


# ---------------------------------------------------------------- weights


PREFIXES = ("_orig_mod.", "module.", "base_model.model.")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_weights_under_a_prefix_are_refused_with_their_names(family, tmp_path, prefix):
    folder = shutil.copytree(family("llama"), tmp_path / "model")
    changed_weights(folder, lambda weights: {prefix + k: v for k, v in weights.items()})
    for load in (models.load_model, models.load_reward_model):
        refused(load, folder, "would be random", prefix)


@pytest.mark.parametrize("lost", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight"])
def test_a_weight_that_is_missing_is_named(family, tmp_path, lost):
    folder = shutil.copytree(family("llama"), tmp_path / "model")
    changed_weights(folder, lambda weights: {k: v for k, v in weights.items() if k != lost})
    refused(models.load_model, folder, "1 of the weights", lost)


@pytest.mark.parametrize("head", ["reward_head.weight", "v_head.summary.weight", "regression_layer.weight"])
def test_a_head_of_another_name_is_refused_whatever_the_folder_calls_itself(family, tmp_path, head):
    judge, tokenizer = models.load_reward_model(family("llama"))
    models.save_model(judge, tokenizer, tmp_path / "judge", "# A judge\n")
    changed_weights(tmp_path / "judge", lambda w: {k.replace("score.weight", head): v for k, v in w.items()})
    refused(models.load_reward_model, tmp_path / "judge", "score.weight", head)
    config = json.loads((tmp_path / "judge" / "config.json").read_text())
    for own in (["LlamaForRewardModel"], None):
        (tmp_path / "judge" / "config.json").write_text(json.dumps(config | {"architectures": own}))
        refused(models.load_reward_model, tmp_path / "judge", "score.weight", head)


# ---------------------------------------------------------------- ready reward models

ENCODERS = {
    "deberta-v2": {"type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "roberta": {"type_vocab_size": 1, "max_position_embeddings": 600},
    "bert": {"type_vocab_size": 2},
    "electra": {"type_vocab_size": 2, "embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64},
}


def encoder_tokenizer(kind):
    """A tokenizer that frames two texts as a BERT or a RoBERTa does."""
    base = models.new_tokenizer(PROMPTS, vocab_size=400).backend_tokenizer
    first, last, pad = ("<s>", "</s>", "<pad>") if kind == "roberta" else ("[CLS]", "[SEP]", "[PAD]")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, cls_token=first, sep_token=last, pad_token=pad)
    between = f"{last} {last}" if kind == "roberta" else last
    ids = [(t, tokenizer.convert_tokens_to_ids(t)) for t in (first, last)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {between} $B:1 {last}:1", special_tokens=ids
    )
    return tokenizer


def encoder(folder, kind, labels, names=None):
    """Write a small classifier that reads in both directions; (the model, its tokenizer)."""
    tokenizer = encoder_tokenizer(kind)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    if kind == "distilbert":
        sizes = {}
    more = {"id2label": dict(enumerate(names))} if names else {"num_labels": labels}
    fields = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 128}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **fields | sizes | ENCODERS[kind] | more)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    torch.nn.init.normal_(next(p for n, p in reversed(list(model.named_parameters())) if n.endswith("weight")))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("kind", ENCODERS)
def test_a_ready_judge_that_reads_both_ways_says_what_it_says_by_itself(tmp_path, capsys, kind, labels):
    plain, _ = encoder(tmp_path, kind, labels)
    judge, tokenizer = models.load_reward_model(tmp_path)
    said = capsys.readouterr().out
    assert type(plain).__name__ in said and ("LABEL_1 less LABEL_0" in said) == (labels == 2)
    found = reward.score(judge, tokenizer, PROMPTS[:3], SPOKEN, batch_size=2)
    for prompt, answer, score in zip(PROMPTS, SPOKEN, found):
        pair = tokenizer(prompt, answer, return_tensors="pt")
        types = torch.tensor([[i or 0 for i in pair.sequence_ids()]])
        types[0, -1] = types.max()  # the last sign belongs to the answer
        which = {"token_type_ids": types} if ENCODERS[kind].get("type_vocab_size") == 2 else {}
        with torch.no_grad():
            logits = plain(pair["input_ids"], **which).logits[0]
        assert score.item() == pytest.approx((logits[-1] - (logits[0] if labels == 2 else 0)).item(), abs=1e-5)
    assert found.std() > 1e-4
    assert torch.isfinite(reward.score(judge, tokenizer, PROMPTS[:2], ["word " * 400] * 2)).all()  # it is cut
    with pytest.raises(WorkbookError, match="can write no answers"):
        models.load_model(tmp_path)


@pytest.mark.parametrize(
    "names, better",
    [(["NEGATIVE", "POSITIVE"], 1), (["chosen", "rejected"], 0), (["safe", "unsafe"], 0), (["bad", "good"], 1)],
)
def test_of_two_labels_the_good_one_counts_for_the_answer(tmp_path, names, better, capsys):
    plain, _ = encoder(tmp_path, "bert", 2, names)
    judge, _ = models.load_reward_model(tmp_path)
    assert judge.score.weight.tolist() == [[-1.0, 1.0] if better else [1.0, -1.0]]
    assert f"{names[better]} less {names[1 - better]}" in capsys.readouterr().out


@pytest.mark.parametrize("labels", [3, 5, 19])
def test_a_classifier_of_more_labels_is_no_reward_model(tmp_path, labels):
    encoder(tmp_path, "bert", labels)
    refused(models.load_reward_model, tmp_path, f"{labels} labels", "LABEL_0")


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_a_causal_judge_with_two_labels_becomes_one_number_that_can_be_learned(family, tmp_path, name):
    tokenizer = models.load_model(family(name))[1]
    config = AutoConfig.from_pretrained(family(name), num_labels=2)
    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_config(config).eval()
    torch.nn.init.normal_(plain.score.weight)
    plain.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    judge, own = models.load_reward_model(tmp_path)
    ids = torch.tensor([reward.pair_ids(own, PROMPTS[0], ANSWERS[1], 512)])
    plain.config.pad_token_id = None  # so that it reads the last token
    with torch.no_grad():
        low, high = plain(ids).logits[0].tolist()
    score = reward.score(judge, own, PROMPTS[:1], ANSWERS[1:2]).item()
    assert score == pytest.approx(high - low, abs=1e-4) and abs(score) > 1e-3
    models.save_model(judge, own, tmp_path / "again", "# A judge\n")
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "again").config.num_labels == 1


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
def test_a_judge_with_another_tokenizer_judges_what_a_policy_writes(family, tmp_path, kind):
    if kind == "gpt2":
        judge, its = models.load_reward_model(family("gpt2"))
    else:
        encoder(tmp_path, kind, 1)
        judge, its = models.load_reward_model(tmp_path)
    policy, tokenizer = models.load_model(family("llama"))
    assert len(its) != len(tokenizer) or its.chat_template != tokenizer.chat_template
    score = lambda prompts, answers: reward.score(judge, its, prompts, answers)  # noqa: E731
    settings = ppo.Settings(updates=1, batch_size=4, minibatches=2, max_new_tokens=6, lr=1e-4)
    _, card = ppo.train(policy, tokenizer, score, PROMPTS[:8], settings, frozen=(judge,))
    assert card["reference and reward model did not move"] == 0


# ---------------------------------------------------------------- tokenizers and templates


def with_tokens(folder, *tokens, special=False):
    """Add tokens to the tokenizer of a folder whose embedding stays as it is."""
    _, tokenizer = models.load_model(folder)
    tokenizer.add_tokens(list(tokens), special_tokens=special)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_tokens_without_an_embedding_are_refused(family, tmp_path, name):
    folder = shutil.copytree(family(name), tmp_path / "model")
    tokenizer = with_tokens(folder, "<think>", "</think>")
    for load in (models.load_model, models.load_reward_model):
        refused(load, folder, "2 tokens without an embedding", "<think>", f"id {len(tokenizer) - 2}", "resize")


def test_a_pad_token_without_an_embedding_does_no_harm(family, tmp_path):
    """Some were added to a tokenizer alone; any token will do for what is not read.  Nor does one for pictures."""
    folder = shutil.copytree(family("llama"), tmp_path / "model")
    _, tokenizer = models.load_model(folder)
    tokenizer.add_special_tokens({"pad_token": "<new-pad>"})
    tokenizer.save_pretrained(folder)
    with_pad, tokenizer = models.load_model(folder)
    assert tokenizer.pad_token_id < models.vocabulary(with_pad)
    with_tokens(folder, "<image>", special=True)
    model, tokenizer = models.load_model(folder)
    assert models.response_ids(tokenizer, "<image>So.") == models.response_ids(tokenizer, "So.")
    assert decoding.generate(model, tokenizer, ["What is <image>?"], max_new_tokens=2)


def test_an_embedding_larger_than_the_tokenizer_is_as_usual(family):
    model, tokenizer = models.load_model(family("llama"))
    model.resize_token_embeddings(len(tokenizer) + 7)
    assert decoding.generate(model, tokenizer, PROMPTS[:2], max_new_tokens=3)


@pytest.mark.parametrize("framed", ["<s> $A </s>", "$A </s>", "<s> $A </s> </s>", "<s> <s> $A"])
def test_a_prompt_never_ends_in_the_end_that_a_tokenizer_appends(framed):
    tokenizer = tokenizer_for("gpt2")
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    ids = [(t, tokenizer.convert_tokens_to_ids(t)) for t in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=framed, pair="$A $B", special_tokens=ids)
    asked = tokenizer.decode(models.prompt_ids(tokenizer, "Why?"))
    assert asked == "<s>" * framed.count("<s>") + "Question: Why?\nAnswer:"
    assert tokenizer.decode(models.response_ids(tokenizer, "So.")) == " So.</s>"


PARTS = "{% for m in messages %}[{{ m.role }}]{% for c in m.content %}{{ c.text }}{% endfor %}<end>{% endfor %}"
STRICT = "{% for m in messages %}[{{ m.role }}]{{ m.content[0]['text'] | trim }}<end>{% endfor %}"
GOES_ON = "{% if add_generation_prompt %}[assistant]{% endif %}"


@pytest.mark.parametrize("template", [PARTS + GOES_ON, STRICT + GOES_ON])
def test_a_template_that_wants_parts_gets_them(family, tmp_path, template):
    folder = shutil.copytree(family("qwen3"), tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template.replace("<end>", "<|endoftext|>"))
    for load in (models.load_model, models.load_reward_model):
        _, tokenizer = load(folder)
        assert models.format_prompt(tokenizer, "Why?") == "[user]Why?<|endoftext|>[assistant]"
        assert tokenizer.decode(models.response_ids(tokenizer, "So.")) == "So.<|endoftext|>"


@pytest.mark.parametrize(
    "template",
    ["[user] {{ messages | length }}", "{{ messages[0].text }}" + GOES_ON, "Answer the question. [assistant]"],
)
def test_a_template_that_loses_the_question_is_refused(family, tmp_path, template):
    folder = shutil.copytree(family("gpt2"), tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    for load in (models.load_model, models.load_reward_model):
        refused(load, folder, "leaves the question out")


TURNS = {
    "<|im_end|>": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    "<end_of_turn>": "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}",
    "<|eot_id|>": "{% for m in messages %}<|h|>{{ m.role }}\n\n{{ m.content }}<|eot_id|>{% endfor %}",
    "</s>": "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}",
}


@pytest.mark.parametrize("end", TURNS)
def test_an_answer_ends_as_its_template_ends_a_turn(family, tmp_path, end):
    """For the policy, the reward model and the demonstrations alike; the model's own end token ends an answer, too."""
    model, tokenizer = models.load_model(family("gpt2"))
    tokenizer.add_tokens([end])
    tokenizer.chat_template = TURNS[end]
    model.resize_token_embeddings(len(tokenizer))
    token = tokenizer.convert_tokens_to_ids(end)
    assert models.response_ids(tokenizer, "So.")[-1] == token != tokenizer.eos_token_id
    assert models.turn_end(tokenizer) in decoding.end_tokens(model, tokenizer)
    assert tokenizer.eos_token_id in decoding.end_tokens(model, tokenizer)
    ids = torch.tensor([[5, 6, token]])
    assert decoding.decode_responses(tokenizer, ids, torch.ones_like(ids), 0) == [tokenizer.decode([5, 6]).strip()]


@pytest.mark.parametrize("template", ["{{ messages[0].content }}", "Q: {{ messages[-1].content }}\nA: "])
def test_where_a_template_shows_no_end_the_end_of_text_is_taken(template):
    tokenizer = tokenizer_for("qwen3")
    tokenizer.chat_template = template
    assert models.response_ids(tokenizer, "So.")[-1:] == [tokenizer.eos_token_id]


# ---------------------------------------------------------------- lengths and formats


@pytest.mark.parametrize("name", ["gpt2", "llama", "mpt"])
def test_a_prompt_that_leaves_no_room_is_refused_before_it_is_read(family, name, monkeypatch):
    model, tokenizer = models.load_model(family(name))
    monkeypatch.setattr(model, "forward", lambda *a, **k: pytest.fail("it was read"))
    with pytest.raises(WorkbookError, match="reads only 512"):
        decoding.generate(model, tokenizer, ["word " * 3000])


FORMATS = {
    "adapter": (["adapter_config.json", "adapter_model.safetensors"], "adapter"),
    "gguf": (["model-Q4_K_M.gguf"], "GGUF"),
    "gguf beside a configuration": (["config.json", "model.gguf"], "GGUF"),
    "onnx": (["model.onnx"], "ONNX"),
    "mlx": (["weights.npz"], "MLX"),
    "pickle": (["consolidated.00.pth"], "pickle"),
    "weights alone": (["model.safetensors"], "config.json"),
}


@pytest.mark.parametrize("what", FORMATS)
def test_what_is_no_model_folder_is_recognised(tmp_path, what):
    names, word = FORMATS[what]
    for name in names:
        (tmp_path / name).write_text("{}")
    loads = (models.load_model, models.load_reward_model, memory.shape_of)
    for load in loads:
        refused(load, tmp_path, "cannot be loaded", word)
    if len(names) == 1 and what != "weights alone":
        for load in loads:
            refused(load, tmp_path / names[0], "cannot be loaded", word)


def test_a_prompt_is_read_anew_when_its_tokenizer_has_changed():
    tokenizer = models.load_model(ROOT / "data" / "models" / "finetuned")[1]
    first = models.prompt_ids(tokenizer, "Why?")
    first.append(-1)  # the caller's own list
    assert models.prompt_ids(tokenizer, "Why?") == first[:-1] == models.prompts_ids(tokenizer, ["Why?"])[0]
    tokenizer.chat_template = tokenizer.chat_template.replace("<|assistant|>", "")
    assert models.prompt_ids(tokenizer, "Why?") == models.prompts_ids(tokenizer, ["Why?"])[0] != first[:-1]
    for empty in ("", " ", None, ["Why?"]):
        with pytest.raises(WorkbookError, match="empty prompt"):
            models.prompt_ids(tokenizer, empty)
