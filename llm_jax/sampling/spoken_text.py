"""From ids that come a few at a time to text that can be shown: whole characters, no stop strings.

A token may end in the middle of a character, and a stop string may begin in one token and end in
another. So what could still become something else is held back, and no more than that: the last
bytes of a character that is not whole, and the longest end of the text that begins a stop string.
"""

from collections.abc import Collection, Iterable, Sequence

from llm_jax.types import BadInput, Tokenizer

_UNKNOWN = '\ufffd'  # what bytes show as that are no character, or not yet
_MANY = 16  # ids that are decoded again with each push before the settled ones are let go
_BYTES = 4  # of the longest character


class Spoken:
  """An answer as it is said; `push` and `flush` return texts that joined are the whole of it.

  >>> from llm_jax.text.tokenizer import Tokenizer
  >>> tokenizer = Tokenizer.train(['the cat'], vocab_size=280)
  >>> spoken = Spoken(tokenizer, stop_strings=['STOP'])
  >>> [spoken.push([i]) for i in tokenizer.encode('caSTSTOP!')], spoken.stopped
  (['c', 'a', '', '', 'ST', '', '', '', ''], True)

  The string that is complete first ends the text; of those that are complete together, the one that
  began first. So it does not matter how many ids a push has.

  Attributes:
    stopped: whether a stop string or a stop id has come; neither belongs to the text.
  """

  def __init__(
    self,
    tokenizer: Tokenizer,
    stop_strings: Sequence[str] = (),
    stop_ids: Collection[int] = (),
    after: int | None = None,
    *,
    specials: bool = False,
  ) -> None:
    """Begins an answer.

    Args:
      tokenizer: of the model.
      stop_strings: texts that end it.
      stop_ids: ids that end it.
      after: the id that stands before it.
      specials: whether control tokens are shown by their names.

    Raises:
      BadInput: a stop string is empty.
    """
    if not all(stop_strings):
      raise BadInput('sampling: an empty stop string would stop every answer')
    self.stopped = False
    self._tokenizer, self._specials, self._after = tokenizer, specials, after
    self._strings, self._stop_ids = tuple(stop_strings), frozenset(stop_ids)
    self._control = frozenset(tokenizer.specials.values())
    self._ids: list[int] = []  # since the last place where a character ended
    self._shown = ''  # of their text, what has been passed on
    self._held = ''  # whole characters that may begin a stop string

  def push(self, ids: Iterable[int]) -> str:
    """What can be shown now that these ids have been said; '' once it has stopped."""
    text = ''
    for i in ids:
      if self.stopped:
        break
      if i in self._stop_ids:
        text += self.flush()
        self.stopped = True
        break
      self._ids.append(i)
      text += self._passed(self._settled())
    return text

  def flush(self) -> str:
    """What was held back, now that nothing follows."""
    if self.stopped:
      return ''
    text = self._passed(self._decoded(self._ids, self._after)[len(self._shown) :])
    held, self._held = self._held, ''
    self._ids, self._shown = [], ''
    return text if self.stopped else text + held

  def _decoded(self, ids: Sequence[int], after: int | None) -> str:
    return self._tokenizer.decode(ids, specials=self._specials, after=after)

  def _settled(self) -> str:
    """New text that no later id can change."""
    text = self._decoded(self._ids, self._after)
    whole = text.removesuffix(_UNKNOWN)  # bytes of one character at most wait for others
    new, self._shown = whole[len(self._shown) :], whole
    if whole == text:
      self._forget(len(self._ids))
      self._shown = ''
    elif len(self._ids) > _MANY:
      for keep in range(1, _BYTES + 1):
        cut = len(self._ids) - keep
        before = self._decoded(self._ids[:cut], self._after)
        if before + self._decoded(self._ids[cut:], self._last(cut)) == text:
          self._forget(cut)
          self._shown = whole[len(before) :]
          break
    return new

  def _last(self, cut: int) -> int | None:
    """The id that decides whether a blank at the beginning of the rest is one."""
    for i in reversed(self._ids[:cut]):
      if i in self._control or self._tokenizer.token_bytes[i] > 0:
        return i
    return self._after

  def _forget(self, cut: int) -> None:
    self._after, self._ids = self._last(cut), self._ids[cut:]

  def _passed(self, new: str) -> str:
    """What of the held and the new text comes before any stop string, and begins none."""
    if not self._strings or not new:
      return new
    text = self._held + new
    found = [(at + len(s), at) for s in self._strings if (at := text.find(s)) >= 0]
    if found:
      self.stopped, self._held = True, ''
      return text[: min(found)[1]]
    hold = 0
    for s in self._strings:
      for size in range(min(len(s) - 1, len(text)), hold, -1):
        if text.endswith(s[:size]):
          hold = size
          break
    shown, self._held = text[: len(text) - hold], text[len(text) - hold :]
    return shown
