"""The whole step learns: a tiny model comes to know a few rows by heart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.find import bind
from llm_jax.losses import cross_entropy
from llm_jax.models import transformer
from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.training import optimizer
from llm_jax.training.step import compile_step, make_state


@pytest.mark.parametrize('name, learning_rate', [('adamw', 1e-2), ('muon', 3e-2)])
def test_a_tiny_model_overfits(name, learning_rate):
  mesh = make_mesh(data=1)
  model = transformer.make(vocab_size=32, dim=32, num_layers=2, num_heads=2)
  tx, _ = optimizer.make(
    total_steps=80, name=name, learning_rate=learning_rate, warmup_steps=8, weight_decay=0.0
  )
  loss_fn = bind(cross_entropy.loss_fn, {}, where='loss', model=model)
  tokens = np.random.default_rng(0).integers(0, 32, (4, 24)).astype(np.int32)
  mask = np.ones(tokens.shape, np.float32)
  mask[:, 0] = 0
  with jax.set_mesh(mesh):
    init = lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    state = make_state(init, tx, mesh)
    step = compile_step(state, mesh, loss_fn=loss_fn, tx=tx, seed=0)
    batch = shard_batch({'tokens': tokens, 'mask': mask}, mesh)
    losses = []
    for _ in range(80):
      state, metrics = step(state, batch)
      losses.append(metrics['loss'])
  assert float(losses[0].value) > 3  # about log 32: it knows nothing yet
  assert float(losses[-1].value) < 0.3
