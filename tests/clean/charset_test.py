"""Text comes out of bytes in any charset, whether or not it is declared, and rightly."""

import random

import pytest

from llm_jax.clean.charset import codec, decode

TEXTS = {
  'ja': '日本語の文章です。これはテストのページです。漢字とかなが混ざっています。',
  'zh': '这一篇文章讲的是一座桥。它建于一千九百年，长达五百米，是当时最长的桥。',
  'zh-TW': '這一篇文章講的是一座橋。它建於一千九百年，長達五百公尺。',
  'ko': '이 문장은 한국어로 쓰여 있습니다. 다리는 천구백년에 세워졌다.',
  'ru': 'Этот текст написан по-русски и рассказывает о мосте, построенном давно.',
  'el': 'Αυτό το κείμενο είναι γραμμένο στα ελληνικά και είναι αρκετά μεγάλο.',
  'th': 'ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอน',
  'fr': 'L’été dernier, nous avons été à la plage près de l’hôtel, où déjà… 5 €.',
}
CHARSETS = [
  *(('ja', 'shift_jis'), ('ja', 'euc-jp'), ('ja', 'iso-2022-jp'), ('zh', 'gb2312')),
  *(('zh', 'gb18030'), ('zh-TW', 'big5'), ('ko', 'euc-kr'), ('ru', 'windows-1251')),
  *(('ru', 'koi8-r'), ('el', 'windows-1253'), ('th', 'windows-874'), ('fr', 'windows-1252')),
  *((language, 'utf-8') for language in TEXTS),
]
PYTHON = {'windows-874': 'cp874'}


def _page(language: str, charset: str, head: str = '') -> bytes:
  text = f'<html><head>{head}</head><body class="x"><p>{TEXTS[language]}</p></body></html>'
  return text.encode(PYTHON.get(charset, charset))


@pytest.mark.parametrize(('language', 'charset'), CHARSETS)
def test_declared_rightly_or_not_at_all(language, charset):
  for head, content_type in (
    ('', f'text/html; charset={charset}'),
    ('', f'text/html; Charset="{charset.upper()}"'),
    (f'<meta charset={charset}>', ''),
    (f'<META http-equiv=Content-Type content="text/html; charset={charset}">', 'text/html'),
    (f'<meta charset="{charset}">', 'text/html; charset=ISO-8859-1'),
    ('', ''),
    ('<meta charset="rot13">', 'text/html; charset=unicode_escape'),
    ('', 'text/html; charset=utf-8'),
  ):
    found = decode(_page(language, charset, head), content_type)
    assert TEXTS[language] in found.text and not found.replaced, (head, content_type)


@pytest.mark.parametrize(('language', 'charset'), CHARSETS)
def test_declared_as_latin_1_by_a_server(language, charset):
  assert TEXTS[language] in decode(_page(language, charset), 'text/html; charset=iso-8859-1').text


@pytest.mark.parametrize('name', ['utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be'])
def test_marks_of_byte_order_and_utf_16_without_one(name):
  text = f'<html><body>{TEXTS["fr"]}</body></html>'
  assert decode(text.encode(name), 'text/html; charset=koi8-r').text == text


def test_labels_mean_what_browsers_mean():
  assert [codec(label) for label in ('ISO-8859-1', 'us-ascii', ' GB2312 ', 'ks_c_5601-1987')] == [
    *('cp1252', 'cp1252', 'gb18030', 'cp949')
  ]
  assert not any(map(codec, ('utf-7', 'idna', 'zlib', 'hex', 'x-user-defined', '', 'utf-8\0')))
  assert decode(b'\x80\x81', 'text/html; charset=latin1').text == '€\x81'


def test_a_few_wrong_bytes_leave_a_page_its_charset():
  body = ('<p>' + TEXTS['ja'] * 9 + '</p>').encode()
  assert decode(body[:-7], '').charset == 'utf-8'
  found = decode(body.replace(b'\xe3', b'\xff', 1), 'text/html; charset=utf-8')
  assert found.charset == 'utf-8' and 0 < found.replaced < 9


def test_any_bytes_become_text_that_can_be_written():
  rng = random.Random(0)
  labels = 'latin1 gb2312 shift_jis euc-jp iso-2022-jp euc-kr big5 utf-8 utf-16 utf-16be koi8-r ☃'
  for _ in range(2000):
    kind = rng.choice((range(256), range(128, 256), (27, 36, 66, 40), (0, 255, 254, 216)))
    body = bytes(rng.choices(kind, k=rng.choice((0, 1, 2, 3, 9, 300))))
    if rng.random() < 0.3:
      body = f'<meta charset="{rng.choice(labels.split())}">'.encode() + body
    found = decode(body, f'text/html; charset={rng.choice(labels.split())}')
    found.text.encode()
    assert '\0' not in found.text
