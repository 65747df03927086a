"""The families of Hugging Face transformers: for each one its config, its arrays, its defaults.

Layouts are those of the public transformers library (models/<family>/modeling_<family>.py). A
family is a row of FAMILIES: what its configuration class assumes, the rules that read and write
config.json (rules.py), and the table from the names of its arrays to our parameter paths.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from llm_jax.models import moe
from llm_jax.models.huggingface.layers import windows
from llm_jax.models.huggingface.rope import rope
from llm_jax.models.huggingface.rules import Config, Rule, bad, fixed, maybe, need, only, same
from llm_jax.models.shape import Shape
from llm_jax.parallel.parameters import facts_of

SCORE_BIAS = 'score.bias'  # theirs has none; ours holds the shift that centres the scores


class Entry(NamedTuple):
  """What one of their arrays holds.

  Attributes:
    ours: parameter paths; those under `blocks/` are stacked over layers, and over experts.
    transposed: theirs is [out, in] (a torch Linear) where ours is [in, out].
    turns: how the parts of several paths take turns on its last axis of outputs: one after the
      other, for each key head its queries, key and value, or a column each.
  """

  ours: tuple[str, ...]
  transposed: bool
  turns: Literal['none', 'heads', 'columns'] = 'none'


@dataclasses.dataclass(frozen=True)
class Family:
  """One `model_type` of theirs.

  Attributes:
    classes: how the names of its classes begin.
    arrays: their names to our paths; `{}` stands for the number of a layer, a second one for that
      of an expert. A name goes to a path, to several that lie side by side, or to an `Entry`.
    rules: of config.json.
    defaults: what the configuration class assumes where config.json says nothing.
    prefix: of all names but those of heads; files of a model without a head may lack it.
    linear: whether matrices are stored [out, in]; the Conv1D of GPT-2 stores [in, out].
    causal: how the name of the class with a language model's head ends.
    fits: whether a class of theirs takes the shape.
  """

  classes: str
  arrays: Mapping[str, Any]
  rules: tuple[Rule, ...]
  defaults: Mapping[str, Any]
  prefix: str = 'model.'
  linear: bool = True
  causal: str = 'ForCausalLM'
  fits: Callable[[Shape], bool] = lambda shape: True

  @property
  def entries(self) -> dict[str, Entry]:
    """`arrays`, each as an Entry."""
    found = {}
    for theirs, ours in self.arrays.items():
      paths = (ours,) if isinstance(ours, str) else ours
      if not isinstance(ours, Entry):
        linear = self.linear or paths[0] == 'head/kernel'
        ours = Entry(paths, linear and facts_of(paths[0]).inputs > 0)
      found[theirs] = ours
    return found

  @property
  def heads(self) -> tuple[str, ...]:
    """The names that have no prefix: of the head, the score and its bias."""
    return tuple(name for name, ours in self.arrays.items() if str(ours).startswith('head/'))

  def architecture(self, shape: Shape) -> str:
    """The class of theirs that has a model of ours."""
    scores = shape.head == 'scalar'
    return self.classes + ('ForSequenceClassification' if scores else self.causal)


def _head() -> Rule:
  """The head: tied or not, or the scalar one of a classifier with one label."""

  def read(config: Config) -> dict[str, Any]:
    if 'ForSequenceClassification' not in str(config.get('architectures')):
      return {'head': 'tied' if config['tie_word_embeddings'] else 'untied'}
    labels = len(config.get('id2label') or range(config.get('num_labels', 2)))
    if labels != 1:
      raise bad(
        f'a classifier of {labels} labels is not supported; a reward model has num_labels=1'
      )
    return {'head': 'scalar'}

  def write(shape: Shape) -> dict[str, Any]:
    tied = {'tie_word_embeddings': shape.head == 'tied'}
    one = {'id2label': {'0': 'LABEL_0'}, 'label2id': {'LABEL_0': 0}}
    return tied | one if shape.head == 'scalar' else tied

  return Rule(read, write)


def _heads(config: Config) -> dict[str, Any]:
  """Sizes of attention that follow from others where they are not said."""
  heads = need(config, 'num_attention_heads')
  return {
    'num_kv_heads': config.get('num_key_value_heads') or heads,
    'head_dim': config.get('head_dim') or need(config, 'hidden_size') // heads,
  }


def _experts(normalize: bool | None = None, count: str = 'num_experts', total: int = 128) -> Rule:
  """Experts in the place of the MLP.

  Args:
    normalize: whether weights of a token add up to 1; None: config.json says it.
    count: the entry that is written; transformers 5 writes num_local_experts for all.
    total: how many the family assumes.
  """

  def read(config: Config) -> dict[str, Any]:
    number = config.get('num_local_experts') or config.get('num_experts') or total
    wanted = bool(config['norm_topk_prob']) if normalize is None else normalize
    chosen = dict(count=number, per_token=config['num_experts_per_tok'], normalize=wanted)
    return {'experts': chosen}

  def write(shape: Shape) -> dict[str, Any]:
    mixture = moe.Mixture(**(shape.experts or {'count': 2}))
    said = {count: mixture.count, 'num_experts_per_tok': mixture.per_token}
    return said if normalize is not None else {**said, 'norm_topk_prob': mixture.normalize}

  return Rule(read, write)


_SIZES = (
  _head(),
  same('vocab_size', 'vocab_size'),
  same('dim', 'hidden_size'),
  same('num_layers', 'num_hidden_layers'),
  same('num_heads', 'num_attention_heads'),
  Rule(
    _heads, lambda shape: {'num_key_value_heads': shape.num_kv_heads, 'head_dim': shape.head_dim}
  ),
  same('max_length', 'max_position_embeddings'),
)
_HIDDEN = same('hidden_dim', 'intermediate_size')
_LLAMA_RULES = (
  *_SIZES,
  same('norm_eps', 'rms_norm_eps'),
  only('hidden_act', 'silu', 'swish'),
  only('attention_bias', False),
  only('mlp_bias', False, write=False),
  only('partial_rotary_factor', 1, None, write=False),
)
_EVERY_LAYER = (
  only('decoder_sparse_step', 1),
  only('mlp_only_layers', [], None),
)
_COMMON = {'rms_norm_eps': 1e-6, 'tie_word_embeddings': False, 'hidden_act': 'silu'}

_ENDS = {
  'lm_head.weight': 'head/kernel',
  'score.weight': 'head/scalar',
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
  'model.layers.{}.self_attn.q_norm.weight': 'blocks/attention/q_norm/scale',
  'model.layers.{}.self_attn.k_norm.weight': 'blocks/attention/k_norm/scale',
  'model.layers.{}.post_attention_layernorm.weight': 'blocks/mlp_norm/scale',
  'model.layers.{}.mlp.gate_proj.weight': 'blocks/mlp/gate',
  'model.layers.{}.mlp.up_proj.weight': 'blocks/mlp/up',
  'model.layers.{}.mlp.down_proj.weight': 'blocks/mlp/down',
  'model.norm.weight': 'final_norm/scale',
  **_ENDS,
}
_QWEN_MOE = LLAMA | {
  'model.layers.{}.mlp.gate.weight': 'blocks/experts/router',
  'model.layers.{}.mlp.experts.{}.gate_proj.weight': 'blocks/experts/gate',
  'model.layers.{}.mlp.experts.{}.up_proj.weight': 'blocks/experts/up',
  'model.layers.{}.mlp.experts.{}.down_proj.weight': 'blocks/experts/down',
}
_MIXTRAL = LLAMA | {
  'model.layers.{}.block_sparse_moe.gate.weight': 'blocks/experts/router',
  'model.layers.{}.block_sparse_moe.experts.{}.w1.weight': 'blocks/experts/gate',
  'model.layers.{}.block_sparse_moe.experts.{}.w3.weight': 'blocks/experts/up',
  'model.layers.{}.block_sparse_moe.experts.{}.w2.weight': 'blocks/experts/down',
}
_QKV = ('blocks/attention/q', 'blocks/attention/k', 'blocks/attention/v')
_GPT2 = {
  'transformer.wte.weight': 'embedding/table',
  'transformer.wpe.weight': 'embedding/position',
  'transformer.h.{}.ln_1.weight': 'blocks/attention_norm/scale',
  'transformer.h.{}.ln_1.bias': 'blocks/attention_norm/bias',
  'transformer.h.{}.attn.c_attn.weight': _QKV,
  'transformer.h.{}.attn.c_attn.bias': tuple(f'{path}_bias' for path in _QKV),
  'transformer.h.{}.attn.c_proj.weight': 'blocks/attention/o',
  'transformer.h.{}.attn.c_proj.bias': 'blocks/attention/o_bias',
  'transformer.h.{}.ln_2.weight': 'blocks/mlp_norm/scale',
  'transformer.h.{}.ln_2.bias': 'blocks/mlp_norm/bias',
  'transformer.h.{}.mlp.c_fc.weight': 'blocks/mlp/up',
  'transformer.h.{}.mlp.c_fc.bias': 'blocks/mlp/up_bias',
  'transformer.h.{}.mlp.c_proj.weight': 'blocks/mlp/down',
  'transformer.h.{}.mlp.c_proj.bias': 'blocks/mlp/down_bias',
  'transformer.ln_f.weight': 'final_norm/scale',
  'transformer.ln_f.bias': 'final_norm/bias',
  **_ENDS,
}

# In the order in which they are offered for a model that several of them have.
FAMILIES: dict[str, Family] = {
  'llama': Family(
    'Llama',
    LLAMA,
    (*_LLAMA_RULES, _HIDDEN, fixed(window=None), rope()),
    _COMMON | {'max_position_embeddings': 2048},
    fits=lambda shape: shape.dim % shape.num_heads == 0,
  ),
  'mistral': Family(
    'Mistral',
    LLAMA,
    (*_LLAMA_RULES, _HIDDEN, maybe('window', 'sliding_window'), rope()),
    _COMMON | {'max_position_embeddings': 2**17, 'num_key_value_heads': 8, 'sliding_window': 4096},
  ),
  'qwen3': Family(
    'Qwen3',
    LLAMA,
    (*_LLAMA_RULES, _HIDDEN, fixed(qk_norm=True), windows(), rope()),
    _COMMON | {'max_position_embeddings': 2**15, 'num_key_value_heads': 32, 'head_dim': 128},
  ),
  'qwen2': Family(
    'Qwen2',
    LLAMA,
    (*_LLAMA_RULES, _HIDDEN, fixed(qkv_bias=True), windows(), rope()),
    _COMMON | {'max_position_embeddings': 2**15, 'num_key_value_heads': 32},
  ),
  'mixtral': Family(
    'Mixtral',
    _MIXTRAL,
    (
      *_LLAMA_RULES,
      _HIDDEN,
      _experts(normalize=True, count='num_local_experts', total=8),
      maybe('window', 'sliding_window'),
      rope(theta=1e6),
    ),
    _COMMON
    | {
      'max_position_embeddings': 2**17,
      'num_key_value_heads': 8,
      'rms_norm_eps': 1e-5,
      'num_experts_per_tok': 2,
    },
  ),
  'qwen3_moe': Family(
    'Qwen3Moe',
    _QWEN_MOE,
    (
      *_LLAMA_RULES,
      fixed(qk_norm=True),
      same('hidden_dim', 'moe_intermediate_size'),
      Rule(lambda config: {}, lambda shape: {'intermediate_size': shape.hidden_dim}),
      _experts(),
      *_EVERY_LAYER,
      windows(),
      rope(),
    ),
    _COMMON
    | {
      'max_position_embeddings': 2**15,
      'num_key_value_heads': 4,
      'num_experts_per_tok': 8,
      'moe_intermediate_size': 768,
      'norm_topk_prob': False,
    },
  ),
  'gpt2': Family(
    'GPT2',
    _GPT2,
    (
      _head(),
      same('vocab_size', 'vocab_size'),
      same('dim', 'n_embd'),
      same('num_layers', 'n_layer'),
      same('num_heads', 'n_head'),
      same('max_length', 'n_positions'),
      Rule(
        lambda config: {'hidden_dim': config.get('n_inner') or 4 * need(config, 'n_embd')},
        lambda shape: {'n_inner': shape.hidden_dim},
      ),
      same('norm_eps', 'layer_norm_epsilon'),
      fixed(norm='layer', mlp='gelu', position='learned', bias=True),
      only('activation_function', 'gelu_new', 'gelu_pytorch_tanh'),
      only('scale_attn_weights', True, write=False),
      only('scale_attn_by_inverse_layer_idx', False, write=False),
      only('add_cross_attention', False, write=False),
    ),
    {
      'n_positions': 1024,
      'layer_norm_epsilon': 1e-5,
      'tie_word_embeddings': True,
      'activation_function': 'gelu_new',
    },
    prefix='transformer.',
    linear=False,
    causal='LMHeadModel',
  ),
}
