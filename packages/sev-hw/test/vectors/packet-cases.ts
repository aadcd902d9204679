import { fromHex } from '@cvm/layout';
import { packetHeader, packetMac, sealPacket } from '../../src/channel/packet.js';
import {
	bad,
	blob,
	changed,
	counting,
	type Draft,
	drawn,
	fixed,
	fromBase64,
	good,
	provider,
	published,
	repeated,
	vectorFile,
	zeros,
} from './builders.js';
import type { VectorFile } from './format.js';

const [SECRET, DATA, VMSA] = [1, 2, 3];
const SEVCTL = 'virtee/sevctl, tests/secret.rs';
const fixedKeys = { tek: counting(0x00), tik: counting(0x10) };
const keys = { tek: drawn('packet tek'), tik: drawn('packet tik') };
const measure = drawn('packet measure', 32);
const page = Uint8Array.from({ length: 4096 }, (_, i) => 7 * i + 3);
/** A save area with something in it, and where its source kept the checksum. */
const saveArea = (() => {
	const out = zeros(4096);
	out.set(drawn('save area', 0x380));
	new DataView(out.buffer).setBigUint64(0x388, 0x7_1234_5000n, true);
	return out;
})();

const sevctl = {
	...{ tek: fromHex('52a869b79ab9c13bb6a92b0561619cb3'), tik: fromHex('c6d5a9956133050912b24bbe5c372686') },
	measure: fromBase64('TLeA7607lZQntLjRY1/i+sbtdSZ+75zxpz4Px9hzpBLwItF5Q2o4prA++3ZZv9ZS').subarray(0, 32),
};
const sevctlPacket = {
	header: fromBase64('AAAAAKxUdO1N0yx9mJ7FI9klWey8FSzeYQ4X8K71VzNKLU/KQsIsQxLjtbhaPUewqshX5Q=='),
	payload: fromBase64('0U3e5PcXv0UW+H4tSBFKOdCYfKE1+j38Bc2fuO16mYiyI+sWx7INfn+lgYj56GL12yyinDa+lVfCCwD/2w5cPA=='),
};
/** `secret1.txt` under its GUID: see the operation secret-table. */
const sevctlTable = fromHex(
	'42f5741edd71664d963eef4287ff173b3a000000e5696873f084734992ec06879ce3da0b26000000' +
		'4d592d4c554b532d50415353504852415345000000000000',
);

function sealCases(): VectorFile {
	const iv = drawn('packet iv');
	const mac = (last: string) => ({ header: last });
	return vectorFile(
		'packet-seal',
		'Making a transport packet: a launch secret (context 1), guest data (2), a save area (2 or 3).',
		[
			fixed(
				good(
					'data-16-zeros',
					'The smallest packet.',
					{
						...{ context: DATA, ...fixedKeys, iv: counting(0x20), plaintext: zeros(16) },
					},
					{
						payload: '5be87e2e5b447c944b21c9af7756c0d8',
						...mac(
							'00000000202122232425262728292a2b2c2d2e2fc81fdc6cf7def343cccad0171628f4d09810893011bf5ac4b36117f0a9efb21e',
						),
					},
				),
			),
			fixed(
				good(
					'data-page',
					'Byte i of the page is 7i + 3 modulo 256.',
					{
						...{ context: DATA, ...fixedKeys, iv: counting(0x20), plaintext: blob('page') },
					},
					mac(
						'00000000202122232425262728292a2b2c2d2e2fac8a0ca19bcef109b40f88610862da59715874d4198ff4fb7fe72546422a0279',
					),
				),
			),
			fixed(
				good(
					'data-counter-wrap',
					'The counter goes from 2^128 - 1 to 0.',
					{
						...{ context: DATA, ...fixedKeys, iv: repeated(0xff, 16), plaintext: zeros(32) },
					},
					{
						payload: '3c441f32ce07822364d7a2990e50bb13c6a13b37878f5b826f4f8162a1c8d879',
						...mac(
							'00000000ffffffffffffffffffffffffffffffff6ec3a9ee98069b6e5f4ab6d804d465cbf3a2f1b6fb5a3593123b7f1ea93df182',
						),
					},
				),
			),
			good('data-counter-carry-32', 'The counter carries out of its low 32 bits.', {
				...{ context: DATA, ...keys, iv: fromHex('00112233445566778899aabbfffffffe'), plaintext: counting(0, 64) },
			}),
			good('data-counter-carry-64', 'The counter carries out of its low 64 bits.', {
				...{ context: DATA, ...keys, iv: fromHex('0011223344556677fffffffffffffffe'), plaintext: counting(0, 64) },
			}),
			good('data-48-bytes', 'A part of a page.', { context: DATA, ...keys, iv, plaintext: counting(0, 48) }),
			good('vmsa-context-2', 'A save area as firmware 1.55.25 sends it: its MAC is that of data.', {
				...{ context: DATA, ...keys, iv, plaintext: blob('save-area') },
			}),
			good('vmsa-context-3', 'A save area with the context that is set aside for it.', {
				...{ context: VMSA, ...keys, iv, plaintext: blob('save-area') },
			}),
			published(
				SEVCTL,
				good(
					'secret-sevctl',
					'A LUKS passphrase in a table of secrets.',
					{
						...{ context: SECRET, ...sevctl, iv: fromBase64('rFR07U3TLH2YnsUj2SVZ7A=='), plaintext: sevctlTable },
					},
					sevctlPacket,
				),
			),
			good('secret', 'Bound to the measurement of the launch.', {
				context: SECRET,
				...keys,
				iv,
				plaintext: counting(0, 64),
				measure,
			}),
			good('secret-before-0.17', 'Before API 0.17 no measurement is under the MAC.', {
				...{ context: SECRET, ...keys, iv, plaintext: counting(0, 64) },
			}),
		],
		{ page, 'save-area': saveArea },
	);
}

