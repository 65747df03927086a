"""From a base model to an assistant, a judge and an aligned model: every supervised stage."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import distill, dpo, kto, orpo, reward, sft, simpo
from llm_jax import artifact
from llm_jax.losses.reward import answer_scores
from llm_jax.main import run
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text import chat, folder
from llm_jax.text.tokenizer import BOS, Tokenizer
from llm_jax.training import metrics
from llm_jax.training.step import compile_step
from llm_jax.types import BadInput

ROOT = Path(__file__).parents[2]
SHAPE = dict(
  name='transformer', vocab_size=320, dim=16, num_layers=2, num_heads=2, max_length=96,
)  # fmt: skip
STAGES = {'reward': reward, 'dpo': dpo, 'kto': kto, 'orpo': orpo, 'simpo': simpo}
NUMBERS = ['one', 'two', 'three', 'four', 'five', 'six']


def write_data(folder):
  """Questions about numbers, as conversations and as pairs."""
  say = lambda role, text: {'role': role, 'content': text}
  talks, pairs = [], []
  for i in range(120):
    a, b = NUMBERS[i % 6], NUMBERS[(i * 5 + 1) % 6]
    ask = [say('user', f'{a} and {b}, item {i}')]
    talks.append({'messages': [*ask, say('assistant', f'it is {a}')]})
    chosen, rejected = [say('assistant', f'it is {a}')], [say('assistant', f'no, {b} {b}')]
    pairs.append({'prompt': ask, 'chosen': chosen, 'rejected': rejected, 'margin': i % 4})
  for name, rows in (('talks', talks), ('pairs', pairs)):
    (folder / f'{name}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


def write_base(path, tokenizer, seed=0, **shape):
  """An untrained model as an artifact."""
  group = SHAPE | shape
  model = artifact.build(group)
  params = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))
  artifact.save(path, artifact.Artifact(model, params, tokenizer, {'model': group, 'data': {}}))


def shrunk(c, root, workdir):
  """A stage's config on the data below `root`, with everything made small."""
  c.workdir = str(root / workdir)
  c.model.update({k: v for k, v in SHAPE.items() if k != 'name'})
  c.compute.scan_layers = True
  c.data.sources = ConfigDict({'mine': str(root / 'pairs.jsonl')})
  c.data.length, c.data.validation_fraction = 80, 0.2
  c.total_steps, c.batch_size, c.accumulate = 4, 8, 2
  c.log_every, c.eval_every, c.checkpoint_every = 1, 2, 2
  c.optimizer.update(name='adamw', learning_rate=3e-3, warmup_steps=1)
  c.evals.validation.max_rows = 10
  c.sample.prompts = ()
  c.mesh.fsdp = 1
  return c


def sft_config(root, workdir):
  c = shrunk(sft.get_config(), root, workdir)
  c.compute.scan_layers = True
  c.data.sources = ConfigDict({'mine': str(root / 'talks.jsonl')})
  c.init.params = str(root / 'base')
  return c


def test_every_config_of_a_later_stage_is_run_here():
  trained = {
    path.stem
    for path in (ROOT / 'configs').glob('*.py')
    if 'configs import preference' in path.read_text() or path.stem in ('sft', 'distill')
  }
  assert trained == {*STAGES, 'sft', 'distill'}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A folder with data, an untrained `base`, and `sft` made from it. Not to be written to."""
  root = tmp_path_factory.mktemp('stages')
  write_data(root)
  texts = ['user', 'assistant', *(f'{a} and {b}, item 0' for a in NUMBERS for b in NUMBERS)]
  texts += [f'it is {a}' for a in NUMBERS] + [f'no, {a} {a}' for a in NUMBERS]
  tokenizer = Tokenizer.train(texts * 20, vocab_size=310)
  write_base(root / 'base', tokenizer)
  write_base(root / 'stranger', Tokenizer.train(['quite other words'] * 20, vocab_size=290))
  c = sft_config(root, 'sft')
  c.sample.prompts, c.sample.max_new = ('one and two, item 1',), 4
  run(c)
  return root


def stage(root, tmp_path, name):
  c = shrunk(STAGES[name].get_config(), root, tmp_path / 'run')
  c.init.params = str(root / 'sft')
  return c


def records(c):
  return metrics.read(c.workdir)


def params_of(path):
  return jax.device_get(artifact.load(path, make_mesh(data=1)).params)


def test_sft_leaves_a_model_that_knows_its_template(root):
  made = artifact.load(root / 'sft', make_mesh(data=1))
  assert made.stage == 'sft' and made.parent == str(root / 'base')
  assert 'generation %}' in made.tokenizer.chat_template
  found = [r for r in metrics.read(root / 'sft') if 'loss' in r]
  assert found[-1]['loss'] < found[0]['loss']
  assert {'entropy', 'trained_tokens', 'response_length', 'grad_norm'} <= set(found[0])


def test_a_foreign_tokenizer_gets_the_tokens_of_a_template(root, tmp_path):
  """As rows of embedding and head that begin as the mean of the others; the rest is the donor's."""
  pytest.importorskip('tokenizers')
  tokenizer = folder.load(ROOT / 'tests' / 'fixtures' / 'tokenizers' / 'byte_level')
  known, shape = tokenizer.vocab_size, dict(vocab_size=761, head='untied')
  write_base(tmp_path / 'base', tokenizer, **shape)
  c = sft_config(root, tmp_path / 'run')
  c.init.params, c.init.fresh, c.data.template = str(tmp_path / 'base'), (), 'llm_jax'
  c.init.add = tuple(n for n in chat.specials('llm_jax') if n not in (*tokenizer.specials, BOS))
  c.model.update(vocab_size=known + len(c.init.add), head='untied')
  c.total_steps, c.optimizer.learning_rate = 1, 0.0
  c.eval_every = c.checkpoint_every = 1
  run(c)
  made = artifact.load(c.workdir, make_mesh(data=1))
  assert [made.tokenizer.special(name) for name in c.init.add] == [*range(known, known + 7)]
  before, after = params_of(tmp_path / 'base'), jax.device_get(made.params)
  for group, name in (('embedding', 'table'), ('head', 'kernel')):
    old, new = (x[group][name].T if group == 'head' else x[group][name] for x in (before, after))
    np.testing.assert_array_equal(new[:known], old)
    np.testing.assert_allclose(new[known:], np.tile(old.mean(0), (7, 1)), rtol=1e-4, atol=1e-7)
  c.model.vocab_size = 762
  c.workdir = str(tmp_path / 'small')
  with pytest.raises(BadInput, match=r'set config\.model\.vocab_size=768'):
    run(c)


