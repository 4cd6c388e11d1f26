"""Handing the work to an existing engine: exports for TRL, configurations for Accelerate, and what it all costs.

    accelerate launch --config_file CONFIG.yaml -m rlhf_helpers.desk.scale reward|policy FOLDER

runs TRL's RewardTrainer or RLOOTrainer on what "Scaling up" exported to FOLDER, in as many processes as the
configuration says.  Which part of the work a process does, and how they agree on the weights, is left to torch,
Accelerate and TRL.  TRL is imported inside the functions that need it, so that the workbook runs without it.
"""

import argparse
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import torch

from ..engine.files import ROOT, WorkbookError, read_jsonl, shown, versions, write_json, write_text
from ..lesson import edited

ENGINE = ("trl", "accelerate", "datasets")
INSTALL = 'python -m pip install -c constraints/scale.txt -e ".[scale]"'


def missing():
    """The modules of the engine that are not installed here, as a list of names."""
    found = {name: importlib.util.find_spec(name) for name in ENGINE}
    return [name for name, spec in found.items() if spec is None or spec.origin is None]  # a mere folder has no origin


# ---------------------------------------------------------------- exports


# ---------------------------------------------------------------- configurations


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
    """Write those functions of PROCESS that were edited in "Scaling up" to FOLDER/edits.py, for every process."""
    changed = [inspect.getsource(globals()[name]) for name in PROCESS if edited(__name__, name)]
    source = "\n\n".join(re.sub(r"(?m)^@drives\(\w+\)\n", "", text) for text in changed)
    write_text(folder / "edits.py", source)


def launch(config, what, folder):
    """Run the command and wait; what it prints goes to FOLDER/`what`.log.  Returns its run.json as a dict.

    The processes use the functions of that chapter as they stand in its cells (see `hand_over_edits`).

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
