import { mirrorError } from './error.js';

/** A machine's CPUs, as QEMU's -smp option with the suboption of the mirror_vm branch says. */
export interface MirrorTopology {
	/** CPUs at boot. */
	readonly cpus: number;
	/** CPUs that the machine can have. */
	readonly maxCpus: number;
	/** The last so many of these are mirror vCPUs. */
	readonly mirrorVcpus: number;
}

/** QEMU's limit for q35. */
const MAX_CPUS = 288;

/** Whether a CPU is a mirror vCPU: the last `mirrorVcpus` of the possible ones are. */
export const isMirrorVcpu = ({ maxCpus, mirrorVcpus }: MirrorTopology, index: number): boolean =>
	index >= maxCpus - mirrorVcpus;

/**
 * Reads `[cpus=]N[,maxcpus=X][,mirrorvcpus=M]`, any order after the first.
 *
 * Known defect of the branch, reproduced: M equal to the number of possible CPUs is taken, although the text of the refusal says
 * "less than"; no CPU is then left for the guest.
 *
 * @throws MirrorError `smp`
 */
export function parseSmp(option: string): MirrorTopology {
	const values = new Map<string, number>();
	for (const [i, part] of option.split(',').entries()) {
		const [key, text] = part.includes('=') ? splitOnce(part) : i === 0 ? ['cpus', part] : [part, ''];
		if (!['cpus', 'maxcpus', 'mirrorvcpus'].includes(key)) {
			throw mirrorError('smp', '-smp', 'cpus, maxcpus or mirrorvcpus', JSON.stringify(key));
		}
		if (!/^\d{1,9}$/.test(text)) throw mirrorError('smp', `-smp ${key}`, 'a number', JSON.stringify(text));
		values.set(key, Number(text));
	}
	const cpus = values.get('cpus') || 1;
	return checkTopology({
		cpus,
		maxCpus: values.get('maxcpus') || cpus,
		mirrorVcpus: values.get('mirrorvcpus') ?? 0,
	});
}

/** The checks of `parseSmp` for numbers. @throws MirrorError `smp` */
export function checkTopology(topology: MirrorTopology): MirrorTopology {
	const { cpus, maxCpus, mirrorVcpus } = topology;
	if (maxCpus < cpus)
		throw mirrorError('smp', '-smp', 'maxcpus equal to or greater than smp', `${maxCpus} and ${cpus}`);
	if (maxCpus > MAX_CPUS) throw mirrorError('smp', '-smp', `at most ${MAX_CPUS} CPUs`, `${maxCpus}`);
	if (mirrorVcpus > maxCpus) {
		throw mirrorError('smp', '-smp', 'mirror vcpus must be less than max cpus', `${mirrorVcpus} of ${maxCpus}`);
	}
	return topology;
}

const splitOnce = (part: string): [string, string] => {
	const at = part.indexOf('=');
	return [part.slice(0, at), part.slice(at + 1)];
};
