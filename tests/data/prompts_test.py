"""Prompts are what a sampler would be sent, answers come back whole, every record is counted."""

import json
import random
import re
from collections import Counter

import pytest

from llm_jax.data import families, prompts
from llm_jax.data.prompts import Prompt
from llm_jax.text import chat
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

WORDS = ['the', ' cat', ' sat', ' on', ' a mat', '.\n', ' 12', 'user', 'assistant']


@pytest.fixture(scope='module')
def tokenizer():
  draw = random.Random(0)
  texts = [''.join(draw.choices(WORDS, k=9)) for _ in range(200)]
  return Tokenizer.train(texts, vocab_size=305, specials=chat.specials('gemma'))


@pytest.fixture(scope='module')
def asked():
  draw = random.Random(1)
  return [
    {'prompt': f'{i}' + ''.join(draw.choices(WORDS, k=draw.randrange(1, 9))), 'answer': f'é {i}'}
    for i in range(60)
  ]


@pytest.fixture
def write(tmp_path):
  def write(rows, name='rows'):
    path = tmp_path / f'{name}.jsonl'
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return str(path)

  return write


def make(tokenizer, path, **options):
  options = {'length': 80, 'validation_fraction': 0, **options}
  return prompts.make(tokenizer, sources={'mine': path}, **options)


def ids(row):
  """The prompt without its padding, which is all on the left."""
  real = int(row['prompt_mask'].sum())
  assert row['prompt_mask'].tolist() == [0] * (len(row['prompt']) - real) + [1] * real
  assert not row['prompt'][: len(row['prompt']) - real].any()
  return row['prompt'][len(row['prompt']) - real :].tolist()


# --- rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize('template', ['llm_jax', 'chatml', 'gemma', 'plain', None])
def test_rows_are_what_a_sampler_sees(tokenizer, write, asked, template):
  rows = make(tokenizer, write(asked), template=template)
  assert len(rows) == len(asked)
  for row, record in zip(rows, asked, strict=True):
    messages = [{'role': 'user', 'content': record['prompt']}]
    if template in (None, 'plain'):
      expected = [tokenizer.bos_id, *tokenizer.encode(record['prompt'])]
    else:
      pieces = chat.pieces(messages, template=template, answer=True)
      expected, _ = chat.encode(tokenizer, pieces)
    assert ids(row) == expected
    assert prompts.gold_text(row['gold']) == record['answer']


def test_fields(tokenizer, write, asked):
  row = make(tokenizer, write(asked), answer_bytes=9)[3]
  assert {name: (value.shape, value.dtype.name) for name, value in row.items()} == {
    'prompt': ((80,), 'int32'),
    'prompt_mask': ((80,), 'int32'),
    'gold': ((9,), 'uint8'),
  }


def test_rows_do_not_change_and_say_so(tokenizer, write, asked):
  path = write(asked)
  rows = make(tokenizer, path)
  assert repr(rows) == repr(make(tokenizer, path)) != repr(make(tokenizer, path, answer_bytes=65))
  with pytest.raises(IndexError):
    rows[len(rows)]
  one = prompts.Prompts([Prompt([1, 5], b'2')], length=4, answer_bytes=3)
  assert [one[0][name].tolist() for name in one[0]] == [[0, 0, 1, 5], [0, 0, 1, 1], [50, 0, 0]]
  with pytest.raises(IndexError, match='row 1 of 1'):
    one[1]


@pytest.mark.parametrize('text', ['', '42', 'é 数', 'a\0b', '\ud800'])
def test_gold_gives_back_the_answer(text):
  answer = text.encode('utf-8', 'surrogatepass')
  row = prompts.Prompts([Prompt([1], answer)], length=1, answer_bytes=16)[0]
  assert prompts.gold_text(row['gold']) == text
  assert row['gold'].any() == bool(text)


def test_builtin(tokenizer, capsys):
  sources = {'sums': 'builtin:word_problems'}
  rows = prompts.make(tokenizer, sources=sources, split='test', length=300)
  there = families.records('questions', 'test', 'word_problems')
  assert [prompts.gold_text(row['gold']) for row in rows] == [record['answer'] for record in there]
  line = capsys.readouterr().out
  assert re.fullmatch(
    r'prompts: test, 300 records in 300 prompts of [\d.]+ tokens, 300 with an answer\n', line
  )


def test_the_prompts_of_conversations_are_held_out_with_them(tokenizer, write):
  say = lambda i: [dict(role='user', content=f'{i}'), dict(role='assistant', content='the cat')]
  path = write([{'messages': say(i)} for i in range(200)])
  parts = [make(tokenizer, path, split=s, validation_fraction=0.2) for s in ('train', 'validation')]
  assert sum(map(len, parts)) == 200
  assert 20 < len(parts[1]) < 70
  assert {prompts.gold_text(row['gold']) for part in parts for row in part} == {'the cat'}


# --- what is left out --------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('overlong', 'length', 'expected', 'counts'),
  [
    ('drop', 7, [1, 4, 5, 6, 7, 8, 9], {}),
    ('drop', 6, None, {'dropped': 1}),
    ('cut', 7, [1, 4, 5, 6, 7, 8, 9], {}),
    ('cut', 6, [1, 5, 6, 7, 8, 9], {'cut': 1}),
    ('cut', 4, [1, 7, 8, 9], {'cut': 1}),
  ],
)
def test_too_long(overlong, length, expected, counts):
  counted = Counter()
  prompt = Prompt([1, 4, 5, 6, 7, 8, 9], b'2')
  fitted = prompts.fit(prompt, length, overlong, 1, [1, 8, 9], counted)
  assert counted == counts
  assert fitted == (None if expected is None else Prompt(expected, b'2'))


