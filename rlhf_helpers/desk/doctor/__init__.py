"""The doctor: what is wrong with a training log, or with preferences and a reward model, of whatever program.

`logs` reads a log, `rules` says what in it looks wrong, `scores` examines preferences and a reward model, and `report`
holds what they say and shows it.  On the command line: `python -m rlhf_helpers.doctor`.
"""
