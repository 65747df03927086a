"""A task put to a model: scores, answers and metrics are those of lm-eval 0.4.13."""

import dataclasses

import jax
import pytest

from llm_jax.data.tasks import files, gsm8k
from llm_jax.data.tasks.task import Item, Task
from llm_jax.evals import asking, task, task_metrics
from llm_jax.evals.likelihood import Likelihood
from llm_jax.evals.task_metrics import Answered
from llm_jax.parallel.mesh import make_mesh
from llm_jax.types import BadInput
from tests.data.tasks import golden

# Prompts of these have a few lengths only, so that few programs are compiled.
QUICK = ('arc_challenge', 'winogrande', 'cola', 'lambada_openai', 'truthfulqa_mc2', 'blimp')
CUT = 'mmlu_formal_logic'
NAMES = (*QUICK, CUT)


@pytest.fixture(scope='module')
def mesh():
  return make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope='module')
def scored(mesh):
  """Of each task, the scores of the choices of each question; all of them from one engine."""
  model, params = golden.model()
  made, items, _ = golden.asked('arc_challenge')
  asked = {name: [one.requests for one in golden.asked(name)[2]] for name in NAMES}
  asked['alone'] = [[one] for one in task.alone_of(items, golden.tokenizer(), made)]
  flat = [request for some in asked.values() for requests in some for request in requests]
  with jax.set_mesh(mesh):
    found = dict(Likelihood(model, mesh)(params, flat))
  after = (found[i] for i in range(len(flat)))
  answers = {
    name: [[next(after) for _ in requests] for requests in some] for name, some in asked.items()
  }
  places = {name: [one.places for one in golden.asked(name)[2]] for name in NAMES}
  places['alone'] = [[(0, j) for j in range(4)] for _ in items]
  return {
    name: [
      [answer[number][j] for number, j in place]
      for answer, place in zip(answers[name], places[name], strict=True)
    ]
    for name in places
  }


def differences(name, scored, *, items=None, asked=None, alone=None):
  """What is not as in the golden file."""
  made, own, how = golden.asked(name)
  docs = golden.TASKS[name]['docs']
  parts = zip(items or own, asked or how, scored, alone or [None] * len(own), docs, strict=True)
  return {what for part in parts for what in _of_question(made, name, *part)}


def _of_question(made, name, item, one, scored, alone, doc):
  theirs, rest = doc['requests'][: len(scored)], doc['requests'][len(scored) :]
  texts = [one.requests[number].texts[j] for number, j in one.places]
  contexts = [one.requests[number].context for number, _ in one.places]
  if golden.sha256(one.prompt) != theirs[0]['context_sha256']:
    yield 'prompt'
  if [list(text.ids) for text in texts] != [request['continuation_ids'] for request in theirs]:
    yield 'ids'
  if [*map(len, contexts)] != [request['context_tokens'] - request['cut'] for request in theirs]:
    yield 'length'
  if one.cut != max(request['cut'] for request in theirs):
    yield 'cut'
  for score, request in zip([*scored, *(alone or ())], [*theirs, *rest], strict=True):
    if abs(score.logp - request['loglikelihood']) > 5e-4 or score.greedy != request['greedy']:
      yield 'score'
  tokens = [len(text.ids) for text in texts]
  said, scores = task_metrics.of_choices(item, made, scored, tokens, alone)
  for metric, value in doc['metrics'].items():
    ours = {'perplexity': 'logp'}.get(metric, metric)
    ours = 'share' if name == 'truthfulqa_mc2' else ours
    bound = {'logp': 5e-4, 'share': 1e-5}.get(ours, 1e-6)
    found = [item.gold, said] if metric == 'mcc' else scores[ours]
    if found != pytest.approx(value, rel=0, abs=bound):
      yield 'metric'


@pytest.mark.parametrize('name', NAMES)
def test_scores_and_metrics_are_theirs(name, scored):
  alone = scored['alone'] if name == 'arc_challenge' else None
  assert not differences(name, scored[name], alone=alone)


# --- faults ------------------------------------------------------------------------------------


def test_a_swapped_gold_answer_is_found(scored):
  items = [item._replace(gold=1 - item.gold) for item in golden.asked('winogrande')[1]]
  assert differences('winogrande', scored['winogrande'], items=items) == {'metric'}


