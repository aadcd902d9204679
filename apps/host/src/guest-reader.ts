import { createHash, type Hash } from 'node:crypto';
import type { HostMapping } from '@cvm/kvm';
import { PAGE_SIZE } from '@cvm/layout';
import { helperRanges } from '@cvm/ovmf-mh/host';
import type { MappedBlock } from './pages.js';
import type { GuestDigest } from './qmp-schema.js';
import type { VirtualMachine } from './virtual-machine.js';

/** Pages read by one command. */
const BATCH = 64;
/** Where a saved vCPU's register file ends; the kvm_run page after it is the host's, not the guest's. */
const REGISTER_BYTES = 256;

/**
 * Guest memory in the clear: private pages through DBG_DECRYPT, which the firmware refuses unless the guest's policy allows
 * it, shared ones as they are.
 */
export class GuestReader {
	readonly #machine: VirtualMachine;
	readonly #bounce: HostMapping;

	constructor(machine: VirtualMachine) {
		this.#machine = machine;
		this.#bounce = machine.kvm.memory.mmap(BATCH * PAGE_SIZE);
	}

	/**
	 * Hands out a block's bytes in order; each piece is valid during the call. What is a migration helper's own reads as zeros where
	 * there is one: it does not move, and differs from machine to machine. @throws SevCommandError
	 */
	read(block: MappedBlock, take: (piece: Uint8Array) => void): void {
		const pages = block.usedLength / PAGE_SIZE;
		const first = block.gpa / PAGE_SIZE;
		const { confidential, shared, sev, mirror } = this.#machine;
		const own = (mirror ? helperRanges() : []).map(({ start, end }) => ({
			start: start / PAGE_SIZE - first,
			end: end / PAGE_SIZE - first,
		}));
		const kindOf = (page: number): 'own' | 'private' | 'plain' => {
			if (own.some(({ start, end }) => page >= start && page < end)) return 'own';
			return confidential && !shared.has(first + page) ? 'private' : 'plain';
		};
		for (let page = 0; page < pages; ) {
			const kind = kindOf(page);
			let end = page + 1;
			while (end < pages && end - page < BATCH && kindOf(end) === kind) end++;
			const bytes = (end - page) * PAGE_SIZE;
			if (kind === 'own') take(new Uint8Array(bytes));
			else if (kind === 'private' && sev) {
				sev.debugDecrypt(block, page * PAGE_SIZE, bytes, this.#bounce);
				take(this.#bounce.bytes.subarray(0, bytes));
			} else take(block.mapping.bytes.subarray(page * PAGE_SIZE, end * PAGE_SIZE));
			page = end;
		}
	}

	/** A digest of everything that a migration must preserve. The vCPUs must be stopped. */
	digest(migrationMsr: number, saved: readonly Uint8Array[]): GuestDigest {
		const { blocks, shared } = this.#machine;
		try {
			return {
				blocks: blocks.map((block) => {
					const hash: Hash = createHash('sha256');
					this.read(block, (piece) => hash.update(piece));
					return { idstr: block.idstr, size: block.usedLength, sha256: hash.digest('hex') };
				}),
				vcpus: saved
					.reduce((hash, state) => hash.update(state.subarray(0, REGISTER_BYTES)), createHash('sha256'))
					.digest('hex'),
				'shared-regions': shared.ranges.map((r) => [r.gfnStart, r.gfnEnd] as const),
				'migration-msr': migrationMsr,
			};
		} finally {
			this.close();
		}
	}

	/** Wipes and gives back the bounce pages: they held plaintext. */
	close(): void {
		this.#bounce.bytes.fill(0);
		this.#machine.kvm.memory.munmap(this.#bounce);
	}
}
