"""A checkpoint folder of Hugging Face transformers, read and written a part at a time."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401, gives numpy the bfloat16 that safetensors asks for
import numpy as np

from llm_jax.files import inside, write_plain
from llm_jax.models.huggingface.arrays import Plan, Source, listed
from llm_jax.models.huggingface.family import SCORE_BIAS
from llm_jax.models.huggingface.rules import bad
from llm_jax.models.stored import Parts

ONE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
FLOATS = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}
INTEGERS = {'I32': 'int32', 'I64': 'int64'}  # of weights in few bits, which are only written


class Folder:
  """The arrays of a folder, by name; only headers are read when it is opened.

  Attributes:
    config: its config.json.
    shards: name of a file -> names of the arrays in it, in their order there.
    dtypes: name of an array -> 'float32', 'float16' or 'bfloat16'.
    shapes: name of an array -> its shape.
  """

  def __init__(self, path: str | Path) -> None:
    """Opens a folder.

    Raises:
      BadInput: no config.json, no safetensors, a shard that the index names and that is missing or
        lacks an array, or arrays that are no floats.
    """
    self.path = Path(path)
    self.config = read_json(self.path / 'config.json')
    self.shards: dict[str, list[str]] = {}
    self.dtypes: dict[str, str] = {}
    self.shapes: dict[str, tuple[int, ...]] = {}
    self._places: dict[str, int] = {}
    for file, wanted in self._files().items():
      with self._opened(file) as arrays:
        names = list(arrays.keys())
        if missing := sorted(set(wanted) - set(names)):
          raise bad(f'{self.path / file} lacks {listed(missing)}, which {INDEX} says it has')
        for name in names:
          self._note(name, arrays.get_slice(name))
        self.shards[file] = names
      self._places |= _places(self.path / file)

  def __iter__(self) -> Iterator[str]:
    return iter(self.dtypes)

  def read(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays, file after file."""
    wanted = set(names)
    for file, held in self.shards.items():
      if some := [name for name in held if name in wanted]:
        for name in some:
          yield name, self._array(self.path / file, name)

  def array(self, name: str) -> np.ndarray:
    """One array."""
    return next(self.read([name]))[1]

  def parts(self, laid: Plan) -> Parts:
    """The parameters of our model, fetched when they are asked for."""
    names, found = laid.match(self), laid.of()

    def gathered(paths: Iterable[str], layer: int | None) -> dict[str, np.ndarray]:
      cut, parts = int(layer is not None), {}
      sources = {s.name: s for path in paths for s in found.get((path, layer), ())}
      wanted = {names[name]: source for name, source in sources.items() if name in names}
      for name, array in self.read(list(wanted)):
        for path, part in wanted[name].read(array).items():
          if inner := wanted[name].index[cut:]:
            held = parts.setdefault(path, np.empty(laid.shapes[path][cut:], part.dtype))
            held[inner] = part
          else:
            parts[path] = part
      if SCORE_BIAS in sources and SCORE_BIAS not in names:
        parts['head/bias'] = np.zeros((), np.float32)
      return parts

    return Parts.of(laid.shapes, lambda path: gathered([path], None)[path], gathered)

  def _array(self, file: Path, name: str) -> np.ndarray:
    """An array, read into memory once; the package would map the file there as well."""
    shape, dtype = self.shapes[name], np.dtype(self.dtypes[name])
    found = np.fromfile(file, dtype, math.prod(shape), offset=self._places[name])
    if found.size != math.prod(shape):
      raise bad(f'{file} cannot be read (it became shorter); download it again')
    return found.reshape(shape)

  def _note(self, name: str, about: Any) -> None:
    kind = about.get_dtype()
    if kind not in FLOATS:
      raise bad(
        f'{name} is stored as {kind}: quantized weights are not read; take those of 16 bits'
      )
    self.dtypes[name], self.shapes[name] = FLOATS[kind], tuple(about.get_shape())

  def _files(self) -> dict[str, list[str]]:
    """File -> names that it has to have."""
    if (self.path / ONE).is_file():
      return {ONE: []}
    if not (self.path / INDEX).is_file():
      pickled = [p.name for p in sorted(self.path.glob('*.bin'))]
      also = f' ({listed(pickled)} would run code when it is read)' if pickled else ''
      raise bad(f'{self.path} has no {ONE}; only safetensors checkpoints can be read{also}')
    placed = read_json(self.path / INDEX).get('weight_map')
    if not isinstance(placed, dict) or not placed:
      raise bad(f'{self.path / INDEX} has no weight_map')
    files: dict[str, list[str]] = {}
    for name, file in placed.items():
      files.setdefault(file, []).append(name)
    for file in files:
      if not inside(self.path, file).is_file():
        raise bad(f'{self.path} has no {file}, which {INDEX} names; download it again')
    return dict(sorted(files.items()))

  def _opened(self, file: str) -> Any:
    library = _safetensors()
    try:
      return library.safe_open(self.path / file, 'np')
    except (library.SafetensorError, OSError) as mistake:
      raise bad(f'{self.path / file} cannot be read ({mistake}); download it again') from None


