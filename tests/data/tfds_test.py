"""Records of a TFDS dataset have values of Python's own, and the shape that was written."""

import contextlib
import io
import random
from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds

from llm_jax.data import formats, records
from llm_jax.data.sources import open_records, open_source
from llm_jax.types import BadInput

F = tfds.features


def features():
  return F.FeaturesDict(
    {
      'question': F.Text(),
      'text': F.Tensor(shape=(), dtype=np.str_),
      'level': np.int64,
      'hard': np.bool_,
      'score': np.float32,
      'label': F.ClassLabel(names=['bad', 'good']),
      'tags': F.Sequence(F.Text()),
      'pair': F.Tensor(shape=(2,), dtype=np.int32),
      'about': {'by': F.Text(), 'years': F.Sequence(np.int64)},
      'messages': F.Sequence({'role': F.Text(), 'content': F.Text(), 'of': {'n': np.int64}}),
      'turns': F.Dataset({'human': F.Text(), 'assistant': F.Text()}),
    }
  )


def record(draw):
  say = lambda: draw.choice(['é', '', 'three\nlines', '12'])
  turn = lambda role: {'role': role, 'content': say(), 'of': {'n': draw.randrange(9)}}
  return {
    'question': say(),
    'text': say(),
    'level': draw.randrange(9),
    'hard': draw.random() < 0.5,
    'score': 0.5,
    'label': draw.randrange(2),
    'tags': [say() for _ in range(draw.randrange(3))],
    'pair': [1, 2],
    'about': {'by': say(), 'years': list(range(draw.randrange(3)))},
    'messages': [turn(role) for role in ('user', 'assistant') * draw.randrange(3)],
    'turns': [{'human': say(), 'assistant': say()} for _ in range(draw.randrange(3))],
  }


DRAW = random.Random(0)
ROWS = {split: [record(DRAW) for _ in range(n)] for split, n in [('train', 300), ('test', 4)]}


class Talks(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  name = 'talks'
  VERSION = tfds.core.Version('1.0.0')
  url_infos = None

  def _info(self):
    about = dict(description='Talks.', features=features(), disable_shuffling=True)
    return tfds.core.DatasetInfo(builder=self, **about)

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(rows) for split, rows in ROWS.items()}

  def _generate_examples(self, rows):
    yield from enumerate(rows)


@pytest.fixture(scope='module')
def spec(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
    Talks(data_dir=folder, file_format='array_record').download_and_prepare(
      download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
  return f'tfds:talks@{folder}'


def same_types(found, wanted):
  if isinstance(wanted, dict):
    return all(same_types(found[name], wanted[name]) for name in wanted)
  if isinstance(wanted, list):
    return all(map(same_types, found, wanted))
  return type(found) is type(wanted)


@pytest.mark.parametrize('split', ROWS)
def test_records_are_what_was_written(spec, split):
  source = open_records(spec, split=split)
  assert source.splits == ('test', 'train')
  found = list(source)
  assert [row for _, row in found] == ROWS[split] == [row for _, row in source]
  assert same_types([row for _, row in found], ROWS[split])
  assert found[3][0] == f'{spec}, split {split!r}, record 3'
  assert list(open_records(f'{spec}?split={split}')) == found


def test_texts_of_such_a_dataset(spec):
  assert list(open_source(f'{spec}?field=question')) == [r['question'] for r in ROWS['train']]
  assert list(open_source(spec)) == [row['text'] for row in ROWS['train']]
  with pytest.raises(BadInput, match="record 0: 'level' is int, not a string; choose another"):
    list(open_source(f'{spec}?field=level'))


def read(spec, split, counts=None):
  parse = lambda record: formats.conversation({'messages': record['messages']})
  opening = lambda messages: messages
  options = dict(kind='conversations', split=split, counts=counts, validation_fraction=0.3)
  return [where for where, _ in records.read('a', {'a': spec}, parse, opening, **options)]


def test_splits_of_records(spec):
  train, validation, test = (read(spec, split) for split in ('train', 'validation', 'test'))
  assert sorted(train + validation) == sorted(where for where, _ in open_records(spec))
  assert train and validation and not set(train) & set(validation)
  assert test == [f"{spec}, split 'test', record {i}" for i in range(4)]
  part = f'{spec}?split=test'
  assert sorted(read(part, 'train') + read(part, 'validation')) == test
  with pytest.raises(BadInput, match=r"has no split 'test', only train and validation"):
    read(f'{spec}?split=train', 'test')
  with pytest.raises(BadInput, match=r"no split 'tset' in .*; it has: test, train"):
    read(f'{spec}?split=tset', 'train')


def test_columns_get_other_names(spec):
  found = [row for _, row in open_records(f'{spec}?prompt=question&split=test', known=['prompt'])]
  assert [row['prompt'] for row in found] == [row['question'] for row in ROWS['test']]
  assert Counter(map(len, found)) == {len(ROWS['test'][0]): 4}


def test_bytes_that_are_no_text(spec, tmp_path, monkeypatch):
  monkeypatch.setitem(ROWS, 'train', [ROWS['train'][0] | {'question': b'caf\xe9'}])
  with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
    Talks(data_dir=tmp_path, file_format='array_record').download_and_prepare(
      download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
  with pytest.raises(BadInput, match=r"split 'train', record 0: 'question' is not UTF-8"):
    list(open_records(f'tfds:talks@{tmp_path}'))
