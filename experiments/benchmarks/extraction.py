"""Text out of HTML: rule `extract` in both modes against plain trafilatura, quality and CPU time.

Quality on two sets: pages of a WARC file whose text is known, as that of the element with id
`main_right` or `main`, in shingles of four words; and the segments that must and must not be found
of `tests/fixtures/web/extract.json`, with code blocks that must be found to the letter. Time is
that of the process, per page of the WARC file; the sides take turns.

    python -m experiments.benchmarks.extraction iana.warc.gz
"""

import argparse
import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import lxml.html
import trafilatura

from llm_jax.clean import extract, warc
from llm_jax.clean.page import Page

SEGMENTS = Path(__file__).parents[2] / 'tests' / 'fixtures' / 'web' / 'extract.json'
Side = Callable[[Page], str]


def shingles(text: str) -> Counter[tuple[str, ...]]:
  """The runs of four words of a text, with how often each is there."""
  words = re.findall(r'\w+', text)
  return Counter(zip(*(words[i:] for i in range(4)), strict=False))


def truth(page: Page) -> str | None:
  """The text of the element that holds the article, or None where a page has none."""
  tree = lxml.html.fromstring(page.body)
  for name in ('main_right', 'main'):
    found = tree.get_element_by_id(name, None)
    if found is not None:
      return ' '.join(found.itertext())
  return None


def articles(side: Side, pages: list[Page]) -> dict[str, float]:
  """Mean precision and recall of shingles, and the F1 of the means."""
  precisions, recalls = [], []
  for page in pages:
    expected, found = shingles(truth(page) or ''), shingles(side(page))
    both = (expected & found).total()
    precisions.append(both / max(1, found.total()))
    recalls.append(both / max(1, expected.total()))
  precision, recall = statistics.mean(precisions), statistics.mean(recalls)
  f1 = 2 * precision * recall / (precision + recall)
  return {'precision': round(precision, 4), 'recall': round(recall, 4), 'f1': round(f1, 4)}


def segments(side: Side) -> dict[str, float | str]:
  """F1 over segments to keep and to drop, and how many code blocks are found to the letter."""
  plain = lambda text: ' '.join(text.split())
  counts: Counter[str] = Counter()
  for case in json.loads(SEGMENTS.read_text())['pages']:
    text = side(Page('', '', str.split, case['html'].encode()))
    for kind in ('keep', 'drop'):
      counts[kind] += len(case[kind])
      counts[f'{kind} found'] += sum(plain(part) in plain(text) for part in case[kind])
    counts['code'] += len(case['verbatim'])
    counts['code found'] += sum(part in text for part in case['verbatim'])
  found = counts['keep found']
  f1 = 2 * found / (found + counts['drop found'] + counts['keep'])
  return {'f1': round(f1, 4), 'code': f'{counts["code found"]} of {counts["code"]}'}


def main() -> None:
  """Prints one JSON table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    'warc', help='pages of which `truth` knows the text, such as those of iana.org'
  )
  parser.add_argument('--rounds', type=int, default=5, help='how often each side reads all pages')
  options = parser.parse_args()
  pages = [page for page in warc.read(options.warc, str.split, Counter()) if truth(page)]
  rules = {name: extract.make(engine=name) for name in ('trafilatura', 'resiliparse')}
  sides: dict[str, Side] = {
    'plain trafilatura': lambda page: trafilatura.extract(page.body, include_comments=False) or '',
    'extract': lambda page: rules['trafilatura'].measure(page)[0].text,
    'extract, engine=resiliparse': lambda page: rules['resiliparse'].measure(page)[0].text,
  }
  table: dict[str, dict[str, object]] = {
    name: {'articles': articles(side, pages), 'segments': segments(side)}
    for name, side in sides.items()
  }
  seconds: dict[str, list[float]] = {name: [] for name in sides}
  for _ in range(options.rounds):
    for name, side in sides.items():
      start = time.process_time()
      for page in pages:
        side(page)
      seconds[name].append(time.process_time() - start)
  plain = seconds['plain trafilatura']
  for name, spent in seconds.items():
    ratios = sorted(a / b for a, b in zip(plain, spent, strict=True))
    table[name]['pages a CPU second'] = round(len(pages) / statistics.median(spent), 1)
    table[name]['speed'] = round(statistics.median(ratios), 2)
    table[name]['speeds'] = [round(ratio, 2) for ratio in ratios]
  print(json.dumps({'pages': len(pages), **table}, indent=2))


if __name__ == '__main__':
  main()
