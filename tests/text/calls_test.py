"""What a model is told of tools, and how its calls are read."""

import pytest

from llm_jax.text import calls

NAMES = ('search', 'calculator')
HI = [{'role': 'user', 'content': 'Hi'}]


def test_tools_join_the_system_message_and_nothing_is_said_of_none():
  assert calls.led(HI, []) == HI
  system = {'role': 'system', 'content': 'Be brief.'}
  found = calls.led([system, *HI], NAMES)
  assert found == [{'role': 'system', 'content': 'Be brief.\n\nTools: search, calculator'}, *HI]
  assert system['content'] == 'Be brief.'  # what was given stays as it was


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('text', ['2 * (3 + 4)', 'os.path.join(a, b)', ')(', '', 'a "b" {c}', '(('])
def test_a_call_that_was_written_is_read_again(name, text):
  assert calls.read(calls.written(name, text), NAMES) == (name, text)


@pytest.mark.parametrize(
  ('text', 'wanted'),
  [
    ('{"name": "calculator", "arguments": {"expression": "1 + 2"}}', ('calculator', '1 + 2')),
    ('{"name": "calculator", "arguments": "3"}', ('calculator', '3')),
    ('{"name": "calculator"}', ('calculator', '')),
    ('{"name": "oven", "arguments": ""}', ('oven', '')),  # to be refused by whoever has the tools
    ('who was Ada?', ('search', 'who was Ada?')),
    ('calculator(1', ('search', 'calculator(1')),
    ('calculator', ('search', 'calculator')),
    ('print(x)', ('search', 'print(x)')),
    ('{"name": "calc', ('search', '{"name": "calc')),
    ('[1]', ('search', '[1]')),
    ('', ('search', '')),
  ],
)
def test_other_forms(text, wanted):
  assert calls.read(text, NAMES) == wanted
