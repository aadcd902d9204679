import type { Socket } from 'node:net';
import type { SevMiscDevice, UserMemory } from '@cvm/kvm/ccp';
import type { ByteReader } from './byte-reader.js';
import { OPERATION_LIMIT, Operation, operation } from './protocol.js';

/** The memory of the program at the other end of a connection. When that is gone, everything faults. */
function memoryOf(socket: Socket, reader: ByteReader): UserMemory {
	/** Whether the shim did as told. */
	const succeeded = async (): Promise<boolean> => {
		const errno = await reader.read(4);
		return errno !== undefined && errno.readUInt32LE(0) === 0;
	};
	const checkLength = (length: number): void => {
		if (length > OPERATION_LIMIT) throw new RangeError(`length: expected at most ${OPERATION_LIMIT}, got ${length}`);
	};
	return {
		read: async (address, length) => {
			checkLength(length);
			socket.write(operation.encode({ code: Operation.READ, length, address }));
			return (await succeeded()) ? reader.read(length) : undefined;
		},
		write: async (address, data) => {
			checkLength(data.length);
			socket.write(operation.encode({ code: Operation.WRITE, length: data.length, address }));
			socket.write(data);
			return succeeded();
		},
	};
}

/** Runs one ioctl of a program and answers it. */
export async function serveIoctl(
	device: SevMiscDevice,
	socket: Socket,
	reader: ByteReader,
	{ request, argument, flags }: { request: number; argument: bigint; flags: number },
): Promise<void> {
	const ret = await device.open(flags).ioctl(request, argument, memoryOf(socket, reader));
	socket.end(operation.encode({ code: Operation.RESULT, address: BigInt.asUintN(64, BigInt(ret)) }));
}
