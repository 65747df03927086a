"""Parameters on disk, a layer at a time: what Orbax reads and writes, without holding all of it.

`create` lets Orbax write a checkpoint of single zeros, and then lays each array out as it will be,
in chunks of one layer, so that what is written or read is never more than the layer at hand. Orbax
restores such a folder like any other, onto any mesh.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import unflatten_dict

from llm_jax.types import BadInput

# Types of floats by the name that zarr gives them.
DTYPES = {
  'float32': np.dtype(np.float32),
  'float16': np.dtype(np.float16),
  'bfloat16': np.dtype(ml_dtypes.bfloat16),
}


class Slot(NamedTuple):
  """A parameter on disk.

  Attributes:
    shape: of the whole, stacked over layers.
    dtype: in which it lies there.
    counted: how many leading axes are cut, an index a chunk: layers, then experts.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  counted: int = 0


class Stored:
  """An open folder of parameters; made by `create` or `Stored(folder, paths)`.

  Attributes:
    slots: path -> what lies there.
  """

  def __init__(self, folder: Path, paths: Sequence[str]) -> None:
    """Opens what is there.

    Args:
      folder: of a checkpoint of one tree of arrays.
      paths: of the parameters, such as 'blocks/mlp/up'.

    Raises:
      BadInput: one of them is not there, or is no float.
    """
    self._folder = folder
    self._arrays = {path: self._open(path) for path in paths}
    self.slots = {
      path: Slot(tuple(array.shape), DTYPES[array.dtype.name], 0)
      for path, array in self._arrays.items()
    }

  @classmethod
  def create(cls, folder: Path, slots: Mapping[str, Slot]) -> Self:
    """A new folder of zeros, to be filled by `write`."""
    from orbax.checkpoint import type_handlers

    handler = type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    registry = type_handlers.create_type_handler_registry(
      (np.ndarray, handler), (jax.Array, type_handlers.ArrayHandler())
    )
    # Orbax notes names and kinds; how large an array is, only the array itself says.
    tree = unflatten_dict({path: np.zeros(1, slot.dtype) for path, slot in slots.items()}, sep='/')
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(type_handler_registry=registry)) as orbax:
      orbax.save(folder, tree, force=True)
    for path, slot in slots.items():
      cls._lay_out(folder, path, slot)
    return cls(folder, list(slots))

  def read(self, path: str, index: Sequence[int] = ()) -> np.ndarray:
    """A parameter, or the part of it at an index of its leading axes."""
    array = self._arrays[path]
    return array[tuple(index)].read().result() if index else array.read().result()

  def write(self, path: str, index: Sequence[int], part: np.ndarray) -> Any:
    """Begins to write a part; `result()` of what is returned waits for it."""
    array = self._arrays[path]
    return (array[tuple(index)] if index else array).write(part)

  def parts(self) -> 'Parts':
    """Its parameters, fetched when they are asked for."""
    shapes = {path: slot.shape for path, slot in self.slots.items()}

    def layer(paths: list[str], i: int) -> dict[str, np.ndarray]:
      reading = {path: self._arrays[path][i].read() for path in paths}
      return {path: array.result() for path, array in reading.items()}

    return Parts.of(shapes, self.read, layer)

  def _open(self, path: str) -> Any:
    import tensorstore

    try:
      found = tensorstore.open(_spec(self._folder, path), open=True).result()
    except ValueError as error:
      raise BadInput(f'{self._folder}: parameter {path} cannot be read; make it again') from error
    if found.dtype.name not in DTYPES:
      raise BadInput(f'{self._folder}: parameter {path} is {found.dtype.name}, not a float')
    return found

  @staticmethod
  def _lay_out(folder: Path, path: str, slot: Slot) -> None:
    import tensorstore

    one = tuple(1 if axis < slot.counted else size for axis, size in enumerate(slot.shape))
    # Not compressed: of weights that saves a fifth of the room, and takes four times as long.
    about = {'shape': slot.shape, 'chunks': one, 'compressor': None}
    spec = _spec(folder, path) | {'metadata': about, 'dtype': slot.dtype.name}
    tensorstore.open(spec, create=True, delete_existing=True).result()


class Layers(Sequence):
  """Parameters of layers in the order of the model, each made when it is asked for.

  Args:
    count: of layers.
    make: the parameters of layer number i.
  """

  def __init__(self, count: int, make: Callable[[int], Any]) -> None:
    self._count, self._make = count, make

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: Any) -> Any:
    if not 0 <= index < self._count:
      raise IndexError(index)
    return self._make(index)


class Parts(NamedTuple):
  """Parameters that are not in memory.

  Attributes:
    read: the array of a path outside of layers.
    layers: 'blocks', and 'dense_blocks' where there are some -> the arrays of each layer by path.
  """

  read: Callable[[str], np.ndarray]
  layers: dict[str, Layers]

  @classmethod
  def of(
    cls,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
    layer: Callable[[list[str], int], dict[str, np.ndarray]],
  ) -> Self:
    """Those of these shapes by path; `layer` reads some paths of layer number i of their stack."""
    stacks: dict[str, list[str]] = {}
    for path in shapes:
      if (stack := path.partition('/')[0]).endswith('blocks'):
        stacks.setdefault(stack, []).append(path)
    one = lambda paths: Layers(shapes[paths[0]][0], functools.partial(layer, paths))
    return cls(read, {stack: one(paths) for stack, paths in stacks.items()})


def _spec(folder: Path, path: str) -> dict[str, Any]:
  """How tensorstore names an array of Orbax's."""
  place, name = folder.absolute(), f'{path.replace("/", ".")}/'
  if not folder.exists() or (folder / 'manifest.ocdbt').exists():
    store = {'driver': 'ocdbt', 'base': f'file://{place}/', 'path': name}
  else:  # written by several hosts, each in a copy of its own
    store = {'driver': 'file', 'path': f'{place}/{name}'}
  return {'driver': 'zarr', 'kvstore': store}
