import { type KvmAbi, LINUX_RELEASES, type LinuxRelease } from './abi/generation.js';

/** The kernel that is modelled: everything that depends on its age asks this. Structured-cloneable. */
export interface Kernel {
	readonly abi: KvmAbi;
	readonly release: LinuxRelease;
}

/** Whether a kernel is at least as new as a release. */
export const isSince = ({ release }: Kernel, since: LinuxRelease): boolean =>
	LINUX_RELEASES.indexOf(release) >= LINUX_RELEASES.indexOf(since);

/** The kernel of an ABI: v12 was posted against Linux 5.12; upstream is 6.10 unless an older one is asked for. */
export const createKernel = (abi: KvmAbi, release?: LinuxRelease): Kernel => ({
	abi,
	release: release ?? (abi === 'v12' ? '5.12' : '6.10'),
});
