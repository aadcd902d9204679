import { CryptoError } from './error.js';
import type { CryptoProvider } from './provider.js';
import { wipe } from './secrets.js';

/** Output of the PRF in bytes. */
const PRF_BYTES = 32;

const le32 = (value: number): Uint8Array => {
	const out = new Uint8Array(4);
	new DataView(out.buffer).setUint32(0, value, true);
	return out;
};

function asciiBytes(label: string): Uint8Array {
	const out = new Uint8Array(label.length);
	for (let i = 0; i < label.length; i++) {
		const unit = label.charCodeAt(i);
		// A zero would end the label early in the PRF input, so two labels could collide.
		if (unit === 0 || unit > 0x7f)
			throw new CryptoError('text', 'KDF label', 'ASCII without NUL', `U+${unit.toString(16)}`);
		out[i] = unit;
	}
	return out;
}

/**
 * The key derivation of SEV: NIST SP 800-108 in counter mode with HMAC-SHA-256, where
 * K(i) = HMAC(key, le32(i) ‖ label ‖ 0x00 ‖ context ‖ le32(bits)) for i = 1, 2, … (counter and
 * length little-endian, as in AMD's sev-tool and firmware; SP 800-108 §4.1 leaves the byte order open).
 *
 * @param label ASCII, taken without a terminator
 * @param bits length of the result; a multiple of 8
 * @throws CryptoError if `bits` is not a positive multiple of 8 below 2^32, or the label is not ASCII
 */
export function kdf(
	provider: Pick<CryptoProvider, 'hmacSha256'>,
	key: Uint8Array,
	label: string,
	context: Uint8Array,
	bits: number,
): Uint8Array {
	if (!Number.isInteger(bits) || bits <= 0 || bits % 8 !== 0 || bits > 0xffff_ffff) {
		throw new CryptoError('length', 'KDF output', 'a positive multiple of 8 bits below 2^32', `${bits}`);
	}
	const tail = [asciiBytes(label), Uint8Array.of(0), context, le32(bits)];
	const out = new Uint8Array(bits / 8);
	for (let at = 0, i = 1; at < out.length; at += PRF_BYTES, i++) {
		const part = provider.hmacSha256(key, le32(i), ...tail);
		out.set(part.subarray(0, Math.min(PRF_BYTES, out.length - at)), at);
		wipe(part);
	}
	return out;
}
