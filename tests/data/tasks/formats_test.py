"""Every format of a task is read to the same questions, and what cannot be read is refused."""

import csv
import gzip
import io
import json
import re
import zipfile
from pathlib import Path

import pytest

from llm_jax.data.tasks import bbh, files, suites
from llm_jax.data.tasks.task import example
from llm_jax.evals.task import task_of
from llm_jax.find import names
from llm_jax.types import BadInput
from tests.data.tasks import formats as f

pyarrow = pytest.importorskip('pyarrow')
parquet = pytest.importorskip('pyarrow.parquet')


def packed(place, rows):
  """The bytes of a file with these rows; a text is written as it is."""
  name = Path(place.removesuffix('.gz')).suffix
  if isinstance(rows, str):
    return rows.encode()
  if name == '.jsonl':
    return ''.join(json.dumps(row) + '\n' for row in rows).encode()
  if name == '.json':
    return json.dumps(rows).encode()
  if name == '.parquet':
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()
  if name == '.arrow':
    sink, table = io.BytesIO(), pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
      stream.write_table(table)
    return sink.getvalue()
  if name == '.tsv':
    lines = [[*rows[0]], *([str(cell) for cell in row.values()] for row in rows)]
    return '\n'.join('\t'.join(line) for line in lines).encode()
  sink = io.StringIO()
  csv.writer(sink).writerows([[*rows[0]], *(row.values() for row in rows)])
  return sink.getvalue().encode()


def write(folder, place, rows):
  """A file, one in an archive (`x.zip!y.tsv`), or a folder as `datasets.save_to_disk` has it."""
  outer, inside, inner = place.partition('!')
  to = Path(folder, outer)
  to.parent.mkdir(parents=True, exist_ok=True)
  if inside:
    with zipfile.ZipFile(to, 'a') as archive:
      archive.writestr(inner, packed(inner, rows))
  elif not to.suffix or to.name == 'wsc.fixed':
    to.mkdir()
    saved(to, rows)
  else:
    data = packed(place, rows)
    to.write_bytes(gzip.compress(data) if place.endswith('.gz') else data)


def saved(folder, rows):
  name = 'data-00000-of-00001.arrow'
  (folder / name).write_bytes(packed(name, rows))
  state = {'_data_files': [{'filename': name}]}
  (folder / 'state.json').write_text(json.dumps(state))


def table(rows, *names):
  """Rows of a .tsv with some columns in their order, without a header."""
  return ''.join('\t'.join(str(row[name]) for name in names) + '\n' for row in rows)


def cached(name, config, split):
  return f'hub/datasets--x--{name}/snapshots/0f/{config}/{split}-00000-of-00001.parquet'


def numbered(rows, **names):
  """Rows of GLUE's tables: a number, texts, and a label with its name."""
  return [{'index': row['idx'], **{names.get(k, k): v for k, v in row.items() if k != 'idx'}}
          for row in rows]  # fmt: skip


COLA = [{**row, 'source': 'gj04', 'mark': '' if row['label'] else '*'} for row in f.COLA]
COLA_TSV = table(COLA, 'source', 'label', 'mark', 'sentence')
MRPC_TSV = '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n' + ''.join(
  f'{row["label"]}\t1\t2\t{row["sentence1"]}\t{row["sentence2"]}\n' for row in f.RTE
)
MNLI_TSV = 'index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n' + ''.join(
  f'{row["idx"]}\tx\t{row["premise"]}\t{row["hypothesis"]}\tneutral\t{f.MNLI_NAMES[row["label"]]}\n'
  for row in f.MNLI
)
MMLU_CSV = [[row['question'], *row['choices'], 'ABCD'[row['answer']]] for row in f.MMLU]
LABELS = lambda rows: '\n'.join(str(row['label']) for row in rows)
SPLIT = {
  'arc_challenge': 'validation', 'arc_easy': 'validation', 'openbookqa': 'validation',
  'sciq': 'validation', 'lambada': 'test',
}  # fmt: skip


def csv_text(rows):
  sink = io.StringIO()
  csv.writer(sink).writerows(rows)
  return sink.getvalue()


