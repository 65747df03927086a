"""Questions about the library: true answers in proper sentences, and held-out phrasings."""

import importlib
import inspect
import re

import pytest

from llm_jax.data import python_questions
from llm_jax.data.families import SPLITS
from llm_jax.data.python_names import EXAMPLES, SENTENCES, TASKS, example
from llm_jax.data.python_questions import conversations, find, preferences, questions, subjects
from tests.data.families_test import said

CLASSES = {'bytes', 'dict', 'float', 'int', 'list', 'set', 'str', 'tuple'}


def code(text):
  return re.findall(r'`([\w.]+)`', text)


def test_subjects_exist_and_are_what_we_say():
  found = subjects()
  assert 150 <= len(found) <= 180
  assert len({s.name for s in found}) == len({s.sentence for s in found}) == len(found)
  assert {'class', 'function', 'method'} == {s.kind for s in found}
  for subject in found:
    what = find(subject.name)
    assert inspect.isclass(what) == (subject.kind == 'class') and what is not None, subject
    assert (subject.kind == 'method') == (subject.name.rpartition('.')[0] in CLASSES), subject
    inside, _, last = subject.name.rpartition('.')
    assert inside in ('', subject.module) or subject.kind == 'method'
    if subject.kind != 'method':
      assert hasattr(importlib.import_module(subject.module), last)


def test_what_a_newcomer_asks_about_is_among_the_subjects():
  names = {s.name for s in subjects()}
  assert {'len', 'print', 'range', 'math.sqrt', 'json.dumps', 'str.split', 'os.path.join'} <= names
  assert {*SENTENCES, *EXAMPLES, *TASKS} <= names


def test_no_module_is_imported_that_is_not_in_the_library(tmp_path, monkeypatch):
  (tmp_path / 'lenn.py').write_text("raise SystemExit('imported')")
  monkeypatch.syspath_prepend(tmp_path)
  assert find('lenn') is find('lenn.x') is find('os.lenn') is None


def test_who_says_what_to_do_is_told_what_to_use():
  sentence = {s.name: s.sentence for s in subjects()}
  for split in SPLITS:
    told = [
      m[-1]['content']
      for talk in conversations(split)
      if '`' not in (m := said(talk['messages']))[0]['content']
    ]
    assert len(told) == len(TASKS) * (4 if split == 'train' else 1)
    for answer in told:
      (name,) = code(answer)[:1]
      assert answer == f'Use `{name}`. {sentence[name]}'


def test_examples_are_what_python_says():
  for name in EXAMPLES:
    code_, _, result = example(name).removeprefix('For example, `').partition('` is ')
    module = name.partition('.')[0]
    there = {module: importlib.import_module(module)} if code_.startswith(f'{module}.') else {}
    assert eval(code_, there) == eval(result[:-1])
    called = name.rpartition('.')[2]
    assert f'{called}(' in code_


def test_sentences_are_those_of_the_docstrings():
  """Whatever a rule did to a sentence, nearly all of its words come from the docstring."""
  for subject in subjects():
    if subject.name in SENTENCES:
      continue
    words = re.findall(r'\w+', subject.sentence)[2:]
    doc = set(re.findall(r'\w+', inspect.getdoc(find(subject.name)) or ''))
    missing = [w for w in words if not {w, w.capitalize()} & doc]
    # 'a' and the first verb may be ours; old C functions show only their signature on some systems.
    assert len(missing) <= 2 or len(doc) < 5, (subject, missing)


@pytest.mark.parametrize(
  ('summary', 'sentence'),
  [
    ('Return the variance of data.', 'It returns the variance of data.'),
    ('Returns the variance of data.', 'It returns the variance of data.'),
    ('Recursively delete a directory tree.', 'It recursively deletes a directory tree.'),
    ('Copy ``data`` into a *new* list.', 'It copies `data` into a `new` list.'),
    ('Push an item on the heap.', 'It pushes an item on the heap.'),
    ('Collapse and truncate the given text.', ''),
    ('Insert item x, and keep the list sorted.', ''),
    ('Open a file. Close it again.', ''),
    ('Private helper of the above.', ''),
    ('Return it.', ''),
    ('return a list of names.', ''),
    ('Return a list (or None) of names.', ''),
    ('Return a -> b or nothing at all.', ''),
  ],
)
def test_from_summary_to_answer(summary, sentence):
  assert python_questions._action(python_questions.plain(summary)) == sentence


