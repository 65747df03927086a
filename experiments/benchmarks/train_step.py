"""The house's own train step on this machine's accelerator: tokens/s, MFU, memory, compile time.

A case is a size of configs/sizes.py and what is changed of it, each in a process of its own; a row
is one document, or `documents=` of them. Prints one JSON table.

    python -m experiments.benchmarks.train_step 125m,batch=16 1b,batch=8,remat=dots
    python -m experiments.benchmarks.train_step 8b,num_layers=4,batch=4 --peer

`--peer` runs the same shape with Hugging Face Llama in torch: compiled, bfloat16 autocast, flash
attention, fused AdamW.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from experiments.benchmarks import turns

RUN = dict(batch=8, length=4096, accumulate=1, documents=1, steps=4, blocks=4)


def parse(case: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
  """Size, changes of the model, and how it is run."""
  from llm_jax.jobs.command import literal

  size, *words = case.split(',')
  changes = {name: literal(value) for name, _, value in (word.partition('=') for word in words)}
  how = {name: changes.pop(name, value) for name, value in RUN.items()}
  return size, changes, how


def timed(one: Callable[[], Any], finish: Callable[[Any], Any], how: dict[str, Any]) -> float:
  """Median seconds a step, over blocks of steps."""
  out = one()
  finish(out)
  seconds = []
  for _ in range(how['blocks']):
    start = time.perf_counter()
    for _ in range(how['steps']):
      out = one()
    finish(out)
    seconds.append((time.perf_counter() - start) / how['steps'])
  return statistics.median(seconds)


def rows_of(vocab: int, batch: int, length: int, documents: int) -> dict[str, Any]:
  """Rows of about as many documents; MFU counts the attention of one."""
  import numpy as np

  draw = np.random.default_rng(0)
  begins = draw.uniform(size=(batch, length)) < (documents - 1) / length
  begins[:, 0] = True
  index = np.broadcast_to(np.arange(length), (batch, length))
  position = index - np.maximum.accumulate(np.where(begins, index, 0), axis=1)
  return {
    'tokens': draw.integers(0, vocab, (batch, length), np.int32),
    'mask': (~begins).astype(np.float32),
    'segment': begins.cumsum(1).astype(np.int32),
    'position': position.astype(np.int32),
  }


def model_of(size: str, changes: dict[str, Any]) -> Any:
  """The model of a size with some fields of its shape or compute changed."""
  from configs import sizes
  from llm_jax.models import transformer
  from llm_jax.models.compute import Compute
  from llm_jax.options import options_of

  how = {k: v for k, v in changes.items() if k in options_of(Compute)}
  shape = sizes.model(size).to_dict() | {k: v for k, v in changes.items() if k not in how}
  del shape['name']
  return transformer.make(compute=sizes.compute(size).to_dict() | how, **shape)


def ours(case: str) -> dict[str, Any]:
  """One case with the house's model, loss, optimizer and step."""
  from llm_jax.parallel.flags import tune_cpu

  tune_cpu()
  import jax
  import jax.numpy as jnp

  from llm_jax.find import bind
  from llm_jax.losses import cross_entropy
  from llm_jax.parallel.mesh import make_mesh, peak_flops, shard_batch
  from llm_jax.training import optimizer
  from llm_jax.training.step import compile_step, make_state

  size, changes, how = parse(case)
  model = model_of(size, changes)
  batch, length = how['batch'], how['length']
  mesh = make_mesh(fsdp=-1)
  with jax.set_mesh(mesh):
    tx, _ = optimizer.make(total_steps=1000)
    init = lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    state = make_state(init, tx, mesh)
    loss_fn = bind(cross_entropy.loss_fn, {}, where='loss', model=model)
    step = compile_step(state, mesh, loss_fn=loss_fn, tx=tx, seed=0, accumulate=how['accumulate'])
    data = shard_batch(rows_of(model.shape.vocab_size, batch, length, how['documents']), mesh)
    start = time.perf_counter()
    compiled = step.lower(state, data).compile()
    compile_seconds = time.perf_counter() - start

    def one() -> Any:
      nonlocal state
      state, metrics = compiled(state, data)
      return metrics

    seconds = timed(one, lambda metrics: float(metrics['loss'].value), how)
    loss = float(one()['loss'].value)
    tokens = batch * length
    flops = tokens * model.flops_per_token(length)
    peak = peak_flops()
    memory = jax.local_devices()[0].memory_stats() or {}
    return {
      'device': jax.devices()[0].device_kind,
      'parameters': model.num_params(),
      'attention': model.backend(length),
      'tokens_per_second': round(tokens / seconds),
      **({'mfu': round(flops / seconds / peak, 4)} if peak else {}),
      'compile_seconds': round(compile_seconds, 1),
      'gigabytes': round(memory.get('peak_bytes_in_use', 0) / 1e9, 2),
      'loss': round(loss, 3),
    }


