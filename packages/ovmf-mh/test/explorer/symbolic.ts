import type { CryptoProvider, Hash, P384PublicKey, RandomSource } from '@cvm/crypto';

/*
 * Cryptography for exploring: the same interface, no security whatever. What counts is that equal inputs give equal outputs,
 * that other inputs practically never do, and that nothing comes out of a box without its key. A lane is 32 bits wide and mixes
 * as MurmurHash3 does; four of them make 128 bits, which for some millions of values do not collide by accident.
 */

const SEEDS = [0x9e3779b9, 0x85ebca6b, 0xc2b2ae35, 0x27d4eb2f] as const;

/** Four lanes that bytes are mixed into. */
export class Mixer {
	private a: number = SEEDS[0];
	private b: number = SEEDS[1];
	private c: number = SEEDS[2];
	private d: number = SEEDS[3];
	private length = 0;

	/** @param label separates uses: other labels, other hashes */
	constructor(label: number) {
		this.word(label);
	}

	word(value: number): void {
		this.a = Math.imul(this.a ^ value, 0xcc9e2d51);
		this.a = (this.a << 13) | (this.a >>> 19);
		this.b = Math.imul(this.b ^ (value + this.a), 0x1b873593);
		this.b = (this.b << 17) | (this.b >>> 15);
		this.c = Math.imul(this.c + (value ^ this.b), 0xe6546b65);
		this.c ^= this.c >>> 15;
		this.d = Math.imul(this.d ^ (this.c + value), 0x38495ab5);
		this.d = (this.d << 11) | (this.d >>> 21);
	}

	update(data: Uint8Array): void {
		const words = data.length >>> 2;
		const aligned = data.byteOffset % 4 === 0 ? data : data.slice();
		// `word`, unrolled over locals: most of an exploration is spent here.
		let { a, b, c, d } = this;
		for (const value of new Int32Array(aligned.buffer, aligned.byteOffset, words)) {
			a = Math.imul(a ^ value, 0xcc9e2d51);
			a = (a << 13) | (a >>> 19);
			b = Math.imul(b ^ (value + a), 0x1b873593);
			b = (b << 17) | (b >>> 15);
			c = Math.imul(c + (value ^ b), 0xe6546b65);
			c ^= c >>> 15;
			d = Math.imul(d ^ (c + value), 0x38495ab5);
			d = (d << 11) | (d >>> 21);
		}
		this.a = a;
		this.b = b;
		this.c = c;
		this.d = d;
		for (let i = 4 * words; i < data.length; i++) this.word(0x100 | (data[i] ?? 0));
		this.length += data.length;
	}

	/** The 128 bits, expanded to `length` bytes. */
	finish(length: number): Uint8Array {
		this.word(this.length);
		for (let i = 0; i < 4; i++) this.word(SEEDS[i & 3] ?? 0);
		const out = new Uint8Array(Math.ceil(length / 16) * 16);
		const view = new DataView(out.buffer);
		for (let at = 0; at < out.length; at += 16) {
			view.setInt32(at, this.a);
			view.setInt32(at + 4, this.b);
			view.setInt32(at + 8, this.c);
			view.setInt32(at + 12, this.d);
			this.word(at);
		}
		return out.subarray(0, length);
	}
}

/** Mixes `parts` with their lengths, so that other borders give another hash. */
const mix = (label: number, length: number, parts: readonly Uint8Array[]): Uint8Array => {
	const mixer = new Mixer(label);
	for (const part of parts) {
		mixer.word(part.length);
		mixer.update(part);
	}
	return mixer.finish(length);
};

/** The same for a concatenation: borders do not count. */
const mixJoined = (label: number, length: number, parts: readonly Uint8Array[]): Uint8Array => {
	const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
	let at = 0;
	for (const part of parts) {
		all.set(part, at);
		at += part.length;
	}
	return mix(label, length, [all]);
};

const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex');

const sameBytes = (a: Uint8Array, b: Uint8Array): boolean =>
	a.length === b.length && a.every((byte, i) => byte === b[i]);

