import { GuestState, Policy, Status } from '@cvm/sev-hw/abi';
import { describe, expect, it } from 'vitest';
import {
	kvmSevDbg,
	kvmSevReceiveStart,
	kvmSevReceiveUpdateData,
	kvmSevSendStart,
	kvmSevSendUpdateData,
	SevCommand,
} from '../src/abi/index.js';
import { certificatesOf, PAGE, pattern } from './host.js';
import {
	blob,
	EFAULT,
	EINVAL,
	ENOMEM,
	launching,
	NOWHERE,
	program,
	refuses,
	running,
	sevGuest,
	status,
	TOP,
} from './process-rig.js';

/** A program whose guest sends, and one on another host that could receive it. */
function sending() {
	const p = program();
	const { vm, ram } = running(p);
	const target = program({ seed: 'target' });
	const certificates = certificatesOf(target.host);
	const start = kvmSevSendStart.encode({
		policy: 0x77,
		pdhCertUaddr: p.put(certificates.pdhCert),
		pdhCertLen: certificates.pdhCert.length,
		platCertsUaddr: p.put(certificates.platCerts),
		platCertsLen: certificates.platCerts.length,
		amdCertsUaddr: p.put(certificates.amdCerts),
		amdCertsLen: certificates.amdCerts.length,
		sessionUaddr: blob(p, 128),
		sessionLen: 128,
	});
	return { p, vm, ram, target, start };
}

describe('KVM_SEV_SEND_START', () => {
	it('P-5: a length query is EIO with INVALID_LENGTH and the length, and keeps the policy', () => {
		const { p, vm } = sending();
		const { ret, error, data } = p.sev(vm, SevCommand.SEND_START, kvmSevSendStart.encode({ policy: 0x77 }));
		expect([ret, error]).toEqual([-5, Status.INVALID_LENGTH]);
		expect(kvmSevSendStart.decode(data)).toMatchObject({ policy: 0x77, sessionLen: 128 });
	});

	it('P-6: a session of 0x4001 bytes is EINVAL; the error stays and the firmware is not called', () => {
		const { p, vm, start } = sending();
		kvmSevSendStart.patch(start, { sessionLen: 0x4001 });
		refuses(p, vm, SevCommand.SEND_START, [[start, EINVAL]]);
	});

	it('checks addresses before it reads the three chains one after the other', () => {
		const { p, vm, start } = sending();
		const change = (fields: Parameters<typeof kvmSevSendStart.encode>[0]) => {
			const changed = start.slice();
			kvmSevSendStart.patch(changed, fields);
			return changed;
		};
		refuses(p, vm, SevCommand.SEND_START, [
			[NOWHERE, EFAULT],
			[change({ pdhCertUaddr: 0n }), EINVAL],
			[change({ pdhCertLen: 0 }), EINVAL],
			[change({ sessionUaddr: 0n, pdhCertUaddr: NOWHERE }), EINVAL],
			[change({ pdhCertUaddr: NOWHERE, platCertsUaddr: 0n }), EFAULT],
			[change({ platCertsUaddr: 0n, amdCertsUaddr: NOWHERE }), EINVAL],
			[change({ platCertsUaddr: NOWHERE, amdCertsUaddr: 0n }), EFAULT],
			[change({ amdCertsUaddr: 0n }), EINVAL],
			[change({ amdCertsLen: 0x4001 }), EINVAL],
			[change({ amdCertsUaddr: NOWHERE }), EFAULT],
		]);
	});

	it('writes policy and length back also when the firmware refuses', () => {
		const { p, vm, start } = sending();
		kvmSevSendStart.patch(start, { sessionLen: 127 });
		const { ret, error, data } = p.sev(vm, SevCommand.SEND_START, start);
		expect([ret, error]).toEqual([-5, Status.INVALID_LENGTH]);
		expect(kvmSevSendStart.decode(data)).toMatchObject({ policy: 0, sessionLen: 128 });
	});

	it('starts, and hands out session and policy', () => {
		const { p, vm, start } = sending();
		const { ret, error, data } = p.sev(vm, SevCommand.SEND_START, start);
		expect([ret, error]).toEqual([0, 0]);
		const { policy, sessionUaddr, sessionLen } = kvmSevSendStart.decode(data);
		expect([policy, sessionLen]).toEqual([0, 128]);
		expect(p.at(sessionUaddr, 128).some((byte) => byte !== 0)).toBe(true);
		expect(status(p, vm).state).toBe(GuestState.SUPDATE);
	});

	it('that cannot hand out the session has started all the same: EFAULT, status 0, nothing written back', () => {
		const { p, vm, start } = sending();
		kvmSevSendStart.patch(start, { sessionUaddr: NOWHERE });
		expect(p.sev(vm, SevCommand.SEND_START, start)).toMatchObject({ ret: -14, error: 0, data: start });
		expect(p.sev(vm, SevCommand.SEND_CANCEL)).toMatchObject({ ret: 0, error: 0 });
		expect(status(p, vm).state).toBe(GuestState.RUNNING);
	});
});

