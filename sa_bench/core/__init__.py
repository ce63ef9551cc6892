"""Provide errors, settings, the store, the registry, and the fields of a component."""
