"""One process at a time at a URL: refused in one line, and a dead owner keeps nobody out."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from llm_jax import lease, storage
from llm_jax.lease import Lease
from llm_jax.lock import locked
from llm_jax.store import Store
from llm_jax.types import BadInput
from tests import storage_test

url, put, names = storage_test.url, storage_test.put, storage_test.names  # url: a fixture

OLD = json.dumps(dict(since=0, refreshed=0)).encode()
HOLD = """
import sys
from llm_jax import storage
from llm_jax.lock import locked
with locked(storage.local(sys.argv[1])):
  print('held', flush=True)
  sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(lease, 'SETTLE', 0.05)


def record(url):
  return json.loads(Store(url).read(lease.LOCK))


def rewrite(url, **changes):
  Store(url).write(lease.LOCK, json.dumps({**record(url), **changes}).encode())


@pytest.fixture
def other(url, tmp_path):
  """Another process of this machine, which is at work at the URL."""
  process = subprocess.Popen(
    [sys.executable, '-c', HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == 'held\n'
  yield process
  process.kill()
  process.communicate()


def at_work(url):
  """The line that refuses us there, or None."""
  try:
    with locked(storage.local(url)):
      return None
  except BadInput as error:
    return str(error)


@pytest.mark.parametrize('url', ['local'], indirect=True)
def test_another_is_refused_until_the_owner_is_dead(url, other, tmp_path, monkeypatch):
  said = at_work(url)
  for part in (f'process {other.pid} on', 'since 2', 'last heard', f'delete {url}/.lock'):
    assert part in said
  assert '\n' not in said and names(url) == {'.lock'}
  other.kill()
  other.wait()
  assert '.lock' in names(url)
  with pytest.MonkeyPatch.context() as patch:  # as another machine, which cannot know
    patch.setenv('LLM_JAX_STORAGE', str(tmp_path / 'elsewhere'))
    storage.root.cache_clear()
    storage.forget()
    assert 'is at work there' in at_work(url)
  storage.root.cache_clear()
  storage.forget()
  assert at_work(url) is None and names(url) == set()


@pytest.mark.parametrize('left', [b'', b'{"owner": ', b'[1]', b'{"since": "x"}', OLD])
def test_what_cannot_be_read_or_is_too_old_is_taken(url, left):
  Store(url).write(lease.LOCK, left)
  assert at_work(url) is None and names(url) == set()


@pytest.mark.parametrize('scheme', ['atomic', 'not atomic', 'of a dead one'])
def test_of_many_at_once_one_gets_it(url, scheme, monkeypatch):
  if scheme == 'not atomic':
    monkeypatch.setattr(lease, 'ATOMIC', ())
    write = Store.write
    monkeypatch.setattr(Store, 'write', lambda s, name, data, new=False: write(s, name, data))
    monkeypatch.setattr(lease, 'SETTLE', 0.3)
  if scheme == 'of a dead one':
    Store(url).write(lease.LOCK, OLD)
    monkeypatch.setattr(lease, 'SETTLE', 0.3)
  storage.root()
  got, start = [], threading.Barrier(8)

  def take():
    start.wait()
    with contextlib.suppress(BadInput):
      got.append(Lease(url))

  threads = [threading.Thread(target=take) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(got) == 1 and got[0].check() is None
  got[0].release()
  assert names(url) == set()


@pytest.mark.parametrize('how', ['taken', 'removed'])
def test_who_lost_it_pushes_nothing_more(url, how, monkeypatch):
  monkeypatch.setattr(lease, 'REFRESH', 0.01)
  folder = storage.local(url)
  with pytest.raises(BadInput, match='since this command began'), locked(folder) as is_there:
    time.sleep(0.05)
    is_there()
    if how == 'taken':
      rewrite(url, owner='another', process=7, host='there')
    else:
      Store(url).remove(lease.LOCK)
    (folder / 'a').write_text('1')
    with pytest.raises(BadInput, match='since this command began'):
      for _ in range(100):
        time.sleep(0.01)
        is_there()
        if how == 'taken':  # a refresh that was under way may have written over it
          rewrite(url, owner='another', process=7, host='there')
    with pytest.raises(BadInput, match='since this command began'):
      storage.push()
  storage.push()  # as at the end of a command
  assert names(url) == ({'.lock'} if how == 'taken' else set())


def test_who_was_away_for_long_asks_before_it_pushes(url, monkeypatch):
  folder = storage.local(url)
  with pytest.raises(BadInput, match=r'process 7 on .* is at work there'), locked(folder):
    rewrite(url, owner='another', process=7, host='there')
    monkeypatch.setattr(lease, 'EXPIRES', 0)
    (folder / 'a').write_text('1')
    storage.push()
  assert names(url) == {'.lock'}


def test_a_folder_that_changed_after_it_was_read_is_not_worked_on(url):
  put(url, a='1')
  storage.local(url)
  put(url, b='2')
  assert 'after it was read; give the same command again' in at_work(url)
  storage.forget()
  assert at_work(url) is None


def test_a_store_that_may_only_be_read_is_said_before_the_work(url, monkeypatch):
  put(url, a='1')

  def refuse(*args, **options):
    raise PermissionError('403: objects.create')

  kind = type(storage_test.store(url))
  for name in ('pipe_file', 'put_file', 'open'):
    monkeypatch.setattr(kind, name, refuse)
  assert 'no permission: 403: objects.create; allow it' in at_work(url)
  assert names(url) == {'a'}


def test_it_ends_after_what_was_written_is_there(url):
  folder = storage.local(url)
  remove, seen = Store.remove, []
  with pytest.MonkeyPatch.context() as patch:
    look = lambda store, name: (seen.append(names(url)), remove(store, name))
    patch.setattr(Store, 'remove', look)
    with locked(folder), pytest.raises(BadInput), locked(folder):  # a process may enter twice
      (folder / 'a').write_text('1')
      raise BadInput('x')
  assert seen == [{'a', '.lock'}] and names(url) == {'a'}
  assert os.listdir(folder) == ['a']


@pytest.mark.parametrize('what', ['the run', 'all copies'])
def test_a_copy_that_is_deleted_takes_nothing_from_the_store(url, what):
  put(url, **{'run/a': '1', 'input/b': '2'})
  storage.local(f'{url}/input')
  folder = storage.local(f'{url}/run')
  with pytest.raises(BadInput, match='was deleted or replaced'), locked(folder) as is_there:
    shutil.rmtree(folder if what == 'the run' else storage.root())
    with pytest.raises(BadInput, match='was deleted or replaced'):
      is_there()
    folder.mkdir(parents=True)
    (folder / 'c').write_text('3')
  storage.push()
  assert names(url) == {'run/a', 'input/b'}
