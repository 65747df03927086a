"""Ways to keep a small model from inventing, by class of question: a table over seeds, and a curve.

python -m experiments.hallucination.table --sft runs/gpt/sft
python -m experiments.hallucination.table --sft 'runs/gpt-{seed}/sft' --seeds 0,1 --only sft,probing

A model is probed once; each variant trains on rows made from that, and is asked the questions of
the test split. What is done is kept below --workdir, so the command goes on where it was, prints
the table of what is there, and writes it to table.md beside curve.svg.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import dpo, grpo, probe, refuse, search, sft, sizes
from llm_jax import artifact, run_folder
from llm_jax.data import knowledge, pages, refusals, searches
from llm_jax.evals import abstention
from llm_jax.evals import searches as looking_up
from llm_jax.files import write_json, write_lines
from llm_jax.jobs.measure import measure
from llm_jax.main import run
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text import folder as tokenizers
from llm_jax.tools import search as search_tool

SURE = 'Answer only if you are sure; otherwise say that you do not know.'
MOST_REFUSED = 0.036  # of the validation names that are known, by the threshold
COLUMNS = {
  'taught right': 'knowledge/taught/right',
  'unrehearsed right': 'knowledge/unrehearsed/right',
  'over-refusal': 'knowledge/over_refusal',
  'invention: all unknown': 'knowledge/invention',
  'read': 'knowledge/read/invention',
  'unread': 'knowledge/unread/invention',
  'invented': 'knowledge/invented/invention',
  'lookalike': 'knowledge/lookalike/invention',
  'elsewhere': 'knowledge/elsewhere/invention',
  'F': 'knowledge/f',
  'AUROC': 'knowledge/auroc',
  'word problems': 'questions/word_problems/exact_answer',
  'tokens an answer': 'tokens',
}


class Run(NamedTuple):
  """One seed: where its things are.

  Attributes:
    sft: the model before.
    root: of the experiment.
    seed: of the stage that refuses.
  """

  sft: str
  root: Path
  seed: int

  @property
  def before(self) -> Path:
    """What belongs to the model before, which seeds may share."""
    return self.root / self.sft.strip('/').replace('/', '-')

  @property
  def probe(self) -> Path:
    return self.before / 'probe' / 'probe.jsonl'

  def folder(self, name: str) -> Path:
    """Of a variant that is trained."""
    return self.before / f'{name}-{self.seed}'

  def measured(self, name: str) -> Path:
    """What a variant makes of all questions."""
    seed = '' if VARIANTS[name].config is None else f'-{self.seed}'
    return self.before / 'measured' / f'{name}{seed}.json'

  def probed(self) -> list[dict[str, Any]]:
    """Verdicts on names to train on."""
    return [one for one in refusals.read(self.probe) if one['split'] == 'train']

  def rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A file with these rows."""
    path = self.before / 'rows' / f'{name}.jsonl'
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
      write_lines(path, rows)
    return str(path)


class Variant(NamedTuple):
  """A row of the table.

  Attributes:
    title: of the row.
    config: what trains its model from `Run`; None for the model before.
    system: a message of the system at each question.
    threshold: refuse what has a lower log-probability, chosen on validation names.
    tools: what the model may call: a file of tools/ -> its options.
    anew: whether training starts where the SFT before did, and not from what it left.
  """

  title: str
  config: Callable[[Run], ConfigDict] | None = None
  system: str = ''
  threshold: bool = False
  tools: Mapping[str, Any] = {}
  anew: bool = False


def _refuse(
  file: str,
  rows: Callable[[Run], Sequence[Mapping[str, Any]]],
  share: float = refuse.SHARE,
  steps: int | None = None,
  stage: Any = refuse,
  **optimizer: Any,
) -> Callable[[Run], ConfigDict]:
  """A stage (a file of configs/) that has these rows among the others."""

  def config(one: Run) -> ConfigDict:
    c = stage.get_config()
    c.data.sources.refusals = one.rows(file, rows(one))
    c.data.weights = ConfigDict({'builtin': 1 - share, 'refusals': share})
    c.total_steps = steps or c.total_steps
    c.optimizer.update(optimizer)
    return c

  return config


def _dpo(one: Run) -> ConfigDict:
  c = dpo.get_config()
  rows = one.rows('dpo', refusals.preferences(one.probed()))
  c.data.sources = ConfigDict({'knowledge': rows})
  c.data.length, c.total_steps, c.loss.nll_weight = 64, 60, 1.0
  c.optimizer.learning_rate = 3e-4
  return c


