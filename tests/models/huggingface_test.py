"""Every family against logits that transformers computed; names and shapes go both ways exactly.

fixtures/model_*.npz hold a tiny random model each (its biases and norms are not trivial): config,
weights, logits of padded batches and greedy continuations, from transformers 5.23 in float32.
"""

import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from llm_jax.models import huggingface
from llm_jax.models.transformer import Shape, make
from llm_jax.sampling import pick
from llm_jax.sampling.generate import generate
from llm_jax.types import BadInput

FIXTURES = Path(__file__).parents[1] / 'fixtures'
FAMILIES = ('llama', 'llama3_rope', 'mixtral', 'qwen2', 'qwen3', 'qwen3_moe', 'gpt2')
SMALL = dict(vocab_size=16, dim=16, num_layers=2, num_heads=2, hidden_dim=24, max_length=32)
GPT2 = dict(SMALL, norm='layer', mlp='gelu', position='learned', bias=True)
SCALING = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=32)
MODELS = {
  'llama': dict(SMALL, head='untied', norm_eps=1e-6),
  'llama, stretched': dict(SMALL, num_kv_heads=1, rope_theta=5e5, rope_scaling=SCALING),
  'mistral': dict(SMALL, window=5),
  'mistral, odd width': dict(SMALL, num_heads=3, head_dim=8, rope_scaling=SCALING),
  'qwen2': dict(SMALL, qkv_bias=True, num_kv_heads=1),
  'qwen2, window': dict(SMALL, qkv_bias=True, window=4),
  'qwen3': dict(SMALL, qk_norm=True, head_dim=12),
  'mixtral': dict(SMALL, head='untied', experts=dict(count=3)),
  'qwen3_moe': dict(SMALL, qk_norm=True, experts=dict(count=3, per_token=1, normalize=False)),
  'qwen3, window': dict(SMALL, qk_norm=True, window=4),
  'gpt2': GPT2,
  'gpt2, untied': dict(GPT2, head='untied', norm_eps=1e-6),
  'phi3': dict(SMALL, head_dim=12, rope_dim=8),
  'olmo2': dict(SMALL, pre_norm=False, post_norm=True, qk_norm='wide'),
  'smollm3': dict(SMALL, layers=('global', 'nope'), mlp_bias=True),
  'granite': dict(SMALL, residual_scale=0.5, query_scale=0.3, logit_divisor=3.0),
  'gemma2': dict(
    SMALL,
    norm='zero_centered_rms',
    mlp='geglu',
    post_norm=True,
    window=4,
    layers=('local', 'global'),
    embedding_scale=4.0,
    query_scale=12**-0.5,
  ),
  'gpt_neox': dict(
    SMALL,
    norm='layer',
    mlp='exact_gelu',
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    parallel=True,
    rope_dim=4,
    head='untied',
  ),
  'starcoder2': dict(SMALL, norm='layer', mlp='gelu', qkv_bias=True, out_bias=True, mlp_bias=True),
  'llama, reward': dict(SMALL, head='scalar'),
  'gpt2, reward': dict(GPT2, head='scalar'),
  'llama, classes': dict(SMALL, head='classes', classes=('no', 'yes', 'maybe')),
  'gpt2, classes': dict(GPT2, head='classes', classes=('no', 'yes')),
}


@functools.cache
def fixture(family):
  """Arrays of the fixture, its config, and its weights under their names."""
  with np.load(FIXTURES / f'model_{family}.npz') as file:
    z = dict(file)
  weights = {k.removeprefix('p.'): v for k, v in z.items() if k.startswith('p.')}
  return z, json.loads(z['config'][()]), weights


def random_params(model, seed=0):
  """Every parameter random, norms and biases too."""
  token = jnp.zeros((1, 1), jnp.int32)
  params = jax.eval_shape(lambda: model.init(jax.random.key(0), token))
  draw = np.random.default_rng(seed)
  return jax.tree.map(lambda x: draw.normal(0.5, 0.3, x.shape).astype(np.float32), params)


