"""Direct preference optimisation: the SFT model moves towards the answers that were preferred.

python -m llm_jax.main --config=configs/dpo.py
python -m llm_jax.main --config=configs/dpo.py --config.loss.kind=ipo
"""

from ml_collections import ConfigDict

from configs import preference, sizes


def get_config(size: str = 'tiny') -> ConfigDict:
  c = preference.with_reference(preference.get_config('dpo', size))
  c.loss = ConfigDict(dict(name='dpo'))
  c.optimizer.learning_rate = 2e-4 if size == 'tiny' else sizes.rate(size, 5e-7)
  c.sample.prompts = (
    'Emily buys 3 apples and 2 oranges. Each orange costs $2. The total is $13. '
    'What does each apple cost?',
  )
  c.sample.temperature, c.sample.max_new = 0.0, 96
  c.next = (
    'Compare the stages: python -m llm_jax.main --config=configs/evaluate.py '
    "--config.artifacts=\"('{init.params}', '{workdir}')\""
  )
  return c
