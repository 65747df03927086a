"""What lm-eval 0.4.13 made of a few questions of 23 tasks, and the same questions read by ours.

fixtures/tasks/golden.json.gz has hashes of contexts, ids, log-likelihoods and metrics under the
tiny Llama of model.npz; bench/ has the questions, in the formats that people have them in. Where
examples are drawn from a long list, those that are never drawn are left blank.
"""

import functools
import gzip
import hashlib
import json
from pathlib import Path

import numpy as np

from llm_jax.data.tasks import files
from llm_jax.evals import asking, task
from llm_jax.models import huggingface, transformer
from llm_jax.text.tokenizer import Tokenizer

HERE = Path(__file__).parents[2] / 'fixtures' / 'tasks'
BENCH = str(HERE / 'bench')
GOLDEN = json.loads(gzip.decompress((HERE / 'golden.json.gz').read_bytes()))
TASKS = GOLDEN['tasks']
ROOM = GOLDEN['max_length']
POOL = f'{BENCH}/glue/rte_pool.tsv.gz?names=index,sentence1,sentence2,label&quotes=no'
OPTIONS = {
  'arc_easy': {'split': 'validation'},
  'arc_challenge': {'split': 'validation', 'mutual_info': True},
  'rte': {'examples': POOL},
  'blimp': {'variant': {'subjects': ('anaphor_gender_agreement',)}},
}


def name_of(golden):
  """Our name of a task of theirs, and its options."""
  options, name = OPTIONS.get(golden, {}), golden
  if golden.startswith('mmlu_'):
    name, options = 'mmlu', {'variant': {'subjects': (golden.removeprefix('mmlu_'),)}}
  return {'lambada_openai': 'lambada'}.get(name, name), options


@functools.cache
def arrays():
  with np.load(HERE / 'model.npz') as file:
    return dict(file)


@functools.cache
def model():
  """The model in float32, and its parameters."""
  config = json.loads(str(arrays()['config']))
  weights = {k[2:]: v.astype(np.float32) for k, v in arrays().items() if k.startswith('p.')}
  made = transformer.make(**huggingface.shape_of(config), compute={'dtype': 'float32'})
  return made, huggingface.from_hf(weights, made.shape, 'llama')


@functools.cache
def tokenizer():
  return Tokenizer(arrays()['tokenizer_model'].tobytes())


def draw(name):
  return 'first' if name == 'mmlu' else 'lm_eval'


@functools.cache
def asked(golden):
  """The task, its questions, and how they are asked, as lm-eval does."""
  name, options = name_of(golden)
  made = task.task_of(name, options.get('variant'))
  split, shots = options.get('split', made.split), TASKS[golden]['shots']
  items = files.items(name, made, split, BENCH)
  pool = []
  if shots:
    pool = task.pool_of(name, made, options.get('examples', made.examples), BENCH, None)
  writes = made.kind == 'generate'
  asker = asking.Asker(
    tokenizer=tokenizer(), task=made, room=ROOM - 256 if writes else ROOM, pool=pool, shots=shots,
    draw=draw(name), too_long='cut',
  )  # fmt: skip
  return made, items, asker(items) if made.kind != 'rolling' else []


def sha256(text):
  return hashlib.sha256(text.encode()).hexdigest()
