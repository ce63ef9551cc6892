"""Generators: one model family a file."""
