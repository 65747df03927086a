"""The report of a pipeline: every policy is evaluated, and all that is known is put on one page.

What is measured of a model is kept in `report/<stage>.json` for as long as its artifact, what it is
compared with and the evaluations stay the same. `report.json` has all numbers of the page.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from llm_jax import artifact, options, run_folder
from llm_jax.evals import estimates, task
from llm_jax.evals.kept import Kept
from llm_jax.files import read_json, write_json
from llm_jax.find import call
from llm_jax.jobs import (
  comparison,
  evaluations,
  page,
  report_page,
  rounds,
  rounds_report,
  tasks,
)
from llm_jax.jobs.measure import identity, measure, watched
from llm_jax.jobs.trust import trusted
from llm_jax.models.compute import Compute
from llm_jax.options import NotNegative
from llm_jax.parallel.mesh import batch_shards, make_mesh
from llm_jax.text import chat
from llm_jax.text import folder as tokenizers
from llm_jax.text.spans import signs, spans
from llm_jax.text.terminal import say
from llm_jax.training import metrics
from llm_jax.types import BadInput

OFFERED = ('record',)
OF_CLASS = 3  # questions of a class that are shown with their answers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of `config.report`.

  Attributes:
    evals: what every policy is put to: key -> evaluation, see jobs/evaluations.py. One that reads
      rows has its own `data`; what it asks other stages is left out until these have finished.
    columns: (metric, heading) of the table, in order; the key of an evaluation stands for all its
      metrics. By default all that was measured.
    compute: how the models are run; see `models.compute.Compute`.
    note: a paragraph above the table.
    rounds: a config of job `matches`, by which the model of a round is compared with that of the
      round before; a judge without a `path` is the reward model of the round. None compares none.
    price: of a device for an hour, in any currency.
  """

  evals: Mapping[str, Any]
  columns: Sequence[Sequence[str]] = ()
  compute: Mapping[str, Any] | None = None
  note: str = ''
  rounds: Mapping[str, Any] | None = None
  price: NotNegative = 0.0


def groups(config: Any) -> Iterator[tuple[str, Callable[..., Any], tuple[str, ...]]]:
  """(group of the config, the function that its options are for, what is filled in)."""
  yield 'report', Fields, ()
  yield 'report.compute', Compute, ()
  yield 'ask', task.make, (*evaluations.FILLED_IN, *tasks.OF_ONE)
  yield from evaluations.functions(config.report.evals, 'report.evals')


def check(config: Any) -> None:
  """Raises BadInput for a field of `config.report` that cannot be."""
  options.check(Fields, config.report.to_dict(), where='report')
  shards = batch_shards(call(make_mesh, config.mesh, where='mesh'))
  stages = [config[name].workdir for name in config.stages]
  asked = tasks.asked(config, config.report.evals.to_dict())
  evaluations.check(
    asked.groups, offered=OFFERED, coming=stages, shards=shards, where='report.evals'
  )
  benchmarks = {key: asked.groups[key] for key in asked.tasks}
  rounds_report.check(config)
  policies = [name for name in config.stages if rounds.makes(config[name]) == 'policy']
  for name in policies[:1] if benchmarks else ():  # of the others the same can be said
    group = artifact.published(config[name].model.to_dict())
    model = artifact.build(group, source=name, trust=trusted(config))
    evaluations.check(benchmarks, offered=OFFERED, model=model, coming=stages, shards=shards)


def write(config: Any, seconds: Mapping[str, float]) -> None:
  """Evaluates the models that are new, and writes report.json, report.md and report.html.

  Args:
    config: of the pipeline; stages that have not run are left out.
    seconds: stage -> wall time.
  """
  folder = Path(config.workdir)
  names = [name for name in config.stages if run_folder.finished(config[name].workdir)]
  mesh = call(make_mesh, config.mesh, where='mesh')
  with jax.set_mesh(mesh):
    measured = {
      name: _measured(config, name, mesh) for name in names if _leaves_policy(config[name])
    }
  facts = {
    'recipe': folder.name,
    'device': jax.devices()[0].device_kind,
    'devices': jax.device_count(),
    'commit': artifact.commit(),
    'price': config.report.get('price', 0.0),
    'stages': {
      name: {**_facts(config[name]), 'seconds': seconds.get(name), **measured.get(name, {})}
      for name in names
    },
  }
  if rows := rounds_report.measured(config, facts['stages']):
    facts['rounds'] = rows
  if jax.process_index():
    return
  trained = [name for name in measured if config[name].job == 'train']
  if trained and (tokens := _tokens(config[trained[-1]].workdir, measured[trained[-1]]['answers'])):
    facts['tokens'] = {'stage': trained[-1], 'pieces': tokens}
  title = f'{folder.name}: what each stage did'
  page.write(folder, report_page.blocks(config, facts), title, facts)
  tables = [report_page.quality(facts, config.report.get('columns', ()))]
  followed = rounds_report.blocks(facts, config.report.get('columns', ()))
  say(page.markdown([*tables, *report_page.benchmarks(facts), *followed], folder))
  made = f'--config.artifact={config[trained[-1]].workdir}' if trained else ''
  say(
    f'The report is {folder}/report.html.\n'
    f'Chat with the model: python -m llm_jax.main --config=configs/chat.py {made}\n'
    f'The same in a browser: python -m llm_jax.main --config=configs/serve.py {made}'
  )


