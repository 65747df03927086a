"""Scores of texts behind contexts are those of plain rows, however they are batched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.evals import likelihood
from llm_jax.evals.likelihood import Likelihood, Request, Text
from llm_jax.losses.logprobs import score
from llm_jax.models import transformer
from llm_jax.parallel.mesh import make_mesh
from llm_jax.types import BadInput

MODEL = transformer.make(
  vocab_size=61, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, max_length=160,
  compute={'dtype': 'float32'},
)  # fmt: skip


@pytest.fixture(scope='module')
def params():
  return MODEL.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))


def requests(seed, count, shared=0):
  """Questions of many shapes; with `shared`, most of them begin with the same ids."""
  draw = np.random.default_rng(seed)
  ids = lambda n: tuple(int(i) for i in draw.integers(1, 61, n))
  beginning = ids(shared)
  made = []
  for i in range(count):
    texts = tuple(Text(ids(draw.integers(1, 12)), 0) for _ in range(draw.integers(1, 5)))
    before = beginning if i % 5 else ()
    made.append(Request((*before, *ids(draw.integers(1, 60))), texts))
  return made


@jax.jit
def row_logp(params, tokens):
  return score(MODEL, params, {'tokens': tokens})


def plain(params, request):
  """Each text in a row of its own; what is behind it cannot be seen."""
  for text in request.texts:
    ids = (*request.context, *text.ids)
    logp_L = row_logp(params, jnp.array([[*ids, *[0] * (144 - len(ids))]]))[0]
    yield float(logp_L[len(request.context) + text.skip : len(ids)].sum())


def scored(params, asked, mesh, **how):
  with jax.set_mesh(mesh):
    found = dict(Likelihood(MODEL, mesh, row=64, **how)(params, asked))
  return [[one.logp for one in found[i]] for i in range(len(asked))]


@pytest.fixture(scope='module')
def wanted(params):
  asked = requests(0, 24, shared=70)
  return asked, [[*plain(params, request)] for request in asked]


@pytest.mark.parametrize('axes', [{'data': 1, 'fsdp': 1}, {'data': 4, 'fsdp': 2}])
def test_scores_are_those_of_rows_on_their_own(params, wanted, axes, monkeypatch):
  monkeypatch.setattr(likelihood, 'SAVED', 100)
  asked, want = wanted
  devices = jax.devices()[: axes['data'] * axes['fsdp']]
  got = scored(params, asked, make_mesh(**axes, devices=devices), tokens=128)
  for mine, theirs in zip(got, want, strict=True):
    np.testing.assert_allclose(mine, theirs, atol=2e-4)


def test_tokens_that_are_the_contexts_count_nothing(params):
  mesh = make_mesh(devices=jax.devices()[:1])
  whole = Request((1, 2, 3), (Text((4, 5, 6), 0),))
  moved = Request((1, 2), (Text((3, 4, 5, 6), 1),))
  (first,), (second,) = scored(params, [whole, moved], mesh)
  assert first == pytest.approx(second, abs=1e-4)


def test_what_questions_share_is_read_once(params, monkeypatch):
  monkeypatch.setattr(likelihood, 'SAVED', 100)
  mesh = make_mesh(devices=jax.devices()[:1])
  asked = [Request((*range(1, 41), *request.context), request.texts) for request in requests(1, 12)]
  engine = Likelihood(MODEL, mesh, row=64, tokens=128)
  with jax.set_mesh(mesh):
    list(engine(params, asked))
  alone = sum(len(request.context) for request in asked)
  texts = sum(len(text.ids) - 1 for request in asked for text in request.texts)
  assert engine.tokens[0] <= 1.15 * (alone + texts - 40 * 11)  # short ones may stand twice


def test_greedy_is_what_the_model_would_say(params):
  mesh = make_mesh(devices=jax.devices()[:1])
  row = [7, 8, 9]
  for _ in range(3):
    logits, _ = MODEL.apply(params, jnp.array([row]))
    row.append(int(logits[0, -1].argmax()))
  likely, other = Text(tuple(row[3:])), Text((*row[3:5], (row[5] + 1) % 61))
  with jax.set_mesh(mesh):
    ((_, found),) = Likelihood(MODEL, mesh)(params, [Request((7, 8, 9), (likely, other))])
  assert [one.greedy for one in found] == [True, False]


EMPTY, FULL = Text(()), Request((1,) * 160, (Text((1, 2)),))


@pytest.mark.parametrize('wrong', [Request((), (Text((1,)),)), Request((1,), (EMPTY,)), FULL])
def test_what_cannot_be_scored_is_refused(params, wrong):
  mesh = make_mesh(devices=jax.devices()[:1])
  with pytest.raises(BadInput):
    list(Likelihood(MODEL, mesh)(params, [wrong]))


def test_a_cache_holds_what_many_rows_begin_with(params, monkeypatch):
  monkeypatch.setattr(likelihood, 'SAVED', 100)
  mesh = make_mesh(devices=jax.devices()[:1])
  asked = requests(2, 16, shared=50)
  engine = Likelihood(MODEL, mesh, row=64, tokens=128)
  with jax.set_mesh(mesh):
    found = dict(engine(params, asked))
  assert any(shape[0] == 'begin' for shape in engine.shapes)
  for i in (0, 1, 7, 15):
    np.testing.assert_allclose(
      [one.logp for one in found[i]], [*plain(params, asked[i])], atol=2e-4
    )
