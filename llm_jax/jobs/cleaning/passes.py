"""Leads all pages through all steps, in passes that can be broken off and divided at will.

A pass leads every page through steps for a page alone, up to the next step over all pages, which
then joins what it noted of each. What is written depends on the pages and the steps alone, not on
the number of processes or on when one was killed. The folder of a pass is called after all that
decides what is in it, so a file that is there is right and is not made again.
"""

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llm_jax import run_folder
from llm_jax.clean import words
from llm_jax.clean.page import Across, Fate, Page
from llm_jax.files import read_json, write_json
from llm_jax.jobs.cleaning import blocks, crawl, steps
from llm_jax.jobs.cleaning.phases import Plan, applied, judged, noted, phases, read
from llm_jax.jobs.cleaning.workers import Task, Workers
from llm_jax.types import BadInput

# The position of a page is its place in its unit, and above these bits the place of the unit: so it
# is known where the page is read, whatever other units hold.
UNIT_BITS = 32
ANEW = 'delete it, and give the same command again'


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
  count = len(phases(plan.rules))
  first = functools.partial(_first_folder, plan, units)
  place = folder / first(plan.rules)
  here = functools.partial(told, 'reading')
  if old_rules and old_rules != plan.rules:
    theirs = _finished(folder / first(old_rules), units)
    tasks = [(_judged, (plan, theirs.folder, place, block.name)) for block in theirs.blocks]
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
  for index in range(1, count):
    name = phases(plan.rules)[index - 1].name
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


def _run(tasks: Sequence[Task], workers: Workers, told: Callable[[int, int], None]) -> None:
  for count, _ in enumerate(workers.run(tasks), 1):
    told(count, len(tasks))


def _digest(*parts: Any) -> str:
  return hashlib.sha256(steps.key(parts).encode()).hexdigest()[:16]


def _first_folder(plan: Plan, units: Sequence[crawl.Unit], rules: str) -> str:
  """The name of the folder of the first pass: of its steps, and of the files that are read."""
  each, _, across = phases(rules)[0]
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
  summaries: list[Mapping[str, Any]] = []
  for unit in units:
    path = folder / f'{unit.name}.json'
    if not path.is_file():
      raise BadInput(f'{folder} has no {path.name}; start without config.again')
    summaries.append(read_json(path, ANEW))
  return passed(folder, units, summaries)


def passed(
  folder: Path, units: Sequence[crawl.Unit], summaries: Sequence[Mapping[str, Any]]
) -> Passed:
  """The first pass, from the summary of each unit."""
  found: list[Block] = []
  counts: dict[str, Counter[str]] = {}
  for order, (unit, told) in enumerate(zip(units, summaries, strict=True)):
    first = order << UNIT_BITS
    counts.setdefault(unit.source, Counter()).update(told['counts'])
    for number, pages in enumerate(told['blocks']):
      found.append(Block(unit.source, block_name(unit.name, number), first, pages))
      first += pages
  return Passed(folder, found, counts, 0)


def block_name(unit: str, number: int) -> str:
  """Of the files of a block, by the name of its unit and its place there."""
  return f'{unit}-{number:05}'


# --- in one place ------------------------------------------------------------------------------


def _joined(plan: Plan, done: Passed) -> dict[int, Any]:
  """Position -> what the step over all pages behind a pass found of the page."""
  path = done.folder / f'found-{_digest(plan.scope)}.jsonl.zst'
  if not path.is_file():
    across = phases(plan.rules)[done.index].across
    assert across is not None
    found: dict[int, Any] = {}
    for some in _scopes(plan, done):
      signed = blocks.read_signatures(
        (block.first, done.folder / f'{block.name}.npz') for block in some
      )
      found |= across.join(signed, functools.partial(pages, plan, done))
    lines = map(blocks.json_text, sorted(found.items()))
    blocks.write(path, blocks.compressed(b''.join(lines)))
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


def _read(plan: Plan, folder: Path, unit: crawl.Unit) -> None:
  """Reads a unit and writes its blocks; those that are there are counted and not made again."""
  across = phases(plan.rules)[0].across
  counts: Counter[str] = Counter()
  sizes: list[int] = []
  for size, fates in read(plan, unit, counts):
    _write(folder, block_name(unit.name, len(sizes)), across, fates)
    sizes.append(size)
  write_json(folder / f'{unit.name}.json', summary(sizes, counts))


def summary(sizes: Sequence[int], counts: Mapping[str, int]) -> dict[str, Any]:
  """What is known of a unit that was read: pages of its blocks, and kinds of its records."""
  return {'blocks': [*sizes], 'counts': dict(sorted(counts.items()))}


def _applied(
  plan: Plan, index: int, before: Path, folder: Path, name: str, found: Mapping[int, Any]
) -> None:
  """Writes a block of a later pass from the one before and what was found of its pages."""
  fates = blocks.read(before / f'{name}.jsonl.zst', words.splitter(plan.words))
  across = phases(plan.rules)[index].across
  _write(folder, name, across, applied(plan, index, fates, found))


def _judged(plan: Plan, before: Path, folder: Path, name: str) -> None:
  """Writes a block of the first pass from the numbers that an earlier run measured."""
  fates = blocks.read(before / f'{name}.jsonl.zst', words.splitter(plan.words))
  _write(folder, name, phases(plan.rules)[0].across, judged(plan, fates))


def _write(folder: Path, name: str, across: Across | None, fates: Iterable[Fate]) -> None:
  """Writes a block, and what the step over all pages notes of it, unless it is there."""
  path = folder / f'{name}.jsonl.zst'
  if path.is_file():
    return
  folder.mkdir(parents=True, exist_ok=True)
  data, signed = noted(across, fates)
  if across is not None:
    blocks.write_signatures(folder / f'{name}.npz', signed)
  blocks.write(path, data)
