"""Reading packed rows in a new order each epoch: the house's reader against torch's DataLoader.

Both read the same memory-mapped shards and make the same four arrays of a batch (tokens, segment,
position, mask), on one process each that take turns. Prints one JSON table.

    pip install -e '.[bench]' && python -m experiments.benchmarks.data_vs_torch
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import turns

ROWS, SHARDS, BATCH = 8192, 4, 64


def write(folder: Path, length: int) -> None:
  """Shards of rows of about six documents each."""
  from llm_jax.data.packed import write_shard

  draw = np.random.default_rng(0)
  for shard in range(SHARDS):
    rows = ROWS // SHARDS
    segment = 1 + (draw.uniform(size=(rows, length)) < 5 / length).cumsum(1, dtype=np.uint16)
    tokens = draw.integers(0, 32768, (rows, length), np.uint16)
    write_shard(folder, shard, tokens, segment.astype(np.uint16), {'rows': rows})


def jax_worker(folder: str) -> None:
  """Reads a batch on request, as job `train` does before it reads ahead."""
  import jax

  from llm_jax.data.packed import MappedRows
  from llm_jax.parallel.mesh import make_mesh
  from llm_jax.training.batches import make_read

  rows: Any = MappedRows(Path(folder), [ROWS // SHARDS] * SHARDS)
  read = make_read(rows, make_mesh(), batch_size=BATCH, seed=0)
  number = iter(range(10**9))
  turns.serve(
    lambda: jax.block_until_ready(read(next(number))), lambda batch: float(batch['mask'].mean())
  )


def torch_worker(folder: str, workers: int) -> None:
  """The same rows, worked out with the same arithmetic, by a DataLoader that shuffles."""
  import torch
  from torch.utils.data import DataLoader, Dataset

  names = [f'{shard:05d}.npy' for shard in range(SHARDS)]
  load = lambda name: np.load(Path(folder) / name, mmap_mode='r')

  class Packed(Dataset):
    def __init__(self) -> None:
      self.tokens = [load(f'tokens-{name}') for name in names]
      self.segment = [load(f'segment-{name}') for name in names]

    def __len__(self) -> int:
      return ROWS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
      shard, row = divmod(index, ROWS // SHARDS)
      tokens = torch.from_numpy(self.tokens[shard][row].astype(np.int32))
      segment = torch.from_numpy(self.segment[shard][row].astype(np.int32))
      column = torch.arange(len(segment), dtype=torch.int32)
      first = torch.ones_like(segment, dtype=torch.bool)
      first[1:] = segment[1:] != segment[:-1]
      position = column - torch.where(first, column, 0).cummax(0).values
      mask = ((segment > 0) & ~first).float()
      return {'tokens': tokens, 'segment': segment, 'position': position, 'mask': mask}

  loader = DataLoader(
    Packed(), batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
  )

  def forever() -> Iterator[Any]:
    while True:
      yield from loader

  batches = forever()
  turns.serve(lambda: next(batches), lambda batch: float(batch['mask'].mean()))


def main() -> None:
  """Writes the shards, starts both workers, lets them take turns, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--length', type=int, default=2048, help='tokens of a row')
  parser.add_argument('--steps', type=int, default=50, help='batches in a block')
  parser.add_argument('--blocks', type=int, default=7, help='timed blocks of each side')
  parser.add_argument('--peers', default='torch,torch with 2 workers', help="'' for none")
  parser.add_argument('--folder', default='', help=argparse.SUPPRESS)
  parser.add_argument('--worker', default='', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.worker == 'llm_jax':
    return jax_worker(options.folder)
  if options.worker:
    return torch_worker(options.folder, 2 if 'workers' in options.worker else 0)
  with tempfile.TemporaryDirectory() as folder:
    write(Path(folder), options.length)
    table = turns.take(
      'experiments.benchmarks.data_vs_torch',
      ['llm_jax', *filter(None, options.peers.split(','))],
      ['--folder', folder],
      steps=options.steps, blocks=options.blocks, tokens=BATCH * options.length,
    )  # fmt: skip
  print(json.dumps({**turns.where(), 'length': options.length, 'batch': BATCH, **table}, indent=2))


if __name__ == '__main__':
  main()
