"""64-bit hashes of many pieces of one text: SHA-1's first 8 bytes, and xxHash64 in NumPy.

Both are as FineWeb computes them (datatrove's `sha1` and `xxhash`, little-endian). xxHash64 follows
its specification, with seed 0, for all pieces at once.
"""

import hashlib
from collections.abc import Callable
from typing import Literal

import numpy as np

Hash = Literal['xxh64', 'sha1']
# From bytes, and where pieces of them start and end, to a hash of each.
Hashes = Callable[[bytes, np.ndarray, np.ndarray], np.ndarray]

_PRIMES = (
  0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63,
  0x27D4EB2F165667C5,
)  # fmt: skip
_P1, _P2, _P3, _P4, _P5 = map(np.uint64, _PRIMES)
_LANES = [(_PRIMES[0] + _PRIMES[1]) % 2**64, _PRIMES[1], 0, 2**64 - _PRIMES[0]]


def sha1(data: bytes, start_N: np.ndarray, end_N: np.ndarray) -> np.ndarray:
  """[N] the first 8 bytes of SHA-1 of each piece, as little-endian numbers."""
  make = hashlib.sha1
  digests = [make(data[s:e]).digest() for s, e in zip(start_N.tolist(), end_N.tolist())]
  whole = np.frombuffer(b''.join(digests), np.uint8).reshape(-1, 20)
  return np.ascontiguousarray(whole[:, :8]).view('<u8')[:, 0].astype(np.uint64, copy=False)


def xxh64(data: bytes, start_N: np.ndarray, end_N: np.ndarray) -> np.ndarray:
  """[N] xxHash64 of each piece.

  >>> hex(xxh64(b'abc', np.array([0]), np.array([3]))[0])
  '0x44bc2cf5ad770999'
  """
  # word[i] is the number that the 8 bytes from i on hold, so that look-ups need not be aligned.
  padded = np.frombuffer(data + bytes(8), np.uint8)
  word = np.ndarray((len(data) + 1,), '<u8', padded, strides=(1,)).astype(np.uint64)
  size_N = end_N - start_N
  hash_N = size_N.astype(np.uint64)
  long = np.flatnonzero(size_N >= 32)
  hash_N += _P5
  if len(long):
    hash_N[long] += _stripes(word, start_N[long], size_N[long]) - _P5
  at_N = start_N + (size_N & ~31)

  def mix(active_N: np.ndarray, at_N: np.ndarray, bits: int, step: Callable[..., None]) -> None:
    """Takes a number of 64, 32 or 8 bits at `at_N` into the hashes of the pieces that have one."""
    # A page has so few pieces that working on all costs less than picking out some.
    taken_N = word.take(at_N, mode='clip')
    if bits < 64:
      taken_N &= np.uint64(2**bits - 1)
    step(taken_N)
    np.copyto(hash_N, taken_N, where=active_N)

  def eight(taken_N: np.ndarray) -> None:
    taken_N *= _P2
    _rotate(taken_N, 31)
    taken_N *= _P1
    taken_N ^= hash_N
    _rotate(taken_N, 27)
    taken_N *= _P1
    taken_N += _P4

  def four(taken_N: np.ndarray) -> None:
    taken_N *= _P1
    taken_N ^= hash_N
    _rotate(taken_N, 23)
    taken_N *= _P2
    taken_N += _P3

  def one(taken_N: np.ndarray) -> None:
    taken_N *= _P5
    taken_N ^= hash_N
    _rotate(taken_N, 11)
    taken_N *= _P1

  left_N = size_N & 31
  for i in range(int(left_N.max(initial=0)) // 8):
    mix(left_N >= 8 * i + 8, at_N + 8 * i, 64, eight)
  mix(size_N & 4 != 0, at_N + (size_N & 24), 32, four)
  at_N += size_N & 28
  for i in range(3):
    mix(size_N & 3 > i, at_N + i, 8, one)
  for by, prime in ((33, _P2), (29, _P3), (32, None)):
    hash_N ^= hash_N >> np.uint64(by)
    if prime:
      hash_N *= prime
  return hash_N


def _stripes(word: np.ndarray, at_N: np.ndarray, size_N: np.ndarray) -> np.ndarray:
  """What the whole blocks of 32 bytes add to the hashes of pieces that have one at least."""
  order_N = np.argsort(-size_N, kind='stable')  # so that those which go on come first
  place_N4 = at_N[order_N, None] + np.arange(0, 32, 8)
  blocks_N = size_N[order_N] // 32
  lane_N4 = np.repeat(np.array([_LANES], np.uint64), len(at_N), 0)
  for block in range(int(blocks_N[0])):
    count = int(np.searchsorted(-blocks_N, -block))  # of pieces with more blocks than this
    taken_N4 = word.take(place_N4[:count] + 32 * block)
    taken_N4 *= _P2
    lane_N4[:count] += taken_N4
    _rotate(lane_N4[:count], 31)
    lane_N4[:count] *= _P1
  hash_N = np.zeros(len(at_N), np.uint64)
  for lane_N, by in zip(lane_N4.T, (1, 7, 12, 18)):
    hash_N += _rotate(lane_N.copy(), by)
  lane_N4 *= _P2
  _rotate(lane_N4, 31)
  lane_N4 *= _P1
  for lane_N in lane_N4.T:
    hash_N ^= lane_N
    hash_N *= _P1
    hash_N += _P4
  hash_N[order_N] = hash_N.copy()
  return hash_N


def _rotate(x_N: np.ndarray, by: int) -> np.ndarray:
  """Turns 64 bits to the left, in place."""
  low_N = x_N >> np.uint64(64 - by)
  x_N <<= np.uint64(by)
  x_N |= low_N
  return x_N


HASHES: dict[str, Hashes] = {'xxh64': xxh64, 'sha1': sha1}
