import { nodeProvider } from '@cvm/crypto/node';
import { describe, expect, it } from 'vitest';
import {
	Cap,
	Ioctl,
	KVM_RUN_SIZE,
	kvmClearDirtyLog,
	kvmCpuid2,
	kvmCpuidEntry2,
	kvmDeviceAttr,
	kvmDirtyLog,
	kvmEnableCap,
	kvmMsrFilter,
	kvmMsrFilterRange,
	kvmUserspaceMemoryRegion,
} from '../src/abi/index.js';
import {
	SEV_ISSUE_CMD,
	SevUserCommand,
	sevIssueCmd,
	sevUserDataPdhCertExport,
	sevUserDataStatus,
} from '../src/ccp/index.js';
import { createProcess } from '../src/process/index.js';
import { openVcpu } from '../src/vcpu/index.js';
import { openVmState } from '../src/vm/state.js';
import { PAGE } from './host.js';
import { blocks, guest, NOWHERE, type Program, program, runs, sevGuest, UNTOUCHED } from './process-rig.js';

describe('descriptors', () => {
	it('are the lowest free numbers from 3 on', () => {
		const p = program();
		expect([p.kvmFd, p.sevFd]).toEqual([3, 4]);
		expect([p.createVm(), p.createVm()]).toEqual([5, 6]);
		p.process.close(4);
		expect(p.process.dup(3)).toBe(4);
		expect(p.process.dup(77)).toBe(-9);
		expect(p.process.open('/dev/null')).toBe(-2);
		expect(p.process.close(77)).toBe(-9);
		expect(p.process.ioctl(77, Ioctl.KVM_RUN)).toBe(-9);
	});

	it('end at 1024: EMFILE, and nothing is made', () => {
		const p = program();
		while (p.process.dup(p.kvmFd) >= 0);
		expect(p.process.descriptors).toHaveLength(1021);
		expect([p.process.open('/dev/sev'), p.createVm(), p.process.dup(3)]).toEqual([-24, -24, -24]);
	});

	it('answer unknown requests as the kernel does', () => {
		const p = program();
		const { vm, vcpu } = guest(p);
		expect([p.kvmFd, vm, vcpu, p.sevFd].map((fd) => p.process.ioctl(fd, 0xae77))).toEqual([-22, -25, -22, -22]);
		expect(p.process.ioctl(vm, Ioctl.KVM_RUN)).toBe(-25);
		// The low 32 bits count, whatever their sign is in JavaScript.
		expect(p.process.ioctl(vcpu, Ioctl.KVM_GET_REGS | 0, new Uint8Array(144))).toBe(0);
	});

	it('of a process: EIO in another one, for VMs and vCPUs', () => {
		const p = program();
		const { vm, vcpu } = guest(p);
		const other = createProcess(p.host.kvm);
		for (const fd of [vm, vcpu]) {
			expect(other.ioctl(p.process.share(fd, other), Ioctl.KVM_CHECK_EXTENSION, 10)).toBe(-5);
		}
		expect(other.ioctl(p.process.share(p.kvmFd, other), Ioctl.KVM_GET_API_VERSION)).toBe(12);
	});
});