/** A packet, and what is needed to forge the MAC of a changed one. */
function packet(context: number, plaintext: Uint8Array, bound: { measure?: Uint8Array } = {}) {
	const iv = drawn('open iv');
	const { header, payload } = sealPacket(provider, keys, { context, iv, plaintext, ...bound });
	const withFlags = (flags: number) => {
		const input = { context, flags, iv, guestLength: payload.length, transLength: payload.length, ciphertext: payload };
		return packetHeader.encode({ flags, iv, mac: packetMac(provider, keys.tik, { ...input, ...bound }) });
	};
	return { header, payload, withFlags };
}

function openCases(): VectorFile {
	const plaintext = drawn('open plaintext', 64);
	const data = packet(DATA, plaintext);
	const secret = packet(SECRET, plaintext, { measure });
	const old = packet(SECRET, plaintext);
	const area = packet(VMSA, saveArea);
	const open = { context: DATA, ...keys, header: blob('data-header'), payload: blob('data'), guestLength: 64 };
	const openSecret = {
		context: SECRET,
		...keys,
		header: blob('secret-header'),
		payload: blob('secret'),
		guestLength: 64,
		measure,
	};
	const openArea = { context: VMSA, ...keys, header: blob('vmsa-header'), payload: blob('vmsa'), guestLength: 4096 };
	const refused = (id: string, comment: string, change: object): Draft =>
		bad(id, 'BAD_MEASUREMENT', comment, { ...open, ...change });
	const headerBit = (id: string, comment: string, at: number, bit = 1): Draft =>
		refused(id, comment, { header: changed('data-header', [[at, Uint8Array.of((data.header[at] ?? 0) ^ bit)]]) });
	const last = data.payload.length - 1;
	const { measure: _, ...unbound } = openSecret;
	return vectorFile(
		'packet-open',
		'Opening a transport packet: RECEIVE_UPDATE_DATA, RECEIVE_UPDATE_VMSA and LAUNCH_SECRET after their length checks.',
		[
			good('data', 'A good packet of 64 bytes.', open, { plaintext: plaintext }),
			headerBit('data-flag-1', 'FLAGS bit 1 is set: ignored, but under the MAC.', 0, 2),
			headerBit('data-flag-31', 'FLAGS bit 31 is set: ignored, but under the MAC.', 3, 0x80),
			good('data-flags-authentic', 'All FLAGS but COMPRESSED are set, and under the MAC: no reason to refuse.', {
				...{ ...open, header: data.withFlags(0xfffffffe) },
			}),
			headerBit('data-iv-first-byte', 'A bit of the IV is another.', 0x04),
			headerBit('data-iv-last-byte', 'A bit of the IV is another.', 0x13, 0x80),
			headerBit('data-mac-first-byte', 'A bit of the MAC is another.', 0x14),
			headerBit('data-mac-last-byte', 'A bit of the MAC is another.', 0x33, 0x80),
			refused('data-mac-zero', 'The MAC is zero.', { header: changed('data-header', [[0x14, zeros(32)]]) }),
			refused('data-ciphertext-first-byte', 'A bit of the ciphertext is another.', {
				payload: changed('data', [[0, Uint8Array.of((data.payload[0] ?? 0) ^ 1)]]),
			}),
			refused('data-ciphertext-last-byte', 'A bit of the ciphertext is another.', {
				payload: changed('data', [[last, Uint8Array.of((data.payload[last] ?? 0) ^ 0x80)]]),
			}),
			refused('data-guest-length', 'GUEST_LEN is 48 beside 64 bytes of ciphertext.', { guestLength: 48 }),
			refused('data-cut', 'Both lengths are 48: the last block is gone.', {
				payload: changed('data', [], 48),
				guestLength: 48,
			}),
			refused('data-extended', 'A block of zeros behind the ciphertext.', {
				payload: changed('data', [], 80),
				guestLength: 80,
			}),
			refused('data-empty', 'No ciphertext.', { payload: '', guestLength: 0 }),
			refused('data-other-tik', 'Another TIK.', { tik: drawn('other tik') }),
			good('data-other-tek', 'Another TEK is not noticed: the plaintext is noise.', {
				...open,
				tek: drawn('other tek'),
			}),
			refused('data-with-measure', 'A measurement under the MAC.', { measure }),
			bad('data-compressed-unsealed', 'UNSUPPORTED', 'COMPRESSED with a bad MAC: the flag is tested first.', {
				...{ ...open, header: changed('data-header', [[0, Uint8Array.of(1)]]) },
			}),
			bad('data-compressed', 'UNSUPPORTED', 'COMPRESSED with a good MAC.', { ...open, header: data.withFlags(1) }),
			bad('data-header-short', 'INVALID_LENGTH', 'The header is a byte short.', {
				...open,
				header: changed('data-header', [], 51),
			}),
			good('data-header-long', 'Bytes behind the header are ignored.', {
				...open,
				header: changed('data-header', [], 64),
			}),
			refused('data-as-secret', 'Opened as a launch secret.', { context: SECRET }),
			refused('data-as-vmsa-3', 'Opened as a save area where those have context 3.', { context: VMSA }),
			good('vmsa-3', 'A save area under context 3.', openArea, { plaintext: saveArea }),
			bad(
				'vmsa-3-as-data',
				'BAD_MEASUREMENT',
				'Opened as data: also what firmware with context 2 for save areas says.',
				{
					...{ ...openArea, context: DATA },
				},
			),
			bad('vmsa-3-compressed', 'UNSUPPORTED', 'COMPRESSED with a bad MAC: the flag is tested first.', {
				...{ ...openArea, header: changed('vmsa-header', [[0, Uint8Array.of(1)]]) },
			}),
			bad('vmsa-3-ciphertext', 'BAD_MEASUREMENT', "The firmware's field at 0x388 is another.", {
				...{ ...openArea, payload: changed('vmsa', [[0x388, Uint8Array.of((area.payload[0x388] ?? 0) ^ 1)]]) },
			}),
			published(
				SEVCTL,
				good(
					'secret-sevctl',
					'A LUKS passphrase in a table of secrets.',
					{
						...{ context: SECRET, ...sevctl, ...sevctlPacket, guestLength: 64 },
					},
					{ plaintext: sevctlTable },
				),
			),
			good('secret', 'A good launch secret.', openSecret, { plaintext: plaintext }),
			bad('secret-other-measure', 'BAD_MEASUREMENT', 'Made for another launch.', {
				...openSecret,
				measure: drawn('other measure', 32),
			}),
			bad('secret-without-measure', 'BAD_MEASUREMENT', 'Opened as before API 0.17.', unbound),
			bad('secret-ciphertext', 'BAD_MEASUREMENT', 'A bit of the ciphertext is another.', {
				...{ ...openSecret, payload: changed('secret', [[5, Uint8Array.of((secret.payload[5] ?? 0) ^ 4)]]) },
			}),
			bad('secret-compressed-unsealed', 'BAD_MEASUREMENT', 'COMPRESSED with a bad MAC: the MAC is tested first.', {
				...{ ...openSecret, header: changed('secret-header', [[0, Uint8Array.of(1)]]) },
			}),
			bad('secret-compressed', 'UNSUPPORTED', 'COMPRESSED with a good MAC.', {
				...openSecret,
				header: secret.withFlags(1),
			}),
			bad('secret-as-data', 'BAD_MEASUREMENT', 'Opened as guest data.', { ...unbound, context: DATA }),
			good(
				'secret-before-0.17',
				'A launch secret without a measurement under the MAC.',
				{
					...{ ...unbound, header: old.header, payload: old.payload },
				},
				{ plaintext: plaintext },
			),
			bad('secret-before-0.17-to-newer', 'BAD_MEASUREMENT', 'The same, opened since API 0.17.', {
				...{ ...openSecret, header: old.header, payload: old.payload },
			}),
		],
		{
			...{ 'data-header': data.header, data: data.payload, 'secret-header': secret.header, secret: secret.payload },
			...{ 'vmsa-header': area.header, vmsa: area.payload },
		},
	);
}

/** Transport packets of secrets, data and save areas. */
export const packetFiles = (): readonly VectorFile[] => [sealCases(), openCases()];
