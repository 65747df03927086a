"""Five lines of Python: what a loaded model says and scores is what the jobs say and score."""

import functools
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llm_jax
from llm_jax import artifact, main
from llm_jax import model as models
from llm_jax.losses import reward
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text import chat
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.text.visible import visible
from llm_jax.types import BadInput
from tests.configs_test import config_of
from tests.jobs.convert_test import settings, theirs

SHAPE = dict(name='transformer', vocab_size=320, dim=16, num_layers=1, num_heads=2, max_length=256)
COMPUTE = {'scan_layers': False}
PROMPTS = ['The answer', 'user', 'Is it 12?']
TALK = [{'role': 'user', 'content': 'The answer?'}]


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Untrained models: of plain text, of conversations, and of rewards."""
  root = tmp_path_factory.mktemp('models')
  for name, head in (('base', 'tied'), ('talk', 'tied'), ('judge', 'scalar')):
    template = None if name == 'base' else 'llm_jax'
    tokenizer = Tokenizer.train(['user assistant The answer is $12.'] * 50, vocab_size=320)
    group = SHAPE | {'head': head}
    model = artifact.build(group)
    params = jax.jit(model.init)(jax.random.key(3), jnp.zeros((1, 1), jnp.int32))
    config = {'model': group, 'data': {'template': template} if template else {}}
    artifact.save(root / name, artifact.Artifact(model, params, tokenizer, config))
  return root


@pytest.fixture(scope='module')
def loaded(runs):
  mesh = make_mesh(data=1, devices=jax.devices()[:1])
  return {path.name: llm_jax.load(path, mesh=mesh, compute=COMPUTE) for path in runs.iterdir()}


def test_importing_the_package_imports_nothing():
  code = 'import sys, llm_jax; assert not {"jax", "numpy"} & {*sys.modules}; llm_jax.nothing'
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert "AttributeError: module 'llm_jax' has no attribute 'nothing'" in done.stderr


@pytest.mark.parametrize('name', ['base', 'talk'])
def test_it_says_what_job_sample_prints(name, runs, loaded, capsys):
  c = config_of('sample')
  c.artifact, c.prompts, c.seed = str(runs / name), tuple(PROMPTS), 5
  c.sample.max_new, c.mesh.fsdp = 8, 1
  with c.unlocked():
    c.compute = COMPUTE
  main.run(c)
  printed = capsys.readouterr().out
  answers = loaded[name].generate(PROMPTS, max_new=8, temperature=0.8, top_p=0.95, seed=5)
  assert len(answers) == 3 and any(answers)
  between = '\n' if name == 'talk' else ''
  shown = ''.join(f'{p}{between}{a}\n{"-" * 40}\n' for p, a in zip(PROMPTS, answers, strict=True))
  assert printed == visible(shown)


def test_seeds_and_batches(loaded):
  model = loaded['base']
  say = lambda **how: model.generate(PROMPTS, max_new=8, temperature=1.0, **how)
  assert say(seed=1) == say(seed=1) != say(seed=2)
  greedy = lambda size: model.generate(PROMPTS, max_new=8, temperature=0.0, batch_size=size)
  assert greedy(1) == greedy(2) == greedy(None)
  assert model.generate(PROMPTS[0], max_new=8, temperature=0.0) == greedy(None)[:1]


def test_what_was_compiled_is_used_again(loaded):
  model = loaded['base']
  say = lambda prompt, seed: model.generate(prompt, max_new=7, temperature=0.5, seed=seed)
  say('a', 0)
  model.logprobs('a')
  sampler = model._samplers[7, '{}', ('temperature', '0.5')]
  before = sampler._whole._cache_size(), model._logp._cache_size()
  for i, prompt in enumerate(PROMPTS):
    say(prompt, i)
    model.logprobs(prompt)
  assert (sampler._whole._cache_size(), model._logp._cache_size()) == before == (1, before[1])


@pytest.mark.parametrize('temperature', [0.0, 1.0])
def test_a_stream_is_the_answer_in_pieces(temperature, loaded):
  for name, prompt in (('base', 'user'), ('talk', TALK)):
    model, how = loaded[name], dict(max_new=24, temperature=temperature, seed=4)
    pieces = list(model.stream(prompt, **how))
    assert len(pieces) > 1
    assert ''.join(pieces) == model.generate([prompt], **how)[0]


def test_a_stream_that_nobody_reads_ends(loaded):
  pieces = loaded['base'].stream('user', max_new=200, temperature=1.0)
  assert next(pieces)
  pieces.close()  # waits for its thread


def test_a_chat_goes_on(loaded):
  model = loaded['talk']
  said = model.chat(TALK, max_new=8, temperature=1.0, seed=1)
  assert said['role'] == 'assistant'
  assert model.chat([*TALK, said, *TALK], max_new=4)['role'] == 'assistant'
  with pytest.raises(BadInput, match='taught no conversation'):
    loaded['base'].chat(TALK)


def test_tools_are_listed_and_an_unknown_one_is_named(loaded):
  talk, greedy = loaded['talk'], dict(max_new=8, temperature=0.0)
  told = [{'role': 'system', 'content': 'Tools: calculator, spell'}, *TALK]
  tools = {'spell': {}, 'calculator': {'digits': 3}}
  assert talk.generate([TALK], tools=tools, **greedy) == talk.generate([told], **greedy)
  assert talk.chat(TALK, tools=tools, **greedy) == talk.chat(told, **greedy)
  with pytest.raises(BadInput, match="no 'calculatr'; did you mean 'calculator'"):
    talk.generate([TALK], tools={'calculatr': {}})
  with pytest.raises(BadInput, match='exceed the 256 positions'):  # with room for the results
    talk.generate([TALK], tools=tools, max_new=150)


def test_logprobs_are_those_of_the_model(loaded):
  model = loaded['base']
  for text, found in zip(PROMPTS, model.logprobs(PROMPTS, batch_size=2), strict=True):
    ids = [*model.tokenizer.begin, *model.tokenizer.encode(text)]
    logits_LV = jax.jit(model.model.apply)(model.params, jnp.array([ids]))[0][0]
    wanted = jax.nn.log_softmax(logits_LV)[jnp.arange(len(ids) - 1), jnp.array(ids[1:])]
    np.testing.assert_allclose(found, wanted[len(model.tokenizer.begin) - 1 :], atol=1e-5)


def test_the_score_of_an_answer_is_the_sum_over_its_tokens(loaded):
  model, answers = loaded['base'], [' is 12.', 'user']
  for answer, found in zip(answers, model.score('The', answers), strict=True):
    whole, (alone,) = model.logprobs(f'The{answer}')[0], model.logprobs('The')
    assert found == pytest.approx(whole[len(alone) :].sum(), abs=1e-4)
  model = loaded['talk']
  said = [*TALK, {'role': 'assistant', 'content': 'It is $12.'}]
  ids, mask = chat.encode(model.tokenizer, chat.pieces(said))
  logits_LV = jax.jit(model.model.apply)(model.params, jnp.array([ids]))[0][0]
  logp = jax.nn.log_softmax(logits_LV)[jnp.arange(len(ids) - 1), jnp.array(ids[1:])]
  (found,) = model.score(TALK, 'It is $12.')
  assert found == pytest.approx(float((logp * jnp.array(mask[1:])).sum()), abs=1e-4)


def test_a_reward_model_scores_and_says_nothing(loaded):
  model, answers = loaded['judge'], ['It is $12.', 'user', 'assistant The answer']
  for answer, found in zip(answers, model.score(TALK, answers, batch_size=2), strict=True):
    ids, _ = chat.encode(
      model.tokenizer, chat.pieces([*TALK, {'role': 'assistant', 'content': answer}])
    )
    batch = {'tokens': jnp.array([ids]), 'segment': jnp.ones((1, len(ids)), jnp.int32)}
    (wanted,) = jax.jit(functools.partial(reward.answer_scores, model.model))(model.params, batch)
    assert found == pytest.approx(float(wanted), abs=1e-5)
  for speak in (model.generate, model.logprobs, lambda text: list(model.stream(text))):
    with pytest.raises(BadInput, match='reward model'):
      speak('user')


def test_a_folder_of_theirs_is_as_good_as_its_artifact(tmp_path):
  source = theirs(tmp_path / 'theirs', dtype=np.float32, max_length=128)
  main.run(settings(source=source, workdir=tmp_path / 'ours'))
  mesh = make_mesh(data=1, devices=jax.devices()[:1])
  both = [llm_jax.load(path, mesh=mesh) for path in (source, tmp_path / 'ours')]
  first, second = (model.generate('Hello', max_new=8, temperature=0.0) for model in both)
  assert first == second
  np.testing.assert_array_equal(both[0].logprobs('Hello')[0], both[1].logprobs('Hello')[0])


@pytest.mark.parametrize(
  'call, said',
  [
    (lambda m: m.generate([]), 'no prompts'),
    (lambda m: m.generate('a', max_new=1000), 'exceed the 256 positions'),
    (lambda m: m.generate('a', temprature=1.0), "unknown option 'temprature'"),
    (lambda m: m.generate('a', max_new=0), 'max_new 0'),
    (lambda m: m.logprobs('12' * 400), 'the model has 256 positions'),
    (lambda m: m.logprobs([]), 'a text without a token'),
    (lambda m: m.generate('a', batch_size=0), 'batch_size 0'),
    (lambda m: m.score('a', ['b'], batch_size=0), 'batch_size 0'),
  ],
)
def test_bad_input_is_one_line(call, said, loaded):
  with pytest.raises(BadInput, match=said):
    call(loaded['base'])


def test_a_folder_that_holds_no_model(tmp_path, runs):
  with pytest.raises(BadInput, match='no folder'):
    llm_jax.load(tmp_path / 'none')
  shutil.copytree(runs / 'base', tmp_path / 'half')
  (tmp_path / 'half' / artifact.FILE).unlink()
  with pytest.raises(BadInput, match='unfinished'):
    llm_jax.load(tmp_path / 'half')
  assert models.load is llm_jax.load
