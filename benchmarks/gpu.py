"""All that is measured on a GPU, in one script: precision, phases of PPO, PPO against TRL, and the chapters.

    PYTHONPATH=. python benchmarks/gpu.py --wheels FOLDER

Needs torch, transformers and accelerate.  TRL 1.12.0 (the last with PPOTrainer), papermill and what they need may lie
as wheels in a FOLDER; they are then installed from it, without a network, into a folder of their own for this run.

Every job has a process and a time limit of its own.  One that fails, or for which no time is left, is named in the
results, and the script goes on.  Writes gpu.json (all numbers, date, card, versions) and gpu.md (the tables) beside
this file, anew after each job.  Without a GPU:

    PYTHONPATH=. python benchmarks/gpu.py --device cpu --parts precision     # writes precision.json and precision.md
    PYTHONPATH=. python benchmarks/gpu.py --device cpu --small --out FOLDER  # tries the script, measures nothing
"""

import argparse
import contextlib
import copy
import datetime
import importlib.metadata
import itertools
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from unittest import mock

import ppo_trl
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf_helpers import world
from rlhf_helpers.engine import arithmetic, models, packing, sampler
from rlhf_helpers.engine.files import ROOT, WorkbookError, versions, write_json, write_text
from rlhf_helpers.lesson import decoding, ppo, reward
from rlhf_helpers.make.stamp import built

RESULTS = Path(__file__).resolve().parent / "results"
PARTS = {"precision": 0.15, "phases": 0.22, "trl": 0.27, "chapters": 0.36}  # name: its share of the time
CHAPTERS = ("02", "03", "04", "05", "06", "bug_museum")
LEAST = 15  # seconds; a job that could get less is not begun
RESERVE = 40  # seconds for the script's own start and end, which removes what it installed
WHEELS = {
    "trl": ("trl==1.12.0",),
    "chapters": ("papermill", "nbconvert", "ipykernel", "ipywidgets", "matplotlib", "pandas", "tqdm"),
}  # part: what it needs beyond torch, transformers and accelerate

QWEN = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
TINY = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "vocab_size": 2000,
}
SHAPES = {
    "0.5B": ("qwen2", QWEN),
    "small": ("qwen2", QWEN | TINY),
    "Llama": ("llama", TINY),
    "GPT-NeoX": ("gpt_neox", TINY),
    "stress": ("qwen2", QWEN | TINY | {"initializer_range": 0.1}),  # the usual one is 0.02
}
TITLES = {
    "embedded": "embedded model",
    "0.5B": "Qwen2.5-0.5B shape",
    "small": "small Qwen2",
    "Llama": "small Llama",
    "GPT-NeoX": "small GPT-NeoX",
    "stress": "small Qwen2, weights 5 times as large",
}
PEAK = {
    "H100": (989e12, 3350e9),
    "H200": (989e12, 4800e9),
    "A100": (312e12, 1555e9),
    "L4": (121e12, 300e9),
    "T4": (65e12, 320e9),
}  # FLOP/s in 16 bits and bytes/s of memory, from the makers' data sheets


# ---------------------------------------------------------------- models and cards


