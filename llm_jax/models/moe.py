"""Experts in the place of the MLP: each token goes to a few of many (arXiv:1701.06538).

No expert has a capacity and no token is dropped: tokens are sorted by expert and multiplied in
ragged groups. So the answer for a token does not depend on its neighbours, nor on the devices.
"""

import dataclasses
import math
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from llm_jax.models.layers import MLP, fan_in, gated
from llm_jax.models.weights import dense, parameter
from llm_jax.options import Count, NotNegative, Positive, at_least
from llm_jax.parallel.mesh import BATCH_AXES, divides
from llm_jax.types import Array, BadInput


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Fields of `config.model.experts`; the size of one expert is the model's `hidden_dim`.

  Attributes:
    count: X, experts of a layer.
    per_token: k, experts that a token goes to.
    normalize: whether the k weights of a token add up to 1 (Mixtral, Qwen3), or are its softmax.
    balance: what keeps experts equally busy: 'loss', 'bias' or 'none'; see `Experts`.
    weight: of the balance, against one token's loss.
    bias: biases on the router and on gate, up and down of each expert (gpt-oss).
    clamp: the unit of gpt-oss, in which gate and up are cut at this number; None: SwiGLU.
    shared_dim: hidden units of an MLP that every token goes through, beside its experts; 0: none.
    shared_gate: what that one says is multiplied by a sigmoid of the token (Qwen2-MoE).
    score: an expert's probability is a 'softmax' of all scores or a 'sigmoid' of its own.
    groups: experts lie in so many groups, and are chosen from those whose two best are best.
    top_groups: how many groups these are.
    scale: of the weights of a token.
  """

  count: Count
  per_token: Count = 2
  normalize: bool = True
  balance: Literal['loss', 'bias', 'none'] = 'loss'
  weight: NotNegative = 0.01
  bias: bool = False
  clamp: Positive | None = None
  shared_dim: Annotated[int, at_least(0)] = 0
  shared_gate: bool = False
  score: Literal['softmax', 'sigmoid'] = 'softmax'
  groups: Count = 1
  top_groups: Count = 1
  scale: Positive = 1.0

  def __post_init__(self) -> None:
    if self.per_token > self.count:
      raise BadInput(
        f'model.experts: per_token {self.per_token} must be from 1 to count {self.count}'
      )
    if self.count % self.groups or self.top_groups > self.groups:
      raise BadInput(
        f'model.experts: {self.top_groups} of {self.groups} groups of {self.count} experts; '
        'choose a number of groups that divides count, and top_groups up to it'
      )
    if self.count // self.groups * self.top_groups < self.per_token:
      raise BadInput('model.experts: top_groups hold fewer experts than per_token')
    if self.shared_gate and not self.shared_dim:
      raise BadInput('model.experts: shared_gate needs a shared MLP; set shared_dim')


class Experts(nn.Module):
  """Top-k routed experts; parameters router [D, X], gate and up [X, D, F], down [X, F, D].

  With `mixture.bias` also router_offset [X], and gate_bias, up_bias [X, F], down_bias [X, D].

  Attributes:
    hidden_dim: F, of one expert.
    mixture: how many, and how they are chosen. Balance 'loss' is X sum_i f_i P_i of each row, with
      f the share of its tokens that went to expert i and P their mean probability
      (arXiv:2101.03961, eq. 4, a row at a time as in arXiv:2405.04434, sec. 2.1.3). 'bias' is a
      bias of the choice alone that sinks where the load is high (arXiv:2408.15664). Both act
      through gradients only: the loss that is reported is that of the task.
    out_scale: of the initial `down`.
  """

  hidden_dim: int
  mixture: Mixture
  out_scale: float

  @nn.compact
  def __call__(self, x_BLD: Array, real_BL: Array) -> Array:
    """Outputs [B, L, D]; `real_BL` says which tokens are no padding."""
    m, dim, F = self.mixture, x_BLD.shape[-1], self.hidden_dim
    X = m.count
    router_DX = self.param('router', fan_in(dim), (dim, X))
    weights = (
      parameter(self, 'gate', fan_in(dim), (X, dim, F)),
      parameter(self, 'up', fan_in(dim), (X, dim, F)),
      parameter(self, 'down', fan_in(F, self.out_scale), (X, F, dim)),
    )
    zeros = nn.initializers.zeros
    bias = jnp.asarray(self.param('router_bias', zeros, (X,))) if m.balance == 'bias' else None
    offset_X, biases = None, ()
    if m.bias:
      offset_X = jnp.asarray(self.param('router_offset', zeros, (X,)))
      sizes = {'gate_bias': F, 'up_bias': F, 'down_bias': dim}
      biases = tuple(self.param(name, zeros, (X, size)) for name, size in sizes.items())
    shared_BLD = self._shared(x_BLD) if m.shared_dim else None
    if self.is_initializing():
      return x_BLD
    logit_BLX = x_BLD.astype(jnp.float32) @ jnp.asarray(router_DX)
    if offset_X is not None:
      logit_BLX += offset_X
    prob_BLX = jax.nn.sigmoid(logit_BLX) if m.score == 'sigmoid' else jax.nn.softmax(logit_BLX)
    _, index_BLK = jax.lax.top_k(
      self._rank(prob_BLX if bias is None else prob_BLX + bias), m.per_token
    )
    weight_BLK = jnp.take_along_axis(prob_BLX, index_BLK, axis=-1)
    if m.normalize:
      weight_BLK /= weight_BLK.sum(-1, keepdims=True)
    if m.scale != 1:
      weight_BLK *= m.scale
    cast = (dense(w, x_BLD.dtype) for w in (*weights, *biases))
    out_BLD = dispatch(x_BLD, index_BLK, weight_BLK, *cast, clamp=m.clamp)
    if shared_BLD is not None:
      out_BLD += shared_BLD
    if m.balance != 'none':
      out_BLD = with_gradient_of(out_BLD, self._unbalance(prob_BLX, index_BLK, bias, real_BL))
    return out_BLD

  def _rank(self, score_BLX: Array) -> Array:
    """Scores by which experts are chosen: none of groups that are not."""
    m = self.mixture
    if m.groups == 1:
      return score_BLX
    grouped_BLGX = score_BLX.reshape(*score_BLX.shape[:-1], m.groups, -1)
    best_BLG2 = jax.lax.top_k(grouped_BLGX, min(2, grouped_BLGX.shape[-1]))[0]
    _, index_BLK = jax.lax.top_k(best_BLG2.sum(-1), m.top_groups)
    open_BLG = jax.nn.one_hot(index_BLK, m.groups).sum(-2) > 0
    return jnp.where(open_BLG[..., None], grouped_BLGX, -jnp.inf).reshape(score_BLX.shape)

  def _shared(self, x_BLD: Array) -> Array:
    m, dim = self.mixture, x_BLD.shape[-1]
    mlp = MLP(m.shared_dim, 'swiglu', bias=False, out_scale=self.out_scale, name='shared')
    out_BLD = mlp(x_BLD)
    if m.shared_gate:
      gate_D1 = self.param('shared_gate', fan_in(dim), (dim, 1))
      out_BLD *= jax.nn.sigmoid(x_BLD @ jnp.asarray(gate_D1).astype(x_BLD.dtype))
    return out_BLD

  def _unbalance(self, prob_BLX: Array, index_BLK: Array, bias: Any, real_BL: Array) -> Array:
    """The term whose gradient balances, summed over tokens as the loss is."""
    m, real_BL = self.mixture, real_BL.astype(jnp.float32)
    went_BLX = jax.nn.one_hot(index_BLK, m.count).sum(2) * real_BL[..., None]
    load_BX = jax.lax.stop_gradient(went_BLX.sum(1))  # assignments, k a token
    tokens_B1 = real_BL.sum(1, keepdims=True)
    load_BX = load_BX * m.count / m.per_token  # tokens, if all experts were equally busy
    if bias is not None:
      return m.weight * ((load_BX - tokens_B1).sum(0) * bias).sum()
    mean_BX = (prob_BLX * real_BL[..., None]).sum(1) / jnp.maximum(tokens_B1, 1)
    return m.weight * (load_BX * mean_BX).sum()


@jax.custom_vjp
def with_gradient_of(x: Array, term: Array) -> Array:
  """`x`, and in the backward pass the gradient of `term` as if it had been added to the loss.

  >>> float(jax.grad(lambda x: with_gradient_of(3 * x, x**2))(2.0))  # 3, and 4 of the term
  7.0
  """
  del term
  return x


def _saving(x: Array, term: Array) -> tuple[Array, None]:
  del term
  return x, None


def _backward(saved: None, grad: Array) -> tuple[Array, Array]:
  del saved
  return grad, jnp.ones(())


with_gradient_of.defvjp(_saving, _backward)


def dispatch(
  x_BLD: Array, index_BLK: Array, weight_BLK: Array, *experts: Array, clamp: float | None = None
) -> Array:
  """The weighted sum of what each token's experts say, [B, L, D].

  On a mesh each device holds the experts of its place on the axis `expert`, gathers the tokens of
  its neighbours on that axis, and gives their parts back.

  Args:
    x_BLD: tokens.
    index_BLK, weight_BLK: their experts, and how much each of these counts.
    experts: gate, up and down, and perhaps the biases of these three.
    clamp: see `Mixture`.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return _local(x_BLD, index_BLK, weight_BLK, *experts, clamp=clamp)
  hidden = 'tensor' if divides(mesh, 'tensor', experts[0].shape[-1]) else None
  own = 'expert' if divides(mesh, 'expert', len(experts[0])) else None
  # Rows that cannot be cut, such as a single prompt, are on every device.
  cut = divides(mesh, BATCH_AXES, len(x_BLD))

  def on_device(x: Array, index: Array, weight: Array, *experts: Array) -> Array:
    first = jax.lax.axis_index('expert') * len(experts[0]) if own else 0
    if own and cut:
      gather = lambda x: jax.lax.all_gather(x, 'expert', axis=0, tiled=True)
      x, index, weight = gather(x), gather(index), gather(weight)
    if hidden and len(experts) > 3:  # the bias of a sum over devices belongs to one of them
      down_bias = jnp.where(jax.lax.axis_index('tensor') == 0, experts[5], 0)
      experts = (*experts[:5], down_bias)
    out = _local(x, index - first, weight, *experts, clamp=clamp)
    if own and cut:
      out = jax.lax.psum_scatter(out, 'expert', scatter_dimension=0, tiled=True)
    elif own:
      out = jax.lax.psum(out, 'expert')
    return jax.lax.psum(out, 'tensor') if hidden else out

  along = 'sequence' if divides(mesh, 'sequence', x_BLD.shape[1]) else None
  rows = P(BATCH_AXES if cut else None, along)
  wide = P(own, None, hidden)
  places = (wide, wide, P(own, hidden), P(own, hidden), P(own, hidden), P(own))
  return jax.shard_map(
    on_device,
    in_specs=(rows, rows, rows, *places[: len(experts)]),
    out_specs=rows,
    check_vma=False,
  )(x_BLD, index_BLK, weight_BLK, *experts)


