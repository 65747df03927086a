"""A trained model over HTTP says what the sampler says, and the command ends as it should."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import serve as serve_config
from llm_jax import artifact
from llm_jax.jobs import serve
from llm_jax.losses.logprobs import score
from llm_jax.parallel.mesh import make_mesh
from llm_jax.sampling import complete, pick
from llm_jax.sampling.generate import generate
from llm_jax.serving import models
from llm_jax.text import chat
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

pytest.importorskip('uvicorn')
ROOT = Path(__file__).parents[2]
SHAPE = dict(
  name='transformer', vocab_size=300, dim=16, num_layers=1, num_heads=2, max_length=128,
)  # fmt: skip
NEW = 24


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A folder with an untrained chat model, `small`, and a reward model, `judge`."""
  root = tmp_path_factory.mktemp('serve')
  tokenizer = Tokenizer.train(['user assistant', 'one and two'] * 20, vocab_size=290)
  for name, shape in (('small', SHAPE), ('judge', SHAPE | {'head': 'scalar'})):
    model = artifact.build(shape)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    config = {'model': shape, 'data': {'template': 'llm_jax'}}
    artifact.save(root / name, artifact.Artifact(model, params, tokenizer, config))
  return root


def config_of(root, **changes):
  c = serve_config.get_config()
  c.artifact, c.mesh.fsdp = str(root / 'small'), 1
  c.update(changes)
  return c


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
  'changes, told',
  [
    ({'artifact': 'nowhere'}, "no folder 'nowhere'"),
    ({'artifact': '{root}/judge'}, 'is a reward model; it says nothing'),
    ({'artifacts': {'a': '{root}/small', 'b': 'nowhere'}}, "no folder 'nowhere'"),
    ({'artifacts': {'\n': '{root}/small'}}, 'has the name'),
    ({'port': 70000}, 'port 70000; choose a whole number from 0 to 65535'),
    ({'host': '0.0.0.0'}, 'others reach this server, and it has no API keys'),
    ({'key_file': 'nowhere'}, "config.key_file 'nowhere' cannot be read"),
    ({'key_file': '{root}/short'}, 'key 1 is not 16 or more'),
    ({'key_file': '{root}/none'}, 'has no key'),
    ({'grace': 0.0}, 'grace'),
    ({'engine': {'slots': 0}}, 'engine: slots 0'),
    ({'engine': {'slot': 4}}, "unknown option 'slot'; did you mean 'slots'"),
    ({'sampling': {'temperature': 3.0}}, 'sampling: temperature 3.0'),
    ({'limits': {'body': 1}}, 'limits: body 1'),
  ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(root, monkeypatch, changes, told):
  (root / 'short').write_text('# a comment\n\ntooshort\n')
  (root / 'none').write_text('# a comment\n')
  monkeypatch.setattr(artifact, 'load', None)
  filled = json.loads(json.dumps(changes).replace('{root}', str(root)))
  c = config_of(root)
  with c.unlocked():
    for name, value in filled.items():
      c[name] = value
  with pytest.raises(BadInput, match=re.escape(told)) as found:
    serve.check(c)
  assert str(found.value).count('\n') == 0 and 'tooshort' not in str(found.value)


def test_a_missing_extra_is_named(root, monkeypatch):
  monkeypatch.setitem(sys.modules, 'uvicorn', None)
  with pytest.raises(BadInput, match=r"pip install 'llm_jax\[serve\]'"):
    serve.check(config_of(root))


def test_keys_come_from_a_file_and_the_environment(root, monkeypatch):
  (root / 'keys').write_text('k' * 20 + '\n')
  monkeypatch.setenv('LLM_JAX_API_KEYS', f'{"a" * 16}, {"b" * 16}')
  c = config_of(root, key_file=str(root / 'keys'), host='0.0.0.0')
  serve.check(c)
  assert serve._keys(c) == ['k' * 20, 'a' * 16, 'b' * 16]


# --- the command -------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def server(root):
  """(port, process) of the command."""
  command = [
    sys.executable, '-m', 'llm_jax.main', '--config=configs/serve.py', '--config.port=0',
    f'--config.artifacts.small={root}/small', '--config.engine.slots=2',
    '--config.engine.columns=4', '--config.mesh.fsdp=1', '--config.limits.unread=64',
  ]  # fmt: skip
  environ = os.environ | {'PYTHONPATH': str(ROOT)}
  with subprocess.Popen(
    command, cwd=ROOT, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  ) as process:
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr))
    reader.start()
    try:
      for line in process.stdout:
        if line.startswith('ready: '):
          break
      yield int(re.search(r':(\d+)/v1', line)[1]), process, lines
    finally:
      process.kill()
      process.wait()
      reader.join()


def post(port, body, path='/v1/chat/completions'):
  connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
  connection.request('POST', path, json.dumps(body), {'content-type': 'application/json'})
  reply = connection.getresponse()
  content = reply.read()
  if not body.get('stream'):
    return json.loads(content)
  assert content.endswith(b'data: [DONE]\n\n'), content[-200:]
  return [json.loads(e[6:]) for e in content.split(b'\n\n')[:-2]]


def metric(port, name):
  connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
  connection.request('GET', '/metrics')
  return float(re.search(rf'^{name} (\S+)$', connection.getresponse().read().decode(), re.M)[1])


