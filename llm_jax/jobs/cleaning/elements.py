"""What workers of a pipeline do: functions from elements to elements, which are plain values.

Elements have a key in front. That of a block is the position of its first page, and a block is
(source, name, what `blocks.compressed` made). Nothing here but files needs Apache Beam.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

from llm_jax.clean import words
from llm_jax.clean.extra import library
from llm_jax.clean.page import Fate, Page, Signatures
from llm_jax.jobs.cleaning import blocks, corpus, crawl, passes, phases, steps
from llm_jax.jobs.cleaning.passes import UNIT_BITS
from llm_jax.jobs.cleaning.phases import Plan

Held = tuple[str, str, bytes]


def only(element: tuple[str, Any], kind: str) -> Iterator[Any]:
  """The element, without its kind, if it is of this one."""
  if element[0] == kind:
    yield element[1]


def first_of(plan: Plan, position: int) -> int:
  """The first position of the block that a position is in."""
  return position - position % 2**UNIT_BITS % plan.block_pages


# --- a page alone ------------------------------------------------------------------------------


def units(path: str) -> Iterator[Any]:
  """The units that are listed in a file, as `[order, *unit]`."""
  with opened(path) as file:
    yield from map(json.loads, file)


def read(element: Sequence[Any], plan: Plan) -> Iterator[tuple[str, Any]]:
  """A unit -> its blocks and signatures behind the first phase, and its summary."""
  order, source, number, paths, *rest = element
  counts: Counter[str] = Counter()
  sizes: list[int] = []
  with crawl.fetched(crawl.Unit(source, number, tuple(paths), *rest)) as unit:
    for size, fates in phases.read(plan, unit, counts):
      name = passes.block_name(unit.name, len(sizes))
      first = (order << UNIT_BITS) + sum(sizes)
      yield from _noted(plan, 0, first, source, name, fates)
      sizes.append(size)
  yield 'unit', (order, passes.summary(sizes, counts))


def applied(element: tuple[int, Mapping[str, Any]], plan: Plan, index: int) -> Iterator[Any]:
  """A block and what was found of its pages -> the block behind the next phase, and signatures."""
  first, met = element
  source, name, data = next(iter(met['held']))
  found = {position - first: json.loads(value) for position, value in met['found']}
  fates = phases.applied(plan, index, blocks.read(data, words.splitter(plan.words)), found)
  return _noted(plan, index, first, source, name, fates)


def _noted(
  plan: Plan, index: int, first: int, source: str, name: str, fates: Iterable[Fate]
) -> Iterator[tuple[str, Any]]:
  """A block, and the signatures of its pages: each by its keys, or those of all in one."""
  across: Any = phases.phases(plan.rules)[index].across
  data, signed = phases.noted(across, fates)
  yield 'block', (first, (source, name, data))
  scope = source if plan.scope == 'per_source' else ''
  if across is None:
    return
  if not steps.is_keyed(across):
    found = Signatures.of(signed)
    yield 'signed', (scope, (first, found.flat, found.starts, found.positions))
    return
  for place, signature in signed.items():
    for key, part in across.keys(signature):
      yield 'signed', (b'%s\0%s' % (scope.encode(), key), (first + place, part.tobytes()))


# --- pages that share a key --------------------------------------------------------------------


def shared(element: tuple[bytes, Iterable[tuple[int, bytes]]]) -> Iterator[Any]:
  """A key and its pages -> (hash of their positions, the pages), if they are several.

  Keys with the same pages, as most bands of near duplicates have, are one group from here on.
  """
  rows = sorted(element[1])
  if len(rows) > 1:
    position_N = np.array([position for position, _ in rows], np.int64)
    yield hashlib.blake2b(position_N.tobytes(), digest_size=16).digest(), rows


def wanted(element: tuple[bytes, Iterable[Any]], plan: Plan) -> Iterator[Any]:
  """A group, maybe several times -> (block, (position, group, part)) of its pages."""
  group, some = element
  for position, part in next(iter(some)):
    yield first_of(plan, position), (position, group, part)


def members(element: tuple[int, Mapping[str, Any]], plan: Plan) -> Iterator[Any]:
  """A block and which pages of it are wanted -> (group, (position, part, the page))."""
  first, met = element
  asked: dict[int, list[tuple[bytes, bytes]]] = {}
  for position, group, part in met['wanted']:
    asked.setdefault(position - first, []).append((group, part))
  if not asked:
    return
  _, _, data = next(iter(met['held']))
  for place, fate in enumerate(blocks.read(data, words.splitter(plan.words))):
    if place in asked:
      page = blocks.compressed(blocks.line(fate))
      for group, part in asked[place]:
        yield group, (first + place, part, page)


def linked(element: tuple[bytes, Iterable[Any]], plan: Plan, index: int) -> Iterator[Any]:
  """A group, with pages if they are to be compared -> its links."""
  across: Any = phases.phases(plan.rules)[index].across
  rows = {position: rest for position, *rest in element[1]}
  signed = {p: np.frombuffer(rest[0], np.uint64)[None] for p, rest in rows.items()}
  split = words.splitter(plan.words)

  def pages(positions: Sequence[int]) -> Iterator[Page]:
    for position in positions:
      yield next(blocks.read(rows[position][1], split)).page

  yield from map(tuple, across.linked(Signatures.of(signed), pages).tolist())


def united(element: tuple[int, Iterable[Any]], plan: Plan, index: int) -> Iterator[Any]:
  """All links -> (block, (position, what was found of a page))."""
  across: Any = phases.phases(plan.rules)[index].across
  numbers = np.fromiter(itertools.chain.from_iterable(element[1]), np.int64)
  return _found(plan, across.united(numbers.reshape(-1, 3)))


# --- all pages in one place --------------------------------------------------------------------


def joined(
  element: tuple[str, Iterable[Any]], plan: Plan, index: int, held: Mapping[int, Any] | None = None
) -> Iterator[Any]:
  """The signatures of all blocks of a scope -> (block, (position, what was found of a page))."""
  across: Any = phases.phases(plan.rules)[index].across
  split = words.splitter(plan.words)

  def pages(positions: Sequence[int]) -> Iterator[Page]:
    assert held is not None, f'{phases.phases(plan.rules)[index].name} says that it reads no page'
    for first, some in itertools.groupby(positions, lambda position: first_of(plan, position)):
      _, _, data = next(iter(held[first]))
      places = {position - first for position in some}
      yield from (f.page for i, f in enumerate(blocks.read(data, split)) if i in places)

  some = sorted(element[1], key=lambda block: block[0])
  signatures = blocks.together((first, Signatures(*rest)) for first, *rest in some)
  return _found(plan, across.join(signatures, pages))


def _found(plan: Plan, found: Mapping[int, Any]) -> Iterator[Any]:
  for position, value in found.items():
    yield first_of(plan, position), (position, blocks.json_text(value))


# --- the result --------------------------------------------------------------------------------


def divided(element: tuple[int, Held], plan: Plan) -> Iterator[tuple[str, Any]]:
  """A block -> its kept and its dropped pages apart, how many there are, and what is counted."""
  first, (source, name, data) = element
  fates = [*blocks.read(data, words.splitter(plan.words))]
  tally, parts = corpus.divided(plan, source, name, first, fates)
  yield 'tally', (first >> UNIT_BITS, (first, tally))
  yield 'size', (0, (first, source, name, len(fates), tally.kept))
  for kind, part in parts.items():
    yield 'part', ((kind, first), part)


def assigned(element: tuple[int, Iterable[Any]], most: int) -> dict[tuple[str, int], str]:
  """The sizes of all blocks -> (kind, block) -> name of the file that it is part of."""
  some = sorted(element[1])
  found = [passes.Block(source, name, first, pages) for first, source, name, pages, _ in some]
  made = corpus.shards(found, [kept for *_, kept in some], most)
  return {
    (kind, block.first): f'{kind}-{name}'
    for kind, files in made.items()
    for name, inside in files.items()
    for block in inside
  }


def placed(element: tuple[tuple[str, int], bytes], names: Mapping[Any, str]) -> Iterator[Any]:
  """A part -> (name of its file, (its place there, the part)); one without pages goes nowhere."""
  if element[0] in names:
    yield names[element[0]], (element[0][1], element[1])


def report(element: tuple[int, Iterable[Any]], plan: Plan, name: str, parts: int) -> Any:
  """The summary and the tallies of a unit -> (name of a file, (order, a frame with a line))."""
  order, some = element
  some = [*some]
  summary = next(told for told in some if isinstance(told, dict))
  tallies = [told for _, told in sorted((t for t in some if t is not summary), key=lambda t: t[0])]
  told = {'order': order, **summary, 'kept': [tally.kept for tally in tallies]}
  told['tally'] = corpus.added(plan, tallies).plain()
  return f'{name}-{order % parts:03}', (order, blocks.compressed(blocks.json_text(told)))


# --- files -------------------------------------------------------------------------------------


def _files() -> Any:
  return library('apache_beam.io.filesystems', "runner 'beam'", 'beam').FileSystems


def write(element: tuple[str, Iterable[tuple[int, bytes]]], place: str) -> None:
  """Writes a file of parts, in the order of their numbers."""
  with _files().create(f'{place}/{element[0]}', compression_type='uncompressed') as file:
    for _, data in sorted(element[1]):
      file.write(data)


def opened(path: str) -> IO[bytes]:
  """A file that `write` wrote."""
  return _files().open(path, compression_type='uncompressed')


def names(prefix: str) -> list[str]:
  """The files whose paths begin so."""
  return sorted(found.path for found in _files().match([f'{prefix}*'])[0].metadata_list)


def delete(place: str) -> None:
  """Deletes a folder, if it is there."""
  if _files().exists(place):
    _files().delete([place])
