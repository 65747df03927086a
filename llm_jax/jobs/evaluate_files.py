"""What job `evaluate` writes: the numbers, the answers, and a page that needs no other file.

evaluate.json              all numbers, with intervals and differences, and what was answered
report.html                the same for people
<model>/results.json       the numbers of a model as lm-evaluation-harness writes them
<model>/samples_<task>.jsonl   a line for each question: prompt, choices, scores, answer
kept/<identity>.jsonl      answers that are not asked for again
"""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import llm_jax
from llm_jax import artifact
from llm_jax.evals import estimates
from llm_jax.files import replacing, write_json, write_lines, write_plain
from llm_jax.jobs import comparison, tasks
from llm_jax.jobs.comparison import Line
from llm_jax.jobs.measure import Measured
from llm_jax.jobs.page import Block, Figure, Fold, Heading, Table, Text, page

SHOWN = 12  # questions of a task on the page
LONGEST = 1500  # characters of a text on the page
NOTE = (
  "Brackets hold 95% intervals: Student's t, Wilson's where that would leave [0, 1], the bootstrap "
  'for what is no mean; questions that share a passage count as one. A score is bold where it is '
  'better than that of {against} and the interval of their paired difference, question by '
  'question, does not hold 0 (of accuracies also p < 0.05). "cut" and "failed" are the shares of '
  'questions whose context lost something and that could not be asked. p is that of '
  "McNemar's exact test."
)


def numbers(output: str) -> Path:
  """The file of the numbers: `output` itself, or a file in that folder."""
  path = Path(output)
  return path if path.suffix == '.json' else path / 'evaluate.json'


def folder(output: str) -> Path:
  """The folder of everything else: `output` itself, or the one that is called like that file."""
  path = Path(output)
  return path.with_suffix('') if path.suffix == '.json' else path


def write(
  output: str,
  asked: tasks.Asked,
  measured: Mapping[str, Measured],
  lines: Sequence[Line],
  against: str,
) -> None:
  """Writes all files, each whole or not at all.

  Args:
    output: `config.output`.
    asked: what the models were put to.
    measured: artifact -> what was measured.
    lines: of its metrics, see comparison.py.
    against: the artifact that the others are compared with.
  """
  place = folder(output)
  place.mkdir(parents=True, exist_ok=True)
  numbers(output).parent.mkdir(parents=True, exist_ok=True)
  for path, name in _folders([*measured]).items():
    (place / name).mkdir(exist_ok=True)
    write_plain(place / name / 'results.json', results(path, asked, measured[path]))
    for key, said in measured[path].said.items():
      rows = [{**question, 'answer': answer} for question, answer in said]
      write_lines(place / name / f'samples_{_file(key)}.jsonl', rows)
  with replacing(place / 'report.html') as file:
    title = f'Evaluation of {", ".join(measured)}'
    file.write(page([*_blocks(asked, measured, lines, against)], title).encode())
  write_json(numbers(output), _facts(asked, measured, lines, against))


def results(path: str, asked: tasks.Asked, measured: Measured) -> dict[str, Any]:
  """The numbers of a model in the form of lm-evaluation-harness."""
  found: dict[str, dict[str, Any]] = {}
  better: dict[str, dict[str, bool]] = {}
  for name, value in measured.metrics.items():
    key, _, metric = name.partition('/')
    one = measured.per_question.get(name)
    row = found.setdefault(key, {'alias': key})
    if one is None:
      continue
    error = estimates.estimate(one).error
    row[f'{metric},none'] = value
    row[f'{metric}_stderr,none'] = 'N/A' if math.isnan(error) else error
    better.setdefault(key, {})[metric] = not one.fewer
  count = lambda key: len(measured.said.get(key, ()))
  failed = lambda key: sum(bool(row.get('failed')) for row, _ in measured.said.get(key, ()))
  return {
    'results': found,
    'group_subtasks': {name: [*keys] for name, keys in asked.suites.items()},
    'configs': {key: _plain(group) for key, group in asked.groups.items()},
    'versions': dict.fromkeys(found, llm_jax.__version__),
    'n-shot': {key: tasks.shots(asked.groups[key]) for key in asked.tasks},
    'higher_is_better': better,
    'n-samples': {
      key: {'original': count(key), 'effective': count(key) - failed(key)} for key in found
    },
    'config': {'model': 'llm_jax', 'model_args': path},
    'git_hash': artifact.commit(),
    'total_evaluation_time_seconds': sum(measured.seconds.values()),
  }


