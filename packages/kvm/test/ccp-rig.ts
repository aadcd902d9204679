/** A program, /dev/sev, and a machine whose mailbox is watched. */
import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { createSevMachine, type FirmwareVersion, type SevMachine } from '@cvm/sev-hw';
import { COMMANDS, type platformStatusBuffer, Status } from '@cvm/sev-hw/abi';
import {
	createSevMiscDevice,
	SEV_ISSUE_CMD,
	SevUserCommand,
	sevIssueCmd,
	sevUserDataPdhCertExport,
	sevUserDataStatus,
	type UserMemory,
} from '../src/ccp/index.js';

export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const CERT = 2084;
export const CHAIN = 6252;

/** What a caller leaves in `error` to see whether the driver wrote there. */
export const UNTOUCHED = 0x5a5a;

/** Where the program of these tests keeps things. */
export const AT = { command: 0x1000n, data: 0x2000n, first: 0x10000n, second: 0x20000n, nowhere: 0xdead_0000n };
export const MEMORY_END = 0x30000n;

/** A program's memory: present below MEMORY_END, and writable outside `readOnly`. */
function program() {
	const bytes = new Uint8Array(Number(MEMORY_END));
	const readOnly: [bigint, bigint][] = [];
	const present = (address: bigint, length: number) => address >= 0x1000n && address + BigInt(length) <= MEMORY_END;
	const memory: UserMemory = {
		read: async (address, length) =>
			present(address, length) ? bytes.slice(Number(address), Number(address) + length) : undefined,
		write: async (address, data) => {
			const end = address + BigInt(data.length);
			if (!present(address, data.length) || readOnly.some(([from, to]) => address < to && end > from)) return false;
			bytes.set(data, Number(address));
			return true;
		},
	};
	return {
		memory,
		protect: (address: bigint) => void readOnly.push([address, address + 0x1000n]),
		put: (address: bigint, data: Uint8Array) => bytes.set(data, Number(address)),
		at: (address: bigint, length: number) => bytes.slice(Number(address), Number(address) + length),
	};
}

interface Rig {
	readonly initOnProbe?: boolean;
	readonly version?: FirmwareVersion;
	/** What PLATFORM_STATUS answers instead of the truth. */
	readonly status?: Parameters<typeof platformStatusBuffer.encode>[0];
	/** Statuses with which commands are answered instead of being run; `ran` still lists them. */
	readonly answers?: Partial<Record<number, Status>>;
}

/** A device whose mailbox is watched. */
export function rig({ initOnProbe = true, answers = {}, version, status }: Rig = {}) {
	const real = createSevMachine({
		dramBytes: 4 << 20,
		provider: nodeProvider,
		random: seededRandom('ccp'),
		chipSeed: 'ccp',
		...(version && { version }),
	});
	const ran: number[] = [];
	const machine: SevMachine = {
		...real,
		psp: {
			...real.psp,
			submit: (command, at) => {
				const asked = command === COMMANDS.PLATFORM_STATUS.id;
				if (!asked) ran.push(command);
				if (asked && status) {
					real.dram.set(COMMANDS.PLATFORM_STATUS.buffer.encode(status), at);
					return Status.SUCCESS;
				}
				return answers[command] ?? real.psp.submit(command, at);
			},
		},
	};
	const device = createSevMiscDevice({ machine, initOnProbe });
	const user = program();
	/** One SEV_ISSUE_CMD of a program that opened the device with `flags`. */
	const issue = async (cmd: number, { data = AT.data, flags = O_RDWR }: { data?: bigint; flags?: number } = {}) => {
		user.put(AT.command, sevIssueCmd.encode({ cmd, data, error: UNTOUCHED }));
		const ret = await device.open(flags).ioctl(SEV_ISSUE_CMD, AT.command, user.memory);
		return { ret, error: sevIssueCmd.decode(user.at(AT.command, sevIssueCmd.size)).error };
	};
	const state = async () => {
		await issue(SevUserCommand.PLATFORM_STATUS);
		return sevUserDataStatus.decode(user.at(AT.data, sevUserDataStatus.size));
	};
	const exported = () => sevUserDataPdhCertExport.decode(user.at(AT.data, sevUserDataPdhCertExport.size));
	const wantExport = (fields: Partial<Parameters<typeof sevUserDataPdhCertExport.encode>[0]> = {}) => {
		const all = { pdhCertAddress: AT.first, pdhCertLen: CERT, certChainAddress: AT.second, certChainLen: CHAIN };
		user.put(AT.data, sevUserDataPdhCertExport.encode({ ...all, ...fields }));
	};
	return { device, user, ran, issue, state, exported, wantExport };
}

/** Write access was wanted. */
export const REFUSED = { ret: -1, error: UNTOUCHED };
/** Memory of the program was not there. */
export const FAULT = { ret: -14, error: UNTOUCHED };
/** An argument was refused. */
export const INVALID = { ret: -22, error: UNTOUCHED };
/** Success. */
export const DONE = { ret: 0, error: 0 };
