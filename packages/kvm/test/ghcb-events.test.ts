import { gpa } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { Cap, MsrExitReason } from '../src/abi/capabilities.js';
import { ExitCode, type Ghcb, ghcb } from '../src/abi/ghcb.js';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import { createGhcbRig, EINTR, EINVAL, event, GHCB, resultOf } from './ghcb-rig.js';

const OK = [0n, 0n];
const GP = [1n, 0x8000030dn];
const UD = [1n, 0x80000306n];
const BUFFER = BigInt(GHCB + 0x800);

describe('CPUID through the GHCB', () => {
	it('answers from the entries of KVM_SET_CPUID2', () => {
		const rig = createGhcbRig();
		expect(rig.exchange({ ...event(ExitCode.CPUID), rax: 0x40000000n, rcx: 0n })).toBe(EINTR);
		const { rax, rbx, rcx, rdx } = rig.get();
		expect([rax, rbx, rcx, rdx]).toEqual([0x40000001n, 0x4b4d564bn, 0x564b4d56n, 0x4dn]);
		expect(resultOf(rig.get())).toEqual(OK);
	});
});

describe('port I/O through the GHCB', () => {
	it.each([
		[1, 0x10n],
		[2, 0x20n],
		[4, 0x40n],
	])('OUT of %i bytes exits with the low part of RAX', (size, bits) => {
		const rig = createGhcbRig();
		expect(rig.exchange({ ...event(ExitCode.IOIO, 0x5100000n | bits), rax: 0x1122334455667788n })).toBe(0);
		expect(rig.exitReason()).toBe(ExitReason.IO);
		const view = rig.view();
		expect([view.getUint8(32), view.getUint8(33), view.getUint16(34, true), rig.u32(36)]).toEqual([1, size, 0x510, 1]);
		expect(view.getUint32(Number(rig.u64(RunOffset.ioDataOffset)), true)).toBe(
			Number(BigInt.asUintN(8 * size, 0x55667788n)),
		);
		expect(rig.finish()).toBe(EINTR);
		expect(resultOf(rig.get())).toEqual(OK);
		expect(rig.get().rax).toBe(0x1122334455667788n);
	});
	it('IN exits, and the answer is in RAX once KVM_RUN was called again', () => {
		const rig = createGhcbRig();
		expect(rig.exchange({ ...event(ExitCode.IOIO, 0x3f80021n), rax: 0x11223344n })).toBe(0);
		expect(rig.isValid('rax')).toBe(false);
		rig.view().setUint16(RunOffset.ioData, 0xbeef, true);
		rig.finish();
		expect([rig.get().rax, rig.isValid('rax')]).toEqual([0x1122beefn, true]);
	});
	it('OUTS from the shared buffer exits with all operands at once', () => {
		const rig = createGhcbRig();
		const sharedBuffer = new Uint8Array(0x7f0).map((_, i) => i);
		const fields = { ...event(ExitCode.IOIO, 0x4020024n, 5n), swScratch: BUFFER, sharedBuffer };
		expect(rig.exchange(fields)).toBe(0);
		const view = rig.view();
		expect([view.getUint8(32), view.getUint8(33), view.getUint16(34, true), rig.u32(36)]).toEqual([1, 2, 0x402, 5]);
		expect([...(rig.vcpus[0]?.run.subarray(4096, 4106) ?? [])]).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
		expect(rig.finish()).toBe(EINTR);
	});
	it('INS of more than a page comes in parts, into memory outside of the GHCB, which is dirty then', () => {
		const rig = createGhcbRig();
		const slot = {
			slot: 0,
			flags: 1,
			guestPhysAddr: gpa(0),
			memorySize: rig.ram.bytes.length,
			userspaceAddr: rig.ram.hva,
		};
		expect(rig.vm.setUserMemoryRegion(slot)).toBe(0);
		expect(rig.exchange({ ...event(ExitCode.IOIO, 0x4020015n, 5000n), swScratch: 0x20010n })).toBe(0);
		expect(rig.u32(36)).toBe(4096);
		rig.vcpus[0]?.run.fill(0xaa, 4096, 8192);
		expect(rig.run()).toBe(0);
		expect(rig.u32(36)).toBe(904);
		rig.vcpus[0]?.run.fill(0xbb, 4096, 8192);
		expect(rig.finish()).toBe(EINTR);
		const got = rig.ram.bytes.slice(0x20010, 0x20010 + 5001);
		expect([got[0], got[4095], got[4096], got[4999], got[5000]]).toEqual([0xaa, 0xaa, 0xbb, 0xbb, got[5000]]);
		expect(got[5000]).not.toBe(0xbb);
		const log = new Uint32Array(8);
		rig.vm.getDirtyLog(0, log);
		expect(log[1]).toBe(3);
	});
	it('a string of no operands is done at once', () => {
		const rig = createGhcbRig();
		expect(rig.exchange({ ...event(ExitCode.IOIO, 0x4020015n, 0n), swScratch: BUFFER })).toBe(EINTR);
		expect(resultOf(rig.get())).toEqual(OK);
	});
	it('more operands than an int counts are −EINVAL', () => {
		const rig = createGhcbRig();
		expect(rig.exchange({ ...event(ExitCode.IOIO, 0x4020015n, 1n << 31n), swScratch: BUFFER })).toBe(EINVAL);
		expect(rig.exchange({ ...event(ExitCode.IOIO, 0x4020045n, 1n << 30n), swScratch: BUFFER })).toBe(EINVAL);
	});
	it.each([0x00n, 0x30n, 0x70n])('an operand size that no instruction has (0x%s) is invalid input', (bits) => {
		const rig = createGhcbRig();
		rig.exchange({ ...event(ExitCode.IOIO, 0x3f80000n | bits), rax: 0n });
		expect(resultOf(rig.get())).toEqual([2n, 5n]);
		rig.exchange({ ...event(ExitCode.IOIO, 0x3f80004n | bits, 1n), swScratch: BUFFER });
		expect(resultOf(rig.get())).toEqual([2n, 5n]);
	});
});

