"""From a WARC file to JSON lines of kept text: job `clean` against datatrove's local pipeline.

Both read the pages of one archive, extract their text with the same trafilatura, take the rules of
FineWeb in its order, replace e-mail and IP addresses, and write what is left, in one process each,
in turns. Time is that of processors, of a process and of those it started. 'fast' has resiliparse
in the place of trafilatura. No step compares pages, since datatrove does that in jobs of their own,
and none tells languages apart, since its model for that is not in its package.
Prints one JSON table.

    pip install 'datatrove[io,processing]' spacy faust-cchardet python-magic 'trafilatura>=2'
    pip install -e '.[clean]' && python -m experiments.benchmarks.crawl_vs_datatrove saved/pages
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.benchmarks import turns

ARCHIVE = 'pages.warc.gz'


def archive(pages: Path, count: int, folder: Path) -> int:
  """Writes a WARC file of the first pages of a folder; returns the bytes of their HTML."""
  from warcio.statusandheaders import StatusAndHeaders
  from warcio.warcwriter import WARCWriter

  size = 0
  with open(folder / ARCHIVE, 'wb') as file:
    writer = WARCWriter(file, gzip=True)
    for path in sorted(pages.glob('*.html*'))[:count]:
      html = path.read_bytes()
      html = gzip.decompress(html) if path.suffix == '.gz' else html
      size += len(html)
      record = writer.create_warc_record(
        f'https://example.org/{path.name}',
        'response',
        payload=io.BytesIO(html),
        http_headers=StatusAndHeaders('200 OK', [('Content-Type', 'text/html')], 'HTTP/1.1'),
        warc_headers_dict={'WARC-Identified-Payload-Type': 'text/html'},
      )
      writer.write_record(record)
  return size


def house(folder: Path, **options: Any) -> Callable[[], Any]:
  """Job `clean` with FineWeb's rules but the one that compares pages."""
  import zstandard
  from ml_collections import ConfigDict

  from configs import clean as config
  from llm_jax.jobs import clean

  def step() -> int:
    c = config.get_config('fineweb')
    with tempfile.TemporaryDirectory() as workdir, c.unlocked():
      c.workdir, c.sources, c.workers = workdir, {'web': str(folder / ARCHIVE)}, 1
      rules = config.PRESETS['fineweb'] | {'extract': options}
      del rules['minhash'], rules['scope']
      left_out = ('language', 'minhash')
      rules['steps'] = tuple(name for name in rules['steps'] if name not in left_out)
      c.rules = ConfigDict(rules)
      with contextlib.redirect_stdout(io.StringIO()):
        clean.main(c)
      return sum(
        zstandard.open(path, 'rb').read().count(b'\n')
        for path in Path(workdir, 'pages').rglob('*.zst')
      )

  return step


def datatrove(folder: Path) -> Callable[[], Any]:
  """Its own executor, with one task."""
  from datatrove.executor import LocalPipelineExecutor
  from datatrove.pipeline.extractors import Trafilatura
  from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
  )
  from datatrove.pipeline.formatters import PIIFormatter
  from datatrove.pipeline.readers import WarcReader
  from datatrove.pipeline.writers.jsonl import JsonlWriter

  def step() -> int:
    with tempfile.TemporaryDirectory() as workdir:
      LocalPipelineExecutor(
        pipeline=[
          WarcReader(str(folder), glob_pattern=ARCHIVE),
          Trafilatura(timeout=30),
          GopherRepetitionFilter(),
          GopherQualityFilter(),
          C4QualityFilter(filter_no_terminal_punct=False),
          FineWebQualityFilter(),
          PIIFormatter(),
          JsonlWriter(f'{workdir}/kept'),
        ],
        logging_dir=f'{workdir}/logs',
      ).run()
      return sum(
        gzip.decompress(path.read_bytes()).count(b'\n')
        for path in Path(workdir, 'kept').glob('*.gz')
      )

  return step


SIDES: dict[str, Callable[[Path], Callable[[], Any]]] = {
  'llm_jax': house,
  'llm_jax, fast': lambda folder: house(folder, engine='resiliparse'),
  'datatrove': datatrove,
}


def spent() -> float:
  """Seconds of processors, of this process and of those that it started and that have ended."""
  return sum(os.times()[:4])


def main() -> None:
  """Starts a worker for each side, lets them take turns, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('pages', type=Path, help='a folder of .html or .html.gz')
  parser.add_argument('--count', type=int, default=300, help='pages of a step')
  parser.add_argument('--blocks', type=int, default=3, help='timed blocks of each side')
  parser.add_argument('--worker', default='', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.worker:
    return turns.serve(SIDES[options.worker](options.pages), lambda kept: kept, spent)
  with tempfile.TemporaryDirectory() as folder:
    size = archive(options.pages, options.count, Path(folder))
    module = 'experiments.benchmarks.crawl_vs_datatrove'
    table = turns.take(
      module, list(SIDES), [folder], steps=1, blocks=options.blocks, tokens=options.count
    )
  rates = table['pages_per_second'] = table.pop('tokens_per_second')
  table['ratio of fast'] = round(rates['llm_jax, fast'] / rates['datatrove'], 2)
  print(json.dumps({**turns.where(), 'pages': options.count, 'bytes': size, **table}, indent=2))


if __name__ == '__main__':
  main()