def test_a_question_among_its_own_examples_is_refused():
  made, items, _ = golden.asked('cola')
  ask = lambda draw, pool: asking.Asker(
    tokenizer=golden.tokenizer(), task=made, room=golden.ROOM, pool=pool, shots=1, draw=draw
  )(items[:1])
  with pytest.raises(BadInput, match='among its own examples'):
    ask('lm_eval', [*items[:1] * 9, items[1]])
  with pytest.raises(BadInput, match='0 examples are there besides the question'):
    ask('seeded', items[:1])
  for draw in ('first', 'seeded'):
    assert ask(draw, items[:2])[0].prompt.startswith(items[1].context)
  with pytest.raises(BadInput, match="'validation' that is evaluated show its answers"):
    task.make(*golden.model()[:1], golden.tokenizer(), task='cola', path=golden.BENCH, mesh=None,
              shots=1, examples='validation')  # fmt: skip


class BeginsItself:
  """A tokenizer that begins every text, as many of Hugging Face do, and says that it does not."""

  def __init__(self, tokenizer):
    self._tokenizer, self.begin, self.eos_id = tokenizer, tokenizer.begin, tokenizer.eos_id

  def encode_batch(self, texts):
    return [[*self.begin, *ids] for ids in self._tokenizer.encode_batch(texts)]


def test_a_second_begin_of_a_document_is_refused():
  made, items, _ = golden.asked('cola')
  twice = BeginsItself(golden.tokenizer())
  with pytest.raises(BadInput, match='a document would begin twice'):
    asking.Asker(tokenizer=twice, task=made, room=golden.ROOM)(items)


@pytest.mark.parametrize('fault', [
  lambda made: dataclasses.replace(made, delimiter='  '),
  lambda made: dataclasses.replace(made, description=lambda subject: ' '),
])  # fmt: skip
def test_one_blank_more_is_found(fault, scored):
  made, items, _ = golden.asked('winogrande')
  asker = asking.Asker(tokenizer=golden.tokenizer(), task=fault(made), room=golden.ROOM)
  assert {'prompt', 'ids'} & differences('winogrande', scored['winogrande'], asked=asker(items))


def test_a_cut_prompt_is_found_and_counted(scored):
  made, items, _ = golden.asked('winogrande')
  how = dict(tokenizer=golden.tokenizer(), task=made, room=24)
  cut = asking.Asker(**how, too_long='cut')(items)
  assert {'length', 'cut'} <= differences('winogrande', scored['winogrande'], asked=cut)
  some = [
    Answered(item, 0, {'acc': 1.0, 'acc_norm': 1.0}, cut=one.cut)
    for item, one in zip(items, cut, strict=True)
  ]
  found = task_metrics.metrics(made, some)
  assert found['cut'].value == sum(bool(one.cut) for one in cut) / len(cut) > 0
  kept = asking.Asker(**how, too_long='drop')(items)
  assert all(one.requests[0].context[:1] == golden.tokenizer().begin for one in kept)
  assert [one.cut for one in kept] == [one.cut for one in cut]


def test_whole_examples_are_left_out_before_anything_is_cut():
  made, items, theirs = golden.asked(CUT)
  pool = files.items('mmlu', made, 'dev', golden.BENCH)
  ours = asking.Asker(
    tokenizer=golden.tokenizer(), task=made, room=golden.ROOM, pool=pool, shots=5, draw='first'
  )(items)
  for one, other, item in zip(ours, theirs, items, strict=True):
    assert (one.shots < 5) == bool(other.cut)
    assert not one.cut
    assert one.prompt == ''.join(
      [made.description(item.subject), *(f'{x.context} {x.choices[x.gold]}\n\n' for x in
                                         pool[: one.shots]), item.context]
    )  # fmt: skip


# --- what a model writes, and documents --------------------------------------------------------


def evaluated(mesh, name, **options):
  model, params = golden.model()
  rows = []
  with jax.set_mesh(mesh):
    evaluate = task.make(
      model, golden.tokenizer(), task=name, path=golden.BENCH, mesh=mesh,
      record=lambda row, said: rows.append({**row, 'said': said}), **options,
    )  # fmt: skip
    return evaluate(params), rows


def test_what_is_written_is_theirs(mesh):
  found, rows = evaluated(
    mesh, 'gsm8k', shots=2, draw='lm_eval', too_long='cut', max_questions=2
  )  # fmt: skip
  docs = golden.TASKS['gsm8k']['docs'][:2]
  assert [row['said'] for row in rows] == [doc['response'] for doc in docs]
  for row, doc in zip(rows, docs, strict=True):
    assert gsm8k.strict(row['said']) == doc['filtered']['strict-match']
    assert gsm8k.flexible(row['said']) == doc['filtered']['flexible-extract']
  assert found['strict'].value == found['flexible'].value == 0


