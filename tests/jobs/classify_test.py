"""A classifier from files to answers: trained by head and by text, evaluated, loaded and asked."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llm_jax
from llm_jax import artifact
from llm_jax.main import read_config, run
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.training import metrics
from llm_jax.types import BadInput

WORDS = {'good': ('good', 'fine', 'great'), 'bad': ('bad', 'dull', 'poor')}
TEXTS = [(f'a {w} {x}', name) for name in WORDS for w in WORDS[name] for x in ('film', 'book')]
SHAPE = dict(name='transformer', vocab_size=300, dim=16, num_layers=1, num_heads=2, max_length=64)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Texts with labels, and an untrained model of language."""
  root = tmp_path_factory.mktemp('classify')
  for split in ('train', 'validation'):
    lines = (json.dumps({'review': text, 'label': label}) for text, label in TEXTS)
    (root / f'{split}.jsonl').write_text('\n'.join(lines))
  tokenizer = Tokenizer.train([text for text, _ in TEXTS] * 20 + ['bad good'], vocab_size=290)
  model = artifact.build(SHAPE)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  config = {'model': SHAPE, 'data': {}}
  artifact.save(root / 'base', artifact.Artifact(model, params, tokenizer, config))
  return root


def config_of(root, name, *words, config='classify'):
  if not any('data.classes' in word for word in words):
    words = (*words, "--config.data.classes=('bad','good')")
  return read_config(
    [
      'main',
      f'--config=configs/{config}.py',
      f'--config.workdir={root / name}',
      f'--config.init.params={root / "base"}',
      f'--config.data.path={root}/{{split}}.jsonl',
      '--config.data.variant.prompt={review}',
      '--config.data.length=32',
      '--config.total_steps=40',
      '--config.eval_every=20',
      '--config.checkpoint_every=20',
      '--config.batch_size=4',
      '--config.optimizer.learning_rate=0.02',
      '--config.optimizer.warmup_steps=2',
      '--config.mesh.fsdp=2',
      *words,
    ]
  )


@pytest.fixture(scope='module')
def trained(root):
  run(config_of(root, 'head'))
  return root / 'head'


def test_it_learns_and_says_what_it_is_worth(trained):
  last = [r for r in metrics.read(trained) if 'validation/accuracy' in r][-1]
  assert last['validation/accuracy'] == last['validation/mcc'] == last['validation/f1'] == 1
  assert last['validation/texts'] == len(TEXTS)
  about = artifact.describe(trained)
  assert about['model']['head'] == 'classes' and list(about['model']['classes']) == ['bad', 'good']


def test_a_loaded_model_names_classes_whatever_stands_beside_a_text(trained):
  model = llm_jax.load(trained, mesh=make_mesh(data=1, devices=jax.devices()[:1]))
  found = model.classify([text for text, _ in TEXTS])
  assert [next(iter(one)) for one in found] == [name for _, name in TEXTS]
  assert all(sum(one.values()) == pytest.approx(1, abs=1e-5) for one in found)
  (alone,) = model.classify('a dull film')
  beside = model.classify(['a dull film', 'a great film and a good book'], batch_size=2)[0]
  assert alone == pytest.approx(beside, abs=1e-5) and alone['bad'] > 0.5
  for ask, use in (('generate', 'says nothing'), ('logprobs', 'use classify')):
    with pytest.raises(BadInput, match=f'this is a classifier; (it )?{use}'):
      getattr(model, ask)(['a film'])
  with pytest.raises(BadInput, match='this is a classifier; use classify'):
    model.score('a', 'b')


def test_job_evaluate_gives_the_same_numbers(root, trained, tmp_path, capsys):
  c = read_config(['main', '--config=configs/evaluate.py', '--config.evals.questions.name='])
  with c.unlocked():
    c.evals.classes = dict(
      name='classes',
      data=dict(
        name='labelled', task='labelled', path=f'{root}/{{split}}.jsonl', length=32,
        variant=dict(prompt='{review}'), classes=('bad', 'good'),
      ),
    )  # fmt: skip
  c.artifacts, c.output, c.mesh.fsdp = (str(trained),), str(tmp_path / 'found.json'), 2
  run(c)
  assert (
    json.loads((tmp_path / 'found.json').read_text())['metrics'][str(trained)]['classes/accuracy']
    == 1
  )
  printed = capsys.readouterr().out
  assert all(f'{name} |' in printed for name in ('accuracy', 'mcc', 'f1'))
  c.artifacts = (str(root / 'base'),)
  with pytest.raises(BadInput, match='this model has no classes'):
    run(c)


def test_the_same_rows_train_a_model_of_language(root):
  more = ('--config.total_steps=120', '--config.eval_every=60', '--config.checkpoint_every=60')
  run(config_of(root, 'text', *more, config='classify_text'))
  last = [r for r in metrics.read(root / 'text') if 'validation/acc' in r][-1]
  assert last['validation/acc'] == last['validation/mcc'] == 1


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (
      ['--config.model.head=tied', '--config.model.classes=()'],
      "trains config.model.head='classes'",
    ),
    (['--config.model.head=tied'], 'a classifier has head=classes'),
    (["--config.data.classes=('bad',)"], 'give two names or more'),
    (["--config.data.classes=('good','good')"], 'give two names or more, all different'),
    (["--config.data.classes=('bad','nice')"], "label 'good' is none of"),
    (['--config.loss.weights=(1.0,)'], '1 weights for the 2 classes'),
  ],
)
def test_what_cannot_be_is_one_line(root, words, message):
  with pytest.raises(BadInput, match=message) as error:
    run(config_of(root, 'wrong', *words))
  assert '\n' not in str(error.value)


def test_a_classifier_is_no_reward_model_no_policy_and_no_reference(root, trained):
  from llm_jax.annotate import reference, reward_model

  model = artifact.build(SHAPE)
  with pytest.raises(BadInput, match="head' has no scalar head; give the folder of a reward stage"):
    reward_model.make(model, None, mesh=make_mesh(), path=str(trained))
  with pytest.raises(BadInput, match='is a classifier; it has no log-probabilities'):
    reference.make(model, None, mesh=make_mesh(), path=str(trained))
  c = config_of(root, 'policy', f'--config.init.params={trained}', config='classify_text')
  with pytest.raises(BadInput, match='is a classifier, but'):
    run(c)


def test_another_set_of_classes_takes_a_fresh_head(root, trained):
  about = artifact.load(trained, make_mesh(data=1, devices=jax.devices()[:1]))
  kernel = np.asarray(about.params['head']['classes'])
  assert kernel.shape == (16, 2)
  model = artifact.build(SHAPE | dict(head='classes', classes=('a', 'b', 'c')))
  fresh = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 1), jnp.int32))
  made = artifact.graft(fresh, about.params, fresh=('head',))
  assert made['head']['classes'].shape == (16, 3)
  with pytest.raises(BadInput, match=r'head/classes: wanted \(16, 3\), found \(16, 2\)'):
    artifact.graft(fresh, about.params)
