"""NIST P-384 in plain integers (SP 800-186 3.2.1.4): points, ECDH, and deterministic ECDSA (RFC 6979).

For checking test vectors. Not constant-time: never use it with a secret that matters.
"""
import hashlib
import hmac

P = 2**384 - 2**128 - 2**96 + 2**32 - 1
B = 0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
G = (
    0xAA87CA22BE8B05378EB1C71EF320AD746E1D3B628BA79B9859F741E082542A385502F25DBF55296C3A545E3872760AB7,
    0x3617DE4A96262C6F5D9E98BF9292DC29F8F41DBD289A147CE9DA3113B5F0B8C00A60B1CE1D7E819D7A431D7C90EA0E5F,
)


def on_curve(point):
    """Whether affine coordinates name a point of the curve."""
    x, y = point
    return x < P and y < P and (y * y - (x * x * x - 3 * x + B)) % P == 0


def add(a, b):
    """The sum of two points; None is the point at infinity."""
    if a is None:
        return b
    if b is None:
        return a
    if a[0] == b[0]:
        if (a[1] + b[1]) % P == 0:
            return None
        slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, P) % P
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, P) % P
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def multiply(scalar, point=G):
    """scalar times point."""
    result = None
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def ecdh(private_key, peer):
    """The x-coordinate of the shared point, 48 bytes big-endian."""
    return multiply(private_key, peer)[0].to_bytes(48, "big")


def sign(private_key, message, hash_name):
    """The ECDSA signature (r, s) with the nonce of RFC 6979."""
    digest = hashlib.new(hash_name, message).digest()
    z = int.from_bytes(digest, "big")  # no hash here is longer than the order
    for k in _nonces(private_key, (z % N).to_bytes(48, "big"), hash_name):
        r = multiply(k)[0] % N
        s = pow(k, -1, N) * (z + r * private_key) % N
        if r and s:
            return r, s


def _nonces(private_key, reduced, hash_name):
    """RFC 6979 3.2, steps b to h."""

    def mac(key, data):
        return hmac.new(key, data, hash_name).digest()

    seed = private_key.to_bytes(48, "big") + reduced
    size = hashlib.new(hash_name).digest_size
    v, k = b"\x01" * size, b"\x00" * size
    for separator in (b"\x00", b"\x01"):
        k = mac(k, v + separator + seed)
        v = mac(k, v)
    while True:
        candidate = b""
        while len(candidate) < 48:
            v = mac(k, v)
            candidate += v
        number = int.from_bytes(candidate[:48], "big")
        if 0 < number < N:
            yield number
        k = mac(k, v + b"\x00")
        v = mac(k, v)
