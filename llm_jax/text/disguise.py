"""What people say, in characters that nobody uses, so that it can be told from a template's text.

A template mixes its own text with that of messages, and in the result a `<|im_end|>` that a user
typed looks like one of the template's. So messages are rendered in disguise: each character of what
they say becomes another one, of Unicode's private planes. A control token in the result is the
template's only if all of its characters are. Blanks stay, since templates trim them, and so do the
texts that a template looks for, such as `</think>`, unless a control token could be made of them.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

from llm_jax.text.jinja_messages import texts

_PLANES = range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE)
_STAYS = re.compile(r'["\\\s\x00-\x1f\x7f]')  # JSON writes some of these in two characters


class Disguise:
  """Another character for each one that messages hold.

  Attributes:
    notes: characters that none of them holds.
  """

  def __init__(self, given: Any, names: Sequence[str], constants: Iterable[str], fields: Set[str]):
    """
    Args:
      given: messages and tools: texts in lists and mappings.
      names: of the control tokens.
      constants: texts that the template looks for.
      fields: keys of mappings that it looks for.
    """
    whole = '\n'.join(texts(given, but=('role',)))
    used = set(whole)
    free = (char for char in map(chr, itertools.chain(*_PLANES)) if char not in used)
    self._twins = {ord(char): next(free) for char in sorted(used) if not _STAYS.match(char)}
    self._faces = {ord(twin): chr(char) for char, twin in self._twins.items()}
    self.notes = [*itertools.islice(free, whole.count('\n') + 1)]
    self._fields = fields
    stays = [
      text
      for text in constants
      if text.strip() and text in whole and not any(_meets(text, name) for name in names)
    ]
    longest = '|'.join(map(re.escape, sorted(stays, key=len, reverse=True)))
    self._stays = re.compile(f'({longest})') if stays else None

  def on(self, value: Any) -> Any:
    """The value with every text in disguise, but roles and the fields that the template names."""
    if isinstance(value, str):
      parts = self._stays.split(value) if self._stays else [value]
      return ''.join(p if i % 2 else p.translate(self._twins) for i, p in enumerate(parts))
    if isinstance(value, Mapping):
      key = lambda k: k if k in self._fields else self.on(k)
      return {key(k): v if k == 'role' else self.on(v) for k, v in value.items()}
    return [*map(self.on, value)] if isinstance(value, (list, tuple)) else value

  def off(self, text: str) -> str:
    """The text as it is without the disguise."""
    return text.translate(self._faces)

  def said(self, text: str) -> Callable[[int], bool]:
    """Whether the character at a place of a text in disguise comes from what was given."""
    return lambda place: ord(text[place]) in self._faces


def _meets(text: str, name: str) -> bool:
  """Whether the control token `name` could be made of a text and what is beside it."""
  ends = any(name.startswith(text[-n:]) or name.endswith(text[:n]) for n in range(1, len(text)))
  return text in name or name in text or ends
