"""The whole LLM training pipeline in JAX: a stage is a loss and a way to make its batches."""

import importlib
from typing import Any

__version__ = '1.0.0'


def __getattr__(name: str) -> Any:
  if name == 'load':  # not before it is asked for: the command line answers without JAX
    return importlib.import_module('llm_jax.model').load
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
