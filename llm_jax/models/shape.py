"""What fixes the parameters and the function of a Transformer; an artifact stores it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from flax.core import FrozenDict

from llm_jax.models import moe
from llm_jax.models.latent import Latent
from llm_jax.models.layers import GATED
from llm_jax.models.rope_scaling import scaling_of
from llm_jax.options import Count, Positive, above, at_least, check, suggest, within
from llm_jax.types import BadInput

EMBEDDING_STD = 0.02  # arXiv:1810.04805, GPT-2 and most since
Size = Annotated[int, within(1, 2**24)]  # of one axis of a parameter


@dataclasses.dataclass(frozen=True)
class Kind:
  """What may differ between the blocks of one model; parameters do not.

  Attributes:
    window: how many keys a query sees, itself included; None sees all.
    rope: whether queries and keys are turned by their positions.
    rope_theta: base of the rotary frequencies.
    rope_scaling: fields of a kind in models/rope_scaling.py; or None.
  """

  window: Count | None = None
  rope: bool = True
  rope_theta: Positive = 10000.0
  rope_scaling: Mapping[str, Any] | None = None


# What a kind sets; the rest, and all of 'local', are the fields of the shape.
KINDS: dict[str, dict[str, Any]] = {
  'local': {},
  'global': {'window': None},
  'nope': {'window': None, 'rope': False},  # no positions (arXiv:2305.19466)
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
    hidden_dim: F; default 4 dim for gelu and 8/3 dim for a gated MLP, rounded up to 64.
    max_length: longest sequence; the number of learned positions.
    causal: False sees both sides, for masked language models.
    norm: 'rms', 'layer', or 'zero_centered_rms', which scales by 1 + its parameter (Gemma).
    pre_norm: norms what attention and the MLP are given; False does not (OLMo 2).
    post_norm: also norms what attention and the MLP return, before it is added (Gemma 2).
    norm_eps: added to the variance.
    parallel: the MLP reads what attention reads, not what it leaves (GPT-NeoX, Falcon).
    residual_scale: of what attention and the MLP add (Granite); or None.
    mlp: 'swiglu', 'geglu' (a tanh-GELU gate, Gemma), 'gelu' (tanh, GPT-2) or 'exact_gelu' (erf).
    position: 'rope' or 'learned'.
    rope_theta: base of the rotary frequencies.
    rope_scaling: fields of a kind in models/rope_scaling.py; or None.
    rope_dim: how many numbers of each head, its first ones, are turned; default head_dim.
    qkv_bias: biases on q, k and v (Qwen2).
    out_bias: a bias on o.
    mlp_bias: biases on gate, up and down (Llama).
    bias: biases on q, k, v, o, up and down (GPT-2).
    qk_norm: RMSNorm on each query and key head (Qwen3); 'wide': on all of them as one (OLMo 2).
    sinks: a score of each head that no key has takes part in its softmax (gpt-oss).
    window: how many keys a query of a local block sees, itself included; None sees all.
    layers: kinds of the blocks, a pattern that repeats, or the kinds of all N: 'local' (sees
      `window` keys), 'global' (sees all), 'nope' (sees all, without positions), or a name in
      `kinds`; default all 'local' if there is a window, else all 'global'.
    kinds: fields of `Kind` by the name of a kind, where they differ from what is said here.
    attention_softcap: scores are c tanh(score / c) (Gemma 2); or None.
    logit_softcap: the same for logits.
    query_scale: scores are query_scale * q k; default head_dim ** -0.5.
    embedding_scale: of embeddings before the first block (Gemma: dim ** 0.5).
    logit_divisor: logits are divided by it (Granite); or None.
    latent: fields of `latent.Latent`, for keys and values from a short vector (DeepSeek); or None.
    experts: fields of `moe.Mixture`, for experts in the place of the MLP; or None.
    dense_layers: so many first layers have an MLP all the same (DeepSeek).
    dense_dim: F of these.
    embedding_std: standard deviation that an embedding starts with. The last norm before a tied
      head starts so much smaller that the logits do not depend on it.
    induction_heads: so many key heads of the first two layers start as heads that copy what came
      after the same token before, or, of an even number where the second layer has twice as many,
      after the same two tokens, see models/begin.py; see `inducing` for what has none.
    head: 'tied' to the embedding, 'untied', 'scalar' (one number a token, for rewards), or
      'classes' (a logit for each class).
    classes: names of these.
  """

  vocab_size: Size
  dim: Size
  num_layers: Annotated[int, within(1, 10_000)]
  num_heads: Size
  num_kv_heads: Annotated[int, at_least(0)] = 0
  head_dim: Annotated[int, within(0, 2**24)] = 0
  hidden_dim: Annotated[int, within(0, 2**24)] = 0
  max_length: Annotated[int, within(1, 2**31 - 1)] = 2048
  causal: bool = True
  norm: Literal['rms', 'layer', 'zero_centered_rms'] = 'rms'
  pre_norm: bool = True
  post_norm: bool = False
  norm_eps: Annotated[float, above(0, up_to=0.1)] = 1e-5
  parallel: bool = False
  residual_scale: Positive | None = None
  mlp: Literal['swiglu', 'geglu', 'gelu', 'exact_gelu'] = 'swiglu'
  position: Literal['rope', 'learned'] = 'rope'
  rope_theta: Positive = 10000.0
  rope_scaling: Mapping[str, Any] | None = None
  rope_dim: Annotated[int, at_least(0)] = 0
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  bias: bool = False
  qk_norm: bool | Literal['wide'] = False
  sinks: bool = False
  window: Count | None = None
  layers: Sequence[str] = ()
  kinds: Mapping[str, Mapping[str, Any]] | None = None
  attention_softcap: Positive | None = None
  logit_softcap: Positive | None = None
  query_scale: Positive | None = None
  embedding_scale: Positive | None = None
  logit_divisor: Positive | None = None
  latent: Mapping[str, Any] | None = None
  experts: Mapping[str, Any] | None = None
  dense_layers: Annotated[int, at_least(0)] = 0
  dense_dim: Annotated[int, at_least(0)] = 0
  embedding_std: Positive = EMBEDDING_STD
  induction_heads: Annotated[int, at_least(0)] = 0
  head: Literal['tied', 'untied', 'scalar', 'classes'] = 'tied'
  classes: Sequence[str] = ()

  def __post_init__(self) -> None:
    for field in ('rope_scaling', 'kinds'):
      if (group := getattr(self, field)) is not None:
        object.__setattr__(self, field, FrozenDict(_hashable(group)))
    if self.rope_scaling is not None:
      scaling_of(self.rope_scaling)
    self._check_classes()
    pattern = tuple(self.layers) or ('local' if self.window else 'global',)
    object.__setattr__(self, 'layers', pattern)
    self._check_pattern()
    if self.experts is not None:
      check(moe.Mixture, self.experts, where='model.experts')
      if self.mlp != 'swiglu' or self.bias or self.mlp_bias:
        raise BadInput('model.experts: experts are swiglu without biases; change mlp or bias')
      mixture = dataclasses.asdict(moe.Mixture(**self.experts))
      object.__setattr__(self, 'experts', FrozenDict(mixture))
    if self.latent is not None:
      self._check_latent()
    if self.dense_layers and (self.experts is None or not 0 < self.dense_layers < self.num_layers):
      raise BadInput(
        f'model: dense_layers {self.dense_layers} are the first ones before those with experts; '
        f'set config.model.experts and fewer than num_layers {self.num_layers}'
      )
    if bool(self.dense_layers) != bool(self.dense_dim):
      raise BadInput('model: dense_layers and dense_dim go together; set both, or none')
    for field, default in (
      ('num_kv_heads', self.num_heads),
      ('head_dim', self.dim // self.num_heads),
      ('rope_dim', self.head_dim or self.dim // self.num_heads),
      ('hidden_dim', 64 * math.ceil(self.dim * (8 / 3 if self.gated else 4) / 64)),
    ):
      if not getattr(self, field):
        object.__setattr__(self, field, default)
    if self.num_heads % self.num_kv_heads:
      raise BadInput(
        f'model: num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}'
      )
    if self.position == 'rope' and self.head_dim % 4:
      raise BadInput(f'model: rotary positions need a head_dim divisible by 4, not {self.head_dim}')
    if self.position == 'rope' and (self.rope_dim % 4 or self.rope_dim > self.head_dim):
      raise BadInput(
        f'model: rope_dim {self.rope_dim}; choose a multiple of 4 up to head_dim {self.head_dim}'
      )

  def _check_classes(self) -> None:
    """Raises BadInput for classes that cannot be told apart, or that no head is for."""
    object.__setattr__(self, 'classes', tuple(self.classes))
    if (self.head == 'classes') != bool(self.classes):
      raise BadInput(
        f'model: head {self.head!r} with classes {self.classes}; a classifier has head=classes and '
        'the names of two classes or more'
      )
    if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes):
      raise BadInput(f'model: classes {self.classes}; give two names or more, all different')

  def _check_latent(self) -> None:
    """Raises BadInput for what latent attention does not have."""
    check(Latent, self.latent or {}, where='model.latent')
    object.__setattr__(self, 'latent', FrozenDict(dataclasses.asdict(Latent(**self.latent or {}))))
    for field in ('qkv_bias', 'out_bias', 'bias', 'qk_norm', 'sinks'):
      if getattr(self, field):
        raise BadInput(f'model: latent attention has no {field}; leave it out')
    if not 0 < self.rope_dim < self.head_dim or self.position != 'rope':
      raise BadInput('model: latent attention turns a part of each head; set rope_dim < head_dim')
    if any(k.rope_scaling and scaling_of(k.rope_scaling).moves for k in self.blocks):
      raise BadInput('model: latent attention has no rope_scaling that moves with the length')

  def _check_pattern(self) -> None:
    """Raises BadInput for a pattern of layers that cannot be."""
    names = [*dict.fromkeys((*KINDS, *(self.kinds or ())))]
    for name, fields in (self.kinds or {}).items():
      check(Kind, fields, where=f'model.kinds.{name}')
      if fields.get('rope_scaling') is not None:
        scaling_of(fields['rope_scaling'], where=f'model.kinds.{name}.rope_scaling')
    for name in self.layers:
      if name not in names:
        raise BadInput(f'model.layers: no kind {name!r}; {suggest(name, names)}')
    if self.num_layers % (size := len(self.layers)):
      below, above = self.num_layers // size * size, -(-self.num_layers // size) * size
      raise BadInput(
        f'model.layers: a pattern of {size} does not divide num_layers {self.num_layers}; use '
        f'{f"{below} or " if below else ""}{above} layers, or list the kinds of all of them'
      )
    if 'local' in self.layers and self.kind('local').window is None:
      raise BadInput("model.layers: 'local' sees a window; set config.model.window")
    if self.window and all(self.kind(name).window != self.window for name in self.layers):
      raise BadInput(f"model: no layer has the window of {self.window}; name a 'local' in layers")

  def kind(self, name: str) -> Kind:
    """What a name in `layers` stands for."""
    given = {field: getattr(self, field) for field in ('window', 'rope_theta', 'rope_scaling')}
    given |= KINDS.get(name, {}) | dict((self.kinds or {}).get(name, {}))
    if (scaling := given['rope_scaling']) is not None:
      given['rope_scaling'] = FrozenDict(scaling)
    return Kind(**{**given, 'rope': given.get('rope', True) and self.position == 'rope'})

  @property
  def inducing(self) -> int:
    """How many key heads of the first layer start as parts of induction heads.

    None do without biases and plain rotary positions, nor where scores are normed or capped, nor
    where the first two layers do not see the same tokens.
    """
    if self.num_layers - self.dense_layers < 2 or self.dense_layers or self.latent is not None:
      return 0
    first, second = self.blocks[:2]
    turned = first == second and first.rope and not first.rope_scaling and not first.window
    biased = self.qkv_bias or self.bias
    if not (turned and biased) or self.qk_norm or self.attention_softcap:
      return 0
    return min(self.induction_heads, self.num_kv_heads)

  @property
  def gated(self) -> bool:
    """Whether the MLP has a gate."""
    return self.mlp in GATED

  @property
  def moves_after(self) -> int | None:
    """The length up to which rows leave each other alone; None if they always do.

    Beyond it the longest row of a batch decides what positions are in all of them.
    """
    stretched = [kind.rope_scaling for kind in self.blocks if kind.rope and kind.rope_scaling]
    moving: list[Any] = [one for one in map(scaling_of, stretched) if one.moves]
    return min((one.original_length for one in moving), default=None)

  @property
  def outputs(self) -> int:
    """How many numbers the head gives for a token."""
    return {'scalar': 1, 'classes': len(self.classes)}.get(self.head, self.vocab_size)

  @property
  def rereads(self) -> bool:
    """Whether each new token changes what all others of its row compute."""
    stretched = [kind.rope_scaling for kind in self.blocks if kind.rope and kind.rope_scaling]
    return any(scaling_of(group).rereads for group in stretched)

  @property
  def blocks(self) -> tuple[Kind, ...]:
    """The kind of each of the N blocks."""
    kinds = [self.kind(name) for name in self.layers]
    return tuple(kinds * (self.num_layers // len(kinds)))


def _hashable(group: Mapping[str, Any]) -> dict[str, Any]:
  """A group with its lists as tuples, at any depth."""
  fixed = lambda x: tuple(x) if isinstance(x, list) else x
  return {k: _hashable(v) if isinstance(v, Mapping) else fixed(v) for k, v in group.items()}
