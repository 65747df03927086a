"""The job end to end: processes, kills and order change no byte; nothing is dropped in silence."""

import contextlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from llm_jax import files
from llm_jax.jobs import clean
from llm_jax.jobs.cleaning import blocks, corpus
from llm_jax.types import BadInput

RULE = """
from llm_jax.clean.page import Limit, Rule

def make(*, low: int = 5, high: int = 12, cut: int = 0):
  def measure(page):
    page = page.edited(page.text[cut:])
    return page, {'words': len(page.words)}
  return Rule(measure, (Limit('short', 'words', low=low), Limit('long', 'words', high=high)))
"""
ACROSS = """
import hashlib
import numpy as np
from llm_jax.clean.page import Drop

class Copies:
  def sign(self, page):
    return np.frombuffer(hashlib.sha256(page.text.encode()).digest()[:8], np.uint64)

  def join(self, signatures, read):
    first, found = {}, {}
    for i, position in enumerate(signatures.positions.tolist()):
      was = first.setdefault(int(signatures[i][0]), position)
      if was != position:
        found[position] = {'of': was}
    texts = [page.text for page in read(sorted(found))]
    assert len(texts) == len(found)
    return found

  def apply(self, page, found):
    return Drop('copy', found)

def make():
  return Copies()
"""
LAST = """
from llm_jax.clean.page import Drop

def make(*, word: str = 'noon'):
  return lambda page: Drop('word', {'at': page.text.index(word)}) if word in page.text else page
"""
WORDS = ['the', 'cat', 'sat', 'on', 'a', 'mat', 'at', 'noon', 'while', 'dogs', 'ran', 'home']


@pytest.fixture
def place(tmp_path):
  draw = random.Random(0)
  for number in range(3):
    texts = [' '.join(draw.choices(WORDS, k=draw.randint(2, 14))) for _ in range(70)]
    texts += texts[:9]
    lines = [
      json.dumps({'text': text, 'url': f'http://{number}/{i}', 'score': 0.5})
      for i, text in enumerate(texts)
    ]
    (tmp_path / f'part{number}.jsonl').write_text('\n'.join(lines) + '\n')
  for name, code in (('size', RULE), ('copies', ACROSS), ('word', LAST)):
    (tmp_path / f'{name}.py').write_text(code)
  return tmp_path


def config(place: Path, workdir: str = 'out', **changes) -> ConfigDict:
  c = ConfigDict()
  c.job = 'clean'
  c.workdir = str(place / workdir)
  c.sources = changes.pop('sources', dict(web=str(place / 'part*.jsonl')))
  steps = tuple(str(place / f'{name}.py') for name in ('size', 'copies', 'word'))
  c.rules = changes.pop('rules', dict(steps=steps, size=dict(low=5)))
  c.shard_documents = 50
  c.block_pages = 20
  c.workers = 1
  with c.unlocked():
    c.update(changes)
  return c


def contents(folder: Path) -> dict[str, bytes]:
  """Every file of a result but those that name its folder or remember a run."""
  found = {}
  for kind in ('pages', 'dropped', 'dataset'):
    for path in sorted((folder / kind).rglob('*')):
      if path.is_file():
        found[str(path.relative_to(folder))] = path.read_bytes()
  return found


def records(folder: Path, kind: str) -> list[dict]:
  return [r for path in sorted((folder / kind).glob('*.zst')) for r in blocks.lines(path)]


def test_every_page_is_kept_or_dropped_with_its_reason_and_numbers(place):
  clean.main(config(place))
  kept, dropped = records(place / 'out', 'pages'), records(place / 'out', 'dropped')
  texts = [json.loads(line) for path in sorted(place.glob('part*')) for line in path.open()]
  assert sorted(r['url'] for r in kept + dropped) == sorted(t['url'] for t in texts)
  seen: set[str] = set()
  by_url = {r['url']: r for r in kept + dropped}
  for text in texts:  # what the steps say, one after the other
    size, record = len(text['text'].split()), by_url[text['url']]
    assert record['values']['size.words'] == size and record['meta'] == {'score': 0.5}
    expected = ('size', 'short') if size < 5 else ('size', 'long') if size > 12 else None
    if not expected:
      if text['text'] in seen:
        expected = ('copies', 'copy')
      elif 'noon' in text['text']:
        expected = ('word', 'word')
      seen.add(text['text'])
    assert (record.get('step'), record.get('reason')) == (expected or (None, None))
  assert {'short', 'long', 'copy', 'word'} == {r['reason'] for r in dropped}
  finished = files.read_json(place / 'out' / 'clean.json', '')
  assert finished['sources']['web']['kept'] == len(kept)
  assert sum(finished['sources']['web']['dropped'].values()) == len(dropped)