describe('/dev/kvm', () => {
	it('has version 12, maps three pages per vCPU, and takes no argument for either', () => {
		const { process, kvmFd } = program();
		expect(process.ioctl(kvmFd, Ioctl.KVM_GET_API_VERSION)).toBe(12);
		expect(process.ioctl(kvmFd, Ioctl.KVM_GET_API_VERSION, 1)).toBe(-22);
		expect(process.ioctl(kvmFd, Ioctl.KVM_GET_VCPU_MMAP_SIZE)).toBe(KVM_RUN_SIZE);
		expect(process.ioctl(kvmFd, Ioctl.KVM_GET_VCPU_MMAP_SIZE, 1)).toBe(-22);
	});

	it('makes VMs of the types that KVM_CAP_VM_TYPES names', () => {
		const p = program();
		const types = p.process.ioctl(p.kvmFd, Ioctl.KVM_CHECK_EXTENSION, Cap.VM_TYPES);
		for (let type = 0; type < 8; type++) {
			const fd = p.createVm(type);
			expect([type, fd >= 0]).toEqual([type, ((types >> type) & 1) === 1]);
			if (fd < 0) expect(fd).toBe(-22);
		}
		for (const type of [-1, 32, 2 ** 32]) expect(p.createVm(type)).toBe(-22);
	});

	it('answers capabilities as the facade does, and 0 to any other number', () => {
		const p = program();
		for (const cap of Object.values(Cap)) {
			expect([cap, p.process.ioctl(p.kvmFd, Ioctl.KVM_CHECK_EXTENSION, cap)]).toEqual([
				cap,
				p.host.kvm.checkExtension(cap),
			]);
		}
		for (const cap of [-1, 9999, 2 ** 40]) expect(p.process.ioctl(p.kvmFd, Ioctl.KVM_CHECK_EXTENSION, cap)).toBe(0);
	});

	it('hands out the supported CPUID if there is room', () => {
		const { process, kvmFd, host } = program();
		const room = new Uint8Array(8 + 40 * 20);
		const ask = (nent: number) => {
			room.set(kvmCpuid2.encode({ nent }));
			return process.ioctl(kvmFd, Ioctl.KVM_GET_SUPPORTED_CPUID, room);
		};
		expect([ask(0), ask(1)]).toEqual([-7, -7]);
		expect(ask(20)).toBe(0);
		const { nent } = kvmCpuid2.decodePrefix(room);
		const entries = Array.from({ length: nent }, (_, i) => kvmCpuidEntry2.decodePrefix(room.subarray(8 + 40 * i)));
		const encryption = entries.find((entry) => entry.function === 0x8000001f);
		const { maxAsid, minSevNoEsAsid, cbitPosition } = host.machine.cpuid;
		expect(encryption).toMatchObject({ eax: 0xa, ebx: cbitPosition, ecx: maxAsid, edx: minSevNoEsAsid });
		expect(entries.find((entry) => entry.function === 0x40000001)?.eax).toBe(0);
		room.set(kvmCpuid2.encode({ nent: 20 }));
		expect(process.ioctl(kvmFd, Ioctl.KVM_GET_SUPPORTED_CPUID, room.subarray(0, 100))).toBe(-14);
	});

	it('says which VMSA features INIT2 takes', () => {
		const { process, kvmFd, put, at } = program();
		const addr = put(new Uint8Array(8).fill(0xff));
		const attr = kvmDeviceAttr.encode({ group: 1, attr: 0n, addr });
		expect(process.ioctl(kvmFd, Ioctl.KVM_HAS_DEVICE_ATTR, attr)).toBe(0);
		expect(process.ioctl(kvmFd, Ioctl.KVM_GET_DEVICE_ATTR, attr)).toBe(0);
		expect([...at(addr, 8)]).toEqual([0x20, 0, 0, 0, 0, 0, 0, 0]);
		expect(process.ioctl(kvmFd, Ioctl.KVM_GET_DEVICE_ATTR, kvmDeviceAttr.encode({ group: 9, addr }))).toBe(-6);
		const nowhere = kvmDeviceAttr.encode({ group: 1, addr: NOWHERE });
		expect(process.ioctl(kvmFd, Ioctl.KVM_GET_DEVICE_ATTR, nowhere)).toBe(-14);
	});
});

