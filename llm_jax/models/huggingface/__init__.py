"""Checkpoints of Hugging Face transformers: config.json and safetensors, read and written.

Which families there are and how each stores its model is a table (families.py). What they cannot
say, and what ours cannot, is refused by name; nothing is approximated.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from llm_jax.models import transformer
from llm_jax.models.compute import Compute
from llm_jax.models.huggingface.arrays import listed, plan
from llm_jax.models.huggingface.config import config_of, shape_of, text_of
from llm_jax.models.huggingface.family import SCORE_BIAS
from llm_jax.models.huggingface.folder import Folder, write
from llm_jax.models.huggingface.rules import bad
from llm_jax.models.shape import Shape
from llm_jax.models.transformer import Transformer
from llm_jax.types import Params

__all__ = ['config_of', 'from_hf', 'load', 'plan', 'save', 'shape_of', 'text_of', 'to_hf']


def from_hf(weights: Mapping[str, np.ndarray], shape: Shape, family: str | None = None) -> Params:
  """Our parameters, float32 and stacked over layers, from arrays under their names.

  Args:
    weights: name -> array of any float type; each is asked for once. Names may lack the prefix
      `model.` or `transformer.`, or have `language_model.` too.
    shape: of our model.
    family: a `model_type`, where several have this model.

  Raises:
    BadInput: an array that is missing, has another shape, or would not be used; named.
  """
  laid = plan(shape, family)
  names = laid.match(weights)
  params = {path: np.empty(size, np.float32) for path, size in laid.shapes.items()}
  for source in laid.sources:
    if source.name == SCORE_BIAS and source.name not in names:
      array = np.zeros(source.shape, np.float32)
    else:
      array = np.asarray(weights[names[source.name]])
    for path, part in source.read(array).items():
      params[path][source.index] = part
  if laid.tied in names:
    table = params['embedding/table']
    if not np.array_equal(np.asarray(weights[names[laid.tied]], np.float32), table):
      raise bad(
        f'{laid.tied} differs from the embedding, but tie_word_embeddings says it is the same'
      )
  return unflatten_dict(params, sep='/')


def to_hf(params: Params, shape: Shape, family: str | None = None) -> dict[str, np.ndarray]:
  """Arrays under their names and in their layout, each of the type its parameter has.

  A reward model whose scores were shifted has `score.bias` too. Their classes leave it out and say
  so; their scores are then ours less the shift.

  Raises:
    BadInput: the parameters are not those of a model of this shape, or no family has them.
  """
  laid = plan(shape, config_of(shape, family)['model_type'])
  flat: dict[str, Any] = flatten_dict(dict(params), sep='/')
  for path, wanted in laid.shapes.items():
    found = flat[path].shape if path in flat else 'nothing'
    if found != wanted:
      raise bad(f'parameter {path} should have shape {wanted}; found {found}')
  if unused := [path for path in flat if path not in laid.shapes]:
    raise bad(f'the shape has no place for {listed(unused)}')
  arrays = {path: np.asarray(jax.device_get(x)) for path, x in flat.items()}
  weights = {
    source.name: source.write({path: arrays[path][source.index] for path in source.paths})
    for source in laid.sources
  }
  if not np.any(weights.get(SCORE_BIAS, 0)):
    weights.pop(SCORE_BIAS, None)
  return weights


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
  found = Folder(folder)
  model = transformer.make(compute=compute, **shape_of(found.config))
  weights = dict(found.read(list(found)))
  return model, from_hf(weights, model.shape, text_of(found.config)['model_type'])


def save(
  folder: str | Path,
  model: Transformer,
  params: Params,
  *,
  config: Mapping[str, Any] | None = None,
  family: str | None = None,
) -> None:
  """Writes config.json and model.safetensors, which transformers' `from_pretrained` reads.

  Args:
    folder: made if it does not exist.
    model: ours.
    params: its parameters, written in the type they have.
    config: further entries of config.json, such as bos_token_id and eos_token_id.
    family: a `model_type`, where several have this model.
  """
  weights = to_hf(params, model.shape, family)
  about = config_of(model.shape, family)
  kind = str(next(iter(weights.values())).dtype)
  about |= {'torch_dtype': kind, 'dtype': kind, **(config or {})}
  Path(folder).mkdir(parents=True, exist_ok=True)
  sources = plan(model.shape, about['model_type']).sources
  dtypes = {name: x.dtype for name, x in weights.items()}
  write(Path(folder), about, sources, lambda source: weights[source.name], dtypes)
