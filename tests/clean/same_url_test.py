"""Of the pages of one URL the same one stays, however they were spelled, dated and signed."""

import datetime
import random

import pytest

from llm_jax.clean import same_url
from llm_jax.clean.page import Drop, Page, Signatures


def run(step, pages, positions=None):
  """Position -> position of the page that is kept instead."""
  positions = positions or range(len(pages))
  signed = {p: step.sign(page) for p, page in zip(positions, pages)}
  found = step.join(Signatures.of(signed), lambda positions: iter(()))
  for position, kept in found.items():
    drop = step.apply(pages[list(positions).index(position)], found[position])
    assert drop == Drop('same_url', {'kept': kept})
  return found


def page(url, **meta):
  return Page(url, 'text', str.split, meta=meta)


def test_the_first_page_of_a_url_stays():
  urls = ['http://a.com/x/', 'http://b.com', '', 'https://www.a.com/x?utm_source=1', 'nothing', '']
  assert run(same_url.make(), [page(url) for url in urls]) == {3: 0}
  assert run(same_url.make(), [page(url) for url in urls], [2, 3, 5, 9, 11, 12]) == {9: 2}
  assert run(same_url.make(), []) == {}
  assert run(same_url.make(), [page('')]) == {}


@pytest.mark.parametrize('keep', ['first', 'newest'])
def test_any_pages(keep):
  rng = random.Random(keep)
  for _ in range(30):
    pages = [
      page(f'http://{rng.choice("abc")}.com', date=f'20{rng.randrange(10, 13)}-01-01')
      for _ in range(rng.randrange(12))
    ]
    groups = {}
    for position, one in enumerate(pages):
      groups.setdefault(one.url, []).append(position)
    wanted = {}
    for group in groups.values():
      dated = [(pages[position].meta['date'], -position) for position in group]
      best = group[0] if keep == 'first' else -max(dated)[1]
      wanted |= {position: best for position in group if position != best}
    assert run(same_url.make(keep=keep), pages) == wanted


def test_dates_as_they_come():
  first = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
  dates = ['2024-01-01T00:00:00Z', first, first.timestamp(), '2024-01-01', '2024-01-01T01:00+01:00']
  step = same_url.make(keep='newest')
  assert len({int(step.sign(page('http://a', date=date))[0, 2]) for date in dates}) == 1
  none = [None, 'soon', '', [], {}, float('nan'), 1e300, -(10**400), True, b'2024', '\ud800']
  pages = [page('http://a', date=date) for date in none if date is not True] + [page('http://a')]
  assert {int(step.sign(one)[0, 2]) for one in pages} == {0}
  assert run(step, [*pages, page('http://a', date='1850-02-03')]) == dict.fromkeys(
    range(len(pages)), len(pages)
  )
  other = same_url.make(keep='newest', date='seen')
  assert run(other, [page('http://a', seen='2020'), page('http://a', seen='2024-01-01')]) == {0: 1}
