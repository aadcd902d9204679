/**
 * The fake manufacturer's key server over HTTP, for tools that download certificates.
 *
 * ```ts
 * const server = await startKeyServer({ provider: nodeProvider });
 * const cek = await fetch(`${server.url}/cek/id/${chipId}`);
 * await server.close();
 * ```
 *
 * @packageDocumentation
 */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { CryptoProvider } from '@cvm/crypto';
import { createKeyServer } from '../fake-amd/key-server.js';
import { answerKeyRequest } from '../fake-amd/key-service.js';

const LOOPBACK = '127.0.0.1';

/** A server that runs. */
export interface RunningKeyServer {
	/** `http://127.0.0.1:<port>`, without a slash at the end. */
	readonly url: string;
	readonly port: number;
	/** Stops listening, drops connections, and returns when both are done. */
	close(): Promise<void>;
}

/**
 * Starts a server on loopback, and only there. Paths: `answerKeyRequest` of `@cvm/sev-hw/fake-amd`.
 *
 * @param o.port 0, the default, for any free one
 * @throws Error of Node, such as `EADDRINUSE`
 */
export function startKeyServer(o: {
	readonly provider: CryptoProvider;
	readonly port?: number;
}): Promise<RunningKeyServer> {
	const keys = createKeyServer(o.provider);
	const server = createServer(({ method = '', url = '' }, response) => {
		const { status, contentType, body } = answerKeyRequest(keys, method, url);
		response.writeHead(status, { 'content-type': contentType, 'content-length': body.length, connection: 'close' });
		response.end(method === 'HEAD' ? undefined : body);
	});
	const close = () =>
		new Promise<void>((resolve, reject) => {
			server.close((error) => (error ? reject(error) : resolve()));
			server.closeAllConnections();
		});
	return new Promise((resolve, reject) => {
		server.once('error', reject);
		server.listen(o.port ?? 0, LOOPBACK, () => {
			const { port } = server.address() as AddressInfo;
			resolve({ url: `http://${LOOPBACK}:${port}`, port, close });
		});
	});
}
