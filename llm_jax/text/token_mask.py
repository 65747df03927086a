"""Which tokens may come next in a text that a grammar holds: the whole vocabulary at once.

Tokens are led through the grammar together, along the tree of their bytes, a level of it at a time.
What the grammar says to a byte is kept in a table, so a level is one look-up for all of its places,
and a mask over 128,000 tokens takes milliseconds. Masks are kept too, by what they depend on.
"""

import collections
import itertools
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from llm_jax.text.grammar import CONTROL, Grammar
from llm_jax.text.grammar_moves import ITEMS, TEXT, Moves, State, is_whole
from llm_jax.types import BadInput, Tokenizer

MOST_STATES = 8192  # of a grammar's table before it is begun anew
MOST_SEEN = 3000  # states that tokens of one mask come by; longer tokens are left out then
MASK_BYTES = 2**26  # of all masks that are kept
_UNKNOWN, _DEAD = -1, 0
_SERIALS = itertools.count()
_NEEDED = frozenset(range(0x20, 0x7F)) | frozenset(range(0x80, 0xF5)) - {0xC0, 0xC1}


class Vocabulary:
  """The bytes of all tokens, as a tree.

  Args:
    tokenizer: of the model.
    size: V of the model, which may have more rows; by default that of the tokenizer.

  Raises:
    BadInput: there are bytes that no token stands for alone, so that a text might not go on.
  """

  def __init__(self, tokenizer: Tokenizer, size: int | None = None) -> None:
    self.size = size or tokenizer.vocab_size
    texts = [
      tokenizer.bytes_of(i) if tokenizer.token_bytes[i] > 0 else b''
      for i in range(tokenizer.vocab_size)
    ]
    alone = {text[0] for text in texts if len(text) == 1}
    if not alone >= _NEEDED:
      raise BadInput('the tokenizer of this model cannot spell every byte')
    self.texts, self.longest = texts, max(map(len, texts))
    self.masks: collections.OrderedDict[Any, np.ndarray] = collections.OrderedDict()
    self._levels = [*_levels(texts)]

  def keep(self, key: Any, mask_V: np.ndarray) -> None:
    """Remembers a mask, and forgets those that were not asked for longest."""
    self.masks[key] = mask_V
    while len(self.masks) * self.size > MASK_BYTES:
      self.masks.popitem(last=False)

  def walk(self, table: 'Table', state: int) -> np.ndarray:
    """bool [V]: the tokens whose bytes may follow a state."""
    mask_V = np.zeros(self.size, bool)
    places, states = np.zeros(1, np.int64), np.full(1, state, np.int32)
    seen = 0
    for level in self._levels:
      first, count = level.first[places], level.count[places]
      states = np.repeat(states, count)
      ends = np.cumsum(count)
      places = np.arange(len(states)) + np.repeat(first - (ends - count), count)
      states = table.after(states, level.byte[places])
      alive = states != _DEAD
      places, states = places[alive], states[alive]
      if not len(places):
        break
      at = np.zeros(len(level.byte), bool)
      at[places] = True
      mask_V[level.ids[at[level.at]]] = True
      came = np.zeros(len(table), bool)
      came[states] = True
      seen += int(came.sum())
      if seen > MOST_SEEN:
        break
    return mask_V


class _Level:
  """The places of the tree that are one byte deeper than those before.

  Attributes:
    first, count: of each place of the level before, where its own begin, and how many they are.
    byte: of each place.
    at, ids: the tokens that end here, and at which place.
  """

  def __init__(self, first: Any, count: Any, byte: Any, at: Any, ids: Any) -> None:
    self.first, self.count, self.byte, self.at, self.ids = first, count, byte, at, ids


