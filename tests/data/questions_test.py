"""Questions as people publish them, and which text each answer is held against."""

import math

import pytest

from llm_jax.data import families, questions
from llm_jax.data.formats import BadRow
from llm_jax.types import BadInput

U = lambda text: {'role': 'user', 'content': text}
A = lambda text: {'role': 'assistant', 'content': text}
S = lambda text: {'role': 'system', 'content': text}
HUMAN, GPT = {'from': 'human', 'value': 'Hi'}, {'from': 'gpt', 'value': 'Hello'}
CALL = {'role': 'assistant', 'tool_calls': [{'name': 'look', 'arguments': {}}]}
VERL = {'style': 'rule', 'ground_truth': '42'}


@pytest.mark.parametrize(
  ('record', 'prompt', 'gold'),
  [
    # alone, and with a column that says what is right
    ({'prompt': 'Hi', 'id': 3}, [U('Hi')], ''),
    ({'prompt': [S('be'), U('Hi')]}, [S('be'), U('Hi')], ''),
    ({'problem': 'Hi', 'answer': None}, [U('Hi')], ''),
    ({'query': '1+1?', 'gold': '2'}, [U('1+1?')], '2'),
    ({'question': '1+1?', 'ground_truth': 2}, [U('1+1?')], '2'),
    ({'question': '1+1?', 'final_answer': 2.0, 'topic': 'sums'}, [U('1+1?')], '2'),
    ({'instruction': 'Halve', 'input': '1', 'target': 0.5}, [U('Halve\n\n1')], '0.5'),
    ({'prompt': 'Good?', 'label': 'positive'}, [U('Good?')], 'positive'),
    ({'prompt': 'How many?', 'label': 1}, [U('How many?')], '1'),
    ({'prompt': 'Hi', 'completion': 'So it is 2.', 'answer': '2'}, [U('Hi')], '2'),
    ({'system': 'be', 'prompt': 'Hi', 'answer': '2'}, [S('be'), U('Hi')], '2'),
    ({'prompt': [U('Hi')], 'answer': '2', 'family': 'word_problems'}, [U('Hi')], '2'),
    # GSM8K, SVAMP, GSM-Hard
    ({'question': '1+1?', 'answer': '1+1=<<1+1=2>>2\n#### 1,002'}, [U('1+1?')], '1,002'),
    (
      {'Body': 'Ann has 2', 'Question': 'How many?', 'Answer': 2.0},
      [U('Ann has 2 How many?')],
      '2',
    ),
    ({'input': 'How many?', 'code': 'def', 'target': -7.5}, [U('How many?')], '-7.5'),
    # MATH and what was made of it
    (
      {'problem': 'x?', 'solution': r'$\boxed{1}$, so $\boxed{\frac{1}{2}}$.', 'level': 'Level 1'},
      [U('x?')],
      r'\frac{1}{2}',
    ),
    ({'problem': 'x?', 'solution': r'So $x = \fbox {3}$'}, [U('x?')], '3'),
    ({'problem': 'x?', 'solution': r'long, \boxed{3}', 'answer': '3.0'}, [U('x?')], '3.0'),
    ({'prompt': [U('x?')], 'solution': '3'}, [U('x?')], '3'),
    # AQuA
    (
      {'question': 'x?', 'options': ['A)1', 'B)2'], 'rationale': 'as', 'correct': 'B'},
      [U('x?\nA)1\nB)2')],
      'B',
    ),
    # verl, open-instruct
    ({'data_source': 'gsm8k', 'prompt': [U('Hi')], 'reward_model': VERL}, [U('Hi')], '42'),
    ({'messages': [U('Hi')], 'ground_truth': '42', 'dataset': 'gsm8k'}, [U('Hi')], '42'),
    ({'messages': [U('Hi'), A('41')], 'ground_truth': ['42']}, [U('Hi')], '42'),
    # Countdown, as published and as TinyZero prepares it for verl
    ({'prompt': 'Make 7', 'nums': [3, 4], 'target': 7}, [U('Make 7')], '7; 3 4'),
    (
      {
        'target': 7,
        'nums': [3, 4],
        'prompt': [U('Make 7')],
        'reward_model': {'ground_truth': {'target': 7, 'numbers': [3, 4]}},
      },
      [U('Make 7')],
      '7; 3 4',
    ),
    # conversations
    ({'messages': [U('Hi'), A('Hello')], 'source': 'x'}, [U('Hi')], 'Hello'),
    ({'messages': [U('Hi'), A('?'), U('So?'), A('2')]}, [U('Hi'), A('?'), U('So?')], '2'),
    ({'messages': [S('be'), U('Hi')], 'prompt': 'Hi'}, [S('be'), U('Hi')], ''),
    ({'conversations': [HUMAN, GPT], 'system': 'be'}, [S('be'), U('Hi')], 'Hello'),
    ({'prompt': 'Hi', 'completion': [A('Hello')]}, [U('Hi')], 'Hello'),
    ({'instruction': 'Add', 'input': '1, 2', 'output': '3'}, [U('Add\n\n1, 2')], '3'),
    # the answer of one who used a tool, or thought first
    (
      {'messages': [U('Hi'), CALL, {'role': 'tool', 'content': 'sun'}, A('It is sunny.')]},
      [U('Hi')],
      'It is sunny.',
    ),
    (
      {'messages': [U('1+1?'), A([dict(type='thinking', text='a'), dict(type='text', text='2')])]},
      [U('1+1?')],
      '2',
    ),
    # better is not right
    ({'prompt': 'Hi', 'chosen': 'a', 'rejected': 'b'}, [U('Hi')], ''),
    ({'chosen': [U('Hi'), A('a')], 'rejected': [U('Hi'), A('b')]}, [U('Hi')], ''),
    ({'instruction': 'Hi', 'input': '', 'output': ['a', 'b']}, [U('Hi')], ''),
    ({'prompt': 'Hi', 'completion': 'Hello', 'label': True}, [U('Hi')], ''),
    ({'prompt': 'Hi', 'completion': 'Hello', 'label': 1}, [U('Hi')], ''),
    ({'messages': [U('Hi'), A('Hello')], 'label': False}, [U('Hi')], ''),
  ],
)
def test_questions(record, prompt, gold):
  assert questions.question(record) == (prompt, gold)


