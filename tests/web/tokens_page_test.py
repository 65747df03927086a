"""The page of tokens: what its file may hold, and what it shows of two tokenizers in a browser."""

import random
import re
import time
import urllib.parse

import pytest

from llm_jax.serving import page as served_page
from tests.web.fake_server import HOSTILE, FakeServer
from tests.web.pages import Elements, watched

HTML = served_page.FILES['/tokens'].read_text()


def test_text_never_becomes_markup_and_no_other_server_is_asked():
  forbidden = (
    'innerHTML|outerHTML|insertAdjacentHTML|document.write|createContextualFragment|DOMParser|'
    r'srcdoc|\beval\b|new Function|import\(|setTimeout\([\'"`]|javascript:|https?:|url\('
  )
  assert not re.search(forbidden, HTML)
  for tag, attributes in Elements(HTML).found:
    assert not [name for name in attributes if name.startswith('on') or name in ('style', 'src')]
    assert tag not in ('iframe', 'object', 'embed', 'base', 'img')
  assert set(re.findall(r"call\('([^']*)", HTML)) == {'v1/models', 'tokens'}
  assert served_page.policy(HTML).count("'sha256-") == 2


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  made = FakeServer()
  made.reset(tmp_path_factory.mktemp('tokens') / 'events.sqlite')
  yield made
  made.shutdown()
  made.feedback.close()


@pytest.fixture
def page(browser, server):
  context = browser.new_context()
  context.set_default_timeout(5000)
  context.faults = []
  made = watched(context)
  made.goto(f'{server.url}tokens')
  made.wait_for_selector('#first option', state='attached')
  yield made
  context.close()
  assert context.faults == []


def shown(page, text):
  """The texts of all pieces, once the page shows this text."""
  page.fill('#text', text)
  said = f'{len(text):,} characters'
  page.wait_for_function('x => document.body.textContent.includes(x)', arg=said)
  return page.locator('.pieces').first.locator('span').all_text_contents()


def test_pieces_ids_and_control_tokens(page):
  pieces = shown(page, 'a <|im_end|>\t猫\n\0\u202e')
  assert ''.join(pieces) == 'a·<|im_end|>→<0xE7><0x8C><0xAB>↵\n␀<0xE2><0x80><0xAE>'
  assert page.locator('.control').count() == 0
  page.locator('.pieces span').first.hover()
  assert re.match(r'token 1 · id \d+ · 61$', page.locator('.detail').inner_text())
  page.locator('.pieces span').nth(2).click()  # its text is selected
  box = page.locator('#text')
  assert box.evaluate('x => x.value.slice(x.selectionStart, x.selectionEnd)') == pieces[2]
  box.evaluate('x => [x.focus(), x.setSelectionRange(0, 2)]')
  page.wait_for_function('() => document.querySelectorAll(".now").length === 2')
  page.reload()
  page.wait_for_selector('.pieces span')
  assert ''.join(page.locator('.pieces span').all_text_contents()) == ''.join(pieces)


def test_two_tokenizers_a_conversation_and_surprise(page):
  page.select_option('#second', 'large')
  page.check('#chat')
  page.fill('#talk div:nth-child(1) textarea', HOSTILE)
  page.fill('#talk div:nth-child(2) textarea', 'No.')
  page.check('#shade')
  page.wait_for_function('() => document.querySelectorAll(".pieces").length === 2')
  page.wait_for_selector('.trained.s2')
  assert page.locator('.control').count() > 3 and page.title() == 'Tokens'
  trained = page.locator('.pieces').first.locator('.trained').all_text_contents()
  assert ''.join(trained) == 'No.<|im_end|>'
  for width in (360, 1400):
    page.set_viewport_size({'width': width, 'height': 800})
    assert page.evaluate('document.documentElement.scrollWidth') <= width


def test_a_hundred_kilobytes_without_lag(page):
  draw = random.Random(0)
  words = [''.join(draw.choices('abcdefgh', k=draw.randrange(1, 9))) for _ in range(500)]
  text = ' '.join(draw.choices(words, k=25_000))[:100_000]
  page.fill('#text', text)
  page.wait_for_function(
    '() => document.body.textContent.includes("100,000 characters")', timeout=20_000
  )
  began = time.monotonic()
  page.locator('.pieces').first.evaluate('x => { x.scrollTop = x.scrollHeight; x.offsetHeight }')
  page.evaluate('new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))')
  assert time.monotonic() - began < 1.0
  fragment = urllib.parse.urlsplit(page.url).fragment
  assert urllib.parse.parse_qs(fragment)['text'] == [text]
