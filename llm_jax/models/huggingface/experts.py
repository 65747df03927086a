"""Families with experts: Mixtral, Qwen-MoE, gpt-oss."""

from llm_jax.models.huggingface.entries import (
  COMMON,
  EVERY_LAYER,
  HIDDEN,
  LLAMA,
  LLAMA_RULES,
  SMALL_EXPERTS,
  UNBIASED,
  WINDOW,
  experts,
)
from llm_jax.models.huggingface.family import Entry, Family
from llm_jax.models.huggingface.layers import layered, windows
from llm_jax.models.huggingface.rope import rope
from llm_jax.models.huggingface.rules import fixed, only

QWEN_MOE = LLAMA | {
  'model.layers.{}.mlp.gate.weight': 'blocks/experts/router',
  'model.layers.{}.mlp.experts.{}.gate_proj.weight': 'blocks/experts/gate',
  'model.layers.{}.mlp.experts.{}.up_proj.weight': 'blocks/experts/up',
  'model.layers.{}.mlp.experts.{}.down_proj.weight': 'blocks/experts/down',
  'model.layers.{}.mlp.shared_expert.gate_proj.weight': 'blocks/experts/shared/gate',
  'model.layers.{}.mlp.shared_expert.up_proj.weight': 'blocks/experts/shared/up',
  'model.layers.{}.mlp.shared_expert.down_proj.weight': 'blocks/experts/shared/down',
  'model.layers.{}.mlp.shared_expert_gate.weight': 'blocks/experts/shared_gate',
}
MIXTRAL = LLAMA | {
  'model.layers.{}.block_sparse_moe.gate.weight': 'blocks/experts/router',
  'model.layers.{}.block_sparse_moe.experts.{}.w1.weight': 'blocks/experts/gate',
  'model.layers.{}.block_sparse_moe.experts.{}.w3.weight': 'blocks/experts/up',
  'model.layers.{}.block_sparse_moe.experts.{}.w2.weight': 'blocks/experts/down',
}
GPT_OSS = LLAMA | {
  'model.layers.{}.self_attn.sinks': 'blocks/attention/sink',
  'model.layers.{}.mlp.router.weight': 'blocks/experts/router',
  'model.layers.{}.mlp.router.bias': 'blocks/experts/router_offset',
  'model.layers.{}.mlp.experts.gate_up_proj': Entry(
    ('blocks/experts/gate', 'blocks/experts/up'), transposed=False, turns='columns'
  ),
  'model.layers.{}.mlp.experts.gate_up_proj_bias': Entry(
    ('blocks/experts/gate_bias', 'blocks/experts/up_bias'), transposed=False, turns='columns'
  ),
  'model.layers.{}.mlp.experts.down_proj': Entry(('blocks/experts/down',), transposed=False),
  'model.layers.{}.mlp.experts.down_proj_bias': 'blocks/experts/down_bias',
}
FAMILIES: dict[str, Family] = {
  'mixtral': Family(
    'Mixtral',
    MIXTRAL,
    (
      *LLAMA_RULES,
      HIDDEN,
      experts(normalize=True, count='num_local_experts', total=8),
      WINDOW,
      rope(theta=1e6),
    ),
    COMMON
    | {
      'max_position_embeddings': 2**17,
      'num_key_value_heads': 8,
      'rms_norm_eps': 1e-5,
      'num_experts_per_tok': 2,
    },
  ),
  'qwen3_moe': Family(
    'Qwen3Moe',
    QWEN_MOE,
    (
      *LLAMA_RULES,
      UNBIASED,
      fixed(qk_norm=True),
      *SMALL_EXPERTS,
      experts(),
      *EVERY_LAYER,
      windows(),
      rope(),
    ),
    COMMON
    | {
      'max_position_embeddings': 2**15,
      'num_key_value_heads': 4,
      'num_experts_per_tok': 8,
      'moe_intermediate_size': 768,
      'norm_topk_prob': False,
    },
  ),
  'qwen2_moe': Family(
    'Qwen2Moe',
    QWEN_MOE,
    (
      *LLAMA_RULES,
      only('qkv_bias', True),
      fixed(qkv_bias=True),
      *SMALL_EXPERTS,
      experts(total=60, shared='shared_expert_intermediate_size'),
      *EVERY_LAYER,
      windows(),
      rope(),
    ),
    COMMON
    | {
      'max_position_embeddings': 2**15,
      'num_key_value_heads': 16,
      'num_experts_per_tok': 4,
      'moe_intermediate_size': 1408,
      'shared_expert_intermediate_size': 5632,
      'norm_topk_prob': False,
    },
  ),
  'gpt_oss': Family(
    'GptOss',
    GPT_OSS,
    (
      *LLAMA_RULES,
      HIDDEN,
      only('attention_bias', True),
      only('swiglu_alpha', 1.702),
      fixed(qkv_bias=True, out_bias=True, sinks=True),
      experts(normalize=True, count='num_local_experts', clamp='swiglu_limit', bias=True),
      layered(period=2),
      rope(theta=150000.0),
    ),
    COMMON
    | {
      'rms_norm_eps': 1e-5,
      'max_position_embeddings': 2**17,
      'num_key_value_heads': 8,
      'head_dim': 64,
      'sliding_window': 128,
      'num_experts_per_tok': 4,
      'swiglu_limit': 7.0,
      'attention_bias': True,
    },
  ),
}
