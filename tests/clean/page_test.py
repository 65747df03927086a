"""Limits are strict, the first broken one is the reason, and a dropped page is measured on."""

from llm_jax.clean.page import Drop, Limit, Page, Rule, follow


def _page(text: str) -> Page:
  return Page('http://a', text, str.split)


def _length(low: int, high: int) -> Rule:
  return Rule(
    lambda page: (page, {'words': len(page.words), 'letters': len(page.text)}),
    (Limit('short', 'words', low=low), Limit('long', 'letters', high=high)),
  )


def test_a_value_equal_to_its_limit_is_kept():
  assert _length(2, 3)(_page('a b')) == _page('a b')
  assert _length(3, 3)(_page('a b')) == Drop('short', {'words': 2, 'letters': 3})
  assert _length(2, 2)(_page('a b')) == Drop('long', {'words': 2, 'letters': 3})
  assert _length(3, 2)(_page('a b')) == Drop('short', {'words': 2, 'letters': 3})


def test_words_are_split_once_and_anew_after_an_edit():
  calls = []
  page = Page('', 'a b', lambda text: calls.append(text) or text.split())
  assert page.words == page.edited('a b', language='en').words == ['a', 'b']
  assert page.edited('a b') is page
  assert page.edited('a').words == ['a']
  assert calls == ['a b', 'a']


def test_what_is_dropped_is_measured_on_but_not_given_to_functions():
  seen = []
  steps = [
    ('size', _length(3, 10)),
    ('mine', lambda page: seen.append(page) or page),
    ('cut', Rule(lambda page: (page.edited(page.text[:1]), {'cut': 2}))),
    ('again', _length(1, 0)),
  ]
  fate = follow(steps, _page('a b'))
  assert (fate.step, fate.reason, fate.page.text) == ('size', 'short', 'a')
  assert fate.values == {
    'size.words': 2,
    'size.letters': 3,
    'cut.cut': 2,
    'cut.characters': 1,
    'again.words': 1,
    'again.letters': 1,
  }
  assert not seen
  kept = follow(steps[1:3], _page('a b'))
  assert (kept.step, kept.reason) == ('', '') and seen == [_page('a b')]


def test_a_function_may_drop_with_values_of_its_own():
  fate = follow([('mine', lambda page: Drop('no', {'x': 1}))], _page('a'))
  assert (fate.step, fate.reason, fate.values) == ('mine', 'no', {'mine.x': 1})
