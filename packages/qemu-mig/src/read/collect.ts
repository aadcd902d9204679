import type { Place, RecordPlace, StreamHandler } from '../events.js';
import type { StreamEvent } from './stream-event.js';

const placed = ({ offset, length, section, inBody, packaged }: Place): Place => ({
	offset,
	length,
	section,
	inBody,
	packaged,
});
const recorded = (at: RecordPlace): RecordPlace => ({ ...placed(at), continued: at.continued });

/** A handler that makes an event of every callback. `keep` returns bytes that stay valid after the callback. */
export const collectEvents = (
	emit: (event: StreamEvent) => void,
	keep: (data: Uint8Array) => Uint8Array,
): Required<Omit<StreamHandler, 'zeroPages'>> => ({
	header: (version, at) => emit({ type: 'header', version, at: placed(at) }),
	configuration: (configuration, at) => emit({ type: 'configuration', configuration, at: placed(at) }),
	sectionBegin: (section, at) => emit({ type: 'sectionBegin', section, at: placed(at) }),
	blockList: (blocks, total, at) => emit({ type: 'blockList', blocks, total, at: recorded(at) }),
	rawPage: (block, address, page, at) => emit({ type: 'rawPage', block, address, page: keep(page), at: recorded(at) }),
	zeroPage: (block, address, fill, at) => emit({ type: 'zeroPage', block, address, fill, at: recorded(at) }),
	encodedPage: (kind, block, address, data, at) =>
		emit({ type: 'encodedPage', kind, block, address, data: keep(data), at: recorded(at) }),
	encryptedPage: (block, address, header, payload, at, prefix) => {
		const bytes = { header: keep(header), payload: keep(payload) };
		emit({ type: 'encryptedPage', block, address, ...bytes, prefix, at: recorded(at) });
	},
	migrationHelperPage: (block, address, header, page, at, subtype) => {
		const bytes = { header: keep(header), page: keep(page) };
		emit({ type: 'migrationHelperPage', block, address, ...bytes, subtype, at: recorded(at) });
	},
	sharedRegions: (block, address, regions, terminator, at) =>
		emit({ type: 'sharedRegions', block, address, regions, terminator, at: recorded(at) }),
	hostRegions: (block, address, list, at) => emit({ type: 'hostRegions', block, address, list, at: recorded(at) }),
	encryptedBitmap: (block, address, slots, at) =>
		emit({ type: 'encryptedBitmap', block, address, slots, at: recorded(at) }),
	multifdFlush: (address, at) => emit({ type: 'multifdFlush', address, at: recorded(at) }),
	endOfRecords: (address, at) => emit({ type: 'endOfRecords', address, at: recorded(at) }),
	mappedListBegin: (total, at) => emit({ type: 'mappedListBegin', total, at: recorded(at) }),
	mappedBlock: (block, bitmap, at) => emit({ type: 'mappedBlock', block, bitmap: keep(bitmap), at: recorded(at) }),
	mappedGap: (data, at) => emit({ type: 'mappedGap', data: keep(data), at: recorded(at) }),
	mappedPage: (block, address, page, present, at) =>
		emit({ type: 'mappedPage', block, address, page: keep(page), present, at: recorded(at) }),
	mappedListEnd: (blocks, total, at) => emit({ type: 'mappedListEnd', blocks, total, at: recorded(at) }),
	opaqueBody: (section, body, at) => emit({ type: 'opaqueBody', section, body: keep(body), at: placed(at) }),
	sectionEnd: (section, at) => emit({ type: 'sectionEnd', section, at: placed(at) }),
	command: (command, data, at) => emit({ type: 'command', command, data: keep(data), at: placed(at) }),
	packageBegin: (length, at) => emit({ type: 'packageBegin', length, at: placed(at) }),
	packageEnd: (at) => emit({ type: 'packageEnd', at: placed(at) }),
	ramDiscard: (block, ranges, at) => emit({ type: 'ramDiscard', block, ranges, at: placed(at) }),
	eof: (at) => emit({ type: 'eof', at: placed(at) }),
	vmDescription: (json, at) => emit({ type: 'vmDescription', json: keep(json), at: placed(at) }),
	trailing: (data, at) => emit({ type: 'trailing', data: keep(data), at: placed(at) }),
});
