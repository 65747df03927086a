"""What a person sees of a corpus while it is tokenized, and when it is finished."""

import time
from collections.abc import Mapping
from typing import Any

from llm_jax.text.terminal import bar, say
from llm_jax.text.visible import visible

_SECONDS_BETWEEN_LINES = 10


class Progress:
  """A bar on a terminal; elsewhere a plain line now and then."""

  def __init__(self) -> None:
    self._bar = bar(unit='B', unit_scale=True, disable=None, leave=False)
    self._start = self._told = time.monotonic()
    self._documents = self._bytes = 0

  def add(self, what: str, documents: int, size: int) -> None:
    self._documents += documents
    self._bytes += size
    self._bar.set_description(visible(what, lines=False))
    self._bar.update(size)
    if self._bar.disable and time.monotonic() - self._told > _SECONDS_BETWEEN_LINES:
      self._told = time.monotonic()
      speed = self._bytes / (time.monotonic() - self._start)
      say(
        f'tokenize: {what}, {self._documents:,} documents, {_megabytes(self._bytes)}, '
        f'{_megabytes(speed)}/s'
      )

  def close(self) -> None:
    self._bar.close()


def print_summary(workdir: str, finished: Mapping[str, Any]) -> None:
  """The table of a finished corpus: a line for each source and split.

  Args:
    workdir: where it is.
    finished: what `tokenize.json` holds.
  """
  heads = ('source', 'split', 'documents', 'size', 'tokens', 'rows', 'bytes/token', 'padding')
  lines = [heads] + [
    (
      name,
      split,
      f'{t["documents"]:,}',
      _megabytes(t['bytes']),
      f'{t["tokens"]:,}',
      f'{t["rows"]:,}',
      f'{t["bytes_per_token"]:.2f}',
      f'{t["padding"]:.1%}',
    )
    for name, splits in finished['sources'].items()
    for split, t in splits.items()
  ]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  say(f'tokenize: {workdir}, vocabulary {finished["vocab_size"]}, rows of {finished["length"]}')
  for line in lines:
    left = [word.ljust(width) for word, width in zip(line[:2], widths[:2], strict=True)]
    right = [word.rjust(width) for word, width in zip(line[2:], widths[2:], strict=True)]
    say('  ' + '  '.join(left + right))


def _megabytes(size: float) -> str:
  return f'{size / 1e6:,.1f} MB'
