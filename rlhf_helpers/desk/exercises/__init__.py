"""The checkers of the exercises: one file for each chapter, and what they share in `checking`.

A checker names the mistake, and tells the usual wrong answers apart.
"""
