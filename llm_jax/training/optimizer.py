"""The optimizer: optax's update rules with our schedules, decay mask, guard and average."""

import operator
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from llm_jax.options import Count, Positive, Share, at_least, checked, within
from llm_jax.parallel.parameters import facts_of, path_of
from llm_jax.types import Array

SPIKE_WARMUP = 20  # updates before the guard trusts its running gradient norm

Schedule = Callable[[Any], Any]
Momentum = Annotated[float, at_least(0, below=1)]  # of a running mean


@checked(where='optimizer')
def make(
  *,
  total_steps: Count,
  name: Literal['adamw', 'lion', 'adafactor', 'muon'] = 'adamw',
  learning_rate: Annotated[float, within(0, 10)] = 3e-4,
  schedule: Literal['cosine', 'linear', 'wsd', 'constant'] = 'cosine',
  warmup_steps: Annotated[int, at_least(0)] = 100,
  final_fraction: Share = 0.1,
  decay_fraction: Share = 0.2,
  clip: Positive | None = 1.0,
  weight_decay: Annotated[float, within(0, 10)] = 0.1,
  embedding_rate: Positive = 1.0,
  b1: Momentum = 0.9,
  b2: Momentum | None = None,
  spike: Positive | None = None,
  ema: Momentum | None = None,
  moment_dtype: Literal['float32', 'bfloat16'] = 'float32',
) -> tuple[optax.GradientTransformation, Schedule]:
  """The transformation and its learning-rate schedule (step -> rate).

  Args:
    total_steps: length of the schedule.
    name: 'adamw' (arXiv:1711.05101), 'lion' (arXiv:2302.06675), 'adafactor' (arXiv:1804.04235) or
      'muon' (matrices by Muon scaled to AdamW's size, arXiv:2502.16982, the rest by AdamW).
    learning_rate: the peak.
    schedule: 'cosine', 'linear', 'wsd' (warmup, constant, then a linear fall over the last
      `decay_fraction` of the steps, arXiv:2404.06395) or 'constant'.
    warmup_steps: linear rise from 0; at most half of `total_steps` is used.
    final_fraction: last learning rate / peak.
    decay_fraction: see 'wsd'.
    clip: largest global gradient norm; None does not clip.
    weight_decay: on weight matrices only, times the learning rate.
    embedding_rate: the learning rate of what is not decayed, which is embeddings, norms and biases,
      as a multiple of `learning_rate`.
    b1: decay of the first moment.
    b2: decay of the second moment; default 0.95, for lion 0.99. Not used by adafactor.
    spike: a gradient norm above this multiple of its running mean skips the update; None accepts
      any finite norm. Updates with a norm that is not finite are always skipped.
    moment_dtype: 'bfloat16' halves the memory of the first moment.
    ema: decay of an average of the parameters, which evaluation and the artifact then use.

  Raises:
    BadInput: an option is wrong.
  """
  rate = _schedule(
    schedule, learning_rate, warmup_steps, total_steps, final_fraction, decay_fraction
  )
  mask = _decay_mask
  if name == 'adamw':
    tx = optax.adamw(
      rate, b1=b1, b2=b2 or 0.95, weight_decay=weight_decay, mask=mask, mu_dtype=moment_dtype
    )
  elif name == 'lion':
    tx = optax.lion(
      rate, b1=b1, b2=b2 or 0.99, weight_decay=weight_decay, mask=mask, mu_dtype=moment_dtype
    )
  elif name == 'adafactor':
    tx = optax.chain(
      optax.adafactor(
        None, momentum=b1, multiply_by_parameter_scale=False, dtype_momentum=moment_dtype
      ),
      optax.add_decayed_weights(-weight_decay, mask=mask),  # adafactor's updates point downhill
      optax.scale_by_schedule(rate),
    )
  else:
    tx = optax.chain(
      contrib.muon(
        1.0,
        beta=0.95,
        adam_b1=b1,
        adam_b2=b2 or 0.95,
        muon_weight_dimension_numbers=_muon_axes,
        consistent_rms=0.2,
        mu_dtype=moment_dtype,
      ),
      optax.add_decayed_weights(-weight_decay, mask=mask),  # its updates point downhill too
      optax.scale_by_schedule(rate),
    )
  if embedding_rate != 1:
    tx = optax.chain(tx, optax.masked(optax.scale(embedding_rate), _vectors))
  if clip is not None:
    tx = optax.chain(optax.clip_by_global_norm(clip), tx)
  tx = guard(tx, spike)
  return (average(tx, ema) if ema is not None else tx), rate


