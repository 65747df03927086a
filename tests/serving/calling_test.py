"""Tools of the server: a call is answered and the answer goes on, streamed or whole."""

import threading

import pytest

from llm_jax.sampling.calls import Tools
from llm_jax.serving.conversation import Conversation
from llm_jax.serving.openai import About
from llm_jax.text.templates import MARKS
from llm_jax.tools import make_tools
from llm_jax.types import BadInput
from tests.serving.stand_in import STOP, TOKENIZER, Engine, asking, user

MARK = {name: TOKENIZER.special(name) for names in MARKS.values() for name in names}
TOOLS = Tools(make_tools({'calculator': {}}, where='tools'), max_calls=2, max_result=12)
ADD = {'type': 'function', 'function': {'name': 'add', 'parameters': {'type': 'object'}}}


def calling(text):
  return [MARK['<SEARCH_START>'], *TOKENIZER.encode(text), MARK['<SEARCH_END>']]


def say(request):
  """Calls once, and then says what it read."""
  prompt = [*request.prompt]
  if MARK['<RESULT_END>'] not in prompt:
    return [*TOKENIZER.encode('so '), *calling('calculator(6 * 7)')]
  begin, end = prompt.index(MARK['<RESULT_START>']), prompt.index(MARK['<RESULT_END>'])
  return [*TOKENIZER.encode('it is '), *prompt[begin + 1 : end], STOP]


def message(reply):
  (choice,) = reply.json()['choices']
  return choice['message'], choice['finish_reason']


@pytest.mark.parametrize('columns', [1, 7])
def test_a_call_is_answered_and_shown_as_a_thought(columns):
  engine = Engine(say, columns=columns)
  found = asking(user(seed=5), engine=engine, tools=TOOLS)
  wanted = {'content': 'so it is 42', 'reasoning_content': 'calculator(6 * 7) = 42\n'}
  said, finish = message(found)
  assert {k: said[k] for k in wanted} == wanted and finish == 'stop'
  first, second = engine.asked
  assert 'Tools: calculator' in TOKENIZER.decode(first.prompt)
  sampled = [*TOKENIZER.encode('so '), *calling('calculator(6 * 7)')]
  result = [MARK['<RESULT_START>'], *TOKENIZER.encode('42'), MARK['<RESULT_END>']]
  assert [*second.prompt] == [*first.prompt, *sampled, *result]
  assert second.max_new + len(second.prompt) <= engine.length
  assert (second.seed, second.choice) != (first.seed, first.choice)
  usage = found.json()['usage']  # results are read, and not said
  assert usage['completion_tokens'] == len(sampled) + len(TOKENIZER.encode('it is ')) + 3
  assert usage['prompt_tokens'] == len(first.prompt)


def test_a_stream_says_the_same():
  events = asking(user(stream=True, n=2), say=say, tools=TOOLS).events()
  for index in (0, 1):
    deltas = [c['delta'] for e in events for c in e['choices'] if c['index'] == index]
    join = lambda name, deltas=deltas: ''.join(delta.get(name) or '' for delta in deltas)
    assert join('content') == 'so it is 42'
    assert join('reasoning_content') == 'calculator(6 * 7) = 42\n'


def test_the_tools_of_several_answers_work_at_the_same_time():
  both = threading.Barrier(2, timeout=10)
  meet = lambda text: str(both.wait() >= 0)
  say = lambda request: calling('meet()')
  reply = asking(user(n=2), say=say, tools=Tools({'meet': meet}, max_calls=1))
  said = [choice['message']['reasoning_content'] for choice in reply.json()['choices']]
  assert all(text.startswith('meet() = True\n') for text in said)


def test_an_error_is_a_result_and_calls_come_to_an_end():
  engine = Engine(lambda request: calling('calculator(1 / 0)'))
  said, finish = message(asking(user(), engine=engine, tools=TOOLS))
  assert len(engine.asked) == 1 + TOOLS.max_calls and finish == 'stop'
  assert said['reasoning_content'].startswith('calculator(1 / 0) = error: ')


def test_tools_of_a_request_come_first():
  say = lambda request: calling('{"name": "add", "arguments": {"a": 1}}')
  engine = Engine(say)
  said, finish = message(asking(user(tools=[ADD]), engine=engine, tools=TOOLS))
  assert finish == 'tool_calls' and said['tool_calls'][0]['function']['name'] == 'add'
  assert len(engine.asked) == 1 and 'Tools: calc' not in TOKENIZER.decode(engine.asked[0].prompt)


def test_no_room_for_a_result_ends_the_answer():
  roomy = Engine(say)
  asking(user(), engine=roomy, tools=TOOLS)
  first, second = (len(request.prompt) for request in roomy.asked)
  engine = Engine(say, length=second)
  said, finish = message(asking(user(max_tokens=second - first), engine=engine, tools=TOOLS))
  assert said['content'] == 'so ' and finish == 'stop' and len(engine.asked) == 1


def test_a_template_without_marks_has_no_tools():
  with pytest.raises(BadInput, match=r'config\.tools are for models that were taught .* llm_jax'):
    Conversation(TOKENIZER, 'chatml', About(310, 256, 256, 1), tools=TOOLS)
