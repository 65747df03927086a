"""Any tokenizer.json: the library's ids, no control token from text, and what is lost is said."""

import copy
import json
import pickle
import random
import re
import types
import unicodedata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.evals import perplexity
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text import chat, folder
from llm_jax.text.message import message
from llm_jax.text.tokenizer_files import TokenizerFiles
from llm_jax.text.tokenizer_json import TokenizerJson
from llm_jax.types import BadInput

tokenizers = pytest.importorskip('tokenizers')

FIXTURES = Path(__file__).parent.parent / 'fixtures' / 'tokenizers'
SPACE = '\u2581'
BITS = [
  'Once',
  ' upon',
  ' ',
  '  ',
  '\n',
  '\t',
  'e\u0301',
  '\u00e9',
  '12',
  '\U0001f600',
  'x',
  '\u4f60',
]
BITS += [SPACE, '\0', '\u3000', '.', '<s>', '</s>', '<unk>', '<|im_start|>', '<|im_end|>', '<', '|']
BITS += ['<tool_call>', '<0x41>', '\u0120', "n't", 'def f(x):', '[/INST]', '\u1100\u1161', '\u2028']


def document(name):
  return json.loads((FIXTURES / name / 'tokenizer.json').read_text())


def added(i, content, special=True, **flags):
  off = dict.fromkeys(('single_word', 'lstrip', 'rstrip', 'normalized'), False)
  return {'id': i, 'content': content, 'special': special, **off, **flags}


def made(its, **beside):
  contents = {'tokenizer.json': its} | {f'{name}.json': value for name, value in beside.items()}
  return TokenizerJson(
    TokenizerFiles({k: json.dumps(v).encode() for k, v in contents.items()}, '.')
  )


def sentencepiece(normalizer=None, pre_tokenizer=None, model=None, decoder=None, more=()):
  """The fixture with another way of writing blanks, and control tokens of a chat."""
  its = document('sentencepiece')
  its['added_tokens'] += [added(512, '<|im_start|>'), added(513, '<|im_end|>'), *more]
  its |= {'normalizer': normalizer, 'pre_tokenizer': pre_tokenizer}
  its['model'] |= model or {}
  return its | ({'decoder': decoder} if decoder else {})


def byte_level(**changed):
  return document('byte_level') | changed


BLANKS = {'type': 'Replace', 'pattern': {'String': ' '}, 'content': SPACE}
LEGACY = {'type': 'Sequence', 'normalizers': [{'type': 'Prepend', 'prepend': SPACE}, BLANKS]}
META = lambda scheme: {
  'type': 'Metaspace',
  'replacement': SPACE,
  'prepend_scheme': scheme,
  'split': scheme == 'first',
}
PLAIN = [
  {'type': 'Replace', 'pattern': {'String': SPACE}, 'content': ' '},
  {'type': 'ByteFallback'},
  {'type': 'Fuse'},
]
TOOL = added(514, '<tool_call>', special=False)
PREFIXED = {'type': 'ByteLevel', 'add_prefix_space': True, 'trim_offsets': True, 'use_regex': True}


def unigram():
  """A model that has the names of control tokens among its pieces, and finds them there."""
  scores = [
    [token, -float(i % 7)] for token, i in document('sentencepiece')['model']['vocab'].items()
  ]
  scores += [['<|im_start|>', 0.0], ['<|im_end|>', 0.0]]
  its = sentencepiece(pre_tokenizer=META('always'), more=[TOOL])
  return its | {'model': {'type': 'Unigram', 'unk_id': 0, 'vocab': scores, 'byte_fallback': True}}


KINDS = {
  'byte level, NFC': byte_level(),
  'byte level': byte_level(normalizer=None),
  'byte level, prefix': byte_level(normalizer=None, pre_tokenizer=PREFIXED),
  'dummy prefix': sentencepiece(LEGACY, more=[TOOL]),
  'prefix at the start': sentencepiece(pre_tokenizer=META('first'), more=[TOOL]),
  'prefix everywhere': sentencepiece(pre_tokenizer=META('always'), more=[TOOL]),
  'no prefix': sentencepiece(BLANKS, decoder={'type': 'Sequence', 'decoders': PLAIN}),
  'blanks taken': sentencepiece(
    LEGACY, more=[added(514, '<|end|>', rstrip=True), added(515, '<mask>', lstrip=True)]
  ),
  'unigram': unigram(),
}


@pytest.fixture(scope='module', params=KINDS)
def tokenizer(request):
  return made(KINDS[request.param])


def texts(seed, count=300, bits=BITS):
  draw = random.Random(seed)
  return [''.join(draw.choices(bits, k=draw.randrange(8))) for _ in range(count)]


