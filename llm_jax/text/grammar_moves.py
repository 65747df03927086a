"""Reads a grammar symbol by symbol: after each, what may follow, and whether it may end there.

What is read is known by stacks, of what is expected next and then after it. There are several where
the same text can be several things. A stack is (item, rest); an item is a tuple, whose first entry
says what it is:

  (VALUE, node, depth)                     a node, not begun
  (LITERAL, symbols, place)                symbols from a place on
  (WORDS, node, place)                     one of several texts, at a place of their tree
  (TEXT, need, more, byte)                 a string after its quote, at a state of a character
  (MATCHED, node, state, bytes)            a string that an expression matches, and half a character
  (NUMBER, node, text)                     a number that began with this text
  (ITEMS, node, depth, index, need, more, first)  the items of an array from `index` on
  (MEMBERS, node, depth, index, first)     the properties of an object from `index` on
  (KEY, node, depth, index, place)         the name of one of these
  (EXTRA, node, depth, byte, place)        another name, at a place of the tree of the known ones
  (COLON,)                                 between a name and its value
  (UNTIL, symbols, place, may_end)         any text until these symbols, of which some have come

Every stack can be completed, so that whatever may follow leads to an end. Blanks are those of
`json.dumps`, with an indent of two or with none, so no answer can be made of them.
"""

import bisect
from collections.abc import Iterator, Sequence
from typing import Any

from llm_jax.text import json_string
from llm_jax.text.grammar import (
  CONTROL,
  DEEPEST,
  Chain,
  Grammar,
  List,
  Literal,
  Matched,
  Number,
  Record,
  Text,
  Until,
  Words,
)
from llm_jax.text.json_number import can_become, is_number, shortened
from llm_jax.text.json_string import ESCAPE, ESCAPED, QUOTE, TAG, spelled

VALUE, LITERAL, WORDS, TEXT, NUMBER, ITEMS, MEMBERS, KEY, EXTRA, COLON, UNTIL, MATCHED = range(12)
_UNREAD = (VALUE, ITEMS, MEMBERS, COLON)  # stand for other items, and read nothing
MOST = 64  # stacks; of more, the last are given up, which leaves out some texts and no end

Item = tuple[Any, ...]
Stack = Any  # None, or (Item, Stack)
State = tuple[Stack, ...]


class _Tree:
  """Texts by their beginnings.

  Attributes:
    next: of each place, the place after each byte.
    ends: of each place, the number of the text that ends there, or None.
    texts: of each place, the numbers of the texts that come by it.
  """

  def __init__(self, texts: Sequence[bytes]) -> None:
    self.next: list[dict[int, int]] = [{}]
    self.ends: list[int | None] = [None]
    self.texts: list[list[int]] = [[]]
    for number, text in enumerate(texts):
      place = 0
      for byte in text:
        if byte not in self.next[place]:
          self.next[place][byte] = len(self.next)
          self.next.append({})
          self.ends.append(None)
          self.texts.append([])
        place = self.next[place][byte]
        self.texts[place].append(number)
      self.ends[place] = number


