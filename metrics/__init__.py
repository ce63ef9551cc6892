"""Metrics: one file each; it reads like its definition."""
