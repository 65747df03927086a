"""Questions about letters: answers by Python's own means, words of one split in no other."""

import re

import pytest

from llm_jax.data.families import SPLITS
from llm_jax.data.spelling import conversations, preferences, questions


def wanted(question):
  """The answer, worked out from the question."""
  *asked, word = re.findall(r'`(\w+)`', question)
  if letter := asked or re.findall(r'letter `?(\w)`? occur', question):
    return f'The count is {sum(c == letter[0] for c in word)}.'
  return f'It has {len(word)} letters.' if 'ow ' in question or 'Count' in question else word


def test_answers_are_right():
  for split in SPLITS:
    found = questions(split)
    kinds = set()
    for asked in found:
      answer = wanted(asked['prompt'][0]['content'])
      kinds.add(answer.split()[0])
      assert asked['answer'].replace(' ', '') == answer.replace(' ', '')
    assert {'The', 'It'} < kinds


def test_no_word_is_in_two_splits():
  word = lambda messages: re.findall(r'`(\w+)`', messages[-1]['content'])[-1]
  found = {
    split: {word(record['prompt']) for record in questions(split) + preferences(split)}
    for split in SPLITS
  }
  assert len(found['test']) > 250
  assert not found['train'] & (found['validation'] | found['test'])
  assert not found['validation'] & found['test']


@pytest.mark.parametrize('split', SPLITS)
def test_every_other_answer_calls_and_only_one_who_has_the_tool(split):
  called = []
  asked_about = conversations(split)[: len(questions(split))]  # the others are copies
  for talk, asked in zip(asked_about, questions(split), strict=True):
    *before, answer = talk['messages']
    system = before[0]['content'] if len(before) > 1 else ''
    assert before[-1:] == asked['prompt']
    called.append(not isinstance(answer['content'], str))
    assert called[-1] == ('spell' in system)
    said = answer['content'][-1]['text'] if called[-1] else answer['content']
    assert said == asked['answer']
  assert sum(called) == len(called) // 2


@pytest.mark.parametrize('split', SPLITS)
def test_what_is_to_be_copied_is_copied(split):
  copies = conversations(split)[len(questions(split)) :]
  assert len(copies) >= 40
  for talk in copies:
    *_, asked, answer = talk['messages']
    assert answer['content'] == '`' + asked['content'].split('`')[1] + '`'


def test_the_rejected_answer_is_wrong():
  for pair in preferences('test'):
    answer = wanted(pair['prompt'][0]['content']).replace(' ', '')
    assert pair['chosen'][0]['content'].replace(' ', '') == answer
    assert pair['rejected'][0]['content'].replace(' ', '') != answer
