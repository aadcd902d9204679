import { EfiStatus, MemoryMap } from '@cvm/kvm/guest';
import type { CodeFragment } from '@cvm/kvm/vcpu';
import {
	type FirmwareOptions,
	NO_MAPPING,
	ovmfFirmware,
	REPORT_CALLS,
	variableRecord,
	variableStore,
} from '@cvm/ovmf-mh/firmware';
import { createFwCfgDevice } from '@cvm/ovmf-mh/host';
import { describe, expect, it } from 'vitest';
import { C_BIT, createFakeMachine, type FakeHost } from './fake-machine.js';
import { createLifeMachine, START, TARGET } from './life-cycle-rig.js';

const UNSUPPORTED = EfiStatus.unsupported;
const ENCRYPT = true;
const kernel: CodeFragment = {
	name: 'kernel',
	base: MemoryMap.kernelText,
	blocks: {
		kernel_entry: (cpu) => cpu.hlt('kernel_entry'),
		returned: (cpu) => cpu.hlt('returned'),
	},
};
interface Setup extends FirmwareOptions {
	/** KVM feature bits. */
	readonly features?: number;
	readonly vmmcall?: FakeHost['vmmcall'];
	readonly files?: Readonly<Record<string, Uint8Array>>;
}
const files = { 'opt/cvm/none': new Uint8Array() };

function machineOf({ features = 1 << 17, vmmcall, files: extra = {}, ...firmware }: Setup = {}) {
	return createFakeMachine(
		{
			cpuid: (leaf) => {
				if (leaf === 1) return [0, 0, 0x80000000, 0];
				if (leaf === 0x80000000) return [0x8000001f, 0, 0, 0];
				if (leaf === 0x8000001f) return [2, C_BIT | (1 << 6), 0, 0];
				if (leaf === 0x40000000) return [0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d];
				return leaf === 0x40000001 ? [features, 0, 0, 0] : [0, 0, 0, 0];
			},
			sevStatus: 1n,
			fwCfg: createFwCfgDevice({ files: { ...files, ...extra }, ramBytes: 64 << 20, bootCpus: 1 }),
			...(vmmcall && { vmmcall }),
		},
		...ovmfFirmware(firmware),
		kernel,
	);
}
type Machine = ReturnType<typeof machineOf>;

/** In the middle of DXE, where drivers share pages: calls SetMemoryEncDec. */
function encDec(machine: Machine, address: number, bytes: number, encrypted = false) {
	const { cpu } = machine;
	const before = machine.calls.length;
	cpu.setNum('rdi', address);
	cpu.setNum('rsi', bytes);
	cpu.setNum('rdx', encrypted ? 1 : 0);
	for (const name of ['rbp', 'r12', 'r13', 'r15'] as const) cpu.setNum(name, 0x1234);
	cpu.call('fw.enc_dec', 'returned');
	expect(machine.run('returned')).toBe('stopped');
	for (const name of ['rbp', 'r12', 'r13', 'r15'] as const) expect(cpu.num(name)).toBe(0x1234);
	const calls = machine.calls.slice(before).map((c) => [c.gpa, c.pages, c.attributes].map(Number));
	return { status: cpu.reg('rax'), calls };
}
function inDxe(o: Setup = {}): Machine {
	const machine = machineOf(o);
	expect(machine.run('fw.dxe.platform')).toBe('stopped');
	return machine;
}
const PAGE = 4096;
const AT = 0x900000;

