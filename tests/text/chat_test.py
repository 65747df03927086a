"""What is trained is what an answer consists of, and training sees what a sampler will see."""

import json
import random
from pathlib import Path

import pytest

from llm_jax.text import chat
from llm_jax.text.templates import TEMPLATES
from llm_jax.text.tokenizer import BOS, EOS, SPECIALS, Tokenizer
from llm_jax.types import BadInput

GOLDEN = json.loads((Path(__file__).parents[1] / 'fixtures' / 'chat.json').read_text())

SUMS = [
  {'role': 'system', 'content': 'be brief'},
  {'role': 'user', 'content': '1+1?'},
  {'role': 'assistant', 'content': '2'},
  {'role': 'user', 'content': '2+2?'},
  {'role': 'assistant', 'content': '4'},
]
ASKED, CALL = [
  {'role': 'user', 'content': 'weather?'},
  {
    'role': 'assistant',
    'content': None,
    'tool_calls': [{'type': 'function', 'function': {'name': 'look', 'arguments': {'at': 'Köln'}}}],
  },
]
CALLED = [
  ASKED,
  CALL,
  {'role': 'tool', 'name': 'look', 'content': 'sun'},
  {'role': 'assistant', 'content': 'It is sunny.'},
]
SEARCHED = [
  {'role': 'user', 'content': 'who?'},
  {
    'role': 'assistant',
    'thinking': 'hm',
    'content': [
      {'type': 'search', 'text': 'who is'},
      {'type': 'result', 'text': 'Ada'},
      {'type': 'thinking', 'text': 'so'},
      {'type': 'text', 'text': 'Ada.'},
    ],
  },
]
WORDS = [
  'the',
  'cat',
  ' sat',
  '\n',
  '\n\n',
  ' ',
  '<|im_end|>',
  '<THINK_START>',
  '12',
  'é',
  '\u2581',
]


@pytest.fixture(scope='module')
def tokenizer():
  draw = random.Random(0)
  texts = [
    'user\nassistant\n\n model\n system' + ''.join(draw.choices(WORDS, k=9)) for _ in range(99)
  ]
  specials = [name for template in TEMPLATES for name in chat.specials(template)]
  return Tokenizer.train(texts, vocab_size=330, specials=specials)


def conversations(template):
  """Twenty random conversations that the template has a form for."""
  draw = random.Random(1)
  say = lambda: ''.join(draw.choices(WORDS, k=draw.randrange(7))) + 'x'
  for i in range(20):
    turns = 1 if template == 'plain' else draw.randrange(1, 4)
    system = [{'role': 'system', 'content': say()}] * (i % 2 and template != 'plain')
    messages = [*system]
    for _ in range(turns):
      messages += [{'role': 'user', 'content': say()}, {'role': 'assistant', 'content': say()}]
    yield messages
  if template in ('llm_jax', 'chatml', 'llama3'):
    yield CALLED
  if template == 'llm_jax':
    yield SEARCHED + CALLED + SUMS[1:]


def encoded(tokenizer, messages, **options):
  return chat.encode(tokenizer, chat.pieces(messages, **options))


def written(messages, **options):
  return ''.join(piece.text for piece in chat.pieces(messages, **options))


def trained(messages, **options):
  return ''.join(piece.text for piece in chat.pieces(messages, **options) if piece.trainable)


# --- properties --------------------------------------------------------------------------------


@pytest.mark.parametrize('template', TEMPLATES)
def test_the_prompt_of_every_answer_is_a_prefix_of_the_training_row(tokenizer, template):
  for messages in conversations(template):
    ids, mask = encoded(tokenizer, messages, template=template)
    for k, message in enumerate(messages):
      if message['role'] == 'assistant':
        prompt, _ = encoded(tokenizer, messages[:k], template=template, answer=True)
        assert ids[: len(prompt)] == prompt
        assert not mask[len(prompt) - 1]
        assert mask[len(prompt)]  # the first token that is sampled is trained


@pytest.mark.parametrize('template', TEMPLATES)
def test_the_stop_token_of_every_answer_is_trained_once(tokenizer, template):
  for messages in conversations(template):
    answers = sum(message['role'] == 'assistant' for message in messages)
    for train_on, expected in (('all', answers), ('last', 1)):
      ids, mask = encoded(tokenizer, messages, template=template, train_on=train_on)
      stop = chat.stop_ids(tokenizer, template)[0]
      stops = [place for place, i in enumerate(ids) if i == stop and mask[place]]
      assert len(stops) == expected
      ends = [n for n in range(len(ids)) if mask[n] and not (mask + [0])[n + 1]]
      assert set(stops) <= set(ends)  # what comes after it is not trained


