import { PAGE_SIZE } from '@cvm/layout';
import {
	Command,
	HANDOVER_CAPABILITY,
	IGNORE_SHARED_CAPABILITY,
	MAPPED_RAM_CAPABILITY,
	RegionListWord,
	SectionType,
} from '../abi/stream.js';
import { DIALECTS, hasHelper } from '../dialect.js';
import type { ImageBlock, StreamImage } from './content.js';
import { eachDevice } from './devices.js';
import { memoryMap } from './memory-map.js';
import { PageKind } from './page-kind.js';
import type { Finding, VerifyRule } from './verify-rules.js';
import { VERIFY_RULES } from './verify-rules.js';
import { isIgnored } from './write-ram.js';

/** Where a finding lies. */
type FindingPlace = Pick<Finding, 'offset' | 'input' | 'section'>;

/** Makes a finding of a rule. */
export const finding = (rule: VerifyRule, text: string, place: FindingPlace = {}): Finding => ({
	rule,
	severity: VERIFY_RULES[rule][0],
	text,
	...place,
});

const KNOWN_CAPABILITIES = [IGNORE_SHARED_CAPABILITY, MAPPED_RAM_CAPABILITY, HANDOVER_CAPABILITY];
const hex = (value: number | bigint): string => `0x${value.toString(16)}`;
const FOUR_GIB_FRAMES = 2 ** 32 / PAGE_SIZE;

/** Everything that can be said of a stream that was read to its end. */
export function* checkImage(image: StreamImage): Generator<Finding, void, void> {
	yield* checkConfigurationOf(image);
	yield* checkPages(image);
	yield* checkSections(image);
	yield* checkDevices(image);
	yield* checkDescription(image);
	yield* checkStatus(image);
	yield* checkChannels(image);
	if ((image.end?.trailing ?? 0) > 0) yield finding('tail/trailing', `${image.end?.trailing} bytes follow the stream`);
}

function* checkConfigurationOf(image: StreamImage): Generator<Finding, void, void> {
	if (image.configuration?.machineType === '') yield finding('config/machine', 'the machine type is empty');
	for (const name of image.capabilities) {
		if (!KNOWN_CAPABILITIES.includes(name)) yield finding('config/capability', `capability '${name}' is not known`);
	}
}

function* checkPages(image: StreamImage): Generator<Finding, void, void> {
	for (const block of image.blocks) {
		const { idstr, usedLength } = block;
		if (usedLength % PAGE_SIZE !== 0) yield finding('ram/length', `block '${idstr}' has ${usedLength} bytes`);
		if (isIgnored(image, block)) continue;
		yield* missing(block);
	}
	if (image.counts.filled > 0) {
		yield finding('ram/fill', `${image.counts.filled} ZERO records have another fill byte than 0`);
	}
}

function* missing(block: ImageBlock): Generator<Finding, void, void> {
	const found = new Map<PageKind, { rule: VerifyRule; what: string; pages: number; first: number }>([
		[PageKind.unsent, { rule: 'ram/page-missing', what: 'never sent', pages: 0, first: 0 }],
		[PageKind.discarded, { rule: 'ram/page-discarded', what: 'discarded and not sent again', pages: 0, first: 0 }],
	]);
	for (const run of block.facts.runs()) {
		const one = found.get(run.kind);
		if (one === undefined) continue;
		if (one.pages === 0) one.first = run.start;
		one.pages += run.end - run.start;
	}
	for (const { rule, what, pages, first } of found.values()) {
		if (pages === 0) continue;
		yield finding(rule, `block '${block.idstr}': ${pages} pages were ${what}, first ${hex(first * PAGE_SIZE)}`);
	}
}

