import { PAGE_SIZE } from '@cvm/layout';
import { ReturnMessage } from '../abi/return-path.js';
import type { StreamFault } from '../error.js';
import { StreamError } from '../error.js';
import type { ByteRange, Place } from '../events.js';
import { encodeReturn } from '../handover/return-message.js';
import type { PostcopyMemory, RamBlock } from '../ports.js';
import { HostPageAssembly } from './assembly.js';
import { hostPageSize, pageSizeSummary } from './host-page.js';
import { ReceivedPages } from './received.js';

/** What puts pages into postcopy memory. One for each connection, which may be in the middle of a host page. */
export interface PostcopyPages {
	/** Pages go through {@link PostcopyMemory} from now on. */
	readonly listening: boolean;
	readonly received: ReceivedPages;
	/** A page in the clear; undefined: of zeros. It is placed when its host page is complete. */
	page(block: number, address: number, bytes: Uint8Array | undefined, at: Place): void;
	/** A page for the in-guest helper. */
	sealed(block: number, address: number, header: Uint8Array, bytes: Uint8Array, at: Place): void;
}

/**
 * The target's half of postcopy: which pages are here, which the guest waits for, and putting host pages into a running guest
 * whole. QEMU 7.2 migration/postcopy-ram.c, migration/ram.c `ram_load_postcopy`, migration/savevm.c.
 */
export class PostcopyTarget implements PostcopyPages {
	listening = false;
	/** Requests sent, repeats included. */
	requests = 0;
	readonly received: ReceivedPages;
	readonly #blocks: readonly RamBlock[];
	readonly #memory: PostcopyMemory;
	readonly #send: (message: Uint8Array) => void;
	readonly #assembly: HostPageAssembly;
	/** Host pages asked for and not yet here: block, and address of the host page. */
	readonly #waiting = new Map<string, { readonly block: number; readonly address: number }>();
	/** Block that the last request of this connection named. */
	#named = -1;
	/** Whether the source takes requests; otherwise they are made when it does again. */
	#connected = true;

	constructor(blocks: readonly RamBlock[], memory: PostcopyMemory, send: (message: Uint8Array) => void) {
		this.#blocks = blocks;
		this.#memory = memory;
		this.#send = send;
		this.received = new ReceivedPages(blocks);
		this.#assembly = new HostPageAssembly(blocks);
	}

