"""Implement the Generators, one model family per file, and provide base models."""
