"""Seconds from typing the README's first command to its first training step.

Runs the main job in an empty folder twice: cold (no compiled programs kept, no tokens) and warm
(the persistent compilation cache, and tokens, of the first run). Prints one JSON table.

    python -m experiments.benchmarks.first_step
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.benchmarks import turns

ROOT = Path(__file__).parents[2]


def seconds_to_first_step(folder: str, run: str) -> float:
  """Starts the command, waits for the line of step 1, and stops it."""
  command = [sys.executable, '-m', 'llm_jax.main', '--config=configs/pretrain.py']
  command += [f'--config.workdir={folder}/{run}', f'--config.tokenize.workdir={folder}/tokens']
  environment = {**os.environ, 'XDG_CACHE_HOME': f'{folder}/cache'}
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)
  start = time.perf_counter()
  process = subprocess.Popen(
    command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
  )
  assert process.stdout is not None
  for line in process.stdout:
    if 'first step' in line:
      break
  else:
    raise SystemExit(f'{" ".join(command)} ended before its first step')
  seconds = time.perf_counter() - start
  process.terminate()
  process.communicate()
  return seconds


def main() -> None:
  """Measures both and prints them."""
  with tempfile.TemporaryDirectory() as folder:
    cold = seconds_to_first_step(folder, 'cold')
    warm = seconds_to_first_step(folder, 'warm')
  table = {
    **turns.where(),
    'seconds': {'cold': round(cold, 1), 'warm': round(warm, 1)},
  }
  print(json.dumps(table, indent=2))


if __name__ == '__main__':
  main()
