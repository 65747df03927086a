"""What a finished stage left in its own files, and in what its model said, as a report needs it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax import artifact, run_folder
from llm_jax.files import read_json
from llm_jax.jobs import page
from llm_jax.text import chat
from llm_jax.text import folder as tokenizers
from llm_jax.text.spans import signs, spans
from llm_jax.training import metrics
from llm_jax.types import BadInput

OF_CLASS = 3  # questions of a class that are shown with their answers


def of(stage: Any, trust: Sequence[str] = ()) -> dict[str, Any]:
  """What a finished stage left in its own files."""
  folder, ended = Path(stage.workdir), run_folder.finished(stage.workdir)
  if stage.job == 'compress':
    facts = read_json(folder / page.FACTS, 'delete its folder, and compress again')
    return {
      'job': stage.job,
      **{key: facts[key] for key in ('artifact', 'bytes', 'bits_per_weight')},
    }
  if ended and stage.job != 'train':
    again = 'delete it and give the command again, which goes on from what is there'
    return {'job': stage.job, **read_json(Path(ended), again)}
  about = artifact.describe(folder)
  records = metrics.read(folder)
  trained = [r for r in records if 'loss' in r]
  own = artifact.build(about['model'], source=str(folder), trust=trust)
  rates = [r['tokens_per_second'] for r in records if 'tokens_per_second' in r]
  flops = [r['flops_per_second'] for r in records if 'flops_per_second' in r]
  used = [r['mfu'] for r in records if r.get('mfu') is not None]
  return {
    'job': stage.job,
    'loss': stage.loss.name,
    'steps': about['step'],
    'parent': about['parent'],
    'parameters': own.num_params(),
    'began': {key: trained[0].get(key) for key in ('loss', 'reward')} if trained[1:] else {},
    'ended': {key: trained[-1].get(key) for key in ('loss', 'reward')} if trained[1:] else {},
    'tokens': max((r['total_tokens'] for r in records if 'total_tokens' in r), default=None),
    'flops': max((r['total_flops'] for r in records if 'total_flops' in r), default=None),
    'tokens_per_second': float(np.median(rates)) if rates else None,
    'flops_per_second': float(np.median(flops)) if flops else None,
    'mfu': float(np.median(used)) if used else None,
    'evaluated': {
      name: value
      for record in records
      for name, value in record.items()
      if name.partition('/')[0] in stage.evals
    },
  }


def tokens(path: str, answers: Mapping[str, str]) -> list[tuple[str, str]]:
  """(text, kinds) of the tokens of the first answer with its prompt, for `page.Pieces`."""
  template = artifact.describe(path)['config'].get('data', {}).get('template')
  if not answers or not template:
    return []
  tokenizer = tokenizers.load(Path(path) / 'tokenizer')
  said = zip(('user', 'assistant'), next(iter(answers.items())), strict=True)
  talk = [{'role': role, 'content': text} for role, text in said]
  try:
    found = chat.pieces(talk, template=chat.find_template(template, tokenizer))
  except BadInput:  # a template of somebody else's, which has no form for such an answer
    return []
  ids, mask = chat.encode(tokenizer, found)
  controls = set(tokenizer.specials.values())
  kinds = [('control ' * (i in controls) + 'trained' * on).strip() for i, on in zip(ids, mask)]
  return [*zip(map(signs, spans(tokenizer, ids)), kinds, strict=True)]


def by_class(said: Sequence[tuple[Mapping[str, Any], str]]) -> dict[str, dict[str, list[str]]]:
  """Class -> the first few questions -> the answer, and what became of it."""
  found: dict[str, dict[str, list[str]]] = {}
  for question, text in said:
    if {'class', 'outcome'} <= question.keys():
      some = found.setdefault(question['class'], {})
      if len(some) < OF_CLASS:
        some[str(question['prompt'][-1]['content'])] = [text, question['outcome']]
  return found