describe('KVM_SEV_SEND_UPDATE_DATA and KVM_SEV_RECEIVE_UPDATE_DATA', () => {
	it('P-7: a range that leaves its page by one byte is EINVAL', () => {
		const { p, vm, ram, start } = sending();
		p.sev(vm, SevCommand.SEND_START, start);
		const packet = {
			hdrUaddr: blob(p, 52),
			hdrLen: 52,
			guestUaddr: BigInt(ram.hva) + 1n,
			guestLen: PAGE,
			transUaddr: blob(p, PAGE),
			transLen: PAGE,
		};
		refuses(p, vm, SevCommand.SEND_UPDATE_DATA, [[kvmSevSendUpdateData.encode(packet), EINVAL]]);
	});

	it('check addresses, then the page, then the pin, then the lengths; copies come last', () => {
		const { p, vm, ram, start } = sending();
		p.sev(vm, SevCommand.SEND_START, start);
		const good = {
			hdrUaddr: blob(p, 52),
			hdrLen: 52,
			guestUaddr: BigInt(ram.hva),
			guestLen: PAGE,
			transUaddr: blob(p, PAGE),
			transLen: PAGE,
		};
		const packet = (fields: Parameters<typeof kvmSevSendUpdateData.encode>[0]) =>
			kvmSevSendUpdateData.encode({ ...good, ...fields });
		refuses(p, vm, SevCommand.SEND_UPDATE_DATA, [
			[NOWHERE, EFAULT],
			[packet({ transUaddr: 0n }), EINVAL],
			[packet({ guestUaddr: 0n }), EINVAL],
			[packet({ guestLen: 0 }), EINVAL],
			[packet({ hdrUaddr: 0n }), EINVAL],
			[packet({ guestUaddr: NOWHERE + 1n }), EINVAL],
			[packet({ guestLen: 0xffffffff }), EINVAL],
			[packet({ guestUaddr: NOWHERE, hdrLen: 0xffffffff }), ENOMEM],
			[packet({ hdrLen: 0x4001 }), ENOMEM],
			[packet({ transLen: 0x4001 }), ENOMEM],
		]);
		for (const fields of [{ hdrUaddr: NOWHERE }, { transUaddr: NOWHERE }]) {
			const wanted = packet(fields);
			expect(p.sev(vm, SevCommand.SEND_UPDATE_DATA, wanted)).toMatchObject({ ret: -14, error: 0, data: wanted });
		}
	});

	it('answer a query of either length with both, whatever else the structure says', () => {
		const { p, vm, start } = sending();
		p.sev(vm, SevCommand.SEND_START, start);
		for (const query of [{ transLen: PAGE }, { hdrLen: 52 }, {}]) {
			const { ret, error, data } = p.sev(vm, SevCommand.SEND_UPDATE_DATA, kvmSevSendUpdateData.encode(query));
			expect([ret, error]).toEqual([-5, Status.INVALID_LENGTH]);
			expect(kvmSevSendUpdateData.decode(data)).toMatchObject({ hdrLen: 52, transLen: 0 });
		}
	});

	it('carry a page to another host; lengths are not written back', () => {
		const { p, vm, ram, target, start } = sending();
		const { data: started } = p.sev(vm, SevCommand.SEND_START, start);
		const { sessionUaddr, policy } = kvmSevSendStart.decode(started);
		const wanted = { hdrLen: 0x60, guestLen: PAGE, transLen: PAGE + 64 };
		const addresses = { hdrUaddr: blob(p, 0x60), guestUaddr: BigInt(ram.hva), transUaddr: blob(p, PAGE + 64) };
		const sent = p.sev(vm, SevCommand.SEND_UPDATE_DATA, kvmSevSendUpdateData.encode({ ...wanted, ...addresses }));
		expect(sent).toMatchObject({ ret: 0, error: 0 });
		expect(kvmSevSendUpdateData.decode(sent.data)).toMatchObject(wanted);

		const to = sevGuest(target);
		const pdh = p.host.kvm.sevDevice.pdhCertExport().pdh;
		const receive = {
			policy,
			pdhUaddr: target.put(pdh),
			pdhLen: pdh.length,
			sessionUaddr: target.put(p.at(sessionUaddr, 128)),
			sessionLen: 128,
		};
		const started2 = target.sev(to.vm, SevCommand.RECEIVE_START, kvmSevReceiveStart.encode(receive));
		expect(started2).toMatchObject({ ret: 0, error: 0 });
		expect(kvmSevReceiveStart.decode(started2.data).handle).toBe(status(target, to.vm).handle);
		const packet = {
			hdrUaddr: target.put(p.at(addresses.hdrUaddr, 52)),
			hdrLen: 52,
			guestUaddr: BigInt(to.ram.hva),
			guestLen: PAGE,
			transUaddr: target.put(p.at(addresses.transUaddr, PAGE)),
			transLen: PAGE,
		};
		const received = target.sev(to.vm, SevCommand.RECEIVE_UPDATE_DATA, kvmSevReceiveUpdateData.encode(packet));
		expect(received).toMatchObject({ ret: 0, error: 0 });
		expect(p.sev(vm, SevCommand.SEND_FINISH)).toMatchObject({ ret: 0, error: 0 });
		expect(target.sev(to.vm, SevCommand.RECEIVE_FINISH)).toMatchObject({ ret: 0, error: 0 });
		const out = target.put(new Uint8Array(PAGE));
		const debug = kvmSevDbg.encode({ srcUaddr: BigInt(to.ram.hva), dstUaddr: out, len: PAGE });
		expect(target.sev(to.vm, SevCommand.DBG_DECRYPT, debug)).toMatchObject({ ret: 0, error: 0 });
		expect(target.at(out, PAGE)).toEqual(pattern(PAGE));
	});

	it('RECEIVE_START wants all four fields before it reads a blob', () => {
		const p = program();
		const { vm } = sevGuest(p);
		const good = { pdhUaddr: blob(p, 64), pdhLen: 64, sessionUaddr: blob(p, 64), sessionLen: 64 };
		const start = (fields: Parameters<typeof kvmSevReceiveStart.encode>[0]) =>
			kvmSevReceiveStart.encode({ ...good, ...fields });
		refuses(p, vm, SevCommand.RECEIVE_START, [
			[NOWHERE, EFAULT],
			...['pdhUaddr', 'sessionUaddr'].map((name) => [start({ pdhUaddr: NOWHERE, [name]: 0n }), EINVAL] as const),
			...['pdhLen', 'sessionLen'].map((name) => [start({ pdhUaddr: NOWHERE, [name]: 0 }), EINVAL] as const),
			[start({ pdhUaddr: NOWHERE, sessionLen: 0x4001 }), EFAULT],
			[start({ pdhLen: 0x4001, sessionUaddr: NOWHERE }), EINVAL],
			[start({ sessionUaddr: NOWHERE }), EFAULT],
			[start({ sessionLen: 0x4001 }), EINVAL],
		]);
	});

	it('RECEIVE_UPDATE_DATA checks fields, page, header, payload, pin', () => {
		const p = program();
		const { vm, ram } = launching(p);
		const good = {
			hdrUaddr: blob(p, 52),
			hdrLen: 52,
			guestUaddr: BigInt(ram.hva),
			guestLen: 16,
			transUaddr: blob(p, 16),
			transLen: 16,
		};
		const packet = (fields: Parameters<typeof kvmSevReceiveUpdateData.encode>[0]) =>
			kvmSevReceiveUpdateData.encode({ ...good, ...fields });
		const zeros = ['hdrUaddr', 'guestUaddr', 'transUaddr'].map((name) => packet({ [name]: 0n }));
		const empty = ['hdrLen', 'guestLen', 'transLen'].map((name) => packet({ [name]: 0 }));
		refuses(p, vm, SevCommand.RECEIVE_UPDATE_DATA, [
			[NOWHERE, EFAULT],
			...[...zeros, ...empty].map((structure) => [structure, EINVAL] as const),
			[packet({ guestLen: PAGE + 1, hdrUaddr: NOWHERE }), EINVAL],
			[packet({ hdrUaddr: NOWHERE, transLen: 0x4001 }), EFAULT],
			[packet({ transLen: 0x4001, guestUaddr: NOWHERE }), EINVAL],
			[packet({ transUaddr: NOWHERE, guestUaddr: NOWHERE }), EFAULT],
			[packet({ guestUaddr: NOWHERE }), ENOMEM],
		]);
		expect(p.sev(vm, SevCommand.RECEIVE_UPDATE_DATA, packet({}))).toMatchObject({
			ret: -5,
			error: Status.INVALID_GUEST_STATE,
		});
	});
});

