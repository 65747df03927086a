"""The whole LLM training pipeline in JAX: a stage is a loss and a way to make its batches."""

__version__ = '0.1.0'