def assert_same(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.mark.parametrize('scan_layers', [True, False], ids=['scanned', 'unrolled'])
@pytest.mark.parametrize('side', ['right', 'left'])
@pytest.mark.parametrize('family', FAMILIES)
def test_logits_are_theirs(family, side, scan_layers):
  z, config, weights = fixture(family)
  model = make(**huggingface.shape_of(config), compute=dict(scan_layers=scan_layers))
  params = huggingface.from_hf(weights, model.shape)
  mask = z[f'{side}_mask'].astype(np.int32)
  position = np.maximum(mask.cumsum(axis=1) - 1, 0)
  logits, _ = jax.jit(model.apply)(params, z[f'{side}_ids'], position, mask)
  real = mask == 1
  np.testing.assert_allclose(np.asarray(logits)[real], z[f'{side}_logits'][real], atol=1e-4)


@pytest.mark.parametrize('family', FAMILIES)
def test_greedy_continuations_are_theirs(family):
  z, config, weights = fixture(family)
  model = make(**huggingface.shape_of(config))
  params = huggingface.from_hf(weights, model.shape)
  count = z['greedy'].shape[1]
  greedy = pick.make(temperature=0)
  run = jax.jit(functools.partial(generate, model=model, max_new=count, stop=(), pick=greedy))
  out = run(params, z['left_ids'], z['left_mask'], jax.random.key(0))
  np.testing.assert_array_equal(np.asarray(out['tokens'])[:, -count:], z['greedy'])


@pytest.mark.parametrize('family', FAMILIES)
def test_weights_come_back_as_they_were(family):
  _, config, weights = fixture(family)
  shape = Shape(**huggingface.shape_of(config))
  back = huggingface.to_hf(huggingface.from_hf(weights, shape), shape)
  # A tied head is a second name of the embedding; files hold it once.
  dropped = {'lm_head.weight'} & set(weights) if config['tie_word_embeddings'] else set()
  assert set(weights) - set(back) == dropped and set(back) <= set(weights)
  for name, array in back.items():
    np.testing.assert_array_equal(array, weights[name])
    assert array.flags['C_CONTIGUOUS']


@pytest.mark.parametrize('name', MODELS)
def test_params_come_back_as_they_were(name):
  model = make(**MODELS[name])
  params = random_params(model)
  weights = huggingface.to_hf(params, model.shape)
  assert_same(huggingface.from_hf(weights, model.shape), params)


@pytest.mark.parametrize('name', MODELS)
def test_config_describes_the_shape(name):
  shape = Shape(**MODELS[name])
  config = json.loads(json.dumps(huggingface.config_of(shape)))
  assert config['model_type'] == name.split(',')[0]
  assert Shape(**huggingface.shape_of(config)) == shape


@pytest.mark.parametrize('family', FAMILIES)
def test_config_of_the_fixture_survives(family):
  config = fixture(family)[1]
  ours = huggingface.config_of(Shape(**huggingface.shape_of(config)))
  assert ours['model_type'] == config['model_type']
  assert huggingface.shape_of(ours) == huggingface.shape_of(config)


def llama_config(**options):
  base = dict(vocab_size=16, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
  return dict(model_type='llama', intermediate_size=24, **base) | options


def test_old_and_new_spelling_of_rope_agree():
  scaling = dict(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
  )
  new = llama_config(rope_parameters=dict(rope_type='llama3', rope_theta=5e5, **scaling))
  old = llama_config(rope_theta=5e5, rope_scaling=dict(rope_type='llama3', **scaling))
  older = llama_config(rope_theta=5e5, rope_scaling=dict(type='llama3', **scaling))
  shape = huggingface.shape_of(new)
  assert shape['rope_theta'] == 5e5 and shape['rope_scaling'] == SCALING
  assert shape == huggingface.shape_of(old) == huggingface.shape_of(older)


def test_what_a_config_leaves_out():
  shape = huggingface.shape_of(llama_config())
  wanted = dict(num_kv_heads=2, head_dim=8, rope_theta=10000.0, rope_scaling=None, window=None)
  assert wanted.items() <= shape.items()
  assert (shape['head'], shape['norm_eps'], shape['max_length']) == ('untied', 1e-6, 2048)
  gpt2 = dict(model_type='gpt2', vocab_size=16, n_embd=16, n_layer=2, n_head=2)
  shape = huggingface.shape_of(gpt2)
  assert (shape['head'], shape['hidden_dim'], shape['max_length']) == ('tied', 64, 1024)


def test_sliding_window_only_where_it_is_used():
  window = lambda **options: huggingface.shape_of(llama_config(**options))['window']
  assert window(model_type='mistral', sliding_window=7) == 7
  assert window(model_type='mistral') == 4096  # what their class assumes
  assert window(model_type='mistral', sliding_window=None) is None
  qwen = dict(model_type='qwen2', sliding_window=7)
  assert window(**qwen) is None
  assert window(**qwen, use_sliding_window=True, max_window_layers=0) == 7
  assert window(**qwen, use_sliding_window=True, max_window_layers=2) is None
  assert window(**qwen, use_sliding_window=True, layer_types=['sliding_attention'] * 2) == 7
  some = huggingface.shape_of(
    llama_config(**qwen, use_sliding_window=True, max_window_layers=1, num_hidden_layers=4)
  )
  assert (some['window'], some['layers']) == (7, ('global', 'local', 'local', 'local'))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(model_type='mamba'), "model_type 'mamba' is not supported; choose from: llama"),
    (dict(model_type=None), 'model_type None'),
    (dict(model_type='mistral', attention_bias=True), 'mistral with attention_bias=True'),
    (dict(hidden_act='gelu'), "hidden_act='gelu' is not supported; only 'silu'"),
    (dict(rope_scaling=dict(type='mrope', factor=2.0)), "rope_type 'mrope'"),
    (dict(rope_parameters=dict(rope_type='yarn')), "no factor for rope_type 'yarn'"),
    (dict(rope_scaling=dict(type='longrope', long_factor=[1.0])), 'no short_factor'),
    (dict(rope_parameters=dict(rope_type='llama3')), 'no factor'),
    (dict(rope_parameters=dict(partial_rotary_factor=0.5)), 'partial_rotary_factor'),
    (dict(partial_rotary_factor=0.5), 'partial_rotary_factor=0.5'),
    (dict(quantization_config=dict(bits=4)), 'quantization_config'),
    (dict(quantization_config=dict(quant_method='fp8')), r'quantization_config \(fp8\)'),
    (dict(model_type='gpt_oss', swiglu_alpha=1.0), 'swiglu_alpha=1.0 is not'),
    (dict(model_type='gemma', use_bidirectional_attention=True), 'use_bidirectional_attention'),
    (dict(model_type='falcon'), 'new_decoder_architecture=False is not'),
    (dict(model_type='qwen2_moe', decoder_sparse_step=2), 'decoder_sparse_step=2'),
    (dict(model_type='starcoder2', hidden_act='relu'), "hidden_act='relu'"),
    (dict(hidden_size=None), 'no hidden_size'),
  ],
)
def test_configs_we_refuse(options, message):
  with pytest.raises(BadInput, match=message):
    huggingface.shape_of(llama_config(**options))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(causal=False), 'llama, has causal=True, not False'),
    (dict(attention_softcap=5.0), 'attention_softcap=None'),
    (dict(logit_softcap=5.0), 'logit_softcap'),
    (dict(norm='layer'), 'norm='),
    (dict(mlp='gelu'), 'mlp='),
    (dict(bias=True), 'bias=False'),
    (dict(qk_norm=True, qkv_bias=True), 'qwen3, has qkv_bias=False'),
    (dict(position='learned'), 'gpt2, has'),
    (dict(GPT2, num_kv_heads=1), 'gpt2, has num_kv_heads=2, not 1'),
    (dict(GPT2, head_dim=4), 'head_dim'),
    (dict(GPT2, window=4), 'window'),
  ],
)
def test_shapes_they_cannot_say(options, message):
  with pytest.raises(BadInput, match=message):
    huggingface.config_of(Shape(**(SMALL | options)))


