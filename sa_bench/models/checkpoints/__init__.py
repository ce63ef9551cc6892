"""Stable Diffusion from files, whatever their layout."""
