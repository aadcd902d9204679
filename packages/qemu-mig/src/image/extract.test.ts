import { readFileSync } from 'node:fs';
import { PAGE_SIZE } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { contentStream, opened, randomContent } from '../../test/image-fixtures.js';
import { page, ramPart, ramStart, written } from '../../test/streams.js';
import type { SparseOutput } from '../image.js';
import { dense, devicesJson, deviceTrees, diffImages, elfCore, memoryMap, openImage, rawBlock } from '../image.js';

const whole = (output: SparseOutput): Buffer => Buffer.concat(Array.from(dense(output), (chunk) => chunk.slice()));
const fixture = readFileSync(new URL('../../../../apps/cvm/fixtures/qemu-7.2-pc-16m.qevm', import.meta.url));

describe('a raw block', () => {
	it('is its pages, and sparse where they are zero', async () => {
		const content = randomContent(2, [600, 3]);
		const image = await opened(await contentStream(content));
		for (const { idstr, pages } of content.blocks) {
			const output = rawBlock(image, idstr);
			expect(whole(output).equals(Buffer.concat(pages))).toBe(true);
			const zeros = pages.filter((one) => one.every((byte) => byte === 0)).length;
			let bytes = 0;
			let last = 0;
			for (const { offset, data } of output.pieces()) {
				expect(offset).toBeGreaterThanOrEqual(last);
				last = offset + data.length;
				bytes += data.length;
			}
			expect(bytes).toBe((pages.length - zeros) * PAGE_SIZE);
		}
		expect(() => rawBlock(image, 'nix')).toThrow("expected one of 'pc.ram', 'rom1', got 'nix'");
	});

	it('is refused where pages are ciphertext or never came, unless zeros will do', async () => {
		const image = await opened(await contentStream(randomContent(2), true), { dialect: 'sev-v4' });
		expect(() => rawBlock(image, 'pc.ram')).toThrow("block 'pc.ram': 0x0..0x1000 is encrypted");
		const zeroed = whole(rawBlock(image, 'pc.ram', { sealed: 'zero' }));
		expect(zeroed.subarray(0, PAGE_SIZE).every((byte) => byte === 0)).toBe(true);
		const facts = await openImage(fixture);
		expect(() => rawBlock(facts, 'pc.ram')).toThrow('opened without a store');
	});
});

/** Program headers of an ELF file, read independently. */
function programHeaders(file: Buffer): { type: number; offset: number; address: bigint; length: number }[] {
	expect(file.subarray(0, 7).toString('latin1')).toBe('\x7fELF\x02\x01\x01');
	expect([file.readUInt16LE(16), file.readUInt16LE(18)]).toEqual([4, 62]);
	const at = Number(file.readBigUInt64LE(32));
	return Array.from({ length: file.readUInt16LE(56) }, (_, i) => {
		const from = at + i * file.readUInt16LE(54);
		const [offset, length] = [8, 32].map((field) => Number(file.readBigUInt64LE(from + field))) as [number, number];
		return { type: file.readUInt32LE(from), offset, address: file.readBigUInt64LE(from + 24), length };
	});
}

