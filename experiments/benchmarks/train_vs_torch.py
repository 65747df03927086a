"""Training throughput of the house's own train step against Hugging Face Llama in torch eager.

Both train the same shape on the same tokens with AdamW in float32 on all cores, in alternating
blocks of one process each, so that a noisy machine disturbs both alike. Prints one JSON table.

    pip install -e '.[bench]' && python -m experiments.benchmarks.train_vs_torch
"""

import argparse
import json
import os
from typing import Any

from experiments.benchmarks import turns

SHAPES = {
  # dim, layers, heads, hidden, vocabulary, length, batch
  'a': (256, 6, 4, 704, 4096, 256, 16),
  'b': (512, 8, 8, 1408, 8192, 512, 8),
}


def make_model(shape: str, rounds: bool) -> Any:
  """The house's model of a shape."""
  from llm_jax.models import transformer

  dim, layers, heads, hidden, vocab, length, _ = SHAPES[shape]
  return transformer.make(
    vocab_size=vocab, dim=dim, num_layers=layers, num_heads=heads, hidden_dim=hidden,
    max_length=length, head='untied',
    compute=dict(scan_layers=False, product_dtype='bfloat16' if rounds else None),
  )  # fmt: skip


def jax_worker(shape: str, accumulate: int, rounds: bool) -> None:
  """Trains on request: each line on stdin is a number of steps, each answer the seconds."""
  from llm_jax.parallel.flags import tune_cpu

  tune_cpu(rounds=rounds)
  import jax
  import numpy as np

  from llm_jax.find import bind
  from llm_jax.losses import cross_entropy
  from llm_jax.parallel.mesh import make_mesh, shard_batch
  from llm_jax.training import optimizer
  from llm_jax.training.step import compile_step, make_state

  *_, vocab, length, batch = SHAPES[shape]
  mesh = make_mesh(data=1)
  with jax.set_mesh(mesh):
    model = make_model(shape, rounds)
    tx, _ = optimizer.make(total_steps=1000)
    tokens = np.random.default_rng(0).integers(0, vocab, (batch, length), np.int32)
    mask = np.ones((batch, length), np.float32)
    mask[:, 0] = 0
    rows = {
      'tokens': tokens,
      'mask': mask,
      'segment': np.ones_like(tokens),
      'position': np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape).copy(),
    }
    init = lambda: model.init(jax.random.key(0), tokens[:1, :1])
    state = make_state(init, tx, mesh)
    loss_fn = bind(cross_entropy.loss_fn, {}, where='loss', model=model)
    step = compile_step(state, mesh, loss_fn=loss_fn, tx=tx, seed=0, accumulate=accumulate)
    data = shard_batch(rows, mesh)

    def one() -> dict:
      nonlocal state
      state, metrics = step(state, data)
      return metrics

    turns.serve(one, lambda metrics: float(metrics['loss'].value))


def torch_worker(shape: str, compiled: bool, rounds: bool) -> None:
  """The same with `LlamaForCausalLM` and torch's AdamW."""
  import numpy as np
  import torch
  from transformers import LlamaConfig, LlamaForCausalLM

  dim, layers, heads, hidden, vocab, length, batch = SHAPES[shape]
  torch.manual_seed(0)
  torch.set_num_threads(os.cpu_count() or 1)
  config = LlamaConfig(
    vocab_size=vocab, hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers,
    num_attention_heads=heads, max_position_embeddings=length, tie_word_embeddings=False,
  )  # fmt: skip
  model = LlamaForCausalLM(config)
  model.train()
  optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
  tokens = torch.from_numpy(np.random.default_rng(0).integers(0, vocab, (batch, length)))
  forward = torch.compile(model) if compiled else model

  def one() -> torch.Tensor:
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=rounds):
      loss = forward(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss

  turns.serve(one, lambda loss: float(loss.detach()))


def main() -> None:
  """Starts both workers, lets them take turns, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--shape', choices=SHAPES, default='a')
  parser.add_argument('--steps', type=int, default=5, help='steps in a block')
  parser.add_argument('--blocks', type=int, default=7, help='timed blocks of each side')
  parser.add_argument('--accumulate', type=int, default=4, help='microbatches of our step')
  parser.add_argument('--peers', default='torch eager', help="of 'torch eager,torch compile'")
  parser.add_argument('--bfloat16', action='store_true', help='products of bfloat16 operands')
  parser.add_argument('--worker', default='', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.worker == 'llm_jax':
    return jax_worker(options.shape, options.accumulate, options.bfloat16)
  if options.worker:
    compiled = options.worker == 'torch compile'
    return torch_worker(options.shape, compiled, options.bfloat16)

  names = ['llm_jax', *filter(None, options.peers.split(','))]
  arguments = ['--shape', options.shape, '--accumulate', str(options.accumulate)]
  arguments += ['--bfloat16'] if options.bfloat16 else []
  *_, length, batch = SHAPES[options.shape]
  table = turns.take(
    'experiments.benchmarks.train_vs_torch', names, arguments,
    steps=options.steps, blocks=options.blocks, tokens=batch * length,
  )  # fmt: skip
  flops = make_model(options.shape, options.bfloat16).flops_per_token(length)
  rates = table['tokens_per_second'].items()
  table['gigaflops_per_second'] = {name: round(rate * flops / 1e9) for name, rate in rates}
  print(json.dumps({**turns.where(), 'shape': options.shape, **table}, indent=2))


if __name__ == '__main__':
  main()
