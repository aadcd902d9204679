import { PAGE_SIZE } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import type { SectionInfo, StreamWriter } from '../src/index.js';
import { isStreamError, SectionType, StreamReader } from '../src/index.js';
import { TOY_PREFIX } from '../src/testing.js';
import { noneMachine } from './fixtures/none-machine.js';
import { patched, ramEnd, ramPart, ramStart, read, relayed, smallStream, thrown, written } from './streams.js';

type Step = (writer: StreamWriter, state: { session: boolean; named: boolean }) => void;

const blockName = fc.constantFrom('pc.ram', '/rom@etc/acpi/tables', 'x'.repeat(255), '\u0000\u00ff');
const address = fc.integer({ min: 0, max: 2 ** 36 }).map((page) => page * PAGE_SIZE);
const blob = fc.uint8Array({ maxLength: 300 });
/** CONTINUE only where it is legal; `false` and `undefined` always are. */
const continued = fc.constantFrom(undefined, false, true);

const pageStep = (encrypted: boolean): fc.Arbitrary<Step> =>
	fc
		.tuple(
			fc.constantFrom('raw', 'zero', encrypted ? 'sealed' : 'raw'),
			blockName,
			address,
			continued,
			fc.nat(255),
			blob,
		)
		.map(([kind, block, at, cont, fill, data]) => (writer, state) => {
			const legal = state.named ? cont : cont && undefined;
			state.named = true;
			if (kind === 'raw') writer.rawPage(block, at, new Uint8Array(PAGE_SIZE).fill(fill), legal);
			else if (kind === 'zero') writer.zeroPage(block, at, fill, legal);
			else {
				writer.encryptedPage(block, at, data, data, state.session ? undefined : TOY_PREFIX, legal);
				state.session = true;
			}
		});

const regionStep: fc.Arbitrary<Step> = fc
	.tuple(blockName, fc.array(fc.tuple(fc.nat(), fc.nat()), { maxLength: 4 }), fc.constantFrom(0, 2, 0xffffffff))
	.map(([block, list, terminator]) => (writer, state) => {
		const regions = list.map(([gfnStart, gfnEnd]) => ({ gfnStart, gfnEnd }));
		writer.sharedRegions(block, 0, regions, terminator);
		state.named = true;
	});

const ramSection = (encrypted: boolean): fc.Arbitrary<Step> =>
	fc
		.tuple(
			fc.boolean(),
			fc.array(encrypted ? fc.oneof(pageStep(true), regionStep) : pageStep(false), { maxLength: 6 }),
			fc.boolean(),
		)
		.map(([last, records, oddEos]) => (writer, state) => {
			const section = last ? ramEnd : ramPart;
			writer.sectionBegin(section);
			for (const record of records) record(writer, state);
			writer.endOfRecords(oddEos ? 0x5000 : 0, oddEos);
			writer.sectionEnd(section);
		});

const commandStep: fc.Arbitrary<Step> = fc
	.tuple(fc.constantFrom(1, 2, 3, 8, 10, 0x4356, 0x4357), fc.uint8Array({ maxLength: 20 }))
	.map(
		([command, data]) =>
			(writer) =>
				writer.command(command, data),
	);

const deviceStep: fc.Arbitrary<Step> = fc
	.tuple(fc.integer({ min: 3, max: 2 ** 32 - 1 }), fc.constantFrom('timer', '0000:00:1f.2/ich9_ahci'), fc.nat(), blob)
	.map(([id, idstr, number, body]) => (writer) => {
		const section: SectionInfo = { type: SectionType.full, id, idstr, instanceId: number, version: number };
		writer.sectionBegin(section);
		writer.opaqueBody(body);
		writer.sectionEnd(section);
	});

