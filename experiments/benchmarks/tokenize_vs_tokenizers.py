"""Reading a `tokenizer.json`: the house's reader against the package `tokenizers` itself.

Both encode the same texts by one call for each, in one thread, and by one call for all, on all
cores; they take turns, and have to give the same ids. Prints one JSON table: for each tokenizer of
FOLDER, laid out as experiments/interop/tokenizers_check.py says, megabytes of text a second and the
ratio of ours to the package (medians of turns), of wall time and of processor time, which other
work on the machine disturbs less.

    pip install -e '.[hf]' && python -m experiments.benchmarks.tokenize_vs_tokenizers FOLDER
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers

from experiments.benchmarks import turns
from experiments.interop.tokenizers_check import found
from llm_jax.data.builtin import documents
from llm_jax.text.tokenizer_json import TokenizerJson

Encode = Callable[[list[str]], list[list[int]]]


def pairs(data: bytes) -> dict[str, tuple[Encode, Encode]]:
  """How it is called -> ours and theirs."""
  with tempfile.TemporaryDirectory() as place:
    (Path(place) / 'tokenizer.json').write_bytes(data)
    ours = TokenizerJson.load(place)
  theirs = tokenizers.Tokenizer.from_str(data.decode())
  theirs.encode_special_tokens = True  # text makes no control tokens, as in ours
  theirs.no_truncation()
  theirs.no_padding()
  plain: Any = dict(add_special_tokens=False)
  return {
    'one thread': (
      lambda texts: ours.encode_batch(texts, threads=1),
      lambda texts: [theirs.encode(text, **plain).ids for text in texts],
    ),
    'all cores': (
      ours.encode_batch,
      lambda texts: [found.ids for found in theirs.encode_batch_fast(texts, **plain)],
    ),
  }


def compare(sides: tuple[Encode, Encode], texts: list[str], blocks: int) -> dict[str, float]:
  """The cells of one tokenizer, called in one way."""
  size = sum(len(text.encode()) for text in texts) / 1e6
  rates: dict[str, list[tuple[float, float]]] = {'wall': [], 'processors': []}
  if sides[0](texts) != sides[1](texts):
    raise AssertionError('the two sides give different ids')
  for _ in range(blocks):
    took = []
    for encode in sides:
      wall, processors = time.perf_counter(), time.process_time()
      encode(texts)
      took.append((time.perf_counter() - wall, time.process_time() - processors))
    rates['wall'].append((size / took[0][0], size / took[1][0]))
    rates['processors'].append((size / took[0][1], size / took[1][1]))
  ratio = lambda turns: round(statistics.median(ours / theirs for ours, theirs in turns), 2)
  return {
    'MB/s': round(statistics.median(ours for ours, _ in rates['wall']), 1),
    'ratio': ratio(rates['wall']),
    'ratio of processor time': ratio(rates['processors']),
  }


def main() -> None:
  """Measures all of them and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folder', type=Path)
  parser.add_argument('--megabytes', type=float, default=2.0, help='of text')
  parser.add_argument('--blocks', type=int, default=5, help='turns of each side')
  options = parser.parse_args()
  texts, size = [], 0
  for text in documents('train'):
    if size < options.megabytes * 1e6:
      texts.append(text)
      size += len(text.encode())
  table = {
    name: {way: compare(sides, texts, options.blocks) for way, sides in pairs(data).items()}
    for name, data, _ in found(options.folder)
  }
  print(json.dumps({**turns.where(), 'MB': round(size / 1e6, 2), 'table': table}, indent=2))


if __name__ == '__main__':
  main()
