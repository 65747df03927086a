"""One GRPO iteration, rollout and update, of the house against TRL; the same Llama, token counts.

Both sample 4 answers of 192 tokens to each of 4 prompts of 64 tokens, score their text with the
same Python function, and make one update with AdamW in float32 on all cores, in alternating blocks
of one process each. TRL runs its trainer's own `training_step`. Prints one JSON table.

    pip install -e '.[bench]' && python -m experiments.benchmarks.grpo_vs_trl
"""

import argparse
import json
import tempfile
from types import SimpleNamespace
from typing import Any

import numpy as np

from experiments.benchmarks import turns
from experiments.benchmarks.post_training_vs_trl import (
  DIM,
  HEADS,
  HIDDEN,
  LAYERS,
  LENGTH,
  PROMPT,
  ROWS,
  VOCAB,
  llama,
)

GROUP, NEW = 4, LENGTH - PROMPT
PROMPTS = ROWS // GROUP


def reward(answer: str, gold: str = '') -> float:
  """The share of words with an even number."""
  del gold
  words = answer.split()
  return sum(word[-1] in '02468' for word in words) / max(len(words), 1)


def prompts() -> np.ndarray:
  """Ids [4, 64]."""
  return np.random.default_rng(0).integers(10, VOCAB, (PROMPTS, PROMPT)).astype(np.int32)


def ours(accumulate: int) -> None:
  """Job `train`'s annotators, batches and step."""
  from llm_jax.parallel.flags import tune_cpu

  tune_cpu()
  import jax

  from llm_jax.annotate import group_advantage, sample, verify
  from llm_jax.find import bind
  from llm_jax.losses import policy_gradient
  from llm_jax.models import transformer
  from llm_jax.parallel.mesh import make_mesh, shard_batch
  from llm_jax.training import optimizer
  from llm_jax.training.batches import Batches
  from llm_jax.training.step import compile_step, make_state

  mesh = make_mesh(data=1)
  with jax.set_mesh(mesh):
    model = transformer.make(
      vocab_size=VOCAB, dim=DIM, num_layers=LAYERS, num_heads=HEADS, hidden_dim=HIDDEN,
      max_length=LENGTH, head='untied', compute=dict(scan_layers=False),
    )  # fmt: skip
    words = SimpleNamespace(
      vocab_size=VOCAB,
      eos_id=VOCAB,  # no id: every answer has all its tokens
      decode=lambda ids, specials: ' '.join(f'w{i}' for i in ids),
    )
    annotate = [
      sample.make(model, words, mesh=mesh, template=None, group=GROUP, max_new=NEW),
      verify.make(model, words, mesh=mesh, rewards=('experiments.benchmarks.grpo_vs_trl',)),
      group_advantage.make(model, words),
    ]
    ids = prompts()
    rows = {'prompt': ids, 'prompt_mask': np.ones_like(ids)}
    rows['gold'] = np.zeros((PROMPTS, 1), np.uint8)
    batch_fn = Batches(lambda step: shard_batch(rows, mesh), annotate, seed=0, mesh=mesh)
    tx, _ = optimizer.make(total_steps=1000)
    state = make_state(lambda: model.init(jax.random.key(0), ids[:1, :1]), tx, mesh)
    options = policy_gradient.PRESETS['dapo']  # TRL's default loss
    loss_fn = bind(policy_gradient.loss_fn, options, where='loss', model=model)
    step = compile_step(state, mesh, loss_fn=loss_fn, tx=tx, seed=0, accumulate=accumulate)

    def one() -> Any:
      nonlocal state
      state, metrics = step(state, batch_fn(state.params, int(state.step)))
      return metrics

    turns.serve(one, lambda metrics: float(metrics['reward'].value))


def trl() -> None:
  """TRL's GRPOTrainer: generation, reward function, loss and optimizer are its own."""
  import torch
  from datasets import Dataset
  from tokenizers import Tokenizer, models, pre_tokenizers
  from transformers import PreTrainedTokenizerFast
  from trl import GRPOConfig, GRPOTrainer

  words = Tokenizer(models.WordLevel({f'w{i}': i for i in range(VOCAB)}, unk_token='w3'))
  words.pre_tokenizer = pre_tokenizers.Whitespace()
  tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token='w0', bos_token='w1', eos_token='w2', unk_token='w3'
  )
  texts = [' '.join(f'w{i}' for i in row) for row in prompts()]
  trainer = GRPOTrainer(
    model=llama(),
    reward_funcs=lambda completions, **_: [reward(text) for text in completions],
    args=GRPOConfig(
      output_dir=tempfile.mkdtemp(), report_to=[], use_cpu=True, logging_steps=10**6,
      per_device_train_batch_size=ROWS, num_generations=GROUP, max_completion_length=NEW,
      generation_kwargs={'min_new_tokens': NEW}, learning_rate=3e-4, adam_beta2=0.95,
      weight_decay=0.1, max_steps=1000, bf16=False, gradient_checkpointing=False,
      save_strategy='no', disable_tqdm=True, beta=0.0,
    ),
    train_dataset=Dataset.from_list([{'prompt': text} for text in texts] * 8),
    processing_class=tokenizer,
  )  # fmt: skip
  trainer.current_gradient_accumulation_steps = 1  # what `train` sets
  trainer.create_optimizer()
  model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
  trainer.model_wrapped = model
  model.train()
  inputs = [{'prompt': text} for text in texts for _ in range(GROUP)]

  def one() -> torch.Tensor:
    loss = trainer.training_step(model, inputs, None)
    trainer.accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss

  turns.serve(one, float)


def main() -> None:
  """Lets the sides take turns, and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--steps', type=int, default=2, help='iterations in a block')
  parser.add_argument('--blocks', type=int, default=5, help='timed blocks of each side')
  parser.add_argument('--accumulate', type=int, default=4, help='microbatches of our step')
  parser.add_argument('--worker', default='', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.worker:
    return ours(options.accumulate) if options.worker == 'llm_jax' else trl()
  table = turns.take(
    'experiments.benchmarks.grpo_vs_trl', ('llm_jax', 'trl'),
    ('--accumulate', str(options.accumulate)),
    steps=options.steps, blocks=options.blocks, tokens=ROWS * LENGTH,
  )  # fmt: skip
  print(json.dumps({**turns.where(), **table}, indent=2))


if __name__ == '__main__':
  main()
