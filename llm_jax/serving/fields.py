"""The fields of a request's body, each held against its type and range as it is read."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from llm_jax.serving.errors import ApiError, invalid

_HALF = re.compile(r'\\u[dD][89a-fA-F]')  # half of a pair of surrogates, perhaps without the other
DEEPEST = 256  # arrays and objects of a body inside of each other; whatever reads them may recurse
_SHOWN = 40  # characters of a wrong value that are repeated


def parsed(raw: bytes) -> dict[str, Any]:
  """The JSON object of a body.

  Raises:
    ApiError: it is not UTF-8, no JSON, no object, too deep, or has text that is not Unicode.
  """
  try:
    text = raw.decode()
    found = json.loads(text, parse_constant=_no_number)
  except UnicodeDecodeError as error:
    raise invalid(None, f'the body is not UTF-8 at byte {error.start}') from None
  except RecursionError:
    raise _deep() from None
  except ValueError as error:
    raise invalid(None, f'the body is not JSON: {error}') from None
  if not isinstance(found, dict):
    raise invalid(None, f'the body is {_kind(found)}; send a JSON object')
  if text.count('[') + text.count('{') > DEEPEST and _is_deep(found):
    raise _deep()
  if _HALF.search(text):
    _check_unicode(found)
  return found


def _deep() -> ApiError:
  return invalid(None, f'the body is nested too deeply; {DEEPEST} arrays and objects may be')


def _is_deep(found: Any) -> bool:
  """Whether more than DEEPEST arrays and objects stand inside of each other."""
  level = [found]
  for _ in range(DEEPEST):
    inside = (one.values() if isinstance(one, dict) else one for one in level)
    level = [one for inner in inside for one in inner if isinstance(one, dict | list)]
  return bool(level)


def _no_number(text: str) -> NoReturn:
  raise ValueError(f'{text} is no number of JSON')


def _check_unicode(found: Any) -> None:
  """Raises ApiError, naming the field, where a text has a lone surrogate."""
  waiting: list[tuple[str, Any]] = [('', found)]
  while waiting:
    path, value = waiting.pop()
    if isinstance(value, str):
      if not _is_unicode(value):
        raise invalid(path or None, f'{path} has a lone surrogate, which is no character')
    elif isinstance(value, dict):
      for key, inner in value.items():
        if not _is_unicode(key):
          raise invalid(path or None, f'a key of {path or "the body"} has a lone surrogate')
        waiting.append((f'{path}.{key}' if path else key, inner))
    elif isinstance(value, list):
      waiting += [(f'{path}[{i}]', inner) for i, inner in enumerate(value)]


def _is_unicode(text: str) -> bool:
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def _kind(value: Any) -> str:
  """The type of a value as JSON names it."""
  names = {str: 'a string', bool: 'a boolean', dict: 'an object', list: 'an array'}
  if value is None:
    return 'null'
  return names.get(type(value), 'a number')


def shown(value: Any) -> str:
  """A value as messages repeat it: its beginning, in ASCII.

  >>> shown('x' * 100), shown([1, 2])
  ("'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...", '[1, 2]')
  """
  if isinstance(value, str | list | tuple):
    value = value[:_SHOWN]
  elif isinstance(value, dict):
    return 'an object'
  elif isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**20:
    return 'a number of more than 20 digits'
  text = ascii(value)
  return text if len(text) <= _SHOWN else f'{text[: _SHOWN - 1]}...'


class Fields:
  """An object of a body. Null stands for a field that is not there.

  >>> Fields({'n': 3}).integer('n', 1, 16, default=1)
  3

  Args:
    found: the object.
    where: what the names of its fields begin with, such as 'stream_options.'.
  """

  def __init__(self, found: Mapping[str, Any], where: str = '') -> None:
    self._found, self._where = found, where

  def get(self, name: str) -> Any:
    """A field as it is, or None."""
    return self._found.get(name)

  def path(self, name: str) -> str:
    """The name of a field as errors give it."""
    return f'{self._where}{name}'

  def wrong(self, name: str, wanted: str) -> ApiError:
    """The error for a field that is not what is wanted of it."""
    return invalid(self.path(name), f'{self.path(name)} is {shown(self.get(name))}; {wanted}')

  def number(
    self, name: str, low: float, high: float, *, default: float, above: bool = False
  ) -> float:
    """A number in [low, high], or in (low, high] if it has to be `above`."""
    value = self.get(name)
    if value is None:
      return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or (above and value == low):
      between = f'above {low:g} and up to {high:g}' if above else f'from {low:g} to {high:g}'
      raise self.wrong(name, f'choose a number {between}')
    return float(value)

  def integer(self, name: str, low: int, high: int, *, default: Any = None) -> Any:
    """A whole number in [low, high]."""
    value = self.get(name)
    if value is None:
      return default
    if type(value) is not int or not low <= value <= high:
      raise self.wrong(name, f'choose a whole number from {low} to {high}')
    return value

  def flag(self, name: str) -> bool:
    """True or false; false where it is not there."""
    value = self.get(name)
    if value is not None and not isinstance(value, bool):
      raise self.wrong(name, 'choose true or false')
    return bool(value)

  def text(self, name: str, default: Any = None, *, longest: int | None = None) -> Any:
    """A string."""
    value = self.get(name)
    if value is None:
      return default
    if not isinstance(value, str):
      raise self.wrong(name, 'give a string')
    if longest is not None and len(value) > longest:
      raise self.wrong(name, f'give at most {longest} characters')
    return value

  def group(self, name: str) -> 'Fields | None':
    """An object inside of this one."""
    value = self.get(name)
    if value is None:
      return None
    if not isinstance(value, dict):
      raise self.wrong(name, 'give an object')
    return Fields(value, f'{self.path(name)}.')

  def groups(self, name: str) -> list['Fields']:
    """A list of objects; empty where it is not there."""
    value = self.get(name)
    if value is None:
      return []
    if not isinstance(value, list):
      raise self.wrong(name, 'give an array of objects')
    for i, item in enumerate(value):
      if not isinstance(item, dict):
        path = f'{self.path(name)}[{i}]'
        raise invalid(path, f'{path} is {shown(item)}; give an object')
    return [Fields(item, f'{self.path(name)}[{i}].') for i, item in enumerate(value)]

  def ids(self, name: str, vocab_size: int) -> tuple[int, ...]:
    """A list of ids of tokens."""
    value = self.get(name)
    if value is None:
      return ()
    if not is_ids(value, vocab_size):
      raise self.wrong(name, f'give an array of ids from 0 to {vocab_size - 1}')
    return tuple(value)


def is_ids(value: Any, vocab_size: int) -> bool:
  """Whether a value is a list of ids of a vocabulary."""
  return isinstance(value, list) and all(type(i) is int and 0 <= i < vocab_size for i in value)


def finite(value: float, least: float = -9999.0) -> float:
  """A log-probability that JSON can hold.

  >>> finite(-math.inf), finite(-0.5)
  (-9999.0, -0.5)
  """
  return max(float(value), least) if math.isfinite(value) else least


def strings(value: Sequence[Any]) -> bool:
  """Whether all are strings."""
  return all(isinstance(item, str) for item in value)
