"""Finds the final answer in a solution: a box, a marker, a statement, or the last number.

The final answer is the first of these that exists: the content of the last \\boxed{...}; what
follows the last '####' that is no heading; what the text first says the answer is ('The answer is',
'Answer:', and the same in other languages; `exact_answer` says why the first); the whole, if it is
nothing but an answer; the last number, with all of the formula that it is part of. Thoughts are not
read (rewards/thoughts.py), and if a text contains <answer>...</answer>, only what the last of them
holds.
"""

import re

from llm_jax.rewards.notation import characters, closing, uniform
from llm_jax.rewards.thoughts import said

LONGEST = 400  # characters of an answer that is read
_WINDOW = 4 * LONGEST
_MOST_TRIED = 8  # boxes and markers, from the last one; statements, from the first one


def final_answer(text: str, *, any_number: bool = True) -> str | None:
  """The text of the final answer of a solution, or None.

  >>> final_answer('#### Result\\nThe answer is $\\\\frac{1}{8}$ kg. It is small.')
  '$\\\\frac{1}{8}$ kg'
  >>> final_answer('First \\\\boxed{3}, and then \\\\boxed{}.')

  Args:
    text: a solution in words, Markdown or LaTeX.
    any_number: whether the last number counts if no answer is marked as the final one.
  """
  text = said(text).answer
  inside = tagged(text)
  text = characters(text if inside is None else inside)
  found = marked(text)
  if found is None:
    found = stated(text)
  if found is None and (any_number or inside is not None):
    found = _whole(text, inside is not None)
  if found is None and any_number:
    found = last_number(text)
  return found or None


def tagged(text: str) -> str | None:
  """What the last <answer>...</answer> holds, or None."""
  before, closed, _ = text.rpartition('</answer>')
  start = before.rfind('<answer>')
  return before[start + len('<answer>') :] if closed and start >= 0 else None


# --- boxes and markers -------------------------------------------------------------------------

_BOX = re.compile(r'\\(?:boxed|fbox)(?![A-Za-z])\s*')
_MARKER = re.compile(r'(?<!#)####(?!#)')
_NUMBERING = re.compile(r'\d{1,2}[.):] +\S')


def marked(text: str) -> str | None:
  """What the last box holds, '' if nothing, or what follows the last '####', or None."""
  starts = [match.end() for match in _BOX.finditer(text)]
  for start in starts[: -_MOST_TRIED - 1 : -1]:
    window = text[start : start + _WINDOW]
    if not window.startswith('{'):
      return re.split(r'[\s$]', window, maxsplit=1)[0]
    end = closing(window, 0)
    if end is not None:
      return window[1:end].strip(' \n\t$')
  starts = [match.end() for match in _MARKER.finditer(text)]
  for start in starts[: -_MOST_TRIED - 1 : -1]:
    line, _, after = text[start : start + _WINDOW].strip().partition('\n')
    found = _sentence(plain_markdown(line))
    if not after.strip() or (_begins_with_value(found) and not _NUMBERING.match(line)):
      return found
  return None


# --- statements --------------------------------------------------------------------------------

# 'answer' in languages that put spaces between words, and in those that do not.
_ANSWER = (
  'answer|ans|antwort|lösung|réponse|reponse|respuesta|resposta|risposta|antwoord|svar|vastaus'
  '|odpowiedź|odpověď|válasz|răspuns|cevap|yanıt|jawaban|đáp án|trả lời|ответ|відповідь|απάντηση'
  '|উত্তর|उत्तर|الجواب|الإجابة|جواب|پاسخ|תשובה'
)
_ANSWER_CJK = '最终答案|最終答案|答案|答え|解答|答|정답|답|คำตอบ'
_IS = (
  'is|would be|equals|ist|lautet|est|es|è|é|to|wynosi|je|är|er|on|là|adalah|это|равен|равна|равно'
  '|είναι|है|হল|هو|هي|הוא|היא'
)
_IS_CJK = '应该是|就是|是|为|為|は|が|은|는|คือ'
_LETTER = 'A-Za-zÀ-ɏͰ-ӿ'
_ASIDE = r'(?: ?\([^()\n]{1,40}\))?'
_STATED = re.compile(
  rf'(?P<the>\bthe (?:\w+ ){{0,2}}?answer(?: (?:to|for|of) [^.?!\n]{{1,80}}?)? (?:is|would be)\b)'
  rf'|(?<![{_LETTER}])(?:{_ANSWER})(?![{_LETTER}]){_ASIDE}[*_ ]*(?: (?:{_IS})\b|[:=]|\n+)'
  rf'|(?:{_ANSWER_CJK}){_ASIDE}[*_ ]*(?:{_IS_CJK}|[:=]|\n+)',
  re.IGNORECASE,
)
_BETWEEN = re.compile(
  rf'(?:[\s*_`:=›]|(?:about|approximately|exactly|roughly|simply|just)\b|(?:{_IS_CJK}))*'
)
_END = re.compile(
  r'\n|[.!?](?=[\s*]|$|[^\x00-\x7f])|[;。！？؟۔।؛]|,(?= ?[^\x00-\x7f])| \((?=[a-z]{2})'
  r'|,? (?:because|since|as|so|which|where|but|not|if|for)\b'
)


