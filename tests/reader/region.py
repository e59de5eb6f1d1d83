"""Sections 1, 2 and 4 of docs/format.md: a region's objects, the keys that a key file opens, and records."""

import json
import os

import crypto
from crypto import commit_to, derive, hpke_info, hpke_open, open_aead, sha256, u32be
from errors import Broken, need

RECORD_KINDS = {1: "source", 2: "session keys", 3: "open", 4: "manifest", 5: "fence", 6: "stream claim", 7: "history"}


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
        self.session_secrets = {}
        with open(key_file, "rb") as file:
            key = parse_json(file.read(), key_file)
        self.open_descriptor(key, key_file)
        kind = key.get("kind")
        need(key.get("version") == 1, f"{key_file}: a version that this reader does not know: {key.get('version')}")
        self.secret = None
        if kind == "breakwater-key":
            self.open_with_recipient(key, key_file)
        elif kind == "breakwater-writer-key":
            self.id_key = unhex(key["id_key"], 32, f"{key_file}: id_key")
            self.structure_root = unhex(key["structure_root"], 32, f"{key_file}: structure_root")
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

    def names(self, prefix):
        """All objects below `prefix`, which ends with a slash or is empty, in the order of their names."""
        top, found = self.path(prefix.rstrip("/")) if prefix else self.directory, []
        for directory, below, files in os.walk(top):
            if directory == self.directory:
                below[:] = [name for name in below if name not in (".tmp", "lost+found")]
            for file in files:
                found.append(os.path.relpath(os.path.join(directory, file), self.directory).replace(os.sep, "/"))
        return sorted(found)

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
        unknown = descriptor["features"]["read"]
        need(not unknown, f"repo/descriptor: features that this reader does not know: {unknown}")
        need(descriptor["suite"] == "standard", f"repo/descriptor: unknown suite: {descriptor['suite']}")
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
        root = self.unseal(self.descriptor["root"], "repository-root", self.id, "repo/descriptor")

        domains = self.names("repo/domain/")
        need(len(domains) == 1, f"repo/domain: one domain with one epoch is what this reader knows, here are {len(domains)}")
        name = domains[0]
        sealed = parse_json(self.read(name), name)
        mac = derive(root, "domain-mac", sha256(sealed["body"].encode()))
        need(mac.hex() == sealed["mac"], f"{name}: not authenticated by the repository's root")
        body = parse_json(sealed["body"], name)
        need(
            name == f"repo/domain/{body['domain']}/{body['epoch']}" and body["repository"] == self.id.hex(),
            f"{name}: it says to be another domain, epoch or repository",
        )
        context = self.id + u32be(body["epoch"]) + body["domain"].encode()
        domain_root = self.unseal(body["root"], "domain-root", context, name)
        self.id_key = derive(domain_root, "chunk-id")
        self.structure_root = derive(domain_root, "structure")

    def unseal(self, sealed, purpose, context, what):
        """The 32 bytes that one of the values in `sealed` holds for our recipient."""
        mine = [value for value in sealed if value["recipient"] == self.recipient]
        need(mine, f"{what}: not sealed to the recipient of this key: {self.recipient}")
        enc = unhex(mine[0]["enc"], 32, f"{what}: enc")
        value = unhex(mine[0]["sealed"], None, f"{what}: sealed")
        opened = hpke_open(self.secret, enc, value, hpke_info(purpose, context), what)
        need(len(opened) == 32, f"{what}: a secret has 32 bytes, here are {len(opened)}")
        return opened

    def structure_key(self, source):
        return derive(self.structure_root, "source", bytes.fromhex(source))

    def session_secret(self, source, session):
        """The secret of a session, which only a recipient can open. Both are in hex."""
        if (source, session) not in self.session_secrets:
            name = f"meta/{source}/keys/{session}"
            record = self.record(name, source, 2)
            need(record["session"] == session, f"{name}: the keys of another session")
            context = self.id + bytes.fromhex(source) + bytes.fromhex(session)
            opened = self.unseal(record["secret"], "session-secret", context, name)
            self.session_secrets[source, session] = opened
        return self.session_secrets[source, session]

    # --- records -----------------------------------------------------------------------------------------------------------

    def record(self, name, source, *kinds):
        """The JSON of the record `name`, which must be of one of `kinds`; its own kind is in the field `kind`."""
        raw = self.read(name)
        need(len(raw) >= 72 + 16 and raw[:4] == b"BWRC", f"{name}: no record")
        need(raw[4] == 1 and raw[5] == crypto.SUITE_STANDARD, f"{name}: unknown version or suite: {raw[4]}, {raw[5]}")
        need(raw[6] in kinds, f"{name}: a record of kind {RECORD_KINDS.get(raw[6], raw[6])}, which does not belong here")
        need(raw[7] == 0, f"{name}: the byte at 7 must be 0")
        key = derive(self.structure_key(source), "record", raw[8:40])
        commit_to(key, raw[40:72], name)
        plain = open_aead(key, crypto.ZERO_NONCE, raw[72:], raw[:8] + self.id + name.encode(), name)
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
