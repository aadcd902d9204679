import { PAGE_SIZE } from '@cvm/layout';
import type { BodyType } from '../abi/stream.js';
import {
	BitmapWord,
	Command,
	EncryptedSubtype,
	RamFlag,
	RegionListWord,
	SectionType,
	STREAM_MAGIC,
	STREAM_VERSION,
	XBZRLE_ENCODING,
} from '../abi/stream.js';
import { encodeCommand } from '../command.js';
import type {
	BitmapSlot,
	ByteRange,
	Configuration,
	HostRegionList,
	PageEncoding,
	SectionInfo,
	StreamBlock,
} from '../events.js';
import { nameToBytes } from '../latin1.js';
import type { ByteSink, SessionPrefix, SharedRegion } from '../ports.js';
import { ChunkQueue } from './chunks.js';
import type { SealedBatch } from './sealed-batch.js';

/**
 * Writes a migration stream element by element, in the order the caller gives; it knows the format, not the protocol.
 * Methods copy what they are given, except {@link StreamWriter.sealedBatch}. Call `ready()` at least every 256 KiB so
 * that memory stays bounded, and `flush()` where the peer must see everything.
 *
 * RAM records set CONTINUE iff their block is the last one named, over the whole stream, as QEMU does; a `continued`
 * argument overrides that, to reproduce what another sender chose.
 */
export class StreamWriter {
	readonly #out: ChunkQueue;
	#lastBlock: string | undefined;

	constructor(sink: ByteSink) {
		this.#out = new ChunkQueue(sink);
	}

	/** Stream offset of the next byte. */
	get position(): number {
		return this.#out.position;
	}

	/** The block that the next record may CONTINUE. */
	get block(): string | undefined {
		return this.#lastBlock;
	}

	/** Resolves when the sink can take more; undefined if it can now. @throws what the sink threw */
	ready(): Promise<void> | undefined {
		return this.#out.ready();
	}

	/** Resolves when the sink has taken everything. @throws what the sink threw */
	flush(): Promise<void> {
		return this.#out.flush();
	}

	header(version: number = STREAM_VERSION): void {
		this.#out.u32(STREAM_MAGIC);
		this.#out.u32(version);
	}

	configuration(configuration: Configuration): void {
		const machineType = nameToBytes(configuration.machineType);
		this.#out.u8(SectionType.configuration);
		this.#out.u32(machineType.length);
		this.#out.append(machineType);
		for (const { name, version, data } of configuration.subsections) {
			this.#out.u8(SectionType.subsection);
			this.#out.cstr8(name);
			this.#out.u32(version);
			this.#out.append(data);
		}
	}

	command(command: number, data: Uint8Array): void {
		this.#out.u8(SectionType.command);
		this.#out.u16(command);
		this.#out.u16(data.length);
		this.#out.append(data);
	}

	/** Command PACKAGED: the caller writes `length` bytes of elements next. */
	packaged(length: number): void {
		this.command(Command.packaged, encodeCommand({ command: Command.packaged, length }));
	}

	/** Command POSTCOPY_RAM_DISCARD; QEMU puts at most 12 ranges into one. */
	ramDiscard(block: string, ranges: readonly ByteRange[]): void {
		const command = Command.postcopyRamDiscard;
		this.command(command, encodeCommand({ command, block, ranges }));
	}

	/** Header of a section; PART and END carry only the id. */
	sectionBegin(section: SectionInfo): void {
		this.#out.u8(section.type);
		this.#out.u32(section.id);
		if (!introduces(section.type)) return;
		this.#out.cstr8(section.idstr);
		this.#out.u32(section.instanceId);
		this.#out.u32(section.version);
	}

	sectionEnd(section: SectionInfo): void {
		this.#out.u8(SectionType.footer);
		this.#out.u32(section.id);
	}

	opaqueBody(body: Uint8Array): void {
		this.#out.append(body);
	}

	/** MEM_SIZE record; its total is the sum of the lengths. */
	blockList(blocks: readonly StreamBlock[], continued = false): void {
		const total = blocks.reduce((sum, { usedLength }) => sum + usedLength, 0);
		this.#word(total, RamFlag.memSize | (continued ? RamFlag.continue : 0));
		for (const block of blocks) this.#blockEntry(block);
	}