def torch_peer(case: str) -> dict[str, Any]:
  """The same shape, compiled by torch."""
  import torch
  from transformers import LlamaConfig, LlamaForCausalLM

  size, changes, how = parse(case)
  if how['documents'] != 1:
    raise SystemExit(f'{case}: the peer has rows of one document; leave --peer or documents= out')
  model = model_of(size, changes)
  shape = model.shape
  config = LlamaConfig(
    vocab_size=shape.vocab_size, hidden_size=shape.dim, intermediate_size=shape.hidden_dim,
    num_hidden_layers=shape.num_layers, num_attention_heads=shape.num_heads,
    num_key_value_heads=shape.num_kv_heads, max_position_embeddings=how['length'],
    tie_word_embeddings=shape.head == 'tied', attn_implementation='sdpa', use_cache=False,
  )  # fmt: skip
  torch.set_float32_matmul_precision('high')
  device = torch.device('cuda')
  theirs: Any = LlamaForCausalLM(config).to(device)
  if model.compute.remat != 'none':
    theirs.gradient_checkpointing_enable()
  theirs.train()
  adamw = torch.optim.AdamW(theirs.parameters(), lr=3e-4, betas=(0.9, 0.95), fused=True)
  tokens = torch.randint(0, shape.vocab_size, (how['batch'], how['length']), device=device)
  forward = torch.compile(theirs)

  def one() -> Any:
    for part in tokens.chunk(how['accumulate']):
      with torch.autocast('cuda', dtype=torch.bfloat16):
        loss = forward(input_ids=part, labels=part).loss / how['accumulate']
      loss.backward()
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    adamw.step()
    adamw.zero_grad(set_to_none=True)
    return loss

  start = time.perf_counter()
  float(one())
  compile_seconds = time.perf_counter() - start
  seconds = timed(one, float, how)
  count = how['batch'] * how['length']
  return {
    'torch': torch.__version__,
    'tokens_per_second': round(count / seconds),
    'compile_seconds': round(compile_seconds, 1),
    'gigabytes': round(torch.cuda.max_memory_allocated() / 1e9, 2),
  }


def main() -> None:
  """Runs the cases one after the other; one that fails says why and stops no other."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('cases', nargs='+')
  parser.add_argument('--peer', action='store_true', help='torch too')
  parser.add_argument('--limit', type=float, default=600, help='seconds a case may take')
  parser.add_argument('--worker', default='', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.worker:
    work = {'llm_jax': ours, 'torch': torch_peer}[options.worker]
    print('RESULT' + json.dumps(work(options.cases[0])))
    return
  table = []
  for case in options.cases:
    row: dict[str, Any] = {'case': case}
    for name in ('llm_jax', 'torch') if options.peer else ('llm_jax',):
      row[name] = _measure(case, name, options.limit)
    if all('tokens_per_second' in row.get(name, {}) for name in ('llm_jax', 'torch')):
      rates = [row[name]['tokens_per_second'] for name in ('llm_jax', 'torch')]
      row['ratio'] = round(rates[0] / rates[1], 3)
    print(json.dumps(row), flush=True)
    table.append(row)
  print(json.dumps({**turns.where(), 'table': table}, indent=2))


def _measure(case: str, name: str, limit: float) -> dict[str, Any]:
  """What a worker prints, or the end of why it could not."""
  command = [sys.executable, '-m', 'experiments.benchmarks.train_step', case, '--worker', name]
  environment = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.93', **os.environ}
  if name == 'torch':
    environment['JAX_PLATFORMS'] = 'cpu'
  try:
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment)
  except subprocess.TimeoutExpired:
    return {'failed': f'took longer than {limit} s'}
  for line in done.stdout.splitlines():
    if line.startswith('RESULT'):
      return json.loads(line.removeprefix('RESULT'))
  return {'failed': done.stderr[-1500:]}


if __name__ == '__main__':
  main()
