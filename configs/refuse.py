"""Refusals: the SFT model learns to say that it does not know, without forgetting what it does.

python -m llm_jax.main --config=configs/probe.py
python -m llm_jax.main --config=configs/refuse.py

A fifth of the rows is what job `probe` wrote, refusals and right answers in equal numbers; the rest
is what SFT read. The same rows teach by preferences, and a reward teaches without them:

python -m llm_jax.main --config=configs/dpo.py \
  --config.data.sources.knowledge=runs/tiny/probe/preferences.jsonl
python -m llm_jax.main --config=configs/grpo.py --config.data.sources.builtin='' \
  --config.data.sources.knowledge=runs/tiny/probe/refusals.jsonl \
  --config.annotate.verify.rewards="('honest',)" --config.annotate.verify.options.honest.wrong=3
"""

from ml_collections import ConfigDict

from configs import base, sft

SHARE = 0.2  # of the rows


def get_config(size: str = 'tiny') -> ConfigDict:
  c = sft.get_config(size)
  c.stage = 'refuse'
  c.workdir = f'runs/{size}/refuse'
  c.total_steps = 120 if size == 'tiny' else c.total_steps // 5
  c.optimizer.learning_rate /= 4
  c.optimizer.warmup_steps = 10 if size == 'tiny' else 50
  c.init.params = base.Stage('policy', f'runs/{size}/sft')
  c.data.sources.refusals = f'runs/{size}/probe/refusals.jsonl'
  c.data.weights = ConfigDict(dict(builtin=1 - SHARE, refusals=SHARE))
  c.data.map = 'knowledge'  # leaves out what `data.knowledge` has set apart
  c.eval_every = c.checkpoint_every = c.total_steps // 4
  c.sample.prompts = ('What does `os.path.join` do?', 'What does `os.path.jion` do?')
  c.next = (
    'See what it refuses: python -m llm_jax.main --config=configs/evaluate.py '
    "--config.artifacts=\"('{init.params}', '{workdir}')\" --config.evals.knowledge.name=knowledge"
  )
  return c
