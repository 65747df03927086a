"""Does llama.cpp say of our GGUF files what we say of the models?

python -m experiments.interop.llama_cpp             # a random model of every architecture
python -m experiments.interop.llama_cpp ARTIFACT    # exports one, perhaps with expected.json

Needs the package xllamacpp, a build of llama.cpp that serves on a local port. Of a random model the
largest difference of log-probabilities over the vocabulary is printed, and how many of some greedy
tokens are the same; of an artifact, greedy tokens and the ids of hard texts. EXPECTED, a file
{'prompts': [{'ids', 'greedy_ids'}]} behind the artifact, is what somebody else's program said.
"""

import json
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from llm_jax import artifact, main
from llm_jax.data.builtin import documents
from llm_jax.models import gguf, huggingface, transformer
from llm_jax.models.huggingface.arrays import parameter_shapes
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text import gguf_vocabulary, tokenizer_export
from llm_jax.text.tokenizer import Tokenizer

VOCAB, PROMPT, MORE, LIKELIEST = 512, 24, 16, 20
TOKENS, TYPES = 'tokenizer.ggml.tokens', 'tokenizer.ggml.token_type'
SMALL: dict[str, Any] = dict(
  vocab_size=VOCAB, dim=64, num_layers=4, num_heads=4, num_kv_heads=2, hidden_dim=96,
  max_length=128, head='untied',
)  # fmt: skip
GEMMA: dict[str, Any] = dict(
  norm='zero_centered_rms', mlp='geglu', head_dim=32, embedding_scale=8.0, head='tied'
)
WINDOWS: dict[str, Any] = dict(window=6, post_norm=True, query_scale=32**-0.5)
YARN = dict(kind='yarn', factor=4.0, original_length=16)
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=32)
LAYERS: dict[str, Any] = dict(norm='layer', head='tied')
EXPERTS = dict(count=4, per_token=2)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
  'llama': ('llama', {}),
  'llama, tied': ('llama', dict(head='tied')),
  'llama with biases': ('llama', dict(qkv_bias=True, out_bias=True, mlp_bias=True)),
  'llama, linear': ('llama', dict(rope_scaling=dict(factor=4.0))),
  'llama, yarn': ('llama', dict(rope_scaling=YARN)),
  'llama, yarn by hand': ('llama', dict(rope_scaling=dict(YARN, attention_factor=1.5))),
  'llama 3': ('llama', dict(rope_scaling=LLAMA3, rope_theta=5e5)),
  'mistral': ('mistral', dict(window=64, head_dim=32)),
  'mixtral': ('mixtral', dict(experts=EXPERTS)),
  'qwen2': ('qwen2', dict(qkv_bias=True)),
  'qwen2, yarn': ('qwen2', dict(qkv_bias=True, rope_scaling=YARN)),
  'qwen2_moe': ('qwen2_moe', dict(
    qkv_bias=True, experts=dict(EXPERTS, normalize=False, shared_dim=80, shared_gate=True)
  )),
  'qwen3': ('qwen3', dict(qk_norm=True, head_dim=32, head='tied')),
  'qwen3_moe': ('qwen3_moe', dict(qk_norm=True, experts=EXPERTS)),
  'gpt2': ('gpt2', dict(LAYERS, mlp='gelu', position='learned', bias=True, num_kv_heads=4)),
  'starcoder2': ('starcoder2', dict(
    LAYERS, mlp='gelu', qkv_bias=True, out_bias=True, mlp_bias=True
  )),
  'phi3': ('phi3', dict(rope_dim=8)),
  'olmo2': ('olmo2', dict(pre_norm=False, post_norm=True, qk_norm='wide')),
  'smollm3': ('smollm3', dict(layers=['global'] * 3 + ['nope'], head='tied')),
  'granite': ('granite', dict(
    embedding_scale=6.0, residual_scale=0.3, query_scale=0.2, logit_divisor=4.0
  )),
  'gemma': ('gemma', GEMMA),
  'gemma2': ('gemma2', dict(
    GEMMA, **WINDOWS, layers=['local', 'global'], attention_softcap=5.0, logit_softcap=8.0
  )),
  'gemma3': ('gemma3_text', dict(
    GEMMA, **WINDOWS, qk_norm=True, num_layers=6, layers=['local'] * 5 + ['global'], rope_theta=1e6,
    rope_scaling=dict(factor=8.0),
    kinds={'local': {'rope_theta': 1e4, 'rope_scaling': None}},
  )),
}  # fmt: skip


