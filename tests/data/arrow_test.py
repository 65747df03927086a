"""Arrow and Parquet read alike, in any layout, and nothing that is missing goes unnoticed.

fixtures/saved was written by `DatasetDict.save_to_disk` of datasets 4: three rows in two files, and
two rows for validation.
"""

import gzip
import io
import json
import random
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from llm_jax.data import arrow
from llm_jax.data.sources import open_records, open_source
from llm_jax.types import BadInput

SAVED = Path(__file__).parents[1] / 'fixtures' / 'saved'
ROWS = [
  {
    'question': f'What is {i} + {i}?',
    'final': f'#### {2 * i}',
    'messages': [
      {'role': 'user', 'content': f'Say {i}.'},
      {'role': 'assistant', 'content': f'{i}!'},
    ],
  }
  for i in range(5)
]


def written(rows, layout, batch=7):
  """The bytes of a file."""
  table, sink = pyarrow.Table.from_pylist(rows), io.BytesIO()
  if layout == 'parquet':
    pyarrow.parquet.write_table(table, sink, row_group_size=batch)
  else:
    make = {'file': pyarrow.ipc.new_file, 'stream': pyarrow.ipc.new_stream}[layout]
    with make(sink, table.schema) as writer:
      writer.write_table(table, max_chunksize=batch)
  return sink.getvalue()


def values(spec, **options):
  return [row for _, row in open_records(spec, **options)]


def bad(read):
  with pytest.raises(BadInput) as caught:
    read()
  assert '\n' not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize('layout', ['stream', 'file', 'parquet'])
def test_rows_come_back_whatever_the_layout(tmp_path, layout):
  draw = random.Random(layout)
  cell = lambda: draw.choice([None, 'é', '', 'x' * 300])
  for number in (1, 30, 700):
    rows = [{'text': f'{i}', 'b': [cell()], 'c': {'d': cell()}} for i in range(number)]
    suffix = '.parquet' if layout == 'parquet' else '.arrow'
    path, zipped = tmp_path / f'a{suffix}', tmp_path / f'a{suffix}.gz'
    path.write_bytes(written(rows, layout))
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    found = list(open_records(str(path)))
    assert [row for _, row in found] == values(str(zipped)) == rows
    assert found[-1][0] == f'{path}, row {number}'
    assert list(open_source(str(path))) == [row['text'] for row in rows]


@pytest.mark.parametrize('layout', ['stream', 'file', 'parquet'])
def test_no_part_is_taken_for_the_whole(tmp_path, layout):
  path = tmp_path / ('a.parquet' if layout == 'parquet' else 'a.arrow')
  whole = written([{'text': f'{i}'} for i in range(20)], layout)
  for end in (*range(1, len(whole), 11), len(whole) - 1):
    path.write_bytes(whole[:end])
    assert 'make the file anew' in bad(lambda: values(str(path)))


def test_bytes_that_changed_are_read_or_refused(tmp_path):
  draw = random.Random(0)
  path = tmp_path / 'a.arrow'
  for layout in ('stream', 'file'):
    whole = written([{'text': f'{i} é', 'b': [i, None]} for i in range(9)], layout)
    for _ in range(60):
      place = draw.randrange(len(whole))
      path.write_bytes(whole[:place] + draw.randbytes(2) + whole[place + 2 :])
      try:
        values(str(path))
      except BadInput as error:
        assert str(error).startswith(str(path))


# --- folders -----------------------------------------------------------------------------------


def test_a_saved_dataset():
  assert values(f'{SAVED}/train') == ROWS[:3]
  assert values(f'{SAVED}/train/') == ROWS[:3]
  assert list(open_source(f'{SAVED}/train?field=question')) == [r['question'] for r in ROWS[:3]]
  assert not open_source(f'{SAVED}/train', field='question').has_splits
  assert values(f'{SAVED}/train/*.arrow') == ROWS[:3]


def test_a_saved_dataset_with_splits():
  source = open_source(f'{SAVED}?field=final', split='validation')
  assert source.has_splits and list(source) == [row['final'] for row in ROWS[3:]]
  assert values(str(SAVED)) == ROWS[:3]
  assert values(str(SAVED), split='validation') == values(f'{SAVED}?split=validation') == ROWS[3:]
  assert not open_records(f'{SAVED}?split=validation').has_splits
  assert bad(lambda: open_records(f'{SAVED}?split=test')) == (
    f"{SAVED}: no split 'test'; it has: train, validation; choose with ?split="
  )
  assert "unknown option 'split'" in bad(lambda: open_records(f'{SAVED}/train?split=train'))


def test_columns_of_a_saved_dataset_have_other_names():
  found = values(
    f'{SAVED}?prompt=question&answer=final&split=validation', known=['prompt', 'answer']
  )
  assert [(row['prompt'], row['answer']) for row in found] == [
    (row['question'], row['final']) for row in ROWS[3:]
  ]


@pytest.fixture
def folder(tmp_path):
  return Path(shutil.copytree(SAVED, tmp_path / 'saved'))


@pytest.mark.parametrize('name', ['../train/data-00000-of-00002.arrow', '/etc/passwd', 5, None, ''])
def test_names_that_lead_out_of_a_folder(folder, name):
  (folder / 'train' / 'state.json').write_text(json.dumps({'_data_files': [{'filename': name}]}))
  assert 'no name of a file in this folder' in bad(lambda: open_records(f'{folder}/train'))
  (folder / 'dataset_dict.json').write_text(json.dumps({'splits': [name]}))
  assert 'no name of a file in this folder' in bad(lambda: open_records(str(folder)))


@pytest.mark.parametrize(
  'text', ['', '{', '[]', '5', '{}', '{"_data_files": 1, "splits": "train"}']
)
def test_lists_of_files_that_are_none(folder, text):
  (folder / 'train' / 'state.json').write_text(text)
  assert 'state.json: is no list of _data_files' in bad(lambda: open_records(f'{folder}/train'))
  (folder / 'dataset_dict.json').write_text(text)
  assert 'dataset_dict.json: is no list of splits' in bad(lambda: open_records(str(folder)))


def test_a_folder_that_is_not_whole(folder):
  state = json.loads((folder / 'train' / 'state.json').read_text())
  (folder / 'train' / 'data-00001-of-00002.arrow').unlink()
  assert 'data-00001-of-00002.arrow: is missing' in bad(lambda: open_records(str(folder)))
  (folder / 'train' / 'state.json').write_text(json.dumps(state | {'_indices_data_files': [{}]}))
  assert 'flatten_indices' in bad(lambda: open_records(str(folder)))
  (folder / 'train' / 'state.json').write_text(json.dumps(state | {'_data_files': []}))
  assert 'holds no record' in bad(lambda: values(str(folder)))
  (folder / 'train' / 'state.json').write_text(json.dumps(state | {'_data_files': ['data.arrow']}))
  assert 'data.arrow: is missing' in bad(lambda: values(str(folder)))
  shutil.rmtree(folder / 'train')
  assert 'has no state.json' in bad(lambda: open_records(str(folder)))


def test_a_split_without_rows_in_some_files(folder):
  empty = pyarrow.Table.from_pylist(ROWS[:1]).slice(0, 0)
  with pyarrow.ipc.new_stream(f'{folder}/train/data-00000-of-00002.arrow', empty.schema) as writer:
    writer.write_table(empty)
  assert values(str(folder)) == ROWS[2:3]
  assert arrow.is_saved(str(folder)) and not arrow.is_saved(str(folder.parent))
