"""What a kernel trains on: the rows of tokens that a gradient reaches, whichever loop of whichever chapter sends it.

A test that sets WORKBOOK_TRAINED_ON to a file has the kernels of tests/warm.py note them there, a line of JSON each.
"""

import json

import torch


def record(path):
    """From now on, append to `path` each new row of token ids whose embeddings get a gradient; returns the hook."""
    seen = set()

    def note(ids, gradient):
        reached = gradient.detach().flatten(0, -3).abs().sum((-1, -2)) > 0
        rows = {tuple(row) for row, yes in zip(ids.flatten(0, -2).tolist(), reached.tolist()) if yes} - seen
        seen.update(rows)
        with open(path, "a", encoding="utf-8") as f:
            f.writelines(json.dumps(row) + "\n" for row in rows)

    def watch(module, given, embedded):
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings > 512 and embedded.requires_grad:
            ids = given[0].detach().clone()
            embedded.register_hook(lambda gradient: note(ids, gradient))

    return torch.nn.modules.module.register_module_forward_hook(watch)


def texts(path, tokenizer):
    """The rows in `path`, as texts; none if nothing was trained."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return tokenizer.batch_decode(rows)
