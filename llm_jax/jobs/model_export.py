"""An artifact becomes a folder for other programs: half of job `convert`."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from llm_jax import artifact
from llm_jax.jobs.model_import import check_finite, counted
from llm_jax.lock import leased, locked
from llm_jax.models import gguf, huggingface, transformer
from llm_jax.models.compared import COMPUTE, compare
from llm_jax.models.compressed import Compressed
from llm_jax.models.huggingface import folder as theirs
from llm_jax.models.huggingface import packed
from llm_jax.models.huggingface.arrays import Plan, Source
from llm_jax.models.huggingface.family import SCORE_BIAS
from llm_jax.models.stored import DTYPES, Stored
from llm_jax.models.transformer import Transformer
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text import chat, gguf_vocabulary, tokenizer_export
from llm_jax.text import folder as tokenizers
from llm_jax.text.terminal import say
from llm_jax.types import BadInput, Tokenizer

FILE = 'model.gguf'


class Export:
  """An artifact of ours, described in the words of a family of theirs."""

  def __init__(self, config: Any) -> None:
    self.config, self.folder = config, Path(config.artifact).absolute()
    self.about = artifact.describe(self.folder)
    self.model = artifact.build(
      self.about['model'], COMPUTE, source=self.folder, trust=tuple(config.get('trust', ()))
    )
    is_packed = config.format == 'compressed-tensors'
    if isinstance(self.model, Compressed) and not is_packed:
      raise BadInput(
        f'convert: {config.artifact} is compressed; set config.format=compressed-tensors, or '
        f'convert {self.about["parent"]}, which it was made from, with a type of few bits'
      )
    if is_packed and not isinstance(self.model, Compressed):
      raise BadInput(
        f'convert: {config.artifact} is not compressed; give what job compress makes of it: '
        f'python -m llm_jax.main --config=compress:gptq --config.artifact={config.artifact}'
      )
    self.forms = dict(self.model.forms) if isinstance(self.model, Compressed) else {}
    self.model = self.model.base if isinstance(self.model, Compressed) else self.model
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
    if is_packed:
      self.about_theirs['quantization_config'] = packed.config(self.plan, self.forms)

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
    artifact.check_whole(self.folder, self.about)
    with locked(target.with_name(f'{target.name}.lock')), leased(target):
      self._export(target)

  def _export(self, target: Path) -> None:
    partial = target.with_name(f'{target.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
      if self.forms:
        self._write_packed(partial)
      elif self.config.format == 'gguf':
        self._write_gguf(partial / FILE, self._stored())
      else:
        self._write(partial, self._stored())
    except BaseException:
      shutil.rmtree(partial)
      raise
    if target.is_dir():
      target.rmdir()
    partial.rename(target)
    say(f'{self.config.artifact} is now in {self.config.workdir}, as {self.config.format}.')

  def _stored(self) -> Stored:
    return Stored(self.folder / 'params', list(self.plan.shapes))

  def _write_packed(self, folder: Path) -> None:
    """A folder of weights in few bits, which are all in memory meanwhile."""
    kind = DTYPES[self.config.dtype or 'float32']
    trust = tuple(self.config.get('trust', ()))
    made = artifact.load(self.folder, make_mesh(devices=jax.devices()[:1]), COMPUTE, trust=trust)
    params: Any = flatten_dict(dict(made.params), sep='/')
    arrays: dict[str, np.ndarray] = {}
    for source in self.plan.sources:
      for name, array in packed.arrays(source, params, kind).items():
        if array.dtype == kind:
          check_finite(name, array)
        arrays[name] = array
    like = self.plan.sources[0]
    sources = [like._replace(name=name, shape=array.shape) for name, array in arrays.items()]
    theirs.write(
      folder, self._config(kind.name), sources, lambda source: arrays[source.name],
      {name: array.dtype for name, array in arrays.items()},
      shard_bytes=self.config.shard_bytes, show=_show('write'),
    )  # fmt: skip
    tokenizer_export.save(self.tokenizer, folder, self.stops)

  def _write(self, folder: Path, stored: Stored) -> None:
    kind = self._kind(stored)

    def make(source: Source) -> np.ndarray:
      array = array_of(source, stored)
      with np.errstate(over='ignore'):  # told by the next line, by name
        array = array.astype(kind, copy=False)
      check_finite(source.name, array)  # a narrow type may not hold the numbers of a wide one
      return array

    dtypes = {source.name: kind for source in self.plan.sources}
    if SCORE_BIAS in dtypes and not stored.read('head/bias').any():
      del dtypes[SCORE_BIAS]  # their class has none
    theirs.write(
      folder, self._config(kind.name), self.plan.sources, make, dtypes,
      shard_bytes=self.config.shard_bytes, show=_show('write'),
    )  # fmt: skip
    tokenizer_export.save(self.tokenizer, folder, self.stops)
    self._read_back(folder, stored, kind)

  def _write_gguf(self, file: Path, stored: Stored) -> None:
    laid = self._layout(self._kind(stored))
    about = {'general.name': self.folder.name, 'general.type': 'model', **self._vocabulary()}
    gguf.write(file, laid, about, stored.read, _show('write'))
    gguf.compare(file, laid, about, stored.read, _show('compare'))
    whole = [a.name for a in laid.arrays if len(a.shape) > 1 and not a.blocks]
    if self.config.get('type') and whole:
      say(f'Without blocks, as their inputs are none: {", ".join(whole)}.')
    for what in gguf_vocabulary.differences(self.tokenizer):
      say(f'llama.cpp reads {what} in another way.')

  def _kind(self, stored: Stored) -> np.dtype:
    widest = max((slot.dtype for slot in stored.slots.values()), key=_width)
    return DTYPES[self.config.dtype] if self.config.dtype else widest

  def _layout(self, kind: np.dtype) -> gguf.Layout:
    family, blocks = self.about_theirs['model_type'], self.config.get('type', '')
    return gguf.layout(self.model.shape, self.plan, family, kind, blocks)

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
    dtypes = dict.fromkeys(stored.slots, kind)
    compare(self.model, stored.parts(), written.parts(self.plan), dtypes, str(folder))


def _stops(tokenizer: Tokenizer) -> list[int]:
  """Ids that end an answer, the end of a document first."""
  turn = chat.stop_ids(tokenizer, chat.FOLDER) if tokenizer.chat_template is not None else []
  return list(dict.fromkeys([*tokenizer.stop_ids, *turn]))


def array_of(source: Source, stored: Stored) -> np.ndarray:
  """An array of theirs, from the checkpoint."""
  return source.write({path: stored.read(path, source.index) for path in source.paths})


def _show(what: str) -> Any:
  """Counts arrays on a terminal."""
  return lambda arrays: counted(arrays, what, len(arrays))


def _width(dtype: np.dtype) -> int:
  return dtype.itemsize
