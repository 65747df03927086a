"""Answers are compared behind one and the same prompt, and bad records never go unnoticed."""

import json
import math
import random
import re
from collections import Counter

import pytest

from llm_jax.data import families, groups, preferences
from llm_jax.data.groups import Answer, Group
from llm_jax.text import chat
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

WORDS = ['the', ' cat', ' sat', ' on', ' a mat', '.\n', ' 12', 'user', 'assistant']


@pytest.fixture(scope='module')
def tokenizer():
  draw = random.Random(0)
  texts = [''.join(draw.choices(WORDS, k=9)) for _ in range(200)]
  return Tokenizer.train(texts, vocab_size=305, specials=chat.specials('gemma'))


def say(draw, words=6):
  return ''.join(draw.choices(WORDS, k=draw.randrange(1, words)))


@pytest.fixture(scope='module')
def pairs():
  draw = random.Random(1)
  return [
    {
      'prompt': say(draw),
      'chosen': f'good {say(draw)}',
      'rejected': f'bad {say(draw)}',
      'margin': i,
    }
    for i in range(60)
  ]


@pytest.fixture
def write(tmp_path):
  def write(rows):
    path = tmp_path / 'rows.jsonl'
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return str(path)

  return write


def make(tokenizer, path, **options):
  options = {'length': 80, 'validation_fraction': 0, **options}
  return preferences.make(tokenizer, sources={'mine': path}, **options)


def texts(tokenizer, row, prefix=''):
  """(prompt, answer) of every row of a group, as text with control tokens."""
  found = []
  tokens_GL, mask_GL = row[f'{prefix}tokens'], row[f'{prefix}mask']
  for tokens_L, segment_L, mask_L in zip(tokens_GL, row[f'{prefix}segment'], mask_GL, strict=True):
    prompt_L, answer_L = tokens_L[(segment_L > 0) & (mask_L == 0)], tokens_L[mask_L > 0]
    found.append(tuple(tokenizer.decode(part, specials=True) for part in (prompt_L, answer_L)))
  return found


# --- rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize('template', ['llm_jax', 'chatml', 'gemma', 'plain'])
def test_pairs(tokenizer, write, pairs, template):
  rows = make(tokenizer, write(pairs), template=template)
  assert len(rows) == len(pairs)
  stop = tokenizer.decode(chat.stop_ids(tokenizer, template)[:1], specials=True)
  for row, pair in zip(rows, pairs, strict=True):
    messages = [{'role': 'user', 'content': pair['prompt']}]
    prompt, _ = chat.encode(tokenizer, chat.pieces(messages, template=template, answer=True))
    for g, name in enumerate(['chosen', 'rejected']):
      end = row['segment'][g].sum()
      assert row['tokens'][g, : len(prompt)].tolist() == prompt  # as a sampler sees it
      assert row['mask'][g].tolist() == [
        float(len(prompt) <= column < end) for column in range(80)
      ]  # the answer up to its stop token, and nothing behind
      said = pair[name].strip() if template == 'gemma' else pair[name]
      assert texts(tokenizer, row)[g][1] == said + stop
    assert row['margin'] == pair['margin']


def test_fields(tokenizer, write, pairs):
  ranked = make(tokenizer, write(pairs), group=3)[0]
  unpaired = make(tokenizer, write(pairs), kind='unpaired', mismatched=True)[0]
  integers = ('tokens', 'segment', 'position')
  for row, size, scalar in ((ranked, 3, 'margin'), (unpaired, 1, 'label')):
    shapes = {name: ((size, 80), 'int32') for name in integers} | {'mask': ((size, 80), 'float32')}
    if size == 1:
      shapes |= {f'kl_{name}': shape for name, shape in shapes.items()}
    shapes[scalar] = ((), 'float32')
    assert {name: (value.shape, value.dtype.name) for name, value in row.items()} == shapes
  length = ranked['segment'][0].sum()
  assert ranked['position'][0].tolist() == [*range(length), *[0] * (80 - length)]
  for value in (ranked[name][2] for name in (*integers, 'mask')):
    assert not value.any()  # there is no third answer


