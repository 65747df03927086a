"""Flips single bytes in everything that a pipeline leaves, and asks whether anybody notices.

python -m experiments.reliability.damage --flips 2000

A try takes one file of one stage, of a run that is finished or of one that was killed before its
last steps, and changes one byte. Then the commands that read it are run. The outcome is one of

  refused    one line that names the file or its folder
  said       the same results, and a line that names the file: it was passed over or made again
  harmless   the same results and no word, such as for white space or a picture
  unseen     other results, or a refusal that does not say what is damaged
  traceback  any other error
"""

import argparse
import collections
import contextlib
import functools
import hashlib
import io
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.reliability import stages
from llm_jax import artifact, run_folder
from llm_jax.data import packed, sources
from llm_jax.files import read_json
from llm_jax.jobs import page
from llm_jax.main import run
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.training import metrics, rollouts
from llm_jax.training.loop import Interrupted
from llm_jax.types import BadInput

# How long something took, which differs from run to run.
TIMES = ('seconds_to_first_step', 'tokens_per_second', 'flops_per_second', 'mfu', 'data_wait')
BAD = ('unseen', 'traceback')


def results(stage: Any) -> Any:
  """What a finished stage left for others, read as they read it; without times."""
  folder = Path(stage.workdir)
  found: list[Any] = [sorted(run_folder.made_from(folder).items())]
  if stage.job == 'tokenize':
    tokenizer = Tokenizer.load(folder / 'tokenizer')
    for split in ('train', 'validation'):
      rows = packed.make(tokenizer, path=str(folder), split=split)
      found += [_digest({k: np.stack([row[k] for row in rows]) for k in rows[0]})]
  elif stage.job == 'sample':
    found += list(sources.open_records(str(folder / 'answers.jsonl')))
  else:
    made = artifact.load(folder, make_mesh(data=1))
    about = (made.config, made.step, made.stage, made.parent, made.tokenizer.fingerprint)
    found += [_digest(made.params), *about, made.tokenizer.chat_template]
    if stage.job == 'compress':
      found.append(read_json(folder / page.FACTS, 'compress again'))
    else:
      found += [{k: v for k, v in r.items() if k not in TIMES} for r in metrics.read(folder)]
    found += rollouts.read(folder) if (folder / 'rollouts.jsonl').is_file() else []
  return found


def report(config: Any) -> Any:
  """The numbers of the report of a pipeline, without times."""
  facts = json.loads((Path(config.workdir) / 'report.json').read_text())
  for name in ('checksum', 'made'):  # the latter says when and by which command
    facts.pop(name, None)
  for stage in facts['stages'].values():
    for name in ('seconds', 'asked_seconds', *TIMES):
      stage.pop(name, None)
  return facts


def _digest(tree: Any) -> str:
  sums = [hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for leaf in jax.tree.leaves(tree)]
  return hashlib.sha256(''.join(sums).encode()).hexdigest()


def kill(folder: Path) -> None:
  """Makes of a finished stage what a kill before its last steps would have left."""
  if (folder / 'tokenize.json').exists():
    last = max(folder.glob('*/train/shard-*.json'))
    last.unlink()
    (folder / 'tokenize.json').unlink()
  elif (folder / 'summary.json').exists():
    (folder / 'summary.json').unlink()
    (folder / 'answers.jsonl').unlink()
    max((folder / 'parts').iterdir()).unlink()
  else:
    for name in ('params', 'tokenizer'):
      shutil.rmtree(folder / name)
    (folder / artifact.FILE).unlink()
    shutil.rmtree(max(p for p in (folder / 'checkpoints').iterdir() if p.is_dir()))


def flip(path: Path, draw: random.Random) -> None:
  """Changes one bit, or one whole byte, at a random place."""
  data = bytearray(path.read_bytes())
  place = draw.randrange(len(data))
  data[place] ^= draw.choice([1 << draw.randrange(8), draw.randrange(1, 256)])
  path.write_bytes(data)


