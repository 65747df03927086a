"""Every record is in one split, no prompt in two, and what cannot be read is named by its place."""

import gzip
import json

import pytest

from llm_jax.data import families, formats, records
from llm_jax.data.formats import BadRow
from llm_jax.types import BadInput


def dialogue(prompt, answer='yes'):
  return {'messages': [dict(role='user', content=prompt), dict(role='assistant', content=answer)]}


def write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def read(spec, split='train', **options):
  sources = spec if isinstance(spec, dict) else {'mine': spec}
  return list(
    records.read(
      'mine',
      sources,
      formats.conversation,
      lambda messages: messages,
      kind='conversations',
      split=split,
      **options,
    )
  )


def prompts(found):
  return [messages[0]['content'] for _, messages in found]


def test_the_hash_divides_prompts(tmp_path):
  rows = [dialogue(f'question {i // 2}', f'answer {i}') for i in range(600)]
  path = write(tmp_path / 'a.jsonl', rows)
  train = read(path, validation_fraction=0.2)
  validation = read(path, 'validation', validation_fraction=0.2)
  assert len(train) + len(validation) == 600
  assert not set(prompts(train)) & set(prompts(validation))
  assert 80 < len(validation) < 160
  assert read(path, validation_fraction=0.2) == train
  assert len(read(path, validation_fraction=0)) == 600


def test_another_file_for_validation(tmp_path):
  a = write(tmp_path / 'a.jsonl', [dialogue(f'{i}') for i in range(50)])
  b = write(tmp_path / 'b.jsonl', [dialogue('held out')])
  assert len(read(a, validation={'mine': b})) == 50
  assert prompts(read(a, 'validation', validation={'mine': b})) == ['held out']
  builtin = read(a, 'validation', validation={'mine': 'builtin:word_problems'})
  assert len(builtin) == 300


@pytest.mark.parametrize('split', families.SPLITS)
def test_builtin_has_its_own_splits(split):
  there = families.records('conversations', split, 'word_problems')
  assert [m for _, m in read('builtin:word_problems', split)] == [r['messages'] for r in there]


def test_a_json_array_and_lists_of_messages(tmp_path):
  rows = [dialogue(f'{i}') for i in range(3)]
  array = tmp_path / 'a.json.gz'
  array.write_bytes(gzip.compress(json.dumps(rows, indent=1).encode()))
  lists = write(tmp_path / 'b.jsonl', [row['messages'] for row in rows])
  for path in (str(array), lists):
    found = read(path, validation_fraction=0)
    assert prompts(found) == ['0', '1', '2']
  assert read(str(array), validation_fraction=0)[2][0] == f'{array}, element 2'
  assert read(lists, validation_fraction=0)[2][0] == f'{lists}, line 3'


def test_bad_rows_are_handed_on_once(tmp_path):
  rows = [dialogue('a'), {**dialogue('b'), 'tools': '[{'}]
  path = write(tmp_path / 'a.jsonl', rows)
  found = [*read(path), *read(path, 'validation')]
  assert len(found) == 2
  assert [where for where, item in found if isinstance(item, BadRow)] == [f'{path}, line 2']


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ({'a': 'a'}, 'line 2: columns a are of no known format; choose from: messages'),
    (5, 'line 2: int instead of an object'),
    ({'info': {}, 'summaries': [], 'choice': 0}, 'line 2: a column does not hold what its name'),
  ],
)
def test_the_place_of_what_cannot_be_read(tmp_path, row, message):
  path = write(tmp_path / 'a.jsonl', [dialogue('a'), row])
  with pytest.raises(BadInput) as caught:
    read(path, validation_fraction=0)
  assert message in str(caught.value)
  assert str(caught.value).startswith(path)


def test_bad_specifications(tmp_path):
  path = write(tmp_path / 'a.jsonl', [dialogue('a')])
  with pytest.raises(BadInput, match="no split 'test', only train and validation"):
    read(path, 'test')
  with pytest.raises(BadInput, match="no family 'word_problem'; did you mean 'word_problems'"):
    read('builtin:word_problem')
  with pytest.raises(BadInput, match='TFDS is read for texts only'):
    read('tfds:chat')
  with pytest.raises(BadInput, match='no such file'):
    read(str(tmp_path / 'b.jsonl'))


def test_a_source_without_a_specification_is_left_out():
  assert records.chosen({'mine': 'a', 'builtin': ''}, None, 0.1) == {'mine': 'a'}


def test_bad_options():
  with pytest.raises(BadInput, match=r'data\.sources is empty'):
    records.chosen({}, None, 0.1)
  with pytest.raises(BadInput, match="no source 'min'; did you mean 'mine'"):
    records.chosen({'mine': 'builtin'}, {'min': 'builtin'}, 0.1)
  with pytest.raises(BadInput, match='a share from 0'):
    records.chosen({'mine': 'builtin'}, None, 1.0)
