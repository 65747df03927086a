"""A pipeline that has every kind of stage, in the smallest numbers: seconds of work a stage.

python -m llm_jax.main --config=experiments/reliability/stages.py:somewhere
python -m llm_jax.main --config=experiments/reliability/stages.py:somewhere,sft  # one stage
"""

import json
import random
from pathlib import Path

from ml_collections import ConfigDict

from configs import pipeline

STAGES = ('tokenize', 'pretrain', 'sft', 'reward', 'dpo', 'best_of_n', 'grpo', 'ppo')
STEPS = 6
SHAPE = dict(vocab_size=320, dim=16, num_layers=1, num_heads=2, max_length=512)
NUMBERS = ('one', 'two', 'three', 'four', 'five', 'six')
FILES = dict(conversations='talks', preferences='pairs', prompts='questions')


def write_corpus(folder: Path) -> None:
  """Text, conversations, pairs and questions about numbers."""
  say = lambda role, text: {'role': role, 'content': text}
  draw, records = random.Random(0), {'text': [], 'talks': [], 'pairs': [], 'questions': []}
  for i in range(120):
    a, b = draw.choices(NUMBERS, k=2)
    text = f'{a} and {b}, item {i}'
    asked, good = [say('user', text)], [say('assistant', f'it is {a}')]
    bad = [say('assistant', f'no, {b} {b}')]
    records['text'].append({'text': f'user assistant {text}. It is {a}. ' * 3})
    records['talks'].append({'messages': asked + good})
    records['pairs'].append({'prompt': asked, 'chosen': good, 'rejected': bad})
    records['questions'].append({'prompt': text, 'answer': a})
  folder.mkdir(parents=True, exist_ok=True)
  for name, rows in records.items():
    (folder / f'{name}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


def get_config(place: str) -> ConfigDict:
  """The pipeline in `<folder>/run` on the corpus in `<folder>/data`, which is made if missing.

  Args:
    place: the folder; with a comma and a name, the config of that stage alone.
  """
  folder, _, only = place.partition(',')
  data = Path(folder) / 'data'
  if not data.is_dir():
    write_corpus(data)
  c = small(pipeline.build('every', STAGES), data, f'{folder}/run')
  evals = c.report.evals
  evals.questions.update(
    prompts=('one and two',), families=('word_problems',), max_new=6, max_questions=2, batch_size=2
  )
  evals.second.update(max_new=6, max_questions=2, batch_size=2)
  evals.rollouts.max_rows = 4
  return c[only].copy_and_resolve_references() if only else c


def small(
  c: ConfigDict, data: Path | str, workdir: Path | str, *, steps: int = STEPS, rows: int = 8,
  prompts: int = 12,
) -> ConfigDict:  # fmt: skip
  """A pipeline on a corpus of `write_corpus`, with everything made small.

  Args:
    c: of any stages.
    data: folder of the corpus.
    workdir: of the pipeline.
    steps: of each stage.
    rows: of a step.
    prompts: that best of n answers.
  """
  c.workdir, c.mesh.fsdp = str(workdir), 1
  for name in c.stages:
    stage = c[name]
    if stage.job == 'tokenize':
      stage.sources, stage.validation = ConfigDict(dict(text=f'{data}/text.jsonl')), ConfigDict()
      stage.tokenizer.vocab_size, stage.length, stage.validation_fraction = 320, 32, 0.2
      stage.shard_documents = 20
      continue
    if stage.job == 'compress':
      continue
    if stage.data.name in FILES:
      stage.data.sources.builtin = f'{data}/{FILES[stage.data.name]}.jsonl'
      stage.data.length, stage.data.validation_fraction = 96, 0.2
    if 'sample' in stage.annotate.steps:
      stage.annotate.sample.max_new = 8
    if 'verify' in stage.annotate.steps:
      options = dict(length=dict(limit=5, buffer=9, unit='characters'))
      stage.annotate.verify = ConfigDict(dict(rewards=('length',), options=options))
    if stage.job == 'sample':
      stage.batch_size, stage.max_prompts, stage.annotate.sample.group = 4, prompts, 3
      continue
    for group in (stage.model.get('policy'), stage.model.get('critic')):
      if group is not None:
        group.update(SHAPE)
    if 'policy' not in stage.model:
      stage.model.update(SHAPE)
    stage.compute.scan_layers = True
    stage.total_steps, stage.batch_size, stage.accumulate = steps, rows, 1
    stage.log_every, stage.eval_every, stage.checkpoint_every = 1, 2, 2
    stage.optimizer.update(name='adamw', learning_rate=3e-3, warmup_steps=1)
    stage.evals.validation.max_rows, stage.sample.prompts, stage.stop = 8, (), ConfigDict()
  evals = c.report.evals
  evals.text.update(max_rows=8, batch_size=4)
  evals.rollouts.update(max_rows=6, batch_size=4)
  evals.rollouts.annotate.sample.max_new = 6
  evals.rollouts.data.sources.builtin = f'{data}/questions.jsonl'
  evals.rollouts.data.update(length=96, split='train')
  return c
