"""Rows that look up: the result decides what is answered, and test names are in none."""

import re
from collections import Counter
from itertools import islice

import pytest

from llm_jax.data import knowledge, searches
from llm_jax.data.families import TOOLS
from llm_jax.data.pages import MAX_CHARS, pages
from llm_jax.data.python_questions import sentence_of


@pytest.fixture(scope='module')
def facts():
  return {fact.name: fact for fact in knowledge.facts()}


@pytest.fixture(scope='module')
def search(facts):
  """A documentation that has every real name, and finds something for every other."""

  def search(call):
    name = call.strip('`')
    answer = facts[name].answer if name in facts else ''
    return f'{name}(x)\n{answer}' if answer else 'os.path.join(a, b)\nIt joins paths.'

  return search


@pytest.fixture(scope='module')
def rows(search):
  return [row['messages'] for row in searches.conversations(search)]


def parts(row):
  """The name that is asked about, and call, result and answer; only the answer without a call."""
  content = row[-1]['content']
  found = [content] if isinstance(content, str) else [part['text'] for part in content]
  return row[-2]['content'].split('`')[1], found


def test_what_is_said_follows_from_the_result(rows, facts):
  kinds = Counter()
  for row in rows:
    name, (*looked, answer) = parts(row)
    assert facts[name].split in ('train', 'validation', 'test') and 'search' in row[0]['content']
    if not looked:
      kinds['by heart'] += 1
      assert facts[name].kind == 'taught' and answer == facts[name].answer
      assert row[0]['content'] in (f'Tools: {", ".join(TOOLS)}', 'Tools: search')
      continue
    call, result = looked
    assert call == f'search(`{name}`)'
    if name in result:
      kinds[facts[name].kind] += 1
      assert answer == f'"{facts[name].answer}"' == searches.quote(result)
    else:
      kinds['exchanged' if facts[name].answer else 'missing'] += 1
      assert answer == searches.refusal({'name': name})
  found = kinds['read'] + kinds['exchanged']
  assert kinds['missing'] == 2 * (found // 4)
  assert kinds['taught'] + kinds['by heart'] == found // 4
  assert abs(kinds['taught'] - kinds['by heart']) <= 1
  assert 0.07 < kinds['exchanged'] / found < 0.13


def test_names_are_of_the_train_split(rows, facts):
  for row in rows:
    fact = facts[parts(row)[0]]
    assert fact.kind in ('read', 'invented', 'lookalike', 'taught')
    assert fact.kind == 'taught' or fact.split == 'train'


def test_without_refusals_every_result_has_the_answer(search, facts):
  for row in searches.conversations(search, refusals=False):
    name, (*looked, answer) = parts(row['messages'])
    assert answer.strip('"') == facts[name].answer and bool(looked) == ('"' in answer)


def test_verdicts_decide_what_is_looked_up(search, facts):
  lines = [
    {**one, 'verdict': 'known' if number % 2 and one['answer'] else 'unknown'}
    for number, one in enumerate(
      knowledge.questions('train', classes=('read', 'taught', 'invented'))
    )
  ]
  known = {one['name'] for one in lines if one['verdict'] == 'known'}
  asked = {one['name'] for one in lines}
  looked_up, by_heart = set(), set()
  for row in searches.conversations(search, lines):
    name, (*looked, _) = parts(row['messages'])
    (looked_up if looked else by_heart).add(name)
  assert looked_up | by_heart <= asked
  assert by_heart and by_heart <= known
  assert {'read', 'taught', 'invented'} == {facts[name].kind for name in looked_up - known}


def test_pages_that_nobody_has_written_say_something_new(search, facts):
  plain = searches.conversations(search)
  rows = searches.conversations(search, made_up=300)
  assert len(rows) == len(plain) + 300 + 12  # of which some need no search
  assert len(searches.conversations(search, made_up=300, idle=0.1)) == len(plain) + 330
  before = [str(row) for row in plain]
  new = [row['messages'] for row in rows if str(row) not in before]
  kept = {fact.answer for fact in facts.values() if fact.split != 'train'} - {''}
  bare = lambda text: text.translate(dict.fromkeys(map(ord, '`*')))  # which pages write otherwise
  said, away, talks = set(), 0, 0
  for row in new:
    if '`' not in str(row):  # small talk, where a search is listed and nothing is looked up
      talks += 1
      assert row[0]['content'] in (f'Tools: {", ".join(TOOLS)}', 'Tools: search')
      assert all(isinstance(message['content'], str) for message in row)
      continue
    name, (call, page, answer) = parts(row)
    assert name not in facts and call == f'search(`{name}`)' and len(page) <= MAX_CHARS
    if f'{name}(' in page or f'{name}\n' in page:
      sentence = answer.strip('"')
      assert answer == searches.quote(page) and bare(sentence) in ' '.join(bare(page).split())
      assert not kept & {sentence_of(kind, sentence) for kind in ('class', 'function')}
      said.add(answer)
    else:
      away += 1
      assert answer == searches.refusal({'name': name})
  assert talks == 12
  assert 90 < away < 150 and len(said) > 0.9 * (300 - away)
  assert str(rows) == str(searches.conversations(search, made_up=300))


def test_a_page_has_a_name_that_can_be_looked_up(search):
  for page in islice(pages('test', ('_', '__', 'a_')), 300):
    assert search(searches.query(page.name))


def test_pages_may_be_made_of_pieces_so_that_each_is_copied_somewhere():
  pieces = ('zq', 'xv', 'wj', '1', ' a', '.', 'vk\x00')  # of which three are parts of words
  made = [*islice(pages('test', pieces), 400)]
  strange = re.compile('(zq|xv|wj)+')
  of_pieces = [page for page in made if all(map(strange.fullmatch, page.name.split('.')))]
  assert 100 < len(of_pieces) < 300  # half, but for names that are too long for a page
  told = [searches.quote(page.text()) for page in made]
  assert all(quoted.strip('"') in ' '.join(p.text().split()) for quoted, p in zip(told, made))
  words = [quoted.strip('".').split() for quoted in told]
  exchanged = [any(map(strange.fullmatch, some[1:-1])) for some in words]
  assert 100 < sum(exchanged) < 300
  assert not any(strange.fullmatch(word) for some in words for word in (some[0], some[-1]))
  assert all('1' not in page.name and '\x00' not in page.text() for page in of_pieces)
