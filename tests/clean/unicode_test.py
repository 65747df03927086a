"""Text in one spelling, and text that was read in a wrong charset, mended."""

import random
import unicodedata

import pytest

from llm_jax.clean import mojibake, unicode
from llm_jax.clean.page import Page

SENTENCES = (
  'It’s a “quote” — déjà vu… naïve café, 5 €.',
  'Größe, Straße, Übung: ähnlich wie früher',
  'Łódź, Kraków i Gdańsk są piękne',
  'Привет, как дела? Всё хорошо сегодня',
)


def _text(rule, text):
  page, values = rule.measure(Page('', text, str.split))
  return page.text, values


@pytest.mark.parametrize('sentence', SENTENCES)
def test_mojibake_is_mended(sentence):
  # The five bytes that windows-1252 leaves open come through as control characters.
  broken = ''.join(
    bytes([b]).decode('cp1252') if b not in b'\x81\x8d\x8f\x90\x9d' else chr(b)
    for b in sentence.encode()
  )
  text = f'fine\n\n{broken}\n{sentence}'
  assert broken != sentence
  assert _text(mojibake.make(), text) == (f'fine\n\n{sentence}\n{sentence}', {'mended_lines': 1})


@pytest.mark.parametrize(
  'text',
  [
    *SENTENCES,
    'plain',
    '',
    'Âge d’or',
    'SÃO PAULO, Ã',
    'x² &amp; ﬁ \u201cq\u201d\r\x07',
    '中文“引号”',
  ],
)
def test_sound_text_is_left_as_it_is(text):
  assert _text(mojibake.make(), text) == (text, {'mended_lines': 0})


def test_forms():
  text = 'e\u0301 ﬁ x² Ａ'
  assert _text(unicode.make(), text)[0] == 'é ﬁ x² Ａ'
  assert _text(unicode.make(form='none'), text)[0] == text
  assert _text(unicode.make(form='NFKC'), text)[0] == 'é fi x2 A'


def test_signs_that_nobody_sees_are_removed_and_counted():
  text = 'a\0b\x07\tc\u200bd\ufeff\xade\u202ef\x85\u2028g\r\nh\ri'
  assert _text(unicode.make(), text) == (
    'ab\tcdef\n\ng\nh\ni',
    {'control': 2, 'zero_width': 4},
  )
  kept, values = _text(unicode.make(control=True, zero_width=True), text)
  assert '\x07' in kept and '\u200b' in kept and values == {'control': 0, 'zero_width': 0}
  for joined in ('می\u200cخواهم', '👩\u200d🚀'):
    assert _text(unicode.make(), joined)[0] == joined


def test_blank_lines():
  text = '\n\n  a  \n\n \t\n\n\n  b\n'
  assert _text(unicode.make(), text)[0] == '  a\n\n\n  b'
  assert _text(unicode.make(blank_lines=0), text)[0] == '  a\n  b'


def test_twice_is_once():
  rng = random.Random(0)
  signs = [
    *'ab \n\r\t',
    '\x0b',
    '\u2028',
    '\u200b',
    'e\u0301',
    '\0',
    '\u3000',
    '한',
    '\u1100',
    '\ufdd0',
  ]
  for rule in (unicode.make(), unicode.make(form='NFKD'), unicode.make(blank_lines=0)):
    for _ in range(300):
      once, _ = _text(rule, ''.join(rng.choices(signs, k=rng.randrange(30))))
      assert _text(rule, once)[0] == once
      assert not set(once) & set('\r\0\x0b\u2028\u200b')
      assert all(unicodedata.category(sign) != 'Cc' or sign in '\n\t' for sign in once)
