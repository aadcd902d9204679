import type { MigrationStatus } from '@cvm/qemu-mig';
import { type MigrationInfo, QmpError, QmpErrorClass, type RunState } from '@cvm/qmp';
import type { HostContext } from '../context.js';
import { type GuestPages, pageSource, SevCommandError } from '../pages.js';
import { HANDOVER } from '../qmp-schema.js';
import { Outgoing, type OutgoingResult } from './outgoing.js';
import { type Address, parseUri, TransportError } from './uri.js';
import { saveSections } from './vm-sections.js';

const generic = (desc: string) => new QmpError(QmpErrorClass.genericError, desc);
/** The engine says at which step it failed; what happened there says more. */
function told(error: Extract<OutgoingResult, { status: 'failed' }>['error']): string {
	const { message, cause } = error;
	if (cause instanceof TransportError || cause instanceof SevCommandError) return cause.message;
	return error.code === 'return-path' ? `The target is gone or does not follow the protocol: ${message}` : message;
}
const isTerminal = (status: MigrationStatus) => ['completed', 'failed', 'cancelled'].includes(status);

/** The sending half of a host: `migrate`, `migrate_cancel`, and what `query-migrate` says of it. */
export class MigrationSource {
	readonly #host: HostContext;
	#outgoing: Outgoing | undefined;
	/** Once ended: what to show for good. */
	#ended: MigrationInfo | undefined;
	#finished: Promise<void> = Promise.resolve();

	constructor(host: HostContext) {
		this.#host = host;
	}

	get active(): boolean {
		return this.#outgoing !== undefined && this.#ended === undefined;
	}

	/** Resolves when the last migration has ended, however. */
	get finished(): Promise<void> {
		return this.#finished;
	}

	/** Reasons for which the guest can not move now, as `blocked-reasons`. */
	get blockers(): string[] {
		const { machine, migrationMsr } = this.#host;
		if (!machine.sev || machine.vcpus.length === 0 || !migrationMsr.blocker) return [];
		return ['SEV: the guest has not enabled migration (KVM_MIGRATION_READY is not set in MSR_KVM_MIGRATION_CONTROL)'];
	}

	get info(): MigrationInfo {
		const reasons = this.blockers;
		const blocked = reasons.length > 0 ? { 'blocked-reasons': reasons } : {};
		if (this.#ended) return { ...this.#ended, ...blocked };
		if (!this.#outgoing) return blocked;
		const live = this.#outgoing.precopy?.statistics.info() ?? { status: 'setup' };
		// The engine is done before its host is: until then the migration has not ended.
		return { ...live, ...(live.status && isTerminal(live.status) && { status: 'device' }), ...blocked };
	}

	/** Starts a migration and returns at once, as QEMU does. @throws QmpError */
	migrate(uri: string): void {
		const { runState, machine } = this.#host;
		if (this.active) throw generic(`There's a migration process in progress`);
		if (runState.state === 'inmigrate') throw generic('Guest is waiting for an incoming migration');
		if (runState.state === 'postmigrate')
			throw generic(`Can't migrate the vm that was paused due to previous migration`);
		if (runState.state === 'internal-error') throw generic('The guest has stopped with an internal error');
		const [blocker] = this.blockers;
		if (blocker) throw generic(blocker);
		let address: Address | undefined;
		try {
			address = parseUri(uri);
		} catch (error) {
			this.#ended = { status: 'failed', 'error-desc': (error as Error).message };
			throw generic((error as Error).message);
		}
		if (!address) {
			this.#ended = { status: 'failed' };
			throw generic(`Parameter 'uri' expects a valid migration protocol`);
		}
		if (machine.sev && (address.kind === 'file' || address.kind === 'exec')) {
			throw generic(
				`A confidential guest needs a target that answers: '${address.kind}:' has no way back for the hand-over`,
			);
		}
		const target = machine.sev && this.#host.settings.target();
		this.#ended = undefined;
		this.#finished = this.#run(address, target);
	}

	/** Always succeeds, as in QEMU; without effect when there is nothing to cancel or it is too late. */
	cancel(): void {
		this.#outgoing?.cancel();
	}

	/** The process ends: nothing is waited for. */
	drop(): void {
		this.#outgoing?.drop();
	}

	async #run(address: Address, target: ReturnType<HostContext['settings']['target']> | undefined): Promise<void> {
		const host = this.#host;
		const { machine, settings, options } = host;
		const before: RunState = host.runState.state;
		// A confidential guest has one run only: between hosts of this model it always moves with a commit.
		const handover = machine.sev !== undefined || settings.has(HANDOVER);
		const sealer =
			machine.sev && target && machine.sev.sealer(machine, target, machine.kvm.sevDevice.pdhCertExport().pdh);
		const outgoing = new Outgoing({
			address,
			handover,
			returnPath: settings.has('return-path'),
			source: pageSource(handover ? machine : withoutModelFirmware(host), sealer),
			vm: {
				stop: () => host.pause('finish-migrate'),
				devices: () => saveSections(host, before, handover),
			},
			dialect: machine.sev ? 'sev-v4' : 'qemu-7.2',
			machineType: options.machine,
			parameters: settings.parameters,
			// The SEV trees raise the limit to a second behind the user's back; a limit that was set is a limit here.
			downtimeBump: false,
			commit: () => {
				machine.sev?.finishSend();
				host.handedOver = true;
			},
			events: {
				status: (status) => {
					if (!isTerminal(status)) this.#tell(status);
				},
				pass: (pass) => {
					if (settings.has('events')) host.emit('MIGRATION_PASS', { pass });
				},
			},
		});
		this.#outgoing = outgoing;
		const result = await outgoing.run();
		try {
			this.#conclude(result, before, outgoing);
		} catch (error) {
			this.#end({ status: 'failed', 'error-desc': (error as Error).message });
		}
	}

	#conclude(result: OutgoingResult, before: RunState, outgoing: Outgoing): void {
		const host = this.#host;
		const { sev } = host.machine;
		if (result.status === 'completed') {
			host.runState.to('postmigrate');
			this.#end({ ...outgoing.precopy?.statistics.info(), status: 'completed' });
			return;
		}
		if (result.status === 'failed' && (!result.mayResume || host.handedOver)) {
			host.runState.to('postmigrate');
			const reason = `${told(result.error)}; the guest was handed over and must not run here again`;
			this.#end({ status: 'failed', 'error-desc': reason });
			return;
		}
		sev?.cancelSend();
		if (host.runState.state === 'finish-migrate') {
			if (before === 'running') host.resume();
			else host.runState.to(before);
		}
		this.#end(
			result.status === 'cancelled' ? { status: 'cancelled' } : { status: 'failed', 'error-desc': told(result.error) },
		);
	}

	#end(info: MigrationInfo): void {
		this.#ended = info;
		if (info.status) this.#tell(info.status);
	}

	#tell(status: NonNullable<MigrationInfo['status']>): void {
		if (this.#host.settings.has('events')) this.#host.emit('MIGRATION', { status });
	}
}

/** For a QEMU: the model's own firmware image stays behind, since a PC there has its own, of another size. */
function withoutModelFirmware({ machine, options }: HostContext): GuestPages {
	if (options.bios !== undefined) return machine;
	const kept = machine.blocks.flatMap((block, index) => (block.idstr === 'pc.bios' ? [] : [index]));
	const pick = <T>(list: readonly T[]): T[] => list.filter((_, index) => kept.includes(index));
	return { ...machine, blocks: pick(machine.blocks), touched: pick(machine.touched) };
}
