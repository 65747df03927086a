"""config.json of Hugging Face transformers: what a family says of a model, in our words and back.

What their families cannot say, and what ours cannot, is refused by name.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from llm_jax.models import moe
from llm_jax.models.shape import Shape
from llm_jax.types import BadInput

# What their configuration classes assume where config.json says nothing.
COMMON = {'rms_norm_eps': 1e-6, 'tie_word_embeddings': False, 'hidden_act': 'silu'}
DEFAULTS: dict[str, dict[str, Any]] = {
  'llama': COMMON | {'max_position_embeddings': 2048},
  'mistral': COMMON
  | {'max_position_embeddings': 2**17, 'num_key_value_heads': 8, 'sliding_window': 4096},
  'mixtral': COMMON
  | {
    'max_position_embeddings': 2**17,
    'num_key_value_heads': 8,
    'rms_norm_eps': 1e-5,
    'num_experts_per_tok': 2,
    'rope_theta': 1e6,
  },
  'qwen2': COMMON | {'max_position_embeddings': 2**15, 'num_key_value_heads': 32},
  'qwen3': COMMON | {'max_position_embeddings': 2**15, 'num_key_value_heads': 32, 'head_dim': 128},
  'qwen3_moe': COMMON
  | {
    'max_position_embeddings': 2**15,
    'num_key_value_heads': 4,
    'num_experts_per_tok': 8,
    'moe_intermediate_size': 768,
    'norm_topk_prob': False,
  },
  'gpt2': {
    'n_positions': 1024,
    'layer_norm_epsilon': 1e-5,
    'tie_word_embeddings': True,
    'activation_function': 'gelu_new',
  },
}
CLASSES = {
  'llama': 'Llama',
  'mistral': 'Mistral',
  'mixtral': 'Mixtral',
  'qwen2': 'Qwen2',
  'qwen3': 'Qwen3',
  'qwen3_moe': 'Qwen3Moe',
  'gpt2': 'GPT2',
}

# Options that change the function, with the values at which they do not.
NEUTRAL = {
  'hidden_act': ('silu', 'swish'),
  'activation_function': ('gelu_new', 'gelu_pytorch_tanh'),
  'attention_bias': (False,),
  'mlp_bias': (False,),
  'partial_rotary_factor': (1, None),
  'scale_attn_weights': (True,),
  'scale_attn_by_inverse_layer_idx': (False,),
  'add_cross_attention': (False,),
  'quantization_config': (None,),
  'decoder_sparse_step': (1,),
  'mlp_only_layers': ([], None),
}
SCALING = {  # of Llama 3.1: ours to theirs
  'factor': 'factor',
  'low_freq_factor': 'low_freq_factor',
  'high_freq_factor': 'high_freq_factor',
  'original_length': 'original_max_position_embeddings',
}


def shape_of(config: Mapping[str, Any]) -> dict[str, Any]:
  """Keyword arguments of `transformer.make` for a config.json of theirs.

  Raises:
    BadInput: an unknown `model_type`, or an option our Transformer does not have.
  """
  family = config.get('model_type')
  if family not in DEFAULTS:
    raise bad(f'model_type {family!r} is not supported; choose from: {", ".join(DEFAULTS)}')
  config = DEFAULTS[family] | dict(config)
  for key, values in NEUTRAL.items():
    if key in config and config[key] not in values:
      raise bad(f'{family} with {key}={config[key]!r} is not supported; only {values[0]!r} is')
  shape = {'vocab_size': _need(config, 'vocab_size'), 'head': _head_of(config)}
  if family == 'gpt2':
    width = _need(config, 'n_embd')
    return shape | {
      'dim': width,
      'num_layers': _need(config, 'n_layer'),
      'num_heads': _need(config, 'n_head'),
      'hidden_dim': config.get('n_inner') or 4 * width,
      'max_length': config['n_positions'],
      'norm': 'layer',
      'norm_eps': config['layer_norm_epsilon'],
      'mlp': 'gelu',
      'position': 'learned',
      'bias': True,
    }
  heads = _need(config, 'num_attention_heads')
  return shape | {
    'dim': _need(config, 'hidden_size'),
    'num_layers': _need(config, 'num_hidden_layers'),
    'num_heads': heads,
    'num_kv_heads': config.get('num_key_value_heads') or heads,
    'head_dim': config.get('head_dim') or config['hidden_size'] // heads,
    'hidden_dim': _need(
      config, 'moe_intermediate_size' if family == 'qwen3_moe' else 'intermediate_size'
    ),
    **_experts_of(config, family),
    'max_length': config['max_position_embeddings'],
    'norm_eps': config['rms_norm_eps'],
    'qkv_bias': family == 'qwen2',
    'qk_norm': family in ('qwen3', 'qwen3_moe'),
    'window': _window_of(config, family),
    **_rope_of(config, family),
  }


def _experts_of(config: Mapping[str, Any], family: str) -> dict[str, Any]:
  if family not in ('mixtral', 'qwen3_moe'):
    return {}
  # Both spellings: transformers 5 writes the first one for Qwen3 too.
  count = config.get('num_local_experts') or config.get('num_experts')
  count = count or (8 if family == 'mixtral' else 128)
  normalize = family == 'mixtral' or bool(config['norm_topk_prob'])
  chosen = dict(count=count, per_token=config['num_experts_per_tok'], normalize=normalize)
  return {'experts': chosen}


def _head_of(config: Mapping[str, Any]) -> str:
  if 'ForSequenceClassification' not in str(config.get('architectures')):
    return 'tied' if config['tie_word_embeddings'] else 'untied'
  labels = len(config.get('id2label') or range(config.get('num_labels', 2)))
  if labels != 1:
    raise bad(f'a classifier of {labels} labels is not supported; a reward model has num_labels=1')
  return 'scalar'


def _window_of(config: Mapping[str, Any], family: str) -> int | None:
  if family == 'llama' or (
    family not in ('mistral', 'mixtral') and not config.get('use_sliding_window')
  ):
    return None
  if family in ('mistral', 'mixtral') or config.get('sliding_window') is None:
    return config.get('sliding_window')
  layers = config['num_hidden_layers']
  kinds = set(config.get('layer_types') or ())
  if not kinds:
    first = config.get('max_window_layers', 28)
    kinds = {'sliding_attention' if i >= first else 'full_attention' for i in range(layers)}
  if len(kinds) > 1:
    raise bad(f'{family} with a sliding window in some layers only is not supported')
  return config['sliding_window'] if kinds == {'sliding_attention'} else None


def _rope_of(config: Mapping[str, Any], family: str) -> dict[str, Any]:
  """Both spellings: `rope_parameters` holds all, or `rope_theta` stands beside `rope_scaling`."""
  rope = config.get('rope_parameters') or config.get('rope_scaling') or {}
  theta = rope.get('rope_theta', config.get('rope_theta', 10000.0))
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind not in ('default', 'llama3'):
    raise bad(f'{family} with rope_type {kind!r} is not supported; use default or llama3')
  if rope.get('partial_rotary_factor', 1) != 1:
    raise bad(f'{family} with a partial_rotary_factor is not supported')
  scaling = (
    {ours: _need(rope, theirs) for ours, theirs in SCALING.items()} if kind == 'llama3' else None
  )
  return {'rope_theta': float(theta), 'rope_scaling': scaling}


def config_of(shape: Shape) -> dict[str, Any]:
  """The config.json of a model of ours, in the family that has its options.

  Raises:
    BadInput: no family has them; the message names the first option in the way.
  """
  family = family_of(shape)
  kind = (
    'ForSequenceClassification'
    if shape.head == 'scalar'
    else ('LMHeadModel' if family == 'gpt2' else 'ForCausalLM')
  )
  config: dict[str, Any] = {
    'model_type': family,
    'architectures': [CLASSES[family] + kind],
    'vocab_size': shape.vocab_size,
    'tie_word_embeddings': shape.head == 'tied',
  }
  if shape.head == 'scalar':
    config |= {'id2label': {'0': 'LABEL_0'}, 'label2id': {'LABEL_0': 0}}
  if family == 'gpt2':
    config |= {
      'n_embd': shape.dim,
      'n_layer': shape.num_layers,
      'n_head': shape.num_heads,
      'n_inner': shape.hidden_dim,
      'n_positions': shape.max_length,
      'layer_norm_epsilon': shape.norm_eps,
      'activation_function': 'gelu_new',
    }
  else:
    config |= {
      'hidden_size': shape.dim,
      'num_hidden_layers': shape.num_layers,
      'num_attention_heads': shape.num_heads,
      'num_key_value_heads': shape.num_kv_heads,
      'head_dim': shape.head_dim,
      'intermediate_size': shape.hidden_dim,
      'max_position_embeddings': shape.max_length,
      'rms_norm_eps': shape.norm_eps,
      'hidden_act': 'silu',
      # Libraries from before `rope_parameters` read these two; newer ones still do.
      'rope_theta': shape.rope_theta,
      'rope_scaling': None,
    }
    if shape.rope_scaling:
      scaling = {theirs: shape.rope_scaling[ours] for ours, theirs in SCALING.items()}
      config['rope_scaling'] = {'rope_type': 'llama3', **scaling}
    if family != 'llama':
      config['sliding_window'] = shape.window
    if shape.experts is not None:
      mixture = moe.Mixture(**shape.experts)
      config |= {'num_experts_per_tok': mixture.per_token}
      if family == 'mixtral':
        config['num_local_experts'] = mixture.count
      else:
        config |= {
          'num_experts': mixture.count,
          'moe_intermediate_size': shape.hidden_dim,
          'norm_topk_prob': mixture.normalize,
          'decoder_sparse_step': 1,
          'mlp_only_layers': [],
        }
    if family in ('qwen2', 'qwen3', 'qwen3_moe'):
      config |= {'use_sliding_window': shape.window is not None, 'max_window_layers': 0}
  _check_same(shape, Shape(**shape_of(config)), family)
  return config


def family_of(shape: Shape) -> str:
  """The family that has the options of a shape, or comes closest."""
  if shape.position == 'learned':
    return 'gpt2'
  if shape.experts is not None:
    return 'qwen3_moe' if shape.qk_norm else 'mixtral'
  if shape.qk_norm:
    return 'qwen3'
  if shape.qkv_bias:
    return 'qwen2'
  # Mistral is Llama with a window, and allows a width that its heads do not divide.
  return 'mistral' if shape.window is not None or shape.dim % shape.num_heads else 'llama'


def _check_same(shape: Shape, back: Shape, family: str) -> None:
  """What the family cannot say has turned into something else on the way there and back."""
  skip = set()
  if shape.position == 'learned':
    skip |= {'rope_theta', 'rope_scaling'}
  if shape.bias:
    skip |= {'qkv_bias'}
  for field in dataclasses.fields(Shape):
    ours, theirs = (getattr(s, field.name) for s in (shape, back))
    if field.name == 'experts':
      ours, theirs = (
        e and {k: getattr(moe.Mixture(**e), k) for k in ('count', 'per_token', 'normalize')}
        for e in (ours, theirs)
      )
      if shape.experts and moe.Mixture(**shape.experts).balance == 'bias':
        raise bad(f'no family of theirs has experts balanced by a bias; {family} has none')
    if isinstance(ours, Mapping):
      ours = dict(ours)
    if field.name not in skip and ours != theirs:
      raise bad(
        f'no family of theirs has this model: the closest, {family}, has {field.name}={theirs!r}, '
        f'not {ours!r}'
      )


def _need(config: Mapping[str, Any], key: str) -> Any:
  if config.get(key) is None:
    raise bad(f'config.json has no {key}')
  return config[key]


def bad(message: str) -> BadInput:
  """An error of these files."""
  return BadInput(f'huggingface: {message}')