describe('SetMemoryEncDec', () => {
	it('changes the tables, then reports once, in both directions', () => {
		const machine = inDxe();
		expect(encDec(machine, AT, 3 * PAGE)).toEqual({ status: EfiStatus.success, calls: [[AT, 3, 0]] });
		expect([AT - 1, AT, AT + 3 * PAGE - 1, AT + 3 * PAGE].map(machine.isShared)).toEqual([false, true, true, false]);
		expect(encDec(machine, AT + PAGE, PAGE, ENCRYPT)).toEqual({ status: 0n, calls: [[AT + PAGE, 1, 0x10]] });
		expect([AT, AT + PAGE, AT + 2 * PAGE].map(machine.isShared)).toEqual([true, false, true]);
	});

	it('reports nothing if no C-bit was touched', () => {
		const machine = inDxe();
		expect(encDec(machine, AT, PAGE, ENCRYPT).calls).toEqual([]);
		encDec(machine, AT, PAGE);
		expect(encDec(machine, AT, PAGE)).toEqual({ status: EfiStatus.success, calls: [] });
	});

	it('goes over a boundary of 2 MiB', () => {
		const machine = inDxe();
		const at = 0xa00000 - PAGE;
		expect(encDec(machine, at, 2 * PAGE)).toEqual({ status: EfiStatus.success, calls: [[at, 2, 0]] });
		expect([at, at + PAGE, at + 2 * PAGE].map(machine.isShared)).toEqual([true, true, false]);
	});

	it('refuses an empty range, and pages that it cannot map one by one', () => {
		const machine = inDxe();
		expect(encDec(machine, AT, 0)).toEqual({ status: EfiStatus.invalidParameter, calls: [] });
		expect(encDec(machine, 0x2000000, PAGE)).toEqual({ status: UNSUPPORTED, calls: [] });
	});

	it('on a host without the feature: as posted UNSUPPORTED although the page is shared now; fixed success', () => {
		for (const [status, expected] of [
			['asPosted', UNSUPPORTED],
			['fixed', EfiStatus.success],
		] as const) {
			const machine = inDxe({ features: 0, reports: { status } });
			expect(encDec(machine, AT, PAGE)).toEqual({ status: expected, calls: [] });
			expect(machine.isShared(AT)).toBe(true);
			// Untouched pages keep their own status.
			expect(encDec(machine, AT, PAGE).status).toBe(EfiStatus.success);
		}
	});

	it.each(['asPosted', 'fixed'] as const)('%s: a refused report is an error', (status) => {
		const machine = inDxe({ reports: { status }, vmmcall: (gpa) => (gpa === BigInt(AT) ? -22n : 0n) });
		expect(encDec(machine, AT, PAGE).status).toBe(NO_MAPPING);
		expect(machine.isShared(AT)).toBe(true);
	});

	it('of an unaligned range: as posted the report misses the last page, fixed it has it', () => {
		const [at, bytes] = [AT + 0x800, 2 * PAGE];
		for (const [range, pages] of [
			['asPosted', 2],
			['fixed', 3],
		] as const) {
			const machine = inDxe({ reports: { range } });
			expect(encDec(machine, at, bytes).calls).toEqual([[AT, pages, 0]]);
			expect([AT, AT + 2 * PAGE].map(machine.isShared)).toEqual([true, true]);
			// Whole pages are the same either way.
			expect(encDec(machine, AT + 16 * PAGE, bytes).calls).toEqual([[AT + 16 * PAGE, 2, 0]]);
		}
	});

	it('v12: says 1 for encrypted', () => {
		const machine = inDxe({ abi: 'v12', features: 1 << 16 });
		encDec(machine, AT, PAGE);
		expect(encDec(machine, AT, PAGE, ENCRYPT).calls).toEqual([[AT, 1, 1]]);
	});
});

describe('the hypercall of March 2021', () => {
	it('says 1 for decrypted, which a host of that time may take for encrypted, and does not look at the result', () => {
		const machine = inDxe({ reports: { call: 'rfc1' }, vmmcall: () => -22n });
		expect(machine.calls.map((c) => Number(c.attributes))).toEqual([1, 1]);
		expect(encDec(machine, AT, PAGE)).toEqual({ status: EfiStatus.success, calls: [[AT, 1, 1]] });
		expect(encDec(machine, AT, PAGE, ENCRYPT).calls).toEqual([[AT, 1, 0]]);
		// So it vouches for reports that nobody took.
		machine.goTo('fw.dxe.platform');
		machine.run('kernel_entry');
		expect(storeOf(machine).count).toBe(1);
	});

	it('counted bytes in an early header', () => {
		expect(encDec(inDxe({ reports: { call: 'rfc1Length' } }), AT, 2 * PAGE).calls).toEqual([[AT, 8192, 1]]);
	});

	it('had another number in a stub', () => {
		expect(REPORT_CALLS.rfc1Stub.number).toBe(11);
		// The fake host knows 12 alone.
		expect(() => inDxe({ reports: { call: 'rfc1Stub' } })).toThrow('unknown hypercall');
	});
});

describe('the GHCB pages of SEC', () => {
	it.each([
		['bothShared', 2, [true, true]],
		['overReport', 2, [true, false]],
		['exact', 1, [true, false]],
	] as const)('%s: %i reported', (ghcb, pages, shared) => {
		const machine = inDxe({ reports: { ghcb } });
		expect(machine.calls[0]).toEqual({ gpa: 0x809000n, pages: BigInt(pages), attributes: 0n });
		expect([0x809000, 0x80a000].map(machine.isShared)).toEqual(shared);
	});
});

