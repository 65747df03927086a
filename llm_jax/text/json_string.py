"""Strings of JSON, byte by byte: which may follow, and what stands for a character."""

import json
from typing import Any

# States of a character of a string: 0 between two, 1 to 3 bytes to come, those after E0, ED, F0 and
# F4, the parts of an escape, and 13 between two, after a '<'.
_E0, _ED, _F0, _F4, ESCAPE, _HEX1, _HEX2, _LOW2, _HEX3, TAG, _HEX4 = range(4, 15)
_LEADS: dict[int, int] = {
  **dict.fromkeys(range(0xC2, 0xE0), 1),
  **dict.fromkeys(range(0xE1, 0xF0), 2),
  **dict.fromkeys(range(0xF1, 0xF4), 3),
  0xE0: _E0,
  0xED: _ED,
  0xF0: _F0,
  0xF4: _F4,
}
_SECOND = {_E0: (0xA0, 0xBF, 1), _ED: (0x80, 0x9F, 1), _F0: (0x90, 0xBF, 2), _F4: (0x80, 0x8F, 2)}
ESCAPED = {ord(c): ord(t) for c, t in zip('"\\/bfnrt', '"\\/\b\f\n\r\t', strict=True)}
_HEX = frozenset(b'0123456789abcdefABCDEF')
QUOTE, _BACKSLASH = 0x22, 0x5C


def after(byte: int, state: int, guarded: bool) -> int | None:
  """The state of a character after a byte of it; None where this byte cannot be."""
  if state in (0, TAG):
    if byte == _BACKSLASH:
      return ESCAPE
    if byte < 0x20 or byte == QUOTE or (state == TAG and byte in b'/t'):
      return None
    if byte < 0x80:
      return TAG if guarded and byte == 0x3C else 0
    return _LEADS.get(byte)
  if state <= 3:
    return state - 1 if 0x80 <= byte <= 0xBF else None
  if state in _SECOND:
    low, high, then = _SECOND[state]
    return then if low <= byte <= high else None
  if state == ESCAPE:
    return _HEX1 if byte == 0x75 else 0 if byte in b'"\\/bfnrt' else None
  if byte not in _HEX:
    return None
  if state == _HEX1:
    return _LOW2 if byte in b'dD' else _HEX2
  if state == _LOW2:  # \uD800 to \uDFFF are no characters
    return _HEX3 if byte in b'01234567' else None
  return {_HEX2: _HEX3, _HEX3: _HEX4, _HEX4: 0}[state]


def span(part: bytes) -> tuple[int, int] | None:
  """The first and the last character that begin with these bytes, as they stand in a string."""
  state: int | None = 0
  for byte in part:
    state = after(byte, state, False)
    if state is None:
      return None
  low, high = part, part
  while state:
    first, last, state = _SECOND.get(state, (0x80, 0xBF, state - 1))
    low, high = low + bytes([first]), high + bytes([last])
  return ord(low.decode()), ord(high.decode())


def spelled(value: Any, *, guarded: bool) -> bytes:
  r"""A value as the JSON that is written of it.

  >>> spelled('</a>', guarded=True)
  b'"\\u003c/a>"'
  """
  text = json.dumps(value, ensure_ascii=False, allow_nan=False)
  return (text.replace('<', '\\u003c') if guarded else text).encode()
