"""Chinese words by script and a few function words, without a dictionary or a model.

Where words end in Chinese is not written. Most have two characters, and a dozen frequent ones have
one. On 1,680 texts of seven kinds this gave words of 2.20 characters on average, where jieba gives
2.23, and the same verdict under the limits of FineWeb-2 for 98.9 % of them
(experiments/word_splitters).
"""

import re

# Han characters of all planes and the marks written like them.
HAN = '\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff'
_ALONE = '的了在是和也都就与與或被把'
_WORDS = re.compile(
  rf'[{_ALONE}]|[{HAN}](?:(?![{_ALONE}])[{HAN}])?|[^\W_{HAN}]++(?:\.[0-9]++)?|[^\w\s]|_'
)


def split(text: str) -> list[str]:
  """The words of a text.

  >>> split('我们的世界，3.14 and the rest。')
  ['我们', '的', '世界', '，', '3.14', 'and', 'the', 'rest', '。']
  """
  return _WORDS.findall(text)
