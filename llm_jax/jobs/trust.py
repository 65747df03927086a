"""Whose code may run: the modules that a user's config names, whatever an artifact may name."""

from collections.abc import Iterator, Mapping
from typing import Any

from llm_jax import find


def trusted(config: Any) -> tuple[str, ...]:
  """Names of models outside of the package that a config names: in `trust`, or as a model.

  The artifacts that a job reads may name these, and no others.

  >>> trusted({'trust': ('mine.model',), 'sft': {'model': {'name': 'experiments.wide'}}})
  ('mine.model', 'experiments.wide')
  >>> trusted({'model': {'name': 'transformer'}})
  ()
  """
  given = config.get('trust', ())
  named = (given,) if isinstance(given, str) else (*given,)
  ours = find.names('models')
  return tuple(dict.fromkeys(name for name in (*named, *_models(config)) if name not in ours))


def _models(config: Mapping[str, Any]) -> Iterator[str]:
  """The name of every group `model` in a config, and in the configs inside of it."""
  for key, group in config.items():
    if not hasattr(group, 'items'):
      continue
    if key == 'model' and isinstance(group.get('name'), str):
      yield group['name']
    yield from _models(group)
