r"""Hostile text through everything that prints: python -m experiments.reliability.printers

Texts are drawn from what acts on terminals (controls, escape sequences), what hides or turns text
(directions, characters without a shape, tags), markup of pages, and ordinary words and emoji. Each
goes through every printer of PRINTERS, and what comes out is read by rules of their own, which know
Unicode's categories and not `llm_jax.text.visible`.
"""

import argparse
import collections
import contextlib
import html.parser
import io
import random
import re
import sys
import tempfile
import time
import traceback
import unicodedata
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from llm_jax import main
from llm_jax.data import conversations, preferences, prompts
from llm_jax.jobs import chat, corpus_report, page, report_talks, sample
from llm_jax.jobs.cleaning import corpus as clean_corpus
from llm_jax.jobs.cleaning import fate
from llm_jax.text import terminal
from llm_jax.training import metrics, rollouts

ACTS = [chr(c) for c in (*range(0x20), *range(0x7F, 0xA0))]
ACTS += ['\x1b]52;c;ZXZpbA==\x07', '\x1b[2J', '\x1b]0;title\x1b\\', '\x9b2J', '\r\n', '\x1b[1m']
ACTS += ['\u2028', '\u2029', '\ud83d', '\udc00', '\udbff', '\x1bP1$r\x9c', '\b' * 9, '\x0c']
HIDES = [chr(c) for c in (0xAD, 0x61C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F))]
HIDES += [chr(c) for c in (*range(0x2060, 0x2070), 0xFEFF, 0xFFF9, 0xFE0F, 0xFE00, 0x3164, 0x34F)]
HIDES += [chr(0xE0000 + c) for c in (1, *range(0x20, 0x80))] + ['\U000e0100', '\U0001d173']
MARKUP = [
  '<script>',
  '</td>',
  '<img src=x onerror=y>',
  '&lt;',
  '&',
  '"',
  "'",
  '|',
  '\\',
  '`',
  '```',
]
MARKUP += ['[a](http://b)', '![a](//b)', 'http://a.b', 'HTTPS://a.b', 'www.a.b', '#', '# ', '> ']
MARKUP += ['- ', '1. ', '===', '---', '$x$', '*', '_', '~~', '<!--', ']]>', '\n\n', '    ', '\t']
WORDS = ['a', 'word', ' ', '\n', '7', 'é', '漢字', 'שלום', 'سلام', 'می\u200cخواهم', 'क्\u200dष', 'ᠮ']
WORDS += ['👩\u200d🔬', '🏳\ufe0f\u200d🌈', '1\ufe0f\u20e3', '\U0001f3f4', '😀', '♀\ufe0f', '\ufffd']


def hostile(rng: random.Random) -> str:
  """A text of one to twelve pieces, of which any may be of any kind."""
  kinds = rng.choices((ACTS, HIDES, MARKUP, WORDS), k=rng.randint(1, 12))
  return ''.join(map(rng.choice, kinds))


# --- what prints: a function of a text, to what is written ----------------------------------------


class Screen(io.StringIO):
  """What is written to a terminal, as the process would see it."""

  encoding = 'utf-8'

  def isatty(self) -> bool:
    return True

  def write(self, text: str) -> int:
    text.encode()  # a terminal takes bytes
    return super().write(text)


@contextlib.contextmanager
def screen():
  """Both streams as one terminal."""
  shown = Screen()
  with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
    yield shown


def say(text: str) -> None:
  terminal.say(text, style='bold')
  terminal.say(text, text, end=text, file=sys.stderr)


def error(text: str) -> None:
  """What the command line says of bad input."""
  try:
    main.leave(f'error: {text}')
  except SystemExit as end:
    sys.stderr.write(f'{end}\n')


def guarded(text: str) -> None:
  """What Python and other packages write while the command line runs."""
  terminal.guard()
  print(text)
  print(text, end='\n', file=sys.stderr)
  sys.stderr.write(warnings.formatwarning(text, UserWarning, text, 1))
  sys.stdout.writelines([text, '\n'])
  try:
    raise KeyError(text) from ValueError(text)
  except KeyError:
    traceback.print_exc()


