"""What is done to a block of pages, in any process: reading, steps, and notes for the next join.

A phase is the steps for a page alone up to a step over all pages. Where blocks lie, and who works
on which, is the matter of `passes.py` (files on one machine) and of `beam.py` (Apache Beam).
"""

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from llm_jax.clean import words
from llm_jax.clean.page import Across, Fate, Limit, Page, Rule, follow
from llm_jax.jobs.cleaning import blocks, crawl, steps
from llm_jax.types import BadInput

READ = 'read.characters'


class Plan(NamedTuple):
  """What decides every byte that is written.

  Attributes:
    sources: name -> specification.
    rules: the group of the config, as JSON: names and options of all steps.
    words: name of the splitter.
    scope: 'all', or 'per_source' for steps over all pages that look at one source at a time.
    block_pages: pages of a block.
  """

  sources: Mapping[str, str]
  rules: str
  words: str
  scope: str
  block_pages: int


class Phase(NamedTuple):
  """Steps for a page alone, the step over all pages that comes then, and its name.

  The last phase has None and '' for it.
  """

  each: list[tuple[str, steps.Each]]
  across: Across | None
  name: str


@functools.lru_cache(maxsize=2)
def phases(rules: str) -> list[Phase]:
  """Everything that the steps of a config made, once in each process."""
  made = [(step.name, step.make()) for step in steps.read(json.loads(rules))]
  return [Phase(*found) for found in steps.phases(made)]


def described(plan: Plan) -> tuple[list[str], dict[str, tuple[Limit, ...]]]:
  """The names of all steps in order, and the limits of those that have some."""
  names: list[str] = []
  limits: dict[str, tuple[Limit, ...]] = {}
  for phase in phases(plan.rules):
    names += [*(name for name, _ in phase.each), *filter(None, [phase.name])]
    limits |= {name: step.limits for name, step in phase.each if isinstance(step, Rule)}
  return names, limits


def read(
  plan: Plan, unit: crawl.Unit, counts: Counter[str]
) -> Iterator[tuple[int, Iterator[Fate]]]:
  """The blocks of a unit behind the first phase: how many pages, and their fates when asked for.

  Args:
    plan: see there.
    unit: what is read.
    counts: as in `crawl.pages`; all is counted at the end.
  """
  each = phases(plan.rules)[0].each
  found = crawl.pages(unit, words.splitter(plan.words), counts)
  for some in _batches(found, plan.block_pages):
    yield len(some), (_followed(each, page) for page in some)


def _followed(each: Sequence[tuple[str, steps.Each]], page: Page) -> Fate:
  """The fate of a page that was just read, and how long it was: in characters, or bytes of HTML."""
  fate = follow(each, page)
  return dataclasses.replace(fate, values={READ: len(page.body or page.text), **fate.values})


def applied(
  plan: Plan, index: int, fates: Iterable[Fate], found: Mapping[int, Any]
) -> Iterator[Fate]:
  """The pages of a block behind a later phase.

  Args:
    plan: see there.
    index: of the phase, from 1.
    fates: of the pages before.
    found: place in the block -> what the step over all pages in front of it found.
  """
  _, last, called = phases(plan.rules)[index - 1]
  each = phases(plan.rules)[index].each
  for i, fate in enumerate(fates):
    if fate.step:
      yield fate
      continue
    first = [(called, functools.partial(_apply, last, found[i]))] if i in found else []
    then = follow([*first, *each], fate.page)
    yield dataclasses.replace(then, values={**fate.values, **then.values})


def _apply(across: Any, found: Any, page: Page) -> Any:
  return across.apply(page, found)


def judged(plan: Plan, fates: Iterable[Fate]) -> Iterator[Fate]:
  """The pages of a block of the first phase by the limits of today, from numbers measured before.

  Raises:
    BadInput: one is to be kept whose fate nobody has measured.
  """
  each = phases(plan.rules)[0].each
  order = [name for name, _ in each]
  return (_judge(each, order, fate) for fate in fates)


def _judge(each: Sequence[tuple[str, Any]], order: Sequence[str], fate: Fate) -> Fate:
  """The fate of a page by the limits of today."""
  was = order.index(fate.step) if fate.step else len(order)
  for i, (name, step) in enumerate(each):
    if isinstance(step, Rule):
      values = {
        key.removeprefix(f'{name}.'): value
        for key, value in fate.values.items()
        if key.startswith(f'{name}.')
      }
      if reason := step.judge(values):
        return dataclasses.replace(fate, step=name, reason=reason)
    elif i == was:
      return fate
    elif i > was:
      raise BadInput(
        f'again: a page that {order[was]} dropped before is to be kept now, and {name} has not '
        f'seen it ({fate.page.url}); start without config.again, in another config.workdir'
      )
  return dataclasses.replace(fate, step='', reason='')


def noted(across: Across | None, fates: Iterable[Fate]) -> tuple[bytes, dict[int, np.ndarray]]:
  """A block as it is stored, and what the step over all pages notes of the pages still kept."""
  lines: list[bytes] = []
  signed: dict[int, np.ndarray] = {}
  for i, fate in enumerate(fates):
    lines.append(blocks.line(fate))
    if across is not None and not fate.step:
      signed[i] = across.sign(fate.page)
  return blocks.compressed(b''.join(lines)), signed


def _batches(pages: Iterable[Page], size: int) -> Iterator[list[Page]]:
  some: list[Page] = []
  for page in pages:
    some.append(page)
    if len(some) == size:
      yield some
      some = []
  if some:
    yield some
