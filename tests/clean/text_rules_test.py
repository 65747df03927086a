"""The text rules against plain programs for the same numbers, at their limits and on odd input."""

import random
import re
from collections import Counter

import pytest

from llm_jax.clean import c4, fineweb, gopher, repetition
from llm_jax.clean.page import Drop, Page
from llm_jax.clean.punctuation import END_MARKS, PUNCTUATION
from llm_jax.clean.words import splitter
from llm_jax.options import _advice, options_of
from llm_jax.types import BadInput

SPLITTERS = ('simple', 'whitespace', 'chinese', 'japanese')
RULES = {'repetition': repetition, 'gopher': gopher, 'c4': c4, 'fineweb': fineweb}
ENGLISH = 'the be to of and that have with a aa aaa b The OF word words longer quite javascript'
SIGNS = """don't 3.5 # ## ... … . , ! ? " ' - • * [1] [edit] { } 中文 。 １ ₂ [citation needed]"""
PIECES = (
  *ENGLISH.split(' '),
  *SIGNS.split(' '),
  *('lorem ipsum', 'uses cookies', 'Terms of Use', 'a' * 1001, 'b' * 1000, 'Wörter', 'İ', '\x00'),
  *('\ud800', '\u2028', '\u2029', '\x0b', '\x85', '\r\n', '\n', '\n', '\n\n', '\n\n\n', '. ', '\t'),
)


def texts(count, seed=0):
  """Texts of few words, so that much repeats, and of a few more."""
  draw = random.Random(seed)
  for _ in range(count):
    pieces = draw.sample(PIECES, draw.choice([2, 5, 20, len(PIECES)])) + ['\n'] * draw.randrange(3)
    glue = draw.choice(['', ' ', ' ', ' '])
    text = glue.join(draw.choices(pieces, k=draw.choice([0, 1, 3, 10, 60, 200])))
    lines = text.split('\n')
    end = draw.choice(['\n', '\n\n'])
    yield end.join(draw.choices(lines, k=len(lines))) if draw.random() < 0.5 else text


def pages(count, seed=0):
  for at, text in enumerate(texts(count, seed)):
    yield Page('', text, splitter(SPLITTERS[at % 4]))


def later(items):
  seen, found = set(), []
  for item in items:
    found += [item] if item in seen else []
    seen.add(item)
  return found


def repeated(page):
  """Gopher's repetition as datatrove computes it."""
  text, words, values = page.text, page.words, {}
  parts = {'para': re.split(r'\n{2,}', text.strip()), 'line': re.split(r'\n+', text)}
  for name, items in parts.items():
    values[f'dup_{name}_frac'] = len(later(items)) / len(items)
    values[f'dup_{name}_char_frac'] = sum(map(len, later(items))) / len(text)
  for n in (2, 3, 4):
    grams = Counter(' '.join(words[at : at + n]) for at in range(len(words) - n + 1))
    for gram, count in grams.most_common(1):
      values[f'top_{n}_gram'] = len(gram) * count / len(text)
  for n in range(5, 11):
    seen, at, total = set(), 0, 0
    while at + n <= len(words):
      gram = ''.join(words[at : at + n])
      total += len(gram) * (gram in seen)
      at += n if gram in seen else 1
      seen.add(gram)
    values[f'dup_{n}_gram'] = total / len(text)
  return values


def test_repetition():
  rule = repetition.make()
  for page in pages(400):
    found = rule.measure(page)[1]
    assert found == {'characters': len(page.text)} | (repeated(page) if page.text else {})


def test_repetition_as_dclm_reads_it():
  rule = repetition.make(reading='dclm')
  for page in pages(300, seed=1):
    found = rule.measure(page)[1]
    if not page.text:
      continue
    for name, parts in {
      'para': re.split('\n\n+', page.text),
      'line': page.text.split('\n'),
    }.items():
      items = [part.strip() for part in parts if part.strip()]
      copies = [item for item in items if items.count(item) > 1]
      total = sum(map(len, items))
      assert found[f'dup_{name}_frac'] == (len(copies) / len(items) if items else 0)
      assert found[f'dup_{name}_char_frac'] == (sum(map(len, copies)) / total if items else 0)
    words = [word for word in page.words if word[0].isalnum()]
    total = sum(map(len, words))
    for n in range(2, 11):
      grams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
      counts = Counter(grams)
      sizes = [(count, sum(map(len, gram))) for gram, count in counts.items() if count > 1]
      count, size = max(sizes, default=(0, 0))
      inside = {at + k for at, gram in enumerate(grams) if counts[gram] > 1 for k in range(n)}
      if n < 5:
        assert found[f'top_{n}_gram'] == (count * size / total if total else 0)
      else:
        marked = sum(len(words[at]) for at in inside)
        assert found[f'dup_{n}_gram'] == (marked / total if total else 0)


