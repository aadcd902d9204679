"""AMD root and signing certificates (SEV API App. B)."""
import struct

from . import openssl
from .basics import little, require, sha256, success

ARK, ASK = 0x0000, 0x0013


class AmdCertificate:
    """An ARK or ASK certificate."""

    def __init__(self, data):
        require(len(data) >= 0x40, "INVALID_CERTIFICATE")
        unpacked = struct.unpack_from("<I16s16sI16xII", data)
        self.version, self.key_id, self.certifying_id, self.usage, exponent_bits, modulus_bits = unpacked
        require(exponent_bits == modulus_bits and modulus_bits in (2048, 4096), "INVALID_CERTIFICATE")
        self.size = modulus_bits // 8
        end = 0x40 + 2 * self.size
        self.exponent = little(data[0x40 : 0x40 + self.size])
        self.modulus = little(data[0x40 + self.size : end])
        self.body, self.signature = data[:end], data[end:][::-1]
        require(len(self.signature) in (256, 512), "INVALID_CERTIFICATE")

    def require_signed_by(self, signer):
        require(len(self.signature) == signer.size, "INVALID_CERTIFICATE")
        hash_name = "sha256" if signer.size == 256 else "sha384"
        good = openssl.rsa_pss_verifies(signer.modulus, signer.exponent, self.signature, self.body, hash_name)
        require(good, "BAD_SIGNATURE")


def verify_ark(data, key_id=None, body_sha256=None):
    ark = AmdCertificate(data)
    ark.require_signed_by(ark)
    require(ark.version == 1 and ark.usage == ARK and ark.certifying_id == ark.key_id, "INVALID_CERTIFICATE")
    require(key_id in (None, ark.key_id) and body_sha256 in (None, sha256(ark.body)), "INVALID_CERTIFICATE")


def verify_ask(data, ark_data):
    ask, ark = AmdCertificate(data), AmdCertificate(ark_data)
    ask.require_signed_by(ark)
    require(ask.version == 1 and ask.usage == ASK and ask.certifying_id == ark.key_id, "INVALID_CERTIFICATE")


def op_amd_certificate_read(f):
    amd = AmdCertificate(f.bytes("certificate"))
    exponent = amd.exponent.to_bytes((amd.exponent.bit_length() + 7) // 8, "big")
    numbers = {"modulus": amd.modulus.to_bytes(amd.size, "big"), "exponent": exponent, "signature": amd.signature}
    ids = {"keyId": amd.key_id, "certifyingId": amd.certifying_id}
    return success(version=amd.version, usage=amd.usage, **ids, **numbers)


def op_ark_verify(f):
    expected = [f.bytes(name) if name in f else None for name in ("keyId", "bodySha256")]
    verify_ark(f.bytes("ark"), *expected)
    return success()


def op_ask_verify(f):
    verify_ask(f.bytes("ask"), f.bytes("ark"))
    return success()