def training(text: str) -> None:
  """The log of a run: metrics, rollouts and the bar beside them."""
  bar = terminal.bar(total=9, disable=True)
  log: Any = object.__new__(metrics.Log)
  log._bar, log._bits, log._file, log._boards = bar, {}, None, []
  log.say(text)
  log.evaluated(3, text, {text: 1.0})
  ones = np.ones((1, 1, 4), np.int32)
  batch = {'tokens': ones, 'mask': ones * [0, 0, 1, 1], 'segment': ones, 'prompt': ones[0]}
  shown: Any = object.__new__(rollouts.Rollouts)
  shown._last, shown._decode, shown._count = (lambda: batch), (lambda ids: text), 1
  shown.records = lambda step: [{'prompt': text, 'answer': text, 'reward': 1.0, 'step': step}]
  log.shown(3, shown.lines(0), {})


def corpus(text: str) -> None:
  """A corpus with files and sources of any name."""
  progress = corpus_report.Progress()
  progress.add(text, 1, 2)
  progress.close()
  numbers = dict(documents=1, bytes=2, tokens=3, rows=4, bytes_per_token=1.0, padding=0.5)
  finished = dict(vocab_size=9, length=4, sources={text: {text: numbers}})
  corpus_report.print_summary(text, finished)


def data(text: str) -> None:
  """What was left out of a file of records, and why."""
  conversations._report(text, 4, {}, {}, collections.Counter({text: 2}))
  preferences._report(text, 4, {}, {}, {}, collections.Counter({text: 2}))
  prompts._report(text, 4, 8, {}, [], collections.Counter({text: 2}))


def cleaned(text: str) -> None:
  """Pages with any text and URL, from sources of any name."""
  numbers = dict(pages=2, kept=1, characters=3, dropped={text: 1}, records={text: 2})
  clean_corpus.print_summary(Path('x'), {'sources': {text: numbers}}, 1.0)
  record = dict(id=text, url=text, text=text, step=text, reason=text, values={text: text})
  for line in fate.told(record, Path('x'), {}):
    terminal.say(line)


def answers(text: str) -> None:
  """Job sample, with a model that says the text."""
  made = SimpleNamespace(template='chatml', model=None, tokenizer=None, params=None)
  config = SimpleNamespace(prompts=(text, 'b'), sample={}, seed=0, artifact='', get=lambda *_: None)
  saved = sample._load, sample.call
  sample._load, sample.call = (lambda *_: made), (lambda *_, **__: lambda params: [text, text])
  try:
    sample._print(config, None)
  finally:
    sample._load, sample.call = saved


def conversation(text: str) -> None:
  """Job chat, with a model that says the text a character at a time."""
  talk: Any = object.__new__(chat.Chat)
  talk._said, talk._shown = '', 0
  for end in range(len(text) + 1):
    talk._said = text[:end].rstrip('\ufffd')
    talk._print(chat.settled(talk._said))
  talk._print()


def pages(text: str) -> tuple[str, str]:
  """Markdown and HTML."""
  rollout = page.Table(('step', text), [[text, report_talks.short(text)], ['1', text]])
  blocks = [page.Heading(text), page.Text(text), rollout, page.Figure('x.svg', b'<svg/>', text)]
  blocks += [page.Pieces([(text, 'trained'), (text, text)]), page.Code(text)]
  blocks += [page.Talk([page.Turn(text, text, 'right'), page.Turn(text, text)])]
  return page.markdown(blocks, FIGURES), page.page(blocks, text)


FIGURES = Path(tempfile.mkdtemp())
PRINTERS = (say, error, guarded, training, corpus, data, cleaned, answers, conversation)


# --- what may be shown ----------------------------------------------------------------------------

JOINERS = '\u200c\u200d\ufe0e\ufe0f\ufe00\ufe01\ufe02'
TURNS = {0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
OURS = re.compile('\x1b\\[(?:[012]m|A|K)|\r(?=[^\n]|$)')  # styles, and how a bar moves
DRAWN = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}


def fault(shown: str) -> str | None:
  """The first character that acts on a terminal, turns text or hides, in words."""
  for match in re.finditer(r'[^ -~\n\t]', shown):
    i, char = match.start(), match[0]
    code, kind = ord(char), unicodedata.category(char)
    before = shown[i - 1] if i else ' '
    joins = char in JOINERS and before not in '\n\t ' and before.isprintable()
    doubled = char in JOINERS and i > 1 and {shown[i - 1], shown[i - 2]} <= set(JOINERS)
    if 0x180B <= code <= 0x180F:
      joins = unicodedata.name(before, '').startswith('MONGOLIAN')
    tag = 0xE0000 < code < 0xE0080
    if tag:
      flag = re.search('\U0001f3f4[\U000e0061-\U000e007a]*\U000e007f?$', shown[: i + 1])
      joins = flag is not None
    bad = kind in ('Cc', 'Cs', 'Zl', 'Zp') and char not in '\n\t'
    bad = bad or code in TURNS or doubled
    bad = bad or ((kind == 'Cf' or char in JOINERS or tag) and code not in DRAWN and not joins)
    if bad or code in (0x3164, 0x34F, 0xE0100):
      return f'{char!a} at {i} of {shown[max(i - 20, 0) : i + 20]!a}'
  return None


