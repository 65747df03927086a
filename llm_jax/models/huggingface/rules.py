"""Rules: what entries of their config.json say of a model of ours, and back; a family is a list.

A rule reads entries into fields of `Shape` and writes them from a `Shape`. Writing never judges:
what a family cannot say comes back as something else, and `config_of` compares.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from llm_jax.models.shape import Shape
from llm_jax.types import BadInput

Config = Mapping[str, Any]


class Rule(NamedTuple):
  """Entries of config.json and fields of Shape that say the same.

  Attributes:
    read: entries, with the defaults of the family filled in, to fields.
    write: a shape to entries.
  """

  read: Callable[[Config], dict[str, Any]]
  write: Callable[[Shape], dict[str, Any]] = lambda shape: {}


def same(
  ours: str,
  theirs: str,
  to_ours: Callable[[Any], Any] = lambda value: value,
  to_theirs: Callable[[Any], Any] = lambda value: value,
) -> Rule:
  """One entry is one field, perhaps with another number.

  >>> same('norm_eps', 'rms_norm_eps').read({'rms_norm_eps': 1e-6})
  {'norm_eps': 1e-06}
  """
  return Rule(
    lambda config: {ours: to_ours(need(config, theirs))},
    lambda shape: {theirs: to_theirs(getattr(shape, ours))},
  )


def maybe(ours: str, theirs: str) -> Rule:
  """One entry is one field, and None, or nothing, is None."""
  return Rule(
    lambda config: {ours: config.get(theirs)}, lambda shape: {theirs: getattr(shape, ours)}
  )


def fixed(**fields: Any) -> Rule:
  """Fields that all models of a family have, whatever their config says."""
  return Rule(lambda config: fields)


def only(theirs: str, *values: Any, write: bool = True) -> Rule:
  """An entry that may have these values alone, which change nothing; the first one is written."""

  def read(config: Config) -> dict[str, Any]:
    if theirs in config and config[theirs] not in values:
      raise bad(
        f'{config["model_type"]} with {theirs}={config[theirs]!r} is not supported; '
        f'only {values[0]!r} is'
      )
    return {}

  return Rule(read, lambda shape: {theirs: values[0]} if write else {})


def need(config: Config, key: str) -> Any:
  """The value of an entry.

  Raises:
    BadInput: it is missing, or None.
  """
  if config.get(key) is None:
    raise bad(f'config.json has no {key}')
  return config[key]


def bad(message: str) -> BadInput:
  """An error of these files."""
  return BadInput(f'huggingface: {message}')
