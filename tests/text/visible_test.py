"""Nothing that acts on a terminal or hides is left in a text; what people write stays."""

import ast
import io
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from llm_jax.text import terminal
from llm_jax.text.visible import settled, visible

ROOT = Path(__file__).parents[2]
ENGLAND = '\U0001f3f4' + ''.join(chr(0xE0000 + ord(c)) for c in 'gbeng\x7f')
# Format characters that are drawn: they begin a number, or end a verse.
DRAWN = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}


# Letters and marks that are drawn as nothing: Unicode's other default-ignorable characters.
BLANK = {
  *(0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x3164, 0xFFA0, 0xFFF0),
  *range(0x180B, 0x1810),
  *range(0xFE00, 0xFE10),
  *range(0xE0000, 0xE1000),
}


def test_every_character_that_acts_or_is_not_seen_is_shown():
  for code in range(sys.maxunicode + 1):
    char = chr(code)
    acts = unicodedata.category(char) in ('Cc', 'Cf', 'Cs', 'Zl', 'Zp') and char not in '\n\t'
    if (acts and code not in DRAWN) or code in BLANK:
      assert visible(f'a{char}b')[1:-1].isprintable() and char not in visible(f'a{char}b'), hex(
        code
      )
    elif unicodedata.category(char) != 'Cn' and not 0x13430 <= code < 0x13440:
      assert visible(char) == char, hex(code)


@pytest.mark.parametrize(
  'text, shown',
  [
    ('\x1b]52;c;ZXZpbA==\x07', '␛]52;c;ZXZpbA==␇'),
    ('a\x1b[2J\x9b2J\x7f\x00', r'a␛[2J\x9b2J␡␀'),
    ('over\rwritten', 'over␍written'),
    ('a\u202eb\u2066c\u200fd\u061ce', r'a\u202eb\u2066c\u200fd\u061ce'),
    ('pass\u200bword\ufeff\u00ad\u2060', r'pass\u200bword\ufeff\xad\u2060'),
    ('x\u2028y\u2029z\x85w', r'x\u2028y\u2029z\x85w'),
    ('half \ud83d an emoji', r'half \ud83d an emoji'),
    ('a\u200db\u200cc', r'a\u200db\u200cc'),  # Latin has no joiners
    ('ب\u200d\u200d\u200c', 'ب\u200d' + r'\u200d\u200c'),  # one is enough
    ('\u200dب', r'\u200dب'),
    ('a\ufe0f😀\ufe0f\ufe0f\u200d😀', 'a' + r'\ufe0f' + '😀\ufe0f' + r'\ufe0f\u200d' + '😀'),
    ('1\ufe0f2', r'1\ufe0f2'),
    ('😀\u200da', '😀' + r'\u200d' + 'a'),
    ('\U0001f3f4\U000e0068\U000e0069\U000e007f', '\U0001f3f4' + r'\U000e0068\U000e0069\U000e007f'),
    ('hi\U000e0068\U000e0100\u3164\uffa0\u034f', r'hi\U000e0068\U000e0100\u3164\uffa0\u034f'),
  ],
)
def test_what_acts_or_hides_is_shown(text, shown):
  assert visible(text) == shown == visible(shown)


@pytest.mark.parametrize(
  'text',
  [
    *('two\nlines\tand a tab', 'naïve Ünïcode ½ ∑ 漢字 한국어 ไทย', 'שָׁלוֹם עולם', 'السلام عليكم ۝'),
    *('می\u200cخواهم', 'क्\u200dष', 'ශ්\u200dරී', 'ക്\u200d', 'ᠮᠣᠩᠭᠣᠯ\u180b', 'a\u00a0b\u3000c'),
    *(
      '👩\u200d🔬',
      '🏳\ufe0f\u200d🌈',
      '👨🏽\u200d🚀',
      '🙂\u200d↔\ufe0f',
      '🏃🏽\u200d♀\ufe0f\u200d➡\ufe0f',
    ),
    *('1\ufe0f\u20e3 #\ufe0f\u20e3', '™\ufe0f ‼\ufe0f', ENGLAND, '≨\ufe00 葛\ufe00', '\ufffd'),
  ],
)
def test_what_people_write_stays(text):
  assert visible(text) == text


def test_one_line_and_other_things_than_text():
  assert visible('a\nb\tc\r\n', lines=False) == 'a␊b␉c␍␊'
  assert visible(KeyError('\x1b')) == "'\\x1b'" and visible(3.5) == '3.5'


