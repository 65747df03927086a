"""Models of others come in and go out bit by bit, in small memory, and what cannot is refused."""

import dataclasses
import json
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from llm_jax import artifact, main
from llm_jax.jobs import model_export
from llm_jax.jobs.model_import import Import
from llm_jax.models import compared, huggingface, transformer
from llm_jax.models.huggingface import folder as folders
from llm_jax.models.stored import Layers
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text import chat
from llm_jax.text import folder as tokenizers
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput
from tests.configs_test import config_of

pytest.importorskip('safetensors')
TOKENIZER = Path(__file__).parents[1] / 'fixtures' / 'tokenizers' / 'sentencepiece'
SHAPES = {
  'llama': dict(num_kv_heads=2, head='untied'),
  'qwen2': dict(qkv_bias=True, head='tied'),
  'gpt2': dict(norm='layer', mlp='gelu', position='learned', bias=True, head='tied'),
  'mistral': dict(num_kv_heads=2, head='untied'),
  'deepseek_v3': dict(
    head_dim=8, rope_dim=4, latent=dict(kv_rank=8, q_rank=8, value_dim=4), dense_layers=1,
    dense_dim=64, experts=dict(count=4, balance='bias', score='sigmoid'), head='untied',
  ),
}  # fmt: skip


def settings(**fields):
  c = config_of('convert')
  with c.unlocked():
    c.update({k: str(v) if isinstance(v, Path) else v for k, v in fields.items()})
  return c


