import { GuestState, Policy, Status } from '@cvm/sev-hw/abi';
import { describe, expect, it } from 'vitest';
import {
	kvmEncRegion,
	kvmSevAttestationReport,
	kvmSevLaunchMeasure,
	kvmSevLaunchSecret,
	kvmSevLaunchStart,
	kvmSevLaunchUpdateData,
	SevCommand,
	SevIoctl,
} from '../src/abi/index.js';
import { bootHost, count, PAGE, pattern } from './host.js';
import {
	blob,
	EFAULT,
	EINVAL,
	ENOMEM,
	launching,
	NOWHERE,
	type Program,
	program,
	refuses,
	running,
	sevGuest,
	startProgram,
	status,
	TOP,
	UNTOUCHED,
	vmOf,
} from './process-rig.js';

const KEPT = { error: UNTOUCHED };

describe('KVM_SEV_LAUNCH_START', () => {
	it('reads the structure, then the certificate if its address is not 0, then the session', () => {
		const p = program();
		const { vm } = sevGuest(p);
		const start = (fields: Parameters<typeof kvmSevLaunchStart.encode>[0]) => kvmSevLaunchStart.encode(fields);
		const good = blob(p, 64);
		refuses(p, vm, SevCommand.LAUNCH_START, [
			[NOWHERE, EFAULT],
			[start({ dhUaddr: good }), EINVAL],
			[start({ dhUaddr: good, dhLen: 0x4001 }), EINVAL],
			[start({ dhUaddr: NOWHERE, dhLen: 0x4001, sessionUaddr: NOWHERE, sessionLen: 1 }), EINVAL],
			[start({ dhUaddr: NOWHERE, dhLen: 16, sessionUaddr: good }), EFAULT],
			[start({ dhUaddr: good, dhLen: 16, sessionUaddr: good, sessionLen: 0x4001 }), EINVAL],
			[start({ dhUaddr: good, dhLen: 16, sessionUaddr: NOWHERE, sessionLen: 16 }), EFAULT],
		]);
		// Lengths without addresses do not matter.
		expect(p.sev(vm, SevCommand.LAUNCH_START, start({ dhLen: 99, sessionLen: 0x99999 })).ret).toBe(0);
	});

	it('writes the handle back and nothing else', () => {
		const p = program();
		const { vm } = sevGuest(p);
		const start = kvmSevLaunchStart.encode({ policy: Policy.NOKS, dhLen: 7 });
		start.fill(0xaa, 20, 24);
		const { ret, data } = p.sev(vm, SevCommand.LAUNCH_START, start);
		expect(ret).toBe(0);
		const { handle } = kvmSevLaunchStart.decode(data);
		expect(handle).not.toBe(0);
		kvmSevLaunchStart.patch(start, { handle });
		expect(data).toEqual(start);
		expect(status(p, vm)).toMatchObject({ handle, policy: Policy.NOKS, state: GuestState.LUPDATE });
	});

	it('T-2: GUEST_STATUS then has the policy and the state LUPDATE', () => {
		const p = program();
		for (const policy of [0, Policy.NODBG, Policy.NOSEND]) {
			expect(status(p, launching(p, policy).vm)).toMatchObject({ ret: 0, error: 0, policy, state: GuestState.LUPDATE });
		}
	});

	it('passes a handle on: a key to share, or one that the firmware does not know', () => {
		const p = program();
		const first = launching(p);
		const { vm } = sevGuest(p);
		const start = kvmSevLaunchStart.encode({ handle: 0x7777, policy: 0 });
		expect(p.sev(vm, SevCommand.LAUNCH_START, start)).toMatchObject({ ret: -5 });
		expect(p.sev(vm, SevCommand.LAUNCH_START, start).error).not.toBe(0);
		expect(status(p, first.vm).ret).toBe(0);
	});

	it('leaves the firmware as it was if the handle cannot be written back', () => {
		const p = program();
		const { vm } = sevGuest(p);
		const { memory } = p.host.kvm;
		const page = memory.mmap(PAGE);
		const at = BigInt(page.hva);
		page.bytes.set(kvmSevLaunchStart.encode({ policy: 0 }));
		const guests = p.host.kvm.sevDevice.platformStatus().guestCount;
		// The page goes while the firmware works.
		const { submit } = p.host.machine.psp;
		Object.assign(p.host.machine.psp, {
			submit: (command: number, spa: Parameters<typeof submit>[1]) => {
				if (command === 0x21) memory.munmap(page);
				return submit(command, spa);
			},
		});
		expect(p.sev(vm, SevCommand.LAUNCH_START, at)).toMatchObject({ ret: -14, error: 0 });
		expect(p.host.kvm.sevDevice.platformStatus().guestCount).toBe(guests);
		expect(status(p, vm)).toMatchObject({ ret: -9, ...KEPT });
	});
});

