"""Checkpoints to trust: Orbax writes them, a manifest of sha256 sums vouches for them."""

import math
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from llm_jax.files import MANIFEST, difference, read_json, write_json
from llm_jax.parallel.hosts import level
from llm_jax.parallel.saved import Saving
from llm_jax.text.terminal import say
from llm_jax.types import BadInput

STATE = 'state'


class Checkpoints:
  """The folder `checkpoints/` of a run: one folder a step, valid once its manifest is there.

  Saving is asynchronous. A folder without a manifest was never finished, because the process was
  killed; one whose files differ from its manifest is damaged. Both are named on stderr and skipped.

  Args:
    folder: made if missing.
    max_to_keep: newest checkpoints kept; the best one by validation is kept besides.
  """

  def __init__(self, folder: str | Path, *, max_to_keep: int = 2) -> None:
    self.folder = Path(folder).absolute()
    self.max_to_keep = max_to_keep
    self._orbax = ocp.StandardCheckpointer()
    self._saving = Saving(self.folder)
    self._finishing: threading.Thread | None = None
    self._error: BaseException | None = None

  def save(self, step: int, state: Any, *, score: float | None = None, carry: Any = None) -> None:
    """Starts writing `state`; returns once it no longer needs the device arrays.

    Args:
      step: steps done.
      state: a tree of arrays.
      score: validation loss at this step, if known; the lowest one is kept as the best.
      carry: what else a resumed run has to know, as JSON.
    """
    self.wait()
    target = self.folder / f'{step:08d}'
    if jax.process_index() == 0 or self._saving.apart:
      (target / MANIFEST).unlink(missing_ok=True)
    self._saving.save(target, STATE, state)
    self._finishing = threading.Thread(target=self._finish, args=(step, target, score, carry))
    self._finishing.start()

  def _finish(self, step: int, target: Path, score: float | None, carry: Any) -> None:
    try:
      sums = self._saving.finish(target, STATE)
      if jax.process_index() == 0 or self._saving.apart:
        files = {f'{STATE}/{name}': value for name, value in sums.items()}
        about = {'step': step, 'score': score, 'carry': carry, 'files': files}
        write_json(target / MANIFEST, about)
        self._tidy(step)
    except BaseException as error:  # raised again by wait(), in the thread of the training loop
      self._error = error

  def _tidy(self, step: int) -> None:
    try:
      best = self.best()
    except BadInput:
      return  # the one that cannot be read may be the best, so all of them stay
    # Newer folders are from before a resume that had to skip them.
    newest = [s for s in self.steps() if s <= step][-self.max_to_keep :]
    for old in self.folder.iterdir():
      if old.name.isdigit() and int(old.name) not in (*newest, best):
        (old / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(old)

  def wait(self) -> None:
    """Returns when the last save is whole on disk; raises what went wrong in it."""
    if self._finishing is not None:
      self._finishing.join()
      self._finishing = None
    if self._error is not None:
      error, self._error = self._error, None
      raise error

  def gather(self) -> None:
    """Brings here what other hosts have written, where each has a copy of the folder to itself."""
    self.wait()
    if self._saving.apart:
      level(self.folder)

  def steps(self) -> list[int]:
    """Steps of the finished checkpoints, ascending; their files are not compared with the sums."""
    return sorted(int(p.parent.name) for p in self.folder.glob(f'[0-9]*/{MANIFEST}'))

  def best(self) -> int | None:
    """The step of the checkpoint with the lowest validation loss, if any; the first of equal ones.

    Raises:
      BadInput: a manifest is damaged.
    """
    scores = {step: self._about(step).get('score') for step in self.steps()}
    known = [(score, step) for step, score in scores.items() if score is not None]
    return min((both for both in known if math.isfinite(both[0])), default=(0, None))[1]

  def _about(self, step: int) -> dict[str, Any]:
    """The manifest of a checkpoint."""
    folder = self.folder / f'{step:08d}'
    about = read_json(folder / MANIFEST, f'delete {folder}')
    if not isinstance(about.get('files'), dict):
      raise BadInput(f'{folder / MANIFEST} is damaged: it lists no files; delete {folder}')
    return about

  def newest(self) -> int | None:
    """The newest whole checkpoint; every newer folder that is not whole is named on stderr."""
    self.gather()
    if not self.folder.is_dir():
      return None
    for folder in sorted((p for p in self.folder.iterdir() if p.name.isdigit()), reverse=True):
      damage = self.damage(int(folder.name))
      if damage is None:
        return int(folder.name)
      say(f'checkpoint {folder} is passed over: {damage}', file=sys.stderr)
    return None

  def damage(self, step: int) -> str | None:
    """What is wrong with a checkpoint, in words; None if it is whole."""
    folder = self.folder / f'{step:08d}'
    try:
      listed = self._about(step)['files']
    except FileNotFoundError:
      return 'half-written, it has no manifest'
    except BadInput:
      return 'its manifest cannot be read'
    return difference(folder, listed)

  def restore(self, step: int, abstract: Any) -> Any:
    """The state saved at `step`.

    Args:
      step: from `newest` or `best`.
      abstract: ShapeDtypeStructs with shardings, of this run's mesh; it may be another than the
        one that saved.
    """
    return self._orbax.restore(self.folder / f'{step:08d}' / STATE, abstract)

  def carried(self, step: int) -> Any:
    """The `carry` saved at `step`; None if there was none."""
    return self._about(step).get('carry')
