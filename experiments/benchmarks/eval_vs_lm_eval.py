"""Our evaluation engine against lm-eval's Hugging Face backend, on the same requests.

A random Llama of 6.9M parameters (256 wide, 6 layers, 4,096 tokens, float32) is written as a folder
that both read. Both start from texts: what a tokenizer takes counts. Each worker has one thread and
its clock is the time of its processor, so that other work on the machine counts less. Compilation
happens in the first round and is shown apart. Prints one JSON table.

    pip install -e '.[bench,eval]'
    python -m experiments.benchmarks.eval_vs_lm_eval --path=benchmarks --task=hellaswag

`--path` is the folder of all benchmarks, as in `config.path` of job `evaluate`.
"""

import argparse
import functools
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks import turns

# task -> documents, examples, options of the task, and the bar.
TASKS: dict[str, tuple[int, int, dict[str, Any], float]] = {
  'hellaswag': (40, 0, {}, 2.5),
  'arc_easy': (40, 0, {}, 3.0),
  'mmlu': (24, 5, {'subjects': ('anatomy',)}, 4.0),
  'lambada': (80, 0, {}, 1.4),
  'boolq': (24, 0, {}, 2.0),
  'generate': (8, 0, {}, 2.0),
}
BATCHES = (1, 8, 32)  # of lm-eval
LENGTH, NEW = 2048, 64
Pairs = list[tuple[str, list[str]]]  # a context, and what may follow it


def write(folder: Path, texts: Sequence[str]) -> None:
  """The model and a tokenizer of 4,096 tokens, trained on some texts, as a Hugging Face folder."""
  import numpy as np

  from llm_jax.data import builtin
  from llm_jax.models import huggingface, transformer
  from llm_jax.models.huggingface import folder as theirs
  from llm_jax.text import tokenizer_export
  from llm_jax.text.tokenizer import Tokenizer

  tokenizer = Tokenizer.train([*texts, *builtin.documents('train')[:1000]], vocab_size=4096)
  model = transformer.make(
    vocab_size=tokenizer.vocab_size, dim=256, num_layers=6, num_heads=8, hidden_dim=704,
    max_length=LENGTH, head='tied',
  )  # fmt: skip
  about = huggingface.config_of(model.shape, 'llama')
  about |= {'torch_dtype': 'float32', 'bos_token_id': tokenizer.bos_id}
  about |= {'eos_token_id': tokenizer.eos_id}
  sources, draw = huggingface.plan(model.shape, 'llama').sources, np.random.default_rng(0)
  make = lambda s: draw.standard_normal(s.shape, dtype=np.float32) * 0.05
  kinds = {s.name: np.dtype(np.float32) for s in sources}
  folder.mkdir()
  theirs.write(folder, about, sources, make, kinds, shard_bytes=10**9)
  tokenizer_export.save(tokenizer, folder, [tokenizer.eos_id])


def items(path: str, name: str) -> tuple[Any, list[Any], list[Any]]:
  """The task, its questions, and those that examples come from."""
  from llm_jax.data.tasks import files
  from llm_jax.evals.task import task_of

  count, shots, options, _ = TASKS[name]
  task = task_of('boolq' if name == 'generate' else name, options)
  split = 'validation' if name == 'arc_easy' else task.split  # the smaller set
  found = files.items(name, task, split, path, count)
  return task, found, files.items(name, task, task.examples, path) if shots else []


def ours(path: str, name: str, folder: str) -> None:
  """Scores, or writes, on request."""
  import jax

  import llm_jax
  from llm_jax.evals.asking import Asker
  from llm_jax.evals.likelihood import Likelihood
  from llm_jax.parallel.mesh import make_mesh
  from llm_jax.sampling import complete

  mesh = make_mesh()
  made = llm_jax.load(folder, mesh=mesh, compute={'dtype': 'float32'})
  task, questions, pool = items(path, name)
  asker = Asker(
    tokenizer=made.tokenizer, task=task, room=LENGTH, pool=pool, shots=TASKS[name][1], draw='first'
  )
  if name == 'generate':
    run = complete.sampler(
      made.model, made.tokenizer, None, max_new=NEW, temperature=0.0, stop_strings=('\n\n\n\n',)
    )

    def step() -> float:
      contexts = [[*one.requests[0].context] for one in asker(questions)]
      return float(sum(map(len, complete.sampled(run, made.params, contexts))))

  else:
    engine = Likelihood(made.model, mesh)

    def step() -> float:
      requests = [request for one in asker(questions) for request in one.requests]
      found = dict(engine(made.params, requests))
      return float(sum(one.logp for scored in found.values() for one in scored))

  with jax.set_mesh(mesh):
    turns.serve(step, lambda total: total, time.process_time)


