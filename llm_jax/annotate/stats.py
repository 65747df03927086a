"""What annotators over a rollout share: which answers count, statistics over them, what is logged.

A rollout is a batch [B, G, L], B prompts with G answers each. Arrays called `where` are bool, and
say which entries count; the others may hold anything, and change no number.
"""

from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.types import Array, BadInput, Batch

# Rewards up to here have squares that float32 can add up; beyond, a reward is not known.
LARGEST = 1e18


def answers(batch: Batch) -> Array:
  """The answers that count, bool [B, G]: there is a token in `mask`, and the score is known."""
  there_BG = (batch['mask'] > 0).any(-1)
  if 'reward' in batch:
    there_BG &= jnp.abs(batch['reward']) <= LARGEST
  return there_BG & (batch['valid'] > 0) if 'valid' in batch else there_BG


def tokens(batch: Batch, field: str = 'mask') -> Array:
  """The steps of `field` in the answers that count, bool [B, G, L]."""
  return (batch[field] > 0) & answers(batch)[..., None]


def last(where_L: Array) -> Array:
  """The last entry that counts of each row, bool [..., L].

  >>> last(jnp.array([[True, True, False], [False, False, False]])).tolist()
  [[False, True, False], [False, False, False]]
  """
  to_come_L = jnp.cumsum(where_L[..., ::-1], axis=-1)[..., ::-1]
  return where_L & (to_come_L == 1)


def mean(x: Array, where: Array, *, axis: int | None = None) -> Array:
  """Mean of what counts, float32; 0 where nothing does. A given axis stays, of size 1.

  >>> float(mean(jnp.array([1.0, 3.0, 99.0]), jnp.array([True, True, False])))
  2.0
  """
  where = jnp.broadcast_to(where, x.shape)
  over: Any = dict(axis=axis, keepdims=axis is not None)
  total = jnp.where(where, x.astype(jnp.float32), 0).sum(**over)
  return total / jnp.maximum(where.sum(**over), 1)


def variance(x: Array, where: Array, *, ddof: int, axis: int | None = None) -> Array:
  """Squared deviations of what counts, over its number less `ddof`; 0 for a single entry."""
  where = jnp.broadcast_to(where, x.shape)
  over: Any = dict(axis=axis, keepdims=axis is not None)
  deviation = jnp.where(where, x - mean(x, where, axis=axis), 0)
  return (deviation**2).sum(**over) / jnp.maximum(where.sum(**over) - ddof, 1)


def std(x: Array, where: Array, *, ddof: int, axis: int | None = None) -> Array:
  """The root of `variance`."""
  return jnp.sqrt(variance(x, where, ddof=ddof, axis=axis))


def whiten(
  x: Array,
  where: Array,
  *,
  ddof: int,
  eps: float,
  axis: int | None = None,
  shift_mean: bool = True,
) -> Array:
  """`x` with mean 0 and variance 1 where it counts, and 0 elsewhere.

  >>> whiten(jnp.array([1.0, 3.0, 99.0]), jnp.array([True, True, False]), ddof=0, eps=0).tolist()
  [-1.0, 1.0, 0.0]

  Args:
    x: any shape.
    where: what counts.
    ddof: 1 divides by n - 1 (TRL, verl), 0 by n (OpenRLHF).
    eps: added to the variance.
    axis: statistics along it; None: over everything.
    shift_mean: False keeps the mean as it was, and scales only (arXiv:1909.08593's code, TRL).
  """
  middle = mean(x, where, axis=axis)
  white = (x - middle) * jax.lax.rsqrt(variance(x, where, ddof=ddof, axis=axis) + eps)
  return jnp.where(where, white if shift_mean else white + middle, 0)


def advantage_stats(advantage_BGL: Array, where_BGL: Array) -> dict[str, Array]:
  """`advantage_mean`, `advantage_std` and `advantage_max` (of |A|) over tokens, scalars."""
  return {
    'advantage_mean': mean(advantage_BGL, where_BGL),
    'advantage_std': std(advantage_BGL, where_BGL, ddof=0),
    'advantage_max': jnp.where(where_BGL, jnp.abs(advantage_BGL), 0).max(),
  }


def logged(batch: Batch, **values: Any) -> dict[str, Array]:
  """Scalars over the rollout as fields `log/<name>` [B]: however it is cut, their mean is they."""
  rows = batch['tokens'].shape[:1]
  return {f'log/{k}': jnp.broadcast_to(v, rows).astype(jnp.float32) for k, v in values.items()}


def judged(batch: Batch, reward_BG: Array, valid_BG: Array) -> dict[str, Array]:
  """`reward` and `valid` [B, G] of one more judge: rewards add up, and all judges must be sure."""
  valid_BG = valid_BG & (batch['valid'] > 0) if 'valid' in batch else valid_BG
  reward_BG = reward_BG + batch['reward'] if 'reward' in batch else reward_BG
  valid_BG &= jnp.abs(reward_BG) <= LARGEST
  return {
    'reward': jnp.where(valid_BG, reward_BG, 0).astype(jnp.float32),
    'valid': valid_BG.astype(jnp.float32),
  }


def need(batch: Batch, where: str, *fields: str) -> None:
  """Raises BadInput unless the batch has `fields`, which a chain that was checked has."""
  for field in fields:
    if field not in batch:
      raise BadInput(f'annotate.{where}: the batch has no {field}')


def unused(where: str, why: str, **options: Any) -> None:
  """Raises BadInput for an option that was given, and that nothing reads; `why` says so."""
  for name, value in options.items():
    if value is not None:
      raise BadInput(f'annotate.{where}: {name} is not used {why}; remove it')