def test_without_a_first_token_of_its_own_the_end_is_kept():
  fitted = prompts.fit(Prompt([4, 5, 6, 8, 9], b''), 4, 'cut', 0, [8, 9], Counter())
  assert fitted.ids == [5, 6, 8, 9]


def test_long_answers_are_never_cut(tokenizer, write, capsys):
  path = write([{'prompt': 'the', 'answer': 'é' * 4}, {'prompt': 'cat', 'answer': 'é' * 3}])
  (row,) = make(tokenizer, path, answer_bytes=7)
  assert prompts.gold_text(row['gold']) == 'ééé'
  assert capsys.readouterr().out.endswith(
    ' 1 with an answer; 1 left out: answer of more than 7 bytes\n'
  )
  rows = make(tokenizer, path, answer_bytes=0)
  assert [row['gold'].shape for row in rows] == [(0,), (0,)]
  assert [prompts.gold_text(row['gold']) for row in rows] == ['', '']
  assert capsys.readouterr().out.endswith(' 0 with an answer\n')


def test_a_prompt_is_asked_once(tokenizer, write, capsys):
  the, cat, long = {'prompt': 'the', 'answer': '1'}, {'prompt': 'cat'}, 'sat on ' * 40
  paths = {'a': write([the, the, cat], 'a'), 'b': write([{**the, 'answer': '2'}], 'b')}
  rows = prompts.make(tokenizer, sources=paths, validation_fraction=0, weights={'a': 1, 'b': 3})
  assert [prompts.gold_text(row['gold']) for row in rows] == ['1', '']
  line = capsys.readouterr().out
  assert '4 records in 2 prompts' in line and line.endswith('; 2 left out: asked before\n')
  path = write([{'prompt': f'{i}{long}'} for i in range(3)])
  assert len(make(tokenizer, path, overlong='cut')) == 1
  assert capsys.readouterr().out.endswith(
    '; 3 longer than 80 and cut at their beginning; 2 left out: asked before\n'
  )


def test_the_length_that_is_advised_keeps_what_it_says(tokenizer, write, asked, capsys):
  far = [{'prompt': 'x' * 999, 'answer': 'y' * 99}]  # no length would keep it
  path = write(asked + far)
  make(tokenizer, path, length=25)
  said = capsys.readouterr().out
  (numbers,) = re.findall(r'dropped \(data.length=(\d+) would keep 95%, (\d+) all of them\)', said)
  enough, longest = map(int, numbers)
  kept = lambda length: len(make(tokenizer, path, length=length))
  assert kept(enough) >= 57 > kept(enough - 1)
  assert kept(longest) == 60 > kept(longest - 1)


@pytest.mark.parametrize('overlong', ['drop', 'cut'])
def test_counts_add_up(tokenizer, write, asked, overlong, capsys):
  bad = [{'prompt': ''}, {'prompt': 'x', 'answer': 'y' * 99}, asked[0], asked[1]]
  path = write(asked + bad)
  lengths = sorted(len(ids(row)) for row in make(tokenizer, path))
  capsys.readouterr()
  length = lengths[len(lengths) // 2]
  rows = make(tokenizer, path, length=length, overlong=overlong)
  line = capsys.readouterr().out
  assert line.count('\n') == 1
  assert f'train, 64 records in {len(rows)} prompts' in line
  counted = {
    reason: int(number)
    for number, reason in (part.strip().split(' ', 1) for part in line.strip().split(';')[1:])
  }
  assert counted['left out: empty prompt'] == counted['left out: answer of more than 64 bytes'] == 1
  left_out = sum(n for reason, n in counted.items() if 'left out' in reason or 'dropped' in reason)
  assert len(rows) + left_out == 64


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'overlong': 'cut_prompt'}, "data: overlong 'cut_prompt'; .*cut"),
    ({'length': 4}, 'data.length 4 has no room for a prompt: before an answer, template llm_jax'),
    ({'answer_bytes': -1}, 'data: answer_bytes -1; choose a whole number from 0'),
    ({'length': 9}, 'no prompts are left in the train split'),
    ({'template': 'chatlm'}, "no template 'chatlm'"),
    ({'weights': {'mien': 1}}, "no source 'mien'; did you mean 'mine'"),
    ({'split': 'test'}, 'only train and validation'),
  ],
)
def test_bad_options(tokenizer, write, options, message):
  with pytest.raises(BadInput, match=message) as caught:
    make(tokenizer, write([{'prompt': 'the cat sat on 123456789'}]), **options)
  assert '\n' not in str(caught.value)


def test_the_place_of_what_cannot_be_read(tokenizer, write):
  path = write([{'prompt': 'the'}, {'a': 'a'}])
  with pytest.raises(BadInput, match=r'line 2: columns a are of no known format; choose'):
    make(tokenizer, path)
  path = write([{'prompt': [{'role': 'system', 'content': 'be'}]}])
  with pytest.raises(BadInput, match=r'line 1: chat: template plain has no form for more than'):
    make(tokenizer, path, template=None)
