"""The job end to end: artifacts are asked the same questions, and one table says how they did."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import evaluate as evaluate_config
from llm_jax import artifact
from llm_jax.data import families
from llm_jax.main import run
from llm_jax.parallel.mesh import make_mesh
from llm_jax.sampling import complete
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

SHAPE = dict(
  name='transformer', vocab_size=296, dim=16, num_layers=2, num_heads=2, max_length=512,
  head='untied',
)  # fmt: skip
FAMILIES, QUESTIONS, NEW = ('word_problems', 'instructions'), 3, 8


def write(path, tokenizer, template=None, seed=0, **shape):
  """A model with weights large enough for answers to depend on their questions."""
  group, data = SHAPE | shape, {'template': template} if template else {}
  model, draw = artifact.build(group), np.random.default_rng(seed)
  shapes = artifact.abstract_params(model)
  params = jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.6, x.shape), x.dtype), shapes)
  made = artifact.Artifact(model, params, tokenizer, {'model': group, 'data': data})
  artifact.save(path, made)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A folder with `base`, a `chat` model with the same weights, and a `judge`. Not written to."""
  root = tmp_path_factory.mktemp('evaluate')
  tokenizer = Tokenizer.train(['user assistant: how much is left?'] * 20, vocab_size=290)
  write(root / 'base', tokenizer)
  write(root / 'chat', tokenizer, template='llm_jax')
  write(root / 'judge', tokenizer, head='scalar')
  write(root / 'masked', tokenizer, causal=False)
  return root


def config_of(root, tmp_path, *names):
  """configs/evaluate.py with few questions and short answers."""
  c = evaluate_config.get_config()
  c.artifacts = tuple(str(root / name) for name in names)
  c.families, c.max_questions = FAMILIES, QUESTIONS
  c.evals.questions.max_new, c.evals.questions.batch_size = NEW, 4
  c.output = str(tmp_path / 'deep' / 'down' / 'evaluate.json')
  c.mesh.fsdp = 1
  return c


def written(c):
  return json.loads(Path(c.output).read_text())


@pytest.fixture(scope='module')
def asked(root, tmp_path_factory):
  """The config of a run that asked `base` and `chat`."""
  c = config_of(root, tmp_path_factory.mktemp('asked'), 'base', 'chat')
  run(c)
  return c


def test_the_same_questions_of_every_family_were_put_to_each(asked):
  found, (base, chat) = written(asked), asked.artifacts
  questions = [
    question
    for family in FAMILIES
    for question in families.records('questions', 'test', family)[:QUESTIONS]
  ]
  without = [{k: v for k, v in row.items() if k != 'answers'} for row in found['rows']]
  assert found['evals']['questions']['split'] == 'test' and without == questions
  assert all(list(row['answers']) == [base, chat] for row in found['rows'])


def test_a_chat_model_is_asked_by_its_template_and_a_base_model_in_plain_text(root, asked):
  for path, template in zip(asked.artifacts, ('plain', 'llm_jax')):
    made = artifact.load(path, make_mesh(data=1))
    prompts = [row['prompt'] for row in written(asked)['rows']]
    ask = complete.make(
      made.model, made.tokenizer, prompts=prompts, template=template, max_new=NEW, temperature=0
    )
    said = [row['answers'][path] for row in written(asked)['rows']]
    assert said == ask(made.params) and len(set(said)) > 2
  assert all(len(set(row['answers'].values())) == 2 for row in written(asked)['rows'])


