"""A row of the records table from the report of a pipeline.

python -m experiments.speedrun.record runs/gpt runs/llama runs/r1
"""

import argparse
import datetime
import json
import os
import platform
from pathlib import Path

HEADER = (
  *('recipe', 'date', 'commit', 'machine', 'time', 'bits per byte of the base', 'base', 'sft'),
  *('last', 'KL of the last'),
)
SCORE = 'questions/word_problems/exact_answer'


def row(folder: Path) -> list[str]:
  """The cells of one record; accuracies are those of held-out word problems."""
  facts = json.loads((folder / 'report.json').read_text())
  stages = facts['stages']
  asked = [name for name in stages if 'metrics' in stages[name]]
  seconds = sum(json.loads((folder / 'seconds.json').read_text()).values())  # the report's too
  made = (folder / 'report.json').stat().st_mtime
  cores = f' ({os.cpu_count()} cores, {platform.machine()})' if facts['device'] == 'cpu' else ''
  score = lambda name: f'{stages[name]["metrics"][SCORE]:.3f}'
  return [
    facts['recipe'],
    datetime.date.fromtimestamp(made).isoformat(),
    (facts['commit'] or '')[:7],
    f'{facts["devices"]} x {facts["device"]}{cores}',
    f'{int(seconds // 60)}:{int(seconds % 60):02d}',
    f'{stages[asked[0]]["metrics"]["text/bits_per_byte"]:.3f}',
    score(asked[0]),
    score('sft'),
    score(asked[-1]),
    f'{stages[asked[-1]]["metrics"]["rollouts/kl"]:.2f}',
  ]


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folders', nargs='+', type=Path)
  line = lambda cells: f'| {" | ".join(cells)} |'
  print(line(HEADER))
  print(line(['---'] * len(HEADER)))
  for folder in parser.parse_args().folders:
    print(line(row(folder)))


if __name__ == '__main__':
  main()