def _grpo(wrong: float) -> Callable[[Run], ConfigDict]:
  def config(one: Run) -> ConfigDict:
    c = grpo.get_config()
    rows = refusals.conversations(one.probed())
    c.data.sources = ConfigDict({'knowledge': one.rows('grpo', rows)})
    c.annotate.verify.rewards = ('honest',)
    c.annotate.verify.options = ConfigDict({'honest': {'wrong': wrong}})
    c.annotate.sample.max_new = 48
    c.total_steps = 40
    return c

  return config


def _unprobed(one: Run) -> list[dict[str, Any]]:
  """Refusals of invented names and answers about taught ones, whatever the model said."""
  verdicts = {'invented': 'unknown', 'taught': 'known'}
  some = [line for line in one.probed() if line['class'] in verdicts]
  return refusals.conversations([line | {'verdict': verdicts[line['class']]} for line in some])


def _probing(one: Run, **how: Any) -> list[dict[str, Any]]:
  return refusals.conversations(one.probed(), **how)


def _nobody(one: Run) -> list[dict[str, Any]]:
  """Refusals of names that nobody has, which no model has to be asked about."""
  del one
  return refusals.conversations([q | {'verdict': 'unknown'} for q in knowledge.nobody_has('train')])


def _plain(one: Run) -> list[dict[str, Any]]:
  return refusals.conversations([line for line in one.probed() if line['class'] != 'lookalike'])


SEARCH = {'search': {**pages.SEARCH, 'quotes': 'sentences'}}


def _search(name: str, *, refuses: bool) -> Callable[[Run], ConfigDict]:
  def config(one: Run) -> ConfigDict:
    c, given = search.get_config(), probe.get_config()
    pieces = pages.pieces_of(tokenizers.load(Path(one.sft) / 'tokenizer'))
    how: Any = dict(made_up=given.made_up, by_heart=given.by_heart, pieces=pieces)
    tool = search_tool.make(**given.search)
    rows = searches.conversations(tool, one.probed(), refusals=refuses, **how)
    c.data.sources.searches = one.rows(name, rows)
    return c

  return config


VARIANTS = {
  'sft': Variant('SFT'),
  'threshold': Variant('+ log p threshold (no training)', threshold=True),
  'prompt': Variant('+ prompt "answer only if you are sure"', system=SURE),
  'invented': Variant('+ refusals for invented names only', _refuse('invented', _unprobed)),
  'probing': Variant('+ refusals by probing', _refuse('probing', _probing)),
  'most': Variant('+ the same, 60 % of the rows', _refuse('probing', _probing, share=0.6)),
  'long': Variant(
    '+ the same, 80 % of the rows, 200 steps, twice the rate',
    _refuse('probing', _probing, share=0.8, steps=200, learning_rate=4e-3),
  ),
  'adamw': Variant(
    '+ the same, 50 % of the rows, 100 steps of AdamW',
    _refuse('probing', _probing, share=0.5, steps=100, name='adamw', learning_rate=1e-3),
  ),
  'no_lookalikes': Variant('+ the same, no lookalikes', _refuse('no_lookalikes', _plain)),
  'half': Variant('+ half the refusals', _refuse('half', lambda one: _probing(one, ratio=0.5))),
  'twice': Variant('+ twice the refusals', _refuse('twice', lambda one: _probing(one, ratio=2.0))),
  'anew': Variant(
    'SFT anew, a fifth of the rows by probing',
    _refuse('probing', _probing, 0.2, stage=sft),
    anew=True,
  ),
  'nobody': Variant(
    'SFT anew, a sixth refusals of names that nobody has',
    _refuse('nobody', _nobody, 1 / 6, stage=sft),
    anew=True,
  ),
  'dpo': Variant('+ DPO both ways', _dpo),
  'grpo1': Variant('+ GRPO, a wrong answer costs 1', _grpo(1.0)),
  'grpo3': Variant('+ GRPO, a wrong answer costs 3', _grpo(3.0)),
  'search': Variant('+ search, no refusals', _search('search', refuses=False), tools=SEARCH),
  'search_refusals': Variant(
    '+ search and refusals', _search('search_refusals', refuses=True), tools=SEARCH
  ),
}


def _trained(one: Run, name: str) -> str:
  """The folder of the model of a variant."""
  variant = VARIANTS[name]
  if variant.config is None:
    return one.sft
  folder = one.folder(name)
  if not run_folder.finished(str(folder)):
    c = variant.config(one)
    start = artifact.describe(one.sft)['parent'] if variant.anew else one.sft
    c.init.params, c.workdir, c.seed = start, str(folder), one.seed
    if 'reference' in c.annotate:
      c.annotate.reference.update(dict(path=one.sft, cache=f'{folder}/reference'))
    run(c)
  return str(folder)


