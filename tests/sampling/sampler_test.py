"""Tools and stop strings: what is sampled and what is fed stay apart, and stay the same tokens."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.losses.logprobs import score
from llm_jax.losses.policy_gradient import loss_fn
from llm_jax.models import lora, transformer
from llm_jax.models.cache import empty as make_cache
from llm_jax.models.cache import write
from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.parallel.parameters import shardings
from llm_jax.sampling import pick, sampler
from llm_jax.sampling.calls import Tools
from llm_jax.sampling.generate import left_pad
from llm_jax.sampling.sampler import Sampler
from llm_jax.text import quotes as quotes_of
from llm_jax.text.templates import MARKS
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

NEW, WIDTH, SLOTS = 20, 12, 96
FIELDS = ('tokens', 'position', 'segment')


class Script:
  """A language model that reads its lines: `params` [scripts, positions, V] has the logits.

  The first token of a row says which script it is in; to know it later, the model looks into its
  cache, which holds the tokens where others hold keys.
  """

  def __init__(self, vocab_size):
    self.shape = SimpleNamespace(vocab_size=vocab_size, max_length=SLOTS, causal=True)

  def for_decoding(self, params):
    return self, params

  def make_cache(self, batch, slots):
    return make_cache(batch, slots, num_layers=1, num_heads=1, head_dim=1, dtype='int32')

  def apply(self, params, x, position=None, segment=None, cache=None, method=None):
    if method == 'unembed':
      return x
    if cache is None:
      held, place, real, out = x, position, segment, None
    else:
      out, slots = cache.extend(position, segment)
      tokens = x[:, None, :, None]
      layer = write(out.layers[0], tokens, tokens, slots)
      out = dataclasses.replace(out, layers=(layer,))
      held, place, real = layer['k'][:, 0, :, 0], out.position, out.segment
    first_R = jnp.where((place == 0) & (real > 0), held, 0).sum(1)
    return params[first_R[:, None], position], out


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer.train(['the cat sat on a mat'] * 20, vocab_size=290)


def marks(tokenizer):
  return [tokenizer.special(name) for name in (*MARKS['search'], *MARKS['result'])]


def play(tokenizer, number, prompt, *turns, most=NEW):
  """The prompt of a script, its table of logits, and the row [ids, mask] that it is to become.

  A turn is either what the model says (a text, `<` and `>` standing for the marks of a call and `.`
  for the end of text) or, in a tuple, the text of a result.
  """
  begin, end, opened, closed = marks(tokenizer)
  control = {'<': begin, '>': end, '.': tokenizer.eos_id}
  prompt = [number, *tokenizer.encode(prompt)]
  ids, mask = [*prompt], [0] * len(prompt)
  for turn in turns:
    if isinstance(turn, tuple):
      more = [opened, *tokenizer.encode(turn[0])[: WIDTH - 2], closed]
    else:
      more = [i for x in turn for i in ([control[x]] if x in control else tokenizer.encode(x))]
    more = more[: most - sum(mask)] if isinstance(turn, str) else more
    ids, mask = ids + more, mask + [int(isinstance(turn, str))] * len(more)
  table = np.zeros((SLOTS, tokenizer.vocab_size), np.float32)
  for place, (token, sampled) in enumerate(zip(ids, mask, strict=True)):
    if sampled:
      table[place - 1, token] = 50
  return prompt, table, (ids, mask)


def asked(text):
  if 'x' in text:
    raise ValueError('no x, please')
  if 'o' in text:
    raise OSError('out of order')
  return 'dog' if 'd' in text else text * 20


def count_letters(text):
  return str(len(text))


LONG = 'a' * NEW  # as many tokens as there may be
SCRIPTS = [
  ('', 'ab.'),
  # Called at once, while others go on for long: two short results.
  ('cat', '<d>', ('dog',), 'a<d>', ('dog',), 'so.'),
  ('the cat sat', LONG),
  ('', 'bb<c>', ('c' * 20,), '.'),  # a result that is cut
  ('a', 'b<{"name": "count", "arguments": "aaa"}>'),  # longer than NEW: never asked
  ('a', '<{"name":"no"}>', ("error: no tool 'no'; choose from: search, count",), 'a.'),
  ('', 'a>', ('error: a call begins with <SEARCH_START>',), '.'),
  # The mark of the first call does not open the second one.
  ('', '<d>', ('dog',), 'd>', ('error: a call begins with <SEARCH_START>',), 'b.'),
  ('', '<x>', ('error: no x, please',), '<o>', ('error: out of order',), 'mat.'),
  ('', '<d>', ('dog',), '<d>', ('dog',), 'a<d>'),  # one call too many ends it
  ('mat', '<d>', ('dog',), 'b' * (NEW - 3)),  # the result does not count as sampled
  ('a', 'b' * (NEW - 3) + '<d>'),  # a call with the last token: nobody could read the result
]
CALLS = [
  *[(0, 0), (2, 0), (0, 0), (1, 0), (0, 0), (1, 1)],
  *[(1, 1), (2, 1), (2, 2), (2, 0), (1, 0), (0, 0)],
]
TOOLS = Tools({'search': asked, 'count': count_letters}, max_calls=2, max_result=WIDTH)


def scripted(tokenizer, scripts, **options):
  """The batch that scripts become beside each other, and the row that each is to become."""
  most = options.get('max_new', NEW)
  parts = [play(tokenizer, i, *script, most=most) for i, script in enumerate(scripts)]
  model, params = Script(tokenizer.vocab_size), jnp.asarray(np.stack([p[1] for p in parts]))
  options = dict(max_new=NEW, stop=[tokenizer.eos_id], pick=pick.make(temperature=0)) | options
  sample = Sampler(model, tokenizer, **options)
  out = sample(params, *left_pad([p[0] for p in parts]), jax.random.key(0))
  return SimpleNamespace(
    out=jax.device_get(out), rows=[p[2] for p in parts], model=model, params=params, sample=sample
  )


@pytest.fixture(scope='module')
def played(tokenizer):
  return scripted(tokenizer, SCRIPTS, tools=TOOLS)


def test_rows_are_what_was_sampled_and_the_ids_of_the_results(played):
  for i, (ids, mask) in enumerate(played.rows):
    tokens_L, mask_L, real_L = (played.out[k][i] for k in ('tokens', 'mask', 'segment'))
    assert tokens_L[real_L > 0].tolist() == ids, SCRIPTS[i]
    assert mask_L[real_L > 0].tolist() == mask
    assert not tokens_L[real_L == 0].any() and not mask_L[real_L == 0].any()


def test_a_row_has_no_holes_and_counts_its_positions(played):
  assert played.out['tokens'].shape == (len(SCRIPTS), 5 + NEW + 2 * WIDTH)
  for (ids, mask), position, segment in zip(
    played.rows, played.out['position'], played.out['segment'], strict=True
  ):
    (real,) = np.nonzero(segment)
    assert (np.diff(real) == 1).all() and set(segment[real]) == {1}
    assert position[real].tolist() == list(range(len(ids)))
    # Losses leave out the columns of prompts (`scores`), so no answer may begin among them.
    assert real[mask.index(1)] == 5


def test_calls_and_their_errors_are_counted(played):
  made, failed = played.sample.calls
  assert list(zip(made, failed, strict=True)) == CALLS


def test_only_sampled_tokens_have_a_log_probability(played):
  score_BL = jax.jit(lambda p, b: score(played.model, p, b))(
    played.params, {k: jnp.asarray(played.out[k]) for k in FIELDS}
  )
  np.testing.assert_allclose(played.out['old_logp'], score_BL * played.out['mask'], atol=1e-5)


def test_the_loss_has_no_gradient_where_a_result_stands(played):
  fields = ('tokens', 'mask', 'position', 'segment')
  batch = {k: jnp.asarray(played.out[k])[:, None] for k in fields}
  batch['advantage'] = batch['mask'] * 1.5
  soft = played.params / 50
  run = jax.jit(jax.grad(lambda p: loss_fn(p, batch, None, model=played.model)[0].total))
  moved = np.abs(run(soft)).sum(-1) > 0  # [scripts, positions]; position p predicts p + 1
  for i, (_, mask) in enumerate(played.rows):
    wanted = np.zeros(SLOTS, bool)
    wanted[: len(mask) - 1] = np.array(mask[1:]) > 0
    np.testing.assert_array_equal(moved[i], wanted)


def test_what_a_model_writes_cannot_stop_the_run(tokenizer):
  tools = Tools({'search': str.upper}, max_result=64)
  sample = Sampler(Script(290), tokenizer, max_new=64, stop=[2], tools=tools)
  begin = marks(tokenizer)[0]
  assert sample._caller.run([begin, *tokenizer.encode('[' * 100_000)])[2] is False  # json gives up
  call = '{"name": "search", "arguments": "\\ud800"}'  # half of a pair, which no text can hold
  out = scripted(tokenizer, [('', f'<{call}>', ('?',), '.')], tools=tools, max_new=64)
  ids, mask = out.rows[0]
  assert out.out['tokens'][0][out.out['segment'][0] > 0].tolist() == ids


@pytest.mark.parametrize('chunk', [1, 3, 16])
def test_a_stop_string_ends_an_answer_with_the_token_that_completes_it(
  tokenizer, monkeypatch, chunk
):
  monkeypatch.setattr(sampler, 'CHUNK', chunk)
  scripts = [
    ('', 'abEND'),
    ('cat', 'a mat, EN.'),
    ('', 'b<d>', ('dog ENDS',), 'soEND'),  # what tools say stops nothing
    ('', 'mat\n'),
  ]
  tails = ['bb.', '', 'no', 'a<d>']
  longer = [(*s[:-1], s[-1] + tail) for s, tail in zip(scripts, tails, strict=True)]
  tools = TOOLS._replace(by_name={'search': lambda text: 'dog ENDS'})
  run = scripted(tokenizer, longer, tools=tools, stop_strings=['END', '\n'])
  for i, script in enumerate(scripts):
    ids, mask = play(tokenizer, i, *script)[2]
    tokens_L, mask_L, real_L = (run.out[k][i] for k in ('tokens', 'mask', 'segment'))
    assert tokens_L[real_L > 0].tolist() == ids
    assert mask_L[real_L > 0].tolist() == mask
    assert not run.out['old_logp'][i][mask_L == 0].any()


class Letters:
  """Ids 8 to 18 are letters, and the marks are ids that a random model says often."""

  vocab_size, eos_id = 19, 1

  def special(self, name):
    return {'<SEARCH_START>': 4, '<SEARCH_END>': 5, '<RESULT_START>': 6, '<RESULT_END>': 7}[name]

  def encode(self, text):
    return [8 + ord(letter) % 11 for letter in text]

  def encode_pieces(self, conversations):
    one = lambda text, control: [self.special(text)] if control else self.encode(text)
    return [[one(*piece) for piece in pieces] for pieces in conversations]

  def decode(self, ids, after=None):
    return ''.join(chr(97 + int(i)) for i in ids)


SMALL = dict(vocab_size=19, dim=16, num_layers=2, num_heads=4, num_kv_heads=2, hidden_dim=24)
PROMPTS = [[5, 3, 8, 1, 12], [7], [2, 2, 9], [3, 1]]
HOT = 2.0


@functools.cache
def build():
  model = lora.wrap(transformer.make(**SMALL, max_length=64), rank=2)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  draw = np.random.default_rng(1)
  return model, jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.5, x.shape), x.dtype), shapes)


def real(*, rows=slice(None), tools=True, mesh=None, group=4):
  """A batch of a real model, whose calls are answered; and what the trainer makes of it."""
  model, params = build()
  answer = lambda text: text[:5]  # of many lengths
  sample = Sampler(
    model,
    Letters(),
    max_new=16,
    stop=[1],
    pick=pick.make(temperature=HOT),
    tools=Tools({'search': answer}, max_calls=3, max_result=6) if tools else None,
    group=group,
    mesh=mesh,
  )
  prompt_BP, mask_BP = left_pad(PROMPTS)
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(7), i))(jnp.arange(len(PROMPTS)))
  given = {'prompt': prompt_BP[rows], 'mask': mask_BP[rows]}
  if mesh is not None:
    params, given = jax.device_put(params, shardings(params, mesh)), shard_batch(given, mesh)
  out = sample(params, given['prompt'], given['mask'], keys[rows])
  logp = jax.jit(lambda p, b: score(model, p, b, temperature=HOT))(
    params, {k: out[k] for k in FIELDS}
  )
  np.testing.assert_allclose(logp * out['mask'], out['old_logp'], atol=1e-4)
  np.testing.assert_array_equal(out['old_logp'], out['sampled_logp'])  # nothing is cut off
  return jax.device_get(out), sample.calls


def texts(out):
  """The ids of each row, and which of them were sampled."""
  return [
    (t[s > 0].tolist(), m[s > 0].tolist())
    for t, m, s in zip(out['tokens'], out['mask'], out['segment'], strict=True)
  ]


@pytest.fixture(scope='module')
def whole():
  return real()


def test_after_results_the_trainer_sees_what_the_sampler_saw(whole):
  out, calls = whole  # `real` has compared the log-probabilities
  assert calls.made.max() >= 2 and 0 < (calls.made > 0).sum() < 16
  assert 0 < calls.failed.sum() < calls.made.sum()
  for ids, mask in texts(out):
    # After a result, the same row goes on: something sampled follows.
    assert all(
      mask[i + 1] == 1 for i, x in enumerate(ids[:-1]) if x == 7 and mask[i] == 0 and i > 4
    )


def test_rows_without_a_call_are_as_without_tools(whole):
  alone = texts(real(tools=False)[0])
  same = [a == b for a, b in zip(alone, texts(whole[0]), strict=True)]
  # With the last token there may be, a call is not answered either.
  said = [[i for i, m in zip(ids, mask, strict=True) if m] for ids, mask in alone]
  called = [5 in ids[:-1] for ids in said]
  assert same == [not x for x in called]
  assert 0 < sum(same) < 16


def test_rows_with_calls_do_not_depend_on_others(whole):
  rows = texts(whole[0])
  assert texts(real(rows=slice(1, 3), group=2)[0]) == [*rows[4:6], *rows[8:10]]


def test_eight_devices_answer_as_one_does(whole):
  mesh = make_mesh(data=2, fsdp=2, tensor=2)
  with jax.set_mesh(mesh):
    out, calls = real(mesh=mesh)
  assert texts(out) == texts(whole[0])
  np.testing.assert_allclose(out['old_logp'], whole[0]['old_logp'], atol=1e-5)
  np.testing.assert_array_equal(calls, whole[1])


class Speaker(Letters):
  """Ids 8 to 11 are quotation marks, 12 is a blank, and those behind it are letters."""

  token_bytes = np.arange(19) >= 8

  @property
  def texts(self):
    return {**dict.fromkeys(range(8, 12), '"'), 12: ' ', **{i: chr(84 + i) for i in range(13, 19)}}

  def bytes_of(self, i):
    return self.texts.get(i, '').encode()

  def encode(self, text):
    ids = {letter: i for i, letter in self.texts.items()}
    return [ids.get(letter, 13) for letter in text]

  def decode(self, ids, after=None):
    return ''.join(self.texts.get(int(i), '') for i in ids)


def quoting(quotes='words', mesh=None):
  """The texts of rows behind their last results, what those say, and the batch."""
  model, params = build()
  tool = quotes_of.quoted(lambda text: text.replace('"', 'a')[:4] or 'aa b', quotes)
  how = dict(max_new=16, stop=[1], pick=pick.make(temperature=HOT), group=6, mesh=mesh)
  sample = Sampler(model, Speaker(), tools=Tools({'search': tool}, 2, 6), **how)
  given = dict(zip(('prompt', 'mask'), left_pad(PROMPTS), strict=True))
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(7), i))(jnp.arange(len(PROMPTS)))
  if mesh is not None:
    params, given = jax.device_put(params, shardings(params, mesh)), shard_batch(given, mesh)
  out = jax.device_get(sample(params, given['prompt'], given['mask'], keys))
  found = []
  for ids, mask in texts(out):
    # Ids 6 and 7 are the marks of a result, and nothing of it is sampled.
    fed = [i for i in range(len(ids)) if not mask[i] and ids[i] in (6, 7) and 1 in mask[:i]]
    pairs = [*zip(fed[::2], fed[1::2], strict=True)]
    if pairs:
      results = [Speaker().decode(ids[start:end]) for start, end in pairs]
      found.append((Speaker().decode(ids[pairs[-1][1] :]), results))
  return found, out


def lies(found):
  """Quotes that no result has."""
  return [
    quote
    for text, results in found
    for quote in text.split('"')[1:-1:2]
    if not any(f' {quote} ' in f' {" ".join(result.split())} ' for result in results)
  ]


@pytest.fixture(scope='module')
def quoted():
  return quoting()


def test_what_is_quoted_of_a_result_stands_there(quoted):
  found, out = quoted
  assert sum(text.count('"') > 1 for text, _ in found) > 2 and not lies(found)
  assert lies(quoting('free')[0])
  # What is drawn is told as it was drawn: among fewer tokens each is more likely.
  assert (out['sampled_logp'] >= out['old_logp'] - 1e-4).all()
  assert (out['sampled_logp'] > out['old_logp'] + 0.1).any()


def test_eight_devices_quote_as_one_does(quoted):
  mesh = make_mesh(data=2, fsdp=2, tensor=2)
  with jax.set_mesh(mesh):
    assert quoting(mesh=mesh)[0] == quoted[0]


def test_other_rules_and_other_batches_compile_nothing():
  model, params = build()
  sample = Sampler(model, Letters(), max_new=4, stop=[1])
  prompt_BP, mask_BP = left_pad(PROMPTS)
  seen = []
  for i, temperature in enumerate((0.5, 1.0, np.array([0.0, 1.0, 2.0, 0.0]))):
    temperature = np.broadcast_to(np.float32(temperature), 4)
    out = sample(params, prompt_BP, mask_BP, jax.random.key(i), pick.Pick(temperature))
    seen.append(np.asarray(out['tokens']).tolist())
  assert sample._whole._cache_size() == 1
  assert seen[0] != seen[1] != seen[2]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(max_new=0), 'max_new 0 and group 1 must be at least 1'),
    (dict(group=0), 'max_new 4 and group 0'),
    (dict(tools=TOOLS._replace(max_calls=0)), 'max_calls of at least 1'),
    (dict(tools=TOOLS._replace(max_result=2)), 'max_result of at least 3'),
    (dict(stop_strings=['a', '']), 'an empty stop string'),
  ],
)
def test_what_cannot_be(options, message):
  with pytest.raises(BadInput, match=message):
    Sampler(build()[0], Letters(), **(dict(max_new=4, stop=[1]) | options))
