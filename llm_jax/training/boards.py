"""Where a run is shown beside metrics.jsonl: TensorBoard, and Weights & Biases if it is asked for.

Both come with the extra `log`. What they are given was written to metrics.jsonl before.
"""

import contextlib
import importlib.util
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from llm_jax import options
from llm_jax.files import read_json, write_json
from llm_jax.types import BadInput

TENSORBOARD, WANDB = 'tensorboard', 'wandb'  # their folders in that of a run
Histograms = Mapping[str, tuple[np.ndarray, np.ndarray]]  # name -> counts [n], edges [n + 1]


class Board(Protocol):
  """What shows a run; every method is called with the steps that are done."""

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Shows numbers by name."""

  def texts(self, step: int, name: str, lines: Sequence[str]) -> None:
    """Shows texts, such as samples."""

  def histograms(self, step: int, found: Histograms) -> None:
    """Shows how values are distributed."""

  def close(self) -> None:
    """Writes what is left."""


class Tensorboard:
  """Files of events in a folder, by tensorboardX.

  Args:
    folder: of the run.
    start_step: what an earlier process wrote of later steps is not shown any more.
  """

  def __init__(self, folder: Path, start_step: int = 0) -> None:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2

    (folder / TENSORBOARD).mkdir(parents=True, exist_ok=True)
    self._made: Any = event_pb2  # whose names are made when it is imported
    # Not its SummaryWriter, whose thread dies on a full disk, after which `put` never returns.
    self._file = EventsWriter(str(folder / TENSORBOARD / 'events'))
    if start_step:
      started = self._made.SessionLog(status=self._made.SessionLog.START)
      self._write(start_step + 1, session_log=started)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """See `Board`."""
    from tensorboardX.summary import scalar

    for name, value in values.items():
      self._write(step, summary=scalar(name, value))
    self._file.flush()

  def texts(self, step: int, name: str, lines: Sequence[str]) -> None:
    """See `Board`; what is shown is Markdown, so that each line is a block of code."""
    from tensorboardX.summary import text

    shown = '\n\n'.join(f'    {line}' for line in '\n'.join(lines).split('\n'))
    self._write(step, summary=text(name, shown))
    self._file.flush()

  def markdown(self, name: str, shown: str) -> None:
    """Shows a page."""
    from tensorboardX.summary import text

    self._write(0, summary=text(name, shown))
    self._file.flush()

  def histograms(self, step: int, found: Histograms) -> None:
    """See `Board`."""
    from tensorboardX.summary import histogram_raw

    for name, (counts, edges) in found.items():
      middle = (edges[1:] + edges[:-1]) / 2
      sums = (counts * middle).sum(), (counts * middle**2).sum()
      made = histogram_raw(
        name, edges[0], edges[-1], counts.sum(), *sums, edges[1:].tolist(), counts.tolist()
      )
      self._write(step, summary=made)
    self._file.flush()

  def close(self) -> None:
    """See `Board`."""
    self._file.close()

  def _write(self, step: int, **what: Any) -> None:
    self._file.write_event(self._made.Event(wall_time=time.time(), step=step, **what))


class Wandb:
  """A run of Weights & Biases, which goes on where the folder's last process has stopped.

  Args:
    run: of the package wandb.
    offline: whether it stays in its folder.
  """

  def __init__(self, run: Any, offline: bool) -> None:
    self._run, self._offline = run, offline
    # Its own counter refuses the steps that are made again after a kill.
    run.define_metric('*', step_metric='step')

  @property
  def told(self) -> str:
    """Where it can be looked at."""
    if self._offline:
      return f'{Path(self._run.dir).parent}; `wandb sync` of this folder brings it to wandb.ai'
    return str(self._run.url)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """See `Board`."""
    self._run.log({**values, 'step': step})

  def texts(self, step: int, name: str, lines: Sequence[str]) -> None:
    """See `Board`."""
    import wandb  # pyright: ignore[reportMissingImports]

    table = wandb.Table(columns=['step', 'text'], data=[[step, line] for line in lines])
    self._run.log({name: table, 'step': step})

  def histograms(self, step: int, found: Histograms) -> None:
    """See `Board`."""
    import wandb  # pyright: ignore[reportMissingImports]

    shown = {name: wandb.Histogram(np_histogram=(c, e)) for name, (c, e) in found.items()}
    self._run.log({**shown, 'step': step})

  def close(self) -> None:
    """See `Board`."""
    self._run.finish()


def check(wandb: Mapping[str, Any] | None, histograms: bool) -> None:
  """Raises BadInput where what is asked for has a wrong option, or its package is not there."""
  cure = "pip install 'llm_jax[log]', or leave it out"
  if wandb is not None:
    options.check(wandb_run, dict(wandb), where='wandb', supplied=('folder', 'config'))
    if not _has('wandb'):
      raise BadInput(f'wandb: the package is missing; {cure}')
  if histograms and wandb is None and not _has('tensorboardX'):
    raise BadInput(f'histograms: nothing is installed that shows them; {cure}')


def wandb_run(
  *,
  folder: Path,
  config: Any,
  project: str = 'llm_jax',
  entity: str | None = None,
  title: str = '',
  group: str = '',
  mode: Literal['online', 'offline'] = 'online',
) -> Wandb:
  """The run of a folder.

  Args:
    folder: of the run; files of wandb go to `wandb` in it.
    config: shown with the run.
    project: it belongs to.
    entity: the user or team that the project belongs to; None for your own.
    title: of the run; '' is its folder.
    group: of runs that belong together; job compare fills it in.
    mode: 'offline' keeps it in the folder, and `wandb sync` brings it to wandb.ai later.

  Raises:
    BadInput: wandb.ai cannot be reached, or does not know you.
  """
  import wandb  # pyright: ignore[reportMissingImports]

  (folder / WANDB).mkdir(parents=True, exist_ok=True)
  known = folder / WANDB / 'id.json'
  again = 'delete it, and the run is begun anew there'
  identity = read_json(known, again)['id'] if known.is_file() else uuid.uuid4().hex[:12]
  settings = wandb.Settings(silent=True, console='off', init_timeout=60)
  try:
    run = wandb.init(
      project=project,
      entity=entity,
      name=title or str(folder),
      group=group or None,
      mode=mode,
      id=identity,
      resume='allow',
      dir=str(folder),
      config=dict(config),
      settings=settings,
    )
  except Exception as error:  # its own, of several kinds
    with contextlib.suppress(Exception):
      wandb.teardown()
    said = ' '.join(str(error).split()).rstrip('.')
    raise BadInput(
      f'wandb: {said}; run `wandb login`, or set --config.wandb.mode=offline'
    ) from error
  write_json(known, {'id': identity})
  return Wandb(run, offline=mode == 'offline')


def replay(folder: Path, records: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
  """Shows the records of several metrics.jsonl in one folder of TensorBoard, if it is not there.

  Args:
    folder: to be shown.
    records: what goes before the names of numbers -> lines, with their `step`.
  """
  if (folder / TENSORBOARD).is_dir():
    return
  for board in tensorboard(folder):
    for before, lines in records.items():
      for line in lines:
        known = {k: v for k, v in line.items() if k != 'step' and isinstance(v, int | float)}
        board.scalars(line['step'], {f'{before}{name}': value for name, value in known.items()})
    board.close()


def show_page(folder: Path, name: str, shown: str) -> None:
  """Shows Markdown in a folder of TensorBoard, in the place of what an earlier one showed."""
  if _has('tensorboardX'):
    shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
  for board in tensorboard(folder):
    board.markdown(name, shown)
    board.close()


def tensorboard(folder: Path, start_step: int = 0) -> list[Tensorboard]:
  """The files of a folder, where tensorboardX is installed."""
  return [Tensorboard(folder, start_step)] if _has('tensorboardX') else []


def _has(package: str) -> bool:
  return importlib.util.find_spec(package) is not None