def _plain(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {str(key): _plain(one) for key, one in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(one) for one in value]
  return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _facts(
  asked: tasks.Asked, measured: Mapping[str, Measured], lines: Sequence[Line], against: str
) -> dict[str, Any]:
  """What evaluate.json has; questions that differ between models are in their own files."""
  names = [*measured]
  same = lambda one: [pair for key in one.said for pair in one.said[key] if 'scores' not in pair[0]]
  rows = [
    {**question, 'answers': {path: same(one)[i][1] for path, one in measured.items()}}
    for i, (question, _) in enumerate(same(measured[names[0]]))
  ]
  return {
    'evals': _plain(asked.groups),
    'metrics': {
      path: {name: round(value, 4) for name, value in one.metrics.items()}
      for path, one in measured.items()
    },
    'intervals': {
      path: {
        line.name: {'value': line.values[i], **(comparison.interval(line.intervals[i]) or {})}
        for line in lines
        if line.intervals[i] is not None
      }
      for i, path in enumerate(names)
    },
    'against': against,
    'differences': {path: _differences(lines, i) for i, path in enumerate(names)},
    'seconds': {path: one.seconds for path, one in measured.items()},
    'rows': rows,
  }


def _differences(lines: Sequence[Line], i: int) -> dict[str, Any]:
  found = {}
  for line in lines:
    if (pair := line.differences[i]) is not None:
      known = lambda x: None if math.isnan(x) else x
      one = {name: known(value) for name, value in pair[0]._asdict().items()}
      found[line.name] = one | (pair[1]._asdict() if pair[1] else {})
  return found


def _folders(paths: Sequence[str]) -> dict[str, str]:
  """Artifact -> the name of its folder."""
  found: dict[str, str] = {}
  for path in paths:
    name = _file(path)
    found[path] = name if name not in found.values() else f'{name}_{len(found)}'
  return found


def _file(name: str) -> str:
  r"""A name as that of a file.

  >>> _file('runs/tiny/sft'), _file('mmlu[form=full]')
  ('runs__tiny__sft', 'mmlu_form_full')
  """
  safe = re.sub(r'[^\w.-]+', '_', name.strip('/').replace('/', '__'))
  return safe.strip('._') or 'model'


def _blocks(
  asked: tasks.Asked, measured: Mapping[str, Measured], lines: Sequence[Line], against: str
) -> Iterator[Block]:
  names = [*measured]
  yield Heading(f'Evaluation of {", ".join(names)}', 1)
  yield comparison.scores(lines, names)
  yield Text(NOTE.format(against=against))
  if (table := comparison.apart(lines, names, against)) is not None:
    yield Heading('Differences on the same questions')
    yield table
  if (drawn := _drawing(lines, names)) is not None:
    yield drawn
  yield Heading('What was asked, and what it took')
  rows = []
  for key, group in asked.groups.items():
    given = [f'{k}={v}' for k, v in sorted(group.items()) if k not in ('name', 'task', 'shots')]
    took = [one.seconds.get(key) for one in measured.values()]
    count = str(tasks.shots(group)) if key in asked.tasks else comparison.NONE
    seconds = [comparison.NONE if one is None else f'{one:.1f}' for one in took]
    rows.append([key, count, ', '.join(given), *seconds])
  yield Table(('evaluation', 'shots', 'options', *(f'seconds, {name}' for name in names)), rows)
  for key in asked.groups:
    if any(one.said.get(key) for one in measured.values()):
      yield Heading(f'Questions: {key}')
      yield from _questions(key, measured)


def _questions(key: str, measured: Mapping[str, Measured]) -> Iterator[Block]:
  """The first questions, and what each model made of them."""
  said = {path: one.said.get(key, []) for path, one in measured.items()}
  for i, (question, _) in enumerate(next(iter(said.values()))[:SHOWN]):
    rows = []
    for path, pairs in said.items():
      row, answer = pairs[i] if i < len(pairs) else ({}, comparison.NONE)
      rows.append([path, _answer(row, answer), _scored(row)])
    gold = question.get('gold', question.get('answer', ''))
    choices = question.get('choices') or []
    right = choices[gold] if isinstance(gold, int) and gold < len(choices) else gold
    shown = [Table(('prompt', 'right'), [[_prompt(question), _short(str(right))]])]
    yield Fold(
      f'{i + 1}. {_short(_prompt(question)[-120:])}',
      [*shown, Table(('model', 'answer', 'scores'), rows)],
    )


def _prompt(question: Mapping[str, Any]) -> str:
  prompt = question.get('prompt', '')
  if isinstance(prompt, str):
    return _short(prompt, last=True)
  return _short('\n'.join(f'{one["role"]}: {one["content"]}' for one in prompt), last=True)


def _answer(row: Mapping[str, Any], answer: str) -> str:
  if row.get('failed'):
    return f'could not be asked: {row["failed"]}'
  choices, said = row.get('choices') or [], row.get('said')
  if isinstance(said, int) and len(choices) > 1 and said < len(choices):
    return _short(choices[said])
  return _short(answer)


def _scored(row: Mapping[str, Any]) -> str:
  return ', '.join(f'{name} {value:.3g}' for name, value in row.get('scores', {}).items())


def _short(text: str, last: bool = False) -> str:
  if len(text) <= LONGEST:
    return text
  return f'… {text[-LONGEST:]}' if last else f'{text[:LONGEST]} …'


def _drawing(lines: Sequence[Line], names: Sequence[str]) -> Figure | None:
  """Scores with their intervals, where matplotlib is installed and there are scores from 0 to 1."""
  shown = [
    line
    for line in lines
    if all(one is not None and one.low >= 0 and one.high <= 1 for one in line.intervals)
  ]
  if not shown:
    return None
  try:
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Drawing
  except ImportError:
    return None
  drawing = Drawing(figsize=(8, 0.9 + 0.22 * len(shown) * (len(names) + 1)), layout='constrained')
  ax = drawing.subplots()
  for j, name in enumerate(names):
    found = [one for line in shown if (one := line.intervals[j]) is not None]
    at = [-(i + (j + 1) / (len(names) + 1)) for i in range(len(found))]
    ends = [[one.mean - one.low for one in found], [one.high - one.mean for one in found]]
    ax.errorbar([one.mean for one in found], at, xerr=ends, fmt='o', ms=4, capsize=2, label=name)
  ax.set_yticks([-(i + 0.5) for i in range(len(shown))], [line.name for line in shown])
  ax.set(xlim=(0, 1), xlabel='score, with its 95% interval')
  ax.grid(axis='x', alpha=0.3)
  ax.legend(fontsize=8, loc='best')
  drawn = io.BytesIO()
  with rc_context({'svg.hashsalt': 'llm_jax'}):  # the same drawing is the same file
    drawing.savefig(drawn, format='svg', metadata={'Date': None})
  return Figure('scores.svg', drawn.getvalue(), 'scores of each model with their intervals')
