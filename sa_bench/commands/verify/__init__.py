"""`verify`: compare what a bundle claims of its images with what this machine computes from them."""
