"""Clients that others wrote hold a scripted conversation, whole and as a stream.

    pip install -e '.[clients]'; npm install openai   # and NODE_PATH=$PWD/node_modules

What is not installed is skipped by its name; the official client for Python is in server_test.py.
"""

import json
import shutil
import subprocess

import pytest

from llm_jax.text.templates import MARKS
from tests.serving.stand_in import TOKENIZER, Engine

pytest.importorskip('uvicorn')
CALL, END = (TOKENIZER.special(name) for name in MARKS['search'])
ADD = [CALL, *TOKENIZER.encode('{"name": "add", "arguments": {"a": 2}}'), END]
SCHEMA = {'type': 'object', 'properties': {'a': {'type': 'integer'}}}


@pytest.fixture(scope='module')
def url():
  from tests.serving.server_test import running

  def say(request):
    text = TOKENIZER.decode(request.prompt, specials=True)
    if 'RESULT_START' in text:
      return [*TOKENIZER.encode('it is 4'), *request.stop[:1]]
    if '"add"' in text:
      return ADD
    return [*TOKENIZER.encode('one and two 🎉'), *request.stop[:1]]

  with running(engine=Engine(say, columns=2, length=10**4)) as (port, *_):
    yield f'http://127.0.0.1:{port}/v1'


def test_langchain(url):
  openai = pytest.importorskip('langchain_openai')
  model = openai.ChatOpenAI(base_url=url, api_key='x', model='m', max_retries=0, seed=1)
  assert model.invoke('hi').content == 'one and two 🎉'
  parts = [part.content for part in model.stream('hi')]
  assert ''.join(parts) == 'one and two 🎉' and len(parts) > 3
  tool = {'type': 'function', 'function': {'name': 'add', 'parameters': SCHEMA}}
  bound = model.bind_tools([tool])
  said = bound.invoke('2 + 2?')
  assert [(call['name'], call['args']) for call in said.tool_calls] == [('add', {'a': 2})]
  result = {'role': 'tool', 'tool_call_id': said.tool_calls[0]['id'], 'content': '4'}
  assert bound.invoke([{'role': 'user', 'content': '2 + 2?'}, said, result]).content == 'it is 4'


def test_litellm(url, monkeypatch):
  monkeypatch.setenv('LITELLM_LOCAL_MODEL_COST_MAP', 'True')  # else it looks for prices in the net
  litellm = pytest.importorskip('litellm')
  messages = [{'role': 'user', 'content': 'hi'}]
  how = dict(model='openai/m', api_base=url, api_key='x', messages=messages, num_retries=0)
  whole = litellm.completion(**how, n=2)
  assert [c.message.content for c in whole.choices] == ['one and two 🎉'] * 2
  assert whole.usage.completion_tokens == 2 * (len(TOKENIZER.encode('one and two 🎉')) + 1)
  parts = [c.choices[0].delta.content or '' for c in litellm.completion(**how, stream=True)]
  assert ''.join(parts) == 'one and two 🎉'
  with pytest.raises(litellm.exceptions.BadRequestError, match='temperature is 9'):
    litellm.completion(**how, temperature=9)


SCRIPT = """
const OpenAI = require('openai');
const client = new OpenAI({baseURL: process.argv[1], apiKey: 'x', maxRetries: 0});
const messages = [{role: 'user', content: 'hi'}];
(async () => {
  const told = {models: [], parts: []};
  for await (const model of client.models.list()) told.models.push(model.id);
  const whole = await client.chat.completions.create({model: 'm', messages});
  told.whole = whole.choices[0].message.content;
  const stream = await client.chat.completions.create({model: 'm', messages, stream: true});
  for await (const chunk of stream) told.parts.push(chunk.choices[0].delta.content ?? '');
  const helper = client.chat.completions.stream({model: 'm', messages});
  told.helper = await helper.finalContent();
  const tools = [{type: 'function', function: {name: 'add', parameters: SCHEMA}}];
  const called = client.chat.completions.stream({model: 'm', messages, tools});
  told.call = (await called.finalChatCompletion()).choices[0].message.tool_calls[0].function;
  try {
    await client.chat.completions.create({model: 'm', messages, n: 99});
  } catch (error) {
    told.error = [error.status, error.code, error.param, error.constructor.name];
  }
  console.log(JSON.stringify(told));
})();
"""


def test_the_official_client_for_node(url):
  node = shutil.which('node')
  if (
    node is None
    or subprocess.run([node, '-e', "require('openai')"], capture_output=True).returncode
  ):
    pytest.skip('needs Node.js and its package openai: npm install openai, and NODE_PATH')
  script = SCRIPT.replace('SCHEMA', json.dumps(SCHEMA))
  done = subprocess.run([node, '-e', script, url], capture_output=True, text=True, timeout=60)
  assert done.returncode == 0, done.stderr
  told = json.loads(done.stdout)
  assert told['models'] == ['m'] and told['whole'] == told['helper'] == 'one and two 🎉'
  assert ''.join(told['parts']) == 'one and two 🎉'
  assert told['call']['name'] == 'add' and json.loads(told['call']['arguments']) == {'a': 2}
  assert told['error'] == [400, 'invalid_value', 'n', 'BadRequestError']