OPTIONS = [
  {'temperature': 0},
  {'seed': 5},
  {'seed': 2**40 + 3, 'temperature': 0.5, 'top_p': 0.9},
  {'seed': 7, 'repetition_penalty': 1.3},
]


def body(text, **how):
  messages = [{'role': 'user', 'content': text}]
  return {'messages': messages, 'max_tokens': NEW, 'return_token_ids': True, **how}


def sampled(made, text, seed=0, temperature=1.0, **how):
  """What `generate` says."""
  pieces = chat.pieces(body(text)['messages'], answer=True)
  prompt = np.array([chat.encode(made.tokenizer, pieces)[0]])
  allowed = complete.spoken(made.model, made.tokenizer)
  choose = pick.make(temperature=temperature, allowed_V=allowed, **how)
  stop = chat.stop_ids(made.tokenizer)
  key = jax.random.key(seed % 2**32)
  run = jax.jit(
    lambda params, ids: generate(
      params, ids, jnp.ones_like(ids), key, model=made.model, max_new=NEW, stop=stop, pick=choose
    )
  )
  batch = jax.device_get(run(made.params, prompt))
  return batch['tokens'][0][batch['mask'][0] > 0].tolist()


def test_it_says_what_the_sampler_says_alone_and_under_load(root, server):
  port, process, lines = server
  made = artifact.load(root / 'small', make_mesh(data=1))
  compiled = metric(port, 'llm_jax_compilations_total')
  alone = {}
  for number, how in enumerate(OPTIONS):
    found = post(port, body('one', **how))
    (choice,) = found['choices']
    assert choice['token_ids'] == sampled(made, 'one', **how), how
    assert found['usage']['completion_tokens'] == len(choice['token_ids'])
    alone[number] = choice
  every = dict(logprobs=True, top_logprobs=3, frequency_penalty=1, logit_bias={'30': 5}, n=2)
  assert len(post(port, body('two', **every, stop=['zz'], min_tokens=3))['choices']) == 2

  def client(number):
    which = number % len(OPTIONS)
    time.sleep(0.003 * number)
    events = post(port, body('one', **OPTIONS[which], stream=True))
    choices = [choice for event in events for choice in event['choices']]
    said = ''.join(choice['delta'].get('content') or '' for choice in choices)
    ids = [i for choice in choices for i in choice.get('token_ids', ())]
    return (said, ids) == (alone[which]['message']['content'], alone[which]['token_ids'])

  with ThreadPoolExecutor(16) as pool:
    assert all(pool.map(client, range(32)))
  assert metric(port, 'llm_jax_compilations_total') == compiled > 0
  assert metric(port, 'llm_jax_requests_running') == metric(port, 'llm_jax_requests_waiting') == 0
  assert process.poll() is None and 'one' not in ''.join(lines)


def test_json_of_a_model_that_knows_none_beside_others(server):
  port, *_ = server
  compiled = metric(port, 'llm_jax_compilations_total')
  properties = {'a': {'enum': ['é', 12]}, 'b': {'type': 'integer', 'minimum': -3, 'maximum': 40}}
  schema = {'type': 'object', 'properties': properties, 'required': ['a', 'b']}
  format = {'type': 'json_schema', 'json_schema': {'name': 'ab', 'schema': schema}}
  plain = lambda: post(port, body('one', seed=5))['choices']
  held = lambda: post(
    port, body('one', seed=2, temperature=2, n=4, response_format=format) | {'max_tokens': 80}
  )['choices']
  alone = plain(), held()
  with ThreadPoolExecutor(6) as pool:
    found = [pool.submit(one) for one in (held, plain) * 3]
    assert [one.result() for one in found] == [alone[1], alone[0]] * 3
  whole = [choice for choice in alone[1] if choice['finish_reason'] == 'stop']
  assert whole
  for choice in whole:
    value = json.loads(choice['message']['content'])
    assert value['a'] in ('é', 12) and -3 <= value['b'] <= 40 and value.keys() == {'a', 'b'}
  assert metric(port, 'llm_jax_compilations_total') == compiled


def test_texts_are_scored(root, server):
  port, *_ = server
  made = artifact.load(root / 'small', make_mesh(data=1))
  ids = made.tokenizer.encode('one and two')
  (choice,) = post(
    port, {'prompt': ids, 'echo': True, 'logprobs': 1, 'max_tokens': 0}, '/v1/completions'
  )['choices']
  row = np.array([ids])
  batch = {'tokens': row, 'segment': row * 0 + 1, 'position': np.arange(len(ids))[None]}
  want = np.asarray(score(made.model, made.params, batch))[0, 1:]
  first, *scores = choice['logprobs']['token_logprobs']
  assert first is None and choice['text'] == 'one and two'
  np.testing.assert_allclose(scores, want, atol=1e-5)
  assert models.positions(str(root / 'small'), {'length': None}) == SHAPE['max_length']
  assert models.positions(str(root / 'small'), {'length': 20}) == 20


def test_sigterm_ends_it_in_peace(server):
  port, process, _ = server
  with ThreadPoolExecutor(8) as pool:
    ask = lambda number: post(port, body('two', seed=number, stream=True, ignore_eos=True))
    streams = [pool.submit(ask, number) for number in range(6)]
    while metric(port, 'llm_jax_requests_running') < 2 and not all(s.done() for s in streams):
      time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    for stream in streams:
      (last,) = stream.result()[-1]['choices']
      assert last['finish_reason'] == 'length'
  assert process.wait(30) == 0
