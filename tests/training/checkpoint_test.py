"""Checkpoints come back bit by bit, on any mesh, and what is not whole is named and passed over."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import files
from llm_jax.models import transformer
from llm_jax.parallel import saved as saving
from llm_jax.parallel.mesh import make_mesh
from llm_jax.training import checkpoint, optimizer
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.step import TrainState, abstract_state, make_state
from llm_jax.types import BadInput

MODEL = transformer.make(vocab_size=64, dim=16, num_layers=2, num_heads=2)
TX, _ = optimizer.make(total_steps=10, ema=0.9)
MESHES = {'one': dict(data=1), 'fsdp': dict(fsdp=8), 'cube': dict(data=2, fsdp=2, tensor=2)}


def init():
  return MODEL.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))


@functools.cache
def state_on(name):
  return make_state(init, TX, make_mesh(**MESHES[name]))


def bits(tree):
  return [
    (np.asarray(x).dtype, np.asarray(x).shape, np.asarray(x).tobytes())
    for x in jax.tree.leaves(tree)
  ]


@pytest.mark.parametrize('there', MESHES)
@pytest.mark.parametrize('here', ['one', 'cube'])
def test_bit_equal_on_the_same_and_on_another_mesh(tmp_path, here, there):
  state, checkpoints = state_on(here), Checkpoints(tmp_path / 'checkpoints')
  checkpoints.save(3, state)
  checkpoints.wait()
  assert checkpoints.newest() == 3
  abstract = abstract_state(init, TX, make_mesh(**MESHES[there]))
  back = Checkpoints(tmp_path / 'checkpoints').restore(3, abstract)
  assert isinstance(back, TrainState) and jax.tree.structure(back) == jax.tree.structure(state)
  assert bits(back) == bits(state)
  placed = lambda tree: [leaf.sharding for leaf in jax.tree.leaves(tree)]
  assert placed(back) == placed(abstract)


def test_from_mesh_to_mesh_to_mesh(tmp_path):
  state = state_on('one')
  for step, name in enumerate(['fsdp', 'cube', 'one']):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(step, state)
    checkpoints.wait()
    state = checkpoints.restore(step, abstract_state(init, TX, make_mesh(**MESHES[name])))
  assert bits(state) == bits(state_on('one'))


# What follows needs no model.


def small(value):
  return {'a': jnp.full((4, 4), value, jnp.float32), 'n': jnp.int32(value)}


def abstract_small():
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
                      small(0))  # fmt: skip


def saved(folder, *steps, **options):
  checkpoints = Checkpoints(folder, **options)
  for step in steps:
    checkpoints.save(step, small(step))
  checkpoints.wait()
  return checkpoints


def largest_file(folder):
  files = [p for p in folder.rglob('*') if p.is_file() and p.name != checkpoint.MANIFEST]
  return max(files, key=lambda p: p.stat().st_size)


def flip_a_byte(folder):
  path = largest_file(folder)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)
  return path.name


def truncate(folder):
  path = largest_file(folder)
  path.write_bytes(path.read_bytes()[:-1])
  return path.name


def remove_a_file(folder):
  path = largest_file(folder)
  path.unlink()
  return f'{path.name} is missing'


def remove_the_state(folder):
  shutil.rmtree(folder / checkpoint.STATE)
  return 'is missing'


def remove_the_manifest(folder):
  (folder / checkpoint.MANIFEST).unlink()
  return 'half-written'


def write_manifest(text):
  def damage(folder):
    (folder / checkpoint.MANIFEST).write_bytes(text)
    return 'manifest cannot be read'

  return damage


def half_a_manifest(folder):
  path = folder / checkpoint.MANIFEST
  path.write_text(path.read_text()[:50])
  return 'manifest cannot be read'


DAMAGES = {
  'flipped byte': flip_a_byte,
  'truncated file': truncate,
  'missing file': remove_a_file,
  'missing state': remove_the_state,
  'missing manifest': remove_the_manifest,
  'half a manifest': half_a_manifest,
  'empty manifest': write_manifest(b''),
  'zeros for a manifest': write_manifest(b'\0' * 100),
  'not text': write_manifest(b'\xff\xfe\x00'),
  'no files listed': write_manifest(b'{}'),
  'not a mapping': write_manifest(b'[]'),
}


@pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named_and_passed_over(tmp_path, capsys, damage):
  saved(tmp_path, 3, 6)
  name = damage(tmp_path / '00000006')
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.newest() == 3
  (said,) = capsys.readouterr().err.splitlines()
  assert str(tmp_path / '00000006') in said and 'passed over' in said and name in said
  assert bits(checkpoints.restore(3, abstract_small())) == bits(small(3))


def test_all_damaged(tmp_path, capsys):
  saved(tmp_path, 3, 6)
  for name in ('00000003', '00000006'):
    flip_a_byte(tmp_path / name)
  assert Checkpoints(tmp_path).newest() is None
  said = capsys.readouterr().err
  assert '00000003' in said and '00000006' in said


def test_nothing_there(tmp_path, capsys):
  assert Checkpoints(tmp_path / 'missing').newest() is None
  (tmp_path / 'notes').mkdir()
  assert Checkpoints(tmp_path).newest() is None
  assert capsys.readouterr().err == ''


def test_a_save_that_was_killed_is_passed_over(tmp_path, capsys, monkeypatch):
  saved(tmp_path, 3)
  checkpoints = Checkpoints(tmp_path)
  monkeypatch.setattr(Checkpoints, '_finish', lambda *args: None)  # killed before the manifest
  checkpoints.save(6, small(6))
  checkpoints.wait()
  monkeypatch.undo()
  checkpoints._saving.finish(tmp_path / '00000006', 'state')
  assert Checkpoints(tmp_path).newest() == 3
  assert '00000006 is passed over: half-written' in capsys.readouterr().err
  # The run goes on from step 3 and saves step 6 again.
  checkpoints = saved(tmp_path, 6)
  assert checkpoints.newest() == 6
  assert bits(checkpoints.restore(6, abstract_small())) == bits(small(6))


def test_the_newest_are_kept(tmp_path):
  checkpoints = saved(tmp_path, 1, 2, 3, 4, 5)
  assert checkpoints.steps() == [4, 5] and checkpoints.best() is None
  assert saved(tmp_path, 6, max_to_keep=4).steps() == [4, 5, 6]


def test_the_best_is_kept_besides(tmp_path):
  checkpoints = Checkpoints(tmp_path, max_to_keep=2)
  for step, score in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 1.5)):
    checkpoints.save(step, small(step), score=score)
  checkpoints.wait()
  assert checkpoints.steps() == [2, 4, 5]
  assert checkpoints.best() == 2
  assert checkpoints.damage(2) is None
  assert bits(checkpoints.restore(2, abstract_small())) == bits(small(2))
  later = Checkpoints(tmp_path, max_to_keep=1)
  later.save(6, small(6), score=0.5)
  later.wait()
  assert later.steps() == [6] and later.best() == 6


def test_while_a_manifest_is_damaged_nothing_is_best_and_nothing_is_deleted(tmp_path):
  checkpoints = Checkpoints(tmp_path, max_to_keep=1)
  for step, score in ((1, 1.0), (2, 2.0)):
    checkpoints.save(step, small(step), score=score)
  checkpoints.wait()
  path = tmp_path / '00000001' / checkpoint.MANIFEST
  whole = path.read_bytes()
  path.write_bytes(whole.replace(b'"score": 1.0', b'"score": 9.0'))
  checkpoints.save(3, small(3), score=1.5)
  checkpoints.wait()
  assert checkpoints.steps() == [1, 2, 3]
  with pytest.raises(BadInput, match=r'00000001/manifest\.json is damaged'):
    checkpoints.best()
  path.write_bytes(whole)
  assert checkpoints.best() == 1
  checkpoints.save(4, small(4), score=float('nan'))
  checkpoints.wait()
  assert checkpoints.steps() == [1, 4] and checkpoints.best() == 1


def test_a_damaged_checkpoint_does_not_push_out_a_whole_one(tmp_path):
  saved(tmp_path, 6, max_to_keep=1)
  flip_a_byte(tmp_path / '00000006')
  # Nothing whole is left, so the run starts over and reaches step 3 first.
  checkpoints = saved(tmp_path, 3, max_to_keep=1)
  assert checkpoints.newest() == 3


def test_saving_while_the_last_save_is_in_flight(tmp_path):
  checkpoints = Checkpoints(tmp_path, max_to_keep=5)
  states = {step: {'a': jnp.full((256, 256), step, jnp.float32)} for step in range(1, 5)}
  for step, state in states.items():
    checkpoints.save(step, state)
  checkpoints.wait()
  assert checkpoints.steps() == [1, 2, 3, 4]
  for step, state in states.items():
    assert checkpoints.damage(step) is None
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    assert bits(checkpoints.restore(step, abstract)) == bits(state)


@pytest.mark.parametrize('name', ['one', 'fsdp'])
def test_what_is_saved_is_not_changed_by_the_next_step(tmp_path, name):
  place = jax.sharding.NamedSharding(make_mesh(**MESHES[name]), jax.sharding.PartitionSpec('fsdp'))
  make = jax.jit(lambda: {'a': jnp.arange(2**20, dtype=jnp.float32)}, out_shardings={'a': place})
  change = jax.jit(
    lambda s: jax.tree.map(lambda x: x * 2 + 1, s), donate_argnums=0, out_shardings={'a': place}
  )
  state, checkpoints = make(), Checkpoints(tmp_path)
  jax.block_until_ready(change(make()))  # compiled, so that the next call writes at once
  copy = bits(state)
  checkpoints.save(1, state)
  for _ in range(5):
    state = change(state)
  jax.block_until_ready(state)
  checkpoints.wait()
  abstract = {'a': jax.ShapeDtypeStruct((2**20,), jnp.float32, sharding=place)}
  assert bits(checkpoints.restore(1, abstract)) == copy
  assert bits(state) != copy


def test_what_is_carried_comes_back_with_its_step(tmp_path):
  checkpoints = Checkpoints(tmp_path, max_to_keep=3)
  carry = {'kl_reward': {'coefficient': 0.1 + 0.2}, 'seen': [1, 2], 'name': 'ü', 'none': None}
  checkpoints.save(1, small(1), carry=carry)
  checkpoints.save(2, small(2))
  checkpoints.save(3, small(3), carry={})
  checkpoints.wait()
  later = Checkpoints(tmp_path)
  assert later.carried(1) == carry  # a float to its last bit
  assert later.carried(2) is None and later.carried(3) == {}
  assert [later.damage(step) for step in (1, 2, 3)] == [None] * 3
  assert bits(later.restore(1, abstract_small())) == bits(small(1))


def test_what_cannot_be_carried_is_said_and_leaves_no_checkpoint(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, small(1), carry={'a': np.float32(1)})
  with pytest.raises(TypeError, match='float32'):
    checkpoints.wait()
  assert checkpoints.newest() is None


def test_an_error_in_the_background_is_raised(tmp_path, monkeypatch):
  def full(folder):
    raise OSError('disk full')

  monkeypatch.setattr(saving, 'manifest', full)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, small(1))
  with pytest.raises(OSError, match='disk full'):
    checkpoints.wait()
  checkpoints.wait()  # said once
  checkpoints.save(2, small(2))
  with pytest.raises(OSError, match='disk full'):
    checkpoints.save(3, small(3))
  monkeypatch.undo()
  assert checkpoints.newest() is None
  assert saved(tmp_path, 3).newest() == 3


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / 'x.json'
  files.write_json(path, {'a': 1})
  with pytest.raises(TypeError):
    files.write_json(path, {'a': object()})
  assert files.read_json(path, '') == {'a': 1}
  assert [p.name for p in tmp_path.iterdir()] == ['x.json']