# task -> formats, each as the files of a folder.
CASES = {
  'cola': [
    {'glue/cola/validation-00000-of-00001.parquet': f.COLA},
    {'glue_data/CoLA/dev.tsv': COLA_TSV},
    {'cola_public.zip!cola_public/raw/in_domain_dev.tsv': COLA_TSV},
    {'CoLA.zip!CoLA/dev.tsv': COLA_TSV},
    {'glue/cola/validation': f.COLA},
  ],
  'sst2': [
    {'glue/sst2/validation-00000-of-00001.parquet': f.SST2},
    {'SST-2/dev.tsv': table(f.SST2, 'sentence', 'label').join(('sentence\tlabel\n', ''))},
    {'glue/sst2_val.jsonl.gz': f.SST2},
    {cached('glue', 'sst2', 'validation'): f.SST2},
    {'SST-2.zip!SST-2/dev.tsv': [{k: row[k] for k in ('sentence', 'label')} for row in f.SST2]},
  ],
  'mrpc': [
    {'glue/mrpc/validation-00000-of-00001.parquet': f.RTE},
    {'MRPC/dev.tsv': MRPC_TSV},
  ],
  'qqp': [
    {'glue/qqp/validation-00000-of-00001.parquet': f.QQP},
    {'QQP/dev.tsv': [
      {'id': 1, 'qid1': 1, 'qid2': 2, 'question1': row['question1'],
       'question2': row['question2'], 'is_duplicate': row['label']} for row in f.QQP]},
  ],
  'stsb': [
    {'glue/stsb/validation-00000-of-00001.parquet': f.STSB},
    {'STS-B/dev.tsv': [
      {'index': 0, 'genre': 'x', 'sentence1': row['sentence1'], 'sentence2': row['sentence2'],
       'score': f'{row["label"]:.3f}'} for row in f.STSB]},
  ],
  'mnli': [
    {'glue/mnli/validation_matched-00000-of-00001.parquet': f.MNLI},
    {'MNLI/dev_matched.tsv': MNLI_TSV},
    {'MNLI.zip!MNLI/dev_matched.tsv': MNLI_TSV, 'MNLI.zip!MNLI/dev_mismatched.tsv': 'x'},
    {'glue/mnli/validation_matched': f.MNLI},
  ],
  'mnli_mismatched': [
    {'glue/mnli/validation_mismatched-00000-of-00001.parquet': f.MNLI},
    {'MNLI/dev_mismatched.tsv': MNLI_TSV, 'MNLI/dev_matched.tsv': 'x'},
  ],
  'qnli': [
    {'glue/qnli/validation-00000-of-00001.parquet': f.QNLI},
    {'QNLI/dev.tsv': numbered(f.labelled(f.QNLI, f.NAMES))},
  ],
  'rte': [
    {'glue/rte/validation-00000-of-00001.parquet': f.RTE},
    {'RTE/dev.tsv': numbered(f.labelled(f.RTE, f.NAMES)), 'RTE/val.jsonl': f.SUPER_RTE[:1]},
    {'glue/rte_dev.tsv.gz': numbered(f.labelled(f.RTE, f.NAMES)),
     'superglue/rte_val.jsonl.gz': f.SUPER_RTE[:1]},
    {'glue/rte_val.jsonl': f.RTE},
    {'nyu-mll___glue/rte/0.0.0/9f/glue-validation.arrow': f.RTE},
  ],
  'wnli': [
    {'glue/wnli/validation-00000-of-00001.parquet': f.RTE},
    {'WNLI/dev.tsv': numbered(f.RTE)},
  ],
  'superglue_rte': [
    {'super_glue/rte/validation-00000-of-00001.parquet': f.SUPER_RTE},
    {'RTE/val.jsonl': f.labelled(f.SUPER_RTE, f.NAMES), 'RTE/dev.tsv': 'x'},
    {'superglue/rte_val.jsonl.gz': f.labelled(f.SUPER_RTE, f.NAMES),
     'glue/rte_val.jsonl.gz': f.RTE[:1]},
  ],
  'superglue_axb': [
    {'super_glue/axb/test-00000-of-00001.parquet': f.RTE},
    {'AX-b/AX-b.jsonl': f.labelled(f.RTE, f.NAMES)},
  ],
  'superglue_axg': [
    {'super_glue/axg/test-00000-of-00001.parquet': f.AXG},
    {'AX-g/AX-g.jsonl': f.labelled(f.AXG, f.NAMES)},
  ],
  'boolq': [
    {'super_glue/boolq/validation-00000-of-00001.parquet': f.BOOLQ},
    {'BoolQ/val.jsonl': f.labelled(f.BOOLQ, (False, True))},
    {'boolq/dev.jsonl': f.nested(f.labelled(f.BOOLQ, (False, True)), label='answer')},
    {'BoolQ.zip!BoolQ/val.jsonl': f.labelled(f.BOOLQ, (False, True))},
    {'combined.zip!BoolQ/val.jsonl': f.labelled(f.BOOLQ, (False, True))},
  ],
  'cb': [
    {'super_glue/cb/validation-00000-of-00001.parquet': f.CB},
    {'CB/val.jsonl': f.labelled(f.CB, f.CB_NAMES)},
  ],
  'copa': [
    {'super_glue/copa/validation-00000-of-00001.parquet': f.COPA},
    {'COPA/val.jsonl': f.COPA},
  ],
  'wic': [
    {'super_glue/wic/validation-00000-of-00001.parquet': f.WIC},
    {'WiC/val.jsonl': f.labelled(f.WIC, (False, True))},
  ],
  'wsc': [
    {'super_glue/wsc.fixed/validation-00000-of-00001.parquet': f.WSC},
    {'WSC/val.jsonl': f.labelled(f.WSC_ORIGINAL, {'true': True, 'false': False})},
    {'superglue/wsc_val.jsonl': f.WSC_ORIGINAL},
  ],
  'multirc': [
    {'super_glue/multirc/validation-00000-of-00001.parquet': f.MULTIRC},
    {'MultiRC/val.jsonl': f.MULTIRC_ORIGINAL},
  ],
  'record': [
    {'super_glue/record/validation-00000-of-00001.parquet': f.RECORD},
    {'ReCoRD/val.jsonl': f.RECORD_ORIGINAL},
  ],
  'arc_easy': [
    {'ai2_arc/ARC-Easy/validation-00000-of-00001.parquet': f.ARC,
     'ai2_arc/ARC-Challenge/validation-00000-of-00001.parquet': f.ARC[:1]},
    {'ARC-V1-Feb2018.zip!ARC-V1-Feb2018-2/ARC-Easy/ARC-Easy-Dev.jsonl': f.authored(f.ARC)},
    {'arc_easy_val.jsonl': f.ARC},
    {'ai2_arc/ARC-Easy/validation': f.ARC},
  ],
  'arc_challenge': [
    {'ai2_arc/ARC-Challenge/validation-00000-of-00001.parquet': f.ARC},
    {'ARC-Challenge-Dev.jsonl': f.authored(f.ARC)},
  ],
  'commonsense_qa': [
    {'commonsense_qa/data/validation-00000-of-00001.parquet': f.CSQA},
    {'dev_rand_split.jsonl': f.authored(f.CSQA)},
  ],
  'openbookqa': [
    {'openbookqa/main/validation-00000-of-00001.parquet': f.OBQA},
    {'OpenBookQA-V1-Sep2018.zip!OpenBookQA-V1-Sep2018/Data/Main/dev.jsonl':
       f.authored(f.OBQA, 'question_stem')},
  ],
  'sciq': [
    {'sciq/data/validation-00000-of-00001.parquet': f.SCIQ},
    {'SciQ.zip!SciQ dataset-2 3/valid.json': f.SCIQ},
  ],
  'social_iqa': [
    {'social_i_qa/validation-00000-of-00001.parquet': f.SIQA},
    {'socialiqa-train-dev/dev.jsonl': [{k: v for k, v in row.items() if k != 'label'}
                                       for row in f.SIQA],
     'socialiqa-train-dev/dev-labels.lst': LABELS(f.SIQA)},
  ],
  'hellaswag': [
    {'hellaswag/data/validation-00000-of-00001.parquet': f.HELLASWAG},
    {'hellaswag_val.jsonl': f.labelled(f.HELLASWAG, {'0': 0, '2': 2})},
    {'hellaswag_val_1000.jsonl': [
      {'ind': 4, 'query': 'Baking: A man mixes flour. Water. Then he', 'gold': 2,
       'choices': ['eats it.', 'runs.', 'sits.', 'x.']},
      {'ind': 5, 'query': 'Rowing: A boat is seen.', 'gold': 0,
       'choices': f.HELLASWAG[1]['endings']}]},
  ],
  'piqa': [
    {'piqa/plain_text/validation-00000-of-00001.parquet': f.PIQA},
    {'physicaliqa-train-dev/piqa/valid.jsonl': [
      {k: v for k, v in row.items() if k != 'label'} for row in f.PIQA],
     'physicaliqa-train-dev/piqa/valid-labels.lst': LABELS(f.PIQA)},
    {'piqa.zip!piqa/valid.jsonl': f.PIQA, 'piqa.zip!piqa/valid-labels.lst': LABELS(f.PIQA)},
    {'piqa_valid.jsonl.gz': f.PIQA, 'piqa_valid_labels.lst': LABELS(f.PIQA)},
  ],
  'winogrande': [
    {'winogrande/winogrande_xl/validation-00000-of-00001.parquet': f.WINOGRANDE},
    {'winogrande_1.1.zip!winogrande_1.1/dev.jsonl': f.WINOGRANDE},
    {'winogrande_xl_val.jsonl.gz': f.WINOGRANDE},
  ],
  'lambada': [
    {'lambada_openai/default/test-00000-of-00001.parquet': f.LAMBADA},
    {'lambada_test.jsonl': f.LAMBADA},
    {'lambada_openai.jsonl': [
      dict(zip(('context', 'continuation'), row['text'].rsplit(' ', 1), strict=True))
      for row in f.LAMBADA]},
  ],
  'truthfulqa_mc1': [
    {'truthful_qa/multiple_choice/validation-00000-of-00001.parquet': f.TRUTH},
    {'mc_task.json': f.TRUTH_JSON},
    {'truthfulqa.csv': f.TRUTH_CSV},
    {'TruthfulQA.csv': '\ufeff' + packed('x.csv', f.TRUTH_CSV).decode()},
  ],
  'truthfulqa_mc2': [
    {'truthful_qa/multiple_choice/validation-00000-of-00001.parquet': f.TRUTH},
    {'mc_task.json': f.TRUTH_JSON},
    {'truthfulqa.csv': f.TRUTH_CSV},
  ],
  'mmlu': [
    {'mmlu/all/test-00000-of-00001.parquet': f.MMLU},
    {f'mmlu/{f.MMLU[i]["subject"]}/test-00000-of-00001.parquet': f.MMLU[i : i + 2] for i in (0, 2)},
    {f'mmlu.zip!data/test/{f.MMLU[i]["subject"]}_test.csv': csv_text(MMLU_CSV[i : i + 2])
     for i in (0, 2)},
    {f'data/test/{f.MMLU[i]["subject"]}_test.csv': csv_text(MMLU_CSV[i : i + 2]) for i in (0, 2)},
  ],
  'blimp': [
    {f'blimp/{f.BLIMP[i]["UID"]}/train-00000-of-00001.parquet': f.BLIMP[i : i + 2] for i in (0, 2)},
    {f'blimp.zip!data/{f.BLIMP[i]["UID"]}.jsonl': f.BLIMP[i : i + 2] for i in (0, 2)},
    {f'blimp/data/{f.BLIMP[i]["UID"]}.jsonl': f.BLIMP[i : i + 2] for i in (0, 2)},
  ],
  'bbh': [
    {'bbh/boolean_expressions.json': {'canary': 'x', 'examples': f.BBH}},
    {'bbh/boolean_expressions/test-00000-of-00001.parquet': f.BBH},
  ],
  'gsm8k': [
    {'gsm8k/main/test-00000-of-00001.parquet': f.GSM8K},
    {'grade_school_math/data/test.jsonl': f.GSM8K},
    {'gsm8k_test.jsonl.gz': f.GSM8K},
  ],
  'svamp': [
    {'SVAMP/data/test-00000-of-00001.parquet': f.SVAMP},
    {'SVAMP.json': f.SVAMP},
    {'svamp.json.gz': f.SVAMP},
  ],
  'gsm_hard': [
    {'gsm-hard/train-00000-of-00001.parquet': [{'input': 'What?', 'code': 'x', 'target': 5.0}]},
    {'gsm_hard.jsonl': [{'input': 'What?', 'code': 'x', 'target': 5}]},
  ],
  'cmath': [
    {'cmath/validation-00000-of-00001.parquet': [{'question': '几？', 'golden': '5', 'grade': 2}]},
    {'cmath_dev.jsonl.gz': [{'question': '几？', 'answer': '5', 'grade': 2}]},
  ],
  'aqua': [
    {'aqua_rat/raw/test-00000-of-00001.parquet': f.AQUA},
    {'AQuA/test.json': json.dumps(f.AQUA[0])},
    {'aqua_test.jsonl.gz': f.AQUA},
  ],
  'math': [
    {'hendrycks_math/algebra/test-00000-of-00001.parquet': f.MATH},
    {f'MATH/test/algebra/{i}.json': row for i, row in enumerate(f.MATH)},
    {'MATH-500/test.jsonl': [
      {**row, 'subject': row['type'], 'answer': gold} for row, gold in
      zip(f.MATH, ('2', '\\frac{1}{4}'), strict=True)]},
  ],
  'humaneval': [
    {'openai_humaneval/openai_humaneval/test-00000-of-00001.parquet': f.HUMANEVAL},
    {'HumanEval.jsonl.gz': f.HUMANEVAL},
  ],
  'wikitext': [
    {'wikitext_document_level/wikitext-2-raw-v1/test-00000-of-00001.parquet': [
      {'page': page} for page in
      (f.PAGES.partition('\n = Rome')[0], f.PAGES[f.PAGES.index(' = Rome') : -1])]},
    {'wikitext/wikitext-2-raw-v1/test-00000-of-00001.parquet': [
      {'text': f'{line}\n'} for line in f.PAGES[:-1].split('\n')]},
    {'wikitext-2-raw/wiki.test.raw': f.PAGES},
    {'wikitext-2-raw-v1.zip!wikitext-2-raw/wiki.test.raw': f.PAGES},
  ],
}  # fmt: skip


