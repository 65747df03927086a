"""Simplified texts are those of datatrove's `simplify_text`, which is written out here."""

import random
import re
import unicodedata

from llm_jax.clean.punctuation import SEPARATORS
from llm_jax.clean.simplified import simplified


def _step_by_step(text):
  text = re.sub(r'\d+([.,،٫⎖⎗⎘]\d+)?', '0', text.lower())
  text = re.sub(r'\s+', ' ', ''.join(' ' if c in SEPARATORS else c for c in text).strip())
  text = unicodedata.normalize('NFD', text)
  return ''.join(c for c in text if unicodedata.category(c) != 'Mn').strip()


def test_any_text_is_simplified_as_if_every_step_were_taken_by_itself():
  draw = random.Random(0)
  everything = [chr(c) for c in range(0x3100) if not 0xD800 <= c < 0xE000]
  often = list('aZ0123456789.,.,٫  \n\t-') + ['1.5', '2,000.5', 'İ', 'Σ', 'é', 'e\u0301', '—', '１']
  for characters in (
    everything + 200 * often,
    [chr(c) for c in range(128)] + 3 * often,
    often[:22],
  ):
    for _ in range(700):
      text = ''.join(draw.choices(characters, k=draw.randrange(50)))
      assert simplified(text) == _step_by_step(text), repr(text)


def test_the_published_examples():
  assert simplified('İstanbul’da 1,250 kişi') == 'istanbul da 0 kisi'
  assert simplified('1.2.3, 4٫5 and 1|2') == '0 0 0 and 0 0'
  assert simplified('١٢٣ ๑๒ Ⅻ ²') == '0 0 ⅻ ²'
  assert len(SEPARATORS) == 129 and not {'\t', '\n'} & SEPARATORS
  assert simplified(' \t!?…\x00') == ''
