import { GuestState, Status } from '@cvm/sev-hw/abi';
import { describe, expect, it } from 'vitest';
import { Cap, Ioctl, kvmEnableCap, kvmSevCmd, kvmSevLaunchStart, SevCommand, SevIoctl } from '../src/abi/index.js';
import { createProcess } from '../src/process/index.js';
import { count, PAGE } from './host.js';
import {
	contextAt,
	launching,
	NOWHERE,
	program,
	running,
	sevGuest,
	startProgram,
	status,
	UNTOUCHED,
	vmOf,
} from './process-rig.js';

const { KVM_MEMORY_ENCRYPT_OP } = SevIoctl;

/** Makes `vm` a mirror or takes a context over. */
const takeFrom = (cap: number, source: number) => kvmEnableCap.encode({ cap, arg0: BigInt(source) });

describe('KVM_MEMORY_ENCRYPT_OP before the command', () => {
	it('P-9: unknown ids are EINVAL, and the structure is not written back', () => {
		const p = program();
		const { vm } = running(p);
		const ids = [SevCommand.SEND_UPDATE_VMSA, SevCommand.RECEIVE_UPDATE_VMSA, SevCommand.CERT_EXPORT, 0xffff];
		for (const id of [...ids, 23, 100, 101, 102, 0xffffffff]) {
			const before = kvmSevCmd.encode({ id, data: NOWHERE, error: UNTOUCHED, sevFd: p.sevFd });
			const command = before.slice();
			expect([id, p.process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, command)]).toEqual([id, -22]);
			expect(command).toEqual(before);
		}
	});

	it('P-9: a number without a handler does not reach the firmware', () => {
		const p = program();
		const { vm } = running(p);
		const commands = p.host.commands.length;
		expect(p.sev(vm, SevCommand.CERT_EXPORT)).toMatchObject({ ret: -22, error: UNTOUCHED });
		expect(p.host.commands).toHaveLength(commands);
	});

	it.each([
		['5.12', SevCommand.GET_ATTESTATION_REPORT],
		['5.12', SevCommand.SEND_CANCEL],
		['6.1', SevCommand.INIT2],
	] as const)('Linux %s does not know command %d', (release, id) => {
		const p = program(release === '5.12' ? { abi: 'v12' } : { release });
		const { vm } = running(p);
		expect(p.sev(vm, id, NOWHERE)).toMatchObject({ ret: -22, error: UNTOUCHED });
	});

	it('P-10: a null argument is 0, also on a VM that is no SEV guest', () => {
		const p = program();
		const vm = p.createVm();
		expect(p.process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP)).toBe(0);
		expect(p.process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, 0)).toBe(0);
		expect(p.process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, 0n)).toBe(0);
	});

	it('P-10: on a host without SEV it is ENOTTY, whatever the argument', () => {
		const p = program();
		const plain = p.host.kvm.createVm;
		Object.assign(p.host.kvm, { createVm: () => plain({ sev: false }) });
		const vm = p.createVm();
		for (const argument of [0n, NOWHERE, kvmSevCmd.encode({ id: SevCommand.INIT })]) {
			expect(p.process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, argument)).toBe(-25);
		}
	});

	it('an unreadable structure is EFAULT, also one byte short', () => {
		const p = program();
		const { vm } = sevGuest(p);
		expect(p.process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, NOWHERE)).toBe(-14);
		expect(p.process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, new Uint8Array(23))).toBe(-14);
		expect(p.process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, 2n ** 64n - 8n)).toBe(-14);
	});

	it('takes the structure from memory by address, and puts the status there', () => {
		const p = program();
		const { vm } = launching(p);
		const at = p.put(kvmSevCmd.encode({ id: SevCommand.LAUNCH_FINISH, error: UNTOUCHED, sevFd: 77 }));
		expect(p.process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, at)).toBe(-5);
		const expected = { id: SevCommand.LAUNCH_FINISH, data: 0n, error: Status.INVALID_GUEST_STATE, sevFd: 77 };
		expect(kvmSevCmd.decode(p.at(at, 24))).toEqual(expected);
	});

	it('a structure that is gone when it should be written back is EFAULT, whatever the command said', () => {
		const p = program();
		const { vm } = launching(p);
		const { memory } = p.host.kvm;
		const { submit } = p.host.machine.psp;
		for (const id of [SevCommand.LAUNCH_FINISH, SevCommand.SEND_FINISH]) {
			const page = memory.mmap(PAGE);
			page.bytes.set(kvmSevCmd.encode({ id }));
			Object.assign(p.host.machine.psp, {
				submit: (command: number, spa: Parameters<typeof submit>[1]) => {
					memory.munmap(page);
					return submit(command, spa);
				},
			});
			expect(p.process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, page.hva)).toBe(-14);
			Object.assign(p.host.machine.psp, { submit });
		}
	});

	it('a mirror is refused before the command is looked at, and nothing is written back', () => {
		const p = program();
		const { vm } = launching(p);
		const mirror = p.createVm();
		expect(p.process.ioctl(mirror, Ioctl.KVM_ENABLE_CAP, takeFrom(Cap.VM_COPY_ENC_CONTEXT_FROM, vm))).toBe(0);
		for (const id of [SevCommand.LAUNCH_FINISH, SevCommand.INIT, SevCommand.CERT_EXPORT, 0xffff]) {
			expect([id, p.sev(mirror, id, NOWHERE)]).toMatchObject([id, { ret: -22, error: UNTOUCHED }]);
		}
		expect(status(p, mirror)).toEqual({ ...status(p, vm), ret: 0, error: 0 });
	});

	it('a VM whose context was moved away is EIO, before a null argument is 0', () => {
		const p = program();
		const { vm } = launching(p);
		const to = p.createVm();
		expect(p.process.ioctl(to, Ioctl.KVM_ENABLE_CAP, takeFrom(Cap.VM_MOVE_ENC_CONTEXT_FROM, vm))).toBe(0);
		expect(p.process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, 0)).toBe(-5);
		expect(p.sev(vm, SevCommand.GUEST_STATUS, NOWHERE)).toMatchObject({ ret: -5, error: UNTOUCHED });
		expect(p.process.ioctl(vm, Ioctl.KVM_CHECK_EXTENSION, Cap.NR_MEMSLOTS)).toBe(-5);
	});

	it('a VM of another process is EIO', () => {
		const p = program();
		const { vm } = launching(p);
		const other = createProcess(p.host.kvm);
		const shared = p.process.share(vm, other);
		expect(other.ioctl(shared, KVM_MEMORY_ENCRYPT_OP, 0)).toBe(-5);
		expect(p.process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, 0)).toBe(0);
	});
});

