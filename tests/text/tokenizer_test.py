"""Every string comes back, no text makes a control token, and training is reproducible."""

import pickle
import random

import numpy as np
import pytest

from llm_jax.text import tokenizer as tokenizer_lib
from llm_jax.text.tokenizer import SPECIALS, Tokenizer
from llm_jax.types import BadInput

WORDS = [
  'the',
  'cat',
  'sat',
  'on',
  'a',
  'mat',
  'while',
  '12',
  'dogs',
  'in',
  '1984',
  'f(x):',
  'return',
  '+',
]
NASTY = [
  '',
  ' ',
  '   leading and trailing   ',
  'runs  of   spaces    here',
  '\t\ttabs\tand\n\nnewlines\r\nand\rreturns\n',
  '\n',
  '\n\n\n  \n',
  'def f(x):\n    if x:\n\t\treturn 12345\n',
  '\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 emoji \U0001f1e9\U0001f1ea',
  '\u4f60\u597d\uff0c\u4e16\u754c\u3002\u3000full width',
  'e\u0301 is not \u00e9, \ufb01 is not fi, \u212b is not \u00c5',
  '\u2581',
  'a\u2581b \u2581\u2581 c\u2581',
  ' \u2581 \u2581 ',
  '\x00',
  'a\x00b\x00\x00',
  '\x01\x02\x7f\x80\x9f',
  '<0x41><0xE2><0x96><0x81>',
  '<unk> <s> </s> <pad> <|pad|> <|begin_of_text|><|end_of_text|>',
  ' \u2047 \u2585 \ufffd \ufeff \u200b \u2028 \u2029 \u0085 \u00a0',
  '\U0010ffff\ue000\uffff',
  ''.join(SPECIALS),
  'x' * 5000,
]


def corpus(n=400, seed=0):
  draw = random.Random(seed)
  return [' '.join(draw.choices(WORDS, k=20)) + '\n    ' + draw.choice(WORDS) for _ in range(n)]


@pytest.fixture(scope='module', params=['bpe', 'unigram'])
def tokenizer(request):
  size = {'bpe': 345, 'unigram': 335}[request.param]
  return Tokenizer.train([*corpus(), *NASTY], vocab_size=size, model_type=request.param)


def random_text(draw):
  ranges = [(0, 0x80), (0x80, 0x250), (0x2500, 0x2600), (0x4E00, 0x9FFF), (0x1F300, 0x1F700)]
  ranges += [(0x300, 0x370), (0x2581, 0x2582), (0x20, 0x21), (0xE000, 0x110000)]
  return ''.join(chr(draw.randrange(*draw.choice(ranges))) for _ in range(draw.randrange(60)))


@pytest.mark.parametrize('text', NASTY)
def test_nasty_text_comes_back(tokenizer, text):
  ids = tokenizer.encode(text)
  assert tokenizer.decode(ids) == text
  assert not set(ids) & set(tokenizer.specials.values())
  assert tokenizer.token_bytes[ids].sum() == len(text.encode())


def test_random_text_comes_back(tokenizer):
  draw = random.Random(1)
  texts = [random_text(draw) for _ in range(2000)]
  assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)] == texts


@pytest.mark.parametrize('threads', [1, 2, 5])
def test_batch_equals_one_by_one(tokenizer, threads):
  texts = [*corpus(30), *NASTY]
  assert tokenizer.encode_batch(texts, threads) == [tokenizer.encode(text) for text in texts]
  assert tokenizer.encode_batch([], threads) == []


def test_special_tokens_have_fixed_ids(tokenizer):
  assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
  assert tokenizer.specials['<|begin_of_text|>'] == 1
  assert [tokenizer.special(name) for name in SPECIALS] == list(range(4, 4 + len(SPECIALS)))
  assert not tokenizer.token_bytes[list(tokenizer.specials.values())].any()
  assert tokenizer.token_bytes.shape == (tokenizer.vocab_size,)
  assert tokenizer.token_bytes.dtype == np.int32


def test_more_special_tokens_follow_ours():
  made = Tokenizer.train(['some text ' * 20], vocab_size=287, specials=['<a>', '<|im_end|>', '<b>'])
  assert list(made.specials)[-3:] == [SPECIALS[-1], '<a>', '<b>']
  assert not set(made.encode('<a><b>')) & set(made.specials.values())
  assert made.decode([made.special('<a>')], specials=True) == '<a>'


def test_control_tokens_can_be_added(tokenizer, tmp_path):
  more = tokenizer.with_specials(['<think>', '</think>'])
  more.save(tmp_path)
  for made in (more, Tokenizer.load(tmp_path)):
    assert made.vocab_size == tokenizer.vocab_size + 2
    assert made.special('</think>') == tokenizer.vocab_size + 1
    for text in [*NASTY, '<think>a</think>']:
      assert made.encode(text) == tokenizer.encode(text)
  assert more.fingerprint != tokenizer.fingerprint
  for names in (['<think>', '<think>'], ['<unk>'], [''], ['<|im_end|>']):
    with pytest.raises(BadInput, match='cannot be added'):
      tokenizer.with_specials(names)


