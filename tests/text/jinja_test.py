"""The exported templates give transformers the ids and masks that we train on."""

import string

import pytest

from llm_jax.text import chat
from llm_jax.text.templates import TEMPLATES
from llm_jax.text.tokenizer import BOS, EOS
from llm_jax.types import BadInput
from tests.text.chat_test import CALL, CALLED, SEARCHED, SUMS

NAMES = sorted({BOS, EOS, *(name for t in TEMPLATES for name in chat.specials(t))})
CHARACTERS = {c: i for i, c in enumerate(sorted(set(string.printable + 'ö')))}

PADDED = [
  {'role': 'user', 'content': [{'type': 'text', 'text': ' a'}, {'type': 'text', 'text': 'b\n'}]},
  {'role': 'assistant', 'content': ' c\n'},
]
BUSY = [
  *CALLED,
  {'role': 'user', 'content': 'more'},
  {
    'role': 'assistant',
    'reasoning_content': 'hm',
    'content': 'Wait.',
    'tool_calls': [*CALL['tool_calls'], {'name': 'stop', 'arguments': '{}'}],
  },
  {'role': 'tool', 'content': 'one'},
  {'role': 'tool', 'content': 'two'},
  {
    'role': 'assistant',
    'content': [{'type': 'thinking', 'text': 'so'}, {'type': 'text', 'text': 'x'}],
  },
]


class Characters:
  """Characters as tokens, with the ids of the other library."""

  def __init__(self, ids):
    self.specials = ids

  def encode_batch(self, texts):
    return [[CHARACTERS[c] for c in text] for text in texts]


@pytest.fixture(scope='module')
def theirs():
  transformers = pytest.importorskip('transformers')
  tokenizers = pytest.importorskip('tokenizers')
  model = tokenizers.models.WordLevel({**CHARACTERS, '?unknown': len(CHARACTERS)}, '?unknown')
  backend = tokenizers.Tokenizer(model)
  each = tokenizers.Regex(r'[\s\S]')
  backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(each, 'isolated')
  theirs = transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend, bos_token=BOS, eos_token=EOS
  )
  theirs.add_special_tokens({'additional_special_tokens': NAMES})
  return theirs


@pytest.mark.parametrize(
  ('template', 'messages'),
  [
    *((template, SUMS) for template in ('llm_jax', 'chatml', 'llama3', 'gemma')),
    *((template, PADDED) for template in TEMPLATES),
    *((template, CALLED) for template in ('llm_jax', 'chatml', 'llama3')),
    *((template, BUSY) for template in ('llm_jax', 'chatml')),
    ('llm_jax', SEARCHED + SUMS[1:]),
  ],
)
def test_ids_and_mask_are_those_of_transformers(theirs, template, messages):
  theirs.chat_template = chat.jinja(template)
  ours = Characters({name: theirs.convert_tokens_to_ids(name) for name in NAMES})
  found = theirs.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
  ids, mask = chat.encode(ours, chat.pieces(messages, template=template))
  assert theirs.decode(ids) == theirs.decode(found['input_ids'])
  assert ids == found['input_ids']
  assert mask == found['assistant_masks']
  for k, message in enumerate(messages):
    if message['role'] == 'assistant':
      prompt = theirs.apply_chat_template(
        messages[:k], add_generation_prompt=True, return_dict=True
      )['input_ids']
      pieces = chat.pieces(messages[:k], template=template, answer=True)
      assert prompt == chat.encode(ours, pieces)[0]


@pytest.mark.parametrize(
  ('template', 'messages'),
  [
    ('gemma', SUMS[1:2] * 2),
    ('gemma', CALLED),
    ('plain', SUMS),
    ('llama3', [{**CALL, 'content': 'Wait.'}]),
    ('llama3', BUSY),
  ],
)
def test_both_refuse_the_same(theirs, template, messages):
  with pytest.raises(BadInput):
    chat.pieces(messages, template=template)
  theirs.chat_template = chat.jinja(template)
  with pytest.raises(Exception, match=r'form here|turns|please'):
    theirs.apply_chat_template(messages, tokenize=False)


def test_every_template_is_exported():
  for template in TEMPLATES:
    assert '{% endgeneration %}' in chat.jinja(template).replace('{%- ', '{% ')
  with pytest.raises(BadInput, match='no template'):
    chat.jinja('tulu')
