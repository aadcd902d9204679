import { StreamError } from '../error.js';
import type { Place, SectionInfo } from '../events.js';
import type { LoaderOptions } from './options.js';
import { describe } from './ram.js';

/** Gives a device its state. @returns its name and instance. @throws StreamError with QEMU's text */
export function loadDevice(options: LoaderOptions, section: SectionInfo, body: Uint8Array, at: Place): string {
	const { idstr, instanceId } = section;
	let answer: 'loaded' | 'unknown';
	try {
		answer = options.device(section, body);
	} catch (cause) {
		const message = `device '${idstr}': expected its state to load, got ${describe(cause)}`;
		throw new StreamError({ code: 'device', message, cause }, at);
	}
	if (answer === 'loaded') return `${idstr}/${instanceId}`;
	const message = `device: expected a local one, got '${idstr}' instance ${instanceId}`;
	const qemu =
		`Unknown savevm section or instance '${idstr}' ${instanceId}. Make sure that your current VM setup ` +
		'matches your saved VM setup, including any hotplugged devices';
	const { offset } = at;
	throw new StreamError({ code: 'section', message, qemu: [qemu] }, { offset, section: at.section, inBody: false });
}
