"""The ranking against a formula worked out here, and searches in the real documentation."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llm_jax.data import builtin, knowledge, searches
from llm_jax.rewards import honest
from llm_jax.tools import search
from llm_jax.types import BadInput

TEXTS = ('a cat', 'a cat and a dog', 'the dog', 'a cat', '', 'Dog.walk(dog): dog_walk')


def bm25(words, text):
  """The score of a text of TEXTS, term by term; terms are split by hand."""
  split = [t.lower().replace('(', ' ').replace('):', ' ').replace('_', ' ') for t in TEXTS]
  split = [t.replace('dog.walk', 'dog walk dog.walk').split() for t in split]
  average, total = sum(map(len, split)) / len(split), 0
  for word in words:
    n = sum(word in terms for terms in split)
    often, length = split[text].count(word), len(split[text])
    rarity = math.log(1 + (len(TEXTS) - n + 0.5) / (n + 0.5))
    total += rarity * often * 2.2 / (often + 1.2 * (0.25 + 0.75 * length / average))
  return total


@pytest.mark.parametrize('words', [['cat'], ['dog'], ['a', 'dog'], ['dog.walk'], ['walk', 'and']])
def test_the_weights_are_those_of_bm25(words):
  index = search.build(TEXTS)
  score = np.zeros(len(TEXTS))
  for word in words:
    rows, weights = index.postings[word]
    score[rows] += weights
  np.testing.assert_allclose(score, [bm25(words, i) for i in range(len(TEXTS))])


def test_the_best_come_first_and_equal_ones_in_their_order():
  index = search.build(TEXTS)
  assert search.best(index, ['cat'], 9) == [0, 3, 1]
  assert search.best(index, ['cat'], 2) == [0, 3]
  assert search.best(index, ['dog', 'walk'], 1) == [5]
  assert search.best(index, ['bird'], 9) == []
  assert search.best(search.build([]), ['cat'], 1) == []


@pytest.fixture(scope='module')
def find():
  return search.make()


def test_threads_share_one_index(find):
  with ThreadPoolExecutor(4) as pool:
    found = list(pool.map(find, ['shutil.copyfile'] * 8))
  assert len(set(found)) == 1
  assert search._built_once.cache_info().misses == 1


def test_a_name_finds_its_documentation(find):
  entries = [e for s in builtin.SPLITS for e in builtin.entries(s) if e.kind == 'function'][::25]
  hits = [entry.name in find(f'What does {entry.name} do?').split('\n')[0] for entry in entries]
  assert np.mean(hits) > 0.8
  assert 'Least-recently-used cache decorator.' in find('functools.lru_cache')


@pytest.mark.parametrize('asked', ['{}', '`{}`', 'What does `{}` do?', 'tell me of {} please'])
def test_the_page_of_a_name_comes_before_those_that_mention_it(find, asked):
  entries = [e for s in builtin.SPLITS for e in builtin.entries(s) if e.kind != 'module']
  for entry in [e for e in entries if '.' in e.name][::20]:
    first = find(asked.format(entry.name)).split('\n')[0].removeprefix('class ')
    assert first.startswith(entry.name) and not first[len(entry.name) :].startswith('.')


def test_a_word_that_is_a_name_too_is_not_taken_for_one():
  index = search.build(['open(file)\nOpens a file.', 'io.open(file)\nThe same.'])
  assert search.about(index, 'open') == [0] and search.about(index, '`open` in a file') == [0]
  assert search.about(index, 'how do I open a file') == [] == search.about(index, 'file.open')
  assert search.about(index, 'io.open or `open`') == [1, 0]


def test_no_passage_is_lost():
  document = 'f(x)\n\nDoes f.\nMore of it.\n\n' + 'word ' * 50 + '\n\n' + 'line\n' * 200 + 'end\n'
  passages = list(search._passages(document))
  assert all(passage.startswith('f(x)\nDoes f.\n') and len(passage) < 400 for passage in passages)
  joined = '\n'.join(passage.removeprefix('f(x)\nDoes f.\n') for passage in passages)
  assert joined.split() == document.split()[3:]


def test_what_comes_back(find):
  assert len(find('sort a list')) <= 400
  assert search.make(max_chars=50)('sort a list') == find('sort a list')[:50].rstrip()
  several = search.make(top=3)('sort a list')
  assert several.startswith(find('sort a list') + '\n\n')
  assert find('qqqqxyzzy') == 'Nothing was found.'


@pytest.mark.parametrize('text', ['', ' ', '?!', 'a' * 1001])
def test_a_malformed_call_is_a_value_error(find, text):
  with pytest.raises(ValueError, match='at least one word'):
    find(text)


@pytest.mark.parametrize('name', ['os.jion', 'builtins.no_such', '`nothing`', ' `shutil.cpoy` '])
def test_who_looks_up_a_name_that_no_page_has_is_told_so(find, name):
  said, _, passage = find(name).partition('\n')
  assert said == search.NO_PAGE and passage and name.strip(' `') not in said
  assert (search.NO_PAGE in find(f'what is {name}?')) == ('`' in name)  # else a word like others
  for question in (f'{name} or `os.path.join`', 'sort a list', 'list'):
    assert search.NO_PAGE not in find(question)


def test_so_many_sentences_are_shown_behind_the_first_line(find):
  one, two = (search.make(sentences=count) for count in (1, 2))
  assert one('struct.iter_unpack').endswith('yielding tuples unpacked from the given bytes.')
  for name in ('`os.path.join`', '`shutil.rmtree`', '`json.dump`', 'how to copy a tree', 'a'):
    short, long, whole = one(name), two(name), find(name)
    assert whole.startswith(long) and long.startswith(short) and short.count('\n') >= 1
  assert one('`math.sqrt`') == find('`math.sqrt`')


def test_what_a_function_does_is_shown_and_not_how_it_is_called():
  one, whole = search.make(sentences=1), search.make(max_chars=10_000)
  behind = lambda page: page.partition('\n')[2]
  assert behind(one('`min`')) == 'With a single iterable argument, return its smallest item.'
  assert behind(one('`str.endswith`')).startswith('Return True if ')
  entries = [entry for split in builtin.SPLITS for entry in builtin.listed(split)]
  calls = [f'`{entry.name}`' for entry in entries[::20]]
  for call in calls:  # but where the page says nothing else
    assert builtin.is_form(behind(one(call))) <= builtin.is_form(behind(whole(call))), call
  assert sum(builtin.is_form(behind(one(call))) for call in calls) < len(calls) / 10


def test_the_documentation_answers_what_sft_taught():
  """Whoever quotes what it finds about a taught name is right, but for a few."""
  one = search.make(max_chars=160, max_heading=60, sentences=1)
  asked = knowledge.questions('test', classes=knowledge.KNOWN)
  quoted = [searches.quote(one(searches.query(question['name']))) for question in asked]
  right = [
    honest.outcome(text, question['answer'], question.get('also', ())) == 'right'
    for text, question in zip(quoted, asked, strict=True)
  ]
  assert sum(right) > 0.93 * len(right)


def test_options_are_checked():
  with pytest.raises(BadInput, match='top 0; choose a whole number from 1'):
    search.make(top=0)


def test_a_name_with_one_sentence_or_another_module_has_a_page_too(find):
  for name in ('os.path.join', 'os.path.exists', 'posixpath.join', 'math.sqrt', 'str.join'):
    assert find(f'`{name}`').startswith(name), name
  assert find('`json`').startswith('Module json\n') and find('os').startswith('Module os\n')
  assert find('math.sqrt') == 'math.sqrt(x, /)\nReturn the square root of x.'


def test_every_name_that_the_documentation_has_is_found_by_name(find):
  entries = [
    e for split in builtin.SPLITS for e in (*builtin.entries(split), *builtin.listed(split))
  ]
  entries += builtin.left_out()
  named = [entry.name for entry in entries if entry.kind != 'module']
  lost = [name for name in named[::40] if name not in find(f'`{name}`').partition('\n')[0]]
  assert not lost
