"""One process at a time in a folder; a dead one keeps nobody out."""

import subprocess
import sys

import pytest

from configs import best_of_n
from llm_jax.jobs import sample, tokenize
from llm_jax.lock import LOCK, locked
from llm_jax.types import BadInput

HOLD = """
import sys
from llm_jax.lock import locked
with locked(sys.argv[1]):
  print('held', flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
  """Another process, which has locked `run`."""
  process = subprocess.Popen(
    [sys.executable, '-c', HOLD, str(tmp_path / 'run')],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'held\n'
  yield process
  process.kill()
  process.communicate()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path, other):
  folder = tmp_path / 'run'
  for _ in range(2):
    with pytest.raises(BadInput) as error, locked(folder):
      pass
    assert f'process {other.pid} on' in str(error.value) and 'for 0 minutes' in str(error.value)
  with locked(folder, take=False):  # another host of the same job
    pass
  (folder / LOCK).write_text('{"pid": ')  # what it says is no part of the lock
  with pytest.raises(BadInput, match='another process is at work'), locked(folder):
    pass
  other.kill()
  other.wait()
  assert (folder / LOCK).exists()
  with locked(folder):
    pass
  assert not (folder / LOCK).exists()


@pytest.mark.parametrize('job', ['tokenize', 'sample'])
def test_jobs_want_the_lock_before_they_begin(tmp_path, other, job):
  folder = tmp_path / 'run'
  before = sorted(folder.iterdir())
  with pytest.raises(BadInput, match='is at work there'):
    if job == 'tokenize':
      tokenize.tokenize(workdir=str(folder), sources={'a': f'{tmp_path}/none.jsonl'})
    else:
      c = best_of_n.get_config()
      c.workdir, c.artifact = str(folder), str(tmp_path / 'none')
      sample.main(c)
  assert sorted(folder.iterdir()) == before


def test_one_process_may_enter_twice_and_leaves_nothing(tmp_path):
  folder = tmp_path / 'run'
  with locked(folder), locked(folder):
    assert [path.name for path in folder.iterdir()] == [LOCK]
  assert not folder.exists()
  folder.mkdir()
  with locked(folder):
    pass
  assert folder.is_dir() and not any(folder.iterdir())  # it was there before


@pytest.mark.parametrize('again', [False, True])
def test_a_folder_that_is_deleted_or_replaced_is_said(tmp_path, again):
  folder = tmp_path / 'run'
  with pytest.raises(BadInput, match='was deleted or replaced'), locked(folder) as is_there:
    is_there()
    folder.rename(tmp_path / 'aside')
    if again:
      folder.mkdir()
      (folder / LOCK).write_text('of somebody else')
    with pytest.raises(BadInput, match='was deleted or replaced'):
      is_there()
    raise OSError('what follows from it')
  assert (folder / LOCK).exists() == again
