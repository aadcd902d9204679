import type { HelperPeer, MigrationStatus, PageHelper, PageSealer } from '@cvm/qemu-mig';
import { type MigrationInfo, QmpError, QmpErrorClass, type RunState } from '@cvm/qmp';
import type { HostContext } from '../context.js';
import { isHelperError } from '../helper/control.js';
import { type HelperFigures, HelperTally } from '../helper/tally.js';
import { type GuestPages, type PageTransport, pageSource, SevCommandError } from '../pages.js';
import { HANDOVER, HELPER } from '../qmp-schema.js';
import { Outgoing, type OutgoingResult } from './outgoing.js';
import { type Address, parseUri, TransportError } from './uri.js';
import { saveSections } from './vm-sections.js';

const generic = (desc: string) => new QmpError(QmpErrorClass.genericError, desc);
/** The engine says at which step it failed; what happened there says more. */
function told(error: Extract<OutgoingResult, { status: 'failed' }>['error']): string {
	const { message, cause } = error;
	if (cause instanceof TransportError || cause instanceof SevCommandError || isHelperError(cause)) return cause.message;
	return error.code === 'return-path' ? `The target is gone or does not follow the protocol: ${message}` : message;
}
const isTerminal = (status: MigrationStatus) => ['completed', 'failed', 'cancelled'].includes(status);

/** The sending half of a host: `migrate`, `migrate_cancel`, and what `query-migrate` says of it. */
export class MigrationSource {
	readonly #host: HostContext;
	#outgoing: Outgoing | undefined;
	/** `migrate` waits for the helper to start. */
	#starting = false;
	/** The helper was asked to give the guest up. */
	#commitAsked = false;
	/** Run state before the migration that gave the guest up. */
	#before: RunState = 'running';
	/** What the helpers of the last migration have sent. */
	#tally: HelperTally | undefined;
	/** Once ended: what to show for good. */
	#ended: MigrationInfo | undefined;
	#finished: Promise<void> = Promise.resolve();

	constructor(host: HostContext) {
		this.#host = host;
	}

	get active(): boolean {
		return this.#starting || (this.#outgoing !== undefined && this.#ended === undefined);
	}

	/** Resolves when the last migration has ended, however. */
	get finished(): Promise<void> {
		return this.#finished;
	}

	/** Reasons for which the guest can not move now, as `blocked-reasons`. */
	get blockers(): string[] {
		const { machine, migrationMsr, handedOver } = this.#host;
		if (!machine.sev || machine.vcpus.length === 0) return [];
		const ready = migrationMsr.blocker
			? ['SEV: the guest has not enabled migration (KVM_MIGRATION_READY is not set in MSR_KVM_MIGRATION_CONTROL)']
			: [];
		// A helper at work is not asked: it has its hands full, and nothing blocks what goes on already.
		const helper = this.active || handedOver ? undefined : this.#helper?.blocker('source');
		return helper === undefined ? ready : [...ready, helper];
	}

