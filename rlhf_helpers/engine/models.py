"""Loading and saving models, and turning prompts into tokens.

All models are ordinary `transformers` directories: the language models load with
`AutoModelForCausalLM`, the reward model with `AutoModelForSequenceClassification(num_labels=1)`.
Weights are safetensors; code that comes with a model is never run.
"""

import copy
import json
import os
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as hf_logging

from . import lora as adapters
from .files import WorkbookError, replacing_folder, shown, write_json

hf_logging.set_verbosity_error()  # a new head is meant to be new: no report of it, and no loading bars
hf_logging.disable_progress_bar()

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|user|>' if m['role'] == 'user' else '<|assistant|>' }}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


# ---------------------------------------------------------------- loading and saving


def _load(cls, source, device, **options):
    spoken, whose = str(adapters.speaks(source)), adapters.whose(source)
    source = str(adapters.base_of(source)[0])
    if os.path.exists(os.path.expanduser(source)):
        source = os.path.expanduser(source)
        if not (Path(source) / "config.json").is_file():
            raise WorkbookError(f"{source} is not a model folder: it has no config.json.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(os.path.expanduser(spoken), trust_remote_code=False)
        format_prompt(tokenizer, "A question?")  # a chat template is a program, which may fail
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **options)
        for name, value in config.to_dict().items():  # rollout and update must see the same network
            if isinstance(value, float) and ("dropout" in name or "pdrop" in name or name == "layerdrop"):
                setattr(config, name, 0.0)
        model = cls.from_pretrained(
            source, config=config, use_safetensors=True, dtype=torch.float32, trust_remote_code=False
        )
    except Exception as e:  # whatever a damaged or foreign folder makes the libraries say
        reason = str(e).strip().splitlines()[0][:300] if str(e).strip() else type(e).__name__
        raise WorkbookError(
            f"The model {shown(source, 300)}{whose} cannot be loaded. It must be a model folder with safetensors "
            f"weights, or the id of one on the Hugging Face hub. ({reason})"
        ) from None
    if tokenizer.eos_token_id is None:
        raise WorkbookError(f"The tokenizer of {source!r} has no end-of-text token, so answers could not end.")
    if tokenizer.pad_token_id is None:  # attention masks, not this id, say what is padding
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.to(device).eval(), tokenizer


def load_model(source, device="cpu", lora=0):
    """A causal language model and its tokenizer, in fp32, eval mode, dropout off; `lora`: see `lora.fit`.

    Raises WorkbookError when `source` is neither a model folder nor a reachable hub id, and when the model is
    not a decoder-only one.
    """
    model, tokenizer = _load(AutoModelForCausalLM, source, device)
    if not is_causal(model):
        raise WorkbookError(
            f"The model {str(source)!r} reads a text in both directions, so it can write none. Choose "
            "a decoder-only language model, such as a GPT-2, Llama or Qwen."
        )
    return adapters.fit(model, source, lora), tokenizer


@torch.no_grad()
def is_causal(model):
    """Whether a token changes nothing of what the model says before it, tried on four tokens."""
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=next(model.parameters()).device)
    first, second = model(ids % model.config.vocab_size).logits.float()
    changes = (first - second).abs().amax(-1)
    return bool((changes[:3] <= 1e-4 * changes[3]).all())


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
    """A reward model (one number per sequence) and its tokenizer; started from a language model,
    its score head is new and drawn from N(0, 1/(d+1)) (Stiennon et al. 2020).  lora: see `lora.fit`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, tokenizer = _load(AutoModelForSequenceClassification, source, device, num_labels=1)
    if not any(n.endswith("ForSequenceClassification") for n in model.config.architectures or []):
        torch.nn.init.normal_(model.score.weight, std=(model.score.in_features + 1) ** -0.5)
    if tokenizer.pad_token_id == tokenizer.eos_token_id:  # plain transformers would take the real end for padding;
        model.config.pad_token_id = None  # without a pad token it reads the last one, and refuses batches
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
        (folder / "README.md").write_text(card, encoding="utf-8")
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


def context_length(model):
    """The most tokens that a model reads at once."""
    return getattr(model.config, "max_position_embeddings", None) or 2048


# ---------------------------------------------------------------- text to tokens


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


def prompts_ids(tokenizer, prompts):
    """Token ids of formatted prompts, a list each, with exactly one BOS where the tokenizer asks for one."""
    if not all(isinstance(p, str) and p.strip() for p in prompts):
        raise WorkbookError("An empty prompt can't be answered. Type a question.")
    texts = [format_prompt(tokenizer, encodable(p)) for p in prompts]
    rows = tokenizer(texts, add_special_tokens=not tokenizer.chat_template)["input_ids"] if texts else []
    bos = tokenizer.bos_token_id  # some templates leave it to the tokenizer, others write it
    wanted = [bos] if tokenizer("")["input_ids"][:1] == [bos] else []
    return [ids if ids[:1] == wanted else wanted + ids for ids in rows]


def prompt_ids(tokenizer, prompt):
    """Token ids of one formatted prompt; see `prompts_ids`."""
    return prompts_ids(tokenizer, [prompt])[0]


def responses_ids(tokenizer, responses):
    """Token ids of answers, a list each, end-of-text included."""
    space = "" if tokenizer.chat_template else " "
    said = [space + encodable(response) for response in responses]
    rows = tokenizer(said, add_special_tokens=False)["input_ids"] if said else []
    return [ids + [tokenizer.eos_token_id] for ids in rows]


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


def position_ids(mask):
    """Position of each token among the real ones, (rows, columns); padding gets 0."""
    return (mask.cumsum(-1) - 1).clamp(min=0)
