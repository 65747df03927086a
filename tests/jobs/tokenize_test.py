"""The job end to end: restarts and threads do not change a byte; bad input is told in one line."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from llm_jax.data import packed, splits
from llm_jax.jobs import shards, tokenize
from llm_jax.text import folder
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput
from tests import processes

WORDS = [
  'the',
  'cat',
  'sat',
  'on',
  'a',
  'mat',
  'while',
  'many',
  'dogs',
  'ran',
  'home',
  'at',
  'noon',
]


def write_jsonl(path, n=120, seed=0):
  draw = random.Random(seed)
  texts = [
    f'Story {i}.\n  ' + ' '.join(draw.choices(WORDS, k=draw.randint(3, 60))) for i in range(n)
  ]
  path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
  return texts


def config(tmp_path, workdir='out', **changes):
  c = ConfigDict()
  c.job = 'tokenize'
  c.workdir = str(tmp_path / workdir)
  c.seed = 0
  c.sources = dict(one=str(tmp_path / 'one.jsonl'), two=str(tmp_path / 'two.jsonl'))
  c.validation_fraction = 0.1
  c.tokenizer = dict(vocab_size=320)
  c.length = 32
  c.shard_documents = 25
  c.update(changes)
  return c


@pytest.fixture
def texts(tmp_path):
  return {
    'one': write_jsonl(tmp_path / 'one.jsonl'),
    'two': write_jsonl(tmp_path / 'two.jsonl', 40, 1),
  }


def contents(folder):
  return {
    str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()
  }


def read_documents(folder, source, split):
  """The texts back out of the shards, put together at bos and eos."""
  tokenizer = Tokenizer.load(folder / 'tokenizer')
  found = []
  for path in sorted((folder / source / split).glob('tokens-*.npy')):
    tokens_RL = np.load(path)
    segment_RL = np.load(path.with_name(path.name.replace('tokens', 'segment')))
    ids = tokens_RL[segment_RL > 0].tolist()
    while ids:
      assert ids[0] == tokenizer.bos_id
      end = ids.index(tokenizer.eos_id)
      found.append(tokenizer.decode(ids[:end]))
      ids = ids[end + 1 :]
  return found


def test_all_text_is_there_once_and_split_by_hash(tmp_path, texts, capsys):
  tokenize.main(config(tmp_path, pack='split'))
  shown = capsys.readouterr().out
  assert 'bytes/token' in shown and 'padding' in shown
  out = tmp_path / 'out'
  for name, expected in texts.items():
    train, held_out = (read_documents(out, name, s) for s in ('train', 'validation'))
    assert sorted(train + held_out) == sorted(expected)
    assert 0 < len(held_out) < len(expected) / 3
    assert [t for t in expected if t in set(train)] == train
  made = json.loads((out / 'tokenize.json').read_text())
  total = made['sources']['one']['train']
  assert total['bytes'] == sum(len(t) for t in read_documents(out, 'one', 'train'))
  assert total['rows'] == sum(total['shard_rows']) and len(total['shard_rows']) > 3
  assert total['bytes_per_token'] > 1.5


def test_rows_can_be_trained_on(tmp_path, texts):
  tokenize.main(config(tmp_path))
  tokenizer = Tokenizer.load(tmp_path / 'out' / 'tokenizer')
  made = json.loads((tmp_path / 'out' / 'tokenize.json').read_text())
  for split in ('train', 'validation'):
    rows = packed.make(tokenizer, path=str(tmp_path / 'out'), split=split, length=32)
    assert len(rows) == sum(source[split]['rows'] for source in made['sources'].values())
    tokens = sum(int((row['segment'] > 0).sum()) for row in rows)
    assert tokens == sum(source[split]['tokens'] for source in made['sources'].values())


@pytest.mark.parametrize('finished_shards', [0, 1, 4])
def test_killed_and_restarted_gives_the_same_bytes(tmp_path, texts, monkeypatch, finished_shards):
  tokenize.main(config(tmp_path, 'whole'))
  write_shard, calls = packed.write_shard, []

  def killed(folder, shard, *rest):
    calls.append(shard)
    if len(calls) > finished_shards:
      folder.mkdir(parents=True, exist_ok=True)
      (folder / f'tokens-{shard:05d}.npy').write_bytes(b'half a shard')
      raise KeyboardInterrupt
    write_shard(folder, shard, *rest)

  monkeypatch.setattr(packed, 'write_shard', killed)
  with pytest.raises(KeyboardInterrupt):
    tokenize.main(config(tmp_path))
  assert not (tmp_path / 'out' / 'tokenize.json').exists()
  written = []
  monkeypatch.setattr(packed, 'write_shard', lambda *a: (written.append(a[:2]), write_shard(*a)))
  monkeypatch.setattr(
    Tokenizer, 'train', lambda *_, **__: pytest.fail('trained twice')
  )  # the tokenizer is there already
  tokenize.main(config(tmp_path))
  whole = contents(tmp_path / 'whole')
  assert contents(tmp_path / 'out') == whole
  assert len(written) == sum('tokens-' in name for name in whole) - finished_shards


@pytest.mark.parametrize('order', [(1, 2, 3), (3, 1, 2)])
def test_parts_of_several_processes_are_the_bytes_of_one(tmp_path, texts, order, capsys):
  tokenize.main(config(tmp_path, 'whole'))
  whole = contents(tmp_path / 'whole')
  shards = sum('tokens-' in name for name in whole)
  for i, number in enumerate(order):
    before = len([*(tmp_path / 'out').rglob('tokens-*')])
    tokenize.main(config(tmp_path, shard=f'{number}/3'))
    made = len([*(tmp_path / 'out').rglob('tokens-*')]) - before
    assert made == len(range(number - 1, shards, 3))
    assert (tmp_path / 'out' / 'tokenize.json').exists() == (i == 2)
    if i < 2:
      assert f'part {number} of 3 is done; ' in capsys.readouterr().out
  assert contents(tmp_path / 'out') == whole


def test_parts_at_the_same_time_are_the_bytes_of_one(tmp_path, texts):
  tokenize.main(config(tmp_path, 'whole'))
  words = [config(tmp_path, shard=f'{i}/2') for i in (1, 1, 2)]  # one of them twice
  started = [processes.Process(tokenize.main, c) for c in words]
  assert [process.wait()[0] for process in started] == [0, 0, 0]
  assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')


@contextlib.contextmanager
def held(folder):
  """A process that has the lock of a folder, until it reads the end of its input."""
  holds = (
    'import sys; from llm_jax.lock import locked\n'
    'with locked(sys.argv[1]): print("has it", flush=True); sys.stdin.read()'
  )
  environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])}
  run = [sys.executable, '-c', holds, str(folder)]
  with subprocess.Popen(run, env=environment, stdin=-1, stdout=-1) as process:
    process.stdout.readline()
    yield process
    process.stdin.close()


def test_a_part_waits_for_the_tokenizer_of_another(tmp_path, texts, monkeypatch, capsys):
  monkeypatch.setattr(shards, 'SECONDS', 0.01)
  with held(tmp_path / 'out') as process:

    def ended():
      process.stdin.close()
      process.wait()

    monkeypatch.setattr(shards.storage, 'refresh', ended)  # which follows the first look
    tokenize.main(config(tmp_path, shard='1/2'))
  said = capsys.readouterr().out
  assert 'waiting for it' in said and 'part 1 of 2 is done' in said


def test_one_process_makes_what_parts_have_left_and_clears_up_after_killed_ones(tmp_path, texts):
  tokenize.main(config(tmp_path, 'whole'))
  tokenize.main(config(tmp_path, shard='2/2'))
  (tmp_path / 'out' / 'one' / 'train' / 'making-00000').mkdir()
  (tmp_path / 'out' / 'one' / 'train' / 'making-00000' / '.lock').touch()
  tokenize.main(config(tmp_path))
  assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')


def test_a_shard_that_another_process_writes_is_left_to_it(tmp_path, texts, capsys):
  tokenize.main(config(tmp_path, shard='2/2'))
  with held(tmp_path / 'out' / 'one' / 'train' / 'making-00000'):
    tokenize.main(config(tmp_path, shard='1/2'))
  assert '1 shards of others are left, such as' in capsys.readouterr().out
  assert not (tmp_path / 'out' / 'tokenize.json').exists()
  tokenize.main(config(tmp_path, shard='1/2'))
  assert (tmp_path / 'out' / 'tokenize.json').exists()


def test_parts_of_a_deleted_folder_stop(tmp_path, texts, monkeypatch):
  write_shard = packed.write_shard

  def deleted(*words):
    write_shard(*words)
    shutil.rmtree(tmp_path / 'out')

  monkeypatch.setattr(packed, 'write_shard', deleted)
  with pytest.raises(BadInput, match='was deleted'):
    tokenize.main(config(tmp_path, shard='1/2'))
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('shard', ['3/2', '0/2', 'two'])
def test_a_part_that_is_none(tmp_path, texts, shard):
  with pytest.raises(BadInput, match=f'shard: {shard!r}; choose one of n processes'):
    tokenize.main(config(tmp_path, shard=shard))
  assert not (tmp_path / 'out').exists()


def test_thread_count_changes_nothing(tmp_path, texts):
  for threads in (1, 3):
    tokenize.main(config(tmp_path, f'with{threads}', threads=threads))
  assert contents(tmp_path / 'with1') == contents(tmp_path / 'with3')


def test_finished_workdir_returns_at_once(tmp_path, texts, capsys):
  tokenize.main(config(tmp_path))
  before = contents(tmp_path / 'out')
  capsys.readouterr()
  (tmp_path / 'one.jsonl').unlink()
  tokenize.main(config(tmp_path))
  assert 'finished already' in capsys.readouterr().out
  assert contents(tmp_path / 'out') == before


def test_tokenizer_and_validation_of_the_user(tmp_path, texts):
  tokenize.main(config(tmp_path))
  held_out = write_jsonl(tmp_path / 'held_out.jsonl', 12, 7)
  again = config(
    tmp_path,
    'again',
    tokenizer=ConfigDict(dict(path=str(tmp_path / 'out' / 'tokenizer'))),
    validation=dict(two=str(tmp_path / 'held_out.jsonl')),
    pack='split',
  )
  del again.tokenizer['vocab_size']
  tokenize.main(again)
  prints = [json.loads((tmp_path / d / 'tokenize.json').read_text()) for d in ('out', 'again')]
  assert prints[0]['fingerprint'] == prints[1]['fingerprint']
  assert read_documents(tmp_path / 'again', 'two', 'validation') == held_out
  assert read_documents(tmp_path / 'again', 'two', 'train') == texts['two']


def test_another_config_in_the_same_workdir(tmp_path, texts):
  tokenize.main(config(tmp_path))
  with pytest.raises(BadInput, match=r'length = 32, not 64; tokenizer\.vocab_size = 320, not 310'):
    tokenize.main(config(tmp_path, length=64, tokenizer=dict(vocab_size=310)))


def test_bad_input_can_be_corrected_in_place(tmp_path, texts):
  with pytest.raises(BadInput, match='more than this text can fill'):
    tokenize.main(config(tmp_path, tokenizer=dict(vocab_size=9999)))
  c = config(tmp_path)
  c.sources.one += 'x'
  with pytest.raises(BadInput, match='jsonlx'):
    tokenize.main(c)
  tokenize.main(config(tmp_path))


@pytest.mark.parametrize('name', ['byte_level', 'sentencepiece'])
def test_rows_of_a_hugging_face_tokenizer(tmp_path, texts, name):
  pytest.importorskip('tokenizers')
  source = Path(__file__).parents[1] / 'fixtures' / 'tokenizers' / name
  c = config(tmp_path, length=512)
  c.tokenizer = ConfigDict({'path': str(source), 'add': ('<|mask|>',)})
  tokenize.main(c)
  out = tmp_path / 'out'
  tokenizer, report = (
    folder.load(out / 'tokenizer'),
    json.loads((out / 'tokenize.json').read_text()),
  )
  assert tokenizer.fingerprint == report['fingerprint']
  assert tokenizer.special('<|mask|>') == folder.load(source).vocab_size
  train = report['sources']['one']['train']
  around = len(tokenizer.begin) + 1
  tokens = train['tokens'] - around * train['documents']
  assert train['bytes_per_token'] == pytest.approx(train['bytes'] / tokens, abs=1e-4)
  every = [*texts['one'], *texts['two']]
  wanted = [[*tokenizer.begin, *tokenizer.encode(text), tokenizer.eos_id] for text in every]
  found = []
  for split in ('train', 'validation'):
    for row in packed.make(tokenizer, path=str(out), split=split):
      segments = range(1, row['segment'].max() + 1)
      found += [row['tokens'][row['segment'] == segment].tolist() for segment in segments]
  assert sorted(found) == sorted(wanted)


def test_a_tokenizer_without_an_end_is_refused_before_rows(tmp_path, texts):
  pytest.importorskip('tokenizers')
  source = Path(__file__).parents[1] / 'fixtures' / 'tokenizers' / 'sentencepiece'
  (tmp_path / 'bare').mkdir()
  (tmp_path / 'bare' / 'tokenizer.json').write_bytes((source / 'tokenizer.json').read_bytes())
  c = config(tmp_path)
  c.tokenizer = ConfigDict({'path': str(tmp_path / 'bare')})
  with pytest.raises(BadInput, match='no file says which token ends a document'):
    tokenize.main(c)
  assert not (tmp_path / 'out').exists()


def test_changed_text_is_noticed_on_restart(tmp_path, texts):
  tokenize.main(config(tmp_path))
  (tmp_path / 'out' / 'tokenize.json').unlink()
  write_jsonl(tmp_path / 'one.jsonl', seed=5)
  with pytest.raises(BadInput, match='changed since it was packed'):
    tokenize.main(config(tmp_path))


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(pack='bestfit'), "did you mean 'best_fit'"),
    (dict(lenght=64), "unknown option 'lenght'; did you mean 'length'"),
    (dict(tokenizer=dict(vocabsize=300)), "did you mean 'vocab_size'"),
    (dict(tokenizer=dict(path='somewhere')), 'vocab_size is of no use with tokenizer.path'),
    (dict(validation=dict(onne='x.jsonl')), "did you mean 'one'"),
    (dict(length=1), 'length 1'),
    (dict(shard_documents=0), 'shard_documents 0'),
    (dict(validation_fraction=1.0), 'validation_fraction 1.0'),
  ],
)
def test_bad_options(tmp_path, texts, changes, message):
  with pytest.raises(BadInput, match=message):
    tokenize.main(config(tmp_path, **changes))


def test_bad_sources(tmp_path, texts):
  for name in ('a/b', '', 'tokenizer'):
    c = config(tmp_path)
    c.sources = ConfigDict({name: str(tmp_path / 'one.jsonl')})
    with pytest.raises(BadInput, match='cannot be a folder'):
      tokenize.main(c)
  c = config(tmp_path)
  c.workdir = ''
  with pytest.raises(BadInput, match="workdir ''; choose"):
    tokenize.main(c)
  c = config(tmp_path)
  c.sources = ConfigDict()
  with pytest.raises(BadInput, match='sources is empty'):
    tokenize.main(c)


def test_source_without_documents(tmp_path, texts):
  (tmp_path / 'two.jsonl').write_text('{"text": ""}\n')
  with pytest.raises(BadInput, match='two'):
    tokenize.main(config(tmp_path))
  assert not (tmp_path / 'out' / 'tokenize.json').exists()


def test_lone_surrogate_names_source_and_document(tmp_path, texts):
  with open(tmp_path / 'two.jsonl', 'a') as file:
    file.write('{"text": "bad \\ud800"}\n')
  with pytest.raises(BadInput, match=r'two\.jsonl, line 41: half of a character, .ud800'):
    tokenize.main(config(tmp_path))


def test_builtin_validation_comes_from_the_source(tmp_path, monkeypatch):
  class Halves:
    has_splits = True

    def __init__(self, split):
      self.split = split

    def __iter__(self):
      return (f'{self.split} document {word}' for word in WORDS * 5)

  monkeypatch.setattr(splits, 'open_source', lambda spec, *, split: Halves(split))
  c = config(tmp_path, tokenizer=dict(vocab_size=295))
  c.sources = ConfigDict(dict(own='any'))
  tokenize.main(c)
  for split in ('train', 'validation'):
    found = read_documents(tmp_path / 'out', 'own', split)
    assert len(found) == 5 * len(WORDS)
    assert all(text.startswith(split) for text in found)


def test_the_end_of_a_single_document_is_held_out(tmp_path):
  book = tmp_path / 'book.txt'
  book.write_text('\n'.join(f'{i} the cat sat on a mat' for i in range(200)))
  c = config(tmp_path, tokenizer=dict(vocab_size=300))
  c.sources = ConfigDict(dict(book=str(book)))
  tokenize.main(c)
  (train,), (held_out,) = (
    read_documents(tmp_path / 'out', 'book', split) for split in ('train', 'validation')
  )
  assert train + held_out == book.read_text()
  assert train.endswith('mat\n') and 0.08 < len(held_out) / len(train + held_out) < 0.12
