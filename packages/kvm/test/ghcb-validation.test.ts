import { gpa } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { ExitCode, type Ghcb, GhcbError, ghcb, ghcbValidBit } from '../src/abi/ghcb.js';
import { ExitReason } from '../src/abi/run-page.js';
import { createGhcbRig, EINTR, EINVAL, event, GHCB, type GhcbRig, resultOf } from './ghcb-rig.js';

const { MISSING_INPUT, INVALID_EVENT, INVALID_USAGE } = GhcbError;

describe('the GHCB page', () => {
	it('has the offsets of the standard, and a valid bit per 8 bytes', () => {
		// AMD 56421 §2.3: field, offset, bit.
		const table = [
			...[
				['cpl', 0xcb, 25],
				['xss', 0x140, 40],
				['dr7', 0x160, 44],
				['rip', 0x178, 47],
				['rsp', 0x1d8, 59],
			],
			...[
				['rax', 0x1f8, 63],
				['rcx', 0x308, 97],
				['rdx', 0x310, 98],
				['rbx', 0x318, 99],
				['rbp', 0x328, 101],
			],
			...[
				['rsi', 0x330, 102],
				['rdi', 0x338, 103],
				['r8', 0x340, 104],
				['r9', 0x348, 105],
				['r10', 0x350, 106],
			],
			...[
				['r11', 0x358, 107],
				['r12', 0x360, 108],
				['r13', 0x368, 109],
				['r14', 0x370, 110],
				['r15', 0x378, 111],
			],
			...[
				['swExitCode', 0x390, 114],
				['swExitInfo1', 0x398, 115],
				['swExitInfo2', 0x3a0, 116],
			],
			...[
				['swScratch', 0x3a8, 117],
				['xcr0', 0x3e8, 125],
			],
		] as [keyof Ghcb, number, number][];
		for (const [name, offset, bit] of table) {
			expect([name, ghcb.offsetOf(name), ghcbValidBit(name)]).toEqual([name, offset, bit]);
		}
		const rest = ['validBitmap', 'x87StateGpa', 'sharedBuffer', 'protocolVersion', 'usage'] as const;
		expect(rest.map((name) => [ghcb.offsetOf(name), ghcb.fields[name].size])).toEqual([
			...[
				[0x3f0, 16],
				[0x400, 8],
				[0x800, 0x7f0],
			],
			...[
				[0xffa, 2],
				[0xffc, 4],
			],
		]);
		expect(Object.keys(ghcb.fields)).toHaveLength(table.length + rest.length);
		expect(ghcb.size).toBe(4096);
	});
});

/** Fields that are present without being looked at. */
const filler: Partial<Ghcb> = { rax: 1n, rcx: 2n, rdx: 3n, rbx: 4n, rsi: 5n, cpl: 0, swScratch: 0n, xcr0: 1n };
type Row = readonly [name: string, code: number, info1: bigint, needs: readonly (keyof Ghcb)[]];
/** What each event wants besides its code and infos. */
const ROWS: readonly Row[] = [
	['read DR7', ExitCode.DR7_READ, 0n, []],
	['write DR7', ExitCode.DR7_WRITE, 0n, ['rax']],
	['RDPMC', ExitCode.RDPMC, 0n, ['rcx']],
	['CPUID', ExitCode.CPUID, 0n, ['rax', 'rcx']],
	['INVD', ExitCode.INVD, 0n, []],
	['IN', ExitCode.IOIO, 0x3f80011n, []],
	['OUT', ExitCode.IOIO, 0x3f80010n, ['rax']],
	['string OUT', ExitCode.IOIO, 0x3f80014n, ['swScratch']],
	['RDMSR', ExitCode.MSR, 0n, ['rcx']],
	['WRMSR', ExitCode.MSR, 1n, ['rcx', 'rax', 'rdx']],
	['VMMCALL', ExitCode.VMMCALL, 0n, ['rax', 'cpl']],
	['RDTSCP', ExitCode.RDTSCP, 0n, []],
	['WBINVD', ExitCode.WBINVD, 0n, []],
	['MONITOR', ExitCode.MONITOR, 0n, ['rax', 'rcx', 'rdx']],
	['MWAIT', ExitCode.MWAIT, 0n, ['rax', 'rcx']],
	['MMIO read', ExitCode.MMIO_READ, 0xfee00000n, ['swScratch']],
	['MMIO write', ExitCode.MMIO_WRITE, 0xfee00000n, ['swScratch']],
	['NMI complete', ExitCode.NMI_COMPLETE, 0n, []],
	['AP jump table', ExitCode.AP_JUMP_TABLE, 1n, []],
	['hypervisor features', ExitCode.HYPERVISOR_FEATURES, 0n, []],
];
const without = (fields: Partial<Ghcb>, name: keyof Ghcb): Partial<Ghcb> =>
	Object.fromEntries(Object.entries(fields).filter(([key]) => key !== name));

