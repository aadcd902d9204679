import { type KvmAbi, LINUX_RELEASES, type LinuxRelease, SERIES, type Series } from './abi/generation.js';

/** The kernel that is modelled: everything that depends on its age asks this. Structured-cloneable. */
export interface Kernel {
	readonly abi: KvmAbi;
	readonly release: LinuxRelease;
	/** Which posting of the series; `upstream` with that ABI. */
	readonly series: Series;
}

/** Whether a kernel is at least as new as a release. */
export const isSince = ({ release }: Kernel, since: LinuxRelease): boolean =>
	LINUX_RELEASES.indexOf(release) >= LINUX_RELEASES.indexOf(since);

/** Whether a kernel has a posting of the series that lies between two of them, both included. */
export const isPosting = ({ series }: Kernel, first: Series, last: Series): boolean => {
	const at = SERIES.indexOf(series);
	return at >= SERIES.indexOf(first) && at <= SERIES.indexOf(last);
};

/**
 * The kernel of an ABI: v12 was posted against Linux 5.12; upstream is 6.10 unless an older one is asked for.
 * DEVIATION(kvm list): the earlier postings stand on Linux 5.12 here, for all that is not about page status.
 */
export const createKernel = (abi: KvmAbi, release?: LinuxRelease, series?: Series): Kernel => ({
	abi,
	release: release ?? (abi === 'v12' ? '5.12' : '6.10'),
	series: series ?? abi,
});
