"""A grammar of JSON values and of what stands around them: nodes that name each other by number.

`grammar_moves.py` reads it a byte at a time; `json_schema.py` makes one of a schema.
"""

import dataclasses
import functools
from collections.abc import Sequence
from fractions import Fraction

from llm_jax.text.pattern import Automaton, Ranges, inverse

DEEPEST = 32  # arrays and objects that may stand inside of each other
NEVER = 1 << 20  # the height of a value that has no end, or is too deep
CONTROL = 256  # symbol CONTROL + i is the control token i; those below are bytes

Symbols = Sequence[int]
# What strings are not made of where an expression has to match: halves of pairs, controls without
# a short escape, and what is a blank to some readers only.
_NEVER: Ranges = (
  *((0x00, 0x07), (0x0B, 0x0B), (0x0E, 0x1F), (0x85, 0x85)),
  *((0xD800, 0xDFFF), (0xFEFF, 0xFEFF)),
)


@dataclasses.dataclass(frozen=True)
class Words:
  """One of these texts."""

  texts: tuple[bytes, ...]


@dataclasses.dataclass(frozen=True)
class Text:
  """A string of `need` characters up to `need + more`; `more` is None for any number."""

  need: int = 0
  more: int | None = None


@dataclasses.dataclass(frozen=True)
class Matched:
  """A string that an expression matches."""

  by: Automaton


@dataclasses.dataclass(frozen=True)
class Number:
  """A number from `low` to `high`, which `above` and `below` leave out; a multiple of `step`."""

  whole: bool = False
  low: Fraction | None = None
  high: Fraction | None = None
  above: bool = False
  below: bool = False
  step: int | None = None


@dataclasses.dataclass(frozen=True)
class List:
  """An array: `first` items of their own kinds, then any of the kind `rest`, or none."""

  first: tuple[int, ...] = ()
  rest: int | None = None
  need: int = 0
  room: int | None = None


@dataclasses.dataclass(frozen=True)
class Record:
  """An object: properties in this order, then others of the kind `extra`, or none."""

  names: tuple[str, ...] = ()
  values: tuple[int, ...] = ()
  required: frozenset[int] = frozenset()
  extra: int | None = None


@dataclasses.dataclass(frozen=True)
class Either:
  """One of several nodes; of none there is no value."""

  options: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Chain:
  """Nodes one after the other."""

  parts: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Literal:
  """These symbols."""

  symbols: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Until:
  """Any text, up to these symbols and with them; or without, if the answer `may_end` before."""

  symbols: tuple[int, ...]
  may_end: bool = False


Node = Words | Text | Matched | Number | List | Record | Either | Chain | Literal | Until


class Grammar:
  """Nodes, which are added one by one; `start` is the one that an answer is of.

  Args:
    guarded: whether no string may hold '</' or '<t', which readers take for tags; they are written
      with an escape then.
  """

  def __init__(self, *, guarded: bool = False) -> None:
    self.nodes: list[Node] = []
    self.start, self.guarded = 0, guarded

  def add(self, node: Node) -> int:
    """The number of a new node."""
    self.nodes.append(node)
    return len(self.nodes) - 1

  @property
  def alphabet(self) -> Ranges:
    """The characters of strings that an expression matches."""
    return inverse((*_NEVER, (0x3C, 0x3C)) if self.guarded else _NEVER)

  def literal(self, symbols: Symbols) -> int:
    """The number of a new node for these symbols."""
    return self.add(Literal(tuple(symbols)))

  def chain(self, *parts: int) -> int:
    """The number of a new node for nodes one after the other."""
    return self.add(Chain(parts))

  def either(self, *options: int) -> int:
    """The number of a new node for one of these."""
    return self.add(Either(options))

  def optional(self, *parts: int) -> int:
    """The number of a new node for nodes one after the other, or for nothing."""
    return self.either(self.chain(), self.chain(*parts))

  def anything(self) -> int:
    """The number of a node for any JSON value."""
    return self._anything

  @functools.cached_property
  def _anything(self) -> int:
    whole = self.add(Either(()))
    kinds = (
      self.add(Record(extra=whole)),
      self.add(List(rest=whole)),
      self.add(Text()),
      self.add(Number()),
      self.add(Words((b'true', b'false', b'null'))),
    )
    self.nodes[whole] = Either(kinds)
    return whole

  def atoms(self, node: int) -> tuple[int, ...]:
    """What a node can be, once choices of choices are one choice."""
    found: dict[int, None] = {}
    waiting, seen = [node], set()
    while waiting:
      i = waiting.pop()
      one = self.nodes[i]
      if i in seen:
        continue
      seen.add(i)
      if isinstance(one, Either):
        waiting += reversed(one.options)
      else:
        found[i] = None
    return tuple(found)

  def heights(self) -> list[int]:
    """How many arrays and objects the flattest value of each node has inside of each other.

    NEVER stands for more than DEEPEST.
    """
    heights, users = [NEVER] * len(self.nodes), [[] for _ in self.nodes]
    for i, node in enumerate(self.nodes):
      for part in set(_parts(node)):
        users[part].append(i)
    waiting = dict.fromkeys(range(len(self.nodes)))
    while waiting:
      i = waiting.popitem()[0]
      height = self._height(self.nodes[i], heights)
      if height < heights[i] and height <= DEEPEST:
        heights[i] = height
        waiting |= dict.fromkeys(users[i])
    return heights

  def _height(self, node: Node, heights: Sequence[int]) -> int:
    of = lambda numbers: max((heights[i] for i in numbers), default=0)
    if isinstance(node, Either):
      return min((heights[i] for i in node.options), default=NEVER)
    if isinstance(node, Chain):
      return of(node.parts)
    if isinstance(node, Record):
      return 1 + of(node.values[j] for j in node.required)
    if isinstance(node, List):
      if node.room is not None and node.need > node.room:
        return NEVER
      rest = [node.rest] if node.need > len(node.first) and node.rest is not None else []
      if node.need > len(node.first) and node.rest is None:
        return NEVER
      return 1 + of([*node.first[: node.need], *rest])
    if isinstance(node, Text):
      return 0 if node.more is None or node.more >= 0 else NEVER
    if isinstance(node, Words):
      return 0 if node.texts else NEVER
    return 0


def _parts(node: Node) -> tuple[int, ...]:
  """The nodes that a node is made of."""
  match node:
    case Either():
      return node.options
    case Chain():
      return node.parts
    case Record():
      return tuple(node.values[j] for j in node.required)
    case List():
      return node.first + (() if node.rest is None else (node.rest,))
    case _:
      return ()
