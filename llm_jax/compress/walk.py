"""A model compressed a layer at a time, by any method."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from llm_jax.compress.calibration import Layer
from llm_jax.compress.grid import Grid, Rounded
from llm_jax.models.compressed import Compressed
from llm_jax.models.transformer import Transformer
from llm_jax.models.weights import TABLE, Form, Table, pack
from llm_jax.parallel.parameters import abstract_params, facts_of
from llm_jax.types import BadInput, Batch, Params

# The matrices of attention, MLP and experts.
WEIGHTS = r'blocks/(attention/([qkvo]|(q|kv)_[ab])|(mlp|experts(/shared)?)/(gate|up|down))$'
KERNEL = 'head/kernel'
TABLES = {'embedding': TABLE, 'head': KERNEL}


class Method(NamedTuple):
  """How the matrices of a layer are compressed.

  Attributes:
    form: how they are stored.
    compress: from a layer to what becomes of each of its `matrices`; it may change other parameters
      of the layer.
    calibrated: whether it asks for inputs.
    follows: whether a layer reads what the compressed ones before it make of the text, or what
      they made of it before.
  """

  form: Form
  compress: Callable[[Layer], dict[str, Rounded]]
  calibrated: bool = False
  follows: bool = True


def stored(grid: Grid) -> Form:
  """How the codes of a grid are stored: those of up to 4 bits two a byte.

  Raises:
    BadInput: a group has no halves.
  """
  dtype = 'int4' if grid.bits <= 4 else 'int8'
  if dtype == 'int4' and grid.group % 2:
    raise BadInput(f'compress: group {grid.group} is odd; two codes share a byte')
  return Form(dtype, grid.group, zero=grid.kind == 'asymmetric')


def planned(
  model: Transformer, form: Form, weights: str = WEIGHTS, tables: Sequence[str] = ()
) -> dict[str, Form]:
  """The form of each parameter that will have one, by path.

  Args:
    model: to compress.
    form: of its matrices.
    weights: pattern of their paths.
    tables: which of 'embedding' and 'head' become int8, too, with a scale for each token.

  Raises:
    BadInput: the pattern matches nothing, or something that is no matrix of a layer; or a matrix
      has inputs that cannot be stored so.
  """
  shapes: dict[str, Any] = flatten_dict(abstract_params(model), sep='/')
  usable = [path for path in shapes if re.search(WEIGHTS, path)]
  found = [path for path in shapes if re.search(weights, path)]
  if wrong := [path for path in found if path not in usable] or ([] if found else [None]):
    what = f'matches {wrong[0]!r}, which is no matrix of a layer' if wrong[0] else 'matches nothing'
    raise BadInput(f'compress: weights {weights!r} {what}; choose from: {", ".join(usable)}')
  for path in found:
    inputs = int(np.prod(facts_of(path).split(shapes[path].shape)[1]))
    if form.dtype == 'int4' and not form.group and inputs % 2:
      raise BadInput(
        f'compress: {path} has {inputs} inputs, and two codes share a byte; choose a group'
      )
  forms = dict.fromkeys(found, form)
  for name in tables:
    if TABLES[name] not in shapes:
      raise BadInput(
        'compress: the head is the embedding of this model, or no list of words; name the embedding'
      )
    forms[TABLES[name]] = Form('int8')
  return forms


def compress(
  model: Transformer,
  params: Params,
  method: Method,
  forms: Mapping[str, Form],
  batches: Sequence[Batch] = (),
  show: Callable[[range], Any] = iter,
) -> tuple[Compressed, Params]:
  """The model with these parameters in few bits, and the parameters.

  Args:
    model: as it is.
    params: its parameters.
    method: of the matrices of layers.
    forms: from `planned`.
    batches: calibration text: `tokens`, `position`, `segment` [B, L] each.
    show: the numbers of the layers again, counted as they are taken.

  Raises:
    BadInput: naming the layer and the matrix, where the text is not enough.
  """
  flat = {path: np.asarray(x) for path, x in flatten_dict(dict(params), sep='/').items()}
  first = model.shape.dense_layers
  reads = [_embedded(model, params, batch) for batch in batches] if method.calibrated else []
  made: dict[str, list[Any]] = {}
  for i in show(range(model.shape.num_layers)):
    stack, at = ('dense_blocks/', i) if i < first else ('blocks/', i - first)
    inside = {p.removeprefix(stack): x[at] for p, x in flat.items() if p.startswith(stack)}
    chosen = [path for path in inside if stack + path in forms]
    layer = Layer(model, i, {path: jnp.asarray(x) for path, x in inside.items()}, reads, chosen)
    after = layer.outputs() if not method.follows else []
    rounded = method.compress(layer)
    for path in inside:
      made.setdefault(stack + path, []).append(rounded.get(path, layer.params[path]))
    reads = layer.outputs() if method.follows and method.calibrated else after
  packed, final = {}, {}
  for path, parts in made.items():
    if path in forms:
      packed[path], final[path] = _packed(path, parts, forms[path], flat[path].shape)
    else:
      packed[path] = jnp.stack([jnp.asarray(part) for part in parts])
  for path in TABLES.values():
    if path in forms:
      packed[path], final[path] = _tabled(path, flat[path]), forms[path]
  kept = {path: jnp.asarray(x) for path, x in flat.items()} | packed
  return Compressed(model, tuple(sorted(final.items()))), unflatten_dict(kept, sep='/')


def _embedded(model: Transformer, params: Params, batch: Batch) -> Batch:
  x_BLD = _embed(model, params, batch['tokens'], batch['position'])
  return {'x': x_BLD, 'position': batch['position'], 'segment': batch['segment']}


def _packed(
  path: str, parts: Sequence[Rounded], form: Form, shape: Sequence[int]
) -> tuple[Any, Form]:
  """A parameter of all layers, and its form; scales of 4 bits take 16, where these hold them."""
  whole = lambda arrays: np.stack(arrays) if arrays[0] is not None else None
  codes, scale, zero = (whole([part[i] for part in parts]) for i in range(3))
  assert codes is not None and scale is not None
  least, most = np.finfo(np.float16).tiny, np.finfo(np.float16).max
  if form.dtype == 'int4' and least <= scale.min() and scale.max() <= most:
    form = Form(form.dtype, form.group, form.zero, 'float16')
  _, inner, outer = facts_of(path).split(shape)
  return pack(codes, scale, zero, form, inner, outer), form


def _tabled(path: str, array: np.ndarray) -> Any:
  """An embedding or a head in int8, with a scale for each token."""
  rounded = Grid(8).round(array if path == TABLE else array.T)
  if path == TABLE:
    return Table(jnp.asarray(rounded.codes), jnp.asarray(rounded.scale))
  return pack(*rounded[:3], Form('int8'), array.shape[:1], array.shape[1:])


_embed = jax.jit(
  lambda model, params, tokens, position: model.apply(params, tokens, position, method='embed'),
  static_argnums=0,
)
