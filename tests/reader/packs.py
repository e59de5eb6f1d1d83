"""Section 5 of docs/format.md: packs, their footers and frames."""

import struct

import crypto
from chunks import decode
from crypto import chunk_id, commit_to, crc32c, derive, open_aead, u32be
from errors import need
from region import parse_json

EXTENT, LEAF, TREE, LOG, LOG_INDEX, PAGE_RUN, CHUNK, REFERENCES = 1, 2, 3, 4, 5, 6, 7, 8
CONTENT, STRUCTURE = 1, 2
HEADER, FRAME_HEADER, TRAILER = 128, 24, 24
FRAMES_MAX = 65536


def pack_name(source, kind, session, number):
    return f"{'data' if kind == CONTENT else 'meta'}/{source}/pack/{session}-{number:08x}"


class Fields:
    """Reads little-endian fields of a structure from its begin to its end."""

    def __init__(self, data, what):
        self.data, self.at, self.what = data, 0, what

    def take(self, pattern):
        pattern = "<" + pattern
        end = self.at + struct.calcsize(pattern)
        need(end <= len(self.data), f"{self.what}: it ends too early")
        values = struct.unpack(pattern, self.data[self.at : end])
        self.at = end
        return values

    def end(self):
        need(self.at == len(self.data), f"{self.what}: {len(self.data) - self.at} bytes too many")


class Pack:
    """A pack of `source` under its object name, with header and footer verified; frames are read when asked for."""

    def __init__(self, region, source, name):
        self.region, self.source, self.name = region, source, name
        self.raw = region.read(name)
        need(len(self.raw) >= HEADER + TRAILER, f"{name}: too short for a pack")
        self.read_header()
        self.read_footer()

    def read_header(self):
        fields = Fields(self.raw[:HEADER], f"{self.name}: header")
        magic, version, self.suite, self.kind, flags = fields.take("4sBBBB")
        repository, session, self.number, zeros = fields.take("16s16sI4s")
        self.salt, self.commitment, more_zeros, crc = fields.take("32s32s12sI")
        fields.end()
        need(magic == b"BWPK", f"{self.name}: no pack")
        need(crc == crc32c(self.raw[: HEADER - 4]), f"{self.name}: the header's checksum is wrong")
        need((version, flags) == (1, 0), f"{self.name}: unknown version or flags")
        need(not any(zeros + more_zeros), f"{self.name}: header bytes that must be 0 are not")
        need(repository == self.region.id, f"{self.name}: a pack of another repository")
        self.session = session.hex()

    def read_footer(self):
        trailer = Fields(self.raw[-TRAILER:], f"{self.name}: trailer")
        offset, length, crc, version, zeros, magic = trailer.take("QIIB3s4s")
        need(magic == b"BWPT" and version == 1 and not any(zeros), f"{self.name}: no trailer of a pack")
        need(HEADER <= offset and offset + length + TRAILER == len(self.raw), f"{self.name}: the footer is not before the trailer")
        self.footer_offset = offset
        footer = self.raw[offset : offset + length]
        need(len(footer) >= 64 + 16 and crc == crc32c(footer), f"{self.name}: the footer's checksum is wrong")
        key = derive(self.region.structure_key(self.source), "footer", footer[:32])
        commit_to(key, footer[32:64], f"{self.name}: footer")
        aad, what = self.region.id + self.name.encode(), f"{self.name}: footer"
        plain = open_aead(self.suite, key, crypto.ZERO_NONCE, footer[64:], aad, what)

        fields = Fields(plain, f"{self.name}: footer")
        (count,) = fields.take("I")
        self.origins = [fields.take("16sIBB2s32s32s") for _ in range(count)]
        (count,) = fields.take("I")
        need(count <= FRAMES_MAX, f"{self.name}: more than {FRAMES_MAX} frames")
        names = ("id", "origin", "number", "offset", "stored", "plain", "codec", "class")
        self.frames = [dict(zip(names, fields.take("32sIIIIIBB2x"))) for _ in range(count)]
        (length,) = fields.take("I")
        self.extra = parse_json(fields.take(f"{length}s")[0], f"{self.name}: footer")
        fields.end()
        self.by_offset = {frame["offset"]: frame for frame in self.frames}

    def key_of(self, origin):
        """Suite and key of the pack that a frame was first written to."""
        session, number, suite, kind, zeros, salt, commitment = self.origins[origin]
        what = f"{self.name}: origin {session.hex()}-{number:08x}"
        need(not any(zeros), f"{what}: bytes that must be 0 are not")
        if kind == CONTENT:
            secret = self.region.session_secret(self.source, session.hex())
        else:
            need(kind == STRUCTURE, f"{what}: unknown kind of key: {kind}")
            secret = self.region.structure_key(self.source)
        key = derive(secret, "pack", u32be(number) + salt)
        commit_to(key, commitment, what)
        return suite, key

    def chunk(self, frame):
        """The verified plaintext of a frame of the footer."""
        what = f"{self.name}: frame at {frame['offset']}"
        start = frame["offset"] + FRAME_HEADER
        end = start + frame["stored"]
        need(HEADER <= frame["offset"] and end <= self.footer_offset, f"{what}: not between header and footer")
        header, sealed = self.raw[frame["offset"] : start], self.raw[start:end]
        magic, number, stored, zeros, crc, header_crc = struct.unpack("<4sII4sII", header)
        need(magic == b"BWFR" and not any(zeros), f"{what}: no frame")
        need(header_crc == crc32c(header[:20]), f"{what}: the header's checksum is wrong")
        need((number, stored) == (frame["number"], frame["stored"]), f"{what}: not the frame that the footer names")
        need(crc == crc32c(sealed), f"{what}: the checksum is wrong")
        padding = self.raw[end : end + -(FRAME_HEADER + stored) % 16]
        need(not any(padding), f"{what}: the padding is not zeros")

        need(frame["origin"] < len(self.origins), f"{what}: its origin is not in the footer")
        session, pack_number = self.origins[frame["origin"]][:2]
        aad = (
            self.region.id + session + u32be(pack_number) + u32be(number)
            + bytes([frame["class"], frame["codec"]]) + u32be(frame["plain"]) + frame["id"]
        )
        plain = open_aead(*self.key_of(frame["origin"]), bytes(8) + u32be(number), sealed, aad, what)
        plain = decode(frame["codec"], plain, frame["plain"], what)
        found = chunk_id(self.region.suite, self.region.id_key(self.source), frame["class"], plain)
        need(found == frame["id"], f"{what}: the bytes are not those of its chunk id")
        return plain

    def chunk_at(self, offset, chunk_class, named):
        """The plaintext of the frame whose header lies at `offset` and which a reference describes by the fields `named`."""
        frame = self.by_offset.get(offset)
        need(frame is not None, f"{self.name}: no frame at {offset}")
        same = frame["class"] == chunk_class and all(frame[field] == value for field, value in named.items())
        need(same, f"{self.name}: frame at {offset}: not the one that is referenced")
        return self.chunk(frame)


