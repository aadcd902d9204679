/** What a guest owner makes of certificates that came out of the device. */
import { readFileSync } from 'node:fs';
import { nodeProvider } from '@cvm/crypto/node';
import { createKeyServer } from '@cvm/sev-hw/fake-amd';
import { statusName, verifyPlatform } from '@cvm/sev-hw/owner';

const server = createKeyServer(nodeProvider);
const read = (path: string) => new Uint8Array(readFileSync(path));

/** `SUCCESS` if both chains hold for the chip whose id is in the file `id`, or which certificate failed and how. */
export function verdict(id: string, pdh: string, chain: string): string {
	const { status, failed } = verifyPlatform(nodeProvider, {
		pdh: read(pdh),
		chain: read(chain),
		cek: server.cek(read(id)),
		askArk: server.askArk(),
		trust: 'fake',
	});
	return failed === undefined ? statusName(status) : `${failed}: ${statusName(status)}`;
}