@pytest.mark.parametrize(
  'text', ['a👩\u200d🔬b', f'x{ENGLAND}!', '1\ufe0f\u20e3', 'می\u200cخ \x1b\u200d!']
)
def test_a_stream_shows_the_same_as_the_whole(text):
  shown = ''
  for end in range(len(text)):
    now = visible(settled(text[:end]))
    assert now.startswith(shown)
    shown = max(shown, now, key=len)
  assert visible(text).startswith(shown)


def test_a_style_is_ours_and_only_on_a_terminal():
  out = io.StringIO()
  terminal.say('a\x1b[0m', 'b', style='bold', end='\r\n', file=out)
  out.isatty = lambda: True
  terminal.say('c', style='dim', file=out)
  assert out.getvalue() == 'a␛[0m b␍\n\x1b[2mc\x1b[0m\n'


def test_letters_that_a_terminal_does_not_have_are_spelled():
  out = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
  terminal.say('né ☃\x1b', file=out)
  assert out.buffer.getvalue() == rb'n\xe9 \u2603\u241b' + b'\n'


def test_the_command_line_is_guarded(tmp_path):
  """Tracebacks, warnings and what a user's file prints, too."""
  (tmp_path / 'mine.py').write_text(
    "import warnings, sys\nprint('P\\x1b[2J')\n"
    "warnings.warn('W\\u202e')\nsys.stderr.write('E\\x9b')\n"
    "def get_config():\n  raise ValueError('V\\x1b]0;x\\x07')\n"
  )
  command = [sys.executable, '-m', 'llm_jax.main', f'--config={tmp_path}/mine.py']
  said = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60)
  out, err = said.stdout.decode(), said.stderr.decode()
  assert said.returncode == 1 and out == 'P␛[2J\n'
  assert r'W\u202e' in err and r'E\x9b' in err and 'V␛]0;x␇' in err
  assert not set(err) & set('\x1b\x07\x9b\u202e')


def test_a_package_may_put_its_own_write_in_the_place_of_ours(monkeypatch):
  """As Weights & Biases does to see what is printed."""
  raw, seen = io.StringIO(), []
  monkeypatch.setattr(sys, 'stdout', raw)
  monkeypatch.setattr(sys, 'stderr', raw)
  terminal.guard()
  for stream in (sys.stdout, sys.stderr):
    before = stream.write
    stream.write = lambda text, before=before: (seen.append(text), before(text))[1]
    stream.write('a\x1b\n')
    print('b', file=stream)
  assert raw.getvalue() == 'a␛\nb\n' * 2 and ''.join(seen) == 'a\x1b\nb\n' * 2
  assert 'write' not in vars(raw)


def test_nothing_else_prints():
  """`say` and `bar` are how the package speaks; files are opened by name, and are not stdout."""
  for path in (ROOT / 'llm_jax').rglob('*.py'):
    if path.name == 'terminal.py' and path.parent.name == 'text':
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      at = f'{path}:{getattr(node, "lineno", 0)}'
      if isinstance(node, ast.Import | ast.ImportFrom):
        names = [a.name for a in node.names] + [getattr(node, 'module', '') or '']
        assert not any(name.split('.')[0] in ('tqdm', 'rich', 'pprint') for name in names), at
      if not isinstance(node, ast.Call):
        continue
      if all(isinstance(a, ast.Constant) or ast.unparse(a).isupper() for a in node.args):
        continue  # constants: what we say ourselves
      called, arguments = ast.unparse(node.func), [*map(ast.unparse, node.args)]
      assert called not in (
        'print',
        'sys.stdout.write',
        'sys.stderr.write',
        'pprint',
        'os.write',
      ), at
      if called.endswith('.write') and 'sys.stdout' in ast.unparse(node):
        assert arguments[0].startswith('visible('), at
      if called.endswith(('.set_description', '.set_postfix_str', '.set_postfix')):
        assert arguments[0].startswith('visible('), at


@pytest.mark.parametrize('text', ['a\x00\nb', 'a\ufffd\n', 'a\n\ufffd\n\ufffdb', '\u200d\n'])
def test_a_text_that_grows_only_gets_longer(text):
  shown = ''
  for end in range(len(text) + 1):
    now = settled(text[:end])
    assert text.startswith(now) and now.startswith(shown)
    shown = now
