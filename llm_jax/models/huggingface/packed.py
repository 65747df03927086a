"""Weights in few bits as the package compressed-tensors has them, for vLLM and transformers.

Its format is `pack-quantized`: codes of 4 or 8 bits without a sign, those of neighbouring inputs
side by side in words of 32 bits, the first in the lowest bits. In the place of `<layer>.weight` a
folder has `weight_packed` [out, words], `weight_scale` [out, groups], `weight_shape`, and with zero
points `weight_zero_point` [words, groups], which are packed along the outputs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_jax.models.huggingface.arrays import Plan, Source
from llm_jax.models.huggingface.rules import bad
from llm_jax.models.weights import TABLE, Form, Quantized, Table, group_size

BITS = {'int4': 4, 'int8': 8}
WORD = 32
_WEIGHT = '.weight'


def config(plan: Plan, forms: Mapping[str, Form]) -> dict[str, Any]:
  """What `quantization_config` of config.json says of a model with these parameters in few bits.

  Raises:
    BadInput: the format has no place for one of them.
  """
  matrices = {path: form for path, form in forms.items() if not _is_table(path)}
  if not matrices:
    raise bad('no matrix of this model is in few bits; make one with job compress')
  kinds = {(form.dtype, form.group, form.zero) for form in matrices.values()}
  (kind, group, zero), *more = kinds
  if more or kind not in BITS:
    raise bad(
      f'compressed-tensors: matrices of {kind} are not written; use int8, int4, gptq or awq'
    )
  linear = [
    source for source in plan.sources if source.transposed and source.name.endswith(_WEIGHT)
  ]
  ignored = [_layer(source.name) for source in linear if not _chosen(source, matrices)]
  for source in plan.sources:
    if not _chosen(source, matrices):
      continue
    if source not in linear or len(source.index) > 1 or not matrices.keys() >= {*source.paths}:
      raise bad(f'compressed-tensors: {source.name} is not the weight of one linear layer')
    inputs = source.shape[1]
    if inputs % (group or 1) or (zero and source.shape[0] % (WORD // BITS[kind])):
      raise bad(f'compressed-tensors: {source.name} is not of whole groups or words')
  heads = [_layer(name) for name in plan.family.heads if name.endswith(_WEIGHT)]
  weights: dict[str, Any] = dict(num_bits=BITS[kind], type='int', symmetric=not zero)
  weights |= dict(strategy='group', group_size=group) if group else dict(strategy='channel')
  return {
    'quant_method': 'compressed-tensors',
    'format': 'pack-quantized',
    'quantization_status': 'compressed',
    'ignore': list(dict.fromkeys([*ignored, *heads])),
    'config_groups': {'group_0': {'targets': ['Linear'], 'weights': weights}},
  }


def arrays(source: Source, params: Mapping[str, Any], dtype: np.dtype) -> dict[str, np.ndarray]:
  """The arrays that stand for one of theirs, by name.

  Args:
    source: theirs, as an array.
    params: of ours, by path; each may be in few bits.
    dtype: of floats.
  """
  held = [params[path] for path in source.paths]
  if not isinstance(held[0], Quantized):
    parts = {path: _float(params[path])[source.index] for path in source.paths}
    return {source.name: source.write(parts).astype(dtype)}
  first, inputs = held[0], source.shape[1]
  bits = 4 if first.packed else 8
  size = group_size(inputs // first.scale.shape[-2], inputs)
  # An entry of each weight travels as the weight would, so that rows end up where theirs are.
  codes, scales, zeros = (
    source.write({path: find(params[path], source.index) for path in source.paths})
    for find in (_codes, _scales, _zeros)
  )
  firsts = slice(None, None, size)
  name = _layer(source.name)
  found = {
    f'{name}.weight_packed': pack(codes, bits),
    f'{name}.weight_scale': scales[:, firsts].astype(dtype),
    f'{name}.weight_shape': np.array(source.shape, np.int64),
  }
  if first.zero is not None:
    found[f'{name}.weight_zero_point'] = pack(zeros[:, firsts].T, bits).T
  return found


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
  """Codes [rows, columns] without a sign as int32 [rows, words]; a last word is filled with 0.

  >>> pack(np.array([[1, 2, 0, 0, 0, 0, 0, 15, 3]]), 4).tolist()
  [[-268435423, 3]]
  """
  count = WORD // bits
  rows, columns = codes.shape
  full = np.zeros((rows, -(-columns // count), count), np.uint32)
  full.reshape(rows, -1)[:, :columns] = codes
  shift = np.arange(0, WORD, bits, dtype=np.uint32)
  return np.bitwise_or.reduce(full << shift, axis=-1).view(np.int32)


def _codes(weight: Quantized, index: Sequence[int]) -> np.ndarray:
  """Codes without a sign, in the shape of the parameter at an index of its layers."""
  codes = np.asarray(weight.codes)[tuple(index)]
  if weight.packed:
    halves = codes.reshape(weight.scale.shape[-2], -1, codes.shape[-1])
    codes = np.concatenate([halves & 15, halves >> 4], axis=1).reshape(-1, codes.shape[-1])
  elif weight.zero is None:
    codes = codes.astype(np.int16) + 128
  return _shaped(weight, codes)


def _scales(weight: Quantized, index: Sequence[int]) -> np.ndarray:
  """The scale of each weight."""
  return _spread(weight, np.asarray(weight.scale)[tuple(index)])


def _zeros(weight: Quantized, index: Sequence[int]) -> np.ndarray:
  """The zero point of each weight."""
  scale = np.asarray(weight.scale)[tuple(index)]
  zero = np.full(scale.shape, 8 if weight.packed else 128, np.uint8)
  return _spread(weight, zero if weight.zero is None else np.asarray(weight.zero)[tuple(index)])


def _spread(weight: Quantized, each: np.ndarray) -> np.ndarray:
  inputs = int(np.prod(weight.inner))
  return _shaped(weight, np.repeat(each, group_size(inputs // len(each), inputs), axis=0))


def _shaped(weight: Quantized, matrix: np.ndarray) -> np.ndarray:
  return matrix[: int(np.prod(weight.inner))].reshape(*weight.inner, *weight.outer)


def _float(weight: Any) -> np.ndarray:
  if isinstance(weight, Table):
    return np.asarray(weight.codes, np.float32) * np.asarray(weight.scale)
  return np.asarray(weight.dense('float32') if isinstance(weight, Quantized) else weight)


def _chosen(source: Source, matrices: Mapping[str, Form]) -> bool:
  return any(path in matrices for path in source.paths)


def _is_table(path: str) -> bool:
  return path == TABLE or path.startswith('head/')


def _layer(name: str) -> str:
  return name.removesuffix(_WEIGHT)
