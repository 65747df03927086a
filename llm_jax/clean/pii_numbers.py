"""Numbers of telephones and of payment cards in a text: where they stand.

What looks like one may be something else, so a number has to be written as people write these: with
a '+', with the groups of a country, or with the check digit of a card. Sections, versions, dates,
ISBNs and plain numbers are none.
"""

import re
from collections.abc import Iterator

from llm_jax.clean.pii_addresses import Span

# Digits and what stands between them, at least as long as the shortest number that counts.
_RUN = re.compile(r'[0-9][0-9 ().\-\u00a0]{6,}[0-9]')
_GAP = r'[ .\-\u00a0]'
_BEGIN = r'(?<![\w.+\-/])'
_END = r'(?![\w\-/]|[.+][0-9])'
_PHONE = re.compile(
  '|'.join(
    (
      # The world: +49 30 901820, +1 (415) 555-2671, +8613912345678.
      r'(?<![\w.+])\+[1-9][0-9]{0,2}(?:[ \-\u00a0]?\([0-9]{1,4}\))?[ \-\u00a0]?'
      rf'[1-9][0-9]{{0,12}}(?:[ \-\u00a0][0-9]{{1,8}}){{0,6}}{_END}',
      # North America: (415) 555-2671, 415-555-2671, 415.555.2671.
      rf'{_BEGIN}(?:1{_GAP})?\([2-9][0-9]{{2}}\){_GAP}?[2-9][0-9]{{2}}{_GAP}[0-9]{{4}}{_END}',
      rf'{_BEGIN}(?:1[.-])?[2-9][0-9]{{2}}([.-])[2-9][0-9]{{2}}\1[0-9]{{4}}{_END}',
      # Countries that dial a 0 first: 020 7946 0958, (030) 901820, 06 12 34 56 78.
      rf'{_BEGIN}\(0[1-9][0-9]{{1,4}}\){_GAP}?[0-9]{{3,4}}{_GAP}?[0-9]{{3,4}}{_END}',
      rf'{_BEGIN}0[1-9][0-9]{{1,3}}([ -])[0-9]{{3,4}}\2[0-9]{{3,4}}{_END}',
      rf'{_BEGIN}0[1-9](?:([ .-])[0-9]{{2}})(?:\3[0-9]{{2}}){{3}}{_END}',
      # Mobile phones of China: 13912345678, 139-1234-5678; Chinese letters may touch them.
      r'(?<![0-9A-Za-z_.+\-/])1[3-9][0-9]([ -]?)[0-9]{4}\4[0-9]{4}(?![0-9A-Za-z_\-/]|[.+][0-9])',
    )
  )
)
_CARD = re.compile(
  rf'{_BEGIN}[2-6][0-9]{{3}}([ -]?)[0-9]{{4,6}}(?:\1[0-9]{{3,5}}){{1,3}}{_END}', re.ASCII
)
# The length of a number by its first digits: Visa, Mastercard, American Express, Diners Club, JCB,
# Discover and UnionPay.
_NETWORK = re.compile(
  r'4(?:.{15}|.{18})|(?:5[1-5]|2[2-7]).{14}|3[47].{13}|3[0689].{12}|35.{14}|6[0245].{14,17}'
)


def phones(text: str) -> Iterator[Span]:
  """Where telephone numbers stand.

  >>> [text[a:b] for text in ('+1 (415) 555-2671 or 020 7946 0958',) for a, b in phones(text)]
  ['+1 (415) 555-2671', '020 7946 0958']
  >>> list(phones('ISBN 978-3-16-148410-0, 2024-11-29, section 3.1.4.1.5.9, 12345678901'))
  []
  """
  for found in _within_runs(_PHONE, text):
    digits = sum(map(str.isdecimal, found[0]))
    # Without a gap, eight digits behind a '+' are as well a number that grew.
    if (10 if digits + 1 == len(found[0]) else 8) <= digits <= 15:
      yield found.span()


def cards(text: str) -> Iterator[Span]:
  """Where numbers of payment cards stand, by their first digits, their length and check digit.

  >>> [text[a:b] for text in ('4111 1111 1111 1111, 4111 1111 1111 1112',) for a, b in cards(text)]
  ['4111 1111 1111 1111']
  """
  for found in _within_runs(_CARD, text):
    digits = re.sub('[^0-9]', '', found[0])
    if _NETWORK.fullmatch(digits) and has_check_digit([*map(int, digits)]):
      yield found.span()


def _within_runs(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
  for run in _RUN.finditer(text):
    # With a '+' or '(' before it, and two characters more for what may not follow.
    yield from pattern.finditer(text, max(0, run.start() - 1), run.end() + 2)


def has_check_digit(digits: list[int]) -> bool:
  """Whether the last digit fits the others, by Luhn's rule, ISO/IEC 7812-1 annex B.

  >>> has_check_digit([7, 9, 9, 2, 7, 3, 9, 8, 7, 1, 3])
  True
  """
  doubled = sum(digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2])
  return (sum(digits[-1::-2]) + doubled) % 10 == 0
