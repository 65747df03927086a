"""Per-token log-probabilities from hidden states, block by block, so no [B, L, V] array exists."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.parallel.apart import apart, on_one_device
from llm_jax.parallel.mesh import platform
from llm_jax.parallel.parameters import path_of
from llm_jax.types import JUDGES, Array, BadInput, Batch, Model, Params

# Logits that a device holds at a time: 256 MiB of float32 on CPU. Accelerators take 1 GiB: adding
# up the gradient of a large head, once a block, would otherwise take longer than its product.
BLOCK_ELEMENTS = 2**26
ON_ACCELERATORS = 4


class Scores(NamedTuple):
  """What a loss may ask of each token, float32 [..., L], aligned with `tokens`.

  Under a causal model the first token of a row has no prediction; its entries are 0. Multiply by
  `batch['mask']` before summing.
  """

  logp: Array
  logsumexp: Array
  entropy: Array


def score(model: Model, params: Params, batch: Batch, *, temperature: float = 1.0) -> Array:
  """log p(token | what comes before it) [..., L], in nats; see `scores`."""
  return scores(model, params, batch, temperature=temperature).logp


def scores(model: Model, params: Params, batch: Batch, *, temperature: float = 1.0) -> Scores:
  """Log-probability, logsumexp of the logits and entropy of every token's prediction.

  Args:
    model: has `hidden` and `unembed` (models/transformer.py) and `shape.causal`.
    params: its parameters.
    batch: `tokens` [..., L], optionally `position`, `segment` and `target` of the same shape;
      leading axes (rows, groups) are flattened for the model. With `prompt` [B, P], the first P
      tokens of a row are nobody's answer, and no logits are computed for them.
    temperature: logits are divided by it.

  Returns:
    Scores of shape [..., L], 0 on a prompt. A causal model is shifted here, once: entry t is about
    token t.
  """
  return Scores(*read_blocks(model, params, batch, read_scores, temperature=temperature))


def read_blocks(
  model: Model,
  params: Params,
  batch: Batch,
  read: Callable[..., Any],
  *aligned: Array,
  temperature: float = 1.0,
) -> Any:
  """What `read` makes of the logits that predict each token, a block of tokens at a time.

  Args:
    model, params, batch, temperature: as in `scores`.
    read: from logits [..., V], targets [...] and blocks of `aligned` to a tuple of arrays [...].
    aligned: more arrays [..., L, *], whose entry t is about token t.

  Returns:
    The tuple, of arrays [..., L]; entry t is about token t, and 0 where nothing predicts it.
  """
  if kind := JUDGES.get(getattr(model.shape, 'head', '')):
    raise BadInput(f'loss: the model is {kind}, which gives no log-probabilities')
  shape = batch['tokens'].shape
  rows = lambda x: x.reshape(-1, shape[-1], *x.shape[len(shape) :])
  flat = {k: rows(batch[k]) for k in ('tokens', 'position', 'segment', 'target') if k in batch}
  hidden_BLD, _ = model.apply(
    params, flat['tokens'], flat.get('position'), flat.get('segment'), method='hidden'
  )
  about = (flat.get('target', flat['tokens']), *(rows(x) for x in aligned))
  shift = int(model.shape.causal)  # position t - 1 predicts token t, and the last one nothing
  about = tuple(jnp.roll(x, -shift, axis=1) for x in about)
  first = max(batch['prompt'].shape[-1] - shift, 0) if 'prompt' in batch else 0
  out = read_hidden(
    model, params, hidden_BLD[:, first:], tuple(x[:, first:] for x in about), temperature, read
  )
  out = (x[:, : x.shape[1] - shift] for x in out)
  return tuple(jnp.pad(x, ((0, 0), (first + shift, 0))).reshape(shape) for x in out)


def read_hidden(
  model: Model,
  params: Params,
  hidden_BLD: Array,
  about: tuple[Array, ...],
  temperature: float,
  read: Callable[..., Any],
) -> tuple[Array, ...]:
  """What `read` makes of the logits of hidden states; entry t of `about` is what they predict."""
  found, tree = jax.tree_util.tree_flatten_with_path(params)
  named = [(path_of(key_path), leaf) for key_path, leaf in found]
  tied = getattr(model.shape, 'head', '') == 'tied'
  needed = '(^|/)embedding/table' if tied else '(^|/)head/'

  def run(head: Params, hidden_BLD: Array, *about: Array) -> tuple[Array, ...]:
    leaves = [head.get(path, leaf) for path, leaf in named]
    return _by_blocks(model, tree.unflatten(leaves), hidden_BLD, about, temperature, read)

  # The head is made whole once and not in each block, and so is its gradient.
  head = {path: leaf for path, leaf in named if re.search(needed, path)}
  if not head:  # a model of names of its own
    return _by_blocks(model, params, hidden_BLD, about, temperature, read)
  return apart(run, head, hidden_BLD, *about, ahead=hidden_BLD.dtype)


def _by_blocks(
  model: Model,
  params: Params,
  hidden_BLD: Array,
  about: tuple[Array, ...],
  temperature: float,
  read: Callable[..., Any],
) -> tuple[Array, ...]:
  batch, length, _ = hidden_BLD.shape

  def one(hidden_BD: Array, *about: Array) -> tuple[Array, ...]:
    logits_BV = model.apply(params, hidden_BD, method='unembed') / temperature
    return tuple(read(logits_BV, *about))

  mesh = jax.sharding.get_abstract_mesh()
  if on_one_device():
    shards, along = mesh.shape['tensor'], 1
  else:
    shards, along = (1, 1) if mesh.empty else (mesh.size, mesh.shape['sequence'])
  most = BLOCK_ELEMENTS * (1 if platform() == 'cpu' else ON_ACCELERATORS)
  columns = max(1, most * shards // (batch * model.shape.vocab_size))
  if columns >= length:
    return one(hidden_BLD, *about)
  # Every block takes some columns of all rows, and columns that stand apart, so that each device
  # keeps what it has, should rows or columns be cut over devices.
  blocks = -(-length // columns)
  columns = -(-length // (blocks * along)) * along
  pad = blocks * columns - length

  def cut(x: Array) -> Array:
    x = jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(batch, columns, blocks, *x.shape[2:]), 2, 0)

  # The backward pass computes each block's logits again instead of keeping them.
  parts = tuple(cut(x) for x in (hidden_BLD, *about))
  out = jax.lax.map(lambda part: jax.checkpoint(one)(*part), parts)
  return tuple(jnp.moveaxis(x, 0, 2).reshape(batch, -1)[:, :length] for x in out)


def read_scores(logits_V: Array, target: Array) -> Scores:
  """Scores of one block; where nobody reads a field, the compiler drops its work."""
  logsumexp, chosen = _normalizer_and_chosen(logits_V, target)
  prob_V = jnp.exp(logits_V - logsumexp[..., None])
  return Scores(chosen - logsumexp, logsumexp, logsumexp - (prob_V * logits_V).sum(-1))


@jax.custom_vjp
def _normalizer_and_chosen(logits_V: Array, target: Array) -> tuple[Array, Array]:
  """The logsumexp of logits and the logit of the target, [...] each.

  The logit is looked up; its gradient, and that of the sum, are one element-wise pass and no
  scatter.
  """
  return _saving(logits_V, target)[0]


def _saving(logits_V: Array, target: Array) -> tuple[tuple[Array, Array], Any]:
  logsumexp = jax.nn.logsumexp(logits_V, axis=-1)
  chosen = jnp.take_along_axis(logits_V, target[..., None], axis=-1)[..., 0]
  return (logsumexp, chosen), (logits_V, target, logsumexp)


def _backward(saved: Any, grads: tuple[Array, Array]) -> tuple[Array, None]:
  logits_V, target, logsumexp = saved
  of_sum, of_chosen = (grad[..., None] for grad in grads)
  hit_V = jnp.arange(logits_V.shape[-1]) == target[..., None]
  return jnp.exp(logits_V - logsumexp[..., None]) * of_sum + jnp.where(hit_V, of_chosen, 0), None


_normalizer_and_chosen.defvjp(_saving, _backward)
