"""Our texts as TFDS datasets: written and read back without TensorFlow."""

import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from llm_jax.data import builtin, corpus
from llm_jax.types import BadInput

TEXTS = ['one', 'zwei\n\nmit é', '', '三' * 5000]


def read(name, data_dir, split):
  return [row['text'].decode() for row in tfds.data_source(name, data_dir=data_dir, split=split)]


def test_round_trip_in_order(tmp_path, capsys):
  folder = corpus.prepare('stories', {'train': iter(TEXTS), 'validation': ['held out']}, tmp_path)
  assert folder == tmp_path / 'stories' / '1.0.0'
  assert read('stories', tmp_path, 'train') == TEXTS
  assert read('stories', tmp_path, 'validation') == ['held out']
  many = [f'document {i}' for i in range(3000)]
  corpus.prepare('many', {'train': many}, tmp_path)
  assert read('many', tmp_path, 'train') == many
  assert sorted(path.name for path in tmp_path.iterdir()) == ['many', 'stories']
  assert 'Downloading' not in capsys.readouterr().out


def test_read_by_folder_in_another_process_without_tensorflow(tmp_path):
  folder = corpus.prepare('corpus', {'train': TEXTS}, tmp_path)
  code = (
    'import sys, tensorflow_datasets as tfds; '
    'rows = tfds.builder_from_directory(sys.argv[1]).as_data_source(split="train[1:]"); '
    'print(ascii([row["text"].decode() for row in rows]), "tensorflow" in sys.modules)'
  )
  run = [sys.executable, '-c', code, str(folder)]
  out = subprocess.run(run, capture_output=True, text=True, check=True).stdout
  assert out == f'{TEXTS[1:]!a} False\n'


def test_the_builtin_corpus(tmp_path):
  assert builtin.prepare(tmp_path) == tmp_path / 'builtin' / '1.0.0'
  for split in builtin.SPLITS:
    assert read('builtin', tmp_path, split) == builtin.documents(split)


def test_what_is_there_stays_until_it_is_replaced(tmp_path):
  corpus.prepare('stories', {'train': ['old']}, tmp_path)
  with pytest.raises(BadInput, match=r'stories/1\.0\.0 is there already; pass overwrite=True'):
    corpus.prepare('stories', {'train': ['new']}, tmp_path)
  with pytest.raises(BadInput, match='document 1'):
    corpus.prepare('stories', {'train': ['new', 2]}, tmp_path, overwrite=True)
  assert read('stories', tmp_path, 'train') == ['old']
  corpus.prepare('stories', {'train': ['new']}, tmp_path, overwrite=True)
  assert read('stories', tmp_path, 'train') == ['new']
  assert [path.name for path in tmp_path.iterdir()] == ['stories']


@pytest.mark.parametrize(
  ('name', 'splits', 'message'),
  [
    ('My Stories', {'train': ['a']}, "name 'My Stories' cannot be read back"),
    ('stories', {'train/a': ['a']}, "split 'train/a' cannot be read back"),
    ('stories', {}, 'there is no split'),
    ('stories', {'train': ['a'], 'test': []}, "split 'test' has no document"),
    ('stories', {'train': ['a', b'b']}, "document 1 of split 'train' is bytes; give .* as str"),
    ('stories', {'train': 'abc'}, "split 'train' is one str; give a list"),
  ],
)
def test_bad_input(tmp_path, name, splits, message):
  with pytest.raises(BadInput, match=message) as caught:
    corpus.prepare(name, splits, tmp_path)
  assert '\n' not in str(caught.value)
  assert not list(Path(tmp_path).iterdir())
