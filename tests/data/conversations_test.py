"""Nothing is lost, cut or left out without a word, and only answers are trained."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llm_jax.data import conversations, families, packed
from llm_jax.data.conversations import Encoded
from llm_jax.text import chat
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

GOLDEN = json.loads((Path(__file__).parents[1] / 'fixtures' / 'chat.json').read_text())
WORDS = ['the', ' cat', ' sat', ' on', ' a mat', '.\n', ' 12', '<|im_end|>']


def dialogue(*texts):
  return {
    'messages': [dict(role=('user', 'assistant')[i % 2], content=t) for i, t in enumerate(texts)]
  }


@pytest.fixture(scope='module')
def tokenizer():
  draw = random.Random(0)
  return Tokenizer.train([''.join(draw.choices(WORDS, k=9)) for _ in range(200)], vocab_size=300)


@pytest.fixture(scope='module')
def dialogues():
  draw = random.Random(1)
  say = lambda: ''.join(draw.choices(WORDS, k=draw.randrange(1, 9)))
  return [dialogue(*(say() for _ in range(2 * draw.randrange(1, 5)))) for _ in range(150)]


@pytest.fixture
def path(tmp_path, dialogues):
  path = tmp_path / 'chats.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in dialogues))
  return str(path)


def make(tokenizer, path, **options):
  options = {'length': 64, 'validation_fraction': 0, **options}
  return conversations.make(tokenizer, sources={'mine': path}, **options)


def encoded(tokenizer, rows, **options):
  return [chat.encode(tokenizer, chat.pieces(row['messages'], **options)) for row in rows]


def segments(rows):
  """(ids, mask) of every segment of every row."""
  return [
    (row['tokens'][there].tolist(), row['mask'][there].astype(int).tolist())
    for row in rows
    for s in range(1, row['segment'].max() + 1)
    for there in [row['segment'] == s]
  ]


# --- packing -----------------------------------------------------------------------------------


@pytest.mark.parametrize('pack', [True, False])
def test_every_conversation_is_a_segment_of_its_own(tokenizer, path, dialogues, pack):
  rows = make(tokenizer, path, length=300, pack=pack)
  whole = encoded(tokenizer, dialogues)
  assert sorted(segments(rows)) == sorted(whole)
  assert (len(rows) == len(dialogues)) != pack


def test_joined_conversations_have_the_same_answers_in_fewer_segments(tokenizer, path, dialogues):
  talks = [row['messages'] for row in dialogues]
  sizes = [len(ids) for ids, _ in encoded(tokenizer, dialogues)]
  groups = conversations.join(talks, sizes, 0.5, 300)
  assert [i for group in groups for i in group] == [*range(len(talks))]
  assert all(sum(sizes[i] for i in group) <= 300 for group in groups)
  assert max(map(len, groups)) > 2 and 0.3 < 1 - len(groups) / len(talks) < 0.5
  whole = [{'messages': [m for i in group for m in talks[i]]} for group in groups]
  rows = make(tokenizer, path, length=300, joined=0.5)
  assert sorted(segments(rows)) == sorted(encoded(tokenizer, whole))
  total = lambda rows: sum(sum(mask) for _, mask in segments(rows))
  assert total(rows) == total(make(tokenizer, path, length=300))  # of trained tokens
  held_out = [
    make(tokenizer, path, split='validation', validation_fraction=0.2, joined=joined)
    for joined in (0.0, 0.5)
  ]
  assert repr(held_out[0]) == repr(held_out[1])


def test_only_conversations_of_one_system_message_are_joined(tokenizer, tmp_path):
  system = lambda text: [{'role': 'system', 'content': text}] if text else []
  told = ['a cat', 'a cat', 'a mat', '', '', 'a mat']
  talks = [[*system(text), *dialogue(str(i), 'sat')['messages']] for i, text in enumerate(told)]
  assert conversations.join(talks, [9] * 6, 1.0, 99) == [[0, 1], [2], [3, 4], [5]]
  path = tmp_path / 'told.jsonl'
  path.write_text(''.join(json.dumps({'messages': talk}) + '\n' for talk in talks))
  said = Counter(tokenizer.decode(ids).count('a cat') for ids, _ in segments(
    make(tokenizer, str(path), length=300, joined=0.99)
  ))  # fmt: skip
  assert said == {1: 1, 0: 3}  # it is said once


def test_what_a_template_would_lose_is_not_joined(tokenizer, tmp_path):
  """No form for a second question, an answer that would be no target any more, a missing answer."""
  single = [dialogue(f'{i}', 'sat') for i in range(20)]
  path = tmp_path / 'single.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in single))
  for options in (dict(template='plain'), dict(train_on='last')):
    how = dict(length=300, **options)
    joined, alone = make(tokenizer, str(path), joined=0.9, **how), make(tokenizer, str(path), **how)
    assert repr(joined) == repr(alone)
  ends = [row['messages'][: 1 + i % 2] for i, row in enumerate(single)]  # every other one asks only
  assert [len(g) for g in conversations.join(ends, [9] * 20, 1.0, 99)] == [1, *[2] * 9, 1]
  begins = [row['messages'][1:] for row in single]
  assert len(conversations.join(begins, [9] * 20, 1.0, 99)) == 20


def test_split_loses_no_token(tokenizer, path, dialogues):
  found = segments(make(tokenizer, path, length=40, overlong='split'))
  ids = Counter(i for part, _ in found for i in part)
  whole = encoded(tokenizer, dialogues)
  starts = {i: w for i, (w, _) in enumerate(whole) if len(w) > 40}
  assert starts  # some are too long
  lost = Counter(i for w, _ in whole for i in w) - ids
  untrained = Counter()  # parts without a target are left out
  for w, m in whole:
    for start in range(0, len(w), 40) if len(w) > 40 else ():
      if not any(m[start + 1 : start + 40]):
        untrained += Counter(w[start : start + 40])
  assert lost == untrained


@pytest.mark.parametrize(
  ('name', 'ours'), [('pack_bfd_split', packed.best_fit), ('pack_wrapped', packed.split)]
)
def test_rows_hold_what_those_of_trl_hold(name, ours):
  """The order of rows, and of documents in them, is ours: that of the documents."""
  lengths_D = np.array([5, 3, 7, 2, 6, 1, 12])
  documents_T = np.repeat(np.arange(1, 8), lengths_D)
  tokens_RL, _ = packed.fill(documents_T, lengths_D, ours(lengths_D, 8), 8)
  rows = sorted(sorted(row[row > 0].tolist()) for row in tokens_RL)
  assert rows == sorted(map(sorted, GOLDEN[name]))


def test_fields(tokenizer, path, dialogues):
  rows = make(tokenizer, path, overlong='split')
  whole = encoded(tokenizer, dialogues)
  assert any(len(mask) > 64 and mask[64] for _, mask in whole)  # a part begins inside of an answer
  for row in rows:
    assert {name: (value.shape, value.dtype.name) for name, value in row.items()} == {
      'tokens': ((64,), 'int32'),
      'segment': ((64,), 'int32'),
      'position': ((64,), 'int32'),
      'mask': ((64,), 'float32'),
    }
    first = np.diff(row['segment'], prepend=0) != 0
    assert not row['mask'][first | (row['segment'] == 0)].any()
    assert not row['position'][first | (row['segment'] == 0)].any()
    assert row['mask'].any()
  with pytest.raises(IndexError):
    rows[len(rows)]


def test_only_answers_are_trained(tokenizer, path, dialogues):
  rows = make(tokenizer, path, length=300)
  said = sorted(
    ''.join(m['content'] + '<|im_end|>' for m in row['messages'] if m['role'] == 'assistant')
    for row in dialogues
  )
  ids = [[i for i, m in zip(*segment, strict=True) if m] for segment in segments(rows)]
  assert sorted(tokenizer.decode(i, specials=True) for i in ids) == said


def test_train_on_the_last_answer(tokenizer, path, dialogues):
  rows = make(tokenizer, path, length=300, train_on='last')
  assert sorted(segments(rows)) == sorted(encoded(tokenizer, dialogues, train_on='last'))


def test_rows_do_not_change_and_say_so(tokenizer, path):
  rows, same = make(tokenizer, path), make(tokenizer, path)
  assert repr(rows) == repr(same) != repr(make(tokenizer, path, train_on='last'))
  for a, b in zip(rows, same, strict=True):
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


# --- too long ----------------------------------------------------------------------------------


LONG = Encoded(list(range(10)), [0, 0, 1, 1, 0, 0, 0, 0, 0, 1])


@pytest.mark.parametrize(
  ('overlong', 'length', 'parts', 'counts'),
  [
    ('drop', 10, [LONG], {}),
    ('drop', 9, [], {'dropped': 1}),
    ('cut', 3, [Encoded([0, 1, 2], [0, 0, 1])], {'cut': 1}),
    ('cut', 2, [], {'cut': 1, 'no trained token': 1}),
    (
      'split',
      4,
      [Encoded([0, 1, 2, 3], [0, 0, 1, 1]), Encoded([8, 9], [0, 1])],
      {'split': 1, 'no trained token': 1},
    ),
    # The first token of a part cannot be predicted, so it does not count.
    ('split', 3, [Encoded([0, 1, 2], [0, 0, 1])], {'split': 1, 'no trained token': 3}),
  ],
)
def test_too_long(overlong, length, parts, counts):
  counted = Counter()
  assert conversations.fit(LONG, length, overlong, counted) == parts
  assert +counted == counts


@pytest.mark.parametrize('overlong', ['drop', 'cut', 'split'])
def test_counts_add_up(tokenizer, path, dialogues, overlong, capsys):
  rows = make(tokenizer, path, length=40, overlong=overlong)
  line = capsys.readouterr().out
  assert line.count('\n') == 1
  long = sum(len(ids) > 40 for ids, _ in encoded(tokenizer, dialogues))
  words = {'drop': 'too long and dropped', 'cut': 'too long and cut', 'split': 'too long and split'}
  assert f'; {long} {words[overlong]}' in line
  found = segments(rows)
  assert f'train, 150 conversations in {len(rows)} rows of 40' in line
  assert f' {sum(len(ids) for ids, _ in found):,} tokens, ' in line
  if overlong == 'drop':
    assert len(found) == 150 - long


def test_the_length_that_is_advised_keeps_what_it_says(tokenizer, path, dialogues, capsys):
  said = lambda **options: (make(tokenizer, path, **options), capsys.readouterr().out)[1]
  numbers = re.search(r'dropped \(data.length=(\d+) would keep 95%, (\d+) all', said(length=40))
  enough, longest = map(int, numbers.groups())
  dropped = lambda length: int((re.search(r'(\d+) too long', said(length=length)) or [0, 0])[1])
  assert dropped(longest) == 0 < dropped(longest - 1)
  assert dropped(enough) <= 0.05 * len(dialogues) < dropped(enough - 1)
  assert f'(at least 95% are kept, data.length={longest} would keep all of them)' in said(
    length=enough
  )
  assert 'data.length' not in said(length=longest) + said(length=40, overlong='split')
  assert 'data.length' not in said(length=40, split='validation', validation_fraction=0.5)


def test_a_cut_answer_gets_no_stop_token(tokenizer, tmp_path):
  path = tmp_path / 'long.jsonl'
  long = dialogue('the', ' cat sat' * 60)
  path.write_text(json.dumps(long))
  (row,) = make(tokenizer, str(path), length=40, overlong='cut')
  ((ids, mask),) = encoded(tokenizer, [long])
  assert row['tokens'].tolist() == ids[:40]
  assert row['mask'].tolist() == mask[:40]
  assert row['mask'][-1] == 1


def test_conversations_without_an_answer_are_counted(tokenizer, tmp_path, capsys):
  path = tmp_path / 'a.jsonl'
  broken = {**dialogue('the', 'cat'), 'tools': '[{'}
  rows = [dialogue('the', 'cat'), dialogue('the'), dialogue('the', ''), broken]
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  assert len(make(tokenizer, str(path))) == 1
  line = capsys.readouterr().out
  assert 'train, 4 conversations in 1 rows' in line
  assert '2 left out: no answer' in line
  assert '1 left out: broken list of tools' in line


def test_where_nothing_is_left_the_error_says_why(tokenizer, tmp_path):
  path = tmp_path / 'a.jsonl'
  rows = [{'prompt': 'the', 'completion': None}] * 3 + [{'messages': None}, dialogue('the', '')]
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  with pytest.raises(BadInput, match=r'\(3 completion is null, 1 messages is null, 1 no answer\)'):
    make(tokenizer, str(path))
  path.write_text(json.dumps(dialogue('the', 'cat')) + '\n')
  with pytest.raises(BadInput, match='; raise validation_fraction, or give it more records'):
    make(tokenizer, str(path), split='validation')


# --- sources -----------------------------------------------------------------------------------


def test_builtin_and_weights(tokenizer, path):
  sources = {'mine': path, 'sums': 'builtin:word_problems'}
  rows = conversations.make(
    tokenizer, sources=sources, weights={'mine': 1, 'sums': 3}, overlong='split'
  )
  names = Counter(rows.locate(i)[0] for i in range(40))
  assert names == {'mine': 10, 'sums': 30}
  held_out = conversations.make(
    tokenizer, sources={'sums': 'builtin:word_problems'}, split='test', length=512
  )
  assert len(segments(held_out)) == len(families.records('conversations', 'test', 'word_problems'))


def test_files_are_divided(tokenizer, path):
  train = make(tokenizer, path, length=300, validation_fraction=0.3)
  held_out = make(tokenizer, path, length=300, validation_fraction=0.3, split='validation')
  assert len(segments(train)) + len(segments(held_out)) == 150
  assert len(segments(held_out)) > 20


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'overlong': 'truncate'}, "data: overlong 'truncate'; choose from: drop, cut, split"),
    ({'length': 1}, 'data: length 1; choose a whole number from 2'),
    ({'length': 4}, 'no conversations are left in the train split'),
    ({'template': 'gemma2'}, "no template 'gemma2'"),
    ({'template': 'plain'}, r'chats.jsonl, line \d+: chat: template plain has no form for more'),
    ({'template': 'llama3'}, 'this tokenizer has no control token <|start_header_id|>'),
    ({'weights': {'mien': 1}}, "no source 'mien'; did you mean 'mine'"),
    ({'validation': {'mien': 'builtin'}}, "no source 'mien'; did you mean 'mine'"),
  ],
)
def test_bad_options(tokenizer, path, options, message):
  with pytest.raises(BadInput, match=message.replace('<|', r'<\|').replace('|>', r'\|>')):
    make(tokenizer, path, **options)
  with pytest.raises(BadInput, match=r'data\.sources is empty'):
    conversations.make(tokenizer, sources={})


def test_calls_are_left_out_where_the_template_has_no_form_for_them(capsys):
  tokenizer = Tokenizer.train(
    ['how many letters'] * 9, vocab_size=310, specials=chat.specials('chatml')
  )
  read = lambda template: conversations.make(
    tokenizer, sources={'ours': 'builtin:spelling'}, split='test', template=template, length=400
  )
  assert len(read('llm_jax')) > len(read('chatml'))
  assert '100 left out: the template has no form for its calls' in capsys.readouterr().out
