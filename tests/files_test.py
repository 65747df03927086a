"""What was written comes back or is refused, whichever byte has changed; nothing is dropped."""

import json
import random

import pytest

from llm_jax import files
from llm_jax.training import history
from llm_jax.types import BadInput

RECORDS = (
  {'step': 1, 'loss': 2.5, 'odd': 'a\u2028b\u2029c\u0085d\x0be\x1cf', 'none': None},
  {'step': 2, 'loss': 1e-05, 'text': 'an emoji 🙂, "quotes" \\ and a\nline', 'n': 10**20},
  {'step': 4, 'deep': {'b': [1, {'a': 0.1}], 'a': True}, 'empty': ''},
)


def flips(data, count, seed=0):
  """`data` with one byte changed, at so many places, of which the last byte is one."""
  draw = random.Random(seed)
  for place in [len(data) - 1, *draw.choices(range(len(data)), k=count)]:
    changed = bytearray(data)
    changed[place] ^= draw.choice([1 << bit for bit in range(8)] + [draw.randrange(1, 256)])
    yield bytes(changed)


@pytest.mark.parametrize('record', RECORDS)
def test_a_json_file_comes_back_or_is_refused(tmp_path, record):
  path = tmp_path / 'x.json'
  files.write_json(path, record)
  assert files.read_json(path, '') == record
  for data in flips(path.read_bytes(), 400):
    path.write_bytes(data)
    try:
      assert files.read_json(path, 'do this') == record  # white space, say
    except BadInput as error:
      assert str(path) in str(error) and 'do this' in str(error) and '\n' not in str(error)


@pytest.mark.parametrize('grows', [False, True])
def test_lines_come_back_or_are_refused(tmp_path, grows):
  path = tmp_path / 'x.jsonl'
  files.write_lines(path, map(files.sealed, RECORDS))
  read = lambda: tuple(record for _, record in files.read_lines(path, 'do this', grows=grows))
  assert read() == RECORDS
  for data in flips(path.read_bytes(), 800):
    path.write_bytes(data)
    try:
      assert read() == RECORDS
    except BadInput as error:
      assert f'{path}, line ' in str(error) and '\n' not in str(error)


def test_what_was_written_without_checksums_is_read(tmp_path):
  path = tmp_path / 'x.json'
  path.write_text(json.dumps(RECORDS[1], indent=2))
  assert files.read_json(path, '') == RECORDS[1]
  path.write_text(''.join(json.dumps(r) + '\n' for r in RECORDS))
  assert history.read(path) == [*RECORDS]


def test_only_a_last_line_may_be_cut_short(tmp_path):
  path = tmp_path / 'x.jsonl'
  lines = [files.json_line(r) for r in RECORDS]
  for stop in range(len(lines[2])):
    path.write_bytes(b''.join(lines[:2]) + lines[2][:stop])
    whole = stop >= len(lines[2]) - 1  # all but its end
    assert history.read(path) == [*RECORDS[: 2 + whole]]
  path.write_bytes(lines[0] + lines[1][:-5] + b'\n' + lines[2])
  before = path.read_bytes()
  for act in (history.read, lambda path: history.rewind(path, 1)):
    with pytest.raises(BadInput, match='line 2, is damaged'):
      act(path)
  assert path.read_bytes() == before


@pytest.mark.parametrize('step', range(6))
def test_rewinding_takes_out_what_came_later_and_nothing_else(tmp_path, step):
  path = tmp_path / 'x.jsonl'
  lines = [files.json_line(r) for r in RECORDS]
  old = b'{"step": 0,   "loss": 3}\n'  # as another version wrote it
  path.write_bytes(old + b''.join(lines) + lines[0][:7])
  history.rewind(path, step)
  kept = [line for line, r in zip(lines, RECORDS, strict=True) if r['step'] <= step]
  assert path.read_bytes() == old + b''.join(kept)


@pytest.mark.parametrize(
  'text',
  [b'[' * 100_000, b'{"a": ' * 100_000, b'1' * 5000, b'[1]', b'"a"', b'', b'\0' * 9, b'\xff\xfe{}'],
)
def test_what_is_no_json_object_is_refused(tmp_path, text):
  path = tmp_path / 'x'
  path.write_bytes(text)
  with pytest.raises(BadInput, match='x is damaged'):
    files.read_json(path, '')
  if text:
    path.write_bytes(text + b'\n')
    with pytest.raises(BadInput, match='x, line 1, is damaged'):
      files.read_lines(path, '')


def test_a_file_for_others_is_vouched_for_by_its_summary(tmp_path):
  path = tmp_path / 'answers.jsonl'
  path.write_bytes(b'{"a": 1}\n')
  assert files.damage_of(path) is None
  for theirs in ('not json', '[1]', '{"files": 3}', '{"files": {}}'):  # somebody else's summary
    (tmp_path / 'summary.json').write_text(theirs)
    assert files.damage_of(path) is None
  listed = {'files': {'answers.jsonl': files.sha256(path)}}
  files.write_json(tmp_path / 'summary.json', listed)
  assert files.damage_of(path) is None
  path.write_bytes(b'{"a": 2}\n')
  assert 'differs' in files.damage_of(path)
