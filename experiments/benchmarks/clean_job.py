"""Job `clean` by one process and by two: wall time, memory, and what the report takes of it.

The pages of one archive are read as many sources, which are not compared with each other, so that
copies do not find their like. Runs of one and of two processes take turns, each in a process of its
own; a run of few copies says what memory a short job needs. All files of both have to be equal.
Prints one JSON table.

    pip install -e '.[clean]' && python -m experiments.benchmarks.clean_job iana.warc.gz
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks import turns


def worker(folder: str, path: str, copies: int, workers: int) -> None:
  """Runs the job, and prints its seconds, those of its report, and the most memory held in MB."""
  import contextlib
  import io
  import resource

  from configs import clean as config
  from llm_jax.jobs import clean
  from llm_jax.jobs.cleaning import report

  c = config.get_config()
  c.workdir, c.scope = folder, 'per_source'
  c.sources = {f'copy{number:04}': path for number in range(copies)}
  with c.unlocked():
    c.workers = workers
  drawn, spent = report.html, 0.0

  def timed(*given: Any) -> str:
    nonlocal spent
    began = time.perf_counter()
    page = drawn(*given)
    spent += time.perf_counter() - began
    return page

  report.html = timed
  began = time.perf_counter()
  with contextlib.redirect_stdout(io.StringIO()):
    clean.main(c)
  seconds = time.perf_counter() - began
  held = [
    resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
  ]
  print(json.dumps({'seconds': seconds, 'report': spent, 'megabytes': round(max(held) / 1024)}))


def run(folder: Path, path: str, copies: int, workers: int) -> dict[str, float]:
  """What `worker` found, in a process of its own."""
  module, arguments = 'experiments.benchmarks.clean_job', [path, '--copies', str(copies)]
  command = [sys.executable, '-m', module, *arguments, '--worker', str(folder), str(workers)]
  told = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
  return json.loads(told.splitlines()[-1])


def contents(folder: Path) -> dict[str, bytes]:
  """The files of a result whose content does not name its folder."""
  kinds = ('pages', 'dropped', 'dataset')
  files = [path for kind in kinds for path in sorted((folder / kind).rglob('*')) if path.is_file()]
  return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def main() -> None:
  """Runs both and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('archive', help='a WARC file, an archive of HTML, or a folder')
  parser.add_argument('--copies', type=int, default=60, help='how often it is read')
  parser.add_argument('--rounds', type=int, default=3, help='turns of each')
  parser.add_argument('--worker', nargs=2, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.worker:
    folder, workers = options.worker
    return worker(folder, options.archive, options.copies, int(workers))
  archive = str(Path(options.archive).absolute())
  found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
  with tempfile.TemporaryDirectory() as place:
    short = run(Path(place, 'short'), archive, max(1, options.copies // 6), 1)
    for turn in range(options.rounds):
      for workers, took in found.items():
        took.append(run(Path(place, f'{turn}-{workers}'), archive, options.copies, workers))
      assert contents(Path(place, f'{turn}-1')) == contents(Path(place, f'{turn}-2'))
  middle = {n: statistics.median(one['seconds'] for one in took) for n, took in found.items()}
  table = {
    **turns.where(),
    'seconds': {n: [round(one['seconds'], 1) for one in took] for n, took in found.items()},
    'two processes against one': round(middle[1] / middle[2], 2),
    'share of the report': round(max(one['report'] / one['seconds'] for one in found[1]), 4),
    'MB of the largest process': found[1][0]['megabytes'],
    'MB of a sixth of the pages': short['megabytes'],
  }
  print(json.dumps(table, indent=2))


if __name__ == '__main__':
  main()