def test_rankings(tokenizer, write):
  answers = ['the cat', 'on a mat', 'sat']
  rows = [
    {'prompt': 'the', 'answers': answers, 'ranks': [2, 3, 1]},
    {'prompt': 'the', 'answers': answers[:2], 'scores': [0.5, 1.5]},
  ]
  three, two = make(tokenizer, write(rows), group=3)
  assert [said for _, said in texts(tokenizer, three)] == [
    'sat<|im_end|>',
    'the cat<|im_end|>',
    'on a mat<|im_end|>',
  ]
  assert [said for _, said in texts(tokenizer, two)] == [
    'on a mat<|im_end|>',
    'the cat<|im_end|>',
    '',
  ]
  assert three['margin'] == two['margin'] == 0


def test_a_pair_is_a_good_and_a_bad_example(tokenizer, write, pairs):
  rows = make(tokenizer, write(pairs), kind='unpaired')
  found = [(*texts(tokenizer, row)[0], float(row['label'])) for row in rows]
  assert len(found) == 2 * len(pairs)
  for _, said, label in found:
    assert said.startswith('good' if label else 'bad')
  assert Counter(label for _, _, label in found) == {1: len(pairs), 0: len(pairs)}
  # The two answers to a prompt are not neighbours: one is not the other's mismatch.
  assert all(label == 1 for _, _, label in found[: len(pairs)])


def test_labels(tokenizer, write):
  rows = [
    {'prompt': 'the', 'completion': 'cat', 'label': True},
    {'prompt': 'the', 'completion': 'mat', 'label': False},
  ]
  good, bad = make(tokenizer, write(rows), kind='unpaired')
  assert (good['label'], bad['label']) == (1, 0)
  assert texts(tokenizer, bad)[0][1] == 'mat<|im_end|>'


def test_mismatched_rows_have_the_answer_of_the_row_before(tokenizer, write, pairs):
  rows = make(tokenizer, write(pairs), kind='unpaired', mismatched=True)
  for i in range(len(rows)):
    ((prompt, _),) = texts(tokenizer, rows[i])
    ((_, said),) = texts(tokenizer, rows[i - 1 if i else len(rows) - 1])
    assert texts(tokenizer, rows[i], 'kl_') == [(prompt, said)]
    assert rows[i]['kl_position'].max() == rows[i]['kl_segment'].sum() - 1


def test_mismatched_answers_are_cut_and_counted(tokenizer, write, capsys):
  rows = [
    {'prompt': 'the', 'completion': ' sat on a mat' * 9, 'label': True},
    {'prompt': 'user' * 20, 'completion': 'cat', 'label': False},
  ]
  path = write(rows)
  length = max(int(r['segment'].sum()) for r in make(tokenizer, path, kind='unpaired', length=200))
  found = make(tokenizer, path, kind='unpaired', mismatched=True, length=length)
  assert '1 mismatched answers cut' in capsys.readouterr().out
  assert [int(row['kl_segment'].sum()) for row in found][1] == length
  assert not texts(tokenizer, found[1], 'kl_')[0][1].endswith('<|im_end|>')
  with pytest.raises(BadInput, match='needs two rows'):
    make(tokenizer, write(rows[:1]), kind='unpaired', mismatched=True, length=200)


def test_rows_do_not_change_and_say_so(tokenizer, write, pairs):
  path = write(pairs)
  rows = make(tokenizer, path)
  assert repr(rows) == repr(make(tokenizer, path)) != repr(make(tokenizer, path, group=3))
  with pytest.raises(IndexError):
    rows[len(rows)]


def test_builtin(tokenizer):
  rows = preferences.make(
    tokenizer, sources={'sums': 'builtin:word_problems'}, split='test', length=400
  )
  there = families.records('preferences', 'test', 'word_problems')
  assert [float(row['margin']) for row in rows] == [record['margin'] for record in there]


# --- too long ----------------------------------------------------------------------------------

