import { type Hva, hva } from '@cvm/layout';
import { GuestState, Policy, Status } from '@cvm/sev-hw/abi';
import { describe, expect, it } from 'vitest';
import type { SevIoctls } from '../src/index.js';
import { bootHost, certificatesOf, count, decrypted, PAGE, pattern, runningVm, vmWithRam } from './host.js';

const BLOB = new Uint8Array(16);
const TOO_LONG = new Uint8Array(0x4001);
const ANY = hva(0x7f0000200000);
const GEOMETRY = { headerAt: 0, payloadAt: 64, stride: 64 + PAGE };

const EVERY: [string, (sev: SevIoctls, at: Hva) => { ret: number; error: number }][] = [
	['launchStart', (sev) => sev.launchStart({ policy: 0 })],
	['launchUpdateData', (sev, uaddr) => sev.launchUpdateData({ uaddr, len: 16 })],
	['launchMeasure', (sev) => sev.launchMeasure()],
	['launchSecret', (sev, guestUaddr) => sev.launchSecret({ header: BLOB, guestUaddr, data: BLOB })],
	['launchFinish', (sev) => sev.launchFinish()],
	['sendStart', (sev) => sev.sendStart({ pdhCert: BLOB, platCerts: BLOB, amdCerts: BLOB })],
	['sendUpdateData', (sev, guestUaddr) => sev.sendUpdateData({ guestUaddr, guestLen: 16 })],
	['sendFinish', (sev) => sev.sendFinish()],
	['sendCancel', (sev) => sev.sendCancel()],
	['receiveStart', (sev) => sev.receiveStart({ policy: 0, pdhCert: BLOB, session: BLOB })],
	[
		'receiveUpdateData',
		(sev, guestUaddr) => sev.receiveUpdateData({ header: BLOB, guestUaddr, guestLen: 16, data: BLOB }),
	],
	['receiveFinish', (sev) => sev.receiveFinish()],
	['guestStatus', (sev) => sev.guestStatus()],
	['dbgDecrypt', (sev, src) => sev.dbgDecrypt({ src, dst: src, len: 16 })],
	['dbgEncrypt', (sev, src) => sev.dbgEncrypt({ src, dst: src, len: 16 })],
];
const NEEDS_DEVICE = EVERY.filter(([name]) => !name.endsWith('Start') || name === 'sendStart');

describe('a VM without KVM_SEV_INIT', () => {
	// P-8: RECEIVE_UPDATE_DATA alone is EINVAL.
	it.each(EVERY)('refuses %s and does not reach the firmware', (name, call) => {
		const host = bootHost();
		const ret = name === 'receiveUpdateData' ? -22 : -25;
		expect(call(host.kvm.createVm().sev, ANY)).toMatchObject({ ret, error: 0 });
		expect(host.commands).toEqual([]);
	});

	it('refuses regions and batches', () => {
		const host = bootHost();
		const vm = host.kvm.createVm();
		const ram = host.kvm.memory.mmap(2 * PAGE);
		expect(vm.memoryEncryptRegisterRegion({ addr: ram.hva, size: PAGE })).toBe(-25);
		expect(vm.memoryEncryptUnregisterRegion({ addr: ram.hva, size: PAGE })).toBe(-25);
		expect(vm.sev.sendUpdateDataBatch([ram.hva], 1, ram.bytes, GEOMETRY).ret).toBe(-25);
		expect(vm.sev.receiveUpdateDataBatch([ram.hva], 1, ram.bytes, GEOMETRY).ret).toBe(-22);
	});

	it('cannot be initialised on a host without SEV, nor with SEV-ES where that is off', () => {
		const host = bootHost({ sevEs: false });
		expect(host.kvm.createVm({ sev: false }).sev.init()).toEqual({ ret: -25, error: 0 });
		expect(host.kvm.createVm().sev.esInit()).toEqual({ ret: -25, error: 0 });
		expect(host.commands).toEqual([]);
	});
});

describe('a VM after KVM_SEV_INIT, before a *_START stored a descriptor', () => {
	it.each(NEEDS_DEVICE)('answers EBADF to %s', (_, call) => {
		const host = bootHost();
		const { vm, ram } = vmWithRam(host);
		const before = host.commands.length;
		expect(call(vm.sev, ram.hva)).toMatchObject({ ret: -9, error: 0 });
		expect(host.commands).toHaveLength(before);
	});

	it('answers EBADF to batches', () => {
		const host = bootHost();
		const { vm, ram } = vmWithRam(host);
		const out = host.kvm.memory.mmap(2 * PAGE);
		expect(vm.sev.sendUpdateDataBatch([ram.hva], 1, out.bytes, GEOMETRY).ret).toBe(-9);
	});
});

