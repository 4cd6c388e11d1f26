"""Same seed, same machine, same result: every stage bit for bit, in two processes that hash texts differently.

python tests/lesson/test_reproducible.py SEED FOLDER    # prints one line of JSON: {stage: SHA-256 of what it made}
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlhf_helpers import world
from rlhf_helpers.engine import models
from rlhf_helpers.engine.checkpoints import digest, digest_of
from rlhf_helpers.engine.files import ROOT
from rlhf_helpers.lesson import alternatives, feedback, lm, loop, ppo, reward
from rlhf_helpers.lesson.decoding import generate
from rlhf_helpers.lesson.pairs import make_pairs, simulated_feedback
from rlhf_helpers.make import build
from rlhf_helpers.world.annotators import Annotator

SETTINGS = ppo.Settings(updates=2, batch_size=16, minibatches=2, lr=1e-3, max_new_tokens=12)


def copy_of(folder):
    return models.load_model(folder / "finetuned")[0]


def stages(seed, folder):
    """Everything from the texts to a round of the closed loop, on a small model: {stage: SHA-256 of what it made}."""
    made = {"texts": digest_of([world.corpus(80, seed), world.demonstrations(60, seed), world.quiz(20, seed)])}
    demos, prompts = world.demonstrations(60, seed), world.prompts("train")[:200:5]
    tokenizer = models.new_tokenizer(world.corpus(80, seed), vocab_size=400)
    made["tokenizer"] = digest_of(tokenizer.backend_tokenizer.to_str())
    model = models.new_model(tokenizer, seed, layers=1, width=32, heads=2)
    made["new model"] = digest(model)
    lm.fit(model, lm.pretraining_batches(lm.blocks(tokenizer, world.corpus(80, seed), 48), 8, seed), 30, 3e-3)
    made["pre-training"] = digest(model)
    batches = lm.demonstration_batches(tokenizer, demos, 16, seed)
    lm.fit(model, batches, 20, 3e-3, loss_of=lm.padded_batch_loss(model))
    made["fine-tuning"] = digest(model)
    models.save_model(model, tokenizer, folder / "finetuned", "# tiny")
    options = {"max_new_tokens": 12, "seed": seed}
    made["sampling"] = digest_of(
        [
            generate(model, tokenizer, prompts, **options),
            loop.sample_answers(model, model, tokenizer, prompts, 12, seed),
        ]
    )
    pairs = make_pairs(model, tokenizer, prompts, 24, seed)
    labels = simulated_feedback(pairs, Annotator("brief", seed=seed), seed)
    made["pairs and labels"] = digest_of([pairs, labels])
    torch.manual_seed(seed)
    judge, _ = models.load_reward_model(folder / "finetuned")
    build.learn_remarks(judge, tokenizer, world.remarked(64, seed), seed, 1e-3, 16)
    made["remarks"] = digest(judge)
    rows = feedback.to_preferences(labels)[0]
    history = reward.train_reward_model(judge, tokenizer, rows, epochs=2, batch_size=8, lr=1e-3, seed=seed)
    made["reward model"] = digest_of([digest(judge), history])

    def score(asked, said):
        return reward.score(judge, tokenizer, asked, said)

    policy = copy_of(folder)
    history, card = ppo.train(policy, tokenizer, score, prompts, SETTINGS, seed, frozen=(judge,))
    made["PPO"] = digest_of([digest(policy), history, card])
    policy = copy_of(folder)
    made["RLOO"] = digest_of([alternatives.rloo(policy, tokenizer, score, prompts, SETTINGS, seed), digest(policy)])
    policy = copy_of(folder)
    made["DPO"] = digest_of([alternatives.dpo(policy, tokenizer, rows, batch_size=8, seed=seed), digest(policy)])
    made["best of n"] = digest_of(alternatives.best_of_n(model, tokenizer, score, prompts[:8], 3, **options))
    candidate, report = loop.one_round(
        model,
        tokenizer,
        prompts[:30],
        prompts[30:],
        Annotator("brief", seed=seed),
        loop.RoundSettings(16, 3, SETTINGS),
        seed,
    )
    made["a round of the loop"] = digest_of([digest(candidate), {k: v for k, v in report.items() if k != "seconds"}])
    return made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_stage_is_the_same_in_another_process_and_another_with_another_seed(tmp_path):
    env = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, "3", str(tmp_path / "other process")]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as other:
        here, elsewhere = stages(3, tmp_path / "here"), stages(4, tmp_path / "seed")
        there = json.loads(other.communicate()[0].splitlines()[-1])
    assert other.returncode == 0 and len(here) == 14
    assert [name for name in here if here[name] != there[name]] == []
    assert [name for name in here if here[name] == elsewhere[name]] == []


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("\n" + json.dumps(stages(int(sys.argv[1]), Path(sys.argv[2]))))
