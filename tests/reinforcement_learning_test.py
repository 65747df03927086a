"""The pieces of reinforcement learning learn together: a tiny model comes to say a wanted word."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.annotate import gae, group_advantage, kl_reward, sample, stats
from llm_jax.find import bind, preset
from llm_jax.losses import policy_gradient, ppo
from llm_jax.losses.logprobs import score
from llm_jax.models import actor_critic, transformer
from llm_jax.parallel.mesh import make_mesh
from llm_jax.training import optimizer
from llm_jax.training.batches import Batches, make_read
from llm_jax.training.loop import fit
from llm_jax.training.step import compile_step, make_state

pytestmark = pytest.mark.slow

VOCAB, WANTED = 16, 7
SHAPE = dict(vocab_size=VOCAB, dim=32, num_layers=1, num_heads=2, max_length=16)
TOKENIZER = SimpleNamespace(vocab_size=VOCAB, stop_ids=(0,), gaps=())
LONGEST, NEW, ANSWERS = 4, 8, 64  # tokens of a prompt, tokens of an answer, answers of a rollout


def prompts():
  """Prompts of two to four tokens, padded on the left."""
  draw, rows = np.random.default_rng(0), []
  for length in draw.integers(2, LONGEST + 1, 32):
    row = {name: np.zeros(LONGEST, np.int32) for name in ('prompt', 'prompt_mask')}
    row['prompt'][-length:], row['prompt_mask'][-length:] = draw.integers(1, VOCAB, length), 1
    rows.append(row)
  return rows


@jax.jit
def count(params, batch, rng):
  """The reward: the share of the wanted token in what was said."""
  said_BGL = stats.tokens(batch)
  reward_BG = (said_BGL & (batch['tokens'] == WANTED)).sum(-1) / said_BGL.sum(-1)
  mean = stats.mean(reward_BG, stats.answers(batch))
  return {**batch, 'reward': reward_BG} | stats.logged(batch, reward=mean)


def held(model):
  """An annotator: `ref_logp` under the parameters that training starts from."""
  start = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  return jax.jit(lambda params, batch, rng: {**batch, 'ref_logp': score(model, start, batch)})


def learn(model, annotate, loss_fn, *, group, rollouts=30, rescore=False, **reuse):
  """The metrics of the first step of each rollout: name -> numbers, in order.

  Of a rollout nothing may stay behind: the arrays alive after the last step are no more than those
  after the third rollout.
  """
  mesh, found, alive = make_mesh(data=1), [], []

  def note(step, state, metrics):
    found.append({name: float(metric.value) for name, metric in metrics.items()})
    alive.append(sum(array.nbytes for array in jax.live_arrays()))

  steps = rollouts * reuse.get('epochs', 1) * reuse.get('minibatches', 1)
  tx, _ = optimizer.make(
    total_steps=steps, learning_rate=1e-2, schedule='constant', warmup_steps=1, weight_decay=0.0
  )
  speak = sample.make(
    model, TOKENIZER, mesh=mesh, template=None, group=group, max_new=NEW, rescore=rescore
  )
  with jax.set_mesh(mesh):
    init = lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    state = make_state(init, tx, mesh)
    read = make_read(prompts(), mesh, batch_size=ANSWERS // group, seed=0)
    batches = Batches(read, [speak, count, *annotate], seed=0, mesh=mesh, **reuse)
    step = compile_step(state, mesh, loss_fn=loss_fn, tx=tx, seed=0)
    fit(state, batches, step, total_steps=steps, hooks=[note])
  assert alive[-1] <= alive[3 * batches.reuse - 1]
  found = found[:: batches.reuse]
  return {name: [metrics[name] for metrics in found] for name in found[0]}


def assert_learned(found):
  rewards = found['reward']
  print(f'{rewards[0]:.2f} -> {rewards[-1]:.2f}')
  assert rewards[0] < 0.2  # one word of sixteen
  assert rewards[-1] > 0.9


def gradient_of(model, name):
  group = preset(policy_gradient, {'preset': name}, where='loss')
  return bind(policy_gradient.loss_fn, group, where='loss', model=model)


@pytest.mark.parametrize('name', ['grpo', 'rloo'])
def test_answers_of_a_group_are_compared(name):
  model = transformer.make(**SHAPE)
  advantage = group_advantage.make(None, None, **group_advantage.PRESETS[name])
  assert_learned(learn(model, [advantage], gradient_of(model, name), group=8))


def test_reinforce_plus_plus_does_without_groups_and_critic():
  model = transformer.make(**SHAPE)
  advantage = gae.make(model, None, **gae.PRESETS['reinforce_plus_plus'])
  annotate = [held(model), kl_reward.make(None, None, coefficient=0.001), advantage]
  loss_fn = gradient_of(model, 'reinforce_plus_plus')
  assert_learned(learn(model, annotate, loss_fn, group=1, rescore=True))


def test_ppo_uses_a_rollout_several_times_and_learns_its_critic():
  policy = {**SHAPE, 'name': 'transformer'}
  model = actor_critic.make(policy=policy, critic={**policy, 'head': 'scalar'})
  kl = kl_reward.make(None, None, coefficient=0.001, target=50.0)
  loss_fn = bind(ppo.loss_fn, {}, where='loss', model=model)
  annotate, reuse = [held(model), kl, gae.make(model, None)], dict(epochs=2, minibatches=2)
  found = learn(model, annotate, loss_fn, group=1, rescore=True, rollouts=20, **reuse)
  assert_learned(found)
  assert abs(found['answer_kl'][0]) < 1e-4 < 1 < found['answer_kl'][-1]
  assert found['value_loss'][0] > 0.1 > 0.01 > found['value_loss'][-1]
  # Always below its target, so the penalty shrinks: by 0.2 * 64 / 10000 at each of 19 rollouts.
  np.testing.assert_allclose(found['kl_coefficient'][-1], 0.001 * (1 - 0.2 * 64 / 1e4) ** 19, 1e-5)