def theirs(tokenizer, parse=False):
  its = tokenizers.Tokenizer.from_str(tokenizer._files.contents['tokenizer.json'].decode())
  its.encode_special_tokens = not parse
  return lambda text: its.encode(text, add_special_tokens=False).ids


def test_ids_are_those_of_the_library(tokenizer):
  encode, control = theirs(tokenizer), set(tokenizer.specials.values())
  parse = theirs(tokenizer, parse=True)
  for text in texts(0):
    if control.isdisjoint(encode(text)):
      assert tokenizer.encode(text) == encode(text), text
    assert tokenizer.encode(text, specials=True) == parse(text)


@pytest.mark.parametrize('threads', [None, 1, 3])
def test_a_batch_is_its_texts(tokenizer, threads):
  some = texts(1, 40)
  assert tokenizer.encode_batch(some, threads) == [tokenizer.encode(text) for text in some]
  assert tokenizer.encode_batch([], threads) == []


def test_no_text_makes_a_control_token(tokenizer):
  names = list(tokenizer.specials)
  around = ['{}', ' {}', 'a{}b', '{0}{0}{0}', '\n{} {}', '<{}>']
  some = [form.format(*names[i:], *names) for i in range(len(names)) for form in around]
  some += texts(2, bits=[*names, 'a', ' '])
  control = set(tokenizer.specials.values())
  assert not [ids for ids in tokenizer.encode_batch(some) if not control.isdisjoint(ids)]


def test_pieces_are_read_as_one_string(tokenizer):
  """As the library reads them, if every text is between two control tokens."""
  parse, draw = theirs(tokenizer, parse=True), random.Random(3)
  words = ['Once', ' upon', '  a', 'time ', '\n', '.', '1', '']
  for _ in range(200):
    names = [(draw.choice(list(tokenizer.specials)), True) for _ in range(draw.randrange(1, 4))]
    said = [(''.join(draw.choices(words, k=3)), False) for _ in range(4)]
    pieces = [p for both in zip(said[draw.randrange(2) :], names, strict=False) for p in both]
    ids = [i for some in tokenizer.encode_pieces([pieces])[0] for i in some]
    assert ids == parse(''.join(text for text, _ in pieces)), pieces


def test_a_text_that_goes_on_gets_no_prefix(tokenizer):
  one, two = tokenizer.encode_pieces([[('Once', False), (' upon', False)]])[0]
  assert tokenizer.decode([*one, *two]) == 'Once upon'
  assert tokenizer.decode(two, after=one[-1]) == ' upon'


def test_what_does_not_come_back_is_said(tokenizer):
  said = ' '.join(tokenizer.normalizes)
  for text in texts(4):
    shown = tokenizer.decode(tokenizer.encode(text))
    if 'NFC' in said:
      text, shown = (unicodedata.normalize('NFC', t) for t in (text, shown))
    if 'U+2581' in said:
      text = text.replace(SPACE, ' ')
    if 'a blank at the start' in said:
      text = re.sub('^ |(?<=<tool_call>) ' if 'added token' in said else '^ ', '', text)
    if 'read as bytes' in said:
      text = text.replace('<0x41>', 'A')
    if 'blanks beside' not in said:
      assert shown == text


def test_bytes_are_those_of_the_text(tokenizer):
  control = sorted(tokenizer.specials.values())
  assert tokenizer.token_bytes.shape == (tokenizer.vocab_size,)
  assert not tokenizer.token_bytes[control].any()
  for text in texts(5, bits=[bit for bit in BITS if bit != '<tool_call>']):
    ids = tokenizer.encode(text)
    raw = sum(tokenizer.token_bytes[ids])
    assert raw - len(tokenizer.decode(ids).encode()) == bool(tokenizer.prefix_after and ids)


def test_decoding_bit_by_bit_ends_in_the_whole(tokenizer):
  """What a chat shows so far, without half a character, is always the beginning of the text."""
  for text in texts(6, 60):
    ids = tokenizer.encode(text)
    for n in range(len(ids)):
      shown = tokenizer.decode(ids[:n]).rstrip('\ufffd')
      assert tokenizer.decode(ids).startswith(shown)


