"""Prompts and ids of 23 tasks are those of lm-eval, byte by byte."""

import pytest

from tests.data.tasks import golden

RANKED = [name for name, one in golden.TASKS.items() if 'requests' in one['docs'][0]]
tasks = pytest.mark.parametrize('name', RANKED)


def texts_of(item, asked):
  """(ids of the context, ids of what is scored) of each choice."""
  for number, j in asked.places:
    yield asked.requests[number].context, asked.requests[number].texts[j]


@tasks
def test_prompts_are_theirs(name):
  task, items, asked = golden.asked(name)
  docs = golden.TASKS[name]['docs']
  assert len(items) == len(docs)
  assert task.description(items[0].subject) == golden.TASKS[name]['description']
  for one, doc in zip(asked, docs, strict=True):
    assert golden.sha256(one.prompt) == doc['requests'][0]['context_sha256']


@tasks
def test_ids_are_theirs(name):
  task, items, asked = golden.asked(name)
  for item, one, doc in zip(items, asked, golden.TASKS[name]['docs'], strict=True):
    ours = list(texts_of(item, one))
    theirs = doc['requests'][: len(ours)]  # those without a context come behind these
    assert len(ours) == len(theirs)
    for (context, text), request in zip(ours, theirs, strict=True):
      assert list(text.ids) == request['continuation_ids']
      assert len(context) == request['context_tokens'] - request['cut']
      assert not text.skip
    assert one.cut == max(request['cut'] for request in theirs)


@tasks
def test_documents_begin_once_and_lose_their_begin_only_where_they_are_cut(name):
  begin = golden.tokenizer().begin
  assert len(begin) == 1
  for one in golden.asked(name)[2]:
    for request in one.requests:
      assert request.context[:1] == begin or one.cut
      assert begin[0] not in request.context[1:]


def test_generated_prompts_are_theirs():
  for one, doc in zip(golden.asked('gsm8k')[2], golden.TASKS['gsm8k']['docs'], strict=True):
    assert golden.sha256(one.prompt) == doc['context_sha256']
    assert len(one.requests[0].context) == doc['context_tokens']


def test_scored_text_is_that_after_the_detokeniser_and_counts_are_those_before():
  (doc,), (item,) = golden.TASKS['wikitext']['docs'], golden.asked('wikitext')[1]
  assert golden.sha256(item.choices[0]) == doc['text_sha256']
  assert len(golden.tokenizer().encode(item.choices[0])) == doc['tokens']
  counted = item.about['counted']
  assert len(counted.split()) in (doc['words'], doc['words'] - 1)
  assert len(counted.encode()) == doc['bytes']
