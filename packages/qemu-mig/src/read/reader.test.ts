import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { noneMachine } from '../../test/fixtures/none-machine.js';
import {
	beginStream,
	device,
	page,
	patched,
	ramPart,
	read,
	relayed,
	smallStream,
	thrown,
	written,
} from '../../test/streams.js';
import type { StreamWriter } from '../index.js';
import { SectionType, StreamReader } from '../index.js';
import { TOY_PREFIX } from '../testing.js';

const real = noneMachine();

/** A PART section with what `records` writes, after a START. */
const inPart = (records: (writer: StreamWriter) => void): Promise<Uint8Array> =>
	written((writer) => {
		beginStream(writer);
		writer.sectionBegin(ramPart);
		records(writer);
	});
const word = (flags: number, address = 0): Uint8Array => {
	const out = new Uint8Array(8);
	new DataView(out.buffer).setBigUint64(0, BigInt(address) | BigInt(flags));
	return out;
};
const SECTION_LINE = 'error while loading state section id 2(ram)';

describe('a stream of QEMU 7.2.22', () => {
	it('is the one the sources describe', () => {
		expect(real.length).toBe(747);
		expect(createHash('sha256').update(real).digest('hex')).toBe(
			'4d2a63664d12a2b1c5b9aba69cdc28bb650ccd9d52211250e303a862ee0f5a59',
		);
	});

	it.each([1, 2, 3, 5, 8, 13, 100, 747])('is written again byte for byte when read in chunks of %i', async (size) => {
		const [out, end] = await relayed(real, size, 'qemu-7.2');
		expect(out).toEqual(real);
		expect(end).toEqual({ description: true, trailing: 0 });
	});

	it('tells its sections with their offsets', () => {
		const seen: string[] = [];
		const reader = new StreamReader({
			dialect: 'qemu-7.2',
			handler: {
				header: (version, at) => seen.push(`${at.offset} header ${version}`),
				configuration: ({ machineType }, at) => seen.push(`${at.offset} ${machineType}`),
				sectionBegin: ({ type, id, idstr }, at) => seen.push(`${at.offset} ${type} ${id} ${idstr}`),
				blockList: (blocks, total, at) => seen.push(`${at.offset} blocks ${blocks.length} ${total}`),
				opaqueBody: ({ idstr }, body, at) => seen.push(`${at.offset} ${idstr}[${body.length}] in ${at.section?.id}`),
				eof: (at) => seen.push(`${at.offset} eof`),
				vmDescription: (json, at) => seen.push(`${at.offset} json ${json.length}`),
			},
		});
		reader.push(real);
		reader.end();
		expect(seen).toEqual([
			'0 header 3',
			'8 none',
			'17 1 2 ram',
			'34 blocks 0 0',
			'55 3 2 ram',
			'73 4 0 timer',
			`${0x57 + 5} timer[24] in 0`,
			'121 4 4 globalstate',
			'146 globalstate[104] in 4',
			'255 eof',
			'256 json 486',
		]);
	});
});

