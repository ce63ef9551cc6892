"""The rooms of the house by floor, lowest first."""

FLOORS = [
    {"contracts"},
    {"core", "statistics"},
    {"data", "training", "results"},
    {"models", "scoring", "analysis"},
    {"engine", "methods", "metrics", "tasks"},
    {"reports"},
    {"api"},
    {"commands", "weights"},
]
