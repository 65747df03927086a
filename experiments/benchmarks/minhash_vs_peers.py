"""From a text to the 14 bands of its MinHash: the house against datatrove and text-dedup.

All take shingles of 5 words and 112 functions, in turns, a process each whose own time is counted.
datatrove has the same functions and hash, and splits words by spaCy's rules; text-dedup has words
between non-letters, 32 of 64 bits, and no simplification but lower case. Prints one JSON table.

    pip install datatrove spacy regex 'xxhash<4' text-dedup==0.4.1      # Python 3.12
    python -m experiments.benchmarks.minhash_vs_peers --texts pages.jsonl.gz
"""

import argparse
import gzip
import json
import lzma
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.benchmarks import turns

LICENCES = Path(__file__).parents[2] / 'tests' / 'fixtures' / 'near_duplicates.json.xz'


def read(path: str, count: int) -> list[str]:
  """The texts of a JSONL file, or those of the licences in the tests."""
  if not path:
    rows = json.loads(lzma.decompress(LICENCES.read_bytes()))['licences']
  else:
    with (gzip.open if path.endswith('.gz') else open)(path, 'rt', encoding='utf-8') as file:
      rows = [json.loads(line) for line in file]
  return [row['text'] for row in rows[:count]]


def house(**options: Any) -> Callable[[str], Any]:
  """The house's own."""
  from llm_jax.clean.minhash import make
  from llm_jax.clean.page import Page

  step = make(**options)
  return lambda text: step.sign(Page('', text, str.split))


def datatrove() -> Callable[[str], Any]:
  """As FineWeb's first stage calls it, with xxHash64."""
  from datatrove.pipeline.dedup import MinhashDedupSignature

  step = MinhashDedupSignature(tempfile.mkdtemp())
  return lambda text: step.get_signature(step.get_shingles(text))


def text_dedup() -> Callable[[str], Any]:
  """Its function for a row, with xxh3."""
  from text_dedup.config.algorithms.minhash import MinHashAlgorithmConfig

  options: Any = dict(
    algorithm_name='minhash', text_column='text', num_perm=112, bands=14, rows=8, ngram_size=5,
    min_length=5, threshold=0.75,
  )  # fmt: skip
  sign = MinHashAlgorithmConfig(**options).get_embed_func()
  return lambda text: sign([text], [0])


SIDES = {
  'llm_jax': house,
  'llm_jax, sha1': lambda: house(hash='sha1'),
  'datatrove': datatrove,
  'text-dedup': text_dedup,
}


def main() -> None:
  """Starts a worker for each side, lets them take turns, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--texts', default='', help='JSONL with a `text`; else licences of the tests')
  parser.add_argument('--pages', type=int, default=100, help='texts of a step')
  parser.add_argument('--steps', type=int, default=3, help='passes over the texts in a block')
  parser.add_argument('--blocks', type=int, default=7, help='timed blocks of each side')
  parser.add_argument('--peers', default='llm_jax, sha1;datatrove;text-dedup', help="'' for none")
  parser.add_argument('--worker', default='', help=argparse.SUPPRESS)
  options = parser.parse_args()
  texts = read(options.texts, options.pages)
  if options.worker:
    sign = SIDES[options.worker]()
    return turns.serve(lambda: [sign(text) for text in texts], lambda _: 0.0, time.process_time)
  table = turns.take(
    'experiments.benchmarks.minhash_vs_peers',
    ['llm_jax', *filter(None, options.peers.split(';'))],
    ['--texts', options.texts, '--pages', str(options.pages)],
    steps=options.steps, blocks=options.blocks, tokens=len(texts),
  )  # fmt: skip
  table['pages_per_second'] = table.pop('tokens_per_second')
  size = sum(map(len, texts)) / max(len(texts), 1)
  print(json.dumps({**turns.where(), 'characters a page': round(size), **table}, indent=2))


if __name__ == '__main__':
  main()