class PackCache:
    """The packs of one source that were opened last, and where the frames of packs are that are not there any more."""

    def __init__(self, region, source, packs_max=4):
        self.region, self.source, self.packs_max, self.packs = region, source, packs_max, {}

    def get(self, session, number, kind):
        name = pack_name(self.source, kind, session, number)
        if name not in self.packs:
            pack = Pack(self.region, self.source, name)
            need((pack.session, pack.number, pack.kind) == (session, number, kind), f"{name}: the header says another name")
            while len(self.packs) >= self.packs_max:
                del self.packs[next(iter(self.packs))]
            self.packs[name] = pack
        return self.packs[name]

    def find(self, session, number, kind, offset):
        """The pack that holds the frame which references look for at `offset` of this pack, and where it is there."""
        if self.region.has(pack_name(self.source, kind, session, number)):
            return self.get(session, number, kind), offset
        moved = self.moved(session, number, kind, [[session, number], offset], seen=set())
        need(moved is not None, f"{pack_name(self.source, kind, session, number)}: not in this region, nor moved to another pack")
        return moved

    def moved(self, session, number, kind, reference, seen):
        word = "data" if kind == CONTENT else "meta"
        for name in self.region.names(f"meta/{self.source}/moved/", f"{word}-{session}-{number:08x}."):
            if name in seen:
                continue
            seen.add(name)
            record = self.region.record(name, self.source, 9)
            need(name.endswith("." + record["mover"]) and record["pack"] == [session, number], f"{name}: of another pack")
            for to_session, to_number in record["to"]:
                if self.region.has(pack_name(self.source, kind, to_session, to_number)):
                    pack = self.get(to_session, to_number, kind)
                    if reference in pack.extra.get("from", []):
                        return pack, pack.frames[pack.extra["from"].index(reference)]["offset"]
                elif found := self.moved(to_session, to_number, kind, reference, seen):
                    return found
        return None


def check_packs(region):
    """Verifies every frame of every pack of structure and of content; how many packs."""
    count = 0
    for name in region.names("meta/") + region.names("data/"):
        parts = name.split("/")
        if len(parts) == 4 and parts[2] == "pack":
            session, number = parts[3].split("-")
            kind = CONTENT if parts[0] == "data" else STRUCTURE
            pack = PackCache(region, parts[1]).get(session, int(number, 16), kind)
            for frame in pack.frames:
                pack.chunk(frame)
            count += 1
    return count
