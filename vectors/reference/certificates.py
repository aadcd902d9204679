"""SEV certificates (SEV API App. C), their verification, and the attestation report."""
import struct

from . import openssl, p384
from .amd import ARK, ASK, AmdCertificate, verify_ark, verify_ask
from .basics import Refused, hash_of, le32, little, require, success

PEK, OCA, PDH, CEK = 0x1002, 0x1001, 0x1003, 0x1004
NO_KEY = 0x1000
RSA_ALGOS, ECDSA_ALGOS, ECDH_ALGOS = (0x001, 0x101), (0x002, 0x102), (0x003, 0x103)
CERT_SIZE, BODY_SIZE, SLOT_OFFSETS = 2084, 0x414, (0x414, 0x61C)


def ec_key(certificate):
    """The point in a certificate, if its algorithm, curve and coordinates are those of a P-384 key."""
    algo, curve = struct.unpack_from("<II", certificate, 0x0C)
    x, y = little(certificate[0x14:0x5C]), little(certificate[0x5C:0xA4])
    good = algo in ECDSA_ALGOS + ECDH_ALGOS and curve == 2 and p384.on_curve((x, y))
    return (x, y) if good else None


def slots_of(certificate):
    for at in SLOT_OFFSETS:
        usage, algo = struct.unpack_from("<II", certificate, at)
        yield usage, algo, certificate[at + 8 : at + 520]


def dh_key(certificate):
    """The key of a certificate that passes the check of Diffie-Hellman certificates."""
    version, usage, algo = struct.unpack_from("<I4xII", certificate)
    key = ec_key(certificate)
    require(version == 1 and key is not None and usage == PDH and algo == 0x003, "INVALID_CERTIFICATE")
    return key


class Signer:
    """A public key in a role: of an SEV certificate, or of an ASK."""

    def __init__(self, data, form):
        if form == "amd":
            amd = AmdCertificate(data)
            self.usage, self.algo = amd.usage, 0x001 if amd.size == 256 else 0x101
            self.key = (amd.modulus, amd.exponent, amd.size)
        else:
            self.usage, self.algo = struct.unpack_from("<II", data, 8)
            self.key = ec_key(data)
        require(self.usage in (ARK, ASK, OCA, PEK, PDH, CEK) and self.key is not None, "INVALID_CERTIFICATE")

    def verdict(self, signature, body):
        if self.algo in ECDH_ALGOS:
            return "UNSUPPORTED"
        if self.algo in RSA_ALGOS:
            modulus, exponent, size = self.key
            good = openssl.rsa_pss_verifies(modulus, exponent, signature[:size][::-1], body, hash_of(self.algo))
        else:
            r, s = little(signature[:72]), little(signature[72:144])
            good = ecdsa(self.key, r, s, body, self.algo)
        return "SUCCESS" if good else "BAD_SIGNATURE"


def ecdsa(key, r, s, message, algo):
    in_range = 0 < r < p384.N and 0 < s < p384.N
    return in_range and openssl.ecdsa_verifies(key, r, s, message, hash_of(algo))


SIGNERS = {PDH: (PEK,), PEK: (OCA, CEK), OCA: (OCA,), CEK: (ASK,)}


def verify_certificate(certificate, signer_data, form):
    signer = Signer(signer_data, form)
    verdict = "INVALID_CERTIFICATE"
    for usage, algo, signature in slots_of(certificate):
        require((usage == NO_KEY) == (algo == 0), "BAD_SIGNATURE")
        if (usage, algo) == (signer.usage, signer.algo):
            verdict = signer.verdict(signature, certificate[:BODY_SIZE])
    require(verdict == "SUCCESS", verdict)
    version, usage = struct.unpack_from("<I4xI", certificate)
    require(version == 1 and ec_key(certificate) is not None, "INVALID_CERTIFICATE")
    require(signer.usage in SIGNERS.get(usage, ()), "INVALID_CERTIFICATE")


