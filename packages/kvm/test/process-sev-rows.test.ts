import { spa } from '@cvm/layout';
import { GENERATIONS } from '@cvm/sev-hw';
import { COMMANDS, Policy, Status } from '@cvm/sev-hw/abi';
import { describe, expect, it } from 'vitest';
import {
	Ioctl,
	kvmSevAttestationReport,
	kvmSevCmd,
	kvmSevDbg,
	kvmSevLaunchMeasure,
	kvmSevLaunchSecret,
	kvmSevLaunchStart,
	kvmSevLaunchUpdateData,
	kvmSevReceiveStart,
	kvmSevReceiveUpdateData,
	kvmSevSendStart,
	kvmSevSendUpdateData,
	SevCommand,
	SevIoctl,
} from '../src/abi/index.js';
import { NO_ANSWER, SEV_ISSUE_CMD, SevUserCommand, sevIssueCmd } from '../src/ccp/index.js';
import type { LinuxRelease } from '../src/index.js';
import { certificatesOf, PAGE } from './host.js';
import {
	blob,
	EFAULT,
	EINVAL,
	launching,
	NOWHERE,
	type Program,
	program,
	refuses,
	running,
	sevGuest,
	status,
	UNTOUCHED,
	vmOf,
} from './process-rig.js';

const KEPT = { error: UNTOUCHED };
const EBUSY = { ret: -16, ...KEPT };
const ENOTTY = { ret: -25, ...KEPT };
const EBADF = { ret: -9, ...KEPT };
const QUERY = { ret: -5, error: Status.INVALID_LENGTH };

/** Every command with a structure that the firmware would get to see. */
function sound(p: Program, at: bigint): readonly (readonly [number, Uint8Array | bigint])[] {
	const good = () => blob(p, 64);
	const packet = { hdrUaddr: good(), hdrLen: 52, guestUaddr: at, guestLen: 16, transUaddr: good(), transLen: 16 };
	const chains = {
		pdhCertUaddr: good(),
		pdhCertLen: 64,
		platCertsUaddr: good(),
		platCertsLen: 64,
		amdCertsUaddr: good(),
		amdCertsLen: 64,
	};
	const debug = kvmSevDbg.encode({ srcUaddr: at, dstUaddr: at, len: 16 });
	return [
		[SevCommand.LAUNCH_UPDATE_DATA, kvmSevLaunchUpdateData.encode({ uaddr: at, len: 16 })],
		[SevCommand.LAUNCH_SECRET, kvmSevLaunchSecret.encode(packet)],
		[SevCommand.LAUNCH_MEASURE, kvmSevLaunchMeasure.encode({ uaddr: good(), len: 48 })],
		[SevCommand.LAUNCH_MEASURE, kvmSevLaunchMeasure.encode({})],
		[SevCommand.LAUNCH_FINISH, 0n],
		[SevCommand.SEND_START, kvmSevSendStart.encode({ ...chains, sessionUaddr: good(), sessionLen: 64 })],
		[SevCommand.SEND_START, kvmSevSendStart.encode({})],
		[SevCommand.SEND_UPDATE_DATA, kvmSevSendUpdateData.encode(packet)],
		[SevCommand.SEND_UPDATE_DATA, kvmSevSendUpdateData.encode({})],
		[SevCommand.SEND_FINISH, 0n],
		[SevCommand.SEND_CANCEL, 0n],
		[SevCommand.RECEIVE_UPDATE_DATA, kvmSevReceiveUpdateData.encode(packet)],
		[SevCommand.RECEIVE_FINISH, 0n],
		[SevCommand.GET_ATTESTATION_REPORT, kvmSevAttestationReport.encode({ mnonce: new Uint8Array(16) })],
		[SevCommand.GUEST_STATUS, blob(p, 16)],
		[SevCommand.DBG_DECRYPT, debug],
		[SevCommand.DBG_ENCRYPT, debug],
	];
}

