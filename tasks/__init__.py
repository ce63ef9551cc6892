"""Tasks: values only."""
