"""Two copies of one model's parameters, compared by what they compute, a layer at a time."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.models.stored import Layers, Parts
from llm_jax.models.transformer import Transformer
from llm_jax.parallel.parameters import abstract_params

# A model that comes to its layers one after another, and holds none of them in float32.
COMPUTE = {'scan_layers': False, 'dtype': 'bfloat16'}
ROW, COLUMNS = 32, 4096  # tokens whose logits are compared, and how many logits at a time


def compare(model: Transformer, ours: Parts, others: Parts, where: str) -> None:
  """Runs both over one row and compares their logits, which have to be the same bits.

  Args:
    model: made with COMPUTE.
    ours: parameters.
    others: the other copy of them.
    where: what the message begins with.

  Raises:
    AssertionError: they differ.
  """
  pairs = zip(_logits(model, ours), _logits(model, others), strict=True)
  if not all(np.array_equal(a, b, equal_nan=True) for a, b in pairs):
    raise AssertionError(f'{where}: its logits are others than those of what it was made from')


def _logits(model: Transformer, parts: Parts) -> Iterator[np.ndarray]:
  """Logits of a fixed row, some rows of the vocabulary at a time.

  Never more is in memory than a layer, or the head: of the embedding the row's tokens are enough.
  """
  shape = model.shape
  length = min(ROW, shape.max_length)
  ids = np.random.default_rng(0).integers(0, shape.vocab_size, length)
  thin = lambda rows: Transformer(dataclasses.replace(shape, vocab_size=rows), model.compute)
  norms = [path for path in abstract_params(model)['final_norm']]
  params: dict[str, Any] = {
    'final_norm': {name: parts.read(f'final_norm/{name}') for name in norms}
  }
  learned = {'position': parts.read('embedding/position')} if shape.position == 'learned' else {}
  params['embedding'] = {'table': parts.read('embedding/table')[ids], **learned}

  def layer(i: int) -> Any:
    jax.block_until_ready(jax.live_arrays())  # the host would fetch them all before the first ran
    return parts.layers[i]

  params['blocks'] = Layers(len(parts.layers), layer)
  row = jnp.arange(length, dtype=jnp.int32)[None]
  hidden_BLD, _ = thin(length).apply(params, row, method='hidden')
  if shape.head == 'scalar':
    head = {name: parts.read(f'head/{name}') for name in ('scalar', 'bias')}
    yield np.asarray(model.apply({'head': head}, hidden_BLD, method='unembed'))
    return
  tied = shape.head == 'tied'
  kernel = parts.read('embedding/table').T if tied else parts.read('head/kernel')
  for start in range(0, shape.vocab_size, COLUMNS):
    some = kernel[:, start : start + COLUMNS]
    head = {'embedding': {'table': some.T, **learned}} if tied else {'head': {'kernel': some}}
    yield np.asarray(thin(some.shape[1]).apply(head, hidden_BLD, method='unembed'))
