"""Japanese words by script and particles, without a dictionary or a model.

A run of katakana or of Latin letters is a word. Han characters stand in pairs, as most compounds
do, and so does what hiragana leaves between particles. On 404 messages of Django and Sphinx this
gave words of 2.09 characters on average, where SudachiPy gives 2.12 in its finest mode, and the
same verdict under the limits of FineWeb-2 for all 21 groups of twenty
(experiments/word_splitters).
"""

import re

from llm_jax.clean.words.chinese import HAN

_PARTICLES = 'はがをにでともの'
_HIRAGANA, _KATAKANA = '\u3041-\u309f', '\u30a0-\u30ff\u31f0-\u31ff\uff66-\uff9f'
_WORDS = re.compile(
  rf'[{_PARTICLES}]|[{_HIRAGANA}](?:(?![{_PARTICLES}])[{_HIRAGANA}])?|[{_KATAKANA}]++|[{HAN}]{{1,2}}'
  rf'|[^\W_{HAN}{_HIRAGANA}{_KATAKANA}]++(?:\.[0-9]++)?|[^\w\s]|_'
)


def split(text: str) -> list[str]:
  """The words of a text.

  >>> split('私はコーヒーを飲みました。')
  ['私', 'は', 'コーヒー', 'を', '飲', 'みま', 'した', '。']
  """
  return _WORDS.findall(text)
