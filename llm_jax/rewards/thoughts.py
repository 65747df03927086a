"""Tells what a model said from what it thought before, and from its calls of tools.

The marks of thinking are those that models are known to write: <think>, <thinking>, <thought>,
<reasoning> (DeepSeek-R1, Qwen 3), [THINK] (Magistral), <|begin_of_thought|> (Sky-T1),
<|START_THINKING|> (Command A), ◁think▷ (Kimi), the channels of gpt-oss, and our own control tokens.
"""

import re
from typing import NamedTuple


class Said(NamedTuple):
  """A completion in parts.

  Attributes:
    answer: what is neither thought nor call; '' if a thought is not closed, for then there is none.
    thinking: the thoughts, one after the other.
    completion: the whole text, with <think> and </think> for our own marks.
  """

  answer: str
  thinking: str
  completion: str


_WORD = r'(?:\w+:)?(?:think(?:ing)?|thoughts?|reasoning|scratchpad)'
# (how it starts, how it ends); a group in both has to be the same.
_THOUGHTS = (
  (r'<THINK_START>', r'<THINK_END>'),
  (rf'<({_WORD})(?:\s[^<>]*)?>', rf'</({_WORD})\s*>'),
  (r'\[THINK\]', r'\[/THINK\]'),
  (rf'◁({_WORD})▷', rf'◁/({_WORD})▷'),
  (rf'<\|(?:begin_of|start|begin)_({_WORD})\|>', rf'<\|end(?:_of)?_({_WORD})\|>'),
  (
    r'<\|channel\|>(?:analysis|commentary)[^<]*<\|message\|>',
    r'(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final[^<]*<\|message\|>',
  ),
)
_CALLS = (
  (r'<SEARCH_START>', r'<SEARCH_END>'),
  (r'<RESULT_START>', r'<RESULT_END>'),
  (r'<tool_call>', r'</tool_call>'),
  (r'<tool_response>', r'</tool_response>'),
)
_PAIRS = (*_THOUGHTS, *_CALLS)
_EACH = '|'.join(f'(?P<s{i}>{start})|(?P<e{i}>{end})' for i, (start, end) in enumerate(_PAIRS))
_MARK = re.compile(rf'(?=[<\[◁])(?:{_EACH})', re.IGNORECASE)  # the first sign makes it fast
_TAIL = 100  # characters before a completion that may open its thought


def _is_thought(mark: re.Match[str], which: str) -> bool:
  name = str(mark.lastgroup)
  return name[0] == which and int(name[1:]) < len(_THOUGHTS)


def said(text: str, before: str = '') -> Said:
  """The parts of a completion, by the marks that are spelled out in it.

  A thought ends with the mark that belongs to its first; other marks inside of it are text. Before
  an end mark without a beginning all was thought: the prompt had opened it.

  Args:
    text: the completion.
    before: the end of its prompt. If that opens a thought, so does the completion.

  >>> said('<think>The answer is 3. No.</think>The answer is 4.').answer
  'The answer is 4.'
  >>> said('3? No.</think>4').answer, said('4<think>or 3').answer
  ('4', '')
  >>> said('or 3', before='Is it 4? <think>').answer
  ''
  """
  marks = [*_MARK.finditer(before := before[-_TAIL:].rstrip())]
  if marks and marks[-1].end() == len(before) and _is_thought(marks[-1], 's'):
    text = marks[-1][0] + text
  answer: list[str] = []
  thinking: list[str] = []
  inside, at = None, 0  # what is open: the number of its marks, and their word
  for match in _MARK.finditer(text):
    name = str(match.lastgroup)
    pair, starts = int(name[1:]), name[0] == 's'
    word = match[_MARK.groupindex[name] + 1] if _WORD in _PAIRS[pair][0] else ''
    own = (pair, word.lower())
    thought = pair < len(_THOUGHTS)
    if inside and (starts or own != inside):
      continue
    if starts:
      answer.append(text[at : match.start()])
    elif not inside and not thought:
      continue
    elif thought:
      thinking += [*([] if inside else answer), text[at : match.start()]]
      answer = answer if inside else []
    inside, at = own if starts else None, match.end()
  thinks = inside is not None and inside[0] < len(_THOUGHTS)
  if thinks:
    thinking.append(text[at:])
  elif not inside:
    answer.append(text[at:])
  for own, mark in (('<THINK_START>', '<think>'), ('<THINK_END>', '</think>')):
    text = text.replace(own, mark)
  return Said('' if thinks else ''.join(answer), '\n'.join(filter(None, thinking)), text)
