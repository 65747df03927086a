"""Regular expressions of JSON schemas as automata over characters.

Of ECMA-262 this reads characters, classes, groups, alternatives, repetitions, and `^` and `$` at
the ends of the whole. What does not begin with `^` may match anywhere, as in schemas.
"""

import bisect
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from llm_jax.text.effort import Effort

MOST_STEPS = 2000  # of the automaton that is read off the expression
MOST_STATES = 256  # of the one that a string is held to
TOP = 0x110000
Range = tuple[int, int]
Ranges = tuple[Range, ...]  # of characters, first and last

ANY: Ranges = ((0, TOP - 1),)
_LINES: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_CLASSES: dict[str, Ranges] = {
  'd': ((0x30, 0x39),),
  'w': ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
  's': (
    *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
    *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)),
  ),
}
_SIGNS = {'*': (0, None), '+': (1, None), '?': (0, 1)}
_TIMES = re.compile(r'\{(\d{1,4})(,(\d{1,4})?)?\}')
_HEX = {
  'x': re.compile('([0-9a-fA-F]{2})'),
  'u': re.compile(r'([0-9a-fA-F]{4})|\{([0-9a-fA-F]{1,6})\}'),
}
_LOW_HALF = re.compile(r'\\u([dD][c-fC-F][0-9a-fA-F]{2})')  # of a pair of surrogates
_ESCAPES = {'n': 0x0A, 't': 0x09, 'r': 0x0D, 'f': 0x0C, 'v': 0x0B}


class PatternError(ValueError):
  """An expression that is broken, or more than is supported.

  Attributes:
    is_known: whether it is right, and more than is supported.
  """

  def __init__(self, why: str, *, is_known: bool = True) -> None:
    super().__init__(why)
    self.is_known = is_known


class Automaton(NamedTuple):
  """States of what was matched; 0 is the first, and from each some string leads to an end.

  Attributes:
    starts: of each state, the first characters of ranges that are treated alike.
    targets: of each state, the state after such a character, or -1.
    ends: whether the whole string may end in a state.
  """

  starts: tuple[tuple[int, ...], ...]
  targets: tuple[tuple[int, ...], ...]
  ends: tuple[bool, ...]

  def after(self, state: int, character: int) -> int:
    """The state after a character, or -1."""
    return self.targets[state][bisect.bisect_right(self.starts[state], character) - 1]

  def any_of(self, state: int, first: int, last: int) -> bool:
    """Whether one of these characters may come."""
    begin = bisect.bisect_right(self.starts[state], first) - 1
    end = bisect.bisect_right(self.starts[state], last)
    return any(target >= 0 for target in self.targets[state][begin:end])


def inverse(ranges: Ranges) -> Ranges:
  """All other characters.

  >>> inverse(((0, 4), (6, TOP - 1)))
  ((5, 5),)
  """
  found, at = [], 0
  for first, last in sorted(ranges):
    if first > at:
      found.append((at, first - 1))
    at = max(at, last + 1)
  return (*found, (at, TOP - 1)) if at < TOP else tuple(found)


def automaton(expression: str, alphabet: Ranges, effort: Effort) -> Automaton | None:
  """The automaton of an expression; None where no string matches it.

  >>> found = automaton('^a+$', ANY, Effort())
  >>> found.after(0, ord('a')), found.after(0, ord('b')), found.ends[:2]
  (1, -1, (False, True))

  Args:
    expression: of a JSON schema.
    alphabet: the characters that a string can have.
    effort: that it may take.

  Raises:
    PatternError: it is broken, not supported, or takes more.
  """
  parts = _Parts()
  start, end = parts.build(_Reader(expression).read())
  return _determined(parts, start, end, alphabet, effort)


