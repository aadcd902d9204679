import { PAGE_SIZE } from '@cvm/layout';
import { isCodecError } from '../codec/error.js';
import type { Dialect } from '../dialect.js';
import { isStreamError } from '../error.js';
import type { StreamHandler } from '../events.js';
import { checkConfiguration } from '../load/configuration-check.js';
import { RamLoader } from '../load/ram.js';
import type { RamBlock } from '../ports.js';
import { capabilitiesOf } from '../read/configuration.js';
import { ImageBuilder } from './builder.js';
import type { StreamImage } from './content.js';
import { isImageError } from './error.js';
import type { ImageInputs } from './input.js';
import type { OpenOptions } from './open.js';
import { readInputs } from './open.js';
import { PageKind } from './page-kind.js';
import { checkImage, finding } from './verify-checks.js';
import type { Finding } from './verify-rules.js';

/** Options of {@link verifyStream}. */
export interface VerifyOptions extends Omit<OpenOptions, 'store' | 'facts' | 'check'> {
	/**
	 * Say what a target of this dialect would: the stream is read as one, with its checks, and findings have QEMU's texts.
	 * Capability `compress` is then off unless `compress` is true.
	 */
	readonly as?: Dialect;
	/** The target's machine, as far as it is known. */
	readonly target?: {
		readonly machineType?: string;
		readonly uuid?: Uint8Array;
		readonly blocks?: readonly RamBlock[];
	};
	/** Findings at most. Default 1000. */
	readonly limit?: number;
}

/** What {@link verifyStream} found. */
export interface Verification {
	/** By input and offset; those without a place last. */
	readonly findings: readonly Finding[];
	/** Findings beyond the limit. */
	readonly more: number;
	/** What was read, without page contents, and without offsets of pages unless there are multifd channels. */
	readonly image: StreamImage;
	/** Whether the stream was read to its end. */
	readonly complete: boolean;
}

/** Bytes of a packet header of the SEV firmware. SEV API 0.24 §6.12 (SEND_UPDATE_DATA). */
const FIRMWARE_HEADER = 52;

/** Collects findings up to a limit. */
class Findings {
	readonly list: Finding[] = [];
	more = 0;
	readonly #limit: number;

	constructor(limit: number) {
		this.#limit = limit;
	}

	add(found: Finding): void {
		if (this.list.length < this.#limit) this.list.push(found);
		else this.more += 1;
	}
}

/**
 * Checks a stream, its syntax and whether it makes sense as a whole. Page contents are not kept: memory is what facts need.
 * A fault of syntax ends reading; what only a whole stream can tell is then not checked.
 *
 * @throws only what sources throw
 */
export async function verifyStream(inputs: ImageInputs, options: VerifyOptions = {}): Promise<Verification> {
	const { as, target, limit = 1000, ...open } = options;
	const findings = new Findings(limit);
	const builder = new ImageBuilder({ ramLimit: options.ramLimit });
	builder.frugal = true;
	builder.wrap = (handler) => withChecks(handler, builder, findings, target);
	let complete = false;
	try {
		await readInputs(
			inputs,
			as === undefined ? open : { compress: false, ...open, dialect: as, check: 'target' },
			builder,
		);
		complete = true;
	} catch (error) {
		findings.add({ ...faultOf(error), ...(builder.input > 0 && { input: builder.input }) });
	}
	for (const cut of builder.cuts) findings.add(cutOf(cut));
	const image = builder.finish();
	if (complete) for (const found of checkImage(image)) findings.add(found);
	return { findings: sorted(findings.list), more: findings.more, image, complete };
}

/** An error that ended reading, as a finding. */
function faultOf(error: unknown): Finding {
	if (isStreamError(error)) {
		const { code, offset, section, message, qemu, strerror } = error;
		const place = { offset, ...(section === undefined ? {} : { section }) };
		return { rule: `stream/${code}`, severity: 'error', text: withoutPlace(message), ...place, qemu, strerror };
	}
	if (isCodecError(error)) {
		const { code, offset, message, qemu } = error;
		return { rule: `codec/${code}`, severity: 'error', text: withoutPlace(message), offset, qemu };
	}
	if (isImageError(error)) return { rule: `input/${error.code}`, severity: 'error', text: error.message };
	throw error;
}

/** What a target says when a connection of postcopy breaks: its guest runs, and it waits for another. */
export const POSTCOPY_PAUSED = 'Detected IO failure for postcopy. Migration paused.';

/** A connection that broke and that another one continues. QEMU 7.2 migration/savevm.c `postcopy_pause_incoming`. */
function cutOf({ error, input, urgent }: ImageBuilder['cuts'][number]): Finding {
	const { offset, section, message, qemu } = error;
	const place = { offset, input, ...(section === undefined ? {} : { section }) };
	const text = `${withoutPlace(message)}; postcopy pauses`;
	// Of the channel of urgent pages it says nothing.
	return { ...finding('postcopy/cut', text, place), ...(!urgent && { qemu: [...qemu, POSTCOPY_PAUSED] }) };
}

/** Errors begin with their place, which a finding has apart. */
const withoutPlace = (message: string): string => message.replace(/^offset \d+( \([^)]*\))?: /, '');

