"""Every sound page comes out of an archive, everything else is counted, and nothing is raised."""

import contextlib
import gzip
import io
import random
import tarfile
import zlib
from collections import Counter
from pathlib import Path

import brotli
import pytest
import zstandard
from fastwarc.warc import ArchiveIterator
from warcio.archiveiterator import ArchiveIterator as WarcioIterator

from llm_jax.clean import saved, warc
from llm_jax.clean.inflate import Stream

SAMPLES = Path(__file__).parents[1] / 'fixtures' / 'web'
HTML = b'<html><body><p>A page.</p></body></html>'


def _record(kind: str, block: bytes, content_type: str = '', **fields: str) -> bytes:
  head = {
    'WARC-Type': kind,
    'WARC-Target-URI': 'http://a.b/c',
    **({'Content-Type': content_type} if content_type else {}),
    'Content-Length': str(len(block)),
    **{name.replace('_', '-'): value for name, value in fields.items()},
  }
  lines = ''.join(f'{name}: {value}\r\n' for name, value in head.items())
  return b'WARC/1.0\r\n' + lines.encode() + b'\r\n' + block + b'\r\n\r\n'


def _response(
  body: bytes = HTML, status: str = '200 OK', header: str = 'Content-Type: text/html', **fields: str
) -> bytes:
  http = f'HTTP/1.1 {status}\r\n{header}\r\n\r\n'.encode() + body
  return _record('response', http, 'application/http; msgtype=response', **fields)


def _read(data: bytes, **options):
  counts = Counter()
  return [*warc.read(io.BytesIO(data), str.split, counts, **options)], dict(counts)


@pytest.mark.parametrize(
  ('name', 'pages', 'counts'),
  [
    ('cc_whirlwind.warc.gz', 1, {'warcinfo': 1, 'request': 1, 'metadata': 1}),
    ('cc_whirlwind.warc.wet.gz', 1, {'warcinfo': 1}),
    (
      'dupes.warc.gz',
      1,
      {'warcinfo': 1, 'request': 12, 'status': 1, 'revisit': 9, 'not_html': 1},
    ),
    ('warcio_bad_non_chunked.warc.gz', 1, {'warcinfo': 2, 'request': 2, 'revisit': 1}),
    ('warcio_example.warc.gz', 1, {'warcinfo': 2, 'request': 2, 'revisit': 1}),
    ('warcio_iana_chunked.warc', 1, {'warcinfo': 1, 'request': 1}),
    ('warcio_trunc.warc', 1, {'warcinfo': 2, 'broken_record': 1, 'request': 1}),
  ],
)
def test_files_of_crawlers(name, pages, counts):
  found = Counter()
  read = [*warc.read(str(SAMPLES / name), str.split, found)]
  assert (len(read), dict(found)) == (pages, counts)
  assert read[0].url.startswith('http') and read[0].meta['date']
  wet = 'wet' in name
  assert ('</html>' in read[0].body.decode().lower()) != wet and bool(read[0].text) == wet


@pytest.mark.parametrize(
  'name', [p.name for p in sorted(SAMPLES.glob('*warc*')) if 'bad' not in p.name]
)
def test_records_are_those_of_fastwarc_and_warcio(name):
  data = (SAMPLES / name).read_bytes()
  lines = io.BufferedReader(Stream(io.BytesIO(data)))
  ours = []
  while (head := warc._next_head(lines, Counter())) is not None:
    ours.append(
      (head['warc-type'], head.get('warc-record-id'), lines.read(int(head['content-length'])))
    )
  theirs, others = [], []
  with contextlib.suppress(OSError):  # FastWARC ends where a record is shorter than it says
    for r in ArchiveIterator(io.BytesIO(data), parse_http=False):
      theirs.append((r.headers['WARC-Type'], r.headers.get('WARC-Record-ID'), r.reader.read()))
  for r in WarcioIterator(io.BytesIO(data), no_record_parse=True):
    head = r.rec_headers
    others.append((r.rec_type, head.get_header('WARC-Record-ID'), r.raw_stream.read()))
  assert ours == others
  assert ours[: len(theirs)] == theirs and len(theirs) >= min(3, len(ours))


