"""SFT and DPO steps of the house against TRL and a hand-written torch step, same Llama, same rows.

Every side takes 16 rows of 256 tokens (for DPO 8 pairs, policy with gradient and reference
without, nothing cached) and updates with AdamW in float32 on all cores, in alternating blocks of
one process each. TRL runs its trainers' own `training_step`. Prints one JSON table.

    pip install -e '.[bench]' && python -m experiments.benchmarks.post_training_vs_trl
"""

import argparse
import copy
import json
import os
import tempfile
from typing import Any

import numpy as np

from experiments.benchmarks import turns

DIM, LAYERS, HEADS, HIDDEN, VOCAB, LENGTH, ROWS, PROMPT = 256, 6, 4, 704, 4096, 256, 16, 64
PEERS = {'sft': ('trl',), 'dpo': ('trl', 'torch')}


def rows() -> tuple[np.ndarray, np.ndarray]:
  """Ids [16, 256] and where an answer is; of pairs the chosen come first, then the rejected."""
  tokens = np.random.default_rng(0).integers(10, VOCAB, (ROWS, LENGTH)).astype(np.int32)
  tokens[ROWS // 2 :, :PROMPT] = tokens[: ROWS // 2, :PROMPT]
  mask = np.ones((ROWS, LENGTH), np.float32)
  mask[:, :PROMPT] = 0
  return tokens, mask


def ours(stage: str, accumulate: int) -> None:
  """The train step of job `train`, with the loss and the annotator of the stage."""
  from llm_jax.parallel.flags import tune_cpu

  tune_cpu()
  import jax

  from llm_jax.find import bind
  from llm_jax.losses import cross_entropy, dpo
  from llm_jax.losses.logprobs import score
  from llm_jax.models import transformer
  from llm_jax.parallel.mesh import make_mesh, shard_batch
  from llm_jax.training import optimizer
  from llm_jax.training.step import compile_step, make_state

  mesh = make_mesh(data=1)
  with jax.set_mesh(mesh):
    model = transformer.make(
      vocab_size=VOCAB, dim=DIM, num_layers=LAYERS, num_heads=HEADS, hidden_dim=HIDDEN,
      max_length=LENGTH, head='untied', compute=dict(scan_layers=False),
    )  # fmt: skip
    tokens, mask = rows()
    if stage == 'dpo':  # [2, 8, L] -> [8, 2, L]
      tokens, mask = (x.reshape(2, -1, LENGTH).swapaxes(0, 1) for x in (tokens, mask))
    host = {
      'tokens': tokens,
      'mask': mask,
      'segment': np.ones_like(tokens),
      'position': np.broadcast_to(np.arange(LENGTH, dtype=np.int32), tokens.shape),
    }
    batch = shard_batch({k: np.ascontiguousarray(v) for k, v in host.items()}, mesh)
    losses = {'sft': cross_entropy.loss_fn, 'dpo': dpo.loss_fn}
    options = {'sft': {'diagnostics': True}, 'dpo': {}}[stage]
    tx, _ = optimizer.make(total_steps=1000)
    state = make_state(
      lambda: model.init(jax.random.key(0), tokens.reshape(-1, LENGTH)[:1, :1]), tx, mesh
    )
    step = compile_step(
      state, mesh, loss_fn=bind(losses[stage], options, where='loss', model=model), tx=tx, seed=0,
      accumulate=accumulate,
    )  # fmt: skip
    frozen = jax.tree.map(lambda x: x.copy(), state.params)
    reference = jax.jit(lambda params, batch: score(model, params, batch))

    def one() -> Any:
      nonlocal state
      fields = {'ref_logp': reference(frozen, batch)} if stage == 'dpo' else {}
      state, metrics = step(state, {**batch, **fields})
      return metrics

    turns.serve(one, lambda metrics: float(metrics['loss'].value))


def llama() -> Any:
  """The Hugging Face model of the same shape."""
  import torch
  from transformers import LlamaConfig, LlamaForCausalLM

  torch.manual_seed(0)
  torch.set_num_threads(os.cpu_count() or 1)
  config = LlamaConfig(
    vocab_size=VOCAB, hidden_size=DIM, intermediate_size=HIDDEN, num_hidden_layers=LAYERS,
    num_attention_heads=HEADS, max_position_embeddings=LENGTH, tie_word_embeddings=False,
    pad_token_id=0, bos_token_id=1, eos_token_id=2,
  )  # fmt: skip
  return LlamaForCausalLM(config)


def trl(stage: str) -> None:
  """TRL's trainer: its collated fields, its `training_step`, its optimizer."""
  import torch
  from datasets import Dataset
  from tokenizers import Tokenizer, models, pre_tokenizers
  from transformers import PreTrainedTokenizerFast
  from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

  words = Tokenizer(models.WordLevel({f'w{i}': i for i in range(VOCAB)}, unk_token='w3'))
  words.pre_tokenizer = pre_tokenizers.Whitespace()
  tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token='w0', bos_token='w1', eos_token='w2', unk_token='w3'
  )
  tokens, mask = (torch.from_numpy(x) for x in rows())
  tokens = tokens.long()
  common = dict(
    output_dir=tempfile.mkdtemp(), report_to=[], use_cpu=True, max_length=LENGTH,
    logging_steps=10**6,
    per_device_train_batch_size=ROWS if stage == 'sft' else ROWS // 2, learning_rate=3e-4,
    adam_beta2=0.95, weight_decay=0.1, max_steps=1000, bf16=False, gradient_checkpointing=False,
    save_strategy='no', disable_tqdm=True,
  )  # fmt: skip
  if stage == 'sft':
    data = Dataset.from_list([{'prompt': 'w10', 'completion': ' w11'}] * ROWS)
    trainer = SFTTrainer(
      model=llama(), args=SFTConfig(**common), train_dataset=data, processing_class=tokenizer
    )
    inputs = {'labels': torch.where(mask > 0, tokens, -100)}
  else:
    data = Dataset.from_list([{'prompt': 'w10', 'chosen': ' w11', 'rejected': ' w12'}] * ROWS)
    model = llama()
    trainer = DPOTrainer(
      model=model, ref_model=copy.deepcopy(model), args=DPOConfig(**common), train_dataset=data,
      processing_class=tokenizer,
    )  # fmt: skip
    inputs = {'completion_mask': mask.long()}
  inputs |= {'input_ids': tokens, 'attention_mask': torch.ones_like(tokens)}
  trainer.current_gradient_accumulation_steps = 1  # what `train` sets
  trainer.create_optimizer()
  model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
  model.train()

  def one() -> torch.Tensor:
    loss = trainer.training_step(model, dict(inputs), int(mask.sum()))
    trainer.accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss

  turns.serve(one, float)


