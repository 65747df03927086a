"""The report of a pipeline: every policy is evaluated, and all that is known is put on one page.

What is measured of a model is kept in `report/<stage>.json` for as long as its artifact, what it is
compared with and the evaluations stay the same. `report.json` has all numbers of the page.
"""

import dataclasses
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from llm_jax import __version__, artifact, model, options, run_folder
from llm_jax.evals import estimates, task
from llm_jax.evals.kept import Kept
from llm_jax.files import read_json, write_json
from llm_jax.find import call
from llm_jax.jobs import (
  comparison,
  evaluations,
  graded,
  page,
  progress,
  report_page,
  report_tables,
  report_talks,
  rounds,
  rounds_report,
  stage_facts,
  tasks,
)
from llm_jax.jobs.machine import machine
from llm_jax.jobs.measure import identity, measure, watched
from llm_jax.jobs.trust import trusted
from llm_jax.models.compute import Compute
from llm_jax.options import NotNegative
from llm_jax.parallel.mesh import batch_shards, make_mesh
from llm_jax.text import chat
from llm_jax.text import folder as tokenizers
from llm_jax.text.terminal import say
from llm_jax.types import BadInput

OFFERED = ('record',)
SAMPLED = 'sampled'  # what a base model is put to besides
INSIDE = ('graded', 'scores')  # what is kept of a model and stands in no report


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
      name: {
        **stage_facts.of(config[name], trusted(config)),
        'kind': progress.kind(config[name]),
        'before': progress.before(config, name),
        'held': 'reference' in config[name].get('annotate', {}).get('steps', ()),
        'seconds': seconds.get(name),
        **{key: value for key, value in measured.get(name, {}).items() if key not in INSIDE},
      }
      for name in names
    },
  }
  said = {name: measured[name].get('graded', []) for name in measured}
  for name, stage in facts['stages'].items():
    if name in measured and stage['before'] in measured:
      stage['moved'] = _moved(measured[stage['before']]['scores'], measured[name]['scores'])
    if name in said:
      stage['graded'] = graded.few(said[name], stage['answers'])
    if stage['kind'] == 'tries' and stage['before'] in said:
      stage['pairs'] = report_talks.pairs(said[stage['before']], said[name])
  facts['mistake'] = graded.favourite(said)
  if rows := rounds_report.measured(config, facts['stages']):
    facts['rounds'] = rows
  if jax.process_index():
    return
  trained = [name for name in measured if config[name].job == 'train']
  chats = [name for name in trained if measured[name].get('talks')]
  facts['newest'] = config[chats[-1]].workdir if chats else ''
  facts['made'] = _made(facts)
  if trained and (
    tokens := stage_facts.tokens(config[trained[-1]].workdir, measured[trained[-1]]['answers'])
  ):
    facts['tokens'] = {'stage': trained[-1], 'pieces': tokens}
  title = f'{folder.name}: how a model was made'
  page.write(folder, report_page.blocks(config, facts), title, facts)
  tables = [report_tables.quality(facts, config.report.get('columns', ()))]
  followed = rounds_report.blocks(facts, config.report.get('columns', ()))
  say(page.markdown([*tables, *report_tables.benchmarks(facts), *followed], folder))
  say(f'The report is {folder}/report.html, for a browser.')
  for block in report_page.following(facts):
    if isinstance(block, page.Text | page.Code):
      say(block.text if isinstance(block, page.Text) else f'  {block.text}')


def _made(facts: Mapping[str, Any]) -> dict[str, str]:
  """When, where and by which command the report was made."""
  given = any(word.startswith('--config') for word in sys.argv[1:])
  devices = f'{facts["devices"]} x {facts["device"]}'
  commit = f', commit {facts["commit"][:10]}' if facts['commit'] else ''
  return {
    'date': time.strftime('%Y-%m-%d %H:%M'),
    'machine': machine(),
    'devices': f'{devices}, JAX {jax.__version__}',
    'program': f'llm_jax {__version__}{commit}',
    'command': f'{report_page.COMMAND} {shlex.join(sys.argv[1:])}' if given else '',
  }


