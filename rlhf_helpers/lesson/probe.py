"""A reward model for a few dozen labels: one linear layer on the states of a frozen language model.

Sixty-four choices can't steer a million weights.  So the model stays as it is, and only the last layer is
learned, as a logistic regression on the difference of two answers with a normal prior on its weights (ridge):
the Bradley–Terry loss of `reward`, with one minimum that Newton's method finds in a second.  A tie is a label
too: its target is one half.  What the model reads of an answer is taken over all its tokens, not the last one
only, because a taste may lie anywhere in it.  Of a reward model it is the state that its score is read from, not
the score: what was seen counts, not what it was thought to be worth.
"""

import torch
import torch.nn.functional as F

from ..engine.arithmetic import autocast
from ..engine.models import context_length, pad, position_ids, prompts_ids
from . import reward

PRIOR_VARIANCE = 1.25  # of an answer's score before any label, in equal parts from each model that is read
RIDGE = 1.0  # a standard normal prior on each weight


@torch.no_grad()
def hidden_states(model, tokenizer, prompts, responses, batch_size=64):
    """What a frozen model computes for answers given as text, in batches of like length.

    Yields (which answers, hidden states of all layers (answers, tokens, width), mask of the answers' own tokens).
    Of an answer that is too long, the beginning is read.
    """
    device, limit = next(model.parameters()).device, context_length(model)
    rows = reward.readable_ids(tokenizer, prompts, responses, limit)
    starts = torch.tensor([len(asked) for asked in prompts_ids(tokenizer, prompts)], device=device)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for i in range(0, len(rows), batch_size):
        some = order[i : i + batch_size]
        ids, mask = pad([rows[j] for j in some], tokenizer.pad_token_id, device=device)
        with autocast(model):
            states = model.base_model(
                ids, attention_mask=mask, position_ids=position_ids(mask), output_hidden_states=True
            ).hidden_states
        yield some, states, mask * (torch.arange(ids.shape[1], device=device) >= starts[some][:, None])


def features(model, tokenizer, prompts, responses):
    """What a frozen language model reads of answers given as text: a float tensor (answers, 4 * width) on the CPU.

    Mean and sum, over the tokens of the answer, of the token embeddings and of the last hidden states: which words
    there are, what they mean here, and how many.
    """
    out = {}
    for some, states, said in hidden_states(model, tokenizer, prompts, responses):
        said = said[:, :, None].float()
        sums = torch.cat([(h.float() * said).sum(1) for h in (states[0], states[-1])], 1)
        out.update(zip(some, torch.cat([sums / said.sum(1), sums], 1).cpu()))
    return torch.stack([out[i] for i in range(len(prompts))])


def last_states(model, tokenizer, prompts, responses):
    """The states that a reward model reads its scores from, those of the last tokens: (answers, width) on the CPU."""
    out = {}
    for some, states, said in hidden_states(model, tokenizer, prompts, responses):
        last = (said * torch.arange(said.shape[1], device=said.device)).argmax(-1)
        out.update(zip(some, states[-1][torch.arange(len(some), device=last.device), last].float().cpu()))
    return torch.stack([out[i] for i in range(len(prompts))])


def logistic_weights(differences, targets, ridge=RIDGE, steps=50):
    """Weights (features,) of the penalised logistic regression, by Newton's method.

    differences: (pairs, features) of left minus right; targets: (pairs,), 1 left is better, 0 right is, 1/2 a tie.
    """
    x, t = differences.double(), targets.double()
    w = torch.zeros(x.shape[1], dtype=x.dtype)
    eye = ridge * torch.eye(x.shape[1], dtype=x.dtype)
    for _ in range(steps):
        p = torch.sigmoid(x @ w)
        step = torch.linalg.solve(x.T @ ((p * (1 - p))[:, None] * x) + eye, x.T @ (p - t) + ridge * w)
        w = w - step
        if step.norm() < 1e-8:
            break
    return w.float()


class Probe:
    """A linear reward model on the frozen `model` and, if there is one, on what a `reward_model` sees in an answer.

    prompts, responses: answers of `model`, from which the features get their scale; no label is needed for that.
    `learn(rows)` sets the weights; calling it gives scores (answers,), as `reward.score` does.
    """

    def __init__(self, model, tokenizer, prompts, responses, reward_model=None):
        self.model, self.tokenizer, self.reward_model = model, tokenizer, reward_model
        kinds = self.see(prompts, responses)
        x, self.weights = torch.cat(kinds, 1), None
        self.low, self.high = x.min(0).values, x.max(0).values
        part = PRIOR_VARIANCE / len(kinds)
        self.scale = torch.cat([(part / k.shape[1]) ** 0.5 / k.std(0).clamp_min(1e-3) for k in kinds])

    def see(self, prompts, responses):
        """Features as they are: one tensor (answers, features) for each model."""
        kinds = [features(self.model, self.tokenizer, prompts, responses)]
        if self.reward_model is not None:
            kinds.append(last_states(self.reward_model, self.tokenizer, prompts, responses))
        return kinds

    def read(self, prompts, responses):
        """Features in the scale of the prior: (answers, features).

        Each is held within the range that it had on the answers given at the start: a straight line drawn through
        them says nothing about what lies beyond, and PPO would go there.
        """
        return torch.cat(self.see(prompts, responses), 1).clamp(self.low, self.high) * self.scale

    def learn(self, rows):
        """Learn from preference rows, ties included (see `feedback.tie_rows`); returns loss and accuracy.

        The accuracy is that on the rows themselves, ties left out.
        """
        reward.check_preferences(rows)
        prompts = [r["prompt"] for r in rows]
        gaps = self.read(prompts, [r["chosen"] for r in rows]) - self.read(prompts, [r["rejected"] for r in rows])
        targets = torch.tensor([0.5 if r.get("tie") else 1.0 for r in rows])
        self.weights = logistic_weights(gaps, targets)
        margins, decided = gaps @ self.weights, targets == 1
        return {
            "loss": F.binary_cross_entropy_with_logits(margins, targets).item(),
            "accuracy": (margins[decided] > 0).float().mean().item(),
        }

    def __call__(self, prompts, responses):
        return self.read(prompts, responses) @ self.weights
