"""Limits for languages that are not English: FineWeb-2's, arXiv:2506.20920.

They were drawn from the numbers of each language's own web pages. In FineWeb-2 the paragraph rules,
the rule on characters of repeated lines and the one on short lines are off, and C4's rules, which
are English, are not used.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from llm_jax.options import suggest
from llm_jax.types import BadInput


def _rules(
  *,
  words: str,
  language: float,
  word_length: float,
  letters: float,
  newlines: float,
  line_punct: float,
  dup_line: float,
  top: Sequence[float],
  dup: Sequence[float],
  stop_words: str,
) -> Mapping[str, Any]:
  """The options of every rule for a language.

  Args:
    words: the splitter.
    language: the least probability that a page is in the language.
    word_length, letters, newlines, line_punct, dup_line: limits of the rules.
    top: shares of the most frequent 2- to 4-grams.
    dup: shares of repeated 5- to 10-grams.
    stop_words: separated by spaces; the rule is off without any.
  """
  grams = zip((2, 3, 4), top, strict=True), zip(range(5, 11), dup, strict=True)
  stop = stop_words.split()
  return {
    'words': words,
    'language': {'threshold': language},
    'repetition': {
      'max_dup_para_frac': None,
      'max_dup_para_char_frac': None,
      'max_dup_line_frac': dup_line,
      'max_dup_line_char_frac': None,
      **{f'max_top_{n}_gram': share for n, share in grams[0]},
      **{f'max_dup_{n}_gram': share for n, share in grams[1]},
    },
    'fineweb': {
      'min_line_punct': line_punct,
      'max_short_lines': None,
      'max_char_dup': 0.1,
      'max_newline_per_word': newlines,
    },
    'gopher': {
      'min_word_length': 1.0,
      'max_word_length': word_length,
      'min_alpha_words': letters,
      **({'stop_words': tuple(stop)} if stop else {'min_stop_words': None}),
    },
  }


LANGUAGES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
  {
    'zh': _rules(
      words='chinese',
      language=0.692,
      word_length=5.0,
      letters=0.735,
      newlines=0.178,
      line_punct=0.106,
      dup_line=0.287,
      top=(0.256, 0.201, 0.171),
      dup=(0.198, 0.182, 0.167, 0.154, 0.14, 0.127),
      stop_words='的 年 在 月 是 和 日 了 於 · 為 有 被 人 中 为 他 與 後 也 而 由',
    ),
    'ja': _rules(
      words='japanese',
      language=0.886,
      word_length=6.0,
      letters=0.759,
      newlines=0.13,
      line_punct=0.096,
      dup_line=0.328,
      top=(0.239, 0.196, 0.172),
      dup=(0.243, 0.225, 0.207, 0.19, 0.175, 0.159),
      stop_words='',  # we do not know theirs
    ),
  }
)


def limits(language: str) -> Mapping[str, Any]:
  """The splitter and the options of the rules for a language, by rule.

  >>> limits('zh')['words'], limits('zh')['gopher']['max_word_length']
  ('chinese', 5.0)
  >>> limits('sw')
  Traceback (most recent call last):
  llm_jax.types.BadInput: clean.languages: no limits are known for 'sw'; choose from: zh, ja

  Raises:
    BadInput: no numbers are known for the language.
  """
  if language not in LANGUAGES:
    raise BadInput(
      f'clean.languages: no limits are known for {language!r}; {suggest(language, [*LANGUAGES])}'
    )
  return LANGUAGES[language]