def test_control_tokens_can_be_added(tokenizer, tmp_path):
  names, known = ['<think>', '<\u00e9 x>'], tokenizer.vocab_size
  more = tokenizer.with_specials(names)
  more.save(tmp_path)
  for other in (more, folder.load(tmp_path)):
    assert [other.special(name) for name in names] == [known, known + 1]
    assert other.fingerprint == more.fingerprint != tokenizer.fingerprint
    for text in [*texts(8, 50), ''.join(names)]:
      ids = other.encode(text)
      assert ids == tokenizer.encode(text) and max(ids, default=0) < known
      assert other.decode(ids) == tokenizer.decode(ids)
    assert other.decode([known], specials=True) == '<think>'
    assert other.specials.items() >= tokenizer.specials.items()
  for wrong in (names, [*tokenizer.specials], ['<tool_call>'], ['a'], ['<x>', '<x>'], [7]):
    if wrong != ['<tool_call>'] or wrong[0] in tokenizer._strips:
      with pytest.raises(BadInput, match='cannot be added'):
        more.with_specials(wrong)


def test_it_is_saved_as_it_came_and_pickled(tokenizer, tmp_path):
  tokenizer.save(tmp_path)
  again = folder.load(tmp_path)
  assert (tmp_path / 'tokenizer.json').read_bytes() == tokenizer._files.contents['tokenizer.json']
  for other in (again, pickle.loads(pickle.dumps(tokenizer))):
    assert other.fingerprint == tokenizer.fingerprint
    assert other.encode_batch(texts(7, 20)) == tokenizer.encode_batch(texts(7, 20))


@pytest.mark.parametrize('name', ['byte_level', 'sentencepiece'])
def test_folders(name, tmp_path):
  first = folder.load(FIXTURES / name)
  first.chat_template = 'mine'
  first.save(tmp_path)
  again = folder.load(tmp_path)
  for field in ('fingerprint', 'stop_ids', 'begin', 'bos_id', 'eos_id', 'pad_id', 'chat_template'):
    assert getattr(again, field) == getattr(first, field)
  assert folder.holds(tmp_path) and not folder.holds(tmp_path / 'none')


def test_names_of_a_family_without_a_begin():
  tokenizer = folder.load(FIXTURES / 'byte_level')
  end, text_end = tokenizer.special('<|im_end|>'), tokenizer.special('<|endoftext|>')
  assert (tokenizer.bos_id, tokenizer.begin) == (None, ())
  assert (tokenizer.eos_id, tokenizer.pad_id) == (end, text_end)
  assert tokenizer.stop_ids == (end, text_end)
  assert '<tool_call>' not in tokenizer.specials
  assert len(tokenizer.encode('<tool_call>')) == 1  # as everywhere else
  assert tokenizer.chat_template == '{{ messages }}'
  assert set(tokenizer.chat_templates) == {'default', 'tool_use'}


def test_names_of_a_family_with_a_begin():
  tokenizer = folder.load(FIXTURES / 'sentencepiece')
  assert (tokenizer.bos_id, tokenizer.begin, tokenizer.eos_id) == (1, (1,), 2)
  assert tokenizer.pad_id == tokenizer.eos_id  # none is named
  assert tokenizer.stop_ids == (2, 1)
  assert tokenizer.chat_template is None


@pytest.mark.parametrize('adds, begin', [(True, (1,)), (False, ()), (None, (1,))])
def test_whether_a_begin_is_added(adds, begin):
  config = {'bos_token': '<s>', 'eos_token': '</s>', 'add_bos_token': adds}
  tokenizer = made(document('sentencepiece'), tokenizer_config=config)
  assert (tokenizer.begin, tokenizer.bos_id) == (begin, 1)


def test_every_file_can_name_tokens_and_stops():
  its = sentencepiece(LEGACY, more=[TOOL])
  tokenizer = made(
    its,
    tokenizer_config={'eos_token': {'content': '</s>'}, 'pad_token': None},
    special_tokens_map={'pad_token': '<unk>', 'additional_special_tokens': ['<tool_call>']},
    generation_config={'eos_token_id': 513},
    config={'eos_token_id': [1, 2], 'text_config': {'eos_token_id': 514}},
  )
  assert tokenizer.stop_ids == (2, 513, 1, 514)
  assert tokenizer.pad_id == 2  # tokenizer_config.json says that there is none
  assert tokenizer.special('<tool_call>') not in tokenizer.encode('<tool_call>')
  assert made(its, special_tokens_map={'pad_token': '<unk>'}).pad_id == 0


def test_the_fingerprint_is_of_what_ids_depend_on():
  its, config = document('sentencepiece'), {'bos_token': '<s>', 'eos_token': '</s>'}
  one = made(its, tokenizer_config=config).fingerprint
  assert made(its, tokenizer_config={**config, 'chat_template': 'x'}).fingerprint == one
  changed = [{**config, 'eos_token': '<s>'}, {**config, 'add_bos_token': False}]
  assert all(made(its, tokenizer_config=other).fingerprint != one for other in changed)
  vocab = its['model']['vocab']
  tokens = sorted(vocab, key=vocab.get)
  swapped = vocab | {tokens[400]: vocab[tokens[401]], tokens[401]: vocab[tokens[400]]}
  other = its | {'model': its['model'] | {'vocab': swapped}}
  assert made(other, tokenizer_config=config).fingerprint != one