	/** MEM_SIZE record of a mapped-ram file; blocks with their pages follow, `total` bytes in all. */
	mappedListBegin(total: number, continued = false): void {
		this.#word(total, RamFlag.memSize | (continued ? RamFlag.continue : 0));
	}

	/**
	 * Entry of a mapped-ram block list, with its `mapped` header and bitmap. The caller keeps to the offsets it names: next
	 * come `mappedGap` up to `pagesOffset` and then every page.
	 */
	mappedBlock(block: StreamBlock, bitmap: Uint8Array): void {
		this.#blockEntry(block);
		this.#out.append(bitmap);
	}

	mappedGap(data: Uint8Array): void {
		this.#out.append(data);
	}

	/** The next 4096 bytes of a mapped-ram block. */
	mappedPage(page: Uint8Array): void {
		checkPage(page);
		this.#out.append(page);
	}

	#blockEntry({ idstr, usedLength, pageSize, address, mapped }: StreamBlock): void {
		this.#out.cstr8(idstr);
		this.#out.u64(BigInt(usedLength));
		if (pageSize !== undefined) this.#out.u64(BigInt(pageSize));
		if (address !== undefined) this.#out.u64(address);
		if (mapped === undefined) return;
		this.#out.u32(mapped.version);
		this.#out.u64(mapped.pageSize);
		this.#out.u64(mapped.bitmapOffset);
		this.#out.u64(mapped.pagesOffset);
	}

	/** PAGE record of 4096 bytes; `address` is the byte offset inside the block. */
	rawPage(block: string, address: number, page: Uint8Array, continued?: boolean): void {
		checkPage(page);
		this.#record(block, address, RamFlag.page, continued);
		this.#out.append(page);
	}

	/** ZERO record. */
	zeroPage(block: string, address: number, fill: number, continued?: boolean): void {
		this.#record(block, address, RamFlag.zero, continued);
		this.#out.u8(fill);
	}

	/** XBZRLE or COMPRESS_PAGE record of data that are encoded already. */
	encodedPage(kind: PageEncoding, block: string, address: number, data: Uint8Array, continued?: boolean): void {
		if (kind === 'xbzrle') {
			this.#record(block, address, RamFlag.xbzrle, continued);
			this.#out.u8(XBZRLE_ENCODING);
			this.#out.u16(data.length);
		} else {
			this.#record(block, address, RamFlag.compressPage, continued);
			this.#out.u32(data.length);
		}
		this.#out.append(data);
	}

	/** MULTIFD_FLUSH record. Only dialect `qemu-9` has it. */
	multifdFlush(address = 0, continued = false): void {
		this.#word(address, RamFlag.multifdFlush | (continued ? RamFlag.continue : 0));
	}

	/** Page of the in-guest helper; without `subtype`, as dialect `mh-v1` has it. */
	migrationHelperPage(
		block: string,
		address: number,
		header: Uint8Array,
		page: Uint8Array,
		subtype: 4 | undefined,
		continued?: boolean,
	): void {
		checkPage(page);
		this.#record(block, address, RamFlag.encryptedData, continued);
		if (subtype !== undefined) this.#out.u32(subtype);
		this.#blob(header);
		this.#blob(page);
	}

	/** Encrypted-data record, subtype 2, of dialect `sev-v1`. */
	encryptedBitmap(block: string, address: number, slots: readonly BitmapSlot[], continued?: boolean): void {
		this.#record(block, address, RamFlag.encryptedData, continued);
		this.#out.u32(EncryptedSubtype.sharedRegions);
		for (const { word, startGpa, pages, bitmap } of slots) {
			this.#out.u32(word);
			this.#out.u64(startGpa);
			this.#out.u64(pages);
			this.#out.u64(BigInt(bitmap.length));
			this.#out.append(bitmap);
		}
		this.#out.u32(BitmapWord.end);
	}

	/** Encrypted-data record, subtype 2, of dialect `sev-list`. */
	hostRegions(block: string, address: number, list: HostRegionList, continued?: boolean): void {
		this.#record(block, address, RamFlag.encryptedData, continued);
		this.#out.u32(EncryptedSubtype.sharedRegions);
		this.#out.u32(list.start);
		if (list.start !== RegionListWord.entry) return;
		this.#out.u32(list.regions.length);
		const pair = new DataView(new ArrayBuffer(16));
		for (const { gfnStart, gfnEnd } of list.regions) {
			pair.setBigUint64(0, gfnStart, true);
			pair.setBigUint64(8, gfnEnd, true);
			this.#out.append(new Uint8Array(pair.buffer));
		}
		this.#out.u32(list.end ?? RegionListWord.end);
	}

	/** Encrypted-data record, subtype 1; `prefix` goes with the first of the stream only. */
	encryptedPage(
		block: string,
		address: number,
		header: Uint8Array,
		payload: Uint8Array,
		prefix?: SessionPrefix,
		continued?: boolean,
	): void {
		this.#encryptedLead(block, address, prefix, continued);
		this.#blob(header);
		this.#blob(payload);
	}

	/**
	 * A batch of sealed pages of one block, passed to the sink uncopied: the batch's buffer may be reused when the result is
	 * undefined or has resolved. Failures show in `ready` and `flush`.
	 */
	sealedBatch(block: string, batch: SealedBatch, prefix?: SessionPrefix): Promise<void> | undefined {
		const leads = prefix !== undefined || block !== this.#lastBlock;
		if (leads) this.#encryptedLead(block, (batch.pages[0] ?? 0) * PAGE_SIZE, prefix, undefined);
		return this.#out.pass(batch.wire(leads));
	}

	/** Encrypted-data record, subtype 2. */
	sharedRegions(
		block: string,
		address: number,
		regions: readonly SharedRegion[],
		terminator: number = RegionListWord.end,
		continued?: boolean,
	): void {
		this.#record(block, address, RamFlag.encryptedData, continued);
		this.#out.u32(EncryptedSubtype.sharedRegions);
		for (const { gfnStart, gfnEnd } of regions) {
			this.#out.u32(RegionListWord.entry);
			this.#out.u32(gfnStart);
			this.#out.u32(gfnEnd);
		}
		this.#out.u32(terminator);
	}

	/** EOS record. */
	endOfRecords(address = 0, continued = false): void {
		this.#word(address, RamFlag.endOfSection | (continued ? RamFlag.continue : 0));
	}

	eof(): void {
		this.#out.u8(SectionType.eof);
	}

	vmDescription(json: Uint8Array): void {
		this.#out.u8(SectionType.vmDescription);
		this.#out.u32(json.length);
		this.#out.append(json);
	}

	/** Bytes after the end. */
	trailing(data: Uint8Array): void {
		this.#out.append(data);
	}

	#encryptedLead(
		block: string,
		address: number,
		prefix: SessionPrefix | undefined,
		continued: boolean | undefined,
	): void {
		this.#record(block, address, RamFlag.encryptedData, continued);
		this.#out.u32(EncryptedSubtype.page);
		if (prefix === undefined) return;
		this.#out.u32(prefix.policy);
		this.#blob(prefix.pdh);
		this.#blob(prefix.session);
	}

	#record(block: string, address: number, flag: number, continued = block === this.#lastBlock): void {
		this.#word(address, continued ? flag | RamFlag.continue : flag);
		if (continued) return;
		this.#out.cstr8(block);
		this.#lastBlock = block;
	}

	#word(address: number, flags: number): void {
		this.#out.u32(Math.floor(address / 0x100000000));
		this.#out.u32((address | flags) >>> 0);
	}

	#blob(data: Uint8Array): void {
		this.#out.u32(data.length);
		this.#out.append(data);
	}
}

const introduces = (type: BodyType): boolean => type === SectionType.start || type === SectionType.full;

function checkPage(page: Uint8Array): void {
	if (page.length !== PAGE_SIZE) throw new RangeError(`page: expected ${PAGE_SIZE} bytes, got ${page.length}`);
}
