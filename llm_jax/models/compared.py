"""Two copies of one model's parameters, compared by their bits and by what they compute.

Neither is ever in memory: each is read a layer at a time, and run as far as that layer.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from llm_jax.models.stored import Layers, Parts
from llm_jax.models.transformer import Transformer
from llm_jax.parallel.parameters import abstract_params
from llm_jax.types import JUDGES, Array

# A model that comes to its layers one after another, and holds none of them in float32.
COMPUTE = {'scan_layers': False, 'dtype': 'bfloat16'}
ROW, COLUMNS = 32, 4096  # tokens whose logits are compared, and how many logits at a time


def compare(
  model: Transformer, source: Parts, written: Parts, dtypes: Mapping[str, np.dtype], where: str
) -> None:
  """Compares every array, and the logits of one row; both have to be the same bits.

  Args:
    model: made with COMPUTE.
    source: parameters.
    written: what was made of them.
    dtypes: path -> the type in which a parameter was written.
    where: what the message begins with.

  Raises:
    AssertionError: they differ; it names the first parameter that does.
  """
  passes = [_Pass(model, parts, dtypes) for parts in (source, written)]
  wanted, got = (one.logits() for one in passes)
  wanted_sums, sums = (one.sums for one in passes)
  if wrong := next((path for path in wanted_sums if wanted_sums[path] != sums[path]), None):
    raise AssertionError(f'{where}: {wrong} is not what was written')
  if not np.array_equal(wanted, got, equal_nan=True):
    raise AssertionError(f'{where}: its logits are others than those of what it was made from')


class _Pass:
  """A pass over all parameters of a model.

  Attributes:
    sums: path, with the number of the layer -> CRC-32 of each array that has been read.
  """

  def __init__(self, model: Transformer, parts: Parts, dtypes: Mapping[str, np.dtype]) -> None:
    self._model, self._parts, self._dtypes = model, parts, dtypes
    self._layer: list[Array] = []  # what is in memory of the layers
    self.sums: dict[str, int] = {}

  def logits(self) -> np.ndarray:
    """Logits of a fixed row [L, V].

    Never more is in memory than a layer, or the head: of the embedding the row's tokens are enough.
    """
    shape, compute = self._model.shape, self._model.compute
    length = min(ROW, shape.max_length)
    ids = np.random.default_rng(0).integers(0, shape.vocab_size, length)
    thin = lambda rows: Transformer(dataclasses.replace(shape, vocab_size=rows), compute)
    norms = [path for path in abstract_params(self._model)['final_norm']]
    params: dict[str, Any] = {
      'final_norm': {name: self._read(f'final_norm/{name}') for name in norms}
    }
    learned = {'position': self._read('embedding/position')} if shape.position == 'learned' else {}
    params['embedding'] = {'table': self._read('embedding/table')[ids], **learned}
    for stack, layers in self._parts.layers.items():
      params[stack] = Layers(len(layers), lambda i, stack=stack: self._fetch(stack, i))
    row = jnp.arange(length, dtype=jnp.int32)[None]
    hidden_BLD, _ = thin(length).apply(params, row, method='hidden')
    self._free()
    if shape.head in JUDGES:
      head = {name: self._read(f'head/{name}') for name in abstract_params(self._model)['head']}
      return np.asarray(self._model.apply({'head': head}, hidden_BLD, method='unembed'))[0]
    tied = shape.head == 'tied'
    kernel = self._read('embedding/table').T if tied else self._read('head/kernel')
    found = []
    for start in range(0, shape.vocab_size, COLUMNS):
      some = kernel[:, start : start + COLUMNS]
      head = {'embedding': {'table': some.T, **learned}} if tied else {'head': {'kernel': some}}
      found.append(np.asarray(thin(some.shape[1]).apply(head, hidden_BLD, method='unembed')[0]))
    return np.concatenate(found, axis=-1)

  def _read(self, path: str) -> np.ndarray:
    return self._summed(path, self._parts.read(path))

  def _fetch(self, stack: str, i: int) -> Any:
    """The parameters of a layer, as the tree that a block takes."""
    self._free()
    arrays = self._parts.layers[stack][i]
    tree = {}
    for path in list(arrays):
      array = self._summed(path, arrays.pop(path), i)
      tree[path.removeprefix(f'{stack}/')] = jnp.array(array)
    self._layer = list(tree.values())
    return unflatten_dict(tree, sep='/')

  def _free(self) -> None:
    """Ends with the layer before: all that is to run on it has been started."""
    jax.block_until_ready(jax.live_arrays())
    for array in self._layer:
      array.delete()
    self._layer = []

  def _summed(self, path: str, array: np.ndarray, layer: int | None = None) -> np.ndarray:
    array = np.ascontiguousarray(array.astype(self._dtypes[path], copy=False))
    name = path if layer is None else f'{path} of layer {layer}'
    self.sums[name] = zlib.crc32(array.reshape(-1).view(np.uint8).data)
    return array
