"""Trains what is missing of the runs of config.py, and prints one table beside what needs no model.

python -m experiments.classify.compare --seeds=3
"""

import argparse
import math
from pathlib import Path

from experiments.classify import config
from experiments.classify.bag_of_words import floors
from llm_jax import main as llm_jax
from llm_jax.evals.statistics import wilson
from llm_jax.training import metrics

METRIC = {'sst2': 'accuracy', 'rte': 'accuracy', 'cola': 'mcc'}
NAMES = {'head': {'accuracy': 'accuracy', 'mcc': 'mcc'}, 'text': {'accuracy': 'acc', 'mcc': 'mcc'}}
FORMS = tuple(NAMES)


def worth(name: str) -> dict[str, float]:
  """The last numbers of a run on the validation split, by metric."""
  folder, form = Path(config.ROOT) / name, name.split('-')[1]
  found = [record for record in metrics.read(folder) if 'validation/mcc' in record][-1]
  numbers = {ours: found[f'validation/{theirs}'] for ours, theirs in NAMES[form].items()}
  return numbers | {'n': found['validation/texts' if form == 'head' else 'validation/questions']}


def interval(value: float, n: float, metric: str) -> tuple[float, float]:
  """95 % of one run, for other texts: Wilson's of a share, Fisher's of a correlation."""
  if metric == 'accuracy':
    return wilson(value * n, int(n))
  z, wide = math.atanh(value), 1.96 / math.sqrt(n - 3)
  return math.tanh(z - wide), math.tanh(z + wide)


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--forms', nargs='*', default=FORMS)
  args = parser.parse_args()
  for name in ('pretrain', 'made-head', 'seen-head'):
    llm_jax.run(config.get_config(name))
  print('| task | metric | what | mean of seeds | each seed | 95 % for other texts |')
  print('|---|---|---|---:|---|---|')
  for task, metric in METRIC.items():
    for form in args.forms:
      names = [f'{task}-{form}-{seed}' for seed in range(args.seeds)]
      for name in names:
        llm_jax.run(config.get_config(name))
      found = [worth(name) for name in names]
      values = [one[metric] for one in found]
      mean = sum(values) / len(values)
      low, high = interval(mean, found[0]['n'], metric)
      each = ', '.join(f'{value:.3f}' for value in values)
      print(f'| {task} | {metric} | by {form} | {mean:.3f} | {each} | {low:.3f} to {high:.3f} |')
    for what, numbers in floors(Path(config.ROOT) / 'data', task).items():
      print(f'| {task} | {metric} | {what} | {numbers[metric]:.3f} | | |')


if __name__ == '__main__':
  main()
