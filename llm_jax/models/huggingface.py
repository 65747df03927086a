"""Checkpoints of Hugging Face transformers: config.json and safetensors, read and written.

Llama 1-3, Mistral, Mixtral, Qwen2, Qwen3 with and without experts, and GPT-2, whose layouts are
those of the public transformers library (models/<family>/modeling_<family>.py). What their families
cannot say, and what ours cannot, is refused by name; nothing is approximated.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from llm_jax.files import inside
from llm_jax.models import transformer
from llm_jax.models.compute import Compute
from llm_jax.models.huggingface_config import bad, config_of, family_of, shape_of
from llm_jax.models.shape import Shape
from llm_jax.models.transformer import Transformer
from llm_jax.parallel.parameters import facts_of
from llm_jax.types import Params

# Their names to our paths; {} is the number of a layer, then of an expert: ours are stacked.
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
  'model.layers.{}.mlp.gate.weight': 'blocks/experts/router',
  'model.layers.{}.mlp.experts.{}.gate_proj.weight': 'blocks/experts/gate',
  'model.layers.{}.mlp.experts.{}.up_proj.weight': 'blocks/experts/up',
  'model.layers.{}.mlp.experts.{}.down_proj.weight': 'blocks/experts/down',
  'model.norm.weight': 'final_norm/scale',
  'lm_head.weight': 'head/kernel',
  'score.weight': 'head/scalar',
  'score.bias': 'head/bias',  # theirs has none; ours holds the shift that centres the scores
}
# Where Mixtral says it otherwise.
MIXTRAL = {
  'mlp.gate.': 'block_sparse_moe.gate.',
  'mlp.experts.': 'block_sparse_moe.experts.',
  'gate_proj': 'w1',
  'up_proj': 'w3',
  'down_proj': 'w2',
}
_QKV = ('blocks/attention/q', 'blocks/attention/k', 'blocks/attention/v')
GPT2 = {
  'transformer.wte.weight': 'embedding/table',
  'transformer.wpe.weight': 'embedding/position',
  'transformer.h.{}.ln_1.weight': 'blocks/attention_norm/scale',
  'transformer.h.{}.ln_1.bias': 'blocks/attention_norm/bias',
  'transformer.h.{}.attn.c_attn.weight': _QKV,  # side by side in one array
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
  'lm_head.weight': 'head/kernel',
  'score.weight': 'head/scalar',
  'score.bias': 'head/bias',  # theirs has none; ours holds the shift that centres the scores
}
SCORE = ('score.weight', 'score.bias')
# Constants that old checkpoints store beside the weights: causal masks and rotary frequencies.
CONSTANTS = ('.attn.bias', '.attn.masked_bias', '.rotary_emb.inv_freq')


class Entry(NamedTuple):
  """One of their arrays and the parameters of ours it holds, side by side on its last axis.

  Attributes:
    theirs: name; `{}` stands for the number of the layer, a second one for that of an expert.
    ours: parameter paths; those under `blocks/` are stacked over layers, and over experts.
    transposed: theirs is [out, in] (a torch Linear) where ours is [in, out].
  """

  theirs: str
  ours: tuple[str, ...]
  transposed: bool


def from_hf(weights: Mapping[str, np.ndarray], shape: Shape) -> Params:
  """Our parameters, float32 and stacked over layers, from arrays under their names.

  Args:
    weights: name -> array of any float type; names may lack the prefix `model.` or `transformer.`.
    shape: of our model.

  Raises:
    BadInput: an array that is missing, has another shape, or would not be used; named.
  """
  prefix, entries, shapes = _plan(shape)
  prefixed = any(name.startswith(prefix) for name in weights)
  given = {
    name if prefixed or name in ('lm_head.weight', *SCORE) else prefix + name: w
    for name, w in weights.items()
    if not name.endswith(CONSTANTS)
  }
  if shape.head == 'scalar':
    given.setdefault('score.bias', np.zeros(1, np.float32))
  table = entries[0].theirs
  if shape.head == 'tied' and 'lm_head.weight' in given:
    head = given.pop('lm_head.weight')
    if table in given and not np.array_equal(head, given[table]):
      raise bad(f'lm_head.weight differs from {table}, but tie_word_embeddings says it is the same')
  names = {
    entry.theirs.format(*index): (entry, index)
    for entry in entries
    for index in _indices(entry, shapes)
  }
  if missing := [name for name in names if name not in given]:
    raise bad(f'the checkpoint lacks {_listed(missing)}')
  if unused := [name for name in given if name not in names]:
    raise bad(f'the model has no place for {_listed(unused)}')
  params = {path: np.empty(shapes[path], np.float32) for e in entries for path in e.ours}
  for name, (entry, index) in names.items():
    places = [params[path][index] if index else params[path] for path in entry.ours]
    array = np.asarray(given[name])
    *inner, outer = _merged(entry, places[0].shape)
    wanted = (*inner, outer * len(places))
    wanted = wanted[::-1] if entry.transposed else wanted
    if array.shape != wanted:
      raise bad(f'{name} has shape {array.shape}, but the model needs {wanted}')
    parts = np.split(array.T if entry.transposed else array, len(places), axis=-1)
    for place, part in zip(places, parts):
      place[...] = part.reshape(place.shape)
  return unflatten_dict(params, sep='/')


def to_hf(params: Params, shape: Shape) -> dict[str, np.ndarray]:
  """Arrays under their names and in their layout, each of the type its parameter has.

  A reward model whose scores were shifted has `score.bias` too. Their classes leave it out and say
  so; their scores are then ours less the shift.

  Raises:
    BadInput: the parameters are not those of a model of this shape, or no family has them.
  """
  config_of(shape)
  _, entries, shapes = _plan(shape)
  flat: dict[str, Any] = flatten_dict(dict(params), sep='/')
  for path, wanted in shapes.items():
    found = flat[path].shape if path in flat else 'nothing'
    if found != wanted:
      raise bad(f'parameter {path} should have shape {wanted}; found {found}')
  if unused := [path for path in flat if path not in shapes]:
    raise bad(f'the shape has no place for {_listed(unused)}')
  weights = {}
  for entry in entries:
    stacks = [np.asarray(jax.device_get(flat[path])) for path in entry.ours]
    for index in _indices(entry, shapes):
      parts = [stack[index] for stack in stacks]
      merged = _merged(entry, parts[0].shape)
      array = np.concatenate([part.reshape(merged) for part in parts], axis=-1)
      weights[entry.theirs.format(*index)] = np.ascontiguousarray(
        array.T if entry.transposed else array
      )
  if not np.any(weights.get('score.bias', 0)):
    weights.pop('score.bias', None)
  return weights


def _indices(entry: Entry, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[int, ...]]:
  """Of each array of theirs in ours: (), or of layers, or of layers and experts."""
  return [*np.ndindex(shapes[entry.ours[0]][: entry.theirs.count('{}')])]


def _plan(shape: Shape) -> tuple[str, list[Entry], dict[str, tuple[int, ...]]]:
  """Prefix of their names, the entries this shape has, and the shape of each parameter of ours."""
  model, token = Transformer(shape), jnp.zeros((1, 1), jnp.int32)
  tree = jax.eval_shape(lambda: model.init(jax.random.key(0), token))
  flat: dict[str, Any] = flatten_dict(tree, sep='/')
  shapes = {path: leaf.shape for path, leaf in flat.items()}
  family = family_of(shape)
  gpt2 = family == 'gpt2'
  entries = []
  for theirs, ours in (GPT2 if gpt2 else LLAMA).items():
    paths = (ours,) if isinstance(ours, str) else ours
    # The layers of their GPT-2 are Conv1D, which store [in, out] as we do.
    transposed = theirs == 'lm_head.weight' or (
      theirs.endswith(('_proj.weight', 'mlp.gate.weight')) and not gpt2
    )
    if family == 'mixtral' and '.mlp.' in theirs:
      for standard, other in MIXTRAL.items():
        theirs = theirs.replace(standard, other)
    if paths[0] in shapes:
      entries.append(Entry(theirs, paths, transposed))
  return 'transformer.' if gpt2 else 'model.', entries, shapes


def _merged(entry: Entry, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Shape of one parameter of ours as they see it, [in, out] or [out]: heads are one axis."""
  path = entry.ours[0]
  if path in ('head/scalar', 'head/bias'):
    return (1, *shape)
  if inputs := facts_of(path).inputs:
    return (math.prod(shape[:inputs]), math.prod(shape[inputs:]))
  return shape if path.startswith('embedding/') else (math.prod(shape),)


