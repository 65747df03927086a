"""How parameters, and the gradients that the optimizer remembers, are distributed, by layer."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.parallel.mesh import constrain
from llm_jax.parallel.parameters import facts_of, path_of
from llm_jax.training.step import TrainState
from llm_jax.types import Array

BINS = 30
MOMENT = re.compile(r'(?:.*/)?mu/(.+)')  # of AdamW, Lion and Muon: the running mean of gradients


def of_state(state: TrainState) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Name -> counts [n] and edges [n + 1], of 'params/<path>' and 'gradients/<path>'.

  Layers that are stacked in one parameter are told apart, as in 'params/blocks/mlp/up/03'. What
  holds a value that is not finite is left out.
  """
  arrays = {f'params/{path}': (path, leaf) for path, leaf in _leaves(state.params)}
  known = {path for path, _ in arrays.values()}
  for path, leaf in _leaves(state.opt_state):
    if (found := MOMENT.fullmatch(path)) and found[1] in known:
      arrays[f'gradients/{found[1]}'] = (found[1], leaf)
  made = {}
  for name, (path, leaf) in arrays.items():
    layers = leaf.shape[0] if facts_of(path).stacked and leaf.ndim else 1
    made[name] = leaf.reshape(layers, -1)
  found = {}
  for name, (counts, edges) in jax.device_get(_counted(made)).items():
    for i, one in enumerate(zip(counts, edges, strict=True)):
      if np.isfinite(one[1]).all():
        found[name if len(counts) == 1 else f'{name}/{i:02}'] = one
  return found


@jax.jit
def _counted(arrays: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
  return {name: _histogram(x.astype(jnp.float32)) for name, x in arrays.items()}


def _histogram(x_NX: Array) -> tuple[Array, Array]:
  """Counts [N, n] of values in bins of equal width, and the edges [N, n + 1]."""
  low_N, high_N = x_NX.min(1), x_NX.max(1)
  share = jnp.linspace(0, 1, BINS + 1)
  edges_NE = low_N[:, None] * (1 - share) + high_N[:, None] * share
  # One pass an edge, so that nothing larger than the parameter is made.
  below = jax.lax.map(lambda edge_N: (x_NX < edge_N[:, None]).sum(1), edges_NE.T[1:-1])
  ends = jnp.zeros_like(low_N, jnp.int32), jnp.full_like(low_N, x_NX.shape[1], jnp.int32)
  below_EN = jnp.concatenate([ends[0][None], below.astype(jnp.int32), ends[1][None]])
  return constrain(jnp.diff(below_EN, axis=0).T), constrain(edges_NE)  # whole on every host


def _leaves(tree: Any) -> list[tuple[str, Array]]:
  found = jax.tree_util.tree_flatten_with_path(tree)[0]
  return [(path_of(key_path), leaf) for key_path, leaf in found if isinstance(leaf, jax.Array)]
