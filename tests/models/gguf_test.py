"""GGUF files hold the models of the table, in llama.cpp's layout, and nothing else is written."""

import numpy as np
import pytest

from experiments.interop.llama_cpp import MODELS, SMALL, drawn
from llm_jax.models import gguf_blocks, huggingface, transformer
from llm_jax.models.gguf import ARCHITECTURES, compare, layout, write
from llm_jax.types import BadInput
from tests.compress.golden import LAYER

library = pytest.importorskip('gguf')


def laid_out(family, dtype=np.float32, **fields):
  shape = transformer.make(**{**SMALL, **fields}).shape
  return layout(shape, huggingface.plan(shape, family), family, np.dtype(dtype)), shape


SOME = [name for name in MODELS if ',' not in name]


@pytest.fixture(scope='module', params=SOME)
def written(request, tmp_path_factory):
  """(layout, shape, parameters, path of the file) of a model in 16 bits."""
  family, fields = MODELS[request.param]
  laid, shape = laid_out(family, np.float16, **fields)
  flat = {path: x.astype(np.float16) for path, x in drawn(shape).items()}
  read = lambda path, index: flat[path][index]
  path = tmp_path_factory.mktemp('gguf') / 'a.gguf'
  write(path, laid, {'general.name': 'a'}, read, list)
  return laid, shape, flat, read, path


def test_arrays_are_those_of_the_architecture_in_its_layout(written):
  laid, shape, flat, _, path = written
  held = {tensor.name: tensor.data for tensor in library.GGUFReader(path).tensors}
  for name, data in held.items():
    wide = data.ndim == 1 or 'gate_inp' in name or 'position' in name
    assert data.dtype == (np.float32 if wide else np.float16), name
  assert ('output.weight' in held) == (shape.head == 'untied' or laid.architecture.name == 'gpt2')
  if 'blk.1.attn_q.weight' in held:
    for letter, heads in (('q', shape.num_heads), ('k', shape.num_kv_heads)):
      ours = flat[f'blocks/attention/{letter}'][1].reshape(shape.dim, -1).T
      size, half = shape.head_dim, shape.head_dim // 2
      rows = [2 * j if j < half else 2 * (j - half) + 1 for j in range(size)]
      wanted = np.empty_like(ours)
      for head in range(heads):  # row j of the halves is row `rows[j]` of the pairs
        for j in range(size):
          place = rows[j] if laid.architecture.pairs else j
          wanted[head * size + place] = ours[head * size + j]
      np.testing.assert_array_equal(held[f'blk.1.attn_{letter}.weight'], wanted)
  if 'blk.1.ffn_down.weight' in held:
    np.testing.assert_array_equal(held['blk.1.ffn_down.weight'], flat['blocks/mlp/down'][1].T)
  else:
    np.testing.assert_array_equal(
      held['blk.1.ffn_down_exps.weight'], flat['blocks/experts/down'][1].swapaxes(1, 2)
    )
  scale = flat['final_norm/scale'].astype(np.float32)
  np.testing.assert_array_equal(held['output_norm.weight'], scale + laid.architecture.plus_one)


