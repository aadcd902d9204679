import type { Vcpu } from '@cvm/kvm';
import { ExitReason, IoDirection, MSR_KVM_MIGRATION_CONTROL, RunOffset } from '@cvm/kvm/abi';
import { createMigrationMsr, createSharedPages } from '@cvm/kvm/vmm';
import { gpa, PAGE_SIZE } from '@cvm/layout';
import type { FwCfgDevice } from '@cvm/ovmf-mh/host';
import { describe, expect, it } from 'vitest';
import type { HostContext } from './context.js';
import { ExitAnswers } from './exits.js';
import { ECHO_PORT, SERIAL_PORT } from './ports.js';

const PAGES = 64;
const DATA_AT = 0x800;

/** A VM of 64 pages at 0 and its exits, without hardware. */
function rig({ sev = true }: { sev?: boolean } = {}) {
	const memory = new Uint8Array(PAGES * PAGE_SIZE);
	const touched = [new Uint32Array(PAGES / 32)];
	const shared = createSharedPages();
	const serial: number[] = [];
	const machine = {
		blocks: [{ idstr: 'pc.ram', usedLength: memory.length, gpa: gpa(0), mapping: { bytes: memory } }],
		touched,
		shared,
		confidential: sev,
		sev: sev ? {} : undefined,
		kvm: { abi: 'upstream' },
	};
	const migrationMsr = createMigrationMsr({ isExposed: sev, isEncrypted: true });
	const host = { machine, migrationMsr } as unknown as HostContext;
	const output = { write: (byte: number) => void serial.push(byte), close: () => undefined };
	const exits = new ExitAnswers(() => host, {} as FwCfgDevice, output);
	const run = new Uint8Array(PAGE_SIZE);
	const view = new DataView(run.buffer);
	const answer = (reason: number) => {
		view.setUint32(RunOffset.exitReason, reason, true);
		return exits.answer({ run } as unknown as Vcpu);
	};
	return {
		...{ memory, shared, serial, host },
		touchedPages: () =>
			Array.from({ length: PAGES }, (_, i) => i).filter((i) => ((touched[0]?.[i >> 5] ?? 0) >>> (i & 31)) & 1),
		hypercall: (nr: number, ...args: readonly number[]) => {
			view.setBigUint64(RunOffset.hypercallNr, BigInt(nr), true);
			for (const [i, arg] of args.entries()) view.setBigUint64(RunOffset.hypercallArgs + 8 * i, BigInt(arg), true);
			expect(answer(ExitReason.HYPERCALL)).toBe('continue');
			return Number(view.getBigInt64(RunOffset.hypercallRet, true));
		},
		out: (port: number, size: number, value: number) => {
			view.setUint8(RunOffset.ioDirection, IoDirection.out);
			view.setUint8(RunOffset.ioSize, size);
			view.setUint16(RunOffset.ioPort, port, true);
			view.setBigUint64(RunOffset.ioDataOffset, BigInt(DATA_AT), true);
			view.setUint32(DATA_AT, value, true);
			expect(answer(ExitReason.IO)).toBe('continue');
		},
		wrmsr: (index: number, value: bigint) => {
			view.setUint32(RunOffset.msrIndex, index, true);
			view.setBigUint64(RunOffset.msrData, value, true);
			answer(ExitReason.X86_WRMSR);
			return view.getUint8(RunOffset.msrError);
		},
		answer,
	};
}

describe('hypercall 12', () => {
	it('keeps the list, and sends every page again whose status changed, even if nobody writes to it', () => {
		const { hypercall, shared, touchedPages } = rig();
		expect(hypercall(12, 4 * PAGE_SIZE, 3, 0)).toBe(0);
		expect(shared.ranges).toEqual([{ gfnStart: 4, gfnEnd: 7 }]);
		expect(touchedPages()).toEqual([4, 5, 6]);
		expect(hypercall(12, 5 * PAGE_SIZE, 1, 0x10)).toBe(0);
		expect(shared.ranges).toEqual([
			{ gfnStart: 4, gfnEnd: 5 },
			{ gfnStart: 6, gfnEnd: 7 },
		]);
	});

	it('takes ranges without RAM, and those that only begin in it', () => {
		const { hypercall, shared, touchedPages } = rig();
		expect(hypercall(12, (PAGES - 1) * PAGE_SIZE, 100, 0)).toBe(0);
		expect([shared.has(PAGES + 98), touchedPages()]).toEqual([true, [PAGES - 1]]);
	});

	it('refuses frames that no address of the machine has, and other numbers', () => {
		const { hypercall, shared } = rig();
		expect(hypercall(12, 2 ** 52, 1, 0)).toBe(-22);
		expect(hypercall(12, 0, 2 ** 41, 0)).toBe(-22);
		expect(hypercall(11, 0, 1, 0)).toBe(-22);
		expect(shared.ranges).toEqual([]);
	});

	it('does not let the guest grow the list without end', () => {
		const { hypercall, shared } = rig();
		shared.replace(Array.from({ length: 1 << 16 }, (_, i) => ({ gfnStart: 2 * i, gfnEnd: 2 * i + 1 })));
		expect(hypercall(12, 2 ** 40, 1, 0)).toBe(-7);
	});
});

describe('the echo device', () => {
	it('answers in a shared page, which then has to travel again', () => {
		const { out, memory, shared, touchedPages } = rig();
		shared.set(9, 1, true);
		memory.fill(0x0f, 9 * PAGE_SIZE, 10 * PAGE_SIZE);
		out(ECHO_PORT, 4, 9);
		expect(memory.subarray(9 * PAGE_SIZE, 10 * PAGE_SIZE).every((byte) => byte === 0xf0)).toBe(true);
		expect([memory[9 * PAGE_SIZE - 1], memory[10 * PAGE_SIZE], touchedPages()]).toEqual([0, 0, [9]]);
	});

	it.each([8, PAGES, 2 ** 32 - 1])('leaves alone frame %i, which is private or has no RAM', (frame) => {
		const { out, memory, touchedPages } = rig();
		out(ECHO_PORT, 4, frame);
		expect([memory.every((byte) => byte === 0), touchedPages()]).toEqual([true, []]);
	});
});

describe('other exits', () => {
	it('gives a byte to the serial port', () => {
		const { out, serial } = rig();
		out(SERIAL_PORT, 1, 0x44);
		expect(serial).toEqual([0x44]);
	});

	it.each([
		[true, MSR_KVM_MIGRATION_CONTROL, 1n, 0, 1],
		[true, MSR_KVM_MIGRATION_CONTROL, 2n, 1, 0],
		[true, MSR_KVM_MIGRATION_CONTROL + 1, 1n, 1, 0],
		[false, MSR_KVM_MIGRATION_CONTROL, 1n, 1, 0],
	])('SEV %s: WRMSR 0x%x of %i gives error %i and leaves the MSR %i', (sev, index, value, error, after) => {
		const { wrmsr, host } = rig({ sev });
		expect([wrmsr(index, value), host.migrationMsr.value]).toEqual([error, after]);
	});

	it.each([
		[ExitReason.SHUTDOWN, 'triple fault'],
		[ExitReason.FAIL_ENTRY, 'the hardware refused VMRUN: the firmware has not enabled this guest'],
		[99, 'unexpected exit 99'],
	])('halts for exit %i', (reason, halt) => {
		expect(rig().answer(reason)).toEqual({ halt });
	});
});
