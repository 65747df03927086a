"""Which language a text is in: its script first, and py3langid among the languages of one script.

A script that one language uses decides alone. Whatever is asked, no verdict is given on fewer than
20 letters, where every identifier known to us is wrong too often.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

from llm_jax.clean.extra import library
from llm_jax.clean.page import Limit, Page, Rule, Value
from llm_jax.options import Share
from llm_jax.types import BadInput

MIN_LETTERS = 20
UNKNOWN = 'und'  # of ISO 639-2: undetermined
_READ = 8000  # characters of a long text that are looked at: from its beginning, middle and end

# Letters by script, and the language where it has one; else those among which the model chooses.
_SCRIPTS: dict[str, tuple[str, str]] = {
  'kana': ('\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\uff66-\uff9f', 'ja'),
  'hangul': ('\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3', 'ko'),
  'han': ('\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f', 'zh'),
  'thai': ('\u0e01-\u0e4e', 'th'),
  'lao': ('\u0e81-\u0edf', 'lo'),
  'khmer': ('\u1780-\u17d3', 'km'),
  'myanmar': ('\u1000-\u103f\u1050-\u108f', 'my'),
  'tibetan': ('\u0f40-\u0fbc', 'dz'),
  'hebrew': ('\u05d0-\u05f4', 'he'),
  'greek': ('\u0370-\u03ff\u1f00-\u1fff', 'el'),
  'armenian': ('\u0531-\u0587', 'hy'),
  'georgian': ('\u10a0-\u10ff\u1c90-\u1cbf', 'ka'),
  'ethiopic': ('\u1200-\u135a', 'am'),
  'tamil': ('\u0b80-\u0bd7', 'ta'),
  'telugu': ('\u0c00-\u0c63', 'te'),
  'kannada': ('\u0c80-\u0ce3', 'kn'),
  'malayalam': ('\u0d00-\u0d63', 'ml'),
  'sinhala': ('\u0d80-\u0df3', 'si'),
  'gujarati': ('\u0a80-\u0ae3', 'gu'),
  'gurmukhi': ('\u0a00-\u0a5e\u0a70-\u0a75', 'pa'),
  'oriya': ('\u0b00-\u0b63', 'or'),
  'bengali': ('\u0980-\u09e3', 'bn as'),
  'devanagari': ('\u0900-\u0963\u0972-\u097f', 'hi mr ne gom sa'),
  'cyrillic': ('\u0400-\u052f', 'ru uk be bg mk sr kk ky mn tg tt ba'),
  'arabic': (
    '\u0620-\u065f\u066e-\u06d3\u06fa-\u06ff\u0750-\u077f',
    'ar arz ary fa ur ps ug sd ku sdh',
  ),
  'latin': ('A-Za-z\xaa\xba\xc0-\xd6\xd8-\xf6\xf8-\u024f\u0250-\u02af\u1e00-\u1eff', ''),
}
_LETTERS = re.compile('|'.join(f'([{letters}])' for letters, _ in _SCRIPTS.values()))
_NAMES = (*_SCRIPTS,)
# Labels of the model for no language, for dialects of Chinese, and for others that attract text.
_NEVER = {'zxx', 'wuu', 'yue', 'gcf', 'hbo', 'grc'}


def make(*, keep: tuple[str, ...] = ('en',), threshold: Share = 0.65) -> Rule:
  """Drops pages in other languages, and those of which nobody can be sure.

  Measures `language` (ISO 639; 'und' for a text without letters), `score` from 0 to 1, `known` (1
  from 20 letters on) and `wanted` (1 for a language of `keep`); the meta gets `language`.

  Args:
    keep: languages; () for all.
    threshold: the lowest score that counts as sure.
  """
  if unknown := sorted(set(keep) - set(languages())):
    raise BadInput(
      f'language: keep {", ".join(unknown)}; known are {" ".join(sorted(languages()))}'
    )

  def measure(page: Page) -> tuple[Page, Mapping[str, Value]]:
    language, score, letters = identify(page.text)
    values: dict[str, Value] = {
      'language': language,
      'score': score,
      'known': int(letters >= MIN_LETTERS),
      'wanted': int(not keep or language in keep),
    }
    return page.edited(page.text, language=language), values

  limits = (
    Limit('unknown_language', 'known', low=1),
    Limit('other_language', 'wanted', low=1),
    Limit('unsure_language', 'score', low=threshold),
  )
  return Rule(measure, limits)


def identify(text: str) -> tuple[str, float, int]:
  """The most likely language of a text, how likely it is, and how many letters that rests on.

  For a script of one language the score is the share of its letters among all; for the others it is
  the model's probability among the languages of the script, times that share.

  >>> identify('これは日本語の文章です。'), identify('1, 2')
  (('ja', 1.0, 11), ('und', 0.0, 0))
  """
  if len(text) > _READ:
    part, middle = _READ // 3, len(text) // 2
    text = '\n'.join((text[:part], text[middle : middle + part], text[-part:]))
  counts = dict.fromkeys(_NAMES, 0)
  for found in _LETTERS.finditer(text):
    counts[_NAMES[(found.lastindex or 1) - 1]] += 1
  total = sum(counts.values())
  if not total:
    return UNKNOWN, 0.0, 0
  if counts['kana'] * 20 > counts['han']:  # Japanese is written in both, Chinese in one
    counts['kana'] += counts.pop('han')
  script = max(counts, key=lambda name: counts[name])
  share = counts[script] / total
  spoken = _SCRIPTS[script][1]
  if spoken and ' ' not in spoken:
    return spoken, share, total
  plain = ' '.join(text.lower().split())
  language, score = _model(script).classify(plain)
  return language, float(score) * share, total


def languages() -> list[str]:
  """All that `identify` may answer but 'und'."""
  named = ' '.join(spoken for _, spoken in _SCRIPTS.values()).split()
  return [*named, *_model('latin').labels]


@functools.cache
def _model(script: str) -> Any:
  """The identifier for the languages of a script; the same for good, as it learns nothing."""
  langid = library('py3langid.langid', 'rule language')
  if not script:
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
  whole = _model('')
  others = {name for _, spoken in _SCRIPTS.values() for name in spoken.split()}
  chosen = _SCRIPTS[script][1].split() or [
    name for name in whole.labels if name not in others and name not in _NEVER
  ]
  if script == 'latin':  # written in Latin letters as well
    chosen += ['ku', 'sr']
  model = langid.LanguageIdentifier(
    whole.nb_ptc,
    whole.nb_pc,
    whole.nb_classes,
    whole.tk_nextmove,
    whole.tk_output,
    norm_probs=True,
    tk_row=whole.tk_row,
  )
  model.set_languages([name for name in chosen if name in whole.labels])
  return model