class _Reader:
  """Reads an expression into a tree of ('set', ranges), ('cat', trees), ('alt', trees) and
  ('rep', tree, least, most)."""

  def __init__(self, text: str) -> None:
    self._text, self._at = text, 0

  def _peek(self) -> str:
    return self._text[self._at] if self._at < len(self._text) else ''

  def _take(self) -> str:
    found = self._peek()
    if not found:
      raise PatternError('the expression ends too early', is_known=False)
    self._at += 1
    return found

  def _passes(self, text: str) -> bool:
    found = self._text.startswith(text, self._at)
    self._at += len(text) * found
    return found

  def read(self) -> Any:
    """The tree of the whole; what a part without an anchor leaves open is in it."""
    rest, options = ('rep', ('set', ANY), 0, None), []
    while True:
      begins = self._passes('^')
      inner = self._sequence(0)
      ends = self._passes('$')
      options.append(('cat', [*([] if begins else [rest]), inner, *([] if ends else [rest])]))
      if not self._peek():
        return ('alt', options)
      if not self._passes('|'):
        raise self._strange()

  def _strange(self) -> PatternError:
    return PatternError(f'{self._peek()!a} at character {self._at} is not supported there')

  def _choices(self, depth: int) -> Any:
    options = [self._sequence(depth)]
    while self._passes('|'):
      options.append(self._sequence(depth))
    return ('alt', options)

  def _sequence(self, depth: int) -> Any:
    if depth > 50:
      raise PatternError('groups are nested too deeply')
    found = []
    while (c := self._peek()) and c not in '|)$':
      found.append(self._repeated(self._atom(depth)))
    return ('cat', found)

  def _repeated(self, tree: Any) -> Any:
    sign = self._peek()
    if sign and sign in _SIGNS:
      self._at += 1
      least, most = _SIGNS[sign]
    else:
      found = _TIMES.match(self._text, self._at)
      if found is None:
        return tree
      self._at = found.end()
      least, most = (
        int(found[1]),
        int(found[3]) if found[3] else None if found[2] else int(found[1]),
      )
      if most is not None and most < least:
        raise PatternError('a repetition has its numbers in the wrong order', is_known=False)
    self._passes('?')  # in a hurry or not, the same strings match
    return ('rep', tree, least, most)

  def _atom(self, depth: int) -> Any:
    c = self._take()
    if c == '(':
      if self._passes('?') and not self._passes(':'):
        raise PatternError('groups that begin with (? are not supported, but for (?:')
      tree = self._choices(depth + 1)
      if not self._passes(')'):
        raise self._strange() if self._peek() else PatternError('a ) is missing', is_known=False)
      return tree
    if c == '[':
      return ('set', self._class())
    if c == '.':
      return ('set', inverse(_LINES))
    if c in '*+?{^':
      self._at -= 1
      raise self._strange()
    return ('set', self._escape() if c == '\\' else _one(ord(c)))

  def _escape(self) -> Ranges:
    c = self._take()
    if c.lower() in _CLASSES:
      ranges = _CLASSES[c.lower()]
      return ranges if c.islower() else inverse(ranges)
    if c in 'xu':
      found = _HEX[c].match(self._text, self._at)
      if found is None:
        raise PatternError(f'\\{c} has too few digits', is_known=False)
      self._at = found.end()
      character = int(found[found.lastindex or 0], 16)
      low = _LOW_HALF.match(self._text, self._at)
      if 0xD800 <= character < 0xDC00 and low is not None:
        self._at = low.end()
        character = 0x10000 + (character - 0xD800) * 0x400 + int(low[1], 16) - 0xDC00
      if character >= TOP:
        raise PatternError('there is no character of this number', is_known=False)
      return _one(character)
    if c.isalnum() and c not in _ESCAPES:
      raise PatternError(f'\\{ascii(c)[1:-1]} is not supported')
    return _one(_ESCAPES.get(c, ord(c)))

  def _class(self) -> Ranges:
    inverts, found = self._passes('^'), []
    while not self._passes(']'):
      c = self._take()
      first = self._escape() if c == '\\' else _one(ord(c))
      if self._peek() == '-' and self._text[self._at + 1 : self._at + 2] != ']':
        self._at += 1
        c = self._take()
        last = self._escape() if c == '\\' else _one(ord(c))
        low, high = min(first)[0], max(last)[1]
        if len(first) > 1 or len(last) > 1 or low > high:
          raise PatternError('a range of characters has the wrong order', is_known=False)
        first = ((low, high),)
      found += first
    return inverse(tuple(found)) if inverts else tuple(found)


