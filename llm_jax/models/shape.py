"""What fixes the parameters and the function of a Transformer; an artifact stores it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from flax.core import FrozenDict

from llm_jax.models import moe
from llm_jax.options import Count, Positive, at_least, check
from llm_jax.types import BadInput


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
    attention_softcap: scores are c tanh(score / c) (Gemma 2); or None.
    logit_softcap: the same for logits.
    experts: fields of `moe.Mixture`, for experts in the place of the MLP; or None.
    head: 'tied' to the embedding, 'untied', or 'scalar' (one number a token, for rewards).
  """

  vocab_size: Count
  dim: Count
  num_layers: Count
  num_heads: Count
  num_kv_heads: Annotated[int, at_least(0)] = 0
  head_dim: Annotated[int, at_least(0)] = 0
  hidden_dim: Annotated[int, at_least(0)] = 0
  max_length: Count = 2048
  causal: bool = True
  norm: Literal['rms', 'layer'] = 'rms'
  norm_eps: Positive = 1e-5
  mlp: Literal['swiglu', 'gelu'] = 'swiglu'
  position: Literal['rope', 'learned'] = 'rope'
  rope_theta: Positive = 10000.0
  rope_scaling: Mapping[str, float] | None = None
  qkv_bias: bool = False
  bias: bool = False
  qk_norm: bool = False
  window: Count | None = None
  attention_softcap: Positive | None = None
  logit_softcap: Positive | None = None
  experts: Mapping[str, Any] | None = None
  head: Literal['tied', 'untied', 'scalar'] = 'tied'

  def __post_init__(self) -> None:
    if self.rope_scaling is not None:
      object.__setattr__(self, 'rope_scaling', FrozenDict(self.rope_scaling))  # so it can be hashed
    if self.experts is not None:
      check(moe.Mixture, self.experts, where='model.experts')
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
    if self.num_heads % self.num_kv_heads:
      raise BadInput(
        f'model: num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}'
      )
    if self.position == 'rope' and self.head_dim % 4:
      raise BadInput(f'model: rotary positions need a head_dim divisible by 4, not {self.head_dim}')
