"""Rows that repeat: what stood before comes again, and every row is the same each time."""

import json

import numpy as np
import pytest

from llm_jax.data import conversations
from llm_jax.data.repeats import NAME, Repeats, mixed
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer.train(
    ['user assistant What does the cat do? It sat on a mat.'] * 50, vocab_size=310
  )


@pytest.mark.parametrize('length', [2, 9, 64, 256])
def test_targets_are_copies_of_ordinary_tokens(tokenizer, length):
  rows = Repeats(tokenizer, rows=30, length=length)
  control = {*np.flatnonzero(np.asarray(tokenizer.token_bytes) == 0).tolist()}
  periods = set()
  for row in (rows[i] for i in range(len(rows))):
    period = int(row['mask'].argmax())
    periods.add(period)
    assert 1 <= period <= min(40, length // 2)
    assert not row['mask'][:period].any() and row['mask'][period:].all()
    np.testing.assert_array_equal(row['tokens'][period:], row['tokens'][:-period])
    np.testing.assert_array_equal(row['position'], np.arange(length))
    assert (row['segment'] == 1).all() and not control & {*row['tokens'].tolist()}
  assert len(periods) > 10 or length < 64


def test_every_second_row_repeats_a_part_of_a_text(tokenizer):
  text = tokenizer.encode('The cat sat on a mat, and it sat on the mat of a dog.' * 9)
  pieces = [np.array([1, *text[:70], 2]), np.array([*text[:50]])]
  row = {
    'tokens': np.concatenate([*pieces, np.zeros(22)]).astype(np.int32),
    'segment': np.repeat([1, 2, 0], [72, 50, 22]),
  }
  rows = Repeats(tokenizer, rows=60, length=100, text=[row])
  control = {*np.flatnonzero(np.asarray(tokenizer.token_bytes) == 0).tolist()}
  whole, parts = ' '.join(map(str, text)), 0
  for i in range(60):
    made = rows[i]
    period = int(made['mask'].argmax())
    np.testing.assert_array_equal(made['tokens'][period:], made['tokens'][:-period])
    assert not control & {*made['tokens'].tolist()}
    if period >= 8 and ' '.join(map(str, made['tokens'][:period].tolist())) in whole:
      parts += 1
      assert i % 2 == 0 and period <= 50
  assert parts > 20  # of 30; others were padding


def test_a_row_is_the_same_each_time_and_no_other(tokenizer):
  rows, again = (Repeats(tokenizer, rows=50, length=64) for _ in range(2))
  texts = [rows[i]['tokens'].tobytes() for i in range(50)]
  assert texts == [again[i]['tokens'].tobytes() for i in range(50)]
  assert len({*texts}) == 50
  for outside in (50, -1):
    with pytest.raises(IndexError):
      rows[outside]


def test_weights_of_the_others_keep_their_ratio(tokenizer):
  rows = mixed({'a': 'aaaa', 'b': 'bb'}, {'a': 1.0, 'b': 3.0}, 0.2, tokenizer, 64)
  places = [rows.locate(i)[0] for i in range(len(rows))]
  count = {name: places.count(name) for name in ('a', 'b', NAME)}
  assert count[NAME] == pytest.approx(0.2 * len(rows), abs=1)
  assert count['b'] == pytest.approx(3 * count['a'], abs=2)


def test_a_source_of_that_name_is_refused(tokenizer):
  with pytest.raises(BadInput, match=r"data\.repeats: 'repeats' is the name of a source"):
    mixed({'repeats': 'aaaa'}, None, 0.1, tokenizer, 64)


def test_conversations_have_such_rows_in_train_alone(tokenizer, tmp_path):
  say = lambda role, text: {'role': role, 'content': text}
  talks = [
    {'messages': [say('user', f'What does cat {i} do?'), say('assistant', 'It sat.')]}
    for i in range(200)
  ]
  (tmp_path / 'talks.jsonl').write_text(''.join(json.dumps(talk) + '\n' for talk in talks))
  options = dict(sources={'mine': str(tmp_path / 'talks.jsonl')}, validation_fraction=0.2)
  make = lambda **more: conversations.make(tokenizer, length=64, **options, **more)
  plain, rows = make(), make(repeats=0.1)
  places = [rows.locate(i)[0] for i in range(len(rows))]
  assert places.count('mine') == len(plain)
  assert places.count(NAME) == pytest.approx(0.1 * len(rows), abs=1)
  held_out = make(repeats=0.1, split='validation')
  assert NAME not in {held_out.locate(i)[0] for i in range(len(held_out))}
