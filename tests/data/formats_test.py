"""Records as people publish them, and what is read from each."""

import math

import pytest

from llm_jax.data import formats
from llm_jax.data.formats import BadRow
from llm_jax.types import BadInput

U = lambda text: {'role': 'user', 'content': text}
A = lambda text: {'role': 'assistant', 'content': text}
S = lambda text: {'role': 'system', 'content': text}

HUMAN, GPT = {'from': 'human', 'value': 'Hi'}, {'from': 'gpt', 'value': 'Hello'}
CALL = {'from': 'function_call', 'value': '{"name": "look", "arguments": {"at": "Rome"}}'}
CALLED = {
  'role': 'assistant',
  'content': None,
  'tool_calls': [{'type': 'function', 'function': {'name': 'look', 'arguments': {'at': 'Rome'}}}],
}


@pytest.mark.parametrize(
  ('record', 'messages'),
  [
    ({'messages': [U('Hi'), A('Hello')], 'source': 'x'}, [U('Hi'), A('Hello')]),
    ({'messages': [U('Hi'), A('Hello')], 'prompt': 'Hi', 'prompt_id': 'a'}, [U('Hi'), A('Hello')]),
    ({'prompt': 'Hi', 'completion': 'Hello'}, [U('Hi'), A('Hello')]),
    ({'prompt': [S('be'), U('Hi')], 'completion': [A('Hello')]}, [S('be'), U('Hi'), A('Hello')]),
    ({'prompt': 'Hi', 'response': 'Hello'}, [U('Hi'), A('Hello')]),
    ({'question': '1+1?', 'answer': '2\n#### 2'}, [U('1+1?'), A('2\n#### 2')]),
    (
      {'system_prompt': 'be', 'question': 'Hi', 'response': 'Hello', 'id': 'x'},
      [S('be'), U('Hi'), A('Hello')],
    ),
    # Alpaca, with the history of LLaMA-Factory, and its relatives
    ({'instruction': 'Add', 'input': '1, 2', 'output': '3'}, [U('Add\n\n1, 2'), A('3')]),
    ({'instruction': 'Hi', 'input': '', 'output': 'Hello'}, [U('Hi'), A('Hello')]),
    (
      {'instruction': 'c', 'input': '', 'output': 'd', 'history': [['a', 'b']], 'system': 'be'},
      [S('be'), U('a'), A('b'), U('c'), A('d')],
    ),
    ({'instruction': 'Write', 'input': 'w: 5', 'response': 'ok'}, [U('Write\n\nw: 5'), A('ok')]),
    # Dolly
    (
      {'instruction': 'Who?', 'context': 'Ada.', 'response': 'Ada', 'category': 'qa'},
      [U('Who?\n\nAda.'), A('Ada')],
    ),
    ({'id': 0, 'instruction': 'When?', 'response': 'Now'}, [U('When?'), A('Now')]),
    # Self-Instruct
    (
      {
        'id': 'seed_task_0',
        'name': 'add',
        'instruction': 'Add',
        'instances': [{'input': '1, 2', 'output': '3'}, {'input': '2, 2', 'output': '4'}],
        'is_classification': False,
      },
      [U('Add\n\n1, 2'), A('3')],
    ),
    # ShareGPT
    ({'conversations': [HUMAN, GPT], 'id': '1'}, [U('Hi'), A('Hello')]),
    (
      {'conversations': [HUMAN, CALL, {'from': 'observation', 'value': 'sun'}, GPT], 'tools': '[]'},
      [U('Hi'), CALLED, {'role': 'tool', 'content': 'sun'}, A('Hello')],
    ),
    (
      {'conversations': [HUMAN, GPT], 'system': 'be', 'tools': '[{"name": "look"}]'},
      [S('be\n\nYou can call these tools:\n{"name": "look"}'), U('Hi'), A('Hello')],
    ),
    (
      {'messages': [S('be'), U('Hi'), A('Hello')], 'tools': [{'name': 'look'}]},
      [S('be\n\nYou can call these tools:\n{"name": "look"}'), U('Hi'), A('Hello')],
    ),
    # Parquet fills absent fields with None.
    (
      {'messages': [{**U('Hi'), 'tool_calls': None}], 'prompt': None, 'completion': None},
      [U('Hi')],
    ),
    # of a preference, the best
    ({'prompt': 'Hi', 'chosen': 'Hello', 'rejected': 'No'}, [U('Hi'), A('Hello')]),
  ],
)
def test_conversations(record, messages):
  assert formats.conversation(record) == messages


