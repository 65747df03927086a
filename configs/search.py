"""Search: the SFT model learns to look up what it does not know, and to quote what it finds.

python -m llm_jax.main --config=configs/probe.py
python -m llm_jax.main --config=configs/search.py
python -m llm_jax.main --config=configs/chat.py --config.artifact=runs/tiny/search \
  --config.use_tools=True

Half of the rows are `searches.jsonl` of job `probe`: names of Python with what tools/search.py
finds about them, and names that nobody has, with pages that nobody has written; the rest is what
SFT read.
"""

from ml_collections import ConfigDict

from configs import refuse


def get_config(size: str = 'tiny') -> ConfigDict:
  c = refuse.get_config(size)
  c.stage = 'search'
  c.workdir = f'runs/{size}/search'
  del c.data.sources.refusals
  c.data.sources.searches = f'runs/{size}/probe/searches.jsonl'
  c.data.weights = ConfigDict(dict(builtin=0.5, searches=0.5))
  c.data.repeats = 0.1  # tokens that SFT never says can be copied too
  c.total_steps = 1000 if size == 'tiny' else c.total_steps
  c.optimizer.learning_rate *= 2  # half of that of SFT
  c.optimizer.final_fraction = 0.0  # the last updates are small ones: copying wants to be exact
  c.eval_every = c.checkpoint_every = c.total_steps // 4
  c.sample.prompts = ('What does `os.path.join` do?', 'What is the capital of France?')
  c.next = (
    'Talk to it: python -m llm_jax.main --config=configs/chat.py --config.artifact={workdir} '
    '--config.use_tools=True'
  )
  return c
