"""The keyed mode of BLAKE3, written out from its specification (sections 2.1 to 2.6). Slow, and enough for a reader."""

import struct

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED = 1, 2, 4, 8, 16
BLOCK, CHUNK, MASK = 64, 1024, 0xFFFFFFFF


def mix(state, a, b, c, d, one, two):
    for x, first, second in ((one, 16, 12), (two, 8, 7)):
        state[a] = (state[a] + state[b] + x) & MASK
        turned = state[d] ^ state[a]
        state[d] = (turned >> first | turned << (32 - first)) & MASK
        state[c] = (state[c] + state[d]) & MASK
        turned = state[b] ^ state[c]
        state[b] = (turned >> second | turned << (32 - second)) & MASK


def compress(chaining, block, counter, length, flags):
    words = struct.unpack("<16I", block.ljust(BLOCK, b"\0"))
    state = [*chaining, *IV[:4], counter & MASK, counter >> 32, length, flags]
    for step in range(7):
        for number, places in enumerate(COLUMNS + DIAGONALS):
            mix(state, *places, words[2 * number], words[2 * number + 1])
        words = tuple(words[place] for place in ORDER)
    return [state[i] ^ state[i + 8] for i in range(8)]


def chunk_value(key, data, counter, root):
    chaining, blocks = key, [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)] or [b""]
    for number, block in enumerate(blocks):
        flags = KEYED | (CHUNK_START if number == 0 else 0)
        if number == len(blocks) - 1:
            flags |= CHUNK_END | (ROOT if root else 0)
        chaining = compress(chaining, block, counter, len(block), flags)
    return chaining


def parent_value(key, left, right, root):
    return compress(key, struct.pack("<16I", *left, *right), 0, BLOCK, KEYED | PARENT | (ROOT if root else 0))


def tree(key, data, first, root):
    """The chaining value of a subtree: on the left the largest power of two of chunks that leaves something on the right."""
    chunks = max(1, -(-len(data) // CHUNK))
    if chunks == 1:
        return chunk_value(key, data, first, root)
    left = 1 << ((chunks - 1).bit_length() - 1)
    cut = left * CHUNK
    return parent_value(key, tree(key, data[:cut], first, False), tree(key, data[cut:], first + left, False), root)


def keyed_hash(key, data):
    return struct.pack("<8I", *tree(struct.unpack("<8I", key), bytes(data), 0, True))


# Two lines of what the specification's test vectors say of the keyed mode (input bytes 0, 1, .. 250, 0, ..).
KEY = b"whats the Elvish word for friend"
for length, start in ((0, "92b2b75604ed3c761f9d6f62392c8a92"), (1025, "357dc55de0c7e382c900fd6e320acc04")):
    found = keyed_hash(KEY, bytes(number % 251 for number in range(length)))[:16].hex()
    assert found == start, f"the BLAKE3 of this reader is wrong for {length} bytes: {found}"
