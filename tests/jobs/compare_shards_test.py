"""Processes that divide the runs of a comparison: at a URL, on groups of devices, and killed."""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import fsspec
import pytest

from llm_jax import storage
from llm_jax.files import read_json
from llm_jax.jobs import shards
from llm_jax.main import run
from llm_jax.types import BadInput
from tests import processes
from tests.jobs import compare_test, train_test
from tests.jobs.evaluate_tasks_test import COLOURS, question

facts = compare_test.facts


def comparison(folder):
  """Two losses and two seeds, whose models are asked a benchmark at the end."""
  c = compare_test.comparison(folder)
  c.base.model.max_length, c.seeds, c.budget.steps = 128, 2, 2
  c.tasks, c.path = (str(folder / 'colours.py'),), str(folder / 'benchmarks')
  c.read = ('colours/acc', 'validation/loss')
  return c


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A text, a benchmark, and the comparison that one process has made."""
  folder = tmp_path_factory.mktemp('shards')
  train_test.write_text(folder / 'text.jsonl')
  (folder / 'colours.py').write_text(COLOURS)
  (folder / 'benchmarks').mkdir()
  lines = ''.join(json.dumps(question(i)) + '\n' for i in range(6))
  (folder / 'benchmarks' / 'colours.jsonl').write_text(lines)
  c = comparison(folder)
  c.workdir = str(folder / 'alone')
  run(c)
  return folder


def work(folder, place, shard):
  """The part of a comparison that a shard makes."""
  shards.SECONDS = 0.5
  c = comparison(folder)
  c.workdir, c.shard = str(place), shard
  run(c)


def same(found, folder, place):
  """Whether the answer is that of one process alone, but for where runs lie."""
  alike = json.loads(json.dumps(found).replace(str(place), str(folder / 'alone')))
  return alike == facts(folder / 'alone')


def values(place):
  """What each run has come to; other devices than those of the tests round in other places."""
  runs = facts(place)['runs']
  return {
    f'{one["variant"]} {one["seed"]} {name}': value
    for one in runs
    for name, value in one['values'].items()
  }


def test_finished_models_are_put_to_benchmarks(folder, capsys):
  found = facts(folder / 'alone')
  assert [one['metric'] for one in found['verdicts']] == ['colours/acc'] * 2 + [
    'validation/loss'
  ] * 2
  assert {one['values']['colours/acc'] * 6 for one in found['runs']} <= {*map(float, range(7))}
  c = comparison(folder)
  c.workdir = str(folder / 'alone')
  run(c)
  assert 'asking' not in capsys.readouterr().out


def test_two_shards_at_the_same_time_at_a_url_have_the_answer_of_one_process(folder, tmp_path):
  url = f'local://{tmp_path}/bucket/compare'
  copies = dict(LLM_JAX_STORAGE=str(tmp_path / 'copies'))
  both = [processes.Process(work, folder, url, shard, **copies) for shard in ('1/2', '2/2')]
  status, told = zip(*[process.wait() for process in both])
  assert status == (0, 0), told
  assert [text.count('\n== ') for text in told] == [2, 2]
  assert same(read_without_cost(tmp_path / 'bucket' / 'compare'), folder, url)
  assert not [*(tmp_path / 'bucket').rglob('.lock')]


def read_without_cost(place):
  found = read_json(Path(place) / 'report.json', '')
  return {name: value for name, value in found.items() if name not in ('cost', 'checksum')}


def test_shards_one_after_the_other_at_a_url(folder, tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('LLM_JAX_STORAGE', str(tmp_path / 'copies'))
  storage.root.cache_clear()
  url = f'memory://{tmp_path}/bucket/compare'
  for shard in ('2/2', '1/2'):
    storage.forget()
    c = comparison(folder)
    c.workdir, c.shard = url, shard
    run(c)
  told = capsys.readouterr().out
  assert told.count('\n== ') == 4 and '2 runs of other shards are left' in told
  here = json.loads(fsspec.filesystem('memory').cat_file(f'{url}/report.json'))
  assert same({k: v for k, v in here.items() if k not in ('cost', 'checksum')}, folder, url)
  storage.forget()
  storage.root.cache_clear()
  fsspec.filesystem('memory').store.clear()


CONFIG = """
from pathlib import Path
from tests.jobs.compare_shards_test import comparison


def get_config():
  return comparison(Path({folder!r}))
"""


@pytest.fixture
def command(folder, tmp_path):
  """Starts the command line in groups: (options) -> process."""
  (tmp_path / 'groups.py').write_text(CONFIG.format(folder=str(folder)))
  words = [f'--config={tmp_path / "groups.py"}', f'--config.workdir={tmp_path / "compare"}']
  return lambda *options: processes.command([*words, *options], PYTHONPATH=str(processes.ROOT))


def at_work(place):
  """The number of the process that works in a folder, once there is one."""
  until = time.monotonic() + 240
  while time.monotonic() < until:
    with contextlib.suppress(OSError, ValueError):
      return json.loads((place / '.lock').read_text())['pid']
    time.sleep(0.01)
  raise TimeoutError(f'nobody is at work in {place}')


def test_a_group_whose_process_is_killed_is_begun_again(folder, tmp_path, command):
  process = command('--config.groups=2')
  os.kill(at_work(tmp_path / 'compare' / 'base' / 'seed1'), signal.SIGKILL)
  status, told = process.wait()
  assert status == 0, told
  assert '[1] killed by SIGKILL; it is started again' in told and 'on 1 x cpu' in told
  assert values(tmp_path / 'compare') == pytest.approx(values(folder / 'alone'), rel=1e-4)


@pytest.mark.slow
def test_groups_leave_with_their_parent_and_what_is_finished_stays(folder, tmp_path, command):
  process, place = command('--config.groups=2'), tmp_path / 'compare'
  pids = [at_work(place / 'base' / 'seed1'), at_work(place / 'focal' / 'seed1')]
  process.send_signal(signal.SIGKILL)
  process.wait()
  until = time.monotonic() + 200
  while any(Path(f'/proc/{pid}').exists() for pid in pids) and time.monotonic() < until:
    time.sleep(0.05)
  before = {path: path.stat().st_mtime_ns for path in place.glob('*/seed0/artifact.json')}
  assert len(before) == 2
  again = command('--config.groups=2')
  status, told = again.wait()
  assert status == 0, told
  assert values(place) == pytest.approx(values(folder / 'alone'), rel=1e-4)
  assert before == {path: path.stat().st_mtime_ns for path in before}


def test_what_a_group_refuses_is_said_in_one_line(command):
  process = command('--config.groups=2', "--config.read=('colours/ac',)")
  status, told = process.wait()
  last = told.splitlines()[-1]
  assert status == 1
  assert last.startswith('error: groups: process') and "mean 'colours/acc'?" in last


@pytest.mark.parametrize(
  'words, changes, said',
  [
    (
      ['--config=a'],
      dict(groups=3),
      'groups: 8 devices (cpu) cannot be divided by 3; use --config',
    ),
    (['--config=a'], dict(groups=0), 'config: groups 0; choose a whole number from 1 upwards'),
    ([], dict(groups=2), 'groups: they are processes of the command line; run python -m llm_jax'),
  ],
)
def test_groups_that_cannot_be_are_refused(folder, tmp_path, monkeypatch, words, changes, said):
  monkeypatch.setattr(sys, 'argv', ['main', *words])
  c = comparison(folder)
  c.workdir = str(tmp_path / 'compare')
  c.update(changes)
  with pytest.raises(BadInput) as error:
    run(c)
  assert str(error.value).startswith(said) and not Path(c.workdir).exists()
