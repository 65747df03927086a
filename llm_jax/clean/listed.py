"""Lists that a config names or writes out: domains, words, phrases."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from llm_jax.options import Range, is_local
from llm_jax.types import BadInput

_PLACE = Range('that names a file of this machine, one entry a line', is_local)
Listed = Annotated[str, _PLACE] | Sequence[str]


def entries(listed: str | Sequence[str], where: str) -> list[str]:
  """The entries of a list, in its order; of a file, plain or `.gz`, its lines.

  White space around an entry, empty ones and those that begin with '#' are left out.

  Raises:
    BadInput: the file cannot be read, or is no text in UTF-8; the message begins with `where`.

  >>> entries(('casino ', '# games', ''), 'clean.url.hard_words')
  ['casino']
  """
  found = lines(Path(listed), where) if isinstance(listed, str) else listed
  stripped = (str(line).strip() for line in found)
  return [line for line in stripped if line and not line.startswith('#')]


def lines(path: Path, where: str) -> list[str]:
  """The lines of a text file, plain or `.gz`.

  Raises:
    BadInput: it cannot be read, or is no text in UTF-8; the message begins with `where`.
  """
  try:
    data = path.read_bytes()
    if path.suffix == '.gz':
      data = gzip.decompress(data)
    return data.decode('utf-8-sig').split('\n')
  except UnicodeDecodeError as error:
    raise BadInput(f'{where}: {path} is no text in UTF-8 (byte {error.start})') from None
  except (OSError, EOFError, zlib.error) as error:
    raise BadInput(f'{where}: {path} cannot be read ({error})') from None
