"""Does the labelling card know how sure it may be? `python benchmarks/judge.py`, about a minute.

Ten simulated tastes, other than the four that ship, label pairs of data/pairs.jsonl, a tenth of the choices wrong on
purpose, in random order and in that of the card's doubt.  After 8, 16, 24 and 40 choices the card's
statements are compared with what is so: "likes shorter answers, 84%" with the sign of that weight in a fit on the
exact chances of all 1,000 pairs, and the chances of the next ten choices with the choices.  Also: how often a promise
("about 9 more labels should settle it") was kept.  Writes results/judge.json; `make stamp` takes its table.

The one dial, the prior, was first chosen on the four tastes that ship (--tuning; that saves nothing), then lowered from
2 to 1 after these ten had been seen with it, so they are no clean hold-out.
"""

import argparse
import random
from pathlib import Path

import numpy as np
from sitting import chatty, filler, full_words, right
from tastes import few_e, greets, kind_end, names, names_once

from rlhf_helpers.desk import card, judge
from rlhf_helpers.engine.files import ROOT, read_jsonl, versions, write_json
from rlhf_helpers.lesson import feedback
from rlhf_helpers.make.stamp import built
from rlhf_helpers.world import annotators, gold
from rlhf_helpers.world.annotators import Annotator

RESULTS = Path(__file__).resolve().parent / "results" / "judge.json"
AFTER = (8, 16, 24, 40)
EDGES = (0.5, 0.65, 0.8, 0.95, 1.0)  # can't tell, can't tell, likely, very likely
ORDERS = ("random", "least sure")


def lively(prompt, answer):
    """The more exclamation marks, the better."""
    return float(answer.count("!"))


TASTES = {
    f.__name__: f for f in (chatty, few_e, filler, full_words, greets, kind_end, lively, names, names_once, right)
}


def choices(annotator, pairs):
    """What an annotator says of each pair: 1 for a, 0 for b, one half for a tie."""
    said = [annotator.choose(p["prompt"], p["response_a"], p["response_b"]) for p in pairs]
    return np.array([{"left": 1.0, "right": 0.0}.get(x, 0.5) for x in said])


def asked(order, x, t, n, rng):
    """The first n + 10 pairs that are asked in this order, as places; the last ten are chance."""
    places = rng.sample(range(len(t)), len(t))
    seen = []
    while len(seen) < n:
        known = len(seen) < judge.FEWEST or rng.random() < 0.2 or order == "random"
        best = 0 if known else int(judge.doubt(judge.believe(x[seen], t[seen]), x[places]).argmax())
        seen.append(places.pop(best))
    return seen, places[:10]


def one_person(x, names, truth, t, order, rng):
    """Statements of the card about one person: signs [(n, stated, true)], next choices, promises [(more, needed)]."""
    seen, _ = asked(order, x, t, max(AFTER), rng)
    signs, following, promises = [], [], []
    for n in AFTER:
        belief = judge.believe(x[seen[:n]], t[seen[:n]])
        for k, (mean, variance) in enumerate(zip(belief[0], np.diag(belief[1]))):
            ((_, _, chance, more),) = judge.opinions(([mean], np.array([[variance]])), [names[k]], n)
            signs.append((n, chance, (mean > 0) == (truth[k] > 0)))
            if n == AFTER[1] and more and card.LIKELY <= chance < card.SURE:
                promises.append((more, first_settled(x[seen], t[seen], k, n)))
        rest = [i for i in rng.sample(range(len(t)), 30) if i not in seen and t[i] != 0.5][:10]
        for p, chosen in zip(judge.chances(belief, x[rest]), t[rest]):
            following.append((n, max(p, 1 - p), (p > 0.5) == (chosen == 1)))
    return signs, following, promises


def first_settled(x, t, axis, start):
    """How many labels after `start` it took until an opinion about this axis was very likely; None if it never was."""
    for n in range(start + 1, len(t) + 1):
        mean, covariance = judge.believe(x[:n], t[:n])
        ((_, _, chance, _),) = judge.opinions((mean[[axis]], covariance[[axis]][:, [axis]]), ["axis"], n)
        if chance >= card.SURE:
            return n - start
    return None


def table(statements):
    """Stated and true share of statements by how sure they were, with Wilson's interval of the latter."""
    out = []
    for low, high in zip(EDGES, EDGES[1:]):
        some = [(stated, so) for _, stated, so in statements if low <= stated < high or stated == high == 1]
        if some:
            k, n = sum(bool(so) for _, so in some), len(some)
            stated = float(np.mean([s for s, _ in some]))
            out.append({"from": low, "n": n, "stated": stated, "true": k / n, "interval": feedback.wilson(k, n)})
    return out


def measure(tastes, seeds, order):
    """All statements about all people of these tastes, as tables."""
    pairs = read_jsonl(ROOT / "data" / "pairs.jsonl")
    axes, x = judge.gaps(pairs, gold.gold_axes)
    signs, following, promises = [], [], []
    for taste in tastes.values():
        who = Annotator(taste, noise=0.1)
        exact = [who.prefers_left(p["prompt"], p["response_a"], p["response_b"]) for p in pairs]
        truth = judge.believe(x, exact)[0]
        for seed in seeds:
            t = choices(Annotator(taste, noise=0.1, seed=seed), pairs)
            found = one_person(x, axes, truth, t, order, random.Random(f"{seed} {order}"))
            for all_of_them, some in zip((signs, following, promises), found):
                all_of_them += some
    kept = [needed is not None and needed <= 2 * more for more, needed in promises if 2 * more <= AFTER[3] - AFTER[1]]
    return {
        "opinions": table(signs),
        "next choice": table(following),
        "right about the next choice": {n: float(np.mean([so for m, _, so in following if m == n])) for n in AFTER},
        "promises": len(kept),
        "kept within twice their number": sum(kept),
    }


def markdown(data):
    """What the card stated and what was so."""
    lines = ["| order of the pairs | statement | stated | so | 95% interval | n |", "|---|---|---|---|---|---|"]
    words = dict(zip(EDGES, ("(can't tell)", "(can't tell)", "likely", "very likely")))
    for order, found in data["orders"].items():
        for what in ("opinions", "next choice"):
            for row in found[what]:
                low, high = row["interval"]
                said = f"{what.rstrip('s')}, {words[row['from']]}"
                lines.append(
                    f"| {order} | {said} | {row['stated']:.2f} | {row['true']:.2f} | {low:.2f} to {high:.2f} | "
                    f"{row['n']:,} |"
                )
    for order, found in data["orders"].items():
        kept, given = found["kept within twice their number"], found["promises"]
        lines.append(f"| {order} | settled within twice the labels announced | | {kept / given:.2f} | | {given} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(12)))
    parser.add_argument("--tuning", action="store_true", help="the tastes on which the prior was chosen; saves nothing")
    args = parser.parse_args()
    tastes = dict(annotators.TASTES) if args.tuning else TASTES
    found = {order: measure(tastes, args.seeds, order) for order in ORDERS}
    data = {"tastes": sorted(tastes), "seeds": args.seeds, "orders": found, "versions": versions()}
    data |= {"data": built("pairs.jsonl")}
    print(markdown(data))
    if not args.tuning:
        write_json(RESULTS, data)


if __name__ == "__main__":
    main()
