"""Job `convert`: a Hugging Face folder becomes an artifact, or an artifact a folder for others.

Weights pass through a layer at a time and keep their type, so a model needs no more memory than its
largest file. What was written is read back: every array bit by bit, and the logits of one row.
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from llm_jax import artifact
from llm_jax.files import difference, write_json
from llm_jax.models import gguf, huggingface, transformer
from llm_jax.models.compared import compare
from llm_jax.models.huggingface import folder as theirs
from llm_jax.models.huggingface.arrays import Plan, Source
from llm_jax.models.huggingface.family import SCORE_BIAS
from llm_jax.models.stored import DTYPES, Slot, Stored
from llm_jax.models.transformer import Transformer
from llm_jax.options import at_least
from llm_jax.options import check as check_options
from llm_jax.text import chat, gguf_vocabulary, tokenizer_export
from llm_jax.text import folder as tokenizers
from llm_jax.text.jinja_template import dated
from llm_jax.text.terminal import bar, say
from llm_jax.types import BadInput, Tokenizer

MAY_CHANGE = ()
FILE = 'model.gguf'
DONE = 'converted.json'  # which files have been read, for a conversion that was stopped
WAITING = 2**26  # bytes that are being written at a time
# A model that comes to its layers one after another, and holds none of them in float32.
COMPUTE = {'scan_layers': False, 'dtype': 'bfloat16'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job.

  Attributes:
    job: 'convert'.
    source: a Hugging Face folder, which becomes an artifact.
    artifact: without a source, the artifact that becomes a folder of `format`.
    format: of what is written from an artifact.
    workdir: the folder that is written.
    family: the `model_type` to write, where several of theirs have this model.
    dtype: of the weights that are written; '' for the one in which they are stored.
    shard_bytes: most bytes of a file of weights that is written.
    trust: modules of yours that the artifact may name as its model.
  """

  job: str
  source: str = ''
  artifact: str = ''
  format: Literal['huggingface', 'gguf'] = 'huggingface'
  workdir: str
  family: str = ''
  dtype: Literal['', 'float32', 'bfloat16', 'float16'] = ''
  shard_bytes: Annotated[int, at_least(1)] = 2 * 10**9
  trust: Sequence[str] = ()


def groups(config: Any) -> Iterator[tuple[str, Any, Sequence[str]]]:
  """No group of the config is for anything but this job."""
  del config
  return iter(())


def check(config: Any) -> None:
  """Whether there is something to convert, and the other side has a form for it.

  Raises:
    BadInput: naming the field, or the file and the entry in it.
  """
  check_options(Fields, config, where='config')
  if not (config.source or config.artifact):
    raise BadInput(
      'convert: nothing to convert; set config.source to a Hugging Face folder, or config.artifact'
    )
  if not config.workdir:
    raise BadInput('convert: config.workdir is empty; name the folder that is to be written')
  if config.source:
    _Import(config)
  else:
    _Export(config)


def makes(config: Any) -> dict[str, Any]:
  """The config group of the model that a conversion into an artifact leaves there."""
  return _Import(config).group


def main(config: Any) -> None:
  """Converts, unless the folder holds what was converted before."""
  (_Import(config) if config.source else _Export(config)).run()


# --- in ------------------------------------------------------------------------------------------


class _Import:
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
    config, folder = self.config, Path(self.config.workdir).absolute()
    if artifact.holds(folder, config.to_dict()) and (folder / artifact.FILE).is_file():
      say(f'{folder} is finished; delete it to convert again.')
      return
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
    if {self.folder.dtypes[name] for name in self.names.values()} == set(
      kinds
    ):  # nothing is rounded
      parts = stored.parts(self.plan.num_layers)
      compare(self.model, self.folder.parts(self.plan), parts, str(folder))
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
      return Stored(folder / 'params', list(self.plan.shapes)), theirs.read_json(folder / DONE)[
        'done'
      ]
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
    artifact.claim(folder, self.config.to_dict())
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


def _finish(waiting: list[Any]) -> None:
  for write in waiting:
    write.result()
  waiting.clear()


# --- out -----------------------------------------------------------------------------------------


