"""Rollouts: what is written and logged, by hand, and a reference that agrees bit by bit."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import artifact
from llm_jax.annotate import reference, sample
from llm_jax.models import actor_critic, transformer
from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.sampling.generate import left_pad
from llm_jax.sampling.sampler import Calls
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.tools import make_tools
from llm_jax.types import BadInput

SHAPE = dict(vocab_size=290, dim=16, num_layers=1, num_heads=2, max_length=64)
PROMPTS = [[1, 30, 40, 50, 60], [1, 70], [1, 80, 90], [1, 33, 44]]
NEW = 6


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer.train(['the cat sat on a mat'] * 20, vocab_size=290)


@pytest.fixture(scope='module')
def mesh():
  with jax.set_mesh(mesh := make_mesh(data=2, fsdp=2)):
    yield mesh


@pytest.fixture(scope='module')
def folder(tokenizer, tmp_path_factory):
  """An artifact whose answers depend on their prompts."""
  group = SHAPE | {'name': 'transformer'}
  model = artifact.build(group)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  draw = np.random.default_rng(0)
  params = jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.5, x.shape), x.dtype), shapes)
  path = tmp_path_factory.mktemp('sample') / 'policy'
  artifact.save(path, artifact.Artifact(model, params, tokenizer, {'model': group}))
  return str(path)


def asked(mesh, prompts=PROMPTS):
  prompt_BP, mask_BP = left_pad(prompts)
  return shard_batch({'prompt': prompt_BP, 'prompt_mask': mask_BP}, mesh)


@pytest.mark.parametrize(('temperature', 'ppo'), [(0.7, True), (1.6, False)])
def test_the_policy_as_its_own_reference_is_exactly_no_divergence(
  folder, tokenizer, mesh, temperature, ppo
):
  made = artifact.load(folder, mesh)
  model, params = made.model, made.params
  if ppo:
    model = actor_critic.make(policy=SHAPE, critic=SHAPE | {'dim': 8})
    critic = jax.jit(model.critic.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    params = {'policy': params, 'critic': critic}
  options = dict(mesh=mesh, temperature=temperature)
  write = sample.make(
    model, tokenizer, template=None, group=2, max_new=NEW, rescore=True, **options
  )
  frozen = reference.make(model, tokenizer, path=folder, **options)
  out = frozen(params, write(params, asked(mesh), jax.random.key(0)), jax.random.key(1))
  np.testing.assert_array_equal(out['old_logp'], out['ref_logp'])
  np.testing.assert_allclose(out['old_logp'] * out['mask'], out['sampled_logp'], atol=1e-4)
  assert (np.asarray(out['sampled_logp'])[np.asarray(out['mask']) > 0] < 0).all()


def test_fields_and_the_ends_of_turns(folder, tokenizer, mesh, monkeypatch):
  monkeypatch.setattr(sample.chat, 'stop_ids', lambda *_: list(range(3, 290, 3)))
  made = artifact.load(folder, mesh)
  annotate = sample.make(
    made.model, tokenizer, mesh=mesh, template='llm_jax', group=2, max_new=NEW, top_p=0.9
  )
  assert annotate.rows(5) == (2, 5 + NEW)
  batch = asked(mesh)
  batch['prompt_mask'] = batch['prompt_mask'].at[1].set(0)  # a filler
  out = annotate(made.params, batch, jax.random.key(0))
  assert {k: (v.shape, v.dtype.name) for k, v in out.items() if k not in batch} == {
    **{k: ((4, 2, 5 + NEW), 'int32') for k in ('tokens', 'position', 'segment')},
    **{k: ((4, 2, 5 + NEW), 'float32') for k in ('mask', 'sampled_logp')},
    **{f'log/{k}': ((4,), 'float32') for k in ('length', 'eos_rate', 'truncated', 'repetition')},
  }
  tokens, mask = (np.asarray(out[k]) for k in ('tokens', 'mask'))
  np.testing.assert_array_equal(tokens[..., :5], np.repeat(batch['prompt'][:, None], 2, axis=1))
  assert not mask[1].any() and not mask[..., :5].any()
  said = [t[m > 0].tolist() for t, m in zip(tokens.reshape(8, -1), mask.reshape(8, -1))]
  said = [answer for answer in said if answer]
  stops = {tokenizer.eos_id, *range(3, 290, 3)}
  assert len(said) == 6 and not any(set(answer[:-1]) & stops for answer in said)
  ended = [answer[-1] in stops for answer in said]
  assert any(ended)
  for name, wanted in (
    ('length', np.mean([len(answer) for answer in said])),
    ('eos_rate', np.mean(ended)),
    ('truncated', 1 - np.mean(ended)),
  ):
    np.testing.assert_allclose(out[f'log/{name}'], [wanted] * 4, rtol=1e-6)


def test_the_engine_gives_the_same_answers(folder, tokenizer, mesh):
  made = artifact.load(folder, mesh)
  batch = asked(mesh)
  batch['prompt_mask'] = batch['prompt_mask'].at[1].set(0)
  options = dict(mesh=mesh, template=None, group=3, max_new=NEW, top_k=40, temperature=0.8)
  plain = sample.make(made.model, tokenizer, **options, rescore=True)
  engine = sample.make(made.model, tokenizer, **options, rescore=True, engine=True, slots=3)
  assert plain.rows(5) == engine.rows(5)
  for seed in (0, 1):  # of other parameters too
    params = jax.tree.map(lambda x, seed=seed: x * (1 + seed), made.params)
    want, got = (one(params, batch, jax.random.key(seed)) for one in (plain, engine))
    assert want.keys() == got.keys()
    for name, value in want.items():
      assert got[name].sharding.is_equivalent_to(value.sharding, value.ndim), name
      exact = value.dtype == 'int32' or name == 'mask'
      np.testing.assert_allclose(got[name], value, rtol=0, atol=0 if exact else 2e-5, err_msg=name)


def diagnosed(mesh, rows, calls=None):
  """What is logged about rows (ids, mask), of two answers each, by a sampler that knows them."""
  stop = [2, 3]
  tokens, mask = (np.array(x) for x in zip(*rows, strict=True))
  drawn = {'tokens': tokens, 'mask': mask.astype(np.float32)}
  drawn |= {k: np.zeros(tokens.shape, np.int32) for k in ('position', 'segment')}
  drawn['sampled_logp'] = -drawn['mask']

  class Known:
    slots = NEW

    def __init__(self):
      self.calls = calls

    def __call__(self, *_):
      return shard_batch(drawn, mesh)

  annotate = sample.Sample(SimpleNamespace(), Known(), 2, NEW, None, stop, mesh)
  fields = ('prompt', 'prompt_mask')
  given = shard_batch({k: np.ones((len(rows) // 2, 3), np.int32) for k in fields}, mesh)
  out = annotate({}, given, jax.random.key(0))
  logs = {k.removeprefix('log/'): np.asarray(v) for k, v in out.items() if k.startswith('log/')}
  for v in logs.values():
    assert v.shape == (len(rows) // 2,) and v.dtype == np.float32 and len(set(v.tolist())) == 1
  return {k: float(v[0]) for k, v in logs.items()}


FILLER = ([2] * 9, [0] * 9)
ROWS = [
  ([0, 1, 5, 6, 2, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0, 0, 0]),  # ends with a stop id
  ([1, 7, 7, 7, 7, 7, 7, 0, 0], [0, 1, 1, 1, 1, 1, 1, 0, 0]),  # "the the the ...", to the end
  ([1, 9, 5, 8, 8, 8, 8, 7, 3], [0, 1, 1, 0, 0, 0, 0, 1, 1]),  # a tool says 8 8 8 8
  FILLER,
  ([0, 0, 1, 4, 5, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0, 0, 0]),  # ended by a text, no stop id
  ([1, 2, 5, 6, 5, 6, 5, 2, 0], [0, 0, 1, 1, 1, 1, 1, 1, 0]),  # as long as it may be, and ended
  FILLER,
  FILLER,
]


def test_diagnostics_by_hand(mesh):
  logs = diagnosed(mesh, ROWS)
  lengths = np.array([3, 6, 4, 2, 6])
  assert logs == pytest.approx(
    {
      'length': lengths.mean(),
      'eos_rate': 3 / 5,
      'truncated': 1 / 5,
      # Of the sevens the fourth and later ones, of 5 6 5 6 5 the last.
      'repetition': 4 / lengths.sum(),
    },
    rel=1e-6,
  )


def test_calls_are_those_of_an_answer(mesh):
  calls = Calls(np.array([0, 1, 2, 0, 1, 0, 0, 0]), np.array([0, 1, 0, 0, 1, 0, 0, 0]))
  logs = diagnosed(mesh, ROWS, calls)
  assert logs['tool_calls'] == pytest.approx(4 / 5) and logs['tool_errors'] == pytest.approx(2 / 5)


def test_nothing_but_fillers(mesh):
  assert set(diagnosed(mesh, [FILLER] * 8).values()) == {0}


def test_repetition_is_what_ends_three_of_a_loop():
  draw = np.random.default_rng(0)
  tokens = draw.integers(0, 2, (3, 5, 24))
  mask = draw.random(tokens.shape) < 0.9
  found = np.asarray(sample.repeated(jnp.asarray(tokens), jnp.asarray(mask)))
  looped = lambda t, m, i, period: all(
    i - k - period >= 0 and m[i - k] and m[i - k - period] and t[i - k] == t[i - k - period]
    for k in range(3)
  )
  for at in np.ndindex(3, 5):
    wanted = [any(looped(tokens[at], mask[at], i, p) for p in range(1, 9)) for i in range(24)]
    assert found[at].tolist() == wanted
  assert 0 < found.sum() < found.size


def test_tools_by_their_names(folder, tokenizer, mesh):
  tools = make_tools({'calculator': {'digits': 3}, 'search': {}}, where='tools')
  assert list(tools) == ['search', 'calculator']  # the first is who is asked without a name
  assert tools['calculator']('2 / 3') == '0.667'
  assert list(make_tools({'calculator': {}}, where='tools')) == ['calculator']
  with pytest.raises(BadInput, match="did you mean 'calculator'"):
    make_tools({'calculater': {}}, where='tools')
  with pytest.raises(
    BadInput, match=r"annotate\.sample\.tools\.calculator: unknown option 'digit'"
  ):
    make_tools({'calculator': {'digit': 3}}, where='annotate.sample.tools')


def test_with_tools_a_rollout_has_room_for_their_results(folder, tokenizer, mesh):
  made = artifact.load(folder, mesh)
  annotate = sample.make(
    made.model,
    tokenizer,
    mesh=mesh,
    template=None,
    max_new=NEW,
    rescore=True,
    tools={'calculator': {}},
    max_calls=3,
    max_result=8,
  )
  assert annotate.rows(5) == (1, 5 + NEW + 3 * 8)
  out = annotate(made.params, asked(mesh), jax.random.key(0))
  assert out['tokens'].shape == (4, 1, 5 + NEW + 24)
  np.testing.assert_allclose(out['old_logp'] * out['mask'], out['sampled_logp'], atol=1e-4)
  assert out['log/tool_calls'].shape == (4,)


def test_the_engine_answers_no_calls(folder, tokenizer, mesh):
  model = artifact.load(folder, mesh).model
  with pytest.raises(BadInput, match='engine=True answers no calls'):
    sample.make(model, tokenizer, mesh=mesh, template=None, engine=True, tools={'calculator': {}})


def test_bad_input(tokenizer, mesh):
  model = transformer.make(**SHAPE)
  make = lambda model=model, **options: sample.make(
    model, tokenizer, mesh=mesh, template=None, **options
  )
  for shape in (dict(causal=False), dict(head='scalar')):
    with pytest.raises(BadInput, match='only a causal language model can answer'):
      make(transformer.make(**SHAPE, **shape))
  with pytest.raises(BadInput, match='top_k 0; choose a whole number from 1'):
    make(top_k=0)
  with pytest.raises(BadInput, match='max_new 0; choose a whole number from 1'):
    make(max_new=0)
  with pytest.raises(BadInput, match='the batch has no prompt'):
    make()({}, {'tokens': jnp.zeros((1, 1))}, jax.random.key(0))
