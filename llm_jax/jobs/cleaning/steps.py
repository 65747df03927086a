"""The steps of job `clean`: rules for a page alone, and between them steps over all pages."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from llm_jax.clean.page import Drop, Page, Rule
from llm_jax.data.sources import open_source
from llm_jax.find import call, find, last, preset
from llm_jax.options import check, resolve
from llm_jax.types import BadInput

ROOM = 'clean'

Each = Callable[[Page], Page | Drop]


class Step(NamedTuple):
  """A file of `clean/`, or one of the user's, in its place.

  Attributes:
    name: of the step, which values and reasons are told by.
    module: what it is a file of.
    options: that the config gives, its preset unfolded.
  """

  name: str
  module: ModuleType
  options: Mapping[str, Any]

  @property
  def where(self) -> str:
    """Its group of the config."""
    return f'rules.{self.name}'

  def make(self) -> Any:
    """The rule, or the step over all pages."""
    return call(self.module.make, self.opened, where=self.where)

  @property
  def opened(self) -> dict[str, Any]:
    """The options, with a source of texts, such as 'good/*.jsonl', where its file says `TEXTS`."""
    texts = getattr(self.module, 'TEXTS', ())
    return {k: open_source(v) if k in texts and v else v for k, v in self.options.items()}


def read(group: Mapping[str, Any]) -> list[Step]:
  """The steps of `group.steps` in their order, whose options are groups beside it.

  A step is called as its file. With `name` in its options it is another file's, so that one rule
  may come twice.

  Raises:
    BadInput: a name, option, preset or value that cannot be, or options for a step that is none.
  """
  names = group.get('steps')
  if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
    raise BadInput(f"rules: steps {names!r}; choose a list of names, as ('gopher', 'fineweb')")
  steps: list[Step] = []
  for name in names:
    short = last(name)
    if short in [step.name for step in steps]:
      raise BadInput(
        f'rules: {short!r} comes twice in config.rules.steps; call one of them otherwise and set '
        f"config.rules.<its name>.name = '{short}'"
      )
    options = dict(group.get(name, group.get(short, {})))
    module = find(ROOM, options.pop('name', name))
    options = preset(module, options, where=f'rules.{short}')
    steps.append(Step(short, module, options))
    check(module.make, steps[-1].opened, where=f'rules.{short}')
  return steps


def phases(made: Sequence[tuple[str, Any]]) -> Iterator[tuple[list[tuple[str, Each]], Any, str]]:
  """The steps divided by those over all pages.

  Args:
    made: name and what `Step.make` gave, in order.

  Yields:
    (steps for a page alone, the step over all pages that comes then, its name). The last has None
    and '' for it.
  """
  some: list[tuple[str, Each]] = []
  for name, step in made:
    if is_across(step):
      yield some, step, name
      some = []
    else:
      some.append((name, step))
  yield some, None, ''


def is_across(step: Any) -> bool:
  """Whether it is a step over all pages."""
  return all(hasattr(step, method) for method in ('sign', 'join', 'apply'))


def is_keyed(across: Any) -> bool:
  """Whether a step over all pages can be joined by key: see `Keyed`."""
  return all(hasattr(across, method) for method in ('reads', 'keys', 'linked', 'united'))


def key(value: Any) -> str:
  """A text that differs where anything that is JSON differs."""
  return json.dumps(value, sort_keys=True, default=str)


def limits_alone(old: Step, new: Step) -> bool:
  """Whether two steps measure and edit alike, and differ at most in what they drop a page for.

  An option that a rule's limits depend on is taken to be used for nothing else; see `Rule`.
  """
  if (old.name, old.module) != (new.name, new.module):
    return False
  theirs, ours = (resolve(step.module.make, step.options) for step in (old, new))
  made = old.make()
  for option in theirs.keys() | ours.keys():
    if key(theirs.get(option)) == key(ours.get(option)):
      continue
    changed = new._replace(options={**old.options, option: ours.get(option)}).make()
    if not isinstance(made, Rule) or changed.limits == made.limits:
      return False
  return True


def same_numbers(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
  """Whether the pages that one config measured can be judged by another.

  Up to the first step over all pages, the steps have to be the same and may differ in limits alone;
  what comes then is done anew.

  Raises:
    BadInput: naming the step.
  """
  theirs, ours = _first_phase(read(old)), _first_phase(read(new))
  if [step.name for step in theirs] != [step.name for step in ours]:
    names = ', '.join(step.name for step in theirs)
    raise BadInput(
      f'again: the pages were measured by the steps {names}; keep these in config.rules.steps, or '
      'start without config.again in another config.workdir'
    )
  for before, now in zip(theirs, ours, strict=True):
    if not limits_alone(before, now):
      raise BadInput(
        f'again: {now.where} changes what is measured, or how texts are edited, and not only what '
        'is dropped for it; start without config.again in another config.workdir'
      )


def _first_phase(found: Sequence[Step]) -> list[Step]:
  """The steps for a page alone that come before the first over all pages."""
  return list(itertools.takewhile(lambda step: not is_across(step.make()), found))