def _local(
  x_BLD: Array, index_BLK: Array, weight_BLK: Array, *experts: Array, clamp: float | None = None
) -> Array:
  """`dispatch` on one device; an index outside of its experts is another device's."""
  (gate, up, down), biases = experts[:3], experts[3:]
  dim, per_token, count = x_BLD.shape[-1], index_BLK.shape[-1], gate.shape[0]
  index_R = index_BLK.reshape(-1)  # R = tokens * k choices
  mine_R = (index_R >= 0) & (index_R < count)
  order_R = jnp.argsort(jnp.where(mine_R, index_R, count), stable=True)
  sizes_X = (index_R[:, None] == jnp.arange(count)).sum(0).astype(jnp.int32)
  rows_RD = x_BLD.reshape(-1, dim)[order_R // per_token]
  # What lies behind the last group is nobody's: a kernel may leave anything there, both ways.
  rows_RD = jnp.where(mine_R[order_R][:, None], rows_RD, 0)
  expert_R = jnp.clip(index_R[order_R], 0, count - 1)

  def multiply(rows: Array, weights: Array, *bias: Array) -> Array:
    out = jax.lax.ragged_dot(rows, weights, sizes_X)
    return out + bias[0][expert_R] if bias else out

  gate_RF = multiply(rows_RD, gate, *biases[:1])
  up_RF = multiply(rows_RD, up, *biases[1:2])
  hidden_RF = gated(gate_RF, up_RF) if clamp is None else clamped(gate_RF, up_RF, clamp)
  out_RD = multiply(hidden_RF, down, *biases[2:])[jnp.argsort(order_R)]
  share_R = jnp.where(mine_R, weight_BLK.reshape(-1), 0).astype(x_BLD.dtype)
  out_RD = jnp.where(mine_R[:, None], out_RD, 0) * share_R[:, None]
  lead = x_BLD.shape[:-1]
  return out_RD.reshape(math.prod(lead), per_token, dim).sum(1).reshape(*lead, dim)


def clamped(gate: Array, up: Array, limit: float) -> Array:
  """gate sigmoid(1.702 gate) (up + 1), gate cut above and up on both sides at `limit` (gpt-oss)."""
  gate, up = jnp.minimum(gate, limit), jnp.clip(up, -limit, limit)
  return gate * jax.nn.sigmoid(1.702 * gate) * (up + 1)
