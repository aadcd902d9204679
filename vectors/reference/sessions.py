"""Key derivation, wrapping and sessions (SEV API 6.2)."""
import struct

from . import openssl, p384
from .basics import hmac_sha256, le32, require, success
from .certificates import CERT_SIZE, dh_key


def kdf(key, label, context, bits):
    blocks = (bits + 255) // 256
    tail = label.encode("ascii") + b"\x00" + context + le32(bits)
    return b"".join(hmac_sha256(key, le32(i + 1) + tail) for i in range(blocks))[: bits // 8]


def wrapping_keys(master_secret):
    return kdf(master_secret, "sev-kek", b"", 128), kdf(master_secret, "sev-kik", b"", 128)


def op_kdf(f):
    return success(output=kdf(f.bytes("key"), f["label"], f.bytes("context"), f["bits"]))


def op_key_wrap(f):
    kek, kik = wrapping_keys(f.bytes("masterSecret"))
    wrap_tk = openssl.aes_128_ctr(kek, f.bytes("wrapIv"), f.bytes("tek") + f.bytes("tik"))
    return success(kek=kek, kik=kik, wrapTk=wrap_tk, wrapMac=hmac_sha256(kik, wrap_tk))


def op_policy_mac(f):
    return success(mac=hmac_sha256(f.bytes("tik"), le32(f["policy"])))


def op_session_create(f):
    certificate = f.bytes("serverCertificate")
    require(len(certificate) == CERT_SIZE, "INVALID_LENGTH")
    shared = p384.ecdh(f.integer("clientPrivateKey"), dh_key(certificate))
    nonce, iv, tik = f.bytes("nonce"), f.bytes("wrapIv"), f.bytes("tik")
    master = kdf(shared, "sev-master-secret", nonce, 128)
    kek, kik = wrapping_keys(master)
    wrapped = openssl.aes_128_ctr(kek, iv, f.bytes("tek") + tik)
    session = nonce + wrapped + iv + hmac_sha256(kik, wrapped) + hmac_sha256(tik, le32(f["policy"]))
    return success(sharedSecret=shared, masterSecret=master, session=session)


def op_session_open(f):
    session, certificate = f.bytes("session"), f.bytes("clientCertificate")
    require(len(session) == 128 and len(certificate) == CERT_SIZE, "INVALID_LENGTH")
    shared = p384.ecdh(f.integer("serverPrivateKey"), dh_key(certificate))
    nonce, wrapped, iv, wrap_mac, policy_mac = struct.unpack("16s32s16s32s32s", session)
    master = kdf(shared, "sev-master-secret", nonce, 128)
    kek, kik = wrapping_keys(master)
    require(hmac_sha256(kik, wrapped) == wrap_mac, "BAD_MEASUREMENT")
    keys = openssl.aes_128_ctr(kek, iv, wrapped)
    tek, tik = keys[:16], keys[16:]
    policy, platform = f["policy"], f["platform"]
    require(hmac_sha256(tik, le32(policy)) == policy_mac, "BAD_MEASUREMENT")
    least = (policy >> 16 & 0xFF, policy >> 24)
    require((platform["major"], platform["minor"]) >= least, "POLICY_FAILURE")
    require(policy & 0xFFC0 == 0, "POLICY_FAILURE")
    return success(masterSecret=master, tek=tek, tik=tik)
