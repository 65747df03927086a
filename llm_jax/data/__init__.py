"""Rows: random-access sequences of fixed-shape dictionaries of NumPy arrays."""
