"""Reference log-probabilities: exact, computed once for each example, forgotten when stale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import artifact
from llm_jax.annotate import reference, teacher
from llm_jax.losses.logprobs import score
from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

GROUP = dict(name='transformer', vocab_size=290, dim=16, num_layers=1, num_heads=2, max_length=32)
KEY = jax.random.key(0)


def params_of(model, seed):
  return jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Artifacts `one` and `two` of the same shape, and a reward model."""
  root = tmp_path_factory.mktemp('reference')
  tokenizer = Tokenizer.train(
    ['the cat sat on the mat while many dogs ran home'] * 20, vocab_size=290
  )
  for name, group in (('one', GROUP), ('two', GROUP), ('judge', GROUP | {'head': 'scalar'})):
    model = artifact.build(group)
    params = params_of(model, len(name) + ord(name[0]))
    made = artifact.Artifact(model, params, tokenizer, {'model': group})
    artifact.save(root / name, made)
  return root


@pytest.fixture
def mesh():
  with jax.set_mesh(mesh := make_mesh(data=2)):
    yield mesh


def batch_of(mesh, seed, rows=4):
  draw = np.random.default_rng(seed)
  tokens = draw.integers(0, 290, (rows, 2, 9)).astype(np.int32)
  length = draw.integers(4, 10, (rows, 2, 1))
  segment = (np.arange(9) < length).astype(np.int32)
  return shard_batch({'tokens': tokens * segment, 'segment': segment, 'mask': segment * 1.0}, mesh)


def counted(monkeypatch):
  """How often the reference was really asked, while it runs."""
  asked = []

  def count(*args, **kwargs):
    jax.debug.callback(lambda: asked.append(1))
    return score(*args, **kwargs)

  monkeypatch.setattr(reference, 'score', count)
  return asked


def wanted(folder, name, mesh, batch):
  made = artifact.load(folder / name, mesh)
  return jax.jit(lambda p, b: score(made.model, p, b))(made.params, batch)


def test_every_example_is_computed_once_and_equals_a_direct_call(
  folder, mesh, tmp_path, monkeypatch
):
  asked = counted(monkeypatch)
  model, cache = artifact.build(GROUP), str(tmp_path / 'cache')
  make = lambda name='one', **more: reference.make(
    model, None, mesh=mesh, path=str(folder / name), cache=cache, **more
  )
  first, second = batch_of(mesh, 1), batch_of(mesh, 2)
  mixed = {k: jnp.concatenate([first[k][2:], second[k][:2]]) for k in first}
  mixed = shard_batch({k: np.asarray(v) for k, v in mixed.items()}, mesh)
  annotate = make()
  fresh = {name: annotate({}, b, KEY)['ref_logp'] for name, b in (('1', first), ('2', second))}
  np.testing.assert_allclose(fresh['1'], wanted(folder, 'one', mesh, first), atol=1e-6)
  jax.effects_barrier()
  assert len(asked) == 2
  again = annotate({}, mixed, KEY)['ref_logp']
  np.testing.assert_array_equal(again[:2], fresh['1'][2:])
  np.testing.assert_array_equal(again[2:], fresh['2'][:2])
  assert again.sharding == mixed['tokens'].sharding
  # A new process finds them in the file.
  np.testing.assert_array_equal(make()({}, first, KEY)['ref_logp'], fresh['1'])
  jax.effects_barrier()
  assert len(asked) == 2
  # Other tokens (another template, say), another temperature or other parameters do not.
  make()({}, {**first, 'tokens': first['tokens'] + 0, 'segment': first['segment'] * 2}, KEY)
  hot = make(temperature=2.0)({}, first, KEY)['ref_logp']
  other = make('two')({}, first, KEY)['ref_logp']
  jax.effects_barrier()
  assert len(asked) == 5
  model = artifact.build(GROUP, dict(dtype='bfloat16'))  # nor do other ways to compute them
  coarse = make()({}, first, KEY)['ref_logp']
  jax.effects_barrier()
  assert len(asked) == 6 and np.abs(np.asarray(coarse) - np.asarray(fresh['1'])).max() > 1e-6
  assert np.abs(np.asarray(other) - np.asarray(fresh['1'])).max() > 1e-3
  assert np.abs(np.asarray(hot) - np.asarray(fresh['1'])).max() > 1e-3


def test_a_record_that_a_kill_cut_short_is_made_anew(folder, mesh, tmp_path, monkeypatch):
  asked = counted(monkeypatch)
  model = artifact.build(GROUP)
  make = lambda: reference.make(
    model, None, mesh=mesh, path=str(folder / 'one'), cache=str(tmp_path)
  )
  batch = batch_of(mesh, 1)
  annotate = make()
  first = annotate({}, batch, KEY)['ref_logp']
  annotate({}, batch, KEY)  # by now it has been written
  (file,) = tmp_path.iterdir()
  file.write_bytes(file.read_bytes()[:-5])
  np.testing.assert_array_equal(make()({}, batch, KEY)['ref_logp'], first)
  jax.effects_barrier()
  assert len(asked) == 2


