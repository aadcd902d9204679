import { closeSync, openSync, writeSync } from 'node:fs';
import { saveVcpuState } from '@cvm/kvm';
import { PAGE_SIZE } from '@cvm/layout';
import { QmpError, QmpErrorClass, type QmpHandlers } from '@cvm/qmp';
import type { HostContext } from './context.js';
import { GuestReader } from './guest-reader.js';
import { isHelperError } from './helper/control.js';
import { decodeBlob } from './migration/settings.js';
import type { MigrationSource } from './migration/source.js';
import type { MigrationTarget } from './migration/target.js';
import { strerror, TransportError } from './migration/uri.js';
import { SevCommandError } from './pages.js';
import { PROGRESS, PROGRESS_STRIDE } from './progress.js';
import type { hostSchema } from './qmp-schema.js';

const base64 = (data: Uint8Array): string => Buffer.from(data).toString('base64');
const generic = (desc: string) => new QmpError(QmpErrorClass.genericError, desc);

/** Turns what the layers below throw into an answer. */
async function told<T>(work: () => T | Promise<T>): Promise<T> {
	try {
		return await work();
	} catch (error) {
		const known = error instanceof SevCommandError || error instanceof TransportError || isHelperError(error);
		throw known ? generic(error.message) : error;
	}
}

function toFile(filename: string, write: (put: (piece: Uint8Array) => void) => void): void {
	let fd: number;
	try {
		fd = openSync(filename, 'w', 0o600);
	} catch (error) {
		throw generic(`Could not open '${filename}': ${strerror(error)}`);
	}
	try {
		write((piece) => {
			for (let done = 0; done < piece.length; ) done += writeSync(fd, piece, done);
		});
	} catch (error) {
		if (error instanceof SevCommandError) throw error;
		throw generic(`Could not write '${filename}': ${strerror(error)}`);
	} finally {
		closeSync(fd);
	}
}

