"""Questions of benchmarks in every format that people have; each list is the same questions.

Texts are made up here. Columns, encodings of labels and layouts are those of the Hugging Face hub
(first), of the authors' archives, and of what harnesses ship.
"""

NLI = ('It rains in Bergen.', 'Bergen is wet')
NLI2 = ('He said "no" to Ann.', 'Ann said no.')


def nested(rows, **names):
  """Rows with other names of columns."""
  return [{names.get(k, k): v for k, v in row.items()} for row in rows]


def labelled(rows, names, column='label'):
  return [{**row, column: names[row[column]]} for row in rows]


def glue(first, second, labels=(1, 0)):
  return [
    {first: a, second: b, 'label': label, 'idx': i}
    for i, ((a, b), label) in enumerate(zip((NLI, NLI2), labels, strict=True))
  ]


RTE = glue('sentence1', 'sentence2')
SUPER_RTE = glue('premise', 'hypothesis')
NAMES = ('entailment', 'not_entailment')
MNLI = glue('premise', 'hypothesis', (2, 1))
MNLI_NAMES = ('entailment', 'neutral', 'contradiction')
QNLI = glue('question', 'sentence')
COLA = [
  {'sentence': 'The "cat" sat.', 'label': 1, 'idx': 0},
  {'sentence': 'Cat the sat.', 'label': 0, 'idx': 1},
]
SST2 = [{'sentence': 'a "fine" film ', 'label': 1, 'idx': 0},
        {'sentence': 'dull . ', 'label': 0, 'idx': 1}]  # fmt: skip
STSB = glue('sentence1', 'sentence2', (3.8, 0.0))
QQP = glue('question1', 'question2')
BOOLQ = [
  {'question': 'is rain wet', 'passage': 'Rain -- It is water.', 'idx': 0, 'label': 1},
  {'question': 'is ice warm', 'passage': 'Ice -- It is cold.', 'idx': 1, 'label': 0},
]
CB = glue('premise', 'hypothesis', (2, 0))
CB_NAMES = ('entailment', 'contradiction', 'neutral')
COPA = [
  {'premise': 'It rained.', 'choice1': 'The road got wet.', 'choice2': 'The road got dry.',
   'question': 'effect', 'idx': 0, 'label': 0},
  {'premise': 'The glass broke.', 'choice1': 'I drank.', 'choice2': 'It fell.',
   'question': 'cause', 'idx': 1, 'label': 1},
]  # fmt: skip
WIC = [
  {'word': 'bank', 'sentence1': 'The bank lent it.', 'sentence2': 'We sat on the bank.',
   'start1': 4, 'start2': 14, 'end1': 8, 'end2': 18, 'idx': 0, 'label': 0},
  {'word': 'run', 'sentence1': 'They run home.', 'sentence2': 'I ran.', 'start1': 5, 'start2': 2,
   'end1': 8, 'end2': 5, 'idx': 1, 'label': 1},
]  # fmt: skip
WSC = [
  {'text': "Ann , who did n't know Eve ( yet ) , saw her car .", 'span1_index': 0,
   'span2_index': 12, 'span1_text': 'Ann', 'span2_text': 'her', 'idx': 0, 'label': 1},
  {'text': 'Bob said " no " to him .', 'span1_index': 0, 'span2_index': 6, 'span1_text': 'Bob',
   'span2_text': 'him', 'idx': 1, 'label': 0},
]  # fmt: skip
WSC_ORIGINAL = [
  {'text': row['text'], 'idx': row['idx'], 'label': str(bool(row['label'])).lower(),
   'target': {k: v for k, v in row.items() if k.startswith('span')}}
  for row in WSC
]  # fmt: skip
MULTIRC_ORIGINAL = [
  {'idx': p, 'version': 1.1, 'passage': {'text': text, 'questions': [
    {'question': 'Who came?', 'idx': 2 * p, 'answers': [
      {'text': 'Ann', 'idx': 4 * p, 'label': 1}, {'text': 'Bob', 'idx': 4 * p + 1, 'label': 0}]},
    {'question': 'When?', 'idx': 2 * p + 1, 'answers': [
      {'text': 'At noon', 'idx': 4 * p + 2, 'label': p},
      {'text': 'At night', 'idx': 4 * p + 3, 'label': 1}]},
  ]}}
  for p, text in enumerate(('Ann came at noon.', 'Ann came again.'))
]  # fmt: skip
MULTIRC = [
  {'paragraph': row['passage']['text'], 'question': question['question'], 'answer': answer['text'],
   'idx': {'paragraph': row['idx'], 'question': question['idx'], 'answer': answer['idx']},
   'label': answer['label']}
  for row in MULTIRC_ORIGINAL
  for question in row['passage']['questions']
  for answer in question['answers']
]  # fmt: skip
STORY = 'Ann met Bob in Rome.\n@highlight\nBob lives in Rome\n@highlight\nAnn paid'
GAPS = (('@placeholder lives in Rome, Ann says', 'Bob', 8), ('@placeholder paid', 'Ann', 0))
RECORD = [
  {'passage': STORY, 'query': query, 'entities': ['Rome', 'Ann', 'Bob'], 'answers': [name],
   'idx': {'passage': 7, 'query': 20 + i}}
  for i, (query, name, _) in enumerate(GAPS)
]  # fmt: skip
RECORD_ORIGINAL = [
  {'source': 'made up', 'idx': 7, 'passage': {'text': STORY, 'entities': [
     {'start': 0, 'end': 2}, {'start': 8, 'end': 10}, {'start': 15, 'end': 18},
     {'start': 32, 'end': 34}]},
   'qas': [{'query': query, 'idx': 20 + i, 'answers': [
     {'text': name, 'start': at, 'end': at + 2}]} for i, (query, name, at) in enumerate(GAPS)]},
]  # fmt: skip
AXG = [
  {'premise': 'The cook saw the guest, and she waved.', 'hypothesis': f'The {who} waved.',
   'idx': i, 'label': i % 2}
  for i, who in enumerate(('cook', 'guest', 'cook', 'guest'))
]  # fmt: skip


