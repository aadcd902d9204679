import { Errno } from '../abi/errno.js';
import type { Vcpu } from '../vm/vcpu.js';
import type { Vm } from '../vm/vm.js';

/** What KVM_CREATE_VM made: alive as long as a descriptor of it or of one of its vCPUs is open. */
export interface VmFile {
	readonly kind: 'vm';
	readonly vm: Vm;
	/** The process whose memory it is for: ioctls of others are −EIO. */
	readonly owner: object;
	/** Open files that hold it: its own and those of its vCPUs. */
	users: number;
}

/** What KVM_CREATE_VCPU made. */
export interface VcpuFile {
	readonly kind: 'vcpu';
	readonly of: VmFile;
	readonly vcpu: Vcpu;
	/** KVM_RUN. */
	readonly run: () => number;
}

/** What a descriptor stands for. */
export type OpenFile = { readonly kind: 'kvm' } | { readonly kind: 'sev'; readonly flags: number } | VmFile | VcpuFile;

/** An open file description: shared by descriptors that dup(2) made. */
interface Description {
	readonly file: OpenFile;
	references: number;
}

/** The descriptors of a process. */
export interface FileTable {
	/** The lowest free number; undefined if there is none: EMFILE. */
	add(file: OpenFile): number | undefined;
	/** Whether `add` would find a number. */
	hasRoom(): boolean;
	get(fd: number): OpenFile | undefined;
	/** Makes `fd` of this table known to another one, or to the same. */
	copy(fd: number, to: FileTable): number;
	/** For {@link FileTable.copy}. */
	adopt(description: Description): number;
	/** 0 or −EBADF. */
	close(fd: number): number;
	readonly descriptors: readonly number[];
}

/** RLIMIT_NOFILE as most systems have it. */
const MAX_FILES = 1024;
/** The numbers below are standard streams, which are no files of this model. */
const FIRST_FILE = 3;

/** @param release called when the last descriptor of a file is closed */
export function createFileTable(release: (file: OpenFile) => void): FileTable {
	const table = new Map<number, Description>();
	const lowest = (): number => {
		for (let fd = FIRST_FILE; fd < MAX_FILES; fd++) if (!table.has(fd)) return fd;
		return -1;
	};
	const adopt = (description: Description): number => {
		const fd = lowest();
		if (fd < 0) return -Errno.EMFILE;
		description.references++;
		table.set(fd, description);
		return fd;
	};
	return {
		add: (file) => {
			const fd = adopt({ file, references: 0 });
			return fd < 0 ? undefined : fd;
		},
		hasRoom: () => lowest() >= 0,
		get: (fd) => table.get(fd)?.file,
		copy: (fd, to) => {
			const description = table.get(fd);
			return description === undefined ? -Errno.EBADF : to.adopt(description);
		},
		adopt,
		close: (fd) => {
			const description = table.get(fd);
			if (description === undefined) return -Errno.EBADF;
			table.delete(fd);
			description.references--;
			if (description.references === 0) release(description.file);
			return 0;
		},
		get descriptors() {
			return [...table.keys()];
		},
	};
}
