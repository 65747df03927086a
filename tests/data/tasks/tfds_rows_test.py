"""Benchmarks that TFDS has prepared are read to the same questions as those of the hub."""

import contextlib
import io

import numpy as np
import pytest

from llm_jax.data.tasks import files
from llm_jax.evals.task import task_of
from tests.data.tasks import formats as f

tfds = pytest.importorskip('tensorflow_datasets')

F = tfds.features
ROWS = {'validation_matched': f.MNLI, 'validation_mismatched': f.MNLI[:1]}


class Pairs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  name = 'pairs'
  VERSION = tfds.core.Version('2.0.0')
  url_infos = None

  def _info(self):
    label = F.ClassLabel(names=list(f.MNLI_NAMES))
    columns = {'premise': F.Text(), 'hypothesis': F.Text(), 'label': label, 'idx': np.int32}
    about = dict(description='Pairs.', features=F.FeaturesDict(columns), disable_shuffling=True)
    return tfds.core.DatasetInfo(builder=self, **about)

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(rows) for split, rows in ROWS.items()}

  def _generate_examples(self, rows):
    yield from enumerate(rows)


def test_splits_of_such_a_dataset_are_found_by_its_own_names(tmp_path):
  with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
    Pairs(data_dir=tmp_path, file_format='array_record').download_and_prepare(
      download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
  spec = f'tfds:pairs@{tmp_path}'
  read = lambda name: files.items(name, task_of(name), 'validation', spec)
  matched, mismatched = read('mnli'), read('mnli_mismatched')
  assert [item.gold for item in matched] == [2, 1]
  assert mismatched == matched[:1]
  assert matched[0].context == (
    'It rains in Bergen.\nQuestion: Bergen is wet. True, False or Neither?\nAnswer:'
  )
