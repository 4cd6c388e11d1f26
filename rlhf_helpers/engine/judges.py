"""Reward models of every kind: a head of our own where an architecture has none, and ready ones from elsewhere.

A reward model is read in one way everywhere: `model.base_model` gives a vector for each token, and `model.score` makes
one number of it.  That is how transformers' own classifiers of decoder-only models are built.  Where an architecture
has none, `own_head` builds it in the same form.  What reads in both directions, such as a DeBERTa, or keeps its head
under another name, is taken as a whole (`Whole`).
"""

from types import SimpleNamespace

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PreTrainedModel,
)
from transformers.modeling_layers import GenericForSequenceClassification

from .files import WorkbookError, shown
from .trials import is_causal

ENDING = "ForSequenceClassification"
GOOD = {"positive", "good", "chosen", "safe", "correct", "helpful", "preferred", "better", "acceptable", "yes", "true"}
BAD = {"negative", "bad", "rejected", "unsafe", "incorrect", "unhelpful", "worse", "toxic", "harmful", "no", "false"}


def is_ready(config):
    """Whether a folder holds a classifier, rather than a language model."""
    return any(name.endswith(ENDING) for name in config.architectures or [])


def language_class(config):
    """(the class of a language model of this configuration, the configuration that it takes: whole, or of its text).

    Of a model for pictures and text the whole is taken where there is no class for the text alone.
    """
    for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING):
        if type(config) in mapping:
            language = mapping[type(config)]
            return language, config if isinstance(config, language.config_class) else config.get_text_config()
    raise ValueError(f"{config.model_type} is no language model")


def class_of(config):
    """(the class that a reward model of this configuration is loaded with, the configuration that it takes)."""
    theirs = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if is_ready(config) and theirs is not None and theirs.__name__ in config.architectures:
        return theirs, config
    ready, (_, config) = is_ready(config), language_class(config)
    theirs = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if theirs is not None and not ready:
        with torch.device("meta"):
            if isinstance(getattr(theirs(config), "score", None), torch.nn.Linear):
                return theirs, config
    return own_head(config, theirs), config


def own_head(config, theirs=None):
    """A class like transformers' own classifiers: the body of a language model, and `score` on its last vector.

    theirs: the one that transformers has under the usual name, but in another form.
    """
    language, _ = language_class(config)
    with torch.device("meta"):
        whole = language(config)
    parent = next(c for c in language.__mro__ if c.__name__.endswith("PreTrainedModel") and c is not PreTrainedModel)
    prefix, within = next((n, child) for n, child in whole.named_children() if isinstance(child, PreTrainedModel))
    body, nested = type(within), within.config is not config
    width = whole.get_output_embeddings().weight.shape[1]

    def build(self, config):
        parent.__init__(self, config)
        self.num_labels = config.num_labels
        setattr(self, prefix, body(config.get_text_config() if nested else config))
        self.score = torch.nn.Linear(width, config.num_labels, bias=False)
        self.post_init()

    stem = language.__name__.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    name = stem.removesuffix("ForConditionalGeneration") + ("Score" if theirs else "") + ENDING
    fields = {"__init__": build, "base_model_prefix": prefix, "__module__": language.__module__, "own": True}
    return type(name, (GenericForSequenceClassification, parent), fields)


def of_the_language_model(config):
    """The names of the weights that a language model of this configuration has, in a folder or in memory."""
    language, config = language_class(config)
    with torch.device("meta"):
        return {"embed_out.weight", *language(config).state_dict()}


HOW_TO_LOAD = """
## To load it with transformers alone

Transformers has no `{name}`, so this folder holds the body of the language model and the one weight of
its score, a vector:

```python
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

tokenizer, body = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
score = load_file(f"{{folder}}/model.safetensors")["score.weight"][0]
ids = tokenizer("a prompt and its answer, as the model was trained", return_tensors="pt")["input_ids"]
print(body(ids).last_hidden_state[0, -1] @ score)
```
"""


def how_to_load(model):
    """What the card of a model says of loading it, where transformers has no class for it; else nothing."""
    return HOW_TO_LOAD.format(name=type(model).__name__) if getattr(model, "own", False) else ""


# ---------------------------------------------------------------- ready ones from elsewhere