def theirs(folder, name='llama', shards=3, dtype=ml_dtypes.bfloat16, **more):
  """A folder as somebody publishes it, of random weights."""
  shape = dict(vocab_size=520, dim=16, num_layers=3, num_heads=4, max_length=64)
  model = transformer.make(**(shape | SHAPES[name] | more))
  laid, draw = huggingface.plan(model.shape, name), np.random.default_rng(0)
  made = lambda source: (0.3 * draw.standard_normal(source.shape)).astype(dtype)
  size = sum(np.prod(s.shape) for s in laid.sources) * np.dtype(dtype).itemsize
  folder.mkdir()
  about = huggingface.config_of(model.shape, name)
  dtypes = {source.name: np.dtype(dtype) for source in laid.sources}
  folders.write(folder, about, laid.sources, made, dtypes, shard_bytes=size // shards + 1)
  for path in TOKENIZER.iterdir():
    shutil.copy(path, folder)
  return folder


def arrays(folder):
  return dict(folders.Folder(folder).read(list(folders.Folder(folder))))


@pytest.mark.parametrize('name', [name for name in SHAPES if name != 'mistral'])
def test_in_and_out_again_are_the_same_bits(name, tmp_path):
  source = theirs(tmp_path / 'theirs', name)
  main.run(settings(source=source, workdir=tmp_path / 'ours'))
  made = artifact.load(tmp_path / 'ours', make_mesh(data=1))
  wanted = folders.Folder(source)
  model, params = huggingface.load(source)
  jax.tree.map(np.testing.assert_array_equal, made.params, params)
  tokens = jnp.arange(8)[None]
  said = lambda model, params: jax.jit(model.apply)(params, tokens)[0]
  np.testing.assert_array_equal(said(made.model, made.params), said(model, params))
  main.run(settings(artifact=tmp_path / 'ours', workdir=tmp_path / 'out', family=name))
  got = arrays(tmp_path / 'out')
  assert got.keys() == set(wanted)
  for key, value in arrays(source).items():
    assert got[key].dtype == value.dtype
    np.testing.assert_array_equal(got[key].view(np.uint16), value.view(np.uint16))
  assert huggingface.shape_of(folders.read_json(tmp_path / 'out' / 'config.json')) == (
    huggingface.shape_of(wanted.config)
  )
  for path in TOKENIZER.iterdir():
    if path.name == 'tokenizer.json':
      assert (tmp_path / 'out' / path.name).read_bytes() == path.read_bytes()


def test_a_model_goes_back_to_the_family_that_it_came_from(tmp_path):
  source = theirs(tmp_path / 'theirs', 'mistral')
  main.run(settings(source=source, workdir=tmp_path / 'ours'))
  made = artifact.load(tmp_path / 'ours', make_mesh(data=1))
  made = dataclasses.replace(made, stage='sft', parent=str(tmp_path / 'ours'))
  artifact.save(tmp_path / 'tuned', made)
  for name in ('ours', 'tuned'):
    main.run(settings(artifact=tmp_path / name, workdir=tmp_path / f'{name}_out'))
    assert folders.Folder(tmp_path / f'{name}_out').config['model_type'] == 'mistral'
  shutil.rmtree(tmp_path / 'ours')
  main.run(settings(artifact=tmp_path / 'tuned', workdir=tmp_path / 'alone'))
  assert folders.Folder(tmp_path / 'alone').config['model_type'] == 'llama'


def test_files_are_small_and_listed(tmp_path):
  source = theirs(tmp_path / 'theirs', shards=1)
  main.run(settings(source=source, workdir=tmp_path / 'ours'))
  main.run(settings(artifact=tmp_path / 'ours', workdir=tmp_path / 'out', shard_bytes=10_000))
  found = folders.Folder(tmp_path / 'out')
  assert len(found.shards) > 3
  largest = max(value.nbytes for value in arrays(source).values())
  sizes = [(tmp_path / 'out' / file).stat().st_size for file in found.shards]
  assert max(sizes) < max(10_000, largest) + 4096
  index = json.loads((tmp_path / 'out' / 'model.safetensors.index.json').read_text())
  assert index['weight_map'].keys() == set(arrays(source))


def test_another_dtype_is_rounded_once(tmp_path):
  source = theirs(tmp_path / 'theirs', dtype=np.float32)
  main.run(settings(source=source, workdir=tmp_path / 'ours', dtype='bfloat16'))
  main.run(settings(artifact=tmp_path / 'ours', workdir=tmp_path / 'out', dtype='float32'))
  for key, value in arrays(source).items():
    rounded = value.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(arrays(tmp_path / 'out')[key], rounded)


def test_a_conversion_that_was_stopped_goes_on_and_reads_no_file_twice(tmp_path, monkeypatch):
  source = theirs(tmp_path / 'theirs')
  read, seen = Import._read, []

  def stop(self, file, stored):
    if len(seen) == 2:
      raise KeyboardInterrupt
    seen.append(file)
    read(self, file, stored)

  monkeypatch.setattr(Import, '_read', stop)
  c = settings(source=source, workdir=tmp_path / 'ours')
  with pytest.raises(KeyboardInterrupt):
    main.run(c)
  assert not (tmp_path / 'ours' / artifact.FILE).exists()
  again = []
  monkeypatch.setattr(
    Import,
    '_read',
    lambda self, file, stored: again.append(file) or read(self, file, stored),
  )
  main.run(c)
  assert sorted(seen + again) == sorted(folders.Folder(source).shards) and not set(seen) & set(
    again
  )
  made = artifact.load(tmp_path / 'ours', make_mesh(data=1)).params
  jax.tree.map(np.testing.assert_array_equal, made, huggingface.load(source)[1])


def test_what_was_written_wrong_is_not_called_done(tmp_path, monkeypatch):
  source = theirs(tmp_path / 'theirs')
  main.run(settings(source=source, workdir=tmp_path / 'ours'))
  made = model_export.array_of
  first = []

  def once(source, stored):
    array = made(source, stored)
    if source.name.endswith('q_proj.weight') and not first:
      first.append(array)
      array = array[::-1].copy()
    return array

  monkeypatch.setattr(model_export, 'array_of', once)
  with pytest.raises(AssertionError, match='is not what was written'):
    main.run(settings(artifact=tmp_path / 'ours', workdir=tmp_path / 'out'))
  assert not (tmp_path / 'out').exists()


def test_comparing_holds_no_layer_but_the_one_at_hand(tmp_path):
  source = folders.Folder(theirs(tmp_path / 'theirs', dim=64, num_layers=5))
  model = transformer.make(compute=compared.COMPUTE, **huggingface.shape_of(source.config))
  plan = huggingface.plan(model.shape, 'llama')
  parts = source.parts(plan)
  live = lambda: sum(array.nbytes for array in jax.live_arrays())
  before, held = live(), []

  def layer(i):
    held.append(live() - before)
    return parts.layers['blocks'][i]

  seen = parts._replace(layers={'blocks': Layers(5, layer)})
  dtypes = dict.fromkeys(plan.shapes, np.dtype(ml_dtypes.bfloat16))
  compared.compare(model, seen, parts, dtypes, 'it')
  assert len(held) == 5 and max(held) < sum(x.nbytes for x in parts.layers['blocks'][0].values())


def test_writing_holds_an_array_and_the_next(tmp_path):
  shape = transformer.make(vocab_size=64, dim=16, num_layers=4, num_heads=4, head='untied').shape
  sources, held, most = huggingface.plan(shape, 'llama').sources, weakref.WeakSet(), []

  class Seen(np.ndarray):
    __hash__ = object.__hash__

  def make(source):
    array = np.zeros(source.shape, np.float32).view(Seen)
    held.add(array)
    most.append(len(held))
    return array

  dtypes = {source.name: np.dtype(np.float32) for source in sources}
  folders.write(tmp_path, {}, sources, make, dtypes, shard_bytes=30_000)
  assert len(list(tmp_path.glob('*.safetensors'))) > 1 and max(most) <= 3


def test_a_file_for_llama_cpp(tmp_path):
  gguf = pytest.importorskip('gguf')
  source = theirs(tmp_path / 'theirs')
  main.run(settings(source=source, workdir=tmp_path / 'ours'))
  main.run(settings(artifact=tmp_path / 'ours', workdir=tmp_path / 'out', format='gguf'))
  reader = gguf.GGUFReader(tmp_path / 'out' / 'model.gguf')
  held, said = {x.name: x.data for x in reader.tensors}, reader.fields
  wanted = arrays(source)['model.layers.1.mlp.up_proj.weight']
  np.testing.assert_array_equal(held['blk.1.ffn_up.weight'], wanted.view(np.uint8))
  assert said['general.architecture'].contents() == 'llama'
  assert len(said['tokenizer.ggml.tokens'].contents()) == 520
  assert not (tmp_path / 'out.partial').exists()


def test_an_artifact_of_ours_leaves_with_its_own_tokenizer(tmp_path):
  source = theirs(tmp_path / 'theirs')
  main.run(settings(source=source, workdir=tmp_path / 'made'))
  made = artifact.load(tmp_path / 'made', make_mesh(data=1))
  ours = Tokenizer.train(['the cat sat on the mat'], vocab_size=290)
  ours.chat_template = chat.jinja('llm_jax')
  artifact.save(tmp_path / 'ours', dataclasses.replace(made, tokenizer=ours))
  main.run(settings(artifact=tmp_path / 'ours', workdir=tmp_path / 'out'))
  other = tokenizers.load(tmp_path / 'out')
  stops = [ours.eos_id, ours.special('<|im_end|>')]
  assert list(other.stop_ids) == stops and other.chat_template == ours.chat_template
  assert folders.read_json(tmp_path / 'out' / 'config.json')['eos_token_id'] == stops
  assert other.encode('the mat 猫') == ours.encode('the mat 猫')
  main.run(settings(artifact=tmp_path / 'ours', workdir=tmp_path / 'gguf', format='gguf'))


def edit(folder, **entries):
  about = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(about | entries))


