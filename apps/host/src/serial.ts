import { closeSync, openSync, writeSync } from 'node:fs';
import { strerror } from './migration/uri.js';
import { type HostOptions, UsageError } from './options.js';

/** Where the guest's serial port goes. */
export interface SerialOutput {
	write(byte: number): void;
	close(): void;
}

/** @throws UsageError if the file can not be opened */
export function openSerial(where: HostOptions['serial']): SerialOutput {
	if (where === 'none') return { write: () => undefined, close: () => undefined };
	let fd = 1;
	if (where !== 'stdio') {
		try {
			fd = openSync(where.file, 'w');
		} catch (error) {
			throw new UsageError(`-serial: could not open '${where.file}': ${strerror(error)}`);
		}
	}
	return {
		write: (byte) => {
			try {
				writeSync(fd, Uint8Array.of(byte));
			} catch {
				// A console that can not be written loses text; that is no reason to stop a guest.
			}
		},
		close: () => {
			if (fd !== 1) closeSync(fd);
		},
	};
}
