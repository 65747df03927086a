"""What checksums cost: of rows when they are read, of files when they are handed on, of opening.

python -m experiments.reliability.cost
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from llm_jax.data import packed
from llm_jax.files import sha256, write_json

LENGTH, ROWS, SHARDS, VOCAB = 1024, 4096, 4, 50_000
LARGE = 10 * 2**30  # bytes of tokens and segments that are opened


def write(folder: Path, shards: int, rows: int) -> None:
  """A tokenized folder of random rows."""
  draw = np.random.default_rng(0)
  for shard in range(shards):
    tokens_RL = draw.integers(0, VOCAB, (rows, LENGTH)).astype(np.uint16)
    packed.write_shard(
      folder / 'a/train', shard, tokens_RL, np.ones_like(tokens_RL), {'rows': rows}
    )
  finish(folder, [rows] * shards)


def write_large(folder: Path) -> None:
  """10 GiB of rows, which take no place on the disk because they are holes in their files."""
  rows = LARGE // 40 // (4 * LENGTH)
  write(folder, 1, 1)
  for shard in range(40):
    for name, shape in (('tokens', (rows, LENGTH)), ('segment', (rows, LENGTH)), ('sums', (rows,))):
      path = folder / f'a/train/{name}-{shard:05d}.npy'
      dtype = np.uint32 if name == 'sums' else np.uint16
      np.lib.format.open_memmap(path, 'w+', dtype, shape).flush()
    write_json(folder / f'a/train/shard-{shard:05d}.json', {'rows': rows})
  finish(folder, [rows] * 40)


def finish(folder: Path, rows: list[int]) -> None:
  source = {'train': {'rows': sum(rows), 'shard_rows': rows}}
  about = {'fingerprint': 'x', 'length': LENGTH, 'sources': {'a': source}, 'files': {}}
  write_json(folder / 'tokenize.json', about)


def seconds(work: Callable[[], object], times: int = 5) -> float:
  """The least processor time of several times; a busy machine does not count."""
  found = []
  for _ in range(times):
    began = time.process_time()
    work()
    found.append(time.process_time() - began)
  return min(found)


def main() -> None:
  tokenizer = SimpleNamespace(fingerprint='x', vocab_size=VOCAB)
  with tempfile.TemporaryDirectory() as place:
    small, large, file = Path(place, 'small'), Path(place, 'large'), Path(place, 'file')
    write(small, SHARDS, ROWS)
    order = np.random.default_rng(1).permutation(SHARDS * ROWS)[:256].tolist()
    rows = packed.make(tokenizer, path=str(small))
    with_sums = seconds(lambda: [rows[i] for i in order], 200) / len(order)
    for path in small.rglob('shard-*.json'):
      path.write_text(json.dumps({'rows': ROWS}))
    plain = packed.make(tokenizer, path=str(small))
    without = seconds(lambda: [plain[i] for i in order], 200) / len(order)
    write_large(large)
    opened = seconds(lambda: packed.make(tokenizer, path=str(large))[0])
    file.write_bytes(os.urandom(1 << 28))
    hashed = seconds(lambda: sha256(file), 3) / (1 << 28)
  print(
    f'a row of {LENGTH} tokens: {with_sums * 1e6:.1f} us, without its sum {without * 1e6:.1f} us'
  )
  rate = LENGTH / (with_sums - without) if with_sums > without else float('inf')
  print(f'so sums take 2 % of the time at {0.02 * rate / 1e6:.1f}M tokens/s and host')
  print(f'opening 10 GiB and reading a row: {opened * 1e3:.1f} ms')
  print(f'sha256 of parameters and checkpoints: {1 / hashed / 1e9:.2f} GB/s')


if __name__ == '__main__':
  main()
