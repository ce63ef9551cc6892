"""Load data from outside: images, prompts, and files that must be fetched."""