def test_what_a_shape_does_not_use_is_not_in_a_config():
  gpt2 = huggingface.config_of(Shape(**GPT2))
  assert gpt2 == huggingface.config_of(Shape(**GPT2, rope_theta=5.0, qkv_bias=True))


def weights_of(**options):
  model = make(**(SMALL | options))
  return huggingface.to_hf(random_params(model), model.shape), model.shape


def test_every_array_is_used_and_every_parameter_filled():
  weights, shape = weights_of()
  norm = 'model.layers.1.input_layernorm.weight'
  with pytest.raises(BadInput, match=f'lacks {norm}$'):
    huggingface.from_hf({k: v for k, v in weights.items() if k != norm}, shape)
  with pytest.raises(BadInput, match=r'no place for model\.extra\.weight$'):
    huggingface.from_hf(weights | {'model.extra.weight': np.zeros(3)}, shape)
  with pytest.raises(BadInput, match=r'has shape \(3,\), but the model needs \(16,\)'):
    huggingface.from_hf(weights | {norm: np.zeros(3)}, shape)
  for packed in (np.int8, ml_dtypes.float8_e4m3fn):
    with pytest.raises(BadInput, match=rf'{norm} is stored as (int8|float8_e4m3fn); take weights'):
      huggingface.from_hf(weights | {norm: np.zeros(16, packed)}, shape)
  with pytest.raises(BadInput, match=r'no place for model\.layers\.1\..* and 4 more'):
    huggingface.from_hf(weights, Shape(**(SMALL | dict(num_layers=1))))
  with pytest.raises(BadInput, match=r'lacks lm_head\.weight'):
    huggingface.from_hf(weights, Shape(**SMALL, head='untied'))
  table = weights['model.embed_tokens.weight']
  huggingface.from_hf(weights | {'lm_head.weight': table}, shape)
  with pytest.raises(BadInput, match=r'lm_head\.weight differs'):
    huggingface.from_hf(weights | {'lm_head.weight': table + 1}, shape)


