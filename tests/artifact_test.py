"""What one stage leaves is what the next one finds, on any mesh; what is not whole is refused."""

import dataclasses
import json
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import artifact, run_folder, storage
from llm_jax.files import read_json
from llm_jax.parallel.mesh import make_mesh
from llm_jax.parallel.parameters import shardings
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

GROUP = dict(name='transformer', vocab_size=290, dim=16, num_layers=2, num_heads=2, max_length=32)
MESHES = {'one': dict(data=1), 'fsdp': dict(fsdp=8), 'cube': dict(data=2, fsdp=2, tensor=2)}


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer.train(['the cat sat on the mat while many dogs ran home'] * 20, vocab_size=290)


def params_on(mesh, **changes):
  model = artifact.build(GROUP | changes)
  place = shardings(artifact.abstract_params(model), mesh)
  init = lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  return jax.jit(init, out_shardings=place)()


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tokenizer):
  """A whole artifact, written from the mesh 'cube'; to be damaged only in a copy."""
  path = tmp_path_factory.mktemp('artifact') / 'run'
  made = artifact.Artifact(
    model=artifact.build(GROUP),
    params=params_on(make_mesh(**MESHES['cube'])),
    tokenizer=tokenizer,
    config={'model': GROUP, 'seed': 3, 'annotate': {'steps': ('a', 'b')}},
    step=7,
    stage='pretrain',
    parent='runs/other',
  )
  artifact.save(path, made)
  return path


@pytest.fixture
def copy(folder, tmp_path):
  return shutil.copytree(folder, tmp_path / 'copy')


def bits(tree):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def refused(path, *parts):
  with pytest.raises(BadInput) as error:
    artifact.load(path, make_mesh(data=1))
  message = str(error.value)
  assert '\n' not in message and str(path) in message
  for part in parts:
    assert part in message


@pytest.mark.parametrize('name', MESHES)
def test_load_gives_the_same_bits_on_any_mesh(folder, tokenizer, name):
  mesh = make_mesh(**MESHES[name])
  loaded = artifact.load(folder, mesh)
  wanted = params_on(make_mesh(**MESHES['cube']))
  assert jax.tree.structure(loaded.params) == jax.tree.structure(wanted)
  assert bits(loaded.params) == bits(wanted)
  placed = shardings(wanted, mesh)
  assert jax.tree.map(lambda x: x.sharding, loaded.params) == placed
  assert loaded.model == artifact.build(GROUP)
  assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
  assert (loaded.step, loaded.stage, loaded.parent) == (7, 'pretrain', 'runs/other')
  assert loaded.config == {'model': GROUP, 'seed': 3, 'annotate': {'steps': ['a', 'b']}}


def test_the_folder_explains_itself(folder, tokenizer):
  about = artifact.describe(folder)
  assert about['model'] == GROUP and about['tokenizer'] == tokenizer.fingerprint
  assert {'llm_jax', 'jax', 'flax', 'optax', 'orbax'} <= set(about['versions'])
  assert about['commit'] == artifact.commit() and about['files']
  assert Tokenizer.load(folder / 'tokenizer').encode('the cat')


def test_how_a_model_is_run_is_chosen_where_it_is_loaded(copy):
  """Older artifacts say it among the fields of the model, from a machine that was not this one."""
  about = read_json(copy / artifact.FILE, '')
  old = GROUP | dict(attention='cudnn', dtype='bfloat16', remat='dots', scan_layers=False)
  about['model'] = about['config']['model'] = old
  (copy / artifact.FILE).write_text(json.dumps(about))
  loaded = artifact.load(copy, make_mesh(data=1), dict(remat='full'))
  assert loaded.model == artifact.build(GROUP, dict(remat='full'))
  assert loaded.config['model'] == GROUP == artifact.describe(copy)['model']
  logits, _ = jax.jit(loaded.model.apply)(loaded.params, jnp.zeros((1, 3), jnp.int32))
  assert logits.shape == (1, 3, 290)


def test_an_artifact_does_not_say_how_it_was_run(tmp_path, tokenizer):
  params = {'w': jnp.zeros(2)}
  config = {'model': GROUP, 'compute': {'dtype': 'bfloat16'}}
  artifact.save(tmp_path, artifact.Artifact(None, params, tokenizer, config))
  assert artifact.describe(tmp_path)['config'] == {'model': GROUP}


