"""A checkpoint folder of Hugging Face transformers, read and written a part at a time."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401, gives numpy the bfloat16 that safetensors asks for
import numpy as np
from flax.traverse_util import unflatten_dict

from llm_jax.files import inside, write_plain
from llm_jax.models.huggingface.arrays import Plan, Source, listed
from llm_jax.models.huggingface.family import SCORE_BIAS
from llm_jax.models.huggingface.rules import bad
from llm_jax.models.stored import Layers, Parts

ONE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
FLOATS = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}


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
    for file, wanted in self._files().items():
      with self._opened(file) as arrays:
        names = list(arrays.keys())
        if missing := sorted(set(wanted) - set(names)):
          raise bad(f'{self.path / file} lacks {listed(missing)}, which {INDEX} says it has')
        for name in names:
          self._note(name, arrays.get_slice(name))
        self.shards[file] = names

  def __iter__(self) -> Iterator[str]:
    return iter(self.dtypes)

  def read(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays, file after file."""
    wanted = set(names)
    for file, held in self.shards.items():
      if some := [name for name in held if name in wanted]:
        with self._opened(file) as arrays:
          for name in some:
            yield name, arrays.get_tensor(name)

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
          held = parts.setdefault(path, np.empty(laid.shapes[path][cut:], part.dtype))
          held[wanted[name].index[cut:]] = part
      if SCORE_BIAS in sources and SCORE_BIAS not in names:
        parts['head/bias'] = np.zeros((), np.float32)
      return parts

    def layer(i: int) -> Any:
      parts = gathered([path for path, at in found if at == i], i)
      return unflatten_dict({path.removeprefix('blocks/'): x for path, x in parts.items()}, sep='/')

    return Parts(lambda path: gathered([path], None)[path], Layers(laid.num_layers, layer))

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
  sources: Iterable[Source],
  make: Callable[[Source], np.ndarray | None],
  *,
  shard_bytes: int = 2 * 10**9,
) -> list[Path]:
  """Writes safetensors of at most so many bytes, their index, and at last config.json.

  Args:
    path: the folder, which exists.
    config: of config.json.
    sources: what is written, in this order.
    make: the array of one; None leaves it out.
    shard_bytes: most bytes of a file; one array may be more.

  Returns:
    The files.
  """
  save_file = _safetensors().numpy.save_file
  held: dict[str, np.ndarray] = {}
  files: list[Path] = []
  placed: dict[str, int] = {}
  total = 0

  def flush() -> None:
    files.append(path / f'{len(files)}.safetensors.partial')
    save_file(held, files[-1], metadata={'format': 'pt'})
    placed.update(dict.fromkeys(held, len(files) - 1))
    files[-1].chmod(0o644)  # safetensors makes files for their owner alone
    held.clear()

  for source in sources:
    if (array := make(source)) is not None:
      if held and sum(x.nbytes for x in held.values()) + array.nbytes > shard_bytes:
        flush()
      held[source.name] = array
      total += array.nbytes
  flush()
  count = len(files)
  names = [ONE] if count == 1 else [
    f'model-{i + 1:05d}-of-{count:05d}.safetensors' for i in range(count)
  ]  # fmt: skip
  files = [file.replace(path / name) for file, name in zip(files, names, strict=True)]
  if count > 1:
    index = {'metadata': {'total_size': total}}
    write_plain(path / INDEX, index | {'weight_map': {k: names[i] for k, i in placed.items()}})
  write_plain(path / 'config.json', dict(config))
  return files


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
