"""The URL lists give FineWeb's reasons, and without its slips unless these are asked for."""

import gzip
import json
import random
from pathlib import Path

import pytest

from llm_jax.clean import url
from llm_jax.clean.page import Drop, Page
from llm_jax.types import BadInput

GOLDEN = json.loads(
  gzip.decompress((Path(__file__).parents[1] / 'fixtures' / 'web_pii_url.json.gz').read_bytes())
)['url_filter']
LISTS = {
  'domains': GOLDEN['lists']['extra_domains'],
  'urls': GOLDEN['lists']['extra_urls'],
  'hard_words': GOLDEN['lists']['banned_words'],
  'soft_words': GOLDEN['lists']['soft_banned_words'],
  'subwords': GOLDEN['lists']['banned_subwords'],
}


def reason(rule, address):
  found = rule(Page(address, 'text', str.split))
  return found.reason if isinstance(found, Drop) else None


@pytest.mark.parametrize('case', GOLDEN['cases'], ids=lambda case: case['url'])
def test_golden(case):
  exact = url.make(**LISTS, soft=GOLDEN['soft_threshold'], exact_fineweb=True)
  assert reason(exact, case['url']) == case['datatrove']
  mended = url.make(**LISTS, soft=GOLDEN['soft_threshold'])
  assert reason(mended, case['url']) == case['datatrove'] or case['url'].endswith('/Casino')


@pytest.mark.parametrize(
  ('address', 'exact', 'mended'),
  [
    ('http://x.adult.example.com/', None, 'subdomain'),
    ('http://BANNED.ORG/', None, 'domain'),
    ('https://me@x.y.banned.org:81/', 'domain', 'domain'),
    ('http://banned.org.uk/', None, None),
    ('http://ok.com/full/url?x=1', None, 'url'),
    ('https://www.ok.com/full/url/', None, 'url'),
    ('http://ok.com/full/url/more', None, None),
    ('http://ok.com/POKER', None, 'hard_blacklisted'),
    ('http://ok.com/%70oker', None, 'hard_blacklisted'),
    ('http://ok.com/Free/BONUS', None, 'soft_blacklisted'),
    ('http://ok.com/free/free', None, None),
    ('http://banned.org/casino', 'domain', 'domain'),
    ('', None, None),
    ('http://[::1/\ud800\0', None, None),
  ],
)
def test_slips_of_fineweb(address, exact, mended):
  assert reason(url.make(**LISTS, exact_fineweb=True), address) == exact
  assert reason(url.make(**LISTS), address) == mended


def test_a_listed_domain_takes_the_hosts_below_and_no_others():
  rng = random.Random(0)
  for suffix in ('com', 'co.uk', 'com.br', 'github.io'):
    rule = url.make(domains=[f'Bad.{suffix}'])
    for _ in range(20):
      below = ''.join(f'{rng.choice("abc")}{rng.randrange(9)}.' for _ in range(rng.randrange(4)))
      assert reason(rule, f'http://{below}bad.{suffix}/x') in ('domain', 'subdomain')
      assert reason(rule, f'http://{below}notbad.{suffix}/x') is None
      assert reason(rule, f'http://{below}{suffix}/bad.{suffix}') is None


@pytest.mark.parametrize('soft', [1, 2, 3])
def test_soft_words_count_each_once(soft):
  rule = url.make(soft_words=['a', 'b', 'c'], soft=soft)
  for address, number in (('x', 0), ('a-a', 1), ('a/b', 2), ('A?c=b', 3)):
    dropped = reason(rule, f'http://ok.com/{address}') == 'soft_blacklisted'
    assert dropped == (number >= soft)


def test_lists_come_from_files(tmp_path):
  (tmp_path / 'domains.gz').write_bytes(
    gzip.compress('# all\nbanned.org\r\n\n bücher.de \n'.encode())
  )
  rule = url.make(domains=str(tmp_path / 'domains.gz'))
  assert reason(rule, 'http://xn--bcher-kva.de/') == reason(rule, 'http://banned.org') == 'domain'
  (tmp_path / 'cut.gz').write_bytes((tmp_path / 'domains.gz').read_bytes()[:-9])
  (tmp_path / 'odd').write_bytes(b'a\xff')
  for name in ('cut.gz', 'odd', 'none', '.'):
    with pytest.raises(BadInput, match=r'\Aclean\.url\.urls: .*/?[^\n]*\Z'):
      url.make(urls=str(tmp_path / name))


def test_nothing_raises():
  rng = random.Random(0)
  pieces = (
    'http://',
    'a',
    '.com',
    '[',
    ']',
    ':',
    '@',
    '/',
    '?',
    '%',
    '\ud800',
    '\0',
    'ß',
    'xn--',
    ' ',
  )
  for rule in (url.make(**LISTS), url.make(**LISTS, exact_fineweb=True)):
    for _ in range(2000):
      reason(rule, ''.join(rng.choices(pieces, k=7)))
