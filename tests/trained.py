"""What a kernel trains on: the rows of tokens that a gradient reaches, whichever loop of whichever chapter sends it.

A test that sets WORKBOOK_TRAINED_ON to a file has the kernels of tests/warm.py note them there, a line of JSON each.
A gradient that is only looked at trains nothing: a row counts once an optimiser has moved the embeddings it came from.
"""

import json

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


def record(path):
    """From now on, append to `path` each new row of token ids that the embeddings of a network learn from.

    Returns a function that ends it.
    """
    seen, waiting = set(), {}  # id of an embedding's weights -> rows that a gradient has reached since the last step

    def note(weights, ids, gradient):
        reached = gradient.detach().flatten(0, -3).abs().sum((-1, -2)) > 0
        rows = {tuple(row) for row, yes in zip(ids.flatten(0, -2).tolist(), reached.tolist()) if yes}
        waiting.setdefault(id(weights), set()).update(rows)

    def stepped(optimizer, *_):
        for weights in (p for group in optimizer.param_groups for p in group["params"]):
            rows = waiting.pop(id(weights), set()) - seen
            seen.update(rows)
            with open(path, "a", encoding="utf-8") as f:
                f.writelines(json.dumps(row) + "\n" for row in rows)

    def watch(module, given, embedded):
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings > 512 and embedded.requires_grad:
            ids, weights = given[0].detach().clone(), module.weight
            embedded.register_hook(lambda gradient: note(weights, ids, gradient))

    hooks = torch.nn.modules.module.register_module_forward_hook(watch), register_optimizer_step_post_hook(stepped)
    return lambda: [hook.remove() for hook in hooks]


def texts(path, tokenizer):
    """The rows in `path`, as texts; none if nothing was trained."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return tokenizer.batch_decode(rows)
