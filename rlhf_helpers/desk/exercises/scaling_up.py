"""The checkers of "Scaling up"."""

from .checking import check_cases, tensor


def check_share_out(answer):
    """1: (answers per process, steps to accumulate) that keep the whole batch the same."""

    def right(batch, processes, most):
        share = batch // processes
        steps = next(s for s in range(1, share + 1) if share % s == 0 and share // s <= most)
        return share // steps, steps

    def uneven(batch, processes, most):
        steps = -(-batch // processes // most)
        return batch // processes // steps, steps

    mistakes = {
        "you share out over the steps only; there are several processes, too.": lambda b, p, m: right(b, 1, m),
        "too many at once: more of them than fit in a GPU.": lambda b, p, m: (b // p, 1),
        "it works, but fewer steps would do.": lambda b, p, m: (1, b // p),
        "answers are lost in the division: per process × steps × processes must be the batch.": (
            uneven,
            lambda b, p, m: (m, b // (p * m)),
            lambda b, p, m: (min(m, b // p), max(1, b // (p * m))),
        ),
        "the two numbers are swapped: first how many per process, then the steps.": lambda b, p, m: right(b, p, m)[
            ::-1
        ],
        "with `most` in every step the batch grows, and it is another experiment.": (
            lambda b, p, m: (m, -(-b // (p * m)))
        ),
    }
    cases = [(96, 2, 48), (96, 8, 4), (96, 2, 32), (96, 16, 64), (96, 4, 5)]
    praise = "Where the loss is a mean over answers, this is the same step on any of these machines."
    return check_cases(1, answer, right, cases, mistakes, praise)


def check_lora_bytes(answer):
    """2: the memory of RLOO with LoRA."""

    def right(policy, judge, share=0.01):
        return 2 * policy + 16 * share * policy + 2 * judge

    mistakes = {
        "you still keep a copy as the reference; with the small matrices switched off, the policy is one.": (
            lambda p, j, s=0.01: right(p, j, s) + 2 * p
        ),
        "the reward model is missing: it is frozen, and in memory.": lambda p, j, s=0.01: right(p, 0, s),
        "the frozen weights of the policy are missing.": lambda p, j, s=0.01: 16 * s * p + 2 * j,
        "all weights still learn here; only the small matrices take 16 bytes.": (
            lambda p, j, s=0.01: 16 * p + 2 * j,
            lambda p, j, s=0.01: 16 * p + 16 * s * p + 2 * j,
        ),
        "the small matrices learn, so each of their parameters takes 16 bytes, not 2.": (
            lambda p, j, s=0.01: 2 * p + 2 * s * p + 2 * j
        ),
        "the small matrices are missing: they learn, at 16 bytes a parameter.": lambda p, j, s=0.01: 2 * p + 2 * j,
        "one share for every run: use the argument `share`.": lambda p, j, s=0.01: right(p, j),
    }
    return check_cases(2, answer, right, [(1000, 500), (2000, 3000, 0.1)], mistakes, "That is how 7B fits one card.")


def check_combine(answer):
    """3: one gradient from those of processes with unequal parts of a batch."""

    def right(gradients, pairs):
        return sum(g * n for g, n in zip(gradients, pairs)) / sum(pairs)

    mistakes = {
        "the plain mean is right only for equal parts: weigh each by its number of pairs.": (
            lambda g, n: sum(g) / len(g)
        ),
        "they are only added up: the step would grow with the number of processes.": lambda g, n: sum(g),
        "weighed, but not divided by the number of all pairs: the step would grow with the batch.": (
            lambda g, n: right(g, n) * sum(n)
        ),
        "divide by the number of pairs, not by the number of processes.": lambda g, n: right(g, n) * sum(n) / len(n),
        "the weights are upside down: whoever had more pairs counts for more.": (
            lambda g, n: sum(x / k for x, k in zip(g, n)) / sum(1 / k for k in n),
            lambda g, n: sum(x / k for x, k in zip(g, n)),
        ),
        "each gradient is a mean already, so dividing the sum by the number of pairs divides twice.": (
            lambda g, n: sum(g) / sum(n)
        ),
    }
    cases = [([tensor(1.0, 2.0), tensor(3.0, -2.0)], [6, 2])]
    cases.append(([tensor(0.0, 1.0), tensor(4.0, 4.0), tensor(1.0, 0.0)], [1, 2, 5]))
    praise = "With equal parts the weights are equal, and it is the plain mean again."
    return check_cases(3, answer, right, cases, mistakes, praise)
