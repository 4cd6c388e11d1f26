"""The checkers of chapter 06."""

import math
import numbers

from ...lesson.loop import power, verdict
from .checking import broken, fewest, in_one_line, not_done, outcome, tell


def check_comparisons(answer):
    """06.1: the fewest comparisons, in steps of 20, that show a true win rate of 55% four times in five."""

    def enough(n):
        return power(n, 0.55) >= 0.8

    def too_few(n):
        likely = verdict(round(0.55 * n), 0, n - round(0.55 * n))["verdict"] == "better"
        luck = " A test that comes out at 55% would be enough, but about half of all tests come out lower."
        return f"a model that wins 55% is called better in {power(n, 0.55):.0%} of such tests.{luck if likely else ''}"

    praise = "Small gains are real, and expensive to see: half the distance to 50% takes four times as many."
    return fewest(1, answer, 20, enough, too_few, praise)


def check_taste(answer):
    """06.2: any function from (prompt, answer) to a number that prefers something."""
    if answer is None:
        return not_done(2)
    if not callable(answer):
        return tell(2, f"a function is asked for, and this is {in_one_line(answer)}.")
    texts = ("", "Fruit.", "A monkey eats fruit.", "Good day! A fox lives in the forest. I hope that helps.",
             "Not this again. A monkey eats grass. Look it up next time.")  # fmt: skip
    asked = ("What does a monkey eat?", "Where does a fox live?")
    got = [[outcome(answer, (prompt, text)) for text in texts] for prompt in asked]
    if got[0][0] is None:
        return not_done(2)
    trouble = taste_trouble(got)
    return tell(2, trouble or "right. Now see how far 64 labels get.", not trouble)


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