describe('kvm_sev_cmd.sev_fd', () => {
	it('is what the firmware is reached through: EBADF if it is no open /dev/sev', () => {
		const p = program();
		const { vm } = sevGuest(p);
		const start = kvmSevLaunchStart.encode({ policy: 0 });
		const before = p.host.commands.length;
		for (const sevFd of [0, 99, p.kvmFd, vm, 0xffffffff]) {
			expect(p.sev(vm, SevCommand.LAUNCH_START, start, { sevFd })).toMatchObject({ ret: -9, error: UNTOUCHED });
		}
		expect(p.host.commands).toHaveLength(before);
		expect(p.sev(vm, SevCommand.LAUNCH_START, start)).toMatchObject({ ret: 0, error: 0 });
	});

	it('is looked at after the blobs', () => {
		const p = program();
		const { vm } = sevGuest(p);
		const start = kvmSevLaunchStart.encode({ dhUaddr: NOWHERE, dhLen: 16 });
		expect(p.sev(vm, SevCommand.LAUNCH_START, start, { sevFd: 99 })).toMatchObject({ ret: -14, error: UNTOUCHED });
	});

	it('is stored by *_START: later commands ignore their own', () => {
		const p = program();
		const { vm } = launching(p);
		expect(p.sev(vm, SevCommand.GUEST_STATUS, new Uint8Array(12), { sevFd: 99 })).toMatchObject({ ret: 0, error: 0 });
	});

	it('is looked up each time: EBADF once it is closed, and good again under the same number', () => {
		const p = program();
		const { vm } = launching(p);
		p.process.close(p.sevFd);
		expect(status(p, vm)).toMatchObject({ ret: -9, error: UNTOUCHED });
		expect(p.process.open('/dev/sev')).toBe(p.sevFd);
		expect(status(p, vm)).toMatchObject({ ret: 0, error: 0 });
	});

	it('goes along with a copy, and not with a move', () => {
		const p = program();
		const { vm } = launching(p);
		const mirror = p.createVm();
		p.process.ioctl(mirror, Ioctl.KVM_ENABLE_CAP, takeFrom(Cap.VM_COPY_ENC_CONTEXT_FROM, vm));
		const moved = p.createVm();
		p.process.ioctl(moved, Ioctl.KVM_ENABLE_CAP, takeFrom(Cap.VM_MOVE_ENC_CONTEXT_FROM, vm));
		expect(status(p, mirror).ret).toBe(0);
		expect(status(p, moved)).toMatchObject({ ret: -9, error: UNTOUCHED });
		p.process.close(p.sevFd);
		expect(status(p, mirror)).toMatchObject({ ret: -9, error: UNTOUCHED });
	});

	it('stays the old one if a later LAUNCH_START cannot bind its ASID', () => {
		const p = program();
		const { vm } = launching(p);
		const second = p.process.open('/dev/sev');
		const start = kvmSevLaunchStart.encode({ policy: 0 });
		const again = p.sev(vm, SevCommand.LAUNCH_START, start, { sevFd: second });
		expect(again).toMatchObject({ ret: -5, error: Status.ASID_OWNED });
		p.process.close(second);
		expect(status(p, vm)).toMatchObject({ ret: 0, state: GuestState.LUPDATE });
	});
});

