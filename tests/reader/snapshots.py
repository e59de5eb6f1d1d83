"""Section 6 of docs/format.md: which sessions are committed, and the files of a snapshot."""

import json
import os
import re
import stat

from crypto import chunk_id
from errors import Broken, need
from packs import CHUNK, CONTENT, EXTENT, FRAME_HEADER, LEAF, PAGE_RUN, REFERENCES, STRUCTURE, TREE, Fields, PackCache

EXTENTS_MAX = 1024
PATCHES_MAX = 256
ZEROS, PATCHED = 1, 2
COMMITTED, DELETED = ".committed", ".deleted"
DEVICES = {"char": stat.S_IFCHR, "block": stat.S_IFBLK}


# --- the commit register ----------------------------------------------------------------------------------------------------


def registers(region, source):
    """By (snapshot, session): the manifest, or None where this region shows a fence alone. Deleted ones are not there."""
    found, deleted = {}, set()
    for name in region.names(f"meta/{source}/snap/"):
        last = name.split("/")[3]
        suffix = next((suffix for suffix in (COMMITTED, DELETED) if last.endswith(suffix)), "")
        snapshot, session = last.removesuffix(suffix).split(".")
        record = region.record(name, source, *{COMMITTED: (4,), DELETED: (8,)}.get(suffix, (4, 5)))
        need((record["snapshot"], record["session"]) == (snapshot, session), f"{name}: the register of another session")
        if record["kind"] == 4:
            need(record["source"]["uid"] == source, f"{name}: a snapshot of another source")
            found[snapshot, session] = record
        elif record["kind"] == 8:
            deleted.add((snapshot, session))
        else:
            found.setdefault((snapshot, session), None)
    return {names: manifest for names, manifest in found.items() if names not in deleted}


def snapshots(region):
    """By snapshot: the manifest of the session that is the snapshot."""
    winners = {}
    for source in region.sources():
        for (snapshot, _), manifest in registers(region, source).items():
            if manifest is None:
                continue
            rank = (manifest["attempt"], manifest["session"])
            before = winners.get(snapshot)
            if before is None or rank < (before["attempt"], before["session"]):
                winners[snapshot] = manifest
    return winners


def list_snapshots(region):
    fields = ("snapshot", "session", "job", "attempt", "started", "finished", "consistent_at", "start", "end", "totals")
    for _, manifest in sorted(snapshots(region).items()):
        yield {**{field: manifest[field] for field in fields}, **{f"source_{k}": v for k, v in manifest["source"].items()}}


def find_snapshot(region, snapshot):
    manifest = snapshots(region).get(snapshot)
    if manifest is None:
        raise Broken(f"{snapshot}: no such snapshot in this region")
    return manifest


# --- frames by reference ----------------------------------------------------------------------------------------------------


