import { Policy, Status } from '@cvm/sev-hw/abi';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { esVcpuRecord, kvmSevSendUpdateData, kvmSevSendUpdateVmsa } from '../src/abi/index.js';
import { KvmError, loadEsVcpu, saveEsVcpu, type Vm } from '../src/index.js';
import { openVcpuState, Register, VcpuWord } from '../src/vm/vcpu-state.js';
import { contextOf } from '../src/vm/vm.js';
import { VmWord } from '../src/vm/words.js';
import { bootEsHost, esVm, must, plainSaveArea, runningEsVm, withoutSlot } from './es-rig.js';
import { bootHost, certificatesOf, count, runningVm } from './host.js';

const OK = { ret: 0, error: 0 };
const EINVAL = { ret: -22, error: 0 };
const ENOTTY = { ret: -25, error: 0 };
const EMPTY = new Uint8Array(0);

/** A running SEV-ES guest in SEND and an empty one of another host in RECEIVE. */
function connected(o: { policy?: number; typed?: boolean } = {}) {
	const { policy = Policy.ES, typed = false } = o;
	const source = bootEsHost({ seed: 'source', vmsaTransport: 'model' });
	const target = bootEsHost({ seed: 'target', vmsaTransport: 'model' });
	// Another ASID, other places in memory.
	must(target.kvm.createVm().sev.esInit());
	const from = esVm(source, { policy, typed });
	for (const vcpu of from.vcpus) vcpu.setRegs({ rsp: 0x1000n + BigInt(vcpu.index), r9: 0xfeedn });
	must(from.vm.sev.launchUpdateVmsa());
	must(from.vm.sev.launchMeasure());
	must(from.vm.sev.launchFinish());
	const to = esVm(target, { policy: undefined, typed });
	const start = from.vm.sev.sendStart(certificatesOf(target));
	must(start);
	const { pdhCert } = certificatesOf(source);
	must(to.vm.sev.receiveStart({ policy: start.policy, pdhCert, session: start.session }));
	return { source, target, from: from.vm, to: to.vm, targets: to.vcpus };
}

const isProtected = (vm: Vm, vcpu: number) => contextOf(vm).vcpus.get(vcpu)?.guestStateProtected;

describe('save areas on their way to another host (PROJECT)', () => {
	it.each([false, true])('arrive as they were, from SEND_START to RECEIVE_FINISH (typed: %s)', (typed) => {
		const { source, target, from, to } = connected({ typed });
		const before = [0, 1].map((vcpu) => plainSaveArea(source, from, vcpu));
		for (const vcpuId of [0, 1]) {
			const { header, data, ...result } = from.sev.sendUpdateVmsa({ vcpuId });
			expect(result).toEqual({ ...OK, headerLen: 52, transLen: 4096 });
			expect([header.length, data.length]).toEqual([52, 4096]);
			expect(to.sev.receiveUpdateVmsa({ vcpuId, header, data })).toEqual(OK);
		}
		must(from.sev.sendFinish());
		must(to.sev.receiveFinish());
		const after = [0, 1].map((vcpu) => plainSaveArea(target, to, vcpu));
		expect(after.map(withoutSlot)).toEqual(before.map(withoutSlot));
		expect(after.map(withoutSlot)).toEqual(source.measured);
		expect(count(source, 'SEND_UPDATE_VMSA')).toBe(2);
		expect(count(target, 'RECEIVE_UPDATE_VMSA')).toBe(2);
	});

	it('go on from there to a third host', () => {
		const { from, to } = connected();
		for (const vcpuId of [0, 1]) {
			const { header, data } = from.sev.sendUpdateVmsa({ vcpuId });
			must(to.sev.receiveUpdateVmsa({ vcpuId, header, data }));
		}
		must(to.sev.receiveFinish());
		must(to.sev.sendStart(certificatesOf(bootHost({ seed: 'third' }))));
		expect(to.sev.sendUpdateVmsa({ vcpuId: 1 })).toMatchObject(OK);
	});

	it('make the target’s vCPU one whose registers are the guest’s own', () => {
		const { from, to, targets } = connected();
		const [first, second] = targets;
		const { header, data } = from.sev.sendUpdateVmsa({ vcpuId: 0 });
		must(to.sev.receiveUpdateVmsa({ vcpuId: 0, header, data }));
		expect([isProtected(to, 0), isProtected(to, 1)]).toEqual([true, false]);
		expect([first?.getRegs().rip, second?.getRegs().rip]).toEqual([0n, 0xb004n]);
		expect(first?.setGuestDebug(1)).toBe(-22);
	});

	it('may be sent and received again', () => {
		const { target, from, to } = connected();
		for (let i = 0; i < 2; i++) {
			const { header, data } = from.sev.sendUpdateVmsa({ vcpuId: 0 });
			expect(to.sev.receiveUpdateVmsa({ vcpuId: 0, header, data })).toEqual(OK);
		}
		expect(withoutSlot(plainSaveArea(target, to, 0))[0x160 + 1]).toBe(4);
	});
});

