import { PAGE_SIZE } from '@cvm/layout';
import { SectionType } from '../abi/stream.js';
import type { StreamImage } from '../image/content.js';
import type { KindRun } from '../image/facts.js';
import { PageKind } from '../image/page-kind.js';

/** Bytes that could not be read. */
export interface Gap {
	/** Offset in the stream of the first byte that was not understood. */
	readonly from: number;
	/** Where reading went on; the end of the input if it did not. */
	readonly to: number;
	/** What was wrong at `from`. */
	readonly reason: string;
	/** `idstr` of the section it lies in. */
	readonly section?: string;
	/** What reading went on with; absent at the end of the input. */
	readonly resumedAt?: 'record' | 'element';
	/** The records after the gap did not name their block; this one was assumed. */
	readonly assumedBlock?: string;
	/** The multifd channel it is in; absent: the stream. */
	readonly input?: number;
}

/** Pages that are missing or not certain. Byte offsets in the block. */
export interface LostPages {
	readonly block: string;
	readonly start: number;
	readonly end: number;
	readonly reason: /** No record of them was read. */
		| 'never-received'
		/** Postcopy discarded them, and they were not read again. */
		| 'discarded'
		/** Read after a gap, or right before one: there, but perhaps wrong. */
		| 'recovered';
}

/** Something of the stream's structure that is missing. */
export interface LostPart {
	readonly text: string;
	readonly idstr?: string;
	readonly offset?: number;
}

/** What a damaged stream lacks. */
export interface Missing {
	/** Bytes in gaps. */
	readonly bytes: number;
	readonly pages: readonly LostPages[];
	readonly sections: readonly LostPart[];
}

/** Lists what is missing from an image. `cut`: sections that began and did not end. */
export function listMissing(image: StreamImage, gaps: readonly Gap[], cut: readonly LostPart[]): Missing {
	return {
		bytes: gaps.reduce((sum, { from, to }) => sum + to - from, 0),
		pages: image.blocks.flatMap((block) =>
			[...block.facts.runs()].flatMap((run) => {
				const reason = reasonOf(run);
				if (reason === undefined) return [];
				return [{ block: block.idstr, start: run.start * PAGE_SIZE, end: run.end * PAGE_SIZE, reason }];
			}),
		),
		sections: [...structure(image), ...cut, ...describedOnly(image)],
	};
}

function reasonOf({ kind, recovered }: KindRun): LostPages['reason'] | undefined {
	if (kind === PageKind.unsent) return 'never-received';
	if (kind === PageKind.discarded) return 'discarded';
	return recovered ? 'recovered' : undefined;
}

function structure(image: StreamImage): LostPart[] {
	const parts: LostPart[] = [];
	if (image.configuration === undefined) parts.push({ text: 'the configuration' });
	if (image.blocks.length === 0 || image.blocks.some(({ listed }) => !listed)) parts.push({ text: 'the block list' });
	if (!image.sections.some(({ section }) => section.type === SectionType.end))
		parts.push({ text: 'the END section of ram' });
	if (image.end === undefined) parts.push({ text: 'the end of the stream' });
	if (image.description === undefined && !image.postcopy) parts.push({ text: 'the description' });
	return parts;
}

function describedOnly(image: StreamImage): LostPart[] {
	const described = image.description?.parsed?.devices ?? [];
	return described
		.filter(
			({ idstr, instanceId }) =>
				!image.devices.some(({ section }) => section.idstr === idstr && section.instanceId >>> 0 === instanceId >>> 0),
		)
		.map(({ idstr, instanceId }) => ({ text: `device '${idstr}' instance ${instanceId}`, idstr }));
}