class Content:
    """What a manifest leads to."""

    def __init__(self, region, manifest):
        self.region, self.manifest, self.source = region, manifest, manifest["source"]["uid"]
        self.homes = {session: one["source"] for one in manifest.get("leans", []) for session in one["sessions"]}
        self.packs = {}
        self.leaves, self.needed = {}, {}

    def chunk(self, kind, reference, chunk_class):
        """The plaintext of the frame that `reference` describes: pack, offset, and what the footer must say of it."""
        session, number = reference["pack"]
        need(session in self.manifest["sessions"], f"{self.manifest['snapshot']}: session {session} is not in the manifest")
        named = {field: reference[field] for field in ("id", "stored", "plain", "codec")}
        if chunk_class != REFERENCES:
            frame = (reference["offset"], reference["offset"] + FRAME_HEADER + reference["stored"])
            self.needed.setdefault((kind, session, number), set()).add(frame)
        pack, offset = self.packs_of(kind, session).find(session, number, kind, reference["offset"])
        return pack.chunk_at(offset, chunk_class, named)

    def packs_of(self, kind, session):
        """The packs of the source that the session belongs to: content may be another source's."""
        source = self.homes.get(session, self.source) if kind == CONTENT else self.source
        return self.packs.setdefault(source, PackCache(self.region, source))

    def structure(self, reference, chunk_class):
        return self.chunk(STRUCTURE, {**reference, "id": bytes.fromhex(reference["id"])}, chunk_class)

    def leaf(self, reference):
        """The extents of a leaf: references like those to structure, `None` as pack for zeros, each with its `patches`."""
        if reference["id"] not in self.leaves:
            fields = Fields(self.structure(reference, LEAF), f"leaf {reference['id']}")
            (count,) = fields.take("I")
            packs = [(session.hex(), number) for session, number in (fields.take("16sI") for _ in range(count))]
            (count,) = fields.take("I")
            need(count <= EXTENTS_MAX, f"{fields.what}: more than {EXTENTS_MAX} extents")
            extents = [self.leaf_line(fields, packs, (0, ZEROS, PATCHED)) for _ in range(count)]
            if any(extent["flags"] == PATCHED for extent in extents):
                self.leaf_patches(fields, packs, extents)
            fields.end()
            # Small files share leaves in tree order, so the last few are enough.
            if len(self.leaves) >= 8:
                del self.leaves[next(iter(self.leaves))]
            self.leaves[reference["id"]] = extents
        return self.leaves[reference["id"]]

    @staticmethod
    def leaf_line(fields, packs, known):
        chunk, pack, offset, stored, plain, codec, flags, zeros = fields.take("32sIIIIBB2s")
        need(flags in known and not any(zeros), f"{fields.what}: unknown flags")
        if flags == ZEROS:
            need((pack, offset, stored, codec) == (0, 0, 0, 0), f"{fields.what}: an extent of zeros with a place")
        else:
            need(pack < len(packs), f"{fields.what}: an extent in a pack that the leaf does not name")
        place = None if flags == ZEROS else packs[pack]
        line = {"id": chunk, "pack": place, "offset": offset, "stored": stored, "plain": plain, "codec": codec}
        return {**line, "flags": flags, "patches": []}

    def leaf_patches(self, fields, packs, extents):
        (count,) = fields.take("I")
        runs, before = [self.leaf_line(fields, packs, (0,)) for _ in range(count)], 0
        (count,) = fields.take("I")
        for _ in range(count):
            extent, offset, length, run, start = fields.take("IIIII")
            need(before <= extent < len(extents) and run < len(runs), f"{fields.what}: a patch of nothing")
            before, patched = extent, extents[extent]
            inside = 0 < length and offset + length <= patched["plain"] and start + length <= runs[run]["plain"]
            need(patched["flags"] == PATCHED and inside, f"{fields.what}: a patch that reaches beyond its extent or run")
            patched["patches"].append((offset, length, runs[run], start))
        for extent in extents:
            need((extent["flags"] == PATCHED) == bool(extent["patches"]), f"{fields.what}: a patched extent without patches")
            need(len(extent["patches"]) <= PATCHES_MAX, f"{fields.what}: more than {PATCHES_MAX} patches of an extent")

    def extent(self, extent, chunk_class):
        """The bytes of an extent, or None for zeros."""
        if extent["pack"] is None:
            found = chunk_id(self.region.suite, self.region.id_key(self.source), chunk_class, bytes(extent["plain"]))
            need(found == extent["id"], "an extent of zeros has another chunk's id")
            return None
        plain = bytearray(self.chunk(CONTENT, extent, chunk_class))
        for offset, length, run, start in extent["patches"]:
            plain[offset : offset + length] = self.chunk(CONTENT, run, PAGE_RUN)[start : start + length]
        return bytes(plain)

    def entries(self):
        """The tree's entries, in order, each checked to stay inside the target."""
        before, directories, files = None, set(), set()
        for reference in self.manifest["tree"]:
            text = self.structure(reference, TREE)
            need(text.endswith(b"\n"), "the tree: a frame does not end with a line's end")
            for line in text.splitlines():
                entry = json.loads(line)
                path = decode_path(entry["path"])
                check_path(path)
                need(before is None or before < path, f"the tree: out of order: {entry['path']}")
                above = path.rpartition(b"/")[0]
                need(not above or above in directories, f"the tree: not below a directory of the tree: {entry['path']}")
                if entry["type"] == "dir":
                    directories.add(path)
                elif entry["type"] == "file":
                    files.add(path)
                elif entry["type"] == "hardlink":
                    need(decode_path(entry["target"]) in files, f"the tree: a link to no file before it: {entry['path']}")
                before = path
                yield path, entry

    def file(self, entry):
        """The extents of a file as (bytes or None for zeros, length)."""
        size, extent_size, at = entry["size"], entry["extent"], 0
        chunk_class = EXTENT if extent_size else CHUNK
        for reference in entry["leaves"]:
            extents = self.leaf(reference)
            first, end = reference["first"], reference["first"] + reference["count"]
            need(end <= len(extents), f"{entry['path']}: more extents than its leaf has")
            for extent in extents[first:end]:
                data, length = self.extent(extent, chunk_class), extent["plain"]
                wanted = min(extent_size, size - at) if extent_size else length
                need(0 < length == wanted, f"{entry['path']}: an extent at {at} has {length} bytes")
                at += length
                yield data, length
        need(at == size, f"{entry['path']}: the extents have {at} bytes of {size}")

    def references(self):
        """By (kind, session, number): the ranges of the packs that the manifest says it needs."""
        found, before = {}, None
        for reference in self.manifest["references"]:
            fields = Fields(self.structure(reference, REFERENCES), "the references")
            while fields.at < len(fields.data):
                kind, session, number, count = fields.take("B16sII")
                pack = (kind, session.hex(), number)
                need(count > 0 and (before is None or before < pack), f"the references: out of order: {pack}")
                found[pack], before = [fields.take("II") for _ in range(count)], pack
                ends = [(0, 0), *((offset, offset + length) for offset, length in found[pack])]
                need(all(one[1] < two[0] for one, two in zip(ends, ends[1:])), f"the references: ranges overlap: {pack}")
        return found


