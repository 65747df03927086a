"""Rows in the chat template of another model: one text, asked and trained."""

import json
from pathlib import Path

import numpy as np
import pytest

from llm_jax.data import conversations, preferences, prompts
from llm_jax.text.tokenizer import Tokenizer

pytest.importorskip('jinja2')

QWEN3 = str(Path(__file__).parents[1] / 'fixtures' / 'templates' / 'qwen3.jinja')
ASKED = [
  {'role': 'user', 'content': '2+3?'},
  {'role': 'assistant', 'content': '5', 'reasoning_content': 'two and three'},
  {'role': 'user', 'content': 'And 4+4?'},
]


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer.train(['<think> user assistant 2+3?\n\nAnd 4+4? two'] * 9, vocab_size=300)


def made(module, tokenizer, path, record, **options):
  file = path / 'rows.jsonl'
  file.write_text(json.dumps(record) + '\n')
  options = dict(validation_fraction=0.0, length=200, template=QWEN3) | options
  return module.make(tokenizer, sources={'mine': str(file)}, **options)[0]


def test_answers_continue_the_prompt_that_is_sampled_from(tokenizer, tmp_path):
  asked = made(prompts, tokenizer, tmp_path, {'messages': ASKED, 'answer': '8'})
  prompt = asked['prompt'][asked['prompt_mask'] > 0].tolist()
  assert tokenizer.decode(prompt, specials=True) == (
    '<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n5<|im_end|>\n'
    '<|im_start|>user\nAnd 4+4?<|im_end|>\n<|im_start|>assistant\n'
  )
  said = lambda text: [{'role': 'assistant', 'content': text}]
  pair = {'prompt': ASKED, 'chosen': said('8'), 'rejected': said('9')}
  group = made(preferences, tokenizer, tmp_path, pair)
  for row, answer in enumerate('89'):
    tokens, mask = group['tokens'][row], group['mask'][row]
    assert tokens[: len(prompt)].tolist() == prompt
    last = int(np.flatnonzero(group['segment'][row])[-1])
    assert mask[last]  # the row ends with the stop token
    trained = tokens[mask > 0].tolist()
    assert tokenizer.decode(trained, specials=True) == f'{answer}<|im_end|>'
    whole = tokenizer.decode(tokens[: last + 1].tolist(), specials=True)
    assert whole.endswith(f'assistant\n<think>\n\n</think>\n\n{answer}<|im_end|>')
  talk = {'messages': [*ASKED, *said('8')]}
  rows = made(conversations, tokenizer, tmp_path, talk, train_on='last')
  assert rows['tokens'][: len(prompt)].tolist() == prompt
  trained = rows['tokens'][rows['mask'] > 0].tolist()
  assert tokenizer.decode(trained, specials=True) == '8<|im_end|>'
