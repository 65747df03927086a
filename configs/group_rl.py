"""What the stages share that learn from several answers to one prompt, checked by a program."""

from ml_collections import ConfigDict

from configs import base, sizes

# total_steps, prompts a step, answers a prompt, accumulate, learning_rate.
SCHEDULE = {
  'tiny': (80, 16, 8, 2, 6e-4),
  '15m': (300, 32, 8, 8, 5e-5),
  '125m': (500, 64, 8, 4, 5e-6),
  '1b': (500, 64, 16, 2, 1e-6),
  '8b': (500, 128, 16, 2, 1e-6),
  '70b': (500, 128, 16, 2, 5e-7),
  '405b': (500, 128, 16, 2, 2e-7),
}


def get_config(stage: str, size: str) -> ConfigDict:
  """A stage that samples, verifies, compares and reinforces; the loss is GRPO's."""
  c = base.get_config(stage, size)
  steps, batch, group, accumulate, rate = SCHEDULE[size]
  c.total_steps, c.batch_size, c.accumulate, c.optimizer.learning_rate = (
    steps,
    batch,
    accumulate,
    sizes.rate(size, rate),
  )
  c.model = sizes.lora(size)
  tiny = size == 'tiny'
  c.init.params = base.Stage('policy', f'runs/{size}/sft')
  c.data = ConfigDict(
    dict(
      name='prompts',
      sources=dict(builtin='builtin:word_problems'),
      length=64 if tiny else 512,
      template='folder',
    )
  )
  c.rollout = ConfigDict(dict(epochs=1, minibatches=1))
  c.annotate = ConfigDict(
    dict(
      steps=('sample', 'verify', 'group_advantage'),
      sample=dict(group=group, max_new=96 if tiny else 1024, temperature=1.0),
      verify=dict(rewards=('exact_answer',)),
      group_advantage=dict(preset='grpo'),
    )
  )
  c.loss = ConfigDict(dict(name='policy_gradient', preset='grpo'))
  c.loss.temperature = c.annotate.sample.get_ref('temperature')
  c.optimizer.update(dict(schedule='constant', warmup_steps=5, weight_decay=0.0))
  c.evals.validation = ConfigDict(dict(name='held_out', max_rows=32 if tiny else 128))
  c.eval_every = c.checkpoint_every = 20 if tiny else 50
  c.log_every = 5
  c.stop = ConfigDict(dict(repetition=0.5))
  c.next = (
    'Compare the stages: python -m llm_jax.main --config=configs/evaluate.py '
    "--config.artifacts=\"('{init.params}', '{workdir}')\""
  )
  return c


def like(c: ConfigDict, loss: str, advantage: str) -> ConfigDict:
  """The same stage with the presets of another method."""
  c.loss.preset, c.annotate.group_advantage.preset = loss, advantage
  return c
