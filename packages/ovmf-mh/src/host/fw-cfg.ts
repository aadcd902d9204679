import { layout, u32be, u64be } from '@cvm/layout';
import { FIRST_FILE_KEY, FwCfgKey, FwCfgPort } from '../fw-cfg-abi.js';

/** Bits of a selector that name an item; bit 14 says "write", bit 15 "local to the architecture". */
const KEY_MASK = 0x3fff;
const ARCHITECTURE_LOCAL = 0x8000;
const MAX_NAME = 55;
const DIRECTORY_ENTRY = 64;

/** Guest memory as the device reaches it by DMA. A range that is not all RAM is refused and left as it was. */
export interface DmaMemory {
	read(gpa: number, out: Uint8Array): boolean;
	write(gpa: number, data: Uint8Array): boolean;
}

/** What the device tells the guest. */
export interface FwCfgOptions {
	/** Named files. `-fw_cfg name=N,string=S` gives S without a terminating NUL. */
	readonly files: { readonly [name: string]: Uint8Array };
	readonly ramBytes: number;
	readonly bootCpus: number;
	/** One more than the highest APIC id, whatever its name says. Default: `bootCpus`. */
	readonly maxCpus?: number;
	/** 16 bytes in the order of the text form; zero by default. */
	readonly uuid?: Uint8Array;
	/** Without it the device offers no DMA: id bit 1 is clear and the DMA ports read as all ones. */
	readonly memory?: DmaMemory;
}

/** The device: a state machine behind its ports. Nothing but the guest's accesses changes it. */
export interface FwCfgDevice {
	/** An OUT of `size` bytes. Accesses that the device does not define are ignored. */
	ioWrite(port: number, size: number, value: number): void;
	/** An IN of `size` bytes. Accesses that the device does not define give 0, ports it does not have all ones. */
	ioRead(port: number, size: number): number;
	/** Whether a port belongs to the device. */
	owns(port: number): boolean;
}

const dmaAccess = layout('FWCfgDmaAccess', 16, { control: u32be(0), length: u32be(4), address: u64be(8) });
const DmaControl = { error: 1, read: 2, skip: 4, select: 8, write: 16 } as const;
/** Read as one big-endian 64-bit word at 0x514. */
const DMA_SIGNATURE = [0x51, 0x45, 0x4d, 0x55, 0x20, 0x43, 0x46, 0x47];

const ascii = (text: string) => Uint8Array.from(text, (c) => c.charCodeAt(0));
function littleEndian(value: number, size: number): Uint8Array {
	const out = new Uint8Array(size);
	for (let i = 0, rest = value; i < size; i++, rest = Math.floor(rest / 256)) out[i] = rest % 256;
	return out;
}

/** The directory: entries sorted by name, selectors given in that order. */
function directoryOf(names: readonly string[], files: FwCfgOptions['files']): Uint8Array {
	const out = new Uint8Array(4 + names.length * DIRECTORY_ENTRY);
	const view = new DataView(out.buffer);
	view.setUint32(0, names.length);
	names.forEach((name, i) => {
		if (!/^[\x21-\x7e]+$/.test(name) || name.length > MAX_NAME) {
			throw new RangeError(
				`fw_cfg file name: expected 1 to ${MAX_NAME} printable characters, got ${JSON.stringify(name)}`,
			);
		}
		const at = 4 + i * DIRECTORY_ENTRY;
		view.setUint32(at, files[name]?.length ?? 0);
		view.setUint16(at + 4, FIRST_FILE_KEY + i);
		out.set(ascii(name), at + 8);
	});
	return out;
}

function itemsOf({
	files,
	ramBytes,
	bootCpus,
	maxCpus = bootCpus,
	uuid,
	memory,
}: FwCfgOptions): Map<number, Uint8Array> {
	const names = Object.keys(files).sort((a, b) => (a < b ? -1 : 1));
	const items = new Map<number, Uint8Array>([
		[FwCfgKey.signature, ascii('QEMU')],
		[FwCfgKey.id, littleEndian(memory ? 3 : 1, 4)],
		[FwCfgKey.uuid, uuid ?? new Uint8Array(16)],
		[FwCfgKey.ramSize, littleEndian(ramBytes, 8)],
		[FwCfgKey.bootCpus, littleEndian(bootCpus, 2)],
		[FwCfgKey.maxCpus, littleEndian(maxCpus, 2)],
		[FwCfgKey.directory, directoryOf(names, files)],
	]);
	names.forEach((name, i) => {
		items.set(FIRST_FILE_KEY + i, files[name]?.slice() ?? new Uint8Array(0));
	});
	return items;
}

