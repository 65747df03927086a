"""Generation: neighbours and padding do not matter, and the trainer sees what the sampler saw."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.losses.logprobs import score
from llm_jax.models.transformer import make
from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.parallel.parameters import shardings
from llm_jax.sampling import pick
from llm_jax.sampling.generate import generate, left_pad
from llm_jax.types import BadInput

SMALL = dict(vocab_size=19, dim=16, num_layers=2, num_heads=4, num_kv_heads=2, hidden_dim=24)
VARIANTS = {
  'llama': {},
  'windowed': dict(window=3, attention_softcap=2.0, qk_norm=True),
  'gpt2': dict(norm='layer', mlp='gelu', position='learned', bias=True, num_kv_heads=4),
}
PROMPTS = [[5, 3, 8, 1, 12], [7], [2, 2, 9]]
NEW = 6


@functools.cache
def build(variant='llama'):
  model = make(**(SMALL | dict(max_length=32) | VARIANTS[variant]))
  token = jnp.zeros((1, 1), jnp.int32)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), token))
  draw = np.random.default_rng(0)
  return model, jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.6, x.shape), x.dtype), shapes)


def run(model, params, prompts, *, stop=(), max_new=NEW, seed=0, multiple=1, **how):
  prompt_BP, mask_BP = left_pad(prompts, multiple=multiple)
  sample = compiled(model, max_new, stop, **how)
  return jax.device_get(sample(params, prompt_BP, mask_BP, jax.random.key(seed)))


@functools.cache
def compiled(model, max_new, stop, **how):
  return jax.jit(
    functools.partial(generate, model=model, max_new=max_new, stop=stop, pick=pick.make(**how))
  )


def answers(out):
  return [t[m > 0].tolist() for t, m in zip(out['tokens'], out['mask'], strict=True)]


@pytest.mark.parametrize('variant', VARIANTS)
def test_each_prompt_is_as_if_alone(variant):
  model, params = build(variant)
  together = run(model, params, PROMPTS, temperature=0)
  wide = run(model, params, PROMPTS, temperature=0, multiple=8)  # more padding on the left
  assert answers(wide) == answers(together)
  for i, prompt in enumerate(PROMPTS):
    alone = run(model, params, [prompt], temperature=0, multiple=8)
    assert answers(alone)[0] == answers(together)[i]
    np.testing.assert_allclose(
      alone['old_logp'][0, -NEW:], together['old_logp'][i, -NEW:], atol=1e-5
    )


def test_greedy_is_argmax_of_the_whole_row_each_time():
  model, params = build()
  row = list(PROMPTS[0])
  apply = jax.jit(model.apply)
  for _ in range(NEW):
    padded = np.array([row + [0] * (len(PROMPTS[0]) + NEW - len(row))])  # causal: blind to it
    row.append(int(apply(params, padded)[0][0, len(row) - 1].argmax()))
  out = run(model, params, PROMPTS[:1], temperature=0, multiple=8)
  assert answers(out)[0] == row[-NEW:]


@pytest.mark.parametrize(
  ('variant', 'temperature'), [*((variant, 0.7) for variant in VARIANTS), ('llama', 1.0)]
)
def test_old_logp_is_the_score_of_the_trainer(variant, temperature):
  model, params = build(variant)
  # Stop ids make rows of different lengths.
  out = run(model, params, PROMPTS * 3, stop=tuple(range(0, 19, 2)), temperature=temperature)
  assert len({len(a) for a in answers(out)}) > 1
  batch = {k: jnp.asarray(out[k]) for k in ('tokens', 'position', 'segment')}
  logp = jax.jit(lambda p, b: score(model, p, b, temperature=temperature))(params, batch)
  np.testing.assert_allclose(logp * out['mask'], out['old_logp'], atol=1e-4)
  assert (out['old_logp'][out['mask'] > 0] < 0).all()


def test_fields_of_the_batch():
  model, params = build()
  out = run(model, params, PROMPTS, multiple=4, temperature=1.0)
  prompt_BP, mask_BP = left_pad(PROMPTS, multiple=4)
  width = prompt_BP.shape[1]
  assert width == 8
  assert {k: (v.shape, str(v.dtype)) for k, v in out.items()} == {
    k: ((3, width + NEW), 'float32' if k in ('mask', 'old_logp', 'sampled_logp') else 'int32')
    for k in ('tokens', 'mask', 'old_logp', 'sampled_logp', 'position', 'segment')
  }
  np.testing.assert_array_equal(out['tokens'][:, :width], prompt_BP)
  np.testing.assert_array_equal(out['segment'][:, :width], mask_BP)
  assert (out['segment'][:, width:] == 1).all() and (out['mask'][:, width:] == 1).all()
  assert not out['mask'][:, :width].any() and not out['old_logp'][:, :width].any()
  for prompt, position in zip(PROMPTS, out['position'], strict=True):
    count = len(prompt) + NEW
    np.testing.assert_array_equal(position[-count:], np.arange(count))
    assert not position[:-count].any()


def test_a_stop_id_ends_its_row_and_belongs_to_it():
  model, params = build()
  free = answers(run(model, params, PROMPTS, seed=1, max_new=12))
  stop = free[0][4]
  out = run(model, params, PROMPTS, seed=1, max_new=12, stop=(stop, 10**6))
  for full, cut, tokens, mask, logp, segment in zip(
    free, answers(out), *(out[k] for k in ('tokens', 'mask', 'old_logp', 'segment')), strict=True
  ):
    count = full.index(stop) + 1 if stop in full else len(full)
    assert cut == full[:count]
    after = slice(-12 + count, None) if count < 12 else slice(0, 0)
    for field in (tokens, mask, logp, segment):
      assert not field[after].any()
  assert len(answers(out)[0]) <= 5


def test_the_end_of_all_rows_is_the_end():
  model, params = build()
  out = run(model, params, PROMPTS, stop=tuple(range(19)))  # whatever comes first
  assert [len(a) for a in answers(out)] == [1, 1, 1]
  start = out['tokens'].shape[1] - NEW
  for k in ('tokens', 'mask', 'old_logp', 'sampled_logp', 'segment', 'position'):
    assert not out[k][:, start + 1 :].any()


def test_one_seed_one_answer():
  model, params = build()
  ask = lambda seed: answers(run(model, params, PROMPTS, multiple=4, temperature=1.0, seed=seed))
  first, second, other = ask(5), ask(5), ask(6)
  assert first == second != other


def test_steps_and_rows_draw_apart():
  model, params = build()
  flat = jax.tree.map(jnp.zeros_like, params)  # every token equally likely
  found = answers(run(model, flat, [[1]] * 4, max_new=20))
  assert len({tuple(row) for row in found}) == 4
  assert all(len(set(row)) > 5 for row in found)


def test_left_pad():
  ids, mask = left_pad([[1, 2, 3], [4]])
  assert ids.tolist() == [[1, 2, 3], [0, 0, 4]] and mask.tolist() == [[1, 1, 1], [0, 0, 1]]
  ids, mask = left_pad([[1, 2, 3], [4]], multiple=4)
  assert ids.tolist() == [[0, 1, 2, 3], [0, 0, 0, 4]]
  assert left_pad([[0]])[1].tolist() == [[1]]  # id 0 can be a token


@pytest.mark.parametrize('prompts', [[], [[1], []]], ids=str)
def test_an_empty_prompt_is_refused(prompts):
  with pytest.raises(BadInput, match='empty prompt; give at least one token'):
    left_pad(prompts)


def test_a_group_shares_its_prompt_and_an_answer_depends_on_nothing_else():
  model, params = build()
  prompt_BP, mask_BP = left_pad(PROMPTS)
  options = dict(model=model, max_new=NEW, stop=(4,), pick=pick.make(temperature=1.5))

  def sample(group, rows=slice(None)):
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(jnp.arange(3))[rows]
    run = jax.jit(functools.partial(generate, group=group, **options))
    found = answers(jax.device_get(run(params, prompt_BP[rows], mask_BP[rows], keys)))
    return [found[i : i + group] for i in range(0, len(found), group)]

  four = sample(4)
  assert len({tuple(answer) for answer in four[0]}) > 1
  assert [two[:2] for two in four] == sample(2)
  assert sample(2, rows=slice(1, 3)) == [two[:2] for two in four[1:]]


def test_how_the_cache_grows_changes_nothing(monkeypatch):
  model, params = build()
  ask = lambda: run(model, params, PROMPTS, stop=(4,), temperature=1.5, seed=3)
  whole = ask()
  monkeypatch.setattr('llm_jax.sampling.generate.GROW', 2)
  compiled.cache_clear()
  parts = ask()
  compiled.cache_clear()
  assert answers(parts) == answers(whole)
  for k in ('old_logp', 'sampled_logp', 'position', 'segment'):
    np.testing.assert_allclose(parts[k], whole[k], atol=1e-5)


def test_a_row_without_a_prompt_gets_no_answer():
  model, params = build()
  prompt_BP, mask_BP = left_pad(PROMPTS)
  mask_BP[1] = 0
  run = jax.jit(functools.partial(generate, model=model, max_new=NEW, stop=(), pick=pick.make()))
  out = jax.device_get(run(params, prompt_BP, mask_BP, jax.random.key(0)))
  assert [len(answer) for answer in answers(out)] == [NEW, 0, NEW]
  assert not out['segment'][1].any()


def test_eight_devices_sample_what_one_does():
  model, params = build()
  prompt_BP, mask_BP = left_pad([*PROMPTS, [3, 1]])
  options = dict(model=model, max_new=NEW, stop=(4,), pick=pick.make(temperature=0.7), group=2)

  def sample(**axes):
    mesh = make_mesh(**axes)
    with jax.set_mesh(mesh):
      rows = shard_batch({'prompt': prompt_BP, 'mask': mask_BP}, mesh)
      placed = jax.device_put(params, shardings(params, mesh))
      run = jax.jit(functools.partial(generate, **options))
      out = run(placed, rows['prompt'], rows['mask'], jax.random.key(0))
      batch = {k: out[k] for k in ('tokens', 'position', 'segment')}
      logp = jax.jit(lambda p, b: score(model, p, b, temperature=0.7))(placed, batch)
      np.testing.assert_allclose(logp * out['mask'], out['old_logp'], atol=1e-4)
      return jax.device_get(out)

  one, eight = sample(data=1), sample(data=2, fsdp=2, tensor=2)
  assert answers(one) == answers(eight)
  np.testing.assert_allclose(one['old_logp'], eight['old_logp'], atol=1e-5)
