r"""A final answer is found and compared however it is dressed, and nothing else is right.

Gold answers are put into styles, sentences of many languages and neighbours at random. Each has to
be right for itself, and wrong for every other gold answer and every number that is a part of it.
"""

import random

import pytest

from llm_jax.rewards import exact_answer, math_equal
from llm_jax.types import BadInput

# Numbers as prose writes them, then other gold answers; each with other ways to write it.
NUMBERS = {
  '42': ['42', '42.0', '042', '４２', '٤٢'],
  '-7': ['-7', '−7', '-7.00'],
  '46250': ['46250', '46,250', '46 250', '46\u202f250', '46\u2009250', '46，250', "46'250"],
  '3.75': ['3.75', '3 3/4', '15/4', '3.750'],
  '1000000': ['1,000,000', '1 000 000', '1000000'],
  '1/8': ['1/8', '0.125'],
}
FORMULAS = {
  '42': ['6 \\cdot 7', '+42'],
  '8': ['8', '\\frac{16}{2}', '2^3'],
  '46250': ['46\\,250', '46{,}250', '46\\ 250', '46~250', '4.625 \\times 10^4'],
  '1000000': ['1\\,000\\,000', '10^6', '1 \\text{ million}', '1{,}000{,}000'],
  '3.75': ['3\\frac{3}{4}', '\\frac{15}{4}', '3¾'],
  '1/8': ['\\frac18', '\\dfrac{1}{8}', '\\tfrac{1}{8}', '2^{-3}', '⅛', '\\frac{1}{\\text{8}}'],
  '-2/3': ['-2/3', '-\\frac{2}{3}', '\\frac{-2}{3}', '−\\frac23'],
  '15%': ['15%', '15\\%', '15'],
  '\\sqrt{11}': ['\\sqrt{11}', '11^{1/2}', '√11'],
  '6\\sqrt{5}': ['6\\sqrt{5}', '6\\cdot\\sqrt{5}', '\\sqrt{180}'],
  '3\\pi': ['3\\pi', '3π', '\\pi \\cdot 3'],
  '2^{70}': ['2^{70}', '2^70', '4^{35}'],
  '(3, 4)': ['(3, 4)', '(3,4)', '\\left(3, \\frac{8}{2}\\right)'],
  '[0, 9)': ['[0, 9)', '[0,9)', '\\left[0,9\\right)'],
  '\\{5, 12\\}': ['\\{5, 12\\}', '\\{12,5\\}', '5, 12', '12 \\text{ and } 5'],
  'x^2+1': ['x^2+1', '1 + x^2', 'x^{2} + 1'],
}
WORDS = {
  'B': ['B', '(B)', '\\text{(B)}', '\\text{B}'],
  'Paris': ['Paris', '\\text{Paris}'],
  'no': ['no', 'No'],
}
PARTS = ['0', '1', '2', '3', '4', '5', '6', '7', '9', '10', '11', '12', '16', '18', '35', '46']
PARTS += ['70', '75', '78', '125', '180', '250', '625', '750', '34', '512', '09', '1/4', '3/4']