def theirs(path: str, name: str, folder: str, batch: int) -> None:
  """The same with lm-eval."""
  import torch
  from lm_eval.api.instance import Instance
  from lm_eval.models.huggingface import HFLM

  torch.set_num_threads(1)
  model = HFLM(
    pretrained=folder, device='cpu', dtype='float32', batch_size=batch, add_bos_token=True,
    max_length=LENGTH,
  )  # fmt: skip
  pairs = texts(path, name)
  if name == 'generate':
    until = {'until': ['\n\n\n\n'], 'max_gen_toks': NEW, 'do_sample': False}
    asked = [(context, dict(until)) for context, _ in pairs]
  else:
    asked = [(context, text) for context, behind in pairs for text in behind]
  kind = 'generate_until' if name == 'generate' else 'loglikelihood'
  instances = [Instance(kind, {}, one, i) for i, one in enumerate(asked)]
  run: Callable[..., Any] = functools.partial(getattr(model, kind), disable_tqdm=True)

  def finish(found: Any) -> float:
    return float(len(found)) if name == 'generate' else float(sum(logp for logp, _ in found))

  turns.serve(lambda: run(instances), finish, time.process_time)


def texts(path: str, name: str) -> Pairs:
  """What both are asked, as text."""
  from llm_jax.data.tasks.task import example

  task, questions, pool = items(path, name)
  shots = TASKS[name][1]
  found = []
  for item in questions:
    there = [one for one in pool if one.subject == item.subject][:shots]
    before = ''.join(f'{example(one, task)}{task.separator}' for one in there)
    context = f'{task.description(item.subject)}{before}{item.context}'
    found.append((context, [f'{task.delimiter}{choice}' for choice in item.choices]))
  return found


def main() -> None:
  """Writes the model, lets the workers take turns, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--path', required=True, help='the folder of all benchmarks')
  parser.add_argument('--task', choices=TASKS, default='hellaswag')
  parser.add_argument('--blocks', type=int, default=5)
  parser.add_argument('--folder', default='', help=argparse.SUPPRESS)
  parser.add_argument('--worker', default='', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.worker:
    kind, _, batch = options.worker.partition(':')
    if kind == 'llm_jax':
      return ours(options.path, options.task, options.folder)
    return theirs(options.path, options.task, options.folder, int(batch))
  # One thread each: products of several would count the time in which they wait for each other.
  os.environ['XLA_FLAGS'] = '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'
  os.environ['OMP_NUM_THREADS'] = '1'
  os.environ['TOKENIZERS_PARALLELISM'] = 'false'
  pairs = texts(options.path, options.task)
  count = len(pairs) if options.task == 'generate' else sum(len(behind) for _, behind in pairs)
  with tempfile.TemporaryDirectory() as place:
    folder = Path(place) / 'model'
    write(folder, [context + text for context, behind in pairs for text in ['', *behind]])
    names = ['llm_jax', *(f'lm_eval:{batch}' for batch in BATCHES)]
    arguments = [f'--path={options.path}', f'--task={options.task}', f'--folder={folder}']
    found = turns.take(
      'experiments.benchmarks.eval_vs_lm_eval', names, arguments,
      steps=1, blocks=options.blocks, tokens=count * (NEW if options.task == 'generate' else 1),
    )  # fmt: skip
  found['requests_per_second'] = found.pop('tokens_per_second')
  best = min(found['ratio'].values())
  bar = TASKS[options.task][3]
  about = {**turns.where(), 'task': options.task, 'requests': count}
  print(json.dumps({**about, **found, 'ratio_to_their_best': best, 'bar': bar}, indent=2))


if __name__ == '__main__':
  main()
