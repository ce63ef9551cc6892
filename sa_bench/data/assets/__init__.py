"""Files that are neither shipped nor made here: which there are, where they lie, how they are fetched."""