def decode_path(text):
    need(re.fullmatch(r"(?:[ -$&-~]|%[0-9A-Fa-f]{2})*", text) is not None, f"the tree: not a path: {text!r}")
    return re.sub(rb"%(..)", lambda found: bytes.fromhex(found[1].decode()), text.encode())


def check_path(path):
    parts = path.split(b"/")
    good = all(part not in (b"", b".", b"..") for part in parts) and b"\0" not in path
    need(good, f"the tree: a path that leaves the target: {path!r}")


# --- restore and check --------------------------------------------------------------------------------------------------------


def restore(region, manifest, target):
    """Writes the files below `target`; how many entries, and bytes."""
    os.makedirs(target, exist_ok=True)
    need(not os.listdir(target), f"{target}: not empty")
    content, top, directories, count, size = Content(region, manifest), os.fsencode(target), [], 0, 0
    for path, entry in content.entries():
        place, count = os.path.join(top, path), count + 1
        if entry["type"] == "dir":
            os.mkdir(place)
            directories.append((place, entry))
            continue
        if entry["type"] == "hardlink":
            os.link(os.path.join(top, decode_path(entry["target"])), place)
            continue
        if entry["type"] == "file":
            write_file(content, entry, place)
            size += entry["size"]
        else:
            make_node(entry, place)
        finish(place, entry)
    # A directory's time and mode change, or get in the way, while something is written below it.
    for place, entry in reversed(directories):
        finish(place, entry)
    return count, size


def write_file(content, entry, place):
    with open(place, "xb") as file:
        for data, length in content.file(entry):
            if data is None:
                file.seek(length, os.SEEK_CUR)
            else:
                file.write(data)
        file.truncate(entry["size"])


def make_node(entry, place):
    """Whatever is neither a file nor a directory."""
    kind = entry["type"]
    if kind == "symlink":
        os.symlink(decode_path(entry["target"]), place)
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "socket":
        os.mknod(place, stat.S_IFSOCK | 0o600)
    elif kind in DEVICES:
        os.mknod(place, DEVICES[kind] | 0o600, os.makedev(*entry["rdev"]))
    else:
        raise Broken(f"{entry['path']}: a type that this reader does not know: {kind}")


def finish(place, entry):
    if os.geteuid() == 0:
        os.lchown(place, entry["uid"], entry["gid"])
    if entry["type"] != "symlink":
        os.chmod(place, stat.S_IMODE(entry["mode"]))
    for name, value in entry.get("xattrs", []):
        os.setxattr(place, decode_path(name), decode_path(value), follow_symlinks=False)
    moment = entry["mtime"] * 1000 + entry.get("ns", 0)
    os.utime(place, ns=(moment, moment), follow_symlinks=False)


def check_snapshots(region):
    """Reads every extent of every snapshot, and compares what it needed with what its references say."""
    found = {"snapshots": 0, "files": 0, "bytes": 0}
    for manifest in snapshots(region).values():
        content = Content(region, manifest)
        found["snapshots"] += 1
        for _, entry in content.entries():
            if entry["type"] == "file":
                found["files"] += 1
                found["bytes"] += sum(length for _, length in content.file(entry))
        check_references(content)
    return found


def check_references(content):
    """The references of a snapshot name exactly the packs that it needs, and cover every frame."""
    snapshot, named, needed = content.manifest["snapshot"], content.references(), content.needed
    odd = sorted(named.keys() ^ needed.keys())
    need(not odd, f"{snapshot}: packs that its references name and it does not need, or the other way round: {odd}")
    for pack, frames in needed.items():
        for start, end in frames:
            covered = any(first <= start and end <= first + length for first, length in named[pack])
            need(covered, f"{snapshot}: its references leave out the frame at {start} of {pack}")
