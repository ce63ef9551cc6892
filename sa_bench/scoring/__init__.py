"""What metrics are made of: judges, detectors, features, likelihoods, and the images that are scored."""
