"""The one Transformer: Llama, Qwen, Mixtral, GPT-2 and masked language models by its options."""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from llm_jax.models import attend, attention, latent, moe
from llm_jax.models.begin import induction_heads
from llm_jax.models.cache import Cache
from llm_jax.models.cache import empty as make_cache
from llm_jax.models.compute import POLICIES, Compute, but_whole, compute_of
from llm_jax.models.ends import Embedding, Head
from llm_jax.models.layers import MLP, Model, Norm, product, rotary, swap_last_axes
from llm_jax.models.rope_scaling import scaling_of
from llm_jax.models.shape import EMBEDDING_STD, Kind, Shape
from llm_jax.models.stacks import dense_of, period, repeats, unstack
from llm_jax.models.stored import Layers
from llm_jax.models.weights import Table, in_blocks
from llm_jax.options import check, options_of
from llm_jax.parallel.apart import apart, on_one_device, whole
from llm_jax.parallel.mesh import constrain
from llm_jax.parallel.parameters import abstract_params, facts_of, path_of
from llm_jax.types import Array, BadInput


class Block(nn.Module):
  """Residual block: x + attention(norm(x)), then x + mlp(norm(x)); the shape may say otherwise."""

  shape: Shape
  compute: Compute

  @nn.compact
  def __call__(
    self,
    x_BLD: Array,
    attend: attend.Attend,
    angles: Any,
    real: Any = None,
    layer: Any = None,
    slots: Any = None,
  ) -> tuple[Array, Any]:
    s, c = self.shape, self.compute
    x_BLD = checkpoint_name(x_BLD, 'block')
    out_scale = (2 * s.num_layers) ** -0.5  # keeps the residual stream's size at depth (GPT-2)
    x_BLD = constrain(x_BLD, 'batch', 'sequence', None)
    pre_BLD = self._pre('attention', x_BLD)
    attended_BLD, layer = self._attention(out_scale)(pre_BLD, attend, angles, layer, slots)
    before_BLD = x_BLD
    x_BLD += self._post('attention', attended_BLD)
    normed_BLD = self._pre('mlp', before_BLD if s.parallel else x_BLD)
    if s.experts is not None:
      experts = moe.Experts(s.hidden_dim, moe.Mixture(**s.experts), out_scale, name='experts')
      return x_BLD + self._post('mlp', experts(normed_BLD, real)), layer
    mlp = MLP(
      s.hidden_dim,
      s.mlp,
      s.mlp_bias or s.bias,
      out_scale,
      c.fuse,
      c.product_dtype,
      gate_bias=s.mlp_bias and s.gated,
      name='mlp',
    )
    return x_BLD + self._post('mlp', mlp(normed_BLD)), layer

  def _attention(self, out_scale: float) -> Any:
    s, c = self.shape, self.compute
    if s.latent is not None:
      return latent.LatentAttention(
        num_heads=s.num_heads,
        head_dim=s.head_dim,
        rope_dim=s.rope_dim,
        latent=latent.Latent(**s.latent),
        out_scale=out_scale,
        query_scale=s.query_scale,
        product_dtype=c.product_dtype,
        name='attention',
      )
    rms = 'rms' if s.norm == 'layer' else s.norm
    return attention.Attention(
      num_heads=s.num_heads,
      num_kv_heads=s.num_kv_heads,
      head_dim=s.head_dim,
      qkv_bias=s.qkv_bias or s.bias,
      out_bias=s.out_bias or s.bias,
      qk_norm=rms if s.qk_norm else None,
      qk_norm_wide=s.qk_norm == 'wide',
      norm_eps=s.norm_eps,
      out_scale=out_scale,
      query_scale=s.query_scale,
      sinks=s.sinks,
      fuse=c.fuse,
      product_dtype=c.product_dtype,
      name='attention',
    )

  def _pre(self, part: str, x_BLD: Array) -> Array:
    s = self.shape
    return Norm(s.norm, s.norm_eps, name=f'{part}_norm')(x_BLD) if s.pre_norm else x_BLD

  def _post(self, part: str, x_BLD: Array) -> Array:
    s = self.shape
    if s.post_norm:
      x_BLD = Norm(s.norm, s.norm_eps, name=f'{part}_post_norm')(x_BLD)
    return x_BLD if s.residual_scale is None else x_BLD * s.residual_scale


