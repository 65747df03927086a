"""The families together: proper records, no leak across splits, the same in every process."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from llm_jax.data import builtin
from llm_jax.data.families import FAMILIES, KINDS, SPLITS, dialogue, preference, records
from llm_jax.types import BadInput

ROOT = Path(__file__).parents[2]
DIGEST = """
import hashlib, json, pickle, sys
from llm_jax.data import builtin
from llm_jax.data.families import KINDS, SPLITS, records
corpus = pickle.load(sys.stdin.buffer)
builtin._split = lambda: corpus
found = [records(kind, split) for kind in KINDS for split in SPLITS]
print(hashlib.sha256(json.dumps(found).encode()).hexdigest())
"""


@pytest.fixture(scope='module')
def found():
  return {(kind, split): records(kind, split) for kind in KINDS for split in SPLITS}


def test_same_bytes_in_every_process(found):
  """From the same documentation: that it is the same is what builtin_test asks."""
  environment = {**os.environ, 'PYTHONHASHSEED': '7', 'PYTHONPATH': str(ROOT)}
  run = [sys.executable, '-c', DIGEST]
  corpus = pickle.dumps(builtin._split())
  there = subprocess.run(run, input=corpus, env=environment, capture_output=True, check=True).stdout
  here = json.dumps([found[kind, split] for kind in KINDS for split in SPLITS])
  assert there.decode().split() == [hashlib.sha256(here.encode()).hexdigest()]


def said(messages):
  """The messages of a conversation without one that lists tools before them."""
  return messages[messages[0]['role'] == 'system' :]


def turns(record):
  """All messages lists of a record, each with who speaks last."""
  if 'messages' in record:
    return [(record['messages'], 'assistant')]
  answers = [record[name] for name in ('chosen', 'rejected') if name in record]
  talks = [(record['prompt'] + answer, 'assistant') for answer in answers]
  return [(record['prompt'], 'user'), *talks]


def test_records_are_clean_dialogues(found):
  for records_ in found.values():
    for record in records_:
      for messages, last in turns(record):
        roles = ['assistant' if i % 2 else 'user' for i in range(len(said(messages)))]
        assert [message['role'] for message in said(messages)] == roles
        assert roles[-1] == last
        for message in messages:
          assert set(message) == {'role', 'content'}
          content = message['content']
          parts = [content] if isinstance(content, str) else [part['text'] for part in content]
          assert ''.join(parts) == ''.join(parts).strip() and all(parts)
          assert ''.join(parts).replace('\n', '').isprintable()


def test_fields(found):
  for split in SPLITS:
    assert all(set(r) == {'messages'} for r in found['conversations', split])
    for pair in found['preferences', split]:
      assert set(pair) == {'prompt', 'chosen', 'rejected', 'margin'}
      assert pair['chosen'] != pair['rejected']
    for asked in found['questions', split]:
      assert set(asked) == {'prompt', 'answer', 'family'}
      assert asked['answer']
    assert {asked['family'] for asked in found['questions', split]} == set(FAMILIES)


def test_no_prompt_of_one_split_is_in_another(found):
  prompts = {
    split: {
      json.dumps(record['messages'][:-1] if 'messages' in record else record['prompt'])
      for kind in KINDS
      for record in found[kind, split]
    }
    for split in SPLITS
  }
  assert not prompts['train'] & prompts['validation']
  assert not prompts['train'] & prompts['test']
  assert not prompts['validation'] & prompts['test']


def test_who_lists_a_tool_need_not_call_it_and_nobody_calls_one_that_is_not_listed(found):
  idle = 0
  for record in found['conversations', 'train']:
    *before, answer = record['messages']
    listed = before[0]['content'] if before[0]['role'] == 'system' else ''
    parts = [] if isinstance(answer['content'], str) else answer['content']
    calls = [part['text'] for part in parts if part['type'] == 'search']
    assert all(call.partition('(')[0] in listed for call in calls)
    assert [p['type'] for p in parts].count('result') == len(calls) and bool(parts) == bool(calls)
    idle += bool(listed) and not calls
  assert idle > 500


def test_no_record_twice(found):
  for key, records_ in found.items():
    assert len({json.dumps(record) for record in records_}) == len(records_), key


def test_all_is_the_mixture_of_its_families(found):
  for kind in KINDS:
    each = [r for family in FAMILIES for r in records(kind, 'test', family)]
    together = found[kind, 'test']
    assert sorted(map(json.dumps, each)) == sorted(map(json.dumps, together))
  families = [asked['family'] for asked in found['questions', 'test']]
  for part in (families[: len(families) // 2], families[len(families) // 2 :]):
    assert set(part) == set(FAMILIES)  # mixed


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('preference', 'train'), r"no kind 'preference'; did you mean 'preferences'"),
    (('questions', 'valid'), r"no split 'valid'"),
    (('questions', 'test', 'word_problem'), r"no family 'word_problem'; did you .*word_problems"),
  ],
)
def test_unknown_names(arguments, message):
  with pytest.raises(BadInput, match='(?i)' + message):
    records(*arguments)


def test_helpers():
  asked = dialogue('a?', 'b.', 'c?')
  assert [(m['role'], m['content']) for m in asked] == [
    ('user', 'a?'),
    ('assistant', 'b.'),
    ('user', 'c?'),
  ]
  pair = preference(asked, 'd.', 'e.', 2.0)
  assert pair['prompt'] == asked
  assert pair['chosen'] == [{'role': 'assistant', 'content': 'd.'}]
  assert pair['rejected'] == [{'role': 'assistant', 'content': 'e.'}]
  assert pair['margin'] == 2
