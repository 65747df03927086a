"""The hook that shows what the policy said: `rollouts.jsonl`, and a few lines in the log."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from llm_jax.files import json_line
from llm_jax.parallel.mesh import local_rows
from llm_jax.training import history
from llm_jax.training.step import TrainState
from llm_jax.types import Batch, Metrics

FIELDS = ('tokens', 'mask', 'segment', 'reward', 'valid', 'advantage', 'gold')


class Rollouts:
  """A hook of `fit`: every `every` steps, `count` prompts of the last rollout with all answers.

  A line of `rollouts.jsonl` is one answer: `step`, `prompt`, `answer`, and as far as they are known
  `gold`, `reward`, `advantage` (mean over tokens), `length`. Nothing is written for batches without
  prompts. Only the first host writes, of its own rows.

  Args:
    folder: of the run; lines after `start_step` are dropped.
    last: the last rollout, or None.
    decode: ids -> text, with control tokens shown.
    start_step: steps done when this process starts.
    every: steps.
    count: prompts a time.
  """

  def __init__(
    self,
    folder: Path,
    *,
    last: Callable[[], Batch | None],
    decode: Callable[[list[int]], str],
    start_step: int,
    every: int,
    count: int = 2,
  ) -> None:
    self._last, self._decode, self._every, self._count = last, decode, every, count
    self._path = folder / 'rollouts.jsonl'
    if jax.process_index() == 0:
      history.rewind(self._path, start_step)

  def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
    del state, metrics
    if step % self._every == 0:
      found = self.records(step)
      if found and jax.process_index() == 0:
        with self._path.open('ab') as file:
          file.writelines(map(json_line, found))

  def records(self, step: int) -> list[dict[str, Any]]:
    """The answers to the first prompts of the last rollout."""
    batch = self._last()
    if batch is None or 'prompt' not in batch:
      return []
    rows = {k: local_rows(batch[k])[: self._count] for k in FIELDS if k in batch}
    found = []
    for b, g in np.ndindex(rows['mask'].shape[:2]):
      own = {k: v[b] if k == 'gold' else v[b, g] for k, v in rows.items()}
      said = np.flatnonzero(own['mask'] > 0)
      if not len(said):
        continue
      real = np.flatnonzero(own['segment'] > 0)
      text = lambda index, own=own: self._decode(own['tokens'][index].tolist())
      record = {
        'step': step,
        'prompt': text(real[real < said[0]]),
        'answer': text(real[real >= said[0]]),
        'length': len(said),
      }
      if 'gold' in own and own['gold'].any():
        record['gold'] = bytes(own['gold'].tolist()).rstrip(b'\0').decode('utf-8', 'replace')
      if 'reward' in own:
        record['reward'] = round(float(own['reward']), 4) if own.get('valid', 1) else None
      if 'advantage' in own:
        record['advantage'] = round(float(own['advantage'][said].mean()), 4)
      found.append(record)
    return found

  def lines(self, step: int) -> list[str]:
    """A small table for the log."""
    found = self.records(step)
    if not found:
      return []
    lines = [f'{"reward":>7}  answer']
    for record in found[: 2 * self._count]:
      reward = record.get('reward')
      shown = 'failed' if reward is None else f'{reward:.2f}'
      lines.append(f'{shown:>7}  {" ".join(record["answer"].split())[:120]}')
    return [f'asked: {" ".join(found[0]["prompt"].split())[-100:]}', *lines]


def read(folder: str | Path) -> list[dict[str, Any]]:
  """The records of a run's rollouts.jsonl; see `history.read`."""
  return history.read(Path(folder) / 'rollouts.jsonl')
