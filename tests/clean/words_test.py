"""Splitters are found by name, lose nothing but white space, and those of a user are checked."""

import random

import pytest

from llm_jax.clean import fineweb, gopher, repetition
from llm_jax.clean.languages import LANGUAGES, limits
from llm_jax.clean.page import Page, follow
from llm_jax.clean.words import splitter
from llm_jax.types import BadInput

NAMES = ('simple', 'whitespace', 'chinese', 'japanese')


@pytest.mark.parametrize('name', NAMES)
def test_words_are_the_text_without_white_space(name):
  draw, split = random.Random(0), splitter(name)
  for _ in range(300):
    codes = draw.choices([0, 9, 10, 32, 39, 46, 95, 48, 97, 0x2028, 0x3042, 0x30AB, 0x4E2D], k=30)
    text = ''.join(map(chr, codes + [draw.randrange(0x110000) for _ in range(10)]))
    words = split(text)
    assert ''.join(words) == ''.join(text.split()) and all(words)
    assert not any(char.isspace() for word in words for char in word)


def test_a_splitter_of_the_users(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mine.py').write_text('def split(text):\n  return list(text)\n')
  (tmp_path / 'wrong.py').write_text('def split(text):\n  return text\n')
  (tmp_path / 'broken.py').write_text('def split(text):\n  return 1 / 0\n')
  assert splitter('mine.py')('ab') == ['a', 'b']
  for name, said in {
    'wrong.py': "split of 'wrong.py' returns 'two words'; it has to be a list of texts",
    'broken.py': "'broken.py' fails: ZeroDivisionError: division by zero",
    'simpel': "clean.words: no 'simpel'; did you mean 'simple'?",
    'clean': "clean.words: no 'clean'",
  }.items():
    with pytest.raises(BadInput) as wrong:
      splitter(name)
    assert said in str(wrong.value) and '\n' not in str(wrong.value)


@pytest.mark.parametrize('language', [*LANGUAGES])
def test_options_of_a_language_are_options_of_the_rules(language):
  numbers = limits(language)
  rules = {'repetition': repetition, 'fineweb': fineweb, 'gopher': gopher}
  for name, module in rules.items():
    reasons = {limit.reason for limit in module.make(**numbers[name]).limits}
    assert reasons
  assert splitter(numbers['words'])('中')
  with pytest.raises(BadInput, match="no limits are known for 'xx'"):
    limits('xx')


def prose(language, count):
  """Text of the most frequent words, in sentences; no sense is needed to be counted."""
  words = {
    'zh': '我们 今天 在 学校 学习 了 很多 新 的 知识 老师 说 这 是 一个 重要 问题 大家 都 觉得',
    'ja': '私 は 学校 で 新しい 知識 を 学ん だ 先生 が これ は 大切 な 問題 だ と 言い まし た',
  }[language].split()
  draw = random.Random(1)
  return '\n'.join(''.join(draw.choices(words, k=25)) + '。' for _ in range(count))


@pytest.mark.parametrize('language', [*LANGUAGES])
def test_text_without_spaces_is_kept_by_its_own_limits(language):
  numbers, text = limits(language), prose(language, 20)
  rules = {'repetition': repetition, 'fineweb': fineweb, 'gopher': gopher}
  own = [(name, module.make(**numbers[name])) for name, module in rules.items()]
  english = [(name, module.make()) for name, module in rules.items()]
  assert follow(own, Page('', text, splitter(numbers['words']))).step == ''
  assert follow(english, Page('', text, splitter('simple'))).step != ''
  # What repeats is dropped all the same.
  fate = follow(own, Page('', (text[:60] + '\n') * 20, splitter(numbers['words'])))
  assert (fate.step, fate.reason) == ('repetition', 'dup_line_frac')
