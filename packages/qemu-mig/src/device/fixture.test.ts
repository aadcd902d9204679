import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { noneMachine } from '../../test/fixtures/none-machine.js';
import type { DeviceTree, SectionInfo, VmDescription } from '../index.js';
import {
	deviceLengths,
	deviceToJson,
	diffDevices,
	findDevice,
	formatVmDescription,
	leavesOf,
	parseVmDescription,
	StreamReader,
	viewDevice,
	walkDevice,
} from '../index.js';

/** Bodies and description of a stream. */
function devicesOf(data: Uint8Array): {
	json: Uint8Array;
	description: VmDescription;
	bodies: { section: SectionInfo; body: Uint8Array }[];
} {
	const bodies: { section: SectionInfo; body: Uint8Array }[] = [];
	let json = new Uint8Array(0);
	const reader = new StreamReader({
		dialect: 'qemu-7.2',
		handler: {
			opaqueBody: (section, body) => bodies.push({ section, body: body.slice() }),
			vmDescription: (text) => {
				json = text.slice();
			},
		},
	});
	reader.push(data);
	reader.end();
	return { json, description: parseVmDescription(json), bodies };
}

/** Every body decoded by what the description says of it. */
const walkAll = ({ description, bodies }: ReturnType<typeof devicesOf>): DeviceTree[] =>
	bodies.map(({ section, body }) => {
		const device = findDevice(description, section.idstr, section.instanceId);
		if (device === undefined) throw new Error(`${section.idstr} is not described`);
		return walkDevice(device, body, { version: section.version });
	});

const pc = devicesOf(readFileSync(new URL('../../../../apps/cvm/fixtures/qemu-7.2-pc-16m.qevm', import.meta.url)));
const trees = walkAll(pc);
const treeOf = (idstr: string): DeviceTree => {
	const tree = trees.find((one) => one.idstr === idstr);
	if (tree === undefined) throw new Error(`no ${idstr}`);
	return tree;
};

describe('the stream that QEMU 7.2.22 wrote of a PC', () => {
	it('has every device described, and every byte of every device in a field', () => {
		expect(trees.map(({ idstr }) => idstr)).toEqual(pc.description.devices.map(({ idstr }) => idstr));
		expect(trees.length).toBe(29);
		for (const { root, body } of trees) expect(root.length).toBe(body.length);
	});

	it('leaves no gap between the fields, except the heads of subsections', () => {
		const apic = treeOf('apic');
		let at = 0;
		for (const { field } of leavesOf(apic)) {
			expect(field.offset).toBe(at);
			at += field.length;
		}
		expect(at).toBe(apic.body.length);
	});

	it('is described by a text that parses and formats to the same bytes', () => {
		expect(Buffer.from(formatVmDescription(pc.description)).equals(pc.json)).toBe(true);
	});

	it('has bodies of exactly the lengths the description gives', () => {
		const lengths = deviceLengths(pc.description);
		expect(pc.bodies.map(({ section, body }) => [section.idstr, section.instanceId, body.length])).toEqual(
			lengths.entries.map(({ idstr, instanceId, length }) => [idstr, instanceId, length]),
		);
		expect(lengths.of('globalstate', 0)).toBe(104);
		expect(lengths.of('globalstate', 1)).toBeUndefined();
	});

	it('shows the processor where the firmware had it', () => {
		const groups = new Map(viewDevice(treeOf('cpu'))?.map(({ name, entries }) => [name, entries]));
		const value = (group: string, label: string): unknown =>
			groups.get(group)?.find((entry) => entry.label === label)?.value;
		// interop/capture.mjs: 16-bit code at F000:0000 that walks es from 0x1000 to 0x6fff.
		expect(value('segments', 'cs.selector')).toBe(0xf000);
		expect(value('segments', 'cs.base')).toBe(0xf0000n);
		expect(value('registers', 'rip')).toBeLessThan(0x20n);
		const es = Number(value('segments', 'es.selector'));
		expect(es).toBeGreaterThanOrEqual(0x1000);
		expect(es).toBeLessThan(0x7000);
		expect(value('segments', 'es.base')).toBe(BigInt(es) << 4n);
		expect(Number(value('control', 'cr0')) & 1).toBe(0);
		expect(value('subsections', 'cpu/poll_control_msr.env.poll_control_msr')).toBe(0n);
	});

	it('shows the run state as text', () => {
		expect(viewDevice(treeOf('globalstate'))).toEqual([
			{
				name: 'run state',
				entries: [
					{ label: 'size', path: 'size', value: 7 },
					{ label: 'runstate', path: 'runstate', value: 'paused' },
				],
			},
		]);
		expect(viewDevice(treeOf('i8254'))).toBeUndefined();
	});

	it('is plain data for JSON', () => {
		const cpu = deviceToJson(treeOf('cpu'), { elements: 2 });
		expect(JSON.parse(JSON.stringify(cpu))).toEqual(cpu);
		expect(cpu.fields[0]).toMatchObject({
			name: 'env.regs',
			count: 16,
			type: 'uint64',
			offset: 0,
			length: 128,
			cut: true,
		});
		expect(cpu.subsections?.map(({ vmsd }) => vmsd)).toEqual(['cpu/poll_control_msr']);
	});

	it('equals itself, and differs where one byte is changed', () => {
		expect(diffDevices(trees, trees)).toEqual([]);
		const cpu = treeOf('cpu');
		const body = cpu.body.slice();
		body[31] = (body[31] ?? 0) ^ 1;
		const device = findDevice(pc.description, 'cpu', 0);
		if (device === undefined) throw new Error('no cpu');
		const [only, ...more] = diffDevices(cpu, walkDevice(device, body));
		expect(more).toEqual([]);
		expect(only).toMatchObject({ idstr: 'cpu', path: 'env.regs[3]' });
		expect(BigInt(only?.a as bigint) ^ BigInt(only?.b as bigint)).toBe(1n);
	});

	it('gives a typed error for every place where a body is cut', () => {
		for (const { section, body } of pc.bodies) {
			const device = findDevice(pc.description, section.idstr, section.instanceId);
			if (device === undefined) throw new Error('not described');
			for (let length = 0; length < body.length; length += 1 + (length >> 3)) {
				expect(() => walkDevice(device, body.subarray(0, length)), `${section.idstr} ${length}`).toThrow(
					expect.objectContaining({ name: 'DeviceStateError', idstr: section.idstr }),
				);
			}
			expect(() => walkDevice(device, Uint8Array.of(...body, 0))).toThrow(
				expect.objectContaining({ code: 'trailing' }),
			);
		}
	});
});

describe('the smallest stream', () => {
	it('is described and walked as well', () => {
		const none = devicesOf(noneMachine());
		expect(walkAll(none).map(({ idstr, body }) => [idstr, body.length])).toEqual([
			['timer', 24],
			['globalstate', 104],
		]);
		expect(Buffer.from(formatVmDescription(none.description)).equals(none.json)).toBe(true);
	});
});
