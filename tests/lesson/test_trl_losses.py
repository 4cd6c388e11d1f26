"""TRL's losses and advantages against ours on the very batches that TRL makes (only in `make test-scale`)."""

from functools import cache

import pytest
import torch
from taught import made_by, taught

from rlhf_helpers import world
from rlhf_helpers.engine import models
from rlhf_helpers.engine.files import ROOT
from rlhf_helpers.lesson import alternatives, ppo
from rlhf_helpers.lesson.alternatives import centred, leave_one_out, mean_of_answers, standardised, sum_over

pytestmark = pytest.mark.scale
FINETUNED, LONGEST, ANSWERS = ROOT / "data/models/finetuned", 24, 4
SAME = [p for p in world.prompts("train") if len(p.split()) == 5][::40]


@cache
def asked():
    """Each of four prompts four times; they have equally many tokens, since TRL gives padding a position of its own."""
    tokenizer = models.load_model(FINETUNED, torch.device("cpu"))[1]
    lengths = [len(models.prompt_ids(tokenizer, p)) for p in SAME]
    usual = max(set(lengths), key=lengths.count)
    some = [p for p, n in zip(SAME, lengths) if n == usual][:4]
    assert len(some) == 4
    return [p for p in some for _ in range(ANSWERS)]


def scored(completions, **_):
    """A score that differs from answer to answer."""
    return [float(len(set(text.split()))) for text in completions]


def batch_of(trainer):
    """What TRL samples for `asked` and makes of it, the scores (answers,), and its loss's gradient."""
    trainer.model.eval()
    batch = trainer._generate_and_score_completions([{"prompt": p} for p in asked()])
    texts = trainer.processing_class.batch_decode(batch["completion_ids"], skip_special_tokens=True)
    return batch, torch.tensor(scored(texts))


def by_us(model, batch):
    """Our log-probabilities of TRL's answers, with a gradient, and the mask."""
    ids, mask = (torch.cat([batch[f"prompt_{k}"], batch[f"completion_{k}"]], 1) for k in ("ids", "mask"))
    return alternatives.answer_logprobs(model, ids, mask, batch["prompt_ids"].shape[1]), batch[
        "completion_mask"
    ].float()


def gradient(loss, model):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def common(tmp_path):
    return {
        "output_dir": str(tmp_path),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "per_device_train_batch_size": len(asked()),
        "num_generations": ANSWERS,
        "max_completion_length": LONGEST,
        "beta": 0.0,
        "disable_dropout": True,
    }


@pytest.mark.parametrize(
    "loss_type, scale, compare, mean",
    [
        ("grpo", "group", standardised, mean_of_answers),
        ("dr_grpo", "none", centred, sum_over(LONGEST)),
        ("bnpo", "group", standardised, ppo.masked_mean),
    ],
)
def test_grpo(loss_type, scale, compare, mean, tmp_path):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    trainer = GRPOTrainer(
        model=str(FINETUNED),
        reward_funcs=scored,
        train_dataset=Dataset.from_list([{"prompt": p} for p in asked()]),
        args=GRPOConfig(**common(tmp_path), loss_type=loss_type, scale_rewards=scale),
    )
    batch, scores = batch_of(trainer)
    advantages = compare(scores.view(-1, ANSWERS)).view(-1, 1)
    torch.testing.assert_close(advantages[:, 0], batch["advantages"], atol=1e-5, rtol=1e-5)

    new, mask = by_us(trainer.model, batch)
    old = new.detach() - 0.3 * torch.randn(new.shape, generator=torch.Generator().manual_seed(0))  # some are clipped
    theirs = trainer._compute_loss(trainer.model, batch | {"old_per_token_logps": old})
    ours, _, active = alternatives.averaged(mean)(new, old, advantages * mask, mask)
    assert active > 0.05
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient(ours, trainer.model), gradient(theirs, trainer.model), atol=1e-5, rtol=1e-4)


def test_rloo(tmp_path):
    """TRL's ratio is that of the whole answer: before the first step its gradient is ours."""
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    trainer = RLOOTrainer(
        model=str(FINETUNED),
        reward_funcs=scored,
        train_dataset=Dataset.from_list([{"prompt": p} for p in asked()]),
        args=RLOOConfig(**common(tmp_path)),
    )
    batch, scores = batch_of(trainer)
    advantages = leave_one_out(scores.view(-1, ANSWERS)).view(-1, 1)
    torch.testing.assert_close(advantages[:, 0], batch["advantages"], atol=1e-4, rtol=1e-4)
    new, mask = by_us(trainer.model, batch)
    now = batch | {"old_logps": (new.detach() * mask).sum(-1)}
    ours, _, _ = alternatives.averaged(sum_over(1))(new, new.detach(), advantages * mask, mask)
    theirs = gradient(trainer._compute_loss(trainer.model, now), trainer.model)
    torch.testing.assert_close(gradient(ours, trainer.model), theirs, atol=1e-4, rtol=1e-3)
    plain = -(advantages[:, 0] * (by_us(trainer.model, batch)[0] * mask).sum(-1)).mean()  # `alternatives.rloo`
    torch.testing.assert_close(gradient(plain, trainer.model), theirs, atol=1e-4, rtol=1e-3)


