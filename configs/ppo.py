"""PPO: the SFT model is moved towards what the reward model likes, and held near where it was.

The recipe of InstructGPT (arXiv:2203.02155): a critic that starts as the reward model, a KL penalty
in the reward, steered to a target as in arXiv:1909.08593.

python -m llm_jax.main --config=configs/ppo.py
"""

from ml_collections import ConfigDict

from configs import base, sizes

# total_steps, prompts a step, minibatches, accumulate, learning_rate.
SCHEDULE = {
  'tiny': (120, 32, 2, 2, 2e-4),
  '15m': (800, 64, 4, 4, 2e-5),
  '125m': (1600, 64, 4, 4, 5e-6),
  '1b': (1600, 128, 4, 4, 2e-6),
  '8b': (1600, 128, 4, 4, 1e-6),
  '70b': (1600, 128, 4, 4, 5e-7),
  '405b': (1600, 128, 4, 4, 2e-7),
}


def get_config(size: str = 'tiny') -> ConfigDict:
  c = base.get_config('ppo', size)
  steps, batch, minibatches, accumulate, rate = SCHEDULE[size]
  tiny = size == 'tiny'
  c.total_steps, c.batch_size, c.accumulate = steps, batch, accumulate
  c.optimizer.learning_rate = rate
  c.model = ConfigDict(
    dict(name='actor_critic', policy=sizes.model(size), critic=sizes.model(size))
  )
  c.model.critic.head = 'scalar'
  policy, critic = (
    base.Stage('policy', f'runs/{size}/sft'),
    base.Stage('reward', f'runs/{size}/reward'),
  )
  c.init = ConfigDict(dict(policy=policy, critic=critic))
  c.data = ConfigDict(
    dict(
      name='prompts',
      sources=dict(builtin='builtin'),
      length=64 if tiny else 512,
      template='folder',
      answer_bytes=0,
    )
  )
  c.rollout = ConfigDict(dict(epochs=1, minibatches=minibatches))
  # `+ ''` makes a reference that follows and can be set alone.
  reference, judge = policy + '', critic + ''
  c.annotate = ConfigDict(
    dict(
      steps=('sample', 'reward_model', 'reference', 'kl_reward', 'gae'),
      sample=dict(max_new=96 if tiny else 512, temperature=1.0, rescore=True),
      reward_model=dict(path=judge),
      reference=dict(path=reference),
      kl_reward=dict(coefficient=0.1 if tiny else 0.05, target=2.0 if tiny else 6.0),
      gae=dict(lam=0.95),
    )
  )
  c.loss = ConfigDict(dict(name='ppo'))
  c.loss.temperature = c.annotate.sample.get_ref('temperature')
  c.annotate.reference.temperature = c.annotate.sample.get_ref('temperature')
  c.optimizer.update(dict(schedule='constant', warmup_steps=10, weight_decay=0.0))
  c.evals.validation = ConfigDict(dict(name='held_out', max_rows=128))
  c.eval_every = c.checkpoint_every = 24 if tiny else 200
  c.log_every = 10
  c.stop = ConfigDict(dict(answer_kl=30.0, repetition=0.5))
  c.next = (
    'Compare the stages: python -m llm_jax.main --config=configs/evaluate.py '
    "--config.artifacts=\"('{init.policy}', '{workdir}')\""
  )
  return c
