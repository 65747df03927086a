"""Job `clean` by its two runners: processor time of a page, and what a TB of HTML costs.

The pages of one archive are read as many sources, which are not compared with each other, so that
copies do not find their like. Both runners work in this process, which does nothing else, and take
turns; the first turn is not counted. All files of both have to be equal. Prints one JSON table.

    pip install -e '.[clean,beam]' && python -m experiments.benchmarks.clean_beam iana.warc.gz
"""

import argparse
import contextlib
import io
import json
import logging
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from configs import clean as config
from llm_jax.jobs import clean
from llm_jax.jobs.cleaning import crawl


def run(folder: Path, path: str, copies: int, runner: str) -> float:
  """Seconds of processor time of a run."""
  c = config.get_config()
  c.workdir, c.runner, c.scope = str(folder), runner, 'per_source'
  c.sources = {f'copy{number:04}': path for number in range(copies)}
  with c.unlocked():
    c.workers = 1
  began = time.process_time()
  with contextlib.redirect_stdout(io.StringIO()):
    clean.main(c)
  return time.process_time() - began


def contents(folder: Path) -> dict[str, bytes]:
  """The files of a result whose content does not name its folder."""
  kinds = ('pages', 'dropped', 'dataset')
  files = [path for kind in kinds for path in sorted((folder / kind).rglob('*')) if path.is_file()]
  return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def main() -> None:
  """Runs both and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('archive', help='a WARC file, an archive of HTML, or a folder')
  parser.add_argument('--copies', type=int, default=50, help='how often it is read')
  parser.add_argument('--rounds', type=int, default=3, help='turns of each runner that count')
  options = parser.parse_args()
  logging.disable(logging.WARNING)
  units = crawl.units({'once': options.archive})
  bodies = [len(page.body) for unit in units for page in crawl.pages(unit, str.split, Counter())]
  seconds: dict[str, list[float]] = {'local': [], 'beam': []}
  for turn in range(options.rounds + 1):
    with tempfile.TemporaryDirectory() as folder:
      for runner, took in seconds.items():
        found = run(Path(folder, runner), options.archive, options.copies if turn else 1, runner)
        took += [found] if turn else []
      assert contents(Path(folder, 'local')) == contents(Path(folder, 'beam'))
  pages, megabytes = options.copies * len(bodies), options.copies * sum(bodies) / 1e6
  table: dict[str, Any] = {'pages': pages, 'MB of HTML': round(megabytes, 1)}
  for runner, took in seconds.items():
    middle = statistics.median(took)
    hours = middle / megabytes * 1e6 / 3600
    table[runner] = {
      'seconds': [round(second, 1) for second in took],
      'pages/s': round(pages / middle, 1),
      'MB/s': round(megabytes / middle, 3),
      'core-hours a TB': round(hours),
    }
  print(json.dumps(table, indent=2))


if __name__ == '__main__':
  main()
