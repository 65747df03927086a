"""The train step as the compiler for TPUs sees it, without a TPU.

Compiles the step of each case by job `plan` and prints what a chip receives in a step, cycles as
the compiler estimates them, bytes copied to another order, and memory. `--text` reads another
program's HLO after optimisation by the same rules, such as what `XLA_FLAGS=--xla_dump_to` leaves
of a peer's.

    pip install -e '.[libtpu]'
    python -m experiments.benchmarks.aot
    python -m experiments.benchmarks.aot 8b,v6e:16x16,rows=256,length=8192 --text maxtext=step.txt
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs import plan as configs
from experiments.benchmarks import turns
from llm_jax.jobs import plan
from llm_jax.main import run

CASES = ['1b,v5e:4x4,rows=64,length=4096', '8b,v6e:16x16,rows=256,length=8192']


def config_of(case: str, output: str) -> Any:
  """The config of job `plan` for `<size>,<slice>,<option>=<value>,...`.

  Options are `rows`, `length`, `remat` (default 'full'), `accumulate`, `layers`, `experts` (of each
  layer, two for a token), and mesh axes.
  """
  size, hardware, *rest = case.split(',')
  options = dict(option.split('=') for option in rest)
  c = configs.get_config(size)
  c.hardware, c.search, c.output, c.train.accumulate = hardware, False, output, 1
  c.train.compute.remat = options.pop('remat', 'full')
  names = {'rows': 'batch_size', 'accumulate': 'accumulate'}
  for name, value in options.items():
    if name in names:
      c.train[names[name]] = int(value)
    elif name == 'length':
      c.length = int(value)
    elif name == 'layers':
      c.train.model.num_layers = int(value)
    elif name == 'experts':
      c.train.model.experts = ConfigDict(dict(count=int(value), per_token=2))
    else:
      c.train.mesh[name] = int(value)
  return c


def of_case(case: str) -> dict[str, Any]:
  """What the compiler says of one case."""
  with tempfile.TemporaryDirectory() as folder:
    run(config_of(case, f'{folder}/plan.json'))
    (compiled,) = json.loads(Path(folder, 'plan.json').read_text())['compiled']
  if not compiled['fits']:
    return {'fits': False, 'reason': compiled['reason']}
  return {**in_short(compiled), 'peak_gibibytes': round(compiled['bytes_at_peak'] / 2**30, 2)}


def in_short(costs: dict[str, Any]) -> dict[str, Any]:
  """The columns of the table, of `plan.costs`."""
  gigabytes = lambda n: round(n / 1e9, 2)
  received = {kind: c['bytes_received'] for kind, c in costs['collectives'].items()}
  return {
    'received_gigabytes': gigabytes(sum(received.values())),
    'received_by': {kind: gigabytes(n) for kind, n in received.items()},
    'estimated_megacycles': round(costs['estimated_cycles'] / 1e6),
    'copied_gigabytes': gigabytes(costs['bytes_copied']),
  }


def main() -> None:
  """Compiles all cases and prints them."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('cases', nargs='*', default=CASES, help='<size>,<slice>,rows=<n>,length=<n>')
  parser.add_argument('--text', action='append', default=[], help='<name>=<file of HLO>')
  options = parser.parse_args()
  table = {case: of_case(case) for case in options.cases}
  for one in options.text:
    name, _, path = one.partition('=')
    table[name] = in_short(plan.costs(Path(path).read_text()))
  print(json.dumps({**turns.where(), 'table': table}, indent=2))


if __name__ == '__main__':
  main()