def op_certificate_read(f):
    certificate = f.bytes("certificate")
    version, major, minor, usage, algo = struct.unpack_from("<IBB2xII", certificate)
    x, y = ec_key(certificate)
    slots = []
    for slot_usage, slot_algo, signature in slots_of(certificate):
        slot = {"usage": slot_usage, "algo": slot_algo}
        if slot_algo in ECDSA_ALGOS:
            slot.update(r="%096x" % little(signature[:72]), s="%096x" % little(signature[72:144]))
        slots.append(slot)
    fields = {"version": version, "apiMajor": major, "apiMinor": minor, "usage": usage, "algo": algo}
    return success(**fields, x="%096x" % x, y="%096x" % y, slots=slots)


def op_certificate_sign(f):
    x, y = p384.multiply(f.integer("privateKey"))
    body = struct.pack("<IBB2xII", 1, f["apiMajor"], f["apiMinor"], f["usage"], f["algo"])
    body += le32(2) + x.to_bytes(72, "little") + y.to_bytes(72, "little")
    body = body.ljust(BODY_SIZE, b"\x00")
    slots = []
    for signer in f.list("signers"):
        r, s = p384.sign(signer.integer("privateKey"), body, hash_of(signer["algo"]))
        signature = r.to_bytes(72, "little") + s.to_bytes(72, "little")
        slots.append(struct.pack("<II", signer["usage"], signer["algo"]) + signature.ljust(512, b"\x00"))
    empty = struct.pack("<II512x", NO_KEY, 0)
    return success(certificate=body + b"".join((slots + [empty, empty])[:2]))


def op_certificate_verify(f):
    verify_certificate(f.bytes("certificate"), f.bytes("signer"), f["signerFormat"])
    return success()


def op_dh_certificate(f):
    dh_key(f.bytes("certificate"))
    return success()


def first_failure(checks):
    for name, check, *arguments in checks:
        try:
            check(*arguments)
        except Refused as refusal:
            return {**refusal.outcome, "failed": name}
    return success()


def op_platform_chain(f):
    ark, ask, cek, pek, pdh = (f.bytes(name) for name in ("ark", "ask", "cek", "pek", "pdh"))
    return first_failure(
        (
            ("ark", verify_ark, ark),
            ("ask", verify_ask, ask, ark),
            ("cek", verify_certificate, cek, ask, "amd"),
            ("pek", verify_certificate, pek, cek, "sev"),
            ("pdh", verify_certificate, pdh, pek, "sev"),
        )
    )


def op_owner_chain(f):
    oca, pek, pdh = (f.bytes(name) for name in ("oca", "pek", "pdh"))
    return first_failure(
        (
            ("oca", verify_certificate, oca, oca, "sev"),
            ("pek", verify_certificate, pek, oca, "sev"),
            ("pdh", verify_certificate, pdh, pek, "sev"),
        )
    )


def op_attestation_sign(f):
    body = f.bytes("mnonce") + f.bytes("launchDigest") + le32(f["policy"])
    r, s = p384.sign(f.integer("pekPrivateKey"), body, "sha256")
    signature = r.to_bytes(72, "little") + s.to_bytes(72, "little")
    return success(report=body + struct.pack("<III", PEK, 0x002, 0) + signature)


def op_attestation_verify(f):
    report, pek = f.bytes("report"), f.bytes("pek")
    require(len(report) == 208, "INVALID_LENGTH")
    require(struct.unpack_from("<II", pek, 8) == (PEK, 0x002) and ec_key(pek), "INVALID_CERTIFICATE")
    mnonce, digest, policy, usage, algo = struct.unpack_from("<16s32sIII", report)
    r, s = little(report[0x40:0x88]), little(report[0x88:0xD0])
    good = (usage, algo) == (PEK, 0x002) and ecdsa(ec_key(pek), r, s, report[:0x34], algo)
    require(good, "BAD_SIGNATURE")
    require("mnonce" not in f or f.bytes("mnonce") == mnonce, "BAD_MEASUREMENT")
    require("launchDigest" not in f or f.bytes("launchDigest") == digest, "BAD_MEASUREMENT")
    require("policy" not in f or f["policy"] == policy, "POLICY_FAILURE")
    return success()
