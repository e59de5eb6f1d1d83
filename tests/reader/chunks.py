"""Section 5 of docs/format.md: how a chunk was compressed before it was sealed."""

import bz2
import lzma
import zlib

import zstandard

from errors import Broken, need


def zstd(data, plain_length):
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=plain_length)


def lz4(data, plain_length):
    """One raw block of LZ4: literals, then a match of at least four bytes, again and again."""
    plain, at = bytearray(), 0

    def length(start, at):
        more = start == 15
        while more:
            start, more, at = start + data[at], data[at] == 255, at + 1
        return start, at

    while at < len(data):
        token, at = data[at], at + 1
        literals, at = length(token >> 4, at)
        plain += data[at : at + literals]
        at += literals
        if at >= len(data):
            break
        distance, at = int.from_bytes(data[at : at + 2], "little"), at + 2
        matched, at = length(token & 15, at)
        need(0 < distance <= len(plain) and len(plain) <= plain_length, "lz4: a match from before the begin")
        for _ in range(matched + 4):
            plain.append(plain[-distance])
    return bytes(plain)


DECODERS = {
    0: ("none", lambda data, _: data),
    1: ("zstd", zstd),
    2: ("lz4", lz4),
    3: ("gzip", lambda data, _: zlib.decompress(data, wbits=31)),
    4: ("bzip2", lambda data, _: bz2.decompress(data)),
    5: ("xz", lambda data, _: lzma.decompress(data, lzma.FORMAT_XZ)),
}


def decode(codec, data, plain_length, what):
    need(codec in DECODERS, f"{what}: a codec that this reader does not know: {codec}")
    name, decoder = DECODERS[codec]
    try:
        plain = decoder(data, plain_length)
    except (zstandard.ZstdError, zlib.error, lzma.LZMAError, OSError, EOFError, IndexError, ValueError) as error:
        raise Broken(f"{what}: {name}: {error}") from None
    need(len(plain) == plain_length, f"{what}: {len(plain)} bytes instead of {plain_length}")
    return plain