def signs(config, source):
    """What the score makes of the labels of a classifier, a factor each: [1.0], or good less bad.

    Raises WorkbookError where there are more than two.
    """
    names = [str(config.id2label.get(i, i)) for i in range(config.num_labels)]
    if len(names) == 1:
        return [1.0]
    if len(names) > 2:
        raise WorkbookError(
            f"The reward model {shown(str(source), 300)} has {len(names)} labels ({', '.join(names[:8])}), and a "
            "reward is one number. Choose one with a single output, or with two labels, one good and one bad."
        )
    first, second = (name.lower() for name in names)
    turned = first in GOOD or second in BAD or first in {f"non-{second}", f"not {second}", f"not_{second}"}
    kept = [1.0, -1.0] if turned else [-1.0, 1.0]
    better, worse = names if turned else names[::-1]
    print(f"The reward model {shown(str(source), 300)} has two labels; its score is {better} less {worse}.")
    return kept


def as_judge(model, tokenizer, factors, source):
    """A ready classifier in the form in which reward models are read; it says so where that is another one."""
    head = getattr(model, "score", None)
    if isinstance(head, torch.nn.Linear) and is_causal(model, lambda ids: model.base_model(ids).last_hidden_state):
        if len(factors) > 1:
            model.score = _one(head, factors)
            model.num_labels = model.config.num_labels = 1
        return model
    if model.config.is_encoder_decoder:
        raise WorkbookError(
            f"The reward model {shown(str(source), 300)} is an encoder-decoder ({type(model).__name__}), which can't "
            "be used here. Choose a decoder-only one, or an encoder such as a DeBERTa."
        )
    tokenizer.frame = frame(tokenizer)
    print(f"The reward model {shown(str(source), 300)} is a {type(model).__name__}; it reads prompt and answer whole.")
    return Whole(model, tokenizer.sep_token_id, factors).eval()


def _one(head, factors):
    """A linear layer with one output, the sum of those of `head` by `factors`."""
    one = torch.nn.Linear(head.in_features, 1, bias=head.bias is not None, device=head.weight.device)
    with torch.no_grad():
        by = torch.tensor([factors], device=head.weight.device)
        one.weight.copy_(by @ head.weight)
        if head.bias is not None:
            one.bias.copy_(by @ head.bias)
    return one


def frame(tokenizer):
    """What a tokenizer puts before, between and after two texts: three lists of ids."""
    one, two = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("one", "two"))
    both = tokenizer("one", "two")["input_ids"]
    i = place(both, one, 0)
    j = place(both, two, i + len(one))
    return both[:i], both[i + len(one) : j], both[j + len(two) :]


def place(ids, some, start):
    """Where the list `some` stands in the list `ids`, from `start` on; raises StopIteration if nowhere."""
    return next(i for i in range(start, len(ids)) if ids[i : i + len(some)] == some)


class Whole(torch.nn.Module):
    """A classifier that is read as a whole: what it makes of a sequence stands at each of its tokens.

    `score` is not learned; it puts the labels together.  Everything else is that of the classifier.
    """

    def __init__(self, model, separator, factors):
        super().__init__()
        self.model, self.separator = model, separator
        self.score = torch.nn.Linear(len(factors), 1, bias=False, device=model.device)
        self.score.weight = torch.nn.Parameter(torch.tensor([factors], device=model.device), requires_grad=False)
        offsets = [m for n, m in model.named_modules() if n.endswith("position_embeddings") and hasattr(m, "weight")]
        pad = next((m.padding_idx for m in offsets if m.padding_idx is not None), -1)  # RoBERTa counts from there
        self.limit = min([len(m.weight) - pad - 1 for m in offsets], default=2048)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":  # not there yet
                raise
            return getattr(self.model, name)

    def base_model(self, ids, attention_mask=None, position_ids=None):
        """What the classifier says, at every token: `last_hidden_state`, (rows, columns, labels)."""
        options = {}
        if (getattr(self.config, "type_vocab_size", 0) or 0) > 1:  # the second text has a type of its own
            ends = (ids == self.separator).long()
            options["token_type_ids"] = ((ends.cumsum(-1) - ends) > 0).long()
        logits = self.model(ids, attention_mask=attention_mask, **options).logits
        return SimpleNamespace(last_hidden_state=logits[:, None].expand(-1, ids.shape[1], -1))
