"""Letters and counts by hand, and by Python's own."""

import pytest

from llm_jax.tools import spell


@pytest.mark.parametrize(
  ('call', 'wanted'),
  [
    ('strawberry', '10 letters: s t r a w b e r r y'),
    ('`r` in `strawberry`', '3'),
    ("'R' in Strawberry", '3'),
    ('an in banana', '2'),
    (' a ', '1 letters: a'),
    ('x in y in `xx`', '0'),  # 'x in y' does not occur in it
    ('größe', '5 letters: g r ö ß e'),
  ],
)
def test_the_result(call, wanted):
  assert spell.make()(call) == wanted


@pytest.mark.parametrize('call', ['', '``', ' in ', 'a in ', ' in b', 'x' * 300])
def test_a_call_without_a_word_is_malformed(call):
  with pytest.raises(ValueError, match='spell: give a word, or x in a word, of up to 200'):
    spell.make()(call)
