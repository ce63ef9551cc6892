"""Shipped instruments: judges and micro base models, with cards. `__main__` makes them again."""
