import { PAGE_SIZE } from '@cvm/layout';
import { Errno } from '../abi/errno.js';
import { KVM_DIRTY_LOG_PAGE_OFFSET } from '../abi/memory.js';
import { VmType } from '../abi/vm-type.js';
import { issueCommand } from '../ccp/issue-command.js';
import { SEV_ISSUE_CMD, sevIssueCmd } from '../ccp/user-abi.js';
import { runNow } from '../ccp/user-memory.js';
import { KvmError } from '../error.js';
import { hostOf, type Kvm } from '../kvm.js';
import { ringEntries } from '../memory/dirty-ring.js';
import { MAX_VCPUS } from '../vm/state.js';
import type { Vcpu } from '../vm/vcpu.js';
import type { VcpuHandle } from '../vm/vcpu-state.js';
import { contextOf, type Vm } from '../vm/vm.js';
import { createFileTable, type FileTable, type OpenFile, type VcpuFile, type VmFile } from './files.js';
import { KVM_IOCTLS } from './kvm-ioctls.js';
import { pageStatusIoctl } from './page-status-ioctls.js';
import { createUserSpace, type IoctlArgument, readStructure, type UserPointer, userPointer } from './user-space.js';
import { VCPU_IOCTLS } from './vcpu-ioctls.js';
import { VM_IOCTLS, type VmCall } from './vm-ioctls.js';

/** What {@link createProcess} wants besides the host. */
export interface ProcessOptions {
	/**
	 * KVM_RUN of a vCPU in this thread: `openVcpu` of `@cvm/kvm/vcpu` with what it needs. Without it KVM_RUN is −ENOSYS. Called
	 * again when KVM_SET_CPUID2 gave the vCPU another CPUID.
	 */
	readonly openVcpu?: (handle: VcpuHandle) => { run(): number };
}

/**
 * A process with its descriptors. Its memory is what `kvm.memory.mmap` gave out: processes of one host share all of that. Calls
 * return 0 or more, or a negative errno.
 */
export interface Process {
	/** `/dev/kvm` or `/dev/sev`; −ENOENT for others. `flags`: O_RDWR (2) by default; /dev/sev asks who may write. */
	open(path: string, flags?: number): number;
	/** A VM lives until its descriptor, those of its vCPUs, and its mirrors are closed. */
	close(fd: number): number;
	dup(fd: number): number;
	/** Gives a descriptor to another process, as SCM_RIGHTS does. A VM's ioctls are for the process that made it: −EIO. */
	share(fd: number, to: Process): number;
	/**
	 * What a vCPU's descriptor maps: kvm_run at 0, the dirty ring at page 64. −EINVAL: not there, or longer; −ENODEV: not a vCPU.
	 *
	 * @param offset in bytes
	 */
	mmap(fd: number, length: number, offset: number): Uint8Array | number;
	/**
	 * @param request its low 32 bits count
	 * @param arg bytes (read and written in place; too few are −EFAULT), an address in this process, an integer; 0 = NULL
	 */
	ioctl(fd: number, request: number, arg?: IoctlArgument): number;
	/** The typed facade of a VM's descriptor. */
	vmOf(fd: number): Vm | undefined;
	/** The typed facade of a vCPU's descriptor. */
	vcpuOf(fd: number): Vcpu | undefined;
	/** Open descriptors. */
	readonly descriptors: readonly number[];
	/** Closes all descriptors. */
	exit(): void;
}

const O_RDWR = 2;
const tables = new WeakMap<Process, FileTable>();

