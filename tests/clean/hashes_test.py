"""Hashes of pieces are those of whole texts, and xxHash64 those of its reference implementation."""

import hashlib
import random

import numpy as np
import pytest

from llm_jax.clean.hashes import HASHES, xxh64

# The first n of the bytes 7, 18, 29, ... (11 more each, modulo 256), by the package xxhash 3.8.2.
BYTES = bytes((7 + 11 * i) % 256 for i in range(300))
XXH64 = {
  0: 0xEF46DB3751D8E999, 1: 0xA96C7F0CE858BBB7, 3: 0x14C430A73276E7D1,
  4: 0xFB0CFAD0CF15767D, 5: 0x9A43723D05FAF474, 7: 0xA9A1697E68C77EED,
  8: 0xBE7E49991CCEB7E2, 11: 0xD5DC601BDC661263, 12: 0xD4FD07C1BEB73F75,
  15: 0xD6FEC11C3FD4F11B, 16: 0x4DBE6477732CBC40, 23: 0x00B14307CF820B3F,
  24: 0xCB37B0B6E23D5D42, 28: 0x5C8EC5561D776524, 31: 0x7E9A54F5D0A7464F,
  32: 0x004292608C63DEB0, 33: 0xBC36FD508F70A0D4, 36: 0x5DC660EEFDC437F3,
  39: 0x15EB8B8886A5DF1E, 63: 0x2CB48F813A8426DB, 64: 0x65ABBBC900188A7F,
  95: 0x7524745113A17B34, 100: 0xC9DA8BC99B179F0F, 127: 0x45A6795B7CFB9340,
  128: 0xFF549529A8440D55, 200: 0x64C44FD17626A3DF, 259: 0x3BE278FED7F2D21C,
  300: 0xBD3DB50CACA107D8,
}  # fmt: skip


@pytest.mark.parametrize('size', XXH64)
def test_xxhash_of_every_length(size):
  assert xxh64(BYTES, np.array([0]), np.array([size])).tolist() == [XXH64[size]]


@pytest.mark.parametrize('name', HASHES)
def test_pieces_are_hashed_as_if_each_were_alone(name):
  draw = random.Random(0)
  for _ in range(30):
    data = draw.randbytes(draw.randrange(300))
    start = np.array([draw.randrange(len(data) + 1) for _ in range(draw.randrange(1, 40))])
    end = np.array([draw.randrange(at, len(data) + 1) for at in start])
    alone = [
      HASHES[name](data[a:b], np.array([0]), np.array([b - a]))[0] for a, b in zip(start, end)
    ]
    together = HASHES[name](data, start, end)
    assert together.dtype == np.uint64 and together.tolist() == alone
    if name == 'sha1':
      digests = [hashlib.sha1(data[a:b]).digest() for a, b in zip(start, end)]
      assert together.tolist() == [int.from_bytes(x[:8], 'little') for x in digests]
