"""Personal data in a text, replaced: e-mail and IP addresses, telephone and card numbers, keys."""

import collections
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from llm_jax.clean.page import Page, Rule
from llm_jax.clean.pii_addresses import DOMAIN_OR_IP, Span, any_ipv4, emails, ipv4, ipv6
from llm_jax.clean.pii_keys import keys
from llm_jax.clean.pii_numbers import cards, phones
from llm_jax.options import checked

# In order: where two overlap, the first kind has the text.
KINDS: Mapping[str, Callable[[str], Iterator[Span]]] = {
  'key': keys,
  'email': emails,
  'ipv4': ipv4,
  'ipv6': ipv6,
  'card': cards,
  'phone': phones,
}
KindSpan = tuple[int, int, str]
Kind = Literal['key', 'email', 'ipv4', 'ipv6', 'card', 'phone']
ALL: tuple[Kind, ...] = ('key', 'email', 'ipv4', 'ipv6', 'card', 'phone')
NAMES = {kind: f'<{kind}>' for kind in KINDS} | {'ipv4': '<ip>', 'ipv6': '<ip>'}
# What nobody has: RFC 2606, RFC 5737, RFC 3849, and numbers that are kept for fiction.
EXAMPLES = {
  'email': ('email@example.com', 'firstname.lastname@example.org'),
  'ipv4': tuple(f'{net}.{i}' for net in ('192.0.2', '198.51.100', '203.0.113') for i in (7, 70)),
  'ipv6': tuple(f'2001:db8::{i}' for i in range(1, 7)),
  'phone': tuple(f'+1 202-555-01{i}' for i in range(10, 16)),
}
# Those of datatrove, which are addresses of somebody today.
_DATATROVE_IPS = (
  *('22.214.171.124', '126.96.36.199', '188.8.131.52', '184.108.40.206', '220.127.116.11'),
  '18.104.22.168',
)


@checked(where='clean.pii')
def make(
  *,
  kinds: Sequence[Kind] = ALL,
  replace: Literal['name', 'example'] = 'name',
  exact_datatrove: bool = False,
) -> Rule:
  """Replaces personal data; how many of each kind there were are the values.

  Args:
    kinds: what is looked for: 'email'; 'ipv4' and 'ipv6', public ones; 'phone'; 'card'; and 'key',
      keys and tokens of services and private keys.
    replace: what is put there: the name of the kind, such as '<email>'; or one of several examples
      that a hash of the text chooses, so that equal ones stay equal.
    exact_datatrove: what datatrove's formatter does with a text if it is its first: of `kinds` only
      'email' and 'ipv4', the latter in longer numbers too, replaced by its examples in turn.
  """
  chosen = tuple(kind for kind in KINDS if kind in kinds)
  put = _example if replace == 'example' else lambda kind, text: NAMES[kind]

  def measure(page: Page) -> tuple[Page, Mapping[str, float]]:
    if exact_datatrove:
      text, counts = as_datatrove(page.text, chosen)
      return page.edited(text), counts
    found = spans(page.text, chosen)
    counts = dict.fromkeys(chosen, 0) | collections.Counter(kind for *_, kind in found)
    new = [(begin, end, put(kind, page.text[begin:end])) for begin, end, kind in found]
    return page.edited(replaced(page.text, new)), counts

  return Rule(measure)


def spans(
  text: str, kinds: Sequence[str] = ('email', 'ipv4', 'ipv6')
) -> list[tuple[int, int, str]]:
  """Begin, end and kind of all personal data in a text, in order; no two of them overlap.

  >>> spans('a@b.co from 9.9.9.9')
  [(0, 6, 'email'), (12, 19, 'ipv4')]
  """
  found: list[KindSpan] = []
  for kind in KINDS:
    if kind in kinds:
      found = _with(found, sorted((*span, kind) for span in KINDS[kind](text)))
  return found


def _with(found: list[KindSpan], more: list[KindSpan]) -> list[KindSpan]:
  """Spans and, of others, those that overlap none before them; all in order."""
  added, i = [], 0
  for begin, end, kind in more:
    while i < len(found) and found[i][1] <= begin:
      i += 1
    if (i == len(found) or end <= found[i][0]) and (not added or added[-1][1] <= begin):
      added.append((begin, end, kind))
  return sorted(found + added)


def _example(kind: str, text: str) -> str:
  """An example of the kind, the same for equal texts; its name where a kind has none."""
  digest = hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=8).digest()
  choices = EXAMPLES.get(kind, (NAMES[kind],))
  return choices[int.from_bytes(digest) % len(choices)]


def as_datatrove(
  text: str, kinds: Sequence[str] = ('email', 'ipv4'), *, public_only: bool = True
) -> tuple[str, dict[str, int]]:
  """The text as `PIIFormatter` of datatrove 0.10 writes its first one, and how many it replaced.

  Args:
    kinds: 'email', 'ipv4' or both.
    public_only: leaves IP addresses alone that are not public.

  >>> as_datatrove('a@b.co, v1.2.3.4.5')
  ('email@example.com, v22.214.171.124.5', {'email': 1, 'ipv4': 1})
  """
  passes = {
    'email': (lambda text: emails(text, DOMAIN_OR_IP), EXAMPLES['email']),
    'ipv4': (lambda text: any_ipv4(text, public_only=public_only), _DATATROVE_IPS),
  }
  counts = {}
  for kind in (kind for kind in passes if kind in kinds):
    find, examples = passes[kind]
    turns = itertools.cycle(examples)
    found = [(begin, end, next(turns)) for begin, end in find(text)]
    text, counts[kind] = replaced(text, found), len(found)
  return text, counts


def replaced(text: str, found: Sequence[tuple[int, int, str]]) -> str:
  """The text with others at spans, which are in order and do not overlap.

  >>> replaced('a@b.co, 3', [(0, 6, 'me')])
  'me, 3'
  """
  pieces, after = [], 0
  for begin, end, new in found:
    pieces += [text[after:begin], new]
    after = end
  return ''.join([*pieces, text[after:]])