function* checkSections(image: StreamImage): Generator<Finding, void, void> {
	const { sections, devices, commands } = image;
	if (sections.length === 0) yield finding('ram/none', 'there is no ram section');
	const end = sections.find(({ section }) => section.type === SectionType.end);
	if (sections.length > 0 && end === undefined) yield finding('ram/end', 'ram has no END section', { section: 'ram' });
	const last = sections.at(-1);
	if (end !== undefined && last !== undefined && last !== end) {
		yield finding('ram/after-end', 'ram goes on after its END section', { offset: last.offset, section: 'ram' });
	}
	for (const { section, offset, packaged, input } of devices) {
		if (packaged || image.postcopy || last === undefined || section.type !== SectionType.full) continue;
		if (input !== last.input || offset > last.offset) continue;
		const text = `'${section.idstr}' comes before the last of RAM`;
		yield finding('order/device-before-ram', text, { offset, section: section.idstr });
	}
	yield* checkMessages(image);
	const has = (wanted: number): boolean => commands.some(({ command }) => command === wanted);
	if (has(Command.postcopyListen) && !has(Command.postcopyRun)) {
		yield finding('postcopy/run', 'POSTCOPY_LISTEN has no POSTCOPY_RUN');
	}
}

function* checkMessages({ commands, capabilities, dialect }: StreamImage): Generator<Finding, void, void> {
	const first = commands.find(({ command }) => command === Command.helperMessage);
	if (first === undefined) return;
	const { offset, input } = first;
	const wrong = hasHelper(DIALECTS[dialect]) ? 'without a hand-over' : `in dialect ${dialect}`;
	if (wrong !== 'without a hand-over' || !capabilities.includes(HANDOVER_CAPABILITY)) {
		yield finding('helper/message', `a message of the in-guest helper comes ${wrong}`, {
			offset,
			...(input > 0 && { input }),
		});
	}
}

function* checkDevices(image: StreamImage): Generator<Finding, void, void> {
	const seen = new Set<string>();
	const ids = new Map<number, string>();
	if (image.ramSection !== undefined) ids.set(image.ramSection.id, 'ram');
	for (const { section, offset } of image.devices) {
		if (section.type !== SectionType.full && section.type !== SectionType.start) continue;
		const { id, idstr, instanceId } = section;
		const place = { offset, section: idstr };
		const key = `${instanceId} ${idstr}`;
		if (seen.has(key)) yield finding('device/duplicate', `'${idstr}' instance ${instanceId} comes again`, place);
		seen.add(key);
		const user = ids.get(id);
		if (user !== undefined) yield finding('section/id', `id ${id} of '${idstr}' is that of '${user}' too`, place);
		ids.set(id, idstr);
	}
}

function* checkDescription(image: StreamImage): Generator<Finding, void, void> {
	const { description, devices } = image;
	if (description === undefined) {
		// A target only warns; in postcopy none is sent.
		if (!image.postcopy) yield finding('description/none', 'no description follows EOF');
		return;
	}
	const { offset, parsed, problem } = description;
	if (parsed === undefined) {
		yield finding('description/syntax', problem ?? 'the description cannot be parsed', { offset });
		return;
	}
	if (parsed.pageSize !== PAGE_SIZE) {
		yield finding('description/page-size', `the description has pages of ${parsed.pageSize} bytes`, { offset });
	}
	const full = devices.filter(({ section }) => section.type === SectionType.full);
	const described = (idstr: string, id: number): boolean =>
		parsed.devices.some((device) => device.idstr === idstr && device.instanceId >>> 0 === id >>> 0);
	for (const { idstr, instanceId } of parsed.devices) {
		const present = full.some(
			({ section }) => section.idstr === idstr && section.instanceId >>> 0 === instanceId >>> 0,
		);
		if (!present)
			yield finding('description/extra', `'${idstr}' instance ${instanceId} is described but not sent`, { offset });
	}
	for (const { device, problem: why } of eachDevice(image)) {
		if (why === undefined) continue;
		const { idstr, instanceId } = device.section;
		const rule = described(idstr, instanceId) ? 'description/body' : 'description/absent';
		yield finding(rule, why, { offset: device.bodyOffset, section: idstr });
	}
}