def card(device):
    """The name of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def network(name, device, kind=AutoModelForCausalLM):
    """(model, tokenizer): the embedded fine-tuned model, or one of SHAPES with random weights, which ends no answer."""
    if name == "embedded":
        return models.load_model(ROOT / "data/models/finetuned", device)
    _, tokenizer = models.load_model(ROOT / "data/models/finetuned")
    family, shape = SHAPES[name]
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(family, **shape, **ends, num_labels=1)
    torch.manual_seed(0)
    with torch.device(device):
        model = kind.from_config(config).eval()
    if hasattr(model, "generation_config"):
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def parts(name, device):
    """(model, tokenizer, reward model, mean and deviation of its scores), on the device."""
    if name == "embedded":
        return ppo_trl.start(ROOT / "data/models", device)
    return *network(name, device), network(name, device, AutoModelForSequenceClassification)[0], 0.0, 1.0


def some_prompts(rows, seed=0):
    """So many prompts of the training split."""
    return list(itertools.islice(itertools.cycle(world.prompts("train")), seed * rows, (seed + 1) * rows))


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gib(device):
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def ideal_seconds(parameters, tokens, steps, settings, name):
    """Seconds that a card needs at least, after its data sheet: None for a card that is not in PEAK.

    steps: of all rollouts, each of which reads the weights once, in 16 bits.  tokens: generated.  Policy, reference
    and reward model read each token once (2 operations a weight), and each epoch of training takes 6.
    """
    peak = next((v for k, v in PEAK.items() if k in name), None)
    if peak is None:
        return None
    flops, bandwidth = peak
    return steps * 2 * parameters / bandwidth + tokens * parameters * (2 * 4 + 6 * settings.epochs) / flops


# ---------------------------------------------------------------- precision


def kinds(device):
    """Names of the arithmetics that a device has; tf32 is fp32 whose products round their inputs to 11 bits."""
    if device.type != "cuda":
        return list(arithmetic.BY_NAME)
    tf32 = ["tf32"] if torch.cuda.get_device_capability(device) >= (8, 0) else []
    with mock.patch.dict(os.environ, WORKBOOK_ARITHMETIC=""):
        halves = [a.name for a in arithmetic.possible(device, arithmetic.LARGE) if not a.exact]
    return ["fp32", *tf32, *halves]


def gaps(model, tokenizer, rows, seed):
    """How far numbers that should be equal lie apart in one batch of PPO before any step: a dict of nats.

    ratio: largest |new / old - 1|.  equality: mean |new - old|.  Of drawn against new, as the health check sees it in
    its worst minibatch: mismatch, the mean |difference|, and k3; and most, the largest |difference|.
    same: the largest number that the checks compare with the bound of that name.
    """
    settings, device = ppo.Settings(batch_size=rows), model.device
    kind = ppo.PackedPolicy if packing.can_pack(model) else ppo.PolicyWithValue
    policy, reference = kind(model), kind(copy.deepcopy(model)).eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(seed)
    prompts = some_prompts(rows, seed)
    batch = ppo.collect(policy, reference, tokenizer, lambda p, r: torch.zeros(len(p)), prompts, settings, generator)
    found = []
    shuffler = torch.Generator().manual_seed(seed)
    for part in itertools.islice(ppo.minibatches(batch, settings, shuffler), settings.minibatches):
        new = policy.read(part["ids"], part["full_mask"], batch["start"])[0].detach()
        real = part["mask"].bool()
        drawn, old, new = (x[real].double() for x in (part["drawn"], part["logprobs"], new))
        numbers = {
            "ratio": (new - old).expm1().abs().max(),
            "equality": (new - old).abs().mean(),
            "mismatch": (new - drawn).abs().mean(),
            "most": (new - drawn).abs().max(),
            "k3": ppo.kl_k3(drawn, new).mean(),
        }
        found.append({k: v.item() for k, v in numbers.items()})
    worst = {k: max(f[k] for f in found) for k in found[0]}
    kl = ((batch["logprobs"] - batch["ref_logprobs"]) * batch["mask"]).abs().max().item()
    return worst | {"same": max(worst["ratio"], kl, ppo.moved_by_padding(policy, batch, settings))}


def measure_precision(name, kind, device, rows, batches):
    """The worst `gaps` of some batches in one arithmetic, and which share of its bounds they use."""
    torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"  # in 16 bits the package itself allows it, for the head
    os.environ["WORKBOOK_ARITHMETIC"] = "fp32" if kind == "tf32" else kind
    model, tokenizer = network(name, device)
    found = [gaps(model, tokenizer, rows, seed) for seed in range(batches)]
    worst = {k: max(f[k] for f in found) for k in found[0]}
    bounds = arithmetic.arithmetic_of(model)
    used = {k: worst[k] / getattr(bounds, k) for k in ("same", "mismatch", "k3")}
    loop = "plain loop" if getattr(model, "_sampler", None) is None else "static cache"
    return {"parameters": model.num_parameters(), "batches": batches, "rows": rows, "loop": loop, **worst, "used": used}


def precision(large, options):
    """Yield a row for each model and arithmetic; one that fails does not keep the others from it."""
    device = torch.device(options.device)
    rows, batches = (16, 1) if options.small else (96, 3)
    for name, kind in itertools.product(("embedded", large, "Llama", "GPT-NeoX", "stress"), kinds(device)):
        row = {"model": name, "arithmetic": kind}
        try:
            yield row | measure_precision(name, kind, device, rows, 1 if name == "0.5B" else batches)
        except Exception as e:
            yield row | {"error": sentence(e)}


# ---------------------------------------------------------------- phases


class Stopwatch:
    """Wall seconds of phases; the device is waited for at both ends of each."""

    def __init__(self, device):
        self.device, self.inside, self.seconds, self.last = device, "rest", {"rest": 0.0}, time.perf_counter()

    def mark(self, phase):
        """End the phase that is running, and begin another."""
        synchronise(self.device)
        now = time.perf_counter()
        self.seconds[self.inside] = self.seconds.get(self.inside, 0.0) + now - self.last
        self.inside, self.last = phase, now

    def timed(self, function, phase):
        """`function`, its time counted for `phase`, a name or a function that gives one.

        What is called inside another phase is counted there, but the backward pass always by itself.
        """

        def call(*arguments, **options):
            before = self.inside
            if before != "rest" and phase != "backward":
                return function(*arguments, **options)
            self.mark(phase() if callable(phase) else phase)
            try:
                return function(*arguments, **options)
            finally:
                self.mark(before)

        return call


def reading():
    return "forward" if torch.is_grad_enabled() else "reference"


TIMED = (
    (ppo, "rollout", "rollout"),
    (ppo.PackedPolicy, "read", reading),
    (ppo.PolicyWithValue, "read", reading),
    (ppo.PackedPolicy, "look", "old log-probabilities, values"),
    (torch.Tensor, "backward", "backward"),
    (ppo, "take_step", "optimiser step"),
    (ppo, "health", "health, fingerprint"),
    (ppo, "fingerprint", "health, fingerprint"),
    (ppo, "remember", "health, fingerprint"),
)
PHASES = (
    "rollout",
    "old log-probabilities, values",
    "scoring",
    "reference",
    "forward",
    "backward",
    "optimiser step",
    "health, fingerprint",
    "rest",
)


def one_update(made, settings, device):
    """Seconds of each phase of an update of PPO, and its tokens: means over all but the first two updates."""
    model, tokenizer, judge, mean, std = made
    watch, laps = Stopwatch(device), []

    def lap(row, batch):
        watch.mark("rest")
        laps.append(watch.seconds | {"tokens": int(batch["mask"].sum())})
        watch.seconds = {"rest": 0.0}
        watch.mark("rest")

    with contextlib.ExitStack() as stack:
        for owner, name, phase in TIMED:
            stack.enter_context(mock.patch.object(owner, name, watch.timed(getattr(owner, name), phase)))
        score = watch.timed(lambda p, r: (reward.score(judge, tokenizer, p, r) - mean) / std, "scoring")
        prompts = some_prompts(settings.batch_size)
        ppo.train(model, tokenizer, score, prompts, settings, 0, on_update=lap, frozen=(judge,))
    counted = laps[2:] or laps[-1:]
    return {k: statistics.mean(lap.get(k, 0.0) for lap in counted) for k in (*PHASES, "tokens")}


WAYS = ("CUDA graph", "static cache, no graph", "plain loop")


@torch.no_grad()
def step_milliseconds(model, tokenizer, rows, steps, way):
    """Milliseconds per token step of a rollout of `steps` tokens that never ends early; its prompts are counted in."""
    ids, mask = models.encode_prompts(tokenizer, some_prompts(rows), model.device)
    model._sampler, took = None, []
    graph = mock.patch.object(sampler.Sampler, "capture", lambda self: setattr(self, "graph", False))
    with mock.patch.object(decoding, "is_fast", lambda model: way != "plain loop"):
        with contextlib.nullcontext() if way == "CUDA graph" else graph:
            for seed in range(3):  # the first one warms up
                generator = torch.Generator(model.device).manual_seed(seed)
                synchronise(model.device)
                began = time.perf_counter()
                decoding.rollout(model, ids, mask, steps, {-1}, generator)
                synchronise(model.device)
                took.append(time.perf_counter() - began)
    return 1000 * min(took[1:]) / steps


def phases(name, rows, options):
    """Yield the phases of an update of so many answers, then the time of a token step, each way of a rollout."""
    device, rows = torch.device(options.device), int(rows)
    settings = ppo.Settings(updates=3 if options.small else 6, batch_size=rows)
    made = parts(name, device)
    model, tokenizer = made[:2]
    row = {"model": name, "rows": rows, "arithmetic": arithmetic.arithmetic_of(model).name}
    found = one_update(made, settings, device)
    seconds, tokens = sum(found[p] for p in PHASES), found["tokens"]
    ideal = ideal_seconds(model.num_parameters(), tokens, settings.max_new_tokens, settings, card(device))
    yield row | {
        "phases": {p: found[p] for p in PHASES},
        "seconds": seconds,
        "tokens": tokens,
        "share_of_peak": ideal and ideal / seconds,
        "peak_gib": peak_gib(device),
    }
    for way in WAYS[device.type != "cuda" :]:
        ms = step_milliseconds(model, tokenizer, rows, settings.max_new_tokens, way)
        yield row | {"way": way, "milliseconds": ms}


# ---------------------------------------------------------------- against TRL


def against_trl(name, side, repeat, options):
    """Yield what one run of one side measured; its first two updates, which compile and allocate, don't count."""
    device = torch.device(options.device)
    settings = ppo.Settings(updates=3 if options.small else 6, batch_size=16 if options.small else 96)
    made = parts(name, device)
    parameters = made[0].num_parameters()
    _, _, _, curve = {"ours": ppo_trl.ours, "trl": ppo_trl.trl}[side](settings, 0, made)
    tokens, seconds = (curve[-1][i] - curve[1][i] for i in (0, 1))
    steps = (len(curve) - 2) * settings.max_new_tokens
    ideal = ideal_seconds(parameters, tokens, steps, settings, card(device))
    yield {
        "model": name,
        "side": side,
        "repeat": int(repeat),
        "tokens": tokens,
        "seconds": seconds,
        "share_of_peak": ideal and ideal / seconds,
        "peak_gib": peak_gib(device),
    }