def read(task, folder, made=None):
  made = made or task_of(task)
  return files.items(task, made, SPLIT.get(task, made.split), str(folder))


@pytest.mark.parametrize('task', CASES)
def test_every_format_is_read_to_the_same_questions(task, tmp_path):
  found = []
  for i, case in enumerate(CASES[task]):
    for place, rows in case.items():
      write(tmp_path / str(i), place, rows)
    found.append(read(task, tmp_path / str(i)))
  assert len(found[0]) >= 1
  assert len({item.key for item in found[0]}) == len(found[0])
  for other in found[1:]:
    assert other == found[0]


def test_every_task_is_tried_in_several_formats():
  assert {*names('data.tasks')} - {*CASES} == {'heldout_text', 'labelled'}
  assert {entry.task for some in suites.SUITES.values() for entry in some} <= {*CASES}


def test_examples_of_bbh_are_the_parts_of_its_prompts(tmp_path):
  write(tmp_path, 'bbh/boolean_expressions.json', {'canary': 'x', 'examples': f.BBH})
  write(tmp_path, 'cot-prompts/boolean_expressions.txt', f.BBH_PROMPT)
  steps = task_of('bbh')
  prompts = files.items('bbh', steps, 'prompts', str(tmp_path))
  shown = ''.join(f'{example(one, steps)}\n\n' for one in prompts)
  assert shown == f'{f.BBH_PROMPT.partition("-----")[2].lstrip()}\n\n'
  assert [bbh.final(one.answer) for one in prompts] == ['True', 'False']
  question = read('bbh', tmp_path)[0]
  said = 'That is False. So the answer is False.'
  assert bbh.judge(said, question, thinking=True) == {'acc': 1.0}
  assert bbh.judge('So the answer is True.', question, thinking=True) == {'acc': 0.0}
  plain = task_of('bbh', {'thinking': False})
  shown = example(files.items('bbh', plain, 'prompts', str(tmp_path))[1], plain)
  assert shown == 'Q: True and False is\nA: False'