let shared: GhcbRig | undefined;
const rigOf = (): GhcbRig => {
	shared ??= createGhcbRig();
	return shared;
};

describe('validation of a GHCB (current kernels)', () => {
	it.each(ROWS)('%s wants its fields and no others', (_, code, info1, needs) => {
		const rig = rigOf();
		const bare = event(code, info1);
		const full = { ...bare, ...Object.fromEntries(needs.map((name) => [name, filler[name]])) };
		rig.exchange(full);
		expect(resultOf(rig.get())).not.toEqual([2n, BigInt(MISSING_INPUT)]);
		expect(resultOf(rig.get())).not.toEqual([2n, BigInt(INVALID_EVENT)]);
		rig.finish();
		for (const name of needs) {
			expect(rig.exchange(without({ ...full, ...event(code, info1) }, name))).toBe(EINTR);
			expect(resultOf(rig.get())).toEqual([2n, BigInt(MISSING_INPUT)]);
		}
	});
	it.each(ROWS)('%s wants code and both infos', (_, code, info1, needs) => {
		const rig = rigOf();
		const full = { ...event(code, info1), ...Object.fromEntries(needs.map((name) => [name, filler[name]])) };
		for (const name of ['swExitCode', 'swExitInfo1', 'swExitInfo2'] as const) {
			// Present, but not marked.
			rig.setHost64('ghcbMsr', BigInt(GHCB));
			rig.put(without(full, name));
			new DataView(rig.ram.bytes.buffer, rig.ram.bytes.byteOffset).setBigUint64(
				GHCB + ghcb.offsetOf(name),
				full[name] as bigint,
				true,
			);
			expect(rig.run()).toBe(EINTR);
			expect(resultOf(rig.get())).toEqual([2n, BigInt(MISSING_INPUT)]);
		}
	});
	it('CPUID of leaf 0xD wants XCR0', () => {
		const rig = rigOf();
		rig.exchange({ ...event(ExitCode.CPUID), rax: 0xdn, rcx: 0n });
		expect(resultOf(rig.get())).toEqual([2n, BigInt(MISSING_INPUT)]);
		rig.exchange({ ...event(ExitCode.CPUID), rax: 0xdn, rcx: 0n, xcr0: 1n });
		expect(resultOf(rig.get())).toEqual([0n, 0n]);
	});
	it.each([
		['page state change', ExitCode.PAGE_STATE_CHANGE],
		['guest request', ExitCode.GUEST_REQUEST],
		['extended guest request', ExitCode.EXTENDED_GUEST_REQUEST],
		['AP creation', ExitCode.AP_CREATION],
	])('refuses %s of a guest without SNP as missing input', (_, code) => {
		const rig = rigOf();
		rig.exchange({ ...event(code), ...filler });
		expect(resultOf(rig.get())).toEqual([2n, BigInt(MISSING_INPUT)]);
	});
	it.each([0, 0x26, 0x78, 0x400, 0x80000000, 0x80000006, 0x80000014, 0x80000017, 0x80000018, 0x8000fffc])(
		'refuses event 0x%s as unknown',
		(code) => {
			const rig = rigOf();
			rig.exchange({ ...event(code), ...filler });
			expect(resultOf(rig.get())).toEqual([2n, BigInt(INVALID_EVENT)]);
		},
	);
	it('looks at all 64 bits of the exit code', () => {
		const rig = rigOf();
		rig.exchange({ ...event(0), ...filler, swExitCode: 0x1_0000_0072n });
		expect(resultOf(rig.get())).toEqual([2n, BigInt(INVALID_EVENT)]);
	});
	it('looks at the usage first', () => {
		const rig = rigOf();
		rig.exchange({ swExitCode: 0x72n, usage: 1 });
		expect(resultOf(rig.get())).toEqual([2n, BigInt(INVALID_USAGE)]);
	});
	it('clears the valid bitmap, and marks what it gives back', () => {
		const rig = rigOf();
		rig.exchange({ ...event(ExitCode.INVD), r15: 1n, swScratch: 9n, rsi: 1n });
		expect((['r15', 'swScratch', 'rsi', 'swExitCode', 'cpl'] as const).map(rig.isValid)).toEqual(Array(5).fill(false));
		const given = ['rax', 'rbx', 'rcx', 'rdx', 'swExitInfo1', 'swExitInfo2'] as const;
		expect(given.map(rig.isValid)).toEqual(Array(6).fill(true));
	});
	it('takes registers only if they are marked, and the others are zero', () => {
		const rig = rigOf();
		rig.setHost64('ghcbMsr', BigInt(GHCB));
		rig.setHost64('r12', 7n);
		rig.put({ ...event(ExitCode.INVD), rax: 1n, rbx: 2n, rsi: 3n, cpl: 3, xcr0: 7n });
		const rcx = GHCB + ghcb.offsetOf('rcx');
		rig.ram.bytes[rcx] = 9;
		rig.run();
		const names = ['rax', 'rbx', 'rcx', 'rdx', 'rsi', 'r12', 'cpl', 'xcr0'] as const;
		expect(names.map((name) => rig.host64(name))).toEqual([1n, 2n, 0n, 0n, 3n, 0n, 3n, 7n]);
		expect(rig.get().rcx).toBe(0n);
	});
	it('marks the page dirty', () => {
		const rig = createGhcbRig();
		const slot = {
			slot: 0,
			flags: 1,
			guestPhysAddr: gpa(0),
			memorySize: rig.ram.bytes.length,
			userspaceAddr: rig.ram.hva,
		};
		expect(rig.vm.setUserMemoryRegion(slot)).toBe(0);
		const log = new Uint32Array(8);
		rig.exchange(event(ExitCode.INVD));
		expect(rig.vm.getDirtyLog(0, log)).toBe(0);
		expect(log[0]).toBe(1 << (GHCB >>> 12));
	});
});

