"""The report of a pipeline: what went in, what each stage cost, and what it did to the model.

Every model is asked once, and what it said is kept in `report/<stage>.json` for as long as its
artifact and the questions stay the same. `report.json` has all numbers of the page.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from llm_jax import artifact
from llm_jax.data import families as builtin
from llm_jax.evals import answers, held_out, perplexity
from llm_jax.find import call, find, named
from llm_jax.jobs import annotators, chain
from llm_jax.jobs.assembly import read_rows
from llm_jax.jobs.page import Block, Figure, Heading, Table, Text, markdown, page
from llm_jax.parallel.mesh import batch_shards, make_mesh
from llm_jax.sampling import complete
from llm_jax.training import metrics, rollouts
from llm_jax.training.batches import annotated
from llm_jax.training.checkpoint import write_json
from llm_jax.types import BadInput, Mean

NONE = '–'
LONGEST = 600  # characters of an answer that are shown
SHOWN_ROLLOUTS = 4  # of the first and of the last that were written


class Questions:
  """What every model is asked; the fields are those of `config.report`.

  Args:
    prompts: answered by every stage, side by side, greedily.
    max_new: most tokens of an answer.
    families: of builtin questions (data/families.py), from their test split.
    max_questions: of each family.
    max_rows: of held-out text, for bits per byte.
    sampled: how many answers, sampled at temperature 1, the reward model and the KL divergence are
      measured on.
    data: keyword arguments of `data.prompts`, whose prompts these answer.
    batch_size: prompts or rows at a time.
    compute: how the models are run; see `models.compute.Compute`.
    price: of a device for an hour, in any currency.
  """

  def __init__(
    self,
    *,
    prompts: Sequence[str] = (),
    max_new: int = 96,
    families: Sequence[str] = ('word_problems', 'python_questions'),
    max_questions: int = 200,
    max_rows: int = 256,
    sampled: int = 128,
    data: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    compute: Mapping[str, Any] | None = None,
    price: float = 0.0,
  ) -> None:
    self.prompts, self.max_new, self.batch_size = tuple(prompts), max_new, batch_size
    self.compute = compute
    self.max_rows, self.sampled, self.data, self.price = max_rows, sampled, data or {}, price
    self.questions = [
      question
      for family in families
      for question in builtin.records('questions', 'test', family)[:max_questions]
    ]


def check(config: Any) -> None:
  """Raises BadInput for a field of `config.report` that cannot be."""
  asked = call(Questions, config.report.to_dict(), where='report')
  shards = batch_shards(make_mesh(**config.mesh))
  if asked.batch_size < 1 or asked.batch_size % shards:
    raise BadInput(
      f'report: batch_size {asked.batch_size} is not a multiple of the {shards} devices that share '
      f'a batch; use {max(shards, asked.batch_size // shards * shards)}'
    )


def write(config: Any, seconds: Mapping[str, float]) -> None:
  """Measures the models that are new, and writes report.json, report.md and report.html.

  Args:
    config: of the pipeline; stages that have not run are left out.
    seconds: stage -> wall time.
  """
  asked = call(Questions, config.report.to_dict(), where='report')
  folder = Path(config.workdir)
  names = [name for name in config.stages if _finished(config[name])]
  mesh = make_mesh(**config.mesh)
  with jax.set_mesh(mesh):
    measured = {
      name: _measured(config, names, name, asked, mesh)
      for name in names
      if _trains_policy(config[name])
    }
  facts = {
    'recipe': folder.name,
    'device': jax.devices()[0].device_kind,
    'devices': jax.device_count(),
    'commit': artifact.commit(),
    'price': asked.price,
    'stages': {
      name: {**_facts(config[name]), 'seconds': seconds.get(name), **measured.get(name, {})}
      for name in names
    },
  }
  if jax.process_index():
    return
  write_json(folder / 'report.json', facts)
  blocks = _blocks(config, names, facts, asked)
  (folder / 'report.md').write_text(markdown(blocks, folder / 'figures'))
  (folder / 'report.html').write_text(page(blocks, f'{folder.name}: what each stage did'))
  print(markdown([_quality(facts)], folder))
  last = [name for name in names if name in measured][-1:]
  chat = f'--config.artifact={config[last[0]].workdir}' if last else ''
  print(
    f'The report is {folder}/report.html.\n'
    f'Chat with the model: python -m llm_jax.main --config=configs/chat.py {chat}'
  )


def _finished(stage: Any) -> bool:
  ends = {'tokenize': 'tokenize.json', 'sample': 'summary.json'}.get(stage.job, artifact.FILE)
  return (Path(stage.workdir) / ends).is_file()


def _facts(stage: Any) -> dict[str, Any]:
  """What a finished stage left in its own files."""
  folder = Path(stage.workdir)
  if stage.job == 'tokenize':
    return {'job': stage.job, **json.loads((folder / 'tokenize.json').read_text())}
  if stage.job == 'sample':
    return {'job': stage.job, **json.loads((folder / 'summary.json').read_text())}
  about = artifact.describe(folder)
  records = metrics.read(folder)
  rates = [r['tokens_per_second'] for r in records if 'tokens_per_second' in r]
  flops = [r['flops_per_second'] for r in records if 'flops_per_second' in r]
  used = [r['mfu'] for r in records if r.get('mfu') is not None]
  return {
    'job': stage.job,
    'loss': stage.loss.name,
    'steps': about['step'],
    'parent': about['parent'],
    'tokens': max((r['total_tokens'] for r in records if 'total_tokens' in r), default=None),
    'flops': max((r['total_flops'] for r in records if 'total_flops' in r), default=None),
    'tokens_per_second': float(np.median(rates)) if rates else None,
    'flops_per_second': float(np.median(flops)) if flops else None,
    'mfu': float(np.median(used)) if used else None,
    'validation': {
      k.removeprefix('validation/'): v
      for k, v in [r for r in records if any(k.startswith('validation/') for k in r)][-1].items()
      if k.startswith('validation/')
    },
  }


# --- asking the models -------------------------------------------------------------------------


def _measured(
  config: Any, names: Sequence[str], name: str, asked: Questions, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  """What a policy says and is worth; read back if nothing of it has changed."""
  path = config[name].workdir
  judge = _newest(config, names, lambda stage: stage.model.get('head') == 'scalar')
  first = next((n for n in names if _template(config[n])), None)
  whom = [path, *(config[n].workdir for n in (judge, first) if n)]
  questions = {k: v for k, v in config.report.to_dict().items() if k != 'price'}
  seen = hashlib.sha256(json.dumps(questions, sort_keys=True).encode())
  for folder in whom:
    seen.update((Path(folder) / artifact.FILE).read_bytes())
  kept = Path(config.workdir) / 'report' / f'{name}.json'
  if kept.is_file() and (known := json.loads(kept.read_text())).pop('of') == seen.hexdigest():
    return known
  print(f'asking {path}', flush=True)
  made = artifact.load(path, mesh, asked.compute)
  told = _scores(config, names, made, asked, mesh)
  if made.template and asked.sampled:
    told |= _sampled(
      made, asked, mesh, config[judge].workdir if judge else '', config[first].workdir
    )
  if jax.process_index() == 0:
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, {'of': seen.hexdigest(), **told})
  return told


def _scores(
  config: Any, names: Sequence[str], made: artifact.Artifact, asked: Questions, mesh: Any
) -> dict[str, Any]:
  """Held-out text, held-out questions, and the prompts of the page."""
  told: dict[str, Any] = {}
  corpus = next((n for n in names if config[n].get('data', {}).get('name') == 'packed'), None)
  if corpus:
    name, group = named(config[corpus].data.to_dict(), 'data')
    rows = call(find('data', name).make, group, made.tokenizer, where='data', split='validation')
    measure = perplexity.make(
      made.model,
      made.tokenizer,
      rows=rows,
      mesh=mesh,
      batch_size=asked.batch_size,
      max_rows=asked.max_rows,
    )
    told['bits_per_byte'] = float(measure(made.params)['bits_per_byte'].value)
  prompts = [*asked.prompts, *(question['prompt'] for question in asked.questions)]
  if prompts:
    say = complete.make(
      made.model,
      made.tokenizer,
      prompts=prompts,
      template=made.template or 'plain',
      max_new=asked.max_new,
      temperature=0.0,
      batch_size=asked.batch_size,
    )
    said = say(made.params)
    told['answers'] = said[: len(asked.prompts)]
    scores = answers.score(asked.questions, said[len(asked.prompts) :])
    told['scores'] = {k: float(v.value) for k, v in scores.items()}
  return told


def _sampled(
  made: artifact.Artifact, asked: Questions, mesh: Any, judge: str, reference: str
) -> dict[str, float]:
  """Mean score of sampled answers, and their divergence in nats from the first chat model."""
  group = {'sources': {'builtin': 'builtin'}, 'split': 'test', 'answer_bytes': 0, **asked.data}
  steps = ('sample', 'reference', *(['reward_model'] if judge else []))
  groups = dict(
    sample=dict(max_new=asked.max_new, temperature=1.0, rescore=True),
    reference=dict(path=reference),
    reward_model=dict(path=judge),
  )
  groups = {name: groups[name] for name in steps}
  config = ConfigDict(dict(data={'name': 'prompts', **group}, annotate=dict(steps=steps, **groups)))
  parts = chain.chain(config)
  rows = read_rows(parts, made.tokenizer, group['split'], {'template': made.template})
  annotate = annotators.build(parts, made.model, made.tokenizer, mesh, made.template)
  score = kl = Mean.of(0.0, 0.0)
  for i, batch in enumerate(held_out.batches(rows, mesh, asked.batch_size, asked.sampled)):
    batch = annotated(annotate, made.params, batch, 0, i)
    mask_BGL = batch['mask']
    apart_BG = ((batch['old_logp'] - batch['ref_logp']) * mask_BGL).sum(-1)
    kl += Mean.of(apart_BG, mask_BGL.any(-1))
    if judge:
      score += Mean.of(batch['reward'], batch['valid'])
  told = {'kl': float(kl.value)}
  return told | {'reward': float(score.value)} if judge else told


def _trains_policy(stage: Any) -> bool:
  """Whether a stage leaves a model that can answer."""
  if stage.job != 'train':
    return False
  return stage.model.get('head') != 'scalar' and stage.model.get('causal', True)


def _template(stage: Any) -> str | None:
  """The chat template of a stage that trains a policy."""
  return stage.get('data', {}).get('template') if _trains_policy(stage) else None


def _newest(config: Any, names: Sequence[str], wanted: Any) -> str | None:
  return next((n for n in reversed(names) if config[n].job == 'train' and wanted(config[n])), None)


# --- the page ----------------------------------------------------------------------------------


def _blocks(
  config: Any, names: Sequence[str], facts: Mapping[str, Any], asked: Questions
) -> list[Block]:
  stages = facts['stages']
  blocks: list[Block] = [
    Heading(f'{facts["recipe"]}: what each stage did', 1),
    Text(f'{" → ".join(names)}, on {facts["devices"]} x {facts["device"]}.'),
    Heading('What went in'),
    *(_corpus(name, stages[name]) for name in names if stages[name]['job'] == 'tokenize'),
    Heading('What came out'),
    Text(
      'Held-out text (bits per byte) and held-out questions, answered greedily. Reward model and '
      'KL divergence from the first chat model (nats an answer) are means over answers sampled at '
      'temperature 1.'
    ),
    _quality(facts),
    Heading('Curves'),
    *_curves(config, names),
    Heading('What it cost'),
    *_cost(facts),
  ]
  for name in names:
    if stages[name]['job'] == 'sample':
      blocks += [Heading(f'Best of n: {name}'), _best(stages[name])]
  said = [name for name in names if 'answers' in stages[name]]
  if asked.prompts and said:
    blocks.append(Heading('The same prompts after every stage'))
    for i, prompt in enumerate(asked.prompts):
      rows = [[name, _short(stages[name]['answers'][i])] for name in said]
      blocks += [Heading(prompt, 3), Table(('stage', 'answer'), rows)]
  for name in names:
    if (Path(config[name].workdir) / 'rollouts.jsonl').is_file():
      blocks += [Heading(f'Rollouts: {name}'), _rollouts(config[name].workdir)]
  return blocks


def _corpus(name: str, facts: Mapping[str, Any]) -> Table:
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


def _quality(facts: Mapping[str, Any]) -> Table:
  """A row for each model, a column for each thing that was measured on any of them."""
  stages = {k: v for k, v in facts['stages'].items() if 'scores' in v or 'bits_per_byte' in v}
  columns: dict[str, Any] = {'bits per byte': lambda s: s.get('bits_per_byte')}
  for name in dict.fromkeys(name for s in stages.values() for name in s.get('scores', ())):
    columns[name.replace('/', ' ').replace('_', ' ')] = lambda s, n=name: s['scores'].get(n)
  columns['reward model'] = lambda s: s.get('reward')
  columns['KL'] = lambda s: s.get('kl')
  kept = {k: of for k, of in columns.items() if any(of(s) is not None for s in stages.values())}
  rows = [[name, *(_number(of(s), '.3f') for of in kept.values())] for name, s in stages.items()]
  return Table(('stage', *kept), rows)


def _cost(facts: Mapping[str, Any]) -> list[Block]:
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


def _best(facts: Mapping[str, Any]) -> Table:
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


def _curves(config: Any, names: Sequence[str]) -> list[Block]:
  """Reward, where there is one, or loss of each stage over its steps."""
  trained = [name for name in names if config[name].job == 'train']
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
    for key, style in ((what, '-'), (f'validation/{what}', 'o-')):
      points = [(r['step'], r[key]) for r in records if r.get(key) is not None]
      if points:
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
