"""The engine: an answer is the same bits wherever and beside whomever it is written."""

import dataclasses
import functools
import itertools
import queue

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.losses.logprobs import score
from llm_jax.models.transformer import make
from llm_jax.parallel.mesh import make_mesh
from llm_jax.parallel.parameters import shardings
from llm_jax.sampling import runner
from llm_jax.sampling.engine import Engine, Request
from llm_jax.sampling.generate import generate, left_pad
from llm_jax.sampling.lookup import proposed
from llm_jax.sampling.pick import Pick
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

LENGTH, CHUNK, COLUMNS, NEW = 64, 8, 4, 12
SMALL = dict(dim=16, num_layers=1, num_heads=4, num_kv_heads=2, hidden_dim=24, max_length=LENGTH)
RULES = (
  dict(temperature=0.0),
  dict(temperature=1.0),
  dict(temperature=0.6, top_k=5),
  dict(temperature=1.4, top_p=0.7),
  dict(min_p=0.1, repetition_penalty=1.6),
  dict(temperature=0.0, repetition_penalty=1.3),
  dict(temperature=0.8, top_k=9, top_p=0.9, min_p=0.01),
)


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer.train(['the cat sat on a mat'] * 20, vocab_size=290)


@functools.cache
def build(compute=(), **shape):
  model = make(**(SMALL | dict(vocab_size=290) | shape), compute=dict(compute))
  token = jnp.zeros((1, 1), jnp.int32)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), token))
  draw = np.random.default_rng(0)
  return model, jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.4, x.shape), x.dtype), shapes)