STYLES = (
  *('{}', '${}$', '\\({}\\)', '**{}**', ' {} ', '{}.', '{}\\,', 'x = {}', '\\displaystyle {}'),
  *(f'\\{name}{{{{{{}}}}}}' for name in ('text', 'textbf', 'mathbf', 'mathrm', 'boldsymbol', 'bm')),
  *('\\mathbf{{\\text{{{}}}}}', '\\boxed{{{}}}', '\\textcolor{{red}}{{{}}}', '\\underline{{{}}}'),
  *('\\text{{Answer: }} {}', '\\text{{The answer is }}{}', '\\text{{{}}}.', '{{\\bf {}}}'),
)
BOXES = (
  *(
    '\\boxed{{{}}}',
    'So $\\boxed{{{}}}$.',
    '\\[\\boxed{{{}}}\\]',
    '\\fbox{{{}}}',
    '**\\boxed{{{}}}**',
  ),
  *('因此答案是$\\boxed{{{}}}$。', '\\textbf{{\\boxed{{{}}}}}', '\\boxed{{{}}}, and not 99.'),
  *('First \\boxed{{99}}, then \\boxed {{{}}}', '<answer>\\boxed{{{}}}</answer>'),
)
INLINE = (
  *('${}$', '\\({}\\)', '\\[{}\\]', '$${}$$', '**${}$**', '$ {} $', '$x = {}$', '$\\mathbf{{{}}}$'),
  *('$\\displaystyle {}$', '$\\text{{{}}}$'),
)
STATED = (
  *('The answer is {}', 'The final answer is: {}', 'the correct answer is **{}**', 'Answer: {}'),
  *('**Answer:** {}', '**Answer**: {}', '## Answer\n\n{}', '#### Answer\n{}', 'ANSWER: {}'),
  *('#### Conclusion\nThe answer is {}', '## 1. Add\n40 and 2\n#### 2. Result\nAnswer = {}'),
  *('Answer (in cm): {}', 'My answer is {}', 'The answer to the question is {}'),
  *('Antwort: {}', 'Die Antwort ist {}', 'La réponse est {}', 'Réponse : {}', 'La respuesta es {}'),
  *('A resposta é {}', 'La risposta è {}', 'Ответ: {}', 'Ответ равен {}', '答案是{}', '答案：{}'),
  *('最终答案是：{}', '答：{}', '答えは{}', '答え：{}', '정답: {}', '답은 {}', 'الجواب: {}'),
  *('الإجابة هي {}', 'उत्तर: {}', 'Cevap: {}', 'Odpowiedź: {}', 'Đáp án: {}', 'Jawaban: {}'),
)
MARKED = ('#### {}', '####{}', '#### **{}**', 'Add 40 and 2.\n#### {}')
LAST = (
  *('So it is {}', 'x = {}', 'Therefore, {}', 'She has {} left', 'Thus it costs about {} in total'),
  *('所以一共有{}', '一共有{}，所以是对的', '合計は{}', 'Итого {}', 'إذن {}', '- {}', '=> {}'),
  *('### Step 1\nadd 40 and 2\n\nResult: {}', 'The answer is that she has {}'),
)
AFTER = ('', '.', '\n', '.\n\nI hope that helps.', '. That is all!', '!', ' .', '。', '.**', '\n\n')
UNITS = (
  *(
    '',
    ' apples',
    ' cm',
    'cm',
    ' km/h',
    ' \\text{ cm}',
    '\\text{ cm}^2',
    '\\,\\mathrm{kg}',
    ' €',
    '€',
  ),
  *('个', '个苹果', '元', '円', '人です', ' рублей', ' см', ' تفاحات', ' सेब', '°', '^\\circ', '°C'),
  *(' dollars', ' Stück', '千克', '%', '개', ' élèves'),
)
CURRENCIES = ('$', '\\$', '€', '£', '¥', '₹')

# What says something else than the number that it contains.
NOT_THESE = {
  **dict.fromkeys(
    ['5x', '(5!)', '5 million', '5万', '5 hundred', 'minus 5', '负5', '-5', '−5', '5²'], '5'
  ),
  **dict.fromkeys(['n-5', '5k', '<5', '\\le 5', '5 millones', '5以上', '\\sqrt{5}', '2^5'], '5'),
  **dict.fromkeys(
    ['\\sqrt{11}', '\\pm 11', '\\sin 11', 'log 11', 'f(11)', '1011_2', '11:30'], '11'
  ),
  **dict.fromkeys(
    ['\\frac18', '1/8', '1,8', '(1, 8)', '1 or 8', '1 to 8', '8分之1'], ('1', '8', '18')
  ),
  **dict.fromkeys(
    ['3\\pi', '3rd', '3億', '3 тысячи', '3 quarters', '\\frac{3}{2^{70}}', '3:30'], '3'
  ),
  **dict.fromkeys(['12,34', '1234_5', '1234/5', '0.1234'], '1234'),
  **dict.fromkeys(['10^{-3}', '10^-3', '10^3'], ('10', '-3', '3', '103')),
}


def others(gold, draw, n=8):
  some = [*FORMULAS, *NUMBERS, *WORDS, *PARTS]
  return draw.sample(
    [o for o in some if o != gold and o not in (FORMULAS | NUMBERS).get(gold, ())], n
  )


def check(text, gold, draw, reward=math_equal.reward):
  assert reward(text, gold) == 1, (text, gold)
  for other in others(gold, draw):
    if reward is math_equal.reward or other in NUMBERS:
      assert reward(text, other) == 0, (text, other)


def drawn(table, seed, n=250):
  draw = random.Random(seed)
  for _ in range(n):
    gold = draw.choice([*table])
    yield draw, gold, draw.choice(table[gold])


@pytest.mark.parametrize('table', [NUMBERS, FORMULAS, WORDS])
def test_in_boxes(table):
  for draw, gold, written in drawn(table, 0):
    style = draw.choice(STYLES[:6] if table is WORDS else STYLES)
    check(draw.choice(BOXES).format(style.format(written)), gold, draw)


