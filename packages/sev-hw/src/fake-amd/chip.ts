import { type CryptoProvider, kdf } from '@cvm/crypto';

/** What the model takes for the manufacturer's knowledge of every chip. PUBLIC, like everything in this folder. */
const FAKE_MANUFACTURER_SECRET = Uint8Array.from('CVM fake manufacturer secret 001', (c) => c.charCodeAt(0));

/** Order of the group of P-384 (FIPS 186-5, SP 800-186 §3.2.1.4). */
const N = 0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973n;

/** A chip's identity: what GET_ID answers, and the key that its CEK certificate is about. */
export interface ChipIdentity {
	/** 64 bytes. Real ones are a public key; ours are only a name. */
	readonly id: Uint8Array;
	/** 48 bytes, big-endian. */
	readonly cekPrivateKey: Uint8Array;
}

/** The chip that a seed stands for: the same seed gives the same chip everywhere. */
export function chipIdentity(provider: CryptoProvider, chipSeed: string): ChipIdentity {
	const id = kdf(provider, FAKE_MANUFACTURER_SECRET, 'cvm-fake-chip-id', codeUnits(chipSeed), 512);
	return { id, cekPrivateKey: cekOfChip(provider, id) };
}

/**
 * The endorsement key of the chip with an id (64 bytes), 48 bytes big-endian. Real ids do not give the key away; here
 * the key server has to find it without a database. The reduction is the firmware's: (c mod (n − 1)) + 1 of a 56-byte c.
 */
export function cekOfChip(provider: CryptoProvider, id: Uint8Array): Uint8Array {
	const c = kdf(provider, FAKE_MANUFACTURER_SECRET, 'sev-chip-endorsement-key', id, 448);
	let scalar = 0n;
	for (const byte of c.reverse()) scalar = (scalar << 8n) | BigInt(byte);
	scalar = (scalar % (N - 1n)) + 1n;
	const out = new Uint8Array(48);
	for (let i = out.length - 1; i >= 0; i--, scalar >>= 8n) out[i] = Number(scalar & 0xffn);
	return out;
}

/** Any text as bytes, two per UTF-16 code unit: distinct texts stay distinct. */
function codeUnits(text: string): Uint8Array {
	const out = new Uint8Array(2 * text.length);
	for (let i = 0; i < text.length; i++) {
		const unit = text.charCodeAt(i);
		out[2 * i] = unit & 0xff;
		out[2 * i + 1] = unit >>> 8;
	}
	return out;
}
