"""Entries of config.json and names of arrays that several families have, Llama's above all."""

from collections.abc import Mapping
from typing import Any

from llm_jax.models import moe
from llm_jax.models.huggingface.family import SCORE, SCORE_BIAS
from llm_jax.models.huggingface.rules import Config, Rule, bad, maybe, need, only, same
from llm_jax.models.shape import Shape
from llm_jax.types import JUDGES


def head() -> Rule:
  """The head: tied or not, or that of a classifier; one with a single label gives a score."""

  def read(config: Config) -> dict[str, Any]:
    if 'ForSequenceClassification' not in str(config.get('architectures')):
      return {'head': 'tied' if config['tie_word_embeddings'] else 'untied'}
    names = config.get('id2label') or {i: f'LABEL_{i}' for i in range(config.get('num_labels', 2))}
    names = [str(name) for _, name in sorted(names.items(), key=lambda one: int(one[0]))]
    if len(names) == 1:
      return {'head': 'scalar'}
    return {'head': 'classes', 'classes': tuple(names)}

  def write(shape: Shape) -> dict[str, Any]:
    tied = {'tie_word_embeddings': shape.head == 'tied'}
    names = shape.classes or ('LABEL_0',)
    both = {'id2label': {str(i): name for i, name in enumerate(names)}}
    both |= {'label2id': {name: i for i, name in enumerate(names)}}
    return tied | both if shape.head in JUDGES else tied

  return Rule(read, write)


def heads(config: Config) -> dict[str, Any]:
  """Sizes of attention that follow from others where they are not said."""
  heads = need(config, 'num_attention_heads')
  return {
    'num_kv_heads': config.get('num_key_value_heads') or heads,
    'head_dim': config.get('head_dim') or need(config, 'hidden_size') // heads,
  }


def experts(
  normalize: bool | None = None,
  count: str = 'num_experts',
  total: int = 128,
  shared: str | None = None,
  clamp: str | None = None,
  bias: bool = False,
) -> Rule:
  """Experts in the place of the MLP.

  Args:
    normalize: whether weights of a token add up to 1; None: config.json says it.
    count: the entry that is written; transformers 5 writes num_local_experts for all.
    total: how many the family assumes.
    shared: the entry with the size of an MLP beside them, which has a gate of its own.
    clamp: the entry with the limit of gpt-oss's unit.
    bias: whether they have biases.
  """

  def read(config: Config) -> dict[str, Any]:
    number = config.get('num_local_experts') or config.get('num_experts') or total
    wanted = bool(config['norm_topk_prob']) if normalize is None else normalize
    chosen = dict(count=number, per_token=config['num_experts_per_tok'], normalize=wanted)
    chosen |= {'shared_dim': need(config, shared), 'shared_gate': True} if shared else {}
    chosen |= {'clamp': need(config, clamp)} if clamp else {}
    return {'experts': chosen | ({'bias': True} if bias else {})}

  def write(shape: Shape) -> dict[str, Any]:
    mixture = moe.Mixture(**(shape.experts or {'count': 2}))
    said: dict[str, Any] = {count: mixture.count, 'num_experts_per_tok': mixture.per_token}
    said |= {} if normalize is not None else {'norm_topk_prob': mixture.normalize}
    said |= {shared: mixture.shared_dim} if shared else {}
    return said | ({clamp: mixture.clamp} if clamp else {})

  return Rule(read, write)


def multiplier(ours: str, theirs: str) -> Rule:
  """A factor that is 1 where we have none."""
  return Rule(
    lambda config: {ours: None if need(config, theirs) == 1 else float(config[theirs])},
    lambda shape: {theirs: getattr(shape, ours) or 1.0},
  )


def biases(theirs: str, *ours: str) -> Rule:
  """An entry that turns on several of our biases."""
  gated = lambda shape: ours == ('mlp_bias',) and shape.gated  # `bias` leaves the gate without
  return Rule(
    lambda config: dict.fromkeys(ours, bool(config.get(theirs))),
    lambda shape: {theirs: getattr(shape, ours[-1]) or (shape.bias and not gated(shape))},
  )