def test_added_tokens_need_a_stage_that_can_train_them(root, tmp_path):
  c = stage(root, tmp_path, 'dpo')
  c.init.add = ('<x>',)
  with pytest.raises(BadInput, match=r'reference.* knows none of the tokens of init\.add'):
    run(c)
  c = sft_config(root, tmp_path / 'lora')
  c.init.add, c.model.lora = ('<x>',), ConfigDict({'rank': 2})
  with pytest.raises(BadInput, match=r'init: add with model\.lora'):
    run(c)


@pytest.mark.parametrize('name', STAGES)
def test_every_stage_runs_after_sft_and_logs_what_it_must(root, tmp_path, name):
  c = stage(root, tmp_path, name)
  run(c)
  found = [r for r in records(c) if 'loss' in r]
  assert len(found) == 4 and np.isfinite([r['loss'] for r in found]).all()
  wanted = {'grad_norm', 'response_length', 'trained_tokens'}
  if name != 'kto':
    wanted |= {'accuracy', 'margin'}
  if name != 'reward':
    wanted |= {'chosen_logp', 'rejected_logp', 'entropy'}
  if name in ('dpo', 'kto'):
    wanted |= {'kl'}
    assert abs(found[0]['kl']) < 1e-5  # it starts at its reference
  assert wanted <= set(found[0])
  assert any('validation/loss' in r for r in records(c))
  assert artifact.describe(c.workdir)['parent'] == str(root / 'sft')


def test_dpo_starts_at_log_two_and_its_cache_serves_the_next_run(root, tmp_path, monkeypatch):
  c = stage(root, tmp_path, 'dpo')
  c.annotate.reference.cache = str(tmp_path / 'shared')
  run(c)
  first = [r for r in records(c) if 'loss' in r]
  assert first[0]['loss'] == pytest.approx(math.log(2), abs=1e-5)
  assert first[-1]['margin'] > 0
  c.workdir = str(tmp_path / 'again')
  monkeypatch.setattr('llm_jax.annotate.reference.score', None)  # nobody asks the reference
  run(c)
  again = [r for r in records(c) if 'loss' in r]
  assert [r['loss'] for r in again] == [r['loss'] for r in first]


def test_the_reward_of_reference_answers_is_zero_on_average(root, tmp_path):
  c = stage(root, tmp_path, 'reward')
  c.centre = ConfigDict(dict(scale=True))
  run(c)
  made = artifact.load(c.workdir, make_mesh(data=1))
  from llm_jax.data import preferences

  rows = preferences.make(
    made.tokenizer, sources=dict(c.data.sources), split='validation', length=80,
    validation_fraction=0.2,
  )  # fmt: skip
  batch = {k: np.stack([row[k] for row in rows]) for k in rows[0]}
  scores = jax.jit(lambda p: answer_scores(made.model, p, batch))(made.params)
  np.testing.assert_allclose(scores[:, 0].mean(), 0, atol=1e-5)
  np.testing.assert_allclose(scores[:, 0].std(), 1, rtol=0.1)
  # Every record said the same about which answer is better, so it is no harder than that.
  assert [r for r in records(c) if 'validation/loss' in r][-1]['validation/accuracy'] >= 0.5


def test_distillation_from_scratch_brings_the_student_closer(root, tmp_path):
  c = shrunk(distill.get_config(), root, tmp_path / 'student')
  c.compute.scan_layers = True
  c.data.sources = ConfigDict({'mine': str(root / 'talks.jsonl')})
  c.annotate.teacher.path, c.annotate.teacher.top_k = str(root / 'sft'), 16
  c.model.num_layers = 1
  run(c)
  found = [r['loss'] for r in records(c) if 'loss' in r]
  assert found[-1] < found[0]
  assert artifact.load(c.workdir, make_mesh(data=1)).model.shape.num_layers == 1


