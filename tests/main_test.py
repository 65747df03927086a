"""The command line: what a config lists, what may be added, and what is refused in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import llm_jax
from llm_jax import main
from llm_jax.types import BadInput


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(Path(__file__).parents[1])


def read(*options):
  return main.read_config(['main', '--config=configs/dpo.py', *options])


def test_a_listed_field_keeps_its_type_and_what_refers_to_it_follows():
  c = read('--config.workdir=runs/x', '--config.init.params=runs/y', '--config.total_steps=7')
  assert (c.total_steps, c.annotate.reference.path) == (7, 'runs/y')
  assert c.annotate.reference.cache == 'runs/x/reference'
  c = read('--config.annotate.reference.path=runs/z')
  assert (c.annotate.reference.path, c.init.params) == ('runs/z', 'runs/tiny/sft')


def test_a_group_takes_new_fields_and_new_groups():
  c = read('--config.loss.kind=ipo', '--config.loss.beta=0.5', '--config.model.lora.rank=4')
  assert c.loss.to_dict() == {'name': 'dpo', 'kind': 'ipo', 'beta': 0.5}
  assert c.model.lora.to_dict() == {'rank': 4}


@pytest.mark.parametrize(
  'option, message',
  [
    ('--config.los.kind=ipo', "unknown field 'los.kind'"),
    ('--config.lora.rank=2', "unknown field 'lora.rank'"),
    ('--config.total_steps.x=1', "did you mean 'total_steps'"),
    ('--config.loss.kind', 'a value is missing'),
    ('--config.log_every', 'a value is missing'),
    ('--loss.kind=ipo', 'did you mean --config.loss.kind=ipo?'),
    ('--config.total_steps=abc', "total_steps cannot be 'abc'; it is a whole number, such as 100"),
    ('--config.mesh.data=two', "mesh.data cannot be 'two'; it is a whole number"),
    ('--config.loss=3', "loss cannot be '3'; it is a group"),
    ('--config.model.layers[0]=3', "unknown field 'model.layers[0]'"),
    ('--config.loss.name=', 'loss.name is empty'),
    ('--config.loss.bta=unset', "unknown field 'loss.bta'"),
    ('--config.annotate.referense=unset', "did you mean 'annotate.reference'"),
    ('--config.total_steps=unset', 'total_steps cannot be unset'),
    ('--config.job=unset', 'job cannot be unset'),
    ('--config=sft', "which config, 'configs/dpo.py' or 'sft'? give one"),
  ],
)
def test_what_is_refused(option, message):
  refused(message, option)


def refused(message, *words, source='--config=configs/dpo.py'):
  with pytest.raises(SystemExit) as error:
    main.read_config(['main', *([source] if source else []), *words])
  assert message in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
  'source, message',
  [
    ('', r'which config\? give one'),
    ('--config=dpoo', "no file 'dpoo' in .*; did you mean 'dpo'"),
    ('--config=configs/dpoo.py', "did you mean 'configs/dpo.py'"),
    ('--config=zzz', '--help lists'),
    ('--config=dpo:9z', "no size '9z'; choose from: tiny"),
    ('--config=configs/sizes.py', 'has no function get_config'),
    ('--config=configs/base.py', 'missing 2 required'),
  ],
)
def test_a_config_that_cannot_be(source, message):
  with pytest.raises(SystemExit, match=message):
    main.read_config(['main', *([source] if source else [])])


@pytest.mark.parametrize('words', [('--config', 'dpo'), ('--config=dpo',), ('--config=dpo:tiny',)])
def test_a_config_is_named_by_its_file_or_its_stem(words):
  assert main.read_config(['main', *words, '--config.seed=3']) == read('--config.seed=3')


def test_the_line_of_a_mistake_in_a_config_is_told(tmp_path):
  (tmp_path / 'mine.py').write_text('import json\nfrom configs import nothing\n')
  refused('mine.py:2: ImportError: cannot import name', source=f'--config={tmp_path}/mine.py')
  (tmp_path / 'mine.py').write_text('def get_config():\n  return {}\n')
  refused('gives no ConfigDict', source=f'--config={tmp_path}/mine.py')


# --- another name, and fields that go ------------------------------------------------------------


@pytest.mark.parametrize('order', [1, -1])
def test_another_name_drops_what_the_file_gave_to_the_old_one(order):
  words = ['--config.loss.name=mine.loss', '--config.loss.gamma=2', '--config.loss.temperature=0.7']
  c = main.read_config(['main', '--config=ppo', *words[::order]])
  assert c.loss.to_dict() == {'name': 'mine.loss', 'gamma': 2, 'temperature': 0.7}
  assert c.annotate.sample.temperature == c.annotate.reference.temperature == 1.0
  c = main.read_config(
    ['main', '--config=ppo', '--config.annotate.sample.temperature=0.9', words[0]]
  )
  assert c.loss.to_dict() == {'name': 'mine.loss'}
  assert c.annotate.reference.temperature == 0.9  # it still follows


def test_the_same_name_drops_nothing():
  assert read('--config.loss.name=dpo', '--config.data.name=preferences') == read()


PRETRAIN = {'learning_rate': 2e-2, 'embedding_rate': 6.0, 'warmup_steps': 40}  # its optimizer


@pytest.mark.parametrize(
  'source, group, left',
  [
    ('dpo', 'data', {}),
    ('dpo', 'model', {}),
    ('ppo', 'model.policy', {}),
    ('pipeline:gpt', 'sft.loss', {}),
    ('plan', 'train.data', {}),
    ('pretrain', 'optimizer', PRETRAIN),
    ('pipeline:gpt', 'pretrain.optimizer', PRETRAIN),
  ],
)
def test_every_name_but_that_of_a_group_for_one_function_drops(source, group, left):
  c = main.read_config(['main', f'--config={source}', f'--config.{group}.name=mine.other'])
  for part in group.split('.'):
    c = c[part]
  assert c.to_dict() == {'name': 'mine.other', **left}


def test_other_annotators_drop_the_options_of_those_that_are_left_out():
  words = [
    "--config.annotate.steps=('sample','mine.judge','group_advantage')",
    '--config.annotate.judge.weight=2.0',
  ]
  c = main.read_config(['main', '--config=grpo', *words])
  assert set(c.annotate) == {'steps', 'sample', 'judge', 'group_advantage'}
  assert c.annotate.judge.to_dict() == {'weight': 2.0}


def test_an_evaluation_without_a_name_is_turned_off():
  assert read('--config.evals.validation.name=').evals.validation.to_dict() == {'name': ''}


def test_a_field_or_a_group_is_unset():
  c = read('--config.annotate.reference.cache=unset', '--config.optimizer.weight_decay=unset')
  assert 'cache' not in c.annotate.reference and 'weight_decay' not in c.optimizer
  c = read('--config.annotate.reference=unset', '--config.annotate.steps=()')
  assert c.annotate.to_dict() == {'steps': ()}
  words = ['--config.annotate.reference.path=runs/y', '--config.annotate.reference=unset']
  for some in (words, words[::-1]):
    assert read(*some).annotate.reference.to_dict() == {'path': 'runs/y'}


@pytest.mark.parametrize('source, group', [('tokenize', ''), ('pretrain', 'tokenize.')])
def test_the_path_of_a_tokenizer_drops_the_options_for_training_one(source, group):
  c = main.read_config(['main', f'--config={source}', f'--config.{group}tokenizer.path=x'])
  assert (c.tokenize if group else c).tokenizer.to_dict() == {'path': 'x'}


def test_fields_of_the_job_that_the_file_does_not_list_can_be_set_and_unset():
  c = read('--config.gradients=bfloat16', '--config.stop.repetition=0.5')
  assert (c.gradients, c.stop.to_dict()) == ('bfloat16', {'repetition': 0.5})
  c = main.read_config(['main', '--config=grpo', '--config.stop=unset'])
  assert 'stop' not in c and 'rollout' in c


def test_a_field_that_is_none_takes_any_value():
  c = main.read_config(['main', '--config=best_of_n', '--config.minimum=0.5'])
  assert c.minimum == 0.5


# --- what the program says of itself ---------------------------------------------------------


def test_print_shows_what_would_run(capsys):
  main.main(['main', '--config=dpo', '--config.loss.kind=ipo', '--print'])
  told = capsys.readouterr().out.splitlines()
  assert "loss.kind = 'ipo'" in told and "annotate.steps = ('reference',)" in told
  main.main(['main', '--version'])
  assert capsys.readouterr().out.startswith(f'llm_jax {llm_jax.__version__}')


def test_usage_lists_the_configs_and_runs(tmp_path, monkeypatch, capsys):
  main.main(['main'])
  told = capsys.readouterr().out
  for name in ('dpo', 'pretrain', 'chat', 'pipeline'):
    assert f'\n  {name} ' in told
  assert (
    'sizes: tiny, 15m' in told
    and 'recipes: gpt, gpt_refuse, llama, r1' in told
    and '\n  base' not in told
  )
  monkeypatch.chdir(tmp_path)
  run = lambda name, file, about: (
    (tmp_path / 'runs' / name).mkdir(parents=True),
    (tmp_path / 'runs' / name / file).write_text(json.dumps(about)),
  )
  tuned = {'data': {'template': 'chatml'}}
  run('tiny/sft', 'artifact.json', dict(stage='sft', step=8, model={}, config=tuned))
  run('tiny/base', 'artifact.json', dict(stage='\x1b[31mred', step=8, model={}, config={}))
  run('tiny/judge', 'artifact.json', dict(stage='reward', step=8, model={'head': 'scalar'}))
  run('tiny/dpo', 'config.json', dict(stage='dpo', total_steps=9))
  run('tiny/broken', 'artifact.json', ['no', 'dict'])
  run('tiny/x; rm -r y', 'artifact.json', {})
  run('gpt/ppo', 'config.json', dict(stage='ppo', total_steps=9))
  (tmp_path / 'runs/gpt/seconds.json').touch()
  (tmp_path / 'runs/tiny/dpo/checkpoints/6').mkdir(parents=True)
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs/dpo.py').touch()
  main.main(['main', '--help'])
  told = capsys.readouterr().out
  for line in (
    '--config=chat --config.artifact=runs/tiny/sft',
    '--config=evaluate --config.artifacts="(\'runs/tiny/sft\',)"',
    '--config=sample --config.artifact=runs/tiny/base',
    '--config=ppo --config.init.critic=runs/tiny/judge',
    'runs/tiny/dpo: unfinished, at step 6 of 9; the command that began it goes on',
    '--config=dpo:tiny --config.workdir=runs/tiny/dpo',
    '--config=pipeline:gpt',
  ):
    assert line in told
  assert '\x1b' not in told and '\\x1b[31mred' in told
  assert 'runs/tiny/broken' in told and 'artifact=runs/tiny/x' not in told


def test_bad_words_are_answered_without_jax():
  """In a process of its own, for the others have imported it."""
  code = (
    'import sys; from llm_jax import main\n'
    'for words in (["--config=dpo", "--config.total_steps=x"], ["--config=dpoo"], ["--help"],\n'
    '              ["--config=dpo", "--print"], ["--version"]):\n'
    '  try: main.main(["main", *words])\n'
    '  except SystemExit as stop: print(stop)\n'
    'assert not {"jax", "flax", "numpy"} & {*sys.modules}'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert "total_steps cannot be 'x'" in done.stdout


# --- the model of an artifact ---------------------------------------------------------------------


def made(tmp_path, **shape):
  model = {'name': 'transformer', 'vocab_size': 520, 'dim': 48, 'num_layers': 3, 'num_heads': 6}
  about = {'model': model | shape, 'config': {}, 'files': {}}
  (tmp_path / 'artifact.json').write_text(json.dumps(about))
  return str(tmp_path)


@pytest.mark.parametrize('stage', ['sft', 'dpo', 'grpo', 'pretrain'])
def test_the_model_is_that_of_the_artifact_it_starts_from(stage, tmp_path):
  path = made(tmp_path, num_kv_heads=2, rope_scaling={'factor': 2.0})
  c = main.read_config(['main', f'--config={stage}', f'--config.init.params={path}'])
  wanted = json.loads((tmp_path / 'artifact.json').read_text())['model']
  assert c.model.to_dict() == wanted


def test_what_was_asked_of_the_model_stays(tmp_path):
  path = made(tmp_path, head='untied')
  c = main.read_config(['main', '--config=reward', f'--config.init.params={path}'])
  assert (c.model.head, c.model.dim) == ('scalar', 48)
  c = read(
    f'--config.init.params={path}',
    '--config.model.dim=96',
    '--config.model.lora.rank=4',
    '--config.model.window=None',
  )
  assert (c.model.dim, c.model.num_layers, c.model.lora.rank) == (96, 3, 4)
  c = main.read_config(
    ['main', '--config=ppo', f'--config.init.policy={path}', f'--config.init.critic={path}']
  )
  assert c.model.policy.dim == c.model.critic.dim == 48
  assert (c.model.policy.head, c.model.critic.head) == ('untied', 'scalar')


@pytest.mark.parametrize('text', ['', '{', '[]', '{"model": 3}', '{"model": {"dim": 3}}'])
def test_an_artifact_that_says_nothing_of_its_model_changes_nothing(text, tmp_path):
  (tmp_path / 'artifact.json').write_text(text)
  c = read(f'--config.init.params={tmp_path}')
  assert c.model == read().model


@pytest.mark.parametrize(
  'said',
  [
    'Error writing local file "/r/x/_sharding": Failed writing: "/r/x/_sharding.__lock": Failed',
    'RESOURCE_EXHAUSTED: Failed writing: "/r/x/_sharding": Failed to write 5320 bytes to file 12',
  ],
)
def test_what_tensorstore_says_of_a_full_disk_is_told_as_our_own(said):
  error = ValueError(f"{said}: No space left on device [os_error_code='28']")
  assert main.told(error).startswith('error: /r/x/_sharding: No space left on device; make room')


def test_a_status_says_whether_the_same_command_would_go_on():
  from llm_jax.training.loop import Interrupted, Stopped
  from llm_jax.training.metrics import Diverged

  assert main.status(Stopped('SIGTERM: saved step 3')) == os.EX_TEMPFAIL
  for mistake in (Interrupted('x'), Diverged('x'), BadInput('x'), OSError(28, 'x'), MemoryError()):
    assert main.status(mistake) == 1
  with pytest.raises(main.Left, match='why') as left:
    main.leave('why', 75)
  assert left.value.status == 75
