"""Smaller models: weights rounded to a few bits, and what makes that cost little."""
