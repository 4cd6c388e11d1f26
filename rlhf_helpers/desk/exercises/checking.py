"""Checkers of the exercises: each tries an answer on small cases and says in one sentence what is wrong with it.

A checker states the cases, the right answer, and the usual wrong answers, each under the sentence that names its
mistake; `check_cases` runs them all.  Nothing that an answer does, such as raising an error, gets out of a checker.
"""

import copy
import inspect
import math
import numbers

import torch

FACT = "A monkey eats fruit."


class Verdict(str):
    """What a checker says; `.right` is True if the answer passed."""

    right = False


def tell(number, text, right=False):
    """The sentence about exercise `number`."""
    said = Verdict(f"Exercise {number}: {text}")
    said.right = right
    return said


def not_done(number):
    return tell(number, "not done yet. (So far the answer is None.)")


def plain(value):
    """Tensors, arrays and tuples as lists, and their members too."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def outcome(f, case, view=plain):
    """What f gives for a case, seen through `view`; or the error that it raises.  None stays None."""
    try:
        got = f(*copy.deepcopy(case))
        return None if got is None else view(got)
    except Exception as error:
        return error


def same(a, b):
    """True if two outcomes agree: numbers up to rounding, errors by their type."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, numbers.Real) and isinstance(b, numbers.Real):
        return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-10) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, Exception):
        return type(a) is type(b)
    return type(a) is type(b) and a == b


def in_one_line(value):
    """A value in one line, with four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "[" + ", ".join(map(in_one_line, value)) + "]" if isinstance(value, list) else " ".join(repr(value).split())
    return text if len(text) <= 120 else text[:119] + "…"


def kind(value):
    """What sort of thing an outcome is, in words."""
    if isinstance(value, list):
        nested = value and isinstance(value[0], list)
        return f"{len(value)} rows of {kind(value[0])}" if nested else f"{len(value)} values"
    return "a number" if isinstance(value, numbers.Real) else f"a value of type {type(value).__name__}"


def broken(error):
    """An error as the end of a sentence."""
    what = " ".join(str(error).split())
    return f"it stops with {type(error).__name__}{': ' + what[:120] if what else ''}."


def difference(right, case, got, want):
    """The generic sentence: a case on which the outcome is not the wanted one."""
    names = inspect.signature(right).parameters
    where = ", ".join(f"{name} = {in_one_line(plain(x))}" for name, x in zip(names, case))
    if isinstance(got, Exception):
        return f"for {where} {broken(got)}"
    if kind(got) != kind(want):
        return f"for {where} it gives {kind(got)}, and {kind(want)} should come out."
    return f"not right yet: for {where} it gives {in_one_line(got)}, and {in_one_line(want)} is right."


def check_cases(number, answer, right, cases, mistakes, praise="", view=plain):
    """The `Verdict` on a function: the same as `right` on all cases, the same as a listed mistake, or neither.

    mistakes: {sentence: a function that makes this mistake, or a tuple of such}
    """
    if answer is None:
        return not_done(number)
    if not callable(answer):
        return tell(number, f"a function is asked for, and this is {in_one_line(answer)}.")
    got = [outcome(answer, case, view) for case in cases]
    if got[0] is None:
        return not_done(number)
    want = [outcome(right, case, view) for case in cases]
    if same(got, want):
        return tell(number, f"right. {praise}".strip(), True)
    for sentence, wrong in mistakes.items():
        for f in wrong if isinstance(wrong, tuple) else (wrong,):
            if same(got, [outcome(f, case, view) for case in cases]):
                return tell(number, sentence)
    k = next(k for k in range(len(cases)) if not same(got[k], want[k]))
    return tell(number, difference(right, cases[k], got[k], want[k]))


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def fewest(number, n, step, enough, too_few, praise):
    """The `Verdict` on n, where the least multiple of `step` for which `enough(n)` is asked for.

    too_few(n): what is wrong where there is not enough, the end of a sentence.
    """
    if n is None:
        return not_done(number)
    if isinstance(n, bool) or not isinstance(n, numbers.Integral) or n <= 0:
        return tell(number, f"a whole number above 0 is wanted, and this is {in_one_line(n)}.")
    if n % step:
        return tell(number, f"{n} is not a multiple of {step}.")
    if not enough(n):
        return tell(number, f"{n} is too few: {too_few(n)}")
    if enough(n - step):
        return tell(number, f"{n} is enough, but fewer would do.")
    return tell(number, f"right. {praise}", True)
