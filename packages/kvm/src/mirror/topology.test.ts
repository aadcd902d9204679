import { describe, expect, it } from 'vitest';
import { guestCpuView } from './acpi.js';
import { CpuHotplugCommand, CpuHotplugOffset, createCpuHotplugBlock } from './cpu-hotplug.js';
import { isMirrorVcpu, parseSmp } from './topology.js';

describe('-smp', () => {
	it('takes mirror vCPUs from the end of the possible CPUs', () => {
		const topology = parseSmp('4,mirrorvcpus=1');
		expect(topology).toEqual({ cpus: 4, maxCpus: 4, mirrorVcpus: 1 });
		expect([0, 1, 2, 3].map((i) => isMirrorVcpu(topology, i))).toEqual([false, false, false, true]);
		const more = parseSmp('cpus=2,maxcpus=6,mirrorvcpus=2');
		expect([0, 1, 2, 3, 4, 5].filter((i) => isMirrorVcpu(more, i))).toEqual([4, 5]);
	});

	it('has none by default', () => {
		expect(parseSmp('2')).toEqual({ cpus: 2, maxCpus: 2, mirrorVcpus: 0 });
	});

	it('refuses more than there can be, in the words of the branch, which say one less', () => {
		expect(() => parseSmp('4,mirrorvcpus=5')).toThrow(/mirror vcpus must be less than max cpus/);
		expect(parseSmp('4,mirrorvcpus=4').mirrorVcpus).toBe(4);
	});

	it.each(['', '4,mirrorvcpus', '4,mirrorvcpus=x', '4,mirrorvcpus=-1', '4,sockets=2', '4,maxcpus=2', '289', '1e9'])(
		'refuses %j',
		(option) => {
			expect(() => parseSmp(option)).toThrow(expect.objectContaining({ name: 'MirrorError', code: 'smp' }));
		},
	);
});

describe('what the guest is told of its CPUs', () => {
	it('leaves mirror vCPUs out of the boot count, the tables and the notifications', () => {
		const view = guestCpuView(parseSmp('3,maxcpus=4,mirrorvcpus=1'));
		expect([...view.bootCpuCount]).toEqual([2, 0]);
		expect([...view.madtEntries]).toEqual(
			[
				[0, 8, 0, 0, 1, 0, 0, 0],
				[0, 8, 1, 1, 1, 0, 0, 0],
				[0, 8, 2, 2, 1, 0, 0, 0],
			].flat(),
		);
		expect([...view.sratEntries]).toEqual(
			[0, 1, 2].flatMap((id) => [0, 16, 0, id, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
		);
		expect(view.processorObjects).toEqual(['C000', 'C001', 'C002']);
		expect(view.notifyTargets).toEqual(['C000', 'C001', 'C002']);
	});

	it('lists CPUs that may come as not enabled', () => {
		expect([...guestCpuView(parseSmp('1,maxcpus=2')).madtEntries.subarray(8)]).toEqual([0, 8, 1, 1, 0, 0, 0, 0]);
	});

	it('counts mirrors off that are not there at boot: the branch does', () => {
		expect([...guestCpuView(parseSmp('2,maxcpus=4,mirrorvcpus=1')).bootCpuCount]).toEqual([1, 0]);
		expect([...guestCpuView(parseSmp('1,maxcpus=4,mirrorvcpus=2')).bootCpuCount]).toEqual([0xff, 0xff]);
		expect([...guestCpuView(parseSmp('2,mirrorvcpus=2')).bootCpuCount]).toEqual([0, 0]);
	});

	it('uses the x2APIC structures from id 255 on', () => {
		const { madtEntries, sratEntries, processorObjects } = guestCpuView(parseSmp('256'));
		expect(madtEntries).toHaveLength(255 * 8 + 16);
		expect([...madtEntries.subarray(255 * 8)]).toEqual([9, 16, 0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 255, 0, 0, 0]);
		expect(sratEntries).toHaveLength(255 * 16 + 24);
		expect([...sratEntries.subarray(255 * 16, 255 * 16 + 16)]).toEqual([
			2, 24, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 1, 0, 0, 0,
		]);
		expect(processorObjects.at(-1)).toBe('C0FF');
	});
});

describe('the register block of CPU hotplug', () => {
	const { data, data2, command, flags, selector } = CpuHotplugOffset;
	const ask = (option: string) => {
		const block = createCpuHotplugBlock(parseSmp(option));
		block.write(command, 1, CpuHotplugCommand.nextCpuWithEvent);
		return block;
	};

	it('works as QEMU’s without a mirror vCPU', () => {
		const block = ask('2,maxcpus=3');
		expect(block.read(data2, 4)).toBe(0);
		block.write(selector, 4, 2);
		expect([block.read(flags, 1), block.read(data, 4)]).toEqual([0, 2]);
		block.write(selector, 4, 1);
		expect(block.read(flags, 1)).toBe(1);
		block.write(command, 1, CpuHotplugCommand.cpuId);
		expect([block.read(data, 4), block.read(data2, 4)]).toEqual([1, 0]);
	});

	it('says −1 to the question for the next CPU if there is any mirror vCPU', () => {
		const block = ask('2,mirrorvcpus=1');
		expect([block.read(data2, 4), block.read(data2, 1)]).toEqual([0xffff_ffff, 0xff]);
		block.write(command, 1, CpuHotplugCommand.cpuId);
		expect(block.read(data2, 4)).toBe(0);
	});

	it('reads as zeros beyond the CPUs', () => {
		const block = ask('2,mirrorvcpus=1');
		block.write(selector, 4, 9);
		expect([data2, flags, data].map((at) => block.read(at, 4))).toEqual([0, 0, 0]);
	});
});
