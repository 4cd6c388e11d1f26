"""Handing the work to an existing engine: exports for TRL, configurations for Accelerate, and what it all costs.

    accelerate launch --config_file CONFIG.yaml -m rlhf_helpers.desk.scale reward|policy FOLDER

runs TRL's RewardTrainer or RLOOTrainer on what chapter 07 exported to FOLDER, in as many processes as the
configuration says.  Which part of the work a process does, and how they agree on the weights, is left to torch,
Accelerate and TRL.  TRL is imported inside the functions that need it, so that the workbook runs without it.
"""

import argparse
import importlib.util
import inspect
import json
import math
import os
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import torch

from ..engine.files import ROOT, WorkbookError, read_jsonl, shown, versions, write_json, write_text
from ..engine.models import format_prompt
from ..lesson import edited

ENGINE = ("trl", "accelerate", "datasets")
INSTALL = 'python -m pip install -c constraints/scale.txt -e ".[scale]"'


def missing():
    """The modules of the engine that are not installed here, as a list of names."""
    found = {name: importlib.util.find_spec(name) for name in ENGINE}
    return [name for name, spec in found.items() if spec is None or spec.origin is None]  # a mere folder has no origin


# ---------------------------------------------------------------- exports


def prompt_row(tokenizer, prompt):
    """A prompt in TRL's format: chat messages where the tokenizer has a template for them, else plain text."""
    if tokenizer.chat_template:
        return {"prompt": [{"role": "user", "content": prompt}]}
    return {"prompt": format_prompt(tokenizer, prompt)}


def preference_row(tokenizer, row):
    """A preference {"prompt", "chosen", "rejected"} in TRL's format; the end of an answer is added by TRL."""

    def answer(text):
        if tokenizer.chat_template:
            return [{"role": "assistant", "content": text}]
        return " " + text

    return {
        **prompt_row(tokenizer, row["prompt"]),
        "chosen": answer(row["chosen"]),
        "rejected": answer(row["rejected"]),
    }


# ---------------------------------------------------------------- configurations

LOCALHOST = "127.0.0.1"
FSDP = {
    "fsdp_version": 2,
    "fsdp_reshard_after_forward": True,
    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "fsdp_state_dict_type": "FULL_STATE_DICT",
    "fsdp_cpu_ram_efficient_loading": True,
    "fsdp_offload_params": False,
    "fsdp_activation_checkpointing": False,
}


def launch_config(processes, machines=1, rank=0, address=LOCALHOST, cpu=False, sharded=False):
    """Settings of `accelerate launch` for `processes` in all, shared out over `machines`, as a dict.

    rank: which of the machines this file is for; address: of the machine with rank 0.  sharded: weights, gradients
    and optimiser are cut up over the processes (FSDP) instead of copied to each.  Raises WorkbookError when the
    processes can't be shared out evenly.
    """
    if processes < 1 or machines < 1 or processes % machines:
        raise WorkbookError(f"{processes} processes can't be shared out evenly over {machines} machines.")
    kind = "FSDP" if sharded else "MULTI_GPU" if processes > 1 else "NO"
    config = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": kind,
        "num_machines": machines,
        "num_processes": processes,
        "machine_rank": rank,
        "use_cpu": cpu,
        "mixed_precision": "no" if cpu else "bf16",
        "main_process_port": 29500 if machines > 1 else 0,
    }  # 0: any free port
    if machines > 1:
        config |= {"main_process_ip": address, "rdzv_backend": "static"}
        config["same_network"] = True
    if sharded:
        config["fsdp_config"] = dict(FSDP)
    return config


def config_text(config):
    """A configuration as YAML: one setting a line, those of FSDP indented."""
    lines = []
    for name, value in config.items():
        inner = value.items() if isinstance(value, dict) else ()
        lines.append(f"{name}:" if inner else f"{name}: {json.dumps(value)}")
        lines += [f"  {k}: {json.dumps(v)}" for k, v in inner]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- what every process runs