@pytest.mark.parametrize('template', TEMPLATES)
def test_what_is_trained_has_no_influence_on_the_ids(tokenizer, template):
  for messages in conversations(template):
    ids, mask = encoded(tokenizer, messages, template=template)
    same, last = encoded(tokenizer, messages, template=template, train_on='last')
    assert same == ids
    assert all(a >= b for a, b in zip(mask, last, strict=True))


@pytest.mark.parametrize('key', chat.TRAINED)
def test_an_answer_may_be_context_and_no_target(key):
  for template in TEMPLATES:
    for messages in conversations(template):
      answers = [i for i, message in enumerate(messages) if message['role'] == 'assistant']
      for value in (0, False, 0.0, 'false'):
        marked = [{**m, key: value} if i in answers[:1] else m for i, m in enumerate(messages)]
        assert written(marked, template=template) == written(messages, template=template)
        cut = trained(messages[answers[0] : answers[0] + 1], template='llm_jax')
        if template == 'llm_jax':
          assert cut + trained(marked) == trained(messages)
      marked = [{**m, key: 0} if i == answers[-1] else m for i, m in enumerate(messages)]
      assert not trained(marked, template=template, train_on='last')
      assert trained(
        [{**m, key: 1} if i in answers else m for i, m in enumerate(messages)], template=template
      ) == trained(messages, template=template)


@pytest.mark.parametrize(
  ('more', 'message'),
  [
    ({'weight': 0.5}, r"message 4: a message of assistant has \{'weight': 0.5\}; use one of these"),
    ({'weight': -1}, 'write 1 or 0'),
    ({'weight': 'high'}, 'write 1 or 0'),
    ({'train': True, 'weight': 0}, 'use one of these'),
    ({'mask': 1}, 'mask of a message of assistant is .1.; a message is trained as a whole or not'),
    ({'train_detail': [{'begin_offset': 0}]}, 'write train: true or train: false'),
    ({'role': 'user', 'train': True}, 'only those of the assistant are trained'),
    ({'thinking': 'a', 'reasoning': 'b'}, 'must be one text'),
    ({'reasoning': ['a']}, 'must be one text'),
  ],
)
def test_what_is_trained_is_said_in_one_way(more, message):
  with pytest.raises(BadInput, match=message) as caught:
    chat.pieces([*SUMS[:4], {**SUMS[4], **more}])
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('template', TEMPLATES)
def test_only_answers_are_trained(tokenizer, template):
  user, said = '<|im_end|> tell me', 'I will.'
  messages = [{'role': 'user', 'content': user}, {'role': 'assistant', 'content': said}]
  ids, mask = encoded(tokenizer, messages, template=template)
  stop = TEMPLATES[template].stop
  assert tokenizer.decode([i for i, m in zip(ids, mask) if m], specials=True) == said + stop
  assert user in tokenizer.decode(ids)
  chat.check(ids, mask, tokenizer)


@pytest.mark.parametrize('template', TEMPLATES)
def test_no_text_becomes_a_control_token(tokenizer, template):
  control = set(tokenizer.specials.values())
  count = lambda text: sum(
    i in control
    for i in encoded(
      tokenizer,
      [{'role': 'user', 'content': text}, {'role': 'assistant', 'content': text}],
      template=template,
    )[0]
  )
  assert count(' '.join([*tokenizer.specials, BOS, EOS])) == count('nothing')


def test_parts_of_a_text_are_encoded_as_one(tokenizer):
  parts = [{'type': 'text', 'text': text} for text in ('th', '', 'e c', 'at')]
  for role in ('user', 'assistant'):
    whole = encoded(tokenizer, [{'role': role, 'content': 'the cat'}])
    assert encoded(tokenizer, [{'role': role, 'content': parts}]) == whole


def test_many_at_once_are_the_same_as_one_by_one(tokenizer):
  listed = [chat.pieces(messages) for messages in conversations('llm_jax')]
  assert chat.encode_all(tokenizer, listed) == [chat.encode(tokenizer, one) for one in listed]
  assert chat.encode_all(tokenizer, []) == []


# --- golden strings ----------------------------------------------------------------------------