def stated(text: str) -> str | None:
  """What the text says the answer is, to the end of the sentence, or None.

  The first statement counts that goes on with a value; or else the first 'The answer is'.
  """
  first = None
  text = plain_markdown(text)
  for n, match in enumerate(_STATED.finditer(text)):
    if n == _MOST_TRIED:
      break
    rest = text[match.end() : match.end() + _WINDOW]
    between = _BETWEEN.match(rest)
    rest = _sentence(rest[between.end() if between else 0 :])
    short = len(rest.split()) < 5 and not re.search(r'\d', rest)
    if _begins_with_value(rest) or (short and rest and not match['the']):
      return rest
    first = rest if first is None and match['the'] else first
  return first


def _sentence(text: str) -> str:
  """The beginning of `text` to the end of its first sentence; formulas do not end any."""
  for match in re.finditer(f'{_MATH}|(?P<end>{_END.pattern})', text):
    if match['end'] is not None:
      text = text[: match.start()]
      break
  return text.strip(_AROUND)


_AROUND = ' *_`"\'“”„«»「」『』'
_TAG = re.compile(r'</?(?:b|i|u|em|strong|span|p|code|br ?/?)>')
_EMPHASIS = re.compile(
  r'(?<![0-9A-Za-z_)\]}*\\])(\*\*\*?|__)(?=[^\s*_])([^*\n]{1,400}?)(?<=[^\s])\1(?!\*)'
)


def plain_markdown(text: str) -> str:
  """A text without the marks of bold print; a power such as 2**5 stays."""
  return _EMPHASIS.sub(r' \2 ', _TAG.sub(' ', text))


# --- numbers and formulas in prose -------------------------------------------------------------

# As in Pandoc, a dollar before a space or a digit ends no formula: it may be a currency.
_MATH = (
  r'\$\$[^$]{1,400}\$\$|(?<![\\$])\$\$?(?=[^\s$])[^$]{1,400}(?<=[^\s\\])\$\$?(?!\d)'
  r'|(?<![\\$])\$\$?\s+[^$\n]*\\[A-Za-z][^$\n]*\s\$\$?'
  r'|\\\((?:(?!\\\)).){1,400}\\\)|\\\[(?:(?!\\\]).){1,400}\\\]'
)
_NUMBER = (
  r"\d{1,3}(?:[ ~']\d{3})+(?![\d/])(?:\.\d+)?|\d+ \d+/\d+"
  r'|\d+(?:[.,:]\d+)*(?:[eE][-+]?\d{1,3}(?![\dA-Za-z]))?|\.\d+'
)
_TOKEN = (
  rf'(?:{_MATH}|{_NUMBER}|\\[A-Za-z]+(?:\{{[^{{}}\n]{{0,60}}\}})?|\\[{{}},;:!%$ ]'
  r'|‹[^‹›]*›|[-+*/^_=<>≤≥≈±√π∞()\[\]{}!%°$€£¥₹,:∪]'
  rf'|(?<![{_LETTER}\'])[A-Za-zα-ω](?![{_LETTER}])'
  r'|(?<=[\d$)\]]) (?:and|or) (?=[-$\\]*[\d(]|\$[A-Za-z\\]))'
)
_RUN = re.compile(rf'{_TOKEN}(?: ?{_TOKEN})*', re.DOTALL)
_CJK = '\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af'
# Words behind a number that make another one of it.
OTHER_NUMBER = (
  r'squared|cubed|factorial|choose|times|plus|minus|over|divided|mod|dozen|hundred|thousand'
  r'|[mb]illion|trillion|hal(?:f|ves)|quarters?|thirds?|fourths?|fifths?|sixths?|sevenths?'
  r'|eighths?|ninths?|tenths?|twelfths?|hundredths?|thousandths?|sqrt|lakh|crore'
  r'|tausend|millionen|milliarden?|mille|millions?|milliards?|mil|millones|mila|milioni|milhões'
  r'|duizend|miljoen|tysi(?:ące|ęcy)|bin|milyon|nghìn|triệu|ribu|juta|тыс\w*|милли\w*|млн|млрд'
  r'|ألف|آلاف|مليون|مليار|हज़ार|हजार|लाख|करोड़'
)
_BEHIND = re.compile(
  rf' ?(?:{OTHER_NUMBER})\b| (?:to|through|until|bis) (?=[-$]?\d)'
  rf'| or (?:more|less|so|above|below)\b|\.\.\.|…|[{_LETTER}]+\d*|[{_CJK}]{{1,20}}',
  re.IGNORECASE,
)
_SIGN = re.compile(r'(?:\b(?:minus|negative) |[负負])$', re.IGNORECASE)
# Words before a number that make another one of it.
_FUNCTION = re.compile(
  r'(?:n\'t|\b(?:not|log|ln|lg|arc\w{3}|sin|cos|tan|cot|exp|sqrt|abs|max|min|gcd|lcm|mod)'
  r'|\d ?(?:to|through|until|bis|分之|至|到)) ?$',
  re.IGNORECASE,
)
_HEDGED = re.compile(
  r"\b(?:not|less|more|greater|fewer|between|least|most|over|under|than|neither|nor)\b|n't|[不非]",
  re.IGNORECASE,
)
_HAS_VALUE = re.compile(r'\d|\\(?:pi|infty|sqrt|frac)|[π∞]')


