import { HASH_TABLE_SIZE, type MemoryRange, tableEntryName } from '@cvm/ovmf-mh';
import { hex } from '../stream/text.js';
import type { ImageFacts } from './facts.js';

const MIB = 2 ** 20;
/** QEMU's `max-fw-size` of a PC. */
const FLASH_LIMIT = 8 * MIB;
/** Length of the table's footer: its length and GUID. */
const FOOTER = 18;

/** What a person should know who launches a guest with the image. Nothing of it is an error in the image. */
export function warningsOf(facts: Omit<ImageFacts, 'warnings'>): string[] {
	if (facts.isVariableStore) {
		return ['variables and no code: for the second flash unit, which is neither measured nor encrypted'];
	}
	return [...fileWarnings(facts), ...tableWarnings(facts), ...areaWarnings(facts), ...migrationWarnings(facts)];
}

function* fileWarnings({ size, volumes, vector }: Omit<ImageFacts, 'warnings'>): Generator<string> {
	if (size % 4096 !== 0) yield `${size} bytes: QEMU takes flash in multiples of 4096 only`;
	else if (size % 0x10000 !== 0) yield 'not a multiple of 64 KiB: QEMU takes it as pflash, not with -bios';
	if (size > FLASH_LIMIT) yield `${size} bytes: QEMU takes at most ${FLASH_LIMIT} unless told otherwise`;
	if (vector?.kind === 'erased') yield 'erased flash where a processor starts';
	if (vector?.kind === 'model') yield 'a model image of this project: no processor can run it';
	else if (volumes.length === 0) yield 'no firmware volume: perhaps only a part of an image, and so is the digest';
	if (volumes.some(({ kind }) => kind === 'variables')) {
		yield 'variables are within the measured bytes: a variable written to this file changes the launch digest';
	}
	for (const { offset, checksumOk } of volumes) {
		if (!checksumOk) yield `firmware volume at ${hex(offset)}: its header has a wrong checksum`;
	}
}

function* tableWarnings({ blocks: { table, resetBlock } }: Omit<ImageFacts, 'warnings'>): Generator<string> {
	if (!table.present) {
		yield resetBlock
			? 'no table, but a reset block of older images: no launch secrets, no kernel hashes'
			: 'no table: no launch secrets, no kernel hashes, and SEV-ES guests of one processor only';
		return;
	}
	if (!resetBlock) yield 'no SEV-ES reset block found: SEV-ES guests of one processor only';
	const counts = new Map<string, number>();
	for (const { guid, offset } of table.entries) {
		counts.set(guid, (counts.get(guid) ?? 0) + 1);
		if (tableEntryName(guid) === undefined) yield `entry at ${hex(offset)}: unknown GUID ${guid}`;
	}
	for (const [guid, count] of counts) {
		if (count > 1) yield `${count} entries ${guid}: VMMs take the first that they visit`;
	}
	const left = table.totalLength - FOOTER - table.entries.reduce((sum, { length }) => sum + length, 0);
	if (!table.problem && left > 0) yield `${left} bytes of the table belong to no entry`;
}

const overlap = (a: MemoryRange, b: MemoryRange) => a.base < b.base + b.size && b.base < a.base + a.size;

function* areaWarnings({ blocks: { secretBlock, hashBlock } }: Omit<ImageFacts, 'warnings'>): Generator<string> {
	if (secretBlock && secretBlock.base !== 0) {
		if (secretBlock.size < 16) yield `secret area of ${secretBlock.size} bytes: no launch secret fits`;
		else if ((secretBlock.base | secretBlock.size) % 16 !== 0) {
			yield 'secret area is not in multiples of 16 bytes, as LAUNCH_SECRET wants it';
		}
	}
	if (hashBlock && hashBlock.base !== 0) {
		if (hashBlock.size < HASH_TABLE_SIZE) {
			yield `hash area of ${hashBlock.size} bytes: QEMU needs ${HASH_TABLE_SIZE} and refuses direct boot`;
		}
		if (secretBlock && secretBlock.base !== 0 && overlap(secretBlock, hashBlock)) {
			yield 'secret area and hash area overlap: a launch secret may replace the measured hashes';
		}
	}
}

function* migrationWarnings({ migration, helper }: Omit<ImageFacts, 'warnings'>): Generator<string> {
	const { form, hidden } = migration;
	if (form === 'asPosted' || form === 'lengthAsPosted') {
		const names = hidden.map(({ guid }) => tableEntryName(guid) ?? guid);
		yield `migration handler entry as posted (length −22): VMMs stop there and do not find it${
			names.length === 0 ? '' : `, nor ${names.join(', ')}`
		}`;
		if (names.some((name) => name.includes('secret'))) yield 'so launch secrets can not be injected';
		if (names.some((name) => name.includes('hash'))) yield 'so direct boot with kernel-hashes=on is refused';
	}
	if (form === 'guidAsPosted') yield 'migration handler entry has its GUID as posted: VMMs do not find it';
	if (form === 'corrected' && helper.layoutFrom === 'built-in') {
		yield 'a migration handler, but not where its memory is: a VMM must be built with the same addresses';
	}
}
