"""Scores of a reward model: those of a direct call, in float32, and what must not count."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import artifact
from llm_jax.annotate import reward_model
from llm_jax.losses.reward import answer_scores
from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

GROUP = dict(name='transformer', vocab_size=290, dim=16, num_layers=1, num_heads=2, max_length=16)
KEY = jax.random.key(0)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Artifacts: `judge`; `flat`, with .7 for everything; `policy`."""
  root = tmp_path_factory.mktemp('reward_model')
  tokenizer = Tokenizer.train(['the cat sat on the mat'] * 20, vocab_size=290)
  scalar = GROUP | {'head': 'scalar'}
  groups = {'judge': scalar, 'flat': scalar, 'policy': GROUP}
  for name, group in groups.items():
    model = artifact.build(group)
    params = jax.jit(model.init)(KEY, jnp.zeros((1, 1), jnp.int32))
    if name == 'flat':
      params['head'] = {'scalar': jnp.zeros(16), 'bias': jnp.float32(0.7)}
    artifact.save(root / name, artifact.Artifact(model, params, tokenizer, {'model': group}))
  return root


@pytest.fixture
def mesh():
  with jax.set_mesh(mesh := make_mesh(data=2)):
    yield mesh


def batch_of(mesh, *, left=0, right=0):
  """Four prompts with two answers; the last of the first, and the last prompt, have no token."""
  draw = np.random.default_rng(0)
  tokens = draw.integers(1, 290, (4, 2, 9)).astype(np.int32)
  end = draw.integers(5, 10, (4, 2, 1))
  segment = (np.arange(9) < end).astype(np.int32)
  mask = (segment * (np.arange(9) >= 3)).astype(np.float32)
  mask[0, 1] = mask[3] = 0
  batch = {'tokens': tokens * segment, 'segment': segment, 'mask': mask}
  batch['position'] = np.broadcast_to(np.arange(9, dtype=np.int32), tokens.shape)
  pad = ((0, 0), (0, 0), (left, right))
  return shard_batch({k: np.pad(v, pad) for k, v in batch.items()}, mesh)


def run(folder, mesh, batch, name='judge'):
  policy = SimpleNamespace(compute=dict(dtype='bfloat16' if name == 'flat' else 'float32'))
  annotate = reward_model.make(policy, None, mesh=mesh, path=str(folder / name))
  return {k: np.asarray(v) for k, v in annotate({}, batch, KEY).items()}


def test_scores_are_those_of_a_direct_call(folder, mesh):
  batch = batch_of(mesh)
  out = run(folder, mesh, batch)
  made = artifact.load(folder / 'judge', mesh)
  wanted = np.asarray(jax.jit(lambda p, b: answer_scores(made.model, p, b))(made.params, batch))
  real = np.asarray(batch['mask']).any(-1)
  np.testing.assert_allclose(out['reward'], np.where(real, wanted, 0), atol=1e-5)
  np.testing.assert_array_equal(out['valid'], real)
  np.testing.assert_allclose(out['log/reward'], [wanted[real].mean()] * 4, rtol=1e-5)
  np.testing.assert_allclose(out['log/reward_std'], [wanted[real].std()] * 4, rtol=1e-4)
  padded = run(folder, mesh, batch_of(mesh, left=4, right=3))
  np.testing.assert_allclose(padded['reward'], out['reward'], atol=1e-5)
  np.testing.assert_allclose(padded['log/reward'], out['log/reward'], atol=1e-5)


def test_judges_add_up_and_must_all_be_sure(folder, mesh):
  batch = batch_of(mesh)
  alone = run(folder, mesh, batch)
  valid = np.ones((4, 2), np.float32)
  valid[1, 0] = 0
  before = shard_batch({'reward': 10 * valid, 'valid': valid}, mesh)
  out = run(folder, mesh, batch | before)
  sure = alone['valid'] * valid
  np.testing.assert_array_equal(out['valid'], sure)
  np.testing.assert_allclose(out['reward'], (alone['reward'] + 10) * sure, atol=1e-5)
  np.testing.assert_allclose(out['log/reward'][0], out['reward'][sure > 0].mean(), rtol=1e-5)


def test_a_score_of_a_bfloat16_model_stays_float32(folder, mesh):
  out = run(folder, mesh, batch_of(mesh), 'flat')
  assert out['reward'].dtype == np.float32
  assert (out['reward'][out['valid'] > 0] == np.float32(0.7)).all()


def test_bad_input(folder, mesh):
  with pytest.raises(BadInput, match=r"policy' has no scalar head; give the folder of a reward"):
    run(folder, mesh, batch_of(mesh), 'policy')
  with pytest.raises(BadInput, match=r'answers of 19 tokens with their prompts, and .* reads 16'):
    run(folder, mesh, batch_of(mesh, left=10))