describe('scratch areas', () => {
	const end = BigInt(GHCB + 0xff0);
	const mmio = (scratch: bigint, length: bigint): Partial<Ghcb> => ({
		...event(ExitCode.MMIO_WRITE, 0xfee000b0n, length),
		swScratch: scratch,
	});
	it.each([
		['none', 0n, 4n],
		['below the shared buffer', BUFFER - 1n, 4n],
		['at the front of the GHCB', BigInt(GHCB), 4n],
		['past the end of the shared buffer', end - 3n, 4n],
		['behind the shared buffer', end, 4n],
		['wrapping around', 0xfffffffffffffffen, 4n],
		['more than 64 KiB outside', 0x20000n, 0x10001n],
		['without memory', 0x40000000n, 4n],
		['running out of memory', 0xffffcn, 8n],
		['a length of 2^64 − 1', 0x20000n, 0xffffffffffffffffn],
	])('%s: error 3; before 5.16 −EINVAL', (_, scratch, length) => {
		const rig = createGhcbRig();
		expect(rig.exchange(mmio(scratch, length))).toBe(EINTR);
		expect(resultOf(rig.get())).toEqual([2n, 3n]);
		const old = createGhcbRig({ release: '5.15' });
		expect(old.exchange(mmio(scratch, length))).toBe(EINVAL);
	});
	it.each([
		['all of the shared buffer', BUFFER, 0x7f0n],
		['its last bytes', end - 4n, 4n],
		['64 KiB outside', 0x20000n, 0x10000n],
		['just in front of the GHCB', BigInt(GHCB) - 4n, 4n],
	])('%s is taken', (_, scratch, length) => {
		const rig = createGhcbRig();
		expect(rig.exchange(mmio(scratch, length))).toBe(0);
		expect(rig.exitReason()).toBe(ExitReason.MMIO);
	});
});

