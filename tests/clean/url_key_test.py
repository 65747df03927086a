"""All spellings of a URL have one normal form, and all URLs of a page one key."""

import gzip
import json
import random
import time
from pathlib import Path

import pytest

from llm_jax.clean.url_key import host_of, key, normalised

GOLDEN = json.loads(
  gzip.decompress((Path(__file__).parents[1] / 'fixtures' / 'web_pii_url.json.gz').read_bytes())
)
PIECES = (
  *('http://', 'ftp:', '://', '.', '..', '/', '//', '?', '#', '&', '=', '%', '%4', '%41', '%2e'),
  *('%2F', '%e9', '%zz', ';jsessionid=', 'utm_x', 'www.', 'a', 'B', 'é', 'ß', '\ud800', '\0', ' '),
  *('\n', '@', ':', '80', '[', '::1', ']', '❤', '。', '\\', 'İ', 'xn--', '+', '|', '.com'),
)


@pytest.mark.parametrize('case', GOLDEN['urls'], ids=lambda case: case['url'])
def test_golden(case):
  assert (normalised(case['url']), key(case['url'])) == (case['rfc'], case['key'])


def _spellings(rng: random.Random, url: str) -> str:
  """Another spelling of a URL, equal by RFC 3986 section 6.2.2."""
  scheme, _, rest = url.partition('://')
  host, _, path = rest.partition('/')
  host = ''.join(rng.choice((c.upper(), c)) for c in host)
  host = rng.choice(('', 'me:pw@')) + host + rng.choice(('', '.')) + rng.choice(('', ':', ':80'))
  path = ''.join(
    rng.choice((f'%{ord(c):02x}', f'%{ord(c):02X}', c)) if c.isalnum() else c for c in path
  )
  path = rng.choice(('', './', 'x/../', '../', '%2e/', 'x/%2E%2e/')) + path
  return f'{scheme.upper()}://{host}/{path}{rng.choice(("", "#", "#top?/../"))}'


@pytest.mark.parametrize('url', ['http://example.com/', 'http://a.co.uk/b/c~d?x=1&y=:2'])
def test_every_spelling_has_one_normal_form(url):
  rng = random.Random(url)
  for other in [_spellings(rng, url) for _ in range(300)]:
    assert normalised(other) == url, other


def test_parameters_of_visitors_and_their_order_are_no_part_of_the_key():
  rng = random.Random(0)
  own = ['a=1', 'b', 'c=', 'a=2', 'utm=1', 'xgclid=1']
  theirs = ['utm_source=x', 'UTM_=1', 'gclid', 'fbclid=2', 'PHPSESSID=a', 'mc_cid=1', '', '_ga=2.1']
  wanted = key('http://example.com/p?' + '&'.join(own))
  assert wanted == 'example.com/p?a=1&a=2&b&c=&utm=1&xgclid=1'
  for _ in range(200):
    query = rng.sample(own, len(own)) + rng.sample(theirs, rng.randrange(len(theirs)))
    rng.shuffle(query)
    site = rng.choice(('https://', 'http://www.', 'HTTP://WWW.')) + 'example.com/p'
    assert key(site + rng.choice(('', '/')) + '?' + '&'.join(query)) == wanted


def test_nothing_raises_and_a_normal_form_is_its_own():
  rng, found = random.Random(0), 0
  for _ in range(20_000):
    url = rng.choice(('http://', '', 'HTTPS://www.a')) + ''.join(rng.choices(PIECES, k=6))
    normal = normalised(url)
    assert (normal is None) == (key(url) is None) == (host_of(url) == '')
    if normal is not None:
      found += 1
      assert normal.isascii()
      assert (normalised(normal), key(normal)) == (normal, key(url))
  assert found > 2000


@pytest.mark.parametrize(
  'url',
  [
    *('http://a/' + piece * 50_000 for piece in ('../', '/', '%41', '?&', ';jsessionid=', 'é')),
    *('http://' + piece * 50_000 for piece in ('@', '[:', 'é.', '%', ':')),
    *(piece * 50_000 for piece in ('a', 'a:', ' ', '/')),
  ],
  ids=lambda url: url[:14],
)
def test_long_urls_take_linear_time(url):
  began = time.process_time()
  key(url)
  assert time.process_time() - began < 1


@pytest.mark.parametrize(
  ('url', 'normal'),
  [
    ('http://a:65535/', 'http://a:65535/'),
    ('http://a:65536/', None),
    ('http://a:0080/', 'http://a/'),
    ('https://a:80/', 'https://a:80/'),
    ('http://a?', 'http://a/'),
    ('http://a/100%', 'http://a/100%25'),
    ('http://a/..', 'http://a/'),
    ('http://a/b/..', 'http://a/'),
    ('http://a/b/.', 'http://a/b/'),
    ('http://a/b/../../c/', 'http://a/c/'),
    ('http://i❤.ws/', 'http://xn--i-7iq.ws/'),
    ('http://ex%41mple.com', 'http://example.com/'),
    (f'http://{"a" * 253}/', f'http://{"a" * 253}/'),
    (f'http://{"a" * 254}/', None),
    ('mailto:a@b.c', None),
    ('http:///x', None),
    ('', None),
  ],
)
def test_edges(url, normal):
  assert normalised(url) == normal
