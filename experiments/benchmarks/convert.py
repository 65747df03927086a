"""Job `convert` both ways on a generated folder: how fast, and in how much memory.

The folder is a Llama of random bfloat16 weights, about 1 GB in 8 files. Import and export run in a
process each, as the command would; seconds and memory count from where everything is imported and
JAX has run its first operation. Memory is the resident set, read every 5 milliseconds, less that of
this moment; its bar is 1.3 times the largest file, the largest array of a layer, and 300 MB. Prints
one JSON table.

    pip install -e '.[hf]' && python -m experiments.benchmarks.convert
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks import turns

FILES, LAYER_BYTES, RATE = 8, 59e6, 100  # RATE: the bar, MB of weights a second


def write(folder: Path, size: float) -> None:
  """A folder of about `size` bytes."""
  import ml_dtypes
  import numpy as np

  from llm_jax.models import huggingface, transformer
  from llm_jax.models.huggingface import folder as theirs
  from llm_jax.text import tokenizer_export
  from llm_jax.text.tokenizer import Tokenizer

  model = transformer.make(
    vocab_size=32000, dim=1536, num_layers=max(1, round((size - 197e6) / LAYER_BYTES)),
    num_heads=12, num_kv_heads=4, hidden_dim=5120, max_length=2048, head='untied',
  )  # fmt: skip
  sources, draw = huggingface.plan(model.shape, 'llama').sources, np.random.default_rng(0)
  kind = np.dtype(ml_dtypes.bfloat16)
  make = lambda s: (draw.standard_normal(s.shape, dtype=np.float32) * 0.02).astype(kind)
  dtypes, whole = {s.name: kind for s in sources}, sum(math.prod(s.shape) * 2 for s in sources)
  about = huggingface.config_of(model.shape, 'llama') | {'torch_dtype': 'bfloat16'}
  folder.mkdir()
  # A little more, for files that end before an array which would not fit.
  theirs.write(folder, about, sources, make, dtypes, shard_bytes=whole // FILES + 16_000_000)
  tokenizer = Tokenizer.train(['the cat sat on the mat'], vocab_size=290)
  tokenizer_export.save(tokenizer, folder, [tokenizer.eos_id])


def resident() -> int:
  """Bytes of this process that are in memory."""
  return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def worker(arguments: list[str]) -> None:
  """Runs the command, and prints what it took."""
  from llm_jax import main
  from llm_jax.parallel.flags import tune_cpu

  tune_cpu()
  import jax.numpy as jnp
  import orbax.checkpoint  # noqa: F401, and all others that the job would import
  import safetensors.numpy  # noqa: F401
  import tensorstore  # noqa: F401

  from llm_jax.jobs import convert  # noqa: F401

  jnp.zeros(3).block_until_ready()
  base = most = resident()
  ended = threading.Event()

  def watch() -> None:
    nonlocal most
    while not ended.wait(0.005):
      most = max(most, resident())

  watcher = threading.Thread(target=watch)
  watcher.start()
  start, before = time.perf_counter(), sum(os.times()[:2])
  main.main(['llm_jax', '--config=convert', *arguments])
  seconds, cpu = time.perf_counter() - start, sum(os.times()[:2]) - before
  ended.set()
  watcher.join()
  print(json.dumps({'seconds': seconds, 'cpu': cpu, 'base': base, 'peak': most - base}))


def measure(arguments: list[str], weights: Path) -> dict[str, Any]:
  """A row of the table: what the command took, for a folder of theirs that it reads or writes."""
  command = [sys.executable, '-m', 'experiments.benchmarks.convert', '--worker', *arguments]
  told = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
  took = json.loads(told.splitlines()[-1])
  from llm_jax.models.huggingface.folder import Folder

  found = Folder(weights)
  sizes = [(weights / file).stat().st_size for file in found.shards]
  of_layer = max(math.prod(shape) * 2 for name, shape in found.shapes.items() if 'layers' in name)
  return {
    'weights, MB': round(sum(sizes) / 1e6),
    'largest file, MB': round(max(sizes) / 1e6),
    'seconds': round(took['seconds'], 1),
    'seconds of processors': round(took['cpu'], 1),
    'MB a second': round(sum(sizes) / 1e6 / took['seconds']),
    'bar, MB a second': RATE,
    'base, MB': round(took['base'] / 1e6),
    'peak over base, MB': round(took['peak'] / 1e6),
    'bar of memory, MB': round((1.3 * max(sizes) + of_layer) / 1e6 + 300),
  }


def main() -> None:
  """Writes the folder, converts it there and back, and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--gigabytes', type=float, default=1.0, help='of weights')
  parser.add_argument('--worker', nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.worker is not None:
    return worker(options.worker)
  with tempfile.TemporaryDirectory() as name:
    place = Path(name)
    source, ours, out = place / 'theirs', place / 'ours', place / 'out'
    write(source, options.gigabytes * 1e9)
    most = max(file.stat().st_size for file in source.glob('*.safetensors'))
    both = {
      'import': measure([f'--config.source={source}', f'--config.workdir={ours}'], source),
      'export': measure(
        [f'--config.artifact={ours}', f'--config.workdir={out}', f'--config.shard_bytes={most}'],
        out,
      ),
    }
  print(json.dumps({**turns.where(), **both}, indent=2))


if __name__ == '__main__':
  main()
