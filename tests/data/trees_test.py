"""Trees of messages become what is told in each form, and nothing is lost or trained twice."""

import random

import pytest

from llm_jax.data import formats, trees
from llm_jax.types import BadInput


def row(name, parent, role, rank=None, **more):
  return dict(message_id=name, parent_id=parent, text=f'says {name}', role=role, rank=rank, **more)


def forest(seed):
  """Rows of random trees in random order."""
  draw = random.Random(seed)
  rows = [row(f'root {i}', None, 'prompter') for i in range(5)]
  for i in range(60):
    parent = draw.choice(rows)
    role = {'prompter': 'assistant', 'assistant': 'prompter'}[parent['role']]
    rows.append(row(f'{i}', parent['message_id'], role))
  for parent in rows:
    replies = [r for r in rows if r['parent_id'] == parent['message_id']]
    if parent['role'] == 'prompter' and draw.random() < 0.8:
      for rank, reply in enumerate(draw.sample(replies, len(replies))):
        reply['rank'] = rank
  return draw.sample(rows, len(rows))


def grown(rows, kind):
  return [record for _, record in trees.grown(((f'line {i}', r) for i, r in enumerate(rows)), kind)]


@pytest.mark.parametrize('seed', range(5))
def test_conversations_train_every_best_reply_once(seed):
  rows = forest(seed)
  by_name = {r['message_id']: r for r in rows}
  best, reached = set(), {r['message_id'] for r in rows if r['parent_id'] is None}
  while reached:
    answers = {}
    for r in rows:
      if r['parent_id'] in reached and r['role'] == 'assistant':
        answers.setdefault(r['parent_id'], []).append(r)
    rank = lambda r: float('inf') if r['rank'] is None else r['rank']
    new = {min(replies, key=rank)['message_id'] for replies in answers.values()}
    best |= new
    reached = {r['message_id'] for r in rows if r['parent_id'] in new}
  trained = []
  for record in grown(rows, 'conversations'):
    messages = formats.conversation(record)
    names = [message['content'].removeprefix('says ') for message in messages]
    assert [by_name[name]['parent_id'] for name in names] == [None, *names[:-1]]
    assert messages[-1]['role'] == 'assistant'
    trained += [
      name
      for name, message in zip(names, messages, strict=True)
      if message['role'] == 'assistant' and 'train' not in message
    ]
  assert sorted(trained) == sorted(best)


@pytest.mark.parametrize('seed', range(5))
def test_preferences_are_all_ranked_replies(seed):
  rows = forest(seed)
  expected = {}
  for r in rows:
    if r['rank'] is not None:
      expected.setdefault(r['parent_id'], {})[r['rank']] = r['text']
  expected = {f'says {n}': [d[i] for i in sorted(d)] for n, d in expected.items() if len(d) > 1}
  found = {}
  for record in grown(rows, 'preferences'):
    prompt, answers, _ = formats.preference(record)
    found[prompt[-1]['content']] = [answer[0]['content'] for answer in answers]
  assert found == expected
  asked = [r for r in rows if r['role'] == 'prompter']
  assert len(grown(rows, 'questions')) == len(asked)


def test_what_was_deleted_or_failed_its_review_is_left_out_with_its_replies():
  rows = [
    row('a', None, 'prompter'),
    row('b', 'a', 'assistant', deleted=True),
    row('c', 'b', 'prompter'),
    row('d', 'c', 'assistant'),
    row('e', 'a', 'assistant', review_result=False),
    row('f', 'a', 'assistant', review_result=None),
  ]
  (record,) = grown(rows, 'conversations')
  assert [message['content'] for message in record['messages']] == ['says a', 'says f']


def test_rows_of_something_else_are_given_as_they_are():
  rows = [{'prompt': 'a'}, ['b'], None]
  assert grown(rows, 'conversations') == rows
  assert grown([], 'questions') == []


@pytest.mark.parametrize(
  ('second', 'message'),
  [
    ({'prompt': 'a'}, 'line 1: no message of a tree; it needs message_id, parent_id, role, text'),
    (row('a', 'a', 'assistant'), "line 1: message_id 'a' comes again"),
  ],
)
def test_rows_that_are_no_tree(second, message):
  with pytest.raises(BadInput, match=message):
    grown([row('a', None, 'prompter'), second], 'conversations')
