import { gpa } from '@cvm/layout';
import { GuestState } from '@cvm/sev-hw/abi';
import { describe, expect, it } from 'vitest';
import type { LinuxRelease, Vm } from '../src/index.js';
import { guardErrno } from '../src/sev/guard.js';
import { contextOf } from '../src/vm/vm.js';
import { bootHost, count, type Host, PAGE, runningVm } from './host.js';
import { addRam, guestCount, isEs, KINDS, pages, plainVm, sevOf, sevVm } from './mirror-rig.js';

const EBADF = -9;
const EBUSY = -16;
const EINVAL = -22;
const BLOB = new Uint8Array(64);

function mirrorOf(host: Host, source: Vm): Vm {
	const mirror = host.kvm.createVm();
	expect(mirror.copyEncContextFrom(source)).toBe(0);
	return mirror;
}

describe.each(KINDS)('a mirror of a %s guest', (kind) => {
	it('T-18: is made of a VM without SEV and without vCPUs', () => {
		const host = bootHost();
		const source = sevVm(host, kind);
		const mirror = plainVm(host, 0);
		expect(mirror.copyEncContextFrom(source)).toBe(0);
		const { asid, handle } = sevOf(source);
		expect(sevOf(mirror)).toMatchObject({ active: true, es: isEs(kind), asid, handle });
		expect(sevOf(mirror).owner === sevOf(source)).toBe(true);
	});

	it('T-19: gets vCPUs afterwards', () => {
		const host = bootHost();
		const mirror = mirrorOf(host, sevVm(host, kind));
		for (let i = 0; i < 4; i++) mirror.createVcpu(i, []);
		expect(contextOf(mirror).vcpus.size).toBe(4);
	});

	it('T-21: may command nothing else, whatever the argument', () => {
		const host = bootHost();
		const mirror = mirrorOf(host, sevVm(host, kind));
		const before = host.commands.length;
		const allowed = [4, 16, 17, 18];
		const refused = Array.from({ length: 23 }, (_, id) => id).filter((id) => !allowed.includes(id));
		expect(refused.map((id) => guardErrno(contextOf(mirror), id))).toEqual(refused.map(() => -EINVAL));
		expect(allowed.map((id) => guardErrno(contextOf(mirror), id))).toEqual([0, 0, 0, 0]);
		const { sev } = mirror;
		const { hva: at } = pages(host, 1);
		for (const answer of [
			sev.init(),
			sev.esInit(),
			sev.launchStart({ policy: 0 }),
			sev.launchUpdateData({ uaddr: at, len: 16 }),
			sev.launchMeasure(),
			sev.launchSecret({ header: BLOB, guestUaddr: at, data: BLOB }),
			sev.launchFinish(),
			sev.sendStart({ pdhCert: BLOB, platCerts: BLOB, amdCerts: BLOB }),
			sev.sendUpdateData({ guestUaddr: at, guestLen: 16 }),
			sev.sendFinish(),
			sev.sendCancel(),
			sev.receiveStart({ policy: 0, pdhCert: BLOB, session: BLOB }),
			sev.receiveUpdateData({ header: BLOB, guestUaddr: at, guestLen: 16, data: BLOB }),
			sev.receiveFinish(),
		]) {
			expect(answer).toMatchObject({ ret: EINVAL, error: 0 });
		}
		expect(host.commands).toHaveLength(before);
	});

	it('T-22: answers GUEST_STATUS', () => {
		const host = bootHost();
		const source = sevVm(host, kind);
		expect(mirrorOf(host, source).sev.guestStatus()).toEqual(source.sev.guestStatus());
		expect(source.sev.guestStatus()).toMatchObject({ ret: 0, state: GuestState.LUPDATE });
	});

	it('T-23: outlives its source', () => {
		const host = bootHost();
		const source = sevVm(host, kind);
		const mirror = mirrorOf(host, source);
		source.destroy();
		expect(mirror.sev.guestStatus().ret).toBe(0);
		mirror.destroy();
		expect(guestCount(host)).toBe(0);
	});
});