const stream = (encrypted: boolean): fc.Arbitrary<Promise<Uint8Array>> =>
	fc
		.tuple(
			fc.constantFrom('none', 'pc-q35-7.2', ''),
			fc.array(fc.uint8Array({ minLength: 16, maxLength: 16 }), { maxLength: 1 }),
			fc.array(blockName, { maxLength: 3 }),
			fc.array(fc.oneof(ramSection(encrypted), commandStep, deviceStep), { maxLength: 6 }),
			fc.option(fc.string({ maxLength: 20 }).map((text) => `{${text}`)),
			blob,
		)
		.map(([machineType, uuids, blocks, steps, json, trailing]) =>
			written((writer) => {
				writer.header();
				const subsections = uuids.map((data) => ({ name: 'configuration/uuid', version: 1, data }));
				writer.configuration({ machineType, subsections });
				writer.sectionBegin(ramStart);
				writer.blockList(blocks.map((idstr, i) => ({ idstr, usedLength: (i + 1) * PAGE_SIZE })));
				writer.endOfRecords();
				writer.sectionEnd(ramStart);
				const state = { session: false, named: false };
				for (const step of steps) step(writer, state);
				writer.eof();
				if (json === null) return;
				writer.vmDescription(new TextEncoder().encode(json));
				writer.trailing(trailing);
			}),
		);

const chunkSize = fc.oneof(fc.integer({ min: 1, max: 64 }), fc.integer({ min: 65, max: 20000 }));

describe('reading and writing again', () => {
	test.prop([stream(false), chunkSize])(
		'gives the same bytes for any plain stream in any chunks',
		async (make, size) => {
			const data = await make;
			expect(Buffer.compare((await relayed(data, size, 'qemu-7.2'))[0], data)).toBe(0);
		},
	);

	test.prop([stream(true), chunkSize])('gives the same bytes for any stream with sealed pages', async (make, size) => {
		const data = await make;
		expect(Buffer.compare((await relayed(data, size, 'sev-v4'))[0], data)).toBe(0);
	});
});

describe('damaged streams', () => {
	it('cut at any byte before EOF end in a typed error, and after it without a description', async () => {
		const data = await smallStream();
		const description = data.length - '{"page_size": 4096, "devices": []}'.length - 5;
		// Page contents are alike at every byte: look at some of them.
		for (let length = 0; length < data.length; length += length > 300 && length % 4096 < 3700 ? 97 : 1) {
			if (length === description) expect(read(data.slice(0, length), 'sev-v4').description).toBe(false);
			else {
				const error = thrown(() => read(data.slice(0, length), 'sev-v4'));
				expect(error, `cut at ${length}`).toMatchObject({ name: 'StreamError', code: 'truncated' });
			}
		}
	});

	const real = noneMachine();
	test.prop([fc.nat(real.length * 8 - 1), fc.integer({ min: 1, max: 800 })])(
		'with one bit flipped are read or refused with a typed error, alike in any chunks',
		(bit, size) => {
			const data = patched(real, bit >> 3, (real[bit >> 3] ?? 0) ^ (1 << (bit & 7)));
			const whole = thrown(() => read(data));
			const pieces = thrown(() => {
				const reader = new StreamReader({ dialect: 'qemu-7.2', handler: {}, compress: false });
				for (let at = 0; at < data.length; at += size) reader.push(data.subarray(at, at + size));
				reader.end();
			});
			if (whole !== undefined) expect(isStreamError(whole)).toBe(true);
			expect(isStreamError(pieces) && pieces.code).toBe(isStreamError(whole) && whole.code);
		},
	);

	test.prop([fc.uint8Array({ maxLength: 400 }), fc.nat(60)])(
		'of random bytes end in a typed error or not at all',
		(junk, keep) => {
			const data = new Uint8Array([...real.subarray(0, keep), ...junk]);
			const error = thrown(() => read(data, 'sev-v4'));
			expect(error === undefined || isStreamError(error)).toBe(true);
		},
	);

	it('with any single bit flipped raise nothing but typed errors', async () => {
		const data = await smallStream();
		let refused = 0;
		for (let at = 0; at < data.length; at += at > 200 && at % 4096 < 3700 ? 61 : 1) {
			for (let bit = 0; bit < 8; bit++) {
				const error = thrown(() => read(patched(data, at, (data[at] ?? 0) ^ (1 << bit)), 'sev-v4'));
				if (error !== undefined) expect(isStreamError(error), `byte ${at} bit ${bit}: ${error}`).toBe(true);
				else continue;
				refused++;
			}
		}
		expect(refused).toBeGreaterThan(400);
	});
});
