"""Texts and conversations continued: what the model reads, where it stops, which words it has."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.models import transformer
from llm_jax.models.cache import empty as make_cache
from llm_jax.sampling import complete, pick
from llm_jax.sampling.generate import generate, left_pad
from llm_jax.text import chat
from llm_jax.text.tokenizer import EOS, Tokenizer
from llm_jax.types import BadInput

NEW = 6
say = lambda role, text: {'role': role, 'content': text}
TALK = [say('user', 'dog'), say('assistant', 'cat'), say('user', 'a cat')]


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer.train(['a cat sat on the mat; user and assistant: dog'] * 20, vocab_size=290)


@pytest.fixture
def numbers(tokenizer, monkeypatch):
  """The same tokenizer, but what it decodes stays a list of ids, so that no two are confused."""
  monkeypatch.setattr(complete, 'spelled', lambda tokenizer, ids, after: ids.tolist())
  return tokenizer


@functools.cache
def build():
  """A small Transformer whose weights are large enough for answers to depend on their prompts."""
  model = transformer.make(
    vocab_size=290, dim=16, num_layers=1, num_heads=2, max_length=96, head='untied'
  )
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  draw = np.random.default_rng(0)
  return model, jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.6, x.shape), x.dtype), shapes)


def answers(tokenizer, prompts, model=None, params=None, **options):
  made, weights = (model, params) if model else build()
  options = dict(temperature=0, max_new=NEW) | options
  return complete.make(made, tokenizer, prompts=prompts, **options)(weights)


@functools.cache
def greedy():
  choose = pick.make(temperature=0)
  return jax.jit(functools.partial(generate, model=build()[0], max_new=NEW, stop=(), pick=choose))


def read_as(ids):
  """What the model answers to exactly these ids, stopping nowhere."""
  out = greedy()(build()[1], *left_pad([ids], multiple=16), jax.random.key(0))
  return out['tokens'][0, -NEW:].tolist()


def test_a_text_is_read_as_the_beginning_of_a_document(numbers):
  prompts = ['a cat sat', 'dog']
  wanted = [read_as([numbers.bos_id, *numbers.encode(text)]) for text in prompts]
  assert answers(numbers, prompts) == wanted
  assert wanted[0] != wanted[1] != read_as(numbers.encode('dog'))  # else this test shows nothing


@pytest.mark.parametrize('template', ['llm_jax', 'chatml'])
def test_with_a_template_the_model_reads_what_a_conversation_is_up_to_its_answer(numbers, template):
  encode = lambda talk: chat.encode(numbers, chat.pieces(talk, template=template, answer=True))[0]
  wanted = [read_as(encode(talk)) for talk in (TALK, TALK[:1])]
  assert answers(numbers, [TALK, TALK[:1]], template=template) == wanted
  assert answers(numbers, ['dog'], template=template) == wanted[1:]  # a text is of the user
  assert wanted[0] != wanted[1] != answers(numbers, ['dog'])[0]


def test_greedy_answers_do_not_depend_on_the_batch(numbers):
  prompts = ['a', 'cat sat on', 'the mat', TALK, 'on the mat a dog']
  ask = lambda size: answers(numbers, prompts, template='llm_jax', batch_size=size)
  whole = ask(None)
  assert len({tuple(answer) for answer in whole}) == 5
  for size in (1, 2, 3, 9):  # 2 and 3 leave a last batch that is not full
    assert ask(size) == whole


def test_sampling_follows_the_seed(numbers):
  ask = lambda seed: answers(numbers, ['a'] * 4, temperature=1.0, batch_size=2, seed=seed)
  first, again, other = ask(1), ask(1), ask(2)
  assert first == again != other
  assert first[:2] != first[2:]  # every batch draws anew


class Chain:
  """A language model that only looks at the last token: `params` [V, V] has the logits."""

  def __init__(self, vocab_size):
    self.shape = SimpleNamespace(vocab_size=vocab_size, max_length=64)

  def for_decoding(self, params):
    return self, params

  def make_cache(self, batch, slots):
    return make_cache(batch, slots, num_layers=0, num_heads=0, head_dim=0, dtype='float32')

  def apply(self, params, x, position=None, segment=None, cache=None, method=None):
    if method == 'unembed':
      return x
    return params[x], cache.extend(position, segment)[0]


def chain(tokenizer, *ids, extra=0):
  """A model that says `ids` one after the other, then the last one for ever.

  With `extra` rows beyond the tokenizer's, which it likes best of all.
  """
  size = tokenizer.vocab_size + extra
  table = np.zeros((size, size), np.float32)
  for one, two in zip(ids, (*ids[1:], ids[-1])):
    table[one, two] = 50
  table[:, tokenizer.vocab_size :] = 1e6
  return dict(model=Chain(size), params=jnp.asarray(table))


@pytest.fixture(scope='module')
def words(tokenizer):
  """Ids of 'a', 'd' and 'o', each one token."""
  ids = [tokenizer.encode(word) for word in 'ado']
  assert all(len(some) == 1 for some in ids)
  return [some[0] for some in ids]


def test_the_end_of_a_turn_ends_an_answer_and_only_in_a_conversation(tokenizer, words):
  a, d, o = words
  start, stop = (tokenizer.special(name) for name in ('<|im_sep|>', '<|im_end|>'))
  says = chain(tokenizer, start, a, d, stop, o)
  assert answers(tokenizer, ['x'], **says, template='llm_jax') == ['ad']
  assert answers(tokenizer, ['a'], **says) == ['doooo']  # control tokens are not shown


@pytest.mark.parametrize('template', [None, 'llm_jax', 'plain'])
def test_the_end_of_a_document_ends_every_answer(tokenizer, words, template):
  a, d, o = words
  start = tokenizer.special('<|im_sep|>') if template == 'llm_jax' else a
  says = chain(tokenizer, start, d, tokenizer.special(EOS), o)
  assert answers(tokenizer, ['a'], **says, template=template) == ['d']


@pytest.mark.parametrize(
  'how', [dict(temperature=0), dict(temperature=1.0), dict(temperature=2.0, top_p=0.9, top_k=5)]
)
def test_rows_of_the_model_without_a_word_are_never_said(tokenizer, words, how):
  says = chain(tokenizer, *words, extra=6)
  # An id that the tokenizer does not have could not be decoded.
  assert answers(tokenizer, ['a'] * 3, **says, **how) == ['dooooo'] * 3


def test_what_cannot_be_asked(tokenizer):
  with pytest.raises(BadInput, match='a conversation as a prompt needs a chat template'):
    answers(tokenizer, ['a', TALK])
  with pytest.raises(BadInput, match='at least one'):
    answers(tokenizer, [])
  with pytest.raises(BadInput, match=r'max_new 90 exceed the 96 positions of the model; lower'):
    answers(tokenizer, ['a'], max_new=90)
  with pytest.raises(BadInput, match="did you mean 'temperature'"):
    answers(tokenizer, ['a'], temprature=1.0)
  with pytest.raises(BadInput, match="no template 'chat_ml'; did you mean 'chatml'"):
    answers(tokenizer, ['a'], template='chat_ml')
