"""The tables of a pipeline's report: what was measured, what went in, what it cost."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llm_jax.evals.statistics import Interval
from llm_jax.jobs import comparison, progress
from llm_jax.jobs.page import Block, Table, Text

NONE = '–'

Facts = Mapping[str, Any]


def headings(facts: Facts, columns: Sequence[Sequence[str]]) -> dict[str, str]:
  """Metric -> what it is called, in order; see `quality`."""
  found = [s['metrics'] for s in facts['stages'].values() if 'metrics' in s]
  names = [
    name
    for name in dict.fromkeys(name for measured in found for name in measured)
    if not any(_is_benchmark(name, stage) for stage in facts['stages'].values())
  ]
  wanted = columns or [(key, '') for key in dict.fromkeys(name.split('/')[0] for name in names)]
  out: dict[str, str] = {}
  for metric, heading in wanted:
    for name in names:
      if name == metric or name.startswith(f'{metric}/'):
        plain = name.partition('/')[2].replace('/', ' ').replace('_', ' ')
        out.setdefault(name, heading or plain)
  return out


def quality(facts: Facts, columns: Sequence[Sequence[str]]) -> Table:
  """A column for each model, a row for each metric that was measured on any of them.

  Args:
    facts: what `report.json` has.
    columns: (metric, heading), in order. The key of an evaluation stands for all of its metrics
      that have not come yet, and without a heading a metric is called by its name; without columns
      there are all.
  """
  named = headings(facts, columns)
  found = {name: stage for name, stage in facts['stages'].items() if 'metrics' in stage}
  known = {name: _intervals(stage) for name, stage in found.items()}
  counts = {m: sorted({known[s][m].n for s in found if m in known[s]}) for m in named}
  rows = [
    [
      heading,
      ' / '.join(f'{n:,}' for n in counts[metric]) or NONE,
      *(
        comparison.score(s['metrics'].get(metric), known[name].get(metric))
        for name, s in found.items()
      ),
    ]
    for metric, heading in named.items()
  ]
  return _without_empty(Table(('measured', 'n', *found), rows))


def benchmarks(facts: Facts) -> list[Block]:
  """A row for each metric of a benchmark, a column for each model that was put to it."""
  asked = {name: stage for name, stage in facts['stages'].items() if stage.get('intervals')}
  names = [
    name
    for name in dict.fromkeys(name for stage in asked.values() for name in stage['intervals'])
    if any(_is_benchmark(name, stage) and name in stage['metrics'] for stage in asked.values())
  ]
  if not names:
    return []
  known = {name: _intervals(stage) for name, stage in asked.items()}
  rows = []
  for name in names:
    counts = sorted({some[name].n for some in known.values() if name in some})
    cells = [
      comparison.score(stage['metrics'].get(name), known[stage_name].get(name))
      for stage_name, stage in asked.items()
    ]
    rows.append([name, ' / '.join(f'{n:,}' for n in counts), *cells])
  seconds = [
    [key, *(_number(stage['asked_seconds'].get(key), '.1f') for stage in asked.values())]
    for key in dict.fromkeys(name.partition('/')[0] for name in names)
  ]
  return [
    Table(('benchmark', 'n', *asked), rows),
    Text('In brackets are 95% intervals. What they took, in seconds:'),
    Table(('benchmark', *asked), seconds),
  ]


def _is_benchmark(name: str, stage: Facts) -> bool:
  return name.partition('/')[0] in stage.get('benchmarks', ())


def _intervals(stage: Facts) -> dict[str, Interval]:
  """What `report.json` says of how sure the metrics of a stage are."""
  known = lambda x: math.nan if x is None else x
  return {
    name: Interval(
      mean=stage['metrics'].get(name, math.nan),
      error=known(one['error']),
      low=known(one['low']),
      high=known(one['high']),
      n=one['n'],
      method=one['method'],
    )
    for name, one in stage.get('intervals', {}).items()
  }


def cleaned(name: str, facts: Facts) -> Table:
  """What is left of the pages of each source."""
  rows = [
    [source, *(f'{part[key]:,}' for key in ('pages', 'kept', 'characters'))]
    for source, part in facts['sources'].items()
  ]
  return Table((name, 'pages', 'kept', 'characters'), rows)


def corpus(name: str, facts: Facts) -> Table:
  """The size of the text, and of its tokens."""
  rows = [
    [
      f'{source}, {split}',
      *(f'{part[k]:,}' for k in ('documents', 'bytes', 'tokens')),
      f'{part["bytes_per_token"]:.2f}',
    ]
    for source, splits in facts['sources'].items()
    for split, part in splits.items()
  ]
  return Table((name, 'documents', 'bytes', 'tokens', 'bytes per token'), rows)


def cost(facts: Facts) -> list[Block]:
  """What every stage cost, and how fast it went."""
  header = ('stage', 'updates', 'tokens', 'training FLOPs', 'time', 'tokens/s', 'GFLOP/s', 'MFU')
  rows, flops, seconds = [], 0.0, 0.0
  for name, s in facts['stages'].items():
    flops, seconds = flops + (s.get('flops') or 0), seconds + (s['seconds'] or 0)
    rate = s.get('flops_per_second')
    rows.append(
      [
        name,
        _number(s.get('steps'), ','),
        _number(s.get('tokens'), ',.0f'),
        _number(s.get('flops'), '.2e'),
        NONE if s['seconds'] is None else progress.clock(s['seconds']),
        _number(s.get('tokens_per_second'), ',.0f'),
        _number(rate and rate / 1e9, ',.1f'),
        _number(s.get('mfu'), '.1%'),
      ]
    )
  hours = seconds / 3600 * facts['devices']
  rows.append(['all', '', '', f'{flops:.2e}', progress.clock(seconds), '', '', ''])
  cost = f', {hours * facts["price"]:.2f} at {facts["price"]:g} an hour' if facts['price'] else ''
  return [
    _without_empty(Table(header, rows)),
    Text(
      'Time is in minutes and seconds. FLOPs are those of the model, forward and backward: 6 for '
      'each parameter in a product and token, and those of attention; sampling and scoring are in '
      f'the time and not in them. Device-hours: {hours:.3f}{cost}.'
    ),
  ]


def _without_empty(table: Table) -> Table:
  """A table without the columns in which nothing is known of any row."""
  kept = [i for i in range(len(table.header))
          if not table.rows or any(row[i] not in ('', NONE) for row in table.rows)]  # fmt: skip
  pick = lambda row: [row[i] for i in kept]
  return Table(pick(table.header), [pick(row) for row in table.rows])


def best(facts: Facts) -> Table:
  """What choosing the best of several answers gained."""
  rows = [
    [
      *(str(facts[k]) for k in ('prompts', 'n', 'written')),
      *(_number(facts[k], '.3f') for k in ('single', 'best', 'kl', 'kl_bound')),
    ]
  ]
  header = ('prompts', 'n', 'written', 'mean score', 'score of the best', 'KL', 'KL at most')
  return Table(header, rows)


def _number(value: Any, form: str) -> str:
  return NONE if value is None else f'{value:{form}}'