describe('KVM_SEV_INIT', () => {
	it('brings the platform up once, with WBINVD before DF_FLUSH', () => {
		const host = bootHost();
		expect(host.kvm.createVm().sev.init()).toEqual({ ret: 0, error: 0 });
		host.kvm.createVm().sev.init();
		expect([count(host, 'INIT'), count(host, 'DF_FLUSH'), host.wbinvds]).toEqual([1, 1, 1]);
	});

	it.each([
		['6.1', -16],
		['6.10', -22],
	] as const)('is refused the second time: Linux %s says %d', (release, ret) => {
		const vm = bootHost({ release }).kvm.createVm();
		vm.sev.init();
		expect(vm.sev.init()).toEqual({ ret, error: 0 });
	});

	it.each([
		['upstream', -22],
		['v12', 0],
	] as const)('with a vCPU already there ends in %s in %d', (abi, ret) => {
		const host = bootHost({ abi });
		const vm = host.kvm.createVm();
		vm.createVcpu(0, []);
		expect(vm.sev.init().ret).toBe(ret);
	});
});

describe('KVM_SEV_SEND_START', () => {
	it('P-5: answers a length query with EIO, INVALID_LENGTH, the length, and the policy as it was', () => {
		const { vm } = runningVm(bootHost(), Policy.NOKS);
		expect(vm.sev.sendStart({ sessionLen: 0, policy: 0x77 })).toEqual({
			ret: -5,
			error: Status.INVALID_LENGTH,
			policy: 0x77,
			session: new Uint8Array(0),
			sessionLen: 128,
		});
		expect(vm.sev.guestStatus().state).toBe(GuestState.RUNNING);
	});

	it.each([
		['a session of 0x4001 bytes (P-6)', { sessionLen: 0x4001 }],
		['no PDH certificate', { pdhCert: undefined }],
		['an empty PDH certificate', { pdhCert: new Uint8Array(0) }],
		['no platform certificates', { platCerts: undefined }],
		['no AMD certificates', { amdCerts: undefined }],
		['AMD certificates of 0x4001 bytes', { amdCerts: TOO_LONG }],
	])('refuses %s with EINVAL and does not reach the firmware', (_, change) => {
		const host = bootHost();
		const { vm } = runningVm(host);
		const before = host.commands.length;
		const request = { pdhCert: BLOB, platCerts: BLOB, amdCerts: BLOB, policy: 9 };
		const { pdhCert, platCerts, amdCerts, ...rest } = { ...request, ...change };
		const given = {
			...rest,
			...(pdhCert && { pdhCert }),
			...(platCerts && { platCerts }),
			...(amdCerts && { amdCerts }),
		};
		expect(vm.sev.sendStart(given)).toMatchObject({ ret: -22, error: 0, policy: 9 });
		expect(host.commands).toHaveLength(before);
	});

	it('passes on what the firmware says of a length, a certificate, a policy and a state', () => {
		const host = bootHost();
		const to = certificatesOf(bootHost({ seed: 'target' }));
		const { vm } = runningVm(host);
		expect(vm.sev.sendStart({ ...to, sessionLen: 127 })).toMatchObject({ ret: -5, error: Status.INVALID_LENGTH });
		expect(vm.sev.sendStart({ ...to, pdhCert: new Uint8Array(2084) })).toMatchObject({
			ret: -5,
			error: Status.INVALID_CERTIFICATE,
		});
		expect(vm.sev.sendStart(to).ret).toBe(0);
		expect(vm.sev.sendStart(to)).toMatchObject({ ret: -5, error: Status.INVALID_GUEST_STATE });
		expect(runningVm(host, Policy.NOSEND).vm.sev.sendStart(to)).toMatchObject({
			ret: -5,
			error: Status.POLICY_FAILURE,
		});
	});
});

describe('KVM_SEV_SEND_UPDATE_DATA', () => {
	const sending = (abi: 'v12' | 'upstream' = 'upstream') => {
		const host = bootHost({ abi });
		const made = runningVm(host);
		made.vm.sev.sendStart(certificatesOf(bootHost({ seed: 'target' })));
		return { host, ...made };
	};

	it.each([{ headerLen: 0 }, { transLen: 0 }])(
		'answers a length query (%o) with EIO and the header length',
		(query) => {
			const { vm, ram } = sending();
			expect(vm.sev.sendUpdateData({ guestUaddr: ram.hva, guestLen: PAGE, ...query })).toMatchObject({
				ret: -5,
				error: Status.INVALID_LENGTH,
				headerLen: 52,
				transLen: 0,
			});
		},
	);

	it.each([
		['leaves its page by one byte (P-7)', 1, PAGE],
		['is longer than a page', 0, PAGE + 16],
		['is empty', 0, 0],
	])('refuses a range that %s', (_, offset, guestLen) => {
		const { host, vm, ram } = sending();
		const before = host.commands.length;
		const guestUaddr = hva(ram.hva + offset);
		expect(vm.sev.sendUpdateData({ guestUaddr, guestLen })).toMatchObject({ ret: -22, error: 0 });
		expect(host.commands).toHaveLength(before);
	});

	it.each([
		['v12', -14],
		['upstream', -12],
	] as const)('cannot pin what is not mapped: %s %d', (abi, ret) => {
		const { vm } = sending(abi);
		expect(vm.sev.sendUpdateData({ guestUaddr: hva(0x1000), guestLen: PAGE })).toMatchObject({ ret, error: 0 });
	});

	it('passes on the firmware: too short a payload, an unaligned guest address', () => {
		const { vm, ram } = sending();
		const guestUaddr = ram.hva;
		expect(vm.sev.sendUpdateData({ guestUaddr, guestLen: PAGE, transLen: 16 }).error).toBe(Status.INVALID_LENGTH);
		expect(vm.sev.sendUpdateData({ guestUaddr: hva(guestUaddr + 8), guestLen: 16 }).error).toBe(Status.INVALID_ADDRESS);
	});
});

