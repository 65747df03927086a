"""Scores of reading comprehension are the published ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from llm_jax.evals import reading
from llm_jax.evals.counts import f1
from llm_jax.types import BadInput, Counts

KNOWN = json.loads((Path(__file__).parents[1] / 'fixtures' / 'eval_metrics.json').read_text())


@pytest.mark.parametrize('pair', KNOWN['record_squad']['pairs'], ids=lambda pair: pair['said'])
def test_known_pairs(pair):
  assert reading.best(reading.exact, pair['said'], pair['golds']) == pair['exact']
  found = reading.best(reading.token_f1, pair['said'], pair['golds'])
  assert found == pytest.approx(pair['f1'], abs=1e-12)


@pytest.mark.parametrize(
  ('text', 'wanted'),
  [
    ('', ''),
    ('The the A an', ''),
    ('Theatre and  an\tapple', 'theatre and apple'),
    ('a.m.', 'am'),  # punctuation goes before articles
    ('the-end', 'theend'),
    ('“the” end', '“ ” end'),  # only ASCII is punctuation
  ],
)
def test_normalised(text, wanted):
  assert reading.normalised(text) == wanted


def test_words_count_as_often_as_they_occur():
  assert reading.token_f1('no no yes', 'no yes yes') == pytest.approx(2 / 3)
  assert reading.token_f1('yes', 'no') == 0
  first, second = 'two red balls', 'red balls and cats'
  assert reading.token_f1(first, second) == reading.token_f1(second, first)


@pytest.mark.parametrize('golds', [[], 'Paris'])
def test_gold_answers_are_a_list_of_some(golds):
  with pytest.raises(BadInput, match='a list of at least one'):
    reading.best(reading.exact, 'Paris', golds)


def multirc():
  answers = KNOWN['multirc']['answers']
  return (np.array([a[name] for a in answers]) for name in ('pred', 'gold', 'question'))


def test_known_multirc():
  known, (said, gold, questions) = KNOWN['multirc'], multirc()
  sums = reading.multirc(said, gold, questions)
  wanted = [known[name] for name in ('f1a', 'f1m', 'exact_match', 'superglue')]
  computes = [reading.f1a, reading.f1m, reading.exact_match, reading.superglue]
  assert [compute(sums) for compute in computes] == pytest.approx(wanted, abs=1e-12)
  assert np.mean(said == gold) == pytest.approx(known['accuracy'], abs=1e-12)


def test_multirc_in_any_order_and_in_parts():
  said, gold, questions = multirc()
  whole = reading.multirc(said, gold, questions)
  order = np.random.default_rng(0).permutation(len(said))
  assert reading.multirc(said[order], gold[order], questions[order]) == pytest.approx(whole)
  early = questions < 7
  for compute in (reading.f1a, reading.f1m, reading.exact_match, reading.superglue):
    parts = [
      Counts(reading.multirc(said[rows], gold[rows], questions[rows]), compute)
      for rows in (early, ~early)
    ]
    assert (parts[0] + parts[1]).value == pytest.approx(compute(whole), rel=1e-12)


def test_multirc_at_the_edges():
  none = reading.multirc([], [], [])
  assert reading.f1m(none) == reading.exact_match(none) == f1(none) == 0
  nothing_there = reading.multirc([0, 0], [0, 0], ['q', 'q'])
  assert reading.exact_match(nothing_there) == 1 and reading.f1m(nothing_there) == 0
