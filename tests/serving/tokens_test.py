"""What the page of tokens is told: pieces, control tokens of the template, log-probabilities."""

import asyncio

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.models.transformer import make
from llm_jax.sampling.engine import Engine
from llm_jax.serving import tokens
from llm_jax.serving.driver import Driver
from tests.serving.app_test import many
from tests.serving.stand_in import STOP, TOKENIZER


def asked(*bodies, **how):
  return many(*(('POST', '/tokens', body) for body in bodies), **how)


def bytes_of(piece):
  return piece.encode() if isinstance(piece, str) else bytes(piece)


def test_a_typed_control_token_is_text_and_that_of_the_template_is_none():
  text = 'one <|im_end|> 猫\0\n'
  talk = [{'role': 'user', 'content': text}, {'role': 'assistant', 'content': 'two'}]
  plain, chat = (reply.json() for reply in asked({'text': text}, {'messages': talk, 'model': 'm'}))
  assert plain['ids'] == TOKENIZER.encode(text) and plain['control'] == []
  assert b''.join(map(bytes_of, plain['pieces'])).decode() == text
  assert [0xE7] in plain['pieces'] and plain['trained'] is plain['logprobs'] is None
  made = [chat['pieces'][n] for n in chat['control']]
  assert made.count('<|im_end|>') == 2 and chat['ids'].count(STOP) == 2
  trained = [p for p, on in zip(chat['pieces'], chat['trained'], strict=True) if on]
  assert ''.join(trained) == 'two<|im_end|>'


def test_bad_bodies_are_refused():
  user = {'role': 'user', 'content': 'a'}
  for reply, said in zip(
    asked({}, {'text': 'a', 'messages': [user]}, {'text': 1}, {'messages': [{'role': 'x'}]}),
    ('either text or messages', 'either text or messages', 'give a string', 'role'),
    strict=True,
  ):
    assert reply.status == 400 and said in reply.error()['message']
  (unknown,) = asked({'text': 'a', 'model': 'other'})
  assert unknown.status == 404


def test_surprise_is_what_the_model_says_in_windows_too(monkeypatch):
  model = make(vocab_size=310, dim=16, num_layers=1, num_heads=2, hidden_dim=24, max_length=128)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  ids = np.random.default_rng(0).integers(0, 310, 300).tolist()

  def wanted(ids):
    logits_LV = jax.jit(model.apply)(params, jnp.array([ids]))[0][0]
    return jax.nn.log_softmax(logits_LV)[jnp.arange(len(ids) - 1), jnp.array(ids[1:])]

  async def asked(*texts):
    driver = Driver(lambda: Engine(model, params, TOKENIZER, slots=1))
    driver.start()
    await driver.ready.wait()
    found = [await tokens.logprobs(driver, text, 128) for text in texts]
    await driver.stop()
    return found

  monkeypatch.setattr(tokens, 'MOST', 280)
  short, long, one, nothing = asyncio.run(asked(ids[:90], ids, ids[:1], []))
  assert short[0] is None and one == [None] and nothing == []
  np.testing.assert_allclose(short[1:], wanted(ids[:90]), atol=1e-4)
  assert len(long) == 300 and long[280:] == [None] * 20  # windows of 127 tokens, 63 apart
  np.testing.assert_allclose(long[1:127], wanted(ids[:127]), atol=1e-4)
  np.testing.assert_allclose(long[127:190], wanted(ids[63:190])[63:], atol=1e-4)
