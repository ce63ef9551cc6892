"""Load Stable Diffusion from files of any layout."""