def _tokens(path: str, answers: Mapping[str, str]) -> list[tuple[str, str]]:
  """(text, kinds) of the tokens of the first answer with its prompt, for `page.Pieces`."""
  template = artifact.describe(path)['config'].get('data', {}).get('template')
  if not answers or not template:
    return []
  tokenizer = tokenizers.load(Path(path) / 'tokenizer')
  said = zip(('user', 'assistant'), next(iter(answers.items())), strict=True)
  talk = [{'role': role, 'content': text} for role, text in said]
  try:
    found = chat.pieces(talk, template=chat.find_template(template, tokenizer))
  except BadInput:  # a template of somebody else's, which has no form for such an answer
    return []
  ids, mask = chat.encode(tokenizer, found)
  controls = set(tokenizer.specials.values())
  kinds = [('control ' * (i in controls) + 'trained' * on).strip() for i, on in zip(ids, mask)]
  return [*zip(map(signs, spans(tokenizer, ids)), kinds, strict=True)]


def _by_class(said: Sequence[tuple[Mapping[str, Any], str]]) -> dict[str, dict[str, list[str]]]:
  """Class -> the first few questions -> the answer, and what became of it."""
  found: dict[str, dict[str, list[str]]] = {}
  for question, text in said:
    if {'class', 'outcome'} <= question.keys():
      some = found.setdefault(question['class'], {})
      if len(some) < OF_CLASS:
        some[str(question['prompt'][-1]['content'])] = [text, question['outcome']]
  return found


def _leaves_policy(stage: Any) -> bool:
  """Whether a stage leaves a model that can answer; what is compressed is one that could."""
  return rounds.makes(stage) in ('policy', 'compress')


def _facts(stage: Any) -> dict[str, Any]:
  """What a finished stage left in its own files."""
  folder, ended = Path(stage.workdir), run_folder.finished(stage.workdir)
  if stage.job == 'compress':
    facts = read_json(folder / page.FACTS, 'delete its folder, and compress again')
    return {
      'job': stage.job,
      **{key: facts[key] for key in ('artifact', 'bytes', 'bits_per_weight')},
    }
  if ended and stage.job != 'train':
    again = 'delete it and give the command again, which goes on from what is there'
    return {'job': stage.job, **read_json(Path(ended), again)}
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
    'evaluated': {
      name: value
      for record in records
      for name, value in record.items()
      if name.partition('/')[0] in stage.evals
    },
  }


def _measured(config: Any, name: str, mesh: jax.sharding.Mesh) -> dict[str, Any]:
  """Metrics and answers of a policy; read back if nothing of it has changed."""
  path = config[name].workdir
  asked = tasks.asked(config, config.report.evals.to_dict())
  template = artifact.describe(path)['config'].get('data', {}).get('template')
  groups = evaluations.possible(asked.groups, template)
  if config[name].job == 'compress':  # which is near the model that it was made from
    groups = {key: group for key, group in groups.items() if not group.get('annotate')}
  seen = hashlib.sha256(json.dumps([groups, run_folder.digests([path, groups])]).encode())
  kept = Path(config.workdir) / 'report' / f'{name}.json'
  try:
    known = read_json(kept, 'it is measured again') if kept.is_file() else {}
  except BadInput as error:
    say(error, file=sys.stderr)
    known = {}
  if known.pop('of', None) == seen.hexdigest():
    return known
  say(f'asking {path}')
  own, compute = trusted(config), config.report.get('compute')
  made = artifact.load(path, mesh, compute, trust=own)
  answered = None
  if asked.tasks and jax.process_count() == 1:  # hosts that know different answers ask in vain
    answered = Kept(kept.parent / 'kept' / f'{identity(path, compute)}.jsonl')
  found = measure(groups, made, mesh=mesh, trust=own, kept=answered, progress=watched(path))
  said = [pair for some in found.said.values() for pair in some]
  told = {
    'metrics': found.metrics,
    'intervals': {
      key: comparison.interval(estimates.estimate(one)) for key, one in found.per_question.items()
    },
    'benchmarks': asked.tasks,
    'asked_seconds': {key: round(seconds, 2) for key, seconds in found.seconds.items()},
    'answers': {question['prompt']: text for question, text in said if [*question] == ['prompt']},
    'by_class': _by_class(said),
  }
  if jax.process_index() == 0:
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, {'of': seen.hexdigest(), **told})
  return told
