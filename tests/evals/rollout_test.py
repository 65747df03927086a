"""Means over answers are those of all answers, whatever the batch; empty rows do not count."""

import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.evals import rollout
from llm_jax.parallel.mesh import make_mesh

ROWS = 7
DRAW = np.random.default_rng(0)
ROW = [
  {
    'prompt': np.int32([i + 1]),
    'mask': (np.arange(6) < DRAW.integers(2, 7, (2, 1))).astype(np.float32),
    'reward': DRAW.normal(size=2).astype(np.float32),
    'valid': np.float32([1, i % 3 > 0]),
  }
  for i in range(ROWS)
]


def sample(params, batch, rng):
  """Log-probabilities that are made of the prompt; an empty row has no answer but a log."""
  number_B = batch['prompt'][:, 0].astype(jnp.float32)
  logp_BGL = jnp.broadcast_to(number_B[:, None, None], batch['mask'].shape)
  segment = batch['mask'].astype(int)
  return {**batch, 'old_logp': -logp_BGL, 'segment': segment, 'log/length': number_B + params}


def refer(params, batch, rng):
  return {**batch, 'ref_logp': batch['old_logp'] - 0.5}


def measured(annotate, **options):
  run = rollout.make(None, None, rows=ROW, mesh=make_mesh(data=1), annotate=annotate, **options)
  return {name: float(mean.value) for name, mean in run(jnp.float32(10)).items()}


@pytest.mark.parametrize('batch_size', [1, 3, 7, 16])
def test_numbers_by_hand_whatever_the_batch(batch_size):
  known = [(r, v) for row in ROW for r, v in zip(row['reward'], row['valid']) if v]
  assert measured([sample, refer], batch_size=batch_size) == pytest.approx(
    {
      'reward': np.mean([r for r, _ in known]),
      'kl': np.mean([0.5 * row['mask'].sum(-1) for row in ROW]),
      'length': 10 + np.mean(np.arange(1, ROWS + 1)),
    },
    rel=1e-5,
  )


def test_what_no_annotator_writes_is_not_measured():
  assert set(measured([sample])) == {'reward', 'length'}


def test_max_rows_are_spread_evenly():
  assert measured([sample], max_rows=2)['length'] == pytest.approx(10 + (1 + ROWS) / 2)
