"""Pages that meet key by key, in any order, are found to be what all pages together say."""

import functools
import itertools
import random

import numpy as np
import pytest

from llm_jax.clean import exact, minhash, overlap, same_url
from llm_jax.clean.page import Page, Signatures

WORDS = [a + b + c for a in 'bdfgklmnprstvz' for b in 'aeiou' for c in 'bdklmnrst']


def by_key(step, signed, read, draw):
  """What `join` is to find, from a group of pages for each key, and a bag of links."""
  groups = {}
  for position, signature in draw.sample([*signed.items()], len(signed)):
    for key, part in step.keys(signature):
      assert part.dtype == np.uint64 and len(part) == 1
      groups.setdefault(key, {})[position] = part
  links = [
    link
    for group in groups.values()
    if len(group) > 1
    for link in step.linked(Signatures.of(group), read).tolist()
  ]
  links += links[:3]
  draw.shuffle(links)
  return dict(step.united(np.array(links, np.int64).reshape(-1, 3)))


@functools.cache
def pages(seed, count, near):
  """Position -> page: invented ones, copies, and pages that differ from another in some words."""
  draw = random.Random(seed)
  found, texts = {}, []
  for position in sorted(draw.sample(range(10 * count), count)):
    words = draw.choices(WORDS, k=60)
    if texts and draw.random() < near:
      words = draw.choice(texts).copy()
      for _ in range(draw.choice((0, 0, 1, 2, 3, 6))):
        words[draw.randrange(len(words))] = draw.choice(WORDS)
    texts.append(words)
    url = f'http://a.com/{draw.randrange(count)}' if draw.random() < 0.9 else ''
    meta = {'date': draw.randrange(5), 'cluster_size': draw.randrange(1, 4)}
    found[position] = Page(url, ' '.join(words) * (draw.random() < 0.98), str.split, meta=meta)
  return found


STEPS = {
  'exact': exact.make(),
  'minhash, every band': minhash.make(bands=8, rows=4, jaccard=0),
  'minhash, verified': minhash.make(bands=8, rows=4, jaccard=0.6),
  'same_url': same_url.make(),
  'same_url, newest': same_url.make(keep='newest'),
}


@pytest.mark.parametrize('name', STEPS)
def test_key_by_key_is_what_all_pages_together_say(name):
  step = STEPS[name]
  for seed in range(4):
    mine = pages(seed, 120, near=0.7)
    read = lambda positions, mine=mine: (mine[position] for position in positions)
    signed = {position: step.sign(page) for position, page in mine.items()}
    wanted = dict(step.join(Signatures.of(signed), read))
    assert len(wanted) > 20
    assert by_key(step, signed, read, random.Random(seed)) == wanted


def test_of_a_key_with_very_many_pages_the_same_are_compared(monkeypatch):
  """Beyond `CENTRES` pages of a key not all pairs are compared, but always the same."""
  monkeypatch.setattr(overlap, 'CENTRES', 2)
  step = minhash.make(bands=4, rows=1, jaccard=0.5)
  for seed in range(4):
    mine = pages(seed, 120, near=0.9)
    read = lambda positions, mine=mine: (mine[position] for position in positions)
    signed = {position: step.sign(page) for position, page in mine.items()}
    wanted = dict(step.join(Signatures.of(signed), read))
    clusters = itertools.groupby(sorted(said['cluster'] for said in wanted.values()))
    assert len([*clusters]) > 1
    assert by_key(step, signed, read, random.Random(seed)) == wanted


def test_nothing_comes_of_nothing():
  for step in STEPS.values():
    empty = step.linked(Signatures.of({3: step.sign(Page('', '', str.split))}), iter)
    assert empty.shape == (0, 3) and not dict(step.united(empty))
