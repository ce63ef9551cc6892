"""Methods: one file each; it reads top to bottom like the algorithm in its paper."""
