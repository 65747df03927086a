"""Rows that are kept in a folder are those of memory, whatever happened to whoever made them."""

import json
import random
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from llm_jax.data import conversations, kept, preferences
from llm_jax.text import chat
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

WORDS = ['the', ' cat', ' sat', ' on', ' a mat', '.\n', ' 12', 'user', 'assistant']


def say(draw):
  return ''.join(draw.choices(WORDS, k=draw.randrange(1, 9)))


def talks(draw, count):
  for _ in range(count):
    turns = [('user', 'assistant')[i % 2] for i in range(2 * draw.randrange(1, 4))]
    yield {'messages': [{'role': role, 'content': say(draw)} for role in turns]}
  yield {'messages': [{'role': 'user', 'content': 'nobody answers'}]}


def pairs(draw, count):
  for i in range(count):
    answers = {'chosen': f'good {say(draw)}', 'rejected': f'bad {say(draw)}'}
    yield {'prompt': say(draw), 'margin': i} | answers
  yield {'prompt': 'twins', 'chosen': 'the same', 'rejected': 'the same'}


ROOMS = {
  'conversations': (conversations, talks, {}),
  'one conversation a row': (conversations, talks, {'pack': False}),
  'cut': (conversations, talks, {'length': 24, 'overlong': 'split'}),
  'preferences': (preferences, pairs, {}),
  'unpaired': (preferences, pairs, {'kind': 'unpaired', 'mismatched': True}),
}


@pytest.fixture(scope='module')
def tokenizer():
  draw = random.Random(0)
  return Tokenizer.train([''.join(draw.choices(WORDS, k=9)) for _ in range(200)], vocab_size=300)


@pytest.fixture
def file(tmp_path):
  """Writes records of a kind, and gives the path."""

  def write(records, name='mine.jsonl'):
    path = tmp_path / name
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    return str(path)

  return write


@pytest.fixture
def make(tokenizer, file, tmp_path):
  """Rows of a kind, in memory or with a cache."""

  def make(kind, cache='cache', source=None, **more):
    room, records, options = ROOMS[kind]
    if source is None:
      source = str(tmp_path / 'mine.jsonl')
      if not (tmp_path / 'mine.jsonl').exists():
        file(records(random.Random(1), 150))
    options = {'length': 80, 'validation_fraction': 0.1, **options, **more}
    cache = str(tmp_path / cache) if cache else ''
    return room.make(tokenizer, sources={'mine': source}, cache=cache, **options)

  return make


