"""The one train step: exact averages over microbatches and devices, then one update."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from llm_jax.parallel.mesh import batch_sharding, constrain
from llm_jax.parallel.parameters import facts_of, path_of, state_shardings
from llm_jax.training.optimizer import skipped
from llm_jax.types import Array, Batch, LossFn, Mean, Metrics, Params

PROGRAM = 'train_step'  # what the compiled step is called, where programs have names


@flax.struct.dataclass
class TrainState:
  """All that changes while we train; randomness is a function of (seed, step)."""

  step: Array
  params: Params
  opt_state: Any


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  seed: int | Array,
  accumulate: int = 1,
  frozen: Sequence[str] = (),
  gradients: str = 'float32',
  balances: bool = False,
) -> tuple[TrainState, Metrics]:
  """One update from one batch.

  The loss gives sums and counts. Sums of gradients and counts are added over `accumulate`
  microbatches and divided once, so the update does not depend on `accumulate`, on the number of
  devices, or on where padding falls.

  Args:
    state: donated by `compile_step`.
    batch: arrays whose first axis is divisible by `accumulate`.
    loss_fn: bound to its model and hyperparameters.
    tx: the optimizer, with `guard` outside.
    seed: of the run; rng = fold_in(fold_in(key(seed), step), microbatch).
    accumulate: number of microbatches, one after the other.
    frozen: top-level names of parameters that have no gradient; `tx` is `freeze`d for them too.
    gradients: 'bfloat16' halves the memory of a microbatch's gradients and what devices exchange of
      them. It concerns the weights that multiply activations, and rounds them for the loss too.
      Gradients are still added up and applied in float32.
    balances: whether the model adds terms of its own to the gradient, summed over tokens
      (models/moe.py). They get the weight of a mean over tokens, whatever the loss counts.
  """
  rng = jax.random.fold_in(jax.random.key(seed), state.step)
  still = {name: state.params[name] for name in frozen}
  moving = {name: tree for name, tree in state.params.items() if name not in still}

  def sums(moving: Params, batch: Batch, rng: Array) -> tuple[Array, tuple[Mean, Metrics]]:
    with jax.named_scope('loss'):
      loss, metrics = loss_fn({**still, **moving}, batch, rng)
    return loss.total * scale, (loss, metrics)

  # Parameters are cast outside of the differentiated function, so that gradients have that type.
  def narrow(key_path: Any, x: Array) -> Array:
    return x if facts_of(path_of(key_path)).exact else x.astype(gradients)

  differentiated = moving
  if gradients != 'float32':
    differentiated = jax.tree_util.tree_map_with_path(narrow, moving)
  scale = jnp.ones(())
  if balances:
    # The count depends on the batch alone, so the compiler drops the model from this call.
    count = loss_fn(state.params, batch, rng)[0].count
    real = (batch.get('segment', jnp.ones_like(batch['tokens'])) > 0).sum()
    scale = jnp.maximum(real, 1) / jnp.where(count == 0, 1, count)

  def microbatch(carry: Any, part: tuple[Batch, Array]) -> tuple[Any, None]:
    part_batch, index = part
    part_batch = {k: constrain(v, 'batch') for k, v in part_batch.items()}
    grad_fn = jax.grad(sums, has_aux=True)
    grads, (loss, metrics) = grad_fn(differentiated, part_batch, jax.random.fold_in(rng, index))
    grads_sum, (loss_sum, metrics_sum) = carry
    added = {name: metrics_sum[name] + value for name, value in metrics.items()}
    grads_sum = jax.tree.map(lambda total, grad: total + grad.astype(total.dtype), grads_sum, grads)
    return (grads_sum, (loss_sum + loss, added)), None

  # Strided split: microbatch i takes rows i, i + n, ..., so that every device keeps its own rows.
  parts = {
    k: jnp.moveaxis(v.reshape(v.shape[0] // accumulate, accumulate, *v.shape[1:]), 1, 0)
    for k, v in batch.items()
  }
  first = jax.tree.map(lambda v: v[0], parts)
  zero = jax.tree.map(
    lambda s: jnp.zeros(s.shape, s.dtype),
    jax.eval_shape(jax.grad(sums, has_aux=True), moving, first, rng),
  )
  if accumulate == 1:
    (grads, (loss, metrics)), _ = microbatch(zero, (first, jnp.int32(0)))
  else:
    (grads, (loss, metrics)), _ = jax.lax.scan(microbatch, zero, (parts, jnp.arange(accumulate)))
  count = jnp.where(loss.count == 0, 1, loss.count)
  with jax.named_scope('optimizer'):
    grads = jax.tree.map(lambda g: g / (count * scale), grads)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    moved: Any = optax.apply_updates(moving, updates)
  total_skipped, in_a_row = skipped(opt_state)
  metrics = {
    'loss': loss,
    **metrics,
    **measured(batch),
    'grad_norm': Mean.of(optax.global_norm(grads)),
    'skipped': Mean.of(total_skipped),
    'skipped_in_a_row': Mean.of(in_a_row),
  }
  return TrainState(state.step + 1, {**still, **moved}, opt_state), metrics


def measured(batch: Batch) -> Metrics:
  """The fields `log/<name>` [B] of a batch, which annotators wrote, as means by name.

  Rows that only fill a batch, with `segment` 0 everywhere, do not count.

  >>> segment_BL, length_B = jnp.array([[1, 1], [1, 0], [0, 0]]), jnp.array([2.0, 1.0, 9.0])
  >>> float(measured({'segment': segment_BL, 'log/length': length_B})['length'].value)
  1.5
  """
  real_B: Any = 1.0
  if 'segment' in batch:
    real_B = (batch['segment'] > 0).any(range(1, batch['segment'].ndim))
  logs = {k.removeprefix('log/'): v for k, v in batch.items() if k.startswith('log/')}
  return {name: Mean.of(value_B, real_B) for name, value_B in logs.items()}


def make_state(
  init: Callable[..., Params], tx: optax.GradientTransformation, mesh: Mesh, *seed: Any
) -> TrainState:
  """A fresh state, made in place: each device builds only what it holds.

  Args:
    init: a function that makes the parameters, and that is compiled.
    tx: the optimizer.
    mesh: where `parallel.parameters` places them.
    seed: what `init` is called with, if anything; another one needs no other program.
  """
  create = lambda *seed: _fresh(init(*seed), tx)
  return jax.jit(create, out_shardings=_shardings(jax.eval_shape(create, *seed), mesh))(*seed)


def start_state(params: Params, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
  """A fresh state around given parameters, which it takes over."""
  create = functools.partial(_fresh, tx=tx)
  placed = _shardings(jax.eval_shape(create, params), mesh)
  return jax.jit(create, out_shardings=placed, donate_argnums=0)(params)


def abstract_state(
  init: Callable[[], Params], tx: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Shapes, dtypes and shardings of a state: what a checkpoint is read into."""
  shapes = jax.eval_shape(lambda: _fresh(init(), tx))
  as_struct = lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place)
  return jax.tree.map(as_struct, shapes, _shardings(shapes, mesh))