def _schedule(
  name: str, peak: float, warmup: int, total: int, final: float, decay: float
) -> Schedule:
  """The learning rate as a function of the step.

  >>> rate = _schedule('wsd', peak=1.0, warmup=2, total=10, final=0.0, decay=0.4)
  >>> [round(float(rate(step)), 2) for step in range(10)]
  [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
  """
  warmup = min(warmup, total // 2)
  rest = max(total - warmup, 1)
  if name == 'cosine':
    after = optax.cosine_decay_schedule(peak, rest, alpha=final)
  elif name == 'linear':
    after = optax.linear_schedule(peak, peak * final, rest)
  elif name == 'wsd':
    fall = max(int(decay * total), 1)
    after = optax.linear_schedule(peak, peak * final, fall, transition_begin=max(rest - fall, 0))
  else:
    after = optax.constant_schedule(peak)
  # (step + 1) / warmup: the first update already moves.
  rise = lambda step: peak * (step + 1) / max(warmup, 1)
  return optax.join_schedules([rise, after], [warmup])


def _decay_mask(params: Any) -> Any:
  decayed = lambda key_path, _: facts_of(path_of(key_path)).inputs > 0
  return jax.tree_util.tree_map_with_path(decayed, params)


def _vectors(params: Any) -> Any:
  return jax.tree.map(operator.not_, _decay_mask(params))


def _muon_axes(params: Any) -> Any:
  """Muon for each layer's weight matrices: contracted axes in, the others out, layers apart."""

  def axes(key_path: tuple[Any, ...], leaf: Array) -> contrib.MuonDimensionNumbers | None:
    path, facts = path_of(key_path), facts_of(path_of(key_path))
    layers = path.startswith(('blocks/', 'dense_blocks/'))  # not of a part of a model, or additions
    if not (facts.inputs and layers):
      return None
    first, last = facts.stacked, facts.stacked + facts.inputs
    inputs, outputs = tuple(range(first, last)), tuple(range(last, leaf.ndim))
    return contrib.MuonDimensionNumbers(reduction_axis=inputs, output_axis=outputs)

  return jax.tree_util.tree_map_with_path(axes, params)


def freeze(tx: optax.GradientTransformation, frozen: Sequence[str]) -> optax.GradientTransformation:
  """`tx` for the parameters whose top-level name is not in `frozen`; those have no state.

  `init` and `update` take all parameters; gradients and updates are those of the others alone.
  """
  moving = lambda params: {name: tree for name, tree in params.items() if name not in frozen}

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    return tx.update(updates, state, moving(params))

  return optax.GradientTransformation(lambda params: tx.init(moving(params)), update)


class Guard(NamedTuple):
  """State of `guard`; all counts are int32 scalars."""

  inner: Any
  skipped: Array  # updates skipped so far
  skipped_in_a_row: Array
  accepted: Array
  norm_mean: Array  # running mean of accepted gradient norms, decay 0.95


def guard(tx: optax.GradientTransformation, spike: float | None) -> optax.GradientTransformation:
  """Skips an update whose gradient norm is not finite, or is a spike, and counts it.

  A skipped update leaves parameters and the inner state as they were. Where the loss says that
  nothing was counted, gradients are zero and the update counts as accepted.
  """

  def init(params: Any) -> Guard:
    zero = jnp.zeros((), jnp.int32)
    return Guard(tx.init(params), zero, zero, zero, jnp.zeros(()))

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    norm = optax.global_norm(updates)
    good = jnp.isfinite(norm)
    if spike is not None:
      known = state.accepted >= SPIKE_WARMUP
      good &= ~known | (norm <= spike * state.norm_mean)
    updates, inner = tx.update(updates, state.inner, params)
    keep = lambda new, old: jnp.where(good, new, old)
    updates = jax.tree.map(lambda u: jnp.where(good, u, 0), updates)
    weight = jnp.where(state.accepted == 0, 1.0, 0.05)
    return updates, Guard(
      inner=jax.tree.map(keep, inner, state.inner),
      skipped=state.skipped + ~good,
      skipped_in_a_row=jnp.where(good, 0, state.skipped_in_a_row + 1),
      accepted=state.accepted + good,
      norm_mean=keep((1 - weight) * state.norm_mean + weight * norm, state.norm_mean),
    )

  return optax.GradientTransformation(init, update)


class Average(NamedTuple):
  """State of `average`."""

  inner: Any
  ema: Any


def average(tx: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
  """Keeps `ema = decay * ema + (1 - decay) * params` after every update; starts at the params."""

  def init(params: Any) -> Average:
    return Average(tx.init(params), jax.tree.map(jnp.copy, params))

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    updates, inner = tx.update(updates, state.inner, params)
    new = optax.apply_updates(params, updates)
    ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, new)
    return updates, Average(inner, ema)

  return optax.GradientTransformation(init, update)


def averaged_params(state: Any) -> Any:
  """The parameters to evaluate and publish: their average where one is kept, else themselves."""
  if not isinstance(state.opt_state, Average):
    return state.params
  return {**state.params, **state.opt_state.ema}  # what is frozen has no average


def skipped(opt_state: Any) -> tuple[Array, Array]:
  """Updates skipped so far, and in a row."""
  inner = opt_state.inner if isinstance(opt_state, Average) else opt_state
  return inner.skipped, inner.skipped_in_a_row
