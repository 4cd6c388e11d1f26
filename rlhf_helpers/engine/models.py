"""Loading and saving models, and turning prompts into tokens.

All models are ordinary `transformers` directories: the language models load with
`AutoModelForCausalLM`, the reward model with `AutoModelForSequenceClassification(num_labels=1)`.
Weights are safetensors; code that comes with a model is never run.
"""

import copy
import functools
import json
import os
import warnings
import weakref
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

from . import judges, trials
from . import lora as adapters
from .files import WorkbookError, replacing_folder, shown, write_json
from .trials import position_ids as position_ids
from .trials import vocabulary

hf_logging.set_verbosity_error()  # a new head is meant to be new: no report of it, and no loading bars
hf_logging.disable_progress_bar()

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|user|>' if m['role'] == 'user' else '<|assistant|>' }}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


# ---------------------------------------------------------------- loading and saving

PICKLE = "weights in a pickle, which may run code. Save the model as safetensors, and name the folder of that"
OTHER_FORMATS = {
    ".gguf": "in the format GGUF, which is for llama.cpp and can't be trained. Name the model that it was made from",
    ".onnx": "in the format ONNX, which can't be trained. Name the model that it was made from",
    ".npz": "in the format of MLX. Name the model that it was made from",
    ".h5": "in the format of TensorFlow. Name a folder with its weights as safetensors",
    ".msgpack": "in the format of Flax. Name a folder with its weights as safetensors",
    ".safetensors": "weights without a configuration. Name the folder in which they lie with their config.json",
    ".bin": PICKLE,
    ".pt": PICKLE,
    ".pth": PICKLE,
    ".ckpt": PICKLE,
}  # a file, or an ending of one: what it is, and what to do


def found_at(source):
    """Where a model lies: a folder with a config.json, or a hub id as it is; raises WorkbookError for other formats."""
    source = str(source)
    try:
        path = Path(os.path.expanduser(source))
        names = [path.name] if path.is_file() else sorted(os.listdir(path)) if path.is_dir() else None
    except (OSError, ValueError):  # what can be no name of a file
        names = None
    if names is None:
        return source
    config, formats = "config.json" in names and path.is_dir(), OTHER_FORMATS
    if config:  # the weights may still be of another format
        formats = {} if any(n.endswith((".safetensors", ".bin")) for n in names) else {".gguf": formats[".gguf"]}
    for ending, what in formats.items():
        if any(name.endswith(ending) for name in names):
            raise WorkbookError(f"The model {shown(source, 300)} cannot be loaded: it is {what}.")
    if not config:
        what = "it has no config.json" if path.is_dir() else "it is a file. Name the folder of a model"
        raise WorkbookError(f"The model {shown(source, 300)} cannot be loaded: {what}.")
    return str(path)


