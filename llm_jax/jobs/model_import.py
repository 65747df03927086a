"""A folder of Hugging Face becomes an artifact: half of job `convert`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax import artifact, run_folder
from llm_jax.files import read_json, write_json
from llm_jax.lock import locked
from llm_jax.models import huggingface, transformer
from llm_jax.models.compared import COMPUTE, compare
from llm_jax.models.huggingface import folder as theirs
from llm_jax.models.huggingface.arrays import Plan
from llm_jax.models.stored import DTYPES, Slot, Stored
from llm_jax.models.transformer import Transformer
from llm_jax.text import folder as tokenizers
from llm_jax.text.jinja_template import dated
from llm_jax.text.terminal import bar, say
from llm_jax.types import BadInput, Tokenizer

DONE = 'converted.json'  # which files have been read, for a conversion that was stopped
WAITING = 2**26  # bytes that are being written at a time


class Import:
  """A folder of theirs, read as far as its headers."""

  def __init__(self, config: Any) -> None:
    self.config, self.folder = config, theirs.Folder(config.source)
    shape = huggingface.shape_of(self.folder.config)
    self.model: Transformer = transformer.make(compute=COMPUTE, **shape)
    self.group = {'name': 'transformer', **json.loads(json.dumps(shape))}
    self.family = str(huggingface.text_of(self.folder.config)['model_type'])
    self.plan: Plan = huggingface.plan(self.model.shape, self.family)
    self.names = self.plan.match(self.folder)
    for source in self.plan.sources:
      if (name := self.names.get(source.name)) and self.folder.shapes[name] != source.shape:
        raise BadInput(
          f'huggingface: {name} has shape {self.folder.shapes[name]}, but the model of its '
          f'config.json needs {source.shape}'
        )
    self.tokenizer: Tokenizer = tokenizers.load(config.source)
    if text := self.tokenizer.chat_template:
      self.tokenizer.chat_template = dated(text, self.tokenizer, f'{config.source}: chat template')
    if self.tokenizer.vocab_size > self.model.shape.vocab_size:
      raise BadInput(
        f'convert: {config.source}: its tokenizer has {self.tokenizer.vocab_size} ids and its '
        f'embedding {self.model.shape.vocab_size} rows; take both from one model'
      )

  def run(self) -> None:
    """Reads file after file into the checkpoint of an artifact, and publishes that."""
    folder = Path(self.config.workdir).absolute()
    if run_folder.holds(folder, self.config.to_dict()) and (folder / artifact.FILE).is_file():
      say(f'{folder} is finished; delete it to convert again.')
      return
    with locked(folder):
      self._convert(folder)

  def _convert(self, folder: Path) -> None:
    config = self.config
    stored, done = self._opened(folder)
    for file in self.folder.shards:
      if file not in done:
        self._read(file, stored)
        done.append(file)
        write_json(folder / DONE, {'done': done})
    self._check_tied(stored)
    kinds = sorted({slot.dtype.name for slot in stored.slots.values()})
    self.tokenizer.save(folder / 'tokenizer')
    template = {'template': 'folder'} if self.tokenizer.chat_template else {}
    about = {**config.to_dict(), 'family': self.family, 'model': self.group, 'data': template}
    model: Any = self.model
    made = artifact.Artifact(model, {}, self.tokenizer, about, stage='convert')
    dtypes = {path: slot.dtype for path, slot in stored.slots.items()}
    compare(self.model, self.folder.parts(self.plan), stored.parts(), dtypes, str(folder))
    artifact.publish(folder, made)
    (folder / DONE).unlink()
    size = self.model.num_params()
    say(
      f'{config.source}: {self.plan.family.classes}, {size / 1e6:.2f}M parameters, '
      f'{" and ".join(kinds)}, is now the artifact {config.workdir}.\n'
      f'Next: python -m llm_jax.main --config=configs/sample.py --config.artifact={config.workdir}'
    )

  def _opened(self, folder: Path) -> tuple[Stored, list[str]]:
    """The checkpoint, new or as an earlier process left it, and the files that it has read."""
    if (folder / DONE).is_file():
      done = read_json(folder / DONE, 'delete the folder and convert again').get('done', [])
      return Stored(folder / 'params', list(self.plan.shapes)), list(done)
    kinds: dict[str, set[str]] = {path: set() for path in self.plan.shapes}
    counted = dict.fromkeys(self.plan.shapes, 0)
    for source in self.plan.sources:
      for path in source.paths:
        counted[path] = len(source.index)
        if source.name in self.names:
          kinds[path].add(self.config.dtype or self.folder.dtypes[self.names[source.name]])
    # Parts of one array that lie in different types there are kept in the one that holds both.
    one = lambda found: DTYPES[found.pop() if len(found) == 1 else 'float32']
    slots = {
      path: Slot(shape, one(kinds[path]), counted[path]) for path, shape in self.plan.shapes.items()
    }
    run_folder.claim(folder, self.config.to_dict())
    stored = Stored.create(folder / 'params', slots)
    write_json(folder / DONE, {'done': []})
    return stored, []

  def _read(self, file: str, stored: Stored) -> None:
    """All arrays of a file, into the checkpoint."""
    sources = {self.names[s.name]: s for s in self.plan.sources if s.name in self.names}
    wanted = [name for name in self.folder.shards[file] if name in sources]
    waiting: list[Any] = []
    held = 0
    for name, array in counted(self.folder.read(wanted), file, len(wanted)):
      check_finite(name, array.astype(DTYPES.get(self.config.dtype, array.dtype), copy=False))
      for path, part in sources[name].read(array).items():
        part = np.ascontiguousarray(part).astype(stored.slots[path].dtype, copy=False)
        waiting.append(stored.write(path, sources[name].index, part))
        held += part.nbytes
      if held > WAITING:
        _finish(waiting)
        held = 0
    _finish(waiting)

  def _check_tied(self, stored: Stored) -> None:
    if (tied := self.plan.tied) in self.names:
      head = self.folder.array(self.names[tied])
      if not np.array_equal(head, stored.read('embedding/table').astype(head.dtype)):
        raise BadInput(
          f'huggingface: {tied} differs from the embedding, but tie_word_embeddings says it is the '
          'same'
        )


def counted(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
  """`items`, counted on a terminal as they are taken."""
  return bar(iterable=items, desc=what, total=total, unit='array', disable=None)


def check_finite(name: str, array: np.ndarray) -> None:
  """Raises BadInput, naming the array, where a number is not finite in the type that it has."""
  # Floats of one sign are in the order of their bits, and those of integers are found faster.
  ends = np.array([np.inf, -np.inf], array.dtype)
  signed, unsigned = f'i{array.itemsize}', f'u{array.itemsize}'
  above = array.view(signed).max(initial=0) >= ends.view(signed)[0]
  if above or array.view(unsigned).max(initial=0) >= ends.view(unsigned)[1]:
    raise BadInput(
      f'convert: {name} has numbers that are not finite as {array.dtype.name}; take another '
      'config.dtype, or other weights'
    )


def _finish(waiting: list[Any]) -> None:
  for write in waiting:
    write.result()
  waiting.clear()