def torch_dpo() -> None:
  """What one writes by hand: one forward of all pairs, a gathered log-softmax, the sigmoid loss."""
  import torch

  model = llama()
  reference = copy.deepcopy(model).eval()
  model.train()
  optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
  tokens, mask = (torch.from_numpy(x) for x in rows())
  tokens = tokens.long()

  def logp(net: Any) -> torch.Tensor:
    logits = net(input_ids=tokens, use_cache=False).logits[:, :-1]
    picked = torch.log_softmax(logits, -1).gather(-1, tokens[:, 1:, None])[..., 0]
    return (picked * mask[:, 1:]).sum(-1)

  def one() -> torch.Tensor:
    with torch.no_grad():
      frozen = logp(reference)
    ratio = logp(model) - frozen
    chosen, rejected = ratio.chunk(2)
    loss = -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss

  turns.serve(one, lambda loss: float(loss.detach()))


def main() -> None:
  """Lets the sides of each stage take turns, and prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--stages', default='sft,dpo')
  parser.add_argument('--steps', type=int, default=4, help='steps in a block')
  parser.add_argument('--blocks', type=int, default=7, help='timed blocks of each side')
  parser.add_argument('--accumulate', type=int, default=4, help='microbatches of our step')
  parser.add_argument('--worker', default='', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.worker:
    if options.worker == 'llm_jax':
      return ours(options.stages, options.accumulate)
    return trl(options.stages) if options.worker == 'trl' else torch_dpo()
  table = turns.where()
  for stage in options.stages.split(','):
    table[stage] = turns.take(
      'experiments.benchmarks.post_training_vs_trl', ('llm_jax', *PEERS[stage]),
      ('--stages', stage, '--accumulate', str(options.accumulate)),
      steps=options.steps, blocks=options.blocks, tokens=ROWS * LENGTH,
    )  # fmt: skip
  print(json.dumps(table, indent=2))


if __name__ == '__main__':
  main()
