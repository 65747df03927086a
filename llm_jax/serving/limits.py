"""Who may ask, how much and how often."""

import dataclasses
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

from llm_jax.options import Count, Seconds, at_least
from llm_jax.serving.errors import ApiError

_SHORTEST = 16  # characters of a key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """What a request may take.

  Attributes:
    connections: that are open at a time; whoever comes then is told to come back.
    head_seconds: until the head of a request has to be there.
    body: bytes of a request.
    body_seconds: until all of it has to be there.
    prompt: tokens of a prompt; None: as many as the model has positions.
    choices: answers to one prompt (n).
    waiting: requests of a model that may wait for a slot.
    per_minute: requests of a key in a minute; None for any number.
    seconds: until an answer has to be whole.
    unread: tokens of an answer that may wait for a client who reads slowly.
  """

  connections: Count = 1024
  head_seconds: Seconds = 15.0
  body: Annotated[int, at_least(1024)] = 4 * 2**20
  body_seconds: Seconds = 30.0
  prompt: Count | None = None
  choices: Count = 16
  waiting: Count = 256
  per_minute: Count | None = None
  seconds: Seconds = 600.0
  unread: Count = 1024


class Keys:
  """Who has a key. They are kept as keyed hashes, and compared in a time that tells nothing.

  >>> keys = Keys(['a key of 16 letters'])
  >>> keys.check('Bearer a key of 16 letters') == keys.check('bearer a key of 16 letters')
  True

  Args:
    keys: all of them; none: whoever asks is answered.
  """

  def __init__(self, keys: Sequence[str]) -> None:
    self._salt = secrets.token_bytes(32)
    self._hashes = [self._hash(key) for key in keys]

  def _hash(self, key: str) -> bytes:
    return hashlib.blake2b(key.encode('utf-8', 'surrogateescape'), key=self._salt).digest()

  def __bool__(self) -> bool:
    return bool(self._hashes)

  def check(self, authorization: str | None) -> str:
    """A name for the key of a header `Authorization`; '' where none is asked for.

    Raises:
      ApiError: there is no such key.
    """
    if not self._hashes:
      return ''
    scheme, _, key = (authorization or '').partition(' ')
    given = self._hash(key.strip())
    equal = [hmac.compare_digest(given, known) for known in self._hashes]
    if scheme.lower() != 'bearer' or not any(equal):
      said = 'this API key is not known' if key else 'an API key is missing'
      raise ApiError(
        401,
        f'{said}; send it as Authorization: Bearer KEY',
        code='invalid_api_key',
        headers={'www-authenticate': 'Bearer'},
      )
    return given.hex()[:16]


def short(keys: Sequence[str]) -> str | None:
  """What is wrong with keys, or None; no key is repeated."""
  for number, key in enumerate(keys, 1):
    if len(key) < _SHORTEST or not key.isascii() or not key.isprintable() or ' ' in key:
      return f'key {number} is not {_SHORTEST} or more printable ASCII characters without blanks'
  return None


class Rate:
  """At most so many requests of one key in a minute, and not all of them at once after a pause.

  >>> now = [0.0]
  >>> rate = Rate(60, clock=lambda: now[0])
  >>> all(rate.wait('key') == 0 for _ in range(60)), rate.wait('key')
  (True, 1)

  Args:
    per_minute: None for any number.
    clock: seconds.
  """

  def __init__(
    self, per_minute: int | None, *, clock: Callable[[], float] = time.monotonic
  ) -> None:
    self._most, self._clock = per_minute, clock
    self._left: dict[str, tuple[float, float]] = {}

  def wait(self, key: str) -> int:
    """Takes one; 0, or the seconds after which there will be one."""
    if self._most is None:
      return 0
    now = self._clock()
    left, before = self._left.get(key, (float(self._most), now))
    left = min(self._most, left + (now - before) * self._most / 60)
    allowed = left >= 1
    self._left[key] = (left - allowed, now)
    return 0 if allowed else max(1, -int(-(1 - left) * 60 // self._most))

  def check(self, key: str) -> None:
    """Takes one.

    Raises:
      ApiError: there is none left; its header says when there will be.
    """
    if seconds := self.wait(key):
      raise ApiError(
        429,
        f'more than {self._most} requests a minute; wait {seconds} s',
        code='rate_limit_exceeded',
        headers={'retry-after': str(seconds)},
      )


def is_json(headers: Mapping[str, str]) -> bool:
  """Whether a body says that it is JSON; browsers then ask before they send it across sites."""
  return headers.get('content-type', '').partition(';')[0].strip().lower() == 'application/json'