@pytest.fixture(scope='module')
def engine(tokenizer):
  """Warm, with small programs for 1 and 4 slots and for 32 columns."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(runner, 'NARROWEST', 32)
    patch.setattr(runner, 'ROWS', (1, 4))
    made = Engine(*build(), tokenizer, slots=8, chunk=CHUNK, columns=COLUMNS, waiting=100)
    made.warm()
  return made


def prompt(size, seed=0):
  return np.random.default_rng(1000 * size + seed).integers(0, 290, size).tolist()


def requests(count=64):
  """Of all kinds: rules, lengths, seeds, stop ids, and prompts that begin alike."""
  shared = prompt(20)
  made = []
  for i, how in zip(range(count), itertools.cycle(RULES), strict=False):
    ids = prompt(1 + i * 7 % 30, i) if i % 3 else shared[: 17 + i % 4] + prompt(i % 5, i)
    stop = tuple(range(i % 4 * 3, 290, 40))
    made.append(Request(prompt=ids, max_new=1 + i * 5 % 30, seed=i, stop=stop, **how))
  return made


def bits(event):
  return event.tokens, event.logprobs, event.sampled, event.finish


@functools.cache
def sampled(compute=()):
  """`generate` with the rules as arguments."""
  run = functools.partial(generate, model=build(compute)[0], max_new=NEW, stop=(), group=2)
  return jax.jit(lambda params, ids, mask, rng, pick: run(params, ids, mask, rng, pick=pick))


def generated(request, compute=()):
  ids, mask = left_pad([request.prompt], multiple=32)
  asked = (request.temperature, request.top_k or 290, request.top_p or 1.0, request.min_p or 0.0)
  rules = Pick(*(np.array([x] * 2) for x in (*asked, request.repetition_penalty)))
  out = sampled(compute)(build(compute)[1], ids, mask, jax.random.key(request.seed), rules)
  take = lambda name: np.asarray(out[name])[request.choice, -NEW:]
  return take('tokens').tolist(), take('sampled_logp')


@pytest.mark.parametrize('how', RULES, ids=str)
def test_ids_are_those_of_generate(engine, how):
  asked = [
    Request(prompt=prompt(size, i), max_new=NEW, seed=7 * i, choice=i % 2, **how)
    for i, size in enumerate((1, 5, 8, 9, 16, 31))
  ]
  for request, event in zip(asked, engine.answers(asked), strict=True):
    ids, logp = generated(request)
    assert list(event.tokens) == ids and event.finish == 'length'
    np.testing.assert_allclose(event.sampled, logp, atol=1e-5)


def test_logprobs_are_those_of_the_model_before_all_rules(engine):
  ids = prompt(11)
  how = dict(temperature=0.5, top_k=3, frequency_penalty=1.0, logit_bias={5: 3.0})
  (event,) = engine.answers([Request(prompt=ids, max_new=NEW, top_logprobs=4, **how)])
  model, params = build()
  row = np.array([ids + list(event.tokens)])
  logp_LV = np.asarray(jax.nn.log_softmax(model.apply(params, row)[0][0]))[len(ids) - 1 : -1]
  np.testing.assert_allclose(event.logprobs, logp_LV[range(NEW), event.tokens], atol=1e-5)
  for top, logp_V in zip(event.top, logp_LV, strict=True):
    assert len(top) == 4
    np.testing.assert_allclose([logp for _, logp in top], np.sort(logp_V)[:-5:-1], atol=1e-5)
    np.testing.assert_allclose(logp_V[[i for i, _ in top]], [logp for _, logp in top], atol=1e-5)


def test_a_prompt_is_scored_as_the_trainer_scores_it(engine):
  model, params = build()
  asked = requests(8)
  want = [bits(event) for event in engine.answers(asked)]
  before = engine.compilations
  scored = [
    dataclasses.replace(request, scores_prompt=True, max_new=1 + n % 2, top_logprobs=3)
    for n, request in enumerate(asked)
  ]
  mixed = engine.answers([one for both in zip(scored, asked, strict=True) for one in both])
  assert [bits(event) for event in mixed[1::2]] == want and engine.compilations == before
  ids, mask = (np.array(x) for x in left_pad([r.prompt for r in scored], multiple=64))
  place_BL = np.maximum(mask.cumsum(1) - 1, 0).astype(np.int32)
  batch = {'tokens': ids, 'segment': mask.astype(np.int32), 'position': place_BL}
  logp_BL = np.asarray(score(model, params, batch))
  each = zip(scored, mixed[::2], want, logp_BL, strict=True)
  for request, event, plain, logp_L in each:
    assert event.cached == 0 and len(event.prompt) == len(request.prompt) - 1
    logps = [logp for logp, _ in event.prompt]
    np.testing.assert_allclose(logps, logp_L[len(logp_L) - len(logps) :], atol=1e-5)
    for (logp, top), i in zip(event.prompt, request.prompt[1:], strict=True):
      assert len(top) == 3 and sorted(top, key=lambda one: -one[1]) == list(top)
      assert logp <= top[0][1] and dict(top).get(i, logp) == logp
    assert event.tokens[:1] == plain[0][:1]


def test_the_same_bits_alone_among_others_in_any_slot_and_with_a_known_prefix(engine):
  asked = requests()
  among = [bits(event) for event in engine.answers(asked)]
  assert len({len(tokens) for tokens, *_ in among}) > 10
  assert {finish for *_, finish in among} == {'stop', 'length'}
  for request, want in zip(asked[::3], among[::3], strict=True):
    cold = dataclasses.replace(request, salt=f'{request.seed} alone')
    (alone,) = engine.answers([cold])
    assert alone.cached == 0 and bits(alone) == want
    (again,) = engine.answers([cold])
    assert again.cached == len(request.prompt) and bits(again) == want
    engine.answers([dataclasses.replace(request, prompt=[1], max_new=1)])  # into another slot
    engine._prompts.clear()  # leaves the blocks
    (kept,) = engine.answers([cold])
    assert kept.cached == (len(request.prompt) - 1) // CHUNK * CHUNK and bits(kept) == want
  for size in (3, 5):  # beside fewer, programs are smaller
    few = [bits(event) for event in engine.answers(asked[:size])]
    assert few == among[:size]


def test_small_programs_are_in_use(engine):
  """Were they not, the test above would prove less."""
  assert engine._runner.widths == [32, 64] and 4 in engine._runner.sizes


def test_a_small_program_of_other_bits_is_not_used(tokenizer, monkeypatch):
  monkeypatch.setattr(runner, 'ROWS', (1,))
  whole = runner.writing.decode

  def other(params, state, layers, *args, **how):
    state, layers, written = whole(params, state, layers, *args, **how)
    logits = state.logits_RV.at[0, 7].add(1e-5 if len(layers[0]['k']) == 1 else 0)
    return dataclasses.replace(state, logits_RV=logits), layers, written

  monkeypatch.setattr(runner.writing, 'decode', other)
  engine = Engine(*build(), tokenizer, slots=2, chunk=CHUNK, columns=COLUMNS)
  engine.warm()
  assert engine._runner.sizes == [2]


def test_nothing_compiles_after_warm(engine):
  before = engine.compilations
  assert before > 5
  options = dict(
    temperature=(0.0, 0.7),
    top_k=(None, 3),
    top_p=(None, 0.5),
    min_p=(None, 0.2),
    repetition_penalty=(1.0, 1.2),
    frequency_penalty=(0.0, 0.5),
    presence_penalty=(0.0, -0.5),
    logit_bias=({}, {3: -100.0, 4: 2}),
    stop=((), (1, 2, 3)),
    stop_strings=((), ('at',)),
    min_new=(0, 3),
    top_logprobs=(None, 0, 20),
  )
  draw = np.random.default_rng(0)
  asked = []
  for i in range(60):
    how = {name: values[draw.integers(len(values))] for name, values in options.items()}
    size = int(draw.integers(1, 50))
    asked.append(Request(prompt=prompt(size, i), max_new=int(draw.integers(1, 15)), **how, seed=i))
  for request in asked[:5]:
    engine.answers([request])
  engine.answers(asked)
  for id in [engine.submit(request) for request in asked[:20]]:
    engine.step()
    engine.cancel(id)
  while engine.busy:
    engine.step()
  assert engine.compilations == before


def test_penalties_biases_and_the_least_length_against_the_whole_row(engine):
  ids, stop = prompt(9), tuple(range(0, 290, 20))
  how = dict(temperature=0.0, frequency_penalty=1.5, presence_penalty=0.7, min_new=6)
  bias = dict.fromkeys(range(0, 290, 10), 2.5)
  request = Request(prompt=ids, max_new=NEW, stop=stop, logit_bias=bias, **how)
  (event,) = engine.answers([request])
  model, params = build()
  apply, said, want = jax.jit(model.apply), np.zeros(290), []
  bias_V = np.zeros(290)
  bias_V[list(bias)] = 2.5
  while len(want) < NEW:
    row = np.array([ids + want + [0] * (NEW - len(want))])
    logits_V = np.array(apply(params, row)[0][0, len(ids) + len(want) - 1], np.float64)
    logits_V += bias_V - 1.5 * said - 0.7 * (said > 0)
    if len(want) < 6:
      logits_V[list(stop)] = -np.inf
    want.append(int(logits_V.argmax()))
    said[want[-1]] += 1
    if want[-1] in stop:
      break
  assert list(event.tokens) == want and len(want) > 6
  assert event.finish == 'stop'


def test_by_look_up_a_row_gets_the_same_bits(tokenizer, monkeypatch):
  """Where texts repeat themselves, under all rules, stopped early, with a known beginning."""
  # Code that is not optimized, as tests compile it, adds up some rows in another order than one.
  monkeypatch.setitem(runner.OPTIONS, 'xla_backend_optimization_level', 1)
  one = functools.partial(Engine, *build(), tokenizer, slots=1, chunk=CHUNK, columns=COLUMNS)
  plain, quick = one(), one(lookup=5)
  quick.warm()
  assert quick.looks
  rules = (*RULES, dict(presence_penalty=1.0, frequency_penalty=-2.0), dict(min_new=9))
  asked = [
    Request(prompt=prompt(4 + i, i) * 3, max_new=20, seed=i, stop=stop, **how)
    for i, how in enumerate(rules)
    for stop in ((), range(i, 290, 40))
  ]
  want = plain.answers(asked)
  before = quick.compilations
  for request, expected in zip(asked, want, strict=True):
    for known in (False, True):
      (event,) = quick.answers([request])
      assert bits(event) == bits(expected) and (event.cached > 0) >= known
  assert quick.compilations == before
  look, found = jax.jit(lambda text, size: proposed(text, size, 5)[1]), 0
  for request, event in zip(asked, want, strict=True):
    ids = np.array([*request.prompt, *event.tokens, *[0] * LENGTH])[:LENGTH]
    found += sum(look(ids, len(request.prompt) + n) for n in range(1, len(event.tokens)))
  assert found > 20


def test_a_stop_string_keeps_the_token_that_completes_it(engine, tokenizer):
  free = Request(prompt=prompt(4), max_new=30, seed=3)
  (event,) = engine.answers([free])
  text = tokenizer.decode(event.tokens)
  start = len(text) // 2
  while '\ufffd' in text[start : start + 2]:
    start += 1
  stop = text[start : start + 2]
  (cut,) = engine.answers([dataclasses.replace(free, stop_strings=['never said', stop])])
  has = [stop in tokenizer.decode(event.tokens[:n]) for n in range(31)]
  assert cut.finish == 'stop' and cut.tokens == event.tokens[: has.index(True)]
  assert cut.logprobs == event.logprobs[: len(cut.tokens)]
  (after,) = engine.answers([free])  # its slot goes on for nobody
  assert bits(after) == bits(event)


def test_events_as_they_come_join_to_the_answer(engine):
  asked = requests(20)
  whole = engine.answers(asked)
  ids = [engine.submit(request) for request in asked]
  seen = {id: [] for id in ids}
  while engine.busy:
    for event in engine.step():
      assert not seen[event.id] or seen[event.id][-1].finish is None
      seen[event.id].append(event)
  for id, want in zip(ids, whole, strict=True):
    assert sum((event.tokens for event in seen[id]), ()) == want.tokens
    assert [event.finish for event in seen[id]][-1] == want.finish


@pytest.mark.parametrize('steps', [0, 1, 2, 3])
def test_a_request_can_be_cancelled_in_any_state(engine, steps):
  """Queued, read and written ones; the others get what they would have got."""
  asked = requests(24)
  want = [bits(event) for event in engine.answers(asked)]
  engine._forget()
  ids = [engine.submit(request) for request in asked]
  done = {id: [] for id in ids}

  def step():
    for event in engine.step():
      done[event.id].append(event)

  for _ in range(steps):
    step()
  assert engine.waiting > 0 and (engine._writing or not steps)
  for id in ids[::2]:
    engine.cancel(id)
    engine.cancel(id)
  engine.cancel(-1)
  while engine.busy:
    step()
  assert engine.running == engine.waiting == 0 and engine.cache_usage == 0
  assert sorted(engine._free) == list(range(8))
  for i, (id, expected) in enumerate(zip(ids, want, strict=True)):
    assert [event.finish for event in done[id]].count(None) == len(done[id]) - 1
    if i % 2:
      assert done[id][-1].finish == expected[-1]
      assert sum((event.tokens for event in done[id]), ()) == expected[0]
    else:
      assert done[id][-1].finish in ('abort', expected[-1])
  assert [bits(event) for event in engine.answers(asked)] == want


def test_choices_share_what_was_read(engine):
  asked = [Request(prompt=prompt(30, 9), max_new=4, choice=i, salt='choices') for i in range(4)]
  events = engine.answers(asked)
  assert [event.cached for event in events] == [0, 30, 30, 30]
  assert len({event.tokens for event in events}) == 4


def test_salts_share_nothing(engine):
  ids = prompt(30, 10)
  cached = [engine.answers([Request(prompt=ids, max_new=1, salt=s)])[0].cached for s in 'aaba']
  assert cached == [0, 30, 0, 24]  # the last finds whole chunks: its slot was given away


def test_the_queue_is_bounded_and_what_cannot_be_served_is_refused(engine):
  ok = Request(prompt=[1], max_new=1)
  ids = []
  with pytest.raises(queue.Full):
    for _ in range(200):
      ids.append(engine.submit(ok))
  assert len(ids) == 100 == engine.waiting
  with pytest.raises(BadInput, match='100 requests are being answered'):
    engine.load(build()[1])
  for id in ids:
    engine.cancel(id)
  assert [event.finish for event in engine.step()] == ['abort'] * 100
  for wrong, message in (
    (dict(prompt=[]), 'prompt: is empty'),
    (dict(prompt=[290]), 'prompt: id 290'),
    (dict(prompt=[0] * 60, max_new=5), 'exceed the 64 positions'),
    (dict(max_new=0), 'max_new'),
    (dict(temperature=-1.0), 'temperature'),
    (dict(temperature=float('nan')), 'temperature'),
    (dict(top_p=0.0), 'top_p'),
    (dict(top_k=0), 'top_k'),
    (dict(frequency_penalty=3.0), 'frequency_penalty'),
    (dict(logit_bias={290: 1.0}), 'logit_bias: id 290'),
    (dict(logit_bias={1: 101.0}), 'logit_bias'),
    (dict(stop=[-1]), 'stop: id -1'),
    (dict(stop=range(17)), '17 ids'),
    (dict(stop_strings=['']), 'stop_strings'),
    (dict(top_logprobs=21), 'top_logprobs'),
    (dict(seed=2**64), 'seed'),
  ):
    with pytest.raises(BadInput, match=message):
      engine.submit(dataclasses.replace(ok, **wrong))
  assert not engine.busy


def test_seeds_of_64_bits_are_seeds_of_their_own(engine):
  ask = lambda seed: engine.answers([Request(prompt=[5], max_new=20, seed=seed)])[0].tokens
  assert len({ask(seed) for seed in (1, 1 + 2**32, 1 - 2**63, 2**63 + 1)}) == 3  # the last two wrap
  assert ask(1 + 2**32) == ask(1 + 2**32)


class Spell:
  """Lets a row say nothing but these ids, in this order, and then whatever it likes."""

  def __init__(self, ids, fail=None):
    self.ids, self.said, self.fail = ids, [], fail

  def mask(self):
    if len(self.said) == self.fail:
      raise ValueError('no way on')
    if len(self.said) >= len(self.ids):
      return None
    return np.arange(290) == self.ids[len(self.said)]

  def advance(self, token):
    self.said.append(token)


def test_a_constrained_row_says_what_it_may_and_its_neighbours_do_not_notice(engine):
  asked = requests(8)
  want = [bits(event) for event in engine.answers(asked)]
  spell = Spell(prompt(7, 3))
  free = Request(prompt=prompt(6), max_new=12, seed=4)
  broken = dataclasses.replace(free, allow=Spell(prompt(7, 3), fail=3))
  held, failed, *others = engine.answers([dataclasses.replace(free, allow=spell), broken, *asked])
  assert list(held.tokens[:7]) == spell.ids and list(held.tokens) == spell.said
  assert failed.finish == 'error' and failed.error == 'no way on' and len(failed.tokens) == 3
  assert [bits(event) for event in others] == want


@pytest.mark.parametrize('dtype', ['int8', 'bfloat16'])
def test_a_small_cache(tokenizer, dtype):
  model, params = build((('cache_dtype', dtype),))
  engine = Engine(model, params, tokenizer, slots=4, chunk=CHUNK, columns=COLUMNS)
  asked = [Request(prompt=prompt(size), max_new=NEW, seed=size) for size in (3, 9, 25, 8, 17)]
  together = engine.answers(asked)
  for request, event in zip(asked, together, strict=True):
    (alone,) = engine.answers([request])
    assert bits(alone) == bits(event)
  exact = Engine(*build(), tokenizer, slots=4, chunk=CHUNK, columns=COLUMNS).answers(asked)
  assert {x.dtype.name for x in jax.tree.leaves(engine._runner._layers)} <= {
    dtype, 'float32'
  }  # fmt: skip
  first = lambda events: np.array([event.logprobs[0] for event in events])
  np.testing.assert_allclose(first(together), first(exact), atol=0.3)
  assert (first(together) != first(exact)).any()


def test_on_a_mesh(tokenizer, engine):
  model, params = build()
  mesh = make_mesh(data=2, tensor=2, devices=jax.devices()[:4])
  with jax.set_mesh(mesh):
    placed = jax.device_put(params, shardings(params, mesh))
  cut = Engine(model, placed, tokenizer, slots=8, chunk=CHUNK, columns=COLUMNS, mesh=mesh)
  cut.warm()
  before, asked = cut.compilations, requests(20)
  for here, there in zip(cut.answers(asked), engine.answers(asked), strict=True):
    assert here.tokens == there.tokens
    np.testing.assert_allclose(here.logprobs, there.logprobs, atol=1e-4)
  assert cut.compilations == before
  spread = {x.sharding.num_devices for x in jax.tree.leaves(cut._runner._layers)}
  assert spread == {4}
  with pytest.raises(BadInput, match='multiple of the 2 shards'):
    Engine(model, placed, tokenizer, slots=3, mesh=mesh)


def test_other_parameters_forget_what_was_read(tokenizer):
  model, params = build()
  engine = Engine(model, params, tokenizer, slots=2, chunk=CHUNK, columns=COLUMNS)
  request = Request(prompt=prompt(30), max_new=3, temperature=0.0)
  (first,) = engine.answers([request])
  engine.load(jax.tree.map(lambda x: -x, params))
  (second,) = engine.answers([request])
  assert second.cached == 0 and second.logprobs != first.logprobs
  engine.load(params)
  assert bits(engine.answers([request])[0]) == bits(first)


def test_rows_move_within_caches_of_every_size_without_compiling(engine):
  held, before = engine._runner, engine.compilations
  tried = [(r, w) for r in held.sizes for w in held._widths(r) if r > 1]
  for size in tried:
    held._layers = held._room(*size)
    held.move(0, size[0] - 1)
  assert len(tried) > 1 and engine.compilations == before