@pytest.mark.parametrize('name', ['sft', 'dpo', 'reward'])
def test_lora_changes_little_and_publishes_a_whole_model(root, tmp_path, name, monkeypatch):
  states = []

  def seen(state, *args, **kwargs):
    states.append(state)
    return compile_step(state, *args, **kwargs)

  monkeypatch.setattr('llm_jax.jobs.train.compile_step', seen)
  c = sft_config(root, tmp_path / 'run') if name == 'sft' else stage(root, tmp_path, name)
  c.model.lora = ConfigDict(dict(rank=2))
  if name == 'dpo':
    c.annotate.reference.path = ''  # the frozen base is its own reference
  run(c)
  (state,) = states
  moments = [x.size for x in jax.tree.leaves(state.opt_state)]
  assert sum(moments) < 0.5 * sum(x.size for x in jax.tree.leaves(state.params['base']))
  donor, made = params_of(c.init.params), params_of(c.workdir)
  assert 'lora' not in artifact.describe(c.workdir)['model']
  same = lambda part: np.array_equal(donor['blocks'][part]['scale'], made['blocks'][part]['scale'])
  assert same('mlp_norm') and same('attention_norm')
  assert not np.array_equal(donor['blocks']['mlp']['up'], made['blocks']['mlp']['up'])
  if name == 'reward':
    assert np.abs(made['head']['scalar']).max() > 0
  if name == 'dpo':
    assert records(c)[0]['loss'] == pytest.approx(math.log(2), abs=1e-5)


@pytest.fixture
def compiled(monkeypatch):
  """Fails where a step is compiled: bad input has to be told before."""
  monkeypatch.setattr(
    'llm_jax.jobs.train.compile_step', lambda *args, **kwargs: pytest.fail('compiled')
  )


def refused(c, *parts):
  with pytest.raises(BadInput) as error:
    run(c)
  message = str(error.value)
  assert '\n' not in message
  for part in parts:
    assert part in message, message


def test_a_reward_model_is_no_policy(root, tmp_path, compiled):
  write_base(tmp_path / 'judge', artifact.load(root / 'sft', make_mesh(data=1)).tokenizer,
             head='scalar')  # fmt: skip
  c = stage(root, tmp_path, 'dpo')
  c.init.params = str(tmp_path / 'judge')
  refused(c, f"'{tmp_path / 'judge'}' is a reward model", f"'{c.workdir}' trains a policy")
  c = stage(root, tmp_path, 'dpo')
  c.annotate.reference.path = str(tmp_path / 'judge')
  refused(c, str(tmp_path / 'judge'), 'is a reward model')


def test_another_tokenizer_names_both_folders(root, tmp_path, compiled):
  c = stage(root, tmp_path, 'dpo')
  c.annotate.reference.path = str(root / 'stranger')
  refused(c, f"'{root / 'stranger'}' has another tokenizer than '{root / 'sft'}'")


@pytest.mark.parametrize(
  'name, changes, parts',
  [
    ('dpo', dict(loss=dict(kind='sigmod')), ["did you mean 'sigmoid'"]),
    ('dpo', dict(loss=dict(kind='hinge', label_smoothing=0.1)), ['hinge', 'label_smoothing']),
    ('dpo', dict(loss=dict(preset='trll')), ["loss.preset: no 'trll'", "did you mean 'trl"]),
    ('dpo', dict(data=dict(template='llama_3')), ["did you mean 'llama3'"]),
    ('dpo', dict(data=dict(invalid='ignore')), ["data: invalid 'ignore'"]),
    ('dpo', dict(data=dict(group=1)), ['group']),
    ('dpo', dict(model=dict(lora=dict(rank=0))), ['model.lora: rank 0']),
    ('dpo', dict(annotate=dict(reference=dict(path='runs/nowhere'))), ["no folder 'runs/nowhere'"]),
    ('reward', dict(init=dict(fresh=())), ['head/scalar: wanted (16,), found nothing', 'fresh']),
    ('reward', dict(loss=dict(margin='huge')), ["margin 'huge'"]),
    ('simpo', dict(loss=dict(beta=-1.0)), ['beta']),
  ],
  ids=lambda value: json.dumps(value) if isinstance(value, dict) else '',
)
def test_options_that_cannot_work(root, tmp_path, compiled, name, changes, parts):
  c = stage(root, tmp_path, name)
  for group, value in changes.items():
    c[group].update(ConfigDict(value))
  refused(c, *parts)


def test_the_shape_of_a_preset_is_overridden_by_the_config(root, tmp_path):
  c = stage(root, tmp_path, 'dpo')
  c.loss = ConfigDict(dict(name='dpo', preset='openrlhf_ipo', beta=0.5))
  c.total_steps = 1
  run(c)
  # IPO at the reference: (0 - 1 / (2 beta))^2, whatever it averages over.
  assert [r['loss'] for r in records(c) if 'loss' in r] == [pytest.approx(1.0, abs=1e-4)]
