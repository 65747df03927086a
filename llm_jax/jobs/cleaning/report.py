"""The report of job `clean`: what was thrown away, by which step, and what it looked like."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llm_jax.jobs.cleaning import drawings
from llm_jax.jobs.cleaning.phases import READ
from llm_jax.jobs.cleaning.tally import CHARACTERS, Tally
from llm_jax.jobs.page import Block, Figure, Fold, Heading, Table, Text, page

BYTES_A_TOKEN = 4.3  # of English text and a vocabulary of some ten thousands; an estimate
CLUSTERS = 5  # the largest that are shown
EXCERPT = 600  # characters of their pages
PLACES = ('cluster', 'cluster_size', 'kept')  # values that are no quantity of a page

Cluster = tuple[int, Sequence[Mapping[str, Any]]]  # how many pages it has, and some of them


def html(
  tally: Tally, counts: Mapping[str, Mapping[str, int]], clusters: Sequence[Cluster], name: str
) -> str:
  """The report as one page that needs no other file.

  Args:
    tally: of all pages.
    counts: source -> kind of record -> how often it was read.
    clusters: the largest, with the first page and others of each.
    name: of the folder.
  """
  blocks = [
    Heading(f'What became of the pages of {name}', 1),
    *_waterfall(tally),
    *_reasons(tally),
    *_texts(tally),
    *_counted(tally),
    *_clusters(clusters),
    *_statistics(tally),
    *_records(counts),
  ]
  return page(blocks, f'{name}: clean')


def _waterfall(tally: Tally) -> Iterator[Block]:
  yield Heading('What was left behind each step')
  sources = list(dict.fromkeys(source for source, _ in tally.pages))
  total = lambda counter, step: sum(counter[source, step] for source in sources)
  rows = []
  for step in ('', *tally.steps):
    characters = total(tally.characters, step)
    rows.append((step or 'read', total(tally.pages, step), characters))
  drawn = drawings.waterfall([row[:2] for row in rows], 'pages left behind each step')
  yield Figure('waterfall.svg', drawn, 'pages that are left behind each step')
  header = ('step', 'pages', 'characters', 'tokens, about')
  cells = [
    (step, f'{pages:,}', f'{size:,}', f'{size / BYTES_A_TOKEN:,.0f}') for step, pages, size in rows
  ]
  yield Table(header, cells)
  yield Text(
    'Before a page is extracted its characters are the bytes of its HTML. A token is taken to be '
    f'{BYTES_A_TOKEN} characters.'
  )
  if len(sources) > 1:
    by_source = [
      (source, *(f'{tally.pages[source, step]:,}' for step in ('', *tally.steps)))
      for source in sources
    ]
    yield Table(('source', 'read', *tally.steps), by_source)


def _reasons(tally: Tally) -> Iterator[Block]:
  found: dict[tuple[str, str], int] = {}
  for (_, step, reason), count in tally.reasons.items():
    found[step, reason] = found.get((step, reason), 0) + count
  if found:
    yield Heading('Why pages were dropped')
    order = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    yield Table(('step', 'reason', 'pages'), [(*key, f'{count:,}') for key, count in order])


def _texts(tally: Tally) -> Iterator[Block]:
  """Values that are texts, such as languages."""
  for name, counter in sorted(tally.texts.items()):
    most = sorted(counter.items(), key=lambda pair: (-pair[1], pair[0]))[:20]
    yield Heading(name, 3)
    yield Table(('value', 'pages'), [(text, f'{count:,}') for text, count in most])


def _counted(tally: Tally) -> Iterator[Block]:
  """Sums of values that no limit is set for: what was replaced, cut or mended."""
  limited = {f'{step}.{limit.value}' for step, some in tally.limits.items() for limit in some}
  rows = [
    (name, f'{total:,.10g}', f'{sum(n for v, n in tally.histogram[name].items() if v):,}')
    for name, total in sorted(tally.sums.items())
    if name not in limited and name != READ and total
    if name.partition('.')[2] not in (CHARACTERS, *PLACES)
  ]
  if rows:
    yield Heading('What was counted')
    yield Table(('value', 'sum', 'pages that have any'), rows)


def _clusters(clusters: Sequence[Cluster]) -> Iterator[Block]:
  if clusters:
    yield Heading('The largest clusters of duplicates')
  for size, some in clusters:
    yield Heading(f'{size:,} pages', 3)
    header = [f'{record["id"]} {record["url"]}'.strip() for record in some]
    yield Table(header, [[record['text'][:EXCERPT] for record in some]])


def _statistics(tally: Tally) -> Iterator[Block]:
  if any(tally.limits.values()):
    yield Heading('Statistics and their limits')
    yield Text('Red pages lie beyond the limit, a dashed line, whichever step dropped them.')
  for step in tally.steps:
    by_value: dict[str, list[Any]] = {}
    for limit in (limit for limit in tally.limits.get(step, ()) if limit.ends):
      by_value.setdefault(limit.value, []).append(limit)
    for value, limits in by_value.items():
      counts = tally.histogram.get(f'{step}.{value}')
      if not counts:
        continue
      yield Heading(f'{step}: {value}', 3)
      drawn = drawings.histogram(counts, limits, f'{step}.{value}')
      yield Figure(f'{step}.{value}.svg', drawn, f'pages by {value}')
      for limit in limits:
        for kept in (True, False):
          yield from _samples(tally, step, limit.reason, kept)


def _samples(tally: Tally, step: str, reason: str, kept: bool) -> Iterator[Block]:
  heap = tally.samples.get((step, reason, kept))
  if heap:
    what = f'kept, nearest to {reason}' if kept else f'dropped for {reason}, nearest to the limit'
    rows = [(f'{value:.4g}', url, text) for _, _, value, text, url in sorted(heap, reverse=True)]
    yield Fold(f'{len(heap)} {what}', [Table(('value', 'URL', 'text'), rows)])


def _records(counts: Mapping[str, Mapping[str, int]]) -> Iterator[Block]:
  yield Heading('What the sources held')
  rows = [
    (source, kind, f'{count:,}')
    for source, kinds in counts.items()
    for kind, count in kinds.items()
  ]
  yield Table(('source', 'records', 'number'), rows)