def same(some, others):
  assert len(some) == len(others) > 0
  for a, b in zip(some, others, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      assert a[name].dtype == b[name].dtype
      np.testing.assert_array_equal(a[name], b[name])


def counted(rows):
  """Each target with what is before it, however rows are packed."""
  found = []
  for row in rows:
    flat = {k: v.reshape(-1, v.shape[-1]) for k, v in row.items() if v.ndim}
    for tokens, segment, mask in zip(flat['tokens'], flat['segment'], flat['mask'], strict=True):
      for number in range(1, segment.max() + 1):
        there = segment == number
        found.append((tokens[there].tolist(), mask[there].tolist()))
  return sorted(found)


def shards(folder):
  return {path: path.stat().st_mtime_ns for path in folder.rglob('shard-*.json')}


def content(folder):
  return {path.name: path.read_bytes() for path in folder.rglob('*.npy')}


@pytest.mark.parametrize('kind', ROOMS)
def test_rows_of_one_shard_are_those_of_memory(make, kind, capsys):
  for split in ('train', 'validation'):
    plain = make(kind, cache='', split=split)
    said = capsys.readouterr().out
    for _ in range(2):  # made, and found
      same(make(kind, split=split), plain)
      assert capsys.readouterr().out == said


@pytest.mark.parametrize('kind', ROOMS)
def test_many_shards_hold_the_same_and_are_not_made_again(make, kind, monkeypatch, capsys):
  plain = make(kind, cache='')
  said = capsys.readouterr().out
  monkeypatch.setattr(kept, 'RECORDS', 20)
  rows = make(kind)
  counts = capsys.readouterr().out
  of_rows = r'\n|\(data.*\)|\d+ rows|, [0-9.]+% padding'  # conversations fill more rows
  parts = [sorted(re.sub(of_rows, '', line).split('; ')) for line in (counts, said)]
  assert parts[0] == parts[1]
  monkeypatch.setattr(chat, 'encode_all', None)
  if ROOMS[kind][0] is conversations:
    same(make(kind), rows)
  assert counted(rows) == counted(plain)


@pytest.mark.parametrize('kind', ['conversations', 'unpaired'])
def test_a_run_that_was_killed_is_gone_on_with(make, kind, tmp_path, monkeypatch):
  monkeypatch.setattr(kept, 'RECORDS', 20)
  same_all_along = make(kind, cache='whole')
  encode, left = chat.encode_all, []

  def killed(*args):
    left.pop()
    return encode(*args)

  monkeypatch.setattr(chat, 'encode_all', killed)
  before = {}
  for allowed in (1, 2, 3):
    left[:] = [None] * allowed
    with pytest.raises(IndexError):
      make(kind)
    there = shards(tmp_path / 'cache')
    assert there.items() >= before.items()
    before = there
  assert before
  monkeypatch.setattr(chat, 'encode_all', encode)
  same(make(kind), same_all_along)
  assert shards(tmp_path / 'cache').items() >= before.items()
  assert content(tmp_path / 'cache') == content(tmp_path / 'whole')


def test_what_rows_are_made_from_decides_whether_they_are_found(make, file, tmp_path):
  source = file(talks(random.Random(1), 30))
  folders = lambda: {path.name for path in (tmp_path / 'cache').iterdir()}
  make('conversations', source=source)
  assert len(folders()) == 1
  mapped = tmp_path / 'mapped.py'
  mapped.write_text('def record(record):\n  return record\n')
  for count, options in enumerate(
    [dict(length=100), dict(train_on='last'), dict(pack=False), dict(map=str(mapped))], 2
  ):
    make('conversations', source=source, **options)
    assert len(folders()) == count
  mapped.write_text('def record(record):\n  return record if len(record) else None\n')
  make('conversations', source=source, map=str(mapped))
  rows = make('conversations', source=file(talks(random.Random(2), 31)))
  assert len(folders()) == 7
  same(rows, make('conversations', source=source, cache=''))


@pytest.mark.parametrize('name', ['ids', 'mask', 'pieces', 'rows', 'values'])
def test_damage_is_refused_where_it_is_read(make, tmp_path, name):
  make('preferences')
  (path,) = (tmp_path / 'cache').rglob(f'{name}-00000.npy')
  data = bytearray(path.read_bytes())
  for place in (len(data) - 1, 20):
    changed = bytearray(data)
    changed[place] ^= 1
    path.write_bytes(changed)
    rows = make('preferences')
    with pytest.raises(BadInput, match=f'{name}-00000.npy is damaged; delete .*, and it is made'):
      rows[0]
  path.unlink()
  with pytest.raises(BadInput, match=f'{name}-00000.npy is missing; delete'):
    make('preferences')[0]


def test_who_comes_second_waits_and_makes_nothing(make, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(kept, 'SECONDS', 0.1)
  plain = make('conversations')
  (folder,) = (tmp_path / 'cache').iterdir()
  ends = folder / kept.ENDS
  text = ends.read_text()
  ends.unlink()
  hold = (
    f'import time; from pathlib import Path; from llm_jax.lock import locked\n'
    f'with locked({str(folder)!r}):\n'
    f'  print("locked", flush=True); time.sleep(1.5); Path({str(ends)!r}).write_text({text!r})\n'
  )
  other = subprocess.Popen([sys.executable, '-c', hold], stdout=subprocess.PIPE, text=True)
  assert other.stdout and other.stdout.readline() == 'locked\n'
  capsys.readouterr()
  monkeypatch.setattr(chat, 'encode_all', None)
  began = time.monotonic()
  same(make('conversations'), plain)
  assert time.monotonic() - began > 1
  assert capsys.readouterr().out.count('waiting for it') == 1
  assert other.wait() == 0


def test_builtin_records_are_not_kept(tokenizer, tmp_path):
  cache = tmp_path / 'cache'
  conversations.make(tokenizer, sources={'b': 'builtin:small_talk'}, cache=str(cache), length=2000)
  assert not cache.exists()