def test_a_damaged_record_is_computed_again(folder, mesh, tmp_path, capsys):
  model, batch = artifact.build(GROUP), batch_of(mesh, 1)
  make = lambda: reference.make(
    model, None, mesh=mesh, path=str(folder / 'one'), cache=str(tmp_path)
  )
  annotate = make()
  first = annotate({}, batch, KEY)['ref_logp']
  annotate({}, batch, KEY)  # by now it has been written
  (file,) = tmp_path.iterdir()
  whole = file.read_bytes()
  record = len(whole) // 4
  for place in (0, 15, 16, 17, 23, 24, 27, 28, record - 1, record + 20, 3 * record + 30):
    data = bytearray(whole)
    data[place] ^= 64
    file.write_bytes(data)
    np.testing.assert_array_equal(make()({}, batch, KEY)['ref_logp'], first)
    said = capsys.readouterr().err
    assert f'{file}: a record is damaged' in said or place % record < 28  # the header says where
  np.testing.assert_array_equal(make()({}, batch, KEY)['ref_logp'], first)
  assert not capsys.readouterr().err


def test_without_a_cache_and_for_mismatched_rows(folder, mesh):
  batch = batch_of(mesh, 1)
  batch |= {f'kl_{k}': v for k, v in batch_of(mesh, 2).items()}
  annotate = reference.make(artifact.build(GROUP), None, mesh=mesh, path=str(folder / 'one'))
  out = annotate({}, batch, KEY)
  np.testing.assert_allclose(
    out['kl_ref_logp'], wanted(folder, 'one', mesh, batch_of(mesh, 2)), atol=1e-6
  )
  assert out['tokens'] is batch['tokens']


def test_lora_is_its_own_reference(mesh, tmp_path):
  model = artifact.build(GROUP | {'lora': {'rank': 2}})
  params = params_of(model, 0)
  params['lora'] = jax.tree.map(lambda x: x + 0.1, params['lora'])
  batch = batch_of(mesh, 1)
  annotate = reference.make(model, None, mesh=mesh, cache=str(tmp_path))
  out = annotate(params, batch, KEY)['ref_logp']
  base = jax.jit(lambda p, b: score(model.base, p, b))(params['base'], batch)
  np.testing.assert_allclose(out, base, atol=1e-6)
  moved = jax.jit(lambda p, b: score(model, p, b))(params, batch)
  assert np.abs(np.asarray(out) - np.asarray(moved)).max() > 1e-3


def test_bad_input(folder, mesh):
  model = artifact.build(GROUP)
  with pytest.raises(BadInput, match=r'no reference; set config\.annotate\.reference\.path'):
    reference.make(model, None, mesh=mesh)
  with pytest.raises(BadInput, match=r"judge' is a reward model; it has no log-probabilities"):
    reference.make(model, None, mesh=mesh, path=str(folder / 'judge'))
  with pytest.raises(BadInput, match=r"judge' is no causal language model"):
    teacher.make(model, None, mesh=mesh, path=str(folder / 'judge'))
  with pytest.raises(BadInput, match=r'top_k 291 is outside 0\.\.290'):
    teacher.make(model, None, mesh=mesh, path=str(folder / 'one'), top_k=291)


@pytest.mark.parametrize('top_k', [0, 5])
def test_the_teachers_best_are_those_of_its_logits(folder, mesh, top_k):
  model, batch = artifact.build(GROUP), batch_of(mesh, 3)
  annotate = teacher.make(model, None, mesh=mesh, path=str(folder / 'one'), top_k=top_k)
  out = annotate({}, batch, KEY)
  made = artifact.load(folder / 'one', mesh)
  flat = {k: batch[k].reshape(8, 9) for k in ('tokens', 'segment')}
  logits, _ = jax.jit(lambda p: made.model.apply(p, flat['tokens'], None, flat['segment']))(
    made.params
  )
  logp = np.asarray(jax.nn.log_softmax(logits)).reshape(4, 2, 9, 290)
  count = top_k or 290
  assert out['teacher_logits'].shape == out['teacher_ids'].shape == (4, 2, 9, count)
  # Entry t is about token t, so it is what stands at t - 1; the first has no prediction.
  best = -np.sort(-logp, axis=-1)[..., :-1, :count]
  np.testing.assert_allclose(out['teacher_logits'][..., 1:, :], best, atol=1e-5)
  ids = np.asarray(out['teacher_ids'])[..., 1:, :]
  np.testing.assert_allclose(np.take_along_axis(logp[..., :-1, :], ids, -1), best, atol=1e-5)
  assert not np.asarray(out['teacher_logits'])[..., 0, :].any()