describe('KVM_SEV_RECEIVE_UPDATE_DATA', () => {
	it.each([
		['an empty header', { header: new Uint8Array(0) }, -22],
		['an empty payload', { data: new Uint8Array(0) }, -22],
		['no guest memory', { guestLen: 0 }, -22],
		['a range that leaves its page', { guestLen: PAGE + 1 }, -22],
		['a payload of 0x4001 bytes', { data: TOO_LONG }, -22],
		['memory that is not mapped', { guestUaddr: hva(0x1000) }, -12],
	])('refuses %s', (_, change, ret) => {
		const host = bootHost();
		const { vm, ram } = vmWithRam(host);
		vm.sev.launchStart({ policy: 0 });
		const before = host.commands.length;
		const packet = { header: BLOB, guestUaddr: ram.hva, guestLen: 16, data: BLOB, ...change };
		expect(vm.sev.receiveUpdateData(packet)).toEqual({ ret, error: 0 });
		expect(host.commands).toHaveLength(before);
	});

	it('is refused by the firmware outside a reception', () => {
		const { vm, ram } = runningVm(bootHost());
		const packet = { header: new Uint8Array(52), guestUaddr: ram.hva, guestLen: 16, data: BLOB };
		expect(vm.sev.receiveUpdateData(packet)).toEqual({ ret: -5, error: Status.INVALID_GUEST_STATE });
	});
});

describe('launching', () => {
	it('measures 48 bytes, after a length query that fails with EIO', () => {
		const { vm } = vmWithRam(bootHost());
		vm.sev.launchStart({ policy: 0 });
		expect(vm.sev.launchMeasure({ len: 0 })).toMatchObject({ ret: -5, error: Status.INVALID_LENGTH, len: 48 });
		expect(vm.sev.launchMeasure({ len: 47 })).toMatchObject({ ret: -5, error: Status.INVALID_LENGTH, len: 47 });
		expect(vm.sev.launchMeasure({ len: 0x4001 })).toMatchObject({ ret: -22, error: 0 });
		expect(vm.sev.launchMeasure().measurement).toHaveLength(48);
		expect(vm.sev.launchMeasure()).toMatchObject({ ret: -5, error: Status.INVALID_GUEST_STATE });
	});

	it('checks memory before it asks the firmware', () => {
		const { vm, ram } = vmWithRam(bootHost());
		vm.sev.launchStart({ policy: 0 });
		expect(vm.sev.launchUpdateData({ uaddr: ram.hva, len: 0 })).toEqual({ ret: -22, error: 0 });
		expect(vm.sev.launchUpdateData({ uaddr: hva(0x1000), len: 16 })).toEqual({ ret: -12, error: 0 });
		expect(vm.sev.launchUpdateData({ uaddr: ram.hva, len: 8 })).toEqual({ ret: -5, error: Status.INVALID_LENGTH });
	});

	it('refuses blobs that are empty or longer than 0x4000 bytes', () => {
		const { vm, ram } = vmWithRam(bootHost());
		expect(vm.sev.launchStart({ policy: 0, dhCert: TOO_LONG })).toEqual({ ret: -22, error: 0 });
		expect(vm.sev.launchStart({ policy: 0, session: new Uint8Array(0) })).toEqual({ ret: -22, error: 0 });
		vm.sev.launchStart({ policy: 0 });
		const guestUaddr = ram.hva;
		expect(vm.sev.launchSecret({ header: new Uint8Array(0), guestUaddr, data: BLOB }).ret).toBe(-22);
		expect(vm.sev.launchSecret({ header: BLOB, guestUaddr, data: new Uint8Array(0) }).ret).toBe(-22);
		expect(vm.sev.launchSecret({ header: BLOB, guestUaddr: hva(0x1000), data: BLOB }).ret).toBe(-12);
	});

	it('takes the new guest out of the firmware again when its ASID cannot be bound', () => {
		const host = bootHost();
		const { vm } = vmWithRam(host);
		vm.sev.launchStart({ policy: 0 });
		const guests = host.kvm.sevDevice.platformStatus().guestCount;
		expect(vm.sev.launchStart({ policy: 0 })).toEqual({ ret: -5, error: Status.ASID_OWNED });
		expect(host.kvm.sevDevice.platformStatus().guestCount).toBe(guests);
	});
});