describe('what the firmware layer answers', () => {
	it('EBADF before a *_START stored a descriptor, and once that is closed: the error stays, nothing is issued', () => {
		const p = program();
		const fresh = sevGuest(p);
		const started = launching(p);
		p.process.close(p.sevFd);
		for (const { vm, ram } of [fresh, started]) {
			const before = p.host.commands.length;
			for (const [id, data] of sound(p, BigInt(ram.hva))) expect([id, p.sev(vm, id, data)]).toMatchObject([id, EBADF]);
			expect(p.host.commands).toHaveLength(before);
		}
	});

	it('ETIMEDOUT and status 0 when it does not answer; every later command of the host is EBUSY and keeps the error', () => {
		const p = program();
		const { vm, ram } = launching(p);
		const other = sevGuest(p);
		const { psp } = p.host.machine;
		const { submit } = psp;
		Object.assign(psp, { submit: () => NO_ANSWER });
		expect(p.sev(vm, SevCommand.LAUNCH_FINISH)).toMatchObject({ ret: -110, error: 0 });
		// It answers again, and nobody asks.
		Object.assign(psp, { submit });
		const before = p.host.commands.length;
		for (const [id, data] of sound(p, BigInt(ram.hva))) expect([id, p.sev(vm, id, data)]).toMatchObject([id, EBUSY]);
		expect(p.sev(other.vm, SevCommand.LAUNCH_START, kvmSevLaunchStart.encode({}))).toMatchObject(EBUSY);
		expect(p.sev(p.createVm(), SevCommand.INIT)).toMatchObject(EBUSY);
		const command = sevIssueCmd.encode({ cmd: SevUserCommand.PDH_GEN, error: UNTOUCHED });
		expect(p.process.ioctl(p.sevFd, SEV_ISSUE_CMD, command)).toBe(-16);
		expect(sevIssueCmd.decode(command).error).toBe(UNTOUCHED);
		expect(p.host.commands).toHaveLength(before);
		p.process.exit();
	});

	it('the same for a batch: what ran before is told', () => {
		const p = program();
		const { vm, ram } = running(p);
		const { psp } = p.host.machine;
		const out = p.host.kvm.memory.mmap(2 * PAGE);
		const geometry = { headerAt: 0, payloadAt: PAGE, stride: 2 * PAGE };
		Object.assign(psp, { submitBatch: () => NO_ANSWER });
		const { sev } = vmOf(p, vm);
		expect(sev.sendUpdateDataBatch([ram.hva], 1, out.bytes, geometry)).toEqual({ ret: -110, error: 0, done: 0 });
		expect(sev.sendUpdateDataBatch([ram.hva], 1, out.bytes, geometry)).toEqual({ ret: -16, error: 0, done: 0 });
	});
});

describe('KVM_SEV_INIT, KVM_SEV_ES_INIT, row by row', () => {
	const RELEASES: readonly LinuxRelease[] = ['5.12', '5.13', '6.1', '6.10'];
	it.each(RELEASES)('ES_INIT without SEV-ES is ENOTTY before all else: Linux %s', (release) => {
		const p = program({ release, sevEs: false });
		const { vm } = sevGuest(p);
		p.process.ioctl(vm, Ioctl.KVM_CREATE_VCPU, 0);
		expect(p.sev(vm, SevCommand.ES_INIT, NOWHERE)).toMatchObject(ENOTTY);
	});

	it.each([
		['5.12', SevCommand.INIT, 0],
		['5.12', SevCommand.ES_INIT, 0],
		['5.13', SevCommand.INIT, -22],
		['6.10', SevCommand.ES_INIT, -22],
	] as const)('with a vCPU: Linux %s answers command %i with %i', (release, id, ret) => {
		const p = program({ release });
		const vm = p.createVm();
		p.process.ioctl(vm, Ioctl.KVM_CREATE_VCPU, 0);
		expect(p.sev(vm, id)).toMatchObject({ ret, ...KEPT });
	});

	it.each([
		['5.12', -16],
		['6.1', -16],
		['6.10', -22],
	] as const)('the second time: Linux %s answers %i', (release, ret) => {
		const p = program({ release });
		const { vm } = sevGuest(p);
		for (const id of [SevCommand.INIT, SevCommand.ES_INIT]) expect(p.sev(vm, id)).toMatchObject({ ret, ...KEPT });
	});

	it.each([
		['6.1', -16],
		['6.10', -25],
	] as const)('without any ASID for guests without SEV-ES: Linux %s answers %i', (release, ret) => {
		const { milan } = GENERATIONS;
		const p = program({ release, generation: { ...milan, minSevNoEsAsid: milan.maxAsid + 1 } });
		expect(p.sev(p.createVm(), SevCommand.INIT)).toMatchObject({ ret, ...KEPT });
	});

	it('with all ASIDs taken is EBUSY, and 0 after one recycling', () => {
		const p = program({ generation: { ...GENERATIONS.naples, minSevNoEsAsid: GENERATIONS.naples.maxAsid } });
		const { vm } = sevGuest(p);
		expect(p.sev(p.createVm(), SevCommand.INIT)).toMatchObject(EBUSY);
		p.process.close(vm);
		expect(p.sev(p.createVm(), SevCommand.INIT).ret).toBe(0);
	});

	it('with firmware that cannot be brought up is EIO with its status', () => {
		const p = program();
		const { submit } = p.host.machine.psp;
		Object.assign(p.host.machine.psp, {
			submit: (command: number, at: Parameters<typeof submit>[1]) =>
				command === COMMANDS.INIT.id ? Status.HWERROR_PLATFORM : submit(command, spa(at)),
		});
		expect(p.sev(p.createVm(), SevCommand.INIT)).toMatchObject({ ret: -5, error: Status.HWERROR_PLATFORM });
	});
});