class _Parts:
  """Places, from which steps lead over characters, and others over nothing."""

  def __init__(self) -> None:
    self.steps: list[list[tuple[Ranges, int]]] = []
    self.free: list[list[int]] = []

  def _place(self) -> int:
    if len(self.steps) >= MOST_STEPS:
      raise PatternError('the expression is too long')
    self.steps.append([])
    self.free.append([])
    return len(self.steps) - 1

  def build(self, tree: Any) -> tuple[int, int]:
    """The first and the last place of a tree."""
    start, end = self._place(), self._place()
    kind = tree[0]
    if kind == 'set':
      self.steps[start].append((tree[1], end))
    elif kind == 'alt':
      for inner in tree[1]:
        self._join(start, inner, end)
    elif kind == 'cat':
      at = start
      for inner in tree[1]:
        at = self._after(at, inner)
      self.free[at].append(end)
    else:
      _, inner, least, most = tree
      at = start
      for _ in range(least):
        at = self._after(at, inner)
      if most is None:
        self._join(at, inner, at)
      for _ in range((most or least) - least):
        self.free[at].append(end)
        at = self._after(at, inner)
      self.free[at].append(end)
    return start, end

  def _after(self, start: int, tree: Any) -> int:
    first, last = self.build(tree)
    self.free[start].append(first)
    return last

  def _join(self, start: int, tree: Any, end: int) -> None:
    self.free[self._after(start, tree)].append(end)

  def reached(self, places: Iterable[int]) -> frozenset[int]:
    """These places, and where nothing has to come to get to."""
    found, waiting = set(), [*places]
    while waiting:
      place = waiting.pop()
      if place not in found:
        found.add(place)
        waiting += self.free[place]
    return frozenset(found)


def _determined(
  parts: _Parts, start: int, end: int, alphabet: Ranges, effort: Effort
) -> Automaton | None:
  """One state for all places that are reached by the same characters (subset construction)."""
  begin = parts.reached([start])
  numbers, sets, edges = {begin: 0}, [begin], []
  outside = inverse(alphabet)
  for places in sets:  # which grows on the way
    steps = [(*one, to) for place in places for ranges, to in parts.steps[place] for one in ranges]
    cuts = {0, *(cut for first, last in outside for cut in (first, last + 1))}
    cuts |= {cut for first, last, _ in steps for cut in (first, last + 1)}
    starts = sorted(cut for cut in cuts if cut < TOP)
    after: list[set[int]] = [set() for _ in starts]
    slots = lambda first, last, starts=starts: range(
      bisect.bisect_left(starts, first), bisect.bisect_right(starts, last)
    )
    for first, last, to in steps:
      covered = slots(first, last)
      _spend(effort, 1 + len(covered))
      for n in covered:
        after[n].add(to)
    for first, last in outside:
      for n in slots(first, last):
        after[n].clear()
    known: dict[frozenset[int], int] = {frozenset(): -1}
    groups = [*map(frozenset, after)]
    for group in groups:
      if group not in known:
        reached = parts.reached(group)
        _spend(effort, len(reached))
        if reached not in numbers:
          if len(sets) >= MOST_STATES:
            raise PatternError('the expression is too complicated')
          numbers[reached] = len(sets)
          sets.append(reached)
        known[group] = numbers[reached]
    edges.append((tuple(starts), [known[group] for group in groups]))
  ends = [end in places for places in sets]
  alive = {n for n, is_end in enumerate(ends) if is_end}
  while more := {
    n for n, (_, targets) in enumerate(edges) if n not in alive and not alive.isdisjoint(targets)
  }:
    alive |= more
  if 0 not in alive:
    return None
  return Automaton(
    tuple(starts for starts, _ in edges),
    tuple(tuple(t if t in alive else -1 for t in targets) for _, targets in edges),
    tuple(ends),
  )


def _one(character: int) -> Ranges:
  return ((character, character),)


def _spend(effort: Effort, steps: int) -> None:
  if effort.spent(steps):
    raise PatternError('the expressions of this schema take too long')
