"""Batches as a function of the step: shuffled random access, read ahead, then annotated."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from llm_jax.find import last
from llm_jax.options import Count, Seed
from llm_jax.parallel.mesh import batch_sharding, local_rows, reshard, shard_batch
from llm_jax.training.spans import span
from llm_jax.types import Annotate, BadInput, Batch, BatchFn, Filters, Observes, Params

Read = Callable[[int], Batch]


def shuffled(index: np.ndarray, size: int, seed: int) -> np.ndarray:
  """A pseudo-random permutation of range(size), evaluated only at `index`.

  It is a four-round Feistel network over the next even power of two, applied again until the result
  is below `size` (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). Nothing is
  stored, so a resumed run has nothing to skip, and a trillion rows need no list.

  >>> shuffled(np.arange(6), 6, seed=0).tolist()
  [1, 0, 3, 5, 4, 2]
  >>> shuffled(np.array([0]), 10**12, seed=0).tolist()
  [243957560761]

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
  """A function `read(step) -> batch` on the mesh; the order of the rows is new in every epoch.

  Args:
    rows: random-access rows of fixed shape, of which each host reads its own share. Those with a
      method `group`, as `data.growing` has, come in its groups, one after the other.
    mesh: where the batch goes.
    batch_size: rows of all hosts together.
    seed: of the order.
  """
  if not len(rows):
    raise BadInput('data: no rows; the corpus is shorter than one row')
  hosts, host = jax.process_count(), jax.process_index()
  mine = batch_size // hosts
  # Asked for by name, as a protocol does not see what a wrapper passes on (since Python 3.12).
  group = getattr(rows, 'group', None)

  def read(step: int) -> Batch:
    place = step * batch_size + host * mine + np.arange(mine)
    index = _grouped(group, place, seed) if group else _epochs(len(rows), place, seed)
    picked = [rows[int(i)] for i in index]
    return shard_batch({k: np.stack([row[k] for row in picked]) for k in picked[0]}, mesh)

  return read


def _epochs(size: int, place: np.ndarray, seed: int) -> np.ndarray:
  """The rows at these places, in an order that is new in every pass."""
  epoch, index = np.divmod(place, size)
  for e in np.unique(epoch):
    here = epoch == e
    index[here] = shuffled(index[here], size, hash_seed(seed, int(e)))
  return index


def _grouped(
  group: Callable[[int], tuple[int, int, int]], place: np.ndarray, seed: int
) -> np.ndarray:
  """The same of rows in groups, each of which has an order of its own."""
  index, done = np.zeros_like(place), 0
  while done < len(place):
    begin, size, first = group(int(place[done]))
    here = slice(done, done + int(np.searchsorted(place[done:], begin + size)))
    index[here] = first + shuffled(place[here] - begin, size, hash_seed(seed, begin))
    done = here.stop
  return index


def hash_seed(seed: int, epoch: int) -> int:
  """One integer made from two; in practice no two pairs give the same."""
  return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])


def read_ahead(read: Read, depth: int = 2) -> Read:
  """The same function, but a thread computes the next `depth` steps before they are needed."""
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


def annotated(
  annotate: Sequence[Annotate],
  params: Params,
  batch: Batch,
  seed: int,
  number: int,
  *,
  first: int = 0,
) -> Batch:
  """The batch through annotators in their order, from number `first` on.

  Args:
    annotate: all of a stage, so that each has its own random numbers.
    params: of the model in training.
    batch: on the mesh.
    seed: of the run.
    number: of the batch; with the seed and its place it decides what an annotator draws.
    first: the others have seen the batch already.
  """
  for i, function in enumerate(annotate[first:], first):
    with span(last(function.__module__)) as made:
      rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), i), number)
      batch = made(function(params, batch, rng))
  return batch