def activation(theirs: str, *names: str) -> Rule:
  """The GELU of an MLP without a gate: exact, or by tanh.

  Args:
    theirs: the entry.
    names: of the one by tanh; the first is written.
  """

  def read(config: Config) -> dict[str, Any]:
    if config[theirs] not in ('gelu', *names):
      raise bad(
        f'{config["model_type"]} with {theirs}={config[theirs]!r} is not supported; '
        f'choose from: gelu, {", ".join(names)}'
      )
    return {'mlp': 'exact_gelu' if config[theirs] == 'gelu' else 'gelu'}

  return Rule(read, lambda shape: {theirs: 'gelu' if shape.mlp == 'exact_gelu' else names[0]})


SIZES = (
  head(),
  same('vocab_size', 'vocab_size'),
  same('dim', 'hidden_size'),
  same('num_layers', 'num_hidden_layers'),
  same('num_heads', 'num_attention_heads'),
  same('max_length', 'max_position_embeddings'),
)
KV_HEADS = Rule(
  heads, lambda shape: {'num_key_value_heads': shape.num_kv_heads, 'head_dim': shape.head_dim}
)
HIDDEN = same('hidden_dim', 'intermediate_size')
DENSE = (*SIZES, KV_HEADS, same('norm_eps', 'rms_norm_eps'))
LLAMA_RULES = (*DENSE, only('hidden_act', 'silu', 'swish'))
UNBIASED = only('attention_bias', False)
WINDOW = maybe('window', 'sliding_window')
EVERY_LAYER = (
  only('decoder_sparse_step', 1),
  only('mlp_only_layers', [], None),
)
SMALL_EXPERTS = (
  same('hidden_dim', 'moe_intermediate_size'),
  Rule(lambda config: {}, lambda shape: {'intermediate_size': shape.hidden_dim}),
)
COMMON = {'rms_norm_eps': 1e-6, 'tie_word_embeddings': False, 'hidden_act': 'silu'}

ENDS = {
  'lm_head.weight': 'head/kernel',
  SCORE: 'head/scalar',
  SCORE_BIAS: 'head/bias',
}
LLAMA = {
  'model.embed_tokens.weight': 'embedding/table',
  'model.layers.{}.input_layernorm.weight': 'blocks/attention_norm/scale',
  'model.layers.{}.self_attn.q_proj.weight': 'blocks/attention/q',
  'model.layers.{}.self_attn.k_proj.weight': 'blocks/attention/k',
  'model.layers.{}.self_attn.v_proj.weight': 'blocks/attention/v',
  'model.layers.{}.self_attn.o_proj.weight': 'blocks/attention/o',
  'model.layers.{}.self_attn.q_proj.bias': 'blocks/attention/q_bias',
  'model.layers.{}.self_attn.k_proj.bias': 'blocks/attention/k_bias',
  'model.layers.{}.self_attn.v_proj.bias': 'blocks/attention/v_bias',
  'model.layers.{}.self_attn.o_proj.bias': 'blocks/attention/o_bias',
  'model.layers.{}.self_attn.q_norm.weight': 'blocks/attention/q_norm/scale',
  'model.layers.{}.self_attn.k_norm.weight': 'blocks/attention/k_norm/scale',
  'model.layers.{}.post_attention_layernorm.weight': 'blocks/mlp_norm/scale',
  'model.layers.{}.mlp.gate_proj.weight': 'blocks/mlp/gate',
  'model.layers.{}.mlp.up_proj.weight': 'blocks/mlp/up',
  'model.layers.{}.mlp.down_proj.weight': 'blocks/mlp/down',
  'model.layers.{}.mlp.gate_proj.bias': 'blocks/mlp/gate_bias',
  'model.layers.{}.mlp.up_proj.bias': 'blocks/mlp/up_bias',
  'model.layers.{}.mlp.down_proj.bias': 'blocks/mlp/down_bias',
  'model.norm.weight': 'final_norm/scale',
  **ENDS,
}
QKV = ('blocks/attention/q', 'blocks/attention/k', 'blocks/attention/v')
QKV_BIAS = tuple(f'{path}_bias' for path in QKV)


def without(arrays: Mapping[str, Any], *parts: str) -> dict[str, Any]:
  """A table less the names that have one of these parts in them."""
  return {name: x for name, x in arrays.items() if not any(part in name for part in parts)}
