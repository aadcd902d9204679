import { createConnection, type Socket } from 'node:net';
import { connectQmp, type DuplexPort, type QmpClient } from '../client.js';
import type { QmpSchema, qmpSchema } from '../schema.js';
import { parseQmpAddress } from './address.js';

const portOf = (socket: Socket): DuplexPort => ({
	write: (data) => {
		socket.write(data);
	},
	close: () => socket.destroy(),
	listen: ({ data, end }) => {
		let failure: Error | undefined;
		socket.on('data', data);
		socket.on('error', (error) => {
			failure = error;
		});
		socket.on('close', () => end(failure));
	},
});

/**
 * Connects to `unix:PATH` or `tcp:127.0.0.1:PORT`, waits for the greeting and negotiates.
 *
 * @throws QmpAddressError for another form or a host that is not loopback
 * @throws QmpConnectionError (rejects) if nobody listens or it is not QMP
 */
export async function connectQmpSocket<S extends QmpSchema = typeof qmpSchema>(where: string): Promise<QmpClient<S>> {
	const address = parseQmpAddress(where);
	return connectQmp<S>(portOf(createConnection(address.type === 'unix' ? { path: address.path } : address)));
}
