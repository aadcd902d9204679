import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { gpa } from '@cvm/layout';
import { createSevMachine, type GenerationName, type SevGeneration, type SevMachine } from '@cvm/sev-hw';
import { COMMANDS } from '@cvm/sev-hw/abi';
import { createKeyServer } from '@cvm/sev-hw/fake-amd';
import {
	createKvm,
	type HostMapping,
	type Kvm,
	type KvmAbi,
	type LinuxRelease,
	type Series,
	type Vm,
} from '../src/index.js';

export const MIB = 1024 * 1024;
export const PAGE = 4096;
const provider = nodeProvider;

/** Ids of firmware commands in the order in which a machine got them. */
export interface Host {
	readonly kvm: Kvm;
	readonly machine: SevMachine;
	readonly commands: number[];
	wbinvds: number;
}

/** A host whose mailbox is watched. */
export function bootHost(
	o: {
		seed?: string;
		abi?: KvmAbi;
		release?: LinuxRelease;
		series?: Series;
		generation?: GenerationName | SevGeneration;
		sevEs?: boolean;
		vmsaTransport?: 'einval' | 'model';
		vmsaMapping?: 'none' | 'model';
	} = {},
): Host {
	const { seed = 'host', generation = 'milan', release, series, sevEs, vmsaTransport, vmsaMapping } = o;
	const abi = o.abi ?? (series === undefined ? 'upstream' : undefined);
	const real = createSevMachine({
		dramBytes: 8 * MIB,
		provider,
		random: seededRandom(seed),
		chipSeed: seed,
		generation,
	});
	const commands: number[] = [];
	const machine: SevMachine = {
		...real,
		psp: {
			submit: (command, at) => {
				commands.push(command);
				return real.psp.submit(command, at);
			},
			submitBatch: (command, ats, statuses) => {
				commands.push(command);
				return real.psp.submitBatch(command, ats, statuses);
			},
		},
		wbinvd: () => {
			host.wbinvds++;
			real.wbinvd();
		},
	};
	const modules = {
		...(sevEs !== undefined && { sevEs }),
		...(vmsaTransport && { vmsaTransport }),
		...(vmsaMapping && { vmsaMapping }),
	};
	const host: Host = {
		kvm: createKvm({
			machine,
			...modules,
			...(abi && { abi }),
			...(release && { release }),
			...(series && { series }),
		}),
		machine,
		commands,
		wbinvds: 0,
	};
	return host;
}

/** Certificates of a host as a migration source wants them: its CEK signed by the key server. */
export function certificatesOf({ kvm }: Host) {
	const { pdh, chain } = kvm.sevDevice.pdhCertExport();
	const { id } = kvm.sevDevice.getId();
	const server = createKeyServer(provider);
	const platCerts = chain.slice();
	platCerts.set(server.cek(id), 2 * 2084);
	return { pdhCert: pdh, platCerts, amdCerts: server.askArk() };
}

const patternByte = (i: number): number => (i * 7 + (i >>> 12) * 13 + 3) & 0xff;
export const pattern = (length: number): Uint8Array => Uint8Array.from({ length }, (_, i) => patternByte(i));

/** A VM with RAM at 0 whose memory is pinned. */
export function vmWithRam(host: Host, bytes = 64 * 1024): { vm: Vm; ram: HostMapping } {
	const vm = host.kvm.createVm();
	vm.sev.init();
	const ram = host.kvm.memory.mmap(bytes);
	vm.setUserMemoryRegion({ slot: 0, flags: 0, guestPhysAddr: gpa(0), memorySize: bytes, userspaceAddr: ram.hva });
	vm.memoryEncryptRegisterRegion({ addr: ram.hva, size: bytes });
	return { vm, ram };
}

/** A VM in RUNNING whose RAM holds {@link pattern}, encrypted. */
export function runningVm(host: Host, policy = 0, bytes = 64 * 1024): { vm: Vm; ram: HostMapping } {
	const made = vmWithRam(host, bytes);
	made.ram.bytes.set(pattern(bytes));
	const { sev } = made.vm;
	for (const { ret } of [
		sev.launchStart({ policy }),
		sev.launchUpdateData({ uaddr: made.ram.hva, len: bytes }),
		sev.launchMeasure(),
		sev.launchFinish(),
	]) {
		if (ret !== 0) throw new Error(`launch: expected 0, got ${ret}`);
	}
	return made;
}

/** Guest memory in plain, by DBG_DECRYPT. */
export function decrypted(host: Host, vm: Vm, ram: HostMapping): Uint8Array {
	const copy = host.kvm.memory.mmap(ram.bytes.length);
	const { ret, error } = vm.sev.dbgDecrypt({ src: ram.hva, dst: copy.hva, len: ram.bytes.length });
	if (ret !== 0) throw new Error(`dbgDecrypt: expected 0, got ${ret}/${error}`);
	const plain = new Uint8Array(copy.bytes.slice());
	host.kvm.memory.munmap(copy);
	return plain;
}

/** How often a firmware command was given. */
export const count = ({ commands }: Host, name: keyof typeof COMMANDS): number =>
	commands.filter((id) => id === COMMANDS[name].id).length;