describe('KVM_SEV_LAUNCH_UPDATE_DATA, LAUNCH_MEASURE and LAUNCH_SECRET', () => {
	it('T-3: after REG_REGION of the slot LAUNCH_UPDATE_DATA over all of it is 0', () => {
		const p = program();
		const { vm, ram } = launching(p);
		const range = kvmSevLaunchUpdateData.encode({ uaddr: BigInt(ram.hva), len: ram.bytes.length });
		expect(p.sev(vm, SevCommand.LAUNCH_UPDATE_DATA, range)).toMatchObject({ ret: 0, error: 0 });
	});

	it('refuse memory that is empty, that wraps, or that is not there', () => {
		const p = program();
		const { vm } = launching(p);
		const range = (uaddr: bigint, len: number) => kvmSevLaunchUpdateData.encode({ uaddr, len });
		refuses(p, vm, SevCommand.LAUNCH_UPDATE_DATA, [
			[NOWHERE, EFAULT],
			[range(NOWHERE, 0), EINVAL],
			[range(TOP, 4096), EINVAL],
			[range(TOP, 4095), ENOMEM],
			[range(0xffff_ffff_ffff_ffffn, 1), EINVAL],
			[range(0n, 4096), ENOMEM],
		]);
	});

	it('T-5: LAUNCH_MEASURE into 256 bytes is 0 and leads to LSECRET', () => {
		const p = program();
		const { vm } = launching(p);
		const at = blob(p, 256);
		const answer = p.sev(vm, SevCommand.LAUNCH_MEASURE, kvmSevLaunchMeasure.encode({ uaddr: at, len: 256 }));
		expect(answer).toMatchObject({ ret: 0, error: 0 });
		expect(kvmSevLaunchMeasure.decode(answer.data)).toEqual({ uaddr: at, len: 256 });
		expect(p.at(at, 48).some((byte) => byte !== 0)).toBe(true);
		expect(p.at(at + 48n, 208)).toEqual(new Uint8Array(208));
		expect(status(p, vm).state).toBe(GuestState.LSECRET);
	});

	it('T-6: before LAUNCH_FINISH the state is LUPDATE or LSECRET, after it RUNNING', () => {
		const p = program();
		const { vm } = launching(p);
		expect(status(p, vm).state).toBe(GuestState.LUPDATE);
		const measure = kvmSevLaunchMeasure.encode({ uaddr: blob(p, 48), len: 48 });
		expect(p.sev(vm, SevCommand.LAUNCH_MEASURE, measure).ret).toBe(0);
		expect(status(p, vm).state).toBe(GuestState.LSECRET);
		expect(p.sev(vm, SevCommand.LAUNCH_FINISH)).toMatchObject({ ret: 0, error: 0 });
		expect(status(p, vm).state).toBe(GuestState.RUNNING);
	});

	it('LAUNCH_MEASURE writes the length back after a query, not after a refusal', () => {
		const p = program();
		const { vm } = launching(p);
		const measure = (uaddr: bigint, len: number) => {
			const answer = p.sev(vm, SevCommand.LAUNCH_MEASURE, kvmSevLaunchMeasure.encode({ uaddr, len }));
			return { ...answer, len: kvmSevLaunchMeasure.decode(answer.data).len };
		};
		const query = { ret: -5, error: Status.INVALID_LENGTH, len: 48 };
		expect(measure(0n, 0)).toMatchObject(query);
		expect(measure(NOWHERE, 0)).toMatchObject(query);
		expect(measure(blob(p, 64), 47)).toMatchObject({ ret: -5, error: Status.INVALID_LENGTH, len: 47 });
		// Without an address the firmware is asked for the length, which nobody gets to know.
		expect(measure(0n, 99999)).toMatchObject({ ret: -5, error: Status.INVALID_LENGTH, len: 99999 });
		expect(measure(blob(p, 64), 0x4001)).toMatchObject({ ...EINVAL, len: 0x4001 });
		expect(p.sev(vm, SevCommand.LAUNCH_MEASURE, NOWHERE)).toMatchObject(EFAULT);
		expect(measure(NOWHERE, 48)).toMatchObject({ ret: -14, error: 0, len: 48 });
	});

	it('GET_ATTESTATION_REPORT obeys the same rules', () => {
		const p = program();
		const { vm } = running(p);
		const mnonce = pattern(16);
		const report = (uaddr: bigint, len: number) => {
			const request = kvmSevAttestationReport.encode({ mnonce, uaddr, len });
			const answer = p.sev(vm, SevCommand.GET_ATTESTATION_REPORT, request);
			return { ...answer, len: kvmSevAttestationReport.decode(answer.data).len };
		};
		expect(report(0n, 0)).toMatchObject({ ret: -5, error: Status.INVALID_LENGTH, len: 208 });
		expect(report(blob(p, 64), 0x4001)).toMatchObject({ ...EINVAL, len: 0x4001 });
		expect(report(NOWHERE, 208)).toMatchObject({ ret: -14, error: 0 });
		const at = blob(p, 256);
		expect(report(at, 256)).toMatchObject({ ret: 0, error: 0, len: 208 });
		expect(p.at(at, 16)).toEqual(mnonce);
	});

	it('LAUNCH_SECRET pins the guest memory, then reads the payload, then the header', () => {
		const p = program();
		const { vm, ram } = launching(p);
		const guest = { guestUaddr: BigInt(ram.hva), guestLen: 16 };
		const good = blob(p, 64);
		const bad = { transUaddr: NOWHERE, transLen: 0x4001, hdrUaddr: NOWHERE, hdrLen: 0 };
		const secret = (fields: Parameters<typeof kvmSevLaunchSecret.encode>[0]) => kvmSevLaunchSecret.encode(fields);
		refuses(p, vm, SevCommand.LAUNCH_SECRET, [
			[NOWHERE, EFAULT],
			[secret({ guestUaddr: BigInt(ram.hva), ...bad }), EINVAL],
			[secret({ guestUaddr: TOP, guestLen: 4096, ...bad }), EINVAL],
			[secret({ guestUaddr: NOWHERE, guestLen: 16, ...bad }), ENOMEM],
			[secret({ ...guest, ...bad }), EINVAL],
			[secret({ ...guest, transUaddr: NOWHERE, transLen: 16 }), EFAULT],
			[secret({ ...guest, transUaddr: good, transLen: 16 }), EINVAL],
			[secret({ ...guest, transUaddr: good, transLen: 16, hdrUaddr: NOWHERE, hdrLen: 52 }), EFAULT],
		]);
	});
});