def _fresh(params: Params, tx: optax.GradientTransformation) -> TrainState:
  return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))


def _shardings(state: TrainState, mesh: Mesh) -> TrainState:
  return state_shardings(state, state.params, mesh)


class Step:
  """`train_step` under jit with fixed shardings; the state is donated.

  It compiles at its first call, and only then. The seed is an argument of the program, so one
  program serves runs that differ in it alone.
  """

  def __init__(self, program: Any, seed: int, mesh: Mesh) -> None:
    self.program = program
    self._seed: Any = np.uint32(seed)
    self._place: Any = NamedSharding(mesh, P())

  def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    if self._place is not None:  # once, and not for a mesh of devices that are not here
      self._seed, self._place = jax.device_put(self._seed, self._place), None
    return self.program(state, batch, self._seed)

  def lower(self, state: Any, batch: Any) -> Any:
    """The program for such arrays, which need not be there, before it is compiled."""
    return self.program.lower(state, batch, self._seed)


def compile_step(
  state: TrainState,
  mesh: Mesh,
  *,
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  seed: int,
  accumulate: int = 1,
  frozen: Sequence[str] = (),
  gradients: str = 'float32',
  balances: bool = False,
) -> Step:
  """The step of a run; in `shared` it is the program of the run before, if that had the same."""
  placed = _shardings(jax.eval_shape(lambda s: s, state), mesh)
  leaves, tree = jax.tree.flatten(placed)
  make = _shared[-1] if _shared else _program
  program = make(
    tuple(leaves),
    tree,
    mesh,
    loss_fn=loss_fn,
    tx=tx,
    accumulate=accumulate,
    frozen=tuple(frozen),
    gradients=gradients,
    balances=balances,
  )
  return Step(program, seed, mesh)


@contextlib.contextmanager
def shared() -> Iterator[None]:
  """While in this context, runs of the same `loss_fn`, `tx` and mesh have one compiled step."""
  _shared.append(functools.cache(_program))
  try:
    yield
  finally:
    _shared.pop()


_shared: list[Callable[..., Any]] = []


def _program(leaves: Sequence[NamedSharding], tree: Any, mesh: Mesh, **how: Any) -> Any:
  placed, whole = jax.tree.unflatten(tree, leaves), NamedSharding(mesh, P())

  def step(state: TrainState, batch: Batch, seed: Array) -> tuple[TrainState, Metrics]:
    return train_step(state, batch, seed=seed, **how)

  step.__name__ = PROGRAM
  return jax.jit(
    step,
    in_shardings=(placed, batch_sharding(mesh), whole),
    out_shardings=(placed, whole),
    donate_argnums=0,
  )
