"""The job end to end: a tiny model in few bits, its report, and the jobs that read it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import llm_jax
from configs import compress as compress_config
from llm_jax import artifact
from llm_jax.jobs import compress
from llm_jax.main import read_config, run
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

SHAPE = dict(
  name='transformer', vocab_size=320, dim=16, num_layers=2, num_heads=2, max_length=64,
  head='untied',
)  # fmt: skip
SAID = [f'How much is {i} and {i % 7}? It is {i + i % 7}.' for i in range(80)]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A folder with a model, `sft`, that was trained on conversations. Not written to."""
  root = tmp_path_factory.mktemp('compress')
  tokenizer = Tokenizer.train(SAID * 20, vocab_size=312)
  talks = [{'messages': _talk(text)} for text in SAID]
  (root / 'talks.jsonl').write_text('\n'.join(map(json.dumps, talks)))
  made, draw = artifact.build(SHAPE), np.random.default_rng(0)
  shapes = artifact.abstract_params(made)
  params = jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.3, x.shape), x.dtype), shapes)
  data = dict(name='conversations', sources={'mine': str(root / 'talks.jsonl')}, length=64)
  data |= dict(template='llm_jax', validation_fraction=0.2)
  config = {'model': SHAPE, 'data': data}
  artifact.save(root / 'sft', artifact.Artifact(made, params, tokenizer, config, stage='sft'))
  return root


def _talk(text):
  asked, said = text.split('? ')
  return [{'role': 'user', 'content': f'{asked}?'}, {'role': 'assistant', 'content': said}]


def config_of(root, method='gptq', workdir='w', **method_options):
  c = compress_config.get_config(method)
  c.artifact, c.workdir, c.mesh.fsdp = str(root / 'sft'), str(root / workdir), 1
  if 'group' in c.method:
    c.method.group = 8
  c.method.update(method_options)
  c.batch_size = c.evals.text.batch_size = 4
  return c


@pytest.fixture(scope='module')
def made(root):
  """The config of a finished run with GPTQ."""
  c = config_of(root)
  run(c)
  return c


def test_it_leaves_an_artifact_and_a_report(root, made):
  about = artifact.describe(made.workdir)
  assert about['stage'] == 'compress' and about['parent'] == str(root / 'sft')
  assert about['model']['weights']['blocks/mlp/up'] == {
    'dtype': 'int4', 'group': 8, 'zero': True, 'scale': 'float16',
  }  # fmt: skip
  facts = json.loads((root / 'w' / 'report.json').read_text())
  assert facts['bytes']['after'] < facts['bytes']['before']
  assert facts['bits_per_weight'] == pytest.approx(4 + (16 + 8) / 8)
  before, after = (facts['metrics'][k]['text/bits_per_byte'] for k in ('before', 'after'))
  assert 0 < abs(after / before - 1) < 0.2
  assert len(facts['logit_error']['layers']) == 2 and facts['rows'] > 0
  assert 0 < max(facts['logit_error']['layers']) < 2 * facts['logit_error']['all']
  page = (root / 'w' / 'report.html').read_text()
  assert 'text/bits_per_byte' in page and 'logit error' in page
  assert '| 1 | ' in (root / 'w' / 'report.md').read_text()


def test_it_is_loaded_in_few_bits_and_talks(made):
  loaded = llm_jax.load(made.workdir)
  codes = loaded.params['blocks']['mlp']['up'].codes
  assert codes.dtype == jnp.uint8 and codes.shape == (2, 8, loaded.model.shape.hidden_dim)
  talk = [{'role': 'user', 'content': 'How much is 3 and 4?'}]
  said = loaded.chat(talk, max_new=4, temperature=0.0)
  assert said['role'] == 'assistant'


def test_evaluate_reads_it_and_finds_what_the_report_says(root, made):
  c = read_config(['main', '--config=evaluate'])
  c.artifacts, c.output, c.mesh.fsdp = (made.workdir,), str(root / 'evaluate.json'), 1
  data = artifact.describe(made.artifact)['config']['data']
  c.evals = ConfigDict(dict(text=dict(name='perplexity', batch_size=4, data=data)))
  c.compute = ConfigDict(dict(scan_layers=False))
  run(c)
  facts = json.loads((root / 'w' / 'report.json').read_text())
  found = json.loads((root / 'evaluate.json').read_text())['metrics'][made.workdir]
  wanted = facts['metrics']['after']['text/bits_per_byte']
  assert found['text/bits_per_byte'] == pytest.approx(wanted, abs=1e-4)


def test_a_finished_folder_stays(made, capsys):
  run(made)
  assert 'is finished' in capsys.readouterr().out


def test_int8_loses_next_to_nothing_and_needs_no_text(root, tmp_path):
  given = artifact.load(root / 'sft', make_mesh(fsdp=1, devices=jax.devices()[:1]))
  plain = {'model': SHAPE, 'data': {}}
  artifact.save(
    tmp_path / 'sft', artifact.Artifact(given.model, given.params, given.tokenizer, plain)
  )
  c = config_of(tmp_path, 'int8', group=0)
  c.evals = ConfigDict()
  run(c)
  facts = json.loads((tmp_path / 'w' / 'report.json').read_text())
  assert facts['rows'] == 0 and facts['metrics'] == {'before': {}, 'after': {}}
  c = config_of(tmp_path, 'awq', 'w2')
  with pytest.raises(BadInput, match=r'does not say what rows of text .* set config\.data'):
    compress.check(c)


def wrong(c, message):
  with pytest.raises(BadInput, match=message) as error:
    compress.check(c)
  assert '\n' not in str(error.value)


def test_what_cannot_be_is_refused_in_one_line(root, made):
  fresh = lambda **changes: config_of(root, 'gptq', 'new', **changes)
  wrong(fresh(group=7), 'group 7 is odd')
  wrong(fresh(bits=9), 'method: bits 9; choose a whole number from 2 to 8')
  wrong(fresh(damp=0.5), r'method: damp 0\.5; choose a number above 0, up to 0\.1')
  c = fresh()
  c.weights = 'norm'
  wrong(c, 'is no matrix of a layer; choose from')
  c = fresh()
  c.tables = ('heads',)
  wrong(c, "tables 'heads'; did you mean 'head'")
  c = fresh()
  c.artifact = made.workdir
  wrong(c, 'is compressed already')
  c = fresh()
  c.workdir = c.artifact
  wrong(c, 'workdir is the artifact')
  c = fresh()
  c.data = ConfigDict(artifact.describe(c.artifact)['config']['data'] | {'split': 'validation'})
  wrong(c, r'evals\.text reads the validation split, which is the calibration text')


def test_training_does_not_start_from_it(root, made):
  c = read_config(['main', '--config=sft'])
  c.init.params, c.workdir, c.mesh.fsdp = made.workdir, str(root / 'next'), 1
  with pytest.raises(BadInput, match=r'is compressed; start from the artifact that it was made'):
    run(c)


def test_export_names_the_artifact_that_it_was_made_from(root, made):
  c = read_config(['main', '--config=convert'])
  c.artifact, c.workdir = made.workdir, str(root / 'out')
  told = rf'set config\.format=compressed-tensors, or convert {root}/sft, which it was made from'
  with pytest.raises(BadInput, match=f'is compressed; {told}'):
    run(c)