/** A new process on a host, without open descriptors. */
export function createProcess(kvm: Kvm, { openVcpu }: ProcessOptions = {}): Process {
	const host = hostOf(kvm);
	const { machine } = host.driver;
	const space = createUserSpace(host.memory, machine.dram);
	const files = createFileTable(release);
	/** struct mm_struct: which process a VM is for. */
	const self = {};

	const isDevice = (fd: number): boolean => files.get(fd)?.kind === 'sev';
	const vmFile = (fd: number): VmFile | undefined => {
		const file = files.get(fd);
		return file?.kind === 'vm' ? file : undefined;
	};
	const vmOf = (fd: number): Vm | undefined => vmFile(fd)?.vm;
	const add = (file: () => OpenFile): number => {
		// Before anything is made, so that nothing has to be undone.
		if (!files.hasRoom()) return -Errno.EMFILE;
		return files.add(file()) ?? -Errno.EMFILE;
	};

	const createVm = (type: bigint): number => {
		const known = Object.values(VmType).find((one) => BigInt(one) === type);
		if (known === undefined) return -Errno.EINVAL;
		return add(() => ({ kind: 'vm', vm: kvm.createVm({ type: known }), owner: self, users: 1 }));
	};
	const createVcpu = (of: VmFile, id: bigint): number => {
		// The descriptor's ioctl takes an unsigned int.
		const index = Number(BigInt.asUintN(32, id));
		if (index >= MAX_VCPUS) return -Errno.EINVAL;
		if (contextOf(of.vm).vcpus.has(index)) return -Errno.EEXIST;
		return add(() => {
			const vcpu = of.vm.createVcpu(index, []);
			of.users++;
			return { kind: 'vcpu', of, vcpu, run: runner(vcpu) };
		});
	};
	const runner = (vcpu: Vcpu): (() => number) => {
		let opened: { readonly handle: VcpuHandle; readonly thread: { run(): number } } | undefined;
		return () => {
			if (openVcpu === undefined) return -Errno.ENOSYS;
			const handle = vcpu.share();
			if (opened?.handle !== handle) opened = { handle, thread: openVcpu(handle) };
			return opened.thread.run();
		};
	};

	const vmIoctl = (file: VmFile, request: number, argument: UserPointer): number => {
		const context = contextOf(file.vm);
		if (file.owner !== self || context.sev.dead) return -Errno.EIO;
		const call: VmCall = {
			vm: file.vm,
			context,
			space,
			argument,
			isDevice,
			vmOf: (fd) => {
				const source = vmOf(fd);
				return source && contextOf(source);
			},
			createVcpu: (id) => createVcpu(file, id),
		};
		return pageStatusIoctl(call, request) ?? VM_IOCTLS.get(request)?.(call) ?? -Errno.ENOTTY;
	};
	const vcpuIoctl = ({ of, vcpu, run }: VcpuFile, request: number, argument: UserPointer): number => {
		if (of.owner !== self || contextOf(of.vm).sev.dead) return -Errno.EIO;
		const call = VCPU_IOCTLS.get(request);
		if (call === undefined) return -Errno.EINVAL;
		// A file that an ioctl works with stays, whatever is closed meanwhile.
		of.users++;
		try {
			return call({ vcpu, argument, run });
		} finally {
			drop(of);
		}
	};
	const sevIoctl = (flags: number, request: number, argument: UserPointer): number => {
		if (request !== SEV_ISSUE_CMD) return -Errno.EINVAL;
		const command = readStructure(argument, sevIssueCmd);
		if (command === undefined) return -Errno.EFAULT;
		const memory = {
			read: space.read,
			write: (address: bigint, data: Uint8Array) =>
				address === argument.value ? argument.write(0, data) : space.write(address, data),
		};
		return runNow(issueCommand(host.driver, command, { arg: argument.value, flags }), memory);
	};
	const dispatch = (file: OpenFile, request: number, argument: UserPointer): number => {
		switch (file.kind) {
			case 'kvm':
				return KVM_IOCTLS.get(request)?.({ kvm, host, space, argument, createVm }) ?? -Errno.EINVAL;
			case 'sev':
				return sevIoctl(file.flags, request, argument);
			case 'vm':
				return vmIoctl(file, request, argument);
			case 'vcpu':
				return vcpuIoctl(file, request, argument);
		}
	};

	const process: Process = {
		open: (path, flags = O_RDWR) => {
			if (path === '/dev/kvm') return add(() => ({ kind: 'kvm' }));
			return path === '/dev/sev' ? add(() => ({ kind: 'sev', flags })) : -Errno.ENOENT;
		},
		close: files.close,
		dup: (fd) => files.copy(fd, files),
		share: (fd, to) => {
			const table = tables.get(to);
			return table === undefined ? -Errno.EINVAL : files.copy(fd, table);
		},
		mmap: (fd, length, offset) => mapVcpu(files.get(fd), length, offset),
		ioctl: (fd, request, arg = 0) => {
			const file = files.get(fd);
			if (file === undefined) return -Errno.EBADF;
			try {
				return dispatch(file, request >>> 0, userPointer(space, arg));
			} catch (error) {
				return errnoOf(error);
			}
		},
		vmOf,
		vcpuOf: (fd) => {
			const file = files.get(fd);
			return file?.kind === 'vcpu' ? file.vcpu : undefined;
		},
		get descriptors() {
			return files.descriptors;
		},
		exit: () => {
			for (const fd of files.descriptors) files.close(fd);
		},
	};
	tables.set(process, files);
	return process;
}

/** The last descriptor of a file is closed. */
function release(file: OpenFile): void {
	const vm = file.kind === 'vm' ? file : file.kind === 'vcpu' ? file.of : undefined;
	if (vm !== undefined) drop(vm);
}

/** One user of a VM less. */
function drop(file: VmFile): void {
	file.users--;
	if (file.users === 0) file.vm.destroy();
}

/** What the typed facade throws, as the errno that a program sees. @throws what is no answer of the facade */
function errnoOf(error: unknown): number {
	const code = error instanceof KvmError ? error.code : undefined;
	switch (code) {
		case 'protected':
		case 'vm-type':
		case 'vcpu-index':
			return -Errno.EINVAL;
		case 'vm-gone':
			return -Errno.EIO;
		case 'out-of-memory':
			return -Errno.ENOMEM;
		case 'vcpu-stuck':
			return -Errno.EINTR;
		default:
			throw error;
	}
}

function mapVcpu(file: OpenFile | undefined, length: number, offset: number): Uint8Array | number {
	if (file === undefined) return -Errno.EBADF;
	if (file.kind !== 'vcpu') return -Errno.ENODEV;
	if (length <= 0 || offset < 0 || offset % PAGE_SIZE !== 0) return -Errno.EINVAL;
	const ringAt = KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_SIZE;
	const { dirtyRing } = file.vcpu.share();
	const ring = dirtyRing === undefined ? new Uint8Array(0) : ringEntries(dirtyRing);
	const [bytes, from] = offset < ringAt ? [file.vcpu.run, offset] : [ring, offset - ringAt];
	return from + length <= bytes.length ? bytes.subarray(from, from + length) : -Errno.EINVAL;
}
