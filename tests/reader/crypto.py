"""Sections 2 and 3 of docs/format.md: derivation of keys, HPKE in base mode, suites, and CRC-32C.

HPKE is written out from RFC 9180 over X25519, HMAC-SHA256 and ChaCha20-Poly1305, so that the page needs no library.
"""

import hashlib
import hmac
from array import array
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blake3 import keyed_hash
from errors import Broken, need

HPKE_SUITE = "x25519-hkdf-sha256-chacha20poly1305"
STANDARD, FAST, NIST = 1, 2, 3
SUITES = {"standard": STANDARD, "fast": FAST, "nist": NIST}
ZERO_NONCE = bytes(12)


def sha256(data):
    return hashlib.sha256(data).digest()


def hmac_sha256(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def u32be(number):
    return number.to_bytes(4, "big")


def u64be(number):
    return number.to_bytes(8, "big")


def derive(key, label, context=b""):
    return hmac_sha256(key, b"breakwater/v1/" + label.encode() + b"\x00" + context + b"\x01")


def chunk_id(suite, id_key, chunk_class, plain):
    size = bytes([chunk_class]) + u64be(len(plain))
    return keyed_hash(id_key, plain + size) if suite == FAST else hmac_sha256(id_key, size + plain)


def open_aead(suite, key, nonce, sealed, aad, what):
    """The plaintext of `sealed` (ciphertext and tag)."""
    need(suite in SUITES.values(), f"{what}: a suite that this reader does not know: {suite}")
    cipher = ChaCha20Poly1305(key) if suite == STANDARD else AESGCM(key)
    try:
        return cipher.decrypt(nonce, bytes(sealed), aad)
    except InvalidTag:
        raise Broken(f"{what}: it was changed, or sealed with another key") from None


def commit_to(key, commitment, what):
    """Compares a key with the commitment that stands beside the salt, before anything is decrypted with it."""
    need(hmac.compare_digest(derive(key, "commit"), commitment), f"{what}: the commitment is not that of its key")


# --- HPKE, RFC 9180 -----------------------------------------------------------------------------------------------------

KEM_SUITE = b"KEM" + b"\x00\x20"
HPKE_SUITE_ID = b"HPKE" + b"\x00\x20" + b"\x00\x01" + b"\x00\x03"


def labeled_extract(suite, salt, label, material):
    return hmac_sha256(salt, b"HPKE-v1" + suite + label + material)


def labeled_expand(suite, secret, label, info, length):
    need(length <= 32, "one block of HKDF-Expand has 32 bytes")
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac_sha256(secret, labeled + b"\x01")[:length]


def public_of(secret):
    """The public key of an X25519 secret key."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def recipient_id(public):
    return sha256(public)[:16]


def hpke_open(secret, enc, sealed, info, what):
    """SingleShotOpen in base mode with an empty AAD."""
    try:
        shared = X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(enc))
    except ValueError:
        raise Broken(f"{what}: its encapsulated key is no X25519 public key") from None
    extracted = labeled_extract(KEM_SUITE, b"", b"eae_prk", shared)
    shared = labeled_expand(KEM_SUITE, extracted, b"shared_secret", enc + public_of(secret), 32)

    psk_id_hash = labeled_extract(HPKE_SUITE_ID, b"", b"psk_id_hash", b"")
    info_hash = labeled_extract(HPKE_SUITE_ID, b"", b"info_hash", info)
    context = b"\x00" + psk_id_hash + info_hash
    secret = labeled_extract(HPKE_SUITE_ID, shared, b"secret", b"")
    key = labeled_expand(HPKE_SUITE_ID, secret, b"key", context, 32)
    nonce = labeled_expand(HPKE_SUITE_ID, secret, b"base_nonce", context, 12)
    return open_aead(STANDARD, key, nonce, sealed, b"", what)


def hpke_info(purpose, context):
    return b"breakwater/v1/" + purpose.encode() + b"\x00" + context


# --- CRC-32C ------------------------------------------------------------------------------------------------------------


def crc_of_word(word, bits):
    for _ in range(bits):
        word = (word >> 1) ^ (0x82F63B78 if word & 1 else 0)
    return word


CRC_BYTES = [crc_of_word(byte, 8) for byte in range(256)]
CRC_PAIRS = [CRC_BYTES[CRC_BYTES[pair & 255] & 255 ^ pair >> 8] ^ CRC_BYTES[pair & 255] >> 8 for pair in range(65536)]


def crc32c(data):
    """CRC-32C (Castagnoli, reflected, as in RFC 3720), two bytes a step."""
    pairs = array("H", bytes(data[: len(data) & ~1]))
    if sys.byteorder == "big":
        pairs.byteswap()
    crc, table = 0xFFFFFFFF, CRC_PAIRS
    for pair in pairs:
        crc = table[(crc ^ pair) & 0xFFFF] ^ crc >> 16
    if len(data) & 1:
        crc = CRC_BYTES[(crc ^ data[-1]) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


need(crc32c(b"123456789") == 0xE3069283, "the CRC-32C of this reader is wrong")
