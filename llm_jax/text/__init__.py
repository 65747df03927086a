"""Strings in, strings or ids out; no JAX."""