describe('KVM_SEV_DBG_DECRYPT and KVM_SEV_DBG_ENCRYPT', () => {
	it.each([
		[0, 0, 4096],
		[0, 0, 10000],
		[5, 0, 40],
		[0, 3, 16],
		[4090, 17, 5000],
		[1, 4095, 4097],
	])('read guest memory at +%d to +%d, %d bytes', (from, to, len) => {
		const host = bootHost();
		const { vm, ram } = runningVm(host);
		const out = host.kvm.memory.mmap(8 * PAGE);
		out.bytes.fill(0xee);
		expect(vm.sev.dbgDecrypt({ src: hva(ram.hva + from), dst: hva(out.hva + to), len }).ret).toBe(0);
		const expected = new Uint8Array(8 * PAGE).fill(0xee);
		expected.set(pattern(65536).slice(from, from + len), to);
		expect(out.bytes).toEqual(expected);
	});

	it.each([
		[0, 0, 4096],
		[3, 0, 32],
		[0, 5, 3],
		[7, 4090, 5000],
		[0, 4095, 4097],
	])('write guest memory from +%d to +%d, %d bytes, and nothing around it', (from, to, len) => {
		const host = bootHost();
		const { vm, ram } = runningVm(host);
		const data = host.kvm.memory.mmap(8 * PAGE);
		data.bytes.set(Uint8Array.from({ length: 8 * PAGE }, (_, i) => (i * 31) & 0xff));
		expect(vm.sev.dbgEncrypt({ src: hva(data.hva + from), dst: hva(ram.hva + to), len }).ret).toBe(0);
		const expected = pattern(65536);
		expected.set(data.bytes.slice(from, from + len), to);
		expect(decrypted(host, vm, ram)).toEqual(expected);
	});

	it('are refused for nothing, to nowhere, from unmapped memory, and by policy', () => {
		const host = bootHost();
		const { vm, ram } = runningVm(host);
		expect(vm.sev.dbgDecrypt({ src: ram.hva, dst: ram.hva, len: 0 }).ret).toBe(-22);
		expect(vm.sev.dbgDecrypt({ src: ram.hva, dst: hva(0), len: 16 }).ret).toBe(-22);
		expect(vm.sev.dbgDecrypt({ src: hva(0), dst: ram.hva, len: 16 }).ret).toBe(-12);
		const closed = runningVm(host, Policy.NODBG);
		const request = { src: closed.ram.hva, dst: ram.hva, len: 16 };
		expect(closed.vm.sev.dbgDecrypt(request)).toEqual({ ret: -5, error: Status.POLICY_FAILURE });
		expect(closed.vm.sev.dbgEncrypt(request)).toEqual({ ret: -5, error: Status.POLICY_FAILURE });
	});
});

describe('encrypted regions', () => {
	it('P-11: are checked, and taken out only by exactly their address and size', () => {
		const host = bootHost();
		const { vm } = vmWithRam(host);
		const ram = host.kvm.memory.mmap(2 * PAGE);
		expect(vm.memoryEncryptRegisterRegion({ addr: ram.hva, size: 0 })).toBe(-22);
		expect(vm.memoryEncryptRegisterRegion({ addr: hva(0x1000), size: PAGE })).toBe(-12);
		expect(vm.memoryEncryptRegisterRegion({ addr: ram.hva, size: 2 * PAGE })).toBe(0);
		expect(vm.memoryEncryptUnregisterRegion({ addr: ram.hva, size: PAGE })).toBe(-22);
		expect(vm.memoryEncryptUnregisterRegion({ addr: ram.hva, size: 2 * PAGE })).toBe(0);
		expect(vm.memoryEncryptUnregisterRegion({ addr: ram.hva, size: 2 * PAGE })).toBe(-22);
	});

	it('keep their frames from others after munmap, until the VM is destroyed', () => {
		const host = bootHost();
		const { vm, ram } = vmWithRam(host);
		const { freeBytes } = host.kvm.memory;
		host.kvm.memory.munmap(ram);
		expect(host.kvm.memory.freeBytes).toBe(freeBytes);
		vm.destroy();
		expect(host.kvm.memory.freeBytes).toBe(freeBytes + ram.bytes.length);
	});
});
