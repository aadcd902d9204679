"""What every operation needs."""
import hashlib
import hmac
import struct


class Refused(Exception):
    """A status other than SUCCESS, and what else there is to say."""

    def __init__(self, status, **more):
        super().__init__(status)
        self.outcome = {"status": status, **more}


def require(condition, status, **more):
    if not condition:
        raise Refused(status, **more)


def success(**outputs):
    return {"status": "SUCCESS", **{k: v.hex() if isinstance(v, bytes) else v for k, v in outputs.items()}}


def le32(value):
    return struct.pack("<I", value)


def sha256(data):
    return hashlib.sha256(data).digest()


def hmac_sha256(key, data):
    return hmac.new(key, data, "sha256").digest()


def little(data):
    return int.from_bytes(data, "little")


def hash_of(algo):
    return "sha384" if algo & 0x100 else "sha256"