def _moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
  """Metric -> whether it differs, question by question, beyond chance; and whether it is worse."""
  out = {}
  for name in after.keys() & before.keys():
    first, second = (_per_question(one[name]) for one in (after, before))
    found, test = estimates.difference(first, second)
    out[name] = {
      'sure': comparison.sure(found, test),
      'worse': bool(found.mean > 0 if first.fewer else found.mean < 0),
    }
  return {name: out[name] for name in after if name in out}


def _per_question(kept: Mapping[str, Any]) -> estimates.PerQuestion:
  return estimates.PerQuestion(**{**kept, 'scores': np.array(kept['scores'], float)})


def _leaves_policy(stage: Any) -> bool:
  """Whether a stage leaves a model that can answer; what is compressed is one that could."""
  return rounds.makes(stage) in ('policy', 'compress')


def _continuing(groups: Mapping[str, Any], stage: Any) -> dict[str, Any]:
  """The evaluations of a model that knows no conversations.

  What it is asked without a score is sampled, since the likeliest text of such a model runs in
  circles; the prompts of its own config are continued as well.
  """
  found, prompts = {}, []
  for key, group in groups.items():
    if group.get('prompts'):
      prompts += group['prompts']
      group = {**group, 'prompts': ()}
    if group.get('name') != 'answers' or group.get('families') or group.get('sources'):
      found[key] = group
  how = stage.get('sample', ConfigDict()).to_dict()
  prompts += [prompt for prompt in how.get('prompts', ()) if prompt not in prompts]
  drawn = {name: how[name] for name in ('max_new', 'temperature', 'top_k', 'top_p') if name in how}
  sampled = {SAMPLED: {'name': 'answers', 'prompts': tuple(prompts), **drawn}} if prompts else {}
  return {**found, **sampled}


def _judge(config: Any) -> str:
  """The folder of the newest reward model that has finished; '' where there is none."""
  found = rounds.newest(config, config.stages, 'reward')
  return config[found].workdir if found and run_folder.finished(config[found].workdir) else ''


def _measured(config: Any, name: str, mesh: jax.sharding.Mesh) -> dict[str, Any]:
  """Metrics and answers of a policy; read back if nothing of it has changed."""
  path = config[name].workdir
  asked = tasks.asked(config, config.report.evals.to_dict())
  template = artifact.template_of(artifact.describe(path)['config'])
  tokenizer = tokenizers.load(Path(path) / 'tokenizer')
  template = template and chat.find_template(template, tokenizer)
  groups = evaluations.possible(asked.groups, template, tokenizer.specials)
  if not template:
    groups = _continuing(groups, config[name])
  if config[name].job == 'compress':  # which is near the model that it was made from
    groups = {key: group for key, group in groups.items() if not group.get('annotate')}
  judge = _judge(config) if template else ''  # a base model answers nothing
  made_of = [INSIDE, groups, judge, run_folder.digests([path, groups, judge])]
  seen = hashlib.sha256(json.dumps(made_of).encode())
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
  prompts = {question['prompt']: text for question, text in said if [*question] == ['prompt']}
  own_prompts = () if template else config[name].get('sample', {}).get('prompts', ())
  aided = {key for key, group in groups.items() if group.get('tools') or group.get('second')}
  alone = {key: some for key, some in found.said.items() if key not in aided}
  answers = graded.graded(dataclasses.replace(found, said=alone)) if template else []
  if judge and answers and jax.process_count() == 1:
    graded.rewarded(answers, model.load(judge, mesh=mesh, compute=compute, trust=own))
  told = {
    'metrics': found.metrics,
    'intervals': {
      key: comparison.interval(estimates.estimate(one)) for key, one in found.per_question.items()
    },
    'scores': {
      key: {
        'keys': [*one.keys],
        'scores': one.scores.tolist(),
        'clusters': [*one.clusters],
        'fewer': one.fewer,
      }
      for key, one in found.per_question.items()
      if one.scores is not None
    },
    'benchmarks': asked.tasks,
    'asked_seconds': {key: round(seconds, 2) for key, seconds in found.seconds.items()},
    'answers': {prompt: text for prompt, text in prompts.items() if prompt not in own_prompts},
    'continued': {prompt: text for prompt, text in prompts.items() if prompt in own_prompts},
    'how': '' if template else ', which goes on with it as with a text, sampled',
    'talks': bool(template),
    'graded': answers,
    'by_class': stage_facts.by_class(said),
  }
  if jax.process_index() == 0:
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, {'of': seen.hexdigest(), **told})
  return told