describe('a copy is refused', () => {
	it('T-24: from the VM itself', () => {
		const vm = sevVm(bootHost());
		expect(vm.copyEncContextFrom(vm)).toBe(EINVAL);
	});

	it('T-25: if the source is no SEV guest', () => {
		const host = bootHost();
		expect(plainVm(host, 0).copyEncContextFrom(plainVm(host, 4))).toBe(EINVAL);
	});

	it('T-26: to a VM that has vCPUs', () => {
		const host = bootHost();
		const mirror = plainVm(host, 4);
		expect(mirror.copyEncContextFrom(sevVm(host))).toBe(EINVAL);
		expect(sevOf(mirror).active).toBe(false);
	});

	it('T-27: to a SEV guest, from a SEV-ES guest', () => {
		const host = bootHost();
		expect(sevVm(host, 'sev').copyEncContextFrom(sevVm(host, 'sev-es'))).toBe(EINVAL);
	});

	it('T-28: to a SEV-ES guest, from a SEV guest', () => {
		const host = bootHost();
		expect(sevVm(host, 'sev-es').copyEncContextFrom(sevVm(host, 'sev'))).toBe(EINVAL);
	});

	it('from a mirror', () => {
		const host = bootHost();
		expect(plainVm(host, 0).copyEncContextFrom(mirrorOf(host, sevVm(host)))).toBe(EINVAL);
	});

	it('from a VM that is closed: that is no descriptor', () => {
		const host = bootHost();
		const source = sevVm(host);
		source.destroy();
		expect(plainVm(host, 0).copyEncContextFrom(source)).toBe(EBADF);
	});

	it('by Linux 5.12, which does not know it', () => {
		const host = bootHost({ release: '5.12' });
		expect(plainVm(host, 0).copyEncContextFrom(sevVm(host))).toBe(EINVAL);
	});
});

describe('what a mirror may do depends on the release', () => {
	it.each([
		['5.13', true],
		['5.15', true],
		['5.16', false],
	] as const)('Linux %s makes one of a VM with vCPUs: %s', (release, isMade) => {
		const host = bootHost({ release });
		expect(plainVm(host, 1).copyEncContextFrom(sevVm(host))).toBe(isMade ? 0 : EINVAL);
	});

	it('Linux 5.13 lets it command nothing at all', () => {
		const host = bootHost({ release: '5.13' });
		const mirror = mirrorOf(host, sevVm(host));
		expect([4, 16, 17, 18].map((id) => guardErrno(contextOf(mirror), id))).toEqual([22, 22, 22, 22]);
		expect(mirror.sev.guestStatus()).toMatchObject({ ret: EINVAL, error: 0 });
		expect(sevOf(mirror)).toMatchObject({ handle: 0, hasDevice: false });
	});

	it('Linux 5.13 has no flag for copies under way', () => {
		const host = bootHost({ release: '5.13' });
		const source = sevVm(host);
		sevOf(source).migrating = true;
		mirrorOf(host, source);
	});
});