def test_yes_goes_with_right_answers_of_multirc(tmp_path):
  write(tmp_path, 'x/MultiRC/val.jsonl', f.MULTIRC_ORIGINAL)
  first = read('multirc', tmp_path)[0]
  assert first.choices[first.gold].endswith('Is the answer correct? yes')  # 'Ann' is right
  assert (first.cluster, first.about, first.key) == ('0', {'group': '0.0'}, '0.0.0')


def test_variants_of_mmlu(tmp_path):
  write(tmp_path, 'mmlu/all/dev-00000-of-00001.parquet', f.MMLU)
  of = lambda **how: (made := task_of('mmlu', how), files.items('mmlu', made, 'dev', str(tmp_path)))
  (plain, (ours, *_)), (first, (theirs, *_)) = of(), of(variant='original')
  full, (whole, *_) = of(variant='continuation')
  what = 'The following are multiple choice questions (with answers) about'
  assert plain.description('us_foreign_policy') == f'{what} us foreign policy.\n\n'
  assert first.description('anatomy') == f'{what}  anatomy.\n\n'
  what = 'The following are questions (with answers) about'
  assert full.description('anatomy') == f'{what} anatomy.\n\n'
  assert theirs.context == f' {ours.context}'  # the question is not stripped
  assert ours.context.endswith('?\nSay, "a".\nA. one\nB. two, or 2\nC. 3\nD. 0\nAnswer:')
  assert whole.context == 'Question: anatomy 0?\nSay, "a".\nAnswer:'
  assert whole.choices == ('one', 'two, or 2', '3', '0')
  assert {one.subject for one in of(subjects=('anatomy',))[1]} == {'anatomy'}