describe('malformed streams, with the text of QEMU 7.2', () => {
	const rows: [string, () => Uint8Array | Promise<Uint8Array>, string, string[], string][] = [
		['wrong magic', () => patched(real, 0, 0x52), 'not-a-stream', ['Not a migration stream'], 'Invalid argument'],
		['no bytes at all', () => real.slice(0, 0), 'truncated', ['Not a migration stream'], 'Invalid argument'],
		[
			'version 2',
			() => patched(real, 7, 2),
			'version',
			["SaveVM v2 format is obsolete and don't work anymore"],
			'Operation not supported',
		],
		[
			'version 4',
			() => patched(real, 7, 4),
			'version',
			['Unsupported migration stream version'],
			'Operation not supported',
		],
		[
			'no configuration',
			() => patched(real, 8, 1),
			'configuration',
			['Configuration section missing'],
			'Invalid argument',
		],
		['type byte 9', () => patched(real, 0x37, 9), 'section', ['Unknown savevm section type 9'], 'Invalid argument'],
		[
			'a footer where no section is open',
			() => patched(real, 0x37, 0x7e),
			'section',
			['Unknown savevm section type 126'],
			'Invalid argument',
		],
		[
			'PART of an unknown section',
			() => patched(real, 0x3b, 9),
			'section',
			['Unknown savevm section 9'],
			'Invalid argument',
		],
		[
			'ram version 5',
			() => patched(real, 0x21, 5),
			'version',
			["savevm: unsupported version 5 for 'ram' v4"],
			'Invalid argument',
		],
		[
			'ram version 3',
			() => patched(real, 0x21, 3),
			'version',
			["error while loading state for instance 0x0 of device 'ram'"],
			'Invalid argument',
		],
		['no footer', () => patched(real, 0x32, 0x7f), 'footer', ['Missing section footer for ram'], 'Invalid argument'],
		[
			'wrong footer',
			() => patched(real, 0x36, 3),
			'footer',
			['Mismatched section id in footer for ram - read 0x3 expected 0x2'],
			'Invalid argument',
		],
		[
			'cut in RAM',
			async () => (await inPart((w) => w.rawPage('pc.ram', 0, page(1)))).slice(0, -1),
			'truncated',
			[SECTION_LINE],
			'Input/output error',
		],
		['cut before the EOF byte', () => real.slice(0, 0xff), 'truncated', [], 'Input/output error'],
		[
			'cut before the footer',
			() => real.slice(0, 0x32),
			'truncated',
			['check_section_footer: Read section footer failed: -5'],
			'Invalid argument',
		],
		[
			'cut in the footer',
			() => real.slice(0, 0x35),
			'truncated',
			['Mismatched section id in footer for ram - read 0x0 expected 0x2'],
			'Invalid argument',
		],
		[
			'cut in the configuration',
			() => real.slice(0, 12),
			'truncated',
			['Failed to load configuration:len'],
			'Input/output error',
		],
		[
			'cut in the word of a record',
			() => real.slice(0, 0x40),
			'truncated',
			['Unknown combination of migration flags: 0x0', SECTION_LINE],
			'Invalid argument',
		],
		[
			'cut in the id of START',
			() => real.slice(0, 0x13),
			'truncated',
			['Unable to read ID string for section 0'],
			'Invalid argument',
		],
		[
			'cut in the header of START',
			() => real.slice(0, 0x1a),
			'truncated',
			['qemu_loadvm_section_start_full: Failed to read instance/version ID: -5'],
			'Input/output error',
		],
		[
			'cut in the header of END',
			() => real.slice(0, 0x3a),
			'truncated',
			['qemu_loadvm_section_part_end: Failed to read section ID: -5'],
			'Input/output error',
		],
		[
			'a subsection of something else',
			() => Uint8Array.of(...real.subarray(0, 17), 5, 2, 0x61, 0x62, 0, 0, 0, 1),
			'section',
			['Unknown savevm section type 5'],
			'Invalid argument',
		],
		[
			'flag 0x200',
			() => inPart((w) => w.opaqueBody(word(0x200))),
			'record',
			['Unknown combination of migration flags: 0x200', SECTION_LINE],
			'Invalid argument',
		],
		[
			'ZERO and PAGE together',
			() =>
				inPart((w) => {
					w.zeroPage('pc.ram', 0, 0);
					w.opaqueBody(word(0x2a));
				}),
			'record',
			['Unknown combination of migration flags: 0x2a', SECTION_LINE],
			'Invalid argument',
		],
		[
			'flag 0x100',
			() => inPart((w) => w.opaqueBody(word(0x100))),
			'unsupported',
			['Received an unexpected compressed page', SECTION_LINE],
			'Invalid argument',
		],
		['flag 0x080', () => inPart((w) => w.opaqueBody(word(0x80))), 'unsupported', [SECTION_LINE], 'Invalid argument'],
		[
			'CONTINUE first',
			() => inPart((w) => w.zeroPage('pc.ram', 0, 0, true)),
			'continue',
			['Ack, bad migration stream!', 'Illegal RAM offset 0', SECTION_LINE],
			'Invalid argument',
		],
		[
			'an offset of 2^63',
			() => inPart((w) => w.opaqueBody(Uint8Array.of(0x80, 0, 0, 0, 0, 0, 0, 2, 1, 0x61, 0))),
			'offset',
			['Illegal RAM offset 8000000000000000', SECTION_LINE],
			'Invalid argument',
		],
	];
	it.each(rows)('%s', async (_name, make, code, qemu, strerror) => {
		const data = await make();
		expect(thrown(() => read(data))).toMatchObject({ name: 'StreamError', code, qemu, strerror });
	});

	it('refuses an unknown subtype, and blobs above 16 KiB before reading them', async () => {
		const subtype = await inPart((w) => {
			w.zeroPage('pc.ram', 0, 0);
			w.opaqueBody(Uint8Array.of(...word(0x220), 0, 0, 0, 4));
		});
		expect(thrown(() => read(subtype, 'sev-v4'))).toMatchObject({ qemu: ['unknown encrypted flag 4', SECTION_LINE] });
		const blob = await inPart((w) => {
			w.zeroPage('pc.ram', 0, 0);
			w.opaqueBody(Uint8Array.of(...word(0x220), 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0x40, 1));
		});
		expect(thrown(() => read(blob, 'sev-v4'))).toMatchObject({
			code: 'encrypted',
			qemu: ['invalid length max=16384 got=16385', SECTION_LINE],
		});
	});

	it('names offset and section of the fault', async () => {
		const data = await inPart((w) => {
			w.zeroPage('pc.ram', 0, 0);
			w.opaqueBody(word(0));
		});
		expect(thrown(() => read(data))).toMatchObject({ offset: data.length - 8, section: 'ram' });
	});

	it('refuses a block list whose lengths exceed its total, or never reach it', async () => {
		const data = await written((w) => {
			beginStream(w);
		});
		const listAt = 17 + 17;
		expect(thrown(() => read(patched(data, listAt + 6, 0x30)))).toMatchObject({ code: 'block-list' });
		const empties = await inPart((w) => {
			w.opaqueBody(word(4, 0x1000));
			for (let i = 0; i < 2000; i++) w.opaqueBody(new Uint8Array(9));
		});
		expect(thrown(() => read(empties))).toMatchObject({ code: 'too-large' });
	});

	it('refuses device state that has no footer within the cap, holding no more than cap and chunk', async () => {
		const reader = new StreamReader({ dialect: 'qemu-7.2', handler: {}, limits: { deviceBody: 5000 } });
		reader.push(
			await written((w) => {
				beginStream(w);
				w.sectionBegin(device(3, 'timer'));
			}),
		);
		reader.push(new Uint8Array(4000));
		expect(thrown(() => reader.push(new Uint8Array(4000)))).toMatchObject({ code: 'too-large', section: 'timer' });
		expect(thrown(() => reader.push(new Uint8Array(1)))).toMatchObject({ code: 'closed' });
	});

	it('refuses a description and a device length above their caps before they arrive', async () => {
		const description = await written((w) => {
			beginStream(w);
			w.eof();
			w.opaqueBody(Uint8Array.of(SectionType.vmDescription, 0x7f, 0xff, 0xff, 0xff));
		});
		expect(thrown(() => read(description))).toMatchObject({ code: 'too-large' });
		const reader = new StreamReader({ dialect: 'qemu-7.2', handler: {}, deviceLength: () => 2 ** 40 });
		expect(thrown(() => reader.push(real))).toMatchObject({ code: 'too-large', section: 'timer' });
	});

	it('refuses configuration subsections that are unknown, too new, or not of the configuration', async () => {
		const configured = (name: string, version: number) =>
			written((w) => {
				w.header();
				w.configuration({ machineType: 'none', subsections: [{ name, version, data: new Uint8Array(16) }] });
			});
		expect(thrown(() => read(real.slice(0, 20)))).toMatchObject({ code: 'truncated' });
		const unknown = await configured('configuration/other', 1);
		expect(thrown(() => read(unknown))).toMatchObject({ strerror: 'No such file or directory' });
		const tooNew = await configured('configuration/uuid', 2);
		expect(thrown(() => read(tooNew))).toMatchObject({
			qemu: ['configuration/uuid: incoming version_id 2 is too new for local version_id 1'],
		});
	});
});