@pytest.mark.parametrize(
  ('record', 'kind'),
  [
    (_response(status='404 Not Found'), 'status'),
    (_response(header='Content-Type: image/png'), 'not_html'),
    (_response(b'\x89PNG', header='X: y'), 'not_html'),
    (_response(b' \n'), 'empty_body'),
    (_response(header='Content-Type: text/html\r\nContent-Encoding: br'), 'broken_encoding'),
    (_response(header='Content-Type: text/html\r\nContent-Encoding: magic'), 'broken_encoding'),
    (
      _response(header='Content-Type: text/html\r\nContent-Encoding: ' + 'gzip,' * 9),
      'broken_encoding',
    ),
    (_response(HTML + b' ' * 2000), 'too_large'),
    (_response(b'', header='Content-Type: text/html\r\nX: ' + 'y' * (1 << 19)), 'too_large'),
    (_response(b'', header='Content-Type: text/html\r\nX: ' + 'y' * (1 << 18)), 'broken_http'),
    (_record('response', b'no http', 'application/http'), 'broken_http'),
    (_record('response', b'x', 'text/dns'), 'not_html'),
    (_record('resource', b'x', 'text/plain'), 'not_html'),
    (_record('conversion', b'x', 'application/json'), 'not_text'),
    (_record('conversion', b' \n', 'text/plain'), 'empty_body'),
    (_record('revisit', b''), 'revisit'),
    (_record('poem', b''), 'other_type'),
    (_record('response', HTML, X='y' * (1 << 18)), 'broken_record'),
    (b'WARC/1.0\r\nWARC-Type: response\r\n\r\n', 'broken_record'),
    (b'WARC/1.0\r\nContent-Length: -1\r\n\r\n', 'broken_record'),
    (b'garbage\r\n' * 9, 'broken_record'),
  ],
)
def test_what_is_no_page_is_counted_and_the_next_is_read(record, kind):
  for data in (record, record + _response()):
    pages, counts = _read(data, max_bytes=1000)
    assert counts == {kind: 1}
  assert [page.body for page in pages] == [HTML]


@pytest.mark.parametrize(
  ('encoding', 'pack'),
  [
    ('gzip', gzip.compress),
    ('x-gzip', gzip.compress),
    ('deflate', zlib.compress),
    ('deflate', lambda data: zlib.compress(data, wbits=-15)),
    ('br', brotli.compress),
    ('zstd', zstandard.compress),
    ('gzip, br', lambda data: brotli.compress(gzip.compress(data))),
    ('gzip', bytes),
  ],
)
def test_bodies_are_decoded_and_bombs_are_not(encoding, pack):
  header = f'Content-Type: text/html\r\nContent-Encoding: {encoding}'
  (page,), counts = _read(_response(pack(HTML), header=header))
  assert page.body == HTML and not counts
  bomb = _response(pack(HTML + b'\0' * 20_000_000), header=header)
  assert _read(bomb, max_bytes=100_000) == ([], {'too_large': 1})


def test_chunks_are_joined():
  for ending in (b'\r\n', b'\n'):
    chunks = b''.join(b'%x%b%b%b' % (1, ending, HTML[i : i + 1], ending) for i in range(len(HTML)))
    header = 'Content-Type: text/html\r\nTransfer-Encoding: chunked'
    for body in (chunks + b'0' + ending + ending, chunks, HTML):
      (page,), _ = _read(_response(body, header=header))
      assert page.body == HTML


def test_what_a_page_carries():
  record = _response(
    WARC_Date='2024-01-01T00:00:00Z', WARC_Record_ID='<urn:x>', WARC_Truncated='length'
  )
  (page,), _ = _read(record, statuses=(200, 404))
  assert page.url == 'http://a.b/c'
  assert page.meta == {
    'content_type': 'text/html',
    'date': '2024-01-01T00:00:00Z',
    'record_id': 'urn:x',
    'status': 200,
    'truncated': 'length',
  }
  wet = _record('conversion', 'é\0a'.encode(), 'text/plain', WARC_Identified_Content_Language='fra')
  (page,), _ = _read(wet)
  assert (page.text, page.body, page.meta['languages']) == ('éa', b'', 'fra')


