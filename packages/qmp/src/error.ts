/** Error classes of QMP (qemu 7.2 qapi/error.json). */
export const QmpErrorClass = {
	genericError: 'GenericError',
	commandNotFound: 'CommandNotFound',
	deviceNotActive: 'DeviceNotActive',
	deviceNotFound: 'DeviceNotFound',
	kvmMissingCap: 'KVMMissingCap',
} as const;
export type QmpErrorClass = (typeof QmpErrorClass)[keyof typeof QmpErrorClass];

/** An error answer of QMP: thrown by a handler it becomes the reply, and a client's `execute` rejects with it. */
export class QmpError extends Error {
	override readonly name = 'QmpError';
	/** The class as it stands on the wire. A client keeps a class it does not know. */
	readonly code: string;

	constructor(code: QmpErrorClass | (string & {}), desc: string) {
		super(desc);
		this.code = code;
	}
}

/** The connection to a QMP server ended, or what it sent is not QMP. */
export class QmpConnectionError extends Error {
	override readonly name = 'QmpConnectionError';
	readonly code: 'closed' | 'protocol';

	constructor(code: 'closed' | 'protocol', message: string, options?: { cause?: unknown }) {
		super(message, options);
		this.code = code;
	}
}

/** Whether an error is a {@link QmpError}, also of another copy of this package. */
export const isQmpError = (error: unknown): error is QmpError => error instanceof Error && error.name === 'QmpError';