def _load(choose, source, device, check=lambda config: None):
    """(model, tokenizer, whether its score head is new).

    check(config) may refuse a model; choose(config) gives its class, and the configuration that this takes.
    """
    spoken, whose = str(adapters.speaks(source)), adapters.whose(source)
    source = str(adapters.base_of(source)[0])
    place = found_at(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(os.path.expanduser(spoken), trust_remote_code=False)
        _heed_template(tokenizer)
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        check(config)
        cls, config = choose(config)
        _without_dropout(config)  # rollout and update must see the same network
        model, loading = cls.from_pretrained(
            place,
            config=config,
            use_safetensors=True,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except WorkbookError:
        raise
    except Exception as e:  # whatever a damaged or foreign folder makes the libraries say
        reason = str(e).strip().splitlines()[0][:300] if str(e).strip() else type(e).__name__
        raise WorkbookError(
            f"The model {shown(source, 300)}{whose} cannot be loaded. It must be a model folder with safetensors "
            f"weights, or the id of one on the Hugging Face hub. ({reason})"
        ) from None
    new_head = _check_weights(model, loading, source)
    _check_tokens(model, tokenizer, source)
    if tokenizer.pad_token_id is None:  # attention masks, not this id, say what is padding
        tokenizer.pad_token = tokenizer.eos_token
    _set_padding(model, tokenizer.pad_token_id)
    return model.to(device).eval(), tokenizer, new_head


def _without_dropout(config):
    for part in (config, config.get_text_config()):
        for name, value in part.to_dict().items():
            if isinstance(value, float) and ("dropout" in name or "pdrop" in name or name == "layerdrop"):
                setattr(part, name, 0.0)


def _set_padding(model, pad):
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = pad


HEAD = 8  # tensors of a head, at most


def _check_weights(model, loading, source):
    """Whether all that is missing is a score head, which is new then.

    Raises WorkbookError where other weights are missing, since they would be random numbers, or where the head is
    there under another name.
    """
    missing, unknown = (sorted(loading[name]) for name in ("missing_keys", "unexpected_keys"))
    new_head = missing == ["score.weight"] and not judges.is_ready(model.config)
    if new_head and len(unknown) > HEAD:  # another part of it, such as its eyes
        return True
    if new_head:
        unknown = [name for name in unknown if name not in judges.of_the_language_model(model.config)]
    if (not new_head and missing) or (new_head and unknown):
        more = f" It holds others that the architecture doesn't know, such as {shown(unknown[0])}." if unknown else ""
        raise WorkbookError(
            f"The model {shown(str(source), 300)} cannot be loaded: {len(missing)} of the weights that a "
            f"{type(model).__name__} needs are not in it, such as {shown(missing[0])}, and would be random.{more} "
            "Save it anew under the names that transformers uses."
        )
    return new_head


def _check_tokens(model, tokenizer, source):
    """Raise WorkbookError where the tokenizer has tokens without an embedding, and a text may hold them."""
    rows = vocabulary(model)
    without = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    if tokenizer.pad_token_id in without.values():  # any token will do for what no model reads
        tokenizer.pad_token = tokenizer.eos_token
    kept = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    template = str(tokenizer.chat_template or "")
    unspoken = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}  # such as one for pictures
    ordered = sorted(without.items(), key=lambda item: item[1])
    needed = [t for t, i in ordered if i in kept or t in template or i not in unspoken]
    if needed:
        raise WorkbookError(
            f"The model {shown(str(source), 300)} cannot be used: its tokenizer has {len(needed)} tokens without an "
            f"embedding, such as {shown(needed[0])} (id {without[needed[0]]}; there are {rows} embeddings). Make room "
            "with model.resize_token_embeddings(len(tokenizer)), or take the tokenizer that it was trained with."
        )
    tokenizer.unread = set(without.values())


def load_model(source, device="cpu", lora=0):
    """A causal language model and its tokenizer, in fp32, eval mode, dropout off; `lora`: see `lora.fit`.

    Raises WorkbookError when `source` is neither a model folder nor a reachable hub id, and when the model is
    not a decoder-only one that answers in a batch as it does alone.
    """
    model, tokenizer, _ = _load(judges.language_class, source, device, lambda config: _check_language(config, source))
    if tokenizer.eos_token_id is None:
        raise WorkbookError(f"The tokenizer of {str(source)!r} has no end-of-text token, so answers could not end.")
    why = _why_unfit(model)
    if why:
        raise WorkbookError(
            f"The model {str(source)!r} {why}. Choose a decoder-only language model, such as a GPT-2, Llama or Qwen."
        )
    trials.choose_cache(model)
    return adapters.fit(model, source, lora), tokenizer


def _check_language(config, source):
    if judges.is_ready(config):
        raise WorkbookError(
            f"The model {str(source)!r} is a classifier or reward model ({config.architectures[0]}), which can write "
            "no answers. Name the language model that it was made from."
        )
    if config.is_encoder_decoder:
        raise WorkbookError(
            f"The model {str(source)!r} is an encoder-decoder ({config.model_type}), which reads prompt and answer by "
            "two networks. Choose a decoder-only language model, such as a GPT-2, Llama or Qwen."
        )


def _why_unfit(model):
    """What speaks against a language model, in words that follow its name, or "": it is tried, not looked up."""
    try:
        if not trials.is_causal(model, lambda ids: model(ids).logits):
            return "reads a text in both directions, so it can write none"
        if not trials.heeds_padding(model):
            return "gives another answer in a batch, where prompts are padded, than alone, so it can't be trained here"
    except torch.OutOfMemoryError:
        raise
    except Exception as e:  # whatever a model makes of four tokens
        return f"can't be called as other language models can ({type(e).__name__}: {str(e).strip()[:200]})"
    return ""


def recompute_activations(model):
    """Gradient checkpointing (Chen et al. 2016): the backward pass computes the activations inside a layer again.

    That costs a third more time and saves most of the memory of long rows.  Layers do it in training mode only, so
    a hook puts them there where a gradient is asked for, and out of it, key-value cache and all, elsewhere.
    """
    model.gradient_checkpointing_enable({"use_reentrant": False})
    if _train_where_there_is_a_gradient not in model.base_model._forward_pre_hooks.values():
        model.base_model.register_forward_pre_hook(_train_where_there_is_a_gradient)


def _train_where_there_is_a_gradient(module, inputs):
    module.train(torch.is_grad_enabled())


def load_reward_model(source, device="cpu", lora=0):
    """A reward model (one number per sequence) and its own tokenizer.

    Started from a language model, its score head is new and drawn from N(0, 1/(d+1)) (Stiennon et al. 2020).  A ready
    one may be of any kind, with one label or two; see `judges`.  Raises WorkbookError for one with more labels, or
    whose head is not under the name that its architecture has.  lora: see `lora.fit`.
    """
    factors = [1.0]

    def check(config):
        nonlocal factors
        if judges.is_ready(config):
            factors = judges.signs(config, source)
        else:
            _check_language(config, source)
            config.num_labels = config.get_text_config().num_labels = 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, tokenizer, new_head = _load(judges.class_of, source, device, check)
    if not new_head:
        model = judges.as_judge(model, tokenizer, factors, source)
    else:
        torch.nn.init.normal_(model.score.weight, std=(model.score.in_features + 1) ** -0.5)
    if tokenizer.pad_token_id == tokenizer.eos_token_id:  # plain transformers would take the real end for padding;
        _set_padding(model, None)  # without a pad token it reads the last one, and refuses batches
    return adapters.fit(model, source, lora), tokenizer


def save_model(model, tokenizer, path, card, made_with=None, *, half=False):
    """Write a model folder (config, safetensors, tokenizer, README.md = `card`), all at once.

    Of a model with an adapter it is PEFT's folder: the adapter, and the name of the model that it belongs to.

    made_with: a dict, such as the seed and the versions of a notebook, that goes to made_with.json beside it.
    half: store the weights in 16 bits, at half the size.  They load as float32 all the same, since the
    configuration says so.
    """
    with replacing_folder(path) as folder, _system_errors():
        (copy.deepcopy(model).half() if half else model).save_pretrained(folder)
        if half:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            write_json(folder / "config.json", {**config, "dtype": "float32"})
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card + judges.how_to_load(model), encoding="utf-8")
        if made_with:
            write_json(folder / "made_with.json", made_with)