describe('KVM_SEV_DBG_DECRYPT, KVM_SEV_DBG_ENCRYPT', () => {
	it('check length, wrap and destination, then pin page by page; what was done stays done', () => {
		const p = program();
		const { vm, ram } = running(p);
		const src = BigInt(ram.hva);
		const debug = (srcUaddr: bigint, dstUaddr: bigint, len: number) => kvmSevDbg.encode({ srcUaddr, dstUaddr, len });
		for (const id of [SevCommand.DBG_DECRYPT, SevCommand.DBG_ENCRYPT]) {
			refuses(p, vm, id, [
				[NOWHERE, EFAULT],
				[debug(src, src, 0), EINVAL],
				[debug(TOP, src, 4096), EINVAL],
				[debug(src, 0n, 16), EINVAL],
				[debug(0n, src, 16), ENOMEM],
				[debug(src, TOP, 4096), ENOMEM],
				[debug(TOP, src, 16), ENOMEM],
			]);
		}
		const out = p.host.kvm.memory.mmap(PAGE);
		const end = BigInt(out.hva);
		// The last mapping: nothing is behind it.
		expect(p.sev(vm, SevCommand.DBG_DECRYPT, debug(src, end, 2 * PAGE))).toMatchObject({ ret: -12, error: 0 });
		expect(new Uint8Array(out.bytes.slice())).toEqual(pattern(PAGE));
	});

	it('are POLICY_FAILURE for a guest with NODBG', () => {
		const p = program();
		const { vm, ram } = running(p, Policy.NODBG);
		const request = kvmSevDbg.encode({ srcUaddr: BigInt(ram.hva), dstUaddr: BigInt(ram.hva), len: 16 });
		expect(p.sev(vm, SevCommand.DBG_DECRYPT, request)).toMatchObject({ ret: -5, error: Status.POLICY_FAILURE });
	});
});