describe('KVM_SEV_SEND_UPDATE_VMSA (PROJECT)', () => {
	it('tells the lengths if one is 0', () => {
		const { from } = connected();
		for (const zero of [{ headerLen: 0 }, { transLen: 0 }]) {
			const answer = from.sev.sendUpdateVmsa({ vcpuId: 0, ...zero });
			expect(answer).toMatchObject({ ret: -5, error: Status.INVALID_LENGTH, headerLen: 52, header: EMPTY });
		}
	});

	it('is ENOTTY without SEV-ES, EINVAL for vCPUs that are not there or not encrypted, ENOMEM for long buffers', () => {
		const host = bootHost({ vmsaTransport: 'model' });
		expect(runningVm(host).vm.sev.sendUpdateVmsa({ vcpuId: 0 })).toMatchObject(ENOTTY);
		const { from, to } = connected();
		expect(from.sev.sendUpdateVmsa({ vcpuId: 2 })).toMatchObject(EINVAL);
		expect(to.sev.sendUpdateVmsa({ vcpuId: 0 })).toMatchObject(EINVAL);
		expect(from.sev.sendUpdateVmsa({ vcpuId: 0, headerLen: 0x4001 })).toMatchObject({ ret: -12, error: 0 });
		expect(from.sev.sendUpdateVmsa({ vcpuId: 0, transLen: 0x4001 })).toMatchObject({ ret: -12, error: 0 });
	});

	it('passes on what the firmware says', () => {
		const { from } = connected();
		const short = from.sev.sendUpdateVmsa({ vcpuId: 0, transLen: 4095 });
		expect(short).toMatchObject({ ret: -5, error: Status.INVALID_LENGTH, data: EMPTY });
		const { saveArea } = contextOf(from).vcpus.get(0) ?? {};
		saveArea?.bytes.fill(0, 0, 16);
		expect(from.sev.sendUpdateVmsa({ vcpuId: 0 })).toMatchObject({ ret: -5, error: Status.INVALID_PARAM });
		must(from.sev.sendFinish());
		expect(from.sev.sendUpdateVmsa({ vcpuId: 1 })).toMatchObject({ ret: -5, error: Status.INVALID_GUEST_STATE });
	});
});

describe('KVM_SEV_RECEIVE_UPDATE_VMSA (PROJECT)', () => {
	it('is EINVAL without SEV-ES, for empty or long buffers and vCPUs that are not there', () => {
		const { from, to } = connected();
		const { header, data } = from.sev.sendUpdateVmsa({ vcpuId: 0 });
		const long = new Uint8Array(0x4001);
		const bad = [
			{ vcpuId: 0, header: EMPTY, data },
			{ vcpuId: 0, header, data: EMPTY },
			{ vcpuId: 0, header: long, data },
			{ vcpuId: 0, header, data: long },
			{ vcpuId: 7, header, data },
		];
		for (const request of bad) expect(to.sev.receiveUpdateVmsa(request)).toEqual(EINVAL);
		const sev = runningVm(bootHost({ vmsaTransport: 'model' })).vm;
		expect(sev.sev.receiveUpdateVmsa({ vcpuId: 0, header, data })).toEqual(EINVAL);
		expect(isProtected(to, 0)).toBe(false);
	});

	it('refuses a packet that was changed, and leaves the vCPU as it was', () => {
		const { from, to, targets } = connected();
		const { header, data } = from.sev.sendUpdateVmsa({ vcpuId: 0 });
		data[100] = (data[100] ?? 0) ^ 1;
		const before = targets[0]?.getRegs();
		expect(to.sev.receiveUpdateVmsa({ vcpuId: 0, header, data })).toEqual({ ret: -5, error: Status.BAD_MEASUREMENT });
		expect([isProtected(to, 0), targets[0]?.getRegs()]).toEqual([false, before]);
		expect(
			contextOf(to)
				.vcpus.get(0)
				?.saveArea?.bytes.every((byte) => byte === 0),
		).toBe(true);
	});
});