function* checkStatus(image: StreamImage): Generator<Finding, void, void> {
	const { pageStatus: status, counts } = image;
	if (status === undefined) {
		if (counts.encrypted > 0)
			yield finding('status/none', `${counts.encrypted} encrypted pages, but no list of shared ones`);
		return;
	}
	const place = { offset: status.offset, section: 'ram' };
	if (status.kind === 'regions' && status.terminator !== RegionListWord.end) {
		yield finding('status/terminator', `the list ends with ${status.terminator}`, place);
	}
	if (status.kind === 'bitmap') return;
	const regions = (status.kind === 'regions' ? status.regions : status.list.regions).map(({ gfnStart, gfnEnd }) => ({
		start: Number(gfnStart),
		end: Number(gfnEnd),
	}));
	const top = topFrame(image);
	let before = 0;
	for (const { start, end } of regions) {
		const text = `range ${hex(start)}..${hex(end)}`;
		if (start >= end) yield finding('status/range', `${text} is empty`, place);
		if (top !== undefined && end > top) yield finding('status/outside', `${text} ends beyond frame ${hex(top)}`, place);
		if (start < before) yield finding('status/order', `${text} comes after one that starts higher`, place);
		before = start;
	}
	yield* contradictions(image, regions, place);
}

const mainBlock = (image: StreamImage): ImageBlock | undefined =>
	image.blocks.find(({ idstr }) => idstr === 'pc.ram') ?? image.blocks[0];

/**
 * First frame that can hold neither RAM nor firmware. Below 4 GiB there are devices and flash, which a guest may share.
 */
function topFrame(image: StreamImage): number | undefined {
	const block = mainBlock(image);
	const map = memoryMap(image.configuration?.machineType ?? '', block?.usedLength ?? 0);
	const last = map?.at(-1);
	return last === undefined ? undefined : Math.max(FOUR_GIB_FRAMES, (last.address + last.length) / PAGE_SIZE);
}

/** Pages that went encrypted although they are shared. The SEV trees take the offset in the block for the address. */
function* contradictions(
	image: StreamImage,
	regions: readonly { readonly start: number; readonly end: number }[],
	place: FindingPlace,
): Generator<Finding, void, void> {
	const block = mainBlock(image);
	if (block === undefined) return;
	let pages = 0;
	for (const run of block.facts.runs()) {
		if (run.kind !== PageKind.encrypted) continue;
		for (const { start, end } of regions) pages += Math.max(0, Math.min(run.end, end) - Math.max(run.start, start));
	}
	if (pages > 0) {
		yield finding(
			'status/contradiction',
			`${pages} pages of '${block.idstr}' are encrypted, but in shared ranges`,
			place,
		);
	}
}

function* checkChannels(image: StreamImage): Generator<Finding, void, void> {
	const { multifd } = image;
	if (multifd === undefined) return;
	const { channels, barriers } = multifd;
	const numbers = channels.map(({ channel }) => channel).sort((a, b) => a - b);
	if (numbers.some((number, i) => number !== i)) {
		yield finding('multifd/channel', `channels are numbered ${numbers.join(', ')}`);
	}
	const uuid = image.configuration?.subsections.find(({ name }) => name === 'configuration/uuid')?.data;
	for (const { input, channel, uuid: own, syncs, deviceStates } of channels) {
		if (uuid !== undefined && own.some((byte, i) => byte !== uuid[i])) {
			yield finding('multifd/uuid', `channel ${channel} has another UUID than the configuration`, { input, offset: 8 });
		}
		if (syncs !== barriers) {
			yield finding('multifd/sync', `channel ${channel} has ${syncs} SYNC packets for ${barriers} barriers`, { input });
		}
		if (deviceStates > 0) {
			yield finding('multifd/device-state', `channel ${channel} has ${deviceStates} packets of device state`, {
				input,
			});
		}
	}
	const packets = channels.reduce((sum, one) => sum + one.packets, 0);
	let last = -1n;
	for (const one of channels) if (one.last > last) last = one.last;
	if (BigInt(packets) !== last + 1n) {
		yield finding('multifd/packets', `there are ${packets} packets, the last with number ${last}`);
	}
}