def test_countdown_without_a_prompt_is_asked_in_words():
  (message,), gold = questions.question({'nums': [44, 19, 35], 'target': 98})
  assert gold == '98; 44 19 35'
  assert message['role'] == 'user'
  assert 'equals 98' in message['content'] and '44, 19 and 35 exactly once' in message['content']


@pytest.mark.parametrize('family', families.FAMILIES)
def test_builtin_questions_are_read_unchanged(family):
  for record in families.records('questions', 'validation', family):
    assert questions.question(record) == (record['prompt'], record['answer'])


@pytest.mark.parametrize(
  ('value', 'gold'),
  [
    (' 42 \n', '42'),
    ('a\n####42\n', '42'),
    ('#### A heading\nand text', '#### A heading\nand text'),
    ('in a line #### 42', 'in a line #### 42'),
    (r'\boxed{\{1, \sqrt{2}\}}, see {above}', r'\{1, \sqrt{2}\}'),
    (r'\boxed{}', r'\boxed{}'),
    (12345678901234567890, '12345678901234567890'),
    (14801827.0, '14801827'),
    (0.1, '0.1'),
    ({'target': 7, 'numbers': [3, 4]}, '7; 3 4'),
  ],
)
def test_gold(value, gold):
  assert questions.gold_of(value) == gold


@pytest.mark.parametrize(
  ('record', 'reason'),
  [
    ({'prompt': ' \n'}, 'empty prompt'),
    ({'prompt': []}, 'empty prompt'),
    ({'messages': [S('be'), A('Hello')]}, 'no question'),
    ({'prompt': 'Hi', 'answer': math.nan}, 'gold is not finite'),
    ({'chosen': [U('Hi'), A('a')], 'rejected': [U('Ho'), A('b')]}, 'prompts differ'),
  ],
)
def test_bad_rows(record, reason):
  with pytest.raises(BadRow) as caught:
    questions.question(record)
  assert caught.value.reason == reason


@pytest.mark.parametrize(
  ('record', 'message'),
  [
    ({'a': 'a', 'id': 1}, r'columns a, id are of no known format; choose from: prompt\|'),
    ({'prompt': 'a', 'question': 'a'}, 'prompt and question say the same'),
    ({'prompt': 'a', 'answer': '1', 'gold': '2'}, 'answer and gold say the same'),
    ({'prompt': 'a', 'answer': '1', 'reward_model': VERL}, 'could be .* remove those that do not'),
    ({'prompt': 'a', 'answer': ['1', '2']}, 'is no gold answer; write one text or number'),
    ({'prompt': 'a', 'answer': True}, "'True' is no gold answer"),
  ],
)
def test_unusable_columns(record, message):
  with pytest.raises(BadInput, match=message) as caught:
    questions.question(record)
  assert not isinstance(caught.value, BadRow)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('value', 'gold'),
  [
    ('We add 2 and 3. The answer is: 5', '5'),
    ('So $x = 5$. The answer is $\\frac{1}{8}$.', '$\\frac{1}{8}$'),
    (
      'The answer is 5, and 5 is odd. So it is odd.',
      'The answer is 5, and 5 is odd. So it is odd.',
    ),
    ('["34"]', '34'),
    ("['x + 1']", 'x + 1'),
    ('[3, 4]', '[3, 4]'),
    ('<think>The answer is 3.</think>5', '5'),
  ],
)
def test_gold_texts_that_hold_more_than_the_answer(value, gold):
  assert questions.gold_of(value) == gold


def test_a_gold_list_of_several_texts_is_refused():
  with pytest.raises(BadInput, match='is no gold answer; write one text or number'):
    questions.gold_of('["3", "4"]')
