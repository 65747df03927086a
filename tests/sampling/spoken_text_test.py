"""Text from ids: nothing is lost, nothing of a stop string is shown, however ids are grouped."""

import json
from pathlib import Path

import numpy as np
import pytest

from llm_jax.sampling.spoken_text import Spoken
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

HARD = json.loads((Path(__file__).parents[1] / 'fixtures' / 'strings_spoken.json').read_text())


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer.train(['the cat sat on a mat', 'naïve 猫 🐈'] * 20, vocab_size=300)


def said(tokenizer, ids, draw=None, **how):
  """All that is shown of ids that come one by one, or in groups of random sizes."""
  spoken, parts, at = Spoken(tokenizer, **how), [], 0
  while at < len(ids):
    size = 1 if draw is None else int(draw.integers(1, 6))
    parts.append(spoken.push(ids[at : at + size]))
    at += size
  return [*parts, spoken.flush()], spoken.stopped


@pytest.mark.parametrize('text', HARD, ids=ascii)
def test_parts_joined_are_the_text(tokenizer, text):
  ids = tokenizer.encode(text)
  parts, stopped = said(tokenizer, ids)
  assert ''.join(parts) == text and not stopped
  for part in parts[:-1]:  # characters come whole
    assert '\ufffd' not in part or '\ufffd' in text


def test_any_ids_at_all_joined_are_their_text(tokenizer):
  draw = np.random.default_rng(0)
  for size in (1, 3, 8, 40, 200):
    for _ in range(20):
      ids = draw.integers(0, tokenizer.vocab_size, size).tolist()
      low = draw.integers(0, 275, size).tolist()  # control tokens and single bytes, mostly no UTF-8
      for some in (ids, low):
        for specials in (False, True):
          parts, _ = said(tokenizer, some, draw, specials=specials)
          assert ''.join(parts) == tokenizer.decode(some, specials=specials)


def test_at_most_one_character_is_held_back(tokenizer):
  spoken, text = Spoken(tokenizer), 'a猫🐈b'
  shown = ''
  for i, token in enumerate(ids := tokenizer.encode(text) * 30):
    shown += spoken.push([token])
    whole = tokenizer.decode(ids[: i + 1]).rstrip('\ufffd')
    assert shown == whole


def expected(text, stops):
  """The text before the stop string that is complete first, by looking at each beginning."""
  for end in range(len(text) + 1):
    if hits := [s for s in stops if text[:end].endswith(s)]:
      return text[: end - max(map(len, hits))], True
  return text, False


def test_stop_strings_of_all_kinds(tokenizer):
  draw = np.random.default_rng(1)
  letters = list('ab猫\n')
  word = lambda most: ''.join(draw.choice(letters, draw.integers(1, most)))
  stopped = 0
  for _ in range(400):
    text, stops = word(25), [word(5) for _ in range(draw.integers(1, 4))]
    want = expected(text, stops)
    stopped += want[1]
    for groups in (None, draw):
      parts, ended = said(tokenizer, tokenizer.encode(text), groups, stop_strings=stops)
      assert (''.join(parts), ended) == want, (text, stops)
  assert 100 < stopped < 400


def test_what_begins_a_stop_string_is_shown_once_it_does_not(tokenizer):
  spoken = Spoken(tokenizer, ['abab!'])
  shown = [spoken.push(tokenizer.encode(c)) for c in 'ababab?']
  assert shown == ['', '', '', '', '', 'ab', 'abab?'] or ''.join(shown) == 'ababab?'
  assert shown[:5] == [''] * 4 + ['ab']
  assert spoken.flush() == ''


def test_a_stop_id_ends_the_text_and_what_was_held_is_shown(tokenizer):
  spoken = Spoken(tokenizer, ['the end'], [tokenizer.eos_id])
  ids = [*tokenizer.encode('at the e'), tokenizer.eos_id, *tokenizer.encode('nd')]
  assert spoken.push(ids) == 'at the e' and spoken.stopped
  assert spoken.push(tokenizer.encode('more')) == '' == spoken.flush()


def test_half_a_character_at_the_end_is_not_lost(tokenizer):
  spoken = Spoken(tokenizer)
  first = tokenizer.encode('𐍈')[:2]
  assert spoken.push(first) == ''
  assert spoken.flush() == tokenizer.decode(first) == '\ufffd'


def test_an_empty_stop_string_is_refused(tokenizer):
  with pytest.raises(BadInput, match='empty stop string'):
    Spoken(tokenizer, ['a', ''])