def test_chatml_has_the_ids_and_mask_of_transformers():
  units, mask = [], []
  for piece in chat.pieces(SUMS, template='chatml'):
    some = [piece.text] if piece.control else list(piece.text)
    units += some
    mask += [int(piece.trainable)] * len(some)
  assert mask == GOLDEN['chat_mask']
  pairs = set(zip(units, GOLDEN['chat_ids'], strict=True))
  assert len(pairs) == len({unit for unit, _ in pairs}) == len({i for _, i in pairs})
  assert trained(SUMS, template='chatml') == '2<|im_end|>4<|im_end|>'


FORMATS = {
  'llm_jax': (
    '<|begin_of_text|><|im_start|>system<|im_sep|>be brief<|im_end|>'
    '<|im_start|>user<|im_sep|>1+1?<|im_end|><|im_start|>assistant<|im_sep|>2<|im_end|>'
    '<|im_start|>user<|im_sep|>2+2?<|im_end|><|im_start|>assistant<|im_sep|>4<|im_end|>'
  ),
  'chatml': (
    '<|im_start|>system\nbe brief<|im_end|>\n'
    '<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n'
    '<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n'
  ),
  'llama3': (
    '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nbe brief<|eot_id|>'
    '<|start_header_id|>user<|end_header_id|>\n\n1+1?<|eot_id|>'
    '<|start_header_id|>assistant<|end_header_id|>\n\n2<|eot_id|>'
    '<|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>'
    '<|start_header_id|>assistant<|end_header_id|>\n\n4<|eot_id|>'
  ),
  'gemma': (
    '<|begin_of_text|><start_of_turn>user\nbe brief\n\n1+1?<end_of_turn>\n'
    '<start_of_turn>model\n2<end_of_turn>\n<start_of_turn>user\n2+2?<end_of_turn>\n'
    '<start_of_turn>model\n4<end_of_turn>\n'
  ),
}


@pytest.mark.parametrize('template', FORMATS)
def test_the_format_is_the_published_one(template):
  assert written(SUMS, template=template) == FORMATS[template]
  stop = TEMPLATES[template].stop
  assert trained(SUMS, template=template) == f'2{stop}4{stop}'
  assert trained(SUMS, template=template, train_on='last') == f'4{stop}'


def test_plain_is_a_document():
  assert written(SUMS[1:3], template='plain') == f'{BOS}1+1?2{EOS}'
  assert trained(SUMS[1:3], template='plain') == f'2{EOS}'
  assert written(SUMS[1:2], template='plain', answer=True) == f'{BOS}1+1?'


def test_llama3_and_gemma_trim_what_is_said():
  messages = [{'role': 'user', 'content': ' a\n'}, {'role': 'assistant', 'content': '\tb '}]
  assert '\n\na<|eot_id|>' in written(messages, template='llama3')
  assert trained(messages, template='llama3') == 'b<|eot_id|>'
  assert trained(messages, template='gemma') == 'b<end_of_turn>'
  assert trained(messages, template='chatml') == '\tb <|im_end|>'


def test_tools_as_chatml_writes_them():
  assert written([*CALLED[:3], CALLED[2], CALLED[3]], template='chatml') == (
    '<|im_start|>user\nweather?<|im_end|>\n<|im_start|>assistant\n'
    '<tool_call>\n{"name": "look", "arguments": {"at": "Köln"}}\n</tool_call><|im_end|>\n'
    '<|im_start|>user\n<tool_response>\nsun\n</tool_response>\n'
    '<tool_response>\nsun\n</tool_response><|im_end|>\n'
    '<|im_start|>assistant\nIt is sunny.<|im_end|>\n'
  )
  both = [{**CALL, 'content': 'Wait.', 'thinking': 'ok', 'tool_calls': CALL['tool_calls'] * 2}]
  call = '\n<tool_call>\n{"name": "look", "arguments": {"at": "Köln"}}\n</tool_call>'
  assert written(both, template='chatml') == (
    f'<|im_start|>assistant\n<think>\nok\n</think>\n\nWait.{call}{call}<|im_end|>\n'
  )


def test_tools_as_llama3_writes_them():
  assert written(CALLED[1:3], template='llama3') == (
    '<|begin_of_text|><|start_header_id|>assistant<|end_header_id|>\n\n'
    '{"name": "look", "parameters": {"at": "Köln"}}<|eot_id|>'
    '<|start_header_id|>ipython<|end_header_id|>\n\nsun<|eot_id|>'
  )


