"""The checkers of chapter 06."""

import math
import numbers

from ...lesson.loop import gate, power, verdict
from .checking import broken, check_cases, fewest, in_one_line, not_done, outcome, tell


def check_comparisons(answer):
    """06.1: the fewest comparisons, in steps of 20, that show a true win rate of 55 % four times in five."""

    def enough(n):
        return power(n, 0.55) >= 0.8

    def too_few(n):
        likely = verdict(round(0.55 * n), 0, n - round(0.55 * n))["verdict"] == "better"
        luck = " A test that comes out at 55 % would be enough, but about half of all tests come out lower."
        return f"a model that wins 55 % is called better in {power(n, 0.55):.0%} of such tests.{luck if likely else ''}"

    praise = "Small gains are real, and expensive to see: half the distance to 50 % takes four times as many."
    return fewest(1, answer, 20, enough, too_few, praise)


REPORT = {"words": 9.0, "words_before": 10.0, "kl": 5.0, "ended": 1.0, "empty": 0.0, "distinct": 0.9}


def check_gate(answer):
    """06.2: a gate that also refuses answers less than half as long as before."""

    def right(report):
        promoted, reason = gate(report)
        if report["words"] < 0.5 * report["words_before"]:
            return False, "its answers are less than half as long"
        return promoted, reason

    def view(decision):
        """Whether it promotes, if it gives a reason too."""
        complete = isinstance(decision, tuple) and len(decision) == 2 and isinstance(decision[1], str)
        return bool(decision[0]) if complete else "no reason"

    good = REPORT | {"blind": verdict(70, 10, 20)}
    changes: list[dict] = [{}, {"words": 4.0}, {"words": 5.5}, {"kl": 90.0}, {"words": 30.0, "words_before": 100.0}]
    changes += [{"words": 4.0, "words_before": 4.5}, {"words": 21.0}, {"blind": verdict(52, 0, 48)}, {"words": 60.0}]
    mistakes = {
        "it lets through 4 words where there were 10 before.": gate,
        "it checks the length only: keep what `gate` decides, or a candidate far from the anchor gets in.": (
            lambda r: (r["words"] >= 0.5 * r["words_before"], "length")
        ),
        "4 words may be few or many: compare with `words_before`, not with a fixed number.": (
            lambda r: (gate(r)[0] and r["words"] >= 5, "length")
        ),
        "the comparison is upside down: it refuses answers that became *longer*.": (
            lambda r: (gate(r)[0] and r["words_before"] >= 0.5 * r["words"], "length")
        ),
        "it refuses whatever became shorter at all, and half as long is still allowed.": (
            lambda r: (gate(r)[0] and r["words"] >= r["words_before"], "length")
        ),
        "return the reason as well, as `gate` does: (promoted, reason).": lambda r: right(r)[0],
        "it lets nothing through.": lambda r: (False, "no"),
    }
    praise = "For a reader who likes it in_one_line this gate is wrong: every limit is an opinion, so write down whose."
    return check_cases(2, answer, right, [(good | c,) for c in changes], mistakes, praise, view)


def check_taste(answer):
    """06.3: any function from (prompt, answer) to a number that prefers something."""
    if answer is None:
        return not_done(3)
    if not callable(answer):
        return tell(3, f"a function is asked for, and this is {in_one_line(answer)}.")
    texts = ("", "Fruit.", "A monkey eats fruit.", "Good day! A fox lives in the forest. I hope that helps.",
             "Not this again. A monkey eats grass. Look it up next time.")  # fmt: skip
    asked = ("What does a monkey eat?", "Where does a fox live?")
    got = [[outcome(answer, (prompt, text)) for text in texts] for prompt in asked]
    if got[0][0] is None:
        return not_done(3)
    trouble = taste_trouble(got)
    return tell(3, trouble or "right. Now see how far 64 labels get.", not trouble)


def taste_trouble(rows):
    """What is wrong with a taste's numbers, a row for each prompt; or ""."""
    for got in (x for row in rows for x in row):
        if isinstance(got, Exception):
            return broken(got)
        if not isinstance(got, numbers.Real):
            return f"a taste gives a number, and this gives {in_one_line(got)}."
        if not math.isfinite(got):
            return f"a taste gives a number that can be compared, and this gives {got}."
    if len({x for row in rows for x in row}) == 1:
        return "every answer gets the same number, so no two can be compared."
    if all(len(set(row)) == 1 for row in rows):
        return "the number depends on the prompt alone, so two answers to one prompt always tie."
    return ""