def choices(texts, labels='ABCDE'):
  return {'text': list(texts), 'label': list(labels[: len(texts)])}


def authored(rows, stem='question'):
  """Questions with lettered answers as AI2 writes them."""
  return [
    {'id': 'x', 'answerKey': row['answerKey'], 'question': {'stem': row[stem], 'choices': [
      {'text': text, 'label': label} for text, label in
      zip(row['choices']['text'], row['choices']['label'], strict=True)]}}
    for row in rows
  ]  # fmt: skip


ARC = [
  {'id': 'a', 'question': 'Which is hot?', 'choices': choices(('ice', 'fire')), 'answerKey': 'B'},
  {'id': 'b', 'question': 'Which is wet?',
   'choices': choices(('rain', 'sand', 'salt'), '123'), 'answerKey': '1'},
]  # fmt: skip
CSQA = [
  {'id': 'a', 'question': ' Where do fish live? ', 'question_concept': 'fish', 'answerKey': 'C',
   'choices': choices(('sky', 'cup', 'sea', 'bed', 'car'))},
]  # fmt: skip
OBQA = nested(ARC, question='question_stem')
SCIQ = [
  {'question': 'What falls?', 'distractor1': 'fire', 'distractor2': 'air', 'distractor3': 'light',
   'correct_answer': 'rain', 'support': ' Rain falls.'},
]  # fmt: skip
SIQA = [
  {'context': 'Ann fell.', 'question': 'How does Ann feel?', 'answerA': 'hurt', 'answerB': 'glad',
   'answerC': 'bored', 'label': label}
  for label in ('1', '3')
]  # fmt: skip
HELLASWAG = [
  {'ind': 4, 'activity_label': 'Baking', 'ctx_a': 'A man mixes [step] flour [title] Water.',
   'ctx_b': 'then he', 'ctx': 'unused', 'endings': ['eats [substeps] it.', 'runs.', 'sits.', 'x.'],
   'source_id': 'wikihow~1', 'split': 'val', 'split_type': 'zeroshot', 'label': '2'},
  {'ind': 5, 'activity_label': 'Rowing', 'ctx_a': 'A boat is seen.', 'ctx_b': '', 'ctx': 'unused',
   'endings': ['It sinks.', 'It flies.', 'It rests.', 'It sings.'], 'source_id': 'activity~2',
   'split': 'val', 'split_type': 'zeroshot', 'label': '0'},
]  # fmt: skip
PIQA = [
  {'goal': 'open a tin', 'sol1': 'use an opener ', 'sol2': 'use a pillow', 'label': 0},
  {'goal': 'Dry a cup.', 'sol1': 'Fill it.', 'sol2': 'Wipe it.', 'label': 1},
]
WINOGRANDE = [
  {'sentence': 'Ann thanked Eve because _ was helped.', 'option1': 'Ann', 'option2': 'Eve',
   'answer': '1'},
  {'sentence': 'Ann paid Eve because _ had worked.', 'option1': 'Ann', 'option2': 'Eve',
   'answer': '2'},
]  # fmt: skip
LAMBADA = [{'text': 'Ann had a dog. She fed the dog'}, {'text': '"Go," he said to Eve'}]
TRUTH = [
  {'question': 'Is the moon cheese?',
   'mc1_targets': {'choices': ['No', 'Yes', 'Half of it'], 'labels': [1, 0, 0]},
   'mc2_targets': {'choices': ['No', 'It is rock', 'Yes', 'Half of it'], 'labels': [1, 1, 0, 0]}},
]  # fmt: skip
TRUTH_JSON = [
  {'question': row['question'],
   **{name: dict(zip(row[name]['choices'], row[name]['labels'], strict=True))
      for name in ('mc1_targets', 'mc2_targets')}}
  for row in TRUTH
]  # fmt: skip
TRUTH_CSV = [
  {'Type': 'x', 'Category': 'y', 'Question': 'Is the moon cheese?', 'Best Answer': 'No',
   'Correct Answers': 'No; It is rock', 'Incorrect Answers': 'Yes; Half of it;', 'Source': 'z'},
]  # fmt: skip
MMLU = [
  {'question': f' {subject} {i}?\nSay, "a".', 'subject': subject,
   'choices': ['one', 'two, or 2', '3', f'{i}'], 'answer': i}
  for subject in ('anatomy', 'world_religions') for i in range(2)
]  # fmt: skip
BLIMP = [
  {'sentence_good': f'Ann {verb} herself.', 'sentence_bad': f'Ann {verb} himself.', 'UID': uid}
  for uid in ('anaphor', 'binding') for verb in ('sees', 'likes')
]  # fmt: skip
GSM8K = [{'question': 'What is 2 + 3?', 'answer': '2 + 3 = <<2+3=5>>5\n#### 5'}]
SVAMP = [{'ID': 'chal-1', 'Body': 'Ann has 3 pens ', 'Question': 'How many pens has she?',
          'Equation': '3.0', 'Answer': 3.0, 'Type': 'Addition'}]  # fmt: skip
