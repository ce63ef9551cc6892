"""Declare the model families, one file each; `sa_bench.models.family` finds them by name."""