@pytest.mark.parametrize('pack', [bytes, gzip.compress, zstandard.compress])
def test_a_file_cut_anywhere_gives_its_whole_pages(pack):
  records = [_response(b'<html>%d</html>' % i) for i in range(3)]
  whole = [pack(record) for record in records]
  ends = [sum(map(len, whole[: i + 1])) for i in range(3)]
  data = b''.join(whole)
  for cut in range(len(data) + 1):
    pages, counts = _read(data[:cut])
    bodies = [page.body for page in pages]
    assert bodies == [b'<html>%d</html>' % i for i in range(len(bodies))]
    assert len(bodies) >= sum(end <= cut for end in ends)
    # A cut inside of a record is seen. So is one inside of a gzip member, but for its checksum.
    if pack is bytes and cut not in (0, *ends) and not any(0 < e - cut <= 4 for e in ends):
      assert sum(counts.values()) == 1


def test_random_damage_ends_nothing():
  rng = random.Random(0)
  data = (SAMPLES / 'warcio_example.warc').read_bytes()
  for number in range(300):
    damaged = bytearray(data)
    for _ in range(rng.randrange(1, 30)):
      at = rng.randrange(len(damaged))
      damaged[at : at + rng.choice((0, 1, 9))] = rng.randbytes(rng.choice((0, 1, 9)))
    packed = bytes(damaged) if number % 2 else gzip.compress(damaged)
    _read(packed)
    torn = bytearray(packed)
    torn[rng.randrange(len(torn))] ^= 1 << rng.randrange(8)
    _read(bytes(torn))
    _read(rng.randbytes(200))


def _tar(names: dict[str, bytes], mode: str) -> bytes:
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode=mode) as tar:
    for name, body in names.items():
      member = tarfile.TarInfo(name)
      member.size = len(body)
      tar.addfile(member, io.BytesIO(body))
    link = tarfile.TarInfo('link.html')
    link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
    tar.addfile(link)
  return buffer.getvalue()


def test_saved_pages_are_called_after_their_files(tmp_path):
  files = {'b.html': HTML, 'a/c.HTM': HTML + b'2', 'empty.html': b' ', 'large.html': b'x' * 999}
  for name, body in files.items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(body)
  (tmp_path / 'note.txt').write_bytes(b'x')
  (tmp_path / 'pages.tar.gz').write_bytes(_tar(files | {'n.txt': b'x'}, 'w:gz'))
  counts = Counter()
  read = lambda place, **more: [
    (page.url, page.body)
    for page in saved.read(str(place), str.split, counts, max_bytes=99, **more)
  ]
  both = [('a/c.HTM', HTML + b'2'), ('b.html', HTML)]
  assert read(tmp_path) == both and counts == {'empty_body': 1, 'too_large': 1}
  assert read(tmp_path / '*' / '*.HTM', root=str(tmp_path)) == both[:1]
  assert read(tmp_path / 'b.html') == both[1:]
  counts.clear()
  assert read(tmp_path / 'pages.tar.gz') == both[::-1]
  assert counts == {'empty_body': 1, 'too_large': 1, 'not_html': 2}


def test_a_damaged_archive_gives_the_pages_before(tmp_path):
  path = tmp_path / 'a.tar'
  data = _tar({f'{i}.html': HTML for i in range(3)}, 'w')
  bomb = tarfile.TarInfo('x')
  bomb.type, bomb.size = tarfile.XHDTYPE, 1 << 40
  for tail in (b'', b'\xff' * 700, bomb.tobuf()):
    path.write_bytes(data[: 2 * 512] + tail)
    counts = Counter()
    pages = [*saved.read(str(path), str.split, counts)]
    assert [page.url for page in pages] == ['0.html']
    assert counts == ({'broken_archive': 1} if tail else {})