def test_the_dataset_is_that_of_tfds(place):
  clean.main(config(place))
  data = tfds.data_source('clean', data_dir=place / 'out' / 'dataset', split='train')
  assert [r['text'].decode() for r in data] == [r['text'] for r in records(place / 'out', 'pages')]


def test_processes_do_not_change_a_byte(place):
  clean.main(config(place))
  clean.main(config(place, 'two', workers=2))
  assert contents(place / 'two') == contents(place / 'out')


def test_again_equals_a_run_from_the_beginning(place):
  clean.main(config(place))
  first = contents(place / 'out')
  new = dict(config(place).rules.to_dict(), size=dict(low=8, high=10))
  clean.main(config(place, rules=new, again=True))
  clean.main(config(place, 'anew', rules=new))
  assert contents(place / 'out') == contents(place / 'anew') != first


def test_again_refuses_what_changes_more_than_limits(place):
  clean.main(config(place))
  rules = config(place).rules.to_dict()
  with pytest.raises(BadInput, match=r'rules\.size changes what is measured'):
    clean.main(config(place, rules={**rules, 'size': dict(cut=1)}, again=True))
  with pytest.raises(BadInput, match='by the steps size'):
    clean.main(config(place, rules={'steps': rules['steps'][1:]}, again=True))
  assert (place / 'out' / 'clean.json').is_file()


def test_why_tells_the_fate_of_a_page(place, capsys):
  clean.main(config(place))
  record = next(r for r in records(place / 'out', 'dropped') if r['reason'] == 'short')
  clean.main(config(place, why=record['url']))
  said = capsys.readouterr().out
  assert f'dropped by size for short, as {record["id"]}' in said
  assert f'words is {record["values"]["size.words"]}, and pages are kept with at least 5' in said
  with pytest.raises(BadInput, match='has the URL'):
    clean.main(config(place, why='http://nowhere'))


@pytest.mark.parametrize('written', range(0, 40, 3))
def test_broken_off_anywhere_it_goes_on_to_the_same_bytes(place, monkeypatch, written):
  """Each write of a file is where a process may have been killed: before it, or in its middle."""
  clean.main(config(place))
  left = [written]

  @contextlib.contextmanager
  def killed(path):
    if not left[0]:
      path.with_name(f'{path.name}.partial').write_bytes(b'half')
      raise KeyboardInterrupt
    left[0] -= 1
    with files.replacing(path) as file:
      yield file

  with monkeypatch.context() as patch:
    for module in (blocks, corpus):
      patch.setattr(module, 'replacing', killed)
    with pytest.raises(KeyboardInterrupt):
      clean.main(config(place, 'killed'))
  clean.main(config(place, 'killed'))
  assert contents(place / 'killed') == contents(place / 'out')


def test_a_killed_command_leaves_no_process_and_goes_on(place):
  """kill -9 with two workers at work; the command that follows takes over at once."""
  code = 'import sys; from llm_jax.main import command; command()'
  flags = [
    f'--config={place / "mine.py"}',
    '--config.workers=2',
    '--config.block_pages=5',
    f'--config.workdir={place / "killed"}',
  ]
  text = repr(config(place).to_dict())
  (place / 'mine.py').write_text(
    f'from ml_collections import ConfigDict\n\ndef get_config():\n  return ConfigDict({text})\n'
  )
  run = [sys.executable, '-c', code, *flags]
  process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  deadline = time.monotonic() + 60
  while not [*place.glob('killed/work/0-*/*.jsonl.zst')]:
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.01)
  process.kill()
  process.wait()
  assert not (place / 'killed' / 'clean.json').exists()
  clean.main(config(place, 'killed', block_pages=5, workers=1))
  clean.main(config(place, block_pages=5))
  assert contents(place / 'killed') == contents(place / 'out')
