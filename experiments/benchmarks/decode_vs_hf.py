"""Decoding of the house's own sampler against Hugging Face `generate` with its cache, in float32.

Both continue prompts of 64 random tokens by 192 sampled ones with models of one shape, in
alternating blocks of one process each. Prints one JSON table.

    pip install -e '.[bench]' && python -m experiments.benchmarks.decode_vs_hf --batch 16
"""

import argparse
import json
import os

from experiments.benchmarks import turns
from experiments.benchmarks.train_vs_torch import SHAPES

PROMPT, NEW = 64, 192


def jax_worker(shape: str, batch: int) -> None:
  """Samples on request with `sampling.generate`."""
  from llm_jax.parallel.flags import tune_cpu

  tune_cpu()
  import functools

  import jax
  import numpy as np

  from llm_jax.models import transformer
  from llm_jax.sampling import pick
  from llm_jax.sampling.generate import generate

  dim, layers, heads, hidden, vocab, *_ = SHAPES[shape]
  model = transformer.make(
    vocab_size=vocab, dim=dim, num_layers=layers, num_heads=heads, hidden_dim=hidden,
    max_length=PROMPT + NEW, head='untied', compute=dict(scan_layers=False),
  )  # fmt: skip
  prompt_BP = np.random.default_rng(0).integers(0, vocab, (batch, PROMPT), np.int32)
  params = jax.jit(model.init)(jax.random.key(0), prompt_BP[:1, :1])
  run = jax.jit(
    functools.partial(generate, model=model, max_new=NEW, stop=(), pick=pick.make(temperature=1.0))
  )
  number = iter(range(10**9))

  def one() -> dict:
    return run(params, prompt_BP, np.ones_like(prompt_BP), jax.random.key(next(number)))

  turns.serve(one, lambda out: float(out['old_logp'].mean()))


def hf_worker(shape: str, batch: int) -> None:
  """The same with `LlamaForCausalLM.generate`."""
  import numpy as np
  import torch
  from transformers import LlamaConfig, LlamaForCausalLM

  dim, layers, heads, hidden, vocab, *_ = SHAPES[shape]
  torch.manual_seed(0)
  torch.set_num_threads(os.cpu_count() or 1)
  config = LlamaConfig(
    vocab_size=vocab, hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers,
    num_attention_heads=heads, max_position_embeddings=PROMPT + NEW, tie_word_embeddings=False,
  )  # fmt: skip
  model = LlamaForCausalLM(config).eval()
  prompt_BP = torch.from_numpy(np.random.default_rng(0).integers(0, vocab, (batch, PROMPT)))

  def one() -> torch.Tensor:
    with torch.no_grad():
      return model.generate(
        prompt_BP, attention_mask=torch.ones_like(prompt_BP), do_sample=True, top_k=0,
        max_new_tokens=NEW, min_new_tokens=NEW, use_cache=True, pad_token_id=0,
      )  # fmt: skip

  turns.serve(one, lambda out: float(out.shape[1]))


def main() -> None:
  """Starts both workers, lets them take turns, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--shape', choices=SHAPES, default='a')
  parser.add_argument('--batch', type=int, default=16)
  parser.add_argument('--steps', type=int, default=2, help='batches in a block')
  parser.add_argument('--blocks', type=int, default=5, help='timed blocks of each side')
  parser.add_argument('--peers', default='hugging face', help="'' for none")
  parser.add_argument('--worker', default='', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.worker == 'llm_jax':
    return jax_worker(options.shape, options.batch)
  if options.worker:
    return hf_worker(options.shape, options.batch)
  table = turns.take(
    'experiments.benchmarks.decode_vs_hf',
    ['llm_jax', *filter(None, options.peers.split(','))],
    ['--shape', options.shape, '--batch', str(options.batch)],
    steps=options.steps, blocks=options.blocks, tokens=options.batch * NEW,
  )  # fmt: skip
  about = {**turns.where(), 'shape': options.shape, 'batch': options.batch}
  print(json.dumps({**about, **table}, indent=2))


if __name__ == '__main__':
  main()
