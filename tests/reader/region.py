"""Sections 1, 2 and 4 of docs/format.md: a region's objects, the keys that a key file opens, and records."""

import json
import os

import crypto
from crypto import commit_to, derive, hpke_info, hpke_open, open_aead, sha256, u32be
from errors import Broken, need

RECORD_KINDS = {
    1: "source", 2: "session keys", 3: "open", 4: "manifest", 5: "fence", 6: "stream claim", 7: "history",
    8: "tombstone", 9: "moved", 10: "collection", 11: "verified packs", 12: "hold", 13: "audit", 14: "lost", 15: "leaning",
}
FEATURES = {"verified-chunks"}


def parse_json(text, what):
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Broken(f"{what}: no JSON: {error}") from None
    need(isinstance(value, dict), f"{what}: no JSON object")
    return value


def unhex(text, length, what):
    """The bytes of a hex field; `length` of them, unless None."""
    try:
        data = bytes.fromhex(text)
    except (TypeError, ValueError):
        raise Broken(f"{what}: not hex") from None
    need(text == data.hex() and length in (None, len(data)), f"{what}: not {length} bytes of lower-case hex")
    return data


class Region:
    """One region in a directory, opened with a recipient or a writer key."""

    def __init__(self, directory, key_file):
        self.directory = directory
        self.session_secrets, self.source_domains = {}, {}
        with open(key_file, "rb") as file:
            key = parse_json(file.read(), key_file)
        self.open_descriptor(key, key_file)
        kind = key.get("kind")
        need(key.get("version") == 1, f"{key_file}: a version that this reader does not know: {key.get('version')}")
        self.secret = None
        if kind == "breakwater-key":
            self.open_with_recipient(key, key_file)
        elif kind == "breakwater-writer-key":
            keys = {name: unhex(key[name], 32, f"{key_file}: {name}") for name in ("id_key", "structure_root")}
            self.domains = [{**keys, "name": key["domain"], "restore": {}}]
        else:
            raise Broken(f"{key_file}: no key file of Breakwater: kind {kind!r}")

    def need_content(self):
        need(self.secret is not None, "a writer key cannot read back content\nhint: use a recipient key")

    # --- objects ---------------------------------------------------------------------------------------------------------

    def path(self, name):
        return os.path.join(self.directory, *name.split("/"))

    def read(self, name):
        try:
            with open(self.path(name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise Broken(f"{name}: not in this region") from None

    def has(self, name):
        return os.path.isfile(self.path(name))

    def names(self, prefix, start=""):
        """All objects below `prefix`, which ends with a slash or is empty, in the order of their names; those alone whose
        rest begins with `start`."""
        top, found = self.path(prefix.rstrip("/")) if prefix else self.directory, []
        for directory, below, files in os.walk(top):
            if directory == self.directory:
                below[:] = [name for name in below if name not in (".tmp", "lost+found")]
            for file in files:
                found.append(os.path.relpath(os.path.join(directory, file), self.directory).replace(os.sep, "/"))
        return sorted(name for name in found if name.startswith(prefix + start))

    # --- keys --------------------------------------------------------------------------------------------------------------

    def open_descriptor(self, key, key_file):
        raw = self.read("repo/descriptor")
        need(
            sha256(raw).hex() == key.get("fingerprint"),
            f"repo/descriptor: its fingerprint is not the one that {key_file} pins",
        )
        descriptor = parse_json(raw, "repo/descriptor")
        need(
            descriptor.get("format") == "breakwater-repository" and descriptor.get("version") == 1,
            "repo/descriptor: a format or version that this reader does not know",
        )
        unknown = sorted(set(descriptor["features"]["read"]) - FEATURES)
        need(not unknown, f"repo/descriptor: features that this reader does not know: {unknown}")
        self.suite = crypto.SUITES.get(descriptor["suite"])
        need(self.suite is not None, f"repo/descriptor: unknown suite: {descriptor['suite']}")
        need(descriptor["hpke"] == crypto.HPKE_SUITE, f"repo/descriptor: unknown sealing: {descriptor['hpke']}")
        need(descriptor["repository"] == key["repository"], f"{key_file}: for another repository")
        place = parse_json(self.read("repo/region"), "repo/region")
        need(place["repository"] == descriptor["repository"], "repo/region: this place belongs to another repository")
        self.descriptor = descriptor
        self.id = unhex(descriptor["repository"], 16, "repo/descriptor: repository")

    def open_with_recipient(self, key, key_file):
        self.secret = unhex(key["secret"], 32, f"{key_file}: secret")
        self.recipient = crypto.recipient_id(crypto.public_of(self.secret)).hex()
        need(self.recipient == key["recipient"], f"{key_file}: the secret is not that of its recipient")
        root = self.open_root()
        names, newest = self.names("repo/domain/"), {}
        for name in names:
            domain, epoch = name.split("/")[2:]
            newest[domain] = max(newest.get(domain, 0), int(epoch))
        need(newest, "repo/domain: there is no domain")
        self.domains = [self.open_domain(root, f"repo/domain/{domain}/{epoch}") for domain, epoch in newest.items()]

    def open_root(self):
        """The repository's root: out of the newest list of recipients, believed because the descriptor commits to it."""
        numbers = sorted(int(name.split("/")[2]) for name in self.names("repo/recipients/"))
        need(numbers, "repo/recipients: there is no list of recipients")
        name = f"repo/recipients/{numbers[-1]}"
        sealed = parse_json(self.read(name), name)
        root = self.unseal(parse_json(sealed["body"], name)["root"], "repository-root", self.id, name)
        commit_to(root, unhex(self.descriptor["root"], 32, "repo/descriptor: root"), name)
        body = self.signed(root, "recipients-mac", name)
        need(body["repository"] == self.id.hex() and body["number"] == numbers[-1], f"{name}: it says to be another list")
        return root

    def signed(self, root, label, name):
        """The body of an object that the repository's root authenticates."""
        sealed = parse_json(self.read(name), name)
        mac = derive(root, label, sha256(sealed["body"].encode()))
        need(mac.hex() == sealed["mac"], f"{name}: not authenticated by the repository's root")
        return parse_json(sealed["body"], name)

    def open_domain(self, root, name):
        """The keys of a domain: id key, structure root, and the private halves of its restore keys by epoch."""
        body = self.signed(root, "domain-mac", name)
        need(
            name == f"repo/domain/{body['domain']}/{body['epoch']}" and body["repository"] == self.id.hex(),
            f"{name}: it says to be another domain, epoch or repository",
        )
        domain = body["domain"].encode()
        domain_root = self.unseal(body["root"], "domain-root", self.id + u32be(body["epoch"]) + domain, name)
        restore = {}
        for key in body["restore"]:
            secret = self.unseal(key["secret"], "restore-key", self.id + u32be(key["epoch"]) + domain, name)
            need(crypto.public_of(secret).hex() == key["public"], f"{name}: a restore key is not that of its public half")
            restore[key["epoch"]] = secret
        return {
            "name": body["domain"],
            "id_key": derive(domain_root, "chunk-id"),
            "structure_root": derive(domain_root, "structure"),
            "restore": restore,
        }

    def unseal(self, sealed, purpose, context, what):
        """The 32 bytes that one of the values in `sealed` holds for our recipient."""
        mine = [value for value in sealed if value["recipient"] == self.recipient]
        need(mine, f"{what}: not sealed to the recipient of this key: {self.recipient}")
        return self.open_seal(self.secret, mine[0], purpose, context, what)

    def open_seal(self, secret, seal, purpose, context, what):
        """The 32 bytes that are sealed to the public half of `secret`."""
        enc = unhex(seal["enc"], 32, f"{what}: enc")
        value = unhex(seal["sealed"], None, f"{what}: sealed")
        opened = hpke_open(secret, enc, value, hpke_info(purpose, context), what)
        need(len(opened) == 32, f"{what}: a secret has 32 bytes, here are {len(opened)}")
        return opened

    def domain_of(self, source):
        """The domain of a source: the one whose key opens its source record."""
        if source not in self.source_domains:
            name, found = f"meta/{source}/source", self.domains[0]
            if len(self.domains) > 1 and name in self.names(f"meta/{source}/"):
                raw = self.read(name)
                for domain in self.domains:
                    structure = derive(domain["structure_root"], "source", bytes.fromhex(source))
                    if derive(derive(structure, "record", raw[8:40]), "commit") == raw[40:72]:
                        found = domain
            self.source_domains[source] = found
        return self.source_domains[source]

    def structure_key(self, source):
        return derive(self.domain_of(source)["structure_root"], "source", bytes.fromhex(source))

    def id_key(self, source):
        return self.domain_of(source)["id_key"]

    def session_secret(self, source, session):
        """The secret of a session, which only a recipient can open. Both are in hex."""
        if (source, session) not in self.session_secrets:
            below = f"meta/{source}/keys/"
            sealed_again = [name for name in self.names(below) if name.startswith(f"{below}{session}.")]
            sealed_again.sort(key=lambda name: int(name.rsplit(".")[-1]))
            name = sealed_again[-1] if sealed_again else f"{below}{session}"
            record = self.record(name, source, 2)
            need(record["session"] == session, f"{name}: the keys of another session")
            secret = self.domain_of(source)["restore"].get(record["epoch"])
            need(secret is not None, f"{name}: the restore key of epoch {record['epoch']} is not in the domain's record")
            context = self.id + bytes.fromhex(source) + bytes.fromhex(session)
            self.session_secrets[source, session] = self.open_seal(secret, record, "session-secret", context, name)
        return self.session_secrets[source, session]

    # --- records -----------------------------------------------------------------------------------------------------------

    def record(self, name, source, *kinds):
        """The JSON of the record `name`, which must be of one of `kinds`; its own kind is in the field `kind`."""
        raw = self.read(name)
        need(len(raw) >= 72 + 16 and raw[:4] == b"BWRC", f"{name}: no record")
        need(raw[4] == 1, f"{name}: unknown version: {raw[4]}")
        need(raw[6] in kinds, f"{name}: a record of kind {RECORD_KINDS.get(raw[6], raw[6])}, which does not belong here")
        need(raw[7] == 0, f"{name}: the byte at 7 must be 0")
        key = derive(self.structure_key(source), "record", raw[8:40])
        commit_to(key, raw[40:72], name)
        plain = open_aead(raw[5], key, crypto.ZERO_NONCE, raw[72:], raw[:8] + self.id + name.encode(), name)
        return {**parse_json(plain, name), "kind": raw[6]}

    def sources(self):
        """The uids of all sources that have a source record, with that record."""
        found = {}
        for name in self.names("meta/"):
            parts = name.split("/")
            if len(parts) == 3 and parts[2] == "source":
                record = self.record(name, parts[1], 1)
                need(record["uid"] == parts[1], f"{name}: the record of another source")
                found[parts[1]] = record
        return found
