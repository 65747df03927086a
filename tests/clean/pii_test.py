"""Personal data is found where it is and nowhere else, in linear time, and replaced as asked."""

import gzip
import ipaddress
import json
import random
import re
import time
from pathlib import Path

import pytest

from llm_jax.clean import pii
from llm_jax.clean.page import Page
from llm_jax.clean.pii_addresses import DOMAIN_OR_IP, emails, is_public_4, is_public_6
from llm_jax.clean.pii_numbers import has_check_digit
from llm_jax.types import BadInput

GOLDEN = json.loads(
  gzip.decompress((Path(__file__).parents[1] / 'fixtures' / 'web_pii_url.json.gz').read_bytes())
)['pii']
ALL = tuple(pii.KINDS)
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_OCTET = '(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)'
_LABEL = '[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?'
# As it is published, in quadratic time.
DATATROVE_EMAIL = re.compile(
  rf'\b{_ATOM}(?:\.{_ATOM})*@(?:(?:{_LABEL}\.)+{_LABEL}'
  rf'|\[(?:{_OCTET}\.){{3}}(?:{_OCTET}|[A-Za-z0-9-]*[A-Za-z0-9]:)\])'
)


def found(text, kinds=ALL):
  return [(text[begin:end], kind) for begin, end, kind in pii.spans(text, kinds)]


@pytest.mark.parametrize('case', GOLDEN, ids=lambda case: case['text'][:30])
def test_golden(case):
  text = case['text']
  assert pii.spans(text) == [tuple(span) for span in case['strict_spans']]
  assert pii.as_datatrove(text)[0] == case['datatrove']
  assert pii.as_datatrove(text, public_only=False)[0] == case['datatrove_all_ips']
  rule = pii.make(exact_datatrove=True)
  assert [rule(Page('', text, str.split)).text for _ in range(2)] == [case['datatrove']] * 2


def test_emails_are_those_of_the_published_pattern():
  rng, count = random.Random(0), 0
  pieces = (
    'a',
    '.',
    '-',
    '@',
    '@',
    'b.c',
    'ü',
    '!',
    ' ',
    '[',
    '1.2.3.4',
    ']',
    'x:',
    '中',
    '_',
    '..',
  )
  for _ in range(30_000):
    text = ''.join(rng.choices(pieces, k=rng.randrange(12)))
    wanted = [match.span() for match in DATATROVE_EMAIL.finditer(text)]
    assert list(emails(text, DOMAIN_OR_IP)) == wanted, text
    count += len(wanted)
  assert count > 300


def _edges(block):
  network = ipaddress.ip_network(block)
  low, high = int(network.network_address), int(network.broadcast_address)
  return [type(network.network_address)(n) for n in (low - 1, low, high, high + 1) if n >= 0]


