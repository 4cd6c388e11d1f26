"""The settings of what ships in `data/` and of what the chapters make in the same way; chosen on dev questions."""

from ..lesson import ppo, reward
from ..lesson.pairs import simulated_feedback
from ..world.annotators import labellers

CORPUS_DOCUMENTS, DEMONSTRATIONS, PAIRS, LABELLED = 16_000, 10_000, 1_000, 16_000
PRETRAINING = {"steps": 900, "lr": 3e-3, "batch_size": 32, "length": 96}
FINE_TUNING = {"steps": 900, "lr": 1e-3, "batch_size": 64}
READ_AGAIN = {"every": 2, "batch_size": 24}  # these batches are of the pre-training text, or its facts are forgotten
COOL_DOWN = {"steps": 200, "lr": 2e-4, "batch_size": 64}  # the end of fine-tuning: smaller steps, fewer slips
LESSONS = ((24_000, 0.8), (20_000, 0.45))  # rows without and with the crowd's words, and which share is proofreading
LESSONS_TRAINING = {"epochs": 1, "batch_size": 64, "lr": 1e-3, "scores": reward.ending_scores}
REMARKED = (64_000, 0.3)  # answers of the crowd with remarks on them: to learn to see what is in an answer
REMARKS_TRAINING = {"lr": 1e-3, "batch_size": 64}
REFRESHER = 12_000  # such rows after the remarks, in smaller steps
REHEARSAL = 8_000  # such rows among the labels, so that the facts are not forgotten over them
REWARD = {"epochs": 2, "batch_size": 32, "lr": 1e-4}
PPO = ppo.Settings(updates=120, lr=2e-4, beta=0.03)


def card(title, what, metrics, seed):
    """A model card: how it was made and what it scores."""
    lines = "\n".join(f"| {k.replace('_', ' ')} | {v:.3f} |" for k, v in metrics.items())
    return (
        f"---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n\n# {title}\n\n{what}\n\n"
        f"Made by `python -m rlhf_helpers.make.build --seed {seed}`. On texts and prompts that it did not learn from: "
        "*reworded* are questions that training asked in other words, *test* are questions that it asked in none.\n\n"
        f"| measure | value |\n|---|---|\n{lines}\n\nIt knows only the embedded world of the RLHF Workbook "
        "(see `data/README.md`) and is for learning, not for use.\n"
    )


def relabelled(labels, taste, seed=0):
    """The pairs of `labels` (each holds its own), labelled anew by another taste; what it finds equal is a tie."""
    return simulated_feedback(labels, labellers(taste, seed, ties=True), seed)
