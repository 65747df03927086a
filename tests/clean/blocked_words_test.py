"""Listed words are counted where they stand alone, and phrases where their words follow."""

import gzip
import random
import re
import time

import pytest

from llm_jax.clean import blocked_words
from llm_jax.clean.page import Drop, Page
from llm_jax.types import BadInput


def count(text, words):
  _, values = blocked_words.make(words=words).measure(Page('', text, str.split))
  return values['blocked']


@pytest.mark.parametrize(
  ('text', 'number'),
  [
    ('a bad word', 1),
    ('BAD, bad; "Bad"', 3),
    ('badly and not-bad', 1),
    ('bad_word forbad', 0),
    ('very  Rude\nthing', 1),
    ('very-rude thing', 1),
    ('rude very thing', 0),
    ('这是脏话吗脏话', 2),
    ('a 🖕🖕', 2),
    ('', 0),
    ('\ud800 bad \0', 1),
  ],
)
def test_where_words_stand(text, number):
  assert count(text, ('Bad', 'very rude thing', '脏话', '🖕')) == number


def test_words_are_found_where_c4_finds_them():
  rng, hits = random.Random(0), 0
  for _ in range(2000):
    words = [''.join(rng.choices('ab', k=rng.randrange(1, 4))) for _ in range(3)]
    text = ''.join(rng.choices('aAb -_.1', k=20))
    c4 = re.search(rf'(?:\W|^)({"|".join(words)})(?:\W|$)', text.lower())
    assert bool(count(text, words)) == bool(c4)
    hits += bool(c4)
  assert 200 < hits < 1800


@pytest.mark.parametrize('most', [0, 1, 2])
def test_more_than_most_are_dropped(most, tmp_path):
  (tmp_path / 'words.gz').write_bytes(gzip.compress(b'# words\nbad\n'))
  rule = blocked_words.make(words=str(tmp_path / 'words.gz'), most=most)
  for number in range(4):
    fate = rule(Page('', 'bad ' * number + 'good', str.split))
    assert isinstance(fate, Drop) == (number > most)


def test_long_texts_and_missing_files():
  began = time.process_time()
  for piece in ('bad ', 'a', 'very rude ', ' '):
    count(piece * 100_000, ('bad', 'very rude very rude very', 'a'))
  assert time.process_time() - began < 3
  with pytest.raises(BadInput, match=r'\Aclean\.blocked_words\.words: '):
    blocked_words.make(words='no such file')