/** The commands of one host. */
export function qmpCommands(
	host: HostContext,
	source: MigrationSource,
	target: MigrationTarget,
	quit: () => void,
): QmpHandlers<typeof hostSchema> {
	const { options, machine, runState, settings } = host;
	const stoppedOnly = () => {
		if (runState.running) throw generic('The VM must be stopped');
	};
	return {
		'query-status': () => ({ status: runState.state, singlestep: false, running: runState.running }),
		'query-name': () => (options.name === undefined ? {} : { name: options.name }),
		'query-uuid': () => ({ UUID: options.uuid ?? '00000000-0000-0000-0000-000000000000' }),
		'query-migrate': () => (!target.used || source.info.status ? source.info : { ...source.info, ...target.info }),
		'query-migrate-parameters': () => settings.shown as never,
		'query-migrate-capabilities': () => settings.capabilities as never,
		'migrate-set-parameters': (args) => settings.setParameters(args),
		'migrate-set-capabilities': ({ capabilities }) => {
			if (source.active) throw generic(`There's a migration process in progress`);
			settings.setCapabilities(capabilities);
		},
		migrate: ({ uri, blk, inc, resume }) => {
			if (blk || inc) throw generic('Block migration is not supported by this model');
			if (resume) throw generic('Cannot resume if there is no paused migration');
			return told(() => source.migrate(uri));
		},
		migrate_cancel: () => source.cancel(),
		'migrate-incoming': ({ uri }) => told(() => target.listen(uri)),
		'start-migration-handler': () =>
			told(() => {
				if (!host.helper) throw generic('This machine has no mirror vCPUs: -smp N,mirrorvcpus=M');
				return host.helper.start();
			}),
		'start-migrate-incoming': ({ uri }) => told(() => target.listenRunning(uri)),
		'query-sev': () => {
			const { apiMajor, apiMinor, build } = machine.kvm.sevDevice.platformStatus();
			return {
				enabled: machine.sev !== undefined,
				'api-major': machine.sev ? apiMajor : 0,
				'api-minor': machine.sev ? apiMinor : 0,
				'build-id': machine.sev ? build : 0,
				policy: machine.sev?.policy ?? 0,
				state: machine.sev?.state ?? 'uninit',
				handle: machine.sev?.handle ?? 0,
			};
		},
		'query-sev-capabilities': () => {
			const { pdh, chain } = machine.kvm.sevDevice.pdhCertExport();
			return {
				pdh: base64(pdh),
				'cert-chain': base64(chain),
				'cpu0-id': base64(machine.kvm.sevDevice.getId().id),
				cbitpos: machine.machine.cpuid.cbitPosition,
				'reduced-phys-bits': machine.machine.cpuid.physAddrReduction,
			};
		},
		'query-sev-launch-measure': () => {
			const measurement = machine.sev?.measurement;
			if (!measurement) throw generic('SEV launch measurement is not available');
			return { data: base64(measurement) };
		},
		'sev-inject-launch-secret': ({ 'packet-header': header, secret, gpa }) =>
			told(() => {
				if (!machine.sev) throw generic('SEV not enabled for guest');
				const [headerBytes, data] = [decodeBlob('packet-header', header), decodeBlob('secret', secret)];
				const at = gpa === undefined ? machine.secretArea : Number(gpa);
				if (at === undefined) throw generic('SEV: the firmware image names no secret area; give gpa');
				const block = machine.blocks.find((b) => at >= b.gpa && at + data.length <= b.gpa + b.usedLength);
				if (!block) throw generic(`SEV: Failed to inject secret: no RAM at 0x${at.toString(16)}`);
				machine.sev.injectSecret(headerBytes, data, block, at);
			}),
		stop: async () => {
			host.autostart = false;
			if (runState.running) await host.pause('paused');
		},
		cont: () =>
			told(() => {
				if (runState.state === 'inmigrate') host.autostart = true;
				else if (host.handedOver)
					throw generic('The guest was handed over to another host and must not run here again');
				else if (runState.state === 'finish-migrate') throw generic('Migration is not finalized yet');
				else if (runState.state === 'internal-error' || runState.state === 'shutdown')
					throw generic('Resetting the Virtual Machine is required');
				else if (!runState.running) host.resume();
			}),
		quit: () => {
			host.emit('SHUTDOWN', { guest: false, reason: 'host-qmp-quit' });
			quit();
		},
		pmemsave: ({ val, size, filename }) => {
			const [from, length] = [Number(val), Number(size)];
			const block = machine.blocks.find((b) => from >= b.gpa && from + length <= b.gpa + b.usedLength);
			if (!block || length <= 0) throw generic(`Invalid addr 0x${from.toString(16)}/size ${length} specified`);
			toFile(filename, (put) => put(block.mapping.bytes.subarray(from - block.gpa, from - block.gpa + length)));
		},
		'x-guest-digest': () =>
			told(() => {
				stoppedOnly();
				return new GuestReader(machine).digest(
					host.migrationMsr.value,
					machine.vcpus.map((vcpu) => saveVcpuState(vcpu.share())),
				);
			}),
		'x-guest-memsave': ({ block: idstr, filename }) =>
			told(() => {
				stoppedOnly();
				const block = machine.blocks.find((b) => b.idstr === idstr);
				if (!block) throw generic(`RAM block '${idstr}' not found`);
				const reader = new GuestReader(machine);
				try {
					toFile(filename, (put) => reader.read(block, put));
				} finally {
					reader.close();
				}
			}),
		'x-dram-save': ({ filename }) => toFile(filename, (put) => put(machine.machine.dram)),
		'x-migration-token': () =>
			told(() => {
				if (!host.helper) throw generic('This machine has no migration helper');
				return { token: base64(host.helper.abortToken()) };
			}),
		'x-migration-revive': ({ token }) => told(() => source.revive(decodeBlob('token', token))),
		'x-guest-progress': () => ({ steps: machine.vcpus.map((_, index) => progress(host, index)) }),
	};
}

/** Steps that a vCPU published; 0 while the page is not shared. */
function progress({ machine }: HostContext, index: number): number {
	const at = PROGRESS + PROGRESS_STRIDE * index;
	const ram = machine.blocks[0]?.mapping.bytes;
	if (!ram || at + 8 > ram.length) return 0;
	if (machine.confidential && !machine.shared.has(Math.floor(at / PAGE_SIZE))) return 0;
	return Number(new DataView(ram.buffer, ram.byteOffset + at, 8).getBigUint64(0, true));
}
