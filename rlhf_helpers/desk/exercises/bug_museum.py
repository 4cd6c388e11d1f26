"""The checkers of the bug museum."""

from .checking import check_cases, not_done, tell


def check_eleventh(answer):
    """1: which of three runs has advantages of its own reward only."""
    if answer is None:
        return not_done(1)
    said = {
        "A": "A is a healthy run with another seed; that is how far luck goes.",
        "B": "B is without a clip: look at the last panel. Its tokens do hear of the score.",
        "C": "right. Only the last token hears of the score, so what leads to a good answer is not learned.",
    }
    if not isinstance(answer, str) or answer not in said:
        return tell(1, "one letter is wanted, 'A', 'B' or 'C'.")
    return tell(1, said[answer], answer == "C")


def check_clip_alarm(answer):
    """2: an alarm for a clip that is never used."""

    def right(row, clip):
        return row["ratio_off"] > clip and row["clip_fraction"] == 0

    rows = [(0.5, 0.03), (0.5, 0.0), (0.05, 0.0), (0.3, 0.0)]
    cases = [({"ratio_off": r, "clip_fraction": c}, 0.2 if r != 0.3 else 0.4) for r, c in rows]
    mistakes = {
        "it rings when nothing has moved: where no ratio leaves the band, there is nothing to clip.": (
            lambda row, clip: row["clip_fraction"] == 0
        ),
        "it rings when the clip is at work: ratios may leave the band, and that is what the clip is for.": (
            lambda row, clip: row["ratio_off"] > clip
        ),
        "it never rings, not even at a ratio of 1.5 with nothing clipped.": lambda row, clip: False,
        "it always rings, in a healthy run too.": lambda row, clip: True,
        "it does not look at `clip`: how far a ratio may go is a setting.": (
            lambda row, clip: row["ratio_off"] > 0.2 and row["clip_fraction"] == 0
        ),
    }
    return check_cases(2, answer, right, cases, mistakes, "A silent safeguard is worth an alarm of its own.")