class Moves:
  """What a grammar lets follow.

  Attributes:
    start: the state before anything has come.
    controls: the control tokens that the grammar names.
  """

  def __init__(self, grammar: Grammar) -> None:
    self._grammar, self._nodes = grammar, grammar.nodes
    self._atoms: dict[int, tuple[int, ...]] = {}
    self._heights = grammar.heights()
    spell = lambda name: spelled(name, guarded=grammar.guarded)
    self._trees = {
      i: _Tree([*map(spell, node.names)]) if isinstance(node, Record) else _Tree(node.texts)
      for i, node in enumerate(grammar.nodes)
      if isinstance(node, Record | Words)
    }
    self._required = {
      i: sorted(node.required) for i, node in enumerate(grammar.nodes) if isinstance(node, Record)
    }
    self.controls = sorted(
      {
        symbol - CONTROL
        for node in grammar.nodes
        if isinstance(node, Literal | Until)
        for symbol in node.symbols
        if symbol >= CONTROL
      }
    )
    self.start: State = self._closed([((VALUE, grammar.start, 0), None)])

  def after(self, state: State, symbol: int) -> State:
    """The state after one more symbol; without stacks where it may not follow."""
    found = []
    for stack in state:
      if stack is not None:
        item, rest = stack
        for items in self._moved(item, symbol):
          found.append(_pushed(items, rest))
    return self._closed(found)

  def _closed(self, stacks: Sequence[Stack]) -> State:
    """The stacks whose first item reads something, of those which stand for them."""
    found: dict[Stack, None] = {}
    waiting = list(reversed(stacks))
    while waiting and len(found) < MOST:
      stack = waiting.pop()
      if stack is None or stack[0][0] not in _UNREAD:
        found[stack] = None
      else:
        item, rest = stack
        waiting += [_pushed(items, rest) for items in reversed([*self._expanded(item)])]
    return tuple(found)

  # --- items that stand for others ---------------------------------------------------------------

  def _expanded(self, item: Item) -> Iterator[tuple[Item, ...]]:
    if item[0] == VALUE:
      if item[1] not in self._atoms:
        self._atoms[item[1]] = self._grammar.atoms(item[1])
      for node in self._atoms[item[1]]:
        if item[2] + self._heights[node] <= DEEPEST:
          yield self._begun(node, item[2])
    elif item[0] == COLON:
      yield ((LITERAL, b':', 0),)
      yield ((LITERAL, b': ', 0),)
    elif item[0] == ITEMS:
      yield from self._items(*item[1:])
    else:
      yield from self._members(*item[1:])

  def _begun(self, i: int, depth: int) -> tuple[Item, ...]:
    node: Any = self._nodes[i]
    match node:
      case Words():
        return ((WORDS, i, 0),)
      case Text():
        return ((LITERAL, b'"', 0), (TEXT, node.need, node.more, 0))
      case Matched():
        return ((LITERAL, b'"', 0), (MATCHED, i, 0, b''))
      case Number():
        return ((NUMBER, i, ''),)
      case List():
        return ((LITERAL, b'[', 0), (ITEMS, i, depth + 1, 0, node.need, node.room, True))
      case Record():
        return ((LITERAL, b'{', 0), (MEMBERS, i, depth + 1, 0, True))
      case Chain():
        return tuple((VALUE, part, depth) for part in node.parts)
      case Literal():
        return ((LITERAL, node.symbols, 0),) if node.symbols else ()
      case _:
        return ((UNTIL, node.symbols, 0, node.may_end),)

  def _items(
    self, i: int, depth: int, index: int, need: int, room: int | None, first: bool
  ) -> Iterator[tuple[Item, ...]]:
    node: Any = self._nodes[i]
    if need == 0:
      yield from _closing(b']', depth, first)
    child = node.first[index] if index < len(node.first) else node.rest
    if child is None or room == 0 or depth + self._heights[child] > DEEPEST:
      return
    then = (
      (VALUE, child, depth),
      (
        ITEMS,
        i,
        depth,
        min(index + 1, len(node.first)),
        max(need - 1, 0),
        None if room is None else room - 1,
        False,
      ),
    )
    yield from _opening(depth, first, then)

  def _members(self, i: int, depth: int, index: int, first: bool) -> Iterator[tuple[Item, ...]]:
    node: Any = self._nodes[i]
    due = self._due(i, index)
    if due is None:
      yield from _closing(b'}', depth, first)
    if self._named(i, depth, index, 0):
      yield from _opening(depth, first, ((KEY, i, depth, index, 0),))
    if due is None and node.extra is not None and depth + self._heights[node.extra] <= DEEPEST:
      then = ((LITERAL, b'"', 0), (EXTRA, i, depth, 0, self._trees[i].next[0].get(QUOTE, -1)))
      yield from _opening(depth, first, then)

  def _due(self, i: int, index: int) -> int | None:
    """The next property that has to come."""
    place = bisect.bisect_left(self._required[i], index)
    return self._required[i][place] if place < len(self._required[i]) else None

  def _named(self, i: int, depth: int, index: int, place: int) -> bool:
    """Whether a property may have a name that comes by this place of the tree."""
    node: Any = self._nodes[i]
    due = self._due(i, index)
    last = len(node.names) - 1 if due is None else due
    numbers = self._trees[i].texts[place] if place else range(len(node.names))
    return any(
      index <= j <= last and depth + self._heights[node.values[j]] <= DEEPEST for j in numbers
    )

  # --- items that read a symbol ------------------------------------------------------------------

  def _moved(self, item: Item, symbol: int) -> Iterator[tuple[Item, ...]]:
    """What may stand in the place of an item after a symbol."""
    kind = item[0]
    if kind == LITERAL:
      _, symbols, place = item
      if symbols[place] == symbol:
        yield ((LITERAL, symbols, place + 1),) if place + 1 < len(symbols) else ()
    elif kind == UNTIL:
      _, symbols, place, may_end = item
      if symbol < CONTROL or symbol == symbols[0]:
        place = _reached(symbols, place, symbol)
        yield ((UNTIL, symbols, place, may_end),) if place < len(symbols) else ()
    elif symbol >= CONTROL:
      return
    elif kind == TEXT:
      yield from self._text(item, symbol)
    elif kind == MATCHED:
      yield from self._matched(item, symbol)
    elif kind == WORDS:
      _, i, place = item
      tree, place = self._trees[i], self._trees[i].next[place].get(symbol)
      if place is not None:
        if tree.next[place]:
          yield ((WORDS, i, place),)
        if tree.ends[place] is not None:
          yield ()
    elif kind == NUMBER:
      _, i, text = item
      rule: Any = self._nodes[i]
      text += chr(symbol)
      if can_become(text, rule):
        yield ((NUMBER, i, shortened(text, rule)),)
        if is_number(text, rule):
          yield ()
    elif kind == KEY:
      _, i, depth, index, place = item
      tree, place = self._trees[i], self._trees[i].next[place].get(symbol)
      if place is not None and self._named(i, depth, index, place):
        j, node = tree.ends[place], self._nodes[i]
        if j is None:
          yield ((KEY, i, depth, index, place),)
        elif isinstance(node, Record):
          yield (COLON,), (VALUE, node.values[j], depth), (MEMBERS, i, depth, j + 1, False)
    elif kind == EXTRA:
      yield from self._extra(item, symbol)

  def _text(self, item: Item, byte: int) -> Iterator[tuple[Item, ...]]:
    _, need, more, state = item
    between = state in (0, TAG)
    if between and byte == QUOTE:
      if need == 0:
        yield ()
      return
    if between and need == 0 and more == 0:
      return
    then = json_string.after(byte, state, self._grammar.guarded)
    if then is None:
      return
    if between:  # a character counts from its first byte on
      if need > 0:
        need -= 1
      elif more is not None:
        more -= 1
    yield ((TEXT, need, more, then),)

  def _matched(self, item: Item, byte: int) -> Iterator[tuple[Item, ...]]:
    _, i, state, begun = item
    node: Any = self._nodes[i]
    by = node.by
    part = begun + bytes([byte])
    if part == b'"':
      if by.ends[state]:
        yield ()
    elif part == b'\\':
      if any(by.after(state, character) >= 0 for character in ESCAPED.values()):
        yield ((MATCHED, i, state, part),)
    elif begun == b'\\':
      character = ESCAPED.get(byte, -1)
      if character >= 0 and (after := by.after(state, character)) >= 0:
        yield ((MATCHED, i, after, b''),)
    elif (span := json_string.span(part)) is not None:
      first, last = span
      if first == last:
        if (after := by.after(state, first)) >= 0:
          yield ((MATCHED, i, after, b''),)
      elif by.any_of(state, first, last):
        yield ((MATCHED, i, state, part),)

  def _extra(self, item: Item, byte: int) -> Iterator[tuple[Item, ...]]:
    _, i, depth, state, place = item
    node: Any = self._nodes[i]
    tree = self._trees[i]
    after = -1 if place < 0 else tree.next[place].get(byte, -1)
    if state == 0 and byte == QUOTE:
      if after < 0 or tree.ends[after] is None:
        yield (COLON,), (VALUE, node.extra, depth), (MEMBERS, i, depth, len(node.names), False)
      return
    then = json_string.after(byte, state, False)
    # A known name is compared as it is written, so others have no escapes, nor what would need one.
    if then not in (None, ESCAPE) and not (self._grammar.guarded and byte == 0x3C):
      yield ((EXTRA, i, depth, then, after),)


def _reached(symbols: Sequence[int], place: int, symbol: int) -> int:
  """How many of the symbols have come at the end of what was read, after one more."""
  come = (*symbols[:place], symbol)
  return next(n for n in range(len(come), -1, -1) if n == 0 or come[-n:] == tuple(symbols[:n]))


def is_whole(state: State) -> bool:
  """Whether an answer may end here."""
  return any(stack is None or (stack[0][0] == UNTIL and stack[0][3]) for stack in state)


def _pushed(items: Sequence[Item], stack: Stack) -> Stack:
  for item in reversed(items):
    stack = (item, stack)
  return stack


def _line(depth: int) -> bytes:
  return b'\n' + b'  ' * depth


def _closing(end: bytes, depth: int, first: bool) -> Iterator[tuple[Item, ...]]:
  yield ((LITERAL, end, 0),)
  if not first:
    yield ((LITERAL, _line(depth - 1) + end, 0),)


def _opening(depth: int, first: bool, then: tuple[Item, ...]) -> Iterator[tuple[Item, ...]]:
  """What stands before an item or a property, and then this."""
  for before in (b'', _line(depth)) if first else (b',', b', ', b',' + _line(depth)):
    yield ((LITERAL, before, 0), *then) if before else then