def test_params_of_another_shape_are_refused():
  model = make(**SMALL)
  params = random_params(model)
  with pytest.raises(BadInput, match=r'blocks/.*found \(2,'):
    huggingface.to_hf(params, Shape(**(SMALL | dict(num_layers=3))))
  with pytest.raises(BadInput, match=r'head/kernel should have shape .* found nothing'):
    huggingface.to_hf(params, Shape(**SMALL, head='untied'))
  with pytest.raises(BadInput, match='no place for extra'):
    huggingface.to_hf(params | {'extra': np.zeros(3)}, model.shape)


def test_old_files_without_prefix_and_with_constants():
  model = make(**GPT2)
  params = random_params(model)
  weights = huggingface.to_hf(params, model.shape)
  old = {name.removeprefix('transformer.'): array for name, array in weights.items()}
  old |= {f'h.{i}.attn.bias': np.ones((1, 1, 32, 32)) for i in range(2)}
  assert_same(huggingface.from_hf(old, model.shape), params)


@pytest.mark.parametrize('kind', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name', ['llama', 'gpt2', 'llama, reward'])
def test_files_come_back(tmp_path, name, kind):
  pytest.importorskip('safetensors')
  model = make(**MODELS[name])
  params = jax.tree.map(lambda x: jnp.asarray(x, kind), random_params(model))
  huggingface.save(tmp_path / 'new' / 'folder', model, params, config={'eos_token_id': 2})
  loaded, back = huggingface.load(
    tmp_path / 'new' / 'folder', compute=dict(dtype='bfloat16', remat='full')
  )
  assert (loaded.compute.dtype, loaded.compute.remat) == ('bfloat16', 'full')
  assert {leaf.dtype for leaf in jax.tree.leaves(back)} == {np.dtype('float32')}
  assert_same(back, jax.tree.map(lambda x: np.asarray(x, np.float32), params))
  config = json.loads((tmp_path / 'new' / 'folder' / 'config.json').read_text())
  assert (config['torch_dtype'], config['eos_token_id']) == (kind, 2)


def test_sharded_checkpoints(tmp_path):
  safetensors = pytest.importorskip('safetensors.numpy')
  model = make(**MODELS['qwen2'])
  params = random_params(model)
  weights = huggingface.to_hf(params, model.shape)
  weights = {k: v.astype(ml_dtypes.bfloat16) for k, v in weights.items()}
  files = {'model-00001-of-00002.safetensors': {}, 'model-00002-of-00002.safetensors': {}}
  where = {}
  for i, (name, array) in enumerate(weights.items()):
    where[name] = sorted(files)[i % 2]
    files[where[name]][name] = array
  for file, part in files.items():
    safetensors.save_file(part, tmp_path / file, metadata={'format': 'pt'})
  (tmp_path / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': where}))
  (tmp_path / 'config.json').write_text(json.dumps(huggingface.config_of(model.shape)))
  loaded, back = huggingface.load(tmp_path)
  assert loaded.shape == model.shape
  rounded = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32), params)
  assert_same(back, rounded)
  (tmp_path / sorted(files)[1]).unlink()
  with pytest.raises(BadInput, match='has no model-00002-of-00002'):
    huggingface.load(tmp_path)


def test_folders_that_cannot_be_read(tmp_path, monkeypatch):
  with pytest.raises(BadInput, match=r'config\.json does not exist'):
    huggingface.load(tmp_path)
  (tmp_path / 'config.json').write_text(json.dumps(llama_config()))
  with pytest.raises(BadInput, match=r'has no model\.safetensors; only safetensors'):
    huggingface.load(tmp_path)
  model = make(**SMALL)
  huggingface.save(tmp_path, model, random_params(model))
  monkeypatch.setitem(sys.modules, 'safetensors.numpy', None)
  with pytest.raises(BadInput, match=r"pip install 'llm_jax\[hf\]'"):
    huggingface.load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_transformers_reads_what_we_write(tmp_path, name):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  model = make(**MODELS[name])
  params = random_params(model)
  if 'head' in params and 'bias' in params['head']:
    params['head']['bias'] = np.float32(0)  # theirs has no place for a shift
  huggingface.save(tmp_path, model, params, config={'bos_token_id': 1, 'eos_token_id': 2})
  config = json.loads((tmp_path / 'config.json').read_text())
  theirs, info = getattr(transformers, config['architectures'][0]).from_pretrained(
    tmp_path, output_loading_info=True
  )
  assert not any(info.values()), info
  ids = np.random.default_rng(0).integers(0, 16, (2, 12))
  with torch.no_grad():
    if (head := MODELS[name].get('head')) in ('scalar', 'classes'):
      wanted = theirs.score(theirs.base_model(torch.tensor(ids))[0]).numpy()
      wanted = wanted[..., 0] if head == 'scalar' else wanted
      assert theirs.config.num_labels == model.shape.outputs
    else:
      wanted = theirs(torch.tensor(ids)).logits.numpy()
  np.testing.assert_allclose(jax.jit(model.apply)(params, ids)[0], wanted, atol=1e-4, rtol=1e-5)