@contextmanager
def _system_errors():
    """Make an OSError of what the writers of weights and tokenizers say, in exceptions of their own, of a full disk."""
    try:
        yield
    except Exception as e:
        if "(os error" not in str(e) and "IoError(Os {" not in str(e):  # the second: safetensors 0.5
            raise
        raise OSError(str(e)) from None


def new_tokenizer(texts, vocab_size=2048):
    """A byte-level BPE tokenizer trained on `texts`: any text can be encoded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>"]
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        pad_token="<|pad|>",
        additional_special_tokens=special[2:],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def new_model(tokenizer, seed=0, layers=4, width=144, heads=4, context=128):
    """A GPT-2 with random weights, small enough for a laptop (about 1.2 million parameters)."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        activation_function="gelu",  # the exact one: quicker on a CPU than GPT-2's approximation
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return GPT2LMHeadModel(config).eval()


LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "context_length")


def context_length(model):
    """The most tokens that a model reads at once."""
    config = model.config.get_text_config()
    length = next((n for n in (getattr(config, name, None) for name in LENGTHS) if n), 2048)
    return min(length, getattr(model, "limit", length))


def check_room(model, columns, new):
    """Raise WorkbookError where prompts of so many tokens leave a model no room for `new` tokens of an answer."""
    limit = context_length(model)
    if columns + new > limit:
        raise WorkbookError(
            f"The longest prompt has {columns} tokens, and with an answer of {new} the model would have to read "
            f"{columns + new}, but it reads only {limit}. Shorten the prompt, or lower max_new_tokens."
        )


# ---------------------------------------------------------------- text to tokens


@dataclass
class Manner:
    """How a tokenizer frames a conversation; see `manner_of`."""

    of: tuple  # what it was read from: the template, the end token, and what is set on the tokenizer
    opening: list  # ids that the tokenizer puts before any text, such as a BOS
    ending: list  # ids that end an answer; the last of them is the end of the turn
    asked: dict = field(default_factory=dict)  # prompt -> its ids: a training asks the same thousands of times


REMEMBERED = 10_000  # prompts, of a tokenizer
_manners: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # tokenizer -> Manner


def manner_of(tokenizer):
    """The Manner of a tokenizer, read from what it makes of a question and an answer."""
    own = (getattr(tokenizer, name, None) for name in ("frame", "unread"))
    of = tokenizer.chat_template, tokenizer.eos_token, *own
    found = _manners.get(tokenizer)
    if found is None or found.of != of:
        found = Manner(of, _opening(tokenizer), _ending(tokenizer) or [tokenizer.eos_token_id])
        _manners[tokenizer] = found
    return found


QUESTION, ANSWER = "A question?", "An answer."


def _heed_template(tokenizer):
    """See that the question is in the prompt; where a template wants it as a list of parts, it gets that from now on.

    Raises WorkbookError where the template leaves it out, and what the template itself raises.
    """
    plain = tokenizer.apply_chat_template
    try:
        if QUESTION in format_prompt(tokenizer, QUESTION):
            return
        failed = None
    except Exception as e:  # a template is a program, and this one may want parts
        failed = e
    tokenizer.apply_chat_template = functools.partial(_in_parts, plain)
    try:
        if QUESTION in format_prompt(tokenizer, QUESTION):
            return
    except Exception as e:
        failed = failed or e
    raise failed or WorkbookError(
        "The chat template of this model leaves the question out of the prompt. Choose another MODEL, or mend its "
        'template: it should show message["content"].'
    )