def test_what_is_there_is_read_back_and_one_bit_is_found(written):
  laid, _, flat, read, path = written
  about = {'general.name': 'a'}
  compare(path, laid, about, read, list)
  for array in laid.arrays[:: len(laid.arrays) // 3]:
    where = array.sources[-1].paths[0]
    one = flat[where][array.sources[-1].index]
    other = {where: np.nextafter(one, np.float16(9))}
    wrong = lambda path, index, other=other: other.get(path, read(path, index))
    with pytest.raises(AssertionError, match='is not what was written'):
      compare(path, laid, about, wrong, list)
  with pytest.raises(AssertionError, match=r'general\.name'):
    compare(path, laid, {'general.name': 'b'}, read, list)


def test_every_architecture_has_a_model_here():
  assert {family for family, _ in MODELS.values()} == set(ARCHITECTURES)


GEMMA2, GEMMA3 = MODELS['gemma2'][1], MODELS['gemma3'][1]


@pytest.mark.parametrize(
  'family, fields, message',
  [
    ('gpt_neox', dict(norm='layer', parallel=True, mlp='exact_gelu', mlp_bias=True, rope_dim=8,
                      num_kv_heads=4), 'gpt_neox has no row'),
    ('llama', dict(head='scalar'), 'no head for a reward model'),
    ('llama', dict(head='classes', classes=('a', 'b')), 'no head for a classifier'),
    ('llama', dict(rope_scaling=dict(kind='dynamic', factor=2.0, original_length=64)), 'Dynamic'),
    ('qwen2', dict(qkv_bias=True, rope_scaling=dict(
      factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=32)), 'Llama3'),
    ('qwen3_moe', dict(qk_norm=True, experts=dict(count=4, normalize=False)), 'experts='),
    ('gpt2', dict(MODELS['gpt2'][1], mlp='exact_gelu'), "mlp='gelu', not 'exact_gelu'"),
    ('gemma2', dict(GEMMA2, query_scale=0.2), 'query_scale'),
    ('gemma2', dict(GEMMA2, layers=['global', 'local']), 'another kind than here'),
    ('gemma3_text', dict(GEMMA3, layers=['local', 'global']), 'every 6 layers the last differs'),
    ('smollm3', dict(layers=['nope', 'global']), 'every 4 layers the last differs'),
  ],
)  # fmt: skip
def test_what_llama_cpp_would_run_as_something_else_is_refused(family, fields, message):
  with pytest.raises(BadInput, match=message) as error:
    laid_out(family, **fields)
  assert '\n' not in str(error.value)


def test_a_window_that_llama_cpp_does_not_have_bounds_the_context():
  laid, _ = laid_out('mistral', window=48)
  assert laid.entries['llama.context_length'] == 48


@pytest.mark.parametrize('name', ['q8_0', 'q4_0'])
@pytest.mark.parametrize('edge', ['', 'edge_'])  # zeros, one value, ties, tiny and huge numbers
def test_blocks_are_those_of_the_package_byte_for_byte(name, edge):
  weight = LAYER['edge' if edge else 'W']
  wanted = LAYER[f'{edge}gguf_{name.upper()}']
  np.testing.assert_array_equal(gguf_blocks.BLOCKS[name].write(weight), wanted)


def test_a_block_whose_inverse_scale_would_overflow_is_0():
  tiny = np.full((1, 32), 1e-39, np.float32)
  for blocks in gguf_blocks.BLOCKS.values():
    assert not blocks.write(tiny)[:, :2].any()


@pytest.mark.parametrize(('name', 'bits'), [('q8_0', 8.5), ('q4_0', 4.5)])
def test_a_model_in_blocks_is_written_and_read_back(name, bits, tmp_path):
  shape = transformer.make(**{**SMALL, 'dim': 64, 'hidden_dim': 40, 'num_kv_heads': 2}).shape
  laid = layout(shape, huggingface.plan(shape, 'llama'), 'llama', np.dtype(np.float16), name)
  flat = drawn(shape)
  read = lambda path, index: flat[path][index]
  write(tmp_path / 'a.gguf', laid, {}, read, list)
  compare(tmp_path / 'a.gguf', laid, {}, read, list)
  reader = library.GGUFReader(tmp_path / 'a.gguf')
  held = {tensor.name: tensor for tensor in reader.tensors}
  gate = held['blk.0.ffn_gate.weight']
  assert gate.tensor_type.name == name.upper() and gate.n_bytes == bits / 8 * 64 * 40
  assert held['blk.0.ffn_down.weight'].tensor_type.name == 'F16'  # 40 inputs are no whole blocks
  assert held['token_embd.weight'].tensor_type.name == 'Q8_0'
  assert held['blk.0.attn_norm.weight'].tensor_type.name == 'F32'
  assert reader.fields['general.file_type'].contents() == {'q8_0': 7, 'q4_0': 2}[name]
  back = library.quants.dequantize(gate.data, gate.tensor_type)
  ours = flat['blocks/mlp/gate'][0].T
  assert np.linalg.norm(back - ours) < {'q8_0': 0.01, 'q4_0': 0.12}[name] * np.linalg.norm(ours)
  flat['blocks/mlp/gate'][0, 0, 0] += 1
  with pytest.raises(AssertionError, match=r'blk\.0\.ffn_gate\.weight is not what was written'):
    compare(tmp_path / 'a.gguf', laid, {}, read, list)
