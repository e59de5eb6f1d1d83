"""Section 6 of docs/format.md: which sessions are committed, and the files of a snapshot."""

import json
import os
import re
import stat

from crypto import chunk_id
from errors import Broken, need
from packs import CONTENT, EXTENT, LEAF, STRUCTURE, TREE, Fields, PackCache, content_pack, structure_pack

EXTENTS_MAX = 1024
ZEROS = 1
SUFFIX = ".committed"


# --- the commit register ----------------------------------------------------------------------------------------------------


def registers(region, source):
    """By (snapshot, session): the manifest, or None where this region shows a fence alone."""
    found = {}
    for name in region.names(f"meta/{source}/snap/"):
        second = name.endswith(SUFFIX)
        snapshot, session = name.split("/")[3].removesuffix(SUFFIX).split(".")
        record = region.record(name, source, 4) if second else region.record(name, source, 4, 5)
        need((record["snapshot"], record["session"]) == (snapshot, session), f"{name}: the register of another session")
        if record["kind"] == 4:
            need(record["source"]["uid"] == source, f"{name}: a snapshot of another source")
            found[snapshot, session] = record
        else:
            found.setdefault((snapshot, session), None)
    return found


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
        self.packs = PackCache(region, self.source)
        self.leaves = {}

    def pack(self, name_of, session, number, kind):
        need(session in self.manifest["sessions"], f"{self.manifest['snapshot']}: session {session} is not in the manifest")
        return self.packs.get(name_of(self.source, session, number), session, number, kind)

    def structure(self, reference, chunk_class):
        session, number = reference["pack"]
        named = {field: reference[field] for field in ("stored", "plain", "codec")}
        named["id"] = bytes.fromhex(reference["id"])
        pack = self.pack(structure_pack, session, number, STRUCTURE)
        return pack.chunk_at(reference["offset"], chunk_class, named)

    def leaf(self, reference):
        """The extents of a leaf: (chunk id, (session, pack number) or None, offset, stored, plain, codec, flags)."""
        if reference["id"] not in self.leaves:
            fields = Fields(self.structure(reference, LEAF), f"leaf {reference['id']}")
            (count,) = fields.take("I")
            packs = [fields.take("16sI") for _ in range(count)]
            (count,) = fields.take("I")
            need(count <= EXTENTS_MAX, f"{fields.what}: more than {EXTENTS_MAX} extents")
            extents = []
            for _ in range(count):
                chunk, pack, offset, stored, plain, codec, flags, zeros = fields.take("32sIIIIBB2s")
                need(flags in (0, ZEROS) and not any(zeros), f"{fields.what}: unknown flags")
                if flags == ZEROS:
                    need((pack, offset, stored, codec) == (0, 0, 0, 0), f"{fields.what}: an extent of zeros with a place")
                    place = None
                else:
                    need(pack < len(packs), f"{fields.what}: an extent in a pack that the leaf does not name")
                    place = (packs[pack][0].hex(), packs[pack][1])
                extents.append((chunk, place, offset, stored, plain, codec))
            fields.end()
            # Small files share leaves in tree order, so the last few are enough.
            if len(self.leaves) >= 8:
                del self.leaves[next(iter(self.leaves))]
            self.leaves[reference["id"]] = extents
        return self.leaves[reference["id"]]

    def extent(self, extent):
        """The bytes of an extent, or None for zeros, and its length."""
        chunk, place, offset, stored, plain, codec = extent
        if place is None:
            need(chunk_id(self.region.id_key(self.source), EXTENT, bytes(plain)) == chunk, "an extent of zeros has another chunk's id")
            return None, plain
        pack = self.pack(content_pack, *place, CONTENT)
        return pack.chunk_at(offset, EXTENT, {"id": chunk, "stored": stored, "plain": plain, "codec": codec}), plain

    def entries(self):
        """The tree's entries, in order, each checked to stay inside the target."""
        before, directories = None, set()
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
                before = path
                yield path, entry

    def file(self, entry):
        """The extents of a file as (bytes or None for zeros, length)."""
        size, extent_size, at = entry["size"], entry["extent"], 0
        for reference in entry["leaves"]:
            extents = self.leaf(reference)
            first, end = reference["first"], reference["first"] + reference["count"]
            need(end <= len(extents), f"{entry['path']}: more extents than its leaf has")
            for extent in extents[first:end]:
                data, length = self.extent(extent)
                need(0 < length == min(extent_size, size - at), f"{entry['path']}: an extent at {at} has {length} bytes")
                at += length
                yield data, length
        need(at == size, f"{entry['path']}: the extents have {at} bytes of {size}")


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
        if entry["type"] == "symlink":
            os.symlink(decode_path(entry["target"]), place)
        elif entry["type"] == "file":
            with open(place, "xb") as file:
                for data, length in content.file(entry):
                    if data is None:
                        file.seek(length, os.SEEK_CUR)
                    else:
                        file.write(data)
                file.truncate(entry["size"])
            size += entry["size"]
        else:
            raise Broken(f"{entry['path']}: a type that this reader does not know: {entry['type']}")
        finish(place, entry)
    # A directory's time and mode change, or get in the way, while something is written below it.
    for place, entry in reversed(directories):
        finish(place, entry)
    return count, size


def finish(place, entry):
    if os.geteuid() == 0:
        os.lchown(place, entry["uid"], entry["gid"])
    if entry["type"] != "symlink":
        os.chmod(place, stat.S_IMODE(entry["mode"]))
    os.utime(place, ns=(entry["mtime"] * 1000, entry["mtime"] * 1000), follow_symlinks=False)


def check_snapshots(region):
    """Reads every extent of every snapshot."""
    found = {"snapshots": 0, "files": 0, "bytes": 0}
    for manifest in snapshots(region).values():
        content = Content(region, manifest)
        found["snapshots"] += 1
        for _, entry in content.entries():
            if entry["type"] == "file":
                found["files"] += 1
                found["bytes"] += sum(length for _, length in content.file(entry))
    return found
