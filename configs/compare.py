"""Which of several variants of a config is better: each with several seeds, and a table.

python -m llm_jax.main --config=compare:pretrain --config.variants.z.loss.z_loss=1e-3
python -m llm_jax.main --config=compare:dpo --config.grid.loss.beta='(0.03,0.3)' --config.seeds=5

The word after the colon is that of the config which is varied, such as `dpo` or `dpo:15m`.
"""

from ml_collections import ConfigDict

from llm_jax.jobs.command import load

# What an evaluation measures that means the same for all losses.
MEANS = {'perplexity': 'loss', 'held_out': 'accuracy', 'rollout': 'reward'}


def get_config(base: str = 'pretrain') -> ConfigDict:
  c = ConfigDict()
  c.job = 'compare'
  c.base = load(base)
  c.workdir = f'{c.base.workdir}_compare'
  c.variants = ConfigDict()
  c.grid = ConfigDict()
  c.against = ''  # the base
  c.seeds = 3
  evals = c.base.get('evals', {})
  c.read = tuple(
    f'{key}/{MEANS[group.name]}' for key, group in evals.items() if group.get('name') in MEANS
  )
  c.fewer = ()
  c.tune = ConfigDict(dict(optimizer=dict(learning_rate=(0.5, 1, 2))))
  if 'sample' in c.base:
    c.base.sample.prompts = ()  # nobody reads them
  if 'cache' in c.base.get('annotate', {}).get('reference', {}):
    c.base.annotate.reference.cache = c.get_ref('workdir') + '/reference'
  return c
