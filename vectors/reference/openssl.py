"""What is left to the `openssl` program: AES, and the verification of signatures."""
import base64
import os
import subprocess
import tempfile

P384_OID = bytes.fromhex("06052b81040022")
EC_OID = bytes.fromhex("06072a8648ce3d0201")
RSA_OID = bytes.fromhex("06092a864886f70d010101")


def available():
    """The version of the program, or None."""
    try:
        return subprocess.run(["openssl", "version"], capture_output=True, check=True).stdout.decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def aes_128_ctr(key, iv, data):
    command = ["openssl", "enc", "-aes-128-ctr", "-K", key.hex(), "-iv", iv.hex()]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def _der(tag, *parts):
    body = b"".join(parts)
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def _integer(value):
    return _der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _public_key(algorithm, key):
    info = _der(0x30, _der(0x30, *algorithm), _der(3, b"\x00", key))
    text = base64.encodebytes(info).decode()
    return "-----BEGIN PUBLIC KEY-----\n" + text + "-----END PUBLIC KEY-----\n"


def _verifies(pem, signature, message, hash_name, *options):
    with tempfile.TemporaryDirectory() as folder:
        names = [os.path.join(folder, name) for name in ("key.pem", "signature", "message")]
        for name, data in zip(names, (pem.encode(), signature, message)):
            with open(name, "wb") as file:
                file.write(data)
        command = ["openssl", "dgst", "-" + hash_name, "-verify", names[0], *options, "-signature", *names[1:]]
        return subprocess.run(command, capture_output=True).returncode == 0


def ecdsa_verifies(point, r, s, message, hash_name):
    x, y = (coordinate.to_bytes(48, "big") for coordinate in point)
    pem = _public_key([EC_OID, P384_OID], b"\x04" + x + y)
    return _verifies(pem, _der(0x30, _integer(r), _integer(s)), message, hash_name)


def rsa_pss_verifies(modulus, exponent, signature, message, hash_name):
    """RSASSA-PSS with MGF1 over the same hash and a salt of any length; `signature` is big-endian."""
    pem = _public_key([RSA_OID, b"\x05\x00"], _der(0x30, _integer(modulus), _integer(exponent)))
    options = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:-2"]
    return _verifies(pem, signature, message, hash_name, *options)