# --- refusals ----------------------------------------------------------------------------------


def refused(task, folder):
  with pytest.raises(BadInput) as found:
    read(task, folder)
  message = str(found.value)
  assert '\n' not in message
  return message


@pytest.mark.parametrize('task, place, row, why', [
  ('rte', 'RTE/val.jsonl', f.SUPER_RTE, 'rte: no file of its split .validation. in .*RTE/dev.tsv'),
  ('cb', 'CB/val.jsonl', [{**f.CB[0], 'label': -1}], 'line 1: .*label is hidden; choose a split'),
  ('cb', 'CB/val.jsonl', [{**f.CB[0], 'label': 'maybe'}], "label 'maybe' is none of entailment"),
  ('cb', 'CB/val.jsonl', [{**f.CB[0], 'label': 3}], 'label 3 is none of its 3 choices'),
  ('cb', 'CB/val.jsonl', [{'premise': 'x', 'label': 0}], "no column 'hypothesis'"),
  ('cb', 'CB/val.jsonl', [[1]], 'list instead of an object'),
  ('rte', 'RTE/dev.tsv', [{'index': 0, 'sentence1': 'x', 'sentence2': 'y'}], "no column 'label'"),
  ('piqa', 'piqa/valid.jsonl', f.PIQA, 'valid-labels.lst has to lie beside it'),
  ('arc_easy', 'arc_easy_val.jsonl', [{**f.ARC[0], 'answerKey': ''}], 'label is hidden'),
  ('arc_easy', 'arc_easy_val.jsonl', [{**f.ARC[0], 'answerKey': 'E'}], "label 'E' is none of A, B"),
  ('arc_easy', 'arc_easy_val.jsonl',
   [{**f.ARC[0], 'choices': f.choices(('ice', ' '))}], 'an answer to choose from is empty'),
  ('record', 'ReCoRD/val.jsonl', [{**f.RECORD[0], 'answers': []}], 'answers are hidden'),
  ('winogrande', 'winogrande_xl_val.jsonl', [{**f.WINOGRANDE[0], 'sentence': 'x'}], 'has no _'),
  ('stsb', 'glue/stsb_val.jsonl', [{**f.STSB[0], 'label': -1.0}], 'label is hidden'),
])  # fmt: skip
def test_what_is_no_question_is_refused_in_one_line(task, place, row, why, tmp_path):
  write(tmp_path, place, row)
  assert re.search(why, refused(task, tmp_path))