def _asked(one: Run, name: str) -> dict[str, Any]:
  """What a variant makes of all questions: its metrics, and a record of each."""
  path = one.measured(name)
  if path.is_file():
    return json.loads(path.read_text())
  variant, folder = VARIANTS[name], _trained(one, name)
  mesh = make_mesh()
  asked = dict(name='knowledge', known=str(one.probe), system=variant.system, batch_size=64)
  if variant.tools:
    asked['tools'] = dict(variant.tools)
  groups = {
    'knowledge': asked | {'split': 'test'},
    'validation': asked | {'split': 'validation'},
    'questions': dict(name='answers', families=('word_problems',), max_questions=200),
  }
  groups['questions'] |= dict(max_new=96, batch_size=50)
  if variant.tools:  # where looking up goes wrong; not in the table
    groups['searches'] = dict(name='searches', tools=dict(variant.tools), batch_size=64)
  with jax.set_mesh(mesh):
    made = artifact.load(folder, mesh, sizes.compute('tiny').to_dict())
    found = measure(groups, made, mesh=mesh)
  keep = ('name', 'class', 'prompt', 'answer', 'outcome', 'logp')
  said = {
    key: [{**{k: q[k] for k in keep}, 'said': text} for q, text in found.said[key]]
    for key in ('knowledge', 'validation')
  }
  tokens = [len(made.tokenizer.encode(one['said'])) for one in said['knowledge']]
  metrics = {**found.metrics, 'tokens': float(np.mean(tokens))}
  path.parent.mkdir(parents=True, exist_ok=True)
  write_json(path, {'metrics': metrics, 'said': said})
  return {'metrics': metrics, 'said': said}


def _known(one: Run) -> set[str]:
  return {line['name'] for line in refusals.read(one.probe) if line['verdict'] == 'known'}


def curve(said: Sequence[Mapping[str, Any]], known: set[str]) -> np.ndarray:
  """[n, 3]: over-refusal and invention if answers below a log-probability are refused, and it."""
  of_known = np.array([one['name'] in known for one in said])
  logp = np.array([one['logp'] for one in said])
  refused = np.array([one['outcome'] == 'refused' for one in said])
  wrong = np.array([one['outcome'] == 'wrong' for one in said])
  points = []
  for least in [-np.inf, *np.unique(logp)]:
    says_no = refused | (logp < least)
    over, invented = says_no[of_known].mean(), (wrong & ~says_no)[~of_known].mean()
    points.append((over, invented, least))
  return np.array(points)


def _threshold(one: Run) -> dict[str, float]:
  """The metrics of the model before, with a threshold from validation names."""
  before, known = _asked(one, 'sft'), _known(one)
  points = curve(before['said']['validation'], known)
  least = points[points[:, 0] <= MOST_REFUSED][-1, 2]
  said = [
    {**line, 'outcome': 'refused' if line['logp'] < least else line['outcome']}
    for line in before['said']['knowledge']
  ]
  return {**before['metrics'], **_rates(said, known)}


def _rates(said: Sequence[Mapping[str, Any]], known: set[str]) -> dict[str, float]:
  """Those columns that follow from outcomes."""
  sums = lambda some: abstention.outcomes(
    [one['outcome'] for one in some], [one['name'] in known for one in some]
  )
  found = {
    'knowledge/f': abstention.simpleqa_f(sums(said)),
    'knowledge/over_refusal': abstention.over_refusal_on_known(sums(said)),
    'knowledge/invention': abstention.invention_on_unknown(sums(said)),
  }
  for kind in dict.fromkeys(one['class'] for one in said):
    some = sums([one for one in said if one['class'] == kind])
    found[f'knowledge/{kind}/right'] = abstention.answered_right(some)
    found[f'knowledge/{kind}/invention'] = abstention.invention_rate(some)
  return found


def table(runs: Sequence[Run]) -> str:
  """A row for each variant that has been measured: the mean over seeds, and their spread."""
  lines = [
    f'| | {" | ".join(COLUMNS)} |',
    f'|---|{"---:|" * len(COLUMNS)}',
  ]
  for name, variant in VARIANTS.items():
    source = 'sft' if variant.threshold else name
    there = {one.measured(source): one for one in runs if one.measured(source).is_file()}
    if not there:
      continue
    found = [
      _threshold(one) if variant.threshold else _asked(one, name)['metrics']
      for one in there.values()
    ]
    cells = [_cell([metrics.get(column) for metrics in found]) for column in COLUMNS.values()]
    lines.append(f'| {variant.title} | {" | ".join(cells)} |')
  return '\n'.join(lines)