def test_saving_again_replaces_the_whole(copy, tokenizer):
  params = jax.tree.map(lambda x: x + 1, params_on(make_mesh(data=1)))
  made = artifact.Artifact(artifact.build(GROUP), params, tokenizer, {'model': GROUP}, step=8)
  artifact.save(copy, made)
  loaded = artifact.load(copy, make_mesh(data=1))
  assert loaded.step == 8 and bits(loaded.params) == bits(params)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_published(copy, tmp_path, tokenizer, value):
  made = artifact.load(copy, make_mesh(data=1))
  leaves, tree = jax.tree.flatten(made.params)
  leaves[-1] = leaves[-1].at[(0,) * leaves[-1].ndim].set(value)
  made = dataclasses.replace(made, params=jax.tree.unflatten(tree, leaves))
  for path in (copy, tmp_path / 'new'):
    with pytest.raises(BadInput, match=r'1 numbers of the parameter .* are not finite'):
      artifact.save(path, made)
  assert not (tmp_path / 'new').exists() and artifact.load(copy, make_mesh(data=1)).step == 7


@pytest.mark.parametrize('name', ['artifact.json', 'tokenizer/special_tokens.json'])
def test_a_damaged_byte_of_what_describes_it_is_refused(copy, tokenizer, name):
  path, draw = copy / name, random.Random(0)
  whole = path.read_bytes()
  read = lambda: (artifact.describe(copy), Tokenizer.load(copy / 'tokenizer').chat_template)
  wanted = read()
  for _ in range(150):
    data = bytearray(whole)
    data[draw.randrange(len(data))] ^= draw.randrange(1, 256)
    path.write_bytes(data)
    try:
      assert read() == wanted
    except BadInput as error:
      assert str(path) in str(error) and '\n' not in str(error)


def test_a_save_that_is_killed_leaves_no_artifact(copy, tokenizer, monkeypatch):
  made = artifact.load(copy, make_mesh(data=1))
  monkeypatch.setattr(artifact.ocp.StandardCheckpointer, 'save', lambda *args: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    artifact.save(copy, made)
  refused(copy, 'unfinished')


@pytest.mark.parametrize('scheme', storage.ELSEWHERE)
def test_an_address_of_the_web_is_no_folder_whatever_packages_there_are(scheme):
  for read in (artifact.describe, lambda path: artifact.load(path, make_mesh())):
    with pytest.raises(BadInput, match=f"storage: '{scheme}://x.org/a' is no folder of this mach"):
      read(f'{scheme}://x.org/a')


def test_missing(tmp_path):
  refused(tmp_path / 'nowhere', 'no folder', 'run the stage')


def test_unfinished(copy):
  (copy / artifact.FILE).unlink()
  refused(copy, 'unfinished', 'artifact.json')


def test_damaged_parameters_are_named(copy):
  path = max((copy / 'params').rglob('*'), key=lambda p: p.stat().st_size if p.is_file() else 0)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)
  refused(copy, 'damaged', str(path.relative_to(copy / 'params')), 'sha256')
  path.unlink()
  refused(copy, 'damaged', str(path.relative_to(copy / 'params')), 'missing')


@pytest.mark.parametrize('text', ['', '{"stage": "pre', '{}'])
def test_a_damaged_description_is_named(copy, text):
  (copy / artifact.FILE).write_text(text)
  refused(copy, 'artifact.json')


def test_a_missing_tokenizer_is_named(copy):
  shutil.rmtree(copy / 'tokenizer')
  with pytest.raises(BadInput, match=r'copy.tokenizer.* is missing'):
    artifact.load(copy, make_mesh(data=1))


def test_another_tokenizer_is_refused(copy):
  words = Tokenizer.train(['entirely different words of another text'] * 20, vocab_size=290)
  words.save(copy / 'tokenizer')
  refused(copy, 'tokenizer')


# graft


def tree(**leaves):
  return {name: np.full(2, value) for name, value in leaves.items()}


def test_graft_takes_every_array_of_the_donor():
  params, donor = {'a': tree(x=0, y=0), 'b': np.zeros(3)}, {'a': tree(x=1, y=2), 'b': np.ones(3)}
  out = artifact.graft(params, donor)
  assert all(x is y for x, y in zip(jax.tree.leaves(out), jax.tree.leaves(donor)))


def test_graft_lists_each_path_with_what_was_wanted_and_found():
  params = {'a': tree(x=0), 'b': {'new': np.zeros(4)}, 'c': np.zeros((2, 3))}
  donor = {'a': tree(x=1), 'c': np.zeros((3, 2)), 'd': np.zeros(5)}
  with pytest.raises(BadInput) as error:
    artifact.graft(params, donor)
  message = str(error.value)
  assert '\n' not in message and '3 arrays do not fit' in message
  assert 'b/new: wanted (4,), found nothing' in message
  assert 'c: wanted (2, 3), found (3, 2)' in message
  assert 'd: wanted nothing, found (5,)' in message
  assert 'a/x' not in message and 'config.init.fresh' in message