def test_labels_that_are_too_few_are_refused(tmp_path):
  write(tmp_path, 'piqa/valid.jsonl', f.PIQA)
  (tmp_path / 'piqa' / 'valid-labels.lst').write_text('0\n')
  assert '1 labels, but valid.jsonl has not as many' in refused('piqa', tmp_path)


def test_a_broken_archive_is_named(tmp_path):
  (tmp_path / 'mmlu.zip').write_bytes(b'no archive')
  assert 'mmlu.zip is a broken archive' in refused('mmlu', tmp_path)


def test_a_missing_folder_and_a_missing_split_are_named(tmp_path):
  write(tmp_path, 'arc_easy_val.jsonl', f.ARC)
  with pytest.raises(BadInput, match=r"split 'test' in .*; it usually is .*; there is: validation"):
    files.items('arc_easy', task_of('arc_easy'), 'test', str(tmp_path))
  assert 'there is no folder' in refused('cb', tmp_path / 'nowhere')
  with pytest.raises(BadInput, match="cb: no split 'dev'; it has: train, validation, test"):
    files.items('cb', task_of('cb'), 'dev', str(tmp_path))


def test_one_version_is_read_where_several_lie(tmp_path):
  for folder in ('a', 'b', 'b/c'):
    write(tmp_path, f'{folder}/CB/val.jsonl', f.labelled(f.CB, f.CB_NAMES))
  write(tmp_path, 'a/CB/val.jsonl.gz', f.CB)
  assert len(read('cb', tmp_path)) == 2


