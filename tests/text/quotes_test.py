"""Quotes: nothing that was not said can be quoted, and everything that was said can be."""

import random
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llm_jax.text.quotes import Passage, Quotable, Quotes
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.text.tokenizer_json import TokenizerJson

TEXTS = [
  "f(path, *, max='é')\nRemove a file.  If it's a\nfolder, do not; it fails.\n\nSee also: \"rm\".",
  'No page has this name',
  'a a  a\ta b. a a! (a)',
  '',
]


@pytest.fixture(scope='module')
def tokenizers():
  folder = Path(__file__).parents[1] / 'fixtures' / 'tokenizers'
  files = sorted(folder.glob('**/tokenizer.json'))
  assert files
  both = [TokenizerJson.load(path.parent) for path in files[:2]]
  return [Tokenizer.train([*TEXTS[:3], 'it says "a" "'] * 20, vocab_size=330), *both]


def whole(passage):
  """All texts of whole words, or of whole sentences, that stand in a passage, by brute force."""
  if passage.whole == 'sentences':
    joined = re.sub(r'(?<=\S)\n(?=[a-zé])', ' ', passage.text)
    lines = [part for line in joined.split('\n') for part in re.split(r'(?<=[.!])\s', line)]
    parts = [' '.join(part.split()) for part in lines if part.strip()]
    many = range(len(parts))
    return {' '.join(parts[i : j + 1]) for i in many for j in many[i:]}
  text = ' '.join(passage.text.split())
  letter = lambda i: 0 <= i < len(text) and (text[i].isalnum() or text[i] == '_')
  apostrophe = lambda i: 0 <= i < len(text) and text[i] == "'" and letter(i - 1) and letter(i + 1)
  in_word = lambda i: letter(i) or apostrophe(i)
  begins = lambda i: (
    text[i] != ' ' and (i == 0 or text[i - 1] == ' ' or (in_word(i) and not in_word(i - 1)))
  )
  ends = lambda j: text[j - 1] != ' ' and not in_word(j)
  many = range(len(text))
  return {text[i : j + 1] for i in many for j in many[i:] if begins(i) and ends(j + 1)}


@pytest.mark.parametrize('kind', ['words', 'sentences'])
@pytest.mark.parametrize('text', TEXTS[:3])
def test_whole_parts_of_a_text_can_be_quoted_and_nothing_else(text, kind):
  source = Quotable([Passage(text, kind)])
  may = lambda said: source.after(source.begin, f'so "{said}",'.encode()) is not None
  joined = ' '.join(text.split())
  there = whole(Passage(text, kind))
  parts = {joined[i:j] for i in range(len(joined)) for j in range(i + 1, len(joined) + 1)}
  parts = {part for part in parts if '"' not in part}
  there = {part for part in there if '"' not in part}
  assert {part for part in parts if may(part)} == there
  assert not any(may(part[:-1] + 'ø') or may('ø' + part) for part in there)


def test_a_quote_stands_in_one_text():
  source = Quotable([Passage('a cat'), Passage('sat', 'sentences')])
  may = lambda said: source.after(source.begin, said.encode()) is not None
  assert may('"a cat" "sat" "cat"')
  assert not any(map(may, ['"a cat sat"', '"a cat\0sat"', '"sat "', '""', '"at']))


def test_a_mark_in_a_text_is_said_or_ends_the_quote():
  source = Quotable([Passage('He said "no" to it')])
  may = lambda said: source.after(source.begin, said.encode()) is not None
  assert may('"He said "no" to it", and') and may('"said" and anything') and may('"He said "no"')
  assert not may('"He said "yes')


def test_random_tokens_never_quote_what_is_not_there(tokenizers):
  """Tokens drawn from what is allowed, those with marks more often: every quote is a true one."""
  for tokenizer in tokenizers:
    quotes, draw = Quotes(tokenizer, tokenizer.vocab_size + 3), random.Random(0)
    marked = np.array([b'"' in said for said in quotes.bytes] + [False] * 3)
    quoted = 0
    for seed in range(60):
      passages = [Passage(TEXTS[seed % 3].replace('"', ''), draw.choice(['words', 'sentences']))]
      held, said = quotes.hold(passages), b''
      for _ in range(60):
        mask_V = held.mask()
        assert mask_V.shape == (tokenizer.vocab_size + 3,)
        ids = np.flatnonzero(mask_V & marked if (mask_V & marked).any() else mask_V)
        ids = ids[ids < tokenizer.vocab_size]
        if draw.random() < 0.3:
          ids = np.flatnonzero(mask_V[: tokenizer.vocab_size])
        held.advance(token := int(draw.choice(ids)))
        said += quotes.bytes[token]
      finished = said.decode(errors='replace').split('"')[1:-1:2]
      for quote in finished:
        assert any(quote in whole(passage) for passage in passages), (quote, passages)
      quoted += len(finished)
    assert quoted > 100


def test_what_is_true_is_never_forbidden(tokenizers):
  """A text with true quotes, however it is cut into tokens, passes every mask."""
  for tokenizer in tokenizers:
    quotes = Quotes(tokenizer)
    for text in TEXTS[:3]:
      text = text.replace('"', '')
      for quote in [*sorted(whole(Passage(text)))[::17], ' '.join(text.split())]:
        said = f'It is "{quote}", so "{quote}" it is'
        for ids in (tokenizer.encode(said), [i for c in said for i in tokenizer.encode(c)]):
          if b''.join(quotes.bytes[i] for i in ids).decode(errors='replace').strip() != said:
            continue  # alone, some characters get a blank before them
          held = quotes.hold([Passage(text)])
          for token in [*ids, tokenizer.eos_id]:
            assert held.mask()[token], (said, tokenizer.bytes_of(token))
            held.advance(token)


def test_no_answer_ends_inside_of_a_quote(tokenizers):
  for tokenizer in tokenizers:
    held = Quotes(tokenizer).hold([Passage(TEXTS[0])])
    assert held.mask()[tokenizer.eos_id]
    for token in tokenizer.encode('"Remove'):
      held.advance(token)
    assert not held.mask()[tokenizer.eos_id]


def test_of_nothing_nothing_can_be_quoted(tokenizers):
  for tokenizer in tokenizers:
    mask_V = Quotes(tokenizer).hold([Passage('')]).mask()
    marks = [i for i in range(tokenizer.vocab_size) if b'"' in tokenizer.bytes_of(i)]
    assert marks and not mask_V[marks].any() and mask_V.sum() == len(mask_V) - len(marks)


def test_what_no_token_spells_sets_free():
  """A tokenizer without a token for a byte: the answer goes on, and the sampler with it."""
  texts = [b'', b'"', b'a']
  tokenizer = SimpleNamespace(
    vocab_size=3, token_bytes=np.array([0, 1, 1]), bytes_of=lambda i: texts[i]
  )
  held = Quotes(tokenizer).hold([Passage('ab')])
  for token in (1, 2):
    assert held.mask()[token]
    held.advance(token)
  assert held.mask() is None
  held.advance(0)
  assert held.mask() is None