def test_decode_shows_special_tokens_only_when_asked(tokenizer):
  ids = [tokenizer.bos_id, tokenizer.special('<|im_start|>'), *tokenizer.encode('the cat')]
  assert tokenizer.decode(ids) == 'the cat'
  assert tokenizer.decode(ids, specials=True) == '<|begin_of_text|><|im_start|>the cat'


def test_half_a_character_decodes_to_the_replacement_character(tokenizer):
  ids = tokenizer.encode('\U0001f9ff')
  assert len(ids) == 4
  assert tokenizer.decode(ids[:2]) == '\ufffd'


def test_newlines_and_indentation_are_learned():
  code = [f'def f{i}(x):\n    if x:\n        return x\n\n' for i in range(50)]
  tokenizer = Tokenizer.train(code, vocab_size=310)
  assert len(tokenizer.encode(':\n        return')) <= 3


def test_digits_are_single_tokens(tokenizer):
  assert len(tokenizer.encode('1984')) == 4


def test_save_and_load(tokenizer, tmp_path):
  tokenizer.chat_template = '{{ messages }}'
  tokenizer.save(tmp_path / 'a' / 'b')
  again = Tokenizer.load(tmp_path / 'a' / 'b')
  tokenizer.chat_template = None
  assert again.fingerprint == tokenizer.fingerprint
  assert again.specials == tokenizer.specials
  assert again.chat_template == '{{ messages }}'
  assert sorted(p.name for p in (tmp_path / 'a' / 'b').iterdir()) == [
    'special_tokens.json',
    'tokenizer.model',
  ]
  assert pickle.loads(pickle.dumps(again)).encode(' the cat') == tokenizer.encode(' the cat')


@pytest.mark.parametrize('model_type', ['bpe', 'unigram'])
def test_training_is_reproducible_and_depends_on_the_seed(model_type):
  def train(seed):
    return Tokenizer.train(
      corpus(), vocab_size=310, model_type=model_type, sample_bytes=9000, seed=seed
    )

  assert train(0).fingerprint == train(0).fingerprint != train(1).fingerprint


def test_sample_is_about_as_big_as_asked_and_in_order():
  texts = [f'{i:04d}' * 5 for i in range(1000)]
  sample = tokenizer_lib._sample(iter(texts), 4000, 0)
  assert len(sample) == 200
  assert sample == sorted(sample)
  assert 350 < np.mean([texts.index(text) for text in sample]) < 650
  assert tokenizer_lib._sample(texts, 10**6, 0) == texts


def test_sentences_are_short_and_lose_no_character():
  text = 'word ' * 700 + '\n\n' * 10 + 'y' * 3000 + '\n' + '\u4f60' * 2500
  sentences = list(tokenizer_lib._sentences([text]))
  assert ''.join(sentences) == text
  assert max(len(s.encode()) for s in sentences) < 4192


def test_bytes_per_token(tokenizer):
  texts = ['the cat', 'the \u4e16']
  count = sum(len(tokenizer.encode(text)) for text in texts)
  assert tokenizer.bytes_per_token(texts) == pytest.approx((7 + 7) / count)
  assert tokenizer.bytes_per_token([]) == 0


def test_lone_surrogate_is_bad_input(tokenizer):
  with pytest.raises(BadInput, match=r'text 1: lone surrogate .*d800.* at character 2'):
    tokenizer.encode_batch(['fine', 'ab\ud800'])
  with pytest.raises(BadInput, match='lone surrogate'):
    Tokenizer.train(['\udfff'])


def test_unknown_special_token_is_bad_input(tokenizer):
  with pytest.raises(BadInput, match=r"did you mean '<\|im_start\|>'"):
    tokenizer.special('<|im_strat|>')


@pytest.mark.parametrize('ids', [[-1], [10**6]])
def test_id_outside_the_vocabulary_is_bad_input(tokenizer, ids):
  with pytest.raises(BadInput, match='outside the vocabulary'):
    tokenizer.decode(ids)


@pytest.mark.parametrize('model_type', ['bpe', 'unigram'])
@pytest.mark.parametrize('texts', [[], [''], ['\n', '\t\t', '\0']])
def test_no_text_is_bad_input(texts, model_type):
  with pytest.raises(BadInput, match='no text to train on'):
    Tokenizer.train(texts, model_type=model_type)


@pytest.mark.parametrize('model_type', ['bpe', 'unigram'])
def test_impossible_vocabulary_names_a_bound_that_works(model_type):
  for size in (100, 50_000):
    with pytest.raises(BadInput, match=r'use \d+ or') as caught:
      Tokenizer.train(corpus(), vocab_size=size, model_type=model_type)
    bound = int(str(caught.value).split('use ')[1].split()[0])
    assert Tokenizer.train(corpus(), vocab_size=bound, model_type=model_type).vocab_size == bound


def test_unknown_model_type_is_bad_input():
  with pytest.raises(BadInput, match="did you mean 'unigram'"):
    Tokenizer.train(corpus(), model_type='unigramm')


def test_broken_folders_are_bad_input(tokenizer, tmp_path):
  with pytest.raises(BadInput, match='no tokenizer here'):
    Tokenizer.load(tmp_path)
  tokenizer.save(tmp_path)
  (tmp_path / 'tokenizer.model').write_bytes(b'nonsense')
  with pytest.raises(BadInput, match=r'tokenizer\.model is damaged'):
    Tokenizer.load(tmp_path)
