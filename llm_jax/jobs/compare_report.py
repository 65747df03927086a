"""The answer of job `compare`: sentences, tables, curves; as Markdown, a page, and numbers."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from llm_jax import artifact, storage
from llm_jax.evals.differences import paired
from llm_jax.jobs import comparison, page, results, variants, verdict
from llm_jax.jobs.page import Block, Figure, Heading, Table, Text
from llm_jax.jobs.results import Result
from llm_jax.jobs.variants import Changes, Run
from llm_jax.jobs.verdict import NONE, Verdict, number
from llm_jax.text.terminal import say
from llm_jax.training import boards

NOTE = (
  'Runs are paired by seed, which decides first parameters and order of the data. Brackets and ± '
  "are 95% intervals over seeds by Student's t. p is that of the paired t test{corrected}.{several}"
  ' With as many seeds as are needed, a difference as large as the one that was found would be '
  'seen four times in five; from few seeds that number is an order of magnitude.'
)
HOLM = ', corrected for the number of variants by Holm'
SEVERAL = ' It is not corrected for the number of metrics.'
COST = 'Means of a run. Device-seconds ({}) are of updates, without compiling.'
BANDS = 'Lines are means over seeds, bands their 95% intervals.'


class Tuned(NamedTuple):
  """What was tuned for a variant.

  Attributes:
    setting: the best, field -> value.
    tried: all of them.
    values: what each of them came to; nan where the run left nothing.
  """

  setting: Changes
  tried: Sequence[Changes]
  values: Sequence[float]

  @property
  def at_edge(self) -> bool:
    """Whether a value beyond those that were tried may be better still."""
    return any(
      self.setting[path] in (min(values), max(values)) and len(values) > 1
      for path in self.setting
      for values in [{one[path] for one in self.tried}]
    )


class Compared(NamedTuple):
  """All that the report is made of.

  Attributes:
    runs: those that are compared.
    results: (variant, seed) -> what the run left.
    changes: variant -> its changes; the first is what the others are compared with.
    tuned: variant -> what was tuned.
  """

  runs: Sequence[Run]
  results: Mapping[tuple[str, int], Result]
  changes: Mapping[str, Changes]
  tuned: Mapping[str, Tuned]


def write(config: Any, made: Compared) -> None:
  """Writes report.json, report.md and report.html into the workdir, and prints what answers."""
  folder = Path(config.workdir)
  found = [_verdicts(config, made, metric) for metric in config.read]
  against, corrected = variants.against(config), len(made.changes) > 2
  title = f'{", ".join([*made.changes][1:])} against {against}'
  said = [
    text for some in found for one in some if (text := verdict.sentence(one, against, corrected))
  ]
  several = SEVERAL if len(config.read) > 1 else ''
  answer = [*map(Text, said), _means(found), _differences(found, against, corrected)]
  tuned, cost = _tuning(config, made), _costs(made)
  blocks: list[Block] = [
    Heading(title, 1),
    *answer,
    Text(NOTE.format(corrected=HOLM if corrected else '', several=several)),
    *_curves(config, made),
    *([Heading('What was tuned'), *tuned] if tuned else []),
    Heading('What it cost'),
    cost,
    Text(COST.format(jax.devices()[0].device_kind)),
    Heading('What differs'),
    _changes(made),
    Heading('Runs'),
    _runs(config, made),
  ]
  page.write(folder, blocks, title, _facts(config, made, found, said))
  boards.show_page(folder, title, page.markdown([*answer, *tuned], folder / 'figures'))
  for block in (*answer, *tuned, cost):
    say(f'\n{block.text if isinstance(block, Text) else comparison.text(block)}')
  say(f'\nThe report is {folder}/report.html.')


def _verdicts(config: Any, made: Compared, metric: str) -> list[Verdict]:
  values: dict[str, dict[int, float]] = {name: {} for name in made.changes}
  for (name, seed), one in made.results.items():
    values[name][seed] = one.values.get(metric, math.nan)
  return verdict.verdicts(metric, values, results.fewer(metric, config.get('fewer', ())))


def _means(found: Sequence[Sequence[Verdict]]) -> Table:
  rows, bold = [], set()
  for i, of_variant in enumerate(zip(*found, strict=True)):
    cells = []
    for j, one in enumerate(of_variant):
      cells.append(_with_interval(one.mean))
      if one.sure and one.better:
        bold.add((i, 1 + j))
    rows.append([of_variant[0].variant, *cells])
  heads = [f'{some[0].metric} ({max(one.mean.n for one in some)} seeds)' for some in found]
  return Table(('variant', *heads), rows, bold)


def _differences(found: Sequence[Sequence[Verdict]], against: str, corrected: bool) -> Table:
  rows, bold = [], set()
  for some in found:
    for one in some:
      if one.difference is not None:
        if one.sure:
          bold.add((len(rows), 2))
        known = (one.plain_p, one.p) if corrected else (one.p,)
        p = [f'{x:.2g}' if not math.isnan(x) else NONE for x in known]
        cells = [_with_interval(one.difference, '+'), str(one.difference.n), *p]
        rows.append([one.metric, one.variant, *cells, f'{one.needed:,}' if one.needed else NONE])
  header = ('metric', 'variant', f'difference from {against}', 'seeds', 'p')
  return Table((*header, *['corrected p'] * corrected, 'seeds needed'), rows, bold)


def _with_interval(one: Any, sign: str = '') -> str:
  half = one.high - one.mean
  if math.isnan(half):
    return number(one.mean, sign=sign)
  ends = (number(end, half, sign) for end in (one.low, one.high))
  return f'{number(one.mean, half, sign)} [{", ".join(ends)}]'


def _curves(config: Any, made: Compared) -> list[Block]:
  """Each metric that is measured in training: means over seeds with their intervals, by update."""
  names = [name for name in config.read if any(name in one.curves for one in made.results.values())]
  if not names:
    return []
  try:
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Drawing
  except ImportError:
    return [Text("pip install 'llm_jax[log]' adds matplotlib, which draws the curves.")]
  drawing = Drawing(figsize=(6.4 * len(names), 4), layout='constrained')
  for ax, name in zip(drawing.subplots(1, len(names), squeeze=False).flat, names, strict=True):
    for variant in made.changes:
      found: dict[int, list[float]] = {}
      for (whose, _), one in made.results.items():
        for step, value in one.curves.get(name, ()) if whose == variant else ():
          found.setdefault(step, []).append(value)
      steps = sorted(found)
      means = [paired(found[step], [0.0] * len(found[step])) for step in steps]
      (line,) = ax.plot(steps, [one.mean for one in means], lw=1.4, label=variant)
      ends = [one.low for one in means], [one.high for one in means]
      ax.fill_between(steps, *ends, color=line.get_color(), alpha=0.2, lw=0)
    ax.set(title=name, xlabel='update')
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
  drawn = io.BytesIO()
  with rc_context({'svg.hashsalt': 'llm_jax'}):  # the same drawing is the same file
    drawing.savefig(drawn, format='svg', metadata={'Date': None})
  alt = f'{", ".join(names)} of each variant by update'
  return [Figure('curves.svg', drawn.getvalue(), alt), Text(BANDS)]


def _tuning(config: Any, made: Compared) -> list[Table | Text]:
  if not made.tuned:
    return []
  rows, bold = [], set()
  for name, one in made.tuned.items():
    for setting, value in zip(one.tried, one.values, strict=True):
      if setting == one.setting:
        bold.add((len(rows), 2))
      rows.append([name, variants.told(setting), number(value)])
  table = Table(('variant', 'value', config.read[0]), rows, bold)
  edge = [name for name, one in made.tuned.items() if one.at_edge]
  told = 'Each variant was tuned with a seed of its own, and the best value is the one compared.'
  if edge:
    told += (
      f' That of {", ".join(edge)} is at the edge of what was tried; a factor beyond it may be '
      'better still.'
    )
  return [table, Text(told)]


def _costs(made: Compared) -> Table:
  rows = []
  for name in made.changes:
    some = [one for (variant, _), one in made.results.items() if variant == name and one.cost]
    mean = lambda read, some=some: sum(map(read, some)) / len(some) if some else math.nan
    cost = [mean(lambda one, key=key: one.cost[key]) for key in ('steps', 'tokens', 'flops')]
    seconds = mean(lambda one: one.seconds)
    forms = [f'{cost[0]:,.0f}', f'{cost[1]:,.0f}', f'{cost[2]:.3g}', f'{seconds:,.1f}']
    rows.append([name, *(NONE if 'nan' in form else form for form in forms)])
  return Table(('variant', 'updates', 'tokens', 'training FLOPs', 'device-seconds'), rows)


def _changes(made: Compared) -> Table:
  changed = [*made.changes.values(), *(run.setting for run in made.runs)]
  paths = [*dict.fromkeys(path for changes in changed for path in changes)]
  configs = {run.variant: run.config for run in made.runs}
  cell = lambda name, path: str(variants.value(configs[name], path))
  rows = [[path, *(cell(name, path) for name in made.changes)] for path in paths]
  return Table(('field', *made.changes), rows)


def _runs(config: Any, made: Compared) -> Table:
  rows = []
  for run in made.runs:
    one = made.results[run.variant, run.seed]
    cells = [number(one.values.get(metric, math.nan), 1e-3) for metric in config.read]
    updates = f'{one.step:,}' if one.step else NONE
    folder = one.failed or storage.named(str(run.folder))
    rows.append([run.variant, str(run.seed), updates, *cells, folder])
  return Table(('variant', 'seed', 'updates of the model', *config.read, 'folder'), rows)


def _facts(
  config: Any, made: Compared, found: Sequence[Sequence[Verdict]], said: Sequence[str]
) -> dict[str, Any]:
  """What report.json has; nothing but `cost` depends on how fast the machine is."""
  known = lambda x: None if isinstance(x, float) and math.isnan(x) else x
  plain = lambda one: one and {name: known(x) for name, x in one._asdict().items()}
  return {
    'said': [*said],
    'against': variants.against(config),
    'verdicts': [
      {
        **plain(one),
        'mean': plain(one.mean),
        'needed': one.needed,
        'difference': plain(one.difference),
      }
      for some in found
      for one in some
    ],
    'changes': {name: dict(changes) for name, changes in made.changes.items()},
    'tuned': {
      name: {
        'setting': dict(one.setting),
        'tried': [
          {'setting': dict(setting), config.read[0]: known(value)}
          for setting, value in zip(one.tried, one.values, strict=True)
        ],
      }
      for name, one in made.tuned.items()
    },
    'runs': [
      {
        'variant': run.variant,
        'seed': run.seed,
        'folder': storage.named(str(run.folder)),
        'values': {m: known(x) for m, x in made.results[run.variant, run.seed].values.items()},
        'failed': made.results[run.variant, run.seed].failed,
      }
      for run in made.runs
    ],
    'cost': [
      {'variant': run.variant, 'seed': run.seed, **one.cost, 'device_seconds': one.seconds}
      for run in made.runs
      for one in [made.results[run.variant, run.seed]]
    ],
    'device': jax.devices()[0].device_kind,
    'commit': artifact.commit(),
  }