def load(
  folder: str | Path, compute: Mapping[str, Any] | Compute | None = None
) -> tuple[Transformer, Params]:
  """A model of ours and its float32 parameters from a checkpoint folder of theirs.

  Args:
    folder: with config.json and model.safetensors, or its parts and model.safetensors.index.json.
    compute: how the model is run.

  Raises:
    BadInput: a file is missing, or see `shape_of` and `from_hf`.
  """
  folder = Path(folder)
  shape = shape_of(json.loads(_text(folder / 'config.json')))
  model = transformer.make(compute=compute, **shape)
  index = folder / 'model.safetensors.index.json'
  files = ['model.safetensors']
  if not (folder / files[0]).exists() and index.exists():
    files = sorted(set(json.loads(_text(index))['weight_map'].values()))
  weights: dict[str, np.ndarray] = {}
  for name in files:
    path = inside(folder, name)
    if not path.exists():
      raise bad(f'{folder} has no {name}; only safetensors checkpoints can be read')
    weights |= _safetensors().load_file(path)
  return model, from_hf(weights, model.shape)


def save(
  folder: str | Path, model: Transformer, params: Params, *, config: Mapping[str, Any] | None = None
) -> None:
  """Writes config.json and model.safetensors, which transformers' `from_pretrained` reads.

  Args:
    folder: made if it does not exist.
    model: ours.
    params: its parameters, written in the type they have.
    config: further entries of config.json, such as bos_token_id and eos_token_id.
  """
  folder = Path(folder)
  weights = to_hf(params, model.shape)
  write = _safetensors().save_file
  kind = str(next(iter(weights.values())).dtype)
  about = {**config_of(model.shape), 'torch_dtype': kind, **(config or {})}
  folder.mkdir(parents=True, exist_ok=True)
  write(weights, folder / 'model.safetensors', metadata={'format': 'pt'})
  (folder / 'config.json').write_text(json.dumps(about, indent=2) + '\n')


def _safetensors() -> ModuleType:
  try:
    import safetensors.numpy
  except ImportError:
    raise bad("needs the package safetensors; pip install 'llm_jax[hf]'") from None
  return safetensors.numpy


def _text(path: Path) -> str:
  if not path.is_file():
    raise bad(f'{path} does not exist; give the folder of a downloaded checkpoint')
  return path.read_text()


def _listed(names: list[str]) -> str:
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  return ', '.join(names[:5]) + more