def test_settings_for_somebodys_batches_are_not_ours():
  its = document('sentencepiece')
  its['truncation'] = {
    'direction': 'Right',
    'max_length': 3,
    'strategy': 'LongestFirst',
    'stride': 0,
  }
  its['padding'] = {
    'strategy': {'Fixed': 9},
    'direction': 'Right',
    'pad_to_multiple_of': None,
    'pad_id': 0,
    'pad_type_id': 0,
    'pad_token': '<unk>',
  }
  its['model']['dropout'] = 0.5
  text = 'Once upon a time there was a little girl'
  assert made(its).encode(text) == made(document('sentencepiece')).encode(text)


def test_gaps_among_ids():
  its = document('sentencepiece')
  del its['model']['vocab'][next(t for t, i in its['model']['vocab'].items() if i == 511)]
  its['added_tokens'].append(added(511, '<a>'))
  vocab = its['model']['vocab']
  its['model']['vocab'] = {t: i + 5 if i == 510 else i for t, i in vocab.items()}
  tokenizer = made(its)
  assert tokenizer.vocab_size == max(tokenizer.specials['<a>'], 515) + 1
  assert 510 in tokenizer.gaps
  assert tokenizer.decode([510]) == ''
  with pytest.raises(BadInput, match=r'id 9999 is outside the vocabulary'):
    tokenizer.decode([9999])


@pytest.mark.parametrize(
  'beside, match',
  [
    ({'tokenizer_config': {'eos_token': '<nope>'}}, "no token '<nope>'.*eos_token"),
    ({'tokenizer_config': {'bos_token': 7}}, 'tokenizer_config.json: bos_token is 7'),
    ({'special_tokens_map': {'pad_token': []}}, r'special_tokens_map.json: pad_token is \[\]'),
    ({'generation_config': {'eos_token_id': 99999}}, 'no token 99999.*generation_config'),
    ({'config': {'eos_token_id': ['</s>']}}, 'config.json: eos_token_id is'),
    ({'tokenizer_config': {'chat_template': [{'name': 1}]}}, 'chat_template has'),
    ({'tokenizer_config': []}, 'tokenizer_config.json is no JSON object'),
  ],
)
def test_names_that_do_not_fit(beside, match):
  with pytest.raises(BadInput, match=match):
    made(document('sentencepiece'), **beside)


@pytest.mark.parametrize(
  'its, match',
  [
    ({}, 'added_tokens'),
    ({'added_tokens': [3], 'model': {}}, 'added_tokens'),
    ({'added_tokens': [], 'model': {}}, 'cannot be read'),
    ({'added_tokens': [], 'model': {'continuing_subword_prefix': 'x'}}, 'subword_prefix'),
    (document('byte_level') | {'decoder': None}, 'decoder None'),
    (document('byte_level') | {'decoder': {'type': 'WordPiece', 'prefix': '##', 'cleanup': True}},
     'WordPiece'),
  ],
)  # fmt: skip
def test_a_file_that_is_none(its, match):
  with pytest.raises(BadInput, match=match):
    made(its)


def places(value, path=()):
  yield path
  inner = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
  for key, each in [(key, value[key]) for key in inner][:6]:
    yield from places(each, (*path, key))


@pytest.mark.parametrize('name', ['byte_level', 'sentencepiece'])
def test_a_file_that_was_changed_anywhere_is_read_or_refused(name):
  draw = random.Random(11)
  whole = {p.stem: json.loads(p.read_text()) for p in (FIXTURES / name).glob('*.json')}
  whole['special_tokens_map'] = {'additional_special_tokens': ['<tool_call>']}
  whole['config'] = {'eos_token_id': [3], 'text_config': {'eos_token_id': 4}}
  every = list(places(whole))
  odd = [None, True, -1, 3, 2**40, 'x', '', '\ud800', [], {}, [None], [[1]], {'type': 'NFC'}]
  read = 0
  for _ in range(100):
    changed, (*path, last) = copy.deepcopy(whole), draw.choice(every[1:])
    inner = changed
    for key in path:
      inner = inner[key]
    inner[last] = draw.choice(odd)
    try:
      made(changed['tokenizer'], **{k: v for k, v in changed.items() if k != 'tokenizer'})
      read += 1
    except BadInput as error:
      assert '\n' not in str(error)
  assert 0 < read < 100