/** What only the single records tell. */
function withChecks(
	handler: StreamHandler,
	builder: ImageBuilder,
	findings: Findings,
	target: VerifyOptions['target'],
): StreamHandler {
	const blocks = target?.blocks;
	const loader = blocks && new RamLoader({ blocks, plainPage: () => {}, zeroPage: () => {} });
	let oddHeader = false;
	return {
		...handler,
		configuration(configuration, at) {
			handler.configuration?.(configuration, at);
			if (target?.machineType === undefined) return;
			const local = {
				...{ machineType: target.machineType, handover: false, ...(target.uuid && { uuid: target.uuid }) },
				// Whether it is on there is not known.
				...(builder.dialect === 'qemu-9' && { mappedRam: capabilitiesOf(configuration).includes('mapped-ram') }),
			};
			for (const text of checkConfiguration(configuration, local, at)) {
				findings.add({ ...finding('config/target', text, { offset: at.offset }), severity: 'warning', qemu: [text] });
			}
		},
		blockList(list, total, at) {
			for (const { idstr } of list) {
				if (builder.blocks.find(idstr) === undefined) continue;
				findings.add(
					finding('ram/listed-again', `block '${idstr}' is listed again`, { offset: at.offset, section: 'ram' }),
				);
			}
			handler.blockList?.(list, total, at);
			loader?.blockList(list, at);
		},
		mappedBlock(block, bitmap, at) {
			handler.mappedBlock?.(block, bitmap, at);
			loader?.blockList([block], at);
		},
		encodedPage(kind, name, address, data, at) {
			if (kind === 'xbzrle') {
				const place = { offset: at.offset, section: 'ram' };
				const where = `page 0x${address.toString(16)} of '${name}'`;
				const before = builder.blocks.find(name)?.facts.kindAt(address / PAGE_SIZE);
				if (before === PageKind.unsent)
					findings.add(finding('ram/delta-base', `${where} was never sent before`, place));
				if (data.length === 0) findings.add(finding('ram/delta-empty', `${where}: the delta is empty`, place));
			}
			handler.encodedPage?.(kind, name, address, data, at);
		},
		encryptedPage(name, address, header, payload, at, prefix) {
			handler.encryptedPage?.(name, address, header, payload, at, prefix);
			if (oddHeader || header.length === FIRMWARE_HEADER) return;
			oddHeader = true;
			const text = `the header has ${header.length} bytes; others are not reported`;
			findings.add(finding('sealed/header', text, { offset: at.offset, section: 'ram' }));
		},
	};
}

const sorted = (findings: readonly Finding[]): Finding[] => {
	const key = ({ input = 0, offset = Number.POSITIVE_INFINITY }: Finding): [number, number] => [input, offset];
	return [...findings].sort((a, b) => {
		const [[inputA, offsetA], [inputB, offsetB]] = [key(a), key(b)];
		return inputA - inputB || (offsetA === offsetB ? 0 : offsetA - offsetB);
	});
};