class Transformer(Model):
  """Decoder-only Transformer; `blocks` hold all layers stacked on their first axis.

  The first layers of a model with experts may have none: these are `dense_blocks`.

  Call it with `apply(params, tokens, position, segment, cache)`; `method='hidden'` stops before
  the head and `method='unembed'` is the head alone, so that a loss can take it block by block.
  """

  shape: Shape
  compute: Compute = Compute()
  frozen = ()  # top-level names of parameters that training leaves alone: none

  def setup(self) -> None:
    s = self.shape
    self.embedding = Embedding(s, self.compute.dtype)
    # Read as they are, so that a weight may also come as a LowRank (models/lora.py).
    made = lambda name, shape, count: (
      self.param(name, functools.partial(self._init_blocks, shape, count))
      if self.is_initializing()
      else self.get_variable('params', name)
    )
    self.blocks = made('blocks', s, s.num_layers - s.dense_layers)
    if s.dense_layers:
      self.dense_blocks = made('dense_blocks', dense_of(s), s.dense_layers)
    start = min(EMBEDDING_STD / s.embedding_std, 1.0) if s.head == 'tied' else 1.0
    self.final_norm = Norm(s.norm, s.norm_eps, start)
    if s.head != 'tied':
      self.head = Head(s, self.compute.product_dtype)

  def _init_blocks(self, shape: Shape, count: int, rng: Array) -> Any:
    x_BLD, nothing = jnp.zeros((1, 1, shape.dim)), lambda q, *rest: q
    block = Block(shape, self.compute, parent=None)
    init = lambda key: block.init(key, x_BLD, nothing, None)['params']
    blocks = jax.vmap(init)(jax.random.split(rng, count))
    return induction_heads(blocks, shape) if shape.inducing else blocks

  @nn.nowrap
  def attention_spec(
    self, kind: Kind, cached: bool = False, branches: bool = False
  ) -> attend.AttentionSpec:
    """Who sees whom in a block of a kind."""
    s, rounded = self.shape, self.compute.product_dtype
    return attend.AttentionSpec(
      s.causal, kind.window, s.attention_softcap, not cached, rounded, s.sinks, branches
    )

  @nn.nowrap
  def backend(self, length: int) -> str:
    """The names of the attention backends for rows of `length`; see `attend.choose`."""
    kinds = dict.fromkeys(self.shape.blocks)
    return ' and '.join(dict.fromkeys(self._backend(kind, length) for kind in kinds))

  @nn.nowrap
  def _backend(self, kind: Kind, length: int, *how: bool) -> str:
    c, spec, size = self.compute, self.attention_spec(kind, *how), self.shape.head_dim
    if self.shape.latent is not None:
      size = max(size, self.shape.latent['value_dim'])
    return attend.choose(c.attention, spec, head_dim=size, length=length, dtype=c.dtype)

  def _angles(
    self, positions: attend.Positions, kind: Kind, cached: bool
  ) -> attention.Angles | None:
    if not kind.rope:
      return None
    size, theta, scaling = self.shape.rope_dim, kind.rope_theta, kind.rope_scaling
    if scaling is None or not scaling_of(scaling).moves:
      return attention.Angles(rotary(positions.q_position, size, theta, scaling))
    # Angles change as rows grow, so a cache holds keys that have not been turned.
    length = jnp.where(positions.k_segment > 0, positions.k_position, 0).max() + 1
    turn = lambda position: rotary(position, size, theta, scaling, length)
    return attention.Angles(
      turn(positions.q_position), turn(positions.k_position) if cached else None
    )

  def __call__(
    self,
    tokens_BL: Array,
    position_BL: Array | None = None,
    segment_BL: Array | None = None,
    cache: Cache | None = None,
  ) -> tuple[Array, Cache | None]:
    """float32 logits [B, L, V], or of other heads [B, L] or [B, L, C], and the cache.

    Args:
      tokens_BL: int ids.
      position_BL: counts from 0 inside each segment; default 0 .. L-1.
      segment_BL: 0 = padding, else the document of a row; default all 1.
      cache: from `make_cache`, to continue rows, each where it ends; see `Cache.extend`.
    """
    hidden_BLD, cache = self.hidden(tokens_BL, position_BL, segment_BL, cache)
    return self.unembed(hidden_BLD), cache

  def hidden(
    self,
    tokens_BL: Array,
    position_BL: Array | None = None,
    segment_BL: Array | None = None,
    cache: Cache | None = None,
    until_BS: Array | None = None,
  ) -> tuple[Array, Cache | None]:
    """The normed last hidden states [B, L, D] and the cache; arguments as `__call__`.

    `until_BS` is there where texts branch: the last segment that sees each token, of a cache each
    of its slots. The first one is its own, and segments between see it as well.
    """
    s, length = self.shape, tokens_BL.shape[1]
    if position_BL is None:
      position_BL = jnp.broadcast_to(jnp.arange(length), tokens_BL.shape)
    if segment_BL is None:
      segment_BL = jnp.ones_like(tokens_BL)
    positions, slots = attend.Positions(position_BL, segment_BL, position_BL, segment_BL), None
    if cache is not None:
      first_B = cache.index
      cache, slots = cache.extend(position_BL, segment_BL)
      if s.rereads:
        token_B1S1 = slots.put_heads(cache.layers[0]['token'], tokens_BL[:, None, :, None])
        cache = dataclasses.replace(cache, layers=({'token': token_B1S1},))
        tokens_BS = token_B1S1[:, 0, :, 0]
        whole_BSD, _ = self.hidden(tokens_BS, cache.position, cache.segment, None, until_BS)
        at_BL = jnp.minimum(first_B[:, None] + jnp.arange(length), whole_BSD.shape[1] - 1)
        return jnp.take_along_axis(whole_BSD, at_BL[..., None], axis=1), cache
      positions = positions._replace(k_position=cache.position, k_segment=cache.segment)
    positions = positions._replace(k_until=until_BS)
    x_BLD = self.embed(tokens_BL, position_BL)
    blocks = {'blocks': self.blocks}
    if s.dense_layers:
      blocks['dense_blocks'] = self.dense_blocks
    if cache is None and until_BS is None and self._apart:

      def layers(blocks: Any, x_BLD: Array, *at: Array) -> Array:
        return self._layers(blocks, x_BLD, attend.Positions(*at, *at))[0]

      x_BLD = apart(layers, blocks, x_BLD, position_BL, segment_BL)
    else:
      x_BLD, cache = self._layers(blocks, x_BLD, positions, slots, cache)
    return self.final_norm(x_BLD), cache

  @nn.nowrap
  def _layers(
    self,
    blocks: Mapping[str, Any],
    x_BLD: Array,
    positions: attend.Positions,
    slots: Any = None,
    cache: Cache | None = None,
  ) -> tuple[Array, Cache | None]:
    """What all layers, with their stacked parameters, make of embedded tokens; and the cache."""
    s, c, kinds = self.shape, self.compute, self.shape.blocks
    dense_blocks, blocks = blocks.get('dense_blocks', ()), blocks['blocks']
    of = lambda kind, shape: self._runner(kind, shape, positions, slots, cache is not None)
    first = s.dense_layers  # these stand before what repeats
    runs = {kind: of(kind, s) for kind in dict.fromkeys(kinds[first:])}
    dense = {kind: of(kind, dense_of(s)) for kind in dict.fromkeys(kinds[:first])}
    new_layers = []
    for i, params in enumerate(unstack(dense_blocks, first) if first else ()):
      x_BLD, layer = dense[kinds[i]](params, x_BLD, cache.layers[i] if cache else None)
      new_layers.append(layer)
    kinds, count = kinds[first:], s.num_layers - first
    unstacked = isinstance(blocks, tuple)  # see `for_decoding`
    if c.scan_layers and cache is None and not unstacked:
      size = period(kinds)
      scanned, rest = repeats(blocks, size, count)

      def repeat(x_BLD: Array, params: Any) -> tuple[Array, None]:
        for kind, one in zip(kinds[:size], [params] if size == 1 else unstack(params, size)):
          x_BLD, _ = runs[kind](one, x_BLD, None)
        return x_BLD, None

      x_BLD, _ = jax.lax.scan(repeat, x_BLD, scanned)
      for kind, params in zip(kinds[count - len(rest) :], rest, strict=True):
        x_BLD, _ = runs[kind](params, x_BLD, None)
    else:
      for i, params in enumerate(unstack(blocks, count)):
        x_BLD, layer = runs[kinds[i]](params, x_BLD, cache.layers[first + i] if cache else None)
        new_layers.append(layer)
      if cache is not None:
        cache = dataclasses.replace(cache, layers=tuple(new_layers))
    return x_BLD, cache

  @property
  def _apart(self) -> bool:
    """Whether devices can compute all layers alone: they exchange nothing within one, and what is
    made of a row depends on no other."""
    s, mesh = self.shape, jax.sharding.get_abstract_mesh()
    if mesh.empty or any(mesh.shape[axis] > 1 for axis in ('tensor', 'sequence', 'expert')):
      return False
    scalings = (kind.rope_scaling for kind in s.blocks)
    moves = any(scaling and scaling_of(scaling).moves for scaling in scalings)
    return not (moves or s.experts or isinstance(self.blocks, (tuple, Layers)))

  def embed(self, tokens_BL: Array, position_BL: Array) -> Array:
    """What the first layer reads, [B, L, D]."""
    return constrain(self.embedding(tokens_BL, position_BL), 'batch', 'sequence', None)

  def layer(
    self, number: int, params: Any, x_BLD: Array, position_BL: Array, segment_BL: Array
  ) -> Array:
    """What a layer with these parameters makes of what it reads, [B, L, D]."""
    s, positions = self.shape, attend.Positions(position_BL, segment_BL, position_BL, segment_BL)
    shape = dense_of(s) if number < s.dense_layers else s
    return self._runner(s.blocks[number], shape, positions)(params, x_BLD, None)[0]

  def _runner(
    self,
    kind: Kind,
    shape: Shape,
    positions: attend.Positions,
    slots: Any = None,
    cached: bool = False,
  ) -> Any:
    """A block of a kind; its masks and angles are made here, once for all of them."""
    c, branches = self.compute, positions.k_until is not None
    length = positions.q_position.shape[1]
    # Parameters are made from a single token, which no kernel would take.
    backend = 'xla' if self.is_initializing() else self._backend(kind, length, cached, branches)
    see = attend.load(backend).make(positions, self.attention_spec(kind, cached, branches))
    angles = self._angles(positions, kind, cached)
    block = Block(shape, c, parent=None)
    alone = on_one_device()

    def run(params: Any, x_BLD: Array, layer: Any) -> tuple[Array, Any]:
      real_BL = positions.q_segment > 0
      if alone:
        params = whole(params, c.dtype, 'blocks/', layer=True)
      return block.apply({'params': params}, x_BLD, see, angles, real_BL, layer, slots)

    if isinstance(self.blocks, Layers):  # read one by one, so each kind is a program of its own
      return jax.jit(run)
    if c.remat == 'none':
      return jax.checkpoint(run, policy=but_whole, prevent_cse=not c.scan_layers) if alone else run
    return jax.checkpoint(run, policy=POLICIES[c.remat], prevent_cse=not c.scan_layers)

  def unembed(self, hidden_D: Array) -> Array:
    """float32 logits [..., V] of hidden states [..., D]; [...] or [..., C] of other heads."""
    s, product_dtype = self.shape, self.compute.product_dtype
    if s.head == 'tied':
      table = self.embedding.table
      turn = lambda: swap_last_axes(jnp.asarray(table), product_dtype)
      table_DV = table.head if isinstance(table, Table) else turn()
      logits_V = product(hidden_D, table_DV, dtype=jnp.float32, product_dtype=product_dtype)
    else:
      logits_V = self.head(hidden_D)
    if s.logit_divisor is not None:
      logits_V /= s.logit_divisor
    if s.logit_softcap is not None:
      logits_V = s.logit_softcap * jnp.tanh(logits_V / s.logit_softcap)
    return logits_V

  @nn.nowrap  # linen would take the model made here for a part of this one
  def for_decoding(self, params: Any) -> tuple['Transformer', Any]:
    """A model and parameters that give the same, arranged for one token at a time.

    Layers are taken apart, matrices cast to the dtype of products and a tied embedding transposed
    once, outside of the loop that decodes; inside it, each token would do so to all weights again.
    """

    def cast(key_path: Any, x: Array) -> Array:
      path = path_of(key_path).removesuffix('/weight')  # of a LowRank
      return x if facts_of(path).exact else x.astype(self.compute.dtype)

    params = jax.tree_util.tree_map_with_path(cast, params)
    first = self.shape.dense_layers
    count = {'blocks': self.shape.num_layers - first} | ({'dense_blocks': first} if first else {})
    layers = {**params, **{name: tuple(unstack(params[name], n)) for name, n in count.items()}}
    model = self
    if self.shape.head == 'tied':
      model = Transformer(dataclasses.replace(self.shape, head='untied'), self.compute)
      table = params['embedding']['table']
      layers['head'] = {'kernel': table.head if isinstance(table, Table) else table.T}
    return model, layers

  @nn.nowrap
  def in_blocks(self, params: Any) -> Any:
    """Parameters of `for_decoding` with their matrices of float32 as `weights.Blocks`."""
    exact = self.compute.dtype == 'float32' and not self.compute.product_dtype
    return in_blocks(params) if exact else params

  def published(self, params: Any) -> tuple['Transformer', Any]:
    """The model and parameters that an artifact holds: these."""
    return self, params

  def make_cache(self, batch: int, slots: int) -> Cache:
    """An empty cache for `batch` rows of at most `slots` tokens."""
    s = self.shape
    latent = s.latent is not None
    if s.rereads:
      token: Any = dict(num_layers=1, num_heads=1, head_dim=1, dtype='int32', names=('token',))
      return make_cache(batch, slots, **token)
    return make_cache(
      batch,
      slots,
      num_layers=s.num_layers,
      num_heads=1 if latent else s.num_kv_heads,
      head_dim=s.latent['kv_rank'] + s.rope_dim if s.latent is not None else s.head_dim,
      dtype=self.compute.cache_dtype or self.compute.dtype,
      names=('k',) if latent else ('k', 'v'),
    )

  def num_params(self) -> int:
    """How many numbers the parameters hold."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(self)))

  def flops_per_token(self, length: int) -> float:
    """FLOPs to train on one token of a sequence of `length`; see `flops_by_part`."""
    return sum(self.flops_by_part(length).values())

  def flops_by_part(self, length: int) -> dict[str, float]:
    """FLOPs to train on one token: of `weights` of layers, of `scores` and of the `head`.

    Forward once, backward twice.

    Counts products only, two FLOPs a multiply-add; attention counts the keys that are seen (half
    of them under causality), and rematerialisation counts nothing (model FLOPs, arXiv:2204.02311
    appendix B, made aware of causality and windows).
    """
    s = self.shape
    attention, size = s.dim * s.head_dim * (2 * s.num_heads + 2 * s.num_kv_heads), 2 * s.head_dim
    if s.latent is not None:
      own = latent.Latent(**s.latent)
      attention = latent.weights_per_token(s.dim, s.num_heads, s.head_dim, s.rope_dim, own)
      size = s.head_dim + (own.value_dim or s.head_dim - s.rope_dim)
    gates = 3 if s.gated else 2
    mlp = s.dim * s.hidden_dim * gates
    if s.experts is not None:
      mixture = moe.Mixture(**s.experts)
      shared = s.dim * (3 * mixture.shared_dim + mixture.shared_gate)
      mlp = mixture.per_token * mlp + s.dim * mixture.count + shared
    head = s.dim * s.outputs

    def scores(kind: Kind) -> float:
      reach = min(kind.window or length, length)
      # Mean number of keys a query sees: growing to `reach`, then constant.
      seen = reach - reach * (reach - 1) / (2 * length) if s.causal else length
      return seen * s.num_heads * size

    return {
      'weights': 6.0
      * (
        s.num_layers * attention
        + (s.num_layers - s.dense_layers) * mlp
        + s.dense_layers * s.dim * s.dense_dim * gates
      ),
      'scores': sum(6.0 * n * scores(kind) for kind, n in Counter(s.blocks).items()),
      'head': 6.0 * head,
    }


# Groups of `config.model`, and what their fields are those of.
GROUPS = {'': Shape, 'experts': moe.Mixture, 'latent': latent.Latent}


def make(*, compute: Mapping[str, Any] | Compute | None = None, **shape: Any) -> Transformer:
  """A Transformer from the fields of `Shape`, and those of `Compute` in `compute`.

  Raises:
    BadInput: an unknown or missing field, or values that do not go together.
  """
  for key in shape:
    if key in options_of(Compute):
      raise BadInput(f'model: {key} is how a model is run: set config.compute.{key}')
  check(Shape, shape, where='model')
  model = Transformer(Shape(**shape), compute_of(compute))
  if model.compute.product_dtype and model.shape.experts is not None:
    raise BadInput('compute: product_dtype rounds no products of experts; leave it out')
  return model
