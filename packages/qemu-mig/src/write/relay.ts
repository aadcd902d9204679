import type { StreamHandler } from '../events.js';
import type { StreamWriter } from './writer.js';

/**
 * A handler that writes every event again: from a reader to a writer, the bytes are the same. Spread it and replace
 * single events to rewrite a stream.
 */
export const createRelay = (writer: StreamWriter): Required<StreamHandler> => ({
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
	endOfRecords: (address, at) => writer.endOfRecords(address, at.continued),
	opaqueBody: (_section, body) => writer.opaqueBody(body),
	sectionEnd: (section) => writer.sectionEnd(section),
	command: (command, data) => writer.command(command, data),
	eof: () => writer.eof(),
	vmDescription: (json) => writer.vmDescription(json),
	trailing: (data) => writer.trailing(data),
});