describe('reports of a SEV-ES guest', () => {
	it('work if the #VC handler passes all registers', () => {
		const machine = createLifeMachine({ es: true });
		machine.boot();
		expect(machine.log[0]).toBe('share 809000 2 0');
		expect(machine.log.at(-1)).toBe('ready 1');
	});

	it('cannot work with upstream’s handler, which passes RAX and CPL: no report arrives, and nobody vouches', () => {
		const machine = createLifeMachine({ es: true, firmware: { reports: { esRegisters: 'upstream' } } });
		machine.boot();
		const own = machine.log.filter((line) => /^share (809000|860000|ffc00000) /.test(line));
		expect(own).toEqual([]);
		expect(machine.log.filter((line) => line.startsWith('ready'))).toEqual([]);
	});
});

function storeOf({ cpu }: Machine): { count: number; attributes: number; value: number } {
	const head = new Uint8Array(variableStore.size);
	cpu.load(MemoryMap.variableStore, head);
	const { count } = variableStore.decode(head);
	const record = new Uint8Array(variableRecord.size);
	cpu.load(MemoryMap.variableStore + head.length, record);
	const { attributes, nameBytes } = variableRecord.decode(record);
	const value = cpu.loadU8(MemoryMap.variableStore + head.length + record.length + nameBytes);
	return { count, attributes, value };
}

describe('SevLiveMigrationEnabled', () => {
	/** A machine whose memory has the variable store of another one: the same machine after a reset, with other firmware. */
	function bootAfter(before: Machine, o: Setup): Machine {
		const machine = machineOf({ variableStore: 'kept', ...o });
		const { variableStore: at, variableStoreBytes: bytes } = MemoryMap;
		machine.raw.set(before.raw.subarray(at, at + bytes), at);
		expect(machine.run('kernel_entry')).toBe('stopped');
		return machine;
	}
	const booted = (o: Setup = {}) => {
		const machine = machineOf(o);
		expect(machine.run('kernel_entry')).toBe('stopped');
		return machine;
	};
	/** What the kernel would read: whether the firmware vouches. */
	const enables = (machine: Machine) => {
		const { count, value } = storeOf(machine);
		return count === 1 && value === 1;
	};
	/** Firmware from before the patches: it neither reports nor sets the variable. */
	const OLD = { setVariable: 'absent', reportsPages: false } as const;

	it.each([
		['non-volatile', 7],
		['volatile', 6],
	] as const)('%s: attributes %i', (variableAttributes, attributes) => {
		expect(storeOf(booted({ variableAttributes }))).toEqual({ count: 1, attributes, value: 1 });
	});

	it('as posted outlives a downgrade: a stale 1 enables migration though nothing was reported', () => {
		const old = bootAfter(booted({ variableAttributes: 'non-volatile' }), OLD);
		expect(old.calls).toEqual([]);
		expect(enables(old)).toBe(true);
	});

	it('volatile, as the review asked, does not', () => {
		const old = bootAfter(booted({ variableAttributes: 'volatile' }), OLD);
		expect(old.calls).toEqual([]);
		expect(enables(old)).toBe(false);
	});

	it('is set anew by firmware that has it, once, whatever was there', () => {
		const zero = booted({ setVariable: 'zero' });
		expect(storeOf(bootAfter(zero, {}))).toEqual({ count: 1, attributes: 7, value: 1 });
		expect(storeOf(bootAfter(booted(), { variableAttributes: 'volatile' }))).toEqual({
			count: 1,
			attributes: 6,
			value: 1,
		});
	});

	it('does not outlive a reset of firmware that keeps no variables', () => {
		expect(enables(bootAfter(booted(), { ...OLD, variableStore: 'fresh' }))).toBe(false);
	});

	it('a store of nonsense is an empty one', () => {
		const noise = booted();
		noise.cpu.storeU32(MemoryMap.variableStore + 8, 0xffffffff);
		expect(storeOf(bootAfter(noise, OLD)).count).toBe(0);
	});

	it('is set before the handler by PlatformDxe, by AmdSevDxe at EndOfDxe, which a target never reaches', () => {
		const target = (variableSetBy: 'PlatformDxe' | 'AmdSevDxe') => {
			const machine = machineOf({ helper: 'rfc-2021', variableSetBy, files: TARGET });
			expect(machine.run('kernel_entry')).toBe('halted');
			return enables(machine);
		};
		expect(target('PlatformDxe')).toBe(true);
		expect(target('AmdSevDxe')).toBe(false);
		for (const variableSetBy of ['PlatformDxe', 'AmdSevDxe'] as const) {
			expect(enables(booted({ helper: 'rfc-2021', variableSetBy, files: START }))).toBe(true);
		}
	});
});
