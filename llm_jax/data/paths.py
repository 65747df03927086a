"""The files that a specification names, and how each of them is read."""

import difflib
import glob
import os
from pathlib import Path

from llm_jax.data import arrow
from llm_jax.data.compression import EXTRAS, SUFFIXES, extra
from llm_jax.files import damage_of, sha256
from llm_jax.options import is_local
from llm_jax.storage import url_of
from llm_jax.types import BadInput

CLEANED = 'clean.json'  # in a folder that job `clean` has finished
KINDS = ('.jsonl', '.json', '.arrow', '.parquet', '.csv', '.tsv', '.txt')


def paths(spec: str) -> list[str]:
  """The files of a path or glob, sorted by name, those of a folder of job `clean`, or the folder of
  a dataset that was saved.

  Raises:
    BadInput: there is none.
  """
  path = os.path.expanduser(spec)
  if spec.strip() and not is_local(spec):
    raise BadInput(f'{spec!r}: only files of this machine can be read; copy it here first')
  if arrow.is_saved(path):
    return [path]
  if os.path.isfile(os.path.join(path, CLEANED)):
    found = sorted(glob.glob(os.path.join(glob.escape(path), 'pages', '*.jsonl.zst')))
    if not found:
      raise BadInput(f'{spec}: no page was kept there; its report.html says why')
    return found
  if os.path.isdir(path):
    raise BadInput(f'{spec}: is a folder; name the files in it, such as {path.rstrip("/")}/*.jsonl')
  if os.path.exists(path):
    return [path]
  if glob.has_magic(path):
    found = sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))
    if not found:
      raise BadInput(f'{spec}: no file matches in {os.getcwd()}; check the folder and the suffix')
    return found
  parent = Path(path).parent
  if not parent.is_dir():
    raise BadInput(f'{spec}: there is no folder {parent} in {os.getcwd()}')
  names = sorted(p.name for p in parent.iterdir()) + ['builtin'] * ('/' not in spec)
  close = difflib.get_close_matches(Path(path).name, names, n=3)
  hint = ' or '.join(map(repr, close)) if close else "'builtin', tfds:<name> or a file"
  raise BadInput(f'{spec}: no such file in {parent.resolve()}; did you mean {hint}?')


def stamps(spec: str) -> list[tuple[str, int, int | str]]:
  """(name, bytes, time of the last change) of the files that a path or glob names, unread.

  For the time, the copy of a URL has the sum of its content: its time is that of this machine.
  """
  found: list[tuple[str, int, int | str]] = []
  for path in paths(spec):
    for file in arrow.files(path) if os.path.isdir(path) else [path]:
      url, about = url_of(Path(file)), os.stat(file)
      changed = sha256(Path(file)) if url else about.st_mtime_ns
      found.append((url or os.path.abspath(file), about.st_size, changed))
  return found


def kind(path: str) -> str:
  """The suffix that says how to read a file, without the one of its compression."""
  if os.path.isdir(path):  # of a dataset that was saved
    return '.arrow'
  name = Path(path.lower())
  suffix = Path(name.stem).suffix if name.suffix in SUFFIXES else name.suffix
  if suffix not in KINDS:
    raise BadInput(
      f'{path}: unknown suffix {suffix!r}; known are {", ".join(KINDS)}, each also with '
      f'{" or ".join(SUFFIXES)} behind it'
    )
  return suffix


def check(path: str) -> None:
  """Whether a file, or all of a folder, can be read.

  Raises:
    BadInput: one is empty, damaged or missing, or the package that reads it is.
  """
  if os.path.isdir(path):
    for file in arrow.files(path):
      check(file)
    return
  if os.path.getsize(path) == 0:
    raise BadInput(f'{path}: the file is empty; fill it or leave it out')
  for suffix in {kind(path), Path(path).suffix.lower()} & EXTRAS.keys():
    extra(suffix, path)
  if damage := damage_of(Path(path)):
    raise BadInput(f'{path} is damaged: {damage}; if you changed it yourself, give it another name')
