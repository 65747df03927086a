"""The shapes in which data is published: what each one means, in each form, or why it is refused.

fixtures/shapes.jsonl has a record of each, written by hand with the columns of the real set, and
what is read of it. A message is told as its role and what it says: `A:` is trained, `a:` is an
answer that is not, `*...*` a thought, `f{...}` a call. A form that is not listed must be refused,
with the error under `error`, or under its name with `!`. docs/data_formats.md is held against both
tables.
"""

import contextlib
import json
import math
import random
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from llm_jax.data import formats, questions, records
from llm_jax.data.formats import BadRow
from llm_jax.data.sources import open_records
from llm_jax.text import chat
from llm_jax.text.tokenizer import BOS
from llm_jax.types import BadInput

U = lambda text: {'role': 'user', 'content': text}
A = lambda text, **more: {'role': 'assistant', 'content': text, **more}
T = lambda text, **more: {'role': 'tool', 'content': text, **more}
CALL = lambda arguments: {'function': {'name': 'f', 'arguments': arguments}}
TALK = [U('Hi'), A('Yo'), U('So?'), A('No')]

LINES = (Path(__file__).parents[1] / 'fixtures' / 'shapes.jsonl').read_text().splitlines()
SHAPES = {shape['name']: (shape['record'], shape['read']) for shape in map(json.loads, LINES)}

TREE = [
  dict(message_id='a', parent_id=None, text='Hi', role='prompter', rank=None, message_tree_id='a'),
  dict(message_id='b', parent_id='a', text='No', role='assistant', rank=1, message_tree_id='a'),
  dict(message_id='c', parent_id='a', text='Yo', role='assistant', rank=0, message_tree_id='a'),
  dict(message_id='d', parent_id='c', text='So?', role='prompter', rank=None, message_tree_id='a'),
  dict(message_id='e', parent_id='c', text='Eh?', role='prompter', rank=None, message_tree_id='a'),
  dict(message_id='f', parent_id='d', text='One', role='assistant', rank=None, message_tree_id='a'),
  dict(message_id='g', parent_id='e', text='Two', role='assistant', rank=None, message_tree_id='a'),
  dict(message_id='h', parent_id='a', text='Bad', role='assistant', rank=2, deleted=True),
]
ROWS = [{'messages': TALK[:2], 'id': 1}, {'messages': TALK, 'id': 2}]
READ = {
  'sft': ['U:Hi A:Yo', 'U:Hi A:Yo U:So? A:No'],
  'asks': ['U:Hi = Yo', 'U:Hi A:Yo U:So? = No'],
}
CALLS = [
  [U('Hi'), A(None, tool_calls=[CALL({'port': 'Bergen', 'deep': {'x': 1}})]), T('ok'), A('Yo')],
  [U('So?'), A(None, tool_calls=[CALL({'b': 4, 'deep': {'y': 2}})]), T('ok'), A('No')],
]


def csv_of(rows, delimiter):
  cell = lambda value: (
    '"' + (value if isinstance(value, str) else json.dumps(value)).replace('"', '""') + '"'
  )
  lines = [delimiter.join(rows[0]), *(delimiter.join(map(cell, row.values())) for row in rows)]
  return '\n'.join(lines) + '\n'


# name: (file, its text or rows, {form: what is read of each record})
FILES = {
  'Dataset.to_json': ('a.jsonl', '\n'.join(map(json.dumps, ROWS)), READ),
  'DataFrame.to_json': (
    'a.json',
    json.dumps({k: {str(i): row[k] for i, row in enumerate(ROWS)} for k in ROWS[0]}),
    READ,
  ),
  'DataFrame.to_json by index': (
    'a.json',
    json.dumps({str(i): r for i, r in enumerate(ROWS)}),
    READ,
  ),
  'CSV with JSON columns': ('a.csv', csv_of(ROWS, ','), READ),
  'TSV with JSON columns': ('a.tsv', csv_of(ROWS, '\t'), READ),
  'CSV of pairs': (
    'a.csv',
    csv_of([{'prompt': 'Hi', 'chosen': 'Yo, so', 'rejected': 'No', 'margin': 0.5}], ','),
    {
      'sft': ['U:Hi A:Yo, so'],
      'pairs': ['U:Hi > Yo, so > No @ 0.5'],
      'asks': ['U:Hi ='],
    },
  ),
  'Parquet with calls': (
    'a.parquet',
    [{'messages': messages} for messages in CALLS],
    {
      'sft': [
        'U:Hi A:f{"port": "Bergen", "deep": {"x": 1}} T:ok A:Yo',
        'U:So? A:f{"deep": {"y": 2}, "b": 4} T:ok A:No',
      ],
      'asks': ['U:Hi = Yo', 'U:So? = No'],
    },
  ),
  'JSON with calls': (
    'a.jsonl',
    json.dumps({'messages': [U('Hi'), A(None, tool_calls=[CALL({'a': None})]), T('ok'), A('Yo')]}),
    {'sft': ['U:Hi A:f{"a": null} T:ok A:Yo'], 'asks': ['U:Hi = Yo']},
  ),
  'OpenAssistant trees': (
    'a.jsonl',
    '\n'.join(map(json.dumps, TREE)),
    {
      'sft': ['U:Hi A:Yo U:So? A:One', 'U:Hi a:Yo U:Eh? A:Two'],
      'pairs': ['U:Hi > Yo > No'],
      'asks': ['U:Hi =', 'U:Hi A:Yo U:So? =', 'U:Hi A:Yo U:Eh? ='],
    },
  ),
}

MARKS = {'<THINK_START>': '*', '<THINK_END>': '*', '<RESULT_START>': '', '<RESULT_END>': ''}
CALLED = re.compile(r'<SEARCH_START>\{"name": "(\w+)", "arguments": (.*?)\}<SEARCH_END>')