describe('validation of a GHCB before Linux 5.16', () => {
	it.each([
		['a wrong usage', { ...event(ExitCode.INVD), usage: 1 }, 0x76n],
		['a missing field', event(ExitCode.VMMCALL), 0x81n],
		['an unknown event', event(0x8000fffd), 0x8000fffdn],
	] as const)('%s ends KVM_RUN with −EINVAL and KVM_EXIT_INTERNAL_ERROR', (_, fields, code) => {
		const rig = createGhcbRig({ release: '5.15' });
		rig.setHost64('ghcbMsr', BigInt(GHCB));
		rig.put(fields);
		const before = rig.ram.bytes.slice();
		expect(rig.run()).toBe(EINVAL);
		expect(rig.exitReason()).toBe(ExitReason.INTERNAL_ERROR);
		expect([rig.u32(32), rig.u32(36), rig.u64(40), rig.u64(48)]).toEqual([4, 2, code, 0n]);
		expect(rig.ram.bytes).toEqual(before);
	});
});

describe('a GHCB that is not there', () => {
	it.each([
		['address 0', 0n],
		['an address without memory', 0x40000000n],
		['an address above everything', 0xfffffffffffff000n],
	])('%s: the guest goes on; before 5.16 −EINVAL', (_, address) => {
		const rig = rigOf();
		rig.setHost64('ghcbMsr', address);
		expect(rig.run()).toBe(EINTR);
		const old = createGhcbRig({ release: '5.13' });
		old.setHost64('ghcbMsr', address);
		expect(old.run()).toBe(EINVAL);
	});
	it('in a read-only slot is none', () => {
		const rig = createGhcbRig();
		const rom = rig.host.kvm.memory.mmap(4096);
		const slot = { slot: 1, flags: 2, guestPhysAddr: gpa(0x10000000), memorySize: 4096, userspaceAddr: rom.hva };
		expect(rig.vm.setUserMemoryRegion(slot)).toBe(0);
		rom.bytes.set(ghcb.encode(event(ExitCode.INVD)));
		const before = rom.bytes.slice();
		rig.setHost64('ghcbMsr', 0x10000000n);
		expect(rig.run()).toBe(EINTR);
		expect(rom.bytes).toEqual(before);
	});
});
