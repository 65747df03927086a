"""What job `clean` leaves: kept pages for the next stage, dropped ones and why, and a dataset."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_jax.clean import words
from llm_jax.files import SUMMARY, replacing, sha256, write_json
from llm_jax.jobs.cleaning import blocks, passes
from llm_jax.jobs.cleaning.passes import Block, Passed, Plan
from llm_jax.jobs.cleaning.tally import Tally
from llm_jax.jobs.cleaning.workers import Task, Workers
from llm_jax.text.terminal import say

END = 'clean.json'  # written last
PAGES, DROPPED, DATASET = 'pages', 'dropped', 'dataset'
NAME = 'clean'  # of the dataset


def write(
  folder: Path,
  plan: Plan,
  done: Passed,
  *,
  workers: Workers,
  shard_documents: int,
  told: Callable[[str, int, int], None],
) -> tuple[Tally, dict[str, str]]:
  """Writes the files of a finished run; returns what was counted, and the sums of the files.

  A file consists of the pages of whole blocks, so it is the same whoever wrote them.

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
  total = Tally(*passes.described(plan))
  for number in range(len(tasks)):  # in order, for the sums of numbers with fractions
    total.add(tallies[number])
  kept = [tallies[number].kept for number in range(len(tasks))]
  sizes = {
    PAGES: kept,
    DROPPED: [block.pages - n for block, n in zip(done.blocks, kept, strict=True)],
  }
  sums: dict[str, str] = {}
  for kind in (PAGES, DROPPED, DATASET):
    shutil.rmtree(folder / kind, ignore_errors=True)
  for kind, counts in sizes.items():
    for name, some in _shards(done.blocks, counts, shard_documents):
      path = folder / kind / f'{name}.jsonl.zst'
      path.parent.mkdir(exist_ok=True)
      with replacing(path) as file:
        for block in some:
          with open(done.folder / f'{block.name}.{kind}.zst', 'rb') as part:
            shutil.copyfileobj(part, file)
      sums[str(path.relative_to(folder))] = sha256(path)
    ours = {Path(name).name: sums[name] for name in sums if Path(name).parts[0] == kind}
    if ours:
      write_json(folder / kind / SUMMARY, {'files': ours})  # who reads them compares
  if total.kept:
    from llm_jax.data import corpus  # takes a second, for TFDS

    texts = _texts(folder, sums)
    told('dataset', 0, 1)
    made = corpus.prepare(NAME, {'train': texts}, folder / DATASET)
    for path in sorted(made.iterdir()):
      sums[str(path.relative_to(folder))] = sha256(path)
  return total, sums


def _divided(plan: Plan, folder: Path, block: Block) -> Tally:
  """Writes the kept and the dropped pages of a block apart, and counts them."""
  tally = Tally(*passes.described(plan))
  parts: dict[str, list[bytes]] = {PAGES: [], DROPPED: []}
  at = block.name.removeprefix(f'{block.source}-')
  for i, fate in enumerate(
    blocks.read(folder / f'{block.name}.jsonl.zst', words.splitter(plan.words))
  ):
    tally.count(block.source, block.first + i, fate)
    line = blocks.line(fate, id=f'{block.source}/{at}/{i}')
    parts[DROPPED if fate.step else PAGES].append(line)
  for kind, lines in parts.items():
    path = folder / f'{block.name}.{kind}.zst'
    if not path.is_file():
      blocks.write(path, lines)
  return tally


def _shards(found: list[Block], counts: list[int], most: int) -> Iterator[tuple[str, list[Block]]]:
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
  folder: Path, plan: Plan, done: Passed, tally: Tally, count: int, members: int = 2
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
  order = sorted(found)
  for cluster, page in zip(order, passes.pages(plan, done, order), strict=True):
    found[cluster].insert(0, {'id': 'kept', 'url': page.url, 'text': page.text})
  return [(size + 1, found[cluster]) for cluster, size in best]


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
