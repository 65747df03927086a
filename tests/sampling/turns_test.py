"""Answers for one reader: the events of an engine, with the results of tools in them."""

import copy
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.models.transformer import make
from llm_jax.sampling import turns
from llm_jax.sampling.calls import Caller, Going, Tools
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.request import Event, Request
from llm_jax.sampling.turns import Turns
from llm_jax.text.quotes import quoted
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

NEW = 24


@pytest.fixture(scope='module')
def made():
  """A model with random weights, and its tokenizer."""
  tokenizer = Tokenizer.train(['the cat sat on a mat'] * 20, vocab_size=290)
  model = make(vocab_size=290, dim=16, num_layers=1, num_heads=2, hidden_dim=24, max_length=128)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  return model, params, tokenizer


@pytest.fixture(scope='module')
def reader(made):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(turns, 'SHORTEST', 64)
    one = Turns(*made)
    list(one.answer(Request(prompt=[5], max_new=2)))
  return one


def request(size, seed=0, **how):
  ids = np.random.default_rng(seed).integers(0, 290, size).tolist()
  return Request(prompt=ids, max_new=NEW, seed=seed, **how)


def tokens(events):
  return [i for event in events for i in event.tokens]


def test_answers_that_are_read_in_turn_are_those_of_the_engine(made, reader):
  asked = [request(9, 1), request(30, 2), request(9, 3, temperature=0.0)]
  wanted = [list(event.tokens) for event in Engine(*made, slots=1, length=64).answers(asked)]
  streams = [reader.answer(one) for one in asked]
  found = [[], [], []]
  for each in itertools.zip_longest(*streams):
    for events, event in zip(found, each, strict=True):
      events += [event] if event else []
  assert [*map(tokens, found)] == wanted and all(len(events) > 2 for events in found)


def test_whoever_stops_reading_stops_the_answer(reader):
  events = reader.answer(request(9, 1))
  assert next(events).tokens
  events.close()
  assert not reader._engine.running and not reader._unread
  assert len(tokens(reader.answer(request(9, 2)))) == NEW


def test_rows_grow_with_a_conversation_up_to_what_the_model_has(made, reader):
  assert reader._engine.length == 64
  asked = request(60, 4)
  (wanted,) = Engine(*made, slots=1).answers([asked])
  assert tokens(reader.answer(asked)) == list(wanted.tokens)
  assert reader._engine.length == reader.positions == 128
  with pytest.raises(BadInput, match='up to 144 of the 128 positions'):
    list(reader.answer(request(120)))


def test_what_is_quoted_stands_in_a_result_from_then_on(made):
  *_, tokenizer = made
  search, begin = (
    quoted(lambda text: f'the {text} sat', 'words'),
    tokenizer.special('<SEARCH_START>'),
  )
  caller = Caller(tokenizer, Tools({'search': search, 'count': lambda text: 'a mat'}), 300)
  going = Going(caller, Request(prompt=[5], max_new=64), length=256)
  forms = {'count(cat)': None, 'cat': ['the'], 'search(mat)': ['the mat', 'the cat']}
  for call, allowed in forms.items():
    going.hear(Event(7, tokens=(begin, *tokenizer.encode(call), caller.end), finish='stop'))
    _, asked = going.run()
    if allowed is None:
      assert asked.allow is None
      continue
    for quote, right in [*((quote, True) for quote in allowed), ('a mat', False)]:
      keeper = copy.deepcopy(asked.allow)
      said = tokenizer.encode(f'"{quote}"')
      fits = []
      for token in said:
        fits.append(bool(keeper.mask()[token]))
        if not fits[-1]:
          break
        keeper.advance(token)
      assert all(fits) == right, (quote, call)
      assert len(keeper.mask()) == 300


def test_calls_are_run_and_their_results_are_read(made, monkeypatch):
  *_, tokenizer = made
  tools = Tools({'search': lambda text: f'{text}!'}, max_calls=2, max_result=8)
  caller, one = Caller(tokenizer, tools), Turns(*made)
  begin, stop = tokenizer.special('<SEARCH_START>'), tokenizer.eos_id
  call = [begin, *tokenizer.encode('cat'), caller.end]
  ends = dict.fromkeys([caller.end, stop], 'stop')
  text = tokenizer.encode('a mat')
  for script, results in (
    ([[*text, stop]], 0),
    ([[*text, *call], [*text, stop]], 1),
    ([call, [*text, *call], [*text, *call]], 2),  # a call too many ends it
    ([[*text, *call], text], 1),
    ([[*text * 3, *call]], 0),  # nothing is left to be said about the result
  ):
    script, asked = [said[:NEW] for said in script], []

    def submit(request, asked=asked):
      asked.append(request)
      return 7

    def step(asked=asked, script=script):
      said = script[len(asked) - 1]
      end = Event(7, tokens=tuple(said[3:]), finish=ends.get(said[-1], 'length'))
      return [Event(7, tokens=tuple(said[:3])), end]

    fake = SimpleNamespace(length=128, submit=submit, step=step, cancel=lambda id: None)
    monkeypatch.setattr(one, '_engine', fake)
    how = dict(max_new=len(script[0])) if len(script) == 1 else dict(max_new=NEW)
    events = list(one.answer(Request(prompt=text, stop=[stop], **how), caller))
    assert len(asked) == len(script) == results + 1
    (result, failed, quotable), row = caller.result(call), [*text]
    assert not failed and quotable is None and result[1:-1] == tokenizer.encode('cat!')
    for i, (one_asked, said) in enumerate(zip(asked, script, strict=True)):
      assert [*one_asked.prompt] == row and one_asked.choice % 2**15 == 0
      row += said + (result if i < results else [])
      assert one_asked.max_new == how['max_new'] - sum(map(len, script[:i]))
    assert text + tokens(events) == row
    assert [event.finish for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1].finish == ends.get(script[-1][-1], 'length')