	/** The helper, if this guest moves by one. */
	get #helper(): HostContext['helper'] {
		return this.#host.settings.has(HELPER) ? this.#host.helper : undefined;
	}

	get info(): MigrationInfo & { readonly 'x-helper'?: HelperFigures } {
		const reasons = this.blockers;
		const besides = {
			...(reasons.length > 0 && { 'blocked-reasons': reasons }),
			...(this.#tally && { 'x-helper': this.#tally.figures }),
		};
		if (this.#ended) return { ...this.#ended, ...besides };
		if (!this.#outgoing) return besides;
		const live = this.#outgoing.precopy?.statistics.info() ?? { status: 'setup' };
		// The engine is done before its host is: until then the migration has not ended.
		return { ...live, ...(live.status && isTerminal(live.status) && { status: 'device' }), ...besides };
	}

	/** Starts a migration and returns at once, as QEMU does; first the helper, if nobody did. @throws QmpError, HelperError */
	async migrate(uri: string): Promise<void> {
		const { runState, machine, migrationMsr } = this.#host;
		if (this.active) throw generic(`There's a migration process in progress`);
		if (runState.state === 'inmigrate') throw generic('Guest is waiting for an incoming migration');
		if (runState.state === 'postmigrate')
			throw generic(`Can't migrate the vm that was paused due to previous migration`);
		if (runState.state === 'internal-error') throw generic('The guest has stopped with an internal error');
		const helper = this.#helper;
		// No helper can be asked before the guest is ready.
		if (helper && !migrationMsr.blocker) await this.#startHelper(helper);
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
		const transport = machine.sev ? this.#transport() : {};
		this.#ended = undefined;
		this.#finished = this.#run(address, transport);
	}

	async #startHelper(helper: NonNullable<HostContext['helper']>): Promise<void> {
		this.#starting = true;
		try {
			await helper.start();
			if (!this.#host.handedOver) await helper.prepare?.('source');
		} finally {
			this.#starting = false;
		}
	}

	/** How private pages leave. @throws QmpError if the target's certificates are missing */
	#transport(): PageTransport<PageSealer, PageHelper> {
		const { machine, settings, options } = this.#host;
		const helper = this.#helper;
		this.#tally = helper && new HelperTally(options.mirrors, helper.profile);
		if (helper) {
			const omits = (gpa: number, offset: number) => helper.omits(gpa, offset);
			return { crypt: listOnly(machine), helper: this.#givingUp(this.#counted(helper.source())), omits };
		}
		return { crypt: machine.sev?.sealer(machine, settings.target(), machine.kvm.sevDevice.pdhCertExport().pdh) };
	}

	#counted = (helper: PageHelper): PageHelper => this.#tally?.over(helper) ?? helper;

	/** The moment at which the helper's word leaves that lets the target run is the one from which the guest must not run here. */
	#givingUp(helper: PageHelper): PageHelper {
		const { commit } = helper;
		if (!commit) return helper;
		return {
			...helper,
			commit: (peer: HelperPeer) => {
				this.#commitAsked = true;
				return commit({
					send: (message) => {
						this.#host.handedOver = true;
						peer.send(message);
					},
					receive: () => peer.receive(),
				});
			},
		};
	}

	/** Takes a guest back that was given up, on its target's proof that it will never run there. @throws QmpError, HelperError */
	revive(token: Uint8Array): void {
		const host = this.#host;
		if (!host.helper) throw generic('This machine has no migration helper');
		if (this.active || !host.handedOver) throw generic('The guest was not given up');
		// Its helper knows nothing of a guest that the firmware sent.
		if (!this.#commitAsked) throw generic('The guest was given up without its helper: no proof brings it back');
		host.helper.revive(token);
		host.handedOver = false;
		this.#ended = undefined;
		this.#outgoing = undefined;
		this.#goOn(this.#before);
	}

	#goOn(before: RunState): void {
		if (before === 'running') this.#host.resume();
		else this.#host.runState.to(before);
	}

	/** Always succeeds, as in QEMU; without effect when there is nothing to cancel or it is too late. */
	cancel(): void {
		this.#outgoing?.cancel();
	}

	/** The process ends: nothing is waited for. */
	drop(): void {
		this.#outgoing?.drop();
	}

	async #run(address: Address, transport: PageTransport<PageSealer, PageHelper>): Promise<void> {
		const host = this.#host;
		const { machine, settings, options } = host;
		const before: RunState = host.runState.state;
		// A confidential guest has one run only: between hosts of this model it always moves with a commit.
		const handover = machine.sev !== undefined || settings.has(HANDOVER);
		const { helper } = transport;
		const dialect = helper ? options.helperDialect : machine.sev ? 'sev-v4' : 'qemu-7.2';
		this.#before = before;
		this.#commitAsked = false;
		const outgoing = new Outgoing({
			address,
			handover,
			returnPath: settings.has('return-path'),
			source: pageSource(handover ? machine : withoutModelFirmware(host), transport),
			vm: {
				stop: () => host.pause('finish-migrate'),
				devices: () => saveSections(host, before, handover, helper !== undefined && dialect === 'mh-v1'),
			},
			dialect,
			machineType: options.machine,
			parameters: settings.parameters,
			// The SEV trees raise the limit to a second behind the user's back; a limit that was set is a limit here.
			downtimeBump: false,
			commit: () => {
				// A helper that commits by itself has its own moment for it.
				if (helper?.commit) return;
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
			this.#conclude(result, before, outgoing, helper);
		} catch (error) {
			this.#end({ status: 'failed', 'error-desc': (error as Error).message });
		}
	}

	#conclude(result: OutgoingResult, before: RunState, outgoing: Outgoing, helper: PageHelper | undefined): void {
		const host = this.#host;
		const { sev } = host.machine;
		if (result.status === 'completed') {
			host.runState.to('postmigrate');
			this.#end({ ...outgoing.precopy?.statistics.info(), status: 'completed' });
			return;
		}
		// The target's helper may have proved that it gave the guest up in its turn; and ours may have, with its word lost on the way.
		if (helper?.commit && result.status === 'failed') {
			host.handedOver = !result.mayResume || (this.#commitAsked && (host.helper?.gaveUp?.() ?? false));
		}
		if (result.status === 'failed' && (!result.mayResume || host.handedOver)) {
			host.runState.to('postmigrate');
			const back = this.#commitAsked ? ', unless x-migration-revive gets the x-migration-token of its target' : '';
			const reason = `${told(result.error)}; the guest was handed over and must not run here again${back}`;
			this.#end({ status: 'failed', 'error-desc': reason });
			return;
		}
		sev?.cancelSend();
		if (host.runState.state === 'finish-migrate') this.#goOn(before);
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

/** With a helper the stream still carries the host's list of shared ranges, at the end of RAM as in the SEV series. */
const listOnly = ({ shared }: GuestPages): PageSealer => ({
	headerLength: 0,
	start: unused,
	seal: unused,
	sharedRegions: () => shared.ranges,
});

function unused(): never {
	throw new Error('page: expected one for the helper, got one for the firmware');
}

/** For a QEMU: the model's own firmware image stays behind, since a PC there has its own, of another size. */
function withoutModelFirmware({ machine, options }: HostContext): GuestPages {
	if (options.bios !== undefined) return machine;
	const kept = machine.blocks.flatMap((block, index) => (block.idstr === 'pc.bios' ? [] : [index]));
	const pick = <T>(list: readonly T[]): T[] => list.filter((_, index) => kept.includes(index));
	return { ...machine, blocks: pick(machine.blocks), touched: pick(machine.touched) };
}
