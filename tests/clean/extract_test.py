"""Articles are found, code comes through to the letter, and no page takes long or ends the run."""

import functools
import html
import itertools
import json
import random
import signal
import time
from pathlib import Path

import pytest
import trafilatura

from llm_jax.clean import code_blocks, extract
from llm_jax.clean.boilerplate import is_boilerplate
from llm_jax.clean.markup import outline
from llm_jax.clean.page import Drop, Page

CASES = json.loads((Path(__file__).parents[1] / 'fixtures/web/extract.json').read_text())
ENGINES = ('trafilatura', 'resiliparse')
WORDS = 'The river rose again in spring and the people of the valley moved to the hills, as ever. '


@functools.cache
def _rule(engine: str, **options):
  return extract.make(engine=engine, **options)


def _page(text: str | bytes) -> Page:
  return Page('', '', str.split, text if isinstance(text, bytes) else text.encode())


def _text(engine: str, text: str | bytes, **options) -> str:
  return _rule(engine, **options).measure(_page(text))[0].text


def _article(inside: str) -> str:
  paragraphs = [f'<p>{n} {WORDS}{WORDS}</p>' for n in ('One.', 'Two.', 'Three.')]
  body = f'<article><h1>A</h1>{paragraphs[0]}{inside}{paragraphs[1]}{paragraphs[2]}</article>'
  return f'<!doctype html><html><head><title>A title</title></head><body>{body}</body></html>'


@pytest.mark.parametrize(('engine', 'least'), [('trafilatura', 0.9753), ('resiliparse', 0.9253)])
def test_segments_that_belong_to_the_text_and_segments_that_do_not(engine, least):
  plain = lambda text: ' '.join(text.split())
  kept = dropped = wanted = 0
  for case in CASES['pages']:
    text = _text(engine, case['html'])
    kept += sum(plain(part) in plain(text) for part in case['keep'])
    dropped += sum(plain(part) in plain(text) for part in case['drop'])
    wanted += len(case['keep'])
    assert all(part in text for part in case['verbatim']), case['id']
  assert 2 * kept / (kept + dropped + wanted) >= least
  assert wanted == 82


def _codes():
  """Code blocks made up of lines that extractors like to change."""
  rng = random.Random(0)
  lines = [
    *(
      'x = a[1] if b < c and c > d else "&amp;"',
      '',
      '    return  1',
      '\tgo()',
      '# one',
      '<b>no</b>',
    ),
    *('    ', '| a | b |', '- item', 'Read more', '你好 = "é"', "print('…')  ", '\\n\\t%s', '1'),
  ]
  for _ in range(12):
    chosen = rng.choices(lines, k=rng.randrange(1, 9))
    yield '\n'.join(['def f():', *chosen, 'end'])


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize(
  'wrap',
  [
    '<pre>{}</pre>',
    '<pre>\n{}</pre>',
    '<PRE class="a>b"><CODE>{}</CODE></PRE>',
    '<div class="highlight"><pre><span></span><code>{}\n</code></pre></div>',
    '<div class="c"><code>{}</code></div>',
    '<table><tr><td><pre>{numbers}</pre></td><td class=code><pre>{}</pre></td></tr></table>',
    '<!-- <pre> --><script>"<pre>"</script><pre>{}</pre>',
  ],
)
def test_code_comes_through_to_the_letter(engine, wrap):
  codes = [*_codes()]
  for spans in (False, True):
    blocks = []
    for code in codes:
      lines = [html.escape(line) for line in code.split('\n')]
      if spans:
        lines = [f'<span class="k" title="a > b">{line}</span>' for line in lines]
      ending = '<br>' if spans and 'pre' not in wrap else '\n'
      numbers = '\n'.join(str(i + 1) for i in range(len(lines)))
      blocks.append(wrap.format(ending.join(lines), numbers=numbers))
    text = _text(engine, _article(f'<p>{WORDS}{WORDS}</p>'.join(blocks)))
    for code in codes:
      assert f'\n{code}\n' in text
    assert 'qcodeq' not in text and '\n1\n2\n' not in text