describe('what QEMU accepts', () => {
	it('a missing description, a stub, and bytes after it', async () => {
		expect(read(real.slice(0, 0x100))).toEqual({ description: false, trailing: 0 });
		const stub = await written((w) => {
			w.opaqueBody(real.slice(0, 0x100));
			w.vmDescription(new TextEncoder().encode('{}'));
			w.trailing(new Uint8Array(70));
		});
		expect(read(stub)).toEqual({ description: true, trailing: 70 });
		const [out] = await relayed(stub, 11, 'qemu-7.2');
		expect(out).toEqual(stub);
	});

	it('CONTINUE that refers to a block named in an earlier section', async () => {
		const data = await inPart((w) => {
			w.zeroPage('pc.ram', 0, 0);
			w.endOfRecords();
			w.sectionEnd(ramPart);
			w.sectionBegin(ramPart);
			w.zeroPage('pc.ram', 0x1000, 0xaa);
			w.endOfRecords();
			w.sectionEnd(ramPart);
			w.eof();
		});
		const seen: string[] = [];
		const reader = new StreamReader({
			dialect: 'qemu-7.2',
			handler: { zeroPage: (block, address, fill, at) => seen.push(`${block} ${address} ${fill} ${at.continued}`) },
		});
		reader.push(data);
		reader.end();
		expect(seen).toEqual(['pc.ram 0 0 false', 'pc.ram 4096 170 true']);
	});

	it('gives a page as a view of the chunk it lies in', async () => {
		const data = await inPart((w) => w.rawPage('pc.ram', 0, page(7)));
		let seen: Uint8Array | undefined;
		const reader = new StreamReader({
			dialect: 'qemu-7.2',
			handler: {
				rawPage: (_block, _address, bytes) => {
					seen = bytes;
				},
			},
		});
		reader.push(Buffer.from(data.buffer, data.byteOffset, data.byteLength));
		expect(seen?.buffer).toBe(data.buffer);
		expect(seen?.constructor).toBe(Uint8Array);
		expect(seen).toEqual(page(7));
	});

	it('addresses in the block list when the stream announces x-ignore-shared', async () => {
		const data = await written((w) => {
			w.header();
			const names = new TextEncoder().encode('\0\0\0\x01\x0fx-ignore-shared');
			w.configuration({
				machineType: 'none',
				subsections: [{ name: 'configuration/capabilities', version: 1, data: names }],
			});
			w.sectionBegin({ ...ramPart, type: SectionType.start });
			w.blockList([{ idstr: 'pc.bios', usedLength: 4096, address: 0xfffc0000n }]);
			w.endOfRecords();
			w.sectionEnd(ramPart);
			w.eof();
		});
		const [out] = await relayed(data, 6, 'qemu-7.2');
		expect(out).toEqual(data);
	});
});

describe('encrypted pages', () => {
	it('carry the session prefix once, and the reader knows where', async () => {
		const data = await smallStream();
		for (const size of [1, 9, 4096, data.length]) {
			expect((await relayed(data, size, 'sev-v4'))[0]).toEqual(data);
		}
		const prefixes: unknown[] = [];
		const reader = new StreamReader({
			dialect: 'sev-v4',
			handler: { encryptedPage: (_block, _address, _header, _payload, _at, prefix) => prefixes.push(prefix) },
		});
		reader.push(data);
		expect(prefixes).toEqual([TOY_PREFIX]);
	});
});
