import type { HostMapping, SevResult, Vm } from '@cvm/kvm';
import type { PageOpener, PageSealer, SharedRegion } from '@cvm/qemu-mig';
import { Status, statusText } from '@cvm/sev-hw/abi';
import { type GuestPages, type MappedBlock, PageAddresses, SevCommandError } from './pages.js';

/** QEMU's names for what it is doing with a confidential guest (qapi/misc-target.json, SevState). */
export type SevState = 'uninit' | 'launch-update' | 'launch-secret' | 'running' | 'send-update' | 'receive-update';

const EIO = 5;

/** QEMU's text for a refused command. */
function check(command: string, result: SevResult): void {
	if (result.ret === 0) return;
	const text = result.ret === -EIO ? ` '${statusText(result.error as Status)}'` : '';
	throw new SevCommandError(`${command} ret=${result.ret} fw_error=${result.error}${text}`);
}

/** The certificates of a migration's target, as the parameters `sev-pdh`, `sev-plat-cert` and `sev-amd-cert` bring them. */
export interface TargetCertificates {
	readonly pdh: Uint8Array;
	readonly platform: Uint8Array;
	readonly amd: Uint8Array;
}

/** The VMM's half of one SEV guest: which command comes when. */
export class SevGuest {
	readonly policy: number;
	#vm: Vm;
	#state: SevState = 'uninit';
	#measurement: Uint8Array | undefined;
	#handle = 0;

	constructor(vm: Vm, policy: number) {
		this.#vm = vm;
		this.policy = policy;
	}

	get state(): SevState {
		return this.#state;
	}

	get handle(): number {
		return this.#handle;
	}

	/** Measure and nonce, 48 bytes, once the launch was measured. */
	get measurement(): Uint8Array | undefined {
		return this.#measurement;
	}

	/** KVM_SEV_INIT, and the pinning of all guest memory. */
	init(blocks: readonly MappedBlock[]): void {
		check('KVM_SEV_INIT', this.#vm.sev.init());
		for (const { idstr, mapping, usedLength } of blocks) {
			const ret = this.#vm.memoryEncryptRegisterRegion({ addr: mapping.hva, size: usedLength });
			if (ret !== 0) throw new SevCommandError(`failed to register region ${idstr} ret=${ret}`);
		}
	}

	/** LAUNCH_START, then LAUNCH_UPDATE_DATA over each block given, then LAUNCH_MEASURE. */
	launch(owner: { dhCert: Uint8Array; session: Uint8Array } | undefined, measured: readonly MappedBlock[]): void {
		const started = this.#vm.sev.launchStart({ policy: this.policy, ...owner });
		check('LAUNCH_START', started);
		this.#state = 'launch-update';
		for (const block of measured) {
			check('LAUNCH_UPDATE_DATA', this.#vm.sev.launchUpdateData({ uaddr: block.mapping.hva, len: block.usedLength }));
		}
		const result = this.#vm.sev.launchMeasure();
		check('LAUNCH_MEASURE', result);
		this.#measurement = result.measurement;
		this.#state = 'launch-secret';
		this.#readHandle();
	}

	/** LAUNCH_SECRET: puts what the guest owner sealed into guest memory. */
	injectSecret(header: Uint8Array, data: Uint8Array, block: MappedBlock, gpa: number): void {
		const guestUaddr = (block.mapping.hva + (gpa - block.gpa)) as MappedBlock['mapping']['hva'];
		check('LAUNCH_SECRET', this.#vm.sev.launchSecret({ header, guestUaddr, data }));
	}

	/** The guest is about to run: ends the launch, or the arrival. */
	beforeRun(): void {
		if (this.#state === 'launch-secret') check('LAUNCH_FINISH', this.#vm.sev.launchFinish());
		else if (this.#state === 'receive-update') check('RECEIVE_FINISH', this.#vm.sev.receiveFinish());
		else return;
		this.#state = 'running';
	}

	/** Ends the migration of a guest that stays: its session keys are wiped. */
	cancelSend(): void {
		if (this.#state !== 'send-update') return;
		check('SEND_CANCEL', this.#vm.sev.sendCancel());
		this.#state = 'running';
	}

	/** Gives the guest up: the firmware never runs it again. */
	finishSend(): void {
		if (this.#state !== 'send-update') return;
		check('SEND_FINISH', this.#vm.sev.sendFinish());
		this.#state = 'running'; // QEMU's variable returns to running; the firmware says SENT, which is for good
	}

	/** How pages leave: sealed by the firmware for the platform that holds the target's PDH. */
	sealer(pages: GuestPages, target: TargetCertificates, ownPdh: Uint8Array): PageSealer {
		const addresses = new PageAddresses();
		return {
			headerLength: 52,
			start: () => {
				const { pdh: pdhCert, platform: platCerts, amd: amdCerts } = target;
				const query = this.#vm.sev.sendStart({ pdhCert, platCerts, amdCerts, sessionLen: 0 });
				const isQuery = query.ret === -EIO && query.error === Status.INVALID_LENGTH;
				if (!isQuery) check('SEND_START', query);
				const started = this.#vm.sev.sendStart({ pdhCert, platCerts, amdCerts, sessionLen: query.sessionLen });
				check('SEND_START', started);
				this.#state = 'send-update';
				return { policy: started.policy, pdh: ownPdh, session: started.session };
			},
			seal: (index, numbers, count, out, at) => {
				const block = pages.blocks[index];
				if (!block) throw new RangeError(`no RAM block ${index}`);
				const layout = { headerAt: at.header, payloadAt: at.payload, stride: at.stride };
				check(
					'SEND_UPDATE_DATA',
					this.#vm.sev.sendUpdateDataBatch(addresses.of(block, numbers, count), count, out, layout),
				);
			},
			sharedRegions: () => pages.shared.ranges,
		};
	}

	/** How pages arrive. */
	opener(pages: GuestPages, arrived: (list: readonly SharedRegion[]) => void): PageOpener {
		const addresses = new PageAddresses();
		return {
			start: ({ policy, pdh, session }) => {
				if (policy !== this.policy) {
					throw new SevCommandError(
						`RECEIVE_START: guest policy of the stream is 0x${policy.toString(16)} and local is 0x${this.policy.toString(16)}`,
					);
				}
				check('RECEIVE_START', this.#vm.sev.receiveStart({ policy, pdhCert: pdh.slice(), session: session.slice() }));
				this.#state = 'receive-update';
				this.#readHandle();
			},
			open: (index, numbers, count, input, at) => {
				const block = pages.blocks[index];
				if (!block) throw new RangeError(`no RAM block ${index}`);
				const layout = { headerAt: at.header, payloadAt: at.payload, stride: at.stride };
				const batch = addresses.of(block, numbers, count);
				check('RECEIVE_UPDATE_DATA', this.#vm.sev.receiveUpdateDataBatch(batch, count, input, layout));
			},
			allocate: (bytes) => pages.allocate(bytes),
			sharedRegions: arrived,
		};
	}

	/** Copies private memory in the clear to `to`, which the guest's policy must allow. */
	debugDecrypt(block: MappedBlock, offset: number, length: number, to: HostMapping): void {
		const src = (block.mapping.hva + offset) as HostMapping['hva'];
		check('DBG_DECRYPT', this.#vm.sev.dbgDecrypt({ src, dst: to.hva, len: length }));
	}

	#readHandle(): void {
		const status = this.#vm.sev.guestStatus();
		check('GUEST_STATUS', status);
		this.#handle = status.handle;
	}
}
