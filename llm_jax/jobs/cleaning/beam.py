"""Job `clean` on Apache Beam: the same functions on the same blocks of pages, and the same bytes.

A block travels with the position of its first page. A step over all pages that is `Keyed` is joined
by key: pages meet where they share one, as many keys at a time as there are workers, and only the
links between duplicates come together in one worker. Any other such step is joined in one worker,
from the signatures of all pages. What is small, the dataset and the report, this process makes.
"""

import contextlib
import difflib
import io
import itertools
import logging
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from llm_jax.clean.extra import library
from llm_jax.jobs.cleaning import blocks, corpus, crawl, elements, passes, phases, steps
from llm_jax.jobs.cleaning.passes import Block
from llm_jax.jobs.cleaning.phases import Plan
from llm_jax.jobs.cleaning.tally import Tally
from llm_jax.types import BadInput

# Runners of this machine.
HERE = ('DirectRunner', 'BundleBasedDirectRunner', 'FnApiRunner', 'PrismRunner')
WHO = "runner 'beam'"
UNITS = 'units'
PARTS = 100  # files in which what is known of the units comes back
# Where an error of a worker is only text, the last line of its trace.
LINE = re.compile(r'^(?:[\w.]*\.)?BadInput: (.+)$', re.MULTILINE)
WHERE = re.compile(r" \[while running '.*?(?:'\])?$")  # what Beam adds


def check(options: Mapping[str, Any], sources: Mapping[str, str]) -> None:
  """Everything that can be said of the options of a pipeline before it is made.

  Args:
    options: of Apache Beam's `PipelineOptions`.
    sources: of the config.

  Raises:
    BadInput: Beam is missing, an option is unknown or cannot be, or workers could read nothing.
  """
  _options(options)
  runner = str(options.get('runner') or HERE[0])
  try:
    library('apache_beam.runners.runner', WHO, 'beam').create_runner(runner)
  except (ImportError, ValueError) as error:
    raise BadInput(f'beam: {" ".join(str(error).split())}') from None
  if runner not in HERE and not options.get('temp_location'):
    raise BadInput(
      f'beam: {runner} needs config.beam.temp_location, a folder that its workers and this process '
      'reach, such as gs://bucket/tmp'
    )
  for name, spec in sources.items():
    if runner == 'DataflowRunner' and '://' not in spec:
      raise BadInput(
        f'sources.{name}: the workers of Dataflow do not see {spec!r} of this machine; copy it to '
        'a bucket, and name it as gs://bucket/...'
      )


def _options(given: Mapping[str, Any]) -> Any:
  """The options of a pipeline, of which Beam itself would pass over those that it does not know."""
  known = library('apache_beam.options.pipeline_options', WHO, 'beam').PipelineOptions
  plain = {name: [*v] if isinstance(v, tuple) else v for name, v in given.items() if v is not None}
  made = known.from_dictionary(plain)
  names = known([]).get_all_options()
  try:
    with contextlib.redirect_stderr(io.StringIO()) as said:
      unknown = made.get_all_options(retain_unknown_options=True).keys() - names.keys()
  except SystemExit:  # of argparse
    raise BadInput(f'beam: {said.getvalue().strip().rpartition("error: ")[2]}') from None
  for name in sorted(unknown):
    close = difflib.get_close_matches(name, names, 1)
    advice = f'did you mean {close[0]!r}?' if close else "Apache Beam's PipelineOptions lists all"
    raise BadInput(f'beam: unknown pipeline option {name!r}; {advice}')
  return made


def run(
  folder: Path,
  plan: Plan,
  *,
  options: Mapping[str, Any],
  work: Path,
  shard_documents: int,
  told: Callable[[str, int, int], None],
) -> tuple[Tally, corpus.Shards, dict[str, str], Mapping[str, Mapping[str, int]]]:
  """Cleans all pages in one pipeline and writes the files of the result.

  Args:
    folder: the workdir.
    plan: of the run.
    options: of the pipeline.
    work: the folder in which workers leave their files, unless `options` have a `temp_location`.
    shard_documents, told: see `corpus.write`.

  Returns:
    What was counted, the files of the result, their sums, and source -> kind of record -> count.

  Raises:
    BadInput: what a worker could not do, in one line.
  """
  units = crawl.units(plan.sources, urls=True)
  beam = library('apache_beam', WHO, 'beam')
  temp = options.get('temp_location')
  place = f'{str(temp).rstrip("/")}/clean-{secrets.token_hex(8)}' if temp else str(work)
  shutil.rmtree(work, ignore_errors=True)
  with _deleted(place):
    lines = (blocks.json_text([order, *unit]) for order, unit in enumerate(units))
    elements.write((UNITS, enumerate(lines)), place)
    told('in a pipeline', 0, 1)
    logging.getLogger('apache_beam.runners.common').disabled = True  # it repeats what is raised
    try:
      with beam.Pipeline(options=_options(options)) as pipeline:
        _build(beam, pipeline, plan, place, shard_documents)
    except Exception as error:
      found = [str(error)] if isinstance(error, BadInput) else LINE.findall(str(error))
      if found:
        raise BadInput(WHERE.sub('', found[-1])) from None
      raise
    reports = sorted(
      (report for name in elements.names(f'{place}/{UNITS}-') for report in _lines(name)),
      key=lambda report: report['order'],
    )
    done = passes.passed(folder, units, reports)
    kept = [count for report in reports for count in report['kept']]
    names, limits = phases.described(plan)
    tally = corpus.added(plan, (Tally.of(names, limits, report['tally']) for report in reports))

    def put(kind: str, name: str, some: Sequence[Block], file: IO[bytes]) -> None:
      with elements.opened(f'{place}/{kind}-{name}') as made:
        shutil.copyfileobj(made, file)

    made = corpus.shards(done.blocks, kept, shard_documents)
    return tally, made, corpus.finish(folder, made, put, told), done.counts


