"""What the page of tokens is told: pieces, control tokens of the template, log-probabilities."""

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.models.transformer import make
from llm_jax.parallel.mesh import make_mesh
from llm_jax.sampling.engine import Engine
from llm_jax.serving import tokens
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
  mesh = make_mesh(data=1, devices=jax.devices()[:1])
  surprise = tokens.Surprise(Engine(model, params, TOKENIZER, slots=1, mesh=mesh), mesh)
  ids = np.random.default_rng(0).integers(0, 310, 300).tolist()

  def wanted(ids):
    logits_LV = jax.jit(model.apply)(params, jnp.array([ids]))[0][0]
    return jax.nn.log_softmax(logits_LV)[jnp.arange(len(ids) - 1), jnp.array(ids[1:])]

  found = surprise(ids[:90])
  assert found[0] is None
  np.testing.assert_allclose(found[1:], wanted(ids[:90]), atol=1e-4)
  monkeypatch.setattr(tokens, 'MOST', 280)
  found = surprise(ids)
  assert len(found) == 300 and found[280:] == [None] * 20 and surprise([]) == []
  np.testing.assert_allclose(found[1:128], wanted(ids[:128]), atol=1e-4)
  np.testing.assert_allclose(found[128:192], wanted(ids[64:192])[63:], atol=1e-4)
