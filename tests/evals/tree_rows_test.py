"""Spans packed as trees: a token sees what stands before it in its own spans, and nothing else."""

import numpy as np
import pytest

from llm_jax.evals import tree_rows
from llm_jax.evals.tree_rows import Span


def spans(seed, count, letters=4, longest=12):
  """Spans of few letters, so that many begin alike."""
  draw = np.random.default_rng(seed)
  made = []
  for owner in range(count):
    ids = draw.integers(1, letters + 1, draw.integers(2, longest))
    made.append(Span(ids.astype(np.int32), int(draw.integers(1, len(ids))), owner))
  return made


def rows_of(made, most, length, counts=(1, 3), begun=0):
  return [
    *tree_rows.batches(
      tree_rows.packed(tree_rows.trees(*tree_rows.ordered(made), begun, most), length),
      counts,
      length,
    )
  ]


def read_by(rows, row, place):
  """The tokens that a place sees, in order."""
  segment, until = rows.segment[row], rows.until[row]
  query = segment[place]
  see = (segment > 0) & (segment <= query) & (query <= until)
  order = np.argsort(rows.position[row][see])
  return rows.tokens[row][see][order].tolist()


@pytest.mark.parametrize('seed', range(6))
def test_every_scored_token_is_predicted_from_all_that_stands_before_it(seed):
  made, found = spans(seed, 30), {}
  for rows in rows_of(made, most=20, length=24):
    for row, place in zip(*np.nonzero(rows.owner >= 0), strict=True):
      owner = int(rows.owner[row, place])
      before = read_by(rows, row, rows.source[row, place])
      found.setdefault(owner, []).append((before, int(rows.target[row, place])))
  for span in made:
    ids = span.ids.tolist()
    wanted = [(ids[:i], ids[i]) for i in range(span.first, len(ids))]
    assert sorted(found[span.owner]) == sorted(wanted)


def test_what_spans_share_stands_once(monkeypatch):
  monkeypatch.setattr(tree_rows, 'MERGE', 1)
  shared = [5, 6, 7, 8]
  made = [Span(np.array([*shared, last, 9]), 4, i) for i, last in enumerate((1, 2, 3))]
  (rows,) = rows_of(made, most=16, length=16, counts=(1,))
  assert (rows.segment > 0).sum() == len(shared) + 3


def test_what_was_read_before_is_not_read_again():
  made = [Span(np.array([5, 6, 7, last, 9]), 3, i) for i, last in enumerate((1, 2))]
  (rows,) = rows_of(made, most=16, length=16, counts=(1,), begun=2)
  there = rows.segment[0] > 0
  assert rows.position[0][there].min() == 2
  assert 5 not in rows.tokens[0][there]


def test_no_row_is_longer_than_it_may_be():
  for rows in rows_of(spans(0, 80), most=24, length=24):
    assert rows.tokens.shape[1] == 24
