"""Writes texts as a TFDS dataset: array_record files that can be read without TensorFlow.

`prepare('stories', {'train': texts, 'validation': more}, 'data')` writes `data/stories/1.0.0`, and
`tfds.data_source('stories', data_dir='data', split='train')` or `tfds.builder_from_directory`
reads it: one record `{'text': bytes}` a document, in the order they came.
"""

import contextlib
import io
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from llm_jax.types import BadInput


class Corpus(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A builder that is given its documents: `splits` maps 'train', ... to an iterable of texts."""

  VERSION = tfds.core.Version('1.0.0')
  url_infos = None  # nothing is downloaded; TFDS needs importlib_resources to look for checksums

  def __init__(self, *, name: str, splits: Mapping[str, Iterable[str]], **builder: Any):
    self.name = name  # pyright: ignore[reportAttributeAccessIssue]  # TFDS names the class
    self._splits = splits
    super().__init__(file_format='array_record', **builder)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description='Plain text, one document a record.',
      features=tfds.features.FeaturesDict({'text': tfds.features.Text()}),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    del dl_manager  # nothing is downloaded
    return {split: self._generate_examples(split) for split in self._splits}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, str]]]:
    index = -1
    for index, text in enumerate(self._splits[split]):
      if not isinstance(text, str):
        raise BadInput(
          f'corpus {self.name}: document {index} of split {split!r} is {type(text).__name__}; '
          'give every document as str'
        )
      yield index, {'text': text}
    if index < 0:
      raise BadInput(
        f'corpus {self.name}: split {split!r} has no document; give it one or leave it out'
      )


def prepare(
  name: str,
  splits: Mapping[str, Iterable[str]],
  data_dir: str | Path,
  *,
  overwrite: bool = False,
) -> Path:
  """Writes the documents below `data_dir` and returns the folder of the dataset.

  Raises:
    BadInput: TFDS could not read the name back, there is no split, a split has no document, a
      document is not a str, or the dataset exists already (unless `overwrite`).
  """
  for what, word in [('name', name), *(('split', split) for split in splits)]:
    if not re.fullmatch('[a-z][a-z0-9_]*', word):
      raise BadInput(
        f'corpus {name}: {what} {word!r} cannot be read back; use small letters, digits and _'
      )
  for split, texts in splits.items():
    if isinstance(texts, str):
      raise BadInput(f'corpus {name}: split {split!r} is one str; give a list of documents')
  if not splits:
    raise BadInput(f"corpus {name}: there is no split; give {{'train': texts}}")
  data_dir = Path(data_dir).expanduser()
  folder = data_dir / name / str(Corpus.VERSION)
  if folder.exists() and not overwrite:
    raise BadInput(
      f'corpus {name}: {folder} is there already; pass overwrite=True to write it anew, or choose '
      'another name or data_dir'
    )
  data_dir.mkdir(parents=True, exist_ok=True)
  # It is written beside its place and then moved, so the old one stays until the new one is whole.
  with tempfile.TemporaryDirectory(dir=data_dir, prefix='.writing_') as temporary:
    tfds.disable_progress_bar()
    builder = Corpus(name=name, splits=splits, data_dir=temporary)
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS talks of a download that is none
      builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
      )
    if folder.exists():
      shutil.rmtree(folder)
    folder.parent.mkdir(exist_ok=True)
    Path(builder.data_path).rename(folder)
  return folder