def common_arguments(folder, settings):
    """Arguments of both trainers; batch sizes in `settings` are over all processes together."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if settings["batch_size"] % processes:
        raise WorkbookError(f"A batch of {settings['batch_size']} can't be shared out over {processes} processes.")
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(folder),
        "seed": settings["seed"],
        "learning_rate": settings["lr"],
        "per_device_train_batch_size": settings["batch_size"] // processes,
        "max_grad_norm": 1.0,
        "use_cpu": not gpu,
        "bf16": gpu,
        "gradient_checkpointing": gpu,
        "dataloader_pin_memory": gpu,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
    }


def train_reward(folder):
    """Train `folder`/models/reward_start on `folder`/preferences.jsonl with TRL; the result goes to trl_reward."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    settings = json.loads((folder / "settings.json").read_text())["reward"]
    trainer = RewardTrainer(
        model=str(folder / "models" / "reward_start"),
        train_dataset=Dataset.from_list(read_jsonl(folder / "preferences.jsonl")),
        args=RewardConfig(
            **common_arguments(folder / "trl_reward", settings),
            num_train_epochs=settings["epochs"],
            center_rewards_coefficient=settings["center"],
            max_length=settings["max_length"],
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": 0.1},
            warmup_steps=0.05,
            adam_beta2=0.98,
            weight_decay=0.01,
        ),
    )
    finish(trainer, folder / "trl_reward")


def train_policy(folder):
    """Train `folder`/models/finetuned by RLOO with TRL: prompts from prompts.jsonl, judged by the reward model."""
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    settings = json.loads((folder / "settings.json").read_text())["policy"]
    trainer = RLOOTrainer(
        model=str(folder / "models" / "finetuned"),
        reward_funcs=str(folder / settings["judge"]),
        train_dataset=Dataset.from_list(read_jsonl(folder / "prompts.jsonl")),
        args=RLOOConfig(
            **common_arguments(folder / "trl_policy", settings),
            max_steps=settings["updates"],
            num_generations=settings["answers"],
            max_completion_length=settings["max_new_tokens"],
            beta=settings["beta"],
            lr_scheduler_type="linear",
            adam_beta2=0.95,
            adam_epsilon=1e-5,
            weight_decay=0.0,
            disable_dropout=True,
        ),
    )
    finish(trainer, folder / "trl_policy")


def check_judge(folder):
    """Raise WorkbookError unless the judge that `folder`/settings.json names lies inside of `folder`."""
    name = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["policy"]["judge"]
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise WorkbookError(f"The judge {shown(name)} in settings.json lies outside of {folder}; name a folder in it.")


def finish(trainer, folder):
    """Train, then save the model and the run (seconds, processes, back end, seed, versions, one row per step)."""
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    trainer.save_model(str(folder))
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if trainer.is_world_process_zero():
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; model folders here have none
        write_json(
            folder / "run.json",
            {
                "seconds": seconds,
                "processes": torch.distributed.get_world_size() if together else 1,
                "backend": torch.distributed.get_backend() if together else "none",
                "seed": trainer.args.seed,
                "versions": versions() | {name: metadata.version(name) for name in ENGINE},
                "history": trainer.state.log_history,
            },
        )
    if together:  # a process that ends while the others still speak to it is aborted
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


# ---------------------------------------------------------------- starting them


def launch_command(config, what, folder):
    """The command, as a list, that runs `what` ("reward" or "policy") on `folder` as the file `config` says."""
    return [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(config),
        "-m",
        "rlhf_helpers.desk.scale",
        what,
        str(folder),
    ]


PROCESS = ("common_arguments", "train_reward", "train_policy", "finish", "check_judge")  # what the processes run


def hand_over_edits(folder):
    """Write those functions of PROCESS that were edited in chapter 07 to FOLDER/edits.py, which every process reads."""
    changed = [inspect.getsource(globals()[name]) for name in PROCESS if edited(__name__, name)]
    source = "\n\n".join(re.sub(r"(?m)^@drives\(\w+\)\n", "", text) for text in changed)
    write_text(folder / "edits.py", source)