@pytest.mark.parametrize('name', ['../x', 'a/../../x', '\0'])
def test_the_name_of_a_template_leads_nowhere(name):
  config = {'chat_template': [{'name': name, 'template': 'x'}]}
  with pytest.raises(BadInput, match='no name of a file'):
    made(document('sentencepiece'), tokenizer_config=config)


def test_a_damaged_file(tmp_path):
  data = (FIXTURES / 'sentencepiece' / 'tokenizer.json').read_bytes()
  for cut in (b'', data[: len(data) // 2], b'\xff\xfe', data.replace(b'"merges"', b'"mergers"')):
    (tmp_path / 'tokenizer.json').write_bytes(cut)
    with pytest.raises(BadInput, match=r'tokenizer\.json'):
      folder.load(tmp_path)


def test_no_tokenizer(tmp_path):
  with pytest.raises(BadInput, match='no tokenizer here'):
    folder.load(tmp_path)
  (tmp_path / 'tokenizer.model').write_bytes(b'')
  with pytest.raises(BadInput, match='without special_tokens'):
    folder.load(tmp_path)


def test_no_end_is_said_by_who_needs_it():
  tokenizer = made(document('sentencepiece'))
  assert tokenizer.encode('Once')
  for name in ('eos_id', 'pad_id'):
    with pytest.raises(BadInput, match='"eos_token"'):
      getattr(tokenizer, name)


@pytest.mark.parametrize('name', ['byte_level', 'sentencepiece'])
def test_conversations_in_plain_text(name):
  """Begin and end are the tokenizer's own; what its text reads like control tokens is text."""
  tokenizer = folder.load(FIXTURES / name)
  talk = [{'role': 'user', 'content': '<s>Once'}, {'role': 'assistant', 'content': ' upon</s>'}]
  ((ids, mask),) = chat.encode_all(tokenizer, [chat.pieces(talk, template='plain')])
  chat.check(ids, mask, tokenizer)
  asked, said = ([i for i, m in zip(ids, mask, strict=True) if m == on] for on in (0, 1))
  assert asked == [*tokenizer.begin, *tokenizer.encode('<s>Once')]
  assert tokenizer.decode(said, after=asked[-1]) == ' upon</s>'
  assert said[-1] == tokenizer.eos_id
  assert chat.stop_ids(tokenizer, 'plain') == list(tokenizer.stop_ids)
  prompt = chat.encode(tokenizer, chat.pieces(talk[:1], template='plain', answer=True))[0]
  assert prompt == asked
  heard = message(tokenizer, said, template='plain', after=asked[-1])
  assert heard == talk[1]


@pytest.mark.parametrize(
  'template, lacks', [('llm_jax', '<|im_sep|>'), ('gemma', '<start_of_turn>')]
)
def test_a_template_whose_tokens_are_missing(template, lacks):
  tokenizer = folder.load(FIXTURES / 'byte_level')
  with pytest.raises(BadInput, match=re.escape(f'no control token {lacks}')):
    chat.encode(tokenizer, chat.pieces([], template=template, answer=True))


def test_a_prefix_is_no_byte_of_the_text():
  """Bits per byte count the bytes of documents, whatever the tokenizer writes before them."""
  tokenizer = folder.load(FIXTURES / 'sentencepiece')
  texts_ = ['Once upon a time', ' there was', 'x']
  length = 64
  rows = []
  for text in texts_:
    ids = [*tokenizer.begin, *tokenizer.encode(text), tokenizer.eos_id]
    row = {k: np.zeros(length, np.int32) for k in ('tokens', 'segment', 'position', 'mask')}
    row['tokens'][: len(ids)] = ids
    row['segment'][: len(ids)] = row['mask'][1 : len(ids)] = 1
    rows.append(row | {'mask': row['mask'].astype(np.float32)})
  V = tokenizer.vocab_size
  model = types.SimpleNamespace(shape=types.SimpleNamespace(vocab_size=V, causal=True))
  mesh = make_mesh(fsdp=1)
  with pytest.MonkeyPatch.context() as patch, jax.set_mesh(mesh):
    flat = lambda model, params, batch: jnp.full(batch['tokens'].shape, -1.0)
    patch.setattr(perplexity, 'score', flat)
    found = perplexity.make(model, tokenizer, rows=rows, mesh=mesh, batch_size=8)({})
  assert found['bits_per_byte'].count == sum(len(text.encode()) for text in texts_)


def test_lone_surrogates(tokenizer):
  for encode in (tokenizer.encode, lambda text: tokenizer.encode(text, specials=True)):
    with pytest.raises(BadInput, match='surrogate'):
      encode('a\ud800')