def test_documents_are_scored_from_one_begin(mesh):
  found, (row,) = evaluated(mesh, 'wikitext')
  (doc,) = golden.TASKS['wikitext']['docs']
  assert sum(row['logp']) == pytest.approx(doc['loglikelihood'], abs=2e-3)  # 2,027 in float32
  assert abs(sum(row['logp']) - doc['loglikelihood_with_bos_twice']) > 10
  assert (row['scores']['words'], row['scores']['bytes']) == (doc['words'], doc['bytes'])
  bits = -doc['loglikelihood'] / doc['bytes'] / 0.6931471805599453
  assert found['bits_per_byte'].value == pytest.approx(bits, rel=1e-6)


def test_the_second_window_of_a_document_stands_behind_one_token():
  asked = asking.rolling(range(10, 30), (1,), 12)
  assert [len(one.context) for one in asked] == [1, 1]
  assert sum(len(one.texts[0].ids) - one.texts[0].skip for one in asked) == 20


# --- metrics of all answers --------------------------------------------------------------------


def answers(said, golds, **fields):
  items = [Item('', ('x', 'y', 'z'), gold, **{k: v[i] for k, v in fields.items()})
           for i, gold in enumerate(golds)]  # fmt: skip
  return [Answered(item, one, {'acc': float(one == item.gold)}) for item, one in
          zip(items, said, strict=True)]  # fmt: skip


def values(metrics, some):
  made = Task(read=lambda record: [], files={}, metrics=metrics)
  return {name: found.value for name, found in task_metrics.metrics(made, some).items()}


def test_macro_f1_counts_every_class_that_is_there():
  found = values(('macro_f1',), answers([0, 0, 0], [0, 1, 2]))
  assert found['macro_f1'] == pytest.approx(0.5 / 3)


def test_answers_of_multirc_are_judged_by_question():
  groups = [{'group': name} for name in ('a', 'a', 'b', 'b')]
  some = answers([1, 0, 1, 1], [1, 0, 1, 0], about=groups)
  found = values(('f1a', 'em', 'f1m', 'acc'), some)
  assert (found['f1a'], found['em'], found['acc']) == (0.8, 0.5, 0.75)
  assert found['f1m'] == pytest.approx((1 + 2 / 3) / 2)


def test_pairs_that_get_the_same_answer_are_at_parity():
  some = answers([0, 0, 1, 0], [0, 0, 0, 0], about=[{'group': name} for name in 'aabb'])
  assert values(('parity',), some)['parity'] == 0.5


def test_numbers_are_correlated():
  about = [{'said': (0.0, 2.0, 4.0), 'score': score} for score in (1.0, 2.5, 5.0)]
  found = values(('pearson', 'spearman'), answers([0, 1, 2], [0, 1, 2], about=about))
  assert found['spearman'] == pytest.approx(1)
  assert 0.97 < found['pearson'] < 1


def test_a_metric_that_no_question_has_is_refused():
  with pytest.raises(BadInput, match="no metric 'acuracy'; did you mean"):
    values(('acuracy',), answers([0], [0]))


def test_samples_give_the_chance_that_one_of_ten_passes():
  found = task_metrics.of_samples([{'pass@1': float(i < 2)} for i in range(20)])
  assert found['pass@1'] == 0.1
  assert found['pass@10'] == pytest.approx(1 - (10 * 9) / (20 * 19))
  assert 'pass@100' not in found


@pytest.mark.parametrize('row', golden.TASKS['gsm8k']['scoring'])
def test_filters_find_what_theirs_find(row):
  found = gsm8k.judge(row['response'], Item('', gold=row['gold']))
  for ours, theirs, read in (
    ('strict', 'strict-match', gsm8k.strict), ('flexible', 'flexible-extract', gsm8k.flexible)
  ):  # fmt: skip
    assert read(row['response']) == row[theirs]['filtered']
    assert found[ours] == row[theirs]['exact_match']


def test_the_split_whose_labels_are_there_is_evaluated(mesh, capsys):
  model, params = golden.model()
  here = golden.BENCH  # it has the validation split of ARC alone
  rows = []
  make = lambda **how: task.make(
    model, golden.tokenizer(), task='arc_easy', path=here, mesh=mesh, max_questions=2, **how
  )
  with jax.set_mesh(mesh):
    made = make(record=lambda row, said: rows.append(row))(params)
  assert made and [row['split'] for row in rows] == ['validation'] * 2
  assert 'its validation split is evaluated' in capsys.readouterr().out
  with pytest.raises(BadInput, match="no file of its split 'test'"):
    make(split='test')