def test_what_an_extractor_leaves_out_stays_out():
  page = '<pre>one</pre>and<pre>two</pre>'
  hidden, blocks, mark = code_blocks.hide(page, outline(page))
  assert blocks == ['one', 'two'] and 'qcodeq' in mark
  fold = lambda text: code_blocks.restore(code_blocks.fold(text, mark).split('\n'), blocks, mark)
  begin, end = f'{mark}0begin', f'{mark}0end'
  assert fold(f'a\n{begin} o {end}\nb') == 'a\none\nb'
  assert fold(f'| {begin} o {end} |\nb') == 'one\nb'
  assert fold(f'a {begin} o {end} b') == 'a\none\nb'
  assert fold(f'{begin} o {end}') == 'one\n'
  assert fold(f'a {begin} o') == 'a  o' and fold(f'a {end} o') == 'a  o' and fold('a') == 'a'
  assert code_blocks.hide(mark + page, outline(mark + page))[2] != mark
  assert hidden.count('<pre>') == 2


def test_the_text_does_not_depend_on_the_pages_before():
  pages = [case['html'] for case in CASES['pages']]
  rule = extract.make()
  first = [rule.measure(_page(page))[0].text for page in pages]
  for _ in range(3):
    assert [rule.measure(_page(page))[0].text for page in reversed(pages)] == first[::-1]


def test_a_page_without_code_and_boilerplate_is_what_trafilatura_makes_of_it():
  for case in CASES['pages']:
    if not case['verbatim']:
      theirs = trafilatura.extract(case['html'], include_comments=False) or ''
      lines = [line.rstrip() for line in theirs.split('\n')]
      assert _text('trafilatura', case['html']) == '\n'.join(
        line for line in lines if not is_boilerplate(line)
      )


@pytest.mark.parametrize('engine', ENGINES)
def test_options(engine):
  table = '<table><tr><th>Year</th><th>Flood</th></tr><tr><td>1900</td><td>seven</td></tr></table>'
  page = _article(f'{table}<p>{WORDS} It is <a href="http://a.b/c">here</a>.</p><p>Read more »</p>')
  text = _text(engine, page)
  assert 'seven' in text and 'a.b/c' not in text and 'Read more' not in text
  assert 'seven' not in _text(engine, page, tables=False)
  assert 'http://a.b/c' in _text(engine, page, links=True)
  assert 'Read more' in _text(engine, page, boilerplate=True)
  found, values = _rule(engine).measure(_page(page.replace('<html>', '<html lang=en-GB>')))
  assert found.meta == {'title': 'A title', 'charset': 'utf-8', 'html_language': 'en-GB'}
  assert values['characters'] == len(found.text) and values['replaced_characters'] == 0


def test_a_page_of_text_passes():
  page = Page('', 'text', str.split)
  assert _rule('trafilatura')(page) == page
  assert _rule('trafilatura')(Page('', ' ', str.split)) == Drop('empty', {'characters': 0})


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize(
  'open_tag', ['<div>', '<table><tr><td>', '<b>', '<ul><li>', '<x-y>', '<svg>']
)
def test_depth(engine, open_tag):
  result = _rule(engine)(_page(_article(open_tag * 100_000)))
  assert isinstance(result, Drop) and result.reason == 'deep'
  name = open_tag[1:].split('>')[0]
  assert WORDS.strip() in _text(engine, _article(open_tag * 100 + 'x' + f'</{name}>' * 100))


def test_depth_is_of_tags_that_stay_open():
  flat = '<p>a<li>b<br><img src=x><td>c<!-- <div> --><script>"<div>"</script><svg><path/></svg>'
  assert outline(flat * 1000).depth == 1
  assert outline('<div></b></div>' * 99).depth == 1
  assert outline('<div title="</div>"><b>').depth == 2


