"""Models side by side: each metric with its interval, and whether the models differ in it.

Two models that were asked the same questions are compared question by question. A score is bold
only where it is better than that of the model that all are compared with, the interval of their
paired difference does not hold 0, and of accuracies McNemar's p is below 0.05: at 200 questions,
scores of 0.30 and 0.35 say little.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from llm_jax.evals import estimates
from llm_jax.evals.differences import Difference, McNemar
from llm_jax.evals.estimates import PerQuestion
from llm_jax.evals.statistics import Interval
from llm_jax.jobs.measure import Measured
from llm_jax.jobs.page import Table

NONE = '–'
SHARES = ('cut', 'failed')  # of the questions of a task; columns, and no rows
COUNT = 'questions'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
  """A metric of all models; each list has an entry for each of them.

  Attributes:
    name: '<key>/<metric>', or what a mean is over.
    values: None where a model has no such metric.
    intervals: None where nothing is known of single questions.
    differences: this one minus that which all are compared with, and McNemar's test of accuracies.
    cut: share of questions whose context lost something.
    failed: share of questions that could not be asked.
    fewer: whether less is better.
  """

  name: str
  values: list[float | None]
  intervals: list[Interval | None]
  differences: list[tuple[Difference, McNemar | None] | None]
  cut: list[float | None]
  failed: list[float | None]
  fewer: bool = False


def lines(
  measured: Mapping[str, Measured],
  against: str,
  tasks: Sequence[str] = (),
  suites: Mapping[str, Sequence[str]] = {},
) -> list[Line]:
  """A line for each metric, and those for means of subjects and of tasks.

  Args:
    measured: artifact -> what was measured.
    against: the artifact that the others are compared with.
    tasks: keys of the evaluations that are benchmarks; means over tasks are over these.
    suites: name -> keys of its tasks, which have means of their own.
  """
  found = []
  for name in dict.fromkeys(name for one in measured.values() for name in one.metrics):
    key, _, metric = name.partition('/')
    known = [one.per_question.get(name) for one in measured.values()]
    counted = any(f.startswith(f'{key}/') for one in measured.values() for f in one.per_question)
    if counted and metric in (*SHARES, COUNT):
      continue
    found.append(_of_metric(name, key, measured, against, known))
    stands = [one if one is not None and one.chance is not None else None for one in known]
    parts = [estimates.by_subject(one) if one is not None else [] for one in stands]
    if all(parts) and len({len(some) for some in parts}) == 1:
      found.append(_of_parts(f'{name}, mean of subjects', measured, against, parts))
  sets = {f'mean of {name}': keys for name, keys in suites.items()}
  if len(tasks) > 1 and [*tasks] not in [[*keys] for keys in suites.values()]:
    sets['mean of tasks'] = tasks
  for name, keys in sets.items():
    found += _of_tasks(name, keys, measured, against)
  return found


def _of_metric(
  name: str,
  key: str,
  measured: Mapping[str, Measured],
  against: str,
  known: Sequence[PerQuestion | None],
) -> Line:
  base = measured[against].per_question.get(name)
  share = lambda what: [
    one.metrics.get(f'{key}/{what}', 0.0) if one.per_question.get(name) else None
    for one in measured.values()
  ]
  return Line(
    name=name,
    values=[one.metrics.get(name) for one in measured.values()],
    intervals=[estimates.estimate(one) if one else None for one in known],
    differences=[
      None if path == against or one is None or base is None else estimates.difference(one, base)
      for path, one in zip(measured, known, strict=True)
    ],
    cut=share('cut'),
    failed=share('failed'),
    fewer=any(one.fewer for one in known if one),
  )


def _of_parts(
  name: str,
  measured: Mapping[str, Measured],
  against: str,
  parts: Sequence[Sequence[PerQuestion]],
  centred: bool = False,
) -> Line:
  """A mean over subjects or tasks; `parts` are those of each model, in the same order."""
  means = [estimates.mean_of(some, centred) for some in parts]
  base = parts[[*measured].index(against)]
  nothing: list[float | None] = [None] * len(means)
  return Line(
    name=name,
    values=[one.mean for one in means],
    intervals=[*means],
    differences=[
      None if path == against else (estimates.difference_of(some, base, centred), None)
      for path, some in zip(measured, parts, strict=True)
    ],
    cut=nothing,
    failed=nothing,
  )


def _of_tasks(
  name: str, keys: Sequence[str], measured: Mapping[str, Measured], against: str
) -> list[Line]:
  """The mean of what stands for each task, as it is and counted from chance on.

  Tasks that have nothing but perplexities are left out, and the name says how many count.
  """
  first = next(iter(measured.values())).per_question
  stands = [
    name
    for key in keys
    for name, one in first.items()
    if name.startswith(f'{key}/') and one.chance is not None and not one.fewer
  ]
  parts = [
    [one.per_question[name] for name in stands if name in one.per_question]
    for one in measured.values()
  ]
  if len(stands) < 2 or any(len(some) < len(stands) for some in parts):
    return []
  label = f'{name} ({len(stands)})'
  found = [_of_parts(label, measured, against, parts)]
  if any(one.chance for one in parts[0]):
    found.append(_of_parts(f'centred {label}', measured, against, parts, centred=True))
  return found


def scores(lines: Sequence[Line], names: Sequence[str]) -> Table:
  """A row for each metric, a column for each model.

  Args:
    lines: of the metrics.
    names: of the models.
  """
  rows, bold = [], set()
  for i, line in enumerate(lines):
    counts = [one.n if one else None for one in line.intervals]
    cells = [score(*pair) for pair in zip(line.values, line.intervals, strict=True)]
    shares = [_alike(some, '{:.1%}') for some in (line.cut, line.failed)]
    rows.append([line.name, _alike(counts, '{:,}'), *cells, *shares])
    for j, found in enumerate(line.differences):
      if found is not None and sure(*found) and (found[0].mean > 0) != line.fewer:
        bold.add((i, 2 + j))
  return Table(('metric', 'n', *names, 'cut', 'failed'), rows, bold)


def apart(lines: Sequence[Line], names: Sequence[str], against: str) -> Table | None:
  """A row for each metric and model that is compared with another; None where there is none."""
  rows, bold = [], set()
  for line in lines:
    for name, found in zip(names, line.differences, strict=True):
      if found is None or not found[0].n:
        continue
      one, test = found
      only = [str(test.only_first), str(test.only_second), f'{test.p:.2g}'] if test else [NONE] * 3
      known = not math.isnan(one.low)
      ends = f' [{_number(one.low, "+")}, {_number(one.high, "+")}]' if known else ''
      if sure(*found):
        bold.add((len(rows), 2))
      rows.append([line.name, name, f'{_number(one.mean, "+")}{ends}', f'{one.n:,}', *only])
  header = ('metric', 'model', f'difference from {against}', 'n', 'only it', 'only the other', 'p')
  return Table(header, rows, bold) if rows else None


def text(table: Table) -> str:
  """A table for the terminal, which is Markdown as well."""
  one = lambda cell: ' '.join(cell.split()).replace('|', r'\|')
  strong = lambda cell, i, j: f'**{one(cell)}**' if (i, j) in table.bold else one(cell)
  body = [[strong(cell, i, j) for j, cell in enumerate(row)] for i, row in enumerate(table.rows)]
  dashes = ['---' if j == 0 else '---:' for j in range(len(table.header))]
  found = [[*map(one, table.header)], dashes, *body]
  return '\n'.join(f'| {" | ".join(row)} |' for row in found)


def interval(one: Interval | None) -> dict[str, Any] | None:
  """An interval for JSON, which knows no nan."""
  if one is None:
    return None
  known = lambda x: None if isinstance(x, float) and math.isnan(x) else x
  return {name: known(value) for name, value in one._asdict().items() if name != 'mean'}


def sure(one: Difference, test: McNemar | None) -> bool:
  """Whether two models differ: the interval does not hold 0, and McNemar's test says so too.

  Where few answers differ the interval is too narrow, and where all do there is none.
  """
  apart = one.low > 0 or one.high < 0
  return apart if test is None else test.p < 0.05 and (apart or math.isnan(one.low))


def score(value: float | None, one: Interval | None) -> str:
  """A number and its interval, in a cell."""
  if value is None:
    return NONE
  if one is None or math.isnan(one.low):
    return _number(value)
  return f'{_number(value)} [{_number(one.low)}, {_number(one.high)}]'


def _number(value: float, sign: str = '') -> str:
  return f'{value:{sign}.3f}' if abs(value) < 10_000 else f'{value:{sign}.3e}'


def _alike(values: Sequence[Any], form: str) -> str:
  """One number where all models have the same, else that of each."""
  shown = [NONE if value is None else form.format(value) for value in values]
  return shown[0] if len(set(shown)) == 1 else ' / '.join(shown)
