import type { StreamHandler } from '../events.js';
import type { StreamWriter } from './writer.js';

/**
 * A handler that writes every event again: from a reader to a writer, the bytes are the same. Spread it and replace
 * single events to rewrite a stream.
 */
export const createRelay = (writer: StreamWriter): Required<Omit<StreamHandler, 'zeroPages'>> => ({
	header: (version) => writer.header(version),
	configuration: (configuration) => writer.configuration(configuration),
	sectionBegin: (section) => writer.sectionBegin(section),
	blockList: (blocks, _total, at) => writer.blockList(blocks, at.continued),
	rawPage: (block, address, page, at) => writer.rawPage(block, address, page, at.continued),
	zeroPage: (block, address, fill, at) => writer.zeroPage(block, address, fill, at.continued),
	encryptedPage: (block, address, header, payload, at, prefix) =>
		writer.encryptedPage(block, address, header, payload, prefix, at.continued),
	sharedRegions: (block, address, regions, terminator, at) =>
		writer.sharedRegions(block, address, regions, terminator, at.continued),
	encodedPage: (kind, block, address, data, at) => writer.encodedPage(kind, block, address, data, at.continued),
	multifdFlush: (address, at) => writer.multifdFlush(address, at.continued),
	migrationHelperPage: (block, address, header, page, at, subtype) =>
		writer.migrationHelperPage(block, address, header, page, subtype, at.continued),
	encryptedBitmap: (block, address, slots, at) => writer.encryptedBitmap(block, address, slots, at.continued),
	hostRegions: (block, address, list, at) => writer.hostRegions(block, address, list, at.continued),
	mappedListBegin: (total, at) => writer.mappedListBegin(total, at.continued),
	mappedBlock: (block, bitmap) => writer.mappedBlock(block, bitmap),
	mappedGap: (data) => writer.mappedGap(data),
	mappedPage: (_block, _address, page) => writer.mappedPage(page),
	mappedListEnd: () => {},
	endOfRecords: (address, at) => writer.endOfRecords(address, at.continued),
	opaqueBody: (_section, body) => writer.opaqueBody(body),
	sectionEnd: (section) => writer.sectionEnd(section),
	command: (command, data) => writer.command(command, data),
	// The command before each of these said it all.
	packageBegin: () => {},
	packageEnd: () => {},
	ramDiscard: () => {},
	eof: () => writer.eof(),
	vmDescription: (json) => writer.vmDescription(json),
	trailing: (data) => writer.trailing(data),
});
