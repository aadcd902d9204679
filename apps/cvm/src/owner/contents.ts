import { nodeProvider } from '@cvm/crypto/node';
import { Policy, VMSA_SIZE } from '@cvm/sev-hw/abi';
import { CPU_SIGNATURES, type CpuName, guestLaunchDigest, kernelHashesTable, launchDigest } from '@cvm/sev-hw/owner';
import type { Command } from 'commander';
import { oneOf, whole } from '../demo/options.js';
import { Misuse } from '../exit.js';
import { digestFrom, judged, LIMITS, readInput } from './read.js';

/** What is launched, as a person says it. */
export interface ContentOptions {
	readonly policy?: string;
	readonly launchDigest?: string;
	readonly firmware?: string;
	readonly kernel?: string;
	readonly initrd?: string;
	readonly cmdline?: string;
	readonly numCpus?: string;
	readonly vcpuType?: string;
	readonly vcpuSig?: string;
	readonly legacyVmType?: boolean;
	readonly vmsaCpu0?: string;
	readonly vmsaCpu1?: string;
}

const CPU_NAMES = Object.keys(CPU_SIGNATURES) as CpuName[];
const MAX_CPUS = 4096;

/** Adds the options of {@link ContentOptions}; those that sevctl has, have its names too. */
export const withContents = (command: Command): Command =>
	command
		.option('--policy <bits>', 'guest policy')
		.option('--firmware <file>', 'the firmware image (OVMF) that is launched')
		.option('--kernel <file>', 'with QEMU’s kernel-hashes=on: the kernel,')
		.option('--initrd <file>', '… its initial RAM disk,')
		.option('--append, --cmdline <text>', '… and its command line')
		.option('--vcpus, --num-cpus <n>', 'SEV-ES: virtual CPUs')
		.option('--vcpu-type <name>', `SEV-ES: QEMU’s -cpu: ${CPU_NAMES.filter((name) => !/-v\d/.test(name)).join(', ')}`)
		.option('--vcpu-sig <number>', 'SEV-ES: the same by CPUID Fn0000_0001_EAX')
		.option('--legacy-vm-type', 'SEV-ES: launched with KVM_SEV_ES_INIT (QEMU’s legacy-vm-type=on)')
		.option('--vmsa-cpu0 <file>', 'SEV-ES: the save area of the first virtual CPU instead, 4096 bytes')
		.option('--vmsa-cpu1 <file>', 'SEV-ES: … and that of each other one')
		.option('--launch-digest <digest>', 'the digest itself instead of all that, hex or base64');

/** The launch digest, 32 bytes. @throws Misuse, Failure */
export function digestOf(options: ContentOptions, policy: number | undefined): Uint8Array {
	const { firmware: path } = options;
	if (options.launchDigest !== undefined) {
		if (path !== undefined) throw new Misuse('--launch-digest: expected no --firmware beside it');
		return digestFrom('--launch-digest', options.launchDigest);
	}
	if (path === undefined) throw new Misuse('--firmware: expected a file, or --launch-digest, got neither');
	const count = cpuCount(options, policy);
	const areas = count === undefined ? undefined : givenSaveAreas(options, count);
	const vcpus = count === undefined || areas ? undefined : { count, ...cpuStart(options) };
	const boot = bootOf(options);
	const firmware = readInput('--firmware', path, LIMITS.firmware);
	if (areas) {
		const table = boot ? [kernelHashesTable(nodeProvider, boot)] : [];
		return launchDigest(nodeProvider, [firmware, ...table, ...areas]);
	}
	return judged(`--firmware: '${path}'`, () =>
		guestLaunchDigest(nodeProvider, { firmware, ...(boot && { boot }), ...(vcpus && { vcpus }) }),
	);
}

/** What is booted directly, read from its files; `undefined` without a kernel. @throws Misuse, Failure */
export function bootOf({ kernel, initrd, cmdline }: Pick<ContentOptions, 'kernel' | 'initrd' | 'cmdline'>) {
	if (kernel === undefined) {
		if (initrd !== undefined) throw new Misuse('--initrd: needs --kernel');
		if (cmdline !== undefined) throw new Misuse('--append: needs --kernel');
		return undefined;
	}
	return {
		kernel: readInput('--kernel', kernel, LIMITS.kernel),
		...(initrd !== undefined && { initrd: readInput('--initrd', initrd, LIMITS.initrd) }),
		...(cmdline !== undefined && { commandLine: new TextEncoder().encode(cmdline) }),
	};
}

/** How many save areas are measured; `undefined` without SEV-ES. */
function cpuCount({ numCpus, ...o }: ContentOptions, policy: number | undefined): number | undefined {
	const isEs = policy === undefined ? numCpus !== undefined : (policy & Policy.ES) !== 0;
	if (isEs) {
		if (numCpus === undefined) throw new Misuse('--vcpus: expected a number, as --policy has the ES bit');
		return whole('--vcpus', numCpus, 1, MAX_CPUS);
	}
	if (numCpus !== undefined) throw new Misuse('--vcpus: needs --policy with the ES bit (0x4)');
	const needing = { '--vcpu-type': o.vcpuType, '--vcpu-sig': o.vcpuSig, '--legacy-vm-type': o.legacyVmType };
	const given = { ...needing, '--vmsa-cpu0': o.vmsaCpu0, '--vmsa-cpu1': o.vmsaCpu1 };
	const lost = Object.entries(given).find(([, value]) => value !== undefined);
	if (lost) throw new Misuse(`${lost[0]}: needs --vcpus`);
	return undefined;
}

function givenSaveAreas(o: ContentOptions, count: number): Uint8Array[] | undefined {
	if (o.vmsaCpu0 === undefined) {
		if (o.vmsaCpu1 !== undefined) throw new Misuse('--vmsa-cpu1: needs --vmsa-cpu0');
		return undefined;
	}
	if (o.vcpuType ?? o.vcpuSig ?? o.legacyVmType) {
		throw new Misuse('--vmsa-cpu0: expected no description of the processor beside it');
	}
	const first = saveArea('--vmsa-cpu0', o.vmsaCpu0);
	if (count === 1) return [first];
	if (o.vmsaCpu1 === undefined) throw new Misuse(`--vmsa-cpu1: expected a file, as there are ${count} virtual CPUs`);
	return [first, ...new Array<Uint8Array>(count - 1).fill(saveArea('--vmsa-cpu1', o.vmsaCpu1))];
}

function saveArea(option: string, path: string): Uint8Array {
	const data = readInput(option, path);
	if (data.length === VMSA_SIZE) return data;
	throw new Misuse(`${option}: '${path}': expected ${VMSA_SIZE} bytes, got ${data.length}`);
}

function cpuStart({ vcpuType, vcpuSig, legacyVmType }: ContentOptions): { signature: number; fpuInit: boolean } {
	const fpuInit = !legacyVmType;
	if (vcpuType !== undefined && vcpuSig !== undefined)
		throw new Misuse('--vcpu-sig: expected no --vcpu-type beside it');
	if (vcpuSig !== undefined) return { signature: whole('--vcpu-sig', vcpuSig, 0, 0xffffffff), fpuInit };
	if (vcpuType === undefined) throw new Misuse('--vcpu-type: expected a name, --vcpu-sig or --vmsa-cpu0, got none');
	return { signature: CPU_SIGNATURES[oneOf('--vcpu-type', vcpuType, CPU_NAMES)], fpuInit };
}