/**
 * A fw_cfg device with read-only items (qemu 7.2 hw/nvram/fw_cfg.c).
 *
 * @throws RangeError if a file name is empty, longer than 55 characters or not printable ASCII
 */
export function createFwCfgDevice(options: FwCfgOptions): FwCfgDevice {
	const items = itemsOf(options);
	const { memory } = options;
	let key = 0;
	let offset = 0;
	let dmaAddress = 0n;

	const select = (value: number) => {
		key = value;
		offset = 0;
	};
	const current = () => (key & ARCHITECTURE_LOCAL ? undefined : items.get(key & KEY_MASK));
	const nextByte = () => current()?.[offset++] ?? 0;

	/** Moves `length` bytes; returns whether every one had a place. */
	const transfer = (memory: DmaMemory, mode: 'read' | 'write' | 'skip', length: number, address: number): boolean => {
		const item = current();
		const left = Math.max(0, Math.min(length, (item?.length ?? 0) - offset));
		const from = offset;
		offset += left;
		// All items are read-only. The offset moves all the same, as in QEMU.
		if (mode === 'write') return length === 0;
		if (mode === 'skip' || !item) return mode === 'skip' || zero(memory, address, length);
		return memory.write(address, item.subarray(from, from + left)) && zero(memory, address + left, length - left);
	};
	// In pieces: the guest chooses the length.
	const zeros = new Uint8Array(4096);
	const zero = (memory: DmaMemory, address: number, length: number): boolean => {
		for (let done = 0; done < length; done += zeros.length) {
			if (!memory.write(address + done, zeros.subarray(0, Math.min(zeros.length, length - done)))) return false;
		}
		return true;
	};

	const startDma = (memory: DmaMemory) => {
		const at = Number(dmaAddress);
		dmaAddress = 0n;
		const descriptor = new Uint8Array(dmaAccess.size);
		const answer = (control: number) => memory.write(at, dmaAccess.encode({ control }).subarray(0, 4));
		if (!memory.read(at, descriptor)) {
			answer(DmaControl.error);
			return;
		}
		const { control, length, address } = dmaAccess.decode(descriptor);
		if (control & DmaControl.select) select(control >>> 16);
		const mode =
			control & DmaControl.read
				? 'read'
				: control & DmaControl.write
					? 'write'
					: control & DmaControl.skip
						? 'skip'
						: undefined;
		const done = mode === undefined || transfer(memory, mode, length, Number(address));
		answer(done ? 0 : DmaControl.error);
	};

	const owns = (port: number) =>
		port === FwCfgPort.selector || port === FwCfgPort.data || (memory !== undefined && port >= 0x514 && port <= 0x51b);

	return {
		owns,
		ioWrite: (port, size, value) => {
			if (port === FwCfgPort.selector && size === 2) select(value & 0xffff);
			if (!memory || size !== 4) return;
			// The register is big-endian, the port little-endian: the bytes arrive swapped.
			const swapped = BigInt(new DataView(littleEndian(value, 4).buffer).getUint32(0));
			if (port === FwCfgPort.dmaHigh) dmaAddress = swapped << 32n;
			if (port === FwCfgPort.dmaLow) {
				dmaAddress |= swapped;
				startDma(memory);
			}
		},
		ioRead: (port, size) => {
			if (!owns(port)) return 2 ** (8 * size) - 1;
			if (port <= FwCfgPort.data) return size === 1 ? nextByte() : 0;
			let value = 0;
			for (let i = 0; i < size; i++) value = value * 256 + (DMA_SIGNATURE[port - FwCfgPort.dmaHigh + i] ?? 0);
			return new DataView(littleEndian(value, 4).buffer).getUint32(0) >>> (32 - 8 * size);
		},
	};
}