def test_what_is_fresh_keeps_its_arrays_or_is_dropped():
  params = {'head': {'scalar': np.zeros(4)}, 'a': tree(x=0)}
  donor = {'head': {'kernel': np.ones((4, 9))}, 'a': tree(x=1)}
  out = artifact.graft(params, donor, fresh=('head/scalar', 'head/kernel'))
  assert out['head']['scalar'] is params['head']['scalar'] and out['a']['x'] is donor['a']['x']
  assert set(out['head']) == {'scalar'}
  assert artifact.graft(params, donor, fresh=('head',))['a']['x'] is donor['a']['x']


def test_fresh_names_whole_words_of_a_path():
  params = {'head': np.zeros(4), 'head_norm': np.zeros(4)}
  with pytest.raises(BadInput, match='1 arrays do not fit: head_norm:'):
    artifact.graft(params, {}, fresh=('head',))


def test_what_is_fresh_and_fits_stays_fresh():
  params, donor = {'a': np.zeros(2)}, {'a': np.ones(2)}
  assert artifact.graft(params, donor, fresh=('a',))['a'] is params['a']


def test_a_model_with_another_head_takes_the_body(folder):
  mesh = make_mesh(data=1)
  donor = artifact.load(folder, mesh).params
  params = params_on(mesh, head='scalar')
  with pytest.raises(BadInput, match=r'head/scalar: wanted \(16,\), found nothing'):
    artifact.graft(params, donor)
  out = artifact.graft(params, donor, fresh=('head',))
  assert out['head']['scalar'] is params['head']['scalar']
  assert bits(out['blocks']) == bits(donor['blocks'])


# holds and claim

CONFIG = {'seed': 0, 'log_every': 10, 'model': {'dim': 16, 'heads': 2}, 'steps': ('a', 'b')}


def test_a_claimed_folder_takes_the_same_config_again(tmp_path):
  folder = tmp_path / 'deep' / 'run'
  assert run_folder.holds(folder, CONFIG) is False
  run_folder.claim(folder, CONFIG)
  assert run_folder.holds(folder, CONFIG) is True
  held = read_json(folder / 'config.json', '')
  assert held == CONFIG | {'steps': ['a', 'b']}
  assert sorted(p.name for p in folder.iterdir()) == ['config.json', run_folder.MADE_FROM]


def test_another_config_is_refused_naming_what_differs(tmp_path):
  run_folder.claim(tmp_path, CONFIG)
  other = {**CONFIG, 'seed': 1, 'model': {'dim': 32, 'heads': 2, 'norm': 'rms'}}
  with pytest.raises(BadInput) as error:
    run_folder.holds(tmp_path, other)
  message = str(error.value)
  for part in (
    'holds another run',
    'seed = 0, not 1',
    'model.dim = 16, not 32',
    "model.norm = None, not 'rms'",
    'config.workdir',
  ):
    assert part in message
  assert 'heads' not in message and '\n' not in message


def test_what_may_change_may_change(tmp_path):
  run_folder.claim(tmp_path, CONFIG)
  other = CONFIG | {'log_every': 5}
  assert run_folder.holds(tmp_path, other, may_change=('log_every',))
  with pytest.raises(BadInput, match='log_every = 10, not 5'):
    run_folder.holds(tmp_path, other)
  with pytest.raises(BadInput, match='seed = 0, not 1'):
    run_folder.holds(tmp_path, other | {'seed': 1}, may_change=('log_every',))


def test_a_run_from_before_compute_was_a_group_goes_on(tmp_path):
  halves = dict(policy={'dim': 8}, critic={'dim': 4})
  for new in (GROUP, {'name': 'actor_critic', **halves}):
    old = {k: {**v, 'remat': 'dots'} if isinstance(v, dict) else v for k, v in new.items()}
    run_folder.claim(tmp_path, {'model': {**old, 'scan_layers': False}})
    config = {'model': new, 'compute': {'remat': 'full'}}
    assert run_folder.holds(tmp_path, config, may_change=('compute',))


def test_a_new_folder_holds_nothing_yet(tmp_path):
  (tmp_path / 'notes.txt').write_text('...')
  assert run_folder.holds(tmp_path, CONFIG) is False
  assert [p.name for p in tmp_path.iterdir()] == ['notes.txt']  # to ask is not to claim
