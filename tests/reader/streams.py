"""Section 7 of docs/format.md: generations of a stream, and log bytes from segments and tails."""

import json

from crypto import sha256, u32be, u64be
from errors import need
from packs import CONTENT, LOG, LOG_INDEX, Pack

NO_CHAIN = bytes(32).hex()


def chain_of(footer):
    """The chain that follows from a footer's own fields."""
    start, end = footer["start"], footer["end"]
    return sha256(
        bytes.fromhex(footer["previous"]) + u32be(start["branch"]) + u64be(start["offset"]) + u64be(end["offset"])
        + bytes.fromhex(footer["sha256"])
    ).hex()


class Piece:
    """A segment or a tail, known by its name until it is read."""

    def __init__(self, region, source, name, is_segment):
        self.region, self.source, self.name, self.is_segment = region, source, name, is_segment
        directory, place = name.split("/")[3:]
        self.session = directory.split(".")[1]
        words = place.split("-")
        self.branch, self.start, self.end = (int(word, 16) for word in words[:3])
        self.clock = words[3] if len(words) > 3 else None

    def read(self):
        """The footer's fields and the log bytes, verified."""
        pack = Pack(self.region, self.source, self.name)
        need((pack.session, pack.kind) == (self.session, CONTENT), f"{self.name}: not a pack of its generation's session")
        footer = pack.extra
        start, end = footer["start"], footer["end"]
        says = (start["branch"], start["offset"], end["branch"], end["offset"])
        need(says == (self.branch, self.start, self.branch, self.end), f"{self.name}: the footer says another name")
        log, index = b"", b""
        for frame in pack.frames:
            chunk = pack.chunk(frame)
            need(frame["class"] in (LOG, LOG_INDEX), f"{self.name}: a frame of class {frame['class']} in a log")
            if frame["class"] == LOG:
                log += chunk
            else:
                index += chunk
        need(len(log) == self.end - self.start, f"{self.name}: {len(log)} log bytes instead of {self.end - self.start}")
        need(sha256(log).hex() == footer["sha256"], f"{self.name}: the log bytes are not those of its SHA-256")
        need(chain_of(footer) == footer["chain"], f"{self.name}: the chain does not follow from its fields")
        self.check_index(footer, index)
        return footer, log

    def check_index(self, footer, index):
        lines = [json.loads(line) for line in index.splitlines()]
        need(all(line["k"] in ("c", "a", "p") for line in lines), f"{self.name}: an unknown event in the index")
        need([line["s"] for line in lines] == sorted(line["s"] for line in lines), f"{self.name}: the index is out of order")
        clocks = [line["t"] for line in lines if line["k"] == "c"]
        need(len(clocks) == footer["commits"], f"{self.name}: {len(clocks)} commits instead of {footer['commits']}")
        ends = (min(clocks), max(clocks)) if clocks else (None, None)
        need(ends == (footer["first_commit"], footer["last_commit"]), f"{self.name}: first or last commit is wrong")


class Generation:
    """A claim of a stream with what was written under it."""

    def __init__(self, region, source, name):
        self.name = name
        directory = name.split("/")[3]
        claim = region.record(name, source, 6)
        need(f"{claim['generation']:08x}.{claim['session']}" == directory, f"{name}: the claim of another generation")
        self.rank = (claim["generation"], claim["session"])
        self.continues = claim["continues"]
        segments = region.names(f"data/{source}/log/{directory}/")
        tails = region.names(f"meta/{source}/tail/{directory}/")
        self.segments = [Piece(region, source, name, True) for name in segments]
        tails = [Piece(region, source, name, False) for name in tails]
        self.marks = [tail for tail in tails if tail.clock is not None]
        self.tails = [tail for tail in tails if tail.clock is None]

    def first(self):
        """Where it begins to be the stream: (branch, offset)."""
        if self.continues is None:
            return (0, 0)
        position = self.continues["position"]
        return (position["branch"], position["offset"])


def generations(region, source):
    """Those that the newest leads to, newest first."""
    claims = {}
    for name in region.names(f"meta/{source}/stream/"):
        generation = Generation(region, source, name)
        claims[generation.rank] = generation
    path, at = [], max(claims, default=None)
    while at is not None:
        need(at in claims, f"{source}: the stream continues a generation that is not here: {at[0]:08x}.{at[1]}")
        generation = claims[at]
        path.append(generation)
        after = generation.continues
        before, at = at, None if after is None else (after["generation"], after["session"])
        need(at is None or at < before, f"{generation.name}: it continues a generation that is not older")
    return path


