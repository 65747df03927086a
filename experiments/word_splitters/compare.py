"""Words without a dictionary against words with one: their length, and what the rules then say.

pip install jieba sudachipy sudachidict_core
python -m experiments.word_splitters.compare --language zh texts.jsonl.gz
"""

import argparse
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean

from llm_jax.clean import fineweb, gopher, repetition
from llm_jax.clean.languages import limits
from llm_jax.clean.page import Fate, Page, Split, follow
from llm_jax.clean.words import splitter

RULES = {'repetition': repetition, 'fineweb': fineweb, 'gopher': gopher}


def jieba() -> Split:
  """Chinese words, as FineWeb-2 has them."""
  import jieba

  return lambda text: [word for word in jieba.cut(text) if word.strip()]


def sudachi() -> Split:
  """Japanese words in SudachiPy's finest mode."""
  from sudachipy import Dictionary, SplitMode

  words = Dictionary().create(mode=SplitMode.A)
  return lambda text: [word.surface() for word in words.tokenize(text) if word.surface().strip()]


PEERS: dict[str, Callable[[], Split]] = {'zh': jieba, 'ja': sudachi}


def texts(path: str) -> list[str]:
  """The `text` of every row."""
  with (gzip.open if path.endswith('.gz') else open)(path, 'rt', encoding='utf-8') as file:
    return [json.loads(line)['text'] for line in file]


def main() -> None:
  """Prints a JSON row for each file: ours first, then the peer's."""
  parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
  parser.add_argument('--language', choices=[*PEERS], default='zh')
  parser.add_argument('--pages', type=int, default=400, help='texts of a file')
  parser.add_argument('files', nargs='+', help='JSONL with a `text`')
  options = parser.parse_args()
  numbers = limits(options.language)
  steps = [(name, rule.make(**numbers[name])) for name, rule in RULES.items()]
  splits = [splitter(numbers['words']), PEERS[options.language]()]
  for path in options.files:
    rows = texts(path)[: options.pages]
    fates: list[list[Fate]] = [
      [follow(steps, Page('', text, split)) for text in rows] for split in splits
    ]
    length, letters = (
      [round(mean(float(fate.values.get(key, 0)) for fate in side), 2) for side in fates]
      for key in ('gopher.mean_word_length', 'gopher.alpha_words')
    )
    kept = [sum(not fate.step for fate in side) for side in fates]
    same = sum(bool(ours.step) == bool(theirs.step) for ours, theirs in zip(*fates, strict=True))
    table = {'mean_word_length': length, 'alpha_words': letters, 'kept': kept, 'same_verdict': same}
    print(json.dumps({'file': Path(path).name, 'texts': len(rows), **table}))


if __name__ == '__main__':
  main()