HEADER = [1, 8, 9]
LONG = Group([1, 4, 5, 6, 7, 8, 9], [Answer([20, 21, 22], [1, 1, 1]), Answer([20, 23], [1, 1])], 2)


@pytest.mark.parametrize(
  ('overlong', 'length', 'prompt', 'answers', 'counts'),
  [
    ('drop', 10, LONG.prompt, [[20, 21, 22], [20, 23]], {}),
    ('drop', 9, None, None, {'dropped': 1}),
    ('cut_prompt', 8, [1, 6, 7, 8, 9], [[20, 21, 22], [20, 23]], {'cut_prompt': 1}),
    ('cut_prompt', 6, [1, 8, 9], [[20, 21, 22], [20, 23]], {'cut_prompt': 1}),
    ('cut_prompt', 5, None, None, {'answer too long': 1}),
    ('cut_answer', 9, LONG.prompt, [[20, 21], [20, 23]], {'cut_answer': 1}),
    ('cut_answer', 8, None, None, {'identical after the cut': 1}),
    ('cut_answer', 7, None, None, {'prompt too long': 1}),
    ('cut_answer', 5, None, None, {'prompt too long': 1}),
  ],
)
def test_too_long(overlong, length, prompt, answers, counts):
  counted = Counter()
  fitted = groups.fit(LONG, length, overlong, HEADER, counted)
  assert counted == counts
  if prompt is None:
    assert fitted is None
  else:
    assert fitted.prompt == prompt
    assert [answer.ids for answer in fitted.answers] == answers
    assert [answer.mask for answer in fitted.answers] == [[1] * len(a) for a in answers]


def test_without_a_first_token_of_its_own_the_end_of_the_prompt_is_kept():
  group = LONG._replace(prompt=[4, 5, 6, 7, 8, 9])
  fitted = groups.fit(group, 6, 'cut_prompt', [8, 9], Counter())
  assert fitted.prompt == [7, 8, 9]


