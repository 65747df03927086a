"""The folder that a run works in: whose it is, what it was made from, whether it is finished."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from llm_jax import storage
from llm_jax.files import check_writable, read_json, sha256, write_json
from llm_jax.models.compute import without_compute
from llm_jax.types import BadInput

# A stage writes one of them, when it is finished.
ENDS = ('artifact.json', 'tokenize.json', 'clean.json', 'summary.json')
MADE_FROM = 'made_from.json'


def holds(path: str | Path, config: Mapping[str, Any], *, may_change: Sequence[str] = ()) -> bool:
  """Whether the folder was begun by a run with this config; False if it is new.

  Args:
    path: the workdir.
    config: the whole config as plain dicts.
    may_change: top-level fields that a resumed run may give other values.

  Raises:
    BadInput: nothing can be written there, or the folder holds a run with another config; the
      message names the differing fields.
  """
  folder = Path(path)
  check_writable(folder, 'workdir')
  if not (folder / 'config.json').is_file():
    return False
  drop = lambda c: {k: v for k, v in c.items() if k not in may_change}
  theirs = read_json(
    folder / 'config.json', 'delete this file if your command is the one that began the run'
  )
  if 'model' in theirs and 'compute' not in theirs:  # from when both were one group
    theirs['model'] = without_compute(theirs['model'])
  differing = _differences(drop(theirs), drop(json.loads(json.dumps(storage.named(config)))))
  if differing:
    raise BadInput(
      f'workdir: {str(folder)!r} holds another run, which has {"; ".join(differing[:5])}; '
      'choose another --config.workdir, or delete the folder'
    )
  return True


def claim(path: str | Path, config: Mapping[str, Any]) -> None:
  """Writes `config.json`: from now on the folder belongs to the run with this config.

  A run that begins also writes down what other stages' folders and files, of all that its config
  names, hold at this moment.
  """
  if jax.process_index() == 0:
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / 'config.json').is_file():
      write_json(folder / MADE_FROM, storage.named(digests(config)))
    write_json(folder / 'config.json', storage.named(config))


def made_from(path: str | Path) -> dict[str, str]:
  """Folder or file -> its `digest` when the run began; empty where that was not written down."""
  record = Path(path) / MADE_FROM
  forget = 'delete this file, if what the stage was made from is still the same'
  return read_json(record, forget) if record.is_file() else {}


def finished(path: str) -> str | None:
  """The file that the stage which fills the folder wrote last; None if it has not ended."""
  return next(filter(os.path.isfile, (os.path.join(path, end) for end in ENDS)), None)


def digest(path: str) -> str | None:
  """The sha256 sum of what a finished stage left: of a file in its folder, or of its last one.

  None for whatever else the text may be.
  """
  beside = os.path.isfile(path) and finished(os.path.dirname(path))
  file = path if beside else finished(path)
  return sha256(Path(file)) if file else None


def digests(config: Any) -> dict[str, str]:
  """Folder or file -> its `digest`, of everything that a config names and a stage has left."""
  found = {text: digest(text) for text in texts(config)}
  return {text: was for text, was in found.items() if was}


def texts(config: Any) -> Iterator[str]:
  """Every text of a config but ''."""
  if isinstance(config, str) and config:
    yield config
  elif isinstance(config, Mapping):
    yield from (text for value in config.values() for text in texts(value))
  elif isinstance(config, (list, tuple)):
    yield from (text for value in config for text in texts(value))


def _differences(theirs: Any, mine: Any, path: str = '') -> list[str]:
  if isinstance(theirs, dict) and isinstance(mine, dict):
    out = []
    for key in sorted((theirs.keys() | mine.keys()) - {'cache'}):  # where something is kept
      inner = f'{path}.{key}' if path else key
      out += _differences(theirs.get(key), mine.get(key), inner)
    return out
  return [] if theirs == mine else [f'{path} = {theirs!r}, not {mine!r}']
