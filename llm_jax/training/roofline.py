"""How long a step takes and what it holds, worked out on paper: for plans, not for promises.

A step takes as long as its products or its communication, whichever is longer, since they overlap,
and then the optimizer's pass over memory. Products run at `Chip.sustained` of the peak.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, AxisType

from llm_jax.parallel.chips import Chip
from llm_jax.parallel.mesh import AXES, BATCH_AXES
from llm_jax.parallel.parameters import facts_of, path_of, state_shardings
from llm_jax.training.step import TrainState

REMATS = ('none', 'dots', 'attention', 'full')  # what is tried, from fast to small
HEADROOM = 0.92  # of a chip's memory: the rest is for the runtime and for fragments


class Layout(NamedTuple):
  """What may be chosen freely: it changes no number.

  Attributes:
    mesh: sizes of all of `AXES`.
    remat: see `Compute.remat`.
    accumulate: microbatches.
  """

  mesh: Mapping[str, int]
  remat: str
  accumulate: int


class Estimate(NamedTuple):
  """Of one layout.

  Attributes:
    layout: which.
    memory: bytes a chip holds, by kind.
    capacity: bytes that it has for them.
    seconds: of the parts of a step.
    step: seconds of a step.
    mfu: model FLOPs over peak FLOPs.
  """

  layout: Layout
  memory: Mapping[str, float]
  capacity: float
  seconds: Mapping[str, float]
  step: float
  mfu: float

  @property
  def fits(self) -> bool:
    """Whether a chip can hold it."""
    return sum(self.memory.values()) <= self.capacity


def estimate(
  model: Any,
  tx: optax.GradientTransformation,
  chip: Chip,
  layout: Layout,
  *,
  batch: int,
  length: int,
  block: int = 2**28,
  slices: int = 1,
) -> Estimate:
  """Memory and time of a step.

  Args:
    model: a Transformer.
    tx: the optimizer, whose state is counted.
    chip: what it runs on; as many as the mesh has.
    layout: how.
    batch: rows of a step, over all devices.
    length: tokens of a row.
    block: logits that a chip holds at a time.
    slices: of TPUs, which the network joins.
  """
  sizes = layout.mesh
  devices = math.prod(sizes.values())
  rows = math.prod(sizes[axis] for axis in BATCH_AXES)
  tokens = batch * length / layout.accumulate / rows / sizes['sequence']  # of a chip, at a time
  held = _held(model, tx, tuple(sizes.items()))
  kept, working = _activations(model, layout.remat, sizes)
  shape = model.shape
  width = jnp.dtype(model.compute.dtype).itemsize
  table, outputs = shape.vocab_size * shape.dim, shape.outputs
  head = outputs * shape.dim / sizes['tensor']
  tables = table * (2 if shape.head == 'untied' else 1)
  held_here = _count(model, tx) - _in_experts(model, tx) * (1 - 1 / sizes['expert'])
  layer = (held_here - tables) / shape.num_layers
  logits = min(block, tokens * outputs / sizes['tensor'])
  memory = {
    'parameters': held['params'],
    'optimizer': held['opt_state'],
    'gradients': held['params'] * (1 if layout.accumulate == 1 else 2),
    'activations': tokens * (kept * shape.num_layers + working) * width,
    'logits': 2.0 * 4 * logits,
    # Whole matrices exist for a moment: two layers', one in use and one on its way, and the head,
    # whose gradient is added up in float32.
    'gathered': 0.0
    if sizes['fsdp'] == 1
    else 2 * width * layer / sizes['tensor'] + (width + 4) * head,
  }
  flops = batch * length * model.flops_per_token(length)
  peak = chip.peak(model.compute.product_dtype or model.compute.dtype)
  seconds = {
    'products': flops * _repeated(model, layout.remat, length) / devices / peak,
    'communication': _communication(model, held_here, chip, layout, tokens, width, slices),
    # Adam reads parameter, gradient and two moments, and writes three of them.
    'optimizer': (held['params'] * 3 + held['opt_state'] * 2) / chip.bandwidth,
  }
  seconds['products'] /= chip.sustained
  step = max(seconds['products'], seconds['communication']) + seconds['optimizer']
  return Estimate(
    layout, memory, HEADROOM * chip.memory, seconds, step, flops / devices / chip.flops / step
  )


def layouts(model: Any, devices: int, batch: int) -> Iterator[Layout]:
  """Every layout worth trying: parameters cut by `fsdp`, the rest copied by `data`."""
  heads = model.shape.num_heads
  experts = model.shape.experts['count'] if model.shape.experts else 1
  powers = [2**i for i in range(16)]
  for tensor, sequence, expert in itertools.product(powers[:4], powers, powers):
    inner = tensor * sequence * expert
    if devices % inner or heads % (tensor * sequence) or experts % expert:
      continue
    rest = devices // inner
    if batch % (rest * expert):
      continue
    sizes = dict(tensor=tensor, sequence=sequence, expert=expert)
    microbatches = [n for n in powers if batch // (rest * expert) % n == 0]
    for fsdp in (n for n in powers if rest % n == 0):
      mesh = {**dict.fromkeys(AXES, 1), **sizes, 'data': rest // fsdp, 'fsdp': fsdp}
      for remat, accumulate in itertools.product(REMATS, microbatches):
        yield Layout(mesh, remat, accumulate)


@functools.lru_cache
def _state(model: Any, tx: optax.GradientTransformation) -> TrainState:
  """Shapes of a whole train state."""

  def fresh() -> TrainState:
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

  return jax.eval_shape(fresh)


def _count(model: Any, tx: optax.GradientTransformation) -> int:
  """Numbers that the parameters hold; `num_params` traces the model each time."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(_state(model, tx).params))


