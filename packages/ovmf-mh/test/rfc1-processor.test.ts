import { bootParams, MemoryMap } from '@cvm/kvm/guest';
import { PAGE_SIZE } from '@cvm/layout';
import { ovmfFirmware } from '@cvm/ovmf-mh/firmware';
import { describe, expect, it } from 'vitest';
import { PublishedGeometry } from '../src/geometry.js';
import { commandBlock, HelperCommand, RET_PRELOAD } from '../src/mailbox/abi.js';
import { createLifeMachine, type LifeOptions, START, TARGET } from './life-cycle-rig.js';

const { mailbox, ioPage } = PublishedGeometry;
/** This chip's C-bit is not 47, so that K15 must be fixed. */
const FIRMWARE = {
	helper: 'rfc-2021',
	handlerOn: 'applicationProcessor',
	handler: { defects: { encryptionBit: 'fixed' } },
} as const;

function machineOf(o: LifeOptions = {}) {
	const machine = createLifeMachine({ vcpus: 3, files: START, firmware: FIRMWARE, ...o });
	const block = machine.ram.bytes.subarray(mailbox, mailbox + commandBlock.size);
	/** Asks for a page as a host does, and lets only the handler's processor run. */
	const save = (gpa: number) => {
		commandBlock.encodeInto(block, { nr: BigInt(HelperCommand.save), gpa: BigInt(gpa), ret: RET_PRELOAD, go: 1 });
		for (let i = 0; i < 20 && commandBlock.decode(block).done === 0; i++) machine.turn(2);
		return { done: commandBlock.decode(block).done, page: machine.ram.bytes.slice(ioPage, ioPage + PAGE_SIZE) };
	};
	/** The two that the OS knows have come to its workload, and the handler waits for commands. */
	const boot = () =>
		machine.until(
			'the workload, and the handler',
			() =>
				[0, 1].every((i) => machine.at.get(i) === 'ends.start' || machine.at.get(i) === 'ends.again') &&
				machine.at.get(2)?.startsWith('mh.rfc.') === true,
		);
	return { ...machine, save, boot };
}

describe('the handler on an application processor', () => {
	it('is not counted for the OS, and serves commands while the OS runs or stands still', () => {
		const machine = machineOf();
		machine.boot();
		const params = machine.plain(MemoryMap.bootParams, PAGE_SIZE);
		expect(bootParams.decodePrefix(params).cpus).toBe(2);
		const { done, page } = machine.save(MemoryMap.bootParams);
		expect(done).toBe(1);
		expect(page).toEqual(params);
	});

	it('serves a target while the others rest', () => {
		const machine = machineOf({ files: TARGET });
		machine.until('rest', () => machine.at.get(0) === 'fw.mh.dead' && machine.at.get(1) === 'fw.mh.parked');
		for (let i = 0; i < 5; i++) machine.turn(2);
		expect(machine.save(MemoryMap.firmware).done).toBe(1);
	});

	it('dies of the OS if its memory is free to the OS: tables that were not kept from it are cleared', () => {
		const pageTablePool = MemoryMap.workload + 0x200000;
		const places = { pageTablePool, stack: pageTablePool + 0x200000 };
		const machine = machineOf({ firmware: { ...FIRMWARE, handler: { ...FIRMWARE.handler, places } } });
		expect(() => {
			machine.boot();
			machine.save(MemoryMap.bootParams);
		}).toThrow(/^vCPU 2 at mh\.rfc\..*: exit 8/);
	});

	it('is not there in a machine with one processor', () => {
		const machine = createLifeMachine({ vcpus: 1, files: START, firmware: FIRMWARE });
		machine.boot();
		expect(machine.at.get(0)).toMatch(/^ends/);
	});

	it('is no way to run the hardened helper', () => {
		expect(() => ovmfFirmware({ helper: 'hardened', handlerOn: 'applicationProcessor' })).toThrow(
			/^firmware: expected a mirror vCPU/,
		);
	});
});
