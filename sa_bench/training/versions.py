"""Versions of what training computes; they enter keys, which are made without torch."""

FISHER = 1  # raised whenever the computed F changes