HH = '\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Who?\n\nAssistant:'
PROMPT = [U('Hi'), A('Yes?'), U('Who?')]


@pytest.mark.parametrize(
  ('record', 'prompt', 'answers', 'margin'),
  [
    ({'prompt': 'Hi', 'chosen': 'a', 'rejected': 'b'}, [U('Hi')], ['a', 'b'], None),
    ({'prompt': 'Hi', 'chosen': 'a', 'rejected': 'b', 'margin': 3}, [U('Hi')], ['a', 'b'], 3.0),
    (
      {'prompt': [U('Hi')], 'chosen': [A('a')], 'rejected': [A('b')], 'score_chosen': 1.0},
      [U('Hi')],
      ['a', 'b'],
      None,
    ),
    # whole conversations, without and with the prompt beside them
    (
      {'chosen': [*PROMPT, A('a')], 'rejected': [*PROMPT, A('b')], 'margin': 0.5},
      PROMPT,
      ['a', 'b'],
      0.5,
    ),
    (
      {'prompt': 'Hi', 'chosen': [U('Hi'), A('a')], 'rejected': [U('Hi'), A('b')]},
      [U('Hi')],
      ['a', 'b'],
      None,
    ),
    # HH-RLHF
    ({'chosen': f'{HH} Ada.', 'rejected': f'{HH} No.\n'}, PROMPT, ['Ada.', 'No.'], None),
    ({'prompt': HH, 'chosen': ' a', 'rejected': 'b'}, PROMPT, [' a', 'b'], None),
    # LLaMA-Factory
    (
      {'conversations': [HUMAN], 'chosen': GPT, 'rejected': {'from': 'gpt', 'value': 'b'}},
      [U('Hi')],
      ['Hello', 'b'],
      None,
    ),
    (
      {'instruction': 'Add', 'input': '1', 'chosen': 'a', 'rejected': 'b'},
      [U('Add\n\n1')],
      ['a', 'b'],
      None,
    ),
    (
      {'instruction': 'Hi', 'input': '', 'output': ['a', 'b', 'c'], 'history': []},
      [U('Hi')],
      ['a', 'b', 'c'],
      None,
    ),
    # rankings
    (
      {'prompt': 'Hi', 'answers': ['c', 'a', 'b'], 'ranks': [3, 1, 2]},
      [U('Hi')],
      ['a', 'b', 'c'],
      None,
    ),
    (
      {'prompt': 'Hi', 'responses': ['c', 'a', 'b'], 'scores': [-1.0, 2.0, 0.5]},
      [U('Hi')],
      ['a', 'b', 'c'],
      None,
    ),
    # summaries, best of four, LLMBar
    (
      {
        'info': {'id': 't', 'post': 'Long.', 'title': 'T', 'subreddit': 'r'},
        'summaries': [{'text': ' b', 'policy': 'x'}, {'text': ' a', 'policy': 'y'}],
        'choice': 1,
        'worker': 'w',
      },
      [U('SUBREDDIT: r/r\n\nTITLE: T\n\nPOST: Long.\n\nTL;DR:')],
      [' a', ' b'],
      None,
    ),
    (
      {
        'info': {'id': 't', 'article': 'News.'},
        'summaries': [{'text': 'a'}, {'text': 'b'}],
        'choice': 0,
      },
      [U('Article:\nNews.\n\nTL;DR:')],
      ['a', 'b'],
      None,
    ),
    (
      {'query': 'It', 'sample0': 'w', 'sample1': 'x', 'sample2': 'y', 'sample3': 'z', 'best': 2},
      [U('It')],
      ['y', 'w', 'x', 'z'],
      None,
    ),
    (
      {'input': 'Hi', 'output_1': 'b', 'output_2': 'a', 'label': 2},
      [U('Hi')],
      ['a', 'b'],
      None,
    ),
  ],
)
def test_preferences(record, prompt, answers, margin):
  assert formats.preference(record) == (prompt, [[A(answer)] for answer in answers], margin)
  good, bad = formats.labelled(record)
  assert good == (prompt, [A(answers[0])], True)
  assert bad == (prompt, [A(answers[-1])], False)


