"""Experiments: bad input ends a script, `python -m experiments.<folder>.<file>`, with one line."""

import itertools
import sys
from typing import Any


def _told(kind: type[BaseException], error: BaseException, trace: Any) -> None:
  """Says what `llm_jax.main` would say; a mistake of ours is shown in full."""
  from llm_jax.main import told
  from llm_jax.text.terminal import say, shown

  if (line := told(error)) is None:
    sys.__excepthook__(kind, error, trace)
  else:
    say(shown(line, lines=False), file=sys.stderr)


if any(
  option == '-m' and name.startswith(f'{__name__}.')
  for option, name in itertools.pairwise(sys.orig_argv)
):
  sys.excepthook = _told