def test_scores_are_in_the_file_and_in_a_markdown_table(root, tmp_path, capsys, monkeypatch):
  # Models of random numbers are never right, so these are told what to say.
  gold = [
    question['answer']
    for family in FAMILIES
    for question in families.records('questions', 'validation', family)[:QUESTIONS]
  ]
  right = [f'1 + 1 = 2. The answer is {text}.' for text in gold[:QUESTIONS]] + gold[QUESTIONS:]
  says = {'plain': ['no'] * len(gold), 'llm_jax': [*right[:-1], 'no']}
  told = lambda model, tokenizer, *, prompts, template, **how: lambda params: says[template]
  monkeypatch.setattr(complete, 'make', told)
  c = config_of(root, tmp_path, 'base', 'chat')
  c.split = 'validation'
  run(c)
  base, chat = c.artifacts
  names = [
    *('word_problems/exact_answer', 'word_problems/reasons_first'),
    *('instructions/word_overlap', 'instructions/same_text'),
  ]
  keys = [f'questions/{name}' for name in names]
  assert written(c)['metrics'] == {
    base: dict.fromkeys(keys, 0.0),
    chat: dict(zip(keys, (1.0, 1.0, 0.6667, 0.6667))),
  }
  lines = capsys.readouterr().out.splitlines()
  table = [line for line in lines if line.startswith('|')]
  zero, all_right = '0.000 [0.000, 0.561]', '1.000 [0.439, 1.000]'  # Wilson's
  assert table[:6] == [
    f'| metric | n | {base} | {chat} | cut | failed |',
    '| --- | ---: | ---: | ---: | ---: | ---: |',
    f'| {keys[0]} | 3 | {zero} | {all_right} | 0.0% | 0.0% |',
    f'| {keys[1]} | 3 | {zero} | {all_right} | 0.0% | 0.0% |',
    f'| {keys[2]} | 3 | {zero} | 0.667 [0.208, 0.939] | 0.0% | 0.0% |',
    f'| {keys[3]} | 3 | {zero} | 0.667 [0.208, 0.939] | 0.0% | 0.0% |',
  ]
  assert table[8] == f'| {keys[0]} | {chat} | +1.000 | 3 | 3 | 0 | 0.25 |'
  assert lines[-1] == f'The answers are in {c.output}.'


def test_devices_and_batches_change_no_answer(root, asked, tmp_path):
  c = config_of(root, tmp_path, 'base', 'chat')
  c.mesh, c.evals.questions.batch_size = ConfigDict(dict(data=2, fsdp=2, tensor=2)), 6
  run(c)
  found, wanted = written(c), written(asked)
  assert (found['metrics'], found['rows']) == (wanted['metrics'], wanted['rows'])


def test_a_model_that_cannot_answer_is_evaluated_on_rows(root, tmp_path, capsys):
  c = config_of(root, tmp_path, 'judge')
  data = dict(name='preferences', sources=dict(builtin='builtin:word_problems'), length=320)
  pairs = dict(name='held_out', max_rows=4, batch_size=4, data=data, loss=dict(name='reward'))
  c.evals = ConfigDict(dict(questions=dict(name=''), pairs=pairs))
  run(c)
  found = written(c)
  assert {'pairs/loss', 'pairs/accuracy'} <= found['metrics'][c.artifacts[0]].keys()
  assert 0 < found['metrics'][c.artifacts[0]]['pairs/loss'] < 10 and found['rows'] == []
  told = capsys.readouterr().out
  assert '| pairs/accuracy |' in told and 'questions' not in told


@pytest.fixture
def unasked(monkeypatch):
  """Fails where a model is loaded: what cannot work is told before."""
  monkeypatch.setattr(artifact, 'load', lambda *args: pytest.fail('loaded'))


@pytest.mark.parametrize(
  'changes, parts',
  [
    (dict(artifacts=()), ['no artifacts', '--config.artifacts=']),
    (dict(artifacts=('base', 'judge')), ['/judge', 'is a reward model']),
    (dict(evals=dict(questions=dict(name=''))), ['no evaluations']),
    (dict(evals=dict(text=dict(name='perplexity'))), ['evals.text', "'data' is missing"]),
    (dict(evals=dict(questions=dict(max_now=3))), ['evals.questions', "'max_now'", 'max_new']),
    (dict(artifacts=('base', 'masked')), ['/masked', 'is a masked language model']),
    (dict(artifacts=('base', 'nowhere')), ['no folder', '/nowhere']),
    (dict(families=('word_problem',)), ["'word_problem'", "did you mean 'word_problems'"]),
    (dict(families=()), ['no families']),
    (dict(split='tset'), ["'tset'", "did you mean 'test'"]),
  ],
  ids=str,
)
def test_what_cannot_be_asked_is_named(root, tmp_path, unasked, changes, parts):
  c = config_of(root, tmp_path, 'base')
  for name, value in changes.items():
    if isinstance(value, dict):
      c[name].update(ConfigDict(value))
    else:
      c[name] = tuple(str(root / path) for path in value) if name == 'artifacts' else value
  with pytest.raises(BadInput) as error:
    run(c)
  message = str(error.value)
  assert '\n' not in message
  for part in parts:
    assert part in message, message
  assert not Path(c.output).exists()