HARD = {
  'attribute': '<div class="{}">x</div>'.format('a ' * 500_000),
  'attributes': '<div {}>x</div>'.format(' '.join(f'a{i}=1' for i in range(60_000))),
  'rows': '<table>' + '<tr><td>one</td><td>two</td></tr>' * 30_000 + '</table>',
  'breaks': 'text<br>' * 100_000,
  'paragraphs': '<p>text' * 40_000,
  'choices': '<select>' + '<option>x' * 40_000 + '</select>',
  'codes': '<pre>x</pre>' * 10_000,
  'comments': '<!--' * 100_000,
  'titles': '<title>' * 100_000,
  'tags': '<a ' * 300_000,
  'quotes': '<a b="' * 200_000,
}


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('name', HARD)
def test_no_page_takes_long(engine, name):
  start = time.process_time()
  _rule(engine)(_page(_article(HARD[name])))
  assert time.process_time() - start < 5


@pytest.mark.parametrize('engine', ENGINES)
def test_any_bytes(engine):
  rng = random.Random(0)
  pieces = [
    b'<div>',
    b'</div>',
    b'<pre>',
    b'</pre>',
    b'<!--',
    b'-->',
    b'<script>',
    b'<p a="',
    b'\0',
  ]
  pieces += [b'<code>', b'\n', b'&#xd800;', b'&#0;', b'\xff\xfe', b'<table><tr><td>', b'</table>']
  pieces += [
    b'<svg><path/>',
    b'<![CDATA[',
    b'<?xml',
    b'text of some words. ',
    b'"',
    b'>',
    b'<title>',
  ]
  pieces += [b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>', b'&a;', '中文'.encode()]
  for _ in range(150):
    body = b''.join(rng.choices(pieces, k=rng.randrange(60)))
    found, _ = _rule(engine).measure(_page(body + (b'<html>' if rng.random() < 0.5 else b'')))
    found.text.encode()
    assert 'root:' not in found.text and '\0' not in found.text
  case = CASES['pages'][0]['html'].encode()
  for cut in range(0, len(case), 97):
    _rule(engine)(_page(case[:cut]))


def test_entities_are_not_expanded():
  names = 'abcdefghij'
  bomb = ''.join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in itertools.pairwise(names))
  page = f'<?xml version="1.0"?><!DOCTYPE html [<!ENTITY a "lol">{bomb}]>{_article("<p>&j;</p>")}'
  for engine in ENGINES:
    assert 'lollol' not in _text(engine, page) and len(_text(engine, page)) < 2000


def test_time(monkeypatch):
  def slow(*args):
    time.sleep(9)

  monkeypatch.setattr(extract, '_text', slow)
  before = signal.getsignal(signal.SIGALRM)
  result = extract.make(seconds=0.05)(_page(_article('')))
  assert isinstance(result, Drop) and result.reason == 'timeout'
  assert signal.getsignal(signal.SIGALRM) is before and not signal.getitimer(signal.ITIMER_REAL)[0]


def test_lines_of_a_site():
  site = (
    *('Read more »', 'Accept all cookies', 'Share', 'Share this article on Facebook', 'Sign in'),
    *('Skip to main content', 'Continue reading', '3 comments', '© All rights reserved.'),
    *('• You may also like', 'We use cookies to make this site better.', 'Leave a reply'),
  )
  text = (
    *(
      'Read more poetry',
      'She did not accept.',
      'Accept',
      'Facebook',
      '| Share | 3 |',
      '1. Sign in',
    ),
    *('We read all 3 comments with care', 'Cookies are baked at 180 degrees', 'Share prices fell.'),
    'We use cookies in our kitchen, as every bakery does, and we bake them ourselves at night.',
  )
  assert [line for line in site if not is_boilerplate(line)] == []
  assert [line for line in text if is_boilerplate(line)] == []
