"""Weights in few bits for vLLM and transformers, against compressed-tensors where it is there."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from llm_jax import artifact
from llm_jax.compress import round as rounding
from llm_jax.compress import walk
from llm_jax.main import run
from llm_jax.models import huggingface
from llm_jax.models.huggingface import packed
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput
from tests.jobs.convert_test import settings

SHAPE = dict(
  name='transformer', vocab_size=300, dim=64, num_layers=2, num_heads=4, num_kv_heads=2,
  hidden_dim=96, max_length=64, head='untied',
)  # fmt: skip
METHODS = {
  'int8': dict(bits=8, group=0),
  'int4': dict(bits=4, group=32),
  'int4 with zero points': dict(bits=4, group=16, kind='asymmetric'),
}


def compressed(how):
  """A Llama with random weights in few bits."""
  base, method = artifact.build(SHAPE), rounding.make(**how)
  params = jax.jit(base.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  return walk.compress(base, params, method, walk.planned(base, method.form))


@pytest.fixture(scope='module', params=METHODS)
def made(request, tmp_path_factory):
  """A compressed model, its parameters, and the folder that it was exported into."""
  root, how = tmp_path_factory.mktemp('packed'), METHODS[request.param]
  model, params = compressed(how)
  tokenizer = Tokenizer.train(['the cat sat on a mat'] * 20, vocab_size=290)
  group = SHAPE | {'weights': {path: vars(form) for path, form in model.forms}}
  config = {'model': group, 'data': {}}
  artifact.save(root / 'few', artifact.Artifact(model, params, tokenizer, config))
  run(settings(artifact=root / 'few', workdir=root / 'out', format='compressed-tensors'))
  return model, params, root / 'out'


def unpacked(words, bits, columns):
  """Codes [rows, columns] from words, one bit at a time."""
  digits = np.unpackbits(words.view(np.uint8), axis=-1, bitorder='little')
  digits = digits.reshape(len(words), -1, bits)
  return (digits << np.arange(bits, dtype=np.uint8)).sum(-1)[:, :columns]


def test_codes_and_scales_are_the_weights_of_the_model(made):
  model, params, folder = made
  import safetensors.numpy

  found = safetensors.numpy.load_file(folder / 'model.safetensors')
  about = json.loads((folder / 'config.json').read_text())['quantization_config']
  weights = about['config_groups']['group_0']['weights']
  bits = weights['num_bits']
  dense = jax.tree.map(
    lambda x: x.dense('float32') if hasattr(x, 'codes') else x,
    params, is_leaf=lambda x: hasattr(x, 'codes'),
  )  # fmt: skip
  wanted = flatten_dict(dense, sep='/')
  chosen = 0
  for source in huggingface.plan(model.shape, 'llama').sources:
    whole = source.write({path: np.asarray(wanted[path])[source.index] for path in source.paths})
    name = source.name.removesuffix('.weight')
    if source.name in found:
      np.testing.assert_array_equal(found[source.name], whole)
      continue
    out, inputs = found[f'{name}.weight_shape'].tolist()
    scale = found[f'{name}.weight_scale']
    codes = unpacked(found[f'{name}.weight_packed'], bits, inputs).astype(np.float32)
    zero = np.full(scale.shape, 2 ** (bits - 1))
    if not weights['symmetric']:
      zero = unpacked(np.ascontiguousarray(found[f'{name}.weight_zero_point'].T), bits, out).T
    size = inputs // scale.shape[1]
    spread = lambda x, size=size: np.repeat(x.astype(np.float32), size, axis=1)
    np.testing.assert_array_equal((codes - spread(zero)) * spread(scale), whole)
    chosen += 1
  assert chosen == 7 * model.shape.num_layers and about['ignore'] == ['lm_head', 'score']


def test_transformers_reads_the_folder(made):
  torch = pytest.importorskip('torch')
  pytest.importorskip('compressed_tensors')
  transformers = pytest.importorskip('transformers')
  model, params, folder = made
  if model.forms[0][1].zero:
    pytest.skip('transformers 5.24 makes no room for packed zero points; vLLM does')
  theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
  tokens = np.random.default_rng(0).integers(0, 290, (2, 32))
  with torch.no_grad():
    got = theirs(torch.from_numpy(tokens).long()).logits.float().numpy()
  wanted = jax.jit(model.apply)(params, tokens)[0]
  np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_what_has_no_place_there_is_refused(made):
  plan = huggingface.plan(made[0].shape, 'llama')
  form = walk.Form('int4', 48)
  forms = dict.fromkeys(dict(made[0].forms), form)
  only_q = {'blocks/attention/q': walk.Form('int8')}
  for given, said in (
    ({}, 'no matrix of this model is in few bits'),
    (forms, 'self_attn.q_proj.weight is not of whole groups or words'),
    (dict.fromkeys(forms, walk.Form('float8_e4m3fn')), 'matrices of float8_e4m3fn are not written'),
  ):
    with pytest.raises(BadInput, match=said):
      packed.config(plan, given)
  ignored = packed.config(plan, only_q)['ignore']
  assert 'model.layers.1.mlp.up_proj' in ignored and len(ignored) == 6 * 2 + 2