# ---------------------------------------------------------------- chapters


def chapter(number, options):
    """Yield the seconds of a chapter, executed by papermill; what it makes stays for the next one."""
    from rlhf_helpers.make import series

    (path,) = series.chapters([number])
    parameters = {"RUNS_DIR": str(options.runs), "DEVICE": options.device, "FAST": options.small}
    began = time.perf_counter()
    series.execute(path, options.runs / "series", parameters)
    yield {"chapter": path.stem, "seconds": time.perf_counter() - began}


# ---------------------------------------------------------------- jobs, each in a process of its own

RUN = {"precision": precision, "phases": phases, "trl": against_trl, "chapters": chapter}


def jobs(part, options):
    """The jobs of a part, in order, each as the words that its function in RUN takes."""
    large, rows = "small" if options.small or options.cpu else "0.5B", ("16", "32") if options.small else ("96", "512")
    repeats = range(options.repeats)
    return {
        "precision": [(large,)],
        "phases": [("embedded", rows[0]), (large, rows[0]), (large, rows[1])],
        "trl": [(m, s, str(i)) for i in repeats for m in ("embedded", large) for s in ("ours", "trl")],
        "chapters": [(n,) for n in CHAPTERS],
    }[part]


def sentence(error):
    """One line that says what went wrong."""
    text = (str(error).strip().splitlines() or [""])[0].split(" (its executed copy")[0].replace(f"{ROOT}{os.sep}", "")
    return text if isinstance(error, WorkbookError) else f"{type(error).__name__}: {text}"


