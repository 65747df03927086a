"""Each place where looking up can go wrong, by hand."""

import pytest

from llm_jax.evals import searches
from llm_jax.sampling.calls import Tools
from llm_jax.types import BadInput

FOUND = 'shutil.rmtree(path)\nRecursively delete a directory tree.'
GOLD = 'It recursively deletes a directory tree.'
TOOLS = Tools(
  {
    'search': lambda text: FOUND if 'rmtree' in text else 'Nothing was found.',
    'spell': str.upper,
  }
)
REAL = {'name': 'shutil.rmtree', 'answer': GOLD}
NOBODY = {'name': 'shutil.tmree', 'answer': ''}


def call(text, name='search'):
  return f'<SEARCH_START>{name}({text})<SEARCH_END>'


@pytest.mark.parametrize(
  ('question', 'said', 'wanted'),
  [
    (REAL, call('`shutil.rmtree`') + GOLD, 'called query found right'),
    (REAL, call('`shutil.rmtree`') + 'It deletes a directory tree.', 'called query found right'),
    (REAL, call('`shutil.rmtree`') + '"Recursively delete a tree."', 'called query found right'),
    (REAL, call('`shutil.rmtree`') + 'It copies files.', 'called query found invention'),
    (REAL, call('`shutil.rmtree`') + 'I do not know `x`.', 'called query found refused'),
    (REAL, call('shutil.copy') + GOLD, 'called right'),
    (REAL, GOLD, 'right'),
    (REAL, call('1 + 1', 'spell') + 'It is 2.', 'invention'),
    (NOBODY, call('`shutil.tmree`') + 'I do not know it.', 'called query follows refused'),
    (NOBODY, call('`shutil.tmree`') + GOLD, 'called query invention'),
  ],
)
def test_what_became_of_a_question(question, said, wanted):
  found = searches.looked_up(question, said, TOOLS)
  told = {name for name, holds in found.items() if holds}
  assert told - {'follows'} == set(wanted.split()) - {'follows'}
  if 'follows' in wanted:
    assert found['follows']


def test_an_answer_follows_the_result_where_it_has_its_words():
  follows = lambda answer: searches.looked_up(REAL, call('rmtree') + answer, TOOLS)['follows']
  assert follows('It is recursively delete a directory tree.')
  assert follows('"Recursively delete a directory tree."')
  assert not follows('It returns the sine of x.')


def test_without_search_there_is_nothing_to_measure():
  with pytest.raises(BadInput, match=r'no search to call; set tools.search=\{\}'):
    searches.make(None, None, tools=Tools({'spell': str.upper}))