@contextlib.contextmanager
def _deleted(place: str) -> Iterator[None]:
  """Deletes the files of the workers at the end, however that comes."""
  try:
    yield
  finally:
    elements.delete(place)


def _lines(name: str) -> Iterator[Any]:
  with elements.opened(name) as file:
    yield from blocks.lines(file.read())


def _build(beam: Any, pipeline: Any, plan: Plan, place: str, shard_documents: int) -> None:
  """The pipeline, from the list of units to files in `place`.

  A function of `elements.py` gives pairs of a kind and an element; `only` has those of one kind.
  """

  numbers = itertools.count()

  def only(found: Any, kind: str) -> Any:
    return found | f'{kind} {next(numbers)}' >> beam.FlatMap(elements.only, kind)

  found = (
    pipeline
    | 'list' >> beam.Create([f'{place}/{UNITS}'])
    | 'units' >> beam.FlatMap(elements.units)
    | 'spread' >> beam.Reshuffle()
    | 'read' >> beam.FlatMap(elements.read, plan)
  )
  reports = [only(found, 'unit')]
  for index, phase in enumerate(phases.phases(plan.rules)):
    held = only(found, 'block')
    if phase.across is None:
      found = held | 'divide' >> beam.FlatMap(elements.divided, plan)
      break
    join = _by_key if steps.is_keyed(phase.across) else _in_one
    results = join(beam, plan, index, held, only(found, 'signed'))
    found = (
      {'held': held, 'found': results}
      | f'meet behind {phase.name}' >> beam.CoGroupByKey()
      | f'apply {phase.name}' >> beam.FlatMap(elements.applied, plan, index + 1)
    )
  sizes = (
    only(found, 'size')
    | 'all sizes' >> beam.GroupByKey()
    | 'assign' >> beam.Map(elements.assigned, shard_documents)
  )
  assigned = beam.pvalue.AsSingleton(sizes, default_value={})
  parts = only(found, 'part') | 'place' >> beam.FlatMap(elements.placed, assigned)
  reports.append(only(found, 'tally'))
  lines = (
    reports
    | 'all reports' >> beam.Flatten()
    | 'reports' >> beam.GroupByKey()
    | 'report' >> beam.Map(elements.report, plan, UNITS, PARTS)
  )
  files = [parts, lines] | 'all files' >> beam.Flatten() | 'files' >> beam.GroupByKey()
  _ = files | 'write' >> beam.Map(elements.write, place)


def _by_key(beam: Any, plan: Plan, index: int, held: Any, signed: Any) -> Any:
  """(first position of a block, what was found of a page) from pages that meet by their keys."""
  phase = phases.phases(plan.rules)[index]
  across: Any = phase.across
  name = phase.name
  groups = (
    signed
    | f'keys of {name}' >> beam.GroupByKey()
    | f'shared keys of {name}' >> beam.FlatMap(elements.shared)
  )
  if across.reads:
    wanted = (
      groups
      | f'groups of {name}' >> beam.GroupByKey()
      | f'distinct groups of {name}' >> beam.FlatMap(elements.wanted, plan)
    )
    groups = (
      {'held': held, 'wanted': wanted}
      | f'pages for {name}' >> beam.CoGroupByKey()
      | f'members for {name}' >> beam.FlatMap(elements.members, plan)
      | f'compare for {name}' >> beam.GroupByKey()
    )
  return (
    groups
    | f'link {name}' >> beam.FlatMap(elements.linked, plan, index)
    | f'distinct links of {name}' >> beam.Distinct()
    | f'one place for {name}' >> beam.WithKeys(0)
    | f'all links of {name}' >> beam.GroupByKey()
    | f'unite {name}' >> beam.FlatMap(elements.united, plan, index)
  )


def _in_one(beam: Any, plan: Plan, index: int, held: Any, signed: Any) -> Any:
  """The same from the signatures of all pages, or of all of a source, in one worker."""
  phase = phases.phases(plan.rules)[index]
  reads = getattr(phase.across, 'reads', True)
  pages = [beam.pvalue.AsMultiMap(held)] if reads else []
  return (
    signed
    | f'signatures for {phase.name}' >> beam.GroupByKey()
    | f'join {phase.name}' >> beam.FlatMap(elements.joined, plan, index, *pages)
  )
