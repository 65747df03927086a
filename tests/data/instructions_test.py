"""Instructions: each answer follows from its passage, and passages are in one split only."""

import ast
from collections import Counter

import pytest

from llm_jax.data import builtin
from llm_jax.data.families import SPLITS
from llm_jax.data.instructions import TASKS, conversations, preferences, questions
from tests.data.families_test import said

TASK = {wording: name for name, task in TASKS.items() for wording in task.wordings}


def check(task, passage, answer):
  """Whether the answer is right, found out without the entry that the passage was made from."""
  header, _, rest = passage.partition('\n\n')
  kind = header.split()[0] if header.startswith(('class ', 'Module ')) else 'function'
  match task:
    case 'classify':
      return answer == f'It is a {kind.lower()}.'
    case 'name':
      return header.removeprefix(f'{kind} ').split('(')[0] == answer.strip('`')
    case 'parameters':
      call = f'def f({header.split("(", 1)[1]}: pass'
      found = [node for node in ast.walk(ast.parse(call)) if isinstance(node, ast.arg)]
      names = [node.arg for node in sorted(found, key=lambda node: node.col_offset)]
      return answer.replace('*', '') == (', '.join(map('`{}`'.format, names)) or 'There are none.')
    case 'summarise':
      return passage.startswith(f'{answer} ') and len(passage) > len(answer) + 1
    case 'capitals':
      return answer == passage.upper()
    case 'lower_case':
      return answer == passage.lower()
    case 'question':
      start = f'{passage[0].lower()}{passage[1:-1]}'
      return passage.endswith('.') and answer == f'Does it {start}?'


@pytest.fixture(scope='module')
def exercises():
  """(task, passage, answer) of each split."""
  found = {}
  for split in SPLITS:
    texts = [[m['content'] for m in said(talk['messages'])] for talk in conversations(split)]
    parts = [(*prompt.split('\n\n', 1), answer) for prompt, answer in texts]
    found[split] = [(TASK[wording], passage, answer) for wording, passage, answer in parts]
  return found


def test_every_answer_follows_from_its_passage(exercises):
  for found in exercises.values():
    for exercise in found:
      assert check(*exercise), exercise


def test_sizes(exercises):
  assert len(exercises['train']) == 1500
  assert all(100 <= len(exercises[split]) <= 150 for split in SPLITS[1:])
  for found in exercises.values():
    share = Counter(task for task, _, _ in found)
    assert set(share) == set(TASKS)
    assert min(share.values()) > 0.05 * len(found)
    assert len(set(found)) == len(found)
    assert max(len(passage.split()) for _, passage, _ in found) <= 60
    assert {answer for task, _, answer in found if task == 'classify'} == {
      'It is a class.',
      'It is a function.',
      'It is a module.',
    }


def test_passages_are_in_one_split_and_of_the_right_corpus(exercises):
  passages = {split: {passage for _, passage, _ in found} for split, found in exercises.items()}
  assert not passages['train'] & passages['validation']
  assert not passages['train'] & passages['test']
  assert not passages['validation'] & passages['test']
  names = {split: {e.name for e in builtin.entries(split)} for split in builtin.SPLITS}
  for split, found in exercises.items():
    corpus = 'train' if split == 'train' else 'validation'
    asked = {answer.strip('`') for task, _, answer in found if task == 'name'}
    assert asked <= names[corpus]


def test_questions_are_the_conversations():
  for split in SPLITS:
    for talk, asked in zip(conversations(split), questions(split), strict=True):
      assert said(talk['messages'])[:-1] == asked['prompt']
      assert talk['messages'][-1]['content'] == asked['answer']
      assert asked['family'] == 'instructions'


@pytest.mark.parametrize('split', SPLITS)
def test_what_is_preferred(split):
  pairs = preferences(split)
  assert min(Counter(p['margin'] for p in pairs).values()) > 0.1 * len(pairs)
  assert {p['margin'] for p in pairs} == {0, 1, 2, 3}
  for pair in pairs:
    wording, passage = pair['prompt'][0]['content'].split('\n\n', 1)
    chosen, rejected = pair['chosen'][0]['content'], pair['rejected'][0]['content']
    assert check(TASK[wording], passage, chosen)
    assert not check(TASK[wording], passage, rejected)
    assert (pair['margin'] == 2) == (rejected == passage)
    assert (pair['margin'] < 2) == rejected.endswith(f': {chosen}')
