"""Transport packets (LAUNCH_SECRET, SEND_UPDATE_*, RECEIVE_UPDATE_*)."""
import struct

from . import openssl
from .basics import hmac_sha256, le32, require, success


def packet_mac(f, flags, iv, guest_length, ciphertext):
    data = bytes([f["context"]]) + le32(flags) + iv + le32(guest_length) + le32(len(ciphertext)) + ciphertext
    return hmac_sha256(f.bytes("tik"), data + (f.bytes("measure") if "measure" in f else b""))


def op_packet_seal(f):
    iv = f.bytes("iv")
    payload = openssl.aes_128_ctr(f.bytes("tek"), iv, f.bytes("plaintext"))
    return success(header=le32(0) + iv + packet_mac(f, 0, iv, len(payload), payload), payload=payload)


def op_packet_open(f):
    header, payload = f.bytes("header"), f.bytes("payload")
    require(len(header) >= 52, "INVALID_LENGTH")
    flags, iv, mac = struct.unpack_from("<I16s32s", header)
    is_secret = f["context"] == 1
    require(is_secret or not flags & 1, "UNSUPPORTED")
    require(packet_mac(f, flags, iv, f["guestLength"], payload) == mac, "BAD_MEASUREMENT")
    require(not flags & 1, "UNSUPPORTED")
    return success(plaintext=openssl.aes_128_ctr(f.bytes("tek"), iv, payload))