def told(messages):
  """Messages in the words of the table, taken from what a template makes of each."""
  said = []
  for message in messages:
    found = [piece for piece in chat.pieces([message]) if piece.text not in ('<|im_end|>', BOS)]
    *_, role, _ = (piece.text for piece in found[:3])
    letter = role[0].upper() if role != 'assistant' or any(p.trainable for p in found) else 'a'
    text = ''.join(MARKS.get(piece.text, piece.text) for piece in found[3:])
    said.append(f'{letter}:{CALLED.sub(lambda call: call[1] + call[2], text)}')
  return ' '.join(said)


def read(form, record):
  """What is read of a record in the words of the table."""
  if form == 'sft':
    return told(formats.conversation(record))
  if form == 'pairs':
    prompt, answers, margin = formats.preference(record)
    ranked = ' > '.join([told(prompt), *(told(answer)[2:] for answer in answers)])
    return ranked if margin is None else f'{ranked} @ {margin}'
  if form == 'label':
    prompt, answer, label = formats.unpaired(record)
    return f'{told([*prompt, *answer])} {"good" if label else "bad"}'
  prompt, gold = questions.question(record)
  return f'{told(prompt)} = {gold}'.strip()


FORMS = ('sft', 'pairs', 'label', 'asks')


@pytest.mark.parametrize('name', SHAPES)
def test_what_a_shape_means(name):
  record, expected = SHAPES[name]
  for form in FORMS:
    if form in expected:
      assert read(form, record) == expected[form], form
    else:
      with pytest.raises(BadInput, match=expected.get(f'{form}!')) as caught:
        read(form, record)
      assert not isinstance(caught.value, BadRow) and '\n' not in str(caught.value)
      if 'error' in expected and form == 'sft':
        assert re.search(expected['error'], str(caught.value))


COLUMNS = {column for record, _ in SHAPES.values() for column in record}


@pytest.mark.parametrize('name', SHAPES)
def test_a_null_is_no_column(name):
  record, expected = SHAPES[name]
  for form in set(FORMS) & set(expected):
    # A file of several sets gives every row the columns of all.
    for null in (None, math.nan):  # of JSON, and of pandas
      others = dict.fromkeys(COLUMNS - set(questions._GOLD.split('|')) - {'margin'}, null)
      assert read(form, {**others, **record}) == expected[form]
    for column in record:  # one row without what the others have does not end the run
      with contextlib.suppress(BadRow):
        read(form, {**record, column: None})


VALUES = [0, 0.5, math.nan, '', 'x', '[1]', '{}', '[{}]', 'null', [], [1], [None], ['a', 'b'], [[]]]
VALUES += [[{}], {}, {'a': 1}, True, [{'role': 1}], [U(5)], [U(None)], [[1, 2]], b'x', [U([{}])]]


@pytest.mark.parametrize('form', FORMS)
def test_wrong_values_are_read_or_refused(form):
  expected = (BadInput, AttributeError, LookupError, TypeError)  # records.read makes one line of it
  for record, _ in SHAPES.values():
    for column in record:
      for value in random.Random(f'{form} {column}').sample(VALUES, 8):
        with contextlib.suppress(*expected):
          read(form, {**record, column: value})


@pytest.mark.parametrize('name', FILES)
def test_what_a_file_means(tmp_path, name):
  file, content, expected = FILES[name]
  path = tmp_path / file
  if isinstance(content, list):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
  else:
    path.write_text(content)
  kinds = {'sft': 'conversations', 'pairs': 'preferences', 'asks': 'questions'}
  for form, kind in kinds.items():
    found = records.read(
      'a',
      {'a': str(path)},
      lambda record, form=form: read(form, record),
      lambda text: [],
      kind=kind,
      split='train',
      validation_fraction=0.0,
    )
    if form in expected:
      assert [text for _, text in found] == expected[form]
    else:
      with pytest.raises(BadInput, match=re.escape(file)):
        list(found)


@pytest.mark.parametrize('form', FORMS)
def test_every_column_that_is_read_may_have_another_name(tmp_path, form):
  path = tmp_path / 'a.jsonl'
  for name, (record, expected) in SHAPES.items():
    if form in expected and not name.startswith('an unknown'):
      path.write_text(json.dumps({f'{column} (own)': v for column, v in record.items()}))
      names = '&'.join(f'{column}={column} (own)' for column in record if column in records.COLUMNS)
      ((_, renamed),) = open_records(f'{path}?{names}', known=records.COLUMNS)
      assert read(form, renamed) == read(form, record) == expected[form], name


def test_columns_are_no_options():
  assert not records.COLUMNS & {'field', 'split', 'names', 'quotes'}


def test_the_page_says_the_same():
  page = (Path(__file__).parents[2] / 'docs' / 'data_formats.md').read_text()
  rows = [line.strip('|').split(' | ') for line in page.splitlines() if line.startswith('| ')]
  rows = {cells[0].strip(): cells[1:3] for cells in rows if len(cells) == 4}
  names = {'sft': 'SFT', 'pairs': 'preferences', 'label': 'labels', 'asks': 'questions'}
  for name, (_, expected) in SHAPES.items():
    columns, forms = rows.pop(name)
    assert set(re.findall(r'`(\w[\w-]*)`', columns)) <= SHAPES[name][0].keys(), name
    listed = [names[form] for form in FORMS if form in expected]
    assert forms == (', '.join(listed) or 'refused'), name
  for name, (_, _, expected) in FILES.items():
    _, forms = rows.pop(name)
    assert forms == ', '.join(names[form] for form in FORMS if form in expected), name
  assert set(rows) == {'shape'}
