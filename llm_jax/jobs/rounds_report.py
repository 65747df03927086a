"""The rows of a report that follow a model through the rounds of its pipeline."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from llm_jax import artifact
from llm_jax.evals import win_rates
from llm_jax.files import read_json, sha256
from llm_jax.jobs import feedback, feedback_report, matches, rounds
from llm_jax.jobs.page import Block, Heading, Table, Text
from llm_jax.labels.feedback import FILES
from llm_jax.serving.feedback import Feedback

NONE = '–'


def check(config: Any) -> None:
  """Raises BadInput where the models of two rounds cannot be compared."""
  if config.get('rounds', 1) < 2 or not config.report.get('rounds'):
    return
  coming = [config[name].workdir for name in config.stages]
  found = [rounds.newest(config, names, 'policy') for names in _so_far(config)]
  for number in range(1, len(found)):
    if found[number - 1] and found[number] != found[number - 1]:
      own = _matches(config, number, found[number], found[number - 1])
      if own is not None:
        matches.check(own, coming=coming)


def measured(config: Any, stages: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
  """A row for each round that has a model, of numbers alone; none where there is one round.

  Args:
    config: of the pipeline.
    stages: what the report knows of those that have finished.
  """
  if config.get('rounds', 1) < 2:
    return []
  thumbs, out, before = _thumbs(config), [], None
  for number, names in enumerate(rounds.of(config)):
    there = [name for name in names if name in stages]
    policy = rounds.newest(config, there, 'policy')
    if policy is None:
      continue
    row: dict[str, Any] = {'round': number + 1, 'policy': policy}
    if asked := rounds.newest(config, there, 'feedback'):
      exported = read_json(Path(config[asked].workdir) / feedback.EXPORT, feedback.REMEDY)
      row |= {'rows': exported['rows'], 'agreement': exported['agreement']}
    row['thumbs'] = thumbs.get(sha256(Path(config[policy].workdir) / artifact.FILE))
    row['metrics'] = stages[policy].get('metrics', {})
    comparable = before and config.report.get('rounds') and jax.process_count() == 1
    own = _matches(config, number, policy, before) if comparable else None
    if own is not None:
      (pair,) = matches.play(own).pairs
      row['against_before'] = win_rates.row(pair)
      row['judge'] = own.judge.name
    out.append(row)
    before = policy
  return out


def blocks(facts: Mapping[str, Any], columns: Sequence[Sequence[str]]) -> list[Block]:
  """The heading and the table, where there are rounds.

  Args:
    facts: what `report.json` has.
    columns: (metric, heading) of the report; the metrics of questions are shown.
  """
  rows = facts.get('rounds') or []
  if not rows:
    return []
  keys = [metric for metric, _ in columns] or ['questions']
  metrics = [
    name
    for name in dict.fromkeys(name for row in rows for name in row['metrics'])
    if name.startswith('questions/') and any(name.startswith(key) for key in keys)
  ]
  heads = [name.partition('/')[2].replace('_', ' ').replace('/', ' ') for name in metrics]
  judge = next((row['judge'] for row in rows if 'judge' in row), '')
  table = Table(
    (
      *('round', 'model', *FILES, 'users agree'),
      f'wins against the round before{f" ({judge})" if judge else ""}',
      *(*heads, 'thumbs up'),
    ),
    [[*_cells(row), *(_number(row['metrics'].get(name)) for name in metrics), _up(row)]
     for row in rows],
  )  # fmt: skip
  told = (
    'Rows are those that a round was trained on, from thumbs and corrections of the model before '
    'it. Thumbs up are of the answers of the model itself, as a mean over users. A rise of thumbs '
    'with a fall of right answers is flattery.'
  )
  return [Heading('Rounds'), table, Text(told), *map(Text, flattery(rows, metrics))]


def flattery(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[str]:
  """A warning for each round that is liked more than the one before, and is less often right."""
  found = []
  for before, after in itertools.pairwise(rows):
    if not before['thumbs'] or not after['thumbs']:
      continue
    liked = [row['thumbs']['share'] for row in (before, after)]
    both = [name for name in metrics if name in before['metrics'] and name in after['metrics']]
    for name in both:
      right = [row['metrics'][name] for row in (before, after)]
      if liked[1] > liked[0] and right[1] < right[0]:
        found.append(
          f'Round {after["round"]}: thumbs up went from {liked[0]:.3f} to {liked[1]:.3f}, and '
          f'{name} from {right[0]:.3f} to {right[1]:.3f}: it may have learned to please.'
        )
  return found


def _cells(row: Mapping[str, Any]) -> list[str]:
  counts = [f'{row["rows"][name]:,}' if 'rows' in row else NONE for name in FILES]
  agreement, against = row.get('agreement'), row.get('against_before')
  agree, won = NONE, NONE
  if agreement and agreement['n']:
    agree = f'{agreement["share"]:.2f} (n = {agreement["n"]:,})'
  if against:
    won = f'{_number(against["win_rate"])} [{_number(against["low"])}, {_number(against["high"])}]'
    won += f' (n = {against["n"]:,})'
  return [str(row['round']), row['policy'], *counts, agree, won]


def _up(row: Mapping[str, Any]) -> str:
  thumbs = row['thumbs']
  if not thumbs:
    return NONE
  return f'{thumbs["share"]:.3f} (n = {thumbs["up"] + thumbs["down"]:,})'


def _number(value: float | None) -> str:
  return NONE if value is None else f'{value:.3f}'


def _so_far(config: Any) -> list[list[str]]:
  """The stages up to the end of each round."""
  found: list[list[str]] = []
  for names in rounds.of(config):
    found.append([*(found[-1] if found else []), *names])
  return found


def _matches(config: Any, number: int, policy: Any, before: Any) -> Any:
  """The config of job `matches` between the models of a round and of the one before it.

  None where the judge would be the reward model of the round, and there is none by then.
  """
  own = copy.deepcopy(config.report.rounds)
  with own.unlocked():
    own.artifacts, own.against = (config[policy].workdir,), config[before].workdir
    if own.judge.get('path') == '':
      judge = rounds.newest(config, _so_far(config)[number], 'reward')
      if judge is None:
        return None
      own.judge.path = config[judge].workdir
  return own


def _thumbs(config: Any) -> dict[str, Any]:
  """Thumbs by the fingerprint of the model, of all events that there are by now."""
  files = {stage.events for stage in map(config.get, config.stages) if stage.job == 'feedback'}
  found: dict[str, Any] = {}
  for path in sorted(files):
    if Path(path).is_file():
      log = Feedback(path)
      try:
        found |= feedback_report.measured(log.events())['artifacts']
      finally:
        log.close()
  return found