def test_gopher():
  stop = {*gopher.STOP_WORDS}
  rules = {
    (occurrences, fold): gopher.make(occurrences=occurrences, fold_case=fold)
    for occurrences in (False, True)
    for fold in (False, True)
  }
  for page in pages(400, seed=2):
    text, words, lines = page.text, page.words, page.text.splitlines()
    real = [word for word in words if any(c not in PUNCTUATION for c in word)]
    dots = text.count('...') + text.count('…')
    expected = {'n_words': len(words), 'n_real_words': len(real)}
    if real:
      expected['mean_word_length'] = sum(map(len, real)) / len(real)
    if words:
      expected['hash_ratio'] = text.count('#') / len(words)
      expected['ellipsis_ratio'] = dots / len(words)
      expected['symbol_ratio'] = (text.count('#') + dots) / len(words)
      letters = [word for word in words if any(c.isalpha() for c in word)]
      expected['alpha_words'] = len(letters) / len(words)
    if lines:
      bullets = [line for line in lines if line.lstrip()[:1] in ('•', '-') and line.strip()]
      dotted = [line for line in lines if re.search(r'(\.\.\.|…)\Z', line.rstrip())]
      expected['bullet_lines'] = len(bullets) / len(lines)
      expected['ellipsis_lines'] = len(dotted) / len(lines)
    for (occurrences, fold), rule in rules.items():
      found = [w.lower() if fold else w for w in words if (w.lower() if fold else w) in stop]
      number = len(found) if occurrences else len({*found})
      assert rule.measure(page) == (page, expected | {'stop_words': number})


def test_fineweb():
  rule = fineweb.make()
  for page in pages(400, seed=3):
    text, lines = page.text, [line for line in page.text.split('\n') if line.strip()]
    expected = {'lines': len(lines)}
    if lines:
      expected['line_punct'] = len([line for line in lines if line[-1] in END_MARKS]) / len(lines)
      expected['short_lines'] = len([line for line in lines if len(line) <= 30]) / len(lines)
      without = text.replace('\n', '')
      expected['char_dup'] = sum(map(len, later(lines))) / len(without)
      expected['newline_per_word'] = text.count('\n') / len(page.words)
    assert rule.measure(page) == (page, expected)


def lines_kept(text, marks, least, curly, count_citations):
  """C4's rules one after the other: what drops the page, the removed, the kept."""
  removed, kept = Counter(), []
  for line in text.splitlines():
    line = line.strip()
    bare = line
    for mark in re.findall(r'\[\d*\]|\[edit\]|\[citation needed\]', line):
      bare = bare.replace(mark, '', 1)
    words = (line if count_citations else bare).split()
    if [word for word in line.split() if len(word) > 1000]:
      removed['too_long_word'] += 1
    elif marks and (bare[-1:] not in marks or not bare or bare[-3:] == '...'):
      removed['no_terminal_punc'] += 1
    elif len(words) < least:
      removed['too_few_words'] += 1
    elif 'lorem ipsum' in bare.lower():
      return 'lorem_ipsum', removed, kept
    elif 'javascript' in bare.lower():
      removed['javascript'] += 1
    elif '{' in bare and curly == 'page':
      return 'curly_bracket', removed, kept
    elif '{' in bare and curly == 'line':
      removed['curly_bracket'] += 1
    elif 'uses cookies' in bare.lower() or 'terms of use' in bare.lower():
      removed['policy'] += 1
    else:
      kept.append(bare)
  return '', removed, kept