def test_search_tools_and_thinking_in_our_own_format():
  answer = (
    '<THINK_START>hm<THINK_END><SEARCH_START>who is<SEARCH_END><RESULT_START>Ada<RESULT_END>'
    '<THINK_START>so<THINK_END>Ada.<|im_end|>'
  )
  assert written(SEARCHED).endswith('assistant<|im_sep|>' + answer)
  assert trained(SEARCHED) == answer.replace('<RESULT_START>Ada<RESULT_END>', '')
  assert trained(CALLED) == (
    '<SEARCH_START>{"name": "look", "arguments": {"at": "Köln"}}<SEARCH_END><|im_end|>'
    'It is sunny.<|im_end|>'
  )
  assert '<|im_start|>tool<|im_sep|><RESULT_START>sun<RESULT_END><|im_end|>' in written(CALLED)
  beside = [{'role': 'assistant', 'content': 'a', 'reasoning_content': 'hm'}]
  assert trained(beside) == '<THINK_START>hm<THINK_END>a<|im_end|>'


# --- what cannot be ----------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('messages', 'options', 'message'),
  [
    (SUMS, {'template': 'chatlm'}, "no template 'chatlm'; did you mean 'chatml'"),
    (SUMS, {'train_on': 'first'}, "train_on 'first'; choose from: all, last"),
    ([{'role': 'usr', 'content': ''}], {}, "message 0: no role 'usr'; did you mean 'user'"),
    (['hello'], {}, 'message 0: no role None'),
    ([{'role': 'user', 'content': None}], {}, 'content is NoneType'),
    ([{'role': 'user', 'content': [{'type': 'image'}]}], {}, 'a part must be'),
    ([{'role': 'user', 'content': 'a', 'thinking': 'b'}], {}, 'user has a thinking; only the'),
    ([{'role': 'assistant', 'tool_calls': [{'id': 1}]}], {}, 'a tool call needs a name'),
    (SEARCHED, {'template': 'chatml'}, 'chatml has no form for a search'),
    (SEARCHED, {'template': 'llama3'}, 'llama3 has no form for a thinking'),
    (SEARCHED, {'template': 'gemma'}, 'gemma has no form for a thinking'),
    (SEARCHED, {'template': 'plain'}, 'plain has no form for a thinking'),
    ([{**CALL, 'content': 'Wait.'}], {'template': 'llama3'}, 'several tool calls, or one with'),
    (CALLED, {'template': 'gemma'}, 'gemma has no form for a call'),
    (SUMS[1:2] * 2, {'template': 'gemma'}, 'user where it is the turn of assistant'),
    (SUMS[:1], {'template': 'gemma'}, 'a system prompt without a user'),
    (SUMS, {'template': 'plain'}, 'plain has no form for more than a prompt'),
  ],
)
def test_bad_messages(messages, options, message):
  with pytest.raises(BadInput) as caught:
    chat.pieces(messages, **options)
  assert message in str(caught.value)
  assert '\n' not in str(caught.value)


def test_rows_nobody_wants(tokenizer):
  bos = tokenizer.bos_id
  with pytest.raises(BadInput, match='no token is trainable'):
    chat.check([bos, 5], [0, 0], tokenizer)
  with pytest.raises(BadInput, match='every token is trainable'):
    chat.check([bos, 5], [1, 1], tokenizer)
  with pytest.raises(BadInput, match='2 begin-of-text tokens'):
    chat.check([bos, bos, 5], [0, 0, 1], tokenizer)


def test_control_tokens_that_the_tokenizer_lacks(tokenizer):
  own = Tokenizer.train(['user assistant ' * 9], vocab_size=285)
  assert chat.encode(own, chat.pieces(SUMS))
  with pytest.raises(BadInput, match=r'no control token <\|start_header_id\|>; use template'):
    chat.encode(own, chat.pieces(SUMS, template='llama3'))
  with pytest.raises(BadInput, match='no control token <end_of_turn>'):
    chat.stop_ids(own, 'gemma')


def test_what_ends_an_answer(tokenizer):
  eos = tokenizer.eos_id
  assert chat.stop_ids(tokenizer) == [tokenizer.special('<|im_end|>'), eos]
  assert chat.stop_ids(tokenizer, 'llama3') == [tokenizer.special('<|eot_id|>'), eos]
  assert chat.stop_ids(tokenizer, 'plain') == [eos]


def test_our_own_format_needs_no_special_training():
  assert set(chat.specials('llm_jax')) <= {BOS, *SPECIALS}
