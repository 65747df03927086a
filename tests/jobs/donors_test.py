"""A stage takes model, tokenizer and template from what it starts from, with no flag for them."""

import json
from pathlib import Path

import pytest

from configs import pipeline, sizes
from llm_jax import artifact, main
from llm_jax.jobs import train
from llm_jax.jobs.command import read_config
from llm_jax.jobs.donors import follow
from llm_jax.types import BadInput
from tests.configs_test import SIZED, TRAINING, artifacts, config_of
from tests.jobs.convert_test import settings, theirs


def described(folder):
  """What an artifact says of itself, without the checksum, so that a test can change it."""
  about = json.loads((folder / artifact.FILE).read_text())
  return {name: value for name, value in about.items() if name != 'checksum'}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """A Hugging Face folder of a shape that no config has, its artifact, and a reward model's."""
  root = tmp_path_factory.mktemp('donors')
  theirs(root / 'theirs', max_length=640, rope_theta=500.0)
  main.run(settings(source=root / 'theirs', workdir=root / 'ours'))
  about = described(root / 'ours')
  judge = root / 'judge' / artifact.FILE
  judge.parent.mkdir()
  judge.write_text(json.dumps({**about, 'model': {**about['model'], 'head': 'scalar'}}))
  return root


@pytest.fixture
def runs(folders, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return folders


def starting(name, path, *words, part='params'):
  """A config of the command line that starts from a folder."""
  return read_config(
    ['main', f'--config={name}', f'--config.init.{part}={path}', '--config.mesh.fsdp=1', *words]
  )


def shape_of(path):
  return artifact.build(artifact.describe(path)['model']).shape


@pytest.mark.parametrize('name', [name for name in TRAINING if name != 'ppo'])
def test_every_stage_has_the_model_that_it_starts_from(name, runs):
  c = follow(starting(name, runs / 'ours'))
  train.check(c, coming=[folder for folder in artifacts(c) if folder.startswith('runs/')])
  made, wanted = artifact.build(c.model).shape, shape_of(runs / 'ours')
  if name == 'reward':
    assert made.head == 'scalar'
  assert {**vars(made), 'head': wanted.head, 'classes': wanted.classes} == vars(wanted)
  once = c.to_dict()
  assert follow(c).to_dict() == once


def test_a_policy_and_its_critic_have_theirs(runs):
  words = f'--config.init.critic={runs / "judge"}', '--config.annotate.reward_model.path=later'
  c = follow(starting('ppo', runs / 'ours', *words, part='policy'))
  train.check(c, coming=['later'])
  model = artifact.build(c.model)
  assert model.policy.shape == shape_of(runs / 'ours')
  assert model.critic.shape == shape_of(runs / 'judge')


def test_what_was_given_stays_and_is_refused_where_it_contradicts(runs):
  ours = runs / 'ours'
  c = follow(starting('sft', ours, '--config.model.max_length=900', '--config.model.lora.rank=2'))
  assert c.model.max_length == 900 and c.model.rope_theta == 500.0 and c.model.lora.rank == 2
  train.check(c)
  # 128 is the default of the size as well, and yet it was given.
  c = follow(starting('sft', ours, '--config.model.dim=128'))
  with pytest.raises(BadInput, match=r"init: config\.model has dim 128 and not the 16 of '.*ours'"):
    train.check(c)
  c = config_of('sft')
  c.init.params, c.model.num_layers = str(ours), 2
  assert (follow(c).model.num_layers, c.model.dim) == (2, 16)


def test_new_tokens_make_room_for_themselves(runs):
  words = '<|im_start|>', '<|im_sep|>', '<|im_end|>', *(f'<{i}>' for i in range(20))
  c = follow(starting('sft', runs / 'ours', f'--config.init.add={words}'))
  train.check(c)
  assert c.model.vocab_size > artifact.describe(runs / 'ours')['model']['vocab_size']


def test_a_folder_of_theirs_is_converted_first(runs):
  source = runs / 'theirs'
  c = starting('dpo', source, '--config.workdir=mine')
  train.check(follow(c))
  assert c.requires == ('converted',)
  assert c.init.params == c.annotate.reference.path == 'mine/converted'
  assert c.model.dim == 16
  assert not Path('mine').exists()
  main.run(c.converted)
  again = follow(starting('dpo', source, '--config.workdir=mine'))
  train.check(again)
  assert train.plain(again) == train.plain(c)
  with pytest.raises(
    BadInput, match=r'is a Hugging Face folder; make an artifact of it: .*convert'
  ):
    artifact.describe(source)


def test_a_corpus_is_written_in_the_tokens_of_the_artifact(runs):
  c = follow(starting('pretrain', runs / 'ours', '--config.workdir=more'))
  assert c.tokenize.tokenizer.to_dict() == {'path': f'{runs / "ours"}/tokenizer'}
  assert c.data.path == c.tokenize.workdir == 'more/tokenize'
  c = follow(starting('pretrain', runs / 'ours', '--config.tokenize.workdir=mine'))
  assert c.data.path == c.tokenize.workdir == 'mine'
  # One that is there already and in the same tokens is taken as it is.
  Path('mine').mkdir()
  done = {'fingerprint': artifact.describe(runs / 'ours')['tokenizer']}
  stored = {'path': 'where it came from'}
  Path('mine/tokenize.json').write_text(json.dumps(done | {'config': {'tokenizer': stored}}))
  c = follow(starting('pretrain', runs / 'ours', '--config.tokenize.workdir=mine'))
  assert c.tokenize.tokenizer.to_dict() == stored


def test_the_stages_of_a_pipeline_have_it_from_each_other(runs):
  c = pipeline.get_config('gpt')
  c.pretrain.init.params = str(runs / 'ours')
  follow(c)
  assert c.tokenize.tokenizer.path == f'{runs / "ours"}/tokenizer'
  wanted = shape_of(runs / 'ours')
  for group in (c.pretrain.model, c.sft.model, c.ppo.model.policy):
    assert artifact.build(group).shape == wanted
  assert c.reward.model.head == c.ppo.model.critic.head == 'scalar'
  assert c.reward.model.dim == c.ppo.model.critic.dim == wanted.dim


def test_a_name_in_an_artifact_is_not_put_into_a_config(runs):
  about = described(runs / 'ours') | {'model': {'name': 'os.path', 'dim': 8}}
  Path('odd').mkdir()
  Path('odd', artifact.FILE).write_text(json.dumps(about))
  c = follow(starting('sft', 'odd'))
  assert c.model.name == 'transformer' and c.model.dim == config_of('sft').model.dim


def test_above_1b_what_goes_on_from_a_model_is_adapted():
  for name, size in SIZED:
    if name in TRAINING and name != 'ppo':  # whose model is two
      scratch = name in ('pretrain', 'distill', 'on_policy_distill')
      wanted = not scratch and size in sizes.SIZES[4:]
      assert ('lora' in config_of(name, size).model) == wanted, (name, size)
