"""Quotes: nothing that was not said can be quoted, and everything that was said can be."""

import random
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llm_jax.text.quotes import Passage, Quotable, Quotes
from llm_jax.text.templates import MARKS
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.text.tokenizer_json import TokenizerJson

TEXTS = [
  "f(path, *, max='é')\nRemove a file.  If it's a\nFolder, do not; it fails.\n\nSee also: \"rm\".",
  'No page has this name',
  'a a  a\ta b. a-a! (a)  "a b". a, b " a.',
  'wait(s=0.5)\nWait -2 or 1,000 s, e.g. three. It "ends".\nA 2nd line.',
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
  found = set()
  for paragraph in passage.text.split('\n\n'):
    found |= whole_sentences(paragraph) if passage.unit == 'sentences' else whole_words(paragraph)
  return found


def paired(text, i):
  return text[:i].count('"') % 2 == 0


def whole_sentences(paragraph):
  title, line, *others = [*paragraph.split('\n'), '']
  text = ' '.join(' '.join([line, *others]).split())
  parts = [title, *re.split(r'(?<=[.!"])(?<!e\.g\.)(?<!also: "rm".) (?=[^a-z])', text)]
  parts = [part for part in (' '.join(part.split()) for part in parts) if part]
  if '\n' not in paragraph:
    parts = re.split(r'(?<=[.!]) (?=[^a-z])', ' '.join(title.split()))
  many = range(len(parts))
  return {
    ' '.join(parts[i : j + 1])
    for i in many
    for j in many[i:]
    if paired(' '.join(parts[:i]), None) and paired(' '.join(parts[: j + 1]), None)
  }


def whole_words(paragraph):
  text = ' '.join(paragraph.split())
  letter = lambda i: 0 <= i < len(text) and (text[i].isalnum() or text[i] == '_')
  digit = lambda i: 0 <= i < len(text) and text[i].isdigit()
  sign = lambda i: (
    text[i] == '-' and digit(i + 1) and not (i and (letter(i - 1) or text[i - 1] == '-'))
  )
  joint = lambda i: (
    (text[i] in "'-" and letter(i - 1) and letter(i + 1))
    or (text[i] in '.,' and digit(i - 1) and digit(i + 1))
  )
  in_word = lambda i: 0 <= i < len(text) and (letter(i) or joint(i) or sign(i))
  begins = lambda i: (
    text[i] != ' ' and (i == 0 or text[i - 1] == ' ' or (in_word(i) and not in_word(i - 1)))
  )
  ends = lambda j: text[j - 1] != ' ' and not in_word(j)
  many = range(len(text))
  return {
    text[i : j + 1]
    for i in many
    for j in many[i:]
    if begins(i) and ends(j + 1) and paired(text, i) and paired(text, j + 1)
  }


@pytest.mark.parametrize('kind', ['words', 'sentences'])
@pytest.mark.parametrize('text', TEXTS[:4])
def test_whole_parts_of_a_text_can_be_quoted_and_nothing_else(text, kind):
  source = Quotable([Passage(text, kind)])
  may = lambda said: source.after(source.begin, f'so "{said}",'.encode()) is not None
  joined = ' '.join(text.split())
  there = whole(Passage(text, kind))
  parts = {joined[i:j] for i in range(len(joined)) for j in range(i + 1, len(joined) + 1)}
  assert {part for part in parts if may(part)} == there
  assert not any(may(part[:-1] + 'ø') or may('ø' + part) for part in there)


def test_a_quote_stands_in_one_text():
  source = Quotable([Passage('a cat'), Passage('sat', 'sentences')])
  may = lambda said: source.after(source.begin, said.encode()) is not None
  assert may('"a cat" "sat" "cat"')
  assert not any(map(may, ['"a cat sat"', '"a cat\0sat"', '"sat "', '""', '"at']))


def test_marks_in_a_text_are_quoted_in_pairs():
  source = Quotable([Passage('He said "no" to it')])
  may = lambda said: source.after(source.begin, said.encode()) is not None
  assert may('"He said "no" to it", and') and may('"said" and anything') and may('"He said "no""')
  assert not may('"He said "yes') and not may('"no" to')
  # By pairs of marks, what stands between the second and the third would be a quote too.
  assert not may('"He said "no" and then he admitted all of it to "it".')


@pytest.mark.parametrize('unit, left', [('words', 'It may not be'), ('sentences', None)])
def test_what_is_cut_off_is_not_quoted(unit, left):
  source = Quotable([Passage('f()\nIt may not be re', unit, cut=True)])
  may = lambda said: source.after(source.begin, said.encode()) is not None
  assert may('"f()"') and not may('"It may not be re"')
  assert not left or may(f'"{left}"')


@pytest.mark.parametrize(
  'text, wrong',
  [
    ('It waits 0.5 s', 'It waits 0'),
    ('It waits 1,000 s', '000 s'),
    ('It gives -5', '5'),
    ('a non-empty list', 'empty list'),
    ("the caller's file", 'the caller'),
  ],
)
def test_no_part_of_a_number_or_a_word_is_quoted(text, wrong):
  source = Quotable([Passage(text)])
  assert source.after(source.begin, f'"{wrong}"'.encode()) is None
  assert source.after(source.begin, f'"{text}"'.encode()) is not None


def test_what_was_forbidden_is_no_sentence():
  text = 'add(x)\nIt is an error to pass\nNone or an empty list.'
  source = Quotable([Passage(text, 'sentences')])
  assert source.after(source.begin, b'"None or an empty list."') is None


def test_random_tokens_never_quote_what_is_not_there(tokenizers):
  """Tokens drawn from what is allowed, those with marks more often: every quote is a true one."""
  for tokenizer in tokenizers:
    quotes, draw = Quotes(tokenizer, tokenizer.vocab_size + 3), random.Random(0)
    marked = np.array([b'"' in said for said in quotes.bytes] + [False] * 3)
    quoted = 0
    for seed in range(60):
      passages = [Passage(TEXTS[seed % 4], draw.choice(['words', 'sentences']))]
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
      finished = said.decode(errors='replace').split('"')[1:-1:2]  # by pairs of marks
      joined = ' '.join(TEXTS[seed % 4].split())
      for quote in finished:
        assert quote in joined, (quote, passages)
        assert '"' in joined or quote in whole(passages[0]), (quote, passages)
      quoted += len(finished)
    assert quoted > 100


def test_what_is_true_is_never_forbidden(tokenizers):
  """A text with true quotes, however it is cut into tokens, passes every mask."""
  for tokenizer in tokenizers:
    quotes, passed = Quotes(tokenizer), 0
    for text in TEXTS[:4]:
      for quote in sorted(whole(Passage(text)))[::17]:
        said = f'It is "{quote}", so "{quote}" it is'
        for ids in (tokenizer.encode(said), [i for c in said for i in tokenizer.encode(c)]):
          if b''.join(quotes.bytes[i] for i in ids).decode(errors='replace').strip() != said:
            continue  # alone, some characters get a blank before them
          held = quotes.hold([Passage(text)])
          for token in [*ids, tokenizer.eos_id]:
            assert held.mask()[token], (said, tokenizer.bytes_of(token))
            held.advance(token)
          passed += 1
    assert passed > 20


def test_calls_are_not_held(tokenizers):
  tokenizer = tokenizers[0]
  start, end = (tokenizer.special(name) for name in MARKS['search'])
  held = Quotes(tokenizer, call=(start, end)).hold([Passage('a cat')])
  for token in [*tokenizer.encode('so '), start, *tokenizer.encode('{"name": "sat"}'), end]:
    mask_V = held.mask()
    assert mask_V is None or mask_V[token]
    held.advance(token)
  for token in tokenizer.encode('"sat'):
    said = held.mask()[token]
    if said:
      held.advance(token)
  assert not said


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