describe('/dev/sev', () => {
	it('runs platform commands of linux/psp-sev.h, with write access for those that change it', () => {
		const p = program();
		const data = p.put(new Uint8Array(12));
		const issue = (fd: number, cmd: number, at: bigint) => {
			const command = sevIssueCmd.encode({ cmd, data: at, error: UNTOUCHED });
			const ret = p.process.ioctl(fd, SEV_ISSUE_CMD, command);
			return { ret, error: sevIssueCmd.decode(command).error };
		};
		expect(issue(p.sevFd, SevUserCommand.PLATFORM_STATUS, data)).toEqual({ ret: 0, error: 0 });
		expect(sevUserDataStatus.decode(p.at(data, 12))).toMatchObject({ guestCount: 0 });
		const readOnly = p.process.open('/dev/sev', 0);
		expect(issue(readOnly, SevUserCommand.PDH_GEN, 0n)).toEqual({ ret: -1, error: UNTOUCHED });
		expect(issue(p.sevFd, SevUserCommand.PDH_GEN, 0n)).toEqual({ ret: 0, error: 0 });
		expect(issue(p.sevFd, 99, 0n)).toEqual({ ret: -22, error: UNTOUCHED });
		expect(issue(p.sevFd, SevUserCommand.PLATFORM_STATUS, NOWHERE)).toEqual({ ret: -14, error: 0 });
		expect(p.process.ioctl(p.sevFd, SEV_ISSUE_CMD, NOWHERE)).toBe(-14);
		sevGuest(p);
	});

	it('puts lengths and certificates where their structures say', () => {
		const p = program();
		const pdh = p.put(new Uint8Array(2084));
		const chain = p.put(new Uint8Array(6252));
		const wanted = { pdhCertAddress: pdh, pdhCertLen: 2084, certChainAddress: chain, certChainLen: 1 };
		const data = p.put(sevUserDataPdhCertExport.encode(wanted));
		const command = p.put(sevIssueCmd.encode({ cmd: SevUserCommand.PDH_CERT_EXPORT, data, error: UNTOUCHED }));
		expect(p.process.ioctl(p.sevFd, SEV_ISSUE_CMD, command)).toBe(-5);
		expect(sevIssueCmd.decode(p.at(command, 16)).error).toBe(4);
		expect(sevUserDataPdhCertExport.decode(p.at(data, 24))).toEqual({ ...wanted, certChainLen: 6252 });
		expect(p.process.ioctl(p.sevFd, SEV_ISSUE_CMD, command)).toBe(0);
		expect(p.at(pdh, 2084)).toEqual(p.host.kvm.sevDevice.pdhCertExport().pdh);
	});
});