def two_models():
    """(a policy that has moved, the reference, their tokenizer)."""
    model, tokenizer = models.load_model(FINETUNED, torch.device("cpu"))
    other, _ = models.load_model(FINETUNED, torch.device("cpu"))
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return other, model, tokenizer


def offline(tmp_path, **more):
    """Arguments for eight rows that nothing is sampled for."""
    given = {k: v for k, v in common(tmp_path).items() if k not in ("num_generations", "max_completion_length")}
    return given | {"beta": 0.3, "per_device_train_batch_size": 8, **more}


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_dpo_and_ipo(loss_type, tmp_path):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [{k: r[k] for k in ("prompt", "chosen", "rejected")} for r in world.quiz(8, seed=5)]
    given = offline(tmp_path, loss_type=loss_type)
    other, model, tokenizer = two_models()
    trainer = DPOTrainer(
        model=other,
        ref_model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        args=DPOConfig(**given),
    )
    trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model, dict(batch))
    ids, mask, answer = batch["input_ids"], batch["attention_mask"], batch["completion_mask"][:, 1:]
    with torch.no_grad():
        now, then = (
            (alternatives.answer_logprobs(m, ids, mask, 1) * answer).sum(-1) for m in (trainer.model, trainer.ref_model)
        )
    if loss_type == "ipo":  # by TRL, and in the paper's runs, of means over the tokens of an answer
        now, then = now / answer.sum(-1), then / answer.sum(-1)
    loss = {"sigmoid": alternatives.dpo_loss, "ipo": taught("dpo", "ipo_loss", alternatives)}[loss_type]
    ours = loss(*now.chunk(2), *then.chunk(2), 0.3)
    assert (now - then).abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs.detach(), atol=1e-5, rtol=1e-5)


def test_simpo(tmp_path):
    """TRL has it in its trainer of CPO; the means over tokens are of the rows that TRL makes."""
    from datasets import Dataset
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    rows = [{k: r[k] for k in ("prompt", "chosen", "rejected")} for r in world.quiz(8, seed=5)]
    beta, margin = 2.0, 1.0
    given = offline(tmp_path, loss_type="simpo", simpo_gamma=margin, cpo_alpha=0.0, beta=beta, max_length=128)
    other, _, tokenizer = two_models()
    other.warnings_issued = {}  # an attribute that its trainer looks for
    trainer = CPOTrainer(
        model=other, processing_class=tokenizer, train_dataset=Dataset.from_list(rows), args=CPOConfig(**given)
    )
    trainer.model.eval()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    theirs, _ = trainer.get_batch_loss_metrics(trainer.model, batch)
    means = []
    for side in ("chosen", "rejected"):
        ids, mask = batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"]
        answer = (batch[f"{side}_labels"] != -100)[:, 1:].float()
        with torch.no_grad():
            found = alternatives.answer_logprobs(trainer.model, ids, mask, 1)
        means.append((found * answer).sum(-1) / answer.sum(-1))
    chosen, rejected = means
    loss = made_by("dpo", "simpo-loss", torch=torch, F=torch.nn.functional)["simpo_loss"]
    torch.testing.assert_close(loss(chosen, rejected, None, None, beta, margin), theirs.detach(), atol=1e-5, rtol=1e-5)
    assert abs(loss(chosen, rejected, None, None, beta, 0.0) - theirs) > 1e-3


def test_kto(tmp_path):
    """Loss and gradient on the same thumbs, the reference point from mismatched answers included."""
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    rows = alternatives.thumbs(world.quiz(4, seed=5))
    talks = [
        {
            "prompt": [{"role": "user", "content": r["prompt"]}],
            "completion": [{"role": "assistant", "content": r["completion"]}],
            "label": r["label"],
        }
        for r in rows
    ]
    other, model, tokenizer = two_models()
    trainer = KTOTrainer(
        model=other,
        ref_model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(talks),
        args=KTOConfig(**offline(tmp_path, train_sampling_strategy="sequential")),
    )
    trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model, dict(batch))

    some = [{"prompt": r["prompt"], "response": r["completion"]} for r in rows]
    for row, ids, mask in zip(some, batch["input_ids"], batch["attention_mask"]):
        both = models.prompt_ids(tokenizer, row["prompt"]) + models.response_ids(tokenizer, row["response"])
        assert ids[mask.bool()].tolist() == both, "they read the same tokens"
    usual = alternatives.usual_gap(trainer.model, model, tokenizer, some)
    with torch.no_grad():
        there = alternatives.whole_logprobs(model, tokenizer, some)
    gap = alternatives.whole_logprobs(trainer.model, tokenizer, some) - there
    good = torch.tensor([r["label"] for r in rows])
    ours = alternatives.kto_loss(gap, good, usual, 0.3)
    assert gap.abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient(ours, trainer.model), gradient(theirs, trainer.model), atol=1e-5, rtol=1e-4)
    for wrong in (alternatives.kto_loss(gap, ~good, usual, 0.3), alternatives.kto_loss(gap, good, usual + 1, 0.3)):
        assert abs(wrong - theirs) > 1e-4
