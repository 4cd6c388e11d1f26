"""Small models with random weights of many families, as folders; the tests of architectures share them."""

import json
import os

import matplotlib.pyplot as plt
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, GenerationConfig

from rlhf_helpers.desk import pace
from rlhf_helpers.engine import files, models
from rlhf_helpers.engine.files import ROOT
from rlhf_helpers.make import series

PROMPTS = [r["prompt"] for r in files.read_jsonl(ROOT / "data" / "general_prompts.jsonl")]
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
# of the usual names: hidden_size, num_hidden_layers ...; what a family has besides
GROUPED = {"intermediate_size": 64, "num_key_value_heads": 1, "head_dim": 16}
PLAIN = {"intermediate_size": 64, "num_key_value_heads": 1}
WINDOW = 24  # tokens that a sliding window sees, where a family has one; prompts alone are longer
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
STATES = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 28, "patch_size": 14}
LAYERS = {"sliding": ["sliding_attention", "full_attention"], "linear": ["linear_attention", "full_attention"]}
FAMILIES = {
    "gpt2": {},
    "llama": PLAIN,
    "qwen3": GROUPED,
    "gemma": GROUPED,
    "gpt_neox": {"intermediate_size": 64},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "opt_350m": {"model_type": "opt", "ffn_dim": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "gemma3_text": GROUPED | {"sliding_window": WINDOW, "layer_types": LAYERS["sliding"]},
    "gemma3": {"nested": "text_config", "vision_config": VISION | {"model_type": "siglip_vision_model"}}
    | {"mm_tokens_per_image": 4, "sliding_window": WINDOW, "layer_types": LAYERS["sliding"]}
    | GROUPED,
    "gemma2": GROUPED | {"sliding_window": WINDOW, "layer_types": LAYERS["sliding"]},
    "mistral": PLAIN | {"sliding_window": WINDOW},
    "phi3": PLAIN | {"sliding_window": WINDOW},
    "olmo3": PLAIN | {"sliding_window": WINDOW, "layer_types": LAYERS["sliding"]},
    "granite": PLAIN,
    "cohere": PLAIN,
    "cohere2": PLAIN | {"sliding_window": WINDOW, "layer_types": LAYERS["sliding"]},
    "olmoe": PLAIN | {"num_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": GROUPED
    | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW, "layer_types": LAYERS["sliding"]},
    "lfm2": PLAIN | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "qwen3_next": GROUPED
    | EXPERTS
    | {"layer_types": LAYERS["linear"], "shared_expert_intermediate_size": 16, "decoder_sparse_step": 1}
    | {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "granitemoehybrid": PLAIN
    | STATES
    | {"layer_types": ["mamba", "attention"], "num_local_experts": 0, "shared_intermediate_size": 64},
    "falcon_h1": PLAIN | STATES | {"mamba_d_ssm": 64},
    "bamba": PLAIN | STATES | {"attn_layer_indices": [1]},
    "mamba": {"state_size": 8, "expand": 2, "time_step_rank": 4},
    "mamba2": {"state_size": 8, "expand": 2, "num_heads": 4, "head_dim": 16, "n_groups": 1},
    "rwkv": {"attention_hidden_size": 32, "intermediate_size": 64},
    "bart_decoder": {"model_type": "bart", "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2}
    | {"decoder_ffn_dim": 64, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
    | {"is_encoder_decoder": False, "is_decoder": True},
    "qwen3_5": {"nested": "text_config", "vision_config": {"hidden_size": 16, "depth": 1, "num_heads": 2}}
    | {"intermediate_size": 64, "out_hidden_size": 32}
    | GROUPED
    | {"layer_types": LAYERS["linear"], "linear_num_key_heads": 2, "linear_num_value_heads": 2}
    | {"linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "mistral3": {"nested": "text_config", "vision_config": VISION | {"model_type": "pixtral"}}
    | {"model_type": "mistral"}
    | GROUPED,
    "smolvlm": {"nested": "text_config", "vision_config": VISION, "model_type": "llama"} | PLAIN,
    "bloom": {"n_head": 2, "n_layer": 2},
    "mpt": {"d_model": 32, "n_heads": 2, "n_layers": 2, "max_seq_len": 512},
    "mixtral": PLAIN | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": GROUPED | EXPERTS,
    "deepseek_v3": GROUPED
    | {"num_key_value_heads": 2, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
    | {"v_head_dim": 16, "head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    | {"moe_intermediate_size": 16, "first_k_dense_replace": 1},
    "xglm": {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 2},
    "falcon": {"ffn_hidden_size": 64},
    "glm4": GROUPED,
    "smollm3": PLAIN,
    "starcoder2": PLAIN,
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8, "n_inner": 64},
    "ctrl": {"n_embd": 32, "dff": 64, "n_layer": 2, "n_head": 2, "n_positions": 512},
}
PICTURES = {"qwen3_5", "mistral3", "smolvlm"}  # written as models for pictures and text
# what else is put before a text, and how it is rendered: (has a pad token, puts a BOS before a text, chat template)
KINDS = {
    "gpt2": (False, False, None),
    "llama": (False, True, "{{ bos_token }}" + TEMPLATE),
    "qwen3": (True, False, TEMPLATE),
    "gemma": (True, True, TEMPLATE),
    "gpt_neox": (False, False, None),
    "opt": (True, True, None),
}


def tokenizer_for(name):
    """A byte-level tokenizer of 400 tokens, with the special tokens that the architecture usually comes with."""
    pad, bos, template = KINDS.get(name, (True, False, TEMPLATE))
    tokenizer = models.new_tokenizer(PROMPTS, vocab_size=400)
    tokenizer.chat_template = template
    tokenizer.pad_token = tokenizer.pad_token if pad else None
    if bos:
        tokenizer.add_special_tokens({"bos_token": "<s>"})
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
    else:
        tokenizer.bos_token = tokenizer.eos_token if name != "qwen3" else None
    return tokenizer


def config_for(name, tokenizer, context=512, layers=2):
    """A small configuration of a family."""
    own = dict(FAMILIES[name])
    nested = own.pop("nested", None)
    kind = name if nested else own.pop("model_type", name)
    tokens = {f"{x}_token_id": getattr(tokenizer, f"{x}_token_id") for x in ("eos", "bos", "pad")}
    usual = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2}
    usual |= {"vocab_size": len(tokenizer), "max_position_embeddings": context, "n_positions": context} | tokens
    usual |= own
    if kind == "gpt2":
        usual |= {"n_embd": 32, "n_layer": layers, "n_head": 2}
        for field in ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
            usual.pop(field)
    else:
        usual.pop("n_positions") if "n_positions" not in own else None
    if kind in ("mpt", "ctrl", "bloom"):
        for field in ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
            usual.pop(field)
        usual |= {"hidden_size": 32} if kind == "bloom" else {}
    if nested:
        outer = {field: usual.pop(field) for field in ("vision_config", "mm_tokens_per_image") if field in usual}
        return AutoConfig.for_model(kind, **{nested: usual}, **outer, **tokens)
    return AutoConfig.for_model(kind, **usual)


def language_model(folder, name, context=512, layers=2):
    """Write a small model with random weights and its tokenizer as a folder; the answers may end with two tokens."""
    tokenizer = tokenizer_for(name)
    torch.manual_seed(0)
    written_as = AutoModelForImageTextToText if name in PICTURES else AutoModelForCausalLM
    model = written_as.from_config(config_for(name, tokenizer, context, layers))
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|user|>")]
    model.generation_config = GenerationConfig(
        eos_token_id=ends, bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def chapter(path, parameters):
    """Run the code cells of a chapter in this process, in an IPython of its own; raises what a cell raises.

    A kernel for each would take longer than the chapters of these models.
    """
    nb = json.loads(path.read_text(encoding="utf-8"))
    shell, here = InteractiveShell.instance(), os.getcwd()
    os.chdir(path.parent)
    try:
        with capture_output():
            for cell in (c for c in nb["cells"] if c["cell_type"] == "code"):
                shell.run_cell("".join(cell["source"])).raise_error()
                if "parameters" in cell["metadata"].get("tags", ()):
                    shell.user_ns.update(parameters)
    finally:
        os.chdir(here)
        plt.close("all")
        InteractiveShell.clear_instance()


def through(folder, runs, only=("02", "03", "04", "05", "06")):
    """{chapter: "" or what stopped it} of chapters in their shortest form; none is run after one that stopped.

    The model counts as a very slow one, so that all counts are the least.
    """
    said, speed = {}, pace.speed
    pace.speed = lambda *a: (100.0, 100.0)
    try:
        for path in series.chapters(only):
            name = path.stem[:2] if path.stem[:2] in only else path.stem
            try:
                chapter(path, {"FAST": True, "MODEL": str(folder), "RUNS_DIR": str(runs)})
                said[name] = ""
            except Exception as e:
                said[name] = f"{type(e).__name__}: {e}"
                break
    finally:
        pace.speed = speed
    return said
