"""Word problems: every equation is true, held-out numbers are new, and no single computation is."""

import re
from collections import Counter, defaultdict

import pytest

from llm_jax.data.families import SPLITS
from llm_jax.data.word_problems import REASONS_FIRST, conversations, preferences, questions
from llm_jax.rewards import reasons_first
from llm_jax.rewards.exact_answer import final_answer
from llm_jax.tools import calculator

EQUATION = re.compile(r'(\d+) ([-+*/]) (\d+) = (\d+)')
WORK = {
  '+': lambda a, b: a + b,
  '-': lambda a, b: a - b,
  '*': lambda a, b: a * b,
  '/': lambda a, b: a / b,
}
# How a person reads each phrasing: the kind, and the answer from the numbers as they come.
READINGS = {
  r'buys # \w+ and # \w+\. Each \w+ costs #\. The total is #': lambda n, m, c, t: (t - m * c) / n,
  r'pays # for # \w+ and # \w+\. One \w+ costs #\. How much': lambda t, n, m, c: (t - m * c) / n,
  r'costs #\. For # \w+ and # \w+, \w+ pays #\.': lambda c, m, n, t: (t - m * c) / n,
  r'buys # \w+ at # each and # \w+ at # each\. How much': lambda n, p, m, q: n * p + m * q,
  r'costs # and each \w+ costs #\. \w+ buys # \w+ and # ': lambda p, q, n, m: n * p + m * q,
  r'wants # \w+ and # \w+\. One \w+ is # and one \w+ is #\.': lambda n, m, p, q: n * p + m * q,
  r'buys # \w+ at # each and pays with #\.': lambda n, p, given: given - n * p,
  r'costs #\. \w+ has # and buys # ': lambda p, given, n: given - n * p,
  r'gives # for # \w+\. One \w+ costs #\.': lambda given, n, p: given - n * p,
  r'has # \w+ and shares them equally among # friends': lambda total, n: total % n,
  r'puts # \w+ in rows of #\.': lambda total, n: total % n,
  r'There are # \w+ for # friends': lambda total, n: total % n,
}


def read(question):
  """(kind, the numbers in any order with the unit price, the answer) of a question."""
  for i, (pattern, answer) in enumerate(READINGS.items()):
    if found := re.search(pattern.replace('#', r'\$?(\d+)'), question):
      given = [int(number) for number in found.groups()]
      wanted = answer(*given)
      return i // 3, tuple(sorted(given if i // 3 else [*given, wanted])), wanted
  raise AssertionError(question)


def equations(text):
  return EQUATION.findall(text.replace('$', ''))


def is_true(equation):
  a, sign, b, result = equation
  return WORK[sign](int(a), int(b)) == int(result)


def texts(record):
  """Question and answer, without its call."""
  found = [m['content'] for m in record['messages'] if m['role'] != 'system']
  join = lambda parts: ''.join(part['text'] for part in parts if part['type'] == 'text')
  return [text if isinstance(text, str) else join(text) for text in found]


def calls(record):
  """(call, result) of an answer."""
  content = record['messages'][-1]['content']
  return [] if isinstance(content, str) else [tuple(part['text'] for part in content[:-1])]


@pytest.fixture(scope='module')
def talks():
  return {split: conversations(split) for split in SPLITS}


@pytest.fixture(scope='module')
def pairs():
  return {split: preferences(split) for split in SPLITS}


@pytest.mark.parametrize('split', SPLITS)
def test_every_answer_is_right_and_every_equation_true(split, talks):
  for talk, asked in zip(talks[split], questions(split), strict=False):
    question, answer = texts(talk)
    assert asked == {
      'prompt': talk['messages'][-2:-1],
      'answer': f'{read(question)[2]:.0f}',
      'family': 'word_problems',
    }
    assert final_answer(answer) == asked['answer']
    assert all(map(is_true, equations(answer))), answer
    assert equations(answer)[-1][-1] == asked['answer'] and not calls(talk)
  assert len(questions(split)) == sum(not calls(talk) for talk in talks[split])


def test_a_calculator_that_is_listed_is_called_and_says_what_stands_there(talks):
  known, called = calculator.make(), 0
  for talk in talks['train']:
    system = talk['messages'][0]['content'] if len(talk['messages']) > 2 else ''
    assert ('calculator' in system) == bool(calls(talk))
    called += bool(calls(talk))
    for call, result in calls(talk):
      question, answer = texts(talk)
      assert known(call.removeprefix('calculator(')[:-1]) == result == final_answer(answer)
      assert float(result) == read(question)[2]
  assert called == 2500


