"""The order of a mixture against the definition, and the shares of every prefix."""

import random
from fractions import Fraction

import pytest

from llm_jax.data.mixture import Mixture
from llm_jax.types import BadInput


def by_definition(sources, weights, length):
  """Sorts row r of each source by (r + 1/2) / weight."""
  places = []
  for name, rows in sources.items():
    weight = Fraction(str(weights[name]))
    count = int(length * weight / sum(Fraction(str(w)) for w in weights.values())) + 9
    places += [((r + Fraction(1, 2)) / weight, name, r % len(rows)) for r in range(count)]
  return [(name, row) for _, name, row in sorted(places)[:length]]


@pytest.mark.parametrize('seed', range(40))
def test_order_is_the_definition_and_a_pass_is_the_shortest_full_one(seed):
  draw = random.Random(seed)
  sources = {f's{i}': range(draw.randint(1, 30)) for i in range(draw.randint(1, 6))}
  weights = {name: draw.choice([0.01, 0.3, 1, 2, 7.5]) for name in sources}
  mixture = Mixture(sources, weights)
  order = [mixture.locate(i) for i in range(len(mixture))]
  assert order == by_definition(sources, weights, len(mixture))
  everything = {(name, row) for name, rows in sources.items() for row in rows}
  assert set(order) == everything
  assert set(order[:-1]) < everything


def test_default_weights_show_every_row_once():
  sources = {'a': range(7), 'b': range(100), 'c': range(1)}
  mixture = Mixture(sources)
  order = [mixture.locate(i) for i in range(len(mixture))]
  assert sorted(order) == [(name, row) for name, rows in sources.items() for row in rows]


def test_every_prefix_has_its_shares():
  weights = {'a': 0.7, 'b': 0.2, 'c': 0.1}
  mixture = Mixture({'a': range(50), 'b': range(500), 'c': range(5)}, weights)
  given = dict.fromkeys(weights, 0)
  for i in range(1, 2001):
    given[mixture.locate(i - 1)[0]] += 1
    for name, weight in weights.items():
      assert abs(given[name] - weight * i) <= 2
    if i % 10 == 0:
      assert given == {name: round(weight * i) for name, weight in weights.items()}


def test_rows_wrap_around_and_stay_in_order():
  mixture = Mixture({'a': 'xyz', 'b': range(9)}, {'a': 2, 'b': 1})
  assert [row for row in mixture if isinstance(row, str)][:7] == list('xyzxyzx')
  assert [row for row in mixture if not isinstance(row, str)] == list(range(9))


def test_weight_zero_leaves_a_source_out():
  mixture = Mixture({'a': range(3), 'b': []}, {'a': 1, 'b': 0})
  assert list(mixture) == [0, 1, 2]


def test_huge_sources_are_located_directly():
  mixture = Mixture({'a': range(10**12), 'b': range(3 * 10**12 + 1)})
  assert len(mixture) == 4 * 10**12 + 1
  assert mixture.locate(len(mixture) - 1) == ('b', 3 * 10**12)


def test_index_outside_is_an_index_error():
  mixture = Mixture({'a': range(3)})
  for index in (-1, 3):
    with pytest.raises(IndexError):
      mixture[index]


def test_repr_is_stable():
  mixture = Mixture({'b': range(2), 'a': range(6)}, {'a': 0.5, 'b': 1.5})
  assert repr(mixture) == 'Mixture(a: 0.25 of range(0, 6), b: 0.75 of range(0, 2))'


@pytest.mark.parametrize(
  'weights, message',
  [
    ({'a': 1, 'bb': 1}, "no source 'bb'; did you mean 'b'"),
    ({'a': 1}, "source 'b' has none"),
    ({'a': -1, 'b': 1}, 'a has -1'),
    ({'a': float('nan'), 'b': 1}, 'a has nan'),
    ({'a': 0, 'b': 0}, 'every source has weight 0'),
    ({'a': 1, 'b': 1}, "source 'b' has no rows"),
  ],
)
def test_bad_weights(weights, message):
  with pytest.raises(BadInput, match=message):
    Mixture({'a': range(3), 'b': []}, weights)
