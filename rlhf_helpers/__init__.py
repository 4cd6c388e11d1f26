"""The RLHF Workbook's package: what the notebooks teach, and the plumbing that they leave out of view.

Five storeys, of which each knows only those before it, and the lesson knows no world:
`world` (facts, answers, the gold judge), `engine` (files, models, arithmetic), `lesson` (what the chapters teach),
`desk` (what a chapter has at hand) and `make` (the authors' commands).
"""

__version__ = "0.1.0"
