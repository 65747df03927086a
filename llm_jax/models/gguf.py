"""Models as GGUF files, which llama.cpp and what is built on it run.

An array of the file is one of Hugging Face's with another name, found by the package gguf, and
sometimes in another layout: `llama` keeps the numbers that rotary positions turn together side by
side, all keep the experts of a layer in one array. What an architecture of llama.cpp fixes or lacks
is in the table; other models are refused, since it would run them as if they had it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from llm_jax.models import moe
from llm_jax.models.gguf_blocks import BLOCKS
from llm_jax.models.gguf_blocks import SIZE as BLOCK
from llm_jax.models.huggingface.arrays import Plan, Source
from llm_jax.models.rope_scaling import Linear, Llama3, Scaling, Yarn, scaling_of
from llm_jax.models.shape import Kind, Shape
from llm_jax.types import JUDGES, BadInput

FILE_TYPES = {'float32': 0, 'float16': 1, 'bfloat16': 32}
# Matrices that llama.cpp wants in float32 all the same.
_WIDE = re.compile(r'ffn_gate_inp(_shexp)?\.weight|position_embd\.weight')
_EXPERT = re.compile(r'(\.experts)\.\d+')
_DIVISORS = 'rope_freqs.weight'
_ENDS = ('.weight', '.bias')


class Architecture(NamedTuple):
  """What llama.cpp makes of a family.

  Attributes:
    name: in llama.cpp.
    pairs: whether queries and keys keep the numbers that are turned together side by side.
    plus_one: whether norms are stored as what they multiply by, 1 + our parameter.
    period: so many layers take turns, the last of which is another kind; 1: all are the same.
    fixes: of a shape, the field and value that llama.cpp assumes.
    facts: keys besides those that all have, without the architecture's name.
  """

  name: str
  pairs: bool = False
  plus_one: bool = False
  period: int = 1
  fixes: Callable[[Shape], Mapping[str, Any]] = lambda shape: {}
  facts: Callable[[Shape], Mapping[str, Any]] = lambda shape: {}


def _experts(normalize: bool) -> Callable[[Shape], Mapping[str, Any]]:
  return lambda shape: {'experts': {**(shape.experts or {}), 'normalize': normalize}}


def _scale(shape: Shape, deep: int) -> float:
  """Of scores in Gemma 2 and 3, where only the largest, of `deep` layers, has one of its own."""
  return (shape.dim / shape.num_heads if shape.num_layers == deep else shape.head_dim) ** -0.5


def _windows(shape: Shape) -> dict[str, Any]:
  near = shape.blocks[0]
  return {
    'attention.sliding_window': near.window,
    'attention.key_length_swa': shape.head_dim,
    'rope.freq_base_swa': near.rope_theta,
  }


def _softcaps(shape: Shape) -> dict[str, Any]:
  return {
    'attn_logit_softcapping': shape.attention_softcap,
    'final_logit_softcapping': shape.logit_softcap,
  }


def _mixture(shape: Shape) -> dict[str, Any]:
  mixture = moe.Mixture(**(shape.experts or {'count': 0}))
  shared = {'expert_shared_feed_forward_length': mixture.shared_dim} if mixture.shared_dim else {}
  return {
    'expert_count': mixture.count,
    'expert_used_count': mixture.per_token,
    'expert_feed_forward_length': shape.hidden_dim,
    **shared,
  }


_UNBIASED = {'qkv_bias': False, 'out_bias': False, 'mlp_bias': False, 'bias': False}
LLAMA = Architecture('llama', pairs=True)
ARCHITECTURES: dict[str, Architecture] = {
  'llama': LLAMA,
  'mistral': LLAMA,
  'mixtral': LLAMA._replace(fixes=_experts(True), facts=_mixture),
  'qwen2': Architecture('qwen2'),
  'qwen2_moe': Architecture('qwen2moe', fixes=_experts(False), facts=_mixture),
  'qwen3': Architecture('qwen3'),
  'qwen3_moe': Architecture('qwen3moe', fixes=_experts(True), facts=_mixture),
  'gpt2': Architecture('gpt2', fixes=lambda shape: {'mlp': 'gelu'}),
  'starcoder2': Architecture('starcoder2', fixes=lambda shape: {'mlp': 'gelu'}),
  'phi3': Architecture('phi3'),
  'olmo2': Architecture('olmo2'),
  'smollm3': Architecture('smollm3', pairs=True, period=4, fixes=lambda shape: _UNBIASED),
  'granite': Architecture(
    'granite',
    pairs=True,
    facts=lambda shape: {
      'attention.scale': shape.query_scale or shape.head_dim**-0.5,
      'embedding_scale': shape.embedding_scale or 1.0,
      'residual_scale': shape.residual_scale or 1.0,
      'logit_scale': shape.logit_divisor or 1.0,
    },
  ),
  'gemma': Architecture('gemma', plus_one=True),
  'gemma2': Architecture(
    'gemma2',
    plus_one=True,
    period=2,
    fixes=lambda shape: {'query_scale': _scale(shape, 46)},
    facts=lambda shape: _windows(shape) | _softcaps(shape),
  ),
  'gemma3_text': Architecture(
    'gemma3',
    plus_one=True,
    period=6,
    fixes=lambda shape: {
      'query_scale': _scale(shape, 62),
      'attention_softcap': None,
      'logit_softcap': None,
    },
    facts=_windows,
  ),
}


class Array(NamedTuple):
  """An array of the file.

  Attributes:
    name: in the file.
    sources: what it holds: one, or one for each expert.
    plus: what is added to our parameter.
    dtype: in which it is stored; uint8 where these are blocks.
    blocks: their type in models/gguf_blocks.py; '' for none.
  """

  name: str
  sources: tuple[Source, ...]
  plus: int
  dtype: np.dtype
  blocks: str = ''

  @property
  def shape(self) -> tuple[int, ...]:
    """Its axes, the innermost last; of blocks that one counts bytes."""
    one = self.sources[0].shape
    whole = (len(self.sources), *one) if self.sources[0].index[1:] else one
    if not self.blocks:
      return whole
    return (*whole[:-1], whole[-1] // BLOCK * BLOCKS[self.blocks].bytes)

  def make(self, read: Callable[[str, tuple[int, ...]], np.ndarray]) -> np.ndarray:
    """The array, from the parts of our parameters."""
    made = [s.write({path: read(path, s.index) for path in s.paths}) for s in self.sources]
    if self.blocks:
      bits = [BLOCKS[self.blocks].write(one.astype(np.float32)) for one in made]
      return np.ascontiguousarray(np.stack(bits).reshape(self.shape))
    array = np.stack(made) if len(made) > 1 else made[0].reshape(self.shape)
    array = array.astype(np.float32) + np.float32(self.plus) if self.plus else array
    return np.ascontiguousarray(array.astype(self.dtype, copy=False))


class Layout(NamedTuple):
  """A model in a file.

  Attributes:
    architecture: its row of the table.
    entries: keys about the model.
    arrays: in the order of the file.
    divisors: what frequencies are divided by [E/2], if the file has such an array.
  """

  architecture: Architecture
  entries: dict[str, Any]
  arrays: tuple[Array, ...]
  divisors: np.ndarray | None


def layout(shape: Shape, plan: Plan, family: str, kind: np.dtype, blocks: str = '') -> Layout:
  """How a model is stored.

  Args:
    shape: of our model.
    plan: of its arrays in a family of Hugging Face's.
    family: that family's `model_type`.
    kind: the type of matrices.
    blocks: what they become instead, where their inputs are whole blocks: a name of `BLOCKS`. With
      'q4_0' embedding and head have 8 bits.

  Raises:
    BadInput: llama.cpp has no such family, or another model of that name.
  """
  if family not in ARCHITECTURES:
    raise _bad(f'{family} has no row here; choose config.family from: {", ".join(ARCHITECTURES)}')
  row = ARCHITECTURES[family]
  if shape.head in JUDGES:
    raise _bad(f'llama.cpp has no head for {JUDGES[shape.head]}')
  for field, value in row.fixes(shape).items():
    found = getattr(shape, field)
    found = dict(found) if isinstance(found, Mapping) else found
    if found != value and not (field == 'query_scale' and found and abs(found - value) < 1e-9):
      raise _bad(f'its {row.name} has {field}={value!r}, not {found!r}')
  divisors, scaling = _scaling(_far(shape, row), shape, row)
  entries = {**_facts(shape, row), **row.facts(shape), **scaling}
  entries = {f'{row.name}.{key}': value for key, value in entries.items() if value is not None}
  entries['general.file_type'] = BLOCKS[blocks].file_type if blocks else FILE_TYPES[kind.name]
  arrays = [_in_blocks(array, blocks) for array in _arrays(shape, plan, row, kind)]
  return Layout(row, entries, tuple(arrays), divisors)


def write(path: Path, laid: Layout, entries: Mapping[str, Any], read: Any, shown: Any) -> None:
  """Writes a file, an array at a time.

  Args:
    path: of the file.
    laid: what it holds.
    entries: further keys: name, vocabulary.
    read: (parameter path, index) -> that part of our parameters.
    shown: what the arrays are counted by as they are taken, for a bar on the terminal.
  """
  library = package()
  writer = library.GGUFWriter(path, laid.architecture.name)
  for key, value in (*laid.entries.items(), *entries.items()):
    kind = library.GGUFValueType.get_type(value)
    whole = kind == library.GGUFValueType.INT32
    writer.add_key_value(key, value, library.GGUFValueType.UINT32 if whole else kind)
  kinds = library.GGMLQuantizationType
  raw = {'float32': kinds.F32, 'float16': kinds.F16, 'bfloat16': kinds.BF16}
  if laid.divisors is not None:
    shape, size = laid.divisors.shape, laid.divisors.nbytes
    writer.add_tensor_info(_DIVISORS, shape, laid.divisors.dtype, size)
  for array in laid.arrays:
    size = int(np.prod(array.shape)) * array.dtype.itemsize
    stored = kinds[array.blocks.upper()] if array.blocks else raw[array.dtype.name]
    writer.add_tensor_info(array.name, array.shape, array.dtype, size, stored)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_ti_data_to_file()
  if laid.divisors is not None:
    writer.write_tensor_data(laid.divisors)
  for array in shown(laid.arrays):
    writer.write_tensor_data(array.make(read))
  writer.close()


def compare(path: Path, laid: Layout, entries: Mapping[str, Any], read: Any, shown: Any) -> None:
  """Reads a file again, takes its arrays apart and compares them with our parameters bit by bit.

  Raises:
    AssertionError: the file is not what was to be written.
  """
  reader = package().GGUFReader(path)
  for key, value in (*laid.entries.items(), *entries.items()):
    found = reader.fields[key].contents()
    same = found == value or (isinstance(value, float) and np.float32(value) == np.float32(found))
    if not same:
      raise AssertionError(f'{path}: {key} is {str(found)[:80]}, not {str(value)[:80]}')
  held = {tensor.name: tensor for tensor in reader.tensors}
  names = [array.name for array in laid.arrays] + [_DIVISORS] * (laid.divisors is not None)
  if held.keys() != {*names}:
    raise AssertionError(f'{path}: other arrays than were written')
  for array in shown(laid.arrays):
    tensor = held[array.name]
    data = np.asarray(tensor.data)
    if data.dtype == np.uint8 and not array.blocks:
      data = data.view(ml_dtypes.bfloat16)
    if data.dtype != array.dtype or data.shape != array.shape:
      raise AssertionError(f'{path}: {array.name} is {data.dtype} {data.shape}')
    if array.blocks:  # cannot be taken apart again
      if tensor.tensor_type.name != array.blocks.upper() or (data != array.make(read)).any():
        raise AssertionError(f'{path}: {array.name} is not what was written')
      continue
    parts = data if array.sources[0].index[1:] else [data]
    for source, part in zip(array.sources, parts, strict=True):
      for where, back in source.read(part).items():
        ours = read(where, source.index)
        ours = ours.astype(np.float32) + np.float32(array.plus) if array.plus else ours
        if not np.array_equal(back, ours.astype(array.dtype, copy=False), equal_nan=True):
          raise AssertionError(f'{path}: {array.name} is not what was written')


def _arrays(shape: Shape, plan: Plan, row: Architecture, kind: np.dtype) -> Iterator[Array]:
  library = package()
  number = {name: n for n, name in library.MODEL_ARCH_NAMES.items()}[row.name]
  known = library.get_tensor_name_map(number, shape.num_layers)
  grouped: dict[str, list[Source]] = {}
  for source in plan.sources:
    name = known.get_name(_EXPERT.sub(r'\1', source.name), _ENDS)
    if name is None:
      raise _bad(f'its {row.name} has no array for {source.name}')
    grouped.setdefault(name, []).append(_laid_out(source, shape, row))
  if row.name == 'gpt2' and shape.head == 'tied':
    grouped['output.weight'] = grouped['token_embd.weight']
  for name, sources in grouped.items():
    flat = len(sources[0].shape) == 1 or _WIDE.search(name)
    plus = int(row.plus_one and 'norm' in name)
    yield Array(name, tuple(sources), plus, np.dtype(np.float32) if flat else kind)


def _in_blocks(array: Array, blocks: str) -> Array:
  """A matrix in blocks, if it has whole ones; embedding and head in those of 8 bits."""
  matrix = not (len(array.sources[0].shape) == 1 or _WIDE.search(array.name))
  if not blocks or not matrix or array.sources[0].shape[-1] % BLOCK:
    return array
  wide = array.name in ('token_embd.weight', 'output.weight')
  return array._replace(blocks='q8_0' if wide else blocks, dtype=np.dtype(np.uint8))


def _laid_out(source: Source, shape: Shape, row: Architecture) -> Source:
  """A source in the layout of the file: [out, in], and perhaps in pairs."""
  turned = {'q': shape.num_heads, 'k': shape.num_kv_heads}
  heads = turned.get(source.paths[0].removeprefix('blocks/attention/').removesuffix('_bias'))
  if row.pairs and heads and len(source.paths) == 1:
    source = source._replace(groups=heads, pairs=shape.rope_dim)
  linear = len(source.shape) == 2 and not source.paths[0].startswith('embedding/')
  if linear and not source.transposed:  # the Conv1D of GPT-2
    source = source._replace(transposed=True, shape=source.shape[::-1])
  return source


def _far(shape: Shape, row: Architecture) -> Kind:
  """The kind of the layers whose rotary positions the keys are about: those that see all.

  Raises:
    BadInput: the kinds take other turns than in llama.cpp.
  """
  blocks, period = shape.blocks, row.period
  near, far = blocks[0], blocks[min(period, len(blocks)) - 1]
  if any(kind != (near if (i + 1) % period else far) for i, kind in enumerate(blocks)):
    every = 'all layers are alike' if period == 1 else f'every {period} layers the last differs'
    raise _bad(f'in its {row.name} {every}; here they are {", ".join(shape.layers)}')
  if period == 1:
    return far
  nope = row.name == 'smollm3'  # whose last one has no positions; those of Gemma have windows
  odd = (near.window, near.rope) != ((None, True) if nope else (near.window or 1, True))
  if odd or (len(blocks) >= period and (far.window, far.rope) != (None, not nope)):
    raise _bad(f'in its {row.name} the last of {period} layers is another kind than here')
  return near if nope or len(blocks) < period else far


def _facts(shape: Shape, row: Architecture) -> dict[str, Any]:
  windows = [kind.window for kind in shape.blocks if kind.window]
  # Within a context of at most the window nothing is out of sight.
  whole = [shape.max_length, *(windows if row.period == 1 else [])]
  layer = shape.norm == 'layer'
  return {
    'context_length': min(whole),
    'embedding_length': shape.dim,
    'block_count': shape.num_layers,
    'feed_forward_length': shape.hidden_dim,
    'vocab_size': shape.vocab_size,
    'attention.head_count': shape.num_heads,
    'attention.head_count_kv': shape.num_kv_heads,
    'attention.key_length': shape.head_dim,
    'attention.value_length': shape.head_dim,
    f'attention.layer_norm_{"" if layer else "rms_"}epsilon': shape.norm_eps,
    'rope.dimension_count': shape.rope_dim if shape.position == 'rope' else None,
  }


def _scaling(
  far: Kind, shape: Shape, row: Architecture
) -> tuple[np.ndarray | None, dict[str, Any]]:
  """What divides frequencies, and the keys about rotary positions."""
  if shape.position != 'rope':
    return None, {}
  entries: dict[str, Any] = {'rope.freq_base': far.rope_theta}
  if far.rope_scaling is None:
    return None, entries
  scaling: Scaling = scaling_of(far.rope_scaling)
  if isinstance(scaling, Linear):
    return None, entries | {'rope.scaling.type': 'linear', 'rope.scaling.factor': scaling.factor}
  if isinstance(scaling, Llama3) and row.name == 'llama':
    size = np.arange(0, shape.rope_dim, 2, dtype=np.float32) / np.float32(shape.rope_dim)
    plain = np.float32(far.rope_theta) ** -size
    stretched, _ = scaling.stretch(jnp.asarray(plain), far.rope_theta, None)
    return (plain / np.asarray(stretched)).astype(np.float32), entries
  if isinstance(scaling, Yarn) and scaling.truncate:
    return None, entries | {
      'rope.scaling.type': 'yarn',
      'rope.scaling.factor': scaling.factor,
      'rope.scaling.original_context_length': scaling.original_length,
      'rope.scaling.attn_factor': scaling.magnitude() / scaling.scale(1),
      'rope.scaling.yarn_beta_fast': scaling.beta_fast,
      'rope.scaling.yarn_beta_slow': scaling.beta_slow,
    }
  raise _bad(f'its {row.name} has no such rope_scaling: {scaling}')


def package() -> Any:
  """The package gguf.

  Raises:
    BadInput: it is not there.
  """
  try:
    import gguf
  except ImportError:
    raise _bad("needs the package gguf; pip install 'llm_jax[gguf]'") from None
  return gguf


def _bad(what: str) -> BadInput:
  return BadInput(f'gguf: {what}')
