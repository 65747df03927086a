"""Benchmarks as text: what a question looks like, and where its records usually lie."""