def _in_parts(render, messages, **options):
    """What a template makes of messages whose content is a list of one part."""
    parts = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in messages]
    return render(parts, **options)


def _ending(tokenizer):
    """The ids with which a template ends an answer, up to its first special token; [] where it shows none."""
    if not tokenizer.chat_template:
        return []
    said = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    try:
        text = tokenizer.apply_chat_template(said, tokenize=False, enable_thinking=False)
    except Exception:  # one that has only a place for the question
        return []
    ids = tokenizer(text.rpartition(ANSWER)[2], add_special_tokens=False)["input_ids"] if ANSWER in text else []
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return next((ids[: i + 1] for i, token in enumerate(ids) if token in special), [])


def _opening(tokenizer):
    """The ids that a tokenizer puts before a text, such as a BOS; what it puts after one ends no prompt."""
    plain, whole = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (False, True))
    return next((whole[:i] for i in range(len(whole)) if whole[i : i + len(plain)] == plain), [])


def turn_end(tokenizer):
    """The id that ends an answer: that of the chat template, which need not be the end-of-text token."""
    return manner_of(tokenizer).ending[-1]


def format_prompt(tokenizer, prompt):
    """The text a model sees for a prompt: its chat template where it has one, else a plain question.

    A template that lets the model think aloud first is asked not to: answers here are short.
    """
    if tokenizer.chat_template:
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    return f"Question: {prompt}\nAnswer:"


def encodable(text):
    """`text` with a question mark for each lone surrogate, which is no character and has no tokens."""
    return text.encode("utf-8", "replace").decode()


def _readable(tokenizer, rows):
    """Lists of token ids without those that the model has no embedding for, such as one for pictures."""
    unread = getattr(tokenizer, "unread", None)
    return [[i for i in ids if i not in unread] for ids in rows] if unread else rows


def prompts_ids(tokenizer, prompts):
    """Token ids of formatted prompts, a list each: they begin as the tokenizer begins any text, with no second BOS.

    A tokenizer that reads two texts in a frame (see `judges.frame`) has its own signs around them.
    """
    if not all(isinstance(p, str) and p.strip() for p in prompts):
        raise WorkbookError("An empty prompt can't be answered. Type a question.")
    framed = getattr(tokenizer, "frame", None)
    texts = [encodable(p) if framed else format_prompt(tokenizer, encodable(p)) for p in prompts]
    rows = _readable(tokenizer, tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else [])
    if framed:
        return [framed[0] + ids + framed[1] for ids in rows]
    first = manner_of(tokenizer).opening  # some templates leave it to the tokenizer, others write it
    return [ids if ids[: len(first)] == first else first + ids for ids in rows]


def prompt_ids(tokenizer, prompt):
    """Token ids of one formatted prompt; see `prompts_ids`."""
    known = manner_of(tokenizer).asked
    if not isinstance(prompt, str) or prompt not in known:
        ids = prompts_ids(tokenizer, [prompt])[0]
        if len(known) >= REMEMBERED:
            known.clear()
        known[prompt] = ids
    return list(known[prompt])


def responses_ids(tokenizer, responses):
    """Token ids of answers, a list each, with the end that the chat template gives them, or else the end-of-text."""
    framed = getattr(tokenizer, "frame", None)
    space = "" if tokenizer.chat_template or framed else " "
    said = [space + encodable(response) for response in responses]
    rows = _readable(tokenizer, tokenizer(said, add_special_tokens=False)["input_ids"] if said else [])
    end = framed[2] if framed else manner_of(tokenizer).ending
    return [ids + end for ids in rows]


def response_ids(tokenizer, response):
    """Token ids of one answer, end-of-text included."""
    return responses_ids(tokenizer, [response])[0]


def pad(rows, pad_id, side="right", device="cpu"):
    """Lists of token ids -> (ids, mask), both (rows, longest) int64; mask is 1 on real tokens."""
    longest = max(len(r) for r in rows)
    ids, mask = [], []
    for r in rows:
        fill = longest - len(r)
        ids.append([pad_id] * fill + r if side == "left" else r + [pad_id] * fill)
        mask.append([0] * fill + [1] * len(r) if side == "left" else [1] * len(r) + [0] * fill)
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def encode_prompts(tokenizer, prompts, device="cpu"):
    """Prompts -> left-padded (ids, mask), so that every answer starts at the same column."""
    if not prompts:
        raise WorkbookError("The list of prompts is empty; give at least one.")
    return pad(prompts_ids(tokenizer, prompts), tokenizer.pad_token_id, "left", device)
