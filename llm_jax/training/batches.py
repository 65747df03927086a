"""Batches as a function of the step: shuffled random access, read ahead, then annotated."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from llm_jax.parallel.mesh import shard_batch
from llm_jax.types import Annotate, BadInput, Batch, BatchFn

Read = Callable[[int], Batch]


def shuffled(index: np.ndarray, size: int, seed: int) -> np.ndarray:
  """A pseudo-random permutation of range(size), evaluated only where asked.

  A four-round Feistel network over the next even power of two, walked until it lands inside
  (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). Nothing is stored, so resume
  needs no seek and a trillion rows need no list.

  Args:
    index: int64 array of values in [0, size).
    size: how many values are permuted.
    seed: which permutation.
  """
  half = max(1, (int(size - 1).bit_length() + 1) // 2)
  low = np.uint64((1 << half) - 1)
  keys = np.random.SeedSequence(seed).generate_state(4, np.uint64)
  shift = np.uint64(half)

  def encrypt(x: np.ndarray) -> np.ndarray:
    left, right = x >> shift, x & low
    for key in keys:
      # splitmix64's finaliser as the round function.
      z = right + key
      z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
      z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
      left, right = right, left ^ ((z ^ (z >> np.uint64(31))) & low)
    return (left << shift) | right

  with np.errstate(over='ignore'):
    out = encrypt(np.asarray(index, np.uint64))
    while (outside := out >= size).any():
      out[outside] = encrypt(out[outside])
  return out.astype(np.int64)


def make_read(rows: Sequence[Mapping[str, np.ndarray]], mesh: Any, *, batch_size: int, seed: int):
  """`read(step) -> batch` on the mesh: rows in a new order every epoch, each host its own.

  Args:
    rows: random-access rows of fixed shape.
    mesh: where the batch goes.
    batch_size: rows of all hosts together.
    seed: of the order.
  """
  if not len(rows):
    raise BadInput('data: no rows; the corpus is shorter than one row')
  hosts, host = jax.process_count(), jax.process_index()
  mine = batch_size // hosts

  def read(step: int) -> Batch:
    place = step * batch_size + host * mine + np.arange(mine)
    epoch, index = np.divmod(place, len(rows))
    for e in np.unique(epoch):
      here = epoch == e
      index[here] = shuffled(index[here], len(rows), hash_seed(seed, int(e)))
    picked = [rows[int(i)] for i in index]
    return shard_batch({k: np.stack([row[k] for row in picked]) for k in picked[0]}, mesh)

  return read


def hash_seed(seed: int, epoch: int) -> int:
  """One integer from two, without collisions in practice."""
  return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])


def read_ahead(read: Read, depth: int = 2) -> Read:
  """The same function, computed in a thread for the next `depth` steps before they are asked."""
  pool = ThreadPoolExecutor(1, thread_name_prefix='read_ahead')
  coming: dict[int, Future[Batch]] = {}

  def ahead(step: int) -> Batch:
    for s in [s for s in coming if not step <= s <= step + depth]:
      coming.pop(s).cancel()
    for s in range(step, step + depth + 1):
      if s not in coming:
        coming[s] = pool.submit(read, s)
    return coming.pop(step).result()

  return ahead


def make_batch_fn(read: Read, annotate: Sequence[Annotate] = (), *, seed: int) -> BatchFn:
  """`batch_fn(params, step)`: what was read for the step, through the annotators in order."""

  def batch_fn(params: Any, step: int) -> Batch:
    batch = read(step)
    for i, function in enumerate(annotate):
      rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), i), step)
      batch = function(params, batch, rng)
    return batch

  return batch_fn


class Timed:
  """A batch function that adds up the seconds the loop waited in it."""

  def __init__(self, batch_fn: BatchFn) -> None:
    self._batch_fn = batch_fn
    self.seconds = 0.0

  def __call__(self, params: Any, step: int) -> Batch:
    start = time.perf_counter()
    batch = self._batch_fn(params, step)
    self.seconds += time.perf_counter() - start
    return batch