describe('kvm_sev_cmd.error', () => {
	it('becomes 0 when the firmware succeeded', () => {
		const p = program();
		expect(status(p, launching(p).vm)).toMatchObject({ ret: 0, error: 0 });
	});

	it('becomes the status when the firmware refused', () => {
		const p = program();
		const { vm } = running(p);
		expect(p.sev(vm, SevCommand.SEND_FINISH)).toMatchObject({ ret: -5, error: Status.INVALID_GUEST_STATE });
	});

	it('keeps what the caller stored when the firmware was not reached', () => {
		const p = program();
		const { vm } = running(p);
		expect(p.sev(vm, SevCommand.LAUNCH_UPDATE_DATA, NOWHERE)).toMatchObject({ ret: -14, error: UNTOUCHED });
		expect(p.sev(vm, SevCommand.INIT).error).toBe(UNTOUCHED);
	});

	it('becomes 0 when the firmware succeeded but the answer has no place', () => {
		const p = program();
		expect(p.sev(launching(p).vm, SevCommand.GUEST_STATUS, NOWHERE)).toMatchObject({ ret: -14, error: 0 });
	});

	it('keeps what the caller stored when KVM_SEV_INIT finds the platform up', () => {
		const p = program();
		p.sev(p.createVm(), SevCommand.INIT);
		expect(p.sev(p.createVm(), SevCommand.INIT)).toMatchObject({ ret: 0, error: UNTOUCHED });
		expect(p.sev(p.createVm(), SevCommand.INIT, 0n, { error: 0 })).toMatchObject({ ret: 0, error: 0 });
	});

	it('keeps all other bytes of the structure', () => {
		const p = program();
		const { vm } = launching(p);
		const command = kvmSevCmd.encode({ id: SevCommand.GUEST_STATUS, data: p.put(new Uint8Array(12)), sevFd: 1234 });
		command.fill(0xee, 4, 8);
		const before = command.slice();
		expect(p.process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, command)).toBe(0);
		expect(command).toEqual(before);
	});
});