class Subject:
  """A folder of a finished pipeline that is damaged and read, over and over.

  Args:
    folder: is put back after every try.
    command: reads it, and ends what is unfinished.
    results: what the command left.
    killed: the folder is first made one of a run that was killed.
    others: folders inside of it that are left alone.
  """

  def __init__(
    self,
    folder: Path,
    command: Callable[[], Any],
    results: Callable[[], Any],
    *,
    killed: bool = False,
    others: Sequence[str] = (),
  ) -> None:
    self.folder, self._command, self._results, self._others = folder, command, results, others
    kept = Path(tempfile.mkdtemp())
    self._finished = self._damaged = Path(shutil.copytree(folder, kept / 'finished'))
    if killed:
      self._damaged = Path(shutil.copytree(folder, kept / 'killed'))
      kill(self._damaged)
    self._put(self._damaged)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
      self._wanted = self._ended()
    self._put(self._finished)

  def files(self) -> list[Path]:
    """All that can be damaged, relative to the folder."""
    every = (path.relative_to(self._damaged) for path in self._damaged.rglob('*') if size(path))
    return sorted(path for path in every if path.parts[0] not in self._others)

  def attempt(self, file: Path, draw: random.Random) -> tuple[str, str]:
    """The outcome of one flip in a file, and what was said."""
    self._put(self._damaged)
    path, said = self.folder / file, io.StringIO()
    flip(path, draw)
    names = lambda text: file.name in text or str(path.parent) in text
    try:
      with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        found = self._ended()
    except (BadInput, Interrupted) as error:
      text = str(error)
      return ('refused' if names(text) and '\n' not in text else 'unseen'), text
    except BaseException as error:
      return 'traceback', f'{type(error).__name__}: {error}'
    finally:
      self._put(self._finished)
    if found != self._wanted:
      return 'unseen', f'other results: {first_difference(self._wanted, found)}'
    about = [line for line in said.getvalue().splitlines() if names(line)]
    noticed = [line for line in about if 'damaged' in line or 'passed over' in line]
    return ('said', noticed[0]) if noticed else ('harmless', '')

  def _ended(self) -> Any:
    self._command()
    return json.loads(json.dumps(self._results()))

  def _put(self, source: Path) -> None:
    shutil.rmtree(self.folder)
    shutil.copytree(source, self.folder)


def first_difference(wanted: Any, found: Any, place: str = '') -> str:
  """Where two JSON values differ first, and how."""
  if type(wanted) is type(found) and isinstance(wanted, dict | list):
    both = (dict(enumerate(v)) if isinstance(v, list) else v for v in (wanted, found))
    one, two = both
    for key in sorted(one.keys() | two.keys(), key=str):
      if one.get(key) != two.get(key):
        return first_difference(one.get(key), two.get(key), f'{place}/{key}')
  return f'{place} is {str(found)[:80]}, not {str(wanted)[:80]}'


def size(path: Path) -> int:
  """Bytes of a file; 0 for a folder."""
  return path.stat().st_size if path.is_file() else 0


def subjects(config: Any, *, killed: bool) -> dict[str, Subject]:
  """Each stage of a finished pipeline; if not killed, also the files of the pipeline itself."""
  found = {}
  for name in config.stages:
    stage = config[name]
    command, left = functools.partial(run, stage), functools.partial(results, stage)
    found[name] = Subject(Path(stage.workdir), command, left, killed=killed)
  if not killed:
    only = config.copy_and_resolve_references()
    only.only = 'report'
    command, left = functools.partial(run, only), functools.partial(report, only)
    found['report'] = Subject(Path(config.workdir), command, left, others=config.stages)
  return found


def fuzz(
  subjects: Mapping[str, Subject], flips: int, seed: int
) -> Iterator[tuple[str, Path, str, str]]:
  """(subject, file, outcome, what was said) of so many flips; every file comes before one again."""
  draw = random.Random(seed)
  left: list[tuple[str, Path]] = []
  for _ in range(flips):
    if not left:
      left = [(name, file) for name, subject in subjects.items() for file in subject.files()]
      draw.shuffle(left)
    name, file = left.pop()
    yield name, file, *subjects[name].attempt(file, draw)


def main() -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('--flips', type=int, default=2000)
  parser.add_argument('--killed', type=float, default=0.4, help='share of runs that were killed')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--folder', default='', help='of a pipeline that has run; made by default')
  words = parser.parse_args()
  config = stages.get_config(words.folder or tempfile.mkdtemp())
  run(config)
  table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
  began, wrong = time.monotonic(), 0
  for killed, share in ((False, 1 - words.killed), (True, words.killed)):
    which, flips = subjects(config, killed=killed), round(words.flips * share)
    for i, (name, file, outcome, said) in enumerate(fuzz(which, flips, words.seed), 1):
      table[f'{name}, killed' if killed else name][outcome] += 1
      if outcome in BAD:
        wrong += 1
        print(f'{outcome}: {name}{", killed" if killed else ""}: {file}: {said}', flush=True)
      if i % 50 == 0:
        jax.clear_caches()  # every run compiles anew, and memory would fill
        print(f'{i} of {flips}, {time.monotonic() - began:.0f} s', flush=True)
  outcomes = ('refused', 'said', 'harmless', *BAD)
  print('\n| stage |', ' | '.join(outcomes), '|\n|---|', '---:|' * len(outcomes), sep='')
  table['all'] = sum(table.values(), collections.Counter())
  for name, counts in table.items():
    print(f'| {name} |', ' | '.join(str(counts[outcome]) for outcome in outcomes), '|')
  print(f'\n{words.flips} flips in {time.monotonic() - began:.0f} s')
  sys.exit(wrong > 0)


if __name__ == '__main__':
  main()
