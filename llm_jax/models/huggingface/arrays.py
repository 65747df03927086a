"""Which of their arrays holds which of our parameters, one array at a time, both ways.

`plan(shape)` lists every array of theirs as a `Source`: its name, the parameters of ours it holds
and where, and the two functions between them. A source needs nothing but its own array, so that a
conversion may read and write them one by one, in any order.

  for source in plan(shape).sources:
    for path, part in source.read(arrays[source.name]).items():
      params[path][source.index] = part
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from llm_jax.models.huggingface.config import config_of
from llm_jax.models.huggingface.families import FAMILIES
from llm_jax.models.huggingface.family import SCORE, SCORE_BIAS, Entry, Family
from llm_jax.models.huggingface.rules import bad
from llm_jax.models.shape import Shape
from llm_jax.models.transformer import Transformer
from llm_jax.parallel.parameters import facts_of

# Constants that old checkpoints store beside the weights: causal masks and rotary frequencies.
CONSTANTS = ('.attn.bias', '.attention.bias', '.masked_bias', '.rotary_emb.inv_freq')


class Source(NamedTuple):
  """One of their arrays, and the parts of our parameters that it holds.

  Attributes:
    name: theirs, in full.
    paths: of our parameters, in the order in which their parts lie side by side on the last axis.
    index: of the parts in these parameters: (), (layer,) or (layer, expert).
    shapes: of each part.
    shape: of their array.
    transposed: theirs is [out, in] (a torch Linear) where ours is [in, out].
    pairs: how many numbers of each group, its last ones, are turned by positions, if in theirs the
      two that are turned together are neighbours; in ours they are half of them apart.
    groups: how often the parts take turns on that axis. 1 is one after the other; the number of key
      heads gives each of them its queries, its key and its value; that of columns interleaves.
  """

  name: str
  paths: tuple[str, ...]
  index: tuple[int, ...]
  shapes: tuple[tuple[int, ...], ...]
  shape: tuple[int, ...]
  transposed: bool
  groups: int
  pairs: int = 0

  def read(self, array: np.ndarray) -> dict[str, np.ndarray]:
    """The part of each parameter, by its path: a view, or one of a single copy.

    Raises:
      BadInput: the array has another shape, or is no float of 16 bits or more.
    """
    if not jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.itemsize < 2:
      raise bad(f'{self.name} is stored as {array.dtype}; take weights of 16 or 32 bits')
    if array.shape != self.shape:
      raise bad(f'{self.name} has shape {array.shape}, but the model needs {self.shape}')
    array = swapped(array) if self.transposed else array
    array = array.reshape(*array.shape[:-1], self.groups, -1)
    if self.pairs:
      array = self._turned(array, (-1, 2))
    widths = [self._merged(shape)[-1] for shape in self.shapes]
    ends = np.cumsum([width // self.groups for width in widths])[:-1]
    parts = np.split(array, ends, axis=-1)
    return {p: x.reshape(shape) for p, x, shape in zip(self.paths, parts, self.shapes)}

  def write(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Their array from the parts: the inverse of `read`; contiguous."""
    merged = [self._merged(shape) for shape in self.shapes]
    grouped = [
      parts[path].reshape(*shape[:-1], self.groups, shape[-1] // self.groups)
      for path, shape in zip(self.paths, merged)
    ]
    array = np.concatenate(grouped, axis=-1) if len(grouped) > 1 else grouped[0]
    if self.pairs:
      array = self._turned(array, (2, -1))
    array = array.reshape(*array.shape[:-2], -1)
    return swapped(array) if self.transposed else np.ascontiguousarray(array)

  def _turned(self, array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The last `pairs` numbers as a matrix of a shape, transposed."""
    kept, last = np.split(array, [array.shape[-1] - self.pairs], axis=-1)
    turned = last.reshape(*last.shape[:-1], *shape).swapaxes(-1, -2).reshape(last.shape)
    return np.concatenate([kept, turned], axis=-1)

  def _merged(self, shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of a part as they see it, [..., in, out] or [..., out]."""
    return merged(self.paths[0], shape, len(self.index))


class Plan(NamedTuple):
  """All arrays of theirs that hold a model of ours.

  Attributes:
    family: whose names these are.
    sources: one for each of their arrays, those of a layer together.
    shapes: of our parameters, by path.
    tied: the name of a head that says again what the embedding says, and which may be left out.
  """

  family: Family
  sources: tuple[Source, ...]
  shapes: dict[str, tuple[int, ...]]
  tied: str | None

  @property
  def num_layers(self) -> int:
    """Blocks of the model."""
    return max(source.index[0] + 1 for source in self.sources if source.index)

  def of(self) -> dict[tuple[str, int | None], list[Source]]:
    """The sources of each parameter of ours, by path and first index (None where it has none)."""
    found: dict[tuple[str, int | None], list[Source]] = {}
    for source in self.sources:
      for path in source.paths:
        found.setdefault((path, source.index[0] if source.index else None), []).append(source)
    return found

  def match(self, names: Iterable[str]) -> dict[str, str]:
    """The name that each source has among theirs; a tied head is there if they have one.

    Their names may lack the family's prefix, or have one more of a model that also sees.

    Raises:
      BadInput: an array that is missing, or one that would not be used; named.
    """
    given = {}
    prefix, heads = self.family.prefix, (*self.family.heads, self.tied)
    names = [name for name in names if not name.endswith(CONSTANTS)]
    inner = {name: name.replace('language_model.', '') for name in names}
    if any(inner[name] != name for name in names):  # the rest of it sees or hears
      inner = {name: short for name, short in inner.items() if short != name or short in heads}
    prefixed = any(short.startswith(prefix) for short in inner.values())
    for name, short in inner.items():
      given[short if prefixed or short in heads else prefix + short] = name
    wanted = dict.fromkeys(source.name for source in self.sources)
    optional = {SCORE_BIAS, self.tied}
    if missing := [name for name in wanted if name not in given and name not in optional]:
      raise bad(f'the checkpoint lacks {listed(missing)}')
    if unused := [name for name in given if name not in wanted and name != self.tied]:
      raise bad(f'the model has no place for {listed(unused)}')
    return given


def plan(shape: Shape, family: str | None = None) -> Plan:
  """Where everything is in a checkpoint of theirs.

  Args:
    shape: of our model.
    family: a `model_type`; by default the first that has this model.

  Raises:
    BadInput: no family has it, or this one lacks arrays for it.
  """
  return _plan(shape, family or config_of(shape)['model_type'])


@functools.lru_cache(maxsize=8)
def _plan(shape: Shape, name: str) -> Plan:
  family, shapes = FAMILIES[name], parameter_shapes(shape)
  tied = family.heads[0] if shape.head == 'tied' else None
  sources, entries = [], family.entries
  if shape.head == 'classes' and SCORE in entries:
    entries[SCORE] = Entry(('head/classes',), transposed=True)
  for theirs, entry in entries.items():
    for stack in ('blocks/', 'dense_blocks/'):
      ours = tuple(path.replace('blocks/', stack, 1) for path in entry.ours)
      if ours[0] not in shapes or (stack != 'blocks/' and ours == entry.ours):
        continue
      # Layers with an MLP stand before those with experts; each kind is a stack of its own.
      before = shape.dense_layers if ours[0].startswith('blocks/') else 0
      for index in np.ndindex(shapes[ours[0]][: theirs.count('{}')]):
        number = (index[0] + before, *index[1:]) if index else ()
        sources.append(_source(theirs.format(*number), entry, ours, index, shapes, shape))
  held = {path for source in sources for path in source.paths}
  if homeless := [path for path in shapes if path not in held]:
    raise bad(f'{name} has no array for {listed(homeless)}')
  return Plan(family, tuple(sorted(sources, key=lambda one: one.index[:1])), shapes, tied)


def _source(
  name: str,
  entry: Entry,
  ours: tuple[str, ...],
  index: tuple[int, ...],
  shapes: Mapping[str, tuple[int, ...]],
  shape: Shape,
) -> Source:
  """The source of one array of theirs."""
  parts = tuple(shapes[path][len(index) :] for path in ours)
  first, *more = (merged(path, part, len(index)) for path, part in zip(ours, parts))
  wanted = (*first[:-1], first[-1] + sum(one[-1] for one in more))
  wanted = (*wanted[:-2], *wanted[:-3:-1]) if entry.transposed else wanted
  groups, pairs = _groups(entry.turns, parts), shape.rope_dim if entry.paired else 0
  return Source(name, ours, index, parts, wanted, entry.transposed, groups, pairs)


def _groups(turns: str, parts: Sequence[Sequence[int]]) -> int:
  """See `Source.groups`."""
  return {'none': lambda: 1, 'heads': lambda: parts[-1][-2], 'columns': lambda: parts[-1][-1]}[
    turns
  ]()


def merged(path: str, shape: Sequence[int], indexed: int) -> tuple[int, ...]:
  """Shape of a parameter of ours, less its `indexed` first axes, where heads are one axis."""
  if path in ('head/scalar', 'head/bias'):
    return (1, *shape)
  if path.startswith('embedding/'):
    return tuple(shape)
  facts = facts_of(path)
  lead = facts.stacked - indexed
  inner = lead + facts.inputs
  matrix = (math.prod(shape[lead:inner]),) if facts.inputs else ()
  return (*shape[:lead], *matrix, math.prod(shape[inner:]))


def parameter_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
  """The shape of each parameter, by path."""
  model, token = Transformer(shape), jnp.zeros((1, 1), jnp.int32)
  tree = jax.eval_shape(lambda: model.init(jax.random.key(0), token))
  flat: dict[str, Any] = flatten_dict(tree, sep='/')
  return {path: leaf.shape for path, leaf in flat.items()}


def swapped(array: np.ndarray) -> np.ndarray:
  """A copy with the last two axes exchanged.

  Made 64 rows at a time, so that the lines it writes stay in the cache: six times as fast.

  >>> swapped(np.arange(6).reshape(2, 3)).tolist()
  [[0, 3], [1, 4], [2, 5]]
  """
  *lead, rows, columns = array.shape
  bits = array.view(f'u{array.itemsize}')  # which numpy copies without Python's lock
  made = np.empty((*lead, columns, rows), bits.dtype)
  for i in range(0, rows, 64):
    made[..., i : i + 64] = bits[..., i : i + 64, :].swapaxes(-1, -2)
  return made.view(array.dtype)


def listed(names: Sequence[str]) -> str:
  """Some names of many, for a message."""
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  return ', '.join(names[:5]) + more
