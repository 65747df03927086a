"""The blocks of a pipeline's report: what went in, what came out, what it cost, what was said."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_jax.evals.statistics import Interval
from llm_jax.jobs import comparison, rounds_report
from llm_jax.jobs.page import Block, Figure, Heading, Pieces, Table, Text
from llm_jax.training import metrics, rollouts

NONE = '–'
LONGEST = 600  # characters of an answer that are shown
SHOWN_ROLLOUTS = 4  # of the first and of the last that were written

Facts = Mapping[str, Any]


def blocks(config: Any, facts: Facts) -> list[Block]:
  """The page.

  Args:
    config: of the pipeline.
    facts: what `report.json` has.
  """
  stages = facts['stages']
  out: list[Block] = [
    Heading(f'{facts["recipe"]}: what each stage did', 1),
    Text(f'{" → ".join(stages)}, on {facts["devices"]} x {facts["device"]}.'),
    Heading('What went in'),
    *(_cleaned(name, stage) for name, stage in stages.items() if stage['job'] == 'clean'),
    *(_corpus(name, stage) for name, stage in stages.items() if stage['job'] == 'tokenize'),
    Heading('What came out'),
    *([Text(config.report.note)] if config.report.get('note') else []),
    quality(facts, config.report.get('columns', ())),
    *(_compressed(name, stage) for name, stage in stages.items() if stage['job'] == 'compress'),
    *benchmarks(facts),
    *rounds_report.blocks(facts, config.report.get('columns', ())),
    *_tokens(facts.get('tokens')),
    Heading('Curves'),
    *_curves(config, [name for name, stage in stages.items() if 'loss' in stage]),
    Heading('What it cost'),
    *_cost(facts),
  ]
  for name, stage in stages.items():
    if 'kl_bound' in stage:
      out += [Heading(f'Best of n: {name}'), _best(stage)]
  said = {name: stage['answers'] for name, stage in stages.items() if stage.get('answers')}
  prompts = dict.fromkeys(prompt for answers in said.values() for prompt in answers)
  if prompts:
    out.append(Heading('The same prompts after every stage'))
  for prompt in prompts:
    rows = [[name, _short(answers[prompt])] for name, answers in said.items() if prompt in answers]
    out += [Heading(prompt, 3), Table(('stage', 'answer'), rows)]
  out += _by_class(stages)
  for name in stages:
    if (Path(config[name].workdir) / 'rollouts.jsonl').is_file():
      out += [Heading(f'Rollouts: {name}'), _rollouts(config[name].workdir)]
  return out


def quality(facts: Facts, columns: Sequence[Sequence[str]]) -> Table:
  """A row for each model, a column for each metric that was measured on any of them.

  Args:
    facts: what `report.json` has.
    columns: (metric, heading), in order. The key of an evaluation stands for all of its metrics,
      and without a heading a column is called after its metric; without columns there are all.
  """
  found = {
    name: {key: one for key, one in stage['metrics'].items() if not _is_benchmark(key, stage)}
    for name, stage in facts['stages'].items()
    if 'metrics' in stage
  }
  names = [*dict.fromkeys(name for measured in found.values() for name in measured)]
  wanted = columns or [(key, '') for key in dict.fromkeys(name.split('/')[0] for name in names)]
  headings = {
    name: heading or name.partition('/')[2].replace('/', ' ').replace('_', ' ')
    for metric, heading in wanted
    for name in names
    if name == metric or name.startswith(f'{metric}/')
  }
  known = {name: _intervals(facts['stages'][name]) for name in found}
  for name, heading in headings.items():
    counts = {known[stage][name].n for stage in found if name in known[stage]}
    headings[name] = f'{heading} (n = {counts.pop():,})' if len(counts) == 1 else heading
  rows = [
    [
      stage,
      *(comparison.score(measured.get(name), known[stage].get(name)) for name in headings),
    ]
    for stage, measured in found.items()
  ]
  return Table(('stage', *headings.values()), rows)


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


def _by_class(stages: Mapping[str, Facts]) -> list[Block]:
  """A few questions of each class, with what every stage answered, right, wrong or refused."""
  said = {name: stage['by_class'] for name, stage in stages.items() if stage.get('by_class')}
  out: list[Block] = []
  for kind in dict.fromkeys(kind for classes in said.values() for kind in classes):
    known = {name: classes.get(kind, {}) for name, classes in said.items()}
    questions = dict.fromkeys(question for some in known.values() for question in some)
    rows = [
      [question, *(': '.join(reversed(some.get(question, [NONE]))) for some in known.values())]
      for question in questions
    ]
    out += [Heading(f'Questions: {kind}', 3), Table(('question', *known), rows)]
  return [Heading('What it knows, and what it makes up'), *out] if out else []


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


def _compressed(name: str, facts: Facts) -> Text:
  before, after = (facts['bytes'][when] / 1e6 for when in ('before', 'after'))
  return Text(
    f'{name} is {Path(facts["artifact"]).name} in {facts["bits_per_weight"]:.1f} bits a weight, '
    f'{after:.2f} MB in the place of {before:.2f}. Every job but training reads it, and '
    f'{name}/report.html says what changed by layer.'
  )


def _tokens(found: Facts | None) -> list[Block]:
  """A conversation as the last model reads it."""
  if found is None:
    return []
  return [
    Heading('Tokens'),
    Text(
      f'A conversation as {found["stage"]} reads it, {len(found["pieces"])} tokens. Control '
      'tokens, which nobody can type, are in boxes; what training would predict is underlined.'
    ),
    Pieces(found['pieces']),
  ]


def _cleaned(name: str, facts: Facts) -> Table:
  rows = [
    [source, *(f'{part[key]:,}' for key in ('pages', 'kept', 'characters'))]
    for source, part in facts['sources'].items()
  ]
  return Table((name, 'pages', 'kept', 'characters'), rows)


def _corpus(name: str, facts: Facts) -> Table:
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


def _cost(facts: Facts) -> list[Block]:
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
        NONE if s['seconds'] is None else _clock(s['seconds']),
        _number(s.get('tokens_per_second'), ',.0f'),
        _number(rate and rate / 1e9, ',.1f'),
        _number(s.get('mfu'), '.1%'),
      ]
    )
  hours = seconds / 3600 * facts['devices']
  rows.append(['all', '', '', f'{flops:.2e}', _clock(seconds), '', '', ''])
  cost = f', {hours * facts["price"]:.2f} at {facts["price"]:g} an hour' if facts['price'] else ''
  return [
    Table(header, rows),
    Text(
      'FLOPs are those of the model, forward and backward: 6 for each parameter in a product and '
      'token, and those of attention; sampling and scoring are in the time and not in them. '
      f'Device-hours: {hours:.3f}{cost}.'
    ),
  ]


def _best(facts: Facts) -> Table:
  rows = [
    [
      *(str(facts[k]) for k in ('prompts', 'n', 'written')),
      *(_number(facts[k], '.3f') for k in ('single', 'best', 'kl', 'kl_bound')),
    ]
  ]
  header = ('prompts', 'n', 'written', 'mean score', 'score of the best', 'KL', 'KL at most')
  return Table(header, rows)


def _rollouts(folder: str) -> Table:
  found = rollouts.read(folder)
  few = found[:SHOWN_ROLLOUTS] + found[SHOWN_ROLLOUTS:][-SHOWN_ROLLOUTS:]
  rows = [
    [str(r['step']), r['prompt'], r['answer'], _number(r.get('reward'), '.2f'), r.get('gold', NONE)]
    for r in few
  ]
  return Table(('step', 'prompt', 'answer', 'reward', 'gold'), rows)


def _curves(config: Any, trained: Sequence[str]) -> list[Block]:
  """Reward, where there is one, or loss of each stage over its steps."""
  if not trained:
    return []
  try:
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Drawing
  except ImportError:
    return [Text("pip install 'llm_jax[log]' adds matplotlib, which draws the curves.")]
  columns = min(len(trained), 3)
  lines = -(-len(trained) // columns)
  drawing = Drawing(figsize=(4 * columns, 2.8 * lines), layout='constrained')
  axes = [*drawing.subplots(lines, columns, squeeze=False).flat]
  for name, ax in zip(trained, axes, strict=False):
    records = metrics.read(config[name].workdir)
    what = 'reward' if any('reward' in r for r in records) else 'loss'
    for key in [what, *(f'{key}/{what}' for key in config[name].evals)]:
      points = [(r['step'], r[key]) for r in records if r.get(key) is not None]
      if points:
        style = '-' if key == what else 'o-'
        ax.plot(*zip(*points, strict=True), style, ms=3, lw=1.2, label=key)
    ax.set(title=name, xlabel='step')
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
  for ax in axes[len(trained) :]:
    ax.set_axis_off()
  drawn = io.BytesIO()
  with rc_context({'svg.hashsalt': 'llm_jax'}):  # the same drawing is the same file
    drawing.savefig(drawn, format='svg', metadata={'Date': None})
  return [Figure('curves.svg', drawn.getvalue(), 'loss or reward of every stage over its steps')]


def _short(text: str) -> str:
  text = text.strip() or NONE
  return text if len(text) <= LONGEST else f'{text[:LONGEST]} …'


def _number(value: Any, form: str) -> str:
  return NONE if value is None else f'{value:{form}}'


def _clock(seconds: float) -> str:
  return f'{int(seconds // 60)}:{int(seconds % 60):02d}'
