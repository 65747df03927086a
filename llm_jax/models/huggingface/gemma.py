"""Gemma 1 to 3."""

import math

from llm_jax.models.huggingface.entries import DENSE, HIDDEN, LLAMA, UNBIASED
from llm_jax.models.huggingface.family import Family
from llm_jax.models.huggingface.layers import layered
from llm_jax.models.huggingface.rope import rope, rope_by_kind
from llm_jax.models.huggingface.rules import Rule, fixed, maybe, need, only


def whole(value: float) -> float:
  """A number that is a whole one but for rounding, as that."""
  return round(value) if math.isclose(value, round(value)) else value


# Released files say gelu, and their models have always been run with the one by tanh.
TANH = ('gelu_pytorch_tanh', 'gelu')
GEMMA_RULES = (
  *DENSE,
  HIDDEN,
  UNBIASED,
  only('use_bidirectional_attention', None, False, write=False),
  Rule(lambda config: {'embedding_scale': need(config, 'hidden_size') ** 0.5}),
)
# Of Gemma 2 and 3: four norms a layer.
GEMMA2_RULES = (
  *GEMMA_RULES,
  only('hidden_activation', *TANH),
  maybe('attention_softcap', 'attn_logit_softcapping'),
  maybe('logit_softcap', 'final_logit_softcapping'),
  Rule(
    lambda config: {'query_scale': need(config, 'query_pre_attn_scalar') ** -0.5},
    lambda shape: {'query_pre_attn_scalar': whole((shape.query_scale or 1) ** -2)},
  ),
)
GEMMA_DEFAULTS = {
  'rms_norm_eps': 1e-6,
  'tie_word_embeddings': True,
  'hidden_activation': 'gelu_pytorch_tanh',
  'head_dim': 256,
  'max_position_embeddings': 8192,
  'query_pre_attn_scalar': 256,
  'sliding_window': 4096,
}

POST_NORMS = {
  'model.layers.{}.post_attention_layernorm.weight': 'blocks/attention_post_norm/scale',
  'model.layers.{}.pre_feedforward_layernorm.weight': 'blocks/mlp_norm/scale',
  'model.layers.{}.post_feedforward_layernorm.weight': 'blocks/mlp_post_norm/scale',
}
FAMILIES: dict[str, Family] = {
  'gemma': Family(
    'Gemma',
    LLAMA,
    (
      *GEMMA_RULES,
      only('hidden_act', *TANH),
      only('hidden_activation', *TANH, None),
      fixed(norm='zero_centered_rms', mlp='geglu'),
      rope(),
    ),
    GEMMA_DEFAULTS | {'hidden_act': 'gelu_pytorch_tanh', 'num_key_value_heads': 16},
  ),
  'gemma2': Family(
    'Gemma2',
    LLAMA | POST_NORMS,
    (
      *GEMMA2_RULES,
      fixed(norm='zero_centered_rms', mlp='geglu', post_norm=True),
      layered(period=2),
      rope(),
    ),
    GEMMA_DEFAULTS
    | {
      'num_key_value_heads': 4,
      'attn_logit_softcapping': 50.0,
      'final_logit_softcapping': 30.0,
    },
  ),
  'gemma3_text': Family(
    'Gemma3',
    LLAMA | POST_NORMS,
    (
      *GEMMA2_RULES,
      fixed(norm='zero_centered_rms', mlp='geglu', post_norm=True, qk_norm=True),
      layered(period=6),
      rope_by_kind(),
    ),
    GEMMA_DEFAULTS
    | {
      'vocab_size': 262208,
      'hidden_size': 2304,
      'intermediate_size': 9216,
      'num_hidden_layers': 26,
      'num_attention_heads': 8,
      'num_key_value_heads': 4,
      'max_position_embeddings': 2**17,
    },
    scoring='TextForSequenceClassification',
  ),
}
