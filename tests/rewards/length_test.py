"""Lengths by hand."""

import pytest

from llm_jax.find import bind
from llm_jax.rewards.length import reward
from llm_jax.types import BadInput


@pytest.mark.parametrize(
  ('words', 'options', 'wanted'),
  [
    (0, {}, 1),
    (200, {}, 1),
    (250, {}, 0.5),
    (300, {}, 0),
    (1000, {}, 0),
    (10, {'limit': 10, 'buffer': 4}, 1),
    (11, {'limit': 10, 'buffer': 4}, 0.75),
    (14, {'limit': 10, 'buffer': 4}, 0),
    (10, {'limit': 10, 'buffer': 0}, 1),
    (11, {'limit': 10, 'buffer': 0}, 0),
    (5, {'limit': 10, 'buffer': 10, 'unit': 'characters'}, 1),  # 'a a a a a ' has 10
    (8, {'limit': 10, 'buffer': 10, 'unit': 'characters'}, 0.4),
  ],
)
def test_the_value(words, options, wanted):
  value = reward('a ' * words, 'any gold', **options)
  assert isinstance(value, float) and value == pytest.approx(wanted)


def test_a_longer_answer_is_never_worth_more():
  values = [reward('a ' * n, limit=7, buffer=5) for n in range(20)]
  assert values == sorted(values, reverse=True)
  assert min(values) == 0 and max(values) == 1


def test_options_that_cannot_be_used():
  with pytest.raises(BadInput, match="unit 'tokens'; choose from: words, characters"):
    bind(reward, {'unit': 'tokens'}, where='length')
  with pytest.raises(BadInput, match='buffer -1; choose a whole number from 0'):
    bind(reward, {'buffer': -1}, where='length')