AQUA = [{'question': 'What is 2 + 3?', 'options': ['A)4', 'B)5', 'C)6', 'D)7', 'E)8'],
         'rationale': 'It is 5.', 'correct': 'B'}]  # fmt: skip
MATH = [
  {'problem': 'What is $1/2$ of 4?', 'level': 'Level 1', 'type': 'Algebra',
   'solution': 'It is $\\boxed{2}$.'},
  {'problem': 'What is $1/4$?', 'level': 'Level 1', 'type': 'Algebra',
   'solution': 'It is $\\boxed{\\frac{1}{4}}$.'},
]  # fmt: skip
BBH = [{'input': 'not True is', 'target': 'False'}, {'input': 'not False is', 'target': 'True'}]
BBH_PROMPT = """Do not train on this file.
-----
Say what a Boolean expression is.

Q: not not True is
A: Let's think step by step.
not not True = not False.
That is True. So the answer is True.

Q: True and False is
A: Let's think step by step.
Both have to be True. So the answer is False."""
PAGES = '\n = Bergen = \n\n It rains 1 @,@ 200 hours . \n = = Harbour = = \n\n Ships . \n'
PAGES += ' = Rome = \n\n It is old . \n'
HUMANEVAL = [{'task_id': 'HumanEval/0', 'prompt': 'def two():\n  """Two."""\n', 'test':
              'def check(candidate):\n  assert candidate() == 2\n', 'entry_point': 'two',
              'canonical_solution': '  return 2\n'}]  # fmt: skip