def _levels(texts: Sequence[bytes]) -> Any:
  ids = np.array([i for i, text in enumerate(texts) if text])
  place, places = np.zeros(len(ids), np.int64), 1
  for depth in range(max(map(len, texts))):
    byte = np.array([texts[i][depth] for i in ids], np.int64)
    keys, inside = np.unique(place * 256 + byte, return_inverse=True)
    count = np.bincount(keys // 256, minlength=places)
    first = np.cumsum(count) - count
    done = np.array([len(texts[i]) == depth + 1 for i in ids], bool)
    yield _Level(first, count, keys % 256, inside[done], ids[done])
    ids, place, places = ids[~done], inside[~done], len(keys)


class Table:
  """The states of a grammar by number, and what follows them; 0 is the end of all.

  Args:
    grammar: what is allowed.
    longest: bytes of the longest token. What lies further ahead does not change a mask.
  """

  def __init__(self, grammar: Grammar, longest: int) -> None:
    self.moves, self.serial = Moves(grammar), next(_SERIALS)
    self._longest = longest
    self.begin()

  def begin(self) -> None:
    """Forgets all states."""
    self._numbers: dict[State, int] = {(): _DEAD}
    self._states: list[State] = [()]
    self._next = np.full((64, 256), _UNKNOWN, np.int32)
    self._next[_DEAD] = _DEAD

  def __len__(self) -> int:
    return len(self._states)

  def number(self, state: State) -> int:
    """Of a state."""
    if state not in self._numbers:
      self._numbers[state] = len(self._states)
      self._states.append(state)
      if len(self._states) > len(self._next):
        more = np.full_like(self._next, _UNKNOWN)
        self._next = np.concatenate([self._next, more])
    return self._numbers[state]

  def after(self, states: np.ndarray, byte: np.ndarray) -> np.ndarray:
    """The states after a byte each."""
    found = self._next[states, byte]
    unknown = found == _UNKNOWN
    if unknown.any():
      for key in np.unique(states[unknown].astype(np.int64) * 256 + byte[unknown]).tolist():
        state, symbol = divmod(key, 256)
        number = self.number(self.moves.after(self._states[state], symbol))
        self._next[state, symbol] = number
      found = self._next[states, byte]
    return found

  def view(self, state: State) -> State:
    """A state with the same mask, where counters count no further than a token can reach."""
    return tuple(self._near(stack) for stack in state)

  def _near(self, stack: Any) -> Any:
    items = []
    while stack is not None:
      item, stack = stack
      cut = lambda n: n if n is None else min(n, self._longest)
      if item[0] == TEXT:
        item = (TEXT, cut(item[1]), cut(item[2]), item[3])
      elif item[0] == ITEMS:
        item = (*item[:4], cut(item[4]), cut(item[5]), item[6])
      items.append(item)
    for item in reversed(items):
      stack = (item, stack)
    return stack


class Held:
  """An answer that a grammar holds, as `Request.allow`.

  Args:
    table: of the grammar; many answers share it, in one thread.
    vocabulary: of the model.
    stop: ids that end an answer; those that the grammar does not name may come where it is whole.
  """

  def __init__(self, table: Table, vocabulary: Vocabulary, stop: Collection[int]) -> None:
    self._table, self._vocabulary = table, vocabulary
    self._controls = table.moves.controls
    self._stop = [i for i in stop if i not in self._controls]
    self._state = table.moves.start

  @property
  def is_whole(self) -> bool:
    """Whether the answer may end here."""
    return is_whole(self._state)

  def mask(self) -> np.ndarray:
    """bool [V]: which ids may come next."""
    table, known = self._table, self._vocabulary.masks
    view = table.view(self._state)
    key = (table.serial, view)
    mask_V = known.get(key)
    if mask_V is None:
      if len(table) > MOST_STATES:
        table.begin()
      mask_V = self._vocabulary.walk(table, table.number(view))
      for i in self._controls:
        mask_V[i] = bool(table.moves.after(view, CONTROL + i))
      self._vocabulary.keep(key, mask_V)
    known.move_to_end(key)
    mask_V = mask_V.copy()
    mask_V[self._stop] = self.is_whole
    return mask_V

  def advance(self, token: int) -> None:
    """Tells it which id came.

    Raises:
      ValueError: it was none of those.
    """
    after, state = self._table.moves.after, self._state
    if token in self._controls:
      state = after(state, CONTROL + token)
    else:
      for byte in self._vocabulary.texts[token] or b'\0':
        state = after(state, byte)
    if not state:
      raise ValueError(f'token {token} may not come here')
    self._state = state