describe('MMIO through the GHCB', () => {
	it('a write exits in parts of at most 8 bytes, with what the guest had when it asked', () => {
		const rig = createGhcbRig();
		rig.ram.bytes.set([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0x20000);
		expect(rig.exchange({ ...event(ExitCode.MMIO_WRITE, 0xfed00000n, 10n), swScratch: 0x20000n })).toBe(0);
		expect([rig.u64(32), rig.u32(48), rig.view().getUint8(52)]).toEqual([0xfed00000n, 8, 1]);
		expect(rig.u64(40)).toBe(0x0807060504030201n);
		rig.ram.bytes.fill(0xff, 0x20000, 0x20010);
		expect(rig.run()).toBe(0);
		expect([rig.u64(32), rig.u32(48), rig.view().getUint16(40, true)]).toEqual([0xfed00008n, 2, 0x0a09]);
		expect(rig.finish()).toBe(EINTR);
		expect(resultOf(rig.get())).toEqual(OK);
	});
	it('a read exits, and the answer is in the scratch area', () => {
		const rig = createGhcbRig();
		expect(rig.exchange({ ...event(ExitCode.MMIO_READ, 0xfed00000n, 4n), swScratch: BUFFER + 8n })).toBe(0);
		expect([rig.exitReason(), rig.u32(48), rig.view().getUint8(52)]).toEqual([ExitReason.MMIO, 4, 0]);
		rig.view().setUint32(RunOffset.mmioData, 0xcafebabe, true);
		expect(rig.finish()).toBe(EINTR);
		expect([...rig.get().sharedBuffer.subarray(7, 13)]).toEqual([0, 0xbe, 0xba, 0xfe, 0xca, 0]);
	});
	it('of no bytes is done at once', () => {
		const rig = createGhcbRig();
		expect(rig.exchange({ ...event(ExitCode.MMIO_READ, 0xfed00000n, 0n), swScratch: BUFFER })).toBe(EINTR);
		expect(resultOf(rig.get())).toEqual(OK);
	});
});

describe('MSRs through the GHCB', () => {
	const read = (index: bigint) => ({ ...event(ExitCode.MSR, 0n), rcx: index });
	const write = (index: bigint, value: bigint) => ({
		...event(ExitCode.MSR, 1n),
		rcx: index,
		rax: value & 0xffffffffn,
		rdx: value >> 32n,
	});
	it('KVM answers what it knows', () => {
		const rig = createGhcbRig();
		rig.exchange(write(0x4b564d01n, 0x1_2345_6001n));
		expect(resultOf(rig.get())).toEqual(OK);
		rig.exchange(read(0x4b564d01n));
		expect([rig.get().rax, rig.get().rdx]).toEqual([0x23456001n, 1n]);
	});
	it('what KVM does not know is a #GP that the guest is to raise', () => {
		const rig = createGhcbRig();
		rig.exchange(read(0xdeadbeefn));
		expect(resultOf(rig.get())).toEqual(GP);
		rig.exchange(write(0xdeadbeefn, 1n));
		expect(resultOf(rig.get())).toEqual(GP);
	});
	it('the VMM answers what the capability says, or refuses it', () => {
		const rig = createGhcbRig();
		expect(rig.vm.enableCap(Cap.X86_USER_SPACE_MSR, [BigInt(MsrExitReason.UNKNOWN)])).toBe(0);
		expect(rig.exchange(read(0xdeadbeefn))).toBe(0);
		expect([rig.exitReason(), rig.u32(40), rig.u32(44)]).toEqual([ExitReason.X86_RDMSR, 2, 0xdeadbeef]);
		rig.view().setBigUint64(RunOffset.msrData, 0x1122334455667788n, true);
		rig.finish();
		expect([rig.get().rax, rig.get().rdx, ...resultOf(rig.get())]).toEqual([0x55667788n, 0x11223344n, 0n, 0n]);

		expect(rig.exchange(write(0xdeadbeefn, 0x1234n))).toBe(0);
		expect([rig.exitReason(), rig.u64(RunOffset.msrData)]).toEqual([ExitReason.X86_WRMSR, 0x1234n]);
		rig.view().setUint8(RunOffset.msrError, 1);
		rig.finish();
		expect(resultOf(rig.get())).toEqual(GP);
	});
});

describe('a hypercall through the GHCB', () => {
	const page = { rax: 12n, rbx: 0x3000n, rcx: 2n, rdx: 0x10n, cpl: 0 };
	it('counts as 64-bit, with its arguments from the GHCB', () => {
		const rig = createGhcbRig();
		rig.vm.enableCap(Cap.EXIT_HYPERCALL, [1n << 12n]);
		expect(rig.exchange({ ...event(ExitCode.VMMCALL), ...page })).toBe(0);
		expect(rig.exitReason()).toBe(ExitReason.HYPERCALL);
		const got = [32, 40, 48, 56].map((at) => rig.u64(at));
		expect([...got, rig.u32(RunOffset.hypercallLongmode)]).toEqual([12n, 0x3000n, 2n, 0x10n, 1]);
		rig.view().setBigInt64(RunOffset.hypercallRet, -22n, true);
		rig.finish();
		expect(rig.get().rax).toBe(2n ** 64n - 22n);
	});
	it.each([
		['at CPL 3 as the GHCB says', { ...page, cpl: 3 }, -1n],
		['of an unknown number', { ...page, rax: 99n }, -1000n],
		['with no pages', { ...page, rcx: 0n }, -22n],
	])('%s fails', (_, fields, expected) => {
		const rig = createGhcbRig();
		rig.vm.enableCap(Cap.EXIT_HYPERCALL, [1n << 12n]);
		expect(rig.exchange({ ...event(ExitCode.VMMCALL), ...fields })).toBe(EINTR);
		expect(BigInt.asIntN(64, rig.get().rax)).toBe(expected);
	});
	it('whose registers are not marked has zeros for arguments', () => {
		const rig = createGhcbRig();
		rig.vm.enableCap(Cap.EXIT_HYPERCALL, [1n << 12n]);
		expect(rig.exchange({ ...event(ExitCode.VMMCALL), rax: 12n, cpl: 0 })).toBe(EINTR);
		expect(BigInt.asIntN(64, rig.get().rax)).toBe(-22n);
	});
});

describe('the other events', () => {
	it.each([
		['INVD', ExitCode.INVD, OK],
		['WBINVD', ExitCode.WBINVD, OK],
		['MONITOR', ExitCode.MONITOR, OK],
		['MWAIT', ExitCode.MWAIT, OK],
		['a write of DR7', ExitCode.DR7_WRITE, OK],
		['a read of DR7', ExitCode.DR7_READ, OK],
		['the end of an NMI', ExitCode.NMI_COMPLETE, OK],
		['RDPMC', ExitCode.RDPMC, GP],
		['RDTSCP', ExitCode.RDTSCP, UD],
		['hypervisor features', ExitCode.HYPERVISOR_FEATURES, [0n, 1n]],
	])('%s', (_, code, expected) => {
		const rig = createGhcbRig();
		expect(rig.exchange({ ...event(code), rax: 0n, rcx: 0n, rdx: 0n })).toBe(EINTR);
		expect(resultOf(rig.get())).toEqual(expected);
	});
	it('RDTSC, which KVM never intercepts, ends in KVM_EXIT_INTERNAL_ERROR', () => {
		const rig = createGhcbRig();
		expect(rig.exchange(event(ExitCode.RDTSC))).toBe(0);
		expect([rig.exitReason(), rig.u32(32), rig.u32(36), rig.u64(40)]).toEqual([17, 4, 2, 0x6en]);
	});
	it('termination is KVM_EXIT_SYSTEM_EVENT with the value of the GHCB MSR', () => {
		const rig = createGhcbRig();
		expect(rig.exchange(event(ExitCode.TERMINATE))).toBe(0);
		expect([rig.exitReason(), rig.u32(32), rig.u32(36), rig.u64(40)]).toEqual([24, 6, 1, BigInt(GHCB)]);
	});
	it.each(['6.10', '5.15'] as const)('an event that the guest cannot handle is −EINVAL (%s)', (release) => {
		expect(createGhcbRig({ release }).exchange(event(ExitCode.UNSUPPORTED_EVENT))).toBe(EINVAL);
	});
	it.each([ExitCode.HYPERVISOR_FEATURES, ExitCode.TERMINATE, ExitCode.AP_CREATION])(
		'0x%s is unknown to Linux 6.1',
		(code) => {
			const rig = createGhcbRig({ release: '6.1' });
			rig.exchange({ ...event(code), rax: 0n });
			expect(resultOf(rig.get())).toEqual([2n, 6n]);
		},
	);
});

describe('the AP jump table', () => {
	it('is kept for the VM, whatever the address', () => {
		const rig = createGhcbRig({ vcpus: 2 });
		rig.exchange(event(ExitCode.AP_JUMP_TABLE, 1n));
		expect(resultOf(rig.get())).toEqual(OK);
		rig.exchange(event(ExitCode.AP_JUMP_TABLE, 0n, 0xfedcba9876543210n));
		expect(resultOf(rig.get())).toEqual(OK);
		rig.setHost64('ghcbMsr', BigInt(GHCB), 1);
		rig.put(event(ExitCode.AP_JUMP_TABLE, 1n));
		rig.run(1);
		expect(resultOf(rig.get())).toEqual([0n, 0xfedcba9876543210n]);
	});
	it('has no other action: error 5; before 5.16 a #UD to raise', () => {
		const rig = createGhcbRig();
		rig.exchange(event(ExitCode.AP_JUMP_TABLE, 2n));
		expect(resultOf(rig.get())).toEqual([2n, 5n]);
		const old = createGhcbRig({ release: '5.15' });
		old.exchange(event(ExitCode.AP_JUMP_TABLE, 2n));
		expect(resultOf(old.get())).toEqual(UD);
	});
});

it('the valid bit of a field is its offset over 8', () => {
	expect(ghcb.offsetOf('swScratch') / 8).toBe(117);
});
