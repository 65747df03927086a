"""Memory and time of the steps over all pages: exact and near duplicates, and repeated lines.

A page is invented from its position alone: 100 words in ten lines, and a line that many pages
share. Of ten pages one is the copy of an earlier page and two differ from one in a few words. One
process does everything; its own time is counted, not that of others. Prints one JSON table.

    python -m experiments.benchmarks.clean_memory --pages 1000000
"""

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Iterable, Iterator

import numpy as np

from experiments.benchmarks import turns
from llm_jax.clean import exact, lines, minhash
from llm_jax.clean.page import Across, Drop, Page, Signatures

WORDS = [a + b + c for a in 'bdfgklmnprstvz' for b in ('a', 'e', 'io', 'u') for c in 'bdklmnrst ']
PAGES_TOGETHER = 10_000  # whose signatures are put together at once


def page(position: int) -> Page:
  """The page at a position."""
  draw, kind = random.Random(position), position % 10
  if kind < 7 or position < 10:
    words = draw.choices(WORDS, k=100)
  else:
    words = random.Random(10 * draw.randrange(position // 10)).choices(WORDS, k=100)
    for _ in range((0, 1, 3)[kind - 7]):
      words[draw.randrange(100)] = draw.choice(WORDS)
  text = '\n'.join(' '.join(words[i : i + 10]) for i in range(0, 100, 10))
  notice = f'Subscribe to our newsletter of the {WORDS[position % 97]} department'
  return Page('', text if kind in (0, 7) else f'{text}\n{notice}', str.split)


def signed(step: Across, positions: np.ndarray) -> Signatures:
  """The signatures of pages, as a runner reads them from its files."""
  parts, sizes = [], [np.zeros(1, np.int64)]
  for at in range(0, len(positions), PAGES_TOGETHER):
    some = [step.sign(page(int(x))) for x in positions[at : at + PAGES_TOGETHER]]
    parts.append(np.concatenate(some))
    sizes.append(np.array([len(signature) for signature in some]))
  return Signatures(np.concatenate(parts), np.cumsum(np.concatenate(sizes)), positions)


def read(positions: Iterable[int]) -> Iterator[Page]:
  return map(page, positions)


def main() -> None:
  """Takes the pages through all three steps."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--pages', type=int, default=1_000_000, help='how many')
  options = parser.parse_args()
  positions = np.arange(options.pages)
  table = {}
  for name, step in (('exact', exact.make()), ('minhash', minhash.make()), ('lines', lines.make())):
    start = time.process_time()
    signatures = signed(step, positions)
    between = time.process_time()
    found = step.join(signatures, read)
    joined = time.process_time()
    gone = [x for x, said in found.items() if isinstance(step.apply(page(x), said), Drop)]
    per_million = 1e6 / len(positions)
    table[name] = {
      'pages': len(positions),
      'found': len(found),
      'dropped': len(gone),
      'minutes_per_million': {
        'sign': round((between - start) / 60 * per_million, 2),
        'join': round((joined - between) / 60 * per_million, 2),
        'apply': round((time.process_time() - joined) / 60 * per_million, 2),
      },
      # The most the process has held so far, in kilobytes on Linux and in bytes on a Mac.
      'peak_gigabytes': round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / (1e9 if sys.platform == 'darwin' else 1e6), 2
      ),
    }  # fmt: skip
    print(name, table[name], file=sys.stderr, flush=True)
    positions = np.setdiff1d(positions, np.array(gone, np.int64), assume_unique=True)
    del signatures, found
  print(json.dumps({**turns.where(), 'table': table}, indent=2))


if __name__ == '__main__':
  main()