describe('a mirror', () => {
	it('T-20: encrypts the registers of its own vCPUs', () => {
		const host = bootHost();
		const mirror = mirrorOf(host, sevVm(host, 'sev-es'));
		for (let i = 0; i < 4; i++) mirror.createVcpu(i, []);
		expect(mirror.sev.launchUpdateVmsa()).toEqual({ ret: 0, error: 0 });
	});

	it('leaves the registration of memory to its owner', () => {
		const host = bootHost();
		const source = sevVm(host);
		const mirror = mirrorOf(host, source);
		const ram = pages(host, 1);
		const region = { addr: ram.hva, size: PAGE };
		expect(mirror.memoryEncryptRegisterRegion(region)).toBe(EINVAL);
		expect(source.memoryEncryptRegisterRegion(region)).toBe(0);
		expect(mirror.memoryEncryptUnregisterRegion(region)).toBe(EINVAL);
		expect(sevOf(mirror).regions).toEqual([]);
	});

	it('has slots of its own, in a layout of its own', () => {
		const host = bootHost();
		const { vm: source, ram } = runningVm(host);
		const mirror = mirrorOf(host, source);
		addRam(mirror, 0, 2 ** 42, ram);
		const gone = { slot: 0, flags: 0, guestPhysAddr: gpa(0), memorySize: 0, userspaceAddr: ram.hva };
		expect(source.setUserMemoryRegion(gone)).toBe(0);
		expect(mirror.getDirtyLog(0, new Uint32Array(2))).toBe(-2);
	});

	it('does not take over what KVM_SEV_INIT2 asked for', () => {
		const host = bootHost();
		const source = sevVm(host);
		Object.assign(sevOf(source), { vmsaFeatures: 0x20n, ghcbVersion: 2 });
		expect(sevOf(mirrorOf(host, source))).toMatchObject({ vmsaFeatures: 0n, ghcbVersion: 0 });
	});

	it('debugs the guest of its owner', () => {
		const host = bootHost();
		const { vm: source, ram } = runningVm(host);
		const mirror = mirrorOf(host, source);
		const [own, shared] = [pages(host, 1), pages(host, 1)];
		expect(source.sev.dbgDecrypt({ src: ram.hva, dst: own.hva, len: PAGE }).ret).toBe(0);
		expect(mirror.sev.dbgDecrypt({ src: ram.hva, dst: shared.hva, len: PAGE }).ret).toBe(0);
		expect(shared.bytes).toEqual(own.bytes);
	});

	it('M3: gives the same handle as another mirror of the same guest', () => {
		const host = bootHost();
		const source = sevVm(host);
		const handles = [mirrorOf(host, source), mirrorOf(host, source)].map((vm) => vm.sev.guestStatus().handle);
		expect(handles).toEqual([source.sev.guestStatus().handle, source.sev.guestStatus().handle]);
		expect(sevOf(source).mirrors.size).toBe(2);
	});

	it('M4: keeps the context active when its owner is closed, and takes it down when it is closed', () => {
		const host = bootHost();
		const { vm: source, ram } = runningVm(host);
		const mirror = mirrorOf(host, source);
		source.destroy();
		expect(mirror.sev.guestStatus()).toMatchObject({ ret: 0, state: GuestState.RUNNING });
		expect([count(host, 'DEACTIVATE'), count(host, 'DECOMMISSION')]).toEqual([0, 0]);
		// The owner's slots and pins live on with it.
		host.kvm.memory.munmap(ram);
		expect(ram.bytes.some((b) => b !== 0)).toBe(true);
		mirror.destroy();
		const [deactivate, decommission] = host.commands.slice(-2);
		expect([deactivate, decommission]).toEqual([0x22, 0x20]);
		expect(guestCount(host)).toBe(0);
		expect(ram.bytes.every((b) => b === 0)).toBe(true);
	});

	it('gives no ASID back: its owner works on, and the next guest gets another one', () => {
		const host = bootHost();
		const { vm: source } = runningVm(host);
		const mirror = mirrorOf(host, source);
		const { asid } = sevOf(mirror);
		mirror.destroy();
		expect(mirror.sev.guestStatus().ret).toBe(-25);
		expect(source.sev.guestStatus().ret).toBe(0);
		expect(sevOf(source).mirrors.size).toBe(0);
		expect(sevOf(sevVm(host)).asid).not.toBe(asid);
	});
});