def last_number(text: str) -> str | None:
  """The last number of a text, or the formula that it is part of, or None."""
  found = _numbers(text[-_WINDOW:], '!')
  return found[-1][1] if found else None


def number_of(text: str) -> str | None:
  """The number that a statement begins with, or the only one in it, or None."""
  found = _numbers(text)
  if not found:
    return None
  if found[0][0]:
    return found[0][1]
  sentence = len(text.split()) > 3  # and no name, such as 'Step 3'
  return found[0][1] if len(found) == 1 and sentence and not _HEDGED.search(text) else None


def _numbers(text: str, ends: str = '') -> list[tuple[bool, str]]:
  """(whether it comes first, text) of formulas with a value, whole, and with what changes it.

  Args:
    text: prose.
    ends: signs that may end a sentence.
  """
  text, found = plain_markdown(text), []
  for match in _RUN.finditer(text):
    run, start = match[0], match.start()
    if not _HAS_VALUE.search(run):
      continue
    glued = start > 0 and re.match(rf'[{_LETTER}_]', text[start - 1])
    if glued and run[0] in '-.0123456789':
      continue  # mp3, COVID-19
    begins_line = bool(ends) and not text[:start].rpartition('\n')[2].strip()
    cut = _trimmed(run, ends, begins_line)
    if not _HAS_VALUE.search(cut):
      continue
    if glued and run[0] in '([{^_':
      cut = f'f{cut}'  # the value of a function is not its argument
    if run.endswith(cut) and (behind := _BEHIND.match(text, match.end())):
      cut += behind[0]
    sign = '-' if _SIGN.search(text[:start]) and not cut.startswith('-') else ''
    if of := _FUNCTION.search(text[max(0, start - 9) : start]):
      sign = of[0]
    found.append((text[:start].strip() == '', sign + cut))
  return found


def _trimmed(run: str, ends: str, begins_line: bool) -> str:
  """A run without what belongs to the sentence around it."""
  if begins_line:
    run = re.sub(r'^(?:[-+*>] )+', '', run)
  run = re.sub(r'^(?:[-=]>|[=:,)*/^_!%\]}≈]|- | )+', '', run)
  run = re.sub(r'^[A-Za-z] (?=[\d$\\-])', '', run)
  while True:
    before = run
    run = run.rstrip(' =:,*/^_<-([{' + ends)
    run = re.sub(r'(?<=[\d}%])(?:, [A-Za-z]| (?![CFJKLNVWghms])[A-Za-z])$', '', run)
    for opening, close in ('()', '[]', '{}'):
      if run.endswith(close) and run[-2:-1] != '\\' and run.count(close) > run.count(opening):
        run = run[:-1]
      if run.startswith(opening) and run.count(opening) > run.count(close):
        run = run[1:].lstrip()
    if run == before:
      return run


def _begins_with_value(text: str) -> bool:
  match = re.match(
    rf'(?:{_MATH}|[-+±$€£¥₹(\[{{√ \\]*(?:\d|\.\d)|\\[A-Za-z{{]|[A-Za-z] ?[=^+*/]|\(?[A-J]\)|[π∞])',
    text,
  )
  return match is not None


def _whole(text: str, inside: bool) -> str | None:
  """`text` if it is nothing but an answer."""
  text = plain_markdown(text).strip()
  if len(text) > LONGEST or '\n' in text:
    return None
  if inside or re.fullmatch(r'[\w.^(){}\\]+!', text, re.ASCII):  # a factorial, as far as we know
    return text
  text = re.sub(r'^(?:[-+*>] +|[-=]> *)+', '', text)
  first = _sentence(text)
  if re.search(r'\w', text[len(first) :]):
    return None
  flat = uniform(first).strip()
  run = _RUN.match(flat)
  return first if not re.search(r'\d', flat[run.end() if run else 0 :]) else None