@pytest.mark.parametrize('overlong', ['drop', 'cut_prompt', 'cut_answer'])
def test_counts_add_up(tokenizer, write, pairs, overlong, capsys):
  path = write(pairs)
  lengths = sorted(int(row['segment'].sum(-1).max()) for row in make(tokenizer, path))
  length = lengths[len(lengths) // 2]
  capsys.readouterr()
  rows = make(tokenizer, path, length=length, overlong=overlong)
  line = capsys.readouterr().out
  assert line.count('\n') == 1
  assert f'train, 60 records in {len(rows)} groups with {2 * len(rows)} answers' in line
  counted = {
    reason: int(number)
    for number, reason in (part.strip().split(' ', 1) for part in line.strip().split(';')[1:])
  }
  left_out = sum(n for reason, n in counted.items() if 'left out' in reason or 'dropped' in reason)
  assert len(rows) + left_out == 60
  assert sum(counted.values()) == sum(n > length for n in lengths)


@pytest.mark.parametrize(
  ('overlong', 'length'), [('drop', 30), ('cut_prompt', 16), ('cut_answer', 14)]
)
def test_the_length_that_is_advised_keeps_what_it_says(
  tokenizer, write, pairs, overlong, length, capsys
):
  path = write([*pairs[:58], pairs[58] | {'prompt': 'y' * 99}, pairs[59] | {'chosen': 'x' * 99}])
  make(tokenizer, path, length=length, overlong=overlong)
  said = capsys.readouterr().out
  (numbers,) = re.findall(r' \(data.length=(\d+) would keep 95%, (\d+) all of them\)', said)
  enough, longest = map(int, numbers)

  def left_out(length):
    make(tokenizer, path, length=length, overlong=overlong)
    return int(
      (re.search(r'(\d+) (?!groups|prompts)[^;]*(long)', capsys.readouterr().out) or [0, 0])[1]
    )

  assert left_out(enough) <= 3 < left_out(enough - 1)
  assert left_out(longest) == 0 < left_out(longest - 1)


# --- bad rows ----------------------------------------------------------------------------------

GOOD = {'prompt': 'the', 'chosen': 'cat', 'rejected': 'mat'}
ASKS = lambda text: [{'role': 'user', 'content': text}]
SAYS = lambda text: [{'role': 'assistant', 'content': text}]
BAD = {
  'identical answers': {'prompt': 'the', 'chosen': 'cat', 'rejected': 'cat'},
  'empty answer': {'prompt': 'the', 'chosen': 'cat', 'rejected': ' \n'},
  'prompts differ': {
    'chosen': ASKS('the') + SAYS('cat'),
    'rejected': ASKS('a') + SAYS('mat'),
  },
  'score is not finite': {'prompt': 'a', 'answers': ['cat', 'mat'], 'scores': [1, math.nan]},
  'margin is not finite': {'prompt': 'a', 'chosen': 'cat', 'rejected': 'mat', 'margin': math.inf},
  'tie': {'prompt': 'the', 'answers': ['cat', 'mat'], 'ranks': [1, 1]},
  'more answers than group': {'prompt': 'a', 'answers': ['cat', 'mat', 'sat'], 'ranks': [1, 2, 3]},
  'nothing to compare': {'prompt': 'the', 'answers': ['cat'], 'scores': [1.0]},
}


@pytest.mark.parametrize('reason', BAD)
def test_bad_rows_are_counted_or_fatal(tokenizer, write, reason, capsys):
  path = write([GOOD, BAD[reason], BAD[reason], GOOD])
  assert len(make(tokenizer, path)) == 2
  line = capsys.readouterr().out
  assert 'train, 4 records in 2 groups with 4 answers of 3.0 tokens; ' in line
  assert line.endswith(f'; 2 left out: {reason}\n')
  with pytest.raises(BadInput, match=f'rows.jsonl, line 2: {reason}; mend it, or set'):
    make(tokenizer, path, invalid='raise')


def test_a_template_may_make_answers_identical(tokenizer, write, capsys):
  path = write([GOOD, {**GOOD, 'rejected': 'cat '}])
  assert len(make(tokenizer, path)) == 2
  assert len(make(tokenizer, path, template='gemma')) == 1
  assert '1 left out: identical answers' in capsys.readouterr().out


def test_empty_answers_of_labels(tokenizer, write, capsys):
  rows = [{'prompt': 'the', 'completion': text, 'label': True} for text in ('cat', '', 'mat')]
  assert len(make(tokenizer, write(rows), kind='unpaired')) == 2
  assert '1 left out: empty answer' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'kind': 'paired'}, "data: kind 'paired'; did you mean 'unpaired'"),
    ({'invalid': 'ignore'}, "data: invalid 'ignore'; choose from: drop, raise"),
    ({'overlong': 'split'}, "data: overlong 'split'; choose from: drop, cut_prompt, cut_answer"),
    ({'length': 1}, 'data: length 1; choose a whole number from 2'),
    ({'length': 9}, 'no preferences are left in the train split'),
    ({'group': 1}, 'data.group 1 compares nothing'),
    ({'mismatched': True}, 'data.mismatched belongs to kind unpaired'),
    ({'template': 'chatlm'}, "no template 'chatlm'"),
    ({'weights': {'mien': 1}}, "no source 'mien'; did you mean 'mine'"),
    ({'split': 'test'}, 'only train and validation'),
  ],
)
def test_bad_options(tokenizer, write, options, message):
  with pytest.raises(BadInput, match=message) as caught:
    make(tokenizer, write([GOOD]), **options)
  assert '\n' not in str(caught.value)


def test_records_that_are_no_preferences(tokenizer, write):
  path = write([{'messages': ASKS('the') + SAYS('cat')}])
  with pytest.raises(BadInput, match=r'line 1: columns messages are of no known format; choose'):
    make(tokenizer, path)
  system = [{'role': 'system', 'content': 'be'}]
  path = write([{'prompt': system, 'chosen': SAYS('cat'), 'rejected': SAYS('mat')}])
  with pytest.raises(BadInput, match=r'line 1: chat: template gemma has no form for'):
    make(tokenizer, path, template='gemma')