describe('an ELF core', () => {
	it('of what QEMU 7.2 wrote holds RAM at 0, registers, and the names of the rest', async () => {
		const image = await opened(fixture);
		const core = whole(elfCore(image));
		const [note, ram, ...rest] = programHeaders(core);
		expect(rest).toEqual([]);
		expect(ram).toMatchObject({ type: 1, address: 0n, length: 2 ** 24 });
		const content = core.subarray(ram?.offset ?? 0, (ram?.offset ?? 0) + 2 ** 24);
		expect(content.equals(whole(rawBlock(image, 'pc.ram')))).toBe(true);
		expect(note?.type).toBe(4);
		const notes = core.subarray(note?.offset ?? 0, (note?.offset ?? 0) + (note?.length ?? 0));
		// NT_PRSTATUS of the CPU: its RIP, 16 words into the registers.
		expect(notes.subarray(12, 16).toString()).toBe('CORE');
		const cpu = deviceTrees(image).find(({ tree }) => tree?.idstr === 'cpu')?.tree;
		const eip = cpu?.root.fields.find(({ name }) => name === 'env.eip');
		expect(notes.readBigUInt64LE(20 + 112 + 16 * 8)).toBe(BigInt(eip?.kind === 'integer' ? eip.value : -1));
		expect(notes.includes('QEMU')).toBe(true);
		expect(/\npc\.bios \d+ omitted\n/.test(notes.toString('latin1'))).toBe(true);
		expect(whole(elfCore(image, { cpus: false })).includes('CORE')).toBe(false);
	});

	it('splits RAM as the machine does, and takes other blocks where asked', async () => {
		const data = await written((writer) => {
			writer.header();
			writer.configuration({ machineType: 'pc-q35-7.2', subsections: [] });
			writer.sectionBegin(ramStart);
			writer.blockList([
				{ idstr: 'pc.ram', usedLength: 0xc0000000 },
				{ idstr: 'rom', usedLength: PAGE_SIZE },
			]);
			writer.endOfRecords();
			writer.sectionEnd(ramStart);
			writer.sectionBegin(ramPart);
			writer.rawPage('pc.ram', 0x7ffff000, page(1));
			writer.rawPage('pc.ram', 0x80000000, page(2));
			writer.rawPage('rom', 0, page(3));
			writer.endOfRecords();
			writer.sectionEnd(ramPart);
			writer.eof();
		});
		const image = await opened(data);
		expect(() => elfCore(image)).toThrow('never arrived');
		const core = elfCore(image, { missing: 'zero', others: 'segments' });
		expect(core.segments.map(({ block, start, length, address }) => [block, start, length, address])).toEqual([
			['pc.ram', 0, 0x80000000, 0n],
			['pc.ram', 0x80000000, 0x40000000, 0x100000000n],
			['rom', 0, PAGE_SIZE, 1n << 56n],
		]);
		const [, low, high, rom] = Array.from(core.pieces(), ({ offset, data: bytes }) => ({ offset, first: bytes[0] }));
		const [first, second, third] = core.segments;
		expect(low).toEqual({ offset: (first?.offset ?? 0) + 0x7ffff000, first: 1 });
		expect(high).toEqual({ offset: second?.offset, first: 2 });
		expect(rom).toEqual({ offset: third?.offset, first: 3 });
		const other = elfCore(image, { missing: 'zero', below4g: 0xb0000000 });
		expect(other.segments[1]).toMatchObject({ start: 0xb0000000, address: 0x100000000n });
	});
});

it('the memory map is that of each machine', () => {
	const split = (machine: string, gib: number): number | undefined => {
		const map = memoryMap(machine, gib * 2 ** 30);
		return map?.length === 2 ? map[1]?.start : map && 0;
	};
	expect(split('pc-i440fx-7.2', 3)).toBe(0);
	expect(split('pc-i440fx-7.2', 4)).toBe(0xc0000000);
	expect(split('pc-i440fx-1.7', 4)).toBe(0xe0000000);
	expect(split('pc-q35-7.2', 2.5)).toBe(0);
	expect(split('pc-q35-7.2', 2.75)).toBe(0x80000000);
	expect(split('microvm', 4)).toBe(0xc0000000);
	expect(split('none', 1)).toBe(0);
	expect(split('virt-7.2', 4)).toBeUndefined();
});

it('device state is JSON, decoded or not', async () => {
	const image = await opened(fixture);
	const devices = devicesJson(image);
	expect(devices.length).toBe(29);
	expect(devices.every((device) => 'state' in device)).toBe(true);
	expect(JSON.parse(JSON.stringify(devices))[0]).toMatchObject({ idstr: 'timer', state: { vmsd: 'timer' } });
	const bare = { ...image, description: undefined };
	const { description: _, ...undescribed } = bare;
	expect(devicesJson(undescribed)[0]).toMatchObject({ problem: 'the stream has no description' });
});

it('two images differ in blocks, pages, fields and bodies', async () => {
	const changed = Buffer.from(fixture);
	const image = await opened(fixture);
	const ram = image.blocks[0];
	const raw = Array.from({ length: 4096 }, (_, i) => i).find((number) => ram?.facts.kindAt(number) === 1) ?? 0;
	const body = image.devices[0]?.bodyOffset ?? 0;
	const record = ram?.facts.lastOffset(raw) ?? 0;
	changed[record + 200] = (changed[record + 200] ?? 0) ^ 0xff;
	changed[body + 3] = (changed[body + 3] ?? 0) ^ 1;
	const diff = diffImages(image, await opened(changed));
	expect(diff).toMatchObject({
		equal: false,
		differingPages: 1,
		pages: [{ block: 'pc.ram', start: raw * PAGE_SIZE, end: (raw + 1) * PAGE_SIZE, reason: 'content' }],
		devices: [{ idstr: 'timer' }],
		bodies: [],
		blocks: [],
	});
	const other = diffImages(image, await opened(await contentStream(randomContent(1))));
	expect(other.machine).toBeUndefined();
	expect(other.blocks.length).toBe(image.blocks.length + 2);
	expect(other.bodies.length).toBeGreaterThan(0);
});

it('the inventory is a note of a type that no reader takes for its own', async () => {
	const core = whole(elfCore(await opened(fixture), { cpus: false }));
	const at = core.indexOf('CVM\0');
	expect(core.readUInt32LE(at - 4)).toBe(0x43564d00);
});