@pytest.mark.parametrize(
  ('summary', 'sentence'),
  [
    ('A class that represents a thread.', 'It is a class that represents a thread.'),
    ('Class for timing small snippets.', 'It is a class for timing small snippets.'),
    ('Abstract base class for managers.', 'It is an abstract base class for managers.'),
    ('A Signature object represents a signature.', ''),
    ('This class implements semaphore objects.', ''),
    ('Create a queue object of some size.', ''),
  ],
)
def test_from_summary_to_answer_about_a_class(summary, sentence):
  assert python_questions._thing(python_questions.plain(summary)) == sentence


def test_prompts_are_new_in_every_split():
  prompts = {
    split: {said(t['messages'])[0]['content'] for t in conversations(split)}
    | {p['prompt'][0]['content'] for p in preferences(split)}
    for split in SPLITS
  }
  assert not prompts['train'] & prompts['validation']
  assert not prompts['train'] & prompts['test']
  assert not prompts['validation'] & prompts['test']
  wordings = {
    split: {re.sub(r'`[\w.]+`', '#', prompt) for prompt in found if '`' in prompt}
    for split, found in prompts.items()
  }
  assert {split: len(found) for split, found in wordings.items()} == {
    'train': 17,
    'validation': 6,
    'test': 6,
  }
  assert len(set.union(*wordings.values())) == 29


def test_train_teaches_what_is_asked_for():
  taught = {}
  for talk in conversations('train'):
    messages = [m['content'] for m in said(talk['messages'])]
    for question, answer in zip(messages[::2], messages[1::2]):
      taught.setdefault(tuple(code(question)), set()).add(answer)
  for split in SPLITS[1:]:
    for asked in questions(split):
      (message,) = asked['prompt']
      assert asked['answer'] in taught[tuple(code(message['content']))]


def test_follow_ups_are_about_what_was_said_before():
  sentence = {s.name: s.sentence for s in subjects()}
  module = {s.name: s.module for s in subjects()}
  longer = [said(t['messages']) for t in conversations('train') if len(said(t['messages'])) > 2]
  assert len(longer) == 2 * len(subjects())
  for first, answer, then, last in longer:
    assert [m['role'] for m in (first, answer, then, last)] == ['user', 'assistant'] * 2
    (name,) = code(first['content'])
    assert answer['content'] == sentence[name]
    if other := code(then['content']):
      assert last['content'] == sentence[other[0]] != sentence[name]
    else:
      assert last['content'] == f'It is in `{module[name]}`.'


@pytest.mark.parametrize('split', SPLITS)
def test_what_is_preferred(split):
  known = {s.name: s for s in subjects()}
  sentences = {s.sentence for s in known.values()}
  pairs = preferences(split)
  assert {p['margin'] for p in pairs} == {0, 1, 2, 3}
  for pair in pairs:
    subject = known[code(pair['prompt'][0]['content'])[0]]
    chosen, rejected = pair['chosen'][0]['content'], pair['rejected'][0]['content']
    if pair['margin'] == 2:
      assert chosen in {f'`{subject.module}`', subject.kind.capitalize()}
      assert len(rejected.split()) > len(chosen.split()) == 1
    else:
      assert chosen == subject.sentence
    if pair['margin'] == 3:
      assert rejected in sentences - {chosen}
    if pair['margin'] == 1:
      assert chosen.startswith(rejected)
      assert len(rejected) < len(chosen)
    if pair['margin'] == 0:
      assert rejected.startswith(chosen)
      assert len(rejected) > len(chosen)
