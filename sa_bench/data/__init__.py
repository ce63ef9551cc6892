"""Data sets: real images in, tensors on a known scale out."""