class Server:
  """llama.cpp with a file."""

  def __init__(self, path: Path) -> None:
    import xllamacpp

    options = xllamacpp.CommonParams()
    options.model.path, options.n_parallel, options.warmup = str(path), 1, False
    options.verbosity = 0
    for cache in ('cache_type_k', 'cache_type_v'):  # as exact as it can be
      setattr(options, cache, xllamacpp.ggml_type.GGML_TYPE_F32)
    options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    self._server = xllamacpp.Server(options)

  def ask(self, route: str, **body: Any) -> Any:
    """What a route of the server answers."""
    data, kind = json.dumps(body).encode(), {'Content-Type': 'application/json'}
    request = urllib.request.Request(self._server.listening_address + route, data, kind)
    with urllib.request.urlopen(request) as answer:
      return json.load(answer)

  def ids(self, text: str) -> list[int]:
    """Of a text that has no control tokens."""
    return self.ask('/tokenize', content=text, add_special=False, parse_special=False)['tokens']

  def greedy(
    self, ids: list[int], count: int, probs: int = 0
  ) -> tuple[list[int], dict[int, float]]:
    """Tokens that follow, and the log-probabilities of the first."""
    asked = dict(prompt=ids, n_predict=count, temperature=0, n_probs=probs, return_tokens=True)
    found = self.ask('/completion', **asked)
    rows = found.get('completion_probabilities') or [{'top_logprobs': []}]
    return found['tokens'], {row['id']: row['logprob'] for row in rows[0]['top_logprobs']}


def drawn(shape: Any) -> dict[str, np.ndarray]:
  """Random parameters: matrices of about unit gain, vectors around what does nothing."""
  draw, found = np.random.default_rng(0), {}
  for path, size in parameter_shapes(shape).items():
    x = draw.standard_normal(size).astype(np.float32)
    wide = len(size) - path.startswith(('blocks/', 'dense_blocks/')) > 1
    centre = 'scale' in path and 'zero' not in shape.norm
    found[path] = x * 1.5 * shape.dim**-0.5 if wide else centre + 0.3 * x
  return found


def continued(model: Any, params: Any, ids: list[int], count: int) -> list[int]:
  """Greedy tokens of ours, without a cache."""
  ids = list(ids)
  start = len(ids)
  best = jax.jit(lambda row, last: jnp.argmax(model.apply(params, row)[0][0, last]))
  for _ in range(count):
    row = np.pad(ids, (0, start + count - len(ids)))[None]
    ids.append(int(best(row, len(ids) - 1)))
  return ids[start:]


def random_models(folder: Path) -> None:
  """Prints a row for each of MODELS."""
  tokenizer = Tokenizer.train(documents('train'), vocab_size=400)
  vocabulary = gguf_vocabulary.entries(tokenizer, VOCAB, [VOCAB - 1])
  # The server holds tokens back until their bytes are a character; so these are words instead.
  kept = [token if token == '<0x0A>' else f'<{i}>' for i, token in enumerate(vocabulary[TOKENS])]
  types = [6 if token == '<0x0A>' else 1 for token in kept]
  vocabulary |= {TOKENS: kept, TYPES: types}
  ids = np.random.default_rng(1).integers(20, 400, PROMPT).tolist()
  for name, (family, fields) in MODELS.items():
    model = transformer.make(**{**SMALL, **fields})
    flat = drawn(model.shape)
    laid = gguf.layout(
      model.shape, huggingface.plan(model.shape, family), family, np.dtype(np.float32)
    )
    path = folder / f'{family}.gguf'
    read = lambda path, index, flat=flat: flat[path][index]
    gguf.write(path, laid, vocabulary, read, list)
    gguf.compare(path, laid, vocabulary, read, list)
    params = unflatten_dict(flat, sep='/')
    logits = np.asarray(model.apply(params, jnp.array([ids]))[0][0, -1], np.float64)
    logprobs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    tokens, theirs = Server(path).greedy(ids, MORE, LIKELIEST)
    worst = max((abs(logprobs[i] - x) for i, x in theirs.items()), default=np.nan)
    same = sum(a == b for a, b in zip(tokens, continued(model, params, ids, MORE)))
    print(f'{name:20} {len(theirs)} log-probabilities to {worst:.1e}, greedy {same}/{len(tokens)}')


def exported(source: str, expected: str | None, folder: Path) -> None:
  """Exports an artifact and prints how much of it is the same in llama.cpp."""
  main.main(['', '--config=convert', '--config.source=', f'--config.artifact={source}',
                f'--config.workdir={folder}/out', '--config.format=gguf'])  # fmt: skip
  made = artifact.load(source, make_mesh(data=1))
  server = Server(folder / 'out' / 'model.gguf')
  if expected:
    rows = [
      (row['ids'], row['greedy_ids']) for row in json.loads(Path(expected).read_text())['prompts']
    ]
  else:
    starts = [
      [*made.tokenizer.begin, *made.tokenizer.encode(t[:40])] for t in documents('validation')[:4]
    ]
    rows = [(ids, continued(made.model, made.params, ids, MORE)) for ids in starts]
  same = sum(server.greedy(ids, len(wanted))[0] == wanted for ids, wanted in rows)
  print(f'greedy ids: {same} of {len(rows)} prompts')
  texts = [*tokenizer_export.HARD]
  same = [server.ids(text) == made.tokenizer.encode(text) for text in texts]
  print(f'ids of hard texts: {sum(same)} of {len(texts)}')
  for text in [text for text, equal in zip(texts, same) if not equal][:9]:
    print(f'  differs: {text[:60]!r}')


if __name__ == '__main__':
  try:
    import xllamacpp  # noqa: F401
  except ImportError:
    sys.exit('skipped: needs the package xllamacpp; pip install xllamacpp')
  with tempfile.TemporaryDirectory() as place:
    if sys.argv[1:]:
      exported(sys.argv[1], next(iter(sys.argv[2:]), None), Path(place))
    else:
      random_models(Path(place))