def lineage(region, source, branch):
    """The branches that lead to `branch`, oldest first: (branch, offset where the next one left it or None)."""
    path, left_at = [], None
    histories = set(region.names(f"meta/{source}/history/"))
    while True:
        path.append((branch, left_at))
        name = f"meta/{source}/history/{branch:08x}"
        if name not in histories:
            return list(reversed(path))
        record = region.record(name, source, 7)
        need(record["branch"] == branch and record["parent"] < branch, f"{name}: the history of another branch")
        branch, left_at = record["parent"], record["offset"]


def pieces_of(path, branch):
    """(end of what counts, piece) of all that may be read of a branch."""
    found, limit = [], None
    for generation in path:
        for piece in generation.segments + generation.tails:
            end = (piece.branch, piece.end) if limit is None else min((piece.branch, piece.end), limit)
            # What a piece holds before the position that its generation continues was compared, and counts.
            if piece.branch == branch == end[0] and piece.start < end[1]:
                found.append((end[1], piece))
        limit = generation.first() if limit is None else min(limit, generation.first())
    return found


def read_log(region, source, branch, start, end, out):
    """Writes the bytes of `branch` (and of those it came from) in start..end; the names of the pieces that held them."""
    need(start < end, f"no bytes from {start} to {end}")
    path, names, at = generations(region, source), [], start
    need(path, f"{source}: no stream here")
    for step, left_at in lineage(region, source, branch):
        upto = end if left_at is None else min(end, left_at)
        pieces = pieces_of(path, step)
        while at < upto:
            covering = [(reach, piece) for reach, piece in pieces if piece.start <= at < reach]
            need(covering, f"{source}: no log of branch {step} at offset {at:#x}")
            # A segment rather than a tail, and of those the one that reaches farthest.
            reach, piece = max(covering, key=lambda found: (found[1].is_segment, found[0]))
            _, log = piece.read()
            reach = min(reach, upto)
            out.write(log[at - piece.start : reach - piece.start])
            names.append(piece.name)
            at = reach
    return names


class Chains:
    """The chain at every place where a piece of the generations up to now ends."""

    def __init__(self, region, source):
        self.at, self.left_at = {}, {}
        for name in region.names(f"meta/{source}/history/"):
            record = region.record(name, source, 7)
            self.left_at[record["branch"]] = (record["parent"], record["offset"])

    def take(self, piece, allowed):
        """Verifies a piece and that it follows one of the chains `allowed`; its own chain."""
        footer, _ = piece.read()
        need(footer["previous"] in allowed, f"{piece.name}: it does not follow the piece before it")
        self.at.setdefault((piece.branch, piece.end), set()).add(footer["chain"])
        return footer["chain"]

    def before(self, piece):
        """The chains that may stand before a piece: those where it starts, or where its branch left another one."""
        here = self.at.get((piece.branch, piece.start))
        return here or self.at.get(self.left_at.get(piece.branch), set())

    def check(self, generation):
        continued = {NO_CHAIN} if generation.continues is None else {NO_CHAIN, generation.continues["chain"]}
        segments, one, chain = sorted(generation.segments, key=lambda piece: (piece.branch, piece.start)), None, None
        for segment in segments:
            if one is None:
                allowed = continued | self.before(segment)
            else:
                gap = one.branch == segment.branch and one.end != segment.start
                need(not gap, f"{segment.name}: it does not begin where the segment before it ends")
                allowed = {chain}
            one, chain = segment, self.take(segment, allowed)
        for tail in sorted(generation.tails, key=lambda piece: (piece.branch, piece.start)):
            first = generation.first() == (tail.branch, tail.start)
            self.take(tail, self.before(tail) | (continued if first else set()))
        for mark in generation.marks:
            footer, _ = mark.read()
            need(mark.start == mark.end and footer["watermarks"], f"{mark.name}: no watermark")
            need(footer["previous"] == NO_CHAIN, f"{mark.name}: it must stand outside the chain")


def check_streams(region):
    """Reads every segment and tail of the generations that are the stream."""
    found = {"generations": 0, "segments": 0, "tails": 0}
    for source in region.sources():
        chains = Chains(region, source)
        for generation in reversed(generations(region, source)):
            chains.check(generation)
            found["generations"] += 1
            found["segments"] += len(generation.segments)
            found["tails"] += len(generation.tails) + len(generation.marks)
    return found