/** 2^127 − 1: multiplication modulo it commutes, which is all that an exchange of keys needs here. */
const PRIME = (1n << 127n) - 1n;
const scalarOf = (bytes: Uint8Array): bigint => BigInt(`0x${hexOf(bytes)}`) % PRIME;
const coordinate = (value: bigint): Uint8Array =>
	new Uint8Array(Buffer.from(value.toString(16).padStart(96, '0'), 'hex'));
const GENERATOR = 0x1234567890abcdef1234567890abcdefn % PRIME;

const yOf = (x: Uint8Array): Uint8Array => mix(9, 48, [x]);

const notModelled = (): never => {
	throw new Error('symbolic provider: not modelled');
};

const xored = (key: Uint8Array, iv: Uint8Array, data: Uint8Array): Uint8Array => {
	const pad = mix(5, 64, [key, iv]);
	return data.map((byte, i) => byte ^ (pad[i & 63] ?? 0));
};

/**
 * A provider that is fast and means nothing. `onSeal` learns key and IV, in hex, of every GCM seal.
 */
export function symbolicProvider(onSeal: (key: string, iv: string) => void = () => {}): CryptoProvider {
	const gcmTag = (key: Uint8Array, iv: Uint8Array, aad: Uint8Array, sealed: Uint8Array) =>
		mix(6, 16, [key, iv, aad, sealed]);
	const hashLength = { sha256: 32, sha384: 48 } as const;
	const hash = (name: 'sha256' | 'sha384'): Hash => {
		const parts: Uint8Array[] = [];
		return {
			update: (data) => void parts.push(data.slice()),
			digest: () => mixJoined(1, hashLength[name], parts),
		};
	};
	const sealInto: CryptoProvider['gcmSealInto'] = (key, iv, aad, plaintext, out, tag) => {
		onSeal(hexOf(key), hexOf(iv));
		out.set(xored(key, iv, plaintext));
		tag.set(gcmTag(key, iv, aad, out));
	};
	const openInto: CryptoProvider['gcmOpenInto'] = (key, iv, aad, ciphertext, tag, out) => {
		const isRight = sameBytes(gcmTag(key, iv, aad, ciphertext), tag);
		out.set(isRight ? xored(key, iv, ciphertext) : new Uint8Array(ciphertext.length));
		return isRight;
	};
	return {
		name: 'symbolic',
		blockCipher: notModelled,
		hash,
		digest: (name, ...parts) => mixJoined(1, hashLength[name], parts),
		hmacSha256: (key, ...parts) => mix(2, 32, [key, mixJoined(3, 32, parts)]),
		gcmSeal(key, iv, aad, plaintext) {
			const out = new Uint8Array(plaintext.length + 16);
			sealInto(key, iv, aad, plaintext, out.subarray(0, plaintext.length), out.subarray(plaintext.length));
			return out;
		},
		gcmOpen(key, iv, aad, sealed) {
			const body = sealed.subarray(0, sealed.length - 16);
			const out = new Uint8Array(body.length);
			return openInto(key, iv, aad, body, sealed.subarray(body.length), out) ? out : undefined;
		},
		gcmSealInto: sealInto,
		gcmOpenInto: openInto,
		p384: {
			isValidPrivateKey: (key) => scalarOf(key) !== 0n,
			isValidPublicKey: ({ x, y }: P384PublicKey) => sameBytes(yOf(x), y),
			publicKey(key) {
				const x = coordinate((scalarOf(key) * GENERATOR) % PRIME);
				return { x, y: yOf(x) };
			},
			ecdh: (key, peer) => coordinate((scalarOf(key) * scalarOf(peer.x)) % PRIME),
			sign: notModelled,
			verify: notModelled,
		},
		rsaPss: { sign: notModelled, verify: notModelled },
	};
}

/** The draws of a machine, one after the other from `from` on: a function of the machine's name and how many it made. */
export function countedRandom(name: string, from: number): RandomSource & { readonly draws: number } {
	const label = new TextEncoder().encode(name);
	let draws = from;
	const bytes = (length: number): Uint8Array => {
		const mixer = new Mixer(7);
		mixer.update(label);
		mixer.word(draws);
		draws += 1;
		return mixer.finish(length);
	};
	return {
		fill: (out) => out.set(bytes(out.length)),
		bytes,
		get draws() {
			return draws;
		},
	};
}