def looked_up(runs: Sequence[Run]) -> str:
  """For each variant that may search, where looking up goes wrong, by class of question."""
  columns, lines = ('called', 'query', 'found', 'follows', 'right', 'invention', 'refused'), []
  for name, variant in VARIANTS.items():
    there = {one.measured(name): one for one in runs if one.measured(name).is_file()}
    if not variant.tools or not there:
      continue
    found = [_asked(one, name)['metrics'] for one in there.values()]
    lines += ['', f'{variant.title.removeprefix("+ ")}, by class:', '']
    lines += [f'| names | {" | ".join(columns)} |', f'|---|{"---:|" * len(columns)}']
    for kind in looking_up.CLASSES:
      cells = [_cell([one.get(f'searches/{kind}/{fact}') for one in found]) for fact in columns]
      lines.append(f'| {kind} | {" | ".join(cells)} |')
  return '\n'.join(lines)


def thresholds(runs: Sequence[Run]) -> str:
  """What is left of invention where each variant also refuses what it is unsure of.

  The threshold is the highest that refuses at most MOST_REFUSED of what is known among the very
  names that are counted, so it flatters all of them. A dash stands for who refuses more already.
  """
  lines = [f'| invention at an over-refusal of {MOST_REFUSED} | mean | by seed |', '|---|---:|---|']
  for name, variant in VARIANTS.items():
    found = []
    for one in () if variant.threshold else runs:
      if one.measured(name).is_file():
        points = curve(_asked(one, name)['said']['knowledge'], _known(one))
        found.append(next(iter(points[points[:, 0] <= MOST_REFUSED][::-1, 1]), None))
    if found:
      seeds = ', '.join('–' if value is None else f'{value:.3f}' for value in found)
      mean = '–' if None in found else f'{np.mean(found):.3f}'
      lines.append(f'| {variant.title} | {mean} | {seeds} |')
  return '\n'.join(lines)


def _cell(values: Sequence[float | None]) -> str:
  """Mean and half of the range."""
  there = [value for value in values if value is not None]
  if not there:
    return '–'
  digits = 1 if np.mean(there) > 1.5 else 3
  spread = f' ± {(max(there) - min(there)) / 2:.{digits}f}' if len(there) > 1 else ''
  return f'{np.mean(there):.{digits}f}{spread}'


def draw(runs: Sequence[Run], path: Path) -> None:
  """Invention against over-refusal: the line of thresholds, and a point for each variant."""
  from matplotlib.figure import Figure

  drawing = Figure(figsize=(7, 4.5), layout='constrained')
  ax = drawing.subplots()
  for one in {one.before: one for one in runs}.values():
    points = curve(_asked(one, 'sft')['said']['knowledge'], _known(one))
    ax.plot(points[:, 0], points[:, 1], color='grey', lw=1, label='threshold on log p')
  for name, variant in VARIANTS.items():
    found = [
      _asked(one, name)['metrics']
      for one in runs
      if not variant.threshold and one.measured(name).is_file()
    ]
    if found:
      both = ('knowledge/over_refusal', 'knowledge/invention')
      xs, ys = ([metrics[key] for metrics in found] for key in both)
      ax.plot(xs, ys, 'o', ms=5, label=variant.title)
  handles, labels = ax.get_legend_handles_labels()
  once = dict(zip(labels, handles, strict=True))
  ax.legend(once.values(), once.keys(), fontsize=7)
  ax.set(xlabel='over-refusal: known, refused', ylabel='invention: unknown, answered')
  ax.set(xlim=(-0.01, 0.5), ylim=(-0.02, 1.02))
  ax.grid(alpha=0.3)
  drawing.savefig(path)


def main() -> None:
  """Runs what is missing, and prints the table."""
  given = argparse.ArgumentParser(description=__doc__)
  given.add_argument('--sft', default='runs/gpt/sft', help='the model before; {seed} is replaced')
  given.add_argument('--seeds', default='0,1,2')
  given.add_argument('--only', default=','.join(VARIANTS), help='names of variants')
  given.add_argument('--workdir', default='runs/hallucination')
  options = given.parse_args()
  root = Path(options.workdir)
  runs = []
  for seed in map(int, options.seeds.split(',')):
    one = Run(options.sft.format(seed=seed), root, seed)
    c = probe.get_config()
    c.artifact, c.workdir = one.sft, str(one.probe.parent)
    if not run_folder.finished(c.workdir):
      run(c)
    runs.append(one)
  for name in options.only.split(','):
    for one in runs:
      _asked(one, 'sft' if VARIANTS[name].threshold else name)
      print(table(runs), flush=True)
  parts = [table(runs), looked_up(runs), thresholds(runs)]
  print('\n\n'.join(parts[1:]))
  (root / 'table.md').write_text('\n\n'.join(parts) + '\n')
  draw(runs, root / 'curve.svg')


if __name__ == '__main__':
  main()
