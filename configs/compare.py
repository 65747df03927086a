"""Which of several variants of a config is better: each with several seeds, and a table.

python -m llm_jax.main --config=compare:pretrain --config.variants.z.loss.z_loss=1e-3
python -m llm_jax.main --config=compare:dpo --config.grid.loss.beta='(0.03,0.3)' --config.seeds=5

What follows the colon is the config that is varied, such as `dpo`, `dpo:15m` or `pipeline:llama`.
"""

from ml_collections import ConfigDict

from llm_jax.jobs.command import load
from llm_jax.jobs.rounds import makes

# What an evaluation measures that means the same for all losses.
MEANS = {'perplexity': 'loss', 'held_out': 'accuracy', 'rollout': 'reward', 'classes': 'accuracy'}


def get_config(base: str = 'pretrain') -> ConfigDict:
  c = ConfigDict()
  c.job = 'compare'
  c.base = load(base)
  c.workdir = f'{c.base.workdir}_compare'
  c.variants, c.grid = ConfigDict(), ConfigDict()
  c.against = ''  # the base
  c.seeds = 3
  c.read = metrics(c.base)
  c.fewer = ()
  c.budget = ConfigDict()  # what the base has
  c.tune = ConfigDict()
  if 'learning_rate' in c.base.get('optimizer', {}):
    c.tune.optimizer = ConfigDict(dict(learning_rate=(0.5, 1, 2)))
  c.evals, c.tasks, c.path, c.ask = ConfigDict(), (), '', ConfigDict()
  c.groups, c.shard = 1, ''
  if 'sample' in c.base:
    c.base.sample.prompts = ()  # nobody reads them
  if 'cache' in c.base.get('annotate', {}).get('reference', {}):
    c.base.annotate.reference.cache = c.get_ref('workdir') + '/reference'
  return c


def metrics(config: ConfigDict, stage: str = '') -> tuple[str, ...]:
  """What is measured of a stage, or of the last policy of a pipeline, that can be compared."""
  if config.job == 'pipeline':
    policies = [name for name in config.stages if makes(config[name]) == 'policy']
    return metrics(config[policies[-1]], f'{policies[-1]}/') if policies else ()
  samples = 'sample' in config.get('annotate', {}).get('steps', ())
  means = MEANS | ({'held_out': 'reward'} if samples else {})
  named = {key: group.get('name') for key, group in config.get('evals', {}).items()}
  return tuple(f'{stage}{key}/{means[name]}' for key, name in named.items() if name in means)
