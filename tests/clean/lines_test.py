"""Lines on several pages go from all but the first, and the pages keep what is their own."""

import hashlib
import random

import pytest

from llm_jax.clean import lines
from llm_jax.clean.page import Drop, Page, Signatures
from llm_jax.types import BadInput


def _page(text):
  return Page('', text, str.split)


def _cleaned(step, texts):
  """The text left at each position, or the drop."""
  signed = {at: step.sign(_page(text)) for at, text in texts.items()}
  found = step.join(Signatures.of(signed), lambda positions: iter(()))
  left = {at: step.apply(_page(texts[at]), said) for at, said in found.items()}
  return {at: page if isinstance(page, Drop) else page.text for at, page in left.items()}


def _plain(texts, keep, min_pages, min_length):
  """The same by dictionaries, without breaks or shares."""
  pages = {}
  for at in sorted(texts):
    for line in {lines.normalized(line) for line in texts[at].split('\n')}:
      pages.setdefault(line, []).append(at)
  goes = lambda line, at: (
    len(line) >= max(min_length, 1) and len(pages[line]) >= min_pages and at in pages[line][keep:]
  )
  left = {
    at: '\n'.join(x for x in text.split('\n') if not goes(lines.normalized(x), at)).strip()
    for at, text in texts.items()
  }
  return {at: text for at, text in left.items() if text != texts[at].strip()}


def _any(**options):
  return lines.make(**{'min_characters': 1, 'min_share': 0, 'min_length': 0} | options)


@pytest.mark.parametrize('together', [7, 2**22])
def test_any_pages_are_left_with_what_dictionaries_leave(together, monkeypatch):
  monkeypatch.setattr(lines, 'TOGETHER', together)
  draw = random.Random(0)
  for _ in range(40):
    pool = [f'line {chr(97 + i)}{"!" * draw.randrange(3)}' for i in range(9)] + [
      '',
      '...',
      'é 1',
      'é 2',
    ]
    texts = {
      at: f'own {at * "o"}\n' + '\n'.join(draw.choices(pool, k=draw.randrange(6)))
      for at in draw.sample(range(40), 12)
    }
    keep, min_pages, length = draw.randrange(3), draw.randrange(2, 5), draw.choice([0, 4, 7])
    step = _any(keep=keep, min_pages=min_pages, min_length=length)
    want = _plain(texts, keep, min_pages, length)
    assert _cleaned(step, texts) == want
    assert _cleaned(step, dict(draw.sample([*texts.items()], 12))) == want


def test_normal_forms_and_their_hashes():
  assert lines.normalized('\t Straße Nr. 12 – «Café»! ') == 'straße nr 00  café'
  assert lines.normalized('a,b’c\x07 12%', 'cc_net') == 'a,bc 00%'
  step = lines.make(marks='cc_net', min_length=0)
  text = 'Hello, World! 12 “q”\n\n  Ünï\x00code…'
  digests = [hashlib.sha1(x.encode()).digest() for x in ('hello, world! 00 q', 'ünïcode')]
  assert step.sign(_page(text)).tolist() == [int.from_bytes(x[:8], 'little') for x in digests]


def test_paragraphs_are_removed_with_the_break_behind_them():
  step = _any(unit='paragraph')
  shared = 'A notice\nof two lines.'
  texts = {
    1: f'{shared}\n\nfirst',
    4: f'a\nb\n \n{shared}\n\n\nc',
    5: f'd\n\n{shared}',
    6: 'A notice',
  }
  assert _cleaned(step, texts) == {4: 'a\nb\n \nc', 5: 'd'}


def test_pages_with_little_left_are_dropped_with_numbers():
  menu = 'Home | Products | About us | Contact us'
  texts = {0: menu, 1: f'{menu}\nshort', 2: menu, 3: f'{menu}\n{"long enough " * 30}'}
  left = _cleaned(lines.make(), texts)
  assert left[1] == Drop('little_left', {'characters': 5, 'share': 5 / 45})
  assert left[2] == Drop('little_left', {'characters': 0, 'share': 0})
  assert left[3] == ('long enough ' * 30).strip() and [*left] == [1, 2, 3]
  assert isinstance(_cleaned(lines.make(min_share=1), texts)[3], Drop)
  assert not _cleaned(lines.make(min_length=len(menu)), texts)  # its marks do not count
  assert dict(lines.make().join(Signatures.of({}), iter)) == {}
  with pytest.raises(BadInput, match=r'clean.lines: min_pages 1; choose a whole number from 2'):
    lines.make(min_pages=1)