def test_one_version_of_a_cache_is_read(tmp_path):
  for version in ('0f', '1e'):
    for subject, some in (('anatomy', f.MMLU[:2]), ('world_religions', f.MMLU[2:])):
      place = f'datasets--cais--mmlu/snapshots/{version}/{subject}/test-00000-of-00001.parquet'
      write(tmp_path, place, some)
    for owner in ('nyu-mll___glue', 'aps___super_glue'):
      place = f'{owner}/rte/0.0.0/{version}/glue-validation.arrow'
      write(tmp_path, place, f.RTE if owner.startswith('nyu') else f.SUPER_RTE[:1])
  assert [item.key for item in read('mmlu', tmp_path)] == [
    'anatomy:0', 'anatomy:1', 'world_religions:0', 'world_religions:1',
  ]  # fmt: skip
  assert len(read('rte', tmp_path)) == 2
  assert len(read('superglue_rte', tmp_path)) == 1


def test_a_folder_of_one_benchmark_and_files_are_read_as_well(tmp_path):
  write(tmp_path, 'glue/rte/validation-00000-of-00001.parquet', f.RTE)
  there = [tmp_path, tmp_path / 'glue', tmp_path / 'glue' / 'rte']
  there.append(tmp_path / 'glue' / 'rte' / '{split}-*.parquet')
  assert all(read('rte', path) == read('rte', tmp_path) for path in there)
  assert len(files.items('rte', task_of('rte'), 'validation', str(tmp_path), 1)) == 1


def test_a_saved_dataset_with_its_splits_is_read(tmp_path):
  for split in ('train', 'validation_matched'):
    write(tmp_path, f'mine/{split}', f.MNLI)
  listed = {'splits': ['train', 'validation_matched']}
  (tmp_path / 'mine' / 'dataset_dict.json').write_text(json.dumps(listed))
  assert [item.gold for item in read('mnli', tmp_path / 'mine')] == [2, 1]


def test_the_page_lists_every_task_with_its_metrics_and_places():
  page = (Path(__file__).parents[3] / 'docs' / 'benchmarks.md').read_text()
  for task in (*CASES, 'heldout_text'):
    made = task_of(task)
    (row,) = [line for line in page.splitlines() if line.startswith(f'| `{task}` |')]
    _, _, kind, shots, metrics, where, _ = map(str.strip, row.split('|'))
    assert (kind, int(shots)) == (made.kind, made.shots)
    assert metrics == ', '.join(f'`{name}`' for name in made.metrics)
    known = {place.partition('?')[0] for place in made.files[made.split]}
    assert {*where.replace('`', '').split(', ')} <= known