def shard(folder):
  return next(folder.glob('model-00002-of-*'))


def relist(folder, change):
  path = folder / 'model.safetensors.index.json'
  index = json.loads(path.read_text())
  change(index['weight_map'])
  path.write_text(json.dumps(index))


@pytest.mark.parametrize(
  'damage, message',
  [
    (lambda f: edit(f, model_type='wave'), "model_type 'wave' is not supported"),
    (lambda f: edit(f, quantization_config={'quant_method': 'gptq'}), 'gptq'),
    (lambda f: edit(f, vocab_size=9), 'has shape'),
    (lambda f: edit(f, hidden_size=None), 'config.json has no hidden_size'),
    (lambda f: shard(f).unlink(), 'has no model-00002-of-'),
    (lambda f: (f / 'config.json').write_text('{'), 'is no JSON'),
    (lambda f: (f / 'config.json').unlink(), 'does not exist'),
    (lambda f: (f / 'tokenizer.json').unlink(), 'no tokenizer'),
    (lambda f: relist(f, lambda m: m.update({'model.more': shard(f).name})),
     'lacks model.more'),
    (lambda f: relist(f, lambda m: m.update({'x': '../../etc/passwd'})), 'no name of a file'),
    (lambda f: shard(f).write_bytes(b'x' * 99), 'cannot be read'),
    (lambda f: [p.rename(f / 'pytorch_model.bin') for p in f.glob('model*')],
     'pytorch_model.bin would run code'),
  ],
)  # fmt: skip
def test_a_folder_that_cannot_be_read_is_refused_before_anything_is_written(
  damage, message, tmp_path
):
  source = theirs(tmp_path / 'theirs')
  damage(source)
  with pytest.raises(BadInput, match=message) as error:
    main.run(settings(source=source, workdir=tmp_path / 'ours'))
  assert '\n' not in str(error.value) and not (tmp_path / 'ours').exists()


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_both_ways(bad, tmp_path):
  source = theirs(tmp_path / 'theirs', shards=1, dtype=np.float32)
  path = source / 'model.safetensors'
  weights = dict(arrays(source))
  some = next(name for name in weights if name.endswith('down_proj.weight'))
  save = pytest.importorskip('safetensors.numpy').save_file
  save(weights | {some: np.full_like(weights[some], bad)}, path)
  with pytest.raises(BadInput, match=r'down_proj\.weight has numbers that are not finite'):
    main.run(settings(source=source, workdir=tmp_path / 'ours'))
  assert not (tmp_path / 'ours' / artifact.FILE).exists()
  save(weights | {some: np.full_like(weights[some], 1e30)}, path)
  main.run(settings(source=source, workdir=tmp_path / 'wide'))
  with pytest.raises(BadInput, match=r'not finite as float16; take another config\.dtype'):
    main.run(settings(artifact=tmp_path / 'wide', workdir=tmp_path / 'out', dtype='float16'))
  assert not (tmp_path / 'out').exists()