class _Export:
  """An artifact of ours, described in the words of a family of theirs."""

  def __init__(self, config: Any) -> None:
    self.config, self.folder = config, Path(config.artifact).absolute()
    self.about = artifact.describe(self.folder)
    self.model = artifact.build(
      self.about['model'], COMPUTE, source=self.folder, trust=tuple(config.get('trust', ()))
    )
    if not isinstance(self.model, Transformer):
      raise BadInput(f'convert: {config.artifact}: no family of theirs has a model of another file')
    family = config.family or self._origin()
    self.about_theirs = huggingface.config_of(self.model.shape, family)
    self.plan: Plan = huggingface.plan(self.model.shape, self.about_theirs['model_type'])
    self.tokenizer: Tokenizer = tokenizers.load(self.folder / 'tokenizer')
    self.stops = _stops(self.tokenizer)
    if config.format == 'gguf':
      self._layout(np.dtype(np.float32))
      self._vocabulary()

  def _origin(self) -> str | None:
    """The family that the model came from, if it still has this model; None for one of ours."""
    about = self.about
    with contextlib.suppress(BadInput):  # an ancestor that is gone, or another shape since
      while about['stage'] != 'convert' and about['parent']:
        about = artifact.describe(about['parent'])
      if family := about['config'].get('family'):
        huggingface.config_of(self.model.shape, family)
        return str(family)
    return None

  def run(self) -> None:
    """Writes the folder beside its place, compares it with the artifact, and puts it there."""
    target = Path(self.config.workdir).absolute()
    if target.exists() and any(target.iterdir()):
      raise BadInput(
        f'convert: {self.config.workdir} is not empty; delete it or name another folder'
      )
    damage = difference(self.folder / 'params', self.about['files'])
    if damage:
      raise BadInput(f'artifact: {str(self.folder)!r} is {damage}')
    stored = Stored(self.folder / 'params', list(self.plan.shapes))
    partial = target.with_name(f'{target.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if self.config.format == 'gguf':
      self._write_gguf(partial / FILE, stored)
    else:
      self._write(partial, stored)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
      target.rmdir()
    partial.rename(target)
    say(f'{self.config.artifact} is now in {self.config.workdir}, as {self.config.format}.')

  def _write(self, folder: Path, stored: Stored) -> None:
    kind = self._kind(stored)

    def make(source: Source) -> np.ndarray | None:
      array = array_of(source, stored)
      if source.name == SCORE_BIAS and not array.any():
        return None  # their class has none
      return array.astype(kind, copy=False)

    about, sources = self._config(kind.name), self.plan.sources
    shown = counted(sources, 'write', len(sources))
    theirs.write(folder, about, shown, make, shard_bytes=self.config.shard_bytes)
    tokenizer_export.save(self.tokenizer, folder, self.stops)
    self._read_back(folder, stored, kind)

  def _write_gguf(self, file: Path, stored: Stored) -> None:
    laid = self._layout(self._kind(stored))
    about = {'general.name': self.folder.name, 'general.type': 'model', **self._vocabulary()}
    show = lambda what: lambda arrays: counted(arrays, what, len(arrays))
    gguf.write(file, laid, about, stored.read, show('write'))
    gguf.compare(file, laid, about, stored.read, show('compare'))
    for what in gguf_vocabulary.differences(self.tokenizer):
      say(f'llama.cpp reads {what} in another way.')

  def _kind(self, stored: Stored) -> np.dtype:
    widest = max((slot.dtype for slot in stored.slots.values()), key=_width)
    return DTYPES[self.config.dtype] if self.config.dtype else widest

  def _layout(self, kind: np.dtype) -> gguf.Layout:
    return gguf.layout(self.model.shape, self.plan, self.about_theirs['model_type'], kind)

  def _vocabulary(self) -> dict[str, Any]:
    return gguf_vocabulary.entries(self.tokenizer, self.model.shape.vocab_size, self.stops)

  def _config(self, dtype: str) -> dict[str, Any]:
    ids = {'bos_token_id': self.tokenizer.bos_id, 'pad_token_id': self.tokenizer.pad_id}
    ids['eos_token_id'] = self.stops[0] if len(self.stops) == 1 else self.stops
    return {**self.about_theirs, 'dtype': dtype, 'torch_dtype': dtype, **ids}

  def _read_back(self, folder: Path, stored: Stored, kind: np.dtype) -> None:
    written = theirs.Folder(folder)
    if transformer.make(**huggingface.shape_of(written.config)).shape != self.model.shape:
      raise AssertionError(f'{folder}: config.json says another model than was written')
    names = self.plan.match(written)
    sources = {names[s.name]: s for s in self.plan.sources if s.name in names}
    for name, array in counted(written.read(list(sources)), 'compare', len(sources)):
      if not np.array_equal(array, array_of(sources[name], stored).astype(kind, copy=False)):
        raise AssertionError(f'{folder}: {name} is not what was written')
    if kind == max((s.dtype for s in stored.slots.values()), key=_width):
      compare(
        self.model, stored.parts(self.plan.num_layers), written.parts(self.plan), str(folder),
      )  # fmt: skip


def _stops(tokenizer: Tokenizer) -> list[int]:
  """Ids that end an answer, the end of a document first."""
  turn = chat.stop_ids(tokenizer, chat.FOLDER) if tokenizer.chat_template is not None else []
  return list(dict.fromkeys([*tokenizer.stop_ids, *turn]))


def counted(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
  """`items`, counted on a terminal as they are taken."""
  return bar(iterable=items, desc=what, total=total, unit='array', disable=None)


def array_of(source: Source, stored: Stored) -> np.ndarray:
  """An array of theirs, from the checkpoint."""
  return source.write({path: stored.read(path, source.index) for path in source.paths})


def _width(dtype: np.dtype) -> int:
  return dtype.itemsize
