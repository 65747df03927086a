"""What was said comes back in parts, and the parts are written as the same ids."""

import itertools
import random

import pytest

from llm_jax.text import chat
from llm_jax.text.message import message, spelled
from llm_jax.text.templates import MARKS, TEMPLATES
from llm_jax.text.tokenizer import Tokenizer

WORDS = ['the', ' cat', '\n', '12', '{"a": 1}', '<think>', '</think>', '<THINK_END>', 'é', '\n\n']
KINDS = ('text', 'thinking', 'search', 'result')


@pytest.fixture(scope='module')
def tokenizer():
  specials = [name for template in TEMPLATES for name in chat.specials(template)]
  return Tokenizer.train([''.join(WORDS) * 9], vocab_size=310, specials=specials)


def answer_ids(tokenizer, said, template):
  """The ids of an answer behind its prompt, the stop token included."""
  asked = [{'role': 'user', 'content': 'why?'}]
  prompt, _ = chat.encode(tokenizer, chat.pieces(asked, template=template, answer=True))
  ids, mask = chat.encode(tokenizer, chat.pieces([*asked, said], template=template))
  assert ids[: len(prompt)] == prompt
  stop = len(ids) - ids[::-1].index(chat.stop_ids(tokenizer, template)[0])
  return ids[len(prompt) : stop]


def answers(template):
  """Random answers that the template has a form for."""
  draw = random.Random(0)
  say = lambda: ''.join(draw.choices(WORDS, k=draw.randrange(5)))
  call = lambda: {'function': {'name': say() or 'f', 'arguments': '{"x": "' + say() + '"}'}}
  for _ in range(60):
    yield {'role': 'assistant', 'content': f'{say()}x'}
    if template == 'llm_jax':
      parts = [{'type': draw.choice(KINDS), 'text': say()} for _ in range(draw.randrange(1, 6))]
      yield {'role': 'assistant', 'content': parts}
    if template == 'chatml':
      said = {'role': 'assistant', 'thinking': say(), 'content': say()}
      yield said
      yield said | {'tool_calls': [call() for _ in range(draw.randrange(1, 4))]}


@pytest.mark.parametrize('template', TEMPLATES)
def test_the_message_of_ids_is_written_as_the_same_ids(tokenizer, template):
  parts = 0
  for said in answers(template):
    ids = answer_ids(tokenizer, said, template)
    found = message(tokenizer, ids, template=template)
    assert answer_ids(tokenizer, found, template) == ids, (said, found)
    parts += not isinstance(found['content'], str) or 'tool_calls' in found
  assert bool(parts) == (template in ('llm_jax', 'chatml'))


def test_what_is_no_answer_stays_out_of_the_text(tokenizer):
  """Whatever the order and nesting of the marks, and whether they are closed."""
  marks = [(mark, kind) for kind, both in MARKS.items() for mark in both]
  for n in range(4):
    for some in itertools.product(marks, repeat=n):
      ids = tokenizer.encode('0')
      for i, (mark, _) in enumerate(some):
        ids += [tokenizer.special(mark), *tokenizer.encode(str(i + 1))]
      content = message(tokenizer, ids)['content']
      parts = [{'type': 'text', 'text': content}] if isinstance(content, str) else content
      assert ''.join(part['text'] for part in parts) == ''.join(map(str, range(n + 1)))
      text = ''.join(part['text'] for part in parts if part['type'] == 'text')
      names = [mark for mark, _ in some]
      thoughts = [name for name in names if name.startswith('<THINK')]
      if thoughts and thoughts[-1] == '<THINK_END>':
        after = names[len(names) - names[::-1].index('<THINK_END>') :]
        # Nothing before the last end of a thought is text, unless a thought begins behind it.
        assert thoughts.count('<THINK_START>') or set(text) <= set('123'[n - len(after) - 1 :])
      if thoughts and thoughts[-1] == '<THINK_START>':
        assert str(n) not in text


def test_a_prompt_that_opened_the_thought(tokenizer):
  ids = [*tokenizer.encode('3?'), tokenizer.special('<THINK_END>'), *tokenizer.encode('4')]
  parts = [{'type': 'thinking', 'text': '3?'}, {'type': 'text', 'text': '4'}]
  assert message(tokenizer, ids)['content'] == parts
  parts = [{'type': 'thinking', 'text': 'No.'}, {'type': 'text', 'text': 'So.'}]
  ids = tokenizer.encode('No.\n</think>\n\nSo.')
  assert message(tokenizer, ids, template='chatml')['content'] == parts


def test_a_template_without_a_form_keeps_the_answer_alone(tokenizer):
  mark = tokenizer.special
  ids = [mark('<THINK_START>'), *tokenizer.encode('3?'), mark('<THINK_END>')]
  ids += [*tokenizer.encode('4'), mark('<SEARCH_START>'), *tokenizer.encode('cat')]
  for template in ('llama3', 'gemma', 'plain'):
    assert message(tokenizer, ids, template=template)['content'] == '4'


def test_marks_are_spelled_and_other_control_tokens_are_not(tokenizer):
  ids = [tokenizer.special(name) for name in ('<THINK_START>', '<THINK_END>', '<|im_end|>')]
  assert spelled(tokenizer, [*ids, *tokenizer.encode('cat')]) == '<THINK_START><THINK_END>cat'
