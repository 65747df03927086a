"""DCLM's edits of lines, one after the other, and its reading of Gopher's quality rules."""

import random
import re

import pytest

from llm_jax.clean import dclm, gopher
from llm_jax.clean.page import Drop, Page
from llm_jax.clean.words import splitter

PROSE = 'A line of plain prose with more than ten words in it, which stays as it is.'


def edited(*lines, **options):
  page = Page('', '\n'.join([PROSE, *lines, PROSE]), splitter('simple'))
  after, values = dclm.make(**options).measure(page)
  return after.text.split('\n')[1:-1], values


@pytest.mark.parametrize(
  ('line', 'rule'),
  [
    ('BUY it NOW', 'capitals'),
    ('2024', 'digits'),
    ('3 likes', 'counter'),
    ('* 1,024.5K Followers!', 'counter'),
    ('Home', 'few_words'),
    (' ', 'few_words'),
    ('Sign-in items in cart', 'phrase'),
    ('read more...', 'phrase'),
  ],
)
def test_a_line_that_is_removed(line, rule):
  kept, values = edited(line)
  rules = ('capitals', 'digits', 'counter', 'few_words', 'phrase')
  assert kept == [] and {name: values[name] for name in rules if values[name]} == {rule: 1}


@pytest.mark.parametrize(
  ('line', 'left'),
  [
    ('ABcd', None),  # half of it are capitals, but it is one word
    ('AB cd', 'AB cd'),
    ('', ''),
    ('20 24', '20 24'),
    ('3 likes and more', '3 likes and more'),
    ('you have 3 items in cart', 'you have 3'),
    ('The story goes on Read More...', 'The story goes on'),
    ('Sign-in to your account', 'to your account'),
    ('to Sign-in now', 'to Sign-in now'),
    ('one two three four five six seven eight items in cart', None),
    ('a b c d e f g items in cart', 'a b c d e f g'),
  ],
)
def test_a_line_that_stays_or_is_cut(line, left):
  kept, _ = edited(line)
  if line.startswith('one two'):
    assert kept == [line]
  else:
    assert kept == ([] if left is None else [left])


def test_a_page_that_lost_more_than_a_twentieth_of_its_words():
  rule = dclm.make()
  text = ' '.join(['word'] * 19)
  page = Page('', f'{text}\nHome', str.split)
  after = rule(page)
  assert isinstance(after, Page) and after.text == text
  found = rule(Page('', f'{text}\nHome\nAbout', str.split))
  assert isinstance(found, Drop) and found.reason == 'removed_words'
  assert found.values['removed'] == 2 / 21
  assert isinstance(dclm.make(max_removed=None)(Page('', f'{text}\na\nb', str.split)), Page)
  for empty in ('', '\n', 'Home', '...'):
    assert rule(Page('', empty, splitter('simple'))) == Drop(
      'empty', rule.measure(Page('', empty, splitter('simple')))[1]
    )


def test_no_line_is_left_that_an_edit_takes():
  draw, rule = random.Random(0), dclm.make(max_removed=None)
  pieces = ('A', 'b', 'CD', '12', ' ', ' ', '\n', '\n', '.', ' likes', '\t')
  for _ in range(500):
    text = ''.join(draw.choices(pieces, k=draw.randrange(40)))
    after = rule.measure(Page('', text, splitter('simple')))[0].text
    assert {*map(str.strip, after.split('\n'))} <= {'', *map(str.strip, text.split('\n'))}
    for line in after.split('\n')[1:-1]:  # the outer ones lose white space between edits
      assert line == '' or len(line.split()) > 1
      assert not re.fullmatch(r'\W*\d+\s+likes\W*', line)
      assert len(re.findall('[A-Z]', line)) <= 0.5 * len(line)


def test_odd_input_takes_no_time():
  for part in (
    ' ',
    '1',
    '1,',
    'A',
    '\n',
    'likes ',
    '1 ',
    '. ',
    '\ud800',
    'sign-in ',
    'read more...',
  ):
    dclm.make()(Page('', part * 20_000, str.split))


def test_gopher_as_dclm_reads_it():
  rule = gopher.make(**gopher.PRESETS['dclm'])
  words = ['The', 'THE', *['word'] * 60]
  assert isinstance(rule(Page('', ' '.join(words), str.split)), Page)
  for text, reason in {
    ' '.join(words[1:]): 'gopher_enough_stop_words',
    ' '.join([*words, *['a...'] * 4, *['#'] * 4]): 'gopher_too_many_symbols',
    '\n'.join(f'* {word}' for word in [*words, *['longer'] * 9]): 'gopher_too_many_bullets',
  }.items():
    found = rule(Page('', text.replace('* ', '*'), str.split))
    assert isinstance(found, Drop) and found.reason == reason
