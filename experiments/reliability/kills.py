"""Ends runs of every stage at random moments, in five ways, and compares what they come to.

python -m experiments.reliability.kills --tries 100

A try takes one stage of a pipeline that has run, empties its folder, and starts its command again.
Then something happens to it:

  kill     SIGKILL at a random moment, once or twice
  two      the same command is started twice at about the same time
  full     the disk is full once a random number of bytes has been written
  limit    no file may be larger than a random size
  deleted  its folder is deleted at a random moment

Afterwards the command is given once more, undisturbed. It has to end with the same parameters,
numbers and texts, bit by bit, and nothing on the way may print a traceback.
"""

import argparse
import collections
import contextlib
import io
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments.reliability import stages
from experiments.reliability.damage import first_difference, results

CONFIG = Path(stages.__file__).relative_to(Path.cwd())


class Trial:
  """One stage, begun anew; processes of its command and what they said.

  Args:
    folder: of the pipeline that has run.
    name: of the stage.
    seconds: that its command takes undisturbed.
    draw: of the moments.
  """

  def __init__(self, folder: str, name: str, seconds: float, draw: random.Random) -> None:
    self._place, self._seconds, self.draw = f'{folder},{name}', seconds, draw
    self.stage = stages.get_config(self._place)
    self.workdir = Path(self.stage.workdir)
    self.said: list[str] = []
    self._before = Path(tempfile.mkdtemp()) / 'before'
    shutil.move(self.workdir, self._before)

  def put_back(self) -> None:
    """What the pipeline made of the stage: the sums of later ones are of just these files."""
    shutil.rmtree(self.workdir, ignore_errors=True)
    shutil.move(self._before, self.workdir)

  def start(self, limit: int | None = None) -> subprocess.Popen[str]:
    """A process of the command, which may write files of `limit` KiB."""
    words = [sys.executable, '-m', 'llm_jax.main', f'--config={CONFIG}:{self._place}']
    if limit is not None:
      words = ['bash', '-c', f'ulimit -f {limit}; exec "$@"', 'bash', *words]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

  def end(self, process: subprocess.Popen[str]) -> int:
    """Its status, once it has ended by itself."""
    said, _ = process.communicate(timeout=600)
    self.said.append(said)
    return process.returncode

  def wait(self) -> None:
    """Until a random moment of the time that the command takes."""
    time.sleep(self.draw.uniform(0.2, 1.0) * self._seconds)


def kill(trial: Trial) -> None:
  for _ in range(trial.draw.choice((1, 1, 2))):
    process = trial.start()
    trial.wait()
    process.kill()
    trial.end(process)


def two(trial: Trial) -> None:
  first = trial.start()
  time.sleep(trial.draw.choice((0, 0, 0.1, 1, 3)))
  second = trial.start()
  if trial.draw.random() < 0.3:
    trial.wait()
    first.kill()
  codes = trial.end(first), trial.end(second)
  refused = [said for said, code in zip(trial.said, codes, strict=True) if code > 0]
  for said in refused:
    if 'is at work there' not in said:
      raise AssertionError(f'refused, but not by the lock: {said[-300:]}')


def limit(trial: Trial) -> None:
  trial.end(trial.start(limit=int(2 ** trial.draw.uniform(0, 7.5)) - 1))


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[int], None]]:
  """A disk of `size` bytes at a folder; yields what makes it another size. It takes root."""
  folder.mkdir(parents=True, exist_ok=True)
  mount = lambda *words: subprocess.run(['mount', *words], check=True, capture_output=True)
  mount('-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(folder))
  try:
    yield lambda size: mount('-o', f'remount,size={size}', str(folder))
  finally:
    subprocess.run(['umount', str(folder)], check=True)


def full(trial: Trial) -> None:
  with small_disk(trial.workdir, 4096 * trial.draw.randint(1, 150)) as grow:
    trial.end(trial.start())
    grow(1 << 28)
    kept = Path(tempfile.mkdtemp()) / 'kept'
    shutil.copytree(trial.workdir, kept)
  shutil.rmtree(trial.workdir)
  shutil.copytree(kept, trial.workdir)


def deleted(trial: Trial) -> None:
  process = trial.start()
  trial.wait()
  shutil.rmtree(trial.workdir, ignore_errors=True)
  trial.end(process)
  shutil.rmtree(trial.workdir, ignore_errors=True)


WAYS = {'kill': kill, 'two': two, 'full': full, 'limit': limit, 'deleted': deleted}


def attempt(way: str, trial: Trial, wanted: Any) -> str:
  """What is wrong with how a try ended; '' if nothing is."""
  try:
    WAYS[way](trial)
  except AssertionError as error:
    return str(error)
  if trial.end(trial.start()):
    return f'does not end: {trial.said[-1][-500:]}'
  if found := [said for said in trial.said if 'Traceback' in said]:
    return f'traceback: {found[0][-800:]}'
  found = ended(trial.stage)
  return '' if found == wanted else f'diverges: {first_difference(wanted, found)}'


def ended(stage: Any) -> Any:
  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    return json.loads(json.dumps(results(stage)))


def main() -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('--tries', type=int, default=100)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--ways', default='kill,kill,kill,kill,two,full,limit,deleted')
  parser.add_argument('--folder', default='', help='of a pipeline that has run; made by default')
  words = parser.parse_args()
  folder = words.folder or tempfile.mkdtemp()
  config = stages.get_config(folder)
  # By the command as well: it chooses flags of XLA that this process does not have.
  subprocess.run([sys.executable, '-m', 'llm_jax.main', f'--config={CONFIG}:{folder}'], check=True)
  draw, wanted, seconds = random.Random(words.seed), {}, {}
  for name in config.stages:  # as they end undisturbed, compared with the pipeline's own
    wanted[name], trial = ended(config[name]), Trial(folder, name, 0, draw)
    began = time.monotonic()
    trial.end(trial.start())
    if (found := ended(trial.stage)) != wanted[name]:
      said = first_difference(wanted[name], found)
      sys.exit(f'{name} does not repeat itself: {said}\n{trial.said[-1][-500:]}')
    seconds[name] = time.monotonic() - began
    trial.put_back()
  print('seconds of each stage:', {k: round(v, 1) for k, v in seconds.items()}, flush=True)
  ways, counts = words.ways.split(','), collections.Counter()
  began, wrong = time.monotonic(), 0
  for i in range(words.tries):
    way, name = ways[i % len(ways)], config.stages[i % len(config.stages)]
    if i // len(ways) % 2:
      name = draw.choice(config.stages)
    trial = Trial(folder, name, seconds[name], draw)
    fault = attempt(way, trial, wanted[name])
    trial.put_back()
    counts[way, 'wrong' if fault else 'right'] += 1
    wrong += bool(fault)
    shown = f'{way} {name}: {fault or "right"}'
    print(f'{i + 1} of {words.tries}, {time.monotonic() - began:.0f} s, {shown}', flush=True)
  print('\n| what happened | right | wrong |\n|---|---:|---:|')
  for way in WAYS:
    print(f'| {way} | {counts[way, "right"]} | {counts[way, "wrong"]} |')
  sys.exit(wrong > 0)


if __name__ == '__main__':
  main()
