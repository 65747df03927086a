"""Pages dropped for their URL: listed domains, hosts and URLs, and words in it.

The lists, their order and the reasons are FineWeb's, arXiv:2406.17557 appendix E; the lists
themselves are the user's.
"""

import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote

from llm_jax.clean.extra import library
from llm_jax.clean.listed import Listed, entries
from llm_jax.clean.page import Limit, Page, Rule
from llm_jax.clean.url_key import host_of, key
from llm_jax.options import Count, checked

_Values = Mapping[str, float]
_WORDS = re.compile(r'[^\W_]+')
_ASCII_WORDS = re.compile(r'[A-Za-z0-9]+')


@checked(where='clean.url')
def make(
  *,
  domains: Listed = (),
  urls: Listed = (),
  hard_words: Listed = (),
  soft_words: Listed = (),
  subwords: Listed = (),
  soft: Count = 2,
  exact_fineweb: bool = False,
) -> Rule:
  """Drops a page whose URL is listed, or has listed words in it.

  Its values are 0 or 1, and for words how many of the list stand there. A list is a file, plain or
  `.gz`, with one entry a line, or is written out.

  Args:
    domains: registered domains and hosts; all hosts below a listed one are dropped with it.
    urls: whole URLs; one without a query is listed with every query.
    hard_words: words between characters that are no letters or digits; one of them is too many.
    soft_words: such words as well, of which there may be some.
    subwords: texts that may stand anywhere once all but letters and digits is taken away.
    soft: how many different words of `soft_words` are too many.
    exact_fineweb: what FineWeb's code does: the case of words, domains and URLs counts, hosts below
      a listed host that is no registered domain pass, and URLs have to be listed with their query.

  Raises:
    BadInput: a file cannot be read.
  """
  read = lambda listed, name: entries(listed, f'clean.url.{name}')
  lists = (
    frozenset(read(domains, 'domains')),
    frozenset(read(urls, 'urls')),
    read(hard_words, 'hard_words'),
    read(soft_words, 'soft_words'),
    read(subwords, 'subwords'),
  )
  measure = (_exact if exact_fineweb else _mended)(*lists)
  return Rule(
    lambda page: _of_url(page, measure),
    (
      Limit('domain', 'domain', high=0),
      Limit('subdomain', 'subdomain', high=0),
      Limit('url', 'url', high=0),
      Limit('hard_blacklisted', 'hard_words', high=0),
      Limit('soft_blacklisted', 'soft_words', high=soft - 1),
      Limit('blacklisted_subword', 'subwords', high=0),
    ),
  )


def _of_url(page: Page, measure: Callable[[str], _Values]) -> tuple[Page, _Values]:
  return page, measure(page.url)


def _mended(domains, urls, hard, soft, subwords) -> Callable[[str], _Values]:
  hosts = {host_of(name if '://' in name else f'http://{name}') for name in domains} - {''}
  registered = _registered() if hosts else lambda host: ''
  keys = {key(url) for url in urls} - {None}
  bare = lambda word: ''.join(_WORDS.findall(word.lower()))
  hard, soft, inner = ({bare(word) for word in words} - {''} for words in (hard, soft, subwords))

  def measure(url: str) -> _Values:
    host, page = host_of(url), key(url)
    labels = host.split('.')
    listed = next((x for i in range(len(labels)) if (x := '.'.join(labels[i:])) in hosts), None)
    below = listed is not None and len(listed) > len(registered(host) or '')
    words = _WORDS.findall(unquote(url).lower())
    joined = ''.join(words)
    return {
      'domain': int(listed is not None and not below),
      'subdomain': int(below),
      'url': int(page in keys or (page is not None and page.partition('?')[0] in keys)),
      'hard_words': len(hard.intersection(words)),
      'soft_words': len(soft.intersection(words)),
      'subwords': sum(word in joined for word in inner),
    }

  return measure


def _exact(domains, urls, hard, soft, subwords) -> Callable[[str], _Values]:
  registered = _registered() if domains else lambda host: ''
  bare = lambda word: ''.join(_ASCII_WORDS.findall(word)).lower()
  hard, soft, inner = ({bare(word) for word in words} - {''} for words in (hard, soft, subwords))

  def measure(url: str) -> _Values:
    after = re.sub(r'\A(?:[A-Za-z][A-Za-z0-9+.-]*:)?//', '', url)
    host = re.split(r'[/?#]', after, maxsplit=1)[0].rpartition('@')[2].partition(':')[0].rstrip('.')
    domain = registered(host)  # in its own case
    words = _ASCII_WORDS.findall(url)
    joined = ''.join(words).lower()
    return {
      'domain': int(domain in domains),
      'subdomain': int(bool(domain) and host in domains),
      'url': int(url in urls),
      'hard_words': len(hard.intersection(words)),
      'soft_words': len(soft.intersection(words)),
      'subwords': sum(word in joined for word in inner),
    }

  return measure


def _registered() -> Callable[[str], str]:
  """From a host to the part of it that somebody registered, by the public suffix list; '' if none.

  The package tld ships the list and never asks the network for it.
  """
  find = library('tld', 'clean.url.domains').get_fld

  def registered(host: str) -> str:
    try:
      found = find(f'http://{host}/', fail_silently=True, search_private=False)
    except ValueError:  # of a host that urllib refuses
      found = None
    return host[-len(found) :] if found else ''

  return registered