describe('packets that no firmware made', () => {
	const { from, to } = connected();
	const { header: goodHeader, data: goodData } = from.sev.sendUpdateVmsa({ vcpuId: 0 });
	const bytes = (max: number) => fc.uint8Array({ maxLength: max });
	const headers = fc.oneof(fc.constant(goodHeader), bytes(64), fc.uint8Array({ minLength: 52, maxLength: 52 }));
	const payloads = fc.oneof(
		fc.constant(goodData.subarray(1)),
		bytes(64),
		fc.uint8Array({ minLength: 4096, maxLength: 4096 }),
	);

	test.prop([fc.nat(3), headers, payloads], { numRuns: 60 })(
		'are refused and change nothing',
		(vcpuId, header, data) => {
			const answer = to.sev.receiveUpdateVmsa({ vcpuId, header, data });
			expect([-22, -5]).toContain(answer.ret);
			expect(isProtected(to, 0)).toBe(false);
			const areas = [0, 1].map((vcpu) => contextOf(to).vcpus.get(vcpu)?.saveArea?.bytes);
			for (const area of areas) expect(area?.every((byte) => byte === 0)).toBe(true);
		},
	);
});

describe('the real KVM', () => {
	it('answers EINVAL to both numbers, and reaches no firmware', () => {
		const host = bootHost();
		const { vm } = runningEsVm(host);
		must(vm.sev.sendStart(certificatesOf(bootHost({ seed: 'other' }))));
		expect(vm.sev.sendUpdateVmsa({ vcpuId: 0 })).toMatchObject(EINVAL);
		expect(vm.sev.sendUpdateVmsa({ vcpuId: 0, headerLen: 0 })).toMatchObject(EINVAL);
		const packet = { vcpuId: 0, header: new Uint8Array(52), data: new Uint8Array(4096) };
		expect(vm.sev.receiveUpdateVmsa(packet)).toEqual(EINVAL);
		expect([count(host, 'SEND_UPDATE_VMSA'), count(host, 'RECEIVE_UPDATE_VMSA')]).toEqual([0, 0]);
	});
});

describe('the structures of the transport (PROJECT)', () => {
	it('have the buffers where those of SEND_UPDATE_DATA are', () => {
		for (const field of ['hdrUaddr', 'hdrLen', 'transUaddr', 'transLen'] as const) {
			expect(kvmSevSendUpdateVmsa.offsetOf(field)).toBe(kvmSevSendUpdateData.offsetOf(field));
		}
		expect([kvmSevSendUpdateVmsa.size, kvmSevSendUpdateVmsa.offsetOf('vcpuId')]).toEqual([48, 16]);
	});
});

describe('the record of a vCPU (PROJECT)', () => {
	it('is 48 bytes, little-endian, and carries what no save area has', () => {
		const { vm, vcpus } = esVm(bootHost());
		const [, vcpu] = vcpus;
		if (vcpu === undefined) throw new Error('vcpu: expected two');
		const { registers, words } = openVcpuState(vcpu.share());
		registers[Register.ghcbMsr] = 0x7654_3000n;
		registers[Register.apResetHold] = 2n;
		registers[Register.sipiSeen] = 1n;
		words[VcpuWord.mpState] = 9;
		contextOf(vm).words[VmWord.apJumpTable] = -4096;
		contextOf(vm).words[VmWord.apJumpTable + 1] = 1;
		const record = saveEsVcpu(vm, 1, { tscOffset: -1n, migMsr: 1n });
		const view = new DataView(record.buffer);
		expect(record.length).toBe(48);
		expect([0, 8, 24, 32, 40].map((at) => view.getBigUint64(at, true))).toEqual([
			0x7654_3000n,
			0x1_ffff_f000n,
			0xffff_ffff_ffff_ffffn,
			1n,
			1n,
		]);
		expect([view.getUint32(16, true), view.getUint32(20, true)]).toEqual([2, 9]);

		const target = esVm(bootHost({ seed: 'target' })).vm;
		expect(loadEsVcpu(target, 1, record)).toEqual(esVcpuRecord.decode(record));
		expect(saveEsVcpu(target, 1, { tscOffset: -1n, migMsr: 1n })).toEqual(record);
	});

	it('is of a vCPU that exists, and has its length', () => {
		const { vm } = esVm(bootHost());
		expect(() => saveEsVcpu(vm, 2)).toThrow(KvmError);
		expect(() => loadEsVcpu(vm, 2, saveEsVcpu(vm, 0))).toThrow(KvmError);
		expect(() => loadEsVcpu(vm, 0, new Uint8Array(47))).toThrow('48 bytes');
	});
});