class Batches:
  """A batch function: the rows of a step, after all annotators have added their fields.

  With `epochs` or `minibatches` above 1 (PPO), one rollout serves epochs * minibatches steps. The
  rows of `minibatches` batches are read and annotated together, with the parameters of the first of
  these steps, and each epoch divides them into batches in another order. Epoch and minibatch follow
  from the step, so a run that starts at the first step of a rollout needs nothing but parameters.

  An annotator may have an attribute `tries` and write `keep` [B]. Then more rows are read and sent
  through the annotators up to it, until the rollout is full of rows to keep; once the tries are
  used up, others fill it (dynamic sampling, arXiv:2503.14476, section 3.2). An annotator may have a
  method `observe(batch)`, which is called once for each rollout that is trained on.

  Attributes:
    reuse: steps that a rollout serves.
    last: the rollout of the latest step; None before the first.

  Args:
    read: a function from the number of a rollout to its rows, on the mesh.
    annotate: the annotators, in order.
    seed: of the annotators' random numbers and of the order of minibatches.
    epochs: passes over a rollout.
    minibatches: updates in a pass.
    mesh: where batches go; needed for minibatches and for tries.
  """

  def __init__(
    self,
    read: Read,
    annotate: Sequence[Annotate] = (),
    *,
    seed: Seed,
    epochs: Count = 1,
    minibatches: Count = 1,
    mesh: Any = None,
  ) -> None:
    self._rows, self._annotate, self._seed, self._mesh = read, tuple(annotate), seed, mesh
    self._minibatches, self.reuse = minibatches, epochs * minibatches
    self._tries = [f.tries if isinstance(f, Filters) else 0 for f in self._annotate]
    self._number = -1
    self.last: Batch | None = None
    self._take: Any = None

  def __call__(self, params: Any, step: int) -> Batch:
    number, within = divmod(step, self.reuse)
    if number != self._number or self.last is None:
      if within:
        raise ValueError(f'step {step} is inside of a rollout, whose parameters are gone')
      self.last, self._number = self._rollout(params, number), number
    if self.reuse == 1:
      return self.last
    rows = len(self.last['tokens'])
    epoch, part = divmod(step, self._minibatches)
    order = shuffled(np.arange(rows), rows, hash_seed(self._seed, epoch))
    size = rows // self._minibatches
    if self._take is None:
      take = lambda batch, index: {k: v[index] for k, v in batch.items()}
      self._take = jax.jit(take, out_shardings=batch_sharding(self._mesh))
    return self._take(self.last, order[part * size : (part + 1) * size])

  def _read(self, number: int) -> Batch:
    with span('data wait'):
      return self._rows(number)

  def _rollout(self, params: Any, number: int) -> Batch:
    tries = max([1, *self._tries])
    if tries == 1:
      batch = annotated(self._annotate, params, self._read(number), self._seed, number)
    else:
      until = self._tries.index(tries) + 1
      batch = self._filled(params, number, tries, until)
      batch = annotated(self._annotate, params, batch, self._seed, number, first=until)
    for function in self._annotate:
      if isinstance(function, Observes):
        function.observe(batch)
    return reshard(batch, self._mesh) if self._annotate and self._mesh is not None else batch

  def _filled(self, params: Any, number: int, tries: int, until: int) -> Batch:
    """A rollout of rows to keep, from as many reads as needed; `log/acceptance` is their share."""
    kept, others, seen = [], [], 0
    wanted = 0
    for attempt in range(number * tries, (number + 1) * tries):
      batch = self._read(attempt)
      batch = annotated(self._annotate[:until], params, batch, self._seed, attempt)
      rows = {k: local_rows(v) for k, v in batch.items()}
      keep = rows.pop('keep') > 0
      wanted, seen = len(keep), seen + len(keep)
      kept.append({k: v[keep] for k, v in rows.items()})
      others.append({k: v[~keep] for k, v in rows.items()})
      if _fewest(sum(len(part['tokens']) for part in kept)) >= wanted:
        break  # on every host at once, because all of them sample together
    accepted = sum(len(part['tokens']) for part in kept)
    rows = {k: np.concatenate([p[k] for p in (*kept, *others)])[:wanted] for k in kept[0]}
    rows['log/acceptance'] = np.full(wanted, accepted / seen, np.float32)
    return shard_batch(rows, self._mesh)


def _fewest(count: int) -> int:
  """The smallest of the counts of all hosts."""
  if jax.process_count() == 1:
    return count
  return int(multihost_utils.process_allgather(np.array(count)).min())


class Timed:
  """A batch function that adds up the seconds for which the loop waits for it."""

  def __init__(self, batch_fn: BatchFn) -> None:
    self._batch_fn = batch_fn
    self.seconds = 0.0

  def __call__(self, params: Any, step: int) -> Batch:
    start = time.perf_counter()
    batch = self._batch_fn(params, step)
    self.seconds += time.perf_counter() - start
    return batch
