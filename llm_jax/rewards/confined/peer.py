"""Calls between two processes that do not trust each other: only plain values cross over.

A number, a text or a list is copied as what it is, whatever class it had, so that no method of the
other side's runs here. Everything else stays where it was made, and the other side gets a `Far`.
"""

import builtins
import io
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

LARGEST = 1 << 25  # bytes of a message
_TYPES = (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict, type(None))
_TYPE_NAMES: dict[str, Any] = {kind.__name__: kind for kind in _TYPES}
_MANY: tuple[Any, ...] = (list, tuple, set, frozenset)
_EXCEPTIONS = {
  name: kind
  for name, kind in vars(builtins).items()
  if isinstance(kind, type) and issubclass(kind, Exception)
}
_NUMBERS = {('decimal', 'Decimal'), ('fractions', 'Fraction')}


class Gone(BaseException):
  """The other side is not there any more, or writes what nobody can read."""


class Failed(Exception):
  """The other side raised something that is no exception of Python's own."""


class Far:
  """A value of the other side's. What is asked of it is answered there; it equals only itself."""

  def __init__(self, peer: 'Peer', key: int) -> None:
    object.__setattr__(self, '_at', (peer, key))

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    peer, key = self._at
    return peer.call(key, args, kwargs)

  def __getattr__(self, name: str) -> Any:
    if name.startswith('__'):
      raise AttributeError(name)
    return self._ask('get', name)

  def __setattr__(self, name: str, value: Any) -> None:
    self._ask('set', name, value)

  def __iter__(self) -> Iterator[Any]:
    far = self._ask('iter')
    while (found := far._ask('next')) != ():
      yield found[0]

  def __len__(self) -> int:
    return self._ask('len')

  def __bool__(self) -> bool:
    return bool(self._ask('bool'))

  def __getitem__(self, key: Any) -> Any:
    return self._ask('item', key)

  def __str__(self) -> str:
    return str(self._ask('str'))

  def _ask(self, what: str, *args: Any) -> Any:
    peer, key = self._at
    return peer.ask(what, key, *args)


_ANSWERS: dict[str, Callable[..., Any]] = {
  'get': getattr,
  'set': setattr,
  'iter': iter,
  'next': lambda iterator: next(((value,) for value in iterator), ()),
  'len': len,
  'bool': bool,
  'item': lambda value, key: value[key],
  'str': str,
}