def write(
  path: Path,
  config: Mapping[str, Any],
  sources: Sequence[Source],
  make: Callable[[Source], np.ndarray],
  dtypes: Mapping[str, np.dtype],
  *,
  shard_bytes: int = 2 * 10**9,
  show: Callable[[Sequence[Source]], Iterable[Source]] = iter,
) -> None:
  """Writes safetensors of at most so many bytes, their index, and at last config.json.

  Two arrays are in memory at a time: one that is being written, and the next.

  Args:
    path: the folder, which exists.
    config: of config.json.
    sources: what is written, in this order.
    make: the array of one.
    dtypes: name of a source -> type of its array; one that has none is left out.
    shard_bytes: most bytes of a file; one array may be more.
    show: the sources again, counted as they are taken.
  """
  shards: list[list[Source]] = [[]]
  size = lambda source: math.prod(source.shape) * dtypes[source.name].itemsize
  sources = [source for source in sources if source.name in dtypes]
  for source in sources:
    if shards[-1] and sum(map(size, shards[-1])) + size(source) > shard_bytes:
      shards.append([])
    shards[-1].append(source)
  count = len(shards)
  names = [f'model-{i + 1:05d}-of-{count:05d}.safetensors' for i in range(count)]
  names = [ONE] if count == 1 else names
  arrays = _ahead(make, show(sources))
  for name, held in zip(names, shards, strict=True):
    with (path / name).open('wb') as file:
      file.write(_header(held, dtypes))
      for source, array in zip(held, arrays):
        if (array.shape, array.dtype) != (source.shape, dtypes[source.name]):
          raise AssertionError(f'{source.name} is {array.dtype} {array.shape}, not as announced')
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
  if count > 1:
    index = {'metadata': {'total_size': sum(map(size, sources))}}
    placed = {source.name: name for name, held in zip(names, shards) for source in held}
    write_plain(path / INDEX, index | {'weight_map': placed})
  write_plain(path / 'config.json', dict(config))


def _ahead(make: Callable[[Source], np.ndarray], sources: Iterable[Source]) -> Iterator[np.ndarray]:
  """The array of each source, the next one made meanwhile in a thread."""
  with ThreadPoolExecutor(1) as pool:
    waiting: list[Any] = []
    for source in sources:
      waiting.append(pool.submit(make, source))
      if len(waiting) > 1:
        yield waiting.pop(0).result()
    yield from (one.result() for one in waiting)


def _header(sources: Sequence[Source], dtypes: Mapping[str, np.dtype]) -> bytes:
  """How a file of safetensors begins, as its format has it.

  The package writes no file array by array, and whole ones at 0.3 to 0.5 GB a second.
  """
  short = {np.dtype(name): kind for kind, name in (FLOATS | INTEGERS).items()}
  header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
  end = 0
  for source in sources:
    dtype, start = dtypes[source.name], end
    end += math.prod(source.shape) * dtype.itemsize
    about = {'dtype': short[dtype], 'shape': source.shape, 'data_offsets': (start, end)}
    header[source.name] = about
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)  # numbers begin where a word does
  return len(text).to_bytes(8, 'little') + text


def _places(file: Path) -> dict[str, int]:
  """Name of an array -> its first byte in a file of safetensors that can be read."""
  with file.open('rb') as opened:
    length = int.from_bytes(opened.read(8), 'little')
    header = json.loads(opened.read(length))
  header.pop('__metadata__', None)
  return {name: 8 + length + about['data_offsets'][0] for name, about in header.items()}


def read_json(path: Path) -> dict[str, Any]:
  """A JSON object of a downloaded folder.

  Raises:
    BadInput: there is none.
  """
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise bad(f'{path} does not exist; give the folder of a downloaded checkpoint') from None
  except (ValueError, RecursionError) as error:
    raise bad(f'{path} is no JSON ({error}); download it again') from None
  if not isinstance(found, dict):
    raise bad(f'{path} holds no JSON object; download it again')
  return found


def _safetensors() -> Any:
  try:
    import safetensors.numpy
  except ImportError:
    raise bad("needs the package safetensors; pip install 'llm_jax[hf]'") from None
  return safetensors
