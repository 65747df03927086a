"""Rows of the tables of records, from the reports of pipelines.

python -m experiments.speedrun.record runs/gpt runs/llama runs/r1
python -m experiments.speedrun.record runs/gpt-0 runs/gpt-1 runs/gpt-2
"""

import argparse
import datetime
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_jax.files import read_json

SCORE = 'questions/word_problems/exact_answer'
LAST = {  # what is asked of the last model that was trained
  'with a calculator': 'tools/word_problems/exact_answer',
  'Python questions': 'questions/python_questions/same_text',
  'as second questions': 'second/python_questions/same_text',
  'natural prompts': 'questions/small_talk/mentions',
  'spelling': 'questions/spelling/same_text',
  'spelling with a tool': 'tools/spelling/same_text',
  'KL': 'rollouts/kl',
}
HEADER = (
  *('run', 'date', 'commit', 'machine', 'time', 'bits per byte of the base'),
  *('base', 'sft', 'last', *LAST),
)


def facts_of(folder: Path) -> dict[str, Any]:
  """What a pipeline wrote of itself; ends the program in one line where there is nothing."""
  report = folder / 'report.json'
  if not report.is_file():
    raise SystemExit(
      f'error: {folder}: no report.json here; a pipeline writes it at its end, and '
      '--config.only=report of the same command makes it of what is there'
    )
  return read_json(report, 'make it again with --config.only=report')


def row(folder: Path) -> list[str]:
  """The cells of one run; `base`, `sft` and `last` are shares of right word problems, held out."""
  facts = facts_of(folder)
  seconds = read_json(folder / 'seconds.json', 'give the folder of another run')
  stages = facts['stages']
  asked = [name for name in stages if stages[name].get('metrics') and name != 'compressed']
  total = sum(seconds.values())  # of all stages and the report
  made = (folder / 'report.json').stat().st_mtime
  cores = f' ({os.cpu_count()} cores, {platform.machine()})' if facts['device'] == 'cpu' else ''
  return [
    folder.name,
    datetime.date.fromtimestamp(made).isoformat(),
    (facts['commit'] or '')[:7],
    f'{facts["devices"]} x {facts["device"]}{cores}',
    f'{int(total // 60)}:{int(total % 60):02d}',
    _cell(stages[asked[0]], 'text/bits_per_byte'),
    *(_cell(stages[name], SCORE) for name in (asked[0], 'sft', asked[-1])),
    *(_cell(stages[asked[-1]], key) for key in LAST.values()),
  ]


def _cell(stage: Mapping[str, Any], key: str) -> str:
  value = stage['metrics'].get(key)
  return '–' if value is None else f'{value:.3f}'


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folders', nargs='+', type=Path)
  line = lambda cells: f'| {" | ".join(cells)} |'
  rows = [row(folder) for folder in parser.parse_args().folders]
  print(line(HEADER))
  print(line(['---'] * len(HEADER)))
  for cells in rows:
    print(line(cells))


if __name__ == '__main__':
  main()