@pytest.mark.parametrize(
  ('record', 'label'),
  [
    ({'prompt': 'Hi', 'completion': 'Hello', 'label': True}, True),
    ({'prompt': [U('Hi')], 'completion': [A('Hello')], 'label': 0}, False),
    ({'messages': [U('Hi'), A('Hello')], 'label': False}, False),
    ({'conversations': [HUMAN, GPT], 'kto_tag': True}, True),
    ({'instruction': 'Hi', 'input': '', 'output': 'Hello', 'kto_tag': False}, False),
  ],
)
def test_labels(record, label):
  assert formats.unpaired(record) == ([U('Hi')], [A('Hello')], label)
  assert formats.labelled(record) == [([U('Hi')], [A('Hello')], label)]


def test_answers_that_use_tools_are_several_messages():
  tool = {'role': 'tool', 'content': 'sun'}
  record = {'prompt': 'Hi', 'chosen': [CALLED, tool, A('a')], 'rejected': [A('b')]}
  _, answers, _ = formats.preference(record)
  assert answers == [[CALLED, tool, A('a')], [A('b')]]


def test_the_best_of_many_is_an_example_and_a_pair():
  record = {
    'prompt': PROMPT,
    'completion': [A('a')],
    'chosen': [A('a')],
    'rejected': [A('c')],
    'candidates': ['b', 'a', 'c'],
    'scores': [0.5, 1.0, -2.0],
  }
  assert formats.conversation(record) == [*PROMPT, A('a')]
  assert formats.preference(record) == (PROMPT, [[A('a')], [A('c')]], None)
  assert formats.labelled(record) == [(PROMPT, [A('a')], True), (PROMPT, [A('c')], False)]


BOTH = {'prompt': 'Hi', 'chosen': 'a', 'rejected': 'b'}


@pytest.mark.parametrize(
  ('read', 'record', 'reason'),
  [
    (
      formats.preference,
      {'chosen': [U('Hi'), A('a')], 'rejected': [U('Ho'), A('b')]},
      'prompts differ',
    ),
    (
      formats.preference,
      {'chosen': [U('Hi'), A('a'), U('x'), A('c')], 'rejected': [U('Hi'), A('b'), U('x'), A('d')]},
      'prompts differ',
    ),
    (formats.preference, {'chosen': [U('Hi')], 'rejected': [U('Hi')]}, 'prompts differ'),
    (formats.preference, {'chosen': [], 'rejected': [U('Hi')]}, 'no answer'),
    (formats.preference, {**BOTH, 'margin': math.nan}, 'margin is not finite'),
    (
      formats.preference,
      {'prompt': '', 'answers': ['a', 'b'], 'scores': [math.nan, 1]},
      'score is not finite',
    ),
    (formats.preference, {'prompt': '', 'answers': ['a', 'b'], 'ranks': [1, 1]}, 'tie'),
    (
      formats.preference,
      {'prompt': '', 'answers': ['a', 'b'], 'ranks': [1]},
      'not one rank for each answer',
    ),
    (formats.preference, {'prompt': '', 'answers': ['a'], 'ranks': [1]}, 'nothing to compare'),
    (
      formats.preference,
      {'query': '', 'sample0': 'a', 'sample1': 'b', 'best': 4},
      'no answer is the best',
    ),
    (formats.labelled, {**BOTH, 'rejected': 'a'}, 'identical answers'),
    (formats.unpaired, {'messages': [U('Hi')], 'label': True}, 'no answer'),
    (
      formats.conversation,
      {'conversations': [HUMAN, {'from': 'function_call', 'value': 'look!'}]},
      'broken tool call',
    ),
    (formats.conversation, {'messages': [U('Hi')], 'tools': '[{'}, 'broken list of tools'),
    (formats.conversation, {'messages': None}, 'messages is null'),
    (formats.conversation, {'messages': [U('Hi'), A('a')], 'weight': 0}, 'weight is 0'),
    (formats.conversation, {'prompt': 'Hi', 'completion': None}, 'completion is null'),
    (formats.conversation, {'prompt': 'Hi', 'completion': math.nan}, 'completion is null'),
    (formats.conversation, {'messages': [U('Hi'), A(None)]}, 'null answer'),
    (formats.preference, {**BOTH, 'rejected': None}, 'rejected is null'),
    (formats.preference, {'prompt': '', 'answers': ['a', None], 'ranks': [1, 2]}, 'null answer'),
    (formats.preference, {'prompt': '', 'answers': ['a', 'b'], 'scores': [1, None]}, 'null score'),
    (formats.unpaired, {'prompt': 'Hi', 'completion': 'a', 'label': None}, 'label is null'),
  ],
)
def test_bad_rows(read, record, reason):
  with pytest.raises(BadRow) as caught:
    read(record)
  assert caught.value.reason == reason