class Peer:
  """One of two processes.

  Args:
    read: file to read the other side's messages from.
    write: file to write to.
    names: values that the other side may ask for by name, or None: it may only call the functions
      that it was given.
    after: called after every answer.
  """

  def __init__(
    self,
    read: int,
    write: int,
    names: Mapping[str, Any] | None = None,
    after: Callable[[], None] = lambda: None,
  ) -> None:
    self._read, self._write = read, io.FileIO(write, 'wb', closefd=False)
    self._names, self._after = names, after
    self._own: dict[int, Any] = {}
    self.gone = ''  # why the other side is

  def name(self, name: str) -> Any:
    """The value that a name has on the other side. Raises NameError."""
    return self.ask('name', name)

  def ask(self, what: str, *args: Any) -> Any:
    """The other side's answer to one of `_ANSWERS`, for a key, or to `name`."""
    self._send(['?', what, [self.encode(arg) for arg in args]])
    return self.wait()

  def call(self, key: int, args: tuple, kwargs: dict) -> Any:
    """What a function of the other side returns; lists that it changes are changed here."""
    self._send(['()', key, self.encode(args), self.encode(kwargs)])
    value, changed = self.wait()
    for old, new in zip(args, changed, strict=True):
      if type(new) is type(old) is list:
        old[:] = new
      elif type(new) is type(old) in (dict, set):
        old.clear()
        old.update(new)
    return value

  def serve(self) -> None:
    """Answers until the other side hangs up."""
    while True:
      message = self._receive()
      if message[0] not in ('?', '()'):
        raise Gone('it answers what was not asked')
      self._answer(message)

  def ready(self, error: BaseException | None) -> None:
    """Tells the other side, which waits, that it can ask, or what was raised before."""
    self._send(['=', None] if error is None else ['!', type(error).__name__, _text(error)])

  def wait(self) -> Any:
    """The other side's next reply; until then its calls are answered."""
    while True:
      message = self._receive()
      try:
        kind = message[0]
        if kind == '=':
          return self.decode(message[1])
        if kind == '!':
          name, text = str(message[1]), str(message[2])
          raise _EXCEPTIONS.get(name, Failed)(text if name in _EXCEPTIONS else f'{name}: {text}')
      except (LookupError, TypeError, ValueError, RecursionError, OverflowError) as error:
        if isinstance(message, list) and message[:1] == ['!']:
          raise
        raise self._hang_up(f'it answers what is no value: {error}') from None
      self._answer(message)

  def _answer(self, message: list) -> None:
    try:
      reply = ['=', self.encode(self._found(message))]
    except Gone:
      raise
    except BaseException as error:
      reply = ['!', type(error).__name__, _text(error)]
    self._after()
    self._send(reply)

  def _found(self, message: list) -> Any:
    if message[0] == '()':
      key, args, kwargs = message[1], self.decode(message[2]), self.decode(message[3])
      before = [self.encode(arg) if type(arg) in (list, dict, set) else None for arg in args]
      value = self._own[key](*args, **kwargs)
      same = lambda arg, old: old is None or self.encode(arg) == old
      return value, tuple(
        None if same(arg, old) else arg for arg, old in zip(args, before, strict=True)
      )
    if self._names is None:
      raise PermissionError('only functions that were passed can be called')
    what, args = message[1], [self.decode(arg) for arg in message[2]]
    if what == 'name':
      if args[0] not in self._names:
        raise NameError(f'name {args[0]!r} is not defined')
      return self._names[args[0]]
    return _ANSWERS[what](self._own[args[0]], *args[1:])

  # --- values ----------------------------------------------------------------------------------

  def encode(self, value: Any) -> Any:
    """A value as JSON; a list [tag, ...] where JSON has no such value."""
    if value is None or value is True or value is False:
      return value
    if isinstance(value, str):
      return str.__str__(value)
    if isinstance(value, int):
      value = int.__index__(value)
      return value if -(1 << 63) < value < 1 << 63 else ['int', hex(value)]
    if isinstance(value, float):
      value = float.__float__(value)
      return value if math.isfinite(value) else ['float', repr(value)]
    for kind in _MANY:
      if isinstance(value, kind):
        return [kind.__name__, *(self.encode(item) for item in kind.__iter__(value))]
    if isinstance(value, dict):
      pairs = dict.items(value)
      return ['dict', *([self.encode(key), self.encode(item)] for key, item in pairs)]
    if isinstance(value, bytes):
      return ['bytes', bytes.hex(value)]
    if isinstance(value, complex):
      return ['complex', self.encode(value.real), self.encode(value.imag)]
    if isinstance(value, range):
      return ['range', value.start, value.stop, value.step]
    if isinstance(value, type) and value in _TYPES:
      return ['type', value.__name__]
    if isinstance(value, Far) and value._at[0] is self:
      return ['yours', value._at[1]]
    if (kind := (type(value).__module__, type(value).__name__)) in _NUMBERS:
      return ['number', *kind, str(value)]
    self._own[id(value)] = value  # kept, so that its id stays its own
    return ['mine', id(value)]

  def decode(self, found: Any) -> Any:
    """What `encode` of the other side was given, or what stands for it. Raises ValueError."""
    if not isinstance(found, list):
      return found
    tag, *rest = found
    if tag in ('list', 'tuple', 'set', 'frozenset'):
      return _TYPE_NAMES[tag](self.decode(item) for item in rest)
    if tag == 'dict':
      return {self.decode(key): self.decode(value) for key, value in rest}
    if tag == 'mine':
      return Far(self, int(rest[0]))
    if tag == 'yours':
      return self._own[rest[0]]
    if tag == 'number' and tuple(rest[:2]) in _NUMBERS:
      return getattr(__import__(rest[0]), rest[1])(rest[2])
    if tag == 'complex':
      return complex(*map(self.decode, rest))
    simple: dict[str, Callable[..., Any]] = {
      'int': lambda text: int(text, 16),
      'float': float,
      'bytes': bytes.fromhex,
      'range': range,
      'type': _TYPE_NAMES.__getitem__,
    }
    if tag not in simple:
      raise ValueError(f'unknown kind {tag!r}')
    return simple[tag](*rest)

  # --- messages --------------------------------------------------------------------------------

  def _send(self, message: list) -> None:
    data = json.dumps(message).encode()
    if len(data) > LARGEST:
      raise ValueError(f'a value of more than {LARGEST >> 20} MiB')
    data = struct.pack('<I', len(data)) + data
    try:
      while data:
        data = data[self._write.write(data) :]
    except OSError as error:
      raise self._hang_up(str(error)) from None

  def _receive(self) -> list:
    (size,) = struct.unpack('<I', self._exactly(4))
    if size > LARGEST:
      raise self._hang_up('its answer is too large')
    try:
      message = json.loads(self._exactly(size))
    except (ValueError, RecursionError) as error:
      raise self._hang_up(f'its answer is no JSON: {error}') from None
    if not isinstance(message, list) or not message:
      raise self._hang_up('its answer is no message')
    return message

  def _exactly(self, size: int) -> bytes:
    parts = []
    while size:
      try:
        part = os.read(self._read, min(size, 1 << 20))
      except OSError as error:
        raise self._hang_up(str(error)) from None
      if not part:
        raise self._hang_up('it ended')
      parts.append(part)
      size -= len(part)
    return b''.join(parts)

  def _hang_up(self, why: str) -> Gone:
    self.gone = self.gone or why
    return Gone(self.gone)


def _text(error: BaseException) -> str:
  try:
    return str.__str__(str(error))[:2000]
  except BaseException:
    return ''