@pytest.mark.parametrize('sentences', [STATED, MARKED, LAST])
def test_formulas_in_sentences(sentences):
  for draw, gold, written in drawn(FORMULAS, 1):
    text = draw.choice(sentences).format(draw.choice(INLINE).format(written))
    check(text + draw.choice(AFTER), gold, draw)


@pytest.mark.parametrize('sentences', [STATED, MARKED, LAST])
def test_numbers_with_units_in_sentences(sentences):
  for draw, gold, written in drawn(NUMBERS, 2):
    dressed = draw.choice(CURRENCIES) + written if draw.random() < 0.2 else None
    dressed = dressed or draw.choice(('{}', '**{}**')).format(written) + draw.choice(UNITS)
    text = draw.choice(sentences).format(dressed) + draw.choice(AFTER)
    if '****' not in text:
      check(text, gold, draw)
      if sentences is STATED:
        check(text, gold, draw, exact_answer.reward)


def test_words_in_sentences():
  for draw, gold, written in drawn(WORDS, 3):
    said = draw.choice(('{}', '**{}**', '"{}"')).format(written)
    check(draw.choice(STATED).format(said) + draw.choice(AFTER), gold, draw)


@pytest.mark.parametrize(('written', 'parts'), NOT_THESE.items())
def test_a_part_of_a_formula_is_no_answer(written, parts):
  parts = {*parts, *([parts] if isinstance(parts, str) else ())}
  for sentence in (
    '\\boxed{{{}}}',
    '#### {}',
    'The answer is {}.',
    'Answer: ${}$.',
    'So it is {}.',
    '{}',
  ):
    for part in parts:
      text = sentence.format(written)
      assert math_equal.reward(text, part) == 0, (text, part)
      assert exact_answer.reward(text, part) == 0, (text, part)


@pytest.mark.parametrize('empty', ['', ' ', '$$', '\\text{}', '\\ '])
def test_an_empty_box_is_no_answer(empty):
  for text in (
    f'\\boxed{{{empty}}}',
    f'\\boxed{{5}} 5 \\boxed{{{empty}}}',
    f'#### 5\n\\boxed{{{empty}}}',
  ):
    assert math_equal.reward(text, '5') == 0, text


def test_gold_answers_in_their_solutions():
  forms = (
    *(
      '{}',
      'We add. The answer is: {}',
      'The answer is {}.',
      'x\n#### {}',
      'Thus $\\boxed{{{}}}$.',
    ),
    *('["{}"]', "['{}']", '${}$', '$\\boxed{{{}}}$', 'Answer: {}', '<think>So 9?</think>{}'),
  )
  for draw, gold, _ in drawn(FORMULAS | NUMBERS, 4):
    form = draw.choice(forms)
    text = form.format(gold.replace('\\', '\\\\') if form[0] == '[' else gold)
    assert math_equal.reward(f'\\boxed{{{gold}}}', text) == 1, (gold, text)
    for other in others(gold, draw):
      assert math_equal.reward(f'\\boxed{{{other}}}', text) == 0, (other, text)


@pytest.mark.parametrize(
  ('text', 'gold', 'verdict'),
  [
    ('The answer is:\n\n$$\n5\n$$', '5', 1),
    ('{"answer": "5"}', '5', 1),
    ('Answer: <b>5</b>', '5', 1),
    ('The answer is about 5.', '5', 1),
    ("The answer isn't 5.", '5', 0),
    ('The answer is not 5 but 6.', '5', 0),
    ('The answer is 5 or more.', '5', 0),
    ('The answer is 5+.', '5', 0),
    ('So $x=3$ and $y=5$.', '5', 0),
    ('The roots are 3 and 5', '5', 0),
    ('\\boxed{\\text{Step 5}}', '5', 0),
    ('\\boxed{\\text{USD } 5}', '5', 1),
    ('\\boxed{5\\text{th}}', '5', 0),
    ('\\boxed{0.555...}', '0.555', 0),
    ('Answer: B) 5 km', 'B', 1),
    ('The correct option is (B).', 'B', 1),
    ('The answer is B)5.', 'C', 0),
    ('f(2) = 5', '5', 1),
    ('12 x 3 = 36', '36', 1),
    ('He needs 5-3=2 more.', '2', 1),
    ('\\boxed{5 \\text{ m}}', '5', 1),
    ('\\boxed{46 250 \\text{ m}}', '46250', 1),
    ('#### The answer is 5', '5', 1),
    ('5\n####', '5', 0),
  ],
)
def test_words_around_an_answer(text, gold, verdict):
  assert math_equal.reward(text, gold) == verdict


def test_exact_answer_needs_a_number():
  with pytest.raises(BadInput, match="the gold answer 'Paris' is no number; use math_equal"):
    exact_answer.reward('The answer is Paris.', 'Paris')