@pytest.mark.parametrize(
  ('read', 'record', 'message'),
  [
    (formats.conversation, {'a': 'a', 'id': 1}, 'columns a, id are of no known format'),
    (formats.conversation, {'text': None}, r'columns \(none\) are of no known format'),
    (formats.preference, {'messages': []}, 'choose from: messages . rejected_response'),
    (formats.unpaired, {'prompt': 'a'}, r'choose from: prompt\|instruction'),
    (formats.conversation, {'messages': [], 'conversations': []}, 'and messages say the same'),
    (
      formats.conversation,
      {'messages': [U('Hi'), A('a')], 'prompt': 'Hi', 'completion': 'b'},
      r'could be messages\|.* or prompt\|.*; remove those that do not count',
    ),
    (
      formats.conversation,
      {'prompt': 'a', 'question': 'a', 'answer': 'b'},
      'prompt and question say the same',
    ),
    (formats.conversation, {'messages': 'Hi'}, "'Hi' is no list of messages"),
    (formats.conversation, {'messages': [{'text': 'Hi'}]}, 'is no message; write'),
    (formats.conversation, {'instruction': 'a', 'output': ['b', 'c']}, 'this is data for pref'),
    (formats.conversation, {'messages': [], 'label': False}, 'may be a bad example'),
    (formats.conversation, {'prompt': 'a', 'output': 'b', 'label': 'bad'}, 'may be a bad example'),
    (formats.conversation, {'messages': [{**U('Hi'), 'images': ['a.png']}]}, 'only texts are read'),
    (formats.conversation, {'messages': [], 'loss_mask': [0, 1]}, 'loss_mask of the record is'),
    (formats.conversation, {'messages': [], 'weight': 0.5}, 'weight of the record is 0.5; use 1'),
    (formats.preference, {'chosen': 'a', 'rejected': 'b'}, 'chosen and rejected without a prompt'),
    (formats.preference, {**BOTH, 'margin': 'much'}, "margin 'much' is not a number"),
    (formats.preference, {'instruction': 'a', 'output': 'b'}, 'has a list of them, best first'),
    (formats.unpaired, {'prompt': 'a', 'completion': 'b', 'label': 'good'}, "label 'good' is"),
  ],
)
def test_unusable_columns(read, record, message):
  with pytest.raises(BadInput, match=message) as caught:
    read(record)
  assert not isinstance(caught.value, BadRow)
  assert '\n' not in str(caught.value)


def test_the_message_lists_every_format():
  with pytest.raises(BadInput) as caught:
    formats.preference({'a': 'a'})
  for columns in (
    'chosen_response + rejected',
    'info + summaries + choice',
    'ranks|ranking|scores',
  ):
    assert columns in str(caught.value)
