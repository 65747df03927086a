"""The terminal, to which nothing is written but what `visible` lets through and our own style."""

import sys
from typing import Any, TextIO

from tqdm import tqdm
from tqdm.utils import ObjectWrapper

from llm_jax.text.visible import visible

STYLES = {'bold': '\033[1m', 'dim': '\033[2m'}
PLAIN = '\033[0m'


def say(*texts: object, end: str = '\n', style: str = '', file: TextIO | None = None) -> None:
  """Prints texts, made visible, with spaces between them; whoever reads along sees it at once.

  Args:
    texts: of any origin.
    end: what follows.
    style: one of STYLES, on a terminal; elsewhere there is none.
    file: by default stdout.
  """
  stream = _bare(file or sys.stdout)
  begin, close = (STYLES[style], PLAIN) if style and stream.isatty() else ('', '')
  text = shown(' '.join(map(str, texts)))
  stream.write(f'{begin}{_spelled(text, stream)}{close}{visible(end)}')
  stream.flush()


def shown(text: str, *, lines: bool = True) -> str:
  """`visible`, and the URL of a folder where the text names the copy of it on this machine."""
  storage = sys.modules.get('llm_jax.storage')  # whoever has not imported it has no copies
  return visible(storage.named(text) if storage else text, lines=lines)


def bar(**options: Any) -> tqdm:
  """A progress bar on stderr, which moves the cursor; its description is for `visible`, too."""
  return tqdm(file=_bare(sys.stderr), **options)


def guard() -> None:
  """From now on all that Python writes is made visible: tracebacks, warnings, other packages."""
  sys.stdout, sys.stderr = (_Visible(_bare(stream)) for stream in (sys.stdout, sys.stderr))


class _Visible(ObjectWrapper):
  """A stream that is written to through `visible`; tqdm takes it for the one that it wraps."""

  def __setattr__(self, name: str, value: Any) -> None:
    # What a package puts in the place of `write` is put here: it may call what was here before.
    self.wrapper_setattr(name, value)

  def write(self, text: str) -> int:
    self._wrapped.write(_spelled(visible(text), self._wrapped))
    return len(text)

  def writelines(self, lines: Any) -> None:
    for line in lines:
      self.write(line)


def _spelled(text: str, stream: Any) -> str:
  """The text in the letters that the stream has."""
  encoding = getattr(stream, 'encoding', None) or 'utf-8'
  return text.encode(encoding, 'backslashreplace').decode(encoding)


def _bare(stream: Any) -> Any:
  return stream._wrapped if isinstance(stream, _Visible) else stream