@pytest.mark.parametrize(
  'block',
  [
    *('10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '169.254.0.0/16', '172.16.0.0/12', '0.0.0.0/8'),
    *('192.0.0.0/24', '192.0.2.0/24', '192.168.0.0/16', '198.18.0.0/15', '198.51.100.0/24'),
    *('203.0.113.0/24', '2001:db8::/32', '2001::/23', '2002::/16', '3fff::/20', '240.0.0.0/5'),
  ],
)
def test_both_edges_of_every_block_that_is_not_public(block):
  *before, first, last, after = _edges(block)
  is_public = is_public_4 if '.' in block else is_public_6
  assert not is_public(str(first)) and not is_public(str(last))
  assert all(is_public(str(ip)) for ip in before)
  # What follows 240.0.0.0/5 is reserved as well.
  assert is_public(str(after)) == (block != '240.0.0.0/5')


def test_exceptions_inside_of_blocks():
  assert [is_public_4(f'192.0.0.{i}') for i in (8, 9, 10, 11)] == [False, True, True, False]
  sixes = ('2001:1::1', '2001:1::4', '2001:20::', '2001:2f:ffff::', '2001:40::', '2001:200::')
  assert [is_public_6(ip) for ip in sixes] == [True, False, True, True, False, True]
  assert not any(
    map(is_public_6, ('::1', 'fe80::1', 'fc00::1', '1fff::', '4000::', '64:ff9b::1', ''))
  )


@pytest.mark.parametrize('ip', ['8.8.8.8', '2606:4700:4700::1111', '2a00:1:2:3:4:5:6:7'])
def test_addresses_that_are_touched_are_part_of_something_else(ip):
  for before in ('', ' ', '(', '"', '=', '/', '@', '>'):
    for after in ('', ' ', ')', ',', '/24', ']', '<', '\n', '-1'):
      assert (ip, 'ipv4' if '.' in ip else 'ipv6') in found(f'{before}{ip}{after}'), before + after
  for before, after in (('v', ''), ('中', ''), ('_', ''), ('1.', ''), ('', 'x'), ('', '_')):
    assert found(f'{before}{ip}{after}') == [], before + after
  assert found(f'{ip}:1:2:3:4:5:6') == [] if ':' in ip else [(ip, 'ipv4')]


def test_anything_that_is_an_ipv6_address():
  rng = random.Random(0)
  for _ in range(2000):
    address = ipaddress.IPv6Address(0x2A << 120 | rng.getrandbits(120))
    if rng.random() < 0.7:  # with zeros, which are abbreviated
      address = ipaddress.IPv6Address(int(address) & ~(0xFFFFFFFF << 16 * rng.randrange(6)))
    for text in (str(address), address.exploded, str(address).upper()):
      if not text.endswith(':'):
        assert found(f'at {text}: or') == [(text, 'ipv6')]
      assert found(f'at {text}.') == [(text, 'ipv6')]


@pytest.mark.parametrize(
  'text',
  [
    *('+1 (415) 555-2671', '+14155552671', '+49 30 901820', '+44 20 7946 0958', '(415) 555-2671'),
    *('415-555-2671', '415.555.2671', '1-800-273-8255', '020 7946 0958', '(030) 901 8200'),
    *('06 12 34 56 78', '13912345678', '139-1234-5678', '+86 139 1234 5678'),
  ],
)
def test_telephone_numbers(text):
  for around in ('{}', 'call {}.', 'Tel:{}, or', '({})', '{}\n'):
    assert found(around.format(text)) == [(text, 'phone')]
  for around in ('{}a', '{}9', '{}-1', 'x{}', '{}.5', '{}/2'):
    assert (text, 'phone') not in found(around.format(text))


@pytest.mark.parametrize(
  'text',
  [
    *('section 3.1.4.1.5.9', 'v4.18.0.1', '1.2.3.4.5', '2024-11-29 12:30:45', '29.11.2024'),
    *(
      'ISBN 978-3-16-148410-0',
      'isbn 0-306-40615-2',
      'doi:10.1000/182',
      '1 000 000 000',
      '12345678',
    ),
    *('1234567890', '1700000000', '1700000000000', '3.14159265358979', '+10 000 000', '+15000000'),
    *(
      '100-200-3000',
      '2001-2002',
      '10:11:12:13',
      '0.123456789012',
      '1-2-3-4-5-6-7-8',
      '192.168.0.1',
    ),
    *(
      '00 11 22 33 44',
      '#13912345678x',
      '4006381333931',
      '2024:10:11:12',
      'f(x) = (1) 22 333 4444',
    ),
    'd41d8cd98f00b204e9800998ecf8427e 550e8400-e29b-41d4-a716-446655440000',
    'task-oriented sk-learn-pipelines-with-many-Words xoxo ghost_writer eyJust hf_hub_download',
  ],
)
def test_what_is_no_personal_data_stays(text):
  rule = pii.make()
  for around in ('{}', 'see {}, and', '{}\n'):
    page = Page('', around.format(text), str.split)
    assert rule(page) is page


def _card(rng, prefix, length):
  digits = [*map(int, prefix)] + [rng.randrange(10) for _ in range(length - len(prefix) - 1)]
  return next(
    ''.join(map(str, [*digits, last])) for last in range(10) if has_check_digit([*digits, last])
  )


def test_cards_have_a_network_a_length_and_a_check_digit():
  rng = random.Random(0)
  networks = [('4', 16), ('51', 16), ('2221', 16), ('34', 15), ('36', 14), ('35', 16), ('62', 19)]
  for prefix, length in networks * 30:
    number = _card(rng, prefix, length)
    assert found(f'card {number}.') == [(number, 'card')]
    wrong = number[:-1] + str((int(number[-1]) + rng.randrange(1, 10)) % 10)
    assert 'card' not in dict(map(reversed, found(wrong))), wrong
    if length == 16:
      for gap in ' -':
        grouped = gap.join(number[i : i + 4] for i in range(0, 16, 4))
        assert found(f'({grouped})') == [(grouped, 'card')]
    assert found(f'{number}0') == found(f'x{number}') == found(f'{number}.5') == []
  assert (
    found(_card(rng, '9', 16)) == found(_card(rng, '4', 15)) == found(_card(rng, '0', 16)) == []
  )


_RANDOM = 'aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF'
KEYS = [
  *('AKIAIOSFODNN7EXAMPLE', 'ASIAIOSFODNN7EXAMPLE', f'ghp_{_RANDOM}aB3d', f'hf_{"aBcDeFgH" * 4}xY'),
  *(
    f'sk-{_RANDOM}',
    f'sk-proj-{_RANDOM}_-{_RANDOM}',
    f'sk-ant-api03-{_RANDOM}',
    f'sk_live_{_RANDOM}',
  ),
  *(f'AIza{_RANDOM}_-x', f'xoxb-123456789012-{_RANDOM}', f'glpat-{_RANDOM}', f'npm_{_RANDOM}aB3d'),
  *(f'github_pat_{_RANDOM}_{_RANDOM}', f'eyJ{_RANDOM}.eyJ{_RANDOM}.{_RANDOM}-_'),
  f'-----BEGIN PRIVATE KEY-----\n{_RANDOM}\n{_RANDOM}=\n-----END PRIVATE KEY-----',
  '-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n'
  f'{_RANDOM}/+\n-----END RSA PRIVATE KEY-----',
]


@pytest.mark.parametrize('key', KEYS, ids=lambda key: key[:12])
def test_keys(key):
  for around in ('{}', 'key={}\n', '"{}",', 'https://me:{}@github.com'):
    assert (key, 'key') in found(around.format(key))
  if not key.startswith('-'):
    assert (key, 'key') not in found(f'x{key}') + found(f'-{key}')


def test_a_private_key_without_its_end():
  body = '\n'.join([_RANDOM * 2] * 3)
  text = f'-----BEGIN PRIVATE KEY-----\n{body}\n\nand so on'
  assert found(text) == [(text.removesuffix('\n\nand so on'), 'key')]


def test_names_examples_and_counts():
  text = (
    'a@b.co, a@b.co, c@d.org: 9.9.9.9, 2606:4700::1, 415-555-2671, 4111 1111 1111 1111 ' + KEYS[0]
  )
  page, values = pii.make().measure(Page('', text, str.split))
  assert page.text == '<email>, <email>, <email>: <ip>, <ip>, <phone>, <card> <key>'
  assert values == {'email': 3, 'ipv4': 1, 'ipv6': 1, 'phone': 1, 'card': 1, 'key': 1}
  page, values = pii.make(replace='example', kinds=('email', 'ipv4')).measure(page.edited(text))
  first, second, _ = page.text.split(',', 2)
  assert first == second.strip() and first in pii.EXAMPLES['email']
  assert '2606:4700::1' in page.text and values == {'email': 3, 'ipv4': 1}
  with pytest.raises(BadInput, match=r'\Aclean\.pii: '):
    pii.make(kinds=('mail',))


def test_no_example_is_personal_data_of_somebody():
  for kind, examples in pii.EXAMPLES.items():
    assert all(found(text, (kind,)) == [] for text in examples if kind.startswith('ip'))


@pytest.mark.parametrize(
  'piece',
  [
    *('a', 'a-', 'a.', '.', '-', '@', 'a@', 'a@a', '@a.', 'a@a-', 'a@[1.', '1', '1.', '1 ', '1-'),
    *('(', '+1', '+', '4111 ', '0', '2001:', '2001::', ':', '2a', '1 (', '(1', '1)', '+(', '((1'),
    *('sk-', 'sk-a', 'eyJ', 'eyJa.', 'ghp_', 'xox', 'AAAA', 'AKIA', 'sk-aB3'),
    *('-----BEGIN PRIVATE KEY-----', '-----BEGIN PRIVATE KEY-----A ', '-----BEGIN ', '-----END'),
    *(
      ' ',
      '\n',
      '\0',
      '\ud800',
      '中',
      '\u00a0',
      'a@b.c ',
      '9.9.9.9 ',
      '8.8.8.8.',
      '+1 415 555 2671 ',
    ),
  ],
)
def test_long_texts_take_linear_time(piece):
  text = piece * (50_000 // len(piece))
  began = time.process_time()
  pii.make()(Page('', text, str.split))
  pii.make(exact_datatrove=True)(Page('', text, str.split))
  assert time.process_time() - began < 1