def command(part, words, options, rows):
    """The command line of a job that writes its rows to the file `rows`."""
    line = [sys.executable, __file__, "--device", options.device, "--runs", str(options.runs), "--rows", str(rows)]
    if options.small:
        line.append("--small")
    return [*line, "--job", part, *words]


def child(options):
    """Do one job, and write each of its rows as a line of JSON, at once; returns the exit code."""
    part, *words = options.job
    with open(options.rows, "a", encoding="utf-8") as f:
        try:
            for row in RUN[part](*words, options):
                print(json.dumps(row), file=f, flush=True)
        except Exception as e:
            traceback.print_exc()
            print(sentence(e), flush=True)  # the last line
            return 1
    return 0


def stop(process):
    """End a process and its children, the gentle way first: a notebook's kernel is then ended by its parent."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3)


def run_job(part, words, options, seconds):
    """Run one job for so many seconds at most: (its rows, what it printed, why it did not end well, or "")."""
    with tempfile.TemporaryDirectory() as folder:
        rows, log = Path(folder) / "rows", Path(folder) / "log"
        with open(log, "w") as f:
            line = command(part, words, options, rows)
            process = subprocess.Popen(line, stdout=f, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                process.wait(seconds)
                late = False
            except subprocess.TimeoutExpired:
                late = True
            finally:
                stop(process)
        said = log.read_text(errors="replace").strip().splitlines()
        found = [json.loads(r) for r in rows.read_text().splitlines() if r.endswith("}")] if rows.exists() else []
    why = (said or [f"it ended with code {process.returncode}"])[-1] if process.returncode else ""
    return found, said, f"it was stopped after {seconds:.0f} s" if late else why


def run_all(options, result, save):
    """Run the parts one after the other; `result` gets an entry for each job, and save() is called after each.

    Each part has to be ready when its share and those of the parts before it are used up, of the time that there is at
    the start; a job may take what is left of that, but for LEAST seconds for each job after it.
    """
    until = time.perf_counter() - options.began  # what the wheels took
    total, shares = 60 * options.minutes - RESERVE - until, sum(PARTS[p] for p in options.parts)
    for part in (p for p in PARTS if p in options.parts):
        until += total * PARTS[part] / shares
        todo = jobs(part, options)
        for n, words in enumerate(todo):
            began = time.perf_counter()
            left = until - (began - options.began)
            rows, said, why = [], [], "it was skipped, since its time was used up"
            if left >= LEAST:
                limit = min(left, max(LEAST, left - LEAST * (len(todo) - n - 1)))
                rows, said, why = run_job(part, words, options, limit)
            took = time.perf_counter() - began
            job = {"part": part, "job": " ".join(words), "seconds": took, "error": why, "rows": rows}
            job["notes"] = [s for s in dict.fromkeys(said) if s.startswith("Answers are sampled")]
            result["jobs"].append(job)
            print(f"{part} {' '.join(words)}: {took:.0f} s{f', {why}' if why else ''}", flush=True)
            if why:
                print("\n".join(said[-15:]), file=sys.stderr, flush=True)
            result["seconds"] = time.perf_counter() - options.began
            save()


# ---------------------------------------------------------------- wheels


def install(wheels, folder, parts):
    """Install what the parts need from the wheels of a folder into `folder`, but nothing that is there already.

    Returns the reasons, in a sentence each, why something could not be installed.
    """
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--find-links", str(wheels)]
    environment, wrong = os.environ | {"PIP_CONFIG_FILE": os.devnull}, []

    def call(*more):
        subprocess.run([*pip, *more], check=True, capture_output=True, text=True, env=environment, timeout=120)

    for needs in (WHEELS[p] for p in parts if p in WHEELS):
        report = folder / "report.json"
        try:
            call("--dry-run", "--report", str(report), *needs)
            found = [p["metadata"] for p in json.loads(report.read_text())["install"]]
            if found:
                call(
                    "--no-deps",
                    "--no-compile",
                    "--target",
                    str(folder),
                    *(f"{p['name']}=={p['version']}" for p in found),
                )
        except subprocess.SubprocessError as e:
            lines = [x for x in (getattr(e, "stderr", None) or str(e)).splitlines() if x.strip()]
            wrong.append(f"{', '.join(needs)} could not be installed from the wheels: {lines[-1].strip()}")
    return wrong


# ---------------------------------------------------------------- the tables


def rows_of(result, part):
    return [row for job in result["jobs"] if job["part"] == part for row in job["rows"]]


def markdown(head, lines):
    """A table; lines of cells, of which the first are words."""
    body = ["| " + " | ".join(map(str, cells)) + " |" for cells in (head, *lines)]
    return "\n".join([body[0], "|---" * len(head) + "|", *body[1:]])


def shown(value, form):
    return "–" if value is None else form.format(value)


def precision_table(rows):
    head = ("model", "arithmetic", "rollout", "ratio off by", "old to new, mean", "drawn to new, mean", "largest", "k3")
    head = (*head, "used of `same`", "of `mismatch`", "of `k3`")
    lines = []
    for r in rows:
        cells = [TITLES[r["model"]], r["arithmetic"]]
        if "error" in r:
            lines.append([*cells, r["error"], *[""] * (len(head) - 3)])
            continue
        cells += [r["loop"], *(f"{r[k]:.1e}" for k in ("ratio", "equality", "mismatch", "most", "k3"))]
        lines.append([*cells, *(f"{r['used'][k]:.1%}" for k in ("same", "mismatch", "k3"))])
    return markdown(head, lines) + (
        "\n\nPPO's batches before any step; log-probabilities in nats. *Old* and *new* are two computations of the "
        "network in training, in other batches; *drawn* is the sampler's. Ratio: the largest |new / old − 1|. Drawn to "
        "new: mean and k3 of the worst minibatch, and the largest difference of one token. The last three columns: how "
        "much of the bounds in `rlhf_helpers/engine/arithmetic.py` the health checks would use; over 100% they stop a "
        "run. tf32 is fp32 with products of rounded inputs, held against the bounds of fp32. All models but the "
        "embedded one have random weights.\n"
    )


def phases_table(rows):
    whole, steps = [r for r in rows if "phases" in r], [r for r in rows if "way" in r]
    heads = [f"{TITLES[r['model']]}, {r['rows']} answers, {r['arithmetic']}" for r in whole]
    lines = [["**whole update, seconds**", *(f"**{r['seconds']:.3f}**" for r in whole)]]
    lines += [[p, *(f"{r['phases'][p]:.3f}" for r in whole)] for p in PHASES]
    lines.append(["tokens generated per second", *(f"{r['tokens'] / r['seconds']:,.0f}" for r in whole)])
    lines.append(["share of the roofline", *(shown(r["share_of_peak"], "{:.1%}") for r in whole)])
    lines.append(["peak memory, GiB", *(shown(r["peak_gib"], "{:.1f}") for r in whole)])

    def milliseconds(row, way):
        found = [s["milliseconds"] for s in steps if (s["model"], s["rows"], s["way"]) == (*row, way)]
        return shown(found[0] if found else None, "{:.1f}")

    for way in WAYS:
        cells = (milliseconds((r["model"], r["rows"]), way) for r in whole)
        lines.append([f"ms per token step of a rollout, {way}", *cells])
    return markdown(("", *heads), lines) + (
        "\n\nSeconds per update of PPO, the device waited for at the ends of each phase; means over the updates after "
        "the second.\n"
    )


def trl_table(rows):
    lines = []
    for name in dict.fromkeys(r["model"] for r in rows):
        sides = [{r["repeat"]: r for r in rows if r["model"] == name and r["side"] == s} for s in ("ours", "trl")]
        rate = [{i: r["tokens"] / r["seconds"] for i, r in runs.items()} for runs in sides]
        ratios = [rate[0][i] / rate[1][i] for i in rate[0].keys() & rate[1].keys()]
        cells = [TITLES[name], *(shown(middle(r.values()), "{:,.0f}") for r in rate), shown(middle(ratios), "{:.2f}")]
        for key, form in (("peak_gib", "{:.1f}"), ("share_of_peak", "{:.1%}")):
            cells.append(" and ".join(shown(middle(r[key] for r in runs.values()), form) for runs in sides))
        lines.append([*cells, len(ratios)])
    head = ("model", "tokens/s, this loop", "PPOTrainer", "ratio", "peak GiB", "share of the roofline", "pairs")
    return markdown(head, lines) + (
        "\n\nMedians over the runs, and of the ratios of the pairs; the sides alternate, and the first two updates of "
        "a run don't count. Where two numbers stand, the first is this loop's. What is not the same on the two sides "
        "is listed in ppo_trl.md.\n"
    )


def middle(values):
    """The median of those that are not None; None without any."""
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None


def chapters_table(rows):
    return markdown(("chapter", "seconds"), [(r["chapter"], f"{r['seconds']:.0f}") for r in rows]) + (
        "\n\nThrough papermill, the start of the kernel counted in.\n"
    )


SECTIONS = {
    "precision": ("Precision", precision_table),
    "phases": ("Where the time goes", phases_table),
    "trl": ("Against TRL's PPOTrainer", trl_table),
    "chapters": ("The chapters", chapters_table),
}


def tables(result):
    """The results as Markdown."""
    made = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    text = [f"Measured on {result['device']}, {result['date']}; {made}."]
    if result["small"]:
        text = [f"A trial of the script with small numbers, no measurement. {text[0]}"]
    for part, (title, table) in SECTIONS.items():
        mine = [j for j in result["jobs"] if j["part"] == part]
        rows = rows_of(result, part)
        if not mine:
            continue
        text.append(f"## {title}")
        if rows:
            text.append(table(rows))
        text += [f"- Not measured to its end: {part} {j['job']}: {j['error']}." for j in mine if j["error"]]
        text += [f"- {part} {j['job']}: {note}" for j in mine for note in j["notes"] if part != "precision"]
    text += [f"- {reason}" for reason in result["wheels"]]
    return "\n\n".join(x.strip() for x in text) + "\n"


# ---------------------------------------------------------------- main


def arguments(words=None):
    parser = argparse.ArgumentParser(description="Precision, phases of PPO, PPO against TRL, and the chapters.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    parser.add_argument("--minutes", type=float, default=8, help="the script ends after so many")
    parser.add_argument("--wheels", type=Path, help="a folder with wheels of TRL, papermill and what they need")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each side against TRL")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--small", action="store_true", help="small numbers, to try the script")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder to write to")
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    options.cpu = options.device == "cpu"
    options.alone = options.cpu and options.parts == ["precision"] and not options.small
    if options.job:
        return options
    if not options.cpu and not torch.cuda.is_available():
        sys.exit("This benchmark needs a GPU, and PyTorch sees none. On a CPU, see its first lines.")
    if options.cpu and not options.alone and not options.small:
        sys.exit("On a CPU only the precision can be measured (--parts precision); to try the script, add --small.")
    if options.cpu and not options.alone and options.out.resolve() == RESULTS:
        sys.exit("On a CPU this would write over the results of a GPU; give another folder with --out.")
    return options


def start_of_result(options):
    """What is known before the first job."""
    device, made = torch.device(options.device), versions()
    for name in () if options.alone else ("accelerate", "trl", "papermill"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            made[name] = importlib.metadata.version(name)
    where = card(device)
    if options.cpu:
        where = f"a CPU ({where}, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)})"
    else:
        made["cuda"] = torch.version.cuda
    today = datetime.date.today().isoformat()
    of = {"date": today, "device": where, "versions": made, "data": built("finetuned"), "small": options.small}
    return of | {"wheels": [], "jobs": []}


def main():
    began = time.perf_counter()
    options = arguments()
    if options.job:
        code = child(options)
        sys.stdout.flush()
        os._exit(code)  # at once: a large process takes its time to clean up
    options.began = began
    stem = "precision" if options.alone else "gpu"
    with tempfile.TemporaryDirectory() as folder:
        options.runs, site = Path(folder) / "runs", Path(folder) / "site-packages"  # a name that dill knows
        site.mkdir()
        os.environ |= {
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "JUPYTER_PATH": str(site / "share" / "jupyter"),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        wrong = install(options.wheels.resolve(), site, options.parts) if options.wheels else []
        sys.path.append(str(site))
        result = start_of_result(options) | {"wheels": wrong}
        options.out.mkdir(parents=True, exist_ok=True)

        def save():
            write_json(options.out / f"{stem}.json", result)
            write_text(options.out / f"{stem}.md", tables(result))

        run_all(options, result, save)
        print(f"\n{tables(result)}\n{result['seconds']:.0f} seconds in all", flush=True)


if __name__ == "__main__":
    main()
