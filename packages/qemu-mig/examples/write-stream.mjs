// Writes a stream that `qemu-system-x86_64 -machine none -m 1M -incoming "exec:cat FILE"` takes: node write-stream.mjs FILE
import { writeFileSync } from 'node:fs';
import { describeSections, StreamWriter } from '@cvm/qemu-mig';

const chunks = [];
const writer = new StreamWriter({ write: (chunk) => void chunks.push(chunk.slice()) });
const ram = { id: 2, idstr: 'ram', instanceId: 0, version: 4 };
const section = (type, body) => {
	writer.sectionBegin({ ...ram, type });
	body();
	writer.endOfRecords();
	writer.sectionEnd({ ...ram, type });
};
writer.header();
writer.configuration({ machineType: 'none', subsections: [] });
section(1, () => writer.blockList([{ idstr: 'ram', usedLength: 2 ** 20 }]));
section(3, () => {
	for (let at = 0; at < 2 ** 20; at += 4096) writer.rawPage('ram', at, new Uint8Array(4096).fill(at >> 12));
});
writer.eof();
writer.vmDescription(describeSections([]));
await writer.flush();
writeFileSync(process.argv[2], Buffer.concat(chunks));
