"""Exact arithmetic on formulas in text, with `fractions` and without `eval`.

`evaluate` accepts numbers only. `expand` also accepts letters, roots and products without a sign.
It multiplies out, so that most equal formulas become the same sum of products of powers. A part
that it cannot multiply out, such as the inverse of a sum, stays a factor of its own.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

# These limits bound the time that a hostile text can take.
_LONGEST = 400  # characters
_DEEPEST = 40  # parentheses, signs and powers inside each other
_LARGEST_EXPONENT = 1000
_LARGEST_BITS = 8192
_MOST_TERMS = 30
_LARGEST_EXPANDED = 10  # the exponent of a sum that is multiplied out
_LARGEST_RADICAND = 10**12
_LARGEST_ROOT = 10  # a tenth root
_LONGEST_FACTOR = 1000  # characters of a factor that stays as it is

_TOKEN = re.compile(
  r'(?P<number>(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)'
  r'(?:[eE][-+]?[0-9]{1,3}(?![0-9]))?)'
  r'|(?P<sign>\*\*|//|[-+*/%^()×÷−])'
  r'|(?P<name>sqrt|\\[a-z]+|[A-Za-z])'
)
_SAME_SIGN = {'^': '**', '×': '*', '÷': '/', '−': '-'}
_GREEK = {
  '\\alpha', '\\beta', '\\gamma', '\\delta', '\\epsilon', '\\zeta', '\\eta', '\\theta', '\\iota',
  '\\kappa', '\\lambda', '\\mu', '\\nu', '\\xi', '\\pi', '\\rho', '\\sigma', '\\tau', '\\upsilon',
  '\\phi', '\\chi', '\\psi', '\\omega', '\\infty',
}  # fmt: skip


class BadExpression(ValueError):
  """The text is not a formula, or one that is too large. The message is one line."""


class Node(NamedTuple):
  """A 'number' or a 'name' with its `value`, or an operation on other nodes."""

  op: str
  value: Any = None
  args: tuple['Node', ...] = ()

  def walk(self) -> Iterator['Node']:
    """This node and all below it."""
    yield self
    for arg in self.args:
      yield from arg.walk()


def parse(text: str, *, letters: bool = False) -> Node:
  """The tree of `+ - * / // % **`, signs and parentheses; `^ × ÷` are `** * /`.

  Numbers may have decimals, thousands' commas and an exponent (1.5e3). Powers bind as in Python.

  Args:
    letters: also allow single letters, Greek ones (as `\\pi`), `sqrt`, and products without a sign.

  Raises:
    BadExpression: the text is anything else, or has more than 400 characters or 40 levels.
  """
  if len(text) > _LONGEST:
    raise BadExpression(f'{len(text)} characters; at most {_LONGEST} can be worked out')
  tokens = list(_tokens(text, letters))[::-1]
  tree = _sum(tokens, 0)
  if tokens:
    raise BadExpression(f'{tokens[-1][1]!r} comes after a complete expression')
  return tree


def evaluate(text: str | Node) -> Fraction:
  """The exact value of a formula without letters, or of its tree.

  >>> evaluate('48 / 2 + 1,000'), evaluate('1 / 3 + 1 / 6')
  (Fraction(1024, 1), Fraction(1, 2))

  Raises:
    BadExpression: the text is not a formula, it divides by zero, a power is not whole, or a number
      is too large (8192 bits).
  """
  tree = parse(text) if isinstance(text, str) else text
  if tree.op == 'number':
    return tree.value
  args = [evaluate(arg) for arg in tree.args]
  if tree.op == '**':
    return _number_power(*args)
  if tree.op in ('/', '//', '%') and args[1] == 0:
    raise BadExpression('division by zero')
  return _sized(Fraction(_ON_NUMBERS[tree.op](*args)))


_ON_NUMBERS: dict[str, Callable] = {
  '+': lambda a, b: a + b,
  '-': lambda a, b: a - b,
  '*': lambda a, b: a * b,
  '/': lambda a, b: a / b,
  '//': lambda a, b: a // b,
  '%': lambda a, b: a % b,
  'negative': lambda a: -a,
}


def _sized(value: Fraction) -> Fraction:
  if max(value.numerator.bit_length(), value.denominator.bit_length()) > _LARGEST_BITS:
    raise BadExpression(f'a number has more than {_LARGEST_BITS} bits')
  return value


def _number_power(base: Fraction, exponent: Fraction) -> Fraction:
  if exponent.denominator != 1:
    raise BadExpression('the exponent of a power is not whole')
  bits = max(base.numerator.bit_length(), base.denominator.bit_length()) - 1
  if abs(exponent) > _LARGEST_EXPONENT or bits * abs(exponent) > _LARGEST_BITS:
    raise BadExpression('a power is too large')
  if base == 0 and exponent < 0:
    raise BadExpression('division by zero')
  return _sized(base**exponent.numerator)


# --- parsing -----------------------------------------------------------------------------------

_Tokens = list[tuple[str, str]]  # (kind, text), the next one last


def _tokens(text: str, letters: bool) -> Iterator[tuple[str, str]]:
  ended = False  # whether the token before ends a value, so that a product may go without a sign
  rest = text.strip()
  start = 0
  while start < len(rest):
    if rest[start].isspace():
      start += 1
      continue
    match = _TOKEN.match(rest, start)
    kind = str(match.lastgroup) if match else ''
    if match is None or (kind == 'name' and not letters):
      raise BadExpression(f'{rest[start : start + 20]!r} is no arithmetic')
    found = _SAME_SIGN.get(match[0], match[0])
    if found.startswith('\\') and found not in _GREEK:
      raise BadExpression(f'{found!r} is not known')
    if letters and ended and (kind == 'name' or found == '('):
      yield 'sign', '*'
    yield kind, found
    ended = found == ')' or kind == 'number' or (kind == 'name' and found != 'sqrt')
    start = match.end()


def _take(tokens: _Tokens, *signs: str) -> str:
  """The next token if it is one of these signs, which is then used up, else ''."""
  return tokens.pop()[1] if tokens and tokens[-1][0] == 'sign' and tokens[-1][1] in signs else ''


def _sum(tokens: _Tokens, depth: int) -> Node:
  left = _product(tokens, depth)
  while op := _take(tokens, '+', '-'):
    left = Node(op, args=(left, _product(tokens, depth)))
  return left


def _product(tokens: _Tokens, depth: int) -> Node:
  left = _signed(tokens, depth)
  while op := _take(tokens, '*', '/', '//', '%'):
    left = Node(op, args=(left, _signed(tokens, depth)))
  return left


def _signed(tokens: _Tokens, depth: int) -> Node:
  if depth > _DEEPEST:
    raise BadExpression(f'more than {_DEEPEST} levels')
  if op := _take(tokens, '+', '-'):
    inner = _signed(tokens, depth + 1)
    return inner if op == '+' else Node('negative', args=(inner,))
  base = _atom(tokens, depth)
  if _take(tokens, '**'):
    return Node('**', args=(base, _signed(tokens, depth + 1)))
  return base


def _atom(tokens: _Tokens, depth: int) -> Node:
  if not tokens:
    raise BadExpression('the expression breaks off')
  if _take(tokens, '('):
    inner = _sum(tokens, depth + 1)
    if not _take(tokens, ')'):
      raise BadExpression('a parenthesis is not closed')
    return inner
  kind, text = tokens.pop()
  if kind == 'number':
    return Node('number', Fraction(text.replace(',', '')))
  if kind == 'sign':
    raise BadExpression(f'{text!r} stands where a number should')
  if text != 'sqrt':
    return Node('name', text)
  if depth > _DEEPEST:
    raise BadExpression(f'more than {_DEEPEST} levels')
  return Node('sqrt', args=(_atom(tokens, depth + 1),))


# --- letters and roots -------------------------------------------------------------------------

# A product of powers: the number under the square root (no square divides it), and the factors.
_Term = tuple[int, tuple[tuple[str, int], ...]]
Terms = dict[_Term, Fraction]  # coefficients, none 0; the sum of no terms is 0
_ONE: _Term = (1, ())


def expand(text: str) -> Terms:
  """A formula with letters as a sum of terms; formulas with the same terms are equal.

  >>> expand('(x + 1)(x - 1)') == expand('x^2 - 1')
  True

  Square roots of numbers are exact: 6 / sqrt(12) is the same as sqrt(3). `i` is a letter, except
  that sqrt(-2) is i * sqrt(2). There are no functions but `sqrt`.

  Raises:
    BadExpression: as `evaluate`, or more than 30 terms.
  """
  return _expand(parse(text, letters=True))


def constant(terms: Mapping[_Term, Fraction]) -> Fraction | None:
  """The rational number that a sum equals, or None if it contains letters or roots."""
  return terms.get(_ONE, Fraction(0)) if terms.keys() <= {_ONE} else None


def approximate(terms: Mapping[_Term, Fraction]) -> float | None:
  """The value of a sum of numbers, square roots and powers of pi, or None if it has letters."""
  total = 0.0
  try:
    for (radicand, factors), coefficient in terms.items():
      if any(name != '\\pi' for name, _ in factors):
        return None
      total += float(coefficient) * math.sqrt(radicand) * math.pi ** sum(n for _, n in factors)
  except OverflowError:
    return None
  return total


def monic(terms: Terms) -> tuple[Fraction, Terms]:
  """Factors a sum into a number and a sum whose first term, in a fixed order, has coefficient 1."""
  lead = terms[min(terms)] if terms else Fraction(1)
  return lead, {term: _sized(value / lead) for term, value in terms.items()}


def _expand(tree: Node) -> Terms:
  if tree.op == 'number':
    return _collect([(_ONE, tree.value)])
  if tree.op == 'name':
    return {(1, ((tree.value, 1),)): Fraction(1)}
  args = [_expand(arg) for arg in tree.args]
  if tree.op not in _ON_TERMS:
    raise BadExpression(f'{tree.op!r} does not go with letters')
  return _ON_TERMS[tree.op](*args)


def _collect(products: Iterable[tuple[_Term, Fraction]]) -> Terms:
  found: Terms = {}
  for term, value in products:
    found[term] = _sized(found.get(term, Fraction(0)) + value)
  found = {term: value for term, value in found.items() if value}
  if len(found) > _MOST_TERMS:
    raise BadExpression(f'more than {_MOST_TERMS} terms')
  return found


def _plus(a: Terms, b: Terms) -> Terms:
  return _collect([*a.items(), *b.items()])


def _negative(a: Terms) -> Terms:
  return {term: -value for term, value in a.items()}


def _times(a: Terms, b: Terms) -> Terms:
  return _collect(_term_times(x, y) for x in a.items() for y in b.items())


def _term_times(a: tuple[_Term, Fraction], b: tuple[_Term, Fraction]) -> tuple[_Term, Fraction]:
  ((root_a, factors_a), value_a), ((root_b, factors_b), value_b) = a, b
  shared = math.gcd(root_a, root_b)
  root = root_a * root_b // shared**2
  if root > _LARGEST_RADICAND:
    raise BadExpression('a number under a root is too large')
  powers = Counter(dict(factors_a))
  for name, exponent in factors_b:
    powers[name] += exponent
  factors = tuple(sorted((name, n) for name, n in powers.items() if n))
  return (root, factors), value_a * value_b * shared


def _inverse(a: Terms) -> Terms:
  if not a:
    raise BadExpression('division by zero')
  (first, *others) = a.items()
  if not others:
    (root, factors), value = first
    return {(root, tuple((name, -n) for name, n in factors)): 1 / (value * root)}
  if len(others) == 1 and not first[0][1] and not others[0][0][1]:
    # 1 / (p + q) = (p - q) / (p^2 - q^2), where the roots are gone.
    conjugate = _plus(dict([first]), _negative(dict(others)))
    return _times(conjugate, _inverse(_times(conjugate, a)))
  lead, rest = monic(a)
  return {(1, ((_as_factor(rest), -1),)): 1 / lead}


def _power(base: Terms, exponent: Terms) -> Terms:
  n = constant(exponent)
  if n is None or n.denominator > _LARGEST_ROOT:
    return {(1, ((f'{_as_factor(base)}^{_as_factor(exponent)}', 1),)): Fraction(1)}
  if n.denominator > 1:
    return _root(_power(base, {_ONE: Fraction(n.numerator)}), n.denominator)
  if n < 0:
    return _power(_inverse(base), {_ONE: -n})
  if len(base) <= 1:
    return _term_power(base, n)
  if n > _LARGEST_EXPANDED:
    raise BadExpression(f'a sum to a power above {_LARGEST_EXPANDED}')
  result = {_ONE: Fraction(1)}
  for _ in range(int(n)):
    result = _times(result, base)
  return result


def _term_power(base: Terms, n: Fraction) -> Terms:
  if not base:
    return {} if n else {_ONE: Fraction(1)}
  (((root, factors), value),) = base.items()
  whole, odd = divmod(int(n), 2)
  coefficient = _sized(_number_power(value, n) * _number_power(Fraction(root), Fraction(whole)))
  powers = tuple((name, k * int(n)) for name, k in factors if n)
  return {(root if odd else 1, powers): coefficient}


def _root(a: Terms, n: int) -> Terms:
  value = constant(a)
  if value is not None and n == 2 and abs(value.numerator * value.denominator) <= _LARGEST_RADICAND:
    whole, radicand = _without_squares(abs(value.numerator * value.denominator))
    factors = (('i', 1),) if value < 0 else ()
    return _collect([((radicand, factors), Fraction(whole, value.denominator))])
  if value is not None and (value >= 0 or n % 2):
    above, below = _whole_root(abs(value.numerator), n), _whole_root(value.denominator, n)
    if above is not None and below is not None:
      return _collect([(_ONE, Fraction(-above if value < 0 else above, below))])
  return {(1, ((f'{_as_factor(a)}^(1/{n})', 1),)): Fraction(1)}


def _without_squares(n: int) -> tuple[int, int]:
  """(a, b) with a * a * b = n, and no square above 1 divides b."""
  whole, kept, rest, p = 1, 1, n, 2
  while p**3 <= rest:
    while rest % p**2 == 0:
      rest //= p**2
      whole *= p
    if rest % p == 0:
      rest //= p
      kept *= p
    p += 1
  # At most two primes are left of it, so it is a square or has none.
  root = math.isqrt(rest)
  return (whole * root, kept) if root**2 == rest else (whole, kept * rest)


def _whole_root(value: int, n: int) -> int | None:
  """The n-th root of a whole number if it is whole, found from above by Newton's method."""
  if value < 2:
    return value
  guess = 1 << -(-value.bit_length() // n)
  while (smaller := ((n - 1) * guess + value // guess ** (n - 1)) // n) < guess:
    guess = smaller
  return guess if guess**n == value else None


def _as_factor(terms: Terms) -> str:
  """A name for a sum that is not multiplied out."""
  name = ' + '.join(f'{v}*{root}{factors}' for (root, factors), v in sorted(terms.items()))
  if len(name) > _LONGEST_FACTOR:
    raise BadExpression('a factor that cannot be multiplied out is too long')
  return f'({name})'


_ON_TERMS: dict[str, Callable[..., Terms]] = {
  '+': _plus,
  '-': lambda a, b: _plus(a, _negative(b)),
  '*': _times,
  '/': lambda a, b: _times(a, _inverse(b)),
  '**': _power,
  'negative': _negative,
  'sqrt': lambda a: _root(a, 2),
}
