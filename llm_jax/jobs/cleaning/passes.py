"""Leads all pages through all steps, in passes that can be broken off and divided at will.

A pass leads every page through steps for a page alone, up to the next step over all pages, which
then joins what it noted of each. What is written depends on the pages and the steps alone, not on
the number of processes or on when one was killed. The folder of a pass is called after all that
decides what is in it, so a file that is there is right and is not made again.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llm_jax import run_folder
from llm_jax.clean import words
from llm_jax.clean.page import Across, Fate, Limit, Page, Rule, follow
from llm_jax.files import read_json, write_json
from llm_jax.jobs.cleaning import blocks, crawl, steps
from llm_jax.jobs.cleaning.workers import Task, Workers
from llm_jax.types import BadInput

READ = 'read.characters'
# The position of a page is its place in its unit, and above these bits the place of the unit: so it
# is known where the page is read, whatever other units hold.
UNIT_BITS = 32
ANEW = 'delete it, and give the same command again'


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


class Block(NamedTuple):
  """A block of the first pass; the later passes have one of the same name and length.

  Attributes:
    source: that its pages come from.
    name: of its files.
    first: position of its first page; the others follow.
    pages: how many it has.
  """

  source: str
  name: str
  first: int
  pages: int


class Passed(NamedTuple):
  """What a pass left.

  Attributes:
    folder: of its files.
    blocks: in the order of their pages.
    counts: source -> kind of record -> how often it was found.
    index: of the pass, from 0.
  """

  folder: Path
  blocks: list[Block]
  counts: dict[str, Counter[str]]
  index: int


def passes(
  plan: Plan,
  folder: Path,
  workers: Workers,
  *,
  old_rules: str = '',
  told: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> Iterator[Passed]:
  """Runs what is missing of every pass.

  Args:
    plan: see there.
    folder: of the folders of the passes.
    workers: who do it.
    old_rules: those of an earlier run in this folder, whose first pass is judged by new limits
      instead of being made anew; '' for none.
    told: is told the name of a pass, how many of its parts are done, and of how many.

  Yields:
    Each pass when it is finished; in the last one every page has its fate.

  Raises:
    BadInput: a source, a rule or a page that makes it impossible; naming it.
  """
  units = crawl.units(plan.sources)
  phases = _phases(plan.rules)
  first = functools.partial(_first_folder, plan, units)
  place = folder / first(plan.rules)
  here = functools.partial(told, 'reading')
  if old_rules and old_rules != plan.rules:
    theirs = _finished(folder / first(old_rules), units)
    tasks = [
      (_judged, (plan, theirs.folder, place, block.name, old_rules)) for block in theirs.blocks
    ]
    _run(tasks, workers, functools.partial(told, 'judging'))
    for unit in units:
      path = theirs.folder / f'{unit.name}.json'
      write_json(place / path.name, read_json(path, ANEW))
  else:
    place.mkdir(parents=True, exist_ok=True)
    waiting = [unit for unit in units if not (place / f'{unit.name}.json').is_file()]
    _run([(_read, (plan, place, unit)) for unit in waiting], workers, here)
  done = _finished(place, units)
  yield done
  for index in range(1, len(phases)):
    name = phases[index - 1][2]
    found = _joined(plan, done)
    lists = _states(run_folder.texts(json.loads(plan.rules)))
    place = folder / f'{index}-{_digest(done.folder.name, plan.rules, lists, plan.scope)}'
    place.mkdir(exist_ok=True)
    tasks = []
    for block in done.blocks:
      inside = range(block.first, block.first + block.pages)
      theirs = {i: found[p] for i, p in enumerate(inside) if p in found}
      tasks.append((_applied, (plan, index, done.folder, place, block.name, theirs)))
    _run(tasks, workers, functools.partial(told, name))
    done = done._replace(folder=place, index=index)
    yield done


def described(plan: Plan) -> tuple[list[str], dict[str, tuple[Limit, ...]]]:
  """The names of all steps in order, and the limits of those that have some."""
  names: list[str] = []
  limits: dict[str, tuple[Limit, ...]] = {}
  for each, _, across in _phases(plan.rules):
    names += [*(name for name, _ in each), *filter(None, [across])]
    limits |= {name: step.limits for name, step in each if isinstance(step, Rule)}
  return names, limits


def _run(tasks: Sequence[Task], workers: Workers, told: Callable[[int, int], None]) -> None:
  for count, _ in enumerate(workers.run(tasks), 1):
    told(count, len(tasks))


def _digest(*parts: Any) -> str:
  return hashlib.sha256(steps.key(parts).encode()).hexdigest()[:16]


def _first_folder(plan: Plan, units: Sequence[crawl.Unit], rules: str) -> str:
  """The name of the folder of the first pass: of its steps, and of the files that are read."""
  each, _, across = _phases(rules)[0]
  group = json.loads(rules)
  known = {name: group.get(name) for name in [*(name for name, _ in each), across]}
  files = [[*unit, _states(unit.paths)] for unit in units]
  lists = _states(run_folder.texts(known))
  return f'0-{_digest([*known], known, lists, plan.words, files, plan.block_pages)}'


def _states(paths: Iterable[str]) -> list[tuple[str, int, int]]:
  """Name, size and time of the last change of those paths that are files."""
  found = ((path, os.stat(path)) for path in paths if os.path.isfile(path))
  return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in found]


def _finished(folder: Path, units: Sequence[crawl.Unit]) -> Passed:
  """The first pass as the summaries of its units describe it."""
  found: list[Block] = []
  counts: dict[str, Counter[str]] = {}
  for order, unit in enumerate(units):
    first = order << UNIT_BITS
    path = folder / f'{unit.name}.json'
    if not path.is_file():
      raise BadInput(f'{folder} has no {path.name}; start without config.again')
    summary = read_json(path, ANEW)
    counts.setdefault(unit.source, Counter()).update(summary['counts'])
    for number, pages in enumerate(summary['blocks']):
      found.append(Block(unit.source, f'{unit.name}-{number:05}', first, pages))
      first += pages
  return Passed(folder, found, counts, 0)


# --- in one place ------------------------------------------------------------------------------


def _joined(plan: Plan, done: Passed) -> dict[int, Any]:
  """Position -> what the step over all pages behind a pass found of the page."""
  path = done.folder / f'found-{_digest(plan.scope)}.jsonl.zst'
  if not path.is_file():
    _, across, _ = _phases(plan.rules)[done.index]
    assert across is not None
    found: dict[int, Any] = {}
    for some in _scopes(plan, done):
      signed = blocks.read_signatures(
        (block.first, done.folder / f'{block.name}.npz') for block in some
      )
      found |= across.join(signed, functools.partial(pages, plan, done))
    blocks.write(path, map(blocks.json_text, sorted(found.items())))
  return {int(position): value for position, value in blocks.lines(path)}


def _scopes(plan: Plan, done: Passed) -> list[list[Block]]:
  """The blocks whose pages are looked at together."""
  if plan.scope == 'all':
    return [done.blocks] if done.blocks else []
  names = dict.fromkeys(block.source for block in done.blocks)
  return [[block for block in done.blocks if block.source == name] for name in names]


def pages(plan: Plan, done: Passed, positions: Sequence[int]) -> Iterator[Page]:
  """The pages at ascending positions."""
  wanted, split = iter(positions), words.splitter(plan.words)
  position = next(wanted, None)
  for block in done.blocks:
    if position is None:
      return
    if not block.first <= position < block.first + block.pages:
      continue
    for here, fate in enumerate(blocks.read(done.folder / f'{block.name}.jsonl.zst', split)):
      if here + block.first == position:
        yield fate.page
        position = next(wanted, None)


# --- in any process ----------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def _phases(rules: str) -> list[tuple[list[tuple[str, steps.Each]], Across | None, str]]:
  """Everything that the steps of a config made, once in each process."""
  made = [(step.name, step.make()) for step in steps.read(json.loads(rules))]
  return list(steps.phases(made))


def _read(plan: Plan, folder: Path, unit: crawl.Unit) -> None:
  """Reads a unit and writes its blocks; those that are there are counted and not made again."""
  each, across, _ = _phases(plan.rules)[0]
  counts: Counter[str] = Counter()
  sizes: list[int] = []
  found = crawl.pages(unit, words.splitter(plan.words), counts)
  for some in _batches(found, plan.block_pages):
    name = f'{unit.name}-{len(sizes):05}'
    _write(folder, name, across, (_followed(each, page) for page in some))
    sizes.append(len(some))
  summary = {'blocks': sizes, 'counts': dict(sorted(counts.items()))}
  write_json(folder / f'{unit.name}.json', summary)


def _followed(each: Sequence[tuple[str, steps.Each]], page: Page) -> Fate:
  """The fate of a page that was just read, and how long it was: in characters, or bytes of HTML."""
  fate = follow(each, page)
  return dataclasses.replace(fate, values={READ: len(page.body or page.text), **fate.values})


def _applied(
  plan: Plan, index: int, before: Path, folder: Path, name: str, found: Mapping[int, Any]
) -> None:
  """Writes a block of a later pass from the one before and what was found of its pages."""
  phases = _phases(plan.rules)
  _, last, called = phases[index - 1]
  each, across, _ = phases[index]

  def fates() -> Iterator[Fate]:
    read = blocks.read(before / f'{name}.jsonl.zst', words.splitter(plan.words))
    for i, fate in enumerate(read):
      if fate.step:
        yield fate
        continue
      first = [(called, functools.partial(_apply, last, found[i]))] if i in found else []
      then = follow([*first, *each], fate.page)
      yield dataclasses.replace(then, values={**fate.values, **then.values})

  _write(folder, name, across, fates())


def _apply(across: Any, found: Any, page: Page) -> Any:
  return across.apply(page, found)


def _judged(plan: Plan, before: Path, folder: Path, name: str, old_rules: str) -> None:
  """Writes a block of the first pass from the numbers that an earlier run measured."""
  each, across, _ = _phases(plan.rules)[0]
  order = [name for name, _ in each]
  read = blocks.read(before / f'{name}.jsonl.zst', words.splitter(plan.words))
  _write(folder, name, across, (_judge(each, order, fate) for fate in read))


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


def _write(folder: Path, name: str, across: Across | None, fates: Iterable[Fate]) -> None:
  """Writes a block, and what the step over all pages notes of those that are still kept."""
  path = folder / f'{name}.jsonl.zst'
  if path.is_file():
    return
  folder.mkdir(parents=True, exist_ok=True)
  lines: list[bytes] = []
  signed: dict[int, np.ndarray] = {}
  for i, fate in enumerate(fates):
    lines.append(blocks.line(fate))
    if across is not None and not fate.step:
      signed[i] = across.sign(fate.page)
  if across is not None:
    blocks.write_signatures(folder / f'{name}.npz', signed)
  blocks.write(path, lines)


def _batches(pages: Iterable[Page], size: int) -> Iterator[list[Page]]:
  some: list[Page] = []
  for page in pages:
    some.append(page)
    if len(some) == size:
      yield some
      some = []
  if some:
    yield some
