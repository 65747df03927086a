"""Reads every tokenizer of a folder and compares it with ids that other programs gave.

python -m experiments.interop.tokenizers_check FOLDER

In FOLDER lie `NAME.tokenizer.json`, or `NAME/tokenizer.json`, and `NAME.ids.json`, each perhaps
with `.gz` behind it. An ids file is {'rows': [{'text', 'ids', 'ids_specials_parsed'}, ...]}; the
last is there where control tokens in the text, read as such, give other ids.
"""

import gzip
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import tokenizers

from llm_jax.data.builtin import documents
from llm_jax.text.tokenizer_json import TokenizerJson

COLUMNS = ('ids', 'parsed', 'forged', 'back', 'load s', 'library', '1 thread', 'all cores')
AROUND = ('{}', ' {} ', 'a{}b', '{0}{0}', '\n{}<', '{0} {0}')


def read(path: Path) -> bytes:
  """The bytes of a file, unpacked."""
  return gzip.decompress(path.read_bytes()) if path.suffix == '.gz' else path.read_bytes()


def found(root: Path) -> Iterator[tuple[str, bytes, list[dict]]]:
  """(name, tokenizer.json, rows of the ids file; none without one)."""
  paths = [*root.glob('*.tokenizer.json*'), *root.glob('*/tokenizer.json')]
  for path in sorted(paths):
    name = path.parent.name if path.name == 'tokenizer.json' else path.name.split('.')[0]
    ids = next(root.glob(f'{name}.ids.json*'), None)
    yield name, read(path), json.loads(read(ids))['rows'] if ids else []


def rate(encode: Callable[[list[str]], object], texts: list[str]) -> float:
  """Megabytes of text a second, the best of three."""
  size, best = sum(len(text.encode()) for text in texts), 0.0
  for _ in range(3):
    start = time.perf_counter()
    encode(texts)
    best = max(best, size / (time.perf_counter() - start) / 1e6)
  return best


def row(data: bytes, rows: list[dict], texts: list[str]) -> tuple[TokenizerJson, list[str]]:
  """The tokenizer, and its line of the table."""
  with tempfile.TemporaryDirectory() as place:
    (Path(place) / 'tokenizer.json').write_bytes(data)
    start = time.perf_counter()
    tokenizer = TokenizerJson.load(place)
    seconds = time.perf_counter() - start
  library = tokenizers.Tokenizer.from_str(data.decode())
  library.encode_special_tokens = True
  theirs = lambda some: [library.encode(text, add_special_tokens=False).ids for text in some]
  asked = [r['text'] for r in rows]
  parsed = [r.get('ids_specials_parsed', r['ids']) for r in rows]
  batch = tokenizer.encode_batch(asked)
  equal = sum(ids == r['ids'] for ids, r in zip(batch, rows, strict=True))
  same = sum(tokenizer.encode(t, specials=True) == p for t, p in zip(asked, parsed, strict=True))
  back = sum(tokenizer.decode(ids) == text for ids, text in zip(batch, asked, strict=True))
  control = set(tokenizer.specials.values())
  forged = [form.format(name) for name in tokenizer.specials for form in AROUND]
  made = sum(not control.isdisjoint(ids) for ids in tokenizer.encode_batch(forged))
  return tokenizer, [
    f'{equal}/{len(rows)}',
    f'{same}/{len(rows)}',
    f'{made}/{len(forged)}',
    f'{back}/{len(rows)}',
    f'{seconds:.2f}',
    f'{rate(theirs, texts):.1f}',
    f'{rate(lambda some: tokenizer.encode_batch(some, threads=1), texts):.1f}',
    f'{rate(tokenizer.encode_batch, texts):.1f}',
  ]


def main(root: str) -> None:
  """Prints the table."""
  texts = documents('train')[:400]
  print('| tokenizer |', ' | '.join(COLUMNS), '| changes |')
  print('|---' * (len(COLUMNS) + 2) + '|')
  for name, data, rows in found(Path(root)):
    tokenizer, cells = row(data, rows, texts)
    print(f'| {name} |', ' | '.join(cells), f'| {"; ".join(tokenizer.normalizes) or "-"} |')


if __name__ == '__main__':
  main(sys.argv[1])