describe('mirrors and moves together', () => {
	const move = (to: Vm, from: Vm) => expect(to.moveEncContextFrom(from)).toBe(0);

	it('T-29: a mirror moves to another VM', () => {
		const host = bootHost();
		const owner = sevVm(host);
		const [mirror, next] = [mirrorOf(host, owner), plainVm(host, 0)];
		expect(next.moveEncContextFrom(mirror)).toBe(0);
		expect(sevOf(owner).mirrors.size).toBe(1);
		expect(sevOf(owner).mirrors.has(sevOf(next))).toBe(true);
		expect(sevOf(mirror).owner === undefined).toBe(true);
	});

	it('T-30: an owner moves although it has a mirror', () => {
		const host = bootHost();
		const owner = sevVm(host);
		const [mirror, next] = [mirrorOf(host, owner), plainVm(host, 4)];
		expect(next.moveEncContextFrom(owner)).toBe(0);
		expect(sevOf(mirror).owner === sevOf(next)).toBe(true);
		expect(mirror.sev.guestStatus().ret).toBe(0);
	});

	it('T-31: the owner moves on, then the mirror', () => {
		const { O1, O2, M1, M2 } = secondGeneration(bootHost());
		expect(O2.moveEncContextFrom(O1)).toBe(0);
		expect(M2.moveEncContextFrom(M1)).toBe(0);
		expect(sevOf(M2).owner === sevOf(O2)).toBe(true);
	});

	it('T-32: the mirror moves on, then the owner', () => {
		const host = bootHost();
		const { O1, O2, M1, M2 } = secondGeneration(host);
		move(O2, O1);
		move(M2, M1);
		const [O3, M3] = [plainVm(host, 4), plainVm(host, 0)];
		expect(M3.moveEncContextFrom(M2)).toBe(0);
		expect(O3.moveEncContextFrom(O2)).toBe(0);
		expect(sevOf(M3).owner === sevOf(O3)).toBe(true);
	});

	function secondGeneration(host: Host) {
		const O = sevVm(host);
		const M = mirrorOf(host, O);
		const [M1, M2, O1, O2] = [plainVm(host, 0), plainVm(host, 0), plainVm(host, 4), plainVm(host, 4)];
		move(M1, M);
		move(O1, O);
		return { O, M, O1, O2, M1, M2 };
	}

	it('T-33: three generations are freed owners before mirrors', () => {
		const host = bootHost();
		const { O, M, O1, O2, M1, M2 } = secondGeneration(host);
		move(O2, O1);
		move(M2, M1);
		const [O3, M3] = [plainVm(host, 4), plainVm(host, 0)];
		move(M3, M2);
		move(O3, O2);
		for (const vm of [O1, O, O2, O3, M, M1, M2]) vm.destroy();
		// The row frees no third mirror; it alone holds the guest now.
		expect([guestCount(host), count(host, 'DECOMMISSION')]).toEqual([1, 0]);
		M3.destroy();
		expect([guestCount(host), count(host, 'DECOMMISSION')]).toEqual([0, 1]);
	});

	it('T-34: they are freed mirrors before owners', () => {
		const host = bootHost();
		const O = sevVm(host);
		const [M, M1, O1] = [mirrorOf(host, O), plainVm(host, 0), plainVm(host, 4)];
		move(M1, M);
		move(O1, O);
		for (const vm of [M, M1, O1, O]) vm.destroy();
		expect([guestCount(host), count(host, 'DECOMMISSION')]).toEqual([0, 1]);
	});

	it.each(['5.16'] satisfies LinuxRelease[])('T-35: Linux %s moves no owner while it has a mirror', (release) => {
		const host = bootHost({ release });
		const O = sevVm(host);
		const [M, M1, O1] = [mirrorOf(host, O), plainVm(host, 0), plainVm(host, 4)];
		expect(O1.moveEncContextFrom(O)).toBe(EBUSY);
		expect(M1.moveEncContextFrom(M)).toBe(0);
		expect(O1.moveEncContextFrom(O)).toBe(EBUSY);
		M1.destroy();
		expect(O1.moveEncContextFrom(O)).toBe(0);
	});

	it('Linux 5.16 says so before it looks at the vCPUs of a SEV-ES guest', () => {
		const host = bootHost({ release: '5.16' });
		const O = sevVm(host, 'sev-es');
		mirrorOf(host, O);
		expect(plainVm(host, 0).moveEncContextFrom(O)).toBe(EBUSY);
	});
});
