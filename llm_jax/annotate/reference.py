"""Log-probabilities of the answers under a frozen model, computed once for every example.

What was computed is kept in a file under a digest of the example's own arrays, in a folder named
after the reference's parameters. So another epoch, a resumed run or a run with another beta reads
them back, and a changed template, tokenizer, length or reference cannot meet an old number.
"""

import hashlib
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from llm_jax import artifact
from llm_jax.losses.logprobs import score
from llm_jax.options import PlaceOrNone, Positive, checked
from llm_jax.text.terminal import say
from llm_jax.types import (
  JUDGES,
  Adapted,
  Annotate,
  Array,
  BadInput,
  Batch,
  Model,
  Params,
  Tokenizer,
)

READS = ('tokens',)
WRITES = ('ref_logp', 'kl_ref_logp')  # the second where there are `kl_tokens`
ARTIFACTS = ('path',)
# Fields that a log-probability depends on.
_DEPENDS_ON = ('tokens', 'position', 'segment', 'target', 'prompt')
_DIGEST, _HEADER = 16, 28  # bytes; a header is a digest, a count and a CRC-32


@checked(where='annotate.reference')
def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  mesh: Any,
  path: PlaceOrNone = '',
  cache: PlaceOrNone = '',
  temperature: Positive = 1.0,
  trust: Sequence[str] = (),
) -> Annotate:
  """Writes `ref_logp`, of the shape of `tokens`; with mismatched rows (KTO) also `kl_ref_logp`.

  Args:
    model: of the policy. If it is a Lora and there is no `path`, its frozen base is the reference,
      and there is no second copy in memory.
    tokenizer: of the policy; the caller sees to it that the reference has the same.
    mesh: where the reference's parameters go.
    path: folder of the reference's artifact.
    cache: folder that keeps what was computed; '' computes it every time, for rows that never come
      back. With several processes nothing is kept.
    temperature: logits are divided by it.
    trust: modules of the user's that the artifact may name as its model.

  Raises:
    BadInput: no reference, or one that gives no log-probabilities.
  """
  del tokenizer
  if path:
    if kind := JUDGES.get(artifact.describe(path)['model'].get('head')):
      raise BadInput(f'annotate.reference: {path!r} is {kind}; it has no log-probabilities')
    made = artifact.load(path, mesh, model.compute, trust=trust)
    reference, parameters = made.model, lambda params: made.params
  elif isinstance(model, Adapted):
    reference, parameters = model.base, lambda params: params['base']
  else:
    raise BadInput(
      'annotate.reference: no reference; set config.annotate.reference.path to its artifact'
    )

  @jax.jit
  def logp(params: Params, batch: Batch) -> Array:
    return score(reference, params, batch, temperature=temperature)

  keeps = cache and jax.process_count() == 1
  memory: list[_Memory] = []  # opened at the first batch, when the parameters are there

  def of(params: Params, batch: Batch) -> Array:
    frozen = parameters(params)
    if not keeps:
      return logp(frozen, batch)
    if not memory:
      how = repr((getattr(reference, 'shape', None), getattr(reference, 'compute', None)))
      run_as = hashlib.sha256(how.encode()).hexdigest()[:8]
      name = f'{_fingerprint(frozen)}-{run_as}-{temperature:g}.logp'
      memory.append(_Memory(Path(cache) / name))
    return memory[0](batch, lambda: logp(frozen, batch))

  def annotate(params: Params, batch: Batch, rng: Array) -> Batch:
    del rng
    out = {**batch, 'ref_logp': of(params, _of(batch, ''))}
    if 'kl_tokens' in batch:
      out['kl_ref_logp'] = of(params, _of(batch, 'kl_'))
    return out

  return annotate


def _of(batch: Batch, prefix: str) -> Batch:
  return {k: batch[prefix + k] for k in _DEPENDS_ON if prefix + k in batch}


class _Memory:
  """Log-probabilities by example; `compute` is asked only where one of a batch is new or damaged.

  The file is a sequence of records: digest, number of floats, CRC-32 of all else in it, floats. A
  record that a kill cut short ends the file, and is written anew.
  """

  def __init__(self, path: Path) -> None:
    self._path = path
    self._place: dict[bytes, tuple[int, int]] = {}  # digest -> its record, and the count of floats
    self._coming: list[tuple[list[bytes], Any]] = []  # computed, and not written yet
    path.parent.mkdir(parents=True, exist_ok=True)
    end = self._index() if path.exists() else 0
    self._file = open(path, 'r+b' if path.exists() else 'w+b')  # noqa: SIM115, open while we train
    self._file.truncate(end)

  def _index(self) -> int:
    """Notes where every whole record is; returns where the last one ends."""
    size, at = self._path.stat().st_size, 0
    with open(self._path, 'rb') as file:
      while at + _HEADER <= size:
        file.seek(at)
        digest, count = file.read(_DIGEST), int.from_bytes(file.read(8), 'little')
        if at + _HEADER + 4 * count > size:
          break
        self._place[digest] = (at, count)
        at += _HEADER + 4 * count
    return at

  def __call__(self, batch: Batch, compute: Callable[[], Array]) -> Array:
    digests = _digests(batch)
    waiting = {digest for several, _ in self._coming for digest in several}
    for digest in digests:
      if digest in self._place and not self._is_whole(digest):
        say(f'{self._path}: a record is damaged and computed again', file=sys.stderr)
        del self._place[digest]
    known = [digest in self._place or digest in waiting for digest in digests]
    self._write(everything=any(known))
    if not all(known):
      self._coming.append((digests, compute()))
      if not any(known):  # the usual first epoch: the host need not wait for the device
        return self._coming[-1][1]
      self._write(everything=True)
    values = np.stack([np.frombuffer(self._read(digest)[_HEADER:], '<f4') for digest in digests])
    return jax.device_put(values.reshape(batch['tokens'].shape), batch['tokens'].sharding)

  def _write(self, *, everything: bool) -> None:
    """Appends what the device has finished, or waits for everything."""
    while self._coming and (everything or self._coming[0][1].is_ready()):
      digests, values = self._coming.pop(0)
      for digest, row in zip(digests, np.asarray(values), strict=True):
        if digest not in self._place:  # the number that was used before stays the number
          at = self._file.seek(0, os.SEEK_END)
          head, floats = digest + row.size.to_bytes(8, 'little'), row.astype('<f4').tobytes()
          self._file.write(head + _crc(head, floats) + floats)
          self._place[digest] = (at, row.size)
    self._file.flush()

  def _read(self, digest: bytes) -> bytes:
    at, count = self._place[digest]
    self._file.seek(at)
    return self._file.read(_HEADER + 4 * count)

  def _is_whole(self, digest: bytes) -> bool:
    record = self._read(digest)
    return record[_HEADER - 4 : _HEADER] == _crc(record[: _HEADER - 4], record[_HEADER:])


def _crc(head: bytes, floats: bytes) -> bytes:
  return zlib.crc32(floats, zlib.crc32(head)).to_bytes(4, 'little')


def _digests(batch: Batch) -> list[bytes]:
  """A digest of every example of the batch."""
  arrays = {k: np.asarray(v) for k, v in sorted(batch.items())}
  out = []
  for i in range(len(arrays['tokens'])):
    digest = hashlib.blake2b(digest_size=_DIGEST)
    for name, array in arrays.items():
      digest.update(f'{name}{array[i].shape}{array.dtype}'.encode() + array[i].tobytes())
    out.append(digest.digest())
  return out


def _fingerprint(params: Params) -> str:
  """Of the numbers themselves, wherever they came from."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(params):
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()[:16]
