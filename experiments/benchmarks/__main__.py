"""Training, decoding and reading data on this machine, against torch where it is installed.

On a CPU: the small shapes of `train_vs_torch`, `decode_vs_hf` and `data_vs_torch`. With a GPU or
TPU: the house's sizes by `train_step`, and reading data. Each is a command of its own; here they
run one after the other. Prints one JSON table.

    pip install -e '.[bench]' && python -m experiments.benchmarks
"""

import argparse
import importlib.util
import json
import subprocess
import sys
from typing import Any

from experiments.benchmarks import turns

# What is measured: a module of this folder, its arguments, and the peers it has.
ON_CPU = {
  'training, float32': ('train_vs_torch', [], 'torch eager,torch compile'),
  'training, bfloat16 products': ('train_vs_torch', ['--bfloat16'], 'torch compile'),
  'decoding, batch 1': ('decode_vs_hf', ['--batch', '1'], 'hugging face'),
  'decoding, batch 16': ('decode_vs_hf', ['--batch', '16'], 'hugging face'),
  'data': ('data_vs_torch', [], 'torch,torch with 2 workers'),
}
UNROLLED = 'remat=none,scan_layers=False'
CASES = [
  f'125m,batch=16,{UNROLLED}', f'1b,batch=4,{UNROLLED}', f'8b,num_layers=4,batch=4,{UNROLLED}',
]  # fmt: skip


def measure(module: str, arguments: list[str]) -> Any:
  """What a module prints last, as JSON; or the end of what it says where it fails."""
  command = [sys.executable, '-m', f'experiments.benchmarks.{module}', *arguments]
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    return {'failed': done.stderr.strip().splitlines()[-1:]}
  start = done.stdout.rfind('\n{\n')
  return json.loads(done.stdout[start + 1 :])


def on_accelerator() -> bool:
  """Whether JAX finds one, asked in a process of its own: this one must not hold it."""
  command = [sys.executable, '-c', 'import jax; print(jax.default_backend())']
  told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
  return told[-1] != 'cpu'


def main() -> None:
  """Runs all of them and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--blocks', type=int, default=5, help='timed blocks of each side')
  options = parser.parse_args()
  peers = all(importlib.util.find_spec(name) for name in ('torch', 'transformers'))
  blocks = ['--blocks', str(options.blocks)]
  table = {}
  runs = ON_CPU
  if on_accelerator():
    runs = {'data': ON_CPU['data']}
    table['training'] = measure('train_step', [*CASES, *(['--peer'] if peers else [])])
  for name, (module, arguments, whom) in runs.items():
    table[name] = measure(module, [*arguments, *blocks, '--peers', whom if peers else ''])
    print(name, table[name], file=sys.stderr, flush=True)
  print(json.dumps({**turns.where(), 'table': table}, indent=2))


if __name__ == '__main__':
  main()
