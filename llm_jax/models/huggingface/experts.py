"""Families with experts: Mixtral, Qwen-MoE, gpt-oss, DeepSeek-V3."""

from typing import Any

from llm_jax.models import moe
from llm_jax.models.huggingface.entries import (
  COMMON,
  EVERY_LAYER,
  HIDDEN,
  LLAMA,
  LLAMA_RULES,
  SIZES,
  SMALL_EXPERTS,
  UNBIASED,
  WINDOW,
  experts,
  without,
)
from llm_jax.models.huggingface.family import Entry, Family
from llm_jax.models.huggingface.layers import layered, windows
from llm_jax.models.huggingface.rope import rope
from llm_jax.models.huggingface.rules import Config, Rule, fixed, need, only, same
from llm_jax.models.latent import Latent
from llm_jax.models.rope_scaling import Yarn, scaling_of
from llm_jax.models.shape import Shape

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
DEEPSEEK = without(LLAMA, '.self_attn.') | {
  'model.layers.{}.self_attn.q_proj.weight': Entry(('blocks/attention/q',), True, 'heads', True),
  'model.layers.{}.self_attn.q_a_proj.weight': 'blocks/attention/q_a',
  'model.layers.{}.self_attn.q_a_layernorm.weight': 'blocks/attention/q_a_norm/scale',
  'model.layers.{}.self_attn.q_b_proj.weight': Entry(
    ('blocks/attention/q_b',), True, 'heads', True
  ),
  'model.layers.{}.self_attn.kv_a_proj_with_mqa.weight': Entry(
    ('blocks/attention/kv_a',), True, paired=True
  ),
  'model.layers.{}.self_attn.kv_a_layernorm.weight': 'blocks/attention/kv_a_norm/scale',
  'model.layers.{}.self_attn.kv_b_proj.weight': 'blocks/attention/kv_b',
  'model.layers.{}.self_attn.o_proj.weight': 'blocks/attention/o',
  'model.layers.{}.mlp.gate.weight': 'blocks/experts/router',
  'model.layers.{}.mlp.gate.e_score_correction_bias': 'blocks/experts/router_bias',
  'model.layers.{}.mlp.experts.{}.gate_proj.weight': 'blocks/experts/gate',
  'model.layers.{}.mlp.experts.{}.up_proj.weight': 'blocks/experts/up',
  'model.layers.{}.mlp.experts.{}.down_proj.weight': 'blocks/experts/down',
  'model.layers.{}.mlp.shared_experts.gate_proj.weight': 'blocks/experts/shared/gate',
  'model.layers.{}.mlp.shared_experts.up_proj.weight': 'blocks/experts/shared/up',
  'model.layers.{}.mlp.shared_experts.down_proj.weight': 'blocks/experts/shared/down',
}


def _latent() -> Rule:
  """The sizes of latent attention, and the scale of its scores."""

  def read(config: Config) -> dict[str, Any]:
    turned = need(config, 'qk_rope_head_dim')
    size = need(config, 'qk_nope_head_dim') + turned
    stretch, scale = rope().read(config)['rope_scaling'], size**-0.5
    yarn = stretch and scaling_of(stretch)
    if isinstance(yarn, Yarn) and yarn.mscale_all_dim:
      scale *= yarn.scale(yarn.mscale_all_dim) ** 2
    own = {'kv_rank': need(config, 'kv_lora_rank'), 'value_dim': need(config, 'v_head_dim')}
    latent = own | {'q_rank': config.get('q_lora_rank') or 0}
    return {'head_dim': size, 'rope_dim': turned, 'latent': latent, 'query_scale': scale}

  def write(shape: Shape) -> dict[str, Any]:
    latent = Latent(**(shape.latent or {'kv_rank': 1}))
    own = shape.head_dim - shape.rope_dim
    return {
      'num_key_value_heads': shape.num_heads,
      'qk_rope_head_dim': shape.rope_dim,
      'qk_nope_head_dim': own,
      'kv_lora_rank': latent.kv_rank,
      'v_head_dim': latent.value_dim or own,
      'q_lora_rank': latent.q_rank or None,
    }

  return Rule(read, write)


def _sparse() -> Rule:
  """Experts behind a few layers without."""

  def read(config: Config) -> dict[str, Any]:
    size, first = need(config, 'moe_intermediate_size'), need(config, 'first_k_dense_replace')
    chosen = {
      'count': need(config, 'n_routed_experts'),
      'per_token': need(config, 'num_experts_per_tok'),
      'normalize': bool(config['norm_topk_prob']),
      'balance': 'bias',
      'score': 'sigmoid',
      'groups': config['n_group'] or 1,
      'top_groups': config['topk_group'] or 1,
      'scale': need(config, 'routed_scaling_factor'),
      'shared_dim': size * need(config, 'n_shared_experts'),
    }
    dense = {'dense_layers': first, 'dense_dim': need(config, 'intermediate_size') if first else 0}
    return {'hidden_dim': size, 'experts': chosen, **dense}

  def write(shape: Shape) -> dict[str, Any]:
    mixture = moe.Mixture(**(shape.experts or {'count': 2}))
    return {
      'moe_intermediate_size': shape.hidden_dim,
      'intermediate_size': shape.dense_dim or shape.hidden_dim,
      'first_k_dense_replace': shape.dense_layers,
      'n_routed_experts': mixture.count,
      'num_experts_per_tok': mixture.per_token,
      'norm_topk_prob': mixture.normalize,
      'n_group': mixture.groups,
      'topk_group': mixture.top_groups,
      'routed_scaling_factor': mixture.scale,
      'n_shared_experts': mixture.shared_dim // shape.hidden_dim,
    }

  return Rule(read, write)


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
  'deepseek_v3': Family(
    'DeepseekV3',
    DEEPSEEK,
    (
      *SIZES,
      same('norm_eps', 'rms_norm_eps'),
      only('hidden_act', 'silu', 'swish'),
      UNBIASED,
      only('rope_interleave', True),
      _latent(),
      _sparse(),
      rope(),
    ),
    COMMON
    | {
      'max_position_embeddings': 4096,
      'kv_lora_rank': 512,
      'q_lora_rank': 1536,
      'qk_rope_head_dim': 64,
      'qk_nope_head_dim': 128,
      'v_head_dim': 128,
      'n_group': 8,
      'topk_group': 4,
      'n_routed_experts': 256,
      'n_shared_experts': 1,
      'num_experts_per_tok': 8,
      'first_k_dense_replace': 3,
      'norm_topk_prob': True,
      'routed_scaling_factor': 2.5,
    },
  ),
}