describe('a VM', () => {
	it('lives until KVM_RUN has returned, whatever its program closes meanwhile', () => {
		const seen: number[] = [];
		const p: Program = program(
			{},
			{
				openVcpu: (handle) =>
					openVcpu(handle, {
						provider: nodeProvider,
						program: blocks,
						ticks: false,
						afterBlock: () => {
							for (const fd of [vm, vcpu]) p.process.close(fd);
							seen.push(openVmState(handle.vm).translate(0));
						},
					}),
			},
		);
		const { vm, vcpu } = guest(p);
		const handle = p.process.vcpuOf(vcpu)?.share();
		expect(p.process.ioctl(vcpu, Ioctl.KVM_RUN)).toBe(0);
		expect(seen).toHaveLength(1);
		expect(seen[0]).toBeGreaterThan(0);
		if (handle === undefined) throw new Error('vCPU: expected one');
		expect(openVmState(handle.vm).translate(0)).toBe(-1);
		expect(p.process.ioctl(vcpu, Ioctl.KVM_RUN)).toBe(-9);
	});

	it('makes vCPUs: numbers above 31 are EINVAL, a second one EEXIST', () => {
		const p = program();
		const vm = p.createVm();
		const create = (id: number) => p.process.ioctl(vm, Ioctl.KVM_CREATE_VCPU, id);
		expect([create(3), create(3), create(32), create(-1)]).toEqual([6, -17, -22, -22]);
		expect(p.process.vcpuOf(6)?.index).toBe(3);
	});

	it('takes memslots with u64 fields, and EFAULT comes first', () => {
		const p = program();
		const vm = p.createVm();
		const ram = p.host.kvm.memory.mmap(4 * PAGE);
		const good = { slot: 1, guestPhysAddr: 0x10000n, memorySize: 0x4000n, userspaceAddr: BigInt(ram.hva) };
		const set = (fields: Parameters<typeof kvmUserspaceMemoryRegion.encode>[0]) =>
			p.process.ioctl(vm, Ioctl.KVM_SET_USER_MEMORY_REGION, kvmUserspaceMemoryRegion.encode({ ...good, ...fields }));
		expect(p.process.ioctl(vm, Ioctl.KVM_SET_USER_MEMORY_REGION, new Uint8Array(31))).toBe(-14);
		// Unaligned, but not after rounding to a double.
		expect(set({ guestPhysAddr: 0x4000_0000_0000_1001n })).toBe(-22);
		expect(set({ guestPhysAddr: 0xffff_ffff_ffff_f000n })).toBe(-22);
		expect(set({ memorySize: 0xffff_ffff_ffff_f000n })).toBe(-22);
		expect(set({ userspaceAddr: 0x8000_0000_0000_0000n })).toBe(-22);
		expect([set({}), set({}), set({ slot: 2, guestPhysAddr: 0x11000n })]).toEqual([0, 0, -17]);
		expect(set({ memorySize: 0n })).toBe(0);
	});

	it('hands out and clears dirty bits', () => {
		const p = runs();
		const { vm, vcpu } = guest(p, 100);
		expect(p.process.ioctl(vcpu, Ioctl.KVM_RUN)).toBe(0);
		const bitmap = p.put(new Uint8Array(16));
		const get = (slot: number, dirtyBitmap: bigint) =>
			p.process.ioctl(vm, Ioctl.KVM_GET_DIRTY_LOG, kvmDirtyLog.encode({ slot, dirtyBitmap }));
		expect([get(0, NOWHERE), get(5, bitmap), get(0xffffffff, bitmap)]).toEqual([-14, -2, -22]);
		expect(p.process.ioctl(vm, Ioctl.KVM_GET_DIRTY_LOG, NOWHERE)).toBe(-14);
		expect(get(0, bitmap + 3n)).toBe(0);
		expect([...p.at(bitmap + 3n, 13)]).toEqual([8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
		expect(get(0, bitmap)).toBe(0);
		expect(p.at(bitmap, 16)).toEqual(new Uint8Array(16));
	});

	it('with manual protection clears what KVM_CLEAR_DIRTY_LOG names', () => {
		const p = runs();
		const { vm, vcpu } = guest(p, 100);
		const enable = kvmEnableCap.encode({ cap: Cap.MANUAL_DIRTY_LOG_PROTECT2, arg0: 1n });
		expect(p.process.ioctl(vm, Ioctl.KVM_ENABLE_CAP, enable)).toBe(0);
		p.process.ioctl(vcpu, Ioctl.KVM_RUN);
		const dirtyBitmap = p.put(new Uint8Array(16));
		const log = kvmDirtyLog.encode({ slot: 0, dirtyBitmap });
		const first = () => {
			expect(p.process.ioctl(vm, Ioctl.KVM_GET_DIRTY_LOG, log)).toBe(0);
			return p.at(dirtyBitmap, 1)[0];
		};
		expect([first(), first()]).toEqual([8, 8]);
		const clear = (fields: Parameters<typeof kvmClearDirtyLog.encode>[0]) =>
			p.process.ioctl(vm, Ioctl.KVM_CLEAR_DIRTY_LOG, kvmClearDirtyLog.encode({ slot: 0, dirtyBitmap, ...fields }));
		expect(clear({ numPages: 63 })).toBe(-22);
		expect(clear({ numPages: 64, firstPage: 1n })).toBe(-22);
		expect(clear({ numPages: 64, firstPage: 1n << 63n })).toBe(-22);
		expect(clear({ numPages: 0xffffffc0 })).toBe(-22);
		expect(clear({ numPages: 64, dirtyBitmap: NOWHERE })).toBe(-14);
		expect(first()).toBe(8);
		expect(clear({ numPages: 64 })).toBe(0);
		expect(first()).toBe(0);
	});

	it('checks the MSR filter range by range: flags, size, then the bitmap', () => {
		const p = program();
		const vm = p.createVm();
		const filter = (flags: number, ...ranges: Parameters<typeof kvmMsrFilterRange.encode>[0][]) => {
			const bytes = new Uint8Array(384);
			for (const [i, range] of ranges.entries()) kvmMsrFilterRange.encodeInto(bytes.subarray(24 * i), range);
			return p.process.ioctl(vm, Ioctl.KVM_X86_SET_MSR_FILTER, kvmMsrFilter.encode({ flags, ranges: bytes }));
		};
		const bitmap = p.put(new Uint8Array(8));
		const good = { flags: 3, nmsrs: 1, base: 0x4b564d08, bitmap };
		expect(p.process.ioctl(vm, Ioctl.KVM_X86_SET_MSR_FILTER, new Uint8Array(391))).toBe(-14);
		expect(filter(2, { ...good, bitmap: NOWHERE })).toBe(-22);
		expect(filter(1)).toBe(-22);
		expect(filter(0, { ...good, bitmap: NOWHERE }, { ...good, flags: 4 })).toBe(-14);
		expect(filter(0, { ...good, flags: 4 }, { ...good, bitmap: NOWHERE })).toBe(-22);
		expect(filter(0, { ...good, nmsrs: 0x3001, bitmap: NOWHERE })).toBe(-22);
		expect(filter(0, { ...good, nmsrs: 0xffffffff })).toBe(-22);
		expect(filter(0, good)).toBe(0);
		expect(filter(0, { ...good, flags: 0 })).toBe(-22);
		// Deny by default wants a range that is not empty; those that are empty may hold anything.
		expect(filter(1, { nmsrs: 0, flags: 0xff, bitmap: NOWHERE })).toBe(-22);
		expect(filter(1, { nmsrs: 0, flags: 0xff, bitmap: NOWHERE }, good)).toBe(0);
		expect(filter(0, { ...good, nmsrs: 0x3000, bitmap: NOWHERE })).toBe(-14);
		expect(filter(0)).toBe(0);
	});

	it('KVM_CAP_X86_USER_SPACE_MSR takes the three reasons, and EINVAL is said of any other bit', () => {
		const p = program();
		const vm = p.createVm();
		const enable = (arg0: bigint, flags = 0) =>
			p.process.ioctl(vm, Ioctl.KVM_ENABLE_CAP, kvmEnableCap.encode({ cap: Cap.X86_USER_SPACE_MSR, arg0, flags }));
		for (let mask = 0n; mask < 8n; mask++) expect(enable(mask)).toBe(0);
		for (const mask of [8n, 1n << 32n, 1n << 63n]) expect(enable(mask)).toBe(-22);
		expect(enable(4n, 1)).toBe(-22);
		for (const cap of [Cap.X86_USER_SPACE_MSR, Cap.X86_MSR_FILTER]) {
			expect(p.process.ioctl(vm, Ioctl.KVM_CHECK_EXTENSION, cap)).toBe(1);
		}
	});

	it('enables capabilities as the facade does', () => {
		const p = program();
		const vm = p.createVm();
		const enable = (fields: Parameters<typeof kvmEnableCap.encode>[0]) =>
			p.process.ioctl(vm, Ioctl.KVM_ENABLE_CAP, kvmEnableCap.encode(fields));
		expect(p.process.ioctl(vm, Ioctl.KVM_ENABLE_CAP, new Uint8Array(103))).toBe(-14);
		expect(enable({ cap: Cap.EXIT_HYPERCALL, arg0: 1n << 12n })).toBe(0);
		expect(enable({ cap: Cap.EXIT_HYPERCALL, arg0: 1n << 63n })).toBe(-22);
		expect(enable({ cap: Cap.EXIT_HYPERCALL, arg0: 0n, flags: 1 })).toBe(-22);
		expect(enable({ cap: 0xffffffff })).toBe(-22);
		expect(enable({ cap: Cap.DIRTY_LOG_RING, arg0: 4096n })).toBe(0);
		expect(p.process.ioctl(vm, Ioctl.KVM_RESET_DIRTY_RINGS)).toBe(0);
		const vcpu = p.process.ioctl(vm, Ioctl.KVM_CREATE_VCPU, 0);
		const ring = p.process.mmap(vcpu, 4096, 64 * 4096);
		expect(ring).toHaveLength(4096);
		expect(p.process.mmap(vcpu, 4096, 65 * 4096)).toBe(-22);
		expect(p.process.ioctl(vm, Ioctl.KVM_GET_DIRTY_LOG, kvmDirtyLog.encode({ slot: 0 }))).toBe(-6);
	});
});