describe('SEV commands and descriptors', () => {
	it('P-8: without KVM_SEV_INIT RECEIVE_UPDATE_DATA is EINVAL and SEND_UPDATE_DATA is ENOTTY, before their structures', () => {
		const p = program();
		const vm = p.createVm();
		expect(p.sev(vm, SevCommand.RECEIVE_UPDATE_DATA, NOWHERE)).toMatchObject({ ret: -22, error: UNTOUCHED });
		expect(p.sev(vm, SevCommand.SEND_UPDATE_DATA, NOWHERE)).toMatchObject({ ret: -25, error: UNTOUCHED });
	});

	it('every other command is ENOTTY there', () => {
		const p = program();
		const vm = p.createVm();
		const inits: number[] = [SevCommand.INIT, SevCommand.ES_INIT, SevCommand.INIT2];
		const special: number[] = [...inits, SevCommand.RECEIVE_UPDATE_DATA, 10, 14, 19];
		for (const id of Object.values(SevCommand).filter((one) => !special.includes(one))) {
			expect([id, p.sev(vm, id, NOWHERE)]).toMatchObject([id, { ret: -25, error: UNTOUCHED }]);
		}
		expect(p.host.commands).toEqual([]);
	});

	it('a VM dies with its last descriptor, its own or a vCPU, and its guest leaves the firmware', () => {
		const p = program();
		const { vm } = launching(p);
		const vcpu = p.process.ioctl(vm, Ioctl.KVM_CREATE_VCPU, 0);
		const again = p.process.dup(vm);
		p.process.close(vm);
		p.process.close(again);
		expect(p.process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, 0)).toBe(-9);
		expect(count(p.host, 'DECOMMISSION')).toBe(0);
		expect(p.process.close(vcpu)).toBe(0);
		expect(count(p.host, 'DECOMMISSION')).toBe(1);
		expect(p.process.close(vcpu)).toBe(-9);
	});

	it('M4: closing the owner leaves the context to its mirror; the last one decommissions it', () => {
		const p = program();
		const { vm } = launching(p);
		const mirror = p.createVm();
		p.process.ioctl(mirror, Ioctl.KVM_ENABLE_CAP, takeFrom(Cap.VM_COPY_ENC_CONTEXT_FROM, vm));
		p.process.close(vm);
		expect(status(p, mirror).ret).toBe(0);
		expect([count(p.host, 'DEACTIVATE'), count(p.host, 'DECOMMISSION')]).toEqual([0, 0]);
		p.process.close(mirror);
		expect([count(p.host, 'DEACTIVATE'), count(p.host, 'DECOMMISSION')]).toEqual([1, 1]);
	});

	it('KVM_ENABLE_CAP to copy or to move wants a VM descriptor, no flags, and looks at 32 bits', () => {
		const p = program();
		const { vm } = launching(p);
		for (const cap of [Cap.VM_COPY_ENC_CONTEXT_FROM, Cap.VM_MOVE_ENC_CONTEXT_FROM]) {
			const to = p.createVm();
			const enable = (fields: Parameters<typeof kvmEnableCap.encode>[0]) =>
				p.process.ioctl(to, Ioctl.KVM_ENABLE_CAP, kvmEnableCap.encode({ cap, ...fields }));
			for (const fd of [99, p.sevFd, p.kvmFd, 0]) expect(enable({ arg0: BigInt(fd) })).toBe(-9);
			expect(enable({ arg0: BigInt(vm), flags: 1 })).toBe(-22);
			expect(enable({ arg0: BigInt(to) })).toBe(-22);
			expect(enable({ arg0: BigInt(vm) | (1n << 32n) })).toBe(0);
		}
	});

	it('exit closes everything', () => {
		const p = program();
		launching(p);
		running(p);
		p.process.exit();
		expect(p.process.descriptors).toEqual([]);
		expect(p.host.kvm.sevDevice.platformStatus().guestCount).toBe(0);
	});

	it('two processes of one host have descriptors of their own', () => {
		const p = program();
		const other = startProgram(p.host);
		const { vm } = launching(p);
		expect(other.createVm()).toBe(vm);
		expect(vmOf(other, vm)).not.toBe(vmOf(p, vm));
		expect(contextAt(other, vm).sev.active).toBe(false);
	});
});
