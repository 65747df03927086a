"""Raw web pages, or documents from anywhere, become training text.

python -m llm_jax.main --config=clean --config.sources.web='crawl/*.warc.gz'
python -m llm_jax.main --config=clean:fineweb --config.sources.web=saved/pages
python -m llm_jax.main --config=clean:fineweb2-zh --config.sources.web='crawl/*.warc.gz'

A preset is steps and their options; any of both can be set. What differs from what it is called
after:

- fineweb: words are our own splitter's, and languages py3langid's, where theirs are spaCy's and
  fastText's. No URL is listed unless you name the lists. Repeated lines are not removed when a page
  is extracted, which depended on the pages before. Of duplicates the first page stays.
- fineweb2: limits of Chinese (zh) and Japanese (ja) only; our own splitters; as above otherwise.
- c4: py3langid in the place of langdetect, whole pages compared and not spans of three sentences;
  bad words only from a list that you name, as the step `blocked_words`.
- gopher: sequences of five words are compared, not of thirteen; no list of web sites.
- dclm: MinHash in the place of its Bloom filter; its classifier is left out, and the step `quality`
  trains one on good texts that you name.
"""

from typing import Any

from ml_collections import ConfigDict

# What every preset for the web begins with: a page that no rule can read goes first.
READ = ('url', 'extract', 'language')
PRESETS: dict[str, dict[str, Any]] = {
  # FineWeb's rules, but that brackets drop no page, since code has them; and marks are words here,
  # a seventh of all, so that 0.8 of the words with a letter would drop lists and references: one
  # page in nine. Small models that were trained on either showed no difference; experiments/clean.
  'default': dict(
    steps=(
      *('url', 'extract', 'mojibake', 'unicode', 'language', 'same_url'),
      *('repetition', 'gopher', 'c4', 'fineweb', 'exact', 'minhash', 'pii'),
    ),
    c4=dict(curly_bracket='off'),
    gopher=dict(min_alpha_words=0.7),
  ),
  # arXiv:2406.17557
  'fineweb': dict(
    steps=(*READ, 'repetition', 'gopher', 'c4', 'fineweb', 'minhash', 'pii'),
    minhash=dict(jaccard=0.0),
    pii=dict(kinds=('email', 'ipv4'), replace='example'),
    scope='per_source',
  ),
  # arXiv:2506.20920
  'fineweb2': dict(
    steps=(*READ, 'minhash', 'repetition', 'fineweb', 'gopher', 'mojibake', 'pii'),
    minhash=dict(jaccard=0.0, words='page'),
    pii=dict(kinds=('email', 'ipv4'), replace='example'),
  ),
  # arXiv:1910.10683, as in the code of TFDS
  'c4': dict(
    steps=('extract', 'c4', 'language', 'exact'),
    language=dict(threshold=0.99),
    c4=dict(
      end_marks=('.', '?', '!', '"'), min_line_words=5, min_sentences=3, count_citations=False
    ),
  ),
  # arXiv:2112.11446
  'gopher': dict(
    steps=('extract', 'language', 'gopher', 'repetition', 'exact', 'minhash'),
    words='whitespace',
    minhash=dict(jaccard=0.8),
  ),
  # arXiv:2406.11794
  'dclm': dict(
    steps=('url', 'extract', 'unicode', 'language', 'gopher', 'repetition', 'dclm', 'minhash'),
    words='whitespace',
    extract=dict(engine='resiliparse'),
    unicode=dict(form='none', blank_lines=1),
    gopher=dict(preset='dclm'),
    repetition=dict(reading='dclm'),
    minhash=dict(jaccard=0.8),
  ),
}


def get_config(preset: str = 'default') -> ConfigDict:
  """Job `clean` with the steps of a preset; `fineweb2` has a language behind it, as fineweb2-zh."""
  name, _, language = preset.partition('-')
  if name not in PRESETS:
    raise ValueError(f'no preset {preset!r}; choose from: {", ".join(PRESETS)}')
  if bool(language) != (name == 'fineweb2'):
    raise ValueError(f'preset {preset!r}: write fineweb2-zh or fineweb2-ja; others are for English')
  options = dict(PRESETS[name])
  if language:
    from llm_jax.clean.languages import limits

    found = limits(language)
    options |= {rule: found[rule] for rule in found if rule != 'language'}
    options['language'] = dict(keep=(language,), **found['language'])
  c = ConfigDict()
  c.job = 'clean'
  c.workdir = 'runs/web/clean'
  c.sources = dict(web='')
  c.words = options.pop('words', 'simple')
  c.scope = options.pop('scope', 'all')
  c.rules = ConfigDict(options)
  c.runner = 'local'
  c.beam = ConfigDict()
  c.shard_documents = 10_000
  c.again = False
  c.why = ''
  return c