@functools.lru_cache
def _held(
  model: Any, tx: optax.GradientTransformation, sizes: tuple[tuple[str, int], ...]
) -> dict[str, int]:
  """Bytes of parameters and optimizer state on one chip, by their shardings."""
  names, counts = zip(*sizes, strict=True)
  mesh: Any = AbstractMesh(counts, names, (AxisType.Auto,) * len(sizes))
  state = _state(model, tx)
  placed = state_shardings(state, state.params, mesh)
  size = lambda leaf, place: math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
  total = lambda a, b: sum(jax.tree.leaves(jax.tree.map(size, a, b)))
  return {
    'params': total(state.params, placed.params),
    'opt_state': total(state.opt_state, placed.opt_state),
  }


def _in_experts(model: Any, tx: optax.GradientTransformation) -> int:
  """Numbers that experts hold, of all layers."""
  leaves = jax.tree_util.tree_leaves_with_path(_state(model, tx).params)
  cut = lambda key_path: 'expert' in facts_of(path_of(key_path)).axes
  return sum(math.prod(leaf.shape) for key_path, leaf in leaves if cut(key_path))


def _activations(model: Any, remat: str, sizes: Mapping[str, int]) -> tuple[float, float]:
  """Numbers a token leaves for the backward pass in each layer, and while one layer is computed."""
  s, tensor = model.shape, sizes['tensor']
  heads, keys = s.num_heads * s.head_dim / tensor, 2 * s.num_kv_heads * s.head_dim / tensor
  # Room for all tokens of the neighbours, and for each as often as it has experts.
  places = s.experts['per_token'] * sizes['expert'] if s.experts else 1
  wide = places * s.hidden_dim / tensor
  hidden = wide * (2 if s.gated else 1)
  routed = 2 * places * s.dim if s.experts else 0
  products = heads + keys + s.dim + hidden + s.dim
  everything = products + 3 * s.dim + (heads + keys) + heads + wide + routed
  kept = {
    'none': everything,
    'dots': s.dim + products + heads,
    'all_dots': s.dim + products + heads,
    'attention': s.dim + heads,
    'offload': heads,
    'full': s.dim,
  }[remat]
  return kept, 2 * everything


def _repeated(model: Any, remat: str, length: int) -> float:
  """Executed FLOPs over model FLOPs: what rematerialisation computes again."""
  parts = model.flops_by_part(length)
  again = {
    'none': 0.0,
    'dots': 0.0,
    'all_dots': 0.0,
    'attention': parts['weights'],
    'offload': parts['weights'],
    'full': parts['weights'] + parts['scores'],
  }[remat]
  # The head's logits are computed twice in blocks.
  return 1 + (again + parts['head']) / 3 / sum(parts.values())


def _communication(
  model: Any,
  held_here: float,
  chip: Chip,
  layout: Layout,
  tokens: float,
  width: int,
  slices: int,
) -> float:
  """Seconds of a step in which a chip receives something, if nothing overlapped."""
  sizes, s = layout.mesh, model.shape
  devices = math.prod(sizes.values())
  island = chip.island or devices // slices
  inner = sizes['tensor'] * sizes['sequence'] * sizes['expert']
  share = lambda n: (n - 1) / n
  near = chip.link
  # A ring over several islands crosses each border once, over all the network ports of an island;
  # several that cross it side by side share them.
  crossing = lambda beside: min(near, chip.network * max(1.0, island / beside))
  over_fsdp = near if inner * sizes['fsdp'] <= island else crossing(1)
  over_data = near if devices <= island else crossing(inner * sizes['fsdp'])
  params = held_here / sizes['tensor']
  # Weights are gathered forward and backward, and gradients scattered, in each microbatch.
  weights = params * (2 * width + 4) * share(sizes['fsdp']) * layout.accumulate
  copies = 2 * 4 * params / sizes['fsdp'] * share(sizes['data'])
  passes = 2 if layout.remat in ('none', 'dots', 'all_dots') else 3
  # After attention and after the MLP, in each pass, all heads' parts are added up.
  partial = 2 * tokens * s.dim * width * share(sizes['tensor'])
  heads = (2 * s.num_heads + 2 * s.num_kv_heads) * s.head_dim / sizes['tensor']
  swapped = tokens * heads * width * share(sizes['sequence'])
  # The tokens of all neighbours come, and their answers' parts go back.
  routed = 2 * tokens * s.dim * width * (sizes['expert'] - 1)
  within = layout.accumulate * s.num_layers * passes * (2 * partial + swapped + routed)
  return weights / over_fsdp + copies / over_data + within / near
