"""A folder in a store and its copy here: equal when they should be, and never half of anything."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from llm_jax import artifact, main, storage
from llm_jax.jobs import train
from llm_jax.lock import locked
from llm_jax.parallel.mesh import make_mesh
from llm_jax.store import Store
from llm_jax.types import BadInput
from tests.configs_test import config_of


@pytest.fixture(params=['memory', 'local'])
def url(request, tmp_path, monkeypatch):
  """A folder in a store in memory, or in one that is a disk elsewhere."""
  monkeypatch.setenv('LLM_JAX_STORAGE', str(tmp_path / 'copies'))
  storage.root.cache_clear()
  storage.forget()
  place = f'{request.param}://{tmp_path}/bucket/run'
  yield place
  storage.root.cache_clear()
  storage.forget()
  if request.param == 'memory':
    fsspec.filesystem('memory').store.clear()


def store(url):
  return fsspec.filesystem(url.partition('://')[0])


def put(url, **files):
  for name, text in files.items():
    store(url).makedirs(os.path.dirname(f'{url}/{name}'), exist_ok=True)
    store(url).pipe_file(f'{url}/{name}', text.encode())


def names(url):
  base = store(url)._strip_protocol(url)
  return {name.removeprefix(base).lstrip('/') for name in store(url).find(url)}


def again():
  """As the next process finds things."""
  storage.forget()


def test_a_path_of_this_machine_is_itself(tmp_path):
  assert storage.local(tmp_path / 'x') == tmp_path / 'x' and storage.local('runs') == Path('runs')
  assert not storage.is_url('a:/b') and not storage.is_url(tmp_path)


def test_what_is_there_comes_and_what_changes_goes(url):
  put(url, **{'a.json': '1', 'deep/b.txt': '2'})
  here = storage.local(url)
  assert (here / 'a.json').read_text() == '1' and (here / 'deep' / 'b.txt').read_text() == '2'
  assert storage.local(f'{url}/deep/b.txt') == here / 'deep' / 'b.txt'
  (here / 'a.json').write_text('11')
  (here / 'new').mkdir()
  (here / 'new' / 'c').write_text('3')
  (here / 'half.partial').write_text('no')
  (here / 'deep' / 'b.txt').unlink()
  storage.push()
  assert names(url) == {'a.json', 'new/c'}
  assert store(url).cat_file(f'{url}/a.json') == b'11'


def test_the_store_is_the_truth_for_the_next_process(url):
  put(url, a='1', b='2')
  here = storage.local(url)
  (here / 'never_pushed').write_text('x')
  put(url, a='another')
  store(url).rm_file(f'{url}/b')
  again()
  assert storage.local(url) == here
  assert {p.name: p.read_text() for p in here.iterdir()} == {'a': 'another'}


def test_what_is_known_is_not_fetched_again(url, monkeypatch):
  put(url, a='1', b='2')
  here = storage.local(url)
  (here / 'c').write_text('3')
  storage.push()
  again()
  fetched = []
  get = type(store(url)).get_file
  monkeypatch.setattr(
    type(store(url)), 'get_file', lambda s, a, b, **k: fetched.append(a) or get(s, a, b, **k)
  )
  (here / 'a').write_text('changed here behind its back')
  storage.local(url)
  assert [Path(name).name for name in fetched] == ['a'] and (here / 'a').read_text() == '1'


def test_nothing_that_is_being_made_is_seen(url):
  here = storage.local(url)
  for name in ('checkpoints/01/state/x', 'params/y', 'params.orbax-checkpoint-tmp/z', 'metrics'):
    (here / name).parent.mkdir(parents=True, exist_ok=True)
    (here / name).write_text(name)
  storage.push()
  assert names(url) == {'metrics'}
  (here / 'checkpoints' / '01' / 'manifest.json').write_text('{}')
  (here / 'artifact.json').write_text('{}')
  (here / 'params.orbax-checkpoint-tmp' / 'z').unlink()
  order = []
  put = Store.put
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Store, 'put', lambda s, path, name: order.append(name) or put(s, path, name))
    storage.push()
  assert order.index('checkpoints/01/state/x') < order.index('checkpoints/01/manifest.json')
  assert order[-1] == 'artifact.json' and names(url) >= set(order)


def test_a_folder_that_goes_loses_what_vouches_for_it_first(url):
  put(url, **{'checkpoints/01/manifest.json': '{}', 'checkpoints/01/state': 'x', 'k': '1'})
  here = storage.local(url)
  (here / 'checkpoints' / '01' / 'manifest.json').unlink()
  (here / 'checkpoints' / '01' / 'state').unlink()
  gone = []
  kind = type(store(url))
  rm_file = kind.rm_file
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(kind, 'rm_file', lambda s, a: gone.append(Path(a).name) or rm_file(s, a))
    storage.push()
  assert gone == ['manifest.json', 'state'] and names(url) == {'k'}


def test_parts_of_a_folder_are_enough_for_some(url):
  put(url, **{'a': '1', 'checkpoints/02/x': '2', 'deep/checkpoints/y': '3'})
  here = storage.local(url, without=('checkpoints',))
  assert (here / 'deep' / 'checkpoints' / 'y').is_file() and not (here / 'checkpoints').exists()
  storage.push()
  assert 'checkpoints/02/x' in names(url)
  assert (storage.local(f'{url}/checkpoints/02') / 'x').read_text() == '2'
  assert (storage.local(url) / 'checkpoints' / '02' / 'x').is_file()


def test_what_was_left_out_comes_when_it_is_asked_for(url):
  put(url, **{'a': '1', 'checkpoints/02/x': '2', 'checkpoints/02/manifest.json': '{}'})
  storage.local(url, without=('checkpoints',))
  here = storage.local(url)
  assert (here / 'checkpoints' / '02' / 'x').is_file()
  (here / 'a').write_text('3')
  storage.push()
  assert names(url) == {'a', 'checkpoints/02/x', 'checkpoints/02/manifest.json'}


def test_the_new_is_there_before_the_old_goes(url):
  put(url, **{'checkpoints/01/manifest.json': '{}', 'checkpoints/01/x': '1'})
  here = storage.local(url)
  shutil.rmtree(here / 'checkpoints' / '01')
  for name in ('manifest.json', 'x'):
    (here / 'checkpoints' / '02').mkdir(exist_ok=True)
    (here / 'checkpoints' / '02' / name).write_text('{}')
  kind = type(store(url))
  whole = lambda: any(
    {f'checkpoints/0{i}/manifest.json', f'checkpoints/0{i}/x'} <= names(url) for i in (1, 2)
  )
  with pytest.MonkeyPatch.context() as patch:
    for name in ('put_file', 'rm_file'):
      do = getattr(kind, name)
      patch.setattr(kind, name, lambda *args, do=do: (do(*args), seen.append(whole())))
    seen = []
    storage.push()
  assert len(seen) == 4 and all(seen) and 'checkpoints/01/x' not in names(url)


def test_a_folder_around_one_that_is_worked_on_leaves_it_alone(url):
  put(url, **{'sft/a': '1', 'sft2/b': '2'})
  inner = storage.local(f'{url}/sft')
  (inner / 'new').write_text('not in the store yet')
  outer = storage.local(url)
  assert inner == outer / 'sft' and (inner / 'new').is_file()
  assert (outer / 'sft2' / 'b').read_text() == '2'
  storage.push()
  assert names(url) == {'sft/a', 'sft/new', 'sft2/b'}


def test_a_job_pushes_while_it_runs_and_when_it_fails(url, monkeypatch):
  monkeypatch.setattr(storage, 'SECONDS', 0.01)
  here = storage.local(url)
  with pytest.raises(RuntimeError), storage.pushing():
    (here / 'one').parent.mkdir(parents=True, exist_ok=True)
    (here / 'one').write_text('1')
    while 'one' not in names(url):
      pass
    (here / 'two').write_text('2')
    raise RuntimeError
  assert names(url) == {'one', 'two'}


def test_two_processes_do_not_share_copies(url):
  other = subprocess.run(
    [sys.executable, '-c', 'from llm_jax import storage; print(storage.root())'],
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  assert Path(other.stdout.strip()).name == '0'
  assert storage.root().name == '0'  # that one has ended
  other = subprocess.run(
    [sys.executable, '-c', 'from llm_jax import storage; print(storage.root())'],
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  assert Path(other.stdout.strip()).name == '1'


@pytest.mark.parametrize(
  'path, message',
  [
    ('nowhere://bucket/x', 'no store nowhere:// is known'),
    ('memory://', 'names no folder'),
    ('memory://a/../../etc', 'names no folder'),
    ('gs://bucket/x', "pip install 'llm_jax\\[gcs\\]'"),
    ('s3://bucket/x', "pip install 'llm_jax\\[s3\\]'"),
  ],
)
def test_what_is_refused_in_one_line(path, message, monkeypatch):
  monkeypatch.setitem(sys.modules, 'gcsfs', None)
  monkeypatch.setitem(sys.modules, 's3fs', None)
  with pytest.raises(BadInput, match=message) as error:
    storage.local(path)
  assert '\n' not in str(error.value)


def test_a_store_that_refuses_is_named(url, monkeypatch):
  def find(*args, **kwargs):
    raise PermissionError('403: you may not')

  monkeypatch.setattr(type(store(url)), 'find', find)
  with pytest.raises(BadInput, match='no permission: 403: you may not'):
    storage.local(f'{url}/x')


def test_what_others_changed_meanwhile_is_not_overwritten(url):
  put(url, **{'a': '1', 'd/x': '1', 'd/manifest.json': '1', 'manifest.json': '1', 'gone': '1'})
  here = storage.local(url)
  time.sleep(0.01)
  put(url, **{'d/x': 'theirs'})
  (here / 'gone').unlink()
  for name in ('a', 'd/x', 'd/manifest.json', 'manifest.json', 'new/summary.json'):
    (here / name).parent.mkdir(exist_ok=True)
    (here / name).write_text('ours')
  read = lambda: {name: store(url).cat_file(f'{url}/{name}').decode() for name in names(url)}
  for _ in range(2):  # and not the next time, either
    with pytest.raises(BadInput, match=f"'{url}/d/x' was changed there by somebody else") as error:
      storage.push()
    assert '\n' not in str(error.value)
    # All else is pushed, but for what vouches for it; and nothing goes while something is missing.
    assert read() == {
      'a': 'ours', 'new/summary.json': 'ours', 'd/x': 'theirs', 'd/manifest.json': '1',
      'manifest.json': '1', 'gone': '1',
    }  # fmt: skip
  store(url).rm_file(f'{url}/d/x')
  storage.push()
  new = ('a', 'd/x', 'd/manifest.json', 'manifest.json', 'new/summary.json')
  assert read() == dict.fromkeys(new, 'ours')


def test_what_others_wrote_where_we_write_anew_is_not_overwritten(url):
  here = storage.local(url)
  put(url, a='theirs')
  (here / 'a').parent.mkdir(parents=True, exist_ok=True)
  (here / 'a').write_text('ours')
  with pytest.raises(BadInput, match='was changed there by somebody else'):
    storage.push()
  assert store(url).cat_file(f'{url}/a') == b'theirs'


@pytest.mark.parametrize('when', ['while it is written', 'before it is looked at'])
def test_a_push_that_a_store_broke_off_is_made_up_for(url, when, monkeypatch):
  put(url, a='1')
  here = storage.local(url)
  (here / 'a').write_text('22')
  kind = type(store(url))
  name = 'put_file' if when == 'while it is written' else 'find'
  do, calls = getattr(kind, name), []

  def broken(*args, **options):
    calls.append(args)
    result = do(*args, **options)
    if len(calls) == (1 if name == 'put_file' else 2):
      raise ConnectionError('gone')
    return result

  with monkeypatch.context() as patch, pytest.raises(BadInput, match='gone'):
    patch.setattr(kind, name, broken)
    storage.push()
  (here / 'a').write_text('333')
  storage.push()
  assert store(url).cat_file(f'{url}/a') == b'333'


class Buckets(type(fsspec.filesystem('memory'))):
  """Like a store of objects: there are buckets, and what makes a folder makes one."""

  protocol, store, pseudo_dirs, buckets = 's3', {}, [''], {'mine'}

  def _known(self, path):
    if self._strip_protocol(path).strip('/').split('/')[0] not in self.buckets:
      raise FileNotFoundError('The specified bucket does not exist')

  def makedirs(self, path, exist_ok=False):
    self.buckets.add(self._strip_protocol(path).strip('/').split('/')[0])

  def open(self, path, *args, **options):
    self._known(path)
    return super().open(path, *args, **options)

  @classmethod
  def _strip_protocol(cls, path):
    return '/' + path.removeprefix('s3://').strip('/')


@pytest.mark.parametrize('bucket', ['mine', 'mien'])
def test_a_bucket_is_never_made(tmp_path, monkeypatch, bucket):
  monkeypatch.setenv('LLM_JAX_STORAGE', str(tmp_path))
  monkeypatch.setattr(fsspec, 'filesystem', lambda scheme: Buckets())
  storage.root.cache_clear()
  storage.forget()
  here = storage.local(f's3://{bucket}/run')
  try:
    with locked(here):
      (here / 'a').write_text('1')
    assert bucket == 'mine' and Buckets.store.keys() == {'/mine/run/a'}
  except BadInput as error:
    assert bucket == 'mien' and "'s3://mien/run': not found: The specified bucket" in str(error)
  assert Buckets.buckets == {'mine'}
  storage.forget()
  storage.root.cache_clear()


# --- runs -----------------------------------------------------------------------------------------


def write_text(place):
  lines = ''.join(json.dumps({'text': f'the cat {i} sat on mat {i % 7}'}) + '\n' for i in range(90))
  put(place, **{'text.jsonl': lines})


def pretrain(place, workdir):
  c = config_of('pretrain')
  c.workdir, c.tokenize.workdir = f'{workdir}/run', f'{workdir}/tokens'
  c.tokenize.update(validation_fraction=0.2, length=16)
  c.tokenize.sources = ConfigDict({'text': f'{place}/*.jsonl'})
  c.tokenize.tokenizer.vocab_size = 290
  c.data.path = c.tokenize.workdir
  c.model.update(vocab_size=290, dim=16, num_layers=1, num_heads=2, max_length=64)
  c.compute, c.mesh.fsdp = ConfigDict(), 1
  c.total_steps, c.batch_size, c.accumulate = 6, 4, 1
  c.log_every = c.eval_every = c.checkpoint_every = 2
  c.evals.validation.max_rows, c.sample.prompts = 4, ()
  return c


def ask(workdir):
  c = config_of('sample')
  c.artifact, c.prompts, c.sample.max_new = f'{workdir}/run', ('the cat',), 4
  return c


@pytest.mark.parametrize('url', ['memory'], indirect=True)
def test_a_run_in_a_store_has_the_bits_of_one_on_a_disk(url, tmp_path, capsys):
  write_text(url)
  here = tmp_path / 'here'
  for workdir in (f'{url}/out', here):
    main.run(pretrain(url, workdir))
    main.run(ask(workdir))
    again()
  told = capsys.readouterr().out
  assert f'{url}/out/run' in told and str(storage.root()) not in told
  assert {'out/run/artifact.json', 'out/run/metrics.jsonl'} <= names(url)
  stored = json.loads(store(url).cat_file(f'{url}/out/run/config.json'))
  assert stored['workdir'] == f'{url}/out/run'
  about = json.loads(store(url).cat_file(f'{url}/out/run/artifact.json'))
  assert about['config']['data']['path'] == f'{url}/out/tokens'
  mesh = make_mesh(data=1)
  ours, theirs = (artifact.load(storage.local(f'{x}/run'), mesh) for x in (f'{url}/out', here))
  jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
  main.run(pretrain(url, f'{url}/out'))
  assert 'is finished' in capsys.readouterr().out


@pytest.mark.parametrize('url', ['local'], indirect=True)
def test_another_machine_goes_on_where_one_died(url, tmp_path, monkeypatch):
  write_text(url)
  fit = train.fit

  def die(*args, **options):
    def stop(step, state, metrics):
      if step == 5:
        storage.push()  # as the background does
        raise SystemError  # nothing is written or pushed after this

    return fit(*args, **options | {'hooks': (*options['hooks'], stop)})

  monkeypatch.setattr(train, 'fit', die)
  with pytest.raises(SystemError):
    main.run(pretrain(url, f'{url}/out'))
  monkeypatch.setattr(train, 'fit', fit)
  assert 'out/run/artifact.json' not in names(url)
  shutil.rmtree(storage.root())
  again()
  storage.root.cache_clear()
  main.run(pretrain(url, f'{url}/out'))
  main.run(pretrain(url, tmp_path / 'whole'))
  mesh = make_mesh(data=1)
  ours, theirs = (
    artifact.load(storage.local(f'{x}/run'), mesh) for x in (f'{url}/out', tmp_path / 'whole')
  )
  jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


@pytest.mark.parametrize(
  'spec, wanted',
  [
    ('x.jsonl', {'x.jsonl'}),
    ('x.jsonl?field=content', {'x.jsonl'}),
    ('*.jsonl?field=content', {'x.jsonl', 'y.jsonl'}),
    ('x.jsonl?prompt=question&answer=final', {'x.jsonl'}),
    ('?.jsonl?prompt=a//b&chosen-rating=../c', {'x.jsonl', 'y.jsonl'}),
    ('?.jsonl', {'x.jsonl', 'y.jsonl'}),
    ('[y-z].jsonl', {'y.jsonl'}),
  ],
)
def test_files_are_brought_by_name_and_by_pattern_whatever_is_asked_of_them(url, spec, wanted):
  put(url, **{'x.jsonl': '1', 'y.jsonl': '2', 'other.txt': '3'})
  c = ConfigDict(dict(sources=dict(text=f'{url}/{spec}')))
  assert storage.localized(c)
  here = Path(storage.parted(c.sources.text)[0])
  assert {path.name for path in here.parent.iterdir()} == wanted
  assert c.sources.text.endswith(spec) and storage.named(c.to_dict())['sources']['text'].endswith(
    f'{url}/{spec}'
  )


def test_of_a_folder_of_datasets_the_one_that_is_named_is_brought(url):
  put(url, **{'talks/1.0.0/a': '1', 'others/1.0.0/b': '2'})
  c = ConfigDict(dict(sources=dict(mine=f'tfds:talks:1.0.0@{url}/?prompt=q&split=train[:9%]')))
  assert storage.localized(c)
  here, options = storage.parted(c.sources.mine.removeprefix('tfds:talks:1.0.0@'))
  assert options == 'prompt=q&split=train[:9%]'
  assert [p for p in Path(here).rglob('*') if p.is_file()] == [Path(here, 'talks/1.0.0/a')]
  assert storage.named(c.sources.mine) == f'tfds:talks:1.0.0@{url}?{options}'


def test_an_artifact_may_be_loaded_from_a_url(url):
  put(url, note='1')
  with pytest.raises(BadInput, match=r'is unfinished, it has no artifact\.json'):
    artifact.load(url, make_mesh(data=1))


def test_a_push_that_failed_is_told(url, monkeypatch):
  here = storage.local(url)
  here.mkdir(parents=True, exist_ok=True)
  (here / 'a').write_text('1')

  def put_file(*args, **kwargs):
    raise PermissionError('403')

  monkeypatch.setattr(type(store(url)), 'put_file', put_file)
  monkeypatch.setattr(storage, 'SECONDS', 0.01)
  with (
    pytest.raises(BadInput, match='no permission: 403'),
    pytest.warns(UserWarning, match='no permission: 403'),
    storage.pushing(),
  ):
    time.sleep(0.2)


def test_texts_that_are_no_paths_stay(tmp_path):
  c = ConfigDict(dict(url='https://a.b/c', said='see gs://x y', n=3, none=None, words=('a', 'b')))
  before = c.to_dict()
  assert not storage.localized(c) and c.to_dict() == before
