"""Job `clean`: raw web pages, or documents from anywhere, become training text.

What it leaves in `workdir`: `pages/`, JSON lines with the text of every kept page, which job
`tokenize` reads when the folder is one of its sources; `dataset/`, the same as a TFDS dataset;
`dropped/`, every other page with the reason and all numbers that were measured; `report.html`;
and `clean.json`, at the end: only then it is finished. Killed and started again it goes on after
the last finished thousand pages, with the same bytes as a result, whatever the number of processes.
"""

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from llm_jax import run_folder
from llm_jax.clean import words
from llm_jax.files import read_json, replacing, write_json
from llm_jax.jobs.cleaning import beam, blocks, corpus, crawl, fate, passes, report, steps
from llm_jax.jobs.cleaning.phases import Plan
from llm_jax.jobs.cleaning.workers import Workers
from llm_jax.lock import locked
from llm_jax.options import Count, Place, resolve
from llm_jax.options import check as check_options
from llm_jax.parallel.hosts import on_one_host
from llm_jax.text.terminal import bar, say
from llm_jax.text.visible import visible
from llm_jax.types import BadInput

WORK = 'work'
# What a run that goes on may be given otherwise.
MAY_CHANGE = ('workers', 'again', 'why', 'keep_work', 'runner', 'beam')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job.

  Attributes:
    job: 'clean'.
    workdir: the folder to fill.
    sources: name -> files of a crawl (.warc, .wet), saved pages (.html), or documents (.jsonl,
      .parquet, .csv, .tsv, .txt), as a path, a glob or a folder; `tfds:<name>`; or 'builtin'. The
      text of records is in the column `text`, or in that of `?field=`.
    rules: `steps`, files of `clean/` in the order in which they see the pages, and their options.
    words: how a text is split into words.
    scope: 'all', or 'per_source' if pages are compared with those of the same source only.
    runner: 'local', the processes of this machine; or 'beam', a pipeline of Apache Beam.
    beam: options of the pipeline, such as `runner`, `project`, `region` and `temp_location`.
    workers: processes of the local runner that work at once; None for one a core.
    shard_documents: pages of a file, at least, if it is not the last of its source.
    block_pages: pages that a process reads before it writes down what became of them.
    again: True judges the pages of a finished run by new limits, without reading them again.
    keep_work: keeps what `again` needs, which takes about as much room as the result.
    why: a URL; then nothing is run, and what became of that page is told.
  """

  job: str
  workdir: Place
  sources: Mapping[str, str]
  rules: Mapping[str, Any]
  words: str = 'simple'
  scope: Literal['all', 'per_source'] = 'all'
  runner: Literal['local', 'beam'] = 'local'
  beam: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  workers: Count | None = None
  shard_documents: Count = 10_000
  block_pages: Count = 1000
  again: bool = False
  keep_work: bool = True
  why: str = ''


def groups(config: Any) -> Iterator[tuple[str, Any, Sequence[str]]]:
  """(group of the config, the function that its options are for, those that the job fills in)."""
  for step in steps.read(config.rules.to_dict()):
    yield step.where, step.module.make, ()


def elsewhere(config: Any) -> tuple[str, ...]:
  """Fields whose URLs are not for this machine, but for those that work in a pipeline."""
  return ('beam', 'sources') if config.get('runner') == 'beam' else ('beam',)


def check(config: Any) -> None:
  """Everything that can be said of the config before a page is read.

  Raises:
    BadInput: naming the field and what would work.
  """
  given = _given(config)
  if given['why']:
    return
  words.splitter(given['words'])
  blocks.zstandard()  # says now if it is missing
  if given['runner'] == 'beam':
    if given['again']:
      raise BadInput("again: runner 'beam' keeps no numbers to judge anew; use runner 'local'")
    beam.check(given['beam'], given['sources'])
  if not given['sources']:
    raise BadInput("sources is empty; set for example config.sources.web = 'crawl/*.warc.gz'")
  found = steps.read(given['rules'])
  units = crawl.units(given['sources'], urls=given['runner'] == 'beam')
  html = [unit.paths[0] for unit in units if crawl.is_html(unit)]
  if html and not any('body' in getattr(step.module, 'READS', ()) for step in found):
    raise BadInput(
      f'rules: {html[0]} holds HTML, and no step makes text of it; begin config.rules.steps with '
      "'extract'"
    )
  for step in found:
    step.make()


def main(config: Any) -> None:
  """Cleans, or goes on where an earlier run stopped; with `why` it tells the fate of a page."""
  check(config)
  given = _given(config)
  if given['why']:
    fate.tell(Path(given['workdir']), given['why'])
  else:
    on_one_host(lambda: _clean(given))


def _given(config: Any) -> dict[str, Any]:
  """The fields of the config by name, with the defaults of those that it does not have."""
  fields = {k: v for k, v in config.to_dict().items() if k != 'requires'}
  check_options(Fields, fields, where='config')
  given = resolve(Fields, fields)
  return given | {'sources': {name: spec for name, spec in given['sources'].items() if spec}}


def _clean(given: Mapping[str, Any]) -> None:
  folder = Path(given['workdir'])
  settings = {k: v for k, v in given.items() if k not in (*MAY_CHANGE, 'job')}
  held = run_folder.holds(folder, settings, may_change=('rules',) if given['again'] else ())
  rules, old = steps.key(given['rules']), ''
  if given['again']:
    if not held or not (folder / WORK).is_dir():
      raise BadInput(f'again: {folder} holds no run whose numbers were kept; start without it')
    theirs = read_json(folder / 'config.json', 'start without config.again')['rules']
    steps.same_numbers(theirs, given['rules'])
    old = steps.key(theirs)
  if (folder / corpus.END).is_file() and old in ('', rules):
    say(f'clean: {folder} is finished already')
    return
  with locked(folder):
    (folder / corpus.END).unlink(missing_ok=True)
    if not given['again']:
      run_folder.claim(folder, settings)
    _run(given, settings, folder, old)


def _run(given: Mapping[str, Any], settings: Mapping[str, Any], folder: Path, old: str) -> None:
  """Runs the passes that are missing; `old` are the rules of the run that is judged again."""
  plan = Plan(
    given['sources'],
    steps.key(given['rules']),
    given['words'],
    given['scope'],
    given['block_pages'],
  )
  began, progress = time.monotonic(), _Progress()
  shard = given['shard_documents']
  if given['runner'] == 'beam':
    tally, made, sums, counts = beam.run(
      folder,
      plan,
      options=given['beam'],
      work=folder / WORK / 'beam',
      shard_documents=shard,
      told=progress,
    )
    with contextlib.suppress(OSError):  # what a local run left there stays
      (folder / WORK).rmdir()
  else:
    with Workers(given['workers'] or os.cpu_count() or 1) as workers:
      for done in passes.passes(plan, folder / WORK, workers, old_rules=old, told=progress):
        if done.index == 0 and old:
          run_folder.claim(folder, settings)
        last = done
      tally, made, sums = corpus.write(
        folder, plan, last, workers=workers, shard_documents=shard, told=progress
      )
    counts = last.counts
  progress.close()
  clusters = corpus.largest(folder, made, tally, report.CLUSTERS)
  with replacing(folder / 'report.html') as file:
    file.write(report.html(tally, counts, clusters, str(folder)).encode())
  summary = corpus.summary(tally, counts)
  write_json(folder / corpus.END, {'config': settings, **summary, 'files': sums})
  if not given['keep_work']:
    shutil.rmtree(folder / WORK, ignore_errors=True)
  corpus.print_summary(folder, summary, time.monotonic() - began)


class _Progress:
  """A bar on a terminal."""

  def __init__(self) -> None:
    self._bar = bar(disable=None, leave=False)

  def __call__(self, what: str, done: int, of: int) -> None:
    self._bar.set_description(visible(what, lines=False))
    self._bar.total, self._bar.n = of, done
    self._bar.refresh()

  def close(self) -> None:
    self._bar.close()