describe('length queries', () => {
	it('that cannot be written back are EFAULT, with the firmware’s status', () => {
		const p = program();
		const { vm, ram } = running(p);
		const { memory } = p.host.kvm;
		const { submit } = p.host.machine.psp;
		const rows: readonly (readonly [number, number, Uint8Array])[] = [
			[SevCommand.SEND_START, COMMANDS.SEND_START.id, kvmSevSendStart.encode({})],
			[SevCommand.SEND_UPDATE_DATA, COMMANDS.SEND_UPDATE_DATA.id, kvmSevSendUpdateData.encode({})],
			[SevCommand.LAUNCH_MEASURE, COMMANDS.LAUNCH_MEASURE.id, kvmSevLaunchMeasure.encode({})],
			[
				SevCommand.GET_ATTESTATION_REPORT,
				COMMANDS.ATTESTATION.id,
				kvmSevAttestationReport.encode({ mnonce: new Uint8Array(16), uaddr: BigInt(ram.hva) }),
			],
		];
		for (const [id, firmwareId, data] of rows) {
			const page = memory.mmap(PAGE);
			page.bytes.set(data);
			Object.assign(p.host.machine.psp, {
				submit: (command: number, at: Parameters<typeof submit>[1]) => {
					if (command === firmwareId) memory.munmap(page);
					return submit(command, at);
				},
			});
			const { ret, error } = p.sev(vm, id, BigInt(page.hva));
			expect([id, ret, error > 0 && error < UNTOUCHED]).toEqual([id, -14, true]);
			Object.assign(p.host.machine.psp, { submit });
		}
	});

	it('of SEND_UPDATE_DATA write both lengths and nothing else; of the others one', () => {
		const p = program();
		const { vm } = running(p);
		const packet = { hdrUaddr: 1n, guestUaddr: 2n, guestLen: 3, transUaddr: 4n, transLen: 5 };
		const sent = p.sev(vm, SevCommand.SEND_UPDATE_DATA, kvmSevSendUpdateData.encode(packet));
		expect(sent).toMatchObject(QUERY);
		expect(kvmSevSendUpdateData.decode(sent.data)).toEqual({ ...packet, hdrLen: 52, transLen: 0 });
		const start = { policy: 9, pdhCertUaddr: 1n, pdhCertLen: 2, sessionUaddr: 3n };
		const started = p.sev(vm, SevCommand.SEND_START, kvmSevSendStart.encode(start));
		expect(started).toMatchObject(QUERY);
		expect(kvmSevSendStart.decode(started.data)).toMatchObject({ ...start, sessionLen: 128 });
	});
});