describe('regions', () => {
	const region = (p: Program, vm: number, request: number, addr: bigint, size: bigint) =>
		p.process.ioctl(vm, request, kvmEncRegion.encode({ addr, size }));
	const { KVM_MEMORY_ENCRYPT_REG_REGION: REG, KVM_MEMORY_ENCRYPT_UNREG_REGION: UNREG } = SevIoctl;

	it('P-11: the right address with the wrong size is EINVAL, and the region stays', () => {
		const p = program();
		const { vm } = sevGuest(p);
		const ram = p.host.kvm.memory.mmap(2 * PAGE);
		const addr = BigInt(ram.hva);
		expect(region(p, vm, REG, addr, 8192n)).toBe(0);
		expect(region(p, vm, UNREG, addr, 4096n)).toBe(-22);
		expect(region(p, vm, UNREG, addr, 8192n)).toBe(0);
		expect(region(p, vm, UNREG, addr, 8192n)).toBe(-22);
	});

	it('are refused in order: EFAULT, ENOTTY, EINVAL, ENOMEM', () => {
		const p = program();
		const plain = p.createVm();
		expect(p.process.ioctl(plain, REG, NOWHERE)).toBe(-14);
		expect(p.process.ioctl(plain, UNREG, new Uint8Array(15))).toBe(-14);
		expect(region(p, plain, REG, 0n, 0n)).toBe(-25);
		expect(region(p, plain, UNREG, 0n, 0n)).toBe(-25);
		const { vm } = sevGuest(p);
		expect(region(p, vm, REG, TOP, 4096n)).toBe(-22);
		expect(region(p, vm, REG, 1n, 0xffff_ffff_ffff_ffffn)).toBe(-22);
		expect(region(p, vm, REG, 0n, 0n)).toBe(-22);
		expect(region(p, vm, REG, TOP, 4095n)).toBe(-12);
		expect(region(p, vm, REG, NOWHERE, 1n << 62n)).toBe(-12);
	});
});

describe('initialisation', () => {
	it('T-1: INIT is 0, and so is the error of every command that succeeds', () => {
		const p = startProgram(bootHost());
		const vm = p.createVm();
		expect(p.sev(vm, SevCommand.INIT, 0n, { error: 0 })).toMatchObject({ ret: 0, error: 0 });
		const es = p.createVm();
		expect(p.sev(es, SevCommand.ES_INIT, 0n, { error: 0 })).toMatchObject({ ret: 0, error: 0 });
		expect(count(p.host, 'INIT')).toBe(1);
	});

	it('T-4: LAUNCH_UPDATE_VMSA of a SEV-ES guest is 0, and the second time too', () => {
		const p = program();
		const vm = p.createVm();
		p.sev(vm, SevCommand.ES_INIT);
		vmOf(p, vm).createVcpu(0, []);
		expect(p.sev(vm, SevCommand.LAUNCH_START, kvmSevLaunchStart.encode({ policy: Policy.ES })).ret).toBe(0);
		expect(p.sev(vm, SevCommand.LAUNCH_UPDATE_VMSA)).toMatchObject({ ret: 0, error: 0 });
		expect(p.sev(vm, SevCommand.LAUNCH_UPDATE_VMSA)).toMatchObject({ ret: 0, error: 0 });
	});

	it('reads the structure of INIT2 only for a typed VM, and refuses flags and features', () => {
		const p = program();
		expect(p.sev(p.createVm(), SevCommand.INIT2, NOWHERE)).toMatchObject(EINVAL);
		const vm = p.createVm(2);
		const init = new Uint8Array(48);
		init[8] = 1;
		refuses(p, vm, SevCommand.INIT2, [
			[NOWHERE, EFAULT],
			[init, EINVAL],
		]);
		expect(p.sev(vm, SevCommand.INIT2, new Uint8Array(48)).ret).toBe(0);
	});
});