@pytest.mark.parametrize('preset', [{}, *c4.PRESETS.values()], ids=['fineweb', *c4.PRESETS])
@pytest.mark.parametrize('curly', ['page', 'line', 'off'])
def test_c4(preset, curly):
  rule = c4.make(**preset, curly_bracket=curly)
  least, marks = preset.get('min_line_words', 3), preset.get('end_marks', ())
  for page in pages(300, seed=4):
    counted = preset.get('count_citations', True)
    drop, removed, kept = lines_kept(page.text, marks, least, curly, counted)
    after, values = rule.measure(page)
    assert {key: values[key] for key in c4.LINE_RULES if values[key]} == removed
    assert values['sentences'] == sum(map(c4.sentences, kept))
    assert after.text == (page.text if drop else '\n'.join(kept).strip())
    few = values['sentences'] < preset.get('min_sentences', 5)
    assert (rule.judge(values) or '') == (drop or 'too_few_sentences' * few)


@pytest.mark.parametrize(
  ('line', 'count'),
  [
    ('', 0),
    ('One. Two! Three?', 3),
    ('No end', 1),
    ('It is 3.5 m', 1),
    ('He said "yes." She (too).', 2),
    ('What?! Yes... And so', 3),
    ('.', 1),
    ('. . .', 3),
    ('”Ja.” “Nein!”', 2),
    ('a.b.c', 1),
    ('end.\u2028Next.', 2),
  ],
)
def test_sentences(line, count):
  assert c4.sentences(line) == count


def limits():
  for name, module in RULES.items():
    known = options_of(module.make)
    off = {o: None for o, x in known.items() if o[:4] in ('min_', 'max_') and 'None' in x.type}
    for option in off:
      yield pytest.param(module, {**off}, option, id=f'{name}-{option}')


@pytest.mark.parametrize(('module', 'off', 'option'), limits())
def test_a_value_at_its_limit_is_kept_and_one_beyond_is_not(module, off, option):
  side, held = option[:3], options_of(module.make)[option].hint
  unlimited, tried = module.make(**off), 0
  (limit,) = {*module.make(**{**off, option: 1}).limits} - {*unlimited.limits}
  for page in pages(40, seed=5):
    values = unlimited.measure(page)[1]
    value = values.get(limit.value)
    if value is None or unlimited.judge(values) or _advice(held, value):
      continue
    assert module.make(**{**off, option: value}).judge(values) is None
    step = 1 if isinstance(value, int) else max(value * 1e-9, 1e-12)
    beyond = value + step if side == 'min' else value - step
    if not _advice(held, beyond):
      assert module.make(**{**off, option: beyond}).judge(values) == limit.reason
      tried += 1
  assert tried


def test_limits_the_wrong_way_round():
  for wrong, said in {
    ('min_words', 'max_words'): 'clean.gopher: min_words 9 is above max_words 5',
    ('min_word_length', 'max_word_length'): 'clean.gopher: min_word_length 9 is above max_word_le',
  }.items():
    with pytest.raises(BadInput, match=said):
      gopher.make(**dict(zip(wrong, (9, 5), strict=True)))


@pytest.mark.parametrize('name', SPLITTERS)
def test_no_text_is_too_odd(name):
  rules = [rule.make() for rule in RULES.values()] + [repetition.make(reading='dclm')]
  rules += [c4.make(**c4.PRESETS['tfds'], curly_bracket='line')]
  many = 10_000 if name == 'simple' else 1_000
  for text in (
    *('', ' ', '\n', '\u2028', '\ud800', '\x00', '{', '[1]', '...', '#', '１', '中', '\t\n \r'),
    *(mark * many for mark in ('.', '[', '[1', '."', '\n', '\r\n', ' ', 'a', 'a.', "'", '#', '中')),
    *(
      'same line\n' * many,
      '\ud800\udfff' * many,
      'x.\u2028' * many,
      '....x' * many,
      '\u3042' * many,
    ),
    *(' ' * many + 'x', 'x' + ' ' * many, 'lorem ' * many, ' '.join(map(str, range(many)))),
  ):
    page = Page('', text, splitter(name))
    for rule in rules:
      after, values = rule.measure(page)
      assert all(value >= 0 for value in values.values()) and isinstance(after.text, str)
      rule(page)
  assert all(isinstance(rule(Page('', '', splitter(name))), Drop) for rule in rules)
