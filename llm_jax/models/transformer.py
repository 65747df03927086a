"""The one Transformer: Llama, Qwen, Mixtral, GPT-2 and masked language models by its options."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jax.ad_checkpoint import checkpoint_name

from llm_jax.models import attend, attention, moe
from llm_jax.models.layers import MLP, Model, Norm, fan_in, product, rotary, turned
from llm_jax.options import suggest
from llm_jax.parallel.mesh import constrain
from llm_jax.parallel.rules import EXACT, path_of
from llm_jax.types import Array, BadInput

# What a flash kernel leaves for its backward pass has this name; where that is not kept, it runs
# twice.
ATTENTION = jax.checkpoint_policies.save_only_these_names('attention')
POLICIES = {
  'full': jax.checkpoint_policies.nothing_saveable,
  'attention': ATTENTION,
  'offload': jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=['attention'],
    names_which_can_be_offloaded=['block'],
    offload_src='device',
    offload_dst='pinned_host',
  ),
  'dots': jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable, ATTENTION
  ),
  'all_dots': jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_saveable, ATTENTION
  ),
}


@dataclasses.dataclass(frozen=True)
class Shape:
  """Everything that fixes the parameters and the function of a Transformer.

  Attributes:
    vocab_size: V, rows of the embedding.
    dim: D, width of the residual stream.
    num_layers: N.
    num_heads: H query heads.
    num_kv_heads: K key and value heads, a divisor of H (arXiv:2305.13245); default H.
    head_dim: E; default dim / num_heads.
    hidden_dim: F; default 8/3 dim for swiglu and 4 dim for gelu, rounded up to 64.
    max_length: longest sequence; the number of learned positions.
    causal: False sees both sides, for masked language models.
    norm: 'rms' or 'layer'.
    norm_eps: added to the variance.
    mlp: 'swiglu' or 'gelu'.
    position: 'rope' or 'learned'.
    rope_theta: base of the rotary frequencies.
    rope_scaling: Llama 3.1's, see `layers.rotary`; or None.
    qkv_bias: biases on q, k and v (Qwen2).
    bias: biases on every product (GPT-2).
    qk_norm: RMSNorm on each query and key head (Qwen3).
    window: how many keys a query sees, itself included; None sees all.
    attention: the backend, see models/attend: 'auto', 'xla', 'chunked', 'cudnn' or 'splash'.
    attention_softcap: scores are c tanh(score / c) (Gemma 2); or None.
    logit_softcap: the same for logits.
    experts: fields of `moe.Mixture`, for experts in the place of the MLP; or None.
    head: 'tied' to the embedding, 'untied', or 'scalar' (one number a token, for rewards).
    dtype: of activations and products; parameters are float32.
    product_dtype: 'bfloat16' rounds the operands of float32 products, with weights and in
      attention, which is what CPUs with AMX and the like do fast; sums and everything else stay
      float32. None rounds nothing.
    remat: what the backward pass computes again: 'none', 'full' (all of a block), 'attention' (all
      but a flash kernel), 'dots' (all but that and products with weights), 'all_dots' (all but that
      and products), 'offload' (as 'attention', and the input of each block waits in the host's
      memory).
    scan_layers: one compiled block for all layers (compiles fast) or one each (runs faster).
    fuse: one product for query, key and value and one for gate and up; see `layers.products`.
  """

  vocab_size: int
  dim: int
  num_layers: int
  num_heads: int
  num_kv_heads: int = 0
  head_dim: int = 0
  hidden_dim: int = 0
  max_length: int = 2048
  causal: bool = True
  norm: str = 'rms'
  norm_eps: float = 1e-5
  mlp: str = 'swiglu'
  position: str = 'rope'
  rope_theta: float = 10000.0
  rope_scaling: Mapping[str, float] | None = None
  qkv_bias: bool = False
  bias: bool = False
  qk_norm: bool = False
  window: int | None = None
  attention: str = 'auto'
  attention_softcap: float | None = None
  logit_softcap: float | None = None
  experts: Mapping[str, Any] | None = None
  head: str = 'tied'
  dtype: str = 'float32'
  product_dtype: str | None = None
  remat: str = 'none'
  scan_layers: bool = True
  fuse: bool = False

  def __post_init__(self) -> None:
    if self.rope_scaling is not None:
      object.__setattr__(self, 'rope_scaling', FrozenDict(self.rope_scaling))  # so it can be hashed
    if self.experts is not None:
      names = [field.name for field in dataclasses.fields(moe.Mixture)]
      for key in self.experts:
        if key not in names:
          raise BadInput(f'model.experts: unknown option {key!r}; {suggest(key, names)}')
      if 'count' not in self.experts:
        raise BadInput("model.experts: 'count' is missing; set config.model.experts.count")
      if self.mlp != 'swiglu' or self.bias:
        raise BadInput('model.experts: experts are swiglu without biases; change mlp or bias')
      mixture = dataclasses.asdict(moe.Mixture(**self.experts))
      object.__setattr__(self, 'experts', FrozenDict(mixture))
    for field, default in (
      ('num_kv_heads', self.num_heads),
      ('head_dim', self.dim // self.num_heads),
      ('hidden_dim', 64 * math.ceil(self.dim * (8 / 3 if self.mlp == 'swiglu' else 4) / 64)),
    ):
      if not getattr(self, field):
        object.__setattr__(self, field, default)
    for field, allowed in (
      ('norm', ('rms', 'layer')),
      ('mlp', ('swiglu', 'gelu')),
      ('position', ('rope', 'learned')),
      ('head', ('tied', 'untied', 'scalar')),
      ('dtype', ('float32', 'bfloat16', 'float16')),
      ('product_dtype', (None, 'bfloat16')),
      ('remat', ('none', *POLICIES)),
      ('attention', ('auto', *attend.BACKENDS)),
    ):
      if getattr(self, field) not in allowed:
        value = getattr(self, field)
        raise BadInput(
          f'model: {field} {value!r}; {suggest(str(value), [str(name) for name in allowed])}'
        )
    if self.product_dtype and (self.dtype != 'float32' or self.experts is not None):
      raise BadInput(
        'model: product_dtype rounds float32 products of a model without experts; '
        "set dtype='float32' and no experts, or leave it out"
      )
    if self.num_heads % self.num_kv_heads:
      raise BadInput(
        f'model: num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}'
      )
    if self.position == 'rope' and self.head_dim % 4:
      raise BadInput(f'model: rotary positions need a head_dim divisible by 4, not {self.head_dim}')

  def sight(self, cached: bool = False) -> attend.Sight:
    """Who sees whom."""
    return attend.Sight(
      self.causal, self.window, self.attention_softcap, not cached, self.product_dtype
    )

  def backend(self, length: int, cached: bool = False) -> str:
    """The name of the attention backend for rows of `length`; see `attend.choose`."""
    return attend.choose(
      self.attention, self.sight(cached), head_dim=self.head_dim, length=length, dtype=self.dtype
    )


class Block(nn.Module):
  """Pre-norm residual block: x + attention(norm(x)), then x + mlp(norm(x))."""

  shape: Shape

  @nn.compact
  def __call__(
    self,
    x_BLD: Array,
    attend: attend.Attend,
    angles: Any,
    real: Any = None,
    cache: Any = None,
    index: Any = None,
  ) -> tuple[Array, Any]:
    s = self.shape
    x_BLD = checkpoint_name(x_BLD, 'block')
    out_scale = (2 * s.num_layers) ** -0.5  # keeps the residual stream's size at depth (GPT-2)
    x_BLD = constrain(x_BLD, 'batch', 'sequence', None)
    attended_BLD, cache = attention.Attention(
      num_heads=s.num_heads,
      num_kv_heads=s.num_kv_heads,
      head_dim=s.head_dim,
      qkv_bias=s.qkv_bias or s.bias,
      out_bias=s.bias,
      qk_norm=s.qk_norm,
      norm_eps=s.norm_eps,
      out_scale=out_scale,
      fuse=s.fuse,
      narrow=s.product_dtype,
      name='attention',
    )(Norm(s.norm, s.norm_eps, name='attention_norm')(x_BLD), attend, angles, cache, index)
    x_BLD += attended_BLD
    normed_BLD = Norm(s.norm, s.norm_eps, name='mlp_norm')(x_BLD)
    if s.experts is not None:
      experts = moe.Experts(s.hidden_dim, moe.Mixture(**s.experts), out_scale, name='experts')
      return x_BLD + experts(normed_BLD, real), cache
    mlp = MLP(s.hidden_dim, s.mlp, s.bias, out_scale, s.fuse, s.product_dtype, name='mlp')
    return x_BLD + mlp(normed_BLD), cache


class Embedding(nn.Module):
  """Token table [V, D] and, for learned positions, `position` [max_length, D]."""

  shape: Shape

  def setup(self) -> None:
    s = self.shape
    init = nn.initializers.normal(0.02)
    self.table = self.param('table', init, (s.vocab_size, s.dim))
    if s.position == 'learned':
      self.position = self.param('position', init, (s.max_length, s.dim))

  def __call__(self, tokens_BL: Array, position_BL: Array) -> Array:
    dtype = self.shape.dtype
    # Whole rows on every device that looks them up: of a table cut along D, each would find a part
    # of all tokens, and have to exchange it.
    table_VD = constrain(jnp.asarray(self.table).astype(dtype), 'tensor', None)
    x_BLD = table_VD[tokens_BL]
    if self.shape.position == 'learned':
      x_BLD += jnp.asarray(self.position)[position_BL].astype(dtype)
    return x_BLD


class Head(nn.Module):
  """What reads the last hidden state when it is not the embedding.

  `kernel` [D, V] of an untied head; `scalar` [D] and `bias` [] of a scalar one, which starts as
  N(0, 1/(D+1)) and 0 (arXiv:2009.01325, appendix).
  """

  shape: Shape

  @nn.compact
  def __call__(self, hidden_BLD: Array) -> Array:
    s = self.shape
    if s.head == 'scalar':
      scalar_D = self.param('scalar', nn.initializers.normal((s.dim + 1) ** -0.5), (s.dim,))
      bias = self.param('bias', nn.initializers.zeros, ())
      return hidden_BLD.astype(jnp.float32) @ scalar_D + bias
    kernel_DV = self.param('kernel', fan_in(s.dim), (s.dim, s.vocab_size))
    return product(hidden_BLD, kernel_DV, dtype=jnp.float32, narrow=s.product_dtype)


class Transformer(Model):
  """Decoder-only Transformer; `blocks` hold all layers stacked on their first axis.

  Call it with `apply(params, tokens, position, segment, cache)`; `method='hidden'` stops before
  the head and `method='unembed'` is the head alone, so that a loss can take it block by block.
  """

  shape: Shape
  frozen = ()  # top-level names of parameters that training leaves alone: none

  def setup(self) -> None:
    s = self.shape
    self.embedding = Embedding(s)
    # Read as they are, so that a weight may also come as a LowRank (models/lora.py).
    made = lambda: self.param('blocks', self._init_blocks)
    self.blocks = made() if self.is_initializing() else self.get_variable('params', 'blocks')
    self.final_norm = Norm(s.norm, s.norm_eps)
    if s.head != 'tied':
      self.head = Head(s)

  def _init_blocks(self, rng: Array) -> Any:
    x_BLD, zero = jnp.zeros((1, 1, self.shape.dim)), jnp.zeros((1, 1), jnp.int32)
    block, nothing = Block(self.shape, parent=None), lambda q, k, v: q
    init = lambda key: block.init(key, x_BLD, nothing, self._angles(zero))['params']
    return jax.vmap(init)(jax.random.split(rng, self.shape.num_layers))

  def _angles(self, position_BL: Array) -> tuple[Array, Array] | None:
    s = self.shape
    if s.position == 'learned':
      return None
    return rotary(position_BL, s.head_dim, s.rope_theta, s.rope_scaling)

  def __call__(
    self,
    tokens_BL: Array,
    position_BL: Array | None = None,
    segment_BL: Array | None = None,
    cache: dict[str, Any] | None = None,
  ) -> tuple[Array, dict[str, Any] | None]:
    """float32 logits [B, L, V] (or scores [B, L] of a scalar head) and the cache.

    Args:
      tokens_BL: int ids.
      position_BL: counts from 0 inside each segment; default 0 .. L-1.
      segment_BL: 0 = padding, else the document of a row; default all 1.
      cache: from `make_cache`, to continue rows; the new tokens take its next L slots.
    """
    hidden_BLD, cache = self.hidden(tokens_BL, position_BL, segment_BL, cache)
    return self.unembed(hidden_BLD), cache

  def hidden(
    self,
    tokens_BL: Array,
    position_BL: Array | None = None,
    segment_BL: Array | None = None,
    cache: dict[str, Any] | None = None,
  ) -> tuple[Array, dict[str, Any] | None]:
    """The normed last hidden states [B, L, D] and the cache; arguments as `__call__`."""
    s = self.shape
    length = tokens_BL.shape[1]
    if position_BL is None:
      position_BL = jnp.broadcast_to(jnp.arange(length), tokens_BL.shape)
    if segment_BL is None:
      segment_BL = jnp.ones_like(tokens_BL)
    place = attend.Place(position_BL, segment_BL, position_BL, segment_BL)
    if cache is not None:
      write = jax.lax.dynamic_update_slice
      place = place._replace(
        k_position=write(cache['position'], position_BL, (0, cache['index'])),
        k_segment=write(cache['segment'], segment_BL, (0, cache['index'])),
      )
    # Parameters are made from a single token, which no kernel would take.
    cached = cache is not None
    backend = 'xla' if self.is_initializing() else s.backend(length, cached)
    see = attend.load(backend).make(place, s.sight(cached))
    x_BLD = constrain(self.embedding(tokens_BL, position_BL), 'batch', 'sequence', None)
    angles = self._angles(position_BL)
    block = Block(s, parent=None)

    def run(params: Any, x_BLD: Array, layer_cache: Any) -> tuple[Array, Any]:
      index = cache['index'] if cache is not None else None
      return block.apply({'params': params}, x_BLD, see, angles, segment_BL > 0, layer_cache, index)

    if s.remat != 'none':
      run = jax.checkpoint(run, policy=POLICIES[s.remat], prevent_cse=not s.scan_layers)
    if s.scan_layers and cache is None:
      x_BLD, _ = jax.lax.scan(lambda x, params: run(params, x, None), x_BLD, self.blocks)
    else:
      new_layers = []
      for i, params in enumerate(unstack(self.blocks, s.num_layers)):
        x_BLD, layer = run(params, x_BLD, cache['layers'][i] if cache is not None else None)
        new_layers.append(layer)
      if cache is not None:
        cache = {
          'layers': tuple(new_layers),
          'position': place.k_position,
          'segment': place.k_segment,
          'index': cache['index'] + length,
        }
    return self.final_norm(x_BLD), cache

  def unembed(self, hidden_D: Array) -> Array:
    """float32 logits [..., V] of hidden states [..., D] (scores [...] for a scalar head)."""
    s = self.shape
    if s.head == 'tied':
      table_DV = turned(jnp.asarray(self.embedding.table), s.product_dtype)
      logits_V = product(hidden_D, table_DV, dtype=jnp.float32, narrow=s.product_dtype)
    else:
      logits_V = self.head(hidden_D)
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
      return x if EXACT.search(path_of(key_path)) else x.astype(self.shape.dtype)

    layers = {**params, 'blocks': tuple(unstack(params['blocks'], self.shape.num_layers))}
    model = self
    if self.shape.head == 'tied':
      model = make(**dataclasses.asdict(self.shape) | {'head': 'untied'})
      layers['head'] = {'kernel': params['embedding']['table'].T}
    return model, jax.tree_util.tree_map_with_path(cast, layers)

  def published(self, params: Any) -> tuple['Transformer', Any]:
    """The model and parameters that an artifact holds: these."""
    return self, params

  def make_cache(self, batch: int, slots: int) -> dict[str, Any]:
    """An empty cache for `batch` rows of at most `slots` tokens."""
    s = self.shape
    empty = lambda: jnp.zeros((batch, s.num_kv_heads, slots, s.head_dim), s.dtype)
    return {
      'layers': tuple({'k': empty(), 'v': empty()} for _ in range(s.num_layers)),
      'position': jnp.zeros((batch, slots), jnp.int32),
      'segment': jnp.zeros((batch, slots), jnp.int32),
      'index': jnp.int32(0),
    }

  def num_params(self) -> int:
    """How many numbers the parameters hold."""
    tree = jax.eval_shape(lambda: self.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

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
    attention = s.dim * s.head_dim * (2 * s.num_heads + 2 * s.num_kv_heads)
    mlp = s.dim * s.hidden_dim * (3 if s.mlp == 'swiglu' else 2)
    if s.experts is not None:
      mixture = moe.Mixture(**s.experts)
      mlp = mixture.per_token * mlp + s.dim * mixture.count
    head = s.dim * (1 if s.head == 'scalar' else s.vocab_size)
    reach = length if s.window is None else min(s.window, length)
    # Mean number of keys a query sees: growing to `reach`, then constant.
    seen = reach - reach * (reach - 1) / (2 * length) if s.causal else length
    scores = 2 * seen * s.num_heads * s.head_dim
    return {
      'weights': 6.0 * s.num_layers * (attention + mlp),
      'scores': 6.0 * s.num_layers * scores,
      'head': 6.0 * head,
    }


def unstack(blocks: Any, num_layers: int) -> Sequence[Any]:
  """The parameters of each layer; a split, so that its gradient is one concatenation."""
  if isinstance(blocks, tuple):  # from `for_decoding`
    return blocks
  leaves, treedef = jax.tree.flatten(blocks)
  columns = [jax.lax.split(leaf, (1,) * num_layers) for leaf in leaves]
  return [treedef.unflatten([c[i][0] for c in columns]) for i in range(num_layers)]


def make(**shape: Any) -> Transformer:
  """A Transformer from the fields of `Shape`.

  Raises:
    BadInput: an unknown or missing field, or values that do not go together.
  """
  fields = dataclasses.fields(Shape)
  names = [field.name for field in fields]
  for key in shape:
    if key not in names:
      raise BadInput(f'model: unknown option {key!r}; {suggest(key, names)}')
  for field in fields:
    if field.default is dataclasses.MISSING and field.name not in shape:
      raise BadInput(f'model: {field.name!r} is missing; set config.model.{field.name}')
  return Transformer(Shape(**shape))
