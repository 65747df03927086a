"""What an answer says: text, thoughts and calls, however its ids are divided."""

import itertools
import json
import random

import pytest

from llm_jax.serving.listener import Listener
from llm_jax.text.message import message
from llm_jax.text.templates import MARKS
from tests.serving.stand_in import STOP, TOKENIZER

TOOLS = [{'type': 'function', 'function': {'name': 'add'}}]
THINK, UNTHINK = (TOKENIZER.special(name) for name in MARKS['thinking'])
CALL, END = (TOKENIZER.special(name) for name in MARKS['search'])
words = TOKENIZER.encode


def heard(ids, *, cuts=None, **how):
  """(content, reasoning, calls) of an answer whose ids come in the parts between `cuts`."""
  one = Listener(TOKENIZER, after=None, stop_ids=(STOP,), **{'form': 'marks', **how})
  bounds = [0, *(range(1, len(ids)) if cuts is None else cuts), len(ids)]
  deltas = [d for a, b in itertools.pairwise(bounds) for d in one.push(ids[a:b])] + one.finish()
  text = lambda kind: ''.join(d.text for d in deltas if d.kind == kind)
  names = [d.text for d in deltas if d.kind == 'call']
  arguments = [d.text for d in deltas if d.kind == 'arguments']
  assert one.calls == len(names) == len(arguments)
  return text('content'), text('reasoning'), [*zip(names, arguments, strict=True)]


ADD = '{"name": "add", "arguments": {"a": 1}}'
MARKED = [
  (words('hello'), ('hello', '', [])),
  ([*words('hello'), STOP, *words('more')], ('hello', '', [])),
  ([THINK, *words('hm'), UNTHINK, *words('yes'), STOP], ('yes', 'hm', [])),
  ([THINK, *words('hm')], ('', 'hm', [])),
  ([*words('no'), UNTHINK, *words('yes')], ('noyes', '', [])),
  ([*words('a'), CALL, *words(ADD), END, STOP], ('a', '', [('add', '{"a": 1}')])),
  ([CALL, *words('1 + 1'), END], ('', '', [('add', '{"query": "1 + 1"}')])),
  (
    [THINK, *words('a'), CALL, *words(ADD), END, *words('b'), UNTHINK, *words('c')],
    ('c', 'ab', [('add', '{"a": 1}')]),
  ),
  ([*words('a'), CALL, *words('1 +')], ('a<SEARCH_START>1 +', '', [])),
  (words('<SEARCH_START>x<SEARCH_END>'), ('<SEARCH_START>x<SEARCH_END>', '', [])),
  ([], ('', '', [])),
]


@pytest.mark.parametrize('ids, wanted', MARKED)
def test_marks(ids, wanted):
  assert heard(ids, tools=TOOLS) == wanted == heard(ids, tools=TOOLS, cuts=())


def test_calls_stay_text_where_no_tool_was_given():
  ids = [*words('a'), CALL, *words('x'), END, *words('b')]
  assert heard(ids) == ('a<SEARCH_START>x<SEARCH_END>b', '', [])


TAGGED = [
  ('hello', ('hello', '', [])),
  ('<think>\nhm\n</think>\n\nyes', ('yes', 'hm', [])),
  ('yes <think>no</think>', ('yes <think>no</think>', '', [])),
  (f'a\n<tool_call>\n{ADD}\n</tool_call>', ('a', '', [('add', '{"a": 1}')])),
  (
    f'<tool_call>\n{ADD}\n</tool_call>\n<tool_call>\n{ADD}\n</tool_call>',
    ('', '', [('add', '{"a": 1}')] * 2),
  ),
  ('<tool_call>no</tool_call>', ('<tool_call>no</tool_call>', '', [])),
  ('a <tool_c', ('a <tool_c', '', [])),
  ('a\n\n', ('a\n\n', '', [])),
  ('a\n\nb', ('a\n\nb', '', [])),
  ('<tool_call>{"name": "add"}</tool_call>', ('', '', [('add', '{}')])),
]


@pytest.mark.parametrize('text, wanted', TAGGED)
def test_tags(text, wanted):
  ids = [*words(text), STOP]
  assert heard(ids, form='tags', tools=TOOLS) == wanted
  assert heard(ids, form='tags', tools=TOOLS, cuts=()) == wanted


def test_a_thought_that_the_prompt_has_opened():
  ids = words('hm\n</think>\n\nyes')
  assert heard(ids, form='tags', thinking=True) == ('yes', 'hm', [])


def test_only_one_call():
  ids = words(f'<tool_call>{ADD}</tool_call>' * 3)
  assert heard(ids, form='tags', tools=TOOLS, one_call=True)[2] == [('add', '{"a": 1}')]


def test_stop_strings_end_it_across_tokens_and_never_show_their_beginning():
  ids = words('one and two, STOP and more')
  for cuts in (None, ()):
    assert heard(ids, stop_strings=['STOP'], cuts=cuts)[0] == 'one and two, '
    assert heard(ids, stop_strings=['and more!', ' two, S'], cuts=cuts)[0] == 'one and'
    assert heard(ids, stop_strings=['more!'], cuts=cuts)[0] == 'one and two, STOP and more'


def test_it_says_what_the_message_of_training_says_however_it_is_cut():
  draw = random.Random(0)
  parts = [words('héllo 👩‍🔬'), words('one\n\n'), [THINK], [UNTHINK], [0], words('\ufffd'),
           [TOKENIZER.encode('é')[0]], words(' ')]  # fmt: skip
  for _ in range(200):
    ids = [i for _ in range(draw.randrange(8)) for i in draw.choice(parts)]
    marks = ''.join('<>'[i == UNTHINK] for i in ids if i in (THINK, UNTHINK))
    if '>>' in f'>{marks}':
      continue  # then all before it was thought, which no stream can know
    wanted = message(TOKENIZER, ids)['content']
    listed = [{'type': 'text', 'text': wanted}] if isinstance(wanted, str) else wanted
    join = lambda kind, listed=listed: ''.join(p['text'] for p in listed if p['type'] == kind)
    cuts = sorted({draw.randrange(1, len(ids) + 1) for _ in range(3)}) if ids else ()
    content, reasoning, _ = heard(ids, cuts=cuts)
    assert (content, reasoning) == (join('text'), join('thinking')), ids


def test_arguments_are_json():
  for arguments in ('{"a": 1}', '"x"', '[1,  2]'):
    ids = [CALL, *words(f'{{"name": "add", "arguments": {arguments}}}'), END]
    assert heard(ids, tools=TOOLS)[2] == [('add', arguments)]
    assert json.loads(arguments)
