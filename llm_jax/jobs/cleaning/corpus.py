"""What job `clean` leaves: kept pages for the next stage, dropped ones and why, and a dataset."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from llm_jax.clean import words
from llm_jax.clean.page import Fate
from llm_jax.files import SUMMARY, replacing, sha256, write_json
from llm_jax.jobs.cleaning import blocks
from llm_jax.jobs.cleaning.passes import UNIT_BITS, Block, Passed
from llm_jax.jobs.cleaning.phases import Plan, described
from llm_jax.jobs.cleaning.tally import Tally
from llm_jax.jobs.cleaning.workers import Task, Workers
from llm_jax.text.terminal import say

END = 'clean.json'  # written last
PAGES, DROPPED, DATASET = 'pages', 'dropped', 'dataset'
NAME = 'clean'  # of the dataset
# Kind -> name of a file -> the whole blocks whose pages it has, so that anybody may write it.
Shards = Mapping[str, Mapping[str, Sequence[Block]]]


def write(
  folder: Path,
  plan: Plan,
  done: Passed,
  *,
  workers: Workers,
  shard_documents: int,
  told: Callable[[str, int, int], None],
) -> tuple[Tally, Shards, dict[str, str]]:
  """Writes the files of a finished run; returns what was counted, the files, and their sums.

  Args:
    folder: the workdir.
    plan: of the run.
    done: its last pass.
    workers: who do it.
    shard_documents: a file of kept pages is ended by the block that reaches so many.
    told: see `passes`.
  """
  tasks: list[Task] = [(_divided, (plan, done.folder, block)) for block in done.blocks]
  tallies: dict[int, Tally] = {}
  for number, found in workers.run(tasks):
    tallies[number] = found
    told('dividing', len(tallies), len(tasks))
  units = itertools.groupby(range(len(tasks)), lambda n: done.blocks[n].first >> UNIT_BITS)
  ordered = ([tallies[number] for number in numbers] for _, numbers in units)
  total = added(plan, [added(plan, some) for some in ordered])

  def put(kind: str, name: str, some: Sequence[Block], file: IO[bytes]) -> None:
    for block in some:
      with open(done.folder / f'{block.name}.{kind}.zst', 'rb') as part:
        shutil.copyfileobj(part, file)

  kept = [tallies[number].kept for number in range(len(tasks))]
  made = shards(done.blocks, kept, shard_documents)
  return total, made, finish(folder, made, put, told)


def added(plan: Plan, tallies: Iterable[Tally]) -> Tally:
  """The sum of tallies.

  First the blocks of a unit are added and then the units, both in their order, since sums of
  numbers with fractions depend on it.
  """
  total = Tally(*described(plan))
  for tally in tallies:
    total.add(tally)
  return total


def finish(
  folder: Path,
  made: Shards,
  put: Callable[[str, str, Sequence[Block], IO[bytes]], None],
  told: Callable[[str, int, int], None],
) -> dict[str, str]:
  """Writes the files of kept and of dropped pages, and the dataset; returns their sums.

  Args:
    folder: the workdir.
    made: from `shards`.
    put: writes a file, given its kind, its name and its blocks.
    told: see `passes`.
  """
  sums: dict[str, str] = {}
  for kind in (PAGES, DROPPED, DATASET):
    shutil.rmtree(folder / kind, ignore_errors=True)
  for kind, files in made.items():
    for name, some in files.items():
      path = folder / kind / f'{name}.jsonl.zst'
      path.parent.mkdir(exist_ok=True)
      with replacing(path) as file:
        put(kind, name, some, file)
      sums[str(path.relative_to(folder))] = sha256(path)
    ours = {Path(name).name: sums[name] for name in sums if Path(name).parts[0] == kind}
    if ours:
      write_json(folder / kind / SUMMARY, {'files': ours})  # who reads them compares
  if made[PAGES]:
    from llm_jax.data import corpus  # takes a second, for TFDS

    texts = _texts(folder, sums)
    told('dataset', 0, 1)
    dataset = corpus.prepare(NAME, {'train': texts}, folder / DATASET)
    for path in sorted(dataset.iterdir()):
      sums[str(path.relative_to(folder))] = sha256(path)
  return sums


def _divided(plan: Plan, folder: Path, block: Block) -> Tally:
  """Writes the kept and the dropped pages of a block apart, and counts them."""
  fates = blocks.read(folder / f'{block.name}.jsonl.zst', words.splitter(plan.words))
  tally, parts = divided(plan, block.source, block.name, block.first, fates)
  for kind, data in parts.items():
    path = folder / f'{block.name}.{kind}.zst'
    if not path.is_file():
      blocks.write(path, data)
  return tally


def divided(
  plan: Plan, source: str, name: str, first: int, fates: Iterable[Fate]
) -> tuple[Tally, dict[str, bytes]]:
  """What is counted of a block, and its kept and its dropped pages apart, as files hold them."""
  tally = Tally(*described(plan))
  parts: dict[str, list[bytes]] = {PAGES: [], DROPPED: []}
  for i, fate in enumerate(fates):
    tally.count(source, first + i, fate)
    line = blocks.line(fate, id=page_id(source, name, i))
    parts[DROPPED if fate.step else PAGES].append(line)
  return tally, {kind: blocks.compressed(b''.join(lines)) for kind, lines in parts.items()}


def page_id(source: str, block: str, place: int) -> str:
  """The `id` of a page in its JSON lines."""
  return f'{source}/{block.removeprefix(f"{source}-")}/{place}'


def shards(found: Sequence[Block], kept: Sequence[int], most: int) -> Shards:
  """The files of kept and of dropped pages.

  Args:
    found: all blocks, in order.
    kept: how many pages of each are kept.
    most: a file is ended by the block that reaches so many pages.
  """
  counts = {PAGES: kept, DROPPED: [block.pages - n for block, n in zip(found, kept, strict=True)]}
  return {kind: dict(_shards(found, sizes, most)) for kind, sizes in counts.items()}


def _shards(
  found: Sequence[Block], counts: Sequence[int], most: int
) -> Iterator[tuple[str, list[Block]]]:
  """Name of a file, and the blocks that it consists of; no file is without a page."""
  some: list[Block] = []
  size = number = 0
  for i, (block, count) in enumerate(zip(found, counts, strict=True)):
    if count:
      some.append(block)
      size += count
    is_last = i + 1 == len(found) or found[i + 1].source != block.source
    if some and (size >= most or is_last):
      yield f'{block.source}-{number:05}', some
      some, size, number = [], 0, number + 1
    if is_last:
      number = 0


def _texts(folder: Path, sums: dict[str, str]) -> Iterator[str]:
  """The texts of all kept pages, in their order."""
  for name in sums:
    if name.split(os.sep)[0] == PAGES:
      yield from (told['text'] for told in blocks.lines(folder / name))


def largest(
  folder: Path, made: Shards, tally: Tally, count: int, members: int = 2
) -> list[tuple[int, list[dict[str, Any]]]]:
  """The largest clusters: how many pages each has, its first page, and some that were dropped."""
  best = sorted(tally.clusters.items(), key=lambda pair: (-pair[1], pair[0]))[:count]
  found: dict[int, list[dict[str, Any]]] = {cluster: [] for cluster, _ in best}
  for path in sorted((folder / DROPPED).glob('*.jsonl.zst')):
    for record in blocks.lines(path):
      cluster = record['values'].get(f'{record["step"]}.cluster')
      if len(found.get(cluster, range(members))) < members:
        found[cluster].append(record)
    if all(len(some) == min(members, tally.clusters[key]) for key, some in found.items()):
      break
  for cluster, some in found.items():
    some.insert(0, {**_record(folder, made, cluster), 'id': 'kept'})
  return [(size + 1, found[cluster]) for cluster, size in best]


def _record(folder: Path, made: Shards, position: int) -> dict[str, Any]:
  """The page at a position, as it is stored."""
  return next(
    record
    for kind, files in made.items()
    for name, some in files.items()
    for block in some
    if block.first <= position < block.first + block.pages
    for record in blocks.lines(folder / kind / f'{name}.jsonl.zst')
    if record['id'] == page_id(block.source, block.name, position - block.first)
  )


def summary(tally: Tally, counts: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
  """What `clean.json` says of the pages.

  Args:
    tally: of all pages.
    counts: source -> kind of record -> how often it was read.
  """
  found: dict[str, Any] = {}
  for source, kinds in counts.items():
    last = tally.steps[-1] if tally.steps else ''
    reasons = {
      f'{step}.{reason}': count
      for (name, step, reason), count in sorted(tally.reasons.items())
      if name == source
    }
    found[source] = {
      'records': dict(kinds),
      'pages': tally.pages[source, ''],
      'kept': tally.pages[source, last],
      'characters': tally.characters[source, last],
      'dropped': reasons,
    }
  return {'sources': found}


def print_summary(folder: Path, found: Mapping[str, Any], seconds: float) -> None:
  """A line for each source, and one for each of the commonest reasons."""
  for name, source in found['sources'].items():
    say(
      f'clean: {name}: {source["kept"]:,} of {source["pages"]:,} pages kept, '
      f'{source["characters"]:,} characters'
    )
    reasons = sorted(source['dropped'].items(), key=lambda pair: -pair[1])
    for reason, count in reasons[:8]:
      say(f'  {count:>9,}  {reason}')
    odd = sum(count for kind, count in source['records'].items() if kind != 'pages')
    if odd:
      say(f'  {odd:,} records were no pages; {folder / END} has the kinds')
  say(f'clean: {folder} is finished, in {seconds:.1f} s')
