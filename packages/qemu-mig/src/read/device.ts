import type { SectionInfo } from '../events.js';
import type { Parse, StreamCursor } from './cursor.js';
import { findFooter } from './footer-scan.js';
import type { ReaderOptions } from './options.js';

/** Reads the body of a section other than `ram`, whose length the stream does not say, up to its footer. */
export class DeviceReader {
	readonly #cursor: StreamCursor;
	readonly #sections: ReadonlyMap<number, SectionInfo>;
	readonly #options: ReaderOptions;

	/** `sections`: those introduced so far, by id. */
	constructor(cursor: StreamCursor, sections: ReadonlyMap<number, SectionInfo>, options: ReaderOptions) {
		this.#cursor = cursor;
		this.#sections = sections;
		this.#options = options;
	}

	*body(section: SectionInfo): Parse {
		const cursor = this.#cursor;
		cursor.mark();
		const told = this.#options.deviceLength?.(section.idstr, section.instanceId, section.version);
		if (told === undefined && this.#options.sectionFooters === false) {
			const message = 'device section: expected a known length where there are no footers, got none';
			throw cursor.fail({ code: 'unsupported', message });
		}
		const length = told ?? (yield* this.#lengthToFooter(section.id));
		this.#checkDeviceLength(length);
		const body = yield* cursor.take(length);
		this.#options.handler.opaqueBody?.(section, body, cursor.place);
	}

	*#lengthToFooter(id: number): Parse<number> {
		const cursor = this.#cursor;
		const { window } = cursor;
		const isKnown = (other: number): boolean => this.#sections.has(other);
		const descriptionLimit = cursor.limits.vmDescription;
		let scanned = 0;
		for (let more = true; ; ) {
			const context = { id, isKnown, descriptionLimit, ended: !more };
			const result = findFooter(window.view, window.at + scanned, window.end, context);
			scanned = result.at - window.at;
			if (result.found) return scanned;
			if (!more || scanned > cursor.limits.deviceBody) {
				// Nothing that can follow does: perhaps this is the last section, and what comes after EOF no description.
				const last = findFooter(window.view, window.at, window.end, { ...context, ended: false, anyTail: true });
				if (last.found) return last.at - window.at;
			}
			this.#checkDeviceLength(scanned);
			// Without a footer the body has no end: wait for one byte more than there can be.
			if (!more) yield* cursor.need(window.end - window.at + 1);
			more = yield* this.#anyMore();
		}
	}

	/** Takes the whole next chunk into the window; false when there is none. */
	*#anyMore(): Parse<boolean> {
		while (!this.#cursor.window.pull(Number.MAX_SAFE_INTEGER)) {
			if (this.#cursor.ended) return false;
			yield;
		}
		return true;
	}

	#checkDeviceLength(length: number): void {
		const limit = this.#cursor.limits.deviceBody;
		if (length <= limit) return;
		throw this.#cursor.fail({
			code: 'too-large',
			message: `device section: expected at most ${limit} bytes, got ${length} without a footer`,
		});
	}
}
