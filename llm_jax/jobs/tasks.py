"""What `config.tasks` stands for: a group of `config.evals` for each benchmark, called after it.

Options of all of them are in `config.ask`, and those of one in `config.evals.<task>`. What changes
the questions themselves is part of the name: accuracies of two forms are two metrics.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from llm_jax import options
from llm_jax.data.tasks import own, suites
from llm_jax.evals import harness
from llm_jax.evals import task as evaluation
from llm_jax.find import last, names
from llm_jax.jobs.evaluations import OFFERED
from llm_jax.types import BadInput

OURS = 'llm_jax'
OF_ONE = ('task', 'path', 'variant', 'metric', 'chance')  # options of one task, or of the job
IN_NAME = ('form', 'control', 'in_chat', 'too_long')


class Asked(NamedTuple):
  """What models are put to.

  Attributes:
    groups: key -> evaluation, see jobs/evaluations.py.
    tasks: keys of those that are benchmarks.
    suites: name -> keys of its tasks, of suites with several tasks.
  """

  groups: dict[str, dict[str, Any]]
  tasks: list[str]
  suites: dict[str, list[str]]


def asked(config: Any, evals: Mapping[str, Any]) -> Asked:
  """`evals` with a group for each task of `config.tasks`.

  Args:
    config: with `tasks`, `path` and `ask`, any of which may be missing.
    evals: key -> group; one that is called after a task has options of it alone.

  Raises:
    BadInput: no such task, no place of the benchmarks, or an option that there is not.
  """
  tasks, path = config.get('tasks') or (), config.get('path') or ''
  groups = {key: dict(group) for key, group in evals.items()}
  ask = dict(config.get('ask') or {})
  if not tasks:
    if ask:
      names = ', '.join(f'ask.{name}' for name in ask)
      raise BadInput(f'{names}: for tasks, and none is named; name some, --config.tasks=arc_easy')
    return Asked(groups, [], {})
  outside = config.get('backend', OURS) != OURS
  if outside:
    options.check(harness.make, ask, where='ask', supplied=('task', 'path'), offered=OFFERED)
    for name in tasks:
      groups[last(name)] = {'name': 'harness', 'task': name, 'path': path, **ask}
    return Asked(groups, list(dict.fromkeys(map(last, tasks))), {})
  if not path and not all(map(own.is_own, tasks)):
    raise BadInput('tasks: path is missing; give --config.path=<folder of the benchmarks>')
  offered = [name for name in options.options_of(evaluation.make) if name in (*OFFERED, *OF_ONE)]
  options.check(evaluation.make, ask, where='ask', supplied=OF_ONE, offered=offered)
  single = {key: groups.pop(key) for key in [*groups] if 'name' not in groups[key]}
  keys, sets = [], {}
  for name in tasks:
    of_suite = []
    for member in _members(name):
      key = _key(member['task'])
      group = {'name': 'task', 'path': path, **member, **ask, **single.get(key, {})}
      key = _name(key, group)
      key = key if groups.get(key, group) == group else f'{name}.{key}'  # otherwise in two suites
      groups[key] = group
      of_suite.append(key)
    keys += of_suite
    sets |= {name: of_suite} if len(of_suite) > 1 else {}
  plain = {_key(groups[key]['task']) for key in keys}
  for key in single:
    if key not in plain:
      raise BadInput(f'evals.{key}: a group without a name; {options.suggest(key, sorted(plain))}')
  return Asked(groups, list(dict.fromkeys(keys)), sets)


def shots(group: Mapping[str, Any]) -> int:
  """How many examples precede each question of a task."""
  given = group.get('shots')
  if group['name'] == 'harness':
    return given or 0
  return evaluation.task_of(group['task'], group.get('variant')).shots if given is None else given


def _members(name: str) -> list[dict[str, Any]]:
  """Options of the task of a name, or of those of a suite."""
  if name in suites.SUITES:
    found = [entry._asdict() for entry in suites.SUITES[name]]
    return [{k: v for k, v in one.items() if v not in (None, '', {})} for one in found]
  known = [*names('data.tasks'), *suites.SUITES]
  if name not in known and not any(mark in name for mark in './'):
    raise BadInput(f'tasks: no {name!r}; {options.suggest(name, known)}')
  evaluation.task_of(name)  # refuses what is no file, or no task
  return [{'task': name}]


def _key(name: str) -> str:
  """What a task is called by its own name.

  >>> _key('arc_easy'), _key('mine/colours.py'), _key('mine/questions.jsonl.gz')
  ('arc_easy', 'colours', 'questions')
  """
  return name.rpartition('/')[2].partition('.json')[0] if own.is_own(name) else last(name)


def _name(key: str, group: Mapping[str, Any]) -> str:
  """The key, with the options that make the questions others than those of the task.

  >>> _name('mmlu', {'task': 'mmlu', 'form': 'full', 'control': False, 'shots': 2})
  'mmlu[form=full]'
  """
  changed = {**(group.get('variant') or {}), **{name: group.get(name) for name in IN_NAME}}
  usual = (None, '', False, 'drop')
  said = [f'{name}={value}' for name, value in changed.items() if value not in usual]
  return f'{key}[{", ".join(said)}]' if said else key