	/** What is wrong with POSTCOPY_ADVISE, besides its form. */
	advised(pageSizes: bigint | undefined): StreamFault | undefined {
		if (pageSizes === undefined) {
			return fault('POSTCOPY_ADVISE: expected 16 bytes, got 0', 'RAM postcopy is enabled but have 0 byte advise');
		}
		const here = pageSizeSummary(this.#blocks);
		if (here === pageSizes) return undefined;
		const [s, d] = [pageSizes.toString(16), here.toString(16)];
		const message = `POSTCOPY_ADVISE: expected host pages of 0x${d} bytes, got 0x${s}`;
		const qemu = `Postcopy needs matching RAM page sizes (s=${s} d=${d})`;
		return { ...fault(message, qemu), strerror: 'Operation not permitted' };
	}

	/** @throws StreamError if a range is not whole host pages of a local block */
	discard(name: string, ranges: readonly ByteRange[], at: Place): void {
		const index = this.#blocks.findIndex(({ idstr }) => idstr === name);
		const block = this.#blocks[index];
		if (block === undefined) {
			const qemu = `ram_discard_range: Failed to find block '${name}'`;
			throw new StreamError(fault(`RAM_DISCARD: expected a local block, got '${name}'`, qemu), at);
		}
		for (const { start, length } of ranges) {
			checkRange(block, start, length, at);
			this.received.clear(index, Number(start), Number(length));
			this.#memory.discard(index, Number(start), Number(length));
		}
	}

	listen(): void {
		this.listening = true;
		this.#memory.watch();
	}

	page(block: number, address: number, bytes: Uint8Array | undefined, at: Place): void {
		this.#page(this.#assembly, block, address, bytes, at);
	}

	/** The same for one more connection, as long as that lasts. */
	connection(): PostcopyPages {
		const target = this;
		const assembly = new HostPageAssembly(this.#blocks);
		return {
			get listening() {
				return target.listening;
			},
			received: this.received,
			page: (block, address, bytes, at) => this.#page(assembly, block, address, bytes, at),
			sealed: (block, address, header, bytes, at) => this.sealed(block, address, header, bytes, at),
		};
	}

	#page(assembly: HostPageAssembly, block: number, address: number, bytes: Uint8Array | undefined, at: Place): void {
		const whole = assembly.add(block, address, bytes, at);
		if (whole === undefined) return;
		if (whole.bytes === undefined) this.#memory.placeZero(block, whole.address);
		else this.#memory.place(block, whole.address, whole.bytes);
		this.#arrived(block, whole.address);
	}

	sealed(block: number, address: number, header: Uint8Array, bytes: Uint8Array, at: Place): void {
		const info = this.#blocks[block];
		if (info === undefined || hostPageSize(info) !== PAGE_SIZE || this.#memory.placeSealed === undefined) {
			const message =
				'migration-helper page: expected it on a host that places such pages of 4096 bytes, got it elsewhere';
			throw new StreamError({ code: 'unsupported', message }, at);
		}
		this.#memory.placeSealed(block, address, header, bytes);
		this.#arrived(block, address);
	}

	/** The guest waits for a page. False: it is here already, or nothing is ever missing. Asks the source once. */
	fault(block: number, page: number): boolean {
		const info = this.#blocks[block];
		if (!this.listening || info === undefined || this.received.has(block, page)) return false;
		const size = hostPageSize(info);
		const address = page * PAGE_SIZE - ((page * PAGE_SIZE) % size);
		const key = `${block}/${address}`;
		if (this.#waiting.has(key)) return true;
		this.#waiting.set(key, { block, address });
		if (this.#connected) this.#request(block, address);
		return true;
	}

	/** The connection is gone: half a host page is none. */
	paused(): void {
		this.#assembly.reset();
		this.#connected = false;
	}

	/** Asks again for everything that is still missing. QEMU 7.2 migration/savevm.c `loadvm_postcopy_handle_resume`. */
	resumed(): void {
		this.#connected = true;
		this.#named = -1;
		for (const { block, address } of this.#waiting.values()) this.#request(block, address);
	}

	/** Answers RECV_BITMAP. @throws StreamError if there is no such block */
	sendBitmap(name: string, at: Place): void {
		const index = this.#blocks.findIndex(({ idstr }) => idstr === name);
		if (index < 0) {
			const qemu = `loadvm_handle_recv_bitmap: block '${name}' not found`;
			throw new StreamError(fault(`RECV_BITMAP: expected a local block, got '${name}'`, qemu), at);
		}
		this.#send(encodeReturn({ type: ReturnMessage.recvBitmap, block: name, bitmap: this.received.bitmap(index) }));
	}

	#arrived(block: number, address: number): void {
		const info = this.#blocks[block];
		if (info === undefined) return;
		this.received.set(block, address, hostPageSize(info));
		this.#waiting.delete(`${block}/${address}`);
	}

	#request(block: number, address: number): void {
		const info = this.#blocks[block];
		if (info === undefined) return;
		this.requests++;
		const [start, length] = [BigInt(address), hostPageSize(info)];
		if (block === this.#named) this.#send(encodeReturn({ type: ReturnMessage.reqPages, start, length }));
		else this.#send(encodeReturn({ type: ReturnMessage.reqPagesId, start, length, block: info.idstr }));
		this.#named = block;
	}
}

/** QEMU 7.2 softmmu/physmem.c `ram_block_discard_range`. */
function checkRange(block: RamBlock, start: bigint, length: bigint, at: Place): void {
	const size = BigInt(hostPageSize(block));
	const name = 'ram_block_discard_range';
	const text = `0x${start.toString(16)} and 0x${length.toString(16)} bytes`;
	if (start % size !== 0n || length % size !== 0n) {
		const message = `RAM_DISCARD: expected whole host pages of ${size} bytes in '${block.idstr}', got ${text}`;
		// For the start QEMU prints a pointer.
		const qemu = start % size === 0n ? [`${name}: Unaligned length: ${length.toString(16)}`] : [];
		throw new StreamError({ code: 'command', message, qemu }, at);
	}
	const used = BigInt(block.usedLength);
	if (start + length <= used) return;
	const message = `RAM_DISCARD: expected bytes below 0x${used.toString(16)} of '${block.idstr}', got ${text}`;
	const where = `(${start}/${length.toString(16)}/${used.toString(16)})`;
	throw new StreamError(fault(message, `${name}: Overrun block '${block.idstr}' ${where}`), at);
}

const fault = (message: string, qemu: string): StreamFault => ({ code: 'command', message, qemu: [qemu] });