TAGS = {
  *('html', 'meta', 'title', 'style', 'body', 'h1', 'h2', 'h3', 'p', 'div', 'img', 'span'),
  *('table', 'thead', 'tbody', 'tr', 'th', 'td', 'pre'),
}  # fmt: skip


class Reader(html.parser.HTMLParser):
  """The tags of a page, and the names of their attributes."""

  def __init__(self, text: str) -> None:
    super().__init__()
    self.found: set[str] = set()
    self.feed(text)

  def handle_starttag(self, tag: str, attrs: Any) -> None:
    self.found |= {tag, *(f'{tag} {name}' for name, _ in attrs)}

  def handle_comment(self, data: str) -> None:
    self.found.add('comment')


def page_fault(markdown: str, page_html: str) -> str | None:
  """What a page has beside the blocks that it was made of."""
  attributes = {'meta charset', 'meta name', 'meta content', 'html lang', 'img alt', 'img src'}
  attributes |= {f'{tag} class' for tag in ('div', 'td', 'p', 'span')}
  if more := Reader(page_html).found - TAGS - attributes:
    return f'HTML with {sorted(more)}'
  lines = markdown.rstrip('\n').split('\n')
  heading, _, paragraph, _, head, _, first, second, _, figure, _, tokens, *rest = (
    lines if len(lines) == 20 else [''] * 20
  )
  if not heading:
    return f'{len(lines)} lines of Markdown'
  figure = re.fullmatch(r'!\[(.*)\]\([^()]*\)', figure)
  cells = [re.sub(r'\\.', '', line) for line in (head, first, second)]
  if figure is None or any(line.count('|') != 3 for line in cells):
    return 'cells or figures of Markdown that end early'
  _, fence, code, end, _, *turns = rest
  if fence != end or {*fence} != {'`'} or fence in code:
    return 'code of Markdown that ends early'
  turns = [re.fullmatch(r'> \*\*(.*):\*\* (.*)', turn) for turn in turns if turn]
  if len(turns) != 2 or None in turns:
    return 'turns of Markdown that end early'
  inner = [
    heading.removeprefix('## '),
    paragraph,
    tokens,
    figure[1],
    *(part for turn in turns if turn for part in turn.groups()),
    *(c.replace('|', '') for c in cells),
  ]
  plain = [re.sub(r'\\.', '', line) for line in inner]
  for line in plain:
    if found := re.search(r'[`*_\[\]<>|~$#]|://|www\.', line):
      return f'Markdown with {found[0]!r}'
  if any(re.match(r'[-+=>#]|\d+[.)]', text) for text in (paragraph, tokens)):
    return 'Markdown whose paragraph is a list or a heading'
  return None


def run(count: int, seed: int = 0) -> dict[str, int]:
  """Printer -> texts that it let act; the first of each is told on stderr."""
  rng, faults = random.Random(seed), collections.Counter()

  def tell(name: str, text: str, why: str | None) -> None:
    if why and not faults[name]:
      sys.__stderr__.write(f'{name}: {text!a}\n  {why}\n')
    faults[name] += bool(why)

  for _ in range(count):
    text = hostile(rng)
    for printer in PRINTERS:
      with screen() as shown:
        printer(text)
      styled = printer in (say, answers, conversation, corpus, cleaned)
      told = shown.getvalue()
      tell(printer.__name__, text, fault(OURS.sub('', told) if styled else told))
    both = pages(text)
    tell('pages', text, fault(''.join(both)) or page_fault(*both))
  return {name: faults[name] for name in (*(p.__name__ for p in PRINTERS), 'pages')}


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--count', type=int, default=100_000)
  parser.add_argument('--seed', type=int, default=0)
  given = parser.parse_args()
  began = time.perf_counter()
  found = run(given.count, given.seed)
  seconds = time.perf_counter() - began
  sys.stdout.write(f'{given.count} texts, {seconds:.0f} s; texts that acted, by printer: {found}\n')
  sys.exit(any(found.values()))
