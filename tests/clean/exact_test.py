"""The first of equal texts stays, and what is short or empty is no copy of what differs from it."""

import json
import lzma
import random
from pathlib import Path

import pytest

from llm_jax.clean import exact
from llm_jax.clean.page import Drop, Page, Signatures
from llm_jax.types import BadInput

FIXTURE = Path(__file__).parents[1] / 'fixtures' / 'near_duplicates.json.xz'


def _page(text, **meta):
  return Page('', text, str.split, meta=meta)


def _found(step, texts):
  signed = {position: step.sign(_page(text)) for position, text in texts.items()}
  return dict(step.join(Signatures.of(signed), lambda positions: iter(())))


def test_copies_among_real_files():
  rows = json.loads(lzma.decompress(FIXTURE.read_bytes()))['licences']
  texts = {at: row['text'] for at, row in enumerate(rows)}
  found = _found(exact.make(text='raw'), texts)
  first = {text: at for at, text in reversed(texts.items())}
  copies = [text for text in texts.values() if [*texts.values()].count(text) > 1]
  assert len(found) == len(copies) and sum(not said['kept'] for said in found.values()) == 105
  for at, said in found.items():
    assert said['cluster'] == first[texts[at]] and said['size'] == copies.count(texts[at])
  assert sum(not said['kept'] for said in _found(exact.make(), texts).values()) == 129


def test_positions_decide_and_nothing_else():
  draw = random.Random(0)
  texts = {at: f'the text of number {"abcde"[draw.randrange(5)]}' for at in range(0, 300, 7)}
  found = _found(exact.make(), texts)
  shuffled = dict(draw.sample([*texts.items()], len(texts)))
  assert found == _found(exact.make(), shuffled)
  for at, said in found.items():
    same = [other for other, text in texts.items() if text == texts[at]]
    assert said == {'cluster': same[0], 'size': len(same), 'kept': at == same[0]}


def test_little_text_is_compared_as_it_is():
  texts = dict(enumerate(['3 %', '7 %', '!', '?', '', '', ' ', 'Yes.', 'yes', '3 %', 'No.', 'No.']))
  assert {at: said['kept'] for at, said in _found(exact.make(), texts).items()} == {
    0: True, 9: False, 10: True, 11: False,
  }  # fmt: skip
  assert [*_found(exact.make(min_words=1), texts)] == [0, 1, 7, 8, 9, 10, 11]
  long = {1: 'Café prices rose 3.5 % in 2024.', 2: 'cafe PRICES rose 4% in\n2025'}
  assert [*_found(exact.make(), long)] == [1, 2] and not _found(exact.make(text='raw'), long)
  # A raw text is no copy of one that is the same once it is simplified.
  assert not _found(exact.make(min_words=3), {1: 'one two', 2: 'one two three'})


def test_the_page_that_stays_and_the_ones_that_go():
  step = exact.make()
  found = _found(step, {2: 'a b c d e', 6: 'a b c d e', 7: 'a b, c d e'})
  assert step.apply(_page('a b c d e', id=1), found[2]).meta == {
    'id': 1, 'cluster': 2, 'cluster_size': 3,
  }  # fmt: skip
  assert step.apply(_page(''), found[7]) == Drop('duplicate', {'cluster': 2, 'cluster_size': 3})
  assert dict(step.join(Signatures.of({}), iter)) == {}
  assert step.sign(_page('\ud800 a')).shape == (1, 3)
  with pytest.raises(BadInput, match=r"clean.exact: text 'row'; did you mean 'raw'\?"):
    exact.make(text='row')