def launch(config, what, folder):
    """Run the command and wait; what it prints goes to FOLDER/`what`.log.  Returns its run.json as a dict.

    The processes use the functions of chapter 07 as they stand in its cells (see `hand_over_edits`).

    Raises WorkbookError, with the last line of the log, when it fails or the engine is not installed.
    """
    if missing():
        raise WorkbookError(f"{', '.join(missing())} is not installed here. Run: {INSTALL}")
    folder, log = Path(folder), Path(folder) / f"{what}.log"
    hand_over_edits(folder)
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if "use_cpu: true" in Path(config).read_text(encoding="utf-8") else {}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {"PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen(
            launch_command(config, what, folder),
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | quiet | hidden,
        )
        try:
            code = process.wait()
        except BaseException:  # an interrupt: the launcher ends its processes when it is asked to end
            process.terminate()
            process.wait()
            raise
    if code:
        lines = [s for s in log.read_text(encoding="utf-8", errors="replace").splitlines() if "Error" in s]
        raise WorkbookError(
            f"TRL's run stopped ({lines[0].strip() if lines else f'code {code}'}); what it said is in {log}."
        )
    return json.loads((folder / f"trl_{what}" / "run.json").read_text(encoding="utf-8"))


# ---------------------------------------------------------------- what it costs


def count_parameters(layers, width, inner, heads, kv_heads, vocab, gated=True, tied=False, **_):
    """Parameters of a decoder-only transformer from its shape; biases and norms (below 1 %) are left out."""
    attention = width * width * (2 + 2 * kv_heads / heads)
    feed_forward = (3 if gated else 2) * width * inner
    embeddings = (1 if tied else 2) * vocab * width
    return layers * (attention + feed_forward) + embeddings


def training_bytes(policy, judge, value=0):
    """Bytes for the weights of one RLHF run and their helpers; the arguments are numbers of parameters.

    What learns (policy, value network) takes 16 bytes a parameter with Adam in mixed precision: weight 2,
    gradient 2, and in fp32 weight 4 and two moments 8 (Rajbhandari et al. 2020).  What is frozen (the reference,
    as large as the policy, and the reward model) takes 2.
    """
    return 16 * (policy + value) + 2 * (policy + judge)


def cache_bytes(layers, width, heads, kv_heads, **_):
    """Bytes of keys and values (bf16) that generation keeps per token."""
    return 2 * 2 * layers * kv_heads * width // heads


def update_flops(policy, judge, prompt, answer, epochs=1):
    """Arithmetic (FLOP) for one answer: `prompt` and `answer` in tokens, the models in parameters.

    A forward pass takes 2 FLOP a parameter and token, a training step 6 (Kaplan et al. 2020).  Policy, reference
    and reward model read the answer once each, and the policy learns.  Writing is not in it: see `decoding_seconds`.
    """
    tokens = prompt + answer
    return tokens * (2 * policy + 2 * policy + 2 * judge + 6 * policy * epochs)


def decoding_seconds(parameters, cache, batch, prompt, answer, bandwidth, flops):
    """Seconds to write `batch` answers: reading from memory or arithmetic, whichever is slower.

    Each token step reads the weights (bf16) and all caches once; the mean cache holds the prompt and half of the
    answer.  The arithmetic is a forward pass over prompt and answer.  bandwidth: bytes, flops: operations a second,
    of all the cards together.
    """
    read = answer * (2 * parameters + cache * batch * (prompt + answer / 2))
    work = 2 * parameters * batch * (prompt + answer)
    return max(read / bandwidth, work / flops)


def cards_needed(needed, card=80e9, share=0.6):
    """Cards of `card` bytes that hold `needed` bytes, if a `share` of each is free for them; a power of two."""
    return 2 ** max(0, math.ceil(math.log2(needed / (card * share))))


def main():
    parser = argparse.ArgumentParser(description="What each process of `accelerate launch` runs.")
    parser.add_argument("what", choices=("reward", "policy"))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    folder = options.folder.resolve()
    if (folder / "edits.py").exists():
        exec(compile((folder / "edits.py").read_text(encoding="utf-8"), "edits.py", "exec"), globals())
    if options.what == "policy":
        check_judge(folder)
    {"reward": train_reward, "policy": train_policy}[options.what](folder)


if __name__ == "__main__":
    main()