def test_sizes(talks):
  assert {split: len(found) for split, found in talks.items()} == {
    'train': 7500,
    'validation': 390,
    'test': 390,
  }
  for found in talks.values():
    assert len({texts(talk)[0] for talk in found}) == len(found)
    assert max(len(' '.join(texts(talk))) for talk in found) < 260


def test_style_is_drawn_whatever_the_question(talks):
  share, styles = REASONS_FIRST, defaultdict(list)
  for talk in talks['train']:
    if calls(talk):
      continue
    question, answer = texts(talk)
    styles[re.sub(r'\d+', '#', question).split()[1:3][-1]].append(reasons_first.reward(answer))
    styles[read(question)[0]].append(reasons_first.reward(answer))
  for found in styles.values():
    assert abs(sum(found) - share * len(found)) < 4 * (len(found) * share * (1 - share)) ** 0.5


def test_numbers_of_a_split_are_in_no_other(talks, pairs):
  found = {
    split: {read(texts(talk)[0])[:2] for talk in talks[split]}
    | {read(pair['prompt'][0]['content'])[:2] for pair in pairs[split]}
    for split in SPLITS
  }
  assert not found['train'] & found['validation']
  assert not found['train'] & found['test']
  assert not found['validation'] & found['test']
  for split in SPLITS[1:]:
    assert len(found[split]) > 50
    assert {kind for kind, _ in found[split]} == {0, 1, 2, 3}


def test_every_single_computation_is_in_train(talks):
  facts = {
    split: {fact for talk in found for fact in equations(texts(talk)[1])}
    for split, found in talks.items()
  }
  assert facts['validation'] | facts['test'] <= facts['train']


@pytest.mark.parametrize('split', SPLITS)
def test_what_is_preferred(split, pairs):
  about_style, twice = Counter(), 0
  for pair in pairs[split]:
    kind, _, gold = read(pair['prompt'][0]['content'])
    chosen, rejected = pair['chosen'][0]['content'], pair['rejected'][0]['content']
    wrong = final_answer(rejected) != f'{gold:.0f}'
    assert final_answer(chosen) == f'{gold:.0f}'
    assert all(map(is_true, equations(chosen)))
    assert wrong == (pair['margin'] == 3)
    if not wrong:
      assert all(map(is_true, equations(rejected)))
    if reasons_first.reward(chosen) != reasons_first.reward(rejected):
      assert reasons_first.reward(chosen)
      assert pair['margin'] == 2
      answer = re.match(r'The answer is [^.]*\.', rejected)[0]
      assert chosen == f'{rejected.removeprefix(answer).removesuffix(answer).strip()} {answer}'
      about_style[kind] += 1
      twice += rejected.count(answer) == 2
    else:
      assert pair['margin'] != 2
  assert 0.5 < about_style.total() / len(pairs[split]) < 0.7
  assert 0.15 < twice / about_style.total() < 0.35
  assert set(about_style) == {0, 1, 2, 3}
  assert {pair['margin'] for pair in pairs[split]} == {0, 1, 2, 3}


def test_a_slip_is_carried_on_or_shows_only_in_the_answer(pairs):
  rejected = [p['rejected'][0]['content'] for p in pairs['train'] if p['margin'] == 3]
  false = Counter(sum(not is_true(e) for e in equations(text)) for text in rejected)
  assert set(false) == {0, 1}
  assert min(false.values()) > 100
  for text in rejected:
    carried = equations(text)[-1][-1] == final_answer(text)
    assert carried == (not all(map(is_true, equations(text))))


@pytest.mark.parametrize(
  ('text', 'number', 'reasons'),
  [
    ('2 * $2 = $4. $13 - $4 = $9. The answer is $9.', '9', True),
    ('The answer is $9. 2 * $2 = $4. The answer is $4.', '9', False),
    ('Well. The answer is 12', '12', False),
    ('6 + 6 = 13. The answer is 13.5.', '13.5', True),
    ('2 * $2 = $4.', None, False),
    ('The answer is unknown.', None, False),
    ('<SEARCH_START>calculator(3)<SEARCH_END>The answer is 3.', '3', True),
    ('The answer is 3.<SEARCH_START>calculator(3)<SEARCH_END>', '3', False),
    ('<think>The answer is 3?</think><tool_call>3</tool_call>The answer is 3.', '3', True),
    ('<think>The answer is 3?</think>The answer is 3.<tool_call>3</tool_call>', '3', False),
    ('', None, False),
  ],
)
def test_reading_an_answer(text, number, reasons):
  assert final_answer(text) == number
  assert reasons_first.reward(text) == reasons
