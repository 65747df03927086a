"""From a text to the numbers of the text rules: the house against datatrove's four filters.

Both take the rules of FineWeb in its order, in turns, a process each whose own time is counted.
datatrove splits words by spaCy's rules, and a filter of it stops at the first limit that a page
breaks; 'first drop' does not call the filters behind that one, as its pipelines do. The house has
`simple` words and every number of every page. Prints one JSON table.

    pip install datatrove spacy
    python -m experiments.benchmarks.clean_vs_datatrove --texts pages.jsonl.gz
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from experiments.benchmarks import turns
from experiments.benchmarks.minhash_vs_peers import read


def house(words: str) -> Callable[[str], Any]:
  """Every number of every rule, and the edited text."""
  from llm_jax.clean import c4, fineweb, gopher, repetition
  from llm_jax.clean.page import Page, follow
  from llm_jax.clean.words import splitter

  split = splitter(words)
  rules = {'repetition': repetition, 'gopher': gopher, 'c4': c4, 'fineweb': fineweb}
  steps = [(name, rule.make()) for name, rule in rules.items()]
  return lambda text: follow(steps, Page('', text, split))


def datatrove(whole: bool) -> Callable[[str], Any]:
  """Its filters; where `whole`, all of them even if an earlier one drops the page."""
  from datatrove.data import Document
  from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
  )

  filters = [
    GopherRepetitionFilter(),
    GopherQualityFilter(),
    C4QualityFilter(filter_no_terminal_punct=False),
    FineWebQualityFilter(),
  ]

  def judge(text: str) -> Any:
    document, verdicts = Document(text=text, id=''), []
    for step in filters:
      found = step.filter(document)
      verdicts.append(found)
      if found is not True and not whole:
        break
    return verdicts

  return judge


SIDES: dict[str, Callable[[], Callable[[str], Any]]] = {
  'llm_jax': lambda: house('simple'),
  'llm_jax, whitespace': lambda: house('whitespace'),
  'datatrove': lambda: datatrove(whole=True),
  'datatrove, first drop': lambda: datatrove(whole=False),
}


def main() -> None:
  """Starts a worker for each side, lets them take turns, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--texts', default='', help='JSONL with a `text`; else licences of the tests')
  parser.add_argument('--pages', type=int, default=100, help='texts of a step')
  parser.add_argument('--steps', type=int, default=1, help='passes over the texts in a block')
  parser.add_argument('--blocks', type=int, default=7, help='timed blocks of each side')
  parser.add_argument('--peers', default='datatrove;datatrove, first drop', help="'' for none")
  parser.add_argument('--worker', default='', help=argparse.SUPPRESS)
  options = parser.parse_args()
  texts = read(options.texts, options.pages)
  if options.worker:
    judge = SIDES[options.worker]()
    return turns.serve(lambda: [judge(text) for text in texts], lambda _: 0.0, time.process_time)
  size = sum(len(text.encode()) for text in texts)
  table = turns.take(
    'experiments.benchmarks.clean_vs_datatrove',
    ['llm_jax', *filter(None, options.peers.split(';'))],
    ['--texts', options.texts, '--pages', str(options.pages)],
    steps=options.steps, blocks=options.blocks, tokens=size,
  )  # fmt: skip
  table['megabytes_per_second'] = {
    name: round(rate / 1e6, 3) for name, rate in table.pop('tokens_per_second').items()
  }
  print(json.dumps({**turns.where(), 'pages': len(texts), 'bytes': size, **table}, indent=2))


if __name__ == '__main__':
  main()
