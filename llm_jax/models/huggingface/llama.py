"""Llama and its dense relatives: Mistral, Qwen, Phi, OLMo, SmolLM, Granite."""

from llm_jax.models.huggingface.entries import (
  COMMON,
  HIDDEN,
  LLAMA,
  LLAMA_RULES,
  QKV,
  UNBIASED,
  WINDOW,
  biases,
  multiplier,
  without,
)
from llm_jax.models.huggingface.family import Family
from llm_jax.models.huggingface.layers import positioned, windows
from llm_jax.models.huggingface.rope import rope
from llm_jax.models.huggingface.rules import Rule, fixed
from llm_jax.types import JUDGES

PHI3 = without(LLAMA, '.q_proj.', '.k_proj.', '.v_proj.', '.gate_proj.', '.up_proj.') | {
  'model.layers.{}.self_attn.qkv_proj.weight': QKV,
  'model.layers.{}.mlp.gate_up_proj.weight': ('blocks/mlp/gate', 'blocks/mlp/up'),
}
FAMILIES: dict[str, Family] = {
  'llama': Family(
    'Llama',
    LLAMA,
    (
      *LLAMA_RULES,
      HIDDEN,
      biases('attention_bias', 'qkv_bias', 'out_bias'),
      biases('mlp_bias', 'mlp_bias'),
      fixed(window=None),
      rope(),
    ),
    COMMON | {'max_position_embeddings': 2048},
    cannot=lambda shape: ('num_heads', 'a divisor') if shape.dim % shape.num_heads else None,
  ),
  'mistral': Family(
    'Mistral',
    LLAMA,
    (*LLAMA_RULES, HIDDEN, UNBIASED, WINDOW, rope()),
    COMMON | {'max_position_embeddings': 2**17, 'num_key_value_heads': 8, 'sliding_window': 4096},
  ),
  'qwen3': Family(
    'Qwen3',
    LLAMA,
    (*LLAMA_RULES, HIDDEN, UNBIASED, fixed(qk_norm=True), windows(), rope()),
    COMMON | {'max_position_embeddings': 2**15, 'num_key_value_heads': 32, 'head_dim': 128},
  ),
  'qwen2': Family(
    'Qwen2',
    LLAMA,
    (*LLAMA_RULES, HIDDEN, fixed(qkv_bias=True), windows(), rope()),
    COMMON | {'max_position_embeddings': 2**15, 'num_key_value_heads': 32},
  ),
  'phi3': Family(
    'Phi3',
    PHI3,
    (*LLAMA_RULES, HIDDEN, UNBIASED, WINDOW, rope(share=1.0)),
    COMMON | {'rms_norm_eps': 1e-5, 'max_position_embeddings': 4096},
  ),
  'olmo2': Family(
    'Olmo2',
    LLAMA
    | {
      'model.layers.{}.post_attention_layernorm.weight': 'blocks/attention_post_norm/scale',
      'model.layers.{}.post_feedforward_layernorm.weight': 'blocks/mlp_post_norm/scale',
    },
    (
      *LLAMA_RULES,
      HIDDEN,
      UNBIASED,
      fixed(pre_norm=False, post_norm=True, qk_norm='wide'),
      rope(),
    ),
    COMMON | {'rms_norm_eps': 1e-5, 'max_position_embeddings': 2048},
  ),
  'smollm3': Family(
    'SmolLM3',
    LLAMA,
    (
      *LLAMA_RULES,
      HIDDEN,
      biases('attention_bias', 'qkv_bias', 'out_bias'),
      biases('mlp_bias', 'mlp_bias'),
      positioned(),
      rope(theta=2e6),
    ),
    COMMON
    | {'tie_word_embeddings': True, 'max_position_embeddings': 2**15, 'num_key_value_heads': 4},
  ),
  'granite': Family(
    'Granite',
    LLAMA,
    (
      *LLAMA_RULES,
      HIDDEN,
      biases('attention_bias', 'qkv_bias', 'out_bias'),
      biases('mlp_bias', 'mlp_bias'),
      multiplier('embedding_scale', 'embedding_multiplier'),
      multiplier('residual_scale', 'residual_multiplier'),
      multiplier('logit_divisor', 'logits_scaling'),
      Rule(
        lambda config: {'query_scale': float(config['attention_multiplier'])},
        lambda shape: {'attention_multiplier': shape.query_scale or shape.head_dim**-0.5},
      ),
      rope(),
    ),
    COMMON
    | {
      'max_position_embeddings': 2048,
      'embedding_multiplier': 1.0,
      'residual_multiplier': 1.0,
      'logits_scaling': 1.0,
      'attention_multiplier': 1.0,
    },
    cannot=lambda shape: ('head', 'untied') if shape.head in JUDGES else None,
  ),
}
