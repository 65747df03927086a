"""Every record is in one split, no prompt in two, and what cannot be read is named by its place."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from llm_jax.data import conversations, families, formats, preferences, prompts, records
from llm_jax.data.formats import BadRow
from llm_jax.text.tokenizer import Tokenizer
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


def prompts_of(found):
  return [messages[0]['content'] for _, messages in found]


def test_the_hash_divides_prompts(tmp_path):
  rows = [dialogue(f'question {i // 2}', f'answer {i}') for i in range(600)]
  path = write(tmp_path / 'a.jsonl', rows)
  train = read(path, validation_fraction=0.2)
  validation = read(path, 'validation', validation_fraction=0.2)
  assert len(train) + len(validation) == 600
  assert not set(prompts_of(train)) & set(prompts_of(validation))
  assert 80 < len(validation) < 160
  assert read(path, validation_fraction=0.2) == train
  assert len(read(path, validation_fraction=0)) == 600


def test_another_file_for_validation(tmp_path):
  a = write(tmp_path / 'a.jsonl', [dialogue(f'{i}') for i in range(50)])
  b = write(tmp_path / 'b.jsonl', [dialogue('held out')])
  assert len(read(a, validation={'mine': b})) == 50
  assert prompts_of(read(a, 'validation', validation={'mine': b})) == ['held out']
  builtin = read(a, 'validation', validation={'mine': 'builtin:word_problems'})
  assert len(builtin) == len(families.records('conversations', 'validation', 'word_problems'))


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
    assert prompts_of(found) == ['0', '1', '2']
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
  with pytest.raises(BadInput, match='no chat in'):
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


# --- a function of the user's ------------------------------------------------------------------

MAPS = """
def ask(n):
  return {'messages': [{'role': 'user', 'content': n}, {'role': 'assistant', 'content': 'yes'}]}


def record(record):
  if record['n'] % 3 == 0:
    return None
  return ask(str(12 // (record['n'] - 7)) + ' ' + str(record['n']))
"""


def test_a_function_of_the_users_maps_records(tmp_path):
  (tmp_path / 'maps.py').write_text(MAPS)
  path, maps = write(tmp_path / 'a.jsonl', [{'n': n} for n in range(8, 68)]), f'{tmp_path}/maps.py'
  counts = [Counter(), Counter()]
  train, validation = (
    read(path, split, map=maps, counts=some, validation_fraction=0.3)
    for split, some in zip(('train', 'validation'), counts)
  )
  asked = sorted(int(prompt.split()[1]) for prompt in prompts_of(train + validation))
  assert asked == [n for n in range(8, 68) if n % 3]
  assert train and validation
  assert counts == [{records.LEFT_OUT: 20}, {}]  # once, and not for each split
  whole = Counter()
  read(path, 'validation', map=maps, counts=whole, validation={'mine': path})
  assert whole == {records.LEFT_OUT: 20}


def test_messages_of_trees_are_mapped_before_they_are_put_together(tmp_path):
  rows = [
    {'id': i, 'parent_id': None if i == 0 else i - 1, 'text': f'{i}', 'role': role}
    for i, role in enumerate(['prompter', 'assistant', 'prompter', 'assistant'])
  ]
  (tmp_path / 'maps.py').write_text(
    "record = lambda record: None if record['message_id'] > 1 else record"
  )
  path = write(tmp_path / 'a.jsonl', rows)
  ((_, messages),) = read(f'{path}?message_id=id', map=f'{tmp_path}/maps.py', validation_fraction=0)
  assert [message['content'] for message in messages] == ['0', '1']


@pytest.mark.parametrize(
  ('code', 'message'),
  [
    (
      'def record(record):\n  return record["q"]',
      r"line 1: data\.map: .*maps\.py:2: KeyError: 'q'",
    ),
    (
      'import json\n\ndef record(record):\n  return json.loads("{")',
      r'line 1: data\.map: .*maps\.py:4: JSONDecodeError: ',
    ),
    (
      'def one(x):\n  raise ValueError("no\\nlevel")\n\ndef record(record):\n  return one(record)',
      r'line 1: data\.map: .*maps\.py:2: ValueError: no level',
    ),
    (
      'def record(record):\n  return "text"',
      r'line 1: data\.map: .*maps\.py made str of it; return a',
    ),
    ('def record(record):\n  return {"a": 1}', r'line 1: columns a are of no known format'),
    ('def record():\n  return None', r'line 1: data\.map: .*: TypeError: record\(\) takes 0'),
    ('def records(record):\n  return None', r"maps\.py' does not define record"),
    ('def record(record:', r'maps\.py:1: SyntaxError'),
  ],
)
def test_mistakes_in_a_function_of_the_users(tmp_path, code, message):
  (tmp_path / 'maps.py').write_text(code)
  path = write(tmp_path / 'a.jsonl', [{'n': 1}])
  with pytest.raises(BadInput, match=message) as caught:
    read(path, map=f'{tmp_path}/maps.py', validation_fraction=0)
  assert '\n' not in str(caught.value)


def test_the_function_on_the_page_works(tmp_path):
  page = (Path(__file__).parents[2] / 'docs' / 'data_formats.md').read_text()
  (tmp_path / 'choices.py').write_text(re.findall(r'```python\n(.*?)```', page, re.DOTALL)[0])
  row = dict(question='Which?', choices=['this', 'that'], correct=1, checked=True)
  path = write(tmp_path / 'a.jsonl', [row | {'checked': False}, row])
  ((where, messages),) = read(path, map=f'{tmp_path}/choices.py', validation_fraction=0)
  assert where == f'{path}, line 2'
  assert [m['content'] for m in messages] == ['Which?\nA) this\nB) that', 'B']


def test_a_function_of_the_users_that_is_not_there(tmp_path):
  path = write(tmp_path / 'a.jsonl', [{'n': 1}])
  for name, message in [('no_such', 'no module'), (f'{tmp_path}/no.py', 'no Python file')]:
    with pytest.raises(BadInput, match=f'data: {message}'):
      read(path, map=name)


@pytest.fixture(scope='module')
def tokenizer():
  texts = [f'{word} {i}' for i in range(99) for word in ('yes', 'no', 'user', 'The cat sat.')]
  return Tokenizer.train(texts, vocab_size=300)


@pytest.mark.parametrize('data', [conversations, preferences, prompts])
def test_all_data_of_records_take_the_function(tmp_path, data, tokenizer, capsys):
  (tmp_path / 'maps.py').write_text(
    'def record(record):\n'
    '  if record["a"] > 2:\n'
    '    return None\n'
    '  return {"prompt": f"{record[\'a\']}", record["b"]: "yes", record["c"]: "no"}\n'
  )
  names = {'conversations': ('answer', 'id'), 'prompts': ('answer', 'id')}
  b, c = names.get(data.__name__.rpartition('.')[2], ('chosen', 'rejected'))
  path = write(tmp_path / 'a.jsonl', [dict(a=a, b=b, c=c) for a in range(5)])
  options = dict(sources={'mine': path}, map=f'{tmp_path}/maps.py', validation_fraction=0)
  pack = dict(pack=False) if data is conversations else {}
  assert len(data.make(tokenizer, length=200, **pack, **options)) == 3
  assert '; 2 left out: data.map gave None' in capsys.readouterr().out