describe('single rows', () => {
	it('LAUNCH_UPDATE_VMSA of a guest without SEV-ES is ENOTTY, and of a vCPU that is debugged EINVAL', () => {
		const p = program();
		expect(p.sev(launching(p).vm, SevCommand.LAUNCH_UPDATE_VMSA)).toMatchObject(ENOTTY);
		const vm = p.createVm();
		p.sev(vm, SevCommand.ES_INIT);
		p.process.ioctl(vm, Ioctl.KVM_CREATE_VCPU, 0);
		p.sev(vm, SevCommand.LAUNCH_START, kvmSevLaunchStart.encode({ policy: Policy.ES }));
		const vcpu = vmOf(p, vm).createVcpu(1, []);
		vcpu.setGuestDebug(1);
		// The firmware took vCPU 0.
		expect(p.sev(vm, SevCommand.LAUNCH_UPDATE_VMSA)).toMatchObject({ ret: -22, error: 0 });
		vcpu.setGuestDebug(0);
		expect(p.sev(vm, SevCommand.LAUNCH_UPDATE_VMSA)).toMatchObject({ ret: 0, error: 0 });
	});

	it('LAUNCH_UPDATE_DATA of no whole blocks is the firmware’s INVALID_LENGTH', () => {
		const p = program();
		const { vm, ram } = launching(p);
		const range = kvmSevLaunchUpdateData.encode({ uaddr: BigInt(ram.hva), len: 15 });
		expect(p.sev(vm, SevCommand.LAUNCH_UPDATE_DATA, range)).toMatchObject(QUERY);
	});

	it('LAUNCH_FINISH twice is INVALID_GUEST_STATE: KVM keeps no state', () => {
		const p = program();
		const answer = { ret: -5, error: Status.INVALID_GUEST_STATE };
		expect(p.sev(running(p).vm, SevCommand.LAUNCH_FINISH)).toMatchObject(answer);
	});

	it.each([
		['v12', -14],
		['upstream', -12],
	] as const)('guest memory of packets that cannot be pinned: %s answers %i', (abi, ret) => {
		const p = program({ abi });
		const { vm } = launching(p);
		const packet = {
			hdrUaddr: blob(p, 52),
			hdrLen: 52,
			guestUaddr: NOWHERE,
			guestLen: 16,
			transUaddr: blob(p, 16),
			transLen: 16,
		};
		refuses(p, vm, SevCommand.SEND_UPDATE_DATA, [[kvmSevSendUpdateData.encode(packet), { ret, ...KEPT }]]);
		refuses(p, vm, SevCommand.RECEIVE_UPDATE_DATA, [[kvmSevReceiveUpdateData.encode(packet), { ret, ...KEPT }]]);
	});

	it('RECEIVE_UPDATE_DATA with a header of 0x4001 bytes, or a range that leaves its page by one byte, is EINVAL', () => {
		const p = program();
		const { vm, ram } = launching(p);
		const good = { hdrUaddr: blob(p, 52), hdrLen: 52, transUaddr: blob(p, 16), transLen: 16 };
		const at = BigInt(ram.hva);
		refuses(p, vm, SevCommand.RECEIVE_UPDATE_DATA, [
			[kvmSevReceiveUpdateData.encode({ ...good, guestUaddr: at, guestLen: 16, hdrLen: 0x4001 }), EINVAL],
			[kvmSevReceiveUpdateData.encode({ ...good, guestUaddr: at + 1n, guestLen: PAGE }), EINVAL],
		]);
	});

	it('SEND_START with chains that are empty or too long is EINVAL, chain by chain', () => {
		const p = program();
		const { vm } = running(p);
		const names = ['pdhCert', 'platCerts', 'amdCerts'] as const;
		const good = Object.fromEntries(
			names.flatMap((name) => [
				[`${name}Uaddr`, blob(p, 64)],
				[`${name}Len`, 64],
			]),
		);
		const start = (fields: object) =>
			kvmSevSendStart.encode({ ...good, sessionUaddr: blob(p, 128), sessionLen: 128, ...fields });
		for (const name of names) {
			refuses(p, vm, SevCommand.SEND_START, [
				[start({ [`${name}Len`]: 0 }), EINVAL],
				[start({ [`${name}Len`]: 0x4001 }), EINVAL],
				[start({ [`${name}Uaddr`]: NOWHERE }), EFAULT],
			]);
		}
	});

	it('SEND_START whose structure is gone when it should be written back is EFAULT after it started', () => {
		const p = program();
		const { vm } = running(p);
		const { memory } = p.host.kvm;
		const { pdhCert, platCerts, amdCerts } = certificatesOf(program({ seed: 'target' }).host);
		const page = memory.mmap(PAGE);
		page.bytes.set(
			kvmSevSendStart.encode({
				pdhCertUaddr: p.put(pdhCert),
				pdhCertLen: pdhCert.length,
				platCertsUaddr: p.put(platCerts),
				platCertsLen: platCerts.length,
				amdCertsUaddr: p.put(amdCerts),
				amdCertsLen: amdCerts.length,
				sessionUaddr: blob(p, 128),
				sessionLen: 128,
			}),
		);
		const { submit } = p.host.machine.psp;
		Object.assign(p.host.machine.psp, {
			submit: (command: number, at: Parameters<typeof submit>[1]) => {
				if (command === COMMANDS.SEND_START.id) memory.munmap(page);
				return submit(command, at);
			},
		});
		expect(p.sev(vm, SevCommand.SEND_START, BigInt(page.hva))).toMatchObject({ ret: -14, error: 0 });
		expect(status(p, vm).state).toBe(4);
	});

	it('RECEIVE_START whose ASID cannot be bound leaves a guest behind in v12 alone', () => {
		for (const [abi, left] of [
			['v12', 1],
			['upstream', 0],
		] as const) {
			const p = program({ abi });
			const sender = program({ seed: 'source' });
			const from = running(sender);
			const { session, policy } = vmOf(sender, from.vm).sev.sendStart(certificatesOf(p.host));
			const { vm } = launching(p);
			const { pdh } = sender.host.kvm.sevDevice.pdhCertExport();
			const start = kvmSevReceiveStart.encode({
				policy,
				pdhUaddr: p.put(pdh),
				pdhLen: pdh.length,
				sessionUaddr: p.put(session),
				sessionLen: session.length,
			});
			const guests = p.host.kvm.sevDevice.platformStatus().guestCount;
			const answer = p.sev(vm, SevCommand.RECEIVE_START, start);
			expect(answer).toMatchObject({ ret: -5, error: Status.ASID_OWNED, data: start });
			expect(p.host.kvm.sevDevice.platformStatus().guestCount - guests).toBe(left);
		}
	});

	it('regions: UNREG of a mirror is EINVAL before it is anything else, of a VM without SEV ENOTTY', () => {
		const p = program();
		const { vm } = launching(p);
		const mirror = p.createVm();
		expect(vmOf(p, mirror).copyEncContextFrom(vmOf(p, vm))).toBe(0);
		const call = (fd: number, request: number) => p.process.ioctl(fd, request, new Uint8Array(16));
		const both = [SevIoctl.KVM_MEMORY_ENCRYPT_REG_REGION, SevIoctl.KVM_MEMORY_ENCRYPT_UNREG_REGION];
		expect(both.map((request) => call(mirror, request))).toEqual([-22, -22]);
		expect(both.map((request) => call(p.createVm(), request))).toEqual([-25, -25]);
	});

	it('a host without SEV: regions are ENOTTY, and the other process’s EIO comes before that', () => {
		const p = program();
		const plain = p.host.kvm.createVm;
		Object.assign(p.host.kvm, { createVm: () => plain({ sev: false }) });
		const vm = p.createVm();
		for (const request of [SevIoctl.KVM_MEMORY_ENCRYPT_REG_REGION, SevIoctl.KVM_MEMORY_ENCRYPT_UNREG_REGION]) {
			expect(p.process.ioctl(vm, request, new Uint8Array(16))).toBe(-25);
		}
		expect(p.process.ioctl(vm, SevIoctl.KVM_MEMORY_ENCRYPT_OP, kvmSevCmd.encode({ id: 99 }))).toBe(-25);
	});
});