def test_a_damaged_artifact_is_not_exported(tmp_path):
  main.run(settings(source=theirs(tmp_path / 'theirs'), workdir=tmp_path / 'ours'))
  path = tmp_path / 'ours' / 'tokenizer' / 'tokenizer.json'
  path.write_bytes(path.read_bytes() + b' ')
  with pytest.raises(BadInput, match=r'tokenizer.* is damaged, tokenizer\.json differs'):
    main.run(settings(artifact=tmp_path / 'ours', workdir=tmp_path / 'out'))


def test_two_processes_do_not_write_one_folder(tmp_path):
  source = theirs(tmp_path / 'theirs')
  hold = (
    'import sys\nfrom llm_jax.lock import locked\n'
    'with locked(sys.argv[1]):\n  print("held", flush=True)\n  sys.stdin.read()\n'
  )
  command = [sys.executable, '-c', hold, str(tmp_path / 'ours')]
  with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
    other.stdout.readline()
    with pytest.raises(BadInput, match='is at work there'):
      main.run(settings(source=source, workdir=tmp_path / 'ours'))
    other.stdin.close()


def test_what_the_config_asks_is_checked(tmp_path):
  for fields, message in (
    (dict(artifact=''), 'nothing to convert'),
    (dict(source=tmp_path, workdir=''), 'workdir is empty'),
    (dict(source=tmp_path / 'none', workdir=tmp_path / 'x'), 'does not exist'),
    (dict(artifact=tmp_path / 'none', workdir=tmp_path / 'x'), 'no folder'),
  ):
    with pytest.raises(BadInput, match=message):
      main.run(settings(**fields))


def test_nothing_that_is_there_is_overwritten(tmp_path):
  source = theirs(tmp_path / 'theirs')
  main.run(settings(source=source, workdir=tmp_path / 'ours'))
  before = {p: p.read_bytes() for p in (tmp_path / 'theirs').iterdir()}
  with pytest.raises(BadInput, match='is not empty'):
    main.run(settings(artifact=tmp_path / 'ours', workdir=source))
  assert {p: p.read_bytes() for p in (tmp_path / 'theirs').iterdir()} == before
  main.run(settings(source=source, workdir=tmp_path / 'ours'))  # it is finished, and says so
